"""Stores that may be damaged: checking every byte, and saving what is good."""

from __future__ import annotations

import os
from typing import SupportsIndex

from . import _core, _logging, _resolve
from ._bus import Progress
from ._reports import Report, Salvage
from .errors import CorruptionError


def verify(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Report:
    """Read and check every byte of a store, also of one that does not open.

    It is :meth:`Bus.verify` for a directory that no process has open for writing. Nothing in it is
    changed.

    Parameters
    ----------
    path : path-like
        The directory.
    progress : callable, optional
        Called now and then with the work done and the work in all, in bytes.

    Returns
    -------
    Report
        What was found; problems are listed, not raised.

    Raises
    ------
    BusNotFoundError
        There is no store.
    BusLockedError
        A process has it open for writing; call ``bus.verify()`` there.
    FormatVersionError
        The store was written by a newer version.

    Examples
    --------
    >>> import mmsb, tempfile
    >>> with tempfile.TemporaryDirectory() as d:
    ...     mmsb.create(d + "/sim.mmsb").close()
    ...     mmsb.verify(d + "/sim.mmsb").ok
    True
    """
    with _logging.warnings():
        records, size, problems = _core.verify(_resolve.path_text(path), progress)
    return Report(tuple(p for p in problems if isinstance(p, CorruptionError)), records, size)


def recover(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    upto: SupportsIndex | None = None,
    *,
    newest: bool = False,
    progress: Progress | None = None,
) -> Salvage:
    """Write what is provably good of a damaged store into a new one.

    The new store has every epoch from the first one to the first hole as it was: its state, time,
    source, metadata, tags and deltas under the same number. Nothing is guessed and no hole is
    hidden: the history ends before the first commit that is lost. The damaged store is only read.

    Behind the damage there may be more: a sound checkpoint proves the state of its epoch, and the
    log behind it the states after it. ``later`` of the result lists these epochs. With
    ``newest=True`` the state of the newest of them becomes one more commit of the new store, the
    last one: its source is "mmsb.recover", its metadata ``{"recovered_epoch": n}`` says which epoch
    of the damaged store it was. With `upto` any of them can be had.

    Parameters
    ----------
    path : path-like
        The directory of the damaged store. No process may have it open for writing.
    to : path-like
        A directory that is not there or empty, outside of the damaged store.
    upto : int, optional
        Take no epoch after this one.
    newest : bool, optional
        Add a commit with the newest state that is whole behind the first hole, if there is one.
    progress : callable, optional
        Called now and then with the work done and the work in all, in bytes.

    Returns
    -------
    Salvage
        What is in the new store, every problem, and the epochs that are lost.

    Raises
    ------
    BusNotFoundError
        There is no store at `path`.
    BusLockedError
        A process has the damaged store open for writing; the error has its `pid`.
    BusExistsError
        There is a bus at `to`.
    ArgumentError
        `to` holds other files, or one directory lies in the other.
    EpochNotFoundError
        Nothing tells of an epoch `upto`.
    FormatVersionError
        The store was written by a newer version.
    StorageError
        The new store could not be written; nothing that opens is left of it.

    Examples
    --------
    >>> import mmsb, pathlib, tempfile
    >>> directory = tempfile.TemporaryDirectory()
    >>> store, new = directory.name + "/sim.mmsb", directory.name + "/new.mmsb"
    >>> with mmsb.create(store) as bus:
    ...     x = bus.create_page("x", data=[0])
    ...     for step in range(1, 9):
    ...         bus["x"] = step
    ...         if step == 6:
    ...             epoch = bus.checkpoint()
    >>> segment = next(pathlib.Path(store, "log").iterdir())
    >>> log = bytearray(segment.read_bytes())
    >>> log[4350] ^= 1
    >>> done = segment.write_bytes(log)

    Epochs 1 to 4 are good, 5 and 6 are lost, 7 is in a checkpoint and 8 and 9 follow it:

    >>> told = mmsb.recover(store, new, newest=True)
    >>> told.ok, told.lost, told.later, told.appended
    (False, ((5, 7),), ((7, 10),), 9)
    >>> with mmsb.open(new) as bus:
    ...     print(bus.epoch, bus["x"].read(), next(iter(bus.log(reverse=True))).meta)
    5 [8] {'recovered_epoch': 9}
    >>> directory.cleanup()
    """
    bound = None if upto is None else _resolve.number(upto, "upto")
    # A link must not hide that both are one directory.
    source, target = (os.path.realpath(_resolve.path_text(where)) for where in (path, to))
    with _logging.warnings():
        told = _core.recover(source, target, bound, newest, progress)
    return Salvage(
        tuple(p for p in told.problems if isinstance(p, CorruptionError)),
        told.epoch,
        told.records,
        told.bytes,
        told.torn_bytes,
        tuple(told.lost),
        tuple(told.later),
        told.appended,
    )
