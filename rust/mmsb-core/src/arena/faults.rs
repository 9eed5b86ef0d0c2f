//! A hook of the tests: the n-th request for memory of this thread fails, once or from then on.
//!
//! It is asked wherever the engine takes memory in a way that may fail: pieces of an arena, mappings, view counts,
//! and the log in memory.

use std::cell::Cell;

thread_local! {
    /// Requests until the one that fails, and whether all after it fail too.
    static ARMED: Cell<Option<(u64, bool)>> = const { Cell::new(None) };
    static HIT: Cell<bool> = const { Cell::new(false) };
}

/// The `n`-th request from now on fails, counted from 1.
pub(crate) fn arm(n: u64, for_good: bool) {
    ARMED.set(Some((n, for_good)));
    HIT.set(false);
}

/// All requests are granted again. Whether one was refused.
pub(crate) fn disarm() -> bool {
    ARMED.set(None);
    HIT.get()
}

/// Whether this request is to fail.
pub(crate) fn hit() -> bool {
    let Some((left, for_good)) = ARMED.get() else { return false };
    let hit = left <= 1;
    ARMED.set((!hit || for_good).then_some((left.saturating_sub(1), for_good)));
    HIT.set(HIT.get() || hit);
    hit
}
