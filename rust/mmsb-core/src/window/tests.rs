//! Which epochs a window has, by number and by time; what of memory it holds.

use std::sync::Arc;

use super::*;
use crate::arena::Backing;
use crate::core::Core;
use crate::delta::{Batch, NewPage};
use crate::page;
use crate::sequence::{Durability, How};
use crate::snapshot::Snapshot;
use crate::sync::lock;

fn root(epoch: u64, time: u64) -> Root {
    Root { epoch, time, ..Root::empty() }
}

/// What a window has of the epochs up to `newest`, which must be a run that ends there.
fn epochs(window: &Window, newest: u64) -> Vec<u64> {
    let has: Vec<u64> = (0..=newest + 2).filter(|&epoch| window.get(epoch).is_some()).collect();
    assert_eq!(has, (window.floor()..=newest).collect::<Vec<_>>());
    assert!(has.iter().all(|&epoch| window.get(epoch).unwrap().epoch == epoch));
    assert_eq!(window.oldest().unwrap().epoch, window.floor());
    has
}

#[test]
fn so_many_epochs() {
    let mut window = Window::new(Retention::Epochs(3), &root(10, 0));
    let mut seen = vec![epochs(&window, 10)];
    for epoch in 11..15 {
        window.push(&root(epoch, 0));
        seen.push(epochs(&window, epoch));
    }
    assert_eq!(
        seen,
        [vec![10], vec![10, 11], vec![10, 11, 12], vec![11, 12, 13], vec![12, 13, 14]]
    );
    // More from now on; what went does not come back.
    window.set(Retention::Epochs(4));
    assert_eq!(epochs(&window, 14), [12, 13, 14]);
    window.push(&root(15, 0));
    assert_eq!(epochs(&window, 15), [12, 13, 14, 15]);
    for most in [1, 0] {
        window.set(Retention::Epochs(most));
        assert_eq!(epochs(&window, 15), [15], "the newest is always there");
    }
}

#[test]
fn room_for_epochs_to_come() {
    let size = size_of::<Root>() as u64;
    let mut window = Window::new(Retention::Epochs(3), &root(10, 0));
    assert_eq!(window.bytes(), size);
    (11..15).for_each(|epoch| window.push(&root(epoch, 0)));
    window.reserve(100).unwrap();
    let room = window.bytes();
    assert!(room.is_multiple_of(size) && room >= 103 * size, "{room}");
    window.set(Retention::Epochs(200));
    (15..115).for_each(|epoch| window.push(&root(epoch, 0)));
    assert_eq!((window.bytes(), window.floor()), (room, 12));
    // The error names the last epoch that there is no room for.
    let most = isize::MAX;
    let error = window.reserve(most as usize).unwrap_err();
    assert_eq!(error.code, Code::OutOfSpace);
    assert_eq!(error.message, format!("no memory to retain epoch {}", 114 + most as u64));
    assert_eq!(window.bytes(), room);
}

#[test]
fn so_much_time() {
    // Each epoch is the newest from its own time to that of the next one.
    let times = [100, 110, 110, 125, 200, 211, u64::MAX];
    let want: [&[u64]; 7] =
        [&[0], &[0, 1], &[0, 1, 2], &[0, 1, 2, 3], &[3, 4], &[3, 4, 5], &[5, 6]];
    let mut window = Window::new(Retention::Nanoseconds(75), &root(0, times[0]));
    for (epoch, time) in (0..).zip(times) {
        if epoch > 0 {
            window.push(&root(epoch, time));
        }
        assert_eq!(epochs(&window, epoch), want[epoch as usize]);
    }
    window.set(Retention::Nanoseconds(0));
    assert_eq!(epochs(&window, 6), [6]);
}

/// Commits that fill one page, with everything freed that can be after each.
fn core() -> Arc<Core> {
    let core = Core::new(Backing::Heap, 8 << 20, false).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[40_000]));
    let done = core.commit(&mut batch, None, None, Durability::Memory, &How::default());
    assert_eq!(done.unwrap().epoch, 1);
    core
}

fn fill(core: &Arc<Core>, byte: u8) {
    let mut batch = Batch::new();
    batch.write(1, 0, &[byte; 40_000]);
    core.commit(&mut batch, None, None, Durability::Memory, &How::default()).unwrap();
    lock(&core.sequencer).reclaim.pass(core, true);
}

fn shows(core: &Arc<Core>, epoch: u64) -> Option<u8> {
    let snapshot = Snapshot::retained(core, epoch).unwrap()?;
    assert_eq!(snapshot.epoch(), epoch);
    let bytes = snapshot.view(1).unwrap();
    assert!(bytes.bytes().iter().all(|&byte| byte == bytes.bytes()[0]));
    Some(bytes.bytes()[0])
}

#[test]
fn epochs_of_the_window_are_whole_and_others_are_freed() {
    let core = core();
    fill(&core, 2);
    let used = || core.arena.alloc().used();
    let before = used();
    core.retain(Some(Retention::Epochs(3))).unwrap();
    for epoch in 3..30 {
        fill(&core, epoch);
        for old in 0..=u64::from(epoch) {
            let has = old + 3 > u64::from(epoch) && old >= 2;
            assert_eq!(shows(&core, old), has.then_some(old as u8));
        }
        let seq = lock(&core.sequencer);
        let held = seq.reclaim.retained_bytes(core.floor());
        assert_eq!(held, seq.reclaim.held_bytes(), "nothing else is held");
        let old = u64::from(epoch).min(4) - 2;
        assert!(held >= old * 40_000 && held <= old * 60_000, "{held} of {old} epochs");
    }
    // A snapshot of an epoch of the window holds it when the window has gone on.
    let kept = Snapshot::retained(&core, 27).unwrap().unwrap();
    (30..40).for_each(|epoch| fill(&core, epoch));
    assert_eq!(kept.view(1).unwrap().bytes(), [27; 40_000]);
    assert_eq!(shows(&core, 27), None);
    drop(kept);
    core.retain(None).unwrap();
    fill(&core, 40);
    assert_eq!((used(), shows(&core, 39)), (before, None));
    assert_eq!(lock(&core.sequencer).reclaim.held_bytes(), 0);
}

#[test]
fn a_forked_child_keeps_what_the_window_had() {
    let core = core();
    core.retain(Some(Retention::Epochs(2))).unwrap();
    fill(&core, 2);
    let slot = Snapshot::retained(&core, 1).unwrap().unwrap().slot(1).unwrap();
    let (pipe, child) = rustix::pipe::pipe().unwrap();
    let pipe = Arc::new(pipe);
    assert!(core.guard(&pipe));
    assert!(core.guard(&pipe));
    (3..20).for_each(|epoch| fill(&core, epoch));
    // The child may show that epoch as long as it lives.
    let held = lock(&core.sequencer).reclaim.held_bytes();
    let mut seen = vec![9; 40_000];
    page::read(core.mem(), &slot, 0, &mut seen);
    assert_eq!(seen, [0; 40_000]);
    assert_eq!(shows(&core, 18), Some(18));
    drop(child);
    fill(&core, 20);
    let left = lock(&core.sequencer).reclaim.held_bytes();
    assert!(left < held, "{left} of {held}");
    assert_eq!(shows(&core, 19), Some(19));
}
