//! The helper thread and the mapping, on files that note what is asked of them.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::double::Double;
use super::mapped::{Helper, MappedSegment};
use super::tests::*;
use super::*;
use crate::vfs::{FileMap, OpenKind, RamVfs, VfsFile};

const MIB: u64 = 1 << 20;

/// A file of which only length and preparation matter.
#[derive(Debug, Default)]
struct Noted {
    /// Reserved ranges.
    reserved: Mutex<Vec<(u64, u64)>>,
    /// How long reserving takes.
    slow: Duration,
    done: AtomicBool,
}

#[derive(Debug)]
struct Nowhere;

impl FileMap for Nowhere {
    fn populate(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn store(&self, _offset: u64, _data: &[u8]) {}
}

impl VfsFile for Noted {
    fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
    fn write_at(&self, _offset: u64, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
    fn fallocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.reserved.lock().unwrap().push((offset, len));
        std::thread::sleep(self.slow);
        self.done.store(true, Ordering::SeqCst);
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        Ok(0)
    }
    fn map(&self, _len: u64) -> io::Result<Arc<dyn FileMap>> {
        Ok(Arc::new(Nowhere))
    }
    fn os_file(&self) -> Option<&File> {
        None
    }
}

/// Waits for what another thread does; a failure is that it never comes.
fn eventually(what: &str, done: impl Fn() -> bool) {
    for _ in 0..5000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it never came to be that {what}");
}

fn as_file(file: &Arc<Noted>) -> Arc<dyn VfsFile> {
    file.clone()
}

/// It goes ahead by as much as is asked for, again after it had nothing to do, and never past the length.
#[test]
fn the_helper_keeps_ahead() {
    let file = Arc::new(Noted::default());
    let helper = Helper::start().unwrap();
    let mut mapped = helper.map(&as_file(&file), 5 * MIB + 1);
    eventually("two steps are ready", || mapped.reserved() == 2 * MIB);
    for (end, ready) in [(MIB / 2, 2), (MIB + 1, 4), (2 * MIB, 4), (3 * MIB, 5)] {
        mapped.write(end - 1, b"x");
        eventually("more is ready", || mapped.reserved() == ready * MIB);
    }
    assert!(mapped.write(4 * MIB, b"x"));
    eventually("all is ready", || mapped.reserved() == 5 * MIB + 4096);
    assert!(mapped.write(5 * MIB + 4095, b"x"));
    assert!(!mapped.write(5 * MIB + 4095, b"xx"));
    let steps: Vec<(u64, u64)> =
        (0..6).map(|i| (i * MIB, if i < 5 { MIB } else { 4096 })).collect();
    assert_eq!(*file.reserved.lock().unwrap(), steps);
    // The next segment's file takes the place of this one, which is let go of.
    let next = Arc::new(Noted::default());
    let second = helper.map(&as_file(&next), MIB);
    eventually("the next one is ready", || second.reserved() == MIB);
    drop(mapped);
    eventually("the first is let go of", || Arc::strong_count(&file) == 1);
    drop(second);
    eventually("the second is let go of", || Arc::strong_count(&next) == 1);
}

/// When it is finished it has let go of its file, also in the middle of a step.
#[test]
fn a_helper_that_is_finished_is_gone() {
    let file = Arc::new(Noted { slow: Duration::from_millis(100), ..Noted::default() });
    let helper = Helper::start().unwrap();
    let mapped = helper.map(&as_file(&file), MIB);
    eventually("a step has begun", || !file.reserved.lock().unwrap().is_empty());
    helper.finish();
    assert!(file.done.load(Ordering::SeqCst));
    drop(mapped);
    assert_eq!(Arc::strong_count(&file), 1);
}

/// Without a helper the steps are taken at once, in the order of the writes.
#[test]
fn steps_without_a_helper() {
    let file = Arc::new(Noted::default());
    let mut mapped = MappedSegment::inline(&as_file(&file), 4 * MIB).unwrap();
    assert_eq!(mapped.reserved(), 2 * MIB);
    assert!(mapped.write(MIB - 1, b"x"));
    assert_eq!(mapped.reserved(), 2 * MIB);
    assert!(mapped.write(MIB, b"x"));
    assert_eq!(mapped.reserved(), 4 * MIB);
    assert!(mapped.write(4 * MIB - 1, b"x") && !mapped.write(4 * MIB, b"x"));
    assert_eq!(file.reserved.lock().unwrap().len(), 4);
    let file = RamVfs::new().open(Path::new("/f"), OpenKind::CreateNew).unwrap();
    assert!(MappedSegment::inline(&file, MIB).is_err());
}

/// A log that is to be mapped asks for it, one that is not does not; where it is refused it goes on without.
#[test]
fn who_maps() {
    for mapped in [false, true] {
        let double = Double::new(ram());
        let opts = LogOptions { mapped, ..options(64 << 10) };
        let mut log = Log::create(double.vfs(), Path::new(DIR), opts).unwrap();
        append(&mut log, &commit(1, 10)).unwrap();
        let asked = double.calls().iter().filter(|call| call.what == "map").count();
        assert_eq!(asked, usize::from(mapped));
        drop(log);
        assert_eq!(try_open(&double.vfs(), Path::new(DIR), 0).unwrap().2.len(), 1);
    }
}
