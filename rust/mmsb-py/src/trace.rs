//! The core's events on their way to Python's logging.
//!
//! The core emits events in any thread, with locks held. They wait here in a bounded queue, and a call that leaves the door
//! (`enter`) hands them over when it is attached and no lock is held. A full queue drops events; the
//! field `dropped` of the last one that it kept says how many.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::{enter, snap};

/// Events that wait at most.
const ROOM: usize = 4096;

static LISTENING: AtomicBool = AtomicBool::new(false);
static WAITING: AtomicBool = AtomicBool::new(false);
static DRAINING: AtomicBool = AtomicBool::new(false);
/// One for each fork that this process came out of: at a fork another thread may hold the lock of the parent's queue,
/// and nobody gives it back in the child. No lock may be held across the hooks of a fork instead: they run Python code,
/// and a thread that waits for that lock attached would never let them go on.
static QUEUES: [Mutex<Queue>; 64] =
    [const { Mutex::new(Queue { events: VecDeque::new(), dropped: 0 }) }; 64];
static TARGET: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

struct Queue {
    events: VecDeque<Message>,
    dropped: u64,
}

struct Message {
    level: &'static str,
    name: String,
    fields: Vec<(&'static str, Value)>,
}

#[derive(IntoPyObject)]
enum Value {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Real(f64),
    Text(String),
}

fn queue() -> MutexGuard<'static, Queue> {
    let depth = snap::forks() as usize % QUEUES.len();
    QUEUES[depth].lock().unwrap_or_else(PoisonError::into_inner)
}

impl Message {
    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("event", Value::Text(name)) => self.name = name,
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.push(field, Value::Text(format!("{value:?}")));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Signed(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Unsigned(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, Value::Real(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }
}

/// Takes the events of the core down to DEBUG. An event a commit (TRACE) would cost more than the commit.
struct Bridge;

impl Subscriber for Bridge {
    fn register_callsite(&self, about: &'static Metadata<'static>) -> Interest {
        if self.enabled(about) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, about: &Metadata<'_>) -> bool {
        about.is_event()
            && about.target() == "mmsb"
            && *about.level() <= Level::DEBUG
            && LISTENING.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let on = LISTENING.load(Ordering::Relaxed);
        Some(if on { LevelFilter::DEBUG } else { LevelFilter::OFF })
    }

    fn event(&self, event: &Event<'_>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut message = Message { level, name: String::new(), fields: Vec::new() };
        event.record(&mut message);
        let mut queue = queue();
        if queue.events.len() < ROOM {
            queue.events.push_back(message);
        } else {
            queue.dropped += 1;
        }
        drop(queue);
        WAITING.store(true, Ordering::Release);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Hands waiting events to Python.
///
/// The error is what the target lets out: an interrupt that a signal handler raised in the middle of it. Events that
/// were not told yet wait for the next call.
#[inline]
pub(crate) fn drain(py: Python<'_>) -> PyResult<()> {
    if WAITING.load(Ordering::Relaxed) { deliver(py) } else { Ok(()) }
}

#[cold]
fn deliver(py: Python<'_>) -> PyResult<()> {
    // A target that calls the bus comes back here: its events wait for the next call.
    if DRAINING.swap(true, Ordering::Acquire) {
        return Ok(());
    }
    let told = tell_all(py);
    DRAINING.store(false, Ordering::Release);
    told
}

fn tell_all(py: Python<'_>) -> PyResult<()> {
    WAITING.store(false, Ordering::Release);
    let (mut events, dropped) = {
        let mut queue = queue();
        (std::mem::take(&mut queue.events), std::mem::take(&mut queue.dropped))
    };
    if dropped > 0
        && let Some(last) = events.back_mut()
    {
        last.fields.push(("dropped", Value::Unsigned(dropped)));
    }
    let Some(target) = target(py) else { return Ok(()) };
    while let Some(message) = events.pop_front() {
        if let Err(interrupt) = tell(py, &target, message) {
            let mut queue = queue();
            events.append(&mut queue.events);
            queue.events = events;
            WAITING.store(!queue.events.is_empty(), Ordering::Release);
            return Err(interrupt);
        }
    }
    Ok(())
}

fn target(py: Python<'_>) -> Option<Py<PyAny>> {
    let target = TARGET.lock().unwrap_or_else(PoisonError::into_inner);
    target.as_ref().map(|target| target.clone_ref(py))
}

fn tell(py: Python<'_>, target: &Py<PyAny>, message: Message) -> PyResult<()> {
    let fields = PyDict::new(py);
    for (name, value) in message.fields {
        fields.set_item(name, value)?;
    }
    target.call1(py, (message.level, message.name, fields))?;
    Ok(())
}

/// Sends events (level, dotted name, fields) to `target`; `None` switches them off.
#[pyfunction]
pub(crate) fn set_log(target: Option<Py<PyAny>>) {
    let on = target.is_some();
    let old = {
        let mut place = TARGET.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *place, target)
    };
    drop(old);
    LISTENING.store(on, Ordering::Relaxed);
    // An error says that it was installed before.
    let _ = tracing::subscriber::set_global_default(Bridge);
    tracing::callsite::rebuild_interest_cache();
}

/// To be called before fork(2), by the thread that forks.
#[pyfunction]
pub(crate) fn at_fork_before(py: Python<'_>) {
    // A commit may wait for the interpreter, to call a function that computes a page.
    enter::before_fork(py);
}

/// To be called after fork(2) in the parent.
#[pyfunction]
pub(crate) fn at_fork_parent() {
    mmsb_core::at_fork_parent();
}

/// To be called after fork(2) in the child.
#[pyfunction]
pub(crate) fn at_fork_child() {
    snap::forked();
    DRAINING.store(false, Ordering::Relaxed);
    mmsb_core::at_fork_child();
}
