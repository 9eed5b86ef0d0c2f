//! Appending through a mapping: a commit is a copy into pages that a helper thread has reserved and touched ahead.
//!
//! The committing thread never maps, reserves or takes a first touch; where the helper is late it uses `pwrite`, and both
//! see the same page cache. Only files without a descriptor are made ready by the committing thread itself: they are not
//! on a disk, and each run then makes the same calls in the same order.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};

use crate::vfs::{FileMap, VfsFile};

const STEP: u64 = 1 << 20;
/// A step is asked for when less than this is ready ahead of the end, and then so much more.
const LOW: u64 = 1 << 20;
const AHEAD: u64 = 2 << 20;
/// What a mapping is made of.
const SYSTEM_PAGE: u64 = 4096;
const _: () = assert!(STEP.is_multiple_of(SYSTEM_PAGE));
const _: () = assert!(LOW <= AHEAD, "what was asked for is low again");

/// A file that is mapped from its beginning, longer than it may be yet.
#[derive(Debug)]
struct Region {
    map: OnceLock<Arc<dyn FileMap>>,
    len: u64,
    file: Arc<dyn VfsFile>,
    pid: u32,
    /// Bytes from the beginning that are mapped, reserved and touched.
    ready: AtomicU64,
    wanted: AtomicU64,
    /// False once the segment has ended. The helper works on the file under this lock only.
    live: Mutex<bool>,
}

impl Region {
    fn new(file: &Arc<dyn VfsFile>, len: u64) -> Arc<Region> {
        Arc::new(Region {
            map: OnceLock::new(),
            // Any size may be aimed at; one that no memory has is not mapped.
            len: len.min(i64::MAX as u64).next_multiple_of(SYSTEM_PAGE),
            file: file.clone(),
            pid: std::process::id(),
            ready: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            live: Mutex::new(true),
        })
    }

    /// Maps, reserves and touches one more step. False if there is nothing to do any more, or it cannot be done.
    fn step(&self) -> bool {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.ready.load(Ordering::Relaxed);
        let to = (from + STEP).min(self.len);
        if !*live || from >= self.wanted.load(Ordering::Relaxed).min(self.len) {
            return false;
        }
        assert!(from < to, "a step goes nowhere");
        assert!(from.is_multiple_of(SYSTEM_PAGE), "a step begins inside a page of memory");
        let Ok(map) = self.map() else { return false };
        let reserved = self.file.fallocate(from, to - from);
        let touched = reserved.and_then(|()| map.populate(from, to - from));
        if touched.is_ok() {
            let before = self.ready.swap(to, Ordering::Release);
            assert_eq!(before, from, "two steps were taken at once");
        }
        touched.is_ok()
    }

    fn map(&self) -> io::Result<&dyn FileMap> {
        if let Some(map) = self.map.get() {
            return Ok(&**map);
        }
        assert!(self.len.is_multiple_of(SYSTEM_PAGE), "a mapping ends inside a page of memory");
        let made = self.file.map(self.len)?;
        Ok(&**self.map.get_or_init(|| made))
    }
}

/// The thread that works ahead of the commits of one log. Dropping this ends it, without waiting.
#[derive(Debug)]
pub(crate) struct Helper {
    shared: Arc<Shared>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
    pid: u32,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    current: Mutex<Option<Arc<Region>>>,
}

impl Helper {
    pub(crate) fn start() -> io::Result<Helper> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let builder = std::thread::Builder::new().name("mmsb-log-ahead".into());
        let handle = builder.spawn(move || theirs.work())?;
        let (thread, pid) = (handle.thread().clone(), std::process::id());
        Ok(Helper { shared, thread, handle: Some(handle), pid })
    }

    /// Ends the thread and waits for it: then it has no file open any more.
    pub(crate) fn finish(mut self) {
        let handle = self.handle.take();
        drop(self);
        // The thread does not panic; if it did, it has let go of its files too.
        let _ = handle.map(JoinHandle::join);
    }

    /// Makes `file` ready for stores into its first `len` bytes, in time.
    pub(crate) fn map(&self, file: &Arc<dyn VfsFile>, len: u64) -> MappedSegment {
        assert_eq!(std::process::id(), self.pid, "a child asks its parent's helper");
        let region = Region::new(file, len);
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(region.clone());
        drop(current);
        MappedSegment::new(region, Some(self.thread.clone()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            // The thread did not come along; its handle must not be joined or detached here.
            std::mem::forget(self.handle.take());
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Shared {
    fn work(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let region = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if region.as_ref().is_some_and(|region| region.step()) {
                continue;
            }
            if let Some(region) = &region {
                self.forget_ended(region);
            }
            // The mapping of an ended segment goes here, not in the committing thread.
            drop(region);
            std::thread::park();
        }
    }

    fn forget_ended(&self, region: &Arc<Region>) {
        let ended = !*region.live.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if ended && current.as_ref().is_some_and(|now| Arc::ptr_eq(now, region)) {
            *current = None;
        }
    }
}

/// The writer's side of a mapped segment.
#[derive(Debug)]
pub(crate) struct MappedSegment {
    region: Arc<Region>,
    /// How far steps were asked for.
    asked: u64,
    /// The helper's; without one the steps are taken here.
    helper: Option<Thread>,
}

impl MappedSegment {
    fn new(region: Arc<Region>, helper: Option<Thread>) -> MappedSegment {
        let mut mapped = MappedSegment { region, asked: 0, helper };
        mapped.ask(0);
        mapped
    }

    /// Maps a file that needs no helper; an error if it cannot be mapped.
    pub(crate) fn inline(file: &Arc<dyn VfsFile>, len: u64) -> io::Result<MappedSegment> {
        assert!(file.raw_fd().is_none(), "the committing thread maps a file on a disk");
        let region = Region::new(file, len);
        region.map()?;
        Ok(MappedSegment::new(region, None))
    }

    /// Bytes from the beginning of the file that are reserved.
    #[inline]
    pub(crate) fn reserved(&self) -> u64 {
        self.region.ready.load(Ordering::Acquire)
    }

    /// Copies `bytes` to `offset` if the place is ready; else the caller writes them in another way.
    #[inline]
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset.saturating_add(bytes.len() as u64);
        self.ask(end);
        match self.region.map.get() {
            Some(map) if end <= self.reserved() => {
                assert!(end <= self.region.len, "a store goes past the mapping");
                map.store(offset, bytes);
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn ask(&mut self, end: u64) {
        if end + LOW > self.asked && self.asked < self.region.len {
            self.asked = end + AHEAD;
            self.region.wanted.store(self.asked, Ordering::Relaxed);
            match &self.helper {
                Some(thread) => thread.unpark(),
                None => while self.region.step() {},
            }
        }
    }
}

impl Drop for MappedSegment {
    fn drop(&mut self) {
        // In a forked child there is no helper, and its lock may be held for ever.
        if std::process::id() == self.region.pid {
            *self.region.live.lock().unwrap_or_else(PoisonError::into_inner) = false;
            if let Some(thread) = &self.helper {
                thread.unpark();
            }
        }
    }
}

#[cfg(test)]
#[path = "mapped_tests.rs"]
mod tests;
