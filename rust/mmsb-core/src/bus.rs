//! The bus: one store's public face. Each call checks that the handle is alive and goes to the room that does it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::arena::BLOCK;
use crate::catalog::MAX_PAGE;
use crate::core::{Core, lock};
use crate::delta::Batch;
use crate::history::{BACKING, Base, LogIter, Replay, Store};
use crate::keeper::{self, Keeper};
use crate::log::{self, Log, LogOptions, OpenMode};
use crate::sequence::{Build, Committed, Durability, How};
use crate::snapshot::{Pin, Snapshot};
use crate::table;
use crate::vfs::{OsVfs, RamVfs, Vfs};
use crate::view::View;
use crate::{Code, Error, Result, apply, checkpoint, history, restore, trace};

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For reading; takes one epoch and keeps it.
    Read,
    /// As the host; there must be a store.
    ReadWrite,
    /// As the host; creates a store if there is none.
    Append,
}

impl Mode {
    /// Its letters.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Read => "r",
            Mode::ReadWrite => "r+",
            Mode::Append => "a",
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mode> {
        match text {
            "r" => Ok(Mode::Read),
            "r+" => Ok(Mode::ReadWrite),
            "a" => Ok(Mode::Append),
            _ => Err(Error::new(
                Code::Argument,
                format!("mode {text:?} is not one of 'r', 'r+', 'a'"),
            )),
        }
    }
}

/// Options of a bus.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Durability of commits; without one a new directory gets `disk`, an old one keeps its own.
    pub durability: Option<Durability>,
    /// Most bytes of memory; without one, three quarters of what the process may have.
    pub max_memory: Option<u64>,
    /// Makes ids and salts of files reproducible; for tests.
    pub seed: Option<u64>,
    /// The size that a log segment aims at; for tests.
    pub segment_bytes: Option<u64>,
}

/// What opening a store found.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// The epoch that was recovered.
    pub epoch: u64,
    /// The checkpoint that it began with.
    pub checkpoint_epoch: Option<u64>,
    /// Commits read from the log.
    pub records: u64,
    /// Bytes of an incomplete record at the end of the log.
    pub torn_bytes: u64,
    /// Where such bytes were kept.
    pub quarantined: Vec<PathBuf>,
    /// How long it took.
    pub seconds: f64,
}

/// What `verify` found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Commits read.
    pub records: u64,
    /// Bytes checked.
    pub bytes: u64,
    /// Damage, in the order it was met.
    pub problems: Vec<Error>,
}

struct Inner {
    core: Arc<Core>,
    store: Store,
    mode: Mode,
    in_memory: bool,
    durability: Durability,
    max_memory: u64,
    recovery: Option<Recovery>,
    closed: AtomicBool,
    replay: Mutex<Option<Replay>>,
    checkpointing: Mutex<()>,
    keeper: Keeper,
}

/// One store: its pages, log and checkpoints. Clones are the same bus; the last one closes it.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("path", &self.path())
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

/// The code of a durability in the store's meta slots.
fn durability_code(durability: Durability) -> u8 {
    durability as u8
}

fn durability_of(code: u8) -> Durability {
    match code {
        0 => Durability::Memory,
        1 => Durability::Os,
        _ => Durability::Disk,
    }
}

fn max_memory(options: &Options) -> Result<u64> {
    match options.max_memory {
        Some(least) if least < 1 << 20 => Err(Error::new(
            Code::Argument,
            format!("max_memory = {least} is too little; at least {} (1 MiB)", 1 << 20),
        )),
        Some(given) => Ok(given.min(1 << 46)),
        None => Ok(crate::limits::available() / 4 * 3),
    }
}

fn log_options(options: &Options, durability: Durability) -> LogOptions {
    let default = LogOptions::default();
    LogOptions {
        segment_bytes: options.segment_bytes.unwrap_or(default.segment_bytes),
        seed: options.seed,
        durability: durability_code(durability),
        mapped: durability != Durability::Disk,
        block_size: BLOCK as u32,
        ..default
    }
}

impl Bus {
    /// A bus in memory; its log is kept in memory too, so every epoch opens.
    pub fn memory(options: &Options) -> Result<Bus> {
        let max_memory = max_memory(options)?;
        Bus::on_ram(Core::new(BACKING, max_memory, true)?, options, max_memory)
    }

    fn on_ram(core: Arc<Core>, options: &Options, max_memory: u64) -> Result<Bus> {
        let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
        let dir = PathBuf::from("/bus");
        let opts =
            LogOptions { base_epoch: core.epoch(), ..log_options(options, Durability::Memory) };
        let log = Log::create(Arc::clone(&vfs), &dir, opts)?;
        let store = Store { vfs, dir, uuid: log.meta().uuid };
        let mut seq = lock(&core.sequencer);
        seq.log = Some(log);
        seq.log_in_memory = true;
        drop(seq);
        Ok(Bus::assemble(core, store, Mode::ReadWrite, true, Durability::Memory, max_memory, None))
    }

    /// A new store in a directory.
    pub fn create(dir: &Path, options: &Options) -> Result<Bus> {
        Bus::create_on(Arc::new(OsVfs), dir, options)
    }

    /// A new store behind a file system.
    pub fn create_on(vfs: Arc<dyn Vfs>, dir: &Path, options: &Options) -> Result<Bus> {
        let max_memory = max_memory(options)?;
        let durability = options.durability.unwrap_or(Durability::Disk);
        let log = Log::create(Arc::clone(&vfs), dir, log_options(options, durability))?;
        let store = Store { vfs, dir: dir.to_path_buf(), uuid: log.meta().uuid };
        let core = Core::new(BACKING, max_memory, true)?;
        lock(&core.sequencer).log = Some(log);
        trace::create(dir, durability.as_str());
        Ok(Bus::assemble(core, store, Mode::ReadWrite, false, durability, max_memory, None))
    }

    /// Opens a store. `progress` is told bytes done and bytes in all.
    pub fn open(
        dir: &Path,
        mode: Mode,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Bus> {
        Bus::open_on(Arc::new(OsVfs), dir, mode, options, progress)
    }

    /// Opens a store behind a file system.
    pub fn open_on(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        mode: Mode,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Bus> {
        let began = Instant::now();
        let max_memory = max_memory(options)?;
        let meta = match log::read_meta(&*vfs, dir) {
            Err(error) if error.code == Code::BusNotFound && mode == Mode::Append => {
                return Bus::create_on(vfs, dir, options);
            }
            done => done,
        };
        let (meta, open_mode) = if mode == Mode::Read {
            let meta = meta?;
            let locked =
                vfs.locked(&dir.join("lock")).map_err(|e| Error::storage(dir, &e, "look at"))?;
            let durable_only = locked && durability_of(meta.durability) == Durability::Disk;
            (meta, OpenMode::Reader { durable_only })
        } else {
            meta?;
            let lock = log::lock(&*vfs, dir)?;
            (log::read_meta(&*vfs, dir)?, OpenMode::Writer(lock))
        };
        let durability = options.durability.unwrap_or(durability_of(meta.durability));
        let store = Store { vfs, dir: dir.to_path_buf(), uuid: meta.uuid };
        let fresh = || Core::new(BACKING, max_memory, mode != Mode::Read);
        let known = checkpoint::list(&*store.vfs, dir)?;
        let (core, checkpoint_epoch) =
            history::load_newest(&store, known.into_iter().rev(), fresh()?, &fresh, progress)?;
        let from = checkpoint_epoch.unwrap_or(0);
        let opts = log_options(options, durability);
        let (log, found) = log::open(
            Arc::clone(&store.vfs),
            dir,
            opts,
            from,
            open_mode,
            &mut |commit| {
                core.replay(commit.epoch, commit.time, commit.ops)
                    .map_err(|e| history::at_record(e, &commit))
            },
            progress,
        )?;
        let recovery = Recovery {
            epoch: core.epoch(),
            checkpoint_epoch,
            records: found.records,
            torn_bytes: found.torn_bytes,
            quarantined: found.quarantined,
            seconds: began.elapsed().as_secs_f64(),
        };
        core.durable.store(core.epoch(), Ordering::Release);
        lock(&core.sequencer).log = log;
        trace::recovery_done(
            dir,
            recovery.epoch,
            checkpoint_epoch,
            recovery.records,
            recovery.seconds,
        );
        let mode = if mode == Mode::Read { Mode::Read } else { Mode::ReadWrite };
        trace::open(dir, mode.as_str(), durability.as_str(), recovery.epoch);
        Ok(Bus::assemble(core, store, mode, false, durability, max_memory, Some(recovery)))
    }

    fn assemble(
        core: Arc<Core>,
        store: Store,
        mode: Mode,
        in_memory: bool,
        durability: Durability,
        max_memory: u64,
        recovery: Option<Recovery>,
    ) -> Bus {
        let (log, pages) = core.log_and_page_bytes();
        Bus(Arc::new(Inner {
            core,
            store,
            mode,
            in_memory,
            durability,
            max_memory,
            recovery,
            closed: AtomicBool::new(false),
            replay: Mutex::new(None),
            checkpointing: Mutex::new(()),
            keeper: Keeper::new(log, pages),
        }))
    }

    /// The directory; none for a bus in memory.
    pub fn path(&self) -> Option<&Path> {
        (!self.0.in_memory).then_some(&self.0.store.dir)
    }

    /// How it was opened: [`Mode::Read`] or [`Mode::ReadWrite`].
    pub fn mode(&self) -> Mode {
        self.0.mode
    }

    /// The durability of commits that do not ask for another.
    pub fn durability(&self) -> Durability {
        self.0.durability
    }

    /// What opening found; none for a new bus.
    pub fn recovery(&self) -> Option<&Recovery> {
        self.0.recovery.as_ref()
    }

    /// The newest published epoch.
    pub fn epoch(&self) -> u64 {
        self.0.core.epoch()
    }

    /// The newest epoch that a power loss would keep; 0 for a bus in memory.
    pub fn durable_epoch(&self) -> u64 {
        self.0.core.durable.load(Ordering::Acquire)
    }

    /// Whether the bus is closed.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Whether this handle was inherited through fork(2).
    pub fn forked(&self) -> bool {
        self.0.core.is_foreign()
    }

    #[inline]
    fn alive(&self) -> Result<&Arc<Core>> {
        self.0.core.check_foreign()?;
        if self.is_closed() {
            return Err(Error::new(Code::Closed, "the bus is closed"));
        }
        Ok(&self.0.core)
    }

    /// The engine of a bus that is alive.
    pub(crate) fn core(&self) -> Result<&Arc<Core>> {
        self.alive()
    }

    #[inline]
    fn writable(&self) -> Result<&Arc<Core>> {
        let core = self.alive()?;
        if self.0.mode == Mode::Read {
            return Err(Error::new(
                Code::ReadOnly,
                "the bus was opened with mode='r'; open it with mode='r+' to write",
            ));
        }
        Ok(core)
    }

    /// The newest epoch, pinned.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::newest(self.alive()?)
    }

    /// An epoch, rebuilt from the log if it is not the newest.
    pub fn snapshot_at(&self, epoch: u64) -> Result<Snapshot> {
        let core = self.alive()?;
        let newest = Snapshot::newest(core)?;
        if newest.epoch() == epoch {
            return Ok(newest);
        }
        if epoch > newest.epoch() {
            return Err(Error::new(
                Code::EpochNotFound,
                format!("there is no epoch {epoch}; the newest is {}", newest.epoch()),
            ));
        }
        drop(newest);
        if epoch < core.base_epoch() {
            return Err(Error::new(
                Code::EpochNotFound,
                format!(
                    "epoch {epoch} is older than this fork of epoch {}; ask its parent",
                    core.base_epoch()
                ),
            ));
        }
        self.flush()?;
        let mut cached = lock(&self.0.replay);
        let replay = match cached.take() {
            Some(replay) if replay.epoch() <= epoch => replay,
            _ => {
                let base = core.parent().map_or(Base::Store, Base::Fork);
                Replay::begin(&self.0.store, &base, epoch, self.0.max_memory)?
            }
        };
        let snapshot = replay.to(&self.0.store, epoch)?;
        *cached = Some(replay);
        Ok(snapshot)
    }

    /// The newest bytes of a page.
    #[inline]
    pub fn view(&self, page: u64) -> Result<View> {
        let core = self.alive()?;
        let pin = Pin::newest(core)?;
        let slot = table::get(core.mem(), pin.root.table, pin.root.height, page)
            .ok_or_else(|| apply::no_page(page))?;
        View::pinned(core, page, &slot, 0, slot.len)
    }

    #[inline]
    fn durability_for(&self, how: &How<'_>) -> Durability {
        if self.0.in_memory {
            Durability::Memory
        } else {
            how.durability.unwrap_or(self.0.durability)
        }
    }

    fn run(
        &self,
        batch: &mut Batch,
        base: Option<&Snapshot>,
        build: Option<Build<'_>>,
        how: &How<'_>,
    ) -> Result<Committed> {
        let core = self.writable()?;
        let done = core.commit(batch, base, build, self.durability_for(how), how);
        if !self.0.in_memory && self.0.keeper.is_due(core.log_bytes.load(Ordering::Relaxed)) {
            self.checkpoint_in_background();
        }
        done
    }

    /// Commits a batch; with `base` it is an optimistic transaction that began there.
    pub fn commit(
        &self,
        batch: &mut Batch,
        base: Option<&Snapshot>,
        how: &How<'_>,
    ) -> Result<Committed> {
        self.run(batch, base, None, how)
    }

    /// Commits what `build` makes of the newest sequenced state, under the commit lock. It must not call the bus.
    pub fn commit_with(
        &self,
        how: &How<'_>,
        build: &mut dyn FnMut(&Snapshot, &mut Batch) -> Result<()>,
    ) -> Result<Committed> {
        self.run(&mut Batch::new(), None, Some(build), how)
    }

    /// Writes bytes into a page, whatever others have written.
    pub fn write(&self, page: u64, offset: u64, data: &[u8], how: &How<'_>) -> Result<Committed> {
        thread_local! {
            static SCRATCH: std::cell::RefCell<Batch> = std::cell::RefCell::new(Batch::new());
        }
        SCRATCH.with_borrow_mut(|batch| {
            batch.clear();
            batch.write(page, offset, data);
            let done = self.run(batch, None, None, how);
            batch.shrink();
            done
        })
    }

    /// Makes the newest state equal to an earlier one.
    pub fn restore(&self, to: &Snapshot, how: &How<'_>) -> Result<Committed> {
        let done = self.commit_with(how, &mut |head, batch| restore::plan(head, to, batch))?;
        trace::restore(done.epoch, to.epoch());
        Ok(done)
    }

    /// An independent bus in memory that begins with what a snapshot shows and shares its frames.
    pub fn fork(&self, at: &Snapshot) -> Result<Bus> {
        self.alive()?;
        let core = Core::fork(at)?;
        trace::fork(at.epoch());
        Bus::on_ram(core, &Options::default(), self.0.max_memory)
    }

    /// Puts the records of `memory` commits into the log.
    fn flush(&self) -> Result<()> {
        if self.0.mode == Mode::Read { Ok(()) } else { lock(&self.0.core.sequencer).flush() }
    }

    /// Commits of `since..=until`, clamped to what is there.
    pub fn log(&self, since: u64, until: u64, reverse: bool) -> Result<LogIter> {
        let core = self.alive()?;
        self.flush()?;
        let (since, until) = (since.max(core.base_epoch() + 1), until.min(core.epoch()));
        LogIter::new(&self.0.store, since, until, reverse)
    }

    /// Makes everything committed so far durable. Returns the durable epoch.
    pub fn sync(&self) -> Result<u64> {
        let core = self.writable()?;
        let epoch = lock(&core.sequencer).newest.epoch;
        if !self.0.in_memory {
            core.wait_durable(epoch)?;
        }
        Ok(self.durable_epoch())
    }

    /// Writes a checkpoint of the newest epoch. Returns that epoch.
    pub fn checkpoint(&self) -> Result<u64> {
        self.writable()?;
        if self.0.in_memory {
            return Err(Error::new(
                Code::Argument,
                "a bus in memory has no checkpoints; its log is its history",
            ));
        }
        self.0.checkpoint(false)
    }

    fn checkpoint_in_background(&self) {
        let inner = Arc::downgrade(&self.0);
        let work = move || {
            let Some(inner) = inner.upgrade() else { return };
            // A failure is told by an event; the log has everything, so nothing is lost.
            if let Err(error) = inner.checkpoint(true) {
                trace::checkpoint_failed(&inner.store.dir, &error.message);
            }
            let (log, pages) = inner.core.log_and_page_bytes();
            inner.keeper.done(log, pages);
        };
        let spawned = std::thread::Builder::new().name("mmsb-checkpoint".into()).spawn(work);
        if spawned.is_err() {
            let (log, pages) = self.0.core.log_and_page_bytes();
            self.0.keeper.done(log, pages);
        }
    }

    /// Checks every byte of log and checkpoints.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
        self.alive()?;
        self.flush()?;
        let end = lock(&self.0.core.sequencer).log.as_ref().map(Log::end);
        let store = &self.0.store;
        let mut report = Report::default();
        let problems = &mut report.problems;
        let walked =
            log::verify(&*store.vfs, &store.dir, end, &mut |e| problems.push(e), progress)?;
        report.records = walked.records;
        report.bytes = walked.bytes;
        for epoch in checkpoint::list(&*store.vfs, &store.dir)? {
            match checkpoint::verify(&*store.vfs, &store.dir, epoch, store.uuid) {
                Ok(bytes) => report.bytes += bytes,
                Err(error) => report.problems.push(error),
            }
        }
        for e in &report.problems {
            let file = e.detail.file.as_deref().unwrap_or(&store.dir);
            trace::verify_problem(file, e.detail.offset, e.detail.epoch, &e.message);
        }
        Ok(report)
    }

    /// Figures of the bus, in a fixed order.
    pub fn stats(&self) -> Result<Vec<(&'static str, u64)>> {
        let core = self.alive()?;
        let seq = lock(&core.sequencer);
        let log = seq.log.as_ref().map_or(0, Log::bytes);
        let alloc = core.arena.alloc();
        Ok(vec![
            ("epoch", core.epoch()),
            ("durable_epoch", self.durable_epoch()),
            ("pages", seq.newest.pages),
            ("page_bytes", seq.newest.bytes),
            ("memory_bytes", alloc.used()),
            ("max_memory", alloc.limit()),
            ("old_version_bytes", seq.reclaim.held_bytes()),
            ("log_bytes", log),
            ("max_page_bytes", MAX_PAGE),
        ])
    }

    /// Syncs and seals the log and gives the lock back. Views and snapshots stay. Again: nothing.
    pub fn close(&self) -> Result<()> {
        self.0.close()
    }
}

impl Inner {
    fn checkpoint(&self, automatic: bool) -> Result<u64> {
        let began = Instant::now();
        let (core, store) = (&self.core, &self.store);
        let _one_at_a_time = lock(&self.checkpointing);
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(Code::Closed, "the bus is closed"));
        }
        let at = Snapshot::newest(core)?;
        let (epoch, file) = (at.epoch(), checkpoint::path(&store.dir, at.epoch()));
        if checkpoint::list(&*store.vfs, &store.dir)?.contains(&epoch) {
            return Ok(epoch);
        }
        trace::checkpoint_begin(epoch);
        let size = checkpoint::write(&*store.vfs, &store.dir, store.uuid, &at, automatic)?;
        core.wait_durable(epoch)?;
        checkpoint::install(&*store.vfs, &store.dir, epoch)?;
        let mut seq = lock(&core.sequencer);
        let marked =
            seq.log.as_mut().map_or(Ok(()), |log| log.append_mark(epoch, at.digest(), size));
        if let Err(error) = marked {
            if seq.log.as_ref().is_some_and(|log| log.usable().is_err()) {
                seq.fail(&error);
            }
            return Err(error);
        }
        drop(seq);
        trace::checkpoint_done(&file, epoch, size, began.elapsed().as_secs_f64());
        keeper::thin(store, &at.tags())?;
        Ok(epoch)
    }

    fn close(&self) -> Result<()> {
        if self.core.is_foreign() || self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        *lock(&self.replay) = None;
        let _checkpoint_ends_first = lock(&self.checkpointing);
        let newest = lock(&self.core.sequencer).newest.epoch;
        let published = self.core.wait_published(newest);
        let mut seq = lock(&self.core.sequencer);
        let usable = seq.usable().is_ok();
        let flushed = if usable { seq.flush() } else { Ok(()) };
        let Some(mut log) = seq.log.take() else { return Ok(()) };
        drop(seq);
        if self.in_memory {
            return published;
        }
        let closed = if usable { log.close() } else { Ok(()) };
        if closed.is_ok() && usable {
            self.core.durable.store(self.core.epoch(), Ordering::Release);
        }
        trace::close(&self.store.dir, self.core.epoch());
        published.and(flushed).and(closed)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.core.is_foreign() {
            // Whoever wants to know calls `close`.
            let _ = self.close();
        } else if let Ok(mut seq) = self.core.sequencer.try_lock()
            && let Some(log) = &mut seq.log
        {
            log.abandon();
        }
    }
}
