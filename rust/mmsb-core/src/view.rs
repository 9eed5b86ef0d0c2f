//! Views: bytes of one page version that never change and live as long as the view.
//!
//! A view of a page of one block counts on its frame, one of a larger page on (page, epoch); so one kept view holds
//! one page's frames, not an epoch. Bytes that are not adjacent in memory are copied once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::arena::is_denied;
use crate::core::Core;
use crate::page;
use crate::sync::{Mutex, lock};
use crate::table::Slot;
use crate::{Code, Error, Result};

/// The copy that was last made of a page, if anybody still shows it.
#[derive(Debug)]
struct Gathered {
    epoch: u64,
    bytes: Weak<Vec<u8>>,
}

/// A version of a page, and how many views show it.
#[derive(Debug)]
struct Counted {
    page: u64,
    epoch: u64,
    views: u32,
}

/// Counted versions of pages over one block, and copies of scattered ones.
#[derive(Debug, Default)]
pub(crate) struct LargeViews {
    /// Sorted by page and epoch. Few versions are shown at a time, and a vector that keeps its memory makes a view
    /// cost no allocation.
    counts: Mutex<Vec<Counted>>,
    copies: Mutex<BTreeMap<u64, Gathered>>,
}

/// A copy of bytes that are not adjacent. A vector, so that its memory goes with the last view of it and not with the
/// last weak reference.
fn gather(core: &Core, slot: &Slot, start: u64, stop: u64) -> Result<Arc<Vec<u8>>> {
    let (len, mut copy) = ((stop - start) as usize, Vec::new());
    if is_denied() || copy.try_reserve_exact(len).is_err() {
        let what =
            format!("no memory to gather {len} bytes that are not adjacent; view less at a time");
        return Err(Error::new(Code::OutOfSpace, what));
    }
    page::parts(core.mem(), slot, start, stop, &mut |_, bytes| copy.extend_from_slice(bytes));
    Ok(Arc::new(copy))
}

fn place(counts: &[Counted], page: u64, epoch: u64) -> std::result::Result<usize, usize> {
    counts.binary_search_by_key(&(page, epoch), |counted| (counted.page, counted.epoch))
}

impl LargeViews {
    fn retain(&self, page: u64, epoch: u64) {
        let mut counts = lock(&self.counts);
        match place(&counts, page, epoch) {
            Ok(at) => counts[at].views += 1,
            Err(at) => counts.insert(at, Counted { page, epoch, views: 1 }),
        }
    }

    fn release(&self, page: u64, epoch: u64) {
        let mut counts = lock(&self.counts);
        if let Ok(at) = place(&counts, page, epoch) {
            counts[at].views -= 1;
            if counts[at].views == 0 {
                counts.remove(at);
            }
        }
    }

    /// Whether a view shows a version of the page made in `born..died`.
    pub(crate) fn holds(&self, page: u64, born: u64, died: u64) -> bool {
        let counts = lock(&self.counts);
        let at = place(&counts, page, born).unwrap_or_else(|at| at);
        counts.get(at).is_some_and(|next| next.page == page && next.epoch < died)
    }

    fn copy(&self, core: &Core, page: u64, slot: &Slot) -> Result<Arc<Vec<u8>>> {
        let mut copies = lock(&self.copies);
        if let Some(last) = copies.get(&page)
            && last.epoch == slot.epoch
            && let Some(copy) = last.bytes.upgrade()
        {
            return Ok(copy);
        }
        let copy = gather(core, slot, 0, slot.len)?;
        copies.retain(|_, last| last.bytes.strong_count() > 0);
        copies.insert(page, Gathered { epoch: slot.epoch, bytes: Arc::downgrade(&copy) });
        Ok(copy)
    }
}

enum Hold {
    Nothing,
    Frame { core: Arc<Core>, frame: u64 },
    Version { core: Arc<Core>, page: u64, epoch: u64 },
    Copy { _bytes: Arc<Vec<u8>> },
}

/// Read-only bytes of one page version.
pub struct View {
    at: *const u8,
    len: usize,
    epoch: u64,
    hold: Hold,
}

#[allow(unsafe_code)]
// SAFETY: the bytes never change while the view holds them.
unsafe impl Send for View {}
#[allow(unsafe_code)]
// SAFETY: as above.
unsafe impl Sync for View {}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("len", &self.len)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl View {
    /// The bytes `start..stop` of a page. The caller holds a pin on an epoch that shows `slot`.
    #[inline]
    pub(crate) fn pinned(
        core: &Arc<Core>,
        page: u64,
        slot: &Slot,
        start: u64,
        stop: u64,
    ) -> Result<View> {
        if start > stop || stop > slot.len {
            return Err(Error::new(
                Code::PageIndex,
                format!("bytes {start}..{stop} are not inside page {page} of {} bytes", slot.len),
            ));
        }
        let (len, epoch) = ((stop - start) as usize, slot.epoch);
        if len == 0 {
            return Ok(View {
                at: std::ptr::NonNull::<u64>::dangling().as_ptr().cast(),
                len,
                epoch,
                hold: Hold::Nothing,
            });
        }
        let mem = core.mem();
        if page::is_one_block(slot.len) {
            core.arena.retain(slot.data);
            let hold = Hold::Frame { core: Arc::clone(core), frame: slot.data };
            return Ok(View { at: mem.ptr(slot.data + start, stop - start), len, epoch, hold });
        }
        match page::contiguous(mem, slot, start, stop) {
            Some(at) => {
                core.views.retain(page, epoch);
                let hold = Hold::Version { core: Arc::clone(core), page, epoch };
                Ok(View { at: mem.ptr(at, stop - start), len, epoch, hold })
            }
            None if len as u64 == slot.len => {
                let copy = core.views.copy(core, page, slot)?;
                Ok(View { at: copy.as_ptr(), len, epoch, hold: Hold::Copy { _bytes: copy } })
            }
            None => {
                let part = gather(core, slot, start, stop)?;
                Ok(View { at: part.as_ptr(), len, epoch, hold: Hold::Copy { _bytes: part } })
            }
        }
    }

    /// Address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.at
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    #[allow(unsafe_code)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `at` points to `len` bytes that `hold` keeps alive and unchanged.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }

    /// The epoch that made these bytes.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether scattered blocks had to be copied.
    pub fn is_copy(&self) -> bool {
        matches!(self.hold, Hold::Copy { .. })
    }
}

impl Drop for View {
    #[inline]
    fn drop(&mut self) {
        match &self.hold {
            Hold::Nothing | Hold::Copy { .. } => {}
            // In a forked child the counts are the host's.
            Hold::Frame { core, .. } | Hold::Version { core, .. } if core.is_foreign() => {}
            Hold::Frame { core, frame } => core.arena.release(*frame),
            Hold::Version { core, page, epoch } => core.views.release(*page, *epoch),
        }
    }
}
