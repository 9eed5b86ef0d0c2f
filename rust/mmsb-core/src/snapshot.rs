//! Snapshots: all pages at one epoch, pinned.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::arena::{BLOCK, Slots};
use crate::catalog::{self, Desc, PageInfo};
use crate::core::Core;
use crate::diff::diff_ranges_at;
use crate::graph::Plan;
use crate::root::Root;
use crate::sync::lock;
use crate::table::{self, Slot};
use crate::view::View;
use crate::window::Window;
use crate::{Code, Result, apply, page};

/// A pinned epoch; the pin goes with the value.
#[derive(Debug)]
pub(crate) struct Pin<'a> {
    slots: &'a Slots,
    slot: usize,
    pub(crate) root: Root,
}

impl<'a> Pin<'a> {
    /// Pins the newest epoch for the length of a call.
    #[inline]
    pub(crate) fn brief(core: &'a Core) -> Pin<'a> {
        Pin::at_head(&core.pins, core.pins.claim_brief(), core.head())
    }

    /// Pins the newest epoch for a snapshot.
    #[inline]
    pub(crate) fn lasting(slots: &'a Slots, head: &crate::root::Head) -> Result<Pin<'a>> {
        Ok(Pin::at_head(slots, slots.claim()?, head))
    }

    #[inline]
    fn at_head(slots: &'a Slots, slot: usize, head: &crate::root::Head) -> Pin<'a> {
        loop {
            let epoch = slots.pin(slot, head.epoch());
            // The ring may have turned since; then a newer epoch is there to be pinned.
            if let Some(root) = head.root(epoch) {
                return Pin { slots, slot, root };
            }
        }
    }

    /// Keeps the pin; the caller releases the slot.
    fn into_slot(self) -> (usize, Root) {
        let held = (self.slot, self.root);
        std::mem::forget(self);
        held
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        self.slots.release(self.slot);
    }
}

struct Pinned {
    core: Arc<Core>,
    slot: usize,
    root: Root,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Slots are private memory: in a forked child this changes only the child's copy.
        self.core.pins.release(self.slot);
    }
}

/// A read-only view of all pages at one epoch. Clones share one pin; it outlives `close`.
#[derive(Clone)]
pub struct Snapshot(Arc<Pinned>);

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Pins the newest epoch.
    pub(crate) fn newest(core: &Arc<Core>) -> Result<Snapshot> {
        Ok(Snapshot::keep(core, Pin::lasting(&core.pins, core.head())?))
    }

    /// Pins the newest epoch for the length of a call.
    pub(crate) fn brief(core: &Arc<Core>) -> Snapshot {
        Snapshot::keep(core, Pin::brief(core))
    }

    /// An epoch of the window.
    pub(crate) fn retained(core: &Arc<Core>, epoch: u64) -> Result<Option<Snapshot>> {
        Snapshot::in_window(core, |window| window.get(epoch))
    }

    /// The first epoch of the window.
    pub(crate) fn oldest_retained(core: &Arc<Core>) -> Result<Option<Snapshot>> {
        Snapshot::in_window(core, Window::oldest)
    }

    /// Pins under the lock: until it is given up the window's floor does not go past that epoch.
    fn in_window(
        core: &Arc<Core>,
        find: impl FnOnce(&Window) -> Option<&Root>,
    ) -> Result<Option<Snapshot>> {
        let window = lock(&core.window);
        let Some(&root) = window.as_ref().and_then(find) else { return Ok(None) };
        let slot = core.pins.claim()?;
        core.pins.pin_at(slot, root.epoch);
        Ok(Some(Snapshot(Arc::new(Pinned { core: Arc::clone(core), slot, root }))))
    }

    fn keep(core: &Arc<Core>, pin: Pin<'_>) -> Snapshot {
        let (slot, root) = pin.into_slot();
        Snapshot(Arc::new(Pinned { core: Arc::clone(core), slot, root }))
    }

    /// The newest sequenced state, which may not be published yet. Only under the sequencer's lock: nothing it
    /// shows can be freed before that lock is given up, and the pin is on an older epoch.
    pub(crate) fn sequenced(core: &Arc<Core>, root: &Root) -> Snapshot {
        let slot = core.pins.claim_brief();
        core.pins.pin_at(slot, root.epoch);
        Snapshot(Arc::new(Pinned { core: Arc::clone(core), slot, root: *root }))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    pub(crate) fn root(&self) -> &Root {
        &self.0.root
    }

    #[inline]
    pub(crate) fn slot(&self, page: u64) -> Option<Slot> {
        table::get(self.0.core.mem(), self.0.root.table, self.0.root.height, page)
    }

    pub(crate) fn slot_or_err(&self, page: u64) -> Result<Slot> {
        self.slot(page).ok_or_else(|| apply::no_page(page))
    }

    /// The epoch that it shows.
    pub fn epoch(&self) -> u64 {
        self.0.root.epoch
    }

    /// When that epoch was committed: nanoseconds since 1970 UTC, 0 for the empty epoch.
    pub fn time(&self) -> u64 {
        self.0.root.time
    }

    /// The id that the next new page would get.
    pub fn next_id(&self) -> u64 {
        self.0.root.next_id
    }

    /// Number of pages.
    pub fn page_count(&self) -> u64 {
        self.0.root.pages
    }

    /// The page of this name.
    pub fn find(&self, name: &str) -> Option<u64> {
        catalog::find_page(self.0.core.mem(), &self.0.root, name)
    }

    /// The same epoch with the bytes of all pages.
    pub(crate) fn whole(&self) -> Result<Snapshot> {
        match self.0.core.lazy() {
            Some(lazy) => Ok(lazy.whole(self)?.clone()),
            None => Ok(self.clone()),
        }
    }

    /// Whether looking at a page may read files.
    #[inline]
    pub fn reads_files(&self) -> bool {
        self.0.core.lazy().is_some()
    }

    /// Where the bytes `start..stop` of a page are; the engine that has them, and the slot there.
    fn shown(&self, page: u64, start: u64, stop: u64) -> Result<(&Arc<Core>, Slot)> {
        let slot = self.slot_or_err(page)?;
        // Whoever is shown the bytes refuses what is not inside.
        let Some(lazy) = self.0.core.lazy().filter(|_| start <= stop && stop <= slot.len) else {
            return Ok((&self.0.core, slot));
        };
        let whole = match lazy.known() {
            Some(whole) => whole,
            None => match lazy.show(page, &slot, (start, stop)) {
                Ok(shown) => return Ok(shown),
                // What is damaged may not be needed: an older checkpoint and the log behind it say the same.
                Err(error) if error.code == Code::Corruption => lazy.whole(self)?,
                Err(error) => return Err(error),
            },
        };
        Ok((&whole.0.core, whole.slot_or_err(page)?))
    }

    /// The description of a page.
    pub fn info(&self, page: u64) -> Result<Option<PageInfo>> {
        let Some(slot) = self.slot(page) else { return Ok(None) };
        let Slot { epoch, .. } = self.shown(page, 0, 0)?.1;
        Ok(Some(catalog::info(self.0.core.mem(), page, Slot { epoch, ..slot })))
    }

    /// The description of a page of the newest state, or of an epoch that is there as a whole.
    pub(crate) fn described(&self, page: u64) -> Option<PageInfo> {
        assert!(self.0.core.lazy().is_none(), "a page is described by halves");
        self.slot(page).map(|slot| catalog::info(self.0.core.mem(), page, slot))
    }

    /// The descriptions of all pages, in id order.
    pub fn infos(&self) -> Result<Vec<PageInfo>> {
        let whole = self.whole()?;
        let (mem, root) = (whole.0.core.mem(), &whole.0.root);
        let mut all = Vec::new();
        table::walk(mem, root.table, root.height, &mut |id, slot| {
            all.push(catalog::info(mem, id, slot));
        });
        Ok(all)
    }

    /// The ids and names of all pages, in id order.
    pub fn names(&self) -> Vec<(u64, Option<String>)> {
        let (mem, root) = (self.0.core.mem(), &self.0.root);
        let mut all = Vec::new();
        table::walk(mem, root.table, root.height, &mut |id, slot| {
            let name = Desc::at(mem, slot.desc).name().to_owned();
            all.push((id, Some(name).filter(|name| !name.is_empty())));
        });
        all
    }

    /// The pages of the graph in the order in which a commit computes them, with the length of the longest way to each.
    pub fn order(&self) -> Result<Vec<(u64, u32)>> {
        let graph = crate::propagate::load(self.0.core.mem(), &self.0.root)?;
        let plan = Plan::compile(&graph);
        Ok((0..plan.len()).map(|position| (plan.page(position), plan.level(position))).collect())
    }

    /// All tags and the epochs that they name, by name.
    pub fn tags(&self) -> Vec<(String, u64)> {
        catalog::tags(self.0.core.mem(), &self.0.root)
    }

    /// The epochs that have a tag.
    pub(crate) fn tagged(&self) -> BTreeSet<u64> {
        self.tags().into_iter().map(|(_, epoch)| epoch).collect()
    }

    /// The bytes of a page.
    pub fn view(&self, page: u64) -> Result<View> {
        let stop = self.slot_or_err(page)?.len;
        self.view_range(page, 0, stop)
    }

    /// Some bytes of a page.
    pub fn view_range(&self, page: u64, start: u64, stop: u64) -> Result<View> {
        self.0.core.check_foreign()?;
        let (core, slot) = self.shown(page, start, stop)?;
        View::pinned(core, page, &slot, start, stop)
    }

    /// Copies bytes of a page from `offset` on into `out`.
    pub fn read(&self, page: u64, offset: u64, out: &mut [u8]) -> Result<()> {
        self.0.core.check_foreign()?;
        let slot = self.slot_or_err(page)?;
        if offset > slot.len || out.len() as u64 > slot.len - offset {
            return Err(apply::past_end(page, offset, out.len() as u64, slot.len));
        }
        let (core, slot) = self.shown(page, offset, offset + out.len() as u64)?;
        page::read(core.mem(), &slot, offset, out);
        Ok(())
    }

    /// The state hash of this epoch.
    pub fn digest(&self) -> Result<u128> {
        let whole = self.whole()?;
        Ok(crate::digest::state(&whole.0.core, &whole.0.root))
    }

    fn same_arena(&self, other: &Snapshot) -> bool {
        Arc::ptr_eq(&self.0.core.arena, &other.0.core.arena)
    }

    /// Ids of the pages that differ in bytes, shape, name or metadata, or are on one side only; in id order.
    pub fn changed_pages(&self, other: &Snapshot) -> Result<Vec<u64>> {
        let (one, other) = (self.whole()?, other.whole()?);
        let (a, b) = (one.root(), other.root());
        let mut ids = Vec::new();
        if one.same_arena(&other) {
            let mem = one.0.core.mem();
            table::walk_changed(mem, (a.table, a.height), (b.table, b.height), &mut |id, _, _| {
                ids.push(id)
            });
        } else {
            for snapshot in [&one, &other] {
                let mem = snapshot.0.core.mem();
                let root = snapshot.root();
                table::walk(mem, root.table, root.height, &mut |id, _| ids.push(id));
            }
            ids.sort_unstable();
            ids.dedup();
        }
        ids.retain(|&id| one.differs(&other, id));
        Ok(ids)
    }

    fn differs(&self, other: &Snapshot, id: u64) -> bool {
        let (Some(a), Some(b)) = (self.slot(id), other.slot(id)) else { return true };
        let (da, db) = (Desc::at(self.0.core.mem(), a.desc), Desc::at(other.0.core.mem(), b.desc));
        let same = a.len == b.len
            && da.says_what(&db)
            && da.has_role(&db)
            && self.same_bytes(other, &a, &b);
        !same
    }

    fn same_bytes(&self, other: &Snapshot, a: &Slot, b: &Slot) -> bool {
        if self.same_arena(other) {
            return page::same_range(self.0.core.mem(), a, b, 0, a.len);
        }
        let mut same = true;
        page::parts(self.0.core.mem(), a, 0, a.len, &mut |at, bytes| {
            same = same && page::equals(other.0.core.mem(), b, at, bytes);
        });
        same
    }

    /// Byte ranges that differ between two versions of a page, within their common length, rounded out to whole
    /// elements.
    pub fn diff(&self, other: &Snapshot, page: u64) -> Result<Vec<(u64, u64)>> {
        let len = self.slot_or_err(page)?.len.min(other.slot_or_err(page)?.len);
        let ((one, a), (two, b)) = (self.shown(page, 0, len)?, other.shown(page, 0, len)?);
        let (left, right) = (one.mem(), two.mem());
        let is_one = Arc::ptr_eq(&one.arena, &two.arena);
        let itemsize = Desc::at(left, a.desc).itemsize().max(1) as usize;
        let (mut block, mut ranges) = (vec![0; BLOCK as usize], Vec::new());
        page::parts(left, &a, 0, len, &mut |at, bytes| {
            let stop = at + bytes.len() as u64;
            if is_one && page::same_range(left, &a, &b, at, stop) {
                return;
            }
            let other = &mut block[..bytes.len()];
            page::read(right, &b, at, other);
            diff_ranges_at(bytes, other, at, len, itemsize, &mut ranges);
        });
        Ok(ranges)
    }
}
