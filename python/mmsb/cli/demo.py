"""``mmsb demo``: the story of `mmsb.demo`, told step by step."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mmsb
from mmsb.cli.common import Commands, command
from mmsb.cli.output import Output, UsageError, plain, size
from mmsb.demo import story


def register(commands: Commands) -> None:
    """Declare the command of this module."""
    demo = command(
        commands,
        "demo",
        run,
        "ten years of the solar system: killed, recovered, proved, searched and forked",
        "mmsb demo planets.mmsb",
    )
    demo.add_argument(
        "directory",
        metavar="DIR",
        nargs="?",
        help="where the store goes: a new or empty directory (default: a temporary one, kept)",
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Run the six steps and tell what each found."""
    path = _target(args.directory)
    begin = time.perf_counter()
    teller = _Teller(out)
    teller.opening(path)
    steps: dict[str, story.Facts] = {}

    with out.progress("a child process integrates") as progress:
        steps["kill"] = story.kill(path, progress)
    teller.kill(steps["kill"])

    with out.progress("opening") as progress:
        bus = mmsb.open(path, mode="r+", progress=progress)
    with bus:
        with out.progress("going on to 2010") as progress:
            acknowledged = steps["kill"]["acknowledged_epoch"]
            steps["recover"] = story.recover(bus, acknowledged, progress)
        teller.recover(steps["recover"])

        with out.progress("the same run without a break") as progress:
            steps["prove"] = story.prove(bus, steps["recover"]["epoch"], progress)
        teller.prove(steps["prove"])

        steps["closest"] = story.closest(bus)
        teller.closest(steps["closest"])

        with out.progress("without Jupiter") as progress:
            steps["fork"] = story.fork(bus, steps["closest"]["epoch"], progress)
        teller.fork(steps["fork"])

        steps["verify"] = story.verify(bus, path)
    seconds = time.perf_counter() - begin
    teller.verify(steps["verify"], steps["recover"], path, seconds)

    if out.as_json:
        out.json({"directory": str(path), "seconds": seconds, "steps": steps})
    return 0 if steps["prove"]["equal"] and steps["verify"]["ok"] else 1


def _target(directory: str | None) -> Path:
    if directory is None:
        return Path(tempfile.mkdtemp(prefix="mmsb-demo-"))
    path = Path(directory)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is not an empty directory; the demo starts from nothing")
    return path


class _Teller:
    """Tells each step to people as soon as it is done; says nothing when JSON was asked for."""

    def __init__(self, out: Output) -> None:
        self.out = out
        self.number = 0

    def say(self, title: str, *lines: str) -> None:
        if self.out.as_json:
            return
        self.number += 1
        self.out.text()
        self.out.text(f"{self.number}  {title}", "bold cyan")
        for line in lines:
            self.out.text("   " + line)

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        if not self.out.as_json:
            self.out.table(["", *columns], [[" ", *row] for row in rows])

    def opening(self, path: Path) -> None:
        if not self.out.as_json:
            self.out.text(
                "The solar system from 2000-01-01 to 2010-01-01, one commit a day", "bold"
            )
            self.out.text(f"store: {plain(str(path))}")

    def kill(self, facts: dict[str, Any]) -> None:
        self.say(
            "Kill",
            f"A child process (pid {facts['pid']}) integrated, one commit a day,",
            "until SIGKILL ended it at a random moment.",
            f"The last commit it had reported is epoch {facts['acknowledged_epoch']:,}.",
            f"The {facts['derived_checked']} derived pages in it follow from the others "
            "to the last bit.",
        )

    def recover(self, facts: dict[str, Any]) -> None:
        self.say(
            "Recover",
            f"It opens at epoch {facts['epoch']:,}, {facts['date']}: nothing reported is lost.",
            f"It cost {facts['seconds'] * 1000:.1f} ms for {facts['records']:,} records; "
            f"{facts['torn_bytes']} torn bytes were set aside.",
            "The function of the energy was registered again; nothing was computed anew.",
            f"Then on to {facts['continued_to']}: {facts['commits']:,} more commits.",
            f"The {facts['derived_checked']} derived pages follow to the last bit, "
            "before and after.",
        )

    def prove(self, facts: dict[str, Any]) -> None:
        verdict = "equal: the kill left no trace" if facts["equal"] else "NOT EQUAL"
        self.say("Prove", "The digest of the state, here and in a run that nothing interrupted:")
        self.table(
            ["", "here", "uninterrupted"],
            [
                ["2010-01-01", facts["digest"], facts["uninterrupted"]],
                ["at the kill", facts["recovered_digest"], facts["recovered_uninterrupted"]],
            ],
        )
        if not self.out.as_json:
            self.out.text("   " + verdict, "green" if facts["equal"] else "bold red")

    def closest(self, facts: dict[str, Any]) -> None:
        self.say(
            "Look back",
            "When were Earth and Mars closest? "
            f"One pass over {facts['epochs_read']:,} past epochs:",
        )
        self.table(
            ["epoch", "moment", ">distance"],
            [
                *(
                    [str(noon["epoch"]), f"{noon['date']} 12:00", f"{noon['au']:.5f} au"]
                    for noon in facts["noons"]
                ),
                ["between", facts["time"].replace("T", " "), f"{facts['au']:.4f} au"],
                [
                    "in reality",
                    facts["real"]["time"].replace("T", " "),
                    f"{facts['real']['au']:.4f} au",
                ],
            ],
        )
        if not self.out.as_json:
            self.out.text("   (The published elements that the run starts from are this good.)")

    def fork(self, facts: dict[str, Any]) -> None:
        self.say(
            "Fork",
            f"At epoch {facts['epoch']:,} ({facts['date']}) a fork loses {facts['removed']}. "
            "Seen from the Sun, each planet is off by so many km:",
        )
        names = list(facts["apart"][0]["km"])
        self.table(
            ["date", *(f">{name}" for name in names)],
            [
                [row["date"], *(f"{row['km'][name]:,.0f}" for name in names)]
                for row in facts["apart"]
            ],
        )
        if not self.out.as_json:
            self.out.text(
                f"   The fork's {facts['derived_checked']} derived pages follow from its own "
                "bodies to the last bit."
            )

    def verify(
        self, facts: dict[str, Any], recover: dict[str, Any], path: Path, seconds: float
    ) -> None:
        state = "every byte is sound" if facts["ok"] else "; ".join(facts["problems"])
        self.say(
            "Verify",
            f"{facts['records']:,} records read and checked: {plain(state)}.",
            f"{size(facts['bytes'])} on disk for {facts['epochs']:,} commits, "
            f"{facts['bytes_per_commit']:.0f} bytes each, every one can be opened.",
            f"{recover['commits_per_second']:,.0f} commits a second, integration included; "
            f"the demo took {seconds:.1f} s.",
        )
        if self.out.as_json:
            return
        self.out.text()
        self.out.text("Where to look next", "bold")
        program, where = _program(), plain(str(path))
        self.out.text(f"   {program} info {where}")
        self.out.text(f"   {program} log {where} --meta date=2003-08-27")
        self.out.text(f"   {program} show {where} position --epoch closest-approach")
        self.out.text(f"   {program} diff {where} 1 closest-approach --page position")


def _program() -> str:
    """Give the command under which this program can be called again."""
    called = Path(sys.argv[0])
    if called.name != "mmsb":
        return "python -m mmsb"
    return "mmsb" if shutil.which("mmsb") else os.path.relpath(called)
