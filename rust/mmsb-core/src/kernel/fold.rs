//! Reductions: the tree of the module docs, along rows or down columns.
//!
//! Invariant: the shape of the tree depends on the number of folded elements only. Along a row a
//! chunk is four whole blocks, so the value of a chunk is a node of the tree; down columns every
//! column has its own lanes, and they are worked on side by side.

use super::ops::FoldCode;
use super::run::Program;
use super::simd::{Code, Level};
use super::sweep::{BLOCK, CHUNK, Constant, Frame, LANES, Operands};

#[derive(Debug)]
pub(super) struct FoldStage {
    pub(super) program: Program,
    pub(super) code: FoldCode,
    pub(super) fill: Code<Constant>,
    pub(super) store: Code<Operands>,
    /// The elements before, along and after the folded axis.
    pub(super) outer: usize,
    pub(super) length: usize,
    pub(super) inner: usize,
    /// Where the bank of the type has [`room`] for lanes and partial results.
    pub(super) room: usize,
}

/// The elements a fold needs beside its program.
pub(super) fn room(length: usize, inner: usize) -> usize {
    let depth = 2 + (length / BLOCK).checked_ilog2().unwrap_or(0) as usize;
    if inner == 1 { CHUNK } else { (LANES + depth + 1) * inner.min(CHUNK) }
}

impl FoldStage {
    pub(super) fn run(&self, level: Level, frame: &mut Frame<'_>) {
        let count = self.outer * self.length * self.inner;
        if count == 0 {
            return;
        }
        self.program.prepare(level, frame, count.min(CHUNK));
        if self.inner > 1 {
            self.columns(level, frame);
        } else if self.length > CHUNK {
            for row in 0..self.outer {
                self.long_row(level, frame, row);
            }
        } else {
            self.short_rows(level, frame);
        }
    }

    fn store(&self, level: Level, frame: &mut Frame<'_>, from: usize, start: usize, n: usize) {
        frame.start = start;
        let at = Operands { first: from, ..Operands::default() };
        self.store.call(level, frame, &at, n);
    }

    fn accumulate(
        &self,
        level: Level,
        frame: &mut Frame<'_>,
        target: usize,
        second: usize,
        n: usize,
    ) {
        let at = Operands { target, second, ..Operands::default() };
        self.code.accumulate.call(level, frame, &at, n);
    }

    fn fold_runs(&self, level: Level, frame: &mut Frame<'_>, target: usize, run: usize, n: usize) {
        let at = Operands { target, first: self.program.value, third: run, ..Operands::default() };
        self.code.runs.call(level, frame, &at, n);
    }

    /// As many whole rows at a time as fit into a chunk.
    fn short_rows(&self, level: Level, frame: &mut Frame<'_>) {
        let at_once = CHUNK / self.length;
        let mut row = 0;
        while row < self.outer {
            let rows = at_once.min(self.outer - row);
            let n = rows * self.length;
            self.program.run(level, frame, row * self.length, n);
            self.fold_runs(level, frame, self.room, self.length, n);
            self.store(level, frame, self.room, row, rows);
            row += rows;
        }
    }

    fn long_row(&self, level: Level, frame: &mut Frame<'_>, row: usize) {
        let mut pairs = Pairs::new(self, self.room, 1);
        let (mut done, first) = (0, row * self.length);
        while done < self.length {
            let n = CHUNK.min(self.length - done);
            self.program.run(level, frame, first + done, n);
            let target = pairs.top();
            self.fold_runs(level, frame, target, n, n);
            pairs.push(level, frame);
            done += n;
        }
        pairs.finish(level, frame);
        self.store(level, frame, self.room, row, 1);
    }

    fn columns(&self, level: Level, frame: &mut Frame<'_>) {
        let width = self.inner.min(CHUNK);
        for outer in 0..self.outer {
            for column in (0..self.inner).step_by(width) {
                let n = width.min(self.inner - column);
                self.columns_of(level, frame, (outer, column), (width, n));
            }
        }
    }

    /// Folds `n` columns; their lanes are `width` apart.
    fn columns_of(
        &self,
        level: Level,
        frame: &mut Frame<'_>,
        (outer, column): (usize, usize),
        (width, n): (usize, usize),
    ) {
        let (lanes, stack) = (self.room, self.room + LANES * width);
        let mut pairs = Pairs::new(self, stack, width);
        for block in (0..self.length).step_by(BLOCK) {
            let rows = BLOCK.min(self.length - block);
            let start = Constant { target: lanes, bits: self.code.start };
            self.fill.call(level, frame, &start, LANES * width);
            let first = (outer * self.length + block) * self.inner + column;
            self.block(level, frame, (first, rows), (width, n));
            let top = Constant { target: pairs.top(), bits: self.code.start };
            self.fill.call(level, frame, &top, width);
            self.accumulate(level, frame, top.target, lanes, width);
            pairs.push(level, frame);
        }
        pairs.finish(level, frame);
        self.store(level, frame, stack, outer * self.inner + column, n);
    }

    /// Folds the rows of one block into the first lane, from the element `first` on.
    fn block(
        &self,
        level: Level,
        frame: &mut Frame<'_>,
        (first, rows): (usize, usize),
        (width, n): (usize, usize),
    ) {
        // Rows follow each other without a gap only if they are worked on in their full width.
        let at_once = if n == self.inner { CHUNK / n } else { 1 };
        let mut row = 0;
        while row < rows {
            let batch = at_once.min(rows - row);
            self.program.run(level, frame, first + row * self.inner, batch * n);
            for i in 0..batch {
                let lane = self.room + (row + i) % LANES * width;
                self.accumulate(level, frame, lane, self.program.value + i * n, n);
            }
            row += batch;
        }
        for half in [4, 2, 1] {
            let upper = self.room + half * width;
            self.accumulate(level, frame, self.room, upper, half * width);
        }
    }
}

/// Combines values pairwise as they come: the `i`-th value first meets its neighbour, then pairs
/// meet pairs, which is the tree level by level.
struct Pairs<'f> {
    fold: &'f FoldStage,
    stack: usize,
    width: usize,
    depth: usize,
    pushed: usize,
}

impl<'f> Pairs<'f> {
    fn new(fold: &'f FoldStage, stack: usize, width: usize) -> Self {
        Pairs { fold, stack, width, depth: 0, pushed: 0 }
    }

    /// Where the next value goes.
    fn top(&self) -> usize {
        self.stack + self.depth * self.width
    }

    fn push(&mut self, level: Level, frame: &mut Frame<'_>) {
        self.depth += 1;
        let mut index = self.pushed;
        while index & 1 == 1 {
            self.join(level, frame);
            index >>= 1;
        }
        self.pushed += 1;
    }

    fn join(&mut self, level: Level, frame: &mut Frame<'_>) {
        let upper = self.stack + (self.depth - 1) * self.width;
        self.fold.accumulate(level, frame, upper - self.width, upper, self.width);
        self.depth -= 1;
    }

    fn finish(&mut self, level: Level, frame: &mut Frame<'_>) {
        while self.depth > 1 {
            self.join(level, frame);
        }
    }
}
