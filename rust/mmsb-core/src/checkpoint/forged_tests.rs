//! Blocks that the index tells of run by run, and bases: with hashes that are right, and what cannot be.

use std::io;
use std::sync::Arc;

use super::base_tests::pair;
use super::damage_tests::{get, refused, set};
use super::runs::{Form, Gather, Stored};
use super::tests::*;
use super::*;
use crate::hash::{h64, h128};
use crate::log::double::Double;
use crate::log::put_varint;
use crate::vfs::RamVfs;

const EIO: i32 = 5;
const ZERO: u64 = 0;
const RAW: u64 = 1;
const LZ4: u64 = 2;
const IN_BASE: u64 = 4;

/// Runs as the index tells them: how many blocks, how, and where.
fn runs(of: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut told = Vec::new();
    for &(count, kind, at) in of {
        put_varint(&mut told, count << 3 | kind);
        if kind & 3 != ZERO {
            put_varint(&mut told, at);
        }
    }
    told
}

/// A block, a block of zeros, the first block again, and 5 bytes.
fn four_blocks() -> File {
    let block = pattern(16384, 1);
    let bytes = [&*block, &[0; 16384], &*block, b"bytes"].concat();
    let (_, _, file) = world();
    File { pages: vec![page(1, None, bytes, 1)], tags: vec![], next_id: 2, ..file }
}

/// The checkpoint of those, with other runs.
fn told_by(file: &File, told: &[u8]) -> Vec<u8> {
    let replace = &mut |index: &mut Vec<u8>| {
        let own = runs(&[(1, RAW, 4096), (1, ZERO, 0), (2, RAW, 20480)]);
        assert!(index.ends_with(&own));
        index.truncate(index.len() - own.len());
        index.extend_from_slice(told);
    };
    file.encode_with(replace, &mut |_| {})
}

/// However the runs are cut, they tell of the same blocks.
#[test]
fn runs_that_hold() {
    let file = four_blocks();
    let cut = [(1, RAW, 4096), (1, ZERO, 0), (1, RAW, 20480), (1, RAW, 36864)];
    let vfs = only(3, &told_by(&file, &runs(&cut)));
    assert_eq!(verify(&vfs, store(), 3, file.uuid).unwrap().1, file.digest);
    let reader = Reader::open(&vfs, store(), 3, file.uuid).unwrap();
    let place = reader.pages().next().unwrap().unwrap().place;
    let mut bytes = Vec::new();
    let mut each = |_, block: &[u8]| bytes.extend_from_slice(block);
    reader.blocks(&place, &mut [0; 16384], &mut each).unwrap();
    assert!(bytes == file.pages[0].bytes);
}

/// Any block can be the first that is read, and any later one the next.
#[test]
fn blocks_that_are_passed_over() {
    let (vfs, [below, above]) = pair();
    let uuid = uuid(&*vfs, store(), 3).unwrap().unwrap();
    assert_eq!(get(&below, 80), 2);
    let words: Vec<u8> = b"again and ".iter().copied().cycle().take(40 << 10).collect();
    let mut bytes = [words, pattern(40 << 10, 5)].concat();
    for (epoch, file) in [(2, below), (3, above)] {
        if epoch == 3 {
            bytes[50_000..50_005].copy_from_slice(b"other");
        }
        assert_eq!(get(&file, 56), epoch);
        let reader = Reader::open(&*vfs, store(), epoch, uuid).unwrap();
        let place = reader.pages().next().unwrap().unwrap().place;
        for first in 0..5 {
            for next in first + 1..5 {
                let (mut cursor, mut buf) = (reader.cursor(&place), [0; 16384]);
                for number in [first, next] {
                    let want = &bytes[number as usize * 16384..][..16384];
                    assert!(cursor.block(number, &mut buf).unwrap() == want, "{first} {next}");
                }
            }
        }
    }
}

/// A base need not have the blocks of a page without gaps; what is told of them is where they are.
#[test]
fn blocks_that_do_not_follow_each_other() {
    let mut gather = Gather::default();
    let block = |at| Stored { in_base: true, form: Form::Raw, at, len: 16384, sum: 0 };
    [4096, 20480, 36872].into_iter().for_each(|at| gather.add(block(at)));
    assert_eq!(gather.finish(), runs(&[(2, RAW | IN_BASE, 4096), (1, RAW | IN_BASE, 36872)]));
}

/// All of them would bring the right bytes, if they were believed.
#[test]
fn runs_that_lie() {
    let file = four_blocks();
    let (first, zeros, rest) = ((1, RAW, 4096), (1, ZERO, 0), (2, RAW, 20480));
    let lies: [&[(u64, u64, u64)]; 10] = [
        // None of them, and that first.
        &[(0, RAW, 4096), first, zeros, rest],
        &[(0, ZERO, 0), first, zeros, rest],
        &[first, zeros, (0, RAW, 20480), rest],
        // Zeros of a base; a base that there is not; a form that there is not.
        &[first, (1, ZERO | IN_BASE, 0), rest],
        &[first, zeros, (1, RAW | IN_BASE, 20480), (1, RAW, 36864)],
        &[first, (1, 3, 0), rest],
        // More than the page has, or less.
        &[first, zeros, (3, RAW, 20480)],
        &[first, zeros, (1, RAW, 20480)],
        // Not in order, and the same twice.
        &[(1, RAW, 20480), zeros, (1, RAW, 4096), (1, RAW, 36864)],
        &[first, zeros, (1, RAW, 4096), (1, RAW, 36864)],
    ];
    for lie in lies {
        let bytes = told_by(&file, &runs(lie));
        let index_at = Some(get(&bytes, 96));
        assert_eq!(refused(&file, &bytes), (Code::Corruption, index_at), "{lie:?}");
    }
    // In the header, behind the pages, and past all.
    for at in [0, 4088, 36868, u64::MAX] {
        let bytes = told_by(&file, &runs(&[first, zeros, (1, RAW, 20480), (1, RAW, at)]));
        assert_eq!(refused(&file, &bytes), (Code::Corruption, Some(get(&bytes, 96))), "{at}");
    }
}

/// Of the last block: its length, and what those bytes are.
#[test]
fn compressed_blocks_that_lie() {
    let lie = |packed: &[u8], sum: u64| {
        let mut file = four_blocks();
        file.pages[0].bytes[3 * 16384..][..packed.len()].copy_from_slice(packed);
        let mut told = runs(&[(1, RAW, 4096), (1, ZERO, 0), (1, RAW, 20480), (1, LZ4, 36864)]);
        put_varint(&mut told, packed.len() as u64);
        told.extend_from_slice(&sum.to_le_bytes());
        let bytes = told_by(&file, &told);
        (refused(&file, &bytes), get(&bytes, 96))
    };
    // What takes no bytes or as many as it has was not compressed.
    for packed in [&b""[..], b"bytes"] {
        let (told, index_at) = lie(packed, h64(packed));
        assert_eq!(told, (Code::Corruption, Some(index_at)));
    }
    // Three bytes that are not five, a length that runs out, and another hash.
    let three = b"\x30abc";
    for (packed, sum) in [(three, h64(three)), (b"\xf0abc", h64(b"\xf0abc")), (three, 1)] {
        assert_eq!(lie(packed, sum).0, (Code::Corruption, Some(36864)));
    }
}

/// A checkpoint whose index and header were changed and got their hashes again.
fn again(bytes: &[u8], index: &[u8], change: &dyn Fn(&mut [u8])) -> Vec<u8> {
    let index_at = get(bytes, 96);
    let mut all = [&bytes[..index_at as usize], index].concat();
    set(&mut all, 104, index.len() as u64);
    set(&mut all, 112, index_at + index.len() as u64);
    all[120..136].copy_from_slice(&h128(index).to_le_bytes());
    change(&mut all);
    let sum = h64(&all[..4088]);
    set(&mut all, 4088, sum);
    all
}

fn index(bytes: &[u8]) -> &[u8] {
    &bytes[get(bytes, 96) as usize..]
}

/// What a block is said to be in the base has to lie among the base's pages.
#[test]
fn a_block_that_is_elsewhere_in_the_base() {
    let (vfs, [below, above]) = pair();
    let uuid = uuid(&*vfs, store(), 3).unwrap().unwrap();
    let tail = |at: usize| {
        let hash = h128(&below[at..at + 30]).to_le_bytes();
        [&hash[..], &runs(&[(1, RAW | IN_BASE, at as u64)])].concat()
    };
    let small = below.windows(30).position(|bytes| bytes == pattern(30, 6)).unwrap();
    let head = index(&above).strip_suffix(&*tail(small)).unwrap();
    let end = get(&below, 96) as usize;
    for (at, is_there) in [
        (4096, true),
        (end - 30, true),
        (0, false),
        (4095, false),
        (end - 29, false),
        (below.len() - 30, false),
    ] {
        let forged = again(&above, &[head, &*tail(at)].concat(), &|_| ());
        let vfs = only(3, &forged);
        put(&vfs, 2, &below);
        match verify(&vfs, store(), 3, uuid) {
            Ok(_) => assert!(is_there, "{at}"),
            Err(error) => {
                assert!(!is_there && error.message.contains("no page is there"), "{at}: {error}");
                assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(at as u64)));
                assert_eq!(error.detail.file, Some(path(store(), 2)));
            }
        }
    }
}

/// One stands on another that has all of its blocks itself.
#[test]
fn a_base_that_stands_on_a_base() {
    let (vfs, [_, above]) = pair();
    let uuid = uuid(&*vfs, store(), 3).unwrap().unwrap();
    let sum = get(&above, 4088);
    let third = again(&above, index(&above), &|head| {
        set(head, 56, 4);
        set(head, 152, 3);
        set(head, 160, sum);
    });
    put(&*vfs, 4, &third);
    let error = verify(&*vfs, store(), 4, uuid).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(152)));
    assert_eq!(error.detail.file, Some(path(store(), 4)));
    assert!(error.message.contains("another one than is there"), "{error}");
}

/// What is wrong with a base is told as what it is.
#[test]
fn a_base_that_cannot_be_opened() {
    let (ram, [below, _]) = pair();
    let uuid = uuid(&*ram, store(), 3).unwrap().unwrap();
    let double = Double::new(ram.clone());
    let opens_base =
        |call: &crate::log::double::Call| call.what == "open" && call.path == path(store(), 2);
    double.fail(move |call| opens_base(call).then(|| io::Error::from_raw_os_error(EIO)));
    let error = verify(&double, store(), 3, uuid).unwrap_err();
    assert_eq!((error.code, error.detail.errno), (Code::Storage, Some(EIO)));
    assert_eq!(error.detail.file, Some(path(store(), 2)));
    // Its header is damaged: nothing is missing.
    double.heal();
    let mut bad = below;
    bad[60] ^= 1;
    ram.unlink(&path(store(), 2)).unwrap();
    put(&*ram, 2, &bad);
    let error = verify(&double, store(), 3, uuid).unwrap_err();
    assert_eq!((error.code, error.detail.file), (Code::Corruption, Some(path(store(), 2))));
    // Both go away while the upper one is being opened, as when they are thinned: it is missing, not damaged.
    let under: Arc<RamVfs> = ram;
    double.fail(move |call| {
        if opens_base(call) {
            under.unlink(&path(store(), 3)).unwrap();
            under.unlink(&path(store(), 2)).unwrap();
        }
        None
    });
    assert!(verify(&double, store(), 3, uuid).unwrap_err().is_missing());
}
