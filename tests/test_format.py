"""FORMAT.md is enough: a reader written from it gets the same bytes, words and digests."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import golden
import mmsb
import numpy as np
import numpy.typing as npt
import plain_reader
import pytest
from golden import compare
from hypothesis import given, settings
from hypothesis import strategies as st
from mmsb import _core
from model import Model, Node, Refused, canonical
from strategies import operations

Array = npt.NDArray[Any]
DURABILITY_CODES = {"memory": 0, "os": 1, "disk": 2}


def build(bus: mmsb.Bus) -> None:
    """One of everything, with pages of many sizes and ids far enough for two levels of table."""
    for size in (0, 1, 16384, 16385, 33 * 16384, 32 * 16384 + 5):
        bus.create_page(f"raw {size}", size=size)
    bus["raw 16385"][16384] = 7
    bus[f"raw {33 * 16384}"][::1000] = 5
    with bus.transaction(source="me", meta={"b": 1, "a": "µ"}) as tx:
        for i in range(600):
            tx.create_page(None, data=[i], dtype="i4")
        tx.create_page("record", shape=(2, 3), dtype=[("a", "<i4"), ("b", "<f8", (2,))])
        tx.tag("here")
    bus.checkpoint()
    bus["record"][1, 2] = (5, (1.5, 2.5))
    bus["record"].set_meta({"unit": "m", "n": [1, None, True, 0.5, -3]})
    bus["record"].append(np.zeros((1, 3), bus["record"].dtype))
    for i in range(10, 500):
        bus[i].delete()
    bus["raw 1"].rename("other name")
    bus.tag("there", 3)
    bus.tag("there", 4, move=True)
    bus.untag("here")
    bus["raw 16385"].resize(3)
    bus["raw 16385"].resize(40_000)
    bus.restore(5)


@pytest.mark.parametrize("durability", ["memory", "os", "disk"])
def test_a_reader_written_from_the_document_agrees(store: Path, durability: str) -> None:
    compression = "lz4" if durability == "os" else None
    with mmsb.create(store, durability=durability, compression=compression) as bus:
        build(bus)
    with mmsb.open(store, mode="r+") as bus:  # a second segment
        bus[2][0] = 9
        bus.checkpoint()
        bus[2][0] = 10
    records = plain_reader.read_log(store)
    states = plain_reader.replay(records)
    with mmsb.open(store) as bus:
        log = list(bus.log())
        compare(bus, states)
        commits = [r for r in records if r.kind == plain_reader.COMMIT]
        for seen, record in zip(log, commits, strict=True):
            assert (seen.epoch, seen.time, seen.source) == (
                record.epoch, record.time, record.source,
            )  # fmt: skip
            assert canonical(seen.meta) == (record.meta or "{}")
        meta = plain_reader.read_meta(store)
        assert meta["durability"] == DURABILITY_CODES[durability]
        assert meta["durable_epoch"] == bus.epoch
        paths = sorted((store / "checkpoints").glob("*.ckpt"))
        assert len(paths) == 2
        for path in paths:
            state, digest, epochs = plain_reader.read_checkpoint(path)
            assert digest == plain_reader.digest(state) == bus.digest(state.epoch)
            replayed = states[state.epoch]
            assert (state.pages, state.tags, state.next_id, state.time) == (
                replayed.pages, replayed.tags, replayed.next_id, replayed.time,
            )  # fmt: skip
            with bus.snapshot(state.epoch) as snap:
                assert {p.id: p.epoch for p in snap.pages} == {
                    i: max(both) for i, both in epochs.items()
                }
    kinds = [r.kind for r in records]
    assert kinds.count(plain_reader.MARK) == 2
    assert kinds[-1] == plain_reader.SEAL == kinds[-1]
    for record in records:
        if record.kind == plain_reader.MARK:
            epoch, digest, size = struct.unpack("<Q16sQ", record.ops)
            (path,) = [p for p in paths if p.name.startswith(f"{epoch:016x}")]
            assert int.from_bytes(digest, "little") == int(plain_reader.digest(states[epoch]), 16)
            assert size == path.stat().st_size


def test_an_index_says_where_things_are(store: Path) -> None:
    core = _core.Core.create(str(store), "os", segment_bytes=256 << 10)
    with mmsb.Bus._of(core) as bus:
        build(bus)
        names = [f"p{i}" for i in range(5)]
        for name in names:
            bus.create_page(name, shape=4)
        for step in range(6000):
            ids = [bus[name].id for name in names[: step % 6]]
            values = np.full((len(ids), 8), step % 251, np.uint8)
            about = {"step": step, "q": [1, "a,b"]}
            by = [None, "physics", "µ"][step % 3]
            bus.write_many(ids, [0] * len(ids), values, source=by, meta=about)
            if step % 2500 == 0:
                bus.checkpoint()
    with mmsb.open(store) as bus:
        commits = {c.epoch: c for c in bus.log()}
    files = sorted((store / "index").iterdir())
    assert len(files) == 3
    for path in files:
        segment = store / "log" / path.with_suffix(".mlog").name
        places, marks = plain_reader.read_index(path, segment)
        records = plain_reader.read_segment(segment, None)[0]
        mine = [r for r in records if r.kind == plain_reader.COMMIT]
        assert marks == [(r.offset, r.time) for r in mine[::64]]
        expected: dict[int, list[int]] = {}
        for record in mine:
            commit = commits[record.epoch]
            keys = set(commit.pages)
            if commit.source is not None:
                keys.add(plain_reader.index_key(1, commit.source))
            members = [canonical({k: v})[1:-1] for k, v in commit.meta.items()]
            keys |= {plain_reader.index_key(2, member) for member in members}
            if commit.changes:
                keys.add(3 << 62)
            for key in keys:
                expected.setdefault(key, []).append(record.offset)
        checkpoints = [r.offset for r in records if r.kind == plain_reader.MARK]
        if checkpoints:
            expected[(3 << 62) + 1] = checkpoints
        assert places == expected


@settings(max_examples=25)
@given(data=st.data())
def test_random_stores_agree(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = tmp_path_factory.mktemp("format") / "s"
    model = Model()
    with mmsb.create(store, durability="memory") as bus:
        for _ in range(data.draw(st.integers(1, 20))):
            draft = model.head.copy()
            op = data.draw(operations(model, draft, transaction=False))
            try:
                op.apply(draft)
                model.commit(draft)
            except Refused:
                continue
            op.on_bus(bus)
        if data.draw(st.booleans()):
            bus.checkpoint()
    states = plain_reader.replay(plain_reader.read_log(store))
    for mine, theirs in zip(states, model.states, strict=True):
        assert {i: p.data for i, p in mine.pages.items()} == {
            i: p.data for i, p in theirs.pages.items()
        }
        assert {i: places(p) for i, p in mine.pages.items()} == {
            i: (p.node, p.stale, p.poisoned) for i, p in theirs.pages.items()
        }
        assert mine.tags == theirs.tags
    with mmsb.open(store) as bus:
        compare(bus, states)


def places(page: plain_reader.Page) -> tuple[Node | None, bool, bool]:
    """What the plain reader found of a page's place in the graph, in the words of the model."""
    marks = (bool(page.marks & plain_reader.STALE), bool(page.marks & plain_reader.POISONED))
    if not page.node:
        return (None, *marks)
    node = plain_reader.read_node(page.node)
    return (
        Node(node.form, node.text, node.inputs, node.links, node.deferred, node.poisons),
        *marks,
    )


def build_graph(bus: mmsb.Bus) -> None:
    """Pages at every kind of place in the graph, with all marks, and what becomes of them."""
    bus.create_page("x", data=np.arange(5000.0))
    bus.create_page("y", data=[1.0, 2.0])
    bus.create_page("plain", size=3)
    bus.map("sqrt(sum(x * x)) + y", "norm", meta={"unit": "m"})
    bus.map("x > 3", "large", deferred=True)

    @bus.derive("sum", inputs=["y", "norm"], shape=2, dtype="f4")
    def add(y: Array, norm: Array, out: Array) -> None:
        out[...] = y + norm

    @bus.derive("picky", inputs=["y"], on_error="poison", deferred=True)
    def picky(y: Array, out: Array) -> None:
        if y[0] < 0:
            raise ValueError("negative")
        out[...] = y.sum()

    bus.map("picky * 2", "behind")
    for kind in ("control", "gpu_sync", "compiler"):
        bus.graph.link("y", "plain", kind)
    bus.graph.link("plain", "large")
    bus.settle(source="settling")
    bus.checkpoint()
    bus["y"][0] = -1  # "plain" is stale, "picky" too
    bus.settle()  # "picky" and "behind" are poisoned
    bus.checkpoint()
    bus.graph.unlink("y", "plain", "gpu_sync")
    bus["plain"] = 5
    bus["x"][3] = 0
    bus.graph.release("behind")
    bus.graph.release("large")
    bus["y"] = 7
    bus.settle()
    bus.tag("settled")
    with bus.transaction() as tx:
        tx.delete("sum")
        tx.rename("norm", "length")
    bus.restore(9)


def test_the_reader_knows_the_graph(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        build_graph(bus)
        bus.checkpoint()
    states = plain_reader.replay(plain_reader.read_log(store))
    with mmsb.open(store) as bus:
        compare(bus, states)
        seen = set()
        for path in sorted((store / "checkpoints").glob("*.ckpt")):
            state, digest, _ = plain_reader.read_checkpoint(path)
            assert digest == plain_reader.digest(state) == bus.digest(state.epoch)
            assert state.pages == states[state.epoch].pages
            seen |= {places(page)[1:] for page in state.pages.values()}
        assert seen == {(False, False), (True, False), (False, True)}
        forms = {
            (places(page)[0].form, places(page)[0].deferred)
            for state in states
            for page in state.pages.values()
            if page.node
        }
        assert forms == {
            (form, how) for form in ("native", "function") for how in (False, True)
        } | {("link", False)}
        newest = {page.name: page for page in states[-1].pages.values()}
        for handle in bus.pages:
            assert places(newest[handle.name])[1:] == (handle.stale, handle.poisoned)
        ids = {page.id: page.name for page in bus.pages}
        edges = [
            (ids[src], page.name, kind)
            for _, page in sorted(states[-1].pages.items())
            if page.node
            for src, kind in sorted(
                [(i, "data") for i in plain_reader.read_node(page.node).inputs]
                + list(plain_reader.read_node(page.node).links)
            )
        ]
        assert sorted(edges) == sorted(bus.graph.edges())


def test_a_checkpoint_without_a_graph_needs_no_new_feature(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        x = bus.create_page("x", data=[1.0])
        bus.checkpoint()
        bus.map("x + 1", "y")
        bus.checkpoint()
        bus["y"].delete()
        x[0] = 5
        bus.checkpoint()
    paths = sorted((store / "checkpoints").glob("*.ckpt"))
    features = [plain_reader.GRAPH & path.read_bytes()[24] for path in paths]
    assert features == [0, plain_reader.GRAPH, 0]


def test_what_follows_is_logged_as_ordinary_writes(store: Path) -> None:
    """So nothing that replays a log needs to know of functions."""
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("x", data=np.arange(4))
        bus.map("x * 2", "double")
        bus.map("sum(double)", "total")
        bus["x"][1] = 5
        (commit,) = bus.log(since=bus.epoch)
        assert [d.page for d in commit.deltas] == [1, 2, 3]
        assert [list(d.ranges) for d in commit.deltas] == [[(8, 16)], [(8, 16)], [(0, 8)]]
    state = plain_reader.replay(plain_reader.read_log(store))[-1]
    assert np.frombuffer(state.pages[2].data, "i8").tolist() == [0, 10, 4, 6]
    assert np.frombuffer(state.pages[3].data, "i8").tolist() == [20]


def test_a_commit_of_64_bytes_takes_at_most_112_bytes_of_log(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        for _ in range(200):
            bus.create_page(size=4096)
        for i in range(1000):
            bus[i % 200 + 1][i * 4 % 4000 : i * 4 % 4000 + 64] = i % 255 + 1
    sizes = [r.size for r in plain_reader.read_log(store) if r.kind == plain_reader.COMMIT]
    assert max(sizes[200:]) <= 112


def test_zeros_of_a_new_page_are_logged_as_a_size(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("large", size=100 << 20)
        bus["large"].resize(200 << 20)
    assert sum(r.size for r in plain_reader.read_log(store)) < 1000


def test_the_document_has_the_magic_numbers_of_the_reader() -> None:
    text = (Path(__file__).parent.parent / "FORMAT.md").read_text()
    written = {bytes.fromhex(h) for h in re.findall(r"`((?:[0-9a-f]{2} ){15}[0-9a-f]{2})`", text)}
    assert written == {
        plain_reader.SEGMENT_MAGIC,
        plain_reader.META_MAGIC,
        plain_reader.CHECKPOINT_MAGIC,
        plain_reader.INDEX_MAGIC,
    }


# --- two logs of the same operations ------------------------------------------------------------


def test_a_store_never_holds_what_was_never_written(store: Path) -> None:
    """Bytes of the process do not leak into padding: two runs differ only in numbers drawn anew."""
    contents = []
    for name in ("a", "b"):
        path = store.with_name(name)
        with mmsb.create(path, durability="os", clock=lambda: 5) as bus:
            build_small(bus)
        contents.append(plain_reader.read_log(path))
    a, b = ([(r.kind, r.epoch, r.time, r.ops) for r in c] for c in contents)
    assert a == b


def build_small(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=np.arange(5))
    bus.create_page("r", shape=2, dtype=np.dtype([("a", "u1"), ("b", "<f8")], align=True))
    bus["r"][1] = (3, 4.5)
    with bus.transaction() as tx:
        tx["r"][0] = (1, 2.5)


# --- golden stores ------------------------------------------------------------------------------


@pytest.mark.parametrize("golden_store", sorted(golden.GOLDEN.iterdir()), ids=lambda p: p.name)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_stores_of_every_released_format_open(golden_store: Path, mode: str) -> None:
    assert golden.reads(golden_store, mode)["epochs"]


@pytest.mark.parametrize("golden_store", sorted(golden.GOLDEN.iterdir()), ids=lambda p: p.name)
def test_newer_formats_are_refused_and_what_may_be_is_passed_over(golden_store: Path) -> None:
    seen = golden.other_versions(golden_store)
    assert seen["refused"] and seen["read"]


def test_what_is_written_today_is_the_golden_store_byte_for_byte() -> None:
    assert golden.writes_the_same()["files"] == 8
