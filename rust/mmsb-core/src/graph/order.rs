//! A topological order that is kept up while edges come and go: the algorithm of Pearce and Kelly.
//!
//! Every node has a rank, all different, and the source of every edge ranks below its destination. An
//! edge that agrees with the ranks costs nothing. One that does not costs a search between the two
//! ranks: forward from its destination and backward from its source; the nodes found then share their
//! own ranks out again, those that lead to the edge first. Removing an edge changes nothing.
//!
//! Ranks need not be adjacent, so a node without inputs can go below all others and one without
//! outputs above: a chain or fan inserted in either direction is never searched. A search may still
//! visit the whole graph, so the editor watches [`Order::visits`] over a batch and sorts it anew by
//! [`kahn`] when that is cheaper.
//!
//! Every rank written is journalled until the batch is settled, so a refused batch is taken back
//! exactly and without a search. Ranks depend on history and never leave the editor.

use std::mem;

use super::link::Link;
use super::slab::Slab;

/// What scratch lists keep of their capacity between batches.
const KEPT: usize = 1 << 12;

#[derive(Clone, Default)]
pub(super) struct Order {
    rank: Vec<i64>,
    /// No rank is below this.
    low: i64,
    /// No rank is above this.
    high: i64,
    marked: Vec<bool>,
    /// Ranks as they were before this batch, oldest first.
    journal: Vec<(u32, i64)>,
    after: Vec<u32>,
    before: Vec<u32>,
    labels: Vec<i64>,
    visits: u64,
}

impl Order {
    /// The order of a graph sorted by [`kahn`].
    pub(super) fn of(sequence: &[u32]) -> Self {
        let mut order = Self::default();
        order.grow(sequence.len());
        order.assign(sequence);
        order.settle();
        order
    }

    /// Makes room for nodes up to `slots`, each above all others.
    pub(super) fn grow(&mut self, slots: usize) {
        while self.rank.len() < slots {
            self.high += 1;
            self.rank.push(self.high);
            self.marked.push(false);
        }
    }

    pub(super) fn rank(&self, node: u32) -> i64 {
        self.rank[node as usize]
    }

    /// Links followed since the last batch was settled or taken back.
    pub(super) fn visits(&self) -> u64 {
        self.visits
    }

    /// Makes `src` come before `dst`; false, and nothing changed, where `dst` leads to `src`.
    #[must_use]
    pub(super) fn precede(&mut self, slab: &Slab, src: u32, dst: u32) -> bool {
        if self.rank(src) < self.rank(dst) {
            return true;
        }
        if slab.ins(src).is_empty() {
            self.low -= 1;
            self.set(src, self.low);
            return true;
        }
        if slab.outs(dst).is_empty() {
            self.high += 1;
            self.set(dst, self.high);
            return true;
        }
        self.search(slab, src, dst)
    }

    /// Ranks the nodes as they come in `sequence`.
    pub(super) fn assign(&mut self, sequence: &[u32]) {
        for (rank, &node) in (0..).zip(sequence) {
            self.set(node, rank);
        }
        // Wider than need be, for what the journal may bring back.
        self.low = self.low.min(0);
        self.high = self.high.max(sequence.len() as i64);
    }

    /// Ends a batch that stays.
    pub(super) fn settle(&mut self) {
        self.visits = 0;
        self.journal.clear();
        self.journal.shrink_to(KEPT);
        self.labels.shrink_to(KEPT);
        for list in [&mut self.after, &mut self.before] {
            list.shrink_to(KEPT);
        }
    }

    /// Ends a batch that does not: every rank is what it was.
    pub(super) fn take_back(&mut self) {
        while let Some((node, rank)) = self.journal.pop() {
            self.rank[node as usize] = rank;
        }
        self.settle();
    }

    fn set(&mut self, node: u32, rank: i64) {
        self.journal.push((node, mem::replace(&mut self.rank[node as usize], rank)));
    }

    fn search(&mut self, slab: &Slab, src: u32, dst: u32) -> bool {
        let (floor, ceiling) = (self.rank(dst), self.rank(src));
        let mut after = mem::take(&mut self.after);
        let mut before = mem::take(&mut self.before);
        let open = self.reach(&mut after, dst, src, |node| slab.outs(node), |rank| rank <= ceiling);
        if open {
            let met =
                self.reach(&mut before, src, dst, |node| slab.ins(node), |rank| rank >= floor);
            assert!(met, "graph: a cycle seen from one side only");
            self.share_out(&mut before, &mut after);
        }
        for node in before.drain(..).chain(after.drain(..)) {
            self.marked[node as usize] = false;
        }
        (self.after, self.before) = (after, before);
        open
    }

    /// Collects and marks what `from` leads to within the ranks given; false as soon as that is `end`.
    fn reach<'a>(
        &mut self,
        found: &mut Vec<u32>,
        from: u32,
        end: u32,
        next: impl Fn(u32) -> &'a [Link],
        within: impl Fn(i64) -> bool,
    ) -> bool {
        found.push(from);
        self.marked[from as usize] = true;
        let mut at = 0;
        while let Some(&node) = found.get(at) {
            at += 1;
            for link in next(node) {
                let to = link.to();
                self.visits += 1;
                if to == end {
                    return false;
                }
                if !self.marked[to as usize] && within(self.rank(to)) {
                    self.marked[to as usize] = true;
                    found.push(to);
                }
            }
        }
        true
    }

    /// Gives the ranks of both lists to `before` and then `after`, each in its present order.
    fn share_out(&mut self, before: &mut [u32], after: &mut [u32]) {
        before.sort_unstable_by_key(|&node| self.rank(node));
        after.sort_unstable_by_key(|&node| self.rank(node));
        let nodes = || before.iter().chain(after.iter()).copied();
        let mut labels = mem::take(&mut self.labels);
        labels.extend(nodes().map(|node| self.rank(node)));
        labels.sort_unstable();
        for (node, rank) in nodes().zip(labels.drain(..)) {
            self.set(node, rank);
        }
        self.labels = labels;
    }

    /// Verifies the whole structure against the graph it orders.
    #[cfg(test)]
    pub(super) fn check(&self, slab: &Slab) {
        assert_eq!((self.rank.len(), self.marked.len()), (slab.slots(), slab.slots()));
        let mut ranks = self.rank.clone();
        ranks.sort_unstable();
        assert!(ranks.is_sorted_by(|a, b| a < b));
        assert!(ranks.iter().all(|rank| (self.low..=self.high).contains(rank)));
        assert!(self.marked.iter().all(|&marked| !marked));
        assert!(self.journal.is_empty() && self.after.is_empty() && self.before.is_empty());
        assert!(self.labels.is_empty() && self.visits == 0);
        for node in slab.by_page() {
            assert!(slab.outs(node).iter().all(|link| self.rank(node) < self.rank(link.to())));
        }
    }
}

/// A topological sort by rounds: each takes the nodes all of whose inputs an earlier round took.
pub(super) struct Sorted {
    /// The nodes taken, free slots among them.
    pub(super) sequence: Vec<u32>,
    /// Where each round begins in the sequence.
    pub(super) rounds: Vec<usize>,
    /// By node, the inputs it still waits for; none in an acyclic graph.
    pub(super) waiting: Vec<u32>,
}

impl Sorted {
    pub(super) fn is_complete(&self) -> bool {
        self.sequence.len() == self.waiting.len()
    }
}

/// Kahn's algorithm over the links that count.
pub(super) fn kahn(slab: &Slab, counts: impl Fn(Link) -> bool) -> Sorted {
    let degree = |node| slab.ins(node).iter().filter(|&&link| counts(link)).count() as u32;
    let mut waiting: Vec<u32> = (0..slab.slots() as u32).map(degree).collect();
    let mut sequence = Vec::with_capacity(waiting.len());
    sequence.extend((0..).zip(&waiting).filter(|&(_, &left)| left == 0).map(|(node, _)| node));
    let mut rounds = Vec::new();
    let mut at = 0;
    while at < sequence.len() {
        rounds.push(at);
        let end = sequence.len();
        for taken in at..end {
            for link in slab.outs(sequence[taken]).iter().filter(|&&link| counts(link)) {
                let left = &mut waiting[link.to() as usize];
                *left -= 1;
                if *left == 0 {
                    sequence.push(link.to());
                }
            }
        }
        at = end;
    }
    Sorted { sequence, rounds, waiting }
}
