//! The Rust rows of the benchmarks: floors and peers beside mmsb-core. Prints one line of JSON a figure;
//! `bench/python/bench.py` runs this, adds the Python rows and makes the table.

mod engine;
mod floors;
mod ours;
mod peers;
mod race;
mod reactive;
mod sizes;
mod waves;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mmsb_core::Durability;
use twox_hash::XxHash3_128;

use engine::{Commit, Driver, Load, reads, together};
use floors::{Append, Copies, Group, Parts};
use ours::Mmsb;
use peers::{Lmdb, LmdbMode, Redb, Sqlite};
use race::{Effort, Picks, Race, Res, Role, timed};

const USAGE: &str = "usage: mmsb-bench DIR [--quick] [--only ROW]...";

/// A table that fits the caches of the processor, as the state of most programs does.
const SMALL: u32 = 1024;

fn main() -> Res<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, who, count, dir] = args.as_slice()
        && verb == "resident"
    {
        return sizes::resident_child(who, count.parse()?, Path::new(dir));
    }
    if let [verb, who, count, dir] = args.as_slice()
        && verb == "instructions"
    {
        return some_commits(who, count.parse()?, Path::new(dir));
    }
    if let [verb, last, dir] = args.as_slice()
        && verb == "graph"
    {
        return waves::graph_child(last.parse()?, Path::new(dir));
    }
    let mut rest = args.iter();
    let dir = PathBuf::from(rest.next().ok_or(USAGE)?);
    let mut effort = Effort {
        rounds: 7,
        turn: Duration::from_millis(60),
        pages: 1 << 20,
        large: 1 << 30,
        nodes: 10_000,
    };
    let mut only = Vec::new();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--quick" => {
                let turn = Duration::from_millis(15);
                effort = Effort { rounds: 5, turn, pages: 1 << 17, large: 1 << 27, nodes: 1000 };
            }
            "--only" => only.push(rest.next().ok_or(USAGE)?.clone()),
            _ => return Err(USAGE.into()),
        }
    }

    type Row = fn(&Path, Effort) -> Res<()>;
    let rows: &[(&str, Row)] = &[
        ("commit-4k", |dir, effort| commits("commit-4k", dir, effort, 4096)),
        ("commit-1k", |dir, effort| commits("commit-1k", dir, effort, 1024)),
        ("batch", batch),
        ("durable-1", |dir, effort| durable("durable-1", dir, effort, 1)),
        ("durable-8", |dir, effort| durable("durable-8", dir, effort, 8)),
        ("random", random),
        ("snapshot", snapshot),
        ("large", large),
        ("fork", fork),
        ("memory", |dir, effort| sizes::resident(dir, effort.pages)),
        ("log-bytes", |dir, _| sizes::written(dir)),
        ("wave-chain", waves::chain),
        ("wave-broad", waves::broad),
        ("wave-grid", waves::grid),
        ("wave-cut", waves::cut_off),
        ("wave-same", waves::same),
        ("wave-threads", waves::threads),
        ("graph", waves::graph),
    ];
    for &(name, row) in rows {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            let dir = dir.join(name);
            std::fs::create_dir_all(&dir)?;
            row(&dir, effort)?;
            std::fs::remove_dir_all(&dir)?;
        }
    }
    Ok(())
}

/// Enters an engine with changes of `load`.
fn enter<'a>(race: &mut Race<'a>, role: Role, name: &str, engine: &'a dyn Commit, load: Load) {
    let mut driver = Driver::new(engine, load);
    race.enter(role, name, move |ops| driver.run(ops));
}

/// 64 bytes a commit that survives `kill -9`.
fn commits(row: &'static str, dir: &Path, effort: Effort, size: usize) -> Res<()> {
    let load = Load { count: SMALL, size, per: 1 };
    let cells = Load { size: 64, ..load };
    let append = Append::create(&dir.join("append"), false)?;
    let parts = Parts::create(&dir.join("parts"), SMALL, size)?;
    let lmdb = Lmdb::load(&dir.join("lmdb"), LmdbMode::Mapped, SMALL, size)?;
    let lmdb_cells = Lmdb::load(&dir.join("lmdb-cells"), LmdbMode::Mapped, SMALL, 64)?;
    let sqlite = Sqlite::load(&dir.join("sqlite"), "OFF", SMALL, size)?;
    let redb = Redb::load(&dir.join("redb"), redb::Durability::None, SMALL, size)?;
    let ours = Mmsb::load(&dir.join("mmsb"), Durability::Os, SMALL, size)?;
    let mut race = Race::new(row, 1);
    enter(&mut race, Role::Floor, "pwrite of 128 B", &append, load);
    enter(&mut race, Role::Floor, "sum of the parts", &parts, load);
    enter(&mut race, Role::Peer, "LMDB", &lmdb, load);
    enter(&mut race, Role::Peer, "LMDB, 64 B cells", &lmdb_cells, cells);
    enter(&mut race, Role::Peer, "SQLite OFF", &sqlite, load);
    enter(&mut race, Role::Peer, "redb None (does not survive)", &redb, load);
    enter(&mut race, Role::Mmsb, "MMSB", &ours, load);
    race.run(effort)
}

/// Commits to be counted by callgrind.
fn some_commits(who: &str, count: usize, dir: &Path) -> Res<()> {
    std::fs::create_dir_all(dir)?;
    let load = Load { count: SMALL, size: 4096, per: 1 };
    let engine: Box<dyn Commit> = match who {
        "lmdb" => Box::new(Lmdb::load(&dir.join("lmdb"), LmdbMode::Mapped, SMALL, load.size)?),
        _ => Box::new(Mmsb::load(&dir.join("mmsb"), Durability::Os, SMALL, load.size)?),
    };
    Driver::new(&*engine, load).run(count)?;
    Ok(())
}

/// The same, 1,000 changes a commit; a figure is one change.
fn batch(dir: &Path, effort: Effort) -> Res<()> {
    let load = Load { count: SMALL, size: 4096, per: 1000 };
    let cells = Load { size: 64, ..load };
    let append = Append::create(&dir.join("append"), false)?;
    let lmdb = Lmdb::load(&dir.join("lmdb"), LmdbMode::Mapped, SMALL, 4096)?;
    let lmdb_cells = Lmdb::load(&dir.join("lmdb-cells"), LmdbMode::Mapped, SMALL, 64)?;
    let sqlite = Sqlite::load(&dir.join("sqlite"), "OFF", SMALL, 4096)?;
    let ours = Mmsb::load(&dir.join("mmsb"), Durability::Os, SMALL, 4096)?;
    let mut race = Race::new("batch", load.per);
    enter(&mut race, Role::Floor, "pwrite of them all", &append, load);
    enter(&mut race, Role::Peer, "LMDB", &lmdb, load);
    enter(&mut race, Role::Peer, "LMDB, 64 B cells", &lmdb_cells, cells);
    enter(&mut race, Role::Peer, "SQLite OFF", &sqlite, load);
    enter(&mut race, Role::Mmsb, "MMSB", &ours, load);
    race.run(effort)
}

/// 64 bytes a commit that survives a loss of power. The figure of several threads is the time of one commit of them all.
fn durable(row: &'static str, dir: &Path, effort: Effort, threads: usize) -> Res<()> {
    let load = Load { count: SMALL, size: 4096, per: 1 };
    let append = Append::create(&dir.join("append"), true)?;
    let over = Append::over(&dir.join("over"))?;
    let group = Group::create(&dir.join("group"))?;
    let lmdb = Lmdb::load(&dir.join("lmdb"), LmdbMode::Synced, SMALL, 4096)?;
    let sqlite = Sqlite::load(&dir.join("sqlite"), "FULL", SMALL, 4096)?;
    let redb = Redb::load(&dir.join("redb"), redb::Durability::Immediate, SMALL, 4096)?;
    let ours = Mmsb::load(&dir.join("mmsb"), Durability::Disk, SMALL, 4096)?;
    let mut race = Race::new(row, 1);
    let mut add = |role, name, engine| {
        race.enter(role, name, move |ops| together(engine, load, threads, ops));
    };
    if threads == 1 {
        add(Role::Floor, "append + fdatasync", &append as &dyn Commit);
        add(Role::Floor, "overwrite + fdatasync", &over);
    } else {
        add(Role::Floor, "leader group", &group);
    }
    add(Role::Peer, "SQLite FULL", &sqlite);
    add(Role::Peer, "redb Immediate", &redb);
    add(Role::Peer, "LMDB", &lmdb);
    add(Role::Mmsb, "MMSB", &ours);
    // A sync takes a hundred times as long as a commit without one.
    race.run(Effort { turn: effort.turn * 4, ..effort })
}

/// 64 bytes a commit at random among a million pages of 1 KiB.
fn random(dir: &Path, effort: Effort) -> Res<()> {
    let load = Load { count: effort.pages, size: 1024, per: 1 };
    let mut copies = Copies::new(load.count, load.size);
    let lmdb = Lmdb::load(&dir.join("lmdb"), LmdbMode::Mapped, load.count, load.size)?;
    let ours = Mmsb::load(&dir.join("mmsb"), Durability::Os, load.count, load.size)?;
    let mut race = Race::new("random", 1);
    race.enter(Role::Floor, "copy of a random page", |ops| {
        Ok(timed(|| {
            (0..ops).for_each(|_| copies.one());
            Ok(())
        })?
        .1)
    });
    enter(&mut race, Role::Peer, "LMDB", &lmdb, load);
    enter(&mut race, Role::Mmsb, "MMSB", &ours, load);
    race.run(effort)
}

/// A fresh snapshot and 64 bytes read from it.
fn snapshot(dir: &Path, effort: Effort) -> Res<()> {
    let lmdb = Lmdb::load(&dir.join("lmdb"), LmdbMode::Mapped, SMALL, 4096)?;
    let sqlite = Sqlite::load(&dir.join("sqlite"), "OFF", SMALL, 4096)?;
    let redb = Redb::load(&dir.join("redb"), redb::Durability::None, SMALL, 4096)?;
    let ours = Mmsb::load(&dir.join("mmsb"), Durability::Os, SMALL, 4096)?;
    let mut copies = Copies::new(SMALL, 64);
    let mut race = Race::new("snapshot", 1);
    race.enter(Role::Floor, "copy of 64 B", |ops| {
        Ok(timed(|| {
            (0..ops).for_each(|_| copies.one());
            Ok(())
        })?
        .1)
    });
    race.enter(Role::Peer, "LMDB", |ops| reads(&lmdb, SMALL, ops));
    race.enter(Role::Peer, "redb", |ops| reads(&redb, SMALL, ops));
    race.enter(Role::Peer, "SQLite", |ops| reads(&sqlite, SMALL, ops));
    race.enter(Role::Mmsb, "MMSB", |ops| reads(&ours, SMALL, ops));
    race.run(effort)
}

/// 8 bytes into a page of 1 GiB of which a view is held, and the digest after such a change.
fn large(dir: &Path, effort: Effort) -> Res<()> {
    let ours = Mmsb::one_large(&dir.join("mmsb"), effort.large)?;
    let held = ours.bus.view(1)?;
    let blocks = (effort.large >> 14) as u32;
    let place = |picks: &mut Picks| u64::from(picks.below(blocks)) << 14;
    let mut copy = vec![1; effort.large];
    let (mut picks, mut stamp) = (Picks::new(0), 0);

    // Each poke is in a block of its own, so the view keeps the block that it replaces.
    let mut poke = |count: u64| {
        (0..count).try_for_each(|_| {
            stamp += 1;
            ours.poke(stamp << 14, stamp)
        })
    };
    let some = 16;
    poke(some)?;
    let before = ours.stat("memory_bytes")?;
    poke(some)?;
    let taken = ours.stat("memory_bytes")?.saturating_sub(before) / some;
    race::report("large-bytes", Role::Floor, "the page", &mut [effort.large as f64 / 1024.0]);
    race::report("large-bytes", Role::Mmsb, "MMSB", &mut [taken as f64 / 1024.0]);

    {
        let mut race = Race::new("large-write", 1);
        race.enter(Role::Floor, "copy of the page", |ops| {
            Ok(timed(|| {
                (0..ops).for_each(|_| copy.copy_from_slice(held.bytes()));
                Ok(())
            })?
            .1)
        });
        race.enter(Role::Mmsb, "MMSB", |ops| {
            Ok(timed(|| {
                (0..ops).try_for_each(|_| {
                    stamp += 1;
                    ours.poke(place(&mut picks), stamp)
                })
            })?
            .1)
        });
        race.run(effort)?;
    }
    ours.bus.snapshot()?.digest()?;
    let mut race = Race::new("digest", 1);
    race.enter(Role::Floor, "hash of the page", |ops| {
        Ok(timed(|| {
            (0..ops).for_each(|_| {
                std::hint::black_box(XxHash3_128::oneshot(held.bytes()));
            });
            Ok(())
        })?
        .1)
    });
    race.enter(Role::Mmsb, "MMSB", |ops| {
        let mut took = Duration::ZERO;
        for _ in 0..ops {
            stamp += 1;
            ours.poke(place(&mut picks), stamp)?;
            took += timed(|| Ok(ours.bus.snapshot()?.digest()))?.1;
        }
        Ok(took)
    });
    race.run(effort)
}

/// A fork of a bus with a page of 1 GiB.
fn fork(dir: &Path, effort: Effort) -> Res<()> {
    let ours = Mmsb::one_large(&dir.join("mmsb"), effort.large)?;
    let memory = vec![1_u8; effort.large];
    let mut copy = vec![2_u8; effort.large];
    let mut race = Race::new("fork", 1);
    race.enter(Role::Floor, "copy of its bytes", |ops| {
        Ok(timed(|| {
            (0..ops).for_each(|_| copy.copy_from_slice(&memory));
            Ok(())
        })?
        .1)
    });
    race.enter(Role::Peer, "fork(2) of the process", |ops| {
        let mut took = Duration::ZERO;
        for _ in 0..ops {
            took += timed(fork_process)?.1;
        }
        Ok(took)
    });
    race.enter(Role::Mmsb, "MMSB", |ops| {
        let mut took = Duration::ZERO;
        for _ in 0..ops {
            let (fork, time) = timed(|| Ok(ours.bus.fork(&ours.bus.snapshot()?)?))?;
            took += time;
            drop(fork);
        }
        Ok(took)
    });
    race.run(effort)
}

/// fork(2), with a child that ends at once, until it is gone.
fn fork_process() -> Res<()> {
    // SAFETY: the child calls nothing but _exit, which is safe after a fork of any process.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: waits for the child made above.
    if child < 0 || unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) } != child {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}
