//! Checkpoints against a second encoder, made from FORMAT.md: byte by byte, damaged everywhere, and written wrong.

use std::sync::Arc;

use super::*;
use crate::arena::faults;
use crate::catalog::PageInfo;
use crate::core::Core;
use crate::delta::{Batch, NewPage};
use crate::graph::Marks;
use crate::hash::{h64, h128};
use crate::history::{BACKING, Store};
use crate::keeper;
use crate::log::double::{Call, Double};
use crate::log::{put_text, put_varint};
use crate::sequence::How;
use crate::snapshot::Snapshot;
pub(super) use crate::vfs::testing::contents;
use crate::vfs::{RamVfs, write_all_at};
use crate::{Bus, Durability, Options};

const STORE: &str = "/s";
const EIO: i32 = 5;
const UNASKED: Making<'_> = Making { automatic: true, base: None, compress: false };

pub(super) fn store() -> &'static Path {
    Path::new(STORE)
}

pub(super) fn how(time: u64) -> How<'static> {
    How { time: Some(time), wait: true, ..How::default() }
}

/// A page as the index tells it, and its bytes.
#[derive(Clone)]
pub(super) struct Page {
    pub(super) info: PageInfo,
    pub(super) bytes: Vec<u8>,
    pub(super) bytes_epoch: u64,
    /// Another place than the next one.
    pub(super) at: Option<u64>,
}

/// All that a checkpoint says.
#[derive(Clone)]
pub(super) struct File {
    pub(super) automatic: bool,
    pub(super) uuid: [u8; 16],
    pub(super) epoch: u64,
    pub(super) time: u64,
    pub(super) next_id: u64,
    pub(super) pages: Vec<Page>,
    pub(super) tags: Vec<(String, u64)>,
    pub(super) digest: u128,
}

impl File {
    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_with(&mut |_| {}, &mut |_| {})
    }

    /// Encodes with an index and a header that were changed before they got their hashes.
    pub(super) fn encode_with(
        &self,
        in_index: &mut dyn FnMut(&mut Vec<u8>),
        in_head: &mut dyn FnMut(&mut Vec<u8>),
    ) -> Vec<u8> {
        let (mut out, mut index, mut has_runs) = (vec![0; 4096], Vec::new(), 0);
        let has_graph = self.pages.iter().any(|page| !page.info.node.is_empty());
        for page in &self.pages {
            let info = &page.info;
            put_varint(&mut index, info.id);
            put_text(&mut index, info.name.as_deref().unwrap_or(""));
            put_text(&mut index, &info.dtype);
            put_varint(&mut index, info.itemsize.into());
            put_varint(&mut index, info.shape.len() as u64);
            info.shape.iter().for_each(|&dim| put_varint(&mut index, dim));
            put_varint(&mut index, info.nbytes);
            put_text(&mut index, &info.meta);
            index.push(info.location);
            if has_graph {
                index.push(u8::from(info.marks.stale) + 2 * u8::from(info.marks.poisoned));
                put_varint(&mut index, info.node.len() as u64);
                index.extend_from_slice(&info.node);
            }
            put_varint(&mut index, page.bytes_epoch);
            put_varint(&mut index, info.desc_epoch);
            let to = if page.bytes.len() > 16384 { 4096 } else { 8 };
            let is_zero = |part: &&[u8]| part.iter().all(|&byte| byte == 0);
            let parts: Vec<&[u8]> = page.bytes.chunks(16384).collect();
            let hashes = parts.iter().flat_map(|part| h128(part).to_le_bytes());
            if page.at.is_some() || !parts.iter().any(is_zero) {
                out.resize(out.len().next_multiple_of(to), 0);
                put_varint(&mut index, page.at.unwrap_or(out.len() as u64));
                index.extend(hashes);
                out.extend_from_slice(&page.bytes);
                continue;
            }
            has_runs = 1;
            index.push(0);
            index.extend(hashes);
            for run in parts.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
                let form = u64::from(!is_zero(&run[0]));
                put_varint(&mut index, (run.len() as u64) << 3 | form);
                if form == 1 {
                    out.resize(out.len().next_multiple_of(to), 0);
                    put_varint(&mut index, out.len() as u64);
                    out.extend_from_slice(&run.concat());
                }
            }
        }
        for (name, epoch) in &self.tags {
            put_text(&mut index, name);
            put_varint(&mut index, *epoch);
        }
        in_index(&mut index);
        out.resize(out.len().next_multiple_of(8), 0);
        let at = out.len() as u64;
        out.extend_from_slice(&index);
        let mut head = b"\x89MMSB ckpt\r\n\x1a\n\0\xff".to_vec();
        head.extend_from_slice(&[1, 0, 0, 0, self.automatic.into(), 0, 0, 0]);
        head.push(has_runs + 2 * u8::from(has_graph));
        head.resize(40, 0);
        head.extend_from_slice(&self.uuid);
        let counts = [self.pages.len() as u64, self.tags.len() as u64];
        let places = [at, index.len() as u64, out.len() as u64];
        for word in [self.epoch, self.time, self.next_id].iter().chain(&counts).chain(&places) {
            head.extend_from_slice(&word.to_le_bytes());
        }
        head.extend_from_slice(&h128(&index).to_le_bytes());
        head.extend_from_slice(&self.digest.to_le_bytes());
        head.resize(4088, 0);
        in_head(&mut head);
        let sum = h64(&head);
        head.extend_from_slice(&sum.to_le_bytes());
        out[..4096].copy_from_slice(&head);
        out
    }
}

pub(super) fn page(id: u64, name: Option<&str>, bytes: Vec<u8>, epoch: u64) -> Page {
    let info = PageInfo {
        id,
        name: name.map(str::to_string),
        dtype: String::new(),
        itemsize: 1,
        shape: vec![bytes.len() as u64],
        nbytes: bytes.len() as u64,
        epoch,
        bytes_epoch: epoch,
        desc_epoch: 1,
        meta: String::new(),
        location: 0,
        node: Vec::new(),
        marks: Marks::default(),
    };
    Page { info, bytes, bytes_epoch: epoch, at: None }
}

pub(super) fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Calls without those that only go on with a write that was cut short.
pub(super) fn whole(calls: Vec<Call>) -> Vec<Call> {
    let mut end = 0;
    let goes_on = |call: &Call, end: &mut u64| {
        let before = std::mem::replace(end, call.at + call.len);
        call.what == "write" && call.at > 0 && before == *end
    };
    calls.into_iter().filter(|call| !goes_on(call, &mut end)).collect()
}

/// A bus, and what a checkpoint of it has to be.
pub(super) fn world() -> (Double, Bus, File) {
    let double = Double::new(Arc::new(RamVfs::new()));
    let options = Options {
        durability: Some(Durability::Disk),
        max_memory: Some(64 << 20),
        seed: Some(3),
        ..Options::default()
    };
    let bus = Bus::create_on(double.vfs(), store(), &options).unwrap();
    let mut grid = page(2, Some("grid"), pattern(24, 1), 3);
    grid.info.dtype = "\"<f4\"".into();
    grid.info.itemsize = 4;
    grid.info.shape = vec![2, 3];
    grid.info.meta = "{\"unit\":\"m\"}".into();
    grid.info.desc_epoch = 3;
    (grid.bytes_epoch, grid.info.bytes_epoch) = (2, 2);
    let mut deep = page(8, Some("deep"), vec![9], 2);
    deep.info.shape = vec![1; 64];
    let mut pages = vec![
        page(1, Some("empty"), vec![], 1),
        grid,
        page(3, None, pattern(5, 2), 2),
        page(4, Some("block"), pattern(16384, 3), 2),
        page(5, Some("more"), pattern(16385, 4), 2),
        page(7, None, pattern(40_000, 5), 3),
        deep,
        page(9, Some("zeros"), vec![0; 20_000], 1),
        page(10, Some("last"), pattern(16, 6), 2),
    ];
    pages[7].info.location = 1;
    let mut batch = Batch::new();
    for page in &pages {
        let info = &page.info;
        let new = NewPage {
            name: info.name.as_deref(),
            dtype: &info.dtype,
            itemsize: info.itemsize,
            shape: &info.shape,
            nbytes: info.nbytes,
            meta: "",
            location: info.location,
        };
        if info.id == 7 {
            batch.create(6, &NewPage { name: Some("gone"), ..new });
        }
        batch.create(info.id, &new);
    }
    bus.commit(&mut batch, None, &how(1000)).unwrap();
    batch.clear();
    pages.iter().for_each(|page| batch.write(page.info.id, 0, &page.bytes));
    bus.commit(&mut batch, None, &how(2000)).unwrap();
    batch.clear();
    batch.write(7, 30_000, b"x");
    pages[5].bytes[30_000] = b'x';
    batch.set_meta(2, "{\"unit\":\"m\"}");
    batch.delete(6);
    batch.tag("zz", Some(1), false);
    batch.tag("now", None, false);
    bus.commit(&mut batch, None, &how(1 << 60)).unwrap();
    let at = bus.snapshot().unwrap();
    let file = File {
        automatic: false,
        uuid: crate::log::read_meta(&double, store()).unwrap().uuid,
        epoch: 3,
        time: 1 << 60,
        next_id: 11,
        pages,
        tags: vec![("now".into(), 3), ("zz".into(), 1)],
        digest: at.digest().unwrap(),
    };
    (double, bus, file)
}

/// A file system with this checkpoint in it and nothing else.
pub(super) fn only(epoch: u64, bytes: &[u8]) -> RamVfs {
    let vfs = RamVfs::new();
    vfs.create_dir(store()).unwrap();
    vfs.create_dir(&dir(store())).unwrap();
    put(&vfs, epoch, bytes);
    vfs
}

pub(super) fn put(vfs: &dyn Vfs, epoch: u64, bytes: &[u8]) {
    let file = vfs.open(&path(store(), epoch), OpenKind::CreateNew).unwrap();
    write_all_at(&*file, 0, bytes).unwrap();
}

pub(super) fn loaded(vfs: &dyn Vfs, file: &File, told: &mut Vec<(u64, u64)>) -> Result<Arc<Core>> {
    let core = Core::new(BACKING, 16 << 20, false)?;
    load(vfs, store(), file.epoch, file.uuid, &core, &mut |done, all| told.push((done, all)))?;
    Ok(core)
}

#[test]
fn a_checkpoint_byte_by_byte() {
    let (double, bus, file) = world();
    double.calls();
    assert_eq!(bus.checkpoint().unwrap(), 3);
    let changes: Vec<String> =
        whole(double.calls()).iter().filter(|c| c.changes()).map(Call::to_string).collect();
    let bytes = contents(&double, Path::new("/s/checkpoints/0000000000000003.ckpt"));
    let expected = file.encode();
    assert_eq!(bytes.len(), expected.len());
    assert!(bytes == expected);
    let body = expected.len() - 4096;
    let expected = [
        "create .tmp-0000000000000003.ckpt".into(),
        format!("write .tmp-0000000000000003.ckpt 4096+{body}"),
        "write .tmp-0000000000000003.ckpt 0+4096".into(),
        "sync .tmp-0000000000000003.ckpt".into(),
        // All of it is durable before it has its name.
        "rename to 0000000000000003.ckpt".into(),
        "sync_dir checkpoints".into(),
        // And the log tells of it.
    ];
    assert_eq!(changes[..6], expected);
    assert!(changes[6].starts_with("write creating"), "{changes:?}");
    // Asked again, it is looked at only.
    double.calls();
    assert_eq!(bus.checkpoint().unwrap(), 3);
    assert_eq!(double.changes(), [""; 0]);
    let read = |at: &Snapshot, making| {
        write(&double, store(), file.uuid, at, making).unwrap();
        contents(&double, Path::new("/s/checkpoints/.tmp-0000000000000003.ckpt"))
    };
    let at = bus.snapshot().unwrap();
    assert!(read(&at, Making::default()) == bytes);
    // The remains of an attempt are in nobody's way.
    assert!(read(&at, UNASKED) == File { automatic: true, ..file.clone() }.encode());
    assert_eq!(write(&double, store(), file.uuid, &at, UNASKED).unwrap(), bytes.len() as u64);
}

/// What is loaded is what was there, down to names, tags and counts.
#[test]
fn loading() {
    let (_, bus, file) = world();
    let bytes = file.encode();
    let vfs = only(3, &bytes);
    let mut told = Vec::new();
    let core = loaded(&vfs, &file, &mut told).unwrap();
    let got = Snapshot::newest(&core).unwrap();
    assert_eq!((got.epoch(), got.time(), got.next_id()), (3, 1 << 60, 11));
    assert_eq!((got.page_count(), got.digest().unwrap()), (9, file.digest));
    assert_eq!(got.tags(), file.tags);
    assert_eq!(got.infos().unwrap(), file.pages.iter().map(|p| p.info.clone()).collect::<Vec<_>>());
    assert_eq!(got.infos().unwrap(), bus.snapshot().unwrap().infos().unwrap());
    let all: u64 = file.pages.iter().map(|p| p.info.nbytes).sum();
    assert_eq!(core.log_and_page_bytes(), (0, all));
    for page in &file.pages {
        assert!(got.view(page.info.id).unwrap().bytes() == page.bytes);
        if let Some(name) = &page.info.name {
            assert_eq!(got.find(name), Some(page.info.id));
        }
    }
    assert_eq!(got.find("gone"), None);
    let index_at = u64::from_le_bytes(bytes[96..104].try_into().unwrap());
    let ends: Vec<u64> = told.iter().map(|t| t.0).collect();
    assert!(told.iter().all(|t| t.1 == index_at) && ends.len() == 9);
    assert!(ends.is_sorted());
    assert_eq!((ends[0], ends[1], ends[8]), (4096, 4096 + 24, index_at));
    let verified = verify(&vfs, store(), 3, file.uuid).unwrap();
    assert_eq!(verified, (bytes.len() as u64, file.digest));
    // The engine goes on from there: an old and a new page, a name and a tag.
    let mut batch = Batch::new();
    batch.rename(2, Some("gone"));
    batch.write(7, 39_999, b"!");
    batch.untag("zz");
    core.replay(4, 5, batch_ops(&batch)).unwrap();
    let after = Snapshot::newest(&core).unwrap();
    assert_eq!((after.find("grid"), after.find("gone")), (None, Some(2)));
    assert_eq!((after.tags().len(), after.view(7).unwrap().bytes()[39_999]), (1, b'!'));
    assert_eq!(got.find("grid"), Some(2));
}

fn batch_ops(batch: &Batch) -> &[u8] {
    batch.ops()
}

/// A state without pages and tags: nothing but a header.
#[test]
fn an_empty_state() {
    let (_, _, file) = world();
    let core = Core::new(BACKING, 16 << 20, false).unwrap();
    let digest = Snapshot::newest(&core).unwrap().digest().unwrap();
    let empty = File { pages: vec![], tags: vec![], digest, ..file };
    let bytes = empty.encode();
    assert_eq!(bytes.len(), 4096);
    let vfs = only(3, &bytes);
    let mut told = Vec::new();
    let core = loaded(&vfs, &empty, &mut told).unwrap();
    assert_eq!((core.epoch(), told.len()), (3, 0));
    assert_eq!(verify(&vfs, store(), 3, empty.uuid).unwrap(), (4096, digest));
    // Also before the first commit.
    let none = File { epoch: 0, time: 0, next_id: 1, ..empty };
    let core = loaded(&only(0, &none.encode()), &none, &mut told).unwrap();
    assert_eq!(core.epoch(), 0);
}

/// Large states go out in large pieces, however many pages there are.
#[test]
fn writes_are_gathered() {
    let (double, bus, _) = world();
    let mut batch = Batch::new();
    for id in 11..311 {
        batch.create(id, &NewPage::bytes(&[16384]));
    }
    bus.commit(&mut batch, None, &how(1)).unwrap();
    double.calls();
    bus.checkpoint().unwrap();
    let calls = whole(double.calls());
    let sizes: Vec<u64> = calls
        .iter()
        .filter(|c| c.what == "write" && c.path.to_string_lossy().contains(".tmp-"))
        .map(|c| c.len)
        .collect();
    assert!(sizes.len() <= 7, "{sizes:?}");
    assert!(sizes.iter().all(|&n| n <= (1 << 20) + 16384), "{sizes:?}");
    let named = bus.snapshot().unwrap();
    let core = Core::new(BACKING, 64 << 20, false).unwrap();
    let uuid = crate::log::read_meta(&double, store()).unwrap().uuid;
    load(&double, store(), 4, uuid, &core, &mut |_, _| {}).unwrap();
    assert_eq!(Snapshot::newest(&core).unwrap().digest().unwrap(), named.digest().unwrap());
}

/// Every call of a checkpoint fails once: the error says so, and nothing is left but what the next attempt removes.
#[test]
fn every_call_fails_once() {
    let (double, bus, file) = world();
    let at = bus.snapshot().unwrap();
    let expected = file.encode();
    for nth in 1.. {
        double.calls();
        double.fail_once(nth, EIO);
        let done = write(&double, store(), file.uuid, &at, Making::default())
            .and_then(|_| install(&double, store(), 3))
            .and_then(|names| sync_names(&*names, store()));
        double.heal();
        let calls = double.calls();
        if calls.len() < nth {
            done.unwrap();
            break;
        }
        let error = done.unwrap_err();
        assert_eq!(
            (error.code, error.detail.errno),
            (Code::Storage, Some(EIO)),
            "{}",
            calls[nth - 1]
        );
        let named = list(&double, store()).unwrap();
        assert!(named.is_empty() || calls[nth - 1].what == "sync_dir");
        let left = double.list(&dir(store())).unwrap();
        assert_eq!(
            left.len(),
            usize::from(["open_dir", "rename to", "sync_dir"].contains(&calls[nth - 1].what))
        );
    }
    assert!(contents(&double, &path(store(), 3)) == expected);
    for nth in 1.. {
        double.calls();
        double.fail_once(nth, EIO);
        let mut errors = Vec::new();
        errors.extend(list(&double, store()).err());
        errors.extend(is_automatic(&double, store(), 3).err());
        errors.extend(verify(&double, store(), 3, file.uuid).err());
        errors.extend(loaded(&double, &file, &mut Vec::new()).err());
        double.heal();
        let calls = double.calls();
        if calls.len() < nth {
            assert!(errors.is_empty() && nth > 20);
            break;
        }
        // A header that cannot be read is left alone.
        assert!(
            errors.len() == 1 || calls[nth - 1].what == "read" && nth == 3,
            "{}",
            calls[nth - 1]
        );
        assert!(errors.iter().all(|e| e.detail.errno == Some(EIO)));
    }
    // Remains that cannot be removed, and a directory that is not there.
    let left = dir(store()).join(".tmp-0000000000000003.ckpt");
    double.open(&left, OpenKind::CreateNew).unwrap();
    double.fail(|call| (call.what == "unlink").then(|| io::Error::from_raw_os_error(EIO)));
    assert_eq!(
        write(&double, store(), file.uuid, &at, Making::default()).unwrap_err().detail.errno,
        Some(EIO)
    );
    double.heal();
    // A killed attempt may have been of any epoch.
    let older = dir(store()).join(".tmp-0000000000000002.ckpt");
    double.open(&older, OpenKind::CreateNew).unwrap();
    write(&double, store(), file.uuid, &at, Making::default()).unwrap();
    assert!(!double.exists(&older).unwrap());
    assert_eq!(list(&RamVfs::new(), store()).unwrap(), [0u64; 0]);
}

/// Memory that is not there is an error of its own, at every request.
#[test]
fn memory_runs_out() {
    let (_, _, file) = world();
    let vfs = only(3, &file.encode());
    for nth in 1.. {
        let core = Core::new(BACKING, 16 << 20, false).unwrap();
        faults::arm(nth, false);
        let done = load(&vfs, store(), 3, file.uuid, &core, &mut |_, _| {});
        if !faults::disarm() {
            assert!(done.is_ok() && nth > 20);
            break;
        }
        assert_eq!(done.unwrap_err().code, Code::OutOfSpace, "request {nth}");
        assert_eq!(core.epoch(), 0);
    }
}

#[test]
fn names_that_are_checkpoints() {
    let vfs = only(0x1_0000_0001, b"");
    put(&vfs, 2, b"");
    put(&vfs, 0xabc, b"");
    for other in ["3.ckpt", ".tmp-0000000000000004.ckpt", "0000000000000ABD.ckpt", "note", "x.ckpt"]
    {
        vfs.open(&dir(store()).join(other), OpenKind::CreateNew).unwrap();
    }
    assert_eq!(list(&vfs, store()).unwrap(), [2, 0xabc, 0x1_0000_0001]);
}

/// Of those made unasked the newest two and one per doubling stay; those asked for, those of tags, and those that
/// cannot be read are left alone.
#[test]
fn thinning() {
    let (_, _, file) = world();
    let vfs = only(1, &File { epoch: 1, ..file.clone() }.encode());
    for epoch in 2..=20 {
        put(&vfs, epoch, &File { epoch, automatic: true, ..file.clone() }.encode());
    }
    put(&vfs, 21, b"torn");
    let vfs: Arc<dyn Vfs> = Arc::new(vfs);
    let store = Store { vfs: vfs.clone(), dir: store().to_path_buf(), uuid: file.uuid };
    keeper::thin(&store, &[("tag".into(), 7), ("other".into(), 30)]).unwrap();
    // Distances from 20: 16 and more, 8 and more, 4, 2; the first of each stays.
    let left = list(&*vfs, &store.dir).unwrap();
    assert_eq!(left, [1, 2, 5, 7, 13, 17, 19, 20, 21]);
    keeper::thin(&store, &[]).unwrap();
    assert_eq!(list(&*vfs, &store.dir).unwrap(), [1, 2, 5, 13, 17, 19, 20, 21]);
    let double = Double::new(vfs);
    let store = Store { vfs: double.vfs(), ..store };
    keeper::thin(&store, &[]).unwrap();
    put(&double, 18, &File { epoch: 18, automatic: true, ..file.clone() }.encode());
    for what in ["list", "open", "unlink"] {
        double.fail(move |call| (call.what == what).then(|| io::Error::from_raw_os_error(EIO)));
        assert_eq!(keeper::thin(&store, &[]).unwrap_err().detail.errno, Some(EIO), "{what}");
        double.heal();
        assert!(list(&double, &store.dir).unwrap().contains(&18));
    }
    keeper::thin(&store, &[]).unwrap();
    assert_eq!(list(&double, &store.dir).unwrap(), [1, 2, 5, 13, 17, 19, 20, 21]);
}

/// The newest that is whole, of this store and of the epoch in its name; one that is gone meanwhile promises nothing, one
/// that the disk does not give is an error.
#[test]
fn what_a_checkpoint_promises() {
    let (_, _, file) = world();
    let at = |epoch| File { epoch, ..file.clone() };
    let ask = |vfs: &dyn Vfs| promised(vfs, store(), file.uuid);
    let vfs = only(3, &at(3).encode());
    assert_eq!(ask(&vfs).unwrap(), 3);
    put(&vfs, 7, &at(7).encode());
    assert_eq!(ask(&vfs).unwrap(), 7);
    put(&vfs, 8, &File { uuid: [9; 16], ..at(8) }.encode());
    put(&vfs, 9, &at(3).encode());
    put(&vfs, 10, &at(10).encode()[..4000]);
    assert_eq!(ask(&vfs).unwrap(), 7);
    let double = Double::new(Arc::new(vfs));
    let newest = path(store(), 10);
    for (errno, told) in [(2, Ok(7)), (EIO, Err(Some(EIO)))] {
        let newest = newest.clone();
        double.fail(move |call| {
            (call.what == "open" && call.path == newest)
                .then(|| io::Error::from_raw_os_error(errno))
        });
        assert_eq!(ask(&double).map_err(|error| error.detail.errno), told);
    }
    double.heal();
    assert_eq!(ask(&only(8, &File { uuid: [9; 16], ..at(8) }.encode())).unwrap(), 0);
}
