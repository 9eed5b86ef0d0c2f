//! The file system of the crash tests: it knows what a power loss may take, and fails where it is told to.
//!
//! What was synced is durable; of the rest a crash keeps any sectors, either length, and any of the unsynced names.
//! A failed sync leaves the bytes readable and never writes them by itself, as Linux does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{OpenKind, RamVfs, StoreLock, Vfs, VfsFile};
use crate::error::Result;

const SECTOR: usize = 512;

/// What happens at a chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This call and all later ones do nothing and fail: the power is gone.
    Crash,
    /// This call fails with this error number, the next ones work again.
    Once(i32),
    /// Of a write, half the bytes are written.
    Short,
}

/// Files whose durable content is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct SimVfs(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    dirs: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, Shared>,
    durable_names: BTreeMap<PathBuf, Shared>,
    locks: RamVfs,
    calls: u64,
    fault: Option<(u64, Fault)>,
    syncs_failed: u64,
    down: bool,
}

type Shared = Arc<Mutex<Content>>;

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    sync_failed: bool,
}

#[derive(Debug)]
struct SimFile {
    state: Arc<Mutex<State>>,
    content: Shared,
}

/// A small random number generator: the tests must repeat.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        crate::hash::h64(&self.0.to_le_bytes())
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

impl State {
    /// Counts a call that changes something; says what happens to it.
    fn call(&mut self) -> io::Result<Option<Fault>> {
        self.calls += 1;
        if self.down {
            return Err(io::ErrorKind::NotConnected.into());
        }
        match self.fault {
            Some((at, fault)) if at == self.calls => match fault {
                Fault::Crash => {
                    self.down = true;
                    Err(io::ErrorKind::NotConnected.into())
                }
                Fault::Once(errno) => Err(io::Error::from_raw_os_error(errno)),
                Fault::Short => Ok(Some(fault)),
            },
            _ => Ok(None),
        }
    }
}

impl SimVfs {
    pub(crate) fn new() -> SimVfs {
        let vfs = SimVfs::default();
        vfs.state().dirs.insert(PathBuf::from("/"));
        vfs.state().locks = RamVfs::new();
        vfs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Lets the `at`-th changing call from now on fail.
    pub(crate) fn set_fault(&self, at: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.calls + at, fault));
    }

    /// Whether the fault has happened.
    pub(crate) fn hit(&self) -> bool {
        let state = self.state();
        state.fault.is_some_and(|(at, _)| state.calls >= at)
    }

    /// Whether a sync of a file failed and was asked for again on the same open file.
    pub(crate) fn retried_sync(&self) -> bool {
        self.state().syncs_failed > 1
    }

    /// What the disk may hold after a power loss now. `keep` decides about unsynced sectors, lengths and names.
    pub(crate) fn after_crash(&self, keep: &mut dyn FnMut() -> bool) -> SimVfs {
        let state = self.state();
        let after = SimVfs::new();
        let mut fresh = after.state();
        fresh.dirs = state.dirs.clone();
        let every: BTreeSet<&PathBuf> =
            state.names.keys().chain(state.durable_names.keys()).collect();
        for path in every {
            let (now, durable) = (state.names.get(path), state.durable_names.get(path));
            let same = matches!((now, durable), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
            let Some(content) = (if same || keep() { now } else { durable }) else { continue };
            let bytes = content.lock().unwrap().survivors(keep);
            let content = Content { now: bytes.clone(), durable: bytes, ..Content::default() };
            fresh.names.insert(path.clone(), Arc::new(Mutex::new(content)));
        }
        fresh.durable_names = fresh.names.clone();
        drop(fresh);
        after
    }

    /// The machine goes on, the process does not: everything written is still readable.
    pub(crate) fn after_kill(&self) -> SimVfs {
        let state = self.state();
        let after = SimVfs::new();
        let mut fresh = after.state();
        fresh.dirs = state.dirs.clone();
        let mut copies: BTreeMap<usize, Shared> = BTreeMap::new();
        let mut copy = |content: &Shared| {
            let alive = || Content { sync_failed: false, ..content.lock().unwrap().clone() };
            let make = || Arc::new(Mutex::new(alive()));
            copies.entry(Arc::as_ptr(content) as usize).or_insert_with(make).clone()
        };
        fresh.names = state.names.iter().map(|(p, c)| (p.clone(), copy(c))).collect();
        fresh.durable_names =
            state.durable_names.iter().map(|(p, c)| (p.clone(), copy(c))).collect();
        drop(fresh);
        after
    }

    fn changing(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.call()?;
        Ok(state)
    }
}

/// Keeps any subset.
pub(crate) fn some(rng: &mut Rng) -> impl FnMut() -> bool + '_ {
    || rng.coin()
}

impl Content {
    fn survivors(&self, keep: &mut dyn FnMut() -> bool) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        if self.now.len() != bytes.len() && keep() {
            bytes.resize(self.now.len(), 0);
        }
        for &sector in &self.dirty {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.now.len()).min(bytes.len());
            if start < end && keep() {
                bytes[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        bytes
    }

    fn touch(&mut self, start: usize, end: usize) {
        self.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
    }
}

impl Vfs for SimVfs {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.changing()?.dirs.insert(dir.to_path_buf());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        Ok(state.names.contains_key(path) || state.dirs.contains(path))
    }

    fn open(&self, path: &Path, kind: OpenKind) -> io::Result<Arc<dyn VfsFile>> {
        let mut state = if kind == OpenKind::CreateNew { self.changing()? } else { self.state() };
        let content = match (state.names.get(path).cloned(), kind) {
            (Some(_), OpenKind::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => content,
            (None, OpenKind::CreateNew) => {
                let content = Shared::default();
                state.names.insert(path.to_path_buf(), content.clone());
                content
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Arc::new(SimFile { state: self.0.clone(), content }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        let content = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), content);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        state.names.remove(path).map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        let state = &mut *state;
        state.durable_names.retain(|path, _| path.parent() != Some(dir));
        let inside = state.names.iter().filter(|(path, _)| path.parent() == Some(dir));
        state.durable_names.extend(inside.map(|(path, content)| (path.clone(), content.clone())));
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn StoreLock>> {
        self.state().locks.lock(path)
    }

    fn locked(&self, path: &Path) -> io::Result<bool> {
        self.state().locks.locked(path)
    }
}

impl VfsFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let content = self.content.lock().unwrap();
        let from = content.now.get(offset as usize..).unwrap_or_default();
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let fault = self.state.lock().unwrap().call()?;
        let n = if fault.is_some() { data.len() / 2 } else { data.len() };
        let mut content = self.content.lock().unwrap();
        let (start, end) = (offset as usize, offset as usize + n);
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(&data[..n]);
        content.touch(start, end);
        Ok(n)
    }

    fn sync(&self) -> io::Result<()> {
        let called = self.state.lock().unwrap().call();
        let mut content = self.content.lock().unwrap();
        if content.sync_failed {
            self.state.lock().unwrap().syncs_failed += 1;
        }
        if let Err(error) = called {
            content.sync_failed = true;
            content.dirty.clear();
            self.state.lock().unwrap().syncs_failed += 1;
            return Err(error);
        }
        let len = content.now.len();
        content.durable.resize(len, 0);
        for sector in std::mem::take(&mut content.dirty) {
            let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(len));
            if start < end {
                let content = &mut *content;
                content.durable[start..end].copy_from_slice(&content.now[start..end]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.state.lock().unwrap().call()?;
        let mut content = self.content.lock().unwrap();
        let before = content.now.len();
        content.touch(len as usize, before.max(len as usize));
        content.now.resize(len as usize, 0);
        Ok(())
    }

    fn fallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.state.lock().unwrap().call()?;
        let mut content = self.content.lock().unwrap();
        let end = (offset + len) as usize;
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().now.len() as u64)
    }

    fn os_file(&self) -> Option<&File> {
        None
    }
}
