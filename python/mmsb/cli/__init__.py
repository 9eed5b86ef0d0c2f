"""The command line of MMSB: ``mmsb`` and ``python -m mmsb``.

Data goes to stdout, everything else to stderr. The exit status is 0, 1 when a problem was found
(damage, or any error of MMSB) and 2 after wrong use. This package alone imports rich; the library
never does.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import mmsb
from mmsb.cli import demo, look, past, store
from mmsb.cli.output import Output, UsageError
from mmsb.demo.story import DemoError


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="mmsb",
        description="Look into MMSB stores: state, history, health.",
        epilog="example:\n  mmsb demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"mmsb {mmsb.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (demo, look, past, store):
        group.register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The arguments after the program's name; those of the process if None.

    Returns
    -------
    int
        The exit status.
    """
    try:
        args = parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed help, the version or what was wrong
        return stop.code if isinstance(stop.code, int) else 2
    out = Output(json=args.json)
    try:
        status: int = args.run(args, out)
        sys.stdout.flush()
    except UsageError as error:
        out.error(error)
        return 2
    except BrokenPipeError:
        # The reader of stdout has seen enough; the interpreter must not fail on the rest at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (mmsb.MMSBError, DemoError, OSError) as error:
        out.error(error)
        return 1
    except KeyboardInterrupt:
        out.note("interrupted")
        return 130
    return status
