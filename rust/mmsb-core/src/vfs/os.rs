//! The operating system's file system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FallocateFlags, SeekFrom};

use super::fd::Noted;
use super::map::Mapping;
use super::{FileMap, OpenKind, StoreLock, Vfs, VfsDir, VfsFile};
use crate::error::{Code, Error, Result};
use crate::museum::{Defect, planted};

/// How often a taken lock is asked for again: a reader that tests the lock holds it for an instant.
const LOCK_ATTEMPTS: u32 = 10;

/// Files of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsVfs;

#[derive(Debug)]
struct OsFile(Noted);

#[derive(Debug)]
struct OsDir(Noted);

#[derive(Debug)]
struct OsLock(Noted);

/// Keeps descriptors 0 to 2 free: a stray print to a closed stdout must not land in a store.
fn above_stdio(file: File) -> io::Result<File> {
    if file.as_raw_fd() > 2 {
        return Ok(file);
    }
    Ok(File::from(rustix::io::fcntl_dupfd_cloexec(&file, 3)?))
}

impl Vfs for OsVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            other => other,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match path.try_exists() {
            // Below a file there is nothing.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(false),
            done => done,
        }
    }

    fn open(&self, path: &Path, kind: OpenKind) -> io::Result<Arc<dyn VfsFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(kind != OpenKind::Read).create_new(kind == OpenKind::CreateNew);
        Ok(Arc::new(OsFile(Noted::new(above_stdio(options.open(path)?)?))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn VfsDir>> {
        Ok(Box::new(OsDir(Noted::new(above_stdio(File::open(dir)?)?))))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn StoreLock>> {
        let failed = |e: &io::Error| Error::storage(path, e, "lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).and_then(above_stdio).map_err(|e| failed(&e))?;
        for attempt in 1..=LOCK_ATTEMPTS {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(failed(&e)),
                Err(TryLockError::WouldBlock) if planted(Defect::LockNotTaken) => break,
                Err(TryLockError::WouldBlock) if attempt == LOCK_ATTEMPTS => {
                    return Err(taken(path, holder(&file)));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        file.set_len(0).map_err(|e| failed(&e))?;
        let pid = std::process::id().to_string();
        file.write_all_at(pid.as_bytes(), 0).map_err(|e| failed(&e))?;
        Ok(Box::new(OsLock(Noted::new(file))))
    }

    fn locked(&self, path: &Path) -> io::Result<bool> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

/// The process that wrote its number into the lock file.
fn holder(file: &File) -> Option<u32> {
    let mut text = [0u8; 16];
    let n = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..n]).ok()?.parse().ok()
}

pub(super) fn taken(path: &Path, pid: Option<u32>) -> Error {
    let who = match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_string(),
    };
    let dir = path.parent().unwrap_or(path);
    let message = format!(
        "{} is open for writing in {who}; close it there, or open with mode='r'",
        dir.display()
    );
    let mut error = Error::new(Code::BusLocked, message);
    error.detail.file = Some(path.to_path_buf());
    error.detail.pid = pid;
    error
}

impl VfsFile for OsFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.file().read_at(buf, offset)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.0.file().write_at(data, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.file().sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.file().set_len(len)
    }

    fn fallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        loop {
            match rustix::fs::fallocate(self.0.file(), FallocateFlags::empty(), offset, len) {
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::OPNOTSUPP) => return Err(io::ErrorKind::Unsupported.into()),
                other => return Ok(other?),
            }
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.file().metadata()?.len())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self.0.file(), SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // A file system that does not know its holes.
            Err(rustix::io::Errno::INVAL) => Ok((offset < self.size()?).then_some(offset)),
            Err(e) => Err(e.into()),
        }
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn FileMap>> {
        Ok(Arc::new(Mapping::new(self.0.file(), len)?))
    }

    fn os_file(&self) -> Option<&File> {
        Some(self.0.file())
    }
}

impl VfsDir for OsDir {
    fn sync(&self) -> io::Result<()> {
        self.0.file().sync_all()
    }
}

impl StoreLock for OsLock {
    fn raw_fd(&self) -> Option<RawFd> {
        Some(self.0.file().as_raw_fd())
    }
}
