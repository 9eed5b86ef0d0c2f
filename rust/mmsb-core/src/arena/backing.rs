//! Where an arena's bytes come from: a sealed memfd that other processes can map, or the heap (Miri, tests).
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::fork::generation;
use crate::{Error, Result};

/// The kinds of memory an arena can stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A memfd, sealed against shrinking and growing.
    Memfd,
    /// Zeroed memory of this process. Asked for as pages, it costs what is touched of it; Miri has it from the heap.
    Heap,
}

/// A mapped reservation; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
    kind: Kind,
    /// Of the process that mapped it: a forked child unmaps nothing.
    generation: u64,
}

#[derive(Debug)]
enum Kind {
    Fd(OwnedFd),
    Pages,
    Heap(Layout),
}

// SAFETY: the mapping is plain memory; who may touch which byte is the arena's business.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Alignment of the heap backing; the size of a hardware page.
const ALIGN: usize = 4096;

impl Mapping {
    /// Reserves address space for `max_memory` bytes and some room for pieces that do not fit together.
    pub(crate) fn reserve(backing: Backing, max_memory: u64) -> Result<Mapping> {
        let want = max_memory.saturating_add(max_memory / 4).saturating_add(1 << 20);
        let want = usize::try_from(want).unwrap_or(usize::MAX) / ALIGN * ALIGN;
        let least = usize::try_from(max_memory).unwrap_or(usize::MAX) / ALIGN * ALIGN;
        match Mapping::new(backing, want) {
            Err(_) if least >= ALIGN => Mapping::new(backing, least),
            done => done,
        }
    }

    /// `len` zeroed bytes.
    pub(crate) fn new(backing: Backing, len: usize) -> Result<Mapping> {
        let fail =
            |e: io::Error| Error::storage(Path::new("memfd:mmsb"), &e, "cannot reserve memory in");
        if super::is_denied() {
            return Err(fail(io::ErrorKind::OutOfMemory.into()));
        }
        match backing {
            Backing::Memfd => {
                let fd = rustix::fs::memfd_create(
                    "mmsb",
                    MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
                )
                .map_err(|e| fail(e.into()))?;
                rustix::fs::ftruncate(&fd, len as u64).map_err(|e| fail(e.into()))?;
                rustix::fs::fcntl_add_seals(
                    &fd,
                    SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
                )
                .map_err(|e| fail(e.into()))?;
                Mapping::map(fd, len, ProtFlags::READ | ProtFlags::WRITE).map_err(fail)
            }
            Backing::Heap if cfg!(miri) => Mapping::heap(len.max(ALIGN)).map_err(fail),
            Backing::Heap => Mapping::pages(len.max(ALIGN)).map_err(fail),
        }
    }

    fn heap(len: usize) -> io::Result<Mapping> {
        let no_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let layout = Layout::from_size_align(len, ALIGN).map_err(|_| no_memory())?;
        // SAFETY: the layout has a size above zero.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or_else(no_memory)?;
        Ok(Mapping { base, len, kind: Kind::Heap(layout), generation: generation() })
    }

    fn pages(len: usize) -> io::Result<Mapping> {
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours.
        let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, flags)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len, kind: Kind::Pages, generation: generation() })
    }

    /// Another process's memory, for reading only.
    pub(crate) fn read_only(fd: OwnedFd) -> Result<Mapping> {
        Mapping::attach(fd, ProtFlags::READ)
    }

    /// Another process's memory, for reading and writing.
    pub(crate) fn shared(fd: OwnedFd) -> Result<Mapping> {
        Mapping::attach(fd, ProtFlags::READ | ProtFlags::WRITE)
    }

    fn attach(fd: OwnedFd, prot: ProtFlags) -> Result<Mapping> {
        let fail = |e: io::Error| Error::storage(Path::new("memfd:mmsb"), &e, "cannot map");
        let len = rustix::fs::fstat(&fd).map_err(|e| fail(e.into()))?.st_size;
        let len = usize::try_from(len).map_err(|_| fail(io::ErrorKind::InvalidData.into()))?;
        Mapping::map(fd, len, prot).map_err(fail)
    }

    fn map(fd: OwnedFd, len: usize, prot: ProtFlags) -> io::Result<Mapping> {
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours. The file is sealed
        // against shrinking, so no access can fault.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &fd,
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, len, kind: Kind::Fd(fd), generation: generation() })
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The descriptor behind the mapping, if there is one.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.kind {
            Kind::Fd(fd) => Some(fd.as_fd()),
            Kind::Pages | Kind::Heap(_) => None,
        }
    }
}

/// A descriptor of the same memory that cannot be mapped for writing.
pub(crate) fn reopen_read_only(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    use std::os::fd::AsRawFd as _;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.generation != generation() {
            return;
        }
        match self.kind {
            // SAFETY: mapped by us with this length; every user holds the owner of this value, so none is left.
            Kind::Fd(_) | Kind::Pages => unsafe {
                let _ = rustix::mm::munmap(self.base.as_ptr().cast(), self.len);
            },
            // SAFETY: allocated by us with this layout; as above.
            Kind::Heap(layout) => unsafe { std::alloc::dealloc(self.base.as_ptr(), layout) },
        }
    }
}
