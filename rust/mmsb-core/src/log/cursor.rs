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
    stand: Option<Stand>,
    reverse: bool,
    done: bool,
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
        Ok(LogCursor {
            vfs,
            dir: dir.to_path_buf(),
            since,
            until,
            segments,
            stand: None,
            reverse,
            done,
        })
    }

    /// The next commit, without copying it.
    pub fn next_commit(&mut self) -> Result<Option<Commit<'_>>> {
        if self.done {
            return Ok(None);
        }
        // A walk that failed or ended does not go on.
        self.done = true;
        let stand = self.stand.take();
        let found = if self.reverse { self.seek_back(stand)? } else { self.seek_forward(stand)? };
        let Some((stand, (offset, epoch))) = found else { return Ok(None) };
        assert!(epoch <= self.until, "a cursor looks past its end");
        self.done = epoch == if self.reverse { self.since } else { self.until };
        at(&mut self.stand.insert(stand).walk, offset, epoch).map(Some)
    }

    /// Opens the next segment, if there is one.
    fn open_next(&mut self) -> Result<Option<Walk>> {
        let Some(name) = self.segments.pop() else { return Ok(None) };
        open_segment(&*self.vfs, &self.dir, name, None).map(Some)
    }

    /// Moves to the next commit of the range; says where it is.
    fn seek_forward(&mut self, stand: Option<Stand>) -> Result<Option<(Stand, Place)>> {
        let mut walk = match stand {
            Some(stand) => stand.walk,
            None => match self.open_next()? {
                Some(first) => first,
                None => return Ok(None),
            },
        };
        loop {
            match step_to_commit(&mut walk)? {
                Some((_, epoch)) if epoch < self.since => {}
                Some(place) => return Ok(Some((Stand { walk, left: Vec::new() }, place))),
                None => {
                    let Some(next) = self.open_next()? else {
                        return Err(walk.damage("a published commit is missing"));
                    };
                    if (walk.chain, walk.epoch) != (next.chain, next.epoch) {
                        let what = "the segment does not continue the one before it";
                        return Err(next.damage(what));
                    }
                    walk = next;
                }
            }
        }
    }

    /// Takes the last place that is left, reading the segment before if need be.
    fn seek_back(&mut self, mut stand: Option<Stand>) -> Result<Option<(Stand, Place)>> {
        loop {
            if let Some(mut stand) = stand
                && let Some(place) = stand.left.pop()
            {
                return Ok(Some((stand, place)));
            }
            let Some(mut walk) = self.open_next()? else { return Ok(None) };
            let mut left = Vec::new();
            while walk.epoch < self.until {
                let Some(place) = step_to_commit(&mut walk)? else { break };
                left.push(place);
            }
            stand = Some(Stand { walk, left });
        }
    }
}

/// The commit at a place that a walk has checked.
fn at(walk: &mut Walk, offset: u64, epoch: u64) -> Result<Commit<'_>> {
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
