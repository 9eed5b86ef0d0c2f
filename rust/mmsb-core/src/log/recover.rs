//! Opening a store: read the log, and decide what it means where it ends or breaks.
//!
//! Invariants: what is read was synced first; the log is never silently shortened: bytes that are cut go to
//! `quarantine/` and are reported; where anything proves that the bytes had been durable, the answer is `Corruption`
//! and no file is touched. After an unclean end the writer goes on in a new segment.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::meta::{MetaSlots, read_meta};
use super::reader::Commit;
use super::repair::Repair;
use super::scan::Scan;
use super::segment;
use super::writer::Log;
use super::{LogOptions, Position};
use crate::error::{Error, Result};
use crate::museum::{Defect, planted};
use crate::vfs::{StoreLock, Vfs};

/// Who opens.
#[derive(Debug)]
pub enum OpenMode {
    /// The host; it holds the store's lock and may repair an unclean end.
    Writer(Box<dyn StoreLock>),
    /// Anybody; writes nothing and stops at the first incomplete record.
    Reader {
        /// Show nothing past the durable position in the meta slots.
        durable_only: bool,
    },
}

/// What the log says about a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointMark {
    /// Epoch of the checkpoint.
    pub epoch: u64,
    /// Digest of that epoch.
    pub digest: u128,
    /// Size of the checkpoint's file.
    pub size: u64,
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRecovery {
    /// Commits that were handed out.
    pub records: u64,
    /// Bytes at the end that no commit could be read from.
    pub torn_bytes: u64,
    /// Where they were put.
    pub quarantined: Vec<PathBuf>,
    /// The last epoch of the log.
    pub last_epoch: u64,
    /// Its time.
    pub last_time: u64,
    /// Where the last record that was read ends.
    pub end: Position,
    /// Checkpoint marks in the part that was read.
    pub marks: Vec<CheckpointMark>,
}

/// Which segment has the first place that cannot be read. Only the last two may be unsynced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Earlier,
    Previous,
    Last,
}

/// What is at that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Nothing: the log ends here with zeros or the end of the file.
    None,
    /// Bytes that are no valid record, or a segment that ends without a seal though another follows.
    Bytes,
    /// A valid record or header that cannot be the next one.
    Link,
}

/// All that the verdict depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Evidence {
    pub(crate) place: Place,
    pub(crate) damage: Damage,
    /// A later record, seals included, says that this place was durable when it was written.
    pub(crate) promised_by_record: bool,
    /// A later segment's header says so.
    pub(crate) promised_by_header: bool,
    /// A meta slot says so.
    pub(crate) promised_by_meta: bool,
    /// A checkpoint holds epochs from here on; the log was synced before it was made.
    pub(crate) promised_by_checkpoint: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Clean,
    Torn,
    Corrupt,
}

pub(crate) fn verdict(e: Evidence) -> Verdict {
    let promised = e.promised_by_record
        || e.promised_by_header
        || e.promised_by_meta
        || e.promised_by_checkpoint;
    match (e.place, e.damage) {
        _ if promised && !planted(Defect::PromiseIgnored) => Verdict::Corrupt,
        (_, Damage::Link) => Verdict::Corrupt,
        (Place::Earlier, _) => Verdict::Corrupt,
        (_, Damage::Bytes) if planted(Defect::TornTailRefused) => Verdict::Corrupt,
        (Place::Previous | Place::Last, Damage::Bytes) => Verdict::Torn,
        (Place::Last, Damage::None) => Verdict::Clean,
        // The caller names an end before another segment `Bytes`.
        (Place::Previous, Damage::None) => Verdict::Corrupt,
    }
}

/// Opens the log of the store in `dir`: commits after `from_epoch` go to `on` in order.
pub fn open(
    vfs: Arc<dyn Vfs>,
    dir: &Path,
    opts: LogOptions,
    from_epoch: u64,
    mode: OpenMode,
    on: &mut dyn FnMut(Commit<'_>) -> Result<()>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Option<Log>, LogRecovery)> {
    let meta = read_meta(&*vfs, dir)?;
    // By the slot that was read: another process may move the base meanwhile.
    let (names, leftover) = segment::list_both(&*vfs, dir, meta.base.seq)?;
    if names.is_empty() {
        let log = segment::log_dir(dir);
        return Err(Error::corruption(&log, None, Some(1), "all segments are missing"));
    }
    let mut scan = Scan::new(&*vfs, dir, &meta, names, from_epoch, opts.promised, &mode);
    let end = scan.run(on, progress)?;
    let (mut found, names, proven) = (scan.found, scan.names, scan.proven);
    // Nothing that anything proves to be durable may be cut or left out, whatever the verdict at its end was.
    if proven > found.end && !planted(Defect::PromiseIgnored) {
        return Err(end.walk.damage("durable records are missing"));
    }
    let stands = Position { seq: end.walk.header.seq, offset: end.walk.offset };
    assert_eq!(found.end, stands, "the log ends elsewhere than the reading of it");
    assert_eq!(found.last_epoch, end.walk.epoch, "the log ends with another commit");
    let behind = found.last_epoch.saturating_sub(from_epoch);
    assert_eq!(found.records, behind, "a commit was left out or read twice");
    let OpenMode::Writer(lock) = mode else { return Ok((None, found)) };
    // Tools that copy stores may leave empty directories out. A killed host may have made them and not synced that.
    segment::make_dirs(&*vfs, dir)?;
    vfs.sync_dir(dir).map_err(|e| Error::storage(dir, &e, "sync"))?;
    let mut slots = MetaSlots::open(&*vfs, dir, meta.clone())?;
    slots.repair(&*vfs)?;
    let repair = Repair { vfs: &*vfs, dir, names: &names, proven, found: &mut found };
    let state = repair.run(end)?;
    assert!(state.end >= found.end, "a repair made the log shorter");
    assert_eq!(state.end.seq, found.end.seq, "a repair ends the log in another segment");
    assert_eq!(state.time, found.last_time, "a repair changed the last time");
    assert_eq!(state.epoch, found.last_epoch, "a repair changed the last epoch");
    if meta.durable != state.end {
        slots.write(state.end, state.epoch)?;
        slots.sync()?;
    }
    if !leftover.is_empty() || !slots.agree(&*vfs)? {
        slots.rebase(meta.base)?;
        segment::remove(&*vfs, dir, &leftover)?;
    }
    assert_eq!(slots.now.durable, state.end, "a slot tells of another position");
    Ok((Some(Log::resume(vfs, dir, opts, lock, slots, state)?), found))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every combination of evidence, against the rules in words: proof of durability or a broken link is corruption,
    /// only the last two segments may be torn, an end without damage is clean.
    #[test]
    fn verdict_is_complete() {
        let flags = [false, true];
        let mut seen = 0;
        for place in [Place::Earlier, Place::Previous, Place::Last] {
            for damage in [Damage::None, Damage::Bytes, Damage::Link] {
                for bits in 0..16 {
                    let on = |bit: u32| flags[(bits >> bit & 1) as usize];
                    let got = verdict(Evidence {
                        place,
                        damage,
                        promised_by_record: on(0),
                        promised_by_header: on(1),
                        promised_by_meta: on(2),
                        promised_by_checkpoint: on(3),
                    });
                    let expected = if bits != 0 || damage == Damage::Link || place == Place::Earlier
                    {
                        Verdict::Corrupt
                    } else if damage == Damage::Bytes {
                        Verdict::Torn
                    } else if place == Place::Last {
                        Verdict::Clean
                    } else {
                        Verdict::Corrupt
                    };
                    assert_eq!(got, expected, "{place:?} {damage:?} {bits:04b}");
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 144);
        // The rows of the table in FORMAT.md, literally.
        let torn = Evidence {
            place: Place::Last,
            damage: Damage::Bytes,
            promised_by_record: false,
            promised_by_header: false,
            promised_by_meta: false,
            promised_by_checkpoint: false,
        };
        assert_eq!(verdict(torn), Verdict::Torn);
        assert_eq!(verdict(Evidence { place: Place::Previous, ..torn }), Verdict::Torn);
        assert_eq!(verdict(Evidence { place: Place::Earlier, ..torn }), Verdict::Corrupt);
        assert_eq!(verdict(Evidence { promised_by_meta: true, ..torn }), Verdict::Corrupt);
        assert_eq!(verdict(Evidence { damage: Damage::None, ..torn }), Verdict::Clean);
    }
}
