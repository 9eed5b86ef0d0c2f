//! Semirings: matrix products and closures over another addition and multiplication.
//!
//! Invariants: an entry of a product adds its terms in the order of the inner index, one after
//! another, and nothing else; the blocking of the loops decides only which entries are worked on
//! together. A closure is Floyd-Warshall in the order of the vertices, so its result is defined step
//! by step as well.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use super::element::{Element, for_all, for_floats, for_types};
use super::scalar::{Lane, Scalar};
use super::simd::{Code, Sweep};
use super::sweep::{Frame, Source};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Ring {
    PlusTimes,
    MinPlus,
    MaxPlus,
    MinMax,
    OrAnd,
}

impl Ring {
    pub(super) fn named(name: &str) -> Option<Ring> {
        Some(match name {
            "plus_times" => Ring::PlusTimes,
            "min_plus" => Ring::MinPlus,
            "max_plus" => Ring::MaxPlus,
            "min_max" => Ring::MinMax,
            "or_and" => Ring::OrAnd,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Ring::PlusTimes => "plus_times",
            Ring::MinPlus => "min_plus",
            Ring::MaxPlus => "max_plus",
            Ring::MinMax => "min_max",
            Ring::OrAnd => "or_and",
        }
    }

    /// What is wrong with the type, and what would be right.
    pub(super) fn objection(self, element: Element) -> Option<&'static str> {
        match self {
            Ring::PlusTimes => None,
            Ring::OrAnd if element == Element::Bool => None,
            Ring::OrAnd => Some("takes bool: write `x != 0`"),
            _ if element.is_float() => None,
            _ => Some("takes float32 or float64 (its zero is an infinity): write `x * 1.0`"),
        }
    }

    /// The bits of the neutral element of the addition.
    pub(super) fn zero(self, element: Element) -> Option<u64> {
        match self {
            Ring::PlusTimes | Ring::OrAnd => Some(0),
            Ring::MinPlus | Ring::MinMax => for_all!(element, T => T::HIGHEST.bits()),
            Ring::MaxPlus => for_all!(element, T => T::LOWEST.bits()),
        }
    }
}

/// The two operations of a semiring. `START` is the neutral element of the addition that changes no
/// bit of what is added to it.
trait Semiring<T>: 'static {
    const START: T;
    const ONE: T;
    fn plus(a: T, b: T) -> T;
    fn times(a: T, b: T) -> T;
    /// Whether a cycle of this weight gets better with every round.
    fn improves(weight: T) -> bool;
}

struct PlusTimes;
struct MinPlus;
struct MaxPlus;
struct MinMax;
struct OrAnd;

macro_rules! semiring {
    ($name:ident, start $start:ident, one $one:ident, $plus:ident, $times:ident,
     |$weight:ident| $improves:expr) => {
        impl<T: Scalar> Semiring<T> for $name {
            const START: T = T::$start;
            const ONE: T = T::$one;
            #[inline(always)]
            fn plus(a: T, b: T) -> T {
                a.$plus(b)
            }
            #[inline(always)]
            fn times(a: T, b: T) -> T {
                a.$times(b)
            }
            #[inline(always)]
            fn improves($weight: T) -> bool {
                $improves
            }
        }
    };
}

semiring!(PlusTimes, start SUM_START, one ONE, plus, times, |_weight| false);
semiring!(MinPlus, start HIGHEST, one ZERO, least, plus, |weight| weight < T::ZERO);
semiring!(MaxPlus, start LOWEST, one ZERO, greatest, plus, |weight| weight > T::ZERO);
semiring!(MinMax, start HIGHEST, one LOWEST, least, greatest, |_weight| false);
semiring!(OrAnd, start ZERO, one ONE, plus, times, |_weight| false);

/// `rows x inner` times `inner x columns`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) left: Source,
    pub(super) right: Source,
    pub(super) rows: usize,
    pub(super) inner: usize,
    pub(super) columns: usize,
}

struct Multiply<T, S>(PhantomData<(T, S)>);

/// The rows and columns of a result that are worked on together: enough independent sums to hide the
/// latency of an addition, few enough to stay in processor registers.
const ROWS: usize = 4;
const COLUMNS: usize = 8;
/// The columns of a strip: long enough to read whole lines of memory, short enough for a stack.
const STRIP: usize = 256;

impl<T: Scalar, S: Semiring<T>> Sweep for Multiply<T, S> {
    type At = Product;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Product, _: usize) {
        // The result is no source, but both hang on the frame.
        let out = std::mem::take(&mut frame.out);
        let left = T::raw(frame.source(at.left));
        let right = T::raw(frame.source(at.right));
        let results = T::raw_mut(out);
        if at.columns == 1 {
            columns_one::<T, S>(at, left, right, results);
        } else {
            let whole = (at.rows - at.rows % ROWS, at.columns - at.columns % COLUMNS);
            for row in (0..whole.0).step_by(ROWS) {
                for column in (0..whole.1).step_by(COLUMNS) {
                    tile::<T, S>(at, left, right, results, (row, column));
                }
            }
            strips::<T, S>(at, left, right, results, (0..whole.0, whole.1));
            strips::<T, S>(at, left, right, results, (whole.0..at.rows, 0));
        }
        frame.out = out;
    }
}

#[inline(always)]
fn tile<T: Scalar, S: Semiring<T>>(
    at: &Product,
    left: &[T::Raw],
    right: &[T::Raw],
    results: &mut [T::Raw],
    (row, column): (usize, usize),
) {
    let mut sums = [[S::START; COLUMNS]; ROWS];
    let lines: [&[T::Raw]; ROWS] =
        std::array::from_fn(|i| &left[(row + i) * at.inner..][..at.inner]);
    let terms = right[column..].chunks(at.columns).take(at.inner);
    for (k, terms) in terms.enumerate() {
        let Some(terms) = terms.first_chunk::<COLUMNS>() else { break };
        for (sums, line) in sums.iter_mut().zip(&lines) {
            let factor = T::from_raw(line[k]);
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum = S::plus(*sum, S::times(factor, T::from_raw(*term)));
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        let place = &mut results[(row + i) * at.columns + column..][..COLUMNS];
        for (result, sum) in place.iter_mut().zip(sums) {
            *result = sum.to_raw();
        }
    }
}

/// The rows and columns that fill no tile: one row at a time, in long strips from the column `first`.
#[inline(always)]
fn strips<T: Scalar, S: Semiring<T>>(
    at: &Product,
    left: &[T::Raw],
    right: &[T::Raw],
    results: &mut [T::Raw],
    (rows, first): (Range<usize>, usize),
) {
    for row in rows {
        let line = &left[row * at.inner..][..at.inner];
        for column in (first..at.columns).step_by(STRIP) {
            let mut sums = [S::START; STRIP];
            let width = STRIP.min(at.columns - column);
            for (k, factor) in line.iter().enumerate() {
                let factor = T::from_raw(*factor);
                let terms = &right[k * at.columns + column..][..width];
                for (sum, term) in sums.iter_mut().zip(terms) {
                    *sum = S::plus(*sum, S::times(factor, T::from_raw(*term)));
                }
            }
            let place = &mut results[row * at.columns + column..][..width];
            for (result, sum) in place.iter_mut().zip(sums) {
                *result = sum.to_raw();
            }
        }
    }
}

/// The sums of a matrix times one column, several rows at a time.
#[inline(always)]
fn columns_one<T: Scalar, S: Semiring<T>>(
    at: &Product,
    left: &[T::Raw],
    right: &[T::Raw],
    results: &mut [T::Raw],
) {
    for (block, results) in results.chunks_mut(LINES).enumerate() {
        let first = &left[block * LINES * at.inner..];
        let mut sums = [S::START; LINES];
        if results.len() == LINES {
            let mut lines: [&[T::Raw]; LINES] = [&[]; LINES];
            for (i, line) in lines.iter_mut().enumerate() {
                *line = &first[i * at.inner..][..at.inner];
            }
            for (k, term) in right.iter().enumerate().take(at.inner) {
                let term = T::from_raw(*term);
                for (sum, line) in sums.iter_mut().zip(&lines) {
                    *sum = S::plus(*sum, S::times(T::from_raw(line[k]), term));
                }
            }
        } else {
            for (i, sum) in sums.iter_mut().take(results.len()).enumerate() {
                for (factor, term) in first[i * at.inner..][..at.inner].iter().zip(right) {
                    *sum = S::plus(*sum, S::times(T::from_raw(*factor), T::from_raw(*term)));
                }
            }
        }
        for (result, sum) in results.iter_mut().zip(sums) {
            *result = sum.to_raw();
        }
    }
}

const LINES: usize = 8;

/// A closure of a square matrix, worked out in the first `size * size + size` elements of its bank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closure {
    pub(super) source: Source,
    pub(super) size: usize,
}

struct FloydWarshall<T, S>(PhantomData<(T, S)>);

impl<T: Scalar, S: Semiring<T>> Sweep for FloydWarshall<T, S> {
    type At = Closure;
    #[inline(always)]
    fn run(frame: &mut Frame<'_>, at: &Closure, _: usize) {
        let size = at.size;
        let (paths, rest) = T::bank(frame.banks).split_at(size * size);
        // A copy of the row through the pivot, so that no row is read where it is written.
        let pivot = &rest[..size];
        for (path, raw) in paths.iter().zip(T::raw(frame.source(at.source))) {
            path.set(T::from_raw(*raw));
        }
        for diagonal in paths.iter().step_by(size + 1) {
            diagonal.set(S::plus(diagonal.get(), S::ONE));
        }
        for k in 0..size {
            for (copy, path) in pivot.iter().zip(&paths[k * size..]) {
                copy.set(path.get());
            }
            if S::improves(pivot[k].get()) {
                frame.bad_cycle = Some(k);
                return;
            }
            for row in paths.chunks_exact(size) {
                through::<T, S>(row, row[k].get(), pivot);
            }
        }
        for (raw, path) in T::raw_mut(frame.out).iter_mut().zip(paths) {
            *raw = path.get().to_raw();
        }
    }
}

#[inline(always)]
fn through<T: Scalar, S: Semiring<T>>(row: &[Cell<T>], first: T, pivot: &[Cell<T>]) {
    for (path, second) in row.iter().zip(pivot) {
        path.set(S::plus(path.get(), S::times(first, second.get())));
    }
}

pub(super) fn product(ring: Ring, element: Element) -> Option<Code<Product>> {
    match ring {
        Ring::PlusTimes => for_all!(element, T => Code::of::<Multiply<T, PlusTimes>>()),
        Ring::MinPlus => for_floats!(element, T => Code::of::<Multiply<T, MinPlus>>()),
        Ring::MaxPlus => for_floats!(element, T => Code::of::<Multiply<T, MaxPlus>>()),
        Ring::MinMax => for_floats!(element, T => Code::of::<Multiply<T, MinMax>>()),
        Ring::OrAnd => for_types!(element, T => Code::of::<Multiply<T, OrAnd>>(), Bool bool),
    }
}

pub(super) fn closure(ring: Ring, element: Element) -> Option<Code<Closure>> {
    match ring {
        Ring::PlusTimes => None,
        Ring::MinPlus => for_floats!(element, T => Code::of::<FloydWarshall<T, MinPlus>>()),
        Ring::MaxPlus => for_floats!(element, T => Code::of::<FloydWarshall<T, MaxPlus>>()),
        Ring::MinMax => for_floats!(element, T => Code::of::<FloydWarshall<T, MinMax>>()),
        Ring::OrAnd => for_types!(element, T => Code::of::<FloydWarshall<T, OrAnd>>(), Bool bool),
    }
}
