//! What threads compute is what one computes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Layers of native pages, small and large, with functions among them; the log's bytes after each commit.
fn layers(threads: usize) -> (Vec<u128>, Vec<u8>) {
    let vfs = Arc::new(RamVfs::new());
    let (dir, seed) = (Path::new("/store"), Some(5));
    let options = Options {
        durability: Some(Durability::Os),
        seed,
        threads: Some(threads),
        ..Options::default()
    };
    let bus = Bus::create_on(vfs.clone(), dir, &options).unwrap();
    let sum = Arc::new(Sum::default());
    let mut batch = Batch::new();
    let create = |batch: &mut Batch, id, len: u64| {
        let (shape, dtype) = ([len / 8], "\"<f8\"");
        let page =
            NewPage { dtype, itemsize: 8, shape: &shape, nbytes: len, ..NewPage::bytes(&shape) };
        batch.create(id, &page);
    };
    const WIDE: u64 = 40;
    for layer in 0..4 {
        for n in 0..WIDE {
            // Some are over a block, and some of those are scattered.
            create(&mut batch, layer * WIDE + n + 1, if n % 3 == 0 { 160_000 } else { 16_000 });
        }
    }
    for id in WIDE + 1..=4 * WIDE {
        let (n, below) = ((id - 1) % WIDE, id - WIDE);
        let text = ["sqrt(abs(a)) * 1.7 - tan(a)", "exp(sin(a) / 3.0) + a", "a * a - 0.5"]
            [(n % 3) as usize];
        let native = Node { form: Form::Native, text, inputs: vec![below], ..Node::links(vec![]) };
        batch.node(id, Some(&if n == 7 { node(&[below]) } else { native }));
        batch.function(id, sum.clone());
    }
    let mut digests = Vec::new();
    for round in 0..4u64 {
        for n in 0..WIDE {
            let bytes: Vec<u8> =
                (0..1500u64).flat_map(|k| ((k * round + n) as f64).sin().to_le_bytes()).collect();
            batch.write(n + 1, 512 * (round % 2), &bytes);
        }
        bus.commit(&mut batch, None, &how()).unwrap();
        digests.push(bus.snapshot().unwrap().digest().unwrap());
        batch.clear();
    }
    bus.close().unwrap();
    let names = vfs.list(&dir.join("log")).unwrap();
    let log = names.iter().flat_map(|name| contents(&*vfs, &dir.join("log").join(name))).collect();
    (digests, log)
}

#[test]
fn any_number_of_threads_gives_the_same_log() {
    let alone = layers(1);
    assert!(alone.1.len() > 1 << 20);
    for threads in [2, 3, 8, 16] {
        let many = layers(threads);
        assert!(alone == many, "{threads} threads");
    }
}

#[test]
fn threads_under_stress_give_the_same_log() {
    let alone = layers(1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // More than the machine has, so that each is stopped anywhere.
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let runs = [2, 3, 16].map(|threads| scope.spawn(move || layers(threads)));
        let runs = runs.map(|run| run.join());
        stop.store(true, Ordering::Relaxed);
        for run in runs {
            assert!(run.unwrap() == alone);
        }
    });
}
