"""A hundred times: a child that commits is killed with SIGKILL, and no acknowledged epoch is lost.

The ledger of acknowledged epochs is kept here, on the other side of a pipe, so that it survives the
child. `os` and `disk` promise every acknowledged epoch; `memory` promises a whole prefix.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import mmsb
import pytest
from crash_child import Expected, step

CHILD = Path(__file__).with_name("crash_child.py")
ROUNDS = 25


def killed_child(store: Path, durability: str, rng: random.Random) -> int:
    """Let a child commit for a random while, kill it, and return the last epoch it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(store), durability],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout and child.stderr
    ledger = child.stdout.read(8)  # the first one: it has opened the store and works
    time.sleep(rng.random() ** 2 * 0.12)
    child.kill()
    ledger += child.stdout.read()
    said = child.stderr.read().decode()
    child.stdout.close()
    child.stderr.close()
    assert child.wait() == -9, said
    epochs = [e for (e,) in struct.iter_unpack("<Q", ledger[: len(ledger) // 8 * 8])]
    assert epochs == list(range(epochs[0], epochs[0] + len(epochs)))
    return epochs[-1]


def compare(bus: mmsb.Bus, epoch: int, state: dict[str, bytes]) -> None:
    with bus.snapshot(epoch) as snap:
        assert {name: a.tobytes() for name, a in snap.items()} == state, epoch


@pytest.mark.parametrize("series", [("os", 1), ("os", 2), ("disk", 3), ("memory", 4)], ids=str)
def test_nothing_acknowledged_is_lost(store: Path, series: tuple[str, int]) -> None:
    durability, seed = series
    rng = random.Random(seed)
    expected = Expected()
    known = {0: expected.state()}  # of some epochs of each round; all of them would be gigabytes
    found, torn, checkpoints = 0, 0, set()
    for _ in range(ROUNDS):
        before = found
        acknowledged = killed_child(store, durability, rng)
        with mmsb.open(store, mode="r+") as bus:
            found = bus.epoch
            torn += bus.recovery.torn_bytes > 0
            checkpoints.add(bus.recovery.checkpoint_epoch)
            assert bus.recovery.epoch == found
            # What an opening has shown is there at the next one, whatever the durability.
            assert found >= (before if durability == "memory" else acknowledged)
            between = rng.randint(before, found)
            while expected.epoch < found:
                expected.advance()
                if expected.epoch in (between, found):
                    known[expected.epoch] = expected.state()
            for epoch in (found, between, rng.choice(sorted(known))):
                compare(bus, epoch, known[epoch])
            for commit in bus.log(since=before + 1):
                assert (commit.source, commit.meta) == ("child", {"e": commit.epoch})
            # Life after recovery: the parent commits as well, in the same way.
            with bus.transaction(source="child", meta={"e": found + 1}) as tx:
                step(tx, found + 1)
            found = tx.epoch
        expected.advance()
        known[found] = expected.state()
    print(f"{ROUNDS} kills, {found} epochs, {torn} torn tails, checkpoints {checkpoints}")
    with mmsb.open(store) as bus:
        assert bus.verify().ok
        assert [c.epoch for c in bus.log()] == list(range(1, found + 1))
        for epoch, state in known.items():
            compare(bus, epoch, state)
    assert len(checkpoints) > 1, "some kills came after a checkpoint"


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_a_kill_during_recovery_loses_nothing(store: Path, durability: str) -> None:
    rng = random.Random(9)
    acknowledged = killed_child(store, durability, rng)
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
        assert bus.epoch >= acknowledged
        while expected.epoch < bus.epoch:
            expected.advance()
        with bus.snapshot() as snap:
            assert {name: a.tobytes() for name, a in snap.items()} == expected.state()
        assert bus.verify().ok


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_readers_open_at_any_moment_while_the_host_commits(store: Path, durability: str) -> None:
    """Beside a live host `mode="r"` shows a whole epoch, raises nothing and never goes back."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(store), durability], stdout=subprocess.PIPE
    )
    assert child.stdout
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
                while expected.epoch < epoch:
                    expected.advance()
                if expected.epoch == epoch:
                    compare(reader, epoch, expected.state())
                time.sleep(0.005)
                assert reader.epoch == epoch, "a reader keeps the epoch at which it opened"
            with pytest.raises(mmsb.BusLockedError):
                mmsb.open(store, mode="r+")
    finally:
        child.kill()
        child.wait()
        drain.join()
        child.stdout.close()
    assert last > 0
    with mmsb.open(store, mode="r+") as bus:
        assert bus.epoch >= last and bus.verify().ok
