//! What a checkpoint stands on, what comes before its name, and what a failure ends.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::delta::{Batch, NewPage};
use crate::log::double::Double;
use crate::sequence::How;
use crate::trace::tests::captured;
use crate::vfs::{OpenKind, RamVfs, Vfs, write_all_at};
use crate::{Bus, Durability, Keep, Options};

const DIR: &str = "/s";
const EIO: i32 = 5;
const SIZE: usize = 100 << 10;
/// Where the bytes of the first page begin.
const HEADER: u64 = 4096;

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn file(epoch: u64) -> String {
    format!("{DIR}/checkpoints/{epoch:016x}.ckpt")
}

fn bus(options: Options) -> (Double, Bus) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let options = Options { max_memory: Some(64 << 20), seed: Some(3), ..options };
    let bus = Bus::create_on(double.vfs(), dir(), &options).unwrap();
    (double, bus)
}

/// A bus with one page, which is large beside what else a checkpoint has, and with a checkpoint of it.
fn checkpointed() -> (Double, Bus) {
    let (double, bus) = bus(Options::default());
    create(&bus);
    assert_eq!(bus.checkpoint().unwrap(), 1);
    (double, bus)
}

fn create(bus: &Bus) {
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[SIZE as u64]));
    batch.write(1, 0, &(0..SIZE).map(|at| (at % 251) as u8 + 1).collect::<Vec<_>>());
    bus.commit(&mut batch, None, &How { time: Some(1), ..How::default() }).unwrap();
}

/// Commits once more. Returns the epoch.
fn write(bus: &Bus) -> u64 {
    let (mut batch, epoch) = (Batch::new(), bus.epoch() + 1);
    batch.write(1, 0, &epoch.to_le_bytes());
    bus.commit(&mut batch, None, &How { time: Some(epoch), ..How::default() }).unwrap().epoch
}

fn contents(vfs: &dyn Vfs, epoch: u64) -> Vec<u8> {
    crate::vfs::testing::contents(vfs, Path::new(&file(epoch)))
}

fn flip(vfs: &dyn Vfs, epoch: u64, at: u64) {
    let byte = contents(vfs, epoch)[at as usize];
    let file = vfs.open(Path::new(&file(epoch)), OpenKind::ReadWrite).unwrap();
    write_all_at(&*file, at, &[byte ^ 1]).unwrap();
}

fn fail(double: &Double, what: &'static str, path: String) {
    double.fail(move |call| {
        let hit = call.what == what && call.path == Path::new(&path);
        hit.then(|| io::Error::from_raw_os_error(EIO))
    });
}

/// Checkpoints: the epoch or the error's number, and the files of which an event tells that they are damaged.
fn told(bus: &Bus) -> (std::result::Result<u64, Option<i32>>, Vec<String>) {
    let mut done = Ok(0);
    let lines = captured(tracing::Level::WARN, || {
        done = bus.checkpoint().map_err(|error| error.detail.errno);
    });
    let damaged = |line: &String| {
        let (_, rest) = line.split_once("event=\"mmsb.checkpoint.damaged\" file=")?;
        rest.split(' ').next().map(str::to_string)
    };
    (done, lines.iter().filter_map(damaged).collect())
}

#[test]
fn one_with_a_damaged_page_is_made_again_as_it_was() {
    let (double, bus) = checkpointed();
    let sound = contents(&double, 1);
    flip(&double, 1, HEADER + 50_000);
    assert_eq!(told(&bus), (Ok(1), vec![file(1)]));
    assert!(contents(&double, 1) == sound);
}

#[test]
fn one_that_cannot_be_read_stays() {
    let (double, bus) = checkpointed();
    for what in ["open", "read"] {
        double.calls();
        fail(&double, what, file(1));
        let told = told(&bus);
        double.heal();
        assert_eq!(told, (Err(Some(EIO)), vec![]), "{what}");
        assert_eq!(double.changes(), [""; 0], "{what}");
    }
}

/// Its header or its index is damaged, or it is gone: the next one has everything itself.
#[test]
fn nothing_stands_on_what_is_not_sound() {
    type Lose = fn(&Double);
    let ways: [(Lose, bool); 4] = [
        (|double| flip(double, 1, 60), true),
        (|double| flip(double, 1, contents(double, 1).len() as u64 - 1), true),
        (|double| double.unlink(Path::new(&file(1))).unwrap(), true),
        (|_| (), false),
    ];
    for (lose, is_lost) in ways {
        let (double, bus) = checkpointed();
        lose(&double);
        write(&bus);
        let damaged = if is_lost { vec![file(1)] } else { vec![] };
        assert_eq!(told(&bus), (Ok(2), damaged));
        let base = checkpoint::base(&double, dir(), 2).unwrap();
        assert_eq!(base, if is_lost { None } else { Some(1) });
        assert_eq!(contents(&double, 2).len() > SIZE, is_lost);
        let (_, digest) = checkpoint::verify(&double, dir(), 2, bus.store().uuid).unwrap();
        assert_eq!(digest, bus.snapshot().unwrap().digest().unwrap());
    }
}

/// That it cannot be read now says nothing of it: no checkpoint is made, and a later one stands on it.
#[test]
fn a_base_that_cannot_be_read() {
    let (double, bus) = checkpointed();
    write(&bus);
    double.calls();
    fail(&double, "open", file(1));
    let told = told(&bus);
    double.heal();
    assert_eq!(told, (Err(Some(EIO)), vec![]));
    assert_eq!(double.changes(), [""; 0]);
    assert_eq!(bus.checkpoint().unwrap(), 2);
    assert_eq!(checkpoint::base(&double, dir(), 2).unwrap(), Some(1));
}

/// A commit that did not wait for the disk is on it before a checkpoint of it has its name.
#[test]
fn the_log_is_durable_before_the_name() {
    let (double, bus) = bus(Options { durability: Some(Durability::Os), ..Options::default() });
    create(&bus);
    assert_eq!(bus.durable_epoch(), 0);
    double.calls();
    assert_eq!(bus.checkpoint().unwrap(), 1);
    let calls = double.calls();
    let place = |what: &str, dir: &str| {
        let parent = Path::new(DIR).join(dir);
        calls.iter().position(|call| call.what == what && call.path.parent() == Some(&parent))
    };
    let (synced, named) = (place("sync", "log"), place("rename to", "checkpoints"));
    assert!(synced.is_some() && synced < named, "{synced:?} {named:?}");
    assert_eq!(bus.durable_epoch(), 1);
}

/// Whether the name is durable is not known, and the next sync could seem to succeed.
#[test]
fn after_a_failed_sync_of_the_names_none_is_made() {
    let (double, bus) = checkpointed();
    write(&bus);
    fail(&double, "sync_dir", format!("{DIR}/checkpoints"));
    let error = bus.checkpoint().unwrap_err();
    assert_eq!(error.detail.errno, Some(EIO));
    double.heal();
    // Commits go on.
    assert_eq!(write(&bus), 3);
    double.calls();
    let pruned = bus.prune(&Keep { log_since: Some(1), ..Keep::default() });
    for again in [bus.checkpoint().unwrap_err(), pruned.unwrap_err()] {
        assert_eq!((again.message, again.detail.errno), (error.message.clone(), Some(EIO)));
    }
    assert_eq!(double.calls().len(), 0);
    bus.close().unwrap();
    assert_eq!(bus.inner().checkpoint(true).unwrap_err().code, Code::Closed);
}

/// Goes on until it is so; the deadline is only there so that a test ends.
fn until(mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(30), "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Asked for by nobody, one is made when it is due, and then the next; one that fails costs nothing but itself.
#[test]
fn beside_the_commits() {
    let options = Options { checkpoint_every: Some(3), ..Options::default() };
    let (double, bus) = bus(options);
    let list = || checkpoint::list(&double, dir()).unwrap();
    create(&bus);
    write(&bus);
    fail(&double, "create", format!("{DIR}/checkpoints/.tmp-0000000000000003.ckpt"));
    double.calls();
    write(&bus);
    until(|| double.calls().iter().any(|call| call.what == "create"));
    double.heal();
    assert_eq!(list(), [0; 0]);
    // The next is due 3 epochs after the last try.
    assert_eq!((write(&bus), write(&bus)), (4, 5));
    assert_eq!(list(), [0; 0]);
    until(|| {
        let is_made = !list().is_empty();
        if !is_made {
            write(&bus);
        }
        is_made
    });
    let first = list()[0];
    assert!(first >= 6 && checkpoint::is_automatic(&double, dir(), first).unwrap(), "{first}");
    until(|| {
        let next = list().into_iter().find(|&epoch| epoch > first);
        if next.is_none() {
            write(&bus);
        }
        assert!(next.is_none_or(|next| next >= first + 3));
        next.is_some()
    });
    bus.close().unwrap();
    let end = list().pop().unwrap();
    checkpoint::verify(&double, dir(), end, bus.store().uuid).unwrap();
}
