"""The rows of the past: checkpoints, old epochs, opening, recovering."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import mmsb
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy
from race import Effort, Figure, once, run

MIB = 1 << 20
PAGES = 1000
LENGTH = 512
"""Elements of a page: 4 KiB."""
CHANGE = 8
"""Elements of a change: 64 bytes."""


def _state(nbytes: int) -> dict[str, npt.NDArray[np.uint64]]:
    """Arrays of 64 MiB that no compression makes smaller."""
    rng = np.random.default_rng(1)
    count = max(1, nbytes // (64 * MIB))
    return {
        f"part-{n}": rng.integers(0, 1 << 63, nbytes // count // 8, np.uint64) for n in range(count)
    }


def _fill(bus: mmsb.Bus, state: dict[str, npt.NDArray[np.uint64]]) -> None:
    for name, data in state.items():
        bus.create_page(name, data=data)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    os.fsync(file)
    os.close(file)


def checkpoints(folder: Path, effort: Effort) -> list[Figure]:
    """A checkpoint of everything, durable when it is done; and commits beside one.

    Each begins when 1 GiB of log has just become durable: a virtual disk may take the first GiB
    after a rest several times as fast as the next.
    """
    state = _state(effort.large)
    stores: list[mmsb.Bus] = []

    def clean() -> None:
        while stores:
            stores.pop().close()
        shutil.rmtree(folder / "store", ignore_errors=True)
        for file in ("raw", "safetensors"):
            (folder / file).unlink(missing_ok=True)
        os.sync()

    def prepare() -> None:
        clean()
        # Nothing but what is asked for is made.
        bus = mmsb.create(folder / "store", durability="os", checkpoint_every=10**9)
        _fill(bus, state)
        bus.sync()
        stores.append(bus)

    def raw() -> None:
        with open(folder / "raw", "wb", buffering=0) as file:
            for data in state.values():
                file.write(memoryview(data).cast("B"))
            os.fsync(file.fileno())

    def peer() -> None:
        safetensors.numpy.save_file(state, folder / "safetensors")
        _sync(folder / "safetensors")

    figures = once(
        "checkpoint",
        [
            ("floor", "write + fsync", prepare, raw),
            ("peer", "safetensors + fsync", prepare, peer),
            ("mmsb", "MMSB", prepare, lambda: stores[0].checkpoint()),
        ],
        5,
    )
    prepare()
    stores[0].checkpoint()
    figures += _little(folder, stores[0], effort.large // 100)
    clean()
    prepare()
    figures += _beside(stores[0])
    clean()
    return figures


def _little(folder: Path, bus: mmsb.Bus, changed: int) -> list[Figure]:
    """A checkpoint when one byte in a hundred has changed, in blocks of 16 KiB here and there."""
    pages = list(bus.values())
    pick = np.random.default_rng(2)
    block = 16 * 1024 // 8

    def change() -> None:
        for _ in range(changed // (block * 8)):
            page = pages[pick.integers(len(pages))]
            start = int(pick.integers(len(page) // block)) * block
            page[start : start + block] = pick.integers(0, 1 << 63, block, np.uint64)
        bus.sync()

    def raw() -> None:
        with open(folder / "little", "wb", buffering=0) as file:
            file.write(bytes(changed))
            os.fsync(file.fileno())

    return once(
        "checkpoint-little",
        [
            ("floor", "write + fsync of what changed", lambda: None, raw),
            ("mmsb", "MMSB", change, bus.checkpoint),
        ],
        5,
    )


def _beside(bus: mmsb.Bus) -> list[Figure]:
    """The slowest of a hundred commits, without and beside a checkpoint."""
    page = bus.create_page("small", shape=(LENGTH,))
    numbers = itertools.count(1)

    def slowest(until: Callable[[], bool]) -> float:
        took = []
        while not until():
            start = time.perf_counter()
            page[:CHANGE] = float(next(numbers))
            took.append(time.perf_counter() - start)
        return float(np.quantile(took, 0.99)) * 1e6

    alone, beside = [], []
    for _ in range(5):
        end = time.perf_counter() + 1
        alone.append(slowest(lambda end=end: time.perf_counter() > end))
        work = threading.Thread(target=bus.checkpoint)
        work.start()
        beside.append(slowest(lambda work=work: not work.is_alive()))
        work.join()
    return [
        _figure("commit-beside", "floor", "without a checkpoint", alone),
        _figure("commit-beside", "mmsb", "MMSB", beside),
    ]


def _figure(row: str, role: Any, name: str, seen: list[float]) -> Figure:
    return Figure(row, role, name, statistics.median(seen), min(seen), max(seen), len(seen))


def _history(store: Path, commits: int) -> None:
    """A thousand pages of 4 KiB, then so many commits of 64 bytes each."""
    pick = np.random.default_rng(1)
    with mmsb.create(store, durability="os") as bus:
        with bus.transaction() as tx:
            pages = [tx.create_page(f"p{n}", data=np.ones(LENGTH)) for n in range(PAGES)]
        which = pick.integers(0, PAGES, commits).tolist()
        where = (pick.integers(0, LENGTH // CHANGE, commits) * CHANGE).tolist()
        for number, (page, start) in enumerate(zip(which, where, strict=True), 1):
            pages[page][start : start + CHANGE] = float(number)


def _arctic(folder: Path) -> tuple[Any, Any]:
    """A library of versions, and the frame that is written to it."""
    import arcticdb
    import pandas as pd

    library = arcticdb.Arctic(f"lmdb://{folder}").create_library("bench")
    return library, pd.DataFrame({"x": np.arange(float(LENGTH))})


def old_epochs(folder: Path, effort: Effort) -> list[Figure]:
    """An old epoch is opened and one page of it read: each time another epoch, another page."""
    library, frame = _arctic(folder / "arctic")
    versions = 200
    for _ in range(versions):
        library.write("x", frame)
    pick = random.Random(1)

    def peer(count: int) -> None:
        for _ in range(count):
            _ = library.read("x", as_of=pick.randrange(versions)).data

    def opener(bus: mmsb.Bus, first: int, last: int) -> Callable[[int], None]:
        def turn(count: int) -> None:
            for _ in range(count):
                with bus.snapshot(pick.randrange(first, last)) as at:
                    at[f"p{pick.randrange(PAGES)}"][0]

        return turn

    figures = []
    for key, commits in effort.histories:
        store = folder / f"store-{commits}"
        _history(store, commits)
        with mmsb.open(store) as bus:
            ours = opener(bus, 1, bus.epoch)
            contestants = [("peer", "arcticdb, 200 versions", peer), ("mmsb", "MMSB", ours)]
            figures += run(key, contestants, effort)
        used = sum(file.stat().st_blocks * 512 for file in store.rglob("*") if file.is_file())
        if key == "old-many":
            changed = commits * CHANGE * 8 / MIB
            figures.append(_figure("disk", "floor", "the changes themselves", [changed]))
            figures.append(_figure("disk", "mmsb", "MMSB", [used / MIB]))
        shutil.rmtree(store)
    with mmsb.Bus() as bus:
        bus.retain(epochs=1000)
        with bus.transaction() as tx:
            pages = [tx.create_page(f"p{n}", data=np.ones(LENGTH)) for n in range(PAGES)]
        for number in range(2000):
            pages[number % PAGES][:CHANGE] = float(number)
        ours = opener(bus, bus.epoch - 998, bus.epoch)
        contestants = [("peer", "arcticdb, 200 versions", peer), ("mmsb", "MMSB", ours)]
        figures += run("old-memory", contestants, effort)
    return figures


def versions(folder: Path, effort: Effort) -> list[Figure]:
    """A new version of 4 KiB."""
    import icechunk
    import zarr

    library, frame = _arctic(folder / "arctic")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder / "ice")))
    session = repository.writable_session("main")
    shape, chunks = (PAGES * LENGTH,), (LENGTH,)
    zarr.create_array(session.store, name="x", shape=shape, chunks=chunks, dtype="f8")
    session.commit("begin")
    numbers = itertools.count(1)

    def arctic(count: int) -> None:
        for _ in range(count):
            library.write("x", frame)

    def ice(count: int) -> None:
        for _ in range(count):
            session = repository.writable_session("main")
            array = zarr.open_array(session.store, path="x", mode="r+")
            start = next(numbers) % PAGES * LENGTH
            array[start : start + LENGTH] = float(next(numbers))
            session.commit("step")

    blocks = list(np.random.default_rng(1).random((7, LENGTH)))
    with mmsb.create(folder / "bus.mmsb", durability="os") as bus:
        page = bus.create_page("x", shape=(LENGTH,))
        values = itertools.cycle(blocks)

        def ours(count: int) -> None:
            for data in itertools.islice(values, count):
                page[...] = data

        contestants = [
            ("peer", "arcticdb", arctic),
            ("peer", "icechunk", ice),
            ("mmsb", "MMSB", ours),
        ]
        return run("version", contestants, effort)


def opening(folder: Path, effort: Effort) -> list[Figure]:
    """The first element of a large state after opening it; and a recovery from the log alone."""
    state = _state(effort.large)
    name = next(iter(state))
    safetensors.numpy.save_file(state, folder / "safetensors")
    env = lmdb.open(str(folder / "lmdb"), map_size=effort.large * 2, writemap=True, sync=False)
    with env.begin(write=True) as txn:
        for key, data in state.items():
            txn.put(key.encode(), memoryview(data).cast("B"))
    env.close()
    with mmsb.create(folder / "store", durability="os") as bus:
        _fill(bus, state)
        bus.checkpoint()

    def tensors(count: int) -> None:
        for _ in range(count):
            with safetensors.safe_open(folder / "safetensors", "numpy") as file:
                file.get_slice(name)[0:1]

    def mapped(count: int) -> None:
        for _ in range(count):
            with (
                lmdb.open(str(folder / "lmdb"), readonly=True) as env,
                env.begin(buffers=True) as txn,
            ):
                np.frombuffer(txn.get(name.encode(), b""), np.uint64)[0]

    def ours(count: int) -> None:
        for _ in range(count):
            with mmsb.open(folder / "store") as bus:
                bus[name][0]

    figures = run(
        "open-first",
        [("peer", "safetensors", tensors), ("peer", "LMDB", mapped), ("mmsb", "MMSB", ours)],
        effort,
    )
    return figures + _recovery(folder, effort)


def _recovery(folder: Path, effort: Effort) -> list[Figure]:
    store = folder / "log-only"
    with mmsb.create(store, durability="os") as bus:
        page = bus.create_page("x", shape=(PAGES * LENGTH,))
        rows = np.random.default_rng(1).random((7, LENGTH))
        for number in range(effort.large // (LENGTH * 8)):
            start = number % PAGES * LENGTH
            page[start : start + LENGTH] = rows[number % 7] + number
    for file in (store / "checkpoints").iterdir():
        file.unlink()
    segments = sorted((store / "log").iterdir())

    def read() -> None:
        for segment in segments:
            with open(segment, "rb", buffering=0) as file:
                while file.read(MIB):
                    pass

    def ours() -> None:
        mmsb.open(store, mode="r+").close()
        for file in (store / "checkpoints").iterdir():
            file.unlink()

    nothing = lambda: None  # noqa: E731
    return once(
        "recovery",
        [("floor", "reading the log", nothing, read), ("mmsb", "MMSB", nothing, ours)],
        5,
    )


def past_rows(folder: Path, effort: Effort) -> Iterator[Figure]:
    for number, row in enumerate((checkpoints, opening, old_epochs, versions)):
        place = folder / f"past-{number}"
        place.mkdir(parents=True)
        yield from row(place, effort)
        shutil.rmtree(place)
