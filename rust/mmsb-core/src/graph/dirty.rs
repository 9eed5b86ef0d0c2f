//! A set of positions as bits, with the words that are not zero marked in a word above, 64 to one.
//!
//! The smallest position is found by one look per tier, and a tier is a sixth of the bits of a
//! position: four for a million positions. A position leaves or enters the tiers above only with the
//! first or last bit of its word. Nothing is allocated after [`Dirty::new`]. A position that is in
//! alone, as all are in a chain, is kept beside the bits.
//!
//! Invariants: a bit above the lowest tier is set exactly where the word below it is not zero; where
//! a position is alone no bit is set.

use std::ops::Range;

/// Bits of a position that one tier tells apart.
const FAN: u32 = 6;

/// The bits themselves.
const MASK: u32 = (1 << FAN) - 1;

/// As many as a `u32` can need.
const TIERS: usize = 6;

/// A set of positions below a fixed number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dirty {
    /// The tiers, the lowest first, one after the other.
    words: Vec<u64>,
    /// Where each tier begins.
    starts: [usize; TIERS],
    tiers: usize,
    len: u32,
    alone: Option<u32>,
}

impl Dirty {
    /// The empty set of positions below `len`.
    #[must_use]
    pub(crate) fn new(len: u32) -> Self {
        let (mut starts, mut tiers, mut total) = ([0; TIERS], 0, 0);
        let mut words = len as usize;
        loop {
            words = words.div_ceil(1 << FAN).max(1);
            starts[tiers] = total;
            total += words;
            tiers += 1;
            if words == 1 {
                break;
            }
        }
        Self { words: vec![0; total], starts, tiers, len, alone: None }
    }

    /// Takes a position in.
    ///
    /// # Panics
    /// Where the position is not below the number given to [`Dirty::new`].
    #[inline]
    pub(crate) fn set(&mut self, position: u32) {
        assert!(position < self.len, "graph: position {position} of {}", self.len);
        match self.alone {
            Some(alone) if alone == position => {}
            None if self.has_no_bit() => self.alone = Some(position),
            _ => self.set_bit(position),
        }
    }

    fn set_bit(&mut self, position: u32) {
        if let Some(alone) = self.alone.take() {
            self.set_bit(alone);
        }
        let mut at = position;
        for tier in 0..self.tiers {
            let (word, bit) = self.word(tier, at);
            let before = *word;
            *word = before | bit;
            if before != 0 {
                break;
            }
            at >>= FAN;
        }
    }

    /// Whether the position is in.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn contains(&self, position: u32) -> bool {
        self.alone == Some(position)
            || position < self.len && self.words[(position >> FAN) as usize] & bit(position) != 0
    }

    /// Whether nothing is in.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.alone.is_none() && self.has_no_bit()
    }

    fn has_no_bit(&self) -> bool {
        self.words[self.words.len() - 1] == 0
    }

    /// Takes the smallest position out.
    #[inline]
    pub(crate) fn pop_first(&mut self) -> Option<u32> {
        self.alone.take().or_else(|| self.pop_first_bit())
    }

    fn pop_first_bit(&mut self) -> Option<u32> {
        let position = self.first_below(self.tiers, 0)?;
        let (word, bit) = self.word(0, position);
        *word &= !bit;
        if *word == 0 {
            self.mark_empty(position >> FAN);
        }
        Some(position)
    }

    /// Takes the positions of a range out, appended to `taken` in ascending order.
    #[inline]
    pub(crate) fn take_range(&mut self, range: Range<u32>, taken: &mut Vec<u32>) {
        match self.alone {
            Some(alone) if range.contains(&alone) => taken.extend(self.alone.take()),
            None if !self.has_no_bit() => self.take_bits(range, taken),
            _ => {}
        }
    }

    fn take_bits(&mut self, range: Range<u32>, taken: &mut Vec<u32>) {
        let end = range.end.min(self.len);
        let mut from = range.start;
        while from < end
            && let Some(first) = self.first_from(from)
            && first < end
        {
            let base = first & !MASK;
            let last = (end - 1).min(base | MASK);
            let span = u64::MAX << (first & MASK) & u64::MAX >> (MASK - (last - base));
            let word = &mut self.words[(base >> FAN) as usize];
            let mut bits = *word & span;
            *word &= !span;
            if *word == 0 {
                self.mark_empty(base >> FAN);
            }
            while bits != 0 {
                taken.push(base + bits.trailing_zeros());
                bits &= bits - 1;
            }
            from = last + 1;
        }
    }

    /// Takes everything out, at the cost of what is in.
    pub(crate) fn clear(&mut self) {
        self.alone = None;
        while let Some(position) = self.first_below(self.tiers, 0) {
            self.words[(position >> FAN) as usize] = 0;
            self.mark_empty(position >> FAN);
        }
    }

    fn word(&mut self, tier: usize, at: u32) -> (&mut u64, u64) {
        (&mut self.words[self.starts[tier] + (at >> FAN) as usize], bit(at))
    }

    /// Unmarks a word of the lowest tier that has become zero.
    fn mark_empty(&mut self, word: u32) {
        let mut at = word;
        for tier in 1..self.tiers {
            let (word, bit) = self.word(tier, at);
            *word &= !bit;
            if *word != 0 {
                break;
            }
            at >>= FAN;
        }
    }

    /// The smallest position below a word, given by number, of a tier, given by how many are below.
    fn first_below(&self, tiers: usize, word: u32) -> Option<u32> {
        let mut at = word;
        for tier in (0..tiers).rev() {
            let bits = self.words[self.starts[tier] + at as usize];
            if bits == 0 {
                return None;
            }
            at = at << FAN | bits.trailing_zeros();
        }
        Some(at)
    }

    /// The smallest position not below `from`, which is below the number of positions.
    fn first_from(&self, from: u32) -> Option<u32> {
        let mut at = from;
        for tier in 0..self.tiers {
            let word = at >> FAN;
            let bits = self.words[self.starts[tier] + word as usize];
            let rest = bits & u64::MAX << (at & MASK);
            if rest != 0 {
                return self.first_below(tier, word << FAN | rest.trailing_zeros());
            }
            at = word + 1;
            if at as usize >= self.width(tier) {
                return None;
            }
        }
        None
    }

    /// How many words a tier has.
    fn width(&self, tier: usize) -> usize {
        let end = if tier + 1 < self.tiers { self.starts[tier + 1] } else { self.words.len() };
        end - self.starts[tier]
    }

    /// Verifies the whole structure.
    #[cfg(test)]
    pub(super) fn check(&self) {
        assert_eq!(self.width(self.tiers - 1), 1);
        assert!(self.alone.is_none_or(|alone| alone < self.len && self.has_no_bit()));
        let beyond = |at: u32| self.words[at as usize / 64] & bit(at) != 0;
        assert!(!(self.len..self.width(0) as u32 * 64).any(beyond));
        for tier in 1..self.tiers {
            for at in 0..self.width(tier) as u32 * 64 {
                let marked = self.words[self.starts[tier] + at as usize / 64] & bit(at) != 0;
                let below = (at as usize) < self.width(tier - 1)
                    && self.words[self.starts[tier - 1] + at as usize] != 0;
                assert_eq!(marked, below, "tier {tier} bit {at}");
            }
        }
    }
}

fn bit(at: u32) -> u64 {
    1 << (at & MASK)
}
