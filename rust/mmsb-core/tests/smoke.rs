//! The main job in a few lines: commit, look back, fork, restore, close, open.
#![allow(clippy::unwrap_used)]

mod common;

use mmsb_core::{Batch, Bus, Code, How, Mode, NewPage, Options};

fn page(name: &str, nbytes: u64) -> NewPage<'_> {
    NewPage { name: Some(name), dtype: "", itemsize: 1, shape: &[], nbytes, meta: "", location: 0 }
}

fn how() -> How<'static> {
    How { wait: true, ..How::default() }
}

#[test]
fn commit_look_back_fork_restore_reopen() {
    let _watch = common::watch();
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let bus = Bus::create(&dir, &Options::default()).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage { shape: &[100], ..page("a", 100) });
    batch.create(2, &NewPage { shape: &[100_000], ..page("big", 100_000) });
    assert_eq!(bus.commit(&mut batch, None, &how()).unwrap().epoch, 1);
    let view = bus.view(1).unwrap();
    assert_eq!(bus.write(1, 10, b"hello", &how()).unwrap().epoch, 2);
    assert_eq!(bus.write(2, 50_000, b"world", &how()).unwrap().epoch, 3);
    assert!(!bus.write(2, 50_000, b"world", &how()).unwrap().changed);
    assert_eq!(view.bytes(), &[0; 100]);
    assert_eq!(&bus.view(1).unwrap().bytes()[10..15], b"hello");
    let past = bus.snapshot_at(2).unwrap();
    assert_eq!(past.view(2).unwrap().bytes(), &[0; 100_000][..]);
    assert_eq!(&past.view(1).unwrap().bytes()[10..15], b"hello");
    let digest = bus.snapshot().unwrap().digest().unwrap();
    let fork = bus.fork(&bus.snapshot().unwrap()).unwrap();
    assert_eq!(fork.write(1, 0, b"fork", &how()).unwrap().epoch, 4);
    assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digest);
    assert_ne!(fork.snapshot().unwrap().digest().unwrap(), digest);
    let restored = bus.restore(&past, &how()).unwrap();
    assert_eq!(restored.epoch, 4);
    assert_eq!(bus.snapshot().unwrap().digest().unwrap(), past.digest().unwrap());
    assert_eq!(bus.checkpoint().unwrap(), 4);
    bus.write(1, 0, b"after", &how()).unwrap();
    let digest = bus.snapshot().unwrap().digest().unwrap();
    bus.close().unwrap();
    assert_eq!(bus.write(1, 0, b"x", &how()).unwrap_err().code, Code::Closed);

    let bus = Bus::open(&dir, Mode::ReadWrite, &Options::default(), &mut |_, _| {}).unwrap();
    assert_eq!(bus.epoch(), 5);
    assert_eq!(bus.recovery().unwrap().checkpoint_epoch, Some(4));
    assert_eq!(bus.recovery().unwrap().records, 1);
    assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digest);
    assert!(bus.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    assert_eq!(bus.snapshot_at(0).unwrap().page_count(), 0);
    assert_eq!(bus.snapshot_at(3).unwrap().view(2).unwrap().bytes()[50_000..50_005], *b"world");
    let epochs: Vec<u64> =
        bus.log(0, u64::MAX, true).unwrap().map(|c| c.unwrap().epoch()).collect();
    assert_eq!(epochs, [5, 4, 3, 2, 1]);
}

/// Writes to a bus whenever it hears of a commit to it.
struct Echo(Bus, std::sync::atomic::AtomicBool);

impl tracing::Subscriber for Echo {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn event(&self, _: &tracing::Event<'_>) {
        if !self.1.swap(true, std::sync::atomic::Ordering::Relaxed) {
            self.0.write(1, 4, b"echo", &how()).unwrap();
        }
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_listener_to_events_may_write() {
    let _watch = common::watch();
    let bus = Bus::memory(&Options::default()).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage { shape: &[100], ..page("a", 100) });
    bus.commit(&mut batch, None, &how()).unwrap();
    let echo = Echo(bus.clone(), false.into());
    tracing::subscriber::with_default(echo, || bus.write(1, 0, b"call", &how())).unwrap();
    assert_eq!(&bus.view(1).unwrap().bytes()[..8], b"callecho");
    assert_eq!(bus.epoch(), 3);
}
