//! Every request for memory that may fail is refused once, in turn: the n-th one, alone or with all after it.
//!
//! Whatever is refused, the error says so, the state and the memory in use are what they were, and the same call
//! then does what it would have done.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use super::lock;
use crate::arena::faults;
use crate::vfs::testing::copied;
use crate::vfs::{RamVfs, Vfs};
use crate::{Batch, Bus, Code, Error, How, Mode, NewPage, Options, PageInfo, Result, Snapshot};

const DIR: &str = "/store";
const BLOCK: u64 = crate::arena::BLOCK;
const HOW: How<'static> =
    How { source: None, meta: None, durability: None, time: None, wait: true };

fn options() -> Options {
    Options { max_memory: Some(16 << 20), seed: Some(1), ..Options::default() }
}

/// All that can be seen of an epoch.
#[derive(Debug, PartialEq)]
struct Seen {
    epoch: u64,
    next_id: u64,
    digest: u128,
    tags: Vec<(String, u64)>,
    pages: Vec<(PageInfo, Vec<u8>)>,
}

fn look(at: &Snapshot) -> Result<Seen> {
    let with_bytes = |info: PageInfo| {
        let named = info.name.as_deref().map(|name| at.find(name).unwrap());
        assert!(named.is_none_or(|id| id == info.id));
        let bytes = at.view(info.id)?.bytes().to_vec();
        Ok((info, bytes))
    };
    Ok(Seen {
        epoch: at.epoch(),
        next_id: at.next_id(),
        digest: at.digest()?,
        tags: at.tags(),
        pages: at.infos()?.into_iter().map(with_bytes).collect::<Result<_>>()?,
    })
}

fn newest(bus: &Bus) -> Seen {
    look(&bus.glance().unwrap()).unwrap()
}

/// Pieces of memory in use once all that can be freed is.
fn pieces(bus: &Bus) -> (u64, u64) {
    let core = bus.core().unwrap();
    lock(&core.sequencer).reclaim.pass(core, true);
    core.arena.alloc().pieces()
}

/// A bus with pages of all kinds, a retained old epoch, and the files that it stands on.
struct World {
    bus: Bus,
    files: Option<RamVfs>,
    old: Snapshot,
}

fn page<'a>(name: Option<&'a str>, shape: &'a [u64], meta: &'a str) -> NewPage<'a> {
    NewPage {
        name,
        dtype: "",
        itemsize: 1,
        shape,
        nbytes: shape.iter().product(),
        meta,
        location: 0,
    }
}

fn commit(bus: &Bus, fill: impl Fn(&mut Batch)) -> Result<()> {
    let mut batch = Batch::new();
    fill(&mut batch);
    bus.commit(&mut batch, None, &HOW).map(drop)
}

fn populate(bus: &Bus) -> Result<Snapshot> {
    commit(bus, |batch| {
        batch.create(1, &page(Some("small"), &[100], "{\"unit\":\"m\"}"));
        batch.create(2, &page(Some("block"), &[BLOCK], ""));
        batch.create(3, &page(Some("large"), &[5 * BLOCK + 1000], ""));
        batch.create(4, &page(None, &[0], ""));
        batch.create(5, &page(Some("gone"), &[3 * BLOCK], ""));
    })?;
    commit(bus, |batch| {
        (6..50).for_each(|id| batch.create(id, &page(Some(&format!("p{id}")), &[id], "")))
    })?;
    let old = bus.snapshot()?;
    bus.write(3, 3 * BLOCK - 7, &[3; 20], &HOW)?;
    bus.write(2, 0, &[2; 1000], &HOW)?;
    commit(bus, |batch| {
        batch.tag("start", Some(1), false);
        batch.rename(9, Some("nine"));
        batch.resize(1, &[90], 90);
    })?;
    if bus.path().is_some() {
        bus.checkpoint()?;
    }
    commit(bus, |batch| {
        batch.delete(5);
        batch.tag("later", None, false);
        batch.set_meta(2, "{\"a\":1}");
    })?;
    bus.write(3, 0, &[4; 3 * BLOCK as usize], &HOW)?;
    Ok(old)
}

fn world(stored: bool) -> World {
    let files = stored.then(RamVfs::new);
    let bus = match &files {
        Some(files) => create(files).unwrap(),
        None => Bus::memory(&options()).unwrap(),
    };
    let old = populate(&bus).unwrap();
    World { bus, files, old }
}

fn create(files: &RamVfs) -> Result<Bus> {
    Bus::create_on(Arc::new(files.clone()), Path::new(DIR), &options())
}

fn open(files: &RamVfs, mode: Mode) -> Result<Bus> {
    Bus::open_on(Arc::new(files.clone()), Path::new(DIR), mode, &options(), &mut |_, _| {})
}

fn is_out_of_space(error: &Error) -> bool {
    error.code == Code::OutOfSpace
}

/// A call on a live bus; what it gives is compared too.
type Call = fn(&World) -> Result<Option<Seen>>;

const CALLS: &[(&str, Call)] = &[
    ("create a page", |w| {
        commit(&w.bus, |b| b.create(50, &page(Some("new"), &[200], "{}"))).map(|()| None)
    }),
    ("create a large page", |w| {
        commit(&w.bus, |b| b.create(5000, &page(Some("new"), &[40 * BLOCK], ""))).map(|()| None)
    }),
    ("write", |w| w.bus.write(1, 5, b"bytes", &HOW).map(|_| None)),
    ("write into a block", |w| w.bus.write(3, 4 * BLOCK + 9, b"bytes", &HOW).map(|_| None)),
    ("write a whole large page", |w| {
        w.bus.write(3, 0, &[9; 5 * BLOCK as usize + 1000], &HOW).map(|_| None)
    }),
    ("write many", |w| {
        commit(&w.bus, |b| (6..50).for_each(|id| b.write(id, id / 2, &[7]))).map(|()| None)
    }),
    ("grow a small page", |w| {
        commit(&w.bus, |b| b.resize(1, &[2 * BLOCK], 2 * BLOCK)).map(|()| None)
    }),
    ("grow a large page", |w| {
        commit(&w.bus, |b| b.resize(3, &[90 * BLOCK], 90 * BLOCK)).map(|()| None)
    }),
    ("shrink a large page", |w| {
        commit(&w.bus, |b| b.resize(3, &[3 * BLOCK + 5], 3 * BLOCK + 5)).map(|()| None)
    }),
    ("shrink it to a small one", |w| commit(&w.bus, |b| b.resize(3, &[10], 10)).map(|()| None)),
    ("rename", |w| commit(&w.bus, |b| b.rename(7, Some("another name"))).map(|()| None)),
    ("metadata", |w| commit(&w.bus, |b| b.set_meta(3, "{\"b\":2}")).map(|()| None)),
    ("delete", |w| commit(&w.bus, |b| b.delete(3)).map(|()| None)),
    ("tag", |w| commit(&w.bus, |b| b.tag("now", None, false)).map(|()| None)),
    ("untag", |w| commit(&w.bus, |b| b.untag("start")).map(|()| None)),
    ("restore", |w| w.bus.restore(&w.old, &HOW).map(|_| None)),
    ("transaction", |w| {
        let base = w.bus.snapshot()?;
        let mut batch = Batch::new();
        batch.create(base.next_id(), &page(Some("tx"), &[3 * BLOCK], ""));
        batch.write(base.next_id(), 7, b"seven");
        batch.write(2, BLOCK - 3, b"end");
        batch.rename(8, None);
        batch.check_read(3);
        batch.check_ids();
        batch.check_name("tx");
        let how = How { source: Some("test"), meta: Some("{\"step\":1}"), ..HOW };
        w.bus.commit(&mut batch, Some(&base), &how).map(|_| None)
    }),
    ("a past epoch", |w| w.bus.snapshot_at(3).and_then(|at| look(&at)).map(Some)),
    ("an epoch behind the checkpoint", |w| w.bus.snapshot_at(6).and_then(|at| look(&at)).map(Some)),
    ("a view of scattered blocks", |w| {
        let large = w.bus.view(3)?;
        assert!(large.is_copy());
        w.bus.snapshot()?.view_range(3, BLOCK, 4 * BLOCK).map(|_| None)
    }),
    ("the log", |w| {
        for entry in w.bus.log(0, u64::MAX, true)? {
            entry?;
        }
        Ok(None)
    }),
    ("verify", |w| {
        let report = w.bus.verify(&mut |_, _| {})?;
        assert_eq!(report.problems.len(), 0);
        Ok(None)
    }),
    ("fork", |w| {
        let fork = w.bus.fork(&w.bus.snapshot()?)?;
        commit(&fork, |b| {
            b.write(3, BLOCK, &[8; 50]);
            b.delete(2);
        })?;
        look(&fork.glance()?).map(Some)
    }),
    ("an epoch of a fork", |w| {
        let fork = w.bus.fork(&w.old)?;
        commit(&fork, |b| b.write(3, BLOCK, &[8; 50]))?;
        commit(&fork, |b| b.delete(3))?;
        look(&fork.snapshot_at(3)?).map(Some)
    }),
    ("checkpoint", |w| match w.files {
        Some(_) => w.bus.checkpoint().map(|_| None),
        None => Ok(None),
    }),
    ("open for reading", |w| match &w.files {
        Some(files) => look(&open(files, Mode::Read)?.glance()?).map(Some),
        None => Ok(None),
    }),
];

/// Refuses each request of one call in turn. Returns how many there were to refuse.
fn refuse_each(stored: bool, name: &str, call: Call) -> u64 {
    let reference = world(stored);
    let before = newest(&reference.bus);
    let gave = call(&reference).unwrap();
    let (after, used_after) = (newest(&reference.bus), pieces(&reference.bus));
    for n in 1.. {
        for for_good in [false, true] {
            let w = world(stored);
            let used = pieces(&w.bus);
            let place = format!("{name}, stored {stored}, request {n}, for good {for_good}");
            faults::arm(n, for_good);
            let first = call(&w);
            if !faults::disarm() {
                assert_eq!(first.unwrap(), gave, "{place}");
                return n - 1;
            }
            if let Err(error) = &first {
                assert!(is_out_of_space(error), "{place}: {error:?}");
                assert_eq!(newest(&w.bus), before, "{place}");
                assert_eq!(pieces(&w.bus), used, "{place}");
                if let Some(files) = &w.files {
                    assert_eq!(newest(&open(files, Mode::Read).unwrap()), before, "{place}");
                }
            }
            assert!(first.is_err() || !for_good, "{place}");
            let done = if first.is_ok() { first } else { call(&w) };
            assert_eq!(done.unwrap(), gave, "{place}");
            assert_eq!(newest(&w.bus), after, "{place}");
            assert_eq!(pieces(&w.bus), used_after, "{place}");
            if let Some(files) = &w.files {
                w.bus.close().unwrap();
                let again = open(files, Mode::ReadWrite).unwrap();
                assert_eq!(newest(&again), after, "{place}");
            }
        }
    }
    0
}

#[test]
#[cfg_attr(miri, ignore)] // thousands of buses
fn a_refused_request_for_memory_changes_nothing() {
    let mut places = 0;
    for stored in [false, true] {
        for (name, call) in CALLS {
            let n = refuse_each(stored, name, *call);
            println!("{name}, stored {stored}: {n} requests");
            places += n;
        }
    }
    println!(
        "refused on a live bus: {} calls, {places} requests, each once and for good",
        2 * CALLS.len()
    );
}

/// A way to get a bus. The first are for a place where nothing is yet.
type Begin = fn(&RamVfs) -> Result<Bus>;

const FROM_NOTHING: &[(&str, Begin)] = &[
    ("memory", |_| Bus::memory(&options())),
    ("create", create),
    ("create or open", |files| open(files, Mode::Append)),
];
const FROM_A_STORE: &[(&str, Begin)] = &[
    ("open", |files| open(files, Mode::ReadWrite)),
    ("open for reading", |files| open(files, Mode::Read)),
];

/// Refuses each request of one beginning in turn. Returns how many there were to refuse.
fn refuse_beginning(name: &str, begin: Begin, ground: &RamVfs) -> u64 {
    let expected = newest(&begin(&copied(ground, Path::new(DIR))).unwrap());
    for n in 1.. {
        for for_good in [false, true] {
            let files = copied(ground, Path::new(DIR));
            let place = format!("{name}, request {n}, for good {for_good}");
            faults::arm(n, for_good);
            let first = begin(&files);
            let hit = faults::disarm();
            assert!(first.is_err() || !(hit && for_good), "{place}");
            if let Err(error) = &first {
                assert!(is_out_of_space(error), "{place}: {error:?}");
            }
            let bus = first.or_else(|_| begin(&files));
            let bus = bus.unwrap_or_else(|error| panic!("{place}: {error:?}"));
            assert_eq!(newest(&bus), expected, "{place}");
            if bus.mode() != Mode::Read {
                commit(&bus, |b| b.create(900, &page(None, &[BLOCK + 1], ""))).unwrap();
            }
            if bus.path().is_some() {
                let after = newest(&bus);
                bus.close().unwrap();
                assert_eq!(newest(&open(&files, Mode::ReadWrite).unwrap()), after, "{place}");
            }
            if !hit {
                return n - 1;
            }
        }
    }
    0
}

#[test]
#[cfg_attr(miri, ignore)] // hundreds of buses
fn a_bus_that_could_not_begin_begins_later() {
    let left = world(true);
    let killed = copied(left.files.as_ref().unwrap(), Path::new(DIR));
    left.bus.close().unwrap();
    let closed = copied(left.files.as_ref().unwrap(), Path::new(DIR));
    let without_checkpoint = copied(&closed, Path::new(DIR));
    let checkpoints = Path::new(DIR).join("checkpoints");
    for name in without_checkpoint.list(&checkpoints).unwrap() {
        without_checkpoint.unlink(&checkpoints.join(name)).unwrap();
    }
    let mut places = 0;
    for (name, begin) in FROM_NOTHING {
        places += refuse_beginning(name, *begin, &RamVfs::new());
    }
    for (name, begin) in FROM_A_STORE {
        for ground in [&killed, &closed, &without_checkpoint] {
            places += refuse_beginning(name, *begin, ground);
        }
    }
    println!("refused at a beginning: {places} requests, each once and for good");
}

/// Memory held is bounded by what is visible: whatever a bus went through, when nobody shows an old version any more
/// it has the same pieces in use as one that never did anything but apply the log.
fn held_is_what_is_visible(seed: u64, steps: usize) -> u64 {
    let files = RamVfs::new();
    let bus = create(&files).unwrap();
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |limit: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % limit
    };
    let (mut snapshots, mut views, mut forks) = (vec![], vec![], vec![]);
    let mut ids: Vec<u64> = vec![];
    for _ in 0..steps {
        let head = bus.glance().unwrap();
        let id = if ids.is_empty() { 0 } else { ids[below(ids.len() as u64) as usize] };
        let len = head.info(id).unwrap().map_or(0, |info| info.nbytes);
        let size = [0, 50, 900, BLOCK, BLOCK + 1, 4 * BLOCK + 77][below(6) as usize];
        let new = head.next_id();
        drop(head);
        let kept = (below(4), below(4), below(3));
        // What is refused has not happened.
        let _ = match below(16) {
            0..3 => {
                commit(&bus, |b| b.create(new, &page(None, &[size], ""))).map(|()| ids.push(new))
            }
            3 => commit(&bus, |b| b.resize(id, &[size], size)),
            4 if ids.len() > 8 => {
                commit(&bus, |b| b.delete(id)).map(|()| ids.retain(|&other| other != id))
            }
            5 => commit(&bus, |b| b.rename(id, Some(&format!("name {id} of {new}")))),
            6 => commit(&bus, |b| b.set_meta(id, &"m".repeat(size as usize / 8))),
            7 => commit(&bus, |b| b.tag(&format!("tag {}", new % 5), None, true)),
            8 => bus.snapshot().map(|snapshot| snapshots.push(snapshot)),
            9 => bus.view(id).map(|view| views.push(view)),
            10 if forks.len() < 3 => {
                let fork = bus.fork(&bus.snapshot().unwrap()).unwrap();
                let _ = fork.write(id, 0, &vec![9; len as usize], &HOW);
                forks.push(fork);
                Ok(())
            }
            11 => {
                // Refused in the middle: what it took before goes back.
                commit(&bus, |b| {
                    b.create(new, &page(None, &[size], ""));
                    b.delete(u64::MAX);
                })
            }
            _ => {
                let at = below(len + 1);
                let data = vec![below(256) as u8; below(len - at + 1) as usize];
                bus.write(id, at, &data, &HOW).map(drop)
            }
        };
        if kept.0 == 0 && !snapshots.is_empty() {
            snapshots.swap_remove(below(snapshots.len() as u64) as usize);
        }
        if kept.1 == 0 && !views.is_empty() {
            views.swap_remove(below(views.len() as u64) as usize);
        }
        if kept.2 == 0 && !forks.is_empty() {
            forks.swap_remove(below(forks.len() as u64) as usize);
        }
    }
    drop((snapshots, views, forks));
    let used = pieces(&bus);
    let now = newest(&bus);
    let all = bus.core().unwrap().arena.alloc().used();
    bus.close().unwrap();
    let fresh = open(&files, Mode::ReadWrite).unwrap();
    assert_eq!(newest(&fresh), now, "seed {seed}");
    assert_eq!(pieces(&fresh), used, "seed {seed}");
    all.saturating_sub(fresh.core().unwrap().arena.alloc().used())
}

#[test]
#[cfg_attr(miri, ignore)] // random histories
fn memory_held_is_bounded_by_what_is_visible() {
    let (seeds, steps) = (60, 500);
    let over = (1..=seeds).map(|seed| held_is_what_is_visible(seed, steps)).max().unwrap_or(0);
    // Slabs that are not full: their pieces are free, but they stay with their size.
    assert!(over <= 2 << 20, "{over}");
    println!(
        "bounded memory: {seeds} histories of {steps} steps, pieces equal to the last one, slabs at most {over} bytes more"
    );
}

#[test]
fn the_logs_of_forks_count_together() {
    let used = |bus: &Bus| {
        let core = bus.core().unwrap();
        lock(&core.sequencer).reclaim.pass(core, true);
        core.arena.alloc().used()
    };
    let options = Options { max_memory: Some(4 << 20), ..options() };
    let bus = Bus::memory(&options).unwrap();
    commit(&bus, |b| b.create(1, &page(None, &[10_000], ""))).unwrap();
    let log_bytes = |bus: &Bus| bus.core().unwrap().log_and_page_bytes().0;
    bus.write(1, 0, &[1; 10_000], &HOW).unwrap();
    bus.write(1, 0, &[2; 10_000], &HOW).unwrap();
    let base = used(&bus);
    let forks: Vec<Bus> = (0..3).map(|_| bus.fork(&bus.snapshot().unwrap()).unwrap()).collect();
    let mut refused = 0;
    for i in 0..10_000 {
        let fork = &forks[i % 3];
        match fork.write(1, 0, &[i as u8 | 4; 10_000], &HOW) {
            Ok(_) => {}
            Err(error) => {
                assert!(is_out_of_space(&error), "{error:?}");
                refused += 1;
            }
        }
        if refused == 3 {
            break;
        }
    }
    let logs: u64 = forks.iter().chain([&bus]).map(log_bytes).sum();
    assert!(logs < 4 << 20, "{logs}");
    assert!(logs > 2 << 20, "{logs}");
    drop(forks);
    // What is left of them is no more than slabs for pieces of sizes that were new.
    let left = used(&bus) - base;
    assert!(left.is_multiple_of(4 * BLOCK) && left <= 4 * 4 * BLOCK, "{left}");
}
