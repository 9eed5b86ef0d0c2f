"""What every command prints with: tables or JSON on stdout, remarks and progress on stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import mmsb

# A pipe has no width: rows there stay on one line each.
_PIPE_WIDTH = 100_000
_PATIENCE_S = 1.0


class UsageError(Exception):
    """The command was used in a wrong way: exit status 2."""

    code = "usage"


def plain(text: str) -> str:
    r"""Escape what could steer a terminal in text that comes from a store.

    Examples
    --------
    >>> plain("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def compact(value: Any) -> str:
    """Write JSON on one line; nothing at all for an empty object."""
    return plain(json.dumps(value, ensure_ascii=False)) if value else ""


def size(count: int) -> str:
    """Write a number of bytes for people.

    Examples
    --------
    >>> size(1536), size(12)
    ('1.5 KiB', '12 B')
    """
    if count < 1024:
        return f"{count} B"
    scaled = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        scaled /= 1024
        if scaled < 1024:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1024:.1f} TiB"


def count(number: int, noun: str) -> str:
    """Write a number of things.

    Examples
    --------
    >>> count(1, "page"), count(1200, "page")
    ('1 page', '1,200 pages')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def problem(error: BaseException) -> dict[str, Any]:
    """Describe an error as JSON: its code, its message, and where it is if it says so."""
    facts: dict[str, Any] = {
        "code": getattr(error, "code", None) or type(error).__name__,
        "message": str(error),
    }
    if isinstance(error, mmsb.CorruptionError):
        facts.update(file=str(error.file), offset=error.offset, epoch=error.epoch)
    return facts


class Output:
    """Where a command writes.

    Parameters
    ----------
    json
        Whether stdout gets JSON in place of tables.
    """

    def __init__(self, *, json: bool) -> None:
        self.as_json = json
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
        self.out = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
        self.err = Console(file=sys.stderr, markup=False, highlight=False, emoji=False)

    def json(self, value: Any, *, line: bool = False) -> None:
        """Print one JSON document, or with `line` one line of many."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=None if line else 2)
        sys.stdout.write(text + "\n")

    def text(self, text: str = "", style: str = "") -> None:
        """Print a line for people."""
        self.out.print(text, style=style, soft_wrap=True)

    def facts(self, facts: dict[str, str]) -> None:
        """Print names and values in two columns."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold cyan")
        grid.add_column(overflow="fold")
        for name, value in facts.items():
            grid.add_row(name, value)
        self.out.print(grid)

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """Print a table; a column whose name starts with ``>`` is aligned right."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold cyan")
        for column in columns:
            right = column.startswith(">")
            table.add_column(
                column.lstrip(">"),
                justify="right" if right else "left",
                no_wrap=right,
                overflow="fold",
            )
        for row in rows:
            table.add_row(*row)
        self.out.print(table)

    def note(self, text: str) -> None:
        """Print a remark on stderr."""
        self.err.print(text, style="dim", soft_wrap=True)

    def error(self, error: BaseException) -> None:
        """Print an error on stderr and, for programs, as JSON on stdout."""
        facts = problem(error)
        self.err.print(
            f"mmsb: {facts['code']}: {plain(facts['message'])}", style="red", soft_wrap=True
        )
        if self.as_json:
            self.json({"error": facts})

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[int, int], None]]:
        """Give a callback (done, total) that draws a bar on a terminal after the first second."""
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=self.err, transient=True, disable=not self.err.is_terminal)
        task = bar.add_task(label)
        begin = time.monotonic()

        def update(done: int, total: int) -> None:
            if bar.live.is_started or time.monotonic() - begin > _PATIENCE_S:
                bar.start()
                bar.update(task, completed=done, total=total)

        try:
            yield update
        finally:
            bar.stop()

    @contextmanager
    def waiting(self, label: str) -> Iterator[None]:
        """Show a spinner on a terminal while something runs that cannot tell how far it is."""
        if self.err.is_terminal:
            with self.err.status(label):
                yield
        else:
            yield
