//! Bytes as a whole: the one checksum family of MMSB, XXH3 with run-time choice of instruction set; and whether they are
//! zero.
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

/// Whether all bytes are zero. Behind the first it does not leave early, so that many are looked at together.
#[inline]
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|&byte| byte == 0) && bytes.iter().fold(0, |all, byte| all | byte) == 0
}
