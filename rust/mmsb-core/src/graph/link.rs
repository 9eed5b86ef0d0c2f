//! What an edge is, and the four bytes that one end of it takes.
//!
//! A [`Link`] packs the node at the other end and the kind into a `u32`, which is what limits a graph
//! to [`Link::NODES`] nodes.

use std::cmp::Ordering;
use std::fmt;

/// What an edge means to the page it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The page is computed from the other's bytes.
    Data = 0,
    /// The page is stale once the other has changed.
    Control = 1,
    /// The page's copy on a device has to be brought up to date.
    GpuSync = 2,
    /// What was compiled for the page no longer holds.
    Compiler = 3,
}

impl Kind {
    /// Every kind, at the index that is its number.
    pub const ALL: [Self; 4] = [Self::Data, Self::Control, Self::GpuSync, Self::Compiler];

    /// The name users write.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Control => "control",
            Self::GpuSync => "gpu_sync",
            Self::Compiler => "compiler",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A dependency of one page on another; its three fields together identify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The page depended on.
    pub src: u64,
    /// The page that depends.
    pub dst: u64,
    /// What the dependency means.
    pub kind: Kind,
}

impl Edge {
    /// The edge from `src` to `dst`.
    #[must_use]
    pub fn new(src: u64, dst: u64, kind: Kind) -> Self {
        Self { src, dst, kind }
    }
}

/// By the page that depends, then the page depended on, then the kind: the inputs of a page adjoin.
impl Ord for Edge {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.dst, self.src, self.kind).cmp(&(other.dst, other.src, other.kind))
    }
}

impl PartialOrd for Edge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -{}-> {}", self.src, self.kind, self.dst)
    }
}

/// The other end of an edge: in a [`Plan`](super::Plan), a position and the kind. Ordered by both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Link(u32);

impl Link {
    /// How many nodes can be told apart; one less than the bits allow, which leaves [`Link::NONE`].
    pub(super) const NODES: u32 = (1 << 30) - 1;

    /// No link at all.
    pub(super) const NONE: Self = Self(u32::MAX);

    pub(super) fn new(to: u32, kind: Kind) -> Self {
        debug_assert!(to < Self::NODES);
        Self(to << 2 | kind as u32)
    }

    /// Where the edge leads, or where it comes from in a list of inputs.
    #[must_use]
    pub(crate) fn to(self) -> u32 {
        self.0 >> 2
    }

    /// What the edge means.
    #[must_use]
    pub(crate) fn kind(self) -> Kind {
        Kind::ALL[(self.0 & 3) as usize]
    }

    /// Whether the edge decides when a page is computed: data and control do.
    pub(super) fn orders(self) -> bool {
        self.0 & 2 == 0
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.to(), self.kind())
    }
}
