//! The one door into the core.
//!
//! Every call of the core that can fail, wait or take long passes here: a panic becomes an `InternalError`, an error its
//! Python exception, and events that the core queued meanwhile go to Python's logging once no lock is held.
//! Nothing else in this crate detaches from the interpreter.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook};
use std::time::Duration;

use mmsb_core::{Code, Error, Result};
use pyo3::prelude::*;

use crate::{errors, trace};

/// From this size on work on bytes lets other Python threads run.
pub(crate) const LARGE: u64 = 1 << 20;

/// What unwinds through the core when a progress callback raised.
struct Cancelled;

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `f` attached to the interpreter and leaves the core's error to the caller.
///
/// The outer error is an interrupt, Ctrl-C for one, that arrived while events were logged; `f` had ended by then.
pub(crate) fn attempt<T>(py: Python<'_>, f: impl FnOnce() -> Result<T>) -> PyResult<Result<T>> {
    let result = guarded(f);
    trace::drain(py)?;
    Ok(result)
}

/// Like [`attempt`], detached from the interpreter: for whatever may block or take long.
pub(crate) fn attempt_detached<T: Send>(
    py: Python<'_>,
    f: impl FnOnce() -> Result<T> + Send,
) -> PyResult<Result<T>> {
    let result = py.detach(|| guarded(f));
    trace::drain(py)?;
    Ok(result)
}

/// Runs `f` attached to the interpreter.
pub(crate) fn attached<T>(py: Python<'_>, f: impl FnOnce() -> Result<T>) -> PyResult<T> {
    attempt(py, f)?.map_err(|e| errors::raise(py, e))
}

/// Runs `f` detached from the interpreter.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    f: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    attempt_detached(py, f)?.map_err(|e| errors::raise(py, e))
}

/// Runs `f` detached if it handles at least [`LARGE`] bytes.
pub(crate) fn by_size<T: Send>(
    py: Python<'_>,
    bytes: u64,
    f: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    if bytes < LARGE { attached(py, f) } else { detached(py, f) }
}

/// Runs `f` detached and hands it a function for (bytes done, bytes in all).
///
/// That function attaches, lets signals act and calls `progress`; if either raises, `f` is abandoned by unwinding
/// and the exception comes out here.
pub(crate) fn with_progress<T: Send>(
    py: Python<'_>,
    progress: Option<&Py<PyAny>>,
    f: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<T> + Send,
) -> PyResult<T> {
    let mut raised: Option<PyErr> = None;
    let mut report = |done: u64, total: u64| {
        let told = Python::attach(|py| -> PyResult<()> {
            py.check_signals()?;
            if let Some(progress) = progress {
                progress.call1(py, (done, total))?;
            }
            Ok(())
        });
        if let Err(error) = told {
            raised = Some(error);
            resume_unwind(Box::new(Cancelled));
        }
    };
    let result = attempt_detached(py, || f(&mut report));
    match raised {
        Some(error) => Err(error),
        None => result?.map_err(|e| errors::raise(py, e)),
    }
}

/// What happens before fork(2). Views are counted while nobody else can make one, so this stays attached but while a
/// commit is under way.
pub(crate) fn before_fork(py: Python<'_>) {
    mmsb_core::at_fork_before(&mut || py.detach(|| std::thread::sleep(Duration::from_micros(50))));
}

fn guarded<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result,
        Err(payload) => Err(panicked(payload.as_ref())),
    }
}

fn panicked(payload: &(dyn Any + Send)) -> Error {
    let what = PANIC.take().unwrap_or_else(|| text_of(payload).to_owned());
    Error::new(
        Code::Internal,
        format!("a bug in MMSB: {what}; close the bus, reopen it and please report this"),
    )
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a message"
    }
}

/// Keeps panics off standard error; the message and place go into the `InternalError` instead.
pub(crate) fn quiet_panics() {
    set_hook(Box::new(|info| {
        let text = text_of(info.payload());
        let what = match info.location() {
            Some(place) => format!("{text} (at {}:{})", place.file(), place.line()),
            None => text.to_owned(),
        };
        PANIC.set(Some(what));
    }));
}
