use super::*;
use crate::graph::Form;
use crate::log::take_varint;
use proptest::prelude::*;

#[test]
fn operations_round_trip() {
    let mut batch = Batch::new();
    let page = NewPage {
        name: Some("päge"),
        dtype: "\"<f4\"",
        itemsize: 4,
        shape: &[1000, 3],
        nbytes: 12_000,
        meta: "{\"unit\":\"m\"}",
        location: 0,
    };
    batch.create(1, &page);
    batch.write(1, 300, b"hello");
    batch.resize(1, &[1], 12);
    batch.rename(1, None);
    batch.set_meta(1, "");
    batch.tag("now", None, false);
    batch.tag("then", Some(u64::MAX), true);
    batch.untag("now");
    batch.delete(u64::MAX);
    let sum = Node { form: Form::Native, text: "a + b", inputs: vec![7, 1], ..Node::links(vec![]) };
    batch.node(4, Some(&sum));
    batch.node(4, None);
    batch.mark(4, Marks { stale: true, poisoned: false });
    batch.set_prefix(Some("physics"), Some("{}"));
    batch.set_prefix(Some("p"), None);
    let ops: Vec<_> = Ops::new(batch.ops()).map(|op| op.expect("well formed")).collect();
    assert_eq!(ops.len(), batch.len());
    assert_eq!(
        ops[0],
        Op::Create {
            id: 1,
            name: Some("päge"),
            dtype: "\"<f4\"",
            itemsize: 4,
            shape: vec![1000, 3],
            nbytes: 12_000,
            meta: "{\"unit\":\"m\"}",
            location: 0
        }
    );
    assert_eq!(ops[1], Op::Write { id: 1, offset: 300, data: b"hello" });
    assert_eq!(ops[6], Op::Tag { name: "then", epoch: Some(u64::MAX), move_: true });
    assert_eq!(ops[8], Op::Delete { id: u64::MAX });
    assert_eq!(ops[9], Op::Node { id: 4, node: b"\x01\x00\x05a + b\x02\x07\x01\x00" });
    assert_eq!(ops[10], Op::Node { id: 4, node: b"" });
    assert_eq!(ops[11], Op::Mark { id: 4, marks: Marks { stale: true, poisoned: false } });
}

proptest! {
    #[test]
    fn varints_round_trip(value: u64) {
        let mut buf = Vec::new();
        put_varint(&mut buf, value);
        let mut rest = buf.as_slice();
        prop_assert_eq!((take_varint(&mut rest), rest.len()), (Some(value), 0));
        buf.pop();
        prop_assert_eq!(take_varint(&mut buf.as_slice()), None);
    }

    #[test]
    fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
        let _ = Ops::new(&bytes).count();
    }
}
