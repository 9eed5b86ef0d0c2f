//! Finding an epoch or a time in the log without reading what lies before.

use super::read::Index;
use super::{Indexes, STRIDE};
use crate::Result;
use crate::log::{self, SegmentName, Start, Step};

impl Indexes {
    /// Where a walk that begins with the commit of `since` may begin, if that saves reading.
    pub(crate) fn start(&self, since: u64) -> Result<Option<Start>> {
        let store = &self.store;
        let names = log::list(&*store.vfs, &store.dir)?;
        let behind = names.partition_point(|name| name.first_epoch <= since);
        let Some(&name) = behind.checked_sub(1).and_then(|n| names.get(n)) else { return Ok(None) };
        if since - name.first_epoch < STRIDE {
            return Ok(None);
        }
        let mut walk = log::open_sparse(&*store.vfs, &store.dir, name, None)?;
        let index = Index::open(store, name, &mut walk)?;
        let mark = index.and_then(|index| index.mark_before(since));
        Ok(mark.map(|(offset, epoch)| Start { name, offset, epoch }))
    }

    /// The last of the commits behind the base up to `newest` whose time is not after `time`.
    pub(crate) fn epoch_as_of(&self, time: u64, newest: u64) -> Result<Option<u64>> {
        let store = &self.store;
        let names = log::list(&*store.vfs, &store.dir)?;
        let Some(&first) = names.first() else { return Ok(None) };
        let open = |name| log::open_sparse(&*store.vfs, &store.dir, name, None);
        // A segment begins with the time of the commit before it, if there is one.
        let mut failed = None;
        let begins_by = |name: &SegmentName| {
            name.first_epoch == first.first_epoch
                || open(*name).map_or_else(
                    |error| {
                        failed.get_or_insert(error);
                        false
                    },
                    |walk| walk.header.base_time <= time,
                )
        };
        let behind = names.partition_point(begins_by);
        if let Some(error) = failed {
            return Err(error);
        }
        let name = names[behind.max(1) - 1];
        let mut walk = open(name)?;
        let index = Index::open(store, name, &mut walk)?;
        if let Some((offset, epoch)) = index.and_then(|index| index.mark_as_of(time)) {
            walk.skip_to(offset, epoch)?;
        }
        let mut found = walk.epoch;
        while found < newest {
            match walk.step()? {
                Step::Commit(commit) if commit.time <= time => found = commit.epoch,
                Step::Mark { .. } | Step::Other => {}
                Step::Commit(_) | Step::Nothing => break,
                Step::Wrong(what) => return Err(walk.damage(what)),
            }
        }
        // A mark may lie behind the newest, whose time is not after that of the mark.
        let found = found.min(newest);
        Ok((found > store.base()?.epoch).then_some(found))
    }
}
