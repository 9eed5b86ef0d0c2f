//! Events through the public interface, compared with what the states before and after a commit say.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::*;
use crate::{Bus, How, NewPage, Options, PageInfo, Snapshot};

const NOW: Option<Duration> = Some(Duration::ZERO);

fn how() -> How<'static> {
    How { wait: true, time: Some(1), ..How::default() }
}

fn bus() -> Bus {
    Bus::memory(&Options::default()).unwrap()
}

fn commit(bus: &Bus, fill: impl FnOnce(&mut Batch)) -> crate::Result<crate::Committed> {
    let mut batch = Batch::new();
    fill(&mut batch);
    bus.commit(&mut batch, None, &how())
}

fn write(bus: &Bus, page: u64, byte: u8) -> u64 {
    bus.write(page, 0, &[byte], &how()).unwrap().epoch
}

/// What is there now.
fn all(of: &Subscription) -> Vec<Told> {
    std::iter::from_fn(|| of.next(NOW).unwrap().flatten()).collect()
}

fn epochs(told: &[Told]) -> Vec<u64> {
    told.iter()
        .map(|told| match told {
            Told::Event(event) => event.epoch,
            Told::Lagged(..) => 0,
        })
        .collect()
}

/// The lists of an event that follow from two states.
fn between(a: &Snapshot, b: &Snapshot) -> [Vec<u64>; 4] {
    let [was, is] = [a, b].map(|snapshot| snapshot.infos().unwrap());
    let find = |infos: &[PageInfo], id| infos.iter().find(|info| info.id == id).cloned();
    let ids: BTreeSet<u64> = was.iter().chain(&is).map(|info| info.id).collect();
    let [mut changed, mut created, mut deleted, mut described] = [const { Vec::new() }; 4];
    for id in ids {
        match (find(&was, id), find(&is, id)) {
            (None, Some(_)) => created.push(id),
            (Some(_), None) => deleted.push(id),
            (Some(was), Some(is)) => {
                if a.view(id).unwrap().bytes() != b.view(id).unwrap().bytes() {
                    changed.push(id);
                }
                if (&was.name, &was.shape, &was.meta) != (&is.name, &is.shape, &is.meta) {
                    described.push(id);
                }
            }
            (None, None) => {}
        }
    }
    [changed, created, deleted, described]
}

#[test]
fn each_commit_is_one_event_of_what_differs() {
    let bus = bus();
    let told = bus.subscribe(1000).unwrap();
    let mut random = 7_u64;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) % n
    };
    let mut states = vec![bus.snapshot().unwrap()];
    for step in 0..300 {
        let ids: Vec<u64> = states.last().unwrap().names().iter().map(|(id, _)| *id).collect();
        let (mut batch, mut written) = (Batch::new(), BTreeSet::new());
        for _ in 0..=below(3) {
            let id = ids.get(below(6) as usize).copied();
            match (below(6), id) {
                (0, Some(id)) if ids.len() > 4 && batch.is_empty() => batch.delete(id),
                (1, Some(id)) if batch.is_empty() => {
                    batch.rename(id, Some(&format!("{id} at {step}")));
                }
                (2, Some(id)) => batch.set_meta(id, ["{}", r#"{"a":1}"#][below(2) as usize]),
                // Written there and back, a page may count as changed or not.
                (3 | 4, Some(id)) if written.insert(id) => {
                    batch.write(id, 0, &[below(3) as u8]);
                }
                (_, None) if batch.is_empty() => {
                    let next = states.last().unwrap().next_id();
                    batch.create(next, &NewPage::bytes(&[1 + below(3)]));
                }
                _ => {}
            }
        }
        // Of a page that was deleted nothing else is written.
        if bus.commit(&mut batch, None, &how()).is_ok_and(|done| done.changed) {
            states.push(bus.snapshot().unwrap());
        }
    }
    let told = all(&told);
    assert!(told.len() > 150, "most of them are commits: {}", told.len());
    let events: Vec<_> = told
        .iter()
        .map(|told| match told {
            Told::Event(event) => event,
            Told::Lagged(..) => panic!("none was missed"),
        })
        .collect();
    assert_eq!(events.len(), states.len() - 1);
    for (event, states) in events.iter().zip(states.windows(2)) {
        assert_eq!(event.epoch, states[1].epoch());
        let [changed, created, deleted, described] = between(&states[0], &states[1]);
        assert_eq!(
            (&event.changed, &event.created, &event.deleted, &event.described),
            (&changed, &created, &deleted, &described)
        );
    }
}

#[test]
fn what_changes_nothing_and_what_fails_is_not_told() {
    let bus = bus();
    commit(&bus, |batch| batch.create(1, &NewPage::bytes(&[1]))).unwrap();
    let told = bus.subscribe(8).unwrap();
    assert!(!bus.write(1, 0, &[0], &how()).unwrap().changed);
    assert!(bus.write(1, 0, &[0, 0], &how()).is_err());
    assert!(commit(&bus, |batch| batch.delete(9)).is_err());
    assert_eq!(told.next(NOW).unwrap(), None);
    let epoch = write(&bus, 1, 1);
    assert_eq!(epochs(&all(&told)), [epoch]);
}

#[test]
fn a_full_queue_drops_the_oldest_and_says_so() {
    let bus = bus();
    commit(&bus, |batch| batch.create(1, &NewPage::bytes(&[1]))).unwrap();
    let (slow, quick) = (bus.subscribe(2).unwrap(), bus.subscribe(100).unwrap());
    let made: Vec<u64> = (1..=5).map(|byte| write(&bus, 1, byte)).collect();
    let told = all(&slow);
    assert_eq!(told[0], Told::Lagged(3, made[0], made[2]));
    assert_eq!(epochs(&told[1..]), made[3..]);
    assert_eq!(epochs(&all(&quick)), made);
    // It goes on as if nothing had been.
    let next = write(&bus, 1, 6);
    assert_eq!(epochs(&all(&slow)), [next]);
    // And never keeps more than it was made for.
    for byte in 0..100 {
        write(&bus, 1, byte);
    }
    assert_eq!(lock(&slow.queue.waiting).events.len(), 2);
    assert!(matches!(all(&slow)[..], [Told::Lagged(98, ..), Told::Event(_), Told::Event(_)]));
}

#[test]
fn closing_ends_what_waits_behind_what_is_left() {
    let bus = bus();
    commit(&bus, |batch| batch.create(1, &NewPage::bytes(&[1]))).unwrap();
    let (left, ended) = (bus.subscribe(8).unwrap(), bus.subscribe(8).unwrap());
    let waiting = bus.subscribe(8).unwrap();
    let epoch = write(&bus, 1, 1);
    ended.close();
    write(&bus, 1, 2);
    assert_eq!(epochs(&all(&ended)), [epoch], "what came before its end is there still");
    assert_eq!(ended.next(None).unwrap(), Some(None));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut count = 0;
            while waiting.next(None).unwrap().unwrap().is_some() {
                count += 1;
            }
            count
        });
        bus.close().unwrap();
        assert_eq!(waiter.join().unwrap(), 2);
    });
    assert_eq!(all(&left).len(), 2);
    assert_eq!(left.next(None).unwrap(), Some(None));
    assert_eq!(bus.subscribe(1).unwrap_err().code, Code::Closed);
}

#[test]
fn the_descriptor_is_readable_while_there_is_something_to_take() {
    let bus = bus();
    commit(&bus, |batch| batch.create(1, &NewPage::bytes(&[1]))).unwrap();
    let told = bus.subscribe(8).unwrap();
    told.signal().unwrap();
    let is_readable = || {
        let waiting = lock(&told.queue.waiting);
        let mut fds = [PollFd::new(waiting.signal.as_ref().unwrap(), PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    };
    assert!(!is_readable());
    write(&bus, 1, 1);
    write(&bus, 1, 2);
    assert!(is_readable());
    told.next(NOW).unwrap();
    assert!(is_readable(), "one is left");
    told.next(NOW).unwrap();
    assert!(!is_readable());
    bus.close().unwrap();
    assert!(is_readable(), "the end is something to take");
}

#[test]
fn who_let_go_is_forgotten() {
    let bus = bus();
    commit(&bus, |batch| batch.create(1, &NewPage::bytes(&[1]))).unwrap();
    drop(bus.subscribe(8).unwrap());
    write(&bus, 1, 1);
    let core = bus.core().unwrap();
    assert!(crate::sync::lock(&core.sequencer).subscribers.is_empty());
}
