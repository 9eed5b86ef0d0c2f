//! Making checkpoints of a bus, beside its commits.
//!
//! Invariants: one is made at a time, of a pinned epoch; it gets its name when it and the log up to its epoch are durable.
//! It stands at most on a checkpoint that this host made or began with, which has all of its blocks itself. A failed sync
//! of the names ends checkpoints: the next one could seem to succeed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::bus::Inner;
use crate::checkpoint::{Making, Reader};
use crate::history::Store;
use crate::museum::{Defect, planted};
use crate::snapshot::Snapshot;
use crate::sync::lock;
use crate::{Code, Error, Result, checkpoint, keeper, trace};

/// What is known from one checkpoint to the next.
#[derive(Debug)]
pub(crate) struct Maker {
    /// No more can be made.
    pub(crate) ended: Option<Error>,
    /// The epoch of the checkpoint that the next one is to stand on.
    base: Option<u64>,
    compress: bool,
}

impl Maker {
    /// Goes on after a checkpoint that was begun with, if its history is this one.
    pub(crate) fn new(base: Option<u64>, compress: bool) -> Maker {
        Maker { ended: None, base: base.filter(|&epoch| epoch > 0), compress }
    }

    /// What the checkpoint of a later epoch is to stand on, if that is sound.
    fn base(&mut self, store: &Store, epoch: u64) -> Result<Option<Reader>> {
        let Some(base) = self.base.filter(|&base| base < epoch) else { return Ok(None) };
        match Reader::open(&*store.vfs, &store.dir, base, store.uuid) {
            Ok(reader) => Ok(Some(reader)),
            Err(error) if error.code == Code::Corruption || error.is_missing() => {
                trace::checkpoint_damaged(&checkpoint::path(&store.dir, base), &error.message);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Inner {
    /// Whether a checkpoint can be made.
    pub(crate) fn can_checkpoint(&self, maker: &Maker) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(Code::Closed, "the bus is closed"));
        }
        maker.ended.clone().map_or(Ok(()), Err)
    }

    /// Makes one of the newest epoch, unless there is a sound one.
    pub(crate) fn checkpoint(&self, automatic: bool) -> Result<u64> {
        let (core, store) = (&self.core, &self.store);
        let mut maker = lock(&self.checkpointing);
        self.can_checkpoint(&maker)?;
        let at = Snapshot::newest(core)?;
        let (epoch, file) = (at.epoch(), checkpoint::path(&store.dir, at.epoch()));
        if checkpoint::list(&*store.vfs, &store.dir)?.contains(&epoch) {
            match checkpoint::verify(&*store.vfs, &store.dir, epoch, store.uuid) {
                Err(error) if error.code == Code::Corruption => {
                    trace::checkpoint_damaged(&file, &error.message);
                }
                done => return done.map(|_| epoch),
            }
        }
        let base = maker.base(store, epoch)?;
        let making = Making { automatic, base: base.as_ref(), compress: maker.compress };
        let size = self.write_checkpoint(&at, making, &mut maker.ended)?;
        maker.base = match base {
            // Nothing can stand on the empty state.
            None => Some(epoch).filter(|&epoch| epoch > 0),
            // One that took more than half of the state is the last on its base.
            Some(base) => Some(base.head().epoch).filter(|_| size <= at.root().bytes / 2),
        };
        keeper::thin(store, &at.tags())?;
        // One that is gone takes its place on disk as long as it is open.
        self.past.kept.let_go_of_checkpoint();
        Ok(epoch)
    }

    /// Makes a checkpoint, durably, and notes it in the log. Returns its size.
    pub(crate) fn write_checkpoint(
        &self,
        at: &Snapshot,
        making: Making<'_>,
        ended: &mut Option<Error>,
    ) -> Result<u64> {
        let began = Instant::now();
        let (core, store, epoch) = (&self.core, &self.store, at.epoch());
        trace::checkpoint_begin(epoch);
        let size = checkpoint::write(&*store.vfs, &store.dir, store.uuid, at, making)?;
        if !planted(Defect::CheckpointBeforeLog) {
            core.wait_durable(epoch)?;
        }
        let digest = at.digest()?;
        let names = checkpoint::install(&*store.vfs, &store.dir, epoch)?;
        checkpoint::sync_names(&*names, &store.dir)
            .inspect_err(|error| *ended = Some(error.clone()))?;
        let mut seq = lock(&core.sequencer);
        let marked = seq.log.as_mut().map_or(Ok(()), |log| log.append_mark(epoch, digest, size));
        if let Err(error) = marked {
            if seq.log.as_ref().is_some_and(|log| log.usable().is_err()) {
                seq.fail(&error);
            }
            return Err(error);
        }
        drop(seq);
        let file = checkpoint::path(&store.dir, epoch);
        trace::checkpoint_done(&file, epoch, size, began.elapsed().as_secs_f64());
        Ok(size)
    }
}

/// Makes one that nobody asked for, beside the commits.
pub(crate) fn checkpoint_in_background(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    let done = |inner: &Inner| {
        let (log, pages) = inner.core.log_and_page_bytes();
        inner.keeper.done(log, pages, inner.core.epoch());
    };
    let work = move || {
        let Some(inner) = weak.upgrade() else { return };
        // A failure is told by an event; the log has everything, so nothing is lost.
        if let Err(error) = inner.checkpoint(true) {
            trace::checkpoint_failed(&inner.store.dir, &error.message);
        }
        done(&inner);
    };
    if std::thread::Builder::new().name("mmsb-checkpoint".into()).spawn(work).is_err() {
        done(inner);
    }
}

#[cfg(test)]
mod tests;
