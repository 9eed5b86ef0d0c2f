//! Checkpoints that stand on an older one, leave zeros out and compress: what they show, what they take, what damage does.

use std::sync::Arc;

use proptest::prelude::*;

use super::runs::{Form, Stored};
use super::tests::*;
use super::*;
use crate::delta::{Batch, NewPage};
use crate::vfs::RamVfs;
use crate::{Bus, Durability, Keep, Mode, Options};

const KIB: usize = 1024;

fn options(compress: bool) -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(64 << 20),
        seed: Some(3),
        compress,
        ..Options::default()
    }
}

fn bus(compress: bool) -> (Arc<RamVfs>, Bus) {
    let vfs = Arc::new(RamVfs::new());
    let bus = Bus::create_on(vfs.clone(), store(), &options(compress)).unwrap();
    (vfs, bus)
}

fn create(bus: &Bus, id: u64, bytes: &[u8]) {
    let mut batch = Batch::new();
    batch.create(id, &NewPage::bytes(&[bytes.len() as u64]));
    batch.write(id, 0, bytes);
    bus.commit(&mut batch, None, &how(bus.epoch() + 1)).unwrap();
}

fn write(bus: &Bus, id: u64, at: u64, bytes: &[u8]) {
    assert!(bus.write(id, at, bytes, &how(bus.epoch() + 1)).unwrap().changed);
}

fn size(vfs: &dyn Vfs, epoch: u64) -> usize {
    contents(vfs, &path(store(), epoch)).len()
}

/// What each opening of the store must show, whole and page by page.
fn shows(vfs: &Arc<RamVfs>, want: &[(u64, Vec<u8>)]) {
    let checks = |bus: &Bus| {
        for (id, bytes) in want {
            assert!(bus.view(*id).unwrap().bytes() == bytes, "page {id}");
        }
        bus.snapshot().unwrap().digest().unwrap()
    };
    let reader = Bus::open_on(vfs.clone(), store(), Mode::Read, &options(false), &mut |_, _| {});
    let reader = reader.unwrap();
    assert_eq!(reader.verify(&mut |_, _| {}).unwrap().problems.len(), 0);
    // Blocks in any order.
    for (id, bytes) in want {
        for at in (0..bytes.len() as u64).step_by(20_000).collect::<Vec<_>>().into_iter().rev() {
            let mut byte = [0];
            reader.snapshot().unwrap().read(*id, at, &mut byte).unwrap();
            assert_eq!(byte[0], bytes[at as usize]);
        }
    }
    let digest = checks(&reader);
    let host = Bus::open_on(vfs.clone(), store(), Mode::ReadWrite, &options(true), &mut |_, _| {});
    let host = host.unwrap();
    assert_eq!(host.recovery().unwrap().checkpoint_epoch, list(&**vfs, store()).unwrap().pop());
    assert_eq!(checks(&host), digest);
}

#[test]
fn what_did_not_change_is_not_written_again() {
    let (vfs, bus) = bus(false);
    let (mut large, small) = (pattern(600 * KIB, 1), pattern(900, 2));
    create(&bus, 1, &large);
    create(&bus, 2, &small);
    assert_eq!(bus.checkpoint().unwrap(), 2);
    let whole = size(&*vfs, 2);
    assert!(whole > 600 * KIB);
    write(&bus, 1, 100_000, b"other");
    large[100_000..100_005].copy_from_slice(b"other");
    create(&bus, 3, b"new");
    assert_eq!(bus.checkpoint().unwrap(), 4);
    // A header, a block, a page, and an index.
    let taken = size(&*vfs, 4);
    assert!(taken < 4096 + 16 * KIB + 4096, "{taken}");
    assert_eq!(base(&*vfs, store(), 4).unwrap(), Some(2));
    // The next one stands on the same, not on that one.
    write(&bus, 1, 300_000, b"more");
    large[300_000..300_004].copy_from_slice(b"more");
    assert_eq!(bus.checkpoint().unwrap(), 5);
    assert_eq!(base(&*vfs, store(), 5).unwrap(), Some(2));
    bus.close().unwrap();
    let want = [(1, large.clone()), (2, small), (3, b"new".to_vec())];
    shows(&vfs, &want);
    // After an opening too; and when more than half is new, the next one has everything.
    let host = Bus::open_on(vfs.clone(), store(), Mode::ReadWrite, &options(false), &mut |_, _| {});
    let host = host.unwrap();
    let last = pattern(600 * KIB, 9);
    write(&host, 1, 0, &last);
    assert_eq!(host.checkpoint().unwrap(), 6);
    assert!(size(&*vfs, 6) > 600 * KIB);
    write(&host, 2, 0, b"!");
    assert_eq!(host.checkpoint().unwrap(), 7);
    assert_eq!((base(&*vfs, store(), 7).unwrap(), size(&*vfs, 7) > 600 * KIB), (None, true));
    write(&host, 2, 1, b"!");
    host.checkpoint().unwrap();
    assert_eq!(base(&*vfs, store(), 8).unwrap(), Some(7));
}

#[test]
fn nothing_stands_on_the_empty_state() {
    let (vfs, bus) = bus(false);
    assert_eq!(bus.checkpoint().unwrap(), 0);
    create(&bus, 1, &[0; 100]);
    assert_eq!(bus.checkpoint().unwrap(), 1);
    assert_eq!(base(&*vfs, store(), 1).unwrap(), None);
    bus.close().unwrap();
    shows(&vfs, &[(1, vec![0; 100])]);
}

/// The blocks of a checkpoint's pages, in order.
fn stored(vfs: &dyn Vfs, epoch: u64, of: [u8; 16]) -> Vec<Stored> {
    let reader = Reader::open(vfs, store(), epoch, of).unwrap();
    let (mut pages, mut found) = (reader.pages(), Vec::new());
    while let Some(entry) = pages.next().unwrap() {
        let mut blocks = reader.stored(&entry.place);
        while !blocks.is_done() {
            found.push(blocks.next().unwrap());
        }
    }
    found
}

/// A page whose blocks are those of the base and one more, and one that is again as it was.
#[test]
fn a_page_that_grew_by_a_block() {
    let (vfs, bus) = bus(false);
    let (mut large, small) = (pattern(32 * KIB, 1), pattern(100, 2));
    create(&bus, 1, &large);
    create(&bus, 2, &small);
    bus.checkpoint().unwrap();
    let mut batch = Batch::new();
    batch.resize(1, &[48 * KIB as u64], 48 * KIB as u64);
    bus.commit(&mut batch, None, &how(3)).unwrap();
    large.extend(pattern(16 * KIB, 3));
    write(&bus, 1, 32 * KIB as u64, &large[32 * KIB..]);
    write(&bus, 2, 0, b"other");
    write(&bus, 2, 0, &small);
    assert_eq!(bus.checkpoint().unwrap(), 6);
    let raw = |in_base, at, len| Stored { in_base, form: Form::Raw, at, len, sum: 0 };
    let want = [
        raw(true, 4096, 16384),
        raw(true, 4096 + 16384, 16384),
        raw(false, 4096, 16384),
        raw(true, 4096 + 2 * 16384, 100),
    ];
    assert_eq!(stored(&*vfs, 6, bus.store().uuid), want);
    bus.close().unwrap();
    shows(&vfs, &[(1, large), (2, small)]);
}

/// Compressed blocks lie close together, also those of different pages.
#[test]
fn compressed_blocks_without_gaps() {
    let (vfs, bus) = bus(true);
    (1..=8).for_each(|id| create(&bus, id, &vec![id as u8; 1000 * id as usize]));
    bus.checkpoint().unwrap();
    let blocks = stored(&*vfs, 8, bus.store().uuid);
    assert!(blocks.iter().any(|block| block.len % 8 != 0), "{blocks:?}");
    let mut end = 4096;
    for block in blocks {
        assert_eq!((block.form, block.at), (Form::Lz4, end));
        end += block.len;
    }
}

/// A block of noise and zeros becomes shorter by the zeros; by less than an eighth is not worth the time.
#[test]
fn blocks_that_become_a_little_shorter() {
    let (vfs, bus) = bus(true);
    let block = |noise| [pattern(noise, 1), vec![0; 16384 - noise]].concat();
    create(&bus, 1, &block(14_000));
    create(&bus, 2, &block(15_000));
    bus.checkpoint().unwrap();
    let forms = stored(&*vfs, 2, bus.store().uuid).iter().map(|s| s.form).collect::<Vec<_>>();
    assert_eq!(forms, [Form::Lz4, Form::Raw]);
    bus.close().unwrap();
    shows(&vfs, &[(1, block(14_000)), (2, block(15_000))]);
}

#[test]
fn what_is_zero_only_in_part() {
    let (vfs, bus) = bus(false);
    let pages: Vec<(u64, Vec<u8>)> =
        (1..).zip([vec![0, 1, 1], vec![1, 0], vec![0, 3], vec![0, 1, 2, 3]]).collect();
    pages.iter().for_each(|(id, bytes)| create(&bus, *id, bytes));
    bus.checkpoint().unwrap();
    bus.close().unwrap();
    shows(&vfs, &pages);
}

#[test]
fn zeros_take_no_room() {
    let (vfs, bus) = bus(false);
    let mut sparse = vec![0; 2000 * KIB];
    sparse[1_000_000..1_000_003].copy_from_slice(b"one");
    create(&bus, 1, &sparse);
    create(&bus, 2, &[0; 100]);
    bus.checkpoint().unwrap();
    let taken = size(&*vfs, 2);
    assert!(taken < 4096 + 2 * 16 * KIB, "{taken}");
    bus.close().unwrap();
    shows(&vfs, &[(1, sparse), (2, vec![0; 100])]);
}

#[test]
fn blocks_are_compressed_where_that_helps() {
    let (vfs, bus) = bus(true);
    let words: Vec<u8> = b"the same again ".iter().copied().cycle().take(400 * KIB).collect();
    let (mut mixed, noise) = (words.clone(), pattern(100 * KIB, 3));
    mixed[200_000..200_000 + 40 * KIB].copy_from_slice(&noise[..40 * KIB]);
    create(&bus, 1, &mixed);
    create(&bus, 2, &noise);
    create(&bus, 3, &words[..500]);
    bus.checkpoint().unwrap();
    let taken = size(&*vfs, 3);
    assert!((145 * KIB..200 * KIB).contains(&taken), "{taken}");
    // One that stands on compressed blocks.
    write(&bus, 1, 399 * KIB as u64, b"end");
    mixed[399 * KIB..399 * KIB + 3].copy_from_slice(b"end");
    bus.checkpoint().unwrap();
    assert!(size(&*vfs, 4) < 4096 + 8 * KIB);
    bus.close().unwrap();
    shows(&vfs, &[(1, mixed), (2, noise), (3, words[..500].to_vec())]);
}

/// A store with a checkpoint of epoch 2 and one of epoch 3 that stands on it.
pub(super) fn pair() -> (Arc<RamVfs>, [Vec<u8>; 2]) {
    let (vfs, bus) = bus(true);
    let words: Vec<u8> = b"again and ".iter().copied().cycle().take(40 * KIB).collect();
    create(&bus, 1, &[words, pattern(40 * KIB, 5)].concat());
    create(&bus, 2, &pattern(30, 6));
    bus.checkpoint().unwrap();
    write(&bus, 1, 50_000, b"other");
    bus.checkpoint().unwrap();
    bus.close().unwrap();
    let files = [2, 3].map(|epoch| contents(&*vfs, &path(store(), epoch)));
    (vfs, files)
}

fn replace(vfs: &RamVfs, epoch: u64, bytes: &[u8]) {
    vfs.unlink(&path(store(), epoch)).unwrap();
    put(vfs, epoch, bytes);
}

#[test]
fn every_byte_of_both_files_counts() {
    let (vfs, [below, above]) = pair();
    let uuid = uuid(&*vfs, store(), 3).unwrap().unwrap();
    let (_, digest) = verify(&*vfs, store(), 3, uuid).unwrap();
    let host =
        || Bus::open_on(vfs.clone(), store(), Mode::ReadWrite, &options(true), &mut |_, _| {});
    let step = if cfg!(miri) { 9973 } else { 61 };
    for (epoch, bytes) in [(2, &below), (3, &above)] {
        for at in (0..bytes.len()).step_by(step).chain(88..200) {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            replace(&vfs, epoch, &bad);
            match verify(&*vfs, store(), 3, uuid) {
                Err(error) => assert_eq!(error.code, Code::Corruption, "{epoch} {at}"),
                // Of the base only what is needed is looked at: not its index, and not the block that changed.
                Ok(found) => assert!(epoch == 2 && at > 4096 && found.1 == digest, "{at}"),
            }
            if epoch == 2 {
                assert_eq!(verify(&*vfs, store(), 2, uuid).unwrap_err().code, Code::Corruption);
            }
        }
        replace(&vfs, epoch, bytes);
    }
    // Whatever is damaged, the log has it.
    replace(&vfs, 2, &below[..5000]);
    let want = host().unwrap().snapshot().unwrap().digest().unwrap();
    assert_eq!(want, digest);
}

#[test]
fn a_base_that_is_missing_or_another() {
    let (vfs, [below, _]) = pair();
    let uuid = uuid(&*vfs, store(), 3).unwrap().unwrap();
    vfs.unlink(&path(store(), 2)).unwrap();
    let error = verify(&*vfs, store(), 3, uuid).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(152)));
    assert_eq!(error.detail.file, Some(path(store(), 3)));
    assert!(error.message.contains("missing"), "{error}");
    // Sound, of this store and epoch, and not the one: its time differs.
    let mut other = below;
    other[64] ^= 1;
    let sum = crate::hash::h64(&other[..4088]);
    other[4088..4096].copy_from_slice(&sum.to_le_bytes());
    put(&*vfs, 2, &other);
    let error = verify(&*vfs, store(), 3, uuid).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(152)));
    assert!(error.message.contains("another"), "{error}");
    // A host goes on from the log, and its next checkpoint stands on nothing that is damaged.
    vfs.unlink(&path(store(), 2)).unwrap();
    let host = Bus::open_on(vfs.clone(), store(), Mode::ReadWrite, &options(true), &mut |_, _| {});
    let host = host.unwrap();
    assert_eq!(host.recovery().unwrap().checkpoint_epoch, None);
    assert_eq!(host.checkpoint().unwrap(), 3);
    assert_eq!(base(&*vfs, store(), 3).unwrap(), None);
}

#[test]
fn what_others_stand_on_is_not_thinned_or_pruned() {
    let (vfs, bus) = bus(false);
    create(&bus, 1, &pattern(400 * KIB, 1));
    bus.checkpoint_unasked().unwrap();
    let mut bytes = pattern(400 * KIB, 2);
    write(&bus, 1, 0, &bytes);
    bus.checkpoint_unasked().unwrap();
    write(&bus, 1, 0, b"third");
    bytes[..5].copy_from_slice(b"third");
    bus.checkpoint_unasked().unwrap();
    assert_eq!(list(&*vfs, store()).unwrap(), [1, 2, 3]);
    for step in 0..40 {
        write(&bus, 1, step * 16 * KIB as u64 % (64 * KIB as u64), &[step as u8 + 1; 10]);
        let epoch = bus.checkpoint_unasked().unwrap();
        assert_eq!(base(&*vfs, store(), epoch).unwrap(), Some(3));
        let left = list(&*vfs, store()).unwrap();
        assert!(left.contains(&3) && left.len() <= 10, "{left:?}");
        for &epoch in &left {
            verify(&*vfs, store(), epoch, bus.store().uuid).unwrap();
        }
    }
    assert!(!list(&*vfs, store()).unwrap().contains(&2), "nothing stands on it");
    let told = bus.prune(&Keep { log_since: Some(43), ..Keep::default() }).unwrap();
    assert_eq!(told.oldest, 3);
    assert_eq!(list(&*vfs, store()).unwrap(), [3, 43]);
    assert_eq!(bus.snapshot_at(3).unwrap().view(1).unwrap().bytes(), bytes);
    // A copy has both.
    let to = Arc::new(RamVfs::new());
    bus.backup_on(&*to, Path::new("/copy"), &mut |_, _| {}).unwrap();
    let copy = Bus::open_on(to, Path::new("/copy"), Mode::Read, &options(false), &mut |_, _| {});
    let digest = |bus: &Bus| bus.snapshot().unwrap().digest().unwrap();
    assert_eq!(digest(&copy.unwrap()), digest(&bus));
}

/// Of the base a block is damaged that the other checkpoint does not need: that one still shows what it should, and whatever
/// copies, prunes or makes the base anew does not rely on it.
#[test]
fn a_base_that_is_damaged_elsewhere() {
    let (vfs, bus) = bus(false);
    let mut bytes = pattern(100 * KIB, 1);
    create(&bus, 1, &bytes);
    bus.checkpoint().unwrap();
    write(&bus, 1, 50, b"other");
    bytes[50..55].copy_from_slice(b"other");
    bus.checkpoint().unwrap();
    let mut batch = Batch::new();
    batch.tag("first", Some(1), false);
    bus.commit(&mut batch, None, &how(3)).unwrap();
    write(&bus, 1, 60, b"last");
    let mut below = contents(&*vfs, &path(store(), 1));
    below[4096 + 50] ^= 1;
    replace(&vfs, 1, &below);
    let uuid = bus.store().uuid;
    verify(&*vfs, store(), 2, uuid).unwrap();
    assert_eq!(verify(&*vfs, store(), 1, uuid).unwrap_err().code, Code::Corruption);
    // The copy has neither, and the log, which says all of it.
    let to = Arc::new(RamVfs::new());
    bus.backup_on(&*to, Path::new("/copy"), &mut |_, _| {}).unwrap();
    assert_eq!(list(&*to, Path::new("/copy")).unwrap(), [0; 0]);
    let copy = Bus::open_on(to, Path::new("/copy"), Mode::Read, &options(false), &mut |_, _| {});
    let copy = copy.unwrap();
    assert!(copy.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    assert_eq!(copy.snapshot_at(2).unwrap().view(1).unwrap().bytes(), bytes);
    // The tagged epoch gets a sound one, and the log begins with one that does not stand on the old.
    let keep = Keep { log_since: Some(2), ..Keep::default() };
    let told = bus.prune(&Keep { dry_run: true, ..keep }).unwrap();
    assert_eq!((&told.checkpoints[..], told.oldest), (&[1, 2][..], 1));
    assert_eq!(bus.prune(&keep).unwrap(), told);
    assert_eq!(base(&*vfs, store(), 2).unwrap(), None);
    for (epoch, want) in [(1, pattern(100 * KIB, 1)), (2, bytes)] {
        verify(&*vfs, store(), epoch, uuid).unwrap();
        assert_eq!(bus.snapshot_at(epoch).unwrap().view(1).unwrap().bytes(), want);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 60 }, ..ProptestConfig::default() })]

    /// Pages of zeros, words and noise, changed and resized between checkpoints, against plain vectors.
    #[test]
    fn any_changes(
        compress: bool,
        sizes in prop::collection::vec(0usize..90_000, 1..5),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u16>(), 0u8..4, any::<bool>()), 0..12),
    ) {
        let (vfs, bus) = bus(compress);
        let fill = |kind: u8, len: usize| match kind {
            0 => vec![0; len],
            1 => b"word ".iter().copied().cycle().take(len).collect(),
            _ => pattern(len, u32::from(kind)),
        };
        let mut pages: Vec<Vec<u8>> = Vec::new();
        for (id, &len) in (1..).zip(&sizes) {
            pages.push(fill(id as u8 % 4, len));
            create(&bus, id, &pages[id as usize - 1]);
        }
        bus.checkpoint().unwrap();
        for (which, at, kind, checkpoint) in changes {
            let n = which.index(pages.len());
            let page = &mut pages[n];
            let at = usize::from(at) % (page.len() + 1);
            let len = (page.len() - at).min(18_000);
            if kind == 3 {
                page.resize(at, 0);
                let mut batch = Batch::new();
                batch.resize(n as u64 + 1, &[at as u64], at as u64);
                bus.commit(&mut batch, None, &how(bus.epoch() + 1)).unwrap();
            } else {
                let bytes = fill(kind, len);
                page[at..at + len].copy_from_slice(&bytes);
                bus.write(n as u64 + 1, at as u64, &bytes, &how(bus.epoch() + 1)).unwrap();
            }
            if checkpoint {
                bus.checkpoint().unwrap();
            }
        }
        bus.checkpoint().unwrap();
        bus.close().unwrap();
        let want: Vec<(u64, Vec<u8>)> = (1..).zip(pages).collect();
        shows(&vfs, &want);
    }
}
