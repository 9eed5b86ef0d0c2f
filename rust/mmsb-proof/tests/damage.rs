//! Damage of every kind, in short; `make bits damage` tries all of it.

use mmsb_proof::args::Args;
use mmsb_proof::{damage, hostile};

fn args(cases: u64) -> Args {
    Args { seed: 1, cases: Some(cases), seconds: None, threads: 2, command: String::new() }
}

#[test]
fn bits() {
    damage::bits(&args(4_000));
}

#[test]
fn damage_of_more() {
    assert_eq!(damage::run(&args(2_000)).len(), 4);
}

#[test]
fn hostile_input() {
    hostile::run(&args(2_000));
}
