//! One record of the log: its 32-byte header, its payload, its checksums and the chain.
//!
//! ```text
//!  0  u64  body    h64(bytes 8.. to the end of the payload) ^ seed(salt, offset)
//!  8  u32  head    low half of h64(bytes 12..32) ^ seed(salt, offset)
//! 12  u8   kind
//! 13  u8   flags
//! 14  u48  payload length
//! 20  u32  low half of the epoch
//! 24  u64  chain value before this record
//! ```
//! Invariants: no length is believed before `head` holds; salt and own offset are part of both checksums, so a record
//! that lies anywhere else than where it was written is not valid; padding to 8 bytes is zero.

use crate::error::{Code, Error, Result};
use crate::hash::{h64, is_zero};
use crate::museum::{Defect, planted};

pub(crate) const HEADER: usize = 32;
/// Free bytes that a record's buffer has in front of its source, metadata and operations.
pub const HEADROOM: usize = 64;
const MAX_PAYLOAD: u64 = (1 << 48) - 1;

pub(crate) const COMMIT: u8 = 1;
pub(crate) const MARK: u8 = 2;
pub(crate) const SEAL: u8 = 3;
/// Kinds from here on may be passed over by a reader that does not know them.
pub(crate) const IGNORABLE: u8 = 128;

/// The payload begins with how far before its own offset the segment was known to be durable.
pub(crate) const DURABLE: u8 = 1;
/// The commit has a source.
pub const SOURCE: u8 = 2;
/// The commit has metadata.
pub const META: u8 = 4;
const FLAGS: u8 = DURABLE | SOURCE | META;

/// Bytes that a seal takes at most.
pub(crate) const SEAL_ROOM: u64 = padded(HEADER as u64 + VARINT + 16);
/// Bytes that a number takes at most.
const VARINT: u64 = 10;

const _: () = assert!(HEADER.is_multiple_of(8), "records are aligned");
// A header, the durable mark and the time.
const _: () = assert!(HEADROOM as u64 >= HEADER as u64 + 2 * VARINT);
const _: () = assert!(FLAGS.count_ones() == 3, "flags are different bits");
const _: () = assert!(SEAL < IGNORABLE);
const _: () = assert!(MAX_PAYLOAD + HEADER as u64 <= usize::MAX as u64, "a record has an address");

pub(crate) const fn padded(len: u64) -> u64 {
    len.next_multiple_of(8)
}

/// What ties a checksum to one place in one segment.
pub(crate) fn seed(salt: &[u8; 16], offset: u64) -> u64 {
    let (a, b) = (u64_at(salt, 0), u64_at(salt, 8));
    a.wrapping_add(offset.wrapping_mul(0x9E37_79B9_7F4A_7C15)) ^ b
}

pub(crate) fn chain_after(chain: u64, body: u64) -> u64 {
    let mut both = [0u8; 16];
    both[..8].copy_from_slice(&chain.to_le_bytes());
    both[8..].copy_from_slice(&body.to_le_bytes());
    h64(&both)
}

/// Little-endian u64 at `at`; bytes past the end count as zero.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    let have = bytes.get(at..).unwrap_or_default();
    let n = have.len().min(8);
    word[..n].copy_from_slice(&have[..n]);
    u64::from_le_bytes(word)
}

/// A record header whose own checksum held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) body: u64,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) len: u64,
    pub(crate) epoch_low: u32,
    pub(crate) chain: u64,
}

impl Head {
    /// Reads a header; `None` if it is not one that was written at this offset of this segment.
    pub(crate) fn read(bytes: &[u8], seed: u64) -> Option<Head> {
        let bytes = bytes.get(..HEADER)?;
        let head = (u64_at(bytes, 8) & 0xFFFF_FFFF) as u32;
        // An empty or absurd place is told cheaply: a search looks at every eighth byte.
        if bytes[12] == 0 || head != (h64(&bytes[12..HEADER]) ^ seed) as u32 {
            return None;
        }
        Some(Head {
            body: u64_at(bytes, 0),
            kind: bytes[12],
            flags: bytes[13],
            len: u64_at(bytes, 14) & MAX_PAYLOAD,
            epoch_low: (u64_at(bytes, 20) & 0xFFFF_FFFF) as u32,
            chain: u64_at(bytes, 24),
        })
    }

    /// Bytes from the header to the end of the padding.
    pub(crate) fn size(&self) -> u64 {
        padded(HEADER as u64 + self.len)
    }

    /// Whether the whole record (header and payload, padding behind) is what was written.
    pub(crate) fn holds(&self, record: &[u8], seed: u64) -> bool {
        let end = HEADER + self.len as usize;
        record.len() as u64 == self.size()
            && (planted(Defect::PayloadNotChecked) || self.body == h64(&record[8..end]) ^ seed)
            && is_zero(&record[end..])
    }

    pub(crate) fn chain_after(&self) -> u64 {
        chain_after(self.chain, self.body)
    }

    /// Whether this version knows how to read it, or may pass over it.
    pub(crate) fn known(&self) -> bool {
        self.kind >= IGNORABLE || (self.kind <= SEAL && self.flags & !FLAGS == 0)
    }
}

/// Fills in the header of the record that `record` holds from its first byte to the end of its payload.
/// Returns its body checksum.
pub(crate) fn finish(
    record: &mut [u8],
    kind: u8,
    flags: u8,
    epoch: u64,
    chain: u64,
    seed: u64,
) -> u64 {
    assert!(record.len() >= HEADER, "a record has no room for its header");
    let len = (record.len() - HEADER) as u64;
    assert!(len <= MAX_PAYLOAD, "a payload is longer than its length says");
    record[12] = kind;
    record[13] = flags;
    record[14..20].copy_from_slice(&len.to_le_bytes()[..6]);
    assert_eq!(u64_at(record, 14) & MAX_PAYLOAD, len, "a length reads as another");
    record[20..24].copy_from_slice(&epoch.to_le_bytes()[..4]);
    record[24..32].copy_from_slice(&chain.to_le_bytes());
    let head = (h64(&record[12..HEADER]) ^ seed) as u32;
    record[8..12].copy_from_slice(&head.to_le_bytes());
    let body = h64(&record[8..]) ^ seed;
    record[..8].copy_from_slice(&body.to_le_bytes());
    body
}

/// A varint: seven bits a byte, low ones first, the top bit says that more follow.
#[inline]
pub(crate) fn varint(mut value: u64, out: &mut [u8]) -> usize {
    if planted(Defect::NumberCut) {
        value &= 0x1F_FFFF;
    }
    let mut n = 0;
    while value >= 0x80 {
        out[n] = value as u8 | 0x80;
        value >>= 7;
        n += 1;
    }
    out[n] = value as u8;
    n + 1
}

/// Takes a varint off the front. Longer than needed or over 64 bits is no varint.
#[inline]
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    if let [first @ 0..=0x7F, rest @ ..] = *bytes {
        *bytes = rest;
        return Some(u64::from(*first));
    }
    take_long_varint(bytes)
}

fn take_long_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7F);
        if i == 9 && bits > 1 || i > 0 && byte == 0 {
            return None;
        }
        value |= bits << (7 * i as u32);
        if byte < 0x80 {
            *bytes = &bytes[i + 1..];
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], n: u64) -> Option<&'a [u8]> {
    let n = usize::try_from(n).ok().filter(|&n| n <= bytes.len())?;
    let (front, rest) = bytes.split_at(n);
    *bytes = rest;
    Some(front)
}

fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let n = take_varint(bytes)?;
    std::str::from_utf8(take(bytes, n)?).ok()
}

/// A record's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    Commit { time: u64, source: Option<&'a str>, meta: Option<&'a str>, ops: &'a [u8] },
    Mark { epoch: u64, digest: u128, size: u64 },
    Seal { commits: u64, epoch: u64 },
    Ignorable,
}

/// The durable offset that a record tells, and its meaning; `None` if the payload has not the form of its kind.
pub(crate) fn parse<'a>(
    head: &Head,
    mut payload: &'a [u8],
    offset: u64,
    base_time: u64,
) -> Option<(Option<u64>, Body<'a>)> {
    if head.kind >= IGNORABLE {
        return Some((None, Body::Ignorable));
    }
    let durable = match head.flags & DURABLE {
        0 => None,
        _ => Some(offset.checked_sub(take_varint(&mut payload)?)?),
    };
    let body = match head.kind {
        COMMIT => Body::Commit {
            time: base_time.wrapping_add(take_varint(&mut payload)?),
            source: if head.flags & SOURCE != 0 { Some(take_text(&mut payload)?) } else { None },
            meta: if head.flags & META != 0 { Some(take_text(&mut payload)?) } else { None },
            ops: payload,
        },
        MARK if payload.len() == 32 => Body::Mark {
            epoch: u64_at(payload, 0),
            digest: u128::from(u64_at(payload, 8)) | u128::from(u64_at(payload, 16)) << 64,
            size: u64_at(payload, 24),
        },
        SEAL if payload.len() == 16 => {
            Body::Seal { commits: u64_at(payload, 0), epoch: u64_at(payload, 8) }
        }
        _ => return None,
    };
    Some((durable, body))
}

/// Appends `len` and `text` the way a commit's payload carries its source and metadata.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    let begin = out.len();
    put_varint(out, text.len() as u64);
    let told = take_varint(&mut &out[begin..]);
    assert_eq!(told, Some(text.len() as u64), "the length of a text reads as another");
    out.extend_from_slice(text.as_bytes());
}

/// Appends a varint.
#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        return out.push(value as u8);
    }
    let mut number = [0u8; 10];
    let n = varint(value, &mut number);
    out.extend_from_slice(&number[..n]);
}

pub(crate) fn check_length(len: usize) -> Result<()> {
    if len as u64 <= MAX_PAYLOAD {
        return Ok(());
    }
    let what = format!("a commit of {len} bytes is over 2^48 - 1 bytes");
    Err(Error::new(Code::Argument, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: [u8; 16] = *b"0123456789abcdef";

    fn sample(payload: &[u8], offset: u64) -> Vec<u8> {
        let mut record = vec![0u8; HEADER];
        record.extend_from_slice(payload);
        finish(&mut record, COMMIT, SOURCE, 7 | 5 << 32, 99, seed(&SALT, offset));
        record.resize(padded(record.len() as u64) as usize, 0);
        record
    }

    #[test]
    fn header_round_trip() {
        let record = sample(b"payload", 4096);
        let head = Head::read(&record, seed(&SALT, 4096)).unwrap();
        assert!(head.holds(&record, seed(&SALT, 4096)));
        assert_eq!((head.kind, head.flags, head.len), (COMMIT, SOURCE, 7));
        assert_eq!((head.epoch_low, head.chain, head.size()), (7, 99, 40));
        assert_eq!(head.chain_after(), chain_after(99, head.body));
    }

    /// A record holds only at its own offset, under its own salt, with every bit as it was.
    #[test]
    fn any_bit_any_place_any_salt() {
        let record = sample(b"some payload!", 4096);
        for bit in (0..record.len() * 8).step_by(if cfg!(miri) { 7 } else { 1 }) {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let s = seed(&SALT, 4096);
            assert!(!Head::read(&bad, s).is_some_and(|h| h.size() == 48 && h.holds(&bad, s)));
        }
        for offset in (0..1 << if cfg!(miri) { 13 } else { 16 }).step_by(8).filter(|&o| o != 4096) {
            let s = seed(&SALT, offset);
            assert!(!Head::read(&record, s).is_some_and(|h| h.holds(&record, s)));
        }
        let s = seed(b"0123456789abcdeX", 4096);
        assert!(!Head::read(&record, s).is_some_and(|h| h.holds(&record, s)));
    }

    proptest! {
        #[test]
        fn varints(value: u64, rest: Vec<u8>) {
            let mut out = [0u8; 10];
            let n = varint(value, &mut out);
            let mut bytes = out[..n].to_vec();
            bytes.extend_from_slice(&rest);
            let mut slice = &bytes[..];
            prop_assert_eq!(take_varint(&mut slice), Some(value));
            prop_assert_eq!(slice, &rest[..]);
        }

        /// Only the shortest form of a number is taken, so equal values have equal bytes.
        #[test]
        fn varints_have_one_form(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let mut slice = &bytes[..];
            if let Some(value) = take_varint(&mut slice) {
                let mut out = [0u8; 10];
                let n = varint(value, &mut out);
                prop_assert_eq!(&bytes[..bytes.len() - slice.len()], &out[..n]);
            }
        }

        #[test]
        fn any_payload_parses_or_not(kind in 0u8..5, flags in 0u8..8, payload: Vec<u8>, offset: u64) {
            let head = Head { body: 0, kind, flags, len: 0, epoch_low: 0, chain: 0 };
            let _ = parse(&head, &payload, offset, 0);
        }
    }
}
