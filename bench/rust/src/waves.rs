//! Derived pages: what a wave costs for each page that it computes, beside engines that keep values in memory and log
//! nothing, and what the graph itself costs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use mmsb_core::{Batch, Bus, Durability, Form, How, Kind, Mode, NewPage, Node, Options};

use crate::race::{Effort, Picks, Race, Res, Role, report, timed};
use crate::reactive::{Salsa, incremental_turn};
use crate::sizes::status;

const HOW: How<'static> =
    How { source: None, meta: None, durability: None, time: None, wait: true };
/// Pages a commit while loading.
const CHUNK: usize = 10_000;

/// What a node computes from its inputs.
#[derive(Clone, Copy, PartialEq)]
pub enum Rule {
    /// Their sum and one.
    Sum,
    /// Whether the first is more than nothing: it stays 1 whatever is set here.
    Positive,
}

/// A graph: so many sources, and behind them nodes with the numbers of their inputs.
pub struct Shape {
    pub sources: usize,
    pub nodes: Vec<Vec<usize>>,
    pub rule: Rule,
}

impl Shape {
    fn chain(len: usize) -> Shape {
        Shape { sources: 1, nodes: (0..len).map(|n| vec![n]).collect(), rule: Rule::Sum }
    }

    fn broad(width: usize, rule: Rule) -> Shape {
        Shape { sources: 1, nodes: vec![vec![0]; width], rule }
    }

    /// Layers in which each node has two inputs in the layer before.
    fn grid(width: usize, depth: usize) -> Shape {
        let node = |n: usize| {
            let (layer, at) = (n / width, n % width);
            vec![layer * width + at, layer * width + (at + 1) % width]
        };
        Shape { sources: width, nodes: (0..width * depth).map(node).collect(), rule: Rule::Sum }
    }

    /// Layers in which each node has four inputs somewhere in the layer before.
    fn mesh(width: usize, depth: usize) -> Shape {
        let mut picks = Picks::new(4);
        let mut node = |n: usize| {
            let first = n / width * width;
            let mut inputs: Vec<usize> = Vec::with_capacity(4);
            while inputs.len() < 4 {
                let input = first + picks.below(width as u32) as usize;
                if !inputs.contains(&input) {
                    inputs.push(input);
                }
            }
            inputs
        };
        let nodes = (0..width * depth).map(&mut node).collect();
        Shape { sources: width, nodes, rule: Rule::Sum }
    }

    /// Nodes from which none follows.
    pub fn last(&self) -> Vec<usize> {
        let mut is_input = vec![false; self.sources + self.nodes.len()];
        self.nodes.iter().flatten().for_each(|&input| is_input[input] = true);
        (self.sources..is_input.len()).filter(|&n| !is_input[n]).collect()
    }

    pub fn value(&self, values: &[i64], node: usize) -> i64 {
        let inputs = &self.nodes[node];
        match self.rule {
            Rule::Sum => inputs.iter().fold(1, |sum: i64, &n| sum.wrapping_add(values[n])),
            Rule::Positive => i64::from(values[inputs[0]] > 0),
        }
    }

    /// All values, when each source is `value`.
    fn values(&self, value: i64) -> Vec<i64> {
        let mut values = vec![value; self.sources];
        (0..self.nodes.len()).for_each(|node| values.push(self.value(&values, node)));
        values
    }
}

fn id(node: usize) -> u64 {
    node as u64 + 1
}

/// A bus with a page of 8 bytes for each node.
struct Waves {
    bus: Bus,
    batch: Batch,
}

impl Waves {
    fn load(dir: &Path, shape: &Shape) -> Res<Waves> {
        let options = Options { durability: Some(Durability::Os), ..Options::default() };
        let bus = Bus::create(dir, &options)?;
        let mut batch = Batch::new();
        let all: Vec<usize> = (0..shape.sources + shape.nodes.len()).collect();
        for chunk in all.chunks(CHUNK) {
            batch.clear();
            for &n in chunk {
                let dtype = "\"<i8\"";
                let page = NewPage { dtype, itemsize: 8, shape: &[], ..NewPage::bytes(&[8]) };
                batch.create(id(n), &page);
                let Some(inputs) = n.checked_sub(shape.sources).map(|n| &shape.nodes[n]) else {
                    continue;
                };
                let text = match (shape.rule, inputs.len()) {
                    (Rule::Positive, _) => "where(a > 0, 1, a - a)",
                    (Rule::Sum, 1) => "a + 1",
                    (Rule::Sum, 2) => "a + b + 1",
                    (Rule::Sum, _) => "a + b + c + d + 1",
                };
                let inputs = inputs.iter().map(|&n| id(n)).collect();
                let node = Node { form: Form::Native, text, inputs, ..Node::links(Vec::new()) };
                batch.node(id(n), Some(&node));
            }
            bus.commit(&mut batch, None, &HOW)?;
        }
        bus.checkpoint()?;
        Ok(Waves { bus, batch })
    }

    fn set(&mut self, shape: &Shape, value: i64) -> Res<()> {
        self.batch.clear();
        (0..shape.sources).for_each(|n| self.batch.write(id(n), 0, &value.to_le_bytes()));
        self.bus.commit(&mut self.batch, None, &HOW)?;
        Ok(())
    }

    fn check(&self, shape: &Shape, value: i64) -> Res<()> {
        let (snapshot, values) = (self.bus.snapshot()?, shape.values(value));
        for n in shape.last() {
            let mut bytes = [0; 8];
            snapshot.read(id(n), 0, &mut bytes)?;
            if i64::from_le_bytes(bytes) != values[n] {
                return Err(format!("page {} has another value than the loop", id(n)).into());
            }
        }
        Ok(())
    }
}

/// One wave an operation; a figure is one node.
fn shape(row: &'static str, dir: &Path, effort: Effort, shape: &Shape) -> Res<()> {
    let mut values = shape.values(0);
    let (mut ours, mut salsa) = (Waves::load(&dir.join("mmsb"), shape)?, Salsa::load(shape));
    let mut incremental = incremental_turn(shape);
    let (mut a, mut b, mut c, mut d) = (0, 0, 0, 0);
    let mut race = Race::new(row, shape.nodes.len());
    race.enter(Role::Floor, "plain loop", |ops| {
        Ok(timed(|| {
            for _ in 0..ops {
                a += 1;
                values[..shape.sources].fill(a);
                for node in 0..shape.nodes.len() {
                    values[shape.sources + node] = shape.value(&values, node);
                }
            }
            Ok(())
        })?
        .1)
    });
    race.enter(Role::Peer, "incremental", |ops| {
        Ok(timed(|| {
            for _ in 0..ops {
                b += 1;
                incremental(b);
            }
            Ok(())
        })?
        .1)
    });
    race.enter(Role::Peer, "salsa", |ops| {
        Ok(timed(|| {
            for _ in 0..ops {
                c += 1;
                salsa.set(c);
            }
            Ok(())
        })?
        .1)
    });
    race.enter(Role::Mmsb, "MMSB", |ops| {
        Ok(timed(|| {
            (0..ops).try_for_each(|_| {
                d += 1;
                ours.set(shape, d)
            })
        })?
        .1)
    });
    race.run(effort)?;
    drop(race);
    ours.check(shape, d)
}

pub fn chain(dir: &Path, effort: Effort) -> Res<()> {
    shape("wave-chain", dir, effort, &Shape::chain(effort.nodes))
}

pub fn broad(dir: &Path, effort: Effort) -> Res<()> {
    shape("wave-broad", dir, effort, &Shape::broad(effort.nodes, Rule::Sum))
}

pub fn grid(dir: &Path, effort: Effort) -> Res<()> {
    shape("wave-grid", dir, effort, &Shape::grid(effort.nodes / 10, 10))
}

pub fn cut_off(dir: &Path, effort: Effort) -> Res<()> {
    shape("wave-cut", dir, effort, &Shape::broad(effort.nodes, Rule::Positive))
}

/// A source of a chain is set to what it is; a figure is one commit.
pub fn same(dir: &Path, effort: Effort) -> Res<()> {
    let shape = Shape::chain(effort.nodes);
    let mut ours = Waves::load(&dir.join("mmsb"), &shape)?;
    ours.set(&shape, 5)?;
    let mut incremental = incremental_turn(&shape);
    incremental(5);
    let mut race = Race::new("wave-same", 1);
    race.enter(Role::Peer, "incremental", |ops| {
        Ok(timed(|| {
            (0..ops).for_each(|_| incremental(5));
            Ok(())
        })?
        .1)
    });
    race.enter(Role::Mmsb, "MMSB", |ops| {
        Ok(timed(|| (0..ops).try_for_each(|_| ours.set(&shape, 5)))?.1)
    });
    race.run(effort)
}

/// Levels of pages large enough that several threads compute them, beside one thread.
pub fn threads(dir: &Path, effort: Effort) -> Res<()> {
    for (row, len) in [("wave-threads", 1 << 16), ("wave-little", 1 << 10)] {
        let mut race = Race::new(row, 1);
        for (role, name, threads) in
            [(Role::Peer, "MMSB, one thread", 1), (Role::Mmsb, "MMSB, two threads", 2)]
        {
            let options = Options {
                threads: Some(threads),
                durability: Some(Durability::Memory),
                ..Options::default()
            };
            let bus = Bus::create(&dir.join(format!("{row}-{threads}")), &options)?;
            let mut batch = Batch::new();
            let nbytes = len * 8;
            for n in 1..=17 {
                let page = NewPage {
                    dtype: "\"<f8\"",
                    itemsize: 8,
                    shape: &[len],
                    nbytes,
                    ..NewPage::bytes(&[0])
                };
                batch.create(n, &page);
                if n > 1 {
                    let node = Node {
                        form: Form::Native,
                        // What it gives is always the same: the log would be most of the time.
                        text: "minimum(sqrt(a * a + 1) * exp(-a), 0.0)",
                        inputs: vec![1],
                        ..Node::links(Vec::new())
                    };
                    batch.node(n, Some(&node));
                }
            }
            bus.commit(&mut batch, None, &HOW)?;
            let mut stamp = 0_u64;
            race.enter(role, name, move |ops| {
                let mut data = vec![0; nbytes as usize];
                let mut took = Duration::ZERO;
                for _ in 0..ops {
                    stamp += 1;
                    let value = 1.0 / stamp as f64;
                    data.chunks_exact_mut(8)
                        .for_each(|at| at.copy_from_slice(&value.to_le_bytes()));
                    took += timed(|| Ok(bus.write(1, 0, &data, &HOW)?))?.1;
                }
                Ok(took)
            });
        }
        race.run(effort)?;
    }
    Ok(())
}

/// What a large graph costs: to load, to edit, and in memory.
pub fn graph(dir: &Path, effort: Effort) -> Res<()> {
    let nodes = effort.pages as usize;
    let shape = Shape::mesh(nodes / 16, 15);
    drop(Waves::load(&dir.join("mmsb"), &shape)?);
    let child = Command::new(std::env::current_exe()?)
        .args(["graph", &shape.nodes.len().to_string()])
        .arg(dir.join("mmsb"))
        .output()?;
    if !child.status.success() {
        return Err(String::from_utf8_lossy(&child.stderr).into());
    }
    let bytes: f64 = String::from_utf8(child.stdout)?.trim().parse()?;
    let all = (shape.sources + shape.nodes.len()) as f64;
    report("graph-bytes", Role::Mmsb, "MMSB", &mut [bytes / all]);
    let bus = reopen(&dir.join("mmsb"))?;
    let mut stamp = 0_u64;
    let mut race = Race::new("graph-plan", 1);
    race.enter(Role::Mmsb, "MMSB", |ops| {
        Ok(timed(|| {
            (0..ops).try_for_each(|_| {
                stamp += 1;
                edit(&bus, &shape, 1, !stamp.is_multiple_of(2))?;
                make_plan(&bus, id(shape.nodes.len()), stamp)
            })
        })?
        .1)
    });
    race.run(effort)?;
    drop(race);

    // Each of these edges goes from a layer to the next one, and back again.
    let small = Shape::mesh(1024, 15);
    let ours = Waves::load(&dir.join("small"), &small)?;
    let some = 1000;
    let mut race = Race::new("graph-edge", 2 * some);
    race.enter(Role::Mmsb, "MMSB", |ops| {
        Ok(timed(|| {
            (0..ops).try_for_each(|_| {
                edit(&ours.bus, &small, some, true)?;
                edit(&ours.bus, &small, some, false)
            })
        })?
        .1)
    });
    race.run(effort)
}

/// The child of `graph`: prints the bytes of memory, beside the pages, that a store takes with its graph and plan.
pub fn graph_child(last: u64, dir: &Path) -> Res<()> {
    let before = status("RssAnon")?;
    let bus = reopen(dir)?;
    make_plan(&bus, last, 1)?;
    println!("{}", status("RssAnon")? - before);
    Ok(())
}

fn reopen(dir: &Path) -> Res<Bus> {
    let options = Options { durability: Some(Durability::Os), ..Options::default() };
    Ok(Bus::open(dir, Mode::ReadWrite, &options, &mut |_, _| {})?)
}

/// A commit about a page of the graph from which nothing follows: it makes the plan if there is none.
fn make_plan(bus: &Bus, page: u64, stamp: u64) -> Res<()> {
    let mut batch = Batch::new();
    batch.set_meta(page, &format!(r#"{{"a":{stamp}}}"#));
    bus.commit(&mut batch, None, &HOW)?;
    Ok(())
}

/// Links so many sources to nodes of the next layer, or takes the links away.
fn edit(bus: &Bus, shape: &Shape, count: usize, there: bool) -> Res<()> {
    let mut batch = Batch::new();
    for n in 0..count {
        let links = if there { vec![(id(n), Kind::Control)] } else { Vec::new() };
        let inputs = shape.nodes[n].iter().map(|&n| id(n)).collect();
        let text = "a + b + c + d + 1";
        let node = Node { form: Form::Native, text, inputs, ..Node::links(links) };
        batch.node(id(shape.sources + n), Some(&node));
    }
    bus.commit(&mut batch, None, &HOW)?;
    Ok(())
}
