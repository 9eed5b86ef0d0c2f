"""Epochs that stay in memory, and what a bus in memory lets go for them."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest

FREE = mmsb.Cost(None, 0, 0)


def clock(step: int) -> Any:
    """A clock that goes on by `step` nanoseconds a commit."""
    times = iter(range(0, 1 << 62, step))
    return lambda: next(times)


def fill(bus: mmsb.Bus, until: int) -> None:
    """Epoch e has x == [e] * 1000; the first epoch makes the page."""
    for epoch in range(bus.epoch + 1, until + 1):
        if epoch == 1:
            bus.create_page("x", data=np.ones(1000))
        else:
            bus["x"].write(float(epoch))


def shown(bus: mmsb.Bus) -> list[int]:
    """The epochs that open, each compared."""
    found = []
    for epoch in range(1, bus.epoch + 1):
        try:
            with bus.snapshot(epoch) as snap:
                assert np.array_equal(snap["x"], np.full(1000, float(epoch)))
        except mmsb.EpochNotFoundError as error:
            assert f"epoch {epoch} was let go (bus.retain)" in str(error)
        else:
            found.append(epoch)
    return found


def in_memory(bus: mmsb.Bus) -> list[int]:
    """The epochs that cost nothing to open."""
    return [epoch for epoch in range(1, bus.epoch + 1) if bus.cost(epoch) == FREE]


def test_the_last_epochs_are_in_memory(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        fill(bus, 20)
        assert in_memory(bus) == [20]
        bus.retain(epochs=3)
        fill(bus, 30)
        assert in_memory(bus) == [28, 29, 30]
        stats = bus.stats()
        assert stats["retained_since"] == 28
        assert 16_000 <= stats["retained_bytes"] <= 24_000
        bus.retain(epochs=5)
        assert in_memory(bus) == [28, 29, 30]
        fill(bus, 32)
        assert in_memory(bus) == [28, 29, 30, 31, 32]
        assert shown(bus) == list(range(1, 33))
        bus.retain()
        assert (in_memory(bus), bus.stats()["retained_bytes"]) == ([32], 0)
    with mmsb.open(store, mode="r+") as bus:
        assert in_memory(bus) == [32]


def test_by_the_time_of_the_commits() -> None:
    with mmsb.Bus(clock=clock(500_000_000)) as bus:
        bus.retain(seconds=1.1)
        fill(bus, 10)
        # At 4.5 s the newest is 10; at 3.4 s it was 7.
        assert in_memory(bus) == [7, 8, 9, 10]
        bus.retain(seconds=np.float32(0.5))
        assert in_memory(bus) == [9, 10]
        bus.retain(seconds=0)
        assert in_memory(bus) == [10]
    assert bus.closed


def test_a_retained_epoch_is_an_epoch_like_any_other() -> None:
    with mmsb.Bus() as bus:
        bus.retain(epochs=10)
        fill(bus, 30)
        bus.tag("here", 25)
        assert bus.digest(25) != bus.digest(26)
        assert [d.old[0].tolist()[0] for d in bus.diff(25, 30)] == [25.0]
        with bus.fork("here") as fork:
            assert fork["x"].read()[0] == 25
            fork["x"].write(0.0)
        kept = bus.snapshot(25)["x"]
        bus.restore("here")
        fill(bus, 90)
        assert kept[0] == 25


def test_a_bus_in_memory_stays_small() -> None:
    with mmsb.Bus(max_memory=16 << 20) as bus:
        fill(bus, 2)
        with pytest.raises(mmsb.OutOfSpaceError, match=r"bus\.retain bounds it"):
            fill(bus, 10_000)
        bus.retain(epochs=10)
        fill(bus, bus.epoch + 5000)
        opened = shown(bus)
        assert opened == list(range(opened[0], bus.epoch + 1))
        assert opened[0] <= bus.epoch - 9
        assert [c.epoch for c in bus.log()] == opened[1:]
        with pytest.raises(mmsb.EpochNotFoundError, match=f"oldest that opens is {opened[0]}"):
            bus.tag("gone", 5)


def test_tagged_epochs_stay(tmp_path: Path) -> None:
    with mmsb.Bus(max_memory=16 << 20) as bus:
        fill(bus, 100)
        bus.tag("early", 50)
        bus["x"].write(102.0)
        bus.retain(epochs=10)
        fill(bus, 5000)
        opened = shown(bus)
        assert opened[0] == 50 and opened[1] > 4000
        bus.backup(tmp_path / "copy")
        with mmsb.open(tmp_path / "copy") as copy:
            assert copy.digest("early") == bus.digest("early")
            assert copy.digest(opened[1]) == bus.digest(opened[1])
            assert copy.tags == {"early": 50}
            assert copy.verify().ok


def test_it_is_refused(store: Path) -> None:
    with mmsb.create(store) as bus:
        for bad in (0, -1, 1 << 64):
            with pytest.raises(mmsb.ArgumentError, match="epochs must be between 1"):
                bus.retain(epochs=bad)
        for bad in (-1, -0.5, float("nan"), float("inf"), 1e30):
            with pytest.raises(mmsb.ArgumentError, match="seconds must be between 0"):
                bus.retain(seconds=bad)
        with pytest.raises(mmsb.ArgumentError, match="one of"):
            bus.retain(epochs=1, seconds=1)
        wrong: list[Any] = ["5", True, datetime.timedelta(seconds=1), [1]]
        for value in wrong:
            with pytest.raises(mmsb.ArgumentTypeError, match="seconds must be a number"):
                bus.retain(seconds=value)
        for value in [*wrong, 1.5]:
            with pytest.raises(mmsb.ArgumentTypeError, match="epochs must be an int"):
                bus.retain(epochs=value)
    with pytest.raises(mmsb.ClosedError):
        bus.retain(epochs=1)
    with mmsb.open(store) as reader, pytest.raises(mmsb.ReadOnlyError):
        reader.retain(epochs=1)


def test_readers_of_retained_epochs_beside_commits() -> None:
    with mmsb.Bus() as bus:
        bus.retain(epochs=50)
        fill(bus, 2)
        done = threading.Event()
        problems: list[BaseException] = []
        looked = [0] * 3

        def look(reader: int) -> None:
            rng = np.random.default_rng(reader)
            try:
                while not done.is_set():
                    epoch = max(1, bus.epoch - int(rng.integers(0, 60)))
                    try:
                        with bus.snapshot(epoch) as snap:
                            assert np.array_equal(snap["x"], np.full(1000, float(epoch)))
                        looked[reader] += 1
                    except mmsb.EpochNotFoundError:
                        pass
            except BaseException as error:
                problems.append(error)

        readers = [threading.Thread(target=look, args=(n,)) for n in range(3)]
        for reader in readers:
            reader.start()
        while not (min(looked) > 100 and bus.epoch > 2000) and not problems:
            fill(bus, bus.epoch + 1)
        done.set()
        for reader in readers:
            reader.join()
        assert problems == []
