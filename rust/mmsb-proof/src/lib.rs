//! What proves MMSB: a file system that fails, tears and forgets; the operation alphabet and its model; and the
//! harnesses that run one against the other. The binary `mmsb-proof` runs them at their full figures, `cargo test` in
//! short. Nothing here is part of what is shipped.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod args;
pub mod crash;
pub mod damage;
pub mod determinism;
pub mod faults;
pub mod format;
pub mod hostile;
pub mod kills;
pub mod model;
pub mod parts;
pub mod peak;
pub mod properties;
pub mod report;
pub mod rng;
pub mod sim;
pub mod work;
