//! Figures that are bytes, not times: resident memory and what a commit writes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use mmsb_core::Durability;

use crate::engine::{Driver, Load};
use crate::ours::Mmsb;
use crate::peers::{Lmdb, LmdbMode, Redb, Sqlite};
use crate::race::{Res, Role, report};

const MIB: f64 = (1 << 20) as f64;
const PAGE: usize = 1024;

/// MiB of memory for `count` pages of 1 KiB, each engine in a process of its own.
pub fn resident(dir: &Path, count: u32) -> Res<()> {
    let row = "memory";
    report(row, Role::Floor, "the bytes of the pages", &mut [f64::from(count) * PAGE as f64 / MIB]);
    for (role, who, name) in [
        (Role::Peer, "lmdb", "LMDB, its map"),
        (Role::Peer, "redb", "redb, its cache"),
        (Role::Mmsb, "mmsb", "MMSB"),
    ] {
        let dir = dir.join(format!("resident-{who}"));
        let child = Command::new(std::env::current_exe()?)
            .args(["resident", who, &count.to_string()])
            .arg(&dir)
            .output()?;
        if !child.status.success() {
            return Err(String::from_utf8_lossy(&child.stderr).into());
        }
        let mib: f64 = String::from_utf8(child.stdout)?.trim().parse()?;
        report(row, role, name, &mut [mib]);
        fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// The child of `resident`: fills an engine and prints the MiB that this process then holds.
pub fn resident_child(who: &str, count: u32, dir: &Path) -> Res<()> {
    fs::create_dir_all(dir)?;
    match who {
        "lmdb" => {
            let _held = Lmdb::load(&dir.join("lmdb"), LmdbMode::Mapped, count, PAGE)?;
            println!("{}", (status("RssAnon")? + status("RssFile")?) / MIB);
        }
        "redb" => {
            let _held = Redb::load(&dir.join("redb"), redb::Durability::Immediate, count, PAGE)?;
            println!("{}", status("RssAnon")? / MIB);
        }
        _ => {
            let _held = Mmsb::load(&dir.join("mmsb"), Durability::Os, count, PAGE)?;
            // The arena counts with all that it has taken, touched or not; the log's page cache does not count.
            println!("{}", (status("RssAnon")? + status("RssShmem")?.max(memfds()?)) / MIB);
        }
    }
    Ok(())
}

/// Bytes of a kind of memory of this process.
pub fn status(field: &str) -> Res<f64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(field)).ok_or("no such field")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kib * 1024.0)
}

/// Bytes that this process's memory files occupy.
fn memfds() -> Res<f64> {
    let mut bytes = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:")) {
            bytes += fs::metadata(&path)?.blocks() * 512;
        }
    }
    Ok(bytes as f64)
}

/// Bytes that a 64-byte commit sends to files.
pub fn written(dir: &Path) -> Res<()> {
    let row = "log-bytes";
    report(row, Role::Floor, "the change itself", &mut [64.0]);
    let (count, size) = (1024, 4096);
    let load = Load { count, size, per: 1 };
    let lmdb = Lmdb::load(&dir.join("written-lmdb"), LmdbMode::Written, count, size)?;
    let sqlite = Sqlite::load(&dir.join("written-sqlite"), "OFF", count, size)?;
    let redb_file = dir.join("written-redb");
    let redb = Redb::load(&redb_file, redb::Durability::Immediate, count, size)?;
    let peers = [
        ("LMDB NOSYNC", Driver::new(&lmdb, load)),
        ("SQLite WAL", Driver::new(&sqlite, load)),
        ("redb Immediate", Driver::new(&redb, load)),
    ];
    for (name, mut driver) in peers {
        let (before, ops) = (wchar()?, 1000);
        driver.run(ops)?;
        report(row, Role::Peer, name, &mut [(wchar()? - before) / ops as f64]);
    }

    // What is mapped does not show as written, so MMSB is asked for the length of its log.
    let ours = Mmsb::load(&dir.join("written-mmsb"), Durability::Os, count, size)?;
    let (before, ops) = (ours.stat("log_bytes")?, 100_000);
    Driver::new(&ours, load).run(ops)?;
    let bytes = ours.stat("log_bytes")? - before;
    report(row, Role::Mmsb, "MMSB", &mut [bytes as f64 / ops as f64]);
    Ok(())
}

/// Bytes that this process has handed to write calls.
fn wchar() -> Res<f64> {
    let text = fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: ")).ok_or("no wchar")?;
    Ok(line.parse()?)
}
