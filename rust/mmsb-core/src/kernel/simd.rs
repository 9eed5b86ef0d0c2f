//! The feature levels of a processor and the one place where they are trusted.
//!
//! Invariants: a [`Level`] above the portable one is only made after the processor said it has all
//! the features of that level ([`Level::detect`]); the pointers of a [`Code`] are only made by
//! [`Code::of`], each from the function compiled for the level it stands for. Every level runs the
//! same body, and no level may fuse or reorder floating-point steps (Rust never allows LLVM to), so
//! the level changes the time and not one bit of the result.
#![allow(unsafe_code, reason = "calls functions compiled for features that were detected")]

use std::sync::OnceLock;

use super::sweep::Frame;

/// A body of work that is compiled once per level.
pub(super) trait Sweep: 'static {
    /// What the sweep works on: registers, shapes.
    type At: 'static;
    /// Must be `#[inline(always)]`, or it is not compiled for the level.
    fn run(frame: &mut Frame<'_>, at: &Self::At, n: usize);
}

/// Proof that the processor has the features of a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Level(Features);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Features {
    /// What every processor of the architecture has; on x86-64 that includes SSE2.
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    pub(super) const PORTABLE: Level = Level(Features::Portable);

    /// The best level of this processor; asked once.
    #[inline]
    pub(super) fn detect() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().into_iter().flatten().last().unwrap_or(Self::PORTABLE))
    }

    /// The levels of this processor, lowest first.
    pub(super) fn all() -> [Option<Level>; 3] {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            [
                Some(Self::PORTABLE),
                avx2.then_some(Level(Features::Avx2)),
                avx512.then_some(Level(Features::Avx512)),
            ]
        }
        #[cfg(not(target_arch = "x86_64"))]
        [Some(Self::PORTABLE), None, None]
    }
}

/// A sweep compiled for every level.
#[derive(Debug)]
pub(super) struct Code<A: 'static> {
    /// The body for exactly one element: a page of one is common, and a loop would cost more than
    /// its work.
    one: fn(&mut Frame<'_>, &A),
    portable: fn(&mut Frame<'_>, &A, usize),
    #[cfg(target_arch = "x86_64")]
    avx2: unsafe fn(&mut Frame<'_>, &A, usize),
    #[cfg(target_arch = "x86_64")]
    avx512: unsafe fn(&mut Frame<'_>, &A, usize),
}

impl<A> Clone for Code<A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Code<A> {}

impl<A> Code<A> {
    pub(super) fn of<S: Sweep<At = A>>() -> Code<A> {
        Code {
            one: one::<S>,
            portable: portable::<S>,
            #[cfg(target_arch = "x86_64")]
            avx2: avx2::<S>,
            #[cfg(target_arch = "x86_64")]
            avx512: avx512::<S>,
        }
    }

    #[inline(always)]
    pub(super) fn call_one(&self, frame: &mut Frame<'_>, at: &A) {
        (self.one)(frame, at);
    }

    #[inline(always)]
    pub(super) fn call(&self, level: Level, frame: &mut Frame<'_>, at: &A, n: usize) {
        match level.0 {
            Features::Portable => (self.portable)(frame, at, n),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `avx2` is `avx2::<S>` (only `of` makes a `Code`), which needs AVX2; the level
            // exists only if `Level::all` saw AVX2 on this processor.
            Features::Avx2 => unsafe { (self.avx2)(frame, at, n) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `avx512` is `avx512::<S>` (only `of` makes a `Code`), which needs AVX-512 F,
            // BW, DQ and VL; the level exists only if `Level::all` saw all four on this processor.
            Features::Avx512 => unsafe { (self.avx512)(frame, at, n) },
        }
    }
}

fn one<S: Sweep>(frame: &mut Frame<'_>, at: &S::At) {
    S::run(frame, at, 1);
}

fn portable<S: Sweep>(frame: &mut Frame<'_>, at: &S::At, n: usize) {
    S::run(frame, at, n);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<S: Sweep>(frame: &mut Frame<'_>, at: &S::At, n: usize) {
    S::run(frame, at, n);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<S: Sweep>(frame: &mut Frame<'_>, at: &S::At, n: usize) {
    S::run(frame, at, n);
}
