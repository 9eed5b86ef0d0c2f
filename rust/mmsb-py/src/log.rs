//! The log, entry by entry.

use std::sync::{Mutex, PoisonError};

use mmsb_core::{LogEntry as CoreEntry, LogIter as CoreIter, Op};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use crate::enter;

/// The entries of a range of epochs.
#[pyclass(frozen, module = "mmsb._core")]
pub(crate) struct LogIter {
    inner: Mutex<CoreIter>,
}

impl LogIter {
    pub(crate) fn new(inner: CoreIter) -> LogIter {
        LogIter { inner: Mutex::new(inner) }
    }
}

#[pymethods]
impl LogIter {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<LogEntry>> {
        let next = || self.inner.lock().unwrap_or_else(PoisonError::into_inner).next().transpose();
        Ok(enter::detached(py, next)?.map(LogEntry))
    }
}

/// One commit as the log has it.
#[pyclass(frozen, module = "mmsb._core")]
pub(crate) struct LogEntry(CoreEntry);

#[pymethods]
impl LogEntry {
    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    #[getter]
    fn time(&self) -> u64 {
        self.0.time()
    }

    #[getter]
    fn source(&self) -> Option<&str> {
        self.0.source()
    }

    #[getter]
    fn meta(&self) -> Option<&str> {
        self.0.meta()
    }

    fn ops<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for op in enter::attached(py, || self.0.ops().collect::<Result<Vec<_>, _>>())? {
            list.append(tuple_of(py, &op, self.0.epoch())?)?;
        }
        Ok(list)
    }
}

fn tuple_of<'py>(py: Python<'py>, op: &Op<'_>, own_epoch: u64) -> PyResult<Bound<'py, PyTuple>> {
    match op {
        Op::Create { id, name, dtype, shape, nbytes, meta, .. } => {
            let shape = PyTuple::new(py, shape)?;
            ("create", id, *name, *dtype, shape, nbytes, *meta).into_pyobject(py)
        }
        Op::Delete { id } => ("delete", id).into_pyobject(py),
        Op::Rename { id, name } => ("rename", id, *name).into_pyobject(py),
        Op::SetMeta { id, meta } => ("set_meta", id, *meta).into_pyobject(py),
        Op::Resize { id, shape, nbytes } => {
            ("resize", id, PyTuple::new(py, shape)?, nbytes).into_pyobject(py)
        }
        Op::Write { id, offset, data } => {
            let bytes = PyBytes::new_with(py, data.len(), |to| {
                to.copy_from_slice(data);
                Ok(())
            })?;
            ("write", id, offset, bytes).into_pyobject(py)
        }
        Op::Node { id, .. } => ("node", id).into_pyobject(py),
        Op::Mark { id, marks } => ("mark", id, marks.stale, marks.poisoned).into_pyobject(py),
        Op::Tag { name, epoch, .. } => ("tag", *name, epoch.unwrap_or(own_epoch)).into_pyobject(py),
        Op::Untag { name } => ("untag", *name).into_pyobject(py),
    }
}
