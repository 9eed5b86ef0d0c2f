//! Loading a checkpoint into an empty engine.

use std::path::Path;
use std::sync::Arc;

use super::damage;
use super::read::{Buf, Entry, Item, Reader};
use crate::arena::BLOCK;
use crate::catalog::{self, Desc, PageNames, Role, TagNames};
use crate::core::Core;
use crate::delta::NewPage;
use crate::edit::Edit;
use crate::museum::{Defect, planted};
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::sync::lock;
use crate::table::{self, Slot};
use crate::vfs::Vfs;
use crate::{Code, Error, Result, blocks, names, page};

/// Reads a checkpoint into an empty engine. Every byte is checked on the way.
pub(crate) fn load(
    vfs: &dyn Vfs,
    store: &Path,
    epoch: u64,
    uuid: [u8; 16],
    core: &Arc<Core>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let reader = Reader::open(vfs, store, epoch, uuid)?;
    let head = reader.head();
    fill(core, epoch, head.time, head.next_id, &mut |edit| {
        let mut buf = [0; BLOCK as usize];
        let loaded = reader.items(&mut |item| match item {
            Item::Page(entry) => {
                load_page(&reader, edit, &entry, &mut buf)?;
                progress(entry.end, head.index_at);
                Ok(())
            }
            Item::Tag(name, epoch) => put_tag(edit, name, epoch),
        });
        loaded.map_err(|error| reader.explain(error))
    })?;
    if Snapshot::brief(core).digest()? != head.digest {
        let what = "the state is not what the checkpoint's digest says";
        return Err(damage(reader.path(), 136, epoch, what));
    }
    Ok(())
}

/// Fills an empty engine with the state of an epoch, which `put` puts in page by page.
pub(crate) fn fill(
    core: &Arc<Core>,
    epoch: u64,
    time: u64,
    next_id: u64,
    put: &mut dyn FnMut(&mut Edit<'_>) -> Result<()>,
) -> Result<()> {
    assert_eq!(lock(&core.sequencer).newest, Root::empty(), "what is loaded into is empty");
    let base = Root { epoch: epoch.saturating_sub(1), ..Root::empty() };
    let (mut taken, mut dead) = (Vec::new(), Vec::new());
    let mut edit = Edit::begin(&core.arena, &base, &mut taken, &mut dead);
    if let Err(error) = put(&mut edit) {
        edit.abort();
        return Err(error);
    }
    let root = Root { epoch, time, next_id, ..edit.root };
    drop(edit);
    check_counts(core, &root);
    core.adopt(&root);
    assert_eq!(lock(&core.sequencer).newest, root, "another state was adopted");
    assert_eq!(core.epoch(), epoch, "what was loaded is shown");
    Ok(())
}

/// What a root counts is what its tables hold.
fn check_counts(core: &Core, root: &Root) {
    let mem = core.mem();
    let (mut pages, mut bytes, mut nodes) = (0, 0, 0);
    table::walk(mem, root.table, root.height, &mut |id, slot| {
        assert!(id < root.next_id, "the next id is past those that were given");
        (pages, bytes) = (pages + 1, bytes + slot.len);
        nodes += u64::from(!Desc::at(mem, slot.desc).node().is_empty());
    });
    assert_eq!(pages, root.pages, "the root counts the pages of its table");
    assert_eq!(bytes, root.bytes, "the root counts the bytes of its pages");
    assert_eq!(nodes, root.nodes, "the root counts the pages of the graph");
    let mut names = 0;
    names::walk(mem, root.names, &mut |_| names += 1);
    assert!(names <= pages, "there are more names than pages");
}

fn find_slot(edit: &Edit<'_>, id: u64) -> Option<Slot> {
    table::find(edit, id)
}

fn load_page(reader: &Reader, edit: &mut Edit<'_>, entry: &Entry<'_>, buf: &mut Buf) -> Result<()> {
    let mem = edit.mem();
    let (data, bytes_at) = match entry.nbytes {
        0 => (0, 0),
        len => place(edit, len, entry.epoch)?,
    };
    reader.blocks(&entry.place, buf, &mut |from, bytes| mem.write(bytes_at + from, bytes))?;
    let epochs = (entry.epoch, entry.desc_epoch);
    let role = if planted(Defect::GraphForgotten) { Role::default() } else { entry.role };
    put_page(edit, entry.id, &entry.new_page(), role, data, epochs)
}

/// Room for a page of `len` bytes, which the caller fills: what its slot says, and where its first byte is.
pub(crate) fn place(edit: &mut Edit<'_>, len: u64, epoch: u64) -> Result<(u64, u64)> {
    assert!(len > 0, "a page without bytes has no place");
    if page::is_one_block(len) {
        let frame = edit.take(len)?;
        return Ok((frame, frame));
    }
    blocks::create(edit, len, epoch, false)
}

/// Shows a page whose bytes are in place; `epochs` are those of its bytes and of its description.
pub(crate) fn put_page(
    edit: &mut Edit<'_>,
    id: u64,
    new: &NewPage<'_>,
    role: Role<'_>,
    data: u64,
    epochs: (u64, u64),
) -> Result<()> {
    let mem = edit.mem();
    let find = |root: &Root, name| catalog::find_page(mem, root, name);
    if let Some(name) = new.name.filter(|name| find(&edit.root, name).is_some()) {
        return Err(Error::new(Code::Argument, format!("two pages have the name {name:?}")));
    }
    let desc = catalog::put_desc(edit, new, role)?;
    mem.set(desc, epochs.1);
    let slot = Slot { data, len: new.nbytes, epoch: epochs.0, desc };
    assert_eq!(find_slot(edit, id), None, "a page is loaded once");
    table::set(edit, id, slot)?;
    assert_eq!(find_slot(edit, id), Some(slot), "a page is found by its id");
    if let Some(name) = new.name {
        let records = PageNames::of(&edit.root);
        edit.root.names = names::insert(edit, edit.root.names, id * 2, &records)?;
        assert_eq!(find(&edit.root, name), Some(id), "a page is found by its name");
    }
    edit.root.pages += 1;
    edit.root.bytes += new.nbytes;
    edit.root.nodes += u64::from(!role.node.is_empty());
    Ok(())
}

/// Shows a tag; its name was not there.
pub(crate) fn put_tag(edit: &mut Edit<'_>, name: &str, epoch: u64) -> Result<()> {
    let record = catalog::put_tag(edit, name, epoch)?;
    edit.root.tags = names::insert(edit, edit.root.tags, record, &TagNames)?;
    Ok(())
}
