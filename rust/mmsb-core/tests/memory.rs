//! One life of a bus with nothing of the operating system below it, so that Miri can follow every step: pages of all
//! kinds, kept views, past epochs, fork, restore, checkpoint, recovery, and memory that runs out.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;

use mmsb_core::vfs::{RamVfs, Vfs};
use mmsb_core::{Batch, Bus, Code, Durability, How, Mode, NewPage, Options, View};

/// Of each page: none, a piece of a slab, one block, and many.
const SIZES: [usize; 4] = [0, 100, 16 << 10, if cfg!(miri) { 17_000 } else { 50_000 }];
const STEPS: u64 = if cfg!(miri) { 12 } else { 500 };
const LONGEST: usize = if cfg!(miri) { 100 } else { 3000 };

/// The bytes of every page.
type State = Vec<Vec<u8>>;

fn how() -> How<'static> {
    How { wait: true, ..How::default() }
}

fn options() -> Options {
    Options { max_memory: Some(1 << 20), segment_bytes: Some(6000), ..Options::default() }
}

fn store() -> Arc<dyn Vfs> {
    Arc::new(RamVfs::new())
}

fn create(vfs: &Arc<dyn Vfs>) -> (Bus, State) {
    let options = Options { durability: Some(Durability::Os), ..options() };
    let bus = Bus::create_on(Arc::clone(vfs), Path::new("/s"), &options).unwrap();
    let mut batch = Batch::new();
    for (id, len) in (1..).zip(SIZES) {
        let (name, nbytes) = (format!("page {id}"), len as u64);
        let shape = &[nbytes];
        let page = NewPage { name: Some(&name), ..NewPage::bytes(shape) };
        batch.create(id, &page);
    }
    bus.commit(&mut batch, None, &how()).unwrap();
    (bus, SIZES.map(|len| vec![0; len]).to_vec())
}

/// One commit that changes some page, by the number of its step.
fn step(bus: &Bus, state: &mut State, step: u64) {
    let which = (step % 3) as usize + 1;
    let (id, page) = (which as u64 + 1, &mut state[which]);
    let mut batch = Batch::new();
    if step % 7 == 6 {
        let len = SIZES[which] - (step * 13 % 90) as usize;
        batch.resize(id, &[len as u64], len as u64);
        page.resize(len, 0);
    } else {
        let at = (step as usize * 7919) % page.len();
        let len = (step as usize * 211 % LONGEST + 1).min(page.len() - at);
        page[at..at + len].fill((step % 255) as u8 + 1);
        batch.write(id, at as u64, &page[at..at + len]);
    }
    bus.commit(&mut batch, None, &how()).unwrap();
}

fn views(bus: &Bus) -> Vec<View> {
    (1..=SIZES.len() as u64).map(|id| bus.view(id).unwrap()).collect()
}

fn check(views: &[View], state: &State) {
    assert!(views.iter().zip(state).all(|(view, bytes)| view.bytes() == bytes));
}

#[test]
fn a_whole_life() {
    let vfs = store();
    let (bus, mut state) = create(&vfs);
    let mut past = vec![state.clone()];
    let mut kept = Vec::new();
    for number in 0..STEPS {
        step(&bus, &mut state, number);
        past.push(state.clone());
        kept.push((views(&bus), state.clone()));
        if kept.len() > 4 {
            let (views, state) = kept.swap_remove(number as usize % 4);
            check(&views, &state);
        }
        if number == STEPS / 2 {
            bus.checkpoint().unwrap();
        }
    }
    let middle = bus.snapshot_at(STEPS / 3 + 1).unwrap();
    let fork = bus.fork(&middle).unwrap();
    let mut forked = past[STEPS as usize / 3].clone();
    step(&fork, &mut forked, 5);
    check(&views(&fork), &forked);
    check(&views(&bus), &state);
    drop(fork);
    bus.restore(&middle, &how()).unwrap();
    assert_eq!(bus.snapshot().unwrap().digest().unwrap(), middle.digest().unwrap());
    past.push(past[STEPS as usize / 3].clone());
    drop(middle);
    bus.close().unwrap();
    drop(bus);
    kept.iter().for_each(|(views, state)| check(views, state));

    let mode = Mode::ReadWrite;
    let bus = Bus::open_on(vfs, Path::new("/s"), mode, &options(), &mut |_, _| {}).unwrap();
    assert!(bus.recovery().unwrap().checkpoint_epoch.is_some());
    check(&views(&bus), &past[past.len() - 1]);
    for (epoch, state) in (1..).zip(&past).step_by(if cfg!(miri) { 7 } else { 1 }) {
        let snapshot = bus.snapshot_at(epoch).unwrap();
        for (id, bytes) in (1..).zip(state) {
            assert_eq!(snapshot.view(id).unwrap().bytes(), bytes);
        }
    }
    assert!(bus.verify(&mut |_, _| {}).unwrap().problems.is_empty());
    let epochs: Vec<u64> =
        bus.log(0, u64::MAX, false).unwrap().map(|c| c.unwrap().epoch()).collect();
    assert!(epochs.into_iter().eq(1..=past.len() as u64));
}

/// A commit that does not fit changes nothing, and memory that views held comes back when they go.
#[test]
fn memory_runs_out_and_comes_back() {
    let (bus, mut state) = create(&store());
    let mut kept = Vec::new();
    let refused = loop {
        let bytes = [kept.len() as u8 + 1; 8];
        if let Err(error) = bus.write(3, 0, &bytes, &how()) {
            break error;
        }
        state[2][..8].copy_from_slice(&bytes);
        kept.push((bus.view(3).unwrap(), state[2].clone()));
    };
    assert_eq!(refused.code, Code::OutOfSpace);
    check(&views(&bus), &state);
    assert!(kept.iter().all(|(view, bytes)| view.bytes() == bytes));
    kept.clear();
    step(&bus, &mut state, 3);
    check(&views(&bus), &state);
}
