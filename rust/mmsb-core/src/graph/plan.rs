//! The graph as a commit runs on it: immutable, in canonical order, its edges in three flat tables.
//!
//! The level of a page is the length of the longest path of data and control edges that ends at it.
//! Positions number the pages by level and then by page id. They depend on the edges alone, and every
//! data or control edge leads to a higher position at a higher level: ascending positions are an
//! order to compute in, and the pages of one level can be computed in parallel.
//!
//! Per page 24 bytes, 4 per level and 4 to 16 for its id to be looked up (about 40 where ids are
//! scattered over all 64 bits); 8 bytes per data or control edge, 4 per other edge.
//!
//! Building is linear but for ids that are scattered, which are sorted.

use std::ops::Range;

use super::edges::Graph;
use super::link::Link;
use super::lookup::Lookup;
use super::order::{self, Sorted};
use super::slab::Slab;

/// The compiled form of a [`Graph`]. Pages without edges are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pages: Vec<u64>,
    levels: Vec<u32>,
    /// Where each level begins, and where the last ends.
    starts: Vec<u32>,
    ins: Table,
    outs: Table,
    side: Table,
    lookup: Lookup,
}

impl Plan {
    /// Compiles the graph as it is now.
    #[must_use]
    pub(crate) fn compile(graph: &Graph) -> Self {
        let slab = graph.slab();
        let kahn = order::kahn(slab, Link::orders);
        assert!(kahn.is_complete(), "graph: a cycle in a graph that is acyclic");
        let (nodes, levels, starts) = canonical(slab, &kahn);
        drop(kahn);
        let mut position = vec![0; slab.slots()];
        for (at, &node) in (0..).zip(&nodes) {
            position[node as usize] = at;
        }
        let pages: Vec<_> = nodes.iter().map(|&node| slab.page(node)).collect();
        // Turning sorts; for short lists it is faster than sorting each.
        let outs = Table::of(&nodes, &position, |node| slab.ins(node), Link::orders).turned();
        let side = match outs.links.len() == graph.len() {
            true => Table { starts: vec![0; nodes.len() + 1], links: Vec::new() },
            false => {
                Table::of(&nodes, &position, |node| slab.ins(node), |link| !link.orders()).turned()
            }
        };
        Self { lookup: Lookup::of(&pages), ins: outs.turned(), outs, side, pages, levels, starts }
    }

    /// How many positions there are.
    #[must_use]
    pub(crate) fn len(&self) -> u32 {
        self.pages.len() as u32
    }

    /// Whether the graph had no edges.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The page at a position.
    ///
    /// # Panics
    /// Like everything that takes a position, where there is no such position.
    #[must_use]
    pub(crate) fn page(&self, position: u32) -> u64 {
        self.pages[position as usize]
    }

    /// The position of a page, if it has edges.
    #[must_use]
    pub(crate) fn position(&self, id: u64) -> Option<u32> {
        self.lookup.get(id)
    }

    /// How many levels there are.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn levels(&self) -> u32 {
        (self.starts.len() - 1) as u32
    }

    /// The level of a position.
    #[must_use]
    pub(crate) fn level(&self, position: u32) -> u32 {
        self.levels[position as usize]
    }

    /// The positions of a level; none where there is no such level.
    #[must_use]
    pub(crate) fn range(&self, level: u32) -> Range<u32> {
        match self.starts.get(level as usize..) {
            Some(&[start, end, ..]) => start..end,
            _ => self.len()..self.len(),
        }
    }

    /// The data and control edges to a position, by position and kind.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn ins(&self, position: u32) -> &[Link] {
        self.ins.at(position)
    }

    /// The data and control edges from a position, by position and kind.
    #[must_use]
    pub(crate) fn outs(&self, position: u32) -> &[Link] {
        self.outs.at(position)
    }

    /// The other edges from a position, by position and kind.
    #[must_use]
    pub(crate) fn side(&self, position: u32) -> &[Link] {
        self.side.at(position)
    }
}

/// The nodes in canonical order, their levels, and where each level begins.
fn canonical(slab: &Slab, kahn: &Sorted) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let mut level_of = vec![0u32; slab.slots()];
    let ends = kahn.rounds.iter().skip(1).copied().chain([kahn.sequence.len()]);
    for (level, (&start, end)) in (0..).zip(kahn.rounds.iter().zip(ends)) {
        for &node in &kahn.sequence[start..end] {
            level_of[node as usize] = level;
        }
    }
    let by_page = slab.by_page();
    // The free slots are all in the first round, which may hold nothing else.
    let count = by_page.iter().map(|&node| level_of[node as usize] as usize + 1).max().unwrap_or(0);
    let mut starts = vec![0u32; count + 1];
    for &node in &by_page {
        starts[level_of[node as usize] as usize + 1] += 1;
    }
    add_up(&mut starts);
    let mut next = starts.clone();
    let mut nodes = vec![0u32; by_page.len()];
    let mut levels = vec![0u32; by_page.len()];
    for node in by_page {
        let level = level_of[node as usize];
        let at = next[level as usize];
        next[level as usize] += 1;
        nodes[at as usize] = node;
        levels[at as usize] = level;
    }
    (nodes, levels, starts)
}

/// For each position its links, one list after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    /// Where each list begins, and where the last ends.
    starts: Vec<u32>,
    links: Vec<Link>,
}

impl Table {
    fn of<'a>(
        nodes: &[u32],
        position: &[u32],
        list: impl Fn(u32) -> &'a [Link],
        counts: impl Fn(Link) -> bool,
    ) -> Self {
        let mut links = Vec::new();
        let mut starts = Vec::with_capacity(nodes.len() + 1);
        starts.push(0);
        for &node in nodes {
            for link in list(node).iter().filter(|&&link| counts(link)) {
                links.push(Link::new(position[link.to() as usize], link.kind()));
            }
            starts.push(links.len() as u32);
        }
        links.shrink_to_fit();
        Self { starts, links }
    }

    /// The same edges from their other ends; in order, as the lists are gone through in order.
    fn turned(&self) -> Self {
        let mut starts = vec![0; self.starts.len()];
        for link in &self.links {
            starts[link.to() as usize + 1] += 1;
        }
        add_up(&mut starts);
        let mut next = starts.clone();
        let mut links = vec![Link::NONE; self.links.len()];
        for at in 0..self.starts.len() as u32 - 1 {
            for link in self.at(at) {
                let place = &mut next[link.to() as usize];
                links[*place as usize] = Link::new(at, link.kind());
                *place += 1;
            }
        }
        Self { starts, links }
    }

    fn at(&self, position: u32) -> &[Link] {
        let (start, end) = (self.starts[position as usize], self.starts[position as usize + 1]);
        &self.links[start as usize..end as usize]
    }
}

/// Makes of each number the sum of all up to it.
fn add_up(numbers: &mut [u32]) {
    let mut sum = 0;
    for number in numbers {
        sum += *number;
        *number = sum;
    }
}
