//! Random histories of any length against the model, in memory, in a directory and on the simulated file system. What
//! fails is shortened before it is shown.

use std::path::Path;

use mmsb_core::Durability;
use proptest::collection::vec;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::args::Args;
use crate::model::{Act, Driver, act, options};
use crate::report::Row;
use crate::rng::{Rng, mix};
use crate::sim::SimVfs;
use crate::work::{attempt, side_by_side};

const DURABILITIES: [Durability; 3] = [Durability::Memory, Durability::Os, Durability::Disk];

/// Where a history is taken.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// A bus in memory.
    Memory,
    /// A real directory.
    Directory(Durability),
    /// The simulated file system.
    Simulated(Durability),
}

/// Takes the acts; the driver compares everything with the model at each, and at the end each epoch.
pub fn take(place: Place, acts: &[Act]) {
    let tmp = tempfile::tempdir().unwrap();
    let mut driver = match place {
        Place::Memory => Driver::new(None, &options(Durability::Memory)),
        Place::Directory(durability) => {
            Driver::new(Some(&tmp.path().join("bus")), &options(durability))
        }
        Place::Simulated(durability) => {
            Driver::create(&SimVfs::new(), Path::new("/bus"), &options(durability)).unwrap()
        }
    };
    acts.iter().for_each(|act| driver.step(act));
    driver.finish();
}

/// One history in all three places.
fn case(seed: u64, index: u64, len: usize) -> Result<(), String> {
    let mut rng = Rng(mix(seed, index));
    let bytes: Vec<u8> = (0..4).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    // In the museum it is enough that something failed.
    let max_shrink_iters = if std::env::var_os("MMSB_MUSEUM").is_some() { 0 } else { 4000 };
    let config =
        Config { cases: 1, max_shrink_iters, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let durability = |shift: u64| DURABILITIES[(index + shift) as usize % 3];
    let places = [Place::Memory, Place::Directory(durability(0)), Place::Simulated(durability(1))];
    let done = TestRunner::new_with_rng(config, rng).run(&vec(act(), len), |acts| {
        places.iter().for_each(|&place| take(place, &acts));
        Ok(())
    });
    done.map_err(|what| format!("seed {seed} history {index}: {what}"))
}

#[allow(clippy::print_stderr)]
fn search(args: &Args, id: &'static str, name: &str, cases: u64, len: usize) -> Vec<Row<'static>> {
    let cases = args.cases.unwrap_or(cases);
    let mut failures = 0;
    let work = |index| attempt(|| case(args.seed, index as u64, len)).and_then(|done| done);
    side_by_side(args.threads, cases as usize, work, |done| {
        if let Err(what) = done {
            failures += 1;
            eprintln!("FAILED {what}");
        }
    });
    assert_eq!(failures, 0, "histories failed");
    vec![Row {
        id,
        row: "Model-based state machine, Rust",
        tried: "random histories beside a plain model, in memory, in a directory and on the simulated file system, \
                with restarts, checkpoints, time travel and forks among the acts; everything compared after each act, \
                every epoch at the end"
            .into(),
        count: format!("{cases} histories of {len} acts in 3 places"),
        seed: args.seed.to_string(),
        result: "0 differences".into(),
        command: format!("make {name} CASES={cases} SEED={}", args.seed),
    }]
}

/// 500 histories of 100 acts.
pub fn run(args: &Args) -> Vec<Row<'static>> {
    search(args, "18-properties-rust", "properties", 500, 100)
}

/// 5,000 histories of 500 acts.
pub fn deep(args: &Args) -> Vec<Row<'static>> {
    search(args, "18-properties-rust-deep", "properties-deep", 5_000, 500)
}
