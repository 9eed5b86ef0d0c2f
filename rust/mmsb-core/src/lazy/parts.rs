//! The segments of the log between a checkpoint and an epoch, and where in them the records are that somebody needs.
//!
//! A sealed segment has an index. One that has none, or a wrong one, and the one that is being written are read once,
//! and what was found is kept in memory.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;

use crate::arena::is_denied;
use crate::history::Past;
use crate::index::{Index, MARKS, STRIDE, STRUCTURE, deeds, page_key};
use crate::log::{self, CheckpointMark, Commit, LogCursor, SegmentName, Step, Walk, commit_at};
use crate::sync::{Mutex, lock};
use crate::{Error, Result};

/// Of so many segments is kept what was read of them, for the next epoch that somebody opens.
const KEPT: usize = 4;

/// What is known of segments, by their numbers.
pub(super) type BySegment<T> = Mutex<BTreeMap<u64, Arc<T>>>;

/// A commit of so many bytes is kept for the next page that it says something of.
const LONG: RangeInclusive<usize> = 64 << 10..=16 << 20;

/// A commit, and where it is.
#[derive(Debug)]
pub(super) struct Long {
    seq: u64,
    offset: u64,
    epoch: u64,
    time: u64,
    ops: Vec<u8>,
}

impl Long {
    /// Keeps a commit that may be kept; without memory it is read again.
    fn keep(seq: u64, commit: &Commit<'_>) -> Option<Arc<Long>> {
        let &Commit { epoch, time, ops, offset, .. } = commit;
        let mut copy = Vec::new();
        if !LONG.contains(&ops.len()) || is_denied() || copy.try_reserve_exact(ops.len()).is_err() {
            return None;
        }
        copy.extend_from_slice(ops);
        Some(Arc::new(Long { seq, offset, epoch, time, ops: copy }))
    }

    fn commit<'a>(&'a self, file: &'a Path) -> Commit<'a> {
        let Long { offset, epoch, time, ref ops, .. } = *self;
        Commit { epoch, time, source: None, meta: None, ops, offset, file }
    }
}

/// The places of a segment without an index that was read as far as somebody needed it.
#[derive(Debug)]
pub(super) struct Tail {
    walk: Walk,
    places: BTreeMap<u64, Vec<u64>>,
    /// Where every so many-th commit begins, from the first on.
    marks: Vec<u64>,
}

impl Tail {
    /// The last marked commit that is not after `epoch`, and where it is.
    fn mark_before(&self, epoch: u64) -> Option<(u64, u64)> {
        let first = self.walk.header.first_epoch;
        let number = (epoch - first) / STRIDE;
        Some((*self.marks.get(number as usize)?, first + STRIDE * number))
    }

    /// Reads on until behind `until`, and over what follows it before the next commit.
    fn reach(&mut self, until: u64) -> Result<()> {
        // The host may have written where there was nothing before.
        self.walk.window.refresh();
        let first = self.walk.header.first_epoch;
        while self.walk.epoch <= until && !self.walk.sealed {
            let (begin, is_reached) = (self.walk.offset, self.walk.epoch >= until);
            match self.walk.step()? {
                Step::Commit(commit) => {
                    if (commit.epoch - first).is_multiple_of(STRIDE) {
                        self.marks.push(begin);
                    }
                    for key in deeds(&commit) {
                        let places = self.places.entry(key).or_default();
                        if places.last() != Some(&begin) {
                            places.push(begin);
                        }
                    }
                }
                Step::Mark { .. } => self.places.entry(MARKS).or_default().push(begin),
                Step::Other => {}
                // What is behind the last commit that is needed may be half written.
                Step::Nothing | Step::Wrong(_) if is_reached => break,
                Step::Nothing => {
                    return Err(self.walk.damage("no valid record where there had been one"));
                }
                Step::Wrong(what) => return Err(self.walk.damage(what)),
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Places {
    Index(Arc<Index>),
    Tail(Arc<Mutex<Tail>>),
}

/// One segment, and what is needed of it.
#[derive(Debug)]
pub(super) struct Part {
    past: Arc<Past>,
    name: SegmentName,
    walk: Walk,
    places: Places,
    since: u64,
    until: u64,
}

/// The segments with the commits behind `from` up to `epoch`, and with the checkpoint mark of `from`.
pub(super) fn open(past: &Arc<Past>, from: u64, epoch: u64) -> Result<Vec<Part>> {
    let store = &past.store;
    let base = store.base()?.epoch;
    // Before the base an epoch is its checkpoint and nothing else.
    if epoch == 0 || (from == epoch && epoch < base) {
        return Ok(Vec::new());
    }
    let first = if from == base { from + 1 } else { from };
    let names = log::list(&*store.vfs, &store.dir)?;
    if names.first().is_none_or(|name| name.first_epoch > first) {
        // What is not in the log at all is told as it is by a walk over it.
        LogCursor::new(Arc::clone(&store.vfs), &store.dir, first, epoch, false)?;
    }
    let mut parts: Vec<Part> = Vec::new();
    for (n, &name) in names.iter().enumerate() {
        let next = names.get(n + 1);
        let last = next.map_or(u64::MAX, |next| next.first_epoch - 1);
        if name.first_epoch > epoch || last < first {
            continue;
        }
        let part = Part::open(past, name, (from + 1, epoch.min(last)), next.is_some())?;
        if let Some(before) = parts.last() {
            part.check_follows(before)?;
        }
        parts.push(part);
    }
    Ok(parts)
}

impl Part {
    fn open(
        past: &Arc<Past>,
        name: SegmentName,
        (since, until): (u64, u64),
        is_sealed: bool,
    ) -> Result<Part> {
        let store = &past.store;
        let mut walk = log::open_sparse(&*store.vfs, &store.dir, name, Some(store.uuid))?;
        let past = Arc::clone(past);
        let index = index(&past, name, &mut walk, is_sealed)?;
        let places = match index.filter(|index| index.ends.epoch >= until) {
            Some(index) => Places::Index(index),
            None => Places::Tail(tail(&past, &walk, until)?),
        };
        Ok(Part { past, name, walk, places, since, until })
    }

    /// The chain value and the epoch that the segment ends with; none if it is not sealed.
    fn ends(&self) -> Option<(u64, u64)> {
        match &self.places {
            Places::Index(index) => Some((index.ends.chain, index.ends.epoch)),
            Places::Tail(tail) => {
                let walk = &lock(tail).walk;
                walk.sealed.then_some((walk.chain, walk.epoch))
            }
        }
    }

    fn check_follows(&self, before: &Part) -> Result<()> {
        let header = &self.walk.header;
        if before.ends() == Some((header.chain, header.first_epoch - 1)) {
            return Ok(());
        }
        let what = "the segment does not continue the one before it";
        Err(Error::corruption(&self.walk.path, Some(0), Some(header.first_epoch), what))
    }

    fn offsets(&mut self, key: u64) -> Result<Vec<u64>> {
        if let Places::Index(index) = &self.places {
            // Marks lie behind the commit that they are about.
            let until = if key == MARKS { u64::MAX } else { self.until };
            match index.places(&[key], self.since.saturating_sub(1), until)? {
                Some(places) => return Ok(places),
                None => self.read()?,
            }
        }
        let Places::Tail(tail) = &self.places else { return Ok(Vec::new()) };
        Ok(lock(tail).places.get(&key).cloned().unwrap_or_default())
    }

    /// The index leads astray, or a record is damaged, which reading it all will say.
    fn read(&mut self) -> Result<()> {
        lock(&self.past.kept.indexes).remove(&self.name.seq);
        self.past.indexes.renew(self.name);
        self.places = Places::Tail(tail(&self.past, &self.walk, self.until)?);
        Ok(())
    }

    /// Calls `each` with the commits that have a key, in order.
    fn commits(&mut self, key: u64, each: &mut dyn FnMut(&Commit<'_>) -> Result<()>) -> Result<()> {
        let mut since = self.since;
        'again: loop {
            for offset in self.offsets(key)? {
                // The index tells of some commits around.
                let epoch = self.walk.epoch_at(offset)?;
                if epoch.is_some_and(|epoch| !(since..=self.until).contains(&epoch)) {
                    continue;
                }
                let Walk { window, header, path, .. } = &mut self.walk;
                let is_it = |long: &Arc<Long>| (long.seq, long.offset) == (header.seq, offset);
                let long = lock(&self.past.kept.long).clone().filter(is_it);
                let commit = match &long {
                    Some(long) => Some(long.commit(path)),
                    None => commit_at(window, header, path, offset)?,
                };
                let Some(commit) = commit else {
                    if matches!(self.places, Places::Tail(_)) {
                        let what = "the record changed while it was read";
                        return Err(Error::corruption(path, Some(offset), Some(since), what));
                    }
                    self.read()?;
                    continue 'again;
                };
                if long.is_none()
                    && let Some(long) = Long::keep(header.seq, &commit)
                {
                    *lock(&self.past.kept.long) = Some(long);
                }
                since = commit.epoch + 1;
                each(&commit)?;
            }
            return Ok(());
        }
    }

    /// The commits of a page.
    pub(super) fn of_page(
        &mut self,
        id: u64,
        each: &mut dyn FnMut(&Commit<'_>) -> Result<()>,
    ) -> Result<()> {
        page_key(id).map_or(Ok(()), |key| self.commits(key, each))
    }

    /// The commits that did more than write bytes.
    pub(super) fn structure(
        &mut self,
        each: &mut dyn FnMut(&Commit<'_>) -> Result<()>,
    ) -> Result<()> {
        self.commits(STRUCTURE, each)
    }

    /// The epoch of the last of them.
    pub(super) fn last_structure(&mut self) -> Result<Option<u64>> {
        for offset in self.offsets(STRUCTURE)?.into_iter().rev() {
            let epoch = self.walk.epoch_at(offset)?;
            if epoch.is_some_and(|epoch| (self.since..=self.until).contains(&epoch)) {
                return Ok(epoch);
            }
        }
        Ok(None)
    }

    /// When an epoch of this segment was committed.
    pub(super) fn time(&self, epoch: u64) -> Result<u64> {
        let mark = match &self.places {
            Places::Index(index) => index.mark_before(epoch),
            Places::Tail(tail) => lock(tail).mark_before(epoch),
        };
        let mut walk = self.walk.again();
        if let Some((offset, epoch)) = mark {
            // One that is not where it is said to be is looked for from the beginning.
            walk.skip_to(offset, epoch)?;
        }
        loop {
            match walk.step()? {
                Step::Commit(commit) if commit.epoch == epoch => return Ok(commit.time),
                Step::Commit(_) | Step::Mark { .. } | Step::Other => {}
                Step::Nothing => {
                    return Err(walk.damage("no valid record where there had been one"));
                }
                Step::Wrong(what) => return Err(walk.damage(what)),
            }
        }
    }

    /// The checkpoint marks.
    pub(super) fn marks(&mut self) -> Result<Vec<CheckpointMark>> {
        let offsets = self.offsets(MARKS)?;
        let marks = offsets.into_iter().map(|offset| self.walk.mark_at(offset));
        marks.filter_map(Result::transpose).collect()
    }
}

/// The index of a segment; one that was opened before is not opened again.
fn index(
    past: &Past,
    name: SegmentName,
    walk: &mut Walk,
    is_sealed: bool,
) -> Result<Option<Arc<Index>>> {
    let known = lock(&past.kept.indexes).get(&name.seq).cloned();
    if known.is_some() {
        return Ok(known);
    }
    let found = past.indexes.get(name, walk, is_sealed)?.map(Arc::new);
    if let Some(index) = &found {
        keep(&past.kept.indexes, name.seq, index);
    }
    Ok(found)
}

fn keep<T>(kept: &BySegment<T>, seq: u64, one: &Arc<T>) {
    let mut kept = lock(kept);
    kept.insert(seq, Arc::clone(one));
    while kept.len() > KEPT {
        kept.pop_first();
    }
}

/// The segment that `of` walks through, read up to an epoch; what was read before is not read again. Its file is that of
/// the walk: a pruning may have taken the name.
fn tail(past: &Past, of: &Walk, until: u64) -> Result<Arc<Mutex<Tail>>> {
    let seq = of.header.seq;
    let known = lock(&past.kept.tails).get(&seq).cloned();
    let tail = known.unwrap_or_else(|| {
        Arc::new(Mutex::new(Tail { walk: of.again(), places: BTreeMap::new(), marks: Vec::new() }))
    });
    lock(&tail).reach(until)?;
    keep(&past.kept.tails, seq, &tail);
    Ok(tail)
}
