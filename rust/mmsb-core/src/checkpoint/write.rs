//! Writing a checkpoint: the pages, their index, and the header at last.

use std::io;
use std::path::Path;

use super::header::{HEADER, Header};
use super::read::{Entry, Fields, IN_RUNS, Pages, Place, Reader, Told};
use super::runs::{Blocks, Form, Gather, Stored};
use super::{TEMP, dir, no_memory, temp};
use crate::arena::{BLOCK, is_denied};
use crate::catalog::Desc;
use crate::core::Core;
use crate::delta::put_shape;
use crate::hash::{h64, h128, is_zero};
use crate::log::{put_text, put_varint};
use crate::museum::{Defect, planted};
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::table::{self, Slot};
use crate::vfs::{OpenKind, Vfs, VfsFile, write_all_at};
use crate::{Error, Result, blocks, digest, page};

/// Writes are gathered to so many bytes.
const CHUNK: usize = 1 << 20;
/// After so many bytes more the disk is waited for, so that a commit that waits for it too never waits for much more.
const STEP: u64 = 16 << 20;
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
    /// What is before is on disk.
    synced: u64,
    buf: Vec<u8>,
}

impl<'a> Out<'a> {
    fn new(file: &'a dyn VfsFile, path: &'a Path) -> Result<Out<'a>> {
        let mut buf = Vec::new();
        reserve(&mut buf, CHUNK + PIECE, path)?;
        Ok(Out { file, path, at: HEADER as u64, synced: 0, buf })
    }

    fn end(&self) -> u64 {
        self.at + self.buf.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= PIECE, "what is appended comes in pieces");
        assert!(self.buf.len() < CHUNK, "full pieces have been written");
        assert!(
            self.buf.capacity() - self.buf.len() >= bytes.len(),
            "memory is asked for that may not be refused"
        );
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
        if self.at - self.synced >= STEP {
            self.file.sync().map_err(|e| Error::storage(self.path, &e, "cannot sync"))?;
            self.synced = self.at;
        }
        Ok(())
    }
}

/// How a checkpoint is made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Making<'a> {
    /// Nobody asked for it.
    pub(crate) automatic: bool,
    /// An older one of the same history that has all of its blocks itself: what is the same there is not written again.
    pub(crate) base: Option<&'a Reader>,
    /// Blocks are compressed where that makes them shorter.
    pub(crate) compress: bool,
}

/// Writes the checkpoint of a snapshot under a temporary name and syncs it. Returns its size.
pub(crate) fn write(
    vfs: &dyn Vfs,
    store: &Path,
    uuid: [u8; 16],
    at: &Snapshot,
    making: Making<'_>,
) -> Result<u64> {
    assert!(at.epoch() <= at.core().epoch(), "a checkpoint shows what was published");
    let at = &at.whole()?;
    let temp = temp(store, at.epoch());
    let fail = |e: io::Error, doing: &str| Error::storage(&temp, &e, doing);
    remove_remains(vfs, store)?;
    let file = vfs.open(&temp, OpenKind::CreateNew).map_err(|e| fail(e, "cannot create"))?;
    let written = fill(&*file, &temp, uuid, at, making).and_then(|size| {
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
    making: Making<'_>,
) -> Result<u64> {
    let index = Index { path, buf: Vec::new() };
    // First: it remembers the hashes of most blocks.
    let digest = at.digest()?;
    let mut writer = Writer {
        core: at.core(),
        out: Out::new(file, path)?,
        index,
        base: making.base,
        compress: making.compress,
        hashes: Vec::new(),
        blocks: Gather::default(),
        packed: Vec::new(),
        told: Told { runs: false, base: making.base.is_some(), graph: at.root().nodes > 0 },
    };
    writer.pages(at.root())?;
    let Writer { mut out, mut index, told, .. } = writer;
    let tags = put_tags(&mut index, at)?;
    out.align(8)?;
    let head = Header {
        automatic: making.automatic,
        uuid,
        epoch: at.epoch(),
        time: at.time(),
        next_id: at.next_id(),
        pages: at.page_count(),
        tags,
        index_at: out.end(),
        index_len: index.buf.len() as u64,
        index_hash: h128(&index.buf),
        digest,
        has_runs: told.runs,
        has_graph: told.graph,
        base: making.base.filter(|_| told.runs).map(|base| (base.head().epoch, base.sum())),
    };
    for piece in index.buf.chunks(PIECE) {
        out.put(piece)?;
    }
    out.flush()?;
    assert!(out.buf.is_empty(), "a part of a checkpoint was not written");
    assert_eq!(out.at, head.size(), "all of a checkpoint was written");
    let bytes = head.encode();
    let read = Header::decode(&bytes, path, at.epoch(), uuid, head.size());
    assert!(read.is_ok_and(|read| read == head), "a header reads as it was written");
    write_all_at(file, 0, &bytes).map_err(|e| Error::storage(path, &e, "cannot write"))?;
    Ok(head.size())
}

/// Writes pages and gathers what the index tells of them.
struct Writer<'a> {
    core: &'a Core,
    out: Out<'a>,
    index: Index<'a>,
    base: Option<&'a Reader>,
    compress: bool,
    /// Of the page that is being written.
    hashes: Vec<u8>,
    blocks: Gather,
    packed: Vec<u8>,
    /// What the entries tell; of runs once a page was not in one piece.
    told: Told,
}

impl Writer<'_> {
    fn pages(&mut self, root: &Root) -> Result<()> {
        let mem = self.core.mem();
        let mut known = self.base.map(Known::begin).transpose()?;
        let (mut last, mut pages, mut bytes) = (0, 0, 0);
        let mut done = Ok(());
        table::walk(mem, root.table, root.height, &mut |id, slot| {
            assert!(id > last, "pages come in the order of their ids");
            let changed = slot.epoch.max(Desc::at(mem, slot.desc).epoch());
            assert!(changed <= root.epoch, "a page was changed by a later epoch");
            (last, pages, bytes) = (id, pages + 1, bytes + slot.len);
            if done.is_ok() {
                let of_base = known.as_mut().map_or(Ok(None), |known| known.page(id));
                done = of_base.and_then(|of_base| self.page(id, &slot, of_base));
            }
        });
        assert_eq!(pages, root.pages, "the root counts the pages of its table");
        assert_eq!(bytes, root.bytes, "the root counts the bytes of its pages");
        assert!(last < root.next_id, "the next id is past those that were given");
        done
    }

    fn page(&mut self, id: u64, slot: &Slot, of_base: Option<Place>) -> Result<()> {
        let desc = Desc::at(self.core.mem(), slot.desc);
        let mut entry = Vec::new();
        put_varint(&mut entry, id);
        put_text(&mut entry, desc.name());
        put_text(&mut entry, desc.dtype());
        put_varint(&mut entry, u64::from(desc.itemsize()));
        put_shape(&mut entry, &desc.shape().collect::<Vec<_>>());
        put_varint(&mut entry, slot.len);
        put_text(&mut entry, desc.meta());
        entry.push(desc.location());
        if self.told.graph {
            entry.push(desc.marks().bits());
            put_varint(&mut entry, desc.node().len() as u64);
            entry.extend_from_slice(desc.node());
        }
        put_varint(&mut entry, slot.epoch);
        put_varint(&mut entry, desc.epoch());
        self.blocks.clear();
        self.hashes.clear();
        let from = self.out.end();
        match of_base.filter(|base| (base.epoch, base.nbytes) == (slot.epoch, slot.len)) {
            Some(same) => self.keep_all(&same)?,
            None => self.put_blocks(slot, of_base)?,
        }
        if slot.len == 0 {
            self.out.align(8)?;
        }
        let at = match slot.len {
            0 => Some(self.out.end()),
            _ => self.blocks.in_one_piece(),
        };
        self.told.runs |= at.is_none();
        put_varint(&mut entry, at.unwrap_or(IN_RUNS));
        let begin = self.index.buf.len();
        self.index.put(&entry)?;
        self.index.put(&self.hashes)?;
        if at.is_none() {
            self.index.put(self.blocks.finish())?;
        }
        let fields = &mut Fields::new(&self.index.buf[begin..]);
        let read = Entry::read(fields, from..=self.out.end(), self.told);
        assert!(fields.is_empty(), "an entry is longer than it reads");
        let read = read.map(|read| (read.id, read.nbytes, read.epoch, read.desc_epoch));
        let meant = (id, slot.len, slot.epoch, desc.epoch());
        assert_eq!(read, Some(meant), "an entry reads as another");
        Ok(())
    }

    /// Room for what is gathered of one more block.
    fn reserve(&mut self) -> Result<()> {
        let path = self.index.path;
        reserve(&mut self.hashes, 16, path)?;
        self.blocks.reserve(&mut |buf, more| reserve(buf, more, path))
    }

    /// All blocks of a page are those of the base.
    fn keep_all(&mut self, page: &Place) -> Result<()> {
        let Some(base) = self.base else { return Ok(()) };
        let mut blocks = base.stored(page);
        while !blocks.is_done() {
            self.reserve()?;
            self.hashes.extend_from_slice(base.hash(page, blocks.number()));
            let block = blocks.next().ok_or_else(|| base.undecodable())?;
            self.blocks.add(of_base(block));
        }
        Ok(())
    }

    fn put_blocks(&mut self, slot: &Slot, page: Option<Place>) -> Result<()> {
        let mut known = self.base.zip(page).map(|(base, page)| (base, page, base.stored(&page)));
        for number in 0..blocks::count(slot.len) {
            self.put_block(slot, number, known.as_mut())?;
        }
        assert_eq!(self.hashes.len() as u64, 16 * blocks::count(slot.len), "a block has no hash");
        Ok(())
    }

    fn put_block(
        &mut self,
        slot: &Slot,
        number: u64,
        known: Option<&mut (&Reader, Place, Blocks<'_>)>,
    ) -> Result<()> {
        self.reserve()?;
        let mem = self.core.mem();
        let frame = page::frame(mem, slot, number);
        let hash = digest::block(self.core, slot, number, frame).to_le_bytes();
        self.hashes.extend_from_slice(&hash);
        let len = BLOCK.min(slot.len - number * BLOCK);
        if let Some((base, page, blocks)) = known
            && number * BLOCK < page.nbytes
        {
            let found = blocks.skip_to(number).map(|()| blocks.len()).zip(blocks.next());
            let (len_there, block) = found.ok_or_else(|| base.undecodable())?;
            // As long there, so the hash is of the same bytes.
            if len_there == len && *base.hash(page, number) == hash {
                self.blocks.add(of_base(block));
                return Ok(());
            }
        }
        let bytes = mem.bytes(frame.at, len);
        if is_zero(bytes) {
            self.blocks.add(Stored { in_base: false, form: Form::Zero, at: 0, len: 0, sum: 0 });
            return Ok(());
        }
        let packed =
            if self.compress { pack(&mut self.packed, bytes, self.index.path)? } else { None };
        let (form, stored) = packed.map_or((Form::Raw, bytes), |packed| (Form::Lz4, packed));
        if form == Form::Raw {
            let to = if page::is_one_block(slot.len) { 8 } else { 4096 };
            self.out.align(to)?;
        }
        let at = self.out.end();
        self.out.put(stored)?;
        let sum = if form == Form::Lz4 { h64(stored) } else { 0 };
        self.blocks.add(Stored { in_base: false, form, at, len: stored.len() as u64, sum });
        Ok(())
    }
}

/// A block that the base has as its own.
fn of_base(block: Stored) -> Stored {
    assert!(!block.in_base, "a base stands on no other");
    Stored { in_base: block.form != Form::Zero, ..block }
}

/// Compresses a block; none if it does not become shorter by an eighth.
fn pack<'b>(packed: &'b mut Vec<u8>, bytes: &[u8], path: &Path) -> Result<Option<&'b [u8]>> {
    let most = lz4_flex::block::get_maximum_output_size(bytes.len());
    reserve(packed, most.saturating_sub(packed.len()), path)?;
    packed.resize(packed.len().max(most), 0);
    let n = lz4_flex::block::compress_into(bytes, packed).ok();
    Ok(n.filter(|&n| n <= bytes.len() - bytes.len() / 8).and_then(|n| packed.get(..n)))
}

/// The pages of a base, looked up in id order.
struct Known<'a> {
    pages: Pages<'a>,
    next: Option<Place>,
}

impl<'a> Known<'a> {
    fn begin(base: &'a Reader) -> Result<Known<'a>> {
        let mut known = Known { pages: base.pages(), next: None };
        known.advance()?;
        Ok(known)
    }

    fn advance(&mut self) -> Result<()> {
        self.next = self.pages.next()?.map(|entry| entry.place);
        Ok(())
    }

    fn page(&mut self, id: u64) -> Result<Option<Place>> {
        while self.next.is_some_and(|page| page.id < id) {
            self.advance()?;
        }
        Ok(self.next.filter(|page| page.id == id))
    }
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
