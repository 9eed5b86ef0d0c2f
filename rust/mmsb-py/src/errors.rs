//! Errors of the core as Python exceptions.
//!
//! The classes live in Python (`mmsb.errors`); its function `make` builds them, so that code, message and place are
//! attached in one way whoever raises.

use mmsb_core::{Code, Error};
use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::function;

/// The exception for an error of the core.
#[cold]
pub(crate) fn raise(py: Python<'_>, error: Error) -> PyErr {
    let raised =
        error.detail.graph.as_ref().and_then(|graph| function::raised(graph.cause.as_ref()?));
    if let Some(raised) = raised
        && !raised.is_instance_of::<PyException>(py)
    {
        // Ctrl-C and the like are nobody's failure.
        return raised.clone_ref(py);
    }
    match exception(py, &error) {
        Ok(made) => {
            let made = PyErr::from_value(made);
            if let Some(raised) = raised {
                made.set_cause(py, Some(raised.clone_ref(py)));
            }
            made
        }
        Err(failed) => {
            let plain = format!("{} [{}]", error.message, error.code.as_str());
            let plain = PyRuntimeError::new_err(plain);
            plain.set_cause(py, Some(failed));
            plain
        }
    }
}

/// An exception with a code and a message and no place.
#[cold]
pub(crate) fn new(py: Python<'_>, code: Code, message: impl Into<String>) -> PyErr {
    raise(py, Error::new(code, message))
}

/// A value is wrong.
#[cold]
pub(crate) fn argument(py: Python<'_>, message: impl Into<String>) -> PyErr {
    new(py, Code::Argument, message)
}

/// No page has this id.
#[cold]
pub(crate) fn no_page(id: u64) -> Error {
    Error::new(Code::PageNotFound, format!("there is no page {id}; it was deleted or never made"))
}

/// The handle was made before a fork; the text is the core's.
#[cold]
pub(crate) fn forked() -> Error {
    Error::new(
        Code::ForkedHandle,
        "this handle was inherited through fork() and belongs to the parent; let the child read with \
         mmsb.attach(path), or start it with the 'spawn' method",
    )
}

fn exception<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    static MAKE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let make = MAKE.import(py, "mmsb.errors", "make")?;
    let detail = PyDict::new(py);
    let place = &error.detail;
    if let Some(file) = &place.file {
        detail.set_item(intern!(py, "file"), file.as_os_str())?;
    }
    if let Some(offset) = place.offset {
        detail.set_item(intern!(py, "offset"), offset)?;
    }
    if let Some(epoch) = place.epoch {
        detail.set_item(intern!(py, "epoch"), epoch)?;
    }
    if let Some(errno) = place.errno {
        detail.set_item(intern!(py, "errno"), errno)?;
    }
    if let Some(pid) = place.pid {
        detail.set_item(intern!(py, "pid"), pid)?;
    }
    if let Some(graph) = &place.graph {
        let path = graph.path.iter().map(|edge| (edge.src, edge.dst, edge.kind.name()));
        detail.set_item(intern!(py, "page"), graph.page)?;
        detail.set_item(intern!(py, "path"), path.collect::<Vec<_>>())?;
    }
    make.call1((error.code.class(), error.code.as_str(), &error.message, detail))
}
