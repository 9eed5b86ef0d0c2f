//! Appending through a mapping: a commit is a copy into pages that a helper thread has reserved and touched ahead.
//!
//! The committing thread never maps, reserves or takes a first touch; where the helper is late it uses `pwrite`, and both
//! see the same page cache. Only files without a descriptor are made ready by the committing thread itself: they are not
//! on a disk, and each run then makes the same calls in the same order.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};

use crate::vfs::{FileMap, VfsFile};

const STEP: u64 = 1 << 20;
/// A step is asked for when less than this is ready ahead of the end, and then so much more.
const LOW: u64 = 1 << 20;
const AHEAD: u64 = 2 << 20;

/// A file that is mapped from its beginning, longer than it may be yet.
#[derive(Debug)]
struct Region {
    map: OnceLock<Arc<dyn FileMap>>,
    len: u64,
    file: Arc<dyn VfsFile>,
    pid: u32,
    /// Bytes from the beginning that are mapped, reserved and touched.
    ready: AtomicU64,
    wanted: AtomicU64,
    /// False once the segment has ended. The helper works on the file under this lock only.
    live: Mutex<bool>,
}

impl Region {
    fn new(file: &Arc<dyn VfsFile>, len: u64) -> Arc<Region> {
        Arc::new(Region {
            map: OnceLock::new(),
            len: len.next_multiple_of(4096),
            file: file.clone(),
            pid: std::process::id(),
            ready: AtomicU64::new(0),
            wanted: AtomicU64::new(0),
            live: Mutex::new(true),
        })
    }

    /// Maps, reserves and touches one more step. False if there is nothing to do any more, or it cannot be done.
    fn step(&self) -> bool {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.ready.load(Ordering::Relaxed);
        let to = (from + STEP).min(self.len);
        if !*live || from >= self.wanted.load(Ordering::Relaxed).min(self.len) {
            return false;
        }
        let Ok(map) = self.map() else { return false };
        let reserved = self.file.fallocate(from, to - from);
        let touched = reserved.and_then(|()| map.populate(from, to - from));
        if touched.is_ok() {
            self.ready.store(to, Ordering::Release);
        }
        touched.is_ok()
    }

    fn map(&self) -> io::Result<&dyn FileMap> {
        if let Some(map) = self.map.get() {
            return Ok(&**map);
        }
        let made = self.file.map(self.len)?;
        Ok(&**self.map.get_or_init(|| made))
    }
}

/// The thread that works ahead of the commits of one log. Dropping this ends it, without waiting.
#[derive(Debug)]
pub(crate) struct Helper {
    shared: Arc<Shared>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
    pid: u32,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    current: Mutex<Option<Arc<Region>>>,
}

impl Helper {
    pub(crate) fn start() -> io::Result<Helper> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let builder = std::thread::Builder::new().name("mmsb-log-ahead".into());
        let handle = builder.spawn(move || theirs.work())?;
        let (thread, pid) = (handle.thread().clone(), std::process::id());
        Ok(Helper { shared, thread, handle: Some(handle), pid })
    }

    /// Ends the thread and waits for it: then it has no file open any more.
    pub(crate) fn finish(mut self) {
        let handle = self.handle.take();
        drop(self);
        // The thread does not panic; if it did, it has let go of its files too.
        let _ = handle.map(JoinHandle::join);
    }

    /// Makes `file` ready for stores into its first `len` bytes, in time.
    pub(crate) fn map(&self, file: &Arc<dyn VfsFile>, len: u64) -> MappedSegment {
        let region = Region::new(file, len);
        let mut current = self.shared.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(region.clone());
        drop(current);
        MappedSegment::new(region, Some(self.thread.clone()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            // The thread did not come along; its handle must not be joined or detached here.
            std::mem::forget(self.handle.take());
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Shared {
    fn work(&self) {
        while !self.stop.load(Ordering::Acquire) {
            let region = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
            match region {
                Some(region) if region.step() => {}
                Some(region) => {
                    self.forget_ended(&region);
                    // The mapping of an ended segment goes here, not in the committing thread.
                    drop(region);
                    std::thread::park();
                }
                None => std::thread::park(),
            }
        }
    }

    fn forget_ended(&self, region: &Arc<Region>) {
        let ended = !*region.live.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if ended && current.as_ref().is_some_and(|now| Arc::ptr_eq(now, region)) {
            *current = None;
        }
    }
}

/// The writer's side of a mapped segment.
#[derive(Debug)]
pub(crate) struct MappedSegment {
    region: Arc<Region>,
    /// How far steps were asked for.
    asked: u64,
    /// The helper's; without one the steps are taken here.
    helper: Option<Thread>,
}

impl MappedSegment {
    fn new(region: Arc<Region>, helper: Option<Thread>) -> MappedSegment {
        let mut mapped = MappedSegment { region, asked: 0, helper };
        mapped.ask(0);
        mapped
    }

    /// Maps a file that needs no helper; an error if it cannot be mapped.
    pub(crate) fn inline(file: &Arc<dyn VfsFile>, len: u64) -> io::Result<MappedSegment> {
        let region = Region::new(file, len);
        region.map()?;
        Ok(MappedSegment::new(region, None))
    }

    /// Bytes from the beginning of the file that are reserved.
    #[inline]
    pub(crate) fn reserved(&self) -> u64 {
        self.region.ready.load(Ordering::Acquire)
    }

    /// Copies `bytes` to `offset` if the place is ready; else the caller writes them in another way.
    #[inline]
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset.saturating_add(bytes.len() as u64);
        self.ask(end);
        if end > self.reserved() {
            return false;
        }
        let Some(map) = self.region.map.get() else { return false };
        map.store(offset, bytes);
        true
    }

    #[inline]
    fn ask(&mut self, end: u64) {
        if end + LOW > self.asked && self.asked < self.region.len {
            self.asked = end + AHEAD;
            self.region.wanted.store(self.asked, Ordering::Relaxed);
            match &self.helper {
                Some(thread) => thread.unpark(),
                None => while self.region.step() {},
            }
        }
    }
}

impl Drop for MappedSegment {
    fn drop(&mut self) {
        // In a forked child there is no helper, and its lock may be held for ever.
        if std::process::id() == self.region.pid {
            *self.region.live.lock().unwrap_or_else(PoisonError::into_inner) = false;
            if let Some(thread) = &self.helper {
                thread.unpark();
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            taken(),
            [("map", 0, 5 * STEP)].into_iter().chain(ready(0..2)).collect::<Vec<_>>()
        );
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
        let mut mapped = Helper::start().unwrap().map(&file, 4096);
        assert!(!mapped.write(0, b"x"));
        assert_eq!(mapped.reserved(), 0);
    }
}
