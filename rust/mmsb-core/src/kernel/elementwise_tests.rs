//! Every element-wise operation on every pair of types, at the edges of the types.

use super::Element;
use super::fold_tests::rough;
use super::oracle::{Array, ELEMENTS, Value, binary, cast, check, edges, reduce, select, unary};

const BINARY: [&str; 18] = [
    "+", "-", "*", "/", "//", "%", "&", "|", "^", "<<", ">>", "<", "<=", ">", ">=", "==", "!=",
    "**",
];
const FUNCTIONS: [&str; 3] = ["minimum", "maximum", "arctan2"];

fn column(element: Element) -> Array {
    let values = edges(element);
    Array::new(element, &[values.len() as u64, 1], values)
}

fn row(element: Element) -> Array {
    let mut values = edges(element);
    // Long enough for whole vectors and a rest.
    while values.len() < 67 {
        values.extend_from_within(..);
    }
    Array::new(element, &[values.len() as u64], values)
}

/// The oracle multiplies as often as the exponent says.
fn small_exponents(mut x: Array) -> Array {
    for value in &mut x.values {
        if let Value::Int(v) = value
            && *v > 70_000
        {
            *v = 11;
        }
    }
    x
}

#[test]
fn binary_operations() {
    for op in BINARY.into_iter().chain(FUNCTIONS) {
        let named = op.len() > 2;
        let text = if named { format!("{op}(a, b)") } else { format!("a {op} b") };
        for left in ELEMENTS {
            for right in ELEMENTS {
                let (a, mut b) = (column(left), row(right));
                if op == "**" {
                    b = small_exponents(b);
                }
                let wanted = binary(op, &a, &b);
                check(&text, &[("a", &a), ("b", &b)], wanted.as_ref());
            }
        }
    }
}

#[test]
fn unary_operations() {
    let functions = [
        "abs", "sqrt", "floor", "ceil", "trunc", "isnan", "isfinite", "sign", "exp", "log", "sin",
        "cos", "tan", "tanh",
    ];
    for element in ELEMENTS {
        let x = row(element);
        for op in ["-", "+", "~"] {
            check(&format!("{op}x"), &[("x", &x)], unary(op, &x).as_ref());
        }
        for op in functions {
            check(&format!("{op}(x)"), &[("x", &x)], unary(op, &x).as_ref());
        }
    }
}

#[test]
fn where_takes_any_condition() {
    for condition in ELEMENTS {
        for (left, right) in ELEMENTS.into_iter().zip(ELEMENTS.into_iter().rev()) {
            let (c, a, b) = (column(condition), row(left), row(right));
            let short = Array::new(b.element, &[1], vec![b.values[0]]);
            let wanted = select(&c, &a, &short);
            check("where(c, a, b)", &[("c", &c), ("a", &a), ("b", &short)], wanted.as_ref());
        }
    }
}

fn scalar(element: Element, value: Value) -> Array {
    Array::new(element, &[], vec![value])
}

#[test]
fn literals_adapt() {
    for element in ELEMENTS {
        let x = row(element);
        let integer_type = if element == Element::Bool { Element::I64 } else { element };
        let float_type = match element {
            Element::F32 => Element::F32,
            _ => Element::F64,
        };
        for op in ["+", "-", "*", "/", "//", "%", "<", "<=", ">", ">=", "==", "!="] {
            let three = scalar(integer_type, cast(Value::Int(3), integer_type));
            let half = scalar(float_type, cast(Value::F64(0.1), float_type));
            let inputs = [("x", &x)];
            check(&format!("x {op} 3"), &inputs, binary(op, &x, &three).as_ref());
            check(&format!("3 {op} x"), &inputs, binary(op, &three, &x).as_ref());
            check(&format!("x {op} .1"), &inputs, binary(op, &x, &half).as_ref());
            check(&format!("0.1 {op} x"), &inputs, binary(op, &half, &x).as_ref());
        }
        check("x**2", &[("x", &x)], square(&x, integer_type).as_ref());
        check("x**2.0", &[("x", &x)], square(&x, float_type).as_ref());
    }
}

fn square(x: &Array, element: Element) -> Option<Array> {
    let x = if x.element == element { x.clone() } else { x.to(element) };
    binary("*", &x, &x)
}

#[test]
fn broadcasts_of_many_axes() {
    let shapes: [&[u64]; 12] = [
        &[2, 3, 4, 5],
        &[2, 1, 4, 1],
        &[1, 3, 1, 5],
        &[2, 3, 1, 1],
        &[4, 1],
        &[3, 4, 5],
        &[1, 4, 5],
        &[],
        &[1, 1, 1],
        &[2, 1, 1, 5],
        &[3, 0, 1],
        &[2, 3, 9],
    ];
    for a in shapes {
        for b in shapes {
            let (a, b) = (rough(Element::I32, a, 1), rough(Element::I16, b, 2));
            let wanted = binary("-", &a, &b);
            check("a - b", &[("a", &a), ("b", &b)], wanted.as_ref());
            let summed =
                wanted.filter(|x| !x.shape.is_empty()).and_then(|x| reduce("sum", &x, Some(0)));
            check("sum(a - b, axis=0)", &[("a", &a), ("b", &b)], summed.as_ref());
        }
    }
    // Across the borders of chunks.
    let (a, b) = (rough(Element::F64, &[3, 1, 401], 1), rough(Element::F64, &[7, 1], 2));
    check("a * b", &[("a", &a), ("b", &b)], binary("*", &a, &b).as_ref());
    check("b * a", &[("a", &a), ("b", &b)], binary("*", &b, &a).as_ref());
}

#[test]
fn a_bool_page_may_hold_any_byte() {
    let inputs = [super::Input { name: "x", element: Element::Bool, shape: &[4] }];
    let kernel = super::Kernel::compile("x", &inputs).unwrap();
    let mut out = [9; 4];
    kernel.run(&[&[0, 1, 2, 255]], &mut out, &mut super::Scratch::default()).unwrap();
    assert_eq!(out, [0, 1, 1, 1]);
}

#[test]
fn nans_are_canonical() {
    let payload = f64::from_bits(0xfff4_0000_dead_beef);
    let x = Array::new(Element::F64, &[1], vec![Value::F64(1.0)]);
    let described = [super::Input { name: "x", element: Element::F64, shape: &[1] }];
    for text in ["x", "-x", "x + 1", "minimum(x, 0)", "sum(x)", "x @ x", "where(True, x, 0)"] {
        let kernel = super::Kernel::compile(text, &described).unwrap();
        let mut out = [0; 8];
        let bytes = payload.to_le_bytes();
        kernel.run(&[&bytes], &mut out, &mut super::Scratch::default()).unwrap();
        assert_eq!(u64::from_le_bytes(out), 0x7ff8_0000_0000_0000, "{text}");
    }
    check(
        "inf - inf + x",
        &[("x", &x)],
        binary("+", &x, &scalar(Element::F64, Value::F64(f64::NAN))).as_ref(),
    );
}
