//! What a past epoch takes against the files that are read for it; what is kept from one to the next, and how long.

use std::collections::BTreeSet;
use std::path::Path;

use super::tests::*;
use super::*;
use crate::delta::{Batch, NewPage};
use crate::index;
use crate::log::double::Double;
use crate::log::{SegmentName, Step};
use crate::vfs::RamVfs;
use crate::{Bus, Keep, Mode, Options};

/// Segments of a few commits.
fn short() -> Options {
    Options { segment_bytes: Some(4096 + 200), ..options() }
}

fn past(bus: &Bus, vfs: Arc<dyn Vfs>) -> Past {
    Past::new(Arc::new(Indexes::new(store(bus, vfs), false, 0)), 64 << 20)
}

fn path(name: SegmentName) -> PathBuf {
    log::log_dir(Path::new(DIR)).join(name.file())
}

/// Where the commits of a segment are, and where the last record ends that is not the seal.
fn places(vfs: &dyn Vfs, name: SegmentName) -> (Vec<u64>, u64) {
    let mut walk = log::open_segment(vfs, Path::new(DIR), name, None).unwrap();
    let mut commits = Vec::new();
    loop {
        let at = walk.offset;
        match walk.step().unwrap() {
            Step::Commit(_) => commits.push(at),
            Step::Mark { .. } => {}
            Step::Other | Step::Nothing | Step::Wrong(_) => return (commits, at),
        }
    }
}

/// The files of log and checkpoints that are opened meanwhile.
fn opened(double: &Double, act: impl FnOnce()) -> BTreeSet<PathBuf> {
    double.calls();
    act();
    let calls = double.calls().into_iter().filter(|call| call.what == "open");
    let is_data = |path: &PathBuf| path.extension().is_some_and(|e| e == "mlog" || e == "ckpt");
    calls.map(|call| call.path).filter(is_data).collect()
}

/// Bytes of files: of a segment's records without the seal, of a checkpoint all.
fn bytes(double: &Double, files: &BTreeSet<PathBuf>) -> u64 {
    let names = log::list(double, Path::new(DIR)).unwrap();
    let size = |file: &PathBuf| match names.iter().find(|&&name| path(name) == *file) {
        Some(&name) => places(double, name).1,
        None => double.open(file, crate::vfs::OpenKind::Read).unwrap().size().unwrap(),
    };
    files.iter().map(size).sum()
}

fn end(bus: &Bus) -> Option<Position> {
    lock(&bus.core().unwrap().sequencer).log.as_ref().map(log::Log::end)
}

/// No segment has so many commits that an index would tell which of them are not needed.
#[test]
fn what_an_epoch_takes_is_what_is_read() {
    let (double, bus, digests) = nine_with(&short());
    assert!(log::list(&double, Path::new(DIR)).unwrap().len() > 2);
    for epoch in 0..=9u64 {
        let fresh = past(&bus, double.vfs());
        let cost = fresh.cost(epoch, None, end(&bus)).unwrap();
        let read = opened(&double, || {
            let whole = fresh.whole(epoch, None).unwrap();
            assert_eq!(whole.digest().unwrap(), digests[epoch as usize]);
        });
        let checkpoint = (epoch >= 5).then_some(5);
        let (bytes, records) = (bytes(&double, &read), epoch - checkpoint.unwrap_or(0));
        assert_eq!(cost, Cost { checkpoint, bytes, records }, "{epoch}");
        if epoch < 9 {
            assert_eq!(bus.cost(epoch).unwrap(), cost);
        }
    }
    assert_eq!(bus.cost(9).unwrap(), Cost::default());
    for base in 0..=9 {
        let parent = bus.snapshot_at(base).unwrap().whole().unwrap();
        for epoch in base..=9 {
            let fresh = past(&bus, double.vfs());
            let cost = fresh.cost(epoch, Some(base), end(&bus)).unwrap();
            let read = opened(&double, || {
                let whole = fresh.whole(epoch, Some(&parent)).unwrap();
                assert_eq!(whole.digest().unwrap(), digests[epoch as usize]);
            });
            let (bytes, records) = (bytes(&double, &read), epoch - base);
            assert_eq!(cost, Cost { checkpoint: None, bytes, records }, "{base} {epoch}");
        }
    }
}

/// Without its index a sealed segment may have to be read to its end, but the newest one never behind the log's.
#[test]
fn what_an_epoch_takes_without_indexes() {
    let (double, bus, _) = nine_with(&short());
    let dir = index::dir(Path::new(DIR));
    for file in double.list(&dir).unwrap() {
        double.unlink(&dir.join(file)).unwrap();
    }
    let names = log::list(&double, Path::new(DIR)).unwrap();
    let size = |name: SegmentName| {
        double.open(&path(name), crate::vfs::OpenKind::Read).unwrap().size().unwrap()
    };
    let (last, others) = names.split_last().unwrap();
    let end = end(&bus).unwrap();
    assert_eq!((end.seq, end.offset), (last.seq, places(&double, *last).1));
    let past = past(&bus, double.vfs());
    let all: u64 = others.iter().map(|&name| size(name)).sum();
    let cost = |end| past.cost(9, Some(0), end).unwrap().bytes;
    assert_eq!(cost(Some(end)), all + end.offset);
    assert_eq!(cost(None), all + size(*last));
    // A host makes the indexes that are missing, and asks for none of the segment that grows.
    let before = double.list(&dir).unwrap().len();
    let read = opened(&double, || assert_eq!(bus.cost(4).unwrap().records, 4));
    assert!(!read.contains(&path(*last)));
    assert!(double.list(&dir).unwrap().len() > before);
}

/// A segment of many commits counts up to the next mark of its index.
#[test]
fn what_an_epoch_takes_of_a_long_segment() {
    let double = Double::new(Arc::new(RamVfs::new()));
    let options = Options { segment_bytes: Some(256 << 10), ..options() };
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &options).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage { shape: &[8], ..new(None, 8) });
    bus.commit(&mut batch, None, &how(1)).unwrap();
    for epoch in 2..=200 {
        bus.write(1, 0, &[epoch as u8; 8], &how(epoch)).unwrap();
    }
    bus.close().unwrap();
    let [name] = log::list(&double, Path::new(DIR)).unwrap()[..] else { panic!("one segment") };
    let (commits, seal) = places(&double, name);
    assert_eq!(commits.len(), 200);
    let bus = Bus::open_on(double.vfs(), Path::new(DIR), Mode::Read, &options, &mut |_, _| {});
    let bus = bus.unwrap();
    // Epoch 1 is the first of the commits; the 65th, the 129th and the 193rd have marks.
    let marked = [(1, 64, 64), (65, 128, 128), (129, 192, 192)];
    for (first, last, mark) in marked {
        for epoch in [first, last] {
            let want = Cost { checkpoint: None, bytes: commits[mark], records: epoch };
            assert_eq!(bus.cost(epoch).unwrap(), want);
        }
    }
    for epoch in [193, 199, 200] {
        assert_eq!(bus.cost(epoch).unwrap().bytes, seal);
    }
}

/// What a checkpoint stands on is read with it.
#[test]
fn what_an_epoch_takes_of_two_checkpoints() {
    let double = Double::new(Arc::new(RamVfs::new()));
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &options()).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage { shape: &[80_000], ..new(None, 80_000) });
    batch.write(1, 0, &[7; 80_000]);
    bus.commit(&mut batch, None, &how(1)).unwrap();
    bus.checkpoint().unwrap();
    bus.write(1, 50_000, b"other", &how(2)).unwrap();
    bus.checkpoint().unwrap();
    bus.write(1, 0, b"more", &how(3)).unwrap();
    bus.write(1, 9, b"more", &how(4)).unwrap();
    let past = past(&bus, double.vfs());
    let cost = past.cost(3, None, end(&bus)).unwrap();
    let read = opened(&double, || drop(past.whole(3, None).unwrap()));
    let checkpoints = [1, 2].map(|epoch| checkpoint::path(Path::new(DIR), epoch));
    assert!(checkpoints.iter().all(|file| read.contains(file)));
    let bytes = bytes(&double, &read);
    assert!(bytes > 80_000);
    assert_eq!(cost, Cost { checkpoint: Some(2), bytes, records: 1 });
}

/// Later epochs go on from the one before them; earlier ones do not.
#[test]
fn an_epoch_goes_on_from_the_one_before() {
    let (double, bus, digests) = nine_with(&short());
    let past = past(&bus, double.vfs());
    let checkpoint = checkpoint::path(Path::new(DIR), 5);
    let begins = [(6, true), (6, false), (7, false), (9, false), (8, true), (9, false)];
    for (epoch, loads) in begins {
        let read = opened(&double, || {
            let whole = past.whole(epoch, None).unwrap();
            assert_eq!(whole.digest().unwrap(), digests[epoch as usize]);
        });
        assert_eq!(read.contains(&checkpoint), loads, "{epoch}");
    }
}

#[test]
fn a_bus_that_is_closed_keeps_no_epoch() {
    let (_, bus, _) = nine_with(&short());
    let kept = || lock(&bus.inner().past.replay).is_some();
    bus.snapshot_at(7).unwrap().whole().unwrap();
    assert!(kept());
    bus.close().unwrap();
    assert!(!kept());
}

/// Who asks a fork for its parent's epochs is sent there, but not for those that the fork had itself.
#[test]
fn what_is_said_of_an_epoch_that_is_gone() {
    let (double, bus, _) = nine_with(&short());
    let at = bus.snapshot_at(5).unwrap();
    let fork = bus.fork_to_on(double.vfs(), &at, Path::new("/fork"), &short()).unwrap();
    for epoch in 6..=20 {
        // All pages, so that no checkpoint stands on that of the fork.
        fork.write(1 + epoch % 5, 0, &[epoch as u8; 100], &how(epoch)).unwrap();
        if epoch == 12 {
            fork.checkpoint().unwrap();
        }
    }
    fork.prune(&Keep { log_since: Some(15), ..Keep::default() }).unwrap();
    let gone = |epoch| {
        let error = fork.store().check_kept(epoch).unwrap_err();
        assert_eq!(error.code, Code::EpochNotFound);
        error.message
    };
    assert_eq!(gone(4), "epoch 4 is older than this fork of epoch 5; ask its parent");
    assert_eq!(gone(5), "epoch 5 was let go; the oldest that opens is 12");
    assert_eq!(fork.store().check_kept(12).unwrap().epoch, 12);
}
