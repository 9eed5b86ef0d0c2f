//! Frames and size classes. Private to the host: no reader needs it.
//!
//! The unit is the frame of one block. Pieces of up to half a block come from slabs of four frames; larger ones
//! are frames or runs of adjacent frames. A bitmap is the truth about free frames; the stacks are hints that make
//! the most recently freed memory the first to be used again, because a first touch costs microseconds.

use super::{is_denied, out_of_space};
use crate::Result;
use crate::museum::{Defect, planted};

/// Bytes of a block and of a frame.
pub(crate) const BLOCK: u64 = 16 << 10;
const SLAB_FRAMES: u64 = 4;
const SLAB: u64 = SLAB_FRAMES * BLOCK;

/// Sizes of small pieces. 272 and 528 fit the nodes of the tables, 48 the record of a page with a short name.
const CLASSES: [u32; 32] = [
    16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 272, 320, 384, 448, 512, 528, 640, 768,
    896, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192, 12288,
];
const CLASS_MAX: u64 = 12288;
const STEP: u64 = 16;
const _: () = assert!(CLASS_MAX < BLOCK, "a run of frames is given back frame by frame");

const CLASS_OF: [u8; (CLASS_MAX / STEP) as usize + 1] = {
    let mut table = [0u8; (CLASS_MAX / STEP) as usize + 1];
    let mut unit = 0;
    let mut class = 0;
    while unit < table.len() {
        if unit * STEP as usize > CLASSES[class] as usize {
            class += 1;
        }
        table[unit] = class as u8;
        unit += 1;
    }
    table
};

/// Bytes that a piece of `len` bytes takes.
#[inline]
pub(crate) fn size_class(len: u64) -> u64 {
    match class_of(len) {
        Some(class) => u64::from(CLASSES[class]),
        None => len.div_ceil(BLOCK) * BLOCK,
    }
}

#[inline]
fn class_of(len: u64) -> Option<usize> {
    (len <= CLASS_MAX).then(|| CLASS_OF[len.div_ceil(STEP) as usize] as usize)
}

#[derive(Debug, Default)]
struct Class {
    free: Vec<u64>,
    cursor: u64,
    end: u64,
    cursor_zero: bool,
}

/// The allocator of one arena.
#[derive(Debug)]
pub(crate) struct Alloc {
    limit: u64,
    used: u64,
    charged: u64,
    frames: u64,
    fresh: u64,
    free_bits: Vec<u64>,
    free_frames: u64,
    recent: Vec<u64>,
    rover: usize,
    classes: [Class; CLASSES.len()],
    slab_used: Vec<u16>,
    slabs: Vec<u64>,
}

/// A piece, and whether its bytes are known to be zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) zero: bool,
}

impl Alloc {
    pub(crate) fn new(len: u64, limit: u64) -> Alloc {
        Alloc {
            limit,
            used: 0,
            charged: 0,
            frames: len / BLOCK,
            fresh: 0,
            free_bits: Vec::new(),
            free_frames: 0,
            recent: Vec::new(),
            rover: 0,
            classes: std::array::from_fn(|_| Class::default()),
            slab_used: Vec::new(),
            slabs: Vec::new(),
        }
    }

    /// Bytes in use, slabs counted whole, with what was charged from outside.
    pub(crate) fn used(&self) -> u64 {
        self.used + self.charged
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    /// Small pieces and frames that are in use, to the last one; `used` has slabs whole.
    #[cfg(test)]
    pub(crate) fn pieces(&self) -> (u64, u64) {
        let small = self.slab_used.iter().map(|&used| u64::from(used)).sum();
        (small, self.used / BLOCK - SLAB_FRAMES * self.slabs.len() as u64)
    }

    /// Whether `bytes` more would be within the limit, if need be without the slabs that have become empty.
    pub(crate) fn room_for(&mut self, bytes: u64) -> bool {
        let fits =
            |this: &Alloc| this.used().checked_add(bytes).is_some_and(|all| all <= this.limit);
        if !fits(self) {
            self.trim();
        }
        fits(self)
    }

    /// Counts memory outside the arena (the in-memory log of each bus that shares it) against the limit: who charged
    /// `was` charges `now`.
    pub(crate) fn recharge(&mut self, was: &mut u64, now: u64) {
        self.charged = self.charged - *was + now;
        *was = now;
    }

    /// A piece of at least `len` bytes: on a 16-byte boundary, on a 64-byte one if its size allows, and page-aligned
    /// from one block on.
    #[inline]
    pub(crate) fn take(&mut self, len: u64) -> Result<Piece> {
        if is_denied() {
            return Err(out_of_space(len, self.limit));
        }
        let Some(class) = class_of(len) else {
            return self.take_frames(len.div_ceil(BLOCK));
        };
        let size = u64::from(CLASSES[class]);
        if let Some(offset) = self.classes[class].free.pop() {
            self.slab_used[(offset / BLOCK) as usize] += 1;
            return Ok(Piece { offset, zero: false });
        }
        if self.classes[class].cursor + size > self.classes[class].end {
            self.add_slab(class)?;
        }
        let class = &mut self.classes[class];
        let offset = class.cursor;
        class.cursor += size;
        let zero = class.cursor_zero;
        self.slab_used[(offset / BLOCK) as usize] += 1;
        Ok(Piece { offset, zero })
    }

    /// Gives a piece of `len` bytes back.
    #[inline]
    pub(crate) fn give(&mut self, offset: u64, len: u64) {
        match class_of(len) {
            Some(class) => {
                self.slab_used[(offset / BLOCK) as usize] -= 1;
                self.classes[class].free.push(offset);
            }
            None => self.give_frames(offset / BLOCK, len.div_ceil(BLOCK)),
        }
    }

    fn add_slab(&mut self, class: usize) -> Result<()> {
        let slab = self.take_frames(SLAB_FRAMES)?;
        let last = ((slab.offset + SLAB) / BLOCK) as usize;
        if self.slab_used.len() < last {
            self.slab_used.resize(last, 0);
        }
        let tail = self.classes[class].cursor..self.classes[class].end;
        let size = u64::from(CLASSES[class]);
        let mut rest = tail.start;
        while rest + size <= tail.end {
            self.classes[class].free.push(rest);
            rest += size;
        }
        self.slabs.push(slab.offset);
        let class = &mut self.classes[class];
        (class.cursor, class.end, class.cursor_zero) = (slab.offset, slab.offset + SLAB, slab.zero);
        Ok(())
    }

    fn is_free(&self, frame: u64) -> bool {
        self.free_bits[(frame / 64) as usize] >> (frame % 64) & 1 == 1
    }

    fn mark(&mut self, frame: u64, free: bool) {
        let word = &mut self.free_bits[(frame / 64) as usize];
        match free {
            true => *word |= 1 << (frame % 64),
            false => *word &= !(1 << (frame % 64)),
        }
    }

    /// Adjacent frames; the limit is checked before any is taken.
    fn take_frames(&mut self, count: u64) -> Result<Piece> {
        let bytes = count.saturating_mul(BLOCK);
        if !self.room_for(bytes) {
            return Err(out_of_space(bytes, self.limit));
        }
        let found = match count {
            1 => self.pop_recent().or_else(|| self.find_run(1)),
            _ => self.find_run(count),
        };
        if let Some(frame) = found {
            for frame in frame..frame + count {
                self.mark(frame, false);
            }
            self.free_frames -= count;
            self.used += bytes;
            return Ok(Piece { offset: frame * BLOCK, zero: false });
        }
        if count > self.frames - self.fresh {
            return Err(out_of_space(bytes, self.limit));
        }
        let frame = self.fresh;
        self.fresh += count;
        self.free_bits.resize((self.fresh / 64 + 1) as usize, 0);
        self.used += bytes;
        Ok(Piece { offset: frame * BLOCK, zero: true })
    }

    fn give_frames(&mut self, frame: u64, count: u64) {
        for frame in frame..frame + count {
            debug_assert!(!self.is_free(frame));
            self.mark(frame, true);
        }
        if count == 1 && self.recent.len() < 4096 {
            self.recent.push(frame);
        }
        self.free_frames += count;
        if !planted(Defect::FreedNotCounted) {
            self.used -= count * BLOCK;
        }
    }

    fn pop_recent(&mut self) -> Option<u64> {
        while let Some(frame) = self.recent.pop() {
            if self.is_free(frame) {
                return Some(frame);
            }
        }
        None
    }

    /// First-fit over the bitmap, from where the last search ended.
    fn find_run(&mut self, count: u64) -> Option<u64> {
        if self.free_frames < count {
            return None;
        }
        let words = self.free_bits.len();
        let (mut run, mut start) = (0u64, 0u64);
        // Twice round, so that a run across the starting point is found too.
        for step in 0..2 * words {
            let word = (self.rover + step) % words;
            if word == 0 {
                run = 0;
            }
            let bits = self.free_bits[word];
            if bits == 0 {
                run = 0;
                continue;
            }
            for bit in 0..64 {
                if bits >> bit & 1 == 0 {
                    run = 0;
                    continue;
                }
                if run == 0 {
                    start = word as u64 * 64 + bit;
                }
                run += 1;
                if run == count {
                    self.rover = word;
                    return Some(start);
                }
            }
        }
        None
    }

    /// Gives slabs without a piece in use back to the frames.
    fn trim(&mut self) {
        let empty: std::collections::HashSet<u64> = self
            .slabs
            .iter()
            .copied()
            .filter(|&slab| {
                let first = (slab / BLOCK) as usize;
                self.slab_used[first..first + SLAB_FRAMES as usize].iter().all(|&used| used == 0)
                    && !self.classes.iter().any(|class| class.end == slab + SLAB)
            })
            .collect();
        if empty.is_empty() {
            return;
        }
        let slab_of = slab_index(&self.slabs);
        for class in &mut self.classes {
            class.free.retain(|&offset| !slab_of(offset).is_some_and(|slab| empty.contains(&slab)));
        }
        self.slabs.retain(|slab| !empty.contains(slab));
        let mut empty: Vec<u64> = empty.into_iter().collect();
        empty.sort_unstable();
        for slab in empty {
            self.give_frames(slab / BLOCK, SLAB_FRAMES);
        }
    }
}

/// Which slab an offset is in.
fn slab_index(slabs: &[u64]) -> impl Fn(u64) -> Option<u64> + use<> {
    let mut sorted = slabs.to_vec();
    sorted.sort_unstable();
    move |offset| {
        let next = sorted.partition_point(|&slab| slab <= offset);
        next.checked_sub(1).map(|i| sorted[i]).filter(|&slab| offset < slab + SLAB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn classes_cover_every_size() {
        for len in 0..=2 * BLOCK {
            assert!(size_class(len) >= len);
            assert_eq!(size_class(len) % STEP, 0);
        }
        assert_eq!(size_class(1024), 1024);
        assert_eq!(size_class(CLASS_MAX + 1), BLOCK);
    }

    proptest! {
        #[test]
        fn pieces_never_overlap(sizes in prop::collection::vec((1u64..100_000, any::<bool>()), 1..400)) {
            let mut alloc = Alloc::new(64 << 20, 48 << 20);
            let mut live: BTreeMap<u64, u64> = BTreeMap::new();
            for (len, drop_one) in sizes {
                if drop_one && let Some((&offset, &len)) = live.iter().nth(live.len() / 2) {
                    live.remove(&offset);
                    alloc.give(offset, len);
                }
                let Ok(piece) = alloc.take(len) else { continue };
                prop_assert_eq!(piece.offset % STEP, 0);
                if len > CLASS_MAX {
                    prop_assert_eq!(piece.offset % BLOCK, 0);
                }
                let before = live.range(..=piece.offset).next_back();
                prop_assert!(before.is_none_or(|(&o, &l)| o + size_class(l) <= piece.offset));
                let after = live.range(piece.offset..).next();
                prop_assert!(after.is_none_or(|(&o, _)| piece.offset + size_class(len) <= o));
                live.insert(piece.offset, len);
            }
            for (offset, len) in live {
                alloc.give(offset, len);
            }
            alloc.trim();
            prop_assert!(alloc.used() <= CLASSES.len() as u64 * SLAB);
        }
    }

    #[test]
    fn the_limit_holds_and_freed_memory_comes_back() {
        let mut alloc = Alloc::new(64 << 20, 1 << 20);
        let mut taken = Vec::new();
        while let Ok(piece) = alloc.take(1000) {
            taken.push(piece.offset);
        }
        assert!(alloc.used() <= 1 << 20);
        assert!(taken.len() >= 1000);
        assert!(alloc.take(512 << 10).is_err());
        for offset in taken {
            alloc.give(offset, 1000);
        }
        assert!(alloc.take(512 << 10).is_ok());
    }
}
