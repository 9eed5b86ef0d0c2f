"""Buses in a directory: making and opening them."""

from __future__ import annotations

import os
from typing import Literal, SupportsIndex

from . import _core, _logging, _resolve
from ._bus import Bus, Clock, Progress, check_clock
from ._metadata import how
from .errors import ArgumentError


def create(
    path: str | os.PathLike[str],
    *,
    durability: Literal["memory", "os", "disk"] | None = None,
    max_memory: SupportsIndex | None = None,
    clock: Clock | None = None,
    checkpoint_every: SupportsIndex | None = None,
    compression: Literal["lz4"] | None = None,
) -> Bus:
    """Create a bus in a directory and become its host.

    Parameters
    ----------
    path : path-like
        The directory, which is made.
    durability : {"memory", "os", "disk"}, optional
        What a commit survives: the process, ``kill -9``, or power loss, which is the default. It is
        stored and holds when the bus is opened again. Each ``disk`` commit waits for a sync: in a
        simulation loop use ``os`` and ``bus.sync()`` every N steps.
    max_memory, clock
        As for :class:`Bus`.
    checkpoint_every : int, optional
        Make a checkpoint after so many epochs, beside the commits. Without it one is made after
        256 MiB of log, or half the bytes of all pages if that is more. An opening reads one
        checkpoint and the log behind it, so this bounds how long it takes.
    compression : {"lz4"}, optional
        Compress the blocks of checkpoints where that makes them shorter.

    Returns
    -------
    Bus
        To be closed, or used as a context manager.

    Raises
    ------
    BusExistsError
        There is one.

    Examples
    --------
    >>> import mmsb, tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> with mmsb.create(directory.name + "/sim.mmsb", durability="os") as bus:
    ...     pos = bus.create_page("pos", shape=(3, 2))
    >>> with mmsb.open(directory.name + "/sim.mmsb") as bus:
    ...     print(bus["pos"].shape, bus.mode)
    (3, 2) r
    >>> directory.cleanup()
    """
    about = how(None, None, durability)
    limit = _resolve.positive(max_memory, "max_memory")
    every, compress = _checkpoints(checkpoint_every, compression)
    with _logging.warnings():
        core = _core.Core.create(
            _resolve.path_text(path),
            about.durability,
            limit,
            check_clock(clock),
            checkpoint_every=every,
            compress=compress,
        )
    return Bus._of(core)


def open(
    path: str | os.PathLike[str],
    mode: Literal["r", "r+", "a"] = "r",
    *,
    durability: Literal["memory", "os", "disk"] | None = None,
    max_memory: SupportsIndex | None = None,
    clock: Clock | None = None,
    checkpoint_every: SupportsIndex | None = None,
    compression: Literal["lz4"] | None = None,
    progress: Progress | None = None,
) -> Bus:
    """Open a bus in a directory.

    Parameters
    ----------
    path : path-like
        The directory.
    mode : {"r", "r+", "a"}, optional
        "r" shows the newest epoch there is and takes no lock; it reads what a page needs when
        somebody looks at it. "r+" recovers the state and becomes the host. "a" does too, and
        creates the bus if there is none.
    durability : {"memory", "os", "disk"}, optional
        Other than the stored one.
    max_memory, clock
        As for :class:`Bus`.
    checkpoint_every, compression
        As for :func:`create`; they are not stored.
    progress : callable, optional
        Called now and then with the bytes read and the bytes in all.

    Returns
    -------
    Bus
        To be closed, or used as a context manager. ``bus.recovery`` tells what was found.

    Raises
    ------
    BusNotFoundError
        There is none.
    BusLockedError
        Another process is the host; the error has its `pid`.
    CorruptionError
        It is damaged.

    Examples
    --------
    >>> import mmsb, tempfile
    >>> with tempfile.TemporaryDirectory() as d, mmsb.open(d + "/sim.mmsb", mode="a") as bus:
    ...     print(bus.epoch, bus.mode, bus.recovery)
    0 r+ None
    """
    if mode not in ("r", "r+", "a"):
        raise ArgumentError(f"mode must be 'r', 'r+' or 'a', not {mode!r}")
    about = how(None, None, durability)
    limit = _resolve.positive(max_memory, "max_memory")
    every, compress = _checkpoints(checkpoint_every, compression)
    with _logging.warnings():
        core = _core.Core.open(
            _resolve.path_text(path),
            mode,
            about.durability,
            limit,
            check_clock(clock),
            progress,
            checkpoint_every=every,
            compress=compress,
        )
    return Bus._of(core)


def _checkpoints(every: SupportsIndex | None, compression: str | None) -> tuple[int | None, bool]:
    if compression not in (None, "lz4"):
        raise ArgumentError(f"compression must be None or 'lz4', not {compression!r}")
    return _resolve.count(every, "checkpoint_every", 1), compression is not None
