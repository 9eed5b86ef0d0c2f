//! Every input that a fuzzer or a person found worth keeping, held to the law again.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use mmsb_proof::hostile::TARGETS;
use mmsb_proof::peak;

#[global_allocator]
static COUNTING: peak::Counting = peak::Counting;

#[test]
fn corpora() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let (mut files, mut bytes) = (0, 0);
    for (name, target) in TARGETS {
        let mut inputs: Vec<_> =
            fs::read_dir(root.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "no corpus for {name}");
        for input in inputs {
            let data = fs::read(&input).unwrap();
            (files, bytes) = (files + 1, bytes + data.len());
            target(&data);
        }
    }
    assert!(files <= 100 && bytes <= 200 << 10, "{files} files of {bytes} bytes are too many");
}
