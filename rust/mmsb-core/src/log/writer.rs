//! Appending: one record a commit, segments that seal and roll, and what a sync has to reach.
//!
//! Invariants: `append` is called in the order of epochs by one writer at a time; a failed write or sync is final; at
//! most the last two segments may be unsynced; dropping a `Log` does no I/O, so a forked child may drop it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::active::{Active, Entry};
use super::birth;
use super::mapped::Helper;
use super::meta::{LogBase, MetaSlots, Parent, StoreMeta};
use super::record::{self, HEADROOM, SEAL_ROOM, padded};
use super::segment::{self, Gate, MAX_EPOCH, RECORDS, Segment, SegmentHeader, SegmentName};
use super::{LogOptions, Position};
use crate::error::{Code, Error, Result};
use crate::hash::h64;
use crate::trace;
use crate::vfs::{StoreLock, Vfs};

/// The writer of a store's log.
#[derive(Debug)]
pub struct Log {
    vfs: Arc<dyn Vfs>,
    dir: PathBuf,
    opts: LogOptions,
    /// Held as long as the log is.
    _lock: Box<dyn StoreLock>,
    meta: MetaSlots,
    /// None until the first append after opening: an opening alone leaves no file behind.
    active: Option<Active>,
    /// Sealed segments that no sync has been seen to reach.
    behind: Vec<Arc<Segment>>,
    /// The sync that runs behind the commits, and the segment before which it covers all.
    background: Option<(u64, JoinHandle<Result<()>>)>,
    helper: Option<Helper>,
    gate: Arc<Gate>,
    state: LogState,
    durable: Position,
    durable_epoch: u64,
    /// A write failed: what is in the file is not known.
    broken: bool,
}

/// Where a log ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogState {
    pub(crate) next_seq: u64,
    pub(crate) epoch: u64,
    pub(crate) time: u64,
    pub(crate) chain: u64,
    /// Where the last segment ends.
    pub(crate) end: Position,
    /// Bytes of all segments but the active one.
    pub(crate) sealed_bytes: u64,
}

impl LogState {
    /// Notes where the last record ends, and the chain value after it.
    #[inline]
    fn grow(&mut self, end: Position, chain: u64) {
        assert_eq!(self.end.seq, end.seq, "the log ends in another segment");
        assert_eq!(self.end.seq + 1, self.next_seq, "a record outside of the newest segment");
        assert!(self.end.offset < end.offset, "a record without bytes");
        self.end = end;
        self.chain = chain;
    }
}

/// What a sync has to reach; made under the commit lock, used without it.
#[derive(Debug)]
pub struct SyncPoint {
    gate: Arc<Gate>,
    segments: Vec<Arc<Segment>>,
    end: Position,
    epoch: u64,
}

impl SyncPoint {
    /// The last epoch that this sync makes durable.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Syncs. A failure is final for the writer: every later sync of this log repeats it without asking the system.
    pub fn sync(&self) -> Result<()> {
        let last = self.segments.last().map(|segment| segment.seq);
        assert!(last.is_none_or(|seq| seq == self.end.seq), "a sync misses the log's end");
        self.gate.sync(&self.segments, None)
    }
}

impl Log {
    /// Makes a store with an empty log, durable when this returns.
    pub fn create(vfs: Arc<dyn Vfs>, dir: &Path, opts: LogOptions) -> Result<Log> {
        Log::create_with(vfs, dir, opts, None, &mut |_| Ok(()))
    }

    /// The same for a fork: `fill` is given the store's number and makes the state durable that the log begins with.
    /// If it fails there is no store.
    pub(crate) fn fork(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        opts: LogOptions,
        parent: Parent,
        fill: &mut dyn FnMut([u8; 16]) -> Result<()>,
    ) -> Result<Log> {
        Log::create_with(vfs, dir, opts, Some(parent), fill)
    }

    fn create_with(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        opts: LogOptions,
        parent: Option<Parent>,
        fill: &mut dyn FnMut([u8; 16]) -> Result<()>,
    ) -> Result<Log> {
        if opts.base_epoch >= MAX_EPOCH {
            let what =
                format!("base_epoch = {}; at most {} (2**62 - 1)", opts.base_epoch, MAX_EPOCH - 1);
            return Err(Error::new(Code::Argument, what));
        }
        let lock = birth::claim(&*vfs, dir)?;
        let meta = StoreMeta {
            uuid: random(&opts, "uuid", 0),
            durability: opts.durability,
            generation: 0,
            durable: Position::default(),
            durable_epoch: 0,
            base: LogBase { seq: 0, epoch: opts.base_epoch },
            parent,
        };
        // The state of a fork is there before its log: without the mark it would be taken for another store's.
        if parent.is_some() {
            birth::set_mark(&*vfs, dir)?;
        }
        let mut log = Log::begin(vfs, dir, opts, lock, meta, fill)?;
        log.write_meta()?;
        assert_eq!(log.meta.now.durable, log.state.end, "a slot tells of another position");
        log.meta.sync()?;
        birth::remove_mark(&*log.vfs, dir)?;
        Ok(log)
    }

    /// A durable, empty log in a directory that was claimed, behind the state that `fill` makes. Where there is a mark it
    /// is no store until a slot was written, and if this fails none comes of it.
    pub(crate) fn begin(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        opts: LogOptions,
        lock: Box<dyn StoreLock>,
        meta: StoreMeta,
        fill: &mut dyn FnMut([u8; 16]) -> Result<()>,
    ) -> Result<Log> {
        let meta = MetaSlots::create(&*vfs, dir, meta)?;
        birth::sync_place(&*vfs, dir)?;
        // What can't be removed now is removed by the next creation; where there is no mark nothing is.
        let give_up = |vfs: &dyn Vfs| _ = birth::remove_copy(vfs, dir);
        fill(meta.now.uuid).inspect_err(|_| give_up(&*vfs))?;
        let state = LogState {
            next_seq: 0,
            epoch: opts.base_epoch,
            time: first_time(&opts),
            chain: 0,
            end: Position::default(),
            sealed_bytes: 0,
        };
        let mut log = Log::resume(vfs, dir, opts, lock, meta, state)?;
        log.name_first().inspect_err(|_| give_up(&*log.vfs))?;
        Ok(log)
    }

    /// Makes the first segment, durable under its name.
    fn name_first(&mut self) -> Result<()> {
        self.start_segment()?;
        assert_eq!(self.state.end, Position { seq: 0, offset: RECORDS }, "a new log is not empty");
        assert!(self.behind.is_empty(), "a new log has a sealed segment");
        let point = self.sync_point();
        point.sync()?;
        self.synced(&point);
        assert_eq!(self.durable, self.state.end, "a new log is not durable");
        assert_eq!(self.durable_epoch, self.opts.base_epoch, "a new log has commits");
        let name = SegmentName { seq: 0, first_epoch: self.state.epoch + 1 };
        birth::announce(&*self.vfs, &self.dir, name, &self.gate)
    }

    /// A writer that goes on where everything before `state.end` is durable.
    pub(crate) fn resume(
        vfs: Arc<dyn Vfs>,
        dir: &Path,
        opts: LogOptions,
        lock: Box<dyn StoreLock>,
        meta: MetaSlots,
        state: LogState,
    ) -> Result<Log> {
        assert!(meta.now.durable <= state.end, "what is durable is not in the log");
        assert!(state.end.offset.is_multiple_of(8), "the log ends inside a record");
        assert!(state.end.offset <= state.sealed_bytes, "the last segment is not counted");
        let gate = Arc::new(Gate::open(&*vfs, dir)?);
        let log = Log {
            vfs,
            dir: dir.to_path_buf(),
            opts,
            _lock: lock,
            meta,
            active: None,
            behind: Vec::new(),
            background: None,
            helper: None,
            gate,
            durable: state.end,
            durable_epoch: state.epoch,
            state,
            broken: false,
        };
        log.check();
        Ok(log)
    }

    /// What holds between two calls, also after one that failed.
    fn check(&self) {
        let (LogState { next_seq, epoch, end, .. }, durable) = (self.state, self.durable);
        assert!(durable <= end, "more is durable than was written");
        assert!(durable.offset.is_multiple_of(8), "a sync ended inside a record");
        assert!(self.durable_epoch <= epoch, "a commit to come is durable");
        assert!(self.meta.now.durable <= durable, "a slot tells of more than is durable");
        assert!(end.offset.is_multiple_of(8), "the log ends inside a record");
        assert!(next_seq == 0 || next_seq == end.seq + 1, "the next segment leaves a gap");
        assert!(next_seq == 0 || end.offset >= RECORDS, "the log ends in a header");
        let open = self.active.as_ref().map(Active::position);
        assert!(open.is_none_or(|open| open == end), "the log ends elsewhere than its segment");
        assert!(self.behind.len() <= 2, "more than the last two segments are behind");
        let sealed = self.behind.last().map(|last| last.seq + u64::from(open.is_some()));
        assert!(sealed.is_none_or(|seq| seq == end.seq), "the last sealed segment is not behind");
        let syncing = self.background.as_ref().map(|&(before, _)| before);
        assert!(syncing.is_none_or(|before| before <= end.seq), "a sync runs ahead of the log");
    }

    /// Appends a commit. `buf` is [`HEADROOM`] spare bytes, then source and metadata as `flags` says (each through
    /// [`put_text`](super::put_text)), then the operations; its length is the same afterwards.
    ///
    /// After an error the commit may or may not be in the log, unless [`Log::usable`] still holds: then it is not, and
    /// the log goes on.
    pub fn append(&mut self, epoch: u64, time: u64, flags: u8, buf: &mut Vec<u8>) -> Result<()> {
        if self.state.epoch.checked_add(1) != Some(epoch) || buf.len() < HEADROOM {
            let what = format!("commit {epoch} appended after {}", self.state.epoch);
            return Err(Error::new(Code::Internal, what));
        }
        record::check_length(buf.len())?;
        self.usable()?;
        assert!(self.durable_epoch < epoch, "a commit is durable before it is written");
        self.put(record::COMMIT, flags, epoch, Some(time), buf)?;
        self.state.epoch = epoch;
        self.state.time = time;
        Ok(())
    }

    /// Notes that a checkpoint of `epoch` with this digest and file size is complete.
    pub fn append_mark(&mut self, epoch: u64, digest: u128, size: u64) -> Result<()> {
        self.usable()?;
        let (begin, mut buf) = (self.state.end, vec![0u8; HEADROOM]);
        buf.extend_from_slice(&epoch.to_le_bytes());
        buf.extend_from_slice(&digest.to_le_bytes());
        buf.extend_from_slice(&size.to_le_bytes());
        let len = buf.len();
        self.put(record::MARK, 0, self.state.epoch, None, &mut buf)?;
        assert_eq!(buf.len(), len, "a record was given back longer or shorter");
        assert!(self.state.end > begin, "a mark was put nowhere");
        self.check();
        Ok(())
    }

    /// Writes the record in `buf` behind the last one, in this segment or in a new one.
    fn put(
        &mut self,
        kind: u8,
        flags: u8,
        epoch: u64,
        time: Option<u64>,
        buf: &mut Vec<u8>,
    ) -> Result<()> {
        if self.state.epoch >= MAX_EPOCH {
            return Err(self.too_far());
        }
        let need = padded(buf.len() as u64);
        if self.active.as_ref().is_some_and(|active| !active.fits(need)) {
            self.seal()?;
        }
        let entry =
            Entry { kind, flags, epoch, time, chain: self.state.chain, synced: self.durable };
        let active = match &mut self.active {
            Some(active) => active,
            None => self.start_segment()?,
        };
        active.reserve(need)?;
        let done = active.put(&entry, buf);
        let end = active.position();
        self.broken |= done.is_err();
        self.state.grow(end, done?);
        assert!(self.durable < end, "a record is durable before its sync");
        Ok(())
    }

    /// Only a forged log gets to an epoch behind which no segment can begin.
    #[cold]
    fn too_far(&self) -> Error {
        let (log, epoch) = (segment::log_dir(&self.dir), self.state.epoch);
        let what = "no log gets to this epoch; nothing can follow it";
        Error::corruption(&log, None, Some(epoch), what)
    }

    /// The number of the newest segment, and how long one must be that is worth an index.
    pub(crate) fn segments(&self) -> (u64, u64) {
        (self.state.end.seq, self.opts.segment_bytes / 64)
    }

    /// Whether its files are the operating system's.
    pub(crate) fn is_real(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.segment.file.raw_fd().is_some())
    }

    /// Fails once a write or sync has failed.
    #[inline]
    pub fn usable(&self) -> Result<()> {
        if self.broken {
            let what = format!("the log of {} failed; open it again", self.dir.display());
            return Err(Error::new(Code::Storage, what));
        }
        self.gate.check()
    }

    /// Seals the active segment and cuts what was reserved behind it.
    fn seal(&mut self) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        assert_eq!(active.position(), self.state.end, "the log ends elsewhere than its segment");
        assert!(!self.broken, "a segment is sealed after a write that failed");
        let (begin, epoch, chain) = (active.end, self.state.epoch, self.state.chain);
        let commits = epoch + 1 - active.first_epoch;
        assert_eq!(active.commits, commits, "a seal would count other commits");
        let mut buf = vec![0u8; HEADROOM];
        buf.extend_from_slice(&active.commits.to_le_bytes());
        buf.extend_from_slice(&epoch.to_le_bytes());
        let (kind, synced) = (record::SEAL, self.durable);
        let entry = Entry { kind, flags: 0, epoch, time: None, chain, synced };
        let done = active.put(&entry, &mut buf);
        self.broken |= done.is_err();
        self.state.grow(active.position(), done?);
        assert!(active.end - begin <= SEAL_ROOM, "a seal takes more than the room kept for it");
        self.state.sealed_bytes += active.end;
        let cut = active.finish();
        self.broken |= cut.is_err();
        let before = self.behind.last().map(|segment| segment.seq + 1);
        assert!(before.is_none_or(|next| next == active.segment.seq), "a segment was not sealed");
        self.behind.push(active.segment.clone());
        self.active = None;
        self.check();
        cut
    }

    /// Opens the next segment. The one before the last must be durable by then, its name too: recovery relies on it.
    fn start_segment(&mut self) -> Result<&mut Active> {
        self.settle()?;
        self.check();
        assert!(!self.broken, "a segment is begun after a write that failed");
        assert!(self.active.is_none(), "a segment is begun while another is open");
        assert!(self.behind.len() <= 1, "more than the last two segments are unsynced");
        assert!(self.state.epoch < MAX_EPOCH, "a segment is begun past the last epoch");
        let name = SegmentName { seq: self.state.next_seq, first_epoch: self.state.epoch + 1 };
        let header = SegmentHeader {
            uuid: self.meta.now.uuid,
            salt: random(&self.opts, "salt", name.seq),
            seq: name.seq,
            first_epoch: name.first_epoch,
            base_time: self.state.time,
            chain: self.state.chain,
            durable: self.durable,
            block_size: self.opts.block_size,
        };
        let path = segment::log_dir(&self.dir).join(name.file());
        let made = if name.seq == 0 { birth::unnamed(&self.dir) } else { path.clone() };
        let limit = self.opts.segment_bytes;
        let made = Active::create(&*self.vfs, &made, &path, &header, limit);
        let mut active = made.map_err(|(error, nothing_left)| {
            self.broken |= !nothing_left;
            error
        })?;
        let real = active.segment.file.raw_fd().is_some();
        if self.opts.mapped && real && self.helper.is_none() {
            self.helper = Helper::start().ok();
        }
        // On a real disk only the helper maps: it is slow.
        if self.opts.mapped && (self.helper.is_some() || !real) {
            active.map(self.helper.as_ref());
        }
        self.state.next_seq += 1;
        self.state.end = Position { seq: name.seq, offset: RECORDS };
        if name.seq > 0 {
            trace::log_roll(&path, name.first_epoch);
        }
        assert_eq!(active.position(), self.state.end, "a segment begins with a record");
        let begun = self.sync_behind(active.segment.clone());
        let active = self.active.insert(active);
        begun.map(|()| active)
    }

    /// Starts to sync the sealed segments and the new one's name, without holding up the commit where there is a real
    /// disk. A later segment must not survive a power loss that takes this one's name.
    fn sync_behind(&mut self, newest: Arc<Segment>) -> Result<()> {
        let (gate, segments) = (self.gate.clone(), self.behind.clone());
        let (before, real) = (newest.seq, newest.file.raw_fd().is_some());
        assert!(self.background.is_none(), "two syncs run behind the commits");
        let last = self.behind.last().map(|segment| segment.seq);
        assert!(last.is_none_or(|seq| seq + 1 == before), "a segment behind is not the last one");
        let work = move || gate.sync(&segments, Some(&newest));
        let builder = std::thread::Builder::new().name("mmsb-log-sync".into());
        match real.then(|| builder.spawn(work.clone())) {
            Some(Ok(thread)) => self.background = Some((before, thread)),
            // Nothing to gain, or no thread to be had: the commit waits.
            _ => {
                work()?;
                self.behind.clear();
            }
        }
        let synced = self.background.is_some() || self.behind.is_empty();
        assert!(synced, "nobody syncs a segment behind");
        Ok(())
    }

    /// Waits for the sync that runs behind the commits.
    fn settle(&mut self) -> Result<()> {
        if let Some((before, thread)) = self.background.take() {
            assert!(before <= self.state.end.seq, "a sync runs ahead of the log");
            let ended = thread.join();
            ended.map_err(|_| Error::new(Code::Internal, "the log's sync thread panicked"))??;
            self.behind.retain(|segment| segment.seq >= before);
            assert!(self.behind.len() <= 1, "a sync behind missed a segment");
        }
        Ok(())
    }

    /// What to sync so that all that was appended is durable.
    pub fn sync_point(&mut self) -> SyncPoint {
        self.check();
        let mut segments = self.behind.clone();
        segments.extend(self.active.as_ref().map(|active| active.segment.clone()));
        let last = segments.last().map(|segment| segment.seq);
        assert!(last.is_none_or(|seq| seq == self.state.end.seq), "a sync misses the log's end");
        assert!(last.is_some() || self.durable == self.state.end, "a sync of nothing");
        SyncPoint {
            gate: self.gate.clone(),
            segments,
            end: self.state.end,
            epoch: self.state.epoch,
        }
    }

    /// Notes that `point` was synced; later records say so.
    pub fn synced(&mut self, point: &SyncPoint) {
        assert!(point.end <= self.state.end, "a sync reached more than was written");
        assert!(point.epoch <= self.state.epoch, "a sync reached a commit to come");
        if point.end > self.durable {
            assert!(
                point.epoch >= self.durable_epoch,
                "a later sync made an earlier epoch durable"
            );
            self.durable = point.end;
            self.durable_epoch = point.epoch;
        }
        self.behind.retain(|segment| segment.seq >= point.end.seq);
        self.check();
    }

    /// Writes the durable position into a meta slot. Made durable by `close`, or by the system in its time.
    pub fn write_meta(&mut self) -> Result<()> {
        self.check();
        self.meta.write(self.durable, self.durable_epoch)?;
        assert_eq!(self.meta.now.durable, self.durable, "a slot tells of another position");
        Ok(())
    }

    /// Brings a base into both meta slots, durably: what lies before it may go when this returns. After an error which of
    /// them has it is not known, and the writer has ended.
    pub(crate) fn rebase(&mut self, base: LogBase) -> Result<()> {
        self.usable()?;
        // The segment that the log is to begin with must not be lost with the power.
        let point = self.sync_point();
        point.sync()?;
        self.synced(&point);
        let done = self.write_meta().and_then(|()| self.meta.rebase(base));
        self.broken |= done.is_err();
        done
    }

    /// Segments before the base of so many bytes are gone; makes that durable. A failure ends the writer.
    pub(crate) fn removed(&mut self, bytes: u64) -> Result<()> {
        self.state.sealed_bytes = self.state.sealed_bytes.saturating_sub(bytes);
        self.gate.sync_removed()
    }

    /// Syncs, seals, and makes everything durable; no segment is open afterwards. The lock is held until the log is
    /// dropped.
    pub fn close(&mut self) -> Result<()> {
        self.usable()?;
        self.settle()?;
        // A segment may be sealed and not synced where the next one could not be begun.
        if self.active.is_some() || !self.behind.is_empty() {
            // Synced before it is sealed: then the seal proves that everything before it was whole.
            let point = self.sync_point();
            point.sync()?;
            self.synced(&point);
            self.seal()?;
            let point = self.sync_point();
            point.sync()?;
            self.synced(&point);
            self.behind.clear();
        }
        if let Some(helper) = self.helper.take() {
            helper.finish();
        }
        assert_eq!(self.durable, self.state.end, "a closed log is durable to its end");
        assert!(self.behind.is_empty(), "a closed log has no unsynced segment");
        assert!(self.active.is_none(), "a closed log has no open segment");
        assert!(self.background.is_none(), "a sync runs behind a closed log");
        assert_eq!(self.durable_epoch, self.state.epoch, "a closed log is durable to its commit");
        if self.meta.now.durable != self.durable {
            self.write_meta()?;
        }
        assert_eq!(self.meta.now.durable, self.state.end, "a closed log is not told to its end");
        self.check();
        self.meta.sync()
    }

    /// Bytes of the whole log.
    pub fn bytes(&self) -> u64 {
        self.state.sealed_bytes + self.active.as_ref().map_or(0, |active| active.end)
    }

    /// Where the log ends.
    pub fn end(&self) -> Position {
        self.state.end
    }

    /// The last epoch that a power loss would keep.
    pub fn durable_epoch(&self) -> u64 {
        self.durable_epoch
    }

    /// What the store is.
    pub fn meta(&self) -> &StoreMeta {
        &self.meta.now
    }

    /// For a forked child: lets go of what only the parent may end. The log is not usable afterwards.
    pub fn abandon(&mut self) {
        self.broken = true;
        // The thread did not come along; its handle must not be joined or detached here.
        mem::forget(self.background.take());
    }
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64)
}

fn first_time(opts: &LogOptions) -> u64 {
    opts.time.unwrap_or_else(|| if opts.seed.is_some() { 0 } else { now() })
}

/// A number that no other store or segment has; reproducible with a seed.
fn random(opts: &LogOptions, what: &str, number: u64) -> [u8; 16] {
    let part = |half: u64| match opts.seed {
        Some(seed) => h64(format!("{what} {number} {half} {seed}").as_bytes()),
        // The standard library's keys are random, once a thread; a forked child inherits them, hence pid and time.
        None => RandomState::new().hash_one((half, std::process::id(), now())),
    };
    let mut out = [0u8; 16];
    out[..8].copy_from_slice(&part(0).to_le_bytes());
    out[8..].copy_from_slice(&part(1).to_le_bytes());
    out
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
