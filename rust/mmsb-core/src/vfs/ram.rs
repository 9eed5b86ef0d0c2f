//! A file system in memory: the log of a bus without a directory, and the ground of the crash tests.
//!
//! Files grow in chunks, so appending never copies what is there. `fallocate` takes memory too, so that a store into
//! what was reserved cannot fail; what is not written yet is address space only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::{OpenKind, StoreLock, Vfs, VfsDir, VfsFile};
use crate::arena::is_denied;
use crate::error::Result;

const CHUNK: usize = 64 * 1024;

/// Files in memory. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct RamVfs(Arc<Mutex<Tree>>);

#[derive(Debug, Default)]
struct Tree {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, Arc<RwLock<Bytes>>>,
    locks: BTreeSet<PathBuf>,
}

#[derive(Debug, Default)]
struct Bytes {
    len: u64,
    /// A chunk that was never written is empty and reads as zeros.
    chunks: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct RamFile {
    bytes: Arc<RwLock<Bytes>>,
    writable: bool,
}

#[derive(Debug)]
struct RamDir;

#[derive(Debug)]
struct RamLock {
    vfs: RamVfs,
    path: PathBuf,
}

impl RamVfs {
    /// An empty file system that has a root directory only.
    pub fn new() -> RamVfs {
        let vfs = RamVfs::default();
        vfs.tree().dirs.insert(PathBuf::from("/"));
        vfs
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing<T>() -> io::Result<T> {
    Err(io::ErrorKind::NotFound.into())
}

impl Tree {
    fn has_parent(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.dirs.contains(parent))
    }
}

impl Vfs for RamVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        if tree.files.contains_key(dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !tree.has_parent(dir) && !tree.dirs.contains(dir) {
            return missing();
        }
        tree.dirs.insert(dir.to_path_buf());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let tree = self.tree();
        if !tree.dirs.contains(dir) {
            return missing();
        }
        let all = tree.files.keys().chain(tree.dirs.iter());
        let inside = all.filter(|path| path.parent() == Some(dir));
        let mut names: Vec<String> = inside
            .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let tree = self.tree();
        Ok(tree.files.contains_key(path) || tree.dirs.contains(path))
    }

    fn open(&self, path: &Path, kind: OpenKind) -> io::Result<Arc<dyn VfsFile>> {
        let mut tree = self.tree();
        let found = tree.files.get(path).cloned();
        let bytes = match (found, kind) {
            (Some(_), OpenKind::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(bytes), _) => bytes,
            (None, OpenKind::CreateNew) if tree.has_parent(path) => {
                let bytes = Arc::new(RwLock::new(Bytes::default()));
                tree.files.insert(path.to_path_buf(), bytes.clone());
                bytes
            }
            (None, _) => return missing(),
        };
        Ok(Arc::new(RamFile { bytes, writable: kind != OpenKind::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree();
        if !tree.has_parent(to) {
            return missing();
        }
        match tree.files.remove(from) {
            Some(bytes) => {
                tree.files.insert(to.to_path_buf(), bytes);
                Ok(())
            }
            None => missing(),
        }
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        match self.tree().files.remove(path) {
            Some(_) => Ok(()),
            None => missing(),
        }
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Box<dyn VfsDir>> {
        if self.tree().dirs.contains(dir) { Ok(Box::new(RamDir)) } else { missing() }
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn StoreLock>> {
        if !self.tree().locks.insert(path.to_path_buf()) {
            return Err(super::os::taken(path, Some(std::process::id())));
        }
        Ok(Box::new(RamLock { vfs: self.clone(), path: path.to_path_buf() }))
    }

    fn locked(&self, path: &Path) -> io::Result<bool> {
        Ok(self.tree().locks.contains(path))
    }
}

impl VfsDir for RamDir {
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl StoreLock for RamLock {
    fn raw_fd(&self) -> Option<RawFd> {
        None
    }
}

impl Drop for RamLock {
    fn drop(&mut self) {
        self.vfs.tree().locks.remove(&self.path);
    }
}

impl Bytes {
    /// The chunk of an offset, the place in it, and how many of `want` bytes are in it.
    fn place(offset: u64, want: usize) -> (usize, usize, usize) {
        let (chunk, at) = ((offset / CHUNK as u64) as usize, (offset % CHUNK as u64) as usize);
        (chunk, at, want.min(CHUNK - at))
    }

    /// Takes memory for `offset..end`. A chunk that has memory and was not written is empty still.
    fn reserve(&mut self, offset: u64, end: u64) -> io::Result<()> {
        let chunks = (offset / CHUNK as u64) as usize..end.div_ceil(CHUNK as u64) as usize;
        if chunks.end > self.chunks.len() {
            self.chunks.try_reserve(chunks.end - self.chunks.len())?;
            self.chunks.resize_with(chunks.end, Vec::new);
        }
        let chunks = &mut self.chunks[chunks];
        for i in 0..chunks.len() {
            if chunks[i].capacity() > 0 {
                continue;
            }
            if is_denied() || chunks[i].try_reserve_exact(CHUNK).is_err() {
                // What cannot be had whole is left to others.
                let unwritten = chunks.iter_mut().filter(|chunk| chunk.is_empty());
                unwritten.for_each(|chunk| *chunk = Vec::new());
                return Err(io::ErrorKind::OutOfMemory.into());
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let (index, at, n) = Bytes::place(offset, data.len());
        self.reserve(offset, offset + n as u64)?;
        let chunk = &mut self.chunks[index];
        chunk.resize(CHUNK, 0);
        chunk[at..at + n].copy_from_slice(&data[..n]);
        self.len = self.len.max(offset + n as u64);
        Ok(n)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let left = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (index, at, n) = Bytes::place(offset, left);
        match self.chunks.get(index) {
            Some(chunk) if !chunk.is_empty() => buf[..n].copy_from_slice(&chunk[at..at + n]),
            _ => buf[..n].fill(0),
        }
        n
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (index, at, _) = Bytes::place(len, 0);
            self.chunks.truncate(index + 1);
            if let Some(chunk) = self.chunks.get_mut(index)
                && !chunk.is_empty()
            {
                chunk[at..].fill(0);
            }
        }
        self.len = len;
    }
}

impl RamFile {
    fn change<T>(&self, work: impl FnOnce(&mut Bytes) -> io::Result<T>) -> io::Result<T> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        work(&mut self.bytes.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl VfsFile for RamFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.bytes.read().unwrap_or_else(PoisonError::into_inner).read(offset, buf))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.change(|bytes| bytes.write(offset, data))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|bytes| {
            bytes.set_len(len);
            Ok(())
        })
    }

    fn fallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.change(|bytes| {
            bytes.reserve(offset, offset + len)?;
            bytes.len = bytes.len.max(offset + len);
            Ok(())
        })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.bytes.read().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn os_file(&self) -> Option<&File> {
        None
    }
}
