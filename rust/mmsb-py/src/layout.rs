//! How the bytes of a page become an array.
//!
//! The dtype of a page and all its axes but the first never change, so they are looked up once per handle; the length of
//! the first axis follows from the length of the bytes, and a view and its shape can never be of two epochs.

use mmsb_core::{Code, Error, PageInfo, View};
use numpy::{PyArrayDescr, PyArrayDescrMethods as _};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::array::{self, Dims};
use crate::errors;

/// Element types that a Python number is stored into without NumPy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Bool,
    U1,
    I4,
    I8,
    F4,
    F8,
}

impl Scalar {
    fn of(descr: &Bound<'_, PyArrayDescr>) -> Option<Scalar> {
        if descr.is_native_byteorder() == Some(false) {
            return None;
        }
        match (descr.kind(), descr.itemsize()) {
            (b'b', 1) => Some(Scalar::Bool),
            (b'u', 1) => Some(Scalar::U1),
            (b'i', 4) => Some(Scalar::I4),
            (b'i', 8) => Some(Scalar::I8),
            (b'f', 4) => Some(Scalar::F4),
            (b'f', 8) => Some(Scalar::F8),
            _ => None,
        }
    }
}

/// The part of a page's description that never changes.
pub(crate) struct Layout {
    pub(crate) descr: Py<PyArrayDescr>,
    /// All axes; the length of the first is only that of the time of the look-up.
    axes: Box<[u64]>,
    /// Bytes of one step of the first axis, or of the page if it has no dimensions.
    pub(crate) row: u64,
    pub(crate) scalar: Option<Scalar>,
    /// Bytes of equal dtypes may be copied: not for structured ones, whose padding is not part of the value.
    pub(crate) plain: bool,
}

impl Layout {
    pub(crate) fn new(py: Python<'_>, info: &PageInfo) -> PyResult<Layout> {
        let descr = dtype_of(py, &info.dtype)?;
        let itemsize = descr.itemsize() as u64;
        let axes: Box<[u64]> = info.shape.as_slice().into();
        let rest = axes.get(1..).unwrap_or_default();
        let row = rest.iter().try_fold(itemsize, |bytes, &length| bytes.checked_mul(length));
        let row = row.ok_or_else(|| misshapen(py, info))?;
        let (scalar, plain) = (Scalar::of(&descr), descr.kind() != b'V');
        Ok(Layout { descr: descr.unbind(), axes, row, scalar, plain })
    }

    /// Whether the page has no dimensions.
    pub(crate) fn is_point(&self) -> bool {
        self.axes.is_empty()
    }

    /// All axes but the first.
    pub(crate) fn rest(&self) -> &[u64] {
        self.axes.get(1..).unwrap_or_default()
    }

    /// The array over a view of the page's bytes, or of whole rows. `None` where the length does not tell the rows.
    pub(crate) fn array<'py>(
        &self,
        py: Python<'py>,
        view: View,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let rows = match (view.len() as u64).checked_div(self.row) {
            None if !self.is_point() => return Ok(None),
            rows => rows.unwrap_or(0),
        };
        let lengths = self.axes.iter().enumerate();
        let dims = Dims::new(lengths.map(|(axis, &length)| if axis == 0 { rows } else { length }));
        let Some(dims) = dims else { return Ok(None) };
        array::of_view(py, view, self.descr.bind(py), dims).map(Some)
    }
}

/// The array over a view whose description is at hand.
pub(crate) fn array_of<'py>(
    py: Python<'py>,
    view: View,
    info: &PageInfo,
) -> PyResult<Bound<'py, PyAny>> {
    let dims = Dims::new(info.shape.iter().copied()).ok_or_else(|| misshapen(py, info))?;
    array::of_view(py, view, &dtype_of(py, &info.dtype)?, dims)
}

/// The dtype of a description; bytes for an empty one.
pub(crate) fn dtype_of<'py>(py: Python<'py>, text: &str) -> PyResult<Bound<'py, PyArrayDescr>> {
    if text.is_empty() {
        return Ok(numpy::dtype::<u8>(py));
    }
    static PARSE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let parse = PARSE.import(py, "mmsb._values", "dtype_from_text")?;
    Ok(parse.call1((text,))?.cast_into()?)
}

fn misshapen(py: Python<'_>, info: &PageInfo) -> PyErr {
    let what = format!("page {}: NumPy has no array of shape {:?}", info.id, info.shape);
    errors::raise(py, Error::new(Code::Argument, what))
}
