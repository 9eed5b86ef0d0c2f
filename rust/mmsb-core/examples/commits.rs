//! `commits DIR N`: N commits of 64 bytes into a page of 4 KiB of a new store, at durability `os`. What
//! `scripts/assertions` counts the instructions of.

use std::path::Path;

use mmsb_core::{Batch, Bus, Durability, How, NewPage, Options, Result};

fn main() -> Result<()> {
    let given: Vec<String> = std::env::args().collect();
    let [_, dir, count] = &given[..] else { return Ok(()) };
    let options = Options {
        durability: Some(Durability::Os),
        max_memory: Some(64 << 20),
        seed: Some(1),
        ..Options::default()
    };
    let bus = Bus::create(Path::new(dir), &options)?;
    let how = How { wait: true, time: Some(1), ..How::default() };
    let mut batch = Batch::new();
    batch.create(1, &NewPage::bytes(&[4096]));
    bus.commit(&mut batch, None, &how)?;
    for number in 0..count.parse::<u64>().unwrap_or(0) {
        let place = number * 64 % 4096;
        bus.write(1, place, &[number.to_le_bytes(); 8].concat(), &how)?;
    }
    bus.close()
}
