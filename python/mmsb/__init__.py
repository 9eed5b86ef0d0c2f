"""MMSB, the Memory-Mapped State Bus.

It keeps the state of a program in one place, committed and logged. A bus holds pages, which are
NumPy arrays to read. Every change is a commit, which makes a new epoch; every epoch can be read
back bit for bit, and after a crash the bus opens at the last commit.

Examples
--------
>>> import numpy as np
>>> import mmsb
>>> bus = mmsb.Bus()  # in memory; mmsb.create("sim.mmsb") keeps it in a directory
>>> pos = bus.create_page("pos", shape=(1000, 3), dtype="f4", meta={"unit": "m"})
>>> with bus.transaction(source="physics", meta={"step": 7}) as tx:
...     tx["pos"] += 0.5
>>> pos[3]
array([0.5, 0.5, 0.5], dtype=float32)

Arrays that are read never change and cannot be written to. So ``+=`` belongs to a transaction:

>>> pos[...] += 1
Traceback (most recent call last):
    ...
ValueError: output array is read-only
>>> with bus.transaction() as tx:
...     tx[pos] += 1
>>> pos[...] = pos[...] + 1  # or a commit of its own
>>> float(pos[0, 0])
2.5

What was the state then, and who made it?

>>> with bus.snapshot(meta={"step": 7}) as then:
...     print(then.epoch, then["pos"][0])
2 [0.5 0.5 0.5]
>>> [(commit.epoch, commit.source) for commit in bus.log(page=pos, until=2)]
[(1, None), (2, 'physics')]
"""

from . import _fork
from ._bus import Bus
from ._compare import Divergence, compare
from ._core import __version__
from ._delta import Delta
from ._events import Event, Lagged, Subscription
from ._graph import Edge, Graph, Planned, Why
from ._history import Change, Commit, Difference
from ._open import create, open
from ._page import Page
from ._reports import Cost, PruneReport, Recovery, Report, Salvage, WaveReport
from ._salvage import recover, verify
from ._snapshot import PageDescription, Snapshot
from ._transaction import Transaction
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    BusExistsError,
    BusLockedError,
    BusNotFoundError,
    ClosedError,
    CommitOutcomeUnknownError,
    ConflictError,
    CorruptionError,
    EpochNotFoundError,
    ForkedHandleError,
    FormatVersionError,
    GraphCycleError,
    InternalError,
    InvalidDeltaError,
    MMSBError,
    OutOfSpaceError,
    PageExistsError,
    PageIndexError,
    PageNotFoundError,
    PropagationError,
    ReadOnlyError,
    ReentrancyError,
    StorageError,
    TagExistsError,
    TagNotFoundError,
    TooManySnapshotsError,
    TransactionClosedError,
)

__all__ = [
    "create",
    "open",
    "recover",
    "verify",
    "compare",
    "Bus",
    "Page",
    "Transaction",
    "Snapshot",
    "Delta",
    "Commit",
    "Change",
    "Difference",
    "Graph",
    "Edge",
    "Planned",
    "Why",
    "Subscription",
    "Event",
    "Lagged",
    "PageDescription",
    "Cost",
    "Recovery",
    "Report",
    "PruneReport",
    "WaveReport",
    "Salvage",
    "Divergence",
    "MMSBError",
    "PageNotFoundError",
    "PageExistsError",
    "BusExistsError",
    "BusNotFoundError",
    "InvalidDeltaError",
    "TransactionClosedError",
    "ConflictError",
    "ClosedError",
    "ReadOnlyError",
    "ForkedHandleError",
    "BusLockedError",
    "EpochNotFoundError",
    "TagNotFoundError",
    "TagExistsError",
    "CorruptionError",
    "FormatVersionError",
    "StorageError",
    "OutOfSpaceError",
    "TooManySnapshotsError",
    "CommitOutcomeUnknownError",
    "ArgumentError",
    "ArgumentTypeError",
    "PageIndexError",
    "GraphCycleError",
    "PropagationError",
    "ReentrancyError",
    "InternalError",
    "__version__",
]

_fork.register()
