//! The one checksum family of MMSB: XXH3, with run-time choice of instruction set.
//!
//! Not cryptographic: it finds damage, it does not resist forgery.

/// XXH3-64 with seed 0.
#[inline]
pub(crate) fn h64(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// XXH3-128 with seed 0.
#[inline]
pub(crate) fn h128(bytes: &[u8]) -> u128 {
    twox_hash::XxHash3_128::oneshot(bytes)
}
