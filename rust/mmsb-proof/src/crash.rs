//! Crashes at every call, and what is left of the disk after them.
//!
//! The law for every image: opening it gives the state of some epoch that is not before the last one acknowledged as
//! durable (acknowledged at all, if only the process was killed) and not after the last one submitted, byte for byte;
//! and the store lives on. Workloads are enumerated as by ACE: all that have up to three acts, each crashed in its last
//! act and in closing only, since what comes before is a workload of its own; then long random ones. Up to two acts
//! every moment is left in all ways; longer ones are so many that each moment takes its turn of the ways, one of losing
//! power and one of being killed ([`deep`] takes all of three acts).

mod figures;
mod image;

use std::sync::Arc;
use std::time::Instant;

use crate::model::{Act, Driver, Ledger, State, alphabet, random_act};
use crate::parts::Part;
use crate::rng::{Rng, mix};
use crate::sim::{Disk, Point, SimVfs, Variant, kills, losses};
use crate::work::attempt;

pub use figures::{Outcome, deep, run, short};
pub use image::{Law, Lives, SETUPS, Seen, Setup, check, dir, state_numbers};

/// What is done before the crash.
#[derive(Debug, Clone)]
pub struct Workload {
    /// How the bus is set up.
    pub setup: Setup,
    /// The store has seen some life before the first act.
    pub lived_in: bool,
    /// The acts; then the bus is closed.
    pub acts: Vec<Act>,
    /// Crashes in all acts, in creating the store too; else in the last one and the close.
    pub everywhere: bool,
    /// The system writes what it likes whenever it likes.
    pub write_back: Option<u64>,
}

/// A workload that was run: where it could have crashed, and what was known there.
#[derive(Debug)]
struct Lived {
    points: Vec<Point>,
    ledgers: Vec<Ledger>,
    history: Arc<Vec<Arc<State>>>,
    /// By epoch, a number for the states up to it.
    states: Vec<u64>,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, Default)]
struct Scale {
    seed: u64,
    /// With so many pending choices all combinations are tried.
    exhaustive: usize,
    /// So many places are tried at which a kill cuts a store.
    cuts: usize,
    /// After a crash in recovery, so many more in the recovery of what is left.
    deeper: u32,
    /// Of the ways that a moment can be left in, one of each kind, by turns.
    by_turns: Option<u64>,
}

/// What was tried.
#[derive(Debug, Default)]
pub struct Tally {
    /// Workloads, or images whose recovery was crashed.
    pub cases: u64,
    /// Moments of a crash.
    pub points: u64,
    /// Images that were checked after a power loss.
    pub lost: u64,
    /// Images that were checked after a kill.
    pub killed: u64,
    /// Images that had been checked already.
    pub same: u64,
    /// How stores that lived on ended.
    pub lives: Lives,
    /// What went wrong, with the way to see it again.
    pub failures: Vec<String>,
}

impl Tally {
    /// Images that were checked.
    pub fn images(&self) -> u64 {
        self.lost + self.killed
    }

    fn numbers(&self) -> [u64; 10] {
        let Tally { cases, points, lost, killed, same, lives, .. } = self;
        let Lives { closed, killed: ended, lost: gone, finished, read } = lives;
        [*cases, *points, *lost, *killed, *same, *closed, *ended, *gone, *finished, *read]
    }

    fn of(numbers: [u64; 10]) -> Tally {
        let [cases, points, lost, killed, same, closed, ended, gone, finished, read] = numbers;
        let lives = Lives { closed, killed: ended, lost: gone, finished, read };
        Tally { cases, points, lost, killed, same, lives, failures: vec![] }
    }

    fn add(&mut self, other: Tally) {
        let (mut sum, more) = (self.numbers(), other.numbers());
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        let mut failures = std::mem::take(&mut self.failures);
        failures.extend(other.failures);
        *self = Tally { failures, ..Tally::of(sum) };
    }
}

/// Two pages, a tag, a checkpoint, a segment that is full.
pub(crate) fn some_life() -> [Act; 5] {
    [
        Act::Create { name: Some(4), len: 60, fill: 1 },
        Act::Tag { name: 1, back: 0, move_: false },
        Act::Create { name: None, len: 660, fill: 2 },
        Act::CheckpointUnasked,
        Act::Write { page: 0, at: 2, len: 40, byte: 9 },
    ]
}

impl Workload {
    fn run(&self) -> Lived {
        let sim = self.setup.file_system(SimVfs::new().disk());
        if let Some(seed) = self.write_back {
            sim.write_back(seed);
        }
        if self.everywhere {
            sim.record();
        }
        let mut driver = Driver::create(&sim, dir(), &self.setup.options()).unwrap();
        if self.lived_in {
            some_life().iter().for_each(|act| driver.step(act));
        }
        for (place, act) in self.acts.iter().enumerate() {
            if place + 1 == self.acts.len() && !self.everywhere {
                sim.record();
            }
            driver.step(act);
        }
        driver.close().unwrap();
        let points = sim.take_points();
        let states = state_numbers(&driver.history);
        let history = Arc::new(std::mem::take(&mut driver.history));
        Lived { points, ledgers: std::mem::take(&mut driver.ledgers), history, states }
    }

    /// Crashes it everywhere. What went wrong is shortened first.
    fn explore(&self, scale: Scale, seen: &Seen) -> Tally {
        let mut tally = self.crash(scale, seen);
        if let Some(first) = tally.failures.first_mut() {
            let (shortest, what) = match seen.failures() {
                0..4 => self.shorten(scale, first.clone()),
                _ => (self.clone(), first.clone()),
            };
            *first = format!("{shortest:?}: {what}");
            tally.failures.truncate(1);
        }
        tally
    }

    fn crash(&self, scale: Scale, seen: &Seen) -> Tally {
        let mut tally = Tally { cases: 1, ..Tally::default() };
        let lived = match attempt(|| self.run()) {
            Ok(lived) => lived,
            Err(what) => {
                tally.failures.push(format!("without a crash: {what}"));
                return tally;
            }
        };
        for (number, point) in lived.points.iter().enumerate() {
            tally.points += 1;
            let law = lived.law(number);
            for variant in variants(point, number, scale) {
                let what = || format!("point {number}, {variant:?}");
                self.setup.try_image(point, &variant, &law, seen, &mut tally, &what);
            }
        }
        tally
    }

    /// Leaves acts out as long as it still fails.
    fn shorten(&self, scale: Scale, what: String) -> (Workload, String) {
        let mut shortest = (self.clone(), what);
        let mut place = 0;
        while place < shortest.0.acts.len() {
            let mut shorter = shortest.0.clone();
            shorter.acts.remove(place);
            match shorter.crash(scale, &Seen::default()).failures.into_iter().next() {
                Some(what) => shortest = (shorter, what),
                None => place += 1,
            }
        }
        shortest
    }
}

fn variants(point: &Point, number: usize, scale: Scale) -> Vec<Variant> {
    let mut rng = Rng(mix(scale.seed, number as u64));
    let lost = losses(&point.disk, &mut rng, scale.exhaustive);
    let killed = kills(point, scale.cuts);
    match scale.by_turns {
        None => lost.into_iter().chain(killed).collect(),
        Some(turn) => {
            let mut rng = Rng(mix(turn, number as u64));
            [lost, killed].iter().filter_map(|ways| pick(ways, &mut rng).cloned()).collect()
        }
    }
}

impl Lived {
    fn law(&self, point: usize) -> Law {
        let known = self.ledgers.get(self.points[point].mark as usize);
        let ledger = known.unwrap_or(&self.ledgers[0]).clone();
        Law::new(known.is_some(), ledger, true, self.history.clone(), &self.states)
    }
}

impl Setup {
    /// Makes and checks one image, unless its like was checked.
    fn try_image(
        &self,
        point: &Point,
        variant: &Variant,
        law: &Law,
        seen: &Seen,
        tally: &mut Tally,
        what: &dyn Fn() -> String,
    ) -> Option<(Disk, Law)> {
        let killed = matches!(variant, Variant::Kill | Variant::Cut(_));
        let law = Law { killed: law.killed && killed, ..law.clone() };
        let disk = variant.of(point);
        let key = law.key(self, &disk);
        if !seen.is_new(key) {
            tally.same += 1;
            return None;
        }
        *(if killed { &mut tally.killed } else { &mut tally.lost }) += 1;
        match attempt(|| check(self, disk.clone(), &law, key as u64)) {
            Ok(lives) => tally.lives = tally.lives.and(lives),
            Err(error) => tally.failures.push(format!("{}: {error}", what())),
        }
        Some((disk, law))
    }

    /// Opens an image and crashes at every call of that; then does so with what is left.
    fn crash_recovery(
        &self,
        disk: &Disk,
        law: &Law,
        scale: Scale,
        seen: &Seen,
        tally: &mut Tally,
        what: &str,
    ) {
        for (number, point) in self.recovery(disk, law).iter().enumerate() {
            tally.points += 1;
            for variant in variants(point, number, scale) {
                let what = format!("{what}, then call {number} of opening, {variant:?}");
                let left = self.try_image(point, &variant, law, seen, tally, &|| what.clone());
                if let Some((disk, law)) = left.filter(|_| scale.deeper > 0) {
                    let scale = Scale { deeper: scale.deeper - 1, ..scale };
                    self.crash_recovery(&disk, &law, scale, seen, tally, &what);
                }
            }
        }
    }

    fn recovery(&self, disk: &Disk, law: &Law) -> Vec<Point> {
        let sim = self.file_system(disk.clone());
        sim.record();
        // What it shows was checked before; if it cannot be opened the calls until then count.
        let driver = attempt(|| law.recover(self, &sim));
        let points = sim.take_points();
        sim.kill();
        drop(driver);
        points
    }
}

/// The workload of this number among those of so many acts.
pub(crate) fn workload(setup: Setup, lived_in: bool, acts: u32, index: usize) -> Workload {
    let alphabet = alphabet();
    let mut rest = index;
    let acts = (0..acts)
        .map(|_| {
            let act = alphabet[rest % alphabet.len()].clone();
            rest /= alphabet.len();
            act
        })
        .collect();
    Workload { setup, lived_in, acts, everywhere: false, write_back: None }
}

/// A workload of `acts / 2` to `acts` random acts.
pub(crate) fn random(seed: u64, acts: u64) -> Workload {
    let mut rng = Rng(seed);
    let count = acts / 2 + rng.below(acts / 2 + 1);
    Workload {
        setup: SETUPS[rng.below(4) as usize],
        lived_in: false,
        acts: (0..count).map(|_| random_act(&mut rng)).collect(),
        everywhere: true,
        write_back: rng.coin().then(|| rng.next_u64()),
    }
}

/// One run of the harness, bit by bit.
struct Run {
    part: Part,
    scale: Scale,
    seen: Seen,
    until: Option<Instant>,
}

impl Run {
    fn new(part: Part, seed: u64, exhaustive: usize, cuts: usize) -> Run {
        let scale = Scale { seed, exhaustive, cuts, deeper: 1, by_turns: None };
        Run { part, scale, seen: Seen::default(), until: None }
    }
}

/// More failures than this say nothing new.
const ENOUGH: usize = 32;

impl Run {
    fn is_over(&self) -> bool {
        self.seen.failures() >= ENOUGH || self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn all(&self, count: usize, case: impl Fn(usize) -> Tally) -> Tally {
        let mut tally = Tally::default();
        for index in self.part.cases(count) {
            if self.is_over() {
                break;
            }
            let one = case(index);
            self.seen.note_failures(one.failures.len());
            tally.add(one);
        }
        tally
    }

    /// All workloads of `acts` acts at every setup.
    fn enumerate(&self, lived_in: bool, acts: u32, by_turns: bool) -> Tally {
        let each = alphabet().len().pow(acts);
        self.all(each * SETUPS.len(), |index| {
            let setup = SETUPS[index % SETUPS.len()];
            let workload = workload(setup, lived_in, acts, index / SETUPS.len());
            let by_turns = by_turns.then(|| mix(self.scale.seed, index as u64));
            workload.explore(Scale { by_turns, ..self.scale }, &self.seen)
        })
    }

    /// Workloads of 30 to 60 random acts, crashed everywhere.
    fn random(&self, from: u64, count: usize, by_turns: bool) -> Tally {
        self.all(count, |index| {
            let seed = mix(self.scale.seed, from + index as u64);
            let by_turns = by_turns.then_some(seed);
            random(seed, 60).explore(Scale { by_turns, ..self.scale }, &self.seen)
        })
    }

    /// Images whose recovery crashes, and the recovery of what is left then, everywhere: two deep.
    fn recoveries(&self, from: u64, count: usize) -> Tally {
        self.all(count, |index| {
            let seed = mix(self.scale.seed ^ 1 << 40, from + index as u64);
            let mut tally = Tally::default();
            if let Some((workload, disk, law, what)) = some_image(seed) {
                tally.cases = 1;
                let scale = Scale { seed, ..self.scale };
                let setup = workload.setup;
                setup.crash_recovery(&disk, &law, scale, &self.seen, &mut tally, &what);
                told_with(&mut tally, &workload);
            }
            tally
        })
    }

    /// Three crashes in a row in recovery, at random calls.
    fn chains(&self, from: u64, count: usize) -> Tally {
        self.all(count, |index| {
            let seed = mix(self.scale.seed ^ 2 << 40, from + index as u64);
            let mut tally = Tally::default();
            let Some((workload, mut disk, mut law, mut what)) = some_image(seed) else {
                return tally;
            };
            tally.cases = 1;
            let mut rng = Rng(seed);
            for _ in 0..3 {
                let points = workload.setup.recovery(&disk, &law);
                let Some(point) = pick(&points, &mut rng) else { break };
                let number = rng.below(1 << 20) as usize;
                let Some(variant) = pick(&variants(point, number, self.scale), &mut rng).cloned()
                else {
                    break;
                };
                tally.points += 1;
                what = format!("{what}, then in opening {variant:?}");
                let left = workload.setup.try_image(
                    point,
                    &variant,
                    &law,
                    &self.seen,
                    &mut tally,
                    &|| what.clone(),
                );
                let Some(left) = left else { break };
                (disk, law) = left;
            }
            told_with(&mut tally, &workload);
            tally
        })
    }
}

fn told_with(tally: &mut Tally, workload: &Workload) {
    tally.failures.truncate(1);
    tally.failures.iter_mut().for_each(|what| *what = format!("{workload:?}: {what}"));
}

fn pick<'a, T>(from: &'a [T], rng: &mut Rng) -> Option<&'a T> {
    (!from.is_empty()).then(|| &from[rng.below(from.len() as u64) as usize])
}

/// An image of a short random workload.
fn some_image(seed: u64) -> Option<(Workload, Disk, Law, String)> {
    let workload = random(seed, 12);
    let mut rng = Rng(mix(seed, 1));
    let lived = attempt(|| workload.run()).ok()?;
    let number = rng.below(lived.points.len() as u64) as usize;
    let point = &lived.points[number];
    let scale = Scale { seed, exhaustive: 0, cuts: 16, ..Scale::default() };
    let all = variants(point, number, scale);
    let variant = pick(&all, &mut rng)?;
    let law = lived.law(number);
    let killed = matches!(variant, Variant::Kill | Variant::Cut(_));
    let what = format!("point {number}, {variant:?}");
    Some((workload.clone(), variant.of(point), Law { killed, ..law }, what))
}
