//! The engine of MMSB, the Memory-Mapped State Bus.
//!
//! A *bus* keeps the state of a program in *pages* of bytes. Each change is a *delta*; a set of deltas *commits*
//! atomically and makes a new *epoch*. Published bytes never change; the log can rebuild every epoch.
//! One law holds everywhere: state x delta -> state'. See ARCHITECTURE.md for the way of a commit.

mod apply;
mod arena;
mod backup;
mod blocks;
mod bus;
mod catalog;
mod checkpoint;
mod compare;
mod core;
mod delta;
pub mod diff;
mod digest;
mod edit;
mod error;
mod events;
mod fork;
mod graph;
mod group;
mod hash;
mod history;
mod index;
mod keeper;
mod kernel;
mod lazy;
mod limits;
pub mod log;
mod maker;
#[cfg(all(test, loom))]
mod models;
mod museum;
mod names;
mod open;
mod page;
mod propagate;
mod prune;
mod reader;
mod reclaim;
mod restore;
mod retain;
mod root;
mod salvage;
mod sequence;
mod snapshot;
mod sync;
mod table;
mod trace;
pub mod vfs;
mod view;
mod window;

pub use bus::Bus;
pub use catalog::PageInfo;
pub use compare::part;
pub use delta::{Batch, NewPage, Op};
pub use diff::diff_ranges;
pub use error::{Code, Detail, Error, InGraph, Result};
pub use events::{Event, Subscription, Told};
pub use fork::{at_fork_before, at_fork_child, at_fork_parent};
pub use graph::{Edge, Form, Kind, Marks, Node};
pub use history::{Cost, LogEntry, LogIter};
pub use index::Wanted;
pub use log::FORMAT;
pub use open::{Mode, Options, Recovery, Report};
pub use propagate::{
    Argument, Call, Cause, Failure, Followed, Function, expression_type, expression_variables,
};
pub use prune::{Keep, PruneReport};
pub use reader::{Reader, ReaderSnapshot};
pub use salvage::{Salvage, Wish, recover, recover_on, verify, verify_on};
pub use sequence::{Committed, Durability, How};
pub use snapshot::Snapshot;
pub use trace::EVENTS;
pub use view::View;
pub use window::Retention;
