//! Reading segments: a window over a file, and a walk from record to record.
//!
//! Invariants: reads with `pread` only, so it works while the host appends; every record's checksums, chain, epoch
//! and padding are checked; no length is believed before it is known to fit into the file.

use std::path::Path;
use std::sync::Arc;

use super::record::{self, Body, HEADER, Head};
use super::recover::CheckpointMark;
use super::segment::{self, HEADER_LEN, MAX_EPOCH, RECORDS, SegmentHeader, SegmentName};
use crate::arena::is_denied;
use crate::error::{Error, Result};
use crate::vfs::{OpenKind, Vfs, VfsFile, read_full_at, read_vec};

const WINDOW: usize = 256 * 1024;
const NARROW: usize = 4096;
/// A longer record may be one that a sparse file only claims.
const LARGE: usize = 4 << 20;

/// One commit as it lies in the log.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// Its epoch.
    pub epoch: u64,
    /// Nanoseconds since 1970, as the bus gave them.
    pub time: u64,
    /// Who made it.
    pub source: Option<&'a str>,
    /// Its metadata, canonical JSON.
    pub meta: Option<&'a str>,
    /// Its operations, as the bus encoded them.
    pub ops: &'a [u8],
    /// Where its record begins.
    pub offset: u64,
    /// The segment that holds it.
    pub file: &'a Path,
}

/// A part of a file in memory, moved over it as it is read.
#[derive(Debug)]
pub(crate) struct Window {
    file: Arc<dyn VfsFile>,
    pub(crate) path: Arc<Path>,
    buf: Vec<u8>,
    start: u64,
    /// How much is read at once, if no more is asked for: the more, the longer one read has followed the other, but never
    /// less than `least`.
    span: usize,
    least: usize,
}

impl Window {
    pub(crate) fn open(vfs: &dyn Vfs, path: &Path) -> Result<Window> {
        let file = vfs.open(path, OpenKind::Read).map_err(|e| Error::storage(path, &e, "open"))?;
        Ok(Window {
            file,
            path: path.into(),
            buf: Vec::new(),
            start: 0,
            span: WINDOW,
            least: WINDOW,
        })
    }

    /// Another window over the same file.
    fn again(&self) -> Window {
        let (file, path, least) = (Arc::clone(&self.file), Arc::clone(&self.path), self.least);
        Window { file, path, buf: Vec::new(), start: 0, span: least, least }
    }

    /// Reads little at once, for records that lie apart.
    pub(crate) fn sparse(mut self) -> Window {
        (self.span, self.least) = (NARROW, NARROW);
        self
    }

    pub(crate) fn size(&self) -> Result<u64> {
        self.file.size().map_err(|e| Error::storage(&self.path, &e, "measure"))
    }

    /// Forgets what was read, so that the next `get` sees what a host wrote since.
    pub(crate) fn refresh(&mut self) {
        self.buf.clear();
    }

    /// At least `want` bytes at `offset`, fewer where the file ends: what is allocated is bounded by the file.
    pub(crate) fn get(&mut self, offset: u64, want: usize) -> Result<&[u8]> {
        let inside = |w: &Window| {
            let at = offset.checked_sub(w.start).filter(|&at| at <= w.buf.len() as u64)?;
            (w.buf.len() as u64 - at >= want as u64).then_some(at as usize)
        };
        let at = match inside(self) {
            Some(at) => at,
            None => {
                let end = self.start + self.buf.len() as u64;
                let near = offset.saturating_add(self.span as u64) >= self.start && offset <= end;
                self.span = if near { (2 * self.span).min(WINDOW) } else { self.least };
                // A walk backward finds the records before this one in the same window.
                let back = if offset < self.start { offset.min(self.span as u64 / 2) } else { 0 };
                self.fill(offset - back, (want + back as usize).max(self.span))?;
                assert_eq!(self.start + back, offset, "a window is somewhere else");
                self.buf.len().min(back as usize)
            }
        };
        Ok(&self.buf[at..])
    }

    fn fill(&mut self, offset: u64, want: usize) -> Result<()> {
        let left = self.size()?.saturating_sub(offset).min(want as u64) as usize;
        self.buf.clear();
        self.start = offset;
        let no_memory = || {
            let what = format!("no memory for {left} bytes of {}", self.path.display());
            Error::new(crate::Code::OutOfSpace, what)
        };
        if left > LARGE {
            self.buf = Vec::new();
            let read =
                if is_denied() { Ok(None) } else { read_vec(&*self.file, offset, left as u64) };
            let read = read.map_err(|e| Error::storage(&self.path, &e, "read"))?;
            self.buf = read.ok_or_else(no_memory)?;
            assert_eq!(self.buf.len(), left, "a window is not as large as it was made");
            return Ok(());
        }
        if is_denied() || self.buf.try_reserve(left).is_err() {
            return Err(no_memory());
        }
        self.buf.resize(left, 0);
        let n = read_full_at(&*self.file, offset, &mut self.buf)
            .map_err(|e| Error::storage(&self.path, &e, "read"))?;
        self.buf.truncate(n);
        Ok(())
    }

    /// The first byte from `from` on that is not zero. Holes cost nothing, whatever length a file claims.
    pub(crate) fn next_nonzero(&mut self, from: u64) -> Result<Option<u64>> {
        let mut at = from;
        loop {
            let bytes = self.get(at, 1)?;
            if let Some(i) = bytes.iter().position(|&b| b != 0) {
                return Ok(Some(at + i as u64));
            }
            at += bytes.len() as u64;
            let data = self.file.next_data(at);
            match data.map_err(|e| Error::storage(&self.path, &e, "look for data in"))? {
                Some(data) => at = data,
                None => return Ok(None),
            }
        }
    }

    /// Hands out the bytes of `from..end` in pieces; long runs of zeros are left out.
    pub(crate) fn nonzero(
        &mut self,
        from: u64,
        end: u64,
        on: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut at = from;
        while let Some(found) = self.next_nonzero(at)?.filter(|&found| found < end) {
            let bytes = self.get(found, 1)?;
            let n = (end - found).min(bytes.len() as u64) as usize;
            assert!(n > 0, "a walk over bytes stands still");
            on(found, &bytes[..n])?;
            at = found + n as u64;
        }
        Ok(())
    }

    /// The end of the bytes from `from` on that are not zero, if there are any.
    pub(crate) fn last_nonzero(&mut self, from: u64) -> Result<Option<u64>> {
        let mut last = None;
        self.nonzero(from, u64::MAX, &mut |at, bytes| {
            last = bytes.iter().rposition(|&b| b != 0).map(|i| at + i as u64 + 1);
            Ok(())
        })?;
        assert!(last.is_none_or(|end| end > from), "bytes end before they begin");
        Ok(last)
    }

    /// The segment's header, or `None` if these bytes are not one.
    pub(crate) fn header(&mut self) -> Result<Option<SegmentHeader>> {
        let path = self.path.clone();
        let bytes = self.get(0, HEADER_LEN)?;
        SegmentHeader::decode(&bytes[..bytes.len().min(HEADER_LEN)], &path)
    }

    /// The record at `offset`, if one is there that was written there, and its bytes.
    pub(crate) fn record(&mut self, salt: &[u8; 16], offset: u64) -> Result<Option<(Head, &[u8])>> {
        let seed = record::seed(salt, offset);
        let Some(head) = Head::read(self.get(offset, HEADER)?, seed) else { return Ok(None) };
        // `get` gives no more than the file has, so an absurd length costs nothing and fails in `holds`.
        let bytes = self.get(offset, head.size() as usize)?;
        let bytes = &bytes[..bytes.len().min(head.size() as usize)];
        Ok(head.holds(bytes, seed).then_some((head, bytes)))
    }
}

/// Where the walk of one segment stands.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) window: Window,
    pub(crate) path: Arc<Path>,
    pub(crate) header: SegmentHeader,
    /// Where the next record begins.
    pub(crate) offset: u64,
    /// Epoch of the last commit, chain value, number of commits so far.
    pub(crate) epoch: u64,
    pub(crate) chain: u64,
    pub(crate) commits: u64,
    pub(crate) sealed: bool,
    /// The farthest offset of this segment that a record said to be durable.
    pub(crate) durable: u64,
}

/// What stands at the place that a walk has reached.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Commit(Commit<'a>),
    Mark {
        epoch: u64,
        digest: u128,
        size: u64,
    },
    /// A record without meaning for the reader.
    Other,
    /// No valid record.
    Nothing,
    /// A valid record that cannot be the next one.
    Wrong(&'static str),
}

impl Walk {
    pub(crate) fn new(window: Window, header: SegmentHeader) -> Walk {
        assert!(header.first_epoch > 0, "a header was not checked");
        assert!(header.first_epoch <= MAX_EPOCH, "a segment begins past the last epoch");
        let epoch = header.first_epoch - 1;
        let chain = header.chain;
        let (path, offset) = (window.path.clone(), RECORDS);
        Walk { window, path, header, offset, epoch, chain, commits: 0, sealed: false, durable: 0 }
    }

    /// A walk of its own through the same file, from the beginning.
    pub(crate) fn again(&self) -> Walk {
        Walk::new(self.window.again(), self.header.clone())
    }

    /// Goes on at the commit of `epoch`, if its record begins at `offset`; tells whether it does. What lies before is
    /// taken for sound.
    pub(crate) fn skip_to(&mut self, offset: u64, epoch: u64) -> Result<bool> {
        assert!(epoch > self.epoch, "a walk goes back");
        if !offset.is_multiple_of(8) {
            return Ok(false);
        }
        assert_eq!(self.offset, RECORDS, "a walk is moved on its way");
        assert!(!self.sealed, "a walk goes on behind the seal");
        let found = self.window.record(&self.header.salt, offset)?;
        let is_it = |head: &Head| head.kind == record::COMMIT && head.epoch_low == epoch as u32;
        let Some((head, _)) = found.filter(|(head, _)| is_it(head)) else { return Ok(false) };
        (self.offset, self.chain) = (offset, head.chain);
        (self.epoch, self.commits) = (epoch - 1, epoch - self.header.first_epoch);
        Ok(true)
    }

    /// Reads the next record. The walk moves on only if it is one that belongs here.
    pub(crate) fn step(&mut self) -> Result<Step<'_>> {
        let offset = self.offset;
        let Some((head, bytes)) = self.window.record(&self.header.salt, offset)? else {
            return Ok(Step::Nothing);
        };
        if !head.known() {
            let what = format!(
                "a record of kind {} with flags {:#x} at offset {offset}",
                head.kind, head.flags
            );
            return Err(segment::newer(&self.path, &what));
        }
        if self.sealed {
            return Ok(Step::Wrong("a record behind the seal"));
        }
        if head.chain != self.chain {
            return Ok(Step::Wrong("a record does not continue the chain"));
        }
        let commit = head.kind == record::COMMIT;
        let epoch = if commit { self.epoch.wrapping_add(1) } else { self.epoch };
        if head.epoch_low != epoch as u32 {
            return Ok(Step::Wrong("a record has the wrong epoch"));
        }
        let end = HEADER + head.len as usize;
        assert_eq!(bytes.len() as u64, head.size(), "a record that holds is not whole");
        let parsed = record::parse(&head, &bytes[HEADER..end], offset, self.header.base_time);
        let Some((durable, body)) = parsed else {
            return Ok(Step::Wrong("a record's payload has not the form of its kind"));
        };
        if let Body::Seal { commits, epoch } = body
            && (commits, epoch) != (self.commits, self.epoch)
        {
            return Ok(Step::Wrong("the seal counts other commits"));
        }
        self.epoch = epoch;
        self.commits += u64::from(commit);
        self.chain = head.chain_after();
        assert!(head.size() >= HEADER as u64, "a walk goes on");
        assert!(self.offset.is_multiple_of(8), "records are aligned");
        self.offset += head.size();
        self.durable = self.durable.max(durable.unwrap_or(0));
        assert!(self.durable < self.offset, "a record tells of what comes after it");
        let commits = self.epoch + 1 - self.header.first_epoch;
        assert_eq!(self.commits, commits, "a commit is not an epoch");
        self.sealed = matches!(body, Body::Seal { .. });
        Ok(match body {
            Body::Commit { time, source, meta, ops } => {
                let file = &*self.path;
                Step::Commit(Commit { epoch, time, source, meta, ops, offset, file })
            }
            Body::Mark { epoch, digest, size } => Step::Mark { epoch, digest, size },
            Body::Seal { .. } | Body::Ignorable => Step::Other,
        })
    }

    /// The error for what `step` found wrong here.
    pub(crate) fn damage(&self, what: &str) -> Error {
        Error::corruption(&self.path, Some(self.offset), Some(self.epoch.wrapping_add(1)), what)
    }
}

/// What a seal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Commits of the segment, and its last epoch.
    pub(crate) commits: u64,
    pub(crate) epoch: u64,
    /// The chain value behind it, and where it ends.
    pub(crate) chain: u64,
    pub(crate) end: u64,
}

/// A record that is found by its place; its place in the chain is not looked at.
fn found<'w>(
    window: &'w mut Window,
    header: &SegmentHeader,
    offset: u64,
) -> Result<Option<(Head, Body<'w>)>> {
    let Some((head, bytes)) = window.record(&header.salt, offset)? else { return Ok(None) };
    let payload = &bytes[HEADER..HEADER + head.len as usize];
    let parsed = record::parse(&head, payload, offset, header.base_time);
    Ok(parsed.map(|(_, body)| (head, body)))
}

impl Walk {
    /// The seal that begins at `offset`, if there is one.
    pub(crate) fn seal_at(&mut self, offset: u64) -> Result<Option<Seal>> {
        Ok(match found(&mut self.window, &self.header, offset)? {
            Some((head, Body::Seal { commits, epoch })) => offset
                .checked_add(head.size())
                .map(|end| Seal { commits, epoch, chain: head.chain_after(), end }),
            _ => None,
        })
    }

    /// The checkpoint mark that begins at `offset`, if there is one.
    pub(crate) fn mark_at(&mut self, offset: u64) -> Result<Option<CheckpointMark>> {
        Ok(match found(&mut self.window, &self.header, offset)? {
            Some((_, Body::Mark { epoch, digest, size })) => {
                Some(CheckpointMark { epoch, digest, size })
            }
            _ => None,
        })
    }
}

/// The commit whose record begins at `offset`, if there is one. Its place in the chain is not looked at.
pub(crate) fn commit_at<'a>(
    window: &'a mut Window,
    header: &SegmentHeader,
    file: &'a Path,
    offset: u64,
) -> Result<Option<Commit<'a>>> {
    let Some((head, Body::Commit { time, source, meta, ops })) = found(window, header, offset)?
    else {
        return Ok(None);
    };
    let epoch = epoch_of(&head, header);
    assert_eq!(epoch as u32, head.epoch_low, "an epoch was put together wrong");
    assert_eq!(head.kind, record::COMMIT, "another record reads as a commit");
    Ok(Some(Commit { epoch, time, source, meta, ops, offset, file }))
}

/// A segment has fewer than 2^32 commits.
fn epoch_of(head: &Head, header: &SegmentHeader) -> u64 {
    header.first_epoch + u64::from(head.epoch_low.wrapping_sub(header.first_epoch as u32))
}

impl Walk {
    /// The epoch of the record that begins at `offset`, as its head says; its body is not read.
    pub(crate) fn epoch_at(&mut self, offset: u64) -> Result<Option<u64>> {
        let seed = record::seed(&self.header.salt, offset);
        let head = Head::read(self.window.get(offset, HEADER)?, seed);
        Ok(head.map(|head| epoch_of(&head, &self.header)))
    }
}

/// Opens a segment whose header must be good and must be the one that the name and the store ask for.
pub(crate) fn open_segment(
    vfs: &dyn Vfs,
    dir: &Path,
    name: SegmentName,
    uuid: Option<[u8; 16]>,
) -> Result<Walk> {
    begin(Window::open(vfs, &segment::log_dir(dir).join(name.file()))?, name, uuid)
}

/// The same for somebody who needs a few records of it.
pub(crate) fn open_sparse(
    vfs: &dyn Vfs,
    dir: &Path,
    name: SegmentName,
    uuid: Option<[u8; 16]>,
) -> Result<Walk> {
    begin(Window::open(vfs, &segment::log_dir(dir).join(name.file()))?.sparse(), name, uuid)
}

fn begin(mut window: Window, name: SegmentName, uuid: Option<[u8; 16]>) -> Result<Walk> {
    let Some(header) = window.header()? else {
        return Err(bad_header(&window.path, name, "the segment's header is damaged"));
    };
    check_header(&header, &window.path, name, uuid)?;
    let walk = Walk::new(window, header);
    assert_eq!(walk.epoch + 1, name.first_epoch, "a walk begins at another commit");
    assert_eq!(walk.header.seq, name.seq, "a walk goes through another segment");
    Ok(walk)
}

pub(crate) fn bad_header(path: &Path, name: SegmentName, what: &str) -> Error {
    Error::corruption(path, Some(0), Some(name.first_epoch), what)
}

pub(crate) fn check_header(
    header: &SegmentHeader,
    path: &Path,
    name: SegmentName,
    uuid: Option<[u8; 16]>,
) -> Result<()> {
    if (header.seq, header.first_epoch) != (name.seq, name.first_epoch) {
        return Err(bad_header(path, name, "the segment lies under another segment's name"));
    }
    if uuid.is_some_and(|uuid| uuid != header.uuid) {
        return Err(bad_header(path, name, "the segment belongs to another store"));
    }
    Ok(())
}
