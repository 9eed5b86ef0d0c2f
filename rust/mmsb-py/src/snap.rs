//! Snapshots and descriptions of pages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use mmsb_core::{Code, Error, PageInfo as Info, Result, Snapshot};
use numpy::PyArrayDescr;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::array::{self, Dims};
use crate::{args, enter, errors, layout};

/// What was made under another count is inherited.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// How many forks this process came out of.
pub(crate) fn forks() -> u64 {
    FORKS.load(Ordering::Relaxed)
}

/// Everything made so far was made by another process.
pub(crate) fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// A page as of one epoch.
#[pyclass(frozen, module = "mmsb._core")]
pub(crate) struct PageInfo(pub(crate) Info);

#[pymethods]
impl PageInfo {
    #[getter]
    fn id(&self) -> u64 {
        self.0.id
    }

    #[getter]
    fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    #[getter]
    fn dtype<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArrayDescr>> {
        layout::dtype_of(py, &self.0.dtype)
    }

    #[getter]
    fn raw(&self) -> bool {
        self.0.dtype.is_empty()
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.0.shape)
    }

    #[getter]
    fn nbytes(&self) -> u64 {
        self.0.nbytes
    }

    #[getter]
    fn epoch(&self) -> u64 {
        self.0.epoch
    }

    #[getter]
    fn bytes_epoch(&self) -> u64 {
        self.0.bytes_epoch
    }

    #[getter]
    fn location(&self) -> &'static str {
        location(&self.0)
    }

    #[getter]
    fn meta(&self) -> &str {
        &self.0.meta
    }

    #[getter]
    fn stale(&self) -> bool {
        self.0.marks.stale
    }

    #[getter]
    fn poisoned(&self) -> bool {
        self.0.marks.poisoned
    }

    /// Form, text, inputs, links, whether it is deferred, and whether it is poisoned where it fails.
    #[getter]
    #[expect(clippy::type_complexity, reason = "a tuple that Python names the parts of")]
    fn node(
        &self,
    ) -> Option<(&'static str, String, Vec<u64>, Vec<(u64, &'static str)>, bool, bool)> {
        let node = self.0.node()?;
        let links = node.links.iter().map(|&(src, kind)| (src, kind.name())).collect();
        let text = node.text.to_owned();
        Some((node.form.name(), text, node.inputs, links, node.deferred, node.poisons))
    }
}

/// The word for where a page lives.
pub(crate) fn location(info: &Info) -> &'static str {
    match info.location {
        0 => "cpu",
        1 => "gpu",
        _ => "unified",
    }
}

/// A pinned epoch.
#[pyclass(frozen, module = "mmsb._core")]
pub(crate) struct Snap {
    /// The pin, until it is closed.
    pin: Mutex<Option<Snapshot>>,
    epoch: u64,
    time: u64,
    forks: u64,
}

impl Snap {
    pub(crate) fn new(pin: Snapshot) -> Snap {
        let (epoch, time) = (pin.epoch(), pin.time());
        Snap { pin: Mutex::new(Some(pin)), epoch, time, forks: forks() }
    }

    /// The core's snapshot.
    pub(crate) fn get(&self) -> Result<Snapshot> {
        if self.forks != forks() {
            return Err(errors::forked());
        }
        let pin = self.pin.lock().unwrap_or_else(PoisonError::into_inner);
        pin.clone().ok_or_else(|| {
            Error::new(Code::Closed, format!("the snapshot of epoch {} is closed", self.epoch))
        })
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(Snapshot) -> Result<T> + Send,
    ) -> PyResult<T> {
        let pin = enter::attached(py, || self.get())?;
        if pin.reads_files() {
            return enter::detached(py, || f(pin));
        }
        enter::attached(py, || f(pin))
    }
}

#[pymethods]
impl Snap {
    #[getter]
    fn epoch(&self) -> u64 {
        self.epoch
    }

    #[getter]
    fn time(&self) -> u64 {
        self.time
    }

    #[getter]
    fn next_id(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |pin| Ok(pin.next_id()))
    }

    #[getter]
    fn closed(&self) -> bool {
        self.pin.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let pin = self.pin.lock().unwrap_or_else(PoisonError::into_inner).take();
        enter::attached(py, || {
            drop(pin);
            Ok(())
        })
    }

    fn find(&self, py: Python<'_>, name: &str) -> PyResult<Option<u64>> {
        self.with(py, |pin| Ok(pin.find(name)))
    }

    fn info(&self, py: Python<'_>, page: &Bound<'_, PyAny>) -> PyResult<Option<PageInfo>> {
        let page = args::u64_of(page, "page")?;
        self.with(py, |pin| Ok(pin.info(page)?.map(PageInfo)))
    }

    fn infos(&self, py: Python<'_>) -> PyResult<Vec<PageInfo>> {
        self.with(py, |pin| Ok(pin.infos()?.into_iter().map(PageInfo).collect()))
    }

    fn names(&self, py: Python<'_>) -> PyResult<Vec<(u64, Option<String>)>> {
        self.with(py, |pin| Ok(pin.names()))
    }

    fn tags(&self, py: Python<'_>) -> PyResult<Vec<(String, u64)>> {
        self.with(py, |pin| Ok(pin.tags()))
    }

    fn order(&self, py: Python<'_>) -> PyResult<Vec<(u64, u32)>> {
        self.with(py, |pin| pin.order())
    }

    fn view<'py>(&self, py: Python<'py>, page: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let page = args::u64_of(page, "page")?;
        let (info, view) = self.with(py, |pin| {
            let info = pin.info(page)?.ok_or_else(|| errors::no_page(page))?;
            Ok((info, pin.view(page)?))
        })?;
        layout::array_of(py, view, &info)
    }

    fn view_is_copy(&self, py: Python<'_>, page: &Bound<'_, PyAny>) -> PyResult<bool> {
        let page = args::u64_of(page, "page")?;
        self.with(py, |pin| Ok(pin.view(page)?.is_copy()))
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        page: &Bound<'py, PyAny>,
        start: &Bound<'py, PyAny>,
        stop: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let page = args::u64_of(page, "page")?;
        let (start, stop) = (args::u64_of(start, "start")?, args::u64_of(stop, "stop")?);
        let view = self.with(py, |pin| pin.view_range(page, start, stop))?;
        let dims = Dims::new([view.len() as u64])
            .ok_or_else(|| errors::argument(py, "the range is longer than an array can be"))?;
        array::of_view(py, view, &numpy::dtype::<u8>(py), dims)
    }

    fn digest(&self, py: Python<'_>) -> PyResult<String> {
        let pin = enter::attached(py, || self.get())?;
        enter::detached(py, || Ok(format!("{:032x}", pin.digest()?)))
    }

    fn changed_pages(&self, py: Python<'_>, other: &Snap) -> PyResult<Vec<u64>> {
        let (pin, other) = enter::attached(py, || Ok((self.get()?, other.get()?)))?;
        enter::detached(py, || pin.changed_pages(&other))
    }

    fn diff(
        &self,
        py: Python<'_>,
        other: &Snap,
        page: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<(u64, u64)>> {
        let page = args::u64_of(page, "page")?;
        let (pin, other) = enter::attached(py, || Ok((self.get()?, other.get()?)))?;
        enter::detached(py, || pin.diff(&other, page))
    }
}
