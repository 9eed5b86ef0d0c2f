//! Kernels of one level, run by several threads.
//!
//! They depend on nothing of each other and each writes bytes of its own, so it does not matter who runs which. Work is
//! dealt out by fixed quotas of effort, and what comes of it is looked at in the order of the plan.

use std::sync::OnceLock;

use rayon_core::{ThreadPool, ThreadPoolBuilder};

use crate::kernel::{Failed, Kernel, Scratch};

/// Effort from which on more than one thread is worth waking, about a third of a millisecond.
const WORTH: u64 = 1 << 20;
/// Effort that a thread takes at once.
const QUOTA: u64 = 1 << 17;

/// One kernel to run.
pub(super) struct Task<'t> {
    pub(super) kernel: &'t Kernel,
    pub(super) inputs: Vec<&'t [u8]>,
    pub(super) out: &'t mut [u8],
    pub(super) done: Result<(), Failed>,
}

impl Task<'_> {
    fn run(&mut self, scratch: &mut Scratch) {
        self.done = self.kernel.run(&self.inputs, self.out, scratch);
    }
}

/// The threads of a bus, which are made when they are first needed.
#[derive(Default)]
pub(super) struct Threads {
    /// How many there may be; 0 and 1 are none beside the one that commits.
    most: OnceLock<usize>,
    pool: OnceLock<Option<ThreadPool>>,
}

impl Threads {
    /// Without a number, as many as the machine runs at once.
    pub(super) fn new(most: Option<usize>) -> Threads {
        Threads { most: most.map_or_else(OnceLock::new, OnceLock::from), ..Threads::default() }
    }

    /// The machine is asked when there is work: its answer is in files of the system, which opening need not read.
    fn most(&self) -> usize {
        // Model checkers have threads of their own.
        let is_modelled = cfg!(any(loom, shuttle));
        let ask = || std::thread::available_parallelism().map_or(1, usize::from);
        *self.most.get_or_init(|| if is_modelled { 1 } else { ask() })
    }

    /// Whether kernels of so much effort are run by several threads.
    pub(super) fn are_worth(&self, effort: u64) -> bool {
        effort >= WORTH && self.most() > 1
    }

    /// Runs all tasks. Where no thread can be had the caller runs them itself.
    pub(super) fn run(&self, tasks: &mut [Task<'_>]) {
        let pool = self.pool.get_or_init(|| {
            let named = ThreadPoolBuilder::new().thread_name(|n| format!("mmsb-wave-{n}"));
            named.num_threads(self.most()).build().ok()
        });
        let Some(pool) = pool else {
            let mut scratch = Scratch::default();
            return tasks.iter_mut().for_each(|task| task.run(&mut scratch));
        };
        pool.scope(|scope| {
            let mut rest = tasks;
            while !rest.is_empty() {
                let (mut count, mut effort) = (0, 0);
                while count < rest.len() && effort < QUOTA {
                    effort += rest[count].kernel.effort();
                    count += 1;
                }
                let (part, behind) = std::mem::take(&mut rest).split_at_mut(count);
                rest = behind;
                scope.spawn(move |_| {
                    let mut scratch = Scratch::default();
                    part.iter_mut().for_each(|task| task.run(&mut scratch));
                });
            }
        });
    }
}
