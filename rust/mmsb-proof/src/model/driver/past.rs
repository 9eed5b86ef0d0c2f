//! The past beside the model: epochs that open and those that were let go, prunings, and forks in a directory.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use mmsb_core::vfs::{RamVfs, Vfs};
use mmsb_core::{
    Bus, Code, Durability, Error, Keep, Mode, Options, PruneReport, Result, Snapshot, log,
};

use super::{Driver, Place, expect, write_fork};
use crate::model::follow::Follow;
use crate::model::opens::Opens;
use crate::model::queries::{FORK, check_fork, check_queries};
use crate::model::state::check_snapshot;

/// What a dry run tells of a pruning, but for indexes: those are made beside the commits at any moment.
type Certain<'a> = (Vec<&'a (PathBuf, u64)>, &'a [u64], &'a [(u64, u64)], u64);

fn certain(report: &PruneReport) -> Certain<'_> {
    let is_index = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "midx");
    let files = report.files.iter().filter(|(path, _)| !is_index(path)).collect();
    (files, &report.checkpoints, &report.let_go, report.oldest)
}

impl Driver {
    /// Opens an epoch and compares it; none if it was let go.
    pub(super) fn open_epoch(&self, at: usize) -> Result<Option<Snapshot>> {
        let epoch = at as u64;
        match self.bus.snapshot_at(epoch) {
            Ok(snapshot) => {
                let in_memory = at + 1 == self.history.len() || self.is_in_window(epoch);
                assert!(self.may.has(epoch) || in_memory, "epoch {epoch} was let go");
                check_snapshot(&snapshot, &self.history[at])?;
                if let Some(&digest) = self.digests.get(at) {
                    assert_eq!(snapshot.digest()?, digest);
                }
                Ok(Some(snapshot))
            }
            Err(error) if error.code == Code::EpochNotFound => {
                assert!(!self.must.has(epoch), "epoch {epoch} is to be kept: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A reader of what an end had left opens the same epochs, finds by its indexes what the log says, and no damage.
    ///
    /// # Panics
    /// Anything of that is not so.
    pub fn check_reader(&self, reader: &Bus) {
        for (epoch, state) in (0..).zip(&self.history) {
            match reader.snapshot_at(epoch) {
                Ok(snapshot) => check_snapshot(&snapshot, state).unwrap(),
                Err(error) => {
                    let let_go = error.code == Code::EpochNotFound && !self.must.has(epoch);
                    assert!(let_go, "a reader at epoch {epoch}: {error}");
                }
            }
        }
        check_queries(reader).unwrap();
        // A kill in the middle of a slot leaves that for its host to mend.
        let is_slot = |e: &Error| e.message.contains("the meta slot is not whole");
        let problems = reader.verify(&mut |_, _| {}).unwrap().problems;
        assert!(problems.iter().all(is_slot), "{problems:?}");
    }

    /// After an end: what must open does, and what opens besides goes on to open.
    pub(super) fn accept_what_opens(&mut self) -> Result<()> {
        let Some(place) = &self.place else { return Ok(()) };
        let Some(found) = Opens::found(&*place.vfs, &place.dir) else { return Ok(()) };
        let is_whole = found.base == 0 && self.must.base == 0;
        self.may = found;
        if !is_whole {
            for at in 0..self.history.len() {
                assert!(self.may.has(at as u64) || !self.must.has(at as u64), "epoch {at} is gone");
                let opens = self.open_epoch(at)?.is_some();
                assert!(opens || !self.may.has(at as u64), "epoch {at} does not open");
            }
        }
        self.must = self.may.clone();
        Ok(())
    }

    pub(super) fn prune(
        &mut self,
        since: Option<u8>,
        checkpoints: Option<u8>,
        every: Option<u8>,
    ) -> Result<()> {
        let keep = Keep {
            log_since: since.map(|back| self.back(back) as u64),
            checkpoints: checkpoints.map(u64::from),
            every: every.map(u64::from),
            dry_run: false,
        };
        let Some(Place { vfs, dir, .. }) = self.place.clone() else {
            return expect(self.bus.prune(&keep), Code::Argument);
        };
        let beyond = Keep { log_since: Some(self.epoch() + 1), every: None, ..keep };
        expect(self.bus.prune(&beyond), Code::EpochNotFound)?;
        if keep.every == Some(0) {
            return expect(self.bus.prune(&keep), Code::Argument);
        }
        let told = self.bus.prune(&Keep { dry_run: true, ..keep })?;
        let tagged: BTreeSet<u64> = self.head().tags.values().copied().collect();
        let Some(before) = Opens::found(&*vfs, &dir) else { return Ok(()) };
        let Some(after) = before.after(&keep, &tagged, &*vfs, &dir) else { return Ok(()) };
        let all = 0..self.history.len() as u64;
        let gone: Vec<u64> = all.filter(|&epoch| before.has(epoch) && !after.has(epoch)).collect();
        // From here on only what stays is certain.
        self.must = after.clone();
        self.note(None);
        let report = self.bus.prune(&keep)?;
        assert_eq!(certain(&report), certain(&told), "a dry run tells what comes");
        let let_go: Vec<u64> =
            report.let_go.iter().flat_map(|&(start, stop)| start..stop).collect();
        assert_eq!(let_go, gone);
        assert_eq!(report.oldest, after.kept.first().copied().unwrap_or(after.base));
        self.may = after;
        self.note(None);
        if let Some(found) = Opens::found(&*vfs, &dir) {
            assert_eq!(found, self.may);
        }
        for at in 0..self.history.len() {
            self.open_epoch(at)?;
        }
        self.check_head()
    }

    /// A name beside the store that nothing has yet, and the file system; none if that can't be told now.
    pub(super) fn free_place(&self, prefix: &str) -> Option<(Arc<dyn Vfs>, PathBuf)> {
        let ram: Arc<dyn Vfs> = Arc::new(RamVfs::new());
        let (vfs, dir) = match &self.place {
            Some(place) => (place.vfs.clone(), place.dir.clone()),
            None => (ram, "/s".into()),
        };
        for number in 0.. {
            let to = dir.with_extension(format!("{prefix}{number}"));
            if !vfs.exists(&to).ok()? {
                return Some((vfs, to));
            }
        }
        None
    }

    pub(super) fn fork_to(&mut self, back: u8, byte: u8) -> Result<()> {
        let at = self.back(back);
        let Some(base) = self.open_epoch(at)? else { return Ok(()) };
        let Some((vfs, to)) = self.free_place(FORK) else { return Ok(()) };
        let seed = self.options.seed.map(|seed| seed + 1);
        let options = Options { durability: Some(Durability::Os), seed, ..self.options.clone() };
        let fork = self.bus.fork_to_on(vfs.clone(), &base, &to, &options)?;
        let shown = fork.snapshot()?;
        check_snapshot(&shown, &self.history[at])?;
        assert_eq!((shown.digest()?, fork.epoch()), (base.digest()?, at as u64));
        if at > 0 {
            expect(fork.snapshot_at(at as u64 - 1), Code::EpochNotFound)?;
        }
        let meta = log::read_meta(&*vfs, &to)?;
        assert_eq!(meta.parent.map(|parent| parent.epoch), Some(at as u64));
        let mut state = self.history[at].as_ref().clone();
        if let Some(id) = state.pick(byte) {
            state = write_fork(&fork, &state, at as u64 + 1, id, byte, Follow::Unbound)?;
            check_snapshot(&fork.snapshot()?, &state)?;
        }
        fork.close()?;
        drop(fork);
        let reader = Bus::open_on(vfs.clone(), &to, Mode::Read, &options, &mut |_, _| {})?;
        check_snapshot(&reader.snapshot()?, &state)?;
        drop(reader);
        check_fork(&vfs, &to, Mode::Read, &self.history).map_err(|what| match what {
            Ok(error) => error,
            Err(what) => panic!("{}: {what}", to.display()),
        })?;
        if self.place.is_some() && self.sim().is_none() {
            std::fs::remove_dir_all(&to).unwrap();
        }
        self.check_head()
    }
}
