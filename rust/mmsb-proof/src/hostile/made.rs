//! Stores made of nothing: files with right checksums around contents that the input says.

use std::collections::BTreeMap;
use std::path::Path;

use super::{DIR, Input, examine};
use crate::format::{self, COMMIT, DURABLE, HEADER, MARK, Page, SEAL, Segment, varint};
use crate::sim::{Disk, SimVfs};

const UUID: u64 = 0x5EED;
/// A commit has metadata.
const META: u8 = 4;

/// A store of these segments, with slots that say so much to be durable.
fn store(segments: &[(String, Vec<u8>)], durable: (u64, u64), epoch: u64) -> Disk {
    let dir = Path::new(DIR);
    let mut disk = SimVfs::new().disk();
    disk.make_dirs(&["", "log", "checkpoints", "quarantine"].map(|sub| dir.join(sub)));
    for generation in [2, 3] {
        let slot = format::slot(UUID, generation, durable, epoch);
        disk.plant(&dir.join(format!("meta-{}", generation % 2)), &slot);
    }
    for (name, bytes) in segments {
        disk.plant(&dir.join(name), bytes);
    }
    disk
}

/// Segments of records of any kind, flags, epoch and payload, with right checksums.
pub fn record_decode(data: &[u8]) {
    let mut input = Input(data);
    let style = input.byte();
    let mut segments = Vec::new();
    let (mut chain, mut epoch) = (0, if style & 1 == 0 { 0 } else { input.word(8) });
    let mut durable = (0, HEADER as u64);
    for seq in 0..1 + u64::from(style >> 1 & 3) {
        let first_epoch = epoch.wrapping_add(1);
        let said = if style & 8 == 0 { durable } else { (input.word(1), input.word(3)) };
        let of = Segment { uuid: UUID, seq, first_epoch, chain, durable: said };
        let mut bytes = format::segment(&of);
        let mut commits = 0u64;
        for _ in 0..1 + input.byte() % 12 {
            let (kind, flags) = (input.byte(), input.byte());
            let (kind, flags) = match kind {
                0..96 => (COMMIT, flags & 7),
                96..112 => (MARK, flags & 1),
                112..128 => (SEAL, flags & 1),
                other => (other, flags),
            };
            let mut payload = Vec::new();
            if flags & DURABLE != 0 && kind < 128 {
                varint(&mut payload, input.word(1) * 8);
            }
            match (kind, input.byte()) {
                (COMMIT, form @ 0..200) => {
                    varint(&mut payload, u64::from(form));
                    for _ in 0..(flags & META) / META + flags / 2 % 2 {
                        format::text(&mut payload, input.run());
                    }
                }
                (MARK, 0..200) => payload.extend_from_slice(&[7; 32]),
                (SEAL, 0..200) => {
                    payload.extend_from_slice(&commits.to_le_bytes());
                    payload.extend_from_slice(&epoch.to_le_bytes());
                }
                _ => {}
            }
            payload.extend_from_slice(input.run());
            let commit = kind == COMMIT;
            epoch = epoch.wrapping_add(u64::from(commit));
            commits += u64::from(commit);
            format::put_record(&mut bytes, &mut chain, kind, flags, epoch, &payload);
            if style & 16 != 0 {
                durable = (seq, bytes.len() as u64);
            }
        }
        if style & 32 == 0 {
            let payload = [commits.to_le_bytes(), epoch.to_le_bytes()].concat();
            format::put_record(&mut bytes, &mut chain, SEAL, 0, epoch, &payload);
        }
        // What no checksum covers, and what a record may seem to go on with.
        bytes.extend_from_slice(if style & 64 == 0 { &[] } else { input.run() });
        segments.push((format::segment_name(seq, first_epoch), bytes));
    }
    examine(&store(&segments, durable, 0));
}

/// The input as the operations of one commit behind one that makes a few pages.
pub(super) fn payload(data: &[u8]) {
    let mut bytes = format::segment(&Segment { uuid: UUID, first_epoch: 1, ..Segment::default() });
    let mut chain = 0;
    let mut first = vec![0];
    for (id, len) in [(1u64, 40u64), (2, 20_000), (3, 0)] {
        first.push(1);
        varint(&mut first, id);
        format::text(&mut first, format!("p{id}").as_bytes());
        first.extend_from_slice(&[0, 1, 1]);
        varint(&mut first, len);
        varint(&mut first, len);
        first.extend_from_slice(&[0, 0]);
    }
    format::put_record(&mut bytes, &mut chain, COMMIT, 0, 1, &first);
    let ops = [&[0][..], data].concat();
    format::put_record(&mut bytes, &mut chain, COMMIT, 0, 2, &ops);
    let end = bytes.len() as u64;
    examine(&store(&[(format::segment_name(0, 1), bytes)], (0, end), 2));
}

/// A checkpoint whose checksums are right: of pages that the input describes, or with any bytes as its index.
pub fn checkpoint_load(data: &[u8]) {
    let mut input = Input(data);
    let style = input.byte();
    let epoch = u64::from(input.byte() % 4);
    let mut bytes = vec![0; HEADER];
    let mut index = Vec::new();
    let (mut pages, mut tags, mut last) = (0u64, 0u64, 0u64);
    // Where the bytes of a page are, for its digest.
    let mut made: Vec<(u64, Made<'_>)> = Vec::new();
    if style & 1 == 0 {
        for _ in 0..input.byte() % 6 {
            let (id, page) = page(&mut input, &mut bytes, &mut index, last);
            (last, pages) = (id, pages + 1);
            made.push((id, page));
        }
        for _ in 0..input.byte() % 4 {
            format::text(&mut index, input.run());
            varint(&mut index, input.word(1) % 5);
            tags += 1;
        }
    } else {
        (pages, tags) = (input.word(1), input.word(1));
        let n = input.word(2) as usize % 2000;
        bytes.extend_from_slice(input.take(n));
        index.extend_from_slice(input.0);
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let all: BTreeMap<u64, Page<'_>> =
        made.iter().map(|(id, made)| (*id, made.page(&bytes))).collect();
    let digest = format::digest(&all);
    drop(all);
    let next_id = if style & 2 == 0 { last + 1 } else { input.word(8) };
    let at = bytes.len() as u64;
    bytes.extend_from_slice(&index);
    let size = bytes.len() as u64;
    bytes[..16].copy_from_slice(b"\x89MMSB ckpt\r\n\x1a\n\0\xff");
    bytes[16] = 1;
    let words = [epoch, 9, next_id, pages, tags, at, index.len() as u64, size];
    words.iter().enumerate().for_each(|(i, &word)| format::set_word(&mut bytes, 56 + 8 * i, word));
    format::set_word(&mut bytes, 40, UUID);
    bytes[136..152].copy_from_slice(&digest.to_le_bytes());
    bytes[24] = u8::from(style & 16 == 0);
    if style & 4 != 0 {
        let at = input.byte() as usize % 20 * 8;
        let word = input.word(8);
        format::set_word(&mut bytes, at, word);
    }
    let path = Path::new(DIR).join(format!("checkpoints/{epoch:016x}.ckpt"));
    format::repair(&path, &mut bytes);
    // A log of three commits that change nothing, and what the input says behind them.
    let mut segment =
        format::segment(&Segment { uuid: UUID, first_epoch: 1, ..Segment::default() });
    let mut chain = 0;
    for epoch in 1..4 {
        format::put_record(&mut segment, &mut chain, COMMIT, META, epoch, b"\0\x02{}");
    }
    if style & 8 != 0 {
        let ops = [&[0][..], input.0].concat();
        format::put_record(&mut segment, &mut chain, COMMIT, 0, 4, &ops);
    }
    let end = segment.len() as u64;
    let mut disk = store(&[(format::segment_name(0, 1), segment)], (0, end), 3);
    disk.plant(&path, &bytes);
    examine(&disk);
}

/// A page of a made-up checkpoint.
struct Made<'a> {
    texts: [&'a [u8]; 3],
    location: u8,
    itemsize: u64,
    shape: Vec<u64>,
    at: usize,
    len: usize,
}

impl Made<'_> {
    fn page<'b>(&'b self, file: &'b [u8]) -> Page<'b> {
        let bytes = file.get(self.at..self.at + self.len).unwrap_or_default();
        let Made { texts, location, itemsize, .. } = *self;
        Page { texts, location, itemsize, shape: self.shape.clone(), bytes }
    }
}

/// Puts a page's bytes into the file and its entry into the index; mostly as it should be.
fn page<'a>(
    input: &mut Input<'a>,
    file: &mut Vec<u8>,
    index: &mut Vec<u8>,
    last: u64,
) -> (u64, Made<'a>) {
    let odd = input.byte();
    let id = if odd & 1 == 0 { last + 1 + u64::from(odd >> 4) } else { input.word(2) };
    let (name, dtype, meta) = (input.run(), input.take(usize::from(odd & 2)), input.take(3));
    let len = match odd & 12 {
        0 => usize::from(input.byte()),
        4 => 16_380 + usize::from(input.byte() % 8),
        8 => 0,
        _ => input.word(2) as usize,
    };
    let big = if len > 16384 { 4096 } else { 8 };
    let (mut at, fill) = (file.len(), input.byte());
    if odd & 1 == 0 || file.len() < HEADER + len {
        file.resize(file.len().next_multiple_of(big), 0);
        at = file.len();
        file.resize(at + len, fill);
    } else if len > 0 {
        // The bytes of somebody else.
        at = HEADER + usize::from(fill) % (file.len() - len - HEADER + 1);
    }
    let (itemsize, shape) = if odd & 16 == 0 {
        (1, vec![len as u64])
    } else {
        (input.word(1), vec![input.word(1), input.word(1)])
    };
    let location = u8::from(odd & 32 != 0);
    varint(index, id);
    format::text(index, name);
    format::text(index, dtype);
    varint(index, itemsize);
    varint(index, shape.len() as u64);
    shape.iter().for_each(|&n| varint(index, n));
    varint(index, len as u64);
    format::text(index, meta);
    index.push(location);
    varint(index, input.word(1) % 4);
    varint(index, input.word(1) % 4);
    let in_runs = odd & 64 != 0;
    varint(index, if in_runs { 0 } else { at as u64 });
    for piece in file[at..at + len].chunks(16384) {
        index.extend_from_slice(&format::h128(piece).to_le_bytes());
    }
    if in_runs {
        let blocks = len.div_ceil(16384) as u64;
        match odd & 128 == 0 {
            true if blocks == 0 => {}
            true => [blocks << 3 | 1, at as u64].iter().for_each(|&word| varint(index, word)),
            // Blocks of zeros and any others, in any number, compressed or of a base that may not be.
            false => index.extend_from_slice(input.run()),
        }
    }
    (id, Made { texts: [name, dtype, meta], location, itemsize, shape, at, len })
}
