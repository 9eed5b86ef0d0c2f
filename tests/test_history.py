"""The past: every epoch bit for bit, the log, the values of a page, differences, "who did it?"."""

from __future__ import annotations

import datetime
import gc
import shutil
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest
from mmsb import _core


def reopened(bus: mmsb.Bus) -> mmsb.Bus:
    """The same store opened anew, or the same bus when it is in memory."""
    if bus.path is None:
        return bus
    bus.close()
    return mmsb.open(bus.path, mode="r+")


# --- upstream's replay cases --------------------------------------------------------------------


def test_replay_and_difference_of_two_states(bus: mmsb.Bus) -> None:
    # U1: one delta of six bytes; replay equals live, and the difference is exactly those bytes.
    page = bus.create_page("p", size=16)
    with mmsb.Bus() as fresh:
        fresh.create_page("p", size=16)
        with bus.transaction() as tx:
            tx.apply(mmsb.Delta.sparse(page, [0], [bytes(range(1, 7))]))
        with bus.snapshot(2) as snap:
            assert snap["p"].tobytes() == bytes(page) == bytes(range(1, 7)) + bytes(10)
        for seen in (list(bus.diff(1, 2)), list(fresh.diff(1, bus.snapshot()))):
            (d,) = seen
            assert (d.page, d.name, d.change, list(d.ranges)) == (1, "p", "changed", [(0, 6)])
            assert d.old[0].tobytes() == bytes(6) and d.new[0].tobytes() == bytes(range(1, 7))


@pytest.mark.parametrize(
    ("size", "commits", "most", "collect"), [(1024, 1000, 100, 100), (128, 200, 32, 25)]
)
def test_replay_to_every_epoch_equals_the_oracle(
    bus: mmsb.Bus, size: int, commits: int, most: int, collect: int
) -> None:
    # U11 and U12: random bytes at random places, the collector forced in between.
    rng = np.random.default_rng(7)
    page = bus.create_page("p", size=size)
    state = np.zeros(size, np.uint8)
    states = [b"", state.tobytes()]
    for i in range(commits):
        where = rng.choice(size, int(rng.integers(1, most + 1)), replace=False)
        mask = np.zeros(size, np.uint8)
        mask[where] = 1
        state[where] = rng.integers(0, 256, len(where))
        with bus.transaction(meta={"i": i}) as tx:
            tx.apply(mmsb.Delta.from_mask(page, mask, state))
        states.append(state.tobytes())
        if i % collect == 0:
            gc.collect()
    bus = reopened(bus)
    stride = 1 if bus.path is None else 37
    for epoch in [*range(1, len(states), stride), len(states) - 1]:
        with bus.snapshot(epoch) as snap:
            assert snap["p"].tobytes() == states[epoch], epoch
    seen = {c.epoch: value.tobytes() for c, value in bus["p"].history()}
    last = b""
    for epoch, wanted in enumerate(states):
        assert seen.get(epoch, last) == wanted
        last = wanted
    bus.close()


def test_every_epoch_before_and_after_a_checkpoint(store: Path) -> None:
    # U14 and D7: the base of a replay is neither the current state nor zeros.
    rng = np.random.default_rng(11)
    oracle: list[dict[str, bytes]] = [{}]
    with mmsb.create(store, durability="os") as bus:
        pages = [bus.create_page(f"p{i}", data=rng.bytes(128)) for i in range(3)]
        for i in range(3):
            oracle.append({f"p{k}": bytes(pages[k]) for k in range(i + 1)})
        for i in range(150):
            page = pages[int(rng.integers(0, 3))]
            at = int(rng.integers(0, 100))
            page[at : at + 28] = rng.integers(0, 256, 28, np.uint8)
            oracle.append({p.name: bytes(p) for p in pages})
            if i in (40, 90):
                assert bus.checkpoint() == bus.epoch
    for mode in ("r", "r+"):
        with mmsb.open(store, mode=mode) as bus:
            for epoch, wanted in enumerate(oracle):
                with bus.snapshot(epoch) as snap:
                    assert {n: a.tobytes() for n, a in snap.items()} == wanted, epoch
            assert mode == "r" or bus.recovery.checkpoint_epoch == 94


def test_a_checkpoint_offers_its_epoch_and_the_latest(store: Path) -> None:
    with mmsb.create(store) as bus:
        page = bus.create_page("x", data=[0])
        for value in (1, 2):
            page.write(value)
        assert bus.checkpoint() == 3
        for value in (3, 4):
            page.write(value)
    with mmsb.open(store, mode="r+") as bus:
        assert bus.epoch == 5 and bus["x"][0] == 4
        with bus.snapshot(3) as snap:
            assert snap["x"][0] == 2


# --- the log ------------------------------------------------------------------------------------


@pytest.fixture
def story(bus: mmsb.Bus) -> mmsb.Bus:
    """A bus with a few commits of different kinds: epochs 1 to 8."""
    pos = bus.create_page("pos", shape=(10, 3), dtype="f4")
    bus.create_page("vel", shape=(10, 3), dtype="f4")
    for step in range(3):
        with bus.transaction(source="physics", meta={"step": step, "kind": "step"}) as tx:
            tx["pos"][step] = step + 1
            tx["vel"] += 1
    pos.write(5, source="user", meta={"why": "reset"})
    pos.set_meta({"unit": "m"})
    pos.append([[1, 2, 3]])
    return bus


def epochs(found: Any) -> list[int]:
    return [c.epoch for c in found]


def test_log_filters(story: mmsb.Bus) -> None:
    pos, vel = story["pos"], story["vel"]
    assert epochs(story.log()) == list(range(1, 9))
    assert epochs(story.log(reverse=True)) == list(range(8, 0, -1))
    assert epochs(story.log(since=3, until=5)) == [3, 4, 5]
    assert epochs(story.log(since=7, until=99)) == [7, 8]
    assert epochs(story.log(since=5, until=3)) == []
    assert epochs(story.log(page=vel)) == epochs(story.log(page="vel")) == [2, 3, 4, 5]
    assert epochs(story.log(page=pos.id)) == [1, 3, 4, 5, 6, 7, 8]
    assert epochs(story.log(page=pos, index=np.s_[2], since=2)) == [5, 6]
    assert epochs(story.log(page=pos, index=np.s_[0, 1], since=2, reverse=True)) == [6, 3]
    assert epochs(story.log(page=pos, index=np.s_[10])) == [8]
    assert epochs(story.log(source="physics")) == [3, 4, 5]
    assert epochs(story.log(source="nobody")) == []
    assert epochs(story.log(meta={"step": 1})) == [4]
    assert epochs(story.log(meta={"kind": "step"}, since=4)) == [4, 5]
    assert epochs(story.log(meta={"kind": "step", "step": 2}, source="physics", page=pos)) == [5]
    story.tag("t", 4)
    (commit,) = story.log(since="t", until="t")
    assert commit.epoch == 4 and epochs(story.log(since=commit, until=5)) == [4, 5]
    with pytest.raises(mmsb.TagNotFoundError):
        list(story.log(since="u"))
    with pytest.raises(mmsb.PageNotFoundError):
        list(story.log(page="u"))
    with pytest.raises(mmsb.ArgumentError):
        list(story.log(index=np.s_[0]))  # an index of which page?


def test_who_changed_it_at_which_step_is_two_calls(story: mmsb.Bus) -> None:
    with story.snapshot(meta={"step": 1}) as then:
        assert then["pos"][1].tolist() == [2, 2, 2]
        who = next(iter(story.log(page="pos", index=np.s_[1], until=then, reverse=True)))
    assert (who.source, who.meta["step"], who.epoch) == ("physics", 1, 4)


def test_a_commit_tells_its_deltas_and_changes(story: mmsb.Bus) -> None:
    commits = {c.epoch: c for c in story.log()}
    assert commits[1].meta == {} and commits[1].source is None
    assert set(commits[3].pages) == {1, 2} and list(commits[7].pages) == [1]
    assert commits[1].changes and commits[7].changes and commits[8].changes
    assert not commits[3].changes and not commits[7].deltas
    assert {d.page for d in commits[3].deltas} == {1, 2}
    (delta,) = [d for d in commits[4].deltas if d.page == 1]
    assert list(delta.ranges) == [(12, 24)]
    (tail,) = commits[8].deltas  # an append logs only the tail
    assert list(tail.ranges) == [(120, 132)]
    with mmsb.Bus() as twin:
        twin.create_page("pos", shape=(10, 3), dtype="f4")
        twin.create_page("vel", shape=(10, 3), dtype="f4")
        for epoch in (3, 4, 5, 6):
            with twin.transaction() as tx:
                for delta in commits[epoch].deltas:
                    tx.apply(delta)
        assert twin.digest() == story.digest(6)


def test_the_log_is_lazy_and_takes_the_newest_epoch_when_it_is_asked(story: mmsb.Bus) -> None:
    log = story.log()
    first = next(log)
    assert first.epoch == 1
    story["vel"][0] = 9
    assert epochs(log)[:7] == [2, 3, 4, 5, 6, 7, 8]
    del log


def test_history_gives_every_value_an_element_ever_had(story: mmsb.Bus) -> None:
    pos = story["pos"]
    seen = [(c.epoch, v.tolist()) for c, v in pos.history(index=np.s_[2, 0])]
    assert seen == [(1, 0.0), (5, 3.0), (6, 5.0)]
    seen = [(c.epoch, v.shape) for c, v in pos.history()]
    assert seen == [(1, (10, 3)), *[(e, (10, 3)) for e in (3, 4, 5, 6)], (8, (11, 3))]
    assert [c.epoch for c, _ in pos.history(index=np.s_[10])] == [8]
    assert [c.epoch for c, _ in pos.history(index=np.s_[2], since=2, until=5)] == [5]
    assert [c.epoch for c, _ in pos.history(since=6, until=1000)] == [6, 8]
    values = [v for _, v in pos.history(index=np.s_[0:2])]
    values[0][...] = 7  # owned copies
    assert [c.source for c, _ in pos.history(index=np.s_[2, 0])] == [None, "physics", "user"]
    assert all(np.ndim(v) == 0 for _, v in pos.history(index=np.s_[2, 0]))


def test_history_passes_over_epochs_where_the_index_does_not_fit(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", data=[1, 2, 3])
    page.resize(1)
    page.write([4], resize=True)
    page.write([5, 6, 7, 8], resize=True)
    assert [(c.epoch, int(v)) for c, v in page.history(index=2)] == [(1, 3), (4, 7)]


def test_history_and_log_of_a_page_that_was_deleted_and_restored(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", data=[1])
    page.write([2])
    bus.create_page("other", shape=1)
    page.delete()
    assert epochs(bus.log(page=page.id)) == [1, 2, 4]
    bus.restore(2)
    assert epochs(bus.log(page=page)) == [1, 2, 4, 5]
    assert [(c.epoch, v.tolist()) for c, v in page.history()] == [(1, [1]), (2, [2]), (5, [2])]


# --- differences --------------------------------------------------------------------------------


def test_diff_names_the_first_change_that_holds(bus: mmsb.Bus) -> None:
    gone = bus.create_page("gone", data=[1])
    sized = bus.create_page("sized", data=[1, 2])
    other = bus.create_page("other", data=np.arange(10, dtype="i4"))
    named = bus.create_page("named", data=[1])
    meta = bus.create_page("meta", data=[1])
    bus.create_page("same", data=[1])
    before = bus.epoch
    with bus.transaction() as tx:
        tx.delete(gone)
        tx.append(sized, [3])
        tx.rename(sized, "sized!")
        tx[other][[1, 2, 5]] += 300
        tx.set_meta(other, {"a": 1})
        tx.rename(named, "renamed")
        tx.set_meta(named, {"a": 1})
        tx.set_meta(meta, {"a": 1})
        new = tx.create_page("new", data=[7])
    seen = list(bus.diff(before, bus.epoch))
    assert [(d.page, d.name, d.change) for d in seen] == [
        (gone.id, "gone", "deleted"),
        (sized.id, "sized!", "resized"),
        (other.id, "other", "changed"),
        (named.id, "renamed", "renamed"),
        (meta.id, "meta", "meta"),
        (new.id, "new", "created"),
    ]
    changed = seen[2]
    assert list(changed.ranges) == [(4, 12), (20, 24)]
    assert [a.tolist() for a in changed.old] == [[1, 2], [5]]
    assert [a.tolist() for a in changed.new] == [[301, 302], [305]]
    assert changed.new[0].dtype == np.int32
    assert [d.change for d in bus.diff(bus.epoch, before)] == [
        "created", "resized", "changed", "renamed", "meta", "deleted",
    ]  # fmt: skip
    assert [d.page for d in bus.diff(before, bus.epoch, page=other)] == [other.id]
    assert list(bus.diff(before, bus.epoch, page="same")) == []
    assert list(bus.diff(before, before)) == []


def test_any_difference_between_two_buses_is_seen(bus: mmsb.Bus) -> None:
    # D12: a validator that passes when a page is missing or extra validates nothing.
    bus.create_page("a", data=[1, 2])
    with bus.fork(bus.epoch) as one, bus.fork(bus.epoch) as two:
        with one.snapshot() as theirs:
            assert list(two.diff(two.epoch, theirs)) == []
        one.create_page("extra", data=[1])
        two["a"][1] = 5
        with one.snapshot() as theirs:
            seen = [(d.name, d.change) for d in two.diff(two.epoch, theirs)]
            assert seen == [("a", "changed"), ("extra", "created")]
            back = [(d.name, d.change) for d in two.diff(theirs, two.epoch)]
            assert back == [("a", "changed"), ("extra", "deleted")]
        assert one.digest() != two.digest() != bus.digest()


# --- the digest ---------------------------------------------------------------------------------


def test_the_digest_is_of_the_state_alone(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", data=np.arange(30_000))
    start = bus.digest()
    assert len(start) == 32 and int(start, 16) >= 0
    seen = {start}

    def differs() -> None:
        digest = bus.digest()
        assert digest not in seen
        seen.add(digest)

    page[29_999] = 1
    differs()
    page.rename("y")
    differs()
    page.set_meta({"a": 1})
    differs()
    page.resize(30_001)
    differs()
    other = bus.create_page("z", shape=0)
    differs()
    other.delete()
    page.write(np.arange(30_000), resize=True)
    page.rename("x")
    page.set_meta({})
    assert bus.digest() == start
    bus.tag("t", 1)
    page.write(np.arange(30_000), source="me", meta={"step": 1})
    assert bus.digest() == start  # not tags, not the epoch, not the commit's metadata
    with mmsb.Bus() as twin:
        twin.create_page("x", data=np.arange(30_000))
        assert twin.digest() == start
        twin["x"].delete()
        twin.create_page("x", data=np.arange(30_000))
        assert twin.digest() != start  # the same bytes under another id


def test_swapped_bytes_between_blocks_or_pages_change_the_digest(mem: mmsb.Bus) -> None:
    block = 16384
    a = mem.create_page("a", data=b"\1" * block + b"\2" * block)
    b = mem.create_page("b", data=b"\3" * block)
    first = mem.digest()
    a.write(b"\2" * block + b"\1" * block)
    second = mem.digest()
    a.write(b"\3" * block + b"\2" * block)
    b.write(b"\1" * block)
    assert len({first, second, mem.digest()}) == 3


def test_a_fork_finds_moments_and_metadata_of_its_own_history() -> None:
    ticks = iter(range(1000, 100_000, 1000))
    with mmsb.Bus(clock=ticks.__next__) as bus:
        page = bus.create_page("x", data=[0])
        for step in (1, 2, 3):
            page.write(step, meta={"step": step})
        with bus.fork(3) as fork:
            with fork.snapshot(as_of=3500) as snap:
                assert snap.epoch == 3 and snap.time == 3000
            with pytest.raises(mmsb.EpochNotFoundError):
                fork.snapshot(as_of=2999)
            fork["x"].write(30, meta={"step": 30})
            assert fork.epoch == 4
            with fork.snapshot(meta={"step": 30}) as snap:
                assert snap["x"][0] == 30
            assert [c.meta for c in fork.log()] == [{"step": 30}]
            assert [(c.epoch, v.tolist()) for c, v in fork["x"].history()] == [(4, [30])]
            (commit,) = fork.log()
            assert commit.time >= 3000
        assert page[0] == 3


def test_queries_against_a_plain_list(store: Path) -> None:
    """Pages, sources, metadata and times, over many segments, against what was committed."""
    said: list[tuple[int, int, set[int], str | None, dict[str, Any]]] = []
    rng = np.random.default_rng(4)
    core = _core.Core.create(str(store), "os", segment_bytes=16 << 10)
    bus = mmsb.Bus._of(core)
    pages = [bus.create_page(f"p{i}", shape=8) for i in range(6)]
    for i in range(len(pages)):
        said.append((i + 1, 0, {i + 1}, None, {}))
    for step in range(900):
        touched = {int(i) for i in rng.integers(0, 6, rng.integers(1, 4)) if rng.random() < 0.6}
        source = [None, "physics", "control"][step % 3]
        meta = {"step": step, "kind": "even" if step % 2 == 0 else 'a "b", c'}
        with bus.transaction(source=source, meta=meta) as tx:
            for i in sorted(touched):
                tx.write(pages[i], np.s_[0], float(step + 1))
        assert tx.epoch is not None
        ids = {pages[i].id for i in touched}
        said.append((tx.epoch, 0, ids, source, meta))
        if step == 500:
            bus.close()
            bus = mmsb.open(store, mode="r+")
            pages = [bus[f"p{i}"] for i in range(6)]
    said = [(c.epoch, c.time, *rest) for c, (_, _, *rest) in zip(bus.log(), said, strict=True)]
    assert [s[0] for s in said] == list(range(1, len(said) + 1))

    def ask(**query: Any) -> None:
        page, source = query.get("page"), query.get("source")
        meta = query.get("meta", {})
        low, high = query.get("since", 0), query.get("until")
        if isinstance(low, np.datetime64):
            low = next((e for e, t, *_ in said if t >= low.astype(int)), len(said) + 1)
        if isinstance(high, np.datetime64):
            high = max((e for e, t, *_ in said if t <= high.astype(int)), default=0)
        expected = [
            epoch
            for epoch, _, ids, by, about in said
            if (page is None or bus[page].id in ids)
            and (source is None or by == source)
            and all(k in about and about[k] == v for k, v in meta.items())
            and low <= epoch <= (len(said) if high is None else high)
        ]
        for reverse in (False, True):
            got = [c.epoch for c in bus.log(**query, reverse=reverse)]
            assert got == expected[:: -1 if reverse else 1], query

    def moments(number: int) -> list[np.datetime64]:
        time = said[number][1]
        return [np.datetime64(time + d, "ns") for d in (-1, 0, 1)]

    for has_indexes in (True, False):
        assert (store / "index").exists() == has_indexes
        for page in (None, "p0", "p5"):
            for source in (None, "physics", "nobody"):
                for meta in ({}, {"kind": 'a "b", c'}, {"step": 77}, {"step": 77, "kind": "x"}):
                    query: dict[str, Any] = {"page": page, "source": source, "meta": meta}
                    ask(**query)
                    ask(**query, since=100, until=350)
        for number in (0, 5, 70, 400, len(said) - 1):
            for moment in moments(number):
                ask(since=moment)
                ask(until=moment)
                ask(since=moments(3)[0], until=moment, page="p1")
        value = {s[0]: s[4]["step"] + 1.0 for s in said if "step" in s[4] and pages[0].id in s[2]}
        seen = {c.epoch: float(v) for c, v in pages[0].history(index=0) if c.epoch > 6}
        assert seen == value
        bus.close()
        shutil.rmtree(store / "index", ignore_errors=True)
        bus = mmsb.open(store)
        pages = [bus[f"p{i}"] for i in range(6)]
    assert not (store / "index").exists(), "a reader writes nothing"
    bus.close()


def test_a_moment_must_be_one(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=3)
    with pytest.raises(mmsb.ArgumentError, match="time zone"):
        bus.log(since=datetime.datetime(2020, 1, 1))
    with pytest.raises(mmsb.ArgumentError, match="no moment"):
        bus.log(until=np.datetime64("NaT"))
    aware = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert [c.epoch for c in bus.log(since=aware)] == [1]
    assert list(bus.log(until=aware)) == []
    assert list(bus.log(since=np.datetime64("9999-01-01"))) == []
    assert [c.epoch for c in bus.log(until=np.datetime64("9999-01-01"))] == [1]
