//! Lazy walks over the commits of a range of epochs, forward and backward, also while the host appends.
//!
//! A cursor never looks past `until`, which the caller has seen published: those records are complete.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reader::{Commit, Step, Walk, open_segment};
use super::record::{self, Body};
use super::segment::{self, SegmentName};
use crate::error::{Error, Result};
use crate::vfs::Vfs;

/// A commit with bytes of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedCommit {
    /// Its epoch.
    pub epoch: u64,
    /// Nanoseconds since 1970, as the bus gave them.
    pub time: u64,
    /// Who made it.
    pub source: Option<String>,
    /// Its metadata, canonical JSON.
    pub meta: Option<String>,
    /// Its operations, as the bus encoded them.
    pub ops: Vec<u8>,
}

impl From<Commit<'_>> for OwnedCommit {
    fn from(c: Commit<'_>) -> OwnedCommit {
        OwnedCommit {
            epoch: c.epoch,
            time: c.time,
            source: c.source.map(str::to_string),
            meta: c.meta.map(str::to_string),
            ops: c.ops.to_vec(),
        }
    }
}

/// An iterator over the commits of epochs `since..=until`.
#[derive(Debug)]
pub struct LogCursor {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    since: u64,
    until: u64,
    /// Segments still to come, the next one last.
    segments: Vec<SegmentName>,
    walk: Option<Walk>,
    reverse: Option<Vec<(u64, u64)>>,
    done: bool,
}

impl LogCursor {
    /// Starts a walk; nothing is read yet but the names of the segments.
    pub fn new(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        since: u64,
        until: u64,
        reverse: bool,
    ) -> Result<LogCursor> {
        let since = since.max(1);
        let mut segments = segment::list(&*vfs, dir)?;
        segments.retain(|s| s.first_epoch <= until);
        let first = segments.partition_point(|s| s.first_epoch <= since).saturating_sub(1);
        segments.drain(..first);
        if !reverse {
            segments.reverse();
        }
        let done = since > until;
        let reverse = reverse.then(Vec::new);
        Ok(LogCursor {
            vfs,
            dir: dir.to_path_buf(),
            since,
            until,
            segments,
            walk: None,
            reverse,
            done,
        })
    }

    /// The next commit, without copying it.
    pub fn next_commit(&mut self) -> Result<Option<Commit<'_>>> {
        if self.done {
            return Ok(None);
        }
        // Whatever happens below, a walk that failed or ended does not go on.
        let place = if self.reverse.is_some() { self.seek_back() } else { self.seek_forward() };
        match place {
            Ok(Some((offset, epoch))) => {
                self.done = epoch == if self.reverse.is_some() { self.since } else { self.until };
                self.at(offset, epoch).map(Some)
            }
            Ok(None) => {
                self.done = true;
                Ok(None)
            }
            Err(error) => {
                self.done = true;
                Err(error)
            }
        }
    }

    /// Opens the next segment; false if there is none.
    fn open_next(&mut self) -> Result<bool> {
        let Some(name) = self.segments.pop() else { return Ok(false) };
        let walk = open_segment(&*self.vfs, &self.dir, name, None)?;
        if let Some(before) = &self.walk
            && (before.chain, before.epoch) != (walk.chain, walk.epoch)
            && self.reverse.is_none()
        {
            return Err(walk.damage("the segment does not continue the one before it"));
        }
        self.walk = Some(walk);
        Ok(true)
    }

    /// Moves to the next commit of the range; says where it is.
    fn seek_forward(&mut self) -> Result<Option<(u64, u64)>> {
        if self.walk.is_none() && !self.open_next()? {
            return Ok(None);
        }
        loop {
            let more = !self.segments.is_empty();
            let Some(walk) = &mut self.walk else { return Ok(None) };
            match step_to_commit(walk)? {
                Some((_, epoch)) if epoch < self.since => {}
                Some(place) => return Ok(Some(place)),
                None if more => {
                    self.open_next()?;
                }
                None => return Err(walk.damage("a published commit is missing")),
            }
        }
    }

    /// Takes the last place that is left, reading the segment before if need be.
    fn seek_back(&mut self) -> Result<Option<(u64, u64)>> {
        loop {
            if let Some(place) = self.reverse.as_mut().and_then(Vec::pop) {
                return Ok(Some(place));
            }
            if !self.open_next()? {
                return Ok(None);
            }
            let Some(walk) = &mut self.walk else { return Ok(None) };
            let mut places = Vec::new();
            while walk.epoch < self.until {
                let Some(place) = step_to_commit(walk)? else { break };
                places.push(place);
            }
            self.reverse = Some(places);
        }
    }

    /// The commit at a place that a walk has checked.
    fn at(&mut self, offset: u64, epoch: u64) -> Result<Commit<'_>> {
        let Some(walk) = &mut self.walk else {
            return Err(Error::new(crate::Code::Internal, "a log cursor lost its segment"));
        };
        let changed = "the record changed while it was read";
        let changed = || Error::corruption(&walk.path, Some(offset), Some(epoch), changed);
        let found = walk.window.record(&walk.header.salt, offset)?;
        let (head, bytes) = found.ok_or_else(changed)?;
        if head.epoch_low != epoch as u32 {
            return Err(changed());
        }
        let payload = &bytes[record::HEADER..record::HEADER + head.len as usize];
        match record::parse(&head, payload, offset, walk.header.base_time) {
            Some((_, Body::Commit { time, source, meta, ops })) => {
                Ok(Commit { epoch, time, source, meta, ops, offset, file: &walk.path })
            }
            _ => Err(changed()),
        }
    }
}

/// Walks to the next commit of a segment and says its offset and epoch; `None` at the segment's end.
fn step_to_commit(walk: &mut Walk) -> Result<Option<(u64, u64)>> {
    loop {
        match walk.step()? {
            Step::Commit(commit) => return Ok(Some((commit.offset, commit.epoch))),
            Step::Mark { .. } | Step::Other => {}
            Step::Nothing => return Ok(None),
            Step::Wrong(what) => return Err(walk.damage(what)),
        }
    }
}

impl Iterator for LogCursor {
    type Item = Result<OwnedCommit>;

    fn next(&mut self) -> Option<Result<OwnedCommit>> {
        self.next_commit().map(|commit| commit.map(OwnedCommit::from)).transpose()
    }
}
