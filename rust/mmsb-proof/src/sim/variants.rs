//! What may be left of a disk at one moment: the ways of losing what was not durable, and of being killed in the
//! middle of a store.

use super::{Choice, Disk, Point};
use crate::rng::{Rng, mix};

/// One way of coming to an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variant {
    /// The process is killed, the machine goes on.
    Kill,
    /// The process is killed when so many bytes of its last store are done.
    Cut(usize),
    /// The power goes; these answers are given to the choices in their order, and no to all others.
    Exactly(Vec<bool>),
    /// Nothing that was not durable is left.
    Nothing,
    /// Everything is left.
    Everything,
    /// Only names and directories.
    Names,
    /// Names and lengths: files of zeros.
    NamesAndLengths,
    /// Names and contents within the old lengths.
    NamesAndSectors,
    /// Lengths and contents of the files that had a durable name.
    LengthsAndSectors,
    /// Only lengths.
    Lengths,
    /// Only contents.
    Sectors,
    /// The first choices in their order.
    First(usize),
    /// The last ones.
    Last(usize),
    /// Each name and length or not; contents in blocks of 4 KiB.
    Blocks(u64),
    /// Names and lengths are left; of the sectors so many in eight.
    SomeSectors(u64, u64),
    /// So many in eight of everything.
    SomeOfAll(u64, u64),
}

fn chance(seed: u64, number: u64, eighths: u64) -> bool {
    mix(seed, number) % 8 < eighths
}

impl Variant {
    /// What is left.
    pub fn of(&self, point: &Point) -> Disk {
        let disk = &point.disk;
        let mut number = 0;
        let mut keep = |choose: &dyn Fn(u64, Choice) -> bool| {
            disk.after_crash(&mut |choice| {
                number += 1;
                choose(number - 1, choice)
            })
        };
        let is_name = |choice| matches!(choice, Choice::Directory(_) | Choice::Name(_));
        let is_length = |choice| matches!(choice, Choice::Length(_));
        let is_sector = |choice| matches!(choice, Choice::Sector(..));
        match *self {
            Variant::Kill => disk.after_kill(),
            Variant::Cut(done) => match &point.stored {
                Some(stored) => stored.cut(disk, done).after_kill(),
                None => disk.after_kill(),
            },
            Variant::Exactly(ref answers) => {
                keep(&|n, _| answers.get(n as usize).copied().unwrap_or(false))
            }
            Variant::Nothing => keep(&|_, _| false),
            Variant::Everything => keep(&|_, _| true),
            Variant::Names => keep(&|_, c| is_name(c)),
            Variant::NamesAndLengths => keep(&|_, c| !is_sector(c)),
            Variant::NamesAndSectors => keep(&|_, c| !is_length(c)),
            Variant::LengthsAndSectors => keep(&|_, c| !is_name(c)),
            Variant::Lengths => keep(&|_, c| is_length(c)),
            Variant::Sectors => keep(&|_, c| is_sector(c)),
            Variant::First(count) => keep(&|n, _| n < count as u64),
            Variant::Last(count) => {
                let all = disk.pending() as u64;
                keep(&|n, _| n + count as u64 >= all)
            }
            Variant::Blocks(seed) => keep(&|n, c| match c {
                Choice::Sector(inode, sector) => {
                    chance(seed ^ inode << 32, (1 << 32) | (sector as u64 / 8), 4)
                }
                _ => chance(seed, n, 6),
            }),
            Variant::SomeSectors(seed, eighths) => {
                keep(&|n, c| !is_sector(c) || chance(seed, n, eighths))
            }
            Variant::SomeOfAll(seed, eighths) => keep(&|n, _| chance(seed, n, eighths)),
        }
    }
}

/// The ways of losing power at this moment: all of them if there are at most `exhaustive` choices, else at least 16.
pub fn losses(disk: &Disk, rng: &mut Rng, exhaustive: usize) -> Vec<Variant> {
    let pending = disk.pending();
    if pending <= exhaustive {
        return every_loss(disk);
    }
    let mut all = vec![
        Variant::Nothing,
        Variant::Everything,
        Variant::Names,
        Variant::NamesAndLengths,
        Variant::NamesAndSectors,
        Variant::LengthsAndSectors,
        Variant::Lengths,
        Variant::Sectors,
    ];
    all.extend((0..3).map(|_| Variant::First(rng.below(pending as u64) as usize)));
    all.extend((0..3).map(|_| Variant::Last(rng.below(pending as u64) as usize)));
    all.extend((0..2).map(|_| Variant::Blocks(rng.next_u64())));
    all.extend([1, 4, 7].map(|eighths| Variant::SomeSectors(rng.next_u64(), eighths)));
    all.extend([2, 4, 6].map(|eighths| Variant::SomeOfAll(rng.next_u64(), eighths)));
    all
}

/// Every combination of answers. What is asked depends on the answers before.
fn every_loss(disk: &Disk) -> Vec<Variant> {
    let mut all = Vec::new();
    let mut answers: Vec<bool> = Vec::new();
    loop {
        let mut asked = 0;
        disk.after_crash(&mut |_| {
            asked += 1;
            if answers.len() < asked {
                answers.push(false);
            }
            answers[asked - 1]
        });
        all.push(Variant::Exactly(answers.clone()));
        while answers.pop_if(|last| *last).is_some() {}
        match answers.last_mut() {
            Some(last) => *last = true,
            None => return all,
        }
    }
}

/// The ways of being killed at this moment; at most `cuts` of them in the middle of a store.
pub fn kills(point: &Point, cuts: usize) -> Vec<Variant> {
    let mut all = vec![Variant::Kill];
    let len = point.stored.as_ref().map_or(0, |stored| stored.len());
    if len <= cuts {
        all.extend((0..len).map(Variant::Cut));
    } else {
        // The header of a record, its end, and places in between.
        let near = [0, 1, 8, 12, 24, 31, 32, 33, len / 2, len - 8, len - 1];
        let step = (len / cuts).max(1);
        let mut places: Vec<usize> = near.into_iter().chain((0..len).step_by(step)).collect();
        places.retain(|&at| at < len);
        places.sort_unstable();
        places.dedup();
        all.extend(places.into_iter().map(Variant::Cut));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mmsb_core::vfs::{OpenKind, Vfs, write_all_at};

    use super::*;
    use crate::sim::SimVfs;

    #[test]
    fn every_combination_is_there_once() {
        let sim = SimVfs::new();
        sim.create_dir(Path::new("/d")).unwrap();
        sim.sync_dir(Path::new("/")).unwrap();
        let file = sim.open(Path::new("/d/f"), OpenKind::CreateNew).unwrap();
        write_all_at(&*file, 0, &[7; 1024]).unwrap();
        // Without the name nothing else is asked, without the length no sector: 1 + 1 + 4.
        let all = losses(&sim.disk(), &mut Rng(1), 10);
        let mut images: Vec<Vec<u8>> = Vec::new();
        for variant in &all {
            let point = Point { disk: sim.disk(), mark: 0, stored: None };
            let left = variant.of(&point);
            images.push(left.read(Path::new("/d/f")).map_or(vec![1], <[u8]>::to_vec));
        }
        assert_eq!(images.len(), 6, "{all:?}");
        images.sort();
        images.dedup();
        assert_eq!(images.len(), 6);
        assert!(losses(&sim.disk(), &mut Rng(1), 2).len() >= 16);
    }

    #[test]
    fn a_store_that_was_cut_short_leaves_a_shorter_file() {
        let sim = SimVfs::new();
        sim.record();
        let file = sim.open(Path::new("/f"), OpenKind::CreateNew).unwrap();
        write_all_at(&*file, 0, b"abcd").unwrap();
        write_all_at(&*file, 2, b"wxyz").unwrap();
        let points = sim.take_points();
        let left = |variant: Variant| {
            variant.of(&points[2]).read(Path::new("/f")).map(<[u8]>::to_vec).unwrap()
        };
        assert_eq!(left(Variant::Cut(0)), b"abcd");
        assert_eq!(left(Variant::Cut(1)), b"abwd");
        assert_eq!(left(Variant::Cut(3)), b"abwxy");
        assert_eq!(left(Variant::Kill), b"abwxyz");
        assert_eq!(kills(&points[2], 16).len(), 5);
    }
}
