//! One wave: each page whose inputs changed, once, behind its inputs.
//!
//! The order is that of the plan, so it depends on the graph only. What a page becomes is compared with what it was;
//! where they are equal the wave ends. A wave that fails leaves nothing: the commit is given back as a whole.

mod ahead;
mod compute;

use std::sync::Arc;
use std::time::Duration;

use self::ahead::Ahead;
use super::compiled::{Compiled, Step};
use super::parallel::Threads;
use super::structure::function_changed;
use super::{Failure, Function, Functions, Manner, title};
use crate::apply::{self, apply};
use crate::arena::Mem;
use crate::catalog::Desc;
use crate::delta::{Batch, Op, Ops};
use crate::edit::Edit;
use crate::error::InGraph;
use crate::graph::{Edge, Form, Kind, Marks};
use crate::kernel::Scratch;
use crate::museum::{Defect, planted};
use crate::root::Root;
use crate::table::{self, Slot};
use crate::{Code, Error, Result, page};

const UNBOUND: &str = "its function is not registered in this process; register it with bus.derive, under the \
                       page's name";

/// What computing a page gives.
type Tried<T> = std::result::Result<T, Failure>;

/// Bytes that a write takes beside its data: many small changes cost more apart than together.
const APART: u64 = 16;
/// Bytes that each part of a room keeps for the next wave at most.
pub(super) const KEPT: usize = 32 << 20;
/// Inputs that need no memory of their own.
const FEW: usize = 6;

/// Memory that waves use again.
#[derive(Default)]
pub(super) struct Room {
    scratch: Scratch,
    out: Vec<u8>,
    /// Bytes of inputs that are not adjacent.
    gathered: Vec<Vec<u8>>,
    ranges: Vec<(u64, u64)>,
    /// Positions of the pages that the commit's own operations are about.
    touched: Vec<u32>,
    /// Those of them that are written.
    written: Vec<u32>,
    slots: Vec<(u64, Slot)>,
    level: Vec<u32>,
    ahead: Ahead,
}

impl Room {
    /// Gives memory of large pages back.
    pub(super) fn shrink(&mut self) {
        let all = self.gathered.iter_mut().chain([&mut self.out, &mut self.ahead.out]);
        all.filter(|bytes| bytes.capacity() > KEPT).for_each(|bytes| *bytes = Vec::new());
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let all = self.gathered.iter().chain([&self.out, &self.ahead.out]);
        all.map(Vec::capacity).sum()
    }
}

pub(super) struct Wave<'a, 'e> {
    pub(super) edit: &'a mut Edit<'e>,
    /// The state before the commit.
    pub(super) base: &'a Root,
    pub(super) batch: &'a mut Batch,
    pub(super) compiled: &'a mut Compiled,
    pub(super) functions: &'a Functions,
    pub(super) engine: usize,
    pub(super) serial: u64,
    pub(super) room: &'a mut Room,
    pub(super) threads: &'a Threads,
}

impl Wave<'_, '_> {
    pub(super) fn run(&mut self) -> Result<()> {
        self.begin()?;
        let Some(function) = self.go_on(false)? else { return Ok(()) };
        let mut ran = Ok(());
        self.edit.let_go();
        function.enter(&mut || ran = self.go_on(true).map(drop));
        ran
    }

    fn slot(&self, page: u64) -> Option<Slot> {
        table::find(self.edit, page)
    }

    fn slot_before(&self, page: u64) -> Option<Slot> {
        table::get(self.edit.mem(), self.base.table, self.base.height, page)
    }

    /// What computes a page: what this commit registers, or what is registered for the inputs that it has.
    fn function(&self, page: u64) -> Option<Arc<dyn Function>> {
        if let Some((_, function)) = self.batch.functions.iter().rfind(|(of, _)| *of == page) {
            return Some(Arc::clone(function));
        }
        let binding = self.functions.get(&page)?;
        let position = self.compiled.plan.position(page)?;
        let inputs = self.compiled.inputs(self.compiled.step(position));
        (*binding.inputs == *inputs || planted(Defect::BoundToAnything))
            .then(|| Arc::clone(&binding.function))
    }

    /// Finds what the wave begins with.
    fn begin(&mut self) -> Result<()> {
        self.compiled.begin();
        self.begin_unchanged()?;
        let touched = std::mem::take(&mut self.room.touched);
        let begun = touched.iter().try_for_each(|&at| self.begin_at(at));
        self.room.touched = touched;
        begun?;
        if self.batch.manner == Manner::Settle {
            self.begin_with_marked();
        }
        Ok(())
    }

    /// What a commit does that changes no byte. A derived page is not written; whoever writes another one, with
    /// whatever bytes, says that they are right.
    pub(super) fn begin_unchanged(&mut self) -> Result<()> {
        let Room { touched, written, .. } = &mut *self.room;
        touched.clear();
        written.clear();
        self.look_at_ops()?;
        let Room { touched, written, .. } = &mut *self.room;
        for positions in [&mut *touched, written] {
            positions.sort_unstable();
            positions.dedup();
        }
        let touched = std::mem::take(touched);
        let done = touched.iter().try_for_each(|&position| self.freshen(position));
        self.room.touched = touched;
        done
    }

    /// Takes the marks of a page that nobody computes, if it is written.
    fn freshen(&mut self, position: u32) -> Result<()> {
        let id = self.compiled.plan.page(position);
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let is_marked = Desc::at(self.edit.mem(), slot.desc).marks() != Marks::default();
        match is_marked && self.is_written(position, id, &slot) {
            true => self.mark(id, Marks::default()),
            false => Ok(()),
        }
    }

    /// Whether nobody computes the page, and the commit itself says what it is.
    fn is_written(&self, position: u32, id: u64, slot: &Slot) -> bool {
        self.compiled.step(position).form == Form::Link
            && (self.room.written.binary_search(&position).is_ok()
                || is_changed(self.edit.mem(), self.slot_before(id), slot))
    }

    /// Finds the positions of the pages that the commit's operations are about.
    fn look_at_ops(&mut self) -> Result<()> {
        let Wave { batch, compiled, room, edit, .. } = &mut *self;
        let mut ops = Ops::new(batch.ops());
        // Whether it needs a page that is not derived, and whether it names bytes of it.
        let mut touch = |id, needs, writes| -> Result<()> {
            let Some(position) = compiled.plan.position(id) else { return Ok(()) };
            if needs && compiled.step(position).form != Form::Link {
                return Err(not_written(&title(edit.mem(), &edit.root, id)));
            }
            if room.touched.last() != Some(&position) {
                room.touched.push(position);
            }
            if writes && room.written.last() != Some(&position) {
                room.written.push(position);
            }
            Ok(())
        };
        loop {
            while let Some(write) = ops.next_write().map_err(apply::malformed)? {
                touch(write.id, true, !write.data.is_empty())?;
            }
            let Some(op) = ops.next() else { return Ok(()) };
            let op = op.map_err(apply::malformed)?;
            if let Some(id) = op.page() {
                touch(id, matches!(op, Op::Resize { .. }), false)?;
            }
        }
    }

    /// What follows from what the commit itself did to a page.
    fn begin_at(&mut self, position: u32) -> Result<()> {
        let mem = self.edit.mem();
        let id = self.compiled.plan.page(position);
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let before = self.slot_before(id);
        let step = self.compiled.step(position);
        let is_as_before = before.is_some_and(|before| before.desc == slot.desc);
        if step.form != Form::Link
            && !is_as_before
            && function_changed(mem, before.map(|slot| slot.desc), slot.desc)
        {
            self.check_function(position, id, &slot)?;
            self.compiled.due.set(position);
            self.compiled.data.set(position);
        }
        if !is_changed(mem, before, &slot) {
            return Ok(());
        }
        if !has_shape_of(mem, before, &slot) {
            self.reshaped(position);
        }
        self.spread(position);
        Ok(())
    }

    /// Kernels are compiled for shapes.
    fn reshaped(&mut self, position: u32) {
        let outs: Vec<u32> =
            self.compiled.plan.outs(position).iter().map(|link| link.to()).collect();
        outs.into_iter().for_each(|to| self.compiled.forget_kernel(to));
    }

    /// The bytes of a page are others: those behind it are due.
    #[inline]
    fn spread(&mut self, position: u32) {
        let Compiled { plan, due, data, .. } = &mut *self.compiled;
        for link in plan.side(position) {
            let page = plan.page(link.to());
            match link.kind() {
                Kind::GpuSync => self.batch.reporter.add(page, |report| &mut report.gpu_sync),
                _ => self.batch.reporter.add(page, |report| &mut report.compiler),
            }
        }
        for link in plan.outs(position) {
            due.set(link.to());
            if link.kind() == Kind::Data {
                data.set(link.to());
            }
        }
    }

    fn begin_with_marked(&mut self) {
        let mem = self.edit.mem();
        for position in 0..self.compiled.plan.len() {
            let slot = self.slot(self.compiled.plan.page(position));
            let marks = slot.map(|slot| Desc::at(mem, slot.desc).marks()).unwrap_or_default();
            if marks != Marks::default() && self.compiled.step(position).form != Form::Link {
                self.compiled.due.set(position);
                self.compiled.data.set(position);
            }
        }
    }

    /// Goes from level to level; without having entered only as far as to the first one with a function, and gives
    /// that.
    fn go_on(&mut self, entered: bool) -> Result<Option<Arc<dyn Function>>> {
        let mut level = std::mem::take(&mut self.room.level);
        let mut ahead = std::mem::take(&mut self.room.ahead);
        let mut stop = Ok(None);
        while let (Ok(None), Some(first)) = (&stop, self.compiled.due.pop_first()) {
            let Compiled { plan, due, .. } = &mut *self.compiled;
            level.clear();
            level.push(first);
            due.take_range(plan.range(plan.level(first)), &mut level);
            if !entered && let Some(function) = self.first_function(&level) {
                level.iter().for_each(|&position| self.compiled.due.set(position));
                stop = Ok(Some(function));
                break;
            }
            let visited = self.visit_all(&level, &mut ahead);
            ahead.clear();
            stop = visited.map(|()| None);
        }
        (self.room.level, self.room.ahead) = (level, ahead);
        stop
    }

    fn visit_all(&mut self, level: &[u32], ahead: &mut Ahead) -> Result<()> {
        if level.len() > 1 {
            self.look_ahead(level, ahead)?;
        }
        level.iter().try_for_each(|&position| self.visit(position, ahead))
    }

    /// The first function of a level that will certainly run.
    fn first_function(&self, level: &[u32]) -> Option<Arc<dyn Function>> {
        if !self.compiled.has_functions {
            return None;
        }
        let mut due = level.iter().filter(|&&position| self.is_due(position, Form::Function));
        due.find_map(|&position| self.function(self.compiled.plan.page(position)))
    }

    /// Whether a page of this form will certainly be computed in this wave.
    fn is_due(&self, position: u32, form: Form) -> bool {
        let step = self.compiled.step(position);
        step.form == form
            && self.compiled.data.has(position)
            && !self.is_put_off(step)
            && (!self.compiled.has_poison || !self.has_poisoned_input(step))
    }

    fn is_put_off(&self, step: Step) -> bool {
        step.deferred && self.batch.manner != Manner::Settle
    }

    fn visit(&mut self, position: u32, ahead: &mut Ahead) -> Result<()> {
        let is_computed = self.compiled.data.take(position);
        let step = self.compiled.step(position);
        let id = self.compiled.plan.page(position);
        let Some(slot) = self.slot(id) else { return Ok(()) };
        let marks = Desc::at(self.edit.mem(), slot.desc).marks();
        if step.form == Form::Link || !is_computed || self.is_put_off(step) {
            return self.mark_stale(position, id, marks);
        }
        if self.compiled.has_poison && self.has_poisoned_input(step) {
            return self.poison(position, id, marks);
        }
        let since = self.batch.reporter.clock();
        let (computed, took) = match ahead.take(position) {
            Some((done, took)) => (done.map(|out| self.put(id, &slot, out)), took),
            None => (self.compute(position, id, &slot), Duration::ZERO),
        };
        let changed = match computed {
            Ok(changed) => changed?,
            Err(failure) if step.poisons && !failure.fatal => {
                return self.poison(position, id, marks);
            }
            Err(failure) => return Err(self.failed(position, failure)),
        };
        self.batch.reporter.computed(id, changed, since.map(|since| since.elapsed() + took));
        if marks != Marks::default() {
            self.mark(id, Marks::default())?;
        }
        // Whoever was poisoned by it is not any more, whatever its bytes are.
        if changed || marks.poisoned || planted(Defect::NothingCutOff) {
            self.spread(position);
        }
        if planted(Defect::ComputedAtOnce) {
            let behind: Vec<u32> =
                self.compiled.plan.outs(position).iter().map(|link| link.to()).collect();
            behind.into_iter().try_for_each(|to| self.visit(to, ahead))?;
        }
        Ok(())
    }

    fn has_poisoned_input(&self, step: Step) -> bool {
        let mem = self.edit.mem();
        self.compiled
            .inputs(step)
            .iter()
            .filter_map(|&input| self.slot(input))
            .any(|slot| Desc::at(mem, slot.desc).marks().poisoned)
    }

    fn mark_stale(&mut self, position: u32, id: u64, marks: Marks) -> Result<()> {
        let is_written = || self.slot(id).is_some_and(|slot| self.is_written(position, id, &slot));
        match marks.stale || is_written() || planted(Defect::StaleForgotten) {
            true => Ok(()),
            false => self.mark(id, Marks { stale: true, ..marks }),
        }
    }

    fn poison(&mut self, position: u32, id: u64, marks: Marks) -> Result<()> {
        self.compiled.has_poison = true;
        let poisoned = Marks { stale: false, poisoned: true };
        if marks != poisoned {
            self.mark(id, poisoned)?;
        }
        if !marks.poisoned {
            self.spread(position);
        }
        Ok(())
    }

    fn mark(&mut self, id: u64, marks: Marks) -> Result<()> {
        if marks.stale {
            self.batch.reporter.add(id, |report| &mut report.stale);
        }
        if marks.poisoned {
            self.batch.reporter.add(id, |report| &mut report.poisoned);
        }
        let from = self.batch.bytes();
        self.batch.mark(id, marks);
        self.apply(from)
    }

    /// Applies the operations that were added behind so many bytes.
    fn apply(&mut self, from: usize) -> Result<()> {
        self.batch.complete()?;
        apply(self.edit, &self.batch.ops()[from..]).map(drop)
    }

    /// A page could not be computed: the whole commit fails.
    fn failed(&self, position: u32, failure: Failure) -> Error {
        let (mem, root) = (self.edit.mem(), &self.edit.root);
        let path = self.path_to(position);
        let way = path.first().map_or(String::new(), |edge| {
            let titles = path.iter().map(|edge| title(mem, root, edge.dst));
            let all: Vec<String> =
                std::iter::once(title(mem, root, edge.src)).chain(titles).collect();
            format!(" (because of {})", all.join(" -> "))
        });
        let id = self.compiled.plan.page(position);
        let what = format!(
            "{} could not be computed: {}{way}; nothing was committed",
            title(mem, root, id),
            failure.message
        );
        let mut error = Error::new(Code::Propagation, what);
        error.detail.graph = Some(Box::new(InGraph { page: Some(id), path, cause: failure.cause }));
        error
    }

    /// The edges from what the commit changed to a page, by way of the first input that changed.
    fn path_to(&self, position: u32) -> Vec<Edge> {
        let changed = |page| self.slot(page).is_some_and(|slot| slot.epoch == self.edit.epoch());
        let (mut at, mut path) = (position, Vec::new());
        loop {
            let dst = self.compiled.plan.page(at);
            let inputs = self.compiled.inputs(self.compiled.step(at));
            let Some(&src) = inputs.iter().find(|&&input| changed(input)) else { break };
            path.push(Edge { src, dst, kind: Kind::Data });
            let Some(next) = self.compiled.plan.position(src) else { break };
            at = next;
        }
        path.reverse();
        path
    }
}

#[cold]
fn not_written(title: &str) -> Error {
    let what = format!("{title} follows from its inputs; write those, or take it out of the graph");
    Error::new(Code::InvalidDelta, what)
}

/// Whether a page has other bytes or another shape than before the commit.
pub(super) fn is_changed(mem: Mem, before: Option<Slot>, slot: &Slot) -> bool {
    !has_shape_of(mem, before, slot)
        || !before.is_some_and(|before| page::same_range(mem, &before, slot, 0, slot.len))
}

fn has_shape_of(mem: Mem, before: Option<Slot>, slot: &Slot) -> bool {
    before.is_some_and(|before| {
        before.len == slot.len
            && (before.desc == slot.desc
                || Desc::at(mem, before.desc).shape().eq(Desc::at(mem, slot.desc).shape()))
    })
}

fn failure(what: &str) -> Failure {
    Failure { message: what.to_owned(), cause: None, fatal: false }
}
