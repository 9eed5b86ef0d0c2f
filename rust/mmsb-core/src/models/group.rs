//! Group commit: whoever waits is woken, and is told of success only when its own was done.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;

use super::holds;
use crate::group::Group;
use crate::sync::{AtomicU64, Mutex, lock};

/// A log of numbers instead of records, and a disk that may fail.
#[derive(Default)]
struct Synced {
    group: Group,
    appended: Mutex<u64>,
    durable: AtomicU64,
    /// The sync that fails, counted from 1, and all after it; 0 is none.
    fails_from: u64,
    /// How many syncs have begun, and whether one failed.
    syncs: Mutex<(u64, bool)>,
}

impl Synced {
    /// Appends, and waits until that is durable.
    fn commit(&self) -> Result<(), ()> {
        let mine = {
            let mut appended = lock(&self.appended);
            *appended += 1;
            *appended
        };
        let done =
            self.group.wait_until(|| self.durable.load(Ordering::Acquire) >= mine, || self.sync());
        match done {
            Ok(()) => assert!(self.durable.load(Ordering::Acquire) >= mine),
            Err(()) => assert!(lock(&self.syncs).1),
        }
        done
    }

    fn sync(&self) -> Result<(), ()> {
        let through = *lock(&self.appended);
        let mut syncs = lock(&self.syncs);
        syncs.0 += 1;
        if self.fails_from != 0 && syncs.0 >= self.fails_from {
            syncs.1 = true;
            return Err(());
        }
        drop(syncs);
        self.durable.fetch_max(through, Ordering::Release);
        Ok(())
    }
}

fn group(fails_from: u64) -> impl Fn() + Sync + Send + 'static {
    move || {
        let synced = Arc::new(Synced { fails_from, ..Synced::default() });
        let others = [0, 1].map(|_| {
            let synced = Arc::clone(&synced);
            thread::spawn(move || synced.commit())
        });
        let mut done = vec![synced.commit()];
        done.extend(others.map(|other| other.join().unwrap()));
        let durable = synced.durable.load(Ordering::Acquire);
        assert_eq!(done.iter().filter(|done| done.is_ok()).count() as u64, durable);
    }
}

#[test]
fn loom_group() {
    holds("group commit", group(0));
    holds("group commit, the first sync fails", group(1));
    holds("group commit, the second sync fails", group(2));
}
