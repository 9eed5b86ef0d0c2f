use mmsb_core::{Batch, Bus, Durability, Form, How, NewPage, Node, Options};
use std::time::Instant;
fn page(batch: &mut Batch, id: u64) {
    batch.create(
        id,
        &NewPage {
            name: None,
            dtype: "\"<f8\"",
            itemsize: 8,
            shape: &[],
            nbytes: 8,
            meta: "",
            location: 0,
        },
    );
}
fn node(text: &'static str, inputs: Vec<u64>) -> Node<'static> {
    Node { form: Form::Native, deferred: false, poisons: false, text, inputs, links: vec![] }
}
fn main() {
    let how = How { wait: true, ..How::default() };
    let which = std::env::args().nth(1).unwrap_or("chain".into());
    let n: u64 = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(1000);
    let dir = std::env::args().nth(3);
    let rounds: u64 = (2_000_000 / n).max(3);
    let options = Options { durability: Some(Durability::Os), ..Options::default() };
    let bus = match dir {
        Some(d) => Bus::create(std::path::Path::new(&d), &options).unwrap(),
        None => Bus::memory(&options).unwrap(),
    };
    bus.retain(None).ok();
    let mut batch = Batch::new();
    for id in 1..=n + 2 {
        page(&mut batch, id);
    }
    for i in 0..n {
        let id = i + 2;
        match which.as_str() {
            "chain" => batch.node(id, Some(&node("a + 1.0", vec![id - 1]))),
            "broad" => batch.node(id, Some(&node("a + 1.0", vec![1]))),
            "cut" => batch.node(id, Some(&node("minimum(a, 0.0)", vec![1]))),
            _ => panic!(),
        }
    }
    let t = Instant::now();
    bus.commit(&mut batch, None, &how).unwrap();
    println!("build {:.1} ms", t.elapsed().as_secs_f64() * 1e3);
    let mut best = f64::MAX;
    for _ in 0..5 {
        let t = Instant::now();
        for r in 0..rounds {
            bus.write(1, 0, &(r as f64 + 1.5).to_le_bytes(), &how).unwrap();
        }
        best = best.min(t.elapsed().as_secs_f64() / (rounds * n) as f64);
    }
    println!("{which} {n}: {:.1} ns a node", best * 1e9);
}
