//! A few kills; `make kills` makes a thousand.
#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn killed_children_lose_nothing() {
    let status = Command::new(env!("CARGO_BIN_EXE_mmsb-proof"))
        .args(["kills", "--cases", "20", "--seed", "3"])
        .current_dir(std::env::temp_dir())
        .status()
        .unwrap();
    assert!(status.success());
}
