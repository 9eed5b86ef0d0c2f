//! Whole commits in random orders, with a crash in the middle: two writers and a reader on the simulated disk, under a
//! scheduler that changes priorities at a few random moments (PCT). `make shuttle` runs it.
//!
//! Each writer counts up its own word in two pages, at varying durability. So the words of a state say how many
//! commits of each writer it has, and the two pages must always agree.
#![cfg(shuttle)]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mmsb_core::{Batch, Bus, Durability, How, Mode, NewPage, Options, Snapshot};
use mmsb_proof::sim::{Point, SimVfs, Variant};
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::scheduler::PctScheduler;
use shuttle::{Config, Runner, thread};

const DIR: &str = "/bus";
const WRITERS: u64 = 2;
const COMMITS: u64 = 3;
/// One block, and more than one.
const SIZES: [u64; 2] = [64, 20_000];
const SEED: u64 = 0x6d6d_7362;

fn options() -> Options {
    Options {
        durability: Some(Durability::Disk),
        max_memory: Some(2 << 20),
        seed: Some(7),
        segment_bytes: Some(4096 + 300),
        ..Options::default()
    }
}

fn how(durability: Durability) -> How<'static> {
    How { wait: true, durability: Some(durability), time: Some(1), ..How::default() }
}

/// What was acknowledged and seen.
#[derive(Default)]
struct Ledger {
    /// Of a commit that returned: writer, its number, durability; by epoch.
    commits: BTreeMap<u64, (u64, u64, Durability)>,
    /// Digests of what the reader saw, by epoch.
    seen: BTreeMap<u64, u128>,
}

/// How many commits of each writer a state has.
fn words(snapshot: &Snapshot) -> [u64; WRITERS as usize] {
    let [small, large] = [1, 2].map(|page| {
        let mut bytes = [0; 8 * WRITERS as usize];
        snapshot.read(page, 0, &mut bytes).unwrap();
        let (words, _) = bytes.as_chunks::<8>();
        std::array::from_fn(|writer| u64::from_le_bytes(words[writer]))
    });
    assert_eq!(small, large, "half a commit in epoch {}", snapshot.epoch());
    assert_eq!(small.iter().sum::<u64>() + 1, snapshot.epoch());
    small
}

fn create(sim: &SimVfs) -> Bus {
    let bus = Bus::create_on(Arc::new(sim.clone()), Path::new(DIR), &options()).unwrap();
    let mut batch = Batch::new();
    for (id, nbytes) in (1..).zip(SIZES) {
        let page = NewPage {
            name: None,
            dtype: "",
            itemsize: 8,
            shape: &[nbytes / 8],
            nbytes,
            meta: "",
            location: 0,
        };
        batch.create(id, &page);
    }
    bus.commit(&mut batch, None, &how(Durability::Disk)).unwrap();
    bus
}

fn count_up(bus: &Bus, sim: &SimVfs, writer: u64, ledger: &Mutex<Ledger>) {
    for number in 1..=COMMITS {
        let durability = match (writer + number) % 3 {
            0 => Durability::Disk,
            1 => Durability::Os,
            _ => Durability::Memory,
        };
        let mut batch = Batch::new();
        for page in [1, 2] {
            batch.write(page, 8 * writer, &number.to_le_bytes());
        }
        // Whether a commit that failed has happened is told by what is found later.
        let Ok(done) = bus.commit(&mut batch, None, &how(durability)) else { return };
        if durability != Durability::Memory {
            sim.acknowledged(Path::new(DIR), done.epoch, durability == Durability::Disk);
        }
        let old = ledger.lock().unwrap().commits.insert(done.epoch, (writer, number, durability));
        assert_eq!(old, None);
    }
}

fn look(bus: &Bus, ledger: &Mutex<Ledger>) {
    let mut last = [0; WRITERS as usize];
    for _ in 0..COMMITS {
        let snapshot = bus.snapshot().unwrap();
        let found = words(&snapshot);
        assert!(last.iter().zip(&found).all(|(last, found)| last <= found), "a step back");
        last = found;
        let digest = snapshot.digest().unwrap();
        ledger.lock().unwrap().seen.insert(snapshot.epoch(), digest);
    }
}

/// What is left of the disk has all that it must, and what it has is what was committed.
fn recovered(sim: &SimVfs, ledger: &Ledger, at_least: Durability) {
    let vfs = Arc::new(sim.clone());
    let (dir, mode) = (Path::new(DIR), Mode::ReadWrite);
    let bus = Bus::open_on(vfs, dir, mode, &options(), &mut |_, _| {}).unwrap();
    let found = words(&bus.snapshot().unwrap());
    for (&epoch, &(writer, number, durability)) in &ledger.commits {
        assert!(epoch <= bus.epoch() || durability < at_least, "epoch {epoch} is lost");
        assert_eq!(found[writer as usize] >= number, epoch <= bus.epoch());
    }
    for (&epoch, &digest) in ledger.seen.range(..=bus.epoch()) {
        assert_eq!(bus.snapshot_at(epoch).unwrap().digest().unwrap(), digest, "epoch {epoch}");
    }
    let mut batch = Batch::new();
    for page in [1, 2] {
        batch.write(page, 0, &(found[0] + 1).to_le_bytes());
    }
    let done = bus.commit(&mut batch, None, &how(Durability::Disk)).unwrap();
    assert_eq!(words(&bus.snapshot().unwrap())[0], found[0] + 1);
    assert_eq!(done.epoch, bus.durable_epoch());
}

fn life() {
    let sim = SimVfs::new();
    let bus = create(&sim);
    let random = &mut thread_rng();
    sim.crash_at(random.gen_range(1..60));
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut threads = Vec::new();
    for writer in 0..WRITERS {
        let (bus, sim, ledger) = (bus.clone(), sim.clone(), Arc::clone(&ledger));
        threads.push(thread::spawn(move || count_up(&bus, &sim, writer, &ledger)));
    }
    let (reading, seen) = (bus.clone(), Arc::clone(&ledger));
    threads.push(thread::spawn(move || look(&reading, &seen)));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // Without a crash so far it comes now.
    sim.kill();
    drop(bus);

    let point = Point { disk: sim.disk(), mark: 0, stored: None };
    let ledger = ledger.lock().unwrap();
    let killed = SimVfs::of(Variant::Kill.of(&point));
    recovered(&killed, &ledger, Durability::Os);
    let loss = Variant::SomeOfAll(random.r#gen(), random.gen_range(0..=8));
    recovered(&SimVfs::of(loss.of(&point)), &ledger, Durability::Disk);
}

#[test]
fn random_orders_with_a_crash() {
    let schedules = std::env::var("SCHEDULES").map_or(3_000, |text| text.parse().unwrap());
    let begun = Instant::now();
    let mut done = 0;
    for depth in 3..=5 {
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config.silence_warnings = true;
        let scheduler = PctScheduler::new_from_seed(SEED + depth as u64, depth, schedules / 3);
        done += Runner::new(scheduler, config).run(life);
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "shuttle: {done} schedules of depth 3 to 5, seed {SEED:#x}, 0 failures, {seconds:.1} s"
    );
}
