//! How a directory becomes a store.
//!
//! Invariants: a new store is there from the moment when its first segment has its name; a copy of a store, which has
//! many, from the moment when a slot says how far it is durable, and its mark tells until then that it is none. All else is
//! durable by then. What an interruption leaves is no store, and the next creation takes its place.

use std::path::{Path, PathBuf};

use super::segment::{self, Gate, SegmentName};
use super::{lock, read_meta};
use crate::checkpoint;
use crate::error::{Code, Error, Result};
use crate::museum::{Defect, planted};
use crate::vfs::{OpenKind, StoreLock, Vfs};

/// Takes a directory for a new store: it is made if need be, locked, and has the directories of a store.
pub(crate) fn claim(vfs: &dyn Vfs, dir: &Path) -> Result<Box<dyn StoreLock>> {
    let failed = |path: &Path, e: std::io::Error| Error::storage(path, &e, "create");
    vfs.create_dir(dir).map_err(|e| failed(dir, e))?;
    refuse_foreign(vfs, dir)?;
    let lock = lock(vfs, dir)?;
    refuse_existing(vfs, dir)?;
    segment::make_dirs(vfs, dir)?;
    remove_copy(vfs, dir)?;
    let begun = unnamed(dir);
    if vfs.exists(&begun).map_err(|e| failed(&begun, e))? {
        vfs.unlink(&begun).map_err(|e| failed(&begun, e))?;
    }
    Ok(lock)
}

/// The mark of a directory that a store is being copied into.
fn mark(dir: &Path) -> PathBuf {
    dir.join("copying")
}

/// Whether a store is being copied into a directory, or was.
pub(crate) fn is_marked(vfs: &dyn Vfs, dir: &Path) -> Result<bool> {
    let mark = mark(dir);
    vfs.exists(&mark).map_err(|e| Error::storage(&mark, &e, "look for"))
}

/// Sets the mark, which is durable with the names in the directory.
pub(crate) fn set_mark(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if planted(Defect::CopyNotMarked) || is_marked(vfs, dir)? {
        return Ok(());
    }
    let mark = mark(dir);
    let made = vfs.open(&mark, OpenKind::CreateNew);
    made.map(drop).map_err(|e| Error::storage(&mark, &e, "create"))
}

/// Takes the mark away, which means nothing any more.
pub(crate) fn remove_mark(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if !is_marked(vfs, dir)? {
        return Ok(());
    }
    let mark = mark(dir);
    vfs.unlink(&mark).map_err(|e| Error::storage(&mark, &e, "remove"))
}

/// Removes the files of a copy that is none. The mark stays, so it does not matter which of them a power loss brings back.
pub(crate) fn remove_copy(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    if !is_marked(vfs, dir)? {
        return Ok(());
    }
    let failed = |path: &Path, e: std::io::Error| Error::storage(path, &e, "remove");
    for within in [checkpoint::dir(dir), segment::log_dir(dir)] {
        for name in vfs.list(&within).map_err(|e| failed(&within, e))? {
            let path = within.join(name);
            vfs.unlink(&path).map_err(|e| failed(&path, e))?;
        }
    }
    Ok(())
}

/// Makes the names in a store's directory durable, and its own.
pub(crate) fn sync_place(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    // A bare name lies in the working directory.
    let parent = dir.parent().map(|up| if up.as_os_str().is_empty() { Path::new(".") } else { up });
    for synced in [Some(dir), parent].into_iter().flatten() {
        vfs.sync_dir(synced).map_err(|e| Error::storage(synced, &e, "sync"))?;
    }
    Ok(())
}

/// Where the first segment is before it has its name.
pub(crate) fn unnamed(dir: &Path) -> PathBuf {
    segment::log_dir(dir).join("creating")
}

/// Gives the first segment its name, durably: that makes the directory a store.
pub(crate) fn announce(vfs: &dyn Vfs, dir: &Path, first: SegmentName, gate: &Gate) -> Result<()> {
    assert_eq!(first.seq, 0, "a store begins with another segment than its first");
    assert!(first.first_epoch > 0, "a store begins with no commit's epoch");
    let (begun, named) = (unnamed(dir), segment::log_dir(dir).join(first.file()));
    vfs.rename(&begun, &named).map_err(|e| Error::storage(&begun, &e, "create"))?;
    gate.sync_names()
}

/// A directory that holds a store, or remains of one, is not made into a new one.
fn refuse_existing(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    match read_meta(vfs, dir) {
        Err(error) if error.code == Code::BusNotFound => return Ok(()),
        Err(error) if segment::list(vfs, dir)?.is_empty() => return Err(error),
        _ => {}
    }
    let message = format!("{} already holds a bus; open it with mmsb.open()", dir.display());
    let mut error = Error::new(Code::BusExists, message);
    error.detail.file = Some(dir.to_path_buf());
    Err(error)
}

/// A directory with other people's files is not made into a store. One with remains of a creation that did not end is.
fn refuse_foreign(vfs: &dyn Vfs, dir: &Path) -> Result<()> {
    let ours = ["lock", "meta-0", "meta-1", "log", "checkpoints", "quarantine", "index", "copying"];
    let names = vfs.list(dir).map_err(|e| Error::storage(dir, &e, "list"))?;
    match names.iter().find(|name| !ours.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::new(
            Code::Argument,
            format!(
                "{} is not empty (it holds {name:?}); a bus needs a directory of its own",
                dir.display()
            ),
        )),
    }
}
