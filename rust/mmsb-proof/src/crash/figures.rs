//! How much of the crash harness is run: in some seconds, at its full figures, for hours; and the rows of that.

use std::time::{Duration, Instant};

use super::{Lives, Run, Seen, Tally};
use crate::args::Args;
use crate::parts::{self, Part};
use crate::report::Row;

/// What the parts of a run found.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Workloads, enumerated and random.
    pub workloads: Tally,
    /// Crashes in recovery.
    pub recoveries: Tally,
}

impl Outcome {
    /// Everything that went wrong.
    pub fn failures(&self) -> impl Iterator<Item = &String> {
        self.workloads.failures.iter().chain(&self.recoveries.failures)
    }

    fn images(&self) -> u64 {
        self.workloads.images() + self.recoveries.images()
    }

    #[allow(clippy::print_stderr)]
    fn progress(&self, part: Part, what: &str) {
        let failures = self.failures().count();
        eprintln!("crash: {part}: {what}: {} images, {failures} failures", self.images());
    }

    /// Of a part in which nothing went wrong.
    fn numbers(&self) -> [u64; 20] {
        assert!(self.report() == 0, "the failures are above");
        let both = [self.workloads.numbers(), self.recoveries.numbers()];
        std::array::from_fn(|n| both[n / 10][n % 10])
    }

    fn of(numbers: [u64; 20]) -> Outcome {
        let half = |from| Tally::of(std::array::from_fn(|n| numbers[from + n]));
        Outcome { workloads: half(0), recoveries: half(10) }
    }

    /// Shows the first failures, and says how many there are.
    #[allow(clippy::print_stderr)]
    pub fn report(&self) -> usize {
        self.failures().take(8).for_each(|what| eprintln!("FAILED {what}\n"));
        self.failures().count()
    }
}

/// The short form: half a minute.
pub fn short(seed: u64) -> Outcome {
    let run = Run::new(Part::ALL, seed, 3, 8);
    let mut out = Outcome::default();
    out.workloads.add(run.enumerate(false, 1, false));
    out.workloads.add(run.enumerate(true, 1, true));
    out.workloads.add(run.random(0, 2, true));
    out.recoveries.add(run.recoveries(0, 1));
    out.recoveries.add(run.chains(0, 100));
    out
}

/// The harness at its full figures.
pub fn run(args: &Args) -> Vec<Row<'static>> {
    let part = |part| match args.seconds {
        Some(seconds) => soak(args, part, seconds),
        None => points(args, part),
    };
    let Some(numbers) = parts::sum(args, |number| part(number).numbers()) else { return vec![] };
    let out = Outcome::of(numbers);
    if args.seconds.is_some() { soaked(args, &out) } else { rows(args, &out) }
}

fn points(args: &Args, part: Part) -> Outcome {
    let run = Run::new(part, args.seed, 4, 16);
    let mut out = Outcome::default();
    let all = args.cases.is_none();
    for acts in 1..=if all { 2 } else { 1 } {
        out.workloads.add(run.enumerate(false, acts, false));
        out.workloads.add(run.enumerate(true, acts, false));
    }
    if all {
        out.progress(part, "workloads of one and two acts");
        out.workloads.add(run.enumerate(false, 3, true));
        out.progress(part, "workloads of three acts");
    }
    let least = part.share(args.cases.unwrap_or(1_000_000));
    let mut done = 0;
    while out.recoveries.images() < least / 5 && !run.is_over() {
        out.recoveries.add(run.recoveries(done, 16));
        out.recoveries.add(run.chains(done * 128, 2048));
        done += 16;
    }
    out.progress(part, "crashes in recovery");
    let mut done = 0;
    while (done < 1000 && all || out.images() < least) && !run.is_over() {
        out.workloads.add(run.random(done, 40, all));
        done += 40;
    }
    out
}

/// All workloads of three acts, every moment left in all ways: hours.
pub fn deep(args: &Args) -> Vec<Row<'static>> {
    let part = |part| {
        let workloads = Run::new(part, args.seed, 4, 16).enumerate(false, 3, false);
        Outcome { workloads, ..Outcome::default() }
    };
    let Some(numbers) = parts::sum(args, |number| part(number).numbers()) else { return vec![] };
    let Tally { cases, points, same, lost, killed, .. } = Outcome::of(numbers).workloads;
    let images = lost + killed;
    vec![Row::of(
        args,
        "01-crash-deep",
        "crash at every call, three acts",
        "all workloads of three acts of the alphabet at every durability and with both appends, each moment left in \
         all ways: all combinations of up to 4 pending choices, else 20, and kills in the middle of stores",
        format!(
            "{cases} workloads, {points} moments, {images} images; {same} more were like one of them"
        ),
    )]
}

/// Random workloads with ever new seeds.
fn soak(args: &Args, part: Part, seconds: u64) -> Outcome {
    let time = Duration::from_secs(seconds / parts::rounds(args.threads));
    let until = Some(Instant::now() + time);
    let mut run = Run { until, ..Run::new(part, args.seed, 10, 200) };
    let mut out = Outcome::default();
    while !run.is_over() {
        out.workloads.add(run.random(0, 64, false));
        out.recoveries.add(run.recoveries(0, 4));
        out.recoveries.add(run.chains(0, 512));
        run.scale.seed += 1;
        run.seen = Seen::default();
    }
    out
}

fn soaked(args: &Args, out: &Outcome) -> Vec<Row<'static>> {
    let images = out.images();
    let same = out.workloads.same + out.recoveries.same;
    vec![Row::of(
        args,
        "01-crash-soak",
        "crashes, going on",
        "random workloads of 30 to 60 acts, crashes at every call of them and of recovery, all combinations of up to 10 \
         pending choices",
        format!("{images} images, {same} more were like one of them"),
    )]
}

fn rows(args: &Args, out: &Outcome) -> Vec<Row<'static>> {
    let Outcome { workloads, recoveries } = out;
    let row = |id, row, tried, count| Row::of(args, id, row, tried, count);
    let images = out.images();
    let same = workloads.same + recoveries.same;
    let Lives { closed, killed, lost, finished, read } =
        [workloads.lives, recoveries.lives].into_iter().fold(Lives::default(), Lives::and);
    vec![
        row(
            "01-crash-points",
            "crash at every call",
            "all workloads of up to 3 acts of the alphabet on a new store and up to 2 on one that is not, at every \
             durability and with both appends, and random ones of 30 to 60 acts; power loss after each call, kills also \
             in the middle of stores, in all ways of row 02, of three acts and more in two of them by turns; what \
             opens equals the model",
            format!(
                "{} workloads, {} moments, {images} images in all; {same} more were like one of them",
                workloads.cases, workloads.points
            ),
        ),
        row(
            "02-unsynced-data",
            "unsynced data",
            "names, lengths, sectors of 512 B, blocks of 4 KiB lost on their own, in any order: all combinations of up to \
             4 pending choices, else 20 ways a moment; bytes stored through a mapping, and sectors that the system wrote \
             early, among them",
            format!("{} images of a power loss", workloads.lost + recoveries.lost),
        ),
        row(
            "04-crash-in-recovery",
            "crash during recovery",
            "crash at every call of opening an image, and at every call of opening what is left; three in a row at random",
            format!(
                "{} images opened, {} moments, {} images",
                recoveries.cases,
                recoveries.points,
                recoveries.images()
            ),
        ),
        row(
            "05-life-after",
            "life after recovery",
            "every image: three more commits, then closed, killed or all lost that was not durable, opened and compared; \
             of one in 32 every epoch is opened and every byte verified; one in four is opened by a reader first",
            format!(
                "{closed} closed, {killed} killed, {lost} lost; {finished} verified; {read} shown to a reader"
            ),
        ),
    ]
}
