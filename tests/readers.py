"""Readers that are killed or stopped at random moments beside a host that never waits for them.

`make readers` is main(). Most readers are forked children of the host that hold the views and the
snapshot which they inherited; others are processes that opened the store; some outlive their host.
What a host holds afterwards, and the files that it leaves, are compared with those of a host that
made the same commits alone.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import mmap
import os
import random
import select
import signal
import struct
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmsb
import proof
from crash_child import Expected, commit, compare, look
from mmsb import _core

# "bus" has no directory; the others are durabilities of one that has.
KINDS = ["bus", "memory", "os", "disk"]
# Of one host, so that its pages stay small and each kind has many lives.
READERS = 500
LIMIT_SECONDS = 900
MAX_MEMORY = 128 << 20
# Memory for small pieces is counted in slabs of 64 KiB, and older pieces may lie in more of them.
SLACK = 1 << 20
# What some twenty readers at once may show of pages of 50 kB.
MOST_OLD = 4 << 20
BLOCK = 16384
PR_SET_PDEATHSIG = 1
prctl = ctypes.CDLL(None).prctl


def forked(body: Callable[[int], None], outlives: bool = False) -> tuple[int, int]:
    """A child that is given a pipe to write to; its id, and the pipe's other end."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    try:
        os.close(read)
        if not outlives:  # a parent that dies leaves none behind, not even a stopped one
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        body(write)
        os._exit(0)
    except BaseException:
        os.write(write, b"!" + traceback.format_exc().encode())
    finally:
        os._exit(1)


def said(pipe: int) -> bytes:
    """All that a child wrote until it ended, unless it failed."""
    with os.fdopen(pipe, "rb") as file:
        text = file.read()
    _, failed, why = text.partition(b"!Traceback")
    assert not failed, why.decode()
    return text


@dataclass
class Victim:
    """A reader that will be killed, and perhaps stopped before, by any clock that rises."""

    pid: int
    pipe: int
    stops_at: float
    dies_at: float
    stopped_at: float | None = None

    def turn(self, now: float) -> bool:
        """Do what is due; whether the reader has been killed."""
        if now >= self.dies_at:
            if self.stopped_at is not None:
                state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
                assert state in "TZ", f"stopped, and now {state}"  # one that failed says why
            os.kill(self.pid, signal.SIGKILL)
            return True
        if self.stopped_at is None and now >= self.stops_at:
            os.kill(self.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            self.stopped_at = now
        return False

    def buried(self) -> bytes:
        """What the killed reader had said."""
        text = said(self.pipe)
        ended = os.waitpid(self.pid, 0)[1]
        assert ended == signal.SIGKILL, f"a reader ended by itself: {ended}"
        return text


def when(rng: random.Random, now: float, lives: float) -> tuple[float, float]:
    """The moments at which a reader is stopped, one in four is, and killed."""
    if rng.random() < 0.75:
        return float("inf"), now + rng.random() * lives
    stops = now + rng.random() * lives
    return stops, stops + rng.random() * lives


# --- readers that the host forks ----------------------------------------------------------------


def code_of(use: Callable[[], Any]) -> str:
    """The code of the error that a call raises."""
    try:
        use()
    except mmsb.MMSBError as error:
        return error.code
    return "none"


class Held:
    """A snapshot and views of one epoch, and the bytes that they must go on showing."""

    def __init__(self, bus: mmsb.Bus, state: dict[str, bytes]) -> None:
        self.bus, self.snap = bus, bus.snapshot()
        self.views = [(array, state[name]) for name, array in self.snap.items()]
        # Of a page whose blocks are apart a whole view is a copy; one of a block never is.
        for at in range(0, len(state["blob"]), BLOCK):
            part = slice(at, at + BLOCK)
            self.views.append((bus["blob"][part], state["blob"][part]))

    def check(self) -> None:
        """Every view has the bytes that it had."""
        wrong = [i for i, (array, state) in enumerate(self.views) if array.tobytes() != state]
        assert not wrong, f"views {wrong} of epoch {self.snap.epoch} changed"

    def check_child(self) -> None:
        """In a child nothing but the views can be used."""
        uses: list[Callable[[], Any]] = [
            lambda: self.bus.epoch,
            lambda: self.bus["ring"],
            lambda: self.snap["blob"],
            lambda: self.bus.snapshot(),
            lambda: self.bus.transaction().__enter__(),
        ]
        codes = [code_of(use) for use in uses]
        assert codes == ["forked-handle"] * len(uses), codes


class Host:
    """A bus, what it must show, and the readers that it has."""

    def __init__(self, kind: str, store: Path, rng: random.Random) -> None:
        times = itertools.count(10**18, 1000)
        if kind == "bus":
            core = _core.Core.memory(clock=times.__next__, max_memory=MAX_MEMORY)
        else:
            core = _core.Core.create(
                str(store), kind, clock=times.__next__, max_memory=MAX_MEMORY, seed=7
            )
        self.bus, self.rng = mmsb.Bus._of(core), rng
        self.seen: Counter[str] = Counter()
        self.expected = Expected()
        # The newest epoch, in memory that the children share; a word is stored at once.
        self.clock = memoryview(mmap.mmap(-1, 8)).cast("Q")
        self.readers: list[Victim] = []
        self.kept: list[Held] = []

    def commit(self, times: int) -> None:
        """Make the next epochs, whatever the readers do."""
        for _ in range(times):
            epoch = commit(self.bus)
            self.expected.advance()
            assert epoch == self.expected.epoch
            self.clock[0] = epoch
            self.seen["commits beside stopped"] += any(
                r.stopped_at is not None for r in self.readers
            )
            for reader in [r for r in self.readers if r.turn(epoch)]:
                self.readers.remove(reader)
                self.bury(reader)

    def bury(self, reader: Victim) -> None:
        """Count what a killed reader had seen."""
        ahead = [n for (n,) in struct.iter_unpack("<Q", reader.buried())]
        self.seen["forked"] += 1
        self.seen["stopped"] += reader.stopped_at is not None
        self.seen["looked after commits"] += sum(n > 0 for n in ahead)
        self.seen["looks"] += len(ahead)

    def fork(self) -> None:
        """One more reader, which the host holds nothing for but what it must."""
        state, born = self.expected.state(), self.bus.epoch
        newest = Held(self.bus, state)
        held = [newest, *self.kept]

        def read(pipe: int) -> None:
            last = -1
            while True:
                now = self.clock[0]
                for one in held:
                    one.check()
                newest.check_child()
                if now != last:
                    os.write(pipe, struct.pack("<Q", now - born))
                last = now
                time.sleep(0.001)

        pid, pipe = forked(read)
        self.readers.append(Victim(pid, pipe, *when(self.rng, born, 30)))
        if self.rng.random() < 0.2:
            self.kept.append(newest)
        else:
            newest.snap.close()
        if len(self.kept) > 3:
            self.drop(self.kept.pop(0))

    def drop(self, held: Held) -> None:
        """End a hold of the host's own."""
        held.check()
        held.snap.close()

    def reads(self, readers: int, stop: int) -> None:
        """Fork so many readers, and commit on until the pipe is closed."""
        files = len(proof.open_files())
        for _ in range(readers):
            self.fork()
            # Two pipes are here for each that lives; those that are gone hold nothing for long.
            assert len(proof.open_files()) <= files + 3 * len(self.readers) + 16
            assert self.bus.stats()["old_version_bytes"] < MOST_OLD
            self.commit(self.rng.randrange(8))
            if self.rng.random() < 0.05:
                compare(self.bus, self.bus.epoch, self.expected.state())
        while self.readers or not select.select([stop], [], [], 0.001)[0]:
            self.commit(1)
        while self.kept:
            self.drop(self.kept.pop())

    def base(self) -> dict[str, int]:
        """What the bus holds when all that was replaced had its chance to go."""
        gc.collect()
        size = MAX_MEMORY - self.bus.stats()["page_bytes"] - BLOCK
        try:
            self.bus.create_page(size=size)
            raise AssertionError("a page that does not fit makes the bus look for what is free")
        except mmsb.OutOfSpaceError:
            return self.bus.stats()


def life(
    kind: str, store: Path, readers: int, commits: int, rng: random.Random, stop: int, pipe: int
) -> None:
    """A host from creation to close; what it held at its end goes into the pipe."""
    host = Host(kind, store, rng)
    os.write(pipe, b" ")
    host.commit(60)
    gc.collect()
    before = proof.held()
    if readers:
        host.reads(readers, stop)
        commits = host.bus.epoch
    host.commit(commits - host.bus.epoch + 100)
    assert proof.held() == before, sorted(proof.held() ^ before)
    stats = host.base()
    compare(host.bus, host.bus.epoch, host.expected.state())
    report = host.bus.verify()
    assert report.ok, report.problems
    host.bus.close()
    os.write(pipe, json.dumps([commits, stats, host.seen]).encode())


# --- readers that open the store, and readers that outlive their host ----------------------------


def openers(store: Path, count: int, rng: random.Random) -> Counter[str]:
    """So many processes that open the store and look until they are killed."""
    seen: Counter[str] = Counter()
    alive: list[Victim] = []
    while count or alive:
        now = time.monotonic()
        if count and len(alive) < 4:
            chance = random.Random(rng.random())

            def read(pipe: int, rng: random.Random = chance) -> None:
                expected = Expected()
                while True:
                    expected = look(store, expected, rng)
                    os.write(pipe, b".")

            pid, pipe = forked(read)
            alive.append(Victim(pid, pipe, *when(rng, now, 0.2)))
            count -= 1
        for reader in [r for r in alive if r.turn(now)]:
            alive.remove(reader)
            seen["openings"] += len(reader.buried())
            seen["opened"] += 1
            seen["stopped"] += reader.stopped_at is not None
        time.sleep(0.002)
    return seen


def orphans(store: Path, kind: str, count: int, rng: random.Random) -> Counter[str]:
    """Hosts that are killed while a forked reader lives on: the next host opens at once."""
    seen: Counter[str] = Counter()
    with mmsb.Bus._of(_core.Core.create(str(store), kind)) as bus:
        commit(bus)
    for _ in range(count):
        stdin, go = os.pipe()

        def host(pipe: int, stdin: int = stdin, go: int = go) -> None:
            bus = mmsb.open(store, mode="r+")
            held = Held(bus, Expected().at(bus.epoch))

            def wait(_: int) -> None:
                os.close(go)
                # Only now: between fork and its first step a child holds all that its host held.
                os.write(pipe, struct.pack("<Q", os.getpid()))
                os.read(stdin, 1)  # until whoever tests this ends, if it does not kill us before
                held.check()

            forked(wait, outlives=True)
            while True:
                commit(bus)

        host_pid, pipe = forked(host)
        orphan = os.pidfd_open(struct.unpack("<Q", os.read(pipe, 8))[0])
        try:
            time.sleep(rng.random() * 0.02)
            os.kill(host_pid, signal.SIGKILL)
            os.waitpid(host_pid, 0)
            if rng.random() < 0.5:
                signal.pidfd_send_signal(orphan, signal.SIGSTOP)
            with mmsb.open(store, mode="r+") as bus:
                expected = Expected()
                compare(bus, bus.epoch, expected.at(bus.epoch))
                compare(bus, commit(bus), expected.at(bus.epoch))
                assert not select.select([orphan], [], [], 0)[0], "the reader lives"
                signal.pidfd_send_signal(orphan, signal.SIGKILL)
                select.select([orphan], [], [])
                compare(bus, commit(bus), expected.at(bus.epoch))
                assert bus.verify().ok
        finally:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(orphan, signal.SIGKILL)
            for fd in (go, stdin, orphan):
                os.close(fd)
        assert not said(pipe)
        seen["outlived"] += 1
    return seen


# --- all of them --------------------------------------------------------------------------------


def content(store: Path) -> dict[str, bytes]:
    """The files of a store but for the lock, which names the process."""
    files = (p for p in store.rglob("*") if p.is_file() and p.name != "lock")
    return {str(p.relative_to(store)): p.read_bytes() for p in files}


def hosted(
    kind: str, store: Path, readers: int, opened: int, commits: int, rng: random.Random
) -> tuple[int, dict[str, int], Counter[str]]:
    """A host with readers, or without any and so many commits."""
    stop, go = os.pipe()
    chance = random.Random(rng.random())

    def body(pipe: int) -> None:
        os.close(go)
        life(kind, store, readers, commits, chance, stop, pipe)

    pid, pipe = forked(body)
    os.close(stop)
    try:
        # While a store is being made, an opening may take it for a damaged one.
        begun = os.read(pipe, 1)
        seen = openers(store, opened if begun == b" " else 0, rng)
        os.close(go)
        text = begun + said(pipe)
        assert begun == b" ", text.decode()
    finally:
        os.kill(pid, signal.SIGKILL)  # it has ended if all went well
        os.waitpid(pid, 0)
    commits, stats, counted = json.loads(text)
    return commits, stats, seen + Counter(counted)


def too_long(*_: object) -> None:
    """Nothing here may take so long; raised, so that what runs is ended."""
    raise TimeoutError(f"more than {LIMIT_SECONDS} s")


def run(kind: str, folder: Path, readers: int, rng: random.Random) -> Counter[str]:
    """One host with so many readers of all sorts, and one without, which must end alike."""
    many, alone = folder / "many", folder / "alone"
    others = 0 if kind == "bus" else readers // 8
    lone = min(others // 2, 5)
    forks = readers - others
    commits, stats, seen = hosted(kind, many, forks, others - lone, 0, rng)
    _, base, _ = hosted(kind, alone, 0, 0, commits, rng)
    memory, wanted = stats.pop("memory_bytes"), base.pop("memory_bytes")
    assert stats == base, (stats, base)
    assert memory <= wanted + SLACK, f"{memory} bytes, without readers {wanted}"
    if kind != "bus":
        assert content(many) == content(alone), "the files are those of a host without readers"
        seen += orphans(folder / "orphans", kind, lone, rng)
    seen["commits"] += commits
    return seen


def main() -> None:
    """Kill so many readers and note what came of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("readers", type=int)
    parser.add_argument("seed", type=int)
    asked = parser.parse_args()
    seen: Counter[str] = Counter()
    left = asked.readers
    signal.signal(signal.SIGALRM, too_long)
    for i in itertools.count():
        if not left:
            break
        signal.alarm(LIMIT_SECONDS)
        kind, readers = KINDS[i % len(KINDS)], min(left, READERS, -(-asked.readers // len(KINDS)))
        with tempfile.TemporaryDirectory(prefix="mmsb-readers-") as folder:
            one = run(kind, Path(folder), readers, random.Random(f"{asked.seed} {i}"))
        print(f"{kind}: {dict(one)}", flush=True)
        seen += one
        left -= readers
    proof.row(
        "14-readers",
        "14 killed and stopped readers",
        "readers killed at random moments, one in four stopped before, beside hosts in memory and"
        " at durability memory, os, disk that go on: forked children with inherited views and"
        " snapshots, processes that open the store, children whose host is killed first; bytes"
        " compared in all; then memory, descriptors and threads of each host are those before, and"
        " its files are byte for byte those of a host without readers. Not yet: readers attached"
        " through descriptors, whose pins are taken back by pidfd",
        f"{asked.readers} readers: {seen['forked']} forked, {seen['opened']} that opened,"
        f" {seen['outlived']} that outlived their host; {seen['stopped']} stopped;"
        f" {seen['commits']} commits, {seen['commits beside stopped']} beside a stopped one;"
        f" {seen['looks']} looks of forked ones, {seen['looked after commits']} of which after the"
        f" host's next commits; {seen['openings']} openings",
        asked.seed,
        "0 failures",
        f"make readers READERS={asked.readers} SEED={asked.seed}",
    )


if __name__ == "__main__":
    main()
