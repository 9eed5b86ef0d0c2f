//! loom's side of `sync`.
//!
//! A model lays in a stock of loom objects before its threads begin, because whatever a thread makes itself would be
//! known to loom as made by that thread, which orders too much or too little. The first access to an address takes
//! the next object of the stock, and keeps it for the rest of the execution.

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::ops::Deref;
use std::rc::Rc;

use loom::cell::UnsafeCell;
pub(crate) use loom::sync::atomic::{AtomicU64, fence};
pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use loom::thread::yield_now;

/// Plain memory is watched in pieces of this size, the least that the arena gives out.
const GRAIN: usize = 16;
const PAGE: usize = 4096;

/// loom objects by the address that each stands for.
struct Stock<T> {
    spare: Vec<Rc<T>>,
    taken: HashMap<usize, Rc<T>>,
}

impl<T> Stock<T> {
    fn new(count: usize, make: impl FnMut() -> Rc<T>) -> Stock<T> {
        let mut spare = Vec::new();
        spare.resize_with(count, make);
        Stock { spare, taken: HashMap::new() }
    }

    fn at(&mut self, address: usize) -> Rc<T> {
        let take = || self.spare.pop().unwrap_or_else(|| unreachable!("the stock is used up"));
        Rc::clone(self.taken.entry(address).or_insert_with(take))
    }
}

struct Stocks {
    words: Stock<AtomicU64>,
    grains: Stock<UnsafeCell<()>>,
}

thread_local! {
    static STOCKS: RefCell<Option<Stocks>> = const { RefCell::new(None) };
}

/// Lays in the stock of one execution: so many words, and so many grains of plain memory.
pub(crate) fn lay_in(words: usize, grains: usize) {
    let words = Stock::new(words, || Rc::new(AtomicU64::new(0)));
    let grains = Stock::new(grains, || Rc::new(UnsafeCell::new(())));
    STOCKS.set(Some(Stocks { words, grains }));
}

fn with<R>(f: impl FnOnce(&mut Stocks) -> R) -> R {
    STOCKS.with_borrow_mut(|stocks| match stocks {
        Some(stocks) => f(stocks),
        None => unreachable!("shared memory is used outside of a model"),
    })
}

/// Stands for a word that is shared while it changes. Words of 32 bits are modelled with 64.
#[derive(Debug, Clone)]
pub(crate) struct Shared<'a, A>(Rc<AtomicU64>, PhantomData<&'a A>);

impl<A> Deref for Shared<'_, A> {
    type Target = AtomicU64;

    fn deref(&self) -> &AtomicU64 {
        &self.0
    }
}

pub(crate) fn shared<A>(word: &A) -> Shared<'_, A> {
    let address = std::ptr::from_ref(word).addr();
    Shared(with(|stocks| stocks.words.at(address)), PhantomData)
}

fn grains(at: *const u8, len: u64) -> Vec<Rc<UnsafeCell<()>>> {
    let (first, stop) = (at.addr(), at.addr() + len as usize);
    // Of whole blocks one grain in each hardware page will do: who frees or copies one takes all of it.
    let step = if len < PAGE as u64 { GRAIN } else { PAGE };
    let places = (first / step * step..stop).step_by(step);
    with(|stocks| places.map(|place| stocks.grains.at(place)).collect())
}

#[track_caller]
pub(crate) fn reads(at: *const u8, len: u64) {
    for grain in grains(at, len) {
        grain.with(|_| ());
    }
}

#[track_caller]
pub(crate) fn writes(at: *const u8, len: u64) {
    for grain in grains(at, len) {
        grain.with_mut(|_| ());
    }
}
