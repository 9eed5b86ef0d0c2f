"""Hosts under SIGKILL at random moments on the real file system; `make kills-python` is main().

The ledger of acknowledged epochs is kept here, on the other side of a pipe, so that it survives the
host. `os` and `disk` promise every acknowledged epoch; `memory` promises a whole prefix.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mmsb
import proof
from crash_child import Expected, commit, compare

CHILD = Path(__file__).with_name("crash_child.py")


@dataclass(frozen=True)
class Series:
    """What the hosts of one store have in common."""

    durability: str
    checkpoints: bool
    readers: bool

    def __str__(self) -> str:
        checkpoints = "-checkpoints" if self.checkpoints else ""
        return self.durability + checkpoints + ("-readers" if self.readers else "")


SERIES = [
    Series(*s) for s in itertools.product(["memory", "os", "disk"], [False, True], [False, True])
]


def host(store: Path, series: Series, segment_bytes: int = 0) -> subprocess.Popen[bytes]:
    """A process that commits until it is killed."""
    checkpoints = "yes" if series.checkpoints else "no"
    return subprocess.Popen(
        [sys.executable, CHILD, "host", store, series.durability, checkpoints, str(segment_bytes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ledger_of_killed(store: Path, series: Series, rng: random.Random) -> list[int]:
    """Let a host commit for a random while, kill it, and return the epochs it acknowledged."""
    child = host(store, series, rng.choice([0, 1 << 16]))
    with child:
        assert child.stdout and child.stderr
        if rng.random() < 0.15:  # at any moment of its life, so also while it recovers or creates
            ledger = b""
            time.sleep(rng.random() * 0.3)
        else:
            ledger = child.stdout.read(8)  # the first one: it has opened the store and works
            time.sleep(rng.random() ** 2 * 0.12)
        child.kill()
        ledger += child.stdout.read()
        said = child.stderr.read().decode()
    assert child.returncode == -9, said
    epochs = [e for (e,) in struct.iter_unpack("<Q", ledger[: len(ledger) // 8 * 8])]
    assert not epochs or epochs == list(range(epochs[0], epochs[-1] + 1))
    return epochs


def killed(work: Callable[[], None]) -> None:
    """Let a child process do the work and die of SIGKILL."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.kill(os.getpid(), signal.SIGKILL)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


@contextmanager
def readers(store: Path, count: int, seen: Counter[str]) -> Iterator[None]:
    """Processes that look at the store all the while, and fail if they see anything wrong."""
    command = [sys.executable, CHILD, "reader", store]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(count)
    ]
    try:
        yield
        for process in started:
            said, error = process.communicate()
            assert process.returncode == 0, error.decode()
            seen["looks of readers"] += int(said)
    finally:
        for process in started:
            with process:
                process.kill()


def look(
    bus: mmsb.Bus, ledger: list[int], before: int, expected: Expected, seen: Counter[str]
) -> None:
    """Every epoch since the last look has its bytes; `expected` goes to the newest."""
    report = bus.verify()
    assert report.ok, report.problems
    found = bus.epoch
    acknowledged = set(ledger)
    for epoch in range(before + 1, found + 1):
        expected.advance()
        if epoch in acknowledged or epoch == found:
            compare(bus, epoch, expected.state())
            seen["epochs compared"] += 1
    commits = [(c.epoch, c.source, c.meta) for c in bus.log(since=before + 1)]
    if found > before:
        assert commits == [(e, "child", {"e": e}) for e in range(before + 1, found + 1)]


def run(series: Series, store: Path, rounds: int, rng: random.Random) -> Counter[str]:
    """Kill so many hosts of one store, one after the other, and count what was seen."""
    seen: Counter[str] = Counter()
    expected, before = Expected(), 0
    with readers(store, 2 * series.readers, seen):
        for _ in range(rounds):
            ledger = ledger_of_killed(store, series, rng)
            seen["kills"] += 1
            seen["acknowledged"] += len(ledger)
            promised = series.durability != "memory" and ledger
            with mmsb.open(store, mode="r+" if before or ledger else "a") as bus:
                assert bus.epoch >= (ledger[-1] if promised else before), "acknowledged and lost"
                if bus.recovery is not None:
                    assert bus.recovery.epoch == bus.epoch
                    seen["torn tails"] += bus.recovery.torn_bytes > 0
                    seen["from a checkpoint"] += bus.recovery.checkpoint_epoch is not None
                look(bus, ledger, before, expected, seen)
                for _ in range(3):  # life goes on
                    before = commit(bus)
                    compare(bus, before, expected.at(before))
            with mmsb.open(store, mode="r+") as bus:
                assert bus.epoch == before
                compare(bus, before, expected.state())
    with mmsb.open(store, mode="r+") as bus:
        bus.checkpoint()
    remains = sorted(p.name for p in store.rglob(".tmp*"))
    assert not remains, f"a checkpoint leaves what killed ones began: {remains}"
    with mmsb.open(store) as bus:
        whole = Expected()
        for epoch in range(before + 1):
            compare(bus, epoch, whole.at(epoch))
    seen["epochs"] += before
    return seen


def main() -> None:
    """Spread so many kills over all series and note what came of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("kills", type=int, help=f"at least {len(SERIES)}")
    parser.add_argument("seed", type=int)
    asked = parser.parse_args()
    if asked.kills < len(SERIES):
        parser.error(f"fewer kills than the {len(SERIES)} series")
    all_seen: Counter[str] = Counter()
    for i, series in enumerate(SERIES):
        rounds = asked.kills // len(SERIES) + (i < asked.kills % len(SERIES))
        with tempfile.TemporaryDirectory(prefix="mmsb-kills-") as folder:
            seen = run(series, Path(folder) / "s", rounds, random.Random(f"{asked.seed} {series}"))
        print(f"{series}: {dict(seen)}", flush=True)
        all_seen += seen
    proof.row(
        "13-kills-python",
        "13 SIGKILL, Python hosts",
        "kill at a random moment; durability memory, os, disk x checkpoints x readers; then verify,"
        " every acknowledged epoch compared, 3 commits, close, reopen",
        f"{all_seen['kills']} kills, {all_seen['acknowledged']} acknowledged epochs,"
        f" {all_seen['torn tails']} torn tails, {all_seen['from a checkpoint']} openings from a"
        f" checkpoint, {all_seen['looks of readers']} openings by readers",
        asked.seed,
        "0 failures",
        f"make kills-python KILLS={asked.kills} SEED={asked.seed}",
    )


if __name__ == "__main__":
    main()
