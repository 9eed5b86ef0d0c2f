//! A bus beside its model: each step is taken by both, and everything is compared.

mod ends;
mod past;
mod window;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmsb_core::vfs::{OsVfs, Vfs};
use mmsb_core::{
    Batch, Bus, Code, Committed, Durability, Error, Form, How, Kind, Marks, Mode, NewPage, Node,
    Options, Result, Snapshot, View,
};

use self::window::Window;
use super::Act;
use super::follow::{Follow, TEXT, bind_all, function};
use super::opens::Opens;
use super::state::{Page, State, check_snapshot, meta_of, name_of};
use crate::sim::SimVfs;

/// What a caller of the bus knows at one moment.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// The newest epoch that was acknowledged.
    pub told: u64,
    /// The newest epoch that was acknowledged as durable.
    pub durable: u64,
    /// What a commit that is under way will make, if it comes about.
    pub submitted: Option<Arc<State>>,
    /// The epochs that open, whatever becomes of a pruning that is under way.
    pub opens: Opens,
}

/// Where a bus in a directory lives.
#[derive(Debug, Clone)]
struct Place {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    /// The same file system, if it is a simulated one.
    sim: Option<SimVfs>,
}

/// A bus and what it must be like.
#[derive(Debug)]
pub struct Driver {
    /// The bus.
    pub bus: Bus,
    /// The states of all epochs, oldest first.
    pub history: Vec<Arc<State>>,
    /// What was known when; the last one is what is known now.
    pub ledgers: Vec<Ledger>,
    /// A commit of which nobody knows whether it came about.
    in_doubt: Option<Arc<State>>,
    /// The epochs that must open, and those that may: more only after a pruning that failed.
    must: Opens,
    may: Opens,
    /// Something failed since the bus was opened.
    failed: bool,
    place: Option<Place>,
    options: Options,
    /// The digest of each epoch as it was committed; none of a bus that was recovered.
    pub digests: Vec<u128>,
    /// What was said about the commits that were refused.
    pub refusals: Vec<(Code, String)>,
    /// Commits asked for so far: the time of the next one.
    clock: u64,
    snapshots: Vec<(Snapshot, Arc<State>)>,
    views: Vec<(View, Vec<u8>)>,
    /// The epochs that are in memory begin with this one.
    window: Option<Window>,
    /// Pages that the next commit names new bytes of.
    written: BTreeSet<u64>,
}

/// Who commits, in turn.
const SOURCES: [Option<&str>; 3] = [None, Some("physics"), Some("the user")];
/// Nanoseconds from one commit to the next.
const TICK: u64 = 1_000_003;

/// Options of a bus under test: small, and the same at every run.
pub fn options(durability: Durability) -> Options {
    Options {
        durability: Some(durability),
        max_memory: Some(256 << 20),
        seed: Some(7),
        segment_bytes: Some(64 << 10),
        compress: durability == Durability::Os,
        ..Options::default()
    }
}

impl Driver {
    /// A new bus; in memory without a directory.
    pub fn new(dir: Option<&Path>, options: &Options) -> Driver {
        match dir {
            Some(dir) => {
                let bus = Bus::create(dir, options).unwrap();
                let place = Place { vfs: Arc::new(OsVfs), dir: dir.into(), sim: None };
                Driver::begin(bus, Some(place), options.clone())
            }
            None => Driver::begin(Bus::memory(options).unwrap(), None, options.clone()),
        }
    }

    /// A new bus on a simulated file system.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(sim: &SimVfs, dir: &Path, options: &Options) -> Result<Driver> {
        let bus = Bus::create_on(Arc::new(sim.clone()), dir, options)?;
        Ok(Driver::begin(bus, Some(Place::simulated(sim, dir)), options.clone()))
    }

    /// The bus that a crash left on a simulated file system. It must show one of the epochs that `ledger` allows,
    /// not before `at_least`, as `history` says.
    ///
    /// # Errors
    /// Those of opening.
    ///
    /// # Panics
    /// The bus shows anything else.
    pub fn recover(
        sim: &SimVfs,
        dir: &Path,
        options: &Options,
        history: &[Arc<State>],
        ledger: &Ledger,
        at_least: u64,
    ) -> Result<Driver> {
        let vfs = Arc::new(sim.clone());
        let bus = Bus::open_on(vfs, dir, Mode::ReadWrite, options, &mut |_, _| {})?;
        let epoch = bus.epoch();
        let most = ledger.told + u64::from(ledger.submitted.is_some());
        assert!(
            at_least <= epoch && epoch <= most,
            "epoch {epoch} came back; it must lie in {at_least}..={most}"
        );
        let mut history = history[..=epoch.min(ledger.told) as usize].to_vec();
        if epoch > ledger.told {
            history.extend(ledger.submitted.clone());
        }
        check_snapshot(&bus.snapshot()?, history.last().unwrap())?;
        assert_eq!(bus.durable_epoch(), epoch, "what a new host shows is durable");
        let place = Place::simulated(sim, dir);
        sim.acknowledged(&place.dir, epoch, true);
        let mut driver = Driver::begin(bus, Some(place), options.clone());
        driver.history = history;
        driver.digests = Vec::new();
        driver.must = ledger.opens.clone();
        driver.accept_what_opens()?;
        let opens = driver.must.clone();
        driver.ledgers = vec![Ledger { told: epoch, durable: epoch, submitted: None, opens }];
        bind_all(&driver.bus)?;
        Ok(driver)
    }

    fn begin(bus: Bus, place: Option<Place>, options: Options) -> Driver {
        let start = State { next_id: 1, ..State::default() };
        if let Some(Place { sim: Some(sim), .. }) = &place {
            sim.set_mark(0);
        }
        Driver {
            digests: vec![bus.snapshot().unwrap().digest().unwrap()],
            refusals: Vec::new(),
            clock: 0,
            bus,
            place,
            options,
            history: vec![Arc::new(start)],
            ledgers: vec![Ledger { told: 0, durable: 0, submitted: None, opens: Opens::default() }],
            in_doubt: None,
            must: Opens::default(),
            may: Opens::default(),
            failed: false,
            snapshots: vec![],
            views: vec![],
            window: None,
            written: BTreeSet::new(),
        }
    }

    /// How the next commit is made. Nothing of it comes from outside, so equal steps make equal logs.
    fn how(&mut self) -> How<'static> {
        self.clock += 1;
        let source = SOURCES[self.clock as usize % SOURCES.len()];
        How { wait: true, source, time: Some(self.clock * TICK), ..How::default() }
    }

    /// The model's newest state.
    pub fn head(&self) -> &Arc<State> {
        self.history.last().unwrap()
    }

    /// What is known now.
    pub fn ledger(&self) -> &Ledger {
        self.ledgers.last().unwrap()
    }

    fn epoch(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    fn back(&self, back: u8) -> usize {
        self.history.len() - 1 - back as usize % self.history.len()
    }

    fn note(&mut self, submitted: Option<Arc<State>>) {
        let durable = if self.place.is_some() { self.bus.durable_epoch() } else { 0 };
        let submitted = submitted.or_else(|| self.in_doubt.clone());
        let opens = self.must.clone();
        self.ledgers.push(Ledger { told: self.epoch(), durable, submitted, opens });
        if let Some(sim) = self.sim() {
            sim.set_mark(self.ledgers.len() as u64 - 1);
        }
    }

    fn sim(&self) -> Option<&SimVfs> {
        self.place.as_ref().and_then(|place| place.sim.as_ref())
    }

    /// Lets the bus make a commit, and compares with the state that it and what follows from it must make: `None` for
    /// no change. Returns whether it was not refused.
    fn submit(
        &mut self,
        next: Option<State>,
        durability: Durability,
        commit: impl FnOnce(&Bus) -> Result<Committed>,
    ) -> Result<bool> {
        self.submit_as(Follow::Change, next, durability, commit)
    }

    fn submit_as(
        &mut self,
        how: Follow,
        next: Option<State>,
        durability: Durability,
        commit: impl FnOnce(&Bus) -> Result<Committed>,
    ) -> Result<bool> {
        let (epoch, written) = (self.epoch() + 1, std::mem::take(&mut self.written));
        let head = State::clone(self.head());
        // Bytes that are named say that they are right, also where they are not new.
        let is_change = next.is_some();
        let followed = next.unwrap_or(head.clone()).follow(&head, epoch, how, &written);
        let next = match followed {
            Ok(next) => (is_change || next != head).then(|| Arc::new(next)),
            Err(code) => {
                let done = commit(&self.bus);
                self.refuse(done, code)?;
                self.check_head()?;
                return Ok(false);
            }
        };
        self.note(next.clone());
        let done = match commit(&self.bus) {
            Ok(done) => done,
            Err(error) => {
                // Only this error leaves it open whether the commit came about.
                if error.code == Code::CommitOutcomeUnknown && self.in_doubt.is_none() {
                    self.in_doubt = next;
                }
                self.note(None);
                return Err(error);
            }
        };
        assert_eq!(done.changed, next.is_some());
        self.history.extend(next);
        assert_eq!((done.epoch, self.bus.epoch()), (self.epoch(), self.epoch()));
        self.move_window();
        self.note(None);
        if let Some(place) = &self.place {
            let durable = done.changed && durability == Durability::Disk;
            assert!(!durable || self.bus.durable_epoch() >= done.epoch);
            if let Some(sim) = &place.sim {
                sim.acknowledged(&place.dir, done.epoch, durable);
                sim.acknowledged(&place.dir, self.bus.durable_epoch(), true);
            }
        }
        self.check_head()?;
        Ok(true)
    }

    /// The bus shows the model's newest state, and its digest differs from those of the last other states.
    fn check_head(&mut self) -> Result<()> {
        let snapshot = self.bus.snapshot()?;
        check_snapshot(&snapshot, self.head())?;
        let digest = snapshot.digest().unwrap();
        if self.digests.len() + 1 == self.history.len() {
            self.digests.push(digest);
        }
        let content = self.head().content();
        for (epoch, other) in self.digests.iter().enumerate().rev().take(12) {
            let same = self.history[epoch].content() == content;
            assert_eq!(*other == digest, same, "digests tell states apart");
        }
        Ok(())
    }

    fn durability(&self) -> Durability {
        self.options.durability.unwrap_or(Durability::Disk)
    }

    /// Commits the batch and compares with what the model says it must make: `None` for no change.
    fn commit(&mut self, batch: &mut Batch, next: Option<State>) -> Result<bool> {
        let how = self.how();
        self.submit(next, self.durability(), |bus| bus.commit(batch, None, &how))
    }

    fn refused(&mut self, batch: &mut Batch, code: Code) -> Result<()> {
        let how = self.how();
        let done = self.bus.commit(batch, None, &how);
        self.refuse(done, code)?;
        check_snapshot(&self.bus.snapshot()?, self.head())?;
        Ok(())
    }

    /// A commit must have been refused with this code.
    fn refuse(&mut self, done: Result<Committed>, code: Code) -> Result<()> {
        if let Err(error) = &done {
            self.refusals.push((error.code, error.message.clone()));
        }
        expect(done, code)?;
        assert_eq!(self.bus.epoch(), self.epoch());
        Ok(())
    }

    /// Takes a step, which must succeed.
    pub fn step(&mut self, act: &Act) {
        self.try_step(act).unwrap_or_else(|error| panic!("{act:?}: {error}"));
    }

    /// Takes a step on a file system that may fail.
    ///
    /// # Errors
    /// Those of the file system; everything else is compared with the model.
    pub fn try_step(&mut self, act: &Act) -> Result<()> {
        let done = self.take(act);
        self.failed |= done.is_err();
        done
    }

    fn take(&mut self, act: &Act) -> Result<()> {
        self.written.clear();
        let mut batch = Batch::new();
        let mut next = State::clone(self.head());
        let epoch = self.epoch() + 1;
        match act {
            Act::Create { name, len, fill } => {
                let name = name.map(name_of);
                let len = u64::from(*len);
                let id = next.next_id;
                batch.create(id, &NewPage { name: name.as_deref(), ..NewPage::bytes(&[len]) });
                let bytes = vec![*fill; len as usize];
                if *fill != 0 {
                    batch.write(id, 0, &bytes);
                }
                if name.as_deref().is_some_and(|name| next.named(name).is_some()) {
                    return self.refused(&mut batch, Code::PageExists);
                }
                next.next_id += 1;
                next.pages.insert(id, Page { name, bytes, epoch, ..Page::default() });
                let base = self.bus.snapshot()?;
                self.commit(&mut batch, Some(next))?;
                // A transaction that began before and numbered its page alike.
                batch.check_ids();
                let how = self.how();
                let late = self.bus.commit(&mut batch, Some(&base), &how);
                self.refuse(late, Code::Conflict)?;
            }
            Act::Delete { page } => {
                let Some(id) = next.pick(*page) else {
                    batch.delete(77);
                    return self.refused(&mut batch, Code::PageNotFound);
                };
                batch.delete(id);
                next.pages.remove(&id);
                self.commit(&mut batch, Some(next))?;
            }
            Act::Rename { page, name } => {
                let Some(id) = next.pick(*page) else { return Ok(()) };
                let name = name.map(name_of);
                batch.rename(id, name.as_deref());
                if let Some(name) = &name
                    && next.named(name).is_some_and(|other| other != id)
                {
                    return self.refused(&mut batch, Code::PageExists);
                }
                let page = next.pages.get_mut(&id).unwrap();
                let changed = page.name != name;
                if changed {
                    (page.name, page.epoch) = (name, epoch);
                }
                self.commit(&mut batch, changed.then_some(next))?;
            }
            Act::SetMeta { page, meta } => {
                let Some(id) = next.pick(*page) else { return Ok(()) };
                let meta = meta_of(*meta);
                batch.set_meta(id, &meta);
                let page = next.pages.get_mut(&id).unwrap();
                let changed = page.meta != meta;
                if changed {
                    (page.meta, page.epoch) = (meta, epoch);
                }
                self.commit(&mut batch, changed.then_some(next))?;
            }
            Act::Resize { page, len } => {
                let Some(id) = next.pick(*page) else { return Ok(()) };
                batch.resize(id, &[u64::from(*len)], u64::from(*len));
                if next.is_derived(id) {
                    return self.refused(&mut batch, Code::InvalidDelta);
                }
                let page = next.pages.get_mut(&id).unwrap();
                let changed = page.bytes.len() != *len as usize;
                if changed {
                    page.bytes.resize(*len as usize, 0);
                    page.epoch = epoch;
                }
                self.commit(&mut batch, changed.then_some(next))?;
            }
            Act::Write { page, at, len, byte } => {
                let Some(id) = next.pick(*page) else { return Ok(()) };
                let page = next.pages.get_mut(&id).unwrap();
                let size = page.bytes.len();
                let at = *at as usize % (size + 1);
                let len = *len as usize % (size - at + 1);
                let data = vec![*byte; len];
                let changed = page.bytes[at..at + len] != data;
                if changed {
                    page.bytes[at..at + len].copy_from_slice(&data);
                    page.epoch = epoch;
                }
                let how = self.how();
                let outside = self.bus.write(id, size as u64, b"x", &how);
                self.refuse(outside, Code::InvalidDelta)?;
                if next.is_derived(id) {
                    let written = self.bus.write(id, at as u64, &data, &how);
                    return self.refuse(written, Code::InvalidDelta);
                }
                self.written.extend((len > 0).then_some(id));
                self.submit(changed.then_some(next), self.durability(), |bus| {
                    bus.write(id, at as u64, &data, &how)
                })?;
            }
            Act::Many { writes, meta, durability } => {
                let mut changed = false;
                for &(page, at, len, byte) in writes {
                    let Some(id) = next.pick(page) else { continue };
                    let page = next.pages.get_mut(&id).unwrap();
                    let size = page.bytes.len();
                    let at = at as usize % (size + 1);
                    let len = (len as usize).min(size - at);
                    let data = vec![byte; len];
                    batch.write(id, at as u64, &data);
                    self.written.extend((len > 0).then_some(id));
                    if page.bytes[at..at + len] != data {
                        page.bytes[at..at + len].copy_from_slice(&data);
                        page.epoch = epoch;
                        changed = true;
                    }
                }
                if let Some((&id, page)) = self.head().pages.iter().next() {
                    // The same with one write too many: nothing of it happens.
                    let mut half = batch.clone();
                    half.write(id, page.bytes.len() as u64, b"x");
                    self.refused(&mut half, Code::InvalidDelta)?;
                }
                let ids: Vec<u64> = writes.iter().filter_map(|write| next.pick(write.0)).collect();
                if ids.iter().any(|&id| next.is_derived(id)) {
                    return self.refused(&mut batch, Code::InvalidDelta);
                }
                let meta = meta.map(meta_of).filter(|meta| !meta.is_empty());
                let how = How { meta: meta.as_deref(), durability: *durability, ..self.how() };
                let next = (changed || meta.is_some()).then_some(next);
                self.submit(next, durability.unwrap_or(self.durability()), |bus| {
                    bus.commit(&mut batch, None, &how)
                })?;
            }
            Act::Transaction { page, at, byte, other_at, other_byte } => {
                let Some(id) = next.pick(*page) else { return Ok(()) };
                let size = next.pages[&id].bytes.len();
                if size == 0 {
                    return Ok(());
                }
                let (at, other_at) = (*at as usize % size, *other_at as usize % size);
                let base = self.bus.snapshot()?;
                let page = next.pages.get_mut(&id).unwrap();
                let moved = page.bytes[other_at] != *other_byte;
                if moved {
                    page.bytes[other_at] = *other_byte;
                    page.epoch = epoch;
                }
                let how = self.how();
                if next.is_derived(id) {
                    let written = self.bus.write(id, other_at as u64, &[*other_byte], &how);
                    return self.refuse(written, Code::InvalidDelta);
                }
                self.written.insert(id);
                let is_committed =
                    self.submit(moved.then_some(next), self.durability(), |bus| {
                        bus.write(id, other_at as u64, &[*other_byte], &how)
                    })?;
                if !is_committed {
                    return Ok(());
                }
                let mut next = State::clone(self.head());
                batch.write(id, at as u64, &[*byte]);
                if moved && at == other_at {
                    let late = self.bus.commit(&mut batch, Some(&base), &how);
                    self.refuse(late, Code::Conflict)?;
                    check_snapshot(&self.bus.snapshot()?, self.head())?;
                    return Ok(());
                }
                let epoch = self.epoch() + 1;
                let page = next.pages.get_mut(&id).unwrap();
                let changed = page.bytes[at] != *byte;
                if changed {
                    page.bytes[at] = *byte;
                    page.epoch = epoch;
                }
                self.written.insert(id);
                self.submit(changed.then_some(next), self.durability(), |bus| {
                    bus.commit(&mut batch, Some(&base), &how)
                })?;
            }
            Act::Derive { inputs, form } => {
                let (Some(one), Some(two)) = (next.pick(inputs.0), next.pick(inputs.1)) else {
                    return Ok(());
                };
                let (is_native, len) = (*form % 4 == 1, next.pages[&one].bytes.len());
                let mut inputs = vec![one, two];
                inputs.truncate(if is_native || one == two { 1 } else { 2 });
                let node = Node {
                    form: if is_native { Form::Native } else { Form::Function },
                    deferred: form % 4 == 2,
                    poisons: form % 4 == 3,
                    text: if is_native { TEXT } else { "" },
                    inputs,
                    links: Vec::new(),
                };
                let id = next.next_id;
                batch.create(id, &NewPage::bytes(&[len as u64]));
                batch.node(id, Some(&node));
                if !is_native {
                    batch.function(id, function(id));
                }
                next.next_id += 1;
                let (bytes, node) = (vec![0; len], Some(node));
                next.pages.insert(id, Page { bytes, epoch, node, ..Page::default() });
                self.commit(&mut batch, Some(next))?;
            }
            Act::Place { page, input, kind } => {
                let (Some(id), Some(input)) = (next.pick(*page), next.pick(*input)) else {
                    return Ok(());
                };
                let page = next.pages.get_mut(&id).unwrap();
                let is_derived = page.node.as_ref().is_some_and(Node::is_derived);
                let had = page.node.clone().unwrap_or(Node::links(Vec::new()));
                let node = match kind % 4 {
                    0 if is_derived => Some(Node { inputs: vec![input], ..had }),
                    0 | 1 => Some(Node { links: vec![(input, Kind::Control)], ..had }),
                    2 => Some(Node { links: vec![(input, Kind::GpuSync)], ..had }),
                    _ => None,
                };
                batch.node(id, node.as_ref());
                if node.as_ref().is_some_and(|node| node.form == Form::Function) {
                    batch.function(id, function(id));
                }
                let changed = page.node != node;
                if changed {
                    let marks = if node.is_none() { Marks::default() } else { page.marks };
                    (page.node, page.marks, page.epoch) = (node, marks, epoch);
                }
                self.commit(&mut batch, changed.then_some(next))?;
            }
            Act::Settle => {
                let how = self.how();
                self.submit_as(Follow::Settle, None, self.durability(), |bus| bus.settle(&how))?;
            }
            Act::Tag { name, back, move_ } => {
                let name = format!("tag-{name}");
                let target = self.back(*back) as u64;
                batch.tag(&name, Some(target), *move_);
                match next.tags.get(&name) {
                    Some(_) if !move_ => return self.refused(&mut batch, Code::TagExists),
                    Some(&old) if old == target => return self.commit(&mut batch, None).map(drop),
                    _ => next.tags.insert(name, target),
                };
                self.commit(&mut batch, Some(next))?;
            }
            Act::Untag { name } => {
                let name = format!("tag-{name}");
                batch.untag(&name);
                if next.tags.remove(&name).is_none() {
                    return self.refused(&mut batch, Code::TagNotFound);
                }
                self.commit(&mut batch, Some(next))?;
            }
            Act::Restore { back } => {
                let to = self.back(*back);
                let Some(snapshot) = self.open_epoch(to)? else { return Ok(()) };
                let mut changed = false;
                let target = self.history[to].pages.clone();
                next.pages.retain(|id, _| target.contains_key(id));
                changed |= next.pages.len() != self.head().pages.len();
                for (id, want) in target {
                    let same = next.pages.get(&id).is_some_and(|have| {
                        Page { epoch: 0, ..have.clone() } == Page { epoch: 0, ..want.clone() }
                    });
                    if !same {
                        next.pages.insert(id, Page { epoch, ..want });
                        changed = true;
                    }
                }
                let how = self.how();
                let next = changed.then_some(next);
                self.submit_as(Follow::AsIs, next, self.durability(), |bus| {
                    bus.restore(&snapshot, &how)
                })?;
                bind_all(&self.bus)?;
                assert_eq!(self.bus.snapshot()?.digest().unwrap(), snapshot.digest().unwrap());
            }
            Act::Fork { back, byte } => {
                let at = self.back(*back);
                let Some(base) = self.open_epoch(at)? else { return Ok(()) };
                let fork = self.bus.fork(&base)?;
                check_snapshot(&fork.snapshot().unwrap(), &self.history[at])?;
                bind_all(&fork).unwrap();
                let Some(id) = self.history[at].pick(*byte) else { return Ok(()) };
                let written =
                    write_fork(&fork, &self.history[at], at as u64 + 1, id, *byte, Follow::Change);
                let state = written?;
                check_snapshot(&fork.snapshot().unwrap(), &state)?;
                check_snapshot(&fork.snapshot_at(at as u64).unwrap(), &self.history[at])?;
                if at > 0 {
                    let older = fork.snapshot_at(at as u64 - 1).unwrap_err();
                    assert_eq!(older.code, Code::EpochNotFound);
                }
                let view = fork.view(id).unwrap();
                fork.close().unwrap();
                drop(fork);
                assert!(view.bytes() == state.pages[&id].bytes);
                check_snapshot(&self.bus.snapshot()?, self.head())?;
            }
            Act::KeepSnapshot => {
                let state = self.head().clone();
                self.snapshots.push((self.bus.snapshot()?, state));
            }
            Act::KeepView { page } => {
                let Some(id) = next.pick(*page) else { return Ok(()) };
                self.views.push((self.bus.view(id)?, next.pages[&id].bytes.clone()));
            }
            Act::DropKept { which } => {
                let n = self.snapshots.len();
                if n > 0 {
                    self.snapshots.swap_remove(*which as usize % n);
                }
                let n = self.views.len();
                if n > 0 {
                    self.views.swap_remove(*which as usize % n);
                }
            }
            Act::Travel { back } => {
                let to = self.back(*back);
                self.open_epoch(to)?;
            }
            Act::Checkpoint => self.checkpoint(false)?,
            Act::CheckpointUnasked => self.checkpoint(true)?,
            Act::CheckpointDuring { call, page, byte } => {
                match (next.pick(*page), self.sim().cloned()) {
                    (Some(id), Some(sim)) if !next.pages[&id].bytes.is_empty() => {
                        let page = next.pages.get_mut(&id).unwrap();
                        let byte = if page.bytes[0] == *byte { !*byte } else { *byte };
                        (page.bytes[0], page.epoch) = (byte, epoch);
                        let is_derived = next.is_derived(id);
                        let written = BTreeSet::from([id]);
                        match next.follow(self.head(), epoch, Follow::Change, &written) {
                            Ok(next) if !is_derived => {
                                self.checkpoint_during(
                                    &sim,
                                    (*call).into(),
                                    id,
                                    byte,
                                    next.into(),
                                )?;
                            }
                            _ => self.checkpoint(false)?,
                        }
                    }
                    _ => self.checkpoint(false)?,
                }
            }
            Act::Backup => self.backup()?,
            Act::Recover => self.salvage()?,
            Act::ForkTo { back, byte } => self.fork_to(*back, *byte)?,
            Act::Prune { since, checkpoints, every } => self.prune(*since, *checkpoints, *every)?,
            Act::Retain { rule } => self.retain(*rule)?,
            Act::Sync => {
                let want = if self.place.is_some() { self.epoch() } else { 0 };
                assert_eq!(self.bus.sync()?, want);
                self.note(None);
            }
            Act::Reopen => self.reopen()?,
        }
        self.check_kept();
        Ok(())
    }

    /// What was kept shows what it showed.
    pub fn check_kept(&self) {
        for (snapshot, state) in &self.snapshots {
            check_snapshot(snapshot, state).unwrap();
        }
        for (view, bytes) in &self.views {
            assert!(view.bytes() == bytes, "a kept view changed");
        }
    }
}

/// Fills a page of a fork, which shows `state`. Returns what it must show then.
fn write_fork(
    fork: &Bus,
    state: &State,
    epoch: u64,
    id: u64,
    byte: u8,
    how: Follow,
) -> Result<State> {
    let mut next = state.clone();
    let page = next.pages.entry(id).or_default();
    let data = vec![byte; page.bytes.len()];
    if page.bytes != data {
        (page.bytes, page.epoch) = (data.clone(), epoch);
    }
    let followed = match state.is_derived(id) {
        true => Err(Code::InvalidDelta),
        false => {
            next.follow(state, epoch, how, &(!data.is_empty()).then_some(id).into_iter().collect())
        }
    };
    let done = fork.write(id, 0, &data, &How { wait: true, time: Some(epoch), ..How::default() });
    match followed {
        Ok(next) => {
            assert_eq!(done?.changed, next != *state);
            Ok(next)
        }
        Err(code) => expect(done, code).map(|()| state.clone()),
    }
}

impl Place {
    fn simulated(sim: &SimVfs, dir: &Path) -> Place {
        Place { vfs: Arc::new(sim.clone()), dir: dir.into(), sim: Some(sim.clone()) }
    }
}

/// The call must be refused with this code; an error of the file system is passed on.
fn expect<T: std::fmt::Debug>(done: Result<T>, code: Code) -> Result<()> {
    match done {
        Err(error) if error.code == code => Ok(()),
        Err(error) if of_storage(&error) => Err(error),
        other => panic!("{other:?} instead of {code:?}"),
    }
}

/// Whether an error can come from a file system that fails.
pub fn of_storage(error: &Error) -> bool {
    matches!(
        error.code,
        Code::Storage | Code::OutOfSpace | Code::CommitOutcomeUnknown | Code::Closed
    )
}
