//! How a harness is asked for.

/// The numbers that a harness is run with.
#[derive(Debug, Clone)]
pub struct Args {
    /// Where all randomness comes from.
    pub seed: u64,
    /// How many cases at least; without it as many as the harness's row asks for.
    pub cases: Option<u64>,
    /// Goes on for this long instead.
    pub seconds: Option<u64>,
    /// Threads, or processes, that work side by side.
    pub threads: usize,
    /// The part of the run that is this process's.
    pub part: Option<usize>,
    /// The command that repeats the run.
    pub command: String,
}

impl Args {
    /// Reads `--seed N --cases N --seconds N --threads N`, and `--part N`, which a run gives to the processes it starts.
    ///
    /// # Errors
    /// What is not understood, in words.
    pub fn parse(harness: &str, given: impl Iterator<Item = String>) -> Result<Args, String> {
        let mut args = Args {
            seed: 1,
            cases: None,
            seconds: None,
            threads: 2,
            part: None,
            command: String::new(),
        };
        let given: Vec<String> = given.collect();
        for pair in given.chunks(2) {
            let number = pair.get(1).and_then(|text| text.parse::<u64>().ok());
            let Some(number) = number else {
                return Err(format!("{} needs a number", pair[0]));
            };
            match pair[0].as_str() {
                "--seed" => args.seed = number,
                "--cases" => args.cases = Some(number),
                "--seconds" => args.seconds = Some(number),
                "--threads" => args.threads = number.max(1) as usize,
                "--part" => args.part = Some(number as usize),
                other => {
                    return Err(format!(
                        "{other} is unknown; try --seed, --cases, --seconds, --threads"
                    ));
                }
            }
        }
        let mut words = vec!["mmsb-proof".to_string(), harness.to_string()];
        words.extend(given);
        args.command = words.join(" ");
        Ok(args)
    }
}
