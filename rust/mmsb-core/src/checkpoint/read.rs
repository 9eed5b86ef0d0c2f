//! Reading a checkpoint: its header, its index, and the bytes that the index tells of. Nothing is believed unchecked.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::header::{BASE, HEADER, Header, sum};
use super::runs::{Blocks, Form, Stored};
use super::{damage, no_memory, path};
use crate::apply::MAX_ID;
use crate::arena::{BLOCK, is_denied};
use crate::catalog::{self, Role};
use crate::delta::{MAX_NDIM, NewPage};
use crate::graph::Marks;
use crate::hash::{h64, h128, is_zero};
use crate::log::take_varint;
use crate::vfs::{OpenKind, Vfs, VfsFile, read_exact_at, read_vec};
use crate::{Code, Error, Result};

/// Instead of the place of a page: the index tells of its blocks run by run.
pub(super) const IN_RUNS: u64 = 0;

/// What is read at once.
pub(crate) type Buf = [u8; BLOCK as usize];
const _: () = assert!(BLOCK >= 4096, "a gap between pages fits too");

/// A checkpoint's file and its header, checked. It is held open: one that is thinned meanwhile can still be read.
#[derive(Debug)]
struct Opened {
    file: Arc<dyn VfsFile>,
    path: PathBuf,
    head: Header,
    /// The checksum of its header.
    sum: u64,
}

impl Opened {
    fn open(vfs: &dyn Vfs, store: &Path, epoch: u64, uuid: [u8; 16]) -> Result<Opened> {
        let path = path(store, epoch);
        let fail = |e| Error::storage(&path, &e, "cannot read");
        let file = vfs.open(&path, OpenKind::Read).map_err(fail)?;
        let size = file.size().map_err(fail)?;
        if size < HEADER as u64 {
            return Err(damage(&path, 0, epoch, "the checkpoint is cut short"));
        }
        let mut bytes = [0; HEADER];
        read_exact_at(&*file, 0, &mut bytes).map_err(fail)?;
        let head = Header::decode(&bytes, &path, epoch, uuid, size)?;
        assert_eq!((head.epoch, head.size()), (epoch, size), "a header was taken for another's");
        assert!(head.index_at >= HEADER as u64, "the index lies in the header");
        Ok(Opened { file, path, head, sum: sum(&bytes) })
    }

    /// Bytes of pages.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let end = at.checked_add(buf.len() as u64);
        if at < HEADER as u64 || end.is_none_or(|end| end > self.head.index_at) {
            return Err(damage(&self.path, at, self.head.epoch, "no page is there"));
        }
        read_exact_at(&*self.file, at, buf)
            .map_err(|e| Error::storage(&self.path, &e, "cannot read"))
    }
}

/// A checkpoint's header and index, checked, and the checkpoint that has what it does not have itself.
#[derive(Debug)]
pub(crate) struct Reader {
    own: Opened,
    pub(super) index: Vec<u8>,
    base: Option<Opened>,
}

impl Reader {
    pub(crate) fn open(vfs: &dyn Vfs, store: &Path, epoch: u64, uuid: [u8; 16]) -> Result<Reader> {
        let own = Opened::open(vfs, store, epoch, uuid)?;
        let Opened { file, path, head, .. } = &own;
        let base = match head.base {
            Some(base) => Some(base_of(vfs, store, path, head, base)?),
            None => None,
        };
        if is_denied() {
            return Err(no_memory(head.index_len, path));
        }
        let index = read_vec(&**file, head.index_at, head.index_len)
            .map_err(|e| Error::storage(path, &e, "cannot read"))?;
        let index = index.ok_or_else(|| no_memory(head.index_len, path))?;
        assert_eq!(index.len() as u64, head.index_len, "the index is read as long as it is");
        if h128(&index) != head.index_hash {
            return Err(damage(path, head.index_at, epoch, "the checkpoint's index is damaged"));
        }
        Ok(Reader { own, index, base })
    }

    pub(crate) fn head(&self) -> &Header {
        &self.own.head
    }

    /// Bytes of all files that have its pages.
    pub(crate) fn size(&self) -> u64 {
        self.own.head.size() + self.base.as_ref().map_or(0, |base| base.head.size())
    }

    /// The checksum of its header.
    pub(super) fn sum(&self) -> u64 {
        self.own.sum
    }

    pub(crate) fn path(&self) -> &Path {
        &self.own.path
    }

    /// The index holds what no commit can have made.
    pub(crate) fn bad_index(&self, what: &str) -> Error {
        damage(self.path(), self.head().index_at, self.head().epoch, what)
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

    /// The pages that the index tells of, in id order.
    pub(super) fn pages(&self) -> Pages<'_> {
        Pages {
            reader: self,
            fields: Fields::new(&self.index),
            left: self.head().pages,
            id: 0,
            end: HEADER as u64,
        }
    }

    /// Calls `each` with everything that the index tells, in order.
    pub(crate) fn items(&self, each: &mut dyn FnMut(Item<'_>) -> Result<()>) -> Result<()> {
        let (head, bad) = (self.head(), || self.undecodable());
        let has_ids = (1..=MAX_ID).contains(&head.next_id);
        if !has_ids || head.epoch == 0 && (head.pages > 0 || head.tags > 0) {
            return Err(bad());
        }
        let mut pages = self.pages();
        while let Some(entry) = pages.next()? {
            each(Item::Page(entry))?;
        }
        let Pages { mut fields, .. } = pages;
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

    /// Where the blocks of a page are.
    pub(super) fn stored(&self, page: &Place) -> Blocks<'_> {
        match page.at {
            Some(at) => Blocks::plain(at, page.nbytes),
            None => Blocks::told(Fields::from(&self.index, page.runs), page.nbytes),
        }
    }

    /// The hash of a block.
    pub(super) fn hash(&self, page: &Place, number: u64) -> &[u8] {
        let at = page.hashes + 16 * number as usize;
        &self.index[at..at + 16]
    }

    /// The blocks of a page, compared with their hashes in the index as they are read.
    pub(crate) fn cursor<'a>(&'a self, page: &Place) -> Cursor<'a> {
        Cursor { reader: self, page: *page, blocks: self.stored(page) }
    }

    /// Calls `each` with every block of a page.
    pub(super) fn blocks(
        &self,
        page: &Place,
        buf: &mut Buf,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<()> {
        let mut cursor = self.cursor(page);
        for number in 0..page.nbytes.div_ceil(BLOCK) {
            each(number * BLOCK, cursor.block(number, buf)?);
        }
        Ok(())
    }

    /// Reads a stored block as it was. Tells the file and the epoch that it is from.
    fn bring(&self, stored: &Stored, block: &mut [u8]) -> Result<(&Path, u64)> {
        let of = self.base.as_ref().filter(|_| stored.in_base).unwrap_or(&self.own);
        let (path, epoch) = (&*of.path, of.head.epoch);
        match stored.form {
            Form::Zero => block.fill(0),
            Form::Raw => of.read(stored.at, block)?,
            Form::Lz4 => {
                let mut packed = [0; BLOCK as usize];
                let packed = &mut packed[..stored.len as usize];
                of.read(stored.at, packed)?;
                if h64(packed) != stored.sum {
                    return Err(damage(path, stored.at, epoch, "a compressed block is damaged"));
                }
                let n = lz4_flex::block::decompress_into(packed, block);
                if n.ok() != Some(block.len()) {
                    let what = "what was compressed does not come out";
                    return Err(damage(path, stored.at, epoch, what));
                }
            }
        }
        Ok((path, epoch))
    }

    /// What lies between pages is zero, so that no byte of the file is unaccounted for.
    fn check_zero(&self, from: u64, to: u64, buf: &mut Buf) -> Result<()> {
        let bad = |what| Err(damage(self.path(), from, self.head().epoch, what));
        if to < from || to - from >= 4096 {
            return bad("pages do not follow each other");
        }
        let gap = &mut buf[..(to - from) as usize];
        self.own.read(from, gap)?;
        if is_zero(gap) { Ok(()) } else { bad("padding is not zero") }
    }
}

/// The checkpoint that `head` stands on. One that went away together with it is missing, like itself.
fn base_of(
    vfs: &dyn Vfs,
    store: &Path,
    path: &Path,
    head: &Header,
    (epoch, sum): (u64, u64),
) -> Result<Opened> {
    let bad = |what: &str| Err(damage(path, BASE as u64, head.epoch, what));
    let base = match Opened::open(vfs, store, epoch, head.uuid) {
        Err(error) if error.is_missing() && vfs.exists(path).unwrap_or(false) => {
            return bad("the checkpoint that it stands on is missing");
        }
        opened => opened?,
    };
    if base.sum != sum || base.head.base.is_some() {
        return bad("the checkpoint stands on another one than is there");
    }
    Ok(base)
}

/// What the entries of a checkpoint tell beside what all of them do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// Pages may be told of run by run.
    pub(super) runs: bool,
    /// There is a base that may have what is told of.
    pub(super) base: bool,
    /// What pages follow from.
    pub(super) graph: bool,
}

/// A page's place in the graph.
fn role<'a>(fields: &mut Fields<'a>) -> Option<Role<'a>> {
    let marks = Marks::from_bits(fields.byte()?)?;
    let len = fields.varint()?;
    let role = Role { node: fields.bytes(len)?, marks };
    catalog::check_role(role).ok().map(|()| role)
}

/// Goes through the pages of an index.
pub(super) struct Pages<'a> {
    reader: &'a Reader,
    fields: Fields<'a>,
    left: u64,
    id: u64,
    end: u64,
}

impl<'a> Pages<'a> {
    pub(super) fn next(&mut self) -> Result<Option<Entry<'a>>> {
        if self.left == 0 {
            return Ok(None);
        }
        let Header { epoch, next_id, index_at, has_runs, has_graph, base, .. } =
            *self.reader.head();
        let told = Told { runs: has_runs, base: base.is_some(), graph: has_graph };
        let entry = Entry::read(&mut self.fields, self.end..=index_at, told);
        let entry = entry.filter(|entry| {
            let is_next = entry.id > self.id && entry.id < next_id;
            is_next && entry.epoch <= epoch && entry.desc_epoch <= epoch
        });
        let entry = entry.ok_or_else(|| self.reader.undecodable())?;
        (self.left, self.id, self.end) = (self.left - 1, entry.id, entry.end);
        Ok(Some(entry))
    }
}

/// Reads blocks of a page, each later than the one before.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    reader: &'a Reader,
    page: Place,
    blocks: Blocks<'a>,
}

impl Cursor<'_> {
    /// Block `number`, compared with its hash in the index.
    pub(crate) fn block<'b>(&mut self, number: u64, buf: &'b mut Buf) -> Result<&'b [u8]> {
        let Cursor { reader, page, blocks } = self;
        assert!(number * BLOCK < page.nbytes, "a block lies behind its page");
        assert!(number >= blocks.number(), "a cursor goes back");
        let found = blocks.skip_to(number).map(|()| blocks.len()).zip(blocks.next());
        let Some((len, stored)) = found else { return Err(reader.undecodable()) };
        let block = &mut buf[..len as usize];
        let (path, epoch) = reader.bring(&stored, block)?;
        let is_right = h128(block).to_le_bytes() == *reader.hash(page, number);
        if is_right {
            return Ok(block);
        }
        let what = format!("the bytes of page {} are damaged", page.id);
        Err(damage(path, stored.at, epoch, &what))
    }
}

/// Walks the index; its checksum was right, so what does not decode was written wrong.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(index: &'a [u8]) -> Fields<'a> {
        Fields { rest: index, len: index.len() }
    }

    /// From a place in the index on.
    fn from(index: &'a [u8], at: usize) -> Fields<'a> {
        Fields { rest: &index[at..], len: index.len() }
    }

    /// Where in the index it is.
    fn at(&self) -> usize {
        self.len - self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
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

    pub(super) fn word(&mut self) -> Option<u64> {
        let bytes = self.bytes(8)?;
        bytes.try_into().ok().map(u64::from_le_bytes)
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
    /// Where they begin in the file, if they are in one piece; else the index tells of their blocks run by run.
    pub(super) at: Option<u64>,
    pub(crate) nbytes: u64,
    /// Where the hashes of its blocks begin in the index.
    hashes: usize,
    /// Where the runs begin there.
    runs: usize,
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
    pub(crate) role: Role<'a>,
    pub(crate) epoch: u64,
    pub(crate) desc_epoch: u64,
    pub(crate) place: Place,
    /// Where its bytes end in the file.
    pub(super) end: u64,
}

impl<'a> Entry<'a> {
    /// Decodes an entry of a page of which `place` of the file has what its base, if there is one, does not have.
    pub(super) fn read(
        fields: &mut Fields<'a>,
        place: RangeInclusive<u64>,
        told: Told,
    ) -> Option<Entry<'a>> {
        assert!(*place.start() >= HEADER as u64, "a page may lie in the header");
        assert!(place.start() <= place.end(), "a page has no place to lie in");
        let id = fields.varint()?;
        let name = Some(fields.text()?).filter(|name| !name.is_empty());
        let (dtype, itemsize) = (fields.text()?, u32::try_from(fields.varint()?).ok()?);
        let (shape, nbytes, meta) = (fields.shape()?, fields.varint()?, fields.text()?);
        let location = fields.byte()?;
        let role = if told.graph { role(fields)? } else { Role::default() };
        let (epoch, desc_epoch, at) = (fields.varint()?, fields.varint()?, fields.varint()?);
        let at = Some(at).filter(|&at| at != IN_RUNS || !told.runs);
        let hashes = fields.at();
        fields.bytes(nbytes.div_ceil(BLOCK).checked_mul(16)?)?;
        let runs = fields.at();
        let mut blocks = match at {
            Some(at) => Blocks::plain(at, nbytes),
            None => Blocks::told(fields.clone(), nbytes),
        };
        let mut end = at.unwrap_or(*place.start());
        let is_here = end >= *place.start() && end <= *place.end();
        if let Some(at) = at {
            end = at.checked_add(nbytes)?;
        } else {
            while !blocks.is_done() {
                let stored = blocks.next()?;
                match (stored.form, stored.in_base) {
                    (Form::Zero, _) => {}
                    (_, true) if told.base => {}
                    (_, false) if stored.at >= end => end = stored.at.checked_add(stored.len)?,
                    _ => return None,
                }
            }
            *fields = blocks.rest();
        }
        let bytes = Place { id, epoch, at, nbytes, hashes, runs };
        let entry = Entry {
            id,
            name,
            dtype,
            itemsize,
            shape,
            nbytes,
            meta,
            location,
            role,
            epoch,
            desc_epoch,
            place: bytes,
            end,
        };
        (is_here && end <= *place.end()).then_some(entry)
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
    let head = reader.head();
    let (mut end, mut buf) = (HEADER as u64, [0; BLOCK as usize]);
    let checked = reader.items(&mut |item| {
        let Item::Page(entry) = item else { return Ok(()) };
        let mut blocks = reader.stored(&entry.place);
        while !blocks.is_done() {
            let stored = blocks.next().ok_or_else(|| reader.undecodable())?;
            if !stored.in_base && stored.form != Form::Zero {
                reader.check_zero(end, stored.at, &mut buf)?;
                end = stored.at + stored.len;
            }
        }
        if let Some(at) = entry.place.at.filter(|_| entry.nbytes == 0) {
            reader.check_zero(end, at, &mut buf)?;
            end = at;
        }
        reader.blocks(&entry.place, &mut buf, &mut |_, _| {})
    });
    checked.map_err(|error| reader.explain(error))?;
    assert!(end <= head.index_at, "pages lie before the index");
    reader.check_zero(end, head.index_at, &mut buf)?;
    Ok((head.size(), head.digest))
}
