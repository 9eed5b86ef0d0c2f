//! Pin slots: each line says which epoch one snapshot shows. The host reads them, readers write them.
//!
//! Protocol (LMDB's, with explicit fences): a reader stores the epoch in its slot, fences, and looks whether the
//! head is still that epoch; if not it tries again. The host publishes, fences, then reads the slots. So either
//! the host sees the pin, or the reader sees the newer head.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};

use super::backing::{Backing, Mapping};
use crate::sync::{Word, fence, shared, yield_now};
use crate::{Code, Error, Result};

const LINE: usize = 64;
const SLOTS: usize = if cfg!(loom) { 8 } else { 1023 };
/// The first lines are for pins that end within a call of the bus, so that forgotten snapshots never stop it.
const BRIEF: usize = if cfg!(loom) { 3 } else { 15 };
const FREE: u64 = 0;
const CLAIMED: u64 = 1;
const FIRST: u64 = 2;

/// A table of pin slots; line 0 holds the high-water mark.
#[derive(Debug)]
pub(crate) struct Slots {
    mapping: Mapping,
}

/// A slot that is ours, by number.
pub(crate) type SlotId = usize;

impl Slots {
    pub(crate) fn new(backing: Backing) -> Result<Slots> {
        Ok(Slots { mapping: Mapping::new(backing, (SLOTS + 1) * LINE)? })
    }

    /// The slots of another process's bus.
    pub(crate) fn attach(mapping: Mapping) -> Result<Slots> {
        if mapping.len() < (SLOTS + 1) * LINE {
            return Err(Error::new(Code::Argument, "the control segment is too short"));
        }
        Ok(Slots { mapping })
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    #[inline]
    fn word(&self, line: usize) -> Word<'_> {
        debug_assert!(line <= SLOTS);
        // SAFETY: `line` is at most SLOTS, so the word is inside the mapping and aligned; these words are only
        // ever accessed as `AtomicU64`.
        shared(unsafe { AtomicU64::from_ptr(self.mapping.base().add(line * LINE).cast()) })
    }

    /// Takes a free slot for a snapshot.
    #[inline]
    pub(crate) fn claim(&self) -> Result<SlotId> {
        self.claim_of(BRIEF + 1..=SLOTS).ok_or_else(|| {
            let all = SLOTS - BRIEF;
            Error::new(
                Code::TooManySnapshots,
                format!("all {all} snapshots are in use; close some (`with bus.snapshot() as s:`)"),
            )
        })
    }

    /// Takes a slot for a pin that ends within this call of the bus; others that do the same are waited for.
    #[inline]
    pub(crate) fn claim_brief(&self) -> SlotId {
        loop {
            if let Some(slot) = self.claim_of(1..=BRIEF) {
                return slot;
            }
            yield_now();
        }
    }

    #[inline]
    fn claim_of(&self, lines: std::ops::RangeInclusive<usize>) -> Option<SlotId> {
        for line in lines {
            let word = self.word(line);
            if word.load(Ordering::Relaxed) == FREE
                && word
                    .compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                if self.word(0).load(Ordering::Relaxed) < line as u64 {
                    self.word(0).fetch_max(line as u64, Ordering::SeqCst);
                }
                return Some(line);
            }
        }
        None
    }

    /// Pins the head's epoch, which is returned.
    #[inline]
    pub(crate) fn pin(&self, slot: SlotId, head: Word<'_>) -> u64 {
        loop {
            let epoch = head.load(Ordering::Acquire);
            // Release: whoever had the slot before is done, and the host must not think so sooner.
            self.word(slot).store(epoch + FIRST, Ordering::Release);
            fence(Ordering::SeqCst);
            if head.load(Ordering::Acquire) == epoch {
                return epoch;
            }
        }
    }

    /// Pins an epoch that is held by another pin for the duration of this call.
    pub(crate) fn pin_at(&self, slot: SlotId, epoch: u64) {
        self.word(slot).store(epoch + FIRST, Ordering::SeqCst);
    }

    /// Gives the slot back.
    #[inline]
    pub(crate) fn release(&self, slot: SlotId) {
        self.word(slot).store(FREE, Ordering::Release);
    }

    /// The pinned epochs, into `out`. The caller has fenced after publishing.
    pub(crate) fn collect(&self, out: &mut Vec<u64>) {
        let top = (self.word(0).load(Ordering::SeqCst) as usize).min(SLOTS);
        for line in 1..=top {
            let word = self.word(line).load(Ordering::Acquire);
            if word >= FIRST {
                out.push(word - FIRST);
            }
        }
    }
}
