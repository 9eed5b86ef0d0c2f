"""Care for a store: ``verify``, ``checkpoint``, ``export``."""

from __future__ import annotations

import argparse
import os
import time
import zipfile
from pathlib import Path
from typing import Any

from numpy.lib import format as npy

import mmsb
from mmsb.cli.common import Commands, add_directory, add_epoch, command, opened
from mmsb.cli.output import Output, UsageError, count, plain, problem, size


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
    try:
        with opened(args, out) as bus:
            facts["epoch"] = bus.epoch
            with out.progress("verifying") as progress:
                report = bus.verify(progress=progress)
        problems: list[mmsb.MMSBError] = list(report.problems)
        facts.update(ok=report.ok, records=report.records, bytes=report.bytes)
    except (mmsb.CorruptionError, mmsb.FormatVersionError) as error:
        problems = [error]
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
