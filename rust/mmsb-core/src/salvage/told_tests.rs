//! What a salvage and a walk over a damaged store tell, in exact numbers.

use super::tests::*;
use super::*;
use crate::delta::NewPage;
use crate::log::Parent;
use crate::sequence::How;
use crate::vfs::RamVfs;
use crate::{Bus, Mode};

fn how(epoch: u64) -> How<'static> {
    How { time: Some(epoch * 1000), wait: true, ..How::default() }
}

fn create(bus: &Bus, nbytes: u64) {
    let shape = &[nbytes];
    let page = NewPage { name: None, dtype: "", itemsize: 1, shape, nbytes, meta: "", location: 0 };
    let mut batch = Batch::new();
    batch.create(1, &page);
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
}
