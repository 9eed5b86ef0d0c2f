"""Files of a store cut, replaced and removed under readers and hosts; `make sigbus` is main().

Each case is a process of its own that must live on: whatever it asks gives the right bytes or an
MMSBError. Exempt is a cut of the one file that a host maps, the segment that it writes at
durability `os` (DIAGNOSTICS.md, SIGBUS); that nothing else is mapped is looked up in every case.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import json
import mmap
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import fills
import mmsb
import proof
from crash_child import Expected, commit, compare
from mmsb import _core
from readers import forked, said

EPOCHS, MOST = 60, 120
SEGMENT = 16384
LIMIT_SECONDS = 1800
# A reader, and hosts of two durabilities.
WHO = ["r", "os", "disk"]
MOMENTS = ["before it opens", "with views open", "in the past", "at any moment"]
WAYS = ["cut", "halved", "replaced", "removed"]
ACTIVE = "the newest segment"
TOGETHER = ["the log", "everything"]
DISKS = ["tmpfs", "ext4"]
F_SEAL_SHRINK = 2


class Case(NamedTuple):
    """Who meets what, and when."""

    who: str
    target: str
    way: str
    moment: str

    def is_exempt(self) -> bool:
        """Whether it cuts what the host has mapped."""
        mapped = self.target == ACTIVE or self.target in TOGETHER
        return self.who == "os" and mapped and self.way in ("cut", "halved")


def states() -> list[dict[str, bytes]]:
    """What each epoch holds."""
    expected = Expected()
    return [expected.at(epoch) for epoch in range(MOST)]


def build(store: Path) -> None:
    """A store of several segments and two checkpoints."""
    core = _core.Core.create(str(store), "disk", segment_bytes=SEGMENT)
    with mmsb.Bus._of(core) as bus:
        for _ in range(EPOCHS):
            if commit(bus) in (EPOCHS // 3, EPOCHS - 5):
                bus.checkpoint()


def cases(store: Path) -> list[Case]:
    """All there are, for a store with these files."""
    files = [str(p.relative_to(store)) for p in sorted(store.rglob("*")) if p.is_file()]
    targets = [*files, *TOGETHER]
    readers = itertools.product(WHO[:1], targets, WAYS, MOMENTS)
    hosts = itertools.product(WHO[1:], [*targets, ACTIVE], WAYS, MOMENTS[1:])
    return [case for case in map(Case._make, [*readers, *hosts]) if not case.is_exempt()]


def harm(store: Path, target: str, way: str, seed: int) -> None:
    """Do to the files what the case says."""
    files = [store / target]
    if target == ACTIVE:
        files = [max((store / "log").iterdir())]
    elif target in TOGETHER:
        files = sorted((store / "log" if target == "the log" else store).rglob("*"))
    for file in filter(Path.is_file, files):
        with suppress(FileNotFoundError):  # an unfinished checkpoint, which its host has removed
            size = file.stat().st_size
            if way == "replaced":
                other = file.with_name("noise")
                other.write_bytes(random.Random(seed).randbytes(size))
                other.replace(file)
            elif way == "removed":
                file.unlink()
            else:
                os.truncate(file, size // 2 if way == "halved" else 0)


def mapped(store: Path) -> set[str]:
    """The files of the store that this process has mapped."""
    maps = Path("/proc/self/maps").read_text()
    return {line.split(maxsplit=5)[5] for line in maps.splitlines() if str(store) in line}


class Victim:
    """A process that has the store open while it is harmed."""

    def __init__(self, store: Path, case: Case, right: list[dict[str, bytes]]) -> None:
        self.store, self.case, self.right = store, case, right
        self.errors: Counter[str] = Counter()
        self.acknowledged = EPOCHS
        self.maps = False

    def use(self, what: Callable[[], object]) -> None:
        """Every failure is a typed one."""
        try:
            what()
        except mmsb.MMSBError as error:
            self.errors[error.code] += 1

    def is_mapped_as_it_should(self) -> None:
        """Only the host at durability `os` maps a file, and only the one that it writes."""
        paths = mapped(self.store)
        assert len(paths) <= (self.case.who == "os"), paths
        self.maps |= bool(paths)
        for path in paths:
            newest = Path(path.removesuffix(" (deleted)")).name
            there = {p.name for p in self.store.glob("log/*.mlog")} - {newest}
            assert all(name < newest for name in there), (path, there)

    def epoch(self, epoch: int) -> None:
        """One epoch, byte for byte."""
        compare(self.bus, epoch, self.right[epoch])

    def log(self) -> None:
        """Who made each epoch."""
        for epoch, entry in enumerate(self.bus.log(), 1):
            assert (entry.epoch, entry.meta) == (epoch, {"e": epoch})
            list(entry.deltas)

    def diff(self) -> None:
        """What changed between two epochs, old and new."""
        for change in self.bus.diff(3, 50):
            if change.change != "changed":
                continue
            for (start, stop), old, new in zip(change.ranges, change.old, change.new, strict=True):
                for epoch, seen in ((3, old), (50, new)):
                    assert seen.tobytes() == self.right[epoch][change.name or ""][start:stop]

    def commit(self) -> None:
        """A host goes on, or says that it cannot."""
        self.acknowledged = commit(self.bus)
        self.epoch(self.acknowledged)

    def everything(self) -> None:
        """Use the bus in every way."""
        for epoch in range(self.bus.epoch + 1):
            self.use(lambda epoch=epoch: self.epoch(epoch))  # type: ignore[misc]
        ways: list[Callable[[], object]] = [self.log, self.diff, self.bus.verify]
        if self.case.who != "r" and self.bus.epoch < MOST - 5:
            ways += [self.commit, self.bus.sync, self.bus.checkpoint, self.commit]
        for way in ways:
            self.use(way)
        self.is_mapped_as_it_should()

    def live(self, harm: Callable[[], None], is_harmed: Callable[[], bool]) -> None:
        """Open, be harmed at the moment of the case, go on, close and open again."""
        moment, host = self.case.moment, self.case.who != "r"
        if moment == MOMENTS[0]:
            harm()
        try:
            mode, durability = ("r+", self.case.who) if host else ("r", None)
            core = _core.Core.open(str(self.store), mode, durability, segment_bytes=SEGMENT)
        except mmsb.MMSBError as error:
            assert moment == MOMENTS[0], error
            self.errors[error.code] += 1
            return
        self.bus = mmsb.Bus._of(core)
        if host:
            self.commit()
        newest = self.bus.snapshot()
        views = [(array, self.right[newest.epoch][name]) for name, array in newest.items()]
        snaps = [newest]
        self.use(lambda: snaps.append(self.bus.snapshot(EPOCHS // 2)))
        for past in snaps[1:]:
            views += [(array, self.right[past.epoch][name]) for name, array in past.items()]
        log = iter(self.bus.log())
        self.use(lambda: next(log))
        if moment == MOMENTS[2]:
            for epoch in (7, 25, 45):
                self.epoch(epoch)
        if moment in MOMENTS[1:3]:
            harm()
        while not is_harmed():
            self.everything()
        self.everything()
        self.use(lambda: list(log))
        for snap in snaps:
            assert {n: a.tobytes() for n, a in snap.items()} == self.right[snap.epoch]
            snap.close()
        self.use(self.bus.close)
        assert all(array.tobytes() == data for array, data in views), "views keep their bytes"
        self.use(self.again)

    def again(self) -> None:
        """A new opening shows what was acknowledged, if it shows anything."""
        with mmsb.open(self.store) as self.bus:
            assert self.bus.epoch == self.acknowledged, "epochs are gone, and nothing says so"
            for epoch in range(self.bus.epoch + 1):
                self.use(lambda epoch=epoch: self.epoch(epoch))  # type: ignore[misc]


def ended_well(pid: int, pipe: int) -> bytes:
    """What a process said that ended by itself, and by no signal."""
    text = said(pipe)
    ended = os.waitpid(pid, 0)[1]
    assert ended == 0, f"ended by {ended}: {text.decode()}"
    return text


def survives(body: Callable[[], object]) -> Any:
    """Run this in a process of its own and give what it returned."""
    return json.loads(ended_well(*forked(lambda write: _tell(write, body()))))


def _tell(pipe: int, what: object) -> None:
    os.write(pipe, json.dumps(what).encode())


def meets(store: Path, case: Case, right: list[dict[str, bytes]], seed: int) -> tuple[int, bool]:
    """Let a process meet the case; how many errors it was given, and whether it mapped a file."""
    rng, by_itself = random.Random(seed), case.moment != MOMENTS[3]
    # Two bytes that both processes see: the victim has opened, the harm is done.
    flags = mmap.mmap(-1, 2)
    flags[1] = by_itself

    def do() -> None:
        harm(store, case.target, case.way, seed)

    def is_harmed() -> bool:
        flags[0] = 1
        return bool(flags[1])

    def body(pipe: int) -> None:
        victim = Victim(store, case, right)
        victim.live(do, is_harmed)
        _tell(pipe, [victim.errors.total(), victim.maps])

    pid, pipe = forked(body)
    if not by_itself:
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while not flags[0] and not os.waitid(os.P_PID, pid, look):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.1)
        do()
        flags[1] = 1
    try:
        errors, maps = json.loads(ended_well(pid, pipe))
    except AssertionError as error:
        raise AssertionError(f"{case}, seed {seed}") from error
    return errors, maps


def arena(store: Path, kind: str) -> int:
    """The memory of a bus can be shrunk by nobody; how many ways of asking were refused."""
    core = _core.Core.memory() if kind == "memory" else _core.Core.open(str(store), kind)
    bus = mmsb.Bus._of(core)
    if kind == "memory":
        bus.create_page("ring", data=range(1000))
    with bus, bus.snapshot() as snap:
        views = [(array, array.tobytes()) for array in snap.values()]
        memory = [fd for fd, to in proof.open_files().items() if to.startswith("/memfd:")]
        assert memory
        refused = 0
        for fd in memory:
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & F_SEAL_SHRINK
            size = os.fstat(fd).st_size
            for name, to in itertools.product(
                (fd, f"/proc/self/fd/{fd}"), (0, size // 2, size - 1)
            ):
                try:
                    os.truncate(name, to)
                    raise AssertionError("shrunk")
                except PermissionError:
                    refused += 1
            assert os.fstat(fd).st_size == size
        assert all(array.tobytes() == data for array, data in views)
    return refused


def full(kind: str, cycles: int, seed: int) -> Counter[str] | None:
    """A store whose disk is full, in a process of its own; None if there can be no such disk."""
    with tempfile.TemporaryDirectory(prefix="mmsb-harms-") as name:
        with fills.disk(kind, Path(name)) as on:
            if on is None:
                return None
            return Counter(survives(lambda: fills.run(on, cycles, random.Random(seed))))


def run(seed: int, sample: int | None = None, cycles: int = 20) -> Counter[str]:
    """Go through all cases, or a sample of them, and count what came of them."""
    rng, seen, right = random.Random(seed), Counter[str](), states()
    with tempfile.TemporaryDirectory(prefix="mmsb-harms-") as name:
        template, store = Path(name) / "template", Path(name) / "store"
        build(template)
        seen["files"] = len([p for p in template.rglob("*") if p.is_file()])
        for kind in ("memory", "r", "r+"):
            seen["shrinkings refused"] += survives(lambda kind=kind: arena(template, kind))  # type: ignore[misc]
        every = cases(template)
        for case in rng.sample(every, sample) if sample else every:
            shutil.copytree(template, store)
            errors, maps = meets(store, case, right, rng.randrange(1 << 32))
            shutil.rmtree(store)
            seen["cases"] += 1
            seen["noticed"] += bool(errors)
            seen["errors"] += errors
            seen["hosts that map"] += maps
    for kind in DISKS:
        filled = full(kind, cycles, rng.randrange(1 << 32))
        if filled is None:
            print(f"not tried: a full {kind}", flush=True)
        else:
            seen[f"fills of {kind}"] = filled["fills"]
    return seen


def main() -> None:
    """Go through all cases and note what came of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("seed", type=int)
    asked = parser.parse_args()
    signal.alarm(LIMIT_SECONDS)
    seen = run(asked.seed)
    disks = [f"{seen[f'fills of {kind}']} fills of {kind}" for kind in DISKS]
    proof.row(
        "15-sigbus",
        "15 SIGBUS",
        "each file of a store and all of them cut to nothing, cut to half, replaced by noise,"
        " removed, before opening, with views open, in the middle of the past, at a random moment;"
        " under readers and hosts at os and disk that read every epoch, verify, commit, checkpoint,"
        " close and open again; the shared memory asked to shrink; full disks. Exempt: cuts of the"
        " segment that a host at os has mapped; that it maps no other file is looked up each time",
        f"{seen['cases']} cases with {seen['files']} files ({seen['hosts that map']} hosts with a"
        f" mapping), {seen['shrinkings refused']} shrinkings refused, {', '.join(disks)}",
        asked.seed,
        f"0 signals, 0 wrong bytes; {seen['noticed']} cases noticed, {seen['errors']} typed errors",
        f"make sigbus SEED={asked.seed}",
    )


if __name__ == "__main__":
    main()
