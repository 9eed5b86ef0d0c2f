//! Giving memory back: a piece that died is freed once no pin, view or forked child can reach it.
//!
//! A piece lives in `[born, died)`. It is held by a pin `p` with `born <= p < died`, by views counted on its frame
//! or on (page, epoch) with `born <= epoch < died`, and by a window with a floor before `died`. A view pins, finds its
//! frames, counts and only then unpins; so the slots are read first and the counts second. The other order would miss
//! a view that unpins in between. The floor is read before both, because an epoch of the window can be pinned anew.
//!
//! Each piece that cannot go waits for the one obstacle that was found, so a pass costs what became free.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::arena::size_class;
use crate::core::Core;
use crate::edit::{Dead, DeadKind};
use crate::museum::{Defect, planted};
use crate::sync::fence;

/// A pass is made when this many pieces or bytes are waiting. Debug builds free at once and overwrite what they free,
/// so that a piece which is still in use shows.
const DUE_PIECES: usize = if cfg!(debug_assertions) { 1 } else { 256 };
const DUE_BYTES: u64 = 1 << 20;

/// A forked child. It may show what was visible when it was made, and what was frozen then.
#[derive(Debug)]
struct Guard {
    /// The child holds the other end until it is gone.
    pipe: Arc<OwnedFd>,
    epoch: u64,
    number: u64,
}

/// A piece that was dead and held when children were made: these, from the first to the last, may show it.
#[derive(Debug)]
struct Frozen {
    dead: Dead,
    first: u64,
    last: u64,
}

/// How much memory.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Size {
    pieces: usize,
    bytes: u64,
}

impl Size {
    fn of(dead: &[Dead]) -> Size {
        Size { pieces: dead.len(), bytes: dead.iter().map(|d| d.len).sum() }
    }
}

/// What waits to be freed.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    /// Whether there is a window.
    pub(crate) retains: bool,
    queue: VecDeque<Dead>,
    bytes: u64,
    /// By the epoch that replaced them: what the window holds.
    retained: BTreeMap<u64, Vec<Dead>>,
    /// By a pin that shows them.
    held: BTreeMap<u64, Vec<Dead>>,
    viewed: Vec<Dead>,
    /// Pieces and bytes that views held when they were last looked at, and those that were replaced since then.
    looked: Size,
    since: Size,
    /// In the order of their numbers.
    guards: Vec<Guard>,
    forks: u64,
    frozen: Vec<Frozen>,
    pins: Vec<u64>,
}

impl Reclaim {
    /// Takes what a published commit replaced.
    #[inline]
    pub(crate) fn retire(&mut self, dead: &mut Vec<Dead>) {
        if let (Some(last), Some(next)) = (self.queue.back(), dead.first()) {
            assert!(last.died <= next.died, "epochs replace pieces in their order");
        }
        let Size { pieces, bytes } = Size::of(dead);
        self.bytes += bytes;
        self.since.pieces += pieces;
        self.since.bytes += bytes;
        self.queue.extend(dead.drain(..));
    }

    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.queue.len() >= DUE_PIECES || self.bytes >= DUE_BYTES
    }

    /// Everything that waits.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Dead> {
        let frozen = self.frozen.iter().map(|frozen| &frozen.dead);
        let held = self.retained.values().chain(self.held.values()).flatten();
        self.queue.iter().chain(held).chain(&self.viewed).chain(frozen)
    }

    /// Bytes that old versions hold.
    pub(crate) fn held_bytes(&self) -> u64 {
        let held = self.all().map(|dead| size_class(dead.len)).sum();
        assert!(self.bytes <= held, "less is held than waits");
        held
    }

    /// Bytes of them that a window with this floor holds.
    pub(crate) fn retained_bytes(&self, floor: u64) -> u64 {
        self.all().filter(|dead| dead.died > floor).map(|dead| size_class(dead.len)).sum()
    }

    /// A process is being forked: keep what it may see until the pipe's other end is closed.
    pub(crate) fn guard(&mut self, core: &Core, pipe: Arc<OwnedFd>, epoch: u64) {
        assert!(self.guards.last().is_none_or(|guard| guard.epoch <= epoch), "epochs go back");
        // What is frozen makes no pass due: a host that forks often would never find that children are gone.
        self.pass(core, false);
        let number = self.forks;
        self.forks += 1;
        self.pins.clear();
        core.collect_pins(&mut self.pins);
        let floor = core.floor();
        for Frozen { dead, last, .. } in &mut self.frozen {
            let shown = |&pin: &u64| dead.born <= pin && pin < dead.died;
            // What is not held now can never be again, and this child has no way to it.
            if dead.died > floor || self.pins.iter().any(shown) || is_viewed(core, dead) {
                *last = number;
            }
        }
        let retained = std::mem::take(&mut self.retained).into_values();
        let held = retained.chain(std::mem::take(&mut self.held).into_values()).flatten();
        let waiting = self.queue.drain(..).chain(held).chain(self.viewed.drain(..));
        self.frozen.extend(waiting.map(|dead| Frozen { dead, first: number, last: number }));
        self.bytes = 0;
        self.guards.push(Guard { pipe, epoch, number });
        self.check_guards();
    }

    /// What holds of children and of what they may show.
    fn check_guards(&self) {
        let Reclaim { guards, frozen, forks, .. } = self;
        assert!(guards.is_sorted_by(|a, b| a.number < b.number), "forks stay in their order");
        assert!(guards.is_sorted_by(|a, b| a.epoch <= b.epoch), "epochs go back from fork to fork");
        assert!(guards.last().is_none_or(|guard| guard.number < *forks), "a fork is to come");
        assert!(frozen.iter().all(|f| f.first <= f.last), "what is frozen is for no child");
        assert!(frozen.iter().all(|f| f.last < *forks), "what is frozen is for a fork to come");
        assert!(frozen.is_empty() || !guards.is_empty(), "what is frozen is for children gone");
    }

    fn drop_gone_guards(&mut self) {
        let Reclaim { guards, frozen, queue, .. } = self;
        let before = guards.len();
        guards.retain(|guard| !crate::fork::is_gone(&guard.pipe));
        if guards.len() == before {
            return;
        }
        frozen.retain(|&Frozen { dead, first, last }| {
            let next = guards.partition_point(|guard| guard.number < first);
            let kept = guards.get(next).is_some_and(|guard| guard.number <= last);
            if !kept {
                queue.push_back(dead);
            }
            kept
        });
        self.check_guards();
    }

    /// Frees what nothing reaches. `all` also looks again at what views held the last time.
    pub(crate) fn pass(&mut self, core: &Core, all: bool) {
        self.drop_gone_guards();
        let floor = core.floor();
        fence(Ordering::SeqCst);
        self.pins.clear();
        core.collect_pins(&mut self.pins);
        self.pins.extend(self.guards.iter().map(|g| g.epoch));
        self.pins.sort_unstable();
        let pins = std::mem::take(&mut self.pins);

        let released: Vec<u64> =
            self.held.keys().copied().filter(|pin| pins.binary_search(pin).is_err()).collect();
        for pin in released {
            self.queue.extend(self.held.remove(&pin).unwrap_or_default());
        }
        if let Some((&oldest, _)) = self.retained.first_key_value()
            && oldest <= floor
        {
            let still = self.retained.split_off(&floor.saturating_add(1));
            self.queue.extend(std::mem::replace(&mut self.retained, still).into_values().flatten());
        }
        let look = all || self.is_look_due();
        if look {
            self.queue.extend(self.viewed.drain(..));
        }
        self.bytes = 0;
        let shown = core.epoch();
        let mut alloc = core.arena.alloc();
        while let Some(dead) = self.queue.pop_front() {
            assert!(dead.born <= dead.died, "a piece was replaced before it was made");
            assert!(dead.died <= shown, "a piece is freed that the head still shows");
            if dead.born <= core.base_epoch() {
                continue;
            }
            if dead.died > floor && !planted(Defect::WindowIgnored) {
                self.retained.entry(dead.died).or_default().push(dead);
                continue;
            }
            let next = pins.partition_point(|&pin| pin < dead.born);
            if let Some(&pin) =
                pins.get(next).filter(|&&pin| pin < dead.died && !planted(Defect::PinIgnored))
            {
                self.held.entry(pin).or_default().push(dead);
            } else if is_viewed(core, &dead) && !planted(Defect::ViewNotCounted) {
                self.viewed.push(dead);
            } else {
                if cfg!(debug_assertions) {
                    core.mem().scribble(dead.offset, dead.len);
                }
                alloc.give(dead.offset, dead.len);
            }
        }
        drop(alloc);
        let is_pinned = |pin: &u64| pins.binary_search(pin).is_ok();
        assert!(self.held.keys().all(is_pinned), "a piece is held by a pin that is gone");
        if look {
            (self.looked, self.since) = (Size::of(&self.viewed), Size::default());
        }
        self.pins = pins;
    }

    /// Views may have ended. To look at all that they held is worth it once as much again was replaced.
    fn is_look_due(&self) -> bool {
        self.since.pieces >= self.looked.pieces + DUE_PIECES
            || self.since.bytes >= self.looked.bytes + DUE_BYTES
    }
}

fn is_viewed(core: &Core, dead: &Dead) -> bool {
    match dead.kind {
        DeadKind::Node => false,
        DeadKind::Frame => core.arena.is_viewed(dead.offset),
        DeadKind::Blocks(page) => core.views.holds(page, dead.born, dead.died),
    }
}
