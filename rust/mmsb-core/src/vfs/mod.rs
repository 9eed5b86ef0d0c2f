//! The one door to the file system: everything the core reads or writes goes through [`Vfs`].
//!
//! Tests put another file system behind it and fail, tear, reorder or stop at every call.
//! Implementations return plain `io::Error`; the callers know file and purpose and make the typed error.

mod fd;
mod map;
mod os;
mod ram;
mod reading;
#[cfg(test)]
pub(crate) mod testing;

pub use fd::give_up_descriptors;
pub use os::OsVfs;
pub use ram::RamVfs;
pub(crate) use reading::ReadingVfs;

use std::alloc::{Layout, alloc_zeroed};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenKind {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A file that must not exist yet, for reading and writing.
    CreateNew,
}

/// A file system.
pub trait Vfs: Send + Sync + fmt::Debug {
    /// Creates a directory; one that exists is fine, a missing parent is not.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Names in a directory, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Whether there is a file or directory of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Opens a file.
    fn open(&self, path: &Path, kind: OpenKind) -> io::Result<Arc<dyn VfsFile>>;
    /// Renames a file, replacing one of the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Opens a directory.
    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn VfsDir>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.open_dir(dir)?.sync()
    }
    /// Takes a store's lock, or fails with `BusLocked` naming the process that holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn StoreLock>>;
    /// Whether somebody holds the lock right now. A missing file is not locked.
    fn locked(&self, path: &Path) -> io::Result<bool>;
}

/// An open directory: whoever holds one needs no further descriptor for a sync, which must not fail for want of one.
pub trait VfsDir: Send + Sync + fmt::Debug {
    /// Makes the names in it durable.
    fn sync(&self) -> io::Result<()>;
}

/// An open file. All calls take an offset; there is no file position.
pub trait VfsFile: Send + Sync + fmt::Debug {
    /// Reads at most `buf.len()` bytes; 0 at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes at most `data.len()` bytes.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize>;
    /// Makes the bytes and the length durable.
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Reserves space and extends the file over it; `Unsupported` where the file system cannot.
    fn fallocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// The length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// The first place from `offset` on that may hold something else than zeros; none if nothing does.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok((offset < self.size()?).then_some(offset))
    }
    /// Maps the first `len` bytes, which may be more than the file has yet; `Unsupported` where a range that was reserved
    /// might not stay the file's.
    fn map(&self, _len: u64) -> io::Result<Arc<dyn FileMap>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// The operating system's file behind this one, if there is one.
    fn os_file(&self) -> Option<&File>;
    /// Its descriptor.
    fn raw_fd(&self) -> Option<RawFd> {
        self.os_file().map(AsRawFd::as_raw_fd)
    }
}

/// The beginning of a file, mapped for stores; what is stored is as if written with `write_at`. Dropping it unmaps it.
pub trait FileMap: Send + Sync + fmt::Debug {
    /// Makes a reserved range ready, so that no store takes a first touch. May run beside a store.
    fn populate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Copies bytes into the file; the range was reserved and populated. One thread at a time.
    fn store(&self, offset: u64, data: &[u8]);
}

/// A held lock; dropping it releases it.
pub trait StoreLock: Send + Sync + fmt::Debug {
    /// The descriptor that holds it, for the at-fork hook.
    fn raw_fd(&self) -> Option<RawFd>;
}

/// Reads until `buf` is full or the file ends; says how many bytes came.
pub fn read_full_at(file: &dyn VfsFile, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(offset + done as u64, &mut buf[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Fills `buf`; a file that ends before is an `UnexpectedEof`.
pub fn read_exact_at(file: &dyn VfsFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    match read_full_at(file, offset, buf)? {
        n if n == buf.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads `len` bytes into memory of their own; `None` if there is none. What the file has holes for, or has no longer,
/// is zero and costs no memory: a sparse file may claim any length.
pub(crate) fn read_vec(file: &dyn VfsFile, offset: u64, len: u64) -> io::Result<Option<Vec<u8>>> {
    const STEP: usize = 256 << 10;
    const LARGE: u64 = 64 << 20;
    if len > LARGE && len > crate::limits::available() {
        return Ok(None);
    }
    let Ok(len) = usize::try_from(len) else { return Ok(None) };
    let Some(mut bytes) = zeroed(len) else { return Ok(None) };
    let mut at = 0;
    while at < len {
        let Some(data) = file.next_data(offset + at as u64)? else { break };
        at = at.max((data - offset).min(len as u64) as usize);
        let end = len.min(at + STEP);
        if read_full_at(file, offset + at as u64, &mut bytes[at..end])? < end - at {
            break;
        }
        at = end;
    }
    Ok(Some(bytes))
}

/// Zeros that come untouched from the system, if it has them: `vec!` aborts without memory, and filling a reserved `Vec`
/// touches every page of it.
#[allow(unsafe_code)]
fn zeroed(len: usize) -> Option<Vec<u8>> {
    let layout = Layout::array::<u8>(len).ok()?;
    if len == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout has a size above zero.
    let bytes = unsafe { alloc_zeroed(layout) };
    if bytes.is_null() {
        return None;
    }
    // SAFETY: allocated just now by the global allocator with the layout of so many bytes, which are all zeros.
    Some(unsafe { Vec::from_raw_parts(bytes, len, len) })
}

/// Writes all of `data`.
pub fn write_all_at(file: &dyn VfsFile, offset: u64, data: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        match file.write_at(offset + done as u64, &data[done..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    /// Both file systems answer every call alike.
    fn conformance(vfs: &dyn Vfs, root: &Path) {
        let dir = root.join("d");
        assert_eq!(vfs.list(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
        vfs.create_dir(&dir).unwrap();
        vfs.create_dir(&dir).unwrap();
        let (a, b) = (dir.join("a"), dir.join("b"));
        assert_eq!(vfs.open(&a, OpenKind::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(vfs.open(&a, OpenKind::ReadWrite).unwrap_err().kind(), io::ErrorKind::NotFound);
        let orphan = root.join("none").join("a");
        assert_eq!(
            vfs.open(&orphan, OpenKind::CreateNew).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let file = vfs.open(&a, OpenKind::CreateNew).unwrap();
        assert_eq!(
            vfs.open(&a, OpenKind::CreateNew).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        file.fallocate(0, 100_000).unwrap();
        write_all_at(&*file, 70_000, b"hello").unwrap();
        write_all_at(&*file, 3, b"abc").unwrap();
        let mut buf = [9u8; 9];
        read_exact_at(&*file, 69_998, &mut buf).unwrap();
        assert_eq!(&buf, b"\0\0hello\0\0");
        file.set_len(70_002).unwrap();
        assert_eq!(file.size().unwrap(), 70_002);
        file.set_len(70_006).unwrap();
        assert_eq!(read_full_at(&*file, 69_999, &mut buf).unwrap(), 7);
        assert_eq!(&buf[..7], b"\0he\0\0\0\0");
        assert_eq!(read_full_at(&*file, 80_000, &mut buf).unwrap(), 0);
        assert!(read_exact_at(&*file, 70_000, &mut buf).is_err());
        file.sync().unwrap();
        let read = vfs.open(&a, OpenKind::Read).unwrap();
        assert!(read.write_at(0, b"x").is_err());
        vfs.rename(&a, &b).unwrap();
        vfs.sync_dir(&dir).unwrap();
        assert_eq!(vfs.list(&dir).unwrap(), ["b"]);
        assert!(vfs.exists(&b).unwrap() && !vfs.exists(&a).unwrap() && vfs.exists(&dir).unwrap());
        vfs.unlink(&b).unwrap();
        assert_eq!(vfs.unlink(&b).unwrap_err().kind(), io::ErrorKind::NotFound);
        read_exact_at(&*read, 3, &mut buf[..3]).unwrap();
        assert_eq!(&buf[..3], b"abc");
    }

    fn locking(vfs: &dyn Vfs, root: &Path) {
        let path = root.join("lock");
        assert!(!vfs.locked(&path).unwrap());
        let held = vfs.lock(&path).unwrap();
        assert!(vfs.locked(&path).unwrap());
        let error = vfs.lock(&path).unwrap_err();
        assert_eq!(error.code, Code::BusLocked);
        assert_eq!(error.detail.pid, Some(std::process::id()));
        assert!(error.message.contains(&std::process::id().to_string()));
        drop(held);
        assert!(!vfs.locked(&path).unwrap());
        vfs.lock(&path).unwrap();
    }

    #[test]
    fn both_file_systems_agree() {
        let tmp = tempfile::tempdir().unwrap();
        conformance(&OsVfs, tmp.path());
        locking(&OsVfs, tmp.path());
        let ram = RamVfs::new();
        ram.create_dir(Path::new("/r")).unwrap();
        conformance(&ram, Path::new("/r"));
        locking(&ram, Path::new("/r"));
    }
}
