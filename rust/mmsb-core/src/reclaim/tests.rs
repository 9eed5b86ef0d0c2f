//! Which pieces are freed, against the rule: `[born, died)` is held by a pin inside it, a view, or a forked child.

use super::*;
use crate::arena::Backing;
use crate::core::Core;
use crate::sync::lock;
use crate::window::{Retention, Window};

const LEN: u64 = 64;

/// What is freed was replaced by an epoch that is shown.
fn show(core: &Core, epoch: u64) {
    let newest = lock(&core.sequencer).newest;
    core.adopt(&crate::root::Root { epoch, ..newest });
}

fn core() -> Arc<Core> {
    let core = Core::new(Backing::Heap, 8 << 20, false).unwrap();
    show(&core, 20);
    core
}

fn piece(core: &Core, born: u64, died: u64, kind: DeadKind) -> Dead {
    let offset = core.arena.alloc().take(LEN).unwrap().offset;
    Dead { offset, len: LEN, born, died, kind }
}

/// Small pieces that are taken.
fn used(core: &Core) -> u64 {
    core.arena.alloc().pieces().0
}

/// Offsets of what still waits, sorted.
fn waiting(reclaim: &Reclaim) -> Vec<u64> {
    let mut offsets: Vec<u64> = reclaim.all().map(|d| d.offset).collect();
    offsets.sort_unstable();
    offsets
}

#[test]
fn a_pass_is_due_by_number_or_by_bytes() {
    let mut reclaim = Reclaim::default();
    assert!(!reclaim.is_due());
    let dead = |len| Dead { offset: 0, len, born: 1, died: 2, kind: DeadKind::Node };
    reclaim.retire(&mut vec![dead(100), dead(20)]);
    reclaim.retire(&mut vec![dead(7)]);
    assert_eq!((reclaim.bytes, reclaim.queue.len()), (127, 3));
    assert_eq!(reclaim.since, Size { pieces: 3, bytes: 127 });
    let by_bytes = |bytes| Reclaim { bytes, ..Reclaim::default() }.is_due();
    assert!(!by_bytes(DUE_BYTES - 1) && by_bytes(DUE_BYTES) && by_bytes(u64::MAX));
    assert_eq!(DUE_BYTES, 1_048_576);
    let by_number = |n| {
        let mut reclaim = Reclaim::default();
        reclaim.queue.extend((0..n).map(|_| dead(0)));
        reclaim.is_due()
    };
    assert!(!by_number(DUE_PIECES - 1) && by_number(DUE_PIECES) && by_number(DUE_PIECES + 1));
}

/// Every interval and every set of pins of a small range, one pass after another.
#[test]
fn pins_hold_what_they_show() {
    let core = core();
    let slots: Vec<usize> = (0..3).map(|_| core.pins.claim().unwrap()).collect();
    let before = used(&core);
    for pins in [[1, 1, 1], [3, 3, 3], [2, 4, 6], [1, 5, 5], [6, 6, 7], [2, 3, 4]] {
        let mut reclaim = Reclaim::default();
        let mut dead = Vec::new();
        for born in 1..7 {
            for died in born + 1..8 {
                dead.push(piece(&core, born, died, DeadKind::Node));
            }
        }
        let all = dead.clone();
        reclaim.retire(&mut dead);
        slots.iter().zip(pins).for_each(|(&slot, pin)| core.pins.pin_at(slot, pin));
        let mut pins = pins.to_vec();
        loop {
            reclaim.pass(&core, false);
            let held = |d: &&Dead| pins.iter().any(|&pin| d.born <= pin && pin < d.died);
            let mut expected: Vec<u64> = all.iter().filter(held).map(|d| d.offset).collect();
            expected.sort_unstable();
            assert_eq!(waiting(&reclaim), expected, "{pins:?}");
            assert_eq!(reclaim.held_bytes(), expected.len() as u64 * size_class(LEN));
            assert_eq!(used(&core), before + expected.len() as u64);
            assert_eq!((reclaim.bytes, reclaim.queue.len()), (0, 0));
            if pins.pop().is_none() {
                break;
            }
            // A slot that is given back, and the others stay.
            core.pins.release(slots[pins.len()]);
        }
        for &slot in &slots {
            core.pins.pin_at(slot, 0);
        }
        assert_eq!(used(&core), before);
    }
}

/// A view on the frame keeps it until it ends; that is looked at when it is asked for, and once as much again as views
/// held the last time was replaced, in pieces or in bytes.
#[test]
fn views_hold_what_they_show() {
    let core = core();
    let mut reclaim = Reclaim::default();
    let viewed = |count: usize| -> Vec<Dead> {
        let made: Vec<Dead> = (0..count).map(|_| piece(&core, 1, 2, DeadKind::Frame)).collect();
        made.iter().for_each(|dead| core.arena.retain(dead.offset));
        made
    };
    let release = |dead: &[Dead]| dead.iter().for_each(|d| core.arena.release(d.offset));

    let frames = viewed(4);
    reclaim.retire(&mut frames.clone());
    release(&frames[..2]);
    reclaim.pass(&core, true);
    assert_eq!(waiting(&reclaim), [frames[2].offset, frames[3].offset]);
    assert_eq!((reclaim.looked, reclaim.since), (Size::of(&frames[2..]), Size::default()));
    // Views end. Nothing was replaced since, so it shows when it is asked for only.
    release(&frames[2..]);
    reclaim.pass(&core, false);
    assert_eq!(waiting(&reclaim), [frames[2].offset, frames[3].offset]);
    reclaim.pass(&core, true);
    assert_eq!(waiting(&reclaim), [0; 0]);

    // So many pieces, and one more.
    let frames = viewed(DUE_PIECES + 3);
    reclaim.retire(&mut frames.clone());
    reclaim.pass(&core, true);
    release(&frames);
    let more = viewed(frames.len() + DUE_PIECES);
    reclaim.retire(&mut more[1..].to_vec());
    reclaim.pass(&core, false);
    assert_eq!(reclaim.viewed.len(), frames.len() + more.len() - 1);
    reclaim.retire(&mut more[..1].to_vec());
    reclaim.pass(&core, false);
    assert_eq!(reclaim.viewed.len(), more.len());
    release(&more);
    reclaim.pass(&core, true);
    assert_eq!(waiting(&reclaim), [0; 0]);

    // So many bytes: few pieces are enough if they are large.
    let mut reclaim =
        Reclaim { looked: Size { pieces: 1 << 20, bytes: 1000 }, ..Reclaim::default() };
    reclaim.since.bytes = DUE_BYTES + 999;
    assert!(!reclaim.is_look_due());
    reclaim.since.bytes += 1;
    assert!(reclaim.is_look_due());
}

/// What a forked child may see is kept until it is gone, whatever happens to pins meanwhile; several children too.
#[test]
#[cfg_attr(miri, ignore = "ppoll")]
fn forked_children_hold_what_was_there() {
    let core = core();
    let before = used(&core);
    let mut reclaim = Reclaim::default();
    let slot = core.pins.claim().unwrap();
    core.pins.pin_at(slot, 5);
    let held = piece(&core, 4, 6, DeadKind::Node);
    let viewed = piece(&core, 1, 2, DeadKind::Frame);
    core.arena.retain(viewed.offset);
    // Nothing reaches this one, so no child does.
    let queued = piece(&core, 1, 2, DeadKind::Node);
    reclaim.retire(&mut vec![held, viewed, queued]);
    let mut childs = Vec::new();
    for epoch in 10..13 {
        let (ours, child) = rustix::pipe::pipe().unwrap();
        if epoch == 12 {
            core.pins.release(slot);
        }
        reclaim.guard(&core, Arc::new(ours), epoch);
        assert_eq!((reclaim.bytes, reclaim.queue.len()), (0, 0));
        childs.push(child);
    }
    core.arena.release(viewed.offset);
    // What is replaced after the fork: held by a child at whose fork it was visible.
    let mut after = vec![
        piece(&core, 11, 12, DeadKind::Node),
        piece(&core, 12, 13, DeadKind::Node),
        piece(&core, 13, 14, DeadKind::Node),
    ];
    let offsets: Vec<u64> = after.iter().map(|d| d.offset).collect();
    reclaim.retire(&mut after);
    let waits = |reclaim: &mut Reclaim, mut offsets: Vec<u64>| {
        reclaim.pass(&core, true);
        offsets.sort_unstable();
        assert_eq!(waiting(reclaim), offsets);
        assert_eq!(reclaim.held_bytes(), offsets.len() as u64 * size_class(LEN));
    };
    waits(&mut reclaim, vec![held.offset, viewed.offset, offsets[0], offsets[1]]);
    // The first child ends: the others show what was still held when they were made.
    drop(childs.remove(0));
    waits(&mut reclaim, vec![held.offset, viewed.offset, offsets[0], offsets[1]]);
    drop(childs.remove(0));
    waits(&mut reclaim, vec![viewed.offset, offsets[1]]);
    assert_eq!(reclaim.guards.len(), 1);
    drop(childs);
    waits(&mut reclaim, vec![]);
    assert_eq!((used(&core), reclaim.guards.len()), (before, 0));
    assert_eq!(lock(&core.sequencer).reclaim.held_bytes(), 0);
}

/// What was dead at one fork only is that child's: not the earlier one's, and not the later one's that cannot show it.
#[test]
#[cfg_attr(miri, ignore = "ppoll")]
fn a_child_holds_what_its_own_fork_found() {
    let core = core();
    let mut reclaim = Reclaim::default();
    let slot = core.pins.claim().unwrap();
    core.pins.pin_at(slot, 5);
    let earlier = piece(&core, 4, 6, DeadKind::Node);
    reclaim.retire(&mut vec![earlier]);
    let (ours, first_child) = rustix::pipe::pipe().unwrap();
    reclaim.guard(&core, Arc::new(ours), 10);
    core.pins.pin_at(slot, 6);
    let later = piece(&core, 1, 7, DeadKind::Frame);
    core.arena.retain(later.offset);
    reclaim.retire(&mut vec![later]);
    let (ours, second_child) = rustix::pipe::pipe().unwrap();
    reclaim.guard(&core, Arc::new(ours), 11);
    core.arena.release(later.offset);
    core.pins.release(slot);
    reclaim.pass(&core, true);
    let mut both = [earlier.offset, later.offset];
    both.sort_unstable();
    assert_eq!(waiting(&reclaim), both);
    drop(first_child);
    reclaim.pass(&core, true);
    assert_eq!(waiting(&reclaim), [later.offset]);
    drop(second_child);
    reclaim.pass(&core, true);
    assert_eq!(waiting(&reclaim), [0; 0]);
}

/// What a window holds is for the children of later forks, too; what died at its floor is not in it.
#[test]
#[cfg_attr(miri, ignore = "ppoll")]
fn a_window_holds_for_later_children() {
    let core = core();
    let newest = crate::root::Root { epoch: 10, ..lock(&core.sequencer).newest };
    *lock(&core.window) = Some(Window::new(Retention::Epochs(9), &newest));
    let mut reclaim = Reclaim::default();
    let [over, held] = [10, 12].map(|died| piece(&core, 4, died, DeadKind::Node));
    reclaim.retire(&mut vec![over, held]);
    assert_eq!(reclaim.retained_bytes(10), LEN);
    let (ours, first_child) = rustix::pipe::pipe().unwrap();
    reclaim.guard(&core, Arc::new(ours), 12);
    // The first pass of the guard has freed what nothing held.
    assert_eq!(waiting(&reclaim), [held.offset]);
    let over = piece(&core, 4, 10, DeadKind::Node);
    reclaim.frozen.push(Frozen { dead: over, first: 0, last: 0 });
    let (ours, second_child) = rustix::pipe::pipe().unwrap();
    reclaim.guard(&core, Arc::new(ours), 12);
    drop(first_child);
    reclaim.pass(&core, true);
    assert_eq!(waiting(&reclaim), [held.offset]);
    *lock(&core.window) = None;
    drop(second_child);
    reclaim.pass(&core, true);
    assert_eq!(waiting(&reclaim), [0; 0]);
}

/// A host that forks again and again, and commits little, keeps no more than its living children may show.
#[test]
#[cfg_attr(miri, ignore = "ppoll")]
fn children_that_are_gone_hold_nothing_at_the_next_fork() {
    let core = core();
    show(&core, 50);
    let mut reclaim = Reclaim::default();
    for epoch in 10..50 {
        let (ours, _gone_at_once) = rustix::pipe::pipe().unwrap();
        reclaim.guard(&core, Arc::new(ours), epoch);
        reclaim.retire(&mut vec![piece(&core, epoch, epoch + 1, DeadKind::Node)]);
        assert_eq!((reclaim.guards.len(), reclaim.all().count()), (1, 1));
    }
}

/// What a fork shares with its parent is not the fork's to free.
#[test]
fn pieces_of_the_parent() {
    let parent = Core::new(Backing::Heap, 8 << 20, false).unwrap();
    for epoch in 1..=3 {
        let mut batch = crate::Batch::new();
        batch.tag("t", Some(epoch - 1), true);
        parent.replay(epoch, 1, batch.ops()).unwrap();
    }
    let fork = Core::fork(&crate::Snapshot::newest(&parent).unwrap()).unwrap();
    let before = used(&fork);
    let pieces: Vec<Dead> =
        (2..=5).map(|born| piece(&fork, born, born + 5, DeadKind::Node)).collect();
    show(&fork, 20);
    let mut reclaim = Reclaim::default();
    reclaim.retire(&mut pieces.clone());
    reclaim.pass(&fork, true);
    assert_eq!(waiting(&reclaim), [0; 0]);
    // Epochs 2 and 3 are the parent's.
    assert_eq!(used(&fork), before + 2);
}

/// A piece that the head still shows, and one that was replaced before the last: told before memory is given away.
#[test]
fn what_only_a_bug_can_retire() {
    let trips = |work: &dyn Fn(&Core, &mut Reclaim)| {
        let core = core();
        let before = used(&core);
        let mut reclaim = Reclaim::default();
        let work = std::panic::AssertUnwindSafe(|| work(&core, &mut reclaim));
        let told = std::panic::catch_unwind(work).unwrap_err();
        (told.downcast_ref::<&str>().map_or(String::new(), |s| s.to_string()), used(&core) - before)
    };
    let early = trips(&|core, reclaim| {
        reclaim.retire(&mut vec![piece(core, 1, 21, DeadKind::Node)]);
        reclaim.pass(core, true);
    });
    assert_eq!(early, ("a piece is freed that the head still shows".into(), 1));
    let back = trips(&|core, reclaim| {
        reclaim.retire(&mut vec![piece(core, 1, 9, DeadKind::Node)]);
        reclaim.retire(&mut vec![piece(core, 1, 8, DeadKind::Node)]);
    });
    assert_eq!(back, ("epochs replace pieces in their order".into(), 2));
}
