//! What a damaged log still has, against the list of what was committed and the places of its records.

use std::sync::Arc;

use super::super::double::Double;
use super::super::meta::MetaSlots;
use super::super::record::{MARK, SEAL, chain_after, finish, padded, seed};
use super::super::segment::{RECORDS, SegmentHeader};
use super::super::tests::*;
use super::super::{Log, OwnedCommit};
use super::*;
use crate::vfs::{OpenKind, RamVfs, write_all_at};

type Problem = (String, Option<u64>, Option<u64>, String);

fn name_of(path: Option<&Path>) -> String {
    path.unwrap().file_name().unwrap().to_string_lossy().into_owned()
}

/// An error by its file's name, offset, epoch and what it says is wrong.
fn problem(error: &Error) -> Problem {
    let detail = &error.detail;
    let what = error.message.rsplit(": ").next().unwrap();
    let what = what.split([';', '(']).next().unwrap().split(" at offset").next().unwrap();
    let what = what.trim_end().to_string();
    (name_of(detail.file.as_deref()), detail.offset, detail.epoch, what)
}

/// What one reading finds and tells.
struct Seen {
    found: Runs,
    told: Vec<Problem>,
    progress: Vec<u64>,
}

impl Seen {
    /// The epochs between which something can be read, as (the one before, the last).
    fn runs(&self) -> Vec<(u64, u64)> {
        let runs = self.found.runs.iter().map(|run| (run.before(), run.last));
        runs.filter(|(before, last)| before < last).collect()
    }

    fn follow(&self, vfs: &Arc<dyn Vfs>, epoch: u64, upto: u64) -> Result<Vec<OwnedCommit>> {
        let mut commits = Vec::new();
        follow(&**vfs, dir(), &self.found.runs, epoch, upto, &mut |commit| {
            commits.push(OwnedCommit::from(commit));
            Ok(())
        })?;
        Ok(commits)
    }
}

fn look(vfs: &Arc<dyn Vfs>, first: u64) -> Seen {
    let (mut told, mut progress) = (Vec::new(), Vec::new());
    let names = names(&**vfs, dir(), &mut |e| told.push(problem(&e))).unwrap();
    let uuid = identity(&**vfs, dir(), &names, &mut |_| {}).unwrap().unwrap().uuid;
    let mut on = |e: Error| told.push(problem(&e));
    let mut tell = |n| progress.push(n);
    let found = read(&**vfs, dir(), uuid, (first, &names), &mut on, &mut tell).unwrap();
    Seen { found, told, progress }
}

/// Where the records of a sound segment begin, and where the last one ends.
fn places(vfs: &dyn Vfs, name: SegmentName) -> (Vec<u64>, Walk) {
    let mut walk = open_segment(vfs, dir(), name, None).unwrap();
    let mut places = vec![walk.offset];
    while !matches!(walk.step().unwrap(), Step::Nothing) {
        places.push(walk.offset);
    }
    (places, walk)
}

/// A closed store with these commits in segments of about this size.
fn closed(n: u64, size: usize, segment: u64) -> (Arc<dyn Vfs>, Vec<OwnedCommit>, Vec<SegmentName>) {
    let (vfs, mut log, commits) = store(n, size, segment);
    log.close().unwrap();
    let names = segment::list(&*vfs, dir()).unwrap();
    (vfs, commits, names)
}

fn file(name: SegmentName) -> PathBuf {
    segment::log_dir(dir()).join(name.file())
}

fn put(vfs: &dyn Vfs, name: SegmentName, at: u64, bytes: &[u8]) {
    write_all_at(&*raw(vfs, &file(name)), at, bytes).unwrap();
}

/// A record whose checksums hold at this place.
fn forged(
    (header, at): (&SegmentHeader, u64),
    kind: u8,
    epoch: u64,
    chain: u64,
    payload: &[u8],
) -> (Vec<u8>, u64) {
    let mut bytes = vec![0; HEADER];
    bytes.extend_from_slice(payload);
    let body = finish(&mut bytes, kind, 0, epoch, chain, seed(&header.salt, at));
    bytes.resize(padded(bytes.len() as u64) as usize, 0);
    (bytes, chain_after(chain, body))
}

#[test]
fn a_sound_log_is_one_run() {
    let (vfs, commits, names) = closed(20, 200, 4096 + 1000);
    assert!(names.len() > 4);
    let seen = look(&vfs, 0);
    assert_eq!((seen.told.len(), seen.runs()), (0, vec![(0, 20)]));
    // The last segment is sealed too.
    assert_eq!(seen.found.records, 20 + names.len() as u64);
    let sizes = names.iter().map(|&name| raw(&*vfs, &file(name)).size().unwrap());
    let sums: Vec<u64> = sizes
        .scan(0, |sum, size| {
            *sum += size;
            Some(*sum)
        })
        .collect();
    assert_eq!(Some(&seen.found.bytes), sums.last());
    assert_eq!(seen.progress, sums);
    assert_eq!(seen.found.time, options(0).time);
    for (epoch, upto) in
        [(0, 20), (0, 99), (5, 9), (8, 9), (19, 20), (0, 1), (9, 9), (9, 3), (20, 30)]
    {
        let want = commits.iter().filter(|c| (epoch + 1..=upto).contains(&c.epoch));
        assert!(seen.follow(&vfs, epoch, upto).unwrap().iter().eq(want), "{epoch} {upto}");
    }
    // Where nothing follows, nothing is read.
    let double = Double::new(vfs);
    assert_eq!(seen.follow(&double.vfs(), 20, 99).unwrap(), []);
    assert_eq!(seen.follow(&double.vfs(), 7, 7).unwrap(), []);
    assert_eq!(double.calls().len(), 0);
    let mut runs = seen.found.runs;
    assert_eq!((reach(&runs, 0), reach(&runs, 7), reach(&runs, 25)), (20, 20, 25));
    cut(&mut runs, 11);
    assert_eq!((runs[0].before(), runs[0].last, reach(&runs, 0)), (0, 11, 11));
}

#[test]
fn segments_that_are_missing() {
    let (vfs, commits, names) = closed(20, 200, 4096 + 1000);
    let files = image(&*vfs, dir());
    let without = |gone: &[usize]| {
        let gone: Vec<PathBuf> = gone.iter().map(|&n| file(names[n])).collect();
        let left = files.iter().filter(|(path, _)| !gone.contains(path)).cloned();
        restore(&left.collect::<Vec<_>>())
    };
    let missing = |seq: usize| format!("the segment with number {seq} before it is missing");
    let first = |n: usize| names[n].first_epoch;
    for (gone, seq, next) in [(vec![0], 0, 1), (vec![2], 2, 3), (vec![1, 2], 1, 3)] {
        let vfs = without(&gone);
        let seen = look(&vfs, 0);
        let before = if seq == 0 { 0 } else { first(seq) - 1 };
        assert_eq!(seen.told, [(names[next].file(), None, Some(before + 1), missing(seq))]);
        let runs = [(0, before), (first(next) - 1, 20)];
        assert_eq!(seen.runs(), runs[usize::from(seq == 0)..]);
        assert_eq!(reach(&seen.found.runs, 0), before);
        let upto = |upto: u64| seen.follow(&vfs, 0, upto).unwrap();
        assert_eq!(upto(99), commits[..before as usize]);
        let from = first(next);
        assert_eq!(seen.follow(&vfs, from, 99).unwrap(), commits[from as usize..]);
    }
    // The log may begin later, and is not missed before.
    let vfs = without(&[0]);
    let seen = look(&vfs, 1);
    assert_eq!((seen.told.len(), seen.runs()), (0, vec![(first(1) - 1, 20)]));
}

/// Bytes of one record or of several, of its header or behind it, are others.
#[test]
fn records_behind_damage() {
    let (vfs, commits, names) = closed(20, 100, 64 << 10);
    let (at, _) = places(&*vfs, names[0]);
    assert_eq!(at.len(), 22, "20 commits and a seal");
    let sound = image(&*vfs, dir());
    let damaged = |spoil: &dyn Fn(&mut [u8])| {
        let mut files = sound.clone();
        spoil(&mut files[0].1);
        restore(&files)
    };
    let told = |epoch: usize| {
        let what = "no valid record".to_string();
        (names[0].file(), Some(at[epoch - 1]), Some(epoch as u64), what)
    };
    let check = |vfs: &Arc<dyn Vfs>, lost: &[usize], problems: &[usize]| {
        let seen = look(vfs, 0);
        let want: Vec<_> = problems.iter().map(|&epoch| told(epoch)).collect();
        assert_eq!(seen.told, want);
        assert_eq!(seen.found.records, 21 - lost.len() as u64);
        let mut runs = vec![(0, 20)];
        for &epoch in lost {
            let (before, last) = runs.pop().unwrap();
            runs.extend([(before, epoch as u64 - 1), (epoch as u64, last)]);
        }
        runs.retain(|(before, last)| before < last);
        assert_eq!(seen.runs(), runs);
        for (before, last) in runs {
            let got = seen.follow(vfs, before, last).unwrap();
            assert_eq!(got, commits[before as usize..last as usize]);
        }
    };
    for epoch in [1, 7, 20] {
        let (begin, end) = (at[epoch - 1] as usize, at[epoch] as usize);
        for spoilt in [begin, begin + 9, begin + 40] {
            check(&damaged(&|file| file[spoilt] ^= 1), &[epoch], &[epoch]);
        }
        check(&damaged(&|file| file[begin..end].fill(0)), &[epoch], &[epoch]);
        check(&damaged(&|file| file[begin..end].fill(7)), &[epoch], &[epoch]);
    }
    let (third, fourth, last) = (at[2] as usize, at[3] as usize, at[19] as usize);
    let next = damaged(&|file| {
        file[third + 50] ^= 1;
        file[fourth + 50] ^= 1;
    });
    check(&next, &[3, 4], &[3]);
    let apart = damaged(&|file| {
        file[third + 50] ^= 1;
        file[last + 50] ^= 1;
    });
    check(&apart, &[3, 20], &[3, 20]);
    // The seal alone: no epoch is lost.
    let seen = look(&damaged(&|file| file[at[20] as usize] ^= 1), 0);
    assert_eq!((seen.runs(), seen.told), (vec![(0, 20)], vec![told(21)]));
}

/// Zeros behind the last record are no damage, and nothing is looked for in them.
#[test]
fn an_end_of_zeros() {
    let (vfs, log, _) = store(3, 100, 64 << 10);
    drop(log);
    let name = segment::list(&*vfs, dir()).unwrap()[0];
    raw(&*vfs, &file(name)).set_len(1 << 24).unwrap();
    let seen = look(&vfs, 0);
    assert_eq!((seen.told.len(), seen.runs(), seen.found.records), (0, vec![(0, 3)], 3));
    assert_eq!((seen.found.bytes, seen.progress), (1 << 24, vec![1 << 24]));
}

/// Records whose checksums hold: one of an unknown form behind damage is passed over in silence, an older epoch is not
/// gone back to, and what a record does not say right is told where it stands.
#[test]
fn forged_records_behind_damage() {
    let (vfs, _, names) = closed(20, 100, 64 << 10);
    let (at, walk) = places(&*vfs, names[0]);
    let sound = image(&*vfs, dir());
    let (header, name) = (walk.header, names[0]);
    let with = |epoch: usize, spoilt: bool, kind: u8, low: u64, payload: &[u8]| {
        let vfs = restore(&sound);
        let place = at[epoch - 1];
        let (mut bytes, _) = forged((&header, place), kind, low, 7, payload);
        bytes.resize((at[epoch] - place) as usize, 0);
        put(&*vfs, name, place, &bytes);
        if spoilt {
            put(&*vfs, name, at[epoch - 2] + 33, &[0xFF; 8]);
        }
        let seen = look(&vfs, 0);
        (seen.told.iter().map(|told| (told.1, told.2)).collect::<Vec<_>>(), seen.runs())
    };
    // A mark of 31 bytes has not the form of its kind.
    let (told, runs) = with(9, true, MARK, 8, &[0; 31]);
    assert_eq!((told, runs), (vec![(Some(at[7]), Some(8))], vec![(0, 7), (9, 20)]));
    let (told, runs) = with(9, false, MARK, 8, &[0; 31]);
    assert_eq!((told, runs), (vec![(Some(at[8]), Some(9))], vec![(0, 8), (9, 20)]));
    // A commit of epoch 3 again.
    let (told, runs) = with(9, true, COMMIT, 3, &[1]);
    assert_eq!((told, runs), (vec![(Some(at[7]), Some(8))], vec![(0, 7), (9, 20)]));
    // One of epoch 9 in another chain: it is there, and what follows does not continue it.
    let (told, runs) = with(9, true, COMMIT, 9, &[1]);
    // It takes 40 bytes of the old one's place.
    assert_eq!(told, [(Some(at[7]), Some(8)), (Some(at[8] + 40), Some(10))]);
    assert_eq!(runs, [(0, 7), (8, 9), (9, 20)]);
}

/// A segment that continues another chain, and one that follows a segment without a seal.
#[test]
fn segments_that_do_not_continue() {
    let (vfs, commits, names) = closed(20, 200, 4096 + 1000);
    let sound = image(&*vfs, dir());
    let (at, walk) = places(&*vfs, names[1]);
    let seal = at[at.len() - 2];
    let header = open_segment(&*vfs, dir(), names[2], None).unwrap().header;
    let before = names[2].first_epoch - 1;
    assert_eq!((walk.sealed, walk.chain), (true, header.chain));
    let told = |what: &str| (names[2].file(), Some(0), Some(before + 1), what.to_string());
    let not_next = told("the segment does not continue the one before it");
    // The records of the segment begin with the chain that its header has, so the first of them is wrong too.
    let vfs = restore(&sound);
    put(&*vfs, names[2], 0, &SegmentHeader { chain: header.chain ^ 1, ..header.clone() }.encode());
    let seen = look(&vfs, 0);
    assert_eq!(seen.told[0], not_next);
    assert_eq!(seen.told[1].1, Some(RECORDS));
    assert_eq!((seen.told.len(), seen.runs()), (2, vec![(0, before), (before, 20)]));
    assert_eq!(seen.follow(&vfs, 0, 20).unwrap(), commits);
    // Without the seal the one before may have had more; here with the chain value that it ends with.
    for same in [false, true] {
        let vfs = restore(&sound);
        raw(&*vfs, &file(names[1])).set_len(seal).unwrap();
        let mut unsealed = open_segment(&*vfs, dir(), names[1], None).unwrap();
        while !matches!(unsealed.step().unwrap(), Step::Nothing) {}
        let chain = if same { unsealed.chain } else { header.chain };
        put(&*vfs, names[2], 0, &SegmentHeader { chain, ..header.clone() }.encode());
        let seen = look(&vfs, 0);
        assert_eq!(seen.told[0], not_next);
        assert_eq!(seen.told.len(), 1 + usize::from(same));
        assert_eq!(seen.runs(), [(0, before), (before, 20)]);
        assert_eq!(seen.follow(&vfs, 0, 20).unwrap(), commits);
    }
}

/// Its header is damaged, another's or another store's; its first epoch was there before.
#[test]
fn segments_that_are_left_out() {
    let (vfs, commits, names) = closed(20, 200, 4096 + 1000);
    let sound = image(&*vfs, dir());
    let header = open_segment(&*vfs, dir(), names[2], None).unwrap().header;
    let (before, next) = (names[2].first_epoch - 1, names[3].first_epoch - 1);
    let other = SegmentHeader { seq: 9, ..header.clone() }.encode();
    let foreign = SegmentHeader { uuid: [9; 16], ..header }.encode();
    let cases: [(&[u8], &str); 3] = [
        (&[0; 50], "the segment's header is damaged"),
        (&other, "the segment lies under another segment's name"),
        (&foreign, "the segment belongs to another store"),
    ];
    for (bytes, what) in cases {
        let vfs = restore(&sound);
        put(&*vfs, names[2], 0, bytes);
        let seen = look(&vfs, 0);
        let told = (names[2].file(), Some(0), Some(before + 1), what.to_string());
        assert_eq!((&seen.told[..], seen.runs()), (&[told][..], vec![(0, before), (next, 20)]));
    }
    let vfs = restore(&sound);
    let again = SegmentName { seq: names.len() as u64, first_epoch: 20 };
    let made = vfs.open(&file(again), OpenKind::CreateNew).unwrap();
    let header = open_segment(&*vfs, dir(), names[0], None).unwrap().header;
    let header = SegmentHeader { seq: again.seq, first_epoch: 20, ..header };
    write_all_at(&*made, 0, &header.encode()).unwrap();
    let seen = look(&vfs, 0);
    let what = "its first epoch is in an earlier segment".to_string();
    assert_eq!(seen.told, [(again.file(), Some(0), Some(20), what)]);
    assert_eq!((seen.runs(), seen.follow(&vfs, 0, 99).unwrap()), (vec![(0, 20)], commits));
}

#[test]
fn names_that_no_writer_gave() {
    let vfs = RamVfs::new();
    let listed = |vfs: &RamVfs| {
        let mut told = Vec::new();
        let names = names(vfs, dir(), &mut |e| told.push(problem(&e))).unwrap();
        (names, told)
    };
    assert_eq!(listed(&vfs), (vec![], vec![]), "there is no directory");
    vfs.create_dir(dir()).unwrap();
    vfs.create_dir(&segment::log_dir(dir())).unwrap();
    let ends = [(4, 1), (3, MAX_EPOCH)];
    let good = ends.map(|(seq, first_epoch)| SegmentName { seq, first_epoch });
    let bad = [(0, 0), (1, MAX_EPOCH + 1)];
    let bad = bad.map(|(seq, first_epoch)| SegmentName { seq, first_epoch }.file());
    let strange = ["notes.txt".to_string(), "mine.mlog".to_string()];
    let files = good.iter().map(SegmentName::file).chain(bad.clone()).chain(strange);
    files.for_each(|name| _ = vfs.open(&segment::log_dir(dir()).join(name), OpenKind::CreateNew));
    let (names, mut told) = listed(&vfs);
    assert_eq!(names, [good[1], good[0]]);
    told.sort();
    let what = "not the name of a segment".to_string();
    let want = bad.into_iter().chain(["mine.mlog".to_string()]);
    let want: Vec<_> = want.map(|name| (name, None, None, what.clone())).collect();
    assert_eq!(told, want);
}

/// What tells which store this is: the newest slot of the log's store; the log, without one; else nothing.
#[test]
fn slots_of_a_damaged_store() {
    let told = |vfs: &dyn Vfs, names: &[SegmentName]| {
        let mut told = Vec::new();
        let meta = identity(vfs, dir(), names, &mut |e| told.push(problem(&e))).unwrap();
        (meta, told)
    };
    let slot = |n: usize| (["meta-0", "meta-1"][n].to_string(), Some(0), None);
    let not_whole = |n: usize| {
        let (name, offset, epoch) = slot(n);
        (name, offset, epoch, "the meta slot is not whole".to_string())
    };
    let (vfs, _, names) = closed(3, 10, 64 << 10);
    let newest = super::super::read_meta(&*vfs, dir()).unwrap();
    assert_eq!(told(&*vfs, &names), (Some(newest.clone()), vec![]));
    assert_eq!(told(&*vfs, &[]), (Some(newest.clone()), vec![]));
    // Slots of another store, of which one is newer.
    let own = image(&*vfs, dir());
    let other = StoreMeta { uuid: [7; 16], generation: 1 << 20, ..newest.clone() };
    MetaSlots::create(&*vfs, dir(), other.clone()).unwrap();
    let foreign = |n: usize| {
        let what = "the meta slot is of another store than the log".to_string();
        (slot(n).0, Some(40), None, what)
    };
    let plain = begun(newest.uuid);
    assert_eq!(told(&*vfs, &names), (Some(plain.clone()), vec![foreign(0), foreign(1)]));
    assert_eq!(told(&*vfs, &[]).0.unwrap().uuid, [7; 16]);
    let of_slot = |path: &&(PathBuf, Vec<u8>)| path.0.ends_with("meta-0");
    let (path, bytes) = own.iter().find(of_slot).unwrap();
    write_all_at(&*raw(&*vfs, path), 0, bytes).unwrap();
    let (meta, problems) = told(&*vfs, &names);
    assert_eq!((meta, problems), (read_slot(&*vfs, path).unwrap(), vec![foreign(1)]));
    for n in [0, 1] {
        vfs.unlink(&dir().join(slot(n).0)).unwrap();
    }
    assert_eq!(told(&*vfs, &names), (Some(plain), vec![not_whole(0), not_whole(1)]));
    assert_eq!(told(&*vfs, &[]).0, None);
}

/// Progress is told at the end of each segment, and within one when a MiB more was read.
#[test]
fn progress_within_long_segments() {
    let vfs = ram();
    let mut log = Log::create(vfs.clone(), dir(), options(3 << 20)).unwrap();
    for epoch in 1..=10 {
        append(&mut log, &commit(epoch, 600 << 10)).unwrap();
    }
    log.close().unwrap();
    drop(log);
    let (mut want, mut begun) = (Vec::new(), 0);
    for name in segment::list(&*vfs, dir()).unwrap() {
        let (at, _) = places(&*vfs, name);
        // Two records are more than a MiB, one and a seal are not.
        let pairs = at[1..at.len() - 1].iter().skip(1).step_by(2);
        want.extend(pairs.map(|end| begun + end));
        begun += raw(&*vfs, &file(name)).size().unwrap();
        want.push(begun);
    }
    assert_eq!(look(&vfs, 0).progress, want);
}

/// What was found is not there any more.
#[test]
fn a_log_that_changes_while_it_is_read() {
    let (vfs, commits, names) = closed(20, 200, 4096 + 1000);
    let seen = look(&vfs, 0);
    let (at, _) = places(&*vfs, names[1]);
    let sound = image(&*vfs, dir());
    let (last, seal) = (at[at.len() - 3], at[at.len() - 2]);
    let end = names[2].first_epoch - 1;
    let refused = |vfs: &Arc<dyn Vfs>| {
        let error = seen.follow(vfs, 0, 20).unwrap_err();
        assert_eq!(
            (error.code, name_of(error.detail.file.as_deref())),
            (Code::Storage, names[1].file())
        );
        assert!(error.message.ends_with("changed while it was read"), "{error}");
    };
    for cut in [last, seal] {
        let vfs = restore(&sound);
        raw(&*vfs, &file(names[1])).set_len(cut).unwrap();
        refused(&vfs);
        // What lies before is there still.
        let upto = if cut == seal { end } else { end - 1 };
        assert_eq!(seen.follow(&vfs, 0, upto).unwrap(), commits[..upto as usize]);
    }
    let vfs = restore(&sound);
    let header = open_segment(&*vfs, dir(), names[1], None).unwrap().header;
    put(&*vfs, names[1], last, &forged((&header, last), SEAL, 0, 0, &[0; 16]).0);
    refused(&vfs);
}

/// How much a search may be made to read, and what it finds at once.
#[test]
fn a_search_ends() {
    let (vfs, log, _) = store(4, 100, 64 << 10);
    drop(log);
    let name = segment::list(&*vfs, dir()).unwrap()[0];
    let (at, walk) = places(&*vfs, name);
    let end = at[at.len() - 1];
    let raw = raw(&*vfs, &file(name));
    raw.set_len(end).unwrap();
    let open = || open_segment(&*vfs, dir(), name, None).unwrap();
    let search = Search::new(&mut open()).unwrap();
    // Four times the bytes behind the header, and a GiB.
    assert_eq!((search.size, search.budget), (end, 4 * (end - 4096) + (1 << 30)));
    // A walk may come to the next record, to that alone, and to none.
    let size = at[1] - at[0];
    for (budget, found) in [(size, true), (size - 1, false)] {
        let mut search = Search { size: end, budget };
        let mut walk = open();
        assert_eq!(search.next(&mut walk, 4096, 0).unwrap(), found);
        assert_eq!(search.budget, if found { 0 } else { size - 1 });
    }
    let next = |from: u64, least: u64| {
        let (mut walk, mut search) = (open(), Search { size: end + 32, budget: 1 << 20 });
        let found = search.next(&mut walk, from, least).unwrap();
        found.then_some((walk.offset, walk.epoch, walk.commits))
    };
    for (from, n) in [(4096, 0), (4097, 1), (at[1] - 7, 1), (at[1], 1), (at[3] - 8, 3)] {
        assert_eq!(next(from, 0), Some((at[n], n as u64, n as u64)));
    }
    assert_eq!(next(4096, 2), Some((at[2], 2, 2)), "not before epoch 2");
    assert_eq!((next(at[3] + 8, 0), next(end, 0), next(end + 100, 0)), (None, None, None));
    // A record of a header alone at the very end of the file.
    put(&*vfs, name, end, &forged((&walk.header, end), 200, 4, 0, &[]).0);
    assert_eq!((next(end - 8, 0), next(end + 8, 0)), (Some((end, 4, 4)), None));
    raw.set_len(end).unwrap();
    // A record that claims more than there is does not hide the one behind it, wherever the file ends.
    let (mut claim, _) =
        forged((&walk.header, at[1]), COMMIT, 2, 0, &vec![1; (end - at[1]) as usize - 31]);
    claim.truncate((at[2] - at[1]) as usize);
    put(&*vfs, name, at[1], &claim);
    let (mut walk, mut search) = (open(), Search { size: end, budget: 1 << 20 });
    assert!(search.next(&mut walk, at[1], 0).unwrap());
    assert_eq!((walk.offset, search.budget), (at[2], (1 << 20) - (at[3] - at[2])));
}

/// The low half of a record's epoch tells it, wherever the segment begins.
#[test]
fn the_epoch_before_a_record() {
    let head = |kind, epoch_low| Head { body: 0, kind, flags: 0, len: 0, epoch_low, chain: 0 };
    let far = 0xFFFF_FFFE;
    for (kind, low, first, before) in [
        (COMMIT, 1, 1, Some(0)),
        (COMMIT, 9, 1, Some(8)),
        (COMMIT, 0, 1, None),
        (MARK, 0, 1, Some(0)),
        (MARK, 5, 1, Some(5)),
        (COMMIT, 12, 10, Some(11)),
        (SEAL, 12, 10, Some(12)),
        (COMMIT, 9, 10, None),
        (COMMIT, 1, far, Some(0x1_0000_0000)),
        (MARK, 1, far, Some(0x1_0000_0001)),
        (MARK, 5, 0x7_0000_0004, Some(0x7_0000_0005)),
    ] {
        assert_eq!(epoch_before(&head(kind, low), first), before, "{kind} {low} {first}");
    }
}
