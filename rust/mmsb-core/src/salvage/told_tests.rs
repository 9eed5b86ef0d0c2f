//! What a salvage and a walk over a damaged store tell, in exact numbers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::tests::*;
use super::*;
use crate::arena::faults;
use crate::delta::NewPage;
use crate::log::Parent;
use crate::log::double::{Call, Double};
use crate::sequence::How;
use crate::vfs::RamVfs;
use crate::{Bus, Mode};

fn how(epoch: u64) -> How<'static> {
    How { time: Some(epoch * 1000), wait: true, ..How::default() }
}

fn create(bus: &Bus, nbytes: u64) {
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[nbytes]));
    bus.commit(&mut batch, None, &how(1)).unwrap();
}

/// The time from which the first segment of a store counts.
fn base_time(vfs: &Arc<dyn Vfs>, dir: &str) -> u64 {
    let dir = Path::new(dir);
    let name = log::list(&**vfs, dir).unwrap()[0];
    log::open_segment(&**vfs, dir, name, None).unwrap().header.base_time
}

#[test]
fn the_new_log_counts_time_from_its_base() {
    let time = |epoch: u64| (1 << 50) + epoch * 1000;
    // Without a base from the time that the old log counts from, by the clock that it was made.
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let options = Options { seed: None, ..options() };
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options).unwrap();
    create(&bus, 9);
    bus.close().unwrap();
    let first = base_time(&vfs, "/s");
    assert!(first > how(1).time.unwrap());
    salvage(&vfs, "/new", ALL).unwrap();
    assert_eq!(base_time(&vfs, "/new"), first);
    let (whole, _) = pruned();
    let vfs = lay_out(&whole);
    salvage(&vfs, "/new", ALL).unwrap();
    assert_eq!(base_time(&vfs, "/new"), time(30));
    let mut files = whole.clone();
    files.remove(&checkpoint::path(Path::new("/s"), 30));
    let vfs = lay_out(&files);
    salvage(&vfs, "/new", ALL).unwrap();
    assert_eq!(base_time(&vfs, "/new"), time(50));
}

#[test]
fn a_fork_stays_one() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/parent"), &options()).unwrap();
    create(&bus, 9);
    (2..=5).for_each(|epoch| _ = bus.write(1, 0, &[epoch as u8], &how(epoch)).unwrap());
    let at = bus.snapshot_at(3).unwrap();
    let fork = bus.fork_to_on(Arc::clone(&vfs), &at, Path::new("/s"), &options()).unwrap();
    fork.write(1, 0, b"4", &how(4)).unwrap();
    let digest = fork.snapshot().unwrap().digest().unwrap();
    fork.close().unwrap();
    let old = log::read_meta(&*vfs, Path::new("/s")).unwrap();
    let uuid = log::read_meta(&*vfs, Path::new("/parent")).unwrap().uuid;
    assert_eq!(salvage(&vfs, "/new", ALL).unwrap().epoch, 4);
    let new = log::read_meta(&*vfs, Path::new("/new")).unwrap();
    assert_eq!((new.uuid, new.parent), (old.uuid, Some(Parent { uuid, epoch: 3 })));
    assert_eq!((new.durability, new.base), (old.durability, LogBase { seq: 0, epoch: 3 }));
    let new = open(&vfs, "/new", Mode::Read).unwrap();
    assert_eq!(new.snapshot().unwrap().digest().unwrap(), digest);
    assert!(new.snapshot_at(2).unwrap_err().message.contains("ask its parent"));
}

#[test]
fn on_a_real_disk() {
    let tmp = tempfile::tempdir().unwrap();
    let (from, to) = (tmp.path().join("s"), tmp.path().join("new"));
    let bus = Bus::create(&from, &options()).unwrap();
    create(&bus, 9);
    bus.write(1, 0, b"second", &how(2)).unwrap();
    let digest = bus.snapshot().unwrap().digest().unwrap();
    bus.close().unwrap();
    let mut seen = 0;
    let told = recover(&from, &to, ALL, &options(), &mut |_, _| seen += 1).unwrap();
    assert_eq!((told.epoch, told.problems.len(), seen > 0), (2, 0, true));
    let walked = verify(&to, &mut |_, _| {}).unwrap();
    assert_eq!((walked.records, walked.problems.len()), (3, 0), "two commits and a seal");
    let new = Bus::open(&to, Mode::Read, &options(), &mut |_, _| {}).unwrap();
    assert_eq!(new.snapshot().unwrap().digest().unwrap(), digest);
}

/// Every file but the slots and the lock is read once.
#[test]
fn bytes_of_log_checkpoints_and_indexes() {
    let world = world(SEGMENT);
    let vfs = lay_out(&world.files);
    let bus = open(&vfs, "/s", Mode::ReadWrite).unwrap();
    let wanted = crate::Wanted { page: Some(1), ..crate::Wanted::default() };
    bus.log_of(&wanted, 0, u64::MAX, false).unwrap().for_each(|commit| _ = commit.unwrap());
    bus.close().unwrap();
    let of = |part: &str| -> u64 {
        let all = files(&*vfs, Path::new("/s"));
        let part = all.iter().filter(|(path, _)| path.starts_with(Path::new("/s").join(part)));
        part.map(|(_, bytes)| bytes.len() as u64).sum()
    };
    let parts = ["log", "checkpoints", "index"].map(of);
    assert!(parts.iter().all(|&bytes| bytes > 0), "{parts:?}");
    let mut told = Vec::new();
    let mut tell = |done, all| told.push((done, all));
    let walked = verify_on(Arc::clone(&vfs), Path::new("/s"), &mut tell).unwrap();
    assert_eq!((walked.bytes, walked.problems.len()), (parts.iter().sum(), 0));
    assert_eq!(told.last(), Some(&(3 * parts[0], 3 * parts[0])));
    assert_eq!(salvage(&vfs, "/new", ALL).unwrap().bytes, parts[0] + parts[1]);
}

/// The bytes of the log are counted three times: read, judged, and, by epochs, made into states, of which is told
/// when a MiB of commits more was.
#[test]
fn progress_of_a_salvage() {
    const LEN: u64 = 600_000;
    let options = Options { segment_bytes: Some(2 << 20), max_memory: Some(64 << 20), ..options() };
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options).unwrap();
    create(&bus, LEN);
    bus.write(1, 0, &[1; 300_000], &how(2)).unwrap();
    let raw = bus.log(2, 2, false).unwrap().next().unwrap().unwrap().raw().len();
    // With its header each is half a MiB: a MiB is full with every second one.
    let len = (512 << 10) - HEADROOM - (raw - 300_000);
    (3..=11).for_each(|epoch| _ = bus.write(1, 0, &vec![epoch as u8; len], &how(epoch)).unwrap());
    bus.close().unwrap();
    let progress = |to: &str, upto: Option<u64>| {
        let mut told = Vec::new();
        let wish = Wish { upto, newest: false };
        let mut tell = |done, all| told.push((done, all));
        let (from, to) = (Path::new("/s"), Path::new(to));
        let done = recover_on(Arc::clone(&vfs), from, to, wish, &options, &mut tell).unwrap();
        assert_eq!((done.epoch, done.problems.len()), (upto.unwrap_or(11), 0));
        told
    };
    let names = log::list(&*vfs, Path::new("/s")).unwrap();
    let size = |name: &log::SegmentName| {
        let path = log::log_dir(Path::new("/s")).join(name.file());
        vfs.open(&path, OpenKind::Read).unwrap().size().unwrap()
    };
    let third: u64 = names.iter().map(size).sum();
    let of_judging = |from_epoch: u64| {
        let mut told = Vec::new();
        log::open(
            Arc::clone(&vfs),
            Path::new("/s"),
            LogOptions::default(),
            from_epoch,
            OpenMode::Reader { durable_only: false },
            &mut |_| Ok(()),
            &mut |done, _| told.push((third + done, 3 * third)),
        )
        .unwrap();
        told
    };
    let states = |epochs: &[u64], all: u64| -> Vec<(u64, u64)> {
        epochs.iter().map(|n| (2 * third + third * n / all, 3 * third)).collect()
    };
    let told = progress("/all", None);
    assert!(told.is_sorted(), "{told:?}");
    let begun = told.iter().position(|&(done, _)| done > third).unwrap();
    assert_eq!(told[begun - 1], (third, 3 * third), "all was read");
    let judged = of_judging(0);
    assert!(judged.len() > 2);
    assert_eq!(told[begun..][..judged.len()], judged);
    // The second commit is shorter: with the third and the fourth it is more than a MiB.
    let want = [states(&[4, 6, 8, 10], 11), vec![(3 * third, 3 * third)]].concat();
    assert_eq!(told[begun + judged.len()..], want);
    let told = progress("/some", Some(7));
    let want = [states(&[4, 6], 7), vec![(3 * third, 3 * third)]].concat();
    assert_eq!(told[told.len() - 3..], want);
    // Where the log begins at epoch 5 the sixth is the first of six.
    let bus =
        Bus::open_on(Arc::clone(&vfs), Path::new("/s"), Mode::ReadWrite, &options, &mut |_, _| {});
    let bus = bus.unwrap();
    assert_eq!(
        bus.prune(&crate::Keep { log_since: Some(5), ..Default::default() }).unwrap().oldest,
        5
    );
    bus.close().unwrap();
    let third: u64 = log::list(&*vfs, Path::new("/s")).unwrap().iter().map(size).sum();
    let told = progress("/pruned", None);
    let states = [2, 4, 6].map(|n| (2 * third + third * n / 6, 3 * third));
    assert_eq!(told[told.len() - 4..], [&states[..], &[(3 * third, 3 * third)]].concat());
}

fn path(epoch: u64) -> PathBuf {
    checkpoint::path(Path::new("/s"), epoch)
}

/// Where the record of each of these epochs lies, in a log of one segment.
fn places(files: &Files, epochs: &[u64]) -> (PathBuf, Vec<usize>) {
    let vfs = lay_out(files);
    let name = log::list(&*vfs, Path::new("/s")).unwrap()[0];
    let mut walk = log::open_segment(&*vfs, Path::new("/s"), name, None).unwrap();
    let mut found = Vec::new();
    loop {
        match walk.step().unwrap() {
            log::Step::Commit(commit) if epochs.contains(&commit.epoch) => {
                found.push(commit.offset as usize);
            }
            log::Step::Nothing => break,
            _ => {}
        }
    }
    assert_eq!(found.len(), epochs.len());
    (log::log_dir(Path::new("/s")).join(name.file()), found)
}

/// The records of some epochs are damaged, and checkpoints begin right behind.
#[test]
fn what_is_lost_and_what_is_later() {
    let world = world(1 << 20);
    let told = |lost: &[u64], wish: Wish| {
        let (log, at) = places(&world.files, lost);
        let damaged = world.with(&log, |bytes| at.iter().for_each(|&at| bytes[at + 40] ^= 1));
        let told = world.salvage(&damaged, wish);
        assert_eq!(told.problems.len(), lost.len());
        (told.epoch, told.lost, told.later, told.appended)
    };
    assert_eq!(told(&[30], ALL), (29, vec![], vec![(30, 61)], None));
    assert_eq!(told(&[30], NEWEST), (30, vec![], vec![(30, 61)], Some(60)));
    assert_eq!(told(&[5, 30], ALL), (4, vec![(5, 10)], vec![(10, 61)], None));
    let later = vec![(10, 29), (30, 61)];
    assert_eq!(told(&[5, 29], ALL), (4, vec![(5, 10), (29, 30)], later, None));
    let upto = |upto| Wish { upto: Some(upto), newest: false };
    assert_eq!(told(&[30], upto(29)), (29, vec![], vec![], None));
    assert_eq!(told(&[30], upto(30)), (29, vec![], vec![(30, 31)], None));
    assert_eq!(told(&[31], upto(31)), (30, vec![(31, 32)], vec![], None));
}

/// Slots of long ago and a log that ends before a checkpoint: nothing in the log shows that more was there.
#[test]
fn a_cut_that_only_a_checkpoint_shows() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options()).unwrap();
    let young = files(&*vfs, Path::new("/s"));
    create(&bus, 9);
    (2..=5).for_each(|epoch| _ = bus.write(1, 0, &[epoch as u8], &how(epoch)).unwrap());
    assert_eq!(bus.checkpoint().unwrap(), 5);
    bus.close().unwrap();
    let mut all = files(&*vfs, Path::new("/s"));
    let own = all.clone();
    let (log, at) = places(&all, &[4, 5]);
    for slot in ["/s/meta-0", "/s/meta-1"].map(Path::new) {
        all.insert(slot.into(), young[slot].clone());
    }
    for (cut, last) in [(at[0], 3), (at[1], 4)] {
        let mut damaged = all.clone();
        damaged.get_mut(&log).unwrap().truncate(cut);
        let told = salvage(&lay_out(&damaged), "/new", ALL).unwrap();
        assert_eq!((told.epoch, told.problems.len()), (last, 1));
        let detail = &told.problems[0].detail;
        assert_eq!((detail.epoch, detail.offset), (Some(last + 1), None));
        assert_eq!(detail.file.as_deref(), log.parent());
        assert!(told.problems[0].message.contains("commits before a checkpoint are missing"));
    }
    // What the slots say shows it too, and alone where no checkpoint is of a later epoch.
    let mut damaged = own;
    damaged.get_mut(&log).unwrap().truncate(at[1]);
    damaged.retain(|path, _| !path.starts_with("/s/checkpoints"));
    let told = salvage(&lay_out(&damaged), "/new", ALL).unwrap();
    assert_eq!((told.epoch, told.problems.len()), (4, 1));
    let missed = &told.problems[0];
    assert!(missed.message.contains("no valid record where there had been one"), "{missed}");
    assert_eq!((missed.detail.offset, missed.detail.epoch), (Some(at[1] as u64), Some(5)));
    // Without slots nothing judges the log; the checkpoint of its last epoch shows no cut.
    ["/s/meta-0", "/s/meta-1"].iter().for_each(|slot| _ = all.remove(Path::new(slot)));
    let told = salvage(&lay_out(&all), "/new", ALL).unwrap();
    let texts: Vec<_> = told.problems.iter().map(|e| e.message.contains("the meta slot")).collect();
    assert_eq!((told.epoch, texts), (5, vec![true, true]));
}

/// Neither slots nor log are left.
#[test]
fn checkpoints_alone() {
    let world = world(SEGMENT);
    let uuid = log::read_meta(&*lay_out(&world.files), Path::new("/s")).unwrap().uuid;
    let mut left = world.files.clone();
    left.retain(|path, _| path.starts_with("/s/checkpoints"));
    assert_eq!(left.len(), KEPT.len());
    let vfs = lay_out(&left);
    let told = salvage(&vfs, "/new", NEWEST).unwrap();
    assert_eq!((told.epoch, told.appended), (1, Some(50)));
    assert_eq!(log::read_meta(&*vfs, Path::new("/new")).unwrap().uuid, uuid);
    let new = open(&vfs, "/new", Mode::Read).unwrap();
    assert_eq!(new.snapshot().unwrap().digest().unwrap(), world.digests[50]);
    // They are of a copy that did not end.
    let mut marked = left.clone();
    marked.insert("/s/copying".into(), vec![]);
    let refused = salvage(&lay_out(&marked), "/new", NEWEST).unwrap_err();
    assert_eq!(refused.code, Code::BusNotFound, "{refused}");
    // None of them says which store it is of.
    left.values_mut().for_each(|bytes| bytes[..4096].fill(0));
    let refused = salvage(&lay_out(&left), "/new", NEWEST).unwrap_err();
    assert!(refused.message.contains("neither slots, log nor checkpoints"), "{refused}");
    assert_eq!((refused.code, refused.detail.file), (Code::Corruption, Some("/s".into())));
}

/// One that nobody asked for, one of epoch 0, and one that somebody asked for stay what they are.
#[test]
fn checkpoints_stay_what_they_are() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options()).unwrap();
    bus.checkpoint().unwrap();
    create(&bus, 9);
    for epoch in 2..=9 {
        bus.write(1, 0, &[epoch as u8], &how(epoch)).unwrap();
        match epoch {
            3 | 5 => _ = bus.checkpoint_unasked().unwrap(),
            4 | 7 => _ = bus.checkpoint().unwrap(),
            _ => {}
        }
    }
    let kinds = |dir: &str| -> Vec<(u64, bool)> {
        let dir = Path::new(dir);
        let known = checkpoint::list(&*vfs, dir).unwrap();
        let kind = |epoch| (epoch, checkpoint::is_automatic(&*vfs, dir, epoch).unwrap());
        known.into_iter().map(kind).collect()
    };
    let all = [(0, false), (3, true), (4, false), (5, true), (7, false)];
    assert_eq!(kinds("/s"), all);
    let keep = crate::Keep { log_since: Some(5), checkpoints: Some(9), ..Default::default() };
    bus.close().unwrap();
    salvage(&vfs, "/new", ALL).unwrap();
    assert_eq!(kinds("/new"), all);
    let bus = open(&vfs, "/s", Mode::ReadWrite).unwrap();
    assert_eq!(bus.prune(&keep).unwrap().oldest, 0);
    bus.close().unwrap();
    salvage(&vfs, "/pruned", ALL).unwrap();
    assert_eq!(kinds("/pruned"), all);
}

/// A tag of the newest epoch names the commit that has its state.
#[test]
fn a_tag_of_the_newest_epoch() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let options = Options { segment_bytes: None, ..options() };
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options).unwrap();
    create(&bus, 9);
    let mut batch = Batch::new();
    for epoch in 2..=6 {
        batch.clear();
        batch.write(1, 0, &[epoch as u8]);
        if epoch == 4 {
            bus.checkpoint().unwrap();
            batch.tag("lost", Some(3), false);
            batch.tag("old", Some(1), false);
        }
        if epoch == 6 {
            batch.tag("now", None, false);
        }
        bus.commit(&mut batch, None, &how(epoch)).unwrap();
    }
    bus.close().unwrap();
    let mut damaged = files(&*vfs, Path::new("/s"));
    let (log, at) = places(&damaged, &[3]);
    damaged.get_mut(&log).unwrap()[at[0] + 33] ^= 1;
    let vfs = lay_out(&damaged);
    let told = salvage(&vfs, "/new", NEWEST).unwrap();
    assert_eq!((told.epoch, told.appended), (3, Some(6)));
    let new = open(&vfs, "/new", Mode::Read).unwrap();
    assert_eq!(new.snapshot().unwrap().tags(), [("now".into(), 3), ("old".into(), 1)]);
}

/// What the disk refuses is no damage: the salvage fails with that error, wherever it is met.
#[test]
fn a_disk_that_refuses() {
    let world = world(SEGMENT);
    let hole = world.with(&world.named("/log/")[3], |bytes| bytes[5000] ^= 1);
    let mut passed = BTreeSet::new();
    for files in [hole, pruned().0] {
        for nth in (1..).step_by(if cfg!(miri) { 40 } else { 1 }) {
            let double = Double::new(lay_out(&files));
            let mut count = 0;
            let in_source = |path: &Path| path.starts_with("/s") && !path.starts_with("/s/lock");
            double.fail(move |call| {
                count += usize::from(in_source(&call.path));
                let hit = count == nth && in_source(&call.path);
                hit.then(|| std::io::Error::from_raw_os_error(13))
            });
            let done = salvage(&double.vfs(), "/new", NEWEST);
            let calls = double.calls();
            let Some(failed) = calls.iter().filter(|call| in_source(&call.path)).nth(nth - 1)
            else {
                assert!(done.is_ok() && nth > 100);
                break;
            };
            match done {
                Err(error) => assert_eq!(error.code, Code::Storage, "{failed}: {error}"),
                Ok(_) => {
                    _ = passed.insert((failed.what, failed.path.extension().map(PathBuf::from)))
                }
            }
        }
    }
    // A checkpoint of which the header is not read again counts as one that was asked for.
    assert_eq!(Vec::from_iter(passed), [("read", Some("ckpt".into()))]);
}

/// A checkpoint that was sound is lost when it is read again: the next one serves.
#[test]
fn a_checkpoint_that_is_lost_meanwhile() {
    let reads = |calls: &[Call], epoch: u64| {
        calls.iter().filter(|call| call.what == "read" && call.path == path(epoch)).count()
    };
    let world = world(SEGMENT);
    let mut hole = world.files.clone();
    hole.get_mut(&world.named("/log/")[1]).unwrap()[5000] ^= 1;
    for (files, lost) in [(pruned().0, 30), (hole, 50)] {
        let double = Double::new(lay_out(&files));
        verify_on(double.vfs(), Path::new("/s"), &mut |_, _| {}).unwrap();
        let least = reads(&double.calls(), lost);
        let mut count = 0;
        double.fail(move |call| {
            count += usize::from(call.what == "read" && call.path == path(lost));
            let hit = count > least && call.what == "read" && call.path == path(lost);
            hit.then(|| std::io::Error::from_raw_os_error(5))
        });
        let told = salvage(&double.vfs(), "/new", NEWEST).unwrap();
        assert!(told.problems.iter().any(|e| e.detail.file == Some(path(lost))), "{told:?}");
        if lost == 30 {
            assert_eq!((told.epoch, told.lost), (EPOCHS, vec![(30, 50)]));
        } else {
            assert_eq!(told.appended, Some(EPOCHS), "{told:?}");
        }
    }
}

/// Records that are sound and fit no state: the history ends before them, and so does the newest state.
#[test]
fn a_commit_that_fits_no_state() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options()).unwrap();
    create(&bus, 9);
    (2..=5).for_each(|epoch| _ = bus.write(1, 0, &[epoch as u8], &how(epoch)).unwrap());
    bus.checkpoint().unwrap();
    let ops = bus.log(5, 5, false).unwrap().next().unwrap().unwrap().raw().to_vec();
    bus.close().unwrap();
    let lock = log::lock(&*vfs, Path::new("/s")).unwrap();
    let mode = OpenMode::Writer(lock);
    let options = LogOptions { seed: Some(3), ..LogOptions::default() };
    let done = log::open(
        Arc::clone(&vfs),
        Path::new("/s"),
        options,
        0,
        mode,
        &mut |_| Ok(()),
        &mut |_, _| {},
    );
    let mut log = done.unwrap().0.unwrap();
    for (epoch, ops) in [(6, &ops[..]), (7, b"no operation"), (8, &ops)] {
        let mut buf = vec![0; HEADROOM];
        buf.extend_from_slice(ops);
        log.append(epoch, epoch * 1000, 0, &mut buf).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let sound = files(&*vfs, Path::new("/s"));
    let told = salvage(&vfs, "/new", NEWEST).unwrap();
    assert_eq!((told.epoch, told.lost, told.later), (6, vec![(7, 9)], vec![]));
    let wrong = &told.problems[0];
    assert_eq!((told.problems.len(), wrong.detail.epoch), (1, Some(7)));
    // The same behind a hole.
    let (log, at) = places(&sound, &[3]);
    let mut damaged = sound;
    damaged.get_mut(&log).unwrap()[at[0] + 33] ^= 1;
    let told = salvage(&lay_out(&damaged), "/new", NEWEST).unwrap();
    assert_eq!((told.epoch, told.appended), (3, Some(6)));
    assert_eq!((told.lost, told.later), (vec![(3, 5), (7, 9)], vec![(5, 7)]));
    assert_eq!(told.problems.last().unwrap().detail.epoch, Some(7));
}

/// Each request for memory is refused once: a commit that there is no memory for is told by its size.
#[test]
fn without_memory() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options()).unwrap();
    create(&bus, 9);
    let meta = "{\"a\":1}";
    let told = How { source: Some("me"), meta: Some(meta), ..how(2) };
    bus.write(1, 0, b"second", &told).unwrap();
    let ops = |epoch| bus.log(epoch, epoch, false).unwrap().next().unwrap().unwrap().raw().len();
    let want = [128 + ops(1), 128 + "me".len() + meta.len() + ops(2)];
    bus.close().unwrap();
    let source = files(&*vfs, Path::new("/s"));
    let mut seen = Vec::new();
    for nth in 1.. {
        let vfs = lay_out(&source);
        faults::arm(nth, false);
        let done = salvage(&vfs, "/new", ALL);
        if !faults::disarm() {
            assert_eq!(done.unwrap().epoch, 2);
            break;
        }
        let Err(error) = done else { continue };
        assert!(matches!(error.code, Code::OutOfSpace | Code::Storage), "{nth}: {error}");
        let of_commit = error.message.strip_prefix("no memory for a commit of ");
        seen.extend(of_commit.and_then(|text| text.strip_suffix(" bytes")?.parse::<usize>().ok()));
    }
    assert_eq!(seen, want);
}

/// A store that is open is left alone, whoever has it open; the slots of a later version are an error, and no damage.
#[test]
fn a_store_that_is_hosted_or_new() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("s");
    let bus = Bus::create(&dir, &options()).unwrap();
    let refused = verify(&dir, &mut |_, _| {}).unwrap_err();
    let pid = std::process::id();
    assert_eq!((refused.code, refused.detail.pid), (Code::BusLocked, Some(pid)));
    assert_eq!(refused.detail.file, Some(dir.join("lock")));
    assert!(refused.message.contains(&format!("in process {pid};")), "{refused}");
    drop(bus);
    let world = world(SEGMENT);
    let newer = world.with(Path::new("/s/meta-1"), |bytes| {
        bytes[16] = 2;
        let sum = crate::hash::h64(&bytes[..120]);
        bytes[120..128].copy_from_slice(&sum.to_le_bytes());
    });
    let refused = salvage(&lay_out(&newer), "/new", ALL).unwrap_err();
    assert_eq!(refused.code, Code::FormatVersion, "{refused}");
}

/// The new store is written without mappings: nobody reads it meanwhile.
#[test]
fn nothing_is_mapped() {
    let double = Double::new(lay_out(&world(SEGMENT).files));
    salvage(&double.vfs(), "/new", ALL).unwrap();
    assert!(double.calls().iter().all(|call| call.what != "map"));
}
