//! Locks, condition variables and the words that threads and processes share: those of the standard library, or those
//! of a model checker (`cfg(loom)`, `cfg(shuttle)`) that runs the same engine in every order.
//!
//! Words of the arena, pin slots and view counts stand at fixed addresses of shared memory, where a checker's atomics
//! cannot. So an access goes by [`shared`], which is the word itself, or under a checker what stands for it there;
//! and plain accesses to the arena are announced by [`reads`] and [`writes`], so that loom can tell a race.

#[cfg(loom)]
mod modelled;

#[cfg(not(any(loom, shuttle)))]
mod standard {
    pub(crate) use std::sync::atomic::{AtomicU64, fence};
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread::yield_now;

    /// A word that is shared while it changes.
    pub(crate) type Shared<'a, A> = &'a A;

    #[inline(always)]
    pub(crate) fn shared<A>(word: &A) -> Shared<'_, A> {
        word
    }

    #[inline(always)]
    pub(crate) fn reads(_at: *const u8, _len: u64) {}

    #[inline(always)]
    pub(crate) fn writes(_at: *const u8, _len: u64) {}
}

#[cfg(shuttle)]
mod randomised {
    pub(crate) use shuttle::sync::atomic::{AtomicU64, fence};
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use shuttle::thread::yield_now;

    pub(crate) type Shared<'a, A> = &'a A;

    /// The word itself, but before the access another thread may run.
    pub(crate) fn shared<A>(word: &A) -> Shared<'_, A> {
        AtomicU64::new(0).load(std::sync::atomic::Ordering::SeqCst);
        word
    }

    pub(crate) fn reads(_at: *const u8, _len: u64) {}

    pub(crate) fn writes(_at: *const u8, _len: u64) {}
}

#[cfg(loom)]
pub(crate) use modelled::*;
#[cfg(shuttle)]
pub(crate) use randomised::*;
#[cfg(not(any(loom, shuttle)))]
pub(crate) use standard::*;

/// A word of the arena or a pin slot.
pub(crate) type Word<'a> = Shared<'a, std::sync::atomic::AtomicU64>;

/// Locks, also after a thread has panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
