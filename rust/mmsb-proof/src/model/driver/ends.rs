//! Checkpoints beside the model, and the ends of a bus: closed, opened again, gone through from beginning to end.

use std::path::Path;
use std::sync::{Arc, Mutex};

use mmsb_core::vfs::Vfs;
use mmsb_core::{Bus, Code, Durability, How, Mode, Result, Wish, recover_on};

use super::{Driver, Ledger, Place, expect, of_storage};
use crate::model::follow::bind_all;
use crate::model::opens::Opens;
use crate::model::queries::{BACKUP, check_backup, check_queries};
use crate::model::state::{State, check_snapshot};
use crate::sim::SimVfs;

impl Driver {
    pub(super) fn checkpoint(&mut self, unasked: bool) -> Result<()> {
        if self.place.is_none() {
            return expect(self.bus.checkpoint(), Code::Argument);
        }
        let done = if unasked { self.bus.checkpoint_unasked() } else { self.bus.checkpoint() };
        self.note(None);
        assert_eq!(done?, self.epoch());
        Ok(())
    }

    /// A checkpoint, with a commit at the `call`-th call that it makes: it sets the first byte of a page.
    pub(super) fn checkpoint_during(
        &mut self,
        sim: &SimVfs,
        call: u64,
        id: u64,
        byte: u8,
        next: Arc<State>,
    ) -> Result<()> {
        let before = self.epoch();
        let durable = self.bus.durable_epoch();
        // What will be known during the commit and after it has its place before either comes about.
        let mark = self.ledgers.len() as u64;
        let opens = self.must.clone();
        let (submitted, later) = (Some(next.clone()), opens.clone());
        self.ledgers.push(Ledger { told: before, durable, submitted, opens });
        self.ledgers.push(Ledger { told: before + 1, durable, submitted: None, opens: later });
        let made = Arc::new(Mutex::new(None));
        let (bus, vfs, place, told) =
            (self.bus.clone(), sim.clone(), self.place.clone(), made.clone());
        // It must not wait: the thread that it would wait for is its own.
        let how = How { wait: false, durability: Some(Durability::Os), ..self.how() };
        sim.at_call(call + 1, move || {
            vfs.set_mark(mark);
            let done = bus.write(id, 0, &[byte], &how);
            match &done {
                Ok(done) => {
                    vfs.set_mark(mark + 1);
                    place.iter().for_each(|at| vfs.acknowledged(&at.dir, done.epoch, false));
                }
                Err(error) if error.code == Code::CommitOutcomeUnknown => {}
                Err(_) => vfs.set_mark(mark - 1),
            }
            *told.lock().unwrap() = Some(done);
        });
        let done = self.bus.checkpoint();
        sim.clear_hook();
        match made.lock().unwrap().take() {
            Some(Ok(commit)) => {
                assert_eq!((commit.epoch, commit.changed), (before + 1, true));
                self.history.push(next);
            }
            Some(Err(error)) if error.code == Code::CommitOutcomeUnknown => {
                self.in_doubt.get_or_insert(next);
            }
            Some(Err(error)) => assert!(error.code == Code::WouldBlock || of_storage(&error)),
            None => {}
        }
        self.note(None);
        assert_eq!(done?, before);
        self.check_head()
    }

    /// Closes the bus.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn close(&mut self) -> Result<()> {
        self.bus.close()?;
        self.note(None);
        Ok(())
    }

    pub(super) fn reopen(&mut self) -> Result<()> {
        let Some(Place { vfs, dir, sim }) = self.place.clone() else { return Ok(()) };
        self.close()?;
        sim.iter().for_each(SimVfs::new_host);
        let bus = Bus::open_on(vfs, &dir, Mode::ReadWrite, &self.options, &mut |_, _| {})?;
        self.bus = bus;
        bind_all(&self.bus)?;
        self.window = None;
        if self.failed {
            self.accept_what_came_back();
        } else {
            assert_eq!(self.bus.recovery().unwrap().torn_bytes, 0);
        }
        self.accept_what_opens()?;
        self.note(None);
        self.check_head()
    }

    /// After a failure the commit in doubt may be there or not; and if a failed sync took back what had been written,
    /// only what was durable must be.
    fn accept_what_came_back(&mut self) {
        let (told, epoch) = (self.epoch(), self.bus.epoch());
        let reverted = self.sim().is_some_and(SimVfs::reverted);
        let least = if reverted { self.ledger().durable } else { told };
        let most = told + u64::from(self.in_doubt.is_some());
        assert!(least <= epoch && epoch <= most, "epoch {epoch} came back; not {least}..={most}");
        self.history.truncate(epoch as usize + 1);
        if epoch > told {
            self.history.extend(self.in_doubt.take());
        }
        self.digests.truncate(self.history.len());
        self.in_doubt = None;
        self.failed = false;
        self.note(None);
    }

    /// A copy shows the history of the store.
    fn check_copy(&self, vfs: &Arc<dyn Vfs>, to: &Path) -> Result<()> {
        check_backup(vfs, to, Mode::Read, &self.history).map_err(|what| match what {
            Ok(error) => error,
            Err(what) => panic!("{}: {what}", to.display()),
        })?;
        if self.place.is_some() && self.sim().is_none() {
            std::fs::remove_dir_all(to).unwrap();
        }
        Ok(())
    }

    /// Copies the store; the copy shows the same history, and makes the same epochs from then on.
    pub(super) fn backup(&mut self) -> Result<()> {
        let Some((vfs, to)) = self.free_place(BACKUP) else { return Ok(()) };
        assert_eq!(self.bus.backup_on(&*vfs, &to, &mut |_, _| {})?, self.epoch());
        self.check_copy(&vfs, &to)?;
        self.check_head()
    }

    /// What is good of a sound store is all of it.
    pub(super) fn salvage(&mut self) -> Result<()> {
        let Some(Place { vfs, dir, .. }) = self.place.clone() else { return Ok(()) };
        self.close()?;
        // What a failure left in doubt is judged by opening.
        if !self.failed
            && let Some((_, to)) = self.free_place(BACKUP)
        {
            let wish = Wish { upto: None, newest: true };
            let told = recover_on(vfs.clone(), &dir, &to, wish, &self.options, &mut |_, _| {})?;
            assert_eq!((told.epoch, told.appended), (self.epoch(), None));
            assert!(told.problems.is_empty() && told.torn_bytes == 0, "{told:?}");
            assert!(told.lost.is_empty() && told.later.is_empty(), "{told:?}");
            if let Some(pair) = Opens::found(&*vfs, &dir).zip(Opens::found(&*vfs, &to)) {
                assert_eq!(pair.0, pair.1, "epochs that open");
            }
            self.check_copy(&vfs, &to)?;
        }
        self.reopen()
    }

    /// Every epoch is there, bit for bit, forward and backward; the store is sound.
    pub fn finish(mut self) {
        self.reopen().unwrap();
        let epochs = self.history.len();
        // Each step backward is a rebuild, so long histories take larger ones.
        let backward = (0..epochs).rev().step_by(3.max(epochs / 25));
        for epoch in (0..epochs).chain(backward) {
            self.open_epoch(epoch).unwrap();
        }
        let log = self.bus.log(0, u64::MAX, false).unwrap();
        let log: Vec<u64> = log.map(|c| c.unwrap().epoch()).collect();
        let first = log.first().map_or(epochs as u64, |&first| first);
        assert_eq!(log, (first..epochs as u64).collect::<Vec<_>>());
        // A bus in memory lets go of whole segments only.
        assert!(first == self.must.base + 1 || self.place.is_none() && first <= self.must.base);
        check_queries(&self.bus).unwrap();
        let problems = self.bus.verify(&mut |_, _| {}).unwrap().problems;
        assert!(problems.is_empty(), "{problems:?}");
        self.bus.close().unwrap();
        self.check_kept();
        if let Some(Place { vfs, dir, .. }) = &self.place {
            let reader =
                Bus::open_on(vfs.clone(), dir, Mode::Read, &self.options, &mut |_, _| {}).unwrap();
            check_snapshot(&reader.snapshot().unwrap(), self.head()).unwrap();
            check_queries(&reader).unwrap();
            assert_eq!(reader.write(1, 0, b"", &How::default()).unwrap_err().code, Code::ReadOnly);
        }
    }
}
