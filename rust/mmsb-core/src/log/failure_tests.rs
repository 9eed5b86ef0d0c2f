//! Calls that fail while the log is created over remains, recovered or closed, and bytes that are made to cost much.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::double::Double;
use super::reader::Window;
use super::record::{self, HEADER};
use super::segment::RECORDS;
use super::tests::*;
use super::*;
use crate::arena::faults;
use crate::error::Code;
use crate::hash::h64;
use crate::vfs::{OpenKind, OsVfs, RamVfs, write_all_at};

const EIO: i32 = 5;

type Files = Vec<(PathBuf, Vec<u8>)>;

/// Two segments that are torn whole, the later one without its header.
fn torn_segments() -> Files {
    let (vfs, log, _) = store(8, 60, RECORDS + 400);
    drop(log);
    let mut files = image(&*vfs, dir());
    let previous = files.len() - 4;
    assert!(previous > 0);
    files[previous].1[20] ^= 1;
    files
}

/// An end in the middle of a record, a last segment without a byte, and a meta slot that is torn.
fn empty_segment() -> Files {
    let (vfs, log, _) = store(3, 60, 64 << 10);
    let end = log.end().offset as usize;
    drop(log);
    let mut files = image(&*vfs, dir());
    files[0].1.truncate(end - 9);
    let meta = files.len() - 1;
    files[meta].1.truncate(10);
    files.push((dir().join("log/0000000000000001-0000000000000004.mlog"), Vec::new()));
    files
}

/// A torn record in front of one that is longer than what is read at once.
fn long_record() -> Files {
    let (vfs, mut log, _) = store(2, 60, 1 << 20);
    let begin = log.end().offset as usize;
    append(&mut log, &commit(3, 60)).unwrap();
    append(&mut log, &commit(4, 300 << 10)).unwrap();
    drop(log);
    let mut files = image(&*vfs, dir());
    files[0].1[begin + 40] ^= 1;
    files
}

/// Every call of a recovery fails once: the answer names file and error number, and the next recovery comes to the same
/// end as one that was not disturbed.
#[test]
fn every_call_of_a_recovery_fails_once() {
    for (files, least) in [(torn_segments(), 60), (empty_segment(), 60), (long_record(), 60)] {
        let (log, undisturbed, expected) = try_open(&restore(&files), dir(), 0).unwrap();
        assert!(!undisturbed.quarantined.is_empty());
        let end = log.end();
        let mut whole = 0;
        for nth in 1.. {
            let double = Double::new(restore(&files));
            double.fail_once(nth, EIO);
            let done = try_open(&double.vfs(), dir(), 0).map(|_| ());
            let Some(hit) = double.calls().into_iter().nth(nth - 1) else {
                done.unwrap();
                break;
            };
            whole = nth;
            let error = done.unwrap_err();
            assert_eq!((error.code, error.detail.errno), (Code::Storage, Some(EIO)), "{hit}");
            let file = error.detail.file.unwrap();
            assert!(file == hit.path || hit.what == "rename to", "{hit}: {file:?}");
            double.heal();
            let (log, _, seen) = try_open(&double.vfs(), dir(), 0).unwrap();
            assert!(seen == expected, "{hit}: {} of {}", seen.len(), expected.len());
            assert_eq!(log.end(), end, "{hit}");
            assert_eq!(problems(&double.vfs(), dir()).len(), 0, "{hit}");
        }
        assert!(whole > least, "{whole}");
    }
}

/// Every call of a creation over the remains of another fails once: the next attempt makes a store, or finds one.
#[test]
fn every_call_of_a_second_creation_fails_once() {
    let vfs = ram();
    drop(Log::create(vfs.clone(), dir(), options(64 << 10)).unwrap());
    let path = segments(&*vfs).remove(0);
    vfs.rename(&path, &dir().join("log/creating")).unwrap();
    for name in ["meta-0", "meta-1"] {
        raw(&*vfs, &dir().join(name)).set_len(100).unwrap();
    }
    let files = image(&*vfs, dir());
    let mut whole = 0;
    for nth in 1.. {
        let double = Double::new(restore(&files));
        double.fail_once(nth, EIO);
        let done = Log::create(double.vfs(), dir(), options(64 << 10)).map(drop);
        let Some(hit) = double.calls().into_iter().nth(nth - 1) else {
            done.unwrap();
            break;
        };
        whole = nth;
        double.heal();
        match done {
            Ok(()) => assert_eq!(hit.what, "reserve", "{hit}"),
            Err(error) => {
                assert_eq!((error.code, error.detail.errno), (Code::Storage, Some(EIO)), "{hit}");
                let created = Log::create(double.vfs(), dir(), options(64 << 10)).map(drop);
                let code = created.map_err(|error| error.code);
                let named = double.vfs().exists(&path).unwrap();
                assert!(code.is_ok() || code == Err(Code::BusExists) && named, "{hit}: {code:?}");
            }
        }
        let (mut log, found, _) = try_open(&double.vfs(), dir(), 0).unwrap();
        assert_eq!(found.last_epoch, 0, "{hit}");
        append(&mut log, &commit(1, 10)).unwrap();
        drop(log);
        assert_eq!(try_open(&double.vfs(), dir(), 0).unwrap().2, [commit(1, 10)], "{hit}");
    }
    assert!(whole > 40, "{whole}");
}

/// A store that is named without a directory lies in the working directory, which is synced as its parent.
#[test]
fn a_bare_name() {
    let double = Double::new(ram());
    let bare = Path::new("s");
    let mut log = Log::create(double.vfs(), bare, options(64 << 10)).unwrap();
    let synced: Vec<_> = double.calls().into_iter().filter(|c| c.what == "sync_dir").collect();
    let synced: Vec<_> = synced.iter().map(|call| call.path.to_str().unwrap()).collect();
    assert_eq!(synced, ["s", ".", "s/log", "s/log"]);
    append(&mut log, &commit(1, 10)).unwrap();
    drop(log);
    assert_eq!(try_open(&double.vfs(), dir(), 0).unwrap().2, [commit(1, 10)]);
}

/// A log whose next segment could not be begun closes with the one that it has sealed.
#[test]
fn closing_between_two_segments() {
    let double = Double::new(ram());
    let mut log = Log::create(double.vfs(), dir(), options(RECORDS + 192)).unwrap();
    append(&mut log, &commit(1, 80)).unwrap();
    double.fail(|call| {
        let begins = call.what == "create";
        begins.then(|| std::io::Error::from_raw_os_error(EIO))
    });
    assert_eq!(append(&mut log, &commit(2, 80)).unwrap_err().code, Code::Storage);
    double.heal();
    assert_eq!(log.durable_epoch(), 0);
    double.calls();
    log.close().unwrap();
    let expected =
        ["sync creating", "sync creating", "write meta-0 0+128", "sync meta-0", "sync meta-1"];
    assert_eq!(double.changes(), expected);
    assert_eq!((log.durable_epoch(), log.meta().durable), (1, log.end()));
    drop(log);
    let (_, found, seen) = try_open(&double.vfs(), dir(), 0).unwrap();
    assert_eq!((seen, found.torn_bytes), (vec![commit(1, 80)], 0));
    assert_eq!(problems(&double.vfs(), dir()).len(), 0);
}

/// The reading begins in a segment that is torn whole, with another behind it: it goes back by one.
#[test]
fn a_torn_header_where_the_reading_begins() {
    let files = torn_segments();
    let torn = files.len() - 4;
    let name = files[torn].0.file_stem().unwrap().to_str().unwrap();
    let from = u64::from_str_radix(&name[17..], 16).unwrap() - 1;
    assert!(from > 0);
    let (mut log, found, seen) = try_open(&restore(&files), dir(), from).unwrap();
    assert_eq!((seen.len(), found.last_epoch, found.records), (0, from, 0));
    assert_eq!((found.end.seq, found.quarantined.len()), (torn as u64 - 1, 2));
    append(&mut log, &commit(from + 1, 60)).unwrap();
    // A checkpoint of the epoch that it begins with proves that it was there.
    let error = try_open(&restore(&files), dir(), from + 1).map(|_| ()).unwrap_err();
    assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(from + 1)));
}

/// The log of a fork begins behind what it stands on: who asks for earlier epochs is told that they are missing.
#[test]
fn ranges_before_the_log_begins() {
    let vfs = ram();
    let opts = LogOptions { base_epoch: 5, ..options(64 << 10) };
    let mut log = Log::create(vfs.clone(), dir(), opts).unwrap();
    (6..=8).for_each(|epoch| append(&mut log, &commit(epoch, 10)).unwrap());
    for (since, until) in [(1, 5), (1, 6), (5, 8), (5, 5)] {
        for reverse in [false, true] {
            let error = LogCursor::new(vfs.clone(), dir(), since, until, reverse).unwrap_err();
            assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(since)));
        }
    }
    for (since, until, expected) in [(6, 5, 0..0), (6, 6, 6..7), (6, 8, 6..9), (7, 8, 7..9)] {
        let expected: Vec<_> = expected.map(|epoch| commit(epoch, 10)).collect();
        for reverse in [false, true] {
            let cursor = LogCursor::new(vfs.clone(), dir(), since, until, reverse).unwrap();
            let mut seen: Vec<_> = cursor.map(|c| c.unwrap()).collect();
            if reverse {
                seen.reverse();
            }
            assert_eq!(seen, expected, "{since} {until}");
        }
    }
}

/// Headers that claim more bytes than a search will read are taken as proof, so nothing is cut; what is claimed is not
/// read.
#[test]
fn claims_that_cost_too_much() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("s");
    let double = Double::new(Arc::new(OsVfs));
    let vfs = double.vfs();
    let mut log = Log::create(vfs.clone(), &dir, options(64 << 10)).unwrap();
    append(&mut log, &commit(1, 50)).unwrap();
    let end = log.end().offset;
    drop(log);
    let names = segment::list(&*vfs, &dir).unwrap();
    let salt = reader::open_segment(&*vfs, &dir, names[0], None).unwrap().header.salt;
    let file = raw(&*vfs, &dir.join("log").join(names[0].file()));
    let (at, claimed) = (end + 64, 2u64 << 30);
    write_all_at(&*file, end, b"torn").unwrap();
    let mut head = [1; HEADER];
    head[12] = record::IGNORABLE;
    head[14..20].copy_from_slice(&claimed.to_le_bytes()[..6]);
    let sum = (h64(&head[12..]) ^ record::seed(&salt, at)) as u32;
    head[8..12].copy_from_slice(&sum.to_le_bytes());
    write_all_at(&*file, at, &head).unwrap();
    // As long as the file is too short for it the claim is a torn record like any other.
    assert_eq!(read_only(&vfs, &dir).unwrap().0.torn_bytes, 64 + 32);
    file.set_len(at + claimed + 32).unwrap();
    double.calls();
    let error = read_only(&vfs, &dir).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(end)));
    let read: u64 = double.calls().iter().filter(|c| c.what == "read").map(|c| c.len).sum();
    assert!(read < 64 << 20, "{read}");
}

/// A record of megabytes is read in a way of its own, which may fail too.
#[test]
fn a_large_piece_that_cannot_be_read() {
    const LEN: usize = 5 << 20;
    let double = Double::new(Arc::new(RamVfs::new()));
    let file = double.vfs().open(Path::new("/f"), OpenKind::CreateNew).unwrap();
    file.set_len(LEN as u64).unwrap();
    write_all_at(&*file, LEN as u64 - 1, b"!").unwrap();
    let mut window = Window::open(&*double.vfs(), Path::new("/f")).unwrap();
    faults::arm(1, false);
    let error = window.get(0, LEN).map(<[u8]>::len).unwrap_err();
    assert!(faults::disarm());
    assert_eq!(error.code, Code::OutOfSpace);
    double.fail(|call| {
        let far = call.what == "read" && call.at > 4 << 20;
        far.then(|| std::io::Error::from_raw_os_error(EIO))
    });
    let error = window.get(0, LEN).map(<[u8]>::len).unwrap_err();
    assert_eq!((error.code, error.detail.errno), (Code::Storage, Some(EIO)));
    double.heal();
    let bytes = window.get(0, LEN).unwrap();
    assert_eq!((bytes.len(), bytes.iter().position(|&b| b != 0)), (LEN, Some(LEN - 1)));
}

/// Whoever takes the commits may refuse one: the reading ends there with that error, and no file is touched.
#[test]
fn a_commit_that_is_refused() {
    let files = empty_segment();
    for refused in 1..=2 {
        let vfs = restore(&files);
        for writes in [false, true] {
            let mode = if writes {
                OpenMode::Writer(lock(&*vfs, dir()).unwrap())
            } else {
                OpenMode::Reader { durable_only: false }
            };
            let mut seen = 0;
            let mut on = |c: Commit<'_>| {
                seen = c.epoch;
                let error = || Error::new(Code::Argument, format!("no {}", c.epoch));
                if c.epoch == refused { Err(error()) } else { Ok(()) }
            };
            let opened =
                open(vfs.clone(), dir(), options(64 << 10), 0, mode, &mut on, &mut |_, _| {});
            assert_eq!(opened.unwrap_err().message, format!("no {refused}"));
            assert_eq!(seen, refused);
        }
        let sorted = |mut files: Files| {
            files.sort();
            files
        };
        assert!(sorted(image(&*vfs, dir())) == sorted(files.clone()));
    }
}
