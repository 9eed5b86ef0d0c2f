//! Native nodes: expressions over arrays, compiled once against the types and shapes of their
//! inputs, then run on bytes without Python.
//!
//! A text such as `sqrt(sum(v*v, axis=1))` is an expression in Python's syntax with NumPy's meaning
//! (promotion, broadcasting, integers that wrap). [`Kernel::compile`] turns it into stages, each one
//! pass over memory: `lex` and `parse` read the text, `typing` makes a typed `graph` of it (with
//! `literal` for the numbers in the text), `compile` cuts the graph into stages, `run` and `fold`
//! run them with the sweeps of `sweep`, `ops` and `semiring`, on the arithmetic of `scalar`.
//!
//! # The same bits everywhere
//!
//! The result of a kernel is a function of its text and the bytes of its inputs. It does not depend
//! on threads, on the features of the processor or on the machine:
//!
//! - Every operation is one IEEE 754 operation, or a function of the crate `libm`; none is fused.
//! - A NaN leaves as the canonical one: `0x7ff8000000000000`, or `0x7fc00000` in single precision.
//! - `minimum(a, b)` is a NaN if one of the two is, and else `if b < a { b } else { a }`; `maximum`
//!   is `if b > a { b } else { a }`. So of +0 and -0 the left one stays.
//! - An entry of a matrix product adds its terms in the order of the inner index.
//! - A reduction of `n` elements `x[0..n]` by `∘` is the tree below, whose shape is a function of `n`.
//!   That goes for `sum`, `prod`, `mean` (a sum, divided by the count), `min`, `max`, `any` and `all`,
//!   over all elements in C order or along an axis.
//!
//! ```text
//! fold(x) = the empty fold                                          if n = 0
//!         = pairs(block(x[0..128]), block(x[128..256]), ...)        the last block may be shorter
//! block(y): lane[j] = start                                         j = 0..8
//!           lane[i % 8] = lane[i % 8] ∘ y[i]                        i = 0, 1, 2, ...
//!           lane[j] = lane[j] ∘ lane[j + 4]                         j = 0..4
//!           lane[j] = lane[j] ∘ lane[j + 2]                         j = 0..2
//!           block = lane[0] ∘ lane[1]
//! pairs(b) = b[0]                                                   if there is one
//!          = pairs(b[0] ∘ b[1], b[2] ∘ b[3], ...)                   an odd last one goes up as it is
//! start    = -0.0 for sum, 1.0 for prod, +inf for min, -inf for max (the neutral elements, which
//!            change no bit); the empty sum is +0.0
//! ```
//!
//! # Where it differs from NumPy
//!
//! A function of real numbers (`sqrt`, `exp`, `arctan2`, ..) of integers or bool is f64, where NumPy
//! has half and single precision for the small types. An integer to a negative power that stands in
//! an array is the integer part of the reciprocal, where NumPy raises. `x ** 2` is `x * x`, and every
//! other power of floats is `pow`, `x ** 0.5` too; a bool to the power of a literal is i64. `True` is
//! an array of one bool. An integer literal must fit the type it meets in a comparison, too. Tied
//! zeros in `minimum` and `maximum` follow the rule above, where NumPy leaves them open. Products
//! take one and two axes.

mod compile;
mod element;
mod fold;
mod graph;
mod lex;
mod literal;
mod ops;
mod parse;
mod run;
mod scalar;
mod semiring;
mod simd;
mod sweep;
mod typing;

#[cfg(test)]
mod elementwise_tests;
#[cfg(test)]
mod fold_tests;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod text_tests;

use std::fmt;

pub(crate) use element::Element;

use compile::Plan;
use simd::Level;
use sweep::Banks;

/// The bytes of the longest text.
const MAX_TEXT: usize = 64 << 10;
/// The operations of the largest expression.
const MAX_NODES: usize = 1 << 13;
/// The bytes a kernel may need for the results of its stages.
const MAX_TEMPORARIES: usize = 1 << 32;
/// The axes of an array, as in NumPy.
const MAX_RANK: usize = 64;

/// An array an expression names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input<'a> {
    /// The name in the text.
    pub(crate) name: &'a str,
    /// The type of its elements.
    pub(crate) element: Element,
    /// The lengths of its axes.
    pub(crate) shape: &'a [u64],
}

/// Why a text is no kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    /// The byte of the text it is about.
    pub(crate) at: usize,
    /// What is wrong and what would be right.
    pub(crate) what: String,
}

impl Fault {
    fn new(at: usize, what: impl Into<String>) -> Fault {
        Fault { at, what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.what)
    }
}

impl std::error::Error for Fault {}

/// Why a run has no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failed {
    /// What the inputs have that admits no result.
    pub(crate) what: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failed {}

/// The names of the inputs of a text, in the order of their first use.
pub(crate) fn variables(text: &str) -> Result<Vec<String>, Fault> {
    Ok(parse::parse(text)?.names.into_iter().map(|(_, name)| name).collect())
}

/// Memory that runs use again. Any kernel can use any scratch.
#[derive(Default, Debug)]
pub(crate) struct Scratch {
    banks: Banks,
    temporaries: Vec<Vec<u8>>,
}

/// A compiled expression.
#[derive(Debug)]
pub(crate) struct Kernel {
    plan: Plan,
    element: Element,
    shape: Vec<u64>,
    /// The bytes of each input.
    inputs: Vec<usize>,
    /// The bytes of the result.
    out: usize,
}

impl Kernel {
    /// Compiles a text for inputs of these types and shapes.
    pub(crate) fn compile(text: &str, inputs: &[Input<'_>]) -> Result<Kernel, Fault> {
        let parsed = parse::parse(text)?;
        let lengths = inputs.iter().map(input_length).collect::<Result<Vec<usize>, Fault>>()?;
        let (graph, root) = typing::graph(&parsed, inputs)?;
        let plan = compile::plan(&graph, root)?;
        let whole = &graph.nodes[root];
        let out = whole.count() * whole.element.size();
        Ok(Kernel {
            plan,
            element: whole.element,
            shape: whole.shape.to_vec(),
            inputs: lengths,
            out,
        })
    }

    /// The element type of the result.
    pub(crate) fn element(&self) -> Element {
        self.element
    }

    /// The shape of the result.
    pub(crate) fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// About how many elementary steps a run takes, each well below a nanosecond.
    pub(crate) fn effort(&self) -> u64 {
        self.plan.stages.iter().fold(0, |all: u64, stage| all.saturating_add(stage.effort()))
    }

    /// Computes the result into `out`. Inputs (all of them, in the order of the compilation) and
    /// result are little-endian elements in C order, at any alignment.
    ///
    /// # Panics
    ///
    /// If the number or a length of the slices is not that of the compiled shapes.
    #[inline]
    pub(crate) fn run(
        &self,
        inputs: &[&[u8]],
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), Failed> {
        self.run_at(Level::detect(), inputs, out, scratch)
    }

    fn run_at(
        &self,
        level: Level,
        inputs: &[&[u8]],
        out: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<(), Failed> {
        let lengths = inputs.iter().map(|input| input.len());
        assert!(
            lengths.eq(self.inputs.iter().copied()),
            "inputs of other lengths than compiled for"
        );
        assert_eq!(out.len(), self.out, "a result of another length than compiled for");
        for (element, length) in &self.plan.banks {
            scratch.banks.fit(*element, *length);
        }
        self.fit_temporaries(scratch);
        for stage in &self.plan.stages {
            if let Some(vertex) = stage.run(level, inputs, out, scratch) {
                let what = format!(
                    "no closure: vertex {vertex} lies on a cycle that gets better with every round"
                );
                return Err(Failed { what });
            }
        }
        Ok(())
    }

    fn fit_temporaries(&self, scratch: &mut Scratch) {
        // Touched only if it must grow: a write here delays the reads of every small run.
        if scratch.temporaries.len() < self.plan.temporaries.len() {
            scratch.temporaries.resize(self.plan.temporaries.len(), Vec::new());
        }
        for (temporary, length) in scratch.temporaries.iter_mut().zip(&self.plan.temporaries) {
            if temporary.len() < *length {
                temporary.resize(*length, 0);
            }
        }
    }
}

/// The bytes of an input.
fn input_length(input: &Input<'_>) -> Result<usize, Fault> {
    let fault = |what: &str| {
        let shape = graph::name_shape(input.shape);
        Fault::new(0, format!("the input `{}` of shape {shape} {what}", input.name))
    };
    if input.shape.len() > MAX_RANK {
        return Err(fault("has more than 64 axes"));
    }
    graph::bytes(input.shape, input.element).ok_or_else(|| fault("is larger than memory can be"))
}
