//! Walking over the commits that a query looks for, forward or backward.
//!
//! Where a segment has an index only the records that it names are read; elsewhere, and from the first place on where
//! an index leads astray, all of the segment is. So a wrong index costs time, and never brings a wrong commit.

use std::sync::Arc;

use super::{Indexes, Wanted};
use crate::Result;
use crate::log::{self, LogCursor, OwnedCommit, SegmentName, Walk, commit_at};

/// The commits of a range of epochs that have what is wanted.
#[derive(Debug)]
pub(crate) struct Query {
    indexes: Arc<Indexes>,
    wanted: Wanted,
    reverse: bool,
    /// What is still to be looked through, the next part last.
    parts: Vec<Part>,
    stand: Option<Stand>,
}

/// Epochs of one segment.
#[derive(Debug, Clone, Copy)]
struct Part {
    name: SegmentName,
    since: u64,
    until: u64,
    /// Another segment follows, so this one is sealed.
    is_sealed: bool,
}

/// What is being read of a segment.
#[derive(Debug)]
enum Stand {
    /// The records that an index names, the next one last, and what is left of the part.
    Named(Box<Walk>, Vec<u64>, Part),
    /// All of them.
    All(Box<LogCursor>),
}

impl Query {
    pub(crate) fn new(
        indexes: Arc<Indexes>,
        wanted: Wanted,
        since: u64,
        until: u64,
        reverse: bool,
    ) -> Result<Query> {
        let (store, since) = (&indexes.store, since.max(1));
        let mut parts = Vec::new();
        // What is not in the log at all is told as it is without a query.
        LogCursor::new(Arc::clone(&store.vfs), &store.dir, since, until, reverse)?;
        let names = log::list(&*store.vfs, &store.dir)?;
        for (n, &name) in names.iter().enumerate() {
            let next = names.get(n + 1);
            let last = next.map_or(u64::MAX, |next| next.first_epoch - 1);
            let (since, until) = (since.max(name.first_epoch), until.min(last));
            if since <= until {
                parts.push(Part { name, since, until, is_sealed: next.is_some() });
            }
        }
        if !reverse {
            parts.reverse();
        }
        Ok(Query { indexes, wanted, reverse, parts, stand: None })
    }

    /// The next commit that has what is wanted.
    pub(crate) fn next_commit(&mut self) -> Result<Option<OwnedCommit>> {
        loop {
            let found = match self.stand.take() {
                Some(Stand::All(cursor)) => self.next_of_all(cursor)?,
                Some(Stand::Named(walk, places, part)) => self.next_named(walk, places, part)?,
                None => match self.parts.pop() {
                    Some(part) => {
                        self.stand = Some(self.begin(part)?);
                        None
                    }
                    None => return Ok(None),
                },
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn begin(&self, part: Part) -> Result<Stand> {
        let store = &self.indexes.store;
        let walk = log::open_sparse(&*store.vfs, &store.dir, part.name, None);
        let mut walk = walk.map_err(|e| log::let_go(&*store.vfs, &store.dir, part.name, e))?;
        let Some(index) = self.indexes.get(part.name, &mut walk, part.is_sealed)? else {
            return self.read_all(part);
        };
        let places = index.places(&self.wanted.keys(), part.since, part.until)?;
        let Some(mut places) = places else { return self.read_instead(part) };
        if !self.reverse {
            places.reverse();
        }
        Ok(Stand::Named(Box::new(walk), places, part))
    }

    /// Reads what a damaged index does not tell.
    fn read_instead(&self, part: Part) -> Result<Stand> {
        self.indexes.renew(part.name);
        self.read_all(part)
    }

    fn read_all(&self, part: Part) -> Result<Stand> {
        let store = &self.indexes.store;
        let Part { since, until, .. } = part;
        let vfs = Arc::clone(&store.vfs);
        let cursor = LogCursor::new(vfs, &store.dir, since, until, self.reverse)?;
        Ok(Stand::All(Box::new(cursor)))
    }

    fn next_of_all(&mut self, mut cursor: Box<LogCursor>) -> Result<Option<OwnedCommit>> {
        while let Some(commit) = cursor.next_commit()? {
            if self.wanted.is_in(&commit) {
                let found = commit.into();
                self.stand = Some(Stand::All(cursor));
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn next_named(
        &mut self,
        mut walk: Box<Walk>,
        mut places: Vec<u64>,
        mut part: Part,
    ) -> Result<Option<OwnedCommit>> {
        while let Some(place) = places.pop() {
            let commit = commit_at(&mut walk.window, &walk.header, &walk.path, place)?;
            let Some(commit) = commit else {
                // The index is wrong, or the record is damaged, which whoever reads all will say.
                self.stand = Some(self.read_instead(part)?);
                return Ok(None);
            };
            let epoch = commit.epoch;
            if !(part.since..=part.until).contains(&epoch) || !self.wanted.is_in(&commit) {
                continue;
            }
            let found = commit.into();
            match self.reverse {
                true => part.until = epoch - 1,
                false => part.since = epoch + 1,
            }
            if part.since <= part.until {
                self.stand = Some(Stand::Named(walk, places, part));
            }
            return Ok(Some(found));
        }
        Ok(None)
    }
}
