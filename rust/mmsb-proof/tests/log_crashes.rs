//! Power losses, kills and failing calls at every point of a log's life, also during recovery.
//!
//! The law that every image must obey: opening gives the commits up to some epoch that is not before the last one that
//! was acknowledged as durable and not after the last one submitted; the store then lives on.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use mmsb_core::log::{Commit, HEADROOM, Log, LogOptions, OpenMode, lock, open, verify};
use mmsb_core::vfs::Vfs;
use mmsb_core::{Code, Result};
use mmsb_proof::rng::Rng;
use mmsb_proof::sim::{Fault, Plan, SimVfs};

const DIR: &str = "/s";

/// What the caller of the log knows.
#[derive(Debug, Clone, Copy, Default)]
struct Ledger {
    created: bool,
    submitted: u64,
    appended: u64,
    durable: u64,
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 4096 + 700, seed: Some(3), ..LogOptions::default() }
}

fn ops(epoch: u64) -> Vec<u8> {
    (0..20 + epoch * 37 % 300).map(|i| (i * 5 + epoch * 11) as u8).collect()
}

fn append(log: &mut Log, epoch: u64) -> Result<()> {
    let mut buf = vec![0; HEADROOM];
    buf.extend(ops(epoch));
    log.append(epoch, epoch * 10, 0, &mut buf)
}

fn open_writer(vfs: &Arc<dyn Vfs>) -> Result<(Log, u64)> {
    let lock = lock(&**vfs, Path::new(DIR))?;
    let mut seen = 0;
    let mut on = |c: Commit<'_>| {
        seen += 1;
        assert_eq!((c.epoch, c.time), (seen, seen * 10));
        assert_eq!(c.ops, ops(seen));
        Ok(())
    };
    let mode = OpenMode::Writer(lock);
    let (log, _) = open(vfs.clone(), Path::new(DIR), options(), 0, mode, &mut on, &mut |_, _| {})?;
    Ok((log.unwrap(), seen))
}

fn sync(log: &mut Log, ledger: &mut Ledger) -> Result<()> {
    let point = log.sync_point();
    point.sync()?;
    log.synced(&point);
    ledger.durable = point.epoch();
    log.write_meta()
}

/// A life: create, append, sync, mark, close, reopen. What it does next depends on `rng` only.
fn live(vfs: &Arc<dyn Vfs>, rng: &mut Rng, steps: u64, ledger: &mut Ledger) -> Result<()> {
    let mut log = Log::create(vfs.clone(), Path::new(DIR), options())?;
    ledger.created = true;
    for _ in 0..steps {
        match rng.next_u64() % 16 {
            0..9 => {
                ledger.submitted = ledger.appended + 1;
                if let Err(error) = append(&mut log, ledger.submitted) {
                    log.usable()?;
                    // The log says that the commit is not in it and that it goes on.
                    assert!(matches!(error.code, Code::OutOfSpace | Code::Storage));
                    append(&mut log, ledger.submitted)?;
                }
                ledger.appended = ledger.submitted;
            }
            9..12 => sync(&mut log, ledger)?,
            12 => log.append_mark(ledger.appended, 1, 2)?,
            13 | 14 => {}
            _ => {
                if rng.next_u64() & 1 == 1 {
                    log.close()?;
                    ledger.durable = ledger.appended;
                }
                drop(log);
                let (reopened, seen) = open_writer(vfs)?;
                assert_eq!(seen, ledger.appended);
                ledger.durable = seen;
                log = reopened;
            }
        }
    }
    Ok(())
}

/// Opens an image, checks the law, and lets the store live on. True if there was a store.
fn check(image: &SimVfs, at_least: u64, ledger: &Ledger, what: &str) -> bool {
    let vfs: Arc<dyn Vfs> = Arc::new(image.clone());
    let (mut log, seen) = match open_writer(&vfs) {
        Ok(opened) => opened,
        Err(e) if !ledger.created && e.code == Code::BusNotFound => {
            Log::create(vfs, Path::new(DIR), options()).unwrap();
            return false;
        }
        Err(e) => panic!("{what}: {e}"),
    };
    assert!(at_least <= seen && seen <= ledger.submitted, "{what}: {seen} of {ledger:?}");
    assert_eq!(log.durable_epoch(), seen);
    // What a new host shows is durable.
    let (lost, again) = open_writer(&(Arc::new(crash(image, &mut || false)) as _)).unwrap();
    assert_eq!(again, seen, "{what}");
    drop(lost);
    for epoch in seen + 1..=seen + 3 {
        append(&mut log, epoch).unwrap();
    }
    if seen.is_multiple_of(2) {
        log.close().unwrap();
    }
    drop(log);
    let mut problems = Vec::new();
    verify(&*vfs, Path::new(DIR), None, &mut |e| problems.push(e), &mut |_, _| {}).unwrap();
    assert!(problems.is_empty(), "{what}: {problems:?}");
    assert_eq!(open_writer(&vfs).unwrap().1, seen + 3, "{what}");
    true
}

/// Images of what may be left: nothing unsynced, everything, and some.
fn images(vfs: &SimVfs, rng: &mut Rng, count: u64) -> Vec<SimVfs> {
    let mut all = vec![crash(vfs, &mut || false), crash(vfs, &mut || true)];
    all.extend((0..count).map(|_| crash(vfs, &mut || rng.coin())));
    all
}

fn crash(vfs: &SimVfs, keep: &mut dyn FnMut() -> bool) -> SimVfs {
    SimVfs::of(vfs.disk().after_crash(&mut |_| keep()))
}

fn kill(vfs: &SimVfs) -> SimVfs {
    SimVfs::of(vfs.disk().after_kill())
}

fn crashed(seed: u64, steps: u64, at: u64, fault: Fault) -> (SimVfs, Ledger, Result<()>) {
    let sim = SimVfs::new();
    let persistent = fault == Fault::Crash;
    sim.set_plan(Plan { at, fault, persistent, reads: false, reverts: false });
    let mut ledger = Ledger::default();
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let done = live(&vfs, &mut Rng(seed), steps, &mut ledger);
    (sim, ledger, done)
}

#[test]
fn power_loss_at_every_call() {
    let mut rng = Rng(77);
    let mut seen = 0;
    for seed in 0..12 {
        for at in 1.. {
            let (sim, ledger, done) = crashed(seed, 30, at, Fault::Crash);
            if !sim.hit() {
                done.unwrap();
                break;
            }
            for (i, image) in images(&sim, &mut rng, 6).iter().enumerate() {
                check(image, ledger.durable, &ledger, &format!("seed {seed} call {at} image {i}"));
                seen += 1;
            }
            let what = format!("seed {seed} call {at} killed");
            check(&kill(&sim), ledger.appended, &ledger, &what);
        }
    }
    assert!(seen > 5_000, "{seen}");
}

/// The same, with the power lost again at every call of the recovery.
#[test]
fn power_loss_during_recovery() {
    let mut rng = Rng(78);
    let mut seen = 0;
    for seed in 20..23 {
        for at in (8..).step_by(3) {
            let (sim, ledger, _) = crashed(seed, 30, at, Fault::Crash);
            if !sim.hit() {
                break;
            }
            let image = crash(&sim, &mut || rng.coin());
            for second in 1.. {
                let again = kill(&image);
                again.crash_at(second);
                let _ = open_writer(&(Arc::new(again.clone()) as _));
                if !again.hit() {
                    break;
                }
                for (i, image) in images(&again, &mut rng, 2).iter().enumerate() {
                    let what = format!("seed {seed} calls {at}, {second} image {i}");
                    check(image, ledger.durable, &ledger, &what);
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 1_000, "{seen}");
}

/// Every changing call fails once or is cut short. The writer goes on only where nothing is in doubt; a new host, and
/// a power loss after it, keep what was acknowledged.
#[test]
fn failing_calls() {
    let mut rng = Rng(79);
    let eio = Fault::Errno(5);
    let (enospc, eintr) = (Fault::Errno(28), Fault::Errno(4));
    for fault in [eio, enospc, eintr, Fault::Short] {
        for seed in 40..43 {
            for at in 1.. {
                let (sim, ledger, done) = crashed(seed, 30, at, fault);
                if !sim.hit() {
                    break;
                }
                if fault == Fault::Short {
                    done.unwrap();
                }
                let what = format!("{fault:?} seed {seed} call {at}");
                check(&kill(&sim), ledger.appended, &ledger, &what);
                let image = crash(&sim, &mut || rng.coin());
                check(&image, ledger.durable, &ledger, &what);
            }
        }
    }
}
