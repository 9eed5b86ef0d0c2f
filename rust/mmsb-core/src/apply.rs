//! The law: state x delta -> state'. Commits, recovery, time travel and restore all go through `apply`.
//!
//! Every operation is checked against the state it meets; the first that does not fit fails the whole commit.

use crate::catalog::{self, Desc, PageNames, Role, TagNames};
use crate::delta::{Malformed, NewPage, Op, Ops};
use crate::edit::{DeadKind, Edit};
use crate::graph::Marks;
use crate::museum::{Defect, planted};
use crate::table::{self, Slot};
use crate::{Code, Error, Result, names, page};

/// Ids stay below this, so that the name index can double them.
pub(crate) const MAX_ID: u64 = 1 << 62;

/// Applies encoded operations. Returns whether anything changed.
#[inline]
pub(crate) fn apply(edit: &mut Edit<'_>, ops: &[u8]) -> Result<bool> {
    let mut changed = false;
    let mut ops = Ops::new(ops);
    loop {
        while let Some(next) = ops.next_write().map_err(malformed)? {
            changed |= write(edit, next.id, next.offset, next.data)?;
        }
        let Some(op) = ops.next() else { return Ok(changed) };
        changed |= match op.map_err(malformed)? {
            Op::Write { id, offset, data } => write(edit, id, offset, data)?,
            Op::Create { id, name, dtype, itemsize, shape, nbytes, meta, location } => {
                let page = NewPage { name, dtype, itemsize, shape: &shape, nbytes, meta, location };
                create(edit, id, &page)?
            }
            Op::Delete { id } => delete(edit, id)?,
            Op::Rename { id, name } => rename(edit, id, name)?,
            Op::SetMeta { id, meta } => set_meta(edit, id, meta)?,
            Op::Resize { id, shape, nbytes } => resize(edit, id, &shape, nbytes)?,
            Op::Node { id, node } => set_node(edit, id, node)?,
            Op::Mark { id, marks } => mark(edit, id, marks)?,
            Op::Tag { name, epoch, move_ } => tag(edit, name, epoch, move_)?,
            Op::Untag { name } => untag(edit, name)?,
        };
    }
}

pub(crate) fn malformed(e: Malformed) -> Error {
    Error::new(Code::Corruption, format!("operations: {}", e.0))
}

#[inline]
fn slot_of(edit: &Edit<'_>, id: u64) -> Result<Slot> {
    let slot = table::find(edit, id).ok_or_else(|| no_page(id))?;
    assert!(slot.epoch <= edit.epoch(), "a page has bytes of a later epoch");
    Ok(slot)
}

pub(crate) fn no_page(id: u64) -> Error {
    Error::new(Code::PageNotFound, format!("there is no page {id}"))
}

#[inline]
fn write(edit: &mut Edit<'_>, id: u64, offset: u64, data: &[u8]) -> Result<bool> {
    let slot = slot_of(edit, id)?;
    write_at(edit, id, &slot, offset, data).map(|new| new.is_some())
}

/// The same for whoever has the page's slot. Returns the new one, if the bytes are others than before.
#[inline]
pub(crate) fn write_at(
    edit: &mut Edit<'_>,
    id: u64,
    slot: &Slot,
    offset: u64,
    data: &[u8],
) -> Result<Option<Slot>> {
    if offset > slot.len || data.len() as u64 > slot.len - offset {
        return Err(past_end(id, offset, data.len() as u64, slot.len));
    }
    let Some(at) = page::write(edit, id, slot, offset, data)? else {
        return Ok(None);
    };
    let new = Slot { data: at, epoch: edit.epoch(), ..*slot };
    if new != *slot {
        table::set(edit, id, new)?;
    }
    Ok(Some(new))
}

pub(crate) fn past_end(id: u64, offset: u64, len: u64, nbytes: u64) -> Error {
    Error::new(
        Code::InvalidDelta,
        format!("{len} bytes at offset {offset} do not fit into page {id} of {nbytes} bytes"),
    )
}

fn create(edit: &mut Edit<'_>, id: u64, new: &NewPage<'_>) -> Result<bool> {
    let taken = table::find(edit, id).is_some();
    if taken || id == 0 || id >= MAX_ID {
        return Err(Error::new(Code::PageExists, format!("there can be no new page with id {id}")));
    }
    if let Some(name) = new.name {
        free_name(edit, id, name)?;
    }
    let desc = catalog::put_desc(edit, new, Role::default())?;
    if !edit.room_for(new.nbytes) {
        return Err(crate::arena::out_of_space(new.nbytes, edit.limit()));
    }
    let data = page::create(edit, new.nbytes)?;
    table::set(edit, id, Slot { data, len: new.nbytes, epoch: edit.epoch(), desc })?;
    if new.name.is_some() {
        let records = PageNames::of(&edit.root);
        edit.root.names = names::insert(edit, edit.root.names, id * 2, &records)?;
        assert_eq!(named(edit, new.name), Some(id), "a page is found by its name");
    }
    edit.root.next_id = edit.root.next_id.max(id + 1);
    edit.root.pages += 1;
    edit.root.bytes += new.nbytes;
    Ok(true)
}

fn named(edit: &Edit<'_>, name: Option<&str>) -> Option<u64> {
    catalog::find_page(edit.mem(), &edit.root, name?)
}

fn free_name(edit: &Edit<'_>, id: u64, name: &str) -> Result<()> {
    match catalog::find_page(edit.mem(), &edit.root, name) {
        Some(other) if other != id => {
            Err(Error::new(Code::PageExists, format!("the name {name:?} belongs to page {other}")))
        }
        _ => Ok(()),
    }
}

fn drop_name(edit: &mut Edit<'_>, slot: &Slot) -> Result<()> {
    let mem = edit.mem();
    let desc = Desc::at(mem, slot.desc);
    if !desc.name().is_empty() {
        let records = PageNames::of(&edit.root);
        edit.root.names = names::remove(edit, edit.root.names, desc.name().as_bytes(), &records)?;
        assert_eq!(named(edit, Some(desc.name())), None, "a name is one page's");
    }
    Ok(())
}

fn delete(edit: &mut Edit<'_>, id: u64) -> Result<bool> {
    let slot = slot_of(edit, id)?;
    drop_name(edit, &slot)?;
    page::retire(edit, id, &slot);
    count_node(edit, &Desc::at(edit.mem(), slot.desc), &[]);
    catalog::retire_desc(edit, slot.desc);
    table::remove(edit, id)?;
    assert!(edit.root.pages > 0, "the root counts the pages of its table");
    assert!(edit.root.bytes >= slot.len, "the root counts the bytes of its pages");
    edit.root.pages -= 1;
    edit.root.bytes -= slot.len;
    if planted(Defect::IdGivenAgain) && id + 1 == edit.root.next_id {
        edit.root.next_id = id;
    }
    Ok(true)
}

fn set_meta(edit: &mut Edit<'_>, id: u64, meta: &str) -> Result<bool> {
    let slot = slot_of(edit, id)?;
    let desc = Desc::at(edit.mem(), slot.desc);
    if desc.meta() == meta {
        return Ok(false);
    }
    redescribe(edit, id, slot, &Changes { meta: Some(meta), ..Changes::default() })?;
    Ok(true)
}

fn rename(edit: &mut Edit<'_>, id: u64, name: Option<&str>) -> Result<bool> {
    let slot = slot_of(edit, id)?;
    if let Some(name) = name {
        catalog::check_name(name)?;
        free_name(edit, id, name)?;
    }
    if Desc::at(edit.mem(), slot.desc).name() == name.unwrap_or("") {
        return Ok(false);
    }
    drop_name(edit, &slot)?;
    let new = Some(name.unwrap_or(""));
    redescribe(edit, id, slot, &Changes { name: new, ..Changes::default() })?;
    if name.is_some() {
        let records = PageNames::of(&edit.root);
        edit.root.names = names::insert(edit, edit.root.names, id * 2, &records)?;
        assert_eq!(named(edit, name), Some(id), "a page is found by its name");
    }
    Ok(true)
}

/// Says of a page's record what differs from the one that it has.
#[derive(Default)]
struct Changes<'a> {
    name: Option<&'a str>,
    meta: Option<&'a str>,
    shape: Option<&'a [u64]>,
    node: Option<&'a [u8]>,
    marks: Option<Marks>,
}

/// Gives a page another record. `slot` is the page's as it shall be but for the record.
fn redescribe(edit: &mut Edit<'_>, id: u64, slot: Slot, changes: &Changes<'_>) -> Result<()> {
    let desc = Desc::at(edit.mem(), slot.desc);
    let shape: Vec<u64> = desc.shape().collect();
    let new = NewPage {
        name: Some(changes.name.unwrap_or(desc.name())).filter(|name| !name.is_empty()),
        dtype: desc.dtype(),
        itemsize: desc.itemsize(),
        shape: changes.shape.unwrap_or(&shape),
        nbytes: slot.len,
        meta: changes.meta.unwrap_or(desc.meta()),
        location: desc.location(),
    };
    let role = Role {
        node: changes.node.unwrap_or(desc.node()),
        marks: changes.marks.unwrap_or(desc.marks()),
    };
    let at = catalog::put_desc(edit, &new, role)?;
    count_node(edit, &desc, role.node);
    catalog::retire_desc(edit, slot.desc);
    table::set(edit, id, Slot { desc: at, ..slot })
}

/// Keeps the number of pages that have a place in the graph.
fn count_node(edit: &mut Edit<'_>, was: &Desc, node: &[u8]) {
    let had = u64::from(!was.node().is_empty());
    assert!(edit.root.nodes >= had, "the root counts the pages of the graph");
    edit.root.nodes = edit.root.nodes - had + u64::from(!node.is_empty());
}

fn set_node(edit: &mut Edit<'_>, id: u64, node: &[u8]) -> Result<bool> {
    let slot = slot_of(edit, id)?;
    let desc = Desc::at(edit.mem(), slot.desc);
    if desc.node() == node {
        return Ok(false);
    }
    let marks = if node.is_empty() { Marks::default() } else { desc.marks() };
    let (node, marks) = (Some(node), Some(marks));
    redescribe(edit, id, slot, &Changes { node, marks, ..Changes::default() })?;
    Ok(true)
}

fn mark(edit: &mut Edit<'_>, id: u64, marks: Marks) -> Result<bool> {
    let slot = slot_of(edit, id)?;
    if Desc::at(edit.mem(), slot.desc).marks() == marks {
        return Ok(false);
    }
    redescribe(edit, id, slot, &Changes { marks: Some(marks), ..Changes::default() })?;
    Ok(true)
}

fn resize(edit: &mut Edit<'_>, id: u64, shape: &[u64], nbytes: u64) -> Result<bool> {
    let slot = slot_of(edit, id)?;
    let mem = edit.mem();
    let desc = Desc::at(mem, slot.desc);
    if slot.len == nbytes && desc.shape().eq(shape.iter().copied()) {
        return Ok(false);
    }
    catalog::check_size(shape, desc.itemsize(), nbytes)?;
    if nbytes > slot.len && !edit.room_for(nbytes - slot.len) {
        return Err(crate::arena::out_of_space(nbytes - slot.len, edit.limit()));
    }
    let mut new = slot;
    if slot.len != nbytes {
        new = Slot {
            data: page::resize(edit, id, &slot, nbytes)?,
            len: nbytes,
            epoch: edit.epoch(),
            ..slot
        };
    }
    assert!(edit.root.bytes >= slot.len, "the root counts the bytes of its pages");
    edit.root.bytes = edit.root.bytes - slot.len + nbytes;
    redescribe(edit, id, new, &Changes { shape: Some(shape), ..Changes::default() })?;
    Ok(true)
}

fn tag(edit: &mut Edit<'_>, name: &str, epoch: Option<u64>, move_: bool) -> Result<bool> {
    catalog::check_name(name)?;
    let epoch = epoch.unwrap_or(edit.epoch());
    if epoch > edit.epoch() {
        return Err(Error::new(
            Code::EpochNotFound,
            format!("there is no epoch {epoch} to tag yet"),
        ));
    }
    let mem = edit.mem();
    let old = names::find(mem, edit.root.tags, name.as_bytes(), &TagNames);
    if let Some(old) = old {
        let names_epoch = catalog::tag_epoch(mem, old);
        if !move_ {
            return Err(Error::new(
                Code::TagExists,
                format!("the tag {name:?} names epoch {names_epoch}; pass move=True to move it"),
            ));
        }
    }
    if old.is_some_and(|old| catalog::tag_epoch(mem, old) == epoch) {
        return Ok(false);
    }
    let record = catalog::put_tag(edit, name, epoch)?;
    edit.root.tags = names::insert(edit, edit.root.tags, record, &TagNames)?;
    let found = names::find(mem, edit.root.tags, name.as_bytes(), &TagNames);
    assert_eq!(found, Some(record), "a tag is found by its name");
    if let Some(old) = old {
        retire_tag(edit, old);
    }
    Ok(true)
}

fn retire_tag(edit: &mut Edit<'_>, at: u64) {
    let (len, born) = (catalog::tag_len(edit.mem(), at), edit.mem().get(at));
    edit.retire(at, len, born, DeadKind::Node);
}

fn untag(edit: &mut Edit<'_>, name: &str) -> Result<bool> {
    let old = names::find(edit.mem(), edit.root.tags, name.as_bytes(), &TagNames)
        .ok_or_else(|| Error::new(Code::TagNotFound, format!("there is no tag {name:?}")))?;
    edit.root.tags = names::remove(edit, edit.root.tags, name.as_bytes(), &TagNames)?;
    retire_tag(edit, old);
    Ok(true)
}
