//! An epoch that is read page by page: what a reader of a directory opens, and any past epoch of one.
//!
//! Names, shapes and metadata of all pages come from the newest checkpoint before the epoch and the few commits behind it
//! that changed more than bytes. They are described in an engine that has no bytes, and the epochs up to the next such
//! commit share it. A page's bytes come from that checkpoint, block by block, and the page's own commits, into an engine
//! of the one epoch that has the bytes of those pages only that somebody looked at. Indexes say where everything is. Who
//! asks for all pages gets the epoch as a whole, by one pass over checkpoint and log.
//!
//! Invariants: bytes are checked before they are shown: blocks by their hashes, records by their checksums; segments
//! follow each other by their chain; the checkpoint is the one that the log marks. What was shown never changes. A wrong
//! index costs time, as everywhere.

mod catalogue;
mod page;
mod parts;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, OnceLock};

use self::catalogue::Catalogue;
use self::page::Page;
use self::parts::{BySegment, Long, Part, Tail};
use crate::catalog::Desc;
use crate::checkpoint::{self, Place, Reader};
use crate::core::Core;
use crate::delta::NewPage;
use crate::history::{BACKING, Past, Store, usable};
use crate::index::Index;
use crate::log::{self, CheckpointMark, LogOptions, LogRecovery, OpenMode, Position, SegmentName};
use crate::log::{Step, StoreMeta, Walk};
use crate::museum::{Defect, planted};
use crate::snapshot::Snapshot;
use crate::sync::{Mutex, lock};
use crate::table::{self, Slot};
use crate::{Code, Result, trace};

/// All pages of a run of epochs, but for their bytes.
#[derive(Debug)]
struct Described {
    /// Shows them, as the first epoch of the run.
    at: Snapshot,
    checkpoint: Option<Arc<Reader>>,
    /// The pages that the checkpoint has, in id order.
    places: Vec<Place>,
}

impl Described {
    /// The epoch of the checkpoint.
    fn from(&self) -> Option<u64> {
        self.checkpoint.as_ref().map(|reader| reader.head().epoch)
    }
}

/// What is kept from one epoch that was opened to the next.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    described: Mutex<Option<Arc<Described>>>,
    indexes: BySegment<Index>,
    tails: BySegment<Mutex<Tail>>,
    long: Mutex<Option<Arc<Long>>>,
}

impl Kept {
    /// Holds no checkpoint open any more.
    pub(crate) fn let_go_of_checkpoint(&self) {
        *lock(&self.described) = None;
    }

    pub(crate) fn clear(&self) {
        self.let_go_of_checkpoint();
        lock(&self.indexes).clear();
        lock(&self.tails).clear();
        *lock(&self.long) = None;
    }
}

/// Where the bytes of an engine's pages come from.
#[derive(Debug)]
pub(crate) struct Lazy {
    past: Arc<Past>,
    epoch: u64,
    described: Arc<Described>,
    shown: Mutex<Shown>,
    /// Has the bytes that somebody looked at.
    bytes: OnceLock<Arc<Core>>,
    /// The epoch as a whole, once somebody asked for it.
    whole: OnceLock<Snapshot>,
}

#[derive(Debug)]
struct Shown {
    parts: Vec<Part>,
    pages: BTreeMap<u64, Page>,
}

/// A segment is at least so long, or nearly so, if it has commits worth not reading.
const EMPTY: u64 = 16 << 10;

/// An engine that shows an epoch, and the epoch of the checkpoint that it begins with.
pub(crate) type Opened = (Arc<Core>, Option<u64>);

/// Opens an epoch that the store has; none if something is damaged that an older checkpoint may make up for.
pub(crate) fn open(past: &Arc<Past>, epoch: u64) -> Result<Option<Opened>> {
    let checkpoint = newest_checkpoint(past, epoch)?;
    let from = checkpoint.as_ref().map_or(0, |reader| reader.head().epoch);
    let found = parts::open(past, from, epoch).and_then(|mut parts| {
        let marks: Result<Vec<_>> = parts.iter_mut().map(Part::marks).collect();
        Ok((parts, marks?.concat()))
    });
    let (parts, marks) = match found {
        Err(error) if error.code == Code::Corruption => return Ok(None),
        found => found?,
    };
    if let Some(reader) = &checkpoint {
        let is_marked = |mark: &&CheckpointMark| mark.epoch == from;
        let mut of_it = marks.iter().filter(is_marked);
        // Which of the two is wrong shows where all of the checkpoint is read, as the host does.
        if of_it.any(|mark| checkpoint::check(&past.store.dir, reader.head().digest, mark).is_err())
        {
            return Ok(None);
        }
    }
    match show(past, epoch, checkpoint, parts) {
        Err(error) if error.code == Code::Corruption => Ok(None),
        shown => shown.map(Some),
    }
}

/// An engine that knows all pages of an epoch and has the bytes of none.
fn show(
    past: &Arc<Past>,
    epoch: u64,
    checkpoint: Option<Arc<Reader>>,
    mut parts: Vec<Part>,
) -> Result<Opened> {
    let from = checkpoint.as_ref().map(|reader| reader.head().epoch);
    let mut first = from.unwrap_or(0);
    for part in &mut parts {
        first = part.last_structure()?.unwrap_or(first);
    }
    let last = lock(&past.kept.described).clone();
    let is_so = |last: &Arc<Described>| (last.from(), last.at.epoch()) == (from, first);
    let described = match last.filter(is_so) {
        Some(described) => described,
        None => {
            let described = Arc::new(describe(past, first, checkpoint, &mut parts)?);
            *lock(&past.kept.described) = Some(Arc::clone(&described));
            described
        }
    };
    let time = match (parts.last(), &described.checkpoint) {
        (Some(part), _) if from < Some(epoch) => part.time(epoch)?,
        (_, checkpoint) => checkpoint.as_ref().map_or(0, |reader| reader.head().time),
    };
    let core = Core::show(&described.at, epoch, time)?;
    core.set_lazy(Lazy {
        past: Arc::clone(past),
        epoch,
        described,
        shown: Mutex::new(Shown { parts, pages: BTreeMap::new() }),
        bytes: OnceLock::new(),
        whole: OnceLock::new(),
    });
    Ok((core, from))
}

/// Describes the pages of the epoch `first`, behind which the parts have no commit that changed more than bytes.
fn describe(
    past: &Past,
    first: u64,
    checkpoint: Option<Arc<Reader>>,
    parts: &mut [Part],
) -> Result<Described> {
    let mut catalogue = Catalogue::begin(checkpoint.as_deref())?;
    for part in parts {
        part.structure(&mut |commit| catalogue.apply(commit))?;
    }
    let core = Core::new(BACKING, past.max_memory, false)?;
    catalogue.put(&core, first)?;
    let at = Snapshot::newest(&core)?;
    Ok(Described { at, checkpoint, places: catalogue.places() })
}

/// Finds the newest epoch for a reader: where the log ends, or with `durable_only` what of it is durable for certain.
pub(crate) fn newest(
    past: &Past,
    meta: &StoreMeta,
    durable_only: bool,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<LogRecovery> {
    let store = &past.store;
    let names = log::list(&*store.vfs, &store.dir)?;
    let behind = names.last().map_or(0, |last| last.first_epoch - 1);
    if let Some(&last) = names.last().filter(|_| !durable_only) {
        let opened = log::open_sparse(&*store.vfs, &store.dir, last, Some(store.uuid));
        // What is wrong with it is judged below.
        if let Ok(mut walk) = opened
            && let Some((offset, last_epoch)) = end_of(store, last, &mut walk)?
        {
            let end = Position { seq: last.seq, offset };
            let promised = checkpoint::list(&*store.vfs, &store.dir)?.last().copied();
            if meta.durable <= end && promised <= Some(last_epoch) {
                return Ok(LogRecovery { last_epoch, end, ..LogRecovery::default() });
            }
        }
    }
    // Up to the newest sound checkpoint the log is durable. The name of the last segment tells from where on it is read,
    // and promises nothing.
    let checkpoint = newest_checkpoint(past, u64::MAX)?.map_or(0, |reader| reader.head().epoch);
    let (vfs, mode) = (Arc::clone(&store.vfs), OpenMode::Reader { durable_only });
    let from = checkpoint.max(behind);
    let promised = checkpoint::promised(&*store.vfs, &store.dir, store.uuid)?;
    let opts = LogOptions { promised: promised.max(checkpoint), ..LogOptions::default() };
    let (_, mut found) = log::open(vfs, &store.dir, opts, from, mode, &mut |_| Ok(()), progress)?;
    found.last_epoch = found.last_epoch.max(checkpoint);
    Ok(found)
}

/// Where a sealed segment ends, and with which epoch, as its index says; one without commits has none, and is read.
fn end_of(store: &Store, name: SegmentName, walk: &mut Walk) -> Result<Option<(u64, u64)>> {
    if let Some(index) = Index::open(store, name, walk)? {
        return Ok(Some((index.ends.end, index.ends.epoch)));
    }
    if walk.window.size()? > EMPTY {
        return Ok(None);
    }
    loop {
        match walk.step()? {
            Step::Mark { .. } | Step::Other => {}
            Step::Commit(_) | Step::Nothing | Step::Wrong(_) => return Ok(None),
        }
        if walk.sealed {
            return Ok(Some((walk.offset, walk.epoch)));
        }
    }
}

/// The newest checkpoint up to an epoch whose header and index are sound; none only where the log has every epoch.
pub(crate) fn newest_checkpoint(past: &Past, epoch: u64) -> Result<Option<Arc<Reader>>> {
    let store = &past.store;
    let usable = usable(store, epoch)?;
    let last = lock(&past.kept.described).as_ref().and_then(|last| last.checkpoint.clone());
    for &at in &usable.epochs {
        if let Some(last) = last.as_ref().filter(|last| last.head().epoch == at) {
            return Ok(Some(Arc::clone(last)));
        }
        match Reader::open(&*store.vfs, &store.dir, at, store.uuid) {
            Ok(reader) => return Ok(Some(Arc::new(reader))),
            Err(error) if error.code == Code::Corruption => {
                trace::checkpoint_damaged(&checkpoint::path(&store.dir, at), &error.message);
            }
            // Thinned since it was listed.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    usable.not_sound(store).map(|()| None)
}

impl Lazy {
    /// The epoch that `at` shows, as a whole.
    pub(crate) fn whole(&self, at: &Snapshot) -> Result<&Snapshot> {
        if let Some(whole) = self.whole.get() {
            return Ok(whole);
        }
        let whole = match self.past.whole(self.epoch, None) {
            // It was let go since it was opened; the files that have its pages are held open.
            Err(error) if error.code == Code::EpochNotFound => self.gather(at)?,
            made => made?,
        };
        assert_eq!(whole.epoch(), self.epoch, "another epoch is shown as a whole");
        Ok(self.whole.get_or_init(|| whole))
    }

    /// The epoch as a whole, page by page.
    fn gather(&self, at: &Snapshot) -> Result<Snapshot> {
        let whole = Core::new(BACKING, self.past.max_memory, false)?;
        let (mem, root, mut slots) = (at.core().mem(), at.root(), Vec::new());
        table::walk(mem, root.table, root.height, &mut |id, slot| slots.push((id, slot)));
        checkpoint::fill(&whole, root.epoch, root.time, root.next_id, &mut |edit| {
            for &(id, slot) in &slots {
                let (core, slot) = self.show(id, &slot, (0, slot.len))?;
                let (data, first) = match slot.len {
                    0 => (0, 0),
                    len => checkpoint::place(edit, len, slot.epoch)?,
                };
                let to = edit.mem();
                crate::page::parts(core.mem(), &slot, 0, slot.len, &mut |from, bytes| {
                    to.write(first + from, bytes)
                });
                let desc = Desc::at(mem, slot.desc);
                let shape: Vec<u64> = desc.shape().collect();
                let new = NewPage {
                    name: Some(desc.name()).filter(|name| !name.is_empty()),
                    dtype: desc.dtype(),
                    itemsize: desc.itemsize(),
                    shape: &shape,
                    nbytes: slot.len,
                    meta: desc.meta(),
                    location: desc.location(),
                };
                let epochs = (slot.epoch, desc.epoch());
                checkpoint::put_page(edit, id, &new, desc.role(), data, epochs)?;
            }
            at.tags().iter().try_for_each(|(name, of)| checkpoint::put_tag(edit, name, *of))
        })?;
        Snapshot::newest(&whole)
    }

    /// The epoch as a whole, if somebody asked for it before.
    pub(crate) fn known(&self) -> Option<&Snapshot> {
        self.whole.get()
    }

    /// The slot of a page whose bytes `start..stop` are there now, and the engine that has them; `slot` is that of the
    /// description.
    pub(crate) fn show(
        &self,
        id: u64,
        slot: &Slot,
        (start, stop): (u64, u64),
    ) -> Result<(&Arc<Core>, Slot)> {
        assert!(stop <= slot.len || planted(Defect::ReplayFromLaterBase), "bytes behind a page");
        let Described { checkpoint, places, .. } = &*self.described;
        let (reader, mut shown) = (checkpoint.as_deref(), lock(&self.shown));
        let Shown { parts, pages } = &mut *shown;
        let core = match self.bytes.get() {
            Some(core) => core,
            None => {
                let core = Core::new(BACKING, self.past.max_memory, false)?;
                self.bytes.get_or_init(|| core)
            }
        };
        let page = match pages.entry(id) {
            Entry::Occupied(page) => page.into_mut(),
            Entry::Vacant(page) => {
                let place = places.binary_search_by_key(&id, |place| place.id).ok();
                let place = place.map(|at| places[at]);
                let epochs = (self.described.from().unwrap_or(0), self.epoch);
                page.insert(Page::begin(core, id, slot, place, epochs, reader, parts)?)
            }
        };
        page.need(core.mem(), reader, start, stop)?;
        Ok((core, page.slot))
    }
}
