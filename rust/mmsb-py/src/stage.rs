//! The private memory of one page inside a transaction.
//!
//! All arrays of a page in a transaction share one `Memory`; Python writes to it whenever it likes, so Rust keeps no
//! reference into it beyond one copy or compare. Only the blocks that a part needs are filled from the base; past the
//! `kept` prefix of the base all began as zeros. At commit the loaded blocks are compared with what they began as, and
//! named ranges (written explicitly) are written in any case.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mmsb_core::{Code, Error, Result, Snapshot, diff};
use numpy::PyArrayDescr;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::array::{self, Dims};
use crate::snap::Snap;
use crate::{args, enter, errors};

/// What is filled and compared at once.
const BLOCK: u64 = 16 << 10;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
/// Arrays of every dtype may begin where it begins; more would make the allocator clear what calloc gets as zeros.
const ALIGN: usize = 16;

/// Zeroed bytes at a fixed place.
struct Memory {
    data: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the bytes are plain memory; who writes when is up to the program, as with any NumPy array.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(nbytes: u64) -> Result<Memory> {
        let too_large = |code| Error::new(code, format!("no memory for {nbytes} bytes"));
        let layout = usize::try_from(nbytes)
            .ok()
            .and_then(|len| Layout::from_size_align(len, ALIGN).ok())
            .ok_or_else(|| too_large(Code::Argument))?;
        if layout.size() == 0 {
            return Ok(Memory { data: NonNull::<Aligned>::dangling().cast(), layout });
        }
        // SAFETY: the size is not zero.
        let data = unsafe { alloc_zeroed(layout) };
        let data = NonNull::new(data).ok_or_else(|| too_large(Code::OutOfSpace))?;
        Ok(Memory { data, layout })
    }

    fn len(&self) -> u64 {
        self.layout.size() as u64
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        assert!(at <= self.len() && bytes.len() as u64 <= self.len() - at, "inside the stage");
        // SAFETY: inside the allocation, and `bytes` is no part of it: it comes from the core or another stage.
        unsafe {
            let to = self.data.as_ptr().add(at as usize);
            to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    fn get(&self, start: u64, stop: u64) -> &[u8] {
        assert!(start <= stop && stop <= self.len(), "inside the stage");
        // SAFETY: inside the allocation and initialised. Another thread may write meanwhile; callers compare or copy
        // once, and no decision about memory hangs on the values.
        unsafe {
            let from = self.data.as_ptr().add(start as usize);
            slice::from_raw_parts(from, (stop - start) as usize)
        }
    }
}

#[repr(align(16))]
struct Aligned;

impl Drop for Memory {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated with this layout in `new`, and nobody is left who knows the place.
            unsafe { dealloc(self.data.as_ptr(), self.layout) }
        }
    }
}

/// Which bytes are known.
#[derive(Default)]
struct Known {
    /// One bit a block.
    loaded: Vec<u64>,
    /// Written explicitly: sorted, apart from each other.
    named: Vec<(u64, u64)>,
}

impl Known {
    fn is_loaded(&self, block: u64) -> bool {
        self.loaded.get((block / 64) as usize).is_some_and(|bits| bits >> (block % 64) & 1 == 1)
    }

    fn set_loaded(&mut self, block: u64) {
        let at = (block / 64) as usize;
        if self.loaded.len() <= at {
            self.loaded.resize(at + 1, 0);
        }
        self.loaded[at] |= 1 << (block % 64);
    }

    fn name(&mut self, start: u64, stop: u64) {
        let from = self.named.partition_point(|&(_, end)| end < start);
        let to = self.named.partition_point(|&(begin, _)| begin <= stop);
        let mut joined = (start, stop);
        if from < to {
            joined = (start.min(self.named[from].0), stop.max(self.named[to - 1].1));
        }
        self.named.splice(from..to, [joined]);
    }

    /// The parts of `start..stop` that are not named, in order.
    fn unnamed(&self, start: u64, stop: u64) -> Vec<(u64, u64)> {
        let mut gaps = Vec::new();
        let mut at = start;
        let first = self.named.partition_point(|&(_, end)| end <= start);
        for &(begin, end) in self.named[first..].iter().take_while(|&&(begin, _)| begin < stop) {
            if begin > at {
                gaps.push((at, begin));
            }
            at = end;
        }
        if at < stop {
            gaps.push((at, stop));
        }
        gaps
    }
}

/// The private memory of one page inside a transaction.
#[pyclass(frozen, module = "mmsb._core")]
pub(crate) struct Stage {
    base: Option<Py<Snap>>,
    id: u64,
    /// Bytes that began as the base's; the rest began as zeros.
    kept: u64,
    memory: Memory,
    known: Mutex<Known>,
}

impl Stage {
    pub(crate) fn bytes(&self) -> u64 {
        self.memory.len()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn base(&self) -> Result<Option<Snapshot>> {
        self.base.as_ref().map(|base| base.get().get()).transpose()
    }

    fn blocks(&self, start: u64, stop: u64) -> impl Iterator<Item = (u64, u64, u64)> + use<> {
        let len = self.bytes();
        let last = if start < stop { stop.div_ceil(BLOCK) } else { start / BLOCK };
        (start / BLOCK..last)
            .map(move |block| (block, block * BLOCK, ((block + 1) * BLOCK).min(len)))
    }

    /// Loads the blocks that the range touches.
    fn fill(
        &self,
        base: Option<&Snapshot>,
        known: &mut Known,
        start: u64,
        stop: u64,
    ) -> Result<()> {
        let mut part = [0; BLOCK as usize];
        for (block, begin, end) in self.blocks(start, stop) {
            if known.is_loaded(block) {
                continue;
            }
            if let Some(base) = base {
                for (from, to) in known.unnamed(begin, end.min(self.kept)) {
                    let part = &mut part[..(to - from) as usize];
                    base.read(self.id, from, part)?;
                    self.memory.put(from, part);
                }
            }
            known.set_loaded(block);
        }
        Ok(())
    }

    fn check_range(&self, py: Python<'_>, start: u64, stop: u64) -> PyResult<()> {
        if start <= stop && stop <= self.bytes() {
            return Ok(());
        }
        let what = format!("bytes {start}..{stop} are not inside {} bytes", self.bytes());
        Err(errors::argument(py, what))
    }

    /// The ranges of whole elements to be written, in order.
    fn changes(&self, itemsize: usize) -> Result<Vec<(u64, u64)>> {
        let base = self.base()?;
        let known = self.known();
        let mut changed = Vec::new();
        let len = self.bytes();
        for (block, begin, end) in self.blocks(0, len) {
            if !known.is_loaded(block) {
                continue;
            }
            let mine = self.memory.get(begin, end);
            let kept = end.min(self.kept).max(begin);
            let mut compare = |mine: &[u8], theirs: &[u8], at| {
                diff::diff_ranges_at(mine, theirs, at, len, itemsize, &mut changed);
            };
            let (old, new) = mine.split_at((kept - begin) as usize);
            if let Some(base) = base.as_ref().filter(|_| !old.is_empty()) {
                let theirs = base.view_range(self.id, begin, kept)?;
                compare(old, theirs.bytes(), begin);
            }
            compare(new, &ZEROS[..new.len()], kept);
        }
        Ok(union(&changed, &known.named))
    }

    /// Calls `each` with (offset, bytes) of every range that was named or differs from the base.
    pub(crate) fn for_each_change(
        &self,
        itemsize: usize,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<()> {
        for (start, stop) in self.changes(itemsize)? {
            each(start, self.memory.get(start, stop));
        }
        Ok(())
    }
}

/// Both lists of ranges as one, touching ones joined.
fn union(a: &[(u64, u64)], b: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut all: Vec<(u64, u64)> = Vec::new();
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if y < x => b.next(),
            (Some(_), _) => a.next(),
            (None, _) => b.next(),
        };
        let Some(&(start, stop)) = next else { return all };
        match all.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(stop),
            _ => all.push((start, stop)),
        }
    }
}

#[pymethods]
impl Stage {
    #[new]
    fn new(
        py: Python<'_>,
        base: Option<Py<Snap>>,
        id: &Bound<'_, PyAny>,
        nbytes: &Bound<'_, PyAny>,
    ) -> PyResult<Stage> {
        let (id, nbytes) = (args::u64_of(id, "id")?, args::u64_of(nbytes, "nbytes")?);
        let kept = match &base {
            None => 0,
            Some(base) => enter::attached(py, || {
                let info = base.get().get()?.info(id)?.ok_or_else(|| errors::no_page(id))?;
                Ok(info.nbytes.min(nbytes))
            })?,
        };
        let memory = enter::attached(py, || Memory::new(nbytes))?;
        Ok(Stage { base, id, kept, memory, known: Mutex::default() })
    }

    #[getter]
    fn nbytes(&self) -> u64 {
        self.bytes()
    }

    fn load(
        &self,
        py: Python<'_>,
        start: &Bound<'_, PyAny>,
        stop: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (start, stop) = (args::u64_of(start, "start")?, args::u64_of(stop, "stop")?);
        self.check_range(py, start, stop)?;
        enter::by_size(py, stop - start, || {
            let base = self.base()?;
            self.fill(base.as_ref(), &mut self.known(), start, stop)
        })
    }

    fn name(
        &self,
        py: Python<'_>,
        start: &Bound<'_, PyAny>,
        stop: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (start, stop) = (args::u64_of(start, "start")?, args::u64_of(stop, "stop")?);
        self.check_range(py, start, stop)?;
        if start < stop {
            self.known().name(start, stop);
        }
        Ok(())
    }

    #[pyo3(signature = (dtype, shape, offset=None), text_signature = "($self, dtype, shape, offset=0)")]
    fn array<'py>(
        slf: &Bound<'py, Self>,
        dtype: &Bound<'py, PyArrayDescr>,
        shape: &Bound<'py, PyTuple>,
        offset: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let offset = args::opt_u64(offset, "offset")?.unwrap_or(0);
        this.check_range(py, offset.min(this.bytes()), offset)?;
        let dims = Dims::new(args::shape_of(shape)?)
            .ok_or_else(|| errors::argument(py, format!("NumPy has no array of shape {shape}")))?;
        let len = (this.bytes() - offset) as usize;
        // SAFETY: `offset` is inside the memory, which stays in place as long as the stage, the owner, lives.
        unsafe {
            let data = this.memory.data.as_ptr().add(offset as usize);
            array::writable(dtype, dims, data, len, slf.clone().into_any())
        }
    }

    fn resize(&self, py: Python<'_>, nbytes: &Bound<'_, PyAny>) -> PyResult<Stage> {
        let nbytes = args::u64_of(nbytes, "nbytes")?;
        let base = self.base.as_ref().map(|base| base.clone_ref(py));
        enter::by_size(py, self.bytes().min(nbytes), || self.resized(base, nbytes))
    }
}

impl Stage {
    fn resized(&self, base: Option<Py<Snap>>, nbytes: u64) -> Result<Stage> {
        // A foreign or closed base is found out before the lock.
        self.base()?;
        let known = self.known();
        let common = nbytes.min(self.bytes());
        let made = Stage {
            base,
            id: self.id,
            kept: self.kept.min(nbytes),
            memory: Memory::new(nbytes)?,
            known: Mutex::default(),
        };
        let mut mine = made.known();
        for (block, begin, end) in self.blocks(0, common) {
            if known.is_loaded(block) {
                mine.set_loaded(block);
                let end = end.min(common);
                made.memory.put(begin, self.memory.get(begin, end));
            }
        }
        for &(begin, end) in known.named.iter().take_while(|&&(begin, _)| begin < common) {
            let end = end.min(common);
            mine.name(begin, end);
            made.memory.put(begin, self.memory.get(begin, end));
        }
        drop(mine);
        Ok(made)
    }
}
