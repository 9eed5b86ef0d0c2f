"""Arrays that a bus shows: read-only for good, unchanged as long as they live, not copied."""

from __future__ import annotations

import copy
import gc
import pickle
import shutil
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import numpy.typing as npt
import pytest


def address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def resident() -> int:
    """Bytes of memory that this process has in use, shared mappings too."""
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096


@pytest.mark.parametrize("size", [1, 100, 4096, 16384, 16385, 100_000])
def test_views_cannot_be_made_writable(bus: mmsb.Bus, size: int) -> None:
    page = bus.create_page("p", data=np.arange(size) % 251)
    with bus.snapshot() as snap:
        views = [page.read(), page[...], page[:], page[0:1], np.asarray(page), snap["p"]]
        views += [v[::2] for v in views] + [v.reshape(-1, 1) for v in views]
        for view in views:
            assert not view.flags.writeable and not view.flags.owndata
            with pytest.raises(ValueError):
                view.setflags(write=True)
            with pytest.raises(ValueError):
                view[0] = 1
            base: Any = view
            while isinstance(base, np.ndarray):
                with pytest.raises(ValueError):
                    base.flags.writeable = True
                base = base.base
            with pytest.raises((TypeError, BufferError, ValueError)):
                memoryview(base)[0] = 0
            assert memoryview(view).readonly


def test_a_writable_copy_is_a_copy(bus: mmsb.Bus) -> None:
    page = bus.create_page("p", data=[1, 2, 3])
    for mine in (page.read(copy=True), page.read().copy(), np.array(page), copy.copy(page.read())):
        mine[0] = 9
        assert page[0] == 1
    with bus.transaction() as tx:
        tx["p"][0] = 5
        assert page[0] == 1


def test_a_view_shows_its_bytes_whatever_happens_later(bus: mmsb.Bus) -> None:
    kept: list[tuple[npt.NDArray[Any], bytes]] = []

    def keep(array: npt.NDArray[Any]) -> None:
        kept.append((array, array.tobytes()))

    small = bus.create_page("small", data=np.arange(100.0))
    large = bus.create_page("large", data=(np.arange(100_000) % 255).astype("u1"))
    for i in range(50):
        keep(small.read())
        keep(large[i * 1000 : i * 1000 + 5000])
        if i % 10 == 0:
            keep(large.read())
            with bus.snapshot() as snap:
                keep(snap["large"])
                keep(snap["small"][::3])
        small[i] = -i
        large[i * 1700] = 7
        if i == 25:
            large.resize(50_000)
            large.resize(100_000)
    small.delete()
    large.write(0)
    for _ in range(20):  # others take what was freed
        bus.create_page(data=b"\xee" * 50_000)
    gc.collect()
    for array, wanted in kept:
        assert array.tobytes() == wanted
    bus.close()
    del bus, small, large, snap
    gc.collect()
    junk = [np.full(100_000, 0xDD, np.uint8) for _ in range(50)]
    for array, wanted in kept:
        assert array.tobytes() == wanted
    del junk


def test_a_view_of_a_store_outlives_the_store_on_disk(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("x", data=np.arange(50_000))
    with mmsb.open(store) as reader:
        array = reader["x"].read()
        with reader.snapshot(1) as snap:
            old = snap["x"]
    shutil.rmtree(store)
    assert (array == np.arange(50_000)).all() and (old == array).all()


@pytest.mark.parametrize("size", [8, 64, 1000, 4096, 16384])
def test_a_page_of_one_block_is_shown_without_a_copy(bus: mmsb.Bus, size: int) -> None:
    page = bus.create_page("p", size=size)
    page[0] = 1
    with bus.snapshot() as snap:
        places = {
            address(a)
            for a in (page.read(), page[...], np.asarray(page), snap["p"], page.read(copy=False))
        }
        assert len(places) == 1
        assert address(page[3:]) == places.pop() + 3
    before = address(page.read())
    page[1] = 1
    assert page.read()[1] == 1
    assert address(page.read(copy=True)) not in (before, address(page.read()))


def test_a_page_that_was_written_whole_is_shown_without_a_copy(bus: mmsb.Bus) -> None:
    page = bus.create_page("p", data=np.arange(1_000_000, dtype="u1"))
    first = page.read(copy=False)
    assert address(first) == address(page.read())
    page.write(np.ones(1_000_000, "u1"))
    second = page.read(copy=False)
    assert address(second) == address(page.read(copy=False)) != address(first)


def test_a_scattered_page_is_gathered_once(bus: mmsb.Bus) -> None:
    page = bus.create_page("p", data=np.zeros(1_000_000, "u1"))
    held = page.read()
    page[500_000] = 1
    with pytest.raises(mmsb.ArgumentError):
        page.read(copy=False)
    with pytest.raises(ValueError):
        np.array(page, copy=False)
    one, two = page.read(), page.read()
    assert address(one) == address(two)  # one gather copy per version
    assert one[500_000] == 1 and held[500_000] == 0
    assert page[500_000] == 1 and page[499_990:500_010].sum() == 1


def test_fresh_zeros_are_shown_as_zeros_also_beyond_memory(mem: mmsb.Bus) -> None:
    page = mem.create_page("p", shape=(4096, 4096), dtype="f4")
    part = page[17]
    assert part.shape == (4096,) and not part.any()


def test_datetime_and_records_are_views_too(bus: mmsb.Bus) -> None:
    when = bus.create_page("when", data=np.array(["2020-01-01", "2021-01-01"], "M8[ns]"))
    record = bus.create_page("r", shape=3, dtype=[("a", "<i4"), ("b", "<f8")])
    for page in (when, record):
        assert address(page.read()) == address(page.read(copy=False))
        assert page.read().dtype == page.dtype and not page.read().flags.owndata
    assert not record.read()["b"].flags.writeable
    with pytest.raises(ValueError):
        record.read()[0]["a"] = 5


def test_a_pickled_view_is_a_copy_of_its_bytes(bus: mmsb.Bus) -> None:
    page = bus.create_page("p", data=[1, 2, 3])
    copied = pickle.loads(pickle.dumps(page.read()))
    page[0] = 9
    assert copied.tolist() == [1, 2, 3]


def test_the_log_of_a_bus_in_memory_counts_and_the_error_names_the_way_out() -> None:
    with mmsb.Bus(max_memory=32 << 20) as bus:
        page = bus.create_page("p", size=1 << 20)
        with pytest.raises(mmsb.OutOfSpaceError, match="retain"):
            for i in range(100):
                page.write(np.full(1 << 20, i + 1, np.uint8))
        last = bus.epoch - 1
        assert page[0] == page[-1] == last  # the commit that found no room changed nothing
        with bus.snapshot(2) as snap:
            assert (snap["p"] == 1).all()


def test_old_versions_of_a_store_are_given_back(store: Path) -> None:
    with mmsb.create(store, durability="memory", max_memory=32 << 20) as bus:
        small = bus.create_page("small", size=1000)
        large = bus.create_page("large", size=1 << 20)
        kept = [small.read()]
        snap = bus.snapshot()
        for i in range(100):  # 100 MiB of versions through 32 MiB of memory
            large.write(np.full(1 << 20, i, np.uint8))
            if i % 10 == 0:
                kept.append(large[:100])
                kept = kept[-3:]
        assert not snap["large"].any() and large[5] == 99
        snap.close()
        views = []
        with pytest.raises(mmsb.OutOfSpaceError):
            for i in range(100):
                views.append(large.read())
                large.write(np.full(1 << 20, i, np.uint8))
        assert [v[0] for v in views[1:]] == list(range(len(views) - 1))
        del views
        large.write(np.full(1 << 20, 5, np.uint8))  # freed views are room again
        assert large[0] == 5


def test_a_million_reads_do_not_grow_memory(mem: mmsb.Bus) -> None:
    page = mem.create_page("p", size=4096)
    for _ in range(10_000):
        page.read()
    before = resident()
    for _ in range(200_000):
        page.read()
    for _ in range(20_000):
        with mem.snapshot() as snap:
            snap["p"]
    gc.collect()
    assert resident() - before < 8 << 20


def test_too_many_snapshots_are_refused_and_room_comes_back(mem: mmsb.Bus) -> None:
    page = mem.create_page("p", data=[1, 2])
    snaps = []
    with pytest.raises(mmsb.TooManySnapshotsError):
        for _ in range(1_000_000):
            snaps.append(mem.snapshot())
    assert len(snaps) >= 500
    page[0] = 5  # a commit never waits for a reader, and reads need no slot for long
    assert all(snap["p"][0] == 1 for snap in snaps[::100])
    snaps.pop().close()
    with mem.snapshot() as snap:
        assert snap["p"][0] == 5
    snaps.clear()
    assert page.read().tolist() == [5, 2]
