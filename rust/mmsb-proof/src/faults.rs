//! Every call of the file system fails: once and from then on, with every error that a disk gives, and cut short.
//!
//! Under the fault the bus is usable or its writer has ended, and what can be read is right. When the fault is gone,
//! a bus that did not say that it ended goes on; one that did is opened again; and whatever a kill or a power loss
//! leaves at that moment has everything that was promised.

use crate::args::Args;
use crate::crash::{
    Law, SETUPS, Seen, Setup, Workload, check, dir, random, some_life, state_numbers, workload,
};
use crate::model::{Act, Driver, Ledger, Opens, State, alphabet, check_snapshot, of_storage};
use crate::parts::{self, Part};
use crate::report::Row;
use crate::rng::{Rng, mix};
use crate::sim::{Disk, Fault, Plan, SimVfs, order};
use crate::work::attempt;

use std::sync::Arc;

use mmsb_core::{Code, Error};

const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
const EINTR: i32 = 4;

const ERRORS: [i32; 5] = [EIO, ENOSPC, EDQUOT, EFBIG, EAGAIN];

/// What may happen to a call, and whether to all later ones too. A call that is interrupted for ever is no kernel's.
fn faults() -> Vec<(Fault, bool)> {
    let both = ERRORS
        .map(Fault::Errno)
        .into_iter()
        .chain([Fault::Short])
        .flat_map(|f| [(f, false), (f, true)]);
    both.chain([(Fault::Errno(EINTR), false)]).collect()
}

/// From where on calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// From the beginning of the creation.
    Creation,
    /// In the last act and in opening again.
    LastAct,
    /// In the last act only.
    LastActOnly,
}

#[derive(Debug, Clone, Copy)]
struct Case<'a> {
    workload: &'a Workload,
    from: From,
}

/// What was tried.
#[derive(Debug, Default)]
pub struct Tally {
    /// Workloads.
    pub workloads: u64,
    /// Runs in which a call failed.
    pub runs: u64,
    /// Those in which a sync failed.
    pub syncs: u64,
    /// Those in which the writer ended.
    pub ended: u64,
    /// Images that were opened afterwards.
    pub images: u64,
    /// What went wrong.
    pub failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.workloads += other.workloads;
        self.runs += other.runs;
        self.syncs += other.syncs;
        self.ended += other.ended;
        self.images += other.images;
        self.failures.extend(other.failures);
    }

    #[allow(clippy::print_stderr)]
    fn progress(&self, part: Part, what: &str) {
        let Tally { runs, failures, .. } = self;
        eprintln!("faults: {part}: {what}: {runs} runs, {} failures", failures.len());
    }

    /// Shows the first failures, and says how many there are.
    #[allow(clippy::print_stderr)]
    pub fn report(&self) -> usize {
        self.failures.iter().take(8).for_each(|what| eprintln!("FAILED {what}\n"));
        self.failures.len()
    }
}

/// A life under a fault.
struct Faulted {
    sim: SimVfs,
    /// None if the store could not be created.
    driver: Option<Driver>,
    errors: Vec<Error>,
    /// The writer may have ended.
    ended: bool,
}

impl Case<'_> {
    /// Lives through the workload, with the plan set where it begins. Returns the calls until then too.
    fn live(&self, plan: Option<Plan>) -> (Faulted, u64) {
        let Workload { setup, lived_in, acts, .. } = self.workload;
        let sim = setup.file_system(SimVfs::new().disk());
        let begin = || {
            plan.iter().for_each(|&plan| sim.set_plan(plan));
            sim.all_calls()
        };
        let mut before = 0;
        if self.from == From::Creation {
            before = begin();
        }
        let mut life = Faulted { sim: sim.clone(), driver: None, errors: vec![], ended: false };
        match Driver::create(&sim, dir(), &setup.options()) {
            Ok(driver) => life.driver = Some(driver),
            Err(error) => {
                life.noted(error);
                return (life, before);
            }
        }
        if *lived_in {
            some_life().iter().for_each(|act| life.step(act));
        }
        for (place, act) in acts.iter().enumerate() {
            if place + 1 == acts.len() && self.from != From::Creation {
                before = begin();
            }
            life.step(act);
        }
        if self.from == From::LastActOnly {
            sim.lift();
        } else {
            life.step(&Act::Reopen);
        }
        (life, before)
    }

    /// How many calls there are to fail.
    fn calls(&self) -> u64 {
        let (life, before) = self.live(None);
        assert!(life.errors.is_empty(), "{:?}", life.errors);
        life.sim.all_calls() - before
    }

    fn fail(&self, plan: Plan, seen: &Seen, tally: &mut Tally) -> bool {
        let (life, _) = self.live(Some(plan));
        if !life.sim.hit() {
            return false;
        }
        tally.runs += 1;
        let synced = life.sim.failed_syncs() > 0;
        tally.syncs += u64::from(synced);
        tally.ended += u64::from(life.ended);
        assert!(plan.fault != Fault::Short || life.errors.is_empty(), "{:?}", life.errors);
        life.sim.lift();
        let seed = mix(plan.at, u64::from(plan.persistent));
        tally.images += life.images(&self.workload.setup, seed, seen);
        life.go_on(seed);
        synced
    }
}

impl Faulted {
    fn noted(&mut self, error: Error) {
        let lost = matches!(error.code, Code::Corruption | Code::EpochNotFound);
        assert!(of_storage(&error) || lost && self.sim.reverted(), "{:?}: {error}", error.code);
        self.errors.push(error);
    }

    fn step(&mut self, act: &Act) {
        let Some(driver) = &mut self.driver else { return };
        let Err(error) = driver.try_step(act) else { return };
        // An error of a commit says whether the writer goes on; behind the others a sync may have failed.
        let commits = !matches!(
            act,
            Act::Backup
                | Act::Recover
                | Act::ForkTo { .. }
                | Act::Prune { .. }
                | Act::Sync
                | Act::Reopen
                | Act::Checkpoint
                | Act::CheckpointUnasked
                | Act::CheckpointDuring { .. }
        );
        self.ended |= !commits || error.code == Code::CommitOutcomeUnknown;
        if !driver.bus.is_closed() {
            check_snapshot(&driver.bus.snapshot().unwrap(), driver.head()).unwrap();
        }
        driver.check_kept();
        self.noted(error);
    }

    /// What a kill and a power loss leave now; says how many images that were.
    fn images(&self, setup: &Setup, seed: u64, seen: &Seen) -> u64 {
        let disk = self.sim.disk();
        let opens = Opens::default();
        let nothing = Ledger { told: 0, durable: 0, submitted: None, opens };
        let empty = || vec![Arc::new(State { next_id: 1, ..State::default() })];
        let driver = self.driver.as_ref();
        let history = Arc::new(driver.map_or_else(empty, |driver| driver.history.clone()));
        let ledger = driver.map_or(nothing, |driver| driver.ledger().clone());
        let numbers = state_numbers(&history);
        let intact = !self.sim.reverted();
        let mut law = Law::new(driver.is_some(), ledger, intact, history, &numbers);
        let mut rng = Rng(seed);
        let mut images = 0;
        let mut try_one = |disk: Disk, law: &Law| {
            let key = law.key(setup, &disk);
            if seen.is_new(key) {
                images += 1;
                check(setup, disk, law, key as u64);
            }
        };
        try_one(disk.after_kill(), &law);
        law.killed = false;
        try_one(disk.after_crash(&mut |_| false), &law);
        try_one(disk.after_crash(&mut |_| rng.coin()), &law);
        images
    }

    /// The fault is gone. Of one life in four every epoch is opened and every byte verified at last.
    fn go_on(self, seed: u64) {
        let Faulted { driver, ended, .. } = self;
        let Some(mut driver) = driver else { return };
        let commit = Act::Create { name: None, len: 33, fill: 5 };
        if !driver.bus.is_closed()
            && let Err(error) = driver.try_step(&commit)
        {
            assert!(ended, "a writer that had not ended: {error}");
            assert!(of_storage(&error), "{error}");
        }
        // Closing may tell once more of what had failed.
        if driver.try_step(&Act::Reopen).is_err() {
            driver.step(&Act::Reopen);
        }
        driver.step(&commit);
        match seed % 4 {
            0 => driver.finish(),
            _ => driver.step(&Act::Reopen),
        }
    }
}

/// Fails every call of a workload in every way; `by_turns` with one error of those that a disk gives.
fn every_call(case: Case<'_>, seen: &Seen, by_turns: Option<u64>) -> Tally {
    let mut tally = Tally { workloads: 1, ..Tally::default() };
    let calls = match attempt(|| case.calls()) {
        Ok(calls) => calls,
        Err(what) => {
            tally.failures.push(format!("{case:?}, without a fault: {what}"));
            return tally;
        }
    };
    for at in 1..=calls {
        for (fault, persistent) in faults() {
            let turn = by_turns.map(|turn| ERRORS[(turn + at) as usize % ERRORS.len()]);
            let waits = |errno| ERRORS.contains(&errno) && turn.is_some_and(|turn| turn != errno);
            if matches!(fault, Fault::Errno(errno) if waits(errno)) {
                continue;
            }
            one(
                case,
                Plan { at, fault, persistent, reads: true, reverts: false },
                seen,
                &mut tally,
            );
        }
    }
    tally
}

/// One fault; if a sync failed, also with a page cache that takes back what was not written.
fn one(case: Case<'_>, plan: Plan, seen: &Seen, tally: &mut Tally) {
    for plan in [plan, Plan { reverts: true, ..plan }] {
        match attempt(|| case.fail(plan, seen, tally)) {
            Ok(true) => {}
            Ok(false) => return,
            Err(what) => {
                tally.failures.push(format!("{case:?}, {plan:?}: {what}"));
                return;
            }
        }
    }
}

struct Run {
    part: Part,
    seed: u64,
    seen: Seen,
}

impl Run {
    fn all(&self, count: usize, case: impl Fn(usize) -> Tally) -> Tally {
        let mut tally = Tally::default();
        self.part.cases(count).for_each(|index| tally.add(case(index)));
        tally
    }

    /// Creating a store, and opening it again.
    fn creation(&self) -> Tally {
        self.all(SETUPS.len(), |index| {
            let workload = workload(SETUPS[index], false, 0, 0);
            every_call(Case { workload: &workload, from: From::Creation }, &self.seen, None)
        })
    }

    /// One act and opening again.
    fn single(&self, every: usize) -> Tally {
        let count = alphabet().len() * SETUPS.len() * 2;
        self.all(count / every, |index| {
            let index = index * every;
            let setup = SETUPS[index % SETUPS.len()];
            let rest = index / SETUPS.len();
            let workload = workload(setup, rest % 2 == 1, 1, rest / 2);
            every_call(Case { workload: &workload, from: From::LastAct }, &self.seen, None)
        })
    }

    /// The second of two acts. Setups and errors take turns.
    fn pairs(&self) -> Tally {
        self.all(alphabet().len().pow(2), |index| {
            let turn = (index + index / alphabet().len() + self.seed as usize) % SETUPS.len();
            let workload = workload(SETUPS[turn], index % 2 == 1, 2, index);
            every_call(
                Case { workload: &workload, from: From::LastActOnly },
                &self.seen,
                Some(index as u64),
            )
        })
    }

    /// Long random workloads, each with some faults anywhere.
    fn random(&self, from: u64, count: usize, faults_each: u64) -> Tally {
        self.all(count, |index| {
            let seed = mix(self.seed, from + index as u64);
            let workload = random(seed, 60);
            let case = Case { workload: &workload, from: From::Creation };
            let mut tally = Tally { workloads: 1, ..Tally::default() };
            let mut rng = Rng(seed);
            let calls = match attempt(|| case.calls()) {
                Ok(calls) => calls,
                Err(what) => {
                    tally.failures.push(format!("{case:?}, without a fault: {what}"));
                    return tally;
                }
            };
            for _ in 0..faults_each {
                let all = faults();
                let (fault, persistent) = all[rng.below(all.len() as u64) as usize];
                let at = 1 + rng.below(calls);
                let plan = Plan { at, fault, persistent, reads: true, reverts: false };
                one(case, plan, &self.seen, &mut tally);
            }
            tally
        })
    }
}

/// The short form: some seconds.
pub fn short(seed: u64) -> Tally {
    let run = Run { part: Part::ALL, seed, seen: Seen::default() };
    let mut tally = run.single(16);
    tally.add(run.random(0, 8, 16));
    tally
}

fn part_of(args: &Args, part: Part) -> [u64; 6] {
    let run = Run { part, seed: args.seed, seen: Seen::default() };
    let mut tally = run.creation();
    match args.cases {
        None => {
            tally.progress(part, "creation");
            tally.add(run.single(1));
            tally.progress(part, "one act");
            tally.add(run.pairs());
            tally.progress(part, "two acts");
            tally.add(run.random(0, 512, 16));
        }
        Some(least) => {
            let (mut done, before) = (0, tally.runs);
            while tally.runs < before + part.share(least) {
                tally.add(run.random(done, 16, 16));
                done += 16;
            }
        }
    }
    assert!(tally.report() == 0, "the failures are above");
    let Tally { workloads, runs, syncs, ended, images, .. } = tally;
    [workloads, runs, syncs, ended, images, order::checks()]
}

/// The harness at its full figures.
pub fn run(args: &Args) -> Vec<Row<'static>> {
    let Some(numbers) = parts::sum(args, |part| part_of(args, part)) else { return vec![] };
    let [workloads, runs, syncs, ended, images, checks] = numbers;
    let row = |id, row, tried, count| Row::of(args, id, row, tried, count);
    vec![
        row(
            "09-io-errors",
            "I/O errors",
            "each call, reading ones too, of creating, of one act and opening again, of the last of two acts, and of \
             random long workloads fails once or from then on with EIO, ENOSPC, EDQUOT, EFBIG, EAGAIN (of two acts with \
             one of these by turns), once with EINTR, or is cut short: the bus goes on or its writer has ended, what is read is right, and what a kill or a power loss \
             leaves has all that was promised",
            format!(
                "{workloads} workloads, {runs} faults, {ended} ended the writer, {images} images"
            ),
        ),
        row(
            "10-fsync-failure",
            "failed fsync",
            "each sync of a file or directory fails; the cache shows what was not written, or takes it back",
            format!("{syncs} runs with a failed sync"),
        ),
        row(
            "17-order-rules",
            "order of writes",
            "log before acknowledgement, log durable before its checkpoint is named, sync before rename, no failed sync \
             asked for again: on in every run of this and of `crash`",
            format!("{checks} checks in this one"),
        ),
    ]
}
