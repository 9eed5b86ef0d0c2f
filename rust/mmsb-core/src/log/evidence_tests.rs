//! What proves that a place in the log had been durable: each proof alone, and at its very edge.

use std::path::PathBuf;

use super::segment::RECORDS;
use super::tests::*;
use super::*;
use crate::error::Code;

type Files = Vec<(PathBuf, Vec<u8>)>;

/// Syncs without writing a meta slot, so that only the log itself knows.
fn sync_only(log: &mut Log) {
    let point = log.sync_point();
    point.sync().unwrap();
    log.synced(&point);
}

/// The answer of the host: how many commits are left, or that it is damage; a reader must give the same.
fn verdict_of(files: &Files) -> Option<usize> {
    let host = try_open(&restore(files), dir(), 0).map(|(_, _, seen)| seen.len());
    let reader = read_only(&restore(files), dir()).map(|(_, seen)| seen.len());
    match (host, reader) {
        (Ok(host), Ok(reader)) => {
            assert_eq!(host, reader);
            Some(host)
        }
        (Err(host), Err(reader)) => {
            assert_eq!((host.code, reader.code), (Code::Corruption, Code::Corruption));
            assert_eq!(host.message, reader.message);
            None
        }
        (host, reader) => panic!("{host:?} {reader:?}"),
    }
}

/// Two commits, a sync, two more in the first segment, then a second one.
fn two_segments(sync_after: &[u64]) -> (Files, Vec<u64>) {
    let (vfs, mut log, _) = store(0, 0, RECORDS + 500);
    let mut ends = vec![RECORDS];
    for epoch in 1..=7 {
        append(&mut log, &OwnedCommit { source: None, meta: None, ..commit(epoch, 40) }).unwrap();
        ends.push(log.end().offset);
        if sync_after.contains(&epoch) {
            sync_only(&mut log);
        }
    }
    assert_eq!(log.end().seq, 1);
    drop(log);
    (image(&*vfs, dir()), ends)
}

fn cut(files: &Files, at: u64) -> Files {
    let mut files = files.clone();
    files[0].1.truncate(at as usize);
    files
}

/// Nothing but the next segment's header says how far the one before was durable.
#[test]
fn a_later_header() {
    let (files, ends) = two_segments(&[2]);
    let first_in_second = (1..7).find(|&i| ends[i + 1] < ends[i]).unwrap();
    assert!(first_in_second >= 4, "{ends:?}");
    for (epoch, &end) in ends[..3].iter().enumerate() {
        // Its end is the place in question: what was synced ends with commit 2.
        let got = verdict_of(&cut(&files, end));
        assert_eq!(got, (epoch == 2).then_some(2), "{epoch}");
    }
    assert_eq!(verdict_of(&cut(&files, ends[3])), Some(3));
    // Without that segment nothing says so but the records behind.
    let mut alone = cut(&files, ends[1]);
    alone.remove(1);
    assert_eq!(verdict_of(&alone), Some(1));
}

/// A record of the last segment that tells of a sync proves the whole segment before.
#[test]
fn a_record_of_the_last_segment() {
    let (files, ends) = two_segments(&[6]);
    assert_eq!(verdict_of(&cut(&files, ends[1])), None);
    let (files, ends) = two_segments(&[]);
    assert_eq!(verdict_of(&cut(&files, ends[1])), Some(1));
}

/// A sync whose end is known only after the next commit: that commit is not covered, those before are.
#[test]
fn a_sync_that_overlaps_a_commit() {
    let (vfs, mut log, _) = store(2, 40, 64 << 10);
    let mut starts = vec![RECORDS];
    let point = log.sync_point();
    let covered = log.end().offset;
    point.sync().unwrap();
    append(&mut log, &commit(3, 40)).unwrap();
    log.synced(&point);
    append(&mut log, &commit(4, 40)).unwrap();
    starts.push(covered);
    drop(log);
    let files = image(&*vfs, dir());
    let damaged = |at: u64| {
        let mut files = files.clone();
        files[0].1[at as usize + 40] ^= 1;
        verdict_of(&files)
    };
    assert_eq!(damaged(starts[0]), None);
    assert_eq!(damaged(starts[1]), Some(2));
}

/// A record that is gone without a trace, in front of one that proves it: zeros do not end the search.
#[test]
fn zeros_in_front_of_a_proof() {
    let (vfs, mut log, _) = store(0, 0, 1 << 20);
    let mut starts = Vec::new();
    for (epoch, size) in (1..).zip([40, 40, 300_000, 40, 40]) {
        starts.push(log.end().offset as usize);
        append(&mut log, &commit(epoch, size)).unwrap();
        if epoch == 4 {
            sync_only(&mut log);
        }
    }
    let end = log.end().offset as usize;
    drop(log);
    let files = image(&*vfs, dir());
    let zeroed = |from: usize, to: usize| {
        let mut files = files.clone();
        files[0].1[from..to].fill(0);
        verdict_of(&files)
    };
    // The fifth record tells of the sync of the four before it.
    assert_eq!(zeroed(starts[1], starts[2]), None);
    assert_eq!(zeroed(starts[2], starts[3]), None);
    assert_eq!(zeroed(starts[1], starts[4]), None);
    assert_eq!(zeroed(starts[3], starts[4]), None);
    assert_eq!(zeroed(starts[0], starts[4]), None);
    assert_eq!(zeroed(starts[4], end), Some(4));
    assert_eq!(zeroed(starts[1], end), Some(1));
    // A proof whose first bytes are torn is none; one that is damaged later is none either.
    let both = |at: usize| {
        let mut files = files.clone();
        files[0].1[starts[1]..starts[2]].fill(0);
        files[0].1[at] ^= 1;
        verdict_of(&files)
    };
    assert_eq!(both(starts[4]), Some(1));
    assert_eq!(both(end - 20), Some(1));
}

/// Of a checkpoint's epochs none may be lost; the one behind it may.
#[test]
fn a_checkpoint() {
    let (vfs, mut log, _) = store(0, 0, 64 << 10);
    let mut starts = Vec::new();
    for epoch in 1..=5 {
        starts.push(log.end().offset as usize);
        append(&mut log, &commit(epoch, 40)).unwrap();
    }
    drop(log);
    let files = image(&*vfs, dir());
    for damaged in 1..=5u64 {
        for from in 0..=5u64 {
            let mut files = files.clone();
            files[0].1[starts[damaged as usize - 1] + 40] ^= 1;
            let got = try_open(&restore(&files), dir(), from);
            if damaged <= from {
                let error = got.map(|_| ()).unwrap_err();
                assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(damaged)));
            } else {
                assert_eq!(got.unwrap().2.len() as u64, damaged - 1 - from);
            }
        }
    }
}

/// A log that ends before a checkpoint has lost commits, whatever epoch the name of a torn segment behind it tells.
#[test]
fn a_name_proves_nothing() {
    let (vfs, mut log, _) = store(5, 40, 64 << 10);
    log.close().unwrap();
    drop(log);
    let mut files = image(&*vfs, dir());
    let name = segment::SegmentName { seq: 1, first_epoch: 20 };
    files.push((segment::log_dir(dir()).join(name.file()), vec![7; 100]));
    for (from, is_lost) in [(5, false), (6, true), (10, true)] {
        let got = try_open(&restore(&files), dir(), from).map(|(_, found, _)| found.last_epoch);
        match is_lost {
            true => assert_eq!(got.unwrap_err().code, Code::Corruption),
            false => assert_eq!(got.unwrap(), 5),
        }
    }
}
