//! A race: contestants take turns for some rounds in one run, so that what the machine does meanwhile meets all of
//! them alike. What is printed is the median of the rounds, with the lowest and the highest beside it.

use std::error::Error;
use std::time::{Duration, Instant};

pub type Res<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What a contestant is measured for.
#[derive(Clone, Copy)]
pub enum Role {
    Floor,
    Peer,
    Mmsb,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Role::Floor => "floor",
            Role::Peer => "peer",
            Role::Mmsb => "mmsb",
        }
    }
}

/// How long a run takes.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    /// One contestant's turn in a round.
    pub turn: Duration,
    /// A million pages, or fewer in a hurry.
    pub pages: u32,
    /// A gibibyte, or less in a hurry.
    pub large: usize,
    /// Derived pages of a small graph.
    pub nodes: usize,
}

/// Runs so many operations and says how long they took.
type Turn<'a> = Box<dyn FnMut(usize) -> Res<Duration> + 'a>;

struct Contestant<'a> {
    role: Role,
    name: String,
    turn: Turn<'a>,
    ops: usize,
    seen: Vec<f64>,
}

/// One row of the table.
pub struct Race<'a> {
    row: &'static str,
    /// Changes in one operation: the figure is per change.
    per: usize,
    contestants: Vec<Contestant<'a>>,
}

impl<'a> Race<'a> {
    pub fn new(row: &'static str, per: usize) -> Self {
        Race { row, per, contestants: Vec::new() }
    }

    pub fn enter(
        &mut self,
        role: Role,
        name: &str,
        turn: impl FnMut(usize) -> Res<Duration> + 'a,
    ) -> &mut Self {
        let name = name.to_owned();
        let turn = Box::new(turn);
        self.contestants.push(Contestant { role, name, turn, ops: 1, seen: Vec::new() });
        self
    }

    /// Prints the time of one change in microseconds, a line a contestant.
    pub fn run(&mut self, effort: Effort) -> Res<()> {
        for c in &mut self.contestants {
            c.ops = calibrate(&mut c.turn, effort.turn)?;
        }
        for round in 0..effort.rounds {
            let count = self.contestants.len();
            for i in 0..count {
                let c = &mut self.contestants[(round + i) % count];
                let took = (c.turn)(c.ops)?;
                c.seen.push(took.as_secs_f64() * 1e6 / (c.ops * self.per) as f64);
            }
        }
        for c in &mut self.contestants {
            report(self.row, c.role, &c.name, &mut c.seen);
        }
        Ok(())
    }
}

/// How many operations fill a turn; warms up on the way.
fn calibrate(turn: &mut Turn<'_>, target: Duration) -> Res<usize> {
    let mut ops = 1;
    loop {
        let took = turn(ops)?;
        if took * 4 >= target {
            let fitting = ops as f64 * target.as_secs_f64() / took.as_secs_f64();
            return Ok((fitting as usize).max(1));
        }
        ops *= 4;
    }
}

/// Prints one figure as a line of JSON. Names are this program's own and need no escapes.
pub fn report(row: &str, role: Role, name: &str, seen: &mut [f64]) {
    seen.sort_by(f64::total_cmp);
    let (low, mid, high) = (seen[0], seen[seen.len() / 2], seen[seen.len() - 1]);
    println!(
        r#"{{"row": "{row}", "role": "{}", "name": "{name}", "median": {mid}, "low": {low}, "high": {high}, "rounds": {}}}"#,
        role.as_str(),
        seen.len()
    );
}

/// The time of `f` alone.
pub fn timed<T>(f: impl FnOnce() -> Res<T>) -> Res<(T, Duration)> {
    let start = Instant::now();
    let value = f()?;
    Ok((value, start.elapsed()))
}

/// A fixed sequence of page numbers and offsets.
pub struct Picks(u64);

impl Picks {
    pub fn new(number: u64) -> Self {
        Picks(0x9E37_79B9_7F4A_7C15 ^ number)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(n)) >> 32) as u32
    }
}
