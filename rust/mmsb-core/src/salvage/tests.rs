//! Stores damaged in every way against frozen copies of what they were: the new store has every epoch before the damage
//! bit for bit, and nothing that is not proven.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use super::*;
use crate::delta::NewPage;
use crate::log::double::Double;
use crate::sequence::How;
use crate::vfs::{RamVfs, write_all_at};
use crate::{Bus, Durability, Keep, Mode};

pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(super) type Said = Vec<(Vec<(String, u64)>, String)>;

pub(super) const SEGMENT: u64 = 4096 + 6000;
pub(super) const EPOCHS: u64 = 60;
/// Epochs with checkpoints.
pub(super) const KEPT: [u64; 3] = [10, 30, 50];

pub(super) fn options() -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(16 << 20),
        seed: Some(3),
        segment_bytes: Some(SEGMENT),
        ..Options::default()
    }
}

/// A store, and all that is known of each of its epochs.
pub(super) struct World {
    pub(super) files: Files,
    pub(super) digests: Vec<u128>,
    /// Tags of each epoch, and what the log says of its commit.
    said: Said,
}

pub(super) fn world(segment: u64) -> World {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let options = Options { segment_bytes: Some(segment), ..options() };
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options).unwrap();
    let mut batch = Batch::new();
    for epoch in 1..=EPOCHS {
        batch.clear();
        let page = NewPage::bytes(&[900]);
        if epoch % 9 == 1 {
            batch.create(1 + epoch / 9, &page);
        }
        batch.write(1 + epoch / 9 / 2, epoch, &[epoch as u8; 300]);
        if epoch % 7 == 0 {
            batch.tag(&format!("tag {epoch}"), Some(epoch / 2), false);
        }
        let meta = format!("{{\"step\":{epoch}}}");
        let how = How {
            time: Some((1 << 50) + epoch * 1000),
            source: (epoch % 2 == 0).then_some("even"),
            meta: Some(&meta),
            wait: true,
            ..How::default()
        };
        assert_eq!(bus.commit(&mut batch, None, &how).unwrap().epoch, epoch);
        if KEPT.contains(&epoch) {
            bus.checkpoint().unwrap();
        }
    }
    bus.close().unwrap();
    let (digests, said) = known(&vfs, "/s");
    World { files: files(&*vfs, Path::new("/s")), digests, said }
}

/// What a store says of each epoch.
fn known(vfs: &Arc<dyn Vfs>, dir: &str) -> (Vec<u128>, Said) {
    let bus = open(vfs, dir, Mode::Read).unwrap();
    let mut commits = bus.log(0, u64::MAX, false).unwrap();
    (0..=bus.epoch())
        .map(|epoch| {
            let at = bus.snapshot_at(epoch).unwrap();
            let text = (epoch > 0).then(|| format!("{:?}", commits.next().unwrap().unwrap()));
            (at.digest().unwrap(), (at.tags(), text.unwrap_or_default()))
        })
        .unzip()
}

pub(super) fn open(vfs: &Arc<dyn Vfs>, dir: &str, mode: Mode) -> Result<Bus> {
    let options = Options { durability: None, ..options() };
    Bus::open_on(Arc::clone(vfs), Path::new(dir), mode, &options, &mut |_, _| {})
}

pub(super) fn files(vfs: &dyn Vfs, dir: &Path) -> Files {
    let mut found = Files::new();
    for name in vfs.list(dir).unwrap_or_default() {
        let path = dir.join(name);
        match vfs.open(&path, OpenKind::Read) {
            Ok(file) => {
                let mut bytes = vec![0; file.size().unwrap() as usize];
                assert_eq!(read_full_at(&*file, 0, &mut bytes).unwrap(), bytes.len());
                found.insert(path, bytes);
            }
            Err(_) => found.extend(files(vfs, &path)),
        }
    }
    found
}

pub(super) fn lay_out(files: &Files) -> Arc<dyn Vfs> {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    for (path, bytes) in files {
        for dir in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            vfs.create_dir(dir).unwrap();
        }
        write_all_at(&*vfs.open(path, OpenKind::CreateNew).unwrap(), 0, bytes).unwrap();
    }
    vfs
}

pub(super) fn salvage(vfs: &Arc<dyn Vfs>, to: &str, wish: Wish) -> Result<Salvage> {
    let (from, to) = (Path::new("/s"), Path::new(to));
    recover_on(Arc::clone(vfs), from, to, wish, &options(), &mut |_, _| {})
}

impl World {
    /// Salvages damaged files and compares all epochs that came out with what was. Says what was told.
    pub(super) fn salvage(&self, damaged: &Files, wish: Wish) -> Salvage {
        let vfs = lay_out(damaged);
        let told = salvage(&vfs, "/new", wish).unwrap();
        let walked = verify_on(Arc::clone(&vfs), Path::new("/s"), &mut |_, _| {}).unwrap();
        let places = |all: &[Error]| all.iter().map(|e| e.message.clone()).collect::<Vec<_>>();
        assert_eq!((walked.records, walked.bytes >= told.bytes), (told.records, true));
        let (walked, told_of) = (places(&walked.problems), places(&told.problems));
        assert!(told_of.iter().all(|one| walked.contains(one)), "{walked:?}");
        assert_eq!(files(&*vfs, Path::new("/s")), *damaged, "the source was touched");
        assert!(!vfs.exists(Path::new("/new/copying")).unwrap());
        let history = (told.epoch - u64::from(told.appended.is_some())) as usize;
        let (digests, said) = known(&vfs, "/new");
        assert_eq!(digests.len() as u64, told.epoch + 1);
        assert_eq!(digests[..=history], self.digests[..=history]);
        assert_eq!(said[..=history], self.said[..=history]);
        if let Some(epoch) = told.appended {
            assert_eq!(digests[history + 1], self.digests[epoch as usize]);
            let commit = &said[history + 1].1;
            assert!(commit.contains(&format!("recovered_epoch\\\":{epoch}}}")), "{commit}");
            let old: Vec<_> = self.said[epoch as usize].0.iter().collect();
            let kept = old.iter().filter(|tag| tag.1 <= history as u64).count();
            assert_eq!(said[history + 1].0.len(), kept);
            assert!(said[history + 1].0.iter().all(|tag| old.contains(&tag)));
        }
        // Each epoch that was is in the new store, told to be whole, or told to be lost.
        let mut all: Vec<(u64, u64)> = told.lost.iter().chain(&told.later).copied().collect();
        all.sort_unstable();
        let mut next = history as u64 + 1;
        for (start, stop) in all {
            assert!(start == next && start < stop, "{told:?}");
            next = stop;
        }
        assert_eq!(next, wish.upto.unwrap_or(EPOCHS).max(history as u64) + 1, "{told:?}");
        // It is a store like any other: it is sound, takes commits, and opens again.
        let bus = open(&vfs, "/new", Mode::ReadWrite).unwrap();
        assert_eq!(bus.recovery().unwrap().torn_bytes, 0);
        assert!(bus.verify(&mut |_, _| {}).unwrap().problems.is_empty());
        assert_eq!(bus.durability(), Durability::Os);
        if bus.epoch() > 0 {
            let how = How { time: Some(1), wait: true, ..How::default() };
            bus.write(1, 0, b"on", &how).unwrap();
        }
        bus.close().unwrap();
        assert!(open(&vfs, "/new", Mode::Read).is_ok());
        told
    }

    pub(super) fn named(&self, part: &str) -> Vec<PathBuf> {
        let named = |path: &&PathBuf| path.to_string_lossy().contains(part);
        self.files.keys().filter(named).cloned().collect()
    }

    pub(super) fn with(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Files {
        let mut files = self.files.clone();
        change(files.get_mut(path).unwrap());
        files
    }
}

pub(super) const ALL: Wish = Wish { upto: None, newest: false };
pub(super) const NEWEST: Wish = Wish { upto: None, newest: true };

#[test]
fn a_sound_store_comes_out_whole() {
    let world = world(SEGMENT);
    let told = world.salvage(&world.files, NEWEST);
    assert!(told.problems.is_empty() && told.lost.is_empty() && told.later.is_empty());
    assert_eq!((told.epoch, told.appended, told.torn_bytes), (EPOCHS, None, 0));
    for upto in [0, 1, 29, 30, 31, EPOCHS] {
        let told = world.salvage(&world.files, Wish { upto: Some(upto), newest: true });
        assert_eq!((told.epoch, told.appended), (upto, None));
        assert!(told.problems.is_empty());
    }
}

/// One byte of the log or of a slot is another, wherever: all epochs before it come out, and what is told of the others
/// holds too.
#[test]
fn a_flipped_byte_anywhere() {
    for segment in [SEGMENT, 1 << 20] {
        let world = world(segment);
        let (mut holes, mut appended, mut whole) = (0, 0, 0);
        let step = if cfg!(miri) { 9001 } else { 97 };
        for path in world.named("/log/").into_iter().chain(world.named("/meta-")) {
            for at in (0..world.files[&path].len()).step_by(step) {
                let damaged = world.with(&path, |bytes| bytes[at] ^= 0x40);
                let told = world.salvage(&damaged, NEWEST);
                assert_eq!(told.problems.len(), 1, "{path:?} {at}: {told:?}");
                let problem = &told.problems[0].detail;
                assert_eq!(problem.file.as_deref(), Some(&*path));
                assert!(problem.offset.unwrap() <= at as u64);
                holes += usize::from(!told.lost.is_empty());
                appended += usize::from(told.appended == Some(EPOCHS));
                whole += usize::from(told.epoch == EPOCHS);
                // What is behind the damage is not given up: the newest state is there but for damage after it.
                let newest = told.appended.unwrap_or(told.epoch);
                assert!(newest == EPOCHS || told.lost.iter().any(|&(_, stop)| stop > KEPT[2]));
            }
        }
        assert!(holes > 50 && appended > 50 && whole > 10, "{holes} {appended} {whole}");
    }
}

#[test]
fn segments_that_are_missing_cut_or_foreign() {
    let world = world(SEGMENT);
    let log = world.named("/log/");
    assert!(log.len() >= 4, "{}", log.len());
    for (index, path) in log.iter().enumerate() {
        let stem = path.file_stem().unwrap().to_string_lossy();
        let before = u64::from_str_radix(&stem[17..], 16).unwrap() - 1;
        let mut missing = world.files.clone();
        missing.remove(path);
        let told = world.salvage(&missing, ALL);
        assert_eq!((told.epoch, told.problems.len()), (before, 1), "{index}: {told:?}");
        let told = world.salvage(&missing, NEWEST);
        assert_eq!(told.appended.is_some(), before < KEPT[2], "{index}: {told:?}");
        for len in [0, 100, 4096, 5000, world.files[path].len() - 1] {
            let told = world.salvage(&world.with(path, |bytes| bytes.truncate(len)), NEWEST);
            assert!(told.epoch >= before && told.problems.len() == 1, "{index} {len}: {told:?}");
        }
    }
    // A segment of a store with another number, a segment under another's name, and names of none.
    let mut foreign = world.files.clone();
    foreign.insert("/s/log/mine.mlog".into(), b"mine".to_vec());
    foreign.insert("/s/log/notes.txt".into(), b"mine".to_vec());
    let told = world.salvage(&foreign, ALL);
    assert_eq!((told.epoch, told.problems.len()), (EPOCHS, 1));
    let mut swapped = world.files.clone();
    swapped.insert(log[1].clone(), world.files[&log[2]].clone());
    let told = world.salvage(&swapped, ALL);
    assert!(told.epoch < 30 && told.problems[0].detail.file.as_deref() == Some(&*log[1]));
    // All of the log: checkpoints are left.
    let mut none = world.files.clone();
    log.iter().for_each(|path| _ = none.remove(path));
    let told = world.salvage(&none, NEWEST);
    assert_eq!((told.epoch, told.appended), (1, Some(50)));
    assert_eq!(told.lost, [(1, 10), (11, 30), (31, 50), (51, 61)]);
    let told = world.salvage(&none, Wish { upto: Some(40), newest: true });
    assert_eq!((told.epoch, told.appended), (1, Some(30)));
}

#[test]
fn slots_and_checkpoints() {
    let world = world(SEGMENT);
    let mut gone = world.files.clone();
    for path in world.named("/meta-") {
        gone.remove(&path);
    }
    let vfs = lay_out(&gone);
    let told = salvage(&vfs, "/new", ALL).unwrap();
    assert_eq!((told.epoch, told.problems.len()), (EPOCHS, 2));
    // Nothing says that commits need not wait for the disk.
    assert_eq!(open(&vfs, "/new", Mode::Read).unwrap().durability(), Durability::Disk);
    let kept = world.named(".ckpt");
    for path in &kept {
        for at in (0..world.files[path].len()).step_by(if cfg!(miri) { 3001 } else { 401 }) {
            let told = world.salvage(&world.with(path, |bytes| bytes[at] ^= 1), NEWEST);
            // That of the base is one of those that stand on it too.
            let most = if path == &kept[0] { kept.len() } else { 1 };
            assert_eq!(told.epoch, EPOCHS);
            assert!((1..=most).contains(&told.problems.len()), "{:?}", told.problems);
            let files = told.problems.iter().filter_map(|problem| problem.detail.file.as_ref());
            assert!(files.clone().any(|file| file == path));
            assert!(files.clone().all(|file| kept.contains(file)));
        }
    }
    // The newest one and the log before it: the one before serves.
    let log = world.named("/log/");
    let mut damaged = world.with(&log[1], |bytes| bytes[4200] ^= 1);
    damaged.get_mut(&kept[2]).unwrap()[4100] ^= 1;
    let told = world.salvage(&damaged, NEWEST);
    assert_eq!((told.appended, told.problems.len()), (Some(EPOCHS), 2), "{told:?}");
    // A checkpoint of another store with the same epoch.
    let mut other = world.files.clone();
    other.get_mut(&kept[0]).unwrap()[4096..].reverse();
    assert!(!world.salvage(&other, ALL).problems.is_empty());
}

#[test]
fn a_torn_end_is_no_damage() {
    let vfs: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let bus = Bus::create_on(Arc::clone(&vfs), Path::new("/s"), &options()).unwrap();
    let how = How { time: Some(1), wait: true, ..How::default() };
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[9]));
    bus.commit(&mut batch, None, &how).unwrap();
    let refused = salvage(&vfs, "/new", ALL).unwrap_err();
    assert_eq!(refused.code, Code::BusLocked);
    assert!(!vfs.exists(Path::new("/new")).unwrap());
    // Killed now, in the middle of a record.
    let mut killed = files(&*vfs, Path::new("/s"));
    let segment = killed.iter_mut().find(|(path, _)| path.starts_with("/s/log")).unwrap().1;
    let end = segment.iter().rposition(|&b| b != 0).unwrap().next_multiple_of(8);
    segment[end + 8..end + 20].fill(7);
    let vfs = lay_out(&killed);
    let told = salvage(&vfs, "/new", ALL).unwrap();
    assert_eq!((told.epoch, told.problems.len()), (1, 0), "{told:?}");
    assert!(told.torn_bytes > 0 && told.lost.is_empty());
}

#[test]
fn what_is_refused() {
    let world = world(SEGMENT);
    let vfs = lay_out(&world.files);
    let refused = |to: &str, wish| salvage(&vfs, to, wish).unwrap_err();
    for to in ["/s", "/s/new", "/"] {
        assert_eq!(refused(to, ALL).code, Code::Argument);
    }
    assert_eq!(refused("/no/where", ALL).code, Code::Storage);
    vfs.create_dir(Path::new("/mine")).unwrap();
    vfs.open(Path::new("/mine/notes"), OpenKind::CreateNew).unwrap();
    assert_eq!(refused("/mine", ALL).code, Code::Argument);
    assert_eq!(vfs.list(Path::new("/mine")).unwrap(), ["notes"]);
    Bus::create_on(Arc::clone(&vfs), Path::new("/other"), &options()).unwrap();
    assert_eq!(refused("/other", ALL).code, Code::BusExists);
    let past = refused("/new", Wish { upto: Some(EPOCHS + 1), newest: false });
    assert_eq!(past.code, Code::EpochNotFound);
    assert_eq!(open(&vfs, "/new", Mode::Read).unwrap_err().code, Code::BusNotFound);
    let no_bus = |dir: &str| {
        let (dir, to) = (Path::new(dir), Path::new("/x"));
        recover_on(Arc::clone(&vfs), dir, to, ALL, &options(), &mut |_, _| {}).unwrap_err().code
    };
    assert_eq!([no_bus("/mine"), no_bus("/nowhere")], [Code::BusNotFound; 2]);
    assert_eq!(files(&*vfs, Path::new("/s")), world.files);
    // The same place is taken again.
    assert_eq!(salvage(&vfs, "/new", ALL).unwrap().epoch, EPOCHS);
}

/// A sector that the disk no longer gives is damage like any other.
#[test]
fn a_lost_sector() {
    let world = world(1 << 20);
    let double = Double::new(lay_out(&world.files));
    let log = world.named("/log/")[0].clone();
    double.fail(move |call| {
        let hit =
            call.what == "read" && call.path == log && call.at <= 9000 && 9000 < call.at + call.len;
        hit.then(|| io::Error::from_raw_os_error(5))
    });
    let vfs = double.vfs();
    let told = salvage(&vfs, "/new", NEWEST).unwrap();
    assert_eq!(told.appended, Some(EPOCHS));
    assert_eq!(told.problems[0].detail.offset, Some(8192));
    assert!(told.epoch > 5, "{told:?}");
    let (digests, _) = known(&vfs, "/new");
    let history = told.epoch as usize - 1;
    assert_eq!(digests[..=history], world.digests[..=history]);
    assert_eq!(digests[history + 1], world.digests[EPOCHS as usize]);
}

/// Each call fails, once and from then on: there is no new store or all of it, and the damaged one is as it was.
#[test]
fn every_call_fails() {
    let world = world(SEGMENT);
    let damaged = world.with(&world.named("/log/")[3], |bytes| bytes[5000] ^= 1);
    let told = world.salvage(&damaged, NEWEST);
    assert!(told.appended.is_some());
    let (mut nth, mut failed) = (0, 0);
    loop {
        nth += if cfg!(miri) { 40 } else { 1 };
        let for_good = nth % 2 == 0;
        let double = Double::new(lay_out(&damaged));
        let mut count = 0;
        double.fail(move |_| {
            count += 1;
            let now = if for_good { count >= nth } else { count == nth };
            now.then(|| io::Error::from_raw_os_error(28))
        });
        let vfs = double.vfs();
        let done = salvage(&vfs, "/new", NEWEST);
        let calls = double.calls().len();
        double.heal();
        assert_eq!(files(&*vfs, Path::new("/s")), damaged);
        match open(&vfs, "/new", Mode::Read) {
            Ok(new) => {
                let want = world.digests[told.appended.unwrap() as usize];
                assert_eq!(
                    (new.epoch(), new.snapshot().unwrap().digest().unwrap()),
                    (told.epoch, want)
                );
            }
            Err(error) => {
                failed += 1;
                assert_eq!(error.code, Code::BusNotFound, "{nth}: {error}");
                assert!(done.is_err());
                assert_eq!(salvage(&vfs, "/new", NEWEST).unwrap().epoch, told.epoch);
            }
        }
        if done.is_ok() && calls < nth {
            break;
        }
    }
    assert!(failed > 40, "{failed} of {nth}");
}

/// Epochs before the base that tags keep.
const BEFORE: [u64; 8] = [3, 7, 10, 14, 17, 21, 24, 28];

/// A store whose log begins at epoch 30, with some checkpoints before it: the files, and the old world beside it.
pub(super) fn pruned() -> (Files, World) {
    let world = world(SEGMENT);
    let vfs = lay_out(&world.files);
    let bus = open(&vfs, "/s", Mode::ReadWrite).unwrap();
    let keep = Keep { log_since: Some(35), ..Keep::default() };
    let report = bus.prune(&keep).unwrap();
    assert_eq!((report.oldest, report.checkpoints.len()), (3, BEFORE.len() - 1));
    assert_eq!(report.let_go.last(), Some(&(29, 30)));
    bus.close().unwrap();
    (files(&*vfs, Path::new("/s")), world)
}

/// Salvages, and compares every epoch that opens with what it was; it must be one of these.
fn salvage_pruned(damaged: &Files, world: &World, wish: Wish, opens: &[u64]) -> Salvage {
    let vfs = lay_out(damaged);
    let told = salvage(&vfs, "/new", wish).unwrap();
    assert_eq!(files(&*vfs, Path::new("/s")), *damaged, "the source was touched");
    for mode in [Mode::Read, Mode::ReadWrite] {
        let bus = open(&vfs, "/new", mode).unwrap();
        assert!(bus.verify(&mut |_, _| {}).unwrap().problems.is_empty());
        assert_eq!(bus.epoch(), told.epoch);
        let end = told.epoch - u64::from(told.appended.is_some());
        for epoch in 0..=end {
            match bus.snapshot_at(epoch) {
                Ok(at) => {
                    assert!(opens.contains(&epoch), "epoch {epoch} opens");
                    assert_eq!(at.digest().unwrap(), world.digests[epoch as usize]);
                    assert_eq!(at.tags(), world.said[epoch as usize].0);
                }
                Err(error) => {
                    assert_eq!(error.code, Code::EpochNotFound);
                    assert!(!opens.contains(&epoch), "epoch {epoch}: {error}");
                }
            }
        }
        for commit in bus.log(0, end, false).unwrap() {
            let commit = commit.unwrap();
            assert_eq!(format!("{commit:?}"), world.said[commit.epoch() as usize].1);
        }
        if let Some(epoch) = told.appended {
            let newest = bus.snapshot().unwrap().digest().unwrap();
            assert_eq!(newest, world.digests[epoch as usize]);
        }
    }
    told
}

fn all_from(first: u64, last: u64, more: &[u64]) -> Vec<u64> {
    more.iter().copied().chain(first..=last).collect()
}

#[test]
fn a_store_that_was_pruned() {
    let (whole, world) = pruned();
    let newest = Wish { upto: None, newest: true };
    let told = salvage_pruned(&whole, &world, newest, &all_from(30, EPOCHS, &BEFORE));
    assert_eq!((told.epoch, told.torn_bytes), (EPOCHS, 0));
    assert!(told.problems.is_empty() && told.lost.is_empty() && told.later.is_empty(), "{told:?}");
    let walked = verify_on(lay_out(&whole), Path::new("/s"), &mut |_, _| {}).unwrap();
    assert!(walked.problems.is_empty(), "{walked:?}");
    for upto in [30, 31, 47] {
        let wish = Wish { upto: Some(upto), newest: false };
        assert_eq!(salvage_pruned(&whole, &world, wish, &all_from(30, upto, &BEFORE)).epoch, upto);
    }
    for upto in [10, 11, 13] {
        let wish = Wish { upto: Some(upto), newest: true };
        let told = salvage_pruned(&whole, &world, wish, &BEFORE[..3]);
        assert_eq!((told.epoch, told.lost, told.later), (10, vec![], vec![]));
    }
    let vfs = lay_out(&whole);
    let none = salvage(&vfs, "/new", Wish { upto: Some(2), newest: true }).unwrap_err();
    assert_eq!(none.code, Code::EpochNotFound, "{none}");
    assert!(none.message.contains("let go"), "{none}");
    // What a crash left of a segment before the base means nothing.
    let mut left = whole.clone();
    left.insert("/s/log/0000000000000000-0000000000000001.mlog".into(), vec![1; 5000]);
    let told = salvage_pruned(&left, &world, newest, &all_from(30, EPOCHS, &BEFORE));
    assert!(told.problems.is_empty(), "{told:?}");
}

/// The checkpoint of the base, that before it, all of them, a slot, a record.
#[test]
fn a_pruned_store_that_is_damaged() {
    let (whole, world) = pruned();
    let newest = Wish { upto: None, newest: true };
    let file = |epoch| checkpoint::path(Path::new("/s"), epoch);
    let spoil = |files: &mut Files, path: &Path, at: usize| files.get_mut(path).unwrap()[at] ^= 1;
    for gone in [false, true] {
        let mut files = whole.clone();
        match gone {
            true => _ = files.remove(&file(30)),
            false => spoil(&mut files, &file(30), 4200),
        }
        let told = salvage_pruned(&files, &world, newest, &all_from(50, EPOCHS, &BEFORE));
        assert_eq!((told.lost, told.epoch), (vec![(30, 50)], EPOCHS));
        assert_eq!((told.problems.len(), &told.problems[0].detail.file), (1, &Some(file(30))));
    }
    let mut files = whole.clone();
    spoil(&mut files, &file(10), 4200);
    let rest = BEFORE.map(|epoch| if epoch == 10 { 3 } else { epoch });
    let told = salvage_pruned(&files, &world, newest, &all_from(30, EPOCHS, &rest));
    assert_eq!((told.lost, told.problems.len()), (vec![(10, 11)], 1));
    let mut files = whole.clone();
    [30, 50].into_iter().for_each(|epoch| spoil(&mut files, &file(epoch), 4200));
    let refused = salvage(&lay_out(&files), "/new", newest).unwrap_err();
    assert_eq!(refused.code, Code::Corruption, "{refused}");
    assert!(refused.message.contains("let go"), "{refused}");
    let mut files = whole.clone();
    spoil(&mut files, Path::new("/s/meta-0"), 60);
    let told = salvage_pruned(&files, &world, newest, &all_from(30, EPOCHS, &BEFORE));
    assert_eq!((told.problems.len(), told.lost), (1, vec![]));
    // A record between: what follows the next checkpoint is whole, and can be the newest state.
    let mut files = whole.clone();
    let names: Vec<_> = names(&*lay_out(&files), Path::new("/s"), &mut |e| panic!("{e}")).unwrap();
    let name = names.iter().rfind(|name| name.first_epoch <= 40).unwrap();
    spoil(&mut files, &Path::new("/s/log").join(name.file()), 4096 + 40);
    let end = name.first_epoch - 1;
    let told = salvage_pruned(&files, &world, newest, &all_from(30, end, &BEFORE));
    assert_eq!((told.epoch, told.appended), (end + 1, Some(EPOCHS)));
    assert_eq!((told.lost, told.later), (vec![(end + 1, 50)], vec![(50, EPOCHS + 1)]));
}
