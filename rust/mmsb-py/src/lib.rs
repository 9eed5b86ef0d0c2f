//! `mmsb._core`: the native module behind the Python package `mmsb`.
//!
//! It holds no policy. Each file is one concern; `enter` is the one door into the core, `array` and `stage` are the only
//! files with `unsafe`.

mod args;
mod array;
mod batch;
mod core;
mod enter;
mod errors;
mod events;
mod function;
mod layout;
mod log;
mod page;
mod salvage;
mod snap;
mod stage;
mod trace;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

#[pymodule(gil_used = true)]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::batch::Batch;
    #[pymodule_export]
    use super::core::Core;
    #[pymodule_export]
    use super::events::Subscription;
    #[pymodule_export]
    use super::log::LogEntry;
    #[pymodule_export]
    use super::page::PageBase;
    #[pymodule_export]
    use super::salvage::{Salvage, recover, verify};
    #[pymodule_export]
    use super::snap::{PageInfo, Snap};
    #[pymodule_export]
    use super::stage::Stage;
    #[pymodule_export]
    use super::trace::{at_fork_before, at_fork_child, at_fork_parent, set_log};

    /// Byte ranges of the elements that differ between two buffers of one length.
    #[pyfunction]
    fn diff_ranges(
        py: Python<'_>,
        a: &Bound<'_, PyAny>,
        b: &Bound<'_, PyAny>,
        itemsize: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<(u64, u64)>> {
        let (a, b) = (array::Input::new(a, "a")?, array::Input::new(b, "b")?);
        let (a, b) = (a.bytes(), b.bytes());
        let itemsize = args::u32_of(itemsize, "itemsize")? as usize;
        if itemsize == 0 || a.len() != b.len() {
            let what = "a and b must have the same length, and itemsize must be at least 1";
            return Err(errors::argument(py, what));
        }
        enter::by_size(py, a.len() as u64, || {
            let mut ranges = Vec::new();
            mmsb_core::diff_ranges(a, b, itemsize, &mut ranges);
            Ok(ranges)
        })
    }

    /// The variables of an expression, in the order of their first use.
    #[pyfunction]
    fn expression_variables(py: Python<'_>, text: &str) -> PyResult<Vec<String>> {
        enter::attached(py, || mmsb_core::expression_variables(text))
    }

    /// Element type and shape of what an expression gives.
    #[pyfunction]
    fn expression_type<'py>(
        py: Python<'py>,
        text: &str,
        args: Vec<(String, Vec<u64>)>,
    ) -> PyResult<(String, Bound<'py, PyTuple>)> {
        let (dtype, shape) = enter::attached(py, || mmsb_core::expression_type(text, &args))?;
        Ok((dtype, PyTuple::new(py, shape)?))
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        // Missing or broken, it is an ImportError here and a panic later.
        module.py().import("numpy")?;
        enter::quiet_panics();
        let codes = mmsb_core::Code::ALL.iter();
        let codes = codes.filter(|&&code| code != mmsb_core::Code::WouldBlock);
        let codes: Vec<_> = codes.map(|code| (code.as_str(), code.class())).collect();
        module.add("ERROR_CODES", codes)?;
        let events: Vec<_> = mmsb_core::EVENTS.iter().map(|&(name, ..)| name).collect();
        module.add("EVENTS", events)?;
        // Major and minor as log/segment.rs in the core writes them.
        module.add("FORMAT", mmsb_core::FORMAT)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
