//! Retention in memory: how many of the last epochs open without being rebuilt, and what a bus in memory lets go.
//!
//! Invariants: a bus in a directory loses nothing by it. A bus in memory keeps, with a window, the log since some epoch
//! that is not after the window's first; that epoch is pinned, and later ones are rebuilt from there. Tagged epochs stay.
//! A commit that lets go does not wait for whoever rebuilds an epoch.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::bus::{Bus, Inner};
use crate::history::Cost;
use crate::log::{self, LogBase, SegmentName};
use crate::prune::{settle, sized};
use crate::snapshot::Snapshot;
use crate::sync::lock;
use crate::window::Retention;
use crate::{Code, Error, Result, trace};

/// What a bus in memory has kept of the time before its log.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The state that the log begins with, if anything of it was let go.
    base: Option<Snapshot>,
    /// Tagged epochs before it.
    tagged: BTreeMap<u64, Snapshot>,
}

impl Bus {
    /// Keeps the last epochs in memory from now on, so that they open at once; none of the old ones with `None`. A bus in
    /// memory lets go of the log before them, but for tagged epochs.
    pub fn retain(&self, retention: Option<Retention>) -> Result<()> {
        let core = self.writable()?;
        if retention == Some(Retention::Epochs(0)) {
            let what = "epochs = 0; the newest epoch is always there, so at least 1";
            return Err(Error::new(Code::Argument, what));
        }
        core.retain(retention)?;
        if self.path().is_none() {
            self.inner().forget();
        }
        Ok(())
    }
}

impl Inner {
    /// An epoch of a bus in memory that is not the newest.
    pub(crate) fn remember(&self, epoch: u64) -> Result<Snapshot> {
        self.rebuilt(&lock(&self.kept), epoch)
    }

    fn rebuilt(&self, kept: &Kept, epoch: u64) -> Result<Snapshot> {
        match kept.tagged.get(&epoch) {
            Some(tagged) => Ok(tagged.clone()),
            None => {
                kept.check(epoch)?;
                self.past.whole(epoch, kept.base.as_ref().or(self.core.parent()))
            }
        }
    }

    /// Fails for an epoch that a bus in memory has let go.
    pub(crate) fn check_remembered(&self, epoch: u64) -> Result<()> {
        lock(&self.kept).check(epoch)
    }

    /// The state that the log of a bus in memory begins with, and tagged ones before it.
    pub(crate) fn states_before_log(&self) -> Vec<Snapshot> {
        let kept = lock(&self.kept);
        kept.base.iter().chain(kept.tagged.values()).cloned().collect()
    }

    /// What rebuilding an epoch of a bus in memory takes.
    pub(crate) fn cost_in_memory(&self, epoch: u64) -> Result<Cost> {
        let kept = lock(&self.kept);
        kept.check(epoch)?;
        if kept.tagged.contains_key(&epoch) {
            return Ok(Cost::default());
        }
        let base = kept.base.as_ref().map_or(self.core.base_epoch(), Snapshot::epoch);
        self.past.cost(epoch, Some(base), None)
    }

    /// Lets go of the log of a bus in memory before the window, in whole segments.
    #[cold]
    pub(crate) fn forget(&self) {
        let rolled = self.core.segment.load(Ordering::Relaxed);
        match self.try_forget() {
            // As long as an epoch is rebuilt or a copy made, the next commit tries again.
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => trace::forget_failed(&error.message),
        }
        self.indexed.store(rolled, Ordering::Relaxed);
    }

    /// Tells whether it was done, or nothing was to be done.
    fn try_forget(&self) -> Result<bool> {
        let (Ok(mut kept), Ok(backups)) = (self.kept.try_lock(), self.backups.try_lock()) else {
            return Ok(false);
        };
        if *backups > 0 {
            return Ok(false);
        }
        let store = &self.store;
        let Some(at) = Snapshot::oldest_retained(&self.core)? else { return Ok(true) };
        let names = log::list(&*store.vfs, &store.dir)?;
        let behind = names.partition_point(|name| name.first_epoch <= at.epoch() + 1);
        let gone = &names[..behind.saturating_sub(1)];
        let Some(last) = gone.last() else { return Ok(true) };
        let base = LogBase { seq: last.seq + 1, epoch: at.epoch() };
        loop {
            let tagged = Snapshot::brief(&self.core).tagged();
            kept.tagged.retain(|epoch, _| tagged.contains(epoch));
            for &epoch in tagged.range(self.core.base_epoch()..base.epoch) {
                if !kept.tagged.contains_key(&epoch) && kept.check(epoch).is_ok() {
                    let snapshot = self.rebuilt(&kept, epoch)?;
                    kept.tagged.insert(epoch, snapshot);
                }
            }
            if settle(self, base, &tagged)? {
                break;
            }
        }
        // What was rebuilt stands on the old base.
        self.past.close();
        kept.base = Some(at);
        self.unlink(gone).map(|()| true)
    }

    fn unlink(&self, gone: &[SegmentName]) -> Result<()> {
        let store = &self.store;
        let mut freed = 0;
        for name in gone {
            let (path, size) = sized(store, log::log_dir(&store.dir).join(name.file()))?;
            freed += size;
            store.vfs.unlink(&path).map_err(|e| Error::storage(&path, &e, "cannot remove"))?;
        }
        let mut seq = lock(&self.core.sequencer);
        seq.log.as_mut().map_or(Ok(()), |log| log.removed(freed))
    }
}

impl Kept {
    fn check(&self, epoch: u64) -> Result<()> {
        let Some(base) = self.base.as_ref().map(Snapshot::epoch) else { return Ok(()) };
        if epoch >= base || self.tagged.contains_key(&epoch) {
            return Ok(());
        }
        let oldest = self.tagged.keys().next().map_or(base, |&first| first.min(base));
        let what =
            format!("epoch {epoch} was let go (bus.retain); the oldest that opens is {oldest}");
        Err(Error::new(Code::EpochNotFound, what))
    }
}
