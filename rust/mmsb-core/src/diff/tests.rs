//! Every implementation against a loop over single elements.
#![allow(clippy::unwrap_used)]

use super::{Portable, Scan, diff_ranges, diff_ranges_at, first_difference, walk};
use proptest::prelude::*;

const ITEMSIZES: [usize; 8] = [1, 2, 3, 4, 8, 12, 16, 100];

fn naive(a: &[u8], b: &[u8], itemsize: usize) -> Vec<(u64, u64)> {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for start in (0..a.len()).step_by(itemsize) {
        let stop = (start + itemsize).min(a.len());
        if (start..stop).any(|i| a[i] != b[i]) {
            match out.last_mut() {
                Some(last) if last.1 == start as u64 => last.1 = stop as u64,
                _ => out.push((start as u64, stop as u64)),
            }
        }
    }
    out
}

fn check(a: &[u8], b: &[u8], itemsize: usize) -> Result<(), TestCaseError> {
    let want = naive(a, b, itemsize);
    let mut got = vec![(7, 9)];
    diff_ranges(a, b, itemsize, &mut got);
    prop_assert_eq!(&got, &want, "dispatched, itemsize {}", itemsize);
    got.clear();
    walk(&Portable, a, b, 0, a.len() as u64, itemsize, &mut got);
    prop_assert_eq!(&got, &want, "portable, itemsize {}", itemsize);
    let first = (0..a.len()).find(|&i| a[i] != b[i]);
    prop_assert_eq!(first_difference(a, b), first);
    prop_assert_eq!(Portable.first_difference(a, b), first);
    Ok(())
}

/// A buffer and a copy with changes of any density, from one byte to all.
fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let change = (any::<prop::sample::Index>(), 1..300_usize, 1..=255_u8);
    (prop::collection::vec(any::<u8>(), 0..1500), prop::collection::vec(change, 0..12)).prop_map(
        |(a, changes)| {
            let mut b = a.clone();
            for (at, len, flip) in changes {
                if !a.is_empty() {
                    let at = at.index(a.len());
                    let stop = (at + len / flip as usize + 1).min(a.len());
                    b[at..stop].iter_mut().for_each(|x| *x ^= flip);
                }
            }
            (a, b)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 512 }))]

    #[test]
    fn all_twins_agree((a, b) in pair(), skip_a in 0..40_usize, skip_b in 0..40_usize) {
        // Both at alignments of their own.
        let n = a.len();
        let (mut at_a, mut at_b) = (vec![0; skip_a], vec![0; skip_b]);
        at_a.extend_from_slice(&a);
        at_b.extend_from_slice(&b);
        for itemsize in ITEMSIZES {
            check(&at_a[skip_a..skip_a + n], &at_b[skip_b..skip_b + n], itemsize)?;
        }
    }

    #[test]
    fn parts_give_what_the_whole_gives((a, b) in pair(), part in 1..200_usize) {
        for itemsize in ITEMSIZES {
            let mut got = Vec::new();
            for (i, (x, y)) in a.chunks(part).zip(b.chunks(part)).enumerate() {
                let at = (i * part) as u64;
                diff_ranges_at(x, y, at, a.len() as u64, itemsize, &mut got);
            }
            prop_assert_eq!(&got, &naive(&a, &b, itemsize), "itemsize {}", itemsize);
        }
    }
}

#[test]
fn one_changed_byte_at_every_place_of_every_length() {
    let step = if cfg!(miri) { 61 } else { 1 };
    for len in (0..300).step_by(step) {
        let a = vec![5; len];
        check(&a, &a, 4).unwrap();
        for at in (0..len).step_by(step) {
            let mut b = a.clone();
            b[at] = 6;
            for itemsize in ITEMSIZES {
                check(&a, &b, itemsize).unwrap();
            }
        }
    }
}

#[test]
fn an_itemsize_beyond_the_buffer_covers_all_of_it() {
    for itemsize in [0, 300, usize::MAX] {
        let mut out = Vec::new();
        diff_ranges(&[1, 2, 3], &[1, 2, 4], itemsize, &mut out);
        assert_eq!(out, [(if itemsize == 0 { 2 } else { 0 }, 3)]);
    }
}

#[test]
fn the_common_length_is_compared() {
    let mut out = Vec::new();
    diff_ranges(&[1, 2, 3], &[1, 9], 1, &mut out);
    assert_eq!(out, [(1, 2)]);
    assert_eq!(first_difference(&[1, 2, 3], &[1, 2]), None);
}
