//! Files and calls that somebody made up. Each function here takes any bytes and makes a store or calls of them; the
//! fuzzer, the committed corpus and a random run all call the same ones.
//!
//! The law: no panic, no abort, no endless loop; memory at most twice the files plus a constant; an error has a code
//! and names its file; what opens is whole: it has a digest, opens again with the same one, for its host too, and can be
//! written to.

mod made;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use mmsb_core::vfs::Vfs;
use mmsb_core::{
    Batch, Bus, Code, Durability, Error, How, Mode, NewPage, Options, Snapshot, Wish, diff_ranges,
    log, recover_on,
};

use crate::args::Args;
use crate::damage;
use crate::format;
use crate::model::{Act, Driver, State, compare, of_storage};
use crate::peak;
use crate::report::Row;
use crate::rng::{Rng, mix};
use crate::sim::{Disk, Fault, Plan, SimVfs};
use crate::work::attempt;

pub use made::{checkpoint_load, record_decode};

/// A body of a fuzz target.
pub type Target = fn(&[u8]);

/// All of them, by the names of their folders in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 5] = [
    ("record_decode", record_decode),
    ("checkpoint_load", checkpoint_load),
    ("open_mutated", open_mutated),
    ("operations", operations),
    ("delta_decode", delta_decode),
];

const DIR: &str = "/s";
const MEMORY: u64 = 2 << 20;
/// Windows over files, pin slots, the tables of the allocator, and a page's description in words.
const CONSTANT: u64 = 4 << 20;

/// Input, taken from the front; past its end come zeros.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().rev().fold(0, |all, &b| all << 8 | u64::from(b))
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// A short run of bytes with its length in front.
    fn run(&mut self) -> &'a [u8] {
        let n = self.byte();
        self.take(usize::from(n))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn options() -> Options {
    Options { max_memory: Some(MEMORY), seed: Some(3), ..Options::default() }
}

fn open(sim: &SimVfs, mode: Mode) -> Result<Bus, Error> {
    Bus::open_on(Arc::new(sim.clone()), Path::new(DIR), mode, &options(), &mut |_, _| {})
}

fn how() -> How<'static> {
    How { wait: true, ..How::default() }
}

/// An answer to bytes that nobody wrote.
fn typed(error: &Error) {
    let codes = [Code::Corruption, Code::FormatVersion, Code::OutOfSpace, Code::BusNotFound];
    assert!(codes.contains(&error.code), "{:?}: {error}", error.code);
    assert!(error.code == Code::OutOfSpace || error.detail.file.is_some(), "no file: {error}");
}

/// Everything that can be looked at, page by page and then as a whole.
fn try_look(snapshot: &Snapshot) -> Result<u128, Error> {
    let names = snapshot.names();
    assert_eq!(names.len() as u64, snapshot.page_count());
    for (id, name) in names {
        let info = snapshot.info(id)?.unwrap();
        assert_eq!(snapshot.view(id)?.bytes().len() as u64, info.nbytes);
        assert!(info.epoch <= snapshot.epoch() && id < snapshot.next_id());
        assert_eq!((info.id, &info.name), (id, &name));
        if let Some(name) = &name {
            assert_eq!(snapshot.find(name), Some(id));
        }
    }
    assert!(snapshot.tags().iter().all(|(_, epoch)| *epoch <= snapshot.epoch()));
    // A forged checkpoint that denies its own digest is taken page by page, and never as a whole.
    snapshot.infos()?;
    snapshot.digest()
}

fn look(snapshot: &Snapshot) -> u128 {
    try_look(snapshot).unwrap()
}

/// Opens a store that may be anything, and holds it to the law. Says which epoch it shows.
fn examine(disk: &Disk) -> Option<u64> {
    let size: u64 = disk.files().map(|(_, bytes)| bytes.len() as u64).sum();
    let sim = SimVfs::of(disk.clone());
    let bounded = |(done, held): (Result<Bus, Error>, u64)| {
        assert!(held <= 2 * size + CONSTANT, "{held} bytes for files of {size}");
        done
    };
    let reader = bounded(peak::during(|| open(&sim, Mode::Read)));
    let host = SimVfs::of(disk.clone());
    let hosted = bounded(peak::during(|| open(&host, Mode::ReadWrite)));
    let mut problems = Vec::new();
    let verified = peak::during(|| {
        let mut on = |error: Error| problems.push(error);
        log::verify(&sim, Path::new(DIR), None, &mut on, &mut |_, _| {})
    });
    assert!(verified.1 <= 2 * size + CONSTANT, "{} bytes to verify {size}", verified.1);
    verified.0.iter().for_each(|_| problems.iter().for_each(typed));
    // A reader meets damage when it comes to it, and none in what it does not need.
    let reader = reader.and_then(|bus| try_look(&bus.snapshot()?).map(|_| bus));
    let (bus, hosted) = match (reader, hosted) {
        (Ok(bus), Ok(hosted)) => (bus, hosted),
        (Err(a), Err(b)) => {
            // Of several things that are wrong they may meet another one first.
            [&a, &b].into_iter().for_each(typed);
            let is_none = |error: &Error| error.code == Code::BusNotFound;
            assert_eq!(is_none(&a), is_none(&b), "{a}, {b}");
            return None;
        }
        // What a reader does not need may be damaged, or made up.
        (Ok(bus), Err(error)) => {
            typed(&error);
            bus.verify(&mut |_, _| {}).unwrap().problems.iter().for_each(typed);
            return None;
        }
        (Err(a), Ok(_)) => panic!("a reader refuses what its host opens: {a}"),
    };
    bus.verify(&mut |_, _| {}).unwrap().problems.iter().for_each(typed);
    let epoch = bus.epoch();
    let digest = look(&bus.snapshot().unwrap());
    for past in [0, epoch / 2, epoch.saturating_sub(1)] {
        match bus.snapshot_at(past) {
            Ok(snapshot) => {
                let _ = try_look(&snapshot).inspect_err(typed);
            }
            Err(error) if error.code == Code::EpochNotFound => {}
            Err(error) => typed(&error),
        }
    }
    for backward in [false, true] {
        for entry in bus.log(0, u64::MAX, backward).unwrap().take(100) {
            let Ok(entry) = entry.inspect_err(typed) else { break };
            entry.ops().for_each(|op| _ = op.map_err(|error| error.code));
        }
    }
    assert_eq!((hosted.epoch(), look(&hosted.snapshot().unwrap())), (epoch, digest));
    live_on(&host, &hosted, digest);
    Some(epoch)
}

/// What is good of a store that may be anything makes a sound store. Without forged checksums it has no state but those
/// that there were.
fn save(disk: &Disk, history: Option<&[Arc<State>]>) {
    let sim = SimVfs::of(disk.clone());
    let (vfs, new): (Arc<dyn Vfs>, _) = (Arc::new(sim.clone()), Path::new("/new"));
    let wish = Wish { upto: None, newest: true };
    let done = recover_on(vfs.clone(), Path::new(DIR), new, wish, &options(), &mut |_, _| {});
    let after = sim.disk();
    let after = after.files().filter(|(path, _)| path.starts_with(DIR));
    assert!(disk.files().eq(after), "the damaged store was changed");
    let told = match done {
        Ok(told) => told,
        Err(error) => return typed(&error),
    };
    told.problems.iter().for_each(typed);
    let bus = Bus::open_on(vfs, new, Mode::Read, &options(), &mut |_, _| {}).unwrap();
    assert_eq!((bus.epoch(), bus.recovery().unwrap().torn_bytes), (told.epoch, 0));
    assert!(bus.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    let Some(history) = history else { return };
    for epoch in 0..=told.epoch {
        let last = told.appended.filter(|_| epoch == told.epoch);
        let want = &history[last.unwrap_or(epoch) as usize];
        let shown = bus.snapshot_at(epoch).unwrap();
        // The appended one is an epoch of its own: only the bytes, names and shapes are those that were.
        match last {
            None => compare(&shown, want).unwrap(),
            Some(_) => want.pages.iter().for_each(|(&id, page)| {
                assert_eq!(shown.view(id).unwrap().bytes(), page.bytes);
            }),
        }
    }
}

/// A store that opened can be written to, and what was written is there again.
fn live_on(sim: &SimVfs, bus: &Bus, digest: u128) {
    let before = bus.snapshot().unwrap();
    let mut batch = Batch::new();
    batch.create(before.next_id(), &NewPage::bytes(&[5]));
    batch.write(before.next_id(), 1, b"abc");
    match bus.commit(&mut batch, None, &how()) {
        Ok(_) => {
            assert!(look(&bus.snapshot().unwrap()) != digest);
            match bus.restore(&before, &how()) {
                Ok(_) => assert_eq!(look(&bus.snapshot().unwrap()), digest),
                Err(error) => assert_eq!(error.code, Code::OutOfSpace, "{error}"),
            }
        }
        // There is no room, or no id is left.
        Err(e) => assert!(matches!(e.code, Code::OutOfSpace | Code::PageExists), "{e}"),
    }
    let (epoch, digest) = (bus.epoch(), look(&bus.snapshot().unwrap()));
    bus.close().unwrap();
    match open(&SimVfs::of(sim.disk()), Mode::Read) {
        Ok(again) => {
            assert_eq!((again.epoch(), look(&again.snapshot().unwrap())), (epoch, digest));
        }
        Err(error) => assert_eq!(error.code, Code::OutOfSpace, "{error}"),
    }
}

fn sample() -> &'static (Disk, Vec<Arc<State>>) {
    static SAMPLE: OnceLock<(Disk, Vec<Arc<State>>)> = OnceLock::new();
    SAMPLE.get_or_init(|| damage::sample(1))
}

/// A sound store, changed where and how the input says; checksums are made right again where it says so.
pub fn open_mutated(data: &[u8]) {
    let (sound, history) = sample();
    let files: Vec<PathBuf> = sound.files().map(|(path, _)| path.to_path_buf()).collect();
    let (mut input, mut disk, mut forged) = (Input(data), sound.clone(), false);
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        let path = &files[usize::from(input.byte()) % files.len()];
        let mut bytes = disk.read(path).unwrap_or_default().to_vec();
        let at = input.word(2) as usize % (bytes.len() + 1);
        match what % 8 {
            0 => put(&mut bytes, at, input.run()),
            // A field of a header.
            1 => {
                let word = input.word(8).to_le_bytes();
                put(&mut bytes, at % 512 / 8 * 8, &word);
            }
            2 => bytes.truncate(at),
            3 => bytes.extend_from_slice(input.run()),
            4 => {
                let other = &files[usize::from(input.byte()) % files.len()];
                let other = disk.read(other).unwrap_or_default();
                let from = at.min(other.len());
                let block = other[from..(from + 512).min(other.len())].to_vec();
                put(&mut bytes, at / 512 * 512, &block);
            }
            5 => {
                disk.lose(path);
                continue;
            }
            6 => {
                let other = &files[usize::from(input.byte()) % files.len()];
                let moved = disk.read(other).unwrap_or_default().to_vec();
                disk.plant(other, &bytes);
                bytes = moved;
            }
            _ => {
                format::repair(path, &mut bytes);
                forged = true;
            }
        }
        disk.plant(path, &bytes);
    }
    save(&disk, (!forged).then_some(history));
    let shown = examine(&disk);
    // Without forged checksums no state is shown that there was not.
    if let (Some(epoch), false) = (shown, forged) {
        let bus = open(&SimVfs::of(disk), Mode::Read).unwrap();
        compare(&bus.snapshot().unwrap(), &history[epoch as usize]).unwrap();
    }
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    let n = new.len().min(bytes.len().saturating_sub(at));
    if n > 0 {
        bytes[at..at + n].copy_from_slice(&new[..n]);
    }
}

/// Steps, and calls of the file system that fail or a process that ends; against the model.
pub fn operations(data: &[u8]) {
    let mut input = Input(data);
    let durability = input.byte() as usize;
    let segment_bytes = Some(4096 + 512 + (u64::from(input.byte()) << 6));
    let fault = [Fault::Crash, Fault::Short, Fault::Errno(5), Fault::Errno(28), Fault::Errno(4)];
    let fault = fault[input.byte() as usize % 5];
    // A process that is gone would not notice a store into a mapping that did not happen.
    let first = if fault == Fault::Crash { 2 } else { durability % 3 };
    let durability = [Durability::Memory, Durability::Os, Durability::Disk][first];
    let options = Options {
        durability: Some(durability),
        max_memory: Some(16 << 20),
        seed: Some(7),
        segment_bytes,
        compress: durability == Durability::Os,
        ..Options::default()
    };
    let plan = Plan {
        at: 1 + input.word(2) % 400,
        fault,
        persistent: fault == Fault::Crash || fault != Fault::Errno(4) && input.byte() & 1 == 1,
        reads: false,
        reverts: false,
    };
    let choices = input.word(4);
    let (sim, dir) = (SimVfs::new(), Path::new(DIR));
    let mut driver = Driver::create(&sim, dir, &options).unwrap();
    if choices % 4 != 0 {
        sim.set_plan(plan);
    }
    let mut failed = false;
    for _ in 0..60 {
        if input.is_empty() || failed {
            break;
        }
        if let Err(error) = driver.try_step(&act(&mut input)) {
            assert!(of_storage(&error), "{error}");
            failed = true;
        }
    }
    sim.lift();
    if !sim.hit() {
        return driver.finish();
    }
    let (history, ledger) = (driver.history.clone(), driver.ledger().clone());
    let disk = sim.disk();
    drop(driver);
    let mut rng = Rng(choices);
    for disk in [disk.after_kill(), disk.after_crash(&mut |_| rng.coin())] {
        let sim = SimVfs::of(disk);
        let again = Driver::recover(&sim, dir, &options, &history, &ledger, ledger.durable);
        let mut again = again.unwrap();
        again.step(&Act::Create { name: None, len: 77, fill: 7 });
        again.step(&Act::Reopen);
    }
}

/// A step that the input says. Lengths are short: what is long is tried elsewhere.
fn act(input: &mut Input<'_>) -> Act {
    let kind = input.byte();
    let len = |input: &mut Input<'_>| {
        let n = input.word(2) as u32;
        if n & 7 == 0 { n } else { n >> 6 }
    };
    let (a, b) = (input.byte(), input.byte());
    let name = (a < 6).then_some(a);
    match kind % 26 {
        0..4 => Act::Create { name, len: len(input), fill: b },
        4 => Act::Delete { page: a },
        5 => Act::Rename { page: b, name },
        6 => Act::SetMeta { page: a, meta: b % 3 },
        7 => Act::Resize { page: a, len: len(input) },
        8..12 => Act::Write { page: a, at: len(input), len: len(input), byte: b },
        12 => {
            let writes = (0..a % 5).map(|i| (b, u32::from(a) << i, b ^ i, a)).collect();
            let durability = [None, Some(Durability::Memory), Some(Durability::Os)][b as usize % 3];
            Act::Many { writes, meta: (b & 1 == 1).then_some(b), durability }
        }
        13 => {
            let (at, other_at) = (len(input), len(input));
            Act::Transaction { page: a, at, byte: b, other_at, other_byte: a ^ b }
        }
        14 => Act::Tag { name: a % 4, back: b, move_: a & 4 == 4 },
        15 => Act::Untag { name: a % 4 },
        16 => Act::Restore { back: a },
        17 => Act::Travel { back: a },
        18 => Act::Checkpoint,
        19 => Act::Sync,
        20 => Act::Backup,
        21 => Act::Recover,
        22 => Act::ForkTo { back: a, byte: b },
        23 => {
            let some = |bit: u8, value: u8| (b & bit == 0).then_some(value);
            Act::Prune { since: some(1, a), checkpoints: some(2, b % 4), every: some(4, a % 12) }
        }
        24 => Act::Retain { rule: a },
        _ => Act::Reopen,
    }
}

/// Operations of any form: as the payload of a sound record, and through the calls that build them.
pub fn delta_decode(data: &[u8]) {
    made::payload(data);
    let bus = Bus::memory(&options()).unwrap();
    let mut input = Input(data);
    let mut base = bus.snapshot().unwrap();
    while !input.is_empty() {
        let mut batch = Batch::new();
        for _ in 0..1 + input.byte() % 4 {
            call(&mut batch, &mut input);
        }
        let before = bus.snapshot().unwrap();
        let optimistic = input.byte() & 1 == 1;
        let done = bus.commit(&mut batch, optimistic.then_some(&base), &how());
        let after = bus.snapshot().unwrap();
        look(&after);
        if done.is_err() {
            assert_eq!(
                (after.epoch(), after.digest().unwrap()),
                (before.epoch(), before.digest().unwrap())
            );
        } else if input.byte() & 1 == 1 {
            base = after;
        }
        let (a, b) = (input.run(), input.run());
        let n = a.len().min(b.len());
        let itemsize = 1 + n % 7;
        let n = n / itemsize * itemsize;
        let mut ranges = Vec::new();
        diff_ranges(&a[..n], &b[..n], itemsize, &mut ranges);
        let mut merged = a[..n].to_vec();
        for &(from, to) in &ranges {
            assert!(from < to && to <= n as u64);
            merged[from as usize..to as usize].copy_from_slice(&b[from as usize..to as usize]);
        }
        assert_eq!(merged, &b[..n]);
    }
}

/// A number that is small, or near a boundary, or anything.
fn number(input: &mut Input<'_>) -> u64 {
    match input.byte() {
        0xFF => u64::MAX,
        0xFE => input.word(8),
        0xFD => 1 << (input.byte() % 64),
        0xFC => 16 << 10,
        small => u64::from(small % 16),
    }
}

fn call(batch: &mut Batch, input: &mut Input<'_>) {
    let kind = input.byte();
    let id = number(input);
    let words = String::from_utf8_lossy(input.run()).into_owned();
    match kind % 11 {
        0 | 1 => {
            let itemsize = number(input) as u32;
            let shape: Vec<u64> = (0..input.byte() % 4).map(|_| number(input)).collect();
            let fits = shape.iter().fold(u64::from(itemsize), |all, &n| all.wrapping_mul(n));
            let nbytes = if kind.is_multiple_of(11) { fits } else { number(input) };
            let name = Some(words.as_str()).filter(|name| !name.is_empty());
            let (dtype, meta) = ("", words.as_str());
            let (shape, location) = (&shape[..], input.byte());
            batch.create(id, &NewPage { name, dtype, itemsize, shape, nbytes, meta, location });
        }
        2 => batch.delete(id),
        3 => batch.rename(id, Some(&words)),
        4 => batch.set_meta(id, &words),
        5 => batch.resize(id, &[number(input)], number(input)),
        6 | 7 => batch.write(id, number(input), words.as_bytes()),
        8 => batch.tag(&words, (kind & 16 == 0).then_some(id), kind & 32 == 0),
        9 => batch.untag(&words),
        _ => {
            batch.check_read(id);
            batch.check_name(&words);
            batch.check_ids();
        }
    }
}

/// Random input to all targets, for where there is no fuzzer: no coverage leads it.
pub fn run(args: &Args) -> Vec<Row<'static>> {
    let count = args.cases.unwrap_or(100_000);
    let tally = damage::share(count, args.threads, |range, tally| {
        for case in range {
            let mut rng = Rng(mix(args.seed, case));
            let (name, target) = TARGETS[rng.below(TARGETS.len() as u64) as usize];
            let len = rng.below(400);
            let data: Vec<u8> = (0..len)
                .map(|_| if rng.coin() { rng.next_u64() as u8 } else { rng.below(24) as u8 })
                .collect();
            if let Err(what) = attempt(|| target(&data)) {
                panic!("{name}, case {case}: {what}\n{data:?}");
            }
            tally.count(name, "held to the law");
        }
    });
    damage::show("hostile input at random", &tally);
    vec![Row {
        id: "16-hostile-random",
        row: "16 Hostile files: random input, no fuzzer",
        tried: "made-up records and checkpoints with right checksums, a mutated store, operations under faults, deltas"
            .to_string(),
        count: format!("{} inputs", tally.all()),
        seed: args.seed.to_string(),
        result: "0 panics, 0 wrong states, memory within twice the files plus 4 MiB".to_string(),
        command: args.command.clone(),
    }]
}
