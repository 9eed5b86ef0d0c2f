//! Subscriptions.

use std::time::Duration;

use mmsb_core::{Event as CoreEvent, Subscription as CoreSubscription, Told};
use pyo3::prelude::*;

use crate::enter;

/// The epoch, and the pages that were changed, created, deleted, described anew, became stale or poisoned, were cut off,
/// and whose copies or compiled code are old.
type Event = (u64, [Vec<u64>; 9]);
/// How many were missed, and the first and the last epoch of them.
type Missed = (u64, u64, u64);

fn event(event: &CoreEvent) -> Event {
    let lists = [
        &event.changed,
        &event.created,
        &event.deleted,
        &event.described,
        &event.stale,
        &event.poisoned,
        &event.cut_off,
        &event.gpu_sync,
        &event.compiler,
    ];
    (event.epoch, lists.map(Clone::clone))
}

/// Events of one bus.
#[pyclass(frozen, module = "mmsb._core")]
pub(crate) struct Subscription(pub(crate) CoreSubscription);

#[pymethods]
impl Subscription {
    /// What came next: an event, or how many were missed and their first and last epoch. ("none", ...) says that the
    /// time is over, ("end", ...) that there will be no more.
    fn next(
        &self,
        py: Python<'_>,
        seconds: f64,
    ) -> PyResult<(&'static str, Option<Event>, Option<Missed>)> {
        let timeout = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        Ok(match enter::detached(py, || self.0.next(Some(timeout)))? {
            None => ("none", None, None),
            Some(None) => ("end", None, None),
            Some(Some(Told::Event(told))) => ("event", Some(event(&told)), None),
            Some(Some(Told::Lagged(count, first, last))) => {
                ("lagged", None, Some((count, first, last)))
            }
        })
    }

    /// A descriptor that is readable as long as there is something to take.
    fn signal(&self, py: Python<'_>) -> PyResult<i32> {
        enter::attached(py, || self.0.signal())
    }

    fn close(&self) {
        self.0.close();
    }
}
