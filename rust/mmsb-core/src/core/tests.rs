//! One suite for both backings of the arena: what the engine does must not depend on where its memory comes from.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::Code;
use crate::delta::{Batch, NewPage};
use crate::sequence::{Durability, How};
use crate::view::View;

const MAX_MEMORY: u64 = 8 << 20;
const HOW: How<'static> =
    How { source: None, meta: None, durability: None, time: Some(1), wait: true };

/// An engine without a log, and what its pages must be.
struct Engine {
    core: Arc<Core>,
    pages: Vec<Vec<u8>>,
    random: u64,
    kept: Vec<(Snapshot, Vec<Vec<u8>>)>,
    views: Vec<(View, Vec<u8>)>,
}

impl Engine {
    fn new(backing: Backing) -> Engine {
        let core = Core::new(backing, MAX_MEMORY, true).unwrap();
        Engine { core, pages: vec![], random: 88_172_645_463_325_252, kept: vec![], views: vec![] }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % limit as u64) as usize
    }

    fn commit(&self, batch: &mut Batch) -> Result<bool> {
        let done = self.core.commit(batch, None, None, Durability::Memory, &HOW)?;
        assert_eq!(done.epoch, self.core.epoch());
        Ok(done.changed)
    }

    fn create(&mut self, len: usize) {
        let mut batch = Batch::new();
        batch.create(self.pages.len() as u64 + 1, &NewPage::bytes(&[len as u64]));
        assert!(self.commit(&mut batch).unwrap());
        self.pages.push(vec![0; len]);
    }

    fn step(&mut self) {
        let page = self.below(self.pages.len());
        let id = page as u64 + 1;
        let len = self.pages[page].len();
        let mut batch = Batch::new();
        match self.below(12) {
            0 => {
                let to = self.below(3 * BLOCK_BYTES);
                batch.resize(id, &[to as u64], to as u64);
                self.commit(&mut batch).unwrap();
                self.pages[page].resize(to, 0);
            }
            1 => self.kept.push((Snapshot::newest(&self.core).unwrap(), self.pages.clone())),
            2 => {
                let pin = crate::snapshot::Pin::brief(&self.core);
                let root = pin.root;
                let slot = table::get(self.core.mem(), root.table, root.height, id).unwrap();
                let view = View::pinned(&self.core, id, &slot, 0, slot.len).unwrap();
                self.views.push((view, self.pages[page].clone()));
            }
            3 if !self.kept.is_empty() => {
                let which = self.below(self.kept.len());
                self.kept.swap_remove(which);
            }
            4 if !self.views.is_empty() => {
                let which = self.below(self.views.len());
                self.views.swap_remove(which);
            }
            _ => {
                let at = self.below(len + 1);
                let n = self.below(len - at + 1);
                let bytes = vec![self.below(256) as u8; n];
                batch.write(id, at as u64, &bytes);
                let changed = self.pages[page][at..at + n] != bytes;
                assert_eq!(self.commit(&mut batch).unwrap(), changed);
                self.pages[page][at..at + n].copy_from_slice(&bytes);
            }
        }
    }

    fn check(&self) {
        let newest = (Snapshot::newest(&self.core).unwrap(), self.pages.clone());
        for (snapshot, pages) in self.kept.iter().chain([&newest]) {
            for (id, bytes) in (1..).zip(pages) {
                assert!(snapshot.view(id).unwrap().bytes() == bytes);
            }
        }
        for (view, bytes) in &self.views {
            assert!(view.bytes() == bytes);
        }
    }
}

const BLOCK_BYTES: usize = crate::arena::BLOCK as usize;

fn life(backing: Backing, steps: usize) {
    let mut engine = Engine::new(backing);
    for len in [0, 1, 100, BLOCK_BYTES, BLOCK_BYTES + 1, 5 * BLOCK_BYTES] {
        engine.create(len);
    }
    for _ in 0..steps {
        engine.step();
        engine.check();
    }
    let fork = Core::fork(&Snapshot::newest(&engine.core).unwrap()).unwrap();
    let mut batch = Batch::new();
    batch.write(3, 0, b"");
    batch.delete(4);
    fork.commit(&mut batch, None, None, Durability::Memory, &HOW).unwrap();
    assert!(Snapshot::newest(&fork).unwrap().view(4).is_err());
    drop(fork);
    engine.check();

    // Everything goes, and all memory but the slabs' rest comes back.
    engine.kept.clear();
    engine.views.clear();
    let mut batch = Batch::new();
    (1..=engine.pages.len() as u64).for_each(|id| batch.delete(id));
    assert!(engine.commit(&mut batch).unwrap());
    engine.pages.clear();
    lock(&engine.core.sequencer).reclaim.pass(&engine.core, true);
    assert_eq!(lock(&engine.core.sequencer).reclaim.held_bytes(), 0);
    assert!(engine.core.arena.alloc().used() < MAX_MEMORY / 4);
}

fn limit(backing: Backing) {
    let mut engine = Engine::new(backing);
    engine.create(4 << 20);
    let mut batch = Batch::new();
    batch.write(1, 0, &vec![1; 4 << 20]);
    let refused = engine.commit(&mut batch);
    // The new version does not fit beside the old one; nothing has happened.
    assert_eq!(refused.unwrap_err().code, Code::OutOfSpace);
    engine.check();
    batch.clear();
    batch.write(1, 9, b"small");
    assert!(engine.commit(&mut batch).unwrap());
    engine.pages[0][9..14].copy_from_slice(b"small");
    engine.check();
}

#[test]
fn life_on_the_heap() {
    life(Backing::Heap, if cfg!(miri) { 40 } else { 600 });
}

#[test]
#[cfg_attr(miri, ignore = "memfd")]
fn life_in_a_memfd() {
    life(Backing::Memfd, 600);
}

#[test]
fn limit_on_the_heap() {
    limit(Backing::Heap);
}

#[test]
#[cfg_attr(miri, ignore = "memfd")]
fn limit_in_a_memfd() {
    limit(Backing::Memfd);
}

/// Memory of many small pages that were deleted is there for a large one, and for one that grows.
#[test]
fn small_pages_make_room_for_a_large_one() {
    let backings = [Backing::Heap, Backing::Memfd];
    for backing in backings.into_iter().take(if cfg!(miri) { 1 } else { 2 }) {
        let mut engine = Engine::new(backing);
        let count = if cfg!(miri) { 300 } else { 8000 };
        (0..count).for_each(|_| engine.create(500));
        let mut batch = Batch::new();
        (1..=count).for_each(|id| batch.delete(id));
        assert!(engine.commit(&mut batch).unwrap());
        let (small, large) = (MAX_MEMORY / 2, MAX_MEMORY * 3 / 4);
        let (id, last) = (count + 1, small - 1);
        batch = Batch::new();
        batch.create(id, &NewPage::bytes(&[small]));
        batch.write(id, last, &[7]);
        assert!(engine.commit(&mut batch).unwrap());
        batch = Batch::new();
        batch.resize(id, &[large], large);
        assert!(engine.commit(&mut batch).unwrap());
        let view = Snapshot::newest(&engine.core).unwrap().view(id).unwrap();
        let mut expected = vec![0; large as usize];
        expected[last as usize] = 7;
        assert!(view.bytes() == expected);
    }
}
