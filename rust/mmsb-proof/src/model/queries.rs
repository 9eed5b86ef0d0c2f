//! What a query gives is what going through the whole log gives.

use std::collections::{BTreeMap, BTreeSet};

use mmsb_core::{Bus, Error, LogEntry, Wanted};

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
