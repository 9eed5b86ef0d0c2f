//! What is left of a store after an unclean end, and what damage looks like.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use mmsb_core::{Batch, Bus, Code, Durability, How, Mode, NewPage, Options};

fn how() -> How<'static> {
    How { wait: true, ..How::default() }
}

fn open(dir: &Path, mode: Mode) -> mmsb_core::Result<Bus> {
    Bus::open(dir, mode, &Options::default(), &mut |_, _| {})
}

/// A store as a killed host leaves it: `commits` writes at `os`, no seal.
fn killed(dir: &Path, commits: u8) {
    let made = dir.join("made");
    let options = Options { durability: Some(Durability::Os), ..Options::default() };
    let bus = Bus::create(&made, &options).unwrap();
    let mut batch = Batch::new();
    let page = NewPage { name: Some("page"), ..NewPage::bytes(&[100]) };
    batch.create(1, &page);
    bus.commit(&mut batch, None, &how()).unwrap();
    for i in 1..=commits {
        bus.write(1, u64::from(i), &[i], &how()).unwrap();
    }
    copy(&made, &dir.join("bus"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn segment(dir: &Path) -> PathBuf {
    let mut names: Vec<_> =
        fs::read_dir(dir.join("log")).unwrap().map(|e| e.unwrap().path()).collect();
    names.sort();
    names.remove(0)
}

fn bytes(bus: &Bus) -> Vec<u8> {
    bus.view(1).unwrap().bytes().to_vec()
}

fn expected(commits: u8) -> Vec<u8> {
    (0..100).map(|i| if i <= commits { i } else { 0 }).collect()
}

#[test]
fn a_torn_tail_is_no_damage_and_is_kept_aside() {
    let _watch = common::watch();
    let tmp = tempfile::tempdir().unwrap();
    killed(tmp.path(), 9);
    let dir = tmp.path().join("bus");
    let path = segment(&dir);
    let mut log = fs::read(&path).unwrap();
    let end = log.iter().rposition(|&b| b != 0).unwrap();
    log[end] = 0;
    log[end - 1] ^= 0x55;
    fs::write(&path, &log).unwrap();

    let reader = open(&dir, Mode::Read).unwrap();
    assert_eq!(bytes(&reader), expected(8));
    assert!(reader.recovery().unwrap().torn_bytes > 0);
    let report = reader.verify(&mut |_, _| {}).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!(fs::read(&path).unwrap(), log, "a reader writes nothing");

    let host = open(&dir, Mode::ReadWrite).unwrap();
    assert_eq!(bytes(&host), expected(8));
    let recovery = host.recovery().unwrap();
    assert_eq!((recovery.epoch, recovery.quarantined.len()), (9, 1));
    let torn = fs::read(&recovery.quarantined[0]).unwrap();
    let from = log.len() - log[..].iter().rev().take_while(|&&b| b == 0).count();
    assert!(log[..from].ends_with(&torn));
    assert_eq!(host.write(1, 9, &[9], &how()).unwrap().epoch, 10);
    host.close().unwrap();
    let host = open(&dir, Mode::ReadWrite).unwrap();
    assert_eq!(bytes(&host), expected(9));
    assert_eq!(host.recovery().unwrap().torn_bytes, 0);
    assert!(host.verify(&mut |_, _| {}).unwrap().problems.is_empty());
}

#[test]
fn damage_in_a_checkpoint_falls_back_to_the_log_and_is_told() {
    let _watch = common::watch();
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("bus");
    let bus = Bus::create(&dir, &Options::default()).unwrap();
    let mut batch = Batch::new();
    for id in 1..=3 {
        let page = NewPage {
            name: None,
            dtype: "",
            itemsize: 1,
            shape: &[20_000],
            nbytes: 20_000,
            meta: "{\"a\":1}",
            location: 0,
        };
        batch.create(id, &page);
        batch.write(id, id * 100, &[id as u8; 500]);
    }
    bus.commit(&mut batch, None, &how()).unwrap();
    bus.checkpoint().unwrap();
    let digest = bus.snapshot().unwrap().digest().unwrap();
    bus.close().unwrap();
    let path = dir.join("checkpoints").join(format!("{:016x}.ckpt", 1));
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(97).chain([0, good.len() - 1]) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let bus = match open(&dir, Mode::Read) {
            Ok(bus) => bus,
            Err(error) => {
                assert_eq!(error.code, Code::FormatVersion, "byte {at}: {error}");
                continue;
            }
        };
        assert_eq!(bus.snapshot().unwrap().digest().unwrap(), digest, "byte {at}");
        let problems = bus.verify(&mut |_, _| {}).unwrap().problems;
        assert_eq!(problems.len(), 1, "byte {at}: {problems:?}");
        assert_eq!(problems[0].code, Code::Corruption);
        assert_eq!(problems[0].detail.file.as_deref(), Some(path.as_path()));
    }
    // A damaged checkpoint of the newest epoch is made anew when asked for.
    let host = open(&dir, Mode::ReadWrite).unwrap();
    assert_eq!(host.recovery().unwrap().checkpoint_epoch, None);
    assert_eq!(host.checkpoint().unwrap(), 1);
    assert!(host.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    host.close().unwrap();
    assert_eq!(open(&dir, Mode::Read).unwrap().recovery().unwrap().checkpoint_epoch, Some(1));
}
