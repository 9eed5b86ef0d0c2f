//! The dependency graph.
mod node;

pub(crate) use node::MAX_NODE;
pub use node::{Form, Marks, Node};

/// Kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// d
    Data = 0,
    /// c
    Control = 1,
    /// g
    GpuSync = 2,
    /// c
    Compiler = 3,
}
impl Kind {
    /// x
    pub fn from_code(code: u8) -> Option<Kind> {
        [Kind::Data, Kind::Control, Kind::GpuSync, Kind::Compiler].get(code as usize).copied()
    }
}
/// Edge
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// s
    pub src: u64,
    /// d
    pub dst: u64,
    /// k
    pub kind: Kind,
}
