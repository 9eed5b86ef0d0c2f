"""A hundred times: a host is killed with SIGKILL, and no acknowledged epoch is lost.

`make kills-python` runs the same for longer.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import mmsb
import pytest
from crash_child import Expected, compare
from kills import SERIES, Series, host, ledger_of_killed, run

ROUNDS = 8


@pytest.mark.parametrize("series", SERIES, ids=str)
def test_nothing_acknowledged_is_lost(store: Path, series: Series) -> None:
    seen = run(series, store, ROUNDS, random.Random(f"1 {series}"))
    print(dict(seen))
    assert bool(seen["from a checkpoint"]) is series.checkpoints
    assert bool(seen["looks of readers"]) is series.readers


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_a_kill_during_recovery_loses_nothing(store: Path, durability: str) -> None:
    rng = random.Random(9)
    ledger = ledger_of_killed(store, Series(durability, True, False), rng)
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", f"import mmsb; mmsb.open({str(store)!r}, mode='r+')"],
            stdout=subprocess.DEVNULL,
        )
        time.sleep(0.05 + rng.random() * 0.15)
        child.kill()
        child.wait()
    expected = Expected()
    with mmsb.open(store, mode="r+") as bus:
        assert bus.epoch >= ledger[-1]
        compare(bus, bus.epoch, expected.at(bus.epoch))
        assert bus.verify().ok


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_readers_open_at_any_moment_while_the_host_commits(store: Path, durability: str) -> None:
    """Beside a live host `mode="r"` shows a whole epoch, raises nothing and never goes back."""
    child = host(store, Series(durability, True, False))
    assert child.stdout and child.stderr
    expected, last = Expected(), 0
    child.stdout.read(8)
    drain = threading.Thread(target=child.stdout.read)
    drain.start()
    try:
        for _ in range(40):
            with mmsb.open(store) as reader:
                epoch = reader.epoch
                assert epoch >= last
                last = epoch
                compare(reader, epoch, expected.at(epoch))
                time.sleep(0.005)
                assert reader.epoch == epoch, "a reader keeps the epoch at which it opened"
            with pytest.raises(mmsb.BusLockedError):
                mmsb.open(store, mode="r+")
    finally:
        child.kill()
        child.wait()
        drain.join()
        child.stdout.close()
        child.stderr.close()
    assert last > 0
    with mmsb.open(store, mode="r+") as bus:
        assert bus.epoch >= last and bus.verify().ok
