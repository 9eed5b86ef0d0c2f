//! Appending through a mapping: a commit is a copy into pages that a helper thread has reserved and touched ahead.
//!
//! Only for files where a reserved range stays ours (ext4, xfs): there a store into it cannot meet a full disk. The
//! committing thread never maps, reserves or takes a first touch; where the helper is late it uses `pwrite`, and both
//! see the same page cache. Nothing is ever read through the mapping.
//!
//! This module holds `unsafe`: the mapping and the stores into it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::vfs::VfsFile;

const STEP: u64 = 1 << 20;
/// The helper is asked when less than this is ready ahead of the end, for so much more.
const LOW: u64 = 1 << 20;
const AHEAD: u64 = 2 << 20;
const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;

/// A file that the helper maps from its beginning, longer than it may be yet.
#[derive(Debug)]
struct Region {
    /// Null until the helper has mapped the file.
    base: AtomicPtr<c_void>,
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
    /// Maps, reserves or touches one more step. False if there is nothing to do any more, or it cannot be done.
    fn step(&self) -> bool {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.ready.load(Ordering::Relaxed);
        let to = (from + STEP).min(self.len);
        if !*live || from >= self.wanted.load(Ordering::Relaxed).min(self.len) {
            return false;
        }
        let Ok(base) = self.mapping() else { return false };
        if self.file.fallocate(from, to - from).is_err() {
            return false;
        }
        // SAFETY: `from..to` lies in the mapping and, since fallocate, in the file. The advice only faults pages in.
        let touched = unsafe {
            let start = base.byte_add(from as usize);
            rustix::mm::madvise(start, (to - from) as usize, Advice::LinuxPopulateWrite)
        };
        if touched.is_ok() {
            self.ready.store(to, Ordering::Release);
        }
        touched.is_ok()
    }

    fn mapping(&self) -> io::Result<*mut c_void> {
        let base = self.base.load(Ordering::Relaxed);
        if !base.is_null() {
            return Ok(base);
        }
        let os = self.file.os_file().ok_or(io::ErrorKind::Unsupported)?;
        if !reservations_stay(os)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let len = self.len as usize;
        // SAFETY: a new shared mapping at an address that the kernel chooses; no Rust object lies in it.
        let base =
            unsafe { rustix::mm::mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, os, 0)? };
        self.base.store(base, Ordering::Relaxed);
        Ok(base)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let (base, len) = (*self.base.get_mut(), self.len as usize);
        if base.is_null() || std::process::id() != self.pid {
            return;
        }
        // SAFETY: nobody else has the mapping any more: this is the last owner. The file keeps its bytes. Pages go
        // first, because unmapping them would keep other threads from mapping meanwhile. A failure leaks address space.
        unsafe {
            let _ = rustix::mm::madvise(base, len, Advice::LinuxDontNeed);
            let _ = rustix::mm::munmap(base, len);
        }
    }
}

/// Whether a range that was reserved in this file stays reserved: no copy-on-write, no deduplication behind our back.
fn reservations_stay(file: &File) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type as u64 & 0xFFFF_FFFF;
    Ok(kind == EXT4 || kind == XFS)
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
        let region = Arc::new(Region {
            base: AtomicPtr::new(ptr::null_mut()),
            len: len.next_multiple_of(4096),
            file: file.clone(),
            pid: std::process::id(),
            ready: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            live: Mutex::new(true),
        });
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(region.clone());
        drop(current);
        let mut mapped = MappedSegment { region, asked: 0, thread: self.thread.clone() };
        mapped.ask(0);
        mapped
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
            match region {
                Some(region) if region.step() => {}
                Some(region) => {
                    self.forget_ended(&region);
                    // The mapping of an ended segment goes here, not in the committing thread.
                    drop(region);
                    std::thread::park();
                }
                None => std::thread::park(),
            }
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
    /// How far the helper was asked to go.
    asked: u64,
    thread: Thread,
}

impl MappedSegment {
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
        if end > self.reserved() {
            return false;
        }
        // SAFETY: `offset..end` is below `ready`, so it lies in the mapping and in the file, in space that is ours.
        // Only this object stores there (`&mut self`), and the mapping lives as long as `region`. A file that somebody
        // else truncates gives SIGBUS; DIAGNOSTICS.md names that.
        unsafe {
            let base = self.region.base.load(Ordering::Relaxed);
            let to = base.byte_add(offset as usize).cast::<u8>();
            ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        true
    }

    #[inline]
    fn ask(&mut self, end: u64) {
        if end + LOW > self.asked && self.asked < self.region.len {
            self.asked = end + AHEAD;
            self.region.wanted.store(self.asked, Ordering::Relaxed);
            self.thread.unpark();
        }
    }
}

impl Drop for MappedSegment {
    fn drop(&mut self) {
        // In a forked child there is no helper, and its lock may be held for ever.
        if std::process::id() == self.region.pid {
            *self.region.live.lock().unwrap_or_else(PoisonError::into_inner) = false;
            self.thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfs::{OpenKind, OsVfs, RamVfs, Vfs, read_exact_at, write_all_at};
    use std::path::Path;
    use std::time::Duration;

    #[test]
    fn stores_land_in_the_file() {
        let tmp = tempfile::tempdir().unwrap();
        let file = OsVfs.open(&tmp.path().join("f"), OpenKind::CreateNew).unwrap();
        if !reservations_stay(file.os_file().unwrap()).unwrap() {
            println!("skipped: the temporary directory is on neither ext4 nor xfs");
            return;
        }
        let helper = Helper::start().unwrap();
        let mut mapped = helper.map(&file, 3 << 20);
        let (mut at, mut copied) = (0u64, 0);
        while at + 1000 <= 3 << 20 {
            let bytes = [(at / 1000) as u8; 1000];
            if mapped.write(at, &bytes) {
                copied += 1;
            } else {
                write_all_at(&*file, at, &bytes).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            at += 1000;
        }
        assert!(copied > 1000, "{copied}");
        assert!(!mapped.write((3 << 20) - 10, &[1; 11]));
        drop(mapped);
        file.set_len(at).unwrap();
        let mut back = [0u8; 1000];
        for index in 0..at / 1000 {
            read_exact_at(&*file, index * 1000, &mut back).unwrap();
            assert!(back.iter().all(|&b| b == index as u8));
        }
        // The helper has let go: the file keeps the length that it was cut to.
        drop(helper);
        assert_eq!(file.size().unwrap(), at);
    }

    #[test]
    fn a_file_in_memory_is_not_mapped() {
        let file = RamVfs::new().open(Path::new("/f"), OpenKind::CreateNew).unwrap();
        let mut mapped = Helper::start().unwrap().map(&file, 4096);
        assert!(!mapped.write(0, b"x"));
        assert_eq!(mapped.reserved(), 0);
    }
}
