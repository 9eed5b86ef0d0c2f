//! Looking places up in an index. Nothing in the file is believed unchecked; what does not hold is no index.

use std::path::Path;
use std::sync::Arc;

use super::{BLOCK, END, ENTRY, HASH, HEADER, MAGIC, MARK, SEQ, STRIDE, UUID, path};
use crate::hash::{h64, h128};
use crate::history::Store;
use crate::log::{self, Seal, SegmentName, Walk, take_varint, u64_at};
use crate::museum::{Defect, planted};
use crate::vfs::{OpenKind, VfsFile, read_exact_at, read_vec};
use crate::{Error, Result};

/// A block is filled past its size by one run's beginning and one place at most.
const LONGEST: u64 = BLOCK as u64 + 40;

/// A block of the directory.
#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u64,
    /// The first place of its first run.
    offset: u64,
    /// Where it begins among the blocks.
    at: u64,
    hash: u64,
}

/// An index that belongs to its segment, its tables checked.
#[derive(Debug)]
pub(crate) struct Index {
    file: Arc<dyn VfsFile>,
    path: Arc<Path>,
    first_epoch: u64,
    /// Where the seal of the segment begins, and what it says.
    seal: u64,
    pub(crate) ends: Seal,
    /// Offset and time of every 64th commit.
    marks: Vec<(u64, u64)>,
    directory: Vec<Entry>,
    blocks_at: u64,
    blocks_len: u64,
}

impl Index {
    /// Opens the index of the segment that `walk` has just opened. None if there is none that says what this segment
    /// says now.
    pub(crate) fn open(store: &Store, name: SegmentName, walk: &mut Walk) -> Result<Option<Index>> {
        let path: Arc<Path> = path(&store.dir, name).into();
        let failed = |e: std::io::Error| Error::storage(&path, &e, "cannot read");
        let file = match store.vfs.open(&path, OpenKind::Read) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(failed)?,
        };
        let size = file.size().map_err(failed)?;
        let mut head = [0; HEADER];
        if size < HEADER as u64 {
            return Ok(None);
        }
        read_exact_at(&*file, 0, &mut head).map_err(failed)?;
        if !log::checked(&head, HEADER, &MAGIC) || log::check_version(&head, 0, &path).is_err() {
            return Ok(None);
        }
        let word = |n: usize| u64_at(&head, SEQ + 8 * n);
        let (seal, chain, end) = (word(3), word(4), word(5));
        let is_its = log::array(&head, UUID) == store.uuid
            && (word(0), word(1)) == (name.seq, name.first_epoch);
        let ends = Seal {
            commits: word(2),
            epoch: name.first_epoch.wrapping_add(word(2)).wrapping_sub(1),
            chain,
            end,
        };
        if !is_its || !ends_so(walk, seal, ends)? {
            return Ok(None);
        }
        let tables = |marks: u64, blocks: u64| {
            let both =
                marks.checked_mul(MARK as u64)?.checked_add(blocks.checked_mul(ENTRY as u64)?)?;
            (HEADER as u64 + both <= size && word(8) == size).then_some(both)
        };
        let Some(len) = tables(word(6), word(7)) else { return Ok(None) };
        let Some(bytes) = read_vec(&*file, HEADER as u64, len).map_err(failed)? else {
            return Ok(None);
        };
        if h128(&bytes).to_le_bytes() != head[HASH..END] {
            return Ok(None);
        }
        let (marks, directory) = bytes.split_at(word(6) as usize * MARK);
        let marks: Vec<_> =
            marks.chunks_exact(MARK).map(|m| (u64_at(m, 0), u64_at(m, 8))).collect();
        let entry = |e: &[u8]| Entry {
            key: u64_at(e, 0),
            offset: u64_at(e, 8),
            at: u64_at(e, 16),
            hash: u64_at(e, 24),
        };
        let directory: Vec<_> = directory.chunks_exact(ENTRY).map(entry).collect();
        let blocks_at = HEADER as u64 + len;
        let first_epoch = name.first_epoch;
        let blocks_len = size - blocks_at;
        Ok(Some(Index {
            file,
            path,
            first_epoch,
            seal,
            ends,
            marks,
            directory,
            blocks_at,
            blocks_len,
        }))
    }

    /// The last marked commit that is not after `epoch`, and where it is.
    pub(crate) fn mark_before(&self, epoch: u64) -> Option<(u64, u64)> {
        let number = usize::try_from(epoch.checked_sub(self.first_epoch)? / STRIDE).ok()?;
        self.mark(number.min(self.marks.len().checked_sub(1)?))
    }

    /// The last marked commit whose time is not after `time`.
    pub(super) fn mark_as_of(&self, time: u64) -> Option<(u64, u64)> {
        self.mark(self.marks.partition_point(|mark| mark.1 <= time).checked_sub(1)?)
    }

    fn mark(&self, number: usize) -> Option<(u64, u64)> {
        Some((self.marks.get(number)?.0, self.first_epoch + STRIDE * number as u64))
    }

    /// Between which offsets the commits of these epochs are.
    pub(crate) fn bounds(&self, since: u64, until: u64) -> (u64, u64) {
        let ordinal = |epoch: u64| epoch.saturating_sub(self.first_epoch) / STRIDE;
        let mark = |n: u64| usize::try_from(n).ok().and_then(|n| self.marks.get(n));
        let low = mark(ordinal(since)).map_or(self.seal, |m| m.0);
        let high = mark(ordinal(until).saturating_add(1)).map_or(self.seal, |m| m.0);
        (low, high)
    }

    /// Where the commits of `since..=until` may be that have all of these keys, in order, with some of the epochs around.
    /// None if the index is damaged.
    pub(crate) fn places(&self, keys: &[u64], since: u64, until: u64) -> Result<Option<Vec<u64>>> {
        let (low, high) = self.bounds(since, until);
        let mut all: Option<Vec<u64>> = None;
        for &key in keys {
            let Some(mut places) = self.run(key, low, high)? else { return Ok(None) };
            if let Some(others) = all {
                places.retain(|place| others.binary_search(place).is_ok());
            }
            all = Some(places);
        }
        Ok(all)
    }

    /// The places of a key in `low..high`.
    fn run(&self, key: u64, low: u64, high: u64) -> Result<Option<Vec<u64>>> {
        let mut places = Vec::new();
        // A run may begin in the block before the one that begins with it.
        let first = self.directory.partition_point(|e| (e.key, e.offset) < (key, low));
        for n in first.saturating_sub(1)..self.directory.len() {
            let entry = self.directory[n];
            if (entry.key, entry.offset) >= (key, high) {
                break;
            }
            let end = self.directory.get(n + 1).map_or(self.blocks_len, |next| next.at);
            let Some(len) = end.checked_sub(entry.at).filter(|&len| len <= LONGEST) else {
                return Ok(None);
            };
            let mut block = [0; LONGEST as usize];
            let block = &mut block[..len as usize];
            let read = read_exact_at(&*self.file, self.blocks_at + entry.at, block);
            read.map_err(|e| Error::storage(&self.path, &e, "cannot read"))?;
            if h64(block) != entry.hash || take_run(block, entry.key, key, &mut places).is_none() {
                return Ok(None);
            }
        }
        places.retain(|place| (low..high).contains(place));
        Ok(places.is_sorted_by(|a, b| a < b).then_some(places))
    }
}

/// Adds the places that a block has of a key; `None` if it does not decode.
fn take_run(mut block: &[u8], mut at: u64, key: u64, places: &mut Vec<u64>) -> Option<()> {
    while !block.is_empty() {
        at = at.checked_add(take_varint(&mut block)?)?;
        let mut offset = 0u64;
        for _ in 0..take_varint(&mut block)? {
            offset = offset.checked_add(take_varint(&mut block)?.checked_mul(8)?)?;
            if at == key {
                places.push(offset);
            }
        }
    }
    Some(())
}

/// Whether a segment ends with the seal that an index tells of.
fn ends_so(walk: &mut Walk, offset: u64, seal: Seal) -> Result<bool> {
    let is_end = seal.end == walk.window.size()? && walk.seal_at(offset)? == Some(seal);
    Ok(is_end || planted(Defect::IndexNotBound))
}
