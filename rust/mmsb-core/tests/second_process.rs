//! A second process that gets two descriptors and nothing else reads consistent snapshots, bit for bit, while the
//! host commits at full speed.
#![allow(clippy::unwrap_used, unsafe_code)]

mod common;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};

use mmsb_core::{Batch, Bus, How, NewPage, Options, Reader};

const FDS: &str = "READER_FDS";
/// Words of each page: one frame, just over one block, and many blocks.
const WORDS: [u64; 3] = [100, 2100, 50_000];

/// Each commit writes its epoch to word 0 of each page and to one more word that goes round; so the bytes of an epoch
/// are known without having been there.
fn word_at(epoch: u64, words: u64, i: u64) -> u64 {
    let round = words - 1;
    if i == 0 {
        return epoch;
    }
    let written = epoch.saturating_sub((epoch + round - (i - 1)) % round);
    if written <= 1 { 0 } else { written }
}

fn bytes_at(epoch: u64, words: u64) -> Vec<u8> {
    (0..words).flat_map(|i| word_at(epoch, words, i).to_le_bytes()).collect()
}

#[test]
fn reader_child() {
    let Ok(fds) = std::env::var(FDS) else {
        println!("runs only as a child of another_process_reads_consistent_snapshots");
        return;
    };
    let mut fds = fds.split(',').map(|fd| {
        // SAFETY: the parent made these descriptors for us to own.
        unsafe { OwnedFd::from_raw_fd(fd.parse().unwrap()) }
    });
    let (arena, control) = (fds.next().unwrap(), fds.next().unwrap());
    // SAFETY: maps fresh memory, or fails, which is what must happen: the arena cannot be written to.
    let writable = unsafe {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        mmap(std::ptr::null_mut(), 4096, ProtFlags::WRITE, MapFlags::SHARED, &arena, 0)
    };
    assert!(writable.is_err());
    let reader = Reader::attach(arena, control).unwrap();
    let (mut last, mut seen) = (0, 0);
    while last < 60_000 {
        let snapshot = reader.snapshot().unwrap();
        let epoch = snapshot.epoch();
        assert!(epoch >= last);
        let infos = snapshot.infos();
        assert_eq!(infos.len(), 3);
        for (info, words) in infos.iter().zip(WORDS) {
            assert_eq!(snapshot.find(info.name.as_deref().unwrap()), Some(info.id));
            let bytes = snapshot.read(info.id).unwrap();
            assert!(bytes == bytes_at(epoch, words), "epoch {epoch}, page of {words} words");
        }
        seen += u64::from(epoch != last);
        last = epoch;
    }
    println!("saw {seen} epochs");
}

#[test]
fn another_process_reads_consistent_snapshots() {
    let _watch = common::watch();
    let bus = Bus::memory(&Options { max_memory: Some(1 << 30), ..Options::default() }).unwrap();
    let how = How { wait: true, ..How::default() };
    let mut batch = Batch::new();
    for (i, words) in WORDS.into_iter().enumerate() {
        let (name, nbytes) = (format!("page {words}"), words * 8);
        let shape = &[nbytes];
        let page = NewPage { name: Some(&name), ..NewPage::bytes(shape) };
        batch.create(i as u64 + 1, &page);
        batch.write(i as u64 + 1, 0, &1u64.to_le_bytes());
    }
    bus.commit(&mut batch, None, &how).unwrap();
    let (arena, control) = bus.reader_descriptors().unwrap();
    // Duplicates are inherited by the child; the originals are not.
    let inherited = [rustix::io::dup(&arena).unwrap(), rustix::io::dup(&control).unwrap()];
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reader_child", "--nocapture"])
        .env(FDS, format!("{},{}", inherited[0].as_raw_fd(), inherited[1].as_raw_fd()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Some(child);
    while child.is_some() {
        for _ in 0..1000 {
            let epoch = bus.epoch() + 1;
            batch.clear();
            for (i, words) in WORDS.into_iter().enumerate() {
                let place = 1 + epoch % (words - 1);
                batch.write(i as u64 + 1, 0, &epoch.to_le_bytes());
                batch.write(i as u64 + 1, place * 8, &epoch.to_le_bytes());
            }
            bus.commit(&mut batch, None, &how).unwrap();
        }
        if let Some(mut running) = child.take() {
            match running.try_wait().unwrap() {
                None => child = Some(running),
                Some(status) => {
                    let output = running.wait_with_output().unwrap();
                    let text = String::from_utf8_lossy(&output.stdout).into_owned();
                    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(status.success(), "{text}{errors}");
                    assert!(text.contains("saw ") && !text.contains("saw 0"), "{text}");
                }
            }
        }
    }
}
