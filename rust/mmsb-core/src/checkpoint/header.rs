//! A checkpoint's header: what it says, and its bytes.

use std::path::Path;

use super::damage;
use crate::Result;
use crate::apply::MAX_ID;
use crate::hash::{h64, is_zero};
use crate::log::{FORMAT, array, check_version, checked, u64_at};

pub(super) const HEADER: usize = 4096;
const MAGIC: [u8; 16] = *b"\x89MMSB ckpt\r\n\x1a\n\0\xff";
/// The required feature of a checkpoint that tells of pages run by run.
const RUNS: u64 = 1;
/// The required feature of one that tells of each page what it follows from.
const GRAPH: u64 = 2;
/// No log gets so far; so that epochs can be counted on without an overflow.
const MAX_EPOCH: u64 = 1 << 63;

// Where the fields are.
const VERSION: usize = 16;
const AUTOMATIC: usize = 20;
const REQUIRED: usize = 24;
const OPTIONAL: usize = 32;
const UUID: usize = 40;
const EPOCH: usize = 56;
const INDEX_AT: usize = 96;
const SIZE: usize = 112;
const INDEX_HASH: usize = 120;
const DIGEST: usize = 136;
pub(super) const BASE: usize = 152;
const END: usize = 168;
const SUM: usize = HEADER - 8;

const _: () = {
    // As in all files.
    assert!(VERSION == MAGIC.len());
    assert!(VERSION == 16);
    assert!(REQUIRED == 24);
    // Each field behind the one before it.
    assert!(OPTIONAL == REQUIRED + 8);
    assert!(UUID == OPTIONAL + 8);
    assert!(EPOCH == UUID + 16);
    assert!(INDEX_AT == EPOCH + 5 * 8);
    assert!(SIZE == INDEX_AT + 2 * 8);
    assert!(INDEX_HASH == SIZE + 8);
    assert!(DIGEST == INDEX_HASH + 16);
    assert!(BASE == DIGEST + 16);
    assert!(END == BASE + 2 * 8);
    assert!(END < SUM);
};

/// What a checkpoint's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(super) automatic: bool,
    pub(super) uuid: [u8; 16],
    pub(crate) epoch: u64,
    pub(crate) time: u64,
    pub(crate) next_id: u64,
    pub(super) pages: u64,
    pub(super) tags: u64,
    pub(super) index_at: u64,
    pub(super) index_len: u64,
    pub(super) index_hash: u128,
    pub(crate) digest: u128,
    /// Pages may be told of run by run.
    pub(super) has_runs: bool,
    /// Pages may have a place in the graph.
    pub(super) has_graph: bool,
    /// Epoch and checksum of the header of the checkpoint that has what this one does not have itself.
    pub(super) base: Option<(u64, u64)>,
}

fn wide(head: &[u8; HEADER], at: usize) -> u128 {
    u128::from(u64_at(head, at)) | u128::from(u64_at(head, at + 8)) << 64
}

/// Whether the bytes are what was written.
pub(super) fn is_whole(head: &[u8; HEADER]) -> bool {
    checked(head, HEADER, &MAGIC)
}

/// Whether the checkpoint was made without being asked for.
pub(super) fn is_automatic(head: &[u8; HEADER]) -> bool {
    head[AUTOMATIC] == 1
}

/// The epoch that the checkpoint is of.
pub(super) fn epoch(head: &[u8; HEADER]) -> u64 {
    u64_at(head, EPOCH)
}

/// The epoch of the checkpoint that it stands on.
pub(super) fn base(head: &[u8; HEADER]) -> Option<u64> {
    Some(u64_at(head, BASE)).filter(|&epoch| epoch > 0)
}

/// The checksum of a header.
pub(super) fn sum(head: &[u8; HEADER]) -> u64 {
    u64_at(head, SUM)
}

/// The store that the checkpoint is of.
pub(super) fn uuid(head: &[u8; HEADER]) -> [u8; 16] {
    array(head, UUID)
}

impl Header {
    /// The size of the file.
    pub(crate) fn size(&self) -> u64 {
        self.index_at + self.index_len
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        assert!(self.index_at >= HEADER as u64, "the index lies behind the header");
        assert!(self.index_at.is_multiple_of(8), "the index is aligned");
        assert!(self.epoch < MAX_EPOCH, "a log has come to the end of its epochs");
        assert!(self.next_id >= 1, "ids begin with 1");
        assert!(self.next_id <= MAX_ID, "ids are within their range");
        assert!(self.epoch > 0 || self.pages + self.tags == 0, "something is before all commits");
        assert!(self.pages + self.tags <= self.index_len, "an entry takes no bytes");
        let mut head = [0; HEADER];
        head[..VERSION].copy_from_slice(&MAGIC);
        head[VERSION..VERSION + 2].copy_from_slice(&FORMAT.0.to_le_bytes());
        head[AUTOMATIC] = u8::from(self.automatic);
        head[UUID..EPOCH].copy_from_slice(&self.uuid);
        let words = [self.epoch, self.time, self.next_id, self.pages, self.tags];
        let places = [self.index_at, self.index_len, self.size()];
        let fields = head[EPOCH..INDEX_HASH].chunks_exact_mut(8);
        assert_eq!(fields.len(), words.len() + places.len(), "each number has its field");
        for (field, word) in fields.zip(words.into_iter().chain(places)) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        head[INDEX_HASH..DIGEST].copy_from_slice(&self.index_hash.to_le_bytes());
        head[DIGEST..BASE].copy_from_slice(&self.digest.to_le_bytes());
        head[REQUIRED] = u8::from(self.has_runs) | u8::from(self.has_graph) << 1;
        if let Some((epoch, sum)) = self.base {
            assert!(self.has_runs && 0 < epoch && epoch < self.epoch, "it stands on an older one");
            head[BASE..BASE + 8].copy_from_slice(&epoch.to_le_bytes());
            head[BASE + 8..END].copy_from_slice(&sum.to_le_bytes());
        }
        let sum = h64(&head[..SUM]);
        head[SUM..].copy_from_slice(&sum.to_le_bytes());
        assert!(is_whole(&head), "a header reads as none");
        head
    }

    /// Decodes the header of a file of `size` bytes that is to be the checkpoint of `epoch` in the store `uuid`.
    pub(super) fn decode(
        head: &[u8; HEADER],
        path: &Path,
        epoch: u64,
        uuid: [u8; 16],
        size: u64,
    ) -> Result<Header> {
        let bad = |offset: usize, what: &str| Err(damage(path, offset as u64, epoch, what));
        if !is_whole(head) {
            return bad(0, "the checkpoint's header is damaged");
        }
        check_version(head, RUNS | GRAPH, path)?;
        let required = u64_at(head, REQUIRED);
        let (has_runs, has_graph) = (required & RUNS != 0, required & GRAPH != 0);
        if head[UUID..EPOCH] != uuid || u64_at(head, EPOCH) != epoch {
            return bad(UUID, "the checkpoint is of another store or epoch");
        }
        if epoch >= MAX_EPOCH {
            return bad(EPOCH, "no log gets to this epoch");
        }
        let (index_at, index_len) = (u64_at(head, INDEX_AT), u64_at(head, INDEX_AT + 8));
        let fits = index_at.checked_add(index_len) == Some(size) && u64_at(head, SIZE) == size;
        let base = match u64_at(head, BASE) {
            0 if u64_at(head, BASE + 8) == 0 => None,
            base if has_runs && 0 < base && base < epoch => Some((base, u64_at(head, BASE + 8))),
            _ => return bad(BASE, "the checkpoint stands on none that there can be"),
        };
        if !fits || index_at < HEADER as u64 || !is_zero(&head[END..SUM]) {
            return bad(INDEX_AT, "the checkpoint's size is not what it says");
        }
        Ok(Header {
            automatic: is_automatic(head),
            uuid,
            epoch,
            time: u64_at(head, EPOCH + 8),
            next_id: u64_at(head, EPOCH + 16),
            pages: u64_at(head, EPOCH + 24),
            tags: u64_at(head, EPOCH + 32),
            index_at,
            index_len,
            index_hash: wide(head, INDEX_HASH),
            digest: wide(head, DIGEST),
            has_runs,
            has_graph,
            base,
        })
    }
}
