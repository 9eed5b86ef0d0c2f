//! The log as a whole, against a plain list of what was committed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::error::Code;
use crate::vfs::{OpenKind, OsVfs, RamVfs, VfsFile, read_full_at, write_all_at};

pub(super) const DIR: &str = "/s";

pub(super) fn dir() -> &'static Path {
    Path::new(DIR)
}

pub(super) fn options(segment_bytes: u64) -> LogOptions {
    LogOptions {
        segment_bytes,
        seed: Some(1),
        time: Some(1_700_000_000_000_000_000),
        ..LogOptions::default()
    }
}

pub(super) fn commit(epoch: u64, size: usize) -> OwnedCommit {
    let ops = (0..size).map(|i| (i as u64 * 7 + epoch * 13) as u8 | 1).collect();
    OwnedCommit {
        epoch,
        time: 1_700_000_000_000_000_000 + epoch * 1_000_003,
        source: epoch.is_multiple_of(3).then(|| format!("source {epoch}")),
        meta: epoch.is_multiple_of(4).then(|| format!("{{\"step\":{epoch}}}")),
        ops,
    }
}

pub(super) fn append(log: &mut Log, c: &OwnedCommit) -> Result<()> {
    let mut buf = vec![0xEE; HEADROOM];
    let mut flags = 0;
    if let Some(source) = &c.source {
        flags |= SOURCE;
        put_text(&mut buf, source);
    }
    if let Some(meta) = &c.meta {
        flags |= META;
        put_text(&mut buf, meta);
    }
    buf.extend_from_slice(&c.ops);
    let len = buf.len();
    let done = log.append(c.epoch, c.time, flags, &mut buf);
    assert_eq!(buf.len(), len);
    done
}

pub(super) fn sync(log: &mut Log) {
    let point = log.sync_point();
    point.sync().unwrap();
    log.synced(&point);
    log.write_meta().unwrap();
}

pub(super) fn ram() -> Arc<dyn Vfs> {
    Arc::new(RamVfs::new())
}

pub(super) fn try_open(
    vfs: &Arc<dyn Vfs>,
    dir: &Path,
    from: u64,
) -> Result<(Log, LogRecovery, Vec<OwnedCommit>)> {
    let lock = lock(&**vfs, dir)?;
    let mut seen = Vec::new();
    let (log, found) = open(
        vfs.clone(),
        dir,
        LogOptions { promised: from, ..options(64 << 10) },
        from,
        OpenMode::Writer(lock),
        &mut |c| {
            seen.push(OwnedCommit::from(c));
            Ok(())
        },
        &mut |_, _| {},
    )?;
    assert_eq!(found.records, seen.len() as u64);
    Ok((log.unwrap(), found, seen))
}

pub(super) fn read_only(vfs: &Arc<dyn Vfs>, dir: &Path) -> Result<(LogRecovery, Vec<OwnedCommit>)> {
    let mut seen = Vec::new();
    let (log, found) = open(
        vfs.clone(),
        dir,
        options(64 << 10),
        0,
        OpenMode::Reader { durable_only: false },
        &mut |c| {
            seen.push(OwnedCommit::from(c));
            Ok(())
        },
        &mut |_, _| {},
    )?;
    assert!(log.is_none());
    Ok((found, seen))
}

pub(super) fn problems(vfs: &Arc<dyn Vfs>, dir: &Path) -> Vec<Error> {
    let mut found = Vec::new();
    verify(&**vfs, dir, None, &mut |e| found.push(e), &mut |_, _| {}).unwrap();
    found
}

/// All files of a store, by path.
pub(super) fn image(vfs: &dyn Vfs, dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let log = dir.join("log");
    let logs = vfs.list(&log).unwrap().into_iter().map(|name| log.join(name));
    for path in logs.chain(["meta-0", "meta-1"].map(|name| dir.join(name))) {
        if let Ok(file) = vfs.open(&path, OpenKind::Read) {
            let mut bytes = vec![0; file.size().unwrap() as usize];
            read_full_at(&*file, 0, &mut bytes).unwrap();
            files.push((path, bytes));
        }
    }
    files
}

/// A new file system with these files.
pub(super) fn restore(files: &[(PathBuf, Vec<u8>)]) -> Arc<dyn Vfs> {
    let vfs = RamVfs::new();
    for dir in [DIR, "/s/log", "/s/quarantine", "/s/checkpoints"] {
        vfs.create_dir(Path::new(dir)).unwrap();
    }
    for (path, bytes) in files {
        let file = vfs.open(path, OpenKind::CreateNew).unwrap();
        write_all_at(&*file, 0, bytes).unwrap();
    }
    Arc::new(vfs)
}

/// A store with `n` commits that its host left without closing.
pub(super) fn store(n: u64, size: usize, segment: u64) -> (Arc<dyn Vfs>, Log, Vec<OwnedCommit>) {
    let vfs = ram();
    let mut log = Log::create(vfs.clone(), Path::new(DIR), options(segment)).unwrap();
    let commits: Vec<_> = (1..=n).map(|e| commit(e, size)).collect();
    commits.iter().for_each(|c| append(&mut log, c).unwrap());
    (vfs, log, commits)
}

pub(super) fn segments(vfs: &dyn Vfs) -> Vec<PathBuf> {
    let log = Path::new(DIR).join("log");
    vfs.list(&log).unwrap().iter().map(|name| log.join(name)).collect()
}

pub(super) fn raw(vfs: &dyn Vfs, path: &Path) -> Arc<dyn VfsFile> {
    vfs.open(path, OpenKind::ReadWrite).unwrap()
}

/// Append, close, reopen, append again, on both file systems; nothing changes on the way.
fn life(vfs: Arc<dyn Vfs>, dir: &Path) {
    let mut all: Vec<OwnedCommit> = Vec::new();
    let mut log = Log::create(vfs.clone(), dir, options(64 << 10)).unwrap();
    for round in 0..4 {
        for _ in 0..300 {
            let epoch = all.len() as u64 + 1;
            all.push(commit(epoch, (epoch as usize * 31) % 700));
            append(&mut log, &all[all.len() - 1]).unwrap();
            if epoch.is_multiple_of(50) {
                sync(&mut log);
                log.append_mark(epoch, u128::from(epoch) << 70, 5).unwrap();
            }
        }
        assert_eq!(log.durable_epoch(), all.len() as u64);
        // A host that closes, and one that just goes away.
        if round % 2 == 0 {
            log.close().unwrap();
        }
        drop(log);
        assert_eq!(read_only(&vfs, dir).unwrap().1, all);
        let (reopened, found, seen) = try_open(&vfs, dir, 0).unwrap();
        assert_eq!(seen, all);
        assert_eq!((found.torn_bytes, found.last_epoch), (0, all.len() as u64));
        assert_eq!(found.last_time, all[all.len() - 1].time);
        assert_eq!(found.marks.len(), all.len() / 50);
        assert_eq!(found.marks[0], CheckpointMark { epoch: 50, digest: 50 << 70, size: 5 });
        assert_eq!(problems(&vfs, dir).len(), 0);
        log = reopened;
    }
    drop(log);
    for from in [0, 1, 37, 299, 300, 1199, 1200] {
        let (_, _, seen) = try_open(&vfs, dir, from).unwrap();
        assert_eq!(seen, &all[from as usize..]);
    }
    assert_eq!(try_open(&vfs, dir, 1201).unwrap_err().code, Code::Corruption);
    for (since, until) in [(0, 1200), (5, 5), (299, 302), (700, 699), (1200, 1200)] {
        let since_index = (since.max(1) - 1) as usize;
        let expected = all.get(since_index..until as usize).unwrap_or_default();
        let walk = |reverse| LogCursor::new(vfs.clone(), dir, since, until, reverse).unwrap();
        let forward: Vec<_> = walk(false).map(|c| c.unwrap()).collect();
        assert_eq!(forward, expected);
        let mut backward: Vec<_> = walk(true).map(|c| c.unwrap()).collect();
        backward.reverse();
        assert_eq!(backward, expected);
    }
}

/// What the slots of a new store say.
pub(super) fn begun(uuid: [u8; 16]) -> StoreMeta {
    StoreMeta {
        uuid,
        durability: 2,
        generation: 0,
        durable: Position::default(),
        durable_epoch: 0,
        base: LogBase::default(),
        parent: None,
    }
}

#[test]
fn life_in_memory() {
    life(ram(), Path::new(DIR));
}

#[test]
fn life_on_disk() {
    let tmp = tempfile::tempdir().unwrap();
    life(Arc::new(OsVfs), &tmp.path().join("s"));
}

/// Whichever way the bytes get into the files, they are the same.
#[test]
fn mapped_and_written_logs_are_equal() {
    let tmp = tempfile::tempdir().unwrap();
    let mut images = Vec::new();
    for mapped in [false, true] {
        let dir = tmp.path().join(mapped.to_string());
        let vfs: Arc<dyn Vfs> = Arc::new(OsVfs);
        let opts = LogOptions { mapped, ..options(1 << 20) };
        let mut log = Log::create(vfs.clone(), &dir, opts).unwrap();
        for epoch in 1..=8000 {
            append(&mut log, &commit(epoch, 400 + epoch as usize % 200)).unwrap();
            if epoch.is_multiple_of(1000) {
                // Time for the helper, so that both ways are taken.
                std::thread::sleep(std::time::Duration::from_millis(3));
                let from = epoch - 5;
                let seen = LogCursor::new(vfs.clone(), &dir, from, epoch, false).unwrap();
                let seen: Vec<_> = seen.map(|c| c.unwrap()).collect();
                let expected: Vec<_> =
                    (from..=epoch).map(|e| commit(e, 400 + e as usize % 200)).collect();
                assert_eq!(seen, expected);
            }
        }
        log.close().unwrap();
        drop(log);
        assert_eq!(try_open(&vfs, &dir, 0).unwrap().2.len(), 8000);
        let bytes: Vec<_> = image(&*vfs, &dir).into_iter().map(|(_, bytes)| bytes).collect();
        assert!(bytes.len() > 5);
        images.push(bytes);
    }
    assert!(images[0] == images[1]);
}

#[test]
fn a_small_commit_is_small() {
    let (_, mut log, _) = store(1, 64, 1 << 20);
    for epoch in 2..100 {
        let before = log.bytes();
        // An operation of 64 bytes with its kind, page, offset and length.
        let c = OwnedCommit { source: None, meta: None, ..commit(epoch, 64 + 6) };
        append(&mut log, &c).unwrap();
        assert!(log.bytes() - before <= 112);
        sync(&mut log);
    }
}

#[test]
fn an_oversize_commit_has_its_own_segment() {
    let (vfs, mut log, mut all) = store(3, 100, 64 << 10);
    for (epoch, size) in [(4, 1 << 20), (5, 10), (6, 3 << 20), (7, 200_000)] {
        all.push(commit(epoch, size));
        append(&mut log, &all[epoch as usize - 1]).unwrap();
    }
    assert_eq!(segments(&*vfs).len(), 5);
    drop(log);
    assert_eq!(try_open(&vfs, Path::new(DIR), 0).unwrap().2, all);
}

#[test]
fn creating_and_opening_at_the_wrong_place() {
    let vfs = ram();
    let dir = Path::new(DIR);
    assert_eq!(lock(&*vfs, dir).unwrap_err().code, Code::BusNotFound);
    assert_eq!(read_only(&vfs, dir).unwrap_err().code, Code::BusNotFound);
    let log = Log::create(vfs.clone(), dir, options(64 << 10)).unwrap();
    assert_eq!(lock(&*vfs, dir).unwrap_err().code, Code::BusLocked);
    assert_eq!(Log::create(vfs.clone(), dir, options(64 << 10)).unwrap_err().code, Code::BusLocked);
    drop(log);
    assert_eq!(Log::create(vfs.clone(), dir, options(64 << 10)).unwrap_err().code, Code::BusExists);
    // Whatever became of the slots, while there are segments.
    let slots = ["meta-0", "meta-1"].map(|slot| {
        let file = vfs.open(&dir.join(slot), OpenKind::ReadWrite).unwrap();
        let mut sound = vec![0; file.size().unwrap() as usize];
        read_full_at(&*file, 0, &mut sound).unwrap();
        write_all_at(&*file, 0, &vec![1; sound.len()]).unwrap();
        (file, sound)
    });
    assert_eq!(read_meta(&*vfs, dir).unwrap_err().code, Code::Corruption);
    let again = Log::create(vfs.clone(), dir, options(64 << 10));
    assert_eq!(again.map(drop).unwrap_err().code, Code::BusExists);
    slots.iter().for_each(|(file, sound)| write_all_at(&**file, 0, sound).unwrap());
    for path in segments(&*vfs) {
        vfs.unlink(&path).unwrap();
    }
    assert_eq!(Log::create(vfs.clone(), dir, options(64 << 10)).unwrap_err().code, Code::BusExists);
    assert_eq!(read_only(&vfs, dir).unwrap_err().code, Code::Corruption);
}

/// A host that dies in the middle of creating leaves nothing that a second attempt could not use.
#[test]
fn an_interrupted_creation_is_no_store() {
    let vfs = ram();
    let dir = Path::new(DIR);
    drop(Log::create(vfs.clone(), dir, options(64 << 10)).unwrap());
    for path in segments(&*vfs) {
        vfs.unlink(&path).unwrap();
    }
    vfs.unlink(&dir.join("meta-1")).unwrap();
    vfs.unlink(&dir.join("meta-0")).unwrap();
    drop(Log::create(vfs.clone(), dir, options(64 << 10)).unwrap());
    assert_eq!(try_open(&vfs, dir, 0).unwrap().1.last_epoch, 0);
}
