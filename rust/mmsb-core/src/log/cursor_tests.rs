//! Cursors over a damaged log, forward and backward, against a list of the log's records.

use super::super::reader::Step;
use super::super::segment::RECORDS;
use super::super::tests::*;
use super::super::{Log, segment};
use super::*;
use crate::error::{Code, Detail};
use crate::vfs::{OpenKind, write_all_at};
use crate::{Batch, Bus, Durability, How, NewPage, Options};

const LAST: u64 = 11;

/// Where a segment can be damaged, and the first epoch that cannot be read then.
#[derive(Debug, Clone)]
struct Spot {
    segment: usize,
    path: PathBuf,
    at: u64,
    epoch: u64,
    is_commit: bool,
}

/// Segments of several commits, one with only a mark, marks between; the newest is not sealed.
fn sound() -> Arc<dyn Vfs> {
    let vfs = ram();
    let mut log = Log::create(vfs.clone(), dir(), options(RECORDS + 400)).unwrap();
    for epoch in 1..=LAST {
        append(&mut log, &commit(epoch, 40)).unwrap();
        if epoch.is_multiple_of(4) {
            log.append_mark(epoch, 1, 2).unwrap();
        }
        // What is opened again goes on in another segment.
        let reopen = |log: Log| {
            drop(log);
            try_open(&vfs, dir(), 0).unwrap().0
        };
        if epoch == 5 {
            log = reopen(log);
            log.append_mark(epoch, 3, 4).unwrap();
        }
        if epoch == 5 || epoch == 8 {
            log = reopen(log);
        }
    }
    vfs
}

fn spots(vfs: &dyn Vfs) -> Vec<Spot> {
    let mut spots = Vec::new();
    for (index, name) in segment::list(vfs, dir()).unwrap().into_iter().enumerate() {
        let mut walk = super::super::open_segment(vfs, dir(), name, None).unwrap();
        let path = walk.path.to_path_buf();
        let spot = |at, epoch, is_commit| Spot {
            segment: index,
            path: path.clone(),
            at,
            epoch,
            is_commit,
        };
        spots.push(spot(0, name.first_epoch, false));
        loop {
            let (at, epoch) = (walk.offset, walk.epoch + 1);
            let is_commit = match walk.step().unwrap() {
                Step::Nothing => break,
                step => matches!(step, Step::Commit(_)),
            };
            spots.push(spot(at, epoch, is_commit));
        }
    }
    spots
}

/// The epochs that a walk over a log with this one damage gives, and whether it ends with the error.
fn expected(spots: &[Spot], bad: &Spot, since: u64, until: u64, reverse: bool) -> (Vec<u64>, bool) {
    let of = |epoch| spots.iter().find(|s| s.is_commit && s.epoch == epoch).unwrap();
    let (first, last) = (of(since), of(until));
    let is_read = first.segment <= bad.segment && (bad.segment, bad.at) <= (last.segment, last.at);
    let can_be_had = |&epoch: &u64| match (is_read, reverse) {
        (false, _) => true,
        (true, false) => epoch < bad.epoch,
        (true, true) => of(epoch).segment > bad.segment,
    };
    let mut epochs: Vec<u64> = (since..=until).filter(can_be_had).collect();
    if reverse {
        epochs.reverse();
    }
    (epochs, is_read)
}

/// Each record and header damaged or cut off in turn, each range, both ways: all that comes before the damage on the
/// way, then an error that names its place; and what is behind the range is not looked at.
#[test]
fn every_damage_is_told_in_both_directions() {
    let vfs = sound();
    let (spots, files) = (spots(&*vfs), image(&*vfs, dir()));
    let segments = spots.iter().filter(|spot| spot.at == 0).count();
    assert_eq!((segments, spots.len()), (5, 23), "{spots:?}");
    let step = if cfg!(miri) { 7 } else { 1 };
    let mut told = 0;
    for (bad, cut) in spots.iter().flat_map(|bad| [(bad, false), (bad, true)]).step_by(step) {
        let vfs = restore(&files);
        let file = raw(&*vfs, &bad.path);
        if cut {
            file.set_len(bad.at).unwrap();
        } else {
            write_all_at(&*file, bad.at + 9, b"\xEE\xEE").unwrap();
        }
        for since in (1..=LAST).step_by(step) {
            for until in (since..=LAST).step_by(step) {
                for reverse in [false, true] {
                    let case = format!("{bad:?} {cut} {since} {until} {reverse}");
                    let mut cursor =
                        LogCursor::new(vfs.clone(), dir(), since, until, reverse).unwrap();
                    let (epochs, fails) = expected(&spots, bad, since, until, reverse);
                    for epoch in epochs {
                        let sound = commit(epoch, 40);
                        assert_eq!(cursor.next().unwrap().unwrap(), sound, "{case}");
                    }
                    if fails {
                        let error = cursor.next().expect(&case).unwrap_err();
                        let place = Detail {
                            file: Some(bad.path.clone()),
                            offset: Some(bad.at),
                            epoch: Some(bad.epoch),
                            ..Detail::default()
                        };
                        assert_eq!((error.code, error.detail), (Code::Corruption, place), "{case}");
                        told += 1;
                    }
                    assert!(cursor.next().is_none(), "{case}");
                }
            }
        }
    }
    assert!(told > if cfg!(miri) { 0 } else { 1000 }, "{told}");
}

/// The newest segment of another log in place of this one's: its records are sound, but they continue another history.
#[test]
fn a_segment_that_does_not_continue() {
    let made = |shift: u64| {
        let (vfs, mut log, _) = store(0, 0, RECORDS + 400);
        (1..=LAST).for_each(|epoch| {
            let ops = commit(epoch + shift, 40).ops;
            append(&mut log, &OwnedCommit { ops, ..commit(epoch, 0) }).unwrap();
        });
        vfs
    };
    let mut files = image(&*made(0), dir());
    let others = image(&*made(1), dir());
    let newest = segments(&*made(0)).len() - 1;
    assert_eq!(files[newest].0, others[newest].0);
    assert!(newest > 2 && files[newest] != others[newest]);
    files[newest] = others[newest].clone();
    let vfs = restore(&files);
    let first = segment::list(&*vfs, dir()).unwrap()[newest].first_epoch;
    for reverse in [false, true] {
        let cursor = LogCursor::new(vfs.clone(), dir(), 1, LAST, reverse).unwrap();
        let seen: Vec<_> = cursor.collect();
        let (last, given) = seen.split_last().unwrap();
        let given: Vec<u64> = given.iter().map(|c| c.as_ref().unwrap().epoch).collect();
        let expected: Vec<u64> =
            if reverse { (first..=LAST).rev().collect() } else { (1..first).collect() };
        assert_eq!(given, expected);
        let error = last.as_ref().unwrap_err();
        assert!(error.message.contains("does not continue the one before it"), "{error}");
        assert_eq!(
            (error.code, error.detail.file.as_ref()),
            (Code::Corruption, Some(&files[newest].0))
        );
        assert_eq!((error.detail.offset, error.detail.epoch), (Some(0), Some(first)));
        // Whoever opens the store is told the same.
        let opening = read_only(&vfs, dir()).unwrap_err();
        assert_eq!((&opening.message, &opening.detail), (&error.message, &error.detail));
    }
}

/// A log that lost its segments under a reader has lost commits; one that begins behind a base never had them.
#[test]
fn a_log_that_was_emptied() {
    let vfs = ram();
    let options = Options { max_memory: Some(1 << 20), ..Options::default() };
    let bus = Bus::create_on(vfs.clone(), dir(), &options).unwrap();
    let how = How { durability: Some(Durability::Os), wait: true, ..How::default() };
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[8]));
    bus.commit(&mut batch, None, &how).unwrap();
    for i in 1..5 {
        bus.write(1, 0, &[i], &how).unwrap();
    }
    let fork = bus.fork(&bus.snapshot().unwrap()).unwrap();
    let epochs = |bus: &Bus, since, until, reverse| -> Result<Vec<u64>> {
        bus.log(since, until, reverse)?.map(|c| c.map(|c| c.epoch())).collect()
    };
    for path in segments(&*vfs) {
        vfs.unlink(&path).unwrap();
    }
    for reverse in [false, true] {
        for (since, until) in [(0, u64::MAX), (1, 1), (2, 4), (5, 5)] {
            assert_eq!(epochs(&fork, since, until, reverse).unwrap(), [0; 0]);
            let error = epochs(&bus, since, until, reverse).unwrap_err();
            assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(since.max(1))));
            assert_eq!(error.detail.file.as_deref(), Some(&*dir().join("log")));
            assert!(error.message.contains("missing"), "{error}");
        }
        // Nothing was asked for.
        assert_eq!(epochs(&bus, 6, 9, reverse).unwrap(), [0; 0]);
        assert_eq!(epochs(&bus, 3, 2, reverse).unwrap(), [0; 0]);
    }
    fork.write(1, 0, b"x", &How { wait: true, ..How::default() }).unwrap();
    assert_eq!(epochs(&fork, 0, u64::MAX, true).unwrap(), [6]);
}

/// Only a segment before the base that is not there was let go.
#[test]
fn what_was_let_go() {
    let vfs = sound();
    let names = segment::list(&*vfs, dir()).unwrap();
    let missing = || {
        let path = dir().join("gone");
        let none = vfs.open(&path, OpenKind::Read).map(drop).unwrap_err();
        Error::storage(&path, &none, "cannot read")
    };
    let damaged = || Error::corruption(dir(), None, None, "damaged");
    let code = |number: usize, error| let_go(&*vfs, dir(), names[number], error).code;
    assert_eq!(code(0, missing()), Code::Storage);
    let meta = meta::read_meta(&*vfs, dir()).unwrap();
    let mut slots = meta::MetaSlots::open(&*vfs, dir(), meta).unwrap();
    slots.rebase(meta::LogBase { seq: names[1].seq, epoch: 7 }).unwrap();
    assert_eq!(code(0, missing()), Code::EpochNotFound);
    assert_eq!(code(0, damaged()), Code::Corruption);
    assert_eq!([1, 2].map(|number| code(number, missing())), [Code::Storage; 2]);
}
