//! Checking every byte of the log without changing any.

use std::path::Path;

use super::meta::{read_slot, slot_paths};
use super::reader::{Step, Walk, Window, bad_header, check_header};
use super::segment::{self, RECORDS, SegmentName};
use super::{CheckpointMark, Position, StoreMeta, read_meta};
use crate::error::{Error, Result};
use crate::vfs::Vfs;

/// What a verification read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// Valid records.
    pub records: u64,
    /// Bytes of all segments and meta slots.
    pub bytes: u64,
    /// The checkpoint marks among the records.
    pub marks: Vec<CheckpointMark>,
}

/// Walks all segments and the meta slots. Problems go to `on_problem`; the walk goes on with the next segment.
///
/// `end` is where the log ends for the caller, its host or a reader that stopped there; nothing behind it is looked at,
/// because a host may be appending right now.
pub fn verify(
    vfs: &dyn Vfs,
    dir: &Path,
    end: Option<Position>,
    on_problem: &mut dyn FnMut(Error),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Walked> {
    let mut walked = Walked::default();
    let meta = check_slots(vfs, dir, &mut walked, on_problem);
    let mut names = match segment::list(vfs, dir) {
        Ok(names) => names,
        Err(error) => {
            on_problem(error);
            return Ok(walked);
        }
    };
    names.retain(|name| end.is_none_or(|end| name.seq <= end.seq));
    let mut total = walked.bytes;
    for name in &names {
        let size = Window::open(vfs, &segment::log_dir(dir).join(name.file()))?.size()?;
        total = total.saturating_add(size);
    }
    let mut before: Option<Walk> = None;
    for (index, &name) in names.iter().enumerate() {
        let last = index + 1 == names.len();
        let mut check = Check { name, last, end, meta: meta.as_ref(), before: before.as_ref() };
        let path = segment::log_dir(dir).join(name.file());
        let window = Window::open(vfs, &path)?;
        let size = window.size()?;
        before = match check.segment(window, &mut walked, &mut |done| progress(done, total)) {
            Ok(walk) => Some(walk),
            Err(error) => {
                on_problem(error);
                None
            }
        };
        walked.bytes = walked.bytes.saturating_add(size);
        progress(walked.bytes, total);
    }
    assert!(walked.marks.len() as u64 <= walked.records, "a mark is no record");
    if let (Some(meta), Some(last)) = (&meta, names.last())
        && meta.durable.seq > last.seq
    {
        let path = segment::log_dir(dir);
        on_problem(Error::corruption(
            &path,
            None,
            Some(meta.durable_epoch),
            "the last segment is missing",
        ));
    }
    // A reader that stays at an epoch before the base has no log any more.
    let is_past = |meta: &StoreMeta| end.is_some_and(|end| end.seq < meta.base.seq);
    if names.is_empty() && !meta.as_ref().is_some_and(is_past) {
        on_problem(Error::corruption(
            &segment::log_dir(dir),
            None,
            Some(1),
            "all segments are missing",
        ));
    }
    Ok(walked)
}

fn check_slots(
    vfs: &dyn Vfs,
    dir: &Path,
    walked: &mut Walked,
    on_problem: &mut dyn FnMut(Error),
) -> Option<StoreMeta> {
    let mut whole = 0;
    for path in slot_paths(dir) {
        match read_slot(vfs, &path) {
            Ok(Some(_)) => whole += 1,
            Ok(None) => {
                on_problem(Error::corruption(&path, Some(0), None, "the meta slot is not whole"))
            }
            Err(error) => on_problem(error),
        }
    }
    walked.bytes += whole * super::meta::SLOT_LEN as u64;
    // A slot that is not whole was told above.
    read_meta(vfs, dir)
        .map_err(|error| {
            if whole == 2 {
                on_problem(error)
            }
        })
        .ok()
}

struct Check<'a> {
    name: SegmentName,
    last: bool,
    end: Option<Position>,
    meta: Option<&'a StoreMeta>,
    /// The segment before, if it was good.
    before: Option<&'a Walk>,
}

impl Check<'_> {
    fn segment(
        &mut self,
        mut window: Window,
        walked: &mut Walked,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Walk> {
        let before = self.before.map(|before| before.header.seq + 1);
        assert!(before.is_none_or(|next| next == self.name.seq), "a segment was left out");
        let path = window.path.clone();
        let Some(header) = window.header()? else {
            return Err(bad_header(&path, self.name, "the segment's header is damaged"));
        };
        check_header(&header, &path, self.name, self.meta.map(|meta| meta.uuid))?;
        let mut walk = Walk::new(window, header);
        if self.before.is_some_and(|b| (b.chain, b.epoch) != (walk.chain, walk.epoch)) {
            return Err(bad_header(
                &path,
                self.name,
                "the segment does not continue the one before it",
            ));
        }
        let stop = self.end.filter(|_| self.last).map(|end| end.offset);
        let mut told = 0;
        while stop.is_none_or(|stop| walk.offset < stop) {
            let at = walk.offset;
            match walk.step()? {
                Step::Nothing => break,
                Step::Wrong(what) => return Err(walk.damage(what)),
                Step::Mark { epoch, digest, size } => {
                    walked.records += 1;
                    walked.marks.push(CheckpointMark { epoch, digest, size });
                }
                Step::Commit(_) | Step::Other => walked.records += 1,
            }
            assert!(walk.offset > at, "a walk over records stands still");
            if walk.offset - told >= 1 << 20 {
                told = walk.offset;
                progress(walked.bytes.saturating_add(told));
            }
        }
        match stop {
            Some(stop) if walk.offset != stop => Err(walk.damage("no valid record")),
            Some(_) => Ok(walk),
            None => self.tail(walk),
        }
    }

    /// What is behind the last record: zeros, if anything.
    fn tail(&self, mut walk: Walk) -> Result<Walk> {
        assert!(!self.last || self.end.is_none(), "what a host appends is looked at");
        assert!(walk.offset >= RECORDS, "a segment ends in its header");
        assert!(walk.offset.is_multiple_of(8), "a segment ends inside a record");
        if walk.window.last_nonzero(walk.offset)?.is_some() {
            return Err(walk.damage("no valid record"));
        }
        if !self.last && !walk.sealed {
            return Err(walk.damage("the seal is missing"));
        }
        let here = Position { seq: walk.header.seq, offset: walk.offset };
        if self.last && self.meta.is_some_and(|meta| meta.durable > here) {
            return Err(walk.damage("durable records are missing"));
        }
        Ok(walk)
    }
}
