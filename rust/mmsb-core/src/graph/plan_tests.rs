//! Plans of graphs small enough to be written down.

use super::Kind::{Compiler, Control, Data, GpuSync};
use super::{Edge, Graph, Kind, Link, Plan};

fn plan(edges: &[(u64, u64, Kind)]) -> Plan {
    Plan::compile(&Graph::load(edges.iter().map(|&(s, d, k)| Edge::new(s, d, k))).unwrap())
}

fn links(links: &[Link]) -> Vec<(u32, Kind)> {
    links.iter().map(|link| (link.to(), link.kind())).collect()
}

#[test]
fn nothing_makes_an_empty_plan() {
    let plan = plan(&[]);
    assert!(plan.is_empty());
    assert_eq!((plan.len(), plan.levels(), plan.range(0), plan.position(0)), (0, 0, 0..0, None));
}

#[test]
fn a_diamond_has_three_levels() {
    let plan = plan(&[(9, 5, Data), (9, 3, Control), (5, 1, Data), (3, 1, Data)]);
    let pages: Vec<_> = (0..plan.len()).map(|at| plan.page(at)).collect();
    assert_eq!(pages, [9, 3, 5, 1]);
    let ranges: Vec<_> = (0..plan.levels()).map(|level| plan.range(level)).collect();
    assert_eq!(ranges, [0..1, 1..3, 3..4]);
    assert_eq!((plan.range(3), plan.range(u32::MAX)), (4..4, 4..4));
    assert_eq!(links(plan.outs(0)), [(1, Control), (2, Data)]);
    assert_eq!(links(plan.ins(3)), [(1, Data), (2, Data)]);
    assert_eq!((plan.position(5), plan.position(4), plan.level(3)), (Some(2), None, 2));
}

#[test]
fn side_edges_make_no_level() {
    let plan = plan(&[(1, 2, GpuSync), (2, 3, Compiler), (4, 3, Data), (1, 3, GpuSync)]);
    let pages: Vec<_> = (0..plan.len()).map(|at| plan.page(at)).collect();
    assert_eq!((pages, plan.levels()), (vec![1, 2, 4, 3], 2));
    assert_eq!(links(plan.side(0)), [(1, GpuSync), (3, GpuSync)]);
    assert_eq!(links(plan.side(1)), [(3, Compiler)]);
    assert!(plan.outs(0).is_empty() && plan.ins(1).is_empty());
    assert_eq!(links(plan.ins(3)), [(2, Data)]);
}

#[test]
fn side_edges_alone_make_one_level() {
    let plan = plan(&[(2, 1, GpuSync), (3, 2, Compiler)]);
    assert_eq!((plan.levels(), plan.range(0)), (1, 0..3));
}

#[test]
fn edges_of_all_kinds_run_in_parallel() {
    let plan = plan(&[(1, 2, Compiler), (1, 2, Data), (1, 2, GpuSync), (1, 2, Control)]);
    assert_eq!(links(plan.outs(0)), [(1, Data), (1, Control)]);
    assert_eq!(links(plan.ins(1)), [(0, Data), (0, Control)]);
    assert_eq!(links(plan.side(0)), [(1, GpuSync), (1, Compiler)]);
}

#[test]
fn any_id_has_a_position() {
    let ids = [0, 1, 1 << 20, 1 << 32, u64::MAX - 1, u64::MAX];
    let plan = plan(&[(u64::MAX, 0, Data), (1, 1 << 32, Data), (u64::MAX - 1, 1 << 20, Data)]);
    assert_eq!(plan.len(), 6);
    for id in ids {
        assert_eq!(plan.position(id).map(|at| plan.page(at)), Some(id));
    }
    assert_eq!(plan.position(2), None);
}

#[test]
fn a_page_that_left_is_in_no_plan() {
    let (a, b) = (Edge::new(1, 2, Data), Edge::new(7, 8, GpuSync));
    let mut graph = Graph::load([a, b]).unwrap();
    graph.change(&[a], &[]).unwrap();
    assert_eq!(Plan::compile(&graph), plan(&[(7, 8, GpuSync)]));
    graph.change(&[b], &[]).unwrap();
    assert_eq!(Plan::compile(&graph), plan(&[]));
}

#[test]
fn the_words_users_write() {
    assert_eq!(Kind::ALL.map(Kind::name), ["data", "control", "gpu_sync", "compiler"]);
    assert_eq!(Kind::ALL.map(|kind| kind as u8), [0, 1, 2, 3]);
    assert_eq!(
        format!("{} {:?}", Edge::new(3, 4, GpuSync), Link::new(5, Control)),
        "3 -gpu_sync-> 4 5:control"
    );
}
