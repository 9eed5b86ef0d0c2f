//! How a bus comes to be: in memory, in a new directory, or out of one by recovery.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::arena::BLOCK;
use crate::bus::{Bus, Inner};
use crate::checkpoint::Making;
use crate::core::Core;
use crate::history::{BACKING, Past, Store};
use crate::index::Indexes;
use crate::keeper::Keeper;
use crate::log::{self, Log, LogOptions, LogRecovery, OpenMode, Parent, Position};
use crate::maker::Maker;
use crate::retain::Kept;
use crate::sequence::{Durability, Sequencer};
use crate::snapshot::Snapshot;
use crate::sync::{Mutex, lock};
use crate::vfs::{OsVfs, RamVfs, Vfs};
use crate::{Code, Error, Result, checkpoint, history, lazy, trace};

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

/// A host takes files away, torn, thinned or pruned ones, that a reader has just seen in the directory: so often it looks again.
const LOOKS: usize = 16;

/// The log of a bus in memory is let go in pieces of so many bytes.
const SEGMENT_IN_MEMORY: u64 = 1 << 20;

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
    /// A checkpoint is made after so many epochs, whatever they take; without it, after so many bytes of log.
    pub checkpoint_every: Option<u64>,
    /// Checkpoints are compressed.
    pub compress: bool,
    /// Most threads that compute derived pages side by side; without one, as many as the machine runs at once.
    pub threads: Option<usize>,
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

/// The code of a durability in the store's meta slots.
pub(crate) fn durability_code(durability: Durability) -> u8 {
    durability as u8
}

pub(crate) fn durability_of(code: u8) -> Durability {
    match code {
        0 => Durability::Memory,
        1 => Durability::Os,
        _ => Durability::Disk,
    }
}

pub(crate) fn max_memory(options: &Options) -> Result<u64> {
    match options.max_memory {
        Some(least) if least < 1 << 20 => Err(Error::new(
            Code::Argument,
            format!("max_memory = {least} is too little; at least {} (1 MiB)", 1 << 20),
        )),
        Some(given) => Ok(given.min(1 << 46)),
        None => Ok(crate::limits::available() / 4 * 3),
    }
}

/// A program may change its working directory while the bus is open.
pub(crate) fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(|e| Error::storage(dir, &e, "cannot find"))
}

pub(crate) fn log_options(options: &Options, durability: Durability) -> LogOptions {
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

    pub(crate) fn on_ram(core: Arc<Core>, options: &Options, max_memory: u64) -> Result<Bus> {
        let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
        let dir = PathBuf::from("/bus");
        let opts = LogOptions {
            base_epoch: core.epoch(),
            segment_bytes: options.segment_bytes.unwrap_or(SEGMENT_IN_MEMORY),
            ..log_options(options, Durability::Memory)
        };
        let log = Log::create(Arc::clone(&vfs), &dir, opts)?;
        let store = Store { vfs, dir, uuid: log.meta().uuid };
        let mut seq = lock(&core.sequencer);
        seq.log = Some(log);
        seq.log_in_memory = true;
        drop(seq);
        let past = Arc::new(Past::new(Arc::new(Indexes::new(store, false, 0)), max_memory));
        let made = Made { in_memory: true, durability: Durability::Memory, ..Made::new(options) };
        Ok(Bus::assemble(core, past, made))
    }

    /// A new store in a directory.
    pub fn create(dir: &Path, options: &Options) -> Result<Bus> {
        Bus::create_on(Arc::new(OsVfs), dir, options)
    }

    /// A new store behind a file system.
    pub fn create_on(vfs: Arc<dyn Vfs>, dir: &Path, options: &Options) -> Result<Bus> {
        let max_memory = max_memory(options)?;
        let dir = &absolute(dir)?;
        let durability = options.durability.unwrap_or(Durability::Disk);
        // Memory first: a bus that could not be made leaves no store behind.
        let core = Core::new(BACKING, max_memory, true)?;
        let log = Log::create(Arc::clone(&vfs), dir, log_options(options, durability))?;
        let store = Store { vfs, dir: dir.to_path_buf(), uuid: log.meta().uuid };
        let (segment, least) = log.segments();
        lock(&core.sequencer).log = Some(log);
        trace::create(dir, durability.as_str());
        let indexes = Arc::new(Indexes::new(store, true, least));
        let past = Arc::new(Past::new(indexes, max_memory));
        Ok(Bus::assemble(core, past, Made { durability, segment, ..Made::new(options) }))
    }

    /// A new store in a directory that is empty or not there, which begins with what a snapshot shows; its host.
    pub fn fork_to(&self, at: &Snapshot, dir: &Path) -> Result<Bus> {
        let inner = self.inner();
        // The durability of a bus in memory says nothing about one in a directory.
        let durability = if inner.in_memory { Durability::Disk } else { inner.durability };
        let (durability, max_memory) = (Some(durability), Some(inner.past.max_memory));
        let options = Options { durability, max_memory, ..Options::default() };
        self.fork_to_on(Arc::new(OsVfs), at, dir, &options)
    }

    /// The same, behind a file system and with options of its own.
    pub fn fork_to_on(
        &self,
        vfs: Arc<dyn Vfs>,
        at: &Snapshot,
        dir: &Path,
        options: &Options,
    ) -> Result<Bus> {
        self.core()?;
        let inner = self.inner();
        let (dir, store) = (absolute(dir)?, &inner.store);
        if !inner.in_memory && dir == store.dir {
            let mut error = Error::new(
                Code::BusExists,
                format!("{} already holds this bus; fork it elsewhere", dir.display()),
            );
            error.detail.file = Some(dir);
            return Err(error);
        }
        if !inner.in_memory && dir.starts_with(&store.dir) {
            let what = format!("{} lies in the store that is to be forked", dir.display());
            return Err(Error::new(Code::Argument, what));
        }
        Bus::branch(vfs, &dir, at, store.uuid, options)
    }

    /// A new store behind a file system that begins with what a snapshot of the store `parent` shows.
    fn branch(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        at: &Snapshot,
        parent: [u8; 16],
        options: &Options,
    ) -> Result<Bus> {
        let (max_memory, epoch) = (max_memory(options)?, at.epoch());
        let durability = options.durability.unwrap_or(Durability::Disk);
        let core = Core::new(BACKING, max_memory, true)?;
        let time = (epoch > 0).then(|| at.time());
        let opts = LogOptions { base_epoch: epoch, time, ..log_options(options, durability) };
        // What is read back is what is shown, so all of it was checked before there is a store.
        let mut fill = |uuid| {
            if epoch == 0 {
                return Ok(());
            }
            checkpoint::write(&*vfs, dir, uuid, at, Making::default())?;
            let names = checkpoint::install(&*vfs, dir, epoch)?;
            checkpoint::sync_names(&*names, dir)?;
            checkpoint::load(&*vfs, dir, epoch, uuid, &core, &mut |_, _| {})
        };
        let parent = Parent { uuid: parent, epoch };
        let log = Log::fork(Arc::clone(&vfs), dir, opts, parent, &mut fill)?;
        assert_eq!(core.epoch(), epoch, "a fork begins with its parent's epoch");
        core.durable.store(epoch, Ordering::Release);
        let store = Store { vfs, dir: dir.to_path_buf(), uuid: log.meta().uuid };
        let (segment, least) = log.segments();
        lock(&core.sequencer).log = Some(log);
        trace::fork(epoch);
        trace::create(dir, durability.as_str());
        let indexes = Arc::new(Indexes::new(store, true, least));
        let past = Arc::new(Past::new(indexes, max_memory));
        let checkpoint = Some(epoch);
        let made = Made { durability, segment, checkpoint, ..Made::new(options) };
        Ok(Bus::assemble(core, past, made))
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
        for _ in 0..LOOKS {
            let base = log::base(&*vfs, dir);
            let moved = || log::base(&*vfs, dir).ok() != base.as_ref().ok().copied();
            match Bus::open_once(Arc::clone(&vfs), dir, mode, options, progress) {
                Err(error) if mode == Mode::Read && (error.is_missing() || moved()) => {}
                opened => return opened,
            }
        }
        Bus::open_once(vfs, dir, mode, options, progress)
    }

    fn open_once(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        mode: Mode,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Bus> {
        let began = Instant::now();
        let max_memory = max_memory(options)?;
        let dir = &absolute(dir)?;
        if mode == Mode::Read {
            return Bus::open_to_read(vfs, dir, options, max_memory, began, progress);
        }
        match log::read_meta(&*vfs, dir) {
            Err(error) if error.code == Code::BusNotFound && mode == Mode::Append => {
                return Bus::create_on(vfs, dir, options);
            }
            done => done?,
        };
        let lock_held = log::lock(&*vfs, dir)?;
        let meta = log::read_meta(&*vfs, dir)?;
        let durability = options.durability.unwrap_or(durability_of(meta.durability));
        let store = Store { vfs, dir: dir.to_path_buf(), uuid: meta.uuid };
        let fresh = || Core::new(BACKING, max_memory, true);
        let least = meta.base.epoch;
        let known = checkpoint::list(&*store.vfs, dir)?;
        let usable = || known.iter().rev().copied().filter(|&at| at >= least);
        let (core, checkpoint_epoch) =
            history::load_newest(&store, usable(), fresh()?, &fresh, progress)?;
        if checkpoint_epoch.is_none() {
            store.needs(least, usable().next())?;
        }
        let from = checkpoint_epoch.unwrap_or(0);
        let digest = checkpoint_epoch.map(|_| Snapshot::brief(&core).digest()).transpose()?;
        let promised = checkpoint::promised(&*store.vfs, dir, store.uuid)?;
        let opts = LogOptions { promised, ..log_options(options, durability) };
        let (log, found) = log::open(
            Arc::clone(&store.vfs),
            dir,
            opts,
            from,
            OpenMode::Writer(lock_held),
            &mut |commit| {
                core.replay(commit.epoch, commit.time, commit.ops)
                    .map_err(|e| history::at_record(e, &commit))
            },
            progress,
        )?;
        for mark in found.marks.iter().filter(|mark| Some(mark.epoch) == checkpoint_epoch) {
            digest.map_or(Ok(()), |digest| checkpoint::check(dir, digest, mark))?;
        }
        let (segment, least) = log.as_ref().map_or((0, 0), Log::segments);
        let mut seq = lock(&core.sequencer);
        seq.log = log;
        let Sequencer { newest, propagation, .. } = &mut *seq;
        let loaded = propagation.load(core.mem(), newest);
        loaded.map_err(|e| Error::corruption(dir, None, Some(newest.epoch), e.message))?;
        drop(seq);
        let indexes = Indexes::new(store, true, least);
        let opened = Opened { found, checkpoint_epoch, began, durability, mode: Mode::ReadWrite };
        let stands_on = checkpoint_epoch.map(|at| checkpoint::base(&*indexes.store.vfs, dir, at));
        let checkpoint = stands_on.transpose()?.flatten().or(checkpoint_epoch);
        let made = Made { segment, checkpoint, ..Made::new(options) };
        let past = Arc::new(Past::new(Arc::new(indexes), max_memory));
        Ok(Bus::opened(core, past, made, opened))
    }

    /// Reads where the log ends, and of the pages nothing yet.
    fn open_to_read(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        options: &Options,
        max_memory: u64,
        began: Instant,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Bus> {
        let meta = log::read_meta(&*vfs, dir)?;
        let locked =
            vfs.locked(&dir.join("lock")).map_err(|e| Error::storage(dir, &e, "look at"))?;
        let stored = durability_of(meta.durability);
        let durable_only = locked && stored == Durability::Disk;
        let store = Store { vfs, dir: dir.to_path_buf(), uuid: meta.uuid };
        let indexes = Arc::new(Indexes::new(store, false, 0));
        let past = Arc::new(Past::new(indexes, max_memory));
        let found = lazy::newest(&past, &meta, durable_only, progress)?;
        let (core, checkpoint_epoch) = past.open(found.last_epoch)?;
        let durability = options.durability.unwrap_or(stored);
        let opened = Opened { found, checkpoint_epoch, began, durability, mode: Mode::Read };
        Ok(Bus::opened(core, past, Made::new(options), opened))
    }

    fn opened(core: Arc<Core>, past: Arc<Past>, made: Made<'_>, opened: Opened) -> Bus {
        let Opened { found, checkpoint_epoch, began, durability, mode } = opened;
        let (dir, read_end) = (&past.store.dir, found.end);
        let recovery = Recovery {
            epoch: core.epoch(),
            checkpoint_epoch,
            records: found.records,
            torn_bytes: found.torn_bytes,
            quarantined: found.quarantined,
            seconds: began.elapsed().as_secs_f64(),
        };
        core.durable.store(core.epoch(), Ordering::Release);
        trace::recovery_done(
            dir,
            recovery.epoch,
            checkpoint_epoch,
            recovery.records,
            recovery.seconds,
        );
        trace::open(dir, mode.as_str(), durability.as_str(), recovery.epoch);
        let opened = Some((recovery, read_end));
        Bus::assemble(core, past, Made { mode, durability, opened, ..made })
    }

    fn assemble(core: Arc<Core>, past: Arc<Past>, made: Made<'_>) -> Bus {
        let Made { mode, in_memory, durability, segment, opened, .. } = made;
        let read_end = opened.as_ref().filter(|_| mode == Mode::Read).map(|&(_, end)| end);
        lock(&core.sequencer).propagation.set_threads(made.options.threads);
        let (log, pages) = core.log_and_page_bytes();
        let checkpointed = made.checkpoint.unwrap_or(0);
        let keeper = Keeper::new(made.options.checkpoint_every, log, pages, checkpointed);
        Bus::from_inner(Inner {
            core,
            store: past.store.clone(),
            past,
            indexed: AtomicU64::new(segment),
            mode,
            in_memory,
            durability,
            recovery: opened.map(|(recovery, _)| recovery),
            closed: AtomicBool::new(false),
            checkpointing: Mutex::new(Maker::new(made.checkpoint, made.options.compress)),
            kept: Mutex::new(Kept::default()),
            backups: Mutex::new(0),
            keeper,
            read_end,
        })
    }
}

/// What makes one bus another than the next.
struct Made<'a> {
    options: &'a Options,
    mode: Mode,
    in_memory: bool,
    durability: Durability,
    /// The segment that its log begins to write.
    segment: u64,
    /// The checkpoint that the next one may stand on.
    checkpoint: Option<u64>,
    opened: Option<(Recovery, Position)>,
}

impl<'a> Made<'a> {
    /// A new bus in a directory.
    fn new(options: &'a Options) -> Made<'a> {
        Made {
            options,
            mode: Mode::ReadWrite,
            in_memory: false,
            durability: Durability::Disk,
            segment: 0,
            checkpoint: None,
            opened: None,
        }
    }
}

/// What opening a store found.
struct Opened {
    found: LogRecovery,
    checkpoint_epoch: Option<u64>,
    began: Instant,
    durability: Durability,
    mode: Mode,
}
