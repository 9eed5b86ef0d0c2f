//! The two meta slots: what a store is, and how far its log is known to be durable.
//!
//! Slots are written in turn, so a torn write leaves the other one. A slot is written after a sync with the position
//! that the sync reached; it closes the gap that damage to the very last durable record would look like a torn tail.
//! The file holds 176 bytes of meaning, in one sector, and zeros up to 4096. A base is in both slots before anything that
//! lies before it goes, so either of them alone leads to a right state or to an error.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Position;
use super::birth;
use super::record::u64_at;
use super::segment::{self, MAJOR, MAX_EPOCH, MINOR, array, check_version, checked};
use crate::error::{Code, Error, Result};
use crate::hash::{h64, is_zero};
use crate::museum::{Defect, planted};
use crate::vfs::{OpenKind, Vfs, VfsFile, read_full_at, write_all_at};

pub(crate) const SLOT_LEN: usize = 4096;
const USED: usize = 176;
/// What every slot has, with its sum at the end; behind it the base and the parent, with a sum over all.
const HEAD: usize = 128;
/// Whether there is a base or a parent.
const ORIGIN: usize = 89;
const _: () = assert!(USED <= 512, "a slot is one sector");
const _: () = assert!(HEAD + 5 * 8 + 8 == USED && USED < SLOT_LEN);
const MAGIC: [u8; 16] = *b"\x89MMSB met\r\n\x1a\n\0\xb5\xff";
pub(crate) const SLOTS: [&str; 2] = ["meta-0", "meta-1"];

/// Where the log begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogBase {
    /// The first segment; those before it are leftovers and mean nothing.
    pub seq: u64,
    /// All epochs after this one are in the log. Of it and of older ones there may be checkpoints, which are history then.
    pub epoch: u64,
}

/// The store and the epoch that a fork was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its number.
    pub uuid: [u8; 16],
    /// The epoch that both have.
    pub epoch: u64,
}

/// What the newest valid slot says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreMeta {
    /// The store's own number, in every segment too.
    pub uuid: [u8; 16],
    /// The durability chosen at creation, as the bus encodes it.
    pub durability: u8,
    /// Counts the writes of slots.
    pub generation: u64,
    /// All log bytes before this were durable when the slot was written.
    pub durable: Position,
    /// The last epoch before that position.
    pub durable_epoch: u64,
    /// Where the log begins.
    pub base: LogBase,
    /// What the store is a fork of.
    pub parent: Option<Parent>,
}

impl StoreMeta {
    fn encode(&self) -> [u8; USED] {
        let mut out = [0u8; USED];
        out[..16].copy_from_slice(&MAGIC);
        out[16..18].copy_from_slice(&MAJOR.to_le_bytes());
        out[18..20].copy_from_slice(&MINOR.to_le_bytes());
        out[40..56].copy_from_slice(&self.uuid);
        out[56..64].copy_from_slice(&self.generation.to_le_bytes());
        out[64..72].copy_from_slice(&self.durable.seq.to_le_bytes());
        out[72..80].copy_from_slice(&self.durable.offset.to_le_bytes());
        out[80..88].copy_from_slice(&self.durable_epoch.to_le_bytes());
        out[88] = self.durability;
        let has_origin = self.base != LogBase::default() || self.parent.is_some();
        out[ORIGIN] = u8::from(has_origin);
        let sum = h64(&out[..HEAD - 8]);
        out[HEAD - 8..HEAD].copy_from_slice(&sum.to_le_bytes());
        if has_origin {
            let (uuid, epoch) = self.parent.map_or(([0; 16], 0), |p| (p.uuid, p.epoch));
            out[128..136].copy_from_slice(&self.base.seq.to_le_bytes());
            out[136..144].copy_from_slice(&self.base.epoch.to_le_bytes());
            out[144..160].copy_from_slice(&uuid);
            out[160..168].copy_from_slice(&epoch.to_le_bytes());
            let sum = h64(&out[..USED - 8]);
            out[USED - 8..].copy_from_slice(&sum.to_le_bytes());
        }
        assert!(checked(&out[..HEAD], HEAD, &MAGIC), "a slot reads as none");
        let mut slot = [0u8; SLOT_LEN];
        slot[..USED].copy_from_slice(&out);
        let read = StoreMeta::decode(&slot, Path::new(""));
        assert!(read.is_ok_and(|read| read.as_ref() == Some(self)), "a slot reads as another");
        out
    }

    fn decode(bytes: &[u8], file: &Path) -> Result<Option<StoreMeta>> {
        if bytes.len() != SLOT_LEN || !checked(&bytes[..HEAD], HEAD, &MAGIC) {
            return Ok(None);
        }
        check_version(bytes, 0, file)?;
        let has_origin = bytes[ORIGIN] == 1;
        let first_zero = if has_origin { ORIGIN + 1 } else { ORIGIN };
        let zero = [20..24, first_zero..HEAD - 8, if has_origin { USED } else { HEAD }..SLOT_LEN];
        let is_whole = !has_origin || checked(&bytes[..USED], USED, &MAGIC);
        if !is_whole || !zero.into_iter().all(|range| is_zero(&bytes[range])) {
            return Ok(None);
        }
        // Without an origin all of this is zero.
        let base = LogBase { seq: u64_at(bytes, 128), epoch: u64_at(bytes, 136) };
        let parent = Parent { uuid: array(bytes, 144), epoch: u64_at(bytes, 160) };
        Ok(Some(StoreMeta {
            uuid: array(bytes, 40),
            generation: u64_at(bytes, 56),
            durable: Position { seq: u64_at(bytes, 64), offset: u64_at(bytes, 72) },
            durable_epoch: u64_at(bytes, 80),
            durability: bytes[88],
            base,
            parent: Some(parent).filter(|parent| parent.uuid != [0; 16]),
        }))
    }
}

/// One slot as it is on disk; `None` if it is missing or not whole.
pub(crate) fn read_slot(vfs: &dyn Vfs, path: &Path) -> Result<Option<StoreMeta>> {
    let failed = |e: &std::io::Error| Error::storage(path, e, "read");
    let file = match vfs.open(path, OpenKind::Read) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(&e)),
    };
    let mut bytes = vec![0u8; SLOT_LEN + 1];
    // A host may be writing the slot in this instant.
    for _ in 0..3 {
        let n = read_full_at(&*file, 0, &mut bytes).map_err(|e| failed(&e))?;
        if let Some(meta) = StoreMeta::decode(&bytes[..n], path)? {
            return Ok(Some(meta));
        }
    }
    Ok(None)
}

fn read_slots(vfs: &dyn Vfs, dir: &Path) -> Result<(Option<StoreMeta>, Option<StoreMeta>)> {
    let paths = slot_paths(dir);
    Ok((read_slot(vfs, &paths[0])?, read_slot(vfs, &paths[1])?))
}

fn newer(a: StoreMeta, b: StoreMeta) -> StoreMeta {
    if b.generation > a.generation { b } else { a }
}

/// Where the log of the store in `dir` begins, by the newest valid slot; at its first segment if there is none.
pub(crate) fn base(vfs: &dyn Vfs, dir: &Path) -> Result<LogBase> {
    Ok(match read_slots(vfs, dir)? {
        (Some(a), Some(b)) => newer(a, b).base,
        (Some(meta), None) | (None, Some(meta)) => meta.base,
        (None, None) => LogBase::default(),
    })
}

/// Reads the newest valid slot of the store in `dir`.
pub fn read_meta(vfs: &dyn Vfs, dir: &Path) -> Result<StoreMeta> {
    let paths = slot_paths(dir);
    let is_marked = birth::is_marked(vfs, dir)?;
    // Slots come before the first segment: without one nothing was ever committed, and where it was listed they are whole
    // even if the store is being created just now. Of a copy that is being made anything may be there.
    let empty = is_marked || segment::list(vfs, dir)?.is_empty();
    let slots = read_slots(vfs, dir)?;
    let begun = [&slots.0, &slots.1]
        .iter()
        .any(|slot| slot.as_ref().is_some_and(|meta| meta.durable > Position::default()));
    if !begun && empty {
        return Err(not_a_store(dir));
    }
    let meta = match slots {
        (Some(a), Some(b)) if a.uuid != b.uuid => {
            let what = "the two meta slots are of different stores";
            return Err(Error::corruption(&paths[1], Some(40), None, what));
        }
        (Some(a), Some(b)) => newer(a, b),
        (Some(meta), None) | (None, Some(meta)) => meta,
        (None, None) => {
            return Err(Error::corruption(&paths[0], Some(0), None, "neither meta slot is whole"));
        }
    };
    if meta.base.seq > meta.durable.seq || meta.base.epoch >= MAX_EPOCH {
        let what = "no log begins at the base that the meta slot tells of";
        return Err(Error::corruption(&paths[0], Some(128), None, what));
    }
    Ok(meta)
}

pub(crate) fn not_a_store(dir: &Path) -> Error {
    let message = format!("{} holds no bus; create one with mmsb.create()", dir.display());
    let mut error = Error::new(Code::BusNotFound, message);
    error.detail.file = Some(dir.to_path_buf());
    error
}

pub(crate) fn slot_paths(dir: &Path) -> [PathBuf; 2] {
    SLOTS.map(|name| dir.join(name))
}

/// The writer's slots.
#[derive(Debug)]
pub(crate) struct MetaSlots {
    paths: [PathBuf; 2],
    files: [Arc<dyn VfsFile>; 2],
    pub(crate) now: StoreMeta,
}

impl MetaSlots {
    /// Makes both slots of a new store, replacing those of a creation that was interrupted, and syncs them.
    pub(crate) fn create(vfs: &dyn Vfs, dir: &Path, now: StoreMeta) -> Result<MetaSlots> {
        let paths = slot_paths(dir);
        for path in &paths {
            if vfs.exists(path).map_err(|e| Error::storage(path, &e, "look for"))? {
                vfs.unlink(path).map_err(|e| Error::storage(path, &e, "remove"))?;
            }
            vfs.open(path, OpenKind::CreateNew).map_err(|e| Error::storage(path, &e, "create"))?;
        }
        let mut slots = MetaSlots::open(vfs, dir, now)?;
        let first = slots.now.generation;
        for _ in 0..2 {
            slots.write(slots.now.durable, slots.now.durable_epoch)?;
        }
        assert_eq!(slots.now.generation.wrapping_sub(first), 2, "a slot was not written");
        slots.sync()?;
        Ok(slots)
    }

    /// Opens the slots for writing. One that is missing or not whole is made anew, with what the other one says.
    pub(crate) fn open(vfs: &dyn Vfs, dir: &Path, now: StoreMeta) -> Result<MetaSlots> {
        let paths = slot_paths(dir);
        let open = |path: &PathBuf| {
            let kind = if vfs.exists(path)? { OpenKind::ReadWrite } else { OpenKind::CreateNew };
            vfs.open(path, kind)
        };
        let failed = |path: &Path, e: &std::io::Error| Error::storage(path, e, "open");
        let files = [
            open(&paths[0]).map_err(|e| failed(&paths[0], &e))?,
            open(&paths[1]).map_err(|e| failed(&paths[1], &e))?,
        ];
        Ok(MetaSlots { paths, files, now })
    }

    /// Rewrites a slot that is not whole.
    pub(crate) fn repair(&mut self, vfs: &dyn Vfs) -> Result<()> {
        for index in 0..2 {
            let path = &self.paths[index];
            if read_slot(vfs, path)?.is_none() {
                self.files[index].set_len(0).map_err(|e| Error::storage(path, &e, "cut"))?;
                self.put(index)?;
                let path = &self.paths[index];
                self.files[index].sync().map_err(|e| Error::storage(path, &e, "sync"))?;
            }
        }
        Ok(())
    }

    /// Writes the slot whose turn it is. Not synced: the next sync or `close` does that.
    pub(crate) fn write(&mut self, durable: Position, durable_epoch: u64) -> Result<()> {
        assert!(durable >= self.now.durable, "a durable position goes back");
        assert!(durable.offset.is_multiple_of(8), "a durable position is inside a record");
        let generation = self.now.generation.wrapping_add(1);
        self.now = StoreMeta { generation, durable, durable_epoch, ..self.now.clone() };
        self.put(if planted(Defect::OneMetaSlot) { 0 } else { (generation % 2) as usize })
    }

    /// Brings a base into both slots, durably, one after the other. They are written even if they show it already: after a
    /// failed sync the cache may show what the disk lacks.
    pub(crate) fn rebase(&mut self, base: LogBase) -> Result<()> {
        assert!(base.seq >= self.now.base.seq, "a base goes back");
        assert!(base.epoch >= self.now.base.epoch, "a base goes back");
        assert!(base.seq <= self.now.durable.seq, "a log begins where it is not durable");
        self.now.base = base;
        for _ in 0..2 {
            self.write(self.now.durable, self.now.durable_epoch)?;
            self.sync()?;
        }
        Ok(())
    }

    /// Whether both slots on disk tell of the same base.
    pub(crate) fn agree(&self, vfs: &dyn Vfs) -> Result<bool> {
        for path in &self.paths {
            if read_slot(vfs, path)?.is_none_or(|meta| meta.base != self.now.base) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn put(&self, index: usize) -> Result<()> {
        let (file, path) = (&*self.files[index], &self.paths[index]);
        let failed = |e: &std::io::Error| Error::storage(path, e, "write");
        let bytes = self.now.encode();
        let used = if bytes[ORIGIN] == 1 { USED } else { HEAD };
        write_all_at(file, 0, &bytes[..used]).map_err(|e| failed(&e))?;
        if file.size().map_err(|e| failed(&e))? != SLOT_LEN as u64 {
            file.set_len(SLOT_LEN as u64).map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> Result<()> {
        for (file, path) in self.files.iter().zip(&self.paths) {
            file.sync().map_err(|e| Error::storage(path, &e, "sync"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::RamVfs;

    fn sample() -> StoreMeta {
        StoreMeta {
            uuid: [5; 16],
            durability: 2,
            generation: 0,
            durable: Position { seq: 1, offset: 4096 },
            durable_epoch: 17,
            base: LogBase::default(),
            parent: None,
        }
    }

    fn sample_with_base() -> StoreMeta {
        let base = LogBase { seq: 1, epoch: 11 };
        StoreMeta { base, parent: Some(Parent { uuid: [6; 16], epoch: 4 }), ..sample() }
    }

    #[test]
    fn a_base_is_in_both_slots() {
        let vfs = RamVfs::new();
        let dir = Path::new("/");
        let mut slots = MetaSlots::create(&vfs, dir, sample()).unwrap();
        let base = LogBase { seq: 1, epoch: 11 };
        slots.rebase(base).unwrap();
        assert_eq!(slots.now.generation, 4);
        for path in slot_paths(dir) {
            assert_eq!(read_slot(&vfs, &path).unwrap().unwrap().base, base);
        }
        assert!(slots.agree(&vfs).unwrap());
        assert_eq!(super::base(&vfs, dir).unwrap(), base);
        // One that a crash brought into one slot only.
        slots.now.base.epoch = 12;
        slots.write(slots.now.durable, 17).unwrap();
        assert!(!slots.agree(&vfs).unwrap());
        assert_eq!(super::base(&vfs, dir).unwrap().epoch, 12);
    }

    #[test]
    fn a_base_that_no_log_can_begin_at() {
        let vfs = RamVfs::new();
        let dir = Path::new("/");
        let mut slots = MetaSlots::create(&vfs, dir, sample()).unwrap();
        let seq = slots.now.durable.seq;
        let bases = [(seq, MAX_EPOCH - 1), (seq + 1, 11), (seq, MAX_EPOCH)];
        for (sound, (seq, epoch)) in [true, false, false].into_iter().zip(bases) {
            slots.now.base = LogBase { seq, epoch };
            slots.write(slots.now.durable, 17).unwrap();
            match read_meta(&vfs, dir) {
                Ok(meta) => assert!(sound && meta.base == slots.now.base),
                Err(error) => {
                    assert!(!sound);
                    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(128)));
                }
            }
        }
    }

    #[test]
    fn slots_take_turns_and_one_is_enough() {
        let vfs = RamVfs::new();
        let dir = Path::new("/");
        assert_eq!(read_meta(&vfs, dir).unwrap_err().code, Code::BusNotFound);
        let mut slots = MetaSlots::create(&vfs, dir, sample()).unwrap();
        slots.write(Position { seq: 1, offset: 5000 }, 18).unwrap();
        let newest = read_meta(&vfs, dir).unwrap();
        assert_eq!((newest.generation, newest.durable_epoch, newest.durable.offset), (3, 18, 5000));
        vfs.unlink(&dir.join(SLOTS[1])).unwrap();
        assert_eq!(read_meta(&vfs, dir).unwrap().durable_epoch, 17);
        let mut slots = MetaSlots::open(&vfs, dir, read_meta(&vfs, dir).unwrap()).unwrap();
        slots.repair(&vfs).unwrap();
        assert_eq!(read_slot(&vfs, &dir.join(SLOTS[1])).unwrap(), Some(slots.now.clone()));
    }

    #[test]
    fn every_bit_of_a_slot_counts() {
        [sample(), sample_with_base()].into_iter().for_each(every_bit_counts);
    }

    fn every_bit_counts(sample: StoreMeta) {
        let vfs = RamVfs::new();
        let dir = Path::new("/");
        let slots = MetaSlots::create(&vfs, dir, sample).unwrap();
        assert_eq!(read_slot(&vfs, &dir.join(SLOTS[0])).unwrap().unwrap(), slots.now);
        let path = dir.join(SLOTS[0]);
        let file = vfs.open(&path, OpenKind::ReadWrite).unwrap();
        let mut bytes = vec![0u8; SLOT_LEN];
        read_full_at(&*file, 0, &mut bytes).unwrap();
        for bit in (0..SLOT_LEN * 8).step_by(if cfg!(miri) { 2003 } else { 1 }) {
            let mut byte = [bytes[bit / 8] ^ 1 << (bit % 8)];
            write_all_at(&*file, (bit / 8) as u64, &byte).unwrap();
            assert_eq!(read_slot(&vfs, &path).unwrap(), None);
            byte[0] = bytes[bit / 8];
            write_all_at(&*file, (bit / 8) as u64, &byte).unwrap();
        }
        file.set_len(SLOT_LEN as u64 - 1).unwrap();
        vfs.unlink(&dir.join(SLOTS[1])).unwrap();
        assert_eq!(read_meta(&vfs, dir).unwrap_err().code, Code::BusNotFound);
        vfs.create_dir(&dir.join("log")).unwrap();
        let segment = dir.join("log/0000000000000000-0000000000000001.mlog");
        vfs.open(&segment, OpenKind::CreateNew).unwrap();
        assert_eq!(read_meta(&vfs, dir).unwrap_err().code, Code::Corruption);
    }
}
