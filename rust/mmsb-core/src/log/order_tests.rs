//! What the log asks of the file system, in which order, and what it says when a call fails.

use std::sync::Arc;

use super::double::{Call, Double};
use super::segment::RECORDS;
use super::tests::*;
use super::*;
use crate::error::Code;
use crate::trace::tests::captured;
use crate::vfs::{OpenKind, OsVfs, RamVfs, write_all_at};

/// A store's first segment has this name once it is durable, before that it is called `creating`.
const FIRST: &str = "0000000000000000-0000000000000001.mlog";
const SECOND: &str = "0000000000000001-0000000000000003.mlog";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn double() -> Double {
    Double::new(ram())
}

/// A commit whose record takes `size` bytes in all.
fn sized(epoch: u64, size: usize) -> OwnedCommit {
    let plain = OwnedCommit { source: None, meta: None, ..commit(epoch, 0) };
    OwnedCommit { ops: vec![epoch as u8; size - 32 - 4], ..plain }
}

/// A store is durable when it has its name, and the slots come before it.
#[test]
fn creating() {
    let double = double();
    drop(Log::create(double.vfs(), dir(), options(64 << 10)).unwrap());
    let expected = [
        "mkdir s",
        "mkdir log",
        "mkdir checkpoints",
        "mkdir quarantine",
        "create meta-0",
        "create meta-1",
        "write meta-1 0+128",
        "cut meta-1 4096",
        "write meta-0 0+128",
        "cut meta-0 4096",
        "sync meta-0",
        "sync meta-1",
        "sync_dir s",
        "sync_dir ",
        "create creating",
        "reserve creating 0+65536",
        "write creating 0+4096",
        "sync_dir log",
        "sync creating",
        "rename to 0000000000000000-0000000000000001.mlog",
        "sync_dir log",
        "write meta-1 0+128",
        "sync meta-0",
        "sync meta-1",
    ];
    assert_eq!(double.changes(), expected);
}

/// Appends and syncs, a seal and the next segment, a close.
#[test]
fn writing() {
    let double = double();
    let mut log = Log::create(double.vfs(), dir(), options(RECORDS + 192)).unwrap();
    double.calls();
    append(&mut log, &sized(1, 48)).unwrap();
    assert_eq!(double.changes(), ["write creating 4096+48"]);
    sync(&mut log);
    assert_eq!(double.changes(), ["sync creating", "write meta-0 0+128"]);
    append(&mut log, &sized(2, 48)).unwrap();
    assert_eq!(double.changes(), ["write creating 4144+48"]);
    // No room for another and a seal: the end is cut, and the sealed segment is durable before its follower is used.
    append(&mut log, &sized(3, 48)).unwrap();
    let expected = [
        "write creating 4192+48".into(),
        "cut creating 4240".into(),
        format!("create {SECOND}"),
        format!("reserve {SECOND} 0+{}", RECORDS + 192),
        format!("write {SECOND} 0+4096"),
        "sync creating".into(),
        "sync_dir log".into(),
        format!("write {SECOND} 4096+48"),
    ];
    assert_eq!(double.changes(), expected);
    assert_eq!((log.end(), log.bytes()), (Position { seq: 1, offset: 4144 }, 4240 + 4144));
    log.close().unwrap();
    let expected = [
        format!("sync {SECOND}"),
        format!("write {SECOND} 4144+56"),
        format!("cut {SECOND} 4200"),
        format!("sync {SECOND}"),
        "write meta-1 0+128".into(),
        "sync meta-0".into(),
        "sync meta-1".into(),
    ];
    assert_eq!(double.changes(), expected);
    assert_eq!((log.end(), log.bytes()), (Position { seq: 1, offset: 4200 }, 4240 + 4200));
    assert_eq!(log.durable_epoch(), 3);
    drop(log);
    // The new segment's header tells how far the log was durable: the first sync.
    let header = header(&double.vfs(), SECOND);
    assert_eq!(header.durable, Position { seq: 0, offset: 4144 });
    assert_eq!(header.base_time, commit(2, 0).time);
}

fn header(vfs: &Arc<dyn Vfs>, name: &str) -> segment::SegmentHeader {
    let mut window = reader::Window::open(&**vfs, &dir().join("log").join(name)).unwrap();
    window.header().unwrap().unwrap()
}

/// The host syncs every file before it reads it, and the directory first.
#[test]
fn opening_an_unclean_end() {
    let double = double();
    let mut log = Log::create(double.vfs(), dir(), options(64 << 10)).unwrap();
    append(&mut log, &sized(1, 48)).unwrap();
    sync(&mut log);
    append(&mut log, &sized(2, 48)).unwrap();
    drop(log);
    double.calls();
    drop(try_open(&double.vfs(), dir(), 0).unwrap());
    let calls = double.calls();
    let log_calls: Vec<String> = calls
        .iter()
        .filter(|call| call.changes() || call.what == "read" && call.path.ends_with(FIRST))
        .map(Call::to_string)
        .collect();
    let expected = [
        "sync_dir log".into(),
        format!("sync {FIRST}"),
        format!("read {FIRST}"),
        "mkdir log".into(),
        "mkdir checkpoints".into(),
        "mkdir quarantine".into(),
        "sync_dir s".into(),
        // What no sync is known to have reached is written again.
        format!("read {FIRST}"),
        format!("write {FIRST} 4144+48"),
        format!("sync {FIRST}"),
        format!("cut {FIRST} 4192"),
        format!("sync {FIRST}"),
        format!("write {FIRST} 4192+56"),
        format!("sync {FIRST}"),
        "write meta-1 0+128".into(),
        "sync meta-0".into(),
        "sync meta-1".into(),
    ];
    assert_eq!(log_calls, expected);
    // And one that was closed well is only read.
    drop(try_open(&double.vfs(), dir(), 0).unwrap());
    let expected = [
        "sync_dir log".to_string(),
        format!("sync {FIRST}"),
        "mkdir log".into(),
        "mkdir checkpoints".into(),
        "mkdir quarantine".into(),
        "sync_dir s".into(),
        format!("sync {FIRST}"),
    ];
    assert_eq!(double.changes(), expected);
}

/// A segment ends where the next record and a seal would pass its limit, and not before.
#[test]
fn segments_are_filled() {
    for limit in (RECORDS + 200..RECORDS + 400).step_by(8) {
        let (vfs, mut log, _) = store(0, 0, limit);
        let sizes: Vec<usize> = (1..=24).map(|e: usize| 48 + e * 40 % 120 / 8 * 8).collect();
        // Where each record must go: its payload, the largest header, and 64 bytes for a seal fit.
        let (mut seq, mut end) = (0, RECORDS);
        for (epoch, &size) in (1..).zip(&sizes) {
            let need = (HEADROOM + size - 36).next_multiple_of(8) as u64;
            if end != RECORDS && end + need + 64 > limit {
                (seq, end) = (seq + 1, RECORDS);
            }
            end += size as u64;
            append(&mut log, &sized(epoch, size)).unwrap();
            assert_eq!(log.end(), Position { seq, offset: end });
        }
        drop(log);
        for path in segments(&*vfs) {
            assert!(raw(&*vfs, &path).size().unwrap() <= limit);
        }
        assert_eq!(try_open(&vfs, dir(), 0).unwrap().2.len(), 24);
    }
}

/// Space is reserved in doubling steps, never past the limit, and always for the record and a seal.
#[test]
fn reserving() {
    let reserved = |double: &Double| -> Vec<(u64, u64)> {
        let calls = double.calls();
        calls.iter().filter(|call| call.what == "reserve").map(|c| (c.at, c.len)).collect()
    };
    let double = double();
    let mut log = Log::create(double.vfs(), dir(), options(1 << 20)).unwrap();
    assert_eq!(reserved(&double), [(0, 256 << 10)]);
    append(&mut log, &sized(1, (256 << 10) - 4096 - 92)).unwrap();
    assert_eq!(reserved(&double), []);
    append(&mut log, &sized(2, 48)).unwrap();
    assert_eq!(reserved(&double), [(256 << 10, 256 << 10)]);
    append(&mut log, &sized(3, 300 << 10)).unwrap();
    assert_eq!(reserved(&double), [(512 << 10, 512 << 10)]);
    // The next one's segment has room for nothing else.
    append(&mut log, &sized(4, 2 << 20)).unwrap();
    assert_eq!(
        reserved(&double),
        [(0, 256 << 10), (256 << 10, (2 << 20) + 4096 + 96 - (256 << 10))]
    );

    // A disk that has no room for a step may have room for the record; one without either says so and goes on.
    let full = Double::new(ram());
    let mut log = Log::create(full.vfs(), dir(), options(1 << 20)).unwrap();
    append(&mut log, &sized(1, (256 << 10) - 4096 - 92)).unwrap();
    full.fail(|call| {
        let full = call.what == "reserve" && call.len > 1000;
        full.then(|| std::io::Error::from_raw_os_error(ENOSPC))
    });
    full.calls();
    append(&mut log, &sized(2, 48)).unwrap();
    assert_eq!(reserved(&full), [(256 << 10, 256 << 10), (256 << 10, 56)]);
    let error = append(&mut log, &sized(3, 2000)).unwrap_err();
    assert_eq!((error.code, error.detail.errno), (Code::OutOfSpace, Some(ENOSPC)));
    log.usable().unwrap();
    append(&mut log, &sized(3, 48)).unwrap();
    // A file system that cannot reserve is asked once a segment.
    full.fail(|call| (call.what == "reserve").then(|| std::io::ErrorKind::Unsupported.into()));
    full.calls();
    append(&mut log, &sized(4, 2000)).unwrap();
    append(&mut log, &sized(5, 2000)).unwrap();
    assert_eq!(reserved(&full).len(), 2);
    full.heal();
    drop(log);
    assert_eq!(try_open(&full.vfs(), dir(), 0).unwrap().2.len(), 5);
}

/// A life with two segments, a torn end and a segment that is torn whole. Says how many commits are known to be durable.
fn live(vfs: &Arc<dyn Vfs>, durable: &mut u64, submitted: &mut u64) -> Result<()> {
    let mut log = Log::create(vfs.clone(), dir(), options(RECORDS + 300))?;
    for epoch in 1..=3 {
        *submitted = epoch;
        append(&mut log, &sized(epoch, 48))?;
        if epoch == 1 {
            let point = log.sync_point();
            point.sync()?;
            log.synced(&point);
            *durable = point.epoch();
            log.write_meta()?;
            log.append_mark(1, 2, 3)?;
        }
    }
    let end = log.end().offset;
    drop(log);
    // What a power loss may leave: half a record, and a segment without a header.
    let path = dir().join("log").join(SECOND);
    let file = vfs.open(&path, OpenKind::ReadWrite).map_err(|e| Error::storage(&path, &e, ""))?;
    write_all_at(&*file, end, &[7; 20]).map_err(|e| Error::storage(&path, &e, ""))?;
    let path = dir().join("log/0000000000000002-0000000000000004.mlog");
    let file = vfs.open(&path, OpenKind::CreateNew).map_err(|e| Error::storage(&path, &e, ""))?;
    write_all_at(&*file, 0, b"no header").map_err(|e| Error::storage(&path, &e, ""))?;
    let (mut log, _, seen) = try_open(vfs, dir(), 0)?;
    assert_eq!(seen.len(), 3);
    *durable = 3;
    *submitted = 4;
    append(&mut log, &sized(4, 48))?;
    log.close()?;
    *durable = 4;
    drop(log);
    let mut problems = Vec::new();
    verify(&**vfs, dir(), None, &mut |e| problems.push(e), &mut |_, _| {})?;
    problems.pop().map_or(Ok(()), Err)?;
    read_only(vfs, dir())?;
    for reverse in [false, true] {
        for commit in LogCursor::new(vfs.clone(), dir(), 1, 4, reverse)? {
            commit?;
        }
    }
    Ok(())
}

/// Every call fails once: the answer names file and error number, a sync is never asked for again, and what was
/// durable is there afterwards.
#[test]
fn every_call_fails_once() {
    let mut whole = 0;
    for nth in 1.. {
        let double = double();
        double.fail_once(nth, EIO);
        let (mut durable, mut submitted) = (0, 0);
        let done = live(&double.vfs(), &mut durable, &mut submitted);
        let calls = double.calls();
        let Some(hit) = calls.get(nth - 1) else {
            assert!(done.is_ok());
            break;
        };
        double.heal();
        whole = nth;
        match done {
            Err(error) => {
                assert_eq!(
                    (error.code, error.detail.errno),
                    (Code::Storage, Some(EIO)),
                    "{hit}: {error}"
                );
                // A first segment and a file that is renamed have two names.
                let file = error.detail.file.unwrap();
                let two = hit.what == "rename to" || file.starts_with(dir().join("log"));
                assert!(file == hit.path || two, "{hit}: {file:?}");
            }
            // Space need not be reserved.
            Ok(()) => assert_eq!(hit.what, "reserve", "{hit}"),
        }
        if hit.what == "sync" || hit.what == "sync_dir" {
            let again = calls[nth..].iter().filter(|c| c.what == hit.what && c.path == hit.path);
            assert_eq!(again.count(), 0, "{hit}");
        }
        match try_open(&double.vfs(), dir(), 0) {
            Ok((_, _, seen)) => {
                let seen = seen.len() as u64;
                assert!(
                    durable <= seen && seen <= submitted,
                    "{hit}: {durable} {seen} {submitted}"
                );
            }
            Err(error) => {
                assert_eq!((error.code, submitted), (Code::BusNotFound, 0), "{hit}");
                Log::create(double.vfs(), dir(), options(64 << 10)).unwrap();
            }
        }
    }
    assert!(whole > 100, "{whole}");
}

/// After a failed write the log is broken, after a failed sync too; both say so at once and do nothing any more.
#[test]
fn a_failure_is_final() {
    for what in ["write", "sync"] {
        let double = double();
        let mut log = Log::create(double.vfs(), dir(), options(64 << 10)).unwrap();
        append(&mut log, &commit(1, 10)).unwrap();
        double
            .fail(move |call| (call.what == what).then(|| std::io::Error::from_raw_os_error(EIO)));
        if what == "write" {
            assert_eq!(append(&mut log, &commit(2, 10)).unwrap_err().code, Code::Storage);
        } else {
            assert_eq!(log.sync_point().sync().unwrap_err().code, Code::Storage);
        }
        double.heal();
        double.calls();
        let again: [Result<()>; 4] =
            [log.usable(), append(&mut log, &commit(2, 10)), log.append_mark(1, 2, 3), log.close()];
        assert!(again.iter().all(|done| done.as_ref().unwrap_err().code == Code::Storage));
        if what == "sync" {
            assert_eq!(log.sync_point().sync().unwrap_err().code, Code::Storage);
        }
        assert_eq!(double.calls().len(), 0);
        assert_eq!(log.durable_epoch(), 0);
    }
}

/// A sealed segment whose end cannot be cut is in doubt too.
#[test]
fn a_cut_that_fails() {
    let double = double();
    let mut log = Log::create(double.vfs(), dir(), options(RECORDS + 192)).unwrap();
    append(&mut log, &sized(1, 80)).unwrap();
    double.fail(|call| (call.what == "cut").then(|| std::io::Error::from_raw_os_error(EIO)));
    assert_eq!(append(&mut log, &sized(2, 80)).unwrap_err().detail.errno, Some(EIO));
    double.heal();
    assert_eq!(log.usable().unwrap_err().code, Code::Storage);
    drop(log);
    assert_eq!(try_open(&double.vfs(), dir(), 0).unwrap().2.len(), 1);
}

/// A segment that could not be begun leaves nothing behind, and the log goes on; if it does leave something, it ends.
#[test]
fn a_segment_that_cannot_begin() {
    for stuck in [false, true] {
        let double = double();
        let mut log = Log::create(double.vfs(), dir(), options(RECORDS + 192)).unwrap();
        append(&mut log, &sized(1, 80)).unwrap();
        double.fail(move |call| {
            let begins = call.what == "write"
                && call.path.ends_with("0000000000000001-0000000000000002.mlog");
            let fails = begins || stuck && call.what == "unlink";
            fails.then(|| std::io::Error::from_raw_os_error(EIO))
        });
        assert_eq!(append(&mut log, &sized(2, 80)).unwrap_err().code, Code::Storage);
        double.heal();
        assert_eq!(log.usable().is_ok(), !stuck);
        assert_eq!(segments(&*double.vfs()).len(), 1 + usize::from(stuck));
        if !stuck {
            append(&mut log, &sized(2, 80)).unwrap();
        }
        drop(log);
        assert_eq!(try_open(&double.vfs(), dir(), 0).unwrap().2.len(), 2 - usize::from(stuck));
    }
}

#[test]
fn commits_out_of_order_are_refused() {
    let (vfs, mut log, _) = store(3, 10, 64 << 10);
    for epoch in [0, 2, 3, 5] {
        assert_eq!(append(&mut log, &commit(epoch, 10)).unwrap_err().code, Code::Internal);
    }
    let mut short = vec![0; HEADROOM - 1];
    assert_eq!(log.append(4, 0, 0, &mut short).unwrap_err().code, Code::Internal);
    log.usable().unwrap();
    let mut least = vec![0; HEADROOM];
    log.append(4, 77, 0, &mut least).unwrap();
    drop(log);
    let seen = try_open(&vfs, dir(), 0).unwrap().2;
    assert_eq!((seen.len(), seen[3].time, seen[3].ops.len()), (4, 77, 0));
}

/// The durable position is told by the first record after a sync and by no other until the next.
#[test]
fn a_sync_is_told_once() {
    let (vfs, mut log, _) = store(2, 10, 64 << 10);
    let mut told = Vec::new();
    for epoch in 3..=8 {
        if epoch == 4 || epoch == 7 {
            sync(&mut log);
        }
        let before = log.end();
        append(&mut log, &commit(epoch, 10)).unwrap();
        let mut window = reader::Window::open(&*vfs, &segments(&*vfs)[0]).unwrap();
        let salt = window.header().unwrap().unwrap().salt;
        let (head, bytes) = window.record(&salt, before.offset).unwrap().unwrap();
        let parsed = record::parse(&head, &bytes[record::HEADER..], before.offset, 0).unwrap().0;
        told.push(parsed.map(|offset| before.offset - offset));
        assert_eq!(head.flags & 1 != 0, parsed.is_some());
    }
    assert_eq!(told, [None, Some(0), None, None, Some(0), None]);
    // A sync that reaches less than an earlier one changes nothing.
    let old = log.sync_point();
    append(&mut log, &commit(9, 10)).unwrap();
    sync(&mut log);
    log.synced(&old);
    assert_eq!((log.durable_epoch(), old.epoch()), (9, 8));
}

/// On a real disk the sealed segments are synced by a thread beside the commits.
#[test]
fn a_roll_on_a_real_disk() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("s");
    for fails in [false, true] {
        let double = Double::new(Arc::new(OsVfs));
        let dir = dir.join(fails.to_string());
        std::fs::create_dir_all(dir.parent().unwrap()).unwrap();
        let mut log = Log::create(double.vfs(), &dir, options(RECORDS + 192)).unwrap();
        double.calls();
        if fails {
            double.fail(|call| {
                let sealed = call.what == "sync" && call.path.ends_with("creating");
                sealed.then(|| std::io::Error::from_raw_os_error(EIO))
            });
        }
        let mut ended = None;
        for epoch in 1..=20 {
            if let Err(error) = append(&mut log, &sized(epoch, 48)) {
                ended = Some((epoch, error.code));
                break;
            }
        }
        let closed = log.close();
        let syncs = double.changes().iter().filter(|c| *c == "sync creating").count();
        assert_eq!(syncs, 1);
        if fails {
            // Before the next segment but one begins it is known.
            assert!(
                ended.is_some_and(|(epoch, code)| epoch <= 5 && code == Code::Storage),
                "{ended:?}"
            );
            assert_eq!(closed.unwrap_err().code, Code::Storage);
        } else {
            assert_eq!(ended, None);
            closed.unwrap();
            assert_eq!((log.durable_epoch(), log.end().seq), (20, 9));
            drop(log);
            assert_eq!(try_open(&double.vfs(), &dir, 0).unwrap().2.len(), 20);
        }
    }
}

/// A sync that ends after the next roll leaves what it did not reach to the next sync.
#[test]
fn a_sync_that_overlaps_a_roll() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("s");
    let double = Double::new(Arc::new(OsVfs));
    let mut log = Log::create(double.vfs(), &dir, options(RECORDS + 192)).unwrap();
    let mut points = Vec::new();
    for epoch in 1..=3 {
        append(&mut log, &sized(epoch, 80)).unwrap();
        points.push(log.sync_point());
    }
    let synced = |double: &Double| {
        let mut names = double.changes();
        names.retain(|call| call.starts_with("sync 000"));
        names.sort();
        names
    };
    points[1].sync().unwrap();
    log.synced(&points[1]);
    assert_eq!(log.durable_epoch(), 2);
    // The thread beside the commits may have synced them too; what counts is who does now.
    while !double.changes().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    let point = log.sync_point();
    point.sync().unwrap();
    let name = |seq: u64| format!("sync {seq:016x}-{:016x}.mlog", seq + 1);
    assert_eq!(synced(&double), [name(1), name(2)]);
    log.synced(&point);
    log.sync_point().sync().unwrap();
    assert_eq!(synced(&double), [name(2)]);
}

/// A segment that follows another is told, the first is not.
#[test]
fn a_roll_is_told() {
    let told = captured(tracing::Level::TRACE, || drop(store(3, 20, RECORDS + 192)));
    let rolls: Vec<&String> = told.iter().filter(|line| line.contains("mmsb.log.roll")).collect();
    // Three segments of one commit each.
    assert_eq!(rolls.len(), 2, "{told:?}");
    assert!(rolls[0].contains("epoch=2") && rolls[1].contains("epoch=3"), "{rolls:?}");
}

/// Two stores, and two segments of one store, have nothing in common; with a seed all is the same again.
#[test]
fn uuids_and_salts() {
    let made = |opts: &LogOptions| {
        let vfs = ram();
        let mut log = Log::create(vfs.clone(), dir(), opts.clone()).unwrap();
        (1..=3).for_each(|epoch| append(&mut log, &sized(epoch, 48)).unwrap());
        drop(log);
        let headers: Vec<_> = segments(&*vfs)
            .iter()
            .map(|path| header(&vfs, path.file_name().unwrap().to_str().unwrap()))
            .collect();
        headers
    };
    let opts = LogOptions { seed: None, time: None, ..options(RECORDS + 192) };
    let before = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let (a, b) = (made(&opts), made(&opts));
    let after = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    assert_eq!(a.len(), 2);
    assert_ne!(a[0].uuid, b[0].uuid);
    assert_eq!(a[0].uuid, a[1].uuid);
    let mut salts: Vec<_> = a.iter().chain(&b).map(|h| h.salt).collect();
    salts.sort_unstable();
    salts.dedup();
    assert_eq!(salts.len(), 4);
    assert!(a[0].uuid[..8] != a[0].uuid[8..]);
    assert!((before..=after).contains(&a[0].base_time));
    let seeded = LogOptions { seed: Some(9), ..opts.clone() };
    assert_eq!(made(&seeded), made(&seeded));
    assert_eq!(made(&seeded)[0].base_time, 0);
    assert_ne!(made(&seeded)[0].uuid, made(&options(RECORDS + 192))[0].uuid);
    let timed = LogOptions { time: Some(55), ..seeded };
    assert_eq!(made(&timed)[0].base_time, 55);
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let vfs = RamVfs::new();
    vfs.create_dir(dir()).unwrap();
    vfs.open(&dir().join("thesis.tex"), OpenKind::CreateNew).unwrap();
    let vfs: Arc<dyn Vfs> = Arc::new(vfs);
    let error = Log::create(vfs.clone(), dir(), options(0)).unwrap_err();
    assert_eq!(error.code, Code::Argument);
    assert!(error.message.contains("thesis.tex"));
    assert_eq!(vfs.list(dir()).unwrap(), ["thesis.tex"]);
    vfs.unlink(&dir().join("thesis.tex")).unwrap();
    let log = Log::create(vfs.clone(), dir(), options(0)).unwrap();
    assert_eq!((log.meta().durability, log.durable_epoch(), log.end().offset), (0, 0, RECORDS));
}
