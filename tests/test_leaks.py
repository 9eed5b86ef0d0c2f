"""Nothing is kept that nobody can see: memory, address space and mappings are back to base."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

import mmsb
import numpy as np
import pytest

CYCLES = 300
# What the allocators of Python, NumPy and Rust keep for themselves; a leak of one page a bus is more.
SLACK = 6 << 20
PAGE = os.sysconf("SC_PAGESIZE")


def memory() -> tuple[int, int, int]:
    """Address space and resident memory in bytes, and the mappings of arenas."""
    gc.collect()
    size, resident, *_ = Path("/proc/self/statm").read_text().split()
    arenas = Path("/proc/self/maps").read_text().count("memfd:mmsb")
    return int(size) * PAGE, int(resident) * PAGE, arenas


def use(bus: mmsb.Bus, in_memory: bool) -> None:
    """A life of a bus with everything that takes memory."""
    small = bus.create_page("small", shape=100, dtype="f8")
    large = bus.create_page("large", size=100_000)
    base = bus.stats()["memory_bytes"]
    for i in range(10):
        with bus.transaction() as tx:
            tx["small"][i] = i
            tx["large"][i * 1000 : i * 1000 + 10] = i
        small.read(), large.read()
    kept = large.read()
    with bus.snapshot(5) as past, bus.fork(bus.epoch) as fork:
        fork["large"][:] = 1
        past["small"], past.digest(), bus.digest()
    if not in_memory:
        bus.checkpoint()
    stats = bus.stats()
    # The log of a bus in memory counts against its memory.
    assert stats["memory_bytes"] <= base + (200 << 10) + stats["log_bytes"] * in_memory
    bus.close()
    assert kept[9001] == 9 and not kept[9010:].any()


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_buses_that_come_and_go_leave_no_memory(kind: str, tmp_path: Path) -> None:
    def cycle(i: int) -> None:
        if kind == "memory":
            return use(mmsb.Bus(), True)
        path = tmp_path / str(i)
        use(mmsb.create(path, durability="os"), False)
        with mmsb.open(path, mode="r+") as bus:
            bus["small"][0] = 5
        with mmsb.open(path) as reader:
            assert reader["small"][0] == 5
        return None

    for i in range(30):
        cycle(-1 - i)
    base = memory()
    for i in range(CYCLES):
        cycle(i)
    now = memory()
    print([b - a for a, b in zip(base, now, strict=True)])
    assert now[0] - base[0] < 64 << 20, "address space: every bus reserves more than this"
    assert now[1] - base[1] < SLACK
    assert now[2] == base[2]


def test_old_versions_go_when_nobody_sees_them(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", size=1 << 20)
    base = bus.stats()
    views = []
    for i in range(20):
        page.write(np.full(1 << 20, i, np.uint8))
        views.append(page.read())
    held = bus.stats()
    assert held["memory_bytes"] - base["memory_bytes"] >= 19 << 20
    assert [int(v[0]) for v in views] == list(range(20))
    views.clear()
    for _ in range(3):
        page[0] = 1 - page[0]
    now = bus.stats()
    log = (now["log_bytes"] - base["log_bytes"]) * (bus.path is None)
    assert now["memory_bytes"] - base["memory_bytes"] - log < 3 << 20
    assert now["old_version_bytes"] < 3 << 20
