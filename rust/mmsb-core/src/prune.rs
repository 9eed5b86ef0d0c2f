//! Retention: what of its past a store lets go, in one explicit call.
//!
//! Invariants: nothing goes before what is to stay is durable and was read back: first the checkpoints that are missing
//! are made and the names of all are synced, then the base is in both meta slots, then files are removed. The base is a checkpoint of which every byte
//! was checked, so the log never needs one that is not there. Tagged epochs stay. An interruption leaves a store that
//! opens, with files before the base that mean nothing. The report of a dry run is that of the call itself.

#[cfg(test)]
mod base_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::bus::{Bus, Inner};
use crate::checkpoint::Making;
use crate::history::Store;
use crate::log::{self, CheckpointMark, LogBase, SegmentName, Step};
use crate::museum::{Defect, planted};
use crate::snapshot::Snapshot;
use crate::sync::lock;
use crate::vfs::OpenKind;
use crate::{Code, Error, Result, checkpoint, index, trace};

/// What a store keeps. Without any of the first three nothing is let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// All epochs from this one on.
    pub log_since: Option<u64>,
    /// Of the checkpoints before that which no tag keeps, so many, the newest.
    pub checkpoints: Option<u64>,
    /// Of these checkpoints, for each multiple of this the newest that is not after it.
    pub every: Option<u64>,
    /// Tell what would happen, and change nothing.
    pub dry_run: bool,
}

/// What was let go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// The files that went and their sizes, in the order of their paths.
    pub files: Vec<(PathBuf, u64)>,
    /// Their bytes in all.
    pub bytes: u64,
    /// Epochs of the checkpoints that were made first.
    pub checkpoints: Vec<u64>,
    /// Epochs that opened before and open no more, as ranges without their ends.
    pub let_go: Vec<(u64, u64)>,
    /// The oldest epoch that opens.
    pub oldest: u64,
}

/// What is to be done.
struct Plan {
    base: LogBase,
    /// The tagged epochs that it was made for.
    tagged: BTreeSet<u64>,
    report: PruneReport,
}

impl Bus {
    /// Lets history go that is not to be kept; see [`Keep`]. Nothing else ever does.
    pub fn prune(&self, keep: &Keep) -> Result<PruneReport> {
        self.writable()?;
        if self.inner().in_memory {
            let what = "a bus in memory has no files to prune; its log is its history";
            return Err(Error::new(Code::Argument, what));
        }
        run(self.inner(), keep)
    }
}

/// Lets go what is not to be kept.
fn run(inner: &Inner, keep: &Keep) -> Result<PruneReport> {
    if keep.every == Some(0) {
        return Err(Error::new(Code::Argument, "every = 0 has no multiples; at least 1"));
    }
    let mut maker = lock(&inner.checkpointing);
    inner.can_checkpoint(&maker)?;
    let ended = &mut maker.ended;
    // Held to the end: a copy that begins now waits.
    let backups = lock(&inner.backups);
    if *backups > 0 && !keep.dry_run {
        let what = "a backup of this bus is being made; prune it when that has ended";
        return Err(Error::new(Code::Argument, what));
    }
    let mut planner = Planner { inner, sound: BTreeMap::new(), made: BTreeSet::new() };
    loop {
        let mut plan = planner.plan(keep)?;
        if keep.dry_run {
            return Ok(plan.report);
        }
        for &epoch in plan.report.checkpoints.iter() {
            if planner.made.insert(epoch) {
                inner.write_checkpoint(&whole_at(inner, epoch)?, Making::default(), ended)?;
            }
        }
        // A host that was killed may have named one on which the log is to stand, and no sync has reached the name.
        if !planted(Defect::NamesNotSynced) {
            sync_checkpoints(inner, ended)?;
        }
        if planted(Defect::PrunedBeforeBase) {
            remove(inner, &mut plan, ended)?;
        }
        if settle(inner, plan.base, &plan.tagged)? {
            remove(inner, &mut plan, ended)?;
            let report = plan.report;
            let files = report.files.len() as u64;
            trace::prune(&inner.store.dir, report.oldest, files, report.bytes);
            return Ok(report);
        }
    }
}

/// An epoch with all pages. What is read page by page leaves indexes, also of segments that are about to go.
fn whole_at(inner: &Inner, epoch: u64) -> Result<Snapshot> {
    let newest = Snapshot::newest(&inner.core)?;
    if newest.epoch() == epoch { Ok(newest) } else { inner.past.whole(epoch, None) }
}

/// Decides; what was found out stays known while it is decided again.
struct Planner<'a> {
    inner: &'a Inner,
    /// Of the checkpoints that were looked at, whether every byte is what it should be.
    sound: BTreeMap<u64, bool>,
    /// Checkpoints that this call made.
    made: BTreeSet<u64>,
}

impl Planner<'_> {
    fn plan(&mut self, keep: &Keep) -> Result<Plan> {
        let store = &self.inner.store;
        let newest = Snapshot::brief(&self.inner.core);
        if let Some(since) = keep.log_since.filter(|&since| since > newest.epoch()) {
            let what = format!("there is no epoch {since}; the newest is {}", newest.epoch());
            return Err(Error::new(Code::EpochNotFound, what));
        }
        let tagged = newest.tagged();
        drop(newest);
        let old = store.base()?;
        let known = checkpoint::list(&*store.vfs, &store.dir)?;
        let (names, leftover) = log::list_both(&*store.vfs, &store.dir, old.seq)?;
        let (epoch, mut made) = self.base(old, &known, keep.log_since)?;
        let behind = names.partition_point(|name| name.first_epoch <= epoch + 1);
        let seq = match names.get(behind.saturating_sub(1)) {
            Some(name) if epoch > old.epoch => name.seq,
            _ => old.seq,
        };
        let mut kept = self.tagged(old.epoch, epoch, &known, &tagged, &mut made)?;
        let older: Vec<u64> = known.iter().copied().filter(|&at| at < epoch).collect();
        kept.extend(self.chosen(keep, epoch, &older, &tagged)?);
        // What others stand on stays, and opens.
        let stay = known.iter().filter(|&&at| at >= epoch || kept.contains(&at));
        let needed = checkpoint::bases(&*store.vfs, &store.dir, stay)?;
        kept.extend(older.iter().copied().filter(|at| needed.contains(at)));
        let mut files = Vec::new();
        let gone: Vec<u64> = older.iter().copied().filter(|at| !kept.contains(at)).collect();
        for &at in &gone {
            files.push(sized(store, checkpoint::path(&store.dir, at))?);
        }
        let segments: Vec<SegmentName> =
            leftover.into_iter().chain(names).filter(|name| name.seq < seq).collect();
        for name in segments {
            files.push(sized(store, log::log_dir(&store.dir).join(name.file()))?);
        }
        for path in index::before(store, seq)? {
            files.push(sized(store, path)?);
        }
        files.sort_unstable();
        made.extend(&self.made);
        let report = PruneReport {
            bytes: files.iter().map(|(_, size)| size).sum(),
            files,
            checkpoints: made.into_iter().collect(),
            let_go: let_go(old.epoch, epoch, &gone, &kept),
            oldest: kept.first().copied().unwrap_or(epoch),
        };
        assert!(report.oldest <= epoch, "the base opens");
        assert!(!gone.contains(&epoch), "the base stays");
        Ok(Plan { base: LogBase { seq, epoch }, tagged, report })
    }

    /// The epoch that the log is to begin with, and whether its checkpoint has to be made.
    fn base(
        &mut self,
        old: LogBase,
        known: &[u64],
        since: Option<u64>,
    ) -> Result<(u64, BTreeSet<u64>)> {
        let Some(since) = since.filter(|&since| since > old.epoch) else {
            return Ok((old.epoch, BTreeSet::new()));
        };
        let usable = known.iter().rev().filter(|&&at| old.epoch <= at && 0 < at && at <= since);
        for &at in usable {
            if self.is_sound(at)? {
                return Ok((at, BTreeSet::new()));
            }
        }
        Ok((since, BTreeSet::from([since])))
    }

    /// The tagged epochs before the base that open. Those that have no sound checkpoint and are in the log get one.
    fn tagged(
        &mut self,
        old: u64,
        base: u64,
        known: &[u64],
        tagged: &BTreeSet<u64>,
        made: &mut BTreeSet<u64>,
    ) -> Result<BTreeSet<u64>> {
        let mut kept = BTreeSet::new();
        for &epoch in tagged.range(..base) {
            let is_known = known.contains(&epoch);
            if epoch >= old && !(is_known && self.is_sound(epoch)?) {
                made.insert(epoch);
            } else if !is_known {
                // It was let go before it was tagged.
                continue;
            }
            kept.insert(epoch);
        }
        Ok(kept)
    }

    /// Which of the checkpoints before the base stay though no tag keeps them.
    fn chosen(
        &mut self,
        keep: &Keep,
        base: u64,
        older: &[u64],
        tagged: &BTreeSet<u64>,
    ) -> Result<BTreeSet<u64>> {
        let Keep { log_since, checkpoints, every, .. } = *keep;
        if (log_since, checkpoints, every) == (None, None, None) {
            return Ok(older.iter().copied().collect());
        }
        let mut kept = BTreeSet::new();
        if checkpoints.unwrap_or(0) == 0 && every.is_none() {
            return Ok(kept);
        }
        let mut next = base;
        let mut newer = 0;
        for &epoch in older.iter().rev().filter(|epoch| !tagged.contains(epoch)) {
            if !self.is_sound(epoch)? {
                continue;
            }
            let multiple = every.map(|every| epoch.div_ceil(every).saturating_mul(every));
            if checkpoints.is_some_and(|most| newer < most) || multiple.is_some_and(|m| m < next) {
                kept.insert(epoch);
            }
            (next, newer) = (epoch, newer + 1);
        }
        Ok(kept)
    }

    /// Whether every byte of a checkpoint, and of what it stands on, is what was written, and its state the one that the
    /// log tells of. What it stands on may be made anew, and would be another one then.
    fn is_sound(&mut self, epoch: u64) -> Result<bool> {
        if let Some(&known) = self.sound.get(&epoch) {
            return Ok(known || self.made.contains(&epoch));
        }
        let store = &self.inner.store;
        let path = checkpoint::path(&store.dir, epoch);
        let is_its_own = |error: Error| {
            if error.code != Code::Corruption {
                return Err(error);
            }
            trace::checkpoint_damaged(&path, &error.message);
            Ok(false)
        };
        let verified = checkpoint::verify(&*store.vfs, &store.dir, epoch, store.uuid);
        let is_sound = match verified.map(|(_, digest)| check_mark(store, epoch, digest)) {
            Ok(Ok(())) => match checkpoint::base(&*store.vfs, &store.dir, epoch)? {
                Some(base) => self.is_sound(base)?,
                None => true,
            },
            // The log is damaged.
            Ok(Err(error)) if error.detail.file.as_deref() != Some(&*path) => return Err(error),
            Ok(Err(error)) | Err(error) => is_its_own(error)?,
        };
        self.sound.insert(epoch, is_sound);
        Ok(is_sound)
    }
}

/// A file and its size.
pub(crate) fn sized(store: &Store, path: PathBuf) -> Result<(PathBuf, u64)> {
    let file = store.vfs.open(&path, OpenKind::Read);
    let size = file.and_then(|file| file.size());
    let size = size.map_err(|e| Error::storage(&path, &e, "cannot measure"))?;
    Ok((path, size))
}

/// Compares the digest of a checkpoint with the mark that the log has of it, if it has one: one of a copy of the store
/// that lived on has its name too.
fn check_mark(store: &Store, epoch: u64, digest: u128) -> Result<()> {
    let names = log::list(&*store.vfs, &store.dir)?;
    let behind = names.partition_point(|name| name.first_epoch <= epoch);
    for &name in &names[behind.saturating_sub(1)..] {
        let mut walk = log::open_segment(&*store.vfs, &store.dir, name, Some(store.uuid))?;
        loop {
            match walk.step()? {
                Step::Mark { epoch: marked, digest: of_log, size } if marked == epoch => {
                    let mark = CheckpointMark { epoch, digest: of_log, size };
                    return checkpoint::check(&store.dir, digest, &mark);
                }
                Step::Commit(_) | Step::Mark { .. } | Step::Other => {}
                Step::Nothing => break,
                Step::Wrong(what) => return Err(walk.damage(what)),
            }
        }
    }
    Ok(())
}

/// The epochs that open no more when the base moves from `old` to `new`, as ranges.
fn let_go(old: u64, new: u64, gone: &[u64], kept: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut add = |start: u64, stop: u64| match ranges.last_mut() {
        _ if start >= stop => {}
        Some(last) if last.1 == start => last.1 = stop,
        _ => ranges.push((start, stop)),
    };
    gone.iter().filter(|&&epoch| epoch < old).for_each(|&epoch| add(epoch, epoch + 1));
    let mut from = old;
    for &epoch in kept.range(old..new.max(old)) {
        add(from, epoch);
        from = epoch + 1;
    }
    add(from, new);
    ranges
}

/// Makes the base durable. Tells whether the plan still held: nobody has tagged anything meanwhile.
pub(crate) fn settle(inner: &Inner, base: LogBase, tagged: &BTreeSet<u64>) -> Result<bool> {
    let mut seq = lock(&inner.core.sequencer);
    seq.usable()?;
    if Snapshot::sequenced(&inner.core, &seq.newest).tagged() != *tagged {
        let sequenced = seq.newest.epoch;
        drop(seq);
        return inner.core.wait_published(sequenced).map(|()| false);
    }
    let Some(log) = &mut seq.log else {
        return Err(Error::new(Code::Closed, "the bus is closed"));
    };
    if log.meta().base == base {
        return Ok(true);
    }
    if let Err(error) = log.rebase(base) {
        seq.fail(&error);
        return Err(error);
    }
    Ok(true)
}

/// Makes durable which checkpoints there are. A failure ends checkpoints, as that of any other sync of their names.
fn sync_checkpoints(inner: &Inner, ended: &mut Option<Error>) -> Result<()> {
    let store = &inner.store;
    let dir = checkpoint::dir(&store.dir);
    let names = store.vfs.open_dir(&dir);
    let names = names.map_err(|e| Error::storage(&dir, &e, "cannot open"))?;
    checkpoint::sync_names(&*names, &store.dir).inspect_err(|error| *ended = Some(error.clone()))
}

/// Removes what the plan lets go. What a failure leaves goes with the next opening or pruning.
fn remove(inner: &Inner, plan: &mut Plan, ended: &mut Option<Error>) -> Result<()> {
    let store = &inner.store;
    // Nobody makes an index of a segment that goes, or reads it to rebuild an epoch.
    let _indexes = inner.past.indexes.hold();
    // One may have been made since it was decided what goes.
    for path in index::before(store, plan.base.seq)? {
        if plan.report.files.iter().all(|(file, _)| *file != path) {
            let (path, size) = sized(store, path)?;
            plan.report.bytes += size;
            plan.report.files.push((path, size));
        }
    }
    plan.report.files.sort_unstable();
    let _replay = inner.past.let_go();
    let (log_dir, checkpoints) = (log::log_dir(&store.dir), checkpoint::dir(&store.dir));
    let within = |dir: &Path| {
        let files = plan.report.files.iter().map(|(path, _)| path);
        let dir = dir.to_path_buf();
        files.filter(move |path| path.parent() == Some(&dir))
    };
    for dir in [&log_dir, &index::dir(&store.dir), &checkpoints] {
        for path in within(dir) {
            match store.vfs.unlink(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::storage(path, &e, "cannot remove"));
                }
                _ => {}
            }
        }
    }
    if within(&checkpoints).next().is_some() {
        sync_checkpoints(inner, ended)?;
    }
    if within(&log_dir).next().is_some() {
        let freed = plan.report.files.iter().filter(|(path, _)| path.parent() == Some(&log_dir));
        let freed = freed.map(|(_, size)| size).sum();
        let mut seq = lock(&inner.core.sequencer);
        let synced = seq.log.as_mut().map_or(Ok(()), |log| log.removed(freed));
        synced.inspect_err(|error| seq.fail(error))?;
        inner.keeper.removed(freed);
    }
    Ok(())
}
