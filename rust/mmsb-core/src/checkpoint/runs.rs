//! Where the blocks of a page are in a checkpoint: one after the other in one place, or told run by run.
//!
//! Invariants: the runs of a page have exactly its blocks, in order; those in the file itself lie behind each other in
//! the order of the pages; a block of the base is one that the base has as its own.

use super::header::HEADER;
use super::read::Fields;
use crate::Result;
use crate::arena::BLOCK;
use crate::log::put_varint;

/// How the bytes of a block are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Not at all: they are zero.
    Zero = 0,
    /// As they are.
    Raw = 1,
    /// As a block of LZ4, which is shorter.
    Lz4 = 2,
}

/// Blocks of one form, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) count: u64,
    /// In the file of the base instead of the checkpoint's own.
    pub(super) in_base: bool,
    pub(super) form: Form,
    /// Where the first begins.
    pub(super) at: u64,
}

/// One stored block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) in_base: bool,
    pub(super) form: Form,
    pub(super) at: u64,
    /// Bytes that it takes there.
    pub(super) len: u64,
    /// Of what is compressed, the hash of those bytes: not every bit of them shows in what comes out.
    pub(super) sum: u64,
}

impl Run {
    fn take(fields: &mut Fields<'_>) -> Option<Run> {
        let head = fields.varint()?;
        let form = match head & 3 {
            0 => Form::Zero,
            1 => Form::Raw,
            2 => Form::Lz4,
            _ => return None,
        };
        let (count, in_base) = (head >> 3, head & 4 != 0);
        if count == 0 || form == Form::Zero && in_base {
            return None;
        }
        let at = if form == Form::Zero { 0 } else { fields.varint()? };
        Some(Run { count, in_base, form, at })
    }
}

/// Goes through the blocks of a page.
#[derive(Debug, Clone)]
pub(super) struct Blocks<'a> {
    /// Behind the head of the run; nothing for a page in one piece.
    fields: Fields<'a>,
    run: Run,
    number: u64,
    nbytes: u64,
}

impl<'a> Blocks<'a> {
    /// Those of a page in one piece.
    pub(super) fn plain(at: u64, nbytes: u64) -> Blocks<'a> {
        let count = nbytes.div_ceil(BLOCK);
        let run = Run { count, in_base: false, form: Form::Raw, at };
        Blocks { fields: Fields::new(&[]), run, number: 0, nbytes }
    }

    /// Those that the index tells of from here on.
    pub(super) fn told(fields: Fields<'a>, nbytes: u64) -> Blocks<'a> {
        let run = Run { count: 0, in_base: false, form: Form::Zero, at: 0 };
        Blocks { fields, run, number: 0, nbytes }
    }

    /// What the index tells behind them, once all have been gone through.
    pub(super) fn rest(self) -> Fields<'a> {
        self.fields
    }

    /// The number of the next block.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many bytes the next block has.
    pub(super) fn len(&self) -> u64 {
        BLOCK.min(self.nbytes - self.number * BLOCK)
    }

    pub(super) fn is_done(&self) -> bool {
        self.number * BLOCK >= self.nbytes
    }

    /// The next block; none if the index tells nothing that makes sense.
    pub(super) fn next(&mut self) -> Option<Stored> {
        assert!(!self.is_done(), "a page has no more blocks than its bytes need");
        if self.run.count == 0 {
            self.run = Run::take(&mut self.fields)?;
        }
        let (len, sum) = match self.run.form {
            Form::Zero => (0, 0),
            Form::Raw => (self.len(), 0),
            Form::Lz4 => {
                let len = self.fields.varint().filter(|&len| 0 < len && len < self.len())?;
                (len, self.fields.word()?)
            }
        };
        let Run { in_base, form, at, .. } = self.run;
        self.run.at = at.checked_add(len)?;
        self.run.count -= 1;
        self.number += 1;
        if self.is_done() && self.run.count > 0 {
            return None;
        }
        Some(Stored { in_base, form, at, len, sum })
    }

    /// Goes on to a later block.
    pub(super) fn skip_to(&mut self, number: u64) -> Option<()> {
        assert!(number * BLOCK < self.nbytes, "there is no such block");
        while self.number < number {
            let n = self.run.count.min(number - self.number);
            if n == 0 || self.run.form == Form::Lz4 {
                self.next()?;
                continue;
            }
            if self.run.form == Form::Raw {
                // Only the last block of a page is shorter, and that is never passed over.
                self.run.at = self.run.at.checked_add(n.checked_mul(BLOCK)?)?;
            }
            self.run.count -= n;
            self.number += n;
        }
        Some(())
    }
}

/// Gathers the blocks of one page into runs.
#[derive(Debug, Default)]
pub(super) struct Gather {
    run: Option<Run>,
    /// Where the next block has to be to join it.
    end: u64,
    /// What the index tells of each LZ4 block of the run.
    lens: Vec<u8>,
    runs: usize,
    /// What the index gets, but for the last run.
    told: Vec<u8>,
}

impl Gather {
    pub(super) fn clear(&mut self) {
        (self.run, self.runs) = (None, 0);
        self.lens.clear();
        self.told.clear();
    }

    /// Room for one more block; `reserve` makes room for so many bytes more.
    pub(super) fn reserve(
        &mut self,
        reserve: &mut dyn FnMut(&mut Vec<u8>, usize) -> Result<()>,
    ) -> Result<()> {
        // Twice a head and a place: of the run that ends and of the last one.
        reserve(&mut self.lens, 10 + 8)?;
        reserve(&mut self.told, self.lens.len() + 4 * 10)
    }

    pub(super) fn add(&mut self, block: Stored) {
        let Stored { in_base, form, at, len, sum } = block;
        assert!(form == Form::Zero || at >= HEADER as u64, "a block lies in the header");
        match &mut self.run {
            Some(run)
                if (run.in_base, run.form) == (in_base, form)
                    && (form == Form::Zero || at == self.end) =>
            {
                run.count += 1;
            }
            _ => {
                self.finish_run();
                self.run = Some(Run { count: 1, in_base, form, at });
                self.runs += 1;
            }
        }
        if form == Form::Lz4 {
            put_varint(&mut self.lens, len);
            self.lens.extend_from_slice(&sum.to_le_bytes());
        }
        self.end = at + len;
    }

    fn finish_run(&mut self) {
        let Some(Run { count, in_base, form, at }) = self.run.take() else { return };
        put_varint(&mut self.told, count << 3 | u64::from(in_base) << 2 | form as u64);
        if form != Form::Zero {
            put_varint(&mut self.told, at);
        }
        self.told.append(&mut self.lens);
    }

    /// Where the page begins, if it is in one piece in the checkpoint's own file.
    pub(super) fn in_one_piece(&self) -> Option<u64> {
        match self.run {
            Some(Run { in_base: false, form: Form::Raw, at, .. }) if self.runs == 1 => Some(at),
            _ => None,
        }
    }

    /// What the index gets.
    pub(super) fn finish(&mut self) -> &[u8] {
        self.finish_run();
        &self.told
    }
}
