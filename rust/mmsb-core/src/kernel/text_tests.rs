//! Texts: what they mean, what is wrong with them and where, and that none of them panics.

use proptest::prelude::*;

use super::fold_tests::rough;
use super::oracle::{Array, Value, binary, check, reduce, select, unary};
use super::{Element, Fault, Input, Kernel, variables};

fn compile(text: &str) -> Result<Kernel, Fault> {
    let input = |name, element, shape| Input { name, element, shape };
    Kernel::compile(
        text,
        &[
            input("x", Element::F64, &[3]),
            input("y", Element::F64, &[4]),
            input("m", Element::F64, &[3, 3]),
            input("i", Element::I32, &[3]),
            input("u", Element::U8, &[3]),
            input("b", Element::Bool, &[3]),
            input("f", Element::F32, &[3]),
            input("none", Element::F64, &[0]),
        ],
    )
}

#[test]
fn faults_say_what_and_where() {
    let cases = [
        ("", 0, "end of the text"),
        ("x +", 3, "end of the text"),
        ("x y", 2, "found the name `y`"),
        ("x $ y", 2, "no part of"),
        ("(x", 2, "`)`"),
        ("x)", 1, "`)`"),
        ("x < y < x", 6, "do not chain"),
        ("x == x != x", 7, "do not chain"),
        ("x and y", 2, "write `&`"),
        ("x or y", 2, "write `|`"),
        ("not x", 0, "write `~`"),
        ("x if b else y", 2, "where("),
        ("x = y", 2, "=="),
        ("x[0]", 1, "indexing"),
        ("z + x", 0, "no input `z`"),
        ("x + z", 4, "no input `z`"),
        ("x + y", 2, "(3,) and (4,)"),
        ("foo(x)", 0, "no function"),
        ("sum + x", 4, "`(` after the function `sum`"),
        ("sqrt(x, y)", 8, "takes 1 value"),
        ("where(b, x)", 10, "takes 3 values"),
        ("sqrt(x, axis=0)", 8, "no keyword"),
        ("sum(x, axis=3)", 12, "no axis 3"),
        ("sum(x, axis=-2)", 13, "no axis -2"),
        ("sum(x, axis=i)", 12, "integer literal"),
        ("sum(x, axis=0, axis=0)", 15, "second time"),
        ("sum(x, keepdims=1)", 7, "only `axis=`"),
        ("u + 300", 4, "300 does not fit into uint8 (0 to 255)"),
        ("u + -1", 4, "-1 does not fit"),
        ("i ** -1", 5, "negative exponent"),
        ("b - b", 2, "^"),
        ("-b", 0, "~x"),
        ("~x", 0, "float64"),
        ("x & x", 2, "not on float64"),
        ("x << 1", 2, "not on float64"),
        ("min(none)", 0, "of no elements"),
        ("x @ y", 2, "(3,) and (4,)"),
        ("x @ 2", 2, "()"),
        ("plus_times.closure(m)", 0, "need not converge"),
        ("min_plus.closure(x)", 0, "square"),
        ("min_plus.fold(i)", 0, "write `x * 1.0`"),
        ("or_and.fold(x)", 0, "write `x != 0`"),
        ("min_plus(x)", 8, "`.fold`"),
        ("min_plus.sum(x)", 9, "`.fold`"),
        ("1 / 0 + x", 2, "division by zero"),
        ("2x", 0, "no number"),
        ("x + 1_", 4, "underscore"),
        ("x + 012", 4, "begin with 0"),
        ("x + 1j", 4, "complex"),
        ("x + 0b12", 4, "digits of the base"),
        ("x + 2**200", 5, "too large"),
        ("é + x + ", 9, "end of the text"),
    ];
    for (text, at, what) in cases {
        let fault = compile(text).map(|_| ()).unwrap_err();
        assert!(fault.what.contains(what), "{text}: {fault}");
        assert_eq!(fault.at, at, "{text}: {fault}");
    }
}

#[test]
fn limits_hold() {
    let deep = |n: usize| format!("{}x{}", "(".repeat(n), ")".repeat(n));
    assert!(compile(&deep(100)).is_ok());
    assert!(compile(&deep(101)).unwrap_err().what.contains("nested"));
    assert!(compile(&format!("{}x", "-".repeat(101))).unwrap_err().what.contains("nested"));
    assert!(compile(&vec!["2"; 102].join("**")).unwrap_err().what.contains("nested"));
    assert!(compile(&"x+".repeat(40_000)).unwrap_err().what.contains("longer than"));
    let wide: Vec<String> = (0..5000).map(|i| format!("x*{i}.5")).collect();
    assert!(compile(&wide.join("+")).unwrap_err().what.contains("more than 8192 operations"));
    assert!(compile(&vec!["x"; 8000].join("+")).is_ok());
    let side = 1 << 30;
    let huge = [
        Input { name: "a", element: Element::F64, shape: &[side, 1] },
        Input { name: "b", element: Element::F64, shape: &[1, side] },
        Input { name: "c", element: Element::F64, shape: &[1, 1 << 16] },
    ];
    let fault = |text: &str| Kernel::compile(text, &huge).map(|_| ()).unwrap_err().what;
    assert!(fault("a * b").contains("too large"));
    assert!(fault("(a * c) @ sum(c, axis=0)").contains("parts of the expression need more"));
    let vast = [Input { name: "a", element: Element::F64, shape: &[u64::MAX, 2] }];
    assert!(Kernel::compile("a", &vast).is_err());
}

#[test]
fn names_in_order_of_use() {
    assert_eq!(variables("b*a + sum(c, axis=1)*a + inf + True").unwrap(), ["b", "a", "c"]);
    assert_eq!(variables("min_plus.closure(d)").unwrap(), ["d"]);
    assert_eq!(variables("x +").unwrap_err().at, 3);
}

fn integer(text: &str) -> i64 {
    let x = Array::new(Element::I64, &[], vec![Value::Int(0)]);
    let (element, _, bytes) = super::oracle::run(&format!("x + ({text})"), &[("x", &x)]).unwrap();
    assert_eq!(element, Element::I64, "{text}");
    i64::from_le_bytes(bytes.try_into().unwrap())
}

#[test]
fn precedence_is_pythons() {
    let cases = [
        ("2 + 3 * 4", 14),
        ("-2 ** 2", -4),
        ("2 ** 3 ** 2", 512),
        ("(2 ** 3) ** 2", 64),
        ("7 - 3 - 2", 2),
        ("-7 // 2", -4),
        ("-7 % 3", 2),
        ("7 % -3", -2),
        ("1 | 2 ^ 3 & 4 << 1 + 1", 3),
        ("1 << 3 - 1", 4),
        ("~5 + 1", -5),
        ("6 & 3 == 3", 1),
        ("0x1F + 0b101 + 0o17 + 1_000", 1051),
        ("- - 3", 3),
        ("2 * -3", -6),
        ("8 >> 1 >> 1", 2),
        ("12 // 5 * 5", 10),
    ];
    for (text, value) in cases {
        if text.contains("==") {
            // `&` binds tighter than `==`: (6 & 3) == 3 is false.
            assert_eq!(integer("(6 & 3 == 3) * 5"), 0);
        } else {
            assert_eq!(integer(text), value, "{text}");
        }
    }
}

#[test]
fn whole_literals_and_leaves() {
    let of = |text: &str| super::oracle::run(text, &[]).unwrap();
    assert_eq!(of("3"), (Element::I64, vec![], 3_i64.to_le_bytes().to_vec()));
    assert_eq!(of("2 ** 63").0, Element::U64);
    assert_eq!(of("1.5"), (Element::F64, vec![], 1.5_f64.to_le_bytes().to_vec()));
    assert_eq!(of("2 ** -1"), of("0.5"));
    assert_eq!(of("True"), (Element::Bool, vec![], vec![1]));
    assert_eq!(of("1 < 2"), of("True"));
    assert_eq!(of("inf - inf").2, 0x7ff8_0000_0000_0000_u64.to_le_bytes());
    assert_eq!(of("sum(3)"), of("3"));
    assert_eq!(of("sqrt(4)"), of("2."));
}

/// A constant or a uniform input that is first used late must not share a register with what is
/// computed and forgotten before.
#[test]
fn late_constants_keep_their_registers() {
    let v = rough(Element::F64, &[2, 700], 1);
    let s = rough(Element::F64, &[], 2);
    let square = binary("*", &v, &v).unwrap();
    let quotient = binary("/", &square, &binary("+", &v, &v).unwrap()).unwrap();
    let scaled = binary("*", &quotient, &adapted(Value::F64(2.5), Element::F64)).unwrap();
    let wanted = binary("-", &scaled, &s).unwrap();
    check("v*v / (v + v) * 2.5 - s", &[("v", &v), ("s", &s)], Some(&wanted));
}

/// Bits that must come out on every machine: recorded once, compared everywhere.
#[test]
fn recorded_bits() {
    let v = rough(Element::F64, &[10, 333], 7);
    let f = rough(Element::F32, &[10, 333], 8);
    let recorded = [
        ("sum(v)", 0x4083_9cab_1e8e_997e),
        ("sum(exp(v / 100) * sin(v) + tanh(v))", 0x4053_2367_5252_611e),
        ("sum(log(abs(v) + 1) ** 1.5 + arctan2(v, 3) + cos(v) + tan(v))", 0x40cc_ff3e_fd2e_feec),
        ("mean(f)", 0x3d20_a2a2),
        ("sum(exp(f / 10) * sin(f) + tanh(f) + log(abs(f) + 1) ** 1.5)", 0x460a_b26c),
    ];
    let found = recorded.map(|(text, _)| {
        let (_, _, bytes) = super::oracle::run(text, &[("v", &v), ("f", &f)]).unwrap();
        (text, bytes.iter().rev().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte)))
    });
    assert_eq!(found, recorded, "{found:#x?}");
}

#[test]
fn kernels_are_shared_between_threads() {
    fn shared<T: Send + Sync + std::fmt::Debug>() {}
    fn sent<T: Send + Default>() {}
    shared::<Kernel>();
    sent::<super::Scratch>();
}

#[test]
fn one_scratch_serves_any_kernel() {
    let mut scratch = super::Scratch::default();
    for (text, length) in [("sum(x*x) + x", 3), ("x", 3), ("sum(x - mean(x))", 1), ("m @ x", 3)] {
        let kernel = compile(text).unwrap();
        let bytes = |n: usize| vec![0_u8; n];
        let (x, y, m, i) = (bytes(24), bytes(32), bytes(72), bytes(12));
        let inputs: [&[u8]; 8] = [&x, &y, &m, &i, &[0; 3], &[0; 3], &[0; 12], &[]];
        let mut out = vec![1; 8 * length];
        kernel.run(&inputs, &mut out, &mut scratch).unwrap();
        assert_eq!(out, bytes(8 * length), "{text}");
    }
}

#[test]
#[should_panic(expected = "other lengths")]
fn wrong_lengths_are_refused() {
    let inputs = [Input { name: "x", element: Element::F64, shape: &[2] }];
    let kernel = Kernel::compile("x", &inputs).unwrap();
    let _ = kernel.run(&[&[0; 15]], &mut [0; 16], &mut super::Scratch::default());
}

proptest! {
    #[test]
    fn random_bytes_never_panic(text in ".{0,60}") {
        let _ = compile(&text);
    }

    #[test]
    fn random_tokens_never_panic(tokens in prop::collection::vec(0_usize..48, 0..30)) {
        const WORDS: [&str; 48] = [
            "x", "y", "m", "i", "u", "b", "f", "none", "1", "2", "0.5", "300", "1e400", "True",
            "nan", "+", "-", "*", "/", "//", "%", "**", "@", "&", "|", "^", "~", "<<", ">>", "<",
            "==", "(", ")", "(", ")", ",", "=", ".", "sum", "min", "where", "axis", "=", "min_plus",
            "closure", "fold", "matmul", "and",
        ];
        let text: Vec<&str> = tokens.iter().map(|token| WORDS[*token]).collect();
        let _ = compile(&text.join(" "));
        let _ = compile(&text.concat());
    }

    #[test]
    fn random_expressions_match_the_oracle(
        base in 0_usize..7,
        choices in prop::collection::vec(any::<u8>(), 8..120),
    ) {
        let shapes: [&[u64]; 7] =
            [&[3, 4], &[2, 700], &[600, 3], &[1, 1], &[0, 4], &[130, 9], &[4, 4]];
        let mut builder = Builder { choices: choices.into_iter(), base: shapes[base], inputs: vec![] };
        let (text, value) = builder.build(5);
        if let Operand::Array(wanted) = value {
            let names: Vec<String> = (0..builder.inputs.len()).map(|i| format!("v{i}")).collect();
            let inputs: Vec<(&str, &Array)> =
                names.iter().map(String::as_str).zip(&builder.inputs).collect();
            check(&text, &inputs, Some(&wanted));
        }
    }
}

#[derive(Clone)]
enum Operand {
    Literal(Value),
    Array(Array),
}

/// Builds an expression and its value side by side, out of random choices.
struct Builder<'s> {
    choices: std::vec::IntoIter<u8>,
    base: &'s [u64],
    inputs: Vec<Array>,
}

impl Builder<'_> {
    fn choose(&mut self, count: usize) -> usize {
        usize::from(self.choices.next().unwrap_or(0)) % count
    }

    fn leaf(&mut self) -> (String, Operand) {
        if self.choose(5) == 0 {
            let literals = [
                ("2", Value::Int(2)),
                ("3", Value::Int(3)),
                ("0", Value::Int(0)),
                ("1.5", Value::F64(1.5)),
            ];
            let (text, value) = literals[self.choose(4)];
            return (text.to_owned(), Operand::Literal(value));
        }
        if !self.inputs.is_empty() && self.choose(3) == 0 {
            let index = self.choose(self.inputs.len());
            return (format!("v{index}"), Operand::Array(self.inputs[index].clone()));
        }
        let (rows, columns) = (self.base[0], self.base[1]);
        let shapes: [&[u64]; 6] =
            [&[rows, columns], &[columns], &[], &[rows, 1], &[1, columns], &[rows, columns]];
        let shape = shapes[self.choose(6)];
        let element = super::oracle::ELEMENTS[self.choose(11)];
        let array = rough(element, shape, self.choose(256) as u64);
        self.inputs.push(array.clone());
        (format!("v{}", self.inputs.len() - 1), Operand::Array(array))
    }

    fn build(&mut self, depth: usize) -> (String, Operand) {
        if depth == 0 || self.choices.len() == 0 {
            return self.leaf();
        }
        match self.choose(8) {
            0 => self.leaf(),
            1 => self.map(depth),
            2 => self.fold(depth),
            3 => self.select(depth),
            _ => self.zip(depth),
        }
    }

    fn map(&mut self, depth: usize) -> (String, Operand) {
        const OPS: [&str; 10] =
            ["-", "~", "abs", "sqrt", "floor", "isnan", "sign", "exp", "tanh", "isfinite"];
        let (text, x) = self.build(depth - 1);
        let op = OPS[self.choose(10)];
        let Operand::Array(array) = &x else { return (text, x) };
        match unary(op, array) {
            Some(found) => (format!("{op}({text})"), Operand::Array(found)),
            None => (text, x),
        }
    }

    fn fold(&mut self, depth: usize) -> (String, Operand) {
        const OPS: [&str; 7] = ["sum", "prod", "min", "max", "mean", "any", "all"];
        let (text, x) = self.build(depth - 1);
        let (op, axis) = (OPS[self.choose(7)], self.choose(3));
        let Operand::Array(array) = &x else { return (text, x) };
        let axis = Some(axis).filter(|axis| *axis < array.shape.len());
        match reduce(op, array, axis) {
            Some(found) => {
                let axis = axis.map_or(String::new(), |axis| format!(", axis={axis}"));
                (format!("{op}({text}{axis})"), Operand::Array(found))
            }
            None => (text, x),
        }
    }

    fn select(&mut self, depth: usize) -> (String, Operand) {
        let (condition_text, condition) = self.build(depth - 1);
        let (a_text, a) = self.build(depth - 1);
        let (b_text, b) = self.build(depth - 1);
        if let (Operand::Array(c), Operand::Array(a), Operand::Array(b)) = (&condition, &a, &b)
            && let Some(found) = select(c, a, b)
        {
            return (format!("where({condition_text}, {a_text}, {b_text})"), Operand::Array(found));
        }
        (a_text, a)
    }

    fn zip(&mut self, depth: usize) -> (String, Operand) {
        const OPS: [&str; 20] = [
            "+", "-", "*", "/", "//", "%", "&", "|", "^", "<<", ">>", "<", "<=", ">", ">=", "==",
            "!=", "+", "*", "minimum",
        ];
        let (a_text, a) = self.build(depth - 1);
        let (b_text, b) = self.build(depth - 1);
        let op = OPS[self.choose(20)];
        let (x, y) = match (&a, &b) {
            (Operand::Array(x), Operand::Array(y)) => (x.clone(), y.clone()),
            (Operand::Array(x), Operand::Literal(y)) => (x.clone(), adapted(*y, x.element)),
            (Operand::Literal(x), Operand::Array(y)) => (adapted(*x, y.element), y.clone()),
            _ => return (a_text, a),
        };
        match binary(op, &x, &y) {
            Some(found) if op == "minimum" => {
                (format!("minimum({a_text}, {b_text})"), Operand::Array(found))
            }
            Some(found) => (format!("({a_text} {op} {b_text})"), Operand::Array(found)),
            None => (a_text, a),
        }
    }
}

/// A literal as an array beside an array of the type.
fn adapted(literal: Value, beside: Element) -> Array {
    let element = match (literal, beside) {
        (_, Element::F32 | Element::F64) => beside,
        (Value::F64(_), _) => Element::F64,
        (_, Element::Bool) => Element::I64,
        _ => beside,
    };
    Array::new(element, &[], vec![super::oracle::cast(literal, element)])
}
