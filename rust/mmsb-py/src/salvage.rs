//! What is good of a damaged store.

use std::path::PathBuf;

use mmsb_core::{Error, Options, Wish};
use pyo3::prelude::*;

use crate::{args, enter, errors};

#[pyfunction]
#[pyo3(signature = (path, progress=None))]
pub(crate) fn verify(
    py: Python<'_>,
    path: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<(u64, u64, Vec<Py<PyAny>>)> {
    let report =
        enter::with_progress(py, progress.as_ref(), |report| mmsb_core::verify(&path, report))?;
    Ok((report.records, report.bytes, exceptions(py, report.problems)))
}

fn exceptions(py: Python<'_>, problems: Vec<Error>) -> Vec<Py<PyAny>> {
    problems.into_iter().map(|e| errors::raise(py, e).into_value(py).into_any()).collect()
}

/// What was good, and what was not.
#[pyclass(frozen, get_all, module = "mmsb._core")]
pub(crate) struct Salvage {
    epoch: u64,
    records: u64,
    bytes: u64,
    torn_bytes: u64,
    problems: Vec<Py<PyAny>>,
    lost: Vec<(u64, u64)>,
    later: Vec<(u64, u64)>,
    appended: Option<u64>,
}

#[pyfunction]
#[pyo3(signature = (path, to, upto=None, newest=false, progress=None))]
pub(crate) fn recover(
    py: Python<'_>,
    path: PathBuf,
    to: PathBuf,
    upto: Option<&Bound<'_, PyAny>>,
    newest: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Salvage> {
    let wish = Wish { upto: args::opt_u64(upto, "upto")?, newest };
    let told = enter::with_progress(py, progress.as_ref(), |report| {
        mmsb_core::recover(&path, &to, wish, &Options::default(), report)
    })?;
    Ok(Salvage {
        epoch: told.epoch,
        records: told.records,
        bytes: told.bytes,
        torn_bytes: told.torn_bytes,
        problems: exceptions(py, told.problems),
        lost: told.lost,
        later: told.later,
        appended: told.appended,
    })
}
