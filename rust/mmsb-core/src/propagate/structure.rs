//! The structural changes of a commit, and what holds of a graph.

use std::collections::BTreeSet;

use super::title;
use super::wave::is_changed;
use crate::apply::{malformed, no_page};
use crate::arena::Mem;
use crate::catalog::Desc;
use crate::delta::{Batch, Op, Ops};
use crate::edit::Edit;
use crate::error::InGraph;
use crate::graph::{Edge, Graph, Kind, Marks, Node, Refused};
use crate::root::Root;
use crate::table;
use crate::{Code, Error, Result};

/// The place in the graph that a page has in a state.
fn node<'m>(mem: &'m Mem, root: &Root, id: u64) -> Result<Option<Node<'m>>> {
    let Some(slot) = table::get(*mem, root.table, root.height, id) else { return Ok(None) };
    read(mem, slot.desc)
}

fn read(mem: &Mem, desc: u64) -> Result<Option<Node<'_>>> {
    match Desc::at(*mem, desc).node_in(mem) {
        [] => Ok(None),
        node => Node::decode(node).map(Some).map_err(malformed),
    }
}

/// The place in the graph that a page's record gives it; it was read when it was made.
pub(super) fn node_of(mem: &Mem, desc: u64) -> Option<Node<'_>> {
    read(mem, desc).unwrap_or(None)
}

/// The graph of a state.
pub(crate) fn load(mem: Mem, root: &Root) -> Result<Graph> {
    if root.nodes == 0 {
        return Ok(Graph::default());
    }
    let (mut edges, mut wrong) = (Vec::new(), None);
    table::walk(mem, root.table, root.height, &mut |id, slot| match read(&mem, slot.desc) {
        Ok(node) => edges.extend(node.iter().flat_map(|node| node.edges(id))),
        Err(error) => wrong = Some(error),
    });
    if let Some(error) = wrong {
        return Err(error);
    }
    check_sources(mem, root, &edges)?;
    Graph::load(edges).map_err(|refused| explain(mem, root, refused))
}

fn check_sources(mem: Mem, root: &Root, edges: &[Edge]) -> Result<()> {
    let is_there = |id| table::get(mem, root.table, root.height, id).is_some();
    match edges.iter().find(|edge| !is_there(edge.src)) {
        None => Ok(()),
        Some(edge) => {
            let mut error = no_page(edge.src);
            error.message.push_str(&format!(", which {} follows from", title(mem, root, edge.dst)));
            Err(error)
        }
    }
}

/// Changes the graph as the commit changed its pages. Returns the edges removed and added, if a page got another place
/// in it.
pub(super) fn follow(
    graph: &mut Graph,
    edit: &Edit<'_>,
    base: &Root,
    batch: &Batch,
) -> Result<Option<(Vec<Edge>, Vec<Edge>)>> {
    let (mem, root) = (edit.mem(), &edit.root);
    let (mut touched, mut deleted) = (BTreeSet::new(), BTreeSet::new());
    for op in Ops::new(batch.ops()) {
        match op.map_err(malformed)? {
            Op::Node { id, .. } => {
                touched.insert(id);
            }
            Op::Delete { id } => {
                touched.insert(id);
                deleted.insert(id);
            }
            _ => {}
        }
    }
    let (mut removed, mut added, mut has_new_place) = (Vec::new(), Vec::new(), false);
    for id in touched {
        let (was, is) = (node(&mem, base, id)?, node(&mem, root, id)?);
        has_new_place |= was != is;
        let edges = |node: Option<Node<'_>>| -> BTreeSet<Edge> {
            node.iter().flat_map(|node| node.edges(id)).collect()
        };
        let (was, is) = (edges(was), edges(is));
        removed.extend(was.difference(&is));
        added.extend(is.difference(&was));
    }
    check_sources(mem, root, &added)?;
    graph.change(&removed, &added).map_err(|refused| explain(mem, root, refused))?;
    let is_gone = |id| table::get(mem, root.table, root.height, id).is_none();
    let user = deleted
        .into_iter()
        .filter(|&id| is_gone(id))
        .find_map(|id| graph.outs(id).next().map(|(dst, kind)| Edge { src: id, dst, kind }));
    if let Some(Edge { src, dst, .. }) = user {
        let undone = graph.change(&added, &removed);
        assert!(undone.is_ok(), "the graph was as it is taken back to");
        return Err(Error::new(
            Code::Argument,
            format!(
                "{} follows from {}, which would be deleted; delete both, or give the first another place in the graph",
                title(mem, root, dst),
                title(mem, base, src),
            ),
        ));
    }
    Ok(has_new_place.then_some((removed, added)))
}

/// The part of the graph that a commit reaches, if that is at most one page from which nothing follows. A wave of one
/// page is the same in every order, so it needs no plan of the whole graph: pages may be derived one by one.
pub(super) fn reached_alone(
    graph: &Graph,
    edit: &Edit<'_>,
    base: &Root,
    batch: &Batch,
) -> Option<Graph> {
    let mem = edit.mem();
    let mut reached = None;
    let mut touched: BTreeSet<u64> =
        Ops::new(batch.ops()).filter_map(|op| op.ok()?.page()).collect();
    for &id in &touched {
        let Some(slot) = table::find(edit, id) else { continue };
        if Desc::at(mem, slot.desc).marks() != Marks::default() {
            return None;
        }
        let before = table::get(mem, base.table, base.height, id);
        let is_derived = node_of(&mem, slot.desc).is_some_and(|node| node.is_derived());
        let is_due = is_derived && function_changed(mem, before.map(|slot| slot.desc), slot.desc);
        let is_changed = is_changed(mem, before, &slot);
        let behind = graph.outs(id).filter(|_| is_changed).map(|(dst, _)| dst);
        for page in is_due.then_some(id).into_iter().chain(behind) {
            if *reached.get_or_insert(page) != page {
                return None;
            }
        }
    }
    if reached.is_some_and(|page| graph.outs(page).next().is_some()) {
        return None;
    }
    touched.extend(reached);
    let into = |dst| graph.ins(dst).map(move |(src, kind)| Edge { src, dst, kind });
    Graph::load(touched.into_iter().flat_map(into)).ok()
}

/// Says which copies and what compiled code are old after a commit that is not followed by a wave.
pub(super) fn report_links(graph: &Graph, edit: &Edit<'_>, batch: &mut Batch) -> Result<()> {
    let (mem, root) = (edit.mem(), &edit.root);
    let mut changed = BTreeSet::new();
    for op in Ops::new(batch.ops()) {
        let page = op.map_err(malformed)?.page();
        let slot = page.and_then(|id| table::get(mem, root.table, root.height, id));
        changed.extend(page.filter(|_| slot.is_some_and(|slot| slot.epoch == root.epoch)));
    }
    for (dst, kind) in changed.into_iter().flat_map(|id| graph.outs(id)) {
        match kind {
            Kind::GpuSync => batch.reporter.add(dst, |report| &mut report.gpu_sync),
            Kind::Compiler => batch.reporter.add(dst, |report| &mut report.compiler),
            Kind::Data | Kind::Control => {}
        }
    }
    Ok(())
}

fn explain(mem: Mem, root: &Root, refused: Refused) -> Error {
    let name = |id| title(mem, root, id);
    match refused {
        Refused::Cycle(path) => {
            let mut text = path.first().map_or(String::new(), |edge| name(edge.src));
            for edge in &path {
                text.push_str(&format!(" -{}-> {}", edge.kind.name(), name(edge.dst)));
            }
            let what = format!("pages would follow from each other in a circle: {text}");
            circle(what, path)
        }
        Refused::Itself(edge) => {
            let what =
                format!("{} would follow from itself ({})", name(edge.src), edge.kind.name());
            circle(what, vec![edge])
        }
        other => {
            Error::new(Code::Internal, format!("the graph is not that of the pages: {other:?}"))
        }
    }
}

fn circle(what: String, path: Vec<Edge>) -> Error {
    let mut error = Error::new(Code::GraphCycle, what);
    error.detail.graph = Some(Box::new(InGraph { page: None, path, cause: None }));
    error
}

/// Whether another function computes a page than before, or the same from other inputs.
pub(super) fn function_changed(mem: Mem, was: Option<u64>, is: u64) -> bool {
    let of = |desc| {
        node_of(&mem, desc).filter(Node::is_derived).map(|node| Node { links: Vec::new(), ..node })
    };
    let was = was.filter(|&was| was != is);
    match was {
        Some(was) => of(was) != of(is),
        None => true,
    }
}
