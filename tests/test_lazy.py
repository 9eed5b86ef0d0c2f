"""Past epochs and readers of a directory read page by page, and what that costs."""

from __future__ import annotations

import threading
from pathlib import Path

import mmsb
import numpy as np
import pytest
from mmsb import _core

PAGES, STEPS = 12, 60


@pytest.fixture
def history(store: Path) -> list[dict[str, np.ndarray]]:
    """A store that was closed, and copies of what each epoch was."""
    states: list[dict[str, np.ndarray]] = [{}]
    rng = np.random.default_rng(5)
    # Small segments, so that there are several, with indexes.
    with mmsb.Bus._of(_core.Core.create(str(store), "os", segment_bytes=64 << 10)) as bus:
        for step in range(STEPS):
            state = {name: value.copy() for name, value in states[-1].items()}
            if step < PAGES:
                values = rng.integers(0, 99, (step * 900 + 3, 2))
                bus.create_page(f"p{step}", data=values)
                state[f"p{step}"] = values
            else:
                name = f"p{step % PAGES}"
                row = int(rng.integers(0, len(state[name])))
                state[name][row] = step
                bus[name][row] = step
            if step == 30:
                bus.checkpoint()
            states.append(state)
    return states


def same(snapshot: mmsb.Snapshot | mmsb.Bus, state: dict[str, np.ndarray]) -> None:
    assert list(snapshot) == list(state)
    for name in reversed(state):
        np.testing.assert_array_equal(snapshot[name], state[name])


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_every_epoch(store: Path, history: list[dict[str, np.ndarray]], mode: str) -> None:
    with mmsb.open(store, mode=mode) as bus:  # type: ignore[call-overload]
        same(bus, history[-1])
        for epoch, state in enumerate(history):
            with bus.snapshot(epoch) as then:
                same(then, state)
                assert [page.epoch for page in then.pages if page.epoch > epoch] == []
                again = {page.name: then[page.name] for page in then.pages}
            for name, value in state.items():
                np.testing.assert_array_equal(again[name], value)


def test_arrays_outlive_snapshot_and_bus(store: Path, history: list[dict[str, np.ndarray]]) -> None:
    bus = mmsb.open(store)
    then = bus.snapshot(40)
    kept, newest = then["p11"], bus["p11"].read()
    then.close()
    bus.close()
    np.testing.assert_array_equal(kept, history[40]["p11"])
    np.testing.assert_array_equal(newest, history[-1]["p11"])


def test_threads_look_at_one_epoch(store: Path, history: list[dict[str, np.ndarray]]) -> None:
    with mmsb.open(store) as bus, bus.snapshot(45) as then:
        wrong: list[str] = []

        def look(first: int) -> None:
            for n in range(PAGES):
                name = f"p{(first + n) % PAGES}"
                if not np.array_equal(then[name], history[45][name]):
                    wrong.append(name)

        threads = [threading.Thread(target=look, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_cost(store: Path, history: list[dict[str, np.ndarray]]) -> None:
    (checkpoint,) = (store / "checkpoints").glob("*.ckpt")
    with mmsb.open(store, mode="r+") as bus:
        assert bus.cost(len(history) - 1) == mmsb.Cost(None, 0, 0)
        early, late = bus.cost(12), bus.cost(50)
        assert (early.checkpoint, early.records) == (None, 12)
        assert (late.checkpoint, late.records) == (31, 19)
        size = checkpoint.stat().st_size
        log = sum(file.stat().st_size for file in (store / "log").iterdir())
        assert size < late.bytes <= size + log and 0 < early.bytes <= log
        with pytest.raises(mmsb.EpochNotFoundError):
            bus.cost(len(history))
    with mmsb.open(store) as bus:
        assert bus.cost(len(history) - 1).records == STEPS - 31
    fork = mmsb.Bus()
    fork.create_page("x", size=8)
    fork = fork.fork(1)
    fork.tag("t")
    fork.tag("u")
    assert fork.cost(1).records == 0 and fork.cost(2).records == 1


def test_damage_is_told_where_it_is_met(store: Path) -> None:
    with mmsb.Bus._of(_core.Core.create(str(store), "os", segment_bytes=64 << 10)) as bus:
        odd, even = (bus.create_page(name, shape=500, dtype="i8") for name in ("odd", "even"))
        for step in range(300):
            (odd if step % 2 else even).write(np.full(500, step))
    segment = min((store / "log").glob("*.mlog"))
    data = bytearray(segment.read_bytes())
    data[bytes(data).index(np.full(500, 9).tobytes())] ^= 1
    segment.write_bytes(data)
    with mmsb.open(store) as bus:
        assert (bus["even"][0], bus.snapshot(200)["even"][0]) == (298, 198)
        with pytest.raises(mmsb.CorruptionError) as caught:
            bus["odd"].read()
        assert (Path(str(caught.value.file)), caught.value.epoch) == (segment, 11)
        assert not bus.verify().ok
