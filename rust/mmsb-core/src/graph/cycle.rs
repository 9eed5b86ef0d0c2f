//! The shortest cycle, for whoever has to mend a graph.
//!
//! A breadth-first search that takes links in the order of page ids finds, of all shortest paths,
//! the one with the smallest ids: of two paths that part, the smaller was queued first. So an answer
//! depends on the edges alone.
//!
//! No way is known to find a shortest cycle that is much better than a search from every node, which
//! a damaged file could make last for hours. Three things keep the search short: what no cycle can
//! go through is cut away first, a run of nodes with one way in and one way out is searched once, and
//! all searches go to depth 2, then 4, then 8 and so on, so short cycles cost their surroundings only.
//! What is left is ended after a fixed number of [`SCANS`], a function of the graph like everything
//! else here: the answer is then a cycle, and the shortest through one of its pages.

use super::link::{Edge, Link};
use super::order::Sorted;
use super::slab::Slab;

/// Links followed before [`shortest`] settles for what it has; in the order of a second.
pub(super) const SCANS: u64 = 1 << 27;

/// The shortest way from the destination of `refused`, an edge the graph does not hold, to its
/// source, after that edge. Goes through the nodes that `admits` only.
pub(super) fn closed_by(
    slab: &Slab,
    refused: Edge,
    (src, dst): (u32, u32),
    admits: impl Fn(u32) -> bool,
) -> Vec<Edge> {
    let mut cycle = vec![refused];
    let way = Search::new(slab).path(dst, src, usize::MAX, admits);
    assert!(way.is_some(), "graph: an edge is refused for a cycle that is not there");
    cycle.extend(way.into_iter().flatten());
    cycle
}

/// The shortest cycle of a graph that [`kahn`](super::order::kahn) could not sort, from its smallest
/// page on; of several the one with the smallest pages.
pub(super) fn shortest(slab: &Slab, sorted: &Sorted, scans: u64) -> Vec<Edge> {
    let core = Core::of(slab, sorted);
    let mut search = Search::new(slab);
    let starts = core.starts(slab);
    let mut best: Option<Vec<Edge>> = None;
    let mut depth = 2;
    while best.is_none() {
        for &start in &starts {
            let most = best.as_ref().map_or(depth, |cycle: &Vec<Edge>| cycle.len() - 1);
            if most < 2 || search.scanned > scans {
                break;
            }
            best = search.path(start, start, most, |node| core.holds(node)).or(best);
        }
        if search.scanned > scans || depth > slab.slots() {
            break;
        }
        depth *= 2;
    }
    let mut cycle = best.unwrap_or_else(|| core.some_cycle(&mut search, &starts));
    let least = (0..cycle.len()).min_by_key(|&at| cycle[at].src).unwrap_or(0);
    cycle.rotate_left(least);
    cycle
}

/// The nodes left when those before and after all cycles are cut away.
struct Core {
    inside: Vec<bool>,
    /// Inside, with one link in and one link out there.
    unary: Vec<bool>,
}

impl Core {
    fn of(slab: &Slab, sorted: &Sorted) -> Self {
        let mut inside: Vec<bool> = sorted.waiting.iter().map(|&left| left > 0).collect();
        let within = |inside: &[bool], list: &[Link]| {
            list.iter().filter(|link| inside[link.to() as usize]).count()
        };
        let nodes = 0..slab.slots() as u32;
        let mut outs: Vec<_> = nodes.clone().map(|node| within(&inside, slab.outs(node))).collect();
        let is_end = |&node: &u32| inside[node as usize] && outs[node as usize] == 0;
        let mut ends: Vec<u32> = nodes.clone().filter(is_end).collect();
        while let Some(end) = ends.pop() {
            inside[end as usize] = false;
            for link in slab.ins(end) {
                let left = &mut outs[link.to() as usize];
                *left -= 1;
                if *left == 0 && inside[link.to() as usize] {
                    ends.push(link.to());
                }
            }
        }
        let one_in = |node| within(&inside, slab.ins(node)) == 1;
        let unary = nodes
            .map(|node| inside[node as usize] && outs[node as usize] == 1 && one_in(node))
            .collect();
        Self { inside, unary }
    }

    fn holds(&self, node: u32) -> bool {
        self.inside[node as usize]
    }

    fn next(&self, list: &[Link]) -> Option<u32> {
        list.iter().map(|link| link.to()).find(|&node| self.holds(node))
    }

    /// Nodes such that every cycle goes through one, by page. Of a run of unary nodes, all of which
    /// are on the same cycles, the smallest.
    fn starts(&self, slab: &Slab) -> Vec<u32> {
        let mut passed = vec![false; self.inside.len()];
        let mut starts = Vec::new();
        for node in slab.by_page() {
            if !self.holds(node) || passed[node as usize] {
                continue;
            }
            starts.push(node);
            if self.unary[node as usize] {
                passed[node as usize] = true;
                self.pass_run(&mut passed, node, |node| slab.outs(node));
                self.pass_run(&mut passed, node, |node| slab.ins(node));
            }
        }
        starts
    }

    fn pass_run<'a>(&self, passed: &mut [bool], from: u32, list: impl Fn(u32) -> &'a [Link]) {
        let mut at = from;
        while let Some(node) = self.next(list(at))
            && self.unary[node as usize]
            && !passed[node as usize]
        {
            passed[node as usize] = true;
            at = node;
        }
    }

    /// The shortest cycle through a node that the first start leads to.
    fn some_cycle(&self, search: &mut Search<'_>, starts: &[u32]) -> Vec<Edge> {
        let Some(&start) = starts.first() else { return Vec::new() };
        // Every node here has a way on, so after as many steps as there are nodes one has come round.
        let mut at = start;
        for _ in 0..self.inside.len() {
            at = self.next(search.slab.outs(at)).unwrap_or(at);
        }
        search.path(at, at, usize::MAX, |node| self.holds(node)).unwrap_or_default()
    }
}

struct Search<'a> {
    slab: &'a Slab,
    /// By node, the link it was found by, seen from its end; none where not found.
    parent: Vec<Link>,
    queue: Vec<u32>,
    scanned: u64,
}

impl<'a> Search<'a> {
    fn new(slab: &'a Slab) -> Self {
        Self { slab, parent: vec![Link::NONE; slab.slots()], queue: Vec::new(), scanned: 0 }
    }

    /// The shortest path of at least one and at most `most` edges.
    fn path(
        &mut self,
        from: u32,
        to: u32,
        most: usize,
        admits: impl Fn(u32) -> bool,
    ) -> Option<Vec<Edge>> {
        let last = self.spread(from, to, most, admits);
        let path = last.map(|last| self.trace(from, to, last));
        for node in self.queue.drain(..) {
            self.parent[node as usize] = Link::NONE;
        }
        path
    }

    /// Searches breadth-first for the last link of the path, seen from `to`.
    fn spread(
        &mut self,
        from: u32,
        to: u32,
        most: usize,
        admits: impl Fn(u32) -> bool,
    ) -> Option<Link> {
        self.queue.push(from);
        // Any link will do: the path is not traced beyond this node.
        self.parent[from as usize] = Link::new(from, super::Kind::Data);
        let (mut at, mut layer, mut depth) = (0, 1, 1);
        while at < self.queue.len() && depth <= most {
            let node = self.queue[at];
            at += 1;
            for link in self.slab.outs(node) {
                self.scanned += 1;
                let back = Link::new(node, link.kind());
                if link.to() == to {
                    return Some(back);
                }
                if self.parent[link.to() as usize] == Link::NONE && admits(link.to()) {
                    self.parent[link.to() as usize] = back;
                    self.queue.push(link.to());
                }
            }
            if at == layer {
                layer = self.queue.len();
                depth += 1;
            }
        }
        None
    }

    fn trace(&self, from: u32, to: u32, last: Link) -> Vec<Edge> {
        let page = |node| self.slab.page(node);
        let mut path = vec![Edge::new(page(last.to()), page(to), last.kind())];
        let mut node = last.to();
        while node != from {
            let back = self.parent[node as usize];
            path.push(Edge::new(page(back.to()), page(node), back.kind()));
            node = back.to();
        }
        path.reverse();
        path
    }
}
