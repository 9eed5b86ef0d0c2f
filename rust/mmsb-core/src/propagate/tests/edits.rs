//! Pages that are computed together, and changes of the graph.

use super::*;

#[test]
fn pages_of_a_level_are_computed_together() {
    // 1, 2 -> 3, 4, 5; 3, 4 -> 6, 7; 8 has another number of inputs.
    let derived: [&[u64]; 6] = [&[1], &[2], &[1], &[3], &[4], &[1, 2]];
    let stacks = Sum { stacks: true, ..Sum::default() };
    let (bus, sum) = world_of(stacks, 2, 2, &derived);
    let stacked = || std::mem::take(&mut *sum.stacked.lock().unwrap());
    stacked();
    write(&bus, 1, &[1, 2]).unwrap();
    // Page 6 is due alone on its level.
    assert_eq!(stacked(), [vec![3, 5], vec![8]]);
    assert_eq!(sum.ran(), [3, 5, 8, 6]);
    commit(&bus, |batch| {
        batch.write(1, 0, &[7, 7]);
        batch.write(2, 0, &[9, 9]);
    })
    .unwrap();
    assert_eq!(stacked(), [vec![3, 4, 5], vec![8], vec![6, 7]]);
    assert_eq!(sum.ran(), [3, 4, 5, 8, 6, 7]);
    for (page, want) in [(3, 7), (4, 9), (5, 7), (6, 7), (7, 9), (8, 16)] {
        assert_eq!(bytes(&bus, page), [want; 2]);
    }
    // One that fails is told as if it had been alone, and nothing is kept of the others.
    sum.fail(&[4]);
    let error = commit(&bus, |batch| {
        batch.write(1, 0, &[1, 1]);
        batch.write(2, 0, &[2, 2]);
    })
    .unwrap_err();
    assert_eq!((error.code, path_of(&error)), (Code::Propagation, vec![(2, 4)]));
    assert_eq!((bytes(&bus, 3), bytes(&bus, 7)), (vec![7; 2], vec![9; 2]));
}

#[test]
fn pages_derived_one_by_one_need_no_plan_and_give_the_same_log() {
    // Two buses make the same commits; one has a plan of everything before each of them.
    let seen = [false, true].map(|planned| {
        let (bus, sum) = world(2, 2, &[&[1], &[3], &[2]]);
        let mut logged: Vec<String> = Vec::new();
        let mut done = |fill: &dyn Fn(&mut Batch), needs_plan: bool| {
            if planned {
                write(&bus, 1, &[7, 1]).unwrap();
                write(&bus, 1, &[0, 0]).unwrap();
            }
            let epoch = commit(&bus, fill).unwrap().epoch;
            let seq = crate::sync::lock(&bus.core().unwrap().sequencer);
            assert_eq!(seq.propagation.compiled.is_some(), needs_plan);
            drop(seq);
            let entry = bus.log(epoch, epoch, false).unwrap().next().unwrap().unwrap();
            logged.extend(entry.ops().map(|op| format!("{:?}", op.unwrap())));
        };
        commit(&bus, |batch| batch.write(2, 0, &[3, 4])).unwrap();
        let made = |id, inputs: &'static [u64]| {
            let sum = sum.clone();
            move |batch: &mut Batch| {
                batch.create(id, &NewPage::bytes(&[2]));
                batch.node(id, Some(&node(inputs)));
                batch.function(id, sum.clone());
            }
        };
        done(&made(6, &[4, 5]), false);
        done(&made(7, &[6, 1]), false);
        let link = Node { form: Form::Function, ..Node::links(vec![(2, Kind::Control)]) };
        done(&|batch| batch.node(7, Some(&Node { inputs: vec![6, 1], ..link.clone() })), false);
        // Page 6 follows from it, so several are reached.
        let other = |batch: &mut Batch| {
            batch.node(4, Some(&node(&[2])));
            batch.function(4, sum.clone());
        };
        done(&other, true);
        let pages: Vec<_> = (1..=7).map(|id| bytes(&bus, id)).collect();
        (pages, logged)
    });
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].0[6], [6, 8]);
}

#[test]
fn a_failed_edit_leaves_the_graph_as_it_was() {
    let (bus, sum) = world(2, 2, &[&[1]]);
    let edit = |batch: &mut Batch| {
        batch.node(3, Some(&node(&[2])));
        batch.function(3, sum.clone());
    };
    sum.fail(&[3]);
    assert_eq!(commit(&bus, edit).unwrap_err().code, Code::Propagation);
    sum.fail(&[]);
    sum.ran();
    write(&bus, 1, &[1, 1]).unwrap();
    write(&bus, 2, &[5, 5]).unwrap();
    assert_eq!((sum.ran(), bytes(&bus, 3)), (vec![3], vec![1, 1]));
    commit(&bus, edit).unwrap();
    write(&bus, 1, &[2, 2]).unwrap();
    assert_eq!((sum.ran(), bytes(&bus, 3)), (vec![3], vec![5, 5]));
    write(&bus, 2, &[6, 6]).unwrap();
    assert_eq!((sum.ran(), bytes(&bus, 3)), (vec![3], vec![6, 6]));
}

#[test]
fn memory_of_large_pages_is_given_back() {
    let bus = Bus::memory(&Options { threads: Some(2), ..Options::default() }).unwrap();
    let len = wave::KEPT as u64 + 1;
    commit(&bus, |batch| {
        for id in 1..=3 {
            batch.create(id, &NewPage::bytes(&[len]));
            let text = "a + 1";
            let native = Node { form: Form::Native, text, inputs: vec![1], ..node(&[]) };
            if id > 1 {
                batch.node(id, Some(&native));
            }
        }
    })
    .unwrap();
    write(&bus, 1, &[7]).unwrap();
    assert_eq!(
        (bytes(&bus, 2)[..2].to_vec(), bytes(&bus, 3)[..2].to_vec()),
        (vec![8, 1], vec![8, 1])
    );
    let seq = crate::sync::lock(&bus.core().unwrap().sequencer);
    assert!(seq.propagation.room.bytes() < len as usize, "none of them is as large as a page");
}
