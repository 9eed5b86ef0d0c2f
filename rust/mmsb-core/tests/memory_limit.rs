//! A child process that may not have more memory or descriptors: it is refused with a typed error and goes on, and
//! what it committed is there afterwards.
//!
//! The child is this test binary again, with a test that does nothing unless it is told what to do.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::type_complexity)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mmsb_core::{Batch, Bus, Code, Durability, Error, How, Mode, NewPage, Options, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PART: &str = "MEMORY_LIMIT_PART";
const DIR: &str = "MEMORY_LIMIT_DIR";
const HOW: How<'static> =
    How { source: None, meta: None, durability: None, time: None, wait: true };

fn limit(resource: Resource, to: u64) {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: Some(to), maximum }).unwrap();
}

/// Waits until the engine's threads have begun and wait for work themselves.
fn rest() {
    let this = std::fs::read_link("/proc/thread-self").unwrap();
    let is_busy = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let (name, state) = stat.rsplit_once(") ").map_or(("", "S"), |(a, b)| (a, &b[..1]));
        let is_other = Some(&*task.file_name()) != this.file_name();
        is_other && (state != "S" || name.ends_with("mmsb-log-sync"))
    };
    while std::fs::read_dir("/proc/self/task").unwrap().any(|task| is_busy(task.unwrap())) {
        std::thread::yield_now();
    }
}

/// Lets this process have so much more address space. The standard library ends a process that lacks the memory for the
/// first steps of a thread, so none is about to take them.
fn leave(bytes: u64) {
    rest();
    limit(Resource::As, common::address_space() + bytes);
}

fn os() -> Options {
    Options { durability: Some(Durability::Os), ..Options::default() }
}

fn open(dir: &Path, mode: Mode, options: &Options) -> Result<Bus> {
    Bus::open(dir, mode, options, &mut |_, _| {})
}

fn create_page(bus: &Bus, id: u64, nbytes: u64) -> Result<()> {
    let mut batch = Batch::new();
    batch.create(id, &NewPage::bytes(&[nbytes]));
    batch.write(id, 0, &vec![id as u8 | 1; nbytes as usize]);
    bus.commit(&mut batch, None, &HOW).map(drop)
}

fn digest(bus: &Bus) -> u128 {
    bus.snapshot().unwrap().digest().unwrap()
}

/// Adds pages of all sizes until it is refused; tells what each commit left.
fn grow(bus: &Bus) -> Error {
    for id in 1.. {
        let before = (bus.epoch(), digest(bus));
        let nbytes = [100, 3000, 16 << 10, 100_000, 1 << 20][id as usize % 5];
        if let Err(error) = create_page(bus, id, nbytes) {
            assert_eq!((bus.epoch(), digest(bus)), before);
            return error;
        }
        println!("left {} {:032x}", bus.epoch(), digest(bus));
    }
    unreachable!()
}

/// A bus that is full goes on: reads, small writes where they fit, deleting, and growing again.
fn live_on(bus: &Bus) {
    let before = digest(bus);
    match bus.write(1, 3, b"small", &HOW) {
        Ok(_) => {}
        Err(error) => {
            assert_eq!(error.code, Code::OutOfSpace, "{error}");
            assert_eq!(digest(bus), before);
        }
    }
    let mut batch = Batch::new();
    let pages = bus.snapshot().unwrap().page_count();
    (1..=pages / 2).for_each(|id| batch.delete(id));
    bus.commit(&mut batch, None, &HOW).unwrap();
    create_page(bus, 1_000_000, 1 << 20).unwrap();
    println!("left {} {:032x}", bus.epoch(), digest(bus));
}

fn child_store(dir: &Path) {
    leave(256 << 20);
    let bus = Bus::create(dir, &os()).unwrap();
    assert_eq!(grow(&bus).code, Code::OutOfSpace);
    live_on(&bus);
    bus.close().unwrap();
}

fn child_memory(_: &Path) {
    leave(256 << 20);
    let bus = Bus::memory(&Options::default()).unwrap();
    assert_eq!(grow(&bus).code, Code::OutOfSpace);
    let before = digest(&bus);
    // The log counts too and is kept, so nothing but reading is left.
    let refused = (0..).find_map(|i: u64| bus.write(1, 0, &i.to_le_bytes(), &HOW).err()).unwrap();
    assert_eq!(refused.code, Code::OutOfSpace, "{refused}");
    let after = digest(&bus);
    assert_eq!(bus.write(1, 0, b"refused.", &HOW).unwrap_err().code, Code::OutOfSpace);
    assert_eq!(digest(&bus), after);
    // Past epochs need as much memory again: they open, or say why not.
    match bus.snapshot_at(bus.epoch() / 2) {
        Ok(past) => assert_ne!(past.digest().unwrap(), before),
        Err(error) => assert_eq!(error.code, Code::OutOfSpace, "{error}"),
    }
    assert_eq!(digest(&bus), after);
}

/// The limit comes when the bus is there already, and it is the log that grows.
fn child_log(_: &Path) {
    let options = Options { max_memory: Some(1 << 30), ..Options::default() };
    let bus = Bus::memory(&options).unwrap();
    create_page(&bus, 1, 100_000).unwrap();
    leave(48 << 20);
    let mut data = vec![0; 90_000];
    let refused = (0..).find_map(|i: u64| {
        data.fill(i as u8);
        data[..8].copy_from_slice(&i.to_le_bytes());
        let before = (bus.epoch(), bus.view(1).unwrap());
        let error = bus.write(1, 9, &data, &HOW).err()?;
        assert_eq!(bus.epoch(), before.0);
        assert_eq!(bus.view(1).unwrap().bytes(), before.1.bytes());
        Some(error)
    });
    let refused = refused.unwrap();
    assert_eq!(refused.code, Code::OutOfSpace, "{refused}");
    // When there is memory again the same bus goes on.
    let before = bus.epoch();
    leave(48 << 20);
    assert_eq!(bus.write(1, 9, b"again", &HOW).unwrap().epoch, before + 1);
    assert_eq!(bus.snapshot_at(before / 2).unwrap_err().code, Code::OutOfSpace);
    let maximum = getrlimit(Resource::As).maximum;
    setrlimit(Resource::As, Rlimit { current: maximum, maximum }).unwrap();
    assert_eq!(bus.snapshot_at(before / 2).unwrap().epoch(), before / 2);
    assert_eq!(
        bus.log(0, u64::MAX, false).unwrap().filter(|c| c.is_ok()).count() as u64,
        before + 1
    );
}

/// Less address space than the state takes.
fn child_open(dir: &Path) {
    leave(48 << 20);
    // A reader opens, and is refused when it is asked for all.
    let all = |bus: Bus| bus.snapshot()?.digest();
    for mode in [Mode::Read, Mode::ReadWrite] {
        let refused = open(dir, mode, &Options::default()).and_then(all).unwrap_err();
        assert_eq!(refused.code, Code::OutOfSpace, "{refused}");
        let options = Options { max_memory: Some(1 << 30), ..Options::default() };
        let refused = open(dir, mode, &options).and_then(all).unwrap_err();
        assert_eq!(refused.code, Code::OutOfSpace, "{refused}");
    }
    let refused = Bus::memory(&Options { max_memory: Some(1 << 40), ..Options::default() });
    assert_eq!(refused.unwrap_err().code, Code::OutOfSpace);
}

/// Less memory in one piece than a checkpoint gathers its writes in, and enough for all that is small.
fn child_checkpoint(dir: &Path) {
    const PIECE: usize = 256 << 10;
    let options = Options { max_memory: Some(8 << 20), ..os() };
    let bus = Bus::create(dir, &options).unwrap();
    (1..=40).for_each(|id| create_page(&bus, id, 50_000).unwrap());
    let now = digest(&bus);
    let mut taken: Vec<Vec<u8>> = Vec::with_capacity(1 << 10);
    leave(0);
    loop {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(PIECE).is_err() {
            break;
        }
        taken.push(piece);
    }
    taken.truncate(taken.len().saturating_sub(2));
    let refused = bus.checkpoint().unwrap_err();
    assert_eq!(refused.code, Code::OutOfSpace, "{refused}");
    // Reading needs no more than it has to keep.
    match bus.verify(&mut |_, _| {}) {
        Ok(report) => assert_eq!(report.problems.len(), 0),
        Err(error) => assert_eq!(error.code, Code::OutOfSpace, "{error}"),
    }
    assert_eq!((bus.epoch(), digest(&bus)), (40, now));
    drop(taken);
    leave(64 << 20);
    assert_eq!(bus.checkpoint().unwrap(), 40);
    create_page(&bus, 41, 1000).unwrap();
    println!("left {} {:032x}", bus.epoch(), digest(&bus));
    bus.close().unwrap();
}

/// No room for the stack of another thread: the log goes on without its helpers.
fn child_threads(dir: &Path) {
    let options = Options { segment_bytes: Some(64 << 10), max_memory: Some(8 << 20), ..os() };
    let bus = Bus::create(dir, &options).unwrap();
    create_page(&bus, 1, 1000).unwrap();
    for i in 0..100_u64 {
        bus.write(1, 0, &i.to_le_bytes(), &HOW).unwrap();
    }
    leave(1 << 20);
    assert!(std::thread::Builder::new().spawn(|| ()).is_err());
    for i in 0..4000_u64 {
        bus.write(1, 8, &i.to_le_bytes(), &HOW).unwrap();
    }
    println!("left {} {:032x}", bus.epoch(), digest(&bus));
    bus.close().unwrap();
}

/// Any call that needs a descriptor, with ever more of them to spare.
fn child_descriptors(dir: &Path) {
    let used = || std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
    let all = || {
        rest();
        common::held()
    };
    let many = getrlimit(Resource::Nofile).current.unwrap();
    let mut refused = 0;
    let mut each = |what: &str, work: &mut dyn FnMut() -> Result<()>| {
        for spare in 0.. {
            let base = all();
            limit(Resource::Nofile, used() + spare);
            let done = work();
            limit(Resource::Nofile, many);
            match done {
                Ok(()) => break,
                Err(error) => {
                    assert_eq!(error.code, Code::Storage, "{what}: {error}");
                    assert_eq!(error.detail.errno, Some(rustix::io::Errno::MFILE.raw_os_error()));
                    common::settle(&base);
                    refused += 1;
                }
            }
            assert!(spare < 50, "{what}");
        }
    };
    each("memory", &mut || Bus::memory(&Options::default()).map(drop));
    let mut number = 0;
    each("create", &mut || {
        let bus = Bus::create(&dir.join(format!("{number}")), &os())?;
        number += 1;
        bus.close()
    });
    // What could not be created once is created the next time, in the same place.
    let dir = dir.join("again");
    let options = Options { segment_bytes: Some(64 << 10), ..os() };
    let mut made = None;
    each("create again", &mut || Bus::create(&dir, &options).map(|bus| made = Some(bus)));
    let bus = made.unwrap();
    create_page(&bus, 1, 50_000).unwrap();
    create_page(&bus, 2, 100).unwrap();
    bus.sync().unwrap();
    each("checkpoint", &mut || bus.checkpoint().map(drop));
    // What a bus keeps for the next past epoch.
    drop(bus.snapshot_at(1).unwrap());
    each("a past epoch", &mut || bus.snapshot_at(1).map(drop));
    each("all of a past epoch", &mut || bus.snapshot_at(1)?.digest().map(drop));
    each("the log", &mut || bus.log(0, u64::MAX, false)?.try_for_each(|commit| commit.map(drop)));
    each("verify", &mut || {
        bus.verify(&mut |_, _| {}).map(|report| assert_eq!(report.problems.len(), 0))
    });
    each("fork", &mut || bus.fork(&bus.snapshot()?).map(drop));
    let now = (bus.epoch(), digest(&bus));
    bus.close().unwrap();
    drop(bus);
    let check = |bus: Bus| -> Result<()> {
        assert_eq!((bus.epoch(), bus.snapshot()?.digest()?), now);
        Ok(())
    };
    each("open for reading", &mut || open(&dir, Mode::Read, &options).and_then(check));
    each("open", &mut || open(&dir, Mode::ReadWrite, &options).and_then(check));
    roll_without_a_descriptor(&dir, &options, many);
    println!("refused {refused}");
}

/// A log that goes on in another segment needs one descriptor. Without it a commit is refused and the next one may come;
/// with it and no other the commits go on, and so do the syncs behind them.
fn roll_without_a_descriptor(dir: &Path, options: &Options, many: u64) {
    let bus = open(dir, Mode::ReadWrite, options).unwrap();
    let bytes = |i: u64| vec![0x80 | i as u8; 40_000];
    let highest = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 + 4;
    let [mut done, mut refused] = [0, 0];
    // One of these leaves just the one.
    for i in 0..3 * highest {
        limit(Resource::Nofile, i / 3);
        let before = (bus.epoch(), digest(&bus));
        let tried = bus.write(1, 0, &bytes(i), &HOW);
        limit(Resource::Nofile, many);
        match tried {
            Ok(_) => {
                assert_eq!(bus.view(1).unwrap().bytes()[0], bytes(i)[0]);
                done += 1;
            }
            Err(error) => {
                assert_eq!(error.code, Code::Storage, "{error}");
                assert_eq!(error.detail.errno, Some(rustix::io::Errno::MFILE.raw_os_error()));
                assert_eq!((bus.epoch(), digest(&bus)), before);
                refused += 1;
            }
        }
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
    bus.sync().unwrap();
    let now = (bus.epoch(), digest(&bus));
    bus.close().unwrap();
    let bus = open(dir, Mode::ReadWrite, options).unwrap();
    assert_eq!((bus.epoch(), digest(&bus)), now);
    assert_eq!(bus.verify(&mut |_, _| {}).unwrap().problems.len(), 0);
}

const PARTS: [(&str, fn(&Path)); 7] = [
    ("store", child_store),
    ("memory", child_memory),
    ("log", child_log),
    ("open", child_open),
    ("checkpoint", child_checkpoint),
    ("threads", child_threads),
    ("descriptors", child_descriptors),
];

#[test]
fn child() {
    let Ok(part) = std::env::var(PART) else {
        println!("runs only as a child of the other tests");
        return;
    };
    let dir = PathBuf::from(std::env::var(DIR).unwrap());
    PARTS.iter().find(|(name, _)| *name == part).unwrap().1(&dir);
}

fn run(part: &str, dir: &Path) -> Output {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(PART, part)
        .env(DIR, dir)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{part}: {}: {errors}", output.status);
    output
}

/// What a child said that its commits left: the epoch and its digest.
fn left(output: &Output) -> Vec<(u64, String)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.split_once("left ")?.1.split_once(' '));
    lines.map(|(epoch, digest)| (epoch.parse().unwrap(), digest.to_owned())).collect()
}

/// Every epoch that a child told of has the bytes that it had there.
fn check_store(dir: &Path, left: &[(u64, String)]) {
    let bus = open(dir, Mode::ReadWrite, &Options::default()).unwrap();
    assert_eq!(bus.epoch(), left.last().unwrap().0);
    for (epoch, digest) in left {
        let at = bus.snapshot_at(*epoch).unwrap();
        assert_eq!(format!("{:032x}", at.digest().unwrap()), *digest, "epoch {epoch}");
    }
    assert_eq!(bus.verify(&mut |_, _| {}).unwrap().problems.len(), 0);
}

#[test]
fn a_store_grows_until_it_is_refused() {
    let _watch = common::watch();
    if common::is_sanitized() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let left = left(&run("store", &dir));
    check_store(&dir, &left);
    println!(
        "address space: {} epochs of a store that grew until it was refused intact",
        left.len()
    );
}

#[test]
fn a_bus_in_memory_grows_until_it_is_refused() {
    let _watch = common::watch();
    if common::is_sanitized() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    run("memory", tmp.path());
    run("log", tmp.path());
}

#[test]
fn a_store_that_does_not_fit_does_not_open() {
    let _watch = common::watch();
    if common::is_sanitized() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let bus = Bus::create(&dir, &os()).unwrap();
    (1..=64).for_each(|id| create_page(&bus, id, 1 << 20).unwrap());
    let now = vec![(bus.epoch(), format!("{:032x}", digest(&bus)))];
    bus.close().unwrap();
    drop(bus);
    run("open", &dir);
    check_store(&dir, &now);
}

#[test]
fn a_checkpoint_that_finds_no_memory_is_made_later() {
    let _watch = common::watch();
    if common::is_sanitized() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let left = left(&run("checkpoint", &dir));
    check_store(&dir, &left);
    assert!(dir.join("checkpoints/0000000000000028.ckpt").exists());
}

#[test]
fn a_log_without_threads_goes_on() {
    let _watch = common::watch();
    if common::is_sanitized() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let left = left(&run("threads", &dir));
    check_store(&dir, &left);
}

#[test]
fn a_call_without_a_descriptor_can_be_made_again() {
    let _watch = common::watch();
    let tmp = tempfile::tempdir().unwrap();
    let output = run("descriptors", tmp.path());
    let text = String::from_utf8_lossy(&output.stdout);
    let refused = text.lines().find_map(|line| line.split_once("refused ")).unwrap().1;
    println!("refused descriptors: {refused} calls for want of one, each made again");
}

/// Recovery frees old versions as the commits did: what fitted while the bus lived fits when it is opened.
#[test]
fn a_store_opens_with_the_memory_it_lived_with() {
    let _watch = common::watch();
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let options = Options { max_memory: Some(1 << 20), ..os() };
    let bus = Bus::create(&dir, &options).unwrap();
    create_page(&bus, 1, 200_000).unwrap();
    for i in 0..50 {
        bus.write(1, 0, &[i; 200_000], &HOW).unwrap();
    }
    let now = (bus.epoch(), digest(&bus));
    let past = bus.snapshot_at(40).unwrap();
    assert_eq!(past.view(1).unwrap().bytes()[0], 38);
    bus.close().unwrap();
    let bus = open(&dir, Mode::ReadWrite, &options).unwrap();
    assert_eq!((bus.epoch(), digest(&bus)), now);
}
