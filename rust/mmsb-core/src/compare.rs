//! Where two histories part.
//!
//! Invariants: the epoch that is found is the first of those that both buses have at which their states differ, though they
//! may agree again later; a state is compared by its digest, and taken for equal without that only where it comes of equal
//! operations on an equal state.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::bus::Bus;
use crate::core::Core;
use crate::history::{LogEntry, Store};
use crate::log::{self, SegmentName};
use crate::snapshot::Snapshot;
use crate::{Code, Error, Result};

/// Progress is told after so many epochs.
const STRIDE: u64 = 256;

/// The first epoch whose state differs between two buses; none if all that both have are equal. `progress` is told epochs
/// done and epochs in all.
pub fn part(a: &Bus, b: &Bus, progress: &mut dyn FnMut(u64, u64)) -> Result<Option<u64>> {
    let (first, last) = shared(a, b)?;
    let begin = first.max(common(a.store(), b.store())?.min(last));
    if !same(a, b, begin)? {
        return Ok(Some(begin));
    }
    let (mut x, mut y) = (a.log(begin + 1, last, false)?, b.log(begin + 1, last, false)?);
    // Engines that go along from the first commits that differ on.
    let mut engines: Option<[Arc<Core>; 2]> = None;
    for epoch in begin + 1..=last {
        let next = x.next().transpose()?.zip(y.next().transpose()?);
        let Some((x, y)) = next else {
            let what = format!("a log ended before epoch {epoch}");
            return Err(Error::new(Code::Internal, what));
        };
        for (core, entry) in engines.iter().flatten().zip([&x, &y]) {
            replay(core, entry)?;
        }
        if x.raw() != y.raw() {
            let fork = |bus: &Bus| Core::fork(&bus.snapshot_at(epoch)?.whole()?);
            let [c, d] = match &engines {
                Some(engines) => engines,
                None => engines.insert([fork(a)?, fork(b)?]),
            };
            if Snapshot::brief(c).digest()? != Snapshot::brief(d).digest()? {
                return Ok(Some(epoch));
            }
        }
        if epoch.is_multiple_of(STRIDE) {
            progress(epoch - first, last - first);
        }
    }
    progress(last - first, last - first);
    Ok(None)
}

fn replay(core: &Core, entry: &LogEntry) -> Result<()> {
    core.replay(entry.epoch(), entry.time(), entry.raw()).map_err(|e| match e.code {
        Code::OutOfSpace | Code::Storage => e,
        _ => Error::new(Code::Corruption, format!("epoch {}: {}", entry.epoch(), e.message)),
    })
}

/// The first and the last epoch that both have.
fn shared(a: &Bus, b: &Bus) -> Result<(u64, u64)> {
    let mut first = 0;
    for bus in [a, b] {
        first = first.max(bus.core()?.base_epoch()).max(bus.store().base()?.epoch);
    }
    let last = a.epoch().min(b.epoch());
    if first <= last {
        return Ok((first, last));
    }
    let what = format!("no epoch is in both: one begins at {first}, the other ends at {last}");
    Err(Error::new(Code::EpochNotFound, what))
}

fn same(a: &Bus, b: &Bus, epoch: u64) -> Result<bool> {
    Ok(a.snapshot_at(epoch)?.digest()? == b.snapshot_at(epoch)?.digest()?)
}

/// An epoch up to which two logs are one: copies of a store have the segments in common that were begun before they parted,
/// and the chain value in a segment's header stands for every byte before it.
fn common(a: &Store, b: &Store) -> Result<u64> {
    let names = |store: &Store| log::list(&*store.vfs, &store.dir);
    let (mut x, mut y) = (names(a)?, names(b)?);
    // One may have been pruned.
    let first = x.first().max(y.first()).map_or(0, |name| name.seq);
    [&mut x, &mut y].into_iter().for_each(|names| names.retain(|name| name.seq >= first));
    let alike = x.iter().zip(&y).take_while(|(x, y)| x == y).count();
    let header = |store: &Store, name: SegmentName| {
        let walk = log::open_segment(&*store.vfs, &store.dir, name, None).ok()?;
        Some((walk.header.uuid, walk.header.chain))
    };
    let is_one = |&name: &SegmentName| header(a, name).is_some_and(|h| Some(h) == header(b, name));
    let ones = x[..alike].partition_point(is_one);
    Ok(ones.checked_sub(1).map_or(0, |at| x[at].first_epoch - 1))
}
