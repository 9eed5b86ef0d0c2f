//! What the tests compare with: the operations once more, one element at a time, integers in i128.
//!
//! Nothing of the compiler is used but [`Element`] and [`Input`]; `None` is "no such operation".

use super::{Element, Input, Kernel, Scratch, simd::Level};

#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// An integer, or a bool as 0 or 1.
    Int(i128),
    F32(f32),
    F64(f64),
}
use Value::{F32, F64, Int};

#[derive(Clone, Debug)]
pub(super) struct Array {
    pub(super) element: Element,
    pub(super) shape: Vec<u64>,
    pub(super) values: Vec<Value>,
}

pub(super) const ELEMENTS: [Element; 11] = [
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

/// `numpy.promote_types`, printed by NumPy 2.4.
const PROMOTED: [&str; 11] = [
    "b i1 i2 i4 i8 u1 u2 u4 u8 f4 f8",
    "i1 i1 i2 i4 i8 i2 i4 i8 f8 f4 f8",
    "i2 i2 i2 i4 i8 i2 i4 i8 f8 f4 f8",
    "i4 i4 i4 i4 i8 i4 i4 i8 f8 f8 f8",
    "i8 i8 i8 i8 i8 i8 i8 i8 f8 f8 f8",
    "u1 i2 i2 i4 i8 u1 u2 u4 u8 f4 f8",
    "u2 i4 i4 i4 i8 u2 u2 u4 u8 f4 f8",
    "u4 i8 i8 i8 i8 u4 u4 u4 u8 f8 f8",
    "u8 f8 f8 f8 f8 u8 u8 u8 u8 f8 f8",
    "f4 f4 f4 f8 f8 f4 f4 f8 f8 f4 f8",
    "f8 f8 f8 f8 f8 f8 f8 f8 f8 f8 f8",
];

fn place(element: Element) -> usize {
    ELEMENTS.iter().position(|other| *other == element).unwrap()
}

pub(super) fn promoted(a: Element, b: Element) -> Element {
    let name = PROMOTED[place(a)].split(' ').nth(place(b)).unwrap();
    let names = ["b", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"];
    ELEMENTS[names.iter().position(|other| *other == name).unwrap()]
}

fn float(element: Element) -> bool {
    matches!(element, Element::F32 | Element::F64)
}

fn signed(element: Element) -> bool {
    matches!(element, Element::I8 | Element::I16 | Element::I32 | Element::I64)
}

/// An integer brought into the range of the type.
fn wrap(x: i128, element: Element) -> i128 {
    if element == Element::Bool {
        return i128::from(x != 0);
    }
    let size = 1_i128 << (8 * element.size());
    let x = x.rem_euclid(size);
    if signed(element) && x >= size / 2 { x - size } else { x }
}

pub(super) fn cast(x: Value, to: Element) -> Value {
    match (x, to) {
        (Int(x), Element::F32) => F32(x as f32),
        (Int(x), Element::F64) => F64(x as f64),
        (Int(x), _) => Int(wrap(x, to)),
        (F32(x), Element::F64) => F64(f64::from(x)),
        (F32(_), Element::F32) | (F64(_), Element::F64) => x,
        (F32(x), Element::Bool) => Int(i128::from(x != 0.0)),
        (F64(x), Element::Bool) => Int(i128::from(x != 0.0)),
        (F64(x), Element::F32) => F32(x as f32),
        _ => panic!("no cast of {x:?} to {to:?}"),
    }
}

impl Array {
    pub(super) fn new(element: Element, shape: &[u64], values: Vec<Value>) -> Array {
        assert_eq!(shape.iter().product::<u64>(), values.len() as u64);
        Array { element, shape: shape.to_vec(), values }
    }

    pub(super) fn to(&self, element: Element) -> Array {
        let values = self.values.iter().map(|x| cast(*x, element)).collect();
        Array::new(element, &self.shape, values)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let bytes_of = |x: &Value| match *x {
            Int(x) => x.to_le_bytes()[..self.element.size()].to_vec(),
            F32(x) if x.is_nan() => vec![0, 0, 0xc0, 0x7f],
            F64(x) if x.is_nan() => vec![0, 0, 0, 0, 0, 0, 0xf8, 0x7f],
            F32(x) => x.to_le_bytes().to_vec(),
            F64(x) => x.to_le_bytes().to_vec(),
        };
        self.values.iter().flat_map(bytes_of).collect()
    }

    fn broadcast_to(&self, shape: &[u64]) -> Array {
        let added = shape.len() - self.shape.len();
        let count = shape.iter().product::<u64>();
        let values = (0..count).map(|flat| {
            let (mut rest, mut at, mut step) = (flat, 0, 1);
            for axis in (0..shape.len()).rev() {
                let index = rest % shape[axis];
                rest /= shape[axis];
                if axis >= added && self.shape[axis - added] != 1 {
                    at += index * step;
                    step *= self.shape[axis - added];
                }
            }
            self.values[at as usize]
        });
        Array::new(self.element, shape, values.collect())
    }
}

pub(super) fn common_shape(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let mut shape = Vec::new();
    for i in 1..=a.len().max(b.len()) {
        let x = if i <= a.len() { a[a.len() - i] } else { 1 };
        let y = if i <= b.len() { b[b.len() - i] } else { 1 };
        if x != y && x != 1 && y != 1 {
            return None;
        }
        shape.insert(0, if x == 1 { y } else { x });
    }
    Some(shape)
}

fn floor_div(a: i128, b: i128) -> i128 {
    let quotient = a / b;
    if quotient * b != a && (a < 0) != (b < 0) { quotient - 1 } else { quotient }
}

fn int_power(base: i128, exponent: i128, element: Element) -> i128 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 if exponent % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    assert!(exponent <= 70_000, "the tests keep exponents small");
    let mut result: i128 = 1;
    for _ in 0..exponent {
        result = wrap(result.wrapping_mul(base), element);
    }
    result
}

fn int_binary(op: &str, a: i128, b: i128, element: Element) -> Option<i128> {
    let bits = 8 * element.size() as i128;
    let outside = !(0..bits).contains(&b);
    let found = match op {
        "+" => a + b,
        "-" => a - b,
        "*" => a.wrapping_mul(b),
        "//" | "%" if b == 0 => 0,
        "//" => floor_div(a, b),
        "%" => a - floor_div(a, b) * b,
        "**" => int_power(a, b, element),
        "&" => a & b,
        "|" => a | b,
        "^" => a ^ b,
        "<<" if outside => 0,
        "<<" => a << b,
        ">>" if outside => -i128::from(a < 0),
        ">>" => a >> b,
        "minimum" => a.min(b),
        "maximum" => a.max(b),
        _ => return None,
    };
    Some(wrap(found, element))
}

macro_rules! float_binary {
    ($name:ident, $type:ident, $pow:ident, $atan2:ident) => {
        fn $name(op: &str, a: $type, b: $type) -> Option<$type> {
            let rest = a % b;
            let adjusted = rest != 0.0 && (rest < 0.0) != (b < 0.0);
            Some(match op {
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                "/" => a / b,
                "//" if b == 0.0 => a / b,
                "//" => {
                    let mut q = (a - rest) / b;
                    if adjusted {
                        q -= 1.0;
                    }
                    if q == 0.0 {
                        (a / b).signum() * 0.0
                    } else if q - q.floor() > 0.5 {
                        q.floor() + 1.0
                    } else {
                        q.floor()
                    }
                }
                "%" if b == 0.0 => rest,
                "%" if rest == 0.0 => b.signum() * 0.0,
                "%" if adjusted => rest + b,
                "%" => rest,
                "**" => libm::$pow(a, b),
                "arctan2" => libm::$atan2(a, b),
                "minimum" | "maximum" if a.is_nan() || b.is_nan() => $type::NAN,
                "minimum" => {
                    if b < a {
                        b
                    } else {
                        a
                    }
                }
                "maximum" => {
                    if b > a {
                        b
                    } else {
                        a
                    }
                }
                _ => return None,
            })
        }
    };
}
float_binary!(f64_binary, f64, pow, atan2);
float_binary!(f32_binary, f32, powf, atan2f);

fn compare(op: &str, order: Option<std::cmp::Ordering>) -> Option<bool> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    Some(match op {
        "<" => order == Some(Less),
        "<=" => order == Some(Less) || order == Some(Equal),
        ">" => order == Some(Greater),
        ">=" => order == Some(Greater) || order == Some(Equal),
        "==" => order == Some(Equal),
        "!=" => order != Some(Equal),
        _ => return None,
    })
}

/// One operation of two values of the type `element`.
pub(super) fn scalar_binary(op: &str, a: Value, b: Value, element: Element) -> Option<Value> {
    Some(match (a, b) {
        (Int(a), Int(b)) => Int(int_binary(op, a, b, element)?),
        (F32(a), F32(b)) => F32(f32_binary(op, a, b)?),
        (F64(a), F64(b)) => F64(f64_binary(op, a, b)?),
        _ => panic!("mixed values"),
    })
}

pub(super) fn binary(op: &str, a: &Array, b: &Array) -> Option<Array> {
    let shape = common_shape(&a.shape, &b.shape)?;
    let (a, b) = (a.broadcast_to(&shape), b.broadcast_to(&shape));
    let meet = promoted(a.element, b.element);
    if compare(op, None).is_some() {
        let exact = !float(a.element) && !float(b.element);
        let truth = a.values.iter().zip(&b.values).map(|(x, y)| {
            let order = match (*x, *y) {
                (Int(x), Int(y)) if exact => x.partial_cmp(&y),
                (x, y) => match (cast(x, meet), cast(y, meet)) {
                    (F32(x), F32(y)) => x.partial_cmp(&y),
                    (F64(x), F64(y)) => x.partial_cmp(&y),
                    _ => panic!("floats expected"),
                },
            };
            Int(i128::from(compare(op, order).unwrap()))
        });
        return Some(Array::new(Element::Bool, &shape, truth.collect()));
    }
    let element = match (op, meet) {
        ("-", Element::Bool) => return None,
        ("&" | "|" | "^" | "<<" | ">>", Element::F32 | Element::F64) => return None,
        ("//" | "%" | "**" | "<<" | ">>", Element::Bool) => Element::I8,
        ("/" | "arctan2", meet) if !float(meet) => Element::F64,
        (_, meet) => meet,
    };
    let pairs = a.values.iter().zip(&b.values);
    let values: Option<Vec<Value>> = pairs
        .map(|(x, y)| scalar_binary(op, cast(*x, element), cast(*y, element), element))
        .collect();
    Some(Array::new(element, &shape, values?))
}

macro_rules! float_unary {
    ($name:ident, $type:ident, $exp:ident $log:ident $sin:ident $cos:ident $tan:ident $tanh:ident) => {
        fn $name(op: &str, x: $type) -> Option<$type> {
            Some(match op {
                "-" => -x,
                "+" => x,
                "abs" => {
                    if x.is_sign_negative() {
                        -x
                    } else {
                        x
                    }
                }
                "sqrt" => x.sqrt(),
                "floor" => x.floor(),
                "ceil" => x.ceil(),
                "trunc" => x.trunc(),
                "sign" if x.is_nan() => x,
                "sign" => $type::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
                "exp" => libm::$exp(x),
                "log" => libm::$log(x),
                "sin" => libm::$sin(x),
                "cos" => libm::$cos(x),
                "tan" => libm::$tan(x),
                "tanh" => libm::$tanh(x),
                _ => return None,
            })
        }
    };
}
float_unary!(f64_unary, f64, exp log sin cos tan tanh);
float_unary!(f32_unary, f32, expf logf sinf cosf tanf tanhf);

pub(super) fn unary(op: &str, x: &Array) -> Option<Array> {
    let of_reals = ["sqrt", "exp", "log", "sin", "cos", "tan", "tanh"].contains(&op);
    if of_reals && !float(x.element) {
        return unary(op, &x.to(Element::F64));
    }
    if x.element == Element::Bool && ["-", "+", "sign"].contains(&op) {
        return None;
    }
    let to_bool = ["isnan", "isfinite"].contains(&op);
    let value = |value: &Value| -> Option<Value> {
        Some(match (op, *value) {
            ("isnan", Int(_)) => Int(0),
            ("isfinite", Int(_)) => Int(1),
            ("isnan", F32(x)) => Int(i128::from(x.is_nan())),
            ("isnan", F64(x)) => Int(i128::from(x.is_nan())),
            ("isfinite", F32(x)) => Int(i128::from(x.is_finite())),
            ("isfinite", F64(x)) => Int(i128::from(x.is_finite())),
            ("-", Int(v)) => Int(wrap(-v, x.element)),
            ("~", Int(v)) if x.element == Element::Bool => Int(1 - v),
            ("~", Int(v)) => Int(wrap(-v - 1, x.element)),
            ("abs", Int(v)) => Int(wrap(v.abs(), x.element)),
            ("sign", Int(v)) => Int(v.signum()),
            ("+" | "floor" | "ceil" | "trunc", Int(v)) => Int(v),
            (_, Int(_)) => return None,
            (_, F32(v)) => F32(f32_unary(op, v)?),
            (_, F64(v)) => F64(f64_unary(op, v)?),
        })
    };
    // An empty array has the same operations as any other.
    let probe = cast(Int(1), x.element);
    value(&probe)?;
    let values: Option<Vec<Value>> = x.values.iter().map(value).collect();
    let element = if to_bool { Element::Bool } else { x.element };
    Some(Array::new(element, &x.shape, values?))
}

pub(super) fn select(condition: &Array, a: &Array, b: &Array) -> Option<Array> {
    let element = promoted(a.element, b.element);
    let shape = common_shape(&condition.shape, &common_shape(&a.shape, &b.shape)?)?;
    let condition = condition.to(Element::Bool).broadcast_to(&shape);
    let (a, b) = (a.to(element).broadcast_to(&shape), b.to(element).broadcast_to(&shape));
    let pick = |i: usize| match condition.values[i] {
        Int(0) => b.values[i],
        _ => a.values[i],
    };
    Some(Array::new(element, &shape, (0..a.values.len()).map(pick).collect()))
}

/// The tree of the module docs, level by level.
pub(super) fn tree(values: &[Value], start: Value, join: &dyn Fn(Value, Value) -> Value) -> Value {
    let mut level: Vec<Value> = values
        .chunks(128)
        .map(|block| {
            let mut lanes = [start; 8];
            for (i, x) in block.iter().enumerate() {
                lanes[i % 8] = join(lanes[i % 8], *x);
            }
            let four: Vec<Value> = (0..4).map(|j| join(lanes[j], lanes[j + 4])).collect();
            join(join(four[0], four[2]), join(four[1], four[3]))
        })
        .collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| if pair.len() == 2 { join(pair[0], pair[1]) } else { pair[0] })
            .collect();
    }
    level[0]
}

fn extreme(element: Element, high: bool) -> Value {
    match element {
        Element::F32 => F32(if high { f32::INFINITY } else { f32::NEG_INFINITY }),
        Element::F64 => F64(if high { f64::INFINITY } else { f64::NEG_INFINITY }),
        Element::Bool => Int(i128::from(high)),
        _ => {
            let bits = 8 * element.size() as u32;
            let least = if signed(element) { -(1_i128 << (bits - 1)) } else { 0 };
            Int(if high { least + (1_i128 << bits) - 1 } else { least })
        }
    }
}

pub(super) fn reduce(op: &str, x: &Array, axis: Option<usize>) -> Option<Array> {
    if op == "mean" {
        let x = if float(x.element) { x.clone() } else { x.to(Element::F64) };
        let sum = reduce("sum", &x, axis)?;
        let count = axis.map_or(x.values.len() as u64, |axis| x.shape[axis]);
        let count = Array::new(x.element, &[], vec![cast(Int(i128::from(count)), x.element)]);
        return binary("/", &sum, &count);
    }
    let element = match (op, x.element) {
        ("any" | "all", _) => Element::Bool,
        ("sum" | "prod", element) if !float(element) => {
            if signed(element) || element == Element::Bool { Element::I64 } else { Element::U64 }
        }
        (_, element) => element,
    };
    let x = x.to(element);
    let (name, start) = match op {
        "sum" => (
            "+",
            match element {
                Element::F32 => F32(-0.0),
                Element::F64 => F64(-0.0),
                _ => Int(0),
            },
        ),
        "prod" => ("*", cast(Int(1), element)),
        "any" => ("|", Int(0)),
        "all" => ("&", Int(1)),
        "min" => ("minimum", extreme(element, true)),
        "max" => ("maximum", extreme(element, false)),
        _ => return None,
    };
    let (outer, length, inner) = match axis {
        None => (1, x.values.len(), 1),
        Some(axis) => (
            x.shape[..axis].iter().product::<u64>() as usize,
            x.shape[axis] as usize,
            x.shape[axis + 1..].iter().product::<u64>() as usize,
        ),
    };
    let mut shape = x.shape.clone();
    match axis {
        None => shape.clear(),
        Some(axis) => drop(shape.remove(axis)),
    }
    if length == 0 && outer * inner != 0 && (op == "min" || op == "max") {
        return None;
    }
    let empty = if op == "sum" { cast(Int(0), element) } else { start };
    let join = |a: Value, b: Value| scalar_binary(name, a, b, element).unwrap();
    let mut values = Vec::new();
    for o in 0..outer {
        for i in 0..inner {
            let line: Vec<Value> =
                (0..length).map(|k| x.values[(o * length + k) * inner + i]).collect();
            values.push(if line.is_empty() { empty } else { tree(&line, start, &join) });
        }
    }
    Some(Array::new(element, &shape, values))
}

/// The operations of a semiring by their names here, and its zero.
pub(super) fn ring(name: &str, element: Element) -> (&'static str, &'static str, Value) {
    match name {
        "plus_times" if element == Element::Bool => ("|", "&", Int(0)),
        "plus_times" => ("+", "*", cast(Int(0), element)),
        "min_plus" => ("minimum", "+", extreme(element, true)),
        "max_plus" => ("maximum", "+", extreme(element, false)),
        "min_max" => ("minimum", "maximum", extreme(element, true)),
        "or_and" => ("|", "&", Int(0)),
        _ => panic!("no semiring {name}"),
    }
}

pub(super) fn product(name: &str, a: &Array, b: &Array) -> Option<Array> {
    let element = promoted(a.element, b.element);
    let allowed = match name {
        "plus_times" => true,
        "or_and" => element == Element::Bool,
        _ => float(element),
    };
    if !allowed || !matches!(a.shape.len(), 1 | 2) || !matches!(b.shape.len(), 1 | 2) {
        return None;
    }
    let (plus, times, zero) = ring(name, element);
    let (a, b) = (a.to(element), b.to(element));
    let inner = *a.shape.last()?;
    if b.shape[0] != inner {
        return None;
    }
    let rows = if a.shape.len() == 2 { a.shape[0] } else { 1 };
    let columns = if b.shape.len() == 2 { b.shape[1] } else { 1 };
    let mut values = Vec::new();
    for i in 0..rows {
        for j in 0..columns {
            let terms = (0..inner).map(|k| {
                let (x, y) =
                    (a.values[(i * inner + k) as usize], b.values[(k * columns + j) as usize]);
                scalar_binary(times, x, y, element).unwrap()
            });
            let sum = terms.reduce(|s, t| scalar_binary(plus, s, t, element).unwrap());
            values.push(sum.unwrap_or(zero));
        }
    }
    let mut shape = Vec::new();
    if a.shape.len() == 2 {
        shape.push(rows);
    }
    if b.shape.len() == 2 {
        shape.push(columns);
    }
    Some(Array::new(element, &shape, values))
}

/// Runs a text at every level, on unaligned bytes, in a used scratch; `None` for a fault.
pub(super) fn run(text: &str, inputs: &[(&str, &Array)]) -> Option<(Element, Vec<u64>, Vec<u8>)> {
    let described: Vec<Input<'_>> = inputs
        .iter()
        .map(|(name, array)| Input { name, element: array.element, shape: &array.shape })
        .collect();
    let kernel = Kernel::compile(text, &described).ok()?;
    let shifted: Vec<Vec<u8>> =
        inputs.iter().map(|(_, array)| [vec![7], array.bytes()].concat()).collect();
    let slices: Vec<&[u8]> = shifted.iter().map(|bytes| &bytes[1..]).collect();
    let length = kernel.shape().iter().product::<u64>() as usize * kernel.element().size();
    let mut scratch = Scratch::default();
    let mut results: Vec<Vec<u8>> = Vec::new();
    for level in Level::all().into_iter().flatten() {
        for _ in 0..2 {
            let mut out = vec![0xa5; length + 1];
            kernel.run_at(level, &slices, &mut out[1..], &mut scratch).unwrap();
            results.push(out[1..].to_vec());
        }
    }
    assert!(results.iter().all(|result| *result == results[0]), "levels differ: {text}");
    Some((kernel.element(), kernel.shape().to_vec(), results.swap_remove(0)))
}

/// Compares a text with what it should be.
pub(super) fn check(text: &str, inputs: &[(&str, &Array)], wanted: Option<&Array>) {
    let found = run(text, inputs);
    let described: Vec<_> = inputs.iter().map(|(n, a)| (n, a.element, &a.shape)).collect();
    match (found, wanted) {
        (None, None) => {}
        (Some((element, shape, bytes)), Some(wanted)) => {
            assert_eq!((element, &shape), (wanted.element, &wanted.shape), "{text} {described:?}");
            let size = element.size();
            let expected = wanted.bytes();
            for (i, (a, b)) in bytes.chunks(size).zip(expected.chunks(size)).enumerate() {
                assert_eq!(a, b, "{text} {described:?}: element {i}");
            }
            assert_eq!(bytes.len(), expected.len(), "{text}");
        }
        (found, wanted) => {
            panic!("{text} {described:?}: found {:?}, wanted {wanted:?}", found.map(|f| f.0));
        }
    }
}

/// Values at the edges of a type.
pub(super) fn edges(element: Element) -> Vec<Value> {
    let floats = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.0,
        2.5,
        3.0,
        -7.25,
        1e-3,
        100.0,
        1e10,
        -1e30,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
        f64::MIN_POSITIVE,
        5e-324,
        f64::MAX,
        0.1,
    ];
    match element {
        Element::Bool => vec![Int(0), Int(1)],
        Element::F64 => floats.iter().map(|x| F64(*x)).collect(),
        Element::F32 => {
            let small = [f32::MIN_POSITIVE, f32::from_bits(1), f32::MAX];
            floats.iter().map(|x| *x as f32).chain(small).map(F32).collect()
        }
        _ => {
            let (Int(least), Int(greatest)) = (extreme(element, false), extreme(element, true))
            else {
                panic!("integers expected")
            };
            let mut values: Vec<i128> = vec![least, least + 1, greatest - 1, greatest];
            values.extend([-64, -9, -3, -2, -1, 0, 1, 2, 3, 5, 7, 8, 9, 15, 31, 32, 63, 64, 100]);
            values.into_iter().filter(|x| (least..=greatest).contains(x)).map(Int).collect()
        }
    }
}
