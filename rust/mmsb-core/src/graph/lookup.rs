//! From a page id to a small number: a table for ids that are dense, a hash map for the others.
//!
//! Page ids are handed out from one upwards, so the table nearly always holds them all; ids out of a
//! damaged file may be anything, so the table is never longer than a fixed multiple of what it holds.
//! The map is seeded at random by the standard library, so no file can be made to collide in it.
//!
//! Invariant: an id below the length of the table is in the table or nowhere.

use std::collections::HashMap;

/// An entry of the table that holds nothing.
const NONE: u32 = u32::MAX;

/// How many entries of the table one id may account for.
const SPREAD: u64 = 4;

/// How many ids the table may count on before they come.
const FLOOR: usize = 64;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lookup {
    dense: Vec<u32>,
    sparse: HashMap<u64, u32>,
    len: usize,
}

impl Lookup {
    /// Each id to its index in `ids`, which are distinct. Equal lists give equal look-ups.
    pub(super) fn of(ids: &[u64]) -> Self {
        let limit = limit(ids.len());
        let table = ids.iter().filter(|&&id| id < limit).max().map_or(0, |&id| id as usize + 1);
        let mut lookup = Self { dense: vec![NONE; table], ..Self::default() };
        for (at, &id) in (0u32..).zip(ids) {
            lookup.put(id, at);
        }
        lookup
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, id: u64) -> Option<u32> {
        match usize::try_from(id).ok().and_then(|at| self.dense.get(at)) {
            Some(&value) => (value != NONE).then_some(value),
            None => self.sparse.get(&id).copied(),
        }
    }

    /// Takes in an id that is not there yet.
    pub(super) fn insert(&mut self, id: u64, value: u32) {
        if id >= self.dense.len() as u64 && id < limit(self.len) {
            self.widen(id);
        }
        self.put(id, value);
    }

    pub(super) fn remove(&mut self, id: u64) {
        let held = match usize::try_from(id).ok().and_then(|at| self.dense.get_mut(at)) {
            Some(value) => std::mem::replace(value, NONE) != NONE,
            None => self.sparse.remove(&id).is_some(),
        };
        self.len -= usize::from(held);
    }

    /// The values by ascending id; in linear time where the ids are dense.
    pub(super) fn by_id(&self) -> Vec<u32> {
        let mut values = Vec::with_capacity(self.len);
        values.extend(self.dense.iter().filter(|&&value| value != NONE));
        let mut rest: Vec<_> = self.sparse.iter().map(|(&id, &value)| (id, value)).collect();
        rest.sort_unstable();
        values.extend(rest.into_iter().map(|(_, value)| value));
        values
    }

    fn put(&mut self, id: u64, value: u32) {
        let held = match usize::try_from(id).ok().and_then(|at| self.dense.get_mut(at)) {
            Some(held) => std::mem::replace(held, value) != NONE,
            None => self.sparse.insert(id, value).is_some(),
        };
        assert!(!held, "graph: page {id} is looked up as two");
        self.len += 1;
    }

    /// Lengthens the table to hold `id` and what the map already holds not far above.
    fn widen(&mut self, id: u64) {
        let near = 2 * limit(self.len);
        let last = self.sparse.keys().copied().filter(|&held| held < near).fold(id, u64::max);
        let table = (last as usize + 1).next_power_of_two();
        self.dense.resize(table, NONE);
        let dense = &mut self.dense;
        self.sparse.retain(|&held, &mut value| {
            let stays = held >= table as u64;
            if !stays {
                dense[held as usize] = value;
            }
            stays
        });
        self.sparse.shrink_to_fit();
    }
}

/// The ids below this belong in the table of a look-up that holds `len`.
fn limit(len: usize) -> u64 {
    SPREAD * (len.max(FLOOR) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_id_is_found_whatever_the_order_it_came_in() {
        let ids = [0, 1, 255, 256, 70_000, 1 << 32, u64::MAX - 1, u64::MAX];
        let mut lookup = Lookup::default();
        for (at, &id) in (0..).zip(ids.iter().rev()) {
            assert_eq!(lookup.get(id), None);
            lookup.insert(id, at);
            assert_eq!(lookup.get(id), Some(at));
        }
        assert_eq!(lookup.by_id(), [7, 6, 5, 4, 3, 2, 1, 0]);
        lookup.remove(256);
        lookup.remove(256);
        lookup.remove(255);
        assert_eq!((lookup.len(), lookup.get(255), lookup.get(256)), (6, None, None));
        assert_eq!(Lookup::of(&ids).get(u64::MAX), Some(7));
    }

    #[test]
    fn ids_that_come_from_above_move_into_the_table() {
        let mut lookup = Lookup::default();
        for id in (0..10_000u32).rev() {
            lookup.insert(id.into(), id);
        }
        assert!(lookup.sparse.is_empty());
        assert!((0..10_000).all(|id| lookup.get(id.into()) == Some(id)));
        assert!(lookup.by_id().into_iter().eq(0..10_000));
    }

    #[test]
    fn scattered_ids_do_not_lengthen_the_table() {
        let mut lookup = Lookup::default();
        for id in 1..10_000u32 {
            lookup.insert(u64::from(id) << 20, id);
        }
        assert_eq!((lookup.dense.len(), lookup.len()), (0, 9_999));
        assert!(lookup.by_id().into_iter().eq(1..10_000));
    }
}
