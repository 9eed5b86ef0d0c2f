//! Arguments: numbers of any size, durability, mode, and what every commit takes.

use mmsb_core::{Code, Durability, How, Mode};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors;

/// An integer in `0..2**64`; `what` names it in errors.
pub(crate) fn u64_of(value: &Bound<'_, PyAny>, what: &str) -> PyResult<u64> {
    value.extract::<u64>().map_err(|cause| {
        let py = value.py();
        let error = if cause.is_instance_of::<PyOverflowError>(py) {
            errors::argument(py, format!("{what} must be in 0..2**64, not {value}"))
        } else {
            let what = format!("{what} must be an integer, not {}", value.get_type());
            errors::new(py, Code::ArgumentType, what)
        };
        error.set_cause(py, Some(cause));
        error
    })
}

/// Like [`u64_of`], `None` for `None`.
pub(crate) fn opt_u64(value: Option<&Bound<'_, PyAny>>, what: &str) -> PyResult<Option<u64>> {
    value.map(|value| u64_of(value, what)).transpose()
}

/// An integer in `0..2**32`.
pub(crate) fn u32_of(value: &Bound<'_, PyAny>, what: &str) -> PyResult<u32> {
    u32::try_from(u64_of(value, what)?).map_err(|_| {
        errors::argument(value.py(), format!("{what} must be in 0..2**32, not {value}"))
    })
}

/// A shape in elements.
pub(crate) fn shape_of(shape: &Bound<'_, PyTuple>) -> PyResult<Vec<u64>> {
    shape.iter().map(|length| u64_of(&length, "a length in shape")).collect()
}

/// One of "memory", "os", "disk".
pub(crate) fn durability_of(py: Python<'_>, text: Option<&str>) -> PyResult<Option<Durability>> {
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(durability) => Ok(Some(durability)),
        Err(_) => {
            let what = format!("durability must be 'memory', 'os' or 'disk', not {text:?}");
            Err(errors::argument(py, what))
        }
    }
}

/// One of "r", "r+", "a".
pub(crate) fn mode_of(py: Python<'_>, text: &str) -> PyResult<Mode> {
    match text {
        "r" => Ok(Mode::Read),
        "r+" => Ok(Mode::ReadWrite),
        "a" => Ok(Mode::Append),
        _ => Err(errors::argument(py, format!("mode must be 'r', 'r+' or 'a', not {text:?}"))),
    }
}

/// What a commit is given beside its operations.
#[derive(Clone, Copy)]
pub(crate) struct Note<'a> {
    source: Option<&'a str>,
    meta: Option<&'a str>,
    pub(crate) durability: Option<Durability>,
}

impl<'a> Note<'a> {
    /// Nothing given.
    pub(crate) const NONE: Note<'static> = Note { source: None, meta: None, durability: None };

    pub(crate) fn new(
        py: Python<'_>,
        source: Option<&'a str>,
        meta: Option<&'a str>,
        durability: Option<&str>,
    ) -> PyResult<Note<'a>> {
        Ok(Note { source, meta, durability: durability_of(py, durability)? })
    }

    /// With the time, as the core takes it.
    pub(crate) fn how(&self, time: Option<u64>, wait: bool) -> How<'a> {
        let Note { source, meta, durability } = *self;
        How { source, meta, durability, time, wait }
    }
}

/// The kind of an edge.
pub(crate) fn kind_of(py: Python<'_>, name: &str) -> PyResult<mmsb_core::Kind> {
    let known = mmsb_core::Kind::ALL.into_iter().find(|kind| kind.name() == name);
    known.ok_or_else(|| {
        errors::argument(py, format!("{name:?} is not one of 'control', 'gpu_sync', 'compiler'"))
    })
}
