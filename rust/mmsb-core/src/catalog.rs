//! The catalogue: a record per page (name, element type, shape, metadata) and a record per tag.
//!
//! A page's record says its place in the graph too (`graph/node.rs`).
//!
//! Records are immutable pieces of the arena that begin with the epoch that made them. A page's epoch is the newer
//! of its bytes' and its record's.

use crate::Result;
use crate::arena::Mem;
use crate::delta::{MAX_NDIM, Malformed, NewPage};
use crate::edit::{DeadKind, Edit};
use crate::graph::{MAX_NODE, Marks, Node};
use crate::names::Records;
use crate::root::Root;
use crate::table::{self, Slot};
use crate::{Code, Error};

/// Most bytes of a page.
pub(crate) const MAX_PAGE: u64 = 1 << 40;
/// Most bytes of a name.
pub(crate) const MAX_NAME: usize = 255;
/// Most bytes of metadata.
pub(crate) const MAX_META: usize = 64 << 10;

const FIXED: u64 = 32;
const _: () = {
    assert!(MAX_NAME <= 0xff && MAX_NDIM <= 0xff, "a record has a byte for each");
    assert!(3 * MAX_META + MAX_NODE <= u32::MAX as usize, "a record's length has 32 bits");
};

/// What is known of a page at one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageInfo {
    /// Its id, never given twice.
    pub id: u64,
    /// Its name.
    pub name: Option<String>,
    /// Element type; empty for raw bytes.
    pub dtype: String,
    /// Bytes of one element.
    pub itemsize: u32,
    /// Shape in elements.
    pub shape: Vec<u64>,
    /// Bytes in all.
    pub nbytes: u64,
    /// The last epoch that changed bytes, shape, name or metadata.
    pub epoch: u64,
    /// The last epoch that changed its bytes.
    pub bytes_epoch: u64,
    /// The last epoch that changed shape, name, metadata or place in the graph.
    pub desc_epoch: u64,
    /// Metadata as canonical JSON; empty for none.
    pub meta: String,
    /// Where it lives: 0 is cpu.
    pub location: u8,
    /// Its place in the graph, encoded; empty for none.
    pub(crate) node: Vec<u8>,
    /// Whether its bytes are what follows from its inputs.
    pub marks: Marks,
}

impl PageInfo {
    /// Its place in the graph; none for a page that follows from nothing.
    pub fn node(&self) -> Option<Node<'_>> {
        // What a record has was read when it was made.
        Node::decode(&self.node).ok()
    }
}

/// A page's place in the graph, as its record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Role<'a> {
    /// Encoded; empty for none.
    pub(crate) node: &'a [u8],
    pub(crate) marks: Marks,
}

/// What a record says of its own parts.
struct Lens {
    name: u64,
    ndim: u64,
    dtype: u64,
    meta: u64,
    node: u64,
}

/// A page's record, read in place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Desc {
    mem: Mem,
    at: u64,
}

impl Desc {
    #[inline]
    pub(crate) fn at(mem: Mem, at: u64) -> Desc {
        Desc { mem, at }
    }

    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.mem.get(self.at)
    }

    fn total(&self) -> u64 {
        self.mem.get(self.at + 8) & 0xffff_ffff
    }

    #[inline]
    pub(crate) fn itemsize(&self) -> u32 {
        (self.mem.get(self.at + 8) >> 32) as u32
    }

    fn lens(&self) -> Lens {
        let (first, second) = (self.mem.get(self.at + 16), self.mem.get(self.at + 24));
        Lens {
            name: first & 0xff,
            ndim: first >> 8 & 0xff,
            dtype: first >> 32,
            meta: second & 0xffff_ffff,
            node: second >> 32,
        }
    }

    pub(crate) fn location(&self) -> u8 {
        (self.mem.get(self.at + 16) >> 16 & 0xff) as u8
    }

    #[inline]
    pub(crate) fn marks(&self) -> Marks {
        let bits = (self.mem.get(self.at + 16) >> 24 & 0xff) as u8;
        Marks::from_bits(bits).unwrap_or_default()
    }

    pub(crate) fn shape(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.lens().ndim).map(|i| self.mem.get(self.at + FIXED + 8 * i))
    }

    fn texts(&self) -> u64 {
        self.at + FIXED + 8 * self.lens().ndim
    }

    pub(crate) fn name(&self) -> &str {
        text(self.mem.bytes(self.texts(), self.lens().name))
    }

    pub(crate) fn dtype(&self) -> &str {
        let Lens { name, dtype, .. } = self.lens();
        text(self.mem.bytes(self.texts() + name, dtype))
    }

    fn is(&self, other: &Desc) -> bool {
        self.at == other.at && std::ptr::eq(self.mem.ptr(0, 0), other.mem.ptr(0, 0))
    }

    /// Whether two records give a page the same place in the graph.
    pub(crate) fn has_role(&self, other: &Desc) -> bool {
        self.is(other) || self.role() == other.role()
    }

    /// Whether two records describe a page in the same way, but for its place in the graph.
    pub(crate) fn says_what(&self, other: &Desc) -> bool {
        self.is(other)
            || self.name() == other.name()
                && self.meta() == other.meta()
                && self.dtype() == other.dtype()
                && self.itemsize() == other.itemsize()
                && self.location() == other.location()
                && self.shape().eq(other.shape())
    }

    pub(crate) fn meta(&self) -> &str {
        let Lens { name, dtype, meta, .. } = self.lens();
        text(self.mem.bytes(self.texts() + name + dtype, meta))
    }

    /// Its place in the graph, encoded; empty for none.
    pub(crate) fn node(&self) -> &[u8] {
        self.node_in(&self.mem)
    }

    /// The same for as long as the memory, in which the record is.
    pub(crate) fn node_in<'m>(&self, mem: &'m Mem) -> &'m [u8] {
        let Lens { name, dtype, meta, node, .. } = self.lens();
        if node == 0 { &[] } else { mem.bytes(self.texts() + name + dtype + meta, node) }
    }

    pub(crate) fn role(&self) -> Role<'_> {
        Role { node: self.node(), marks: self.marks() }
    }
}

/// Texts were checked when they were written into the arena.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("")
}

/// Writes a page's record.
pub(crate) fn put_desc(edit: &mut Edit<'_>, page: &NewPage<'_>, role: Role<'_>) -> Result<u64> {
    check_page(page)?;
    check_role(role)?;
    let name = page.name.unwrap_or("");
    let ndim = page.shape.len() as u64;
    let parts = [name.as_bytes(), page.dtype.as_bytes(), page.meta.as_bytes(), role.node];
    let total = FIXED + 8 * ndim + parts.iter().map(|part| part.len() as u64).sum::<u64>();
    let at = edit.take(total)?;
    let mem = edit.mem();
    mem.set(at, edit.epoch());
    mem.set(at + 8, total | u64::from(page.itemsize) << 32);
    let lens = name.len() as u64
        | ndim << 8
        | u64::from(page.location) << 16
        | u64::from(role.marks.bits()) << 24
        | (page.dtype.len() as u64) << 32;
    mem.set(at + 16, lens);
    mem.set(at + 24, page.meta.len() as u64 | (role.node.len() as u64) << 32);
    for (i, &dim) in page.shape.iter().enumerate() {
        mem.set(at + FIXED + 8 * i as u64, dim);
    }
    let mut to = at + FIXED + 8 * ndim;
    for part in parts {
        mem.write(to, part);
        to += part.len() as u64;
    }
    assert_eq!(to, at + total, "a record is as long as it says");
    Ok(at)
}

/// The new state no longer shows this record.
pub(crate) fn retire_desc(edit: &mut Edit<'_>, at: u64) {
    let desc = Desc::at(edit.mem(), at);
    let (total, born) = (desc.total(), desc.epoch());
    edit.retire(at, total, born, DeadKind::Node);
}

/// Bytes of a record, for those who free it.
pub(crate) fn desc_len(mem: Mem, at: u64) -> u64 {
    Desc::at(mem, at).total()
}

fn check_page(page: &NewPage<'_>) -> Result<()> {
    let wrong = |what: String| Err(Error::new(Code::Argument, what));
    if let Some(name) = page.name {
        check_name(name)?;
    }
    if page.meta.len() > MAX_META {
        return wrong(format!("page metadata takes {} bytes; at most {MAX_META}", page.meta.len()));
    }
    if page.dtype.len() > MAX_META {
        return wrong(format!(
            "the description of the dtype takes {} bytes; at most {MAX_META}",
            page.dtype.len()
        ));
    }
    if page.shape.len() > MAX_NDIM {
        return wrong(format!("{} dimensions; at most {MAX_NDIM}", page.shape.len()));
    }
    check_size(page.shape, page.itemsize, page.nbytes)
}

/// A place in the graph must be one, and only pages with one have marks.
pub(crate) fn check_role(role: Role<'_>) -> Result<()> {
    if role.node.is_empty() {
        return match role.marks == Marks::default() {
            true => Ok(()),
            false => {
                Err(Error::new(Code::Argument, "a page that follows from nothing has no mark"))
            }
        };
    }
    let wrong = |what: Malformed| Error::new(Code::Argument, what.0);
    Node::decode(role.node).map(drop).map_err(wrong)
}

/// A page's size must be what shape and item size say.
pub(crate) fn check_size(shape: &[u64], itemsize: u32, nbytes: u64) -> Result<()> {
    if nbytes > MAX_PAGE {
        return Err(Error::new(
            Code::Argument,
            format!("a page of {nbytes} bytes; at most {MAX_PAGE} (2**40)"),
        ));
    }
    let says = shape.iter().try_fold(u64::from(itemsize), |all, &dim| all.checked_mul(dim));
    if says != Some(nbytes) {
        return Err(Error::new(
            Code::Argument,
            format!("shape {shape:?} with items of {itemsize} bytes is not {nbytes} bytes"),
        ));
    }
    Ok(())
}

/// A name is 1 to 255 bytes of UTF-8 without control characters.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(Error::new(
            Code::Argument,
            format!(
                "{name:?} is no name: 1 to {MAX_NAME} bytes of UTF-8 without control characters"
            ),
        ));
    }
    Ok(())
}

/// The description of a page from its slot.
pub(crate) fn info(mem: Mem, id: u64, slot: Slot) -> PageInfo {
    let desc = Desc::at(mem, slot.desc);
    PageInfo {
        id,
        name: Some(desc.name().to_owned()).filter(|name| !name.is_empty()),
        dtype: desc.dtype().to_owned(),
        itemsize: desc.itemsize(),
        shape: desc.shape().collect(),
        nbytes: slot.len,
        epoch: slot.epoch.max(desc.epoch()),
        bytes_epoch: slot.epoch,
        desc_epoch: desc.epoch(),
        meta: desc.meta().to_owned(),
        location: desc.location(),
        node: desc.node().to_owned(),
        marks: desc.marks(),
    }
}

/// The name index: values are page ids, doubled to be even.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageNames {
    pub(crate) table: u64,
    pub(crate) height: u64,
}

impl PageNames {
    pub(crate) fn of(root: &Root) -> PageNames {
        PageNames { table: root.table, height: root.height }
    }
}

impl Records for PageNames {
    fn text<'m>(&self, mem: &'m Mem, value: u64) -> &'m [u8] {
        match table::get(*mem, self.table, self.height, value / 2) {
            Some(slot) => {
                let desc = Desc::at(*mem, slot.desc);
                mem.bytes(desc.texts(), desc.lens().name)
            }
            None => &[],
        }
    }
}

/// The page of this name.
#[inline]
pub(crate) fn find_page(mem: Mem, root: &Root, name: &str) -> Option<u64> {
    crate::names::find(mem, root.names, name.as_bytes(), &PageNames::of(root))
        .map(|value| value / 2)
}

/// The tag index: values are offsets of tag records (epoch made, epoch named, length, text).
#[derive(Debug, Clone, Copy)]
pub(crate) struct TagNames;

impl Records for TagNames {
    fn text<'m>(&self, mem: &'m Mem, value: u64) -> &'m [u8] {
        mem.bytes(value + 24, mem.get(value + 16))
    }
}

/// Writes a tag's record.
pub(crate) fn put_tag(edit: &mut Edit<'_>, name: &str, epoch: u64) -> Result<u64> {
    let at = edit.take(24 + name.len() as u64)?;
    let mem = edit.mem();
    mem.set(at, edit.epoch());
    mem.set(at + 8, epoch);
    mem.set(at + 16, name.len() as u64);
    mem.write(at + 24, name.as_bytes());
    Ok(at)
}

/// The epoch that a tag record names.
pub(crate) fn tag_epoch(mem: Mem, at: u64) -> u64 {
    mem.get(at + 8)
}

/// Bytes of a tag's record.
pub(crate) fn tag_len(mem: Mem, at: u64) -> u64 {
    24 + mem.get(at + 16)
}

/// All tags, by name.
pub(crate) fn tags(mem: Mem, root: &Root) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    crate::names::walk(mem, root.tags, &mut |at| {
        all.push((text(TagNames.text(&mem, at)).to_owned(), tag_epoch(mem, at)));
    });
    all.sort();
    all
}
