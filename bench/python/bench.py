"""Runs floors and peers beside MMSB, prints one table of ratios and keeps it in docs/benchmarks.md.

`make bench` builds both sides and calls this; `make bench QUICK=1` takes under two minutes and
keeps nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from past import past_rows
from race import Effort, Figure, Role
from rows import all_rows
from table import cells, markdown
from waves import wave_rows

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rust", type=Path, required=True, help="the built mmsb-bench")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller pages")
    arguments = parser.parse_args()
    quick: bool = arguments.quick
    start = time.monotonic()

    # On the file system of the checkout: /tmp may be memory, where a log costs nothing.
    arguments.rust.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.rust.parent) as name:
        folder = Path(name)
        figures = rust(arguments.rust, folder / "rust", quick)
        figures += instructions(arguments.rust, folder / "instructions")
        figures += all_rows(folder / "python", Effort.of(quick))
        figures += past_rows(folder / "past", Effort.of(quick))
        figures += wave_rows(folder / "waves", Effort.of(quick))
        machine = describe(folder)

    sizes = {"pages": "1,048,576", "large": "1 GiB", "few": "10,000", "many": "1,000,000"}
    sizes["nodes"] = "10,000"
    if quick:
        sizes |= {"pages": "131,072", "large": "128 MiB", "many": "100,000", "nodes": "1,000"}
    table = markdown(cells(figures, sizes))
    print(table)
    print(f"\n{machine}\n{time.monotonic() - start:.0f} s in all", file=sys.stderr)
    if not quick:
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(document(table, machine, figures), encoding="utf-8")
    return 0


def rust(binary: Path, folder: Path, quick: bool) -> list[Figure]:
    """The Rust rows, as the binary prints them."""
    command = [str(binary), str(folder), *(["--quick"] if quick else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return [Figure(**json.loads(line)) for line in done.stdout.splitlines()]


def instructions(binary: Path, folder: Path) -> list[Figure]:
    """Instructions of a commit, which do not move with the noise of a machine."""
    if shutil.which("valgrind") is None:
        print("no row of instructions: valgrind is not installed", file=sys.stderr)
        return []
    figures = []
    contestants: tuple[tuple[Role, str, str], ...] = (
        ("peer", "lmdb", "LMDB"),
        ("mmsb", "mmsb", "MMSB"),
    )
    for role, who, name in contestants:
        few, many = (_collected(binary, folder, who, count) for count in (1_000, 11_000))
        each = (many - few) / 10_000
        figures.append(Figure("instructions", role, name, each, each, each, 1))
    return figures


def _collected(binary: Path, folder: Path, who: str, count: int) -> int:
    callgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    program = [str(binary), "instructions", who, str(count), str(folder / f"{who}-{count}")]
    done = subprocess.run([*callgrind, *program], capture_output=True, text=True)
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise SystemExit(f"callgrind failed:\n{done.stderr}")
    return int(found[1])


def describe(folder: Path) -> str:
    """The machine and the versions, in a line each."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    findmnt = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(folder)]
    system = subprocess.run(findmnt, capture_output=True, text=True, check=True).stdout.strip()
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()
    lock = (ROOT / "bench" / "rust" / "Cargo.lock").read_text()
    crates = dict(
        re.findall(
            r'name = "(heed|incremental|lmdb-master-sys|redb|rusqlite|salsa)"\nversion = "(.*)"',
            lock,
        )
    )
    packages = ", ".join(
        f"{name} {version(name)}"
        for name in (
            "mmsb",
            "numpy",
            "lmdb",
            "safetensors",
            "arcticdb",
            "icechunk",
            "reaktiv",
            "loman",
        )
    )
    return "\n".join(
        (
            f"- {os.cpu_count()} x {cpu[1] if cpu else platform.machine()}, {memory:.0f} GiB",
            f"- Linux {platform.release()}, files on {system}",
            f"- Rust {rustc[1] if rustc else '?'}: "
            + ", ".join(f"{name} {number}" for name, number in crates.items()),
            f"- Python {platform.python_version()}: {packages}",
        )
    )


def document(table: str, machine: str, figures: list[Figure]) -> str:
    """The page that keeps the table."""
    spread = "\n".join(
        f"| {f.row} | {f.name} | {f.median:.4g} | {f.low:.4g} | {f.high:.4g} | {f.rounds} |"
        for f in figures
    )
    return f"""# Benchmarks

Written by `make bench`. Floors (what the machine itself costs) and peers (what one would otherwise
use) run beside MMSB in one run, in turns; a figure is the median of the turns. Absolute times
belong to the machine below and to that hour: the ratios are what to go by.

{table}

- *floor*: the same work without an engine around it. "Sum of the parts" does what a commit must do
  (lock, clock, copy of the page and of table nodes, hashes, store into a mapped log with its first
  touches) and nothing else.
- *peers*: LMDB runs with `NOSYNC` and `WRITEMAP`, its fastest mode that survives `kill -9`; it
  keeps no checksum and no history. SQLite runs with a write-ahead log. A peer changes 64 bytes as
  its user would: read the value, change it, put it back. In "64 B cells" the value itself has 64
  bytes. redb with durability `None` does not survive `kill -9`.
- Derived pages: MMSB computes, compares, commits and logs them. incremental, salsa, reaktiv and
  loman keep values in memory, without history, log or other readers.
- A durable commit is one that a sync has confirmed. Where the disk is virtual, how far a sync
  reaches is the host's affair.

## The machine

{machine}

## The spread

Microseconds, but MiB in `memory` and `disk`, bytes in `log-bytes` and `graph-bytes`, and counts in
`instructions`.

| row | who | median | lowest | highest | rounds |
| --- | --- | --- | --- | --- | --- |
{spread}
"""


if __name__ == "__main__":
    sys.exit(main())
