//! Python functions that compute derived pages.
//!
//! A function is called with one array for each input and one for the result. They are made once and filled before each
//! call; whatever of them the function kept is left to it, and others are made.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use mmsb_core::{Argument, Call, Cause, Code, Failure, Function};
use pyo3::exceptions::PyException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::array::{self, Input, Private};
use crate::layout;

/// A Python function that computes a page.
#[derive(Debug)]
pub(crate) struct PyFunction {
    callable: Py<PyAny>,
    /// Taken while the function runs.
    prepared: Mutex<Option<Prepared>>,
}

/// What a function is called with.
#[derive(Debug)]
struct Prepared {
    args: Py<PyTuple>,
    inputs: Vec<Filled>,
    out: Private,
}

/// The array of an input, and which bytes of which page it has.
#[derive(Debug)]
struct Filled {
    array: Private,
    page: u64,
    shape: Vec<u64>,
    version: Option<(u64, u64)>,
}

impl PyFunction {
    pub(crate) fn new(callable: Py<PyAny>) -> PyFunction {
        PyFunction { callable, prepared: Mutex::new(None) }
    }

    /// The same function with arrays of its own, for another bus.
    pub(crate) fn for_another(&self, py: Python<'_>) -> Arc<dyn Function> {
        Arc::new(PyFunction::new(self.callable.clone_ref(py)))
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.callable)
    }

    fn run(&self, py: Python<'_>, call: &Call<'_>, done: &mut dyn FnMut(&[u8])) -> PyResult<()> {
        let kept = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut prepared = match kept.filter(|prepared| prepared.fits(py, call)) {
            Some(prepared) => prepared,
            None => Prepared::new(py, call)?,
        };
        prepared.fill(py, call);
        let result = self.callable.bind(py).call1(prepared.args.bind(py))?;
        if result.is_none() || result.is(prepared.out.shown()) {
            done(prepared.out.bytes(py));
        } else {
            let array = checked(&result, prepared.out.shown().bind(py).as_any())?;
            done(Input::new(&array, "the result")?.bytes());
        }
        drop(result);
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(prepared);
        Ok(())
    }
}

/// An array with the bytes of a result, which must have the shape and the type of the page.
fn checked<'py>(
    result: &Bound<'py, PyAny>,
    out: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    static CHECK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CHECK.import(result.py(), "mmsb._derive", "checked_result")?.call1((result, out))
}

impl Prepared {
    fn new(py: Python<'_>, call: &Call<'_>) -> PyResult<Prepared> {
        let array = |dtype: &str, shape: &[u64], writable| {
            Private::new(&layout::dtype_of(py, dtype)?, shape, writable)
        };
        let inputs = call
            .inputs()
            .map(|input| {
                let (page, shape) = (input.page(), input.shape());
                let array = array(&input.dtype(), &shape, false)?;
                Ok(Filled { array, page, shape, version: None })
            })
            .collect::<PyResult<Vec<_>>>()?;
        let out = array(&call.dtype(), &call.shape(), true)?;
        let all = inputs.iter().map(|input| &input.array).chain([&out]);
        let args =
            PyTuple::new(py, all.map(|array| array.shown().clone_ref(py)).collect::<Vec<_>>())?;
        Ok(Prepared { args: args.unbind(), inputs, out })
    }

    /// Whether the arrays are those of the pages, as these are now, and nobody else has them or changed them.
    fn fits(&self, py: Python<'_>, call: &Call<'_>) -> bool {
        array::references(self.args.bind(py)) == 1
            && self.out.is_private(py)
            && self.inputs.len() == call.inputs().len()
            && self.inputs.iter().zip(call.inputs()).all(|(have, input)| {
                let is_of_page = have.page == input.page() && input.has_shape(&have.shape);
                is_of_page && have.array.is_private(py)
            })
    }

    /// Brings the inputs up to date; the result begins as zeros.
    fn fill(&mut self, py: Python<'_>, call: &Call<'_>) {
        for (have, input) in self.inputs.iter_mut().zip(call.inputs()) {
            let version = Some(Argument::version(&input));
            if have.version != version {
                have.array.write(py, |bytes| input.copy_to(bytes));
                have.version = version;
            }
        }
        self.out.write(py, |bytes| bytes.fill(0));
    }
}

impl Function for PyFunction {
    fn enter(&self, rest: &mut dyn FnMut()) {
        Python::attach(|_| rest());
    }

    fn compute(&self, call: &Call<'_>, done: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
        Python::attach(|py| {
            self.run(py, call, done).map_err(|error| {
                let fatal = !error.is_instance_of::<PyException>(py) || is_reentrancy(py, &error);
                Failure { message: error.to_string(), cause: Some(Cause(Arc::new(error))), fatal }
            })
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Whether the function did what none may, instead of failing.
fn is_reentrancy(py: Python<'_>, error: &PyErr) -> bool {
    let code = error.value(py).getattr_opt("code").ok().flatten();
    code.is_some_and(|code| code.eq(Code::Reentrancy.as_str()).unwrap_or(false))
}

/// The function as the one that was registered.
pub(crate) fn of(function: &dyn Function) -> Option<&PyFunction> {
    function.as_any().downcast_ref()
}

/// What a function raised.
pub(crate) fn raised(cause: &Cause) -> Option<&PyErr> {
    cause.0.downcast_ref()
}
