//! Indexes: for a sealed segment of the log a file that says where in it the commits of a page, of a source or with
//! certain metadata are, those that change more than bytes, and which epochs and times lie where.
//!
//! Invariants: an index says nothing that its segment does not say, and can be made anew at any time; a file under its
//! final name is complete; one that does not end where its segment ends, with the same chain value, means nothing; no
//! place that it names is believed before the record there was checked. Equal segments have equal indexes. FORMAT.md
//! gives every byte.

mod query;
mod read;
mod seek;
mod write;

#[cfg(test)]
mod exact_tests;
#[cfg(test)]
mod forged_tests;
#[cfg(test)]
mod tests;

pub(crate) use query::Query;
pub(crate) use read::Index;
pub(crate) use write::{Indexes, before, verify};

use std::path::{Path, PathBuf};

use crate::delta::{Op, Ops};
use crate::hash::h64;
#[cfg(test)]
use crate::log::u64_at;
use crate::log::{Commit, SegmentName};
use crate::museum::{Defect, planted};

const HEADER: usize = 4096;
const MAGIC: [u8; 16] = *b"\x89MMSB idx\r\n\x1a\n\0\xb5\xff";
const EXTENSION: &str = ".midx";
/// The name of an index that is being written.
const TEMP: &str = ".tmp";
/// Of so many commits the first has a mark.
pub(crate) const STRIDE: u64 = 64;
/// Bytes of a mark: offset and time.
const MARK: usize = 16;
/// Bytes of a block's entry in the directory: key, offset, position, hash.
const ENTRY: usize = 32;
/// A block ends with the run that reaches this size.
const BLOCK: usize = 4096;

// Where the header's fields are.
const UUID: usize = 40;
const SEQ: usize = 56;
const CHAIN: usize = 88;
const HASH: usize = 128;
const END: usize = HASH + 16;
const _: () = assert!(SEQ == UUID + 16 && CHAIN == SEQ + 4 * 8 && HASH == CHAIN + 5 * 8);

/// The directory of a store's indexes.
pub(crate) fn dir(store: &Path) -> PathBuf {
    store.join("index")
}

fn file_name(name: SegmentName) -> String {
    let stem = name.file();
    format!("{}{EXTENSION}", stem.strip_suffix(".mlog").unwrap_or(&stem))
}

/// The file of a segment's index.
fn path(store: &Path, name: SegmentName) -> PathBuf {
    dir(store).join(file_name(name))
}

/// What a query looks for; a commit must have all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// A page that the commit touched.
    pub page: Option<u64>,
    /// Who made it.
    pub source: Option<String>,
    /// Members of its metadata, each as it stands in the canonical text: `"step":7`.
    pub meta: Vec<String>,
}

/// What kind of thing a key stands for; in its two highest bits.
#[derive(Clone, Copy)]
enum Kind {
    Page = 0,
    Source = 1,
    Meta = 2,
    Other = 3,
}

/// The key of commits that do more than write bytes.
pub(crate) const STRUCTURE: u64 = (Kind::Other as u64) << 62;
/// The key of checkpoint marks.
pub(crate) const MARKS: u64 = STRUCTURE | 1;

/// The key of a page is its id, that of a text a part of its hash: short keys make small indexes, and that two texts
/// share one costs a look.
fn key(kind: Kind, value: u64) -> u64 {
    let value = if matches!(kind, Kind::Page) { value } else { value >> 26 };
    assert!(value < 1 << 62, "a page has an id that none can have");
    (kind as u64) << 62 | value
}

impl Wanted {
    /// Whether it asks for nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Wanted::default()
    }

    /// Whether a commit has all of it.
    fn is_in(&self, commit: &Commit<'_>) -> bool {
        self.source.as_deref().is_none_or(|source| commit.source == Some(source))
            && self.meta.iter().all(|want| members(commit.meta).any(|member| member == want))
            && self.page.is_none_or(|page| pages(commit).any(|touched| touched == page))
    }

    /// The keys that such a commit has.
    fn keys(&self) -> Vec<u64> {
        let page = self.page.and_then(page_key);
        let source = self.source.iter().map(|source| text_key(Kind::Source, source));
        let meta = self.meta.iter().map(|member| text_key(Kind::Meta, member));
        page.into_iter().chain(source).chain(meta).collect()
    }
}

fn text_key(kind: Kind, text: &str) -> u64 {
    key(kind, h64(text.as_bytes()))
}

/// The key of a page's commits; none for an id that no page can have.
pub(crate) fn page_key(id: u64) -> Option<u64> {
    (id < 1 << 62).then(|| key(Kind::Page, id))
}

/// The keys of what a commit did: of its pages, and whether it did more than write.
pub(crate) fn deeds<'a>(commit: &Commit<'a>) -> impl Iterator<Item = u64> + use<'a> {
    let most = if planted(Defect::IndexForgetsPages) { 1 } else { usize::MAX };
    let is_more = |op: &Op<'_>| !matches!(op, Op::Write { .. });
    let more = Ops::new(commit.ops).map_while(Result::ok).any(|op| is_more(&op));
    pages(commit).take(most).filter_map(page_key).chain(more.then_some(STRUCTURE))
}

/// All keys of a commit.
fn keys<'a>(commit: &Commit<'a>) -> impl Iterator<Item = u64> + use<'a> {
    let source = commit.source.map(|source| text_key(Kind::Source, source));
    let meta = members(commit.meta).map(|member| text_key(Kind::Meta, member));
    deeds(commit).chain(source).chain(meta)
}

/// The pages that a commit touched, some of them again and again; of damaged operations those before the damage.
fn pages<'a>(commit: &Commit<'a>) -> impl Iterator<Item = u64> + use<'a> {
    Ops::new(commit.ops).map_while(Result::ok).filter_map(|op| op.page())
}

/// The members of a canonical JSON object at its top level, each as it stands there.
fn members(meta: Option<&str>) -> impl Iterator<Item = &str> {
    let mut rest = meta.and_then(|text| text.strip_prefix('{')?.strip_suffix('}')).unwrap_or("");
    std::iter::from_fn(move || {
        let (mut depth, mut quoted, mut escaped) = (0u32, false, false);
        let ends = |c: char| {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = quoted,
                '"' => quoted = !quoted,
                _ if quoted => {}
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                ',' => return depth == 0,
                _ => {}
            }
            false
        };
        let end = rest.find(ends).unwrap_or(rest.len());
        let (member, behind) = rest.split_at(end);
        rest = behind.strip_prefix(',').unwrap_or("");
        (!member.is_empty()).then_some(member)
    })
}
