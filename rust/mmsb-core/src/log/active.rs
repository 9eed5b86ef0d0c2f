//! The segment that is being written: its reserved space, and the way its records get into the file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Position;
use super::mapped::{Helper, MappedSegment};
use super::record::{self, HEADER, HEADROOM, SEAL_ROOM, padded};
use super::segment::{RECORDS, Segment, SegmentHeader};
use crate::error::{Error, Result};
use crate::vfs::{OpenKind, Vfs, write_all_at};

const FIRST_STEP: u64 = 256 << 10;

#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) segment: Arc<Segment>,
    pub(crate) salt: [u8; 16],
    pub(crate) base_time: u64,
    pub(crate) first_epoch: u64,
    /// Where the next record goes.
    pub(crate) end: u64,
    pub(crate) commits: u64,
    /// The durable offset that the last mark told.
    pub(crate) told: u64,
    /// How far this thread has reserved the file's space.
    reserved: u64,
    /// The size that the segment aims at.
    limit: u64,
    mapped: Option<MappedSegment>,
}

/// What a record says beside its payload.
pub(crate) struct Entry {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) epoch: u64,
    /// The time of a commit.
    pub(crate) time: Option<u64>,
    /// The chain value before it.
    pub(crate) chain: u64,
    /// Before this everything is durable.
    pub(crate) synced: Position,
}

impl Active {
    /// Makes the file `made` with its header. If that fails nothing is left of it, or the second value is false.
    pub(crate) fn create(
        vfs: &dyn Vfs,
        made: &Path,
        path: &Path,
        header: &SegmentHeader,
        limit: u64,
    ) -> std::result::Result<Active, (Error, bool)> {
        let begin = Position { seq: header.seq, offset: RECORDS };
        assert!(header.durable < begin, "a new segment is durable already");
        assert!(header.seq > 0 || header.chain == 0, "the first segment follows another");
        let file = match vfs.open(made, OpenKind::CreateNew) {
            Ok(file) => file,
            Err(e) => return Err((Error::storage(made, &e, "create"), true)),
        };
        let segment = Arc::new(Segment::new(path.to_path_buf(), file, header.seq));
        let mut active = Active {
            segment,
            salt: header.salt,
            base_time: header.base_time,
            first_epoch: header.first_epoch,
            end: RECORDS,
            commits: 0,
            told: 0,
            reserved: 0,
            limit,
            mapped: None,
        };
        let begun = active.reserve(0).and_then(|()| {
            write_all_at(&*active.segment.file, 0, &header.encode())
                .map_err(|e| Error::storage(path, &e, "write"))
        });
        match begun {
            Ok(()) => {
                active.check();
                let room = active.reserved - active.end;
                assert!(room >= SEAL_ROOM, "a new segment has no room for its seal");
                Ok(active)
            }
            Err(error) => Err((error, vfs.unlink(made).is_ok())),
        }
    }

    /// What holds between two records.
    fn check(&self) {
        assert!(self.end >= RECORDS, "a segment ends in its header");
        assert!(self.end.is_multiple_of(8), "a segment ends inside a record");
        assert!(self.end <= self.reserved, "a segment is longer than its space");
        assert!(self.told < self.end, "a mark tells of what comes after it");
        assert!(self.told.is_multiple_of(8), "a mark tells of a place inside a record");
        let most = (self.end - RECORDS) / padded(HEADER as u64 + 1);
        assert!(self.commits <= most, "a segment has more commits than records");
    }

    /// Lets the helper map the file, or maps it at once without one; where or as long as that is not possible records are
    /// written with `pwrite`.
    pub(crate) fn map(&mut self, helper: Option<&Helper>) {
        assert!(self.mapped.is_none(), "a segment is mapped twice");
        assert_eq!(self.end, RECORDS, "a segment is mapped behind its first record");
        let file = &self.segment.file;
        self.mapped = match helper {
            Some(helper) => Some(helper.map(file, self.limit)),
            None => MappedSegment::inline(file, self.limit).ok(),
        };
    }

    /// Whether a record of this size and a seal are within the size that the segment aims at. The first always is.
    pub(crate) fn fits(&self, need: u64) -> bool {
        self.end == RECORDS || self.end + need + SEAL_ROOM <= self.limit
    }

    /// Reserves the space for a record of this size and a seal, so that a full disk shows before the record is begun.
    #[inline]
    pub(crate) fn reserve(&mut self, need: u64) -> Result<()> {
        let least = self.end + need + SEAL_ROOM;
        if least <= self.reserved {
            return Ok(());
        }
        let ready = self.mapped.as_ref().map_or(0, MappedSegment::reserved);
        self.reserved = self.reserved.max(ready);
        if least <= self.reserved { Ok(()) } else { self.grow(least) }
    }

    #[cold]
    fn grow(&mut self, least: u64) -> Result<()> {
        assert!(least > self.reserved, "space is reserved twice");
        let file = &self.segment.file;
        let grow = |to: u64| file.fallocate(self.reserved, to - self.reserved).map(|()| to);
        let step = (self.reserved * 2).max(FIRST_STEP).min(self.limit).max(least);
        // Near the end of the disk the record may still fit where the whole step does not.
        self.reserved = match grow(step).or_else(|_| grow(least)) {
            Ok(to) => to,
            Err(e) if e.kind() == io::ErrorKind::Unsupported => u64::MAX,
            Err(e) => return Err(Error::storage(&self.segment.path, &e, "reserve space in")),
        };
        assert!(self.reserved >= least, "less was reserved than asked for");
        self.check();
        Ok(())
    }

    /// Writes the record in `buf`, [`HEADROOM`] spare bytes and its payload, behind the last one. Returns the chain value
    /// after it.
    #[inline]
    pub(crate) fn put(&mut self, entry: &Entry, buf: &mut Vec<u8>) -> Result<u64> {
        let commit = entry.kind == record::COMMIT;
        assert_eq!(entry.time.is_some(), commit, "a commit has a time and nothing else has");
        assert!(buf.len() >= HEADROOM, "a record comes without its headroom");
        let (mut flags, mut start) = (entry.flags, HEADROOM);
        let mut number = [0u8; 10];
        let mut prepend = |value: u64, start: &mut usize| {
            let n = record::varint(value, &mut number);
            *start -= n;
            buf[*start..*start + n].copy_from_slice(&number[..n]);
        };
        if let Some(time) = entry.time {
            prepend(time.wrapping_sub(self.base_time), &mut start);
        }
        // Told once: a later record with it proves as much as every record with it.
        let synced = entry.synced;
        let tell = synced.seq == self.segment.seq && synced.offset > self.told;
        if tell {
            assert!(synced.offset <= self.end, "more is durable than was written");
            assert!(synced.offset.is_multiple_of(8), "a sync ends inside a record");
            flags |= record::DURABLE;
            prepend(self.end - synced.offset, &mut start);
        }
        assert!(start >= HEADER, "no room in front of a record for its header");
        start -= HEADER;
        let (at, len) = (self.end, buf.len());
        let seed = record::seed(&self.salt, at);
        let (kind, epoch) = (entry.kind, entry.epoch);
        let body = record::finish(&mut buf[start..], kind, flags, epoch, entry.chain, seed);
        buf.resize(start + padded((len - start) as u64) as usize, 0);
        let done = self.write(&buf[start..]);
        buf.truncate(len);
        done?;
        if tell {
            self.told = synced.offset;
        }
        self.commits += u64::from(commit);
        let room = self.reserved.saturating_sub(self.end);
        assert!(room >= SEAL_ROOM || kind == record::SEAL, "no room is left for a seal");
        Ok(record::chain_after(entry.chain, body))
    }

    /// Puts a padded record at the end.
    #[inline]
    fn write(&mut self, record: &[u8]) -> Result<()> {
        let room = self.reserved.saturating_sub(self.end);
        assert!(record.len() as u64 <= room, "a record was begun without its space");
        assert!(record.len().is_multiple_of(8), "a record is not padded");
        assert!(self.end.is_multiple_of(8), "a record is not aligned");
        let copied = self.mapped.as_mut().is_some_and(|mapped| mapped.write(self.end, record));
        if !copied {
            write_all_at(&*self.segment.file, self.end, record)
                .map_err(|e| Error::storage(&self.segment.path, &e, "append to"))?;
        }
        self.end += record.len() as u64;
        Ok(())
    }

    /// Cuts off what was reserved behind the last record; nothing is written any more.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.check();
        assert!(self.end > RECORDS, "a segment ends without its seal");
        self.mapped = None;
        let cut = self.segment.file.set_len(self.end);
        cut.map_err(|e| Error::storage(&self.segment.path, &e, "cut"))
    }

    /// Where its last record ends.
    pub(crate) fn position(&self) -> Position {
        Position { seq: self.segment.seq, offset: self.end }
    }
}
