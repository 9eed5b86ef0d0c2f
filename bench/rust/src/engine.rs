//! What a contestant of the commit rows does, and the loops that drive it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::race::{Picks, Res};

pub const CHANGE: usize = 64;

/// 64 bytes at `offset` of the page or value `key`.
#[derive(Clone, Copy, Default)]
pub struct Change {
    pub key: u32,
    pub offset: u32,
}

/// Makes changes in one atomic commit. `data` is new each time.
pub trait Commit: Sync {
    fn commit(&self, changes: &[Change], data: &[u8; CHANGE]) -> Res<()>;
}

/// Opens a fresh view of everything and reads the first 64 bytes of a page.
pub trait Read {
    fn read(&self, key: u32, out: &mut [u8; CHANGE]) -> Res<()>;
}

/// Random changes of a table of `count` values of `size` bytes, `per` in a commit.
#[derive(Clone, Copy)]
pub struct Load {
    pub count: u32,
    pub size: usize,
    pub per: usize,
}

static DRIVERS: AtomicU64 = AtomicU64::new(1);

/// A contestant with its place in a sequence of changes. No two drivers write the same bytes: what is already there may
/// cost an engine nothing.
pub struct Driver<'a> {
    engine: &'a dyn Commit,
    load: Load,
    picks: Picks,
    stamp: u64,
    changes: Vec<Change>,
}

impl<'a> Driver<'a> {
    pub fn new(engine: &'a dyn Commit, load: Load) -> Self {
        let number = DRIVERS.fetch_add(1, Ordering::Relaxed);
        let changes = vec![Change::default(); load.per];
        Driver { engine, load, picks: Picks::new(number), stamp: number << 40, changes }
    }

    pub fn run(&mut self, ops: usize) -> Res<Duration> {
        let places = (self.load.size / CHANGE) as u32;
        let start = Instant::now();
        for _ in 0..ops {
            self.stamp += 1;
            for change in &mut self.changes {
                let key = self.picks.below(self.load.count);
                let offset = self.picks.below(places) * CHANGE as u32;
                *change = Change { key, offset };
            }
            self.engine.commit(&self.changes, &stamped(self.stamp))?;
        }
        Ok(start.elapsed())
    }
}

/// Single changes from `threads` threads at once, `ops` in all.
pub fn together(engine: &dyn Commit, load: Load, threads: usize, ops: usize) -> Res<Duration> {
    let start = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| Driver::new(engine, load).run(ops.div_ceil(threads))))
            .collect();
        for worker in workers {
            worker.join().map_err(|_| "a benchmark thread panicked")??;
        }
        Ok(start.elapsed())
    })
}

pub fn reads(engine: &dyn Read, count: u32, ops: usize) -> Res<Duration> {
    let mut picks = Picks::new(0);
    let mut out = [0; CHANGE];
    let start = Instant::now();
    for _ in 0..ops {
        engine.read(picks.below(count), &mut out)?;
        std::hint::black_box(&out);
    }
    Ok(start.elapsed())
}

fn stamped(stamp: u64) -> [u8; CHANGE] {
    let mut data = [0; CHANGE];
    for word in data.chunks_exact_mut(8) {
        word.copy_from_slice(&stamp.to_le_bytes());
    }
    data
}

/// What a value holds at the start: never zeros, which a file system or an allocator could take for nothing.
pub fn initial(key: u32, out: &mut [u8]) {
    out.fill(key as u8 | 1);
}
