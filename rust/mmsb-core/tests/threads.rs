//! Many threads commit and read at once: nothing is lost, no reader sees half a commit, kept bytes stay.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mmsb_core::{Batch, Bus, Code, Durability, How, Mode, NewPage, Options};

const WRITERS: u64 = if cfg!(miri) { 2 } else { 4 };
const ROUNDS: u64 = if cfg!(miri) { 6 } else { 400 };
/// Of each page: one block, and many.
const SIZES: [u64; 2] = [4096, 100_000];

fn how(durability: Durability) -> How<'static> {
    How { wait: true, durability: Some(durability), ..How::default() }
}

/// Miri touches every byte that is reserved.
fn in_ram() -> Bus {
    let max_memory = cfg!(miri).then_some(16 << 20);
    Bus::memory(&Options { max_memory, ..Options::default() }).unwrap()
}

fn create(bus: &Bus) {
    let mut batch = Batch::new();
    for (i, nbytes) in SIZES.into_iter().enumerate() {
        let page = NewPage {
            name: None,
            dtype: "",
            itemsize: 8,
            shape: &[nbytes / 8],
            nbytes,
            meta: "",
            location: 0,
        };
        batch.create(i as u64 + 1, &page);
    }
    bus.commit(&mut batch, None, &how(Durability::Os)).unwrap();
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Adds one to the shared counter in both pages, and notes it in the writer's own word of both.
fn add_one(bus: &Bus, writer: u64, durability: Durability) {
    loop {
        let base = bus.snapshot().unwrap();
        let mut batch = Batch::new();
        for (page, nbytes) in [1, 2].into_iter().zip(SIZES) {
            let view = base.view(page).unwrap();
            let shared = word(view.bytes(), 0) + 1;
            let own_at = 8 * (1 + writer);
            let own = word(view.bytes(), own_at as usize) + 1;
            batch.write(page, 0, &shared.to_le_bytes());
            batch.write(page, own_at, &own.to_le_bytes());
            batch.write(page, nbytes - 8, &shared.to_le_bytes());
        }
        match bus.commit(&mut batch, Some(&base), &how(durability)) {
            Ok(done) => {
                assert!(done.changed && bus.epoch() >= done.epoch);
                return;
            }
            Err(error) => assert_eq!(error.code, Code::Conflict),
        }
    }
}

/// One consistent state, whatever the epoch: the shared counter is the sum of the writers' own, everywhere.
fn check(first: &[u8], second: &[u8]) -> u64 {
    let shared = word(first, 0);
    for bytes in [first, second] {
        assert_eq!(word(bytes, 0), shared);
        assert_eq!(word(bytes, bytes.len() - 8), shared);
        let own: u64 = (1..=WRITERS as usize).map(|w| word(bytes, 8 * w)).sum();
        assert_eq!(own, shared);
    }
    shared
}

fn hammer(bus: &Bus, durability_of: impl Fn(u64) -> Durability + Sync) {
    create(bus);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let durability_of = &durability_of;
                scope.spawn(move || {
                    (0..ROUNDS).for_each(|i| add_one(bus, writer, durability_of(i + writer)));
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                let mut kept = Vec::new();
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let snapshot = bus.snapshot().unwrap();
                    let views = [1, 2].map(|page| snapshot.view(page).unwrap());
                    let shared = check(views[0].bytes(), views[1].bytes());
                    assert!(shared >= last);
                    last = shared;
                    drop(snapshot);
                    kept.push((shared, views));
                    if kept.len() > 16 {
                        for (shared, views) in kept.drain(..8) {
                            assert_eq!(check(views[0].bytes(), views[1].bytes()), shared);
                        }
                    }
                }
            });
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
    });
    let end = bus.snapshot().unwrap();
    let views = [1, 2].map(|page| end.view(page).unwrap());
    assert_eq!(check(views[0].bytes(), views[1].bytes()), WRITERS * ROUNDS);
    assert_eq!(end.epoch(), 1 + WRITERS * ROUNDS);
}

#[test]
fn in_memory() {
    let _watch = common::watch();
    hammer(&in_ram(), |_| Durability::Memory);
}

#[test]
#[cfg_attr(miri, ignore = "files")]
fn in_a_directory_with_mixed_durability() {
    let _watch = common::watch();
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let options = Options { segment_bytes: Some(64 << 10), ..Options::default() };
    let bus = Bus::create(&dir, &options).unwrap();
    hammer(&bus, |i| match i % 8 {
        0 => Durability::Disk,
        1..4 => Durability::Memory,
        _ => Durability::Os,
    });
    let digest = bus.snapshot().unwrap().digest().unwrap();
    bus.close().unwrap();
    let bus = Bus::open(&dir, Mode::ReadWrite, &options, &mut |_, _| {}).unwrap();
    assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digest);
    for epoch in (1..=bus.epoch()).step_by(97) {
        let past = bus.snapshot_at(epoch).unwrap();
        let views = [1, 2].map(|page| past.view(page).unwrap());
        assert_eq!(check(views[0].bytes(), views[1].bytes()), epoch - 1);
    }
}

#[test]
fn a_call_that_must_not_wait_changes_nothing() {
    let _watch = common::watch();
    let bus = in_ram();
    create(&bus);
    let (entered, leave) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            bus.commit_with(&how(Durability::Memory), &mut |_, batch| {
                entered.wait();
                leave.wait();
                batch.write(1, 0, b"slow");
                Ok(())
            })
            .unwrap();
        });
        entered.wait();
        let refused = bus.write(1, 0, b"fast", &How::default()).unwrap_err();
        assert_eq!(refused.code, Code::WouldBlock);
        leave.wait();
    });
    assert_eq!(&bus.view(1).unwrap().bytes()[..4], b"slow");
    assert_eq!(bus.epoch(), 2);
}
