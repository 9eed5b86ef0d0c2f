//! Operations and their one encoding: what a transaction builds is what the log keeps and what replay applies.
//!
//! Integers are LEB128 varints, texts are length-prefixed UTF-8. FORMAT.md gives every byte. The decoder
//! trusts nothing: it is fed with bytes of files.

mod ops;

use std::sync::Arc;

use crate::error::{Code, Error};
use crate::graph::{Marks, Node};
use crate::log::{HEADROOM, META, SOURCE, put_text, put_varint, varint};
use crate::propagate::{Followed, Function, Manner, Reporter};

pub(crate) use ops::{Malformed, Ops};

/// What a new page is.
#[derive(Debug, Clone, Copy)]
pub struct NewPage<'a> {
    /// Unique name, if any.
    pub name: Option<&'a str>,
    /// Description of the element type, opaque to the core; empty for raw bytes.
    pub dtype: &'a str,
    /// Bytes of one element; changes are rounded out to it.
    pub itemsize: u32,
    /// Shape in elements.
    pub shape: &'a [u64],
    /// Bytes in all.
    pub nbytes: u64,
    /// User metadata as canonical JSON; empty for none.
    pub meta: &'a str,
    /// Where the page lives: 0 is cpu.
    pub location: u8,
}

impl<'a> NewPage<'a> {
    /// A page of raw bytes in one dimension, without a name.
    pub fn bytes(shape: &'a [u64; 1]) -> NewPage<'a> {
        let (dtype, meta, nbytes) = ("", "", shape[0]);
        NewPage { name: None, dtype, itemsize: 1, shape, nbytes, meta, location: 0 }
    }
}

/// One operation of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op<'a> {
    /// A new page, all zeros.
    Create {
        /// Its id.
        id: u64,
        /// Its name.
        name: Option<&'a str>,
        /// Element type.
        dtype: &'a str,
        /// Bytes of one element.
        itemsize: u32,
        /// Shape in elements.
        shape: Vec<u64>,
        /// Bytes in all.
        nbytes: u64,
        /// User metadata.
        meta: &'a str,
        /// Where it lives.
        location: u8,
    },
    /// The page goes.
    Delete {
        /// Its id.
        id: u64,
    },
    /// The page gets another name or none.
    Rename {
        /// Its id.
        id: u64,
        /// The new name.
        name: Option<&'a str>,
    },
    /// The page's metadata are replaced.
    SetMeta {
        /// Its id.
        id: u64,
        /// The new metadata.
        meta: &'a str,
    },
    /// The page gets another shape; kept bytes stay, new ones are zero.
    Resize {
        /// Its id.
        id: u64,
        /// The new shape.
        shape: Vec<u64>,
        /// The new size.
        nbytes: u64,
    },
    /// New bytes at an offset.
    Write {
        /// The page.
        id: u64,
        /// First byte.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// The page's place in the graph: what it follows from, and how.
    Node {
        /// Its id.
        id: u64,
        /// An encoded [`Node`](crate::Node); empty for none.
        node: &'a [u8],
    },
    /// Whether the page's bytes are what follows from its inputs.
    Mark {
        /// Its id.
        id: u64,
        /// The new marks.
        marks: Marks,
    },
    /// A name for an epoch.
    Tag {
        /// The tag's name.
        name: &'a str,
        /// The epoch; `None` is the one that this commit makes.
        epoch: Option<u64>,
        /// Whether a tag of that name may be taken from another epoch.
        move_: bool,
    },
    /// The tag goes.
    Untag {
        /// The tag's name.
        name: &'a str,
    },
}

impl Op<'_> {
    /// The page that it is about; none for tags.
    pub fn page(&self) -> Option<u64> {
        match *self {
            Op::Create { id, .. }
            | Op::Delete { id }
            | Op::Rename { id, .. }
            | Op::SetMeta { id, .. }
            | Op::Resize { id, .. }
            | Op::Node { id, .. }
            | Op::Mark { id, .. }
            | Op::Write { id, .. } => Some(id),
            Op::Tag { .. } | Op::Untag { .. } => None,
        }
    }
}

/// A condition that an optimistic commit checks beside the ranges it writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Check {
    Read(u64),
    Node(u64),
    Name(Box<str>),
    Ids,
}

/// An ordered set of operations, encoded as the log keeps them.
#[derive(Debug, Clone)]
pub struct Batch {
    buf: Vec<u8>,
    prefix: usize,
    flags: u8,
    count: usize,
    /// An operation found no memory and is not in it.
    lacking: Option<usize>,
    /// A shape has so many dimensions that no page can have it.
    dimensions: Option<usize>,
    pub(crate) checks: Vec<Check>,
    /// Functions that compute pages from this commit on.
    pub(crate) functions: Vec<(u64, Arc<dyn Function>)>,
    pub(crate) manner: Manner,
    pub(crate) reporter: Reporter,
}

impl Default for Batch {
    fn default() -> Self {
        Batch::new()
    }
}

const CREATE: u8 = 1;
const DELETE: u8 = 2;
const RENAME: u8 = 3;
const SET_META: u8 = 4;
const RESIZE: u8 = 5;
const WRITE: u8 = 6;
const TAG: u8 = 7;
const UNTAG: u8 = 8;
const NODE: u8 = 9;
const MARK: u8 = 10;
/// Bytes of a number at most.
const VARINT: usize = 10;

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        let buf = vec![0; HEADROOM];
        Batch {
            buf,
            prefix: 0,
            flags: 0,
            count: 0,
            lacking: None,
            dimensions: None,
            checks: Vec::new(),
            functions: Vec::new(),
            manner: Manner::Change,
            reporter: Reporter::default(),
        }
    }

    /// Makes it empty again and keeps its memory.
    pub fn clear(&mut self) {
        self.buf.truncate(HEADROOM);
        self.prefix = 0;
        self.flags = 0;
        self.count = 0;
        self.lacking = None;
        self.dimensions = None;
        self.checks.clear();
        self.functions.clear();
        self.manner = Manner::Change;
        self.reporter = Reporter::default();
    }

    /// How much it has.
    pub(crate) fn end(&self) -> (usize, usize) {
        (self.bytes(), self.count)
    }

    /// Takes back what was added since it had so much.
    pub(crate) fn cut(&mut self, (bytes, count): (usize, usize)) {
        self.buf.truncate(HEADROOM + self.prefix + bytes);
        (self.count, self.lacking) = (count, None);
    }

    /// Gives memory of a large batch back, for batches that are kept.
    pub(crate) fn shrink(&mut self) {
        const KEPT: usize = 1 << 20;
        if self.buf.capacity() > KEPT {
            self.clear();
            self.buf.shrink_to(KEPT);
        }
    }

    /// Whether it holds no operation.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of operations.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Encoded size of the operations.
    pub fn bytes(&self) -> usize {
        self.buf.len() - HEADROOM - self.prefix
    }

    pub(crate) fn ops(&self) -> &[u8] {
        &self.buf[HEADROOM + self.prefix..]
    }

    /// Puts source and metadata in front of the operations; replaces earlier ones.
    pub(crate) fn set_prefix(&mut self, source: Option<&str>, meta: Option<&str>) {
        if self.prefix == 0 && source.is_none() && meta.is_none() {
            return;
        }
        let mut prefix = Vec::with_capacity(32);
        self.flags = 0;
        if let Some(source) = source {
            self.flags |= SOURCE;
            put_text(&mut prefix, source);
        }
        if let Some(meta) = meta {
            self.flags |= META;
            put_text(&mut prefix, meta);
        }
        if !self.room(prefix.len()) {
            return;
        }
        self.buf.splice(HEADROOM..HEADROOM + self.prefix, prefix.iter().copied());
        self.prefix = prefix.len();
    }

    /// What the log's writer takes: flags, and the buffer with its headroom in front.
    pub(crate) fn frame(&mut self) -> (u8, &mut Vec<u8>) {
        (self.flags, &mut self.buf)
    }

    /// Fails if an operation found no memory, or would read back as none: then the batch must not be committed.
    pub(crate) fn complete(&self) -> Result<(), Error> {
        if let Some(bytes) = self.lacking {
            let what = format!("no memory for a commit of {bytes} bytes");
            return Err(Error::new(Code::OutOfSpace, what));
        }
        if let Some(n) = self.dimensions {
            return Err(Error::new(Code::Argument, format!("{n} dimensions; at most {MAX_NDIM}")));
        }
        Ok(())
    }

    fn note_dimensions(&mut self, shape: &[u64]) {
        if shape.len() > MAX_NDIM {
            self.dimensions.get_or_insert(shape.len());
        }
    }

    /// Whether there is memory for so many bytes more, and for what a record pads.
    fn room(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_add(8);
        if self.lacking.is_none()
            && self.buf.try_reserve(more).is_err()
            && self.buf.try_reserve_exact(more).is_err()
        {
            self.lacking = Some(self.buf.len().saturating_add(bytes));
        }
        self.lacking.is_none()
    }

    /// Begins an operation with so many bytes beside its kind and numbers.
    fn op(&mut self, kind: u8, id: u64, bytes: usize) -> bool {
        const NUMBERS: usize = 64;
        let fits = self.room(bytes.saturating_add(NUMBERS));
        if fits {
            self.count += 1;
            self.buf.push(kind);
            put_varint(&mut self.buf, id);
        }
        fits
    }

    /// A new page with this id.
    pub fn create(&mut self, id: u64, page: &NewPage<'_>) {
        self.note_dimensions(page.shape);
        let name = page.name.unwrap_or("");
        let texts = name.len() + page.dtype.len() + page.meta.len();
        if self.op(CREATE, id, texts + VARINT * page.shape.len()) {
            let buf = &mut self.buf;
            put_text(buf, name);
            put_text(buf, page.dtype);
            put_varint(buf, u64::from(page.itemsize));
            put_shape(buf, page.shape);
            put_varint(buf, page.nbytes);
            put_text(buf, page.meta);
            buf.push(page.location);
        }
    }

    /// Deletes a page.
    pub fn delete(&mut self, id: u64) {
        self.op(DELETE, id, 0);
    }

    /// Renames a page; `None` takes its name away.
    pub fn rename(&mut self, id: u64, name: Option<&str>) {
        let name = name.unwrap_or("");
        if self.op(RENAME, id, name.len()) {
            put_text(&mut self.buf, name);
        }
    }

    /// Replaces a page's metadata.
    pub fn set_meta(&mut self, id: u64, meta: &str) {
        if self.op(SET_META, id, meta.len()) {
            put_text(&mut self.buf, meta);
        }
    }

    /// Gives a page another shape and size.
    pub fn resize(&mut self, id: u64, shape: &[u64], nbytes: u64) {
        self.note_dimensions(shape);
        if self.op(RESIZE, id, VARINT * shape.len()) {
            put_shape(&mut self.buf, shape);
            put_varint(&mut self.buf, nbytes);
        }
    }

    /// Writes bytes at an offset.
    pub fn write(&mut self, id: u64, offset: u64, data: &[u8]) {
        if !self.room(data.len().saturating_add(1 + 3 * VARINT)) {
            return;
        }
        self.count += 1;
        let (mut head, mut n) = ([WRITE; 1 + 3 * VARINT], 1);
        for number in [id, offset, data.len() as u64] {
            n += varint(number, &mut head[n..]);
        }
        self.buf.extend_from_slice(&head[..n]);
        self.buf.extend_from_slice(data);
    }

    /// Replaces the page's place in the graph; `None` takes it out of it.
    pub fn node(&mut self, id: u64, node: Option<&Node<'_>>) {
        self.encoded_node(id, &node.map_or(Vec::new(), Node::encode));
    }

    pub(crate) fn encoded_node(&mut self, id: u64, node: &[u8]) {
        if self.op(NODE, id, node.len()) {
            put_varint(&mut self.buf, node.len() as u64);
            self.buf.extend_from_slice(node);
        }
    }

    pub(crate) fn mark(&mut self, id: u64, marks: Marks) {
        if self.op(MARK, id, 0) {
            self.buf.push(marks.bits());
        }
    }

    /// Names an epoch; `None` is the one that this commit makes.
    pub fn tag(&mut self, name: &str, epoch: Option<u64>, move_: bool) {
        if !self.room(name.len() + 2 * VARINT) {
            return;
        }
        self.count += 1;
        self.buf.push(TAG);
        put_text(&mut self.buf, name);
        match epoch {
            None => self.buf.push(0),
            Some(epoch) => {
                self.buf.push(1);
                put_varint(&mut self.buf, epoch);
            }
        }
        self.buf.push(u8::from(move_));
    }

    /// Removes a tag.
    pub fn untag(&mut self, name: &str) {
        if !self.room(name.len() + 2 * VARINT) {
            return;
        }
        self.count += 1;
        self.buf.push(UNTAG);
        put_text(&mut self.buf, name);
    }

    /// Asks what follows from the commit, with the time that each page takes if it `is_timed`.
    pub fn ask_report(&mut self, is_timed: bool) {
        self.reporter.ask(is_timed);
    }

    /// What followed from the commit, if that was asked for.
    pub fn report(&self) -> Option<&Followed> {
        self.reporter.report.as_deref()
    }

    /// From this commit on the function computes the page, whose place in the graph says so.
    pub fn function(&mut self, id: u64, function: Arc<dyn Function>) {
        self.functions.push((id, function));
    }

    /// The commit conflicts if this page's bytes or shape differ from the base.
    pub fn check_read(&mut self, id: u64) {
        self.checks.push(Check::Read(id));
    }

    /// The commit conflicts if this page has another place in the graph than in the base.
    pub fn check_node(&mut self, id: u64) {
        self.checks.push(Check::Node(id));
    }

    /// The commit conflicts if this name means another page than in the base.
    pub fn check_name(&mut self, name: &str) {
        self.checks.push(Check::Name(name.into()));
    }

    /// The commit conflicts if others created pages since the base.
    pub fn check_ids(&mut self) {
        self.checks.push(Check::Ids);
    }
}

/// NumPy's own limit.
pub(crate) const MAX_NDIM: usize = 64;

pub(crate) fn put_shape(buf: &mut Vec<u8>, shape: &[u64]) {
    put_varint(buf, shape.len() as u64);
    for &dim in shape {
        put_varint(buf, dim);
    }
}

#[cfg(test)]
mod tests;
