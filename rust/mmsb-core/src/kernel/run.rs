//! Stages as they are run.
//!
//! Invariants: a stage reads inputs and the temporaries of earlier stages, and writes one array; a
//! program is run for a stretch of consecutive elements of its stage, at most [`CHUNK`] at once.

use super::Scratch;
use super::fold::FoldStage;
use super::semiring::{Closure, Product};
use super::simd::{Code, Level};
use super::sweep::{CHUNK, Constant, Frame, Load, Operands};

#[derive(Debug)]
pub(super) enum Step {
    Fill(Code<Constant>, Constant),
    Read(Code<Load>, Load),
    Operate(Code<Operands>, Operands),
}

impl Step {
    #[inline(always)]
    fn run(&self, level: Level, frame: &mut Frame<'_>, n: usize) {
        match self {
            Step::Operate(code, at) => code.call(level, frame, at, n),
            Step::Read(code, at) => code.call(level, frame, at, n),
            Step::Fill(code, at) => code.call(level, frame, at, n),
        }
    }

    #[inline(always)]
    fn run_one(&self, frame: &mut Frame<'_>) {
        match self {
            Step::Operate(code, at) => code.call_one(frame, at),
            Step::Read(code, at) => code.call_one(frame, at),
            Step::Fill(code, at) => code.call_one(frame, at),
        }
    }
}

/// Element-wise steps that leave a value in a register.
#[derive(Default, Debug)]
pub(super) struct Program {
    /// What is the same for every chunk.
    pub(super) once: Vec<Step>,
    pub(super) each: Vec<Step>,
    /// The place of the value.
    pub(super) value: usize,
}

impl Program {
    pub(super) fn prepare(&self, level: Level, frame: &mut Frame<'_>, n: usize) {
        for step in &self.once {
            step.run(level, frame, n);
        }
    }

    #[inline]
    pub(super) fn run(&self, level: Level, frame: &mut Frame<'_>, start: usize, n: usize) {
        frame.start = start;
        for step in &self.each {
            step.run(level, frame, n);
        }
    }
}

#[derive(Debug)]
pub(super) enum Work {
    /// A program for every element, and the store of its value.
    Map(Program, Code<Operands>),
    Fold(Box<FoldStage>),
    Product(Code<Product>, Product),
    Closure(Code<Closure>, Closure),
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) work: Work,
    /// The elements of the result.
    pub(super) count: usize,
    /// The temporary that takes the result and its bytes; nothing for the result of the kernel.
    pub(super) temporary: Option<(usize, usize)>,
}

/// Below so many elements the widest registers only cost.
const FEW: usize = 16;

impl Stage {
    /// About how many elementary steps it takes.
    pub(super) fn effort(&self) -> u64 {
        let product = |factors: [usize; 3]| {
            factors.iter().fold(1, |all: u64, &factor| all.saturating_mul(factor as u64))
        };
        match &self.work {
            Work::Map(program, _) => product([program.each.len() + 1, self.count, 1]),
            Work::Fold(fold) => product([fold.outer, fold.length, fold.inner])
                .saturating_mul(fold.program.each.len() as u64 + 1),
            Work::Product(_, at) => product([at.rows, at.inner, at.columns]),
            Work::Closure(_, at) => product([at.size; 3]),
        }
    }

    fn work(&self, level: Level, frame: &mut Frame<'_>) {
        match &self.work {
            Work::Map(program, store) => map(level, frame, self.count, program, store),
            Work::Fold(fold) => fold.run(level, frame),
            Work::Product(code, at) => code.call(level, frame, at, self.count),
            Work::Closure(code, at) => code.call(level, frame, at, self.count),
        }
    }

    /// Runs the stage; a vertex on a bad cycle, if it is a closure and there is one.
    #[inline]
    pub(super) fn run(
        &self,
        level: Level,
        inputs: &[&[u8]],
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Option<usize> {
        let Some((index, length)) = self.temporary else {
            let (banks, temporaries) = (&scratch.banks, &scratch.temporaries[..]);
            let mut frame = Frame { banks, inputs, temporaries, out, start: 0, bad_cycle: None };
            self.work(level, &mut frame);
            return frame.bad_cycle;
        };
        let mut target = std::mem::take(&mut scratch.temporaries[index]);
        let (banks, temporaries) = (&scratch.banks, &scratch.temporaries[..]);
        let out = &mut target[..length];
        let mut frame = Frame { banks, inputs, temporaries, out, start: 0, bad_cycle: None };
        self.work(level, &mut frame);
        let bad_cycle = frame.bad_cycle;
        scratch.temporaries[index] = target;
        bad_cycle
    }
}

#[inline]
fn map(
    level: Level,
    frame: &mut Frame<'_>,
    count: usize,
    program: &Program,
    store: &Code<Operands>,
) {
    let at = Operands { first: program.value, ..Operands::default() };
    if count == 1 {
        for step in program.once.iter().chain(&program.each) {
            step.run_one(frame);
        }
        store.call_one(frame, &at);
        return;
    }
    let level = if count < FEW { Level::PORTABLE } else { level };
    program.prepare(level, frame, count.min(CHUNK));
    let mut start = 0;
    while start < count {
        let n = CHUNK.min(count - start);
        program.run(level, frame, start, n);
        store.call(level, frame, &at, n);
        start += n;
    }
}
