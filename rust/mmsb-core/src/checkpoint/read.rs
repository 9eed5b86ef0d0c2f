//! Reading a checkpoint: its header, its index, and the bytes that the index tells of. Nothing is believed unchecked.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{HEADER, Header};
use super::{damage, no_memory, path};
use crate::apply::MAX_ID;
use crate::arena::{BLOCK, is_denied};
use crate::catalog;
use crate::delta::{MAX_NDIM, NewPage};
use crate::hash::h128;
use crate::log::take_varint;
use crate::vfs::{OpenKind, Vfs, VfsFile, read_exact_at, read_vec};
use crate::{Code, Error, Result};

/// What is read at once.
pub(crate) type Buf = [u8; BLOCK as usize];
const _: () = assert!(BLOCK >= 4096, "a gap between pages fits too");

/// A checkpoint's header and index, checked. It holds the file open: one that is thinned meanwhile can still be read.
#[derive(Debug)]
pub(crate) struct Reader {
    file: Arc<dyn VfsFile>,
    pub(crate) path: PathBuf,
    pub(crate) head: Header,
    pub(super) index: Vec<u8>,
}

impl Reader {
    pub(crate) fn open(vfs: &dyn Vfs, store: &Path, epoch: u64, uuid: [u8; 16]) -> Result<Reader> {
        let path = path(store, epoch);
        let fail = |e| Error::storage(&path, &e, "cannot read");
        let file = vfs.open(&path, OpenKind::Read).map_err(fail)?;
        let size = file.size().map_err(fail)?;
        if size < HEADER as u64 {
            return Err(damage(&path, 0, epoch, "the checkpoint is cut short"));
        }
        let mut head = [0; HEADER];
        read_exact_at(&*file, 0, &mut head).map_err(fail)?;
        let head = Header::decode(&head, &path, epoch, uuid, size)?;
        assert_eq!((head.epoch, head.size()), (epoch, size), "a header was taken for another's");
        assert!(head.index_at >= HEADER as u64, "the index lies in the header");
        if is_denied() {
            return Err(no_memory(head.index_len, &path));
        }
        let index = read_vec(&*file, head.index_at, head.index_len).map_err(fail)?;
        let index = index.ok_or_else(|| no_memory(head.index_len, &path))?;
        assert_eq!(index.len() as u64, head.index_len, "the index is read as long as it is");
        if h128(&index) != head.index_hash {
            return Err(damage(&path, head.index_at, epoch, "the checkpoint's index is damaged"));
        }
        Ok(Reader { file, path, head, index })
    }

    /// The index holds what no commit can have made.
    pub(crate) fn bad_index(&self, what: &str) -> Error {
        damage(&self.path, self.head.index_at, self.head.epoch, what)
    }

    pub(crate) fn undecodable(&self) -> Error {
        self.bad_index("the index does not decode")
    }

    /// An index that tells of a page or a name that no commit can have made is damaged.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match error.code {
            Code::Argument => self.bad_index(&error.message),
            _ => error,
        }
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        assert!(at >= HEADER as u64, "the header is no part of a page");
        assert!(at + buf.len() as u64 <= self.head.index_at, "pages lie before the index");
        read_exact_at(&*self.file, at, buf)
            .map_err(|e| Error::storage(&self.path, &e, "cannot read"))
    }

    /// Calls `each` with everything that the index tells, in order.
    pub(crate) fn items(&self, each: &mut dyn FnMut(Item<'_>) -> Result<()>) -> Result<()> {
        let (head, bad) = (&self.head, || self.undecodable());
        if head.epoch == 0 && (head.pages > 0 || head.tags > 0) {
            return Err(bad());
        }
        let mut fields = Fields::new(&self.index);
        let (mut id, mut end) = (0, HEADER as u64);
        for _ in 0..head.pages {
            let entry = Entry::read(&mut fields, end..=head.index_at).ok_or_else(bad)?;
            if entry.id <= id || entry.epoch > head.epoch || entry.desc_epoch > head.epoch {
                return Err(bad());
            }
            (id, end) = (entry.id, entry.end);
            each(Item::Page(entry))?;
        }
        if head.next_id <= id || head.next_id > MAX_ID {
            return Err(bad());
        }
        let mut last = "";
        for _ in 0..head.tags {
            let (name, epoch) = fields.tag().ok_or_else(bad)?;
            catalog::check_name(name)?;
            if name <= last || epoch > head.epoch {
                return Err(bad());
            }
            last = name;
            each(Item::Tag(name, epoch))?;
        }
        if fields.is_empty() { Ok(()) } else { Err(bad()) }
    }

    /// Block `number` of a page, compared with its hash in the index.
    pub(crate) fn block<'b>(
        &self,
        page: &Place,
        number: u64,
        buf: &'b mut Buf,
    ) -> Result<&'b [u8]> {
        let from = number * BLOCK;
        assert!(from < page.nbytes, "a block lies behind its page");
        let n = BLOCK.min(page.nbytes - from);
        let (at, block) = (page.at + from, &mut buf[..n as usize]);
        self.read(at, block)?;
        let hash = page.hashes + 16 * number as usize;
        if h128(block).to_le_bytes() != self.index[hash..hash + 16] {
            let what = format!("the bytes of page {} are damaged", page.id);
            return Err(damage(&self.path, at, self.head.epoch, &what));
        }
        Ok(block)
    }

    /// Calls `each` with every block of a page.
    pub(super) fn blocks(
        &self,
        page: &Place,
        buf: &mut Buf,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<()> {
        assert!(page.at + page.nbytes <= self.head.index_at, "a page ends in the index");
        for number in 0..page.nbytes.div_ceil(BLOCK) {
            each(number * BLOCK, self.block(page, number, buf)?);
        }
        Ok(())
    }

    /// What lies between pages is zero, so that no byte of the file is unaccounted for.
    fn check_zero(&self, from: u64, to: u64, buf: &mut Buf) -> Result<()> {
        let bad = |what| Err(damage(&self.path, from, self.head.epoch, what));
        if to < from || to - from >= 4096 {
            return bad("pages do not follow each other");
        }
        let gap = &mut buf[..(to - from) as usize];
        self.read(from, gap)?;
        if gap.iter().any(|&b| b != 0) { bad("padding is not zero") } else { Ok(()) }
    }
}

/// Walks the index; its checksum was right, so what does not decode was written wrong.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(index: &'a [u8]) -> Fields<'a> {
        Fields { rest: index, len: index.len() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn varint(&mut self) -> Option<u64> {
        take_varint(&mut self.rest)
    }

    fn bytes(&mut self, len: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.varint()?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    pub(super) fn tag(&mut self) -> Option<(&'a str, u64)> {
        self.text().zip(self.varint())
    }

    fn shape(&mut self) -> Option<Vec<u64>> {
        let ndim = self.varint().filter(|&n| n <= MAX_NDIM as u64)?;
        (0..ndim).map(|_| self.varint()).collect()
    }
}

/// Where the bytes of a page are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) id: u64,
    /// The epoch that made them.
    pub(crate) epoch: u64,
    /// Where they begin in the file.
    pub(super) at: u64,
    pub(crate) nbytes: u64,
    /// Where the hashes of its blocks begin in the index.
    hashes: usize,
}

/// One thing that the index tells.
pub(crate) enum Item<'a> {
    Page(Entry<'a>),
    /// A tag's name and the epoch that it names.
    Tag(&'a str, u64),
}

/// What the index says of a page.
pub(crate) struct Entry<'a> {
    pub(crate) id: u64,
    pub(crate) name: Option<&'a str>,
    dtype: &'a str,
    itemsize: u32,
    shape: Vec<u64>,
    pub(crate) nbytes: u64,
    meta: &'a str,
    location: u8,
    pub(crate) epoch: u64,
    pub(crate) desc_epoch: u64,
    pub(crate) place: Place,
    /// Where its bytes end in the file.
    pub(super) end: u64,
}

impl<'a> Entry<'a> {
    /// Decodes an entry of a page whose bytes lie in `place` of the file.
    pub(super) fn read(fields: &mut Fields<'a>, place: RangeInclusive<u64>) -> Option<Entry<'a>> {
        assert!(*place.start() >= HEADER as u64, "a page may lie in the header");
        assert!(place.start() <= place.end(), "a page has no place to lie in");
        let id = fields.varint().filter(|&id| id > 0 && id < MAX_ID)?;
        let name = Some(fields.text()?).filter(|name| !name.is_empty());
        let (dtype, itemsize) = (fields.text()?, u32::try_from(fields.varint()?).ok()?);
        let (shape, nbytes, meta) = (fields.shape()?, fields.varint()?, fields.text()?);
        let location = fields.byte()?;
        let (epoch, desc_epoch, at) = (fields.varint()?, fields.varint()?, fields.varint()?);
        let end = at.checked_add(nbytes)?;
        let hashes = fields.len - fields.rest.len();
        fields.bytes(nbytes.div_ceil(BLOCK).checked_mul(16)?)?;
        let bytes = Place { id, epoch, at, nbytes, hashes };
        let entry = Entry {
            id,
            name,
            dtype,
            itemsize,
            shape,
            nbytes,
            meta,
            location,
            epoch,
            desc_epoch,
            place: bytes,
            end,
        };
        (at >= *place.start() && end <= *place.end()).then_some(entry)
    }

    /// The page as it was when it was created, but for its bytes.
    pub(crate) fn new_page(&self) -> NewPage<'_> {
        NewPage {
            name: self.name,
            dtype: self.dtype,
            itemsize: self.itemsize,
            shape: &self.shape,
            nbytes: self.nbytes,
            meta: self.meta,
            location: self.location,
        }
    }
}

/// Checks every byte of a checkpoint without keeping any. Returns its size and its digest.
pub(crate) fn verify(
    vfs: &dyn Vfs,
    store: &Path,
    epoch: u64,
    uuid: [u8; 16],
) -> Result<(u64, u128)> {
    let reader = Reader::open(vfs, store, epoch, uuid)?;
    let (head, bad) = (&reader.head, || reader.undecodable());
    let mut fields = Fields::new(&reader.index);
    let (mut end, mut buf) = (HEADER as u64, [0; BLOCK as usize]);
    for _ in 0..head.pages {
        let entry = Entry::read(&mut fields, HEADER as u64..=head.index_at).ok_or_else(bad)?;
        reader.check_zero(end, entry.place.at, &mut buf)?;
        reader.blocks(&entry.place, &mut buf, &mut |_, _| {})?;
        end = entry.end;
    }
    assert!(end <= head.index_at, "pages lie before the index");
    reader.check_zero(end, head.index_at, &mut buf)?;
    for _ in 0..head.tags {
        fields.tag().ok_or_else(bad)?;
    }
    if fields.is_empty() { Ok((head.size(), head.digest)) } else { Err(bad()) }
}
