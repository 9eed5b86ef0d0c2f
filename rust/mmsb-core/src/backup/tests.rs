//! Copies against the store that they are of; what is refused; what a failure leaves.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::arena::faults;
use crate::delta::{Batch, NewPage};
use crate::log::double::{Call, Double};
use crate::sequence::How;
use crate::vfs::RamVfs;
use crate::vfs::testing::contents;
use crate::{Bus, Durability, Keep, Mode, Options};

fn options() -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(16 << 20),
        seed: Some(3),
        segment_bytes: Some(4096 + 8000),
        ..Options::default()
    }
}

fn how(epoch: u64) -> How<'static> {
    How { time: Some(epoch), wait: true, ..How::default() }
}

/// Commits of many segments, with a checkpoint, and the digest of each epoch.
fn world() -> (Double, Bus, Vec<u128>) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let (bus, digests) = fill(&double);
    (double, bus, digests)
}

fn fill(double: &Double) -> (Bus, Vec<u128>) {
    let bus = Bus::create_on(double.vfs(), Path::new("/s"), &options()).unwrap();
    let digest = || bus.snapshot().unwrap().digest().unwrap();
    let mut digests = vec![digest()];
    let mut batch = Batch::new();
    for epoch in 1..=30 {
        batch.clear();
        if epoch == 1 {
            let page = NewPage { name: Some("p"), ..NewPage::bytes(&[900]) };
            batch.create(1, &page);
        }
        batch.write(1, epoch, &[epoch as u8; 600]);
        assert_eq!(bus.commit(&mut batch, None, &how(epoch)).unwrap().epoch, epoch);
        digests.push(digest());
        if epoch == 12 {
            bus.checkpoint().unwrap();
        }
    }
    (bus, digests)
}

fn open(vfs: Arc<dyn Vfs>, dir: &str, mode: Mode) -> Result<Bus> {
    Bus::open_on(vfs, Path::new(dir), mode, &options(), &mut |_, _| {})
}

/// Every epoch of a copy has the digest that it had.
fn check(vfs: Arc<dyn Vfs>, dir: &str, digests: &[u128]) {
    for mode in [Mode::Read, Mode::ReadWrite] {
        let bus = open(Arc::clone(&vfs), dir, mode).unwrap();
        assert_eq!(bus.epoch() as usize, digests.len() - 1);
        assert_eq!(bus.recovery().unwrap().torn_bytes, 0);
        for (epoch, digest) in digests.iter().enumerate() {
            assert_eq!(bus.snapshot_at(epoch as u64).unwrap().digest().unwrap(), *digest);
        }
        assert_eq!(bus.verify(&mut |_, _| {}).unwrap().problems.len(), 0);
    }
}

#[test]
fn a_copy_is_the_store_at_that_epoch() {
    let (double, bus, digests) = world();
    let elsewhere: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    let mut told = Vec::new();
    let progress = &mut |done, total| told.push((done, total));
    assert_eq!(bus.backup_on(&*elsewhere, Path::new("/copy"), progress).unwrap(), 30);
    assert!(told.is_sorted() && told.iter().all(|&(done, total)| done <= total));
    assert_eq!(told.last().map(|last| last.0), told.last().map(|last| last.1));
    // Both live on, each by itself.
    bus.write(1, 0, b"after", &how(31)).unwrap();
    check(Arc::clone(&elsewhere), "/copy", &digests);
    let copy = open(Arc::clone(&elsewhere), "/copy", Mode::ReadWrite).unwrap();
    assert_eq!(copy.durability(), Durability::Os);
    assert_eq!(copy.write(1, 0, b"other", &how(31)).unwrap().epoch, 31);
    assert_ne!(
        copy.snapshot().unwrap().digest().unwrap(),
        bus.snapshot().unwrap().digest().unwrap()
    );
    assert!(elsewhere.list(Path::new("/copy/checkpoints")).unwrap().len() == 1);
    // Of a reader, and beside the store.
    bus.close().unwrap();
    let reader = open(double.vfs(), "/s", Mode::Read).unwrap();
    assert_eq!(reader.backup_on(&double, Path::new("/t"), &mut |_, _| {}).unwrap(), 31);
    assert_eq!(open(double.vfs(), "/t", Mode::Read).unwrap().epoch(), 31);
}

#[test]
fn a_bus_in_memory_goes_into_a_directory() {
    let bus = Bus::memory(&options()).unwrap();
    let mut digests = vec![bus.snapshot().unwrap().digest().unwrap()];
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[9]));
    bus.commit(&mut batch, None, &how(1)).unwrap();
    digests.push(bus.snapshot().unwrap().digest().unwrap());
    let to: Arc<dyn Vfs> = Arc::new(RamVfs::new());
    assert_eq!(bus.backup_on(&*to, Path::new("/copy"), &mut |_, _| {}).unwrap(), 1);
    check(Arc::clone(&to), "/copy", &digests);
    let copy =
        Bus::open_on(to, Path::new("/copy"), Mode::Read, &Options::default(), &mut |_, _| {});
    assert_eq!(copy.unwrap().durability(), Durability::Disk);
    let fork = bus.fork(&bus.snapshot().unwrap()).unwrap();
    let refused = fork.backup_on(&RamVfs::new(), Path::new("/copy"), &mut |_, _| {});
    assert_eq!(refused.unwrap_err().code, Code::Argument);
}

#[test]
fn what_is_refused() {
    let (double, bus, _) = world();
    let back_up = |to: &str| bus.backup_on(&double, Path::new(to), &mut |_, _| {}).unwrap_err();
    assert_eq!(back_up("/s").code, Code::Argument);
    assert_eq!(back_up("/s/backup").code, Code::Argument);
    assert_eq!(back_up("/nowhere/backup").code, Code::Storage);
    let other = Bus::create_on(double.vfs(), Path::new("/t"), &options()).unwrap();
    assert_eq!(back_up("/t").code, Code::BusLocked);
    other.close().unwrap();
    drop(other);
    assert_eq!(back_up("/t").code, Code::BusExists);
    double.create_dir(Path::new("/mine")).unwrap();
    double.open(Path::new("/mine/notes"), OpenKind::CreateNew).unwrap();
    assert_eq!(back_up("/mine").code, Code::Argument);
    // Damage is told and not copied.
    let log = log::log_dir(Path::new("/s"));
    let segment = log.join(&double.list(&log).unwrap()[1]);
    let file = double.open(&segment, OpenKind::ReadWrite).unwrap();
    write_all_at(&*file, 5000, b"damage").unwrap();
    let error = back_up("/u");
    assert_eq!((error.code, error.detail.file.as_deref()), (Code::Corruption, Some(&*segment)));
    assert!(!double.exists(Path::new("/u")).unwrap());
    bus.close().unwrap();
    assert_eq!(back_up("/u").code, Code::Closed);
}

/// What a directory has in the directories of a store.
fn files(vfs: &dyn Vfs, dir: &str) -> Vec<String> {
    let within = ["log", "checkpoints"].map(|name| Path::new(dir).join(name));
    within.iter().flat_map(|dir| vfs.list(dir).unwrap_or_default()).collect()
}

/// Each call fails, once and from then on: there is no store, or all of it; then the copy is made in the same place.
#[test]
fn every_call_fails() {
    let (double, bus, digests) = world();
    for for_good in [false, true] {
        let mut nth = 0;
        loop {
            nth += 1;
            let to = format!("/copy-{for_good}-{nth}");
            double.calls();
            let mut count = 0;
            double.fail(move |_| {
                count += 1;
                let now = if for_good { count >= nth } else { count == nth };
                now.then(|| io::Error::from_raw_os_error(28))
            });
            let done = bus.backup_on(&double, Path::new(&to), &mut |_, _| {});
            double.heal();
            if done.is_ok() && double.calls().len() < nth {
                break;
            }
            match open(double.vfs(), &to, Mode::Read) {
                Ok(copy) => assert_eq!(copy.snapshot().unwrap().digest().unwrap(), digests[30]),
                Err(error) => {
                    assert_eq!(error.code, Code::BusNotFound, "{error}");
                    if !for_good {
                        // But for the slot it may have been whole; the next attempt removes it.
                        assert!([0, 4].contains(&files(&double, &to).len()), "call {nth}");
                    }
                    bus.backup_on(&double, Path::new(&to), &mut |_, _| {}).unwrap();
                    let first = "log/0000000000000000-0000000000000001.mlog";
                    let [original, copied] =
                        ["/s", &to].map(|dir| contents(&double, &Path::new(dir).join(first)));
                    assert!(copied == original);
                }
            }
            assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digests[30]);
        }
        assert!(nth > 40, "{nth}");
    }
    check(double.vfs(), "/copy-true-1", &digests);
}

/// What becomes of a checkpoint of this epoch when it is opened for the second time at the latest.
type Fate = fn(&RamVfs, &Path, usize) -> Option<io::Error>;

fn gone(_: &RamVfs, _: &Path, _: usize) -> Option<io::Error> {
    Some(io::ErrorKind::NotFound.into())
}

fn unreadable(_: &RamVfs, _: &Path, opened: usize) -> Option<io::Error> {
    (opened == 2).then(|| io::Error::from_raw_os_error(5))
}

fn gone_meanwhile(ram: &RamVfs, path: &Path, opened: usize) -> Option<io::Error> {
    if opened == 2 {
        ram.unlink(path).unwrap();
    }
    None
}

fn damaged(ram: &RamVfs, path: &Path, opened: usize) -> Option<io::Error> {
    if opened == 1 {
        let file = ram.open(path, OpenKind::ReadWrite).unwrap();
        write_all_at(&*file, 4500, b"damage").unwrap();
    }
    None
}

/// A checkpoint behind where the log begins may be left out. The one where it begins may not, and no fault of the disk is
/// passed over.
#[test]
fn checkpoints_that_are_lost_meanwhile() {
    let copied = |log_begins: bool, epoch: u64, fate: Fate| {
        let ram = Arc::new(RamVfs::new());
        let double = Double::new(Arc::clone(&ram) as Arc<dyn Vfs>);
        let (bus, digests) = fill(&double);
        bus.checkpoint().unwrap();
        if log_begins {
            bus.prune(&Keep { log_since: Some(12), ..Keep::default() }).unwrap();
        }
        let (path, mut opened) = (checkpoint::path(Path::new("/s"), epoch), 0);
        double.fail(move |call: &Call| {
            let is_it = call.what == "open" && call.path == path;
            opened += usize::from(is_it);
            if is_it { fate(&ram, &path, opened) } else { None }
        });
        let done = bus.backup_on(&double, Path::new("/copy"), &mut |_, _| {});
        double.heal();
        done.map_err(|error| error.code)?;
        let copy = open(double.vfs(), "/copy", Mode::Read).unwrap();
        for at in 12..=30 {
            assert_eq!(copy.snapshot_at(at).unwrap().digest().unwrap(), digests[at as usize]);
        }
        Ok(checkpoint::list(&double, Path::new("/copy")).unwrap())
    };
    for log_begins in [false, true] {
        for fate in [gone, gone_meanwhile, damaged] {
            assert_eq!(copied(log_begins, 30, fate), Ok(vec![12]));
        }
        assert_eq!(copied(log_begins, 30, unreadable), Err(Code::Storage));
        assert_eq!(copied(log_begins, 12, unreadable), Err(Code::Storage));
        let first: [(Fate, Code); 3] =
            [(gone, Code::Storage), (gone_meanwhile, Code::Storage), (damaged, Code::Corruption)];
        for (fate, code) in first {
            let expected = if log_begins { Err(code) } else { Ok(vec![30]) };
            assert_eq!(copied(log_begins, 12, fate), expected);
        }
    }
}

#[test]
fn a_copy_without_memory() {
    let (double, bus, digests) = world();
    let mut lacking = Vec::new();
    for nth in 1.. {
        faults::arm(nth, false);
        let done = bus.backup_on(&double, Path::new("/copy"), &mut |_, _| {});
        if !faults::disarm() {
            done.unwrap();
            break;
        }
        let error = done.unwrap_err();
        assert_eq!(error.code, Code::OutOfSpace, "request {nth}");
        assert_eq!(files(&double, "/copy"), [""; 0]);
        lacking.push(error.message);
    }
    let buffer = "no memory for 1048576 bytes, in which a backup is copied";
    assert!(lacking.iter().any(|what| what == buffer), "{lacking:?}");
    check(double.vfs(), "/copy", &digests);
}

/// Files of more than one piece, and one that ends too soon.
#[test]
fn long_files_and_short_ones() {
    let (from, to) = (RamVfs::new(), RamVfs::new());
    let bytes: Vec<u8> = (0..PIECE as u32 * 5 / 2).map(|i| (i / 7) as u8).collect();
    let file = from.open(Path::new("/from"), OpenKind::CreateNew).unwrap();
    write_all_at(&*file, 0, &bytes).unwrap();
    let mut copying = Copying { from: &from, to: &to, buf: vec![0; PIECE] };
    let mut told = Vec::new();
    let len = bytes.len() as u64;
    copying.file(&*file, len, Path::new("/to"), &mut |done| told.push(done)).unwrap();
    assert_eq!(told, [PIECE as u64, 2 * PIECE as u64, len]);
    assert!(contents(&to, Path::new("/to")) == bytes);
    let short = copying.file(&*file, len + 1, Path::new("/short"), &mut |_| {});
    assert_eq!(short.unwrap_err().code, Code::Storage);
}

/// Were the newest slot lost, the other would say that nothing is durable yet.
#[test]
fn the_slot_before_the_last() {
    let (double, bus, _) = world();
    bus.sync().unwrap();
    let mut durable = ["meta-0", "meta-1"].map(|slot| {
        let copy = PathBuf::from(format!("/without-{slot}"));
        bus.backup_on(&double, &copy, &mut |_, _| {}).unwrap();
        assert_eq!(log::read_meta(&double, &copy).unwrap().durable_epoch, 30);
        double.unlink(&copy.join(slot)).unwrap();
        let meta = log::read_meta(&double, &copy).unwrap();
        (meta.durable_epoch, meta.durable)
    });
    durable.sort();
    assert_eq!((durable[0], durable[1].0), ((0, Position::default()), 30));
}

#[test]
fn a_mark_that_is_there_already() {
    let vfs = RamVfs::new();
    let dir = Path::new("/copy");
    vfs.create_dir(dir).unwrap();
    for _ in 0..2 {
        birth::set_mark(&vfs, dir).unwrap();
        assert!(birth::is_marked(&vfs, dir).unwrap());
    }
    for _ in 0..2 {
        birth::remove_mark(&vfs, dir).unwrap();
        assert!(!birth::is_marked(&vfs, dir).unwrap());
    }
}
