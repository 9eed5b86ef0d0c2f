//! NumPy arrays over memory of the core, and bytes out of Python objects.
//!
//! Arrays are made through NumPy's C table from pointer, dtype object and owner, so every dtype without Python
//! objects works. The owner of a view exports no buffer: `setflags(write=True)` finds nothing writable and raises,
//! and the bytes live for as long as any array over them.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr::{NonNull, null_mut};
use std::slice;

use mmsb_core::{Code, View};
use numpy::npyffi::{
    self, NPY_ARRAY_ALIGNED, NPY_ARRAY_WRITEABLE, NPY_ORDER, NpyTypes, PY_ARRAY_API, npy_intp,
};
use numpy::{PyArrayDescr, PyArrayDescrMethods as _, PyUntypedArray, PyUntypedArrayMethods as _};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PySlice;

use crate::errors;

/// NumPy's limit on dimensions.
const MAX_NDIM: usize = 64;

/// Keeps the bytes of a view alive for its arrays.
#[pyclass(frozen, module = "mmsb._core")]
struct ViewOwner {
    _view: View,
}

/// The shape of an array; of few dimensions without an allocation.
pub(crate) enum Dims {
    Few([npy_intp; FEW], usize),
    Many(Vec<npy_intp>),
}

const FEW: usize = 4;

impl Dims {
    /// `None` if there are too many dimensions or one is too large.
    pub(crate) fn new<I>(lengths: I) -> Option<Dims>
    where
        I: IntoIterator<Item = u64, IntoIter: ExactSizeIterator>,
    {
        let lengths = lengths.into_iter();
        let ndim = lengths.len();
        if ndim <= FEW {
            let mut dims = [0; FEW];
            for (dim, length) in dims.iter_mut().zip(lengths) {
                *dim = npy_intp::try_from(length).ok()?;
            }
            return Some(Dims::Few(dims, ndim));
        }
        if ndim > MAX_NDIM {
            return None;
        }
        let dims = lengths.map(npy_intp::try_from).collect::<Result<_, _>>();
        dims.ok().map(Dims::Many)
    }

    fn as_mut_slice(&mut self) -> &mut [npy_intp] {
        match self {
            Dims::Few(dims, ndim) => &mut dims[..*ndim],
            Dims::Many(dims) => dims,
        }
    }
}

/// Bytes of an array of this shape; `None` if they do not fit an address space.
fn bytes_of(dims: &[npy_intp], itemsize: usize) -> Option<usize> {
    if dims.contains(&0) {
        return Some(0);
    }
    dims.iter().try_fold(itemsize, |bytes, &dim| bytes.checked_mul(usize::try_from(dim).ok()?))
}

/// A read-only array over a view.
pub(crate) fn of_view<'py>(
    py: Python<'py>,
    view: View,
    descr: &Bound<'py, PyArrayDescr>,
    dims: Dims,
) -> PyResult<Bound<'py, PyAny>> {
    let (data, len) = (view.as_ptr().cast_mut(), view.len());
    let owner = Bound::new(py, ViewOwner { _view: view })?;
    // SAFETY: the view, which the owner keeps, holds `len` bytes from `data` on in place and unchanged, and the array is
    // made without WRITEABLE.
    unsafe { new(descr, dims, data, len, 0, owner.into_any()) }
}

/// A writable array over `len` bytes from `data` on.
///
/// # Safety
/// The bytes stay valid for reads and writes as long as `owner` lives.
pub(crate) unsafe fn writable<'py>(
    descr: &Bound<'py, PyArrayDescr>,
    dims: Dims,
    data: *mut u8,
    len: usize,
    owner: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the caller's promise.
    unsafe { new(descr, dims, data, len, NPY_ARRAY_WRITEABLE, owner) }
}

/// # Safety
/// The bytes stay valid as long as `owner` lives: for reads, and for writes if `flags` says WRITEABLE.
unsafe fn new<'py>(
    descr: &Bound<'py, PyArrayDescr>,
    mut dims: Dims,
    data: *mut u8,
    len: usize,
    flags: c_int,
    owner: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = descr.py();
    if descr.has_object() || descr.has_subarray() {
        let what = format!("dtype {descr} cannot be laid over bytes; use a dtype without objects");
        return Err(errors::new(py, Code::ArgumentType, what));
    }
    let itemsize = descr.itemsize();
    let dims = dims.as_mut_slice();
    if bytes_of(dims, itemsize).is_none_or(|bytes| bytes > len) {
        let what = format!("an array of dtype {descr} does not fit into {len} bytes");
        return Err(errors::argument(py, what));
    }
    let data = if data.is_null() { NonNull::<u64>::dangling().as_ptr().cast() } else { data };
    let aligned = data.addr().is_multiple_of(descr.alignment().max(1));
    let flags = if aligned { flags | NPY_ARRAY_ALIGNED } else { flags };
    // SAFETY: attached (there is a `py`). The descriptor's reference is handed over, as the call wants; `dims` has
    // at most NumPy's limit of entries; an array of them ends within the `len` bytes, which stay valid while
    // the base lives. SetBaseObject takes the owner's reference even when it fails.
    unsafe {
        let array = PY_ARRAY_API.PyArray_NewFromDescr(
            py,
            npyffi::get_type_object(py, NpyTypes::PyArray_Type),
            descr.clone().into_dtype_ptr(),
            dims.len() as c_int,
            dims.as_mut_ptr(),
            null_mut(),
            data.cast(),
            flags,
            null_mut(),
        );
        let array = Bound::from_owned_ptr_or_err(py, array)?;
        if PY_ARRAY_API.PyArray_SetBaseObject(py, array.as_ptr().cast(), owner.into_ptr()) < 0 {
            return Err(PyErr::fetch(py));
        }
        Ok(array)
    }
}

/// A writable copy that owns its memory.
pub(crate) fn copy<'py>(array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let py = array.py();
    let array = array.cast::<PyUntypedArray>()?;
    // SAFETY: attached, and `array` is an ndarray.
    unsafe {
        let order = NPY_ORDER::NPY_CORDER;
        let made = PY_ARRAY_API.PyArray_NewCopy(py, array.as_array_ptr(), order);
        Bound::from_owned_ptr_or_err(py, made)
    }
}

/// Keeps the memory of a [`Private`] array alive for all arrays over it.
#[pyclass(frozen, module = "mmsb._core")]
struct PrivateOwner {
    _memory: Box<[u128]>,
}

/// An array that Rust fills and a function is shown, as long as nobody keeps it.
#[derive(Debug)]
pub(crate) struct Private {
    array: Py<PyUntypedArray>,
    data: NonNull<u8>,
    len: usize,
    made: Made,
}

/// What of an array a function could change.
#[derive(Debug)]
struct Made {
    dims: Vec<npy_intp>,
    strides: Vec<npy_intp>,
    descr: usize,
    data: usize,
    flags: c_int,
}

// SAFETY: the memory is its own and hangs on no thread.
unsafe impl Send for Private {}
// SAFETY: it is read and written by whoever is attached to the interpreter only.
unsafe impl Sync for Private {}

impl Private {
    /// Zeros.
    pub(crate) fn new(
        descr: &Bound<'_, PyArrayDescr>,
        shape: &[u64],
        writable: bool,
    ) -> PyResult<Private> {
        let py = descr.py();
        let no_memory = || {
            let what = format!("no memory for an array of shape {shape:?} for a function");
            errors::new(py, Code::OutOfSpace, what)
        };
        let dims = Dims::new(shape.iter().copied()).ok_or_else(no_memory)?;
        let bytes = shape
            .iter()
            .try_fold(descr.itemsize(), |all, &dim| all.checked_mul(usize::try_from(dim).ok()?));
        let len = bytes.ok_or_else(no_memory)?;
        let mut memory: Vec<u128> = Vec::new();
        let words = len.div_ceil(size_of::<u128>());
        memory.try_reserve_exact(words).map_err(|_| no_memory())?;
        memory.resize(words, 0);
        let mut memory = memory.into_boxed_slice();
        let data = NonNull::from(&mut *memory).cast::<u8>();
        let owner = Bound::new(py, PrivateOwner { _memory: memory })?.into_any();
        let flags = if writable { NPY_ARRAY_WRITEABLE } else { 0 };
        // SAFETY: the owner keeps the memory, `len` bytes from `data` on, in place for as long as it lives.
        let array = unsafe { new(descr, dims, data.as_ptr(), len, flags, owner)? };
        let array = array.cast_into::<PyUntypedArray>()?;
        let made = Made::of(&array);
        Ok(Private { array: array.unbind(), data, len, made })
    }

    /// What a function is shown.
    pub(crate) fn shown(&self) -> &Py<PyUntypedArray> {
        &self.array
    }

    /// Whether it is as it was made, and nobody but this and one tuple of arguments has it, or an array over it.
    pub(crate) fn is_private(&self, py: Python<'_>) -> bool {
        let array = self.array.bind(py);
        references(array) == 2 && self.made.is_of(array)
    }

    /// Writes to it, for one that is private.
    pub(crate) fn write(&mut self, _py: Python<'_>, f: impl FnOnce(&mut [u8])) {
        // SAFETY: the owner, which the array keeps, holds `len` bytes from `data` on. Attached, and nobody else has the
        // array (`is_private` was asked, or it is new), so nobody reads or writes it meanwhile.
        f(unsafe { slice::from_raw_parts_mut(self.data.as_ptr(), self.len) });
    }

    /// Its bytes.
    pub(crate) fn bytes(&self, _py: Python<'_>) -> &[u8] {
        // SAFETY: as above, but for others that may have it: as with every consumer of a buffer they may write meanwhile,
        // and each caller copies or compares the bytes once, front to back.
        unsafe { slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl Made {
    fn of(array: &Bound<'_, PyUntypedArray>) -> Made {
        let (descr, data, flags) = Made::fields(array);
        let dims = array.shape().iter().map(|&dim| dim as npy_intp).collect();
        Made { dims, strides: array.strides().to_vec(), descr, data, flags }
    }

    fn fields(array: &Bound<'_, PyUntypedArray>) -> (usize, usize, c_int) {
        // SAFETY: `array` is an ndarray, and attached.
        let inner = unsafe { &*npyffi::_PyArray_GET_ITEM_DATA(array.as_array_ptr()) };
        (inner.descr.addr(), inner.data.addr(), inner.flags)
    }

    fn is_of(&self, array: &Bound<'_, PyUntypedArray>) -> bool {
        Made::fields(array) == (self.descr, self.data, self.flags)
            && array.strides() == self.strides
            && array.shape().iter().map(|&dim| dim as npy_intp).eq(self.dims.iter().copied())
    }
}

/// How many hold an object.
pub(crate) fn references<T>(object: &Bound<'_, T>) -> isize {
    // SAFETY: attached, and the object is alive.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) }
}

/// C-contiguous bytes of a Python object, held in place while this lives.
pub(crate) struct Input<'py> {
    data: *const u8,
    len: usize,
    _hold: Hold<'py>,
}

#[expect(dead_code, reason = "held for their reference")]
enum Hold<'py> {
    Array(Bound<'py, PyUntypedArray>),
    Buffer(PyUntypedBuffer),
}

impl<'py> Input<'py> {
    /// The bytes of `value`; `what` names it in errors.
    pub(crate) fn new(value: &Bound<'py, PyAny>, what: &str) -> PyResult<Input<'py>> {
        let py = value.py();
        let scattered = || {
            let advice = "is not C-contiguous; use numpy.ascontiguousarray";
            errors::argument(py, format!("{what} {advice}"))
        };
        // An ndarray first: NumPy exports no buffer of datetime64.
        if let Ok(array) = value.cast::<PyUntypedArray>() {
            return Input::of_array(array).ok_or_else(scattered);
        }
        let buffer = PyUntypedBuffer::get(value).map_err(|cause| {
            let kind = value.get_type();
            let what = format!("{what} must be a C-contiguous buffer of bytes, not {kind}");
            let error = errors::new(py, Code::ArgumentType, what);
            error.set_cause(py, Some(cause));
            error
        })?;
        if !buffer.is_c_contiguous() {
            return Err(scattered());
        }
        let (data, len) = (buffer.buf_ptr().cast(), buffer.len_bytes());
        Ok(Input { data, len, _hold: Hold::Buffer(buffer) })
    }

    /// The bytes of an array; `None` if they are scattered or hold Python objects.
    pub(crate) fn of_array(array: &Bound<'py, PyUntypedArray>) -> Option<Input<'py>> {
        let descr = array.dtype();
        if !array.is_c_contiguous() || descr.has_object() {
            return None;
        }
        // SAFETY: `array` is an ndarray, and attached.
        let data = unsafe { (*npyffi::_PyArray_GET_ITEM_DATA(array.as_array_ptr())).data };
        let len = array.len() * descr.itemsize();
        Some(Input { data: data.cast(), len, _hold: Hold::Array(array.clone()) })
    }

    /// The bytes.
    ///
    /// Another thread of the program may write to them meanwhile, as with every consumer of a buffer; so each caller
    /// copies them once, front to back, and works on the copy.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.len == 0 || self.data.is_null() {
            return &[];
        }
        // SAFETY: a C-contiguous buffer has `len` bytes from `data` on, which `_hold` keeps in place.
        unsafe { slice::from_raw_parts(self.data, self.len) }
    }
}

/// Start, stop and step of a slice as written: `None` becomes 0, the largest integer and 1.
pub(crate) fn slice_parts(slice: &Bound<'_, PySlice>) -> PyResult<(isize, isize, isize)> {
    let (mut start, mut stop, mut step) = (0, 0, 0);
    // SAFETY: attached, `slice` is a slice object, and the three places are ours.
    let failed = unsafe { ffi::PySlice_Unpack(slice.as_ptr(), &mut start, &mut stop, &mut step) };
    if failed < 0 { Err(PyErr::fetch(slice.py())) } else { Ok((start, stop, step)) }
}
