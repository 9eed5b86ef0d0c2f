//! Row 6: every single bit of every file, and random cases of more than one.

use std::path::PathBuf;

use super::{Seen, Store, changed, kind_of, life, look, share, show};
use crate::args::Args;
use crate::format::{self, Part};
use crate::report::Row;
use crate::rng::{Rng, mix};
use crate::sim::SECTOR;

const NEWEST: &str = "newest state, told by verify";
const REFUSED: &str = "refused";
const SLOT: &str = "newest state, a slot in place of the other";
const TORN: &str = "newest state, bytes behind it told";
const ZEROS: &str = "newest state, zeros behind the last record";
const OLDER: &str = "older state, no promise left";

/// Every bit of every file of a store, one at a time.
pub fn bits(args: &Args) -> Vec<Row<'static>> {
    let store = Store::sample(args.seed, &life());
    let files: Vec<(PathBuf, Vec<u8>, Vec<Part>)> = store
        .disk
        .files()
        .map(|(path, bytes)| (path.to_path_buf(), bytes.to_vec(), format::parts(path, bytes)))
        .collect();
    let size: usize = files.iter().map(|(_, bytes, _)| bytes.len()).sum();
    assert!(size >= 64 << 10, "a store of {size} bytes");
    let sound = look(&store.disk, &store.history, &travel(&store, 0)).unwrap();
    assert!(sound.shown.is_ok_and(|epoch| epoch == store.newest()) && sound.problems.is_empty());
    let total = size as u64 * 8;
    // A short run takes every n-th bit, n odd so that all places in a byte come.
    let step = args.cases.map_or(1, |cases| (total / cases.clamp(1, total)) | 1);
    let tally = share(total / step, args.threads, |cases, tally| {
        for case in cases {
            let bit = case * step;
            let mut byte = (bit / 8) as usize;
            let mut inside = files.iter();
            let (path, bytes, parts) = inside
                .find(|(_, bytes, _)| {
                    let here = byte < bytes.len();
                    byte -= if here { 0 } else { bytes.len() };
                    here
                })
                .unwrap();
            let mut bytes = bytes.clone();
            bytes[byte] ^= 1 << (bit % 8);
            let mut disk = store.disk.clone();
            disk.plant(path, &bytes);
            let what = format!("{} byte {byte} bit {}", path.display(), bit % 8);
            let seen = look(&disk, &store.history, &travel(&store, bit))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let part = parts.iter().find(|part| (part.start..part.end).contains(&byte)).unwrap();
            let precise = |e: &mmsb_core::Error| {
                e.detail.file.as_ref() == Some(path)
                    && e.detail.offset == Some(part.start as u64)
                    && e.detail.epoch == part.epoch
            };
            let told: Vec<_> = seen.told().map(|e| (&e.message, &e.detail)).collect();
            assert!(seen.told().all(precise) && !told.is_empty(), "{what}: {part:?}, {told:?}");
            match seen.shown {
                Ok(epoch) => {
                    assert_eq!(epoch, store.newest(), "{what}");
                    tally.count(kind_of(path), NEWEST);
                }
                Err(_) => tally.count(kind_of(path), REFUSED),
            }
        }
    });
    show("single bits", &tally);
    vec![Row {
        id: "06-bit-flips",
        row: "6 Bit flips: every single bit",
        tried: format!(
            "each bit of the {} files of a store of {size} bytes (sealed segments, two checkpoints, both meta slots), \
             opened as reader and as host, verified, past epochs read",
            files.len()
        ),
        count: format!("{} flips", tally.all()),
        seed: args.seed.to_string(),
        result: format!(
            "0 passed unnoticed, 0 wrong states, all told with the file, the offset and the epoch of what is \
             damaged: {} refused as corrupt, {} opened with the newest state",
            tally.of(REFUSED),
            tally.of(NEWEST)
        ),
        command: args.command.clone(),
    }]
}

/// Some past epochs: around the checkpoints, and one that changes with the case.
fn travel(store: &Store, case: u64) -> [u64; 3] {
    let newest = store.newest();
    let mut epochs = [5, newest / 2 + 1, mix(case, 0) % newest];
    epochs.sort_unstable();
    epochs
}

/// Random damage of more than one bit.
pub fn many(args: &Args) -> Vec<Row<'static>> {
    let store = Store::sample(args.seed, &life());
    let files = store.files();
    let count = args.cases.unwrap_or(1_000_000);
    let tally = share(count, args.threads, |cases, tally| {
        for case in cases {
            let mut rng = Rng(mix(args.seed, case));
            let mut disk = store.disk.clone();
            let mut kind = "";
            while changed(&disk, &store.disk).is_empty() {
                kind = damage(&store, &files, &mut disk, &mut rng);
            }
            let touched = changed(&disk, &store.disk);
            let what = format!("case {case}, {kind}, {touched:?}");
            let seen = look(&disk, &store.history, &travel(&store, case))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            tally.count(kind, outcome(&store, &disk, &seen, &what));
        }
    });
    show("more than one bit", &tally);
    vec![Row {
        id: "06-multi-bit",
        row: "6 Bit flips: more than one, sectors, blocks",
        tried: "bits of one or several files, sectors and 4 KiB blocks exchanged, duplicated, zeroed, random, files \
                cut or longer, at random"
            .to_string(),
        count: format!("{} cases", tally.all()),
        seed: args.seed.to_string(),
        result: format!(
            "0 passed unnoticed, 0 wrong states: {} refused as corrupt, {} newest state and told by verify, {} newest state \
             and bytes behind the last record told at opening; {} a valid meta slot in place of the other and {} zeros \
             behind a segment, both harmless; {} an older state with every promise of a newer one destroyed",
            tally.of(REFUSED),
            tally.of(NEWEST),
            tally.of(TORN),
            tally.of(SLOT),
            tally.of(ZEROS),
            tally.of(OLDER)
        ),
        command: args.command.clone(),
    }]
}

/// Damages a store in a random way, which may leave it as it was.
fn damage(
    store: &Store,
    files: &[PathBuf],
    disk: &mut crate::sim::Disk,
    rng: &mut Rng,
) -> &'static str {
    let pick = |rng: &mut Rng| &files[rng.below(files.len() as u64) as usize];
    let (path, other) = (pick(rng), pick(rng));
    let mut bytes = store.disk.read(path).unwrap().to_vec();
    let mut source = store.disk.read(other).unwrap().to_vec();
    let block = if rng.coin() { SECTOR } else { 4096 };
    let mut place = |len: usize| {
        let blocks = (len / block).max(1) as u64;
        let from = rng.below(blocks) as usize * block;
        from..(from + block).min(len)
    };
    let (to, from, back) = (place(bytes.len()), place(source.len()), place(bytes.len()));
    let flip = |bytes: &mut [u8], rng: &mut Rng| {
        let bit = rng.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
    };
    let copy = |to: &mut [u8], at: usize, from: &[u8]| {
        let n = from.len().min(to.len() - at);
        to[at..at + n].copy_from_slice(&from[..n]);
    };
    let kind = match rng.below(10) {
        0 => {
            (0..2 + rng.below(15)).for_each(|_| flip(&mut bytes, rng));
            "bits of one file"
        }
        1 => {
            for _ in 0..2 + rng.below(7) {
                let path = pick(rng);
                let mut bytes = disk.read(path).unwrap().to_vec();
                flip(&mut bytes, rng);
                disk.plant(path, &bytes);
            }
            return "bits of several files";
        }
        2 => {
            let (a, b) = (bytes[to.clone()].to_vec(), bytes[back.clone()].to_vec());
            copy(&mut bytes, to.start, &b);
            copy(&mut bytes, back.start, &a);
            "exchanged in one file"
        }
        3 if path != other => {
            let (a, b) = (bytes[to.clone()].to_vec(), source[from.clone()].to_vec());
            copy(&mut bytes, to.start, &b);
            copy(&mut source, from.start, &a);
            disk.plant(other, &source);
            "exchanged between files"
        }
        3 | 4 => {
            let block = bytes[back].to_vec();
            copy(&mut bytes, to.start, &block);
            "duplicated in one file"
        }
        5 => {
            copy(&mut bytes, to.start, &source[from]);
            "duplicated from any file"
        }
        6 => {
            bytes[to].fill(0);
            "zeroed"
        }
        7 => {
            bytes[to].iter_mut().for_each(|byte| *byte = rng.next_u64() as u8);
            "random bytes"
        }
        8 => {
            bytes.truncate(rng.below(bytes.len() as u64) as usize);
            "cut"
        }
        _ => {
            let more = 1 + rng.below(5000);
            let zeros = rng.coin();
            bytes.extend((0..more).map(|_| if zeros { 0 } else { rng.next_u64() as u8 }));
            "longer"
        }
    };
    disk.plant(path, &bytes);
    kind
}

/// How a case ended; panics where that is against the law.
fn outcome(store: &Store, disk: &crate::sim::Disk, seen: &Seen, what: &str) -> &'static str {
    let touched = changed(disk, &store.disk);
    let named = seen.told().any(|e| e.detail.file.as_ref().is_some_and(|f| touched.contains(f)));
    let told: Vec<_> = seen.told().map(|e| &e.message).collect();
    match &seen.shown {
        Err(_) => {
            assert!(named, "{what}: {told:?}");
            REFUSED
        }
        Ok(epoch) if *epoch < store.newest() => {
            assert!(named && *epoch >= store.promised(disk), "{what}: {epoch}, {told:?}");
            OLDER
        }
        Ok(_) if named => NEWEST,
        Ok(_) if seen.torn > 0 => TORN,
        Ok(_) => {
            let slots = store.disk.files().filter(|(path, _)| kind_of(path) == "meta slot");
            let slots: Vec<&[u8]> = slots.map(|(_, bytes)| bytes).collect();
            let moved = |path: &PathBuf| {
                kind_of(path) == "meta slot" && slots.contains(&disk.read(path).unwrap())
            };
            if touched.iter().all(moved) {
                return SLOT;
            }
            let reserved = |path: &PathBuf| {
                let more = disk.read(path).unwrap().strip_prefix(store.disk.read(path).unwrap());
                kind_of(path) == "segment" && more.is_some_and(|more| more.iter().all(|&b| b == 0))
            };
            assert!(touched.iter().all(reserved), "{what}: nothing is told");
            ZEROS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_tile_every_file() {
        let store = Store::sample(1, &life());
        for (path, bytes) in store.disk.files() {
            let mut at = 0;
            for part in format::parts(path, bytes) {
                assert!(part.start == at && part.end > at, "{}: {part:?}", path.display());
                at = part.end;
            }
            assert_eq!(at, bytes.len());
        }
    }
}
