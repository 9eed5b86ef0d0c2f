//! Random batches on graphs of every cast against a set of edges and the plainest algorithms.
//!
//! The oracle shares no method with the code: cycles by removing sinks, distances by relaxation,
//! levels by repeated passes, ties by a greedy walk.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::edges::Limits;
use super::{Edge, Graph, Kind, Plan, Refused};

/// Small and large ids, so that node numbers, ids and look-up tables disagree.
const IDS: [u64; 9] = [0, 1, 2, 3, 7, 300, 1 << 31, u64::MAX - 1, u64::MAX];

type Edges = BTreeSet<Edge>;

fn edge() -> impl Strategy<Value = Edge> {
    let id = || prop::sample::select(&IDS[..]);
    let kind = prop::sample::select(&Kind::ALL[..]);
    (id(), id(), kind).prop_map(|(src, dst, kind)| Edge::new(src, dst, kind))
}

/// Along the order of ids mostly, or most batches would be refused.
fn ascending() -> impl Strategy<Value = Edge> {
    (edge(), 0..12).prop_map(|(edge, turn)| match turn {
        0 => edge,
        _ => Edge::new(edge.src.min(edge.dst), edge.src.max(edge.dst), edge.kind),
    })
}

/// Edges to remove, by their place among those there and outright; edges to add.
type Draft = (Vec<Index>, Vec<Edge>, Vec<Edge>);

fn draft() -> impl Strategy<Value = Draft> {
    (
        prop::collection::vec(any::<Index>(), 0..4),
        prop_oneof![9 => Just(vec![]), 1 => prop::collection::vec(edge(), 1)],
        prop::collection::vec(ascending(), 0..7),
    )
}

fn batch((picked, outright, added): Draft, edges: &Edges) -> (Vec<Edge>, Vec<Edge>) {
    let mut removed = outright;
    if !edges.is_empty() {
        let all: Vec<_> = edges.iter().copied().collect();
        let picked: BTreeSet<_> = picked.iter().map(|index| *index.get(&all)).collect();
        removed.extend(picked.into_iter().rev());
    }
    (removed, added)
}

fn is_acyclic(edges: &Edges) -> bool {
    let mut left: Vec<_> = edges.iter().collect();
    loop {
        let sources: BTreeSet<_> = left.iter().map(|edge| edge.src).collect();
        let before = left.len();
        left.retain(|edge| sources.contains(&edge.dst));
        if left.len() == before {
            return left.is_empty();
        }
    }
}

/// How many edges lead from each page to `end`, at least one.
fn distances(edges: &Edges, end: u64) -> BTreeMap<u64, usize> {
    let mut found = BTreeMap::new();
    for length in 1..=IDS.len() {
        let known: BTreeSet<_> = found.keys().copied().collect();
        for edge in edges {
            let leads = if length == 1 { edge.dst == end } else { known.contains(&edge.dst) };
            if leads {
                found.entry(edge.src).or_insert(length);
            }
        }
    }
    found
}

/// The shortest path of at least one edge, the smallest page first wherever there is a choice.
fn shortest_path(edges: &Edges, from: u64, to: u64) -> Option<Vec<Edge>> {
    let distance = distances(edges, to);
    let (mut at, mut path) = (from, Vec::new());
    for left in (0..*distance.get(&from)?).rev() {
        let nears = |next: u64| match left {
            0 => next == to,
            _ => distance.get(&next) == Some(&left),
        };
        let choice = edges.iter().filter(|edge| edge.src == at && nears(edge.dst));
        let edge = choice.min_by_key(|edge| (edge.dst, edge.kind)).unwrap();
        path.push(*edge);
        at = edge.dst;
    }
    Some(path)
}

fn judge(edges: &Edges, removed: &[Edge], added: &[Edge]) -> Result<Edges, Refused> {
    let (mut removed, mut added) = (removed.to_vec(), added.to_vec());
    removed.sort();
    added.sort();
    let mut result = edges.clone();
    for (at, edge) in removed.iter().enumerate() {
        if removed[..at].contains(edge) {
            return Err(Refused::Twice(*edge));
        }
        if !result.remove(edge) {
            return Err(Refused::Absent(*edge));
        }
    }
    let kept = result.clone();
    for edge in &added {
        if edge.src == edge.dst {
            return Err(Refused::Itself(*edge));
        }
        if !result.insert(*edge) {
            return Err(Refused::Twice(*edge));
        }
    }
    if is_acyclic(&result) {
        return Ok(result);
    }
    let mut result = kept;
    let closes = |result: &mut Edges, edge: Edge| {
        result.insert(edge);
        !is_acyclic(result)
    };
    let refused = added.into_iter().find(|&edge| closes(&mut result, edge)).unwrap();
    result.remove(&refused);
    let way = shortest_path(&result, refused.dst, refused.src).unwrap();
    Err(Refused::Cycle([vec![refused], way].concat()))
}

fn judge_load(edges: &[Edge]) -> Result<Edges, Refused> {
    let judged = judge(&Edges::new(), &[], edges);
    let Err(Refused::Cycle(_)) = judged else { return judged };
    let edges: Edges = edges.iter().copied().collect();
    let cycles = IDS.iter().filter_map(|&id| shortest_path(&edges, id, id));
    Err(Refused::Cycle(cycles.min_by_key(Vec::len).unwrap()))
}

fn levels(edges: &Edges) -> BTreeMap<u64, u32> {
    let mut levels: BTreeMap<_, _> =
        edges.iter().flat_map(|edge| [(edge.src, 0), (edge.dst, 0)]).collect();
    for _ in 0..IDS.len() {
        for edge in edges.iter().filter(|edge| edge.kind <= Kind::Control) {
            let level = levels[&edge.dst].max(levels[&edge.src] + 1);
            levels.insert(edge.dst, level);
        }
    }
    levels
}

fn check_plan(plan: &Plan, edges: &Edges) {
    let levels = levels(edges);
    let mut order: Vec<_> = levels.iter().map(|(&id, &level)| (level, id)).collect();
    order.sort_unstable();
    assert_eq!(plan.len() as usize, order.len());
    for (at, &(level, id)) in (0u32..).zip(&order) {
        assert_eq!((plan.page(at), plan.level(at), plan.position(id)), (id, level, Some(at)));
        assert!(plan.range(level).contains(&at));
        let ordering = |edge: &Edge| edge.kind <= Kind::Control;
        check_links(plan, plan.outs(at), edges, |e| (e.src == id && ordering(e)).then_some(e.dst));
        check_links(plan, plan.ins(at), edges, |e| (e.dst == id && ordering(e)).then_some(e.src));
        check_links(plan, plan.side(at), edges, |e| (e.src == id && !ordering(e)).then_some(e.dst));
    }
    assert!(IDS.iter().all(|id| plan.position(*id).is_some() == levels.contains_key(id)));
    let sizes: u32 = (0..plan.levels()).map(|level| plan.range(level).len() as u32).sum();
    assert_eq!(sizes, plan.len());
}

fn check_links(
    plan: &Plan,
    links: &[super::Link],
    edges: &Edges,
    other: impl Fn(&Edge) -> Option<u64>,
) {
    let mut expected: Vec<_> = edges
        .iter()
        .filter_map(|edge| Some((plan.position(other(edge)?).unwrap(), edge.kind)))
        .collect();
    expected.sort_unstable();
    assert!(links.iter().map(|link| (link.to(), link.kind())).eq(expected));
}

fn check_graph(graph: &Graph, edges: &Edges) {
    graph.check();
    assert_eq!(graph.len(), edges.len());
    assert!(graph.edges().eq(edges.iter().copied()));
    for id in IDS {
        let of = |near: fn(&Edge) -> u64, far: fn(&Edge) -> u64| {
            let mut ends: Vec<_> =
                edges.iter().filter(|e| near(e) == id).map(|e| (far(e), e.kind)).collect();
            ends.sort_unstable();
            ends
        };
        assert!(graph.ins(id).eq(of(|e| e.dst, |e| e.src)));
        assert!(graph.outs(id).eq(of(|e| e.src, |e| e.dst)));
    }
}

/// One that sorts anew as soon as it may, one that never does, and one as users have it.
fn casts() -> [Graph; 3] {
    [0, u64::MAX / (1 << 33), Limits::default().visits]
        .map(|visits| Graph::within(Limits { visits, ..Limits::default() }))
}

fn run(drafts: Vec<Draft>) {
    let (mut graphs, mut edges) = (casts(), Edges::new());
    for draft in drafts {
        let (removed, added) = batch(draft, &edges);
        let judged = judge(&edges, &removed, &added);
        for graph in &mut graphs {
            assert_eq!(graph.change(&removed, &added).err(), judged.clone().err());
            if judged.is_ok() {
                assert_eq!(graph.change(&added, &removed), Ok(()));
                check_graph(graph, &edges);
                assert_eq!(graph.change(&removed, &added), Ok(()));
            }
        }
        edges = judged.unwrap_or(edges);
        graphs.iter().for_each(|graph| check_graph(graph, &edges));
    }
    let loaded = Graph::load(edges.iter().rev().copied()).unwrap();
    check_graph(&loaded, &edges);
    let plan = Plan::compile(&loaded);
    check_plan(&plan, &edges);
    for graph in &graphs {
        assert_eq!(*graph, loaded);
        assert_eq!(Plan::compile(graph), plan);
    }
}

fn shuffled(edges: Vec<Edge>) -> impl Strategy<Value = (Vec<Edge>, Vec<Edge>)> {
    (Just(edges.clone()), Just(edges).prop_shuffle())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn batches_do_what_a_set_of_edges_does(drafts in prop::collection::vec(draft(), 1..14)) {
        run(drafts);
    }

    #[test]
    fn a_load_is_judged_by_its_edges_alone(
        (edges, other) in prop::collection::btree_set(edge(), 0..26)
            .prop_map(|edges| edges.into_iter().filter(|e| e.src != e.dst).collect())
            .prop_flat_map(shuffled),
    ) {
        let judged = judge_load(&edges);
        for edges in [edges, other] {
            let loaded = Graph::load(edges);
            prop_assert_eq!(loaded.as_ref().err(), judged.as_ref().err());
            if let (Ok(graph), Ok(edges)) = (&loaded, &judged) {
                check_graph(graph, edges);
                check_plan(&Plan::compile(graph), edges);
            }
        }
    }

    #[test]
    fn anything_may_be_loaded(edges in prop::collection::vec(edge(), 0..9)) {
        prop_assert_eq!(Graph::load(edges.clone()).err(), judge_load(&edges).err());
    }

    #[test]
    fn a_search_cut_short_tells_a_cycle_all_the_same(
        edges in prop::collection::btree_set(edge(), 12..30), scans in 0u64..60,
    ) {
        let edges: Edges = edges.into_iter().filter(|edge| edge.src != edge.dst).collect();
        let limits = Limits { scans, ..Limits::default() };
        if let Err(refused) = Graph::load_within(limits, edges.clone()) {
            let Refused::Cycle(cycle) = refused else { panic!("{refused:?}") };
            let next = cycle.iter().cycle().skip(1);
            prop_assert!(cycle.iter().zip(next).all(|(edge, next)| edge.dst == next.src));
            prop_assert!(cycle.iter().all(|edge| edges.contains(edge)));
            prop_assert_eq!(cycle.iter().map(|edge| edge.src).min(), Some(cycle[0].src));
            let sources: BTreeSet<_> = cycle.iter().map(|edge| edge.src).collect();
            prop_assert_eq!(sources.len(), cycle.len());
        }
    }
}
