//! A typed graph to stages: which operations share one pass over memory, and in which registers.
//!
//! Element-wise operations of one shape that feed only each other become one program. An operation
//! gets a stage of its own, with a temporary for its result, if it is no element-wise one (a fold, a
//! product, a closure), if it is used in another shape than its own, or if two stages use it.
//! Invariant: every node the result depends on is computed exactly once.

use std::collections::HashMap;

use super::element::Element;
use super::fold::{FoldStage, room};
use super::graph::{Graph, Kind, NodeId, Shape, count};
use super::ops::{self, FoldOp};
use super::run::{Program, Stage, Step, Work};
use super::semiring::{self, Closure, Product};
use super::sweep::{self, CHUNK, Constant, Layout, Load, Operands, Source};
use super::{Fault, MAX_TEMPORARIES};

/// What a kernel runs, and the memory it needs for that.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) stages: Vec<Stage>,
    /// The elements each bank has at least.
    pub(super) banks: Vec<(Element, usize)>,
    /// The bytes of each temporary.
    pub(super) temporaries: Vec<usize>,
}

pub(super) fn plan(graph: &Graph, root: NodeId) -> Result<Plan, Fault> {
    let homes = homes(graph, root);
    let mut planner = Planner {
        graph,
        members: members(graph, &homes),
        temporary_of: HashMap::new(),
        banks: [0; Element::COUNT],
        plan: Plan { stages: Vec::new(), banks: Vec::new(), temporaries: Vec::new() },
    };
    for id in (0..root).filter(|id| homes[*id] == Some(*id)).chain([root]) {
        planner.stage(id, id == root)?;
    }
    for (index, length) in planner.banks.iter().enumerate() {
        if *length > 0 {
            planner.plan.banks.push((ELEMENTS[index], *length));
        }
    }
    Ok(planner.plan)
}

/// The types in the order of their discriminants.
const ELEMENTS: [Element; Element::COUNT] = [
    Element::Bool,
    Element::I8,
    Element::I16,
    Element::I32,
    Element::I64,
    Element::U8,
    Element::U16,
    Element::U32,
    Element::U64,
    Element::F32,
    Element::F64,
];

/// The stage each node is computed in, named by the node whose result the stage writes; leaves and
/// what the root does not need have none.
fn homes(graph: &Graph, root: NodeId) -> Vec<Option<NodeId>> {
    let mut homes = vec![None; graph.nodes.len()];
    homes[root] = Some(root);
    for id in (0..=root).rev() {
        let node = &graph.nodes[id];
        if homes[id].is_none() {
            continue;
        }
        if !node.kind.is_elementwise() {
            homes[id] = Some(id);
        }
        for operand in node.kind.operands() {
            let child = &graph.nodes[operand];
            let together = match node.kind {
                Kind::Fold(..) => true,
                kind => kind.is_elementwise() && child.shape == node.shape,
            };
            let wanted = if together { homes[id] } else { Some(operand) };
            homes[operand] = match homes[operand] {
                None => wanted,
                known if known == wanted => known,
                _ => Some(operand),
            };
        }
    }
    for (home, node) in homes.iter_mut().zip(&graph.nodes) {
        if node.kind.is_leaf() {
            *home = None;
        }
    }
    homes
}

/// The element-wise nodes of each stage, in order.
fn members(graph: &Graph, homes: &[Option<NodeId>]) -> HashMap<NodeId, Vec<NodeId>> {
    let mut members: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for (id, home) in homes.iter().enumerate() {
        if let Some(home) = home
            && graph.nodes[id].kind.is_elementwise()
        {
            members.entry(*home).or_default().push(id);
        }
    }
    members
}

/// What typing should have refused.
fn no_code(kind: Kind, element: Element) -> Fault {
    Fault::new(0, format!("there is no code for {kind:?} on {}", element.name()))
}

struct Planner<'g> {
    graph: &'g Graph,
    members: HashMap<NodeId, Vec<NodeId>>,
    temporary_of: HashMap<NodeId, usize>,
    /// The elements each bank needs, by the discriminant of its type.
    banks: [usize; Element::COUNT],
    plan: Plan,
}

impl Planner<'_> {
    fn stage(&mut self, id: NodeId, is_root: bool) -> Result<(), Fault> {
        let node = &self.graph.nodes[id];
        let work = match node.kind {
            Kind::Fold(op, operand, axis) => self.fold(id, op, operand, axis)?,
            Kind::Product(ring, left, right) => {
                let code = semiring::product(ring, node.element);
                let code = code.ok_or_else(|| no_code(node.kind, node.element))?;
                Work::Product(code, self.product(left, right))
            }
            Kind::Closure(ring, operand) => {
                let code = semiring::closure(ring, node.element);
                let code = code.ok_or_else(|| no_code(node.kind, node.element))?;
                let size = node.shape.first().map_or(0, |length| *length as usize);
                self.need(node.element, size * size + size);
                Work::Closure(code, Closure { source: self.source(operand), size })
            }
            _ => {
                let program = self.program(id, id, node.shape.clone())?;
                let store = sweep::store(node.element);
                Work::Map(program, store.ok_or_else(|| no_code(node.kind, node.element))?)
            }
        };
        let count = node.count();
        let temporary = if is_root { None } else { Some(self.temporary(id)?) };
        self.plan.stages.push(Stage { work, count, temporary });
        Ok(())
    }

    fn temporary(&mut self, id: NodeId) -> Result<(usize, usize), Fault> {
        let node = &self.graph.nodes[id];
        let (index, length) = (self.plan.temporaries.len(), node.count() * node.element.size());
        self.plan.temporaries.push(length);
        self.temporary_of.insert(id, index);
        let total = self.plan.temporaries.iter().try_fold(0_usize, |sum, x| sum.checked_add(*x));
        if total.is_none_or(|total| total > MAX_TEMPORARIES) {
            let what =
                format!("the parts of the expression need more than {MAX_TEMPORARIES} bytes");
            return Err(Fault::new(0, what));
        }
        Ok((index, length))
    }

    fn need(&mut self, element: Element, length: usize) {
        let bank = &mut self.banks[element as usize];
        *bank = length.max(*bank);
    }

    /// Where the elements of a node computed earlier, or of an input, are.
    fn source(&self, id: NodeId) -> Source {
        match self.graph.nodes[id].kind {
            Kind::Input(index) => Source::Input(index),
            _ => Source::Temporary(self.temporary_of.get(&id).copied().unwrap_or(usize::MAX)),
        }
    }

    fn product(&self, left: NodeId, right: NodeId) -> Product {
        let (a, b) = (&self.graph.nodes[left].shape, &self.graph.nodes[right].shape);
        let length = |shape: &Shape, axis: usize| shape.get(axis).map_or(1, |x| *x as usize);
        let (rows, inner) =
            if a.len() == 1 { (1, length(a, 0)) } else { (length(a, 0), length(a, 1)) };
        let (left, right) = (self.source(left), self.source(right));
        Product { left, right, rows, inner, columns: length(b, 1) }
    }

    fn fold(
        &mut self,
        id: NodeId,
        op: FoldOp,
        operand: NodeId,
        axis: Option<usize>,
    ) -> Result<Work, Fault> {
        let (kind, folded) = (self.graph.nodes[id].kind, &self.graph.nodes[operand]);
        let (element, shape) = (folded.element, folded.shape.clone());
        let part = |shape: &[u64]| count(shape).unwrap_or(0);
        let (outer, length, inner) = match axis {
            None => (1, folded.count(), 1),
            Some(axis) => {
                (part(&shape[..axis]), part(&shape[axis..=axis]), part(&shape[axis + 1..]))
            }
        };
        let program = self.program(id, operand, shape)?;
        let missing = || no_code(kind, element);
        let code = ops::fold(op, element).ok_or_else(missing)?;
        let fill = sweep::fill(element).ok_or_else(missing)?;
        let store = sweep::store(element).ok_or_else(missing)?;
        let first = self.banks[element as usize];
        self.need(element, first + room(length, inner));
        let stage = FoldStage { program, code, fill, store, outer, length, inner, room: first };
        Ok(Work::Fold(Box::new(stage)))
    }

    /// The program of a stage that ends with the value of `last`.
    fn program(&mut self, stage: NodeId, last: NodeId, shape: Shape) -> Result<Program, Fault> {
        let members = self.members.remove(&stage).unwrap_or_default();
        let mut uses = HashMap::from([(last, 1)]);
        for id in &members {
            for operand in self.graph.nodes[*id].kind.operands() {
                *uses.entry(operand).or_insert(0) += 1;
            }
        }
        let mut writer = Writer {
            planner: self,
            shape,
            uses,
            places: HashMap::new(),
            free: Default::default(),
            taken: [0; Element::COUNT],
            program: Program::default(),
        };
        for id in members {
            writer.operation(id)?;
        }
        writer.program.value = writer.place(last)?;
        let Writer { program, taken, .. } = writer;
        for (index, registers) in taken.iter().enumerate() {
            self.need(ELEMENTS[index], registers * CHUNK);
        }
        Ok(program)
    }
}

/// Writes the steps of one program and gives out its registers.
struct Writer<'p, 'g> {
    planner: &'p Planner<'g>,
    shape: Shape,
    /// How many operations are still to read a value.
    uses: HashMap<NodeId, usize>,
    /// Where each value is, as the first element of its register.
    places: HashMap<NodeId, usize>,
    free: [Vec<usize>; Element::COUNT],
    taken: [usize; Element::COUNT],
    program: Program,
}

impl Writer<'_, '_> {
    fn operation(&mut self, id: NodeId) -> Result<(), Fault> {
        let node = &self.planner.graph.nodes[id];
        let mut places = [0; 3];
        for (place, operand) in places.iter_mut().zip(node.kind.operands()) {
            *place = self.place(operand)?;
        }
        let [first, second, third] = places;
        let element_of = |id: NodeId| self.planner.graph.nodes[id].element;
        let code = match node.kind {
            Kind::Cast(x) => ops::cast(element_of(x), node.element),
            Kind::Unary(op, x) => ops::unary(op, element_of(x)),
            Kind::Binary(op, x, _) => ops::binary(op, element_of(x)),
            Kind::Where(..) => sweep::select(node.element),
            _ => None,
        };
        let code = code.ok_or_else(|| no_code(node.kind, node.element))?;
        // Taken before the operands are given back, so that it is none of theirs.
        let target = self.register(node.element);
        let at = Operands { target, first, second, third };
        self.program.each.push(Step::Operate(code, at));
        self.places.insert(id, target);
        for operand in node.kind.operands() {
            self.used(operand);
        }
        Ok(())
    }

    fn register(&mut self, element: Element) -> usize {
        match self.free[element as usize].pop() {
            Some(place) => place,
            None => self.fresh_register(element),
        }
    }

    fn fresh_register(&mut self, element: Element) -> usize {
        let taken = &mut self.taken[element as usize];
        *taken += 1;
        (*taken - 1) * CHUNK
    }

    fn used(&mut self, id: NodeId) {
        if let Some(uses) = self.uses.get_mut(&id) {
            *uses -= 1;
            if *uses == 0 && !self.is_kept(id) {
                let index = self.planner.graph.nodes[id].element as usize;
                self.free[index].extend(self.places.get(&id));
            }
        }
    }

    /// Whether the value is the same for every chunk, and so stays in its register.
    fn is_kept(&self, id: NodeId) -> bool {
        let node = &self.planner.graph.nodes[id];
        matches!(node.kind, Kind::Constant(_)) || self.layout(id) == Layout::Uniform
    }

    fn layout(&self, id: NodeId) -> Layout {
        layout(&self.planner.graph.nodes[id].shape, &self.shape)
    }

    /// The register of a value; one that is not computed here is loaded.
    fn place(&mut self, id: NodeId) -> Result<usize, Fault> {
        if let Some(place) = self.places.get(&id) {
            return Ok(*place);
        }
        let node = &self.planner.graph.nodes[id];
        let missing = || no_code(node.kind, node.element);
        let target = if self.is_kept(id) {
            // Filled before the first step, so no step may have had the register before.
            self.fresh_register(node.element)
        } else {
            self.register(node.element)
        };
        self.places.insert(id, target);
        if let Kind::Constant(bits) = node.kind {
            let code = sweep::fill(node.element).ok_or_else(missing)?;
            self.program.once.push(Step::Fill(code, Constant { target, bits }));
            return Ok(target);
        }
        let code = sweep::read(node.element).ok_or_else(missing)?;
        let layout = self.layout(id);
        let steps = match layout {
            Layout::Uniform => &mut self.program.once,
            _ => &mut self.program.each,
        };
        let source = self.planner.source(id);
        steps.push(Step::Read(code, Load { source, layout, target }));
        Ok(target)
    }
}

/// How an array lies under the elements of the shape it is broadcast to.
fn layout(source: &[u64], whole: &[u64]) -> Layout {
    match (count(source), count(whole)) {
        (a, b) if a == b => return Layout::Straight,
        (Some(1), _) | (_, Some(0)) => return Layout::Uniform,
        _ => {}
    }
    let added = whole.len() - source.len();
    let mut axes: Vec<(usize, usize)> = Vec::new();
    let mut step = 1;
    for (axis, length) in whole.iter().enumerate().rev().filter(|(_, length)| **length > 1) {
        let own = axis.checked_sub(added).map_or(1, |axis| source[axis] as usize);
        let stride = if own == 1 { 0 } else { step };
        step *= own;
        match axes.last_mut() {
            // The axis goes on where the one within it ends, so the two are one.
            Some((within, inner)) if stride == *inner * *within => *within *= *length as usize,
            _ => axes.push((*length as usize, stride)),
        }
    }
    axes.reverse();
    Layout::Strided(axes.into())
}
