#![no_main]

use libfuzzer_sys::fuzz_target;
use mmsb_proof::{hostile, peak};

#[global_allocator]
static COUNTING: peak::Counting = peak::Counting;

fuzz_target!(|data: &[u8]| hostile::delta_decode(data));
