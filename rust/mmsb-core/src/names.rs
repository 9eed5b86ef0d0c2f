//! Indexes by text: a persistent hash trie in the arena, for page names and for tags.
//!
//! A node is its epoch, a bitmap, and one entry per set bit. An entry is the offset of a child with the lowest bit
//! set, or the offset of the record that it stands for. The record knows its own text, so the trie keeps no keys.
//! Below the last level a node is a plain list of records whose hashes are equal.

use crate::Result;
use crate::arena::Mem;
use crate::edit::Edit;
use crate::hash::h64;

const BITS: u64 = 5;
/// Levels that consume hash bits; below them are lists.
const LEVELS: u64 = 64 / BITS;
const CHILD: u64 = 1;

/// What an entry stands for: a value and its text.
pub(crate) trait Records {
    /// The text of a value.
    fn text<'m>(&self, mem: &'m Mem, value: u64) -> &'m [u8];
}

fn len_of(count: u64) -> u64 {
    16 + 8 * count
}

fn count_of(mem: Mem, node: u64, level: u64) -> u64 {
    let word = mem.get(node + 8);
    if level >= LEVELS { word } else { u64::from(word.count_ones()) }
}

fn entry_at(node: u64, index: u64) -> u64 {
    node + 16 + 8 * index
}

fn digit(hash: u64, level: u64) -> u64 {
    hash >> (BITS * level) & ((1 << BITS) - 1)
}

fn rank(bitmap: u64, digit: u64) -> u64 {
    u64::from((bitmap & ((1 << digit) - 1)).count_ones())
}

/// The value whose text this is. Values are even.
pub(crate) fn find(mem: Mem, root: u64, text: &[u8], records: &dyn Records) -> Option<u64> {
    let hash = h64(text);
    let (mut node, mut level) = (root, 0);
    while node != 0 {
        if level >= LEVELS {
            return (0..count_of(mem, node, level))
                .map(|i| mem.get(entry_at(node, i)))
                .find(|&value| records.text(&mem, value) == text);
        }
        let (bitmap, digit) = (mem.get(node + 8), digit(hash, level));
        if bitmap >> digit & 1 == 0 {
            return None;
        }
        let entry = mem.get(entry_at(node, rank(bitmap, digit)));
        if entry & CHILD == 0 {
            return (records.text(&mem, entry) == text).then_some(entry);
        }
        node = entry & !CHILD;
        level += 1;
    }
    None
}

/// Adds a value, or replaces the one with the same text. Returns the new root.
pub(crate) fn insert(
    edit: &mut Edit<'_>,
    root: u64,
    value: u64,
    records: &dyn Records,
) -> Result<u64> {
    debug_assert_eq!(value & CHILD, 0);
    let mem = edit.mem();
    let hash = h64(records.text(&mem, value));
    put(edit, root, value, hash, 0, records)
}

fn put(
    edit: &mut Edit<'_>,
    node: u64,
    value: u64,
    hash: u64,
    level: u64,
    records: &dyn Records,
) -> Result<u64> {
    let mem = edit.mem();
    if level >= LEVELS {
        let count = if node == 0 { 0 } else { count_of(mem, node, level) };
        let same = (0..count)
            .find(|&i| records.text(&mem, mem.get(entry_at(node, i))) == records.text(&mem, value));
        return match same {
            Some(i) => {
                let node = edit.own(node, len_of(count))?;
                mem.set(entry_at(node, i), value);
                Ok(node)
            }
            None => grow(edit, node, count, count, value, count + 1),
        };
    }
    let digit_ = digit(hash, level);
    let bitmap = if node == 0 { 0 } else { mem.get(node + 8) };
    let index = rank(bitmap, digit_);
    if bitmap >> digit_ & 1 == 0 {
        return grow(edit, node, count_bits(bitmap), index, value, bitmap | 1 << digit_);
    }
    let entry = mem.get(entry_at(node, index));
    let replaced = if entry & CHILD != 0 {
        put(edit, entry & !CHILD, value, hash, level + 1, records)? | CHILD
    } else if records.text(&mem, entry) == records.text(&mem, value) {
        value
    } else {
        let other = h64(records.text(&mem, entry));
        let child = put(edit, 0, entry, other, level + 1, records)?;
        put(edit, child, value, hash, level + 1, records)? | CHILD
    };
    let node = edit.own(node, len_of(count_bits(bitmap)))?;
    mem.set(entry_at(node, index), replaced);
    Ok(node)
}

fn count_bits(bitmap: u64) -> u64 {
    u64::from(bitmap.count_ones())
}

/// A copy of a node of `count` entries with `value` put in at `at`, and with this bitmap (or count, in a list).
fn grow(edit: &mut Edit<'_>, node: u64, count: u64, at: u64, value: u64, word: u64) -> Result<u64> {
    let mem = edit.mem();
    let copy = edit.node(len_of(count + 1))?;
    mem.set(copy + 8, word);
    for i in 0..count {
        let to = if i < at { i } else { i + 1 };
        mem.set(entry_at(copy, to), mem.get(entry_at(node, i)));
    }
    mem.set(entry_at(copy, at), value);
    if node != 0 {
        edit.retire_node(node, len_of(count));
    }
    Ok(copy)
}

/// Removes the value with this text, which must be there. Returns the new root, 0 when nothing is left.
pub(crate) fn remove(
    edit: &mut Edit<'_>,
    root: u64,
    text: &[u8],
    records: &dyn Records,
) -> Result<u64> {
    cut(edit, root, text, h64(text), 0, records)
}

fn cut(
    edit: &mut Edit<'_>,
    node: u64,
    text: &[u8],
    hash: u64,
    level: u64,
    records: &dyn Records,
) -> Result<u64> {
    let mem = edit.mem();
    if node == 0 {
        return Ok(0);
    }
    let count = count_of(mem, node, level);
    let (index, word) = if level >= LEVELS {
        let found = (0..count).find(|&i| records.text(&mem, mem.get(entry_at(node, i))) == text);
        let Some(index) = found else { return Ok(node) };
        (index, count - 1)
    } else {
        let (bitmap, digit) = (mem.get(node + 8), digit(hash, level));
        if bitmap >> digit & 1 == 0 {
            return Ok(node);
        }
        let index = rank(bitmap, digit);
        let entry = mem.get(entry_at(node, index));
        if entry & CHILD != 0 {
            let child = cut(edit, entry & !CHILD, text, hash, level + 1, records)?;
            if child != 0 {
                let node = edit.own(node, len_of(count))?;
                mem.set(entry_at(node, index), child | CHILD);
                return Ok(node);
            }
        } else if records.text(&mem, entry) != text {
            return Ok(node);
        }
        (index, bitmap & !(1 << digit))
    };
    edit.retire_node(node, len_of(count));
    if count == 1 {
        return Ok(0);
    }
    let copy = edit.node(len_of(count - 1))?;
    mem.set(copy + 8, word);
    for i in (0..count).filter(|&i| i != index) {
        let to = if i < index { i } else { i - 1 };
        mem.set(entry_at(copy, to), mem.get(entry_at(node, i)));
    }
    Ok(copy)
}

/// Calls `each` with every value, in the order of their hashes.
pub(crate) fn walk(mem: Mem, root: u64, each: &mut dyn FnMut(u64)) {
    fn go(mem: Mem, node: u64, level: u64, each: &mut dyn FnMut(u64)) {
        for i in 0..count_of(mem, node, level) {
            let entry = mem.get(entry_at(node, i));
            if level < LEVELS && entry & CHILD != 0 {
                go(mem, entry & !CHILD, level + 1, each);
            } else {
                each(entry);
            }
        }
    }
    if root != 0 {
        go(mem, root, 0, each);
    }
}

/// Calls `free` with (offset, size) of every node made after `epoch`.
pub(crate) fn walk_newer(mem: Mem, root: u64, epoch: u64, free: &mut dyn FnMut(u64, u64)) {
    fn go(mem: Mem, node: u64, level: u64, epoch: u64, free: &mut dyn FnMut(u64, u64)) {
        if mem.get(node) <= epoch {
            return;
        }
        let count = count_of(mem, node, level);
        for i in 0..count {
            let entry = mem.get(entry_at(node, i));
            if level < LEVELS && entry & CHILD != 0 {
                go(mem, entry & !CHILD, level + 1, epoch, free);
            }
        }
        free(node, len_of(count));
    }
    if root != 0 {
        go(mem, root, 0, epoch, free);
    }
}
