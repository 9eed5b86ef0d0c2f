//! What a forked child does with the descriptors that it inherited.
//!
//! Every file and lock of `OsVfs` is noted here while it is open, one bit a descriptor, without a lock: another thread
//! may be anywhere in this code at the moment of a fork.
//!
//! This module holds `unsafe`: it works on descriptors by number.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Descriptors from 65,536 on are not noted: a child keeps those.
static NOTED: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

/// A file that a forked child gives up.
#[derive(Debug)]
pub(super) struct Noted(File);

impl Noted {
    pub(super) fn new(file: File) -> Noted {
        if let Some((word, bit)) = place(file.as_raw_fd()) {
            word.fetch_or(bit, Ordering::Release);
        }
        Noted(file)
    }

    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some((word, bit)) = place(self.0.as_raw_fd()) {
            word.fetch_and(!bit, Ordering::Release);
        }
    }
}

fn place(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((NOTED.get(fd / 64)?, 1 << (fd % 64)))
}

/// For a forked child: lets go of every file and lock that the parent has open through `OsVfs`.
pub fn give_up_descriptors() -> io::Result<()> {
    let mut fds = Vec::new();
    for (index, word) in NOTED.iter().enumerate() {
        let bits = word.load(Ordering::Acquire);
        fds.extend(
            (0..64).filter(|bit| bits >> bit & 1 == 1).map(|bit| (index * 64 + bit) as RawFd),
        );
    }
    replace_with_null(&fds)
}

/// Makes each descriptor refer to `/dev/null`, which drops this process' hold on the files and locks behind them.
///
/// The numbers stay taken, so a `File` that still owns one closes nothing of anybody else later.
fn replace_with_null(fds: &[RawFd]) -> io::Result<()> {
    if fds.is_empty() {
        return Ok(());
    }
    let null = File::open("/dev/null")?;
    for &fd in fds {
        // SAFETY: the number belongs to a live `File` of this process (noted above, or taken from `raw_fd`), and
        // `ManuallyDrop` leaves its closing to that owner. dup3 swaps what it refers to atomically.
        let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
        rustix::io::dup3(&null, &mut target, rustix::io::DupFlags::CLOEXEC)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{OpenKind, OsVfs, Vfs};
    use super::*;

    #[test]
    fn a_replaced_descriptor_gives_up_the_lock() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("lock");
        let held = OsVfs.lock(&path).unwrap();
        replace_with_null(&[held.raw_fd().unwrap()]).unwrap();
        assert!(!OsVfs.locked(&path).unwrap());
        let again = OsVfs.lock(&path).unwrap();
        drop(held);
        assert!(OsVfs.locked(&path).unwrap());
        drop(again);
    }

    #[test]
    fn descriptors_are_noted_while_open() {
        let tmp = tempfile::tempdir().unwrap();
        let noted =
            |fd| place(fd).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0);
        let file = OsVfs.open(&tmp.path().join("f"), OpenKind::CreateNew).unwrap();
        let lock = OsVfs.lock(&tmp.path().join("lock")).unwrap();
        assert!(noted(file.raw_fd().unwrap()) && noted(lock.raw_fd().unwrap()));
        assert!(place(-1).is_none() && place(RawFd::MAX).is_none());
    }
}
