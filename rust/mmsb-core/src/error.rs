//! Every failure of the core: one type, with a stable code that users may match on.
//!
//! The list of codes is append-only. `Code::class` names the Python exception that carries it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::graph::Edge;
use crate::propagate::Cause;

/// Result of every fallible call of the core.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure: what kind, a sentence for people, and where it happened.
#[derive(Debug, Clone)]
pub struct Error {
    /// The stable kind.
    pub code: Code,
    /// What was wrong, where, and what to do.
    pub message: String,
    /// Machine-readable place.
    pub detail: Detail,
}

/// Where a failure happened, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// The file that is damaged or could not be used.
    pub file: Option<PathBuf>,
    /// Byte offset in that file.
    pub offset: Option<u64>,
    /// The epoch that is affected.
    pub epoch: Option<u64>,
    /// The operating system's error number.
    pub errno: Option<i32>,
    /// The process that holds a lock.
    pub pid: Option<u32>,
    /// The place in the graph.
    pub graph: Option<Box<InGraph>>,
}

/// Where in the graph a failure happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InGraph {
    /// The page that could not be computed.
    pub page: Option<u64>,
    /// The edges of a cycle, or those from what was changed to the page.
    pub path: Vec<Edge>,
    /// What its function raised.
    pub cause: Option<Cause>,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $class:literal;)*) => {
        /// The stable kinds of failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }
        impl Code {
            /// All kinds, in the order of their introduction.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];
            /// The stable kebab-case code.
            pub fn as_str(self) -> &'static str { match self { $(Code::$name => $code,)* } }
            /// The Python class that carries it.
            pub fn class(self) -> &'static str { match self { $(Code::$name => $class,)* } }
        }
    };
}

codes! {
    /// No page has this id or name.
    PageNotFound = "page-not-found", "PageNotFoundError";
    /// The name belongs to another page.
    PageExists = "page-exists", "PageExistsError";
    /// The directory already holds a bus.
    BusExists = "bus-exists", "BusExistsError";
    /// The directory holds no bus.
    BusNotFound = "bus-not-found", "BusNotFoundError";
    /// A delta does not fit its page.
    InvalidDelta = "invalid-delta", "InvalidDeltaError";
    /// The transaction has ended.
    TransactionClosed = "transaction-closed", "TransactionClosedError";
    /// Another commit changed what this transaction wrote or read.
    Conflict = "conflict", "ConflictError";
    /// The bus or snapshot is closed.
    Closed = "closed", "ClosedError";
    /// The bus was opened for reading.
    ReadOnly = "read-only", "ReadOnlyError";
    /// The handle was inherited through fork(2).
    ForkedHandle = "forked-handle", "ForkedHandleError";
    /// Another process is the host.
    BusLocked = "bus-locked", "BusLockedError";
    /// The epoch is not there.
    EpochNotFound = "epoch-not-found", "EpochNotFoundError";
    /// No tag has this name.
    TagNotFound = "tag-not-found", "TagNotFoundError";
    /// The tag names another epoch.
    TagExists = "tag-exists", "TagExistsError";
    /// Bytes on disk are not what was written.
    Corruption = "corruption", "CorruptionError";
    /// The store was written by a newer version.
    FormatVersion = "format-version", "FormatVersionError";
    /// The operating system refused an operation on a file.
    Storage = "storage", "StorageError";
    /// Memory or disk is used up.
    OutOfSpace = "out-of-space", "OutOfSpaceError";
    /// All pin slots are taken.
    TooManySnapshots = "too-many-snapshots", "TooManySnapshotsError";
    /// Append or sync failed: only reopening tells whether the commit is there.
    CommitOutcomeUnknown = "commit-outcome-unknown", "CommitOutcomeUnknownError";
    /// A value is wrong.
    Argument = "argument", "ArgumentError";
    /// A type is wrong.
    ArgumentType = "argument-type", "ArgumentTypeError";
    /// An index does not fit the page.
    PageIndex = "page-index", "PageIndexError";
    /// Pages would follow from each other in a circle.
    GraphCycle = "graph-cycle", "GraphCycleError";
    /// A derived page could not be computed.
    Propagation = "propagation", "PropagationError";
    /// A function that computes a page waited for its own commit.
    Reentrancy = "reentrancy", "ReentrancyError";
    /// A bug in MMSB.
    Internal = "internal", "InternalError";
    /// The call would have to wait; nothing happened. Never reaches users.
    WouldBlock = "would-block", "InternalError";
}

impl Error {
    /// A failure without a place.
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error { code, message: message.into(), detail: Detail::default() }
    }

    /// Damage in a file.
    pub fn corruption(
        file: &Path,
        offset: Option<u64>,
        epoch: Option<u64>,
        what: impl fmt::Display,
    ) -> Error {
        let mut message = format!("{}: {what}", file.display());
        if let Some(offset) = offset {
            message.push_str(&format!(" at offset {offset}"));
        }
        if let Some(epoch) = epoch {
            message.push_str(&format!(" (epoch {epoch})"));
        }
        message.push_str("; run `mmsb verify`, and restore from a backup or save what is good with `mmsb recover`");
        let detail = Detail { file: Some(file.to_path_buf()), offset, epoch, ..Detail::default() };
        Error { code: Code::Corruption, message, detail }
    }

    /// A failed call of the operating system.
    pub fn storage(file: &Path, source: &io::Error, doing: &str) -> Error {
        let missing = rustix::io::Errno::NOENT.raw_os_error();
        let is_missing = source.kind() == io::ErrorKind::NotFound;
        let errno = source.raw_os_error().or(is_missing.then_some(missing));
        let full = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT, rustix::io::Errno::FBIG]
            .iter()
            .any(|e| Some(e.raw_os_error()) == errno)
            || matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory);
        let code = if full { Code::OutOfSpace } else { Code::Storage };
        let message = format!("{doing} {}: {source}", file.display());
        let detail = Detail { file: Some(file.to_path_buf()), errno, ..Detail::default() };
        Error { code, message, detail }
    }

    /// Whether there was no file of that name.
    pub(crate) fn is_missing(&self) -> bool {
        self.detail.errno == Some(rustix::io::Errno::NOENT.raw_os_error())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_kebab_case() {
        let mut seen: Vec<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert!(seen.iter().all(|c| c.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), Code::ALL.len());
    }
}
