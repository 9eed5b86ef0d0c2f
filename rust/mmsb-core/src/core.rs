//! The engine of one bus: memory, head, pins, and the sequencer that orders commits.
//!
//! Views and snapshots hold it by `Arc`, so bytes live as long as anybody shows them, also after `close`.

#[cfg(test)]
mod alloc_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, TryLockError};

use crate::arena::{Arena, Backing, Mem, Slots};
use crate::edit::Dead;
use crate::group::Group;
use crate::lazy::Lazy;
use crate::log::Log;
use crate::propagate::{Binding, Function, Functions, check_reentrancy_of};
use crate::reclaim::Reclaim;
use crate::root::{HEAD_BYTES, Head, Root};
use crate::sequence::Sequencer;
use crate::snapshot::Snapshot;
use crate::sync::{AtomicU64, Mutex, lock};
use crate::view::LargeViews;
use crate::window::Window;
use crate::{Result, catalog, fork, names, page, propagate, table};

/// The engine of one bus.
pub(crate) struct Core {
    pub(crate) arena: Arc<Arena>,
    head: Head,
    head_at: u64,
    /// Pins of this process. Nobody else can write them.
    pub(crate) pins: Slots,
    /// Pins of other processes, in memory that they map; a bus without readers has none.
    shared_pins: Option<Slots>,
    pub(crate) sequencer: Mutex<Sequencer>,
    pub(crate) group: Group,
    pub(crate) durable: AtomicU64,
    /// Bytes of the log, as of the last append.
    pub(crate) log_bytes: AtomicU64,
    /// Number of the segment that it went into.
    pub(crate) segment: AtomicU64,
    pub(crate) views: LargeViews,
    /// The epochs that stay in memory, if somebody asked for that; taken after the sequencer.
    pub(crate) window: Mutex<Option<Window>>,
    /// Hashes by node, with the epoch that made it; private to the host.
    pub(crate) digests: Mutex<HashMap<u64, (u64, u128)>>,
    /// What computes derived pages. Its lock is never held while a function runs.
    functions: Mutex<Functions>,
    ground: Ground,
    /// Where the bytes of pages come from that nobody has looked at yet, if this is one epoch of a store.
    lazy: OnceLock<Box<Lazy>>,
    generation: u64,
}

/// Whose arena an engine is in.
enum Ground {
    /// Its own.
    Own,
    /// That of what it is a fork of: it shares the frames made up to this epoch.
    Parent(Snapshot),
    /// That of what describes its pages.
    Described(Snapshot),
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

impl Core {
    /// An engine in an arena of its own. `shared` makes slots that other processes can map.
    pub(crate) fn new(backing: Backing, max_memory: u64, shared: bool) -> Result<Arc<Core>> {
        let arena = Arc::new(Arena::new(backing, max_memory)?);
        let shared_pins = if shared { Some(Slots::new(backing)?) } else { None };
        Core::build(arena, Root::empty(), shared_pins, Ground::Own)
    }

    /// An engine that begins with what a snapshot shows and shares its frames.
    pub(crate) fn fork(parent: &Snapshot) -> Result<Arc<Core>> {
        assert!(parent.core().lazy().is_none(), "a fork stands on all bytes");
        let arena = Arc::clone(&parent.core().arena);
        Core::build(arena, *parent.root(), None, Ground::Parent(parent.clone()))
    }

    /// An engine that shows the pages of a snapshot as those of a later epoch.
    pub(crate) fn show(described: &Snapshot, epoch: u64, time: u64) -> Result<Arc<Core>> {
        assert!(described.epoch() <= epoch, "pages are shown before they were made");
        let root = Root { epoch, time, ..*described.root() };
        let arena = Arc::clone(&described.core().arena);
        Core::build(arena, root, None, Ground::Described(described.clone()))
    }

    fn build(
        arena: Arc<Arena>,
        root: Root,
        shared_pins: Option<Slots>,
        ground: Ground,
    ) -> Result<Arc<Core>> {
        // First, so that a failure leaves no piece of the parent's arena taken.
        let pins = Slots::new(Backing::Heap)?;
        let head_at = arena.alloc().take(HEAD_BYTES)?.offset;
        let core = Arc::new(Core {
            head: Head::create(arena.mem, head_at, &root),
            head_at,
            pins,
            shared_pins,
            sequencer: Mutex::new(Sequencer::new(root)),
            group: Group::default(),
            durable: AtomicU64::new(0),
            log_bytes: AtomicU64::new(0),
            segment: AtomicU64::new(0),
            views: LargeViews::default(),
            window: Mutex::new(None),
            digests: Mutex::new(HashMap::new()),
            functions: Mutex::default(),
            ground,
            lazy: OnceLock::new(),
            generation: fork::generation(),
            arena,
        });
        fork::register(&core);
        Ok(core)
    }

    #[inline]
    pub(crate) fn mem(&self) -> Mem {
        self.arena.mem
    }

    /// The newest published epoch.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.head.epoch().load(Ordering::Acquire)
    }

    pub(crate) fn head(&self) -> &Head {
        &self.head
    }

    /// What this engine is a fork of.
    pub(crate) fn parent(&self) -> Option<&Snapshot> {
        match &self.ground {
            Ground::Parent(parent) => Some(parent),
            Ground::Own | Ground::Described(_) => None,
        }
    }

    /// Shows the pages of one epoch of a store as they are looked at.
    pub(crate) fn set_lazy(&self, lazy: Lazy) {
        let is_first = self.lazy.set(Box::new(lazy)).is_ok();
        assert!(is_first, "an engine shows one epoch of one store");
    }

    /// What computes derived pages.
    pub(crate) fn functions(&self) -> Functions {
        Arc::clone(&lock(&self.functions))
    }

    /// From now on these functions compute these pages, as long as they have the inputs that they have in `root`.
    #[inline]
    pub(crate) fn bind(&self, root: &Root, functions: &mut Vec<(u64, Arc<dyn Function>)>) {
        if !functions.is_empty() {
            self.bind_all(root, functions);
        }
    }

    fn bind_all(&self, root: &Root, functions: &mut Vec<(u64, Arc<dyn Function>)>) {
        for (page, function) in functions.drain(..) {
            if let Some(inputs) = propagate::inputs_of(self.mem(), root, page) {
                self.put_binding(page, Binding { function, inputs });
            }
        }
    }

    pub(crate) fn put_binding(&self, page: u64, binding: Binding) {
        // What it takes the place of may run anything when it goes, so it goes without the lock.
        let _old = Arc::make_mut(&mut lock(&self.functions)).insert(page, binding);
    }

    /// Lets go of all functions.
    pub(crate) fn unbind(&self) {
        let _old = std::mem::take(&mut *lock(&self.functions));
    }

    /// What tells this engine from the others of the process.
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Where the bytes of pages come from that nobody has looked at yet.
    #[inline]
    pub(crate) fn lazy(&self) -> Option<&Lazy> {
        self.lazy.get().map(|lazy| &**lazy)
    }

    /// Pieces made up to this epoch belong to the parent.
    #[inline]
    pub(crate) fn base_epoch(&self) -> u64 {
        self.parent().map_or(0, Snapshot::epoch)
    }

    /// Whether this is an inherited copy in a forked child.
    #[inline]
    pub(crate) fn is_foreign(&self) -> bool {
        self.generation != fork::generation()
    }

    /// Every handle's first question.
    #[inline]
    pub(crate) fn check_foreign(&self) -> Result<()> {
        fork::check(self.generation)
    }

    pub(crate) fn collect_pins(&self, out: &mut Vec<u64>) {
        self.pins.collect(out);
        if let Some(shared) = &self.shared_pins {
            shared.collect(out);
        }
    }

    /// The slots that other processes pin with.
    pub(crate) fn shared_pins(&self) -> Option<&Slots> {
        self.shared_pins.as_ref()
    }

    /// Makes a sequenced state visible and takes what it replaced.
    #[inline]
    pub(crate) fn publish(&self, root: &Root, dead: &mut Vec<Dead>, reclaim: &mut Reclaim) {
        assert_eq!(root.epoch, self.epoch() + 1, "epochs are published in order");
        if reclaim.retains
            && let Some(window) = &mut *lock(&self.window)
        {
            window.push(root);
        }
        self.head.publish(root);
        reclaim.retire(dead);
    }

    /// Pieces that died after this epoch are held by the window.
    pub(crate) fn floor(&self) -> u64 {
        lock(&self.window).as_ref().map_or(u64::MAX, Window::floor)
    }

    /// Begins with a state that was loaded into an empty engine.
    pub(crate) fn adopt(&self, root: &Root) {
        self.head.publish(root);
        lock(&self.sequencer).newest = *root;
    }

    /// Bytes of the log and of all pages.
    pub(crate) fn log_and_page_bytes(&self) -> (u64, u64) {
        let seq = lock(&self.sequencer);
        (seq.log.as_ref().map_or(0, Log::bytes), seq.newest.bytes)
    }

    /// Keeps what is shown now until the pipe's other end is gone; not, if a commit is under way.
    pub(crate) fn guard(&self, pipe: &Arc<OwnedFd>) -> bool {
        if check_reentrancy_of(self.address()).is_err() {
            // This very thread has the lock.
            self.guard_for_ever();
            return true;
        }
        let mut sequencer = match self.sequencer.try_lock() {
            Ok(sequencer) => sequencer,
            Err(TryLockError::Poisoned(sequencer)) => sequencer.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        sequencer.reclaim.guard(self, Arc::clone(pipe), self.epoch());
        true
    }

    pub(crate) fn guard_for_ever(&self) {
        // Without a slot there are so many snapshots that one more epoch hardly matters.
        let _ = self.pins.claim().map(|slot| self.pins.pin(slot, self.head.epoch()));
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // The arena goes on in what this stands on: give back what was made since.
        let base = match &self.ground {
            Ground::Parent(at) | Ground::Described(at) if !self.is_foreign() => at.epoch(),
            _ => return,
        };
        let mem = self.arena.mem;
        let sequencer = lock(&self.sequencer);
        let root = sequencer.newest;
        let mut made: Vec<(u64, u64)> = vec![(self.head_at, HEAD_BYTES)];
        let mut free = |offset, len| made.push((offset, len));
        names::walk_newer(mem, root.names, base, &mut free);
        names::walk_newer(mem, root.tags, base, &mut free);
        names::walk(mem, root.tags, &mut |at| {
            if mem.get(at) > base {
                free(at, catalog::tag_len(mem, at));
            }
        });
        let mut slots = Vec::new();
        table::walk_newer(mem, root.table, root.height, base, &mut free, &mut |slot| {
            slots.push(slot)
        });
        for slot in slots {
            page::walk_newer(mem, &slot, base, &mut free);
            if mem.get(slot.desc) > base {
                free(slot.desc, catalog::desc_len(mem, slot.desc));
            }
        }
        made.extend(sequencer.leftover(base));
        let mut alloc = self.arena.alloc();
        for (offset, len) in made {
            alloc.give(offset, len);
        }
    }
}
