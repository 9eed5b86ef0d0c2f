//! Derived pages through the public interface, with functions that say which pages they computed.

mod edits;
mod threads;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::graph::{Form, Kind, Marks, Node};
use crate::vfs::testing::contents;
use crate::vfs::{RamVfs, Vfs};
use crate::{Bus, Code, Durability, Error, How, Mode, NewPage, Options, Snapshot};

/// Adds its inputs up, byte by byte and wrapping, and notes what it computed.
#[derive(Debug, Default)]
struct Sum {
    ran: Mutex<Vec<u64>>,
    /// It fails for these pages.
    fails: Mutex<Vec<u64>>,
    /// It computes many pages together: these.
    stacks: bool,
    stacked: Mutex<Vec<Vec<u64>>>,
}

impl Sum {
    fn ran(&self) -> Vec<u64> {
        std::mem::take(&mut self.ran.lock().unwrap())
    }

    fn fail(&self, pages: &[u64]) {
        *self.fails.lock().unwrap() = pages.to_vec();
    }
}

impl Function for Sum {
    fn enter(&self, rest: &mut dyn FnMut()) {
        rest();
    }

    fn stack(&self) -> Option<usize> {
        self.stacks.then_some(7)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn compute_all(
        &self,
        calls: &[Call<'_>],
        done: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), Failure> {
        self.stacked.lock().unwrap().push(calls.iter().map(Call::page).collect());
        let mut all = calls.iter().enumerate();
        all.try_for_each(|(n, call)| self.compute(call, &mut |bytes| done(n, bytes)))
    }

    fn compute(&self, call: &Call<'_>, done: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
        self.ran.lock().unwrap().push(call.page());
        if self.fails.lock().unwrap().contains(&call.page()) {
            let message = format!("page {} fails", call.page());
            return Err(Failure { message, cause: None, fatal: false });
        }
        let mut out = vec![0u8; call.nbytes() as usize];
        for input in call.inputs() {
            let mut bytes = vec![0; input.nbytes() as usize];
            input.copy_to(&mut bytes);
            out.iter_mut().zip(&bytes).for_each(|(sum, byte)| *sum = sum.wrapping_add(*byte));
        }
        done(&out);
        Ok(())
    }
}

use std::result::Result;

fn node(inputs: &[u64]) -> Node<'static> {
    Node { form: Form::Function, inputs: inputs.to_vec(), ..Node::links(Vec::new()) }
}

fn how() -> How<'static> {
    How { wait: true, time: Some(1), ..How::default() }
}

/// Sources 1, 2, ... of so many bytes, and derived pages behind them, one for each list of inputs.
fn world(len: u64, sources: u64, derived: &[&[u64]]) -> (Bus, Arc<Sum>) {
    world_of(Sum::default(), len, sources, derived)
}

fn world_of(sum: Sum, len: u64, sources: u64, derived: &[&[u64]]) -> (Bus, Arc<Sum>) {
    let bus = Bus::memory(&Options::default()).unwrap();
    let sum = Arc::new(sum);
    let mut batch = Batch::new();
    for id in 1..=sources + derived.len() as u64 {
        batch.create(id, &NewPage::bytes(&[len]));
    }
    for (id, inputs) in (sources + 1..).zip(derived) {
        batch.node(id, Some(&node(inputs)));
        batch.function(id, sum.clone());
    }
    bus.commit(&mut batch, None, &how()).unwrap();
    sum.ran();
    (bus, sum)
}

fn bytes(bus: &Bus, page: u64) -> Vec<u8> {
    bus.view(page).unwrap().bytes().to_vec()
}

fn write(bus: &Bus, page: u64, data: &[u8]) -> Result<crate::Committed, Error> {
    bus.write(page, 0, data, &how())
}

fn commit(bus: &Bus, fill: impl FnOnce(&mut Batch)) -> Result<crate::Committed, Error> {
    let mut batch = Batch::new();
    fill(&mut batch);
    bus.commit(&mut batch, None, &how())
}

fn marks(at: &Snapshot, page: u64) -> Marks {
    at.info(page).unwrap().unwrap().marks
}

fn path_of(error: &Error) -> Vec<(u64, u64)> {
    let graph = error.detail.graph.as_ref().unwrap();
    graph.path.iter().map(|edge| (edge.src, edge.dst)).collect()
}

const STALE: Marks = Marks { stale: true, poisoned: false };
const POISONED: Marks = Marks { stale: false, poisoned: true };

#[test]
fn a_diamond_computes_each_page_once_and_behind_its_inputs() {
    // 1 -> 3, 4 -> 5; 2 -> 4.
    let (bus, sum) = world(4, 2, &[&[1], &[1, 2], &[3, 4]]);
    assert_eq!(write(&bus, 1, &[1, 2, 3, 4]).unwrap().epoch, 2);
    assert_eq!(sum.ran(), [3, 4, 5]);
    let snapshot = bus.snapshot().unwrap();
    for (page, want) in [(3, [1, 2, 3, 4]), (4, [1, 2, 3, 4]), (5, [2, 4, 6, 8])] {
        assert_eq!(snapshot.view(page).unwrap().bytes(), want);
        assert_eq!(snapshot.info(page).unwrap().unwrap().epoch, 2);
    }
    // One commit, in the log with what follows from it.
    let entry = bus.log(2, 2, false).unwrap().next().unwrap().unwrap();
    let pages: Vec<_> = entry.ops().map(|op| op.unwrap().page()).collect();
    assert_eq!(pages, [Some(1), Some(3), Some(4), Some(5)]);
    // Two inputs in one commit are one wave.
    commit(&bus, |batch| {
        batch.write(2, 0, &[9; 4]);
        batch.write(1, 0, &[0; 4]);
    })
    .unwrap();
    assert_eq!(sum.ran(), [3, 4, 5]);
    assert_eq!((bytes(&bus, 4), bytes(&bus, 5)), (vec![9; 4], vec![9; 4]));
    // An input that is none of a page's is none of its business.
    write(&bus, 2, &[7; 4]).unwrap();
    assert_eq!(sum.ran(), [4, 5]);
}

#[test]
fn what_does_not_change_ends_the_wave() {
    let (bus, sum) = world(2, 2, &[&[1, 2], &[3], &[4]]);
    write(&bus, 1, &[5, 0]).unwrap();
    assert_eq!(sum.ran(), [3, 4, 5]);
    // The sum stays what it is.
    let done = commit(&bus, |batch| {
        batch.write(1, 0, &[1]);
        batch.write(2, 0, &[4]);
    })
    .unwrap();
    assert!(done.changed);
    assert_eq!(sum.ran(), [3]);
    assert_eq!(bus.snapshot().unwrap().info(3).unwrap().unwrap().epoch, 2);
    // The same bytes again are no commit, and bytes that come back within one are no change.
    assert!(!write(&bus, 1, &[1]).unwrap().changed);
    commit(&bus, |batch| {
        batch.write(1, 0, &[77]);
        batch.write(1, 0, &[1]);
    })
    .unwrap();
    assert_eq!(sum.ran(), []);
}

#[test]
fn only_bytes_that_differ_are_logged() {
    let (bus, _) = world(40_000, 1, &[&[1]]);
    bus.write(1, 30_000, b"abc", &how()).unwrap();
    let entry = bus.log(2, 2, false).unwrap().next().unwrap().unwrap();
    let ops: Vec<_> = entry.ops().map(|op| op.unwrap()).collect();
    assert_eq!(ops[1], crate::Op::Write { id: 2, offset: 30_000, data: b"abc" });
    assert_eq!(ops.len(), 2);
    assert_eq!(bytes(&bus, 2), bytes(&bus, 1));
}

#[test]
fn a_circle_is_refused_with_its_shortest_path() {
    let (bus, sum) = world(1, 1, &[&[1], &[2], &[3], &[2]]);
    let before = bus.snapshot().unwrap();
    let error = commit(&bus, |batch| batch.node(2, Some(&node(&[1, 4])))).unwrap_err();
    assert_eq!(error.code, Code::GraphCycle);
    let path = path_of(&error);
    assert_eq!(path, [(4, 2), (2, 3), (3, 4)]);
    assert!(error.message.contains("page 4 -data-> page 2 -data-> page 3 -data-> page 4"));
    let itself = commit(&bus, |batch| batch.node(1, Some(&Node::links(vec![(1, Kind::Compiler)]))));
    assert_eq!(itself.unwrap_err().code, Code::GraphCycle);
    for links in [vec![(2, Kind::Control), (2, Kind::Control)], vec![(2, Kind::Data)]] {
        let error = commit(&bus, |batch| batch.node(1, Some(&Node::links(links)))).unwrap_err();
        assert_eq!(error.code, Code::Argument);
    }
    let twice = commit(&bus, |batch| batch.node(5, Some(&node(&[3, 3])))).unwrap_err();
    assert_eq!(twice.code, Code::Argument);
    let nowhere = commit(&bus, |batch| batch.node(5, Some(&node(&[77])))).unwrap_err();
    assert_eq!(nowhere.code, Code::PageNotFound);
    let after = bus.snapshot().unwrap();
    assert_eq!(
        (before.epoch(), before.digest().unwrap()),
        (after.epoch(), after.digest().unwrap())
    );
    assert_eq!(sum.ran(), []);
    // A batch is judged by its result: an edge turns round.
    commit(&bus, |batch| {
        for (page, input) in [(2, 3), (3, 1)] {
            batch.node(page, Some(&node(&[input])));
            batch.function(page, sum.clone());
        }
    })
    .unwrap();
    assert_eq!(sum.ran(), [3, 2]);
}

#[test]
fn a_page_that_fails_takes_the_commit_with_it() {
    let (bus, sum) = world(2, 2, &[&[1], &[3], &[2], &[3, 5]]);
    write(&bus, 1, &[1, 1]).unwrap();
    sum.ran();
    sum.fail(&[4, 6]);
    let digest = bus.snapshot().unwrap().digest().unwrap();
    let error = write(&bus, 1, &[2, 2]).unwrap_err();
    assert_eq!(
        (error.code, error.detail.graph.as_ref().unwrap().page),
        (Code::Propagation, Some(4))
    );
    let path = path_of(&error);
    assert_eq!(path, [(1, 3), (3, 4)]);
    assert!(error.message.contains("page 4 fails"));
    assert_eq!((bus.epoch(), bus.snapshot().unwrap().digest().unwrap()), (2, digest));
    assert_eq!(bytes(&bus, 1), [1, 1]);
    // It is usable at once, and pages that the failed commit had reached are computed anew.
    sum.fail(&[]);
    sum.ran();
    write(&bus, 2, &[5, 5]).unwrap();
    assert_eq!(sum.ran(), [5, 6]);
    write(&bus, 1, &[2, 2]).unwrap();
    assert_eq!(sum.ran(), [3, 4, 6]);
    assert_eq!(bytes(&bus, 6), [7, 7]);
}

#[test]
fn poison_goes_to_those_behind_and_away_again() {
    let (bus, sum) = world(1, 2, &[&[1], &[3], &[2], &[4, 5]]);
    commit(&bus, |batch| batch.node(3, Some(&Node { poisons: true, ..node(&[1]) }))).unwrap();
    assert_eq!(sum.ran(), [3]);
    sum.fail(&[3]);
    write(&bus, 1, &[8]).unwrap();
    assert_eq!(sum.ran(), [3]);
    let at = bus.snapshot().unwrap();
    assert_eq!(
        [3, 4, 5, 6].map(|page| marks(&at, page)),
        [POISONED, POISONED, Marks::default(), POISONED]
    );
    assert_eq!(bytes(&bus, 4), [0]);
    // What is behind poison is not computed, whatever else changes.
    write(&bus, 2, &[3]).unwrap();
    assert_eq!(sum.ran(), [5]);
    // It goes with the next value, and those behind are computed although their inputs' bytes are the same.
    sum.fail(&[]);
    write(&bus, 1, &[0]).unwrap();
    assert_eq!(sum.ran(), [3, 4, 6]);
    let at = bus.snapshot().unwrap();
    assert!([3, 4, 5, 6].iter().all(|&page| marks(&at, page) == Marks::default()));
    assert_eq!(bytes(&bus, 6), [3]);
}

#[test]
fn a_deferred_page_waits_for_settle() {
    let (bus, sum) = world(1, 1, &[&[1], &[2]]);
    commit(&bus, |batch| batch.node(2, Some(&Node { deferred: true, ..node(&[1]) }))).unwrap();
    let at = bus.snapshot().unwrap();
    assert_eq!((sum.ran(), marks(&at, 2)), (vec![], STALE));
    write(&bus, 1, &[4]).unwrap();
    write(&bus, 1, &[6]).unwrap();
    assert_eq!((sum.ran(), bytes(&bus, 2)), (vec![], vec![0]));
    assert_eq!(bus.settle(&how()).unwrap().epoch, 5);
    assert_eq!((sum.ran(), bytes(&bus, 3)), (vec![2, 3], vec![6]));
    assert_eq!(marks(&bus.snapshot().unwrap(), 2), Marks::default());
    assert!(!bus.settle(&how()).unwrap().changed);
    // A control edge only says that something changed.
    let links = vec![(1, Kind::Control), (3, Kind::GpuSync)];
    commit(&bus, |batch| {
        batch.create(4, &NewPage::bytes(&[1]));
        batch.node(4, Some(&Node::links(links)));
    })
    .unwrap();
    write(&bus, 1, &[1]).unwrap();
    assert_eq!(marks(&bus.snapshot().unwrap(), 4), STALE);
    // Whoever writes it says that it is right, also with the bytes that it has.
    assert!(write(&bus, 4, &[0]).unwrap().changed);
    assert_eq!(marks(&bus.snapshot().unwrap(), 4), Marks::default());
    assert!(!write(&bus, 4, &[0]).unwrap().changed);
}

#[test]
fn a_function_is_for_the_inputs_that_it_was_registered_for() {
    let (bus, sum) = world(1, 2, &[&[1]]);
    commit(&bus, |batch| {
        batch.node(3, Some(&node(&[2])));
        batch.function(3, Arc::new(Meddler::default()));
    })
    .unwrap();
    assert!(bus.is_bound(3));
    // The place comes back, its function is another's.
    bus.restore(&bus.snapshot_at(1).unwrap(), &how()).unwrap();
    assert!(!bus.is_bound(3));
    let error = write(&bus, 1, &[9]).unwrap_err();
    assert!(error.code == Code::Propagation && error.message.contains("not registered"));
    bus.bind(3, sum.clone()).unwrap();
    write(&bus, 1, &[9]).unwrap();
    assert_eq!((sum.ran(), bytes(&bus, 3)), (vec![3], vec![9]));
    // A function that is not there is no failure of the page's.
    commit(&bus, |batch| batch.node(3, Some(&Node { poisons: true, ..node(&[2]) }))).unwrap_err();
    assert_eq!(bytes(&bus, 3), [9]);
    // A fork of any epoch has the functions.
    let fork = bus.fork(&bus.snapshot_at(1).unwrap()).unwrap();
    write(&fork, 1, &[4]).unwrap();
    assert_eq!(bytes(&fork, 3), [4]);
}

#[test]
fn what_follows_from_others_is_neither_written_nor_left_without_inputs() {
    let (bus, _) = world(2, 1, &[&[1]]);
    let error = write(&bus, 2, &[1]).unwrap_err();
    assert_eq!(error.code, Code::InvalidDelta);
    assert!(error.message.contains("page 2 follows from its inputs"));
    let error = commit(&bus, |batch| batch.resize(2, &[9], 9)).unwrap_err();
    assert_eq!(error.code, Code::InvalidDelta);
    let error = commit(&bus, |batch| batch.delete(1)).unwrap_err();
    assert_eq!(error.code, Code::Argument);
    assert!(error.message.contains("page 2 follows from page 1"));
    assert_eq!(bus.epoch(), 1);
    commit(&bus, |batch| {
        batch.delete(1);
        batch.delete(2);
    })
    .unwrap();
    assert_eq!(bus.snapshot().unwrap().page_count(), 0);
    let (bus, sum) = world(2, 1, &[&[1]]);
    commit(&bus, |batch| {
        batch.node(2, None);
        batch.write(2, 0, &[9, 9]);
        batch.delete(1);
    })
    .unwrap();
    assert_eq!((bytes(&bus, 2), sum.ran()), (vec![9, 9], vec![]));
}

/// A function that reads the bus that it runs in, and tries to change it.
#[derive(Debug, Default)]
struct Meddler(Mutex<Option<Bus>>, Mutex<Vec<Code>>);

impl Function for Meddler {
    fn enter(&self, rest: &mut dyn FnMut()) {
        rest();
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn compute(&self, call: &Call<'_>, done: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
        let bus = self.0.lock().unwrap().clone();
        if let Some(bus) = bus {
            let other = Bus::memory(&Options::default()).unwrap();
            let tried = [
                write(&bus, 1, &[1]).map(drop),
                commit(&other, |batch| batch.create(1, &NewPage::bytes(&[1]))).map(drop),
                bus.sync().map(drop),
                bus.stats().map(drop),
                bus.settle(&how()).map(drop),
                bus.close(),
            ];
            let codes = tried.into_iter().map(|done| done.unwrap_err().code);
            *self.1.lock().unwrap() = codes.collect();
            // The epoch before, and a fork of it; both take pieces of the arena.
            let at = bus.snapshot().unwrap();
            assert_eq!(at.view(1).unwrap().bytes(), [0]);
            bus.fork(&at).unwrap();
        }
        done(&vec![1; call.nbytes() as usize]);
        Ok(())
    }
}

#[test]
fn a_function_reads_the_bus_and_changes_nothing() {
    let (bus, _) = world(1, 1, &[]);
    let meddler = Arc::new(Meddler::default());
    commit(&bus, |batch| {
        batch.create(2, &NewPage::bytes(&[1]));
        batch.node(2, Some(&node(&[1])));
        batch.function(2, meddler.clone());
    })
    .unwrap();
    *meddler.0.lock().unwrap() = Some(bus.clone());
    write(&bus, 1, &[7]).unwrap();
    assert_eq!(*meddler.1.lock().unwrap(), [Code::Reentrancy; 6]);
    *meddler.0.lock().unwrap() = None;
    write(&bus, 1, &[8]).unwrap();
}

#[test]
fn reopened_pages_keep_their_bytes_until_they_would_have_to_run() {
    let vfs = Arc::new(RamVfs::new());
    let (dir, options) =
        (Path::new("/store"), Options { durability: Some(Durability::Os), ..Options::default() });
    let sum = Arc::new(Sum::default());
    let bus = Bus::create_on(vfs.clone(), dir, &options).unwrap();
    commit(&bus, |batch| {
        batch.create(1, &NewPage::bytes(&[2]));
        batch.create(2, &NewPage::bytes(&[2]));
        batch.create(3, &NewPage::bytes(&[2]));
        batch.node(2, Some(&node(&[1])));
        batch.node(3, Some(&Node { deferred: true, ..node(&[2]) }));
        batch.function(2, sum.clone());
        batch.function(3, sum.clone());
    })
    .unwrap();
    write(&bus, 1, &[3, 4]).unwrap();
    let digests: Vec<u128> =
        (0..=2).map(|epoch| bus.snapshot_at(epoch).unwrap().digest().unwrap()).collect();
    for with_checkpoint in [false, true] {
        if with_checkpoint {
            bus.checkpoint().unwrap();
        }
    }
    bus.close().unwrap();
    for mode in [Mode::Read, Mode::ReadWrite] {
        let bus = Bus::open_on(vfs.clone(), dir, mode, &options, &mut |_, _| {}).unwrap();
        let now: Vec<u128> =
            (0..=2).map(|epoch| bus.snapshot_at(epoch).unwrap().digest().unwrap()).collect();
        assert_eq!(now, digests);
        let at = bus.snapshot().unwrap();
        assert_eq!((bytes(&bus, 2), marks(&at, 3)), (vec![3, 4], STALE));
        assert_eq!(at.info(2).unwrap().unwrap().node(), Some(node(&[1])));
        assert!(!bus.is_bound(2));
        bus.close().unwrap();
    }
    let bus = Bus::open_on(vfs, dir, Mode::ReadWrite, &options, &mut |_, _| {}).unwrap();
    sum.ran();
    let error = write(&bus, 1, &[9, 9]).unwrap_err();
    assert_eq!(
        (error.code, error.detail.graph.as_ref().unwrap().page),
        (Code::Propagation, Some(2))
    );
    assert!(error.message.contains("not registered"));
    bus.bind(2, sum.clone()).unwrap();
    assert_eq!(bus.bind(1, sum.clone()).unwrap_err().code, Code::Argument);
    assert!(bus.is_bound(2) && sum.ran().is_empty());
    write(&bus, 1, &[9, 9]).unwrap();
    assert_eq!((sum.ran(), bytes(&bus, 2)), (vec![2], vec![9, 9]));
    // A fork in memory has the functions, one in a directory has not.
    let fork = bus.fork(&bus.snapshot().unwrap()).unwrap();
    write(&fork, 1, &[1, 1]).unwrap();
    assert_eq!((sum.ran(), bytes(&fork, 2), bytes(&bus, 2)), (vec![2], vec![1, 1], vec![9, 9]));
    let there = Path::new("/fork");
    let at = bus.snapshot().unwrap();
    let fork = bus.fork_to_on(Arc::new(RamVfs::new()), &at, there, &options).unwrap();
    assert_eq!(write(&fork, 1, &[1, 1]).unwrap_err().code, Code::Propagation);
    // The past comes back with its graph, and is none of the functions' business.
    let digest = digests[2];
    bus.restore(&bus.snapshot_at(2).unwrap(), &how()).unwrap();
    assert_eq!((bus.snapshot().unwrap().digest().unwrap(), sum.ran()), (digest, vec![]));
    bus.restore(&bus.snapshot_at(0).unwrap(), &how()).unwrap();
    bus.restore(&bus.snapshot_at(2).unwrap(), &how()).unwrap();
    write(&bus, 1, &[5, 5]).unwrap();
    assert_eq!((sum.ran(), bytes(&bus, 2)), (vec![2], vec![5, 5]));
}

/// Random graphs, writes, edits and failures, beside computing everything anew in the order of the ids' levels.
#[test]
fn random_waves_give_what_computing_everything_gives() {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    const SOURCES: u64 = 3;
    const DERIVED: u64 = 7;
    let act = prop_oneof![
        4 => (1..=SOURCES, any::<u8>()).prop_map(|(page, byte)| (0u8, page, vec![u64::from(byte)])),
        2 => (SOURCES + 1..=SOURCES + DERIVED, prop::collection::btree_set(1..=SOURCES + DERIVED, 1..4))
            .prop_map(|(page, inputs)| (1, page, inputs.into_iter().collect())),
        1 => (SOURCES + 1..=SOURCES + DERIVED).prop_map(|page| (2, page, vec![])),
        1 => Just((3, 0, vec![])),
    ];
    let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
    let acts = prop::collection::vec(act, 1..40);
    runner
        .run(&acts, |acts| {
            let (bus, sum) = world(3, SOURCES + DERIVED, &[]);
            let mut values: BTreeMap<u64, Vec<u8>> =
                (1..=SOURCES + DERIVED).map(|id| (id, vec![0; 3])).collect();
            let mut inputs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            let mut past = vec![values.clone(), values.clone()];
            for (kind, page, numbers) in acts {
                let done = match kind {
                    0 => write(&bus, page, &[numbers[0] as u8; 2]),
                    1 => commit(&bus, |batch| {
                        batch.node(page, Some(&node(&numbers)));
                        batch.function(page, sum.clone());
                    }),
                    2 => {
                        sum.fail(&[page]);
                        let failed = write(&bus, 1, &[255 - values[&1][0]; 2]);
                        sum.fail(&[]);
                        failed
                    }
                    _ => bus.settle(&how()),
                };
                let ran = sum.ran();
                let once: std::collections::BTreeSet<_> = ran.iter().collect();
                prop_assert_eq!(once.len(), ran.len(), "a page ran twice");
                match done {
                    Ok(done) if done.changed => {
                        match kind {
                            0 => values.get_mut(&page).unwrap()[..2].fill(numbers[0] as u8),
                            1 => drop(inputs.insert(page, numbers)),
                            2 => {
                                let byte = 255 - values[&1][0];
                                values.get_mut(&1).unwrap()[..2].fill(byte);
                            }
                            _ => prop_assert!(false, "nothing was stale"),
                        }
                        // As many rounds as there are pages: whatever the order, the last is right.
                        for _ in 0..inputs.len() {
                            for (&page, inputs) in &inputs {
                                let mut total = vec![0u8; 3];
                                for input in inputs {
                                    total
                                        .iter_mut()
                                        .zip(&values[input])
                                        .for_each(|(a, b)| *a = a.wrapping_add(*b));
                                }
                                values.insert(page, total);
                            }
                        }
                        past.push(values.clone());
                    }
                    Ok(_) => {}
                    Err(error) => {
                        let codes = [Code::GraphCycle, Code::Propagation];
                        prop_assert!(codes.contains(&error.code), "{:?}", error);
                        prop_assert_eq!(bus.epoch() as usize + 1, past.len());
                    }
                }
                for (&page, value) in &values {
                    prop_assert_eq!(&bytes(&bus, page), value, "page {}", page);
                }
            }
            for (epoch, values) in past.iter().enumerate().skip(1) {
                let at = bus.snapshot_at(epoch as u64).unwrap();
                for (&page, value) in values {
                    prop_assert!(
                        at.view(page).unwrap().bytes() == &value[..],
                        "page {page} at {epoch}"
                    );
                }
            }
            Ok(())
        })
        .unwrap();
}
