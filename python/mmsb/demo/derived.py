"""What follows from the state: four derived pages, and a way to compute them without a bus.

Three are expressions. These are part of the state, and whoever opens it can compute them. The
energy is a function of Python, which each process has to register.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

import mmsb
from mmsb.demo.elements import Floats
from mmsb.demo.gravity import energy

BARYCENTRE = "gm @ position / sum(gm)"
# A cross product without indexing: `turn` makes (y, z, x) of (x, y, z), and twice (z, x, y).
ANGULAR_MOMENTUM = (
    "gm @ ((position @ turn) * (velocity @ turn @ turn)"
    " - (position @ turn @ turn) * (velocity @ turn))"
)
# A row of `pairs` is one body minus another.
DISTANCES = "sqrt(sum((pairs @ position) ** 2, axis=1))"


class Energy:
    """The function that computes ``energy``; it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, position: Floats, velocity: Floats, gm: Floats, out: Floats) -> None:
        """Compute the page."""
        self.calls += 1
        out[...] = energy(position, velocity, gm)


def register(to: mmsb.Bus | mmsb.Transaction) -> Energy:
    """Derive the energy, or register its function again where it is derived.

    Examples
    --------
    >>> from mmsb.demo.system import start
    >>> bus = mmsb.Bus()
    >>> start(bus)
    >>> register(bus).calls  # as it was: nothing to compute
    0
    """
    inputs = ["position", "velocity", "gm"]
    return to.derive("energy", inputs, meta={"unit": "au**5/day**4"})(Energy())


def derive(tx: mmsb.Transaction) -> None:
    """Derive all four pages."""
    tx.create_page("turn", data=np.eye(3, dtype="i1")[[2, 0, 1]])
    tx.map(BARYCENTRE, "barycentre", meta={"unit": "au"})
    tx.map(ANGULAR_MOMENTUM, "angular_momentum", meta={"unit": "au**5/day**3"})
    pair(tx, len(tx.read("gm")))
    register(tx)


def pair(tx: mmsb.Transaction, count: int) -> None:
    """Derive the distance of each two of so many bodies, in the order of `numpy.triu_indices`."""
    first, second = np.triu_indices(count, 1)
    one = np.eye(count, dtype="i1")
    if "pairs" in tx:
        tx.delete("pairs")
    tx.create_page("pairs", data=one[first] - one[second])
    tx.map(DISTANCES, "distances", meta={"unit": "au"})


def follows(pages: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Floats]:
    """Compute from positions, velocities and masses what the derived pages must be, bit for bit.

    Nothing of the bus is used, only NumPy. The sums of expressions have an order of their own,
    which NumPy does not keep to: a product adds from first to last, `sum` in lanes.

    Examples
    --------
    >>> from mmsb.demo.system import advance, start
    >>> bus = mmsb.Bus()
    >>> start(bus)
    >>> for epoch in advance(bus, until=10):
    ...     pages = bus.snapshot()
    ...     for name, values in follows(pages).items():
    ...         assert pages[name].tobytes() == values.tobytes()
    """
    position, velocity, gm = (np.asarray(pages[name], "f8") for name in _STATE)
    first, second = np.triu_indices(len(gm), 1)
    left, right = [1, 2, 0], [2, 0, 1]
    spin = position[:, left] * velocity[:, right] - position[:, right] * velocity[:, left]
    apart = position[first] - position[second]
    return {
        "barycentre": _in_turn(gm[:, None] * position) / _in_lanes(gm),
        "angular_momentum": _in_turn(gm[:, None] * spin),
        "distances": np.sqrt(_in_lanes((apart * apart).T)),
        "energy": np.asarray(energy(position, velocity, gm)),
    }


_STATE = ("position", "velocity", "gm")


def _in_turn(terms: Floats) -> Floats:
    """Add rows from first to last, as `@` does."""
    return np.asarray(np.add.accumulate(terms)[-1])


def _in_lanes(terms: Floats) -> Floats:
    """Add up to 128 rows as `sum` does: each eighth one into one lane, then the lanes by halves."""
    lanes = np.full((8, *terms.shape[1:]), -0.0)
    for begin in range(0, len(terms), 8):
        rows = terms[begin : begin + 8]
        lanes[: len(rows)] += rows
    for half in (4, 2, 1):
        lanes = lanes[:half] + lanes[half : 2 * half]
    return np.asarray(lanes[0])
