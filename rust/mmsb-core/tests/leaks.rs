//! Whatever a bus did, when it is gone nothing of it is left in the process; while it lives it does not grow.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{Held, held, settle};
use mmsb_core::{Batch, Bus, Durability, How, Mode, NewPage, Options};

const HOW: How<'static> =
    How { source: None, meta: None, durability: None, time: None, wait: true };
const ROUNDS: usize = 30;
/// Rounds until the process has the memory that one round needs.
const WARM: usize = 6;
/// Indexes that a bus keeps open at most: how many it met depends on who was faster.
const INDEXES: usize = 4;

fn options(durability: Durability) -> Options {
    Options {
        durability: Some(durability),
        max_memory: Some(64 << 20),
        segment_bytes: Some(64 << 10),
        ..Options::default()
    }
}

fn create_pages(bus: &Bus) {
    let mut batch = Batch::new();
    for (id, nbytes) in [(1, 100), (2, 16 << 10), (3, 200_000)] {
        let shape = [nbytes];
        let page = NewPage {
            name: None,
            dtype: "",
            itemsize: 1,
            shape: &shape,
            nbytes,
            meta: "",
            location: 0,
        };
        batch.create(id, &page);
    }
    bus.commit(&mut batch, None, &HOW).unwrap();
}

/// Everything that takes memory, descriptors or threads for a while.
fn use_it(bus: &Bus, round: u8) {
    let (first, kept) = (bus.epoch(), bus.snapshot().unwrap());
    for i in 0..40 {
        bus.write(1, i, &[round ^ i as u8 ^ 0xa5; 40], &HOW).unwrap();
        bus.write(3, i * 4000, &[round ^ i as u8; 3000], &HOW).unwrap();
    }
    let views: Vec<_> = (1..=3).map(|page| bus.view(page).unwrap()).collect();
    let fork = bus.fork(&kept).unwrap();
    fork.write(2, 9, &[round; 100], &HOW).unwrap();
    fork.write(3, 9, &[round; 100_000], &HOW).unwrap();
    let past = bus.snapshot_at(first + 3).unwrap();
    assert_eq!(past.view(2).unwrap().len(), 16 << 10);
    assert!(bus.log(first, first + 9, true).unwrap().all(|commit| commit.is_ok()));
    let report = bus.verify(&mut |_, _| {}).unwrap();
    assert_eq!(report.problems.len(), 0);
    let mut batch = Batch::new();
    batch.write(9, 0, b"no such page");
    bus.commit(&mut batch, None, &HOW).unwrap_err();
    if bus.path().is_some() {
        bus.checkpoint().unwrap();
    }
    assert_eq!(views[0].len(), 100);
}

fn memory_of(bus: &Bus) -> u64 {
    let stats = bus.stats().unwrap();
    stats.into_iter().find(|&(name, _)| name == "memory_bytes").unwrap().1
}

/// Lines of /proc/self/maps, the allocator's among them.
fn all_mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

fn one_life(dir: Option<&Path>, durability: Durability, round: u8) {
    let options = options(durability);
    let Some(dir) = dir else {
        let bus = Bus::memory(&options).unwrap();
        create_pages(&bus);
        return use_it(&bus, round);
    };
    let bus = Bus::create(dir, &options).unwrap();
    create_pages(&bus);
    use_it(&bus, round);
    let reader = Bus::open(dir, Mode::Read, &options, &mut |_, _| {}).unwrap();
    assert_eq!(reader.view(3).unwrap().len(), 200_000);
    // The last handle closes it, as `close` does.
    if round.is_multiple_of(2) {
        bus.close().unwrap();
    }
    drop(bus);
    let again = Bus::open(dir, Mode::ReadWrite, &options, &mut |_, _| {}).unwrap();
    again.write(2, 1, &[round; 9], &HOW).unwrap();
    drop(again);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn nothing_is_left() {
    let _watch = common::watch();
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let base = held();
    let (mut lives, mut mappings) = (0, 0);
    for round in 0..ROUNDS {
        for (dir, durability) in [
            (None, Durability::Memory),
            (Some(&*dir), Durability::Memory),
            (Some(&*dir), Durability::Os),
            (Some(&*dir), Durability::Disk),
        ] {
            // A sync a commit makes `disk` slow; a few rounds of it tell as much.
            if durability == Durability::Disk && round >= 2 {
                continue;
            }
            one_life(dir, durability, round as u8);
            settle(&base);
            lives += 1;
        }
        if round == WARM {
            mappings = all_mappings();
        }
    }
    let grown = all_mappings().saturating_sub(mappings);
    assert!(grown < ROUNDS - WARM, "{grown} mappings more after {} rounds", ROUNDS - WARM);

    let bus = Bus::create(&dir, &options(Durability::Os)).unwrap();
    create_pages(&bus);
    let (mut memory, mut open) = (0, None);
    for round in 0..ROUNDS {
        use_it(&bus, round as u8);
        if round >= WARM {
            settle(open.get_or_insert_with(|| Held { indexes: INDEXES, ..held() }));
            memory = if round == WARM { memory_of(&bus) } else { memory };
        }
    }
    let grown = memory_of(&bus).saturating_sub(memory);
    // What waits for the next pass of the reclaimer: at most 1 MiB, and a slab of each size.
    assert!(grown < 3 << 20, "{grown} bytes more after {} rounds", ROUNDS - WARM);
    drop(bus);
    settle(&base);
    println!(
        "leaks: {lives} lives of a bus and {ROUNDS} rounds of one, 0 descriptors, threads or mappings left"
    );
}
