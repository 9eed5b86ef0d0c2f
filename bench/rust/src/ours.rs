//! MMSB's own contestants.

use std::path::Path;
use std::sync::Mutex;

use mmsb_core::{Batch, Bus, Durability, How, NewPage, Options};

use crate::engine::{CHANGE, Change, Commit, Read, initial};
use crate::race::Res;

const HOW: How<'static> =
    How { source: None, meta: None, durability: None, time: None, wait: true };
/// Pages a commit while loading.
const CHUNK: u32 = 1_000;

/// A bus in a directory; page `key` has the id `key + 1`.
pub struct Mmsb {
    pub bus: Bus,
    batch: Mutex<Batch>,
}

impl Mmsb {
    pub fn load(dir: &Path, durability: Durability, count: u32, size: usize) -> Res<Self> {
        let bus =
            Bus::create(dir, &Options { durability: Some(durability), ..Options::default() })?;
        let mut batch = Batch::new();
        let mut value = vec![0; size];
        for first in (0..count).step_by(CHUNK as usize) {
            batch.clear();
            for key in first..count.min(first + CHUNK) {
                initial(key, &mut value);
                create_raw(&mut batch, id(key), size);
                batch.write(id(key), 0, &value);
            }
            bus.commit(&mut batch, None, &HOW)?;
        }
        // So that none starts by itself while others are measured.
        bus.checkpoint()?;
        Ok(Mmsb { bus, batch: Mutex::new(batch) })
    }

    /// One page of `size` bytes that are not zeros, with a checkpoint behind it so that none starts meanwhile.
    pub fn one_large(dir: &Path, size: usize) -> Res<Self> {
        let options = Options { durability: Some(Durability::Os), ..Options::default() };
        let bus = Bus::create(dir, &options)?;
        let mut batch = Batch::new();
        create_raw(&mut batch, 1, size);
        bus.commit(&mut batch, None, &HOW)?;
        let mut part = vec![0; 16 << 20];
        for at in (0..size).step_by(part.len()) {
            initial((at >> 24) as u32, &mut part);
            bus.write(1, at as u64, &part[..(size - at).min(16 << 20)], &HOW)?;
        }
        bus.checkpoint()?;
        Ok(Mmsb { bus, batch: Mutex::new(batch) })
    }

    /// One of the figures that the bus keeps of itself.
    pub fn stat(&self, name: &str) -> Res<u64> {
        let stats = self.bus.stats()?;
        Ok(stats.iter().find(|stat| stat.0 == name).ok_or_else(|| format!("no stat {name}"))?.1)
    }

    /// Eight bytes of the one large page.
    pub fn poke(&self, at: u64, stamp: u64) -> Res<()> {
        self.bus.write(1, at, &stamp.to_le_bytes(), &HOW)?;
        Ok(())
    }
}

fn id(key: u32) -> u64 {
    u64::from(key) + 1
}

/// A page of raw bytes. Its shape is its size.
fn create_raw(batch: &mut Batch, id: u64, size: usize) {
    let nbytes = size as u64;
    let page = NewPage {
        name: None,
        dtype: "",
        itemsize: 1,
        shape: &[nbytes],
        nbytes,
        meta: "",
        location: 0,
    };
    batch.create(id, &page);
}

impl Commit for Mmsb {
    fn commit(&self, changes: &[Change], data: &[u8; CHANGE]) -> Res<()> {
        if let [change] = changes {
            self.bus.write(id(change.key), u64::from(change.offset), data, &HOW)?;
            return Ok(());
        }
        let mut batch = self.batch.lock().map_err(|_| "poisoned")?;
        batch.clear();
        for change in changes {
            batch.write(id(change.key), u64::from(change.offset), data);
        }
        self.bus.commit(&mut batch, None, &HOW)?;
        Ok(())
    }
}

impl Read for Mmsb {
    fn read(&self, key: u32, out: &mut [u8; CHANGE]) -> Res<()> {
        Ok(self.bus.snapshot()?.read(id(key), 0, out)?)
    }
}
