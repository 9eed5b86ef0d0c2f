//! The bytes of a page over one block: a run of adjacent frames, and a tree of the blocks that changed since.
//!
//! `slot.data` names a root record: epoch, extent (first frame, blocks, epoch that made it), tree and its height. A
//! block is where the tree says, else in the extent. A dense write makes a new extent; a small one adds an entry to
//! the tree. Bytes of the last block past the page's end are zero.

use crate::Result;
use crate::arena::{BLOCK, Mem};
use crate::edit::{DeadKind, Edit};
use crate::table::{INNER, Slot};

const ROOT: u64 = 56;
const BITS: u64 = 5;
const FANOUT: u64 = 1 << BITS;
const LEAF: u64 = 8 + FANOUT * 16;

/// The root record of a page's blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocks {
    at: u64,
    extent: u64,
    extent_blocks: u64,
    extent_epoch: u64,
    tree: u64,
    height: u64,
}

/// A block's frame and the epoch that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) at: u64,
    pub(crate) born: u64,
}

/// A subtree of changed blocks. It may stand lower than the level it is asked for; then it is the first child there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) node: u64,
    level: u64,
}

impl Part {
    /// The part under the `index`-th of the 32 groups at `level`.
    pub(crate) fn child(self, mem: Mem, level: u64, index: u64) -> Part {
        let none = Part { node: 0, level: level - 1 };
        if self.node == 0 || self.level < level {
            return if index == 0 { self } else { none };
        }
        match level {
            1 => none,
            _ => Part { node: mem.get(self.node + 8 + 8 * index), level: level - 1 },
        }
    }
}

/// Blocks under a node at `level`; blocks themselves are level 0.
pub(crate) fn span(level: u64) -> u64 {
    1 << (BITS * level)
}

/// Blocks of a page of so many bytes.
pub(crate) fn count(len: u64) -> u64 {
    len.div_ceil(BLOCK)
}

impl Blocks {
    #[inline]
    pub(crate) fn read(mem: Mem, at: u64) -> Blocks {
        Blocks {
            at,
            extent: mem.get(at + 8),
            extent_blocks: mem.get(at + 16),
            extent_epoch: mem.get(at + 24),
            tree: mem.get(at + 32),
            height: mem.get(at + 40),
        }
    }

    fn store(&self, mem: Mem) {
        mem.set(self.at + 8, self.extent);
        mem.set(self.at + 16, self.extent_blocks);
        mem.set(self.at + 24, self.extent_epoch);
        mem.set(self.at + 32, self.tree);
        mem.set(self.at + 40, self.height);
    }

    /// Where a block is.
    #[inline]
    pub(crate) fn frame(&self, mem: Mem, block: u64) -> Frame {
        let changed = self.changed(mem, block);
        if changed.at != 0 {
            return changed;
        }
        debug_assert!(block < self.extent_blocks);
        Frame { at: self.extent + block * BLOCK, born: self.extent_epoch }
    }

    fn changed(&self, mem: Mem, block: u64) -> Frame {
        let none = Frame { at: 0, born: 0 };
        if self.tree == 0 || block >> (BITS * (self.height + 1)) != 0 {
            return none;
        }
        let mut node = self.tree;
        for level in (1..=self.height).rev() {
            node = mem.get(node + 8 + 8 * (block >> (BITS * level) & (FANOUT - 1)));
            if node == 0 {
                return none;
            }
        }
        let entry = node + 8 + 16 * (block & (FANOUT - 1));
        Frame { at: mem.get(entry), born: mem.get(entry + 8) }
    }

    /// Where the extent has, or had, a block; and the epoch that made it.
    pub(crate) fn extent_at(&self, block: u64) -> u64 {
        self.extent + block * BLOCK
    }

    pub(crate) fn extent_epoch(&self) -> u64 {
        self.extent_epoch
    }

    /// The part of the tree over the first `32^level` blocks.
    pub(crate) fn part(&self, mem: Mem, level: u64) -> Part {
        let mut part = Part { node: self.tree, level: self.height + 1 };
        while part.node != 0 && part.level > level {
            part = part.child(mem, part.level, 0);
        }
        part
    }

    /// The offset of bytes `start..stop` if they are adjacent in memory.
    #[inline]
    pub(crate) fn contiguous(&self, mem: Mem, start: u64, stop: u64) -> Option<u64> {
        let (first, last) = (start / BLOCK, (stop - 1) / BLOCK);
        if self.tree == 0 {
            return Some(self.extent + start);
        }
        let frame = self.frame(mem, first).at;
        let adjacent =
            (first + 1..=last).all(|b| self.frame(mem, b).at == frame + (b - first) * BLOCK);
        adjacent.then_some(frame + start % BLOCK)
    }

    /// Calls `each` with (offset in the page, bytes) of every part of `start..stop`, in order.
    pub(crate) fn parts(&self, mem: Mem, start: u64, stop: u64, each: &mut dyn FnMut(u64, &[u8])) {
        let mut from = start;
        while from < stop {
            let to = ((from / BLOCK + 1) * BLOCK).min(stop);
            let frame = self.frame(mem, from / BLOCK).at;
            each(from, mem.bytes(frame + from % BLOCK, to - from));
            from = to;
        }
    }

    /// Calls `each` with every entry of the tree.
    fn entries(&self, mem: Mem, each: &mut dyn FnMut(u64, Frame)) {
        fn go(mem: Mem, node: u64, level: u64, first: u64, each: &mut dyn FnMut(u64, Frame)) {
            for i in 0..FANOUT {
                if level == 0 {
                    let entry = node + 8 + 16 * i;
                    let frame = Frame { at: mem.get(entry), born: mem.get(entry + 8) };
                    if frame.at != 0 {
                        each(first + i, frame);
                    }
                } else if let child @ 1.. = mem.get(node + 8 + 8 * i) {
                    go(mem, child, level - 1, first + (i << (BITS * level)), each);
                }
            }
        }
        if self.tree != 0 {
            go(mem, self.tree, self.height, 0, each);
        }
    }

    /// Calls `each` with (offset, size, epoch) of every node of the tree.
    fn nodes(&self, mem: Mem, each: &mut dyn FnMut(u64, u64, u64)) {
        fn go(mem: Mem, node: u64, level: u64, each: &mut dyn FnMut(u64, u64, u64)) {
            if level > 0 {
                for i in 0..FANOUT {
                    if let child @ 1.. = mem.get(node + 8 + 8 * i) {
                        go(mem, child, level - 1, each);
                    }
                }
            }
            each(node, if level == 0 { LEAF } else { INNER }, mem.get(node));
        }
        if self.tree != 0 {
            go(mem, self.tree, self.height, each);
        }
    }

    /// Runs of extent blocks in `from..` that the tree does not replace: (first block, blocks).
    fn extent_runs(&self, mem: Mem, from: u64, each: &mut dyn FnMut(u64, u64)) {
        let mut next = from;
        let end = self.extent_blocks;
        self.entries(mem, &mut |block, _| {
            if block >= from && block < end {
                if block > next {
                    each(next, block - next);
                }
                next = block + 1;
            }
        });
        if next < end {
            each(next, end - next);
        }
    }
}

/// A new page's blocks in one extent made at `epoch`; zeroed if asked for, else the caller fills all of it. Returns
/// the root record and the extent.
pub(crate) fn create(
    edit: &mut Edit<'_>,
    len: u64,
    epoch: u64,
    zeroed: bool,
) -> Result<(u64, u64)> {
    let blocks = count(len);
    let extent = match zeroed {
        true => edit.take_zeroed(blocks * BLOCK)?,
        false => edit.take(blocks * BLOCK)?,
    };
    let mem = edit.mem();
    if !zeroed {
        mem.zero(extent + len, blocks * BLOCK - len);
    }
    let at = edit.node(ROOT)?;
    let root =
        Blocks { at, extent, extent_blocks: blocks, extent_epoch: epoch, tree: 0, height: 0 };
    root.store(mem);
    Ok((at, extent))
}

fn own_root(edit: &mut Edit<'_>, at: u64) -> Result<Blocks> {
    let at = edit.own(at, ROOT)?;
    Ok(Blocks::read(edit.mem(), at))
}

fn set_entry(edit: &mut Edit<'_>, root: &mut Blocks, block: u64, frame: Frame) -> Result<()> {
    let mem = edit.mem();
    while root.tree != 0 && block >> (BITS * (root.height + 1)) != 0 {
        let node = edit.node(INNER)?;
        mem.set(node + 8, root.tree);
        root.tree = node;
        root.height += 1;
    }
    if root.tree == 0 {
        while block >> (BITS * (root.height + 1)) != 0 {
            root.height += 1;
        }
    }
    let size = |level: u64| if level == 0 { LEAF } else { INNER };
    let mut node = edit.own(root.tree, size(root.height))?;
    root.tree = node;
    for level in (1..=root.height).rev() {
        let link = node + 8 + 8 * (block >> (BITS * level) & (FANOUT - 1));
        let child = edit.own(mem.get(link), size(level - 1))?;
        mem.set(link, child);
        node = child;
    }
    let entry = node + 8 + 16 * (block & (FANOUT - 1));
    mem.set(entry, frame.at);
    mem.set(entry + 8, frame.born);
    root.store(mem);
    Ok(())
}

/// Writes `data` at `offset`; blocks whose bytes are equal stay as they are. Returns the new root record, or `None`
/// if nothing changed.
pub(crate) fn write(
    edit: &mut Edit<'_>,
    page: u64,
    slot: &Slot,
    offset: u64,
    data: &[u8],
) -> Result<Option<u64>> {
    let mem = edit.mem();
    let old = Blocks::read(mem, slot.data);
    let part = |block: u64| {
        let start = (block * BLOCK).max(offset);
        let stop = ((block + 1) * BLOCK).min(offset + data.len() as u64);
        (start, &data[(start - offset) as usize..(stop - offset) as usize])
    };
    let differs = |block: u64| {
        let (start, new) = part(block);
        mem.bytes(old.frame(mem, block).at + start % BLOCK, new.len() as u64) != new
    };
    let (first, last) = (offset / BLOCK, (offset + data.len() as u64 - 1) / BLOCK);
    let Some(first) = (first..=last).find(|&block| differs(block)) else {
        return Ok(None);
    };
    if data.len() as u64 == slot.len && first == 0 && old.extent_epoch != edit.epoch() {
        return dense(edit, page, slot, data).map(Some);
    }
    let mut root = own_root(edit, slot.data)?;
    let mut block = first;
    while block <= last {
        if !differs(block) {
            block += 1;
            continue;
        }
        // Adjacent whole blocks that changed get adjacent frames.
        let whole = |block: u64| part(block).1.len() as u64 == BLOCK;
        let mut run = 1;
        while whole(block) && block + run <= last && whole(block + run) && differs(block + run) {
            run += 1;
        }
        write_run(edit, page, &mut root, block, run, &part)?;
        block += run;
    }
    Ok(Some(root.at))
}

fn write_run<'d>(
    edit: &mut Edit<'_>,
    page: u64,
    root: &mut Blocks,
    block: u64,
    run: u64,
    part: &dyn Fn(u64) -> (u64, &'d [u8]),
) -> Result<()> {
    let mem = edit.mem();
    let epoch = edit.epoch();
    let fresh = (block..block + run).any(|b| root.frame(mem, b).born != epoch);
    let base = if fresh { edit.take(run * BLOCK)? } else { 0 };
    for b in block..block + run {
        let old = root.frame(mem, b);
        let (start, new) = part(b);
        let at = if old.born == epoch {
            old.at
        } else {
            let at = base + (b - block) * BLOCK;
            if (new.len() as u64) < BLOCK {
                mem.copy(old.at, at, BLOCK);
            }
            edit.retire(old.at, BLOCK, old.born, DeadKind::Blocks(page));
            set_entry(edit, root, b, Frame { at, born: epoch })?;
            at
        };
        mem.write(at + start % BLOCK, new);
    }
    Ok(())
}

/// The whole page anew, in one extent.
fn dense(edit: &mut Edit<'_>, page: u64, slot: &Slot, data: &[u8]) -> Result<u64> {
    let (at, extent) = create(edit, slot.len, edit.epoch(), false)?;
    edit.mem().write(extent, data);
    retire(edit, page, slot);
    Ok(at)
}

/// The new state no longer shows any of these blocks.
pub(crate) fn retire(edit: &mut Edit<'_>, page: u64, slot: &Slot) {
    let mem = edit.mem();
    let root = Blocks::read(mem, slot.data);
    let kind = DeadKind::Blocks(page);
    root.extent_runs(mem, 0, &mut |first, blocks| {
        edit.retire(root.extent + first * BLOCK, blocks * BLOCK, root.extent_epoch, kind);
    });
    root.entries(mem, &mut |_, frame| edit.retire(frame.at, BLOCK, frame.born, kind));
    root.nodes(mem, &mut |node, len, born| edit.retire(node, len, born, DeadKind::Node));
    edit.retire_node(root.at, ROOT);
}

/// Another size, with both the old and the new one over one block. Kept bytes stay, new ones are zero.
pub(crate) fn resize(edit: &mut Edit<'_>, page: u64, slot: &Slot, len: u64) -> Result<u64> {
    let mem = edit.mem();
    let (had, has) = (count(slot.len), count(len));
    let mut root = own_root(edit, slot.data)?;
    if has > had {
        let base = edit.take_zeroed((has - had) * BLOCK)?;
        for block in had..has {
            let frame = Frame { at: base + (block - had) * BLOCK, born: edit.epoch() };
            set_entry(edit, &mut root, block, frame)?;
        }
        return Ok(root.at);
    }
    let kind = DeadKind::Blocks(page);
    root.extent_runs(mem, has, &mut |first, blocks| {
        edit.retire(root.extent + first * BLOCK, blocks * BLOCK, root.extent_epoch, kind);
    });
    let mut gone = Vec::new();
    root.entries(mem, &mut |block, frame| {
        if block >= has {
            gone.push((block, frame));
        }
    });
    for (block, frame) in gone {
        edit.retire(frame.at, BLOCK, frame.born, kind);
        set_entry(edit, &mut root, block, Frame { at: 0, born: 0 })?;
    }
    root.extent_blocks = root.extent_blocks.min(has);
    root.store(mem);
    if !len.is_multiple_of(BLOCK) && len < slot.len {
        let block = has - 1;
        let old = root.frame(mem, block);
        let at = if old.born == edit.epoch() {
            old.at
        } else {
            let at = edit.take(BLOCK)?;
            mem.copy(old.at, at, BLOCK);
            edit.retire(old.at, BLOCK, old.born, kind);
            set_entry(edit, &mut root, block, Frame { at, born: edit.epoch() })?;
            at
        };
        mem.zero(at + len % BLOCK, BLOCK - len % BLOCK);
    }
    Ok(root.at)
}

/// Calls `free` with (offset, size) of everything made after `epoch`.
pub(crate) fn walk_newer(mem: Mem, slot: &Slot, epoch: u64, free: &mut dyn FnMut(u64, u64)) {
    let root = Blocks::read(mem, slot.data);
    if mem.get(root.at) <= epoch {
        return;
    }
    if root.extent_epoch > epoch {
        root.extent_runs(mem, 0, &mut |first, blocks| {
            free(root.extent + first * BLOCK, blocks * BLOCK)
        });
    }
    root.entries(mem, &mut |_, frame| {
        if frame.born > epoch {
            free(frame.at, BLOCK);
        }
    });
    root.nodes(mem, &mut |node, len, born| {
        if born > epoch {
            free(node, len);
        }
    });
    free(root.at, ROOT);
}
