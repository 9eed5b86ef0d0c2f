//! Random histories against the model, in memory and in a directory.
#![allow(clippy::unwrap_used)]

mod model;

use mmsb_core::Durability;
use model::{Act, Driver, act};
use proptest::prelude::*;

fn run(durability: Option<Durability>, acts: &[Act]) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let mut driver =
        Driver::new(durability.map(|_| dir.as_path()), durability.unwrap_or(Durability::Memory));
    for act in acts {
        driver.step(act);
    }
    driver.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn in_memory(acts in prop::collection::vec(act(), 1..60)) {
        run(None, &acts);
    }

    #[test]
    fn in_a_directory(
        durability in prop_oneof![Just(Durability::Memory), Just(Durability::Os), Just(Durability::Disk)],
        acts in prop::collection::vec(act(), 1..60),
    ) {
        run(Some(durability), &acts);
    }
}
