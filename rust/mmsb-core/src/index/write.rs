//! Making indexes: out of a segment's records, when it was sealed or when a query finds none.

use std::io;
use std::path::{Path, PathBuf};

use super::read::Index;
use super::{
    BLOCK, CHAIN, END, ENTRY, EXTENSION, HASH, HEADER, MAGIC, MARK, MARKS, SEQ, STRIDE, TEMP, UUID,
    dir, file_name, keys, path,
};
use crate::arena::is_denied;
use crate::hash::{h64, h128};
use crate::history::Store;
use crate::log::{self, FORMAT, SegmentName, Step, Walk, put_varint};
use crate::sync::{Mutex, MutexGuard, lock};
use crate::vfs::{OpenKind, Vfs, read_vec, write_all_at};
use crate::{Code, Error, Result, trace};

/// The indexes of a store.
#[derive(Debug)]
pub(crate) struct Indexes {
    pub(crate) store: Store,
    /// Whether there is anybody who may write one: the host of a directory, as long as it has the store's lock.
    writer: Mutex<bool>,
    /// A segment shorter than this has none: to read it is as cheap.
    least: u64,
}

impl Indexes {
    pub(crate) fn new(store: Store, writes: bool, least: u64) -> Indexes {
        Indexes { store, writer: Mutex::new(writes), least }
    }

    /// The index of a segment; of a sealed one that has none it is made, if it may be written. Without it the segment has
    /// to be read.
    pub(crate) fn get(
        &self,
        name: SegmentName,
        walk: &mut Walk,
        is_sealed: bool,
    ) -> Result<Option<Index>> {
        let found = Index::open(&self.store, name, walk)?;
        if found.is_some() || !is_sealed {
            return Ok(found);
        }
        let writer = lock(&self.writer);
        // Somebody may have made it while this waited.
        let found = Index::open(&self.store, name, walk)?;
        if found.is_some() || !*writer {
            return Ok(found);
        }
        self.make(name);
        Index::open(&self.store, name, walk)
    }

    /// Makes an index anew that turned out to be damaged, if it may be written; whoever noticed reads the segment.
    pub(crate) fn renew(&self, name: SegmentName) {
        let writer = lock(&self.writer);
        if *writer {
            self.make(name);
        }
    }

    /// Makes the indexes that segments before `end` lack, from number `from` on.
    pub(crate) fn catch_up(&self, from: u64, end: u64) {
        let store = &self.store;
        // What cannot be listed or read now is told by whoever needs it.
        let Ok(names) = log::list(&*store.vfs, &store.dir) else { return };
        for &name in names.iter().filter(|name| (from..end).contains(&name.seq)) {
            let writer = lock(&self.writer);
            let is_there = |path: &Path| store.vfs.exists(path).unwrap_or(true);
            // It may have been pruned since it was listed.
            let lacks = || {
                !is_there(&path(&store.dir, name))
                    && is_there(&log::log_dir(&store.dir).join(name.file()))
            };
            if *writer && lacks() {
                self.make(name);
            }
        }
    }

    /// No index is written while this is held.
    pub(crate) fn hold(&self) -> MutexGuard<'_, bool> {
        lock(&self.writer)
    }

    /// No index is written after this, and none is left unfinished.
    pub(crate) fn close(&self) {
        let mut writer = lock(&self.writer);
        if std::mem::take(&mut *writer) {
            let _ = remove_remains(&*self.store.vfs, &self.store.dir);
        }
    }

    /// Writes a segment's index, in the place of one that means nothing; `writer` is held. A failure is told by an event: a
    /// query reads the segment instead.
    fn make(&self, name: SegmentName) {
        let store = &self.store;
        let file = path(&store.dir, name);
        let done = build(store, name, self.least).and_then(|bytes| match bytes {
            Some(bytes) => write(&*store.vfs, &store.dir, name, &bytes).map(|()| bytes.len()),
            None => Ok(0),
        });
        match done {
            Ok(0) => {}
            Ok(bytes) => trace::index_done(&file, bytes as u64),
            Err(error) => trace::index_failed(&file, &error.message),
        }
    }
}

/// Gives an index its name when it is durable.
fn write(vfs: &dyn Vfs, store: &Path, name: SegmentName, bytes: &[u8]) -> Result<()> {
    let to = path(store, name);
    let temp = dir(store).join(TEMP);
    let written = vfs.create_dir(&dir(store)).and_then(|()| {
        remove_remains(vfs, store)?;
        let file = vfs.open(&temp, OpenKind::CreateNew)?;
        write_all_at(&*file, 0, bytes)?;
        file.sync()?;
        vfs.rename(&temp, &to)
    });
    written.map_err(|e| {
        // What can't be removed now is removed by the next attempt.
        let _ = vfs.unlink(&temp);
        Error::storage(&to, &e, "cannot write")
    })
}

/// Removes what is left of an index that a crash ended.
fn remove_remains(vfs: &dyn Vfs, store: &Path) -> io::Result<()> {
    let temp = dir(store).join(TEMP);
    if vfs.exists(&temp)? { vfs.unlink(&temp) } else { Ok(()) }
}

/// The bytes of a segment's index; none for a segment that is not sealed or shorter than `least`.
pub(super) fn build(store: &Store, name: SegmentName, least: u64) -> Result<Option<Vec<u8>>> {
    let mut walk = log::open_segment(&*store.vfs, &store.dir, name, Some(store.uuid))?;
    if walk.window.size()? < least {
        return Ok(None);
    }
    let (mut marks, mut pairs, mut seal) = (Vec::new(), Vec::new(), 0);
    let mut put = |key, at| {
        if is_denied() || pairs.try_reserve(1).is_err() {
            let what = format!("no memory for the index of {}", name.file());
            return Err(Error::new(Code::OutOfSpace, what));
        }
        pairs.push((key, at));
        Ok(())
    };
    loop {
        let (begin, number) = (walk.offset, walk.commits);
        match walk.step()? {
            Step::Commit(commit) => {
                if number.is_multiple_of(STRIDE) {
                    marks.push((begin, commit.time));
                }
                keys(&commit).try_for_each(|key| put(key, begin))?;
            }
            Step::Mark { .. } => put(MARKS, begin)?,
            Step::Other => seal = begin,
            Step::Nothing => break,
            Step::Wrong(what) => return Err(walk.damage(what)),
        }
    }
    if !walk.sealed {
        return Ok(None);
    }
    pairs.sort_unstable();
    pairs.dedup();
    let mut blocks = Blocks::default();
    for run in pairs.chunk_by(|a, b| a.0 == b.0) {
        blocks.put(run);
    }
    Ok(Some(encode(&walk, seal, &marks, blocks)))
}

/// Runs of places by key, in blocks that can be read one by one.
#[derive(Default)]
struct Blocks {
    done: Vec<u8>,
    /// Key, first offset, position and hash of each block.
    directory: Vec<[u64; ENTRY / 8]>,
    block: Vec<u8>,
    key: u64,
}

impl Blocks {
    /// Puts the places of one key, which is greater than those before.
    fn put(&mut self, mut run: &[(u64, u64)]) {
        while let Some(&(key, offset)) = run.first() {
            if self.block.is_empty() {
                self.directory.push([key, offset, self.done.len() as u64, 0]);
                self.key = key;
            }
            let (mut places, mut count, mut last) = (Vec::new(), 0, 0);
            for &(_, offset) in run {
                put_varint(&mut places, (offset - last) / 8);
                (count, last) = (count + 1, offset);
                if self.block.len() + places.len() >= BLOCK {
                    break;
                }
            }
            put_varint(&mut self.block, key - self.key);
            put_varint(&mut self.block, count as u64);
            self.block.extend_from_slice(&places);
            self.key = key;
            run = &run[count..];
            if self.block.len() >= BLOCK {
                self.end_block();
            }
        }
    }

    fn end_block(&mut self) {
        if let Some(entry) = self.directory.last_mut().filter(|_| !self.block.is_empty()) {
            entry[3] = h64(&self.block);
            self.done.append(&mut self.block);
        }
    }
}

fn encode(walk: &Walk, seal: u64, marks: &[(u64, u64)], mut blocks: Blocks) -> Vec<u8> {
    blocks.end_block();
    let tables = marks.len() * MARK + blocks.directory.len() * ENTRY;
    let size = HEADER + tables + blocks.done.len();
    let mut out = Vec::with_capacity(size);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.0.to_le_bytes());
    out.resize(UUID, 0);
    out.extend_from_slice(&walk.header.uuid);
    assert_eq!(out.len(), SEQ, "the fields are where FORMAT.md says");
    let words = [walk.header.seq, walk.header.first_epoch, walk.commits, seal, walk.chain];
    let counts = [walk.offset, marks.len() as u64, blocks.directory.len() as u64, size as u64];
    for word in words.into_iter().chain(counts) {
        out.extend_from_slice(&word.to_le_bytes());
    }
    assert_eq!(out.len(), HASH, "the fields are where FORMAT.md says");
    out.resize(HEADER, 0);
    for word in marks.iter().flat_map(|&(offset, time)| [offset, time]) {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for word in blocks.directory.iter().flatten() {
        out.extend_from_slice(&word.to_le_bytes());
    }
    let hash = h128(&out[HEADER..]);
    out[HASH..END].copy_from_slice(&hash.to_le_bytes());
    let sum = h64(&out[..HEADER - 8]);
    out[HEADER - 8..HEADER].copy_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&blocks.done);
    assert_eq!(out.len(), size, "all of an index was encoded");
    out
}

/// Compares every index with what its segment says. One that was left behind by a segment that has changed since says
/// nothing about it, and is no damage.
pub(crate) fn verify(store: &Store, on_problem: &mut dyn FnMut(Error)) -> Result<u64> {
    let at = dir(&store.dir);
    let listed = match store.vfs.list(&at) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        listed => listed.map_err(|e| Error::storage(&at, &e, "cannot list"))?,
    };
    let names = match log::list(&*store.vfs, &store.dir) {
        Err(error) if error.code != Code::Corruption => return Err(error),
        // The log's own check tells what is wrong with its segments.
        listed => listed.ok(),
    };
    let base = store.base()?.seq;
    let mut bytes = 0;
    for file in listed.iter().filter(|file| file.ends_with(EXTENSION)) {
        let to = at.join(file);
        let found = vfs_read(&*store.vfs, &to)?;
        bytes += found.len() as u64;
        let name = names.iter().flatten().find(|&&name| file_name(name) == *file);
        let wrong = match name {
            // What is left of a segment that was let go.
            None if names.is_none() || segment_of(file).is_some_and(|seq| seq < base) => None,
            None => Some((0, "an index of no segment")),
            Some(&name) => match build(store, name, 0) {
                Ok(Some(right)) => difference(&found, &right),
                Ok(None) => None,
                Err(e) if matches!(e.code, Code::Corruption | Code::FormatVersion) => None,
                Err(error) => return Err(error),
            },
        };
        if let Some((offset, what)) = wrong {
            on_problem(Error::corruption(&to, Some(offset), name.map(|n| n.first_epoch), what));
        }
    }
    Ok(bytes)
}

/// The indexes of segments before number `seq`.
pub(crate) fn before(store: &Store, seq: u64) -> Result<Vec<PathBuf>> {
    let dir = dir(&store.dir);
    let listed = match store.vfs.list(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| Error::storage(&dir, &e, "cannot list"))?,
    };
    let is_before = |file: &String| segment_of(file).is_some_and(|of| of < seq);
    Ok(listed.into_iter().filter(is_before).map(|file| dir.join(file)).collect())
}

/// The number of the segment that a file is named after.
fn segment_of(file: &str) -> Option<u64> {
    u64::from_str_radix(file.get(..16)?, 16).ok().filter(|_| file.ends_with(EXTENSION))
}

/// Where an index is first another than the one that it should be.
fn difference(found: &[u8], right: &[u8]) -> Option<(u64, &'static str)> {
    let at = found.iter().zip(right).position(|(a, b)| a != b);
    let at = at.unwrap_or(found.len().min(right.len()));
    if at == found.len() && at == right.len() {
        return None;
    }
    // A whole header that names another end of the same segment.
    let is_whole = found.len() >= HEADER && log::checked(&found[..HEADER], HEADER, &MAGIC);
    let is_stale = is_whole && found[..SEQ + 16] == right[..SEQ + 16] && at < CHAIN + 16;
    (!is_stale).then_some((at as u64, "the index does not say what its segment says"))
}

fn vfs_read(vfs: &dyn Vfs, path: &Path) -> Result<Vec<u8>> {
    let fail = |e: &io::Error| Error::storage(path, e, "cannot read");
    let file = vfs.open(path, OpenKind::Read).map_err(|e| fail(&e))?;
    let size = file.size().map_err(|e| fail(&e))?;
    let bytes = read_vec(&*file, 0, size).map_err(|e| fail(&e))?;
    let lacking = format!("no memory for {size} bytes of {}", path.display());
    bytes.ok_or_else(|| Error::new(Code::OutOfSpace, lacking))
}
