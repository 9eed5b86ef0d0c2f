//! Crashes at every call, in short; `make crash` has the full figures.

use mmsb_proof::crash;

#[test]
fn what_a_crash_leaves_is_what_was_promised() {
    let out = crash::short(1);
    assert_eq!(out.report(), 0);
    // Fewer would mean that the harness has gone blind.
    assert!(out.workloads.images() > 5_000, "{}", out.workloads.images());
    assert!(out.recoveries.images() > 100, "{}", out.recoveries.images());
}
