"""Buses: their pages, commits and upkeep."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

from . import _core, _logging, _resolve, _transaction
from ._create import NewPage, new_page
from ._metadata import how
from ._page import Page
from ._propagation import Propagation
from ._reports import Recovery, Report
from ._resolve import EpochLike, PageLike
from ._timeline import Timeline
from ._transaction import Transaction
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    ClosedError,
    CorruptionError,
    PageExistsError,
    PageNotFoundError,
)

T = TypeVar("T")
Clock = Callable[[], int]
Progress = Callable[[int, int], None]


class Bus(Timeline, Propagation, Mapping[str, Page]):
    """A bus in memory; :func:`create` and :func:`open` give one in a directory.

    A bus is a mapping of its named pages in id order, as in h5py. Every change is a commit and
    makes a new epoch; every epoch can be read back. Outside a transaction each call is a commit of
    its own, checked against the newest epoch; it never conflicts.

    Two reads may be two epochs: take a :meth:`snapshot` to see pages together. With durability
    ``disk`` each commit waits for a sync; in a simulation loop use ``os``, which survives ``kill
    -9``, and :meth:`sync` every N steps.

    Any number of threads may use a bus. A forked child may not; it opens the bus itself. Buses
    compare and hash by identity.

    Parameters
    ----------
    max_memory : int, optional
        Bytes that pages, old versions and the log in memory may take; three quarters of the memory
        that there is, unless given.
    clock : callable, optional
        Gives the time of a commit in nanoseconds since 1970 UTC instead of the system.

    Attributes
    ----------
    path : pathlib.Path or None
        The directory; None in memory.
    mode : {"r", "r+"}
        Whether it can only be read.
    durability : {"memory", "os", "disk"}
        What a commit survives unless it is told otherwise.
    closed : bool
        Whether it was closed.
    recovery : Recovery or None
        What opening found; None for a fresh bus.
    epoch : int
        The newest epoch.
    durable_epoch : int
        The newest epoch that a power loss would keep.
    pages : tuple of Page
        Handles of all pages, the unnamed ones too, in id order.
    tags : dict
        Epochs by tag.

    Examples
    --------
    >>> import mmsb
    >>> with mmsb.Bus() as bus:
    ...     pos = bus.create_page("pos", shape=(2, 3))
    ...     bus["pos"] = 1
    ...     print(bus.epoch, bus["pos"].read()[0], list(bus))
    2 [1. 1. 1.] ['pos']
    """

    __slots__ = ("__weakref__", "_core")

    def __init__(self, *, max_memory: SupportsIndex | None = None, clock: Clock | None = None):
        _logging.follow()
        limit = _resolve.positive(max_memory, "max_memory")
        self._core = _core.Core.memory(limit, check_clock(clock))

    @classmethod
    def _of(cls, core: _core.Core) -> Bus:
        bus = cls.__new__(cls)
        bus._core = core
        return bus

    @property
    def path(self) -> Path | None:
        """The directory; None in memory."""
        path = self._core.path
        return None if path is None else Path(path)

    @property
    def mode(self) -> str:
        """Whether it can only be read: "r" or "r+"."""
        return self._core.mode

    @property
    def durability(self) -> str:
        """What a commit survives: "memory", "os" or "disk"."""
        return self._core.durability

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._core.closed

    @property
    def recovery(self) -> Recovery | None:
        """What opening found; None for a fresh bus."""
        found = self._core.recovery()
        if found is None:
            return None
        epoch, checkpoint, records, torn, quarantined, seconds = found
        files = tuple(Path(file) for file in quarantined)
        return Recovery(epoch, checkpoint, records, torn, files, seconds)

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return self._core.epoch

    @property
    def durable_epoch(self) -> int:
        """The newest epoch that a power loss would keep."""
        return self._core.durable_epoch

    @property
    def pages(self) -> tuple[Page, ...]:
        """Handles of all pages in id order."""
        return tuple(Page(self._core, page) for page, _ in self._core.names())

    def close(self) -> None:
        """Make everything durable and let go of the bus; arrays and snapshots stay.

        May be called again.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> bus.close()
        >>> bus.closed
        True
        """
        self._core.close()

    def sync(self) -> int:
        """Make all commits so far survive a power loss.

        Returns
        -------
        int
            The newest epoch that does.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> bus.sync()
        0
        """
        _logging.follow()
        return self._core.sync()

    def create_page(
        self,
        name: str | None = None,
        shape: SupportsIndex | tuple[SupportsIndex, ...] | None = None,
        dtype: npt.DTypeLike | None = None,
        data: Any = None,
        *,
        size: SupportsIndex | None = None,
        meta: Mapping[str, Any] | None = None,
        exist_ok: bool = False,
    ) -> Page:
        """Create a page as one commit.

        Parameters
        ----------
        name : str, optional
            1 to 255 bytes of UTF-8 without control characters, unlike those of all other pages.
        shape : int or tuple of int, optional
            Its shape; that of `data` unless given.
        dtype : dtype, optional
            Any without Python objects; that of `data`, or float64, unless given.
        data : array_like or bytes-like, optional
            Its first values; zeros unless given. Bytes alone make a page of raw bytes.
        size : int, optional
            Makes a page of that many raw bytes.
        meta : mapping, optional
            Metadata of the page.
        exist_ok : bool, optional
            Give the page of that name if its shape and dtype match, and leave its bytes and
            metadata.

        Returns
        -------
        Page
            A handle.

        Raises
        ------
        PageExistsError
            The name is taken.
        OutOfSpaceError
            It would pass `max_memory`.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> bus.create_page("pos", shape=(1000, 3), dtype="f4", meta={"unit": "m"})
        <Page 1 'pos' (1000, 3) float32 epoch 1>
        >>> bus.create_page(size=4096)
        <Page 2 (4096,) uint8 epoch 2>
        >>> bus.create_page("t", data=[1, 2, 3]).dtype
        dtype('int64')
        """
        core = self._core
        page = new_page(core, name, shape, dtype, data, size, meta)
        if exist_ok and page.name is not None and (there := self._matching(page)) is not None:
            return there
        itemsize = 1 if page.raw else page.dtype.itemsize
        try:
            created, _ = core.create_page(
                page.name,
                page.dtype_text,
                itemsize,
                page.shape,
                page.nbytes,
                page.meta,
                page.data_bytes,
            )
        except PageExistsError:
            # Another thread may have been faster.
            if exist_ok and (there := self._matching(page)) is not None:
                return there
            raise
        return Page(core, created)

    def _matching(self, page: NewPage) -> Page | None:
        found = None if page.name is None else self._core.find(page.name)
        info = None if found is None else self._core.info(found)
        if info is None:
            return None
        if not page.matches(info.dtype, info.raw, info.shape):
            raise page.taken_by(info.shape, info.dtype)
        return Page(self._core, info.id)

    def transaction(
        self,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
        timing: bool = False,
    ) -> Transaction:
        """Begin a set of changes that become one commit when the ``with`` block ends.

        Parameters
        ----------
        source : str, optional
            Who commits.
        meta : mapping, optional
            Metadata of the commit. With it a commit is made even if nothing changed.
        durability : {"memory", "os", "disk"}, optional
            Other than that of the bus.
        timing : bool
            Whether :meth:`Transaction.report` is to say how long each derived page took.

        Returns
        -------
        Transaction
            To be used as a context manager. An exception inside the block means that nothing
            happened.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> pos = bus.create_page("pos", shape=3)
        >>> with bus.transaction(source="physics", meta={"step": 7}) as tx:
        ...     tx["pos"] += 0.5
        >>> tx.epoch
        2
        """
        return _transaction.begin(self._core, how(source, meta, durability), timing)

    def run(
        self,
        fn: Callable[[Transaction], T],
        retries: SupportsIndex = 10,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> T:
        """Run a function in a transaction, and again if another commit got in its way.

        Parameters
        ----------
        fn : callable
            Called with the transaction.
        retries : int, optional
            How often it is called again on :class:`ConflictError`.
        source, meta, durability
            As for :meth:`transaction`.

        Returns
        -------
        object
            What `fn` returned.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> n = bus.create_page("n", data=1)
        >>> def double(tx):
        ...     tx["n"] = tx.read("n") * 2
        ...     return int(tx["n"])
        >>> bus.run(double)
        2
        """
        return _transaction.run(self._core, fn, retries, how(source, meta, durability))

    def write_many(
        self,
        page_ids: npt.ArrayLike,
        offsets: npt.ArrayLike,
        data: npt.ArrayLike,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        r"""Write many small byte ranges of equal length as one commit. Later ones win.

        Parameters
        ----------
        page_ids : array_like of int, shape (n,)
            Ids of the pages.
        offsets : array_like of int, shape (n,)
            Where each range starts, in bytes.
        data : ndarray of uint8, shape (n, k)
            The new bytes, one row a range.
        source, meta, durability
            As for :meth:`transaction`.

        Returns
        -------
        int
            The epoch that shows them.

        Examples
        --------
        >>> import numpy as np, mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page(size=4), bus.create_page(size=4)
        >>> bus.write_many([a.id, b.id, a.id], [0, 2, 3], np.array([[1], [2], [3]], np.uint8))
        3
        >>> bytes(a), bytes(b)
        (b'\x01\x00\x00\x03', b'\x00\x00\x02\x00')
        """
        data = np.asarray(data)
        if data.dtype != np.uint8 or data.ndim != 2:
            raise ArgumentTypeError(
                "data must be an array of uint8 with one row a range, as data.view(np.uint8) gives"
            )
        pages, starts = _unsigned(page_ids, "page_ids"), _unsigned(offsets, "offsets")
        if not len(pages) == len(starts) == len(data):
            raise ArgumentError(
                f"{len(pages)} page_ids, {len(starts)} offsets and {len(data)} rows of data "
                "do not go together"
            )
        about = how(source, meta, durability)
        return self._core.write_many(pages, starts, np.ascontiguousarray(data), *about)[0]

    def fork(
        self, epoch: EpochLike | None = None, *, path: str | os.PathLike[str] | None = None
    ) -> Bus:
        """Make an independent bus that begins with an epoch, in memory or in a directory.

        Without `path` it shares the memory of this bus and costs microseconds. With `path` it is a
        new store: its first file is a checkpoint of the epoch, its log begins behind it, and it
        knows which store and epoch it comes from. It has the tags that there were, and the next id.
        Older epochs are this bus' alone.

        Parameters
        ----------
        epoch : int, str, Commit or Snapshot, optional
            The epoch; the newest one unless given.
        path : str or path-like, optional
            A directory that is not there or empty, outside of the store.

        Returns
        -------
        Bus
            It has handles of its own, as in ``fork["pos"]``; those of this bus raise there. One in
            a directory is open as with ``mode="r+"``, with the durability of this bus ("disk" if
            this one is in memory).

        Raises
        ------
        EpochNotFoundError
            There is no such epoch, or it was let go.
        BusExistsError
            There is a bus at `path`.
        ArgumentError
            `path` holds other files or lies in the store.
        StorageError
            The store could not be written; nothing that opens is left of it.

        Examples
        --------
        >>> import mmsb, tempfile
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1])
        >>> what_if = bus.fork()
        >>> what_if["x"] = 5
        >>> x[0], what_if["x"][0], what_if.epoch
        (np.int64(1), np.int64(5), 2)
        >>> with tempfile.TemporaryDirectory() as d, bus.fork(1, path=d + "/b.mmsb") as branch:
        ...     print(branch.epoch, branch["x"].read(), branch.digest() == bus.digest(1))
        1 [1] True
        """
        _logging.follow()
        if path is None:
            return Bus._of(self._core.fork(self._state(epoch)))
        return Bus._of(self._core.fork_to(self._state(epoch), _resolve.path_text(path)))

    def checkpoint(self) -> int:
        """Write a checkpoint of the newest epoch, so that the bus opens faster.

        Other threads commit meanwhile. Blocks that an older checkpoint has are not written again,
        and those of zeros not at all.

        Returns
        -------
        int
            Its epoch.

        Examples
        --------
        >>> import mmsb, tempfile
        >>> with tempfile.TemporaryDirectory() as d, mmsb.create(d + "/sim.mmsb") as bus:
        ...     x = bus.create_page("x", data=[1])
        ...     bus.checkpoint()
        1
        """
        _logging.follow()
        return self._core.checkpoint()

    def backup(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> int:
        """Copy the store as it is now, with all of its history, while commits go on.

        The copy is a store of its own: it opens, has the same epochs and digests, and goes its own
        way from then on. Every record is checked before it is copied. A bus in memory becomes a
        store in a directory, of durability "disk".

        Parameters
        ----------
        path : str or path-like
            A directory that is not there or empty, outside of the store.
        progress : callable, optional
            Called now and then with the bytes done and the bytes in all.

        Returns
        -------
        int
            The epoch that the copy shows.

        Raises
        ------
        BusExistsError
            There is a bus at `path`.
        ArgumentError
            `path` holds other files or lies in the store, or this is a fork in memory.
        CorruptionError
            The log is damaged; nothing was copied.
        StorageError
            The copy could not be written; nothing that opens is left of it.

        Examples
        --------
        >>> import mmsb, tempfile
        >>> with tempfile.TemporaryDirectory() as d, mmsb.Bus() as bus:
        ...     x = bus.create_page("x", data=[1])
        ...     epoch = bus.backup(d + "/copy.mmsb")
        ...     with mmsb.open(d + "/copy.mmsb") as copy:
        ...         print(epoch, copy["x"].read(), copy.digest() == bus.digest())
        1 [1] True
        """
        _logging.follow()
        return self._core.backup(_resolve.path_text(path), progress)

    def verify(self, progress: Progress | None = None) -> Report:
        """Read and check every byte of the log, the indexes and the checkpoints.

        Parameters
        ----------
        progress : callable, optional
            Called now and then with the bytes done and the bytes in all.

        Returns
        -------
        Report
            What was found; problems are listed, not raised.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> bus.verify().ok
        True
        """
        with _logging.warnings():
            records, size, problems = self._core.verify(progress)
        return Report(tuple(p for p in problems if isinstance(p, CorruptionError)), records, size)

    def stats(self) -> dict[str, int]:
        """Return counters of memory, log and pages.

        Returns
        -------
        dict
            Numbers by name.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> all(isinstance(value, int) for value in bus.stats().values())
        True
        """
        return self._core.stats()

    def __getitem__(self, page: PageLike) -> Page:
        if type(page) is str:
            found = self._core.find(page)
            return Page(self._core, _resolve.no_page(page) if found is None else found)
        return Page(self._core, _resolve.page_id(self._core, page))

    def __setitem__(self, page: PageLike, values: Any) -> None:
        try:
            handle = self[page]
        except PageNotFoundError as error:
            raise PageNotFoundError(
                f"{error}; an assignment never makes one: use bus.create_page({page!r}, data=...)"
            ) from None
        handle.write(values)

    def __contains__(self, page: object) -> bool:
        key = _resolve.contained_key(self._core, page)
        if isinstance(key, str):
            return self._core.find(key) is not None
        return key is not None and self._core.info(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter([name for _, name in self._core.names() if name is not None])

    def __len__(self) -> int:
        return sum(name is not None for _, name in self._core.names())

    def __enter__(self) -> Bus:
        if self._core.closed:
            raise ClosedError(f"{self!r} was closed; open it again")
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce__(self) -> Any:
        _resolve.refuse_pickle(self)

    def __repr__(self) -> str:
        core = self._core
        where = "in memory" if core.path is None else repr(core.path)
        if core.forked:
            return f"<Bus {where} of the parent process>"
        if core.closed:
            return f"<Bus {where} closed>"
        return f"<Bus {where} mode {core.mode!r} epoch {core.epoch}>"


def _unsigned(values: npt.ArrayLike, what: str) -> npt.NDArray[np.uint64]:
    """Return numbers of one dimension as uint64 without wrapping negative ones around."""
    if type(values) is np.ndarray and values.dtype == np.uint64 and values.ndim == 1:
        return np.ascontiguousarray(values)
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ArgumentTypeError(f"{what} must be ints in one dimension, not {array.dtype}")
    if array.size and int(array.min()) < 0:
        raise ArgumentError(f"{what} must not be negative, not {array.min()}")
    return array.astype(np.uint64)


def check_clock(clock: Clock | None) -> Clock | None:
    """Return a clock if it is one."""
    if clock is not None and not callable(clock):
        raise ArgumentTypeError(f"clock must be callable, not {type(clock).__name__}")
    return clock
