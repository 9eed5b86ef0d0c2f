//! The hot half of `mmsb.Page`: reads and single writes by the handle, without Python code in between.
//!
//! What the fast paths do not know they leave to the subclass (`_assign`), so they decide nothing that it would
//! decide otherwise.

use std::sync::OnceLock;

use mmsb_core::{Batch, Code, Error, Snapshot};
use numpy::{PyArrayDescr, PyArrayDescrMethods as _, PyUntypedArray, PyUntypedArrayMethods as _};
use pyo3::basic::CompareOp;
use pyo3::exceptions::{PyIndexError, PyKeyError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::{OnceLockExt as _, PyOnceLock};
use pyo3::types::{PyBool, PyDict, PyEllipsis, PyFloat, PyInt, PySlice, PyTuple};

use crate::args::{self, Note};
use crate::array::{self, Input};
use crate::core::{Core, SHORT};
use crate::layout::{self, Layout, Scalar};
use crate::snap::{self, PageInfo};
use crate::{enter, errors};

/// Pages above one block may be scattered: an index of theirs is narrowed before a view is made.
const BLOCK: u64 = 16 << 10;
/// Values up to this size are put together on the stack.
const SMALL: usize = 256;
/// A slice beyond this size is clipped to the page before its value is put together.
const UNCLIPPED: u64 = SHORT as u64;

/// A page of a bus.
#[pyclass(subclass, frozen, module = "mmsb._core")]
pub(crate) struct PageBase {
    core: Py<Core>,
    id: u64,
    layout: OnceLock<(Layout, bool)>,
}

/// Rows of the first axis, or the whole page.
struct Target {
    start: u64,
    bytes: u64,
    /// `None` for one row without its axis.
    rows: Option<u64>,
}

/// The newest bytes of a page with its description, both of one epoch.
pub(crate) fn described<'py>(
    py: Python<'py>,
    core: &Core,
    id: u64,
) -> PyResult<(Bound<'py, PyAny>, bool)> {
    let (info, view) = core.newest(py, |pin| {
        let info = pin.info(id)?.ok_or_else(|| errors::no_page(id))?;
        Ok((info, pin.view(id)?))
    })?;
    let is_copy = view.is_copy();
    Ok((layout::array_of(py, view, &info)?, is_copy))
}

impl PageBase {
    fn core(&self) -> &Core {
        self.core.get()
    }

    fn newest<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(mmsb_core::PageInfo) -> T + Send,
    ) -> PyResult<T> {
        let id = self.id;
        self.core().newest(py, |pin| Ok(f(pin.info(id)?.ok_or_else(|| errors::no_page(id))?)))
    }

    /// The layout, and whether the page was larger than a block when it was looked up.
    fn layout(&self, py: Python<'_>) -> PyResult<&(Layout, bool)> {
        if let Some(layout) = self.layout.get() {
            return Ok(layout);
        }
        let info = self.newest(py, |info| info)?;
        let layout = (Layout::new(py, &info)?, info.nbytes > BLOCK);
        Ok(self.layout.get_or_init_py_attached(py, || layout))
    }

    /// The newest bytes, and whether they had to be copied together.
    fn view<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, bool)> {
        let (layout, _) = self.layout(py)?;
        let core = self.core();
        let view = enter::attached(py, || core.bus.view(self.id))?;
        let is_copy = view.is_copy();
        match layout.array(py, view)? {
            Some(array) => Ok((array, is_copy)),
            None => described(py, core, self.id),
        }
    }

    /// Only the rows that an index of a large page touches. `None`: not an index of that kind.
    fn narrowed<'py>(
        &self,
        py: Python<'py>,
        layout: &Layout,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        if layout.is_point() || layout.row == 0 {
            return Ok(None);
        }
        let tuple = index.cast::<PyTuple>().ok();
        let first = match tuple {
            Some(tuple) if tuple.is_empty() => return Ok(None),
            Some(tuple) => tuple.get_item(0)?,
            None => index.clone(),
        };
        let number = whole_number(&first);
        let parts = match first.cast::<PySlice>() {
            Ok(slice) => Some(array::slice_parts(slice)?),
            Err(_) => None,
        };
        if number.is_none() && parts.is_none() {
            return Ok(None);
        }
        let (id, row) = (self.id, layout.row);
        let found = self.core().newest(py, |pin| {
            if let Some(number) = number {
                let at = match u64::try_from(number) {
                    Ok(at) => Some(at),
                    Err(_) => row_at(number, rows_of(&pin, id, row)?),
                };
                let start = at.and_then(|at| at.checked_mul(row));
                let stop = start.and_then(|start| start.checked_add(row));
                let (Some(start), Some(stop)) = (start, stop) else { return Ok(None) };
                return match pin.view_range(id, start, stop) {
                    Err(error) if error.code == Code::PageIndex => Ok(None),
                    view => Ok(Some((view?, None))),
                };
            }
            let Some((start, stop, step)) = parts.filter(|&(_, _, step)| step > 0) else {
                return Ok(None);
            };
            let (start, stop) = clip(start, stop, rows_of(&pin, id, row)?);
            Ok(Some((pin.view_range(id, start * row, stop * row)?, Some(step))))
        })?;
        let Some((view, step)) = found else { return Ok(None) };
        let Some(array) = layout.array(py, view)? else { return Ok(None) };
        let first = match step {
            None => 0_u8.into_pyobject(py)?.into_any(),
            Some(step) => PySlice::new(py, 0, isize::MAX, step).into_any(),
        };
        let index = match tuple {
            None => first,
            Some(tuple) => {
                let rest = tuple.iter().skip(1);
                PyTuple::new(py, [first].into_iter().chain(rest).collect::<Vec<_>>())?.into_any()
            }
        };
        array.get_item(index).map(Some).map_err(|e| self.index_error(py, e))
    }

    fn index_error(&self, py: Python<'_>, cause: PyErr) -> PyErr {
        // NumPy says ValueError or KeyError where a field is missing.
        let about_index = cause.is_instance_of::<PyIndexError>(py)
            || cause.is_instance_of::<PyValueError>(py)
            || cause.is_instance_of::<PyKeyError>(py)
            || cause.is_instance_of::<PyTypeError>(py);
        if !about_index {
            return cause;
        }
        let what = format!("page {}: {}", self.id, cause.value(py));
        let error = errors::new(py, Code::PageIndex, what);
        error.set_cause(py, Some(cause));
        error
    }

    /// What an index names if that is contiguous and simple to tell.
    fn target(
        &self,
        py: Python<'_>,
        layout: &Layout,
        index: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Target>> {
        let row = layout.row;
        let all = index.cast::<PyEllipsis>().is_ok();
        if layout.is_point() {
            return Ok(all.then_some(Target { start: 0, bytes: row, rows: None }));
        }
        if row == 0 {
            return Ok(None);
        }
        let rows = || self.core().newest(py, |pin| rows_of(&pin, self.id, row));
        if let Some(number) = whole_number(index) {
            // A row past the end is found out by the commit, and `_assign` says so.
            let at = match u64::try_from(number) {
                Ok(at) => Some(at),
                Err(_) => row_at(number, rows()?),
            };
            let start = at.and_then(|at| at.checked_mul(row));
            return Ok(start.map(|start| Target { start, bytes: row, rows: None }));
        }
        let (start, stop) = if all {
            (0, rows()?)
        } else {
            let Ok(slice) = index.cast::<PySlice>() else { return Ok(None) };
            match array::slice_parts(slice)? {
                (start, stop, 1) if start >= 0 && stop >= start && fits(start, stop, row) => {
                    (start as u64, stop as u64)
                }
                (start, stop, 1) => clip(start, stop, rows()?),
                _ => return Ok(None),
            }
        };
        let rows = stop - start;
        Ok(Some(Target { start: start * row, bytes: rows * row, rows: Some(rows) }))
    }

    /// Commits a simple assignment. `false`: not simple, nothing happened.
    fn assigned(
        &self,
        py: Python<'_>,
        index: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let (layout, _) = self.layout(py)?;
        let Some(target) = self.target(py, layout, index)? else { return Ok(false) };
        let mut small = [0; SMALL];
        let mut large = Vec::new();
        let bytes = target.bytes as usize;
        let number = number_bytes(layout.scalar, value);
        let array = if number.is_none() { same_kind(layout, &target, value) } else { None };
        if number.is_none() && array.is_none() {
            return Ok(false);
        }
        let input = array.as_ref().map(Input::bytes);
        let (core, id, start) = (self.core(), self.id, target.start);
        let done = if let Some(input) = input.filter(|_| bytes > SHORT) {
            let mut batch = Batch::new();
            enter::by_size(py, target.bytes, || {
                batch.write(id, start, input);
                Ok(())
            })?;
            core.try_commit(py, Note::NONE, bytes, |bus, how| bus.commit(&mut batch, None, how))
        } else {
            let fill = |place: &mut [u8]| {
                if let Some((number, size)) = number {
                    place.chunks_exact_mut(size).for_each(|p| p.copy_from_slice(&number[..size]));
                } else if let Some(input) = input {
                    place.copy_from_slice(input);
                }
            };
            let data = if bytes <= SMALL {
                fill(&mut small[..bytes]);
                &small[..bytes]
            } else {
                enter::by_size(py, target.bytes, || {
                    large = room(bytes)?;
                    fill(&mut large);
                    Ok(())
                })?;
                &large
            };
            core.try_commit(py, Note::NONE, bytes, |bus, how| bus.write(id, start, data, how))
        }?;
        match done {
            Ok(_) => Ok(true),
            Err(error) if error.code == Code::InvalidDelta => Ok(false),
            Err(error) => Err(errors::raise(py, error)),
        }
    }
}

fn rows_of(pin: &Snapshot, id: u64, row: u64) -> mmsb_core::Result<u64> {
    Ok(pin.info(id)?.ok_or_else(|| errors::no_page(id))?.nbytes / row)
}

/// Zeros that the allocator may refuse.
fn room(bytes: usize) -> mmsb_core::Result<Vec<u8>> {
    let mut made = Vec::new();
    made.try_reserve_exact(bytes).map_err(|_| {
        Error::new(Code::OutOfSpace, format!("no memory for a value of {bytes} bytes"))
    })?;
    made.resize(bytes, 0);
    Ok(made)
}

/// The integer that an index is; not a bool, which is a mask to NumPy.
fn whole_number(index: &Bound<'_, PyAny>) -> Option<i64> {
    if index.cast_exact::<PyInt>().is_ok() {
        return index.extract().ok();
    }
    let other = index.cast::<PySlice>().is_ok()
        || index.cast::<PyEllipsis>().is_ok()
        || index.cast::<PyBool>().is_ok()
        || index.cast::<PyUntypedArray>().is_ok();
    if other { None } else { index.extract().ok() }
}

/// The row that an integer names.
fn row_at(number: i64, rows: u64) -> Option<u64> {
    let at = if number < 0 { rows.checked_sub(number.unsigned_abs())? } else { number as u64 };
    (at < rows).then_some(at)
}

/// The rows of a slice with a positive step, as Python clips it.
fn clip(start: isize, stop: isize, rows: u64) -> (u64, u64) {
    let inside = |at: isize| {
        let far = at.unsigned_abs() as u64;
        if at < 0 { rows.saturating_sub(far) } else { far.min(rows) }
    };
    let start = inside(start);
    (start, inside(stop).max(start))
}

/// Whether `start..stop` is short enough to be put together before it is known to be inside the page.
fn fits(start: isize, stop: isize, row: u64) -> bool {
    let (start, stop) = (start.unsigned_abs() as u64, stop.unsigned_abs() as u64);
    stop.checked_mul(row).is_some_and(|end| end - start * row <= UNCLIPPED)
}

/// A Python number as bytes of the element type and how many, where NumPy would store the same without a word.
fn number_bytes(scalar: Option<Scalar>, value: &Bound<'_, PyAny>) -> Option<([u8; 8], usize)> {
    let whole = || value.cast::<PyInt>().ok()?.extract::<i64>().ok();
    let real = || match value.cast::<PyFloat>() {
        Ok(float) => Some(float.value()),
        Err(_) => value.cast::<PyInt>().ok()?.extract::<f64>().ok(),
    };
    let mut bytes = [0; 8];
    let mut put = |part: &[u8]| {
        bytes[..part.len()].copy_from_slice(part);
        part.len()
    };
    let size = match scalar? {
        Scalar::F8 => put(&real()?.to_ne_bytes()),
        Scalar::F4 => {
            let wide = real()?;
            let narrow = wide as f32;
            if narrow.is_infinite() && wide.is_finite() {
                return None;
            }
            put(&narrow.to_ne_bytes())
        }
        Scalar::I8 => put(&whole()?.to_ne_bytes()),
        Scalar::I4 => put(&i32::try_from(whole()?).ok()?.to_ne_bytes()),
        Scalar::U1 => put(&[u8::try_from(whole()?).ok()?]),
        Scalar::Bool => put(&[u8::from(value.cast::<PyBool>().ok()?.is_true())]),
    };
    Some((bytes, size))
}

/// The bytes of an array that can be copied as they are.
fn same_kind<'py>(
    layout: &Layout,
    target: &Target,
    value: &Bound<'py, PyAny>,
) -> Option<Input<'py>> {
    let array = value.cast_exact::<PyUntypedArray>().ok()?;
    let shape = match target.rows {
        None => array.shape(),
        Some(rows) => {
            let (&first, shape) = array.shape().split_first()?;
            (first as u64 == rows).then_some(shape)?
        }
    };
    let same = layout.plain
        && shape.iter().map(|&length| length as u64).eq(layout.rest().iter().copied())
        && array.dtype().is_equiv_to(layout.descr.bind(value.py()));
    if same { Input::of_array(array) } else { None }
}

#[pymethods]
impl PageBase {
    #[new]
    fn new(core: Py<Core>, id: &Bound<'_, PyAny>) -> PyResult<PageBase> {
        let id = args::u64_of(id, "id")?;
        Ok(PageBase { core, id, layout: OnceLock::new() })
    }

    #[getter(core)]
    fn core_handle(&self, py: Python<'_>) -> Py<Core> {
        self.core.clone_ref(py)
    }

    #[getter]
    fn id(&self) -> u64 {
        self.id
    }

    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<Option<String>> {
        self.newest(py, |info| info.name)
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.newest(py, |info| info.shape)?)
    }

    #[getter]
    fn dtype(&self, py: Python<'_>) -> PyResult<Py<PyArrayDescr>> {
        self.newest(py, |_| ())?;
        Ok(self.layout(py)?.0.descr.clone_ref(py))
    }

    #[getter]
    fn ndim(&self, py: Python<'_>) -> PyResult<usize> {
        self.newest(py, |info| info.shape.len())
    }

    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<u64> {
        // No overflow: the core holds the product times the item size to 2**40, or an axis is 0.
        self.newest(py, |info| info.shape.iter().fold(1_u64, |n, &m| n.saturating_mul(m)))
    }

    #[getter]
    fn nbytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.newest(py, |info| info.nbytes)
    }

    #[getter]
    fn epoch(&self, py: Python<'_>) -> PyResult<u64> {
        self.newest(py, |info| info.epoch)
    }

    #[getter]
    fn location(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.newest(py, |info| snap::location(&info))
    }

    fn info(&self, py: Python<'_>) -> PyResult<PageInfo> {
        self.newest(py, PageInfo)
    }

    #[pyo3(signature = (copy=None))]
    fn read<'py>(&self, py: Python<'py>, copy: Option<bool>) -> PyResult<Bound<'py, PyAny>> {
        let (array, is_copy) = self.view(py)?;
        match copy {
            None => Ok(array),
            Some(true) => array::copy(&array),
            Some(false) if is_copy => {
                let what = format!("page {} lies in scattered blocks and needs a copy", self.id);
                Err(errors::argument(py, format!("{what}; read it with copy=None")))
            }
            Some(false) => Ok(array),
        }
    }

    fn __getitem__<'py>(
        &self,
        py: Python<'py>,
        index: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (layout, large) = self.layout(py)?;
        if *large && let Some(found) = self.narrowed(py, layout, index)? {
            return Ok(found);
        }
        let (array, _) = self.view(py)?;
        array.get_item(index).map_err(|e| self.index_error(py, e))
    }

    fn __setitem__(
        slf: &Bound<'_, Self>,
        index: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = slf.py();
        if !slf.get().assigned(py, index, value)? {
            slf.call_method1(intern!(py, "_assign"), (index, value))?;
        }
        Ok(())
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<&Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let array = self.read(py, copy)?;
        let Some(dtype) = dtype else { return Ok(array) };
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "dtype"), dtype)?;
        // A copy was made already where one was asked for.
        keywords.set_item(intern!(py, "copy"), copy.filter(|copy| !copy))?;
        let numpy = py.import(intern!(py, "numpy"))?;
        numpy.call_method(intern!(py, "array"), (array,), Some(&keywords)).map_err(|cause| {
            if !cause.is_instance_of::<PyValueError>(py) {
                return cause;
            }
            let what =
                format!("page {} cannot be had without a copy: {}", self.id, cause.value(py));
            let error = errors::argument(py, what);
            error.set_cause(py, Some(cause));
            error
        })
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        match self.newest(py, |info| info.shape.first().copied())? {
            Some(rows) => usize::try_from(rows).map_err(|_| {
                errors::argument(py, format!("page {} has {rows} rows: use shape[0]", self.id))
            }),
            None => {
                let what = format!("page {} has no dimensions and so no length", self.id);
                Err(errors::new(py, Code::ArgumentType, what))
            }
        }
    }

    fn __richcmp__(
        &self,
        py: Python<'_>,
        other: &Bound<'_, PyAny>,
        op: CompareOp,
    ) -> PyResult<Py<PyAny>> {
        let equal = match other.cast::<PageBase>() {
            Ok(other) => {
                let other = other.get();
                self.id == other.id && self.core().serial == other.core().serial
            }
            Err(_) if is_number_or_array(other)? => {
                let what =
                    "a page is compared as a whole bus page; compare its values with page[()]";
                return Err(errors::new(py, Code::ArgumentType, what));
            }
            Err(_) => return Ok(py.NotImplemented()),
        };
        let answer = match op {
            CompareOp::Eq => equal,
            CompareOp::Ne => !equal,
            _ => return Ok(py.NotImplemented()),
        };
        Ok(PyBool::new(py, answer).to_owned().into_any().unbind())
    }

    fn __hash__(&self) -> u64 {
        self.core().serial.rotate_left(40) ^ self.id
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.core)
    }
}

fn is_number_or_array(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    static NUMBER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static GENERIC: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = value.py();
    Ok(value.cast::<PyUntypedArray>().is_ok()
        || value.is_instance(NUMBER.import(py, "numbers", "Number")?)?
        || value.is_instance(GENERIC.import(py, "numpy", "generic")?)?)
}
