"""The six steps of the demo. Each returns the facts it found as a dict of JSON values.

1. `kill`: a child process integrates and is killed with SIGKILL.
2. `recover`: the store opens at the last commit and goes on to 2010.
3. `prove`: the digest equals that of a run which nothing interrupted.
4. `closest`: the history knows when Mars was nearest.
5. `fork`: the same years without Jupiter.
6. `verify`: every byte of the store is read and checked.

After the kill, the recovery and the fork, `check` computes the derived pages anew and compares.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import mmsb
from mmsb.demo import derived
from mmsb.demo.child import RECORD
from mmsb.demo.elements import AU_KM, Floats, bodies
from mmsb.demo.system import END, advance, date_of, day_of, remove_body, start

Facts = dict[str, Any]
Progress = Callable[[int, int], None]

LAST_DAY = day_of(END)
# Mars and the Earth on 2003-08-27 at 9:51 UT, by the ephemeris DE406 of JPL: 55,758,006 km.
REAL_CLOSEST = {"time": "2003-08-27T09:51", "au": 0.3727}
YEARS_SHOWN = (2004, 2006, 2008, 2010)


class DemoError(Exception):
    """A step of the demo did not end as it must."""

    code = "demo-failed"


def check(pages: Mapping[str, npt.NDArray[Any]], when: str) -> int:
    """Compare each derived page with what NumPy makes of its inputs; return how many there are."""
    expected = derived.follows(pages)
    for name, values in expected.items():
        if pages[name].tobytes() != values.tobytes():
            raise DemoError(f"{name} is not what follows from its inputs {when}")
    return len(expected)


def kill(path: Path, progress: Progress) -> Facts:
    """Start the child, let it run to a random day, kill it.

    The kill comes without warning some microseconds after the chosen day was acknowledged, so it
    may hit the child while it computes, commits or reports. What it left is then read as it is.
    """
    target = random.randrange(LAST_DAY // 10, LAST_DAY * 4 // 5)
    command = [sys.executable, "-m", "mmsb.demo.child", str(path)]
    acknowledged = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            while acknowledged < target:
                record = child.stdout.read(RECORD)
                if len(record) < RECORD:
                    raise DemoError(f"the child process ended by itself: status {child.wait()}")
                acknowledged = int.from_bytes(record, "little")
                progress(acknowledged, target)
            time.sleep(random.random() / 1000)
        finally:
            child.kill()
        rest = child.stdout.read()
        status = child.wait()
    if status != -signal.SIGKILL:
        raise DemoError(f"the child process ended with status {status} before it was killed")
    whole = len(rest) // RECORD * RECORD
    if whole:
        acknowledged = int.from_bytes(rest[whole - RECORD : whole], "little")
    with mmsb.open(path) as bus, bus.snapshot() as left:
        checked = check(left, "after the kill")
    return {
        "pid": child.pid,
        "signal": "SIGKILL",
        "acknowledged_epoch": acknowledged,
        "derived_checked": checked,
    }


def recover(bus: mmsb.Bus, acknowledged: int, progress: Progress) -> Facts:
    """Say what a freshly opened bus found, register the energy again, go on to the last day.

    Parameters
    ----------
    bus
        The store of the killed child, opened with ``mode="r+"``.
    acknowledged
        The last epoch that the child reported.
    progress
        Called with days done and days in all.
    """
    found = bus.recovery
    if found is None or found.epoch < acknowledged:
        raise DemoError(f"epoch {acknowledged} was acknowledged, but recovery gave {found}")
    day = int(bus["day"])
    facts: Facts = {
        "epoch": found.epoch,
        "acknowledged_epoch": acknowledged,
        "date": next(iter(bus.log(since=found.epoch))).meta["date"],
        "seconds": found.seconds,
        "records": found.records,
        "torn_bytes": found.torn_bytes,
    }
    facts["unbound"] = bus.graph.unbound
    energy = derived.register(bus)
    if energy.calls or bus.epoch != found.epoch or bus.graph.unbound:
        raise DemoError("the energy was to be registered again, and computed only when it changes")
    with bus.snapshot() as now:
        check(now, "after the recovery")
    begin = time.perf_counter()
    for epoch in advance(bus, until=LAST_DAY):
        progress(epoch - found.epoch, LAST_DAY - day)
    seconds = time.perf_counter() - begin
    with bus.snapshot() as now:
        facts["derived_checked"] = check(now, "at the end")
    facts["energy_calls"] = energy.calls
    facts["continued_to"] = date_of(int(bus["day"]))
    facts["commits"] = bus.epoch - found.epoch
    facts["commits_per_second"] = facts["commits"] / seconds
    return facts


def prove(bus: mmsb.Bus, recovered_epoch: int, progress: Progress) -> Facts:
    """Compare digests with an uninterrupted run in memory, now and at the epoch of the kill."""
    with mmsb.Bus() as other:
        start(other)
        for epoch in advance(other, until=LAST_DAY):
            progress(epoch, LAST_DAY)
        facts: Facts = {
            "epoch": bus.epoch,
            "digest": bus.digest(),
            "uninterrupted": other.digest(),
            "recovered_epoch": recovered_epoch,
            "recovered_digest": bus.digest(recovered_epoch),
            "recovered_uninterrupted": other.digest(recovered_epoch),
        }
    facts["equal"] = (
        facts["digest"] == facts["uninterrupted"]
        and facts["recovered_digest"] == facts["recovered_uninterrupted"]
    )
    return facts


def closest(bus: mmsb.Bus) -> Facts:
    """Find the closest approach of Mars in the history and tag its epoch.

    The distance changes little from noon to noon there, so a parabola through the squares of
    three of them gives the moment and the distance between.
    """
    earth, mars = (bodies().names.index(name) for name in ("Earth", "Mars"))
    epochs, dates, squares = [], [], []
    for commit, both in bus["position"].history(index=np.s_[earth : mars + 1]):
        epochs.append(commit.epoch)
        dates.append(commit.meta["date"])
        squares.append(float(((both[0] - both[-1]) ** 2).sum()))
    at = int(np.argmin(squares))
    if not 0 < at < len(squares) - 1:
        raise DemoError(f"the smallest distance is at the edge of the history, {dates[at]}")
    before, here, after = squares[at - 1 : at + 2]
    offset = 0.5 * (before - after) / (before - 2 * here + after)
    square = here - 0.25 * (before - after) * offset
    moment = np.datetime64(f"{dates[at]}T12:00") + np.timedelta64(round(offset * 1440), "m")
    bus.tag("closest-approach", epochs[at])
    return {
        "epochs_read": len(epochs),
        "epoch": epochs[at],
        "tag": "closest-approach",
        "noons": [
            {"epoch": epochs[k], "date": dates[k], "au": squares[k] ** 0.5}
            for k in (at - 1, at, at + 1)
        ],
        "time": str(moment),
        "au": square**0.5,
        "real": REAL_CLOSEST,
    }


def fork(bus: mmsb.Bus, epoch: int, progress: Progress) -> Facts:
    """Fork at `epoch`, take Jupiter out of the fork, and measure how far the orbits part."""
    with bus.fork(epoch) as other:
        first = int(other["day"])
        with other.snapshot() as now:
            check(now, "in the fork")
        derived.register(other)
        remove_body(other, "Jupiter")
        with other.snapshot() as now:
            check(now, "without Jupiter")
        names = other["gm"].meta["bodies"]
        kept = [bodies().names.index(name) for name in names]
        table = []
        for year in YEARS_SHOWN:
            date = END.replace(year=year)
            for _ in advance(other, until=day_of(date)):
                progress(int(other["day"]) - first, LAST_DAY - first)
            with bus.snapshot(meta={"date": date.isoformat()}) as past:
                apart = _around_sun(other["position"].read()) - _around_sun(past["position"][kept])
            km = (np.linalg.norm(apart, axis=1) * AU_KM).tolist()
            table.append(
                {"date": date.isoformat(), "km": dict(zip(names[1:], km[1:], strict=True))}
            )
        with other.snapshot() as now:
            checked = check(now, "at the end of the fork")
        return {
            "epoch": epoch,
            "date": date_of(first),
            "removed": "Jupiter",
            "commits": other.epoch - epoch,
            "derived_checked": checked,
            "apart": table,
        }


def verify(bus: mmsb.Bus, path: Path) -> Facts:
    """Check every byte of the store, close it and measure it."""
    report = bus.verify()
    epochs = bus.epoch
    bus.close()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "ok": report.ok,
        "problems": [str(problem) for problem in report.problems],
        "records": report.records,
        "bytes": size,
        "bytes_per_commit": size / epochs,
        "epochs": epochs,
    }


def _around_sun(position: Floats) -> Floats:
    apart: Floats = position - position[0]
    return apart
