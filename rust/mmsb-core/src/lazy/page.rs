//! A page of an epoch that is read page by page: the blocks of it that somebody looked at.
//!
//! The page's own commits are applied when it is first looked at, to the blocks that they touch; other blocks come from
//! the checkpoint when somebody looks at them.

use super::parts::Part;
use crate::arena::{BLOCK, Mem};
use crate::checkpoint::{self, Place, Reader};
use crate::core::Core;
use crate::delta::{Op, Ops};
use crate::edit::Edit;
use crate::history::at_record;
use crate::root::Root;
use crate::table::Slot;
use crate::{Code, Error, Result, apply};

/// The bytes of a page as far as they are there.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) slot: Slot,
    /// Where its first byte is; the others follow.
    at: u64,
    place: Option<Place>,
    /// Bytes from here on are not those of the checkpoint, but zero.
    kept: u64,
    /// Which blocks are there.
    have: Vec<bool>,
}

impl Page {
    /// Applies the commits behind epoch `from` of the checkpoint up to `epoch`.
    pub(super) fn begin(
        core: &Core,
        id: u64,
        slot: &Slot,
        place: Option<Place>,
        (from, epoch): (u64, u64),
        reader: Option<&Reader>,
        parts: &mut [Part],
    ) -> Result<Page> {
        let base = Root { epoch: epoch.saturating_sub(1), ..Root::empty() };
        let (mut taken, mut dead) = (Vec::new(), Vec::new());
        let mut edit = Edit::begin(&core.arena, &base, &mut taken, &mut dead);
        let begun = Page::replay(&mut edit, id, slot, place, from, reader, parts);
        if begun.is_err() {
            edit.abort();
        }
        begun
    }

    fn replay(
        edit: &mut Edit<'_>,
        id: u64,
        slot: &Slot,
        place: Option<Place>,
        from: u64,
        reader: Option<&Reader>,
        parts: &mut [Part],
    ) -> Result<Page> {
        let (data, at) = match slot.len {
            0 => (0, 0),
            len => checkpoint::place(edit, len, edit.epoch())?,
        };
        let kept = place.map_or(0, |place| place.nbytes);
        let epoch = place.map_or(0, |place| place.epoch);
        let have = vec![false; slot.len.div_ceil(BLOCK) as usize];
        let slot = Slot { data, epoch, ..*slot };
        let mut page = Page { slot, at, place, kept, have };
        let (mem, mut len) = (edit.mem(), kept);
        for part in parts {
            part.of_page(id, &mut |commit| {
                if commit.epoch <= from {
                    return Ok(());
                }
                for op in Ops::new(commit.ops) {
                    let op = op.map_err(apply::malformed);
                    op.and_then(|op| page.apply(mem, reader, id, &mut len, commit.epoch, &op))
                        .map_err(|e| at_record(e, commit))?;
                }
                Ok(())
            })?;
        }
        if len != page.slot.len {
            let what = format!("page {id} has {} bytes, and its commits make {len}", page.slot.len);
            return Err(Error::new(Code::Corruption, what));
        }
        Ok(page)
    }

    /// Applies an operation; `len` is how long the page is then. What lies behind the page's last length is left out.
    fn apply(
        &mut self,
        mem: Mem,
        reader: Option<&Reader>,
        id: u64,
        len: &mut u64,
        epoch: u64,
        op: &Op<'_>,
    ) -> Result<()> {
        match *op {
            Op::Write { id: of, offset, data } if of == id => {
                if offset > *len || data.len() as u64 > *len - offset {
                    return Err(apply::past_end(id, offset, data.len() as u64, *len));
                }
                let stop = (offset + data.len() as u64).min(self.slot.len);
                if offset < stop {
                    self.need(mem, reader, offset, stop)?;
                    let (at, data) = (self.at + offset, &data[..(stop - offset) as usize]);
                    if mem.bytes(at, stop - offset) != data {
                        mem.write(at, data);
                        self.slot.epoch = epoch;
                    }
                }
            }
            Op::Create { id: of, nbytes, .. } if of == id => {
                self.cut(mem, 0);
                (*len, self.slot.epoch) = (nbytes, epoch);
            }
            Op::Delete { id: of } if of == id => {
                self.cut(mem, 0);
                *len = 0;
            }
            Op::Resize { id: of, nbytes, .. } if of == id && nbytes != *len => {
                self.cut(mem, nbytes);
                (*len, self.slot.epoch) = (nbytes, epoch);
            }
            _ => {}
        }
        Ok(())
    }

    /// From `len` on all bytes are zero.
    fn cut(&mut self, mem: Mem, len: u64) {
        self.kept = self.kept.min(len);
        for number in len / BLOCK..self.have.len() as u64 {
            let stop = ((number + 1) * BLOCK).min(self.slot.len);
            let start = len.clamp(number * BLOCK, stop);
            if self.have[number as usize] {
                mem.zero(self.at + start, stop - start);
            }
        }
    }

    /// Brings the blocks with the bytes `start..stop`.
    pub(super) fn need(
        &mut self,
        mem: Mem,
        reader: Option<&Reader>,
        start: u64,
        stop: u64,
    ) -> Result<()> {
        let mut buf = [0; BLOCK as usize];
        let mut cursor =
            reader.zip(self.place.as_ref()).map(|(reader, place)| reader.cursor(place));
        for number in start / BLOCK..stop.div_ceil(BLOCK) {
            if self.have[number as usize] {
                continue;
            }
            let from = number * BLOCK;
            let stop = (from + BLOCK).min(self.slot.len);
            let kept = self.kept.clamp(from, stop);
            if let Some(cursor) = &mut cursor
                && kept > from
            {
                let block = cursor.block(number, &mut buf)?;
                mem.write(self.at + from, &block[..(kept - from) as usize]);
            }
            mem.zero(self.at + kept, stop - kept);
            self.have[number as usize] = true;
        }
        Ok(())
    }
}
