//! Reductions against the plain definition of the tree, products and closures against the schoolbook.

use proptest::prelude::*;

use super::oracle::{
    Array, ELEMENTS, Value, cast, check, edges, product, reduce, ring, scalar_binary,
};
use super::{Element, Failed, Input, Kernel, Scratch};

const REDUCTIONS: [&str; 7] = ["sum", "prod", "min", "max", "mean", "any", "all"];

/// Values whose sums depend on the order.
pub(super) fn rough(element: Element, shape: &[u64], seed: u64) -> Array {
    let count = shape.iter().product::<u64>();
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let values = (0..count).map(|_| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = (state >> 33) as i128;
        match element {
            Element::Bool => Value::Int(x & 1),
            Element::F32 => Value::F32((x % 1000 - 500) as f32 / 37.0),
            Element::F64 => Value::F64((x % 100_000 - 50_000) as f64 / 377.0),
            _ => cast(Value::Int(x % 251 - 100), element),
        }
    });
    Array::new(element, shape, values.collect())
}

#[test]
fn reductions_of_every_length() {
    let around = |x: u64| [x - 1, x, x + 1];
    let lengths = (0..20)
        .chain([127, 128, 129, 255, 256, 257, 300, 384, 385, 640])
        .chain(around(512).into_iter().chain(around(1024)).chain(around(1536)))
        .chain([2048, 3000, 5 * 512 + 129, 7 * 512, 20_000]);
    for length in lengths {
        for element in [Element::F64, Element::F32, Element::I32, Element::U8, Element::Bool] {
            let x = rough(element, &[length], length);
            for op in REDUCTIONS {
                check(&format!("{op}(x)"), &[("x", &x)], reduce(op, &x, None).as_ref());
            }
        }
    }
}

#[test]
fn reductions_along_axes() {
    let shapes: [&[u64]; 14] = [
        &[3, 4],
        &[1, 1],
        &[600, 3],
        &[3, 600],
        &[257, 5],
        &[2, 3, 4],
        &[2, 300, 3],
        &[130, 2, 2],
        &[5, 1, 700],
        &[2, 129, 513],
        &[0, 3],
        &[3, 0],
        &[700, 1],
        &[1030, 2],
    ];
    for shape in shapes {
        for element in [Element::F64, Element::F32, Element::I16, Element::Bool] {
            let x = rough(element, shape, 3);
            for op in REDUCTIONS {
                for axis in 0..shape.len() {
                    let wanted = reduce(op, &x, Some(axis));
                    let inputs = [("x", &x)];
                    check(&format!("{op}(x, axis={axis})"), &inputs, wanted.as_ref());
                    let back = shape.len() - axis;
                    check(&format!("{op}(x, axis=-{back},)"), &inputs, wanted.as_ref());
                }
                check(&format!("{op}(x)"), &[("x", &x)], reduce(op, &x, None).as_ref());
            }
        }
    }
}

#[test]
fn reductions_of_edges_in_every_type() {
    for element in ELEMENTS {
        let mut values = edges(element);
        while values.len() < 300 {
            values.extend_from_within(..);
        }
        values.truncate(299);
        let x = Array::new(element, &[299], values.clone());
        let thirds = Array::new(element, &[13, 23], values);
        for op in REDUCTIONS {
            check(&format!("{op}(x)"), &[("x", &x)], reduce(op, &x, None).as_ref());
            let wanted = reduce(op, &thirds, Some(0));
            check(&format!("{op}(x, axis=0)"), &[("x", &thirds)], wanted.as_ref());
        }
    }
}

#[test]
fn zeros_tie_by_the_rule() {
    let zeros = |a: f64, b: f64| Array::new(Element::F64, &[2], vec![Value::F64(a), Value::F64(b)]);
    for x in [zeros(0.0, -0.0), zeros(-0.0, 0.0), zeros(-0.0, -0.0)] {
        for op in ["min", "max", "sum", "prod"] {
            check(&format!("{op}(x)"), &[("x", &x)], reduce(op, &x, None).as_ref());
        }
    }
    let empty = Array::new(Element::F64, &[0], vec![]);
    let zero = Array::new(Element::F64, &[], vec![Value::F64(0.0)]);
    check("sum(x)", &[("x", &empty)], Some(&zero));
    let infinity = Array::new(Element::F64, &[], vec![Value::F64(f64::INFINITY)]);
    check("min_plus.fold(x)", &[("x", &empty)], Some(&infinity));
    check("min(x)", &[("x", &empty)], None);
}

#[test]
fn products_are_the_schoolbook_sums() {
    let shapes: [(&[u64], &[u64]); 12] = [
        (&[5], &[5]),
        (&[3, 5], &[5]),
        (&[5], &[5, 4]),
        (&[3, 5], &[5, 4]),
        (&[9, 20], &[20, 35]),
        (&[17, 3], &[3]),
        (&[4, 16], &[16, 16]),
        (&[8, 1], &[1, 32]),
        (&[3, 0], &[0, 2]),
        (&[0, 3], &[3, 2]),
        (&[3, 5], &[4, 2]),
        (&[13, 700], &[700, 1]),
    ];
    for name in ["plus_times", "min_plus", "max_plus", "min_max", "or_and"] {
        for (left, right) in shapes {
            for element in ELEMENTS {
                let (a, b) = (rough(element, left, 1), rough(element, right, 2));
                let wanted = product(name, &a, &b);
                let inputs = [("a", &a), ("b", &b)];
                check(&format!("{name}.matmul(a, b)"), &inputs, wanted.as_ref());
                if name == "plus_times" {
                    check("a @ b", &inputs, wanted.as_ref());
                    check("matmul(a, b)", &inputs, wanted.as_ref());
                }
                let is_matvec = (left.len(), right.len()) == (2, 1);
                let matvec = wanted.filter(|_| is_matvec);
                check(&format!("{name}.matvec(a, b)"), &inputs, matvec.as_ref());
            }
        }
    }
    let (a, b) = (rough(Element::F32, &[6, 5], 1), rough(Element::I32, &[5, 7], 2));
    check("a @ b", &[("a", &a), ("b", &b)], product("plus_times", &a, &b).as_ref());
}

const CLOSED: [(&str, Element); 5] = [
    ("min_plus", Element::F64),
    ("min_plus", Element::F32),
    ("max_plus", Element::F64),
    ("min_max", Element::F32),
    ("or_and", Element::Bool),
];

/// `(1 + a)` to a power past its size: all paths.
fn naive_closure(name: &str, a: &Array) -> Array {
    let (plus, _, zero) = ring(name, a.element);
    let one = match (name, a.element) {
        ("min_max", _) => match zero {
            Value::F32(x) => Value::F32(-x),
            Value::F64(x) => Value::F64(-x),
            Value::Int(_) => panic!("floats expected"),
        },
        ("or_and", _) => Value::Int(1),
        _ => cast(Value::Int(0), a.element),
    };
    let mut paths = a.clone();
    for i in 0..a.shape[0] as usize {
        let diagonal = &mut paths.values[i * (a.shape[0] as usize + 1)];
        *diagonal = scalar_binary(plus, *diagonal, one, a.element).unwrap();
    }
    for _ in 0..5 {
        paths = product(name, &paths, &paths).unwrap();
    }
    paths
}

/// A graph with no cycle that improves, with whole weights.
fn weights(name: &str, element: Element, size: u64, seeds: &[u8]) -> Array {
    let values = seeds.iter().cycle().take((size * size) as usize).map(|seed| {
        let weight = i128::from(seed % 50);
        let sign = if name == "max_plus" { -1 } else { 1 };
        match element {
            Element::Bool => Value::Int(i128::from(*seed < 60)),
            _ if *seed >= 120 => ring(name, element).2,
            _ => cast(Value::Int(sign * weight), element),
        }
    });
    Array::new(element, &[size, size], values.collect())
}

proptest! {
    #[test]
    fn closures_are_all_paths(size in 0_u64..20, seeds in prop::collection::vec(any::<u8>(), 1..400)) {
        for (name, element) in CLOSED {
            let a = weights(name, element, size, &seeds);
            check(&format!("{name}.closure(a)"), &[("a", &a)], Some(&naive_closure(name, &a)));
        }
    }

    #[test]
    fn semiring_laws(seeds in prop::collection::vec(any::<u8>(), 75), which in 0_usize..5) {
        let (name, element) = CLOSED[which];
        let part = |from: usize| weights(name, element, 5, &seeds[from..from + 25]);
        let (a, b, c) = (part(0), part(25), part(50));
        let inputs = [("a", &a), ("b", &b), ("c", &c)];
        let m = |x: &str, y: &str| format!("{name}.matmul({x}, {y})");
        let k = |x: &str| format!("{name}.closure({x})");
        let plus = |x: &str, y: &str| match name {
            "or_and" => format!("({x} | {y})"),
            "max_plus" => format!("maximum({x}, {y})"),
            _ => format!("minimum({x}, {y})"),
        };
        let equal = |x: String, y: String| {
            let (x, y) = (super::oracle::run(&x, &inputs), super::oracle::run(&y, &inputs));
            x.is_some() && x == y
        };
        let associative = equal(m("a", &m("b", "c")), m(&m("a", "b"), "c"));
        let left = equal(m("a", &plus("b", "c")), plus(&m("a", "b"), &m("a", "c")));
        let right = equal(m(&plus("a", "b"), "c"), plus(&m("a", "c"), &m("b", "c")));
        let commutative = equal(plus("a", "b"), plus("b", "a"));
        let closed = equal(k(&k("a")), k("a"));
        prop_assert!(associative && left && right && commutative && closed);
    }
}

fn closure_of(text: &str, values: &[f64]) -> Result<(), Failed> {
    let size = values.len().isqrt() as u64;
    let inputs = [Input { name: "d", element: Element::F64, shape: &[size, size] }];
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut out = vec![0; bytes.len()];
    Kernel::compile(text, &inputs).unwrap().run(&[&bytes], &mut out, &mut Scratch::default())
}

#[test]
fn improving_cycles_fail() {
    let inf = f64::INFINITY;
    let negative = [inf, 1.0, inf, inf, inf, -3.0, 1.0, inf, inf];
    let harmless = [inf, 1.0, inf, inf, inf, -3.0, 2.0, inf, inf];
    let huge = [-inf, inf, inf, -1e308];
    assert!(closure_of("min_plus.closure(d)", &negative).unwrap_err().what.contains("vertex 2"));
    assert_eq!(closure_of("min_plus.closure(d)", &harmless), Ok(()));
    assert!(closure_of("min_plus.closure(d)", &huge).is_err());
    assert!(closure_of("max_plus.closure(-d)", &negative).is_err());
    assert_eq!(closure_of("max_plus.closure(-d)", &harmless), Ok(()));
    // A failed stage that writes a temporary leaves the scratch usable.
    assert!(closure_of("1 + min_plus.closure(d)", &negative).is_err());
}
