//! What a forked child does with the descriptors that it inherited.
//!
//! This module holds `unsafe`: it works on descriptors by number.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Makes each descriptor refer to `/dev/null`, which drops this process' hold on the files and locks behind them.
///
/// The numbers stay taken, so a `File` that still owns one closes nothing of anybody else later.
pub fn replace_with_null(fds: &[RawFd]) -> io::Result<()> {
    if fds.is_empty() {
        return Ok(());
    }
    let null = File::open("/dev/null")?;
    for &fd in fds {
        // SAFETY: the number belongs to a live `File` of this process (the caller took it from `raw_fd`), and
        // `ManuallyDrop` leaves its closing to that owner. dup3 swaps what it refers to atomically.
        let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(fd) });
        rustix::io::dup3(&null, &mut target, rustix::io::DupFlags::CLOEXEC)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{OsVfs, Vfs};
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
}
