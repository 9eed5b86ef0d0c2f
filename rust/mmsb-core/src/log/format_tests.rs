//! The encodings, byte by byte: what FORMAT.md says, made by another program.

use std::path::Path;

use super::meta::{MetaSlots, SLOT_LEN, SLOTS, read_slot};
use super::record::{self, Body, HEADER, Head};
use super::segment::{HEADER_LEN, SegmentHeader};
use super::tests::begun;
use super::*;
use crate::error::Code;
use crate::hash::h64;
use crate::vfs::{OpenKind, RamVfs, read_exact_at, write_all_at};

const SALT: [u8; 16] = *b"0123456789abcdef";
const EPOCH: u64 = 7 | 5 << 32;

const COMMIT: &str = "83698af8fb4bcbe209ea29d501071a000000000007000000630000000000000068ac0207\
                      706879736963730a7b2273746570223a377d066f7073000000000000";
const MARK: &str = "3f4b16ba8b47eb7ba9d7f6e9020020000000000007000000922f71c69bf73312\
                    0600000000000000887766554433221100ffeeddccbbaa993930000000000000";
const SEGMENT: &str = "894d4d5342206c6f670d0a1a0a00b5ff0100000000400000000000000000000000000000\
                       000000000707070707070707070707070707070709090909090909090909090909090909\
                       03000000000000004d000000000000000000000000000010cdab000000000000\
                       02000000000000000020000000000000";
const SLOT: &str = "894d4d5342206d65740d0a1a0a00b5ff0100000000000000000000000000000000000000\
                    0000000005050505050505050505050505050505030000000000000001000000000000008813\
                    000000000000120000000000000002";

fn hex(text: &str) -> Vec<u8> {
    let digit = |b: u8| (b as char).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[test]
fn a_seed_is_of_one_place() {
    for (offset, seed) in [
        (0, 0x5153_5157_5153_0808),
        (4096, 0xc8b4_a94b_b892_b808),
        (1 << 40, 0xe7d7_2e57_5153_0808u64),
    ] {
        assert_eq!(record::seed(&SALT, offset), seed);
    }
}

/// A commit with everything that it can have, and a mark behind it, written and read.
#[test]
fn records() {
    let mut payload = vec![104, 0xAC, 2];
    put_text(&mut payload, "physics");
    put_text(&mut payload, "{\"step\":7}");
    payload.extend_from_slice(b"\x06ops");
    let flags = record::DURABLE | SOURCE | META;
    let (commit, chain) = written(record::COMMIT, flags, 99, 4200, &payload);
    assert_eq!((commit, chain), (hex(COMMIT), 0x1233_f79b_c671_2f92));
    let digest = 0x99aa_bbcc_ddee_ff00_1122_3344_5566_7788u128;
    let mut payload = 6u64.to_le_bytes().to_vec();
    payload.extend_from_slice(&digest.to_le_bytes());
    payload.extend_from_slice(&12345u64.to_le_bytes());
    let (mark, after) = written(record::MARK, 0, chain, 4264, &payload);
    assert_eq!((mark, after), (hex(MARK), 0x7060_f117_f46c_e983));

    let (bytes, seed) = (hex(COMMIT), record::seed(&SALT, 4200));
    let head = Head::read(&bytes, seed).unwrap();
    assert_eq!((head.kind, head.flags, head.len, head.chain), (1, 7, 26, 99));
    assert_eq!((head.epoch_low, head.size(), head.chain_after()), (7, 64, chain));
    assert!(head.holds(&bytes, seed));
    let (durable, body) = record::parse(&head, &bytes[HEADER..58], 4200, 1000).unwrap();
    let (source, meta) = (Some("physics"), Some("{\"step\":7}"));
    assert_eq!(durable, Some(4096));
    assert_eq!(body, Body::Commit { time: 1300, source, meta, ops: b"\x06ops" });

    let (bytes, seed) = (hex(MARK), record::seed(&SALT, 4264));
    let head = Head::read(&bytes, seed).unwrap();
    assert!(head.holds(&bytes, seed));
    let body = Body::Mark { epoch: 6, digest, size: 12345 };
    assert_eq!(record::parse(&head, &bytes[HEADER..], 4264, 0), Some((None, body)));
}

fn written(kind: u8, flags: u8, chain: u64, offset: u64, payload: &[u8]) -> (Vec<u8>, u64) {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(payload);
    let body = record::finish(&mut bytes, kind, flags, EPOCH, chain, record::seed(&SALT, offset));
    bytes.resize(record::padded(bytes.len() as u64) as usize, 0);
    (bytes, record::chain_after(chain, body))
}

/// Padding and length are part of what a record is: one byte more, one less or one that is not zero, and it is none.
#[test]
fn a_record_has_one_size() {
    let (bytes, seed) = (hex(COMMIT), record::seed(&SALT, 4200));
    let head = Head::read(&bytes, seed).unwrap();
    for len in [0, HEADER, 58, 63] {
        assert!(!head.holds(&[&bytes[..len], &[]].concat(), seed));
    }
    assert!(!head.holds(&[&bytes[..], &[0; 8]].concat(), seed));
    let mut padded = bytes.clone();
    padded[60] = 1;
    assert!(!head.holds(&padded, seed));
    for len in 0..HEADER {
        assert_eq!(Head::read(&bytes[..len], seed), None);
    }
    // A header of nothing but zeros is told without a hash, and one of kind 0 is none even if its hash holds.
    assert_eq!(Head::read(&[0; HEADER], seed), None);
    let (nothing, _) = written(0, 0, 0, 4200, b"");
    assert_eq!(Head::read(&nothing, seed), None);
}

#[test]
fn kinds_and_flags_that_are_known() {
    let known = |kind, flags| Head { body: 0, kind, flags, len: 0, epoch_low: 0, chain: 0 }.known();
    for kind in 1..=3 {
        for flags in 0..=255 {
            assert_eq!(known(kind, flags), flags < 8);
        }
    }
    for kind in 4..=255 {
        assert_eq!((known(kind, 0), known(kind, 255)), (kind >= 128, kind >= 128));
    }
}

/// A payload has the form of its kind, or is none.
#[test]
fn payloads_of_every_kind() {
    fn parse(kind: u8, flags: u8, payload: &[u8]) -> Option<(Option<u64>, Body<'_>)> {
        let head = Head { body: 0, kind, flags, len: 0, epoch_low: 0, chain: 0 };
        record::parse(&head, payload, 100, 5)
    }
    assert_eq!(parse(128, 7, b""), Some((None, Body::Ignorable)));
    assert_eq!(parse(255, 0, b"anything"), Some((None, Body::Ignorable)));
    let plain = |ops| Body::Commit { time: 6, source: None, meta: None, ops };
    assert_eq!(parse(1, 0, b"\x01ops"), Some((None, plain(b"ops"))));
    assert_eq!(parse(1, 1, b"\x64\x01ops"), Some((Some(0), plain(b"ops"))));
    // A distance to before the file's beginning, no time, texts that do not fit or are none.
    assert_eq!(parse(1, 1, b"\x65\x01ops"), None);
    assert_eq!(parse(1, 0, b""), None);
    assert_eq!(parse(1, 1, b""), None);
    let text = Body::Commit { time: 6, source: Some("ab"), meta: None, ops: b"" };
    assert_eq!(parse(1, 2, b"\x01\x02ab"), Some((None, text)));
    let text = Body::Commit { time: 6, source: None, meta: Some("ab"), ops: b"c" };
    assert_eq!(parse(1, 4, b"\x01\x02abc"), Some((None, text)));
    assert_eq!(parse(1, 2, b"\x01\x03ab"), None);
    assert_eq!(parse(1, 4, b"\x01\x02\xFF\xFF"), None);
    assert_eq!(parse(1, 4, b"\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01ab"), None);
    let seal = [[9u8, 0, 0, 0, 0, 0, 0, 0], [7, 1, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(parse(3, 0, &seal), Some((None, Body::Seal { commits: 9, epoch: 263 })));
    assert_eq!(parse(3, 1, &[&[4], &seal[..]].concat()).unwrap().0, Some(96));
    let mark = [&seal[..], &seal[..]].concat();
    assert!(matches!(parse(2, 0, &mark), Some((None, Body::Mark { epoch: 9, size: 263, .. }))));
    for (kind, right) in [(2, &mark[..]), (3, &seal[..])] {
        for payload in [&right[..right.len() - 1], &[right, &[0]].concat(), b""] {
            assert_eq!(parse(kind, 0, payload), None);
        }
    }
    assert_eq!(parse(3, 0, &mark), None);
    assert_eq!(parse(4, 0, &mark), None);
}

/// The ends of every length, and what is too long or not the shortest.
#[test]
fn varints() {
    let cases: [(u64, &[u8]); 9] = [
        (0, &[0]),
        (1, &[1]),
        (127, &[0x7F]),
        (128, &[0x80, 1]),
        (300, &[0xAC, 2]),
        (16383, &[0xFF, 0x7F]),
        (16384, &[0x80, 0x80, 1]),
        (1 << 63, &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]),
        (u64::MAX, &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1]),
    ];
    for (value, bytes) in cases {
        let mut out = Vec::new();
        put_varint(&mut out, value);
        assert_eq!(out, bytes);
        out.extend_from_slice(b"rest");
        let mut rest = &out[..];
        assert_eq!((take_varint(&mut rest), rest), (Some(value), &b"rest"[..]));
        for cut in 0..bytes.len() {
            assert_eq!(take_varint(&mut &bytes[..cut]), None);
        }
    }
    let nines = [0xFFu8; 9];
    for bad in [
        &[0x80, 0][..],
        &[0xFF, 0x80, 0],
        &[&nines[..], &[2]].concat(),
        &[&nines[..], &[0x80]].concat(),
        &[&nines[..], &[0x81, 0]].concat(),
        &[0x80; 10],
        &[0x80; 20],
        &[&nines[..], &[0xFF, 1]].concat(),
    ] {
        assert_eq!(take_varint(&mut &bad[..]), None, "{bad:x?}");
    }
}

#[test]
fn a_commit_has_at_most_48_bits_of_bytes() {
    record::check_length(0).unwrap();
    record::check_length((1 << 48) - 1).unwrap();
    for long in [1 << 48, usize::MAX] {
        assert_eq!(record::check_length(long).unwrap_err().code, Code::Argument);
    }
}

#[test]
fn a_segment_header() {
    let header = SegmentHeader {
        uuid: [7; 16],
        salt: [9; 16],
        seq: 3,
        first_epoch: 77,
        base_time: 1 << 60,
        chain: 0xABCD,
        durable: Position { seq: 2, offset: 8192 },
        block_size: 16384,
    };
    let mut bytes = hex(SEGMENT);
    bytes.resize(HEADER_LEN - 8, 0);
    bytes.extend_from_slice(&0xc4c9_bfc6_cdf4_b10au64.to_le_bytes());
    assert!(header.encode() == bytes);
    assert_eq!(SegmentHeader::decode(&bytes, Path::new("s")).unwrap(), Some(header));
}

#[test]
fn a_meta_slot() {
    let vfs = RamVfs::new();
    let meta = begun([5; 16]);
    let mut slots = MetaSlots::create(&vfs, Path::new("/"), meta).unwrap();
    slots.write(Position { seq: 1, offset: 5000 }, 18).unwrap();
    let mut bytes = hex(SLOT);
    bytes.resize(120, 0);
    bytes.extend_from_slice(&0xb175_2906_f5c2_5fd4u64.to_le_bytes());
    bytes.resize(SLOT_LEN, 0);
    let file = vfs.open(&Path::new("/").join(SLOTS[1]), OpenKind::Read).unwrap();
    let mut got = vec![1; SLOT_LEN];
    read_exact_at(&*file, 0, &mut got).unwrap();
    assert!(got == bytes);
    assert_eq!(file.size().unwrap(), SLOT_LEN as u64);
}

/// What the format leaves free is zero, also under a right checksum.
#[test]
fn room_that_is_not_zero() {
    let segment = {
        let mut bytes = hex(SEGMENT);
        bytes.resize(HEADER_LEN, 0);
        bytes
    };
    let slot = {
        let mut bytes = hex(SLOT);
        bytes.resize(SLOT_LEN, 0);
        bytes
    };
    let signed = |bytes: &[u8], at: usize, len: usize| {
        let mut bytes = bytes.to_vec();
        if at > 0 {
            bytes[at] = 1;
        }
        let sum = h64(&bytes[..len - 8]);
        bytes[len - 8..len].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    let path = Path::new("f");
    for (at, good) in [(0, true), (120, false), (600, false), (4087, false)] {
        let bytes = signed(&segment, at, HEADER_LEN);
        assert_eq!(SegmentHeader::decode(&bytes, path).unwrap().is_some(), good, "{at}");
    }
    // Minor version and optional features may be anything.
    for at in [18, 32, 39] {
        let bytes = signed(&segment, at, HEADER_LEN);
        assert!(SegmentHeader::decode(&bytes, path).unwrap().is_some());
    }
    let vfs = RamVfs::new();
    let file = vfs.open(Path::new("/slot"), OpenKind::CreateNew).unwrap();
    let bad = [20, 23, 89, 100, 119, 128, 1000, 4095];
    for (at, good) in
        bad.map(|at| (at, false)).into_iter().chain([(0, true), (18, true), (39, true)])
    {
        write_all_at(&*file, 0, &signed(&slot, at, 128)).unwrap();
        let read = read_slot(&vfs, Path::new("/slot")).unwrap();
        assert_eq!(read.is_some(), good, "{at}");
    }
    file.set_len(SLOT_LEN as u64 + 1).unwrap();
    assert_eq!(read_slot(&vfs, Path::new("/slot")).unwrap(), None);
    for (at, value) in [(16, 0u8), (16, 2), (24, 1)] {
        let mut bytes = slot.clone();
        bytes[at] = value;
        write_all_at(&*file, 0, &signed(&bytes, 0, 128)).unwrap();
        file.set_len(SLOT_LEN as u64).unwrap();
        let error = read_slot(&vfs, Path::new("/slot")).unwrap_err();
        assert_eq!(error.code, Code::FormatVersion);
    }
}
