//! What a checkpoint tells of the graph, byte by byte, and lies about it.

use super::damage_tests::refused;
use super::tests::{File, contents, loaded, only, store, world};
use super::*;
use crate::delta::Batch;
use crate::graph::{Kind, Marks, Node};
use crate::sequence::How;
use crate::snapshot::Snapshot;
use crate::{Bus, Code, Mode, Options};

/// The world with two pages in the graph, one of them stale.
fn graph() -> (crate::log::double::Double, Bus, File) {
    let (double, bus, mut file) = world();
    let links = Node::links(vec![(1, Kind::Control), (9, Kind::Compiler)]);
    let mirror = Node::links(vec![(3, Kind::GpuSync)]);
    let mut batch = Batch::new();
    batch.node(3, Some(&links));
    batch.node(10, Some(&mirror));
    batch.mark(3, Marks { stale: true, poisoned: false });
    let how = How { wait: true, time: Some(1 << 60), ..How::default() };
    bus.commit(&mut batch, None, &how).unwrap();
    file.epoch = 4;
    for (at, node) in [(2, links), (8, mirror)] {
        let info = &mut file.pages[at].info;
        (info.epoch, info.desc_epoch, info.node) = (4, 4, node.encode());
    }
    file.pages[2].info.marks.stale = true;
    file.digest = bus.snapshot().unwrap().digest().unwrap();
    (double, bus, file)
}

#[test]
fn a_checkpoint_tells_of_the_graph() {
    let (double, bus, file) = graph();
    assert_eq!(bus.checkpoint().unwrap(), 4);
    let bytes = contents(&*double.vfs(), &path(store(), 4));
    assert!(bytes == file.encode(), "the file is as FORMAT.md says");
    assert_eq!(bytes[24] & 2, 2);
    let core = loaded(&only(4, &bytes), &file, &mut Vec::new()).unwrap();
    let infos: Vec<_> = file.pages.iter().map(|page| page.info.clone()).collect();
    assert_eq!(Snapshot::newest(&core).unwrap().infos().unwrap(), infos);
    bus.close().unwrap();
    let reader =
        Bus::open_on(double.vfs(), store(), Mode::Read, &Options::default(), &mut |_, _| {})
            .unwrap();
    let at = reader.snapshot().unwrap();
    for info in &infos {
        assert_eq!(at.info(info.id).unwrap().as_ref(), Some(info));
    }
    assert_eq!(at.digest().unwrap(), file.digest);
}

#[test]
fn places_that_cannot_be_are_damage() {
    let (_, _, file) = graph();
    let node = file.pages[2].info.node.clone();
    let lie = |change: &dyn Fn(&mut Vec<u8>)| {
        let at = |index: &[u8]| index.windows(node.len()).position(|part| part == node).unwrap();
        let bytes = file.encode_with(
            &mut |index| {
                let at = at(index);
                let mut place = index[at..at + node.len()].to_vec();
                change(&mut place);
                index[at..at + node.len()].copy_from_slice(&place);
            },
            &mut |_| {},
        );
        refused(&file, &bytes).0
    };
    // An unknown form, an unknown flag, links out of order, and a kind that is none of a link.
    assert_eq!(lie(&|place| place[0] = 3), Code::Corruption);
    assert_eq!(lie(&|place| place[1] = 4), Code::Corruption);
    assert_eq!(lie(&|place| place[5] = 10), Code::Corruption);
    assert_eq!(lie(&|place| place[6] = 0), Code::Corruption);
    // A mark of a page without a place.
    let mut marked = file.clone();
    marked.pages[0].info.marks.poisoned = true;
    assert_eq!(refused(&marked, &marked.encode()).0, Code::Corruption);
    let mut unknown = file.clone();
    unknown.pages[2].info.marks = Marks::default();
    let bytes = unknown.encode_with(
        &mut |index| {
            let at = index.windows(node.len()).position(|part| part == node).unwrap();
            index[at - 2] = 4;
        },
        &mut |_| {},
    );
    assert_eq!(refused(&unknown, &bytes).0, Code::Corruption);
}
