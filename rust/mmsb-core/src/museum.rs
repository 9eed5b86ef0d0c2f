//! The museum: defects that this project or its relatives had or could have, each behind a switch, so that the proofs
//! can be seen to find them. `scripts/museum` names the proof beside each defect and runs it.
//!
//! The switches exist with the feature `museum` only, which is for tests: there the environment variable `MMSB_MUSEUM`
//! names the defect that is planted. Without the feature [`planted`] is `false` when the code is compiled.

/// A defect that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// A record's payload is believed without its checksum (D1).
    PayloadNotChecked,
    /// A log that ends in the middle of a record is refused (D2).
    TornTailRefused,
    /// What proves that lost bytes had been durable is not looked at: a shortened log opens (D2).
    PromiseIgnored,
    /// Torn bytes are left in place behind the last good record (D3).
    TornTailKept,
    /// A durable commit is acknowledged before it is synced (D3).
    AcknowledgedBeforeSync,
    /// A commit is visible though its record was never written (D3).
    AppliedWithoutLog,
    /// A number in a record loses its high bits (D4).
    NumberCut,
    /// The id of a deleted page is given again (D5).
    IdGivenAgain,
    /// Two transactions create the same page (D6).
    CreationNotValidated,
    /// A past epoch is built from a checkpoint that is newer (D7).
    ReplayFromLaterBase,
    /// Memory is used again without being cleared (D8).
    FrameNotCleared,
    /// Freed memory is never taken off the account (D9).
    FreedNotCounted,
    /// A commit that fails in the middle keeps what it had done (D18).
    HalfCommitKept,
    /// Old versions are freed although a snapshot shows them (D19).
    PinIgnored,
    /// Old versions are freed although an array shows them (D19, D23).
    ViewNotCounted,
    /// Two hosts open one directory (D21).
    LockNotTaken,
    /// Names in a directory are not synced.
    DirectoryNotSynced,
    /// A checkpoint gets its name before its bytes are durable.
    RenamedBeforeSync,
    /// A checkpoint gets its name before the log reaches its epoch.
    CheckpointBeforeLog,
    /// A new host trusts what the page cache shows after a failed sync.
    CacheTrusted,
    /// A failed sync is asked for again.
    SyncRetried,
    /// Both durable positions are written to the same meta slot.
    OneMetaSlot,
    /// An optimistic transaction is not compared with what others wrote meanwhile.
    ConflictMissed,
    /// A checkpoint forgets the tags.
    TagsForgotten,
    /// The digest does not see names.
    DigestBlindToNames,
    /// An index names one page a commit.
    IndexForgetsPages,
    /// A copy that is being made is not told from a store.
    CopyNotMarked,
    /// Old versions are freed although the window has an epoch that shows them.
    WindowIgnored,
    /// An index is believed whatever became of its segment.
    IndexNotBound,
    /// The checkpoint that the log begins with is thinned like any other.
    BaseThinned,
    /// A checkpoint is thinned though another stands on it.
    GroundThinned,
    /// Segments go before the slots say durably where the log begins.
    PrunedBeforeBase,
    /// The log is made to begin with a checkpoint whose name no sync has reached.
    NamesNotSynced,
    /// A page may follow from itself (D11).
    SelfEdgeTaken,
    /// A graph is not what the log says after a commit that failed (D14).
    GraphNotTakenBack,
    /// What follows from a page is computed at once, before its other inputs are (D15).
    ComputedAtOnce,
    /// What depends on a page that did not change is computed all the same.
    NothingCutOff,
    /// A function computes a page from inputs for which it was not registered (D16).
    BoundToAnything,
    /// A queue of events grows as long as nobody takes them (D17).
    QueueNotBounded,
    /// A page whose inputs changed is not marked stale.
    StaleForgotten,
    /// A checkpoint forgets the graph (D16).
    GraphForgotten,
    /// The digest does not see the graph (D14).
    DigestBlindToGraph,
    /// The name of the last segment is taken for a promise that all before it was durable.
    NamePromises,
}

/// Whether this defect is planted.
#[cfg(feature = "museum")]
pub(crate) fn planted(defect: Defect) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<Option<String>> = OnceLock::new();
    let planted = PLANTED.get_or_init(|| std::env::var("MMSB_MUSEUM").ok());
    planted.as_ref().is_some_and(|name| *name == format!("{defect:?}"))
}

/// Whether this defect is planted: never.
#[cfg(not(feature = "museum"))]
#[inline(always)]
pub(crate) const fn planted(_: Defect) -> bool {
    false
}
