//! The scans with AVX2. A value of [`Avx2`] exists only where the processor has it, which makes its methods safe.
#![allow(unsafe_code)]

use super::{Portable, Scan};
use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_cmpeq_epi16, _mm256_cmpeq_epi32,
    _mm256_cmpeq_epi64, _mm256_loadu_si256, _mm256_movemask_epi8,
};

const VECTOR: usize = 32;
const ALL: u32 = u32::MAX;

/// Proof that this processor has AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The standard library caches the answer of the processor.
    #[inline]
    pub(super) fn detect() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }
}

impl Scan for Avx2 {
    #[inline]
    fn first_difference(&self, a: &[u8], b: &[u8]) -> Option<usize> {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe { first_difference(a, b) }
    }

    #[inline]
    fn changed_run(&self, a: &[u8], b: &[u8], width: usize) -> usize {
        // SAFETY: `self` proves that the processor has AVX2.
        unsafe {
            match width {
                8 => changed_run::<8>(a, b),
                4 => changed_run::<4>(a, b),
                2 => changed_run::<2>(a, b),
                _ => changed_run::<1>(a, b),
            }
        }
    }
}

#[target_feature(enable = "avx2")]
fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let n = a.len().min(b.len());
    let mut pos = 0;
    let ((wide_a, _), (wide_b, _)) =
        (a[..n].as_chunks::<{ 4 * VECTOR }>(), b[..n].as_chunks::<{ 4 * VECTOR }>());
    for (x, y) in wide_a.iter().zip(wide_b) {
        let ((x, _), (y, _)) = (x.as_chunks::<VECTOR>(), y.as_chunks::<VECTOR>());
        let low = _mm256_and_si256(equal::<1>(&x[0], &y[0]), equal::<1>(&x[1], &y[1]));
        let high = _mm256_and_si256(equal::<1>(&x[2], &y[2]), equal::<1>(&x[3], &y[3]));
        if bits(_mm256_and_si256(low, high)) != ALL {
            break;
        }
        pos += 4 * VECTOR;
    }
    let ((narrow_a, _), (narrow_b, _)) =
        (a[pos..n].as_chunks::<VECTOR>(), b[pos..n].as_chunks::<VECTOR>());
    for (x, y) in narrow_a.iter().zip(narrow_b) {
        let same = bits(equal::<1>(x, y));
        if same != ALL {
            return Some(pos + same.trailing_ones() as usize);
        }
        pos += VECTOR;
    }
    Portable.first_difference(&a[pos..n], &b[pos..n]).map(|rest| pos + rest)
}

#[target_feature(enable = "avx2")]
fn changed_run<const W: usize>(a: &[u8], b: &[u8]) -> usize {
    let n = a.len().min(b.len());
    let mut pos = 0;
    let ((lanes_a, _), (lanes_b, _)) = (a[..n].as_chunks::<VECTOR>(), b[..n].as_chunks::<VECTOR>());
    for (x, y) in lanes_a.iter().zip(lanes_b) {
        let same = bits(equal::<W>(x, y));
        if same != 0 {
            return pos + same.trailing_zeros() as usize;
        }
        pos += VECTOR;
    }
    pos + Portable.changed_run(&a[pos..n], &b[pos..n], W)
}

/// All ones in each lane of `W` bytes that is equal.
#[target_feature(enable = "avx2")]
fn equal<const W: usize>(a: &[u8; VECTOR], b: &[u8; VECTOR]) -> __m256i {
    let (a, b) = (load(a), load(b));
    match W {
        8 => _mm256_cmpeq_epi64(a, b),
        4 => _mm256_cmpeq_epi32(a, b),
        2 => _mm256_cmpeq_epi16(a, b),
        _ => _mm256_cmpeq_epi8(a, b),
    }
}

#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; VECTOR]) -> __m256i {
    // SAFETY: the reference covers exactly the 32 bytes that are read; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn bits(v: __m256i) -> u32 {
    _mm256_movemask_epi8(v).cast_unsigned()
}
