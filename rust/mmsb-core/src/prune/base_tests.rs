//! Where the log begins after a pruning, what the checkpoint there stands on, and how files go.

use std::sync::Arc;

use super::tests::*;
use super::*;
use crate::delta::{Batch, NewPage};
use crate::log::double::Double;
use crate::sequence::How;
use crate::vfs::{RamVfs, Vfs};
use crate::{Mode, Wanted};

/// Segments that the base does not need go when a base is chosen, not when nothing is to be let go.
#[test]
fn a_base_that_stays_where_it_is() {
    let (double, bus, _) = world(&[]);
    // The empty state needs no checkpoint.
    assert_eq!(prune(&double, &bus, since(0)), PruneReport::default());
    bus.checkpoint().unwrap();
    assert_eq!(prune(&double, &bus, since(30)).oldest, 30);
    // The next commit fits only into a segment of its own.
    let meta = format!("\"{}\"", "m".repeat(4000));
    let how = How { meta: Some(&meta), ..how(31) };
    bus.write(1, 0, b"next", &how).unwrap();
    let names = || log::list(&double, Path::new(DIR)).unwrap();
    let first = |name: &SegmentName| name.first_epoch;
    let before = names();
    assert!(before.len() == 2 && first(&before[0]) <= 30, "{before:?}");
    assert_eq!(first(&before[1]), 31);
    for keep in [Keep::default(), since(30), since(7)] {
        let report = prune(&double, &bus, keep);
        assert_eq!(report, PruneReport { oldest: 30, ..PruneReport::default() });
        assert_eq!(names(), before);
    }
}

/// The one checkpoint before the base is what that of the base stands on.
#[test]
fn what_the_base_stands_on_stays() {
    let vfs = Arc::new(RamVfs::new());
    let options = crate::Options { segment_bytes: None, ..options() };
    let bus = Bus::create_on(vfs.clone(), Path::new(DIR), &options).unwrap();
    let bytes: Vec<u8> = (0..200_000u32).map(|n| (n / 7) as u8).collect();
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[200_000]));
    batch.write(1, 0, &bytes);
    bus.commit(&mut batch, None, &how(1)).unwrap();
    bus.checkpoint().unwrap();
    bus.write(1, 0, b"second", &how(2)).unwrap();
    bus.checkpoint().unwrap();
    assert_eq!(checkpoint::base(&*vfs, Path::new(DIR), 2).unwrap(), Some(1));
    let report = bus.prune(&since(2)).unwrap();
    let want = PruneReport { oldest: 1, let_go: vec![(0, 1)], ..PruneReport::default() };
    assert_eq!(report, want);
    for (epoch, start) in [(1, &bytes[..6]), (2, b"second")] {
        let at = bus.snapshot_at(epoch).unwrap();
        assert_eq!(at.view(1).unwrap().bytes(), [start, &bytes[6..]].concat());
    }
}

/// A checkpoint of the empty state saves nothing: the log could begin as it does.
#[test]
fn the_empty_state_is_no_base() {
    let double = Double::new(Arc::new(RamVfs::new()));
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &options()).unwrap();
    assert_eq!(bus.checkpoint().unwrap(), 0);
    let digests: Vec<u128> = (1..=6).map(|epoch| commit(&bus, epoch)).collect();
    let report = prune(&double, &bus, since(5));
    assert_eq!((report.oldest, report.checkpoints, report.let_go), (5, vec![5], vec![(0, 5)]));
    assert_eq!(checkpoints(&double), [5]);
    assert_eq!(bus.snapshot_at(5).unwrap().digest().unwrap(), digests[4]);
}

/// Whether a checkpoint is of the right state cannot be told from a damaged log: nothing goes.
#[test]
fn a_log_that_is_damaged() {
    let (double, bus, _) = world(&[5, 12, 20]);
    let names = log::list(&double, Path::new(DIR)).unwrap();
    let name = names.iter().rfind(|name| name.first_epoch <= 12).unwrap();
    let path = log::log_dir(Path::new(DIR)).join(name.file());
    let mut bytes = contents(&double, &path);
    bytes[50] ^= 1;
    put(&double, &path, &bytes);
    double.calls();
    let error = bus.prune(&since(15)).unwrap_err();
    assert_eq!((error.code, error.detail.file), (Code::Corruption, Some(path)));
    assert_eq!(double.changes(), [""; 0]);
}

#[test]
fn ranges_that_meet_are_one() {
    let kept = BTreeSet::from([4, 6, 12, 13, 25]);
    let ranges = let_go(10, 20, &[2, 3, 5, 7, 9, 11], &kept);
    assert_eq!(ranges, [(2, 4), (5, 6), (7, 8), (9, 12), (14, 20)]);
    assert_eq!(let_go(10, 10, &[], &kept), []);
    assert_eq!(let_go(12, 13, &[], &kept), []);
}

/// A bus with indexes of its segments, and what a pruning of it would let go.
fn indexed() -> (Double, Bus, PruneReport) {
    let (double, bus, _) = world(&[5, 12, 20]);
    let wanted = Wanted { page: Some(1), ..Wanted::default() };
    let found = bus.log_of(&wanted, 0, 99, false).unwrap();
    assert_eq!(found.map(|commit| commit.unwrap().epoch()).last(), Some(30));
    let report = bus.prune(&Keep { dry_run: true, ..since(15) }).unwrap();
    double.calls();
    (double, bus, report)
}

/// The files of a report that lie in a directory of the store.
fn within(report: &PruneReport, dir: &str) -> Vec<(PathBuf, u64)> {
    let dir = Path::new(DIR).join(dir);
    report.files.iter().filter(|(path, _)| path.parent() == Some(&dir)).cloned().collect()
}

#[test]
fn files_go_in_order_and_the_log_is_as_much_shorter() {
    let (double, bus, report) = indexed();
    let log_bytes = || {
        let stats = bus.stats().unwrap();
        stats.iter().find(|(name, _)| *name == "log_bytes").unwrap().1
    };
    let before = log_bytes();
    assert_eq!(bus.prune(&since(15)).unwrap(), report);
    let of = ["log", "index", "checkpoints"].map(|dir| within(&report, dir));
    assert!(of.iter().all(|files| !files.is_empty()));
    let name = |file: &(PathBuf, u64)| file.0.file_name().unwrap().to_string_lossy().into_owned();
    let mut want: Vec<String> =
        of.iter().flatten().map(|file| format!("unlink {}", name(file))).collect();
    want.extend(["sync_dir checkpoints".into(), "sync_dir log".into()]);
    let changes = double.changes();
    let begun = changes.iter().position(|change| change.starts_with("unlink")).unwrap();
    assert_eq!(changes[begun..], want);
    assert_eq!(before - log_bytes(), of[0].iter().map(|file| file.1).sum::<u64>());
}

/// The checkpoint that the log will stand on may be one that a killed host named: its name is durable before a slot says
/// what the log begins with, and where it cannot be the log stays as it is.
#[test]
fn names_are_durable_before_the_base() {
    let (double, bus, report) = indexed();
    let names = |double: &Double| {
        log::list(double, Path::new(DIR)).unwrap().iter().map(|name| name.seq).collect::<Vec<_>>()
    };
    let before = names(&double);
    double.fail(|call| {
        let is_it = call.what == "sync_dir" && call.path.ends_with("checkpoints");
        is_it.then(|| std::io::Error::from_raw_os_error(5))
    });
    assert_eq!(bus.prune(&since(15)).unwrap_err().detail.errno, Some(5));
    double.heal();
    assert_eq!(double.changes(), ["sync_dir checkpoints"]);
    assert_eq!(
        (log::read_meta(&double, Path::new(DIR)).unwrap().base.epoch, names(&double)),
        (0, before)
    );
    // What a sync that failed has left nobody knows; the next host asks anew.
    assert_eq!(bus.prune(&since(15)).unwrap_err().detail.errno, Some(5));
    bus.close().unwrap();
    let bus = open(&double, crate::Mode::ReadWrite).unwrap();
    double.calls();
    assert_eq!(bus.prune(&since(15)).unwrap().files, report.files);
    assert_eq!(double.changes()[0], "sync_dir checkpoints");
}

/// One that nobody finds is gone; one that can't be removed is an error, and goes with the next pruning.
#[test]
fn files_that_cannot_be_removed() {
    for dir in ["log", "index", "checkpoints"] {
        let (double, bus, report) = indexed();
        let file = within(&report, dir)[0].clone();
        let fails = |errno: i32| {
            let path = file.0.clone();
            double.fail(move |call| {
                let hit = call.what == "unlink" && call.path == path;
                hit.then(|| std::io::Error::from_raw_os_error(errno))
            });
            let done = bus.prune(&since(15));
            double.heal();
            done
        };
        let error = fails(EIO).unwrap_err();
        assert_eq!((error.code, error.detail.file.as_ref()), (Code::Storage, Some(&file.0)));
        assert!(error.message.contains("cannot remove"), "{error}");
        let left: Vec<_> =
            report.files.iter().filter(|(path, _)| double.exists(path).unwrap()).collect();
        assert!(left.contains(&&file));
        const ENOENT: i32 = 2;
        let told = fails(ENOENT).unwrap();
        assert_eq!(told.files.iter().collect::<Vec<_>>(), left);
        let still = report.files.iter().filter(|(path, _)| double.exists(path).unwrap());
        assert_eq!(still.collect::<Vec<_>>(), [&file]);
        assert_eq!(bus.prune(&since(15)).unwrap().files, [file]);
        bus.close().unwrap();
        let reader =
            Bus::open_on(double.vfs(), Path::new(DIR), Mode::Read, &options(), &mut |_, _| {});
        assert!(reader.unwrap().verify(&mut |_, _| {}).unwrap().problems.is_empty());
    }
}

/// An index that was made since it was decided what goes, goes too.
#[test]
fn an_index_that_is_made_meanwhile() {
    let (double, bus, report) = indexed();
    let inner = bus.inner();
    let mut planner = Planner { inner, sound: BTreeMap::new(), made: BTreeSet::new() };
    let mut plan = planner.plan(&since(15)).unwrap();
    assert_eq!(plan.report, report);
    let (path, size) = within(&report, "index")[0].clone();
    plan.report.files.retain(|(file, _)| *file != path);
    plan.report.bytes -= size;
    assert!(settle(inner, plan.base, &plan.tagged).unwrap());
    remove(inner, &mut plan, &mut None).unwrap();
    assert_eq!(plan.report, report);
    assert!(report.files.iter().all(|(file, _)| !double.exists(file).unwrap()));
}
