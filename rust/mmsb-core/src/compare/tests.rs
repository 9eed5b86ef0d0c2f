//! The first epoch that differs against going through all of them.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::arena::faults;
use crate::delta::{Batch, NewPage};
use crate::sequence::How;
use crate::vfs::{RamVfs, Vfs};
use crate::{Durability, Mode, Options};

fn options(seed: u64) -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(16 << 20),
        seed: Some(seed),
        segment_bytes: Some(4096 + 4000),
        ..Options::default()
    }
}

fn how(epoch: u64) -> How<'static> {
    How { time: Some(epoch), wait: true, ..How::default() }
}

/// What commit `epoch` writes: the same in every run.
fn step(bus: &Bus, epoch: u64, byte: u8) {
    let mut batch = Batch::new();
    if epoch == 1 {
        let page = NewPage { name: Some("p"), ..NewPage::bytes(&[400]) };
        batch.create(1, &page);
    }
    batch.write(1, epoch % 300, &[byte; 90]);
    let how = How { meta: Some("{\"a\":1}"), ..how(epoch) };
    assert_eq!(bus.commit(&mut batch, None, &how).unwrap().epoch, epoch);
}

fn run(vfs: &Arc<dyn Vfs>, dir: &str, seed: u64, epochs: u64, byte: impl Fn(u64) -> u8) -> Bus {
    let bus = Bus::create_on(Arc::clone(vfs), Path::new(dir), &options(seed)).unwrap();
    (1..=epochs).for_each(|epoch| step(&bus, epoch, byte(epoch)));
    bus
}

/// Goes through all epochs.
fn slow(a: &Bus, b: &Bus) -> Option<u64> {
    let (first, last) = shared(a, b).unwrap();
    (first..=last).find(|&epoch| !same(a, b, epoch).unwrap())
}

fn check(a: &Bus, b: &Bus, want: Option<u64>) {
    assert_eq!(slow(a, b), want);
    assert_eq!(part(a, b, &mut |_, _| {}).unwrap(), want);
    assert_eq!(part(b, a, &mut |_, _| {}).unwrap(), want);
}

#[test]
fn runs_that_part_and_meet_again() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let same = |epoch: u64| epoch as u8;
    let a = run(&vfs, "/a", 1, 120, same);
    check(&a, &a, None);
    for at in [1, 2, 57, 119, 120] {
        // One commit is another; the next ones write over it, so that the ends agree.
        let other = |epoch: u64| if epoch == at { 0xEE } else { same(epoch) };
        let b = run(&vfs, &format!("/b{at}"), 2, 120, other);
        check(&a, &b, Some(at));
    }
    let shorter = run(&vfs, "/c", 3, 70, same);
    check(&a, &shorter, None);
}

/// The same state made by other operations is the same; tags and metadata of commits are no state.
#[test]
fn what_is_no_difference() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let a = run(&vfs, "/a", 1, 10, |epoch| epoch as u8);
    let b = run(&vfs, "/b", 2, 10, |epoch| epoch as u8);
    let mut batch = Batch::new();
    batch.write(1, 0, b"abcdef");
    a.commit(&mut batch, None, &how(11)).unwrap();
    batch.clear();
    batch.write(1, 3, b"def");
    batch.write(1, 0, b"abc");
    batch.tag("here", None, false);
    b.commit(&mut batch, None, &How { source: Some("other"), ..how(99) }).unwrap();
    check(&a, &b, None);
    a.write(1, 9, b"x", &how(12)).unwrap();
    b.write(1, 9, b"y", &how(12)).unwrap();
    check(&a, &b, Some(12));
}

/// Two ways to write each step make two logs of one history, until a step is another; the newest states agree again.
#[test]
fn logs_that_differ_in_each_commit() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let a = run(&vfs, "/a", 1, 3, |epoch| epoch as u8);
    let b = run(&vfs, "/b", 2, 3, |epoch| epoch as u8);
    for epoch in 4..=60 {
        let byte = [epoch as u8; 40];
        let mut batch = Batch::new();
        batch.write(1, 7, &byte);
        a.commit(&mut batch, None, &how(epoch)).unwrap();
        batch.clear();
        let other = if epoch == 44 { [1; 40] } else { byte };
        batch.write(1, 20, &other[13..]);
        batch.write(1, 7, &other[..13]);
        b.commit(&mut batch, None, &how(epoch)).unwrap();
    }
    check(&a, &b, Some(44));
    let c = b.fork(&b.snapshot_at(50).unwrap()).unwrap();
    check(&a, &c, None);
}

/// What is told counts from the first epoch that both have.
#[test]
fn progress() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let a = run(&vfs, "/a", 1, 600, |epoch| epoch as u8);
    let b = a.fork(&a.snapshot_at(10).unwrap()).unwrap();
    (11..=600).for_each(|epoch| step(&b, epoch, epoch as u8));
    let mut told = Vec::new();
    assert_eq!(part(&a, &b, &mut |done, all| told.push((done, all))).unwrap(), None);
    assert_eq!(told, [(246, 590), (502, 590), (590, 590)]);
}

/// Where memory is refused that is said, whatever was done then.
#[test]
fn without_memory() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let a = run(&vfs, "/a", 1, 2, |epoch| epoch as u8);
    let b = run(&vfs, "/b", 2, 2, |epoch| epoch as u8);
    let mut batch = Batch::new();
    for epoch in 3..=6 {
        for (bus, half) in [(&a, 0), (&b, 20)] {
            batch.clear();
            batch.write(1, half, &[epoch as u8; 20]);
            batch.write(1, 20 - half, &[epoch as u8; 20]);
            bus.commit(&mut batch, None, &how(epoch)).unwrap();
        }
    }
    let mut refused = 0;
    for nth in 1.. {
        // A replay tries again what was refused once.
        faults::arm(nth, true);
        let done = part(&a, &b, &mut |_, _| {});
        if !faults::disarm() {
            assert_eq!(done.unwrap(), None);
            break;
        }
        match done {
            Ok(found) => assert_eq!(found, None),
            Err(error) => {
                assert_eq!(error.code, Code::OutOfSpace, "request {nth}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}

/// Copies that went their own ways: what they have in common is not read.
#[test]
fn copies_and_forks() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let a = run(&vfs, "/a", 1, 100, |epoch| epoch as u8);
    a.backup_on(&*vfs, Path::new("/b"), &mut |_, _| {}).unwrap();
    let b = Bus::open_on(
        Arc::clone(&vfs),
        Path::new("/b"),
        Mode::ReadWrite,
        &options(2),
        &mut |_, _| {},
    )
    .unwrap();
    // Both may go on in the newest segment, so only those before it are the same for certain.
    let newest = log::list(&*vfs, Path::new("/b")).unwrap().pop().unwrap();
    let file = log::log_dir(Path::new("/b")).join(newest.file());
    let mut cursor = log::LogCursor::new(Arc::clone(&vfs), Path::new("/b"), 1, 100, false).unwrap();
    let mut before = 0;
    while let Some(commit) = cursor.next_commit().unwrap() {
        before = if commit.file == file { before } else { commit.epoch };
    }
    assert!((80..100).contains(&before));
    assert_eq!(common(a.store(), b.store()).unwrap(), before);
    check(&a, &b, None);
    for epoch in 101..150 {
        step(&a, epoch, epoch as u8);
        step(&b, epoch, if epoch == 120 { 0 } else { epoch as u8 });
    }
    check(&a, &b, Some(120));
    let fork = a.fork(&a.snapshot_at(140).unwrap()).unwrap();
    check(&a, &fork, None);
    fork.write(1, 399, b"!", &how(1)).unwrap();
    check(&a, &fork, Some(141));
    // Epochs that only the other one has.
    let short = run(&vfs, "/short", 5, 5, |epoch| epoch as u8);
    let none = part(&short, &fork, &mut |_, _| {}).unwrap_err();
    assert_eq!(none.code, Code::EpochNotFound);
    fork.close().unwrap();
    assert_eq!(part(&a, &fork, &mut |_, _| {}).unwrap_err().code, Code::Closed);
}

/// One of two copies was pruned: both are compared from where its log begins, and what is one log is not read.
#[test]
fn a_copy_that_was_pruned() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let a = run(&vfs, "/a", 1, 100, |epoch| epoch as u8);
    a.backup_on(&*vfs, Path::new("/b"), &mut |_, _| {}).unwrap();
    let at = Path::new("/b");
    let b = Bus::open_on(Arc::clone(&vfs), at, Mode::ReadWrite, &options(2), &mut |_, _| {});
    let b = b.unwrap();
    let keep = crate::Keep { log_since: Some(60), ..crate::Keep::default() };
    b.prune(&keep).unwrap();
    assert_eq!(shared(&a, &b).unwrap(), (60, 100));
    assert!(80 < common(a.store(), b.store()).unwrap());
    check(&a, &b, None);
    for epoch in 101..150 {
        step(&a, epoch, epoch as u8);
        step(&b, epoch, if epoch == 120 { 0 } else { epoch as u8 });
    }
    check(&a, &b, Some(120));
    // Another run that parted before the base: the base is the first that both have.
    let other = run(&vfs, "/c", 3, 100, |epoch| if epoch == 40 { 0 } else { epoch as u8 });
    check(&a, &other, Some(40));
    let differs = !same(&other, &b, 60).unwrap();
    check(&other, &b, differs.then_some(60).or(slow(&other, &b)));
    let fork = a.fork_to_on(vfs.clone(), &a.snapshot_at(70).unwrap(), Path::new("/d"), &options(4));
    let fork = fork.unwrap();
    (71..90).for_each(|epoch| step(&fork, epoch, if epoch == 80 { 0 } else { epoch as u8 }));
    check(&a, &fork, Some(80));
    check(&fork, &b, Some(80));
}
