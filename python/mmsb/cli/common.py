"""What the commands share: how they are declared, how they open a store, how values become JSON."""

from __future__ import annotations

import argparse
import datetime
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

import mmsb
from mmsb.cli.output import Output

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Run = Callable[[argparse.Namespace, Output], int]


def command(
    commands: Commands, name: str, run: Run, about: str, example: str
) -> argparse.ArgumentParser:
    """Declare a command with ``--json`` and a help text that ends in an example."""
    made = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", action="store_true", help="print JSON for programs")
    made.set_defaults(run=run)
    return made


def add_directory(made: argparse.ArgumentParser) -> None:
    """Declare the argument that names the store."""
    made.add_argument("directory", metavar="DIR", help="the directory of the store")


def add_epoch(made: argparse.ArgumentParser) -> None:
    """Declare ``--epoch``."""
    made.add_argument(
        "--epoch",
        type=epoch_argument,
        metavar="E",
        help="an epoch or a tag (default: the newest epoch)",
    )


def epoch_argument(text: str) -> int | str:
    """Take a number for an epoch and anything else for the name of a tag."""
    number = _number(text)
    return text if number is None else number


@contextmanager
def opened(
    args: argparse.Namespace, out: Output, mode: Literal["r", "r+"] = "r"
) -> Iterator[mmsb.Bus]:
    """Open the store that the command names, with a progress bar, and close it."""
    with out.progress("opening") as progress:
        bus = mmsb.open(args.directory, mode=mode, progress=progress)
    with bus:
        yield bus


def page_key(snapshot: mmsb.Snapshot, text: str) -> int | str:
    """Take text for the name of a page, else a number for the id of one."""
    number = _number(text)
    return text if number is None or text in snapshot else number


def when(time_ns: int) -> str:
    """UTC in ISO 8601 with all nine digits."""
    return f"{np.datetime64(time_ns, 'ns')}Z"


def values(array: npt.NDArray[Any]) -> Any:
    """Turn an array into nested lists; what JSON cannot say becomes a string.

    Examples
    --------
    >>> values(np.array([1.5, np.nan])), values(np.array([b"ab"])), values(np.array(2j))
    ([1.5, 'nan'], ['6162'], [0.0, 2.0])
    """
    if array.dtype.kind in "mM":
        array = array.astype(str)
    return _json(array.tolist())


def _number(text: str) -> int | None:
    # An id or epoch is a u64; Python refuses to convert very long digits, with another error.
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def _json(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, complex):
        return [_json(value.real), _json(value.imag)]
    if isinstance(value, (np.generic, datetime.date, datetime.timedelta)):
        return str(value)
    return value
