//! Models: the engine itself under loom, which runs its threads in every order, up to a number of preemptions, and lets
//! each load see every value that the memory model allows. How that is done is in `sync.rs`.
//!
//! Each model is a small life of the real types. What a reader gets is compared with what its epoch must show, and every
//! plain access to the arena must be ordered after the writes to the same place. Beside a model stand twins that do one
//! step wrongly and must be found out, which shows that the model would see it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod engine;
mod group;
mod protocol;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::sync;

/// What a model takes at most: words that threads share, and grains of plain memory.
const WORDS: usize = 100;
const GRAINS: usize = 400;

/// Runs a model in every order within the bound. Returns what was done, and whether it went well.
fn run(model: impl Fn() + Sync + Send + 'static) -> (String, bool) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 10_000;
    let bound = *builder.preemption_bound.get_or_insert(3);
    let begun = Instant::now();
    let done = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            sync::lay_in(WORDS, GRAINS);
            model();
        });
    }));
    let (runs, seconds) = (runs.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    (format!("{runs} executions, at most {bound} preemptions, {seconds:.1} s"), done.is_ok())
}

/// The model holds in every order.
fn holds(name: &str, model: impl Fn() + Sync + Send + 'static) {
    let (what, held) = run(model);
    assert!(held, "loom {name}: broken after {what}");
    println!("loom {name}: holds in all of {what}");
}

/// The model with a wrong step is found out.
fn breaks(name: &str, model: impl Fn() + Sync + Send + 'static) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (what, held) = run(model);
    std::panic::set_hook(hook);
    assert!(!held, "loom {name}: not found out in {what}");
    println!("loom {name}: found out after {what}");
}
