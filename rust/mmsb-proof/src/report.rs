//! What a run of a harness found, in the one line that RELIABILITY.md shows.

use std::fmt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::args::Args;

/// One line of RELIABILITY.md.
#[derive(Debug, Clone)]
pub struct Row<'a> {
    /// Number and name of the row, for the file that keeps it.
    pub id: &'a str,
    /// What the row is about.
    pub row: &'a str,
    /// What was tried.
    pub tried: String,
    /// How many cases.
    pub count: String,
    /// The seed.
    pub seed: String,
    /// What came out.
    pub result: String,
    /// How to do it again.
    pub command: String,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { row, tried, count, seed, result, command, .. } = self;
        let date = today();
        write!(f, "{row} | {tried} | {count} | {seed} | {result} | {date} | `{command}`")
    }
}

impl Row<'static> {
    /// The line of a harness that goes through everything there is, unless it was given a number of cases.
    pub fn of(
        args: &Args,
        id: &'static str,
        row: &'static str,
        tried: &str,
        count: String,
    ) -> Self {
        Row {
            id,
            row,
            tried: if args.cases.is_some() {
                format!("a sample of: {tried}")
            } else {
                tried.into()
            },
            count,
            seed: args.seed.to_string(),
            result: "0 failures".into(),
            command: args.command.clone(),
        }
    }
}

impl Row<'_> {
    /// Prints the line and keeps it in `target/reliability`, where `scripts/reliability` finds it.
    ///
    /// # Errors
    /// The file cannot be written.
    #[allow(clippy::print_stdout)]
    pub fn publish(&self) -> std::io::Result<()> {
        println!("{self}");
        let dir = Path::new("target/reliability");
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join(format!("{}.row", self.id)), format!("{self}\n"))
    }
}

/// The date in UTC.
fn today() -> String {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86_400);
    // Days since 0000-03-01, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) =
        (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_date_is_a_date() {
        let date = super::today();
        assert!(date.len() == 10 && date.as_str() >= "2026-01-01", "{date}");
    }
}
