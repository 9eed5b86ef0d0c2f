//! The steps of a mapping, call by call, and what a forked child leaves alone.

use super::*;
use crate::vfs::{OpenKind, OsVfs, RamVfs, Vfs, read_exact_at, write_all_at};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

type Calls = Arc<Mutex<Vec<(&'static str, u64, u64)>>>;

#[test]
fn stores_land_in_the_file() {
    let tmp = tempfile::tempdir().unwrap();
    let file = OsVfs.open(&tmp.path().join("f"), OpenKind::CreateNew).unwrap();
    if file.map(4096).is_err() {
        println!("skipped: the temporary directory is on neither ext4 nor xfs");
        return;
    }
    let helper = Helper::start().unwrap();
    let mut mapped = helper.map(&file, 3 << 20);
    let (mut at, mut copied) = (0u64, 0);
    while at + 1000 <= 3 << 20 {
        let bytes = [(at / 1000) as u8; 1000];
        if mapped.write(at, &bytes) {
            copied += 1;
        } else {
            write_all_at(&*file, at, &bytes).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        at += 1000;
    }
    assert!(copied > 1000, "{copied}");
    assert!(!mapped.write((3 << 20) - 10, &[1; 11]));
    drop(mapped);
    file.set_len(at).unwrap();
    let mut back = [0u8; 1000];
    for index in 0..at / 1000 {
        read_exact_at(&*file, index * 1000, &mut back).unwrap();
        assert!(back.iter().all(|&b| b == index as u8));
    }
    // The helper has let go: the file keeps the length that it was cut to.
    drop(helper);
    assert_eq!(file.size().unwrap(), at);
}

/// A file in memory that can be mapped, and notes the calls for that.
#[derive(Debug)]
struct Mappable {
    inner: Arc<dyn VfsFile>,
    full: AtomicBool,
    calls: Calls,
}

#[derive(Debug)]
struct Memory(Arc<dyn VfsFile>, Calls);

impl Memory {
    fn note(&self, call: &'static str, offset: u64, len: u64) {
        self.1.lock().unwrap().push((call, offset, len));
    }
}

impl FileMap for Memory {
    fn populate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.note("populate", offset, len);
        Ok(())
    }

    fn store(&self, offset: u64, data: &[u8]) {
        self.note("store", offset, data.len() as u64);
        write_all_at(&*self.0, offset, data).unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.note("unmap", 0, 0);
    }
}

impl VfsFile for Mappable {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.inner.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn fallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.calls.lock().unwrap().push(("reserve", offset, len));
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.fallocate(offset, len)
    }

    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn map(&self, len: u64) -> io::Result<Arc<dyn FileMap>> {
        self.calls.lock().unwrap().push(("map", 0, len));
        Ok(Arc::new(Memory(self.inner.clone(), self.calls.clone())))
    }

    fn os_file(&self) -> Option<&std::fs::File> {
        None
    }
}

#[test]
fn without_a_descriptor_the_steps_are_taken_when_asked() {
    let inner = RamVfs::new().open(Path::new("/f"), OpenKind::CreateNew).unwrap();
    let calls = Calls::default();
    let full = AtomicBool::new(false);
    let made = Arc::new(Mappable { inner, full, calls: calls.clone() });
    let file: Arc<dyn VfsFile> = made.clone();
    let taken = || std::mem::take(&mut *calls.lock().unwrap());

    let ready = |steps: Range<u64>| {
        steps.flat_map(|n| ["reserve", "populate"].map(|call| (call, n * STEP, STEP)))
    };

    let mut mapped = MappedSegment::inline(&file, 5 * STEP - 4000).unwrap();
    assert_eq!(taken(), [("map", 0, 5 * STEP)].into_iter().chain(ready(0..2)).collect::<Vec<_>>());
    assert!(mapped.write(100, b"abc"));
    assert_eq!(taken(), [("store", 100, 3)]);

    // The disk is full: what was ready serves on, and nothing is asked for again before the next step.
    made.full.store(true, Ordering::Relaxed);
    assert!(!mapped.write(2 * STEP - 1, b"de"));
    assert_eq!(taken(), [("reserve", 2 * STEP, STEP)]);
    assert!(mapped.write(2 * STEP - 2, b"de"));
    assert_eq!(taken(), [("store", 2 * STEP - 2, 2)]);

    made.full.store(false, Ordering::Relaxed);
    assert!(mapped.write(3 * STEP + 2, b"f"));
    assert_eq!(taken(), ready(2..5).chain([("store", 3 * STEP + 2, 1)]).collect::<Vec<_>>());
    assert!(!mapped.write(5 * STEP - 1, b"gh"));
    drop(mapped);
    assert_eq!(taken(), [("unmap", 0, 0)]);

    let mut back = [0; 5];
    read_exact_at(&*file, 99, &mut back).unwrap();
    assert_eq!(&back, b"\0abc\0");
    read_exact_at(&*file, 2 * STEP - 3, &mut back).unwrap();
    assert_eq!(&back, b"\0de\0\0");
    read_exact_at(&*file, 3 * STEP, &mut back).unwrap();
    assert_eq!(&back, b"\0\0f\0\0");
}

#[test]
fn a_file_that_cannot_be_mapped_is_left_to_its_writer() {
    let file = RamVfs::new().open(Path::new("/f"), OpenKind::CreateNew).unwrap();
    assert!(MappedSegment::inline(&file, 4096).is_err());
    let region = Region::new(&file, 4096);
    region.wanted.store(1, Ordering::Relaxed);
    assert!(!region.step());
    assert_eq!(file.size().unwrap(), 0);
    let mut mapped = Helper::start().unwrap().map(&file, 4096);
    assert!(!mapped.write(0, b"x"));
    assert_eq!(mapped.reserved(), 0);
}

/// In a forked child the thread is not there and its locks may be held for ever: dropping the writer's side asks
/// nothing of them. The parent's side ends the segment.
#[test]
fn a_forked_child_ends_nothing() {
    let live = |pid: u32| {
        let file = RamVfs::new().open(Path::new("/f"), OpenKind::CreateNew).unwrap();
        let mut region = Arc::into_inner(Region::new(&file, 4096)).unwrap();
        region.pid = pid;
        let region = Arc::new(region);
        drop(MappedSegment::new(region.clone(), Some(std::thread::current())));
        *region.live.lock().unwrap()
    };
    assert!(!live(std::process::id()));
    assert!(live(std::process::id() ^ 1));

    let ended = |pid: u32| {
        let mut helper = Helper::start().unwrap();
        let (shared, thread) = (helper.shared.clone(), helper.thread.clone());
        helper.pid = pid;
        drop(helper);
        let ended = shared.stop.swap(true, Ordering::AcqRel);
        thread.unpark();
        ended
    };
    assert!(ended(std::process::id()));
    assert!(!ended(std::process::id() ^ 1));
}
