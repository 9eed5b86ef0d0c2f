//! What is let go and what stays, against a list of digests; what a failure leaves; what a base that is gone means.

use std::sync::Arc;

use super::*;
use crate::delta::{Batch, NewPage};
use crate::log::double::{Call, Double};
use crate::sequence::How;
pub(super) use crate::vfs::testing::{contents, put};
use crate::vfs::{RamVfs, Vfs};
use crate::{Durability, Mode, Options};

pub(super) const DIR: &str = "/s";
pub(super) const EIO: i32 = 5;
const ENOSPC: i32 = 28;

pub(super) fn options() -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(16 << 20),
        seed: Some(3),
        segment_bytes: Some(4096 + 3000),
        ..Options::default()
    }
}

pub(super) fn how(epoch: u64) -> How<'static> {
    How { time: Some(epoch * 10), wait: true, ..How::default() }
}

pub(super) fn commit(bus: &Bus, epoch: u64) -> u128 {
    let mut batch = Batch::new();
    if epoch == 1 {
        let shape = [900];
        let page = NewPage {
            name: Some("p"),
            dtype: "",
            itemsize: 1,
            shape: &shape,
            nbytes: 900,
            meta: "",
            location: 0,
        };
        batch.create(1, &page);
    }
    batch.write(1, epoch, &[epoch as u8; 600]);
    assert_eq!(bus.commit(&mut batch, None, &how(epoch)).unwrap().epoch, epoch);
    bus.snapshot().unwrap().digest().unwrap()
}

/// 30 epochs in many segments, with checkpoints of some, and the digest of each.
pub(super) fn world(checkpoints: &[u64]) -> (Double, Bus, Vec<u128>) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &options()).unwrap();
    let mut digests = vec![bus.snapshot().unwrap().digest().unwrap()];
    for epoch in 1..=30 {
        digests.push(commit(&bus, epoch));
        if checkpoints.contains(&epoch) {
            assert_eq!(bus.checkpoint().unwrap(), epoch);
        }
    }
    (double, bus, digests)
}

pub(super) fn open(double: &Double, mode: Mode) -> Result<Bus> {
    Bus::open_on(double.vfs(), Path::new(DIR), mode, &options(), &mut |_, _| {})
}

pub(super) fn since(epoch: u64) -> Keep {
    Keep { log_since: Some(epoch), ..Keep::default() }
}

/// Prunes, after a dry run that changes nothing and tells the same.
pub(super) fn prune(double: &Double, bus: &Bus, keep: Keep) -> PruneReport {
    double.calls();
    let told = bus.prune(&Keep { dry_run: true, ..keep }).unwrap();
    assert_eq!(double.changes(), [""; 0]);
    let report = bus.prune(&keep).unwrap();
    assert_eq!(report, told);
    assert_eq!(report.bytes, report.files.iter().map(|file| file.1).sum::<u64>());
    for (path, _) in &report.files {
        assert!(!double.exists(path).unwrap(), "{}", path.display());
    }
    report
}

/// Each epoch that should open has its digest, and each other one was let go.
fn check(bus: &Bus, digests: &[u128], opens: impl Fn(u64) -> bool) {
    for (epoch, digest) in digests.iter().enumerate().rev() {
        match bus.snapshot_at(epoch as u64) {
            Ok(at) => {
                assert!(opens(epoch as u64), "epoch {epoch} opens");
                assert_eq!(at.digest().unwrap(), *digest, "epoch {epoch}");
            }
            Err(error) => {
                assert_eq!(error.code, Code::EpochNotFound, "epoch {epoch}: {error}");
                assert!(!opens(epoch as u64), "epoch {epoch}: {error}");
                assert!(error.message.contains("let go"), "{error}");
            }
        }
    }
}

pub(super) fn checkpoints(double: &Double) -> Vec<u64> {
    checkpoint::list(double, Path::new(DIR)).unwrap()
}

#[test]
fn the_log_begins_with_the_newest_checkpoint_before() {
    let (double, bus, digests) = world(&[5, 12, 20]);
    let report = prune(&double, &bus, since(15));
    assert_eq!((report.oldest, &report.let_go[..]), (12, &[(0, 12)][..]));
    assert!(report.checkpoints.is_empty());
    assert_eq!(checkpoints(&double), [12, 20]);
    assert!(report.bytes > 0 && report.files.len() > 1);
    // The segment with the first epoch that is needed is the first one.
    let names = log::list(&double, Path::new(DIR)).unwrap();
    assert!(names[0].seq > 0 && names[0].first_epoch <= 13 && names[1].first_epoch > 13);
    let look = |bus: &Bus| {
        check(bus, &digests, |epoch| epoch >= 12);
        let epochs: Vec<u64> = bus.log(0, 99, false).unwrap().map(|c| c.unwrap().epoch()).collect();
        assert_eq!(epochs, (13..=30).collect::<Vec<_>>());
        let back: Vec<u64> = bus.log(0, 99, true).unwrap().map(|c| c.unwrap().epoch()).collect();
        assert_eq!(back, (13..=30).rev().collect::<Vec<_>>());
        assert_eq!(bus.epoch_as_of(130).unwrap(), Some(13));
        assert_eq!(bus.epoch_as_of(129).unwrap(), None);
        assert_eq!(bus.check_epoch(11).unwrap_err().code, Code::EpochNotFound);
        bus.check_epoch(12).unwrap();
        let report = bus.verify(&mut |_, _| {}).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
    };
    look(&bus);
    let digest = commit(&bus, 31);
    bus.close().unwrap();
    for mode in [Mode::Read, Mode::ReadWrite] {
        let bus = open(&double, mode).unwrap();
        assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digest);
        assert_eq!(bus.recovery().unwrap().torn_bytes, 0);
        check(&bus, &digests, |epoch| epoch >= 12);
    }
}

#[test]
fn what_there_is_no_checkpoint_of_is_made_first() {
    let (double, bus, digests) = world(&[]);
    let report = prune(&double, &bus, since(15));
    assert_eq!((report.oldest, report.checkpoints), (15, vec![15]));
    check(&bus, &digests, |epoch| epoch >= 15);
    // Again: nothing.
    let report = prune(&double, &bus, since(15));
    assert_eq!(report, PruneReport { oldest: 15, ..PruneReport::default() });
    // It never goes back.
    assert_eq!(prune(&double, &bus, since(3)).oldest, 15);
    // The newest epoch alone.
    let report = prune(&double, &bus, since(30));
    assert_eq!(report.let_go, []);
    bus.checkpoint().unwrap();
    let report = prune(&double, &bus, since(30));
    assert_eq!((report.oldest, report.let_go), (30, vec![(15, 30)]));
    check(&bus, &digests, |epoch| epoch == 30);
    commit(&bus, 31);
    bus.close().unwrap();
    let bus = open(&double, Mode::ReadWrite).unwrap();
    assert_eq!((bus.epoch(), bus.recovery().unwrap().records), (31, 1));
}

#[test]
fn tags_and_policies_keep_checkpoints() {
    let made = [3, 7, 12, 16, 20, 24];
    let (double, bus, digests) = world(&made);
    let mut batch = Batch::new();
    batch.tag("a", Some(9), false);
    batch.tag("b", Some(12), false);
    batch.tag("empty", Some(0), false);
    bus.commit(&mut batch, None, &how(31)).unwrap();
    let told = |keep: Keep| {
        let report = bus.prune(&Keep { dry_run: true, ..keep }).unwrap();
        let gone = report.files.iter().filter_map(|(path, _)| {
            let stem = path.extension().is_some_and(|e| e == "ckpt").then(|| path.file_stem());
            u64::from_str_radix(stem??.to_str()?, 16).ok()
        });
        (gone.collect::<Vec<_>>(), report)
    };
    let (gone, report) = told(since(21));
    assert_eq!((gone, report.oldest), (vec![3, 7, 16], 0));
    assert_eq!(report.checkpoints, [0, 9]);
    assert_eq!(report.let_go, [(1, 9), (10, 12), (13, 20)]);
    let (gone, _) = told(Keep { checkpoints: Some(2), ..since(21) });
    assert_eq!(gone, [3]);
    let (gone, _) = told(Keep { checkpoints: Some(99), ..since(21) });
    assert_eq!(gone, [0; 0]);
    // 0 and 10 have 7 at most, 5 has 3, 15 has 7 again (12 is a tag's), 20 is the base.
    let (gone, _) = told(Keep { every: Some(10), ..since(21) });
    assert_eq!(gone, [3, 16]);
    let (gone, _) = told(Keep { every: Some(5), ..since(21) });
    assert_eq!(gone, [16]);
    let (gone, _) = told(Keep { every: Some(u64::MAX), ..since(21) });
    assert_eq!(gone, [3, 7, 16]);
    let (gone, report) = told(Keep::default());
    assert_eq!((gone.len(), report.files.len(), report.let_go.len()), (0, 0, 0));
    let report = prune(&double, &bus, Keep { every: Some(10), ..since(21) });
    assert_eq!(report.let_go, [(1, 7), (8, 9), (10, 12), (13, 20)]);
    let kept = [0, 7, 9, 12];
    check(&bus, &digests, |epoch| epoch >= 20 || kept.contains(&epoch));
    // Without the tags what they kept goes, and nothing else.
    let mut batch = Batch::new();
    ["a", "b", "empty"].iter().for_each(|tag| batch.untag(tag));
    bus.commit(&mut batch, None, &how(32)).unwrap();
    let report = prune(&double, &bus, Keep { every: Some(10), ..Keep::default() });
    assert_eq!(report.let_go, [(7, 8), (12, 13)]);
    check(&bus, &digests, |epoch| epoch >= 20 || epoch == 9 || epoch == 0);
    // One that was let go is not brought back by its name.
    batch.clear();
    batch.tag("late", Some(4), false);
    bus.commit(&mut batch, None, &how(33)).unwrap();
    let report = prune(&double, &bus, Keep { checkpoints: Some(0), ..Keep::default() });
    assert_eq!((report.let_go, report.oldest), (vec![(0, 1), (9, 10)], 20));
}

#[test]
fn what_is_refused() {
    let (double, bus, _) = world(&[5]);
    assert_eq!(bus.prune(&since(31)).unwrap_err().code, Code::EpochNotFound);
    assert_eq!(bus.prune(&since(u64::MAX)).unwrap_err().code, Code::EpochNotFound);
    let keep = Keep { every: Some(0), ..Keep::default() };
    assert_eq!(bus.prune(&keep).unwrap_err().code, Code::Argument);
    let told = bus.backup_on(&RamVfs::new(), Path::new("/copy"), &mut |_, _| {
        assert_eq!(bus.prune(&since(9)).unwrap_err().code, Code::Argument);
        bus.prune(&Keep { dry_run: true, ..since(9) }).unwrap();
    });
    told.unwrap();
    prune(&double, &bus, since(9));
    bus.close().unwrap();
    assert_eq!(bus.prune(&since(9)).unwrap_err().code, Code::Closed);
    let reader = open(&double, Mode::Read).unwrap();
    assert_eq!(reader.prune(&since(9)).unwrap_err().code, Code::ReadOnly);
    let memory = Bus::memory(&options()).unwrap();
    assert_eq!(memory.prune(&Keep::default()).unwrap_err().code, Code::Argument);
}

/// Each call of a pruning fails once. What opens then has all that was to stay, and of the rest what it shows is right.
#[test]
fn every_call_fails() {
    for errno in [EIO, ENOSPC] {
        for nth in 1.. {
            let (double, bus, digests) = world(&[5, 12]);
            let mut batch = Batch::new();
            batch.tag("a", Some(9), false);
            bus.commit(&mut batch, None, &how(31)).unwrap();
            let keep = since(15);
            let report = bus.prune(&Keep { dry_run: true, ..keep }).unwrap();
            double.calls();
            double.fail_once(nth, errno);
            let done = bus.prune(&keep);
            double.heal();
            let calls = double.calls();
            if calls.len() < nth {
                assert_eq!(done.unwrap(), report);
                assert!(nth > 20);
                break;
            }
            let failed = &calls[nth - 1];
            if let Err(error) = &done {
                let codes = [Code::Storage, Code::OutOfSpace, Code::CommitOutcomeUnknown];
                assert!(codes.contains(&error.code), "{failed}: {:?} {error}", error.code);
            }
            let is_temp = |call: &Call| call.path.to_string_lossy().contains(".tmp-");
            // Nothing goes after a slot that may not be durable.
            let synced = calls
                .iter()
                .filter(|c| c.what == "sync" && c.path.parent() == Some(Path::new(DIR)));
            if done.is_err() && synced.count() < 4 {
                assert!(
                    calls.iter().all(|call| call.what != "unlink" || is_temp(call)),
                    "{failed}"
                );
            }
            let _ = bus.close();
            drop(bus);
            let bus = open(&double, Mode::ReadWrite).unwrap();
            for epoch in 0..=30 {
                match bus.snapshot_at(epoch) {
                    Ok(at) => assert_eq!(at.digest().unwrap(), digests[epoch as usize]),
                    Err(error) => {
                        assert_eq!(error.code, Code::EpochNotFound, "{failed}");
                        assert!(epoch < 12 && epoch != 9, "epoch {epoch} after {failed}");
                    }
                }
            }
            assert!(bus.verify(&mut |_, _| {}).unwrap().problems.is_empty(), "{failed}");
            let base = bus.inner().store.base().unwrap();
            let (_, left) = log::list_both(&double, Path::new(DIR), base.seq).unwrap();
            assert_eq!(left, [], "{failed}");
            assert_eq!(bus.prune(&keep).unwrap().oldest, 9);
            check(&bus, &digests, |epoch| epoch >= 12 || epoch == 9);
        }
    }
}

/// The checkpoint that the log begins with is damaged or gone: an error that names it, and never another state.
#[test]
fn a_base_that_is_gone() {
    let (double, bus, digests) = world(&[5, 12, 20]);
    prune(&double, &bus, Keep { checkpoints: Some(1), ..since(15) });
    bus.close().unwrap();
    let file = |epoch| checkpoint::path(Path::new(DIR), epoch);
    let sound: Vec<_> = [5, 12, 20].map(|epoch| contents(&double, &file(epoch))).into();
    let spoil = |epoch, at: usize| {
        let mut bytes = contents(&double, &file(epoch));
        bytes[at] ^= 1;
        put(&double, &file(epoch), &bytes);
    };
    // With a later one it opens; what only the base leads to does not.
    spoil(12, 4200);
    let bus = open(&double, Mode::ReadWrite).unwrap();
    for epoch in 12..20 {
        // Its bytes are damaged, which whoever looks at them meets.
        let error = bus.snapshot_at(epoch).and_then(|at| at.view(1)).unwrap_err();
        assert_eq!((error.code, error.detail.file), (Code::Corruption, Some(file(12))));
        let error = bus.snapshot_at(epoch).and_then(|at| at.digest()).unwrap_err();
        assert_eq!((error.code, error.detail.file), (Code::Corruption, Some(file(12))));
    }
    for epoch in (20..=30).chain([5]) {
        assert_eq!(bus.snapshot_at(epoch).unwrap().digest().unwrap(), digests[epoch as usize]);
    }
    assert_eq!(bus.verify(&mut |_, _| {}).unwrap().problems.len(), 1);
    let error = bus.backup_on(&RamVfs::new(), Path::new("/copy"), &mut |_, _| {}).unwrap_err();
    assert_eq!((error.code, error.detail.file), (Code::Corruption, Some(file(12))));
    bus.close().unwrap();
    double.unlink(&file(12)).unwrap();
    let bus = open(&double, Mode::ReadWrite).unwrap();
    let error = bus.snapshot_at(12).unwrap_err();
    assert_eq!((error.code, error.detail.file), (Code::Corruption, Some(file(12))));
    let problems = bus.verify(&mut |_, _| {}).unwrap().problems;
    assert_eq!((problems.len(), &problems[0].detail.file), (1, &Some(file(12))));
    let error = bus.backup_on(&RamVfs::new(), Path::new("/copy"), &mut |_, _| {}).unwrap_err();
    assert_eq!(error.code, Code::Corruption);
    bus.close().unwrap();
    // Without any it does not open at all, though an older one is sound.
    spoil(20, 70);
    for mode in [Mode::Read, Mode::ReadWrite] {
        let error = open(&double, mode).unwrap_err();
        assert_eq!((error.code, error.detail.file), (Code::Corruption, Some(file(20))));
    }
    double.unlink(&file(20)).unwrap();
    let error = open(&double, Mode::ReadWrite).unwrap_err();
    assert_eq!((error.code, error.detail.file), (Code::Corruption, Some(file(12))));
    for (epoch, bytes) in [5, 12, 20].into_iter().zip(&sound) {
        put(&double, &file(epoch), bytes);
    }
    check(&open(&double, Mode::Read).unwrap(), &digests, |epoch| epoch >= 12 || epoch == 5);
}

/// Any one slot will do; slots of before the pruning are an error.
#[test]
fn slots_after_a_pruning() {
    let (double, bus, digests) = world(&[5, 12, 20]);
    let slots = ["/s/meta-0", "/s/meta-1"].map(Path::new);
    let old = slots.map(|slot| contents(&double, slot));
    prune(&double, &bus, since(15));
    bus.close().unwrap();
    let new = slots.map(|slot| contents(&double, slot));
    for lost in [0, 1] {
        put(&double, slots[lost], b"");
        check(&open(&double, Mode::Read).unwrap(), &digests, |epoch| epoch >= 12);
        put(&double, slots[1 - lost], &old[1 - lost]);
        for mode in [Mode::Read, Mode::ReadWrite] {
            assert_eq!(open(&double, mode).unwrap_err().code, Code::Corruption);
        }
        slots.iter().zip(&new).for_each(|(slot, bytes)| put(&double, slot, bytes));
    }
    check(&open(&double, Mode::ReadWrite).unwrap(), &digests, |epoch| epoch >= 12);
    // A segment that comes back means nothing, whatever it holds, and goes.
    let left = Path::new("/s/log/0000000000000001-0000000000000003.mlog");
    put(&double, left, b"anything");
    put(&double, Path::new("/s/log/0000000000000000-0000000000000001.mlog"), b"");
    let reader = open(&double, Mode::Read).unwrap();
    assert!(reader.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    assert!(double.exists(left).unwrap());
    check(&open(&double, Mode::ReadWrite).unwrap(), &digests, |epoch| epoch >= 12);
    assert!(!double.exists(left).unwrap());
    // One that is needed is missed.
    let names = log::list(&double, Path::new(DIR)).unwrap();
    double.unlink(&Path::new("/s/log").join(names[0].file())).unwrap();
    for mode in [Mode::Read, Mode::ReadWrite] {
        assert_eq!(open(&double, mode).unwrap_err().code, Code::Corruption);
    }
}

#[test]
fn thinning_leaves_what_the_log_begins_with() {
    let (double, bus, digests) = world(&[]);
    for epoch in 31..=70 {
        commit(&bus, epoch);
        bus.checkpoint_unasked().unwrap();
        if epoch == 35 {
            let keep = Keep { checkpoints: Some(1), ..since(34) };
            assert_eq!(prune(&double, &bus, keep).oldest, 33);
        }
    }
    let known = checkpoints(&double);
    assert_eq!(known[..2], [33, 34]);
    assert!(known.len() < 15);
    assert!(bus.snapshot_at(30).is_err());
    assert_eq!(bus.snapshot_at(70).unwrap().epoch(), 70);
    assert_eq!(digests.len(), 31);
}

/// A damaged checkpoint is passed over for an older one, and is not believed to keep a tag.
#[test]
fn a_damaged_checkpoint_is_no_base() {
    let (double, bus, digests) = world(&[5, 12, 20]);
    let path = checkpoint::path(Path::new(DIR), 20);
    let mut bytes = contents(&double, &path);
    bytes[4500] ^= 1;
    put(&double, &path, &bytes);
    let mut batch = Batch::new();
    batch.tag("a", Some(20), false);
    bus.commit(&mut batch, None, &how(31)).unwrap();
    assert_eq!(prune(&double, &bus, since(25)).oldest, 12);
    check(&bus, &digests, |epoch| epoch >= 12);
    bus.checkpoint().unwrap();
    let report = prune(&double, &bus, since(31));
    assert_eq!((report.oldest, report.checkpoints), (20, vec![20]));
    check(&bus, &digests, |epoch| epoch == 20);
}

/// One of a copy that lived on has the name and the number, and another state than the log says.
#[test]
fn a_checkpoint_of_another_state_is_no_base() {
    let (double, bus, digests) = world(&[5, 12]);
    let other = Double::new(Arc::new(RamVfs::new()));
    let twin = Bus::create_on(other.vfs(), Path::new(DIR), &options()).unwrap();
    (1..=12).for_each(|epoch| _ = commit(&twin, epoch));
    twin.write(1, 0, b"other", &how(13)).unwrap();
    let uuid = twin.inner().store.uuid;
    assert_eq!(uuid, bus.inner().store.uuid);
    let fork = twin.snapshot_at(11).unwrap();
    let fork = twin.fork(&fork).unwrap();
    fork.write(1, 0, b"another", &how(12)).unwrap();
    let path = checkpoint::path(Path::new(DIR), 12);
    checkpoint::write(&other, Path::new(DIR), uuid, &fork.snapshot().unwrap(), Making::default())
        .unwrap();
    drop(checkpoint::install(&other, Path::new(DIR), 12).unwrap());
    put(&double, &path, &contents(&other, &path));
    assert_eq!(prune(&double, &bus, since(15)).oldest, 5);
    bus.snapshot_at(5).unwrap();
    assert_eq!(bus.snapshot_at(11).unwrap().digest().unwrap(), digests[11]);
}

/// A copy of a pruned store has the same past, and goes on.
#[test]
fn a_copy_of_a_pruned_store() {
    let (double, bus, digests) = world(&[5, 12, 20]);
    prune(&double, &bus, Keep { checkpoints: Some(1), ..since(15) });
    bus.backup_on(&double, Path::new("/copy"), &mut |_, _| {}).unwrap();
    for mode in [Mode::Read, Mode::ReadWrite] {
        let copy = Bus::open_on(double.vfs(), Path::new("/copy"), mode, &options(), &mut |_, _| {});
        let copy = copy.unwrap();
        check(&copy, &digests, |epoch| epoch >= 12 || epoch == 5);
        assert!(copy.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    }
    // A reader that stays where the log was let go has what it shows, and no more.
    let reader = open(&double, Mode::Read).unwrap();
    commit(&bus, 31);
    bus.checkpoint().unwrap();
    assert_eq!(prune(&double, &bus, since(31)).oldest, 31);
    assert_eq!(reader.snapshot().unwrap().digest().unwrap(), digests[reader.epoch() as usize]);
    assert_eq!(reader.snapshot_at(20).unwrap_err().code, Code::EpochNotFound);
    assert_eq!(reader.log(0, 99, false).unwrap().count(), 0);
    let refused = reader.backup_on(&double, Path::new("/late"), &mut |_, _| {}).unwrap_err();
    assert_eq!(refused.code, Code::EpochNotFound);
}

/// A walk that was begun before says that its epochs were let go.
#[test]
fn a_log_that_is_read_meanwhile() {
    let (double, bus, _) = world(&[]);
    let mut walk = bus.log(0, 99, false).unwrap();
    assert_eq!(walk.next().unwrap().unwrap().epoch(), 1);
    let wanted = crate::Wanted { page: Some(1), ..crate::Wanted::default() };
    let mut query = bus.log_of(&wanted, 0, 99, false).unwrap();
    assert_eq!(query.next().unwrap().unwrap().epoch(), 1);
    prune(&double, &bus, since(25));
    for iter in [&mut walk, &mut query] {
        let error = iter.find_map(std::result::Result::err).unwrap();
        assert_eq!(error.code, Code::EpochNotFound, "{error}");
    }
}

/// A past epoch that was opened before stays, whatever of it was looked at by then: its files are held open. Indexes lead
/// to its pages, lead astray, or are not there.
#[test]
fn what_is_open_stays() {
    for spoilt in [false, true] {
        for indexed in [true, false] {
            let (double, bus, digests) = world(&[5, 12, 20]);
            let pages: Vec<Vec<u8>> = (0..=30)
                .scan(vec![0; 900], |page, epoch: usize| {
                    if epoch > 0 {
                        page[epoch..epoch + 600].fill(epoch as u8);
                    }
                    Some(page.clone())
                })
                .collect();
            let index = Path::new(DIR).join("index");
            let files = |double: &Double| -> Vec<PathBuf> {
                let names = double.list(&index).unwrap_or_default();
                names.into_iter().map(|name| index.join(name)).collect()
            };
            bus.log_of(&crate::Wanted { page: Some(1), ..crate::Wanted::default() }, 0, 99, false)
                .unwrap()
                .for_each(|commit| _ = commit.unwrap());
            assert!(files(&double).len() > 3);
            for file in files(&double) {
                let mut bytes = contents(&double, &file);
                if spoilt {
                    *bytes.last_mut().unwrap() ^= 1;
                }
                double.unlink(&file).unwrap();
                if indexed {
                    put(&double, &file, &bytes);
                }
            }
            let reader = open(&double, Mode::Read).unwrap();
            let mut kept: Vec<Snapshot> =
                (0..=30).map(|epoch| reader.snapshot_at(epoch).unwrap()).collect();
            kept.extend((0..30).map(|epoch| bus.snapshot_at(epoch).unwrap()));
            commit(&bus, 31);
            bus.checkpoint().unwrap();
            assert_eq!(prune(&double, &bus, since(31)).oldest, 31);
            for (n, at) in kept.iter().enumerate() {
                let epoch = at.epoch() as usize;
                if n % 2 == 0 {
                    assert_eq!(at.digest().unwrap(), digests[epoch], "epoch {epoch}");
                }
                match epoch {
                    0 => assert_eq!(at.view(1).unwrap_err().code, Code::PageNotFound),
                    _ => assert!(at.view(1).unwrap().bytes() == pages[epoch], "epoch {epoch}"),
                }
                assert_eq!(at.digest().unwrap(), digests[epoch], "epoch {epoch}");
                let again = if n <= 30 && epoch == 30 { continue } else { epoch as u64 };
                let host = if n <= 30 { &reader } else { &bus };
                assert_eq!(host.snapshot_at(again).unwrap_err().code, Code::EpochNotFound);
            }
        }
    }
}
