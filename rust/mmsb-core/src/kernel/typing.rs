//! An expression and its inputs to a typed graph: promotion, broadcasting, and what is no operation.
//!
//! Invariant: every node it adds has code in the tables of `ops`, `sweep` and `semiring`; what has
//! none is a fault here, with what would be right. Where NumPy would compute in half precision
//! (`sqrt` of an `int8`), this computes in f64, as it does for every integer.

use super::element::Element;
use super::graph::{Graph, Kind, NodeId, Shape, broadcast, name_shape};
use super::literal::{Folded, Literal, fold_binary, fold_unary};
use super::ops::{BinaryOp, FoldOp, UnaryOp};
use super::parse::{Axis, Expression, Function, Parsed};
use super::semiring::Ring;
use super::{Fault, Input};

/// What an expression is: a number that still adapts, or a node.
#[derive(Clone, Copy, Debug)]
enum Value {
    Literal(Literal),
    Node(NodeId),
}

/// A value and the position of its expression.
#[derive(Clone, Copy)]
struct Placed {
    at: usize,
    value: Value,
}

/// The graph of a parsed text and the node of the whole.
pub(super) fn graph(parsed: &Parsed, inputs: &[Input<'_>]) -> Result<(Graph, NodeId), Fault> {
    let mut typer = Typer { graph: Graph::default(), names: names(parsed, inputs)?, inputs };
    let mut values: Vec<Placed> = Vec::with_capacity(parsed.list.len());
    for (at, expression) in &parsed.list {
        let value = typer.expression(*at, expression, &values)?;
        values.push(Placed { at: *at, value });
    }
    match values.last() {
        Some(whole) => {
            let root = typer.array(*whole)?;
            Ok((typer.graph, root))
        }
        None => Err(Fault::new(0, "the text is empty")),
    }
}

/// The input of each name.
fn names(parsed: &Parsed, inputs: &[Input<'_>]) -> Result<Vec<usize>, Fault> {
    let find = |(at, name): &(usize, String)| {
        inputs.iter().position(|input| input.name == name).ok_or_else(|| {
            let known: Vec<String> = inputs.iter().map(|x| format!("`{}`", x.name)).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Fault::new(*at, format!("there is no input `{name}`; the inputs: {known}"))
        })
    };
    parsed.names.iter().map(find).collect()
}

struct Typer<'i> {
    graph: Graph,
    names: Vec<usize>,
    inputs: &'i [Input<'i>],
}

type Typed = Result<NodeId, Fault>;

impl Typer<'_> {
    fn expression(
        &mut self,
        at: usize,
        expression: &Expression,
        values: &[Placed],
    ) -> Result<Value, Fault> {
        let node = match expression {
            Expression::Integer(value) => return Ok(Value::Literal(Literal::Integer(*value))),
            Expression::Float(value) => return Ok(Value::Literal(Literal::Float(*value))),
            Expression::Bool(value) => self.truth(at, *value),
            Expression::Name(name) => self.input(at, self.names[*name]),
            Expression::Unary(op, x) => return self.unary(at, *op, values[*x]),
            Expression::Binary(BinaryOp::Matmul, a, b) => {
                self.product(at, Ring::PlusTimes, values[*a], values[*b])
            }
            Expression::Binary(op, a, b) => return self.binary(at, *op, values[*a], values[*b]),
            Expression::Call(function, arguments, axis) => {
                let arguments: Vec<Placed> = arguments.iter().map(|id| values[*id]).collect();
                self.call(at, *function, &arguments, *axis)
            }
        };
        node.map(Value::Node)
    }

    fn call(
        &mut self,
        at: usize,
        function: Function,
        arguments: &[Placed],
        axis: Option<Axis>,
    ) -> Typed {
        match (function, arguments) {
            (Function::Unary(op), &[x]) => self.map(at, op, x),
            (Function::Binary(op), &[a, b]) => self.zip(at, op, a, b),
            (Function::Where, &[condition, a, b]) => self.select(at, condition, a, b),
            (Function::Reduce(op), &[x]) => self.reduce(at, op, x, axis, None),
            (Function::Mean, &[x]) => self.mean(at, x, axis),
            (Function::RingFold(ring), &[x]) => self.ring_fold(at, ring, x, axis),
            (Function::RingMatvec(ring), &[a, x]) => self.matvec(at, ring, a, x),
            (Function::RingMatmul(ring), &[a, b]) => self.product(at, ring, a, b),
            (Function::RingClosure(ring), &[x]) => self.closure(at, ring, x),
            _ => Err(Fault::new(at, "wrong number of values")),
        }
    }

    fn element(&self, node: NodeId) -> Element {
        self.graph.nodes[node].element
    }

    fn shape(&self, node: NodeId) -> Shape {
        self.graph.nodes[node].shape.clone()
    }

    fn input(&mut self, at: usize, index: usize) -> Typed {
        let input = &self.inputs[index];
        self.graph.add(at, Kind::Input(index), input.element, input.shape.into())
    }

    fn constant(&mut self, at: usize, bits: u64, element: Element, shape: Shape) -> Typed {
        self.graph.add(at, Kind::Constant(bits), element, shape)
    }

    fn truth(&mut self, at: usize, value: bool) -> Typed {
        self.constant(at, u64::from(value), Element::Bool, Shape::from([]))
    }

    fn literal(&mut self, at: usize, literal: Literal, element: Element) -> Typed {
        let bits = literal.bits(at, element)?;
        self.constant(at, bits, element, Shape::from([]))
    }

    /// A literal alone takes NumPy's default type.
    fn array(&mut self, x: Placed) -> Typed {
        match x.value {
            Value::Node(node) => Ok(node),
            Value::Literal(literal) => self.literal(x.at, literal, literal.alone()),
        }
    }

    fn cast(&mut self, at: usize, node: NodeId, element: Element) -> Typed {
        if self.element(node) == element {
            return Ok(node);
        }
        let shape = self.shape(node);
        self.graph.add(at, Kind::Cast(node), element, shape)
    }

    /// An operand as an array of the type.
    fn operand(&mut self, x: Placed, element: Element) -> Typed {
        match x.value {
            Value::Node(node) => self.cast(x.at, node, element),
            Value::Literal(literal) => self.literal(x.at, literal, element),
        }
    }

    /// The type two operands meet in.
    fn common(&self, a: Placed, b: Placed) -> Result<Element, Fault> {
        Ok(match (a.value, b.value) {
            (Value::Node(a), Value::Node(b)) => self.element(a).promote(self.element(b)),
            (Value::Node(node), Value::Literal(literal)) => {
                self.fitting(b.at, literal, self.element(node))?
            }
            (Value::Literal(literal), Value::Node(node)) => {
                self.fitting(a.at, literal, self.element(node))?
            }
            (Value::Literal(a), Value::Literal(b)) => a.alone().promote(b.alone()),
        })
    }

    /// The type of a literal beside an array; a fault if the literal does not fit into it.
    fn fitting(&self, at: usize, literal: Literal, element: Element) -> Result<Element, Fault> {
        let element = literal.beside(element);
        literal.bits(at, element).map(|_| element)
    }

    fn unary(&mut self, at: usize, op: UnaryOp, x: Placed) -> Result<Value, Fault> {
        if let Value::Literal(literal) = x.value
            && let Some(folded) = fold_unary(at, op, literal)
        {
            return folded.map(Value::Literal);
        }
        self.map(at, op, x).map(Value::Node)
    }

    fn map(&mut self, at: usize, op: UnaryOp, x: Placed) -> Typed {
        let x = self.array(x)?;
        let (element, shape) = (self.element(x), self.shape(x));
        let float = if element.is_float() { element } else { Element::F64 };
        match op {
            UnaryOp::Plus | UnaryOp::Negative | UnaryOp::Sign if element == Element::Bool => {
                Err(Fault::new(at, "bool has no sign: to negate it, write `~x`"))
            }
            UnaryOp::Invert if element.is_float() => {
                let what = format!("`~` inverts bool and integers, not {}", element.name());
                Err(Fault::new(at, what))
            }
            UnaryOp::Plus => Ok(x),
            UnaryOp::Absolute if element == Element::Bool || element.is_unsigned() => Ok(x),
            UnaryOp::Floor | UnaryOp::Ceil | UnaryOp::Trunc if !element.is_float() => Ok(x),
            UnaryOp::IsNan | UnaryOp::IsFinite if !element.is_float() => {
                let finite = u64::from(op == UnaryOp::IsFinite);
                self.constant(at, finite, Element::Bool, shape)
            }
            UnaryOp::IsNan | UnaryOp::IsFinite => {
                self.graph.add(at, Kind::Unary(op, x), Element::Bool, shape)
            }
            UnaryOp::Negative | UnaryOp::Invert | UnaryOp::Absolute | UnaryOp::Sign => {
                self.graph.add(at, Kind::Unary(op, x), element, shape)
            }
            _ => {
                let x = self.cast(at, x, float)?;
                self.graph.add(at, Kind::Unary(op, x), float, shape)
            }
        }
    }

    fn binary(&mut self, at: usize, op: BinaryOp, a: Placed, b: Placed) -> Result<Value, Fault> {
        if let (Value::Literal(a), Value::Literal(b)) = (a.value, b.value)
            && let Some(folded) = fold_binary(at, op, a, b)
        {
            return match folded? {
                Folded::Literal(literal) => Ok(Value::Literal(literal)),
                Folded::Bool(value) => self.truth(at, value).map(Value::Node),
            };
        }
        self.zip(at, op, a, b).map(Value::Node)
    }

    fn zip(&mut self, at: usize, op: BinaryOp, a: Placed, b: Placed) -> Typed {
        if let (Value::Node(x), Value::Node(y)) = (a.value, b.value)
            && op.is_comparison()
        {
            let u64_with_signed = |x: Element, y: Element| x == Element::U64 && y.is_signed();
            if u64_with_signed(self.element(y), self.element(x)) {
                return self.compare_exactly(at, op, x, y);
            }
            if u64_with_signed(self.element(x), self.element(y)) {
                return self.compare_exactly(at, mirrored(op), y, x);
            }
        }
        let element = working_type(at, op, self.common(a, b)?)?;
        if op == BinaryOp::Power
            && let Value::Literal(exponent) = b.value
        {
            if let Literal::Integer(exponent) = exponent
                && exponent < 0
                && !element.is_float()
            {
                let what = "an integer has no integer power with a negative exponent: \
                            write the exponent as a float";
                return Err(Fault::new(b.at, what));
            }
            if exponent == Literal::Integer(2) || exponent == Literal::Float(2.0) {
                let x = self.operand(a, element)?;
                return self.join(at, BinaryOp::Multiply, x, x, element);
            }
        }
        let (a, b) = (self.operand(a, element)?, self.operand(b, element)?);
        match op {
            BinaryOp::Greater | BinaryOp::GreaterEqual => {
                self.join(at, mirrored(op), b, a, Element::Bool)
            }
            _ if op.is_comparison() => self.join(at, op, a, b, Element::Bool),
            _ => self.join(at, op, a, b, element),
        }
    }

    /// An operation on two arrays of one type, broadcast.
    fn join(&mut self, at: usize, op: BinaryOp, a: NodeId, b: NodeId, element: Element) -> Typed {
        let shape = self.broadcast(at, a, b)?;
        self.graph.add(at, Kind::Binary(op, a, b), element, shape)
    }

    fn broadcast(&self, at: usize, a: NodeId, b: NodeId) -> Result<Shape, Fault> {
        let (a, b) = (&self.graph.nodes[a].shape, &self.graph.nodes[b].shape);
        broadcast(a, b).ok_or_else(|| {
            let (a, b) = (name_shape(a), name_shape(b));
            let what = format!(
                "the shapes {a} and {b} do not broadcast: counted from the last, lengths are equal \
                 or one of them is 1"
            );
            Fault::new(at, what)
        })
    }

    /// A signed `a` against a u64 `b`: no type holds both, so the sign of `a` is asked first.
    fn compare_exactly(&mut self, at: usize, op: BinaryOp, a: NodeId, b: NodeId) -> Typed {
        let a = self.cast(at, a, Element::I64)?;
        let wrapped = self.cast(at, a, Element::U64)?;
        let zero = self.literal(at, Literal::Integer(0), Element::I64)?;
        let negative = self.join(at, BinaryOp::Less, a, zero, Element::Bool)?;
        let (less, inner) = match op {
            BinaryOp::Less | BinaryOp::GreaterEqual => (true, BinaryOp::Less),
            BinaryOp::LessEqual | BinaryOp::Greater => (true, BinaryOp::LessEqual),
            _ => (false, BinaryOp::NotEqual),
        };
        let inner = self.join(at, inner, wrapped, b, Element::Bool)?;
        let found = self.join(at, BinaryOp::Or, negative, inner, Element::Bool)?;
        let inverted = if less {
            matches!(op, BinaryOp::Greater | BinaryOp::GreaterEqual)
        } else {
            op == BinaryOp::Equal
        };
        if !inverted {
            return Ok(found);
        }
        let shape = self.shape(found);
        self.graph.add(at, Kind::Unary(UnaryOp::Invert, found), Element::Bool, shape)
    }

    fn select(&mut self, at: usize, condition: Placed, a: Placed, b: Placed) -> Typed {
        let condition = self.array(condition)?;
        let condition = self.cast(at, condition, Element::Bool)?;
        let element = self.common(a, b)?;
        let (a, b) = (self.operand(a, element)?, self.operand(b, element)?);
        let values = self.broadcast(at, a, b)?;
        let conditions = self.shape(condition);
        let shape = broadcast(&conditions, &values).ok_or_else(|| {
            let (conditions, values) = (name_shape(&conditions), name_shape(&values));
            let what = format!(
                "a condition of shape {conditions} and values of shape {values} do not broadcast"
            );
            Fault::new(at, what)
        })?;
        self.graph.add(at, Kind::Where(condition, a, b), element, shape)
    }

    /// Folds `x`; `empty` are the bits for a fold of nothing, where the operation has none itself.
    fn reduce(
        &mut self,
        at: usize,
        op: FoldOp,
        x: Placed,
        axis: Option<Axis>,
        empty: Option<u64>,
    ) -> Typed {
        let x = self.array(x)?;
        let element = match (op, self.element(x)) {
            (FoldOp::Any | FoldOp::All, _) => Element::Bool,
            (FoldOp::Sum | FoldOp::Product, element) if !element.is_float() => {
                if element.is_unsigned() { Element::U64 } else { Element::I64 }
            }
            (_, element) => element,
        };
        let x = self.cast(at, x, element)?;
        let shape = self.shape(x);
        let axis = axis.map(|axis| index_of(axis, &shape)).transpose()?;
        let (folded, left) = match axis {
            None => (self.graph.nodes[x].count() as u64, Shape::from([])),
            Some(axis) => (shape[axis], [&shape[..axis], &shape[axis + 1..]].concat().into()),
        };
        if folded > 0 {
            return self.graph.add(at, Kind::Fold(op, x, axis), element, left);
        }
        let neutral = match op {
            FoldOp::Sum | FoldOp::Any => Some(0),
            FoldOp::Product => Some(Literal::Integer(1).bits(at, element)?),
            FoldOp::All => Some(1),
            FoldOp::Minimum | FoldOp::Maximum if left.contains(&0) => Some(0),
            FoldOp::Minimum | FoldOp::Maximum => empty,
        };
        match neutral {
            Some(bits) => self.constant(at, bits, element, left),
            None => {
                let name = name_shape(&shape);
                let what = format!("there is no least or greatest of no elements (shape {name})");
                Err(Fault::new(at, what))
            }
        }
    }

    fn mean(&mut self, at: usize, x: Placed, axis: Option<Axis>) -> Typed {
        let x = self.array(x)?;
        let element = if self.element(x).is_float() { self.element(x) } else { Element::F64 };
        let x = self.cast(at, x, element)?;
        let shape = self.shape(x);
        let folded = match axis {
            None => self.graph.nodes[x].count() as u64,
            Some(axis) => shape[index_of(axis, &shape)?],
        };
        let x = Placed { at, value: Value::Node(x) };
        let sum = self.reduce(at, FoldOp::Sum, x, axis, None)?;
        let count = self.literal(at, Literal::Integer(i128::from(folded)), element)?;
        self.join(at, BinaryOp::Divide, sum, count, element)
    }

    fn ring_fold(&mut self, at: usize, ring: Ring, x: Placed, axis: Option<Axis>) -> Typed {
        let node = self.array(x)?;
        let element = self.element(node);
        object(at, ring, element)?;
        let op = match ring {
            Ring::PlusTimes => FoldOp::Sum,
            Ring::MinPlus | Ring::MinMax => FoldOp::Minimum,
            Ring::MaxPlus => FoldOp::Maximum,
            Ring::OrAnd => FoldOp::Any,
        };
        self.reduce(at, op, x, axis, ring.zero(element))
    }

    fn matvec(&mut self, at: usize, ring: Ring, a: Placed, x: Placed) -> Typed {
        let (left, right) = (self.array(a)?, self.array(x)?);
        let (left, right) = (self.shape(left), self.shape(right));
        if left.len() != 2 || right.len() != 1 {
            let (left, right) = (name_shape(&left), name_shape(&right));
            let what =
                format!("`matvec` takes a matrix and a vector, not the shapes {left} and {right}");
            return Err(Fault::new(at, what));
        }
        self.product(at, ring, a, x)
    }

    fn product(&mut self, at: usize, ring: Ring, a: Placed, b: Placed) -> Typed {
        let (a, b) = (self.array(a)?, self.array(b)?);
        let element = self.element(a).promote(self.element(b));
        object(at, ring, element)?;
        let (a, b) = (self.cast(at, a, element)?, self.cast(at, b, element)?);
        let (left, right) = (self.shape(a), self.shape(b));
        let (rows, inner) = match left[..] {
            [inner] => (None, inner),
            [rows, inner] => (Some(rows), inner),
            _ => return Err(product_fault(at, &left, &right)),
        };
        let (again, columns) = match right[..] {
            [inner] => (inner, None),
            [inner, columns] => (inner, Some(columns)),
            _ => return Err(product_fault(at, &left, &right)),
        };
        if inner != again {
            return Err(product_fault(at, &left, &right));
        }
        let shape: Shape = rows.into_iter().chain(columns).collect();
        if inner == 0 {
            let zero = ring.zero(element).unwrap_or(0);
            return self.constant(at, zero, element, shape);
        }
        self.graph.add(at, Kind::Product(ring, a, b), element, shape)
    }

    fn closure(&mut self, at: usize, ring: Ring, x: Placed) -> Typed {
        if ring == Ring::PlusTimes {
            let what = "`plus_times` has no closure: 1 + a + a@a + .. need not converge; \
                        `min_plus`, `max_plus`, `min_max` and `or_and` have one";
            return Err(Fault::new(at, what));
        }
        let x = self.array(x)?;
        let (element, shape) = (self.element(x), self.shape(x));
        object(at, ring, element)?;
        match shape[..] {
            [0, 0] => Ok(x),
            [rows, columns] if rows == columns => {
                self.graph.add(at, Kind::Closure(ring, x), element, shape)
            }
            _ => {
                let what =
                    format!("a closure is of a square matrix, not of shape {}", name_shape(&shape));
                Err(Fault::new(at, what))
            }
        }
    }
}

fn object(at: usize, ring: Ring, element: Element) -> Result<(), Fault> {
    ring.objection(element).map_or(Ok(()), |objection| {
        let what = format!("`{}` {objection}; this is {}", ring.name(), element.name());
        Err(Fault::new(at, what))
    })
}

fn product_fault(at: usize, left: &[u64], right: &[u64]) -> Fault {
    let (left, right) = (name_shape(left), name_shape(right));
    let what = format!(
        "a product takes vectors and matrices, the last length of the left equal to the first of \
         the right, not the shapes {left} and {right}"
    );
    Fault::new(at, what)
}

/// The axis as an index into the shape.
fn index_of(axis: Axis, shape: &[u64]) -> Result<usize, Fault> {
    let rank = shape.len() as i128;
    let from_start = if axis.value < 0 { axis.value + rank } else { axis.value };
    usize::try_from(from_start).ok().filter(|index| *index < shape.len()).ok_or_else(|| {
        let what = format!("there is no axis {} in the shape {}", axis.value, name_shape(shape));
        Fault::new(axis.at, what)
    })
}

/// The comparison with its sides exchanged.
fn mirrored(op: BinaryOp) -> BinaryOp {
    match op {
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessEqual => BinaryOp::GreaterEqual,
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterEqual => BinaryOp::LessEqual,
        other => other,
    }
}

/// The type an operation computes in, given the type its operands meet in.
fn working_type(at: usize, op: BinaryOp, common: Element) -> Result<Element, Fault> {
    let fault = |what: &str| Err(Fault::new(at, format!("{what}, not on {}", common.name())));
    match op {
        BinaryOp::Subtract if common == Element::Bool => {
            fault("`-` works on numbers; `^` is true where two bools differ")
        }
        BinaryOp::And | BinaryOp::Or | BinaryOp::Xor if common.is_float() => {
            fault("`&`, `|` and `^` work on bool and integers")
        }
        BinaryOp::ShiftLeft | BinaryOp::ShiftRight if common.is_float() => {
            fault("`<<` and `>>` work on integers")
        }
        BinaryOp::FloorDivide
        | BinaryOp::Modulo
        | BinaryOp::Power
        | BinaryOp::ShiftLeft
        | BinaryOp::ShiftRight
            if common == Element::Bool =>
        {
            Ok(Element::I8)
        }
        BinaryOp::Divide | BinaryOp::Arctan2 if !common.is_float() => Ok(Element::F64),
        _ => Ok(common),
    }
}
