//! What a wave did, for those who asked.

use std::time::{Duration, Instant};

/// What followed from a commit. Pages are in the order in which they were computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// Pages that were computed and are others now; with the nanoseconds it took, where that was asked for.
    pub computed: Vec<(u64, Option<u64>)>,
    /// Pages that were computed and stayed what they were.
    pub cut_off: Vec<(u64, Option<u64>)>,
    /// Pages that became stale.
    pub stale: Vec<u64>,
    /// Pages that became poisoned.
    pub poisoned: Vec<u64>,
    /// Pages whose copies on devices are old.
    pub gpu_sync: Vec<u64>,
    /// Pages for which what was compiled is old.
    pub compiler: Vec<u64>,
}

/// Gathers a report, if one was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reporter {
    pub(crate) report: Option<Box<Followed>>,
    pub(crate) is_timed: bool,
}

impl Reporter {
    /// Asks for a report.
    pub(crate) fn ask(&mut self, is_timed: bool) {
        self.report = Some(Box::default());
        self.is_timed |= is_timed;
    }

    /// Begins anew.
    pub(super) fn begin(&mut self) {
        if let Some(report) = &mut self.report {
            **report = Followed::default();
        }
    }

    pub(super) fn clock(&self) -> Option<Instant> {
        self.is_timed.then(Instant::now)
    }

    #[inline]
    pub(super) fn computed(&mut self, page: u64, changed: bool, took: Option<Duration>) {
        let Some(report) = &mut self.report else { return };
        let took = took.map(|took| took.as_nanos() as u64);
        let list = if changed { &mut report.computed } else { &mut report.cut_off };
        list.push((page, took));
    }

    /// Adds to one of the other lists.
    #[inline]
    pub(super) fn add(&mut self, page: u64, list: impl FnOnce(&mut Followed) -> &mut Vec<u64>) {
        if let Some(report) = &mut self.report {
            list(report).push(page);
        }
    }
}
