//! What a wave needs to know of the pages of the graph, in the order of the plan.
//!
//! It depends on the graph, the functions' texts and the shapes of pages, and on nothing else; kernels are compiled
//! when they are first run.

use std::collections::BTreeMap;

use super::structure::node_of;
use crate::arena::Mem;
use crate::catalog::Desc;
use crate::graph::{Dirty, Form, Graph, Plan};
use crate::kernel::{Element, Fault, Input, Kernel};
use crate::root::Root;
use crate::{Code, Error, table};

/// No kernel yet.
const NONE: u32 = u32::MAX;

/// A page of the graph.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) form: Form,
    pub(super) deferred: bool,
    pub(super) poisons: bool,
    first_input: u32,
    inputs: u32,
    kernel: u32,
}

/// A bit for each position.
pub(super) struct Bits(Vec<u64>);

impl Bits {
    fn new(len: u32) -> Bits {
        Bits(vec![0; len.div_ceil(64) as usize])
    }

    #[inline]
    pub(super) fn set(&mut self, position: u32) {
        self.0[position as usize / 64] |= 1 << (position % 64);
    }

    pub(super) fn has(&self, position: u32) -> bool {
        self.0[position as usize / 64] & (1 << (position % 64)) != 0
    }

    /// Whether it is set; then it is not any more.
    #[inline]
    pub(super) fn take(&mut self, position: u32) -> bool {
        let (word, bit) = (&mut self.0[position as usize / 64], 1 << (position % 64));
        let is_set = *word & bit != 0;
        *word &= !bit;
        is_set
    }

    fn clear(&mut self) {
        self.0.fill(0);
    }
}

/// The text and what it is about: equal ones are one kernel.
type Key = (String, Vec<(&'static str, Vec<u64>)>);

/// Elements and shape of an input.
pub(super) type Arg = (Element, Vec<u64>);

pub(super) struct Compiled {
    pub(super) plan: Plan,
    steps: Vec<Step>,
    inputs: Vec<u64>,
    kernels: Vec<Kernel>,
    known: BTreeMap<Key, u32>,
    /// Positions that the wave under way has yet to come to.
    pub(super) due: Dirty,
    /// Those of them that are to be computed, and not only marked.
    pub(super) data: Bits,
    /// A page may be poisoned.
    pub(super) has_poison: bool,
    pub(super) has_functions: bool,
    /// Positions whose kernels the wave under way forgot.
    forgotten: Vec<u32>,
}

impl Compiled {
    pub(super) fn new(mem: Mem, root: &Root, graph: &Graph) -> Compiled {
        let plan = Plan::compile(graph);
        let (mut steps, mut inputs, mut has_poison) =
            (Vec::with_capacity(plan.len() as usize), Vec::new(), false);
        for position in 0..plan.len() {
            let slot = table::get(mem, root.table, root.height, plan.page(position));
            let node = slot.and_then(|slot| node_of(&mem, slot.desc));
            let first_input = inputs.len() as u32;
            inputs.extend(node.iter().flat_map(|node| &node.inputs));
            has_poison |= slot.is_some_and(|slot| Desc::at(mem, slot.desc).marks().poisoned);
            steps.push(Step {
                form: node.as_ref().map_or(Form::Link, |node| node.form),
                deferred: node.as_ref().is_some_and(|node| node.deferred),
                poisons: node.as_ref().is_some_and(|node| node.poisons),
                first_input,
                inputs: inputs.len() as u32 - first_input,
                kernel: NONE,
            });
        }
        let (due, data) = (Dirty::new(plan.len()), Bits::new(plan.len()));
        let (kernels, known) = (Vec::new(), BTreeMap::new());
        let has_functions = steps.iter().any(|step| step.form == Form::Function);
        Compiled {
            plan,
            steps,
            inputs,
            kernels,
            known,
            due,
            data,
            has_poison,
            has_functions,
            forgotten: Vec::new(),
        }
    }

    pub(super) fn step(&self, position: u32) -> Step {
        self.steps[position as usize]
    }

    /// The pages that a page is computed from, in the order of the arguments.
    pub(super) fn inputs(&self, step: Step) -> &[u64] {
        &self.inputs[step.first_input as usize..][..step.inputs as usize]
    }

    pub(super) fn kernel(&self, step: Step) -> Option<&Kernel> {
        self.kernels.get(step.kernel as usize)
    }

    /// The shape of an input is another one: what was compiled for it is compiled again.
    pub(super) fn forget_kernel(&mut self, position: u32) {
        self.steps[position as usize].kernel = NONE;
        self.forgotten.push(position);
    }

    /// A wave begins.
    pub(super) fn begin(&mut self) {
        assert!(self.due.is_empty(), "no wave is under way");
        self.forgotten.clear();
    }

    /// The wave under way failed: the shapes that it met did not come about.
    pub(super) fn give_up(&mut self) {
        self.due.clear();
        self.data.clear();
        for &position in &self.forgotten {
            self.steps[position as usize].kernel = NONE;
        }
    }

    /// Compiles the kernel of a page. What is wrong with its text is said with the place.
    pub(super) fn compile(
        &mut self,
        position: u32,
        text: &str,
        args: &[Arg],
    ) -> Result<(), String> {
        let types = args.iter().map(|(element, shape)| (dtype_of(*element), shape.clone()));
        let key = (text.to_owned(), types.collect());
        let at = match self.known.get(&key) {
            Some(&at) => at,
            None => {
                self.kernels.push(compile(text, args)?);
                let at = self.kernels.len() as u32 - 1;
                self.known.insert(key, at);
                at
            }
        };
        self.steps[position as usize].kernel = at;
        Ok(())
    }
}

/// Element types of expressions, and how pages say them.
const ELEMENTS: [(Element, &str); 11] = [
    (Element::U8, "\"|u1\""),
    (Element::Bool, "\"|b1\""),
    (Element::I8, "\"|i1\""),
    (Element::I16, "\"<i2\""),
    (Element::I32, "\"<i4\""),
    (Element::I64, "\"<i8\""),
    (Element::U16, "\"<u2\""),
    (Element::U32, "\"<u4\""),
    (Element::U64, "\"<u8\""),
    (Element::F32, "\"<f4\""),
    (Element::F64, "\"<f8\""),
];

/// The type of a page's elements, if expressions take it. A page of raw bytes has bytes.
pub(super) fn element_of(dtype: &str) -> Option<Element> {
    let dtype = if dtype.is_empty() { ELEMENTS[0].1 } else { dtype };
    ELEMENTS.iter().find(|(_, known)| *known == dtype).map(|&(element, _)| element)
}

/// How a page says this element type.
pub(super) fn dtype_of(element: Element) -> &'static str {
    ELEMENTS.iter().find(|(known, _)| *known == element).map_or("", |&(_, dtype)| dtype)
}

/// What is wrong with an expression, and where.
pub(super) fn argument(text: &str, fault: &Fault) -> Error {
    Error::new(Code::Argument, say(text, fault))
}

fn say(text: &str, fault: &Fault) -> String {
    format!("{} (at {} of {text:?})", fault.what, fault.at)
}

/// Compiles an expression whose variables are, in the order of their first use, of these types.
pub(super) fn compile(text: &str, args: &[Arg]) -> Result<Kernel, String> {
    let say = |fault: Fault| say(text, &fault);
    let names = crate::kernel::variables(text).map_err(say)?;
    if names.len() != args.len() {
        return Err(format!("{text:?} has {} variables and {} inputs", names.len(), args.len()));
    }
    let inputs: Vec<Input<'_>> = names
        .iter()
        .zip(args)
        .map(|(name, (element, shape))| Input { name, element: *element, shape })
        .collect();
    Kernel::compile(text, &inputs).map_err(say)
}
