//! Checkpoints: a file with all pages at one epoch, so that recovery need not begin at the first commit.
//!
//! A checkpoint is written to a temporary name, synced, renamed, and its directory synced; a file under its final
//! name is complete. Everything in it is checksummed: the header by itself, the index by the header, each block by
//! the index, and the state they make by its digest. FORMAT.md gives every byte.

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::arena::{BLOCK, is_denied};
use crate::catalog::{self, Desc, PageNames, TagNames};
use crate::core::Core;
use crate::delta::{NewPage, put_shape};
use crate::edit::Edit;
use crate::hash::{h64, h128};
use crate::log::{CheckpointMark, put_text, put_varint, take_varint};
use crate::museum::{Defect, planted};
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::table::{self, Slot};
use crate::vfs::{OpenKind, Vfs, VfsFile, read_exact_at, read_vec, write_all_at};
use crate::{Code, Error, Result, blocks, names, page};

const MAGIC: [u8; 16] = *b"\x89MMSB ckpt\r\n\x1a\n\0\xff";
const HEADER: usize = 4096;
const MAJOR: u16 = 1;
const EXTENSION: &str = ".ckpt";
/// What the name of an unfinished checkpoint begins with.
const TEMP: &str = ".tmp-";
/// Writes are gathered to so many bytes.
const CHUNK: usize = 1 << 20;

/// The directory of a store's checkpoints.
pub(crate) fn dir(store: &Path) -> PathBuf {
    store.join("checkpoints")
}

/// The epochs that have a checkpoint file, oldest first.
pub(crate) fn list(vfs: &dyn Vfs, store: &Path) -> Result<Vec<u64>> {
    let dir = dir(store);
    let names = match vfs.list(&dir) {
        // Tools that copy stores may leave an empty directory out.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|e| Error::storage(&dir, &e, "cannot list"))?,
    };
    let epoch = |name: &String| {
        let epoch = u64::from_str_radix(name.strip_suffix(EXTENSION)?, 16).ok()?;
        (file_name(epoch) == *name).then_some(epoch)
    };
    let mut epochs: Vec<u64> = names.iter().filter_map(epoch).collect();
    epochs.sort_unstable();
    Ok(epochs)
}

/// Where a checkpoint is written before it gets its name.
fn temp(store: &Path, epoch: u64) -> PathBuf {
    dir(store).join(format!("{TEMP}{}", file_name(epoch)))
}

fn file_name(epoch: u64) -> String {
    format!("{epoch:016x}{EXTENSION}")
}

/// The file of an epoch's checkpoint.
pub(crate) fn path(store: &Path, epoch: u64) -> PathBuf {
    dir(store).join(file_name(epoch))
}

/// Appends to a file in large pieces.
struct Out<'a> {
    file: &'a dyn VfsFile,
    path: &'a Path,
    at: u64,
    buf: Vec<u8>,
}

impl Out<'_> {
    fn end(&self) -> u64 {
        self.at + self.buf.len() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buf.extend_from_slice(bytes);
        if self.buf.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn align(&mut self, to: u64) -> Result<()> {
        let pad = self.end().next_multiple_of(to) - self.end();
        self.put(&vec![0; pad as usize])
    }

    fn flush(&mut self) -> Result<()> {
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
    let temp = temp(store, at.epoch());
    let fail = |e: io::Error, doing: &str| Error::storage(&temp, &e, doing);
    remove_remains(vfs, store)?;
    let file = vfs.open(&temp, OpenKind::CreateNew).map_err(|e| fail(e, "cannot create"))?;
    let written = fill(&*file, &temp, uuid, at, automatic).and_then(|size| {
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

/// Gives a written checkpoint its name; `sync_names` makes that durable.
pub(crate) fn install(vfs: &dyn Vfs, store: &Path, epoch: u64) -> Result<()> {
    let to = path(store, epoch);
    vfs.rename(&temp(store, epoch), &to).map_err(|e| Error::storage(&to, &e, "cannot rename to"))
}

/// Makes the names of all checkpoints durable.
pub(crate) fn sync_names(vfs: &dyn Vfs, store: &Path) -> Result<()> {
    let dir = dir(store);
    vfs.sync_dir(&dir).map_err(|e| Error::storage(&dir, &e, "cannot sync"))
}

fn fill(
    file: &dyn VfsFile,
    path: &Path,
    uuid: [u8; 16],
    at: &Snapshot,
    automatic: bool,
) -> Result<u64> {
    let mem = at.core().mem();
    let root = *at.root();
    let mut out =
        Out { file, path, at: HEADER as u64, buf: Vec::with_capacity(CHUNK + BLOCK as usize) };
    let mut index = Vec::new();
    let mut failed = None;
    table::walk(mem, root.table, root.height, &mut |id, slot| {
        if failed.is_none() {
            failed = put_page(&mut out, &mut index, mem, id, &slot).err();
        }
    });
    if let Some(error) = failed {
        return Err(error);
    }
    let mut tags = catalog::tags(mem, &root);
    if planted(Defect::TagsForgotten) {
        tags.clear();
    }
    for (name, epoch) in &tags {
        put_text(&mut index, name);
        put_varint(&mut index, *epoch);
    }
    out.align(8)?;
    let index_at = out.end();
    out.put(&index)?;
    out.flush()?;
    let size = out.end();
    assert_eq!(size, out.at, "all of a checkpoint was written");
    assert!(index_at.is_multiple_of(8), "the index is aligned");

    let mut head = Vec::with_capacity(HEADER);
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&MAJOR.to_le_bytes());
    head.extend_from_slice(&[0, 0, u8::from(automatic), 0, 0, 0]);
    head.extend_from_slice(&[0; 16]);
    head.extend_from_slice(&uuid);
    for word in [
        root.epoch,
        root.time,
        root.next_id,
        root.pages,
        tags.len() as u64,
        index_at,
        index.len() as u64,
        size,
    ] {
        head.extend_from_slice(&word.to_le_bytes());
    }
    head.extend_from_slice(&h128(&index).to_le_bytes());
    head.extend_from_slice(&at.digest().to_le_bytes());
    assert_eq!(head.len(), 152, "the header's fields are where FORMAT.md says");
    head.resize(HEADER - 8, 0);
    head.extend_from_slice(&h64(&head).to_le_bytes());
    write_all_at(file, 0, &head).map_err(|e| Error::storage(path, &e, "cannot write"))?;
    Ok(size)
}

fn put_page(
    out: &mut Out<'_>,
    index: &mut Vec<u8>,
    mem: crate::arena::Mem,
    id: u64,
    slot: &Slot,
) -> Result<()> {
    let desc = Desc::at(mem, slot.desc);
    put_varint(index, id);
    put_text(index, desc.name());
    put_text(index, desc.dtype());
    put_varint(index, u64::from(desc.itemsize()));
    put_shape(index, &desc.shape().collect::<Vec<_>>());
    put_varint(index, slot.len);
    put_text(index, desc.meta());
    index.push(desc.location());
    put_varint(index, slot.epoch);
    put_varint(index, desc.epoch());
    out.align(if page::is_one_block(slot.len) { 8 } else { 4096 })?;
    put_varint(index, out.end());
    let mut failed = None;
    page::parts(mem, slot, 0, slot.len, &mut |_, bytes| {
        index.extend_from_slice(&h128(bytes).to_le_bytes());
        if failed.is_none() {
            failed = out.put(bytes).err();
        }
    });
    failed.map_or(Ok(()), Err)
}

/// Whether a checkpoint was made without being asked for. One that cannot be read is left alone.
pub(crate) fn is_automatic(vfs: &dyn Vfs, store: &Path, epoch: u64) -> Result<bool> {
    let path = path(store, epoch);
    let file =
        vfs.open(&path, OpenKind::Read).map_err(|e| Error::storage(&path, &e, "cannot read"))?;
    let mut head = vec![0; HEADER];
    let read = read_exact_at(&*file, 0, &mut head);
    let checksum = h64(&head[..HEADER - 8]).to_le_bytes();
    Ok(read.is_ok() && head[HEADER - 8..] == checksum && head[20] == 1)
}

fn no_memory(bytes: u64, path: &Path) -> Error {
    Error::new(Code::OutOfSpace, format!("no memory for {bytes} bytes of {}", path.display()))
}

/// A checkpoint's header and index, checked.
struct Reader<'a> {
    file: Arc<dyn VfsFile>,
    path: &'a Path,
    epoch: u64,
    time: u64,
    next_id: u64,
    pages: u64,
    tags: u64,
    digest: u128,
    index_at: u64,
    index: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn damage(path: &Path, offset: u64, epoch: Option<u64>, what: &str) -> Error {
        Error::corruption(path, Some(offset), epoch, what)
    }

    fn open(vfs: &dyn Vfs, path: &'a Path, epoch: u64, uuid: [u8; 16]) -> Result<Reader<'a>> {
        let fail = |e: io::Error| Error::storage(path, &e, "cannot read");
        let file = vfs.open(path, OpenKind::Read).map_err(fail)?;
        let size = file.size().map_err(fail)?;
        let mut head = vec![0; HEADER];
        if size < HEADER as u64 {
            return Err(Reader::damage(path, 0, Some(epoch), "the checkpoint is cut short"));
        }
        read_exact_at(&*file, 0, &mut head).map_err(fail)?;
        let word =
            |at: usize| head[at..at + 8].iter().rev().fold(0u64, |all, &b| all << 8 | u64::from(b));
        let wide = |at: usize| u128::from(word(at)) | u128::from(word(at + 8)) << 64;
        if head[..16] != MAGIC || word(HEADER - 8) != h64(&head[..HEADER - 8]) {
            let what = "the checkpoint's header is damaged";
            return Err(Reader::damage(path, 0, Some(epoch), what));
        }
        if word(16) as u16 != MAJOR || word(24) != 0 {
            let what = format!("{} is of another version of MMSB; use that one", path.display());
            let mut error = Error::new(Code::FormatVersion, what);
            error.detail.file = Some(path.to_path_buf());
            return Err(error);
        }
        if head[40..56] != uuid || word(56) != epoch {
            return Err(Reader::damage(
                path,
                40,
                Some(epoch),
                "the checkpoint is of another store or epoch",
            ));
        }
        let (index_at, index_len) = (word(96), word(104));
        let fits = index_at.checked_add(index_len) == Some(size) && word(112) == size;
        if !fits || index_at < HEADER as u64 || head[152..HEADER - 8].iter().any(|&b| b != 0) {
            return Err(Reader::damage(
                path,
                96,
                Some(epoch),
                "the checkpoint's size is not what it says",
            ));
        }
        if is_denied() {
            return Err(no_memory(index_len, path));
        }
        let index = read_vec(&*file, index_at, index_len).map_err(fail)?;
        let index = index.ok_or_else(|| no_memory(index_len, path))?;
        if h128(&index) != wide(120) {
            return Err(Reader::damage(
                path,
                index_at,
                Some(epoch),
                "the checkpoint's index is damaged",
            ));
        }
        Ok(Reader {
            file,
            path,
            epoch,
            time: word(64),
            next_id: word(72),
            pages: word(80),
            tags: word(88),
            digest: wide(136),
            index_at,
            index,
        })
    }
}

/// Walks the index; its checksum was right, so what does not decode was written wrong.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        take_varint(&mut self.rest)
    }

    fn bytes(&mut self, len: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(usize::try_from(len).ok()?)?;
        self.rest = rest;
        Some(head)
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = self.varint()?;
        std::str::from_utf8(self.bytes(len)?).ok()
    }

    fn hash(&mut self) -> Option<u128> {
        let bytes = self.bytes(16)?;
        Some(bytes.iter().rev().fold(0, |all, &b| all << 8 | u128::from(b)))
    }

    fn tag(&mut self) -> Option<(&'a str, u64)> {
        self.text().zip(self.varint())
    }

    fn shape(&mut self) -> Option<Vec<u64>> {
        let ndim = self.varint().filter(|&n| n <= crate::delta::MAX_NDIM as u64)?;
        (0..ndim).map(|_| self.varint()).collect()
    }
}

/// Reads a checkpoint into an empty engine. Every byte is checked on the way.
pub(crate) fn load(
    vfs: &dyn Vfs,
    store: &Path,
    epoch: u64,
    uuid: [u8; 16],
    core: &Arc<Core>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let path = path(store, epoch);
    let reader = Reader::open(vfs, &path, epoch, uuid)?;
    let base = Root { epoch: reader.epoch.saturating_sub(1), ..Root::empty() };
    let (mut taken, mut dead) = (Vec::new(), Vec::new());
    let mut edit = Edit::begin(&core.arena, &base, &mut taken, &mut dead);
    if let Err(error) = load_pages(&reader, &mut edit, progress) {
        edit.abort();
        return Err(match error.code {
            // A page or a name that no commit can have made.
            Code::Argument => Reader::damage(&path, reader.index_at, Some(epoch), &error.message),
            _ => error,
        });
    }
    let root =
        Root { epoch: reader.epoch, time: reader.time, next_id: reader.next_id, ..edit.root };
    drop(edit);
    core.adopt(&root);
    if Snapshot::brief(core).digest() != reader.digest {
        return Err(Reader::damage(
            &path,
            136,
            Some(epoch),
            "the state is not what the checkpoint's digest says",
        ));
    }
    Ok(())
}

fn load_pages(
    reader: &Reader<'_>,
    edit: &mut Edit<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let bad = || {
        Reader::damage(
            reader.path,
            reader.index_at,
            Some(reader.epoch),
            "the index does not decode",
        )
    };
    let mut fields = Fields { rest: &reader.index };
    let mut block = vec![0; BLOCK as usize];
    let mut before = Order { id: 0, end: HEADER as u64 };
    for _ in 0..reader.pages {
        load_page(reader, edit, &mut fields, &mut before, &mut block)?.ok_or_else(bad)?;
        progress(before.end, reader.index_at);
    }
    if reader.next_id <= before.id || reader.epoch == 0 && reader.pages + reader.tags > 0 {
        return Err(bad());
    }
    let mut last = "";
    for _ in 0..reader.tags {
        let (name, epoch) = fields.tag().ok_or_else(bad)?;
        catalog::check_name(name)?;
        if name <= last || epoch > reader.epoch {
            return Err(bad());
        }
        last = name;
        let record = catalog::put_tag(edit, name, epoch)?;
        edit.root.tags = names::insert(edit, edit.root.tags, record, &TagNames)?;
    }
    if fields.rest.is_empty() { Ok(()) } else { Err(bad()) }
}

/// The page before: entries and bytes are in the order of the ids, each page once.
struct Order {
    id: u64,
    end: u64,
}

/// Loads one page; `None` if its entry is not one that can stand here.
fn load_page(
    reader: &Reader<'_>,
    edit: &mut Edit<'_>,
    fields: &mut Fields<'_>,
    before: &mut Order,
    block: &mut [u8],
) -> Result<Option<()>> {
    let Some(entry) = Entry::read(fields) else { return Ok(None) };
    let inside = entry.at.checked_add(entry.nbytes).filter(|&end| end <= reader.index_at);
    let (Some(end), true) = (inside, entry.id > before.id && entry.at >= before.end) else {
        return Ok(None);
    };
    let taken =
        entry.name.is_some_and(|name| catalog::find_page(edit.mem(), &edit.root, name).is_some());
    if taken || entry.epoch > reader.epoch || entry.desc_epoch > reader.epoch {
        return Ok(None);
    }
    *before = Order { id: entry.id, end };
    let new = NewPage {
        name: entry.name,
        dtype: entry.dtype,
        itemsize: entry.itemsize,
        shape: &entry.shape,
        nbytes: entry.nbytes,
        meta: entry.meta,
        location: entry.location,
    };
    let mem = edit.mem();
    let desc = catalog::put_desc(edit, &new)?;
    mem.set(desc, entry.desc_epoch);
    let (data, bytes_at) = match entry.nbytes {
        0 => (0, 0),
        len if page::is_one_block(len) => {
            let frame = edit.take(len)?;
            (frame, frame)
        }
        len => blocks::create(edit, len, entry.epoch, false)?,
    };
    let mut from = 0;
    while from < entry.nbytes {
        let n = BLOCK.min(entry.nbytes - from) as usize;
        let at = entry.at + from;
        read_exact_at(&*reader.file, at, &mut block[..n])
            .map_err(|e| Error::storage(reader.path, &e, "cannot read"))?;
        let Some(hash) = fields.hash() else { return Ok(None) };
        if h128(&block[..n]) != hash {
            let what = format!("the bytes of page {} are damaged", entry.id);
            return Err(Reader::damage(reader.path, at, Some(reader.epoch), &what));
        }
        mem.write(bytes_at + from, &block[..n]);
        from += n as u64;
    }
    table::set(edit, entry.id, Slot { data, len: entry.nbytes, epoch: entry.epoch, desc })?;
    if entry.name.is_some() {
        let records = PageNames::of(&edit.root);
        edit.root.names = names::insert(edit, edit.root.names, entry.id * 2, &records)?;
    }
    edit.root.pages += 1;
    edit.root.bytes += entry.nbytes;
    Ok(Some(()))
}

struct Entry<'a> {
    id: u64,
    name: Option<&'a str>,
    dtype: &'a str,
    itemsize: u32,
    shape: Vec<u64>,
    nbytes: u64,
    meta: &'a str,
    location: u8,
    epoch: u64,
    desc_epoch: u64,
    at: u64,
}

impl<'a> Entry<'a> {
    fn read(fields: &mut Fields<'a>) -> Option<Entry<'a>> {
        Some(Entry {
            id: fields.varint().filter(|&id| id > 0 && id < crate::apply::MAX_ID)?,
            name: Some(fields.text()?).filter(|name| !name.is_empty()),
            dtype: fields.text()?,
            itemsize: u32::try_from(fields.varint()?).ok()?,
            shape: fields.shape()?,
            nbytes: fields.varint()?,
            meta: fields.text()?,
            location: *fields.bytes(1)?.first()?,
            epoch: fields.varint()?,
            desc_epoch: fields.varint()?,
            at: fields.varint()?,
        })
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
    let bad = || Reader::damage(&path, reader.index_at, Some(epoch), "the index does not decode");
    let mut fields = Fields { rest: &reader.index };
    let mut block = vec![0; BLOCK as usize];
    let mut next = HEADER as u64;
    for _ in 0..reader.pages {
        let entry = Entry::read(&mut fields).ok_or_else(bad)?;
        let end = entry
            .at
            .checked_add(entry.nbytes)
            .filter(|&end| end <= reader.index_at)
            .ok_or_else(bad)?;
        check_zero(&reader, next, entry.at)?;
        next = end;
        let mut from = entry.at;
        while from < end {
            let n = BLOCK.min(end - from) as usize;
            read_exact_at(&*reader.file, from, &mut block[..n])
                .map_err(|e| Error::storage(&path, &e, "cannot read"))?;
            if h128(&block[..n]) != fields.hash().ok_or_else(bad)? {
                let what = format!("the bytes of page {} are damaged", entry.id);
                return Err(Reader::damage(&path, from, Some(epoch), &what));
            }
            from += n as u64;
        }
    }
    check_zero(&reader, next, reader.index_at)?;
    for _ in 0..reader.tags {
        fields.tag().ok_or_else(bad)?;
    }
    if !fields.rest.is_empty() {
        return Err(bad());
    }
    Ok((reader.index_at + reader.index.len() as u64, reader.digest))
}

/// Whether a checkpoint has the state that the log says it has: one of a copy of the store that lived on has its name too.
pub(crate) fn check(store: &Path, digest: u128, mark: &CheckpointMark) -> Result<()> {
    if digest == mark.digest {
        return Ok(());
    }
    let what = "the checkpoint is of another state than the log says";
    Err(Reader::damage(&path(store, mark.epoch), 136, Some(mark.epoch), what))
}

/// What lies between pages is zero, so that no byte of the file is unaccounted for.
fn check_zero(reader: &Reader<'_>, from: u64, to: u64) -> Result<()> {
    let bad = |what| Reader::damage(reader.path, from, Some(reader.epoch), what);
    if to < from || to - from >= 4096 {
        return Err(bad("pages do not follow each other"));
    }
    let mut gap = vec![0; (to - from) as usize];
    read_exact_at(&*reader.file, from, &mut gap)
        .map_err(|e| Error::storage(reader.path, &e, "cannot read"))?;
    if gap.iter().any(|&b| b != 0) { Err(bad("padding is not zero")) } else { Ok(()) }
}
