//! Some histories in all ways; `make determinism` takes ten thousand. And the digests that are pinned.
#![allow(clippy::unwrap_used)]

use mmsb_proof::determinism::golden;

/// Made by `make golden-digests`.
const GOLDEN: &str = include_str!("../golden-digests.txt");

/// Digests of today are those of yesterday.
#[test]
fn the_golden_digests_hold() {
    let lines: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(lines.len(), 200);
    for (got, want) in golden(lines.len() as u64).lines().zip(&lines) {
        let asked = |line: &str| line.split(' ').nth(1).unwrap().to_string();
        assert_eq!(
            asked(got),
            asked(want),
            "the histories are others now: if the alphabet was changed on purpose, `make golden-digests`"
        );
        assert_eq!(
            got, *want,
            "the same acts make other digests: those that stores hold are not these"
        );
    }
}

#[test]
fn every_way_makes_the_same() {
    let status = std::process::Command::new(env!("CARGO_BIN_EXE_mmsb-proof"))
        .args(["determinism", "--cases", "40", "--seed", "2"])
        .current_dir(std::env::temp_dir())
        .status()
        .unwrap();
    assert!(status.success());
}
