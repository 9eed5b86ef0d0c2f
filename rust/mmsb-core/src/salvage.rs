//! What is provably good of a damaged store, in a new one.
//!
//! Good is every epoch from the first commit on whose records are all sound and fit the states that they meet, up to the
//! first hole; those are in the new store as they were. Where the log begins at a base, that is every epoch from its oldest
//! sound checkpoint on, and those before it that have one of their own. Behind a hole a sound checkpoint proves its own epoch, and the
//! records that follow it those after. They are told of, and the state of the newest can be made the last commit of the
//! new store: that commit says which epoch it was.
//!
//! Invariants: of the damaged store nothing is changed; the new one is a store when all of it is durable; whatever is
//! left out is told.

#[cfg(test)]
mod tests;
#[cfg(test)]
mod told_tests;

use std::path::Path;
use std::sync::Arc;

use crate::backup::Unfinished;
use crate::checkpoint::Making;
use crate::core::Core;
use crate::delta::Batch;
use crate::history::{BACKING, Store, at_record};
use crate::log::salvage::{Runs, cut, follow, identity, names, reach, read, unknown};
use crate::log::{self, HEADROOM, Log, LogBase, LogOptions, LogRecovery, META, OpenMode, SOURCE};
use crate::log::{StoreMeta, birth, put_text};
use crate::open::{Options, Report, absolute, durability_of, log_options, max_memory};
use crate::snapshot::Snapshot;
use crate::vfs::{OpenKind, OsVfs, ReadingVfs, Vfs, read_full_at};
use crate::{Code, Error, Result, checkpoint, index, restore, trace};

/// Who makes the commit that has the newest state.
const SOURCE_NAME: &str = "mmsb.recover";
/// Progress is told after so many bytes of commits.
const TELL: u64 = 1 << 20;

/// What is wanted of a damaged store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wish {
    /// No epoch after this one.
    pub upto: Option<u64>,
    /// One commit more, with the newest state that is whole behind the first hole.
    pub newest: bool,
}

/// What was good, and what was not.
#[derive(Debug, Clone, Default)]
pub struct Salvage {
    /// The newest epoch of the new store.
    pub epoch: u64,
    /// Sound records that were read.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes at the end of the log that no commit could be read from, and that nothing proves durable.
    pub torn_bytes: u64,
    /// Damage, in the order it was met.
    pub problems: Vec<Error>,
    /// Epochs that cannot be rebuilt: the first of them, and the one behind the last.
    pub lost: Vec<(u64, u64)>,
    /// Epochs behind a hole that are whole, in the same form.
    pub later: Vec<(u64, u64)>,
    /// The epoch whose state the last commit of the new store has, if that was wished for.
    pub appended: Option<u64>,
}

/// Writes what is good of the store `from` into the directory `to`, which is empty or not there. `progress` is told work
/// done and work in all, in bytes.
pub fn recover(
    from: &Path,
    to: &Path,
    wish: Wish,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Salvage> {
    recover_on(Arc::new(OsVfs), from, to, wish, options, progress)
}

/// The same behind a file system.
pub fn recover_on(
    vfs: Arc<dyn Vfs>,
    from: &Path,
    to: &Path,
    wish: Wish,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Salvage> {
    let (from, to) = (&*absolute(from)?, &*absolute(to)?);
    if to.starts_with(from) || from.starts_with(to) {
        let what = format!("{} and {} lie in one another", from.display(), to.display());
        return Err(Error::new(Code::Argument, what + "; name a directory of its own"));
    }
    let reading = Arc::new(ReadingVfs::new(Arc::clone(&vfs)));
    let mut damaged = Damaged::find(Arc::clone(&reading), from)?;
    // Held until all is done: nobody makes or opens a store there.
    let lock = birth::claim(&*vfs, to)?;
    let max_memory = max_memory(options)?;
    damaged.read(progress)?;
    let upto = damaged.bound(wish.upto)?;
    let head = damaged.start(upto, max_memory)?;
    birth::set_mark(&*vfs, to)?;
    let (start, durability) = (head.epoch(), damaged.meta.durability);
    let meta = StoreMeta {
        durability,
        base: LogBase { seq: 0, epoch: start },
        parent: damaged.meta.parent,
        ..unknown(damaged.store.uuid)
    };
    let time = if start > 0 { Some(Snapshot::brief(&head).time()) } else { damaged.found.time };
    let opts = LogOptions {
        time,
        mapped: false,
        base_epoch: start,
        ..log_options(options, durability_of(durability))
    };
    let mut fill = |_| damaged.keep(&head, &*vfs, to, max_memory);
    let mut log = Log::begin(Arc::clone(&vfs), to, opts, lock, meta, &mut fill)?;
    let unfinished = Unfinished { vfs: &*vfs, to };
    let mut out = Out { vfs: &*vfs, to, log: &mut log, buf: Vec::new() };
    damaged.history(&head, &mut out, upto, progress)?;
    let end = head.epoch();
    let late = if wish.newest { damaged.newest(end, upto, max_memory)? } else { None };
    let mut told = damaged.tell((start, end), upto);
    if let Some(late) = late {
        out.state(&head, &late)?;
        (told.epoch, told.appended) = (end + 1, Some(late.epoch()));
    }
    // From here on it is a store, whatever becomes of the mark.
    std::mem::forget(unfinished);
    log.close()?;
    birth::remove_mark(&*vfs, to)?;
    progress(damaged.work, damaged.work);
    told.problems = damaged.problems();
    trace::salvage_done(to, told.epoch, told.problems.len() as u64);
    Ok(told)
}

/// Checks every byte of a store that nobody writes to, also of one that does not open. `progress` as for [`recover`].
pub fn verify(dir: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    verify_on(Arc::new(OsVfs), dir, progress)
}

/// The same behind a file system.
pub fn verify_on(
    vfs: Arc<dyn Vfs>,
    dir: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Report> {
    let mut damaged = Damaged::find(Arc::new(ReadingVfs::new(vfs)), &absolute(dir)?)?;
    damaged.read(progress)?;
    let (records, mut bytes, mut of_indexes) = (damaged.found.records, damaged.found.bytes, vec![]);
    bytes += index::verify(&damaged.store, &mut |e| of_indexes.push(e))?;
    progress(damaged.work, damaged.work);
    let mut problems = damaged.problems();
    problems.extend(of_indexes);
    for e in &problems {
        let file = e.detail.file.as_deref().unwrap_or(dir);
        trace::verify_problem(file, e.detail.offset, e.detail.epoch, &e.message);
    }
    Ok(Report { records, bytes, problems })
}

/// A store of which anything may be wrong.
struct Damaged {
    reading: Arc<ReadingVfs>,
    store: Store,
    /// What the newest sound slot says.
    meta: StoreMeta,
    names: Vec<log::SegmentName>,
    found: Runs,
    /// Epochs of the checkpoints that are sound, and their digests.
    sound: Vec<(u64, u128)>,
    /// Epochs before the base of which the checkpoint is damaged.
    gone: Vec<u64>,
    torn_bytes: u64,
    /// Of the slots, of the log, and of checkpoints.
    problems: [Vec<Error>; 3],
    work: u64,
}

impl Damaged {
    /// What of a store can be told without reading its log.
    fn find(reading: Arc<ReadingVfs>, dir: &Path) -> Result<Damaged> {
        let vfs: Arc<dyn Vfs> = Arc::clone(&reading) as Arc<dyn Vfs>;
        refuse_hosted(&*vfs, dir)?;
        let [mut of_slots, mut of_log] = [Vec::new(), Vec::new()];
        let mut names = names(&*vfs, dir, &mut |e| of_log.push(e))?;
        if let Err(error) = log::read_meta(&*vfs, dir) {
            // Of a log that is gone there may be checkpoints.
            let is_none = error.code == Code::BusNotFound
                && (birth::is_marked(&*vfs, dir)? || checkpoint::list(&*vfs, dir)?.is_empty());
            if is_none || !is_of_store(&error) {
                return Err(error);
            }
        }
        let meta = identity(&*vfs, dir, &names, &mut |e| of_slots.push(e))?;
        let meta = match meta {
            Some(meta) => meta,
            None => unknown(uuid_of_checkpoints(&*vfs, dir)?),
        };
        // What is left of segments before the base means nothing.
        names.retain(|name| name.seq >= meta.base.seq);
        Ok(Damaged {
            reading,
            store: Store { vfs, dir: dir.to_path_buf(), uuid: meta.uuid },
            meta,
            names,
            found: Runs::default(),
            sound: Vec::new(),
            gone: Vec::new(),
            torn_bytes: 0,
            problems: [of_slots, of_log, Vec::new()],
            work: 0,
        })
    }

    /// Checks log and checkpoints.
    fn read(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
        let (Store { vfs, dir, uuid }, base) = (&self.store, self.meta.base);
        let log = log::log_dir(dir);
        for name in &self.names {
            let path = log.join(name.file());
            let size = vfs.open(&path, OpenKind::Read).and_then(|file| file.size());
            let size = size.map_err(|e| Error::storage(&path, &e, "measure"))?;
            self.work = self.work.saturating_add(size.saturating_mul(3));
        }
        let work = self.work;
        let [_, of_log, of_checkpoints] = &mut self.problems;
        let whole = of_log.is_empty();
        let on = &mut |e| of_log.push(e);
        let names = (base.seq, &*self.names);
        self.found = read(&**vfs, dir, *uuid, names, on, &mut |n| progress(n, work))?;
        let known = checkpoint::list(&**vfs, dir)?;
        if !known.contains(&base.epoch) {
            of_checkpoints.extend(self.store.needs(base.epoch, None).err());
        }
        for epoch in known {
            let checked =
                checkpoint::verify(&**vfs, dir, epoch, *uuid).and_then(|(size, digest)| {
                    let mut marks = self.found.marks.iter().filter(|mark| mark.epoch == epoch);
                    marks.try_for_each(|mark| checkpoint::check(dir, digest, mark))?;
                    Ok((size, digest))
                });
            match checked {
                Ok((size, digest)) => {
                    self.found.bytes = self.found.bytes.saturating_add(size);
                    self.sound.push((epoch, digest));
                }
                Err(error) if error.code == Code::Corruption => {
                    of_checkpoints.push(error);
                    self.gone.extend((epoch < base.epoch).then_some(epoch));
                }
                Err(error) => return Err(error),
            }
        }
        let newest = self.sound.last().map_or(0, |&(epoch, _)| epoch);
        let missing = || {
            let epoch = reach(&self.found.runs, base.epoch) + 1;
            let what = "commits before a checkpoint are missing";
            Error::corruption(&log, None, Some(epoch), what)
        };
        match self.judge(progress)? {
            Some(Ok(end)) if whole && newest <= end.last_epoch => {
                self.problems[1].clear();
                self.found.runs.retain(|run| run.last <= end.last_epoch);
                self.torn_bytes = end.torn_bytes;
            }
            // What was told already is seen in opening too.
            _ if !self.problems[1].is_empty() => {}
            // A cut that the log's own bytes do not show.
            Some(Err(error)) => self.problems[1].push(error),
            _ if newest > reach(&self.found.runs, base.epoch) => {
                let error = missing();
                self.problems[1].push(error);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the log is sound but for a torn end, as opening judges it; nothing if no slot says how far it was durable.
    fn judge(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<Result<LogRecovery>>> {
        let Store { vfs, dir, .. } = &self.store;
        match log::read_meta(&**vfs, dir) {
            Err(error) if is_of_store(&error) => return Ok(None),
            read => _ = read?,
        }
        let third = self.work / 3;
        let judged = log::open(
            Arc::clone(vfs),
            dir,
            LogOptions::default(),
            self.meta.base.epoch,
            OpenMode::Reader { durable_only: false },
            &mut |_| Ok(()),
            &mut |n, _| progress(third + n.min(third), self.work),
        );
        match judged {
            Ok((_, found)) => Ok(Some(Ok(found))),
            Err(error) if error.code == Code::Corruption => Ok(Some(Err(error))),
            Err(error) => Err(error),
        }
    }

    /// The newest epoch that anything tells of.
    fn known(&self) -> u64 {
        let runs = self.found.runs.iter().map(|run| run.last);
        let all = runs.chain(self.sound.iter().map(|&(epoch, _)| epoch));
        all.fold(self.meta.durable_epoch.max(self.meta.base.epoch), u64::max)
    }

    fn bound(&self, upto: Option<u64>) -> Result<u64> {
        let known = self.known();
        match upto {
            Some(upto) if upto > known => {
                let what =
                    format!("there is no epoch {upto}; the newest that is known of is {known}");
                Err(Error::new(Code::EpochNotFound, what))
            }
            Some(upto) => Ok(upto),
            None => Ok(known),
        }
    }

    /// What the history begins with: nothing, or with a base the oldest sound checkpoint from it on. Of what lies before
    /// it the newest, if no later epoch is wished for.
    fn start(&mut self, upto: u64, max_memory: u64) -> Result<Arc<Core>> {
        let Store { vfs, dir, uuid } = &self.store;
        let base = self.meta.base.epoch;
        loop {
            let core = Core::new(BACKING, max_memory, false)?;
            if base == 0 {
                return Ok(core);
            }
            let all = 0..self.sound.len();
            let at = match upto >= base {
                true => all.into_iter().find(|&at| (base..=upto).contains(&self.sound[at].0)),
                false => all.rev().find(|&at| self.sound[at].0 <= upto),
            };
            let Some(at) = at else {
                self.store.check_kept(upto)?;
                let what = format!(
                    "the log before epoch {base} was let go, and no checkpoint from there to epoch {upto} is sound: \
                     nothing of it can be proven"
                );
                return Err(Error::corruption(&checkpoint::dir(dir), None, Some(base), what));
            };
            let epoch = self.sound[at].0;
            match checkpoint::load(&**vfs, dir, epoch, *uuid, &core, &mut |_, _| {}) {
                Err(error) if error.code == Code::Corruption => {
                    self.problems[2].push(error);
                    self.sound.remove(at);
                }
                done => return done.map(|()| core),
            }
        }
    }

    /// Writes what the log of the new store begins with, and the checkpoints before that.
    fn keep(&self, head: &Arc<Core>, vfs: &dyn Vfs, to: &Path, max_memory: u64) -> Result<()> {
        let Store { vfs: from, dir, uuid } = &self.store;
        let start = head.epoch();
        if self.meta.base.epoch == 0 {
            return Ok(());
        }
        for &(epoch, _) in self.sound.iter().filter(|&&(epoch, _)| epoch <= start) {
            let core = match epoch == start {
                true => Arc::clone(head),
                false => Core::new(BACKING, max_memory, false)?,
            };
            if epoch < start {
                checkpoint::load(&**from, dir, epoch, *uuid, &core, &mut |_, _| {})?;
            }
            let automatic = checkpoint::is_automatic(&**from, dir, epoch)?;
            let making = Making { automatic, ..Making::default() };
            checkpoint::write(vfs, to, *uuid, &Snapshot::newest(&core)?, making)?;
            let names = checkpoint::install(vfs, to, epoch)?;
            checkpoint::sync_names(&*names, to)?;
        }
        Ok(())
    }

    /// Writes the history up to the first hole.
    fn history(
        &mut self,
        head: &Arc<Core>,
        out: &mut Out<'_>,
        upto: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<()> {
        let Store { vfs, dir, .. } = &self.store;
        let runs = &self.found.runs;
        let start = head.epoch();
        let all = reach(runs, start).min(upto).saturating_sub(start).max(1);
        let (work, third, mut since) = (self.work, self.work / 3, 0);
        let (sound, of_checkpoints) = (&mut self.sound, &mut self.problems[2]);
        let mut check = |head: &Arc<Core>, out: &mut Out<'_>| -> Result<()> {
            let epoch = head.epoch();
            let Some(at) = sound.iter().position(|&(e, _)| e == epoch) else { return Ok(()) };
            let automatic = checkpoint::is_automatic(&**vfs, dir, epoch)?;
            if Snapshot::brief(head).digest()? == sound[at].1 {
                return out.checkpoint(head, automatic);
            }
            sound.remove(at);
            let file = checkpoint::path(dir, epoch);
            let what = "the checkpoint is of another state than the log makes";
            of_checkpoints.push(Error::corruption(&file, Some(136), Some(epoch), what));
            Ok(())
        };
        if self.meta.base.epoch == 0 {
            check(head, out)?;
        }
        let done = follow(&**vfs, dir, runs, start, upto, &mut |commit| {
            head.replay(commit.epoch, commit.time, commit.ops)
                .map_err(|e| at_record(e, &commit))?;
            out.commit(&commit)?;
            check(head, out)?;
            since += commit.ops.len() as u64 + HEADROOM as u64;
            if since >= TELL {
                since = 0;
                let part = u128::from(third) * u128::from(commit.epoch - start) / u128::from(all);
                progress(2 * third + part as u64, work);
            }
            Ok(())
        });
        match done {
            // A sound record that does not fit the state: the history ends before it.
            Err(error) if error.code == Code::Corruption => self.problems[1].push(error),
            done => done?,
        }
        Ok(())
    }

    /// What is whole behind the history from `start` to `head`, and what is lost.
    fn tell(&self, (start, head): (u64, u64), upto: u64) -> Salvage {
        let (mut lost, mut later) = (Vec::new(), Vec::new());
        lost.extend(self.gone.iter().filter(|&&epoch| epoch <= upto).map(|&at| (at, at + 1)));
        if self.meta.base.epoch < start {
            lost.push((self.meta.base.epoch, start));
        }
        let mut next = head + 1;
        for &(epoch, _) in self.sound.iter().filter(|&&(epoch, _)| epoch <= upto) {
            if epoch < next {
                continue;
            }
            if next < epoch {
                lost.push((next, epoch));
            }
            next = reach(&self.found.runs, epoch).min(upto) + 1;
            match later.last_mut() {
                Some((_, end)) if *end == epoch => *end = next,
                _ => later.push((epoch, next)),
            }
        }
        // What was let go was not lost.
        if next <= upto && upto >= self.meta.base.epoch {
            lost.push((next, upto + 1));
        }
        Salvage {
            epoch: head,
            records: self.found.records,
            bytes: self.found.bytes,
            torn_bytes: self.torn_bytes,
            lost,
            later,
            ..Salvage::default()
        }
    }

    /// The newest state that is whole behind `head`.
    fn newest(&mut self, head: u64, upto: u64, max_memory: u64) -> Result<Option<Arc<Core>>> {
        let Store { vfs, dir, uuid } = &self.store;
        while let Some(at) = self.sound.iter().rposition(|&(e, _)| head < e && e <= upto) {
            let core = Core::new(BACKING, max_memory, false)?;
            let epoch = self.sound[at].0;
            match checkpoint::load(&**vfs, dir, epoch, *uuid, &core, &mut |_, _| {}) {
                Err(error) if error.code == Code::Corruption => {
                    self.problems[2].push(error);
                    self.sound.remove(at);
                    continue;
                }
                done => done?,
            }
            let done = follow(&**vfs, dir, &self.found.runs, epoch, upto, &mut |commit| {
                core.replay(commit.epoch, commit.time, commit.ops)
                    .map_err(|e| at_record(e, &commit))
            });
            match done {
                Err(error) if error.code == Code::Corruption => {
                    self.problems[1].push(error);
                    cut(&mut self.found.runs, core.epoch());
                }
                done => done?,
            }
            return Ok(Some(core));
        }
        Ok(None)
    }

    /// All that is wrong, pieces that the disk did not give first.
    fn problems(&mut self) -> Vec<Error> {
        let lost = self.reading.lost().into_iter().map(|(file, offset)| {
            Error::corruption(&file, Some(offset), None, "the disk does not give these bytes")
        });
        lost.chain(self.problems.iter_mut().flat_map(std::mem::take)).collect()
    }
}

/// What is written into the new store.
struct Out<'a> {
    vfs: &'a dyn Vfs,
    to: &'a Path,
    log: &'a mut Log,
    buf: Vec<u8>,
}

impl Out<'_> {
    fn commit(&mut self, commit: &log::Commit<'_>) -> Result<()> {
        let texts = [(SOURCE, commit.source), (META, commit.meta)];
        let bytes: usize = texts.iter().map(|(_, text)| text.map_or(0, str::len)).sum();
        self.buf.clear();
        let need = 2 * HEADROOM + bytes + commit.ops.len();
        if crate::arena::is_denied() || self.buf.try_reserve(need).is_err() {
            let what = format!("no memory for a commit of {need} bytes");
            return Err(Error::new(Code::OutOfSpace, what));
        }
        self.buf.resize(HEADROOM, 0);
        let mut flags = 0;
        for (flag, text) in texts {
            if let Some(text) = text {
                flags |= flag;
                put_text(&mut self.buf, text);
            }
        }
        self.buf.extend_from_slice(commit.ops);
        self.log.append(commit.epoch, commit.time, flags, &mut self.buf)
    }

    fn checkpoint(&mut self, head: &Arc<Core>, automatic: bool) -> Result<()> {
        let at = Snapshot::newest(head)?;
        let uuid = self.log.meta().uuid;
        let making = Making { automatic, ..Making::default() };
        let size = checkpoint::write(self.vfs, self.to, uuid, &at, making)?;
        // In the order of every checkpoint: the log is durable up to it first.
        let point = self.log.sync_point();
        point.sync()?;
        self.log.synced(&point);
        let names = checkpoint::install(self.vfs, self.to, at.epoch())?;
        checkpoint::sync_names(&*names, self.to)?;
        self.log.append_mark(at.epoch(), at.digest()?, size)
    }

    /// One commit that turns the newest state into a later one.
    fn state(&mut self, head: &Arc<Core>, late: &Arc<Core>) -> Result<()> {
        let (old, new) = (Snapshot::newest(head)?, Snapshot::newest(late)?);
        let mut batch = Batch::new();
        restore::plan(&old, &new, &mut batch)?;
        let known = old.tags();
        for (name, epoch) in new.tags().into_iter().filter(|tag| !known.contains(tag)) {
            // A tag of an epoch that the new store lacks would name another one.
            if epoch <= old.epoch() || epoch == new.epoch() {
                batch.tag(&name, Some(epoch).filter(|&epoch| epoch <= old.epoch()), true);
            }
        }
        let meta = format!("{{\"recovered_epoch\":{}}}", new.epoch());
        batch.set_prefix(Some(SOURCE_NAME), Some(&meta));
        batch.complete()?;
        let (epoch, time) = (old.epoch() + 1, new.time());
        head.replay(epoch, time, batch.ops())?;
        if Snapshot::brief(head).digest()? != new.digest()? {
            let what = format!("epoch {} could not be made again", new.epoch());
            return Err(Error::new(Code::Internal, what));
        }
        let (flags, buf) = batch.frame();
        self.log.append(epoch, time, flags, buf)
    }
}

/// Whether an error tells what became of the store; others are the disk's, or a later version wrote it.
fn is_of_store(error: &Error) -> bool {
    matches!(error.code, Code::Corruption | Code::BusNotFound)
}

/// A host changes files while they are read; and what it holds may be more than its files have.
fn refuse_hosted(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let path = dir.join("lock");
    if !vfs.locked(&path).map_err(|e| Error::storage(&path, &e, "look at"))? {
        return Ok(());
    }
    let mut text = [0; 16];
    let file = vfs.open(&path, OpenKind::Read);
    let n = file.and_then(|file| read_full_at(&*file, 0, &mut text)).unwrap_or(0);
    let pid = std::str::from_utf8(&text[..n]).ok().and_then(|text| text.parse().ok());
    let who = pid.map_or("another process".to_string(), |pid: u32| format!("process {pid}"));
    let what = format!("{} is open for writing in {who}; close it there first", dir.display());
    let mut error = Error::new(Code::BusLocked, what);
    (error.detail.file, error.detail.pid) = (Some(path), pid);
    Err(error)
}

/// The store's number where only checkpoints tell it.
fn uuid_of_checkpoints(vfs: &dyn Vfs, dir: &Path) -> Result<[u8; 16]> {
    for epoch in checkpoint::list(vfs, dir)?.into_iter().rev() {
        if let Some(uuid) = checkpoint::uuid(vfs, dir, epoch)? {
            return Ok(uuid);
        }
    }
    let what = "neither slots, log nor checkpoints tell which store this is";
    Err(Error::corruption(dir, None, None, what))
}
