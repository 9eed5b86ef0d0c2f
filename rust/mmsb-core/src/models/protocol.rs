//! Pins, view counts and the ring of roots, each with as little around it as it needs.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use loom::thread;

use super::{breaks, holds};
use crate::arena::{Arena, Backing, Mem, Slots};
use crate::root::{HEAD_BYTES, Head, Record, Root};
use crate::sync::{AtomicU64, fence, shared};

/// What is done wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// A reader does not fence between its pin and the second look at the head.
    PinWithoutFence,
    /// The reclaimer does not fence between publishing and reading the slots.
    ReclaimWithoutFence,
    /// The reclaimer reads the counts before the pins.
    CountsFirst,
    /// A view unpins before it counts.
    UnpinFirst,
}

/// A state of one word, in a frame of its own for each epoch; the root's `table` is the frame.
struct Small {
    arena: Arena,
    slots: Slots,
    head: Head,
    wrong: Wrong,
}

impl Small {
    fn new(wrong: Wrong) -> Arc<Small> {
        let arena = Arena::new(Backing::Heap, 1 << 17).unwrap();
        let at = arena.alloc().take(HEAD_BYTES).unwrap().offset;
        let table = Small::frame(&arena, 0);
        let head = Head::create(arena.mem, at, &Root { table, ..Root::empty() });
        Arc::new(Small { arena, slots: Slots::new(Backing::Heap).unwrap(), head, wrong })
    }

    fn frame(arena: &Arena, epoch: u64) -> u64 {
        let frame = arena.alloc().take(64).unwrap().offset;
        arena.mem.set(frame, epoch);
        frame
    }

    fn mem(&self) -> Mem {
        self.arena.mem
    }

    /// Publishes the next epoch and frees the frame of the last one if nothing reaches it.
    fn commit(&self) {
        let died = self.head.epoch().load(Ordering::Relaxed) + 1;
        let old = self.head.root(died - 1).unwrap().table;
        let table = Small::frame(&self.arena, died);
        self.head.publish(&Root { epoch: died, table, ..Root::empty() });
        let early = self.wrong == Wrong::CountsFirst && !self.arena.is_viewed(old);
        if self.wrong != Wrong::ReclaimWithoutFence {
            fence(Ordering::SeqCst);
        }
        let mut pins = Vec::new();
        self.slots.collect(&mut pins);
        let free = early || !self.arena.is_viewed(old);
        if free && !pins.contains(&(died - 1)) {
            self.mem().scribble(old, 64);
        }
    }

    /// Pins the newest epoch: the slot and the root.
    fn pin(&self) -> (usize, Root) {
        let slot = self.slots.claim_brief();
        loop {
            let epoch = if self.wrong == Wrong::PinWithoutFence {
                let epoch = self.head.epoch().load(Ordering::Acquire);
                self.slots.pin_at(slot, epoch);
                if self.head.epoch().load(Ordering::Acquire) != epoch {
                    continue;
                }
                epoch
            } else {
                self.slots.pin(slot, self.head.epoch())
            };
            if let Some(root) = self.head.root(epoch) {
                return (slot, root);
            }
        }
    }

    fn read_pinned(&self) {
        let (slot, root) = self.pin();
        assert_eq!(self.mem().get(root.table), root.epoch);
        self.slots.release(slot);
    }

    fn read_viewed(&self) {
        let (slot, root) = self.pin();
        if self.wrong == Wrong::UnpinFirst {
            self.slots.release(slot);
            self.arena.retain(root.table);
        } else {
            self.arena.retain(root.table);
            self.slots.release(slot);
        }
        assert_eq!(self.mem().get(root.table), root.epoch);
        self.arena.release(root.table);
    }
}

/// A writer makes so many commits while two readers read.
fn small(wrong: Wrong, commits: u64, read: fn(&Small)) -> impl Fn() + Sync + Send + 'static {
    move || {
        let state = Small::new(wrong);
        let readers = [0, 1].map(|_| {
            let state = Arc::clone(&state);
            thread::spawn(move || read(&state))
        });
        (0..commits).for_each(|_| state.commit());
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        let mut pins = Vec::new();
        state.slots.collect(&mut pins);
        assert!(pins.is_empty());
    }
}

#[test]
fn loom_pins() {
    holds("pins", small(Wrong::Nothing, 2, Small::read_pinned));
    breaks("pins, no fence in pin", small(Wrong::PinWithoutFence, 1, Small::read_pinned));
    breaks("pins, no fence in reclaim", small(Wrong::ReclaimWithoutFence, 1, Small::read_pinned));
}

#[test]
fn loom_counts() {
    holds("view counts", small(Wrong::Nothing, 2, Small::read_viewed));
    breaks("view counts read before pins", small(Wrong::CountsFirst, 1, Small::read_viewed));
    breaks("view counts after unpinning", small(Wrong::UnpinFirst, 1, Small::read_viewed));
}

const RING: u64 = 2;

fn place(epoch: u64) -> u64 {
    64 + epoch % RING * 64
}

fn values(epoch: u64) -> [u64; 2] {
    [100 + epoch, 200 + epoch]
}

fn read_record(mem: &Mem, epoch: u64) -> Option<[u64; 2]> {
    Record::at(mem, place(epoch), 2).read(epoch)
}

/// Looks at the stamp before it reads, and not after.
fn read_carelessly(mem: &Mem, epoch: u64) -> Option<[u64; 2]> {
    let [stamp, words @ ..] = mem.atomics(place(epoch), 3) else { return None };
    let is_right = shared(stamp).load(Ordering::Acquire) == epoch;
    is_right.then(|| std::array::from_fn(|i| shared(&words[i]).load(Ordering::Relaxed)))
}

/// Two readers and a writer of a ring of two records: what is read of an epoch is all of that epoch.
fn ring(read: fn(&Mem, u64) -> Option<[u64; 2]>) -> impl Fn() + Sync + Send + 'static {
    move || {
        let arena = Arc::new(Arena::new(Backing::Heap, 0).unwrap());
        let fill = |epoch| Record::at(&arena.mem, place(epoch), 2).fill(epoch, values(epoch));
        fill(0);
        let readers = [0, 1].map(|_| {
            let arena = Arc::clone(&arena);
            thread::spawn(move || {
                let epoch = arena.mem.atomic(0).load(Ordering::Acquire);
                if let Some(found) = read(&arena.mem, epoch) {
                    assert_eq!(found, values(epoch));
                }
            })
        });
        for epoch in 1..=2 {
            fill(epoch);
            arena.mem.atomic(0).store(epoch, Ordering::Release);
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert_eq!(read_record(&arena.mem, 2), Some(values(2)));
    }
}

#[test]
fn loom_ring() {
    holds("ring of roots", ring(read_record));
    breaks("ring of roots, no second look at the stamp", ring(read_carelessly));
}

/// Nobody gets a slot that somebody has, and whoever has pinned is seen, also in a slot that was another's before.
#[test]
fn loom_slots() {
    holds("slots", || {
        let slots = Arc::new(Slots::new(Backing::Heap).unwrap());
        let owned: Arc<[AtomicU64; 9]> = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        let pinned = Arc::new(AtomicU64::new(0));
        let claimers = [1, 2].map(|me| {
            let (slots, owned, pinned) =
                (Arc::clone(&slots), Arc::clone(&owned), Arc::clone(&pinned));
            thread::spawn(move || {
                let own = || {
                    let slot = slots.claim_brief();
                    assert_eq!(owned[slot].swap(me, Ordering::Relaxed), 0);
                    slot
                };
                let slot = own();
                assert_eq!(owned[slot].swap(0, Ordering::Relaxed), me);
                slots.release(slot);
                slots.pin_at(own(), me);
                pinned.fetch_or(me, Ordering::Release);
            })
        });
        let sure = pinned.load(Ordering::Acquire);
        let mut seen = Vec::new();
        slots.collect(&mut seen);
        assert!([1, 2].iter().all(|me| sure & me == 0 || seen.contains(me)));
        claimers.into_iter().for_each(|claimer| claimer.join().unwrap());
    });
}
