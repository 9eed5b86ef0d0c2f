//! A bus.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use mmsb_core::{Batch as CoreBatch, Bus, Code, Committed, Durability, Error, How, Wanted};
use mmsb_core::{Keep, NewPage, Options, PruneReport, Result, Retention, Snapshot};
use numpy::{PyArrayDescrMethods as _, PyUntypedArray, PyUntypedArrayMethods as _};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::args::{self, Note};
use crate::array::Input;
use crate::batch::Batch;
use crate::events::Subscription;
use crate::function;
use crate::log::LogIter;
use crate::page;
use crate::snap::{PageInfo, Snap};
use crate::{enter, errors};

/// Up to this size a commit that need not wait keeps the interpreter.
pub(crate) const SHORT: usize = 64 << 10;

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// One bus.
#[pyclass(frozen, weakref, module = "mmsb._core")]
pub(crate) struct Core {
    pub(crate) bus: Bus,
    clock: Option<Py<PyAny>>,
    /// Tells buses apart without their addresses.
    pub(crate) serial: u64,
    durability: Durability,
}

impl Core {
    fn new(bus: Bus, clock: Option<Py<PyAny>>) -> Core {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let durability = bus.durability();
        Core { bus, clock, serial, durability }
    }

    /// The newest epoch, pinned.
    pub(crate) fn newest<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(Snapshot) -> Result<T> + Send,
    ) -> PyResult<T> {
        if self.bus.reads_files() {
            return enter::detached(py, || f(self.bus.glance()?));
        }
        enter::attached(py, || f(self.bus.glance()?))
    }

    /// Commits what `call` does. Short ones keep the interpreter unless they would have to wait.
    ///
    /// The outer error is the clock's or an interrupt, the inner one the core's.
    pub(crate) fn try_commit(
        &self,
        py: Python<'_>,
        note: Note<'_>,
        bytes: usize,
        mut call: impl FnMut(&Bus, &How<'_>) -> Result<Committed> + Send,
    ) -> PyResult<Result<Committed>> {
        let time = match &self.clock {
            None => None,
            Some(clock) => Some(args::u64_of(clock.bind(py).call0()?.as_any(), "clock()")?),
        };
        let durability = note.durability.unwrap_or(self.durability);
        if bytes <= SHORT && durability != Durability::Disk {
            let result = enter::attempt(py, || call(&self.bus, &note.how(time, false)))?;
            if !matches!(&result, Err(error) if error.code == Code::WouldBlock) {
                return Ok(result);
            }
        }
        enter::attempt_detached(py, || call(&self.bus, &note.how(time, true)))
    }

    fn commit_call(
        &self,
        py: Python<'_>,
        note: Note<'_>,
        bytes: usize,
        call: impl FnMut(&Bus, &How<'_>) -> Result<Committed> + Send,
    ) -> PyResult<(u64, bool)> {
        match self.try_commit(py, note, bytes, call)? {
            Ok(done) => Ok((done.epoch, done.changed)),
            Err(error) => Err(errors::raise(py, error)),
        }
    }

    fn check_forked(&self, py: Python<'_>) -> PyResult<()> {
        if self.bus.forked() { Err(errors::raise(py, errors::forked())) } else { Ok(()) }
    }
}

fn options(
    py: Python<'_>,
    durability: Option<&str>,
    max_memory: Option<&Bound<'_, PyAny>>,
    seed: Option<&Bound<'_, PyAny>>,
    segment_bytes: Option<&Bound<'_, PyAny>>,
) -> PyResult<Options> {
    Ok(Options {
        durability: args::durability_of(py, durability)?,
        max_memory: args::opt_u64(max_memory, "max_memory")?,
        seed: args::opt_u64(seed, "seed")?,
        segment_bytes: args::opt_u64(segment_bytes, "segment_bytes")?,
        ..Options::default()
    })
}

#[pymethods]
impl Core {
    #[staticmethod]
    #[pyo3(signature = (max_memory=None, clock=None))]
    fn memory(
        py: Python<'_>,
        max_memory: Option<&Bound<'_, PyAny>>,
        clock: Option<Py<PyAny>>,
    ) -> PyResult<Core> {
        let options = options(py, None, max_memory, None, None)?;
        let bus = enter::detached(py, || Bus::memory(&options))?;
        Ok(Core::new(bus, clock))
    }

    #[staticmethod]
    #[pyo3(signature = (path, durability=None, max_memory=None, clock=None, checkpoint_every=None, compress=false, seed=None, segment_bytes=None))]
    #[expect(clippy::too_many_arguments, reason = "the call's keywords")]
    fn create(
        py: Python<'_>,
        path: PathBuf,
        durability: Option<&str>,
        max_memory: Option<&Bound<'_, PyAny>>,
        clock: Option<Py<PyAny>>,
        checkpoint_every: Option<u64>,
        compress: bool,
        seed: Option<&Bound<'_, PyAny>>,
        segment_bytes: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Core> {
        let options = options(py, durability, max_memory, seed, segment_bytes)?;
        let options = Options { checkpoint_every, compress, ..options };
        let bus = enter::detached(py, || Bus::create(&path, &options))?;
        Ok(Core::new(bus, clock))
    }

    #[staticmethod]
    #[pyo3(signature = (path, mode, durability=None, max_memory=None, clock=None, progress=None, checkpoint_every=None, compress=false, segment_bytes=None))]
    #[expect(clippy::too_many_arguments, reason = "the call's keywords")]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        mode: &str,
        durability: Option<&str>,
        max_memory: Option<&Bound<'_, PyAny>>,
        clock: Option<Py<PyAny>>,
        progress: Option<Py<PyAny>>,
        checkpoint_every: Option<u64>,
        compress: bool,
        segment_bytes: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Core> {
        let mode = args::mode_of(py, mode)?;
        let options = options(py, durability, max_memory, None, segment_bytes)?;
        let options = Options { checkpoint_every, compress, ..options };
        let bus = enter::with_progress(py, progress.as_ref(), |report| {
            Bus::open(&path, mode, &options, report)
        })?;
        Ok(Core::new(bus, clock))
    }

    #[getter]
    fn path(&self) -> Option<PathText<'_>> {
        self.bus.path().map(PathText)
    }

    #[getter]
    fn mode(&self) -> &'static str {
        self.bus.mode().as_str()
    }

    #[getter]
    fn durability(&self) -> &'static str {
        self.durability.as_str()
    }

    #[getter]
    fn closed(&self) -> bool {
        self.bus.is_closed()
    }

    #[getter]
    fn forked(&self) -> bool {
        self.bus.forked()
    }

    #[getter]
    fn epoch(&self, py: Python<'_>) -> PyResult<u64> {
        self.check_forked(py)?;
        Ok(self.bus.epoch())
    }

    #[getter]
    fn durable_epoch(&self, py: Python<'_>) -> PyResult<u64> {
        self.check_forked(py)?;
        Ok(self.bus.durable_epoch())
    }

    #[getter]
    fn clock(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.clock.as_ref().map(|clock| clock.clone_ref(py))
    }

    #[expect(clippy::type_complexity, reason = "a tuple that Python names the parts of")]
    fn recovery(
        &self,
        py: Python<'_>,
    ) -> PyResult<Option<(u64, Option<u64>, u64, u64, Vec<Py<PyAny>>, f64)>> {
        self.check_forked(py)?;
        let Some(told) = self.bus.recovery() else { return Ok(None) };
        let quarantined = told
            .quarantined
            .iter()
            .map(|file| Ok(file.as_os_str().into_pyobject(py)?.into_any().unbind()))
            .collect::<PyResult<_>>()?;
        let (epoch, checkpoint_epoch) = (told.epoch, told.checkpoint_epoch);
        Ok(Some((
            epoch,
            checkpoint_epoch,
            told.records,
            told.torn_bytes,
            quarantined,
            told.seconds,
        )))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        enter::detached(py, || self.bus.close())
    }

    fn sync(&self, py: Python<'_>) -> PyResult<u64> {
        enter::detached(py, || self.bus.sync())
    }

    #[pyo3(signature = (epoch=None))]
    fn snapshot(&self, py: Python<'_>, epoch: Option<&Bound<'_, PyAny>>) -> PyResult<Snap> {
        let pin = match args::opt_u64(epoch, "epoch")? {
            None => enter::attached(py, || self.bus.snapshot())?,
            Some(epoch) => enter::detached(py, || self.bus.snapshot_at(epoch))?,
        };
        Ok(Snap::new(pin))
    }

    fn find(&self, py: Python<'_>, name: &str) -> PyResult<Option<u64>> {
        self.newest(py, |pin| Ok(pin.find(name)))
    }

    fn info(&self, py: Python<'_>, page: &Bound<'_, PyAny>) -> PyResult<Option<PageInfo>> {
        let page = args::u64_of(page, "page")?;
        self.newest(py, |pin| Ok(pin.info(page)?.map(PageInfo)))
    }

    fn infos(&self, py: Python<'_>) -> PyResult<Vec<PageInfo>> {
        self.newest(py, |pin| Ok(pin.infos()?.into_iter().map(PageInfo).collect()))
    }

    fn names(&self, py: Python<'_>) -> PyResult<Vec<(u64, Option<String>)>> {
        self.newest(py, |pin| Ok(pin.names()))
    }

    fn tags(&self, py: Python<'_>) -> PyResult<Vec<(String, u64)>> {
        self.newest(py, |pin| Ok(pin.tags()))
    }

    fn view<'py>(&self, py: Python<'py>, page: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let page = args::u64_of(page, "page")?;
        page::described(py, self, page).map(|(array, _)| array)
    }

    #[pyo3(signature = (batch, base=None, source=None, meta=None, durability=None))]
    fn commit(
        &self,
        py: Python<'_>,
        batch: &Batch,
        base: Option<&Snap>,
        source: Option<&str>,
        meta: Option<&str>,
        durability: Option<&str>,
    ) -> PyResult<(u64, bool)> {
        let note = Note::new(py, source, meta, durability)?;
        let base = base.map(|snap| enter::attached(py, || snap.get())).transpose()?;
        let bytes = batch.bytes(py)?;
        self.commit_call(py, note, bytes, |bus, how| {
            bus.commit(&mut *batch.lock()?, base.as_ref(), how)
        })
    }

    #[pyo3(signature = (name, dtype, itemsize, shape, nbytes, meta, data=None, source=None, commit_meta=None, durability=None))]
    #[expect(clippy::too_many_arguments, reason = "the call's keywords")]
    fn create_page(
        &self,
        py: Python<'_>,
        name: Option<&str>,
        dtype: &str,
        itemsize: &Bound<'_, PyAny>,
        shape: &Bound<'_, PyTuple>,
        nbytes: &Bound<'_, PyAny>,
        meta: &str,
        data: Option<&Bound<'_, PyAny>>,
        source: Option<&str>,
        commit_meta: Option<&str>,
        durability: Option<&str>,
    ) -> PyResult<(u64, u64)> {
        let note = Note::new(py, source, commit_meta, durability)?;
        let itemsize = args::u32_of(itemsize, "itemsize")?;
        let nbytes = args::u64_of(nbytes, "nbytes")?;
        let shape = args::shape_of(shape)?;
        let shape = shape.as_slice();
        let page = NewPage { name, dtype, itemsize, shape, nbytes, meta, location: 0 };
        let input = data.map(|data| Input::new(data, "data")).transpose()?;
        let data = input.as_ref().map_or(&[][..], Input::bytes);
        if input.is_some() && data.len() as u64 != nbytes {
            let what = format!("data has {} bytes, the page has {nbytes}", data.len());
            return Err(errors::new(py, Code::InvalidDelta, what));
        }
        let mut id = 0;
        let (epoch, _) = self.commit_call(py, note, data.len(), |bus, how| {
            bus.commit_with(how, &mut |newest, batch| {
                id = newest.next_id();
                batch.create(id, &page);
                if !data.is_empty() {
                    batch.write(id, 0, data);
                }
                Ok(())
            })
        })?;
        Ok((id, epoch))
    }

    #[pyo3(signature = (page, data, rows, source=None, meta=None, durability=None))]
    #[expect(clippy::too_many_arguments, reason = "the call's keywords")]
    fn append(
        &self,
        py: Python<'_>,
        page: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        rows: &Bound<'_, PyAny>,
        source: Option<&str>,
        meta: Option<&str>,
        durability: Option<&str>,
    ) -> PyResult<(u64, bool)> {
        let note = Note::new(py, source, meta, durability)?;
        let (page, rows) = (args::u64_of(page, "page")?, args::u64_of(rows, "rows")?);
        let input = Input::new(data, "data")?;
        let data = input.bytes();
        self.commit_call(py, note, data.len(), |bus, how| {
            bus.commit_with(how, &mut |newest, batch| grow(newest, batch, page, rows, data))
        })
    }

    #[pyo3(signature = (pages, offsets, data, source=None, meta=None, durability=None))]
    #[expect(clippy::too_many_arguments, reason = "the call's keywords")]
    fn write_many(
        &self,
        py: Python<'_>,
        pages: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        data: &Bound<'_, PyAny>,
        source: Option<&str>,
        meta: Option<&str>,
        durability: Option<&str>,
    ) -> PyResult<(u64, bool)> {
        let note = Note::new(py, source, meta, durability)?;
        let (pages, shape) = table(pages, "pages", b'u', 8, 1)?;
        let n = shape[0];
        let (offsets, shape) = table(offsets, "offsets", b'u', 8, 1)?;
        let same = shape[0] == n;
        let (data, shape) = table(data, "data", b'u', 1, 2)?;
        if !same || shape[0] != n {
            let what = "pages, offsets and data must have the same length";
            return Err(errors::argument(py, what));
        }
        let width = shape[1];
        let (pages, offsets, data) = (pages.bytes(), offsets.bytes(), data.bytes());
        let fill = || {
            let mut batch = CoreBatch::new();
            if width > 0 {
                let ids = pages.as_chunks().0.iter().zip(offsets.as_chunks().0);
                for ((&id, &offset), chunk) in ids.zip(data.chunks_exact(width)) {
                    batch.write(u64::from_ne_bytes(id), u64::from_ne_bytes(offset), chunk);
                }
            }
            Ok(batch)
        };
        let mut batch = enter::by_size(py, data.len() as u64, fill)?;
        let bytes = batch.bytes();
        self.commit_call(py, note, bytes, |bus, how| bus.commit(&mut batch, None, how))
    }

    #[pyo3(signature = (to, source=None, meta=None, durability=None))]
    fn restore(
        &self,
        py: Python<'_>,
        to: &Snap,
        source: Option<&str>,
        meta: Option<&str>,
        durability: Option<&str>,
    ) -> PyResult<(u64, bool)> {
        let note = Note::new(py, source, meta, durability)?;
        let to = enter::attached(py, || to.get())?;
        self.commit_call(py, note, usize::MAX, |bus, how| bus.restore(&to, how))
    }

    fn fork(&self, py: Python<'_>, at: &Snap) -> PyResult<Core> {
        let bus = enter::attached(py, || self.bus.fork(&at.get()?))?;
        // Each bus owns what the garbage collector finds at it.
        bus.rebind(|shared| function::of(shared).map(|function| function.for_another(py)));
        Ok(Core::new(bus, self.clock(py)))
    }

    #[pyo3(signature = (source=None, meta=None, durability=None))]
    fn settle(
        &self,
        py: Python<'_>,
        source: Option<&str>,
        meta: Option<&str>,
        durability: Option<&str>,
    ) -> PyResult<(u64, bool)> {
        let note = Note::new(py, source, meta, durability)?;
        self.commit_call(py, note, 0, |bus, how| bus.settle(how))
    }

    fn subscribe(&self, py: Python<'_>, most: usize) -> PyResult<Subscription> {
        enter::detached(py, || self.bus.subscribe(most)).map(Subscription)
    }

    fn is_bound(&self, page: u64) -> bool {
        self.bus.is_bound(page)
    }

    fn fork_to(&self, py: Python<'_>, at: &Snap, path: PathBuf) -> PyResult<Core> {
        let at = enter::attached(py, || at.get())?;
        let bus = enter::detached(py, || self.bus.fork_to(&at, &path))?;
        Ok(Core::new(bus, self.clock(py)))
    }

    fn check_epoch(&self, py: Python<'_>, epoch: u64) -> PyResult<()> {
        enter::detached(py, || self.bus.check_epoch(epoch))
    }

    #[expect(clippy::type_complexity, reason = "a tuple that Python names the parts of")]
    #[pyo3(signature = (log_since=None, checkpoints=None, every=None, dry_run=false))]
    fn prune(
        &self,
        py: Python<'_>,
        log_since: Option<u64>,
        checkpoints: Option<u64>,
        every: Option<u64>,
        dry_run: bool,
    ) -> PyResult<(Vec<(Py<PyAny>, u64)>, u64, Vec<u64>, Vec<(u64, u64)>, u64)> {
        let keep = Keep { log_since, checkpoints, every, dry_run };
        let report = enter::detached(py, || self.bus.prune(&keep))?;
        let PruneReport { files, bytes, checkpoints, let_go, oldest } = report;
        let files = files
            .into_iter()
            .map(|(path, size)| Ok((path.as_os_str().into_pyobject(py)?.into_any().unbind(), size)))
            .collect::<PyResult<_>>()?;
        Ok((files, bytes, checkpoints, let_go, oldest))
    }

    #[pyo3(signature = (epochs=None, nanoseconds=None))]
    fn retain(
        &self,
        py: Python<'_>,
        epochs: Option<u64>,
        nanoseconds: Option<u64>,
    ) -> PyResult<()> {
        let retention = epochs.map(Retention::Epochs).or(nanoseconds.map(Retention::Nanoseconds));
        enter::detached(py, || self.bus.retain(retention))
    }

    #[pyo3(signature = (since, until, reverse, page=None, source=None, meta=None))]
    #[allow(clippy::too_many_arguments)] // The filters of a query, as Python names them.
    fn log(
        &self,
        py: Python<'_>,
        since: &Bound<'_, PyAny>,
        until: &Bound<'_, PyAny>,
        reverse: bool,
        page: Option<u64>,
        source: Option<String>,
        meta: Option<Vec<String>>,
    ) -> PyResult<LogIter> {
        let (since, until) = (args::u64_of(since, "since")?, args::u64_of(until, "until")?);
        let wanted = Wanted { page, source, meta: meta.unwrap_or_default() };
        let log = || self.bus.log_of(&wanted, since, until, reverse);
        enter::detached(py, log).map(LogIter::new)
    }

    fn epoch_as_of(&self, py: Python<'_>, time: u64) -> PyResult<Option<u64>> {
        enter::detached(py, || self.bus.epoch_as_of(time))
    }

    fn checkpoint(&self, py: Python<'_>) -> PyResult<u64> {
        enter::detached(py, || self.bus.checkpoint())
    }

    #[pyo3(signature = (path, progress=None))]
    fn backup(&self, py: Python<'_>, path: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<u64> {
        enter::with_progress(py, progress.as_ref(), |report| self.bus.backup(&path, report))
    }

    #[pyo3(signature = (progress=None))]
    fn verify<'py>(
        &self,
        py: Python<'py>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(u64, u64, Vec<Bound<'py, PyAny>>)> {
        let report = enter::with_progress(py, progress.as_ref(), |report| self.bus.verify(report))?;
        let problems = report.problems.into_iter();
        let problems = problems.map(|e| errors::raise(py, e).into_value(py).into_bound(py));
        Ok((report.records, report.bytes, problems.map(Bound::into_any).collect()))
    }

    #[pyo3(signature = (other, progress=None))]
    fn part(
        &self,
        py: Python<'_>,
        other: &Core,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Option<u64>> {
        let (a, b) = (&self.bus, &other.bus);
        enter::with_progress(py, progress.as_ref(), |report| mmsb_core::part(a, b, report))
    }

    /// Checkpoint, bytes and records.
    fn cost(&self, py: Python<'_>, epoch: &Bound<'_, PyAny>) -> PyResult<(Option<u64>, u64, u64)> {
        let epoch = args::u64_of(epoch, "epoch")?;
        let cost = enter::detached(py, || self.bus.cost(epoch))?;
        Ok((cost.checkpoint, cost.bytes, cost.records))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for (name, value) in enter::detached(py, || self.bus.stats())? {
            all.set_item(name, value)?;
        }
        Ok(all)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        visit.call(&self.clock)?;
        for (_, shared) in self.bus.functions() {
            function::of(&*shared).map_or(Ok(()), |function| function.traverse(&visit))?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.bus.unbind();
    }
}

/// A path as Python's text for it, which brings back the same bytes.
struct PathText<'a>(&'a std::path::Path);

impl<'py> IntoPyObject<'py> for PathText<'_> {
    type Target = PyAny;
    type Output = Bound<'py, PyAny>;
    type Error = PyErr;

    fn into_pyobject(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.0.as_os_str().into_pyobject(py)?.into_any())
    }
}

/// A C-contiguous native array of this kind, item size and number of dimensions, and its shape.
fn table<'a, 'py>(
    value: &'a Bound<'py, PyAny>,
    what: &str,
    kind: u8,
    itemsize: usize,
    ndim: usize,
) -> PyResult<(Input<'py>, &'a [usize])> {
    if let Ok(array) = value.cast::<PyUntypedArray>() {
        let descr = array.dtype();
        let native = descr.is_native_byteorder() != Some(false);
        let fits = native && descr.kind() == kind && descr.itemsize() == itemsize;
        if fits
            && array.ndim() == ndim
            && let Some(input) = Input::of_array(array)
        {
            return Ok((input, array.shape()));
        }
    }
    let name = if itemsize == 1 { "uint8" } else { "uint64" };
    let what = format!("{what} must be a C-contiguous array of {name} with {ndim} dimension(s)");
    Err(errors::argument(value.py(), what))
}

/// Puts the operations of an append into `batch`.
fn grow(newest: &Snapshot, batch: &mut CoreBatch, page: u64, rows: u64, data: &[u8]) -> Result<()> {
    let info = newest.info(page)?.ok_or_else(|| errors::no_page(page))?;
    let overflow = || Error::new(Code::Argument, format!("page {page} cannot grow by {rows} rows"));
    let mut shape = info.shape;
    let Some((first, rest)) = shape.split_first_mut() else {
        let what = format!("page {page} has no dimensions and so no rows to append to");
        return Err(Error::new(Code::InvalidDelta, what));
    };
    let row = rest.iter().try_fold(u64::from(info.itemsize), |n, &m| n.checked_mul(m));
    let tail = row.and_then(|row| row.checked_mul(rows)).ok_or_else(overflow)?;
    if tail != data.len() as u64 {
        let what = format!("{rows} rows of page {page} are {tail} bytes, not {}", data.len());
        return Err(Error::new(Code::InvalidDelta, what));
    }
    *first = first.checked_add(rows).ok_or_else(overflow)?;
    let nbytes = info.nbytes.checked_add(tail).ok_or_else(overflow)?;
    if rows > 0 {
        batch.resize(page, &shape, nbytes);
    }
    if !data.is_empty() {
        batch.write(page, info.nbytes, data);
    }
    Ok(())
}
