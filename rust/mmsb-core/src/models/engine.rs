//! Whole commits of the engine, with readers, views, forks and a log.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;

use super::holds;
use crate::Code;
use crate::arena::Backing;
use crate::core::Core;
use crate::delta::{Batch, NewPage};
use crate::log::{Log, LogOptions};
use crate::sequence::{Durability, How};
use crate::snapshot::{Pin, Snapshot};
use crate::sync::{self, lock};
use crate::table;
use crate::vfs::RamVfs;
use crate::view::View;
use crate::window::Retention;

const HOW: How<'static> =
    How { source: None, meta: None, durability: None, time: Some(1), wait: true };
/// So many bytes of the page are written and read.
const LEN: usize = 64;
const SMALL: u64 = LEN as u64;
/// Of two blocks.
const LARGE: u64 = 20_000;

/// An engine with one page of so many bytes; the first of them are the number of the epoch, which is 1.
fn engine(nbytes: u64) -> Arc<Core> {
    let core = Core::new(Backing::Heap, 1 << 20, false).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[nbytes]));
    batch.write(1, 0, &[1; LEN]);
    core.commit(&mut batch, None, None, Durability::Memory, &HOW).unwrap();
    core
}

/// Fills the page with the number of the epoch that this makes.
fn commit(core: &Arc<Core>, epoch: u64) {
    let mut batch = Batch::new();
    batch.write(1, 0, &[epoch as u8; LEN]);
    let done = core.commit(&mut batch, None, None, Durability::Memory, &HOW).unwrap();
    assert_eq!((done.epoch, done.changed), (epoch, true));
}

/// The same, where others commit too.
fn commit_next(core: &Arc<Core>, durability: Durability) -> u64 {
    let mut fill = |head: &Snapshot, batch: &mut Batch| {
        batch.write(1, 0, &[head.epoch() as u8 + 1; LEN]);
        Ok(())
    };
    let done = core.commit(&mut Batch::new(), None, Some(&mut fill), durability, &HOW).unwrap();
    assert!(done.changed && core.epoch() >= done.epoch);
    done.epoch
}

fn reclaim(core: &Arc<Core>) {
    lock(&core.sequencer).reclaim.pass(core, true);
}

fn read(snapshot: &Snapshot) {
    let mut bytes = [0; LEN];
    snapshot.read(1, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [snapshot.epoch() as u8; LEN]);
}

fn view(core: &Arc<Core>) {
    let pin = Pin::brief(core);
    let root = pin.root;
    let slot = table::get(core.mem(), root.table, root.height, 1).unwrap();
    let view = View::pinned(core, 1, &slot, 0, SMALL).unwrap();
    drop(pin);
    sync::reads(view.as_ptr(), view.len() as u64);
    assert_eq!(view.bytes(), [root.epoch as u8; LEN]);
}

/// Runs `first` and two threads of `other`, then looks at the end.
fn three(core: &Arc<Core>, first: impl FnOnce(), other: fn(&Arc<Core>)) {
    let others = [0, 1].map(|_| {
        let core = Arc::clone(core);
        thread::spawn(move || other(&core))
    });
    first();
    others.into_iter().for_each(|other| other.join().unwrap());
    read(&Snapshot::newest(core).unwrap());
    reclaim(core);
    assert_eq!(lock(&core.sequencer).reclaim.held_bytes(), 0);
}

#[test]
fn loom_snapshots() {
    holds("commits and snapshots", || {
        let core = engine(SMALL);
        let commits = || {
            commit(&core, 2);
            commit(&core, 3);
            reclaim(&core);
        };
        three(&core, commits, |core| read(&Snapshot::newest(core).unwrap()));
    });
}

fn views(nbytes: u64) -> impl Fn() + Sync + Send + 'static {
    move || {
        let core = engine(nbytes);
        let commits = || {
            commit(&core, 2);
            commit(&core, 3);
            reclaim(&core);
        };
        three(&core, commits, view);
    }
}

#[test]
fn loom_views() {
    holds("commits and views", views(SMALL));
    holds("commits and views of a large page", views(LARGE));
}

/// Epochs of the window are pinned while commits go on and the window with them.
#[test]
fn loom_window() {
    holds("the window", || {
        let core = engine(SMALL);
        core.retain(Some(Retention::Epochs(2))).unwrap();
        let other = Arc::clone(&core);
        let reader = thread::spawn(move || {
            for epoch in [1, 2] {
                if let Some(snapshot) = Snapshot::retained(&other, epoch).unwrap() {
                    assert_eq!(snapshot.epoch(), epoch);
                    read(&snapshot);
                }
            }
        });
        for epoch in [2, 3] {
            commit(&core, epoch);
            reclaim(&core);
        }
        reader.join().unwrap();
        assert!(Snapshot::retained(&core, 1).unwrap().is_none());
        read(&Snapshot::retained(&core, 2).unwrap().unwrap());
        core.retain(None).unwrap();
        reclaim(&core);
        assert_eq!(lock(&core.sequencer).reclaim.held_bytes(), 0);
    });
}

/// Two writers add one to what they found, as transactions; nothing is lost.
#[test]
fn loom_transactions() {
    fn add_one(core: &Arc<Core>) {
        loop {
            let base = Snapshot::newest(core).unwrap();
            let mut batch = Batch::new();
            batch.write(1, 0, &[base.epoch() as u8 + 1; LEN]);
            match core.commit(&mut batch, Some(&base), None, Durability::Memory, &HOW) {
                Ok(done) => return assert_eq!(done.epoch, base.epoch() + 1),
                Err(error) => {
                    assert_eq!(error.code, Code::Conflict);
                    assert!(core.epoch() > base.epoch());
                }
            }
        }
    }
    holds("transactions", || {
        let core = engine(SMALL);
        let other = Arc::clone(&core);
        let other = thread::spawn(move || add_one(&other));
        add_one(&core);
        other.join().unwrap();
        read(&Snapshot::newest(&core).unwrap());
        assert_eq!(core.epoch(), 3);
    });
}

/// Commits of both kinds into a log: whoever returns can see its commit, and on `disk` it is durable.
#[test]
fn loom_durable_commits() {
    holds("durable commits", || {
        let core = engine(SMALL);
        let options = LogOptions { base_epoch: 1, ..LogOptions::default() };
        let log = Log::create(Arc::new(RamVfs::new()), Path::new("/bus"), options).unwrap();
        lock(&core.sequencer).log = Some(log);
        let os = || assert!(commit_next(&core, Durability::Os) > 1);
        three(&core, os, |core| {
            let epoch = commit_next(core, Durability::Disk);
            assert!(core.durable.load(Ordering::Acquire) >= epoch);
        });
        assert_eq!(core.epoch(), 4);
    });
}

/// A fork commits and goes away while its parent commits and a reader reads.
#[test]
fn loom_fork() {
    holds("fork and close", || {
        let core = engine(SMALL);
        let fork = Core::fork(&Snapshot::newest(&core).unwrap()).unwrap();
        let forked = thread::spawn(move || {
            commit(&fork, 2);
            read(&Snapshot::newest(&fork).unwrap());
        });
        let reading = Arc::clone(&core);
        let reader = thread::spawn(move || read(&Snapshot::newest(&reading).unwrap()));
        commit(&core, 2);
        reclaim(&core);
        forked.join().unwrap();
        reader.join().unwrap();
        read(&Snapshot::newest(&core).unwrap());
        reclaim(&core);
        assert_eq!(lock(&core.sequencer).reclaim.held_bytes(), 0);
    });
}
