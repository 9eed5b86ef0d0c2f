//! The page table: an immutable radix tree from page id to slot, one root per epoch.
//!
//! A leaf holds 16 slots, an inner node 32 children; every node begins with the epoch that made it. A commit copies
//! the nodes on its way and changes its copies in place. Absent children and slots are zero.

use crate::Result;
use crate::arena::Mem;
use crate::edit::Edit;

const LEAF_BITS: u64 = 4;
const INNER_BITS: u64 = 5;
const LEAF_SLOTS: u64 = 1 << LEAF_BITS;
const FANOUT: u64 = 1 << INNER_BITS;
const SLOT: u64 = 32;
const LEAF: u64 = 8 + LEAF_SLOTS * SLOT;
/// Bytes of an inner node, here and in block trees.
pub(crate) const INNER: u64 = 8 + FANOUT * 8;

/// What the table knows of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The frame of a page of one block, or the root of a larger page's blocks; 0 for a page without bytes.
    pub(crate) data: u64,
    /// Bytes of the page.
    pub(crate) len: u64,
    /// The epoch that made these bytes.
    pub(crate) epoch: u64,
    /// Its catalogue record.
    pub(crate) desc: u64,
}

fn read_slot(mem: Mem, at: u64) -> Option<Slot> {
    let desc = mem.get(at + 24);
    (desc != 0).then(|| Slot {
        data: mem.get(at),
        len: mem.get(at + 8),
        epoch: mem.get(at + 16),
        desc,
    })
}

fn covers(height: u64, id: u64) -> bool {
    let bits = LEAF_BITS + INNER_BITS * height;
    bits >= 64 || id >> bits == 0
}

fn child_at(node: u64, id: u64, level: u64) -> u64 {
    node + 8 + 8 * (id >> (LEAF_BITS + INNER_BITS * (level - 1)) & (FANOUT - 1))
}

/// The slot of a page.
#[inline]
pub(crate) fn get(mem: Mem, table: u64, height: u64, id: u64) -> Option<Slot> {
    if table == 0 || !covers(height, id) {
        return None;
    }
    let mut node = table;
    for level in (1..=height).rev() {
        node = mem.get(child_at(node, id, level));
        if node == 0 {
            return None;
        }
    }
    read_slot(mem, node + 8 + (id & (LEAF_SLOTS - 1)) * SLOT)
}

/// The slot of a page, as the commit has left it so far.
#[inline]
pub(crate) fn find(edit: &Edit<'_>, id: u64) -> Option<Slot> {
    match edit.leaf {
        Some((number, leaf)) if number == id >> LEAF_BITS => {
            read_slot(edit.mem(), leaf + 8 + (id & (LEAF_SLOTS - 1)) * SLOT)
        }
        _ => get(edit.mem(), edit.root.table, edit.root.height, id),
    }
}

/// Sets the slot of a page, in the commit's own copy of its path.
#[inline]
pub(crate) fn set(edit: &mut Edit<'_>, id: u64, slot: Slot) -> Result<()> {
    let mem = edit.mem();
    if let Some((number, leaf)) = edit.leaf
        && number == id >> LEAF_BITS
    {
        write_slot(mem, leaf, id, slot);
        return Ok(());
    }
    let (mut table, mut height) = (edit.root.table, edit.root.height);
    while !covers(height, id) {
        if table != 0 {
            let node = edit.node(INNER)?;
            mem.set(node + 8, table);
            table = node;
        }
        height += 1;
    }
    let mut node = edit.own(table, size(height))?;
    (edit.root.table, edit.root.height) = (node, height);
    for level in (1..=height).rev() {
        let link = child_at(node, id, level);
        node = edit.own(mem.get(link), size(level - 1))?;
        mem.set(link, node);
    }
    edit.leaf = Some((id >> LEAF_BITS, node));
    write_slot(mem, node, id, slot);
    Ok(())
}

/// Clears the slot of a page that is there. Empty nodes and levels that are no longer needed go, so that the shape
/// of the table depends on the ids in it only.
pub(crate) fn remove(edit: &mut Edit<'_>, id: u64) -> Result<()> {
    let mem = edit.mem();
    edit.leaf = None;
    let (mut table, mut height) = (edit.root.table, edit.root.height);
    table = cut(edit, table, height, id)?;
    while height > 0 && table != 0 {
        let mut all = children(mem, table);
        match (all.next(), all.next()) {
            (Some((0, only)), None) => {
                edit.retire_node(table, INNER);
                (table, height) = (only, height - 1);
            }
            _ => break,
        }
    }
    (edit.root.table, edit.root.height) = (table, if table == 0 { 0 } else { height });
    Ok(())
}

fn cut(edit: &mut Edit<'_>, node: u64, level: u64, id: u64) -> Result<u64> {
    let mem = edit.mem();
    let node = edit.own(node, size(level))?;
    let empty = if level == 0 {
        write_slot(mem, node, id, Slot::default());
        slots(mem, node).next().is_none()
    } else {
        let link = child_at(node, id, level);
        mem.set(link, cut(edit, mem.get(link), level - 1, id)?);
        children(mem, node).next().is_none()
    };
    if empty {
        edit.retire_node(node, size(level));
    }
    Ok(if empty { 0 } else { node })
}

fn size(level: u64) -> u64 {
    if level == 0 { LEAF } else { INNER }
}

fn write_slot(mem: Mem, leaf: u64, id: u64, slot: Slot) {
    let at = leaf + 8 + (id & (LEAF_SLOTS - 1)) * SLOT;
    for (i, word) in [slot.data, slot.len, slot.epoch, slot.desc].into_iter().enumerate() {
        mem.set(at + 8 * i as u64, word);
    }
}

/// One node while walking, for callers that keep something per node.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node {
    /// Children in order: (index, offset).
    Inner,
    /// Slots in order.
    Leaf,
}

/// The children of an inner node that are there.
pub(crate) fn children(mem: Mem, node: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..FANOUT).map(move |i| (i, mem.get(node + 8 + 8 * i))).filter(|&(_, child)| child != 0)
}

/// The slots of a leaf that are there: (index, slot).
pub(crate) fn slots(mem: Mem, leaf: u64) -> impl Iterator<Item = (u64, Slot)> {
    (0..LEAF_SLOTS).filter_map(move |i| Some((i, read_slot(mem, leaf + 8 + i * SLOT)?)))
}

/// What a node at a level is.
pub(crate) fn kind(level: u64) -> Node {
    if level == 0 { Node::Leaf } else { Node::Inner }
}

/// The first id below the `index`-th child of a node at `level` whose first id is `first`.
pub(crate) fn first_id(first: u64, level: u64, index: u64) -> u64 {
    first + (index << (LEAF_BITS + INNER_BITS * (level - 1)))
}

/// Calls `each` with every page in id order.
pub(crate) fn walk(mem: Mem, table: u64, height: u64, each: &mut dyn FnMut(u64, Slot)) {
    fn go(mem: Mem, node: u64, level: u64, first: u64, each: &mut dyn FnMut(u64, Slot)) {
        match kind(level) {
            Node::Leaf => slots(mem, node).for_each(|(i, slot)| each(first + i, slot)),
            Node::Inner => {
                for (i, child) in children(mem, node) {
                    go(mem, child, level - 1, first_id(first, level, i), each);
                }
            }
        }
    }
    if table != 0 {
        go(mem, table, height, 0, each);
    }
}

/// Calls `each` with every page whose slot differs between two tables of one arena, in id order. Equal nodes are
/// not entered.
pub(crate) fn walk_changed(
    mem: Mem,
    a: (u64, u64),
    b: (u64, u64),
    each: &mut dyn FnMut(u64, Option<Slot>, Option<Slot>),
) {
    let height = a.1.max(b.1);
    let (a, b) = (Side::of(a, height), Side::of(b, height));
    go_changed(mem, a, b, height, 0, each);
}

/// A subtree that may begin some levels lower than the level it stands for (a table that has grown since).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    node: u64,
    skip: u64,
}

impl Side {
    fn of((table, height): (u64, u64), top: u64) -> Side {
        Side { node: table, skip: top - height }
    }

    fn child(self, mem: Mem, index: u64) -> Side {
        match self {
            Side { node: 0, .. } => self,
            Side { node, skip: 0 } => Side { node: mem.get(node + 8 + 8 * index), skip: 0 },
            Side { node, skip } if index == 0 => Side { node, skip: skip - 1 },
            _ => Side { node: 0, skip: 0 },
        }
    }

    fn slot(self, mem: Mem, index: u64) -> Option<Slot> {
        (self.node != 0).then(|| read_slot(mem, self.node + 8 + index * SLOT)).flatten()
    }
}

fn go_changed(
    mem: Mem,
    a: Side,
    b: Side,
    level: u64,
    first: u64,
    each: &mut dyn FnMut(u64, Option<Slot>, Option<Slot>),
) {
    if a == b || (a.node == 0 && b.node == 0) {
        return;
    }
    match kind(level) {
        Node::Leaf => {
            for i in 0..LEAF_SLOTS {
                let (x, y) = (a.slot(mem, i), b.slot(mem, i));
                if x != y {
                    each(first + i, x, y);
                }
            }
        }
        Node::Inner => {
            for i in 0..FANOUT {
                let id = first_id(first, level, i);
                go_changed(mem, a.child(mem, i), b.child(mem, i), level - 1, id, each);
            }
        }
    }
}

/// Calls `free` with (offset, size) of every node made after `epoch`, and `each` with every slot below such nodes.
pub(crate) fn walk_newer(
    mem: Mem,
    table: u64,
    height: u64,
    epoch: u64,
    free: &mut dyn FnMut(u64, u64),
    each: &mut dyn FnMut(Slot),
) {
    if table == 0 || mem.get(table) <= epoch {
        return;
    }
    match kind(height) {
        Node::Leaf => {
            slots(mem, table).for_each(|(_, slot)| each(slot));
            free(table, LEAF);
        }
        Node::Inner => {
            for (_, child) in children(mem, table) {
                walk_newer(mem, child, height - 1, epoch, free, each);
            }
            free(table, INNER);
        }
    }
}
