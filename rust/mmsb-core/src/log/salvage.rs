//! Reading a log that is damaged: what follows each other without a gap, wherever it begins.
//!
//! Invariants: every record in a run was checked as in any other reading, and follows the one before it; a run that
//! does not begin where the log begins says nothing about the state before it; nothing is written.

use std::path::{Path, PathBuf};

use super::meta::{read_slot, slot_paths};
use super::reader::{Commit, Step, Walk, Window, bad_header, check_header, open_segment};
use super::record::{self, COMMIT, HEADER, Head};
use super::segment::{self, MAX_EPOCH, SegmentName};
use super::{CheckpointMark, LogBase, Position, StoreMeta};
use crate::error::{Code, Error, Result};
use crate::hash::is_zero;
use crate::vfs::Vfs;

/// Bytes that records may claim without being there: looking for records in bytes that were made to look like many of
/// them must end.
const CLAIMED: u64 = 1 << 30;

/// Where a run begins: a record, and what is known there without those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    name: SegmentName,
    offset: u64,
    epoch: u64,
    chain: u64,
}

/// Records that follow each other, over any number of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    start: Start,
    /// Its segments.
    names: Vec<SegmentName>,
    /// The last epoch, the one before its first commit if it has none.
    pub(crate) last: u64,
}

impl Run {
    /// The epoch that its first commit follows.
    pub(crate) fn before(&self) -> u64 {
        self.start.epoch
    }
}

/// What a log has that can be read.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) runs: Vec<Run>,
    pub(crate) marks: Vec<CheckpointMark>,
    /// Sound records, and the bytes of all segments.
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    /// The first time that is known of.
    pub(crate) time: Option<u64>,
}

/// The store's number and durability, as far as slots and segments tell them; no number if nothing does.
pub(crate) fn identity(
    vfs: &dyn Vfs,
    dir: &Path,
    names: &[SegmentName],
    on_problem: &mut dyn FnMut(Error),
) -> Result<Option<StoreMeta>> {
    let mut slots: Vec<(PathBuf, StoreMeta)> = Vec::new();
    for path in slot_paths(dir) {
        match read_slot(vfs, &path)? {
            Some(slot) => slots.push((path, slot)),
            None => {
                on_problem(Error::corruption(&path, Some(0), None, "the meta slot is not whole"))
            }
        }
    }
    let mut headers = names.iter().filter_map(|name| {
        let window = Window::open(vfs, &segment::log_dir(dir).join(name.file()));
        window.and_then(|mut window| window.header()).transpose()
    });
    let first = headers.next().transpose()?;
    let uuid = first.as_ref().map(|header| header.uuid);
    // The log is the history: a slot of another store is the wrong one.
    slots.retain(|(path, slot)| {
        let fits = uuid.is_none_or(|uuid| uuid == slot.uuid);
        if !fits {
            let what = "the meta slot is of another store than the log";
            on_problem(Error::corruption(path, Some(40), None, what));
        }
        fits
    });
    let newest = slots.into_iter().map(|(_, slot)| slot).max_by_key(|slot| slot.generation);
    Ok(newest.or_else(|| uuid.map(unknown)))
}

/// What is taken for granted of a store whose slots are gone: commits that wait for the disk.
pub(crate) fn unknown(uuid: [u8; 16]) -> StoreMeta {
    let durable = Position::default();
    let base = LogBase::default();
    StoreMeta { uuid, durability: 2, generation: 0, durable, durable_epoch: 0, base, parent: None }
}

/// The segments that there are, in order, gaps or not.
pub(crate) fn names(
    vfs: &dyn Vfs,
    dir: &Path,
    on_problem: &mut dyn FnMut(Error),
) -> Result<Vec<SegmentName>> {
    let log = segment::log_dir(dir);
    if !vfs.exists(&log).map_err(|e| Error::storage(&log, &e, "look for"))? {
        return Ok(Vec::new());
    }
    let files = vfs.list(&log).map_err(|e| Error::storage(&log, &e, "list"))?;
    let mut names = Vec::new();
    for file in files.iter().filter(|file| file.ends_with(segment::EXTENSION)) {
        match SegmentName::parse(file) {
            Some(name) if (1..=MAX_EPOCH).contains(&name.first_epoch) => names.push(name),
            _ => {
                let path = log.join(file);
                on_problem(Error::corruption(&path, None, None, "not the name of a segment"));
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Reads all segments, of which the first should have the number `first`. What is wrong goes to `on_problem`; `progress` is told the bytes done.
pub(crate) fn read(
    vfs: &dyn Vfs,
    dir: &Path,
    uuid: [u8; 16],
    (first, names): (u64, &[SegmentName]),
    on_problem: &mut dyn FnMut(Error),
    progress: &mut dyn FnMut(u64),
) -> Result<Runs> {
    let found = Runs::default();
    let mut reading = Reading { found, open: None, next_seq: first, last: 0, on_problem };
    for &name in names {
        let window = Window::open(vfs, &segment::log_dir(dir).join(name.file()))?;
        let size = window.size()?;
        let begun = reading.found.bytes;
        reading.segment(window, name, uuid, &mut |at| progress(begun.saturating_add(at)))?;
        reading.found.bytes = begun.saturating_add(size);
        progress(reading.found.bytes);
    }
    reading.close();
    Ok(reading.found)
}

/// A run that may go on, and what its next record must continue.
struct Open {
    run: Run,
    chain: u64,
    sealed: bool,
}

struct Reading<'a> {
    found: Runs,
    open: Option<Open>,
    /// The number that the next segment should have.
    next_seq: u64,
    /// The newest epoch that was met.
    last: u64,
    on_problem: &'a mut dyn FnMut(Error),
}

impl Reading<'_> {
    /// Ends the run that is open.
    fn close(&mut self) {
        self.found.runs.extend(self.open.take().map(|open| open.run));
    }

    /// What is known of the log ends before this segment, unless it goes on there.
    fn enter(&mut self, walk: &Walk, name: SegmentName) {
        let Some(open) = &mut self.open else { return self.begin(walk, name) };
        let fits = (open.chain, open.run.last) == (walk.chain, walk.epoch);
        if fits && open.sealed {
            open.run.names.push(name);
            open.sealed = false;
            return;
        }
        let what = "the segment does not continue the one before it";
        (self.on_problem)(bad_header(&walk.path, name, what));
        self.begin(walk, name);
    }

    /// Tells of segments that should come before this one.
    fn look_for_gap(&mut self, path: &Path, name: SegmentName) {
        if name.seq > self.next_seq {
            let what = format!("the segment with number {} before it is missing", self.next_seq);
            (self.on_problem)(Error::corruption(path, None, Some(self.last + 1), what));
            self.close();
        }
        self.next_seq = self.next_seq.max(name.seq.saturating_add(1));
    }

    /// Begins a run at the record that a walk stands at.
    fn begin(&mut self, walk: &Walk, name: SegmentName) {
        self.close();
        let (offset, epoch, chain) = (walk.offset, walk.epoch, walk.chain);
        let start = Start { name, offset, epoch, chain };
        let run = Run { start, names: vec![name], last: epoch };
        self.open = Some(Open { run, chain, sealed: false });
    }

    fn segment(
        &mut self,
        mut window: Window,
        name: SegmentName,
        uuid: [u8; 16],
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let path = window.path.clone();
        self.look_for_gap(&path, name);
        let checked = match window.header()? {
            Some(header) => check_header(&header, &path, name, Some(uuid)).map(|()| header),
            None => Err(bad_header(&path, name, "the segment's header is damaged")),
        };
        let header = match checked {
            Ok(header) => header,
            Err(error) => {
                (self.on_problem)(error);
                self.close();
                return Ok(());
            }
        };
        self.found.time.get_or_insert(header.base_time);
        let mut walk = Walk::new(window, header);
        if walk.epoch < self.last {
            (self.on_problem)(bad_header(&path, name, "its first epoch is in an earlier segment"));
            return Ok(());
        }
        self.enter(&walk, name);
        let mut search = None;
        let (mut told, mut found_at) = (0, 0);
        loop {
            let at = walk.offset;
            let wrong = match walk.step()? {
                Step::Mark { epoch, digest, size } => {
                    self.found.marks.push(CheckpointMark { epoch, digest, size });
                    None
                }
                Step::Commit(_) | Step::Other => None,
                Step::Wrong(what) => Some(what),
                Step::Nothing => Some("no valid record"),
            };
            let Some(what) = wrong else {
                self.found.records += 1;
                self.last = self.last.max(walk.epoch);
                if let Some(open) = &mut self.open {
                    open.run.last = walk.epoch;
                    (open.chain, open.sealed) = (walk.chain, walk.sealed);
                }
                if walk.offset - told >= 1 << 20 {
                    told = walk.offset;
                    progress(told);
                }
                continue;
            };
            if what == "no valid record" && walk.window.last_nonzero(at)?.is_none() {
                return Ok(());
            }
            // What stood at a place that a search found was told already.
            if at != found_at {
                (self.on_problem)(walk.damage(what));
            }
            self.close();
            let from = if at == found_at { at + 8 } else { at };
            let search = match &mut search {
                Some(begun) => begun,
                none => none.insert(Search::new(&mut walk)?),
            };
            if !search.next(&mut walk, from, self.last)? {
                return Ok(());
            }
            found_at = walk.offset;
            self.begin(&walk, name);
        }
    }
}

/// Looks for records behind damage in one segment.
struct Search {
    size: u64,
    budget: u64,
}

impl Search {
    fn new(walk: &mut Walk) -> Result<Search> {
        let (size, mut data) = (walk.window.size()?, 0u64);
        walk.window.nonzero(segment::RECORDS, u64::MAX, &mut |_, bytes| {
            data += bytes.len() as u64;
            Ok(())
        })?;
        Ok(Search { size, budget: data.saturating_mul(4).saturating_add(CLAIMED) })
    }

    /// Moves a walk to the next record from `from` on that does not come before `least`; tells whether there is one.
    fn next(&mut self, walk: &mut Walk, from: u64, least: u64) -> Result<bool> {
        let mut at = from.next_multiple_of(8);
        loop {
            let bytes = walk.window.get(at, HEADER)?;
            if bytes.len() < HEADER {
                return Ok(false);
            }
            let zeros = is_zero(&bytes[..HEADER]);
            let Some(head) = Head::read(bytes, record::seed(&walk.header.salt, at)) else {
                at = match zeros {
                    false => at + 8,
                    true => match walk.window.next_nonzero(at)? {
                        Some(found) => found & !7,
                        None => return Ok(false),
                    },
                };
                continue;
            };
            let fits = head.size() <= self.size.saturating_sub(at);
            let epoch = epoch_before(&head, walk.header.first_epoch).filter(|&e| e >= least);
            if fits && let Some(epoch) = epoch {
                let Some(left) = self.budget.checked_sub(head.size()) else { return Ok(false) };
                self.budget = left;
                if walk.window.record(&walk.header.salt, at)?.is_some() {
                    (walk.offset, walk.chain, walk.sealed) = (at, head.chain, false);
                    (walk.epoch, walk.commits) = (epoch, epoch + 1 - walk.header.first_epoch);
                    return Ok(true);
                }
            }
            at += 8;
        }
    }
}

/// The epoch of the last commit before a record, of which the record has the low half.
fn epoch_before(head: &Head, first_epoch: u64) -> Option<u64> {
    // A segment has fewer than 2^32 commits.
    let since = u64::from(head.epoch_low.wrapping_sub((first_epoch - 1) as u32));
    let own = u64::from(head.kind == COMMIT);
    Some(first_epoch - 1 + since.checked_sub(own)?)
}

/// Hands out the commits that follow an epoch, up to another or to the first that is missing. Where runs meet between two
/// commits only records without meaning for the state are lost.
pub(crate) fn follow(
    vfs: &dyn Vfs,
    dir: &Path,
    runs: &[Run],
    mut epoch: u64,
    upto: u64,
    on: &mut dyn FnMut(Commit<'_>) -> Result<()>,
) -> Result<()> {
    for run in runs {
        if run.before() <= epoch && epoch < run.last.min(upto) {
            walk_run(vfs, dir, run, upto, &mut |commit| {
                if commit.epoch > epoch { on(commit) } else { Ok(()) }
            })?;
            epoch = run.last.min(upto);
        }
    }
    Ok(())
}

/// Leaves out what comes after an epoch.
pub(crate) fn cut(runs: &mut [Run], epoch: u64) {
    runs.iter_mut().for_each(|run| run.last = run.last.min(epoch));
}

/// The epoch that [`follow`] comes to.
pub(crate) fn reach(runs: &[Run], epoch: u64) -> u64 {
    runs.iter().fold(epoch, |at, run| if run.before() <= at { at.max(run.last) } else { at })
}

fn walk_run(
    vfs: &dyn Vfs,
    dir: &Path,
    run: &Run,
    upto: u64,
    on: &mut dyn FnMut(Commit<'_>) -> Result<()>,
) -> Result<()> {
    let Start { name, offset, epoch, chain } = run.start;
    let mut walk = open_segment(vfs, dir, name, None)?;
    (walk.offset, walk.epoch, walk.chain) = (offset, epoch, chain);
    walk.commits = epoch + 1 - name.first_epoch;
    let mut names = run.names.iter().skip(1);
    while walk.epoch < run.last.min(upto) {
        let sealed = walk.sealed;
        match walk.step()? {
            Step::Commit(commit) => on(commit)?,
            Step::Mark { .. } | Step::Other => {}
            Step::Nothing if sealed => match names.next() {
                Some(&name) => walk = open_segment(vfs, dir, name, None)?,
                None => return Err(changed(&walk)),
            },
            Step::Nothing | Step::Wrong(_) => return Err(changed(&walk)),
        }
    }
    Ok(())
}

/// A disk that gives other bytes each time it is asked proves nothing.
fn changed(walk: &Walk) -> Error {
    let what = format!("{} changed while it was read", walk.path.display());
    let mut error = Error::new(Code::Storage, what);
    error.detail.file = Some(walk.path.to_path_buf());
    error
}

#[cfg(test)]
#[path = "salvage_tests.rs"]
mod tests;
