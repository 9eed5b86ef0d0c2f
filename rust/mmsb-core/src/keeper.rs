//! Automatic checkpoints: when one is due, and which of them stay.
//!
//! Checkpoints behind the base of the log are not history: the log says the same, any of them can go. The newest two
//! automatic ones stay, and of the older ones one per doubling of the distance in epochs; explicit ones and those of
//! tagged epochs stay. That of the base and those before it are history, and stay until they are pruned.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::history::Store;
use crate::museum::{Defect, planted};
use crate::{Error, Result, checkpoint};

/// Log that a recovery may have to read before a checkpoint is worth its time.
const LEAST_LOG: u64 = 256 << 20;

/// Decides when the next automatic checkpoint is due.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// Bytes of log at which one is due, or the epoch; the maximum while one is being made.
    due_at: AtomicU64,
    /// One is due after so many epochs, whatever they take.
    every: Option<u64>,
}

impl Keeper {
    /// `checkpointed` is the epoch of the newest one.
    pub(crate) fn new(
        every: Option<u64>,
        log_bytes: u64,
        page_bytes: u64,
        checkpointed: u64,
    ) -> Keeper {
        let keeper = Keeper { due_at: AtomicU64::new(0), every };
        let next = keeper.next(log_bytes, page_bytes, checkpointed);
        keeper.due_at.store(next, Ordering::Relaxed);
        keeper
    }

    fn next(&self, log_bytes: u64, page_bytes: u64, epoch: u64) -> u64 {
        match self.every {
            Some(every) => epoch.saturating_add(every),
            None => log_bytes.saturating_add(LEAST_LOG.max(page_bytes / 2)),
        }
    }

    /// Whether the caller is to make a checkpoint now; then it calls `done` afterwards.
    #[inline]
    pub(crate) fn is_due(&self, log_bytes: u64, epoch: u64) -> bool {
        let due_at = self.due_at.load(Ordering::Relaxed);
        let now = if self.every.is_some() { epoch } else { log_bytes };
        now >= due_at
            && self
                .due_at
                .compare_exchange(due_at, u64::MAX, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// So much of the log was let go, which is nothing that a recovery would have read.
    pub(crate) fn removed(&self, log_bytes: u64) {
        let counts = self.every.is_none();
        let less =
            |due_at: u64| (counts && due_at != u64::MAX).then(|| due_at.saturating_sub(log_bytes));
        let _ = self.due_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// A checkpoint was made, or could not be: the next one is due after as much log again.
    pub(crate) fn done(&self, log_bytes: u64, page_bytes: u64, epoch: u64) {
        let next = self.next(log_bytes, page_bytes, epoch);
        let due_at = self.due_at.swap(next, Ordering::Relaxed);
        assert_eq!(due_at, u64::MAX, "only who was told that one is due is done with it");
    }
}

/// Which automatic checkpoints may go, of those at `epochs` (oldest first).
fn superfluous(epochs: &[u64]) -> Vec<u64> {
    let Some(&newest) = epochs.last() else { return Vec::new() };
    assert!(epochs.is_sorted_by(|a, b| a < b), "checkpoints are listed once, oldest first");
    let mut kept = BTreeSet::new();
    let older = &epochs[..epochs.len().saturating_sub(2)];
    // Oldest first, so that what is kept of a distance stays kept while time goes on.
    let gone: Vec<u64> =
        older.iter().copied().filter(|epoch| !kept.insert((newest - epoch).ilog2())).collect();
    assert_eq!(kept.len() + gone.len(), older.len(), "each of them stays or goes");
    assert!(older.is_empty() || !kept.is_empty(), "of the older ones none stays");
    gone
}

/// Removes automatic checkpoints that the rule does not keep.
pub(crate) fn thin(store: &Store, tagged: &[(String, u64)]) -> Result<()> {
    let mut automatic = Vec::new();
    let base = store.base()?.epoch;
    let known = checkpoint::list(&*store.vfs, &store.dir)?;
    for &epoch in &known {
        let is_history = epoch <= base && !planted(Defect::BaseThinned);
        let is_tagged = tagged.iter().any(|&(_, named)| named == epoch);
        if !is_history && !is_tagged && checkpoint::is_automatic(&*store.vfs, &store.dir, epoch)? {
            automatic.push(epoch);
        }
    }
    let gone = superfluous(&automatic);
    let stay = known.iter().filter(|epoch| !gone.contains(epoch));
    let needed = checkpoint::bases(&*store.vfs, &store.dir, stay)?;
    let is_needed = |epoch: &u64| needed.contains(epoch) && !planted(Defect::GroundThinned);
    for epoch in gone.into_iter().filter(|epoch| !is_needed(epoch)) {
        assert!(tagged.iter().all(|&(_, named)| named != epoch), "those of tags stay");
        let newest = &automatic[automatic.len().saturating_sub(2)..];
        assert!(!newest.contains(&epoch), "the newest two stay");
        assert!(automatic.contains(&epoch), "those that were asked for stay");
        let path = checkpoint::path(&store.dir, epoch);
        store.vfs.unlink(&path).map_err(|e| Error::storage(&path, &e, "cannot remove"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_two_stay_and_one_per_doubling() {
        let mut kept: Vec<u64> = Vec::new();
        for epoch in (10..if cfg!(miri) { 500 } else { 5000 }).step_by(10) {
            kept.push(epoch);
            for gone in superfluous(&kept) {
                kept.retain(|&e| e != gone);
            }
            assert!(kept.ends_with(&[epoch]));
            assert!(kept.len() <= 2 + 13, "{kept:?}");
            // Any epoch has a checkpoint before it that is at most four times as far away as need be.
            for (a, b) in kept.iter().zip(&kept[1..]) {
                assert!(b - a <= 4 * (epoch - b).max(10), "{kept:?}");
            }
        }
    }

    #[test]
    fn one_caller_is_told_and_then_nobody_until_it_is_done() {
        let keeper = Keeper::new(None, 0, 0, 9);
        assert!(!keeper.is_due(LEAST_LOG - 1, 5));
        assert!(keeper.is_due(LEAST_LOG, 5));
        assert!(!keeper.is_due(u64::MAX - 1, 6));
        keeper.done(LEAST_LOG, 4 * LEAST_LOG, 7);
        assert!(!keeper.is_due(LEAST_LOG * 3 - 1, 7));
        assert!(keeper.is_due(LEAST_LOG * 3, 7));
    }

    /// What went, and what counted as log up to the next one, are the same bytes.
    #[test]
    fn what_is_let_go_of_the_log_does_not_put_it_off() {
        let keeper = Keeper::new(None, LEAST_LOG, 0, 0);
        keeper.removed(LEAST_LOG / 4);
        keeper.removed(LEAST_LOG / 4);
        assert!(!keeper.is_due(LEAST_LOG + LEAST_LOG / 2 - 1, 1));
        assert!(keeper.is_due(LEAST_LOG + LEAST_LOG / 2, 1));
        // Nobody is told of another while one is made.
        keeper.removed(LEAST_LOG);
        assert!(!keeper.is_due(u64::MAX - 1, 1));
        keeper.done(LEAST_LOG / 2, 0, 1);
        keeper.removed(2 * LEAST_LOG);
        assert!(keeper.is_due(0, 1));
    }

    #[test]
    fn every_so_many_epochs() {
        let keeper = Keeper::new(Some(10), u64::MAX / 2, 1 << 40, 5);
        assert!(!keeper.is_due(u64::MAX, 14));
        assert!(keeper.is_due(0, 15));
        keeper.removed(1 << 30);
        assert!(!keeper.is_due(0, u64::MAX - 1));
        keeper.done(0, 0, 18);
        keeper.removed(1 << 30);
        assert!(!keeper.is_due(u64::MAX, 27) && keeper.is_due(0, 28));
    }
}
