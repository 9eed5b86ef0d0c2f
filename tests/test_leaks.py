"""Nothing is kept that nobody can see: memory, address space and mappings are back to base."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import mmsb
import pytest
from proof import held

CYCLES = 300
# What the allocators keep for themselves; a leak of one large page a bus is more.
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
    # Ten versions of a block wait to be freed; the log of a bus in memory counts too.
    assert stats["memory_bytes"] <= base + (1 << 20) + stats["log_bytes"] * in_memory
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


def test_the_check_after_every_test_sees_each_kind() -> None:
    before = held()
    done = threading.Event()
    thread = threading.Thread(target=done.wait, daemon=True)
    thread.start()
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    bus = mmsb.Bus()
    left = held() - before
    assert {what.split()[0] for what in left} == {"child", "descriptor", "thread"}, left
    assert any("memfd:mmsb" in what for what in left) and any("pipe:" in what for what in left)
    bus.close()
    del bus
    done.set()
    thread.join()
    child.communicate()
    assert held() == before
