//! The one operation alphabet, and the plain model that says what each operation must do.
//!
//! The model keeps a frozen copy of the state of every epoch. After each step all bytes, names, shapes, metadata, tags
//! and epochs are compared; nothing is compared by length or by "it ran".

mod alphabet;
mod driver;
mod follow;
mod opens;
mod queries;
mod state;

use mmsb_core::Durability;
use proptest::prelude::*;

pub use alphabet::{alphabet, random_act};
pub use driver::{Driver, Ledger, of_storage, options};
pub use follow::UNLUCKY;
pub use opens::Opens;
pub(crate) use queries::{BACKUP, FORK};
pub use queries::{check_backup, check_fork, check_queries};
pub use state::{Page, State, Unlike, check_snapshot, compare};

/// One step. Numbers are reduced to what is there when the step is taken.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub enum Act {
    /// A new page, filled.
    Create { name: Option<u8>, len: u32, fill: u8 },
    /// A page goes.
    Delete { page: u8 },
    /// A page gets another name or none.
    Rename { page: u8, name: Option<u8> },
    /// A page gets other metadata.
    SetMeta { page: u8, meta: u8 },
    /// A page gets another size.
    Resize { page: u8, len: u32 },
    /// Some bytes, blindly.
    Write { page: u8, at: u32, len: u32, byte: u8 },
    /// Several writes in one commit, with a durability of its own.
    Many { writes: Vec<(u8, u32, u8, u8)>, meta: Option<u8>, durability: Option<Durability> },
    /// An optimistic transaction, with another commit in between.
    Transaction { page: u8, at: u32, byte: u8, other_at: u32, other_byte: u8 },
    /// A new page that follows from one or two others: computed by a function, by an expression, when settled, or
    /// poisoned where it fails.
    Derive { inputs: (u8, u8), form: u8 },
    /// A page gets another place in the graph: another input, a link of some kind, or none.
    Place { page: u8, input: u8, kind: u8 },
    /// What is stale is computed.
    Settle,
    /// An epoch gets a name.
    Tag { name: u8, back: u8, move_: bool },
    /// A tag goes.
    Untag { name: u8 },
    /// The state of an earlier epoch, as a new commit.
    Restore { back: u8 },
    /// A fork in memory, written to and closed.
    Fork { back: u8, byte: u8 },
    /// A snapshot is kept and checked from now on.
    KeepSnapshot,
    /// A view is kept and checked from now on.
    KeepView { page: u8 },
    /// One of each kept goes.
    DropKept { which: u8 },
    /// A past epoch is opened.
    Travel { back: u8 },
    /// A checkpoint of the newest epoch.
    Checkpoint,
    /// One that nobody asked for.
    CheckpointUnasked,
    /// One that another commit meets at its `call`-th call of the file system.
    CheckpointDuring { call: u8, page: u8, byte: u8 },
    /// A copy of the store is made, opened and compared.
    Backup,
    /// The bus is closed, what is good of its store is written into another, compared, and the bus opened again.
    Recover,
    /// A fork in a directory, written to, closed and opened.
    ForkTo { back: u8, byte: u8 },
    /// History is let go, but the log since an epoch, some checkpoints, and those of every so many epochs.
    Prune { since: Option<u8>, checkpoints: Option<u8>, every: Option<u8> },
    /// The last epochs stay in memory: none, so many, or those of so many commits' time.
    Retain { rule: u8 },
    /// Everything is made durable.
    Sync,
    /// The bus is closed and opened again.
    Reopen,
}

/// Any durability.
pub fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Memory), Just(Durability::Os), Just(Durability::Disk)]
}

/// Sizes on both sides of every boundary that the engine has.
fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        0u32..200,
        Just(0),
        16_370u32..16_400,
        16_384u32 * 2 - 3..16_384 * 2 + 3,
        16_384u32 * 33..16_384 * 36,
        0u32..100_000,
    ]
}

/// Any step.
pub fn act() -> impl Strategy<Value = Act> {
    let name = || prop::option::of(0u8..6);
    let write = (any::<u8>(), any::<u32>(), any::<u8>(), any::<u8>());
    prop_oneof![
        4 => (name(), len(), any::<u8>()).prop_map(|(name, len, fill)| Act::Create { name, len, fill }),
        1 => any::<u8>().prop_map(|page| Act::Delete { page }),
        1 => (any::<u8>(), name()).prop_map(|(page, name)| Act::Rename { page, name }),
        1 => (any::<u8>(), 0u8..3).prop_map(|(page, meta)| Act::SetMeta { page, meta }),
        3 => (any::<u8>(), len()).prop_map(|(page, len)| Act::Resize { page, len }),
        8 => (any::<u8>(), any::<u32>(), len(), any::<u8>())
            .prop_map(|(page, at, len, byte)| Act::Write { page, at, len, byte }),
        4 => (prop::collection::vec(write, 0..6), prop::option::of(any::<u8>()), prop::option::of(durability()))
            .prop_map(|(writes, meta, durability)| Act::Many { writes, meta, durability }),
        3 => (any::<u8>(), any::<u32>(), any::<u8>(), any::<u32>(), any::<u8>()).prop_map(
            |(page, at, byte, other_at, other_byte)| Act::Transaction { page, at, byte, other_at, other_byte }
        ),
        3 => (any::<u8>(), any::<u8>(), 0u8..4)
            .prop_map(|(one, two, form)| Act::Derive { inputs: (one, two), form }),
        2 => (any::<u8>(), any::<u8>(), 0u8..4)
            .prop_map(|(page, input, kind)| Act::Place { page, input, kind }),
        1 => Just(Act::Settle),
        1 => (0u8..4, any::<u8>(), any::<bool>()).prop_map(|(name, back, move_)| Act::Tag { name, back, move_ }),
        1 => (0u8..4).prop_map(|name| Act::Untag { name }),
        1 => any::<u8>().prop_map(|back| Act::Restore { back }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(back, byte)| Act::Fork { back, byte }),
        2 => Just(Act::KeepSnapshot),
        2 => any::<u8>().prop_map(|page| Act::KeepView { page }),
        2 => any::<u8>().prop_map(|which| Act::DropKept { which }),
        2 => any::<u8>().prop_map(|back| Act::Travel { back }),
        1 => Just(Act::Checkpoint),
        1 => Just(Act::CheckpointUnasked),
        1 => (0u8..16, any::<u8>(), any::<u8>())
            .prop_map(|(call, page, byte)| Act::CheckpointDuring { call, page, byte }),
        1 => Just(Act::Backup),
        1 => Just(Act::Recover),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(back, byte)| Act::ForkTo { back, byte }),
        1 => (prop::option::of(any::<u8>()), prop::option::of(0u8..4), prop::option::of(0u8..12))
            .prop_map(|(since, checkpoints, every)| Act::Prune { since, checkpoints, every }),
        1 => prop_oneof![0u8..8, any::<u8>()].prop_map(|rule| Act::Retain { rule }),
        1 => Just(Act::Sync),
        1 => Just(Act::Reopen),
    ]
}
