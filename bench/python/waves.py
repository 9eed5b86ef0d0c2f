"""The rows of derived pages that Python functions compute, beside a plain loop over them."""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import loman
import mmsb
import numpy as np
import numpy.typing as npt
import reaktiv
from race import Effort, Figure, run

Array = npt.NDArray[np.float64]
NODES = 300
"""Derived pages of a chain or a fan."""
BATCH = 1_000
"""Pages that one call computes."""


def add_one(x: Array, out: Array) -> None:
    np.add(x, 1, out=out)


def _inputs(length: int) -> Iterator[Array]:
    """New values, again and again."""
    return itertools.cycle(list(np.random.default_rng(1).random((7, length))))


def _source(node: int, fan: bool) -> int:
    """What a node follows from: the node before it, or the first of all."""
    return 0 if fan else node - 1


def _loop(length: int, fan: bool) -> Callable[[int], None]:
    values, source = _inputs(length), np.zeros(length)
    arrays = [source, *(np.zeros(length) for _ in range(NODES))]
    calls = [(add_one, arrays[_source(n, fan)], arrays[n]) for n in range(1, NODES + 1)]

    def turn(count: int) -> None:
        for value in itertools.islice(values, count):
            source[:] = value
            for function, x, out in calls:
                function(x, out)

    return turn


def _logged(length: int, fan: bool, folder: Path) -> Callable[[int], None]:
    """The same, and what each node gave is written to a file, as a log would have to."""
    values, source = _inputs(length), np.zeros(length)
    arrays = [source, *(np.zeros(length) for _ in range(NODES))]
    calls = [(add_one, arrays[_source(n, fan)], arrays[n]) for n in range(1, NODES + 1)]
    file = (folder / f"log-{length}-{fan}").open("ab", buffering=0)

    def turn(count: int) -> None:
        for value in itertools.islice(values, count):
            source[:] = value
            for function, x, out in calls:
                function(x, out)
                zlib.crc32(out)
                file.write(out)

    return turn


def _reaktiv(length: int, fan: bool) -> Callable[[int], None]:
    values, source = _inputs(length), reaktiv.Signal(np.zeros(length))
    nodes: list[Any] = [source]
    for n in range(1, NODES + 1):
        above = nodes[_source(n, fan)]
        nodes.append(reaktiv.Computed(lambda above=above: above() + 1))
    ends = nodes[1:] if fan else nodes[-1:]

    def turn(count: int) -> None:
        for value in itertools.islice(values, count):
            source.set(value)
            for end in ends:
                end()

    return turn


def _loman(length: int, fan: bool) -> Callable[[int], None]:
    values, graph = _inputs(length), loman.Computation()
    graph.add_node("n0", value=np.zeros(length))
    for n in range(1, NODES + 1):
        graph.add_node(f"n{n}", lambda x: x + 1, kwds={"x": f"n{_source(n, fan)}"})

    def turn(count: int) -> None:
        for value in itertools.islice(values, count):
            graph.insert("n0", value)
            graph.compute_all()

    return turn


def _ours(bus: mmsb.Bus, length: int, fan: bool) -> Callable[[int], None]:
    values = _inputs(length)
    source = bus.create_page("n0", data=np.zeros(length))
    with bus.transaction() as tx:
        for n in range(1, NODES + 1):
            tx.derive(f"n{n}", [f"n{_source(n, fan)}"], length)(add_one)

    def turn(count: int) -> None:
        for value in itertools.islice(values, count):
            source[...] = value

    return turn


def _nodes(row: str, folder: Path, length: int, fan: bool, effort: Effort) -> list[Figure]:
    with mmsb.create(folder / f"{row}.mmsb", durability="os") as bus:
        return run(
            row,
            [
                ("floor", "plain loop", _loop(length, fan)),
                ("floor", "the same + crc32 + write", _logged(length, fan, folder)),
                ("peer", "reaktiv", _reaktiv(length, fan)),
                ("peer", "loman", _loman(length, fan)),
                ("mmsb", "MMSB", _ours(bus, length, fan)),
            ],
            effort,
            per=NODES,
        )


def _batch(folder: Path, effort: Effort) -> list[Figure]:
    """A function that computes many pages of one number in a call."""
    values = _inputs(1)
    stack, out = np.zeros((BATCH, 1)), np.zeros((BATCH, 1))

    def floor(count: int) -> None:
        for value in itertools.islice(values, count):
            stack[:] = value
            add_one(stack, out)

    with mmsb.create(folder / "batch.mmsb", durability="os") as bus:
        source = bus.create_page("x", data=[0.0])
        with bus.transaction() as tx:
            for n in range(BATCH):
                tx.derive(f"y{n}", [source], 1, batch=True)(add_one)

        def ours(count: int) -> None:
            for value in itertools.islice(values, count):
                source[...] = value

        return run(
            "wave-batch",
            [("floor", "one call of NumPy", floor), ("mmsb", "MMSB", ours)],
            effort,
            per=BATCH,
        )


def wave_rows(folder: Path, effort: Effort) -> Iterator[Figure]:
    folder.mkdir(parents=True)
    # reaktiv asks for a chain by recursion.
    sys.setrecursionlimit(100 * NODES)
    yield from _nodes("wave-python", folder, 1024, False, effort)
    yield from _nodes("wave-python-fan", folder, 1024, True, effort)
    yield from _nodes("wave-python-little", folder, 1, False, effort)
    yield from _batch(folder, effort)
