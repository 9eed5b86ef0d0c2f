//! A file system of which files are only read, though a disk may have lost pieces of them.
//!
//! Invariants: no call changes anything; a piece that the disk does not give reads as zeros, and its place is noted.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{OpenKind, StoreLock, Vfs, VfsDir, VfsFile};
use crate::error::{Error, Result};
use crate::sync::{Mutex, lock};

/// What is given up at once where a disk does not give its bytes.
const PIECE: u64 = 4096;

type Lost = Arc<Mutex<BTreeSet<(PathBuf, u64)>>>;

/// Reads what another file system has.
#[derive(Debug)]
pub(crate) struct ReadingVfs {
    inner: Arc<dyn Vfs>,
    lost: Lost,
}

#[derive(Debug)]
struct ReadingFile {
    inner: Arc<dyn VfsFile>,
    path: PathBuf,
    lost: Lost,
}

impl ReadingVfs {
    pub(crate) fn new(inner: Arc<dyn Vfs>) -> ReadingVfs {
        ReadingVfs { inner, lost: Lost::default() }
    }

    /// The pieces that could not be read: file and offset, in order.
    pub(crate) fn lost(&self) -> Vec<(PathBuf, u64)> {
        lock(&self.lost).iter().cloned().collect()
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

/// Whether the disk has lost what was asked for.
fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

impl Vfs for ReadingVfs {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        refused()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn open(&self, path: &Path, kind: OpenKind) -> io::Result<Arc<dyn VfsFile>> {
        if kind != OpenKind::Read {
            return refused();
        }
        let inner = self.inner.open(path, kind)?;
        let (path, lost) = (path.to_path_buf(), Arc::clone(&self.lost));
        Ok(Arc::new(ReadingFile { inner, path, lost }))
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        refused()
    }

    fn unlink(&self, _path: &Path) -> io::Result<()> {
        refused()
    }

    fn open_dir(&self, _dir: &Path) -> io::Result<Box<dyn VfsDir>> {
        refused()
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn StoreLock>> {
        Err(Error::storage(path, &io::ErrorKind::ReadOnlyFilesystem.into(), "lock"))
    }

    fn locked(&self, path: &Path) -> io::Result<bool> {
        self.inner.locked(path)
    }
}

impl VfsFile for ReadingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.inner.read_at(offset, buf) {
            Err(error) if is_lost(&error) => {}
            done => return done,
        }
        // So much at once fails wherever the lost piece is in it.
        let left = self.inner.size()?.saturating_sub(offset);
        let piece = (PIECE - offset % PIECE).min(left).min(buf.len() as u64) as usize;
        let piece = &mut buf[..piece];
        match self.inner.read_at(offset, piece) {
            Err(error) if is_lost(&error) => {
                lock(&self.lost).insert((self.path.clone(), offset - offset % PIECE));
                piece.fill(0);
                Ok(piece.len())
            }
            done => done,
        }
    }

    fn write_at(&self, _offset: u64, _data: &[u8]) -> io::Result<usize> {
        refused()
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        refused()
    }

    fn fallocate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        refused()
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }

    fn os_file(&self) -> Option<&File> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::double::Double;
    use crate::vfs::{RamVfs, read_exact_at, write_all_at};

    #[test]
    fn what_a_disk_lost_is_zeros_and_nothing_is_changed() {
        let double = Double::new(Arc::new(RamVfs::new()));
        let path = Path::new("/a");
        let file = double.open(path, OpenKind::CreateNew).unwrap();
        write_all_at(&*file, 0, &[7; 20_000]).unwrap();
        // The sector at 9000 is lost.
        double.fail(|call| {
            let hit = call.what == "read" && call.at <= 9000 && 9000 < call.at + call.len;
            hit.then(|| io::Error::from_raw_os_error(5))
        });
        let vfs = ReadingVfs::new(double.vfs());
        let file = vfs.open(path, OpenKind::Read).unwrap();
        let mut bytes = vec![1; 20_000 - 100];
        read_exact_at(&*file, 100, &mut bytes).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            let lost = (8192..8192 + 4096).contains(&(at + 100));
            assert_eq!(*byte, if lost { 0 } else { 7 }, "{at}");
        }
        assert_eq!(vfs.lost(), [(path.to_path_buf(), 8192)]);
        let b = Path::new("/b");
        for done in [
            vfs.create_dir(b),
            vfs.rename(path, b),
            vfs.unlink(path),
            vfs.open_dir(Path::new("/")).map(drop),
            vfs.open(path, OpenKind::ReadWrite).map(drop),
            vfs.open(b, OpenKind::CreateNew).map(drop),
            file.write_at(0, b"x").map(drop),
            file.set_len(0),
            file.fallocate(0, 30_000),
            file.sync(),
        ] {
            assert_eq!(done.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        assert!(vfs.lock(b).is_err() && !double.exists(b).unwrap());
    }
}
