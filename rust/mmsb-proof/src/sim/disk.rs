//! What a disk holds, and what may be left of it when the power goes.
//!
//! Of every file there is what programs read and what is durable. A power loss keeps the durable part, and of the rest
//! any sectors, either length and any names; each of these choices is independent of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use twox_hash::XxHash3_128;

/// What a disk writes whole.
pub const SECTOR: usize = 512;

/// Number of a file, whatever its name.
pub(crate) type Inode = u64;

/// A file's bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) now: Vec<u8>,
    pub(crate) durable: Vec<u8>,
    /// Sectors that were changed since they were last durable and that the system will write.
    pub(crate) dirty: BTreeSet<usize>,
    /// A sync failed: the caller must not believe a later one.
    pub(crate) sync_failed: bool,
    /// What is read may be more than the disk has, though nothing is left to write: a sync failed in this boot.
    cache_lies: bool,
}

/// What a power loss decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Choice {
    /// Whether a new directory survives; the number is its place in their order.
    Directory(usize),
    /// Whether the newest state of a name survives; the number is the name's place in their order.
    Name(usize),
    /// Whether the newest length of a file survives.
    Length(u64),
    /// Whether a changed sector of a file survives.
    Sector(u64, usize),
}

/// Files and their names, as they are and as they would be after a power loss. Clones share bytes.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub(crate) dirs: BTreeSet<Arc<Path>>,
    pub(crate) durable_dirs: BTreeSet<Arc<Path>>,
    pub(crate) names: BTreeMap<Arc<Path>, Inode>,
    pub(crate) durable_names: BTreeMap<Arc<Path>, Inode>,
    pub(crate) files: BTreeMap<Inode, Arc<Content>>,
    pub(crate) dir_sync_failed: BTreeSet<PathBuf>,
    next: Inode,
}

impl Content {
    pub(crate) fn touch(&mut self, start: usize, end: usize) {
        self.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
    }

    /// Overwrites or extends.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(data);
        self.touch(offset, end);
    }

    /// Makes everything durable.
    pub(crate) fn sync(&mut self) {
        let len = self.now.len();
        self.durable.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }

    fn keep(&mut self, sector: usize) {
        let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(self.now.len()));
        let end = end.min(self.durable.len());
        if start < end {
            self.durable[start..end].copy_from_slice(&self.now[start..end]);
        }
    }

    /// The system writes a sector, and with it the length that it needs.
    fn write_back(&mut self, sector: usize) {
        let end = ((sector + 1) * SECTOR).min(self.now.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.keep(sector);
    }

    /// A failed sync: some sectors reached the disk, and the system will write none of the others. They stay readable,
    /// or what is read goes back to what the disk has (`reverts`).
    pub(crate) fn fail_sync(&mut self, reverts: bool, written: &mut dyn FnMut(usize) -> bool) {
        self.sync_failed = true;
        self.cache_lies = true;
        for sector in std::mem::take(&mut self.dirty) {
            if written(sector) {
                self.write_back(sector);
            } else if reverts {
                let (start, end) = (sector * SECTOR, ((sector + 1) * SECTOR).min(self.now.len()));
                for at in start..end {
                    self.now[at] = self.durable.get(at).copied().unwrap_or(0);
                }
            }
        }
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.dirty.is_empty() && self.now.len() == self.durable.len() && !self.cache_lies
    }

    fn survivor(&self, inode: Inode, keep: &mut dyn FnMut(Choice) -> bool) -> Content {
        let mut bytes = self.durable.clone();
        if self.now.len() != bytes.len() && keep(Choice::Length(inode)) {
            bytes.resize(self.now.len(), 0);
        }
        for &sector in &self.dirty {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.now.len()).min(bytes.len());
            if start < end && keep(Choice::Sector(inode, sector)) {
                bytes[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        Content { now: bytes.clone(), durable: bytes, ..Content::default() }
    }
}

impl Disk {
    pub(crate) fn add(&mut self, path: &Path) -> Inode {
        let inode = self.next;
        self.next += 1;
        self.files.insert(inode, Arc::default());
        self.names.insert(path.into(), inode);
        inode
    }

    pub(crate) fn content(&mut self, inode: Inode) -> &mut Content {
        Arc::make_mut(self.files.entry(inode).or_default())
    }

    /// What the disk may hold after a power loss now.
    pub fn after_crash(&self, keep: &mut dyn FnMut(Choice) -> bool) -> Disk {
        let mut after = Disk { next: self.next, ..Disk::default() };
        for (place, dir) in self.dirs.iter().enumerate() {
            let inside = dir.parent().is_none_or(|parent| after.dirs.contains(parent));
            if inside && (self.durable_dirs.contains(dir) || keep(Choice::Directory(place))) {
                after.dirs.insert(dir.clone());
            }
        }
        after.durable_dirs = after.dirs.clone();
        let every: BTreeSet<&Arc<Path>> =
            self.names.keys().chain(self.durable_names.keys()).collect();
        for (place, path) in every.into_iter().enumerate() {
            if path.parent().is_some_and(|dir| !after.dirs.contains(dir)) {
                continue;
            }
            let (now, durable) = (self.names.get(path), self.durable_names.get(path));
            let kept = if now == durable || keep(Choice::Name(place)) { now } else { durable };
            let Some(&inode) = kept else { continue };
            after.names.insert(path.clone(), inode);
            after.files.entry(inode).or_insert_with(|| {
                let content = &self.files[&inode];
                if content.is_durable() {
                    content.clone()
                } else {
                    content.survivor(inode, keep).into()
                }
            });
        }
        after.durable_names = after.names.clone();
        after
    }

    /// The machine goes on, the process does not: everything written is still readable and not more durable.
    pub fn after_kill(&self) -> Disk {
        let mut after = self.clone();
        after.new_host();
        after
    }

    /// Whoever comes now has not seen a sync fail.
    pub(crate) fn new_host(&mut self) {
        self.dir_sync_failed.clear();
        for content in self.files.values_mut().filter(|content| content.sync_failed) {
            Arc::make_mut(content).sync_failed = false;
        }
    }

    /// The system writes some of what it has to write, as it may at any time and in any order.
    pub(crate) fn write_back(&mut self, chosen: &mut dyn FnMut() -> bool) {
        for content in self.files.values_mut().filter(|content| !content.dirty.is_empty()) {
            let sectors: Vec<usize> = content.dirty.iter().copied().filter(|_| chosen()).collect();
            let content = Arc::make_mut(content);
            for sector in sectors {
                content.dirty.remove(&sector);
                content.write_back(sector);
            }
        }
        for (path, &inode) in &self.names {
            if self.durable_names.get(path) != Some(&inode) && chosen() {
                self.durable_names.insert(path.clone(), inode);
            }
        }
    }

    /// A number that images with the same bytes under the same names have in common, and no others.
    pub fn fingerprint(&self) -> u128 {
        let mut hasher = XxHash3_128::new();
        for dir in &self.dirs {
            hasher.write(dir.as_os_str().as_encoded_bytes());
            hasher.write(b"\0");
        }
        for (path, inode) in &self.names {
            let content = &self.files[inode];
            hasher.write(path.as_os_str().as_encoded_bytes());
            hasher.write(&[0, u8::from(content.is_durable())]);
            hasher.write(&(content.now.len() as u64).to_le_bytes());
            hasher.write(&content.now);
            if !content.is_durable() {
                hasher.write(&(content.durable.len() as u64).to_le_bytes());
                hasher.write(&content.durable);
            }
        }
        hasher.finish_128()
    }

    /// How many choices a power loss now would have.
    pub fn pending(&self) -> usize {
        let mut count = 0;
        self.after_crash(&mut |_| {
            count += 1;
            true
        });
        count
    }

    /// The files of a directory, as programs see them or as they are durable, in the order of their names.
    pub fn files_in(&self, dir: &Path, durable: bool) -> Vec<(Arc<Path>, &[u8])> {
        let names = if durable { &self.durable_names } else { &self.names };
        let inside = names.iter().filter(|(path, _)| path.parent() == Some(dir));
        inside
            .map(|(path, inode)| {
                let content = &self.files[inode];
                (path.clone(), if durable { &content.durable[..] } else { &content.now[..] })
            })
            .collect()
    }

    /// The bytes of a file.
    pub fn read(&self, path: &Path) -> Option<&[u8]> {
        self.names.get(path).map(|inode| &self.files[inode].now[..])
    }

    /// All names and the bytes they lead to, for telling images apart.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.names.iter().map(|(path, inode)| (&**path, &self.files[inode].now[..]))
    }

    /// Changes a file behind everybody's back, durably; makes it if there is none.
    pub fn plant(&mut self, path: &Path, bytes: &[u8]) {
        let inode = match self.names.get(path) {
            Some(&inode) => inode,
            None => self.add(path),
        };
        self.durable_names.insert(path.into(), inode);
        let content = Content { now: bytes.into(), durable: bytes.into(), ..Content::default() };
        self.files.insert(inode, Arc::new(content));
    }

    /// Makes directories behind everybody's back, durably.
    pub fn make_dirs(&mut self, dirs: &[PathBuf]) {
        for dir in dirs {
            self.dirs.insert(dir.as_path().into());
            self.durable_dirs.insert(dir.as_path().into());
        }
    }

    /// Removes a file behind everybody's back, durably.
    pub fn lose(&mut self, path: &Path) {
        self.names.remove(path);
        self.durable_names.remove(path);
    }
}
