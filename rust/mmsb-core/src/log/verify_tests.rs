//! What `verify` tells of a store, and of one whose log was shortened.

use std::path::PathBuf;

use super::segment::RECORDS;
use super::tests::*;
use super::*;
use crate::vfs::write_all_at;

/// What lies behind the caller's end is no business of `verify`; what is missing before it is.
#[test]
fn verifying_up_to_an_end() {
    let (vfs, mut log, _) = store(6, 60, RECORDS + 400);
    let mut ends = vec![log.end()];
    for epoch in 7..=9 {
        append(&mut log, &commit(epoch, 60)).unwrap();
        ends.push(log.end());
    }
    let last = log.end();
    assert_eq!(last.seq, 3);
    let found = |end| {
        let mut problems = Vec::new();
        let walked =
            verify(&*vfs, dir(), Some(end), &mut |e| problems.push(e), &mut |_, _| {}).unwrap();
        (walked.records, problems.iter().map(|e| e.detail.offset).collect::<Vec<_>>())
    };
    for (epoch, &end) in (6..).zip(&ends) {
        // Seals count as records.
        assert_eq!(found(end), (epoch + end.seq, vec![]));
    }
    write_all_at(&*raw(&*vfs, &segments(&*vfs)[3]), last.offset, b"being written").unwrap();
    assert_eq!(found(last), (12, vec![]));
    let past = Position { offset: last.offset + 8, ..last };
    assert_eq!(found(past).1, [Some(last.offset)]);
    // A step over the end: it lies inside a record.
    let inside = Position { offset: last.offset - 8, ..last };
    assert_eq!(found(inside).1, [Some(last.offset)]);
    assert_eq!(problems(&vfs, dir()).len(), 1);
}

/// Who stays at an epoch before the log's new beginning has no segment left, and that is no damage; for all others it is.
#[test]
fn verifying_what_was_let_go() {
    let (vfs, mut log, _) = store(6, 60, RECORDS + 400);
    let names = segment::list(&*vfs, dir()).unwrap();
    assert_eq!(names.len(), 3);
    sync(&mut log);
    let base = LogBase { seq: 1, epoch: names[1].first_epoch - 1 };
    log.rebase(base).unwrap();
    names.iter().for_each(|name| vfs.unlink(&segment::log_dir(dir()).join(name.file())).unwrap());
    for (seq, told) in [(0, None), (1, Some(Some(1))), (2, Some(Some(1)))] {
        let (mut problems, end) = (Vec::new(), Position { seq, offset: RECORDS });
        verify(&*vfs, dir(), Some(end), &mut |e| problems.push(e), &mut |_, _| {}).unwrap();
        assert!(problems.iter().all(|e| e.message.contains("all segments are missing")));
        assert_eq!(problems.first().map(|e| e.detail.epoch), told, "{seq}");
    }
}

/// Every way in which the files as a whole may be wrong, for `verify`.
#[test]
fn verifying_a_store_with_gaps() {
    let (vfs, mut log, _) = store(8, 60, RECORDS + 400);
    log.close().unwrap();
    drop(log);
    let files = image(&*vfs, dir());
    let count = files.len() - 2;
    let told = |files: &[(PathBuf, Vec<u8>)]| {
        let found = problems(&restore(files), dir());
        found.into_iter().map(|e| e.message).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(told(&files), "");
    assert!(told(&files[count..]).contains("all segments are missing"));
    let mut short = files.clone();
    short.remove(count - 1);
    let message = told(&short);
    assert!(message.contains("the last segment is missing"), "{message}");
    assert!(!message.contains("all segments"));
    // A last segment that ends where the slots say more had been durable.
    let mut cut = files.clone();
    let end = cut[count - 1].1.len() - 56;
    cut[count - 1].1.truncate(end);
    assert!(told(&cut).contains("durable records are missing"));
    // A seal that is missing before the last segment, and zeros behind one.
    let mut unsealed = files.clone();
    let end = unsealed[0].1.len();
    unsealed[0].1[end - 48..].fill(0);
    assert!(told(&unsealed).contains("the seal is missing"));
    let mut longer = files.clone();
    longer[0].1.resize(end + 100, 0);
    assert_eq!(told(&longer), "");
    longer[0].1[end + 50] = 1;
    assert!(told(&longer).contains("no valid record"));
    // Slots: one torn, both torn, both of other stores.
    let mut one = files.clone();
    one[count].1[0] ^= 1;
    assert_eq!(told(&one).lines().count(), 1);
    one[count + 1].1[0] ^= 1;
    assert_eq!(told(&one).lines().count(), 2);
    let walked = |files: &[(PathBuf, Vec<u8>)]| {
        let vfs = restore(files);
        verify(&*vfs, dir(), None, &mut |_| {}, &mut |_, _| {}).unwrap().bytes
    };
    let log_bytes: u64 = files[..count].iter().map(|f| f.1.len() as u64).sum();
    assert_eq!(walked(&files), log_bytes + 8192);
    assert_eq!(walked(&one), log_bytes);
}
