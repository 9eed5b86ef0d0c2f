//! What of a level is computed before its pages are visited: kernels by several threads, and functions that compute
//! many pages together.
//!
//! The pages of a level depend on nothing of each other, so it does not matter when they are computed. What comes of
//! it is looked at in the order of the plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Tried, Wave, failure};
use crate::graph::Form;
use crate::kernel::Kernel;
use crate::propagate::parallel::Task;
use crate::propagate::{Call, Function, function};
use crate::table::Slot;
use crate::{Result, page};

/// What pages of a level have been given already.
#[derive(Default)]
pub(super) struct Ahead {
    /// Bytes of earlier levels are overwritten.
    pub(super) out: Vec<u8>,
    used: usize,
    /// In the order of their positions.
    given: Vec<Given>,
    next: usize,
}

/// What the page at a position has been given.
struct Given {
    position: u32,
    /// Where in `out` its bytes are.
    start: usize,
    len: usize,
    done: Tried<()>,
    took: Duration,
}

/// Pages that one function computes together.
struct Stack {
    function: Arc<dyn Function>,
    /// Places in the list of what is due.
    members: Vec<usize>,
}

impl Ahead {
    /// What a position was given, and how long that took. Positions are asked for in their order.
    pub(super) fn take(&mut self, position: u32) -> Option<(Tried<&[u8]>, Duration)> {
        let given = self.given.get_mut(self.next).filter(|given| given.position == position)?;
        self.next += 1;
        let done = std::mem::replace(&mut given.done, Ok(()));
        let bytes = &self.out[given.start..given.start + given.len];
        Some((done.map(|()| bytes), given.took))
    }

    pub(super) fn clear(&mut self) {
        self.given.clear();
        (self.used, self.next) = (0, 0);
    }

    /// Takes room for the bytes of a page.
    fn give(&mut self, position: u32, len: usize) {
        let start = self.used;
        self.used += len;
        if self.out.len() < self.used {
            self.out.resize(self.used, 0);
        }
        self.given.push(Given { position, start, len, done: Ok(()), took: Duration::ZERO });
    }
}

impl Wave<'_, '_> {
    /// Computes what of a level is better computed together.
    pub(super) fn look_ahead(&mut self, level: &[u32], ahead: &mut Ahead) -> Result<()> {
        self.run_kernels(level, ahead);
        if self.compiled.has_functions {
            self.call_stacks(level, ahead)?;
            ahead.given.sort_by_key(|given| given.position);
        }
        Ok(())
    }

    /// The kernel of a position that will certainly be run in this wave.
    fn due_kernel(&self, position: u32) -> Option<&Kernel> {
        let is_due = self.is_due(position, Form::Native);
        self.compiled.kernel(self.compiled.step(position)).filter(|_| is_due)
    }

    /// Runs kernels by several threads, if there is enough to do.
    fn run_kernels(&mut self, level: &[u32], ahead: &mut Ahead) {
        let efforts = level.iter().filter_map(|&at| self.due_kernel(at)).map(Kernel::effort);
        let effort = efforts.fold(0, |all: u64, effort| all.saturating_add(effort));
        if !self.threads.are_worth(effort) {
            return;
        }
        let since = self.batch.reporter.clock();
        let mem = self.edit.mem();
        let mut ready = Vec::new();
        for &position in level {
            let Some(kernel) = self.due_kernel(position) else { continue };
            let slot = self.slot(self.compiled.plan.page(position));
            let inputs = self.compiled.inputs(self.compiled.step(position));
            let adjacent = |&input: &u64| {
                let slot = self.slot(input)?;
                let at = page::contiguous(mem, &slot, 0, slot.len).filter(|_| slot.len > 0);
                at.map(|at| mem.bytes(at, slot.len))
            };
            // What is scattered is gathered when its turn comes.
            let inputs: Option<Vec<&[u8]>> = inputs.iter().map(adjacent).collect();
            if let Some((slot, inputs)) = slot.zip(inputs) {
                ahead.give(position, slot.len as usize);
                ready.push((kernel, inputs, slot.len as usize));
            }
        }
        let (mut rest, mut tasks) = (&mut ahead.out[..], Vec::with_capacity(ready.len()));
        for (kernel, inputs, len) in ready {
            let (out, behind) = rest.split_at_mut(len);
            rest = behind;
            tasks.push(Task { kernel, inputs, out, done: Ok(()) });
        }
        self.threads.run(&mut tasks);
        let took =
            since.map_or(Duration::ZERO, |since| since.elapsed() / tasks.len().max(1) as u32);
        for (given, task) in ahead.given.iter_mut().zip(tasks) {
            given.done = task.done.map_err(|failed| failure(&failed.what));
            given.took = took;
        }
    }

    /// Calls functions that compute many pages together. Those whose call failed are left to be computed alone, which
    /// tells which of them fails.
    fn call_stacks(&mut self, level: &[u32], ahead: &mut Ahead) -> Result<()> {
        let (due, slots) = self.stackable(level);
        let (mem, epoch, wave) = (self.edit.mem(), self.edit.epoch(), self.serial);
        let mut from = 0;
        let calls: Vec<Call<'_>> = due
            .iter()
            .map(|due| {
                let inputs = &slots[from..due.inputs_end];
                from = due.inputs_end;
                Call { page: due.page, slot: due.slot, inputs, mem, epoch, wave }
            })
            .collect();
        for stack in stacks(&due, &calls) {
            let since = self.batch.reporter.clock();
            let first = ahead.given.len();
            for &member in &stack.members {
                ahead.give(due[member].position, due[member].slot.len as usize);
            }
            let Ahead { out, given, .. } = &mut *ahead;
            let given = &mut given[first..];
            let members: Vec<Call<'_>> = stack.members.iter().map(|&n| calls[n].clone()).collect();
            let mut got = 0;
            self.edit.let_go();
            let running = function::Running::begin(self.engine);
            let done = stack.function.compute_all(&members, &mut |n, bytes| {
                let given = &given[n];
                out[given.start..given.start + given.len].copy_from_slice(bytes);
                got += 1;
            });
            drop(running);
            match done {
                Ok(()) if got == given.len() => {
                    let took =
                        since.map_or(Duration::ZERO, |since| since.elapsed() / got.max(1) as u32);
                    given.iter_mut().for_each(|given| given.took = took);
                }
                Err(failure) if failure.fatal => {
                    return Err(self.failed(due[stack.members[0]].position, failure));
                }
                _ => ahead.given.truncate(first),
            }
        }
        Ok(())
    }

    /// The pages of a level that will be computed by functions that compute many, and the places of all their inputs.
    fn stackable(&self, level: &[u32]) -> (Vec<Due>, Vec<(u64, Slot)>) {
        let (mut found, mut slots) = (Vec::new(), Vec::new());
        for &position in level {
            if !self.is_due(position, Form::Function) {
                continue;
            }
            let page = self.compiled.plan.page(position);
            let Some(function) = self.function(page).filter(|function| function.stack().is_some())
            else {
                continue;
            };
            let inputs = self.compiled.inputs(self.compiled.step(position));
            let begun = slots.len();
            slots.extend(inputs.iter().filter_map(|&input| Some((input, self.slot(input)?))));
            match self.slot(page).filter(|_| slots.len() == begun + inputs.len()) {
                Some(slot) => {
                    found.push(Due { position, page, slot, function, inputs_end: slots.len() });
                }
                None => slots.truncate(begun),
            }
        }
        (found, slots)
    }
}

/// A page that a function computes together with others.
struct Due {
    position: u32,
    page: u64,
    slot: Slot,
    function: Arc<dyn Function>,
    /// Where in the list of inputs its own end.
    inputs_end: usize,
}

/// Who is computed together, in the order of their first pages.
fn stacks(due: &[Due], calls: &[Call<'_>]) -> Vec<Stack> {
    let mut stacks: Vec<Stack> = Vec::new();
    let mut known: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (n, (due, call)) in due.iter().zip(calls).enumerate() {
        let Some(number) = due.function.stack() else { continue };
        let known = known.entry(number).or_default();
        match known.iter().find(|&&at| calls[stacks[at].members[0]].is_like(call)) {
            Some(&at) => stacks[at].members.push(n),
            None => {
                known.push(stacks.len());
                stacks.push(Stack { function: Arc::clone(&due.function), members: vec![n] });
            }
        }
    }
    stacks
}
