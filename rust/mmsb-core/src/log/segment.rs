//! A segment file: its name, its 4096-byte header, and how it is made durable.
//!
//! Invariants: a segment is never reused or rewritten; its header never changes; a failed sync is final for the
//! writer, whoever asked for it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::record::u64_at;
use super::{Position, meta};
use crate::error::{Code, Error, Result};
use crate::hash::{h64, is_zero};
use crate::museum::{Defect, planted};
use crate::vfs::{Vfs, VfsDir, VfsFile};

/// Where the records begin.
pub(crate) const HEADER_LEN: usize = 4096;
pub(crate) const RECORDS: u64 = HEADER_LEN as u64;
const MAGIC: [u8; 16] = *b"\x89MMSB log\r\n\x1a\n\0\xb5\xff";
/// Format version that this build writes, and the newest major that it reads.
pub(crate) const MAJOR: u16 = 1;
pub(crate) const MINOR: u16 = 0;
pub(crate) const EXTENSION: &str = ".mlog";
const _: () = assert!(RECORDS.is_multiple_of(8), "records are aligned");
/// No segment begins past this; so that epochs can be counted on without an overflow.
pub(crate) const MAX_EPOCH: u64 = 1 << 62;
const _: () = assert!(MAX_EPOCH <= u64::MAX / 2);

/// What a segment's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) uuid: [u8; 16],
    pub(crate) salt: [u8; 16],
    pub(crate) seq: u64,
    pub(crate) first_epoch: u64,
    pub(crate) base_time: u64,
    pub(crate) chain: u64,
    pub(crate) durable: Position,
    pub(crate) block_size: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(self.first_epoch > 0, "a segment begins with no commit's epoch");
        let mut out = Vec::with_capacity(HEADER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        out.extend_from_slice(&self.block_size.to_le_bytes());
        for features in [0u64, 0] {
            out.extend_from_slice(&features.to_le_bytes());
        }
        out.extend_from_slice(&self.uuid);
        out.extend_from_slice(&self.salt);
        let words = [
            self.seq,
            self.first_epoch,
            self.base_time,
            self.chain,
            self.durable.seq,
            self.durable.offset,
        ];
        for word in words {
            out.extend_from_slice(&word.to_le_bytes());
        }
        assert_eq!(out.len(), 120, "the header's fields are where FORMAT.md says");
        out.resize(HEADER_LEN - 8, 0);
        out.extend_from_slice(&h64(&out).to_le_bytes());
        assert!(checked(&out, HEADER_LEN, &MAGIC), "a header reads as none");
        let read = SegmentHeader::decode(&out, Path::new(""));
        assert!(read.is_ok_and(|read| read.as_ref() == Some(self)), "a header reads as another");
        out
    }

    /// Reads a header; `Ok(None)` if the bytes are not one.
    pub(crate) fn decode(bytes: &[u8], file: &Path) -> Result<Option<SegmentHeader>> {
        assert!(bytes.len() <= HEADER_LEN, "records are read as a header");
        if !checked(bytes, HEADER_LEN, &MAGIC) {
            return Ok(None);
        }
        check_version(bytes, 0, file)?;
        if !is_zero(&bytes[120..HEADER_LEN - 8]) {
            return Ok(None);
        }
        Ok(Some(SegmentHeader {
            block_size: (u64_at(bytes, 20) & 0xFFFF_FFFF) as u32,
            uuid: array(bytes, 40),
            salt: array(bytes, 56),
            seq: u64_at(bytes, 72),
            first_epoch: u64_at(bytes, 80),
            base_time: u64_at(bytes, 88),
            chain: u64_at(bytes, 96),
            durable: Position { seq: u64_at(bytes, 104), offset: u64_at(bytes, 112) },
        }))
    }
}

pub(crate) fn array(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut out = [0u8; 16];
    out.copy_from_slice(&bytes[at..at + 16]);
    out
}

/// Whether the bytes begin with the magic and end with their checksum.
pub(crate) fn checked(bytes: &[u8], len: usize, magic: &[u8; 16]) -> bool {
    assert!(len > magic.len() + 8, "a checksum covers nothing but the magic");
    assert!(len.is_multiple_of(8), "a checksum is not aligned");
    bytes.len() == len
        && bytes.starts_with(magic)
        && h64(&bytes[..len - 8]) == u64_at(bytes, len - 8)
}

/// Refuses a file of a newer format. All files keep the version at byte 16, the required features at 24.
pub(crate) fn check_version(bytes: &[u8], known: u64, file: &Path) -> Result<()> {
    assert!(bytes.len() >= 32, "a header ends before its features");
    let major = u64_at(bytes, 16) as u16;
    let required = u64_at(bytes, 24);
    if major == MAJOR && required & !known == 0 {
        return Ok(());
    }
    Err(newer(file, &format!("format {major} with required features {required:#x}")))
}

pub(super) fn newer(file: &Path, what: &str) -> Error {
    let mut error = Error::new(
        Code::FormatVersion,
        format!(
            "{}: {what} is unknown to this version of MMSB, which reads format {MAJOR}; use a newer one",
            file.display()
        ),
    );
    error.detail.file = Some(file.to_path_buf());
    error
}

/// The order and place in history that a file name carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub(crate) seq: u64,
    pub(crate) first_epoch: u64,
}

impl SegmentName {
    pub(crate) fn file(&self) -> String {
        let name = format!("{:016x}-{:016x}{EXTENSION}", self.seq, self.first_epoch);
        assert_eq!(name.len(), 38, "the order of names is not that of numbers");
        name
    }

    pub(crate) fn parse(name: &str) -> Option<SegmentName> {
        let (seq, first) = name.strip_suffix(EXTENSION)?.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let parsed = SegmentName { seq: number(seq)?, first_epoch: number(first)? };
        (parsed.file() == name).then_some(parsed)
    }
}

/// The segments of a store in order, from its base on. A gap in the sequence is damage.
pub(crate) fn list(vfs: &dyn Vfs, dir: &Path) -> Result<Vec<SegmentName>> {
    Ok(list_both(vfs, dir, meta::base(vfs, dir)?.seq)?.0)
}

/// The segments of a store in order, from number `base` on, and what is left of those before it.
pub(crate) fn list_both(
    vfs: &dyn Vfs,
    dir: &Path,
    base: u64,
) -> Result<(Vec<SegmentName>, Vec<SegmentName>)> {
    let log = log_dir(dir);
    let names = match vfs.list(&log) {
        // A creation that was interrupted may have lost the directory.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Vec::new(),
        listed => listed.map_err(|e| Error::storage(&log, &e, "list"))?,
    };
    let (mut found, mut leftover): (Vec<SegmentName>, Vec<SegmentName>) = Default::default();
    for name in names.iter().filter(|name| name.ends_with(EXTENSION)) {
        let path = log.join(name);
        let Some(segment) = SegmentName::parse(name) else {
            return Err(Error::corruption(&path, None, None, "not the name of a segment"));
        };
        if segment.first_epoch == 0 || segment.first_epoch > MAX_EPOCH {
            return Err(Error::corruption(&path, None, None, "no segment begins with this epoch"));
        }
        if segment.seq < base {
            leftover.push(segment);
            continue;
        }
        let previous = found.last();
        let expected = previous.map_or(base, |p| p.seq + 1);
        if segment.seq != expected {
            let what = format!("the segment with number {expected} before it is missing");
            return Err(Error::corruption(&path, None, previous.map(|p| p.first_epoch), what));
        }
        if previous.is_some_and(|p| p.first_epoch > segment.first_epoch) {
            return Err(Error::corruption(
                &path,
                None,
                None,
                "its first epoch is before the last segment's",
            ));
        }
        found.push(segment);
    }
    let numbers = found.iter().map(|name| name.seq);
    assert!(
        numbers.eq(base..base + found.len() as u64),
        "a segment is not at the place of its number"
    );
    let in_order = |a: &SegmentName, b: &SegmentName| a.first_epoch <= b.first_epoch;
    assert!(found.is_sorted_by(in_order), "epochs go back from segment to segment");
    let last = found.last().map_or(0, |name| name.first_epoch);
    assert!(last <= MAX_EPOCH, "a segment begins past the last epoch");
    Ok((found, leftover))
}

/// Removes what is left of segments before the base, which is durable. A power loss may have brought a name back.
pub(crate) fn remove(vfs: &dyn Vfs, dir: &Path, leftover: &[SegmentName]) -> Result<()> {
    let log = log_dir(dir);
    for name in leftover {
        let path = log.join(name.file());
        vfs.unlink(&path).map_err(|e| Error::storage(&path, &e, "remove"))?;
    }
    if leftover.is_empty() {
        return Ok(());
    }
    vfs.sync_dir(&log).map_err(|e| Error::storage(&log, &e, "sync"))
}

/// Makes the directories of a store; those that are there are fine.
pub(crate) fn make_dirs(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    for sub in ["log", "checkpoints", "quarantine"] {
        let sub = dir.join(sub);
        vfs.create_dir(&sub).map_err(|e| Error::storage(&sub, &e, "create"))?;
    }
    Ok(())
}

pub(crate) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// All syncs of one writer pass through here, one at a time: the kernel reports a failure to one caller only, so the
/// others must learn of it from us.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Held while a sync runs.
    turn: Mutex<()>,
    failure: OnceLock<Error>,
    /// The directory of the segments, open as long as the log is: a sync must not fail for want of a descriptor.
    names: Box<dyn VfsDir>,
    log: PathBuf,
}

impl Gate {
    pub(crate) fn open(vfs: &dyn Vfs, store: &Path) -> Result<Gate> {
        let log = log_dir(store);
        let names = vfs.open_dir(&log).map_err(|e| Error::storage(&log, &e, "open"))?;
        Ok(Gate { turn: Mutex::default(), failure: OnceLock::new(), names, log })
    }

    /// Makes the bytes of segments durable, then the names of all segments that there are: of these and of `newest`.
    /// Asks for nothing once a sync has failed.
    pub(crate) fn sync(&self, segments: &[Arc<Segment>], newest: Option<&Segment>) -> Result<()> {
        assert!(segments.is_sorted_by(|a, b| a.seq < b.seq), "segments are synced out of order");
        let has_gap = segments.windows(2).any(|two| two[0].seq + 1 != two[1].seq);
        assert!(!has_gap, "a segment between is not synced");
        let last = segments.last().map(|segment| segment.seq);
        assert!(
            newest.is_none_or(|newest| last < Some(newest.seq)),
            "a newer segment is synced first"
        );
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        self.sync_all(segments, newest).inspect_err(|error| {
            let first = self.failure.set(error.clone()).is_ok();
            assert!(first, "a sync was tried after one had failed");
        })?;
        assert!(self.failure.get().is_none(), "a sync counts after one had failed");
        Ok(())
    }

    fn sync_all(&self, segments: &[Arc<Segment>], newest: Option<&Segment>) -> Result<()> {
        for segment in segments {
            let again = |e| if planted(Defect::SyncRetried) { segment.file.sync() } else { Err(e) };
            segment
                .file
                .sync()
                .or_else(again)
                .map_err(|e| Error::storage(&segment.path, &e, "sync"))?;
        }
        let every = || segments.iter().map(|segment| &**segment).chain(newest);
        let unnamed = every().any(|segment| !segment.named.load(Ordering::Acquire));
        if unnamed && !planted(Defect::DirectoryNotSynced) {
            self.sync_names()?;
            every().for_each(|segment| segment.named.store(true, Ordering::Release));
        }
        let named = every().all(|segment| segment.named.load(Ordering::Acquire));
        assert!(
            named || planted(Defect::DirectoryNotSynced),
            "a segment is synced without its name"
        );
        Ok(())
    }

    /// Makes the names of all segments durable, where no writer can have failed yet.
    pub(crate) fn sync_names(&self) -> Result<()> {
        self.names.sync().map_err(|e| Error::storage(&self.log, &e, "sync"))
    }

    /// Makes durable that names are gone. A failure is final like that of any other sync.
    pub(crate) fn sync_removed(&self) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        self.sync_names().inspect_err(|error| _ = self.failure.set(error.clone()))
    }

    /// Fails if a sync has failed.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.failure.get().map_or(Ok(()), repeat)
    }
}

#[cold]
fn repeat(error: &Error) -> Result<()> {
    Err(error.clone())
}

/// An open segment that is being written, or was and may not be durable yet.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn VfsFile>,
    pub(crate) seq: u64,
    /// Its name is durable.
    named: AtomicBool,
}

impl Segment {
    pub(crate) fn new(path: PathBuf, file: Arc<dyn VfsFile>, seq: u64) -> Segment {
        Segment { path, file, seq, named: AtomicBool::new(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> SegmentHeader {
        SegmentHeader {
            uuid: [7; 16],
            salt: [9; 16],
            seq: 3,
            first_epoch: 77,
            base_time: 1 << 60,
            chain: 0xABCD,
            durable: Position { seq: 2, offset: 8192 },
            block_size: 16384,
        }
    }

    #[test]
    fn header_round_trip_and_every_bit() {
        let bytes = sample().encode();
        let path = Path::new("s");
        assert_eq!(SegmentHeader::decode(&bytes, path).unwrap(), Some(sample()));
        for bit in (0..bytes.len() * 8).step_by(if cfg!(miri) { 4001 } else { 1 }) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad, path).unwrap(), None);
        }
    }

    #[test]
    fn newer_formats_are_refused() {
        for (at, value) in [(16, 2u8), (24, 1), (31, 0x80)] {
            let mut bytes = sample().encode();
            bytes[at] = value;
            let sum = h64(&bytes[..HEADER_LEN - 8]);
            bytes[HEADER_LEN - 8..].copy_from_slice(&sum.to_le_bytes());
            let error = SegmentHeader::decode(&bytes, Path::new("s")).unwrap_err();
            assert_eq!(error.code, Code::FormatVersion);
        }
    }

    #[test]
    fn names() {
        let name = SegmentName { seq: 10, first_epoch: u64::MAX };
        assert_eq!(name.file(), "000000000000000a-ffffffffffffffff.mlog");
        assert_eq!(SegmentName::parse(&name.file()), Some(name));
        for bad in [
            "a-b.mlog",
            "000000000000000A-0000000000000001.mlog",
            "x",
            "+00000000000000a-0000000000000001.mlog",
        ] {
            assert_eq!(SegmentName::parse(bad), None);
        }
    }
}
