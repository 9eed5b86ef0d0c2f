"""Readers that are killed or stopped, and files that go away under a reader: the host goes on, and
a reader gets an exception and no signal.

Exempt is the host's own mapping of the segment that it writes (DIAGNOSTICS.md, SIGBUS).
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mmsb
import pytest
from conftest import held
from crash_child import Expected, commit, compare
from mmsb import _core

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


# Opens the store, lets its files be harmed, uses it in every way and tells what came of it.
VICTIM = """
import json, mmsb, sys
bus = mmsb.open(sys.argv[1], mode=sys.argv[2])
newest = bus.snapshot()
views = [(array, array.tobytes()) for array in newest.values()]
print("opened", flush=True)
sys.stdin.readline()
errors, digests = [], {}

def use(what):
    try:
        what()
    except mmsb.MMSBError as error:
        errors.append(error.code)

def all_epochs():
    for epoch in range(newest.epoch + 1):
        with bus.snapshot(epoch) as snap:
            digests[epoch] = snap.digest()

use(all_epochs)
use(lambda: [list(c.deltas) for c in bus.log()])
use(lambda: bus.verify())
use(lambda: list(bus.diff(3, 30)))
if sys.argv[2] == "r+":
    use(lambda: bus["ring"].write(7))
    use(lambda: bus.sync())
    use(lambda: bus.checkpoint())
same = all(array.tobytes() == data for array, data in views)
use(bus.close)
use(lambda: mmsb.open(sys.argv[1]))
print(json.dumps([same, errors, digests]))
"""


def harm(store: Path, how: str) -> None:
    """Cut or remove files of the store."""
    files = [p for p in store.rglob("*") if p.is_file()]
    logs = sorted((store / "log").iterdir())
    if how == "everything removed":
        shutil.rmtree(store)
    for file in files if how.startswith("all") else logs[: how == "first segment cut"]:
        os.truncate(file, file.stat().st_size // 2 if how == "all halved" else 0)
    if how == "log removed":
        shutil.rmtree(store / "log")


HARMS = ["all cut", "all halved", "first segment cut", "log removed", "everything removed"]


@pytest.mark.parametrize("how", HARMS)
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_files_that_go_away_are_an_exception(store: Path, mode: str, how: str) -> None:
    core = _core.Core.create(str(store), "disk", segment_bytes=16384)
    with mmsb.Bus._of(core) as bus:
        for e in range(1, 61):
            commit(bus)
            if e == 30:
                bus.checkpoint()
        digests = {e: bus.digest(e) for e in range(bus.epoch + 1)}
    victim = subprocess.Popen(
        [sys.executable, "-c", VICTIM, store, mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout and victim.stdout.readline() == "opened\n"
    harm(store, how)
    said, error = victim.communicate("go\n", timeout=120)
    assert victim.returncode == 0, (victim.returncode, error)
    same, errors, shown = json.loads(said)
    assert same, "views keep their bytes"
    assert errors, "the harm was noticed"
    assert {int(e): digest for e, digest in shown.items()}.items() <= digests.items()
