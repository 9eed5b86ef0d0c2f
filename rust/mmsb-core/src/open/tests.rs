//! Forks in a directory: what they begin with, and that a failure leaves the parent as it is and no store.

use super::*;
use crate::delta::{Batch, NewPage};
use crate::log::double::Double;
use crate::sequence::How;

fn options() -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(16 << 20),
        seed: Some(3),
        segment_bytes: Some(4096 + 3000),
        ..Options::default()
    }
}

fn other() -> Options {
    Options { seed: Some(4), ..options() }
}

fn how(epoch: u64) -> How<'static> {
    How { time: Some(epoch * 10), wait: true, ..How::default() }
}

/// Ten epochs, a tag at the third.
fn world(bus: &Bus) -> Vec<u128> {
    let mut batch = Batch::new();
    let mut digests = vec![bus.snapshot().unwrap().digest().unwrap()];
    for epoch in 1..=10 {
        batch.clear();
        batch.create(epoch, &NewPage::bytes(&[epoch * 3000]));
        batch.write(1, epoch, &[epoch as u8; 100]);
        if epoch == 3 {
            batch.tag("third", None, false);
        }
        assert_eq!(bus.commit(&mut batch, None, &how(epoch)).unwrap().epoch, epoch);
        digests.push(bus.snapshot().unwrap().digest().unwrap());
    }
    digests
}

fn made() -> (Double, Bus, Vec<u128>) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let bus = Bus::create_on(double.vfs(), Path::new("/s"), &options()).unwrap();
    let digests = world(&bus);
    (double, bus, digests)
}

fn open(double: &Double, mode: Mode) -> Result<Bus> {
    Bus::open_on(double.vfs(), Path::new("/f"), mode, &other(), &mut |_, _| {})
}

#[test]
fn a_fork_begins_with_each_epoch() {
    for in_memory in [false, true] {
        let (double, bus, digests) = made();
        let bus = if in_memory { Bus::memory(&options()).unwrap() } else { bus };
        if in_memory {
            assert_eq!(world(&bus), digests);
        }
        let uuid = bus.inner().store.uuid;
        for (epoch, &digest) in digests.iter().enumerate() {
            let epoch = epoch as u64;
            let dir = PathBuf::from(format!("/f{epoch}"));
            let at = bus.snapshot_at(epoch).unwrap();
            let fork = bus.fork_to_on(double.vfs(), &at, &dir, &other()).unwrap();
            assert_eq!(
                (fork.epoch(), fork.durable_epoch(), fork.mode()),
                (epoch, epoch, Mode::ReadWrite)
            );
            let shown = fork.snapshot().unwrap();
            assert_eq!((shown.digest().unwrap(), shown.next_id()), (digest, epoch + 1));
            assert_eq!(
                (shown.time(), shown.tags(), shown.infos().unwrap()),
                (at.time(), at.tags(), at.infos().unwrap())
            );
            let meta = log::read_meta(&double, &dir).unwrap();
            assert_eq!(meta.parent, Some(Parent { uuid, epoch }));
            assert_eq!((meta.base.seq, meta.base.epoch), (0, epoch));
            assert_ne!(meta.uuid, uuid);
            if epoch > 0 {
                fork.write(1, 0, b"fork", &how(11)).unwrap();
                let error = fork.snapshot_at(epoch - 1).unwrap_err();
                assert!(error.message.contains("ask its parent"), "{error}");
            }
            fork.close().unwrap();
            for mode in [Mode::Read, Mode::ReadWrite] {
                let fork =
                    Bus::open_on(double.vfs(), &dir, mode, &other(), &mut |_, _| {}).unwrap();
                assert_eq!(fork.snapshot_at(epoch).unwrap().digest().unwrap(), digest);
                assert_eq!(fork.verify(&mut |_, _| {}).unwrap().problems.len(), 0);
                assert_eq!(fork.log(0, 99, false).unwrap().count() as u64, fork.epoch() - epoch);
            }
        }
        assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digests[10]);
    }
}

/// Each call fails once: there is no store, or it is whole; what is left of it is in nobody's way.
#[test]
fn every_call_fails() {
    for errno in [5, 28] {
        for nth in 1.. {
            let (double, bus, digests) = made();
            let at = bus.snapshot_at(7).unwrap();
            double.calls();
            double.fail_once(nth, errno);
            let done = bus.fork_to_on(double.vfs(), &at, Path::new("/f"), &other());
            double.heal();
            let calls = double.calls();
            if calls.len() < nth {
                assert_eq!(done.unwrap().epoch(), 7);
                assert!(nth > 30);
                break;
            }
            let failed = &calls[nth - 1];
            let is_made = done.is_ok();
            if let Some(error) = done.err() {
                assert!(
                    matches!(error.code, Code::Storage | Code::OutOfSpace),
                    "{failed}: {error}"
                );
            }
            match open(&double, Mode::Read) {
                Ok(fork) => {
                    assert_eq!(fork.snapshot().unwrap().digest().unwrap(), digests[7], "{failed}");
                    let again = bus.fork_to_on(double.vfs(), &at, Path::new("/f"), &other());
                    assert_eq!(again.unwrap_err().code, Code::BusExists);
                }
                Err(error) => {
                    assert!(!is_made, "{failed}: {error}");
                    assert_eq!(error.code, Code::BusNotFound, "{failed}: {error}");
                    // Another store there knows nothing of it.
                    let new = Bus::create_on(double.vfs(), Path::new("/f"), &other()).unwrap();
                    assert_eq!(new.epoch(), 0);
                    new.close().unwrap();
                    drop(new);
                    let new = open(&double, Mode::ReadWrite).unwrap();
                    assert_eq!(new.verify(&mut |_, _| {}).unwrap().problems.len(), 0, "{failed}");
                    assert!(checkpoint::list(&double, Path::new("/f")).unwrap().is_empty());
                }
            }
            assert_eq!(bus.snapshot_at(7).unwrap().digest().unwrap(), digests[7]);
            bus.write(1, 0, b"on", &how(11)).unwrap();
        }
    }
}

#[test]
fn what_is_refused() {
    let (double, bus, _) = made();
    let at = bus.snapshot().unwrap();
    let to = |dir: &str| {
        bus.fork_to_on(double.vfs(), &at, Path::new(dir), &other()).map(drop).unwrap_err().code
    };
    assert_eq!(to("/s"), Code::BusExists);
    assert_eq!(to("/s/inside"), Code::Argument);
    drop(Bus::create_on(double.vfs(), Path::new("/f"), &other()).unwrap());
    assert_eq!(to("/f"), Code::BusExists);
    assert_eq!(to("/no/where"), Code::Storage);
    bus.close().unwrap();
    assert_eq!(to("/g"), Code::Closed);
}
