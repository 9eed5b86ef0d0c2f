//! Reading the log back: windows over files, cursors, recovery and verification, where their limits are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::double::{Call, Double};
use super::meta::MetaSlots;
use super::reader::{Step, Window};
use super::segment::RECORDS;
use super::tests::*;
use super::*;
use crate::arena::faults;
use crate::error::Code;
use crate::trace::tests::captured;
use crate::vfs::{OpenKind, OsVfs, RamVfs, VfsFile, write_all_at};

const EIO: i32 = 5;

fn file(vfs: &dyn Vfs, bytes: &[(u64, &[u8])], len: u64) -> Arc<dyn VfsFile> {
    let file = vfs.open(Path::new("/f"), OpenKind::CreateNew).unwrap();
    bytes.iter().for_each(|(at, bytes)| write_all_at(&*file, *at, bytes).unwrap());
    file.set_len(len).unwrap();
    file
}

/// What is not zero, and where it ends, against the bytes themselves.
#[test]
fn what_is_not_zero() {
    const W: u64 = 256 << 10;
    for places in [
        vec![],
        vec![0],
        vec![100],
        vec![W - 1],
        vec![W],
        vec![W + 1],
        vec![5, W - 1, W, 2 * W + 7],
        vec![3 * W - 1],
    ] {
        let vfs = RamVfs::new();
        let bytes: Vec<(u64, &[u8])> = places.iter().map(|&at| (at, &[9u8][..])).collect();
        file(&vfs, &bytes, 3 * W);
        let mut window = Window::open(&vfs, Path::new("/f")).unwrap();
        for from in [0, 1, 50, 101, W - 1, W, W + 2, 2 * W, 3 * W - 1, 3 * W, 4 * W] {
            let expected = places.iter().copied().filter(|&at| at >= from);
            assert_eq!(window.next_nonzero(from).unwrap(), expected.clone().min());
            assert_eq!(window.last_nonzero(from).unwrap(), expected.clone().max().map(|at| at + 1));
            for end in [from, from + 1, W + 1, 3 * W] {
                let mut seen = Vec::new();
                let mut on = |at: u64, bytes: &[u8]| {
                    assert!(at >= from && at + bytes.len() as u64 <= end);
                    let found = (at..).zip(bytes).filter(|b| *b.1 != 0);
                    seen.extend(found.map(|(at, _)| at));
                    Ok(())
                };
                window.nonzero(from, end, &mut on).unwrap();
                assert_eq!(seen, expected.clone().filter(|&at| at < end).collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_window_gives_what_is_there() {
    let vfs = RamVfs::new();
    let bytes: Vec<u8> = (0..600_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
    let file = file(&vfs, &[(0, &bytes)], bytes.len() as u64);
    let mut window = Window::open(&vfs, Path::new("/f")).unwrap();
    for at in [0, 10, 599_990, 300_000, 299_999, 100, 599_999, 600_000, 700_000, 262_144, 0] {
        for want in [1, 32, 300_000] {
            let got = window.get(at, want).unwrap();
            let expected = bytes.get(at as usize..).unwrap_or_default();
            assert!(got.len() >= want.min(expected.len()) && got == &expected[..got.len()]);
        }
    }
    assert_eq!(window.size().unwrap(), 600_000);
    window.get(0, 1).unwrap();
    write_all_at(&*file, 0, b"!").unwrap();
    assert_eq!(window.get(0, 1).unwrap()[0], bytes[0]);
    window.refresh();
    assert_eq!(window.get(0, 1).unwrap()[0], b'!');
    window.refresh();
    faults::arm(1, false);
    let error = window.get(0, 1).unwrap_err();
    assert!(faults::disarm());
    assert_eq!(error.code, Code::OutOfSpace);
}

/// Backward through a large segment: in large steps, whatever the size of its records.
#[test]
fn a_walk_backward_reads_in_large_pieces() {
    let double = Double::new(ram());
    let mut log = Log::create(double.vfs(), dir(), options(4 << 20)).unwrap();
    let all: Vec<_> = (1..=3000).map(|epoch| commit(epoch, 300)).collect();
    all.iter().for_each(|c| append(&mut log, c).unwrap());
    double.calls();
    for reverse in [false, true] {
        let cursor = LogCursor::new(double.vfs(), dir(), 0, 3000, reverse).unwrap();
        let mut seen: Vec<_> = cursor.map(|c| c.unwrap()).collect();
        if reverse {
            seen.reverse();
        }
        assert!(seen == all);
        let of_log = |c: &&Call| c.what == "read" && c.path.starts_with(segment::log_dir(dir()));
        let reads: Vec<u64> = double.calls().iter().filter(of_log).map(|c| c.len).collect();
        // The file in memory gives at most 64 KiB a call.
        assert!(reads.len() <= if reverse { 70 } else { 30 }, "{}", reads.len());
        assert!(reads.iter().all(|&len| len <= 256 << 10));
    }
}

/// Every range of epochs over several segments, with marks and seals between, both ways and through `next_commit`.
#[test]
fn ranges() {
    let vfs = ram();
    let mut log = Log::create(vfs.clone(), dir(), options(RECORDS + 400)).unwrap();
    let all: Vec<_> = (1..=12).map(|epoch| commit(epoch, 30)).collect();
    for c in &all {
        append(&mut log, c).unwrap();
        if c.epoch % 3 == 0 {
            log.append_mark(c.epoch, 1, 2).unwrap();
        }
    }
    assert!(segments(&*vfs).len() > 3);
    for since in 0..=14 {
        for until in 0..=12u64 {
            let first = (since.max(1) - 1) as usize;
            let expected = all.get(first..until as usize).unwrap_or_default();
            let walk = |reverse| LogCursor::new(vfs.clone(), dir(), since, until, reverse).unwrap();
            let forward: Vec<_> = walk(false).map(|c| c.unwrap()).collect();
            assert_eq!(forward, expected, "{since} {until}");
            let backward: Vec<_> = walk(true).map(|c| c.unwrap()).collect();
            assert!(backward.iter().rev().eq(expected), "{since} {until}");
            let mut places = Vec::new();
            let mut cursor = walk(false);
            while let Some(c) = cursor.next_commit().unwrap() {
                assert_eq!(c.file.parent(), Some(&*dir().join("log")));
                places.push((c.file.to_path_buf(), c.offset));
            }
            assert!(places.is_sorted() && places.len() == expected.len());
            assert!(cursor.next_commit().unwrap().is_none());
        }
    }
    // Past the end: what is there, then that the rest is missing, then nothing.
    let mut cursor = LogCursor::new(vfs.clone(), dir(), 11, 14, false).unwrap();
    assert_eq!(cursor.next().unwrap().unwrap(), all[10]);
    assert_eq!(cursor.next().unwrap().unwrap(), all[11]);
    let error = cursor.next().unwrap().unwrap_err();
    assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(13)));
    assert!(error.message.contains("missing"));
    assert!(cursor.next().is_none());
    // Backward the first that is asked for is missing.
    let mut backward = LogCursor::new(vfs, dir(), 11, 14, true).unwrap();
    let same = backward.next().unwrap().unwrap_err();
    assert_eq!((same.message, same.detail), (error.message, error.detail));
    assert!(backward.next().is_none());
}

/// A cursor checks as it goes: a segment that does not continue the one before, a record that changes under it.
#[test]
fn a_cursor_over_damage() {
    let (vfs, mut log, _) = store(12, 60, RECORDS + 400);
    log.close().unwrap();
    let paths = segments(&*vfs);
    let other = ram();
    let mut log = Log::create(other.clone(), dir(), options(RECORDS + 400)).unwrap();
    (1..=12).for_each(|e| {
        append(&mut log, &OwnedCommit { ops: vec![e as u8; 60], ..commit(e, 0) }).unwrap()
    });
    log.close().unwrap();
    assert_eq!(segments(&*other), paths);
    // The same names and seed, so the same salts; but another chain.
    let (path, mut bytes) = image(&*other, dir()).remove(1);
    let target = raw(&*vfs, &path);
    target.set_len(0).unwrap();
    write_all_at(&*target, 0, &bytes).unwrap();
    let cursor = LogCursor::new(vfs.clone(), dir(), 1, 12, false).unwrap();
    let seen: Vec<_> = cursor.collect();
    let error = seen.last().unwrap().as_ref().unwrap_err();
    assert_eq!((error.code, error.detail.file.as_deref()), (Code::Corruption, Some(&*path)));
    assert!(error.message.contains("continue"));
    // Backward its other end is met first: the segment behind it does not continue it.
    let seen: Vec<_> = LogCursor::new(vfs.clone(), dir(), 1, 12, true).unwrap().collect();
    let behind = seen.last().unwrap().as_ref().unwrap_err();
    assert_eq!((behind.code, behind.detail.file.as_deref()), (Code::Corruption, Some(&*paths[2])));
    assert!(behind.message.contains("continue"));

    bytes[RECORDS as usize + 40] ^= 1;
    write_all_at(&*target, 0, &bytes).unwrap();
    let first =
        u64::from_str_radix(&path.file_stem().unwrap().to_str().unwrap()[17..], 16).unwrap();
    for reverse in [false, true] {
        let seen: Vec<_> =
            LogCursor::new(vfs.clone(), dir(), first, first, reverse).unwrap().collect();
        let [Err(error)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(first)));
        assert_eq!(error.detail.file.as_deref(), Some(&*path));
        assert_eq!(error.detail.offset, Some(RECORDS));
    }

    // Between finding it and reading it again.
    let double = Double::new(vfs.clone());
    let (mut reads, target) = (0, raw(&*vfs, &paths[0]));
    double.fail(move |call| {
        reads += usize::from(call.what == "read" && call.path == paths[0]);
        if reads == 2 {
            write_all_at(&*target, RECORDS + 40, b"\0").unwrap();
        }
        None
    });
    let mut cursor = LogCursor::new(double.vfs(), dir(), 1, 2, true).unwrap();
    assert_eq!(cursor.next().unwrap().unwrap().epoch, 2);
}

/// A reader that meets half a record looks again before it says so: a host may have completed it.
#[test]
fn a_record_that_is_completed_meanwhile() {
    let (vfs, mut log, mut all) = store(3, 60, 64 << 10);
    let before = log.end().offset;
    append(&mut log, &commit(4, 60)).unwrap();
    let end = log.end().offset;
    drop(log);
    let whole = image(&*vfs, dir()).remove(0);
    all.push(commit(4, 60));
    let path = whole.0.clone();
    for (completed, from) in [(false, before + 8), (true, before + 8), (true, before)] {
        let target = raw(&*vfs, &path);
        write_all_at(&*target, from, &vec![0; (end - from) as usize]).unwrap();
        let double = Double::new(vfs.clone());
        let (mut reads, bytes, path) = (0, whole.1.clone(), path.clone());
        // Four calls read the segment; what is read later is the second look.
        double.fail(move |call| {
            reads += usize::from(call.what == "read" && call.path == path);
            if completed && reads == 2 {
                write_all_at(&*target, from, &bytes[from as usize..end as usize]).unwrap();
            }
            None
        });
        let (found, seen) = read_only(&double.vfs(), dir()).unwrap();
        // Nothing but zeros is an end, and no reason to look again.
        let more = completed && from != before;
        assert_eq!(seen.len(), 3 + usize::from(more));
        assert_eq!(seen, all[..seen.len()]);
        let torn = if more || from == before { 0 } else { 8 };
        assert_eq!(found.torn_bytes, torn);
    }
}

/// How far it has come is told by the MiB and at the end of each segment.
#[test]
fn progress() {
    let vfs = ram();
    let mut log = Log::create(vfs.clone(), dir(), options(3 << 20)).unwrap();
    (1..=100).for_each(|epoch| append(&mut log, &commit(epoch, 60_000)).unwrap());
    log.close().unwrap();
    let sizes: Vec<u64> = segments(&*vfs).iter().map(|p| raw(&*vfs, p).size().unwrap()).collect();
    assert_eq!(sizes.len(), 2);
    let total: u64 = sizes.iter().sum();
    let mut told = Vec::new();
    open(
        vfs.clone(),
        dir(),
        options(0),
        0,
        OpenMode::Reader { durable_only: false },
        &mut |_| Ok(()),
        &mut |done, all| told.push((done, all)),
    )
    .unwrap();
    check_progress(&told, &sizes, 0, total);
    told.clear();
    let walked =
        verify(&*vfs, dir(), None, &mut |e| panic!("{e}"), &mut |a, b| told.push((a, b))).unwrap();
    assert_eq!((walked.records, walked.bytes), (102, total + 8192));
    check_progress(&told, &sizes, 8192, total + 8192);
}

fn check_progress(told: &[(u64, u64)], sizes: &[u64], before: u64, total: u64) {
    assert!(told.is_sorted() && told.iter().all(|t| t.1 == total), "{told:?}");
    let mut done = before;
    for size in sizes {
        let inside = told.iter().filter(|t| (done + 1..done + size).contains(&t.0));
        let steps: Vec<u64> = inside.map(|t| t.0 - done).collect();
        // A step is the first record's end after a MiB.
        assert_eq!(steps.len() as u64, (size - 1) >> 20, "{told:?}");
        let mut from = 0;
        for step in steps {
            assert!((1 << 20..(1 << 20) + 70_000).contains(&(step - from)), "{told:?}");
            from = step;
        }
        done += size;
        assert!(told.contains(&(done, total)), "{told:?}");
    }
}

/// Slots without a durable position, and a segment that never got a header: there is no log, and it is not made up.
#[test]
fn a_first_segment_without_a_header() {
    let vfs = RamVfs::new();
    for made in [DIR, "/s/log", "/s/checkpoints", "/s/quarantine"] {
        vfs.create_dir(Path::new(made)).unwrap();
    }
    let meta = begun([5; 16]);
    MetaSlots::create(&vfs, dir(), meta).unwrap();
    let path = dir().join("log/0000000000000000-0000000000000001.mlog");
    let file = vfs.open(&path, OpenKind::CreateNew).unwrap();
    let vfs: Arc<dyn Vfs> = Arc::new(vfs);
    for bytes in [&b""[..], b"no header"] {
        write_all_at(&*file, 0, bytes).unwrap();
        for error in
            [read_only(&vfs, dir()).unwrap_err(), try_open(&vfs, dir(), 0).map(|_| ()).unwrap_err()]
        {
            assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(0)));
            assert_eq!(error.detail.file.as_deref(), Some(&*path));
        }
    }
    // A log that begins later than what is asked for.
    let late = dir().join("log/0000000000000000-0000000000000004.mlog");
    vfs.rename(&path, &late).unwrap();
    let error = read_only(&vfs, dir()).unwrap_err();
    assert!(error.message.contains("before it are missing"), "{error}");
    assert_eq!(error.detail.epoch, Some(4));
    vfs.unlink(&late).unwrap();
    assert_eq!(read_only(&vfs, dir()).unwrap_err().code, Code::BusNotFound);
}

/// Torn bytes and segments find a free name in quarantine, in an order that a crash may end at any point, and are told.
#[test]
fn setting_aside() {
    let double = Double::new(ram());
    let vfs = double.vfs();
    let mut log = Log::create(vfs.clone(), dir(), options(RECORDS + 192)).unwrap();
    (1..=4).for_each(|epoch| append(&mut log, &commit(epoch, 100)).unwrap());
    let end = log.end();
    assert_eq!(end.seq, 3);
    drop(log);
    let paths = segments(&*vfs);
    write_all_at(&*raw(&*vfs, &paths[2]), 4100, b"torn").unwrap();
    let quarantine = dir().join("quarantine");
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_string();
    let (third, fourth) = (name(&paths[2]), name(&paths[3]));
    for taken in [".torn", ".1.torn", ".2.torn"] {
        vfs.open(&quarantine.join(format!("{fourth}{taken}")), OpenKind::CreateNew).unwrap();
    }
    let cut = format!("{third}-0000000000001000");
    vfs.open(&quarantine.join(format!("{cut}.torn")), OpenKind::CreateNew).unwrap();
    let torn = image(&*vfs, dir())[2].1.clone();
    let torn_end = torn.iter().rposition(|&b| b != 0).unwrap() as u64 + 1;
    // The last one lost its header, so it is torn whole.
    write_all_at(&*raw(&*vfs, &paths[3]), 0, &[0; 8]).unwrap();
    double.calls();
    let mut opened = None;
    let events = captured(tracing::Level::TRACE, || {
        opened = Some(try_open(&vfs, dir(), 0).unwrap());
    });
    let (log, found, seen) = opened.unwrap();
    assert_eq!(seen.len(), 2);
    let kept = [format!("{fourth}.3.torn"), format!("{cut}.1.torn")];
    assert_eq!(found.quarantined, kept.clone().map(|name| quarantine.join(name)));
    let length = torn_end - 4096;
    let mut copied = vec![0; length as usize];
    let n = crate::vfs::read_full_at(&*raw(&*vfs, &quarantine.join(&kept[1])), 0, &mut copied);
    assert_eq!(n.unwrap() as u64, length);
    assert!(copied == torn[4096..torn_end as usize]);
    let whole = raw(&*vfs, &quarantine.join(&kept[0])).size().unwrap();
    let torn: Vec<&String> = events.iter().filter(|e| e.contains("recovery.torn")).collect();
    assert_eq!(torn.len(), 1);
    assert!(torn[0].contains("=4096") && torn[0].contains(&format!("={length}")), "{torn:?}");
    let events: Vec<&String> = events.iter().filter(|e| e.contains("quarantine")).collect();
    assert_eq!(events.len(), 2);
    assert!(events[0].contains(&kept[0]) && events[0].contains(&format!("={whole}")), "{events:?}");
    assert!(
        events[1].contains(&kept[1]) && events[1].contains(&format!("={length}")),
        "{events:?}"
    );
    let second = name(&paths[1]);
    let expected = [
        "sync_dir log".to_string(),
        format!("sync {}", name(&paths[0])),
        format!("sync {second}"),
        format!("sync {third}"),
        "mkdir log".into(),
        "mkdir checkpoints".into(),
        "mkdir quarantine".into(),
        "sync_dir s".into(),
        format!("rename to {}", kept[0]),
        "sync_dir quarantine".into(),
        "sync_dir log".into(),
        // What no sync is known to have reached: the one before, and the header here.
        format!("write {second} 0+{}", raw(&*vfs, &paths[1]).size().unwrap()),
        format!("sync {second}"),
        format!("write {third} 0+4096"),
        format!("sync {third}"),
        format!("create {}", kept[1]),
        format!("write {} 0+{length}", kept[1]),
        format!("sync {}", kept[1]),
        "sync_dir quarantine".into(),
        format!("cut {third} 4096"),
        format!("sync {third}"),
        format!("write {third} 4096+56"),
        format!("sync {third}"),
        "write meta-0 0+128".into(),
        "sync meta-0".into(),
        "sync meta-1".into(),
    ];
    assert_eq!(double.changes(), expected);
    assert_eq!(log.end(), Position { seq: 2, offset: 4152 });
    assert_eq!(raw(&*vfs, &paths[2]).size().unwrap(), 4152);
    assert_eq!(read_meta(&*vfs, dir()).unwrap().durable, log.end());
    let bytes: u64 = segments(&*vfs).iter().map(|p| raw(&*vfs, p).size().unwrap()).sum();
    assert_eq!(log.bytes(), bytes);
}

/// A store that is created at any call of its reader's is there or not, and never damaged.
#[test]
fn a_creation_meanwhile() {
    let mut found = (0, 0);
    for nth in 1.. {
        let ram = RamVfs::new();
        let double = Double::new(Arc::new(ram.clone()));
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        double.fail(move |_| {
            if counted.fetch_add(1, Ordering::Relaxed) + 1 == nth {
                Log::create(Arc::new(ram.clone()), dir(), options(8192)).unwrap();
            }
            None
        });
        match read_meta(&*double.vfs(), dir()) {
            Ok(meta) => {
                assert_eq!((meta.durable_epoch, meta.durable.seq), (0, 0));
                found.0 += 1;
            }
            Err(error) => {
                assert_eq!(error.code, Code::BusNotFound, "call {nth}: {error}");
                found.1 += 1;
            }
        }
        if calls.load(Ordering::Relaxed) < nth {
            break;
        }
    }
    assert!(found.0 > 0 && found.1 > 0, "{found:?}");
}

/// A walk's steps in order, and where each ends.
#[test]
fn steps() {
    let (vfs, mut log, _) = store(2, 30, 64 << 10);
    log.append_mark(2, 3, 4).unwrap();
    append(&mut log, &commit(3, 30)).unwrap();
    log.close().unwrap();
    let names = segment::list(&*vfs, dir()).unwrap();
    let mut walk = reader::open_segment(&*vfs, dir(), names[0], None).unwrap();
    let mut seen = Vec::new();
    loop {
        let step = match walk.step().unwrap() {
            Step::Commit(c) => format!("commit {}", c.epoch),
            Step::Mark { epoch, .. } => format!("mark {epoch}"),
            Step::Other => "other".into(),
            Step::Nothing => break,
            Step::Wrong(what) => panic!("{what}"),
        };
        seen.push((step, walk.offset, walk.epoch, walk.commits, walk.sealed));
    }
    let places: Vec<u64> = seen.iter().map(|s| s.1).collect();
    assert_eq!(places, [4168, 4240, 4304, 4384, 4440]);
    let rest: Vec<_> = seen.iter().map(|s| (&*s.0, s.2, s.3, s.4)).collect();
    let expected = [
        ("commit 1", 1, 1, false),
        ("commit 2", 2, 2, false),
        ("mark 2", 2, 2, false),
        ("commit 3", 3, 3, false),
        ("other", 3, 3, true),
    ];
    assert_eq!(rest, expected);
    assert_eq!(walk.durable, 4384);
    assert_eq!(raw(&*vfs, &segments(&*vfs)[0]).size().unwrap(), 4440);
}

/// A file that cannot be opened for another reason than that it is not there is an error, not a missing slot.
#[test]
fn slots_that_cannot_be_read() {
    let (vfs, log, _) = store(1, 10, 64 << 10);
    drop(log);
    let double = Double::new(vfs);
    for what in ["open", "read", "list"] {
        double
            .fail(move |call| (call.what == what).then(|| std::io::Error::from_raw_os_error(EIO)));
        let error = read_only(&double.vfs(), dir()).unwrap_err();
        assert_eq!((error.code, error.detail.errno), (Code::Storage, Some(EIO)));
    }
    // A path through a file is no store.
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join("file"), b"").unwrap();
    let os: Arc<dyn Vfs> = Arc::new(OsVfs);
    let through = tmp.path().join("file/sub");
    assert!(matches!(
        read_meta(&*os, &through).unwrap_err().code,
        Code::BusNotFound | Code::Storage
    ));
}
