"""The first epoch, page and byte where two histories part, against going through all epochs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest


def run(
    bus: mmsb.Bus, steps: int, at: int = -1, change: Callable[[Any], None] | None = None
) -> mmsb.Bus:
    """A small simulation; in step `at` something else happens too."""
    bus.create_page("pos", shape=(4, 3), dtype="f4")
    bus.create_page("raw", size=100)
    for step in range(steps):
        with bus.transaction(source="physics", meta={"step": step}) as tx:
            tx["pos"][step % 4] = step
            if step == at and change is not None:
                change(tx)
    return bus


def slow(a: mmsb.Bus, b: mmsb.Bus) -> int | None:
    return next((e for e in range(min(a.epoch, b.epoch) + 1) if a.digest(e) != b.digest(e)), None)


def parts(at: int, change: Callable[[Any], None]) -> mmsb.Divergence:
    with run(mmsb.Bus(), 20) as a, run(mmsb.Bus(), 20, at, change) as b:
        found, other = mmsb.compare(a, b), mmsb.compare(b, a)
        assert found is not None and other is not None
        assert found.epoch == other.epoch == slow(a, b) == at + 3
        assert (found.kind, found.page, found.offset) == (other.kind, other.page, other.offset)
        assert repr((found.a, found.b)) == repr((other.b, other.a))
        assert found.commit_a is not None and found.commit_a.meta == {"step": at}
        assert found.commit_b is not None and found.commit_b.source == "physics"
        return found


def test_bytes() -> None:
    def change(tx: Any) -> None:
        tx["pos"][2, 1] = -1.5
        tx["raw"][7] = 1

    # Step 8 writes row 0; row 2 is written again in step 10, so that the ends agree in it.
    found = parts(8, change)
    assert (found.kind, found.page, found.name) == ("bytes", 1, "pos")
    assert found.index == (2, 1) and (found.a, found.b) == (6.0, -1.5)
    old, new = (np.frombuffer(np.float32(v).tobytes(), np.uint8) for v in (6, -1.5))
    assert found.offset == 4 * 7 + np.flatnonzero(old != new)[0]


@pytest.mark.parametrize(
    ("change", "kind", "values"),
    [
        (lambda tx: tx.delete("pos"), "page", (True, False)),
        (lambda tx: tx.create_page("new", size=1), "page", (False, True)),
        (lambda tx: tx.resize("raw", 90), "shape", ((100,), (90,))),
        (lambda tx: tx.rename("raw", "other"), "name", ("raw", "other")),
        (lambda tx: tx.set_meta("raw", {"a": 1}), "meta", ({}, {"a": 1})),
    ],
)
def test_other_kinds(change: Callable[[Any], None], kind: str, values: tuple[Any, Any]) -> None:
    if kind == "page" and values[1] is False:
        at = 19  # nothing comes after it that needs the page
    else:
        at = 5
    found = parts(at, change)
    assert (found.kind, found.offset, found.index) == (kind, None, None)
    assert (found.a, found.b) == values


def test_dtypes_and_structured_elements() -> None:
    with mmsb.Bus() as a, mmsb.Bus() as b:
        a.create_page("x", shape=2, dtype="i4")
        b.create_page("x", shape=2, dtype="f4")
        found = mmsb.compare(a, b)
        assert found is not None
        assert (found.epoch, found.kind, found.a, found.b) == (1, "dtype", np.int32, np.float32)
    kind = np.dtype([("id", "i8"), ("w", "f8", (2,))])
    with mmsb.Bus() as a, mmsb.Bus() as b:
        for bus, weight in ((a, 1.0), (b, 2.0)):
            page = bus.create_page("x", shape=(3, 2), dtype=kind)
            values = np.zeros((3, 2), kind)
            values["w"][2, 1, 1] = weight
            page.write(values)
        found = mmsb.compare(a, b)
        assert found is not None and found.index == (2, 1)
        assert found.a["w"].tolist() == [0, 1] and found.b["w"].tolist() == [0, 2]


def test_equal_and_shorter(tmp_path: Path) -> None:
    with run(mmsb.Bus(), 10) as a, run(mmsb.create(tmp_path / "b", durability="os"), 12) as b:
        found = mmsb.compare(a, b)
        assert found is not None
        assert (found.epoch, found.kind, found.a, found.b) == (13, "length", 12, 14)
        assert found.commit_a is None and found.commit_b is not None
        assert found.commit_b.meta == {"step": 10}
        assert mmsb.compare(a, a) is None
        # A path while a process has it open; tags, sources and ways of writing are no state.
        a["pos"][3] = 9
        b.tag("x", 2)
        assert mmsb.compare(b, tmp_path / "b") is None
    with run(mmsb.create(tmp_path / "c"), 12) as c:
        c.tag("y", 3)
    assert mmsb.compare(tmp_path / "b", str(tmp_path / "c")) is None


def test_forks_and_copies(tmp_path: Path) -> None:
    with run(mmsb.create(tmp_path / "a", durability="os"), 30) as a:
        a.backup(tmp_path / "b")
        with a.fork(20) as fork:
            found = mmsb.compare(a, fork)
            assert found is not None and (found.kind, found.epoch) == ("length", 21)
            fork["pos"][0, 0] = 77
            found = mmsb.compare(a, fork)
            assert found is not None
            assert (found.kind, found.epoch, found.index, found.b) == ("bytes", 21, (0, 0), 77)
            with run(mmsb.Bus(), 3) as early, pytest.raises(mmsb.EpochNotFoundError):
                mmsb.compare(early, fork)
        with mmsb.open(tmp_path / "b", mode="r+") as b:
            assert mmsb.compare(a, b) is None
            for bus, value in ((a, 1), (b, 1), (a, 2), (b, 3)):
                bus["raw"][5] = value
            found = mmsb.compare(a, b)
            assert found is not None and found.commit_b is not None
            assert (found.epoch, found.offset, found.a, found.b) == (34, 5, 2, 3)


def test_random_histories_that_part_and_meet(tmp_path: Path) -> None:
    rng = random.Random(5)
    for _ in range(15):
        values = [(rng.randrange(6), rng.randrange(3)) for _ in range(40)]
        others = [(i, rng.randrange(3)) if rng.random() < 0.05 else (i, v) for i, v in values]
        with mmsb.Bus() as a, mmsb.Bus() as b:
            for bus, writes in ((a, values), (b, others)):
                page = bus.create_page("x", size=6)
                for step, (at, value) in enumerate(writes):
                    with bus.transaction(meta={"step": step}) as tx:
                        tx[page][at] = value
            found = mmsb.compare(a, b)
            assert (found and found.epoch) == slow(a, b)
            if found is not None:
                with a.snapshot(found.epoch) as x, b.snapshot(found.epoch) as y:
                    where = np.flatnonzero(x["x"] != y["x"])[0]
                    assert (found.offset, found.a, found.b) == (where, x["x"][where], y["x"][where])


def test_what_is_refused(tmp_path: Path) -> None:
    with mmsb.Bus() as bus:
        with pytest.raises(mmsb.ArgumentTypeError, match="b must be a bus or a path"):
            mmsb.compare(bus, 5)  # type: ignore[arg-type]
        with pytest.raises(mmsb.BusNotFoundError):
            mmsb.compare(bus, tmp_path / "none")
        with pytest.raises(KeyError):
            mmsb.compare(bus, bus, progress=lambda *_: {}["stop"])
    with pytest.raises(mmsb.ClosedError):
        mmsb.compare(bus, bus)
    with run(mmsb.create(tmp_path / "a", durability="os"), 30) as a, run(mmsb.Bus(), 30) as b:
        (segment,) = sorted((tmp_path / "a/log").iterdir())
        with segment.open("r+b") as file:
            file.seek(5000)
            file.write(b"damage")
        with pytest.raises(mmsb.CorruptionError):
            mmsb.compare(a, b)
