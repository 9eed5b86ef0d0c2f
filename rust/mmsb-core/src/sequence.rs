//! One commit, in order.
//!
//! 1. The clock is read, without the lock.
//! 2. The sequencer's lock.
//! 3. Validation against the newest sequenced state.
//! 4. Frames and nodes are filled: all that can fail.
//! 5. The record is appended; from here only append and sync can fail.
//! 6. For `disk`, one leader syncs what was appended before its sync began.
//! 7. Epochs are published in order.
//!
//! A failed append or sync ends the writer: what was sequenced and not published has an unknown outcome, reads go on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::apply::{self, apply};
use crate::catalog::{Desc, find_page};
use crate::core::Core;
use crate::delta::{Batch, Check, Op, Ops};
use crate::edit::{Dead, Edit};
use crate::events::{Event, Subscribers};
use crate::log::Log;
use crate::museum::{Defect, planted};
use crate::propagate::{Followed, Propagation};
use crate::reclaim::Reclaim;
use crate::root::Root;
use crate::snapshot::{Pin, Snapshot};
use crate::sync::lock;
use crate::window::{Retention, Window};
use crate::{Code, Error, Result, fork, page, trace};

/// When a commit is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Visible; a kill may lose it. It is in the log before the next commit of any other durability.
    Memory,
    /// Handed to the operating system; survives the process.
    Os,
    /// On disk; survives power loss.
    Disk,
}

impl Durability {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Os => "os",
            Durability::Disk => "disk",
        }
    }
}

impl std::str::FromStr for Durability {
    type Err = Error;

    fn from_str(text: &str) -> Result<Durability> {
        match text {
            "memory" => Ok(Durability::Memory),
            "os" => Ok(Durability::Os),
            "disk" => Ok(Durability::Disk),
            _ => Err(Error::new(
                Code::Argument,
                format!("durability {text:?} is not one of 'memory', 'os', 'disk'"),
            )),
        }
    }
}

/// How to commit.
#[derive(Debug, Clone, Copy, Default)]
pub struct How<'a> {
    /// Who makes the change.
    pub source: Option<&'a str>,
    /// Commit metadata as a canonical JSON object.
    pub meta: Option<&'a str>,
    /// Another durability than the bus's.
    pub durability: Option<Durability>,
    /// The time instead of the system's clock, in nanoseconds since 1970 UTC.
    pub time: Option<u64>,
    /// Whether the call may wait for a lock; if not and it would have to, it changes nothing and fails with
    /// [`Code::WouldBlock`].
    pub wait: bool,
}

/// What a commit made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The epoch whose snapshot shows it.
    pub epoch: u64,
    /// Whether the commit made that epoch.
    pub changed: bool,
}

/// A commit that is in the log and not visible yet.
struct Pending {
    root: Root,
    needs_sync: bool,
    dead: Vec<Dead>,
    event: Option<Arc<Event>>,
}

/// What orders commits; whoever holds its lock is the writer.
pub(crate) struct Sequencer {
    /// The newest sequenced state; published unless `pending` holds it.
    pub(crate) newest: Root,
    pub(crate) log: Option<Log>,
    /// The log is in memory and counts against `max_memory`.
    pub(crate) log_in_memory: bool,
    /// What of it the arena was told.
    pub(crate) charged: u64,
    pub(crate) reclaim: Reclaim,
    pub(crate) propagation: Propagation,
    pub(crate) subscribers: Subscribers,
    pending: VecDeque<Pending>,
    failed: Option<Error>,
    taken: Vec<(u64, u64)>,
    dead: Vec<Dead>,
}

impl fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sequencer").field("newest", &self.newest.epoch).finish_non_exhaustive()
    }
}

fn outcome_unknown(epoch: u64, cause: &Error) -> Error {
    let mut error = Error::new(
        Code::CommitOutcomeUnknown,
        format!(
            "whether epoch {epoch} is in the log is not known ({cause}); open the bus again to see"
        ),
    );
    error.detail = cause.detail.clone();
    error.detail.epoch = Some(epoch);
    error
}

impl Sequencer {
    pub(crate) fn new(newest: Root) -> Sequencer {
        Sequencer {
            newest,
            log: None,
            log_in_memory: false,
            charged: 0,
            reclaim: Reclaim::default(),
            propagation: Propagation::default(),
            subscribers: Subscribers::default(),
            pending: VecDeque::new(),
            failed: None,
            taken: Vec::new(),
            dead: Vec::new(),
        }
    }

    /// Fails once the writer has ended.
    pub(crate) fn usable(&self) -> Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(cause) => {
                let mut error = cause.clone();
                error.message =
                    format!("the writer has ended ({cause}); open the bus again to go on");
                Err(error)
            }
        }
    }

    pub(crate) fn fail(&mut self, cause: &Error) {
        self.failed.get_or_insert_with(|| cause.clone());
    }

    /// Pieces that an engine which goes away has made and not freed.
    pub(crate) fn leftover(&self, base: u64) -> impl Iterator<Item = (u64, u64)> {
        let pending = self.pending.iter().flat_map(|p| &p.dead);
        self.reclaim.all().chain(pending).filter(move |d| d.born > base).map(|d| (d.offset, d.len))
    }

    /// Publishes what is durable now, and what only waited for it.
    fn publish_through(&mut self, core: &Core, durable: u64) {
        while let Some(next) = self.pending.front() {
            if next.needs_sync && next.root.epoch > durable {
                break;
            }
            if let Some(mut next) = self.pending.pop_front() {
                core.publish(&next.root, &mut next.dead, &mut self.reclaim);
                if let Some(event) = &next.event {
                    self.subscribers.tell(event);
                }
                // Its memory serves the next commit.
                if self.dead.capacity() == 0 {
                    self.dead = next.dead;
                }
            }
        }
    }
}

/// What holds of each state and the one before it, however it was made.
fn check_follows(root: &Root, before: &Root) {
    assert_eq!(root.epoch, before.epoch + 1, "epochs follow each other");
    let is_id_given_again = root.next_id < before.next_id && !planted(Defect::IdGivenAgain);
    assert!(!is_id_given_again, "an id is given once");
    assert_eq!(root.table == 0, root.pages == 0, "the root counts the pages of its table");
    assert!(root.pages > 0 || root.bytes == 0 && root.names == 0, "what has no page has no more");
    assert!(root.nodes <= root.pages, "a place in the graph is a page's");
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
}

/// Fills a batch under the commit lock, from the newest sequenced state.
pub(crate) type Build<'b> = &'b mut dyn FnMut(&Snapshot, &mut Batch) -> Result<()>;

impl Core {
    /// Commits a batch. `base` makes it an optimistic transaction; `build` fills the batch under the lock.
    pub(crate) fn commit(
        self: &Arc<Self>,
        batch: &mut Batch,
        base: Option<&Snapshot>,
        build: Option<Build<'_>>,
        durability: Durability,
        how: &How<'_>,
    ) -> Result<Committed> {
        if base.is_some_and(|base| !Arc::ptr_eq(base.core(), self)) {
            let what = "a transaction stands on a snapshot of the newest epoch of its own bus";
            return Err(Error::new(Code::Argument, what));
        }
        fork::give_way(how.wait)?;
        let time = how.time.unwrap_or_else(now);
        batch.set_prefix(how.source, how.meta);
        let mut seq = if how.wait {
            lock(&self.sequencer)
        } else {
            match self.sequencer.try_lock() {
                Ok(seq) if seq.pending.is_empty() => seq,
                _ => return Err(Error::new(Code::WouldBlock, "another commit is under way")),
            }
        };
        seq.usable()?;
        if let Some(build) = build {
            batch.clear();
            build(&Snapshot::sequenced(self, &seq.newest), batch)?;
            batch.set_prefix(how.source, how.meta);
        }
        batch.complete()?;
        if let Some(base) = base
            && base.epoch() != seq.newest.epoch
            && !planted(Defect::ConflictMissed)
            && let Err(conflict) = self.validate(&seq.newest, base, batch)
        {
            let epoch = seq.newest.epoch;
            drop(seq);
            // The other commit must be visible, so that a retry can see it.
            let _ = self.wait_published(epoch);
            return Err(conflict);
        }
        if !seq.subscribers.is_empty() && batch.report().is_none() {
            batch.ask_report(false);
        }
        let (root, changed) = self.build_state(&mut seq, batch, time)?;
        if !changed && how.meta.is_none() {
            self.bind(&seq.newest, &mut batch.functions);
            let epoch = seq.newest.epoch;
            drop(seq);
            self.wait_published(epoch)?;
            return Ok(Committed { epoch, changed: false });
        }
        if let Some(log) = seq.log.as_mut().filter(|_| !planted(Defect::AppliedWithoutLog)) {
            let (flags, buf) = batch.frame();
            if let Err(error) = log.append(root.epoch, root.time, flags, buf) {
                return Err(self.append_failed(&mut seq, root.epoch, error));
            }
        }
        let seq_ref = &mut *seq;
        seq_ref.propagation.keep();
        self.bind(&root, &mut batch.functions);
        if let Some(log) = &seq_ref.log {
            self.log_bytes.store(log.bytes(), Ordering::Relaxed);
            self.segment.store(log.end().seq, Ordering::Relaxed);
        }
        let event = (!seq_ref.subscribers.is_empty()).then(|| {
            let none = Followed::default();
            let report = batch.report().unwrap_or(&none);
            Arc::new(Event::of(self.mem(), &seq_ref.newest, &root, batch, report))
        });
        seq_ref.newest = root;
        let at_once = durability != Durability::Disk || planted(Defect::AcknowledgedBeforeSync);
        if at_once && seq_ref.pending.is_empty() {
            self.publish(&root, &mut seq_ref.dead, &mut seq_ref.reclaim);
            if let Some(event) = &event {
                seq_ref.subscribers.tell(event);
            }
            drop(seq);
        } else {
            let dead = std::mem::take(&mut seq_ref.dead);
            let needs_sync = durability == Durability::Disk;
            let waits = seq_ref.pending.back().map_or(self.epoch(), |last| last.root.epoch);
            assert_eq!(root.epoch, waits + 1, "epochs wait in their order");
            seq_ref.pending.push_back(Pending { root, needs_sync, dead, event });
            drop(seq);
            self.wait_published(root.epoch)?;
        }
        trace::commit(root.epoch, batch.bytes() as u64, durability.as_str());
        Ok(Committed { epoch: root.epoch, changed: true })
    }

    /// Builds the next state in the arena; on failure or without a change everything is given back.
    #[inline]
    fn build_state(
        &self,
        seq: &mut Sequencer,
        batch: &mut Batch,
        time: u64,
    ) -> Result<(Root, bool)> {
        if seq.reclaim.is_due() {
            seq.reclaim.pass(self, false);
        }
        let log = seq.log.as_ref().filter(|_| seq.log_in_memory).map_or(0, Log::bytes);
        let charge = log + if seq.reclaim.retains { self.make_room(seq)? } else { 0 };
        let (mut retried, own) = (false, batch.end());
        loop {
            let seq = &mut *seq;
            let mut edit = Edit::begin(&self.arena, &seq.newest, &mut seq.taken, &mut seq.dead);
            let more = if seq.log_in_memory { batch.bytes() as u64 } else { 0 };
            let mut done = edit
                .charge(&mut seq.charged, charge, more)
                .and_then(|()| apply(&mut edit, batch.ops()));
            let has_graph = edit.root.nodes > 0 || seq.newest.nodes > 0;
            if let Ok(changed) = done
                && has_graph
            {
                let functions = self.functions();
                done = seq
                    .propagation
                    .follow(changed, &mut edit, &seq.newest, batch, &functions, self.address())
                    .map(|more| changed || more);
                if done.is_ok() && seq.log_in_memory {
                    let more = batch.bytes() as u64;
                    done = edit.charge(&mut seq.charged, charge, more).and(done);
                }
            }
            match done {
                Ok(true) => {
                    let mut root = edit.root;
                    check_follows(&root, &seq.newest);
                    root.time = time.max(seq.newest.time);
                    return Ok((root, true));
                }
                Ok(false) => {
                    let epoch = edit.epoch();
                    edit.abort();
                    seq.propagation.undo();
                    return Ok((
                        Root { epoch, time: time.max(seq.newest.time), ..seq.newest },
                        false,
                    ));
                }
                Err(_) if planted(Defect::HalfCommitKept) => return Ok((edit.root, true)),
                Err(error) => {
                    edit.abort();
                    seq.propagation.undo();
                    batch.cut(own);
                    if error.code != Code::OutOfSpace {
                        return Err(error);
                    }
                    if retried {
                        return Err(self.naming_holders(seq, error));
                    }
                    // Old versions may have become free since the last pass.
                    retried = true;
                    seq.reclaim.pass(self, true);
                }
            }
        }
    }

    /// Makes room in the window for the next epoch. Returns the bytes that it takes.
    #[cold]
    fn make_room(&self, seq: &Sequencer) -> Result<u64> {
        let mut window = lock(&self.window);
        let Some(window) = window.as_mut() else { return Ok(0) };
        window.reserve(seq.pending.len() + 1)?;
        Ok(window.bytes())
    }

    /// Keeps the last epochs in memory from now on, or no old epoch any more.
    pub(crate) fn retain(&self, retention: Option<Retention>) -> Result<()> {
        let mut seq = lock(&self.sequencer);
        let mut window = lock(&self.window);
        match (&mut *window, retention) {
            (Some(window), Some(retention)) => window.set(retention),
            (window, Some(retention)) => {
                // Under the lock nothing is published: the head is the newest published epoch.
                *window = Some(Window::new(retention, &Pin::brief(self).root));
            }
            (window, None) => *window = None,
        }
        seq.reclaim.retains = window.is_some();
        drop(window);
        seq.reclaim.pass(self, false);
        Ok(())
    }

    /// Tells who holds old versions, for whoever ran out of memory.
    fn naming_holders(&self, seq: &Sequencer, mut error: Error) -> Error {
        let mut pins = Vec::new();
        self.collect_pins(&mut pins);
        let oldest = pins
            .iter()
            .min()
            .map_or(String::new(), |epoch| format!(", the oldest of epoch {epoch}"));
        error.message.push_str(&format!(
            "; old versions hold {} bytes; there are {} open snapshots and transactions{oldest}",
            seq.reclaim.held_bytes(),
            pins.len(),
        ));
        let floor = self.floor();
        if floor < seq.newest.epoch {
            error.message.push_str(&format!(
                "; bus.retain holds {} bytes of the epochs from {floor} on",
                seq.reclaim.retained_bytes(floor)
            ));
        }
        error
    }

    fn append_failed(&self, seq: &mut Sequencer, epoch: u64, error: Error) -> Error {
        seq.propagation.undo();
        let Sequencer { newest, taken, dead, .. } = seq;
        assert_eq!(epoch, newest.epoch + 1, "what was not appended was not sequenced");
        Edit::resume(&self.arena, newest, taken, dead).abort();
        if seq.log.as_ref().is_some_and(|log| log.usable().is_ok()) {
            // The log says that nothing of the record is in it: the commit did not happen.
            return error;
        }
        trace::append_failed(epoch, &error.message);
        seq.fail(&error);
        outcome_unknown(epoch, &error)
    }

    /// Waits until an epoch is visible; leads the sync if nobody does.
    pub(crate) fn wait_published(&self, epoch: u64) -> Result<()> {
        self.wait_until(epoch, || self.epoch() >= epoch)
    }

    /// Waits until everything up to an epoch is durable and visible.
    pub(crate) fn wait_durable(&self, epoch: u64) -> Result<()> {
        self.wait_until(epoch, || {
            self.durable.load(Ordering::Acquire) >= epoch && self.epoch() >= epoch
        })
    }

    fn wait_until(&self, epoch: u64, done: impl Fn() -> bool) -> Result<()> {
        self.group
            .wait_until(done, || self.lead_sync())
            .map_err(|cause| outcome_unknown(epoch, &cause))
    }

    /// Syncs what is in the log now and publishes what waited for it.
    fn lead_sync(&self) -> Result<()> {
        let point = {
            let mut seq = lock(&self.sequencer);
            seq.usable()?;
            match &mut seq.log {
                Some(log) => log.sync_point(),
                None => return Err(Error::new(Code::Closed, "the bus is closed")),
            }
        };
        let synced = point.sync();
        let mut seq = lock(&self.sequencer);
        assert!(point.epoch() <= seq.newest.epoch, "what was synced had been sequenced");
        if let Err(error) = synced {
            trace::sync_failed(point.epoch(), &error.message);
            seq.fail(&error);
            return Err(error);
        }
        let noted = seq.log.as_mut().map_or(Ok(()), |log| {
            log.synced(&point);
            log.write_meta()
        });
        if let Err(error) = noted {
            trace::append_failed(point.epoch(), &error.message);
            seq.fail(&error);
            return Err(error);
        }
        self.durable.fetch_max(point.epoch(), Ordering::Release);
        seq.publish_through(self, point.epoch());
        assert!(self.epoch() >= point.epoch(), "what is durable is shown");
        trace::sync(point.epoch());
        Ok(())
    }

    /// Whether the head still has what this transaction stands on.
    fn validate(&self, head: &Root, base: &Snapshot, batch: &Batch) -> Result<()> {
        let mem = self.mem();
        let slot_at = |root: &Root, id| crate::table::get(mem, root.table, root.height, id);
        let conflict = |page: u64, what: &str| {
            trace::conflict(head.epoch, page);
            let mut error = Error::new(
                Code::Conflict,
                format!(
                    "{what} since epoch {}; begin the transaction again (bus.run does)",
                    base.epoch()
                ),
            );
            error.detail.epoch = Some(head.epoch);
            Err(error)
        };
        // Pages that this transaction creates have no base to compare with.
        let mut made = std::collections::BTreeSet::new();
        for op in Ops::new(batch.ops()) {
            match op.map_err(apply::malformed)? {
                Op::Create { id, .. } => {
                    made.insert(id);
                }
                Op::Write { id, offset, data } if !made.contains(&id) => {
                    let (Some(old), Some(new)) = (base.slot(id), slot_at(head, id)) else {
                        return conflict(id, &format!("page {id} was deleted"));
                    };
                    if old.len != new.len {
                        return conflict(id, &format!("page {id} was resized"));
                    }
                    let stop = offset.saturating_add(data.len() as u64).min(old.len);
                    if !page::same_range(mem, &old, &new, offset, stop) {
                        return conflict(
                            id,
                            &format!("bytes {offset}..{stop} of page {id} were changed"),
                        );
                    }
                }
                Op::Delete { id }
                | Op::Rename { id, .. }
                | Op::SetMeta { id, .. }
                | Op::Resize { id, .. }
                | Op::Node { id, .. }
                    if !made.contains(&id) =>
                {
                    let (Some(old), Some(new)) = (base.slot(id), slot_at(head, id)) else {
                        return conflict(id, &format!("page {id} was deleted"));
                    };
                    let (was, is) = (Desc::at(mem, old.desc), Desc::at(mem, new.desc));
                    if !was.says_what(&is) || old.len != new.len {
                        return conflict(
                            id,
                            &format!("the name, shape or metadata of page {id} were changed"),
                        );
                    }
                }
                _ => {}
            }
        }
        for check in &batch.checks {
            match check {
                Check::Ids if planted(Defect::CreationNotValidated) => {}
                Check::Ids if base.next_id() != head.next_id => {
                    return conflict(0, "other pages were created");
                }
                Check::Name(name) if base.find(name) != find_page(mem, head, name) => {
                    return conflict(0, &format!("the name {name:?} got another meaning"));
                }
                Check::Node(id) => {
                    let (Some(old), Some(new)) = (base.slot(*id), slot_at(head, *id)) else {
                        return conflict(*id, &format!("page {id} was deleted"));
                    };
                    if Desc::at(mem, old.desc).node() != Desc::at(mem, new.desc).node() {
                        let what = format!("page {id} got another place in the graph");
                        return conflict(*id, &what);
                    }
                }
                Check::Read(id) => {
                    let (Some(old), Some(new)) = (base.slot(*id), slot_at(head, *id)) else {
                        return conflict(*id, &format!("page {id}, which was read, was deleted"));
                    };
                    let shape = |slot: &crate::table::Slot| {
                        Desc::at(mem, slot.desc).shape().collect::<Vec<_>>()
                    };
                    if old.len != new.len
                        || shape(&old) != shape(&new)
                        || !page::same_range(mem, &old, &new, 0, old.len)
                    {
                        return conflict(*id, &format!("page {id}, which was read, was changed"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Applies a commit of the log: recovery and time travel. Nothing is appended.
    pub(crate) fn replay(&self, epoch: u64, time: u64, ops: &[u8]) -> Result<()> {
        let mut seq = lock(&self.sequencer);
        let seq = &mut *seq;
        if epoch != seq.newest.epoch + 1 {
            return Err(Error::new(
                Code::Corruption,
                format!("epoch {epoch} follows epoch {}", seq.newest.epoch),
            ));
        }
        if seq.reclaim.is_due() {
            seq.reclaim.pass(self, false);
        }
        let mut retried = false;
        let root = loop {
            let mut edit = Edit::begin(&self.arena, &seq.newest, &mut seq.taken, &mut seq.dead);
            match apply::apply(&mut edit, ops) {
                Ok(_) => break Root { time, ..edit.root },
                Err(error) => {
                    edit.abort();
                    if retried || error.code != Code::OutOfSpace {
                        return Err(error);
                    }
                }
            }
            // As in `build_state`: what fitted when it was committed fits again.
            retried = true;
            seq.reclaim.pass(self, true);
        };
        check_follows(&root, &seq.newest);
        seq.newest = root;
        self.publish(&root, &mut seq.dead, &mut seq.reclaim);
        Ok(())
    }
}
