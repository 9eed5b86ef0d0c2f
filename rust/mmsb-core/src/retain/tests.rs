//! What a bus in memory lets go and keeps, beside a list of the states that there were.

use std::path::Path;

use super::*;
use crate::delta::{Batch, NewPage};
use crate::open::Options;
use crate::sequence::How;
use crate::vfs::RamVfs;
use crate::{Keep, Mode};

const LEN: u64 = 5000;
/// Segments of a few commits.
const SEGMENT: u64 = 16 << 10;

fn options() -> Options {
    Options { segment_bytes: Some(SEGMENT), max_memory: Some(32 << 20), ..Options::default() }
}

/// A bus in memory with one page.
fn bus() -> Bus {
    let bus = Bus::memory(&options()).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[LEN]));
    bus.commit(&mut batch, None, &how(1)).unwrap();
    bus
}

fn how(epoch: u64) -> How<'static> {
    How { time: Some(epoch), wait: true, ..How::default() }
}

/// Fills the page with the number of each epoch up to `last`.
fn fill(bus: &Bus, last: u64) {
    for epoch in bus.epoch() + 1..=last {
        assert_eq!(
            bus.write(1, 0, &[epoch as u8; LEN as usize], &how(epoch)).unwrap().epoch,
            epoch
        );
    }
}

fn tag(bus: &Bus, name: &str, epoch: u64) {
    let mut batch = Batch::new();
    batch.tag(name, Some(epoch), true);
    bus.commit(&mut batch, None, &how(bus.epoch() + 1)).unwrap();
}

/// Whether an epoch opens; what it shows must be what was written.
fn opens(bus: &Bus, epoch: u64) -> bool {
    let checked = bus.check_epoch(epoch);
    let cost = bus.cost(epoch);
    match bus.snapshot_at(epoch) {
        Ok(snapshot) => {
            let want = if epoch == 1 { 0 } else { epoch as u8 };
            assert_eq!(snapshot.view(1).unwrap().bytes(), [want; LEN as usize]);
            checked.unwrap();
            let cost = cost.unwrap();
            assert!(cost.records <= bus.epoch() && cost.checkpoint.is_none());
            true
        }
        Err(error) => {
            assert_eq!(error.code, Code::EpochNotFound);
            assert_eq!(error.message, checked.unwrap_err().message);
            assert_eq!(error.message, cost.unwrap_err().message);
            assert!(error.message.contains("was let go (bus.retain)"), "{error}");
            false
        }
    }
}

fn log_bytes(bus: &Bus) -> u64 {
    bus.stats().unwrap().iter().find(|(name, _)| *name == "log_bytes").unwrap().1
}

#[test]
fn the_log_of_a_bus_in_memory_stays_short() {
    let bus = bus();
    fill(&bus, 50);
    assert!((1..=50).all(|epoch| opens(&bus, epoch)), "everything, unless asked for less");
    bus.retain(Some(Retention::Epochs(5))).unwrap();
    fill(&bus, 53);
    let first = (1..=53).find(|&epoch| opens(&bus, epoch)).unwrap();
    assert_eq!(first, 50, "whole segments of what was there go at once");
    for last in 54..120 {
        fill(&bus, last);
        let first = (1..=last).find(|&epoch| opens(&bus, epoch)).unwrap();
        assert!((first..=last).all(|epoch| opens(&bus, epoch)));
        assert!(first <= last - 4 && first + 12 >= last, "{first} of {last}");
        let in_window =
            (1..=last).filter(|&epoch| bus.cost(epoch).is_ok_and(|cost| cost == Cost::default()));
        let in_window: Vec<u64> = in_window.collect();
        assert_eq!(
            in_window[in_window.len() - 5.min(in_window.len())..],
            (last - 4..=last).collect::<Vec<_>>()[..]
        );
        assert!(log_bytes(&bus) <= 4 * SEGMENT, "{}", log_bytes(&bus));
        for reverse in [false, true] {
            let log = bus.log(0, u64::MAX, reverse).unwrap();
            let mut log: Vec<u64> = log.map(|entry| entry.unwrap().epoch()).collect();
            if reverse {
                log.reverse();
            }
            assert_eq!(log, (first + 1..=last).collect::<Vec<_>>());
        }
    }
    assert!(bus.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    // Off: from here on nothing goes.
    let first = (1..=119).find(|&epoch| opens(&bus, epoch)).unwrap();
    bus.retain(None).unwrap();
    fill(&bus, 150);
    assert!((1..=150).all(|epoch| opens(&bus, epoch) == (epoch >= first)));
}

/// What is left of the log begins with the segment that has the commit behind the window's first epoch.
#[test]
fn no_segment_too_much_is_kept() {
    let bus = bus();
    bus.retain(Some(Retention::Epochs(2))).unwrap();
    let mut rolled = 0;
    for last in 2..=40 {
        fill(&bus, last);
        let store = bus.store();
        let names = log::list(&*store.vfs, &store.dir).unwrap();
        let [name] = names[..] else { panic!("{last}: {names:?}") };
        assert!(name.first_epoch <= last);
        rolled += u32::from(name.first_epoch == last);
    }
    assert!(rolled > 9, "{rolled}");
}

/// As long as a copy is made nothing goes; the first commit behind it catches up.
#[test]
fn nothing_goes_while_a_copy_is_made() {
    let bus = bus();
    fill(&bus, 20);
    bus.retain(Some(Retention::Epochs(2))).unwrap();
    fill(&bus, 30);
    let begins = || {
        let store = bus.store();
        log::list(&*store.vfs, &store.dir).unwrap()[0].first_epoch
    };
    let first = begins();
    let vfs: std::sync::Arc<dyn crate::vfs::Vfs> = std::sync::Arc::new(RamVfs::new());
    let mut told = 0;
    let mut progress = |_, _| {
        told += 1;
        fill(&bus, 30 + 10 * told);
        assert_eq!(begins(), first);
    };
    bus.backup_on(&*vfs, Path::new("/copy"), &mut progress).unwrap();
    assert!(told > 0);
    fill(&bus, bus.epoch() + 1);
    assert!(begins() >= bus.epoch() - 4, "{}", begins());
    let at = Path::new("/copy");
    let copy = Bus::open_on(vfs.clone(), at, Mode::Read, &options(), &mut |_, _| {}).unwrap();
    assert_eq!(copy.snapshot_at(30).unwrap().view(1).unwrap().bytes(), [30; LEN as usize]);
}

/// A tag cannot bring back what is gone, nor does it keep the rest from going.
#[test]
fn a_tag_of_an_epoch_that_is_gone() {
    let bus = bus();
    fill(&bus, 20);
    bus.retain(Some(Retention::Epochs(2))).unwrap();
    fill(&bus, 30);
    tag(&bus, "gone", 7);
    fill(&bus, 80);
    assert!(log_bytes(&bus) <= 4 * SEGMENT, "{}", log_bytes(&bus));
    assert!(!opens(&bus, 7) && !opens(&bus, 30) && opens(&bus, 79));
}

#[test]
fn tagged_epochs_snapshots_and_forks_stay() {
    let bus = bus();
    fill(&bus, 30);
    tag(&bus, "early", 7);
    tag(&bus, "later", 20);
    let kept = bus.snapshot_at(11).unwrap();
    let fork = bus.fork(&bus.snapshot_at(25).unwrap()).unwrap();
    bus.retain(Some(Retention::Epochs(2))).unwrap();
    fill(&bus, 60);
    tag(&bus, "new", 60);
    fill(&bus, 100);
    let open: Vec<u64> = (0..90)
        .filter(|&epoch| epoch != 31 && epoch != 32 && epoch != 61 && opens(&bus, epoch))
        .collect();
    assert_eq!(open, [7, 20, 60]);
    assert_eq!(kept.view(1).unwrap().bytes(), [11; LEN as usize]);
    assert_eq!(fork.snapshot().unwrap().view(1).unwrap().bytes(), [25; LEN as usize]);
    // A fork has a window of its own; its parent's history is not its own.
    fork.retain(Some(Retention::Epochs(2))).unwrap();
    fill(&fork, 60);
    let free = (25..=60).filter(|&epoch| fork.cost(epoch).unwrap() == Cost::default());
    assert_eq!(free.collect::<Vec<_>>(), [25, 59, 60]);
    assert!((25..=60).all(|epoch| opens(&fork, epoch)));
    assert_eq!(fork.snapshot_at(24).unwrap_err().code, Code::EpochNotFound);
    // Without its tag an epoch goes with the next that goes.
    let mut batch = Batch::new();
    batch.untag("early");
    bus.commit(&mut batch, None, &how(bus.epoch() + 1)).unwrap();
    fill(&bus, 140);
    assert_eq!((opens(&bus, 7), opens(&bus, 20)), (false, true));
    bus.restore(&bus.snapshot_at(20).unwrap(), &how(141)).unwrap();
    assert_eq!(bus.view(1).unwrap().bytes(), [20; LEN as usize]);
}

#[test]
fn a_copy_has_what_was_kept() {
    let bus = bus();
    fill(&bus, 30);
    tag(&bus, "early", 7);
    bus.retain(Some(Retention::Nanoseconds(3))).unwrap();
    fill(&bus, 90);
    let first = (30..=90).find(|&epoch| epoch != 31 && opens(&bus, epoch)).unwrap();
    let vfs: std::sync::Arc<dyn crate::vfs::Vfs> = std::sync::Arc::new(RamVfs::new());
    bus.backup_on(&*vfs, Path::new("/copy"), &mut |_, _| {}).unwrap();
    for mode in [Mode::Read, Mode::ReadWrite] {
        let copy = Bus::open_on(vfs.clone(), Path::new("/copy"), mode, &options(), &mut |_, _| {});
        let copy = copy.unwrap();
        for epoch in (0..=90).filter(|&epoch| epoch != 31) {
            let want = epoch == 7 || epoch >= first;
            match copy.snapshot_at(epoch) {
                Ok(shown) => {
                    assert!(want, "{epoch}");
                    assert_eq!(
                        shown.digest().unwrap(),
                        bus.snapshot_at(epoch).unwrap().digest().unwrap()
                    );
                }
                Err(error) => assert_eq!((error.code, want), (Code::EpochNotFound, false)),
            }
        }
        assert!(copy.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    }
}

#[test]
fn a_bus_in_a_directory_loses_nothing() {
    let vfs = std::sync::Arc::new(RamVfs::new());
    let bus = Bus::create_on(vfs, Path::new("/bus"), &options()).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[LEN]));
    bus.commit(&mut batch, None, &how(1)).unwrap();
    bus.retain(Some(Retention::Epochs(4))).unwrap();
    fill(&bus, 40);
    assert!((1..=40).all(|epoch| opens(&bus, epoch)));
    let free = (1..=40).filter(|&epoch| bus.cost(epoch).unwrap() == Cost::default());
    assert_eq!(free.collect::<Vec<_>>(), [37, 38, 39, 40]);
    // What is pruned on disk may be in memory still.
    bus.prune(&Keep { log_since: Some(39), ..Keep::default() }).unwrap();
    assert_eq!(bus.snapshot_at(36).unwrap_err().code, Code::EpochNotFound);
    assert_eq!(bus.snapshot_at(37).unwrap().view(1).unwrap().bytes(), [37; LEN as usize]);
}

#[test]
fn what_is_refused() {
    let bus = bus();
    let error = bus.retain(Some(Retention::Epochs(0))).unwrap_err();
    assert_eq!(error.code, Code::Argument);
    bus.close().unwrap();
    assert_eq!(bus.retain(None).unwrap_err().code, Code::Closed);
}
