"""Readers that are killed or stopped, and files that go away under a reader: the host goes on, and
a reader gets an exception and no signal.

Exempt is the host's own mapping of the segment that it writes (DIAGNOSTICS.md, SIGBUS).
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mmsb
import pytest
import readers
from conftest import Runner
from crash_child import Expected, commit, compare
from proof import held

# Holds views, a snapshot and a past epoch, and reads on until it is told to end.
READER = """
import mmsb, sys
bus = mmsb.open(sys.argv[1])
snap = bus.snapshot()
views = [snap[name] for name in snap]
past = bus.snapshot(bus.epoch // 2)
print("reading", flush=True)
while True:
    bytes(views[0]), past.digest(), mmsb.open(sys.argv[1]).digest()
"""


@contextmanager
def reader(store: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", READER, store], stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline() == b"reading\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_killed_and_stopped_readers_cost_the_host_nothing(store: Path, durability: str) -> None:
    with mmsb.create(store, durability=durability) as bus:
        for _ in range(40):
            commit(bus)
        bus.checkpoint()
        gc.collect()
        base, memory = held(), bus.stats()["memory_bytes"]
        for round in range(3):
            with reader(store) as killed, reader(store) as stopped:
                stopped.send_signal(signal.SIGSTOP)
                assert os.waitid(os.P_PID, stopped.pid, os.WSTOPPED) is not None
                for i in range(40):
                    commit(bus)
                    if i == 20:
                        killed.kill()
                        killed.wait()
                bus.sync()
                bus.checkpoint()
                compare(bus, bus.epoch, Expected().at(bus.epoch))
                # What was replaced is free again though a stopped reader has seen it.
                stats = bus.stats()
                assert stats["old_version_bytes"] < 1 << 20
                assert stats["memory_bytes"] < memory + (1 << 20), round
                stopped.send_signal(signal.SIGCONT)
                assert stopped.poll() is None
            gc.collect()
            assert held() - base == set()
        assert bus.verify().ok
    with mmsb.open(store, mode="r+") as bus:
        assert bus.epoch == 160
        compare(bus, 160, Expected().at(160))


READERS = """
import random, sys, readers
from pathlib import Path
print(dict(readers.run(sys.argv[1], Path(sys.argv[2]), 40, random.Random(1))))
"""


@pytest.mark.parametrize("kind", readers.KINDS)
def test_readers_of_all_sorts_leave_a_host_as_it_would_be_alone(
    kind: str, tmp_path: Path, python: Runner
) -> None:
    """`make readers` runs the same for longer; a small process of its own forks fast."""
    print(python(READERS, kind, tmp_path).stdout)


HARMS = """
import harms
seen = harms.run(1, sample=80, cycles=5)
assert seen["cases"] == 80 and seen["noticed"] > 30 and seen["shrinkings refused"]
print(dict(seen))
"""


def test_files_that_go_away_are_an_exception_and_no_signal(python: Runner) -> None:
    """A sample of `make sigbus`."""
    print(python(HARMS).stdout)
