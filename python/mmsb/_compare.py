"""Where two histories part: the first epoch, page and byte."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core, _logging, _metadata
from ._bus import Bus, Progress
from ._history import Commit
from ._open import open as open_bus
from .errors import ArgumentTypeError


@dataclass(frozen=True, slots=True, eq=False)
class Divergence:
    """Where two histories part, as :func:`compare` tells it.

    Attributes
    ----------
    epoch : int
        The first epoch whose states differ; for "length" the first that only one history has.
    kind : str
        What differs in the page: the first that holds of "page" (it is in one of them only),
        "dtype", "shape", "bytes", "name", "meta" and "location"; or "length", where one history is
        the beginning of the other.
    page : int or None
        Id of the page, the lowest of those that differ; None for "length".
    name : str or None
        Its name in the first history, or else in the second.
    offset : int or None
        The first byte of the page that differs; None unless bytes do.
    index : tuple of int or None
        The element that it is in.
    a, b : object
        What each has there: for "bytes" the two elements, for "page" whether it is there, for
        "length" the newest epochs, else the two dtypes, shapes, names, metadata or locations.
    commit_a, commit_b : Commit or None
        The commits that made the epoch, with source and metadata; None where a history has none.

    Examples
    --------
    >>> import mmsb
    >>> a = mmsb.Bus()
    >>> x = a.create_page("x", data=[1, 2])
    >>> b = a.fork()
    >>> a["x"][0] = 5
    >>> found = mmsb.compare(a, b)
    >>> found.epoch, found.kind, found.a, found.b
    (2, 'length', 2, 1)
    """

    epoch: int
    kind: str
    page: int | None
    name: str | None
    offset: int | None
    index: tuple[int, ...] | None
    a: Any
    b: Any
    commit_a: Commit | None
    commit_b: Commit | None


def compare(
    a: Bus | str | os.PathLike[str],
    b: Bus | str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> Divergence | None:
    """Find the first epoch, page and byte where two histories part.

    It is for runs that should have been the same and were not. The states of epochs of equal number
    are compared: bytes, shapes, dtypes, names and metadata of all pages. Times, sources and
    metadata of commits, tags, and the way in which a commit wrote are no part of the state.

    The epoch that is found is the first one, also where the states agree again later: both logs are
    read from the beginning, commit by commit. While the commits are equal nothing else is done;
    where they are not, both states are rebuilt and their digests compared. What copies of one store
    have in common is not read. So it costs one reading of both logs up to the divergence, and two
    past epochs.

    Parameters
    ----------
    a, b : Bus or path-like
        Open buses, in memory or not, or directories. They may be the same, or forks of each other:
        then only epochs that both have are compared, and the first one of a fork is that from which
        it was made.
    progress : callable, optional
        Called now and then with the epochs compared and the epochs in all.

    Returns
    -------
    Divergence or None
        None if both have the same epochs with equal states.

    Raises
    ------
    EpochNotFoundError
        No epoch is in both histories.
    CorruptionError
        A log is damaged.

    Examples
    --------
    >>> import mmsb
    >>> def run(gain):
    ...     bus = mmsb.Bus()
    ...     x = bus.create_page("x", shape=4)
    ...     for step in range(3):
    ...         with bus.transaction(source="physics", meta={"step": step}) as tx:
    ...             tx["x"] += 1
    ...             if step == 1:
    ...                 tx["x"][2] *= gain
    ...     return bus
    >>> found = mmsb.compare(run(2.0), run(2.5))
    >>> found.epoch, found.name, found.index, float(found.a), float(found.b)
    (3, 'x', (2,), 4.0, 5.0)
    >>> found.commit_a.source, found.commit_a.meta
    ('physics', {'step': 1})
    >>> mmsb.compare(run(2.0), run(2.0)) is None
    True
    """
    _logging.follow()
    with ExitStack() as stack:
        left, right = (
            stack.enter_context(_opened(side, name)) for side, name in ((a, "a"), (b, "b"))
        )
        ends = left.epoch, right.epoch
        epoch = left.part(right, progress)
        if epoch is not None:
            return _first(left, right, epoch)
        if ends[0] == ends[1]:
            return None
        epoch = min(ends) + 1
        commits = _commit(left, epoch), _commit(right, epoch)
        return Divergence(epoch, "length", None, None, None, None, *ends, *commits)


@contextmanager
def _opened(side: Bus | str | os.PathLike[str], name: str) -> Iterator[_core.Core]:
    """Give the core of a bus, for a directory one that is closed again."""
    if isinstance(side, Bus):
        yield side._core
        return
    if not isinstance(side, (str, os.PathLike)):
        raise ArgumentTypeError(f"{name} must be a bus or a path, not {type(side).__name__}")
    with open_bus(side) as bus:
        yield bus._core


def _commit(core: _core.Core, epoch: int) -> Commit | None:
    entry = next(core.log(epoch, epoch, False), None)
    return None if entry is None else Commit(core, entry)


def _first(left: _core.Core, right: _core.Core, epoch: int) -> Divergence:
    """Tell what differs in the first page that does."""
    a, b = left.snapshot(epoch), right.snapshot(epoch)
    try:
        page = a.changed_pages(b)[0]
        old, new = a.info(page), b.info(page)
        kind, offset, index, values = _difference(a, b, page)
    finally:
        a.close()
        b.close()
    name = next((info.name for info in (old, new) if info is not None), None)
    commits = _commit(left, epoch), _commit(right, epoch)
    return Divergence(epoch, kind, page, name, offset, index, *values, *commits)


def _difference(
    a: _core.Snap, b: _core.Snap, page: int
) -> tuple[str, int | None, tuple[int, ...] | None, tuple[Any, Any]]:
    x, y = a.info(page), b.info(page)
    if x is None or y is None:
        return "page", None, None, (x is not None, y is not None)
    if (x.dtype, x.raw) != (y.dtype, y.raw):
        return "dtype", None, None, (x.dtype, y.dtype)
    if x.shape != y.shape:
        return "shape", None, None, (x.shape, y.shape)
    for start, stop in a.diff(b, page):
        old, new = a.read(page, start, stop), b.read(page, start, stop)
        offset = start + int(np.flatnonzero(old != new)[0])
        element = offset // x.dtype.itemsize
        first = element * x.dtype.itemsize - start
        index = tuple(int(i) for i in np.unravel_index(element, x.shape))
        values = tuple(
            side[first : first + x.dtype.itemsize].view(x.dtype)[0] for side in (old, new)
        )
        return "bytes", offset, index, (values[0], values[1])
    if x.name != y.name:
        return "name", None, None, (x.name, y.name)
    if x.meta != y.meta:
        return "meta", None, None, (_metadata.meta_dict(x.meta), _metadata.meta_dict(y.meta))
    return "location", None, None, (x.location, y.location)
