//! The ways that a history can take, and what must be the same in all of them.

use std::path::Path;
use std::sync::{Condvar, Mutex};

use mmsb_core::{Bus, Code, Durability, Op, Options};
use twox_hash::XxHash3_128;

use crate::model::{Act, Driver, options, random_act};
use crate::rng::{Rng, mix};
use crate::sim::SimVfs;

const ACTS: usize = 32;
/// New pages at the beginning.
const PAGES: usize = 4;
const DURABILITIES: [Durability; 3] = [Durability::Memory, Durability::Os, Durability::Disk];

/// Where the bus is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    Memory,
    Simulated(&'a SimVfs),
    Directory(&'a Path),
}

/// What happens between the commits. It must not show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Between {
    Nothing,
    /// What the history has there by chance.
    Chance,
    /// Snapshots and views are taken and held.
    Held,
    Checkpoints,
    Reopened,
}

/// One way to take a history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) durability: Durability,
    pub(super) between: Between,
    /// The threads that commit.
    pub(super) threads: u64,
    pub(super) max_memory: u64,
    pub(super) segment_bytes: u64,
}

/// What a history made, whatever way it took.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// By epoch.
    pub(super) digests: Vec<u128>,
    pub(super) log: Vec<Line>,
    pub(super) refusals: Vec<(Code, String)>,
}

/// A commit as the log tells it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    epoch: u64,
    time: u64,
    source: Option<String>,
    meta: Option<String>,
    /// A hash of its operations.
    ops: u128,
}

/// A history: some new pages, then anything. A third of the acts are not commits.
pub(super) fn history(seed: u64, index: u64) -> Vec<Act> {
    let mut rng = Rng(mix(seed, index));
    let mut acts: Vec<Act> = Vec::new();
    while acts.len() < ACTS {
        let act = random_act(&mut rng);
        if acts.len() >= PAGES || matches!(act, Act::Create { .. }) {
            // Elsewhere than on a simulated file system this is a checkpoint without a commit. What a bus in a directory
            // lets go one in memory keeps.
            let alone = matches!(act, Act::CheckpointDuring { .. } | Act::Prune { .. });
            acts.push(if alone { Act::Checkpoint } else { act });
        }
    }
    acts
}

fn commits(act: &Act) -> bool {
    !matches!(
        act,
        Act::Fork { .. }
            | Act::KeepSnapshot
            | Act::KeepView { .. }
            | Act::DropKept { .. }
            | Act::Travel { .. }
            | Act::Checkpoint
            | Act::CheckpointUnasked
            | Act::CheckpointDuring { .. }
            | Act::Backup
            | Act::Recover
            | Act::ForkTo { .. }
            | Act::Prune { .. }
            | Act::Sync
            | Act::Reopen
    )
}

fn acts_of(history: &[Act], between: Between) -> Vec<Act> {
    if between == Between::Chance {
        return history.to_vec();
    }
    let mut acts = Vec::new();
    for (place, act) in history.iter().filter(|act| commits(act)).enumerate() {
        acts.push(act.clone());
        match between {
            Between::Nothing | Between::Chance => {}
            Between::Held => {
                acts.push(Act::KeepSnapshot);
                acts.push(Act::KeepView { page: place as u8 });
                if place % 3 == 2 {
                    acts.push(Act::DropKept { which: place as u8 });
                }
            }
            Between::Checkpoints if place % 4 == 0 => acts.push(Act::Checkpoint),
            Between::Checkpoints => {}
            Between::Reopened if place % 5 == 0 => acts.push(Act::Reopen),
            Between::Reopened => {}
        }
    }
    acts
}

impl Way {
    /// Nothing but the commits, by one thread.
    pub(super) fn plain(index: u64) -> Way {
        Way {
            durability: DURABILITIES[index as usize % 3],
            between: Between::Nothing,
            threads: 1,
            max_memory: 256 << 20,
            segment_bytes: 64 << 10,
        }
    }

    /// Ways on a file system: each durability, and all else in other combinations for each history.
    pub(super) fn others(index: u64) -> [Way; 3] {
        let one_of = |numbers: [u64; 3], n: u64| numbers[n as usize % 3];
        [0, 1, 2].map(|k| Way {
            durability: DURABILITIES[k as usize],
            between: [Between::Chance, Between::Held, Between::Checkpoints, Between::Reopened]
                [(index / 3 + k) as usize % 4],
            threads: one_of([2, 3, 8], index + k),
            max_memory: one_of([32 << 20, 64 << 20, 1 << 30], index / 9 + k),
            segment_bytes: one_of([4096 + 700, 64 << 10, 1 << 20], index / 27 + k),
        })
    }

    pub(super) fn options(&self) -> Options {
        Options {
            max_memory: Some(self.max_memory),
            segment_bytes: Some(self.segment_bytes),
            ..options(self.durability)
        }
    }

    /// Takes the history and gives what came of it. The driver compares each step with the model.
    pub(super) fn take(&self, place: Place<'_>, history: &[Act]) -> Driver {
        let options = self.options();
        let driver = match place {
            Place::Memory => Driver::new(None, &options),
            Place::Simulated(sim) => Driver::create(sim, Path::new("/bus"), &options).unwrap(),
            Place::Directory(dir) => Driver::new(Some(dir), &options),
        };
        in_turn(driver, &acts_of(history, self.between), self.threads)
    }
}

/// Takes the acts, each in the thread whose turn it is.
fn in_turn(mut driver: Driver, acts: &[Act], threads: u64) -> Driver {
    if threads == 1 {
        acts.iter().for_each(|act| driver.step(act));
        return driver;
    }
    let whose = |turn: usize| mix(threads, turn as u64) % threads;
    let (state, changed) = (Mutex::new((0, driver)), Condvar::new());
    let work = |me: u64| {
        loop {
            let state = state.lock().unwrap();
            let mine =
                |&mut (turn, _): &mut (usize, Driver)| turn == acts.len() || whose(turn) == me;
            let mut state = changed.wait_while(state, |state| !mine(state)).unwrap();
            let (turn, driver) = &mut *state;
            let Some(act) = acts.get(*turn) else { return };
            driver.step(act);
            *turn += 1;
            changed.notify_all();
        }
    };
    std::thread::scope(|scope| {
        for me in 0..threads {
            let work = &work;
            scope.spawn(move || work(me));
        }
    });
    state.into_inner().unwrap().1
}

impl Record {
    /// What this way made.
    pub(super) fn of(driver: &Driver) -> Record {
        Record {
            digests: driver.digests.clone(),
            log: lines(&driver.bus, false),
            refusals: driver.refusals.clone(),
        }
    }

    /// One hash over all of it.
    pub(super) fn hash(&self) -> u128 {
        XxHash3_128::oneshot(format!("{self:?}").as_bytes())
    }
}

/// The log of a bus.
pub(super) fn lines(bus: &Bus, reverse: bool) -> Vec<Line> {
    let entries = bus.log(0, u64::MAX, reverse).unwrap();
    let lines = entries.map(|entry| {
        let entry = entry.unwrap();
        let mut hasher = XxHash3_128::new();
        for op in entry.ops() {
            match op.unwrap() {
                Op::Write { id, offset, data } => {
                    hasher.write(format!("{id} {offset} {}", data.len()).as_bytes());
                    hasher.write(data);
                }
                op => hasher.write(format!("{op:?}").as_bytes()),
            }
        }
        Line {
            epoch: entry.epoch(),
            time: entry.time(),
            source: entry.source().map(Into::into),
            meta: entry.meta().map(Into::into),
            ops: hasher.finish_128(),
        }
    });
    lines.collect()
}
