//! Epochs read page by page against plain copies of what each epoch was, and how little of the files that takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::arena::BLOCK;
use crate::delta::{Batch, NewPage};
use crate::log::double::Double;
use crate::sequence::How;
use crate::vfs::testing::{contents, copied, put};
use crate::vfs::{RamVfs, Vfs};
use crate::{Bus, Code, Durability, Mode, Options, Snapshot, checkpoint, log};

const DIR: &str = "/s";
const EPOCHS: u64 = if cfg!(miri) { 30 } else { 240 };
/// A page of one block, one of several, one that changes its size, one that comes and goes.
const IDS: [u64; 4] = [1, 2, 3, 4];
const MANY: u64 = 4 * BLOCK + 77;

fn options() -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(64 << 20),
        seed: Some(3),
        segment_bytes: Some(4096 + 1500),
        ..Options::default()
    }
}

fn how(epoch: u64) -> How<'static> {
    How { time: Some(1000 + epoch), wait: true, ..How::default() }
}

/// Bytes of each page and the epoch that changed it last.
type State = BTreeMap<u64, (Vec<u8>, u64)>;

fn create(batch: &mut Batch, id: u64, size: u64) {
    let name = format!("page {id}");
    batch.create(id, &NewPage { name: Some(&name), ..NewPage::bytes(&[size]) });
}

/// One more epoch of the life that all tests look at.
fn step(bus: &Bus, states: &mut Vec<State>) {
    let epoch = states.len() as u64;
    let mut next = states[states.len() - 1].clone();
    let mut batch = Batch::new();
    if epoch == 1 {
        for (id, size) in IDS.into_iter().zip([100, MANY, 5000, 40]) {
            create(&mut batch, id, size);
            next.insert(id, (vec![0; size as usize], epoch));
        }
    } else {
        let id = IDS[(epoch % 4) as usize];
        let (bytes, changed) = next.entry(id).or_default();
        let mix = epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        match (id, epoch % 7) {
            (3, 0 | 3) => {
                let size = [0, 3000, BLOCK + 9, 2 * BLOCK, 17][(mix >> 40) as usize % 5];
                if bytes.len() as u64 != size {
                    *changed = epoch;
                }
                bytes.resize(size as usize, 0);
                batch.resize(id, &[size], size);
                batch.tag(&format!("t{epoch}"), None, false);
            }
            (4, 1) if !bytes.is_empty() => {
                batch.delete(id);
                next.remove(&id);
            }
            (4, _) if bytes.is_empty() => {
                create(&mut batch, id, 40);
                (*bytes, *changed) = (vec![0; 40], epoch);
                batch.write(id, 3, b"again");
                bytes[3..8].copy_from_slice(b"again");
            }
            // The same bytes: the page is as old as it was.
            (_, 5) if !bytes.is_empty() => {
                batch.write(id, 0, &bytes[..1]);
                batch.set_meta(1, &format!("{{\"at\":{epoch}}}"));
                next.get_mut(&1).unwrap().1 = epoch;
            }
            _ => {
                let at = if bytes.is_empty() { 0 } else { mix as usize % bytes.len() };
                let data = mix.to_le_bytes();
                let n = data.len().min(bytes.len() - at);
                batch.write(id, at as u64, &data[..n]);
                if bytes[at..at + n] != data[..n] {
                    *changed = epoch;
                }
                bytes[at..at + n].copy_from_slice(&data[..n]);
            }
        }
    }
    if epoch.is_multiple_of(9) {
        batch.tag("newest", None, true);
    }
    assert_eq!(bus.commit(&mut batch, None, &how(epoch)).unwrap().epoch, epoch);
    states.push(next);
}

/// A store of many small segments with a checkpoint in the middle, and what each of its epochs was.
fn world() -> (Double, Bus, Vec<State>) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &options()).unwrap();
    let mut states = vec![State::new()];
    for epoch in 1..=EPOCHS {
        step(&bus, &mut states);
        if epoch == EPOCHS / 3 || epoch == EPOCHS * 2 / 3 {
            bus.checkpoint().unwrap();
        }
    }
    (double, bus, states)
}

fn open(double: &Double, mode: Mode) -> Bus {
    Bus::open_on(double.vfs(), Path::new(DIR), mode, &options(), &mut |_, _| {}).unwrap()
}

/// Looks at every page by itself, in an order that differs from epoch to epoch, then at all.
fn check(at: &Snapshot, states: &[State]) {
    let state = &states[at.epoch() as usize];
    let names: Vec<_> = state.keys().map(|id| (*id, Some(format!("page {id}")))).collect();
    assert_eq!(at.names(), names, "epoch {}", at.epoch());
    assert_eq!(at.time(), if at.epoch() == 0 { 0 } else { 1000 + at.epoch() });
    let mut ids = IDS;
    ids.rotate_left(at.epoch() as usize % 4);
    for id in ids {
        let Some((bytes, epoch)) = state.get(&id) else {
            assert_eq!(at.info(id).unwrap(), None);
            assert_eq!(at.view(id).unwrap_err().code, Code::PageNotFound);
            continue;
        };
        // A part in the middle before the rest.
        let (start, stop) = (bytes.len() as u64 / 2, bytes.len() as u64 * 3 / 4);
        let part = at.view_range(id, start, stop).unwrap();
        assert_eq!(part.bytes(), &bytes[start as usize..stop as usize]);
        assert_eq!(at.view(id).unwrap().bytes(), bytes, "page {id} of epoch {}", at.epoch());
        assert_eq!(part.bytes(), &bytes[start as usize..stop as usize]);
        let info = at.info(id).unwrap().unwrap();
        assert_eq!((info.nbytes, info.epoch), (bytes.len() as u64, *epoch), "page {id}");
    }
}

/// The same, and what asks for the whole agrees with what was read page by page.
fn check_whole(at: &Snapshot, states: &[State]) {
    check(at, states);
    let infos: Vec<_> = at.names().iter().map(|(id, _)| at.info(*id).unwrap().unwrap()).collect();
    assert_eq!(at.infos().unwrap(), infos);
    check(at, states);
}

fn indexes(vfs: &dyn Vfs) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join("index");
    vfs.list(&dir).unwrap().into_iter().map(|name| dir.join(name)).collect()
}

/// By the host while it goes on, by a reader, with and without indexes and checkpoints.
#[test]
fn every_epoch_page_by_page() {
    let (double, bus, mut states) = world();
    for epoch in 0..=EPOCHS {
        check_whole(&bus.snapshot_at(epoch).unwrap(), &states);
    }
    // What was read of the segment that is being written goes on with it.
    let kept = bus.snapshot_at(EPOCHS - 1).unwrap();
    for _ in 0..20 {
        step(&bus, &mut states);
        check(&bus.snapshot_at(bus.epoch() - 1).unwrap(), &states);
        let reader = open(&double, Mode::Read);
        assert_eq!(reader.epoch(), bus.epoch());
        check(&reader.snapshot().unwrap(), &states);
    }
    check_whole(&kept, &states);
    bus.close().unwrap();
    drop(bus);
    let all = |what: &str| {
        let reader = open(&double, Mode::Read);
        assert_eq!(reader.epoch() as usize, states.len() - 1, "{what}");
        check_whole(&reader.snapshot().unwrap(), &states);
        for epoch in (0..=reader.epoch()).rev().step_by(3) {
            check(&reader.snapshot_at(epoch).unwrap(), &states);
        }
    };
    all("as it is");
    assert!(indexes(&double).len() > 3 || cfg!(miri));
    indexes(&double).iter().for_each(|file| double.unlink(file).unwrap());
    all("without indexes");
    for epoch in checkpoint::list(&double, Path::new(DIR)).unwrap() {
        double.unlink(&checkpoint::path(Path::new(DIR), epoch)).unwrap();
        all("without a checkpoint");
    }
}

/// A checkpoint that was thinned after it was opened is still read.
#[test]
fn files_are_held_that_are_needed_later() {
    let (double, bus, states) = world();
    let at = bus.snapshot_at(EPOCHS * 2 / 3 + 1).unwrap();
    for epoch in checkpoint::list(&double, Path::new(DIR)).unwrap() {
        double.unlink(&checkpoint::path(Path::new(DIR), epoch)).unwrap();
    }
    check(&at, &states);
}

/// One page of many, of the newest epoch and of a past one: little is read.
#[test]
fn little_is_read() {
    let double = Double::new(Arc::new(RamVfs::new()));
    let large = Options { segment_bytes: Some(1 << 20), max_memory: Some(256 << 20), ..options() };
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &large).unwrap();
    let (pages, size) = (if cfg!(miri) { 8 } else { 200 }, 6 * BLOCK);
    let mut batch = Batch::new();
    for id in 1..=pages {
        batch.clear();
        create(&mut batch, id, size);
        batch.write(id, 0, &vec![id as u8; size as usize]);
        bus.commit(&mut batch, None, &how(id)).unwrap();
    }
    bus.checkpoint().unwrap();
    for n in 0..pages * 10 {
        bus.write(1 + n % pages, n, &[n as u8; 700], &how(1000 + n)).unwrap();
    }
    let newest = bus.epoch();
    bus.close().unwrap();
    double.calls();
    let read = || -> u64 {
        let calls = double.calls();
        calls.iter().filter(|call| call.what == "read").map(|call| call.len).sum()
    };
    let reader = open(&double, Mode::Read);
    let at = reader.view(7 % pages).unwrap();
    let (opened, state) = (read(), pages * size);
    assert_eq!(at.len() as u64, size);
    assert!(opened < 2 * size + (600 << 10), "{opened} bytes of {state} were read");
    let past = reader.snapshot_at(newest - pages).unwrap();
    let mut byte = [0];
    past.read(3, size - 1, &mut byte).unwrap();
    assert_eq!(byte, [3]);
    let opened = read();
    assert!(opened < 3 * BLOCK + (600 << 10), "{opened} bytes of {state} were read");
    past.digest().unwrap();
    assert!(read() > state, "who asks for all reads all");
}

/// A damaged block of the checkpoint: the log says the same. A damaged record: the pages that need it are refused.
#[test]
fn damage_is_met_where_it_is_needed() {
    let (double, bus, states) = world();
    bus.close().unwrap();
    drop(bus);
    let epoch = EPOCHS * 2 / 3;
    let file = checkpoint::path(Path::new(DIR), epoch);
    let good = contents(&double, &file);
    for at in (4096..4096 + MANY as usize).step_by(3001) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        put(&double, &file, &bad);
        let reader = open(&double, Mode::Read);
        check_whole(&reader.snapshot().unwrap(), &states);
        check(&reader.snapshot_at(epoch + 3).unwrap(), &states);
    }
    put(&double, &file, &good);
    // A write to page 1 behind the checkpoint, in a segment that others follow.
    let last = (epoch + 4..).find(|e| e % 4 == 0 && e % 7 != 5 && e % 9 != 0).unwrap();
    let entry = |epoch: u64| {
        let names = log::list(&double, Path::new(DIR)).unwrap();
        let name = names[names.partition_point(|name| name.first_epoch <= epoch) - 1];
        let mut walk = log::open_segment(&double, Path::new(DIR), name, None).unwrap();
        loop {
            let begin = walk.offset;
            match walk.step().unwrap() {
                log::Step::Commit(commit) if commit.epoch == epoch => return (name, begin),
                log::Step::Nothing => panic!("no commit {epoch}"),
                _ => {}
            }
        }
    };
    let (name, offset) = entry(last);
    let path = log::log_dir(Path::new(DIR)).join(name.file());
    let mut bad = contents(&double, &path);
    bad[offset as usize + 30] ^= 1;
    put(&double, &path, &bad);
    let reader = open(&double, Mode::Read);
    let at = reader.snapshot().unwrap();
    let error = at.view(1).unwrap_err();
    let place = (error.detail.file.as_deref(), error.detail.offset, error.detail.epoch);
    assert_eq!(error.code, Code::Corruption);
    assert_eq!(place, (Some(&*path), Some(offset), Some(last)));
    let (bytes, _) = &states[EPOCHS as usize][&2];
    assert_eq!(at.view(2).unwrap().bytes(), bytes);
    assert!(at.digest().is_err());
    assert!(!reader.verify(&mut |_, _| {}).unwrap().problems.is_empty());
}

/// An index with right checksums and wrong places leads nowhere, and costs time only.
#[test]
fn a_wrong_index_is_not_believed() {
    let (double, bus, states) = world();
    bus.close().unwrap();
    drop(bus);
    let files = indexes(&double);
    let good: Vec<_> = files.iter().map(|file| contents(&double, file)).collect();
    for (file, bytes) in files.iter().zip(&good) {
        for (other, _) in good.iter().zip(&files) {
            put(&double, file, other);
        }
        put(&double, file, &bytes[..bytes.len() - 1]);
    }
    check_whole(&open(&double, Mode::Read).snapshot().unwrap(), &states);
    // Blocks are not covered by the header's hash: each by its own.
    for (file, bytes) in files.iter().zip(&good) {
        let mut bad = bytes.clone();
        *bad.last_mut().unwrap() ^= 1;
        put(&double, file, &bad);
    }
    let reader = open(&double, Mode::Read);
    for epoch in (0..=reader.epoch()).step_by(7) {
        check(&reader.snapshot_at(epoch).unwrap(), &states);
    }
}

/// A power loss took the end of the segment before the last, up to its header: a reader shows what the host will.
#[test]
fn a_torn_end_in_front_of_the_last_segment() {
    let (live, _bus, states) = world();
    let double = copied(&live, Path::new(DIR));
    let names = log::list(&double, Path::new(DIR)).unwrap();
    let &[.., torn, last] = &names[..] else { panic!("one segment") };
    let path = log::log_dir(Path::new(DIR)).join(torn.file());
    let whole = contents(&double, &path);
    let mut newest = Vec::new();
    for kept in (0..whole.len()).rev().step_by(24) {
        let mut lost = whole.clone();
        lost[kept..].fill(0);
        put(&double, &path, &lost);
        let epochs = [Mode::Read, Mode::ReadWrite].map(|mode| {
            let copy = Double::new(Arc::new(copied(&double, Path::new(DIR))));
            let bus = open(&copy, mode);
            check_whole(&bus.snapshot().unwrap(), &states);
            for epoch in bus.epoch().saturating_sub(9)..=bus.epoch() {
                check(&bus.snapshot_at(epoch).unwrap(), &states);
            }
            bus.epoch()
        });
        assert_eq!(epochs[0], epochs[1], "{kept} bytes are left");
        newest.push(epochs[0]);
    }
    newest.dedup();
    let all = (torn.first_epoch - 1..last.first_epoch).chain([EPOCHS]);
    assert_eq!(newest, all.rev().collect::<Vec<_>>());
}
