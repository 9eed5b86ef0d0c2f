//! The digest of a model's state, computed a second time from the words of FORMAT.md, and nothing kept between two.

use std::collections::BTreeMap;

use mmsb_core::{Form, Node};
use twox_hash::XxHash3_128;

use crate::model::{Page, State};

const LEAF: usize = 16_384;

fn hash(text: &[u8]) -> [u8; 16] {
    XxHash3_128::oneshot(text).to_le_bytes()
}

/// The root of the tree over a page's bytes.
fn of_bytes(bytes: &[u8]) -> [u8; 16] {
    if bytes.is_empty() {
        return hash(bytes);
    }
    let mut level: Vec<[u8; 16]> = bytes.chunks(LEAF).map(hash).collect();
    while level.len() > 1 {
        level = level.chunks(32).map(|children| hash(&children.concat())).collect();
    }
    level[0]
}

/// A page of raw bytes on the cpu; the model has no others.
fn of_page(page: &Page) -> [u8; 16] {
    let mut text = Vec::new();
    for part in [page.name.as_deref().unwrap_or(""), "", &page.meta] {
        text.extend((part.len() as u64).to_le_bytes());
        text.extend(part.as_bytes());
    }
    let len = page.bytes.len() as u64;
    let (location, itemsize, dimensions, shape) = (0, 1, 1, len);
    for number in [location, itemsize, dimensions, shape, len] {
        text.extend(number.to_le_bytes());
    }
    text.extend(of_bytes(&page.bytes));
    if let Some(node) = &page.node {
        let marks = u64::from(page.marks.stale) + 2 * u64::from(page.marks.poisoned);
        text.extend(marks.to_le_bytes());
        text.extend(of_node(node));
    }
    hash(&text)
}

/// A place in the graph, as FORMAT.md encodes it.
fn of_node(node: &Node<'_>) -> Vec<u8> {
    let number = |text: &mut Vec<u8>, mut number: u64| {
        while number > 0x7f {
            text.push(number as u8 | 0x80);
            number >>= 7;
        }
        text.push(number as u8);
    };
    let form = match node.form {
        Form::Link => 0,
        Form::Native => 1,
        Form::Function => 2,
    };
    let mut text = vec![form, u8::from(node.deferred) + 2 * u8::from(node.poisons)];
    number(&mut text, node.text.len() as u64);
    text.extend(node.text.as_bytes());
    number(&mut text, node.inputs.len() as u64);
    node.inputs.iter().for_each(|&input| number(&mut text, input));
    number(&mut text, node.links.len() as u64);
    for &(src, kind) in &node.links {
        number(&mut text, src);
        text.push(kind as u8);
    }
    text
}

/// Nodes by their place among those of their level, from their children by theirs.
fn parents(
    children: &BTreeMap<u64, [u8; 16]>,
    fan_out: u64,
    number: impl Fn(u64) -> u64,
) -> BTreeMap<u64, [u8; 16]> {
    let mut texts: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (&at, child) in children {
        let text = texts.entry(at / fan_out).or_default();
        text.extend(number(at).to_le_bytes());
        text.extend(child);
    }
    texts.into_iter().map(|(at, text)| (at, hash(&text))).collect()
}

/// The digest of a state.
pub(super) fn digest(state: &State) -> u128 {
    let mut pages = [0; 16];
    if !state.pages.is_empty() {
        let hashes = state.pages.iter().map(|(&id, page)| (id, of_page(page))).collect();
        let mut level = parents(&hashes, 16, |id| id);
        while *level.keys().next_back().unwrap() > 0 {
            level = parents(&level, 32, |at| at % 32);
        }
        pages = level[&0];
    }
    let graph = [0; 16];
    u128::from_le_bytes(hash(&[&b"mmsb state 1"[..], &pages, &graph].concat()))
}
