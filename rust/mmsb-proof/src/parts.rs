//! The parts of a run, each in a process of its own. What opens and closes a small bus mostly maps and unmaps memory,
//! for which the threads of one process wait for each other: two of them get no further than one.

use std::fmt;
use std::process::{Command, Stdio};

use crate::args::Args;
use crate::work::side_by_side;

/// So many parts on every machine, so that the same cases are tried everywhere.
const PARTS: usize = 4;

/// The cases of one process: they are dealt to the parts in turn.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    number: usize,
    of: usize,
}

impl Part {
    /// All cases.
    pub const ALL: Part = Part { number: 0, of: 1 };

    /// Its cases of `0..count`.
    pub fn cases(self, count: usize) -> impl Iterator<Item = usize> {
        (self.number..count).step_by(self.of)
    }

    /// What is its to do of a figure for all.
    pub fn share(self, figure: u64) -> u64 {
        figure.div_ceil(self.of as u64)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {}", self.number)
    }
}

/// How often so many processes begin a part, if all parts take equally long.
pub fn rounds(processes: usize) -> u64 {
    PARTS.div_ceil(processes) as u64
}

/// Does the part that this process was asked for, and prints what it counted; None. Or has all parts done, and adds up.
///
/// # Panics
/// A part failed; it has said why.
#[allow(clippy::print_stdout)]
pub fn sum<const N: usize>(args: &Args, work: impl Fn(Part) -> [u64; N]) -> Option<[u64; N]> {
    if let Some(number) = args.part {
        let part = Part { number, of: PARTS };
        println!("{}", work(part).map(|number| number.to_string()).join(" "));
        return None;
    }
    let mut all = [0; N];
    let ask = |part: usize| {
        let this = std::env::current_exe().unwrap();
        let given = std::env::args().skip(1);
        let part = ["--part".into(), part.to_string()];
        let command = Command::new(this).args(given).args(part).stderr(Stdio::inherit()).output();
        let output = command.unwrap();
        assert!(output.status.success(), "a part failed: see above");
        String::from_utf8(output.stdout).unwrap()
    };
    side_by_side(args.threads, PARTS, ask, |said| {
        let numbers: Vec<u64> = said.split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers.len(), N, "{said}");
        all.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
    });
    Some(all)
}
