//! Propagation: what follows from a commit is part of it.
//!
//! A commit's own operations have been applied when this begins. First the graph follows its structural changes, and
//! is judged by its result: no circle, no input that is missing. Then a *wave* goes through the pages whose inputs
//! changed, each once and behind its inputs, and adds what they become to the batch as ordinary writes. So the log has
//! it, and nothing that replays a log needs to know of any of this.
//!
//! The working graph is that of the newest sequenced state. It is kept up with commits, and taken back with those
//! that fail; a plan is compiled from it when a wave needs one.

mod compiled;
mod function;
mod parallel;
mod report;
mod structure;
#[cfg(test)]
mod tests;
mod wave;

use std::fmt;

pub use function::{Argument, Call, Cause, Failure, Function};
pub(crate) use function::{Binding, Functions, check_reentrancy, check_reentrancy_of};
pub use report::Followed;
pub(crate) use report::Reporter;
pub(crate) use structure::load;

use self::compiled::Compiled;
use self::parallel::Threads;
use self::wave::Wave;
use crate::arena::Mem;
use crate::catalog::Desc;
use crate::delta::Batch;
use crate::edit::Edit;
use crate::graph::{Edge, Form, Graph};
use crate::museum::{Defect, planted};
use crate::root::Root;
use crate::table;
use crate::{Code, Error, Result};

/// The working graph of a bus.
#[derive(Default)]
pub(crate) struct Propagation {
    /// None before the first commit that has to do with it.
    graph: Option<Graph>,
    compiled: Option<Compiled>,
    /// What the commit under way did to the graph: edges removed and added.
    done: Option<(Vec<Edge>, Vec<Edge>)>,
    /// Waves so far.
    waves: u64,
    room: wave::Room,
    threads: Threads,
}

impl fmt::Debug for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Propagation").field("waves", &self.waves).finish_non_exhaustive()
    }
}

/// What a commit is, for those pages that follow from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Manner {
    /// A change, from which others follow.
    #[default]
    Change,
    /// It makes a whole state, in which everything follows already.
    AsIs,
    /// What is stale is computed.
    Settle,
}

impl Propagation {
    /// How many threads may compute pages of one level side by side; without a number, as many as the machine runs.
    pub(crate) fn set_threads(&mut self, most: Option<usize>) {
        self.threads = Threads::new(most);
    }

    /// Brings the working graph to a state that is not the one before plus a commit.
    pub(crate) fn load(&mut self, mem: Mem, root: &Root) -> Result<()> {
        self.graph = Some(structure::load(mem, root)?);
        self.compiled = None;
        Ok(())
    }

    /// Adds to the commit what follows from it. Returns whether there was anything; there is nothing without a change,
    /// but what is refused is refused all the same.
    pub(crate) fn follow(
        &mut self,
        changed: bool,
        edit: &mut Edit<'_>,
        base: &Root,
        batch: &mut Batch,
        functions: &Functions,
        engine: usize,
    ) -> Result<bool> {
        assert_eq!(edit.root.epoch, base.epoch + 1, "what follows is of the next epoch");
        self.undo();
        batch.reporter.begin();
        let graph = match &mut self.graph {
            Some(graph) => graph,
            none => none.insert(structure::load(edit.mem(), base)?),
        };
        if let Some(done) = structure::follow(graph, edit, base, batch)? {
            self.done = Some(done);
            self.compiled = None;
        }
        if batch.manner == Manner::AsIs {
            // Whatever shapes kernels were compiled for, they may be others now.
            self.compiled = None;
            structure::report_links(graph, edit, batch)?;
            return Ok(false);
        }
        let is_edit = self.done.is_some() && batch.manner == Manner::Change;
        let alone = is_edit.then(|| structure::reached_alone(graph, edit, base, batch)).flatten();
        let mut of_alone = None;
        let place = if alone.is_some() { &mut of_alone } else { &mut self.compiled };
        let graph = alone.as_ref().unwrap_or(graph);
        let compiled = place.get_or_insert_with(|| Compiled::new(edit.mem(), &edit.root, graph));
        self.waves += 1;
        let before = batch.len();
        let mut wave = Wave {
            edit,
            base,
            batch,
            compiled,
            functions,
            engine,
            serial: self.waves,
            room: &mut self.room,
            threads: &self.threads,
        };
        let ran = if changed || wave.batch.manner == Manner::Settle {
            wave.run()
        } else {
            wave.begin_unchanged()
        };
        if ran.is_err() {
            compiled.give_up();
        }
        self.room.shrink();
        ran?;
        Ok(batch.len() > before)
    }

    /// The commit under way did not come about.
    pub(crate) fn undo(&mut self) {
        let Some((removed, added)) = self.done.take() else { return };
        if planted(Defect::GraphNotTakenBack) {
            return;
        }
        self.compiled = None;
        let undone = self.graph.as_mut().map(|graph| graph.change(&added, &removed));
        assert!(matches!(undone, Some(Ok(()))), "the graph was as it is taken back to");
    }

    /// The commit under way came about.
    #[inline]
    pub(crate) fn keep(&mut self) {
        self.done = None;
    }
}

/// The variables of an expression, in the order of their first use.
pub fn expression_variables(text: &str) -> Result<Vec<String>> {
    crate::kernel::variables(text).map_err(|fault| compiled::argument(text, &fault))
}

/// Element type and shape of what an expression gives for variables of these, in the order of their first use.
pub fn expression_type(text: &str, args: &[(String, Vec<u64>)]) -> Result<(String, Vec<u64>)> {
    let mut typed = Vec::with_capacity(args.len());
    for (dtype, shape) in args {
        let Some(element) = compiled::element_of(dtype) else {
            let what = format!(
                "no expression takes elements of {dtype}; copy them into a page of plain numbers"
            );
            return Err(Error::new(Code::Argument, what));
        };
        typed.push((element, shape.clone()));
    }
    let kernel =
        compiled::compile(text, &typed).map_err(|what| Error::new(Code::Argument, what))?;
    Ok((compiled::dtype_of(kernel.element()).to_owned(), kernel.shape().to_vec()))
}

/// The inputs of a page that a function computes.
pub(crate) fn inputs_of(mem: Mem, root: &Root, page: u64) -> Option<Box<[u64]>> {
    let slot = table::get(mem, root.table, root.height, page)?;
    let node = structure::node_of(&mem, slot.desc)?;
    (node.form == Form::Function).then_some(node.inputs.into())
}

/// A page as people know it.
fn title(mem: Mem, root: &Root, id: u64) -> String {
    match table::get(mem, root.table, root.height, id).map(|slot| Desc::at(mem, slot.desc)) {
        Some(desc) if !desc.name().is_empty() => format!("page {id} {:?}", desc.name()),
        _ => format!("page {id}"),
    }
}
