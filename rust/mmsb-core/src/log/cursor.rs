//! Lazy walks over the commits of a range of epochs, forward and backward, also while the host appends.
//!
//! Invariants: a cursor never looks past `until`, which the caller has seen published: those records are complete. It
//! gives every epoch of its range, or an error for the first that it cannot give; the same damage is the same error in
//! both directions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::meta;
use super::reader::{Commit, Step, Walk, bad_header, commit_at, open_sparse};
use super::recover::CheckpointMark;
use super::segment::{self, SegmentHeader, SegmentName};
use crate::error::{Code, Error, Result};
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
    stand: Option<Stand>,
    /// Where the walk of one segment may begin.
    start: Option<Start>,
    /// Checkpoint marks that were passed on the way.
    pub(crate) marks: Vec<CheckpointMark>,
    reverse: bool,
    done: bool,
}

/// A commit of a segment, and where its record is said to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) name: SegmentName,
    pub(crate) offset: u64,
    pub(crate) epoch: u64,
}

/// Offset and epoch of a commit.
type Place = (u64, u64);

/// The segment that is being read, and backward the places in it that are left, the next one last.
#[derive(Debug)]
struct Stand {
    walk: Walk,
    left: Vec<Place>,
}

impl LogCursor {
    /// Starts a walk; nothing is read yet but the names of the segments. All epochs of the range must be in the log: a
    /// caller whose log begins behind a base asks for none before it.
    pub fn new(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        since: u64,
        until: u64,
        reverse: bool,
    ) -> Result<LogCursor> {
        let since = since.max(1);
        let mut segments = segment::list(&*vfs, dir)?;
        let done = since > until;
        if !done && segments.first().is_none_or(|first| first.first_epoch > since) {
            return Err(missing(dir, since));
        }
        segments.retain(|s| s.first_epoch <= until);
        let first = segments.partition_point(|s| s.first_epoch <= since).saturating_sub(1);
        segments.drain(..first);
        assert!(done || !segments.is_empty(), "a walk has no segment");
        let begins = segments.first().map_or(0, |first| first.first_epoch);
        assert!(done || begins <= since, "a walk begins behind its range");
        assert!(segments.is_sorted_by(|a, b| a.seq + 1 == b.seq), "a segment is left out");
        if !reverse {
            segments.reverse();
        }
        Ok(LogCursor {
            vfs,
            dir: dir.to_path_buf(),
            since,
            until,
            segments,
            stand: None,
            start: None,
            marks: Vec::new(),
            reverse,
            done,
        })
    }

    /// Leaves out the records of a segment that come before a commit. One that is not where it is said to be is looked
    /// for from the segment's beginning.
    pub(crate) fn beginning_at(mut self, start: Option<Start>) -> LogCursor {
        assert!(start.is_none_or(|start| start.epoch <= self.since), "a commit is left out");
        assert!(self.stand.is_none(), "a walk is moved on its way");
        self.start = start;
        self
    }

    /// The next commit, without copying it.
    pub fn next_commit(&mut self) -> Result<Option<Commit<'_>>> {
        if self.done {
            return Ok(None);
        }
        // A walk that failed or ended does not go on.
        self.done = true;
        let stand = self.stand.take();
        let next = stand.as_ref().map_or(self.since, |stand| stand.walk.epoch + 1);
        let found = if self.reverse { self.seek_back(stand) } else { self.seek_forward(stand) };
        let (stand, (offset, epoch)) = found?;
        assert!(self.since <= epoch, "an epoch before the range");
        assert!(epoch <= self.until, "an epoch behind the range");
        assert!(self.reverse || epoch == next, "an epoch is left out");
        self.done = epoch == if self.reverse { self.since } else { self.until };
        at(&mut self.stand.insert(stand).walk, offset, epoch).map(Some)
    }

    fn open_next(&mut self) -> Result<Walk> {
        let name = self.segments.pop().ok_or_else(|| missing(&self.dir, self.since))?;
        let opened = open_sparse(&*self.vfs, &self.dir, name, None);
        let mut walk = opened.map_err(|error| let_go(&*self.vfs, &self.dir, name, error))?;
        if let Some(start) = self.start.filter(|start| start.name == name) {
            walk.skip_to(start.offset, start.epoch)?;
            assert!(walk.epoch < self.since, "a commit is left out");
        }
        Ok(walk)
    }

    /// Moves to the next commit of the range; says where it is.
    fn seek_forward(&mut self, stand: Option<Stand>) -> Result<(Stand, Place)> {
        let mut walk = match stand {
            Some(stand) => stand.walk,
            None => self.open_next()?,
        };
        loop {
            match step_to_commit(&mut walk, &mut self.marks)? {
                Some((_, epoch)) if epoch < self.since => {}
                Some(place) => {
                    assert_eq!(place.1, walk.epoch, "a walk stands at another commit");
                    return Ok((Stand { walk, left: Vec::new() }, place));
                }
                None if self.segments.is_empty() => return Err(walk.damage(MISSING)),
                None => {
                    check_sealed(&walk)?;
                    let next = self.open_next()?;
                    check_follows(&next, &walk)?;
                    walk = next;
                }
            }
        }
    }

    /// Takes the last place that is left, reading the segment before if need be.
    fn seek_back(&mut self, mut stand: Option<Stand>) -> Result<(Stand, Place)> {
        loop {
            let place = stand.as_mut().and_then(|stand| stand.left.pop());
            let after = match (stand, place) {
                (Some(stand), Some(place)) => return Ok((stand, place)),
                (after, _) => after.map(|stand| stand.walk),
            };
            let mut walk = self.open_next()?;
            let mut left = Vec::new();
            // What is behind the range may be half written; a segment with another behind it is read to its end.
            while after.is_some() || walk.epoch < self.until {
                match step_to_commit(&mut walk, &mut self.marks)? {
                    Some((_, epoch)) if epoch < self.since => {}
                    Some(place) => left.push(place),
                    None if after.is_none() => return Err(walk.damage(MISSING)),
                    None => break,
                }
            }
            if let Some(after) = after {
                check_sealed(&walk)?;
                check_follows(&after, &walk)?;
            }
            assert!(left.is_sorted_by(|a, b| a.0 < b.0), "a walk over records goes back");
            assert!(left.is_sorted_by(|a, b| a.1 + 1 == b.1), "an epoch is left out");
            let last = left.last().map(|&(_, epoch)| epoch);
            assert!(last.is_none_or(|epoch| epoch == walk.epoch), "the last epoch is left out");
            stand = Some(Stand { walk, left });
        }
    }
}

const MISSING: &str = "a published commit is missing";

/// The error for a segment that could not be opened: it may have been pruned since it was listed.
pub(crate) fn let_go(vfs: &dyn Vfs, dir: &Path, name: SegmentName, error: Error) -> Error {
    match meta::base(vfs, dir) {
        Ok(base) if error.is_missing() && name.seq < base.seq => {
            let (epoch, base) = (name.first_epoch, base.epoch);
            let what = format!(
                "epoch {epoch} was let go while the log was read, which begins after {base} now"
            );
            Error::new(Code::EpochNotFound, what)
        }
        _ => error,
    }
}

/// The error where no segment can have the commit.
fn missing(dir: &Path, epoch: u64) -> Error {
    Error::corruption(&segment::log_dir(dir), None, Some(epoch), MISSING)
}

/// A segment that another follows ends with its seal. One that does not has lost what comes next.
fn check_sealed(walk: &Walk) -> Result<()> {
    if walk.sealed {
        return Ok(());
    }
    Err(walk.damage("no valid record where there had been one"))
}

/// `next` must begin where the segment before it, read to its end, ends.
fn check_follows(next: &Walk, before: &Walk) -> Result<()> {
    assert!(before.sealed, "a segment is followed before its end was seen");
    let SegmentHeader { seq, first_epoch, chain, .. } = next.header;
    if (chain, first_epoch) == (before.chain, before.epoch.wrapping_add(1)) {
        return Ok(());
    }
    let what = "the segment does not continue the one before it";
    Err(bad_header(&next.path, SegmentName { seq, first_epoch }, what))
}

/// The commit at a place that a walk has checked.
fn at(walk: &mut Walk, offset: u64, epoch: u64) -> Result<Commit<'_>> {
    let changed = "the record changed while it was read";
    let found = commit_at(&mut walk.window, &walk.header, &walk.path, offset)?;
    found
        .filter(|commit| commit.epoch == epoch)
        .ok_or_else(|| Error::corruption(&walk.path, Some(offset), Some(epoch), changed))
}

/// Walks to the next commit of a segment and says its offset and epoch; `None` at the segment's end.
fn step_to_commit(walk: &mut Walk, marks: &mut Vec<CheckpointMark>) -> Result<Option<(u64, u64)>> {
    loop {
        match walk.step()? {
            Step::Commit(commit) => return Ok(Some((commit.offset, commit.epoch))),
            Step::Mark { epoch, digest, size } => {
                marks.push(CheckpointMark { epoch, digest, size });
            }
            Step::Other => {}
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

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
