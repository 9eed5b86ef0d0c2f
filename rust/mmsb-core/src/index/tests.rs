//! Queries against a plain list of what was committed, with indexes that are whole, missing, damaged, stale or wrong.

use std::sync::Arc;

use super::*;
use crate::delta::{Batch, NewPage};
use crate::history::Store;
use crate::log::double::Double;
use crate::sequence::How;
pub(super) use crate::vfs::testing::{contents, put};
use crate::vfs::{RamVfs, Vfs};
use crate::{Bus, Code, Durability, Mode, Options};

const DIR: &str = "/s";
const PAGES: u64 = 5;
const SOURCES: [Option<&str>; 3] = [None, Some("physics"), Some("")];
const COUNT: u64 = if cfg!(miri) { 40 } else { 400 };

fn options() -> Options {
    Options {
        durability: Some(Durability::Os),
        max_memory: Some(8 << 20),
        seed: Some(3),
        segment_bytes: Some(4096 + 5000),
        ..Options::default()
    }
}

/// What a commit said.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    epoch: u64,
    pages: Vec<u64>,
    source: Option<&'static str>,
    members: Vec<String>,
}

impl Said {
    fn has(&self, wanted: &Wanted) -> bool {
        wanted.page.is_none_or(|page| self.pages.contains(&page))
            && wanted.source.as_deref().is_none_or(|source| self.source == Some(source))
            && wanted.meta.iter().all(|member| self.members.contains(member))
    }
}

/// Three commits a moment.
fn time(epoch: u64) -> u64 {
    1000 + epoch / 3
}

/// A number that looks random.
fn mix(n: u64) -> u64 {
    h64(&n.to_le_bytes())
}

/// Commits of every kind of operation, opened anew now and then.
fn world() -> (Double, Bus, Vec<Said>) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let mut bus = Bus::create_on(double.vfs(), Path::new(DIR), &options()).unwrap();
    let (mut all, mut batch) = (Vec::new(), Batch::new());
    for epoch in 1..=COUNT {
        batch.clear();
        let mut pages = Vec::new();
        if epoch <= PAGES {
            batch.create(epoch, &NewPage::bytes(&[64]));
            pages.push(epoch);
        }
        for n in 0..mix(epoch) % 4 {
            // The higher the rarer.
            let id = 1 + (mix(epoch * 8 + n).trailing_zeros() as u64) % PAGES.min(epoch);
            match mix(epoch * 16 + n) % 8 {
                0 => batch.rename(id, Some(&format!("p{id}e{epoch}"))),
                1 => batch.set_meta(id, &format!("{{\"at\":{epoch}}}")),
                _ => batch.write(id, n, &epoch.to_le_bytes()),
            }
            pages.push(id);
        }
        if pages.is_empty() {
            batch.tag(&format!("t{epoch}"), None, false);
        }
        let mut members = vec![format!("\"step\":{}", epoch / 2)];
        if epoch.is_multiple_of(5) {
            members.push("\"why\":{\"a\":[1,\",}\"],\"step\":7}".into());
        }
        let meta = format!("{{{}}}", members.join(","));
        let is_said = !epoch.is_multiple_of(7);
        let source = SOURCES[(mix(epoch * 3) % 3) as usize];
        let meta = is_said.then_some(&*meta);
        let how = How { source, meta, time: Some(time(epoch)), wait: true, ..How::default() };
        assert_eq!(bus.commit(&mut batch, None, &how).unwrap().epoch, epoch);
        if !is_said {
            members.clear();
        }
        all.push(Said { epoch, pages, source, members });
        if epoch.is_multiple_of(150) {
            bus.close().unwrap();
            drop(bus);
            bus = open(&double, Mode::ReadWrite);
        }
    }
    (double, bus, all)
}

fn open(double: &Double, mode: Mode) -> Bus {
    Bus::open_on(double.vfs(), Path::new(DIR), mode, &options(), &mut |_, _| {}).unwrap()
}

fn queries() -> Vec<Wanted> {
    let page = |id| Wanted { page: Some(id), ..Wanted::default() };
    let source = |of: &str| Wanted { source: Some(of.into()), ..Wanted::default() };
    let meta = |of: &[&str]| Wanted {
        meta: of.iter().map(|m| (*m).into()).collect(),
        ..Wanted::default()
    };
    let mut all: Vec<_> = (0..=PAGES + 1).map(page).collect();
    all.extend(["physics", "", "nobody"].map(source));
    all.extend([meta(&["\"step\":3"]), meta(&["\"step\":7"]), meta(&["\"a\":[1,\",}\"]"])]);
    all.push(meta(&["\"step\":50", "\"why\":{\"a\":[1,\",}\"],\"step\":7}"]));
    all.push(Wanted { meta: vec!["\"step\":5".into()], ..page(1) });
    all.push(Wanted { page: Some(2), ..source("physics") });
    all.push(page(u64::MAX));
    all.push(Wanted::default());
    all
}

/// Every query in both directions over several ranges gives what the list has.
fn check(bus: &Bus, all: &[Said]) {
    let end = all.len() as u64;
    let ranges = [
        (0, u64::MAX),
        (1, 1),
        (end, end),
        (end / 3, end / 2),
        (end / 2, end / 3),
        (end + 1, u64::MAX),
    ];
    for at in (999..=time(end) + 1).chain([0, u64::MAX]) {
        let expected = all.iter().map(|said| said.epoch).rfind(|&epoch| time(epoch) <= at);
        assert_eq!(bus.epoch_as_of(at).unwrap(), expected, "at {at}");
    }
    for wanted in queries() {
        for (since, until) in ranges {
            let expected = || {
                all.iter().filter(|said| (since..=until).contains(&said.epoch) && said.has(&wanted))
            };
            for reverse in [false, true] {
                let got: Vec<_> = bus
                    .log_of(&wanted, since, until, reverse)
                    .unwrap()
                    .map(|entry| {
                        let entry = entry.unwrap();
                        assert_eq!(entry.time(), time(entry.epoch()));
                        let said = &all[entry.epoch() as usize - 1];
                        let pages: Vec<_> =
                            entry.ops().filter_map(|op| op.unwrap().page()).collect();
                        assert_eq!((entry.source(), pages.len()), (said.source, pages.len()));
                        entry.epoch()
                    })
                    .collect();
                let mut right: Vec<_> = expected().map(|said| said.epoch).collect();
                if reverse {
                    right.reverse();
                }
                assert_eq!(got, right, "{wanted:?} in {since}..={until}");
            }
        }
    }
}

fn indexes(vfs: &dyn Vfs) -> Vec<PathBuf> {
    let dir = dir(Path::new(DIR));
    vfs.list(&dir).unwrap().into_iter().map(|name| dir.join(name)).collect()
}

fn store(double: &Double) -> Store {
    let uuid = crate::log::read_meta(double, Path::new(DIR)).unwrap().uuid;
    Store { vfs: double.vfs(), dir: DIR.into(), uuid }
}

/// With the indexes that commits left, without any, and while the newest segment is being written; by host and reader.
#[test]
fn a_query_gives_what_was_committed() {
    let (double, bus, all) = world();
    check(&bus, &all);
    bus.close().unwrap();
    drop(bus);
    let names = crate::log::list(&double, Path::new(DIR)).unwrap();
    let files = indexes(&double);
    assert_eq!(files, names.iter().map(|&name| path(Path::new(DIR), name)).collect::<Vec<_>>());
    assert!(files.len() > 3);
    check(&open(&double, Mode::Read), &all);
    let right: Vec<_> = files.iter().map(|file| contents(&double, file)).collect();
    files.iter().for_each(|file| double.unlink(file).unwrap());
    check(&open(&double, Mode::Read), &all);
    assert_eq!(indexes(&double), [""; 0].map(PathBuf::from));
    // A host makes them anew, all but that of the newest segment, which it takes for one that goes on.
    let bus = open(&double, Mode::ReadWrite);
    check(&bus, &all);
    let made = indexes(&double);
    assert_eq!(made, files[..files.len() - 1]);
    made.iter().zip(&right).for_each(|(file, right)| assert!(contents(&double, file) == *right));
    assert_eq!(bus.verify(&mut |_, _| {}).unwrap().problems.len(), 0);
}

/// A query reads what it needs: of a rare thing a small part of the log.
#[test]
fn a_query_reads_little() {
    let double = Double::new(Arc::new(RamVfs::new()));
    let large = Options { segment_bytes: Some(4 << 20), max_memory: Some(64 << 20), ..options() };
    let bus = Bus::create_on(double.vfs(), Path::new(DIR), &large).unwrap();
    let mut batch = Batch::new();
    let page = NewPage::bytes(&[4000]);
    (1..=2).for_each(|id| batch.create(id, &page));
    bus.commit(&mut batch, None, &How { wait: true, ..How::default() }).unwrap();
    let count = if cfg!(miri) { 300 } else { 3000 };
    for epoch in 2..=count {
        let meta = format!("{{\"step\":{epoch}}}");
        let how = How { meta: Some(&meta), wait: true, ..How::default() };
        bus.write(1 + u64::from(epoch == count / 2), 0, &vec![epoch as u8; 3000], &how).unwrap();
    }
    let log: u64 = count * 3000;
    for wanted in [
        Wanted { page: Some(2), ..Wanted::default() },
        Wanted { meta: vec![format!("\"step\":{}", count / 2)], ..Wanted::default() },
    ] {
        double.calls();
        let found: Vec<_> = bus.log_of(&wanted, count / 2, count, false).unwrap().collect();
        assert_eq!(found.len(), 1);
        let read: u64 =
            double.calls().iter().filter(|call| call.what == "read").map(|call| call.len).sum();
        // The newest segment has no index yet.
        assert!(read < log / 2 + (4 << 20), "{read} of {log}");
    }
}

/// Each byte of an index changed, and the file cut there: every query is answered as before, and verify tells.
#[test]
fn damage_everywhere() {
    let (double, bus, all) = world();
    bus.close().unwrap();
    drop(bus);
    let files = indexes(&double);
    let (file, store) = (&files[1], store(&double));
    let right = contents(&double, file);
    let reader = open(&double, Mode::Read);
    let wanted = Wanted { page: Some(1), ..Wanted::default() };
    let expected: Vec<_> =
        all.iter().filter(|said| said.has(&wanted)).map(|said| said.epoch).collect();
    let ask = |what: &str| {
        let got = reader.log_of(&wanted, 0, u64::MAX, false).unwrap();
        assert_eq!(got.map(|entry| entry.unwrap().epoch()).collect::<Vec<_>>(), expected, "{what}");
    };
    let mut problems = Vec::new();
    verify(&store, &mut |e| problems.push(e)).unwrap();
    assert_eq!(problems.len(), 0);
    for at in (0..right.len()).step_by(if cfg!(miri) { 501 } else { 5 }) {
        let mut bad = right.clone();
        bad[at] ^= 1 << (at % 8);
        for (bad, what) in [(&bad[..], "changed"), (&right[..at], "cut")] {
            put(&double, file, bad);
            ask(what);
            verify(&store, &mut |e| problems.push(e)).unwrap();
            let problem = problems.pop().unwrap();
            assert_eq!((problem.code, problems.len()), (Code::Corruption, 0), "{what} at {at}");
            assert_eq!(problem.detail.file.as_deref(), Some(&**file));
            assert_eq!(problem.detail.offset, Some(at as u64));
        }
    }
    put(&double, file, &right);
    drop(reader);
    check(&open(&double, Mode::ReadWrite), &all);
}

/// A host makes an index anew when it meets the damage, and answers as if there were none; a reader writes nothing.
#[test]
fn what_is_damaged_is_made_anew() {
    let (double, bus, all) = world();
    bus.close().unwrap();
    drop(bus);
    let file = &indexes(&double)[1];
    let right = contents(&double, file);
    let wanted = Wanted { page: Some(1), ..Wanted::default() };
    let expected: Vec<_> =
        all.iter().filter(|said| said.has(&wanted)).map(|said| said.epoch).collect();
    let epoch = crate::log::list(&double, Path::new(DIR)).unwrap()[1].first_epoch;
    for mode in [Mode::Read, Mode::ReadWrite] {
        for by_query in [true, false] {
            // Every block; the tables are sound.
            let mut bad = right.clone();
            bad[blocks_at(&right)..].iter_mut().for_each(|byte| *byte ^= 1);
            put(&double, file, &bad);
            let bus = open(&double, mode);
            match by_query {
                true => {
                    let got = bus.log_of(&wanted, 0, u64::MAX, false).unwrap();
                    let got: Vec<_> = got.map(|entry| entry.unwrap().epoch()).collect();
                    assert_eq!(got, expected);
                }
                false => {
                    let at = bus.snapshot_at(epoch + 1).unwrap();
                    assert_eq!(at.epoch(), epoch + 1);
                }
            }
            let is_right = contents(&double, file) == right;
            assert_eq!(is_right, mode == Mode::ReadWrite, "{mode:?} {by_query}");
        }
    }
}

/// Where the tables of an index end.
fn blocks_at(index: &[u8]) -> usize {
    let word = |n: usize| u64_at(index, SEQ + 8 * n) as usize;
    HEADER + word(6) * MARK + word(7) * ENTRY
}

/// Indexes with right checksums of what is not so: of another segment, of another store, with other places.
#[test]
fn what_an_index_says_is_not_believed() {
    let (double, bus, all) = world();
    bus.close().unwrap();
    drop(bus);
    let files = indexes(&double);
    let right: Vec<_> = files.iter().map(|file| contents(&double, file)).collect();
    let bus = open(&double, Mode::Read);
    for other in &right {
        put(&double, &files[1], other);
        check(&bus, &all);
    }
    // Every place moved: the first leads astray, and all of the segment is read.
    let mut forged = right[1].clone();
    let marks = u64_at(&forged, SEQ + 48) as usize;
    for n in 0..marks {
        let at = HEADER + n * MARK;
        let moved = u64_at(&forged, at) + 8;
        forged[at..at + 8].copy_from_slice(&moved.to_le_bytes());
    }
    forge(&mut forged);
    put(&double, &files[1], &forged);
    let wanted = Wanted { page: Some(1), ..Wanted::default() };
    for entry in bus.log_of(&wanted, 0, u64::MAX, false).unwrap() {
        assert!(all[entry.unwrap().epoch() as usize - 1].has(&wanted));
    }
    for since in 1..=COUNT {
        let first = bus.log(since, since, false).unwrap().next().unwrap().unwrap();
        assert_eq!(first.epoch(), since);
    }
    let mut problems = Vec::new();
    verify(&store(&double), &mut |e| problems.push(e)).unwrap();
    assert_eq!(problems.len(), 1);
    // Absurd counts.
    for (field, value) in [(6, u64::MAX / 16), (6, 1 << 40), (7, u64::MAX), (7, 1 << 50), (8, 1)] {
        let mut forged = right[1].clone();
        forged[SEQ + 8 * field..SEQ + 8 * field + 8].copy_from_slice(&value.to_le_bytes());
        forge(&mut forged);
        put(&double, &files[1], &forged);
        check(&bus, &all);
    }
}

/// Makes the checksums right again.
pub(super) fn forge(bytes: &mut [u8]) {
    let tables = u64_at(bytes, SEQ + 48)
        .saturating_mul(MARK as u64)
        .saturating_add(u64_at(bytes, SEQ + 56).saturating_mul(ENTRY as u64));
    let end = HEADER.saturating_add(tables as usize).min(bytes.len());
    let hash = crate::hash::h128(&bytes[HEADER..end]);
    bytes[HASH..END].copy_from_slice(&hash.to_le_bytes());
    let sum = h64(&bytes[..HEADER - 8]);
    bytes[HEADER - 8..HEADER].copy_from_slice(&sum.to_le_bytes());
}

/// Every call on the way to an index fails once: the query is answered all the same, and the next one makes it.
#[test]
fn every_call_fails_once() {
    let (double, bus, all) = world();
    let files = indexes(&double);
    let right = contents(&double, &files[0]);
    let wanted = Wanted { page: Some(1), ..Wanted::default() };
    let until = 20;
    let expected: Vec<_> = all
        .iter()
        .filter(|said| said.epoch <= until && said.has(&wanted))
        .map(|said| said.epoch)
        .collect();
    let ask = || {
        bus.log_of(&wanted, 0, until, false)?
            .map(|entry| Ok(entry?.epoch()))
            .collect::<crate::Result<Vec<_>>>()
    };
    for nth in 1.. {
        double.unlink(&files[0]).unwrap();
        double.calls();
        double.fail_once(nth, 5);
        let got = ask();
        double.heal();
        let calls = double.calls();
        if calls.len() < nth {
            assert_eq!(got.unwrap(), expected);
            break;
        }
        match got {
            Ok(got) => assert_eq!(got, expected, "{}", calls[nth - 1]),
            Err(error) => assert_eq!((error.code, error.detail.errno), (Code::Storage, Some(5))),
        }
        assert_eq!(ask().unwrap(), expected);
        assert!(contents(&double, &files[0]) == right, "{}", calls[nth - 1]);
        assert!(double.list(&dir(Path::new(DIR))).unwrap().iter().all(|name| name != TEMP));
    }
    assert!(contents(&double, &files[0]) == right);
}

/// A file system that fails while indexes are checked is no damage.
#[test]
fn a_check_that_fails_finds_nothing() {
    let (double, bus, _) = world();
    bus.close().unwrap();
    let store = store(&double);
    for nth in 1.. {
        double.calls();
        double.fail_once(nth, 5);
        let mut problems = Vec::new();
        let done = verify(&store, &mut |e| problems.push(e));
        double.heal();
        assert!(problems.is_empty(), "{problems:?}");
        if double.calls().len() < nth {
            assert!(done.unwrap() > 0);
            break;
        }
        assert_eq!(done.unwrap_err().detail.errno, Some(5));
    }
}

/// A segment whose end was lost gets another end: the index of the old one means nothing, and is no damage.
#[test]
fn an_index_of_an_older_end_means_nothing() {
    let (double, bus, mut all) = world();
    let at = Path::new(DIR);
    let names = crate::log::list(&double, at).unwrap();
    let segment = at.join("log").join(names.last().unwrap().file());
    let files = [segment, at.join("meta-0"), at.join("meta-1")];
    let before: Vec<_> = files.iter().map(|file| contents(&double, file)).collect();
    let how = How { time: Some(5000), wait: true, ..How::default() };
    bus.write(1, 0, b"lost", &how).unwrap();
    bus.close().unwrap();
    drop(bus);
    let index = indexes(&double).pop().unwrap();
    let stale = contents(&double, &index);
    // As if none of it had reached the disk but the index.
    files.iter().zip(&before).for_each(|(file, bytes)| put(&double, file, bytes));
    let bus = open(&double, Mode::ReadWrite);
    assert_eq!(bus.epoch(), COUNT);
    assert_eq!(
        bus.write(2, 0, b"on", &How { time: Some(time(COUNT + 1)), ..how }).unwrap().epoch,
        COUNT + 1
    );
    all.push(Said { epoch: COUNT + 1, pages: vec![2], source: None, members: Vec::new() });
    assert!(contents(&double, &index) == stale);
    assert_eq!(bus.verify(&mut |_, _| {}).unwrap().problems.len(), 0);
    let &name = names.last().unwrap();
    let mut walk = crate::log::open_sparse(&double, at, name, None).unwrap();
    assert!(Index::open(&store(&double), name, &mut walk).unwrap().is_none());
    check(&bus, &all);
    assert!(contents(&double, &index) != stale);
    assert_eq!(bus.verify(&mut |_, _| {}).unwrap().problems.len(), 0);
}

#[test]
fn members_of_an_object() {
    let split = |text| members(Some(text)).collect::<Vec<_>>();
    assert_eq!(split("{}"), [""; 0]);
    assert_eq!(split(""), [""; 0]);
    assert_eq!(split("no object"), [""; 0]);
    assert_eq!(split("{\"a\":1}"), ["\"a\":1"]);
    assert_eq!(
        split("{\"a\":\"x,y\",\"b\":[1,{\"c\":2}],\"d\":{}}"),
        ["\"a\":\"x,y\"", "\"b\":[1,{\"c\":2}]", "\"d\":{}"]
    );
    assert_eq!(
        split(r#"{"a":"\"},","b\\":"\\","c":"[","d":3}"#),
        [r#""a":"\"},""#, r#""b\\":"\\""#, r#""c":"[""#, r#""d":3"#]
    );
    assert_eq!(split("{]]],\"a\":1}"), ["]]]", "\"a\":1"]);
    assert_eq!(members(None).count(), 0);
}
