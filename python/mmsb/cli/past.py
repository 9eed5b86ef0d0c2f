"""What happened: ``log``, ``diff`` and ``compare``."""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import asdict
from typing import Any

import numpy as np

import mmsb
from mmsb.cli.common import (
    Commands,
    add_directory,
    command,
    epoch_argument,
    opened,
    page_key,
    values,
    when,
)
from mmsb.cli.output import Output, UsageError, compact, count, plain

_ROWS = 20


def register(commands: Commands) -> None:
    """Declare the commands of this module."""
    log = command(
        commands,
        "log",
        run_log,
        "list commits, the newest first; with --json one object a line",
        "mmsb log sim.mmsb --page position --meta step=81204",
    )
    add_directory(log)
    log.add_argument("--page", metavar="PAGE", help="only commits that touched this page")
    log.add_argument("--since", type=epoch_argument, metavar="E", help="from this epoch or tag on")
    log.add_argument("--until", type=epoch_argument, metavar="E", help="up to this epoch or tag")
    log.add_argument("--source", help="only commits of this source")
    log.add_argument(
        "--meta",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only commits with this metadata; VALUE is JSON or else a string; may be repeated",
    )
    log.add_argument(
        "-n",
        type=_count,
        metavar="N",
        help=f"at most N commits (default: {_ROWS}, with --json all)",
    )

    diff = command(
        commands,
        "diff",
        run_diff,
        "show what differs between two epochs",
        "mmsb diff sim.mmsb 5 start --page position",
    )
    add_directory(diff)
    diff.add_argument("a", metavar="A", type=epoch_argument, help="an epoch or a tag")
    diff.add_argument("b", metavar="B", type=epoch_argument, help="an epoch or a tag")
    diff.add_argument("--page", metavar="PAGE", help="only this page")

    compare = command(
        commands,
        "compare",
        run_compare,
        "find the first epoch, page and byte where two stores part; exit status 1 if they do",
        "mmsb compare monday.mmsb tuesday.mmsb",
    )
    compare.add_argument("a", metavar="A", help="the directory of a store")
    compare.add_argument("b", metavar="B", help="the directory of another one")


def run_log(args: argparse.Namespace, out: Output) -> int:
    """List commits."""
    filters: dict[str, Any] = {
        "since": args.since,
        "until": args.until,
        "source": args.source,
        "meta": dict(_meta(pair) for pair in args.meta) or None,
    }
    filters = {name: value for name, value in filters.items() if value is not None}
    limit = args.n if args.n is not None or out.as_json else _ROWS
    rows = []
    with opened(args, out) as bus, bus.snapshot() as now:
        if args.page is not None:
            filters["page"] = page_key(now, args.page)
        names = {page.id: page.name for page in now.pages}
        commits = iter(bus.log(reverse=True, **filters))
        for commit in itertools.islice(commits, limit):
            facts = _commit(commit)
            if out.as_json:
                out.json(facts, line=True)
            else:
                rows.append(_row(facts, names))
        more = not out.as_json and next(commits, None) is not None
    if not out.as_json:
        out.table([">epoch", "time (UTC)", "source", "pages", ">bytes", "changes", "meta"], rows)
        if more:
            out.note(f"the newest {limit} are shown; -n N shows more")
    return 0


def run_diff(args: argparse.Namespace, out: Output) -> int:
    """Show what differs between two epochs."""
    with opened(args, out) as bus:
        wanted = None
        if args.page is not None:
            with bus.snapshot(args.b) as later:
                wanted = page_key(later, args.page)
        entries: list[dict[str, Any]] = [
            {
                "page": entry.page,
                "name": entry.name,
                "change": entry.change,
                "ranges": [list(pair) for pair in entry.ranges],
                "old": [values(old) for old in entry.old],
                "new": [values(new) for new in entry.new],
            }
            for entry in bus.diff(args.a, args.b, page=wanted)
        ]
    if out.as_json:
        out.json({"a": args.a, "b": args.b, "pages": entries})
        return 0
    out.table(
        [">id", "name", "change", ">ranges", ">bytes", "first old values", "first new values"],
        [
            [
                str(entry["page"]),
                plain(entry["name"] or ""),
                entry["change"],
                str(len(entry["ranges"])),
                f"{sum(stop - start for start, stop in entry['ranges']):,}",
                _first(entry["old"]),
                _first(entry["new"]),
            ]
            for entry in entries
        ],
    )
    out.note(plain(f"{args.a} to {args.b}: {count(len(entries), 'page')} changed"))
    return 0


def run_compare(args: argparse.Namespace, out: Output) -> int:
    """Find where two stores part."""
    with out.progress("comparing") as progress:
        found = mmsb.compare(args.a, args.b, progress=progress)
    if found is None:
        if out.as_json:
            out.json({"equal": True})
        else:
            out.text("equal: the same epochs with the same states", "green")
        return 0
    commits = [None if c is None else _commit(c) for c in (found.commit_a, found.commit_b)]
    facts = {
        "epoch": found.epoch,
        "kind": found.kind,
        "page": found.page,
        "name": found.name,
        "offset": found.offset,
        "index": found.index,
        "a": _json_value(found.a),
        "b": _json_value(found.b),
    }
    if out.as_json:
        out.json({"equal": False, **facts, "commit_a": commits[0], "commit_b": commits[1]})
        return 1
    if found.kind == "length":
        out.text(f"equal up to epoch {found.epoch - 1}, where one of them ends", "yellow")
    else:
        page = f"page {found.page}" + (f" {found.name!r}" if found.name else "")
        where = ""
        if found.index is not None:
            where = f" at byte {found.offset}, element [{', '.join(map(str, found.index))}]"
        out.text(
            f"they part in epoch {found.epoch}: {found.kind} of {plain(page)}{where}", "yellow"
        )
    rows = []
    for side, value, commit in zip("AB", (facts["a"], facts["b"]), commits, strict=True):
        about = commit or {"time": "", "source": None, "meta": None}
        rows.append(
            [
                side,
                plain(str(value)),
                about["time"],
                plain(about["source"] or ""),
                compact(about["meta"]),
            ]
        )
    out.table(["", "has", "time (UTC)", "source", "meta"], rows)
    return 1


def _json_value(value: Any) -> Any:
    if isinstance(value, np.dtype):
        return str(value)
    return values(np.asarray(value)) if isinstance(value, np.generic) else value


def _count(text: str) -> int:
    number = epoch_argument(text)
    if not isinstance(number, int) or number < 1:
        raise argparse.ArgumentTypeError(f"N is a whole number from 1 on, not {text!r}")
    return number


def _meta(pair: str) -> tuple[str, Any]:
    key, equals, text = pair.partition("=")
    if not equals:
        raise UsageError(f"--meta takes KEY=VALUE, not {pair!r}")
    try:
        return key, json.loads(text)
    except ValueError:
        return key, text


def _commit(commit: mmsb.Commit) -> dict[str, Any]:
    ranges = [pair for delta in commit.deltas for pair in delta.ranges]
    return {
        "epoch": commit.epoch,
        "time": when(commit.time),
        "source": commit.source,
        "meta": commit.meta,
        "pages": list(commit.pages),
        "bytes": sum(stop - start for start, stop in ranges),
        "changes": [_change(change) for change in commit.changes],
    }


def _change(change: mmsb.Change) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(change).items() if value is not None}
    if change.dtype is not None:
        facts["dtype"] = str(change.dtype)
    return facts


def _row(facts: dict[str, Any], names: dict[int, str | None]) -> list[str]:
    return [
        str(facts["epoch"]),
        facts["time"].rstrip("Z").replace("T", " ")[:-3],
        plain(facts["source"] or ""),
        plain(", ".join(names.get(page) or str(page) for page in facts["pages"])),
        f"{facts['bytes']:,}",
        plain(
            ", ".join(f"{one['kind']} {one.get('name', '')}".strip() for one in facts["changes"])
        ),
        compact(facts["meta"]),
    ]


def _first(ranges: list[Any]) -> str:
    if not ranges:
        return ""
    shown = ", ".join(
        f"{value:.7g}" if isinstance(value, float) else plain(str(value)) for value in ranges[0][:3]
    )
    return shown + (", ..." if len(ranges[0]) > 3 or len(ranges) > 1 else "")
