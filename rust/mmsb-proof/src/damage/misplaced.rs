//! Row 7: whole files and blocks that are not where they belong, or not of this store, or not of this time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmsb_core::{Bus, How, Mode};

use super::{
    DIR, Store, Tally, changed, every, is_segment, kind_of, life, look, options, share, show,
};
use crate::args::Args;
use crate::format;
use crate::report::Row;
use crate::sim::{Disk, SECTOR};

const REFUSED: &str = "refused";
const NEWEST: &str = "newest state, told";
const HARMLESS: &str = "newest state, nothing is wrong";
const OLDER: &str = "an older store, by all that is left";

/// A store with something in the wrong place.
struct Case {
    kind: &'static str,
    what: String,
    disk: Disk,
}

/// Row 7: each block, each file, each older moment.
pub fn run(args: &Args) -> Vec<Row<'static>> {
    let store = Store::sample(args.seed, &life());
    let mut tally = Tally::default();
    let cases = whole_files(&store, args.seed);
    tally.add(share(cases.len() as u64, args.threads, |range, tally| {
        range.for_each(|case| check(&store, &cases[case as usize], tally));
    }));
    for block in [SECTOR, 4096] {
        let blocks = blocks(&store.disk, block);
        let n = blocks.len() as u64;
        let step = every(args, 101);
        tally.add(share(n * n / step, args.threads, |range, tally| {
            for case in range.map(|case| case * step) {
                let (to, from) = (&blocks[(case / n) as usize], &blocks[(case % n) as usize]);
                check(&store, &misdirected(&store, to, from, block), tally);
            }
        }));
    }
    for (moment, old) in store.past.iter().enumerate() {
        let differ: Vec<PathBuf> = changed(old, &store.disk).into_iter().collect();
        let step = every(args, 29);
        tally.add(share((1 << differ.len()) / step, args.threads, |range, tally| {
            for mask in range.map(|mask| mask * step) {
                check(&store, &stale(&store, old, &differ, mask, moment), tally);
            }
        }));
    }
    show("files and blocks in the wrong place", &tally);
    let files = store.files().len();
    vec![Row {
        id: "07-misdirected",
        row: "7 Misdirected, swapped, stale, missing, foreign, duplicated",
        tried: format!(
            "each block of each of {files} files over each other block; each file missing, exchanged, of another store, \
             of a copy of this store that lived on; segments and checkpoints under other names; unknown files; each \
             combination of files as they were at each of {} moments with files as they are",
            store.past.len()
        ),
        count: format!("{} cases", tally.all()),
        seed: args.seed.to_string(),
        result: format!(
            "0 wrong states: {} refused as corrupt, {} newest state and told by verify or at opening, {} newest state with nothing to \
             tell (a valid meta slot in place of the other, a checkpoint or an index that is not needed, a file that is not ours), \
             {} an older store by everything that was left in it",
            tally.of(REFUSED),
            tally.of(NEWEST),
            tally.of(HARMLESS),
            tally.of(OLDER)
        ),
        command: args.command.clone(),
    }]
}

fn check(store: &Store, case: &Case, tally: &mut Tally) {
    let touched = changed(&case.disk, &store.disk);
    if touched.is_empty() {
        return;
    }
    let newest = store.newest();
    let what = format!("{}, {}", case.kind, case.what);
    let seen = look(&case.disk, &store.history, &[3, newest / 2, newest - 1])
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let told: Vec<_> = seen.told().map(|e| &e.message).collect();
    let outcome = match seen.shown {
        Err(error) => {
            assert!(error.detail.file.is_some(), "{what}: {error}");
            REFUSED
        }
        Ok(epoch) if epoch < newest => {
            let left = store.promised(&case.disk);
            assert!(epoch >= left, "{what}: shows {epoch}, {left} is promised; {told:?}");
            OLDER
        }
        Ok(_) if !told.is_empty() || seen.torn > 0 => NEWEST,
        Ok(_) => {
            assert!(touched.iter().all(|path| harmless(store, &case.disk, path)), "{what}");
            HARMLESS
        }
    };
    let kinds: BTreeSet<&str> = touched.iter().map(|path| kind_of(path)).collect();
    let kinds = if kinds.len() > 1 { "several files" } else { kinds.first().unwrap() };
    tally.count(format!("{}, {kinds}", case.kind), outcome);
}

/// A file that need not be as it was, and why.
fn harmless(store: &Store, disk: &Disk, path: &Path) -> bool {
    let before = store.disk.read(path);
    match (kind_of(path), before, disk.read(path)) {
        // Either slot may say what is newest; one of an older time says less and nothing wrong.
        ("meta slot", Some(_), Some(slot)) => format::slot_position(slot).is_some(),
        // They say nothing that the log does not say.
        ("checkpoint" | "index", Some(_), None) => true,
        // Of this segment, with another end than it has.
        ("index", Some(before), Some(now)) => {
            format::has_header(now) && now[..72] == before[..72] && now[80..104] != before[80..104]
        }
        // Space that is reserved, without the seal that came later.
        ("segment", Some(before), Some(now)) => {
            let commits = |bytes| {
                let records = format::records(bytes).into_iter();
                records.filter(|record| record.kind == format::COMMIT).count()
            };
            let end = format::records(now).last().map_or(format::HEADER, |last| last.end);
            let kept = now.get(..end).is_some_and(|kept| before.starts_with(kept));
            kept && commits(now) == commits(before) && now[end..].iter().all(|&b| b == 0)
        }
        // Not ours.
        (_, None, Some(_)) => !is_segment(path),
        _ => false,
    }
}

/// Every block of every file.
fn blocks(disk: &Disk, block: usize) -> Vec<(PathBuf, usize)> {
    let mut all = Vec::new();
    for (path, bytes) in disk.files() {
        all.extend((0..bytes.len()).step_by(block).map(|at| (path.to_path_buf(), at)));
    }
    all
}

fn misdirected(
    store: &Store,
    (to, at): &(PathBuf, usize),
    (from, start): &(PathBuf, usize),
    block: usize,
) -> Case {
    let source = store.disk.read(from).unwrap();
    let source = &source[*start..(start + block).min(source.len())];
    let mut bytes = store.disk.read(to).unwrap().to_vec();
    let end = (at + source.len()).max(bytes.len());
    bytes.resize(end, 0);
    bytes[*at..at + source.len()].copy_from_slice(source);
    let mut disk = store.disk.clone();
    disk.plant(to, &bytes);
    let what = format!("{start} of {} at {at} of {}", from.display(), to.display());
    Case { kind: "block misdirected", what, disk }
}

/// Some files as they were at an earlier moment, or not there if they were not; the others as they are.
fn stale(store: &Store, old: &Disk, differ: &[PathBuf], mask: u64, moment: usize) -> Case {
    let mut disk = store.disk.clone();
    for (_, path) in differ.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1) {
        put(&mut disk, path, old.read(path));
    }
    Case { kind: "stale", what: format!("moment {moment}, mask {mask:b} of {differ:?}"), disk }
}

fn put(disk: &mut Disk, path: &Path, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => disk.plant(path, bytes),
        None => disk.lose(path),
    }
}

/// A copy of the store made in the middle of its life that lived on in another way.
fn twin(store: &Store, seed: u64) -> Disk {
    let sim = crate::sim::SimVfs::of(store.past[10].clone());
    let open = Arc::new(sim.clone());
    let dir = Path::new(DIR);
    let bus = Bus::open_on(open, dir, Mode::ReadWrite, &options(seed), &mut |_, _| {}).unwrap();
    let how = How { wait: true, ..How::default() };
    while bus.epoch() < store.newest() {
        let byte = bus.epoch() as u8;
        bus.write(1, 7, &[byte, 200], &how).unwrap();
        let path = format!("checkpoints/{:016x}.ckpt", bus.epoch());
        if store.disk.read(&dir.join(path)).is_some() {
            bus.checkpoint().unwrap();
        }
    }
    bus.close().unwrap();
    sim.disk()
}

fn whole_files(store: &Store, seed: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    let files = store.files();
    let dir = Path::new(DIR);
    let mut case = |kind, what: String, change: &dyn Fn(&mut Disk)| {
        let mut disk = store.disk.clone();
        change(&mut disk);
        cases.push(Case { kind, what, disk });
    };
    let foreign = Store::sample(seed + 1000, &life()).disk;
    let twin = twin(store, seed + 2000);
    for (i, path) in files.iter().enumerate() {
        let name = path.display().to_string();
        case("missing", name.clone(), &|disk| disk.lose(path));
        case("empty", name.clone(), &|disk| disk.plant(path, b""));
        case("of another store", name.clone(), &|disk| {
            disk.plant(path, foreign.read(path).unwrap())
        });
        for other in &files[i + 1..] {
            let both = format!("{name} and {}", other.display());
            let (a, b) = (store.disk.read(path).unwrap(), store.disk.read(other).unwrap());
            case("exchanged", both.clone(), &|disk| {
                disk.plant(path, b);
                disk.plant(other, a);
            });
            case("missing", both.clone(), &|disk| {
                disk.lose(path);
                disk.lose(other);
            });
            case("of another store", both, &|disk| {
                disk.plant(path, foreign.read(path).unwrap());
                disk.plant(other, foreign.read(other).unwrap());
            });
        }
        let bytes = store.disk.read(path).unwrap();
        for epoch in 1..store.newest() + 3 {
            let named = match kind_of(path) {
                "segment" => format::segment_name(format::word(bytes, 72) + 1, epoch),
                "checkpoint" => format!("checkpoints/{epoch:016x}.ckpt"),
                "index" => format::index_name(format::word(bytes, 56), epoch),
                _ => continue,
            };
            let to = dir.join(named);
            case("duplicated", format!("{name} as {}", to.display()), &|disk| {
                disk.plant(&to, bytes)
            });
        }
        for sub in ["", "log", "checkpoints", "quarantine"] {
            for named in
                ["notes.txt", ".tmp-0000000000000001.ckpt", "0000.mlog", "meta-2", "creating"]
            {
                let to = dir.join(sub).join(named);
                case("unknown file", to.display().to_string(), &|disk| disk.plant(&to, bytes));
            }
        }
    }
    // One file of the twin under the name that it has there, or that this store has for it.
    for (path, bytes) in twin.files() {
        case("of a twin", path.display().to_string(), &|disk| disk.plant(path, bytes));
        for own in files.iter().filter(|own| kind_of(own) == kind_of(path)) {
            let what = format!("{} as {}", path.display(), own.display());
            case("of a twin", what, &|disk| disk.plant(own, bytes));
        }
    }
    cases
}
