//! A million pages: chains inserted from every side, fans, dense layers, and graphs meant to be slow.
//!
//! Nothing here measures time; what would be quadratic would not end.

use super::{Edge, Graph, Kind, Plan, Refused};

const MILLION: u64 = 1_000_000;

fn data(src: u64, dst: u64) -> Edge {
    Edge::new(src, dst, Kind::Data)
}

fn chain(nodes: u64) -> Vec<Edge> {
    (1..nodes).map(|dst| data(dst - 1, dst)).collect()
}

/// Fisher and Yates by a fixed congruential sequence.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    for at in (1..items.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        items.swap(at, (state >> 33) as usize % (at + 1));
    }
}

fn one_by_one(edges: &[Edge]) -> Graph {
    let mut graph = Graph::new();
    for edge in edges {
        graph.change(&[], std::slice::from_ref(edge)).unwrap();
    }
    graph
}

/// Closes the chain at several places; the whole way round is told each time.
fn check_chain(mut graph: Graph) {
    graph.check();
    let nodes = graph.nodes() as u64;
    for (src, dst) in [(nodes - 1, 0), (nodes / 2, 7)] {
        let closing = Edge::new(src, dst, Kind::Compiler);
        let Err(Refused::Cycle(cycle)) = graph.change(&[], &[closing]) else { panic!("no cycle") };
        assert_eq!(cycle[0], closing);
        assert!(cycle[1..].iter().copied().eq((dst + 1..=src).map(|to| data(to - 1, to))));
    }
    graph.check();
    let plan = Plan::compile(&graph);
    assert_eq!(
        (u64::from(plan.levels()), plan.position(nodes - 1)),
        (nodes, Some(nodes as u32 - 1))
    );
}

#[test]
fn a_chain_of_a_million_inserted_in_order() {
    check_chain(one_by_one(&chain(MILLION)));
}

#[test]
fn a_chain_of_a_million_inserted_in_reverse() {
    let mut edges = chain(MILLION);
    edges.reverse();
    check_chain(one_by_one(&edges));
}

#[test]
fn a_chain_inserted_in_random_order() {
    let mut edges = chain(MILLION / 5);
    shuffle(&mut edges);
    check_chain(one_by_one(&edges));
}

#[test]
fn a_chain_of_a_million_loaded() {
    let mut edges = chain(MILLION);
    shuffle(&mut edges);
    check_chain(Graph::load(edges.iter().copied()).unwrap());
    edges.push(data(MILLION - 1, 0));
    let expected: Vec<_> = (0..MILLION).map(|src| data(src, (src + 1) % MILLION)).collect();
    assert_eq!(Graph::load(edges), Err(Refused::Cycle(expected)));
}

#[test]
fn a_chain_of_a_million_in_one_batch_and_back() {
    let mut edges = chain(MILLION);
    shuffle(&mut edges);
    let mut graph = Graph::new();
    graph.change(&[], &edges).unwrap();
    graph.check();
    edges.reverse();
    graph.change(&edges, &[]).unwrap();
    assert!(graph.is_empty());
    graph.check();
}

#[test]
fn a_fan_of_a_million() {
    let out: Vec<_> = (1..=MILLION).map(|dst| data(0, dst)).collect();
    let mut graph = one_by_one(&out);
    graph.check();
    assert!(graph.outs(0).map(|(page, _)| page).eq(1..=MILLION));
    assert_eq!(Plan::compile(&graph).range(1), 1..MILLION as u32 + 1);
    graph.change(&out, &[]).unwrap();
    let back: Vec<_> = (1..=MILLION).map(|src| data(src, 0)).collect();
    graph.change(&[], &back).unwrap();
    graph.check();
    let refused = graph.change(&[], &[data(0, 77)]);
    assert_eq!(refused, Err(Refused::Cycle(vec![data(0, 77), data(77, 0)])));
    graph.change(&back, &out).unwrap();
    assert_eq!(graph, Graph::load(out).unwrap());
}

#[test]
fn dense_layers_by_every_history() {
    let (layers, wide) = (40, 50);
    let mut edges = Vec::new();
    for (layer, (a, b)) in
        (1..layers).flat_map(|l| (0..wide * wide).map(move |i| (l, (i / wide, i % wide))))
    {
        edges.push(data((layer - 1) * wide + a, layer * wide + b));
    }
    let loaded = Graph::load(edges.iter().copied()).unwrap();
    let plan = Plan::compile(&loaded);
    assert_eq!(u64::from(plan.levels()), layers);
    assert!((0..plan.levels()).all(|level| plan.range(level).len() as u64 == wide));
    for _ in 0..2 {
        let mut graph = one_by_one(&edges);
        graph.check();
        assert_eq!(Plan::compile(&graph), plan);
        let closing = data(layers * wide - 1, 0);
        let Err(Refused::Cycle(cycle)) = graph.change(&[], &[closing]) else { panic!("no cycle") };
        // Of the many shortest ways, along the first page of every layer.
        assert_eq!(cycle.len() as u64, layers);
        assert!(cycle[1..].iter().zip(0..).all(|(edge, layer)| edge.src == layer * wide));
        shuffle(&mut edges);
    }
    let mut batch = Graph::new();
    batch.change(&[], &edges).unwrap();
    assert_eq!(batch, loaded);
}

#[test]
fn a_batch_that_would_search_for_ever_is_sorted() {
    // Each of these edges moves the whole chain behind a page that comes after it.
    let (mut graph, half) = (Graph::load(chain(MILLION / 2)).unwrap(), MILLION / 2);
    let tails: Vec<_> =
        (0..half / 2).map(|at| data(MILLION + 2 * at, MILLION + 2 * at + 1)).collect();
    graph.change(&[], &tails).unwrap();
    let turned: Vec<_> = tails.iter().map(|edge| data(edge.dst, 0)).collect();
    graph.change(&[], &turned).unwrap();
    graph.check();
    let mut closing = turned.clone();
    closing.push(data(half - 1, MILLION + 7));
    graph.change(&turned, &[]).unwrap();
    let Err(Refused::Cycle(cycle)) = graph.change(&[], &closing) else { panic!("no cycle") };
    assert_eq!((cycle[0], cycle.len() as u64), (data(half - 1, MILLION + 7), half + 1));
    graph.check();
}

#[test]
fn a_tangle_too_large_to_search_tells_a_cycle() {
    // A ring with a second way over every page: all pages fork, and the shortest cycle is long.
    let nodes = 100_000;
    let ring = (0..nodes).flat_map(|at| [data(at, (at + 1) % nodes), data(at, (at + 2) % nodes)]);
    let Err(Refused::Cycle(cycle)) = Graph::load(ring) else { panic!("no cycle") };
    assert_eq!(cycle.len() as u64, nodes / 2);
    let next = cycle.iter().cycle().skip(1);
    assert!(cycle.iter().zip(next).all(|(edge, next)| edge.dst == next.src));
    assert_eq!(cycle.iter().map(|edge| edge.src).min(), Some(cycle[0].src));
}

#[test]
fn two_long_ways_are_searched_once_each() {
    let mut edges = chain(MILLION);
    edges.push(data(MILLION - 1, 0));
    edges.push(data(MILLION / 3, MILLION + 1));
    edges.push(data(MILLION + 1, MILLION - 1));
    let Err(Refused::Cycle(cycle)) = Graph::load(edges) else { panic!("no cycle") };
    assert_eq!((cycle[0].src, cycle.len() as u64), (0, MILLION / 3 + 3));
}
