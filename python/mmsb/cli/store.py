"""Care for a store: ``verify``, ``backup``, ``recover``, ``checkpoint``, ``export``."""

from __future__ import annotations

import argparse
import os
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from numpy.lib import format as npy

import mmsb
from mmsb.cli.common import (
    Commands,
    add_directory,
    add_epoch,
    command,
    epoch_argument,
    opened,
)
from mmsb.cli.output import Output, UsageError, count, plain, problem, size

_RECOVERED = ("epoch", "appended", "records", "bytes", "torn_bytes", "lost", "later")


def register(commands: Commands) -> None:
    """Declare the commands of this module."""
    verify = command(
        commands,
        "verify",
        run_verify,
        "read and check every byte of a store; exit status 1 if any is damaged",
        "mmsb verify sim.mmsb",
    )
    add_directory(verify)

    backup = command(
        commands,
        "backup",
        run_backup,
        "copy a store with all of its history, also while a process commits to it",
        "mmsb backup sim.mmsb copy.mmsb",
    )
    add_directory(backup)
    _add_new(backup, "the directory of the copy")

    recover = command(
        commands,
        "recover",
        run_recover,
        "write what is provably good of a damaged store into a new one and list what is not; exit "
        "status 1 if anything is damaged",
        "mmsb recover sim.mmsb saved.mmsb --newest",
    )
    add_directory(recover)
    _add_new(recover, "the directory of the new store")
    recover.add_argument("--upto", type=_epoch, metavar="E", help="take no epoch after this one")
    recover.add_argument(
        "--newest",
        action="store_true",
        help="add one commit with the newest state that is whole behind the damage",
    )

    checkpoint = command(
        commands,
        "checkpoint",
        run_checkpoint,
        "write a checkpoint, so that the next opening need not replay the log before it",
        "mmsb checkpoint sim.mmsb",
    )
    add_directory(checkpoint)

    export = command(
        commands,
        "export",
        run_export,
        "write all pages of an epoch into a .npz file for numpy.load",
        "mmsb export sim.mmsb state.npz --epoch start",
    )
    add_directory(export)
    export.add_argument("output", metavar="FILE", help="the .npz file to write; it must not exist")
    add_epoch(export)


def run_verify(args: argparse.Namespace, out: Output) -> int:
    """Read and check every byte."""
    facts: dict[str, Any] = {"path": args.directory, "ok": False, "records": 0, "bytes": 0}
    problems: list[mmsb.MMSBError] = []
    report = None
    try:
        with opened(args, out) as bus:
            facts["epoch"] = bus.epoch
            with out.progress("verifying") as progress:
                report = bus.verify(progress=progress)
    except mmsb.CorruptionError as error:
        # It does not open; all of it is looked at even so, unless a process has it open.
        problems = [error]
        with suppress(mmsb.BusLockedError), out.progress("verifying") as progress:
            report = mmsb.verify(args.directory, progress=progress)
    except mmsb.FormatVersionError as error:
        problems = [error]
    if report is not None:
        facts.update(records=report.records, bytes=report.bytes)
        problems = list(report.problems) or problems
    facts["ok"] = not problems
    facts["problems"] = [problem(one) for one in problems]
    if out.as_json:
        out.json(facts)
    elif facts["ok"]:
        out.text(
            f"ok: {count(facts['records'], 'record')}, {size(facts['bytes'])}, "
            f"epoch {facts['epoch']}",
            "green",
        )
    else:
        for one in facts["problems"]:
            out.text(f"{one['code']}: {plain(one['message'])}", "red")
        out.note(f"{count(len(problems), 'problem')} in {plain(args.directory)}")
    return 0 if facts["ok"] else 1


def _add_new(made: argparse.ArgumentParser, about: str) -> None:
    made.add_argument("new", metavar="NEW", help=f"{about}; it must be empty or not exist")


def _epoch(text: str) -> int:
    number = epoch_argument(text)
    if not isinstance(number, int):
        raise argparse.ArgumentTypeError(f"E is a whole number, not {text!r}")
    return number


def run_backup(args: argparse.Namespace, out: Output) -> int:
    """Copy a store."""
    with opened(args, out) as bus, out.progress("copying") as progress:
        epoch = bus.backup(args.new, progress=progress)
    if out.as_json:
        out.json({"path": args.new, "epoch": epoch})
    else:
        out.text(f"epoch {epoch} and all before it in {plain(args.new)}", "green")
    return 0


def run_recover(args: argparse.Namespace, out: Output) -> int:
    """Save what is good of a damaged store."""
    with out.progress("recovering") as progress:
        told = mmsb.recover(
            args.directory, args.new, args.upto, newest=args.newest, progress=progress
        )
    if out.as_json:
        facts = {name: getattr(told, name) for name in _RECOVERED}
        problems = [problem(one) for one in told.problems]
        out.json({"path": args.new, "ok": told.ok, **facts, "problems": problems})
        return 0 if told.ok else 1
    for one in told.problems:
        facts = problem(one)
        out.text(f"{facts['code']}: {plain(facts['message'])}", "red")
    history = told.epoch if told.appended is None else told.epoch - 1
    whole = f"all epochs up to {history} in {plain(args.new)}"
    if told.appended is not None:
        whole += f", and the state of epoch {told.appended} as epoch {told.epoch}"
    out.text(whole, "green" if told.ok else "yellow")
    for what, ranges in (("lost", told.lost), ("whole behind the damage", told.later)):
        if ranges:
            out.text(f"{what}: {', '.join(_range(*pair) for pair in ranges)}")
    if told.later and told.appended is None:
        out.note(
            "mmsb recover --newest adds the newest state behind the damage, "
            "with --upto E an earlier one"
        )
    return 0 if told.ok else 1


def _range(start: int, stop: int) -> str:
    return f"epoch {start}" if stop == start + 1 else f"epochs {start} to {stop - 1}"


def run_checkpoint(args: argparse.Namespace, out: Output) -> int:
    """Write a checkpoint."""
    with opened(args, out, mode="r+") as bus:
        begin = time.perf_counter()
        with out.waiting("writing a checkpoint"):
            epoch = bus.checkpoint()
        seconds = time.perf_counter() - begin
    if out.as_json:
        out.json({"epoch": epoch, "seconds": seconds})
    else:
        out.text(f"checkpoint of epoch {epoch} in {seconds * 1000:.1f} ms", "green")
    return 0


def run_export(args: argparse.Namespace, out: Output) -> int:
    """Write all pages of an epoch into one .npz file."""
    target = Path(args.output)
    if target.exists():
        raise UsageError(f"{target} exists; choose another name")
    # Renamed when complete: nobody finds half a file under the name that was asked for.
    part = target.with_name(target.name + ".part")
    with opened(args, out) as bus, bus.snapshot(args.epoch) as then:
        total = sum(page.nbytes for page in then.pages)
        done = 0
        names = []
        try:
            with out.progress("exporting") as progress, zipfile.ZipFile(part, "x") as archive:
                for page in then.pages:
                    names.append(page.name or f"#{page.id}")
                    with archive.open(names[-1] + ".npy", "w", force_zip64=True) as entry:
                        npy.write_array(entry, then[page.id], allow_pickle=False)
                    done += page.nbytes
                    progress(done, total)
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        epoch = then.epoch
    if out.as_json:
        out.json(
            {"file": str(target), "epoch": epoch, "pages": names, "bytes": target.stat().st_size}
        )
    else:
        out.text(f"{count(len(names), 'page')} of epoch {epoch} in {plain(str(target))}", "green")
    return 0
