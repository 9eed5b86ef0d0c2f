//! Peers of derived pages: engines of incremental computation. They keep values in memory, without history or log.

use incremental::{Incr, IncrState, Observer, Var};
use salsa::Setter;

use crate::waves::{Rule, Shape};

/// Sets all sources of a graph and computes what follows. What it gives has all that it needs.
pub fn incremental_turn(shape: &Shape) -> impl FnMut(i64) + use<> {
    let state = IncrState::new_with_height(shape.nodes.len() + 8);
    let sources: Vec<Var<i64>> = (0..shape.sources).map(|_| state.var(0)).collect();
    let mut all: Vec<Incr<i64>> = sources.iter().map(Var::watch).collect();
    for inputs in &shape.nodes {
        let node = match (shape.rule, &inputs[..]) {
            (Rule::Positive, &[a, ..]) => all[a].map(|a| i64::from(*a > 0)),
            (Rule::Sum, &[a, b]) => all[a].map2(&all[b], |a, b| a + b + 1),
            (_, &[a, ..]) => all[a].map(|a| a + 1),
            (_, []) => all[0].clone(),
        };
        all.push(node);
    }
    let observers: Vec<Observer<i64>> = shape.last().iter().map(|&n| all[n].observe()).collect();
    state.stabilise();
    move |value| {
        sources.iter().for_each(|source| source.set(value));
        state.stabilise();
        std::hint::black_box(&observers);
    }
}

#[salsa::db]
#[derive(Clone, Default)]
struct Db {
    storage: salsa::Storage<Self>,
}

#[salsa::db]
impl salsa::Database for Db {}

#[salsa::input]
struct Cell {
    inputs: Vec<Cell>,
    positive: bool,
    constant: i64,
}

#[salsa::tracked]
fn value(db: &dyn salsa::Database, cell: Cell) -> i64 {
    let inputs = cell.inputs(db);
    match inputs.first() {
        None => *cell.constant(db),
        Some(&first) if *cell.positive(db) => i64::from(*value(db, first) > 0),
        Some(_) => inputs.iter().fold(1, |sum, &input| sum + *value(db, input)),
    }
}

/// The same for salsa, which computes what is asked for.
pub struct Salsa {
    db: Db,
    cells: Vec<Cell>,
    sources: usize,
    last: Vec<usize>,
}

impl Salsa {
    pub fn load(shape: &Shape) -> Salsa {
        let db = Db::default();
        let mut cells: Vec<Cell> =
            (0..shape.sources).map(|_| Cell::new(&db, Vec::new(), false, 0)).collect();
        for inputs in &shape.nodes {
            let inputs = inputs.iter().map(|&n| cells[n]).collect();
            cells.push(Cell::new(&db, inputs, shape.rule == Rule::Positive, 0));
        }
        let this = Salsa { db, cells, sources: shape.sources, last: shape.last() };
        this.ask_all();
        this
    }

    pub fn set(&mut self, constant: i64) {
        for &source in &self.cells[..self.sources] {
            source.set_constant(&mut self.db).to(constant);
        }
        self.last.iter().for_each(|&n| {
            std::hint::black_box(value(&self.db, self.cells[n]));
        });
    }

    /// Front to back, so that no call is as deep as the graph.
    fn ask_all(&self) {
        self.cells.iter().for_each(|&cell| {
            std::hint::black_box(value(&self.db, cell));
        });
    }
}
