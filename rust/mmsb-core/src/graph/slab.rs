//! The nodes of a graph and the edges at both their ends.
//!
//! A node is a page that has edges; its number is a slot here, handed out again once the node is
//! bare, so it depends on history and stays inside this module. Lists are sorted by the page id at
//! the other end and the kind, never by node number: walking them is independent of history.
//!
//! A link in the list of a page of `d` edges is one memmove of up to `4 d` bytes.

use super::link::{Edge, Kind, Link};
use super::lookup::Lookup;

#[derive(Clone, Default)]
pub(super) struct Slab {
    pages: Vec<u64>,
    ins: Vec<Vec<Link>>,
    outs: Vec<Vec<Link>>,
    free: Vec<u32>,
    lookup: Lookup,
}

impl Slab {
    /// The nodes and links of `edges`, which are in order and distinct; `None` where they take more
    /// than `limit` nodes.
    pub(super) fn of(edges: &[Edge], limit: u32) -> Option<Self> {
        let mut slab = Self::default();
        let ends = slab.admit(edges, limit)?;
        let mut degrees = vec![(0u32, 0u32); slab.slots()];
        for &(src, dst) in &ends {
            degrees[src as usize].1 += 1;
            degrees[dst as usize].0 += 1;
        }
        for (node, (ins, outs)) in degrees.into_iter().enumerate() {
            slab.ins[node].reserve_exact(ins as usize);
            slab.outs[node].reserve_exact(outs as usize);
        }
        // In this order of the edges both kinds of list grow at their ends.
        for (edge, (src, dst)) in edges.iter().zip(ends) {
            slab.outs[src as usize].push(Link::new(dst, edge.kind));
            slab.ins[dst as usize].push(Link::new(src, edge.kind));
        }
        Some(slab)
    }

    /// How many node numbers are in use or free: every number is below this.
    pub(super) fn slots(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn nodes(&self) -> usize {
        self.lookup.len()
    }

    pub(super) fn node(&self, page: u64) -> Option<u32> {
        self.lookup.get(page)
    }

    pub(super) fn page(&self, node: u32) -> u64 {
        self.pages[node as usize]
    }

    pub(super) fn ins(&self, node: u32) -> &[Link] {
        &self.ins[node as usize]
    }

    pub(super) fn outs(&self, node: u32) -> &[Link] {
        &self.outs[node as usize]
    }

    pub(super) fn by_page(&self) -> Vec<u32> {
        self.lookup.by_id()
    }

    pub(super) fn contains(&self, edge: &Edge) -> bool {
        let (Some(src), Some(dst)) = (self.node(edge.src), self.node(edge.dst)) else {
            return false;
        };
        let (ins, outs) = (self.ins(dst), self.outs(src));
        match outs.len() <= ins.len() {
            true => find(&self.pages, outs, (edge.dst, edge.kind)).is_ok(),
            false => find(&self.pages, ins, (edge.src, edge.kind)).is_ok(),
        }
    }

    /// The nodes at both ends of each edge, bare ones where the page had none. `None`, and nothing
    /// taken in, where there would be more than `limit` nodes.
    pub(super) fn admit(&mut self, edges: &[Edge], limit: u32) -> Option<Vec<(u32, u32)>> {
        let mut ends = Vec::with_capacity(edges.len());
        for edge in edges {
            match (self.intern(edge.src, limit), self.intern(edge.dst, limit)) {
                (Some(src), Some(dst)) => ends.push((src, dst)),
                _ => {
                    self.release(edges);
                    return None;
                }
            }
        }
        Some(ends)
    }

    /// Lets go of the pages named by `edges` that have no edge left.
    pub(super) fn release(&mut self, edges: &[Edge]) {
        for page in edges.iter().flat_map(|edge| [edge.src, edge.dst]) {
            if let Some(node) = self.node(page)
                && self.ins(node).is_empty()
                && self.outs(node).is_empty()
            {
                self.lookup.remove(page);
                self.free.push(node);
            }
        }
    }

    pub(super) fn link(&mut self, src: u32, dst: u32, kind: Kind) {
        put(&self.pages, &mut self.outs[src as usize], Link::new(dst, kind));
        put(&self.pages, &mut self.ins[dst as usize], Link::new(src, kind));
    }

    pub(super) fn unlink(&mut self, src: u32, dst: u32, kind: Kind) {
        take(&self.pages, &mut self.outs[src as usize], Link::new(dst, kind));
        take(&self.pages, &mut self.ins[dst as usize], Link::new(src, kind));
    }

    fn intern(&mut self, page: u64, limit: u32) -> Option<u32> {
        if let Some(node) = self.node(page) {
            return Some(node);
        }
        if self.nodes() >= limit as usize {
            return None;
        }
        let node = match self.free.pop() {
            Some(node) => node,
            None => {
                self.pages.push(page);
                self.ins.push(Vec::new());
                self.outs.push(Vec::new());
                (self.pages.len() - 1) as u32
            }
        };
        self.pages[node as usize] = page;
        self.lookup.insert(page, node);
        Some(node)
    }

    /// Verifies the whole structure; the number of edges it holds.
    #[cfg(test)]
    pub(super) fn check(&self) -> usize {
        let mut edges = 0;
        let nodes = self.by_page();
        assert!(nodes.is_sorted_by(|&a, &b| self.page(a) < self.page(b)));
        assert_eq!(nodes.len() + self.free.len(), self.slots());
        for &node in &nodes {
            assert_eq!(self.node(self.page(node)), Some(node));
            assert!(self.ins(node).len() + self.outs(node).len() > 0);
            for (near, far) in [(&self.ins, &self.outs), (&self.outs, &self.ins)] {
                let list = &near[node as usize];
                let key = |link: &Link| (self.page(link.to()), link.kind());
                assert!(list.is_sorted_by(|a, b| key(a) < key(b)));
                for link in list {
                    let mirror = (self.page(node), link.kind());
                    assert!(find(&self.pages, &far[link.to() as usize], mirror).is_ok());
                }
            }
            edges += self.ins(node).len();
        }
        for &node in &self.free {
            assert!(self.ins(node).is_empty() && self.outs(node).is_empty());
        }
        edges
    }
}

fn find(pages: &[u64], list: &[Link], sought: (u64, Kind)) -> Result<usize, usize> {
    let key = |link: &Link| (pages[link.to() as usize], link.kind());
    match list.last() {
        // Pages mostly come in ascending order.
        Some(last) if key(last) >= sought => list.binary_search_by_key(&sought, key),
        _ => Err(list.len()),
    }
}

fn put(pages: &[u64], list: &mut Vec<Link>, link: Link) {
    let place = find(pages, list, (pages[link.to() as usize], link.kind()));
    assert!(place.is_err(), "graph: an edge is added that is there");
    let (Ok(at) | Err(at)) = place;
    list.insert(at, link);
}

fn take(pages: &[u64], list: &mut Vec<Link>, link: Link) {
    let place = find(pages, list, (pages[link.to() as usize], link.kind()));
    assert!(place.is_ok(), "graph: an edge is taken that is not there");
    let (Ok(at) | Err(at)) = place;
    list.remove(at);
    if list.is_empty() {
        *list = Vec::new();
    }
}
