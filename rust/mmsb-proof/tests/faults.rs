//! Failing calls, in short; `make faults` has the full figures.

use mmsb_proof::faults;

#[test]
fn a_failing_disk_ends_the_writer_at_worst() {
    let tally = faults::short(1);
    assert_eq!(tally.report(), 0);
    // Fewer would mean that the harness has gone blind.
    assert!(tally.runs > 5_000 && tally.syncs > 500 && tally.ended > 500, "{tally:?}");
}
