//! Restoring an epoch: one batch that turns the newest state into an earlier one.

use crate::delta::{Batch, NewPage};
use crate::snapshot::Snapshot;
use crate::{Result, page};

/// Fills `batch` with what turns `head` into `to`. Names are freed before they are given, so that pages may have
/// swapped theirs.
pub(crate) fn plan(head: &Snapshot, to: &Snapshot, batch: &mut Batch) -> Result<()> {
    let changed = head.changed_pages(to);
    let both: Vec<u64> = changed
        .iter()
        .copied()
        .filter(|&id| head.slot(id).is_some() && to.slot(id).is_some())
        .collect();
    let renamed =
        |id: u64| head.info(id).map(|info| info.name) != to.info(id).map(|info| info.name);
    for &id in changed.iter().filter(|&&id| to.slot(id).is_none()) {
        batch.delete(id);
    }
    for &id in both.iter().filter(|&&id| renamed(id)) {
        batch.rename(id, None);
    }
    for &id in &changed {
        let (Some(slot), Some(want)) = (to.slot(id), to.info(id)) else { continue };
        let Some(have) = head.info(id) else {
            batch.create(
                id,
                &NewPage {
                    name: want.name.as_deref(),
                    dtype: &want.dtype,
                    itemsize: want.itemsize,
                    shape: &want.shape,
                    nbytes: want.nbytes,
                    meta: &want.meta,
                    location: want.location,
                },
            );
            page::parts(to.core().mem(), &slot, 0, slot.len, &mut |offset, bytes| {
                if bytes.iter().any(|&b| b != 0) {
                    batch.write(id, offset, bytes);
                }
            });
            continue;
        };
        if renamed(id) && want.name.is_some() {
            batch.rename(id, want.name.as_deref());
        }
        if have.meta != want.meta {
            batch.set_meta(id, &want.meta);
        }
        let ranges = head.diff(to, id)?;
        if (have.nbytes, &have.shape) != (want.nbytes, &want.shape) {
            batch.resize(id, &want.shape, want.nbytes);
        }
        for (start, stop) in ranges {
            page::parts(to.core().mem(), &slot, start, stop, &mut |offset, bytes| {
                batch.write(id, offset, bytes);
            });
        }
        if want.nbytes > have.nbytes {
            page::parts(to.core().mem(), &slot, have.nbytes, want.nbytes, &mut |offset, bytes| {
                batch.write(id, offset, bytes);
            });
        }
    }
    Ok(())
}
