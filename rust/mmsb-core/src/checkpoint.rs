//! Checkpoints: a file with all pages at one epoch, so that recovery need not begin at the first commit.
//!
//! A checkpoint is written to a temporary name, synced, renamed, and its directory synced; a file under its final
//! name is complete. Everything in it is checksummed: the header by itself, the index by the header, each block by
//! the index, and the state they make by its digest. FORMAT.md gives every byte.

mod header;
mod load;
mod read;
mod runs;
mod write;

#[cfg(test)]
mod base_tests;
#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod forged_tests;
#[cfg(test)]
mod graph_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod write_tests;

pub(crate) use load::{fill, load, place, put_page, put_tag};
pub(crate) use read::{Item, Place, Reader, verify};
pub(crate) use write::{Making, write};

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::log::CheckpointMark;
use crate::vfs::{OpenKind, Vfs, VfsDir, read_exact_at};
use crate::{Code, Error, Result};

use header::HEADER;

const EXTENSION: &str = ".ckpt";
/// What the name of an unfinished checkpoint begins with.
const TEMP: &str = ".tmp-";

/// The directory of a store's checkpoints.
pub(crate) fn dir(store: &Path) -> PathBuf {
    store.join("checkpoints")
}

/// The epochs that have a checkpoint file, oldest first.
pub(crate) fn list(vfs: &dyn Vfs, store: &Path) -> Result<Vec<u64>> {
    let dir = dir(store);
    let names = match vfs.list(&dir) {
        // Tools that copy stores may leave an empty directory out.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(|e| Error::storage(&dir, &e, "cannot list"))?,
    };
    let epoch = |name: &String| {
        let epoch = u64::from_str_radix(name.strip_suffix(EXTENSION)?, 16).ok()?;
        (file_name(epoch) == *name).then_some(epoch)
    };
    let mut epochs: Vec<u64> = names.iter().filter_map(epoch).collect();
    epochs.sort_unstable();
    // A directory that is changed while it is listed may tell a name twice.
    epochs.dedup();
    Ok(epochs)
}

/// Where a checkpoint is written before it gets its name.
fn temp(store: &Path, epoch: u64) -> PathBuf {
    dir(store).join(format!("{TEMP}{}", file_name(epoch)))
}

fn file_name(epoch: u64) -> String {
    let name = format!("{epoch:016x}{EXTENSION}");
    assert_eq!(name.len(), 16 + EXTENSION.len(), "the order of names is not that of epochs");
    name
}

/// The file of an epoch's checkpoint.
pub(crate) fn path(store: &Path, epoch: u64) -> PathBuf {
    dir(store).join(file_name(epoch))
}

/// Gives a written checkpoint its name. The directory that is returned makes that durable, with [`sync_names`]: it was
/// opened before, so that the sync is asked for in any case.
pub(crate) fn install(vfs: &dyn Vfs, store: &Path, epoch: u64) -> Result<Box<dyn VfsDir>> {
    let (dir, to) = (dir(store), path(store, epoch));
    let names = vfs.open_dir(&dir).map_err(|e| Error::storage(&dir, &e, "cannot open"))?;
    let renamed = vfs.rename(&temp(store, epoch), &to);
    renamed.map_err(|e| Error::storage(&to, &e, "cannot rename to")).map(|()| names)
}

/// Makes the names of all checkpoints durable.
pub(crate) fn sync_names(names: &dyn VfsDir, store: &Path) -> Result<()> {
    names.sync().map_err(|e| Error::storage(&dir(store), &e, "cannot sync"))
}

/// Whether a checkpoint was made without being asked for. One that cannot be read is left alone.
pub(crate) fn is_automatic(vfs: &dyn Vfs, store: &Path, epoch: u64) -> Result<bool> {
    Ok(whole_header(vfs, store, epoch)?.is_some_and(|head| header::is_automatic(&head)))
}

/// The newest epoch that a checkpoint of the store is of, whatever became of its pages: the log was durable up to there when
/// it was named.
pub(crate) fn promised(vfs: &dyn Vfs, store: &Path, of: [u8; 16]) -> Result<u64> {
    for epoch in list(vfs, store)?.into_iter().rev() {
        match whole_header(vfs, store, epoch) {
            Ok(Some(head)) if header::uuid(&head) == of && header::epoch(&head) == epoch => {
                return Ok(epoch);
            }
            // The host has thinned it meanwhile, and there is a newer one.
            Err(error) if error.is_missing() => {}
            head => _ = head?,
        }
    }
    Ok(0)
}

/// The epoch of the checkpoint that another stands on, if its header is whole and tells of one.
pub(crate) fn base(vfs: &dyn Vfs, store: &Path, epoch: u64) -> Result<Option<u64>> {
    Ok(whole_header(vfs, store, epoch)?.and_then(|head| header::base(&head)))
}

/// The epochs of the checkpoints that some of these stand on.
pub(crate) fn bases<'a>(
    vfs: &dyn Vfs,
    store: &Path,
    epochs: impl Iterator<Item = &'a u64>,
) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for &epoch in epochs {
        found.extend(base(vfs, store, epoch)?);
    }
    Ok(found)
}

/// The store that a checkpoint says it is of, if its header is whole.
pub(crate) fn uuid(vfs: &dyn Vfs, store: &Path, epoch: u64) -> Result<Option<[u8; 16]>> {
    Ok(whole_header(vfs, store, epoch)?.map(|head| header::uuid(&head)))
}

fn whole_header(vfs: &dyn Vfs, store: &Path, epoch: u64) -> Result<Option<[u8; HEADER]>> {
    let path = path(store, epoch);
    let file =
        vfs.open(&path, OpenKind::Read).map_err(|e| Error::storage(&path, &e, "cannot read"))?;
    let mut head = [0; HEADER];
    let read = read_exact_at(&*file, 0, &mut head);
    Ok(Some(head).filter(|head| read.is_ok() && header::is_whole(head)))
}

/// Whether a checkpoint has the state that the log says it has: one of a copy of the store that lived on has its name too.
pub(crate) fn check(store: &Path, digest: u128, mark: &CheckpointMark) -> Result<()> {
    if digest == mark.digest {
        return Ok(());
    }
    let what = "the checkpoint is of another state than the log says";
    Err(damage(&path(store, mark.epoch), 136, mark.epoch, what))
}

/// What a checkpoint stands on is damaged as a whole.
pub(crate) fn ground_lost(path: &Path, epoch: u64) -> Error {
    damage(path, header::BASE as u64, epoch, "the checkpoint that it stands on is damaged")
}

fn damage(path: &Path, offset: u64, epoch: u64, what: &str) -> Error {
    Error::corruption(path, Some(offset), Some(epoch), what)
}

fn no_memory(bytes: u64, path: &Path) -> Error {
    Error::new(Code::OutOfSpace, format!("no memory for {bytes} bytes of {}", path.display()))
}
