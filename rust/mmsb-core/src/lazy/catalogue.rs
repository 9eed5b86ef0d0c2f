//! Names, shapes, metadata and tags of an epoch, without a byte of its pages.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::apply::{MAX_ID, no_page};
use crate::catalog::{self, Role};
use crate::checkpoint::{self, Item, Place, Reader};
use crate::core::Core;
use crate::delta::{NewPage, Op, Ops};
use crate::graph::Marks;
use crate::history::at_record;
use crate::log::Commit;
use crate::{Code, Error, Result};

/// A page but for its bytes.
struct Described {
    name: Option<String>,
    dtype: String,
    itemsize: u32,
    shape: Vec<u64>,
    nbytes: u64,
    meta: String,
    location: u8,
    node: Vec<u8>,
    marks: Marks,
    /// The epoch that described it so.
    epoch: u64,
}

impl Described {
    fn of(new: &NewPage<'_>, role: Role<'_>, epoch: u64) -> Described {
        Described {
            name: new.name.map(str::to_owned),
            dtype: new.dtype.to_owned(),
            itemsize: new.itemsize,
            shape: new.shape.to_vec(),
            nbytes: new.nbytes,
            meta: new.meta.to_owned(),
            location: new.location,
            node: role.node.to_vec(),
            marks: role.marks,
            epoch,
        }
    }

    fn new_page(&self) -> NewPage<'_> {
        NewPage {
            name: self.name.as_deref(),
            dtype: &self.dtype,
            itemsize: self.itemsize,
            shape: &self.shape,
            nbytes: self.nbytes,
            meta: &self.meta,
            location: self.location,
        }
    }
}

/// What is known of all pages at one epoch.
pub(super) struct Catalogue {
    pages: BTreeMap<u64, Described>,
    tags: BTreeMap<String, u64>,
    next_id: u64,
    /// The epoch of the checkpoint.
    from: u64,
    /// Where the checkpoint has its pages, in id order; those deleted since too.
    places: Vec<Place>,
}

impl Catalogue {
    /// As the checkpoint has it; empty without one.
    pub(super) fn begin(checkpoint: Option<&Reader>) -> Result<Catalogue> {
        let from = checkpoint.map_or(0, |reader| reader.head().epoch);
        let next_id = checkpoint.map_or(1, |reader| reader.head().next_id);
        let (mut pages, mut tags, mut places) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        if let Some(reader) = checkpoint {
            let read = reader.items(&mut |item| {
                match item {
                    Item::Page(entry) => {
                        let new = entry.new_page();
                        let page = Described::of(&new, entry.role, entry.desc_epoch);
                        places.push(entry.place);
                        pages.insert(entry.id, page);
                    }
                    Item::Tag(name, epoch) => {
                        tags.insert(name.to_owned(), epoch);
                    }
                }
                Ok(())
            });
            read.map_err(|error| reader.explain(error))?;
        }
        Ok(Catalogue { pages, tags, next_id, from, places })
    }

    /// Applies what a commit behind the checkpoint did besides writing bytes.
    pub(super) fn apply(&mut self, commit: &Commit<'_>) -> Result<()> {
        if commit.epoch <= self.from {
            return Ok(());
        }
        for op in Ops::new(commit.ops) {
            let op = op.map_err(crate::apply::malformed);
            op.and_then(|op| self.change(op, commit.epoch)).map_err(|e| at_record(e, commit))?;
        }
        Ok(())
    }

    fn page(&mut self, id: u64) -> Result<&mut Described> {
        self.pages.get_mut(&id).ok_or_else(|| no_page(id))
    }

    fn change(&mut self, op: Op<'_>, epoch: u64) -> Result<()> {
        match op {
            Op::Write { .. } => {}
            Op::Create { id, name, dtype, itemsize, shape, nbytes, meta, location } => {
                let new = NewPage { name, dtype, itemsize, shape: &shape, nbytes, meta, location };
                match self.pages.entry(id) {
                    Entry::Vacant(page) if id > 0 && id < MAX_ID => {
                        page.insert(Described::of(&new, Role::default(), epoch));
                    }
                    _ => return Err(wrong(format!("there can be no new page with id {id}"))),
                }
                self.next_id = self.next_id.max(id + 1);
            }
            Op::Delete { id } => {
                self.pages.remove(&id).ok_or_else(|| no_page(id))?;
            }
            Op::Rename { id, name } => {
                let page = self.page(id)?;
                if page.name.as_deref() != name {
                    (page.name, page.epoch) = (name.map(str::to_owned), epoch);
                }
            }
            Op::SetMeta { id, meta } => {
                let page = self.page(id)?;
                if page.meta != meta {
                    (page.meta, page.epoch) = (meta.to_owned(), epoch);
                }
            }
            Op::Resize { id, shape, nbytes } => {
                let page = self.page(id)?;
                if page.nbytes != nbytes || page.shape != shape {
                    catalog::check_size(&shape, page.itemsize, nbytes)?;
                    (page.shape, page.nbytes, page.epoch) = (shape, nbytes, epoch);
                }
            }
            Op::Node { id, node } => {
                let page = self.page(id)?;
                if page.node != node {
                    (page.node, page.epoch) = (node.to_vec(), epoch);
                }
                if node.is_empty() {
                    page.marks = Marks::default();
                }
            }
            Op::Mark { id, marks } => {
                let page = self.page(id)?;
                if page.marks != marks {
                    (page.marks, page.epoch) = (marks, epoch);
                }
            }
            Op::Tag { name, epoch: of, .. } => {
                catalog::check_name(name)?;
                let of = of.unwrap_or(epoch);
                if of > epoch {
                    return Err(wrong(format!("there is no epoch {of} to tag yet")));
                }
                self.tags.insert(name.to_owned(), of);
            }
            Op::Untag { name } => {
                let gone = self.tags.remove(name);
                gone.ok_or_else(|| wrong(format!("there is no tag {name:?}")))?;
            }
        }
        Ok(())
    }

    /// Where the checkpoint has its pages, in id order.
    pub(super) fn places(self) -> Vec<Place> {
        self.places
    }

    /// Shows all pages in an empty engine; those with bytes have none of them yet.
    pub(super) fn put(&self, core: &Arc<Core>, epoch: u64) -> Result<()> {
        let filled = checkpoint::fill(core, epoch, 0, self.next_id, &mut |edit| {
            for (&id, page) in &self.pages {
                let role = Role { node: &page.node, marks: page.marks };
                checkpoint::put_page(edit, id, &page.new_page(), role, 0, (0, page.epoch))?;
            }
            self.tags.iter().try_for_each(|(name, &of)| checkpoint::put_tag(edit, name, of))
        });
        filled.map_err(|error| match error.code {
            // A page or a name that no commit can have made.
            Code::Argument => wrong(format!("epoch {epoch}: {}", error.message)),
            _ => error,
        })
    }
}

fn wrong(what: String) -> Error {
    Error::new(Code::Corruption, what)
}
