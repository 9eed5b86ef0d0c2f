//! Real processes on the real file system, ended by SIGKILL at any moment.
//!
//! A child commits as fast as it can what [`step`] says for each epoch, and tells every epoch that was acknowledged
//! through a pipe. The parent kills it, opens what is left, and compares it with a plain map of bytes that took the
//! same steps: nothing that was acknowledged is missing (at `memory` durability: nothing that was durable), nothing is
//! there that was not submitted, and the next child goes on from there.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mmsb_core::{Batch, Bus, Durability, How, Mode, NewPage, Options};

use crate::args::Args;
use crate::model::{Page, State, compare};
use crate::report::Row;
use crate::rng::{Rng, mix};

/// The first argument of the process that is killed.
pub const CHILD: &str = "kills-child";
const DURABILITIES: [Durability; 3] = [Durability::Memory, Durability::Os, Durability::Disk];
/// Kills before a store is thrown away for a new one.
const LIVES: u64 = 25;

fn how() -> How<'static> {
    How { wait: true, ..How::default() }
}

fn options(durability: Durability) -> Options {
    // Small segments, so that kills meet rolls too.
    Options {
        durability: Some(durability),
        max_memory: Some(64 << 20),
        seed: None,
        segment_bytes: Some(1 << 20),
        compress: durability == Durability::Os,
        ..Options::default()
    }
}

fn pattern(epoch: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (epoch as usize * 31 + i * 7) as u8).collect()
}

/// What the commit of `epoch` does, to a batch and to the model. The same everywhere: it depends on these alone.
fn step(seed: u64, epoch: u64, state: &mut State, batch: &mut Batch) {
    batch.clear();
    let mut rng = Rng(mix(seed, epoch));
    let ids: Vec<u64> = state.pages.keys().copied().collect();
    let kind = rng.below(100);
    if ids.len() < 3 || kind < 2 && ids.len() < 12 {
        let len = [64u64, 1000, 40_000][rng.below(3) as usize];
        let (id, name) = (state.next_id, format!("page {}", state.next_id));
        batch.create(id, &NewPage { name: Some(&name), ..NewPage::bytes(&[len]) });
        state.next_id += 1;
        let bytes = vec![0; len as usize];
        state.pages.insert(id, Page { name: Some(name), bytes, epoch, ..Page::default() });
        return;
    }
    if kind < 5 {
        let tag = format!("tag {}", rng.below(4));
        batch.tag(&tag, Some(epoch - 1), true);
        state.tags.insert(tag, epoch - 1);
        return;
    }
    let id = ids[rng.below(ids.len() as u64) as usize];
    if kind < 7 && ids.len() > 6 {
        batch.delete(id);
        state.pages.remove(&id);
        return;
    }
    let page = state.pages.get_mut(&id).unwrap();
    let before = page.bytes.clone();
    if kind < 11 {
        page.meta = format!("{{\"epoch\":{epoch}}}");
        page.epoch = epoch;
        batch.set_meta(id, &page.meta);
    } else if kind < 14 {
        let len = (before.len() as u64 + 1 + rng.below(5000)) % 60_000;
        batch.resize(id, &[len], len);
        page.bytes.resize(len as usize, 0);
    } else {
        let most = if kind < 20 { 30_000 } else { 64 };
        let at = rng.below(before.len().max(1) as u64) as usize;
        let len = (1 + rng.below(most) as usize).min(before.len() - at);
        batch.write(id, at as u64, &pattern(epoch, len));
        page.bytes[at..at + len].copy_from_slice(&pattern(epoch, len));
    }
    if page.bytes != before {
        page.epoch = epoch;
    }
}

/// The process that is killed: `kills-child DIR SEED DURABILITY CHECKPOINTS`.
///
/// # Panics
/// Anything fails.
pub fn child(mut given: impl Iterator<Item = String>) {
    let dir = given.next().unwrap();
    let seed: u64 = given.next().unwrap().parse().unwrap();
    let durability: Durability = given.next().unwrap().parse().unwrap();
    let checkpoints = given.next().unwrap() == "true";
    let bus = Bus::open(Path::new(&dir), Mode::Append, &options(durability), &mut |_, _| {});
    let bus = Arc::new(bus.unwrap());
    let running = Arc::new(AtomicBool::new(checkpoints));
    let (other, on) = (bus.clone(), running.clone());
    let _checkpoints = std::thread::spawn(move || {
        while on.load(Ordering::Relaxed) {
            other.checkpoint().unwrap();
            std::thread::sleep(Duration::from_micros(300));
        }
    });
    let mut state = shown(&bus);
    let mut batch = Batch::new();
    let mut told = std::io::stdout().lock();
    loop {
        let epoch = bus.epoch() + 1;
        step(seed, epoch, &mut state, &mut batch);
        let done = bus.commit(&mut batch, None, &How { meta: Some("{}"), ..how() }).unwrap();
        assert_eq!(done.epoch, epoch);
        told.write_all(&epoch.to_le_bytes()).unwrap();
        told.write_all(&bus.durable_epoch().to_le_bytes()).unwrap();
        told.flush().unwrap();
    }
}

/// The state that a bus shows, as a model to go on from.
fn shown(bus: &Bus) -> State {
    let snapshot = bus.snapshot().unwrap();
    let mut pages = BTreeMap::new();
    for info in snapshot.infos().unwrap() {
        let bytes = snapshot.view(info.id).unwrap().bytes().to_vec();
        let page =
            Page { name: info.name, meta: info.meta, bytes, epoch: info.epoch, ..Page::default() };
        pages.insert(info.id, page);
    }
    State { pages, tags: snapshot.tags().into_iter().collect(), next_id: snapshot.next_id() }
}

/// One store and what its commits made.
struct Story {
    dir: tempfile::TempDir,
    seed: u64,
    durability: Durability,
    /// The model at every 64th epoch, so that past epochs can be compared.
    marks: BTreeMap<u64, State>,
    model: State,
    epoch: u64,
}

impl Story {
    fn new(seed: u64, durability: Durability) -> Story {
        let dir = tempfile::tempdir().unwrap();
        let model = State { next_id: 1, ..State::default() };
        let marks = BTreeMap::from([(0, model.clone())]);
        Story { dir, seed, durability, marks, model, epoch: 0 }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("bus")
    }

    /// A life that ends after `delay`. What was acknowledged last: readable, durable.
    fn live(&self, delay: Duration, checkpoints: bool) -> (u64, u64) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(CHILD)
            .arg(self.path())
            .arg(self.seed.to_string())
            .arg(self.durability.as_str())
            .arg(checkpoints.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdout.take().unwrap();
        let ledger = std::thread::spawn(move || {
            let (mut all, mut last) = (Vec::new(), (0, 0));
            let mut buf = [0; 1 << 16];
            loop {
                let n = pipe.read(&mut buf).unwrap();
                all.extend_from_slice(&buf[..n]);
                for line in all.chunks_exact(16) {
                    let word = |at: usize| u64::from_le_bytes(line[at..at + 8].try_into().unwrap());
                    last = (word(0), word(8));
                }
                all.drain(..all.len() / 16 * 16);
                if n == 0 {
                    return last;
                }
            }
        });
        std::thread::sleep(delay);
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "the child ended by itself: {ended:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        ledger.join().unwrap()
    }

    /// Opens what the kill left; it must hold what was told and nothing that was not submitted.
    fn check(&mut self, told: u64, durable: u64, rng: &mut Rng) {
        let least = if self.durability == Durability::Memory { durable } else { told };
        let options = options(self.durability);
        let bus = match Bus::open(&self.path(), Mode::ReadWrite, &options, &mut |_, _| {}) {
            Err(error) if told == 0 && self.epoch == 0 => {
                assert_eq!(error.code, mmsb_core::Code::BusNotFound, "{error}");
                return;
            }
            opened => opened.unwrap(),
        };
        let epoch = bus.epoch();
        let least = least.max(self.epoch);
        assert!(least <= epoch && epoch <= told.max(self.epoch) + 1, "{epoch}: {least}..={told}");
        let mut batch = Batch::new();
        while self.epoch < epoch {
            self.epoch += 1;
            step(self.seed, self.epoch, &mut self.model, &mut batch);
            if self.epoch.is_multiple_of(64) {
                self.marks.insert(self.epoch, self.model.clone());
            }
        }
        compare(&bus.snapshot().unwrap(), &self.model).unwrap();
        let past: Vec<&u64> = self.marks.keys().collect();
        let past = *past[rng.below(past.len() as u64) as usize];
        compare(&bus.snapshot_at(past).unwrap(), &self.marks[&past]).unwrap();
        if rng.below(4) == 0 {
            let problems = bus.verify(&mut |_, _| {}).unwrap().problems;
            assert!(problems.is_empty(), "{problems:?}");
        }
        // Life goes on, sometimes with a clean end.
        for _ in 0..3 {
            self.epoch += 1;
            step(self.seed, self.epoch, &mut self.model, &mut batch);
            bus.commit(&mut batch, None, &How { meta: Some("{}"), ..how() }).unwrap();
        }
        if rng.coin() {
            bus.close().unwrap();
        }
        drop(bus);
        let bus = Bus::open(&self.path(), Mode::ReadWrite, &options, &mut |_, _| {}).unwrap();
        compare(&bus.snapshot().unwrap(), &self.model).unwrap();
        bus.close().unwrap();
    }
}

/// Kills children until `cases` have died; all durabilities, with and without checkpoints that run all the time.
pub fn run(args: &Args) -> Vec<Row<'static>> {
    let cases = args.cases.unwrap_or(1000);
    let mut rng = Rng(args.seed);
    let (mut kills, mut commits, mut stories) = (0, 0, 0);
    while kills < cases {
        let durability = DURABILITIES[stories as usize % 3];
        let mut story = Story::new(mix(args.seed, stories), durability);
        for _ in 0..LIVES.min(cases - kills) {
            let checkpoints = rng.coin();
            let micros = if rng.below(5) == 0 { rng.below(3_000) } else { rng.below(25_000) };
            let (told, durable) = story.live(Duration::from_micros(micros), checkpoints);
            story.check(told, durable, &mut rng);
            kills += 1;
        }
        commits += story.epoch;
        stories += 1;
    }
    vec![Row {
        id: "13-kills-rust",
        row: "SIGKILL, Rust",
        tried: "a child process killed at a random moment on the real file system, at all durabilities, with and \
                without checkpoints running; all that was acknowledged compared byte for byte, three more commits"
            .into(),
        count: format!("{kills} kills, {commits} commits, {stories} stores"),
        seed: args.seed.to_string(),
        result: "0 failures".into(),
        command: format!("make kills CASES={cases} SEED={}", args.seed),
    }]
}
