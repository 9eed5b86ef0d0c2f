//! Bringing a store's files into order after an unclean end, by its new host.
//!
//! Invariants: torn bytes are copied and synced before they are cut; every step can be interrupted and the next
//! opening comes to the same end; after it everything is sealed and durable.

use std::path::{Path, PathBuf};

use super::Position;
use super::reader::{Walk, Window};
use super::record::{self, Body, HEADER, Head};
use super::recover::LogRecovery;
use super::scan::End;
use super::segment::{self, RECORDS, SegmentName};
use super::writer::LogState;
use crate::error::{Error, Result};
use crate::museum::{Defect, planted};
use crate::trace;
use crate::vfs::{OpenKind, Vfs, VfsFile, write_all_at};

/// Brings the files into the state that the reading found: torn bytes aside, the end sealed and durable.
pub(super) struct Repair<'a> {
    pub(super) vfs: &'a dyn Vfs,
    pub(super) dir: &'a Path,
    pub(super) names: &'a [SegmentName],
    /// What is durable for certain.
    pub(super) proven: Position,
    pub(super) found: &'a mut LogRecovery,
}

impl Repair<'_> {
    pub(super) fn run(mut self, end: End) -> Result<LogState> {
        let End { index, mut walk, torn_from } = end;
        assert_eq!(walk.header.seq, self.names[index].seq, "another segment than the last is cut");
        assert!(torn_from <= self.names.len(), "a segment is torn that is not there");
        // The last one first: a crash in between must not leave a gap in the sequence.
        for torn in (torn_from..self.names.len()).rev() {
            self.set_aside(self.names[torn])?;
        }
        let path = walk.path.clone();
        let failed = |e: &std::io::Error, doing: &str| Error::storage(&path, e, doing);
        let file = self.vfs.open(&path, OpenKind::ReadWrite).map_err(|e| failed(&e, "open"))?;
        let mut at = walk.offset;
        let good = Position { seq: walk.header.seq, offset: at };
        let ignored = planted(Defect::PromiseIgnored);
        assert!(self.proven <= good || ignored, "what is durable would be cut");
        assert!(at.is_multiple_of(8), "the log would be cut inside a record");
        let suspect = self.proven < good;
        if suspect && !planted(Defect::CacheTrusted) {
            self.rewrite(index, at)?;
        }
        if let Some(torn_end) = walk.window.last_nonzero(at)? {
            self.copy_aside(&mut walk.window, at, torn_end)?;
        }
        if walk.window.size()? != at && !planted(Defect::TornTailKept) {
            file.set_len(at).map_err(|e| failed(&e, "cut"))?;
        }
        file.sync().map_err(|e| failed(&e, "sync"))?;
        if !walk.sealed {
            at = seal(&*file, &mut walk).map_err(|e| failed(&e, "seal"))?;
        }
        assert!(walk.offset <= at, "a seal is behind the records");
        assert!(at.is_multiple_of(8), "the log ends inside a record");
        assert!(at > RECORDS, "a segment ends without its seal");
        let mut sealed_bytes = at;
        for name in &self.names[..index] {
            let path = segment::log_dir(self.dir).join(name.file());
            let size = Window::open(self.vfs, &path)?.size()?;
            sealed_bytes = size.saturating_add(sealed_bytes);
        }
        Ok(LogState {
            next_seq: walk.header.seq + 1,
            epoch: walk.epoch,
            time: self.found.last_time,
            chain: walk.chain,
            end: Position { seq: walk.header.seq, offset: at },
            sealed_bytes,
        })
    }

    fn quarantine(&self) -> PathBuf {
        self.dir.join("quarantine")
    }

    /// A name in quarantine that nothing has yet.
    fn free_name(&self, stem: &str) -> Result<PathBuf> {
        let dir = self.quarantine();
        let mut path = dir.join(format!("{stem}.torn"));
        let mut number = 1;
        while self.vfs.exists(&path).map_err(|e| Error::storage(&path, &e, "look for"))? {
            path = dir.join(format!("{stem}.{number}.torn"));
            number += 1;
        }
        Ok(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.vfs.sync_dir(dir).map_err(|e| Error::storage(dir, &e, "sync"))
    }

    /// Takes a segment that is torn whole out of the log. One without a single byte in it is no loss.
    fn set_aside(&mut self, name: SegmentName) -> Result<()> {
        assert!(name.seq > 0, "a store would lose its first segment");
        let is_unproven = self.proven.seq < name.seq || planted(Defect::PromiseIgnored);
        assert!(is_unproven, "what is durable would be set aside");
        let log = segment::log_dir(self.dir);
        let from = log.join(name.file());
        if Window::open(self.vfs, &from)?.last_nonzero(0)?.is_none() {
            self.vfs.unlink(&from).map_err(|e| Error::storage(&from, &e, "remove"))?;
        } else {
            let to = self.free_name(&name.file())?;
            self.vfs.rename(&from, &to).map_err(|e| Error::storage(&from, &e, "set aside"))?;
            self.sync_dir(&self.quarantine())?;
            let bytes = Window::open(self.vfs, &to)?.size()?;
            trace::quarantine(&to, bytes);
            self.found.quarantined.push(to);
        }
        self.sync_dir(&log)
    }

    /// Copies torn bytes before they are cut.
    fn copy_aside(&mut self, window: &mut Window, from: u64, end: u64) -> Result<()> {
        assert!(from < end, "no bytes are copied");
        assert!(from.is_multiple_of(8), "torn bytes begin inside a record");
        let stem = window.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = self.free_name(&format!("{stem}-{from:016x}"))?;
        let failed = |e: &std::io::Error| Error::storage(&to, e, "write");
        let copy = self.vfs.open(&to, OpenKind::CreateNew).map_err(|e| failed(&e))?;
        window.nonzero(from, end, &mut |at, bytes| {
            write_all_at(&*copy, at - from, bytes).map_err(|e| failed(&e))
        })?;
        copy.sync().map_err(|e| failed(&e))?;
        self.sync_dir(&self.quarantine())?;
        trace::recovery_torn(&window.path, from, end - from);
        trace::quarantine(&to, end - from);
        self.found.quarantined.push(to);
        Ok(())
    }

    /// Writes what no sync is known to have reached again: after a failed sync the cache may show bytes that the disk
    /// lacks, and would never write them by itself. The same bytes at the same places, so a crash in between is harmless.
    /// The last segment is good up to `good`.
    fn rewrite(&self, last: usize, good: u64) -> Result<()> {
        assert!(good >= RECORDS, "the log ends in a header");
        assert!(self.proven.seq <= self.names[last].seq, "nothing is to be written again");
        for name in self.names[last.saturating_sub(1)..=last].iter() {
            let start = match name.seq.cmp(&self.proven.seq) {
                std::cmp::Ordering::Less => continue,
                std::cmp::Ordering::Equal => self.proven.offset,
                std::cmp::Ordering::Greater => 0,
            };
            let path = segment::log_dir(self.dir).join(name.file());
            let failed = |e: &std::io::Error| Error::storage(&path, e, "write again");
            let mut window = Window::open(self.vfs, &path)?;
            let file = self.vfs.open(&path, OpenKind::ReadWrite).map_err(|e| failed(&e))?;
            let end = if name.seq == self.names[last].seq { good } else { u64::MAX };
            assert!(start <= end, "what is written again ends before it begins");
            window.nonzero(start, end, &mut |at, bytes| {
                write_all_at(&*file, at, bytes).map_err(|e| failed(&e))
            })?;
            file.sync().map_err(|e| failed(&e))?;
        }
        Ok(())
    }
}

/// Ends a segment that its writer did not. Everything before the seal is durable by now, and the seal says so.
fn seal(file: &dyn VfsFile, walk: &mut Walk) -> std::io::Result<u64> {
    let at = walk.offset;
    assert!(at.is_multiple_of(8), "a seal is not aligned");
    assert!(!walk.sealed, "a segment is sealed twice");
    let mut bytes = vec![0u8; HEADER];
    bytes.push(0);
    bytes.extend_from_slice(&walk.commits.to_le_bytes());
    bytes.extend_from_slice(&walk.epoch.to_le_bytes());
    let seed = record::seed(&walk.header.salt, at);
    let body =
        record::finish(&mut bytes, record::SEAL, record::DURABLE, walk.epoch, walk.chain, seed);
    bytes.resize(record::padded(bytes.len() as u64) as usize, 0);
    let held = Head::read(&bytes, seed).filter(|head| head.holds(&bytes, seed));
    let payload = |head: &Head| HEADER..HEADER + head.len as usize;
    let read = held.and_then(|head| record::parse(&head, &bytes[payload(&head)], at, 0));
    let meant = Body::Seal { commits: walk.commits, epoch: walk.epoch };
    assert_eq!(read, Some((Some(at), meant)), "a seal reads as another record");
    assert!(bytes.len() as u64 <= record::SEAL_ROOM, "a seal takes the room kept for it");
    write_all_at(file, at, &bytes)?;
    file.sync()?;
    let chain = held.map(|head| head.chain_after());
    walk.chain = record::chain_after(walk.chain, body);
    assert_eq!(chain, Some(walk.chain), "a seal does not continue the chain");
    Ok(at + bytes.len() as u64)
}
