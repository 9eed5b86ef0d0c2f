//! The window: the last epochs of a bus that stay in memory because somebody asked for it.
//!
//! Invariants: a window is an unbroken run of epochs that ends with the newest published one. Its first epoch, the
//! floor, only goes forward. No piece of memory that died after the floor is freed, so every epoch of the window is
//! whole. An epoch of it is pinned under the window's lock, and the reclaimer looks at the floor before it collects the
//! pins: it finds the pin, or a floor that keeps the epoch anyway.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::root::Root;
use crate::{Code, Error, Result};

/// Which of the last epochs stay in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// So many, the newest among them.
    Epochs(u64),
    /// Those that were the newest at some moment of so many nanoseconds up to the newest commit.
    Nanoseconds(u64),
}

/// The roots of the last epochs, oldest first.
#[derive(Debug)]
pub(crate) struct Window {
    retention: Retention,
    roots: VecDeque<Root>,
}

impl Window {
    /// A window with one epoch.
    pub(crate) fn new(retention: Retention, newest: &Root) -> Window {
        Window { retention, roots: VecDeque::from([*newest]) }
    }

    /// Another rule for the epochs to come, and for those that are there.
    pub(crate) fn set(&mut self, retention: Retention) {
        self.retention = retention;
        self.shrink();
    }

    /// Room for so many epochs more, as memory that may be refused.
    pub(crate) fn reserve(&mut self, epochs: usize) -> Result<()> {
        self.roots.try_reserve(epochs).map_err(|_| {
            let newest = self.roots.back().map_or(0, |root| root.epoch);
            let what = format!("no memory to retain epoch {}", newest + epochs as u64);
            Error::new(Code::OutOfSpace, what)
        })
    }

    /// The next epoch was published.
    pub(crate) fn push(&mut self, root: &Root) {
        assert!(self.roots.back().is_none_or(|last| last.epoch + 1 == root.epoch), "a gap");
        self.roots.push_back(*root);
        self.shrink();
    }

    fn shrink(&mut self) {
        let Some(newest) = self.roots.back().map(|root| root.time) else { return };
        let is_over = |roots: &VecDeque<Root>| match self.retention {
            Retention::Epochs(most) => roots.len() as u64 > most,
            Retention::Nanoseconds(span) => {
                roots.get(1).is_some_and(|next| newest.saturating_sub(next.time) >= span)
            }
        };
        while self.roots.len() > 1 && is_over(&self.roots) {
            self.roots.pop_front();
        }
    }

    /// The first epoch.
    pub(crate) fn floor(&self) -> u64 {
        self.roots.front().map_or(0, |root| root.epoch)
    }

    pub(crate) fn oldest(&self) -> Option<&Root> {
        self.roots.front()
    }

    pub(crate) fn get(&self, epoch: u64) -> Option<&Root> {
        self.roots.get(usize::try_from(epoch.checked_sub(self.floor())?).ok()?)
    }

    /// Bytes of memory that it takes itself.
    pub(crate) fn bytes(&self) -> u64 {
        (self.roots.capacity() * size_of::<Root>()) as u64
    }
}
