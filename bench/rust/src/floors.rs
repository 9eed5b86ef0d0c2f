//! The floors: what the machine itself costs, without an engine around it.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::SystemTime;

use twox_hash::XxHash3_64;

use crate::engine::{CHANGE, Change, Commit};
use crate::race::{Picks, Res};

/// What a record costs on top of its changes.
const HEADER: usize = 64;

fn create(file: &Path) -> Res<File> {
    Ok(OpenOptions::new().read(true).write(true).create_new(true).open(file)?)
}

fn record(changes: &[Change], data: &[u8; CHANGE], out: &mut Vec<u8>) {
    out.clear();
    out.resize(HEADER, 0);
    for _ in changes {
        out.extend_from_slice(data);
    }
}

/// One `pwrite` for each commit, synced or not. It keeps no state and checks nothing.
pub struct Append {
    file: File,
    end: Mutex<(u64, Vec<u8>)>,
    /// Where the writing starts over.
    ring: u64,
    sync: bool,
}

impl Append {
    /// At the end of a file that grows.
    pub fn create(file: &Path, sync: bool) -> Res<Self> {
        Ok(Append { file: create(file)?, end: Mutex::default(), ring: u64::MAX, sync })
    }

    /// Over bytes that were written before, so that a sync has no new blocks to record.
    pub fn over(file: &Path) -> Res<Self> {
        let over = Append { file: create(file)?, end: Mutex::default(), ring: 4 << 20, sync: true };
        over.file.write_all_at(&vec![1; over.ring as usize], 0)?;
        over.file.sync_all()?;
        Ok(over)
    }
}

impl Commit for Append {
    fn commit(&self, changes: &[Change], data: &[u8; CHANGE]) -> Res<()> {
        let mut end = self.end.lock().map_err(|_| "poisoned")?;
        let (at, bytes) = &mut *end;
        record(changes, data, bytes);
        if *at + bytes.len() as u64 > self.ring {
            *at = 0;
        }
        self.file.write_all_at(bytes, *at)?;
        *at += bytes.len() as u64;
        if self.sync {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// Appends from many threads where one of them, the leader, syncs for all that wait.
pub struct Group {
    file: File,
    state: Mutex<GroupState>,
    wake: Condvar,
}

#[derive(Default)]
struct GroupState {
    appended: u64,
    synced: u64,
    syncing: bool,
}

impl Group {
    pub fn create(file: &Path) -> Res<Self> {
        Ok(Group { file: create(file)?, state: Mutex::default(), wake: Condvar::new() })
    }
}

impl Commit for Group {
    fn commit(&self, changes: &[Change], data: &[u8; CHANGE]) -> Res<()> {
        let mut bytes = Vec::new();
        record(changes, data, &mut bytes);
        let mut state = self.state.lock().map_err(|_| "poisoned")?;
        self.file.write_all_at(&bytes, state.appended)?;
        state.appended += bytes.len() as u64;
        let mine = state.appended;
        while state.synced < mine {
            if state.syncing {
                state = self.wake.wait(state).map_err(|_| "poisoned")?;
                continue;
            }
            state.syncing = true;
            let upto = state.appended;
            drop(state);
            self.file.sync_data()?;
            state = self.state.lock().map_err(|_| "poisoned")?;
            state.syncing = false;
            state.synced = upto;
            self.wake.notify_all();
        }
        Ok(())
    }
}

/// A shared mapping: of a file, or of memory when there is none.
struct Mapping {
    start: *mut u8,
    len: usize,
}

// SAFETY: the mapping belongs to whoever owns the value; it is only touched under that owner's lock.
unsafe impl Send for Mapping {}

impl Mapping {
    fn of(file: Option<&File>, len: usize) -> Res<Self> {
        let (flags, fd) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: a new mapping at an address that the kernel picks.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        Ok(Mapping { start: start.cast(), len })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped readable and writable for `len` bytes, and borrowed for as long as the slice lives.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Brings in the pages of [at, at + len), as first touches would.
    fn populate(&mut self, at: usize, len: usize) -> Res<()> {
        // SAFETY: the range lies in the mapping; populating changes no bytes.
        let done =
            unsafe { libc::madvise(self.start.add(at).cast(), len, libc::MADV_POPULATE_WRITE) };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `of`, and nothing borrows it any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

const SEGMENT: usize = 64 << 20;
const STEP: usize = 1 << 20;
/// What a 64-byte commit takes in MMSB's log.
const RECORD: usize = 112;
/// Three nodes of the page table, copied.
const NODES: usize = 3 * 512;
const SPARE: usize = 64;

/// The sum of the parts of a commit, done in a row and nothing else: the lock, the clock, the copied frame, the copied
/// nodes of a table, two hashes, the store into a mapped log with the first touches of its pages, one atomic store.
pub struct Parts {
    state: Mutex<PartsState>,
    epoch: AtomicU64,
}

struct PartsState {
    frames: Mapping,
    size: usize,
    table: Vec<u32>,
    free: Vec<u32>,
    nodes: Vec<u8>,
    file: std::path::PathBuf,
    log: Mapping,
    at: usize,
    populated: usize,
}

impl Parts {
    pub fn create(file: &Path, count: u32, size: usize) -> Res<Self> {
        let frames = count as usize + SPARE;
        let mut state = PartsState {
            frames: Mapping::of(None, frames * size)?,
            size,
            table: (0..count).collect(),
            free: (count..frames as u32).collect(),
            nodes: vec![0; 2 * NODES],
            file: file.to_owned(),
            log: Mapping::of(None, STEP)?,
            at: 0,
            populated: 0,
        };
        state.frames.bytes().fill(1);
        state.roll()?;
        Ok(Parts { state: Mutex::new(state), epoch: AtomicU64::new(0) })
    }
}

impl PartsState {
    fn roll(&mut self) -> Res<()> {
        let file = create(&self.file)?;
        std::fs::remove_file(&self.file)?;
        // SAFETY: a plain system call on an open file.
        let done = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, SEGMENT as i64) };
        if done != 0 {
            return Err(std::io::Error::from_raw_os_error(done).into());
        }
        self.log = Mapping::of(Some(&file), SEGMENT)?;
        (self.at, self.populated) = (0, 0);
        Ok(())
    }
}

impl Commit for Parts {
    fn commit(&self, changes: &[Change], data: &[u8; CHANGE]) -> Res<()> {
        let mut state = self.state.lock().map_err(|_| "poisoned")?;
        let s = &mut *state;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64;
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&time.to_le_bytes());
        for change in changes {
            let old = s.table[change.key as usize];
            let new = s.free[change.key as usize % SPARE];
            s.free[change.key as usize % SPARE] = old;
            let (from, to) = (old as usize * s.size, new as usize * s.size);
            let frames = s.frames.bytes();
            frames.copy_within(from..from + s.size, to);
            frames[to + change.offset as usize..][..CHANGE].copy_from_slice(data);
            s.table[change.key as usize] = new;
            s.nodes.copy_within(..NODES, NODES);
            record[RECORD - CHANGE..].copy_from_slice(data);
        }
        let body = XxHash3_64::oneshot(&record[8..]);
        record[8..16].copy_from_slice(&body.to_le_bytes());
        let chain = XxHash3_64::oneshot(&record[..16]);
        record[16..24].copy_from_slice(&chain.to_le_bytes());
        if s.at + RECORD > SEGMENT {
            s.roll()?;
        }
        if s.at + RECORD > s.populated {
            s.log.populate(s.populated, STEP)?;
            s.populated += STEP;
        }
        s.log.bytes()[s.at..][..RECORD].copy_from_slice(&record);
        s.at += RECORD;
        self.epoch.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Pages in memory, and the copy of one of them into a spare frame.
pub struct Copies {
    pages: Vec<u8>,
    size: usize,
    picks: Picks,
    spare: Vec<u8>,
}

impl Copies {
    pub fn new(count: u32, size: usize) -> Self {
        let pages = vec![1; count as usize * size];
        Copies { pages, size, picks: Picks::new(0), spare: vec![0; SPARE * size] }
    }

    pub fn one(&mut self) {
        let count = (self.pages.len() / self.size) as u32;
        let page = self.picks.below(count) as usize;
        let to = page % SPARE * self.size;
        let old = &self.pages[page * self.size..][..self.size];
        self.spare[to..to + self.size].copy_from_slice(old);
        std::hint::black_box(&self.spare);
    }
}
