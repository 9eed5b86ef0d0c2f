//! One image of a crash: what it must show when it is opened, and that the store lives on.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use mmsb_core::vfs::Vfs;
use mmsb_core::{Bus, Code, Durability, Error, Mode, Options, log};
use twox_hash::XxHash3_64;

use crate::model::{
    Act, BACKUP, Driver, FORK, Ledger, State, check_backup, check_fork, check_snapshot, random_act,
};
use crate::rng::{Rng, mix};
use crate::sim::{Disk, SimVfs};

/// How the bus of a workload is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Of its commits.
    pub durability: Durability,
    /// Appends go through a mapping where the engine wants that.
    pub mapped: bool,
}

/// Every durability, and `os` with both kinds of append. `disk` never maps.
pub const SETUPS: [Setup; 4] = [
    Setup { durability: Durability::Os, mapped: true },
    Setup { durability: Durability::Disk, mapped: false },
    Setup { durability: Durability::Memory, mapped: true },
    Setup { durability: Durability::Os, mapped: false },
];

/// Where the store is.
pub fn dir() -> &'static Path {
    Path::new("/s")
}

impl Setup {
    /// Options of the bus: segments so small that a few commits roll, and no more memory than three blocks need.
    pub fn options(&self) -> Options {
        Options {
            durability: Some(self.durability),
            max_memory: Some(8 << 20),
            seed: Some(7),
            segment_bytes: Some(4096 + 700),
            compress: self.durability == Durability::Os,
            ..Options::default()
        }
    }

    /// The file system of a new life.
    pub fn file_system(&self, disk: Disk) -> SimVfs {
        let sim = SimVfs::of(disk);
        if !self.mapped {
            sim.refuse_maps();
        }
        sim
    }
}

/// What an image must show.
#[derive(Debug, Clone)]
pub struct Law {
    /// Creating the store had returned.
    pub created: bool,
    /// What was known at the crash.
    pub ledger: Ledger,
    /// The power did not fail: whatever was told must be there.
    pub killed: bool,
    /// The states of all epochs.
    pub history: Arc<Vec<Arc<State>>>,
    /// A number for the states that are allowed.
    pub(super) states: u64,
}

fn number(state: &State) -> u64 {
    let mut number = mix(state.next_id, state.tags.len() as u64);
    for (name, &epoch) in &state.tags {
        number = mix(number, mix(XxHash3_64::oneshot(name.as_bytes()), epoch));
    }
    for (&id, page) in &state.pages {
        let name = page.name.as_ref().map_or(0, |name| XxHash3_64::oneshot(name.as_bytes()));
        let meta = XxHash3_64::oneshot(page.meta.as_bytes());
        let bytes = mix(XxHash3_64::oneshot(&page.bytes), page.bytes.len() as u64);
        let node = page
            .node
            .as_ref()
            .map_or(0, |node| XxHash3_64::oneshot(format!("{node:?}").as_bytes()));
        let marks = u64::from(page.marks.stale) + 2 * u64::from(page.marks.poisoned);
        number = [id, name, meta, bytes, node, marks, page.epoch].into_iter().fold(number, mix);
    }
    number
}

/// By epoch, a number for the states up to it.
pub fn state_numbers(history: &[Arc<State>]) -> Vec<u64> {
    let mut numbers = Vec::new();
    for state in history {
        numbers.push(mix(numbers.last().copied().unwrap_or(0), number(state)));
    }
    numbers
}

impl Law {
    /// The law of a moment; `numbers` are the history's.
    pub fn new(
        created: bool,
        ledger: Ledger,
        killed: bool,
        history: Arc<Vec<Arc<State>>>,
        numbers: &[u64],
    ) -> Law {
        let submitted = ledger.submitted.as_deref().map_or(0, number);
        let states = mix(numbers[ledger.told as usize], submitted);
        Law { created, ledger, killed, history, states }
    }

    /// The first epoch that is allowed.
    pub fn at_least(&self) -> u64 {
        if self.killed { self.ledger.told } else { self.ledger.durable }
    }

    /// A number for an image and all that is expected of it.
    pub fn key(&self, setup: &Setup, disk: &Disk) -> u128 {
        let known = [
            setup.durability as u64 * 2 + u64::from(setup.mapped),
            u64::from(self.created),
            self.at_least(),
            self.ledger.told,
            u64::from(self.ledger.submitted.is_some()),
            self.states,
            self.ledger.opens.kept.iter().copied().fold(self.ledger.opens.base, mix),
        ];
        disk.fingerprint() ^ u128::from(known.into_iter().fold(0, mix))
    }

    /// Opens what is left.
    ///
    /// # Panics
    /// It is not what it must be.
    pub fn recover(&self, setup: &Setup, sim: &SimVfs) -> Driver {
        let options = setup.options();
        let least = self.at_least();
        match Driver::recover(sim, dir(), &options, &self.history, &self.ledger, least) {
            Err(error) if !self.created && error.code == Code::BusNotFound => {
                Driver::create(sim, dir(), &options).unwrap()
            }
            done => done.unwrap(),
        }
    }
}

/// How a store that lived on came to its next end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lives {
    /// Closed.
    pub closed: u64,
    /// Killed.
    pub killed: u64,
    /// Lost all that was not durable.
    pub lost: u64,
    /// Every epoch was opened, the log listed, every byte verified.
    pub finished: u64,
    /// A reader had opened it before its host did.
    pub read: u64,
}

impl Lives {
    /// Both.
    pub fn and(self, other: Lives) -> Lives {
        Lives {
            closed: self.closed + other.closed,
            killed: self.killed + other.killed,
            lost: self.lost + other.lost,
            finished: self.finished + other.finished,
            read: self.read + other.read,
        }
    }
}

/// The image shows what it must (one in four to a reader as well), takes three more commits, comes to an end, and shows
/// them.
///
/// # Panics
/// Anything of that is not so.
pub fn check(setup: &Setup, disk: Disk, law: &Law, seed: u64) -> Lives {
    let mut rng = Rng(seed);
    let sim = setup.file_system(disk);
    check_copies(&sim, &law.history);
    let reads = rng.below(4) == 0;
    let reader = reads.then(|| {
        let vfs = Arc::new(SimVfs::of(sim.disk()));
        Bus::open_on(vfs, dir(), Mode::Read, &setup.options(), &mut |_, _| {})
    });
    let mut driver = law.recover(setup, &sim);
    match reader {
        None => {}
        Some(Ok(reader)) => {
            check_snapshot(&reader.snapshot().unwrap(), driver.head()).unwrap();
            if rng.below(8) == 0 {
                driver.check_reader(&reader);
            }
        }
        Some(Err(error)) => {
            assert!(!law.created && error.code == Code::BusNotFound, "a reader: {error}");
        }
    }
    commit_three(&mut driver, &mut rng);
    let mut lives = Lives { read: u64::from(reads), ..Lives::default() };
    let mut killed = true;
    let disk = match rng.below(3) {
        0 => {
            driver.close().unwrap();
            lives.closed = 1;
            sim.disk().after_kill()
        }
        1 => {
            lives.killed = 1;
            sim.disk().after_kill()
        }
        _ => {
            lives.lost = 1;
            killed = false;
            sim.disk().after_crash(&mut |_| false)
        }
    };
    let ledger = driver.ledger().clone();
    let history = Arc::new(driver.history.clone());
    sim.kill();
    drop(driver);
    // Nobody asks for the number of what only this check sees.
    let law = Law { created: true, ledger, killed, history, states: 0 };
    let sim = setup.file_system(disk);
    let driver = law.recover(setup, &sim);
    if rng.below(32) == 0 {
        driver.finish();
        lives.finished = 1;
    } else {
        sim.kill();
    }
    lives
}

/// A copy or a fork that a crash ended is no store, or it is whole.
fn check_copies(sim: &SimVfs, history: &[Arc<State>]) {
    let begins = |dir: &Path, with: &str| {
        dir.extension().is_some_and(|ext| ext.to_str().is_some_and(|ext| ext.starts_with(with)))
    };
    let is_copy = |dir: &Path| begins(dir, BACKUP) || begins(dir, FORK);
    let disk = sim.disk();
    let found = disk.files().filter_map(|(path, _)| path.ancestors().find(|dir| is_copy(dir)));
    let dirs: BTreeSet<&Path> = found.collect();
    let sim = Arc::new(SimVfs::of(disk.clone()));
    let vfs: Arc<dyn Vfs> = sim.clone();
    for dir in dirs {
        let is_none = |error: Error| error.code == Code::BusNotFound;
        if log::read_meta(&*vfs, dir).is_err_and(is_none) {
            continue;
        }
        let check = |vfs: &Arc<dyn Vfs>, mode: Mode| {
            let checked = match begins(dir, FORK) {
                true => check_fork(vfs, dir, mode, history),
                false => check_backup(vfs, dir, mode, history).map(drop),
            };
            assert!(checked.is_ok(), "{}, {mode:?}: {checked:?}", dir.display());
        };
        check(&vfs, Mode::ReadWrite);
        // What a host has opened stays a store.
        let left: Arc<dyn Vfs> = Arc::new(SimVfs::of(sim.disk().after_crash(&mut |_| false)));
        check(&left, Mode::Read);
    }
}

fn commit_three(driver: &mut Driver, rng: &mut Rng) {
    let until = driver.history.len() + 3;
    driver.step(&Act::Create { name: None, len: rng.below(300) as u32, fill: 3 });
    for _ in 0..6 {
        if driver.history.len() < until {
            driver.step(&random_act(rng));
        }
    }
    while driver.history.len() < until {
        driver.step(&Act::Create { name: None, len: 10, fill: 4 });
    }
}

/// The images that were checked, by number, and how much went wrong.
#[derive(Debug, Default)]
pub struct Seen {
    numbers: RefCell<HashSet<u128>>,
    failures: Cell<usize>,
}

impl Seen {
    /// Whether this is the first time.
    pub fn is_new(&self, key: u128) -> bool {
        self.numbers.borrow_mut().insert(key)
    }

    /// What went wrong so far.
    pub fn failures(&self) -> usize {
        self.failures.get()
    }

    pub(super) fn note_failures(&self, more: usize) {
        self.failures.update(|failures| failures + more);
    }
}
