//! The one operation alphabet, and the plain model that says what each operation must do.
//!
//! The model keeps a frozen copy of the state of every epoch. After each step all bytes, names, shapes, metadata, tags
//! and epochs are compared; nothing is compared by length or by "it ran".

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mmsb_core::{Batch, Bus, Code, Durability, How, Mode, NewPage, Options, Snapshot, View};
use proptest::prelude::*;

/// One step. Numbers are reduced to what is there when the step is taken.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Create { name: Option<u8>, len: u32, fill: u8 },
    Delete { page: u8 },
    Rename { page: u8, name: Option<u8> },
    SetMeta { page: u8, meta: u8 },
    Resize { page: u8, len: u32 },
    Write { page: u8, at: u32, len: u32, byte: u8 },
    Many { writes: Vec<(u8, u32, u8, u8)>, meta: Option<u8> },
    Transaction { page: u8, at: u32, byte: u8, other_at: u32, other_byte: u8 },
    Tag { name: u8, back: u8, move_: bool },
    Untag { name: u8 },
    Restore { back: u8 },
    Fork { back: u8, byte: u8 },
    KeepSnapshot,
    KeepView { page: u8 },
    DropKept { which: u8 },
    Travel { back: u8 },
    Checkpoint,
    Sync,
    Reopen,
}

/// Sizes on both sides of every boundary that the engine has.
fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        0u32..200,
        Just(0),
        16_370u32..16_400,
        16_384u32 * 2 - 3..16_384 * 2 + 3,
        16_384u32 * 33..16_384 * 36,
        0u32..100_000,
    ]
}

pub(crate) fn act() -> impl Strategy<Value = Act> {
    let name = || prop::option::of(0u8..6);
    let write = (any::<u8>(), any::<u32>(), any::<u8>(), any::<u8>());
    prop_oneof![
        4 => (name(), len(), any::<u8>()).prop_map(|(name, len, fill)| Act::Create { name, len, fill }),
        1 => any::<u8>().prop_map(|page| Act::Delete { page }),
        1 => (any::<u8>(), name()).prop_map(|(page, name)| Act::Rename { page, name }),
        1 => (any::<u8>(), 0u8..3).prop_map(|(page, meta)| Act::SetMeta { page, meta }),
        3 => (any::<u8>(), len()).prop_map(|(page, len)| Act::Resize { page, len }),
        8 => (any::<u8>(), any::<u32>(), len(), any::<u8>())
            .prop_map(|(page, at, len, byte)| Act::Write { page, at, len, byte }),
        4 => (prop::collection::vec(write, 0..6), prop::option::of(any::<u8>()))
            .prop_map(|(writes, meta)| Act::Many { writes, meta }),
        3 => (any::<u8>(), any::<u32>(), any::<u8>(), any::<u32>(), any::<u8>()).prop_map(
            |(page, at, byte, other_at, other_byte)| Act::Transaction { page, at, byte, other_at, other_byte }
        ),
        1 => (0u8..4, any::<u8>(), any::<bool>()).prop_map(|(name, back, move_)| Act::Tag { name, back, move_ }),
        1 => (0u8..4).prop_map(|name| Act::Untag { name }),
        1 => any::<u8>().prop_map(|back| Act::Restore { back }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(back, byte)| Act::Fork { back, byte }),
        2 => Just(Act::KeepSnapshot),
        2 => any::<u8>().prop_map(|page| Act::KeepView { page }),
        2 => any::<u8>().prop_map(|which| Act::DropKept { which }),
        2 => any::<u8>().prop_map(|back| Act::Travel { back }),
        1 => Just(Act::Checkpoint),
        1 => Just(Act::Sync),
        1 => Just(Act::Reopen),
    ]
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Page {
    pub(crate) name: Option<String>,
    pub(crate) meta: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State {
    pub(crate) pages: BTreeMap<u64, Page>,
    pub(crate) tags: BTreeMap<String, u64>,
    pub(crate) next_id: u64,
}

impl State {
    fn content(&self) -> Vec<(u64, &Option<String>, &str, &[u8])> {
        self.pages
            .iter()
            .map(|(&id, p)| (id, &p.name, p.meta.as_str(), p.bytes.as_slice()))
            .collect()
    }

    fn pick(&self, which: u8) -> Option<u64> {
        let ids: Vec<u64> = self.pages.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[which as usize % ids.len()])
    }

    fn named(&self, name: &str) -> Option<u64> {
        self.pages.iter().find(|(_, p)| p.name.as_deref() == Some(name)).map(|(&id, _)| id)
    }
}

fn name_of(n: u8) -> String {
    format!("page-{n}")
}

fn meta_of(n: u8) -> String {
    if n == 0 { String::new() } else { format!("{{\"n\":{n}}}") }
}

fn how() -> How<'static> {
    How { wait: true, ..How::default() }
}

pub(crate) fn check_snapshot(snapshot: &Snapshot, want: &State) {
    let infos = snapshot.infos();
    assert_eq!(
        infos.iter().map(|i| i.id).collect::<Vec<_>>(),
        want.pages.keys().copied().collect::<Vec<_>>()
    );
    for info in infos {
        let page = &want.pages[&info.id];
        assert_eq!(info.name, page.name);
        assert_eq!(info.meta, page.meta);
        assert_eq!(info.nbytes, page.bytes.len() as u64);
        assert_eq!(info.shape, [page.bytes.len() as u64]);
        assert_eq!(info.epoch, page.epoch, "epoch of page {}", info.id);
        assert!(snapshot.view(info.id).unwrap().bytes() == page.bytes, "bytes of page {}", info.id);
        if let Some(name) = &page.name {
            assert_eq!(snapshot.find(name), Some(info.id));
        }
    }
    for n in 0..6 {
        assert_eq!(snapshot.find(&name_of(n)), want.named(&name_of(n)));
    }
    assert_eq!(snapshot.tags(), want.tags.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(snapshot.next_id(), want.next_id);
}

/// A bus and what it must be like.
pub(crate) struct Driver {
    pub(crate) bus: Bus,
    dir: Option<PathBuf>,
    options: Options,
    pub(crate) history: Vec<State>,
    digests: Vec<u128>,
    snapshots: Vec<(Snapshot, State)>,
    views: Vec<(View, Vec<u8>)>,
}

impl Driver {
    /// In memory without a directory.
    pub(crate) fn new(dir: Option<&Path>, durability: Durability) -> Driver {
        let options = Options {
            durability: Some(durability),
            max_memory: Some(256 << 20),
            seed: Some(7),
            segment_bytes: Some(64 << 10),
        };
        let bus = match dir {
            Some(dir) => Bus::create(dir, &options).unwrap(),
            None => Bus::memory(&options).unwrap(),
        };
        let start = State { next_id: 1, ..State::default() };
        let digests = vec![bus.snapshot().unwrap().digest()];
        let dir = dir.map(Path::to_path_buf);
        Driver {
            bus,
            dir,
            options,
            history: vec![start],
            digests,
            snapshots: vec![],
            views: vec![],
        }
    }

    pub(crate) fn head(&self) -> &State {
        self.history.last().unwrap()
    }

    fn epoch(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    fn back(&self, back: u8) -> usize {
        self.history.len() - 1 - back as usize % self.history.len()
    }

    /// Commits the batch and compares with what the model says it must make: `None` for no change.
    fn commit(&mut self, batch: &mut Batch, next: Option<State>, meta: Option<&str>) {
        let done = self.bus.commit(batch, None, &How { meta, ..how() }).unwrap();
        self.committed(
            done.epoch,
            done.changed,
            next.or_else(|| meta.map(|_| self.head().clone())),
        );
    }

    fn committed(&mut self, epoch: u64, changed: bool, next: Option<State>) {
        assert_eq!(changed, next.is_some());
        if let Some(next) = next {
            self.history.push(next);
        }
        assert_eq!(epoch, self.epoch());
        assert_eq!(self.bus.epoch(), epoch);
        let snapshot = self.bus.snapshot().unwrap();
        check_snapshot(&snapshot, self.head());
        if self.digests.len() < self.history.len() {
            self.digests.push(snapshot.digest());
        }
        let content = self.head().content();
        let same = |i: usize| self.history[i].content() == content;
        for i in self.history.len().saturating_sub(12)..self.history.len() {
            assert_eq!(self.digests[i] == snapshot.digest(), same(i), "digests tell states apart");
        }
    }

    fn refused(&mut self, batch: &mut Batch, code: Code) {
        let before = self.bus.epoch();
        assert_eq!(self.bus.commit(batch, None, &how()).unwrap_err().code, code);
        assert_eq!(self.bus.epoch(), before);
        check_snapshot(&self.bus.snapshot().unwrap(), self.head());
    }

    pub(crate) fn step(&mut self, act: &Act) {
        let mut batch = Batch::new();
        let mut next = self.head().clone();
        let epoch = self.epoch() + 1;
        match act {
            Act::Create { name, len, fill } => {
                let name = name.map(name_of);
                let len = u64::from(*len);
                let id = next.next_id;
                batch.create(
                    id,
                    &NewPage {
                        name: name.as_deref(),
                        dtype: "",
                        itemsize: 1,
                        shape: &[len],
                        nbytes: len,
                        meta: "",
                        location: 0,
                    },
                );
                let bytes = vec![*fill; len as usize];
                if *fill != 0 {
                    batch.write(id, 0, &bytes);
                }
                if name.as_deref().is_some_and(|name| next.named(name).is_some()) {
                    return self.refused(&mut batch, Code::PageExists);
                }
                next.next_id += 1;
                next.pages.insert(id, Page { name, meta: String::new(), bytes, epoch });
                self.commit(&mut batch, Some(next), None);
            }
            Act::Delete { page } => {
                let Some(id) = next.pick(*page) else {
                    batch.delete(77);
                    return self.refused(&mut batch, Code::PageNotFound);
                };
                batch.delete(id);
                next.pages.remove(&id);
                self.commit(&mut batch, Some(next), None);
            }
            Act::Rename { page, name } => {
                let Some(id) = next.pick(*page) else { return };
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
                self.commit(&mut batch, changed.then_some(next), None);
            }
            Act::SetMeta { page, meta } => {
                let Some(id) = next.pick(*page) else { return };
                let meta = meta_of(*meta);
                batch.set_meta(id, &meta);
                let page = next.pages.get_mut(&id).unwrap();
                let changed = page.meta != meta;
                if changed {
                    (page.meta, page.epoch) = (meta, epoch);
                }
                self.commit(&mut batch, changed.then_some(next), None);
            }
            Act::Resize { page, len } => {
                let Some(id) = next.pick(*page) else { return };
                batch.resize(id, &[u64::from(*len)], u64::from(*len));
                let page = next.pages.get_mut(&id).unwrap();
                let changed = page.bytes.len() != *len as usize;
                if changed {
                    page.bytes.resize(*len as usize, 0);
                    page.epoch = epoch;
                }
                self.commit(&mut batch, changed.then_some(next), None);
            }
            Act::Write { page, at, len, byte } => {
                let Some(id) = next.pick(*page) else { return };
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
                let past = self.bus.write(id, size as u64, b"x", &how()).unwrap_err();
                assert_eq!(past.code, Code::InvalidDelta);
                let done = self.bus.write(id, at as u64, &data, &how()).unwrap();
                self.committed(done.epoch, done.changed, changed.then_some(next));
            }
            Act::Many { writes, meta } => {
                let mut changed = false;
                for &(page, at, len, byte) in writes {
                    let Some(id) = next.pick(page) else { continue };
                    let page = next.pages.get_mut(&id).unwrap();
                    let size = page.bytes.len();
                    let at = at as usize % (size + 1);
                    let len = (len as usize).min(size - at);
                    let data = vec![byte; len];
                    batch.write(id, at as u64, &data);
                    if page.bytes[at..at + len] != data {
                        page.bytes[at..at + len].copy_from_slice(&data);
                        page.epoch = epoch;
                        changed = true;
                    }
                }
                let meta = meta.map(meta_of).filter(|meta| !meta.is_empty());
                self.commit(&mut batch, changed.then_some(next), meta.as_deref());
            }
            Act::Transaction { page, at, byte, other_at, other_byte } => {
                let Some(id) = next.pick(*page) else { return };
                let size = next.pages[&id].bytes.len();
                if size == 0 {
                    return;
                }
                let (at, other_at) = (*at as usize % size, *other_at as usize % size);
                let base = self.bus.snapshot().unwrap();
                let other = self.bus.write(id, other_at as u64, &[*other_byte], &how()).unwrap();
                let page = next.pages.get_mut(&id).unwrap();
                let moved = page.bytes[other_at] != *other_byte;
                if moved {
                    page.bytes[other_at] = *other_byte;
                    page.epoch = epoch;
                }
                self.committed(other.epoch, other.changed, moved.then(|| next.clone()));
                batch.write(id, at as u64, &[*byte]);
                let done = self.bus.commit(&mut batch, Some(&base), &how());
                if moved && at == other_at {
                    assert_eq!(done.unwrap_err().code, Code::Conflict);
                    return check_snapshot(&self.bus.snapshot().unwrap(), self.head());
                }
                let done = done.unwrap();
                let epoch = self.epoch() + 1;
                let page = next.pages.get_mut(&id).unwrap();
                let changed = page.bytes[at] != *byte;
                if changed {
                    page.bytes[at] = *byte;
                    page.epoch = epoch;
                }
                self.committed(done.epoch, done.changed, changed.then_some(next));
            }
            Act::Tag { name, back, move_ } => {
                let name = format!("tag-{name}");
                let target = self.back(*back) as u64;
                batch.tag(&name, Some(target), *move_);
                match next.tags.get(&name) {
                    Some(_) if !move_ => return self.refused(&mut batch, Code::TagExists),
                    Some(&old) if old == target => return self.commit(&mut batch, None, None),
                    _ => next.tags.insert(name, target),
                };
                self.commit(&mut batch, Some(next), None);
            }
            Act::Untag { name } => {
                let name = format!("tag-{name}");
                batch.untag(&name);
                if next.tags.remove(&name).is_none() {
                    return self.refused(&mut batch, Code::TagNotFound);
                }
                self.commit(&mut batch, Some(next), None);
            }
            Act::Restore { back } => {
                let to = self.back(*back);
                let snapshot = self.bus.snapshot_at(to as u64).unwrap();
                let mut changed = false;
                let target = self.history[to].pages.clone();
                next.pages.retain(|id, _| target.contains_key(id));
                changed |= next.pages.len() != self.head().pages.len();
                for (id, want) in target {
                    let same = next.pages.get(&id).is_some_and(|have| {
                        (&have.name, &have.meta, &have.bytes)
                            == (&want.name, &want.meta, &want.bytes)
                    });
                    if !same {
                        next.pages.insert(id, Page { epoch, ..want });
                        changed = true;
                    }
                }
                let done = self.bus.restore(&snapshot, &how()).unwrap();
                self.committed(done.epoch, done.changed, changed.then_some(next));
                assert_eq!(self.bus.snapshot().unwrap().digest(), snapshot.digest());
            }
            Act::Fork { back, byte } => {
                let at = self.back(*back);
                let base = self.bus.snapshot_at(at as u64).unwrap();
                let fork = self.bus.fork(&base).unwrap();
                check_snapshot(&fork.snapshot().unwrap(), &self.history[at]);
                let Some(id) = self.history[at].pick(*byte) else { return };
                let mut state = self.history[at].clone();
                let page = state.pages.get_mut(&id).unwrap();
                let data = vec![*byte; page.bytes.len()];
                let changed = page.bytes != data;
                if changed {
                    (page.bytes, page.epoch) = (data.clone(), at as u64 + 1);
                }
                assert_eq!(fork.write(id, 0, &data, &how()).unwrap().changed, changed);
                check_snapshot(&fork.snapshot().unwrap(), &state);
                check_snapshot(&fork.snapshot_at(at as u64).unwrap(), &self.history[at]);
                if at > 0 {
                    let older = fork.snapshot_at(at as u64 - 1).unwrap_err();
                    assert_eq!(older.code, Code::EpochNotFound);
                }
                let view = fork.view(id).unwrap();
                fork.close().unwrap();
                drop(fork);
                assert!(view.bytes() == state.pages[&id].bytes);
                check_snapshot(&self.bus.snapshot().unwrap(), self.head());
            }
            Act::KeepSnapshot => {
                let state = self.head().clone();
                self.snapshots.push((self.bus.snapshot().unwrap(), state));
            }
            Act::KeepView { page } => {
                let Some(id) = next.pick(*page) else { return };
                self.views.push((self.bus.view(id).unwrap(), next.pages[&id].bytes.clone()));
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
                let snapshot = self.bus.snapshot_at(to as u64).unwrap();
                check_snapshot(&snapshot, &self.history[to]);
                assert_eq!(snapshot.digest(), self.digests[to]);
            }
            Act::Checkpoint => {
                let done = self.bus.checkpoint();
                match self.dir {
                    Some(_) => assert_eq!(done.unwrap(), self.epoch()),
                    None => assert_eq!(done.unwrap_err().code, Code::Argument),
                }
            }
            Act::Sync => {
                let want = if self.dir.is_some() { self.epoch() } else { 0 };
                assert_eq!(self.bus.sync().unwrap(), want);
            }
            Act::Reopen => self.reopen(),
        }
        self.check_kept();
    }

    fn check_kept(&self) {
        for (snapshot, state) in &self.snapshots {
            check_snapshot(snapshot, state);
        }
        for (view, bytes) in &self.views {
            assert!(view.bytes() == bytes, "a kept view changed");
        }
    }

    fn reopen(&mut self) {
        let Some(dir) = &self.dir else { return };
        self.bus.close().unwrap();
        self.bus = Bus::open(dir, Mode::ReadWrite, &self.options, &mut |_, _| {}).unwrap();
        assert_eq!(self.bus.recovery().unwrap().torn_bytes, 0);
        check_snapshot(&self.bus.snapshot().unwrap(), self.head());
    }

    /// Every epoch is there, bit for bit, forward and backward; the store is sound.
    pub(crate) fn finish(mut self) {
        self.reopen();
        for epoch in (0..self.history.len()).chain((0..self.history.len()).rev().step_by(3)) {
            let snapshot = self.bus.snapshot_at(epoch as u64).unwrap();
            check_snapshot(&snapshot, &self.history[epoch]);
            assert_eq!(snapshot.digest(), self.digests[epoch]);
        }
        let log: Vec<u64> =
            self.bus.log(0, u64::MAX, false).unwrap().map(|c| c.unwrap().epoch()).collect();
        assert_eq!(log, (1..self.history.len() as u64).collect::<Vec<_>>());
        assert!(self.bus.verify(&mut |_, _| {}).unwrap().problems.is_empty());
        self.bus.close().unwrap();
        self.check_kept();
        if let Some(dir) = &self.dir {
            let reader = Bus::open(dir, Mode::Read, &self.options, &mut |_, _| {}).unwrap();
            check_snapshot(&reader.snapshot().unwrap(), self.head());
            assert_eq!(reader.write(1, 0, b"", &how()).unwrap_err().code, Code::ReadOnly);
        }
    }
}
