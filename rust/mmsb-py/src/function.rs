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
    /// Its arrays have an axis in front, for the pages that it computes together.
    batch: bool,
    /// Taken while the function runs.
    prepared: Mutex<Option<Prepared>>,
}

/// What a function is called with.
#[derive(Debug)]
struct Prepared {
    args: Py<PyTuple>,
    inputs: Vec<Filled>,
    out: Private,
    /// For so many pages.
    count: usize,
}

/// The array of an input.
#[derive(Debug)]
struct Filled {
    array: Private,
    /// For the first of the pages this page, in this shape.
    page: u64,
    shape: Vec<u64>,
    /// For each of them, which bytes of which page it has.
    versions: Vec<Option<(u64, (u64, u64))>>,
}

impl PyFunction {
    pub(crate) fn new(callable: Py<PyAny>, batch: bool) -> PyFunction {
        PyFunction { callable, batch, prepared: Mutex::new(None) }
    }

    /// The same function with arrays of its own, for another bus.
    pub(crate) fn for_another(&self, py: Python<'_>) -> Arc<dyn Function> {
        Arc::new(PyFunction::new(self.callable.clone_ref(py), self.batch))
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.callable)
    }

    /// Computes pages that are alike in one call.
    fn run(
        &self,
        py: Python<'_>,
        calls: &[Call<'_>],
        done: &mut dyn FnMut(usize, &[u8]),
    ) -> PyResult<()> {
        let Some(first) = calls.first() else { return Ok(()) };
        let kept = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut prepared = match kept.filter(|prepared| prepared.fits(py, first, calls.len())) {
            Some(prepared) => prepared,
            None => Prepared::new(py, first, self.batch.then_some(calls.len()))?,
        };
        prepared.fill(py, calls);
        let result = self.callable.bind(py).call1(prepared.args.bind(py))?;
        let len = first.nbytes() as usize;
        let mut give = |bytes: &[u8]| {
            (0..calls.len()).for_each(|n| done(n, &bytes[n * len..][..len]));
        };
        if result.is_none() || result.is(prepared.out.shown()) {
            give(prepared.out.bytes(py));
        } else {
            let array = checked(&result, prepared.out.shown().bind(py).as_any())?;
            give(Input::new(&array, "the result")?.bytes());
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
    /// Arrays for pages like this one; for so many, with an axis in front, or for one.
    fn new(py: Python<'_>, call: &Call<'_>, stacked: Option<usize>) -> PyResult<Prepared> {
        let array = |dtype: &str, shape: &[u64], writable| {
            let front = stacked.map(|count| count as u64);
            let shape: Vec<u64> = front.into_iter().chain(shape.iter().copied()).collect();
            Private::new(&layout::dtype_of(py, dtype)?, &shape, writable)
        };
        let count = stacked.unwrap_or(1);
        let inputs = call
            .inputs()
            .map(|input| {
                let (page, shape) = (input.page(), input.shape());
                let array = array(&input.dtype(), &shape, false)?;
                Ok(Filled { array, page, shape, versions: vec![None; count] })
            })
            .collect::<PyResult<Vec<_>>>()?;
        let out = array(&call.dtype(), &call.shape(), true)?;
        let all = inputs.iter().map(|input| &input.array).chain([&out]);
        let args =
            PyTuple::new(py, all.map(|array| array.shown().clone_ref(py)).collect::<Vec<_>>())?;
        Ok(Prepared { args: args.unbind(), inputs, out, count })
    }

    /// Whether the arrays are for so many pages like this one, and nobody else has them or changed them.
    fn fits(&self, py: Python<'_>, call: &Call<'_>, count: usize) -> bool {
        array::references(self.args.bind(py)) == 1
            && self.count == count
            && self.out.is_private(py)
            && self.inputs.len() == call.inputs().len()
            && self.inputs.iter().zip(call.inputs()).all(|(have, input)| {
                let is_of_page = have.page == input.page() && input.has_shape(&have.shape);
                is_of_page && have.array.is_private(py)
            })
    }

    /// Brings the inputs up to date; the result begins as zeros.
    fn fill(&mut self, py: Python<'_>, calls: &[Call<'_>]) {
        for (n, have) in self.inputs.iter_mut().enumerate() {
            let versions = &mut have.versions;
            have.array.write(py, |bytes| {
                let mut rest = bytes;
                for (call, version) in calls.iter().zip(versions) {
                    let input = call.input(n);
                    let (own, behind) = rest.split_at_mut(input.nbytes() as usize);
                    rest = behind;
                    let is = Some((input.page(), Argument::version(&input)));
                    if *version != is {
                        input.copy_to(own);
                        *version = is;
                    }
                }
            });
        }
        self.out.write(py, |bytes| bytes.fill(0));
    }
}

impl Function for PyFunction {
    fn enter(&self, rest: &mut dyn FnMut()) {
        Python::attach(|_| rest());
    }

    fn stack(&self) -> Option<usize> {
        self.batch.then(|| self.callable.as_ptr().addr())
    }

    fn compute(&self, call: &Call<'_>, done: &mut dyn FnMut(&[u8])) -> Result<(), Failure> {
        self.compute_all(std::slice::from_ref(call), &mut |_, bytes| done(bytes))
    }

    fn compute_all(
        &self,
        calls: &[Call<'_>],
        done: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), Failure> {
        Python::attach(|py| {
            self.run(py, calls, done).map_err(|error| {
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
