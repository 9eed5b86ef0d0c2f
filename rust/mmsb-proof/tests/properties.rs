//! Random histories against the model; `make properties` takes more and longer ones. A failure is shortened and kept
//! beside this file, for all later runs.

use mmsb_proof::model::{act, durability};
use mmsb_proof::properties::{Place, take};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn in_memory(acts in prop::collection::vec(act(), 1..60)) {
        take(Place::Memory, &acts);
    }

    #[test]
    fn in_a_directory(durability in durability(), acts in prop::collection::vec(act(), 1..60)) {
        take(Place::Directory(durability), &acts);
    }

    #[test]
    fn on_the_simulated_file_system(
        durability in durability(),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        take(Place::Simulated(durability), &acts);
    }
}
