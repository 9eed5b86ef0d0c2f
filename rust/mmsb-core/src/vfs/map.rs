//! A file's beginning in memory, for stores that need no call to the system.
//!
//! Only for files where a reserved range stays ours (ext4, xfs): there a store into it cannot meet a full disk. Nothing is
//! ever read through the mapping.
//!
//! This module holds `unsafe`: the mapping and the stores into it. Invariants: the mapping lies at `base..base + len` from
//! `Mapping::new` until the last owner drops it, no Rust object lies in it, and one thread at a time stores into it.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::FileMap;

const EXT4: u64 = 0xEF53;
const XFS: u64 = 0x5846_5342;

#[derive(Debug)]
pub(super) struct Mapping {
    base: *mut c_void,
    len: u64,
    /// Taken for each store: two at a time would race.
    storing: AtomicBool,
    /// Of the process that mapped it: a forked child unmaps nothing.
    pid: u32,
}

// SAFETY: a mapping belongs to the process, not to a thread.
unsafe impl Send for Mapping {}
// SAFETY: `populate` changes no byte, and `store` lets one thread in at a time.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `file`, which may be shorter.
    pub(super) fn new(file: &File, len: u64) -> io::Result<Mapping> {
        if !reservations_stay(file)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let size = usize::try_from(len).map_err(|_| io::ErrorKind::Unsupported)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new shared mapping at an address that the kernel chooses; no Rust object lies in it.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), size, protection, MapFlags::SHARED, file, 0)?
        };
        Ok(Mapping { base, len, storing: AtomicBool::new(false), pid: std::process::id() })
    }

    /// Where `offset` is, if `len` bytes from there on are mapped.
    #[inline]
    fn place(&self, offset: u64, len: u64) -> *mut c_void {
        assert!(offset <= self.len && len <= self.len - offset, "outside of the mapping");
        // SAFETY: within the mapping, as was just checked, so `offset` fits a usize like its length does.
        unsafe { self.base.byte_add(offset as usize) }
    }
}

impl FileMap for Mapping {
    fn populate(&self, offset: u64, len: u64) -> io::Result<()> {
        let start = self.place(offset, len);
        // SAFETY: the range lies in the mapping. The advice only faults pages in; where there is no file it fails.
        unsafe { rustix::mm::madvise(start, len as usize, Advice::LinuxPopulateWrite)? };
        Ok(())
    }

    #[inline]
    fn store(&self, offset: u64, data: &[u8]) {
        let to = self.place(offset, data.len() as u64).cast::<u8>();
        assert!(!self.storing.swap(true, Ordering::Acquire), "two stores at a time");
        // SAFETY: the range lies in the mapping, no reference points there, and `storing` keeps other threads out. A
        // place that is not in the file, because somebody else truncated it, gives SIGBUS; DIAGNOSTICS.md names that.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        self.storing.store(false, Ordering::Release);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            return;
        }
        let len = self.len as usize;
        // SAFETY: nobody else has the mapping any more: this is the last owner. The file keeps its bytes. Pages go
        // first, because unmapping them would keep other threads from mapping meanwhile. A failure leaks address space.
        unsafe {
            let _ = rustix::mm::madvise(self.base, len, Advice::LinuxDontNeed);
            let _ = rustix::mm::munmap(self.base, len);
        }
    }
}

/// Whether a range that was reserved in this file stays reserved: no copy-on-write, no deduplication behind our back.
fn reservations_stay(file: &File) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type as u64 & 0xFFFF_FFFF;
    Ok(kind == EXT4 || kind == XFS)
}
