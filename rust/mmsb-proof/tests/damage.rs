//! Damage of every kind, in short; `make bits damage` tries all of it.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use mmsb_core::log::{HEADROOM, Log, LogOptions, OpenMode, open};
use mmsb_proof::args::Args;
use mmsb_proof::sim::{Fault, Plan, SimVfs};
use mmsb_proof::{damage, hostile};

fn args(cases: u64) -> Args {
    Args {
        seed: 1,
        cases: Some(cases),
        seconds: None,
        threads: 2,
        part: None,
        command: String::new(),
    }
}

#[test]
fn bits() {
    damage::bits(&args(4_000));
}

#[test]
fn damage_of_more() {
    for part in [damage::torn_records, damage::torn_or_damaged, damage::misplaced, damage::many] {
        assert_eq!(part(&args(2_000)).len(), 1);
    }
}

#[test]
fn hostile_input() {
    hostile::run(&args(2_000));
}

/// A roll seals a segment and then cannot begin the next one, for want of space. Closing syncs what was sealed.
#[test]
fn closing_after_a_failed_roll_syncs() {
    let (sim, dir) = (SimVfs::new(), Path::new("/s"));
    let options = LogOptions { segment_bytes: 4096 + 600, seed: Some(3), ..LogOptions::default() };
    let mut log = Log::create(Arc::new(sim.clone()), dir, options.clone()).unwrap();
    let full =
        Plan { at: 1, fault: Fault::Errno(28), persistent: true, reads: false, reverts: false };
    let mut appended = 0;
    loop {
        let mut buf = vec![7; HEADROOM + 200];
        // The seal is written, then space for the next segment is asked for.
        if appended == 2 {
            sim.set_plan(Plan { at: 3, ..full });
        }
        if log.append(appended + 1, appended, 0, &mut buf).is_err() {
            break;
        }
        appended += 1;
    }
    assert!(sim.hit() && log.usable().is_ok());
    sim.lift();
    log.close().unwrap();
    let left = SimVfs::of(sim.disk().after_crash(&mut |_| false));
    let mut seen = 0;
    let mut on = |_: mmsb_core::log::Commit<'_>| {
        seen += 1;
        Ok(())
    };
    let mode = OpenMode::Reader { durable_only: false };
    open(Arc::new(left), dir, options, 0, mode, &mut on, &mut |_, _| {}).unwrap();
    assert_eq!(seen, appended);
}
