//! Computing one page of a wave: by a kernel or a function, and what differs becomes writes.

use super::{APART, FEW, Tried, UNBOUND, Wave, failure};
use crate::arena::Mem;
use crate::catalog::Desc;
use crate::diff::diff_ranges_at;
use crate::graph::Form;
use crate::propagate::compiled::element_of;
use crate::propagate::structure::node_of;
use crate::propagate::{Call, Failure, function, title};
use crate::table::Slot;
use crate::{Code, Error, Result, apply, page};

impl Wave<'_, '_> {
    /// Computes a page. Returns whether its bytes are others now.
    pub(super) fn compute(&mut self, position: u32, id: u64, slot: &Slot) -> Tried<Result<bool>> {
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
        // Most have few.
        let (mut few, mut many): ([&[u8]; FEW], Vec<&[u8]>) = ([&[]; FEW], Vec::new());
        let args = match few.get_mut(..inputs.len()) {
            Some(few) => few,
            None => {
                many.resize(inputs.len(), &[]);
                &mut many[..]
            }
        };
        for ((&input, room), arg) in inputs.iter().zip(&mut gathered).zip(&mut *args) {
            let Some(slot) = self.slot(input) else { return Err(failure("an input is not there")) };
            *arg = bytes_of(&mem, &slot, room);
        }
        let ran = kernel.run(args, out, &mut self.room.scratch);
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
    pub(super) fn check_function(&mut self, position: u32, id: u64, slot: &Slot) -> Result<()> {
        if self.compiled.step(position).form != Form::Native {
            return Ok(());
        }
        self.compile(position, id, slot)
            .map_err(|failure| Error::new(Code::Argument, failure.message))
    }

    fn call(&mut self, position: u32, id: u64, slot: &Slot) -> Tried<Result<bool>> {
        let Some(function) = self.function(id) else {
            // Not the function's failure: a program forgot it.
            return Err(Failure { fatal: true, ..failure(UNBOUND) });
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
    pub(super) fn put(&mut self, id: u64, slot: &Slot, bytes: &[u8]) -> Result<bool> {
        assert_eq!(bytes.len() as u64, slot.len, "a page is computed as a whole");
        let mem = self.edit.mem();
        let itemsize = Desc::at(mem, slot.desc).itemsize().max(1) as usize;
        // One element is written as a whole.
        if slot.len <= itemsize as u64 && page::is_one_block(slot.len) {
            let is_same = slot.len == 0 || mem.bytes(slot.data, slot.len) == bytes;
            return if is_same { Ok(false) } else { self.write(id, slot, 0, bytes).map(|_| true) };
        }
        let mut ranges = std::mem::take(&mut self.room.ranges);
        ranges.clear();
        page::parts(mem, slot, 0, slot.len, &mut |at, old| {
            let new = &bytes[at as usize..][..old.len()];
            if old != new {
                diff_ranges_at(old, new, at, slot.len, itemsize, &mut ranges);
            }
        });
        if let (Some(first), Some(last)) = (ranges.first(), ranges.last()) {
            let (start, stop) = (first.0, last.1);
            let apart: u64 = ranges.iter().map(|range| range.1 - range.0 + APART).sum();
            if apart > stop - start {
                ranges.clear();
                ranges.push((start, stop));
            }
        }
        let mut slot = *slot;
        let written = ranges.iter().try_for_each(|&(start, stop)| {
            slot = self.write(id, &slot, start, &bytes[start as usize..stop as usize])?;
            Ok(())
        });
        let is_changed = !ranges.is_empty();
        self.room.ranges = ranges;
        written.map(|()| is_changed)
    }

    /// Adds a write to the commit, and applies it as a replay will. Returns the page's new slot.
    fn write(&mut self, id: u64, slot: &Slot, offset: u64, data: &[u8]) -> Result<Slot> {
        self.batch.write(id, offset, data);
        self.batch.complete()?;
        Ok(apply::write_at(self.edit, id, slot, offset, data)?.unwrap_or(*slot))
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
