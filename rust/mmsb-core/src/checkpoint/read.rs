//! Reading a checkpoint: its header, its index, and the bytes that the index tells of. Nothing is believed unchecked.

use std::path::Path;
use std::sync::Arc;

use super::header::{HEADER, Header};
use super::{damage, no_memory, path};
use crate::apply::MAX_ID;
use crate::arena::{BLOCK, is_denied};
use crate::delta::MAX_NDIM;
use crate::hash::h128;
use crate::log::take_varint;
use crate::vfs::{OpenKind, Vfs, VfsFile, read_exact_at, read_vec};
use crate::{Error, Result};

/// What is read at once.
pub(super) type Buf = [u8; BLOCK as usize];
const _: () = assert!(BLOCK >= 4096, "a gap between pages fits too");

/// A checkpoint's header and index, checked.
pub(super) struct Reader<'a> {
    file: Arc<dyn VfsFile>,
    path: &'a Path,
    pub(super) head: Header,
    pub(super) index: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(super) fn open(
        vfs: &dyn Vfs,
        path: &'a Path,
        epoch: u64,
        uuid: [u8; 16],
    ) -> Result<Reader<'a>> {
        let fail = |e| Error::storage(path, &e, "cannot read");
        let file = vfs.open(path, OpenKind::Read).map_err(fail)?;
        let size = file.size().map_err(fail)?;
        if size < HEADER as u64 {
            return Err(damage(path, 0, epoch, "the checkpoint is cut short"));
        }
        let mut head = [0; HEADER];
        read_exact_at(&*file, 0, &mut head).map_err(fail)?;
        let head = Header::decode(&head, path, epoch, uuid, size)?;
        assert_eq!((head.epoch, head.size()), (epoch, size), "a header was taken for another's");
        assert!(head.index_at >= HEADER as u64, "the index lies in the header");
        if is_denied() {
            return Err(no_memory(head.index_len, path));
        }
        let index = read_vec(&*file, head.index_at, head.index_len).map_err(fail)?;
        let index = index.ok_or_else(|| no_memory(head.index_len, path))?;
        assert_eq!(index.len() as u64, head.index_len, "the index is read as long as it is");
        if h128(&index) != head.index_hash {
            return Err(damage(path, head.index_at, epoch, "the checkpoint's index is damaged"));
        }
        Ok(Reader { file, path, head, index })
    }

    /// The index holds what no commit can have made.
    pub(super) fn bad_index(&self, what: &str) -> Error {
        damage(self.path, self.head.index_at, self.head.epoch, what)
    }

    pub(super) fn undecodable(&self) -> Error {
        self.bad_index("the index does not decode")
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        assert!(at >= HEADER as u64, "the header is no part of a page");
        assert!(at + buf.len() as u64 <= self.head.index_at, "pages lie before the index");
        read_exact_at(&*self.file, at, buf)
            .map_err(|e| Error::storage(self.path, &e, "cannot read"))
    }

    /// Calls `each` with every block of a page, after comparing it with the next hash of the index.
    pub(super) fn blocks(
        &self,
        entry: &Entry<'_>,
        fields: &mut Fields<'_>,
        buf: &mut Buf,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<()> {
        assert_eq!(entry.end - entry.at, entry.nbytes, "a page ends where its bytes do");
        assert!(entry.end <= self.head.index_at, "a page ends in the index");
        let mut from = 0;
        while from < entry.nbytes {
            let n = BLOCK.min(entry.nbytes - from);
            let (at, block) = (entry.at + from, &mut buf[..n as usize]);
            self.read(at, block)?;
            if h128(block) != fields.hash().ok_or_else(|| self.undecodable())? {
                let what = format!("the bytes of page {} are damaged", entry.id);
                return Err(damage(self.path, at, self.head.epoch, &what));
            }
            each(from, block);
            from += n;
        }
        assert_eq!(from, entry.nbytes, "all bytes of a page were read");
        Ok(())
    }

    /// What lies between pages is zero, so that no byte of the file is unaccounted for.
    fn check_zero(&self, from: u64, to: u64, buf: &mut Buf) -> Result<()> {
        let bad = |what| Err(damage(self.path, from, self.head.epoch, what));
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
}

impl<'a> Fields<'a> {
    pub(super) fn new(index: &'a [u8]) -> Fields<'a> {
        Fields { rest: index }
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

    fn hash(&mut self) -> Option<u128> {
        let bytes = self.bytes(16)?;
        Some(bytes.iter().rev().fold(0, |all, &b| all << 8 | u128::from(b)))
    }

    pub(super) fn tag(&mut self) -> Option<(&'a str, u64)> {
        self.text().zip(self.varint())
    }

    fn shape(&mut self) -> Option<Vec<u64>> {
        let ndim = self.varint().filter(|&n| n <= MAX_NDIM as u64)?;
        (0..ndim).map(|_| self.varint()).collect()
    }
}

/// What the index says of a page, before the hashes of its blocks.
pub(super) struct Entry<'a> {
    pub(super) id: u64,
    pub(super) name: Option<&'a str>,
    pub(super) dtype: &'a str,
    pub(super) itemsize: u32,
    pub(super) shape: Vec<u64>,
    pub(super) nbytes: u64,
    pub(super) meta: &'a str,
    pub(super) location: u8,
    pub(super) epoch: u64,
    pub(super) desc_epoch: u64,
    /// Where its bytes begin and end in the file.
    pub(super) at: u64,
    pub(super) end: u64,
}

impl<'a> Entry<'a> {
    /// Decodes an entry of a page whose bytes lie in `place` of the file.
    pub(super) fn read(
        fields: &mut Fields<'a>,
        place: std::ops::RangeInclusive<u64>,
    ) -> Option<Entry<'a>> {
        assert!(*place.start() >= HEADER as u64, "a page may lie in the header");
        assert!(place.start() <= place.end(), "a page has no place to lie in");
        let mut entry = Entry {
            id: fields.varint().filter(|&id| id > 0 && id < MAX_ID)?,
            name: Some(fields.text()?).filter(|name| !name.is_empty()),
            dtype: fields.text()?,
            itemsize: u32::try_from(fields.varint()?).ok()?,
            shape: fields.shape()?,
            nbytes: fields.varint()?,
            meta: fields.text()?,
            location: fields.byte()?,
            epoch: fields.varint()?,
            desc_epoch: fields.varint()?,
            at: fields.varint()?,
            end: 0,
        };
        entry.end = entry.at.checked_add(entry.nbytes)?;
        (entry.at >= *place.start() && entry.end <= *place.end()).then_some(entry)
    }
}

/// Checks every byte of a checkpoint without keeping any. Returns its size and its digest.
pub(crate) fn verify(
    vfs: &dyn Vfs,
    store: &Path,
    epoch: u64,
    uuid: [u8; 16],
) -> Result<(u64, u128)> {
    let path = path(store, epoch);
    let reader = Reader::open(vfs, &path, epoch, uuid)?;
    let (head, bad) = (&reader.head, || reader.undecodable());
    let mut fields = Fields::new(&reader.index);
    let (mut end, mut buf) = (HEADER as u64, [0; BLOCK as usize]);
    for _ in 0..head.pages {
        let entry = Entry::read(&mut fields, HEADER as u64..=head.index_at).ok_or_else(bad)?;
        reader.check_zero(end, entry.at, &mut buf)?;
        reader.blocks(&entry, &mut fields, &mut buf, &mut |_, _| {})?;
        end = entry.end;
    }
    assert!(end <= head.index_at, "pages lie before the index");
    reader.check_zero(end, head.index_at, &mut buf)?;
    for _ in 0..head.tags {
        fields.tag().ok_or_else(bad)?;
    }
    if fields.is_empty() { Ok((head.size(), head.digest)) } else { Err(bad()) }
}
