//! The bus: one store's public face. Each call checks that the handle is alive and goes to the room that does it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::backup::{self, Upto};
use crate::core::Core;
use crate::delta::Batch;
use crate::events::Subscription;
use crate::history::{Cost, LogIter, Past, Store};
use crate::index::Wanted;
use crate::keeper::Keeper;
use crate::log::{self, Log, Position};
use crate::maker::{self, Maker};
use crate::open::{Mode, Options, Recovery, Report, absolute, durability_code};
use crate::propagate::{Binding, Function, Manner, check_reentrancy, check_reentrancy_of};
use crate::retain::Kept;
use crate::sequence::{Build, Committed, Durability, How};
use crate::snapshot::{Pin, Snapshot};
use crate::sync::{Mutex, lock};
use crate::table;
use crate::vfs::{OsVfs, Vfs};
use crate::view::View;
use crate::{Code, Error, Result, apply, checkpoint, index, propagate, restore, trace};

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    pub(crate) store: Store,
    pub(crate) past: Arc<Past>,
    /// Segments before this one have their indexes, or will have them.
    pub(crate) indexed: AtomicU64,
    pub(crate) mode: Mode,
    pub(crate) in_memory: bool,
    pub(crate) durability: Durability,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) closed: AtomicBool,
    /// Held while a checkpoint is made.
    pub(crate) checkpointing: Mutex<Maker>,
    /// What a bus in memory keeps of the time before its log; held while an epoch is rebuilt from it.
    pub(crate) kept: Mutex<Kept>,
    /// How many copies are being made; held while files are removed that they may need.
    pub(crate) backups: Mutex<u64>,
    pub(crate) keeper: Keeper,
    /// Where a reader stopped reading the log.
    pub(crate) read_end: Option<Position>,
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

impl Bus {
    pub(crate) fn from_inner(inner: Inner) -> Bus {
        Bus(Arc::new(inner))
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
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

    /// Whether looking at a page may read files.
    #[inline]
    pub fn reads_files(&self) -> bool {
        self.0.core.lazy().is_some()
    }

    #[inline]
    fn alive(&self) -> Result<&Arc<Core>> {
        self.0.core.check_foreign()?;
        if self.is_closed() {
            return Err(Error::new(Code::Closed, "the bus is closed"));
        }
        Ok(&self.0.core)
    }

    /// Where its history is.
    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// The engine of a bus that is alive.
    pub(crate) fn core(&self) -> Result<&Arc<Core>> {
        self.alive()
    }

    #[inline]
    pub(crate) fn writable(&self) -> Result<&Arc<Core>> {
        let core = self.alive()?;
        if self.0.mode == Mode::Read {
            return Err(Error::new(
                Code::ReadOnly,
                "the bus was opened with mode='r'; open it with mode='r+' to write",
            ));
        }
        check_reentrancy()?;
        Ok(core)
    }

    /// The engine of a bus that is alive, for what waits for its commits.
    fn waits(&self) -> Result<&Arc<Core>> {
        let core = self.alive()?;
        check_reentrancy_of(core.address())?;
        Ok(core)
    }

    /// The newest epoch, pinned.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::newest(self.alive()?)
    }

    /// The newest epoch, for a look that ends before the caller returns to its own caller. Unlike [`Bus::snapshot`] it
    /// never fails for want of a slot, and must not be kept.
    pub fn glance(&self) -> Result<Snapshot> {
        Ok(Snapshot::brief(self.alive()?))
    }

    /// An epoch, rebuilt from the log if it is not the newest.
    pub fn snapshot_at(&self, epoch: u64) -> Result<Snapshot> {
        let core = self.alive()?;
        let newest = Snapshot::newest(core)?;
        if newest.epoch() == epoch {
            return Ok(newest);
        }
        check_reach(core, epoch, newest.epoch())?;
        drop(newest);
        if let Some(retained) = Snapshot::retained(core, epoch)? {
            return Ok(retained);
        }
        match self.0.in_memory {
            true => self.0.remember(epoch),
            false => Snapshot::newest(&self.0.past.open(epoch)?.0),
        }
    }

    /// What it takes to read all of an epoch; nothing for one that is in memory.
    pub fn cost(&self, epoch: u64) -> Result<Cost> {
        let core = self.waits()?;
        check_reach(core, epoch, core.epoch())?;
        if epoch == core.epoch() && core.lazy().is_none() || epoch >= core.floor() {
            return Ok(Cost::default());
        }
        if self.0.in_memory {
            return self.0.cost_in_memory(epoch);
        }
        let end = lock(&core.sequencer).log.as_ref().map(Log::end).or(self.0.read_end);
        self.0.past.cost(epoch, None, end)
    }

    /// The newest bytes of a page.
    #[inline]
    pub fn view(&self, page: u64) -> Result<View> {
        let core = self.alive()?;
        if core.lazy().is_some() {
            return Snapshot::brief(core).view(page);
        }
        let pin = Pin::brief(core);
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
        let has_rolled =
            self.0.indexed.load(Ordering::Relaxed) < core.segment.load(Ordering::Relaxed);
        if self.0.in_memory {
            if has_rolled {
                self.0.forget();
            }
        } else {
            if self.0.keeper.is_due(core.log_bytes.load(Ordering::Relaxed), core.epoch()) {
                maker::checkpoint_in_background(&self.0);
            }
            if has_rolled {
                self.index_behind();
            }
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
        let write = |batch: &mut Batch| {
            batch.clear();
            batch.write(page, offset, data);
            let done = self.run(batch, None, None, how);
            batch.shrink();
            done
        };
        SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut batch) => write(&mut batch),
            // Whoever listens to the events of a write may write too.
            Err(_) => write(&mut Batch::new()),
        })
    }

    /// Makes the newest state equal to an earlier one.
    pub fn restore(&self, to: &Snapshot, how: &How<'_>) -> Result<Committed> {
        let to = &to.whole()?;
        let done = self.commit_with(how, &mut |head, batch| restore::plan(head, to, batch))?;
        trace::restore(done.epoch, to.epoch());
        Ok(done)
    }

    /// Computes what is stale, in one wave.
    pub fn settle(&self, how: &How<'_>) -> Result<Committed> {
        self.commit_with(how, &mut |_, batch| {
            batch.manner = Manner::Settle;
            Ok(())
        })
    }

    /// Events of the epochs that are published from now on. Of more than `most` that nobody took the oldest are dropped,
    /// and the subscription is told so.
    pub fn subscribe(&self, most: usize) -> Result<Subscription> {
        let core = self.waits()?;
        if self.0.mode == Mode::Read {
            let what = "the bus was opened with mode='r'; it shows one epoch and has no events";
            return Err(Error::new(Code::ReadOnly, what));
        }
        let mut seq = lock(&core.sequencer);
        if seq.log.is_none() {
            return Err(Error::new(Code::Closed, "the bus is closed"));
        }
        Ok(seq.subscribers.add(most))
    }

    /// From now on the function computes the page, whose place in the graph says that one does; nothing is computed.
    /// It does so as long as the page has the inputs that it has now.
    pub fn bind(&self, page: u64, function: Arc<dyn Function>) -> Result<()> {
        let core = self.writable()?;
        let pin = Pin::brief(core);
        let Some(inputs) = propagate::inputs_of(core.mem(), &pin.root, page) else {
            let what = format!("page {page} is not derived by a function");
            return Err(Error::new(Code::Argument, what));
        };
        core.put_binding(page, Binding { function, inputs });
        Ok(())
    }

    /// Whether a function is bound to the page, for the inputs that it has.
    pub fn is_bound(&self, page: u64) -> bool {
        let core = &self.0.core;
        let pin = Pin::brief(core);
        let inputs = propagate::inputs_of(core.mem(), &pin.root, page);
        let functions = core.functions();
        functions.get(&page).zip(inputs).is_some_and(|(bound, inputs)| bound.inputs == inputs)
    }

    /// The functions that are bound, by page.
    pub fn functions(&self) -> Vec<(u64, Arc<dyn Function>)> {
        let functions = self.0.core.functions();
        functions.iter().map(|(&page, bound)| (page, Arc::clone(&bound.function))).collect()
    }

    /// Puts other functions in the place of those that are bound, each made of the one that is there.
    pub fn rebind(&self, make: impl Fn(&dyn Function) -> Option<Arc<dyn Function>>) {
        for (&page, bound) in &*self.0.core.functions() {
            if let Some(function) = make(&*bound.function) {
                let inputs = bound.inputs.clone();
                self.0.core.put_binding(page, Binding { function, inputs });
            }
        }
    }

    /// Lets go of all functions.
    pub fn unbind(&self) {
        self.0.core.unbind();
    }

    /// An independent bus in memory that begins with what a snapshot shows and shares its frames.
    pub fn fork(&self, at: &Snapshot) -> Result<Bus> {
        self.alive()?;
        let core = Core::fork(&at.whole()?)?;
        for (&page, binding) in &*self.0.core.functions() {
            core.put_binding(page, binding.clone());
        }
        trace::fork(at.epoch());
        Bus::on_ram(core, &Options::default(), self.0.past.max_memory)
    }

    /// Fails for an epoch that does not open.
    pub fn check_epoch(&self, epoch: u64) -> Result<()> {
        let core = self.alive()?;
        check_reach(core, epoch, core.epoch())?;
        match self.0.in_memory {
            _ if epoch >= core.floor() => Ok(()),
            true => self.0.check_remembered(epoch),
            false => self.0.store.check_kept(epoch).map(drop),
        }
    }

    /// Commits of `since..=until`, clamped to what is there.
    pub fn log(&self, since: u64, until: u64, reverse: bool) -> Result<LogIter> {
        self.log_of(&Wanted::default(), since, until, reverse)
    }

    /// Those of them that have what is wanted. Of sealed segments only those records are read, and a few beside them.
    pub fn log_of(
        &self,
        wanted: &Wanted,
        since: u64,
        until: u64,
        reverse: bool,
    ) -> Result<LogIter> {
        let core = self.alive()?;
        self.0.store.steady(|| {
            let base = self.0.store.base()?.epoch.max(core.base_epoch());
            let (since, until) = (since.max(base + 1), until.min(core.epoch()));
            LogIter::new(&self.0.past.indexes, wanted, since, until, reverse)
        })
    }

    /// The last epoch of this bus's log whose time is not after `time`.
    pub fn epoch_as_of(&self, time: u64) -> Result<Option<u64>> {
        let core = self.alive()?;
        self.0.past.indexes.epoch_as_of(time, core.epoch())
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

    /// What happens unasked when much was logged, done at once and by the caller; for tests.
    #[doc(hidden)]
    pub fn checkpoint_unasked(&self) -> Result<u64> {
        self.writable()?;
        self.0.checkpoint(true)
    }

    /// Gives the segments that were sealed their indexes, beside the commits where there is a real disk.
    #[cold]
    fn index_behind(&self) {
        let core = &self.0.core;
        let end = core.segment.load(Ordering::Relaxed);
        let from = self.0.indexed.fetch_max(end, Ordering::Relaxed);
        let indexes = Arc::clone(&self.0.past.indexes);
        let work = move || indexes.catch_up(from, end);
        let is_real = lock(&core.sequencer).log.as_ref().is_some_and(Log::is_real);
        let builder = std::thread::Builder::new().name("mmsb-index".into());
        if !is_real || builder.spawn(work.clone()).is_err() {
            work();
        }
    }

    /// Copies the store as it is at the newest epoch, with all of its history, into a directory that is empty or not
    /// there. Commits go on meanwhile. Returns the epoch.
    pub fn backup(&self, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<u64> {
        self.backup_on(&OsVfs, to, progress)
    }

    /// The same, to a place behind a file system.
    pub fn backup_on(
        &self,
        vfs: &dyn Vfs,
        to: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<u64> {
        let (core, store) = (self.waits()?, &self.0.store);
        let to = absolute(to)?;
        let refuse = |what: String| Err(Error::new(Code::Argument, what));
        if core.parent().is_some() {
            return refuse("a fork in memory has its parent's history; back up the parent".into());
        }
        if !self.0.in_memory && to.starts_with(&store.dir) {
            return refuse(format!("{} lies in the store that is to be copied", to.display()));
        }
        let _running = Running::begin(&self.0.backups);
        let states = self.0.states_before_log();
        let (epoch, end) = {
            let seq = lock(&core.sequencer);
            let end = seq.log.as_ref().map(Log::end).or(self.0.read_end);
            (seq.newest.epoch, end.unwrap_or_default())
        };
        core.wait_published(epoch)?;
        // That of a bus in memory says nothing about one in a directory.
        let durability = self.0.in_memory.then(|| durability_code(Durability::Disk));
        backup::copy(store, &Upto { epoch, end, durability, states }, vfs, &to, progress)?;
        Ok(epoch)
    }

    /// Checks every byte of log, indexes and checkpoints.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
        self.waits()?;
        let end = lock(&self.0.core.sequencer).log.as_ref().map(Log::end).or(self.0.read_end);
        let store = &self.0.store;
        let mut report = Report::default();
        let problems = &mut report.problems;
        let walked =
            log::verify(&*store.vfs, &store.dir, end, &mut |e| problems.push(e), progress)?;
        report.records = walked.records;
        report.bytes = walked.bytes;
        report.bytes += index::verify(store, &mut |e| problems.push(e))?;
        let base = store.base()?.epoch;
        let known = checkpoint::list(&*store.vfs, &store.dir)?;
        if !known.contains(&base) && !self.0.in_memory {
            report.problems.extend(store.needs(base, None).err());
        }
        for epoch in known {
            match checkpoint::verify(&*store.vfs, &store.dir, epoch, store.uuid) {
                Ok((bytes, digest)) => {
                    report.bytes += bytes;
                    let marks = walked.marks.iter().filter(|mark| mark.epoch == epoch);
                    let checked = marks.map(|mark| checkpoint::check(&store.dir, digest, mark));
                    report.problems.extend(checked.filter_map(Result::err));
                }
                Err(error) => report.problems.push(error),
            }
        }
        // What this process lacks says nothing about the store.
        let lacks = |e: &Error| {
            let no_descriptor = Some(rustix::io::Errno::MFILE.raw_os_error());
            e.code == Code::OutOfSpace || e.detail.errno == no_descriptor
        };
        if let Some(at) = report.problems.iter().position(lacks) {
            return Err(report.problems.swap_remove(at));
        }
        for e in &report.problems {
            let file = e.detail.file.as_deref().unwrap_or(&store.dir);
            trace::verify_problem(file, e.detail.offset, e.detail.epoch, &e.message);
        }
        Ok(report)
    }

    /// Figures of the bus, in a fixed order.
    pub fn stats(&self) -> Result<Vec<(&'static str, u64)>> {
        let core = self.waits()?;
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
            ("retained_since", core.floor().min(core.epoch())),
            ("retained_bytes", seq.reclaim.retained_bytes(core.floor())),
            ("log_bytes", log),
        ])
    }

    /// Syncs and seals the log and gives the lock back. Views and snapshots stay. Again: nothing.
    pub fn close(&self) -> Result<()> {
        check_reentrancy_of(self.0.core.address())?;
        self.0.close()
    }
}

/// Fails for an epoch that this bus never had or will only have.
fn check_reach(core: &Core, epoch: u64, newest: u64) -> Result<()> {
    let what = if epoch > newest {
        format!("there is no epoch {epoch}; the newest is {newest}")
    } else if epoch < core.base_epoch() {
        let forked = core.base_epoch();
        format!("epoch {epoch} is older than this fork of epoch {forked}; ask its parent")
    } else {
        return Ok(());
    };
    Err(Error::new(Code::EpochNotFound, what))
}

/// Counts a backup as long as it runs, also if whoever is told of its progress raises.
struct Running<'a>(&'a Mutex<u64>);

impl Running<'_> {
    fn begin(count: &Mutex<u64>) -> Running<'_> {
        *lock(count) += 1;
        Running(count)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *lock(self.0) -= 1;
    }
}

impl Inner {
    fn close(&self) -> Result<()> {
        if self.core.is_foreign() || self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.past.close();
        self.core.unbind();
        let _ = self.core.retain(None);
        *lock(&self.kept) = Kept::default();
        let _checkpoint_ends_first = lock(&self.checkpointing);
        let newest = lock(&self.core.sequencer).newest.epoch;
        let published = self.core.wait_published(newest);
        let mut seq = lock(&self.core.sequencer);
        let usable = seq.usable().is_ok();
        let Some(mut log) = seq.log.take() else { return Ok(()) };
        // Nothing is published any more.
        seq.subscribers.close();
        // A fork may go on in the same arena.
        self.core.arena.alloc().recharge(&mut seq.charged, 0);
        drop(seq);
        if self.in_memory {
            return published;
        }
        let closed = if usable { log.close() } else { Ok(()) };
        if closed.is_ok() && usable {
            self.core.durable.store(self.core.epoch(), Ordering::Release);
            self.past.indexes.catch_up(self.indexed.load(Ordering::Relaxed), log.end().seq + 1);
        }
        self.past.indexes.close();
        trace::close(&self.store.dir, self.core.epoch());
        published.and(closed)
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
