//! The editor: a graph that never holds a cycle, changed by whole batches.
//!
//! A batch is judged by its result. Its edges are sorted first, so the order they are given in does
//! not matter; removals are looked at before additions, and the first edge that cannot be is the one
//! refused. Whatever is refused leaves the graph as it was.
//!
//! Each addition is checked by [`Order::precede`]. Once that has followed more links in one batch than
//! sorting the whole graph twice would, the rest of the batch is added unchecked and sorted once; if
//! there is a cycle, bisection finds the edge that the check would have refused. So no batch costs
//! more than the logarithm of its length times the size of the graph. Edges added one at a time can
//! cost a search of the whole graph each, and do where they come in random order: add them together.
//!
//! Per node about 130 bytes, half of them what the allocator makes of two short lists, and per edge 8.
//!
//! Invariants: every edge is in the lists of both its ends, every node has an edge, and the ranks of
//! the order agree with every edge.

use std::borrow::Cow;
use std::fmt;

use super::cycle;
use super::link::{Edge, Kind, Link};
use super::order::{self, Order};
use super::slab::Slab;
use crate::museum::{Defect, planted};

/// Why a graph cannot be what was asked for. It is then what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The edge leads from a page to the same page.
    Itself(Edge),
    /// The edge is added but already there, or named twice in one batch.
    Twice(Edge),
    /// The edge is removed but not there.
    Absent(Edge),
    /// The edges, each beginning where the one before ends, lead back to where they begin.
    ///
    /// From [`Graph::change`]: the refused edge and the shortest way back. From [`Graph::load`]: the
    /// shortest cycle, beginning at its smallest page. Of several as short the one with the smallest
    /// pages. In a graph too large and too entangled to tell, `load` gives a cycle that is the
    /// shortest through one of its pages.
    Cycle(Vec<Edge>),
    /// There would be more than 2^30 - 1 pages with edges (before and after taken together), or more
    /// than 2^32 - 2 edges.
    TooMany,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Itself(edge) => write!(f, "page {} would depend on itself ({edge})", edge.src),
            Self::Twice(edge) => write!(f, "the edge {edge} is there or named twice"),
            Self::Absent(edge) => write!(f, "there is no edge {edge}"),
            Self::TooMany => f.write_str("too many pages or edges for one graph"),
            Self::Cycle(edges) => write_cycle(f, edges),
        }
    }
}

impl std::error::Error for Refused {}

/// Names every page of a cycle that can be read, and the ends of one that cannot.
fn write_cycle(f: &mut fmt::Formatter<'_>, edges: &[Edge]) -> fmt::Result {
    const SHOWN: usize = 8;
    write!(f, "cycle of {} edges: ", edges.len())?;
    let skipped = SHOWN..edges.len().saturating_sub(SHOWN);
    for (at, edge) in edges.iter().enumerate() {
        if at == skipped.start && !skipped.is_empty() {
            f.write_str("... -> ")?;
        } else if !skipped.contains(&at) {
            write!(f, "{} -{}-> ", edge.src, edge.kind)?;
        }
    }
    edges.first().map_or(Ok(()), |edge| write!(f, "{}", edge.src))
}

/// What a graph may grow to and how long it may search; other values are for tests.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) nodes: u32,
    pub(super) edges: u32,
    /// Links that a batch may follow for each node and edge before it is sorted instead.
    pub(super) visits: u64,
    /// Links followed for the shortest cycle.
    pub(super) scans: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nodes: Link::NODES, edges: u32::MAX - 1, visits: 2, scans: cycle::SCANS }
    }
}

/// An acyclic graph of pages.
#[derive(Clone, Default)]
pub(crate) struct Graph {
    slab: Slab,
    order: Order,
    len: u32,
    limits: Limits,
}

impl Graph {
    /// A graph without edges.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A graph of these edges, in any order, checked as a whole.
    ///
    /// # Errors
    /// Where an edge leads to its own page or is there twice, where the edges close a cycle, where
    /// there are too many.
    pub(crate) fn load(edges: impl IntoIterator<Item = Edge>) -> Result<Self, Refused> {
        Self::load_within(Limits::default(), edges)
    }

    pub(super) fn load_within(
        limits: Limits,
        edges: impl IntoIterator<Item = Edge>,
    ) -> Result<Self, Refused> {
        let mut sorted = Vec::new();
        for edge in edges {
            if sorted.len() >= limits.edges as usize {
                return Err(Refused::TooMany);
            }
            sorted.push(edge);
        }
        sorted.sort_unstable();
        for (edge, before) in sorted.iter().zip(predecessors(&sorted)) {
            check_alone(edge, before)?;
        }
        let slab = Slab::of(&sorted, limits.nodes).ok_or(Refused::TooMany)?;
        let kahn = order::kahn(&slab, |_| true);
        if !kahn.is_complete() {
            return Err(Refused::Cycle(cycle::shortest(&slab, &kahn, limits.scans)));
        }
        Ok(Self { order: Order::of(&kahn.sequence), slab, len: sorted.len() as u32, limits })
    }

    /// Removes and adds edges, all or none.
    ///
    /// An edge may be in both lists and stays. What this did is undone by the same call with the
    /// lists exchanged, which is never refused.
    ///
    /// # Errors
    /// Where an edge removed is not there, where one added leads to its own page or is there, where
    /// the result has a cycle or is too large.
    pub(crate) fn change(&mut self, removed: &[Edge], added: &[Edge]) -> Result<(), Refused> {
        let (removed, added) = (sorted(removed), sorted(added));
        self.check_removed(&removed)?;
        self.check_added(&added, &removed)?;
        let len = self.len as usize - removed.len() + added.len();
        if len > self.limits.edges as usize {
            return Err(Refused::TooMany);
        }
        let ends = self.slab.admit(&added, self.limits.nodes).ok_or(Refused::TooMany)?;
        self.order.grow(self.slab.slots());
        // From the last to the first, as a list is shortened most cheaply at its end.
        removed.iter().rev().for_each(|edge| self.unlink(edge));
        let done = self.add(&added, &ends);
        match &done {
            Ok(()) => {
                self.len = len as u32;
                self.order.settle();
                self.slab.release(&removed);
            }
            Err(_) => {
                removed.iter().for_each(|edge| self.relink(edge));
                self.order.take_back();
                self.slab.release(&added);
            }
        }
        done
    }

    /// What the page depends on: the pages and kinds, in order.
    pub(crate) fn ins(
        &self,
        id: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, Kind)> + ExactSizeIterator {
        self.ends(self.slab.node(id).map_or(&[], |node| self.slab.ins(node)))
    }

    /// What depends on the page: the pages and kinds, in order.
    pub(crate) fn outs(
        &self,
        id: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, Kind)> + ExactSizeIterator {
        self.ends(self.slab.node(id).map_or(&[], |node| self.slab.outs(node)))
    }

    /// Whether the edge is there.
    #[must_use]
    pub(crate) fn contains(&self, edge: &Edge) -> bool {
        self.slab.contains(edge)
    }

    /// How many edges there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no edges.
    #[must_use]
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many pages have edges.
    #[must_use]
    pub(crate) fn nodes(&self) -> usize {
        self.slab.nodes()
    }

    /// Every edge, in order.
    pub(crate) fn edges(&self) -> impl Iterator<Item = Edge> {
        self.slab.by_page().into_iter().flat_map(|node| {
            let dst = self.slab.page(node);
            self.ends(self.slab.ins(node)).map(move |(src, kind)| Edge { src, dst, kind })
        })
    }

    pub(super) fn slab(&self) -> &Slab {
        &self.slab
    }

    fn ends<'a>(
        &'a self,
        links: &'a [Link],
    ) -> impl DoubleEndedIterator<Item = (u64, Kind)> + ExactSizeIterator + use<'a> {
        links.iter().map(|link| (self.slab.page(link.to()), link.kind()))
    }

    fn check_removed(&self, removed: &[Edge]) -> Result<(), Refused> {
        for (edge, before) in removed.iter().zip(predecessors(removed)) {
            if before == Some(edge) {
                return Err(Refused::Twice(*edge));
            }
            if !self.contains(edge) {
                return Err(Refused::Absent(*edge));
            }
        }
        Ok(())
    }

    fn check_added(&self, added: &[Edge], removed: &[Edge]) -> Result<(), Refused> {
        for (edge, before) in added.iter().zip(predecessors(added)) {
            check_alone(edge, before)?;
            if self.contains(edge) && removed.binary_search(edge).is_err() {
                return Err(Refused::Twice(*edge));
            }
        }
        Ok(())
    }

    /// Adds the edges, or none of them.
    fn add(&mut self, added: &[Edge], ends: &[(u32, u32)]) -> Result<(), Refused> {
        let size = (self.slab.nodes() + self.len as usize + added.len()) as u64;
        for (at, (edge, &(src, dst))) in added.iter().zip(ends).enumerate() {
            if self.order.visits() > self.limits.visits * size {
                return self.add_sorting(added, ends, at);
            }
            if !self.order.precede(&self.slab, src, dst) {
                let ceiling = self.order.rank(src);
                let below = |node| self.order.rank(node) <= ceiling;
                let cycle = cycle::closed_by(&self.slab, *edge, (src, dst), below);
                self.link_up_to(added, ends, at, 0);
                return Err(Refused::Cycle(cycle));
            }
            self.slab.link(src, dst, edge.kind);
        }
        Ok(())
    }

    /// Adds the rest of the edges, of which `linked` are in, and sorts the graph as a whole.
    fn add_sorting(
        &mut self,
        added: &[Edge],
        ends: &[(u32, u32)],
        linked: usize,
    ) -> Result<(), Refused> {
        self.link_up_to(added, ends, linked, added.len());
        let kahn = order::kahn(&self.slab, |_| true);
        if kahn.is_complete() {
            self.order.assign(&kahn.sequence);
            return Ok(());
        }
        // With `sound` edges there is no cycle, with `broken` there is; `now` are linked.
        let (mut sound, mut broken, mut now) = (linked, added.len(), added.len());
        while broken - sound > 1 {
            let middle = sound.midpoint(broken);
            self.link_up_to(added, ends, now, middle);
            now = middle;
            match order::kahn(&self.slab, |_| true).is_complete() {
                true => sound = middle,
                false => broken = middle,
            }
        }
        self.link_up_to(added, ends, now, sound);
        let cycle = cycle::closed_by(&self.slab, added[sound], ends[sound], |_| true);
        self.link_up_to(added, ends, sound, 0);
        Err(Refused::Cycle(cycle))
    }

    /// Links or unlinks edges of a batch of which the first `now` are linked, until `then` are.
    fn link_up_to(&mut self, added: &[Edge], ends: &[(u32, u32)], now: usize, then: usize) {
        for at in now..then {
            self.slab.link(ends[at].0, ends[at].1, added[at].kind);
        }
        for at in (then..now).rev() {
            self.slab.unlink(ends[at].0, ends[at].1, added[at].kind);
        }
    }

    fn unlink(&mut self, edge: &Edge) {
        if let (Some(src), Some(dst)) = (self.slab.node(edge.src), self.slab.node(edge.dst)) {
            self.slab.unlink(src, dst, edge.kind);
        }
    }

    fn relink(&mut self, edge: &Edge) {
        if let (Some(src), Some(dst)) = (self.slab.node(edge.src), self.slab.node(edge.dst)) {
            self.slab.link(src, dst, edge.kind);
        }
    }

    /// Verifies the whole structure.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.slab.check(), self.len());
        self.order.check(&self.slab);
    }

    #[cfg(test)]
    pub(super) fn within(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }
}

/// Equal where the edges are.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.edges().eq(other.edges())
    }
}

impl Eq for Graph {}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph")
            .field("nodes", &self.nodes())
            .field("edges", &self.len)
            .finish_non_exhaustive()
    }
}

fn sorted(edges: &[Edge]) -> Cow<'_, [Edge]> {
    if edges.is_sorted() {
        return Cow::Borrowed(edges);
    }
    let mut edges = edges.to_vec();
    edges.sort_unstable();
    Cow::Owned(edges)
}

/// For each edge of a list, the one before.
fn predecessors(edges: &[Edge]) -> impl Iterator<Item = Option<&Edge>> {
    std::iter::once(None).chain(edges.iter().map(Some))
}

fn check_alone(edge: &Edge, before: Option<&Edge>) -> Result<(), Refused> {
    if edge.src == edge.dst && !planted(Defect::SelfEdgeTaken) {
        return Err(Refused::Itself(*edge));
    }
    if before == Some(edge) {
        return Err(Refused::Twice(*edge));
    }
    Ok(())
}
