//! Group commit: one of those who wait does the work for all of them.

use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, lock};

/// Those who wait, and whether one of them leads.
#[derive(Debug, Default)]
pub(crate) struct Group {
    leading: Mutex<bool>,
    moved: Condvar,
}

impl Group {
    /// Returns once `done` holds. Whoever finds that nobody leads calls `lead`; the others look again when it has
    /// returned. If it fails and `done` does not hold all the same, its error is the answer of whoever called it.
    pub(crate) fn wait_until<E>(
        &self,
        done: impl Fn() -> bool,
        lead: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        if done() {
            return Ok(());
        }
        let mut leading = lock(&self.leading);
        loop {
            if done() {
                return Ok(());
            }
            if *leading {
                leading = self.moved.wait(leading).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            *leading = true;
            drop(leading);
            let led = lead();
            leading = lock(&self.leading);
            *leading = false;
            self.moved.notify_all();
            if let Err(error) = led
                && !done()
            {
                return Err(error);
            }
        }
    }
}
