//! Reading the log back, from the segment of a checkpoint to the end, and gathering the evidence at the first place
//! that cannot be read.
//!
//! Invariants: nothing is handed out that was not checked; what the host reads was synced first; what proves that
//! bytes had been durable is looked for wherever it may be.

use std::path::{Path, PathBuf};

use super::Position;
use super::meta::StoreMeta;
use super::reader::{Commit, Step, Walk, Window, bad_header, check_header};
use super::record::{self, HEADER, Head};
use super::recover::{
    CheckpointMark, Damage, Evidence, LogRecovery, OpenMode, Place, Verdict, verdict,
};
use super::segment::{self, RECORDS, SegmentHeader, SegmentName};
use crate::error::{Error, Result};
use crate::hash::is_zero;
use crate::museum::{Defect, planted};
use crate::vfs::{OpenKind, Vfs};

/// The one reading of the log.
pub(super) struct Scan<'a> {
    vfs: &'a dyn Vfs,
    dir: &'a Path,
    meta: &'a StoreMeta,
    pub(super) names: Vec<SegmentName>,
    from_epoch: u64,
    /// A checkpoint says that the log was durable up to this epoch.
    promised: u64,
    /// The host reads: every file is synced before.
    sync: bool,
    /// Nothing from here on is shown.
    limit: Option<Position>,
    /// The farthest position that anything read so far says to be durable.
    pub(super) proven: Position,
    done: u64,
    total: u64,
    pub(super) found: LogRecovery,
}

/// What one look at a record's place gave.
enum Found {
    Record,
    Wrong(&'static str),
    Nothing,
}

/// Why the reading of a segment ended the reading of the log.
enum Stop {
    No,
    Limit,
    Torn,
}

/// Where the good part of the log ends.
pub(super) struct End {
    /// The segment that it ends in, as an index.
    pub(super) index: usize,
    pub(super) walk: Walk,
    /// The first segment that is torn whole, as an index; past the last one if there is none.
    pub(super) torn_from: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        vfs: &'a dyn Vfs,
        dir: &'a Path,
        meta: &'a StoreMeta,
        names: Vec<SegmentName>,
        from_epoch: u64,
        promised: u64,
        mode: &OpenMode,
    ) -> Scan<'a> {
        assert!(!names.is_empty(), "a log without a segment is read");
        let in_order = |a: &SegmentName, b: &SegmentName| a.seq + 1 == b.seq;
        assert!(names.is_sorted_by(in_order), "a segment is not at the place of its number");
        let by_name = if planted(Defect::NamePromises) { from_epoch } else { 0 };
        let limit = matches!(mode, OpenMode::Reader { durable_only: true }).then_some(meta.durable);
        Scan {
            vfs,
            dir,
            meta,
            names,
            from_epoch,
            promised: promised.max(by_name),
            sync: matches!(mode, OpenMode::Writer(_)),
            limit,
            proven: meta.durable,
            done: 0,
            total: 0,
            found: LogRecovery::default(),
        }
    }

    fn path(&self, index: usize) -> PathBuf {
        segment::log_dir(self.dir).join(self.names[index].file())
    }

    pub(super) fn run(
        &mut self,
        on: &mut dyn FnMut(Commit<'_>) -> Result<()>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<End> {
        // The mark of a checkpoint lies behind the commit that it is of. A checkpoint in the last segment was made when all
        // before it was durable.
        let behind = self.names.partition_point(|name| name.first_epoch <= self.from_epoch);
        let start = behind.saturating_sub(1);
        if self.names[start].first_epoch > self.from_epoch.saturating_add(1) {
            let what = "the segments before it are missing";
            return Err(bad_header(&self.path(start), self.names[start], what));
        }
        if self.sync {
            let log = segment::log_dir(self.dir);
            self.vfs.sync_dir(&log).map_err(|e| Error::storage(&log, &e, "sync"))?;
        }
        self.run_from(start, on, progress)
    }

    fn run_from(
        &mut self,
        start: usize,
        on: &mut dyn FnMut(Commit<'_>) -> Result<()>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<End> {
        // Where the first try met a segment that is torn whole, nothing was read yet.
        assert_eq!(self.found, LogRecovery::default(), "a part of the log is read twice");
        assert_eq!(self.done, 0, "a part of the log was counted before");
        self.total = 0;
        for index in start..self.names.len() {
            let size = Window::open(self.vfs, &self.path(index))?.size()?;
            self.total = self.total.saturating_add(size);
        }
        let mut last: Option<Walk> = None;
        let mut index = start;
        loop {
            let before = last.as_ref().map(|last| last.header.seq + 1);
            let is_next = before.is_none_or(|next| next == self.names[index].seq);
            assert!(is_next, "a segment is left out");
            let Some(mut walk) = self.enter(index, last.as_ref())? else {
                return match last {
                    Some(last) => self.torn(index - 1, last, index),
                    None if index > 0 => self.run_from(index - 1, on, progress),
                    None => Err(self.no_header(0)),
                };
            };
            match self.walk(index, &mut walk, on, progress)? {
                Stop::No if index + 1 < self.names.len() => last = Some(walk),
                Stop::No | Stop::Limit => return Ok(self.end(index, walk, index + 1)),
                Stop::Torn => return self.torn(index, walk, index + 1),
            }
            index += 1;
        }
    }

    fn no_header(&self, index: usize) -> Error {
        bad_header(&self.path(index), self.names[index], "the segment's header is damaged")
    }

    /// Ends where the segments from `torn_from` on are torn whole.
    fn torn(&mut self, index: usize, walk: Walk, torn_from: usize) -> Result<End> {
        for torn in torn_from..self.names.len() {
            let nonzero = Window::open(self.vfs, &self.path(torn))?.last_nonzero(0)?;
            self.found.torn_bytes = self.found.torn_bytes.saturating_add(nonzero.unwrap_or(0));
        }
        Ok(self.end(index, walk, torn_from))
    }

    fn end(&mut self, index: usize, walk: Walk, torn_from: usize) -> End {
        assert_eq!(index + 1, torn_from, "a segment is neither good nor torn");
        assert!(torn_from <= self.names.len(), "a segment is torn that is not there");
        assert_eq!(walk.header.seq, self.names[index].seq, "the log ends in another segment");
        assert!(self.proven >= self.meta.durable, "a proof was forgotten");
        assert!(walk.offset >= RECORDS, "the log ends in a header");
        assert!(walk.offset.is_multiple_of(8), "the log ends inside a record");
        self.found.last_epoch = walk.epoch;
        self.found.end = Position { seq: walk.header.seq, offset: walk.offset };
        self.found.last_time = self.found.last_time.max(walk.header.base_time);
        End { index, walk, torn_from }
    }

    /// Opens a segment at its first record; `None` if it is torn whole.
    fn enter(&mut self, index: usize, before: Option<&Walk>) -> Result<Option<Walk>> {
        assert!(before.is_none_or(|before| before.sealed), "a segment follows one without a seal");
        let (path, name) = (self.path(index), self.names[index]);
        if self.sync {
            sync_before_reading(self.vfs, &path)?;
        }
        let mut window = Window::open(self.vfs, &path)?;
        let Some(header) = window.header()? else {
            // Its name may say anything.
            let epoch = before.map_or(name.first_epoch, |before| before.epoch + 1);
            return match self.judge(index, 0, epoch, Damage::Bytes, None)? {
                Verdict::Torn => Ok(None),
                _ => Err(self.no_header(index)),
            };
        };
        check_header(&header, &path, name, Some(self.meta.uuid))?;
        self.proven = self.proven.max(header.durable);
        let walk = Walk::new(window, header);
        if before.is_some_and(|b| (b.chain, b.epoch) != (walk.chain, walk.epoch)) {
            return Err(bad_header(&path, name, "the segment does not continue the one before it"));
        }
        Ok(Some(walk))
    }

    /// Reads a segment's records.
    fn walk(
        &mut self,
        index: usize,
        walk: &mut Walk,
        on: &mut dyn FnMut(Commit<'_>) -> Result<()>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Stop> {
        assert_eq!(walk.header.seq, self.names[index].seq, "a walk goes through another segment");
        assert_eq!(walk.offset, RECORDS, "a walk does not begin with the first record");
        let (seq, size) = (walk.header.seq, walk.window.size()?);
        let last = index + 1 == self.names.len();
        let (mut told, mut second_look) = (0, false);
        loop {
            let (at, epoch) = (walk.offset, walk.epoch.wrapping_add(1));
            if self.limit.is_some_and(|limit| Position { seq, offset: at } >= limit) {
                return Ok(Stop::Limit);
            }
            let (damage, what) = match self.record(walk, on)? {
                Found::Record => {
                    assert!(walk.offset > at, "a walk over records stands still");
                    second_look = false;
                    if at - told >= 1 << 20 {
                        told = at;
                        progress(self.done.saturating_add(at), self.total);
                    }
                    continue;
                }
                Found::Wrong(what) => (Damage::Link, what),
                Found::Nothing => {
                    let zeros = walk.window.last_nonzero(at)?.is_none();
                    if zeros && walk.sealed && !last {
                        break;
                    }
                    let damage = if zeros && last { Damage::None } else { Damage::Bytes };
                    (damage, "no valid record where there had been one")
                }
            };
            match self.judge(index, at, epoch, damage, Some(walk))? {
                Verdict::Clean => break,
                // A host may have completed the record since it was read.
                _ if !self.sync && !second_look => {
                    walk.window.refresh();
                    second_look = true;
                }
                Verdict::Corrupt => return Err(walk.damage(what)),
                Verdict::Torn => {
                    let end = walk.window.last_nonzero(at)?;
                    self.found.torn_bytes += end.map_or(0, |end| end - at);
                    return Ok(Stop::Torn);
                }
            }
        }
        assert!(last || walk.sealed, "a segment ends without its seal");
        self.done = self.done.saturating_add(size);
        progress(self.done, self.total);
        Ok(Stop::No)
    }

    /// Reads one record and hands out what it says.
    fn record(
        &mut self,
        walk: &mut Walk,
        on: &mut dyn FnMut(Commit<'_>) -> Result<()>,
    ) -> Result<Found> {
        match walk.step()? {
            Step::Commit(commit) => {
                self.found.last_time = commit.time;
                if commit.epoch > self.from_epoch {
                    self.found.records += 1;
                    on(commit)?;
                }
            }
            Step::Mark { epoch, digest, size } => {
                self.found.marks.push(CheckpointMark { epoch, digest, size });
            }
            Step::Other => {}
            Step::Wrong(what) => return Ok(Found::Wrong(what)),
            Step::Nothing => return Ok(Found::Nothing),
        }
        let behind = walk.epoch.saturating_sub(self.from_epoch);
        assert_eq!(self.found.records, behind, "a commit was left out or read twice");
        let durable = Position { seq: walk.header.seq, offset: walk.durable };
        self.proven = self.proven.max(durable);
        Ok(Found::Record)
    }

    /// Collects the evidence about the place `offset` of a segment and judges.
    fn judge(
        &mut self,
        index: usize,
        offset: u64,
        epoch: u64,
        damage: Damage,
        walk: Option<&mut Walk>,
    ) -> Result<Verdict> {
        let here = Position { seq: self.names[index].seq, offset };
        let place = match self.names.len() - index {
            1 => Place::Last,
            2 => Place::Previous,
            _ => Place::Earlier,
        };
        assert_eq!(walk.is_some(), offset >= RECORDS, "no walk led to the place of a record");
        let ends = damage == Damage::None;
        assert!(!ends || place == Place::Last, "the log ends before another segment");
        let (mut by_record, mut by_header) = (false, false);
        if let Some(walk) = walk
            && !ends
        {
            by_record |= promise(&mut walk.window, &walk.header, offset)? > offset;
        }
        if place == Place::Previous {
            let mut window = Window::open(self.vfs, &self.path(index + 1))?;
            if let Some(header) = window.header()? {
                by_header = header.durable > here;
                by_record |= promise(&mut window, &header, RECORDS)? > 0;
            }
        }
        Ok(verdict(Evidence {
            place,
            damage,
            promised_by_record: by_record,
            promised_by_header: by_header,
            promised_by_meta: self.meta.durable > here,
            promised_by_checkpoint: epoch <= self.promised,
        }))
    }
}

/// A process killed before its sync leaves bytes in the cache that a later power loss would take away.
fn sync_before_reading(vfs: &dyn Vfs, path: &Path) -> Result<()> {
    let file = vfs.open(path, OpenKind::ReadWrite).map_err(|e| Error::storage(path, &e, "open"))?;
    file.sync().map_err(|e| Error::storage(path, &e, "sync"))
}

/// Bytes that records may claim without being there, as a copy with holes has them.
const CLAIMED: u64 = 1 << 30;

/// Looks at every place from `from` on for valid records of this segment; the farthest offset that one says to be
/// durable. Bytes made to look like many records would take long to check; then the answer is "all of it".
fn promise(window: &mut Window, header: &SegmentHeader, from: u64) -> Result<u64> {
    assert!(from.is_multiple_of(8), "records are looked for beside their places");
    let (size, mut data) = (window.size()?, 0u64);
    window.nonzero(from, u64::MAX, &mut |_, bytes| {
        data += bytes.len() as u64;
        Ok(())
    })?;
    // What is in the file counts, not the length that it claims.
    let mut budget = data.saturating_mul(4).saturating_add(CLAIMED);
    let (mut at, mut farthest) = (from, 0);
    loop {
        let bytes = window.get(at, HEADER)?;
        if bytes.len() < HEADER {
            return Ok(farthest);
        }
        let zeros = is_zero(&bytes[..HEADER]);
        let Some(head) = Head::read(bytes, record::seed(&header.salt, at)) else {
            at = match zeros {
                false => at + 8,
                true => match window.next_nonzero(at)? {
                    Some(found) => found & !7,
                    None => return Ok(farthest),
                },
            };
            continue;
        };
        // A length that the file never got, or lost with the power: nothing to check, and it costs nothing.
        if head.size() > size.saturating_sub(at) {
            at += 8;
            continue;
        }
        let Some(left) = budget.checked_sub(head.size()) else { return Ok(u64::MAX) };
        budget = left;
        match window.record(&header.salt, at)? {
            Some((head, bytes)) => {
                let payload = &bytes[HEADER..HEADER + head.len as usize];
                let parsed = record::parse(&head, payload, at, header.base_time);
                farthest = farthest.max(parsed.and_then(|(durable, _)| durable).unwrap_or(0));
                assert!(farthest <= at, "a record tells of what comes after it");
                at += head.size();
            }
            None => at += 8,
        }
    }
}
