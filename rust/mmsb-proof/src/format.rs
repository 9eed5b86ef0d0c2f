//! FORMAT.md in code, apart from the engine's own: enough to know what a byte of a store belongs to, and to write
//! files whose checksums are right and whose contents are anything.

use std::path::Path;

use twox_hash::{XxHash3_64, XxHash3_128};

/// Bytes of the header of a segment or checkpoint, and of a meta slot.
pub const HEADER: usize = 4096;
/// Bytes of a record's header.
pub const RECORD: usize = 32;
/// Bytes of a meta slot that every one has.
const SLOT: usize = 128;
/// Whether a base and a parent follow, and where their sum is.
const ORIGIN: usize = 89;
const ORIGIN_SUM: usize = 168;
/// Kinds of records.
pub const COMMIT: u8 = 1;
/// A checkpoint mark.
pub const MARK: u8 = 2;
/// The last record of a segment.
pub const SEAL: u8 = 3;
/// The payload begins with the durable mark.
pub const DURABLE: u8 = 1;

/// XXH3-64.
pub fn h64(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// XXH3-128.
pub fn h128(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot(bytes)
}

/// A little-endian u64; bytes past the end count as zero.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    (0..8).rev().fold(0, |all, i| all << 8 | u64::from(bytes.get(at + i).copied().unwrap_or(0)))
}

/// Stores a little-endian u64.
pub fn set_word(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Appends a varint.
pub fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint off the front of bytes that are known to begin with one.
fn take_varint(bytes: &mut &[u8]) -> u64 {
    let (mut value, mut shift) = (0, 0);
    while let Some((&byte, rest)) = bytes.split_first() {
        *bytes = rest;
        value |= u64::from(byte & 0x7F) << shift;
        shift += 7;
        if byte < 0x80 || shift > 63 {
            break;
        }
    }
    value
}

/// Appends a text.
pub fn text(out: &mut Vec<u8>, text: &[u8]) {
    varint(out, text.len() as u64);
    out.extend_from_slice(text);
}

/// A record's place and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// First byte.
    pub start: usize,
    /// Behind the padding.
    pub end: usize,
    /// What it is.
    pub kind: u8,
    /// The epoch of the first commit at or behind this record.
    pub epoch: u64,
    /// The offset in this segment that it says to be durable.
    pub durable: Option<u64>,
    /// The chain value behind it.
    pub chain: u64,
}

fn seed(segment: &[u8], offset: usize) -> u64 {
    let spread = (offset as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word(segment, 56).wrapping_add(spread) ^ word(segment, 64)
}

fn chained(chain: u64, body: u64) -> u64 {
    let mut both = [0; 16];
    set_word(&mut both, 0, chain);
    set_word(&mut both, 8, body);
    h64(&both)
}

/// Whether a segment's header is whole.
pub fn has_header(segment: &[u8]) -> bool {
    segment.len() >= HEADER && h64(&segment[..HEADER - 8]) == word(segment, HEADER - 8)
}

/// The valid records of a segment, from the first one on.
pub fn records(segment: &[u8]) -> Vec<Record> {
    let mut all = Vec::new();
    if !has_header(segment) {
        return all;
    }
    let (mut start, mut epoch, mut chain) = (HEADER, word(segment, 80), word(segment, 96));
    while start + RECORD <= segment.len() {
        let record = &segment[start..];
        let seed = seed(segment, start);
        let end = RECORD + (word(record, 14) & 0xFFFF_FFFF_FFFF) as usize;
        let whole = record[12] != 0
            && word(record, 8) as u32 == (h64(&record[12..RECORD]) ^ seed) as u32
            && end <= record.len()
            && word(record, 0) == h64(&record[8..end]) ^ seed
            && word(record, 24) == chain;
        if !whole {
            break;
        }
        let (kind, flags) = (record[12], record[13]);
        let distance = take_varint(&mut &record[RECORD..end]);
        let durable = (flags & DURABLE != 0).then(|| start as u64 - distance);
        let next = start + end.next_multiple_of(8);
        chain = chained(chain, word(record, 0));
        all.push(Record { start, end: next.min(segment.len()), kind, epoch, durable, chain });
        epoch += u64::from(kind == COMMIT);
        start = next;
    }
    all
}

/// What a byte of a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First byte: the offset that an error about it names.
    pub start: usize,
    /// Behind the last byte.
    pub end: usize,
    /// The epoch that is affected.
    pub epoch: Option<u64>,
}

/// The parts of a sound file of a store, in order and without gaps: a header, a record with its padding, 16 KiB of a
/// page, the zeros between pages, an index, a meta slot.
pub fn parts(path: &Path, bytes: &[u8]) -> Vec<Part> {
    let part = |start, end, epoch| Part { start, end, epoch };
    match path.extension().and_then(|ext| ext.to_str()) {
        Some("mlog") => {
            let first = Some(word(bytes, 80));
            let mut all = vec![part(0, HEADER, first)];
            let records = records(bytes);
            all.extend(records.iter().map(|r| part(r.start, r.end, Some(r.epoch))));
            let end = all.last().map_or(0, |part| part.end);
            assert_eq!(end, bytes.len(), "{}: bytes behind the last record", path.display());
            all
        }
        Some("ckpt") => {
            let epoch = Some(word(bytes, 56));
            let index = word(bytes, 96) as usize;
            let mut all = vec![part(0, HEADER, epoch)];
            let mut fields = &bytes[index..];
            for _ in 0..word(bytes, 80) {
                for (at, len) in page_entry(&mut fields) {
                    let end = all.last().map_or(0, |part: &Part| part.end);
                    if at > end {
                        all.push(part(end, at, epoch));
                    }
                    all.push(part(at, at + len, epoch));
                }
            }
            let end = all.last().map_or(0, |part| part.end);
            if index > end {
                all.push(part(end, index, epoch));
            }
            all.push(part(index, bytes.len(), epoch));
            all
        }
        // An index is compared with the one that its segment should have, byte for byte.
        Some("midx") => {
            let epoch = Some(word(bytes, 64));
            (0..bytes.len()).map(|at| part(at, at + 1, epoch)).collect()
        }
        _ => vec![part(0, bytes.len(), None)],
    }
}

/// Takes the entry of a page off an index; where the blocks are that the file has itself, and how long they are there.
fn page_entry(fields: &mut &[u8]) -> Vec<(usize, usize)> {
    fn skip(fields: &mut &[u8], n: usize) {
        *fields = &fields[n..];
    }
    fn skip_text(fields: &mut &[u8]) {
        let n = take_varint(fields) as usize;
        skip(fields, n);
    }
    take_varint(fields);
    skip_text(fields);
    skip_text(fields);
    take_varint(fields);
    for _ in 0..take_varint(fields) {
        take_varint(fields);
    }
    let nbytes = take_varint(fields) as usize;
    skip_text(fields);
    skip(fields, 1);
    take_varint(fields);
    take_varint(fields);
    let mut at = take_varint(fields) as usize;
    let count = nbytes.div_ceil(16384);
    skip(fields, 16 * count);
    let len = |number: usize| (nbytes - number * 16384).min(16384);
    if at > 0 {
        return (0..count).map(|number| (at + number * 16384, len(number))).collect();
    }
    let (mut own, mut number) = (Vec::new(), 0);
    while number < count {
        let head = take_varint(fields) as usize;
        at = if head & 3 > 0 { take_varint(fields) as usize } else { 0 };
        for number in number..number + (head >> 3) {
            let stored = match head & 3 {
                0 => 0,
                1 => len(number),
                _ => {
                    let len = take_varint(fields) as usize;
                    skip(fields, 8);
                    len
                }
            };
            if head & 7 == 1 || head & 7 == 2 {
                own.push((at, stored));
            }
            at += stored;
        }
        number += head >> 3;
    }
    own
}

/// The position that a meta slot says to be durable, if the slot is whole.
pub fn slot_position(slot: &[u8]) -> Option<(u64, u64)> {
    let whole = slot.len() == HEADER && h64(&slot[..SLOT - 8]) == word(slot, SLOT - 8);
    whole.then(|| (word(slot, 64), word(slot, 72)))
}

/// What a whole meta slot says of where the log begins: its generation, the first segment, and the epoch before.
pub fn slot_base(slot: &[u8]) -> Option<(u64, u64, u64)> {
    slot_position(slot)?;
    let has_base = slot[ORIGIN] == 1;
    let whole = !has_base || h64(&slot[..ORIGIN_SUM]) == word(slot, ORIGIN_SUM);
    // Without one they are zero.
    whole.then(|| (word(slot, 56), word(slot, 128), word(slot, 136)))
}

/// What the header of a segment says besides its checksum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Segment {
    /// The store.
    pub uuid: u64,
    /// Its number.
    pub seq: u64,
    /// Its first epoch.
    pub first_epoch: u64,
    /// The chain value before it.
    pub chain: u64,
    /// The durable position.
    pub durable: (u64, u64),
}

/// The header of a segment.
pub fn segment(of: &Segment) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[..16].copy_from_slice(b"\x89MMSB log\r\n\x1a\n\0\xb5\xff");
    out[16] = 1;
    let words = [(40, of.uuid), (72, of.seq), (80, of.first_epoch), (96, of.chain)];
    let durable = [(56, 77), (104, of.durable.0), (112, of.durable.1)];
    words.iter().chain(&durable).for_each(|&(at, value)| set_word(&mut out, at, value));
    seal_header(&mut out);
    out
}

/// The name of a segment.
pub fn segment_name(seq: u64, first_epoch: u64) -> String {
    format!("log/{seq:016x}-{first_epoch:016x}.mlog")
}

/// The name of a segment's index in a store.
pub fn index_name(seq: u64, first_epoch: u64) -> String {
    format!("index/{seq:016x}-{first_epoch:016x}.midx")
}

fn seal_header(bytes: &mut [u8]) {
    let sum = h64(&bytes[..HEADER - 8]);
    set_word(bytes, HEADER - 8, sum);
}

/// Appends a record whose checksums are right. `chain` is the value before it and becomes the value behind it.
pub fn put_record(
    segment: &mut Vec<u8>,
    chain: &mut u64,
    kind: u8,
    flags: u8,
    epoch: u64,
    payload: &[u8],
) {
    let start = segment.len();
    segment.extend_from_slice(&[0; RECORD]);
    segment.extend_from_slice(payload);
    let record = &mut segment[start..];
    record[12] = kind;
    record[13] = flags;
    record[14..20].copy_from_slice(&(payload.len() as u64).to_le_bytes()[..6]);
    record[20..24].copy_from_slice(&epoch.to_le_bytes()[..4]);
    let end = segment.len();
    *chain = seal_record(segment, start, end, *chain);
    segment.resize(end.next_multiple_of(8), 0);
}

/// Gives a record the checksums and the chain value that it should have; returns the chain value behind it.
fn seal_record(segment: &mut [u8], start: usize, end: usize, chain: u64) -> u64 {
    let seed = seed(segment, start);
    let record = &mut segment[start..end];
    set_word(record, 24, chain);
    let head = (h64(&record[12..RECORD]) ^ seed) as u32;
    record[8..12].copy_from_slice(&head.to_le_bytes());
    let body = h64(&record[8..]) ^ seed;
    set_word(record, 0, body);
    chained(chain, body)
}

/// A meta slot.
pub fn slot(uuid: u64, generation: u64, durable: (u64, u64), epoch: u64) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    out[..16].copy_from_slice(b"\x89MMSB met\r\n\x1a\n\0\xb5\xff");
    out[16] = 1;
    for (at, value) in [(40, uuid), (56, generation), (64, durable.0), (72, durable.1), (80, epoch)]
    {
        set_word(&mut out, at, value);
    }
    out[88] = 2;
    seal_slot(&mut out);
    out
}

fn seal_slot(bytes: &mut [u8]) {
    let sum = h64(&bytes[..SLOT - 8]);
    set_word(bytes, SLOT - 8, sum);
    if bytes[ORIGIN] == 1 {
        let sum = h64(&bytes[..ORIGIN_SUM]);
        set_word(bytes, ORIGIN_SUM, sum);
    }
}

/// Makes all checksums of a file right, whatever it says; what its lengths do not lead to stays as it is.
pub fn repair(path: &Path, bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    match path.extension().and_then(|ext| ext.to_str()) {
        Some("mlog") => {
            seal_header(bytes);
            let (mut start, mut chain) = (HEADER, word(bytes, 96));
            while start + RECORD <= bytes.len() && bytes[start + 12] != 0 {
                let end = start + RECORD + (word(bytes, start + 14) & 0xFFFF_FFFF_FFFF) as usize;
                if end > bytes.len() {
                    break;
                }
                chain = seal_record(bytes, start, end, chain);
                start = end.next_multiple_of(8);
            }
        }
        Some("ckpt") => {
            let (at, len) = (word(bytes, 96) as usize, word(bytes, 104) as usize);
            if let Some(index) = at.checked_add(len).and_then(|end| bytes.get(at..end)) {
                let hash = h128(index);
                bytes[120..136].copy_from_slice(&hash.to_le_bytes());
            }
            seal_header(bytes);
        }
        _ => seal_slot(bytes),
    }
}

/// What the digest covers of a page.
#[derive(Debug, Clone, Default)]
pub struct Page<'a> {
    /// Name, dtype and metadata.
    pub texts: [&'a [u8]; 3],
    /// Where it lives.
    pub location: u8,
    /// Bytes of an element.
    pub itemsize: u64,
    /// Elements in each dimension.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: &'a [u8],
}

fn page_digest(page: &Page<'_>) -> u128 {
    let mut out = Vec::new();
    for text in page.texts {
        out.extend_from_slice(&(text.len() as u64).to_le_bytes());
        out.extend_from_slice(text);
    }
    let words = [u64::from(page.location), page.itemsize, page.shape.len() as u64];
    for value in words.iter().chain(&page.shape).chain([&(page.bytes.len() as u64)]) {
        out.extend_from_slice(&value.to_le_bytes());
    }
    let mut level: Vec<u128> = page.bytes.chunks(16384).map(h128).collect();
    while level.len() > 1 {
        let joined =
            |nodes: &[u128]| nodes.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
        level = level.chunks(32).map(|nodes| h128(&joined(nodes))).collect();
    }
    out.extend_from_slice(&level.first().copied().unwrap_or_else(|| h128(b"")).to_le_bytes());
    h128(&out)
}

/// The digest of a state of these pages, by id.
pub fn digest(pages: &std::collections::BTreeMap<u64, Page<'_>>) -> u128 {
    let joined = |nodes: &[(u64, u128)]| {
        let mut out = Vec::new();
        for (index, hash) in nodes {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&hash.to_le_bytes());
        }
        h128(&out)
    };
    let mut level: Vec<(u64, u128)> =
        pages.iter().map(|(&id, page)| (id, page_digest(page))).collect();
    let (mut bits, mut top) = (4, pages.keys().next_back().copied().unwrap_or(0));
    let mut leaf = true;
    let root = loop {
        let nodes = level.chunk_by(|a, b| a.0 >> bits == b.0 >> bits);
        let within = |index: u64| if leaf { index } else { index & 31 };
        let above: Vec<(u64, u128)> = nodes
            .map(|nodes| {
                let inside: Vec<_> = nodes.iter().map(|&(i, hash)| (within(i), hash)).collect();
                (nodes[0].0 >> bits, joined(&inside))
            })
            .collect();
        top >>= bits;
        if top == 0 {
            break above.first().map_or(0, |&(_, hash)| hash);
        }
        (level, bits, leaf) = (above, 5, false);
    };
    let mut out = b"mmsb state 1".to_vec();
    out.extend_from_slice(&root.to_le_bytes());
    out.extend_from_slice(&[0; 16]);
    h128(&out)
}
