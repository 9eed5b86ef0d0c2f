//! Past epochs: any of them is rebuilt by applying the log to an empty engine, to a checkpoint, or to what a fork
//! stands on.

#[cfg(test)]
mod past_tests;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use crate::arena::Backing;
use crate::core::Core;
use crate::delta::{Op, Ops};
use crate::index::{Indexes, Query, Wanted};
use crate::lazy;
use crate::log::{self, LogBase, LogCursor, OwnedCommit, Position};
use crate::museum::{Defect, planted};
use crate::snapshot::Snapshot;
use crate::sync::{Mutex, MutexGuard, lock};
use crate::vfs::Vfs;
use crate::{Code, Error, Result, checkpoint, fork, trace};

/// Where a bus keeps its history.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) vfs: Arc<dyn Vfs>,
    pub(crate) dir: PathBuf,
    pub(crate) uuid: [u8; 16],
}

impl Store {
    /// Where its log begins now; another process may prune it.
    pub(crate) fn base(&self) -> Result<LogBase> {
        log::base(&*self.vfs, &self.dir)
    }

    /// Fails for an epoch that was let go: it lies before the base and has no checkpoint of its own.
    pub(crate) fn check_kept(&self, epoch: u64) -> Result<LogBase> {
        let base = self.base()?;
        if epoch >= base.epoch {
            return Ok(base);
        }
        let known = checkpoint::list(&*self.vfs, &self.dir)?;
        if known.contains(&epoch) {
            return Ok(base);
        }
        let parent = log::read_meta(&*self.vfs, &self.dir)?.parent;
        let what = match parent.map(|parent| parent.epoch).filter(|&forked| epoch < forked) {
            Some(forked) => {
                format!("epoch {epoch} is older than this fork of epoch {forked}; ask its parent")
            }
            None => {
                let oldest = known.first().map_or(base.epoch, |&first| first.min(base.epoch));
                format!("epoch {epoch} was let go; the oldest that opens is {oldest}")
            }
        };
        Err(Error::new(Code::EpochNotFound, what))
    }

    /// Does it again where it failed while the base moved: what it needed may have been pruned.
    pub(crate) fn steady<T>(&self, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            let base = self.base()?;
            let done = act();
            if done.is_ok() || self.base().is_ok_and(|now| now == base) {
                return done;
            }
        }
    }

    /// No checkpoint from epoch `least` on was sound, the newest among them is `newest`. That is damage if the log does
    /// not begin with the first epoch.
    pub(crate) fn needs(&self, least: u64, newest: Option<u64>) -> Result<()> {
        if least == 0 {
            return Ok(());
        }
        let epoch = newest.unwrap_or(least);
        let what = match newest {
            Some(_) => "the checkpoint is damaged",
            None => "the checkpoint is missing",
        };
        let what = format!(
            "{what}, and the log before epoch {least} was let go: nothing else has its state"
        );
        Err(Error::corruption(&checkpoint::path(&self.dir, epoch), None, Some(epoch), what))
    }
}

/// A commit of the log.
#[derive(Debug, Clone)]
pub struct LogEntry(OwnedCommit);

impl LogEntry {
    /// The epoch that it made.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// When: nanoseconds since 1970 UTC.
    pub fn time(&self) -> u64 {
        self.0.time
    }

    /// Who made it.
    pub fn source(&self) -> Option<&str> {
        self.0.source.as_deref()
    }

    /// Its metadata as canonical JSON.
    pub fn meta(&self) -> Option<&str> {
        self.0.meta.as_deref()
    }

    /// Its operations as the log has them; equal ones make equal states of equal ones.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.0.ops
    }

    /// Its operations in order.
    pub fn ops(&self) -> impl Iterator<Item = Result<Op<'_>>> {
        Ops::new(&self.0.ops).map(|op| {
            op.map_err(|e| {
                Error::new(
                    Code::Corruption,
                    format!("the record of epoch {}: {}", self.0.epoch, e.0),
                )
            })
        })
    }
}

/// Commits of a range of epochs, read as they are asked for.
#[derive(Debug)]
pub struct LogIter {
    reading: Option<Reading>,
    /// Of the process that began it.
    generation: u64,
}

#[derive(Debug)]
enum Reading {
    All(Box<LogCursor>),
    Some(Query),
}

impl LogIter {
    pub(crate) fn new(
        indexes: &Arc<Indexes>,
        wanted: &Wanted,
        since: u64,
        until: u64,
        reverse: bool,
    ) -> Result<LogIter> {
        let Store { vfs, dir, .. } = &indexes.store;
        let reading = match wanted.is_empty() {
            true => {
                let cursor = LogCursor::new(Arc::clone(vfs), dir, since, until, reverse)?;
                // What is wrong with that segment is met on the way.
                let start =
                    if since <= until { indexes.start(since).unwrap_or(None) } else { None };
                Reading::All(Box::new(cursor.beginning_at(start)))
            }
            false => {
                let (indexes, wanted) = (Arc::clone(indexes), wanted.clone());
                Reading::Some(Query::new(indexes, wanted, since, until, reverse)?)
            }
        };
        Ok(LogIter { reading: Some(reading), generation: fork::generation() })
    }
}

impl Iterator for LogIter {
    type Item = Result<LogEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let reading = self.reading.as_mut()?;
        // The files went with the fork, and a lock may be held that nobody here will give back.
        let next = fork::check(self.generation).and_then(|()| match reading {
            Reading::All(cursor) => Ok(cursor.next_commit()?.map(OwnedCommit::from)),
            Reading::Some(query) => query.next_commit(),
        });
        if !matches!(next, Ok(Some(_))) {
            self.reading = None;
        }
        next.map(|commit| commit.map(LogEntry)).transpose()
    }
}

/// What it takes to read all of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// The epoch of the checkpoint that it begins with.
    pub checkpoint: Option<u64>,
    /// Bytes of that checkpoint, of what it stands on and of the log from there on, at most.
    pub bytes: u64,
    /// Commits between the checkpoint and the epoch.
    pub records: u64,
}

/// The past of a bus: what opening an epoch needs, and what it keeps for the next one.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) store: Store,
    pub(crate) indexes: Arc<Indexes>,
    pub(crate) max_memory: u64,
    replay: Mutex<Option<Replay>>,
    pub(crate) kept: lazy::Kept,
}

impl Past {
    pub(crate) fn new(indexes: Arc<Indexes>, max_memory: u64) -> Past {
        let store = indexes.store.clone();
        Past { store, indexes, max_memory, replay: Mutex::default(), kept: lazy::Kept::default() }
    }

    /// An epoch, page by page. Returns an engine that shows it, and the epoch of the checkpoint that it begins with.
    pub(crate) fn open(self: &Arc<Past>, epoch: u64) -> Result<lazy::Opened> {
        self.store.steady(|| {
            if let Some(opened) = lazy::open(self, epoch)? {
                return Ok(opened);
            }
            let replay = Replay::begin(&self.store, &Base::Store, epoch, self.max_memory)?;
            replay.to(&self.store, epoch)?;
            Ok((replay.core, None))
        })
    }

    /// An epoch with all pages, of a fork of `parent` or of a store.
    pub(crate) fn whole(&self, epoch: u64, parent: Option<&Snapshot>) -> Result<Snapshot> {
        self.store.steady(|| {
            let mut cached = lock(&self.replay);
            // A fork's history before its epoch is its parent's, which may prune it.
            let least = match parent {
                None => self.store.check_kept(epoch)?.epoch.min(epoch),
                Some(at) => at.epoch(),
            };
            let replay = match cached.take() {
                Some(replay) if (least..=epoch).contains(&replay.epoch()) => replay,
                _ => {
                    let base = parent.map_or(Base::Store, Base::Fork);
                    Replay::begin(&self.store, &base, epoch, self.max_memory)?
                }
            };
            let snapshot = replay.to(&self.store, epoch)?;
            *cached = Some(replay);
            Ok(snapshot)
        })
    }

    /// What [`Past::whole`] would read; the log ends at `end`.
    pub(crate) fn cost(
        &self,
        epoch: u64,
        base: Option<u64>,
        end: Option<Position>,
    ) -> Result<Cost> {
        let store = &self.store;
        let checkpoint = match base {
            None => lazy::newest_checkpoint(self, epoch)?,
            Some(_) => None,
        };
        let of_file = checkpoint.as_ref().map(|reader| reader.head().epoch);
        let from = base.or(of_file).unwrap_or(0);
        // The mark of the checkpoint lies behind the commit that it is of.
        let since = of_file.unwrap_or(from + 1);
        let mut bytes = checkpoint.as_ref().map_or(0, |reader| reader.size());
        let names = log::list(&*store.vfs, &store.dir)?;
        for (n, &name) in names.iter().enumerate() {
            let next = names.get(n + 1);
            let is_before = next.is_some_and(|next| next.first_epoch <= since);
            if since > epoch || is_before || name.first_epoch > epoch {
                continue;
            }
            let mut walk = log::open_sparse(&*store.vfs, &store.dir, name, Some(store.uuid))?;
            bytes += match self.indexes.get(name, &mut walk, next.is_some())? {
                Some(index) => index.bounds(epoch, epoch).1,
                None => {
                    let size = walk.window.size()?;
                    end.filter(|end| end.seq == name.seq).map_or(size, |end| size.min(end.offset))
                }
            };
        }
        Ok(Cost { checkpoint: of_file, bytes, records: epoch - from })
    }

    /// Lets go of what is kept for the next epoch.
    pub(crate) fn close(&self) {
        drop(self.let_go());
    }

    /// The same, and no epoch is rebuilt as a whole until the guard goes.
    pub(crate) fn let_go(&self) -> MutexGuard<'_, Option<Replay>> {
        self.kept.clear();
        let mut replay = lock(&self.replay);
        *replay = None;
        replay
    }
}

/// The checkpoints that an epoch may be made from.
pub(crate) struct Usable {
    /// Their epochs, the newest first.
    pub(crate) epochs: Vec<u64>,
    epoch: u64,
    /// Nothing before this epoch leads to it.
    least: u64,
}

/// What an epoch may be made from: the checkpoints between the base and it; only its own if it lies before the base.
pub(crate) fn usable(store: &Store, epoch: u64) -> Result<Usable> {
    let least = store.check_kept(epoch)?.epoch.min(epoch);
    let mut epochs = checkpoint::list(&*store.vfs, &store.dir)?;
    let is_past = |at: u64| at <= epoch || planted(Defect::ReplayFromLaterBase);
    epochs.retain(|&at| at >= least && is_past(at));
    epochs.reverse();
    Ok(Usable { epochs, epoch, least })
}

impl Usable {
    /// None of them was sound: that is damage, unless the log begins with the first epoch.
    pub(crate) fn not_sound(&self, store: &Store) -> Result<()> {
        // It may have been pruned meanwhile.
        store.check_kept(self.epoch)?;
        store.needs(self.least, self.epochs.first().copied())
    }
}

/// What a replay begins with.
enum Base<'a> {
    /// The empty state, or the newest checkpoint at or before the epoch.
    Store,
    /// What a fork stands on.
    Fork(&'a Snapshot),
}

/// An engine that has been brought to a past epoch. It goes forward for later ones; snapshots of it stay.
#[derive(Debug)]
pub(crate) struct Replay {
    core: Arc<Core>,
    /// The checkpoint that it began with, and the digest of its state.
    base: Option<(u64, u128)>,
}

impl Replay {
    /// Begins a replay that will go to `epoch`.
    fn begin(store: &Store, base: &Base<'_>, epoch: u64, max_memory: u64) -> Result<Replay> {
        let (core, loaded) = match base {
            Base::Fork(at) => (Core::fork(at)?, None),
            Base::Store => {
                let fresh = || Core::new(BACKING, max_memory, false);
                let usable = usable(store, epoch)?;
                let epochs = usable.epochs.iter().copied();
                let loaded = load_newest(store, epochs, fresh()?, &fresh, &mut |_, _| {})?;
                if loaded.1.is_none() {
                    usable.not_sound(store)?;
                }
                loaded
            }
        };
        let digest = |at| Ok::<_, Error>((at, Snapshot::brief(&core).digest()?));
        let base = loaded.map(digest).transpose()?;
        let is_past = core.epoch() <= epoch || planted(Defect::ReplayFromLaterBase);
        assert!(is_past, "a replay goes forward");
        Ok(Replay { core, base })
    }

    fn epoch(&self) -> u64 {
        self.core.epoch()
    }

    /// Applies the log up to `epoch` and shows it.
    fn to(&self, store: &Store, epoch: u64) -> Result<Snapshot> {
        let from = self.core.epoch() + 1;
        // The mark of the checkpoint lies behind the commit that it is of.
        let first = log::list(&*store.vfs, &store.dir)?.first().map(|name| name.first_epoch);
        let base = self.base.filter(|&(at, _)| at + 1 == from && first.is_some_and(|e| e <= at));
        let since = base.map_or(from, |(at, _)| at);
        let vfs = Arc::clone(&store.vfs);
        let mut cursor = LogCursor::new(vfs, &store.dir, since, epoch, false)?;
        while let Some(commit) = cursor.next_commit()? {
            if commit.epoch < from {
                continue;
            }
            self.core
                .replay(commit.epoch, commit.time, commit.ops)
                .map_err(|e| at_record(e, &commit))?;
            assert_eq!(self.core.epoch(), commit.epoch, "a commit makes its epoch");
        }
        if let Some((at, digest)) = base {
            for mark in cursor.marks.iter().filter(|mark| mark.epoch == at) {
                checkpoint::check(&store.dir, digest, mark)?;
            }
        }
        let snapshot = Snapshot::newest(&self.core)?;
        assert!(snapshot.epoch() + 1 >= from, "a replay goes forward");
        if snapshot.epoch() != epoch {
            return Err(Error::new(
                Code::EpochNotFound,
                format!("the log does not reach epoch {epoch}"),
            ));
        }
        Ok(snapshot)
    }
}

/// Memory that engines use; another process can map it, and forked children share it.
pub(crate) const BACKING: Backing = if cfg!(miri) { Backing::Heap } else { Backing::Memfd };

/// An operation that a sound record holds does not fit the state: the log is damaged.
pub(crate) fn at_record(error: Error, commit: &log::Commit<'_>) -> Error {
    match error.code {
        Code::OutOfSpace | Code::Storage => error,
        _ => Error::corruption(commit.file, Some(commit.offset), Some(commit.epoch), error.message),
    }
}

/// Loads the first of these checkpoints that is sound; none leaves the engine empty. Returns the engine and the
/// epoch it shows.
pub(crate) fn load_newest(
    store: &Store,
    epochs: impl Iterator<Item = u64>,
    mut core: Arc<Core>,
    fresh: &dyn Fn() -> Result<Arc<Core>>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Arc<Core>, Option<u64>)> {
    for epoch in epochs {
        assert_eq!(core.epoch(), 0, "what is loaded into is empty");
        match checkpoint::load(&*store.vfs, &store.dir, epoch, store.uuid, &core, progress) {
            Ok(()) => {
                assert_eq!(core.epoch(), epoch, "what was loaded is shown");
                return Ok((core, Some(epoch)));
            }
            Err(error) if error.code == Code::Corruption => {
                let file = checkpoint::path(&store.dir, epoch);
                trace::checkpoint_damaged(&file, &error.message);
                core = fresh()?;
            }
            // Thinned since it was listed.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    assert_eq!(core.epoch(), 0, "what could not be loaded is shown");
    Ok((core, None))
}
