//! An ordered set of operations.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use mmsb_core::{Batch as CoreBatch, Code, Error, Followed, Form, NewPage, Node, Result};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::array::Input;
use crate::function::PyFunction;
use crate::stage::Stage;
use crate::{args, enter, errors};

/// How many nanoseconds each page took.
type Times = Vec<(u64, u64)>;

/// An ordered set of operations.
#[pyclass(frozen, module = "mmsb._core")]
pub(crate) struct Batch {
    inner: Mutex<CoreBatch>,
}

impl Batch {
    /// The core's batch. Never waits: who holds it may be committing it.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, CoreBatch>> {
        match self.inner.try_lock() {
            Ok(batch) => Ok(batch),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                Code::TransactionClosed,
                "this transaction is being committed by another thread",
            )),
        }
    }

    /// Encoded size of the operations.
    pub(crate) fn bytes(&self, py: Python<'_>) -> PyResult<usize> {
        enter::attached(py, || Ok(self.lock()?.bytes()))
    }

    fn add(&self, py: Python<'_>, f: impl FnOnce(&mut CoreBatch)) -> PyResult<()> {
        enter::attached(py, || {
            f(&mut *self.lock()?);
            Ok(())
        })
    }
}

#[pymethods]
impl Batch {
    #[new]
    fn new() -> Batch {
        Batch { inner: Mutex::new(CoreBatch::new()) }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a description")]
    fn create(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        name: Option<&str>,
        dtype: &str,
        itemsize: &Bound<'_, PyAny>,
        shape: &Bound<'_, PyTuple>,
        nbytes: &Bound<'_, PyAny>,
        meta: &str,
    ) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        let itemsize = args::u32_of(itemsize, "itemsize")?;
        let nbytes = args::u64_of(nbytes, "nbytes")?;
        let shape = args::shape_of(shape)?;
        let shape = shape.as_slice();
        let page = NewPage { name, dtype, itemsize, shape, nbytes, meta, location: 0 };
        self.add(py, |batch| batch.create(id, &page))
    }

    fn delete(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        self.add(py, |batch| batch.delete(id))
    }

    fn rename(&self, py: Python<'_>, id: &Bound<'_, PyAny>, name: Option<&str>) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        self.add(py, |batch| batch.rename(id, name))
    }

    fn set_meta(&self, py: Python<'_>, id: &Bound<'_, PyAny>, meta: &str) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        self.add(py, |batch| batch.set_meta(id, meta))
    }

    fn resize(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        shape: &Bound<'_, PyTuple>,
        nbytes: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        let (shape, nbytes) = (args::shape_of(shape)?, args::u64_of(nbytes, "nbytes")?);
        self.add(py, |batch| batch.resize(id, &shape, nbytes))
    }

    fn write(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        offset: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let (id, offset) = (args::u64_of(id, "id")?, args::u64_of(offset, "offset")?);
        let input = Input::new(data, "data")?;
        let data = input.bytes();
        enter::by_size(py, data.len() as u64, || {
            self.lock()?.write(id, offset, data);
            Ok(())
        })
    }

    fn stage(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        stage: &Stage,
        itemsize: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let id = args::u64_of(id, "id")?;
        let itemsize = args::u32_of(itemsize, "itemsize")?.max(1) as usize;
        enter::by_size(py, stage.bytes(), || {
            let mut batch = self.lock()?;
            let mut count = 0;
            stage.for_each_change(itemsize, &mut |offset, bytes| {
                batch.write(id, offset, bytes);
                count += 1;
            })?;
            Ok(count)
        })
    }

    /// The place of a page in the graph; `form` is "link", "native" or "function".
    #[expect(clippy::too_many_arguments, reason = "the parts of a place in the graph")]
    fn node(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        form: &str,
        text: &str,
        inputs: Vec<u64>,
        links: Vec<(u64, String)>,
        deferred: bool,
        poisons: bool,
    ) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        let form = Form::ALL.into_iter().find(|known| known.name() == form);
        let form = form.ok_or_else(|| errors::argument(py, "no form of a page"))?;
        let links = links
            .into_iter()
            .map(|(src, kind)| Ok((src, args::kind_of(py, &kind)?)))
            .collect::<PyResult<_>>()?;
        let node = Node { form, deferred, poisons, text, inputs, links };
        self.add(py, |batch| batch.node(id, Some(&node)))
    }

    fn no_node(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        self.add(py, |batch| batch.node(id, None))
    }

    fn function(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        function: Py<PyAny>,
        batch: bool,
    ) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        let function = Arc::new(PyFunction::new(function, batch));
        self.add(py, |batch| batch.function(id, function))
    }

    fn check_node(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        self.add(py, |batch| batch.check_node(id))
    }

    fn tag(
        &self,
        py: Python<'_>,
        name: &str,
        epoch: Option<&Bound<'_, PyAny>>,
        r#move: bool,
    ) -> PyResult<()> {
        let epoch = args::opt_u64(epoch, "epoch")?;
        self.add(py, |batch| batch.tag(name, epoch, r#move))
    }

    fn untag(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.add(py, |batch| batch.untag(name))
    }

    fn check_read(&self, py: Python<'_>, id: &Bound<'_, PyAny>) -> PyResult<()> {
        let id = args::u64_of(id, "id")?;
        self.add(py, |batch| batch.check_read(id))
    }

    fn check_name(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.add(py, |batch| batch.check_name(name))
    }

    fn check_ids(&self, py: Python<'_>) -> PyResult<()> {
        self.add(py, CoreBatch::check_ids)
    }

    fn ask_report(&self, py: Python<'_>, timed: bool) -> PyResult<()> {
        self.add(py, |batch| batch.ask_report(timed))
    }

    /// The report's lists, and how long each page took.
    fn report(&self, py: Python<'_>) -> PyResult<([Vec<u64>; 6], Times)> {
        let report = enter::attached(py, || Ok(self.lock()?.report().cloned()))?;
        let Followed { computed, cut_off, stale, poisoned, gpu_sync, compiler } =
            report.unwrap_or_default();
        let took = computed.iter().chain(&cut_off).filter_map(|&(page, took)| Some((page, took?)));
        let took = took.collect();
        let pages =
            |list: Vec<(u64, Option<u64>)>| list.into_iter().map(|(page, _)| page).collect();
        Ok(([pages(computed), pages(cut_off), stale, poisoned, gpu_sync, compiler], took))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        enter::attached(py, || Ok(self.lock()?.len()))
    }
}
