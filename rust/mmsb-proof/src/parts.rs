//! The parts of a run, each in a process of its own. What opens and closes a small bus mostly maps and unmaps memory,
//! for which the threads of one process wait for each other: two of them get no further than one.

use std::process::{Command, Stdio};

use crate::args::Args;
use crate::work::side_by_side;

/// So many parts on every machine, so that the same cases are tried everywhere: cases are dealt to them in turn.
pub const PARTS: usize = 4;

/// Does the part that this process was asked for, and prints what it counted; None. Or has all parts done, and adds up.
///
/// # Panics
/// A part failed; it has said why.
#[allow(clippy::print_stdout)]
pub fn sum<const N: usize>(args: &Args, work: impl Fn(usize) -> [u64; N]) -> Option<[u64; N]> {
    if let Some(part) = args.part {
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
