"""What a store holds: ``info``, ``pages``, ``show``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

import mmsb
from mmsb.cli.common import (
    Commands,
    add_directory,
    add_epoch,
    command,
    opened,
    page_key,
    values,
    when,
)
from mmsb.cli.output import Output, compact, count, plain, size


def register(commands: Commands) -> None:
    """Declare the commands of this module."""
    info = command(commands, "info", run_info, "sum up a store", "mmsb info sim.mmsb")
    add_directory(info)

    pages = command(
        commands, "pages", run_pages, "list the pages", "mmsb pages sim.mmsb --epoch start"
    )
    add_directory(pages)
    add_epoch(pages)

    show = command(
        commands,
        "show",
        run_show,
        "show the values of a page, now or in the past",
        "mmsb show sim.mmsb position --epoch 81204",
    )
    add_directory(show)
    show.add_argument("page", metavar="PAGE", help="the name or the id of a page")
    add_epoch(show)


def run_info(args: argparse.Namespace, out: Output) -> int:
    """Sum up a store."""
    with opened(args, out) as bus, bus.snapshot() as now:
        newest = next(iter(bus.log(since=bus.epoch)), None)
        found = bus.recovery
        path = Path(args.directory)
        facts: dict[str, Any] = {
            "path": str(path),
            "epoch": bus.epoch,
            "durability": bus.durability,
            "pages": len(now.pages),
            "state_bytes": sum(page.nbytes for page in now.pages),
            "disk_bytes": _bytes_under(path),
            "log_bytes": _bytes_under(path / "log"),
            "checkpoints": _files_in(path / "checkpoints"),
            "quarantined": _files_in(path / "quarantine"),
            "digest": now.digest(),
            "tags": dict(bus.tags),
            "last_commit": newest
            and {"time": when(newest.time), "source": newest.source, "meta": newest.meta},
            "torn_bytes": found.torn_bytes if found else 0,
        }
    if out.as_json:
        out.json(facts)
        return 0
    last = facts["last_commit"]
    out.facts(
        {
            "store": plain(facts["path"]),
            "epoch": f"{facts['epoch']:,}",
            "last commit": plain(f"{last['time']}  {last['source'] or ''}  ")
            + compact(last["meta"])
            if last
            else "none",
            "pages": f"{facts['pages']:,}, {size(facts['state_bytes'])}",
            "on disk": f"{size(facts['disk_bytes'])}, of that log {size(facts['log_bytes'])}",
            "checkpoints": f"{facts['checkpoints']:,}",
            "durability": facts["durability"],
            "tags": plain(", ".join(f"{n}={e}" for n, e in facts["tags"].items())) or "none",
            "digest": facts["digest"],
        }
    )
    if facts["torn_bytes"]:
        out.note(
            f"{count(facts['torn_bytes'], 'byte')} of a commit that never finished end the log"
        )
    if facts["quarantined"]:
        out.note(f"{count(facts['quarantined'], 'file')} of torn bytes in DIR/quarantine")
    return 0


def run_pages(args: argparse.Namespace, out: Output) -> int:
    """List the pages."""
    with opened(args, out) as bus, bus.snapshot(args.epoch) as then:
        rows = [describe(page) for page in then.pages]
        epoch = then.epoch
    if out.as_json:
        out.json({"epoch": epoch, "pages": rows})
        return 0
    out.table(
        [">id", "name", "dtype", "shape", ">bytes", ">epoch", "meta"],
        [
            [
                str(row["id"]),
                plain(row["name"] or ""),
                row["dtype"],
                str(tuple(row["shape"])),
                f"{row['nbytes']:,}",
                str(row["epoch"]),
                compact(row["meta"]),
            ]
            for row in rows
        ],
    )
    out.note(f"{count(len(rows), 'page')} at epoch {epoch}")
    return 0


def run_show(args: argparse.Namespace, out: Output) -> int:
    """Show the values of a page."""
    with opened(args, out) as bus, bus.snapshot(args.epoch) as then:
        key = page_key(then, args.page)
        array = then[key]
        page = next(page for page in then.pages if key in (page.id, page.name))
        epoch = then.epoch
    if out.as_json:
        out.json({"at_epoch": epoch, **describe(page), "values": values(array)})
        return 0
    name = plain(page.name or f"page {page.id}")
    out.text(f"{name}  {page.shape} {page.dtype}  epoch {epoch}  {compact(page.meta)}", "bold cyan")
    with np.printoptions(linewidth=out.out.width):
        sys.stdout.write(plain_lines(str(array)) + "\n")
    return 0


def describe(page: mmsb.PageDescription) -> dict[str, Any]:
    """Describe a page as JSON."""
    return {
        "id": page.id,
        "name": page.name,
        "dtype": str(page.dtype),
        "shape": list(page.shape),
        "nbytes": page.nbytes,
        "epoch": page.epoch,
        "meta": page.meta,
    }


def plain_lines(text: str) -> str:
    """`plain` for text of several lines."""
    return "\n".join(plain(line) for line in text.split("\n"))


def _bytes_under(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _files_in(path: Path) -> int:
    return sum(1 for file in path.iterdir() if file.is_file()) if path.is_dir() else 0
