//! Which epochs of a store open, and what a pruning makes of that.

use std::collections::BTreeSet;
use std::path::Path;

use mmsb_core::vfs::{OpenKind, Vfs};
use mmsb_core::{Keep, log};

/// All epochs from `base` on, and some before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Opens {
    /// The epoch that the log begins with.
    pub base: u64,
    /// The epochs before it that have a checkpoint.
    pub kept: BTreeSet<u64>,
}

/// The epochs of the checkpoints in a store.
fn checkpoints(vfs: &dyn Vfs, dir: &Path) -> Option<BTreeSet<u64>> {
    let names = vfs.list(&dir.join("checkpoints")).ok()?;
    let epoch = |name: &String| u64::from_str_radix(name.strip_suffix(".ckpt")?, 16).ok();
    Some(names.iter().filter_map(epoch).collect())
}

/// The epoch of the checkpoint that another stands on.
fn base_of(vfs: &dyn Vfs, dir: &Path, epoch: u64) -> Option<u64> {
    let path = dir.join(format!("checkpoints/{epoch:016x}.ckpt"));
    let mut word = [0; 8];
    let read = vfs.open(&path, OpenKind::Read).ok()?.read_at(152, &mut word).ok()?;
    (read == 8).then(|| u64::from_le_bytes(word))
}

impl Opens {
    /// What the files of a sound store say; none if they can't be read now.
    pub fn found(vfs: &dyn Vfs, dir: &Path) -> Option<Opens> {
        let base = log::read_meta(vfs, dir).ok()?.base.epoch;
        let known = checkpoints(vfs, dir)?;
        Some(Opens { base, kept: known.range(..base).copied().collect() })
    }

    /// Whether an epoch opens, if there is one of that number.
    pub fn has(&self, epoch: u64) -> bool {
        epoch >= self.base || self.kept.contains(&epoch)
    }

    /// What a pruning leaves of a store that has these tagged epochs; none if its files can't be read now.
    pub fn after(
        &self,
        keep: &Keep,
        tagged: &BTreeSet<u64>,
        vfs: &dyn Vfs,
        dir: &Path,
    ) -> Option<Opens> {
        let known = checkpoints(vfs, dir)?;
        let base = match keep.log_since.filter(|&since| since > self.base) {
            None => self.base,
            Some(since) => {
                let usable = known.range(self.base.max(1)..=since);
                usable.copied().max().unwrap_or(since)
            }
        };
        let older: BTreeSet<u64> = known.range(..base).copied().collect();
        let mut needed = BTreeSet::new();
        let mut kept: BTreeSet<u64> =
            tagged.range(..base).copied().filter(|&epoch| self.has(epoch)).collect();
        let untagged: BTreeSet<u64> = older.difference(tagged).copied().collect();
        kept.extend(untagged.iter().rev().take(keep.checkpoints.unwrap_or(0) as usize));
        for multiple in keep.every.into_iter().flat_map(|every| (0..base).step_by(every as usize)) {
            kept.extend(untagged.range(..=multiple).next_back());
        }
        if (keep.log_since, keep.checkpoints, keep.every) == (None, None, None) {
            kept.extend(&older);
        }
        // What others stand on; a new checkpoint of a tagged epoch or of the base stands on none.
        for &epoch in known.iter().filter(|&&epoch| epoch >= base || kept.contains(&epoch)) {
            needed.extend(Some(base_of(vfs, dir, epoch)?).filter(|&epoch| epoch > 0));
        }
        kept.extend(older.intersection(&needed));
        Some(Opens { base, kept })
    }
}
