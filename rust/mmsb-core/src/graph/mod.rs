//! The dependency graph between pages: edited edge by edge, compiled into a plan, walked by dirty bits.
//!
//! * [`Node`] is a page's place in it, as the page's record keeps it.
//! * [`Graph`] is the editor. It holds the edges in both directions and refuses what would close a
//!   cycle, with the cycle itself as the answer.
//! * [`Plan`] is what a commit runs on: the same graph in canonical order `(level, page id)`, immutable.
//! * [`Dirty`] is the set of positions of a plan still to be recomputed, popped in ascending order,
//!   which is topological.
//!
//! Everything told to a caller is a function of the edges alone. The editor's topological order and
//! its node numbers depend on history and never leave it; nothing here iterates over a hash map into
//! an answer. Nothing recurses, so the depth of a graph is limited by memory only.

mod cycle;
mod dirty;
mod edges;
mod link;
mod lookup;
mod node;
mod order;
mod plan;
mod slab;

#[cfg(test)]
mod dirty_tests;
#[cfg(test)]
mod edges_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod scale_tests;

pub(crate) use dirty::Dirty;
pub(crate) use edges::{Graph, Refused};
#[cfg(test)]
use link::Link;
pub use link::{Edge, Kind};
pub(crate) use node::MAX_NODE;
pub use node::{Form, Marks, Node};
pub(crate) use plan::Plan;
