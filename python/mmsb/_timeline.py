"""The half of a bus that looks back: epochs, tags, the log, what differs and what is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsIndex

from . import _core, _history, _logging, _resolve
from ._core import Core, Snap
from ._metadata import check_name, how
from ._page import commit
from ._reports import Cost, PruneReport
from ._resolve import EpochLike, Moment, PageLike, TimeLike
from ._snapshot import Snapshot
from .errors import ArgumentError


class Timeline:
    """The history of a bus; see :class:`Bus`."""

    __slots__ = ()
    _core: Core

    @property
    def tags(self) -> dict[str, int]:
        """Epochs by tag."""
        return dict(self._core.tags())

    def snapshot(
        self,
        epoch: EpochLike | None = None,
        *,
        as_of: TimeLike | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        """Pin an epoch and read all its pages.

        Parameters
        ----------
        epoch : int, str, Commit or Snapshot, optional
            A number, a tag's name, a commit or a snapshot; the newest epoch unless given.
        as_of : int, numpy.datetime64 or datetime, optional
            The last epoch whose time is not later. An int means nanoseconds since 1970 UTC, a
            datetime must be aware.
        meta : mapping, optional
            The newest epoch whose commit has these top-level keys with these values.

        Returns
        -------
        Snapshot
            To be closed, or used as a context manager.

        Raises
        ------
        EpochNotFoundError
            There is no such epoch, or it was let go by :meth:`Bus.prune`.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0])
        >>> x.write(2, meta={"step": 1})
        2
        >>> x.write(3, meta={"step": 2})
        3
        >>> with bus.snapshot(meta={"step": 1}) as s:
        ...     print(s.epoch, s["x"])
        2 [2.]
        """
        core = self._core
        if sum(choice is not None for choice in (epoch, as_of, meta)) > 1:
            raise ArgumentError("give one of epoch, as_of and meta")
        if as_of is not None:
            number = _resolve.epoch_as_of(core, as_of)
        elif meta is not None:
            number = _resolve.epoch_with(core, meta)
        elif epoch is not None:
            number = _resolve.epoch_number(core, epoch)
        else:
            return Snapshot(core, core.snapshot())
        return Snapshot(core, core.snapshot(number))

    def _state(self, epoch: EpochLike | None) -> Snap:
        """Return the state of an epoch; a snapshot has it already."""
        if isinstance(epoch, Snapshot) and epoch._core is self._core:
            return epoch._snap
        if epoch is None:
            return self._core.snapshot()
        return self._core.snapshot(_resolve.epoch_number(self._core, epoch))

    def log(
        self,
        page: PageLike | None = None,
        *,
        index: Any = None,
        since: EpochLike | Moment = 0,
        until: EpochLike | Moment | None = None,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        reverse: bool = False,
    ) -> Iterator[_history.Commit]:
        """Go through the commits that match, lazily.

        With `page`, `source` or `meta` only the records that match are read, from the indexes of
        the log's segments; the newest segment, which has none yet, is gone through.

        Parameters
        ----------
        page : Page, str or int, optional
            Only commits that touched this page, structurally too.
        index : index, optional
            Only commits that wrote a byte of the elements that it names in `page`.
        since, until : int, str, Commit, Snapshot, numpy.datetime64 or datetime, optional
            First and last epoch, or the time of the earliest and the latest commit; a number
            beyond the newest means the newest. A datetime must be aware.
        source : str, optional
            Only commits of this source.
        meta : mapping, optional
            Only commits whose metadata has these top-level keys with these values.
        reverse : bool, optional
            Newest first.

        Returns
        -------
        iterator of Commit
            The commits.

        Examples
        --------
        What was the state at a step, and who changed it?

        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", shape=3)
        >>> x.write(1, source="setup", meta={"step": 0})
        2
        >>> with bus.transaction(source="physics", meta={"step": 1}) as tx:
        ...     tx["x"][2] = 5
        >>> [c.source for c in bus.log(page="x", index=2, reverse=True)]
        ['physics', 'setup', None]
        >>> bus.snapshot(meta={"step": 1})["x"]
        array([1., 1., 5.])

        What happened in the last hour?

        >>> import numpy as np
        >>> hour_ago = np.datetime64("now") - np.timedelta64(1, "h")
        >>> [c.epoch for c in bus.log(since=hour_ago)]
        [1, 2, 3]
        """
        return _history.log(self._core, page, index, since, until, source, meta, reverse)

    def diff(
        self, a: EpochLike, b: EpochLike, page: PageLike | None = None
    ) -> Iterator[_history.Difference]:
        """Tell what differs between two epochs, page by page.

        Parameters
        ----------
        a, b : int, str, Commit or Snapshot
            The epochs. A snapshot may be of another bus: two forks can be compared.
        page : Page, str or int, optional
            Only this page.

        Returns
        -------
        iterator of Difference
            One for each page that differs, in id order.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1, 2, 3])
        >>> x[1] = 7
        >>> [d] = bus.diff(1, 2)
        >>> d.name, d.change, d.ranges, d.old, d.new
        ('x', 'changed', ((8, 16),), (array([2]),), (array([7]),))
        """
        old, new = (e._snap if isinstance(e, Snapshot) else self._state(e) for e in (a, b))
        which = None if page is None else _history.diff_page(self._core, old, new, page)
        return _history.diff(old, new, which)

    def tag(
        self,
        name: str,
        epoch: EpochLike | None = None,
        *,
        move: bool = False,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Give an epoch a name, as one commit.

        Parameters
        ----------
        name : str
            The tag.
        epoch : int, str, Commit or Snapshot, optional
            The epoch; the newest one unless given.
        move : bool, optional
            Take the name from the epoch that has it.
        source, meta, durability
            As for :meth:`transaction`.

        Returns
        -------
        int
            The epoch that shows it.

        Raises
        ------
        TagExistsError
            The name is taken.
        EpochNotFoundError
            There is no such epoch, or it was let go.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1])
        >>> bus.tag("start", 1)
        2
        >>> bus.snapshot("start")["x"], bus.tags
        (array([1]), {'start': 1})
        """
        about = how(source, meta, durability)
        number = self._core.epoch if epoch is None else _resolve.epoch_number(self._core, epoch)
        if number < self._core.epoch:
            self._core.check_epoch(number)
        batch = _core.Batch()
        batch.tag(check_name(name, "tag name"), number, bool(move))
        return commit(self._core, batch, about)

    def untag(
        self,
        name: str,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Take a tag away, as one commit.

        Parameters
        ----------
        name : str
            The tag.
        source, meta, durability
            As for :meth:`transaction`.

        Returns
        -------
        int
            The epoch that shows it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> bus.tag("empty", 0)
        1
        >>> bus.untag("empty")
        2
        """
        about = how(source, meta, durability)
        batch = _core.Batch()
        batch.untag(check_name(name, "tag name"))
        return commit(self._core, batch, about)

    def restore(
        self,
        epoch: EpochLike,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Make the state of an epoch the newest one, as one commit. Nothing of the history is lost.

        Bytes, shapes, names and metadata become those of that epoch; a page deleted since returns
        under its id, one created since is deleted. Tags stay.

        Parameters
        ----------
        epoch : int, str, Commit or Snapshot
            The epoch.
        source, meta, durability
            As for :meth:`transaction`.

        Returns
        -------
        int
            The epoch that shows it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1])
        >>> x[0] = 2
        >>> bus.restore(1)
        3
        >>> x.read(), bus.digest() == bus.digest(1)
        (array([1]), True)
        """
        about = how(source, meta, durability)
        _logging.follow()
        return self._core.restore(self._state(epoch), *about)[0]

    def cost(self, epoch: EpochLike) -> Cost:
        """Tell what it takes to read all of an epoch, before doing it.

        A snapshot of a bus in a directory reads the pages that somebody looks at; ``digest``,
        ``diff``, ``restore`` and ``fork`` read all.

        Parameters
        ----------
        epoch : int, str, Commit or Snapshot
            The epoch.

        Returns
        -------
        Cost
            Bytes and commits; none for the newest epoch of a host, which is in memory.

        Raises
        ------
        EpochNotFoundError
            There is no such epoch.

        Examples
        --------
        >>> import mmsb, tempfile
        >>> with tempfile.TemporaryDirectory() as d, mmsb.create(d + "/b") as bus:
        ...     for step in range(10):
        ...         x = bus.create_page(f"x{step}", data=[step])
        ...         if step == 5:
        ...             epoch = bus.checkpoint()
        ...     bus.cost(8).checkpoint, bus.cost(8).records
        (6, 2)
        """
        return Cost(*self._core.cost(_resolve.epoch_number(self._core, epoch)))

    def prune(
        self,
        *,
        log_since: EpochLike | None = None,
        checkpoints: SupportsIndex | None = None,
        every: SupportsIndex | None = None,
        dry_run: bool = False,
    ) -> PruneReport:
        """Let go of old history, so that the store takes less disk. Nothing else ever does.

        The log from `log_since` on stays, so every epoch from there on opens. It is cut at whole
        files: it begins with the newest sound checkpoint that is not after `log_since`, or with one
        that is made of that epoch. Of the epochs before, those stay that have a checkpoint which is
        kept: all tagged ones, for which checkpoints are made first, and those that `checkpoints`
        and `every` name. All others raise :class:`EpochNotFoundError` from then on.

        Every byte of the checkpoint that the log is to begin with is read and checked before
        anything goes. A crash at any moment leaves a store that opens. Open snapshots and arrays
        stay as they are. Without any of the first three parameters nothing is let go; what an
        interrupted call left is removed.

        Parameters
        ----------
        log_since : int, str, Commit or Snapshot, optional
            The first epoch of which all must stay; the log stays as it is unless given.
        checkpoints : int, optional
            Keep so many of the checkpoints before the log, the newest; tagged ones do not count.
        every : int, optional
            Of these checkpoints keep for each multiple of this number the newest that is not after
            it.
        dry_run : bool, optional
            Tell what would go, and change nothing.

        Returns
        -------
        PruneReport
            What went.

        Raises
        ------
        EpochNotFoundError
            `log_since` is beyond the newest epoch.
        ArgumentError
            A number is out of range, the bus is in memory, or a backup of it is being made.
        ReadOnlyError
            The bus was opened with mode "r".
        CorruptionError
            What is to stay is damaged; nothing went.
        StorageError
            A file could not be written, synced or removed. Nothing went that is to stay.

        Examples
        --------
        >>> import mmsb, tempfile
        >>> with tempfile.TemporaryDirectory() as d, mmsb.create(d + "/sim.mmsb") as bus:
        ...     x = bus.create_page("x", data=[0])
        ...     for step in range(1, 10):
        ...         x[0] = step
        ...     tagged = bus.tag("good", 4)
        ...     report = bus.prune(log_since=8)
        ...     print(report.checkpoints, report.epochs, report.oldest)
        ...     print(bus.snapshot("good")["x"], bus.snapshot(8)["x"])
        (4, 8) ((0, 4), (5, 8)) 4
        [3] [7]
        """
        _logging.follow()
        core = self._core
        since = None if log_since is None else _resolve.epoch_number(core, log_since)
        last = _resolve.count(checkpoints, "checkpoints", 0)
        files, size, made, epochs, oldest = core.prune(
            since, last, _resolve.count(every, "every", 1), bool(dry_run)
        )
        paths = tuple((Path(file), n) for file, n in files)
        return PruneReport(paths, size, tuple(made), tuple(epochs), oldest)

    def retain(self, *, epochs: SupportsIndex | None = None, seconds: float | None = None) -> None:
        """Keep the last epochs in memory from now on, so that they open in microseconds.

        Otherwise an old epoch is rebuilt from checkpoint and log when it is opened. Memory that
        only old epochs hold counts against `max_memory` like all other; ``bus.stats()`` tells
        how much that is and since which epoch (`retained_bytes`, `retained_since`).

        A bus in a directory loses nothing by this. A bus in memory has its log in memory too, and
        lets go of what lies before the epochs that it is to retain: those raise
        :class:`EpochNotFoundError` from then on. Tagged epochs and open snapshots stay.

        Without arguments no old epoch is held any more, and a bus in memory keeps its log from
        then on.

        Parameters
        ----------
        epochs : int, optional
            So many of the last epochs, the newest among them.
        seconds : float, optional
            Those that were the newest at some moment of so many seconds before the newest commit,
            by the times of the commits.

        Raises
        ------
        ArgumentError
            Both are given, or a number is out of range.
        ReadOnlyError
            The bus was opened with mode "r".

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> bus.retain(epochs=100)
        >>> x = bus.create_page("x", data=[0])
        >>> for step in range(1, 1000):
        ...     x[0] = step
        >>> bus.snapshot(950)["x"], bus.stats()["retained_since"]
        (array([949]), 901)
        """
        if epochs is not None and seconds is not None:
            raise ArgumentError("give one of epochs and seconds")
        last = _resolve.count(epochs, "epochs", 1)
        self._core.retain(last, _resolve.span(seconds, "seconds"))

    def digest(self, epoch: EpochLike | None = None) -> str:
        """Return the digest of a state: equal digests mean equal state.

        Parameters
        ----------
        epoch : int, str, Commit or Snapshot, optional
            The epoch; the newest one unless given.

        Returns
        -------
        str
            32 hexadecimal digits.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> len(bus.digest())
        32
        """
        return self._state(epoch).digest()
