//! Exactly which places an index names, how little is read for them, and when one is made, left alone or told of.

use std::sync::Arc;

use super::read::Index;
use super::tests::{contents, put};
use super::*;
use crate::delta::{Batch, NewPage};
use crate::history::Store;
use crate::log::LogCursor;
use crate::log::double::{Call, Double};
use crate::sequence::How;
use crate::vfs::{OpenKind, RamVfs, Vfs};
use crate::{Bus, Code, Durability, Mode, Options};

pub(super) const DIR: &str = "/s";
pub(super) const COUNT: u64 = if cfg!(miri) { 200 } else { 6000 };

fn options() -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(16 << 20),
        seed: Some(3),
        segment_bytes: Some(16 << 20),
        ..Options::default()
    }
}

fn pages_of(epoch: u64) -> Vec<u64> {
    let every = [1, 3, 1000];
    (1..=3).filter(|&id| epoch == 1 || epoch.is_multiple_of(every[id as usize - 1])).collect()
}

/// A closed store of one segment: page 1 in every commit, 2 in each third, 3 in each thousandth, a step in each.
pub(super) fn world(len: u64) -> Double {
    let double = Double::new(Arc::new(RamVfs::new()));
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &options()).unwrap();
    let mut batch = Batch::new();
    for epoch in 1..=COUNT {
        batch.clear();
        for id in pages_of(epoch) {
            if epoch == 1 {
                batch.create(id, &NewPage::bytes(&[len]));
            }
            batch.write(id, 0, &epoch.to_le_bytes().repeat(len as usize / 8));
        }
        let meta = format!("{{\"step\":{epoch}}}");
        let how = How { meta: Some(&meta), time: Some(2 * epoch), wait: true, ..How::default() };
        assert_eq!(bus.commit(&mut batch, None, &how).unwrap().epoch, epoch);
    }
    bus.close().unwrap();
    double
}

pub(super) fn store(double: &Double) -> Store {
    let uuid = crate::log::read_meta(double, Path::new(DIR)).unwrap().uuid;
    Store { vfs: double.vfs(), dir: DIR.into(), uuid }
}

pub(super) fn first(double: &Double) -> SegmentName {
    crate::log::list(double, Path::new(DIR)).unwrap()[0]
}

/// Every key in every range has the places of its commits, of whole strides around the range, and no other.
#[test]
fn places_are_exact() {
    let double = world(8);
    let (store, name) = (store(&double), first(&double));
    let mut walk = crate::log::open_segment(&double, Path::new(DIR), name, None).unwrap();
    let index = Index::open(&store, name, &mut walk).unwrap().unwrap();
    let mut offsets = vec![0];
    let mut cursor = LogCursor::new(double.vfs(), Path::new(DIR), 1, COUNT, false).unwrap();
    while let Some(commit) = cursor.next_commit().unwrap() {
        offsets.push(commit.offset);
    }
    let ranges = [
        (1, COUNT),
        (1, 1),
        (64, 64),
        (65, 65),
        (65, 128),
        (COUNT / 2, COUNT / 2 + 70),
        (COUNT, COUNT),
        (COUNT - 200, u64::MAX),
    ];
    for (since, until) in ranges {
        let around = (since - 1) / 64 * 64 + 1..=((until.min(COUNT) - 1) / 64 + 1) * 64;
        for id in 1..=4 {
            let expected: Vec<_> = (1..=COUNT)
                .filter(|epoch| around.contains(epoch) && pages_of(*epoch).contains(&id))
                .map(|epoch| offsets[epoch as usize])
                .collect();
            let places = index.places(&[key(Kind::Page, id)], since, until).unwrap().unwrap();
            assert_eq!(places, expected, "page {id} in {since}..={until}");
        }
    }
    for epoch in (1..=COUNT).step_by(7) {
        let step = text_key(Kind::Meta, &format!("\"step\":{epoch}"));
        let both = index.places(&[key(Kind::Page, 1), step], 1, COUNT).unwrap().unwrap();
        assert_eq!(both, [offsets[epoch as usize]]);
        let marked = (epoch - 1) / 64 * 64 + 1;
        assert_eq!(index.mark_before(epoch), Some((offsets[marked as usize], marked)));
        assert_eq!(index.mark_as_of(2 * epoch), Some((offsets[marked as usize], marked)));
    }
    let last = (COUNT - 1) / 64 * 64 + 1;
    assert_eq!(index.mark_before(u64::MAX), Some((offsets[last as usize], last)));
    assert_eq!((index.mark_before(0), index.mark_as_of(1)), (None, None));
}

/// Of a log of megabytes a part is read, however it is asked.
#[test]
fn little_is_read() {
    if cfg!(miri) {
        return;
    }
    let double = world(800);
    let log =
        contents(&double, &Path::new(DIR).join("log").join(first(&double).file())).len() as u64;
    let bus =
        Bus::open_on(double.vfs(), Path::new(DIR), Mode::Read, &options(), &mut |_, _| {}).unwrap();
    let read = |what: &str, most: u64, work: &dyn Fn()| {
        double.calls();
        work();
        let read: u64 =
            double.calls().iter().filter(|call| call.what == "read").map(|call| call.len).sum();
        assert!(read < most, "{what}: {read} of {log} bytes");
    };
    let middle = COUNT / 2 + 31;
    let file = file_name(first(&double));
    let one = |wanted: &Wanted, since| {
        bus.log_of(wanted, since, u64::MAX, false).unwrap().next().unwrap().unwrap().epoch()
    };
    let step = Wanted { meta: vec![format!("\"step\":{middle}")], ..Wanted::default() };
    assert!(log > 6 << 20);
    read("one step", log / 2, &|| assert_eq!(one(&step, 1), middle));
    read("a range", log / 2, &|| assert_eq!(one(&Wanted::default(), middle), middle));
    read("a moment", log / 2, &|| assert_eq!(bus.epoch_as_of(2 * middle).unwrap(), Some(middle)));
    // From a commit at a mark, and from just before one. In the first stride nothing is saved.
    for (since, opened) in [(64, 0), (65, 1), (128, 1), (129, 1)] {
        double.calls();
        assert_eq!(one(&Wanted::default(), since), since);
        let is_index = |call: &&Call| call.what == "open" && call.path.ends_with(&file);
        assert_eq!(double.calls().iter().filter(is_index).count(), opened, "since {since}");
    }
    // Header, tables, and at most two blocks for each of two keys.
    let both = Wanted { page: Some(3), ..step };
    double.calls();
    assert_eq!(bus.log_of(&both, 1, u64::MAX, false).unwrap().count(), 0);
    let is_read = |call: &&Call| call.what == "read" && call.path.ends_with(&file);
    assert!(double.calls().iter().filter(is_read).count() <= 6);
}

/// Short segments get no index, longer ones when they are sealed; nobody makes one when the bus is closed.
#[test]
fn when_one_is_made() {
    let double = Double::new(Arc::new(RamVfs::new()));
    let index_dir = dir(Path::new(DIR));
    let small = Options { segment_bytes: Some(1 << 20), ..options() };
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &small).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[9000]));
    let how = How { wait: true, ..How::default() };
    bus.commit(&mut batch, None, &how).unwrap();
    bus.close().unwrap();
    drop(bus);
    assert!(!double.exists(&index_dir).unwrap());
    let open =
        |mode| Bus::open_on(double.vfs(), Path::new(DIR), mode, &small, &mut |_, _| {}).unwrap();
    // A segment of a 64th of the size is worth one.
    let bus = open(Mode::ReadWrite);
    (0..2u8).for_each(|i| _ = bus.write(1, 0, &[i + 1; 9000], &how).unwrap());
    double.create_dir(&index_dir).unwrap();
    put(&double, &index_dir.join("x"), b"");
    bus.close().unwrap();
    drop(bus);
    let files = double.list(&index_dir).unwrap();
    assert_eq!(files, ["0000000000000001-0000000000000002.midx", "x"]);
    // What a crash left goes with the next end; a query that was begun before makes nothing after it.
    let bus = open(Mode::ReadWrite);
    bus.write(1, 0, &[9; 9000], &how).unwrap();
    put(&double, &index_dir.join(TEMP), b"half");
    let wanted = Wanted { page: Some(1), ..Wanted::default() };
    let entries = bus.log_of(&wanted, 0, u64::MAX, false).unwrap();
    bus.close().unwrap();
    drop(bus);
    assert!(!double.exists(&index_dir.join(TEMP)).unwrap());
    double.unlink(&index_dir.join(&files[0])).unwrap();
    assert_eq!(entries.count(), 4);
    assert_eq!(double.list(&index_dir).unwrap(), ["x"]);
}

/// What verify says of indexes, and that it counts them.
#[test]
fn what_verify_tells() {
    let double = world(8);
    let store = store(&double);
    let index_dir = dir(Path::new(DIR));
    let file = index_dir.join(&double.list(&index_dir).unwrap()[0]);
    let right = contents(&double, &file);
    let told = || {
        let mut problems = Vec::new();
        let bytes = verify(&store, &mut |e| problems.push(e)).unwrap();
        (bytes, problems)
    };
    assert_eq!((told().0, told().1.len()), (right.len() as u64, 0));
    // Of a segment that is not there.
    let other = index_dir.join("0000000000000007-0000000000000009.midx");
    put(&double, &other, &right);
    let (bytes, problems) = told();
    assert_eq!((bytes, problems.len()), (2 * right.len() as u64, 1));
    assert_eq!(problems[0].detail.file.as_deref(), Some(&*other));
    double.unlink(&other).unwrap();
    // A damaged segment is told of as such, and so is one of a newer format.
    let segment = Path::new(DIR).join("log").join(first(&double).file());
    let sound = contents(&double, &segment);
    let mut bad = sound.clone();
    bad[9000] ^= 1;
    let mut newer = sound.clone();
    newer[24] = 1;
    let sum = h64(&newer[..4088]);
    newer[4088..4096].copy_from_slice(&sum.to_le_bytes());
    for bytes in [&bad, &newer] {
        put(&double, &segment, bytes);
        assert_eq!(told().1.len(), 0);
    }
    put(&double, &segment, &sound);
    // What cannot be read is an error.
    for what in ["list", "open", "read"] {
        double.fail(move |call| {
            let is_index = call.path.starts_with(dir(Path::new(DIR)));
            (call.what == what && is_index).then(|| std::io::Error::from_raw_os_error(5))
        });
        let failed = verify(&store, &mut |e| panic!("{e}")).unwrap_err();
        double.heal();
        assert_eq!((failed.code, failed.detail.errno), (Code::Storage, Some(5)), "{what}");
    }
    double.open(&file, OpenKind::Read).unwrap();
    double.unlink(&file).unwrap();
    assert_eq!((told().0, told().1.len()), (0, 0));
}

/// The keys that FORMAT.md gives.
#[test]
fn keys_are_those_of_the_format() {
    let part = |text: &str| crate::hash::h64(text.as_bytes()) >> 26;
    let wanted =
        Wanted { page: Some(77), source: Some("physics".into()), meta: vec!["\"step\":7".into()] };
    let (source, meta) = ((1 << 62) + part("physics"), (1 << 63) + part("\"step\":7"));
    assert_eq!(wanted.keys(), [77, source, meta]);
    assert_eq!((STRUCTURE, MARKS), ((1 << 63) + (1 << 62), (1 << 63) + (1 << 62) + 1));
    let largest = (1 << 62) - 1;
    assert_eq!([largest, largest + 1, u64::MAX].map(page_key), [Some(largest), None, None]);
}
