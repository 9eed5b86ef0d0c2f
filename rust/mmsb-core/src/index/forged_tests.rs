//! What of an index is compared before it is believed, field by field; indexes that turn out to be wrong in the middle of a
//! query; and what verify says of those that are left over.

use super::exact_tests::{COUNT, DIR, first, store, world};
use super::read::Index;
use super::tests::{contents, forge, put};
use super::write::build;
use super::*;
use crate::arena::faults;
use crate::history::Store;
use crate::log::double::Double;
use crate::log::put_varint;
use crate::prune::Keep;
use crate::sequence::How;
use crate::vfs::{OpenKind, Vfs, write_all_at};
use crate::{Bus, Code, Error, Mode, Options, Result};

const HOW: How<'static> =
    How { source: None, meta: None, durability: None, time: None, wait: true };

fn open_index(store: &Store, name: SegmentName) -> Result<Option<Index>> {
    let mut walk = crate::log::open_segment(&*store.vfs, &store.dir, name, None)?;
    Index::open(store, name, &mut walk)
}

fn open(double: &Double, mode: Mode) -> Bus {
    Bus::open_on(double.vfs(), Path::new(DIR), mode, &Options::default(), &mut |_, _| {}).unwrap()
}

/// With right checksums, each field another.
#[test]
fn a_header_that_is_not_its_segments() {
    let double = world(8);
    let (store, name) = (store(&double), first(&double));
    let file = path(&store.dir, name);
    let right = contents(&double, &file);
    let seal = open_index(&store, name).unwrap().unwrap().ends;
    assert_eq!((seal.commits, seal.epoch), (COUNT, COUNT));
    // Major version, UUID, number, first epoch, commits, offset of the seal, chain value, length, size of the file.
    for at in [16, 40, 55, 56, 64, 72, 80, 88, 96, 120] {
        let mut forged = right.clone();
        forged[at] ^= 8;
        forge(&mut forged);
        put(&double, &file, &forged);
        assert!(open_index(&store, name).unwrap().is_none(), "byte {at}");
    }
    // What a newer version adds may be passed over.
    let mut newer = right.clone();
    newer[18] = 1;
    forge(&mut newer);
    put(&double, &file, &newer);
    assert!(open_index(&store, name).unwrap().is_some());
    // As many commits as there are have another number of marks: that is not the index of an older end.
    let mut forged = right.clone();
    forged[104] ^= 1;
    forge(&mut forged);
    put(&double, &file, &forged);
    let mut told = Vec::new();
    verify(&store, &mut |e| told.push(e.detail.offset)).unwrap();
    assert_eq!(told, [Some(104)]);
    let mut longer = right.clone();
    longer.push(0);
    for bytes in [&longer[..], &right[..HEADER], &right[..HEADER - 1]] {
        put(&double, &file, bytes);
        assert!(open_index(&store, name).unwrap().is_none(), "{} bytes", bytes.len());
    }
    put(&double, &file, &right);
    double.fail(|call| {
        let is_index = call.path.starts_with(dir(Path::new(DIR)));
        (call.what == "open" && is_index).then(|| std::io::Error::from_raw_os_error(5))
    });
    assert_eq!(open_index(&store, name).unwrap_err().detail.errno, Some(5));
    double.heal();
    double.unlink(&file).unwrap();
    assert!(open_index(&store, name).unwrap().is_none());
}

/// The commits before damage are given once, in both directions, though the segment is read when it is met.
#[test]
fn a_damaged_record_in_the_middle_of_a_query() {
    if cfg!(miri) {
        return;
    }
    let double = world(8);
    let (store, name) = (store(&double), first(&double));
    let index = open_index(&store, name).unwrap().unwrap();
    let places = index.places(&[3], 1, COUNT).unwrap().unwrap();
    let epochs: Vec<u64> = (1..=COUNT).filter(|&at| at == 1 || at.is_multiple_of(1000)).collect();
    assert_eq!(places.len(), epochs.len());
    let bus = open(&double, Mode::Read);
    let wanted = Wanted { page: Some(3), ..Wanted::default() };
    let ask = |reverse| {
        let found = bus.log_of(&wanted, 0, u64::MAX, reverse).unwrap();
        found.map(|commit| commit.map_or(0, |commit| commit.epoch())).collect::<Vec<u64>>()
    };
    assert_eq!(ask(false), epochs);
    let segment = double.open(&Path::new(DIR).join("log").join(name.file()), OpenKind::ReadWrite);
    write_all_at(&*segment.unwrap(), places[2] + 20, b"damage").unwrap();
    assert_eq!(ask(false), [epochs[0], epochs[1], 0]);
    let mut back: Vec<u64> = epochs[3..].iter().rev().copied().collect();
    back.push(0);
    assert_eq!(ask(true), back);
}

/// A place that is wrong in the middle of a query: the segment is read instead, from the commit after the last that was given.
#[test]
fn a_wrong_place_in_the_middle_of_a_query() {
    if cfg!(miri) {
        return;
    }
    let double = world(8);
    let (store, name) = (store(&double), first(&double));
    let index = open_index(&store, name).unwrap().unwrap();
    let mut places = index.places(&[3], 1, COUNT).unwrap().unwrap();
    let run = |places: &[u64]| {
        let mut run = Vec::new();
        put_varint(&mut run, places.len() as u64);
        let before = [0].into_iter().chain(places.iter().copied());
        places.iter().zip(before).for_each(|(at, before)| put_varint(&mut run, (at - before) / 8));
        run
    };
    let right = run(&places);
    places[2] += 8;
    let wrong = run(&places);
    let file = path(&store.dir, name);
    let mut bytes = contents(&double, &file);
    let at = bytes.windows(right.len()).position(|window| window == right).unwrap();
    bytes[at..at + wrong.len()].copy_from_slice(&wrong);
    let (marks, blocks) =
        (u64_at(&bytes, SEQ + 48) as usize * MARK, u64_at(&bytes, SEQ + 56) as usize);
    let (directory, blocks_at) = (HEADER + marks, HEADER + marks + blocks * ENTRY);
    for n in 0..blocks {
        let begin = |n: usize| match n < blocks {
            true => blocks_at + u64_at(&bytes, directory + n * ENTRY + 16) as usize,
            false => bytes.len(),
        };
        let hash = crate::hash::h64(&bytes[begin(n)..begin(n + 1)]);
        let at = directory + n * ENTRY + 24;
        bytes[at..at + 8].copy_from_slice(&hash.to_le_bytes());
    }
    forge(&mut bytes);
    put(&double, &file, &bytes);
    let wanted = Wanted { page: Some(3), ..Wanted::default() };
    let bus = open(&double, Mode::Read);
    let mut epochs: Vec<u64> = (1..=COUNT).filter(|&at| at == 1 || at % 1000 == 0).collect();
    for reverse in [false, true] {
        let found = bus.log_of(&wanted, 0, u64::MAX, reverse).unwrap();
        assert_eq!(found.map(|commit| commit.unwrap().epoch()).collect::<Vec<_>>(), epochs);
        epochs.reverse();
    }
}

/// A time between the base and the first commit after it is of no commit that is kept; nothing is read behind `newest`.
#[test]
fn epochs_of_times() {
    let double = world(8);
    let bus = open(&double, Mode::ReadWrite);
    let indexes = Indexes::new(store(&double), false, 0);
    let at = COUNT / 2;
    assert_eq!(indexes.epoch_as_of(u64::MAX, at).unwrap(), Some(at));
    assert_eq!(indexes.epoch_as_of(1, COUNT).unwrap(), None);
    assert_eq!(indexes.epoch_as_of(2, COUNT).unwrap(), Some(1));
    bus.prune(&Keep { log_since: Some(at), ..Keep::default() }).unwrap();
    // The segment with the base stays whole.
    assert_eq!(crate::log::list(&double, Path::new(DIR)).unwrap()[0].first_epoch, 1);
    assert_eq!(indexes.epoch_as_of(2 * at + 1, COUNT).unwrap(), None);
    assert_eq!(indexes.epoch_as_of(2 * at + 2, COUNT).unwrap(), Some(at + 1));
}

/// Who asks for an index that is not there has it; a short segment has none; without memory there is none.
#[test]
fn making_one() {
    let double = world(8);
    let (store, name) = (store(&double), first(&double));
    let file = path(&store.dir, name);
    let right = contents(&double, &file);
    let size = contents(&double, &Path::new(DIR).join("log").join(name.file())).len() as u64;
    assert_eq!(build(&store, name, size).unwrap(), Some(right.clone()));
    assert_eq!(build(&store, name, size + 1).unwrap(), None);
    let mut walk = crate::log::open_segment(&double, Path::new(DIR), name, None).unwrap();
    let get = |indexes: &Indexes, walk: &mut _| {
        double.unlink(&file).unwrap();
        indexes.get(name, walk, true).unwrap().is_some()
    };
    let least = |least| Indexes::new(store.clone(), true, least);
    assert!(get(&least(size), &mut walk));
    assert!(contents(&double, &file) == right);
    assert!(!get(&least(size + 1), &mut walk));
    put(&double, &file, &right);
    assert!(!get(&Indexes::new(store.clone(), false, size), &mut walk));
    for nth in 1.. {
        faults::arm(nth, false);
        let done = build(&store, name, 0);
        let is_refused = |error: Error| (error.code == Code::OutOfSpace).then_some(error.message);
        // Behind the window of the reader each key is asked for.
        let lacking = done.map_err(is_refused).unwrap_err().unwrap();
        if faults::disarm() && lacking.starts_with("no memory for the index of") {
            break;
        }
        assert!(nth < 5, "{lacking}");
    }
}

/// An index of a segment that was let go is left over, one of a number that the log should have is of no segment; while the
/// log itself is damaged none is told of.
#[test]
fn what_is_left_over() {
    let double = world(8);
    let (store, file) = (store(&double), path(Path::new(DIR), first(&double)));
    let right = contents(&double, &file);
    let bus = open(&double, Mode::ReadWrite);
    bus.write(1, 0, b"more", &HOW).unwrap();
    bus.prune(&Keep { log_since: Some(COUNT + 1), ..Keep::default() }).unwrap();
    assert!(!double.exists(&file).unwrap());
    let [only] = crate::log::list(&double, Path::new(DIR)).unwrap()[..] else { panic!() };
    assert_eq!(only.seq, 1);
    let told = || {
        let mut files = Vec::new();
        verify(&store, &mut |e| files.push(e.detail.file.unwrap())).unwrap();
        files
    };
    let other = |seq: u64| path(Path::new(DIR), SegmentName { seq, first_epoch: 9 });
    for seq in 0..3 {
        put(&double, &other(seq), &right);
    }
    assert_eq!(told(), [other(1), other(2)]);
    assert_eq!(before(&store, 0).unwrap(), [""; 0].map(PathBuf::from));
    assert_eq!(before(&store, 2).unwrap(), [other(0), other(1)]);
    double.fail(|call| (call.what == "list").then(|| std::io::Error::from_raw_os_error(5)));
    assert_eq!(before(&store, 2).unwrap_err().detail.errno, Some(5));
    double.heal();
    // Two files of one number: which of them the log goes on with is not known.
    let twin = Path::new(DIR).join("log").join(SegmentName { seq: 1, first_epoch: 5 }.file());
    put(&double, &twin, b"");
    assert_eq!(told(), [""; 0].map(PathBuf::from));
}
