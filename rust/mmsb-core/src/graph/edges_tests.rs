//! What each refusal looks like, which comes first, and what is left of the graph.

use super::Kind::{Compiler, Control, Data, GpuSync};
use super::edges::Limits;
use super::{Edge, Graph, Kind, Refused};

fn data(src: u64, dst: u64) -> Edge {
    Edge::new(src, dst, Data)
}

fn chain(ids: &[u64]) -> Vec<Edge> {
    ids.windows(2).map(|pair| data(pair[0], pair[1])).collect()
}

fn limits(nodes: u32, edges: u32) -> Limits {
    Limits { nodes, edges, ..Limits::default() }
}

/// Loads what is expected to be refused for a cycle.
fn cycle(edges: impl IntoIterator<Item = Edge>) -> Vec<Edge> {
    match Graph::load(edges) {
        Err(Refused::Cycle(cycle)) => cycle,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(graph: &mut Graph, removed: &[Edge], added: &[Edge], why: Refused) {
    let before = graph.clone();
    assert_eq!(graph.change(removed, added), Err(why));
    graph.check();
    assert_eq!(*graph, before);
}

#[test]
fn edges_are_seen_from_both_ends_in_order() {
    let mut graph = Graph::new();
    let edges = [data(5, 9), data(2, 9), Edge::new(2, 9, Compiler), Edge::new(2, 11, Control)];
    graph.change(&[], &edges).unwrap();
    graph.check();
    assert!(graph.ins(9).eq([(2, Data), (2, Compiler), (5, Data)]));
    assert!(graph.outs(2).rev().eq([(11, Control), (9, Compiler), (9, Data)]));
    assert_eq!((graph.ins(9).len(), graph.ins(2).len(), graph.outs(77).len()), (3, 0, 0));
    assert_eq!((graph.len(), graph.nodes(), graph.is_empty()), (4, 4, false));
    let all = [data(2, 9), Edge::new(2, 9, Compiler), data(5, 9), Edge::new(2, 11, Control)];
    assert!(graph.edges().eq(all));
    assert!(graph.contains(&data(2, 9)) && !graph.contains(&Edge::new(2, 9, GpuSync)));
    assert!(!graph.contains(&data(9, 2)) && !graph.contains(&data(2, 404)));
    graph.change(&edges, &[]).unwrap();
    assert_eq!((graph.len(), graph.nodes(), graph.is_empty()), (0, 0, true));
    assert_eq!(graph, Graph::new());
    graph.check();
}

#[test]
fn a_page_does_not_depend_on_itself() {
    for kind in Kind::ALL {
        let edge = Edge::new(4, 4, kind);
        refused(&mut Graph::new(), &[], &[data(1, 2), edge], Refused::Itself(edge));
        assert_eq!(Graph::load([data(1, 2), edge]), Err(Refused::Itself(edge)));
    }
}

#[test]
fn an_edge_is_there_once() {
    let edge = data(1, 2);
    let mut graph = Graph::load([edge]).unwrap();
    refused(&mut graph, &[], &[edge], Refused::Twice(edge));
    refused(&mut graph, &[edge, edge], &[], Refused::Twice(edge));
    refused(&mut graph, &[], &[data(3, 4), data(5, 4), data(3, 4)], Refused::Twice(data(3, 4)));
    refused(&mut graph, &[edge], &[edge, edge], Refused::Twice(edge));
    assert_eq!(Graph::load([edge, data(2, 3), edge]), Err(Refused::Twice(edge)));
}

#[test]
fn an_edge_removed_has_to_be_there() {
    let mut graph = Graph::load([data(1, 2)]).unwrap();
    for absent in [data(2, 1), Edge::new(1, 2, Control), data(1, 3), data(8, 9)] {
        refused(&mut graph, &[absent], &[], Refused::Absent(absent));
        refused(&mut graph, &[data(1, 2), absent], &[data(1, 7)], Refused::Absent(absent));
        refused(&mut graph, &[absent], &[absent], Refused::Absent(absent));
    }
}

#[test]
fn an_edge_may_leave_and_come_back_in_one_batch() {
    let mut graph = Graph::load(chain(&[1, 2, 3])).unwrap();
    graph.change(&[data(1, 2)], &[data(1, 2), data(1, 3)]).unwrap();
    assert_eq!(graph.len(), 3);
    graph.change(&[data(1, 2), data(1, 3)], &[data(1, 2)]).unwrap();
    assert_eq!(graph, Graph::load(chain(&[1, 2, 3])).unwrap());
    graph.check();
}

#[test]
fn only_the_result_is_judged() {
    let mut graph = Graph::load(chain(&[1, 2, 3])).unwrap();
    let turned = [data(3, 2), data(2, 1)];
    graph.change(&chain(&[1, 2, 3]), &turned).unwrap();
    graph.check();
    assert_eq!(graph, Graph::load(turned).unwrap());
    let half = Refused::Cycle(vec![data(1, 2), data(2, 1)]);
    refused(&mut graph, &[data(3, 2)], &chain(&[1, 2, 3]), half);
}

#[test]
fn the_first_refusal_is_told() {
    let mut graph = Graph::load(chain(&[1, 2, 3])).unwrap();
    let added = [data(3, 1), data(7, 7), data(2, 3)];
    refused(&mut graph, &[data(9, 9)], &added, Refused::Absent(data(9, 9)));
    refused(&mut graph, &[], &added, Refused::Twice(data(2, 3)));
    refused(&mut graph, &[], &added[..2], Refused::Itself(data(7, 7)));
    let both = [Edge::new(3, 2, GpuSync), data(3, 1)];
    let cycle = Refused::Cycle(vec![data(3, 1), data(1, 2), data(2, 3)]);
    refused(&mut graph, &[], &both, cycle);
}

#[test]
fn a_cycle_is_the_shortest_with_the_smallest_pages() {
    let mut edges = chain(&[1, 30, 20, 2]);
    edges.extend(chain(&[1, 40, 2]));
    edges.extend([Edge::new(1, 35, Compiler), Edge::new(1, 35, Control), data(35, 2)]);
    let mut graph = Graph::load(edges).unwrap();
    let why = [Edge::new(2, 1, GpuSync), Edge::new(1, 35, Control), data(35, 2)];
    refused(&mut graph, &[], &[Edge::new(2, 1, GpuSync)], Refused::Cycle(why.to_vec()));
    graph.change(&[data(35, 2)], &[]).unwrap();
    let why = Refused::Cycle(vec![data(2, 1), data(1, 40), data(40, 2)]);
    refused(&mut graph, &[], &[data(2, 1)], why);
}

#[test]
fn a_load_tells_the_shortest_cycle_of_all() {
    let mut edges = chain(&[0, 6, 7, 8, 9, 6, 50]);
    edges.extend(chain(&[9, 31, 12, 40, 31]));
    edges.extend(chain(&[8, 11, 41, 32, 11]));
    assert_eq!(cycle(edges.clone()), chain(&[11, 41, 32, 11]));
    edges.push(Edge::new(40, 12, Control));
    assert_eq!(cycle(edges), [data(12, 40), Edge::new(40, 12, Control)]);
}

#[test]
fn a_run_without_forks_counts_by_its_smallest_page() {
    // Two ways of equal length from 5 to 6; the one with the smallest page begins with the larger.
    let mut edges = chain(&[5, 10, 11, 6]);
    edges.extend(chain(&[5, 12, 1, 6, 5]));
    assert_eq!(cycle(edges), chain(&[1, 6, 5, 12, 1]));
}

#[test]
fn a_search_that_is_cut_short_still_tells_a_cycle() {
    let mut edges = chain(&[9, 1, 2, 3, 4, 2]);
    edges.extend(chain(&[3, 9]));
    let limits = Limits { scans: 0, ..Limits::default() };
    let why = Graph::load_within(limits, edges.clone()).err();
    assert!(
        why == Some(Refused::Cycle(chain(&[1, 2, 3, 9, 1])))
            || why == Some(Refused::Cycle(chain(&[2, 3, 4, 2]))),
        "{why:?}"
    );
    edges.reverse();
    assert_eq!(Graph::load_within(limits, edges).err(), why);
}

#[test]
fn what_is_too_large_is_refused() {
    let load = |limits, ids: &[u64]| Graph::load_within(limits, chain(ids));
    assert_eq!(load(limits(3, 9), &[1, 2, 3, 4]), Err(Refused::TooMany));
    assert_eq!(load(limits(9, 2), &[1, 2, 3, 4]), Err(Refused::TooMany));
    let mut graph = load(limits(4, 3), &[1, 2, 3, 4]).unwrap();
    refused(&mut graph, &[], &[data(1, 3)], Refused::TooMany);
    refused(&mut graph, &[data(1, 2)], &[data(2, 5)], Refused::TooMany);
    refused(&mut graph, &[data(1, 2)], &[data(5, 6), data(1, 2)], Refused::TooMany);
    graph.change(&[data(1, 2)], &[]).unwrap();
    graph.change(&[], &[data(5, 2)]).unwrap();
    graph.check();
    assert_eq!((graph.nodes(), graph.len()), (4, 3));
}

#[test]
fn refusals_can_be_read() {
    let text = |refused: Refused| refused.to_string();
    assert_eq!(text(Refused::Itself(data(1, 1))), "page 1 would depend on itself (1 -data-> 1)");
    assert_eq!(text(Refused::Twice(data(1, 2))), "the edge 1 -data-> 2 is there or named twice");
    assert_eq!(text(Refused::Absent(data(1, 2))), "there is no edge 1 -data-> 2");
    assert_eq!(text(Refused::TooMany), "too many pages or edges for one graph");
    let cycle = Refused::Cycle(vec![data(3, 1), Edge::new(1, 3, GpuSync)]);
    assert_eq!(text(cycle), "cycle of 2 edges: 3 -data-> 1 -gpu_sync-> 3");
    let ids: Vec<_> = (0..100).chain([0]).collect();
    let long = text(Refused::Cycle(chain(&ids)));
    assert!(long.starts_with("cycle of 100 edges: 0 -data-> 1 -data-> "));
    assert!(long.contains("-> 7 -data-> ... -> 92 -data-> 93") && long.ends_with("99 -data-> 0"));
    assert_eq!(format!("{:?}", Graph::new()), "Graph { nodes: 0, edges: 0, .. }");
}
