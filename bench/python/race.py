"""Races: contestants take turns for some rounds in one run; the figure is the median of the rounds.

So whatever the machine does meanwhile meets all of them alike. The Rust side does the same
(`bench/rust/src/race.rs`) and prints its figures as lines of JSON in the form of `Figure`.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Role = Literal["floor", "peer", "mmsb"]
Turn = Callable[[int], None]


@dataclass(frozen=True)
class Figure:
    row: str
    role: Role
    name: str
    median: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Effort:
    rounds: int
    turn: float
    """Seconds that one contestant gets in a round."""
    large: int
    """Bytes of a large state."""
    histories: tuple[tuple[str, int], ...]
    """Commits of stores with a past, by their rows."""

    @classmethod
    def of(cls, quick: bool) -> Effort:
        if quick:
            return cls(5, 0.02, 1 << 27, (("old-few", 10_000), ("old-many", 100_000)))
        return cls(9, 0.1, 1 << 30, (("old-few", 10_000), ("old-many", 1_000_000)))


def run(
    row: str, contestants: list[tuple[Role, str, Turn]], effort: Effort, per: int = 1
) -> list[Figure]:
    """Microseconds that one of the `per` changes of an operation takes each contestant."""
    operations = [_fitting(turn, effort.turn) for _, _, turn in contestants]
    seen: list[list[float]] = [[] for _ in contestants]
    for number in range(effort.rounds):
        for i in range(len(contestants)):
            which = (number + i) % len(contestants)
            count = operations[which]
            seen[which].append(_seconds(contestants[which][2], count) * 1e6 / (count * per))
    return [
        Figure(row, role, name, statistics.median(times), min(times), max(times), effort.rounds)
        for (role, name, _), times in zip(contestants, seen, strict=True)
    ]


def once(
    row: str,
    contestants: list[tuple[Role, str, Callable[[], object], Callable[[], object]]],
    rounds: int,
) -> list[Figure]:
    """Microseconds of something long, after something that is not counted."""
    seen: list[list[float]] = [[] for _ in contestants]
    for number in range(rounds):
        for i in range(len(contestants)):
            which = (number + i) % len(contestants)
            _, _, prepare, act = contestants[which]
            prepare()
            seen[which].append(_seconds(lambda _, act=act: act(), 1) * 1e6)
    return [
        Figure(row, role, name, statistics.median(times), min(times), max(times), rounds)
        for (role, name, _, _), times in zip(contestants, seen, strict=True)
    ]


def _seconds(turn: Turn, count: int) -> float:
    gc.collect()
    gc.disable()
    start = time.perf_counter()
    turn(count)
    took = time.perf_counter() - start
    gc.enable()
    return took


def _fitting(turn: Turn, target: float) -> int:
    count = 1
    while (took := _seconds(turn, count)) * 4 < target:
        count *= 4
    return max(1, int(count * target / took))
