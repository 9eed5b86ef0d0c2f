//! A copy of a store, made while commits go on.
//!
//! Invariants: the copy shows one published epoch with all of its history, byte for byte; a slot says that it is durable
//! when all of it is, and until then there is no store; a damaged log is not copied, nor is a damaged checkpoint that is
//! history; of the source nothing is changed.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::arena::is_denied;
use crate::checkpoint::Making;
use crate::history::Store;
use crate::log::{self, MetaSlots, Position, SegmentName, StoreMeta, birth};
use crate::snapshot::Snapshot;
use crate::vfs::{OpenKind, Vfs, VfsFile, read_full_at, write_all_at};
use crate::{Code, Error, Result, checkpoint, trace};

/// What is copied at once.
const PIECE: usize = 1 << 20;

/// What of a store is copied: all up to the end of an epoch.
#[derive(Debug)]
pub(crate) struct Upto {
    pub(crate) epoch: u64,
    pub(crate) end: Position,
    /// What the copy has as the durability of its bus, if not that of the source.
    pub(crate) durability: Option<u8>,
    /// The states of a bus in memory from the time before its log, which no file has.
    pub(crate) states: Vec<Snapshot>,
}

/// Copies a store into a directory that is empty or not there. `progress` is told bytes done and bytes in all.
pub(crate) fn copy(
    store: &Store,
    upto: &Upto,
    vfs: &dyn Vfs,
    to: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    check_log(store, upto)?;
    let meta = log::read_meta(&*store.vfs, &store.dir)?;
    if upto.epoch < meta.base.epoch {
        let what = format!(
            "the log up to epoch {}, where this bus stays, was let go; open the store again",
            upto.epoch
        );
        return Err(Error::new(Code::EpochNotFound, what));
    }
    let (mut names, _) = log::list_both(&*store.vfs, &store.dir, meta.base.seq)?;
    names.retain(|name| name.seq <= upto.end.seq);
    let durability = upto.durability.unwrap_or(meta.durability);
    // Held until all is done: nobody makes or opens a store there.
    let _lock = birth::claim(vfs, to)?;
    let unfinished = Unfinished { vfs, to };
    let mut copying = Copying { from: &*store.vfs, to: vfs, buf: Vec::new() };
    let meta = StoreMeta { durability, ..meta };
    let mut slots = copying.fill(store, upto, &names, meta, to, progress)?;
    // From here on it is a store, whatever becomes of the mark.
    std::mem::forget(unfinished);
    slots.write(upto.end, upto.epoch)?;
    slots.sync()?;
    birth::remove_mark(vfs, to)?;
    trace::backup_done(to, upto.epoch);
    Ok(())
}

/// Every record up to the end must be sound.
fn check_log(store: &Store, upto: &Upto) -> Result<()> {
    let mut problem = None;
    let mut note = |error| _ = problem.get_or_insert(error);
    log::verify(&*store.vfs, &store.dir, Some(upto.end), &mut note, &mut |_, _| {})?;
    problem.map_or(Ok(()), Err)
}

/// Removes a copy that was given up, also when whoever is told of the progress raised. What can't be removed now is
/// removed by the next attempt.
pub(crate) struct Unfinished<'a> {
    pub(crate) vfs: &'a dyn Vfs,
    pub(crate) to: &'a Path,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let _ = birth::remove_copy(self.vfs, self.to);
    }
}

struct Copying<'a> {
    from: &'a dyn Vfs,
    to: &'a dyn Vfs,
    buf: Vec<u8>,
}

impl Copying<'_> {
    /// Makes everything durable but what makes it a store.
    fn fill(
        &mut self,
        store: &Store,
        upto: &Upto,
        names: &[SegmentName],
        meta: StoreMeta,
        to: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<MetaSlots> {
        if is_denied() || self.buf.try_reserve_exact(PIECE).is_err() {
            let what = format!("no memory for {PIECE} bytes, in which a backup is copied");
            return Err(Error::new(Code::OutOfSpace, what));
        }
        self.buf.resize(PIECE, 0);
        let base = meta.base.epoch;
        let meta = StoreMeta { durable: Position::default(), durable_epoch: 0, ..meta };
        birth::set_mark(self.to, to)?;
        let slots = MetaSlots::create(self.to, to, meta)?;
        birth::sync_place(self.to, to)?;
        // Measured first and opened again: of a long log not all segments can be open at once.
        let mut sizes = Vec::new();
        for name in names {
            let path = log::log_dir(&store.dir).join(name.file());
            let size = self.open(&path)?.size();
            let size = size.map_err(|e| Error::storage(&path, &e, "cannot measure"))?;
            sizes.push(if name.seq == upto.end.seq { upto.end.offset } else { size });
        }
        let (mut done, total) = (0, sizes.iter().sum());
        for (name, len) in names.iter().zip(sizes) {
            let from = self.open(&log::log_dir(&store.dir).join(name.file()))?;
            let path = log::log_dir(to).join(name.file());
            self.file(&*from, len, &path, &mut |n| progress(done + n, total))?;
            done += len;
        }
        let known = checkpoint::list(self.from, &store.dir)?;
        if !known.contains(&base) && upto.states.is_empty() {
            store.needs(base, None)?;
        }
        for state in &upto.states {
            checkpoint::write(self.to, to, store.uuid, state, Making::default())?;
            checkpoint::install(self.to, to, state.epoch())?;
        }
        let mut copied = BTreeSet::new();
        for epoch in known.into_iter().filter(|&epoch| epoch <= upto.epoch) {
            if self.checkpoint(store, epoch, base, to, &copied)? {
                copied.insert(epoch);
            }
        }
        for dir in [log::log_dir(to), checkpoint::dir(to)] {
            self.to.sync_dir(&dir).map_err(|e| Error::storage(&dir, &e, "cannot sync"))?;
        }
        Ok(slots)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn VfsFile>> {
        self.from.open(path, OpenKind::Read).map_err(|e| Error::storage(path, &e, "cannot read"))
    }

    /// Copies a checkpoint that is sound and still there; tells whether it did. Of an epoch behind the base of the log the
    /// log says the same without it. What it stands on has an older epoch, and is `copied`.
    fn checkpoint(
        &mut self,
        store: &Store,
        epoch: u64,
        base: u64,
        to: &Path,
        copied: &BTreeSet<u64>,
    ) -> Result<bool> {
        let path = checkpoint::path(&store.dir, epoch);
        let is_derived = base == 0 || epoch > base;
        let from = match self.from.open(&path, OpenKind::Read) {
            // It was let go.
            Err(e) if is_derived && e.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(|e| Error::storage(&path, &e, "cannot read"))?,
        };
        let verified = checkpoint::verify(self.from, &store.dir, epoch, store.uuid);
        let size = verified.and_then(|(size, _)| {
            match checkpoint::base(self.from, &store.dir, epoch)? {
                // Not all of it was sound, though what this one needs of it was.
                Some(on) if !copied.contains(&on) => Err(checkpoint::ground_lost(&path, epoch)),
                _ => Ok(size),
            }
        });
        match size {
            Ok(size) => {
                self.file(&*from, size, &checkpoint::path(to, epoch), &mut |_| {}).map(|()| true)
            }
            Err(error) if is_derived && error.code == Code::Corruption => {
                trace::checkpoint_damaged(&path, &error.message);
                Ok(false)
            }
            Err(_) if is_derived && !self.from.exists(&path).unwrap_or(true) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Copies the first `len` bytes of a file into a new one and syncs it.
    fn file(
        &mut self,
        from: &dyn VfsFile,
        len: u64,
        path: &Path,
        on: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let failed = |e: io::Error| Error::storage(path, &e, "cannot write");
        let to = self.to.open(path, OpenKind::CreateNew).map_err(failed)?;
        let mut at = 0;
        while at < len {
            let piece = &mut self.buf[..(len - at).min(PIECE as u64) as usize];
            let n = read_full_at(from, at, piece).map_err(failed)?;
            if n < piece.len() {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            write_all_at(&*to, at, piece).map_err(failed)?;
            at += n as u64;
            on(at);
        }
        to.sync().map_err(failed)
    }
}
