//! `mmsb-proof HARNESS [--seed N] [--cases N] [--seconds N] [--threads N]`: runs a harness at its full figure and
//! prints its line of RELIABILITY.md.
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::process::ExitCode;

use mmsb_proof::args::Args;
use mmsb_proof::crash;
use mmsb_proof::damage;
use mmsb_proof::determinism;
use mmsb_proof::faults;
use mmsb_proof::hostile;
use mmsb_proof::kills;
use mmsb_proof::properties;
use mmsb_proof::report::Row;

type Harness = fn(&Args) -> Vec<Row<'static>>;

/// The parts of each; the rows of one are kept before the next begins.
const HARNESSES: &[(&str, &[Harness])] = &[
    ("crash", &[crash::run]),
    ("crash-deep", &[crash::deep]),
    ("faults", &[faults::run]),
    ("bits", &[damage::bits]),
    ("damage", &[damage::torn_records, damage::torn_or_damaged, damage::misplaced, damage::many]),
    ("hostile", &[hostile::run]),
    ("kills", &[kills::run]),
    ("determinism", &[determinism::run]),
    ("properties", &[properties::run]),
    ("properties-deep", &[properties::deep]),
];

fn main() -> ExitCode {
    let mut given = std::env::args().skip(1);
    let name = given.next().unwrap_or_default();
    if name == kills::CHILD {
        kills::child(given);
        return ExitCode::SUCCESS;
    }
    if name == determinism::CHILD {
        determinism::child(given);
        return ExitCode::SUCCESS;
    }
    if name == determinism::GOLDEN {
        print!("{}", determinism::golden(200));
        return ExitCode::SUCCESS;
    }
    let Some((name, parts)) = HARNESSES.iter().find(|(known, _)| *known == name) else {
        let known: Vec<&str> = HARNESSES.iter().map(|&(name, _)| name).collect();
        eprintln!("mmsb-proof: {name:?} is not one of {}", known.join(", "));
        return ExitCode::FAILURE;
    };
    let args = match Args::parse(name, given) {
        Ok(args) => args,
        Err(what) => {
            eprintln!("mmsb-proof: {what}");
            return ExitCode::FAILURE;
        }
    };
    for row in parts.iter().flat_map(|part| part(&args)) {
        if let Err(error) = row.publish() {
            eprintln!("mmsb-proof: the row of {} is not kept: {error}", row.id);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
