"""The solar system on a bus: four pages and what follows from them, one commit a day.

The whole state is in the pages, masses and clock included, so a process that finds them can go on:
there is nothing else to save.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import numpy as np

import mmsb
from mmsb.demo import derived
from mmsb.demo.elements import barycentric, bodies
from mmsb.demo.gravity import step

SOURCE = "integrator"
START = datetime.date(2000, 1, 1)
END = datetime.date(2010, 1, 1)


def date_of(day: int) -> str:
    """ISO date of a day counted from J2000; the time of day is 12:00 TT.

    Examples
    --------
    >>> date_of(1334)
    '2003-08-27'
    """
    return (START + datetime.timedelta(days=day)).isoformat()


def day_of(date: datetime.date) -> int:
    """Days from J2000 to noon of a date.

    Examples
    --------
    >>> day_of(END)
    3653
    """
    return (date - START).days


def start(bus: mmsb.Bus) -> None:
    """Create the pages, with all bodies where they were at J2000, in one commit.

    Examples
    --------
    >>> bus = mmsb.Bus()
    >>> start(bus)
    >>> list(bus)[:4], bus.epoch
    (['position', 'velocity', 'gm', 'day'], 1)
    >>> list(bus)[4:]
    ['turn', 'barycentre', 'angular_momentum', 'pairs', 'distances', 'energy']
    """
    position, velocity = barycentric()
    names = list(bodies().names)
    with bus.transaction(source=SOURCE, meta={"date": date_of(0)}) as tx:
        tx.create_page("position", data=position, meta={"unit": "au", "bodies": names})
        tx.create_page("velocity", data=velocity, meta={"unit": "au/day", "bodies": names})
        tx.create_page("gm", data=bodies().gm, meta={"unit": "au**3/day**2", "bodies": names})
        tx.create_page("day", data=np.int64(0), meta={"unit": "day", "zero": "2000-01-01 12:00 TT"})
        derived.derive(tx)


def advance(bus: mmsb.Bus, until: int) -> Iterator[int]:
    """Integrate from the newest epoch on, one commit a day.

    Parameters
    ----------
    bus
        Where `start` has been.
    until
        Day at which to stop, counted from J2000.

    Yields
    ------
    int
        The epoch that each commit made.

    Examples
    --------
    >>> bus = mmsb.Bus()
    >>> start(bus)
    >>> list(advance(bus, until=3)), int(bus["day"])
    ([2, 3, 4], 3)
    """
    position, velocity, gm = (bus[name].read() for name in ("position", "velocity", "gm"))
    for day in range(int(bus["day"]) + 1, until + 1):
        position, velocity = step(position, velocity, gm)
        with bus.transaction(source=SOURCE, meta={"date": date_of(day)}) as tx:
            tx["position"] = position
            tx["velocity"] = velocity
            tx["day"] = day
        yield bus.epoch


def remove_body(bus: mmsb.Bus, name: str) -> None:
    """Take a body out of the system, in one commit.

    Examples
    --------
    >>> bus = mmsb.Bus()
    >>> start(bus)
    >>> remove_body(bus, "Jupiter")
    >>> bus["position"].shape
    (8, 3)
    >>> bus["distances"].shape  # of 28 pairs
    (28,)
    """
    names = bus["gm"].meta["bodies"]
    kept = [index for index, body in enumerate(names) if body != name]
    with bus.transaction(source="demo", meta={"removed": name}) as tx:
        for page in ("position", "velocity", "gm"):
            values = bus[page].read()[kept]
            tx.resize(page, values.shape)
            tx.write(page, values)
            tx.set_meta(page, {**bus[page].meta, "bodies": [names[index] for index in kept]})
        derived.pair(tx, len(kept))
