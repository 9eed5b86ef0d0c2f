//! The transaction log: an append-only record of every commit, in segment files.
//!
//! [`Log`] writes, [`open`] reads a store back and decides what an incomplete end means, [`LogCursor`] walks through
//! history, [`verify`] checks every byte. FORMAT.md has the layout. Invariants: one commit is one checksummed record;
//! nothing is ever rewritten or silently shortened; only what a sync has reached is called durable; what lies before the
//! base goes after the base is durable.

mod active;
pub(crate) mod birth;
mod cursor;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
pub(crate) mod double;
#[cfg(test)]
mod evidence_tests;
#[cfg(test)]
mod failure_tests;
#[cfg(test)]
mod forged_tests;
#[cfg(test)]
mod format_tests;
mod mapped;
#[cfg(test)]
mod mapping_tests;
mod meta;
#[cfg(test)]
mod order_tests;
mod reader;
#[cfg(test)]
mod reading_tests;
mod record;
mod recover;
mod repair;
pub(crate) mod salvage;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod verify;
#[cfg(test)]
mod verify_tests;
mod writer;

pub use cursor::{LogCursor, OwnedCommit};
pub(crate) use cursor::{Start, let_go};
pub use meta::{LogBase, Parent, StoreMeta, read_meta};
pub(crate) use meta::{MetaSlots, base};
pub use reader::Commit;
pub(crate) use reader::{Seal, Step, Walk, commit_at, open_segment, open_sparse};
pub use record::{HEADROOM, META, SOURCE, put_text};
pub(crate) use record::{put_varint, take_varint, u64_at, varint};
pub use recover::{CheckpointMark, LogRecovery, OpenMode, open};
pub(crate) use segment::{SegmentName, array, check_version, checked, list, list_both, log_dir};
pub use verify::{Walked, verify};
pub use writer::{Log, SyncPoint};

use std::path::Path;

use crate::error::{Error, Result};
use crate::vfs::{StoreLock, Vfs};

/// The format that this build writes, as (major, minor); it reads the same major.
pub const FORMAT: (u16, u16) = (segment::MAJOR, segment::MINOR);

/// A place in the log. Everything before it is ordered before everything behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment.
    pub seq: u64,
    /// Byte in the segment's file.
    pub offset: u64,
}

/// How a log is written.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The size that a segment aims at; 64 MiB.
    pub segment_bytes: u64,
    /// Makes the store's UUID and the segments' salts reproducible, for tests.
    pub seed: Option<u64>,
    /// Times of the first segment are stored as distances from this; none: the system's clock, or 0 with a seed.
    pub time: Option<u64>,
    /// The durability chosen at creation, as the bus encodes it; kept in the meta slots.
    pub durability: u8,
    /// Size of a block, for the segments' headers.
    pub block_size: u32,
    /// The epoch that the first commit follows; above 0 in the log of a fork.
    pub base_epoch: u64,
    /// Append through a mapping where the file system allows it. For a bus whose commits do not wait for a sync: a
    /// sync makes the next store into each page slower than a write.
    pub mapped: bool,
    /// A checkpoint says that the log was durable up to this epoch.
    pub promised: u64,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            seed: None,
            time: None,
            durability: 0,
            block_size: 16 << 10,
            base_epoch: 0,
            mapped: false,
            promised: 0,
        }
    }
}

/// Takes the lock of the store in `dir`.
pub fn lock(vfs: &dyn Vfs, dir: &Path) -> Result<Box<dyn StoreLock>> {
    if !vfs.exists(dir).map_err(|e| Error::storage(dir, &e, "look for"))? {
        return Err(meta::not_a_store(dir));
    }
    vfs.lock(&dir.join("lock"))
}
