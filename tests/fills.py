"""Full disks, for real; `make enospc` is main().

A store lives on a small file system of its own that is filled and freed again and again, or under
the process's limit on the size of a file. What its epochs must hold follows from their number
(`crash_child.Expected`), so an acknowledged commit that is lost or changed is noticed.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mmsb
import proof
from crash_child import Expected, commit, compare
from kills import killed
from mmsb import _core

MIB = 1 << 20
SMALLEST_SEGMENT = 1 << 16


class Mounted:
    """A file system of 48 MiB, filled by a file."""

    # A new arena is a file in memory, which a limit on file sizes forbids, but not a full disk.
    opens_while_full = True

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self, leave: int) -> None:
        """Take all space but about so many bytes."""
        with open(self.path / "filler", "wb", buffering=0) as file:
            bulk = self.room() - leave - MIB
            if bulk > 0:
                os.posix_fallocate(file.fileno(), 0, bulk)
                file.seek(bulk)
            while (room := self.room() - leave) > 0:
                try:
                    file.write(bytes(min(room, 1 << 16)))
                except OSError:
                    return  # the last blocks are the file system's own

    def room(self) -> int:
        """Bytes that are free."""
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def free(self) -> None:
        """Give the space back."""
        (self.path / "filler").unlink(missing_ok=True)


class Limited:
    """A limit on the size of this process's files stands for a full disk."""

    opens_while_full = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self, leave: int) -> None:
        """Let no file grow beyond so many bytes, which must be less than a segment takes."""
        limit = min(leave, SMALLEST_SEGMENT * 3 // 4)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, self.before[1]))

    def free(self) -> None:
        """Take the limit away."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


Disk = Mounted | Limited
DISKS = ["tmpfs", "ext4", "limit"]


def mounted(path: Path, *options: str) -> bool:
    """Mount a file system at a new directory, or say why that cannot be."""
    path.mkdir()
    done = subprocess.run(["mount", *options, str(path)], capture_output=True, text=True)
    if done.returncode:
        print(f"no mount here: {done.stderr.strip()}")
    return done.returncode == 0


@contextmanager
def disk(kind: str, folder: Path) -> Iterator[Disk | None]:
    """A disk that can be filled, or None if there can be none of this kind here."""
    path, image = folder / "disk", folder / "image"
    if kind == "limit":
        path.mkdir()
        limited = Limited(path)
        try:
            yield limited
        finally:
            limited.free()
        return
    options = ["-t", "tmpfs", "-o", "size=48m", "none"]
    if kind == "ext4":
        with open(image, "wb") as file:
            file.truncate(48 * MIB)
        mkfs = shutil.which("mkfs.ext4")
        if not mkfs or subprocess.run([mkfs, "-q", "-m", "0", image]).returncode:
            yield None
            return
        options = ["-o", "loop", str(image)]
    if not mounted(path, *options):
        yield None
        return
    try:
        yield Mounted(path)
    finally:
        # Detached where a failed test keeps a file open.
        subprocess.run(["umount", "--lazy", path], check=True)


class Run:
    """One store and what is known of it."""

    def __init__(self, on: Disk, rng: random.Random, seen: Counter[str]) -> None:
        self.disk, self.rng, self.seen = on, rng, seen
        self.store = on.path / "s"
        self.expected = Expected()
        self.acknowledged = 0
        self.bus = self.open()

    def open(self, store: Path | None = None) -> mmsb.Bus:
        durability = self.rng.choice(["os", "disk"])
        size = SMALLEST_SEGMENT * self.rng.choice([1, 4])
        core = _core.Core.open(str(store or self.store), "a", durability, segment_bytes=size)
        return mmsb.Bus._of(core)

    def fill(self, most: int) -> None:
        """Leave so many bytes at most, and often none."""
        self.disk.fill(self.rng.choice([0, 4096, self.rng.randrange(most)]))

    def commit(self) -> None:
        self.acknowledged = commit(self.bus)

    def reopen(self, unknown: int = 0) -> None:
        """Space is free again: the store opens with all that was acknowledged."""
        self.bus = self.open()
        assert self.acknowledged <= self.bus.epoch <= self.acknowledged + unknown
        self.acknowledged = self.bus.epoch

    def close(self) -> None:
        """A close may meet the full disk too; the store is as good as after a kill then."""
        try:
            self.bus.close()
        except mmsb.StorageError:
            self.seen["closes refused"] += 1

    def look(self) -> None:
        """Reads go on while the disk is full, of the newest epoch and of the past."""
        if not self.bus.closed:
            assert self.bus.epoch == self.acknowledged
            compare(self.bus, self.acknowledged, Expected().at(self.acknowledged))
        if self.disk.opens_while_full and self.acknowledged:
            past = self.rng.randint(0, self.acknowledged)
            if not self.bus.closed:
                compare(self.bus, past, Expected().at(past))
            with mmsb.open(self.store) as reader:
                assert reader.epoch <= self.acknowledged + 1
                compare(reader, reader.epoch, Expected().at(reader.epoch))

    def append(self) -> None:
        """Commits until the disk is full: in a segment or where the next one begins."""
        self.fill(1 << 17)
        ended = False
        try:
            while True:
                self.commit()
        except mmsb.CommitOutcomeUnknownError:
            ended = True
        except mmsb.OutOfSpaceError as error:
            assert error.errno is not None, error
        self.seen["writers ended" if ended else "commits refused"] += 1
        self.look()
        closed = self.rng.random() < 0.3
        if closed:
            self.close()
            self.look()
        self.disk.free()
        if not ended and not closed:
            self.commit()  # without a restart
            return
        if not closed:
            try:
                self.commit()
                raise AssertionError("a commit after the writer has ended")
            except mmsb.StorageError as error:
                assert "writer has ended" in str(error), error
            self.close()
        self.reopen(unknown=ended)

    def checkpoint(self) -> None:
        """A checkpoint that the disk may have no room for."""
        self.commit()
        self.fill(1 << 17)
        refused = False
        try:
            self.bus.checkpoint()
        except mmsb.StorageError:
            refused = True
            self.seen["checkpoints refused"] += 1
        self.look()
        self.disk.free()
        if refused:
            try:
                self.commit()
            except mmsb.StorageError as error:
                assert "writer has ended" in str(error), error
                self.close()
                self.reopen()
            assert self.bus.checkpoint() == self.acknowledged
        remains = sorted(p.name for p in (self.store / "checkpoints").glob(".tmp-*"))
        assert not remains, remains

    def recover(self) -> None:
        """A host is killed, and the disk is full when the store is opened again."""
        self.bus.close()
        count = self.rng.randrange(40)

        def work() -> None:
            bus = self.open()
            for _ in range(count):
                commit(bus)

        killed(work)
        self.acknowledged += count
        self.fill(1 << 13)
        try:
            self.bus = self.open()
        except mmsb.StorageError:
            self.seen["openings refused"] += 1
        self.look()
        self.close()
        self.disk.free()
        self.reopen()

    def create(self) -> None:
        """A new store on a disk that may be too full for it."""
        self.fill(1 << 17)
        new = self.disk.path / "new"
        try:
            self.open(new).close()
        except mmsb.StorageError:
            self.seen["stores refused"] += 1
        self.disk.free()
        with self.open(new) as bus:
            commit(bus)
        shutil.rmtree(new)

    def check(self) -> None:
        """All epochs since the last check hold what they must."""
        for epoch in range(self.expected.epoch + 1, self.acknowledged + 1):
            compare(self.bus, epoch, self.expected.at(epoch))
            self.seen["epochs compared"] += 1


def run(on: Disk, cycles: int, rng: random.Random) -> Counter[str]:
    """Fill the disk and free it so many times, each time while something else is going on."""
    seen: Counter[str] = Counter()
    work = Run(on, rng, seen)
    for i in range(cycles):
        cycle = [work.append, work.append, work.checkpoint, work.recover, work.create][i % 5]
        seen["fills"] += 1
        cycle()
        work.check()
    report = work.bus.verify()
    assert report.ok, report.problems
    work.bus.close()
    with mmsb.open(work.store) as bus:
        assert bus.epoch == work.acknowledged
        whole = Expected()
        for epoch in range(bus.epoch + 1):
            compare(bus, epoch, whole.at(epoch))
    return seen


def main() -> None:
    """Fill each kind of disk so many times and note what came of it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("fills", type=int)
    parser.add_argument("seed", type=int)
    asked = parser.parse_args()
    all_seen: Counter[str] = Counter()
    used = []
    for kind in DISKS:
        with tempfile.TemporaryDirectory(prefix="mmsb-fills-") as name:
            with disk(kind, Path(name)) as on:
                if on is None:
                    print(f"not tried: {kind}", flush=True)
                    continue
                seen = run(on, asked.fills, random.Random(f"{asked.seed} {kind}"))
        print(f"{kind}: {dict(seen)}", flush=True)
        used.append(kind)
        all_seen += seen
    proof.row(
        "11-enospc",
        "11 full disk",
        f"filled and freed while appending, rolling, checkpointing, recovering, creating, closing;"
        f" {', '.join(used)}",
        ", ".join(f"{count} {what}" for what, count in sorted(all_seen.items())),
        asked.seed,
        "0 failures",
        f"make enospc FILLS={asked.fills} SEED={asked.seed}",
    )


if __name__ == "__main__":
    main()
