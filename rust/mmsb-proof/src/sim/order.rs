//! The order that durability needs, checked at every call by the file system itself.
//!
//! - A commit is in the log before anybody is told, durably so before a durable commit is told.
//! - The log reaches epoch E durably before a checkpoint of E gets its name.
//! - A file is durable before it is renamed.
//! - The log never loses a name or a file with bytes in it but to the quarantine, or after both meta slots say durably
//!   that it begins behind it.
//! - The checkpoint that the log begins with has its name durably before a slot says so durably, and is not removed.
//! - A sync that failed is not asked for again by the same process.
//!
//! The log is read by `format.rs`, from the description in FORMAT.md, not by the engine.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{Disk, Inode};
use crate::format::{COMMIT, has_header, records, slot_base, word};

static CHECKS: AtomicU64 = AtomicU64::new(0);

/// How often a rule was checked in this process.
pub fn checks() -> u64 {
    CHECKS.load(Ordering::Relaxed)
}

fn checked() {
    CHECKS.fetch_add(1, Ordering::Relaxed);
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext == "mlog")
}

fn is_slot(path: &Path) -> bool {
    path.ends_with("meta-0") || path.ends_with("meta-1")
}

/// What each meta slot says of where the log begins; none of one that is not whole.
fn bases(disk: &Disk, dir: &Path, durable: bool) -> Vec<Option<(u64, u64, u64)>> {
    let files = disk.files_in(dir, durable);
    let slots = files.iter().filter(|(path, _)| is_slot(path));
    slots.map(|(_, bytes)| slot_base(bytes)).collect()
}

fn segment_number(path: &Path) -> Option<u64> {
    u64::from_str_radix(path.file_name()?.to_str()?.get(..16)?, 16).ok()
}

/// The last epoch that the log holds in its first unbroken run of records, or the one that it begins with.
pub fn last_epoch(disk: &Disk, dir: &Path, durable: bool) -> u64 {
    let newest = bases(disk, dir, durable).into_iter().flatten().max();
    let (_, first, base) = newest.unwrap_or_default();
    let (mut epoch, mut chain, mut is_first) = (base, 0, true);
    for (path, bytes) in disk.files_in(&dir.join("log"), durable) {
        if !is_segment(&path) || segment_number(&path).is_some_and(|seq| seq < first) {
            continue;
        }
        if base > 0 && is_first && has_header(bytes) && word(bytes, 80) <= base + 1 {
            (epoch, chain) = (word(bytes, 80) - 1, word(bytes, 96));
        }
        is_first = false;
        if !has_header(bytes) || word(bytes, 80) != epoch + 1 || word(bytes, 96) != chain {
            break;
        }
        let records = records(bytes);
        epoch += records.iter().filter(|record| record.kind == COMMIT).count() as u64;
        chain = records.last().map_or(chain, |record| record.chain);
    }
    epoch
}

pub(super) fn acknowledged(disk: &Disk, dir: &Path, epoch: u64, durable: bool) {
    checked();
    let has = last_epoch(disk, dir, durable);
    let how = if durable { "durably" } else { "readably" };
    assert!(has >= epoch, "order: epoch {epoch} was acknowledged, the log {how} has {has}");
}

pub(super) fn renames(disk: &Disk, from: &Path, to: &Path) {
    checked();
    let Some(inode) = disk.names.get(from) else { return };
    let aside = to.parent().is_some_and(|dir| dir.ends_with("quarantine"));
    assert!(
        aside || disk.files[inode].is_durable(),
        "order: {} was renamed before it was synced",
        from.display()
    );
    let checkpoint = to.extension().is_some_and(|ext| ext == "ckpt").then(|| to.file_stem());
    if let Some(stem) = checkpoint.flatten()
        && let Ok(epoch) = u64::from_str_radix(&stem.to_string_lossy(), 16)
        && let Some(store) = to.parent().and_then(Path::parent)
    {
        let has = last_epoch(disk, store, true);
        assert!(has >= epoch, "order: checkpoint {epoch} got its name, the log durably has {has}");
    }
}

pub(super) fn unlinks(disk: &Disk, path: &Path) {
    checked();
    let Some(inode) = disk.names.get(path) else { return };
    let empty = disk.files[inode].now.iter().all(|&b| b == 0);
    // What is left of a copy is no store.
    let store = path.parent().and_then(Path::parent);
    let is_copy = store.is_some_and(|dir| disk.names.contains_key(&*dir.join("copying")));
    let bases = store.map_or_else(Vec::new, |dir| bases(disk, dir, true));
    let number = segment_number(path).unwrap_or(0);
    let is_let_go = bases.len() == 2
        && bases.iter().all(|slot| slot.is_some_and(|(_, first, _)| number < first));
    assert!(
        empty || is_copy || is_let_go || !is_segment(path),
        "order: {} was removed with bytes in it",
        path.display()
    );
    let is_checkpoint = path.extension().is_some_and(|ext| ext == "ckpt");
    assert!(
        is_copy
            || !is_checkpoint
            || bases.iter().flatten().all(|&(_, _, epoch)| epoch == 0 || epoch != number),
        "order: {} was removed, with which the log begins",
        path.display()
    );
}

pub(super) fn syncs(disk: &Disk, inode: Inode) {
    checked();
    let failed = disk.files[&inode].sync_failed;
    assert!(!failed, "order: a failed sync of file {inode} was asked for again");
    let slot = disk.names.iter().find(|(path, of)| **of == inode && is_slot(path));
    let base = slot_base(&disk.files[&inode].now).filter(|&(_, _, epoch)| epoch > 0);
    if let Some((path, _)) = slot
        && let Some((_, _, epoch)) = base
        && let Some(store) = path.parent()
    {
        let begun = ["copying", "log/creating"].map(|mark| store.join(mark));
        let is_store = begun.iter().all(|mark| !disk.names.contains_key(&**mark));
        let checkpoint = store.join(format!("checkpoints/{epoch:016x}.ckpt"));
        let inode = disk.durable_names.get(&*checkpoint);
        assert!(
            !is_store || inode.is_some_and(|inode| disk.files[inode].is_durable()),
            "order: the log begins durably with checkpoint {epoch}, which is not durable"
        );
    }
}

pub(super) fn syncs_dir(disk: &Disk, dir: &Path) {
    checked();
    let failed = disk.dir_sync_failed.contains(dir);
    assert!(!failed, "order: a failed sync of {} was asked for again", dir.display());
}
