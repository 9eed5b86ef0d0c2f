//! Writing checkpoints whose pages and index fill the buffer to its edge: each write that fails, each request for memory
//! that is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::tests::*;
use super::*;
use crate::Bus;
use crate::arena::faults;
use crate::delta::{Batch, NewPage};
use crate::log::double::{Call, Double};
use crate::snapshot::Snapshot;
use crate::vfs::RamVfs;
use crate::{Code, Durability, Options};

const MIB: usize = 1 << 20;
const ENOSPC: i32 = 28;

/// A bus with these pages, and what its checkpoint has to be. `meta` is the length of each page's metadata.
fn filled(sizes: &[usize], meta: usize, tags: usize) -> (Double, Bus, File) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let options = Options {
        durability: Some(Durability::Os),
        max_memory: Some(64 << 20),
        seed: Some(3),
        ..Options::default()
    };
    let bus = Bus::create_on(double.vfs(), store(), &options).unwrap();
    let mut batch = Batch::new();
    let mut pages: Vec<Page> =
        (1..).zip(sizes).map(|(id, &n)| page(id, None, pattern(n, 7), 1)).collect();
    for page in &mut pages {
        page.info.meta = "m".repeat(meta);
        let info = &page.info;
        let new = NewPage {
            name: None,
            dtype: "",
            itemsize: 1,
            shape: &info.shape,
            nbytes: info.nbytes,
            meta: &info.meta,
            location: 0,
        };
        batch.create(info.id, &new);
        batch.write(info.id, 0, &page.bytes);
    }
    let tags: Vec<(String, u64)> =
        (0..tags).map(|n| (format!("tag {n:05} {:0>200}", ""), 1)).collect();
    tags.iter().for_each(|(name, _)| batch.tag(name, None, false));
    bus.commit(&mut batch, None, &how(1000)).unwrap();
    let file = File {
        automatic: false,
        uuid: crate::log::read_meta(&double, store()).unwrap().uuid,
        epoch: 1,
        time: 1000,
        next_id: sizes.len() as u64 + 1,
        pages,
        tags,
        digest: bus.snapshot().unwrap().digest().unwrap(),
    };
    (double, bus, file)
}

fn temp_bytes(vfs: &dyn Vfs) -> Vec<u8> {
    contents(vfs, Path::new("/s/checkpoints/.tmp-0000000000000001.ckpt"))
}

/// The buffer is full in a page, in what aligns the next one, in what aligns the index, and in the index: the bytes are the
/// same, no write is longer than it, and each write that fails is told and leaves nothing.
#[test]
fn every_write_fails() {
    let states: [(&[usize], usize, usize); 5] = [
        (&[3 * MIB, 5, 20_000], 0, 0),
        (&[MIB - 100, 20_000, 1], 0, 0),
        (&[MIB - 4], 0, 0),
        (&[10; 40], 60_000, 0),
        (&[], 0, 6000),
    ];
    for (sizes, meta, tags) in states {
        let (double, bus, file) = filled(sizes, meta, tags);
        let at = bus.snapshot().unwrap();
        let expected = file.encode();
        let attempt = || write(&double, store(), file.uuid, &at, Making::default());
        double.calls();
        assert_eq!(attempt().unwrap(), expected.len() as u64);
        assert!(temp_bytes(&double) == expected);
        let is_write = |call: &&Call| call.what == "write";
        let writes: Vec<Call> = whole(double.calls()).iter().filter(is_write).cloned().collect();
        assert!(writes.len() >= 3, "{sizes:?}");
        assert!(writes.iter().all(|call| call.len <= (MIB + 16384) as u64));
        for nth in 1..=writes.len() {
            let failing = (writes[nth - 1].at, writes[nth - 1].len);
            double.fail(move |call| {
                let hit = call.what == "write" && (call.at, call.len) == failing;
                hit.then(|| io::Error::from_raw_os_error(ENOSPC))
            });
            let error = attempt().unwrap_err();
            double.heal();
            assert_eq!((error.code, error.detail.errno), (Code::OutOfSpace, Some(ENOSPC)));
            assert_eq!(double.list(&dir(store())).unwrap(), [""; 0]);
        }
        attempt().unwrap();
        assert!(temp_bytes(&double) == expected);
    }
}

/// However much is written, no more than a step of it waits for the disk; each sync that fails is told.
#[test]
fn the_disk_is_waited_for_in_steps() {
    if cfg!(miri) {
        return;
    }
    let (double, bus, file) = filled(&[20 * MIB, 5, 15 * MIB], 0, 0);
    let (at, step) = (bus.snapshot().unwrap(), 16 * MIB as u64);
    let attempt = || write(&double, store(), file.uuid, &at, Making::default());
    double.calls();
    attempt().unwrap();
    assert!(temp_bytes(&double) == file.encode());
    let (mut waiting, mut syncs) = (0, 0);
    for call in whole(double.calls()) {
        match call.what {
            "write" => waiting += call.len,
            "sync" => (waiting, syncs) = (0, syncs + 1),
            _ => {}
        }
        assert!(waiting < step + 2 * MIB as u64, "{waiting} bytes wait for the disk");
    }
    assert_eq!((waiting, syncs), (0, 3));
    for nth in 1..=syncs {
        let seen = AtomicU64::new(0);
        double.fail(move |call| {
            let hit = call.what == "sync" && seen.fetch_add(1, Ordering::Relaxed) + 1 == nth;
            hit.then(|| io::Error::from_raw_os_error(ENOSPC))
        });
        let error = attempt().unwrap_err();
        double.heal();
        assert_eq!((error.code, error.detail.errno), (Code::OutOfSpace, Some(ENOSPC)));
        assert_eq!(double.list(&dir(store())).unwrap(), [""; 0]);
    }
}

/// Memory for the buffer and for the index is asked for, and what is refused is told and leaves nothing.
#[test]
fn memory_for_writing_runs_out() {
    let (double, bus, file) = filled(&[10; 40], 60_000, 500);
    let at = bus.snapshot().unwrap();
    // What the digest needs is there before.
    assert_eq!(at.digest().unwrap(), file.digest);
    let expected = file.encode();
    let mut lacking = Vec::new();
    for nth in 1.. {
        for for_good in [false, true] {
            faults::arm(nth, for_good);
            let done = write(&double, store(), file.uuid, &at, Making::default());
            if !faults::disarm() {
                assert!(done.is_ok() && temp_bytes(&double) == expected);
                // The buffer, and each doubling of the index; what else is asked for is the file's.
                let sizes: Vec<&String> = lacking.iter().step_by(2).collect();
                assert!(sizes[0].contains(" 1064960 bytes"), "{}", sizes[0]);
                assert!((6..20).contains(&sizes.len()), "{sizes:?}");
                return;
            }
            let error = done.unwrap_err();
            assert_eq!(error.code, Code::OutOfSpace, "request {nth}");
            if error.message.starts_with("no memory for") {
                lacking.push(error.message);
            }
            assert_eq!(double.list(&dir(store())).unwrap(), [""; 0]);
        }
    }
}

/// Of each page room is asked for what is told of it, before it is told.
#[test]
fn memory_for_a_block_runs_out() {
    let (double, bus, file) = filled(&[5], 100, 0);
    let at = bus.snapshot().unwrap();
    assert_eq!(at.digest().unwrap(), file.digest);
    let mut lacking = Vec::new();
    for nth in 1.. {
        faults::arm(nth, false);
        let done = write(&double, store(), file.uuid, &at, Making::default());
        if !faults::disarm() {
            done.unwrap();
            break;
        }
        let message = done.unwrap_err().message;
        let bytes = message.strip_prefix("no memory for ").and_then(|rest| rest.split_once(' '));
        lacking.extend(bytes.and_then(|(bytes, _)| bytes.parse::<u64>().ok()));
    }
    // Id, name, dtype, itemsize, shape, size, metadata, location, two epochs and the place take 112 bytes.
    let entry = 1 + 1 + 1 + 1 + 2 + 1 + (1 + 100) + 1 + 1 + 1 + 2;
    // The buffer; a hash; what a compressed block is told by; two heads and places of runs; the entry, and its hash.
    assert_eq!(lacking, [(1 << 20) + 16384, 16, 10 + 8, 4 * 10, entry, entry + 16]);
}

/// The same through the front door: the bus goes on, and the next attempt makes what this one would have made.
#[test]
fn a_bus_whose_checkpoint_found_no_memory() {
    let (double, bus, file) = filled(&[50_000, 3], 9, 2);
    assert_eq!(bus.snapshot().unwrap().digest().unwrap(), file.digest);
    faults::arm(1, true);
    let error = bus.checkpoint().unwrap_err();
    assert!(faults::disarm());
    assert_eq!(error.code, Code::OutOfSpace);
    assert!(error.message.starts_with("no memory for 1064960 bytes"), "{error}");
    assert_eq!(list(&double, store()).unwrap(), [0; 0]);
    bus.write(2, 0, b"abc", &how(2000)).unwrap();
    assert_eq!(bus.checkpoint().unwrap(), 2);
    assert_eq!(list(&double, store()).unwrap(), [2]);
    let after = bus.snapshot().unwrap().digest().unwrap();
    assert_eq!(verify(&double, store(), 2, file.uuid).unwrap().1, after);
    let loaded = loaded(&double, &File { epoch: 2, ..file }, &mut Vec::new()).unwrap();
    assert_eq!(Snapshot::newest(&loaded).unwrap().digest().unwrap(), after);
}
