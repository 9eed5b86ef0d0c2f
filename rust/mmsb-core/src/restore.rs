//! Restoring an epoch: one batch that turns the newest state into an earlier one.

use crate::catalog::PageInfo;
use crate::delta::{Batch, NewPage};
use crate::graph::Marks;
use crate::hash::is_zero;
use crate::propagate::Manner;
use crate::snapshot::Snapshot;
use crate::{Result, page};

/// Whether two descriptions are of one page. Elements stay what they were made, but under the id of a page another bus
/// may have another one.
fn is_one(a: &PageInfo, b: &PageInfo) -> bool {
    (&a.dtype, a.itemsize, a.location) == (&b.dtype, b.itemsize, b.location)
}

/// Fills `batch` with what turns `head` into `to`. Names are freed before they are given, so that pages may have
/// swapped theirs.
pub(crate) fn plan(head: &Snapshot, to: &Snapshot, batch: &mut Batch) -> Result<()> {
    assert!(batch.is_empty(), "a restore is all that its batch does");
    batch.manner = Manner::AsIs;
    let changed = head.changed_pages(to)?;
    assert!(changed.is_sorted_by(|a, b| a < b), "each page is restored once, in id order");
    let kept = |id: u64| {
        head.described(id).filter(|have| to.described(id).is_some_and(|to| is_one(have, &to)))
    };
    let renamed = |id: u64| {
        head.described(id).map(|info| info.name) != to.described(id).map(|info| info.name)
    };
    let is_somewhere = |&id: &u64| head.slot(id).is_some() || to.slot(id).is_some();
    assert!(changed.iter().all(is_somewhere), "a page differs that is nowhere");
    for &id in changed.iter().filter(|&&id| head.slot(id).is_some() && kept(id).is_none()) {
        batch.delete(id);
    }
    for &id in changed.iter().filter(|&&id| kept(id).is_some() && renamed(id)) {
        batch.rename(id, None);
    }
    for &id in &changed {
        let (Some(slot), Some(want)) = (to.slot(id), to.described(id)) else { continue };
        let Some(have) = kept(id) else {
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
                if !is_zero(bytes) {
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
        let common = have.nbytes.min(want.nbytes);
        assert!(ranges.iter().all(|&(start, stop)| start < stop), "a change has no bytes");
        assert!(ranges.is_sorted_by(|a, b| a.1 <= b.0), "changes lie in each other");
        assert!(ranges.last().is_none_or(|last| last.1 <= common), "a change lies past the page");
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
    for &id in &changed {
        let Some(want) = to.described(id) else { continue };
        let had = kept(id).map(|have| (have.node, have.marks)).unwrap_or_default();
        if had.0 != want.node {
            batch.encoded_node(id, &want.node);
        }
        // A page that leaves the graph has no marks.
        let has = if want.node.is_empty() { Marks::default() } else { had.1 };
        if has != want.marks {
            batch.mark(id, want.marks);
        }
    }
    let is_whole = batch.complete().is_err() || batch.len() >= changed.len();
    assert!(is_whole, "a page that differs is left as it is");
    Ok(())
}
