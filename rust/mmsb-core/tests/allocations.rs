//! What the engine takes from the heap, counted call by call in the calling thread: nothing to read, nothing for a
//! small commit, and no more than a little for input that claims to be huge.
#![allow(clippy::unwrap_used, unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use mmsb_core::vfs::{OpenKind, RamVfs, Vfs, read_exact_at, write_all_at};
use mmsb_core::{Batch, Bus, Code, Durability, How, Mode, NewPage, Options};
use twox_hash::XxHash3_64;

/// Counts what each thread takes.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    /// How many pieces of at least `PIECE` bytes there still are.
    static PIECES: Cell<u64> = const { Cell::new(u64::MAX) };
}

const PIECE: usize = 5 << 20;

fn is_there(size: usize) -> bool {
    let left = PIECES.get();
    if size < PIECE || left == u64::MAX {
        return true;
    }
    PIECES.set(left.saturating_sub(1));
    left > 0
}

fn took(calls: u64, bytes: i64) {
    CALLS.set(CALLS.get() + calls);
    BYTES.set(BYTES.get() + bytes);
    PEAK.set(PEAK.get().max(BYTES.get()));
}

// SAFETY: every call goes on to the system's allocator as it came, or gives null; the counters are plain cells that allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_there(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout, as it came.
        let at = unsafe { System.alloc(layout) };
        took(1, if at.is_null() { 0 } else { layout.size() as i64 });
        at
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !is_there(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's layout, as it came.
        let at = unsafe { System.alloc_zeroed(layout) };
        took(1, if at.is_null() { 0 } else { layout.size() as i64 });
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        took(0, -(layout.size() as i64));
        // SAFETY: the caller's pointer and layout, as they came.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !is_there(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's pointer, layout and size, as they came.
        let new = unsafe { System.realloc(at, layout, size) };
        took(1, if new.is_null() { 0 } else { size as i64 - layout.size() as i64 });
        new
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// Calls of the allocator that `work` made.
fn calls<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = CALLS.get();
    let done = work();
    (done, CALLS.get() - before)
}

/// The most bytes that `work` held at a time, beside what was held before.
fn peak<T>(work: impl FnOnce() -> T) -> (T, i64) {
    let before = BYTES.get();
    PEAK.set(before);
    let done = work();
    (done, PEAK.get() - before)
}

const LARGE: u64 = 8 << 20;
/// What a read or a commit takes must not depend on how many pages there are.
const PAGES: [u64; 3] = [1, 1000, 100_000];

fn how(durability: Durability) -> How<'static> {
    How { durability: Some(durability), wait: true, ..How::default() }
}

fn page<'a>(name: Option<&'a str>, shape: &'a [u64], meta: &'a str) -> NewPage<'a> {
    let nbytes = shape.iter().product();
    NewPage { name, dtype: "", itemsize: 1, shape, nbytes, meta, location: 0 }
}

fn options(durability: Durability) -> Options {
    Options { durability: Some(durability), max_memory: Some(256 << 20), ..Options::default() }
}

/// Page 1 is large; `pages` small ones follow.
fn create_pages(bus: &Bus, pages: u64) {
    let mut batch = Batch::new();
    batch.create(1, &page(Some("large"), &[LARGE], ""));
    (2..2 + pages).for_each(|id| batch.create(id, &page(None, &[512], "")));
    bus.commit(&mut batch, None, &how(Durability::Os)).unwrap();
}

#[test]
fn reading_takes_nothing() {
    let _watch = common::watch();
    for pages in PAGES {
        let bus = Bus::memory(&options(Durability::Memory)).unwrap();
        create_pages(&bus, pages);
        bus.write(1, 0, &vec![7; LARGE as usize], &how(Durability::Memory)).unwrap();
        let mut buf = [0; 512];
        let mut large = vec![0; LARGE as usize];
        // The first view of a large page makes room for its count.
        bus.view(1).unwrap();
        let last = pages + 1;
        let snapshot = bus.snapshot().unwrap();
        let counted = [
            ("view of a small page", calls(|| drop(bus.view(last).unwrap())).1),
            ("view of a large page", calls(|| drop(bus.view(1).unwrap())).1),
            ("view of a snapshot", calls(|| drop(snapshot.view(last).unwrap())).1),
            ("large view of a snapshot", calls(|| drop(snapshot.view(1).unwrap())).1),
            ("view of a range", calls(|| drop(snapshot.view_range(1, 5, LARGE - 5).unwrap())).1),
            ("read", calls(|| snapshot.read(last, 0, &mut buf).unwrap()).1),
            ("read of a large page", calls(|| snapshot.read(1, 0, &mut large).unwrap()).1),
            ("look-up by name", calls(|| snapshot.find("large").unwrap()).1),
            ("snapshot", calls(|| bus.snapshot().unwrap()).1),
            ("glance", calls(|| bus.glance().unwrap()).1),
            (
                "snapshot and read",
                calls(|| bus.snapshot().unwrap().read(last, 0, &mut buf).unwrap()).1,
            ),
        ];
        for (what, calls) in counted {
            // A snapshot is one shared value; all else is nothing.
            let allowed = u64::from(what.starts_with("snapshot") || what == "glance");
            assert_eq!(calls, allowed, "{what}, {pages} pages");
        }
        // Blocks that are not adjacent are gathered once: one copy, and its place among the copies.
        bus.write(1, LARGE / 2, &[1; 64], &how(Durability::Memory)).unwrap();
        let ((copy, first), again) =
            (calls(|| bus.view(1).unwrap()), calls(|| bus.view(1).unwrap()).1);
        assert!(copy.is_copy());
        let before = BYTES.get();
        drop(copy);
        assert!(before - BYTES.get() >= LARGE as i64, "the copy goes with its last view");
        assert_eq!((first, again), (3, 0));
    }
    println!(
        "allocations of a read: 0 for each of 8 ways at {PAGES:?} pages; a snapshot 1; a gathering view 3"
    );
}

/// Of a commit in which something grows.
const GROWTH: u64 = 4;
/// The same with a log in memory, which begins a segment now and then.
const GROWTH_OF_LOG: u64 = 40;
/// Of a commit that waits for a sync: what the sync has to reach, and the meta slot that tells of it.
const DISK: u64 = 1;

/// How often a commit of 64 bytes called the allocator so many times.
fn commits(bus: &Bus, pages: u64, durability: Durability, number: u64) -> BTreeMap<u64, u64> {
    let mut seen = BTreeMap::new();
    let how = how(durability);
    for i in 0..number {
        // Small pages in turn, and now and then a block of the large one.
        let epoch = bus.epoch();
        let (page, at) = if i % 16 == 0 {
            (1, i * 4096 % (LARGE - 64))
        } else {
            (2 + i * 7919 % pages, i % 448)
        };
        let bytes = [epoch as u8 | 1; 64].map(|b| b.wrapping_add((epoch >> 8) as u8));
        let (done, calls) = calls(|| bus.write(page, at, &bytes, &how));
        done.unwrap();
        *seen.entry(calls).or_default() += 1;
    }
    seen
}

#[test]
fn a_small_commit_takes_nothing() {
    let _watch = common::watch();
    let tmp = tempfile::tempdir().unwrap();
    let mut counted = 0;
    for pages in PAGES {
        for (what, durability, of_bus, number) in [
            ("memory, in memory", Durability::Memory, None, 6000),
            ("memory, in a directory", Durability::Memory, Some(Durability::Os), 6000),
            ("os, pwrite", Durability::Os, Some(Durability::Disk), 6000),
            ("os, mapped", Durability::Os, Some(Durability::Os), 6000),
            ("disk", Durability::Disk, Some(Durability::Disk), 200),
        ] {
            let dir = tmp.path().join(format!("{pages} {what}"));
            let bus = match of_bus {
                None => Bus::memory(&options(Durability::Memory)),
                Some(durability) => Bus::create(&dir, &options(durability)),
            }
            .unwrap();
            create_pages(&bus, pages);
            commits(&bus, pages, Durability::Os, 6000);
            commits(&bus, pages, durability, number);
            for _ in 0..2 {
                let mut seen = commits(&bus, pages, durability, number);
                let each = if durability == Durability::Disk { DISK } else { 0 };
                // The log in memory and the tables of the arena grow: few commits, each for many that follow.
                let growing = seen.split_off(&(each + 1));
                let (often, most) = match of_bus {
                    Some(_) => (2, each + GROWTH),
                    None => (3, GROWTH_OF_LOG),
                };
                assert!(growing.values().sum::<u64>() <= often, "{growing:?}");
                assert!(growing.keys().all(|&calls| calls <= most), "{what}: {growing:?}");
                assert_eq!(seen.keys().collect::<Vec<_>>(), [&each], "{what}, {pages} pages");
                counted += number;
            }
        }
    }
    println!("counted commits: {counted} at {PAGES:?} pages");
    println!(
        "allocations of a commit: 0 at memory and os (pwrite, mapped), {DISK} at disk; up to {GROWTH} more in 1 of 3,000, \
         for tables that grow"
    );
}

/// What an error may cost: its text, and a batch.
const LITTLE: i64 = 16 << 10;

#[test]
fn huge_claims_are_refused_before_anything_is_taken() {
    let _watch = common::watch();
    let bus = Bus::memory(&options(Durability::Memory)).unwrap();
    create_pages(&bus, 10);
    let digest = bus.snapshot().unwrap().digest().unwrap();
    let commit = |fill: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        fill(&mut batch);
        peak(|| bus.commit(&mut batch, None, &how(Durability::Memory)))
    };
    let name = "n".repeat(256);
    let meta = "m".repeat((64 << 10) + 1);
    let huge = 1u64 << 40;
    type Fill<'f> = &'f dyn Fn(&mut Batch);
    let refused: [(&str, Code, Fill<'_>); 12] = [
        ("a page of 2^40 bytes", Code::OutOfSpace, &|b| b.create(20, &page(None, &[huge], ""))),
        ("one byte more", Code::Argument, &|b| b.create(20, &page(None, &[huge + 1], ""))),
        ("2^63 bytes", Code::Argument, &|b| b.create(20, &page(None, &[1 << 63], ""))),
        ("a shape that overflows", Code::Argument, &|b| {
            b.create(20, &NewPage { shape: &[1 << 40, 1 << 40], nbytes: 0, ..page(None, &[], "") });
        }),
        ("65 dimensions", Code::Argument, &|b| b.create(20, &page(None, &[1; 65], ""))),
        ("growing to 2^40 bytes", Code::OutOfSpace, &|b| b.resize(2, &[huge], huge)),
        ("growing a large page to 2^40", Code::OutOfSpace, &|b| b.resize(1, &[huge], huge)),
        ("growing to more", Code::Argument, &|b| b.resize(1, &[huge + 1], huge + 1)),
        ("a name of 256 bytes", Code::Argument, &|b| b.create(20, &page(Some(&name), &[1], ""))),
        ("a tag of 256 bytes", Code::Argument, &|b| b.tag(&name, None, false)),
        ("64 KiB of metadata and a byte", Code::Argument, &|b| b.set_meta(2, &meta)),
        ("bytes at 2^64 - 1", Code::InvalidDelta, &|b| b.write(1, u64::MAX, b"x")),
    ];
    for (what, code, fill) in refused {
        let (done, peak) = commit(fill);
        assert_eq!(done.unwrap_err().code, code, "{what}");
        assert!(peak <= LITTLE, "{what} took {peak} bytes");
        assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digest, "{what}");
    }
    // At their limits they are taken.
    commit(&|b| b.create(20, &page(Some(&name[1..]), &[1; 64], &meta[1..]))).0.unwrap();
    commit(&|b| b.tag(&name[1..], None, false)).0.unwrap();
    let snapshot = bus.snapshot().unwrap();
    let (refused, most) = peak(|| snapshot.view_range(1, 0, u64::MAX).map(drop));
    assert_eq!((refused.unwrap_err().code, most <= LITTLE), (Code::PageIndex, true));
    println!("huge claims: 13 refused, each within {LITTLE} bytes of heap");
}

const DIR: &str = "/store";

fn open(files: &RamVfs) -> mmsb_core::Result<Bus> {
    let options = Options { max_memory: Some(16 << 20), ..Options::default() };
    Bus::open_on(Arc::new(files.clone()), Path::new(DIR), Mode::Read, &options, &mut |_, _| {})
}

/// A store with a checkpoint of epoch 1 whose header was changed, with the right checksum, and the file's length.
fn with_claims(claims: &[(usize, u64)], len: Option<u64>) -> RamVfs {
    let files = RamVfs::new();
    let options = options(Durability::Disk);
    let bus = Bus::create_on(Arc::new(files.clone()), Path::new(DIR), &options).unwrap();
    let mut batch = Batch::new();
    batch.create(1, &page(Some("a"), &[50_000], ""));
    batch.write(1, 7, b"seven");
    bus.commit(&mut batch, None, &how(Durability::Disk)).unwrap();
    bus.checkpoint().unwrap();
    bus.close().unwrap();
    let path = Path::new(DIR).join("checkpoints").join(format!("{:016x}.ckpt", 1));
    let file = files.open(&path, OpenKind::ReadWrite).unwrap();
    let mut head = vec![0; 4096];
    read_exact_at(&*file, 0, &mut head).unwrap();
    for &(at, value) in claims {
        head[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let sum = XxHash3_64::oneshot(&head[..4088]);
    head[4088..].copy_from_slice(&sum.to_le_bytes());
    write_all_at(&*file, 0, &head).unwrap();
    if let Some(len) = len {
        file.set_len(len).unwrap();
    }
    files
}

#[test]
fn a_checkpoint_that_claims_much_takes_little() {
    let _watch = common::watch();
    // What opening a small store takes: counters of views (a sixteenth of max_memory) and the windows of the log.
    const OPENING: i64 = 4 << 20;
    const INDEX_AT: usize = 96;
    const INDEX_LEN: usize = 104;
    const SIZE: usize = 112;
    let huge = 1u64 << 60;
    // A file that is not as long as it claims is damage, and the log has everything.
    for claims in [
        vec![(INDEX_LEN, huge)],
        vec![(INDEX_LEN, huge), (SIZE, huge + 4096)],
        vec![(INDEX_AT, u64::MAX), (INDEX_LEN, 5000)],
        vec![(80, huge)],
        vec![(88, u64::MAX)],
    ] {
        let files = with_claims(&claims, None);
        let (bus, most) = peak(|| open(&files));
        assert!(most <= OPENING, "{claims:?} took {most} bytes");
        let bus = bus.unwrap();
        assert_eq!(bus.recovery().unwrap().checkpoint_epoch, None, "{claims:?}");
        assert_eq!(&bus.view(1).unwrap().bytes()[7..12], b"seven");
        assert_eq!(bus.verify(&mut |_, _| {}).unwrap().problems.len(), 1, "{claims:?}");
    }
    if common::is_sanitized() {
        return;
    }
    // A file that is as long as it claims: there is no memory for its index.
    let files =
        with_claims(&[(INDEX_AT, 4096), (INDEX_LEN, huge), (SIZE, huge + 4096)], Some(huge + 4096));
    let (refused, most) = peak(|| open(&files).map(drop));
    assert_eq!(refused.unwrap_err().code, Code::OutOfSpace);
    assert!(most <= OPENING, "{most} bytes");
    println!("huge checkpoints: 6 claims, each within {OPENING} bytes of heap");
}

/// A record that takes a large piece of memory, with ever more such pieces to be had: what is not there is told.
#[test]
fn a_large_record_without_memory() {
    let _watch = common::watch();
    let files = RamVfs::new();
    let bus = Bus::create_on(Arc::new(files.clone()), Path::new(DIR), &options(Durability::Os));
    let bus = bus.unwrap();
    let bytes = vec![7; 6 << 20];
    let mut batch = Batch::new();
    batch.create(1, &page(None, &[6 << 20], ""));
    batch.write(1, 0, &bytes);
    bus.commit(&mut batch, None, &how(Durability::Os)).unwrap();
    bus.close().unwrap();
    drop(bus);
    for pieces in 0..10 {
        PIECES.set(pieces);
        let opened = open(&files);
        PIECES.set(u64::MAX);
        match opened {
            Ok(bus) => {
                assert!(pieces > 0, "a large record takes no memory");
                assert_eq!(bus.view(1).unwrap().bytes(), bytes);
                return;
            }
            Err(error) => assert_eq!(error.code, Code::OutOfSpace, "{pieces}: {error}"),
        }
    }
    panic!("opening takes more than ten large pieces");
}
