//! The head of a bus and its ring of roots: how an epoch becomes visible.
//!
//! A root is the handful of words from which every page of an epoch can be found. Roots stand in a ring of records
//! stamped with their epoch; the head names the newest. A commit fills its record, then stores the head: that one
//! store publishes. A reader that finds another stamp than it pinned tries again.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::{BLOCK, Mem};
use crate::sync::{Word, fence, shared};

/// Everything that an epoch's state hangs on. Offsets are into the arena; 0 is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) epoch: u64,
    pub(crate) time: u64,
    /// Page table: root node and levels above its leaves.
    pub(crate) table: u64,
    pub(crate) height: u64,
    /// Name index and tag index.
    pub(crate) names: u64,
    pub(crate) tags: u64,
    /// The id that the next new page gets.
    pub(crate) next_id: u64,
    pub(crate) pages: u64,
    /// Bytes of all pages.
    pub(crate) bytes: u64,
    /// Pages that have a place in the graph.
    pub(crate) nodes: u64,
}

const MAGIC: u64 = u64::from_le_bytes(*b"MMSBhead");
const VERSION: u64 = 2;
const RECORDS: u64 = if cfg!(loom) { 4 } else { 256 };
const RECORD: u64 = 128;
const WORDS: usize = 10;
const HEAD: u64 = 64;
const RING: u64 = 128;

/// Bytes of a head block.
pub(crate) const HEAD_BYTES: u64 = RING + RECORDS * RECORD;

impl Root {
    /// The state before the first commit.
    pub(crate) fn empty() -> Root {
        Root { next_id: 1, ..Root::default() }
    }

    fn words(&self) -> [u64; WORDS] {
        [
            self.epoch,
            self.time,
            self.table,
            self.height,
            self.names,
            self.tags,
            self.next_id,
            self.pages,
            self.bytes,
            self.nodes,
        ]
    }

    fn from_words(w: [u64; WORDS]) -> Root {
        Root {
            epoch: w[0],
            time: w[1],
            table: w[2],
            height: w[3],
            names: w[4],
            tags: w[5],
            next_id: w[6],
            pages: w[7],
            bytes: w[8],
            nodes: w[9],
        }
    }
}

/// A head block at an offset of the arena.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    mem: Mem,
    at: u64,
}

impl Head {
    /// Lays out a head block in zeroed memory and publishes `root`.
    pub(crate) fn create(mem: Mem, at: u64, root: &Root) -> Head {
        mem.zero(at, HEAD_BYTES);
        mem.set(at + 8, VERSION);
        mem.set(at + 16, BLOCK);
        mem.set(at + 24, RECORDS);
        let head = Head { mem, at };
        head.publish(root);
        mem.atomic(at).store(MAGIC, Ordering::Release);
        head
    }

    /// A head block that a host has laid out; `None` if there is none.
    pub(crate) fn attach(mem: Mem, at: u64) -> Option<Head> {
        let ours = mem.atomic(at).load(Ordering::Acquire) == MAGIC
            && mem.get(at + 8) == VERSION
            && mem.get(at + 16) == BLOCK
            && mem.get(at + 24) == RECORDS;
        ours.then_some(Head { mem, at })
    }

    /// The newest published epoch.
    #[inline]
    pub(crate) fn epoch(&self) -> Word<'_> {
        self.mem.atomic(self.at + HEAD)
    }

    /// The record of an epoch.
    #[inline]
    fn record(&self, epoch: u64) -> Record<'_> {
        Record::at(&self.mem, self.at + RING + epoch % RECORDS * RECORD, WORDS)
    }

    /// Makes an epoch visible. Only one thread at a time publishes.
    #[inline]
    pub(crate) fn publish(&self, root: &Root) {
        self.record(root.epoch).fill(root.epoch, root.words());
        self.epoch().store(root.epoch, Ordering::Release);
    }

    /// The root of an epoch, if the ring still has it.
    #[inline]
    pub(crate) fn root(&self, epoch: u64) -> Option<Root> {
        self.record(epoch).read(epoch).map(Root::from_words)
    }
}

/// One record of the ring: words that count only while the stamp before and after them is the epoch that is meant.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    stamp: &'a AtomicU64,
    words: &'a [AtomicU64],
}

impl<'a> Record<'a> {
    #[inline]
    pub(crate) fn at(mem: &'a Mem, at: u64, words: usize) -> Record<'a> {
        let (stamp, words) = mem.atomics(at, 1 + words).split_at(1);
        Record { stamp: &stamp[0], words }
    }

    /// Puts in what an epoch hangs on. Only one thread at a time does so.
    #[inline]
    pub(crate) fn fill<const N: usize>(&self, epoch: u64, values: [u64; N]) {
        shared(self.stamp).store(u64::MAX, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(values) {
            shared(word).store(value, Ordering::Relaxed);
        }
        shared(self.stamp).store(epoch, Ordering::Release);
    }

    /// What the epoch hangs on, if the record is its.
    #[inline]
    pub(crate) fn read<const N: usize>(&self, epoch: u64) -> Option<[u64; N]> {
        if shared(self.stamp).load(Ordering::Acquire) != epoch {
            return None;
        }
        let values = std::array::from_fn(|i| shared(&self.words[i]).load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        (shared(self.stamp).load(Ordering::Relaxed) == epoch).then_some(values)
    }
}
