//! The typed operations of a text: what is computed, before it is decided when.
//!
//! Invariants: the operands of a node stand before it; equal nodes are one node; the element type and
//! the shape of a node are those of its result, and its size in bytes is computed without overflow.

use std::collections::HashMap;
use std::rc::Rc;

use super::element::Element;
use super::ops::{BinaryOp, FoldOp, UnaryOp};
use super::semiring::Ring;
use super::{Fault, MAX_NODES};

/// The place of a node in its graph.
pub(super) type NodeId = usize;

pub(super) type Shape = Rc<[u64]>;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Kind {
    Input(usize),
    /// The bits of an element, under every place of the shape.
    Constant(u64),
    Cast(NodeId),
    Unary(UnaryOp, NodeId),
    Binary(BinaryOp, NodeId, NodeId),
    Where(NodeId, NodeId, NodeId),
    /// Over one axis, or over all elements.
    Fold(FoldOp, NodeId, Option<usize>),
    Product(Ring, NodeId, NodeId),
    Closure(Ring, NodeId),
}

impl Kind {
    /// The operands, in order.
    pub(super) fn operands(self) -> impl Iterator<Item = NodeId> {
        let [a, b, c] = match self {
            Kind::Input(_) | Kind::Constant(_) => [None, None, None],
            Kind::Cast(a) | Kind::Unary(_, a) | Kind::Fold(_, a, _) | Kind::Closure(_, a) => {
                [Some(a), None, None]
            }
            Kind::Binary(_, a, b) | Kind::Product(_, a, b) => [Some(a), Some(b), None],
            Kind::Where(a, b, c) => [Some(a), Some(b), Some(c)],
        };
        a.into_iter().chain(b).chain(c)
    }

    /// Inputs and constants are loaded wherever they are needed.
    pub(super) fn is_leaf(self) -> bool {
        matches!(self, Kind::Input(_) | Kind::Constant(_))
    }

    pub(super) fn is_elementwise(self) -> bool {
        matches!(self, Kind::Cast(_) | Kind::Unary(..) | Kind::Binary(..) | Kind::Where(..))
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) element: Element,
    pub(super) shape: Shape,
}

impl Node {
    /// The number of elements; [`Graph::add`] saw that it fits.
    pub(super) fn count(&self) -> usize {
        count(&self.shape).unwrap_or(usize::MAX)
    }
}

#[derive(Default, Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    known: HashMap<Node, NodeId>,
}

impl Graph {
    /// The node with this description; `at` is the position of what asks for it.
    pub(super) fn add(
        &mut self,
        at: usize,
        kind: Kind,
        element: Element,
        shape: Shape,
    ) -> Result<NodeId, Fault> {
        let node = Node { kind, element, shape };
        if let Some(id) = self.known.get(&node) {
            return Ok(*id);
        }
        if bytes(&node.shape, element).is_none() {
            let what = format!("an array of shape {} is too large", name_shape(&node.shape));
            return Err(Fault::new(at, what));
        }
        if self.nodes.len() == MAX_NODES {
            let what = format!("the expression has more than {MAX_NODES} operations");
            return Err(Fault::new(at, what));
        }
        let id = self.nodes.len();
        self.nodes.push(node.clone());
        self.known.insert(node, id);
        Ok(id)
    }
}

/// The number of elements of a shape.
pub(super) fn count(shape: &[u64]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |count, length| count.checked_mul(usize::try_from(*length).ok()?))
}

/// The number of bytes of an array.
pub(super) fn bytes(shape: &[u64], element: Element) -> Option<usize> {
    let bytes = count(shape)?.checked_mul(element.size())?;
    (bytes <= isize::MAX as usize).then_some(bytes)
}

/// The shape two shapes broadcast to.
pub(super) fn broadcast(a: &[u64], b: &[u64]) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let length = |shape: &[u64], axis: usize| {
        (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis])
    };
    (0..rank)
        .map(|axis| match (length(a, axis), length(b, axis)) {
            (1, other) | (other, 1) => Some(other),
            (one, other) => (one == other).then_some(one),
        })
        .collect()
}

/// A shape as Python writes it.
pub(super) fn name_shape(shape: &[u64]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => {
            let lengths: Vec<String> = shape.iter().map(u64::to_string).collect();
            format!("({})", lengths.join(", "))
        }
    }
}
