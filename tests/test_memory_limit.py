"""A process that may not have more address space: it is refused with a typed error and lives on."""

from __future__ import annotations

import json
from pathlib import Path

import mmsb
import pytest
from conftest import Runner

LIMIT = """
import json, mmsb, numpy as np, resource, sys

def limit(more):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))

def give_back():
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def content(i, size):
    return np.random.default_rng(i).bytes(size)

def same(oracle):
    with bus.snapshot() as snap:
        assert list(snap) == list(oracle)
        for name, (i, size) in oracle.items():
            assert snap[name].tobytes() == content(i, size), name

def refused(what):
    try:
        what()
    except (mmsb.OutOfSpaceError, MemoryError):
        return 1
    return 0
"""

GROWING = """
limit(256 << 20)
store = sys.argv[1]
bus = mmsb.Bus() if store == "memory" else mmsb.create(store, durability="os")
oracle = {}

def grow():
    while True:
        i = len(oracle) + 1
        size = [100, 3000, 16 << 10, 100_000, 1 << 20][i % 5]
        bus.create_page(f"p{i}", data=content(i, size))
        oracle[f"p{i}"] = (i, size)

assert refused(grow)
same(oracle)
assert bus.epoch == len(oracle) > 100
if store != "memory":  # there the log is kept, and with it what is deleted
    with bus.transaction() as tx:
        for name in list(oracle)[::2]:
            tx.delete(name)
            del oracle[name]
    bus.create_page("again", data=content(0, 1 << 20))
    oracle["again"] = (0, 1 << 20)
    same(oracle)
print(json.dumps([bus.epoch, list(oracle.items())]))
bus.close()
"""


@pytest.mark.parametrize("kind", ["memory", "directory"])
def test_a_state_that_grows_beyond_the_address_space(
    kind: str, store: Path, python: Runner
) -> None:
    done = python(LIMIT + GROWING, "memory" if kind == "memory" else store)
    epoch, oracle = json.loads(done.stdout)
    if kind == "directory":
        with mmsb.open(store, mode="r+") as bus:
            assert bus.epoch == epoch and bus.verify().ok
            assert [(p.name, p.nbytes) for p in bus.pages] == [(n, size) for n, (_, size) in oracle]


LARGE = """
SIZE = 64 << 20
bus = mmsb.create(sys.argv[1], durability="os", max_memory=1 << 30)
page = bus.create_page("large", data=content(1, SIZE))
bus.create_page("small", shape=100)
for at in range(0, SIZE, 1 << 20):
    page[at] = page[at]  # scattered: a view has to gather
    page[at + 7] = 7
epoch, digest, data = bus.epoch, bus.digest(), np.frombuffer(content(2, SIZE), np.uint8)

def edit():
    with bus.transaction() as tx:
        tx[page][::4096] += 1

uses = {
    "read": page.read,
    "write": lambda: page.write(data),
    "append": lambda: page.append(data),
    "edit": edit,
    "past": lambda: bus.snapshot(3).digest(),
    "log": lambda: [list(c.deltas) for c in bus.log()],
    "diff": lambda: list(bus.diff(1, bus.epoch)),
    "restore": lambda: bus.restore(3),
    "open": lambda: mmsb.open(sys.argv[1]),
}
counts = {}
for name, use in uses.items():
    for room in (8 << 20, 40 << 20, 100 << 20):
        limit(room)
        told = refused(use)
        give_back()
        counts[name] = counts.get(name, 0) + told
        assert not told or (bus.epoch, bus.digest()) == (epoch, digest), name
        bus["small"][3] = bus.epoch  # it takes commits as before
        epoch, digest = bus.epoch, bus.digest()
assert bus.verify().ok
print(json.dumps([epoch, digest, counts]))
bus.close()
"""


def test_large_values_without_memory_for_them(store: Path, python: Runner) -> None:
    epoch, digest, counts = json.loads(python(LIMIT + LARGE, store).stdout)
    assert all(counts.values()), counts
    with mmsb.open(store, mode="r+") as bus:
        assert (bus.epoch, bus.digest()) == (epoch, digest)
