//! What a query gives is what going through the whole log gives; what a copy of a store shows is what the store showed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use mmsb_core::vfs::Vfs;
use mmsb_core::{Bus, Code, Durability, Error, LogEntry, Mode, Wanted, log};

use super::driver::{of_storage, options};
use super::state::{State, Unlike, compare};

/// What a commit can be asked for.
fn asked_of(entry: &LogEntry) -> BTreeSet<(Option<u64>, Option<String>, Vec<String>)> {
    let ops = entry.ops().map_while(Result::ok);
    let mut all: BTreeSet<_> =
        ops.filter_map(|op| op.page()).map(|page| (Some(page), None, Vec::new())).collect();
    all.extend(entry.source().map(|source| (None, Some(source.to_owned()), Vec::new())));
    // The metadata of the alphabet has one member.
    let member = entry.meta().and_then(|meta| meta.strip_prefix('{')?.strip_suffix('}'));
    all.extend(member.map(|member| (None, None, vec![member.to_owned()])));
    all
}

/// Compares every query that finds something, and some that find nothing.
///
/// # Errors
/// The first difference, in words. A log that cannot be gone through answers nothing here.
pub fn check_queries(bus: &Bus) -> Result<(), String> {
    let mut found = BTreeMap::from([
        ((Some(99), None, Vec::new()), Vec::new()),
        ((None, Some("nobody".to_owned()), Vec::new()), Vec::new()),
    ]);
    let Ok(entries) = bus.log(0, u64::MAX, false) else { return Ok(()) };
    for entry in entries {
        let Ok(entry) = entry else { return Ok(()) };
        for asked in asked_of(&entry) {
            found.entry(asked).or_default().push(entry.epoch());
        }
    }
    for ((page, source, meta), mut epochs) in found {
        let wanted = Wanted { page, source, meta };
        for reverse in [false, true] {
            let answer = bus.log_of(&wanted, 0, u64::MAX, reverse);
            let answer = answer.and_then(|log| log.map(|entry| Ok(entry?.epoch())).collect());
            let answer: Vec<u64> = answer.map_err(|e: Error| format!("{wanted:?}: {e}"))?;
            if answer != epochs {
                return Err(format!("{wanted:?} gives {answer:?}, the log {epochs:?}"));
            }
            epochs.reverse();
        }
    }
    Ok(())
}

/// What the extension of a copy's directory begins with.
pub(crate) const BACKUP: &str = "backup-";
/// What that of a fork begins with.
pub(crate) const FORK: &str = "fork-";

/// An error of the file system, or what is wrong.
fn failed(error: Error) -> Result<Error, String> {
    if of_storage(&error) { Ok(error) } else { Err(error.to_string()) }
}

fn unlike_at(epoch: u64, unlike: Unlike) -> Result<Error, String> {
    match unlike {
        Unlike::Refused(error) => failed(error),
        Unlike::Differs(what) => Err(format!("epoch {epoch}: {what}")),
    }
}

/// Compares a fork in a directory with the state that it was made of.
///
/// # Errors
/// An error of the file system, or what is wrong.
pub fn check_fork(
    vfs: &Arc<dyn Vfs>,
    dir: &Path,
    mode: Mode,
    history: &[Arc<State>],
) -> Result<(), Result<Error, String>> {
    let options = options(Durability::Os);
    let bus = Bus::open_on(vfs.clone(), dir, mode, &options, &mut |_, _| {}).map_err(failed)?;
    let meta = log::read_meta(&**vfs, dir).map_err(failed)?;
    let forked = meta.parent.ok_or(Err("a fork has no parent".to_string()))?.epoch;
    let snapshot = bus.snapshot_at(forked).map_err(failed)?;
    let want = history.get(forked as usize).ok_or(Err(format!("epoch {forked} never was")))?;
    compare(&snapshot, want).map_err(|unlike| unlike_at(forked, unlike))?;
    match bus.verify(&mut |_, _| {}).map_err(failed)?.problems.first() {
        Some(problem) => Err(failed(problem.clone())),
        None => Ok(()),
    }
}

/// Compares a copy of a store with the states that there were, the newest and some before; returns its epoch.
///
/// # Errors
/// An error of the file system, or what is wrong.
pub fn check_backup(
    vfs: &Arc<dyn Vfs>,
    dir: &Path,
    mode: Mode,
    history: &[Arc<State>],
) -> Result<u64, Result<Error, String>> {
    let options = options(Durability::Os);
    let bus = Bus::open_on(vfs.clone(), dir, mode, &options, &mut |_, _| {}).map_err(failed)?;
    let newest = bus.epoch();
    if bus.recovery().is_none_or(|found| found.torn_bytes > 0) {
        return Err(Err("a copy has a torn end".to_string()));
    }
    let base = log::read_meta(&**vfs, dir).map_err(failed)?.base.epoch;
    for epoch in [newest, newest / 2] {
        let snapshot = match bus.snapshot_at(epoch) {
            Err(error) if error.code == Code::EpochNotFound && epoch < base => continue,
            opened => opened.map_err(failed)?,
        };
        let want = history.get(epoch as usize).ok_or(Err(format!("epoch {epoch} never was")))?;
        compare(&snapshot, want).map_err(|unlike| unlike_at(epoch, unlike))?;
    }
    match bus.verify(&mut |_, _| {}).map_err(failed)?.problems.first() {
        Some(problem) => Err(failed(problem.clone())),
        None => Ok(newest),
    }
}
