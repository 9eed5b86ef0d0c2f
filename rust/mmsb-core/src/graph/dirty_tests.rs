//! The bitmap against a `BTreeSet`, at every size where a word or a tier begins.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::Dirty;

const SIZES: [u32; 12] = [0, 1, 63, 64, 65, 4095, 4096, 4097, 10_000, 262_143, 262_144, 300_000];

#[derive(Clone, Debug)]
enum Step {
    Set(u32),
    Pop,
    Take(u32, u32),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any::<u32>().prop_map(Step::Set),
        3 => Just(Step::Pop),
        2 => any::<(u32, u32)>().prop_map(|(a, b)| Step::Take(a, b)),
        1 => Just(Step::Clear),
    ]
}

fn run(size: u32, steps: Vec<Step>) {
    let (mut dirty, mut oracle) = (Dirty::new(size), BTreeSet::new());
    for step in steps {
        match step {
            Step::Set(at) if size > 0 => {
                // Half of them close together, so that words hold several.
                let at = if at % 2 == 0 { at / 2 % size } else { at / 2 % size.min(200) };
                dirty.set(at);
                oracle.insert(at);
                assert!(dirty.contains(at));
            }
            Step::Set(_) => {}
            Step::Pop => assert_eq!(dirty.pop_first(), oracle.pop_first()),
            Step::Take(a, b) => {
                let range = a % (size + 1)..(b % (size + 1)).saturating_add(b % 3);
                let mut taken = vec![7];
                dirty.take_range(range.clone(), &mut taken);
                let expected = oracle.iter().copied().filter(|at| range.contains(at));
                assert!(taken[1..].iter().copied().eq(expected));
                oracle.retain(|at| !range.contains(at));
            }
            Step::Clear => {
                dirty.clear();
                oracle.clear();
            }
        }
        assert_eq!(dirty.is_empty(), oracle.is_empty());
    }
    dirty.check();
    assert!((0..size).filter(|&at| dirty.contains(at)).eq(oracle.iter().copied()));
    assert!(std::iter::from_fn(|| dirty.pop_first()).eq(oracle));
    assert_eq!(dirty, Dirty::new(size));
}

proptest! {
    #[test]
    fn a_set_behaves_like_a_tree(
        size in prop::sample::select(&SIZES[..]),
        steps in prop::collection::vec(step(), 0..120),
    ) {
        run(size, steps);
    }
}

#[test]
fn every_size_holds_all_its_positions() {
    for size in SIZES {
        let mut dirty = Dirty::new(size);
        (0..size).rev().for_each(|at| dirty.set(at));
        dirty.check();
        let mut taken = Vec::new();
        dirty.take_range(0..u32::MAX, &mut taken);
        assert!(taken.into_iter().eq(0..size));
        assert_eq!(dirty, Dirty::new(size));
    }
}

#[test]
fn a_range_is_cut_in_the_middle_of_words() {
    let mut dirty = Dirty::new(1000);
    (0..1000).for_each(|at| dirty.set(at));
    let mut taken = Vec::new();
    dirty.take_range(100..101, &mut taken);
    dirty.take_range(127..129, &mut taken);
    dirty.take_range(500..500, &mut taken);
    dirty.take_range(999..1000, &mut taken);
    assert_eq!(taken, [100, 127, 128, 999]);
    dirty.check();
    assert!(!dirty.contains(128) && dirty.contains(126) && dirty.contains(129));
}

#[test]
fn what_is_beyond_is_not_in() {
    let mut dirty = Dirty::new(10);
    dirty.set(9);
    assert!(!dirty.contains(10) && !dirty.contains(64) && !dirty.contains(u32::MAX));
    assert_eq!((dirty.pop_first(), dirty.pop_first()), (Some(9), None));
}

#[test]
#[should_panic(expected = "position 10 of 10")]
fn a_position_beyond_is_refused() {
    Dirty::new(10).set(10);
}

#[test]
fn all_positions_there_can_be() {
    let mut dirty = Dirty::new(u32::MAX);
    dirty.set(u32::MAX - 1);
    dirty.set(1 << 30);
    let mut taken = Vec::new();
    dirty.take_range(1 << 31..u32::MAX, &mut taken);
    assert_eq!(taken, [u32::MAX - 1]);
    assert_eq!((dirty.pop_first(), dirty.is_empty()), (Some(1 << 30), true));
}
