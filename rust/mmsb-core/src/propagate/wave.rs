//! One wave: each page whose inputs changed, once, behind its inputs.
//!
//! The order is that of the plan, so it depends on the graph only. What a page becomes is compared with what it was;
//! where they are equal the wave ends. A wave that fails leaves nothing: the commit is given back as a whole.

use super::compiled::Compiled;
use super::compiled::element_of;
use super::structure::{function_changed, node_of};
use super::{Call, Failure, Functions, Manner, function, title};
use crate::apply::{self, apply};
use crate::arena::Mem;
use crate::catalog::Desc;
use crate::delta::{Batch, Op, Ops};
use crate::diff::diff_ranges_at;
use crate::edit::Edit;
use crate::error::InGraph;
use crate::graph::{Edge, Form, Kind, Marks};
use crate::kernel::Scratch;
use crate::root::Root;
use crate::table::{self, Slot};
use crate::{Code, Error, Result, page};

const UNBOUND: &str = "its function is not registered in this process; register it with bus.derive, under the \
                       page's name";

/// What computing a page gives.
type Tried<T> = std::result::Result<T, Failure>;

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
    slots: Vec<(u64, Slot)>,
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
}

/// What is needed before a wave can go on.
enum Stop {
    /// It has come to its end.
    Done,
    /// The function of the page at a position has to be entered.
    Enter(u32),
}

impl Wave<'_, '_> {
    pub(super) fn run(&mut self) -> Result<()> {
        self.begin()?;
        let Stop::Enter(position) = self.go_on(false)? else { return Ok(()) };
        let page = self.compiled.plan.page(position);
        let Some(function) = self.function(page) else { return Ok(()) };
        let mut ran = Ok(());
        self.edit.let_go();
        function.enter(&mut || {
            self.compiled.due.set(position);
            self.compiled.data.set(position);
            ran = self.go_on(true).map(drop);
        });
        ran
    }

    fn slot(&self, page: u64) -> Option<Slot> {
        table::get(self.edit.mem(), self.edit.root.table, self.edit.root.height, page)
    }

    fn slot_before(&self, page: u64) -> Option<Slot> {
        table::get(self.edit.mem(), self.base.table, self.base.height, page)
    }

    fn function(&self, page: u64) -> Option<std::sync::Arc<dyn super::Function>> {
        let of_batch = self.batch.functions.iter().find(|(of, _)| *of == page);
        of_batch.map(|(_, function)| function).or_else(|| self.functions.get(&page)).cloned()
    }

    /// Finds what the wave begins with.
    fn begin(&mut self) -> Result<()> {
        self.compiled.begin();
        self.check()?;
        let mut touched = std::mem::take(&mut self.room.touched);
        touched.sort_unstable();
        touched.dedup();
        let begun = touched.iter().try_for_each(|&at| self.begin_at(at));
        self.room.touched = touched;
        begun?;
        if self.batch.manner == Manner::Settle {
            self.begin_with_marked();
        }
        Ok(())
    }

    /// Finds the positions of the pages that the commit's operations are about. A derived page is not written.
    pub(super) fn check(&mut self) -> Result<()> {
        let mut touched = std::mem::take(&mut self.room.touched);
        touched.clear();
        let looked = self.look_at_ops(&mut touched);
        self.room.touched = touched;
        looked
    }

    fn look_at_ops(&self, touched: &mut Vec<u32>) -> Result<()> {
        let mut ops = Ops::new(self.batch.ops());
        loop {
            while let Some(write) = ops.next_write().map_err(apply::malformed)? {
                self.touch(write.id, true, touched)?;
            }
            let Some(op) = ops.next() else { return Ok(()) };
            let op = op.map_err(apply::malformed)?;
            if let Some(id) = op.page() {
                self.touch(id, matches!(op, Op::Resize { .. }), touched)?;
            }
        }
    }

    #[inline]
    fn touch(&self, id: u64, writes: bool, touched: &mut Vec<u32>) -> Result<()> {
        let Some(position) = self.compiled.plan.position(id) else { return Ok(()) };
        if writes && self.compiled.step(position).form != Form::Link {
            let mem = self.edit.mem();
            let what = format!(
                "{} follows from its inputs; write those, or take it out of the graph",
                title(mem, &self.edit.root, id)
            );
            return Err(Error::new(Code::InvalidDelta, what));
        }
        if touched.last() != Some(&position) {
            touched.push(position);
        }
        Ok(())
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
        // Whoever writes a page that nobody computes says what it is now.
        if step.form == Form::Link && Desc::at(mem, slot.desc).marks() != Marks::default() {
            self.mark(id, Marks::default())?;
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

    /// Goes from page to page; without having entered only as far as to the first function.
    fn go_on(&mut self, entered: bool) -> Result<Stop> {
        while let Some(position) = self.compiled.due.pop_first() {
            let is_computed = self.compiled.data.take(position);
            let step = self.compiled.step(position);
            let id = self.compiled.plan.page(position);
            let Some(slot) = self.slot(id) else { continue };
            let marks = Desc::at(self.edit.mem(), slot.desc).marks();
            let is_put_off = step.deferred && self.batch.manner != Manner::Settle;
            if step.form == Form::Link || !is_computed || is_put_off {
                self.mark_stale(position, id, marks)?;
                continue;
            }
            if self.compiled.has_poison && self.has_poisoned_input(step) {
                self.poison(position, id, marks)?;
                continue;
            }
            if step.form == Form::Function && !entered && self.function(id).is_some() {
                return Ok(Stop::Enter(position));
            }
            let changed = match self.compute(position, id, &slot) {
                Ok(changed) => changed?,
                Err(failure) if step.poisons && !failure.fatal => {
                    self.poison(position, id, marks)?;
                    continue;
                }
                Err(failure) => return Err(self.failed(position, failure)),
            };
            if marks != Marks::default() {
                self.mark(id, Marks::default())?;
            }
            // Whoever was poisoned by it is not any more, whatever its bytes are.
            if changed || marks.poisoned {
                self.spread(position);
            }
        }
        Ok(Stop::Done)
    }

    fn has_poisoned_input(&self, step: super::compiled::Step) -> bool {
        let mem = self.edit.mem();
        self.compiled
            .inputs(step)
            .iter()
            .filter_map(|&input| self.slot(input))
            .any(|slot| Desc::at(mem, slot.desc).marks().poisoned)
    }

    fn mark_stale(&mut self, position: u32, id: u64, marks: Marks) -> Result<()> {
        // It was written by this very commit.
        let is_written = || {
            let is_changed = |slot| is_changed(self.edit.mem(), self.slot_before(id), &slot);
            self.compiled.step(position).form == Form::Link && self.slot(id).is_some_and(is_changed)
        };
        match marks.stale || is_written() {
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
        let from = self.batch.bytes();
        self.batch.mark(id, marks);
        self.apply(from)
    }

    /// Applies the operations that were added behind so many bytes.
    fn apply(&mut self, from: usize) -> Result<()> {
        self.batch.complete()?;
        apply(self.edit, &self.batch.ops()[from..]).map(drop)
    }

    /// Computes a page. Returns whether its bytes are others now.
    fn compute(&mut self, position: u32, id: u64, slot: &Slot) -> Tried<Result<bool>> {
        match self.compiled.step(position).form {
            Form::Native => {
                let mut out = std::mem::take(&mut self.room.out);
                let done = self.run_kernel(position, id, slot, &mut out);
                let put = done.map(|()| self.put(id, slot, &out));
                self.room.out = out;
                put
            }
            _ => self.call(position, id, slot),
        }
    }

    fn run_kernel(&mut self, position: u32, id: u64, slot: &Slot, out: &mut Vec<u8>) -> Tried<()> {
        if self.compiled.kernel(self.compiled.step(position)).is_none() {
            self.compile(position, id, slot)?;
        }
        let (mem, step) = (self.edit.mem(), self.compiled.step(position));
        let Some(kernel) = self.compiled.kernel(step) else {
            return Err(failure("it has no kernel"));
        };
        out.resize(slot.len as usize, 0);
        let inputs = self.compiled.inputs(step);
        let mut gathered = std::mem::take(&mut self.room.gathered);
        gathered.resize_with(gathered.len().max(inputs.len()), Vec::new);
        let mut args: Vec<&[u8]> = Vec::with_capacity(inputs.len());
        for (&input, room) in inputs.iter().zip(&mut gathered) {
            let Some(slot) = self.slot(input) else { return Err(failure("an input is not there")) };
            args.push(bytes_of(&mem, &slot, room));
        }
        let ran = kernel.run(&args, out, &mut self.room.scratch);
        drop(args);
        self.room.gathered = gathered;
        ran.map_err(|failed| failure(&failed.what))
    }

    fn compile(&mut self, position: u32, id: u64, slot: &Slot) -> Tried<()> {
        let mem = self.edit.mem();
        let Some(node) = node_of(&mem, slot.desc) else {
            return Err(failure("it has no expression"));
        };
        let mut args = Vec::with_capacity(node.inputs.len());
        for &input in &node.inputs {
            let Some(slot) = self.slot(input) else { return Err(failure("an input is not there")) };
            let desc = Desc::at(mem, slot.desc);
            let Some(element) = element_of(desc.dtype()) else {
                let what = format!(
                    "{} has elements that no expression takes ({}); copy it into a page of plain numbers",
                    title(mem, &self.edit.root, input),
                    desc.dtype()
                );
                return Err(failure(&what));
            };
            args.push((element, desc.shape().collect()));
        }
        self.compiled.compile(position, node.text, &args).map_err(|what| failure(&what))?;
        let Some(kernel) = self.compiled.kernel(self.compiled.step(position)) else {
            return Err(failure("it has no kernel"));
        };
        let desc = Desc::at(mem, slot.desc);
        let shape: Vec<u64> = desc.shape().collect();
        if element_of(desc.dtype()) != Some(kernel.element()) || shape != kernel.shape() {
            let dtype = desc.dtype().to_owned();
            let has = element_of(&dtype).map_or(dtype.as_str(), |element| element.name());
            let what = format!(
                "{:?} gives {} {:?}, and {} has {has} {shape:?}",
                node.text,
                kernel.element().name(),
                kernel.shape(),
                title(mem, &self.edit.root, id),
            );
            return Err(failure(&what));
        }
        Ok(())
    }

    /// What can be known of a function before it runs.
    fn check_function(&mut self, position: u32, id: u64, slot: &Slot) -> Result<()> {
        if self.compiled.step(position).form != Form::Native {
            return Ok(());
        }
        self.compile(position, id, slot)
            .map_err(|failure| Error::new(Code::Argument, failure.message))
    }

    fn call(&mut self, position: u32, id: u64, slot: &Slot) -> Tried<Result<bool>> {
        let Some(function) = self.function(id) else {
            return Err(failure(UNBOUND));
        };
        let mem = self.edit.mem();
        let mut slots = std::mem::take(&mut self.room.slots);
        slots.clear();
        for &input in self.compiled.inputs(self.compiled.step(position)) {
            let Some(slot) = self.slot(input) else { return Err(failure("an input is not there")) };
            slots.push((input, slot));
        }
        let call = Call {
            page: id,
            slot: *slot,
            inputs: &slots,
            mem,
            epoch: self.edit.epoch(),
            wave: self.serial,
        };
        let mut put = None;
        self.edit.let_go();
        let running = function::Running::begin(self.engine);
        let ran = function.compute(&call, &mut |bytes| put = Some(self.put(id, slot, bytes)));
        drop(running);
        self.room.slots = slots;
        ran?;
        put.ok_or_else(|| failure("it gave no bytes"))
    }

    /// Writes what a page is now where it differs from what it was. Returns whether it does.
    fn put(&mut self, id: u64, slot: &Slot, bytes: &[u8]) -> Result<bool> {
        assert_eq!(bytes.len() as u64, slot.len, "a page is computed as a whole");
        let mem = self.edit.mem();
        let itemsize = Desc::at(mem, slot.desc).itemsize().max(1) as usize;
        let from = self.batch.bytes();
        let ranges = &mut self.room.ranges;
        ranges.clear();
        page::parts(mem, slot, 0, slot.len, &mut |at, old| {
            let new = &bytes[at as usize..][..old.len()];
            if old != new {
                diff_ranges_at(old, new, at, slot.len, itemsize, ranges);
            }
        });
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Ok(false) };
        let (start, stop) = (first.0, last.1);
        // Many small changes cost more bytes apart than together.
        const APART: u64 = 16;
        let apart: u64 = ranges.iter().map(|range| range.1 - range.0 + APART).sum();
        if apart > stop - start {
            ranges.clear();
            ranges.push((start, stop));
        }
        for &(start, stop) in &*ranges {
            self.batch.write(id, start, &bytes[start as usize..stop as usize]);
        }
        self.apply(from)?;
        Ok(true)
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

/// The bytes of a page; of one that is scattered a copy.
fn bytes_of<'m>(mem: &'m Mem, slot: &Slot, room: &'m mut Vec<u8>) -> &'m [u8] {
    if slot.len == 0 {
        return &[];
    }
    match page::contiguous(*mem, slot, 0, slot.len) {
        Some(at) => mem.bytes(at, slot.len),
        None => {
            room.resize(slot.len as usize, 0);
            page::read(*mem, slot, 0, room);
            room
        }
    }
}

/// Whether a page has other bytes or another shape than before the commit.
fn is_changed(mem: Mem, before: Option<Slot>, slot: &Slot) -> bool {
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
