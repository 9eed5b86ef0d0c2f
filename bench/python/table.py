"""The rows of the table, their goals, and how the table is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from race import Figure


@dataclass(frozen=True)
class Goal:
    """At most `limit`, in the row's unit or as a ratio to the contestant `of`."""

    limit: float
    of: str | None = None

    def text(self, unit: str) -> str:
        return f"≤ {self.limit:g} {unit}" if self.of is None else f"≤ {self.limit:g} of {self.of}"

    def met(self, ours: float, others: dict[str, float]) -> bool:
        return ours <= self.limit * (1 if self.of is None else others[self.of])


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    goals: tuple[Goal, ...] = field(default=())
    unit: str = "us"


NODE = (Goal(1.3, "plain loop"), Goal(1.3, "the same + crc32 + write"))
ROWS = (
    Row("commit-4k", "64-byte commit, survives kill -9, Rust, 4 KiB pages", (Goal(0.3),)),
    Row("commit-1k", "the same, 1 KiB pages", (Goal(0.2),)),
    Row(
        "commit-python",
        "the same from Python, `page[where] = x`, 4 KiB pages",
        (Goal(0.7, "crc32 + os.write"), Goal(0.2, "py-lmdb")),
    ),
    Row("batch", "1,000 changes a commit, Rust, one change", (Goal(0.08),)),
    Row("batch-python", "the same from Python, `write_many`", (Goal(0.12),)),
    Row("durable-1", "durable commit, one thread", (Goal(1.04, "append + fdatasync"),)),
    Row(
        "durable-8",
        "durable commit, eight threads, wall time over commits",
        (Goal(1.25, "leader group"),),
    ),
    Row(
        "random",
        "commit to a random one of {pages} pages of 1 KiB, Rust",
        (Goal(2, "copy of a random page"), Goal(0.4, "LMDB")),
    ),
    Row("view-4k", "zero-copy view of 4 KiB, Python", (Goal(0.15),)),
    Row("view-84m", "zero-copy view of 84 MiB, Python", (Goal(0.15),)),
    Row("snapshot", "snapshot and one read of 64 bytes, Rust", (Goal(0.06),)),
    Row("fork", "fork of a bus with a page of {large}", (Goal(10),)),
    Row(
        "checkpoint",
        "checkpoint of {large}, durable",
        (Goal(1, "write + fsync"),),
    ),
    Row("checkpoint-little", "the same when 1 % has changed since the last one"),
    Row(
        "commit-beside",
        "the slowest of a hundred commits beside such a checkpoint, Python",
        (Goal(2, "without a checkpoint"),),
    ),
    Row("open-first", "first element after opening {large} for reading, Python", (Goal(500),)),
    Row("recovery", "recovery from {large} of log without a checkpoint"),
    Row("old-memory", "open an old epoch in memory and read a page, Python", (Goal(5),)),
    Row("old-few", "the same from disk, {few} commits behind", (Goal(500),)),
    Row("old-many", "the same, {many} commits behind", (Goal(500),)),
    Row("version", "a new version of 4 KiB, Python", (Goal(1),)),
    Row("disk", "disk used by {many} commits of 64 bytes", unit="MiB"),
    Row("large-write", "8 bytes into a page of {large} with a held view", (Goal(5),)),
    Row("large-bytes", "memory that such a write takes", (Goal(64),), unit="KiB"),
    Row("digest", "digest after one change in {large}", (Goal(20),)),
    Row(
        "memory",
        "resident memory of {pages} pages of 1 KiB, without the log's page cache",
        (Goal(1.1, "the bytes of the pages"),),
        unit="MiB",
    ),
    Row("log-bytes", "bytes written by a 64-byte commit", (Goal(112),), unit="B"),
    Row("wave-chain", "derived page of 8 bytes in a chain of {nodes}, Rust", (Goal(0.06),)),
    Row("wave-broad", "the same, {nodes} pages of one source", (Goal(0.06),)),
    Row("wave-grid", "the same, two inputs a page, ten levels", (Goal(0.06),)),
    Row("wave-cut", "the same, computed and as before", (Goal(0.04),)),
    Row("wave-same", "commit that writes what is there, {nodes} pages behind it", (Goal(0.04),)),
    Row(
        "wave-threads",
        "16 derived pages of 512 KiB, two threads",
        (Goal(1.05, "MMSB, one thread"),),
    ),
    Row("wave-little", "the same, 8 KiB", (Goal(1.05, "MMSB, one thread"),)),
    Row(
        "wave-python",
        "derived page of 8 KiB in a chain of 300, Python function",
        NODE,
    ),
    Row("wave-python-fan", "the same, 300 pages of one source", NODE),
    Row("wave-python-little", "the same chain, 8 bytes a page", NODE),
    Row("wave-batch", "derived page of 8 bytes, 1,000 in one call of Python", (Goal(0.03),)),
    Row(
        "graph-plan",
        "commit behind an edit of a graph of {pages} pages, four inputs each, Rust",
        (Goal(150_000),),
    ),
    Row("graph-edge", "edge added or taken away, 1,000 a commit, Rust", (Goal(0.1),)),
    Row("graph-bytes", "memory of such a graph and its plan, a page", (Goal(96),), unit="B"),
    Row("instructions", "instructions of a 64-byte commit, Rust, 4 KiB pages", unit="instructions"),
)

HEADS = ("what", "floor", "peers", "MMSB", "/ floor", "/ best peer", "goal", "met")
WORDS = {True: "yes", False: "**no**"}


def cells(figures: list[Figure], sizes: dict[str, str]) -> list[tuple[str, ...]]:
    """The cells of each row that was measured."""
    lines: list[tuple[str, ...]] = []
    for row in ROWS:
        seen = [figure for figure in figures if figure.row == row.key]
        ours = [figure.median for figure in seen if figure.role == "mmsb"]
        if not ours:
            continue
        others = {figure.name: figure.median for figure in seen}
        floors = {f.name: f.median for f in seen if f.role == "floor"}
        peers = {f.name: f.median for f in seen if f.role == "peer"}
        lines.append(
            (
                row.title.format(**sizes),
                "; ".join(f"{name} {amount(value, row.unit)}" for name, value in floors.items()),
                "; ".join(f"{name} {amount(value, row.unit)}" for name, value in peers.items()),
                amount(ours[0], row.unit),
                _ratio(ours[0], floors),
                _ratio(ours[0], peers),
                "; ".join(goal.text(row.unit) for goal in row.goals),
                "; ".join(WORDS[goal.met(ours[0], others)] for goal in row.goals),
            )
        )
    return lines


def _ratio(ours: float, others: dict[str, float]) -> str:
    return f"{ours / min(others.values()):.3g}" if others else ""


def amount(value: float, unit: str) -> str:
    """Three significant digits with the unit that suits them."""
    if unit == "us" and value >= 1000:
        value, unit = value / 1000, "ms"
    digits = 0 if value == 0 else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:,.{digits}f} {unit}"


def markdown(lines: list[tuple[str, ...]]) -> str:
    """A table that reads well as text too."""
    table: list[tuple[str, ...]] = [HEADS, *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEADS))]
    drawn = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in table
    ]
    drawn.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
    return "\n".join(drawn)
