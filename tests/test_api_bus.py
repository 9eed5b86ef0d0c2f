"""The bus as an object: opening, pages as a mapping, metadata, forks, restore, equality, words."""

from __future__ import annotations

import collections.abc
import copy
import datetime as dt
import gc
import pickle
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest

# --- opening ------------------------------------------------------------------------------------


def test_a_new_bus_is_empty_at_epoch_0(bus: mmsb.Bus) -> None:
    assert (bus.epoch, len(bus), list(bus), bus.closed) == (0, 0, [], False)
    assert len(bus.pages) == 0 and dict(bus.tags) == {}
    assert bus.recovery is None
    assert bus.mode == "r+"


def test_create_open_modes_and_defaults(store: Path) -> None:
    with mmsb.create(store) as bus:
        assert bus.durability == "disk"
        assert Path(bus.path) == store
        bus.create_page("x", data=[1, 2, 3])
    assert bus.closed
    bus.close()  # idempotent
    with pytest.raises(mmsb.BusExistsError):
        mmsb.create(store)
    with mmsb.open(store) as bus:
        assert bus.mode == "r"
        assert bus["x"][:].tolist() == [1, 2, 3]
        with pytest.raises(mmsb.ReadOnlyError):
            bus["x"][0] = 1
        with pytest.raises(mmsb.ReadOnlyError), bus.transaction() as tx:
            tx["x"] += 1
    with mmsb.open(str(store), mode="r+") as bus:
        bus["x"][0] = 9
    with mmsb.open(store, mode="a") as bus:
        assert bus["x"][0] == 9
    other = store.with_name("other")
    with mmsb.open(other, mode="a") as bus:
        assert bus.epoch == 0
    with mmsb.open(other) as bus:
        assert bus.epoch == 0


def test_durability_given_at_creation_is_kept_unless_another_is_given(store: Path) -> None:
    with mmsb.create(store, durability="os"):
        pass
    with mmsb.open(store, mode="r+") as bus:
        assert bus.durability == "os"
    with mmsb.open(store, mode="r+", durability="disk") as bus:
        assert bus.durability == "disk"


def test_a_disk_commit_is_durable_at_once_and_makes_durable_all_before_it(store: Path) -> None:
    with mmsb.create(store, durability="memory") as bus:
        page = bus.create_page("x", shape=4)
        page.write([1, 2, 3, 4])
        assert bus.epoch == 2 and bus.durable_epoch <= 2
        with bus.transaction(durability="disk") as tx:
            tx["x"] += 1
        assert bus.durable_epoch == tx.epoch == 3
        page.write(0)
        assert bus.sync() == bus.durable_epoch == 4


def test_recovery_describes_a_clean_reopening(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("x", shape=2)
        bus["x"][0] = 1
    with mmsb.open(store, mode="r+") as bus:
        found = bus.recovery
        assert (found.epoch, found.torn_bytes, list(found.quarantined)) == (2, 0, [])
        assert found.records >= 0 and found.seconds >= 0
        assert found.checkpoint_epoch is None or found.checkpoint_epoch <= 2


def test_clock_gives_the_times_and_they_never_fall() -> None:
    ticks = iter([100, 50, 300])
    with mmsb.Bus(clock=lambda: next(ticks)) as bus:
        bus.create_page("x", shape=2)
        bus["x"][0] = 1
        bus["x"][0] = 2
        assert [c.time for c in bus.log()] == [100, 100, 300]


# --- pages as a mapping -------------------------------------------------------------------------


def test_a_bus_is_a_mapping_of_its_named_pages_in_id_order(bus: mmsb.Bus) -> None:
    zed = bus.create_page("zed", shape=3)
    raw = bus.create_page(size=16)
    a = bus.create_page("a", shape=(2, 2), dtype="i4")
    assert isinstance(bus, collections.abc.Mapping)
    assert list(bus) == list(bus.keys()) == ["zed", "a"]
    assert [k for k, _ in bus.items()] == ["zed", "a"]
    assert list(bus.values()) == [zed, a]
    assert len(bus) == 2
    assert bus["zed"] == zed and bus[raw.id] == raw and bus[a] == a
    assert "a" in bus and "b" not in bus
    assert raw.id in bus and a in bus and 99 not in bus
    assert bus.get("b") is None and bus.get("a") == a
    assert list(bus.pages) == [zed, raw, a] and len(bus.pages) == 3
    with pytest.raises(mmsb.PageNotFoundError):
        bus["b"]
    with pytest.raises(KeyError):
        bus[99]


def test_ids_count_from_1_and_are_never_given_twice(bus: mmsb.Bus) -> None:
    assert bus.create_page("a", shape=1).id == 1
    assert bus.create_page("b", shape=1).id == 2
    bus["b"].delete()
    assert bus.create_page("b", shape=1).id == 3
    with bus.transaction() as tx:
        assert tx.create_page("c", shape=1).id == 4
        tx.delete("c")
    assert bus.create_page(shape=1).id == 5
    with pytest.raises(ZeroDivisionError), bus.transaction() as tx:
        dead = tx.create_page("d", shape=1)
        raise ZeroDivisionError
    with pytest.raises(mmsb.MMSBError):
        dead.read()
    assert bus.create_page("d", shape=1).id == 6


def test_assigning_to_a_name_writes_and_never_creates(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=3, dtype="i4")
    bus["x"] = [1, 2, 3]
    assert bus["x"][...].tolist() == [1, 2, 3]
    with pytest.raises(mmsb.PageNotFoundError, match="create_page"):
        bus["y"] = [1]
    assert list(bus) == ["x"]


@pytest.mark.parametrize(
    ("arguments", "dtype", "shape"),
    [
        ({"shape": (2, 3)}, "f8", (2, 3)),
        ({"shape": 4}, "f8", (4,)),
        ({"shape": ()}, "f8", ()),
        ({"shape": (0, 3)}, "f8", (0, 3)),
        ({"size": 10}, "u1", (10,)),
        ({"size": 0}, "u1", (0,)),
        ({"data": b"abc"}, "u1", (3,)),
        ({"data": bytearray(b"abcd")}, "u1", (4,)),
        ({"data": [1, 2, 3]}, "i8", (3,)),
        ({"data": 1.5}, "f8", ()),
        ({"data": np.arange(6, dtype="i2").reshape(2, 3)}, "i2", (2, 3)),
        ({"data": [1, 2], "dtype": "f4"}, "f4", (2,)),
        ({"data": 7, "shape": (2, 2), "dtype": "i4"}, "i4", (2, 2)),
        ({"shape": (2,), "dtype": "M8[s]"}, "M8[s]", (2,)),
        ({"data": np.zeros(2, [("a", "i4"), ("b", "f8")])}, [("a", "i4"), ("b", "f8")], (2,)),
        ({"data": np.array(["ab", "c"])}, "U2", (2,)),
        ({"data": np.arange(12).reshape(3, 4).T}, "i8", (4, 3)),
    ],
)
def test_create_page(mem: mmsb.Bus, arguments: dict[str, Any], dtype: Any, shape: Any) -> None:
    page = mem.create_page("p", **arguments)
    assert (page.dtype, page.shape, page.ndim) == (np.dtype(dtype), shape, len(shape))
    assert page.nbytes == np.dtype(dtype).itemsize * page.size
    assert (page.name, page.location, page.epoch, page.meta) == ("p", "cpu", 1, {})
    wanted = np.zeros(shape, dtype)
    data = arguments.get("data")
    if isinstance(data, bytes | bytearray):
        wanted = np.frombuffer(data, np.uint8)
    elif data is not None:
        wanted[...] = data
    assert page.read().tobytes() == wanted.tobytes()


def test_exist_ok_returns_the_page_as_it_is(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", data=[1, 2, 3], meta={"unit": "m"})
    again = bus.create_page("x", shape=3, dtype=page.dtype, data=0, meta={}, exist_ok=True)
    assert again == page and bus.epoch == 1
    assert page[...].tolist() == [1, 2, 3] and page.meta == {"unit": "m"}
    with pytest.raises(mmsb.PageExistsError):
        bus.create_page("x", shape=3)
    for other in ({"shape": 4, "dtype": page.dtype}, {"shape": 3, "dtype": "f4"}):
        with pytest.raises(mmsb.PageExistsError):
            bus.create_page("x", exist_ok=True, **other)


def test_fresh_pages_are_zero_also_where_others_were_deleted(bus: mmsb.Bus) -> None:
    # D8: a recycled frame must not show the bytes of the page that had it, nor its size.
    for size in (16, 4096, 16384, 70_000):
        old = bus.create_page(data=b"\xff" * size)
        old.delete()
        new = bus.create_page(size=size + 1)
        assert new.nbytes == size + 1
        assert new.read().tobytes() == bytes(size + 1)
        new.delete()


# --- metadata -----------------------------------------------------------------------------------


def test_metadata_is_json_is_copied_and_is_replaced(bus: mmsb.Bus) -> None:
    given = {"unit": "m", "n": np.int64(3), "x": np.float32(0.5), "ok": np.True_, "l": [1, None]}
    page = bus.create_page("x", shape=1, meta=given)
    wanted = {"unit": "m", "n": 3, "x": 0.5, "ok": True, "l": [1, None]}
    assert page.meta == wanted
    page.meta["unit"] = "s"
    page.meta["l"].append(4)
    assert page.meta == wanted
    assert page.set_meta({"b": 1}) == bus.epoch == 2
    assert page.meta == {"b": 1}
    assert page.set_meta({}) == 3 and page.meta == {}


@pytest.mark.parametrize(
    "meta",
    [
        {"x": float("nan")},
        {"x": float("inf")},
        {"x": 2**63},
        {"x": {1, 2}},
        {"x": np.arange(3)},
        {1: "x"},
        ["x"],
        {"x": b"bytes"},
        {"x": "y" * 70_000},
        {"\ud800": 1},
    ],
)
def test_metadata_that_json_cannot_hold_is_refused_where_it_is_given(
    mem: mmsb.Bus, meta: Any
) -> None:
    kinds = (mmsb.ArgumentError, mmsb.ArgumentTypeError)
    with pytest.raises(kinds):
        mem.create_page("x", shape=1, meta=meta)
    page = mem.create_page("x", shape=1)
    with pytest.raises(kinds):
        page.set_meta(meta)
    with pytest.raises(kinds):
        mem.transaction(meta=meta)
    with pytest.raises(kinds):
        page.write(1, meta=meta)
    assert mem.epoch == 1


def test_nan_in_metadata_says_to_store_it_in_a_page(mem: mmsb.Bus) -> None:
    with pytest.raises(mmsb.ArgumentError, match="page"):
        mem.create_page("x", shape=1, meta={"x": float("nan")})


def test_deeply_nested_metadata_is_refused_or_kept_never_a_crash(mem: mmsb.Bus) -> None:
    deep: Any = 1
    for _ in range(20_000):
        deep = [deep]
    with pytest.raises((mmsb.ArgumentError, mmsb.ArgumentTypeError)):
        mem.create_page("x", shape=1, meta={"deep": deep})


# --- identity, repr, pickling -------------------------------------------------------------------


def test_pages_are_equal_by_bus_and_id_and_buses_by_identity(mem: mmsb.Bus) -> None:
    page = mem.create_page("x", shape=2)
    assert page == mem["x"] and hash(page) == hash(mem["x"]) and len({page, mem["x"]}) == 1
    assert page != mem.create_page("y", shape=2)
    with mem.fork(mem.epoch) as fork:
        assert page != fork["x"] and page not in fork and fork["x"] not in mem
        assert mem != fork and mem == mem and hash(mem) != hash(fork)
        with pytest.raises(mmsb.ArgumentError, match=r"fork\["):
            fork[page]
        with fork.transaction() as tx, pytest.raises(mmsb.ArgumentError):
            tx.write(page, 1)
        with pytest.raises(mmsb.ArgumentError):
            list(fork.log(page=page))
    with mem.snapshot() as a, mem.snapshot() as b:
        assert a == a and a != b and len({a, b}) == 2


def test_repr_tells_what_it_is(bus: mmsb.Bus) -> None:
    page = bus.create_page("pos", shape=(1000, 3), dtype="f4")
    assert repr(page) == "<Page 1 'pos' (1000, 3) float32 epoch 1>"
    assert "Bus" in repr(bus)
    with bus.snapshot() as snap:
        assert "1" in repr(snap)
    with bus.transaction() as tx:
        assert repr(tx)
    page.delete()
    assert repr(page)
    bus.close()
    assert "closed" in repr(bus)
    assert repr(page) and repr(snap)


def test_pickling_and_deep_copies_are_refused_with_advice(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", shape=2)
    with bus.snapshot() as snap:
        for thing in (bus, page, snap):
            with pytest.raises(TypeError, match="attach"):
                pickle.dumps(thing)
            with pytest.raises(TypeError):
                copy.deepcopy(thing)


# --- naming an epoch ----------------------------------------------------------------------------


def test_an_epoch_is_a_number_a_tag_a_commit_or_a_snapshot(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", shape=1, dtype="i8")
    for value in (1, 2, 3):
        page.write(value)
    bus.tag("two", 3)
    commit = next(iter(bus.log(since=3, until=3)))
    with bus.snapshot(3) as three:
        for when in (3, np.int64(3), "two", commit, three):
            with bus.snapshot(when) as snap:
                assert snap.epoch == 3 and snap["x"][0] == 2
            assert bus.digest(when) == three.digest()
            with bus.fork(when) as fork:
                assert fork.epoch == 3 and fork["x"][0] == 2
            assert [d.page for d in bus.diff(when, 2)] == [page.id]
        for i, when in enumerate((3, "two", commit, three)):
            page.write(100 + i)
            bus.restore(when)
            assert page[0] == 2


def test_snapshot_by_time_and_by_metadata() -> None:
    ticks = iter([1_000, 2_000, 2_000, 5_000])
    with mmsb.Bus(clock=lambda: next(ticks)) as bus:
        page = bus.create_page("x", shape=1, dtype="i8")
        for step, kind in ((1, "a"), (2, "b"), (3, "a")):
            page.write(step, meta={"step": step, "kind": kind})

        def at(**how: Any) -> int:
            with bus.snapshot(**how) as snap:
                return int(snap.epoch)

        assert [at(as_of=t) for t in (1_000, 1_999, 2_000, 4_999, 5_000, 10**18)] == [
            1, 1, 3, 3, 4, 4,
        ]  # fmt: skip
        assert at(as_of=np.datetime64(2_500, "ns")) == 3
        assert at(as_of=np.datetime64("1970-01-01T00:00:01")) == 4
        assert at(meta={"step": 2}) == 3
        assert at(meta={"kind": "a"}) == 4
        assert at(meta={"kind": "a", "step": 1}) == 2
        with pytest.raises(mmsb.EpochNotFoundError):
            bus.snapshot(as_of=999)
        with pytest.raises(mmsb.EpochNotFoundError, match="81204"):
            bus.snapshot(meta={"step": 81204})
        assert at(as_of=dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)) == 4
        with pytest.raises(ValueError):
            bus.snapshot(as_of=dt.datetime(1970, 1, 1, 0, 0, 1))
        with pytest.raises(mmsb.ArgumentError):
            bus.snapshot(3, meta={"step": 2})


def test_a_snapshot_is_a_mapping_of_arrays(bus: mmsb.Bus, tmp_path: Path) -> None:
    bus.create_page("x", data=[1, 2])
    raw = bus.create_page(data=b"raw")
    y = bus.create_page("y", data=np.eye(2))
    with bus.snapshot() as snap:
        y.delete()
        assert isinstance(snap, collections.abc.Mapping)
        assert list(snap) == ["x", "y"] and len(snap) == 2 and "x" in snap and "z" not in snap
        assert snap[raw.id].tobytes() == b"raw" and snap[raw].tobytes() == b"raw"
        assert snap[y].tolist() == np.eye(2).tolist()
        assert [p.name for p in snap.pages] == ["x", None, "y"]
        np.savez(tmp_path / "s.npz", **snap)
        with pytest.raises(mmsb.PageNotFoundError):
            snap["z"]
    with np.load(tmp_path / "s.npz") as saved:
        assert sorted(saved) == ["x", "y"] and saved["x"].tolist() == [1, 2]
    with pytest.raises(mmsb.ClosedError):
        snap["x"]


def test_a_snapshot_outlives_its_bus(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1, 2])
    snap = bus.snapshot()
    bus["x"][0] = 5
    bus.close()
    assert snap["x"].tolist() == [1, 2] and len(snap.digest()) == 32
    snap.close()
    snap.close()


# --- fork and restore ---------------------------------------------------------------------------


def test_a_fork_is_independent_and_goes_on_from_its_epoch(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=np.arange(50_000))
    x[0] = 5
    bus.tag("here", 2)
    with bus.fork(bus.epoch) as fork:
        assert fork.path is None and fork.epoch == 3 and fork.tags == {"here": 2}
        x[1] = 6
        fork["x"][2] = 7
        new = fork.create_page("only here", shape=2)
        assert new.id == 2 and fork.epoch == 5
        assert x[:3].tolist() == [5, 6, 2] and fork["x"][:3].tolist() == [5, 1, 7]
        assert "only here" not in bus
        with pytest.raises(mmsb.EpochNotFoundError):
            fork.snapshot(2)
        with fork.fork(fork.epoch) as second:
            fork.close()
            bus.close()
            assert second["x"][:3].tolist() == [5, 1, 7]
            second["x"][0] = 1
            assert second.epoch == 6
            kept = second["x"].read()
    assert kept[:3].tolist() == [1, 1, 7]


def test_restore_brings_back_pages_under_their_ids(bus: mmsb.Bus) -> None:
    a = bus.create_page("a", data=[1, 2, 3], meta={"unit": "m"})
    b = bus.create_page("b", data=b"xyz")
    then = bus.epoch
    digest = bus.digest()
    bus.tag("then", then)
    a.write([9, 9], resize=True)
    a.rename("c")
    a.set_meta({})
    b.delete()
    new = bus.create_page("b", data=[5])
    made = bus.restore("then")
    assert made == bus.epoch and bus.digest() == digest == bus.digest(then)
    assert bus["a"][...].tolist() == [1, 2, 3] and bus["a"].meta == {"unit": "m"}
    assert bus["b"].id == b.id and b.read().tobytes() == b"xyz"
    assert bus.tags == {"then": then}
    with pytest.raises(mmsb.PageNotFoundError):
        new.read()
    assert bus.create_page("d", shape=1).id == new.id + 1  # the counter stays
    bus["d"].delete()
    assert bus.restore("then") == bus.epoch == made + 2  # nothing to do: no epoch


def test_tags(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=1)
    assert bus.tag("start", 0) == 2
    assert bus.tag("one", 1) == 3
    with pytest.raises(mmsb.TagExistsError):
        bus.tag("one", 2)
    assert bus.tag("one", 2, move=True) == 4
    assert bus.tags == {"start": 0, "one": 2}
    assert bus.tag("one", 2, move=True) == 4  # as it was: no epoch
    digest = bus.digest()
    assert bus.untag("start") == 5 and bus.tags == {"one": 2} and bus.digest() == digest
    with pytest.raises(mmsb.TagNotFoundError):
        bus.untag("start")
    with pytest.raises(mmsb.TagNotFoundError):
        bus.snapshot("start")
    with pytest.raises(mmsb.EpochNotFoundError):
        bus.tag("later", 99)
    with bus.transaction() as tx:
        tx["x"] = 3
        tx.tag("now")
    assert bus.tags["now"] == tx.epoch == 6


# --- upstream's cases and determinism -----------------------------------------------------------


def workload(bus: mmsb.Bus) -> list[Any]:
    """U15: a fixed mix of operations; what it leaves behind must be the same every time."""
    rng = np.random.default_rng(1)
    pages = [bus.create_page(f"p{i}", size=1024) for i in range(4)]
    for i in range(60):
        at = int(rng.integers(0, 900))
        pages[i % 4][at : at + 100] = rng.integers(0, 256, 100, np.uint8)
        if i % 20 == 19:
            with bus.transaction(source="mix", meta={"i": i}) as tx:
                tx["p0"] ^= 255
                tx.create_page(None, data=rng.bytes(10))
    log = [(c.epoch, c.source, c.meta, tuple(c.pages), [d.ranges for d in c.deltas])
           for c in bus.log()]  # fmt: skip
    return [bus.epoch, bus.digest(), [p.epoch for p in bus.pages], log]


def test_the_same_operations_give_the_same_state_everywhere(tmp_path: Path) -> None:
    seen = []
    for i in range(3):
        with mmsb.Bus() as bus:
            seen.append(workload(bus))
        with mmsb.create(tmp_path / str(i), durability="os") as bus:
            seen.append(workload(bus))
        with mmsb.open(tmp_path / str(i), mode="r+") as bus:
            assert [bus.epoch, bus.digest()] == seen[0][:2]
    assert all(s == seen[0] for s in seen)


def test_stats_is_a_dictionary_of_numbers(bus: mmsb.Bus) -> None:
    bus.create_page("x", size=100)
    stats = bus.stats()
    assert stats and all(isinstance(k, str) for k in stats)
    assert all(isinstance(v, int | float) for v in stats.values())


def test_verify_of_a_healthy_bus(bus: mmsb.Bus) -> None:
    bus.create_page("x", size=100)
    bus["x"][0] = 1
    report = bus.verify()
    assert report.ok and list(report.problems) == []
    assert report.records >= 2 and report.bytes > 0


def test_a_bus_that_is_dropped_lets_go_of_its_store(store: Path) -> None:
    bus = mmsb.create(store, durability="memory")
    bus.create_page("x", data=[1, 2, 3])
    log, page = bus.log(), bus["x"]
    del bus, log, page
    gc.collect()
    with mmsb.open(store, mode="r+") as again:
        assert again["x"][...].tolist() == [1, 2, 3]


def test_what_is_half_done_when_the_bus_is_closed_ends_in_an_error(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", data=[1, 2, 3])
    page[0] = 2
    log, history = bus.log(), page.history()
    diff = bus.diff(0, 2)
    next(log)
    bus.close()
    for iterator in (log, history, diff):
        try:
            list(iterator)
        except mmsb.ClosedError:
            pass


def test_the_longest_metadata(bus: mmsb.Bus) -> None:
    room = 65_536 - len('{"x":""}')
    page = bus.create_page("x", shape=1, meta={"x": "y" * room})
    assert len(page.meta["x"]) == room
    page.write(1, meta={"x": "z" * room}, source="s" * 255)
    with pytest.raises(mmsb.ArgumentError):
        page.set_meta({"x": "y" * (room + 1)})
    (commit,) = bus.log(since=2)
    assert commit.meta == {"x": "z" * room} and commit.source == "s" * 255
