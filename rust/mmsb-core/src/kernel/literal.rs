//! Numbers written in the text: they adapt to the arrays they meet (NEP 50), and among themselves
//! are computed as Python computes them.

use super::Fault;
use super::element::Element;
use super::ops::{BinaryOp, UnaryOp};
use super::scalar::{Lane, Number};

/// The value of an expression without arrays. `True` and `False` are not literals in this sense but
/// arrays of one bool, as NumPy treats them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Literal {
    Integer(i128),
    Float(f64),
}

/// What a literal expression comes to.
pub(super) enum Folded {
    Literal(Literal),
    Bool(bool),
}

impl Literal {
    fn float(self) -> f64 {
        match self {
            Literal::Integer(value) => value as f64,
            Literal::Float(value) => value,
        }
    }

    /// The type next to an array of the type `element`.
    pub(super) fn beside(self, element: Element) -> Element {
        match self {
            _ if element.is_float() => element,
            Literal::Float(_) => Element::F64,
            Literal::Integer(_) if element == Element::Bool => Element::I64,
            Literal::Integer(_) => element,
        }
    }

    /// The type without an array.
    pub(super) fn alone(self) -> Element {
        match self {
            Literal::Float(_) => Element::F64,
            Literal::Integer(value) if value > i128::from(i64::MAX) => Element::U64,
            Literal::Integer(_) => Element::I64,
        }
    }

    /// The bits of the literal as an element of the type.
    pub(super) fn bits(self, at: usize, element: Element) -> Result<u64, Fault> {
        match (self, element) {
            (_, Element::F64) => Ok(self.float().bits()),
            // By way of f64, as Python hands a number to NumPy.
            (_, Element::F32) => Ok((self.float() as f32).bits()),
            (Literal::Integer(value), _) => {
                let (least, greatest) = element.range().unwrap_or((0, 1));
                if value < least || value > greatest {
                    let name = element.name();
                    let what = format!("{value} does not fit into {name} ({least} to {greatest})");
                    return Err(Fault::new(at, what));
                }
                Ok(value as u64)
            }
            (Literal::Float(value), _) => {
                let what = format!("{value} cannot be {} here", element.name());
                Err(Fault::new(at, what))
            }
        }
    }
}

pub(super) fn fold_unary(at: usize, op: UnaryOp, x: Literal) -> Option<Result<Literal, Fault>> {
    let found = match (op, x) {
        (UnaryOp::Plus, x) => Ok(x),
        (UnaryOp::Negative, Literal::Integer(x)) => integer(at, x.checked_neg()),
        (UnaryOp::Negative, Literal::Float(x)) => Ok(Literal::Float(-x)),
        (UnaryOp::Invert, Literal::Integer(x)) => Ok(Literal::Integer(!x)),
        _ => return None,
    };
    Some(found)
}

/// `None` for an operation that makes arrays of its operands.
pub(super) fn fold_binary(
    at: usize,
    op: BinaryOp,
    a: Literal,
    b: Literal,
) -> Option<Result<Folded, Fault>> {
    if let Some(truth) = compare(op, a, b) {
        return Some(Ok(Folded::Bool(truth)));
    }
    let found = match (a, b) {
        (Literal::Integer(a), Literal::Integer(b)) => of_integers(at, op, a, b)?,
        _ => of_floats(at, op, a.float(), b.float())?,
    };
    Some(found.map(Folded::Literal))
}

fn compare(op: BinaryOp, a: Literal, b: Literal) -> Option<bool> {
    let order = match (a, b) {
        (Literal::Integer(a), Literal::Integer(b)) => Some(a.cmp(&b)),
        _ => a.float().partial_cmp(&b.float()),
    };
    Some(match op {
        BinaryOp::Less => order.is_some_and(|order| order.is_lt()),
        BinaryOp::LessEqual => order.is_some_and(|order| order.is_le()),
        BinaryOp::Greater => order.is_some_and(|order| order.is_gt()),
        BinaryOp::GreaterEqual => order.is_some_and(|order| order.is_ge()),
        BinaryOp::Equal => order.is_some_and(|order| order.is_eq()),
        BinaryOp::NotEqual => order.is_none_or(|order| order.is_ne()),
        _ => return None,
    })
}

fn integer(at: usize, value: Option<i128>) -> Result<Literal, Fault> {
    value.map(Literal::Integer).ok_or_else(|| Fault::new(at, "this number is too large"))
}

fn of_integers(at: usize, op: BinaryOp, a: i128, b: i128) -> Option<Result<Literal, Fault>> {
    let zero = || Err(Fault::new(at, "division by zero"));
    Some(match op {
        BinaryOp::Add => integer(at, a.checked_add(b)),
        BinaryOp::Subtract => integer(at, a.checked_sub(b)),
        BinaryOp::Multiply => integer(at, a.checked_mul(b)),
        BinaryOp::FloorDivide | BinaryOp::Modulo if b == 0 => zero(),
        BinaryOp::FloorDivide => integer(at, floor_divide(a, b)),
        BinaryOp::Modulo => {
            integer(at, floor_divide(a, b).map(|q| a.wrapping_sub(q.wrapping_mul(b))))
        }
        BinaryOp::Power if b >= 0 => {
            integer(at, u32::try_from(b).ok().and_then(|b| a.checked_pow(b)))
        }
        BinaryOp::And => Ok(Literal::Integer(a & b)),
        BinaryOp::Or => Ok(Literal::Integer(a | b)),
        BinaryOp::Xor => Ok(Literal::Integer(a ^ b)),
        BinaryOp::ShiftLeft | BinaryOp::ShiftRight if b < 0 => {
            Err(Fault::new(at, "the count of a shift is not negative"))
        }
        BinaryOp::ShiftLeft => integer(at, shift_left(a, b)),
        BinaryOp::ShiftRight => Ok(Literal::Integer(a >> b.min(127))),
        _ => return of_floats(at, op, a as f64, b as f64),
    })
}

fn floor_divide(a: i128, b: i128) -> Option<i128> {
    let (quotient, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
    Some(if rest != 0 && (rest < 0) != (b < 0) { quotient - 1 } else { quotient })
}

fn shift_left(a: i128, b: i128) -> Option<i128> {
    let factor = 1_i128.checked_shl(u32::try_from(b).ok()?).filter(|factor| *factor > 0);
    if a == 0 { Some(0) } else { a.checked_mul(factor?) }
}

fn of_floats(at: usize, op: BinaryOp, a: f64, b: f64) -> Option<Result<Literal, Fault>> {
    let value = match op {
        BinaryOp::Add => a + b,
        BinaryOp::Subtract => a - b,
        BinaryOp::Multiply => a * b,
        BinaryOp::Divide | BinaryOp::FloorDivide | BinaryOp::Modulo if b == 0.0 => {
            return Some(Err(Fault::new(at, "division by zero")));
        }
        BinaryOp::Divide => a / b,
        BinaryOp::FloorDivide => a.floor_divide(b),
        BinaryOp::Modulo => a.modulo(b),
        BinaryOp::Power if a == 0.0 && b < 0.0 => {
            return Some(Err(Fault::new(at, "0 has no negative power")));
        }
        BinaryOp::Power if a < 0.0 && a.is_finite() && b.is_finite() && b.floor() != b => {
            let what = "a negative number has no real power with a fractional exponent";
            return Some(Err(Fault::new(at, what)));
        }
        BinaryOp::Power => a.power(b),
        _ => return None,
    };
    Some(Ok(Literal::Float(value)))
}
