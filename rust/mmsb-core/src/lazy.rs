//! An epoch that is read page by page: what a reader of a directory opens, and any past epoch of one.
//!
//! An engine of its own knows every page of the epoch, but has the bytes of those only that somebody looked at. Names,
//! shapes and metadata come from the newest checkpoint before the epoch and the few commits behind it that changed more
//! than bytes; a page's bytes come from that checkpoint, block by block, and the page's own commits. Indexes say where
//! those are. Who asks for all pages gets the epoch as a whole, by one pass over checkpoint and log.
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
use self::parts::Part;
pub(crate) use self::parts::Tails;
use crate::catalog::Desc;
use crate::checkpoint::{self, Place, Reader};
use crate::core::Core;
use crate::delta::NewPage;
use crate::history::{BACKING, Past, Store, usable};
use crate::index::Index;
use crate::log::{self, LogCursor, LogOptions, LogRecovery, OpenMode, Position, SegmentName};
use crate::log::{Step, StoreMeta, Walk};
use crate::museum::{Defect, planted};
use crate::snapshot::Snapshot;
use crate::sync::{Mutex, lock};
use crate::table::{self, Slot};
use crate::{Code, Result, trace};

/// Where the bytes of an engine's pages come from.
#[derive(Debug)]
pub(crate) struct Lazy {
    past: Arc<Past>,
    epoch: u64,
    checkpoint: Option<Reader>,
    /// The pages that the checkpoint has, in id order.
    places: Vec<Place>,
    shown: Mutex<Shown>,
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
    let from = checkpoint.as_ref().map_or(0, |reader| reader.head.epoch);
    let found = parts::open(past, from, epoch).and_then(|mut parts| {
        let marks: Result<Vec<_>> = parts.iter_mut().map(Part::marks).collect();
        Ok((parts, marks?.concat()))
    });
    let (parts, marks) = match found {
        Err(error) if error.code == Code::Corruption => return Ok(None),
        found => found?,
    };
    if let Some(reader) = &checkpoint {
        for mark in marks.iter().filter(|mark| mark.epoch == from) {
            checkpoint::check(&past.store.dir, reader.head.digest, mark)?;
        }
    }
    match describe(past, epoch, checkpoint, parts) {
        Err(error) if error.code == Code::Corruption => Ok(None),
        described => described.map(Some),
    }
}

/// An engine that knows all pages of an epoch and has the bytes of none.
fn describe(
    past: &Arc<Past>,
    epoch: u64,
    checkpoint: Option<Reader>,
    mut parts: Vec<Part>,
) -> Result<Opened> {
    let from = checkpoint.as_ref().map(|reader| reader.head.epoch);
    let mut catalogue = Catalogue::begin(checkpoint.as_ref())?;
    for part in &mut parts {
        part.structure(&mut |commit| catalogue.apply(commit))?;
    }
    let time = match (&checkpoint, from == Some(epoch)) {
        (Some(reader), true) => reader.head.time,
        _ => time_of(past, epoch)?,
    };
    let core = Core::new(BACKING, past.max_memory, false)?;
    catalogue.put(&core, epoch, time)?;
    core.set_lazy(Lazy {
        past: Arc::clone(past),
        epoch,
        places: catalogue.places(),
        checkpoint,
        shown: Mutex::new(Shown { parts, pages: BTreeMap::new() }),
        whole: OnceLock::new(),
    });
    Ok((core, from))
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
    // Up to the newest sound checkpoint the log is durable.
    let checkpoint = newest_checkpoint(past, u64::MAX)?.map_or(0, |reader| reader.head.epoch);
    let (vfs, mode) = (Arc::clone(&store.vfs), OpenMode::Reader { durable_only });
    let from = checkpoint.max(behind);
    let promised = checkpoint::promised(&*store.vfs, &store.dir, store.uuid)?;
    let opts = LogOptions { promised, ..LogOptions::default() };
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
pub(crate) fn newest_checkpoint(past: &Past, epoch: u64) -> Result<Option<Reader>> {
    let store = &past.store;
    let usable = usable(store, epoch)?;
    for &at in &usable.epochs {
        match Reader::open(&*store.vfs, &store.dir, at, store.uuid) {
            Ok(reader) => return Ok(Some(reader)),
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

/// When an epoch was committed.
fn time_of(past: &Past, epoch: u64) -> Result<u64> {
    if epoch == 0 {
        return Ok(0);
    }
    let store = &past.store;
    let cursor = LogCursor::new(Arc::clone(&store.vfs), &store.dir, epoch, epoch, false)?;
    let start = past.indexes.start(epoch)?;
    let time = cursor.beginning_at(start).next_commit()?.map(|commit| commit.time);
    Ok(time.unwrap_or(0))
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
                let slot = self.show(at.core(), id, &slot, (0, slot.len))?;
                let (data, first) = match slot.len {
                    0 => (0, 0),
                    len => checkpoint::place(edit, len, slot.epoch)?,
                };
                let to = edit.mem();
                crate::page::parts(mem, &slot, 0, slot.len, &mut |from, bytes| {
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
                checkpoint::put_page(edit, id, &new, data, (slot.epoch, desc.epoch()))?;
            }
            at.tags().iter().try_for_each(|(name, of)| checkpoint::put_tag(edit, name, *of))
        })?;
        Snapshot::newest(&whole)
    }

    /// The epoch as a whole, if somebody asked for it before.
    pub(crate) fn known(&self) -> Option<&Snapshot> {
        self.whole.get()
    }

    /// The slot of a page whose bytes `start..stop` are there now; `slot` is that of the engine's table.
    pub(crate) fn show(
        &self,
        core: &Core,
        id: u64,
        slot: &Slot,
        (start, stop): (u64, u64),
    ) -> Result<Slot> {
        assert!(stop <= slot.len || planted(Defect::ReplayFromLaterBase), "bytes behind a page");
        let mut shown = lock(&self.shown);
        let Shown { parts, pages } = &mut *shown;
        let page = match pages.entry(id) {
            Entry::Occupied(page) => page.into_mut(),
            Entry::Vacant(page) => {
                let place = self.places.binary_search_by_key(&id, |place| place.id).ok();
                let place = place.map(|at| self.places[at]);
                let from = self.checkpoint.as_ref().map_or(0, |reader| reader.head.epoch);
                let epochs = (from, self.epoch);
                let reader = self.checkpoint.as_ref();
                page.insert(Page::begin(core, id, slot, place, epochs, reader, parts)?)
            }
        };
        page.need(core.mem(), self.checkpoint.as_ref(), start, stop)?;
        Ok(page.slot)
    }
}
