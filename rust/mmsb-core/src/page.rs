//! The bytes of a page, whatever its size: one frame up to a block, a tree of blocks above.

use crate::Result;
use crate::arena::{BLOCK, Mem};
use crate::blocks::{self, Blocks, Frame};
use crate::edit::{DeadKind, Edit};
use crate::table::Slot;

/// Whether a page of so many bytes is one frame.
#[inline]
pub(crate) fn is_one_block(len: u64) -> bool {
    len <= BLOCK
}

/// The offset of bytes `start..stop`, if they are adjacent in memory. `start < stop <= slot.len`.
#[inline]
pub(crate) fn contiguous(mem: Mem, slot: &Slot, start: u64, stop: u64) -> Option<u64> {
    if is_one_block(slot.len) {
        return Some(slot.data + start);
    }
    Blocks::read(mem, slot.data).contiguous(mem, start, stop)
}

/// Where a block of a page is, and the epoch that made it.
pub(crate) fn frame(mem: Mem, slot: &Slot, number: u64) -> Frame {
    assert!(number < blocks::count(slot.len), "a page has no such block");
    match is_one_block(slot.len) {
        true => Frame { at: slot.data, born: slot.epoch },
        false => Blocks::read(mem, slot.data).frame(mem, number),
    }
}

/// Calls `each` with (offset in the page, bytes) of every part of `start..stop`, in order.
pub(crate) fn parts(
    mem: Mem,
    slot: &Slot,
    start: u64,
    stop: u64,
    each: &mut dyn FnMut(u64, &[u8]),
) {
    if start >= stop {
        return;
    }
    if is_one_block(slot.len) {
        return each(start, mem.bytes(slot.data + start, stop - start));
    }
    Blocks::read(mem, slot.data).parts(mem, start, stop, each);
}

/// Copies bytes from `offset` on into `out`.
pub(crate) fn read(mem: Mem, slot: &Slot, offset: u64, out: &mut [u8]) {
    parts(mem, slot, offset, offset + out.len() as u64, &mut |at, bytes| {
        let at = (at - offset) as usize;
        out[at..at + bytes.len()].copy_from_slice(bytes);
    });
}

/// Whether the page's bytes from `offset` on are `data`.
pub(crate) fn equals(mem: Mem, slot: &Slot, offset: u64, data: &[u8]) -> bool {
    let mut same = true;
    parts(mem, slot, offset, offset + data.len() as u64, &mut |at, bytes| {
        let at = (at - offset) as usize;
        same = same && data[at..at + bytes.len()] == *bytes;
    });
    same
}

/// Whether two pages of one arena have the same bytes in `start..stop`. Shared frames are not read.
pub(crate) fn same_range(mem: Mem, a: &Slot, b: &Slot, start: u64, stop: u64) -> bool {
    if start >= stop || (a.data == b.data && a.epoch == b.epoch) {
        return true;
    }
    let mut from = start;
    while from < stop {
        let to = ((from / BLOCK + 1) * BLOCK).min(stop);
        let (x, y) = (contiguous(mem, a, from, to), contiguous(mem, b, from, to));
        match (x, y) {
            (Some(x), Some(y)) if x == y || mem.bytes(x, to - from) == mem.bytes(y, to - from) => {}
            _ => return false,
        }
        from = to;
    }
    true
}

/// Bytes of a new page, all zero.
pub(crate) fn create(edit: &mut Edit<'_>, len: u64) -> Result<u64> {
    if len == 0 {
        Ok(0)
    } else if is_one_block(len) {
        edit.take_zeroed(len)
    } else {
        blocks::create(edit, len, edit.epoch(), true).map(|(at, _)| at)
    }
}

/// Writes `data` at `offset` (inside the page). Returns the new `slot.data`, or `None` if nothing changed.
#[inline]
pub(crate) fn write(
    edit: &mut Edit<'_>,
    page: u64,
    slot: &Slot,
    offset: u64,
    data: &[u8],
) -> Result<Option<u64>> {
    if data.is_empty() {
        return Ok(None);
    }
    if !is_one_block(slot.len) {
        return blocks::write(edit, page, slot, offset, data);
    }
    let mem = edit.mem();
    if mem.bytes(slot.data + offset, data.len() as u64) == data {
        return Ok(None);
    }
    let frame = if slot.epoch == edit.epoch() {
        slot.data
    } else {
        let frame = edit.take(slot.len)?;
        if (data.len() as u64) < slot.len {
            mem.copy(slot.data, frame, slot.len);
        }
        edit.retire(slot.data, slot.len, slot.epoch, DeadKind::Frame);
        frame
    };
    mem.write(frame + offset, data);
    Ok(Some(frame))
}

/// The new state no longer shows these bytes.
pub(crate) fn retire(edit: &mut Edit<'_>, page: u64, slot: &Slot) {
    if slot.len == 0 {
    } else if is_one_block(slot.len) {
        edit.retire(slot.data, slot.len, slot.epoch, DeadKind::Frame);
    } else {
        blocks::retire(edit, page, slot);
    }
}

/// Another size: kept bytes stay, new ones are zero. Returns the new `slot.data`.
pub(crate) fn resize(edit: &mut Edit<'_>, page: u64, slot: &Slot, len: u64) -> Result<u64> {
    if !is_one_block(slot.len) && !is_one_block(len) {
        return blocks::resize(edit, page, slot, len);
    }
    let data = create(edit, len)?;
    let kept = slot.len.min(len);
    if kept > 0 {
        let mem = edit.mem();
        let to = if is_one_block(len) { data } else { Blocks::read(mem, data).frame(mem, 0).at };
        let from = contiguous(mem, slot, 0, kept.min(BLOCK)).unwrap_or(slot.data);
        mem.copy(from, to, kept);
    }
    retire(edit, page, slot);
    Ok(data)
}

/// Calls `free` with (offset, size) of everything made after `epoch`.
pub(crate) fn walk_newer(mem: Mem, slot: &Slot, epoch: u64, free: &mut dyn FnMut(u64, u64)) {
    if slot.len == 0 {
    } else if !is_one_block(slot.len) {
        blocks::walk_newer(mem, slot, epoch, free);
    } else if slot.epoch > epoch {
        free(slot.data, slot.len);
    }
}
