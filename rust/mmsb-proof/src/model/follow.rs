//! What follows from a commit, by the plainest way: all pages in order, each asked whether it is due.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mmsb_core::{Bus, Call, Code, Edge, Failure, Form, Function, Kind, Marks, Node, Result};

use super::state::{Page, State};

/// The function of all derived pages that are not native: each byte is the sum of one of each input, wrapping. It
/// fails where the first byte of the first input is [`UNLUCKY`].
#[derive(Debug)]
struct Sum {
    /// It computes pages of one level together.
    stacks: bool,
}

/// The byte that makes functions fail.
pub const UNLUCKY: u8 = 13;
/// The text of native pages.
pub(super) const TEXT: &str = "a + 1";

fn sum(len: usize, inputs: &[&[u8]]) -> std::result::Result<Vec<u8>, String> {
    if inputs.first().and_then(|input| input.first()) == Some(&UNLUCKY) {
        return Err(format!("{UNLUCKY} is unlucky"));
    }
    let mut out = vec![0u8; len];
    for input in inputs.iter().filter(|input| !input.is_empty()) {
        for (byte, add) in out.iter_mut().zip(input.iter().cycle()) {
            *byte = byte.wrapping_add(*add);
        }
    }
    Ok(out)
}

impl Function for Sum {
    fn enter(&self, rest: &mut dyn FnMut()) {
        rest();
    }

    fn stack(&self) -> Option<usize> {
        self.stacks.then_some(1)
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn compute(
        &self,
        call: &Call<'_>,
        done: &mut dyn FnMut(&[u8]),
    ) -> std::result::Result<(), Failure> {
        let copies: Vec<Vec<u8>> = call
            .inputs()
            .map(|input| {
                let mut bytes = vec![0; input.nbytes() as usize];
                input.copy_to(&mut bytes);
                bytes
            })
            .collect();
        let inputs: Vec<&[u8]> = copies.iter().map(Vec::as_slice).collect();
        match sum(call.nbytes() as usize, &inputs) {
            Ok(bytes) => done(&bytes),
            Err(message) => return Err(Failure { message, cause: None, fatal: false }),
        }
        Ok(())
    }
}

/// The function of a page: half of them compute many together.
pub(super) fn function(page: u64) -> Arc<dyn Function> {
    Arc::new(Sum { stacks: page.is_multiple_of(2) })
}

/// Gives a bus the functions of all pages that one computes.
pub(super) fn bind_all(bus: &Bus) -> Result<()> {
    for info in bus.snapshot()?.infos()? {
        let is_function = info.node().is_some_and(|node| node.form == Form::Function);
        if is_function && !bus.is_bound(info.id) {
            bus.bind(info.id, function(info.id))?;
        }
    }
    Ok(())
}

/// How a commit is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    /// As any change.
    Change,
    /// The state is whole already.
    AsIs,
    /// What is marked is computed.
    Settle,
    /// As any change, and no function is there.
    Unbound,
}

impl State {
    /// Whether a page is computed.
    pub(super) fn is_derived(&self, id: u64) -> bool {
        self.pages.get(&id).and_then(|page| page.node.as_ref()).is_some_and(Node::is_derived)
    }

    fn edges(&self) -> Vec<Edge> {
        let nodes = self.pages.iter().filter_map(|(&id, page)| Some((id, page.node.as_ref()?)));
        nodes.flat_map(|(id, node)| node.edges(id).collect::<Vec<_>>()).collect()
    }

    /// All pages, each with the length of the longest way to it; none where they go in a circle.
    fn levels(&self, counts: &dyn Fn(Kind) -> bool) -> Option<BTreeMap<u64, usize>> {
        let edges: Vec<Edge> = self.edges().into_iter().filter(|edge| counts(edge.kind)).collect();
        let mut levels: BTreeMap<u64, usize> = self.pages.keys().map(|&id| (id, 0)).collect();
        for _ in 0..=self.pages.len() {
            let mut moved = false;
            for edge in &edges {
                let least = levels[&edge.src] + 1;
                if levels[&edge.dst] < least {
                    levels.insert(edge.dst, least);
                    moved = true;
                }
            }
            if !moved {
                return Some(levels);
            }
        }
        None
    }

    /// What a commit that made this of `before` makes in the end, or why it is refused.
    pub(super) fn follow(
        mut self,
        before: &State,
        epoch: u64,
        how: Follow,
        written: &BTreeSet<u64>,
    ) -> std::result::Result<State, Code> {
        if self.edges().iter().any(|edge| !self.pages.contains_key(&edge.src)) {
            return Err(Code::Argument);
        }
        if self.levels(&|_| true).is_none() {
            return Err(Code::GraphCycle);
        }
        let orders = |kind| matches!(kind, Kind::Data | Kind::Control);
        let levels = self.levels(&orders).unwrap_or_default();
        if how == Follow::AsIs {
            return Ok(self);
        }
        let mut order: Vec<(usize, u64)> =
            levels.into_iter().map(|(id, level)| (level, id)).collect();
        order.sort_unstable();
        let mut wave = Wave { before, epoch, how, written, spread: BTreeSet::new() };
        wave.begin(&mut self)?;
        for (_, id) in order {
            wave.visit(&mut self, id)?;
        }
        Ok(self)
    }
}

struct Wave<'a> {
    before: &'a State,
    epoch: u64,
    how: Follow,
    /// Pages that the commit names new bytes of.
    written: &'a BTreeSet<u64>,
    /// Pages that those behind them have to look at.
    spread: BTreeSet<u64>,
}

fn without_links(page: Option<&Page>) -> Option<Node<'static>> {
    let node = page?.node.clone().filter(Node::is_derived)?;
    Some(Node { links: Vec::new(), ..node })
}

impl Wave<'_> {
    fn is_new(&self, state: &State, id: u64) -> bool {
        without_links(self.before.pages.get(&id)) != without_links(state.pages.get(&id))
    }

    /// Whether nobody computes the page, and the commit itself says what it is.
    fn is_written(&self, state: &State, id: u64) -> bool {
        !state.is_derived(id) && (self.written.contains(&id) || self.spread.contains(&id))
    }

    fn lacks(&self, node: &Node<'_>) -> bool {
        self.how == Follow::Unbound && node.form == Form::Function
    }

    fn begin(&mut self, state: &mut State) -> std::result::Result<(), Code> {
        let epoch = self.epoch;
        for id in state.pages.keys().copied().collect::<Vec<_>>() {
            let old = self.before.pages.get(&id).map(|page| &page.bytes);
            if old != Some(&state.pages[&id].bytes) {
                self.spread.insert(id);
            }
            if self.is_written(state, id) {
                set_marks(state, id, Marks::default(), epoch);
            }
            let is_native =
                state.pages[&id].node.as_ref().is_some_and(|node| node.form == Form::Native);
            if is_native && self.is_new(state, id) && !fits(state, id) {
                return Err(Code::Argument);
            }
        }
        Ok(())
    }

    fn visit(&mut self, state: &mut State, id: u64) -> std::result::Result<(), Code> {
        let epoch = self.epoch;
        let page = state.pages[&id].clone();
        let Some(node) = page.node.clone() else { return Ok(()) };
        let settles = self.how == Follow::Settle && page.marks != Marks::default();
        let has_data = node.inputs.iter().any(|input| self.spread.contains(input));
        let is_controlled = node
            .links
            .iter()
            .any(|(src, kind)| *kind == Kind::Control && self.spread.contains(src));
        let computes = node.is_derived() && (has_data || settles || self.is_new(state, id));
        if !computes && !is_controlled {
            return Ok(());
        }
        if !computes || node.deferred && self.how != Follow::Settle {
            if !self.is_written(state, id) {
                set_marks(state, id, Marks { stale: true, ..page.marks }, epoch);
            }
            return Ok(());
        }
        let is_poisoned = |input: &u64| state.pages[input].marks.poisoned;
        let computed = match node.inputs.iter().any(is_poisoned) {
            true => None,
            false => match self.compute(state, id, &node) {
                // A function that is not there is nobody's failure.
                Err(()) if !node.poisons || self.lacks(&node) => return Err(Code::Propagation),
                computed => computed.ok(),
            },
        };
        let Some(bytes) = computed else {
            set_marks(state, id, Marks { stale: false, poisoned: true }, epoch);
            if !page.marks.poisoned {
                self.spread.insert(id);
            }
            return Ok(());
        };
        if bytes != page.bytes {
            let page = state.pages.entry(id).or_default();
            (page.bytes, page.epoch) = (bytes.clone(), epoch);
        }
        if bytes != page.bytes || page.marks.poisoned {
            self.spread.insert(id);
        }
        set_marks(state, id, Marks::default(), epoch);
        Ok(())
    }

    fn compute(&self, state: &State, id: u64, node: &Node<'_>) -> std::result::Result<Vec<u8>, ()> {
        let inputs: Vec<&[u8]> =
            node.inputs.iter().map(|input| state.pages[input].bytes.as_slice()).collect();
        match node.form {
            Form::Native if !fits(state, id) => Err(()),
            Form::Native => Ok(inputs[0].iter().map(|byte| byte.wrapping_add(1)).collect()),
            _ if self.lacks(node) => Err(()),
            _ => sum(state.pages[&id].bytes.len(), &inputs).map_err(drop),
        }
    }
}

fn fits(state: &State, id: u64) -> bool {
    let page = &state.pages[&id];
    let input = page.node.as_ref().and_then(|node| node.inputs.first());
    input.is_some_and(|input| state.pages[input].bytes.len() == page.bytes.len())
}

fn set_marks(state: &mut State, id: u64, marks: Marks, epoch: u64) {
    let page = state.pages.entry(id).or_default();
    if page.marks != marks {
        (page.marks, page.epoch) = (marks, epoch);
    }
}
