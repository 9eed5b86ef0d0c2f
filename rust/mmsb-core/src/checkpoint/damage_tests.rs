//! Checkpoints that were damaged, and those that were written wrong: every byte, every field.

use super::tests::*;
use super::*;
use crate::hash::h64;
use crate::snapshot::Snapshot;
use crate::vfs::write_all_at;

/// One bit of every byte that matters, one of many in the pages: always found by `verify`, never a wrong state.
#[test]
fn damage_everywhere() {
    let (_, _, mut file) = world();
    file.automatic = true;
    let bytes = file.encode();
    let index_at = u64::from_le_bytes(bytes[96..104].try_into().unwrap()) as usize;
    let mut vfs = only(3, &bytes);
    assert!(is_automatic(&vfs, store(), 3).unwrap());
    let target = vfs.open(&path(store(), 3), OpenKind::ReadWrite).unwrap();
    for at in 0..bytes.len() {
        let dense = at < 160 || (4080..4200).contains(&at) || at >= index_at;
        if !(dense || bytes[at] == 0 && at % 7 == 0 || at % 101 == 0) {
            continue;
        }
        write_all_at(&*target, at as u64, &[bytes[at] ^ 1 << (at % 8)]).unwrap();
        let error = verify(&vfs, store(), 3, file.uuid).unwrap_err();
        assert_eq!(error.code, Code::Corruption, "byte {at}");
        assert_eq!(error.detail.file, Some(path(store(), 3)));
        assert!(error.detail.offset.unwrap() <= at as u64 || at < 4096);
        assert_eq!(is_automatic(&vfs, store(), 3).unwrap(), at >= 4096, "byte {at}");
        if at % 11 == 0 || at < 160 {
            match loaded(&vfs, &file, &mut Vec::new()) {
                Ok(core) => {
                    assert_eq!(Snapshot::newest(&core).unwrap().digest().unwrap(), file.digest)
                }
                Err(error) => assert_eq!(error.code, Code::Corruption, "byte {at}"),
            }
        }
        write_all_at(&*target, at as u64, &bytes[at..at + 1]).unwrap();
    }
    let len = bytes.len();
    for (cut, offset) in [(0, 0), (1, 0), (4095, 0), (4096, 96), (len - 1, 96), (len + 1, 96)] {
        let mut bad = bytes.clone();
        bad.resize(cut, 0);
        vfs = only(3, &bad);
        for error in [
            verify(&vfs, store(), 3, file.uuid).unwrap_err(),
            loaded(&vfs, &file, &mut Vec::new()).unwrap_err(),
        ] {
            assert_eq!(
                (error.code, error.detail.offset),
                (Code::Corruption, Some(offset)),
                "{cut}"
            );
        }
        assert_eq!(is_automatic(&vfs, store(), 3).unwrap(), cut >= 4096);
    }
}

/// The answer of loading and of `verify`: both fail alike, and say where.
pub(super) fn refused(file: &File, bytes: &[u8]) -> (Code, Option<u64>) {
    let vfs = only(file.epoch, bytes);
    let error = loaded(&vfs, file, &mut Vec::new()).unwrap_err();
    let other = verify(&vfs, store(), file.epoch, file.uuid).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (other.code, other.detail.offset));
    (error.code, error.detail.offset)
}

pub(super) fn set(head: &mut [u8], at: usize, word: u64) {
    head[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

pub(super) fn get(head: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(head[at..at + 8].try_into().unwrap())
}

/// Headers whose own hash is right and which say what cannot be.
#[test]
fn headers_that_lie() {
    let (_, _, file) = world();
    let lie = |change: &dyn Fn(&mut Vec<u8>)| {
        refused(&file, &file.encode_with(&mut |_| {}, &mut |head| change(head)))
    };
    for major in [0, 2, 255] {
        assert_eq!(lie(&|head| head[16] = major).0, Code::FormatVersion);
    }
    assert_eq!(lie(&|head| head[24] = 7).0, Code::FormatVersion);
    assert_eq!(lie(&|head| head[31] = 0x80).0, Code::FormatVersion);
    let corrupt = |offset| (Code::Corruption, Some(offset));
    assert_eq!(lie(&|head| head[0] ^= 1), corrupt(0));
    assert_eq!(lie(&|head| head[15] ^= 1), corrupt(0));
    assert_eq!(lie(&|head| head[40] ^= 1), corrupt(40));
    assert_eq!(lie(&|head| head[55] ^= 1), corrupt(40));
    assert_eq!(lie(&|head| set(head, 56, 4)), corrupt(40));
    for at in [96, 104, 112] {
        for more in [1, u64::MAX] {
            let change = |head: &mut Vec<u8>| {
                let word = get(head, at).wrapping_add(more);
                set(head, at, word);
            };
            assert_eq!(lie(&change), corrupt(96));
        }
    }
    // An index that begins inside the header.
    let inside = |head: &mut Vec<u8>| {
        let end = get(head, 112);
        set(head, 96, 4088);
        set(head, 104, end - 4088);
    };
    assert_eq!(lie(&inside), corrupt(96));
    assert_eq!(lie(&|head| set(head, 104, u64::MAX)), corrupt(96));
    // An epoch past which none could be counted.
    for epoch in [1 << 63, u64::MAX - 1, u64::MAX] {
        let far = File { epoch, ..file.clone() };
        assert_eq!(refused(&far, &far.encode()), corrupt(56));
    }
    let last = File { epoch: (1 << 63) - 1, ..file.clone() };
    let core = loaded(&only(last.epoch, &last.encode()), &last, &mut Vec::new()).unwrap();
    assert_eq!(core.epoch(), last.epoch);
    for at in [168, 1000, 4087] {
        assert_eq!(lie(&|head| head[at] = 1), corrupt(96));
    }
    // A base that is none: of this epoch or a later one, without an epoch, in a checkpoint without runs.
    let base = |epoch, sum, has_runs| {
        move |head: &mut Vec<u8>| {
            head[24] = has_runs;
            set(head, 152, epoch);
            set(head, 160, sum);
        }
    };
    for (epoch, sum, has_runs) in [(3, 5, 1), (u64::MAX, 5, 1), (0, 5, 1), (2, 5, 0)] {
        let change = base(epoch, sum, has_runs);
        assert_eq!(lie(&change), corrupt(152));
        // It is not looked for.
        let bytes = file.encode_with(&mut |_| {}, &mut |head| change(head));
        let error = verify(&only(3, &bytes), store(), 3, file.uuid).unwrap_err();
        assert!(error.message.contains("none that there can be"), "{error}");
    }
    // One that is not there.
    assert_eq!(lie(&base(2, 5, 1)), corrupt(152));
    assert_eq!(lie(&|head| head[24] = 0), corrupt(get(&file.encode(), 96)));
    let index_at = get(&file.encode(), 96);
    assert_eq!(lie(&|head| head[120] ^= 1), corrupt(index_at));
    assert_eq!(lie(&|head| head[135] ^= 1), corrupt(index_at));
    // What may differ: the minor version and features that a reader need not know.
    let minor = file.encode_with(&mut |_| {}, &mut |head| {
        head[18] = 7;
        head[32] = 1;
    });
    loaded(&only(3, &minor), &file, &mut Vec::new()).unwrap();
}

/// An index that says it is larger than any memory: nothing is wrong with the file.
#[test]
fn an_index_without_memory() {
    let (_, _, file) = world();
    let bytes = file.encode_with(&mut |_| {}, &mut |head| {
        let index_at = get(head, 96);
        set(head, 104, (1 << 60) - index_at);
        set(head, 112, 1 << 60);
    });
    let vfs = only(3, &bytes);
    vfs.open(&path(store(), 3), OpenKind::ReadWrite).unwrap().set_len(1 << 60).unwrap();
    let lacking = ((1u64 << 60) - get(&bytes, 96)).to_string();
    for error in [
        verify(&vfs, store(), 3, file.uuid).unwrap_err(),
        loaded(&vfs, &file, &mut Vec::new()).unwrap_err(),
    ] {
        assert_eq!(error.code, Code::OutOfSpace);
        assert!(error.message.contains(&lacking), "{error}");
    }
}

/// What only loading can see: the state, and tags.
#[test]
fn states_that_lie() {
    let (_, _, file) = world();
    let load_only = |file: &File, bytes: &[u8]| {
        let error = loaded(&only(3, bytes), file, &mut Vec::new()).unwrap_err();
        (error.code, error.detail.offset)
    };
    let other = File { digest: file.digest ^ 1 << 100, ..file.clone() };
    assert_eq!(load_only(&file, &other.encode()), (Code::Corruption, Some(136)));
    let index_at = Some(get(&file.encode(), 96));
    let tags = file.encode_with(&mut |_| {}, &mut |head| set(head, 88, 3));
    assert_eq!(load_only(&file, &tags), (Code::Corruption, index_at));
    // A description of the future, and bytes of it.
    for at in 0..file.pages.len() {
        for bytes in [false, true] {
            let mut wrong = file.clone();
            let page = &mut wrong.pages[at];
            *(if bytes { &mut page.bytes_epoch } else { &mut page.info.desc_epoch }) = 4;
            assert_eq!(load_only(&wrong, &wrong.encode()), (Code::Corruption, index_at));
        }
    }
}

/// An index that ends anywhere but where it has to, with the right hash.
#[test]
fn an_index_of_another_length() {
    let (_, _, mut file) = world();
    // Few pages, so that all lengths are tried.
    file.pages.truncate(4);
    file.pages.remove(2);
    let index_at = Some(get(&file.encode(), 96));
    let len = get(&file.encode(), 104) as usize;
    for cut in 0..len {
        let short = file.encode_with(&mut |index| index.truncate(cut), &mut |_| {});
        assert_eq!(refused(&file, &short), (Code::Corruption, index_at), "{cut} of {len}");
    }
    let long = file.encode_with(&mut |index| index.push(0), &mut |_| {});
    assert_eq!(refused(&file, &long), (Code::Corruption, index_at));
    // Without what is wrong with them they are sound.
    assert_eq!(verify(&only(3, &file.encode()), store(), 3, file.uuid).unwrap().1, file.digest);
}

/// Entries whose hash is right and which say what cannot be.
#[test]
fn entries_that_lie() {
    let (_, _, file) = world();
    let index_at = |file: &File| Some(get(&file.encode(), 96));
    let bad = |at: usize, change: &dyn Fn(&mut Page)| {
        let mut file = file.clone();
        change(&mut file.pages[at]);
        assert_eq!(refused(&file, &file.encode()), (Code::Corruption, index_at(&file)));
    };
    bad(0, &|page| page.info.id = 0);
    bad(8, &|page| page.info.id = crate::apply::MAX_ID);
    bad(8, &|page| page.info.id = u64::MAX);
    bad(6, &|page| page.info.shape = vec![1; 65]);
    bad(8, &|page| page.at = Some(u64::MAX));
    bad(8, &|page| page.info.nbytes = u64::MAX);
    let mut end = file.clone();
    end.pages[8].info.nbytes += 8;
    assert_eq!(refused(&end, &end.encode()), (Code::Corruption, index_at(&end)));
    // An itemsize over 32 bits, a name that is no text: both in the first entry, whose bytes are known.
    let entry = |change: &dyn Fn(&mut Vec<u8>)| {
        refused(&file, &file.encode_with(&mut |index| change(index), &mut |_| {})).0
    };
    assert_eq!(file.encode()[index_at(&file).unwrap() as usize..][..9], *b"\x01\x05empty\0\x01");
    let long = |index: &mut Vec<u8>| {
        index.splice(8..9, [0x80, 0x80, 0x80, 0x80, 0x10]);
    };
    assert_eq!(entry(&long), Code::Corruption);
    assert_eq!(entry(&|index| index[2] = 0xFF), Code::Corruption);
    assert_eq!(entry(&|index| index.truncate(200)), Code::Corruption);
    assert_eq!(entry(&|index| index.clear()), Code::Corruption);
    let more = file.encode_with(&mut |_| {}, &mut |head| set(head, 80, 12));
    assert_eq!(refused(&file, &more).0, Code::Corruption);
    // Bytes that are not those of the entry: the place is that of the block.
    let mut bytes = file.encode();
    let large = bytes.windows(8).position(|w| *w == file.pages[5].bytes[..8]).unwrap();
    bytes[large + 16384 * 2 + 5] ^= 1;
    let at = large as u64 + 16384 * 2;
    assert_eq!(refused(&file, &bytes), (Code::Corruption, Some(at)));
}

/// Between pages there are less than 4096 bytes, all zero; `verify` looks.
#[test]
fn gaps() {
    let (_, _, file) = world();
    let two = |first: usize| {
        let pages = vec![page(1, None, vec![7; first], 1), page(2, None, vec![8; 20_000], 1)];
        File { pages, tags: vec![], ..file.clone() }
    };
    let verified = |file: &File, bytes: &[u8]| verify(&only(3, bytes), store(), 3, file.uuid);
    for first in [1, 8, 4095, 4096] {
        let file = two(first);
        verified(&file, &file.encode()).unwrap();
    }
    // The same with the second page moved up by so much that nothing explains it.
    let file = two(4096);
    let mut moved = file.clone();
    moved.pages[1].at = Some(3 * 4096);
    let mut bytes = moved.encode();
    bytes.splice(8192..8192, [0; 4096]);
    let places: Vec<u64> = [96, 112].map(|at| get(&bytes, at) + 4096).to_vec();
    set(&mut bytes, 96, places[0]);
    set(&mut bytes, 112, places[1]);
    let sum = h64(&bytes[..4088]);
    set(&mut bytes, 4088, sum);
    let error = verified(&moved, &bytes).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(8192)));
    assert!(error.message.contains("follow"), "{error}");
    // Or before the end of the first.
    let mut back = two(5000);
    back.pages[1].at = Some(9000);
    let error = verified(&back, &back.encode()).unwrap_err();
    assert_eq!(error.detail.offset, Some(get(&back.encode(), 96)));
    let mut dirty = two(4095).encode();
    dirty[8191] = 1;
    let error = verified(&file, &dirty).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(8191)));
    assert!(error.message.contains("padding"), "{error}");
    // The same before the index.
    let odd = File { pages: vec![page(1, None, vec![7; 3], 1)], tags: vec![], ..file.clone() };
    verified(&odd, &odd.encode()).unwrap();
    let mut dirty = odd.encode();
    dirty[4096 + 3] = 1;
    let error = verified(&odd, &dirty).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(4096 + 3)));
}

/// Pages and tags that no bus can have: twice, out of order, of the future, with names that are none.
#[test]
fn states_that_no_bus_has() {
    let (_, _, file) = world();
    let refused = |change: &dyn Fn(&mut File)| {
        let mut file = file.clone();
        change(&mut file);
        let bytes = file.encode();
        let error = loaded(&only(file.epoch, &bytes), &file, &mut Vec::new()).unwrap_err();
        assert_eq!(error.code, Code::Corruption);
        assert_eq!(error.detail.offset, Some(get(&bytes, 96)), "{error}");
    };
    refused(&|file| file.next_id = 10);
    refused(&|file| file.next_id = 0);
    refused(&|file| file.next_id = crate::apply::MAX_ID + 1);
    refused(&|file| file.next_id = u64::MAX);
    let last = File { next_id: crate::apply::MAX_ID, ..file.clone() };
    let core = loaded(&only(3, &last.encode()), &last, &mut Vec::new()).unwrap();
    assert_eq!(Snapshot::newest(&core).unwrap().next_id(), last.next_id);
    refused(&|file| file.pages.swap(2, 3));
    refused(&|file| file.pages[3].info.id = 3);
    refused(&|file| file.pages[3].info.name = Some("grid".into()));
    refused(&|file| file.pages[3].info.name = Some("a\nb".into()));
    refused(&|file| file.tags.swap(0, 1));
    refused(&|file| file.tags[1].0 = "now".into());
    refused(&|file| file.tags[1].0 = "a\nb".into());
    refused(&|file| file.tags[0].0 = String::new());
    refused(&|file| file.tags[1].1 = 4);
    refused(&|file| (file.epoch, file.tags) = (0, vec![]));
    refused(&|file| (file.epoch, file.pages) = (0, vec![]));
    let mut first = page(1, None, vec![], 0);
    first.info.desc_epoch = 0;
    let none = File { epoch: 0, pages: vec![first], tags: vec![], ..file.clone() };
    refused(&|file| *file = none.clone());
    refused(&|file| *file = File { pages: vec![], tags: vec![("t".into(), 0)], ..none.clone() });
    // More of them than can be counted.
    let bytes = none.encode_with(&mut |_| {}, &mut |head| set(head, 88, u64::MAX));
    let error = loaded(&only(0, &bytes), &none, &mut Vec::new()).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(get(&bytes, 96))));
    // Two pages at one place: their hashes hold.
    let same = |at| {
        let pages = vec![page(1, None, vec![7; 8], 1), Page { at, ..page(2, None, vec![7; 8], 1) }];
        move |file: &mut File| (file.pages, file.tags) = (pages.clone(), vec![])
    };
    refused(&same(Some(4096)));
    let apart = |bytes: &[u8]| loaded(&only(3, bytes), &file, &mut Vec::new()).unwrap_err();
    let mut two = file.clone();
    same(None)(&mut two);
    assert_eq!(apart(&two.encode()).detail.offset, Some(136));
}

/// The log says which state a checkpoint has.
#[test]
fn a_checkpoint_of_another_state() {
    let (_, _, file) = world();
    let vfs = only(3, &file.encode());
    let mark = CheckpointMark { epoch: 3, digest: file.digest, size: 0 };
    let (_, digest) = verify(&vfs, store(), 3, file.uuid).unwrap();
    check(store(), digest, &mark).unwrap();
    let other = CheckpointMark { digest: file.digest ^ 1, ..mark };
    let error = check(store(), digest, &other).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(136)));
    assert_eq!(error.detail.epoch, Some(3));
}
