//! Past epochs against what each epoch was when it was committed; and what restoring one writes.

use std::path::Path;

use super::*;
use crate::delta::{Batch, NewPage};
use crate::log::SegmentName;
use crate::log::double::Double;
use crate::sequence::How;
use crate::vfs::{OpenKind, RamVfs, read_full_at, write_all_at};
use crate::{Bus, Durability, Mode, Options, restore};

pub(super) const DIR: &str = "/s";

pub(super) fn options() -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(64 << 20),
        seed: Some(3),
        segment_bytes: Some(4096 + 600),
        ..Options::default()
    }
}

pub(super) fn how(epoch: u64) -> How<'static> {
    How { time: Some(1000 + epoch), wait: true, ..How::default() }
}

pub(super) fn new(name: Option<&str>, nbytes: u64) -> NewPage<'_> {
    NewPage { name, dtype: "", itemsize: 1, shape: &[], nbytes, meta: "", location: 0 }
}

/// A bus of nine epochs with a checkpoint of epoch 5, and the digest of every epoch.
fn nine() -> (Double, Bus, Vec<u128>) {
    nine_with(&options())
}

pub(super) fn nine_with(options: &Options) -> (Double, Bus, Vec<u128>) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), options).unwrap();
    let mut digests = vec![bus.snapshot().unwrap().digest().unwrap()];
    let mut batch = Batch::new();
    for epoch in 1..=9u64 {
        batch.clear();
        let name = format!("page {epoch}");
        batch.create(epoch, &NewPage { shape: &[100], ..new(Some(&name), 100) });
        batch.write(1, epoch, &[epoch as u8; 20]);
        let source = (epoch == 3).then_some("physics");
        let meta = (epoch == 4).then_some("{\"step\":4}");
        let how = How { source, meta, ..how(epoch) };
        assert_eq!(bus.commit(&mut batch, None, &how).unwrap().epoch, epoch);
        digests.push(bus.snapshot().unwrap().digest().unwrap());
        if epoch == 5 {
            assert_eq!(bus.checkpoint().unwrap(), 5);
        }
    }
    (double, bus, digests)
}

pub(super) fn store(bus: &Bus, vfs: Arc<dyn Vfs>) -> Store {
    let uuid = log::read_meta(&*vfs, Path::new(DIR)).unwrap().uuid;
    Store { vfs, dir: bus.path().unwrap().to_path_buf(), uuid }
}

#[test]
fn every_epoch_from_the_nearest_base() {
    let (double, bus, digests) = nine();
    let store = store(&bus, double.vfs());
    for epoch in 0..=9u64 {
        let replay = Replay::begin(&store, &Base::Store, epoch, 64 << 20).unwrap();
        assert_eq!(replay.epoch(), if epoch >= 5 { 5 } else { 0 });
        // Forward from there, and once more for the same.
        for to in epoch..=9 {
            for _ in 0..2 {
                let got = replay.to(&store, to).unwrap();
                assert_eq!((got.epoch(), got.digest().unwrap()), (to, digests[to as usize]));
                assert_eq!(replay.epoch(), to);
            }
        }
        let error = replay.to(&store, 10).unwrap_err();
        assert_eq!(error.code, Code::Corruption);
        assert_eq!(bus.snapshot_at(epoch).unwrap().digest().unwrap(), digests[epoch as usize]);
    }
    let late = Replay::begin(&store, &Base::Store, 9, 64 << 20).unwrap();
    late.to(&store, 9).unwrap();
    let error = late.to(&store, 8).unwrap_err();
    assert_eq!(error.code, Code::EpochNotFound);
    // What a fork stands on is a base too.
    let base = bus.snapshot_at(6).unwrap().whole().unwrap();
    let replay = Replay::begin(&store, &Base::Fork(&base), 8, 64 << 20).unwrap();
    assert_eq!(replay.epoch(), 6);
    assert_eq!(replay.to(&store, 8).unwrap().digest().unwrap(), digests[8]);
}

/// What the log tells of each commit.
#[test]
fn entries() {
    let (_, bus, _) = nine();
    let entries: Vec<LogEntry> = bus.log(2, 5, false).unwrap().map(|e| e.unwrap()).collect();
    let told: Vec<_> =
        entries.iter().map(|e| (e.epoch(), e.time(), e.source(), e.meta())).collect();
    let step = Some("{\"step\":4}");
    let expected = [
        (2, 1002, None, None),
        (3, 1003, Some("physics"), None),
        (4, 1004, None, step),
        (5, 1005, None, None),
    ];
    assert_eq!(told, expected);
    let ops: Vec<Op<'_>> = entries[1].ops().map(|op| op.unwrap()).collect();
    assert_eq!(ops.len(), 2);
    assert!(matches!(&ops[0], Op::Create { id: 3, name: Some("page 3"), nbytes: 100, .. }));
    assert_eq!(ops[1], Op::Write { id: 1, offset: 3, data: &[3; 20] });
    let broken = OwnedCommit { epoch: 7, time: 0, source: None, meta: None, ops: vec![200] };
    let error = LogEntry(broken).ops().next().unwrap().unwrap_err();
    assert_eq!(error.code, Code::Corruption);
    assert!(error.message.contains("epoch 7"));
    let mut iter = bus.log(9, 20, false).unwrap();
    assert_eq!(iter.next().unwrap().unwrap().epoch(), 9);
    assert!(iter.next().is_none() && iter.next().is_none());
}

/// An iterator over damage says so once and ends.
#[test]
fn entries_over_damage() {
    let (double, bus, _) = nine();
    let log = Path::new(DIR).join("log");
    let names = double.list(&log).unwrap();
    let file = double.open(&log.join(&names[1]), OpenKind::ReadWrite).unwrap();
    write_all_at(&*file, 4100, b"!!!!").unwrap();
    let mut iter = bus.log(1, 9, false).unwrap();
    let good = iter.by_ref().take_while(|e| e.is_ok()).count();
    assert!(good > 0 && good < 9);
    assert!(iter.next().is_none());
}

/// Damage in a checkpoint: the one before it or the log serves. Anything else about it is an error.
#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let (double, bus, digests) = nine();
    bus.checkpoint().unwrap();
    let store = store(&bus, double.vfs());
    let fresh = || Core::new(BACKING, 16 << 20, false);
    let load = |epochs: &[u64]| {
        load_newest(&store, epochs.iter().copied(), fresh().unwrap(), &fresh, &mut |_, _| {})
    };
    let (core, at) = load(&[9, 5]).unwrap();
    assert_eq!((core.epoch(), at), (9, Some(9)));
    let newest = checkpoint::path(&store.dir, 9);
    let file = double.open(&newest, OpenKind::ReadWrite).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    read_full_at(&*file, 0, &mut bytes).unwrap();
    // In the pages, so that the engine had been filled when it showed.
    write_all_at(&*file, 4100, &[bytes[4100] ^ 1]).unwrap();
    let (core, at) = load(&[9, 5]).unwrap();
    assert_eq!((core.epoch(), at), (5, Some(5)));
    assert_eq!(Snapshot::newest(&core).unwrap().digest().unwrap(), digests[5]);
    let (core, at) = load(&[9]).unwrap();
    assert_eq!((core.epoch(), at), (0, None));
    // Thinned since they were listed.
    let (core, at) = load(&[8, 7, 5]).unwrap();
    assert_eq!((core.epoch(), at), (5, Some(5)));
    let (core, at) = load(&[]).unwrap();
    assert_eq!((core.epoch(), at), (0, None));
    assert_eq!(bus.snapshot_at(9).unwrap().digest().unwrap(), digests[9]);
    let replay = Replay::begin(&store, &Base::Store, 9, 16 << 20).unwrap();
    assert_eq!(replay.epoch(), 5);
    double.fail(|call| {
        let hit = call.what == "read" && call.path.ends_with("0000000000000009.ckpt");
        hit.then(|| std::io::Error::from_raw_os_error(5))
    });
    assert_eq!(load(&[9, 5]).unwrap_err().code, Code::Storage);
    double.heal();
    write_all_at(&*file, 4100, &bytes[4100..4101]).unwrap();
    let small = || Core::new(BACKING, 1 << 20, false);
    assert!(load_newest(&store, [9].into_iter(), small().unwrap(), &small, &mut |_, _| {}).is_ok());
}

/// What a replay cannot begin or end with is an error of its own, and the next one works.
#[test]
fn calls_that_fail_once() {
    let (double, bus, digests) = nine();
    let store = store(&bus, double.vfs());
    let eio = || std::io::Error::from_raw_os_error(5);
    let mut tried = 0;
    for what in ["list", "open", "size", "read"] {
        for dir in ["log", "checkpoints"] {
            double.fail(move |call| {
                let names = call.path.ends_with(dir)
                    || call.path.parent().is_some_and(|p| p.ends_with(dir));
                (call.what == what && names).then(eio)
            });
            let begun = Replay::begin(&store, &Base::Store, 7, 16 << 20);
            let failed = begun.and_then(|replay| replay.to(&store, 7)).unwrap_err();
            assert_eq!(
                (failed.code, failed.detail.errno),
                (Code::Storage, Some(5)),
                "{what} {dir}"
            );
            if dir == "log" {
                let indexes = Arc::new(Indexes::new(store.clone(), false, 0));
                let all = Wanted::default();
                let listed = LogIter::new(&indexes, &all, 1, 9, false)
                    .and_then(|mut iter| iter.next().unwrap());
                assert_eq!(listed.unwrap_err().detail.errno, Some(5), "{what}");
            }
            double.heal();
            let replay = Replay::begin(&store, &Base::Store, 7, 16 << 20).unwrap();
            assert_eq!(replay.to(&store, 7).unwrap().digest().unwrap(), digests[7]);
            tried += 1;
        }
    }
    assert_eq!(tried, 8);
    // All slots of the engine that was brought there are taken.
    let replay = Replay::begin(&store, &Base::Store, 7, 16 << 20).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| replay.core.pins.claim().ok()).collect();
    assert_eq!(replay.to(&store, 7).unwrap_err().code, Code::TooManySnapshots);
    replay.core.pins.release(taken[0]);
    assert_eq!(replay.to(&store, 7).unwrap().digest().unwrap(), digests[7]);
    // The engine that was to take the place of one filled from a damaged checkpoint.
    let file = double.open(&checkpoint::path(&store.dir, 5), OpenKind::ReadWrite).unwrap();
    write_all_at(&*file, 4100, b"!").unwrap();
    let fresh = || Err(Error::new(Code::OutOfSpace, "no engine"));
    let core = Core::new(BACKING, 16 << 20, false).unwrap();
    let done = load_newest(&store, [5].into_iter(), core, &fresh, &mut |_, _| {});
    assert_eq!(done.unwrap_err().code, Code::OutOfSpace);
}

/// More dimensions than a page can have: wrong of whoever gives them, and damage where a file has them.
#[test]
fn too_many_dimensions() {
    let bus = Bus::memory(&Options { max_memory: Some(64 << 20), ..Options::default() }).unwrap();
    let commit = |base: Option<&Snapshot>, fill: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        fill(&mut batch);
        bus.commit(&mut batch, base, &how(0))
    };
    let most = [1; 64];
    commit(None, &|batch| batch.create(1, &NewPage { shape: &most, ..new(None, 1) })).unwrap();
    let base = bus.snapshot().unwrap();
    commit(None, &|batch| batch.set_meta(1, "{}")).unwrap();
    let before = bus.snapshot().unwrap();
    for count in [65, 300] {
        let shape = vec![1; count];
        let create = |batch: &mut Batch| {
            batch.write(1, 0, b"y");
            batch.create(2, &NewPage { shape: &shape, ..new(Some("many"), 1) });
        };
        let resize = |batch: &mut Batch| batch.resize(1, &shape, 1);
        // Also where the operations are looked at before they are applied.
        for base in [None, Some(&base), Some(&before)] {
            for fill in [&create as &dyn Fn(&mut Batch), &resize] {
                let error = commit(base, fill).unwrap_err();
                assert_eq!(error.code, Code::Argument, "{error}");
                assert_eq!(error.message, format!("{count} dimensions; at most 64"));
                let now = bus.snapshot().unwrap();
                assert_eq!((now.epoch(), now.digest().unwrap()), (2, before.digest().unwrap()));
                assert_eq!((now.next_id(), now.find("many")), (2, None));
            }
        }
        let mut batch = Batch::new();
        resize(&mut batch);
        let core = Core::new(BACKING, 16 << 20, false).unwrap();
        let commit = log::Commit {
            epoch: 1,
            time: 1,
            source: None,
            meta: None,
            ops: batch.ops(),
            offset: 4200,
            file: Path::new("/s/log/x.mlog"),
        };
        let error = at_record(core.replay(1, 1, commit.ops).unwrap_err(), &commit);
        assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(4200)));
        assert_eq!((core.epoch(), core.log_and_page_bytes()), (0, (0, 0)));
    }
    commit(None, &|batch| batch.resize(1, &most[..3], 1)).unwrap();
}

/// A record that is sound and does not fit the state is damage of its place; a full memory is not.
#[test]
fn records_that_do_not_fit() {
    let commit = log::Commit {
        epoch: 7,
        time: 1,
        source: None,
        meta: None,
        ops: b"",
        offset: 4200,
        file: Path::new("/s/log/x.mlog"),
    };
    for code in Code::ALL {
        let error = at_record(Error::new(*code, "what"), &commit);
        if matches!(code, Code::OutOfSpace | Code::Storage) {
            assert_eq!((error.code, error.detail.offset), (*code, None));
        } else {
            assert_eq!(error.code, Code::Corruption);
            assert_eq!((error.detail.offset, error.detail.epoch), (Some(4200), Some(7)));
            assert_eq!(error.detail.file.as_deref(), Some(commit.file));
            assert!(error.message.contains("what"));
        }
    }
    // Through the front door: an operation on a page that is not there.
    let double = Double::new(Arc::new(RamVfs::new()));
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &options()).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage { shape: &[9], ..new(None, 9) });
    bus.commit(&mut batch, None, &how(1)).unwrap();
    bus.close().unwrap();
    let lock = log::lock(&double, Path::new(DIR)).unwrap();
    let opts = log::LogOptions { seed: Some(3), ..log::LogOptions::default() };
    let (dir, mode) = (Path::new(DIR), log::OpenMode::Writer(lock));
    let (log, _) =
        log::open(double.vfs(), dir, opts, 0, mode, &mut |_| Ok(()), &mut |_, _| {}).unwrap();
    batch.clear();
    batch.write(5, 0, b"x");
    let mut buf = vec![0; log::HEADROOM];
    buf.extend_from_slice(batch.ops());
    let mut log = log.unwrap();
    log.append(2, 5, 0, &mut buf).unwrap();
    log.close().unwrap();
    drop(log);
    let open = |mode| Bus::open_on(double.vfs(), dir, mode, &Options::default(), &mut |_, _| {});
    // A reader does not need that record until it is asked for all pages.
    let reader = open(Mode::Read).unwrap();
    let whole = reader.snapshot().unwrap().infos().unwrap_err();
    for error in [whole, open(Mode::ReadWrite).unwrap_err()] {
        assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(2)));
        assert_eq!(error.detail.offset, Some(4096));
    }
}

/// What a restore writes: all that differs, nothing that does not, names freed before they are given.
#[test]
fn a_restore_writes_what_differs() {
    let bus = Bus::memory(&Options { max_memory: Some(64 << 20), ..Options::default() }).unwrap();
    let commit = |fill: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        fill(&mut batch);
        bus.commit(&mut batch, None, &how(0)).unwrap()
    };
    commit(&|batch| {
        batch.create(1, &NewPage { shape: &[8], ..new(Some("same"), 8) });
        batch.create(2, &NewPage { shape: &[8], ..new(Some("a"), 8) });
        batch.create(3, &NewPage { shape: &[8], ..new(Some("b"), 8) });
        batch.create(4, &NewPage { shape: &[8], meta: "{\"m\":1}", ..new(None, 8) });
        batch.create(5, &NewPage { shape: &[10], ..new(Some("shrunk"), 10) });
        batch.create(6, &NewPage { shape: &[6], ..new(None, 6) });
        batch.create(7, &NewPage { shape: &[40_000], ..new(Some("gone"), 40_000) });
        batch.create(8, &NewPage { shape: &[2, 4], ..new(None, 8) });
        batch.create(9, &NewPage { shape: &[8], ..new(None, 8) });
        batch.write(5, 0, b"0123456789");
        batch.write(6, 0, b"abcdef");
        batch.write(7, 20_000, b"in the middle");
    });
    let past = bus.snapshot().unwrap();
    commit(&|batch| {
        batch.rename(2, None);
        batch.rename(3, Some("a"));
        batch.rename(2, Some("b"));
        batch.set_meta(4, "{\"m\":2}");
        batch.resize(5, &[4], 4);
        batch.resize(6, &[12], 12);
        batch.write(6, 1, b"X");
        batch.delete(7);
        batch.resize(8, &[4, 2], 8);
        batch.rename(9, Some("named"));
        batch.create(10, &NewPage { shape: &[1], ..new(Some("gone"), 1) });
        batch.create(11, &NewPage { shape: &[1], ..new(None, 1) });
    });
    let head = bus.snapshot().unwrap();
    let mut batch = Batch::new();
    restore::plan(&head, &past, &mut batch).unwrap();
    let got: Vec<Op<'_>> = Ops::new(batch.ops()).map(|op| op.unwrap()).collect();
    let block = past.view(7).unwrap().bytes()[16384..32768].to_vec();
    let expected = [
        Op::Delete { id: 10 },
        Op::Delete { id: 11 },
        Op::Rename { id: 2, name: None },
        Op::Rename { id: 3, name: None },
        Op::Rename { id: 9, name: None },
        Op::Rename { id: 2, name: Some("a") },
        Op::Rename { id: 3, name: Some("b") },
        Op::SetMeta { id: 4, meta: "{\"m\":1}" },
        Op::Resize { id: 5, shape: vec![10], nbytes: 10 },
        Op::Write { id: 5, offset: 4, data: b"456789" },
        Op::Resize { id: 6, shape: vec![6], nbytes: 6 },
        Op::Write { id: 6, offset: 1, data: b"b" },
        Op::Create {
            id: 7,
            name: Some("gone"),
            dtype: "",
            itemsize: 1,
            shape: vec![40_000],
            nbytes: 40_000,
            meta: "",
            location: 0,
        },
        Op::Write { id: 7, offset: 16384, data: &block },
        Op::Resize { id: 8, shape: vec![2, 4], nbytes: 8 },
    ];
    assert_eq!(got, expected);
    let digest = past.digest().unwrap();
    assert_eq!(bus.restore(&past, &how(0)).unwrap().epoch, 3);
    assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digest);
    assert_eq!(bus.restore(&head, &how(0)).unwrap().epoch, 4);
    assert_eq!(bus.snapshot().unwrap().digest().unwrap(), head.digest().unwrap());
}

/// What another bus has under the id of a page is another page, down to what only an empty one can differ in.
#[test]
fn a_restore_from_another_bus() {
    let options = Options { max_memory: Some(64 << 20), ..Options::default() };
    let with = |fill: &dyn Fn(&mut Batch)| {
        let bus = Bus::memory(&options).unwrap();
        let mut batch = Batch::new();
        fill(&mut batch);
        bus.commit(&mut batch, None, &how(0)).unwrap();
        bus
    };
    let here = with(&|batch| {
        batch.create(
            1,
            &NewPage { shape: &[8], dtype: "\"<i4\"", itemsize: 4, ..new(Some("a"), 32) },
        );
        batch.create(2, &NewPage { shape: &[0], itemsize: 4, ..new(Some("b"), 0) });
        batch.create(3, &NewPage { shape: &[2], ..new(None, 2) });
        batch.create(4, &NewPage { shape: &[2], ..new(Some("same"), 2) });
        batch.write(1, 0, &[1; 32]);
    });
    let there = with(&|batch| {
        batch.create(
            1,
            &NewPage { shape: &[8], dtype: "\"<f4\"", itemsize: 4, ..new(Some("b"), 32) },
        );
        batch.create(2, &NewPage { shape: &[0], itemsize: 8, ..new(Some("a"), 0) });
        batch.create(3, &NewPage { shape: &[2], location: 1, ..new(None, 2) });
        batch.create(4, &NewPage { shape: &[2], ..new(Some("same"), 2) });
        batch.write(1, 0, &[1; 32]);
    });
    let (was, to) = (here.snapshot().unwrap(), there.snapshot().unwrap());
    assert_eq!(was.changed_pages(&to).unwrap(), [1, 2, 3]);
    here.restore(&to, &how(0)).unwrap();
    let now = here.snapshot().unwrap();
    assert_eq!(now.digest().unwrap(), to.digest().unwrap());
    assert_ne!(now.digest().unwrap(), was.digest().unwrap());
    let told = |at: &Snapshot| -> Vec<_> {
        let tell = |i: crate::PageInfo| (i.id, i.name, i.dtype, i.itemsize, i.shape, i.location);
        at.infos().unwrap().into_iter().map(tell).collect()
    };
    assert_eq!(told(&now), told(&to));
    assert_eq!(now.view(1).unwrap().bytes(), [1; 32]);
    here.restore(&was, &how(0)).unwrap();
    assert_eq!(here.snapshot().unwrap().digest().unwrap(), was.digest().unwrap());
}

/// A transaction that stands on what is no snapshot of its engine: of another bus, of a fork, or of a past epoch.
#[test]
fn a_base_of_another_engine() {
    let (_, bus, digests) = nine();
    let other = Bus::memory(&Options { max_memory: Some(64 << 20), ..Options::default() }).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage { shape: &[20_000], ..new(None, 20_000) });
    batch.write(1, 0, &[7; 20_000]);
    other.commit(&mut batch, None, &how(1)).unwrap();
    let fork = bus.fork(&bus.snapshot().unwrap()).unwrap();
    for base in [other.snapshot(), fork.snapshot(), bus.snapshot_at(7)] {
        let base = base.unwrap();
        batch.clear();
        batch.write(1, 90, b"0123456789");
        batch.check_read(1);
        let error = bus.commit(&mut batch, Some(&base), &how(10)).unwrap_err();
        assert_eq!(error.code, Code::Argument, "{error}");
        assert_eq!((bus.epoch(), bus.snapshot().unwrap().digest().unwrap()), (9, digests[9]));
    }
    let base = bus.snapshot().unwrap();
    assert_eq!(bus.commit(&mut batch, Some(&base), &how(10)).unwrap().epoch, 10);
}

/// What a host takes away after a reader has listed it: a torn segment, a thinned checkpoint.
#[test]
fn a_reader_looks_again_when_a_file_went_away() {
    let files = Arc::new(RamVfs::new());
    let double = Double::new(Arc::clone(&files) as Arc<dyn Vfs>);
    let dir = Path::new(DIR);
    let bus = Bus::create_on(double.vfs(), dir, &options()).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage { shape: &[9], ..new(None, 9) });
    bus.commit(&mut batch, None, &how(1)).unwrap();
    bus.checkpoint().unwrap();
    bus.write(1, 3, b"abc", &how(2)).unwrap();
    bus.checkpoint().unwrap();
    bus.close().unwrap();
    let read = || Bus::open_on(double.vfs(), dir, Mode::Read, &Options::default(), &mut |_, _| {});
    let gone = |path: PathBuf, what: &'static str, always: bool| {
        let files = Arc::clone(&files);
        double.fail(move |call| {
            let is_it = call.what == what && call.path == path;
            is_it.then(|| {
                let removed = if always { Ok(()) } else { files.unlink(&path) };
                removed.err().unwrap_or_else(|| std::io::ErrorKind::NotFound.into())
            })
        });
    };
    let segments = log::list(&*files, dir).unwrap();
    let path = |name: SegmentName| log::log_dir(dir).join(name.file());
    let torn = path(SegmentName { seq: segments.len() as u64, first_epoch: 3 });
    files.open(&torn, OpenKind::CreateNew).unwrap().set_len(4096).unwrap();
    gone(torn.clone(), "open", false);
    let bus = read().unwrap();
    assert_eq!((bus.epoch(), bus.recovery().unwrap().checkpoint_epoch), (2, Some(2)));
    assert!(!files.exists(&torn).unwrap());
    gone(checkpoint::path(dir, 2), "open", false);
    let bus = read().unwrap();
    assert_eq!((bus.epoch(), bus.recovery().unwrap().checkpoint_epoch), (2, Some(1)));
    let mut bytes = [0; 9];
    bus.snapshot().unwrap().read(1, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0\0\0abc\0\0\0");
    gone(checkpoint::path(dir, 1), "open", false);
    bus.snapshot_at(1).unwrap().read(1, 0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 9]);
    // One that is listed and never there is no race.
    let first = path(segments[0]);
    gone(first.clone(), "open", true);
    let error = read().unwrap_err();
    assert_eq!((error.code, error.detail.file), (Code::Storage, Some(first)));
}

/// A checkpoint of a copy of the store that lived on: sound in itself, and of another state than the log says.
#[test]
fn a_checkpoint_of_another_life() {
    let (double, bus, digests) = nine();
    let files = Arc::new(RamVfs::new());
    let other = Bus::create_on(files.clone(), Path::new(DIR), &options()).unwrap();
    let mut batch = Batch::new();
    for epoch in 1..=5u64 {
        batch.clear();
        let name = format!("page {epoch}");
        batch.create(epoch, &NewPage { shape: &[100], ..new(Some(&name), 100) });
        other.commit(&mut batch, None, &how(epoch)).unwrap();
    }
    other.checkpoint().unwrap();
    let path = checkpoint::path(Path::new(DIR), 5);
    let file = files.open(&path, OpenKind::Read).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    read_full_at(&*file, 0, &mut bytes).unwrap();
    double.unlink(&path).unwrap();
    write_all_at(&*double.open(&path, OpenKind::CreateNew).unwrap(), 0, &bytes).unwrap();
    let store = store(&bus, double.vfs());
    let replay = Replay::begin(&store, &Base::Store, 7, 64 << 20).unwrap();
    for error in [bus.snapshot_at(7).unwrap_err(), replay.to(&store, 7).unwrap_err()] {
        assert_eq!((error.code, error.detail.epoch), (Code::Corruption, Some(5)), "{error}");
        assert_eq!(error.detail.file.as_deref(), Some(&*path));
    }
    assert_eq!(bus.snapshot_at(4).unwrap().digest().unwrap(), digests[4]);
    bus.close().unwrap();
    for mode in [Mode::Read, Mode::ReadWrite] {
        let opened = Bus::open_on(double.vfs(), Path::new(DIR), mode, &options(), &mut |_, _| {});
        assert_eq!(opened.unwrap_err().code, Code::Corruption);
    }
}
