//! Acts for enumeration: each kind with one or two small sets of numbers; and random ones of the same sizes.
//!
//! Pages are of tens of bytes, of one block, or of three; some commits are longer than a small segment.

use mmsb_core::Durability;

use super::{Act, UNLUCKY};
use crate::rng::Rng;

/// Every kind of act.
pub fn alphabet() -> Vec<Act> {
    let three_blocks = 2 * 16_384 + 100;
    vec![
        Act::Create { name: Some(0), len: 40, fill: 1 },
        Act::Create { name: None, len: three_blocks, fill: 2 },
        Act::Create { name: Some(1), len: 700, fill: 0 },
        Act::Delete { page: 0 },
        Act::Rename { page: 0, name: Some(2) },
        Act::SetMeta { page: 0, meta: 1 },
        Act::Resize { page: 0, len: 90 },
        Act::Resize { page: 0, len: three_blocks },
        Act::Write { page: 0, at: 3, len: 20, byte: 7 },
        Act::Write { page: 1, at: 0, len: 650, byte: 8 },
        Act::Many { writes: vec![(0, 1, 5, 3), (1, 2, 9, 4)], meta: Some(1), durability: None },
        Act::Many { writes: vec![(0, 9, 30, 5)], meta: None, durability: Some(Durability::Disk) },
        Act::Many {
            writes: vec![(0, 4, 8, 6)],
            meta: Some(2),
            durability: Some(Durability::Memory),
        },
        Act::Transaction { page: 0, at: 5, byte: 1, other_at: 9, other_byte: 2 },
        Act::Derive { inputs: (0, 1), form: 0 },
        Act::Derive { inputs: (0, 0), form: 1 },
        Act::Derive { inputs: (0, 1), form: 2 },
        Act::Derive { inputs: (0, 2), form: 3 },
        Act::Place { page: 1, input: 0, kind: 1 },
        Act::Place { page: 2, input: 1, kind: 0 },
        Act::Write { page: 0, at: 0, len: 1, byte: UNLUCKY },
        Act::Settle,
        Act::Tag { name: 0, back: 0, move_: true },
        Act::Untag { name: 0 },
        Act::Restore { back: 1 },
        Act::Fork { back: 0, byte: 5 },
        Act::KeepSnapshot,
        Act::KeepView { page: 0 },
        Act::DropKept { which: 0 },
        Act::Travel { back: 1 },
        Act::Checkpoint,
        Act::CheckpointUnasked,
        Act::CheckpointDuring { call: 2, page: 0, byte: 9 },
        Act::CheckpointDuring { call: 5, page: 0, byte: 10 },
        Act::Backup,
        Act::Recover,
        Act::ForkTo { back: 1, byte: 6 },
        Act::Prune { since: Some(0), checkpoints: None, every: None },
        Act::Prune { since: Some(1), checkpoints: Some(1), every: Some(2) },
        Act::Retain { rule: 2 },
        Act::Sync,
        Act::Reopen,
    ]
}

/// An act of a long workload. There are more writes than anything else.
pub fn random_act(rng: &mut Rng) -> Act {
    let byte = |rng: &mut Rng| rng.next_u64() as u8;
    let len = |rng: &mut Rng| match rng.below(8) {
        0 => 16_384 + rng.below(3) as u32 - 1,
        1 => rng.below(40_000) as u32,
        _ => rng.below(900) as u32,
    };
    let name = |rng: &mut Rng| rng.coin().then_some(rng.below(6) as u8);
    let durability = |rng: &mut Rng| match rng.below(4) {
        0 => Some(Durability::Memory),
        1 => Some(Durability::Os),
        2 => Some(Durability::Disk),
        _ => None,
    };
    let page = byte(rng);
    // What takes no number of its own leaves all that follow as they were.
    if page % 8 == 5 {
        return match page / 8 {
            0..16 => Act::Derive { inputs: (byte(rng), byte(rng)), form: page / 8 % 4 },
            16..28 => Act::Place { page: byte(rng), input: byte(rng), kind: page / 8 % 4 },
            _ => Act::Settle,
        };
    }
    match rng.below(32) {
        0..=2 => Act::Create { name: name(rng), len: len(rng), fill: byte(rng) },
        3 => Act::Delete { page },
        4 => Act::Rename { page, name: name(rng) },
        5 => Act::SetMeta { page, meta: rng.below(3) as u8 },
        6 => Act::Resize { page, len: len(rng) },
        7..=11 => Act::Write { page, at: rng.below(900) as u32, len: len(rng), byte: byte(rng) },
        12..=14 => Act::Many {
            writes: (0..rng.below(5))
                .map(|_| (byte(rng), rng.below(900) as u32, byte(rng), byte(rng)))
                .collect(),
            meta: rng.coin().then(|| byte(rng)),
            durability: durability(rng),
        },
        15 | 16 => Act::Transaction {
            page,
            at: rng.below(900) as u32,
            byte: byte(rng),
            other_at: rng.below(900) as u32,
            other_byte: byte(rng),
        },
        17 => Act::Tag { name: rng.below(4) as u8, back: byte(rng), move_: rng.coin() },
        18 => Act::Untag { name: rng.below(4) as u8 },
        19 => Act::Restore { back: rng.below(6) as u8 },
        20 => Act::Fork { back: rng.below(6) as u8, byte: byte(rng) },
        21 => Act::KeepSnapshot,
        22 => Act::KeepView { page },
        23 => Act::DropKept { which: page },
        24 => Act::Travel { back: byte(rng) },
        25 => Act::Checkpoint,
        26 => Act::CheckpointUnasked,
        27 if page % 3 == 0 => Act::ForkTo { back: page / 3, byte: page },
        27 => Act::Backup,
        28 => Act::CheckpointDuring { call: rng.below(12) as u8, page, byte: byte(rng) },
        29 => Act::Sync,
        30 if page % 2 == 1 => Act::Recover,
        30 => Act::Prune {
            since: (page % 16 != 0).then_some(page / 16),
            checkpoints: (page / 2 % 3).checked_sub(1),
            every: (page % 5 == 0).then_some(page / 2 % 7),
        },
        _ => Act::Reopen,
    }
}
