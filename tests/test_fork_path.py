"""Forks in a directory: the same state, a life of their own, or nothing that opens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mmsb
import numpy as np
import plain_reader
import pytest
from fills import DISKS, disk


def filled(bus: mmsb.Bus) -> list[str]:
    """Some epochs of every kind of change, and the digest of each."""
    page = bus.create_page("x", shape=(40, 3), dtype="f4", meta={"unit": "m"})
    for step in range(12):
        page[step] = step
    bus.tag("early", 3)
    bus.create_page("large", data=np.arange(30_000))
    bus.create_page("gone", size=5).delete()
    bus.create_page(None, data=b"raw")
    bus["x"].rename("y")
    bus.tag("late")
    return [bus.digest(epoch) for epoch in range(bus.epoch + 1)]


def test_it_begins_with_the_epoch(bus: mmsb.Bus, tmp_path: Path) -> None:
    digests = filled(bus)
    for epoch in range(len(digests)):
        path = tmp_path / f"fork {epoch}"
        with bus.fork(epoch, path=path) as fork, bus.snapshot(epoch) as then:
            assert (fork.mode, fork.epoch, fork.durable_epoch) == ("r+", epoch, epoch)
            assert fork.path == path and fork.recovery is None
            assert fork.durability == ("disk" if bus.path is None else "os")
            assert fork.digest() == digests[epoch] == fork.digest(epoch)
            assert [p.id for p in fork.pages] == [p.id for p in then.pages]
            assert list(fork.log()) == []
            if epoch:
                with pytest.raises(mmsb.EpochNotFoundError, match="ask its parent"):
                    fork.snapshot(epoch - 1)
            new = fork.create_page("new", data=[epoch])
            assert new.id == then._snap.next_id and new.epoch == epoch + 1
        with mmsb.open(path) as again:
            assert (again.epoch, again.digest(epoch)) == (epoch + 1, digests[epoch])
            assert again["new"][0] == epoch and again.verify().ok
            assert [c.epoch for c in again.log()] == [epoch + 1]
            assert "early" not in again.tags or again.tags["early"] == 3
    assert [bus.digest(epoch) for epoch in range(len(digests))] == digests


def test_epochs_are_named_in_every_way(bus: mmsb.Bus, tmp_path: Path) -> None:
    digests = filled(bus)
    with bus.snapshot(5) as snap:
        for n, epoch in enumerate((None, "early", next(bus.log(since=7)), snap, np.int64(2))):
            with bus.fork(epoch, path=tmp_path / str(n)) as fork:
                number = [bus.epoch, 3, 7, 5, 2][n]
                assert (fork.epoch, fork.digest()) == (number, digests[number])
                assert fork.tags == (dict(bus.tags) if n == 0 else {})


def test_a_fork_of_a_fork_and_a_fork_in_memory(bus: mmsb.Bus, tmp_path: Path) -> None:
    digests = filled(bus)
    with bus.fork(6) as memory:
        memory["x"][0] = 9
        with memory.fork(6, path=tmp_path / "a") as a, memory.fork(path=tmp_path / "b") as b:
            assert a.digest() == digests[6] and b.digest() == memory.digest() and b.epoch == 7
            b["x"][1] = 7
            with b.fork(7, path=tmp_path / "c") as c:
                assert c.digest() == memory.digest()
                c.backup(tmp_path / "d")
            with b.fork(8) as d:
                assert d["x"][1, 0] == 7
    with mmsb.open(tmp_path / "d", mode="r+") as copy:
        assert copy.epoch == 7 and copy.prune(log_since=7).oldest == 7
        copy["x"][2] = 8
        assert copy.verify().ok


def test_times_go_on(store: Path, tmp_path: Path) -> None:
    ticks = iter(range(1000, 100_000, 1000))
    with mmsb.create(store, clock=ticks.__next__, durability="os") as bus:
        x = bus.create_page("x", data=[1])
        x[0] = 2
        x[0] = 3
        with bus.fork(2, path=tmp_path / "f") as fork:
            fork["x"][0] = 9  # at 4000
            for moment, epoch in ((2000, 2), (3999, 2), (4000, 3)):
                with fork.snapshot(as_of=moment) as snap:
                    assert snap.epoch == epoch
            with pytest.raises(mmsb.EpochNotFoundError):
                fork.snapshot(as_of=1999)


def test_what_is_refused(bus: mmsb.Bus, tmp_path: Path) -> None:
    filled(bus)
    with mmsb.create(tmp_path / "other"):
        pass
    with pytest.raises(mmsb.BusExistsError):
        bus.fork(path=tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("mine")
    with pytest.raises(mmsb.ArgumentError, match="not empty"):
        bus.fork(path=tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes"]
    with pytest.raises(mmsb.StorageError):
        bus.fork(path=tmp_path / "no" / "where")
    with pytest.raises(mmsb.ArgumentTypeError):
        bus.fork(path=5)  # type: ignore[arg-type]
    with pytest.raises(mmsb.EpochNotFoundError):
        bus.fork(1000, path=tmp_path / "new")
    if bus.path is not None:
        with pytest.raises(mmsb.BusExistsError):
            bus.fork(path=bus.path)
        with pytest.raises(mmsb.ArgumentError, match="lies in the store"):
            bus.fork(path=bus.path / "inside")
        assert bus.verify().ok
    bus.close()
    with pytest.raises(mmsb.ClosedError):
        bus.fork(path=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_reader_made_from_the_document(store: Path, tmp_path: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        digests = filled(bus)
        with bus.fork(9, path=tmp_path / "f") as fork:
            fork["x"][0] = 5
            newest = fork.digest()
    meta = plain_reader.read_meta(tmp_path / "f")
    assert meta["parent"] == (plain_reader.read_meta(store)["uuid"], 9)
    assert (meta["base_seq"], meta["base_epoch"]) == (0, 9) and meta["uuid"] != meta["parent"][0]
    states = plain_reader.states_of(tmp_path / "f")
    assert {e: plain_reader.digest(s) for e, s in states.items()} == {9: digests[9], 10: newest}


def test_a_base_that_is_damaged_is_never_an_empty_bus(bus: mmsb.Bus, tmp_path: Path) -> None:
    filled(bus)
    bus.fork(9, path=tmp_path / "f").close()
    path = tmp_path / "f/checkpoints" / f"{9:016x}.ckpt"
    sound = path.read_bytes()
    for damaged in (sound[:4000], sound[:-3], sound[:4100] + b"\xff" + sound[4101:]):
        path.write_bytes(damaged)
        for mode in ("r", "r+"):
            # A reader meets the damage of a page when it comes to it.
            with (
                pytest.raises(mmsb.CorruptionError) as caught,
                mmsb.open(tmp_path / "f", mode=mode) as damaged_bus,
            ):
                damaged_bus.digest()
            assert caught.value.file == str(path)
    path.unlink()
    with pytest.raises(mmsb.CorruptionError) as caught:
        mmsb.open(tmp_path / "f")
    assert caught.value.file == str(path)


CHILD = """
import sys, mmsb
bus = mmsb.open(sys.argv[1])
print("ready", flush=True)
bus.fork(path=sys.argv[2]).close()
print("done", flush=True)
"""


def test_a_killed_one_is_a_store_or_none(store: Path, tmp_path: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        page = bus.create_page("x", size=16 << 20)
        page.write(np.arange(16 << 20).astype(np.uint8))
        digest = bus.digest()
    to, stores = tmp_path / "fork", 0
    for delay in (0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store), str(to)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(delay)
        os.kill(child.pid, signal.SIGKILL)
        done = child.stdout.read() == "done\n"
        child.stdout.close()
        child.wait()
        try:
            with mmsb.open(to, mode="r+") as fork:
                assert fork.digest() == digest and fork.verify().ok
            stores += 1
        except mmsb.BusNotFoundError:
            assert not done
            continue
        with mmsb.open(store) as bus, pytest.raises(mmsb.BusExistsError):
            bus.fork(path=to)
        break
    if not stores:  # what is left of those is in nobody's way
        with mmsb.open(store) as bus, bus.fork(path=to) as fork:
            assert fork.digest() == digest
    assert not (to / "copying").exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", DISKS)
def test_a_full_disk_leaves_nothing(kind: str, store: Path, tmp_path: Path) -> None:
    with mmsb.create(store, durability="os") as bus, disk(kind, tmp_path) as on:
        if on is None:
            pytest.skip(f"no {kind} can be mounted here")
        bus.create_page("x", data=np.arange(100_000))
        to = on.path / "fork"
        for leave in (0, 5_000, 100_000):
            on.fill(leave)
            with pytest.raises(mmsb.StorageError):
                bus.fork(path=to)
            on.free()
            assert not list(to.rglob("*.ckpt")) and not list(to.rglob("*.mlog"))
            with pytest.raises(mmsb.BusNotFoundError):
                mmsb.open(to)
        with bus.fork(path=to) as fork:
            assert fork.digest() == bus.digest() and fork.verify().ok
