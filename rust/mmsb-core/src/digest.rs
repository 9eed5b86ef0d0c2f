//! The digest: one hash over the whole state of an epoch, defined in FORMAT.md.
//!
//! Leaves are 16 KiB of page bytes whatever the block in memory is; the shape of the trees depends on page ids and
//! sizes only. So equal states have equal digests, however they came about.
//!
//! Hashes are cached by offset and birth epoch, which together never name two different contents of one bus; so a
//! digest costs what changed since the last one.

use std::collections::HashMap;

use crate::arena::{BLOCK, Mem};
use crate::blocks::{self, Blocks, Frame, Part};
use crate::catalog::Desc;
use crate::core::Core;
use crate::hash::h128;
use crate::museum::{Defect, planted};
use crate::page;
use crate::root::Root;
use crate::sync::lock;
use crate::table::{self, Node, Slot};

const _: () = assert!(BLOCK == 16 << 10, "the digest's leaves are blocks");

struct Hasher<'a> {
    mem: Mem,
    cache: &'a mut HashMap<u64, (u64, u128)>,
}

/// The digest of an epoch.
pub(crate) fn state(core: &Core, root: &Root) -> u128 {
    assert_eq!(root.table == 0, root.pages == 0, "the root counts the pages of its table");
    let mut cache = lock(&core.digests);
    let mut hasher = Hasher { mem: core.mem(), cache: &mut cache };
    let pages = if root.table == 0 { 0 } else { hasher.pages(root.table, root.height, 0) };
    let mut text = b"mmsb state 1".to_vec();
    text.extend_from_slice(&pages.to_le_bytes());
    text.extend_from_slice(&[0; 16]);
    h128(&text)
}

/// The hash of one block of a page, which is in `frame` and which the digest of an epoch with that block may have made.
pub(crate) fn block(core: &Core, slot: &Slot, number: u64, frame: Frame) -> u128 {
    let len = BLOCK.min(slot.len - number * BLOCK);
    let known = lock(&core.digests).get(&frame.at).copied();
    match known {
        Some((born, hash)) if born == frame.born && is_cached(slot, number) => hash,
        _ => h128(core.mem().bytes(frame.at, len)),
    }
}

/// Whether the hash of a block is remembered by its frame.
fn is_cached(slot: &Slot, number: u64) -> bool {
    // The cut last block may grow inside its frame's version.
    !page::is_one_block(slot.len) && (number + 1) * BLOCK <= slot.len
}

impl Hasher<'_> {
    fn cached(&mut self, key: u64, born: u64, make: impl FnOnce(&mut Self) -> u128) -> u128 {
        if let Some(&(epoch, hash)) = self.cache.get(&key)
            && epoch == born
        {
            return hash;
        }
        let hash = make(self);
        // Where there is no memory to remember it, it is made again.
        if self.cache.try_reserve(1).is_ok() {
            self.cache.insert(key, (born, hash));
        }
        hash
    }

    /// A node of the page table. The table has no empty nodes and no level too many, so its shape is canonical.
    fn pages(&mut self, node: u64, level: u64, first: u64) -> u128 {
        let mem = self.mem;
        self.cached(node, mem.get(node), |this| {
            let mut text = Vec::with_capacity(32 * 24);
            let mut add = |number: u64, hash: u128| {
                text.extend_from_slice(&number.to_le_bytes());
                text.extend_from_slice(&hash.to_le_bytes());
            };
            match table::kind(level) {
                Node::Leaf => {
                    table::slots(mem, node).for_each(|(i, slot)| add(first + i, this.page(&slot)))
                }
                Node::Inner => {
                    for (i, child) in table::children(mem, node) {
                        add(i, this.pages(child, level - 1, table::first_id(first, level, i)));
                    }
                }
            }
            h128(&text)
        })
    }

    fn page(&mut self, slot: &Slot) -> u128 {
        let desc = Desc::at(self.mem, slot.desc);
        let mut text = Vec::with_capacity(128);
        let name = if planted(Defect::DigestBlindToNames) { "" } else { desc.name() };
        for part in [name, desc.dtype(), desc.meta()] {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        text.extend_from_slice(&u64::from(desc.location()).to_le_bytes());
        text.extend_from_slice(&u64::from(desc.itemsize()).to_le_bytes());
        text.extend_from_slice(&(desc.shape().count() as u64).to_le_bytes());
        desc.shape().for_each(|dim| text.extend_from_slice(&dim.to_le_bytes()));
        text.extend_from_slice(&slot.len.to_le_bytes());
        text.extend_from_slice(&self.bytes(slot).to_le_bytes());
        let role = desc.role();
        if !role.node.is_empty() && !planted(Defect::DigestBlindToGraph) {
            text.extend_from_slice(&u64::from(role.marks.bits()).to_le_bytes());
            text.extend_from_slice(role.node);
        }
        h128(&text)
    }

    fn bytes(&mut self, slot: &Slot) -> u128 {
        if page::is_one_block(slot.len) {
            return h128(if slot.len == 0 { &[] } else { self.mem.bytes(slot.data, slot.len) });
        }
        let root = Blocks::read(self.mem, slot.data);
        let mut level = 0;
        while blocks::span(level) < blocks::count(slot.len) {
            level += 1;
        }
        let part = root.part(self.mem, level);
        self.blocks(&root, slot.len, level, 0, part)
    }

    /// The blocks `first..first + 32^level`, as far as the page goes; `part` is the tree over them.
    fn blocks(&mut self, root: &Blocks, len: u64, level: u64, first: u64, part: Part) -> u128 {
        assert!(first < blocks::count(len), "a block behind the page is no part of it");
        let mem = self.mem;
        if level == 0 {
            let frame = root.frame(mem, first);
            let bytes = BLOCK.min(len - first * BLOCK);
            // The cut last block may grow inside its frame's version, so it is not cached.
            if bytes < BLOCK {
                return h128(mem.bytes(frame.at, bytes));
            }
            return self.cached(frame.at, frame.born, |_| h128(mem.bytes(frame.at, BLOCK)));
        }
        let make = |this: &mut Self| {
            let step = blocks::span(level - 1);
            let end = blocks::count(len).min(first + blocks::span(level));
            let mut text = Vec::with_capacity(32 * 16);
            for (i, block) in (first..end).step_by(step as usize).enumerate() {
                let child = part.child(mem, level, i as u64);
                text.extend_from_slice(
                    &this.blocks(root, len, level - 1, block, child).to_le_bytes(),
                );
            }
            h128(&text)
        };
        if (first + blocks::span(level)) * BLOCK > len {
            return make(self);
        }
        // Offsets are multiples of 16, so the level makes keys of their own for all groups that begin there.
        match part.node {
            0 => self.cached(root.extent_at(first) | level, root.extent_epoch(), make),
            node => self.cached(node | level, mem.get(node), make),
        }
    }
}
