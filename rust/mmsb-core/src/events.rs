//! Events: one for each commit, in the order of the epochs, for whoever subscribed.
//!
//! A subscription is registered under the sequencer's lock, where epochs are published too; so it begins with the first
//! epoch published after the call, and misses none. Its queue is bounded: a commit never waits for whoever is slow, and
//! tells it how many events it missed instead.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::arena::Mem;
use crate::catalog::Desc;
use crate::delta::{Batch, Ops};
use crate::fork;
use crate::graph::Marks;
use crate::museum::{Defect, planted};
use crate::propagate::{self, Followed};
use crate::root::Root;
use crate::table::{self, Slot};
use crate::{Code, Error, Result};

/// What a commit did. Lists of pages are sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    /// The epoch that it made.
    pub epoch: u64,
    /// Pages whose bytes changed, derived ones too.
    pub changed: Vec<u64>,
    /// Pages that are new.
    pub created: Vec<u64>,
    /// Pages that went.
    pub deleted: Vec<u64>,
    /// Pages with another name, shape, other metadata or another place in the graph.
    pub described: Vec<u64>,
    /// Pages that became stale.
    pub stale: Vec<u64>,
    /// Pages that became poisoned.
    pub poisoned: Vec<u64>,
    /// Pages that were computed and stayed what they were.
    pub cut_off: Vec<u64>,
    /// Pages whose copies on devices are old.
    pub gpu_sync: Vec<u64>,
    /// Pages for which what was compiled is old.
    pub compiler: Vec<u64>,
}

impl Event {
    /// The event of a commit that made `root` of `base`.
    pub(crate) fn of(
        mem: Mem,
        base: &Root,
        root: &Root,
        batch: &Batch,
        report: &Followed,
    ) -> Event {
        let slot = |root: &Root, id| table::get(mem, root.table, root.height, id);
        let touched: BTreeSet<u64> =
            Ops::new(batch.ops()).flatten().filter_map(|op| op.page()).collect();
        let mut event = Event { epoch: root.epoch, ..Event::default() };
        for id in touched {
            let (was, is) = (slot(base, id), slot(root, id));
            let marks = |slot: Option<Slot>| {
                slot.map_or(Marks::default(), |slot| Desc::at(mem, slot.desc).marks())
            };
            // Of the states and not of the wave: a restore brings marks back and computes nothing.
            let (had, has) = (marks(was), marks(is));
            if has.stale && !had.stale {
                event.stale.push(id);
            }
            if has.poisoned && !had.poisoned {
                event.poisoned.push(id);
            }
            match (was, is) {
                (None, Some(_)) => event.created.push(id),
                (Some(_), None) => event.deleted.push(id),
                (Some(was), Some(is)) => {
                    if is.epoch == root.epoch {
                        event.changed.push(id);
                    }
                    let (was, is) = (Desc::at(mem, was.desc), Desc::at(mem, is.desc));
                    // A new record may say the same: a page may have been renamed there and back.
                    if !was.says_what(&is) || was.node() != is.node() {
                        event.described.push(id);
                    }
                }
                (None, None) => {}
            }
        }
        let sorted = |pages: &mut dyn Iterator<Item = u64>| {
            let pages: BTreeSet<u64> = pages.collect();
            pages.into_iter().collect()
        };
        event.cut_off = sorted(&mut report.cut_off.iter().map(|&(page, _)| page));
        event.gpu_sync = sorted(&mut report.gpu_sync.iter().copied());
        event.compiler = sorted(&mut report.compiler.iter().copied());
        event
    }
}

/// What a subscription gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// What a commit did.
    Event(Arc<Event>),
    /// So many events were missed, those of the epochs from the first to the last of these.
    Lagged(u64, u64, u64),
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Arc<Event>>,
    /// How many were missed, and the epochs of the first and the last of them.
    missed: Option<(u64, u64, u64)>,
    is_closed: bool,
    /// Readable as long as there is something to take.
    signal: Option<OwnedFd>,
}

impl Waiting {
    fn has_any(&self) -> bool {
        !self.events.is_empty() || self.missed.is_some() || self.is_closed
    }

    fn raise(&self) {
        if let Some(signal) = &self.signal {
            // Full means raised.
            let _ = rustix::io::write(signal, &1u64.to_ne_bytes());
        }
    }
}

/// The queue of one subscription.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    moved: Condvar,
    most: usize,
}

impl Queue {
    /// Whether there will be someone for the next one.
    fn deliver(&self, event: &Arc<Event>) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.is_closed {
            return false;
        }
        waiting.events.push_back(Arc::clone(event));
        if waiting.events.len() > self.most
            && !planted(Defect::QueueNotBounded)
            && let Some(lost) = waiting.events.pop_front()
        {
            let (count, first, _) = waiting.missed.unwrap_or((0, lost.epoch, 0));
            waiting.missed = Some((count + 1, first, lost.epoch));
        }
        waiting.raise();
        drop(waiting);
        self.moved.notify_all();
        true
    }

    fn close(&self) {
        let mut waiting = lock(&self.waiting);
        waiting.is_closed = true;
        waiting.raise();
        drop(waiting);
        self.moved.notify_all();
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those who subscribed.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(Vec<Weak<Queue>>);

impl Subscribers {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, most: usize) -> Subscription {
        let waiting = Mutex::new(Waiting::default());
        let queue = Arc::new(Queue { waiting, moved: Condvar::new(), most: most.max(1) });
        self.0.push(Arc::downgrade(&queue));
        Subscription { queue, generation: fork::generation() }
    }

    /// Tells all of them, and forgets those who went.
    pub(crate) fn tell(&mut self, event: &Arc<Event>) {
        self.0.retain(|queue| queue.upgrade().is_some_and(|queue| queue.deliver(event)));
    }

    /// There will be no more events.
    pub(crate) fn close(&mut self) {
        self.0.drain(..).filter_map(|queue| queue.upgrade()).for_each(|queue| queue.close());
    }
}

/// Events of one bus, from the moment it was made on.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
    generation: u64,
}

impl Subscription {
    /// The next event, if it comes before the time is over; `None` without one waits for ever. The outer `None` says
    /// that the time is over, the inner one that there will be no more. Fails in a function that computes a page if it
    /// would wait.
    pub fn next(&self, timeout: Option<Duration>) -> Result<Option<Option<Told>>> {
        fork::check(self.generation)?;
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut waiting = lock(&self.queue.waiting);
        while !waiting.has_any() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            // No commit ends before the function does.
            propagate::check_reentrancy()?;
            waiting = match left {
                None => self.queue.moved.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.queue.moved.wait_timeout(waiting, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        let told = match waiting.missed.take() {
            Some((count, first, last)) => Some(Told::Lagged(count, first, last)),
            None => waiting.events.pop_front().map(Told::Event),
        };
        if !waiting.has_any()
            && let Some(signal) = &waiting.signal
        {
            let _ = rustix::io::read(signal, &mut [0; 8]);
        }
        Ok(Some(told))
    }

    /// A descriptor that is readable as long as there is something to take, for event loops. It is the subscription's.
    pub fn signal(&self) -> Result<RawFd> {
        use rustix::event::{EventfdFlags, eventfd};
        fork::check(self.generation)?;
        let mut waiting = lock(&self.queue.waiting);
        if let Some(signal) = &waiting.signal {
            return Ok(signal.as_raw_fd());
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let signal = eventfd(0, flags).map_err(|e| {
            Error::new(Code::Storage, format!("no descriptor for a subscription: {e}"))
        })?;
        let number = signal.as_raw_fd();
        waiting.signal = Some(signal);
        if waiting.has_any() {
            waiting.raise();
        }
        Ok(number)
    }

    /// Ends it. What is in the queue can be taken still. In a forked child it does nothing: the descriptor is the
    /// parent's too, and a thread that is not there may hold the lock.
    pub fn close(&self) {
        if fork::check(self.generation).is_ok() {
            self.queue.close();
        }
    }
}
