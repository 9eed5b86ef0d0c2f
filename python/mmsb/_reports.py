"""What opening, verifying and pruning a bus tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import CorruptionError


@dataclass(frozen=True, slots=True)
class Recovery:
    """What opening a bus found and did.

    Attributes
    ----------
    epoch : int
        The newest epoch that was found.
    checkpoint_epoch : int or None
        The epoch of the checkpoint that it began with.
    records : int
        Number of log records that were applied to it.
    torn_bytes : int
        Bytes of an incomplete record at the end of the log.
    quarantined : tuple of pathlib.Path
        Files where bytes that are not part of the state were kept.
    seconds : float
        How long it took.

    Examples
    --------
    >>> import mmsb, tempfile
    >>> with tempfile.TemporaryDirectory() as d:
    ...     mmsb.create(d + "/sim.mmsb").close()
    ...     with mmsb.open(d + "/sim.mmsb") as bus:
    ...         print(bus.recovery.epoch, bus.recovery.torn_bytes)
    0 0
    """

    epoch: int
    checkpoint_epoch: int | None
    records: int
    torn_bytes: int
    quarantined: tuple[Path, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What :meth:`Bus.cost` says that reading all of an epoch takes.

    Attributes
    ----------
    checkpoint : int or None
        The epoch of the checkpoint that it begins with.
    bytes : int
        Bytes of that checkpoint, of what it stands on and of the log from there on, at most.
    records : int
        Commits between the checkpoint and the epoch.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", size=8)
    >>> bus.cost(1)
    Cost(checkpoint=None, bytes=0, records=0)
    """

    checkpoint: int | None
    bytes: int
    records: int


@dataclass(frozen=True, slots=True)
class Report:
    """What :meth:`Bus.verify` or :func:`verify` found.

    Attributes
    ----------
    problems : tuple of CorruptionError
        What is damaged.
    records : int
        Number of log records that were checked.
    bytes : int
        Number of bytes that were checked.
    ok : bool
        Whether there is no problem.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", size=8)
    >>> report = bus.verify()
    >>> report.ok, report.records
    (True, 1)
    """

    problems: tuple[CorruptionError, ...]
    records: int
    bytes: int

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class WaveReport:
    """What followed from a transaction's writes, by ids of pages.

    Given by :meth:`Transaction.report`. Pages are in the order in which it came to them.

    Attributes
    ----------
    computed : tuple of int
        Derived pages that were computed and are others now.
    cut_off : tuple of int
        Derived pages that were computed and stayed what they were.
    stale : tuple of int
        Pages that became stale.
    poisoned : tuple of int
        Pages that became poisoned.
    gpu_sync : tuple of int
        Pages behind a link of this kind from a page that changed.
    compiler : tuple of int
        Likewise.
    seconds : dict of int to float or None
        How long each page of `computed` and `cut_off` took, if ``timing=True`` was asked for. Of
        pages that were computed together it is their part of that time, each as much.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", data=[1.0, -2.0])
    >>> y, z = bus.map("abs(x)", "y"), bus.map("y + 1", "z")
    >>> with bus.transaction() as tx:
    ...     tx["x"] = -x[:]
    >>> report = tx.report()
    >>> report.computed, report.cut_off, report.seconds
    ((), (2,), None)
    """

    computed: tuple[int, ...]
    cut_off: tuple[int, ...]
    stale: tuple[int, ...]
    poisoned: tuple[int, ...]
    gpu_sync: tuple[int, ...]
    compiler: tuple[int, ...]
    seconds: dict[int, float] | None


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What :meth:`Bus.prune` let go, or would.

    Attributes
    ----------
    files : tuple of (pathlib.Path, int)
        The files that went, and their bytes.
    bytes : int
        Their bytes in all.
    checkpoints : tuple of int
        Epochs of the checkpoints that were made first.
    epochs : tuple of (int, int)
        Epochs that can no longer be opened, as ranges (start, stop) without stop.
    oldest : int
        The oldest epoch that opens.

    Examples
    --------
    >>> import mmsb, tempfile
    >>> with tempfile.TemporaryDirectory() as d, mmsb.create(d + "/sim.mmsb") as bus:
    ...     x = bus.create_page("x", data=[1])
    ...     x[0] = 2
    ...     report = bus.prune(log_since=2, dry_run=True)
    >>> report.checkpoints, report.epochs, report.oldest
    ((2,), ((0, 2),), 2)
    """

    files: tuple[tuple[Path, int], ...]
    bytes: int
    checkpoints: tuple[int, ...]
    epochs: tuple[tuple[int, int], ...]
    oldest: int


@dataclass(frozen=True, slots=True)
class Salvage:
    """What :func:`recover` found and wrote. Ranges of epochs are half-open, as those of Python.

    Attributes
    ----------
    problems : tuple of CorruptionError
        Every damaged place: its file, offset and epoch, as far as they are known.
    epoch : int
        The newest epoch of the new store.
    records : int
        Number of sound log records that were read.
    bytes : int
        Number of bytes of log and checkpoints that were read.
    torn_bytes : int
        Bytes of an incomplete record at the end of the log. They are no problem: nobody can have
        been told that it was there.
    lost : tuple of (int, int)
        Epochs that cannot be rebuilt.
    later : tuple of (int, int)
        Epochs behind the first hole whose states are whole, in a checkpoint or from one on.
    appended : int or None
        The epoch of the damaged store whose state the last commit of the new one has; None if there
        is no such commit.
    ok : bool
        Whether there is no problem.

    Examples
    --------
    >>> import mmsb, tempfile
    >>> with tempfile.TemporaryDirectory() as d:
    ...     mmsb.create(d + "/sim.mmsb").close()
    ...     told = mmsb.recover(d + "/sim.mmsb", d + "/new.mmsb")
    >>> told.ok, told.epoch, told.lost
    (True, 0, ())
    """

    problems: tuple[CorruptionError, ...]
    epoch: int
    records: int
    bytes: int
    torn_bytes: int
    lost: tuple[tuple[int, int], ...]
    later: tuple[tuple[int, int], ...]
    appended: int | None

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems
