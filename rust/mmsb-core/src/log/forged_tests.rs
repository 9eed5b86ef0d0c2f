//! Records whose checksums hold and which cannot be where they are; files that are not what their names say.

use std::sync::Arc;

use super::record::{self, HEADER};
use super::tests::*;
use super::*;
use crate::error::Code;
use crate::hash::h64;
use crate::vfs::{OpenKind, RamVfs, write_all_at};

/// A record by its fields; what is not named is as it should be behind two commits.
struct Forged<'a> {
    kind: u8,
    flags: u8,
    epoch: u64,
    chain: u64,
    payload: &'a [u8],
}

/// A store with two commits and these records behind them, and where they begin.
fn with(records: &[(u64, Forged<'_>)]) -> (Arc<dyn Vfs>, u64) {
    let (vfs, log, _) = store(2, 40, 64 << 10);
    let begin = log.end().offset;
    drop(log);
    let path = segments(&*vfs).remove(0);
    let mut walk = {
        let names = segment::list(&*vfs, dir()).unwrap();
        reader::open_segment(&*vfs, dir(), names[0], None).unwrap()
    };
    while !matches!(walk.step().unwrap(), reader::Step::Nothing) {}
    let (file, mut at, mut chain) = (raw(&*vfs, &path), begin, walk.chain);
    for (_, forged) in records {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(forged.payload);
        let seed = record::seed(&walk.header.salt, at);
        let told = chain ^ forged.chain;
        let body = record::finish(&mut bytes, forged.kind, forged.flags, forged.epoch, told, seed);
        bytes.resize(record::padded(bytes.len() as u64) as usize, 0);
        write_all_at(&*file, at, &bytes).unwrap();
        at += bytes.len() as u64;
        chain = record::chain_after(told, body);
    }
    (vfs, begin)
}

fn good(kind: u8, payload: &[u8]) -> Forged<'_> {
    Forged { kind, flags: 0, epoch: if kind == 1 { 3 } else { 2 }, chain: 0, payload }
}

/// Everybody who reads says the same of a store: code and message, and the place for damage.
fn refused(vfs: &Arc<dyn Vfs>) -> (Code, Option<u64>, Option<u64>, String) {
    let error = read_only(vfs, dir()).unwrap_err();
    let files = image(&**vfs, dir());
    let host = try_open(vfs, dir(), 0).map(|_| ()).unwrap_err();
    assert_eq!((host.code, &host.message), (error.code, &error.message));
    assert!(image(&**vfs, dir()) == files, "a file was touched");
    let told = problems(vfs, dir());
    assert_eq!((told.len(), &told[0].message), (1, &error.message));
    for reverse in [false, true] {
        let last = LogCursor::new(vfs.clone(), dir(), 1, 9, reverse).unwrap().last();
        assert_eq!(last.unwrap().unwrap_err().message, error.message);
    }
    (error.code, error.detail.offset, error.detail.epoch, error.message)
}

#[test]
fn records_that_cannot_be_next() {
    let seal = |commits: u64, epoch: u64| [commits.to_le_bytes(), epoch.to_le_bytes()].concat();
    let (right, long, late) = (seal(2, 2), seal(3, 2), seal(2, 3));
    let mark = [0u8; 32];
    let cases: [(&str, Vec<Forged<'_>>); 12] = [
        ("continue the chain", vec![Forged { chain: 1, ..good(1, b"\x01") }]),
        ("continue the chain", vec![Forged { chain: 1, ..good(200, b"") }]),
        ("wrong epoch", vec![Forged { epoch: 2, ..good(1, b"\x01") }]),
        ("wrong epoch", vec![Forged { epoch: 4, ..good(1, b"\x01") }]),
        ("wrong epoch", vec![Forged { epoch: 3, ..good(2, &mark) }]),
        ("form of its kind", vec![good(1, b"")]),
        ("form of its kind", vec![good(2, &mark[..31])]),
        ("form of its kind", vec![Forged { flags: 2, ..good(1, b"\x01\x05abc") }]),
        ("counts other commits", vec![good(3, &long)]),
        ("counts other commits", vec![good(3, &late)]),
        ("behind the seal", vec![good(3, &right), good(1, b"\x01")]),
        ("behind the seal", vec![good(3, &right), good(3, &right)]),
    ];
    for (what, records) in cases {
        let behind = records.len() == 2;
        let records: Vec<_> = (0..).zip(records).collect();
        let (vfs, begin) = with(&records);
        let (code, offset, epoch, message) = refused(&vfs);
        assert!(message.contains(what), "{message}");
        let place = begin + if behind { 48 } else { 0 };
        assert_eq!((code, offset, epoch), (Code::Corruption, Some(place), Some(3)));
    }
}

/// A record that proves what was durable is found behind one that claims more bytes than the file has.
#[test]
fn a_proof_behind_a_claim() {
    let (vfs, begin) = with(&[]);
    let names = segment::list(&*vfs, dir()).unwrap();
    let salt = reader::open_segment(&*vfs, dir(), names[0], None).unwrap().header.salt;
    let file = raw(&*vfs, &segments(&*vfs)[0]);
    let mut head = [1; HEADER];
    head[14..20].copy_from_slice(&(1u64 << 30).to_le_bytes()[..6]);
    let sum = (h64(&head[12..]) ^ record::seed(&salt, begin)) as u32;
    head[8..12].copy_from_slice(&sum.to_le_bytes());
    write_all_at(&*file, begin, &head).unwrap();
    assert_eq!(read_only(&vfs, dir()).unwrap().0.torn_bytes, HEADER as u64);
    let (at, durable) = (begin + 96, begin + 8);
    let mut proof = vec![0; HEADER];
    proof.extend_from_slice(&[(at - durable) as u8, 1]);
    record::finish(&mut proof, 1, record::DURABLE, 4, 0, record::seed(&salt, at));
    proof.resize(record::padded(proof.len() as u64) as usize, 0);
    write_all_at(&*file, at, &proof).unwrap();
    let error = read_only(&vfs, dir()).unwrap_err();
    assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(begin)));
}

/// A kind or a flag of a later format is no damage: the store wants a newer version.
#[test]
fn records_of_the_future() {
    for forged in [good(4, b""), good(127, b"x"), Forged { flags: 8, ..good(1, b"\x01") }] {
        let (vfs, begin) = with(&[(0, forged)]);
        let (code, _, _, message) = refused(&vfs);
        assert_eq!(code, Code::FormatVersion);
        assert!(message.contains(&format!("at offset {begin}")), "{message}");
    }
    // What may be passed over is, wherever it stands; and a mark is one.
    let mark = [7u8; 32];
    let (vfs, _) = with(&[
        (0, good(200, b"whatever it is")),
        (1, good(1, b"\x01")),
        (2, Forged { epoch: 3, ..good(128, b"") }),
        (3, Forged { epoch: 3, flags: 255, ..good(255, b"\xFF") }),
        (4, Forged { epoch: 3, ..good(2, &mark) }),
    ]);
    let (found, seen) = read_only(&vfs, dir()).unwrap();
    assert_eq!((seen.len(), found.marks.len(), found.torn_bytes), (3, 1, 0));
    assert_eq!(problems(&vfs, dir()).len(), 0);
    assert_eq!(LogCursor::new(vfs.clone(), dir(), 1, 3, true).unwrap().count(), 3);
    assert_eq!(try_open(&vfs, dir(), 0).unwrap().2.len(), 3);
}

/// Names in `log/` that no writer gave.
#[test]
fn names_of_segments() {
    let listed = |names: &[&str]| {
        let vfs = RamVfs::new();
        vfs.create_dir(dir()).unwrap();
        vfs.create_dir(&dir().join("log")).unwrap();
        for name in names {
            vfs.open(&dir().join("log").join(name), OpenKind::CreateNew).unwrap();
        }
        segment::list(&vfs, dir())
    };
    let first = "0000000000000000-0000000000000001.mlog";
    let same = "0000000000000001-0000000000000001.mlog";
    let later = "0000000000000001-0000000000000007.mlog";
    assert_eq!(listed(&[first, same]).unwrap().len(), 2);
    let names = listed(&["note.txt", first, later, "creating"]).unwrap();
    assert_eq!((names[1].seq, names[1].first_epoch), (1, 7));
    let why = |names: &[&str]| {
        let error = listed(names).unwrap_err();
        assert_eq!(error.code, Code::Corruption);
        (error.message, error.detail.epoch)
    };
    for name in ["x.mlog", "0-1.mlog", "000000000000000g-0000000000000001.mlog", ".mlog"] {
        assert!(why(&[name]).0.contains("not the name"));
    }
    assert!(why(&["0000000000000000-000000000000000g.mlog"]).0.contains("not the name"));
    assert!(why(&["0000000000000000-0000000000000000.mlog"]).0.contains("begins with this epoch"));
    assert!(why(&[later]).0.contains("number 0 before it is missing"));
    let (message, epoch) = why(&[first, "0000000000000002-0000000000000009.mlog"]);
    assert!(message.contains("number 1") && epoch == Some(1));
    let back = "0000000000000002-0000000000000005.mlog";
    assert!(why(&[first, later, back]).0.contains("before the last segment's"));
    assert_eq!(segment::list(&RamVfs::new(), dir()).unwrap(), []);
}

/// Segments whose headers are whole and are another's: by name, by store, by what came before.
#[test]
fn headers_that_do_not_belong() {
    let (vfs, mut log, _) = store(8, 60, 4096 + 400);
    log.close().unwrap();
    drop(log);
    let paths = segments(&*vfs);
    assert!(paths.len() > 2);
    let names = segment::list(&*vfs, dir()).unwrap();
    let good = reader::open_segment(&*vfs, dir(), names[1], None).unwrap().header;
    let file = raw(&*vfs, &paths[1]);
    let told = |header: &segment::SegmentHeader| {
        write_all_at(&*file, 0, &header.encode()).unwrap();
        let error = read_only(&vfs, dir()).unwrap_err();
        assert_eq!((error.code, error.detail.offset), (Code::Corruption, Some(0)));
        assert_eq!(error.detail.epoch, Some(good.first_epoch));
        assert_eq!(problems(&vfs, dir())[0].message, error.message);
        error.message
    };
    let other = |change: &dyn Fn(&mut segment::SegmentHeader)| {
        let mut header = good.clone();
        change(&mut header);
        told(&header)
    };
    assert!(other(&|h| h.seq = 0).contains("another segment's name"));
    assert!(other(&|h| h.first_epoch += 1).contains("another segment's name"));
    assert!(other(&|h| h.uuid[3] ^= 1).contains("another store"));
    assert!(other(&|h| h.chain ^= 1).contains("does not continue"));
    // The cursor looks at its place only, and at the name.
    let open = |uuid| reader::open_segment(&*vfs, dir(), names[1], uuid);
    assert!(open(None).is_ok());
    assert!(open(Some([0; 16])).unwrap_err().message.contains("another store"));
    write_all_at(&*file, 0, &[0; 100]).unwrap();
    assert!(open(None).unwrap_err().message.contains("header is damaged"));
    write_all_at(&*file, 0, &good.encode()).unwrap();
    assert_eq!(problems(&vfs, dir()).len(), 0);
}

/// A creation that was interrupted anywhere, tried again; and what is somebody's store is refused.
#[test]
fn creating_over_remains() {
    let vfs = ram();
    drop(Log::create(vfs.clone(), dir(), options(64 << 10)).unwrap());
    // As if it had stopped before the first segment got its name, with a slot half written.
    let path = segments(&*vfs).remove(0);
    vfs.rename(&path, &dir().join("log/creating")).unwrap();
    let meta = begun([5; 16]);
    meta::MetaSlots::create(&*vfs, dir(), meta).unwrap();
    raw(&*vfs, &dir().join("meta-1")).set_len(100).unwrap();
    assert_eq!(read_only(&vfs, dir()).unwrap_err().code, Code::BusNotFound);
    let mut log = Log::create(vfs.clone(), dir(), options(64 << 10)).unwrap();
    append(&mut log, &commit(1, 10)).unwrap();
    // A forked child's copy does nothing any more.
    log.abandon();
    assert_eq!(append(&mut log, &commit(2, 10)).unwrap_err().code, Code::Storage);
    drop(log);
    assert_eq!(try_open(&vfs, dir(), 0).unwrap().2.len(), 1);
    // Slots that say more than a creation does, without a segment: a store that lost its log.
    vfs.unlink(&segments(&*vfs)[0]).unwrap();
    assert_eq!(Log::create(vfs.clone(), dir(), options(0)).unwrap_err().code, Code::BusExists);
}

/// A header that says more to be durable than there is: whatever the end looks like, the host cuts nothing.
#[test]
fn more_durable_than_there_is() {
    let (vfs, log, _) = store(8, 60, 4096 + 400);
    drop(log);
    let paths = segments(&*vfs);
    let last = paths.len() - 1;
    let names = segment::list(&*vfs, dir()).unwrap();
    let good = reader::open_segment(&*vfs, dir(), names[last], None).unwrap().header;
    for durable in [
        Position { seq: last as u64, offset: 1 << 40 },
        Position { seq: last as u64 + 1, offset: 0 },
        Position { seq: u64::MAX, offset: u64::MAX },
    ] {
        let header = segment::SegmentHeader { durable, ..good.clone() };
        write_all_at(&*raw(&*vfs, &paths[last]), 0, &header.encode()).unwrap();
        let before = image(&*vfs, dir());
        let error = try_open(&vfs, dir(), 0).map(|_| ()).unwrap_err();
        assert_eq!(error.code, Code::Corruption);
        assert!(error.message.contains("durable records are missing"), "{error}");
        assert_eq!(error.detail.file.as_deref(), Some(&*paths[last]));
        assert!(image(&*vfs, dir()) == before);
    }
}

/// What a cursor has found is checked once more when it is read, if the window has moved on since.
#[test]
fn a_record_that_changes_under_a_cursor() {
    let (vfs, mut log, _) = store(0, 0, 8 << 20);
    for epoch in 1..=3000 {
        append(&mut log, &OwnedCommit { source: None, meta: None, ..commit(epoch, 300) }).unwrap();
    }
    drop(log);
    let path = segments(&*vfs).remove(0);
    let names = segment::list(&*vfs, dir()).unwrap();
    let walk = reader::open_segment(&*vfs, dir(), names[0], None).unwrap();
    let seed = record::seed(&walk.header.salt, 4096);
    let (file, first) = (raw(&*vfs, &path), image(&*vfs, dir())[0].1[4096..4096 + 336].to_vec());
    // The record's time takes three bytes.
    let payload = HEADER + 3 + 300;
    assert_eq!(record::padded(payload as u64), 336);
    let forged = |kind: u8, epoch: u64, len: usize| {
        let mut bytes = first[..len].to_vec();
        record::finish(&mut bytes, kind, 0, epoch, 0, seed);
        bytes.resize(336, 0);
        bytes
    };
    let mut torn = first.clone();
    torn[100] ^= 1;
    let changes = [
        (true, first.clone()),
        (false, torn),
        (false, forged(1, 2, payload)),
        (false, forged(3, 1, HEADER + 16)),
        (false, forged(200, 1, HEADER)),
    ];
    for (good, bytes) in changes {
        write_all_at(&*file, 4096, &first).unwrap();
        let mut cursor = LogCursor::new(vfs.clone(), dir(), 1, 3000, true).unwrap();
        assert_eq!(cursor.next().unwrap().unwrap().epoch, 3000);
        write_all_at(&*file, 4096, &bytes).unwrap();
        let rest: Vec<_> = cursor.collect();
        assert_eq!(rest.len(), 2999);
        assert!(rest[..2998].iter().all(|c| c.is_ok()));
        match &rest[2998] {
            Ok(commit) => assert!(good && commit.epoch == 1),
            Err(error) => {
                assert!(!good && error.message.contains("changed while it was read"));
                assert_eq!((error.detail.offset, error.detail.epoch), (Some(4096), Some(1)));
            }
        }
    }
}

/// What a wrong index says: the place of another commit, that of a mark, and a place beside those where records begin,
/// with a record that is right there.
#[test]
fn a_walk_is_not_led_astray() {
    let (vfs, mark) = with(&[(0, good(record::MARK, &[0; 32]))]);
    let names = segment::list(&*vfs, dir()).unwrap();
    let open = || reader::open_segment(&*vfs, dir(), names[0], None).unwrap();
    let mut walk = open();
    walk.step().unwrap();
    let second = walk.offset;
    while !matches!(walk.step().unwrap(), reader::Step::Nothing) {}
    let beside = walk.offset + 4;
    let (seed, chain) = (record::seed(&walk.header.salt, beside), walk.chain);
    let mut bytes = vec![0; HEADER + 8];
    record::finish(&mut bytes, record::COMMIT, 0, 3, chain, seed);
    write_all_at(&*raw(&*vfs, &segments(&*vfs).remove(0)), beside, &bytes).unwrap();
    let mut walk = open();
    for (offset, epoch) in [(second, 1), (second, 3), (mark, 2), (beside, 3)] {
        assert!(!walk.skip_to(offset, epoch).unwrap(), "{offset}");
    }
    assert!(matches!(walk.step().unwrap(), reader::Step::Commit(commit) if commit.epoch == 1));
}
