//! The arena: one large sparse reservation that holds every byte another process may need, as offsets.
//!
//! Invariants that every `unsafe` block here and in `slots.rs` stands on:
//!
//! 1. The reservation is mapped once and never moves or shrinks while the `Arena` lives.
//! 2. An allocated piece belongs to one commit until that commit publishes; nobody else has its offset. Only that
//!    commit writes to it.
//! 3. After publication its bytes never change until it is freed, and it is freed only when no pin, view or
//!    snapshot can reach it (`reclaim.rs`).
//! 4. Words that are shared while they change (head, ring, slots) are accessed as atomics of one size only.
#![allow(unsafe_code)]

mod alloc;
mod backing;
#[cfg(test)]
pub(crate) mod faults;
mod slots;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub(crate) use alloc::{Alloc, BLOCK, Piece, size_class};
pub(crate) use backing::{Backing, Mapping, reopen_read_only};
pub(crate) use slots::Slots;

use crate::sync::{self, Mutex, MutexGuard, Shared, Word, lock, shared};
use crate::{Code, Error, Result};

/// View counts are kept per this many bytes. Smaller frames share one, which only keeps them a little longer.
const UNIT: u64 = 64;

/// The bytes of an arena, as a reader or the host sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mem {
    base: *mut u8,
    len: u64,
}

// SAFETY: invariants 2 and 3: plain bytes are written by one owner before publication and read only after it;
// words that change while shared are atomics.
unsafe impl Send for Mem {}
// SAFETY: as above.
unsafe impl Sync for Mem {}

impl Mem {
    #[inline]
    fn at(&self, offset: u64, len: u64) -> *mut u8 {
        assert!(offset <= self.len && len <= self.len - offset, "offset outside the arena");
        // SAFETY: the range lies inside the mapping, just checked (invariant 1).
        unsafe { self.base.add(offset as usize) }
    }

    /// For plain reading.
    #[inline]
    fn source(&self, offset: u64, len: u64) -> *const u8 {
        let at = self.at(offset, len);
        sync::reads(at, len);
        at
    }

    /// For plain writing.
    #[inline]
    fn target(&self, offset: u64, len: u64) -> *mut u8 {
        let at = self.at(offset, len);
        sync::writes(at, len);
        at
    }

    /// A word of a node.
    #[inline]
    pub(crate) fn get(&self, offset: u64) -> u64 {
        debug_assert_eq!(offset % 8, 0);
        // SAFETY: inside the mapping and aligned; invariant 2 or 3: no write can race.
        unsafe { self.source(offset, 8).cast::<u64>().read() }
    }

    /// Sets a word of a node that this commit owns.
    #[inline]
    pub(crate) fn set(&self, offset: u64, value: u64) {
        debug_assert_eq!(offset % 8, 0);
        // SAFETY: inside the mapping and aligned; invariant 2: the caller's commit owns the piece.
        unsafe { self.target(offset, 8).cast::<u64>().write(value) }
    }

    /// Published or owned bytes.
    #[inline]
    pub(crate) fn bytes(&self, offset: u64, len: u64) -> &[u8] {
        // SAFETY: inside the mapping; invariant 3: published bytes don't change while they can be reached.
        unsafe { std::slice::from_raw_parts(self.source(offset, len), len as usize) }
    }

    #[inline]
    pub(crate) fn ptr(&self, offset: u64, len: u64) -> *const u8 {
        self.source(offset, len)
    }

    /// Copies bytes from outside into a piece that this commit owns.
    #[inline]
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let to = self.target(offset, data.len() as u64);
        // SAFETY: the target is inside the mapping and owned (invariant 2); `data` is not part of it, since owned
        // bytes are never lent out as slices while they change.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) }
    }

    /// Copies between two pieces; the target is owned by this commit.
    #[inline]
    pub(crate) fn copy(&self, from: u64, to: u64, len: u64) {
        let (from, to) = (self.source(from, len), self.target(to, len));
        // SAFETY: both inside the mapping; pieces are disjoint, and the target is owned (invariant 2).
        unsafe { std::ptr::copy_nonoverlapping(from, to, len as usize) }
    }

    /// Zeroes a piece that this commit owns.
    pub(crate) fn zero(&self, offset: u64, len: u64) {
        // SAFETY: inside the mapping and owned (invariant 2).
        unsafe { std::ptr::write_bytes(self.target(offset, len), 0, len as usize) }
    }

    /// Overwrites a piece that nobody can reach, so that whoever does shows.
    pub(crate) fn scribble(&self, offset: u64, len: u64) {
        // SAFETY: inside the mapping; the piece is free, so no one else has it (invariant 3).
        unsafe { std::ptr::write_bytes(self.target(offset, len), 0xdd, len as usize) }
    }

    /// Words that are shared while they change; to be accessed by `shared`.
    #[inline]
    pub(crate) fn atomics(&self, offset: u64, count: usize) -> &[AtomicU64] {
        debug_assert_eq!(offset % 8, 0);
        let first = self.at(offset, 8 * count as u64).cast::<AtomicU64>();
        // SAFETY: inside the mapping and aligned; invariant 4: such words are only accessed as `AtomicU64`.
        unsafe { std::slice::from_raw_parts(first, count) }
    }

    /// A word that is shared while it changes.
    #[inline]
    pub(crate) fn atomic(&self, offset: u64) -> Word<'_> {
        debug_assert_eq!(offset % 8, 0);
        // SAFETY: inside the mapping and aligned; invariant 4: such words are only accessed as `AtomicU64`.
        shared(unsafe { AtomicU64::from_ptr(self.at(offset, 8).cast()) })
    }
}

/// The host's arena: mapping, allocator and view counts.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) mem: Mem,
    mapping: Mapping,
    alloc: Mutex<Alloc>,
    /// Of views, by unit: words that are only accessed as `AtomicU32`.
    counts: Mapping,
}

impl Arena {
    /// An arena that holds at most `max_memory` bytes.
    pub(crate) fn new(backing: Backing, max_memory: u64) -> Result<Arena> {
        let mapping = Mapping::reserve(backing, max_memory)?;
        let len = mapping.len() as u64;
        let mem = Mem { base: mapping.base(), len };
        let counts = Mapping::new(Backing::Heap, (len / UNIT + 1) as usize * 4)?;
        Ok(Arena { mem, mapping, alloc: Mutex::new(Alloc::new(len, max_memory)), counts })
    }

    /// The allocator; a commit holds it while it fills its pieces.
    pub(crate) fn alloc(&self) -> MutexGuard<'_, Alloc> {
        lock(&self.alloc)
    }

    #[inline]
    fn count(&self, offset: u64) -> Shared<'_, AtomicU32> {
        assert!(offset <= self.mem.len, "a view outside the arena");
        // SAFETY: there is a word for each unit of the arena, so it is inside the mapping and aligned; such words are
        // only accessed as `AtomicU32`.
        shared(unsafe {
            AtomicU32::from_ptr(self.counts.base().cast::<u32>().add((offset / UNIT) as usize))
        })
    }

    /// A view on a one-block frame begins. The caller holds a pin that reaches the frame.
    #[inline]
    pub(crate) fn retain(&self, offset: u64) {
        self.count(offset).fetch_add(1, Ordering::Relaxed);
    }

    /// A view on a one-block frame ends.
    #[inline]
    pub(crate) fn release(&self, offset: u64) {
        self.count(offset).fetch_sub(1, Ordering::Release);
    }

    /// Whether views hold the frame. Read after the pins (`reclaim.rs`).
    #[inline]
    pub(crate) fn is_viewed(&self, offset: u64) -> bool {
        self.count(offset).load(Ordering::Acquire) != 0
    }

    /// The descriptor of the mapping, if it has one.
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }
}

/// A reader's mapping of another process's arena.
#[derive(Debug)]
pub(crate) struct ReadArena {
    pub(crate) mem: Mem,
    _mapping: Mapping,
}

impl ReadArena {
    pub(crate) fn map(fd: std::os::fd::OwnedFd) -> Result<ReadArena> {
        let mapping = Mapping::read_only(fd)?;
        let mem = Mem { base: mapping.base(), len: mapping.len() as u64 };
        Ok(ReadArena { mem, _mapping: mapping })
    }
}

/// Whether a test wants this request for memory to fail.
#[inline]
pub(crate) fn is_denied() -> bool {
    #[cfg(test)]
    return faults::hit();
    #[cfg(not(test))]
    false
}

pub(crate) fn out_of_space(wanted: u64, limit: u64) -> Error {
    Error::new(
        Code::OutOfSpace,
        format!(
            "{wanted} more bytes do not fit into max_memory = {limit}; drop snapshots and arrays that hold old \
             versions, or give the bus a larger max_memory"
        ),
    )
}
