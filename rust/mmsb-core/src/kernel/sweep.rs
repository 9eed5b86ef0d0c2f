//! Registers, and the sweeps over them: load, operate, store.
//!
//! A register is [`CHUNK`] elements of a bank; there is one bank per element type. A sweep does one
//! step of a program to the first `n` elements of its registers. Invariants: the compiler gives
//! every value a register of its own type and never the register of a value still needed, so the
//! target of an operation is no operand of it (only [`Accumulate`] works in place); the banks are as
//! long as the compiler asked ([`Banks::fit`]).

use std::cell::Cell;
use std::marker::PhantomData;

use super::element::{Element, for_all};
use super::scalar::{Lane, Scalar};
use super::simd::{Code, Sweep};

/// The elements of one register.
pub(super) const CHUNK: usize = 512;

/// The registers, by element type. Cells, because an operation reads and writes one bank.
#[derive(Default, Debug)]
pub(super) struct Banks {
    pub(super) bool: Vec<Cell<bool>>,
    pub(super) i8: Vec<Cell<i8>>,
    pub(super) i16: Vec<Cell<i16>>,
    pub(super) i32: Vec<Cell<i32>>,
    pub(super) i64: Vec<Cell<i64>>,
    pub(super) u8: Vec<Cell<u8>>,
    pub(super) u16: Vec<Cell<u16>>,
    pub(super) u32: Vec<Cell<u32>>,
    pub(super) u64: Vec<Cell<u64>>,
    pub(super) f32: Vec<Cell<f32>>,
    pub(super) f64: Vec<Cell<f64>>,
}

impl Banks {
    /// Makes the bank of a type at least so long.
    #[inline]
    pub(super) fn fit(&mut self, element: Element, length: usize) {
        for_all!(element, T => {
            let bank = T::bank_mut(self);
            if bank.len() < length {
                bank.resize(length, Cell::default());
            }
        });
    }
}

/// What a step of a running kernel sees.
pub(super) struct Frame<'r> {
    pub(super) banks: &'r Banks,
    pub(super) inputs: &'r [&'r [u8]],
    pub(super) temporaries: &'r [Vec<u8>],
    /// The bytes of the stage's result.
    pub(super) out: &'r mut [u8],
    /// The first element of the chunk: of a source in a load, of `out` in a store.
    pub(super) start: usize,
    /// A vertex on a cycle that made a closure impossible.
    pub(super) bad_cycle: Option<usize>,
}

impl Frame<'_> {
    #[inline(always)]
    pub(super) fn source(&self, source: Source) -> &[u8] {
        match source {
            Source::Input(index) => self.inputs[index],
            Source::Temporary(index) => &self.temporaries[index],
        }
    }
}

/// Where a load finds its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Input(usize),
    Temporary(usize),
}

/// The places of the registers of an operation in their banks.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Operands {
    pub(super) target: usize,
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) third: usize,
}

#[inline(always)]
fn register<T: Lane>(banks: &Banks, at: usize, n: usize) -> &[Cell<T>] {
    &T::bank(banks)[at..][..n]
}

/// An operation on one element.
pub(super) trait Unary<T>: 'static {
    type Out: Lane;
    fn of(x: T) -> Self::Out;
}

/// An operation on two elements of one type.
pub(super) trait Binary<T>: 'static {
    type Out: Lane;
    fn of(a: T, b: T) -> Self::Out;
}

pub(super) struct Map<T, O>(PhantomData<(T, O)>);

impl<T: Lane, O: Unary<T>> Sweep for Map<T, O> {
    type At = Operands;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Operands, n: usize) {
        let target = register::<O::Out>(frame.banks, at.target, n);
        let first = register::<T>(frame.banks, at.first, n);
        for (t, x) in target.iter().zip(first) {
            t.set(O::of(x.get()));
        }
    }
}

pub(super) struct Zip<T, O>(PhantomData<(T, O)>);

impl<T: Lane, O: Binary<T>> Sweep for Zip<T, O> {
    type At = Operands;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Operands, n: usize) {
        let target = register::<O::Out>(frame.banks, at.target, n);
        let first = register::<T>(frame.banks, at.first, n);
        let second = register::<T>(frame.banks, at.second, n);
        for ((t, a), b) in target.iter().zip(first).zip(second) {
            t.set(O::of(a.get(), b.get()));
        }
    }
}

/// `target = target ∘ second`, in place.
pub(super) struct Accumulate<T, O>(PhantomData<(T, O)>);

impl<T: Lane, O: Binary<T, Out = T>> Sweep for Accumulate<T, O> {
    type At = Operands;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Operands, n: usize) {
        let target = register::<T>(frame.banks, at.target, n);
        let second = register::<T>(frame.banks, at.second, n);
        for (t, b) in target.iter().zip(second) {
            t.set(O::of(t.get(), b.get()));
        }
    }
}

/// `target = first ? second : third`.
pub(super) struct Select<T>(PhantomData<T>);

impl<T: Lane> Sweep for Select<T> {
    type At = Operands;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Operands, n: usize) {
        let target = register::<T>(frame.banks, at.target, n);
        let condition = register::<bool>(frame.banks, at.first, n);
        let second = register::<T>(frame.banks, at.second, n);
        let third = register::<T>(frame.banks, at.third, n);
        for (((t, c), a), b) in target.iter().zip(condition).zip(second).zip(third) {
            let (a, b) = (a.get(), b.get());
            t.set(if c.get() { a } else { b });
        }
    }
}

/// Writes the register `first` to the result.
pub(super) struct Store<T>(PhantomData<T>);

impl<T: Lane> Sweep for Store<T> {
    type At = Operands;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Operands, n: usize) {
        let first = register::<T>(frame.banks, at.first, n);
        let out = &mut T::raw_mut(frame.out)[frame.start..][..n];
        for (raw, x) in out.iter_mut().zip(first) {
            *raw = x.get().to_raw();
        }
    }
}

/// A constant for every element of a register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constant {
    pub(super) target: usize,
    pub(super) bits: u64,
}

pub(super) struct Fill<T>(PhantomData<T>);

impl<T: Lane> Sweep for Fill<T> {
    type At = Constant;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Constant, n: usize) {
        let value = T::from_bits(at.bits);
        for t in register::<T>(frame.banks, at.target, n) {
            t.set(value);
        }
    }
}

/// How the elements of a source lie under the elements of a stage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// One to one.
    Straight,
    /// One element under all.
    Uniform,
    /// Length and stride of each axis, outermost first. The innermost stride is 0 or 1: broadcasting
    /// never skips elements within an axis.
    Strided(Box<[(usize, usize)]>),
}

/// The load of a register from a source.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) source: Source,
    pub(super) layout: Layout,
    pub(super) target: usize,
}

pub(super) struct Read<T>(PhantomData<T>);

impl<T: Lane> Sweep for Read<T> {
    type At = Load;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Load, n: usize) {
        let target = register::<T>(frame.banks, at.target, n);
        let data = T::raw(frame.source(at.source));
        match &at.layout {
            Layout::Straight => copy(target, &data[frame.start..][..n]),
            Layout::Uniform => target.iter().for_each(|t| t.set(T::from_raw(data[0]))),
            Layout::Strided(axes) => strided(target, data, axes, frame.start),
        }
    }
}

#[inline(always)]
fn copy<T: Lane>(target: &[Cell<T>], data: &[T::Raw]) {
    for (t, raw) in target.iter().zip(data) {
        t.set(T::from_raw(*raw));
    }
}

/// Fills the target with the elements from the flat index `start` on, a run of the innermost axis
/// at a time.
#[inline(always)]
fn strided<T: Lane>(
    mut target: &[Cell<T>],
    data: &[T::Raw],
    axes: &[(usize, usize)],
    start: usize,
) {
    let Some((&(length, stride), outer)) = axes.split_last() else { return };
    let mut index = start;
    while !target.is_empty() {
        let within = index % length;
        let mut rest = index / length;
        let mut offset = within * stride;
        for (length, stride) in outer.iter().rev() {
            offset += rest % length * stride;
            rest /= length;
        }
        let (run, later) = target.split_at((length - within).min(target.len()));
        if stride == 0 {
            let value = T::from_raw(data[offset]);
            run.iter().for_each(|t| t.set(value));
        } else {
            copy(run, &data[offset..offset + run.len()]);
        }
        index += run.len();
        target = later;
    }
}

pub(super) fn fill(element: Element) -> Option<Code<Constant>> {
    for_all!(element, T => Code::of::<Fill<T>>())
}

pub(super) fn read(element: Element) -> Option<Code<Load>> {
    for_all!(element, T => Code::of::<Read<T>>())
}

pub(super) fn store(element: Element) -> Option<Code<Operands>> {
    for_all!(element, T => Code::of::<Store<T>>())
}

pub(super) fn select(element: Element) -> Option<Code<Operands>> {
    for_all!(element, T => Code::of::<Select<T>>())
}

/// The tree of the module docs over a run of at most [`CHUNK`] elements.
#[inline(always)]
fn tree<T: Scalar, O: Fold<T>>(run: &[Cell<T>]) -> T {
    if run.len() <= BLOCK {
        return block_of::<T, O>(run);
    }
    let mut values = [O::START; CHUNK / BLOCK];
    for (value, block) in values.iter_mut().zip(run.chunks(BLOCK)) {
        *value = block_of::<T, O>(block);
    }
    // An absent block is the neutral start, which leaves its partner as it is.
    O::of(O::of(values[0], values[1]), O::of(values[2], values[3]))
}

/// The lanes of a block.
pub(super) const LANES: usize = 8;
/// The elements of a block.
pub(super) const BLOCK: usize = 128;

#[inline(always)]
fn block_of<T: Scalar, O: Fold<T>>(block: &[Cell<T>]) -> T {
    let mut lanes = [O::START; LANES];
    let (rows, rest) = block.as_chunks::<LANES>();
    for row in rows {
        for (lane, x) in lanes.iter_mut().zip(row) {
            *lane = O::of(*lane, x.get());
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = O::of(*lane, x.get());
    }
    let mut width = LANES / 2;
    while width > 0 {
        for j in 0..width {
            lanes[j] = O::of(lanes[j], lanes[j + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// An operation that can be folded; `START ∘ x` and `x ∘ START` are `x`, bit by bit (but for NaN).
pub(super) trait Fold<T>: Binary<T, Out = T> {
    const START: T;
}

/// Folds each run of `third` elements of the register `first` into one element of `target`.
pub(super) struct FoldRuns<T, O>(PhantomData<(T, O)>);

impl<T: Scalar, O: Fold<T>> Sweep for FoldRuns<T, O> {
    type At = Operands;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Operands, n: usize) {
        let first = register::<T>(frame.banks, at.first, n);
        let target = register::<T>(frame.banks, at.target, n.div_ceil(at.third));
        match at.third {
            2 => narrow::<T, O, 2>(target, first),
            3 => narrow::<T, O, 3>(target, first),
            4 => narrow::<T, O, 4>(target, first),
            length => {
                for (t, run) in target.iter().zip(first.chunks(length)) {
                    t.set(tree::<T, O>(run));
                }
            }
        }
    }
}

/// Runs as short as the components of a vector or a pixel: with a length the compiler knows, the
/// loops over lanes vanish.
#[inline(always)]
fn narrow<T: Scalar, O: Fold<T>, const LENGTH: usize>(target: &[Cell<T>], first: &[Cell<T>]) {
    for (t, run) in target.iter().zip(first.as_chunks::<LENGTH>().0) {
        t.set(block_of::<T, O>(run));
    }
}
