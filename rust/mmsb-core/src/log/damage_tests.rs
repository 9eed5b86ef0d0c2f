//! Damage of every kind: cut, flipped, exchanged, missing, torn or durable, absurd.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use super::segment::RECORDS;
use super::tests::*;
use super::*;
use crate::error::Code;
use crate::hash::h64;
use crate::vfs::{OpenKind, OsVfs, read_full_at, write_all_at};

/// The log of an unsynced store cut at every byte of its last record: the state before it comes back, the torn bytes
/// are kept, and the store lives on. The same with the record synced: damage, and nothing is touched.
#[test]
fn every_cut_of_the_last_record() {
    for synced in [false, true] {
        let (vfs, mut log, all) = store(5, 40, 64 << 10);
        let before = log.end().offset;
        let last = commit(6, 40);
        append(&mut log, &last).unwrap();
        if synced {
            sync(&mut log);
        }
        let end = log.end().offset;
        drop(log);
        let files = image(&*vfs, Path::new(DIR));
        for cut in before..end {
            for fill in [None, Some(0u8), Some(0xA5)] {
                let mut files = files.clone();
                let bytes = &mut files[0].1;
                match fill {
                    None => bytes.truncate(cut as usize),
                    Some(fill) => bytes[cut as usize..end as usize].fill(fill),
                }
                if bytes.get(..end as usize)
                    == Some(&image(&*vfs, Path::new(DIR))[0].1[..end as usize])
                {
                    continue; // the cut took zeros only
                }
                check_cut(&files, &all, &last, synced, before);
            }
        }
    }
}

fn check_cut(
    files: &[(PathBuf, Vec<u8>)],
    all: &[OwnedCommit],
    last: &OwnedCommit,
    synced: bool,
    before: u64,
) {
    let vfs = restore(files);
    let dir = Path::new(DIR);
    if synced {
        let error = try_open(&vfs, dir, 0).unwrap_err();
        assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(6)));
        assert_eq!(error.detail.offset, Some(before));
        assert_eq!(read_only(&vfs, dir).unwrap_err().code, Code::Corruption);
        assert_eq!(image(&*vfs, dir), files);
        return;
    }
    assert_eq!(read_only(&vfs, dir).unwrap().1, all);
    assert_eq!(image(&*vfs, dir), files);
    let (mut log, found, seen) = try_open(&vfs, dir, 0).unwrap();
    assert_eq!(seen, all);
    let torn: Vec<u8> = files[0].1[before as usize..].to_vec();
    let torn = &torn[..torn.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1)];
    assert_eq!(found.torn_bytes, torn.len() as u64);
    assert_eq!(found.quarantined.len(), usize::from(!torn.is_empty()));
    if let Some(path) = found.quarantined.first() {
        let mut kept = vec![0; torn.len() + 1];
        let n = read_full_at(&*raw(&*vfs, path), 0, &mut kept).unwrap();
        assert_eq!(&kept[..n], torn);
    }
    append(&mut log, last).unwrap();
    log.close().unwrap();
    drop(log);
    assert_eq!(try_open(&vfs, dir, 0).unwrap().2.len(), 6);
    assert_eq!(problems(&vfs, dir).len(), 0);
}

/// Every bit of a closed store: no flip passes, none gives a wrong state, and `verify` sees each one.
#[test]
fn every_bit_of_a_closed_store() {
    let (vfs, mut log, all) = store(12, 30, 4096 + 400);
    log.close().unwrap();
    drop(log);
    assert!(segments(&*vfs).len() > 2);
    let files = image(&*vfs, Path::new(DIR));
    let vfs = restore(&files);
    for (path, bytes) in &files {
        let file = raw(&*vfs, path);
        let is_log = path.starts_with("/s/log");
        // The zeros of the headers are checked by one comparison: every byte of them, one bit each.
        for bit in 0..bytes.len() * 8 {
            let byte = bit / 8;
            let zeros = (200..4000).contains(&byte);
            if zeros && bit % 8 != byte % 8 {
                continue;
            }
            let flipped = [bytes[byte] ^ 1 << (bit % 8)];
            write_all_at(&*file, byte as u64, &flipped).unwrap();
            let found = problems(&vfs, Path::new(DIR));
            assert!(!found.is_empty(), "{} bit {bit}", path.display());
            assert!(found.iter().all(|e| matches!(e.code, Code::Corruption)));
            match read_only(&vfs, Path::new(DIR)) {
                Ok((_, seen)) => assert!(!is_log && seen == all, "{} bit {bit}", path.display()),
                Err(e) => assert_eq!(e.code, Code::Corruption),
            }
            write_all_at(&*file, byte as u64, &bytes[byte..byte + 1]).unwrap();
        }
    }
    assert_eq!(problems(&vfs, Path::new(DIR)).len(), 0);
}

/// Every bit of a store whose host was killed after a sync: what was synced is never lost silently.
#[test]
fn every_bit_of_a_killed_store() {
    let (vfs, mut log, mut all) = store(4, 30, 64 << 10);
    sync(&mut log);
    all.push(commit(5, 30));
    append(&mut log, &all[4]).unwrap();
    let end = log.end().offset;
    drop(log);
    let files = image(&*vfs, Path::new(DIR));
    for bit in 0..(end as usize + 64) * 8 {
        if (200..4000).contains(&(bit / 8)) {
            continue;
        }
        let mut files = files.clone();
        files[0].1[bit / 8] ^= 1 << (bit % 8);
        let vfs = restore(&files);
        match try_open(&vfs, Path::new(DIR), 0) {
            Ok((_, found, seen)) => {
                assert!(seen == all || seen == all[..4], "bit {bit}");
                assert!(found.torn_bytes > 0 && found.quarantined.len() == 1);
            }
            Err(e) => assert_eq!(e.code, Code::Corruption),
        }
    }
}

/// Segments exchanged, renamed, missing, from another store, or an older copy: always damage.
#[test]
fn misplaced_segments() {
    let (vfs, mut log, _) = store(60, 60, 4096 + 1000);
    log.close().unwrap();
    drop(log);
    let dir = Path::new(DIR);
    let files = image(&*vfs, dir);
    let count = segments(&*vfs).len();
    assert!(count >= 5);
    let damaged = |files: &[(PathBuf, Vec<u8>)], what: &str| {
        let vfs = restore(files);
        assert_eq!(
            try_open(&vfs, dir, 0).map(|_| ()).unwrap_err().code,
            Code::Corruption,
            "{what}"
        );
        assert!(!problems(&vfs, dir).is_empty(), "{what}");
    };
    for i in 0..count {
        let mut missing = files.clone();
        missing.remove(i);
        damaged(&missing, &format!("segment {i} missing"));
        for j in 0..i {
            let mut swapped = files.clone();
            let a = swapped[i].1.clone();
            swapped[i].1 = std::mem::replace(&mut swapped[j].1, a);
            damaged(&swapped, &format!("segments {i} and {j} exchanged"));
        }
    }
    let other = ram();
    let mut log =
        Log::create(other.clone(), dir, LogOptions { seed: Some(2), ..options(4096 + 1000) })
            .unwrap();
    (1..=60).for_each(|e| append(&mut log, &commit(e, 60)).unwrap());
    log.close().unwrap();
    for (i, (path, bytes)) in image(&*other, dir).into_iter().enumerate() {
        let mut foreign = files.clone();
        assert_eq!(foreign[i].0, path);
        foreign[i].1 = bytes;
        damaged(&foreign, &format!("foreign file {}", path.display()));
    }
    // Both slots of the other store.
    let mut foreign = files.clone();
    foreign[count..].clone_from_slice(&image(&*other, dir)[count..]);
    damaged(&foreign, "foreign meta slots");
}

#[test]
fn an_older_copy_of_the_last_segment() {
    let (vfs, mut log, _) = store(5, 60, 64 << 10);
    let old = image(&*vfs, Path::new(DIR));
    append(&mut log, &commit(6, 60)).unwrap();
    sync(&mut log);
    drop(log);
    let mut files = image(&*vfs, Path::new(DIR));
    files[0] = old[0].clone();
    let vfs = restore(&files);
    assert_eq!(try_open(&vfs, Path::new(DIR), 0).map(|_| ()).unwrap_err().code, Code::Corruption);
}

/// Damage in record k of n after a sync of the first m: lost only what no sync had reached, and said so.
#[test]
fn torn_or_durable_matrix() {
    for m in 0..=8u64 {
        for with_meta in [false, true] {
            let (vfs, mut log, _) = store(0, 0, 64 << 10);
            let mut starts = Vec::new();
            let all: Vec<_> = (1..=8).map(|e| commit(e, 50)).collect();
            for c in &all {
                if c.epoch == m + 1 && m > 0 {
                    let point = log.sync_point();
                    point.sync().unwrap();
                    log.synced(&point);
                    if with_meta {
                        log.write_meta().unwrap();
                    }
                }
                starts.push(log.end().offset);
                append(&mut log, c).unwrap();
            }
            if m == 8 {
                sync(&mut log);
            }
            drop(log);
            let files = image(&*vfs, Path::new(DIR));
            for k in 0..8u64 {
                let mut files = files.clone();
                files[0].1[starts[k as usize] as usize + 40] ^= 1;
                let vfs = restore(&files);
                let got = try_open(&vfs, Path::new(DIR), 0);
                // The record after the sync tells of it too, unless it is the damaged one and nothing else does.
                let proven = k < m;
                match got {
                    Err(e) => assert!(proven && e.code == Code::Corruption, "m {m} k {k}"),
                    Ok((_, _, seen)) => {
                        assert!(!proven && seen == all[..k as usize], "m {m} k {k}")
                    }
                }
            }
        }
    }
}

/// Damage in the last two segments of a host that never synced is torn, whole later segments too; before them it is
/// corruption.
#[test]
fn torn_across_segments() {
    let dir = Path::new(DIR);
    let (vfs, log, all) = store(60, 60, 4096 + 1000);
    let end = log.end().offset as usize;
    drop(log);
    let files = image(&*vfs, dir);
    let count = segments(&*vfs).len();
    for index in 0..count {
        let end = if index + 1 == count { end } else { files[index].1.len() };
        for at in [10, RECORDS as usize + 40, end - 30] {
            let mut files = files.clone();
            files[index].1[at] ^= 4;
            let vfs = restore(&files);
            let got = try_open(&vfs, dir, 0);
            if index + 2 < count {
                assert_eq!(got.map(|_| ()).unwrap_err().code, Code::Corruption);
                continue;
            }
            let (mut log, found, seen) = got.unwrap();
            assert!(seen.len() < 60 && seen == all[..seen.len()]);
            assert!(found.torn_bytes > 0 && !found.quarantined.is_empty());
            for c in &all[seen.len()..] {
                append(&mut log, c).unwrap();
            }
            drop(log);
            assert_eq!(try_open(&vfs, dir, 0).unwrap().2, all);
            assert_eq!(problems(&vfs, dir).len(), 0);
        }
    }
}

/// A checkpoint was made after a sync: losing what it holds is corruption, with or without marks.
#[test]
fn a_checkpoint_proves_its_epochs() {
    let (vfs, log, _) = store(5, 60, 64 << 10);
    let end = log.end().offset;
    drop(log);
    let mut files = image(&*vfs, Path::new(DIR));
    files[0].1[end as usize - 20] ^= 1;
    let error = try_open(&restore(&files), Path::new(DIR), 5).map(|_| ()).unwrap_err();
    assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(5)));
    assert_eq!(try_open(&restore(&files), Path::new(DIR), 4).unwrap().1.last_epoch, 4);
}

/// A torn header right behind the checkpoint: the reading starts one segment earlier.
#[test]
fn a_torn_segment_right_behind_the_checkpoint() {
    let dir = Path::new(DIR);
    let (vfs, mut log, _) = store(5, 60, 64 << 10);
    log.close().unwrap();
    drop(log);
    let path = dir.join("log/0000000000000001-0000000000000006.mlog");
    let file = vfs.open(&path, OpenKind::CreateNew).unwrap();
    write_all_at(&*file, 10, b"half a header").unwrap();
    let (mut log, found, seen) = try_open(&vfs, dir, 5).unwrap();
    assert_eq!((seen.len(), found.last_epoch, found.torn_bytes), (0, 5, 23));
    append(&mut log, &commit(6, 9)).unwrap();
    drop(log);
    assert_eq!(try_open(&vfs, dir, 0).unwrap().2.len(), 6);
}

/// The power took the seal of the segment before the one that the checkpoint asks for: the log ends there. Going on
/// behind the gap would leave a history that cannot be read from its beginning.
#[test]
fn a_seal_lost_in_front_of_the_checkpoints_segment() {
    let dir = Path::new(DIR);
    let (vfs, mut log, mut all) = store(3, 60, 64 << 10);
    sync(&mut log);
    let synced = log.end().offset as usize;
    log.append_mark(3, 1, 2).unwrap();
    all.push(commit(4, 70_000));
    append(&mut log, &all[3]).unwrap();
    drop(log);
    let mut files = image(&*vfs, dir);
    files[0].1[synced..].fill(0);
    let vfs = restore(&files);
    let (mut log, found, seen) = try_open(&vfs, dir, 3).unwrap();
    assert_eq!((seen.len(), found.last_epoch, found.quarantined.len()), (0, 3, 1));
    append(&mut log, &all[3]).unwrap();
    log.close().unwrap();
    drop(log);
    assert_eq!(try_open(&vfs, dir, 0).unwrap().2, all);
    assert_eq!(problems(&vfs, dir).len(), 0);
}

/// The beginning of a record that is several times longer than all that the power left of its file is torn.
#[test]
fn a_long_record_whose_length_was_lost() {
    let (vfs, mut log, all) = store(5, 40, 64 << 10);
    let before = log.end().offset;
    let last = commit(6, 50_000);
    append(&mut log, &last).unwrap();
    drop(log);
    let mut files = image(&*vfs, Path::new(DIR));
    files[0].1.truncate(before as usize + 600);
    check_cut(&files, &all, &last, false, before);
}

/// Only what the meta slot says to be durable, while a host is appending.
#[test]
fn a_reader_may_stop_at_the_durable_position() {
    let (vfs, mut log, all) = store(5, 60, 64 << 10);
    sync(&mut log);
    append(&mut log, &commit(6, 60)).unwrap();
    let mut seen = Vec::new();
    let mode = OpenMode::Reader { durable_only: true };
    let mut on = |c: Commit<'_>| {
        seen.push(OwnedCommit::from(c));
        Ok(())
    };
    let (_, found) =
        open(vfs, Path::new(DIR), options(0), 0, mode, &mut on, &mut |_, _| {}).unwrap();
    assert_eq!((seen, found.torn_bytes), (all, 0));
}

/// A file may claim any length: what is read, copied and allocated goes by what is in it.
#[test]
fn sparse_files_of_absurd_length() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("s");
    let vfs: Arc<dyn Vfs> = Arc::new(OsVfs);
    let mut log = Log::create(vfs.clone(), &dir, options(64 << 10)).unwrap();
    append(&mut log, &commit(1, 50)).unwrap();
    drop(log);
    let path = dir.join("log/0000000000000000-0000000000000001.mlog");
    let file = raw(&*vfs, &path);
    let far = 8u64 << 40;
    if let Err(e) = write_all_at(&*file, far, b"far away") {
        println!("skipped: the temporary directory does not take sparse files of 8 TiB: {e}");
        return;
    }
    assert_eq!(problems(&vfs, &dir).len(), 1);
    assert_eq!(read_only(&vfs, &dir).unwrap().1, [commit(1, 50)]);
    let (_, found, seen) = try_open(&vfs, &dir, 0).unwrap();
    assert_eq!(seen, [commit(1, 50)]);
    assert!(found.torn_bytes > 7 << 40 && found.quarantined.len() == 1);
    assert!(raw(&*vfs, &path).size().unwrap() < 1 << 20);
}

/// A header may be right and the record behind it a hole: what the file has not costs no memory, and what this machine
/// could not hold is refused.
#[test]
fn a_record_that_is_a_hole() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("s");
    let vfs: Arc<dyn Vfs> = Arc::new(OsVfs);
    let mut log = Log::create(vfs.clone(), &dir, options(64 << 10)).unwrap();
    append(&mut log, &commit(1, 50)).unwrap();
    let at = log.end().offset;
    drop(log);
    let file = raw(&*vfs, &dir.join("log/0000000000000000-0000000000000001.mlog"));
    let mut salt = [0; 16];
    read_full_at(&*file, 56, &mut salt).unwrap();
    let claim = |len: u64| {
        let mut head = [0; record::HEADER];
        head[12] = record::IGNORABLE;
        head[14..20].copy_from_slice(&len.to_le_bytes()[..6]);
        let sum = (h64(&head[12..]) ^ record::seed(&salt, at)) as u32;
        head[8..12].copy_from_slice(&sum.to_le_bytes());
        write_all_at(&*file, at, &head).unwrap();
        file.set_len(at + len + 32)
    };
    claim(200 << 20).unwrap();
    assert_eq!(read_only(&vfs, &dir).unwrap().1, [commit(1, 50)]);
    if let Err(e) = claim(8 << 40) {
        println!("skipped: the temporary directory does not take sparse files of 8 TiB: {e}");
        return;
    }
    assert_eq!(read_only(&vfs, &dir).unwrap_err().code, Code::OutOfSpace);
    claim(200 << 20).unwrap();
    assert_eq!(try_open(&vfs, &dir, 0).unwrap().2, [commit(1, 50)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes in place of any part of a store: an answer, never a wrong commit.
    #[test]
    fn hostile_bytes(cuts in prop::collection::vec((0usize..6, 0usize..6000, prop::collection::vec(any::<u8>(), 0..64)), 1..4)) {
        let (vfs, log, all) = store(20, 60, 4096 + 1000);
        drop(log);
        let mut files = image(&*vfs, Path::new(DIR));
        for (file, at, bytes) in cuts {
            let index = file % files.len();
            let target = &mut files[index].1;
            let at = at.min(target.len());
            let end = (at + bytes.len()).min(target.len());
            target[at..end].copy_from_slice(&bytes[..end - at]);
        }
        let vfs = restore(&files);
        problems(&vfs, Path::new(DIR));
        if let Ok((_, seen)) = read_only(&vfs, Path::new(DIR)) {
            prop_assert_eq!(&seen[..], &all[..seen.len()]);
        }
        if let Ok((_, _, seen)) = try_open(&vfs, Path::new(DIR), 0) {
            prop_assert_eq!(&seen[..], &all[..seen.len()]);
        }
    }
}
