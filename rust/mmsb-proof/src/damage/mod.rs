//! Bytes that change behind the engine's back: single bits, many bits, sectors and whole files in the wrong place, old
//! copies, torn ends.
//!
//! The law: what opens shows a state that there was, byte for byte, and none before the newest epoch that anything in
//! the store still says to be durable; whatever else is wrong is told by file, offset and epoch. A damaged store is
//! never changed by opening it.

mod flips;
mod misplaced;
mod torn;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmsb_core::{Bus, Code, Durability, Error, Mode, Options, log};

use crate::args::Args;
use crate::format;
use crate::model::{Act, Driver, State, Unlike, check_queries, compare};
use crate::sim::{Disk, SimVfs};

pub use flips::{bits, many};
pub use misplaced::run as misplaced;
pub use torn::{matrix as torn_or_damaged, records as torn_records};

const DIR: &str = "/s";

fn options(seed: u64) -> Options {
    Options {
        durability: Some(Durability::Disk),
        max_memory: Some(2 << 20),
        seed: Some(seed),
        segment_bytes: Some(10 << 10),
        compress: true,
        ..Options::default()
    }
}

/// A store that was closed in order, and what it must show.
struct Store {
    disk: Disk,
    history: Vec<Arc<State>>,
    /// The disk after each step of its life.
    past: Vec<Disk>,
}

impl Store {
    /// A store of several sealed segments, two checkpoints, tags, names, metadata and pages over one block.
    fn sample(seed: u64, acts: &[Act]) -> Store {
        let sim = SimVfs::new();
        let mut driver = Driver::create(&sim, Path::new(DIR), &options(seed)).unwrap();
        let mut past = Vec::new();
        for act in acts {
            driver.step(act);
            past.push(sim.disk());
        }
        driver.bus.close().unwrap();
        Store { disk: sim.disk(), history: driver.history.clone(), past }
    }

    fn newest(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    /// Its files, sorted.
    fn files(&self) -> Vec<PathBuf> {
        self.disk.files().map(|(path, _)| path.to_path_buf()).collect()
    }

    /// The epoch that all before a position of the log have.
    fn epoch_at(&self, position: (u64, u64)) -> u64 {
        let mut epoch = 0;
        for (path, bytes) in self.disk.files().filter(|(path, _)| is_segment(path)) {
            let seq = format::word(bytes, 72);
            for record in format::records(bytes).iter().filter(|r| r.kind == format::COMMIT) {
                if (seq, record.end as u64) <= position {
                    epoch = record.epoch;
                }
            }
            assert!(format::has_header(bytes), "{}", path.display());
        }
        epoch
    }

    /// The newest epoch that a file of some disk says to be durable.
    fn promised(&self, disk: &Disk) -> u64 {
        let checkpoints = disk.files().filter(|(path, bytes)| {
            kind_of(path) == "checkpoint" && self.disk.read(path) == Some(bytes)
        });
        let epochs = checkpoints.map(|(_, bytes)| format::word(bytes, 56));
        epochs.max().unwrap_or(0).max(self.epoch_at(promised(disk)))
    }
}

/// The farthest position of the log that a meta slot, a header or a record says to be durable.
fn promised(disk: &Disk) -> (u64, u64) {
    let mut farthest = (0, 0);
    for (path, bytes) in disk.files() {
        if is_segment(path) && format::has_header(bytes) {
            let seq = format::word(bytes, 72);
            farthest = farthest.max((format::word(bytes, 104), format::word(bytes, 112)));
            let durable = format::records(bytes).into_iter().filter_map(|r| r.durable);
            farthest = durable.fold(farthest, |all, offset| all.max((seq, offset)));
        } else if path.parent() == Some(Path::new(DIR)) {
            farthest = farthest.max(format::slot_position(bytes).unwrap_or_default());
        }
    }
    farthest
}

/// The sample store's files and the states of its epochs.
pub(crate) fn sample(seed: u64) -> (Disk, Vec<Arc<State>>) {
    let store = Store::sample(seed, &life());
    (store.disk, store.history)
}

fn is_segment(path: &Path) -> bool {
    kind_of(path) == "segment"
}

/// Of a short run: every so manieth case only.
fn every(args: &Args, nth: u64) -> u64 {
    if args.cases.is_some_and(|cases| cases < 50_000) { nth } else { 1 }
}

/// What a look at a store gave.
#[derive(Debug)]
struct Seen {
    /// The epoch that it shows, or why it does not open.
    shown: Result<u64, Error>,
    /// What `verify` found.
    problems: Vec<Error>,
    /// Bytes that opening said to lie behind the last record.
    torn: u64,
}

impl Seen {
    /// All that was told of what is wrong.
    fn told(&self) -> impl Iterator<Item = &Error> {
        self.shown.as_ref().err().into_iter().chain(&self.problems)
    }
}

fn typed(error: &Error) -> Result<(), String> {
    match error.code {
        Code::Corruption | Code::FormatVersion => Ok(()),
        _ => Err(format!("{:?} is not an answer to damage: {error}", error.code)),
    }
}

/// Opens a store for reading and looks at everything it shows, some past epochs too; then opens a copy as its host.
/// Says what is against the law.
fn look(disk: &Disk, history: &[Arc<State>], travel: &[u64]) -> Result<Seen, String> {
    let dir = Path::new(DIR);
    let sim = SimVfs::of(disk.clone());
    let open = |sim: &SimVfs, mode| {
        Bus::open_on(Arc::new(sim.clone()), dir, mode, &options(1), &mut |_, _| {})
    };
    let shows = |bus: &Bus| -> Result<u64, Unlike> {
        let snapshot = bus.snapshot()?;
        let epoch = snapshot.epoch();
        let want = history.get(epoch as usize).ok_or(format!("epoch {epoch} never was"))?;
        match compare(&snapshot, want) {
            Err(Unlike::Differs(what)) => Err(format!("epoch {epoch}: {what}").into()),
            done => done.map(|()| epoch),
        }
    };
    let told = |unlike: Unlike| match unlike {
        Unlike::Refused(error) => typed(&error),
        Unlike::Differs(what) => Err(what),
    };
    let (mut problems, mut torn) = (Vec::new(), 0);
    // A reader meets damage when it comes to it.
    let opened = open(&sim, Mode::Read).and_then(|bus| match shows(&bus) {
        Err(Unlike::Refused(error)) => Err(error),
        shown => Ok((bus, shown)),
    });
    let shown = match opened {
        Ok((bus, newest)) => {
            let newest = newest.map_err(|what| what.to_string())?;
            check_queries(&bus)?;
            torn = bus.recovery().map_or(0, |found| found.torn_bytes);
            problems = bus.verify(&mut |_, _| {}).map_err(|e| e.to_string())?.problems;
            for &epoch in travel.iter().filter(|&&epoch| epoch < newest) {
                let then = bus.snapshot_at(epoch).map_err(Unlike::from);
                then.and_then(|then| compare(&then, &history[epoch as usize]))
                    .or_else(told)
                    .map_err(|what| format!("past epoch {epoch}: {what}"))?;
            }
            Ok(newest)
        }
        Err(error) => {
            typed(&error)?;
            let found = log::verify(&sim, dir, None, &mut |e| problems.push(e), &mut |_, _| {});
            found.map_err(|e| e.to_string())?;
            Err(error)
        }
    };
    let host = SimVfs::of(disk.clone());
    let seen = Seen { shown, problems, torn };
    match (open(&host, Mode::ReadWrite), &seen.shown) {
        (Err(error), Err(other)) => {
            // A reader may come to other damage first.
            if error.code != other.code || other.detail.file.is_none() {
                return Err(format!("the host says {error}, a reader {other}"));
            }
            if !host.disk().files().eq(disk.files()) {
                return Err(format!("the host changed a store that it refused: {error}"));
            }
        }
        (Ok(bus), Ok(epoch)) => {
            if shows(&bus).map_err(|what| what.to_string())? != *epoch {
                return Err(format!("the host shows another epoch than {epoch}"));
            }
            drop(bus);
            let (after, changed) = (host.disk(), changed(disk, &host.disk()));
            // A slot that was not whole is made anew, and so is the index of the last segment; what was reserved behind
            // the last record is cut, or gets the seal that an older moment of the store lacks.
            let order = |path: &PathBuf| {
                let [before, after] = [disk, &after].map(|disk| disk.read(path).unwrap_or(b"?"));
                let bare = if format::has_header(before) { format::HEADER } else { before.len() };
                let end = format::records(before).last().map_or(bare, |last| last.end);
                let kept = after.starts_with(&before[..end]);
                path.parent() == Some(dir)
                    || kind_of(path) == "index"
                    || kept && before[end..].iter().all(|&b| b == 0)
            };
            if torn == 0 && !changed.iter().all(order) {
                return Err(format!("the host changed {changed:?}"));
            }
            if !changed.is_empty() {
                let again = open(&SimVfs::of(after), Mode::Read).map_err(|e| e.to_string())?;
                if shows(&again).map_err(|what| what.to_string())? != *epoch {
                    return Err("the host's changes changed the state".to_string());
                }
            }
        }
        (Ok(_), Err(error)) => {
            return Err(format!("the host opens what a reader refuses: {error}"));
        }
        // What a reader does not need may be damaged; whoever verifies is told.
        (Err(error), Ok(_)) => {
            let is_told = |e: &Error| (e.code, &e.detail) == (error.code, &error.detail);
            if !seen.problems.iter().any(is_told) {
                return Err(format!("the host refuses what a reader opens and verifies: {error}"));
            }
        }
    }
    Ok(seen)
}

/// The files that two disks do not have in common.
fn changed(a: &Disk, b: &Disk) -> BTreeSet<PathBuf> {
    let paths = a.files().chain(b.files()).map(|(path, _)| path);
    paths.filter(|path| a.read(path) != b.read(path)).map(Path::to_path_buf).collect()
}

/// How many cases of which kind ended how.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<(String, &'static str), u64>);

impl Tally {
    pub(crate) fn count(&mut self, kind: impl Into<String>, outcome: &'static str) {
        *self.0.entry((kind.into(), outcome)).or_default() += 1;
    }

    fn add(&mut self, other: Tally) {
        for (key, count) in other.0 {
            *self.0.entry(key).or_default() += count;
        }
    }

    pub(crate) fn all(&self) -> u64 {
        self.0.values().sum()
    }

    fn of(&self, outcome: &str) -> u64 {
        self.0.iter().filter(|((_, how), _)| *how == outcome).map(|(_, count)| count).sum()
    }
}

/// The matrix of kinds and outcomes.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: BTreeSet<&str> = self.0.keys().map(|(kind, _)| kind.as_str()).collect();
        let outcomes: BTreeSet<&'static str> = self.0.keys().map(|&(_, outcome)| outcome).collect();
        let wide = kinds.iter().map(|kind| kind.len()).max().unwrap_or(0);
        write!(f, "{:wide$}", "")?;
        outcomes.iter().try_for_each(|outcome| write!(f, " | {outcome}"))?;
        for kind in kinds {
            write!(f, "\n{kind:wide$}")?;
            for &outcome in &outcomes {
                let count = self.0.get(&(kind.to_string(), outcome)).unwrap_or(&0);
                write!(f, " | {count:>width$}", width = outcome.len())?;
            }
        }
        Ok(())
    }
}

#[allow(clippy::print_stdout)]
pub(crate) fn show(title: &str, tally: &Tally) {
    println!("{title}\n{tally}\n");
}

/// Shares cases `0..count` out to threads in small ranges, so that the result does not depend on who takes which.
pub(crate) fn share(
    count: u64,
    threads: usize,
    work: impl Fn(Range<u64>, &mut Tally) + Sync,
) -> Tally {
    const STEP: u64 = 64;
    let next = std::sync::atomic::AtomicU64::new(0);
    let mut all = Tally::default();
    std::thread::scope(|scope| {
        let one = || {
            let mut tally = Tally::default();
            loop {
                let from = next.fetch_add(STEP, std::sync::atomic::Ordering::Relaxed);
                if from >= count {
                    return tally;
                }
                work(from..(from + STEP).min(count), &mut tally);
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        threads.into_iter().for_each(|thread| all.add(thread.join().unwrap()));
    });
    all
}

/// The kind of a file, for the matrix.
fn kind_of(path: &Path) -> &'static str {
    let within = path.parent().and_then(|dir| dir.file_name()?.to_str());
    match (within, path.extension().and_then(|ext| ext.to_str())) {
        (Some("log"), Some("mlog")) => "segment",
        (Some("checkpoints"), Some("ckpt")) => "checkpoint",
        (Some("index"), Some("midx")) => "index",
        (Some("s"), None) => "meta slot",
        _ => "other file",
    }
}

/// The life of the sample store.
fn life() -> Vec<Act> {
    let write = |page, at, len, byte| Act::Write { page, at, len, byte };
    let mut acts = vec![
        Act::Create { name: Some(0), len: 300, fill: 1 },
        Act::Create { name: Some(1), len: 3000, fill: 2 },
        Act::SetMeta { page: 0, meta: 1 },
        Act::Tag { name: 0, back: 0, move_: false },
        write(1, 100, 500, 3),
        Act::Many { writes: vec![(0, 5, 6, 7), (1, 8, 9, 10)], meta: Some(2), durability: None },
        Act::Checkpoint,
        write(0, 0, 200, 11),
        Act::Create { name: None, len: 17_003, fill: 9 },
        write(2, 16_000, 1_000, 12),
        Act::Tag { name: 1, back: 2, move_: false },
        Act::Rename { page: 1, name: Some(3) },
        Act::Resize { page: 0, len: 411 },
        write(0, 300, 111, 13),
        Act::Create { name: Some(4), len: 0, fill: 0 },
        Act::Untag { name: 0 },
        Act::Checkpoint,
    ];
    acts.extend((0..14u8).map(|i| write(i % 3, u32::from(i) * 101, 900, 40 + i)));
    acts.push(Act::Tag { name: 2, back: 3, move_: true });
    acts.push(Act::Delete { page: 3 });
    acts
}
