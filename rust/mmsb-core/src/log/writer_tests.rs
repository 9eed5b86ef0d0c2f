//! What the writer says of the sync that runs behind the commits, where it ends badly.

use super::super::double::Double;
use super::super::tests::{DIR, append, commit, options, ram, try_open};
use super::*;

/// A sync behind the commits that failed, or whose thread did, is told by whoever waits for it, and nothing is written
/// or synced as if it had been done.
#[test]
fn a_sync_behind_the_commits_that_ends_badly() {
    let failed = || Err(Error::storage(Path::new("x"), &std::io::Error::from_raw_os_error(5), ""));
    for (code, panics) in [(Code::Storage, false), (Code::Internal, true)] {
        let work = move || if panics { panic!("a test's panic") } else { failed() };
        let double = Double::new(ram());
        let mut log =
            Log::create(double.vfs(), Path::new(DIR), options(segment::RECORDS + 192)).unwrap();
        append(&mut log, &commit(1, 80)).unwrap();
        double.calls();
        log.background = Some((1, std::thread::spawn(work)));
        assert_eq!(log.close().unwrap_err().code, code);
        assert_eq!(double.changes(), [""; 0]);
        // A segment that is begun waits for it too.
        log.background = Some((1, std::thread::spawn(work)));
        assert_eq!(append(&mut log, &commit(2, 80)).unwrap_err().code, code);
        assert!(double.changes().iter().all(|call| !call.starts_with("create")));
        assert_eq!(log.durable_epoch(), 0);
        drop(log);
        assert_eq!(try_open(&double.vfs(), Path::new(DIR), 0).unwrap().2, [commit(1, 80)]);
    }
}
