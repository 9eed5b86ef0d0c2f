//! Writing a checkpoint: the pages, their index, and the header at last.

use std::io;
use std::path::Path;

use super::header::{HEADER, Header};
use super::read::{Entry, Fields};
use super::{TEMP, dir, no_memory, temp};
use crate::arena::{BLOCK, Mem, is_denied};
use crate::catalog::Desc;
use crate::delta::put_shape;
use crate::hash::h128;
use crate::log::{put_text, put_varint};
use crate::museum::{Defect, planted};
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::table::{self, Slot};
use crate::vfs::{OpenKind, Vfs, VfsFile, write_all_at};
use crate::{Error, Result, blocks, page};

/// Writes are gathered to so many bytes.
const CHUNK: usize = 1 << 20;
/// Most bytes of what is appended at once.
const PIECE: usize = BLOCK as usize;
const _: () = assert!(PIECE >= 4096, "what aligns a page is a piece too");
const _: () = assert!(CHUNK >= PIECE, "a piece is written at once");

/// Makes room for so many bytes more in memory that may be refused.
fn reserve(buf: &mut Vec<u8>, more: usize, path: &Path) -> Result<()> {
    let has_room = buf.capacity() - buf.len() >= more;
    if has_room || !is_denied() && buf.try_reserve(more).is_ok() {
        assert!(buf.capacity() - buf.len() >= more, "what was asked for is there");
        return Ok(());
    }
    Err(no_memory((buf.len() + more) as u64, path))
}

/// What tells of the pages, gathered in memory that may be refused.
struct Index<'a> {
    path: &'a Path,
    buf: Vec<u8>,
}

impl Index<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        reserve(&mut self.buf, bytes.len(), self.path)?;
        self.buf.extend_from_slice(bytes);
        Ok(())
    }
}

/// Appends to a file in large pieces.
struct Out<'a> {
    file: &'a dyn VfsFile,
    path: &'a Path,
    at: u64,
    buf: Vec<u8>,
}

impl<'a> Out<'a> {
    fn new(file: &'a dyn VfsFile, path: &'a Path) -> Result<Out<'a>> {
        let mut buf = Vec::new();
        reserve(&mut buf, CHUNK + PIECE, path)?;
        Ok(Out { file, path, at: HEADER as u64, buf })
    }

    fn end(&self) -> u64 {
        self.at + self.buf.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= PIECE, "what is appended comes in pieces");
        assert!(self.buf.len() < CHUNK, "full pieces have been written");
        let room = self.buf.capacity() - self.buf.len();
        assert!(room >= bytes.len(), "memory is asked for that may not be refused");
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn align(&mut self, to: u64) -> Result<()> {
        let pad = self.end().next_multiple_of(to) - self.end();
        self.put(&[0; PIECE][..pad as usize])?;
        assert!(self.end().is_multiple_of(to), "padding ends on the boundary");
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        assert!(self.buf.len() < CHUNK + PIECE, "a full piece was not written in time");
        write_all_at(self.file, self.at, &self.buf)
            .map_err(|e| Error::storage(self.path, &e, "cannot write"))?;
        self.at += self.buf.len() as u64;
        self.buf.clear();
        Ok(())
    }
}

/// Writes the checkpoint of a snapshot under a temporary name and syncs it. Returns its size.
pub(crate) fn write(
    vfs: &dyn Vfs,
    store: &Path,
    uuid: [u8; 16],
    at: &Snapshot,
    automatic: bool,
) -> Result<u64> {
    assert!(at.epoch() <= at.core().epoch(), "a checkpoint shows what was published");
    let at = &at.whole()?;
    let temp = temp(store, at.epoch());
    let fail = |e: io::Error, doing: &str| Error::storage(&temp, &e, doing);
    remove_remains(vfs, store)?;
    let file = vfs.open(&temp, OpenKind::CreateNew).map_err(|e| fail(e, "cannot create"))?;
    let written = fill(&*file, &temp, uuid, at, automatic).and_then(|size| {
        assert!(size >= HEADER as u64 + at.root().bytes, "a checkpoint is smaller than its pages");
        if planted(Defect::RenamedBeforeSync) { Ok(()) } else { file.sync() }
            .map(|()| size)
            .map_err(|e| fail(e, "cannot sync"))
    });
    written.inspect_err(|_| {
        // Nothing refers to the temporary file; what can't be removed now is removed by the next checkpoint.
        let _ = vfs.unlink(&temp);
    })
}

/// Removes what is left of checkpoints that a crash ended, of whatever epoch. Nobody else writes one meanwhile.
fn remove_remains(vfs: &dyn Vfs, store: &Path) -> Result<()> {
    let dir = dir(store);
    let names = vfs.list(&dir).map_err(|e| Error::storage(&dir, &e, "cannot list"))?;
    for name in names.iter().filter(|name| name.starts_with(TEMP)) {
        let path = dir.join(name);
        vfs.unlink(&path).map_err(|e| Error::storage(&path, &e, "cannot remove the remains"))?;
    }
    Ok(())
}

fn fill(
    file: &dyn VfsFile,
    path: &Path,
    uuid: [u8; 16],
    at: &Snapshot,
    automatic: bool,
) -> Result<u64> {
    let mut out = Out::new(file, path)?;
    let mut index = Index { path, buf: Vec::new() };
    put_pages(&mut out, &mut index, at.core().mem(), at.root())?;
    let tags = put_tags(&mut index, at)?;
    out.align(8)?;
    let head = Header {
        automatic,
        uuid,
        epoch: at.epoch(),
        time: at.time(),
        next_id: at.next_id(),
        pages: at.page_count(),
        tags,
        index_at: out.end(),
        index_len: index.buf.len() as u64,
        index_hash: h128(&index.buf),
        digest: at.digest()?,
    };
    for piece in index.buf.chunks(PIECE) {
        out.put(piece)?;
    }
    out.flush()?;
    assert!(out.buf.is_empty(), "a part of a checkpoint was not written");
    assert_eq!(out.at, head.size(), "all of a checkpoint was written");
    assert!(head.index_at - HEADER as u64 >= at.root().bytes, "pages lie in each other");
    let bytes = head.encode();
    let read = Header::decode(&bytes, path, at.epoch(), uuid, head.size());
    assert!(read.is_ok_and(|read| read == head), "a header reads as it was written");
    write_all_at(file, 0, &bytes).map_err(|e| Error::storage(path, &e, "cannot write"))?;
    Ok(head.size())
}

fn put_pages(out: &mut Out<'_>, index: &mut Index<'_>, mem: Mem, root: &Root) -> Result<()> {
    let (mut last, mut pages, mut bytes) = (0, 0, 0);
    let mut done = Ok(());
    table::walk(mem, root.table, root.height, &mut |id, slot| {
        assert!(id > last, "pages come in the order of their ids");
        let changed = slot.epoch.max(Desc::at(mem, slot.desc).epoch());
        assert!(changed <= root.epoch, "a page was changed by a later epoch");
        (last, pages, bytes) = (id, pages + 1, bytes + slot.len);
        if done.is_ok() {
            done = put_page(out, index, mem, id, &slot);
        }
    });
    assert_eq!(pages, root.pages, "the root counts the pages of its table");
    assert_eq!(bytes, root.bytes, "the root counts the bytes of its pages");
    assert!(last < root.next_id, "the next id is past those that were given");
    done
}

/// Puts the tags into the index. Returns how many there are.
fn put_tags(index: &mut Index<'_>, at: &Snapshot) -> Result<u64> {
    let mut tags = at.tags();
    if planted(Defect::TagsForgotten) {
        tags.clear();
    }
    assert!(tags.is_sorted_by(|a, b| a.0 < b.0), "a name is one tag's");
    for (name, epoch) in &tags {
        assert!(*epoch <= at.epoch(), "a tag names an epoch that is to come");
        let mut entry = Vec::new();
        put_text(&mut entry, name);
        put_varint(&mut entry, *epoch);
        let read = Fields::new(&entry).tag();
        assert_eq!(read, Some((name.as_str(), *epoch)), "a tag reads as another");
        index.put(&entry)?;
    }
    Ok(tags.len() as u64)
}

fn put_page(
    out: &mut Out<'_>,
    index: &mut Index<'_>,
    mem: Mem,
    id: u64,
    slot: &Slot,
) -> Result<()> {
    assert!(!index.buf.is_empty() || out.end() == HEADER as u64, "a page has bytes and no entry");
    let desc = Desc::at(mem, slot.desc);
    let mut entry = Vec::new();
    put_varint(&mut entry, id);
    put_text(&mut entry, desc.name());
    put_text(&mut entry, desc.dtype());
    put_varint(&mut entry, u64::from(desc.itemsize()));
    put_shape(&mut entry, &desc.shape().collect::<Vec<_>>());
    put_varint(&mut entry, slot.len);
    put_text(&mut entry, desc.meta());
    entry.push(desc.location());
    put_varint(&mut entry, slot.epoch);
    put_varint(&mut entry, desc.epoch());
    out.align(if page::is_one_block(slot.len) { 8 } else { 4096 })?;
    let (begin, end) = (out.end(), out.end() + slot.len);
    put_varint(&mut entry, begin);
    let from = index.buf.len();
    index.put(&entry)?;
    let hashes = index.buf.len();
    let mut done = Ok(());
    page::parts(mem, slot, 0, slot.len, &mut |_, bytes| {
        if done.is_ok() {
            done = index.put(&h128(bytes).to_le_bytes()).and_then(|()| out.put(bytes));
        }
    });
    done?;
    assert_eq!(out.end(), end, "all bytes of a page were written");
    let hashes = (index.buf.len() - hashes) as u64;
    assert_eq!(hashes, 16 * blocks::count(slot.len), "each block of a page has its hash");
    let read = Entry::read(&mut Fields::new(&index.buf[from..]), HEADER as u64..=end);
    let read = read.map(|read| (read.id, read.place.at, read.end, read.epoch, read.desc_epoch));
    let meant = (id, begin, end, slot.epoch, desc.epoch());
    assert_eq!(read, Some(meant), "an entry reads as another");
    Ok(())
}
