//! Many cases side by side, each of which may panic.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, mpsc};

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

/// Does something that may panic; what it said is the error, and nothing is printed.
///
/// # Errors
/// What the panic said.
pub fn attempt<T>(case: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                loud(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(case));
    QUIET.set(before);
    done.map_err(|panic| message(&*panic))
}

/// Does `case` for 0 to `count` on so many threads; `collect` gets what they made, in no order.
pub fn side_by_side<T: Send>(
    threads: usize,
    count: usize,
    case: impl Fn(usize) -> T + Sync,
    mut collect: impl FnMut(T),
) {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (send, next, case) = (send.clone(), &next, &case);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count || send.send(case(index)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        receive.into_iter().for_each(&mut collect);
    });
}
