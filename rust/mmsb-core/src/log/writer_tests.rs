//! What the writer says of the sync that runs behind the commits, where it ends badly; and how far a log goes.

use super::super::double::Double;
use super::super::tests::{DIR, append, commit, image, options, ram, try_open};
use super::super::{LogCursor, OwnedCommit};
use super::*;
use crate::vfs::OsVfs;

/// A seal that could not be written ends the log: what is in the file behind the last record is not known.
#[test]
fn a_seal_that_cannot_be_written() {
    let double = Double::new(ram());
    let mut log =
        Log::create(double.vfs(), Path::new(DIR), options(segment::RECORDS + 192)).unwrap();
    append(&mut log, &commit(1, 80)).unwrap();
    double.fail(|call| (call.what == "write").then(|| std::io::Error::from_raw_os_error(5)));
    assert_eq!(append(&mut log, &commit(2, 80)).unwrap_err().code, Code::Storage);
    double.heal();
    double.calls();
    assert_eq!(log.usable().unwrap_err().code, Code::Storage);
    assert_eq!(append(&mut log, &commit(2, 80)).unwrap_err().code, Code::Storage);
    assert_eq!(double.changes(), [""; 0]);
}

/// Verifying counts marks like commits, and hands them on.
#[test]
fn marks_are_counted() {
    let walk = |marks: u64| {
        let vfs = ram();
        let mut log = Log::create(vfs.clone(), Path::new(DIR), options(64 << 10)).unwrap();
        append(&mut log, &commit(1, 10)).unwrap();
        (0..marks).for_each(|mark| log.append_mark(1, u128::from(mark), 7).unwrap());
        log.close().unwrap();
        let mut on = |error: Error| panic!("{error}");
        super::super::verify(&*vfs, Path::new(DIR), None, &mut on, &mut |_, _| {}).unwrap()
    };
    let (none, two) = (walk(0), walk(2));
    assert_eq!(two.records, none.records + 2);
    let marks: Vec<_> = two.marks.iter().map(|m| (m.epoch, m.digest, m.size)).collect();
    assert_eq!((none.marks.len(), marks), (0, vec![(1, 0, 7), (1, 1, 7)]));
}

/// A sync behind the commits that failed, or whose thread did, is told by whoever waits for it, and nothing is written
/// or synced as if it had been done.
#[test]
fn a_sync_behind_the_commits_that_ends_badly() {
    let failed = || Err(Error::storage(Path::new("x"), &std::io::Error::from_raw_os_error(5), ""));
    for (code, panics) in [(Code::Storage, false), (Code::Internal, true)] {
        let work = move || if panics { panic!("a test's panic") } else { failed() };
        let double = Double::new(ram());
        let mut log =
            Log::create(double.vfs(), Path::new(DIR), options(segment::RECORDS + 192)).unwrap();
        append(&mut log, &commit(1, 80)).unwrap();
        double.calls();
        log.background = Some((0, std::thread::spawn(work)));
        assert_eq!(log.close().unwrap_err().code, code);
        assert_eq!(double.changes(), [""; 0]);
        // A segment that is begun waits for it too.
        log.background = Some((0, std::thread::spawn(work)));
        assert_eq!(append(&mut log, &commit(2, 80)).unwrap_err().code, code);
        assert!(double.changes().iter().all(|call| !call.starts_with("create")));
        assert_eq!(log.durable_epoch(), 0);
        drop(log);
        assert_eq!(try_open(&double.vfs(), Path::new(DIR), 0).unwrap().2, [commit(1, 80)]);
    }
}

/// At the last epoch that a segment can begin with the log ends: what would follow is refused and leaves no byte, and
/// everybody can still read it.
#[test]
fn the_last_epoch() {
    let (vfs, dir) = (ram(), Path::new(DIR));
    let base = MAX_EPOCH - 3;
    let at = |epoch| OwnedCommit { epoch, ..commit(epoch - base, 80) };
    let all: Vec<_> = (base + 1..=MAX_EPOCH).map(at).collect();
    let opts = |base_epoch| LogOptions { base_epoch, ..options(segment::RECORDS + 192) };
    let mut log = Log::create(vfs.clone(), dir, opts(base)).unwrap();
    all.iter().for_each(|c| append(&mut log, c).unwrap());
    let check = |log: &mut Log| {
        let before = image(&*vfs, dir);
        for refused in [append(log, &at(MAX_EPOCH + 1)), log.append_mark(MAX_EPOCH, 1, 2)] {
            let error = refused.unwrap_err();
            assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(MAX_EPOCH)));
        }
        log.usable().unwrap();
        assert!(image(&*vfs, dir) == before, "a refused record left something");
        assert_eq!(segment::list(&*vfs, dir).unwrap().len(), 3);
    };
    check(&mut log);
    log.close().unwrap();
    check(&mut log);
    drop(log);
    let (mut log, _, seen) = try_open(&vfs, dir, base).unwrap();
    assert_eq!(seen, all);
    check(&mut log);
    drop(log);
    for reverse in [false, true] {
        let cursor = LogCursor::new(vfs.clone(), dir, base + 1, MAX_EPOCH, reverse).unwrap();
        assert_eq!(cursor.filter(|c| c.is_ok()).count(), 3);
    }
    for base in [MAX_EPOCH, u64::MAX] {
        let vfs = ram();
        let error = Log::create(vfs.clone(), dir, opts(base)).unwrap_err();
        assert_eq!(error.code, Code::Argument);
        assert!(error.message.contains(&format!("{base}")) && error.message.contains("2**62"));
        assert!(!vfs.exists(dir).unwrap());
    }
}

/// Any size may be asked of a segment: one that nothing can reach is as good as a large one.
#[test]
fn segments_of_absurd_size() {
    let tmp = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for size in [64 << 20, 1 << 62, i64::MAX as u64, u64::MAX - 4095, u64::MAX - 4094, u64::MAX] {
        for mapped in [false, true] {
            let dir = tmp.path().join(format!("{size} {mapped}"));
            for (vfs, dir) in [(Arc::new(OsVfs) as Arc<dyn Vfs>, &*dir), (ram(), Path::new(DIR))] {
                let opts = LogOptions { mapped, ..options(size) };
                let mut log = Log::create(vfs.clone(), dir, opts).unwrap();
                (1..=20).for_each(|epoch| append(&mut log, &commit(epoch, 50_000)).unwrap());
                log.close().unwrap();
                drop(log);
                let files = image(&*vfs, dir).into_iter();
                images.push(files.map(|(_, bytes)| bytes).collect::<Vec<_>>());
            }
        }
    }
    assert!(images.iter().all(|image| *image == images[0]));
}

/// A base that may not have become durable, and names that may come back, end the writer; what it had written stays.
#[test]
fn a_log_that_cannot_be_shortened() {
    type Step = fn(&mut Log) -> Result<()>;
    let rebase: Step = |log| log.rebase(super::super::LogBase { seq: 1, epoch: 3 });
    let removed: Step = |log| log.removed(0);
    let begun = || {
        let double = Double::new(ram());
        let opts = options(segment::RECORDS + 400);
        let mut log = Log::create(double.vfs(), Path::new(DIR), opts).unwrap();
        (1..=4).for_each(|epoch| append(&mut log, &commit(epoch, 60)).unwrap());
        assert_eq!(log.end().seq, 1);
        double.calls();
        (double, log)
    };
    // What the log is to begin with is durable before a slot says so, and each slot before the other.
    let shortened = [
        "sync 0000000000000001-0000000000000004.mlog",
        "write meta-0 0+128",
        "write meta-1 0+176",
        "sync meta-0",
        "sync meta-1",
        "write meta-0 0+176",
        "sync meta-0",
        "sync meta-1",
    ];
    for (step, expected) in [(rebase, &shortened[..]), (removed, &["sync_dir log"])] {
        let (double, mut log) = begun();
        step(&mut log).unwrap();
        assert_eq!(double.changes(), expected);
        append(&mut log, &commit(5, 60)).unwrap();
        for nth in 1..=expected.len() {
            let (double, mut log) = begun();
            let mut seen = 0;
            double.fail(move |call| {
                seen += usize::from(call.changes());
                (call.changes() && seen == nth).then(|| std::io::Error::from_raw_os_error(5))
            });
            let error = step(&mut log).unwrap_err();
            assert_eq!((error.code, error.detail.errno), (Code::Storage, Some(5)), "call {nth}");
            assert_eq!(double.changes(), expected[..nth]);
            assert_eq!(log.usable().unwrap_err().code, Code::Storage, "call {nth}");
            assert_eq!(append(&mut log, &commit(5, 60)).unwrap_err().code, Code::Storage);
            assert_eq!(double.changes(), [""; 0]);
            drop(log);
            assert_eq!(try_open(&double.vfs(), Path::new(DIR), 3).unwrap().2, [commit(4, 60)]);
        }
    }
}

/// Whether there is a disk to wait for decides what is done beside the commits.
#[test]
fn real_files() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("s");
    for (vfs, dir, real) in
        [(Arc::new(OsVfs) as Arc<dyn Vfs>, &*dir, true), (ram(), Path::new(DIR), false)]
    {
        let mut log = Log::create(vfs, dir, options(64 << 10)).unwrap();
        append(&mut log, &commit(1, 10)).unwrap();
        assert_eq!(log.is_real(), real);
    }
}
