//! Tokens to an expression, with Python's precedence.
//!
//! Invariants: an expression is a list in which every operand stands before what uses it, so later
//! passes are loops over the list and need no recursion; the parser itself recurses at most
//! [`DEPTH`] brackets, signs and powers deep.

use super::lex::{Token, tokens};
use super::ops::{BinaryOp, FoldOp, UnaryOp};
use super::semiring::Ring;
use super::{Fault, MAX_TEXT};

/// How deep brackets, signs and powers may nest.
const DEPTH: usize = 100;

/// The place of an expression in its list.
pub(super) type Id = usize;

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Expression {
    Integer(i128),
    Float(f64),
    Bool(bool),
    /// Index into [`Parsed::names`].
    Name(usize),
    Unary(UnaryOp, Id),
    Binary(BinaryOp, Id, Id),
    Call(Function, Vec<Id>, Option<Axis>),
}

/// `axis=` with its value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Axis {
    pub(super) at: usize,
    pub(super) value: i128,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Function {
    Unary(UnaryOp),
    Binary(BinaryOp),
    Where,
    Reduce(FoldOp),
    Mean,
    RingFold(Ring),
    RingMatvec(Ring),
    RingMatmul(Ring),
    RingClosure(Ring),
}

impl Function {
    fn arity(self) -> usize {
        match self {
            Function::Unary(_) | Function::Reduce(_) | Function::Mean => 1,
            Function::RingFold(_) | Function::RingClosure(_) => 1,
            Function::Binary(_) | Function::RingMatvec(_) | Function::RingMatmul(_) => 2,
            Function::Where => 3,
        }
    }

    fn takes_axis(self) -> bool {
        matches!(self, Function::Reduce(_) | Function::Mean | Function::RingFold(_))
    }
}

/// A parsed text.
#[derive(Debug)]
pub(super) struct Parsed {
    /// Each with its position in the text; the last is the whole.
    pub(super) list: Vec<(usize, Expression)>,
    /// The names of the inputs with the position of their first use, in that order.
    pub(super) names: Vec<(usize, String)>,
}

pub(super) fn parse(text: &str) -> Result<Parsed, Fault> {
    if text.len() > MAX_TEXT {
        return Err(Fault::new(MAX_TEXT, format!("the text is longer than {MAX_TEXT} bytes")));
    }
    let parsed = Parsed { list: Vec::new(), names: Vec::new() };
    let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0, parsed };
    parser.binary(COMPARISON)?;
    let (at, token) = parser.peek();
    match token {
        Token::End => Ok(parser.parsed),
        other => Err(unexpected(at, other, "an operator or the end")),
    }
}

const COMPARISON: u8 = 1;

/// How tight an operator binds, and what it is.
fn operator(mark: &str) -> Option<(u8, BinaryOp)> {
    Some(match mark {
        "<" => (COMPARISON, BinaryOp::Less),
        "<=" => (COMPARISON, BinaryOp::LessEqual),
        ">" => (COMPARISON, BinaryOp::Greater),
        ">=" => (COMPARISON, BinaryOp::GreaterEqual),
        "==" => (COMPARISON, BinaryOp::Equal),
        "!=" => (COMPARISON, BinaryOp::NotEqual),
        "|" => (2, BinaryOp::Or),
        "^" => (3, BinaryOp::Xor),
        "&" => (4, BinaryOp::And),
        "<<" => (5, BinaryOp::ShiftLeft),
        ">>" => (5, BinaryOp::ShiftRight),
        "+" => (6, BinaryOp::Add),
        "-" => (6, BinaryOp::Subtract),
        "*" => (7, BinaryOp::Multiply),
        "/" => (7, BinaryOp::Divide),
        "//" => (7, BinaryOp::FloorDivide),
        "%" => (7, BinaryOp::Modulo),
        "@" => (7, BinaryOp::Matmul),
        _ => return None,
    })
}

fn function(name: &str) -> Option<Function> {
    Some(match name {
        "abs" => Function::Unary(UnaryOp::Absolute),
        "sqrt" => Function::Unary(UnaryOp::Sqrt),
        "floor" => Function::Unary(UnaryOp::Floor),
        "ceil" => Function::Unary(UnaryOp::Ceil),
        "trunc" => Function::Unary(UnaryOp::Trunc),
        "isnan" => Function::Unary(UnaryOp::IsNan),
        "isfinite" => Function::Unary(UnaryOp::IsFinite),
        "sign" => Function::Unary(UnaryOp::Sign),
        "exp" => Function::Unary(UnaryOp::Exp),
        "log" => Function::Unary(UnaryOp::Log),
        "sin" => Function::Unary(UnaryOp::Sin),
        "cos" => Function::Unary(UnaryOp::Cos),
        "tan" => Function::Unary(UnaryOp::Tan),
        "tanh" => Function::Unary(UnaryOp::Tanh),
        "minimum" => Function::Binary(BinaryOp::Minimum),
        "maximum" => Function::Binary(BinaryOp::Maximum),
        "arctan2" => Function::Binary(BinaryOp::Arctan2),
        "where" => Function::Where,
        "sum" => Function::Reduce(FoldOp::Sum),
        "prod" => Function::Reduce(FoldOp::Product),
        "min" => Function::Reduce(FoldOp::Minimum),
        "max" => Function::Reduce(FoldOp::Maximum),
        "any" => Function::Reduce(FoldOp::Any),
        "all" => Function::Reduce(FoldOp::All),
        "mean" => Function::Mean,
        "matmul" => Function::RingMatmul(Ring::PlusTimes),
        _ => return None,
    })
}

/// The words of Python that mean something else than a name.
fn reserved_word(name: &str) -> Option<&'static str> {
    Some(match name {
        "and" => "`and` asks for one truth value: write `&`, with both sides in parentheses",
        "or" => "`or` asks for one truth value: write `|`, with both sides in parentheses",
        "not" => "`not` asks for one truth value: write `~`, with its operand in parentheses",
        "if" | "else" => "there is no `if`: write `where(condition, a, b)`",
        "in" | "is" => "`in` and `is` compare no elements: write `==`",
        "lambda" | "for" | "None" | "await" | "yield" => "this word of Python has no meaning here",
        _ => return None,
    })
}

fn unexpected(at: usize, token: Token<'_>, wanted: &str) -> Fault {
    let what = match token {
        Token::Name(name) => match reserved_word(name) {
            Some(word) => word.to_owned(),
            None => format!("expected {wanted}, found the name `{name}`"),
        },
        Token::Integer(_) | Token::Float(_) => format!("expected {wanted}, found a number"),
        Token::Mark("=") => "`=` stands only in `axis=`; to compare, write `==`".to_owned(),
        Token::Mark("[") => "there is no indexing in an expression".to_owned(),
        Token::Mark(mark) => format!("expected {wanted}, found `{mark}`"),
        Token::End => format!("expected {wanted}, found the end of the text"),
    };
    Fault::new(at, what)
}

struct Parser<'t> {
    tokens: Vec<(usize, Token<'t>)>,
    next: usize,
    depth: usize,
    parsed: Parsed,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> (usize, Token<'t>) {
        self.ahead(0)
    }

    fn ahead(&self, count: usize) -> (usize, Token<'t>) {
        let end = self.tokens.last().map_or(0, |(at, _)| *at);
        self.tokens.get(self.next + count).copied().unwrap_or((end, Token::End))
    }

    fn take(&mut self, mark: &str) -> bool {
        let found = matches!(self.peek().1, Token::Mark(other) if other == mark);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, mark: &str, wanted: &str) -> Result<(), Fault> {
        let (at, token) = self.peek();
        if self.take(mark) { Ok(()) } else { Err(unexpected(at, token, wanted)) }
    }

    fn push(&mut self, at: usize, expression: Expression) -> Id {
        self.parsed.list.push((at, expression));
        self.parsed.list.len() - 1
    }

    fn deeper<T>(
        &mut self,
        at: usize,
        inner: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if self.depth == DEPTH {
            return Err(Fault::new(at, format!("nested more than {DEPTH} deep")));
        }
        self.depth += 1;
        let found = inner(self);
        self.depth -= 1;
        found
    }

    /// Operators that bind at least as tight as `least`, from left to right.
    fn binary(&mut self, least: u8) -> Result<Id, Fault> {
        let mut left = self.unary()?;
        let mut compared = false;
        while let (at, Token::Mark(mark)) = self.peek()
            && let Some((binding, op)) = operator(mark)
            && binding >= least
        {
            if compared && op.is_comparison() {
                let what = "comparisons do not chain: write `(a < b) & (b < c)`";
                return Err(Fault::new(at, what));
            }
            compared |= op.is_comparison();
            self.next += 1;
            let right = self.binary(binding + 1)?;
            left = self.push(at, Expression::Binary(op, left, right));
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Id, Fault> {
        let (at, token) = self.peek();
        let op = match token {
            Token::Mark("+") => UnaryOp::Plus,
            Token::Mark("-") => UnaryOp::Negative,
            Token::Mark("~") => UnaryOp::Invert,
            _ => return self.power(),
        };
        self.next += 1;
        let operand = self.deeper(at, Self::unary)?;
        Ok(self.push(at, Expression::Unary(op, operand)))
    }

    /// `**` binds tighter than a sign on its left and looser than one on its right.
    fn power(&mut self) -> Result<Id, Fault> {
        let base = self.atom()?;
        let (at, _) = self.peek();
        if !self.take("**") {
            return Ok(base);
        }
        let exponent = self.deeper(at, Self::unary)?;
        Ok(self.push(at, Expression::Binary(BinaryOp::Power, base, exponent)))
    }

    fn atom(&mut self) -> Result<Id, Fault> {
        let (at, token) = self.peek();
        match token {
            Token::Integer(value) => {
                self.next += 1;
                Ok(self.push(at, Expression::Integer(value)))
            }
            Token::Float(value) => {
                self.next += 1;
                Ok(self.push(at, Expression::Float(value)))
            }
            Token::Mark("(") => {
                self.next += 1;
                let inner = self.deeper(at, |parser| parser.binary(COMPARISON))?;
                self.expect(")", "an operator or `)`")?;
                Ok(inner)
            }
            Token::Name(name) if reserved_word(name).is_none() => {
                self.next += 1;
                self.name(at, name)
            }
            other => Err(unexpected(at, other, "a number, a name, `(` or a sign")),
        }
    }

    fn name(&mut self, at: usize, name: &str) -> Result<Id, Fault> {
        let expression = match name {
            "True" => Expression::Bool(true),
            "False" => Expression::Bool(false),
            "inf" => Expression::Float(f64::INFINITY),
            "nan" => Expression::Float(f64::NAN),
            _ => {
                if let Some(ring) = Ring::named(name) {
                    return self.method(at, name, ring);
                }
                if let Some(function) = function(name) {
                    self.expect("(", &format!("`(` after the function `{name}`"))?;
                    return self.call(at, name, function);
                }
                if let (_, Token::Mark("(")) = self.peek() {
                    return Err(Fault::new(at, format!("`{name}` is no function known here")));
                }
                Expression::Name(self.variable(at, name))
            }
        };
        Ok(self.push(at, expression))
    }

    fn variable(&mut self, at: usize, name: &str) -> usize {
        let names = &mut self.parsed.names;
        names.iter().position(|(_, known)| known == name).unwrap_or_else(|| {
            names.push((at, name.to_owned()));
            names.len() - 1
        })
    }

    fn method(&mut self, at: usize, ring_name: &str, ring: Ring) -> Result<Id, Fault> {
        let methods = "`.fold`, `.matvec`, `.matmul` or `.closure`";
        self.expect(".", &format!("{methods} after the semiring `{ring_name}`"))?;
        let (method_at, token) = self.peek();
        let (name, function) = match token {
            Token::Name("fold") => ("fold", Function::RingFold(ring)),
            Token::Name("matvec") => ("matvec", Function::RingMatvec(ring)),
            Token::Name("matmul") => ("matmul", Function::RingMatmul(ring)),
            Token::Name("closure") => ("closure", Function::RingClosure(ring)),
            other => return Err(unexpected(method_at, other, methods)),
        };
        self.next += 1;
        self.expect("(", &format!("`(` after `{ring_name}.{name}`"))?;
        self.call(at, name, function)
    }

    /// The arguments of a call, after its `(`.
    fn call(&mut self, at: usize, name: &str, function: Function) -> Result<Id, Fault> {
        let mut arguments = Vec::new();
        let mut axis = None;
        while !matches!(self.peek().1, Token::Mark(")")) {
            let (argument_at, token) = self.peek();
            if let (Token::Name(keyword), Token::Mark("=")) = (token, self.ahead(1).1) {
                axis = Some(self.axis(argument_at, name, keyword, function, axis)?);
            } else if axis.is_some() {
                let what = "a value after `axis=`: `axis=` stands last";
                return Err(Fault::new(argument_at, what));
            } else {
                if arguments.len() == function.arity() {
                    return Err(arity_fault(argument_at, name, function));
                }
                arguments.push(self.deeper(argument_at, |parser| parser.binary(COMPARISON))?);
            }
            if !self.take(",") {
                break;
            }
        }
        let (end, _) = self.peek();
        self.expect(")", "an operator, `,` or `)`")?;
        if arguments.len() < function.arity() {
            return Err(arity_fault(end, name, function));
        }
        Ok(self.push(at, Expression::Call(function, arguments, axis)))
    }

    fn axis(
        &mut self,
        at: usize,
        name: &str,
        keyword: &str,
        function: Function,
        known: Option<Axis>,
    ) -> Result<Axis, Fault> {
        if keyword != "axis" || !function.takes_axis() {
            let possible = if function.takes_axis() { "only `axis=`" } else { "no keyword" };
            let what = format!("`{name}` knows no `{keyword}=`; it takes {possible}");
            return Err(Fault::new(at, what));
        }
        if known.is_some() {
            return Err(Fault::new(at, "`axis=` stands here a second time"));
        }
        self.next += 2;
        let negative = self.take("-");
        let (value_at, token) = self.peek();
        let Token::Integer(value) = token else {
            return Err(Fault::new(value_at, "the axis is an integer literal, as in `axis=1`"));
        };
        self.next += 1;
        Ok(Axis { at: value_at, value: if negative { -value } else { value } })
    }
}

fn arity_fault(at: usize, name: &str, function: Function) -> Fault {
    let arity = function.arity();
    let values = if arity == 1 { "value" } else { "values" };
    let keyword = if function.takes_axis() { " (and `axis=`)" } else { "" };
    Fault::new(at, format!("`{name}` takes {arity} {values}{keyword}"))
}
