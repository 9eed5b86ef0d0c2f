//! Loading a checkpoint into an empty engine.

use std::path::Path;
use std::sync::Arc;

use super::header::HEADER;
use super::read::{Buf, Entry, Fields, Reader};
use super::{damage, path};
use crate::apply::MAX_ID;
use crate::arena::BLOCK;
use crate::catalog::{self, PageNames, TagNames};
use crate::core::Core;
use crate::delta::NewPage;
use crate::edit::Edit;
use crate::root::Root;
use crate::snapshot::Snapshot;
use crate::sync::lock;
use crate::table::{self, Slot};
use crate::vfs::Vfs;
use crate::{Code, Result, blocks, names, page};

/// Reads a checkpoint into an empty engine. Every byte is checked on the way.
pub(crate) fn load(
    vfs: &dyn Vfs,
    store: &Path,
    epoch: u64,
    uuid: [u8; 16],
    core: &Arc<Core>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    assert_eq!(lock(&core.sequencer).newest, Root::empty(), "what is loaded into is empty");
    let path = path(store, epoch);
    let reader = Reader::open(vfs, &path, epoch, uuid)?;
    let head = &reader.head;
    let base = Root { epoch: epoch.saturating_sub(1), ..Root::empty() };
    let (mut taken, mut dead) = (Vec::new(), Vec::new());
    let mut edit = Edit::begin(&core.arena, &base, &mut taken, &mut dead);
    if let Err(error) = load_pages(&reader, &mut edit, progress) {
        edit.abort();
        return Err(match error.code {
            // A page or a name that no commit can have made.
            Code::Argument => reader.bad_index(&error.message),
            _ => error,
        });
    }
    let root = Root { epoch, time: head.time, next_id: head.next_id, ..edit.root };
    drop(edit);
    check_counts(core, &root, head.tags);
    core.adopt(&root);
    assert_eq!(lock(&core.sequencer).newest, root, "another state was adopted");
    assert_eq!(core.epoch(), epoch, "what was loaded is shown");
    if Snapshot::brief(core).digest() != head.digest {
        let what = "the state is not what the checkpoint's digest says";
        return Err(damage(&path, 136, epoch, what));
    }
    Ok(())
}

/// What a root counts is what its tables hold.
fn check_counts(core: &Core, root: &Root, tags: u64) {
    let mem = core.mem();
    let (mut pages, mut bytes) = (0, 0);
    table::walk(mem, root.table, root.height, &mut |id, slot| {
        assert!(id < root.next_id, "the next id is past those that were given");
        (pages, bytes) = (pages + 1, bytes + slot.len);
    });
    assert_eq!(pages, root.pages, "the root counts the pages of its table");
    assert_eq!(bytes, root.bytes, "the root counts the bytes of its pages");
    let count = |index| {
        let mut count = 0;
        names::walk(mem, index, &mut |_| count += 1);
        count
    };
    assert!(count(root.names) <= pages, "there are more names than pages");
    assert_eq!(count(root.tags), tags, "each tag was loaded once");
}

fn load_pages(
    reader: &Reader<'_>,
    edit: &mut Edit<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let (head, bad) = (&reader.head, || reader.undecodable());
    if head.epoch == 0 && (head.pages > 0 || head.tags > 0) {
        return Err(bad());
    }
    let mut fields = Fields::new(&reader.index);
    let mut buf = [0; BLOCK as usize];
    let (mut id, mut end) = (0, HEADER as u64);
    for _ in 0..head.pages {
        let entry = Entry::read(&mut fields, end..=head.index_at).ok_or_else(bad)?;
        assert!(entry.at >= end, "pages lie in each other");
        if entry.id <= id {
            return Err(bad());
        }
        load_page(reader, edit, &mut fields, &entry, &mut buf)?;
        (id, end) = (entry.id, entry.end);
        progress(end, head.index_at);
    }
    assert_eq!(edit.root.pages, head.pages, "each entry made a page");
    assert!(edit.root.bytes <= end - HEADER as u64, "pages lie in each other");
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
        let record = catalog::put_tag(edit, name, epoch)?;
        edit.root.tags = names::insert(edit, edit.root.tags, record, &TagNames)?;
    }
    if fields.is_empty() { Ok(()) } else { Err(bad()) }
}

fn find_slot(edit: &Edit<'_>, id: u64) -> Option<Slot> {
    table::get(edit.mem(), edit.root.table, edit.root.height, id)
}

fn load_page(
    reader: &Reader<'_>,
    edit: &mut Edit<'_>,
    fields: &mut Fields<'_>,
    entry: &Entry<'_>,
    buf: &mut Buf,
) -> Result<()> {
    let mem = edit.mem();
    let find = |root: &Root, name| catalog::find_page(mem, root, name);
    let is_taken = entry.name.is_some_and(|name| find(&edit.root, name).is_some());
    if is_taken || entry.epoch > reader.head.epoch || entry.desc_epoch > reader.head.epoch {
        return Err(reader.undecodable());
    }
    let new = NewPage {
        name: entry.name,
        dtype: entry.dtype,
        itemsize: entry.itemsize,
        shape: &entry.shape,
        nbytes: entry.nbytes,
        meta: entry.meta,
        location: entry.location,
    };
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
    reader.blocks(entry, fields, buf, &mut |from, bytes| mem.write(bytes_at + from, bytes))?;
    let slot = Slot { data, len: entry.nbytes, epoch: entry.epoch, desc };
    assert_eq!(find_slot(edit, entry.id), None, "a page is loaded once");
    table::set(edit, entry.id, slot)?;
    assert_eq!(find_slot(edit, entry.id), Some(slot), "a page is found by its id");
    if let Some(name) = entry.name {
        let records = PageNames::of(&edit.root);
        edit.root.names = names::insert(edit, edit.root.names, entry.id * 2, &records)?;
        assert_eq!(find(&edit.root, name), Some(entry.id), "a page is found by its name");
    }
    edit.root.pages += 1;
    edit.root.bytes += entry.nbytes;
    Ok(())
}
