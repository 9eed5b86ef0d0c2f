//! The same commits make the same bytes, whoever makes them and wherever.
//!
//! A history is taken in memory by one thread first; what it made then is its record: the digest of every epoch, the
//! log, the refusals. Then it is taken in other ways ([`ways`]), and out of each of them every epoch is looked at again:
//! after a restart, replayed from the beginning and from each checkpoint, by time travel forward and backward, in forks.
//! All must agree with the record, and the record with a digest computed from FORMAT.md alone ([`oracle`]). Another
//! process with other hash seeds and addresses takes it too. Some records are kept in golden-digests.txt.

mod oracle;
mod ways;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use mmsb_core::{Bus, Mode};
use twox_hash::{XxHash3_64, XxHash3_128};

use crate::args::Args;
use crate::format;
use crate::model::{Act, check_snapshot};
use crate::report::Row;
use crate::sim::{Disk, SimVfs};
use crate::work::{attempt, side_by_side};

use ways::{Between, Place, Record, Way, history, lines};

/// The first argument of the other process.
pub const CHILD: &str = "determinism-child";
/// The first argument that prints what golden-digests.txt must hold.
pub const GOLDEN: &str = "golden-digests";
/// Histories that one other process takes.
const BATCH: u64 = 50;
const GOLDEN_SEED: u64 = 0x4D4D_5342;
/// One of so many histories is taken on the real file system.
const REAL: u64 = 10;

/// What was compared in one history.
#[derive(Debug, Default)]
struct Tally {
    epochs: u64,
    digests: u64,
    ways: u64,
}

/// Compares with a record.
struct Check<'a> {
    want: &'a Record,
    tally: Tally,
}

impl Check<'_> {
    fn digest(&mut self, bus: &Bus, epoch: u64, whence: &str) {
        let snapshot = bus.snapshot_at(epoch).unwrap();
        let want = self.want.digests[epoch as usize];
        assert_eq!(snapshot.digest().unwrap(), want, "epoch {epoch} {whence}");
        self.tally.digests += 1;
    }

    fn epochs(&mut self, bus: &Bus, epochs: impl Iterator<Item = u64>, whence: &str) {
        epochs.for_each(|epoch| self.digest(bus, epoch, whence));
    }

    fn head(&self) -> u64 {
        self.want.digests.len() as u64 - 1
    }

    fn record(&mut self, got: &Record, way: &Way) {
        assert_eq!(got, self.want, "{way:?}");
        self.tally.digests += got.digests.len() as u64;
        self.tally.ways += 1;
    }

    /// Everything that a bus can tell about its past.
    fn past(&mut self, bus: &Bus, whence: &str) {
        let head = self.head();
        self.epochs(bus, 0..=head, &format!("forward, {whence}"));
        self.epochs(bus, (0..=head).rev(), &format!("backward, {whence}"));
        assert_eq!(lines(bus, false), self.want.log, "the log {whence}");
        let mut backward = lines(bus, true);
        backward.reverse();
        assert_eq!(backward, self.want.log, "the log backward {whence}");
    }

    /// A fork of each epoch is that epoch.
    fn forks(&mut self, bus: &Bus) {
        for epoch in 0..=self.head() {
            let fork = bus.fork(&bus.snapshot_at(epoch).unwrap()).unwrap();
            self.digest(&fork, epoch, "in a fork");
        }
    }

    /// Restarts with all checkpoints, with none, and with each and what it stands on.
    fn restarts(&mut self, disk: &Disk, way: &Way) {
        let head = self.head();
        let names = disk.files_in(Path::new("/bus/checkpoints"), false);
        let checkpoints: Vec<Arc<Path>> = names.into_iter().map(|(path, _)| path).collect();
        let whole = restart(disk.clone(), way, Mode::ReadWrite);
        assert_eq!(whole.recovery().unwrap().epoch, head);
        self.past(&whole, "after a restart");
        let reader = restart(disk.clone(), way, Mode::Read);
        self.digest(&reader, head, "in a reader");
        for kept in checkpoints.iter().map(Some).chain([None]) {
            let mut disk = disk.clone();
            let from = kept.map(|path| epoch_of(path));
            let base = kept.and_then(|path| Some(format::word(disk.read(path)?, 152)));
            for path in &checkpoints {
                let epoch = Some(epoch_of(path));
                if epoch != from && (epoch != base || base == Some(0)) {
                    disk.lose(path);
                }
            }
            let bus = restart(disk, way, Mode::ReadWrite);
            assert_eq!(bus.recovery().unwrap().checkpoint_epoch, from);
            self.digest(&bus, head, &format!("recovered from {from:?}"));
            self.epochs(&bus, from.unwrap_or(0)..=head, &format!("replayed from {from:?}"));
        }
    }
}

fn epoch_of(checkpoint: &Path) -> u64 {
    u64::from_str_radix(&checkpoint.file_stem().unwrap().to_string_lossy(), 16).unwrap()
}

fn restart(disk: Disk, way: &Way, mode: Mode) -> Bus {
    let sim = Arc::new(SimVfs::of(disk));
    Bus::open_on(sim, Path::new("/bus"), mode, &way.options(), &mut |_, _| {}).unwrap()
}

/// The history as everything else is compared with, beside the model and the digest of FORMAT.md.
fn record(acts: &[Act], index: u64) -> Record {
    let driver = Way::plain(index).take(Place::Memory, acts);
    let record = Record::of(&driver);
    let states = driver.history.iter().map(|state| oracle::digest(state));
    assert_eq!(record.digests, states.collect::<Vec<_>>(), "FORMAT.md says otherwise");
    record
}

/// A hash over the names and bytes of the log's files.
fn log_files<'a>(files: impl Iterator<Item = (&'a Path, &'a [u8])>) -> u128 {
    let mut hasher = XxHash3_128::new();
    for (path, bytes) in files {
        let name = path.file_name().unwrap_or_default();
        hasher.write(format!("{name:?} {} ", bytes.len()).as_bytes());
        hasher.write(bytes);
    }
    hasher.finish_128()
}

/// The log's files of a store that one thread made and closed, with nothing but the commits; and the bus is gone.
fn files(sim: &SimVfs, way: &Way, acts: &[Act]) -> (u128, Record) {
    let mut driver = way.take(Place::Simulated(sim), acts);
    let record = Record::of(&driver);
    driver.close().unwrap();
    let disk = sim.disk();
    let files = disk.files_in(Path::new("/bus/log"), false);
    (log_files(files.iter().map(|(path, bytes)| (&**path, *bytes))), record)
}

fn files_of_directory(dir: &Path, way: &Way, acts: &[Act]) -> (u128, Record) {
    let mut driver = way.take(Place::Directory(dir), acts);
    let record = Record::of(&driver);
    driver.close().unwrap();
    let entries = std::fs::read_dir(dir.join("log")).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let all: Vec<_> = paths.iter().map(|path| (&**path, std::fs::read(path).unwrap())).collect();
    (log_files(all.iter().map(|(path, bytes)| (*path, &bytes[..]))), record)
}

fn line(index: u64, record: &Record, files: u128) -> String {
    format!("{index} {:032x} {files:032x}\n", record.hash())
}

/// Takes a history in all ways. Gives the line that another process must print too.
fn case(seed: u64, index: u64) -> (String, Tally) {
    let acts = history(seed, index);
    let want = record(&acts, index);
    let mut check = Check { want: &want, tally: Tally::default() };

    let others = Way::others(index);
    let in_memory = Way { threads: others[1].threads, between: Between::Chance, ..others[0] };
    let driver = in_memory.take(Place::Memory, &acts);
    check.record(&Record::of(&driver), &in_memory);
    check.past(&driver.bus, "in memory");
    check.forks(&driver.bus);
    drop(driver);

    for way in others {
        let sim = SimVfs::new();
        let mut driver = way.take(Place::Simulated(&sim), &acts);
        check.record(&Record::of(&driver), &way);
        check.epochs(&driver.bus, 0..=check.head(), "in a directory");
        driver.check_kept();
        driver.close().unwrap();
        check_snapshot(&restart(sim.disk(), &way, Mode::Read).snapshot().unwrap(), driver.head())
            .unwrap();
        drop(driver);
        check.restarts(&sim.disk(), &way);
    }

    // Byte-equal log files: appended through a mapping and by writes, here and in another process.
    let plain = Way::plain(index);
    let (mapped, record) = files(&SimVfs::new(), &plain, &acts);
    check.record(&record, &plain);
    let unmapped = SimVfs::new();
    unmapped.refuse_maps();
    let (written, record) = files(&unmapped, &plain, &acts);
    check.record(&record, &plain);
    assert_eq!(mapped, written, "log files of {plain:?}");
    check.tally.epochs = check.head();
    (line(index, &want, mapped), check.tally)
}

/// Another process: `determinism-child SEED FIRST END` prints the lines of these histories.
///
/// # Panics
/// Anything differs already here.
#[allow(clippy::print_stdout)]
pub fn child(given: impl Iterator<Item = String>) {
    let given: Vec<u64> = given.map(|text| text.parse().unwrap()).collect();
    let [seed, first, end] = given[..] else { panic!("SEED FIRST END") };
    for index in first..end {
        let acts = history(seed, index);
        let mut want = record(&acts, index);
        let threads = Way { threads: 5, between: Between::Chance, ..Way::plain(index) };
        let other = Record::of(&threads.take(Place::Memory, &acts));
        assert_eq!(other, want);
        let plain = Way::plain(index);
        let files = if index.is_multiple_of(REAL) {
            let tmp = tempfile::tempdir().unwrap();
            let (files, record) = files_of_directory(&tmp.path().join("bus"), &plain, &acts);
            want = record;
            files
        } else {
            files(&SimVfs::new(), &plain, &acts).0
        };
        print!("{}", line(index, &want, files));
    }
}

fn other_process(seed: u64, first: u64, end: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .arg(CHILD)
        .args([seed, first, end].map(|number| number.to_string()))
        .env_clear()
        .envs([("TZ", "Asia/Kathmandu"), ("LC_ALL", "tr_TR.UTF-8"), ("MALLOC_PERTURB_", "165")])
        .current_dir(std::env::temp_dir())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Histories `first..end`, here and in another process. Gives the lines, what was compared and what went wrong.
fn batch(seed: u64, first: u64, end: u64) -> (String, Vec<Tally>, Vec<String>) {
    let mut other = other_process(seed, first, end);
    let (mut text, mut tallies, mut failures) = (String::new(), Vec::new(), Vec::new());
    for index in first..end {
        match attempt(|| case(seed, index)) {
            Ok((line, tally)) => {
                text.push_str(&line);
                tallies.push(tally);
            }
            Err(what) => failures.push(format!("seed {seed} history {index}: {what}")),
        }
    }
    let mut theirs = String::new();
    other.stdout.take().unwrap().read_to_string(&mut theirs).unwrap();
    let ended = other.wait().unwrap();
    if failures.is_empty() && (theirs != text || !ended.success()) {
        let differ = text.lines().zip(theirs.lines()).find(|(ours, theirs)| ours != theirs);
        failures.push(format!("seed {seed}: another process ({ended}) says otherwise: {differ:?}"));
    }
    (text, tallies, failures)
}

/// Takes random histories in all ways.
///
/// # Panics
/// Anything differs.
#[allow(clippy::print_stderr)]
pub fn run(args: &Args) -> Vec<Row<'static>> {
    let cases = args.cases.unwrap_or(10_000);
    let mut texts = vec![String::new(); cases.div_ceil(BATCH) as usize];
    let (mut tally, mut failures) = (Tally::default(), Vec::new());
    let work = |which: usize| {
        let first = which as u64 * BATCH;
        (which, batch(args.seed, first, cases.min(first + BATCH)))
    };
    side_by_side(args.threads, texts.len(), work, |(which, (text, tallies, wrong))| {
        texts[which] = text;
        for one in tallies {
            tally.epochs += one.epochs;
            tally.digests += one.digests;
            tally.ways += one.ways;
        }
        wrong.iter().for_each(|what| eprintln!("FAILED {what}"));
        failures.extend(wrong);
    });
    assert!(failures.is_empty(), "{} failures", failures.len());
    let root = XxHash3_128::oneshot(texts.concat().as_bytes());
    let Tally { epochs, digests, ways } = tally;
    vec![Row {
        id: "19-determinism",
        row: "Determinism",
        tried: "random histories: digests of all epochs, log entries, errors in memory and in a directory at all \
                durabilities, by 1, 2, 3 and 8 threads in turn, with checkpoints, restarts, held views, other memory and \
                segment sizes; after restart, replayed from the beginning and from each checkpoint, by time travel, in \
                forks, in another process, against a plain digest from FORMAT.md; log files byte for byte"
            .into(),
        count: format!(
            "{cases} histories, {epochs} epochs, {} runs of a history, {digests} digests compared",
            ways + 3 * cases
        ),
        seed: args.seed.to_string(),
        result: format!("0 differences; hash over all: {root:032x}"),
        command: format!("make determinism CASES={cases} SEED={}", args.seed),
    }]
}

/// What golden-digests.txt holds for the first `count` histories: the number, a hash of the acts, how many epochs they
/// made, the digest of the last one, a hash over the digests of all.
pub fn golden(count: u64) -> String {
    let line = |index| {
        let acts = history(GOLDEN_SEED, index);
        let asked = XxHash3_64::oneshot(format!("{acts:?}").as_bytes());
        let digests = record(&acts, index).digests;
        let all: Vec<u8> = digests.iter().flat_map(|digest| digest.to_le_bytes()).collect();
        let (epochs, last) = (digests.len() - 1, digests.last().unwrap());
        format!("{index} {asked:016x} {epochs} {last:032x} {:032x}\n", XxHash3_128::oneshot(&all))
    };
    (0..count).map(line).collect()
}
