//! Rows 3 and 8: a record that was cut short while it was written, and how such an end is told apart from damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mmsb_core::log::{Commit, HEADROOM, Log, LogOptions, OpenMode, lock, open};
use mmsb_core::vfs::Vfs;
use mmsb_core::{Bus, Code, Durability, How, Mode, Options, Result};

use super::{DIR, Tally, every, is_segment, options, promised, share, show};
use crate::args::Args;
use crate::format::{self, COMMIT, HEADER, MARK, SEAL};
use crate::model::{Act, Driver, State, compare};
use crate::report::Row;
use crate::rng::{Rng, mix};
use crate::sim::{Disk, SECTOR, SimVfs};

/// A record in the moment after it was written.
struct Fresh {
    kind: &'static str,
    path: PathBuf,
    start: usize,
    end: usize,
    /// The newest epoch before it.
    before: u64,
    was: Disk,
    now: Disk,
}

/// Row 3: each record of a life, cut at each of its bytes.
pub fn records(args: &Args) -> Vec<Row<'static>> {
    let mut tally = Tally::default();
    for durability in [Durability::Disk, Durability::Os, Durability::Memory] {
        let options = Options { durability: Some(durability), ..options(args.seed) };
        let (fresh, history) = written(&options);
        let step = every(args, 23);
        for record in &fresh {
            let cuts = (record.end - record.start) as u64;
            tally.add(share(cuts / step + 1, args.threads, |range, tally| {
                for cut in range.map(|cut| cut * step).filter(|&cut| cut < cuts) {
                    tear(record, cut as usize, &history, &options, tally);
                }
            }));
        }
    }
    show("cuts of one record", &tally);
    vec![Row {
        id: "03-torn-record",
        row: "3 Torn write inside one record",
        tried: "each commit, checkpoint mark, seal and segment header of a life at each durability, cut at each byte, \
                with zeros, what was there before, bytes of older records or random bytes behind it"
            .to_string(),
        count: format!("{} cuts", tally.all()),
        seed: args.seed.to_string(),
        result: "each time exactly the epoch before, as reader and as host, and the store lives on".to_string(),
        command: args.command.clone(),
    }]
}

/// Every record that a life writes, in the moment after it was written.
fn written(options: &Options) -> (Vec<Fresh>, Vec<Arc<State>>) {
    let write = |page, at, len, byte| Act::Write { page, at, len, byte };
    let sim = SimVfs::new();
    let mut driver = Driver::create(&sim, Path::new(DIR), options).unwrap();
    sim.record();
    let mut acts = vec![
        Act::Create { name: Some(0), len: 300, fill: 1 },
        Act::Create { name: Some(1), len: 3000, fill: 2 },
        Act::SetMeta { page: 0, meta: 1 },
        Act::Many { writes: vec![(0, 5, 6, 7), (1, 8, 9, 10)], meta: Some(2), durability: None },
        Act::Checkpoint,
        Act::Tag { name: 0, back: 0, move_: false },
        write(0, 1, 3, 4),
    ];
    acts.extend((0..12u8).map(|i| write(i % 2, u32::from(i) * 77, 900, 40 + i)));
    acts.iter().for_each(|act| driver.step(act));
    driver.bus.close().unwrap();
    let points = sim.take_points();
    let mut fresh = Vec::new();
    for pair in points.windows(2) {
        let (was, now) = (&pair[0].disk, &pair[1].disk);
        let epochs = now.files().filter(|(path, _)| is_segment(path));
        let before = epochs
            .flat_map(|(path, _)| format::records(was.read(path).unwrap_or_default()))
            .filter(|record| record.kind == COMMIT)
            .map(|record| record.epoch)
            .max();
        for (path, bytes) in now.files().filter(|(path, _)| is_segment(path)) {
            let old = was.read(path).unwrap_or_default();
            let (had, has) = (format::records(old), format::records(bytes));
            let (kind, start, end) = match has.get(had.len()) {
                Some(record) => {
                    let kind = match record.kind {
                        COMMIT => "commit",
                        MARK => "mark",
                        SEAL => "seal",
                        other => panic!("a record of kind {other}"),
                    };
                    (kind, record.start, record.end)
                }
                None if format::has_header(bytes) && !format::has_header(old) => {
                    ("header", 0, HEADER)
                }
                None => continue,
            };
            let (was, now) = (was.clone(), now.clone());
            let path = path.to_path_buf();
            fresh.push(Fresh { kind, path, start, end, before: before.unwrap_or(0), was, now });
        }
    }
    (fresh, driver.history.clone())
}

fn tear(record: &Fresh, cut: usize, history: &[Arc<State>], options: &Options, tally: &mut Tally) {
    let Fresh { kind, path, start, end, before, was, now } = record;
    let (old, new) = (was.read(path).unwrap_or_default(), now.read(path).unwrap());
    let at = start + cut;
    let behind = end.next_multiple_of(SECTOR);
    let mut rng = Rng(mix(at as u64, *before));
    let mut fills = vec![
        ("zeros", vec![0; behind - at]),
        ("what was there", old.get(at..).unwrap_or_default().to_vec()),
        ("random bytes", (at..behind).map(|_| rng.next_u64() as u8).collect()),
    ];
    if *start > 0 {
        let from = HEADER + rng.below((start + 1 - HEADER) as u64) as usize;
        let older = new[from..].iter().cycle().take(behind - at).copied().collect();
        fills.push(("older records", older));
    }
    for (fill, rest) in fills {
        let mut bytes = [&new[..at], &rest].concat();
        // What is reserved behind stays.
        bytes.extend_from_slice(new.get(bytes.len()..).unwrap_or_default());
        if fill == "what was there" {
            bytes.truncate(at + rest.len());
        }
        if bytes.get(*start..*end) == Some(&new[*start..*end]) {
            continue;
        }
        let mut disk = now.clone();
        disk.plant(path, &bytes);
        let what = format!("{kind} at {start} of {} cut at {cut}, {fill} behind", path.display());
        let want = &history[*before as usize];
        let dir = Path::new(DIR);
        let open = |sim: &SimVfs, mode| {
            Bus::open_on(Arc::new(sim.clone()), dir, mode, options, &mut |_, _| {})
                .unwrap_or_else(|error| panic!("{what}: {error}"))
        };
        let shows = |bus: &Bus| {
            let snapshot = bus.snapshot().unwrap();
            assert_eq!(snapshot.epoch(), *before, "{what}");
            compare(&snapshot, want).unwrap_or_else(|error| panic!("{what}: {error}"));
        };
        shows(&open(&SimVfs::of(disk.clone()), Mode::Read));
        let sim = SimVfs::of(disk);
        let host = open(&sim, Mode::ReadWrite);
        shows(&host);
        if cut.is_multiple_of(8) && want.pages.contains_key(&1) {
            let how = How { wait: true, ..How::default() };
            host.write(1, 0, &[0xEE, cut as u8], &how).unwrap();
            host.close().unwrap();
            let again = open(&SimVfs::of(sim.disk()), Mode::Read);
            assert_eq!(again.epoch(), before + 1, "{what}");
            let problems = again.verify(&mut |_, _| {}).unwrap().problems;
            assert!(problems.is_empty(), "{what}: {problems:?}");
        }
        tally.count(*kind, fill);
    }
}

/// A log's life until its process was killed.
struct Life {
    disk: Disk,
    /// The last epoch that was acknowledged as durable, and the last one appended.
    durable: u64,
    appended: u64,
}

fn ops(epoch: u64) -> Vec<u8> {
    (0..10 + epoch * 37 % 200).map(|i| (i * 5 + epoch * 11) as u8).collect()
}

fn live(seed: u64) -> Life {
    let sim = SimVfs::new();
    let vfs: Arc<dyn Vfs> = Arc::new(sim.clone());
    let mut rng = Rng(seed);
    let segment_bytes = 4096 + 400 + rng.below(2000);
    let options = LogOptions { segment_bytes, seed: Some(seed), ..LogOptions::default() };
    let mut log = Log::create(vfs, Path::new(DIR), options).unwrap();
    let (mut durable, mut appended) = (0, 0);
    // Some lives never sync, some often.
    let often = 1 + rng.below(12);
    for _ in 0..4 + rng.below(30) {
        match rng.below(16) {
            0 => log.append_mark(appended, 1, 2).unwrap(),
            n if n <= often / 3 => {
                let point = log.sync_point();
                point.sync().unwrap();
                log.synced(&point);
                log.write_meta().unwrap();
                durable = appended;
            }
            _ => {
                appended += 1;
                let mut buf = vec![0; HEADROOM];
                buf.extend(ops(appended));
                log.append(appended, appended * 10, 0, &mut buf).unwrap();
            }
        }
    }
    Life { disk: sim.disk(), durable, appended }
}

/// Opens a log as a reader or as its host; how many commits came, each as it was.
fn read_back(disk: &Disk, host: bool) -> Result<u64> {
    let vfs: Arc<dyn Vfs> = Arc::new(SimVfs::of(disk.clone()));
    let mut seen = 0;
    let mut on = |commit: Commit<'_>| {
        seen += 1;
        assert_eq!((commit.epoch, commit.time), (seen, seen * 10));
        assert_eq!(commit.ops, ops(seen));
        Ok(())
    };
    let mode = match host {
        true => OpenMode::Writer(lock(&*vfs, Path::new(DIR))?),
        false => OpenMode::Reader { durable_only: false },
    };
    let options = LogOptions { seed: Some(1), ..LogOptions::default() };
    open(vfs, Path::new(DIR), options, 0, mode, &mut on, &mut |_, _| {})?;
    Ok(seen)
}

/// What a reader and a host both say.
fn verdict(disk: &Disk, what: &str) -> Option<u64> {
    let [reader, host] = [false, true].map(|host| match read_back(disk, host) {
        Ok(seen) => Some(seen),
        Err(error) => {
            assert_eq!(error.code, Code::Corruption, "{what}: {error}");
            None
        }
    });
    assert_eq!(reader, host, "{what}");
    host
}

/// Row 8: damage in each record of many lives, and the ends that power losses leave.
pub fn matrix(args: &Args) -> Vec<Row<'static>> {
    let count = args.cases.unwrap_or(100_000).max(64);
    // A life gives 60 cases or more.
    let tally = share(count / 40, args.threads, |range, tally| {
        for case in range {
            let life = live(mix(args.seed, case));
            damage(&life, &mut Rng(mix(case, 1)), case, tally);
            power_losses(&life, &mut Rng(mix(case, 2)), case, tally);
        }
    });
    assert!(tally.all() >= count);
    show("damage or torn", &tally);
    vec![Row {
        id: "08-torn-or-damaged",
        row: "8 Damage told apart from torn ends",
        tried: "each record of random lives of a log, before and behind the last durable place: bits, zeros, random \
                bytes, cut; and power losses that kept any of what was not synced"
            .to_string(),
        count: format!("{} cases", tally.all()),
        seed: args.seed.to_string(),
        result: format!(
            "0 durable records dropped ({} damaged: all refused), 0 torn ends refused ({} opened with all before them)",
            tally.of(REFUSED),
            tally.of(OPENED)
        ),
        command: args.command.clone(),
    }]
}

const REFUSED: &str = "refused";
const OPENED: &str = "opened with all before it";

fn damage(life: &Life, rng: &mut Rng, case: u64, tally: &mut Tally) {
    let segments: Vec<(&Path, &[u8])> =
        life.disk.files().filter(|(path, _)| is_segment(path)).collect();
    for (index, (path, bytes)) in segments.iter().enumerate() {
        let seq = index as u64;
        for record in format::records(bytes) {
            for how in 0..4 {
                let mut bad = bytes.to_vec();
                let inside = record.start + rng.below((record.end - record.start) as u64) as usize;
                let kind = match how {
                    0 => {
                        bad[inside] ^= 1 << rng.below(8);
                        "bit"
                    }
                    1 => {
                        bad[record.start..record.end].fill(0);
                        "zeros"
                    }
                    2 => {
                        bad[inside..record.end]
                            .iter_mut()
                            .for_each(|byte| *byte = rng.next_u64() as u8);
                        "random bytes"
                    }
                    _ => {
                        bad.truncate(inside);
                        "cut"
                    }
                };
                if bad.get(record.start..record.end) == Some(&bytes[record.start..record.end]) {
                    continue;
                }
                let mut disk = life.disk.clone();
                disk.plant(path, &bad);
                let what = format!("life {case}, {kind} at {inside} of segment {seq}");
                let got = verdict(&disk, &what);
                let durable = record.epoch <= life.durable;
                // What a sync behind the commits has made durable is durable too, though nobody was told.
                let told = promised(&disk).max(promised_behind(bytes, seq, &record, how == 3));
                let proven = (seq, record.start as u64) < told || index + 2 < segments.len();
                let outcome = match got {
                    None => {
                        assert!(durable || proven, "{what}: torn, but refused");
                        REFUSED
                    }
                    Some(seen) => {
                        assert!(!durable, "{what}: epoch {} was durable", record.epoch);
                        assert_eq!(seen, record.epoch - 1, "{what}");
                        OPENED
                    }
                };
                let truth = match (durable, proven) {
                    (true, _) => "acknowledged as durable",
                    (false, true) => "durable, not yet acknowledged",
                    (false, false) => "not durable",
                };
                tally.count(format!("{truth}: {kind}"), outcome);
            }
        }
    }
}

/// What the records behind a damaged one still say to be durable; a cut takes them too.
fn promised_behind(bytes: &[u8], seq: u64, bad: &format::Record, cut: bool) -> (u64, u64) {
    let behind = format::records(bytes).into_iter().filter(|r| !cut && r.start > bad.start);
    (seq, behind.filter_map(|r| r.durable).max().unwrap_or(0))
}

fn power_losses(life: &Life, rng: &mut Rng, case: u64, tally: &mut Tally) {
    for image in 0..24 {
        let disk = match image {
            0 => life.disk.after_crash(&mut |_| false),
            1 => life.disk.after_crash(&mut |_| true),
            _ => life.disk.after_crash(&mut |_| rng.coin()),
        };
        let what = format!("life {case}, power loss {image}");
        let seen = verdict(&disk, &what).unwrap_or_else(|| panic!("{what}: refused"));
        assert!((life.durable..=life.appended).contains(&seen), "{what}: {seen}");
        tally.count("power loss", OPENED);
    }
}
