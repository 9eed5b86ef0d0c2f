"""Pages: what a handle can do. Reading and plain writes are in the native base class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, SupportsIndex

import numpy as np

from . import _core, _history, _index, _logging, _metadata
from ._create import new_shape
from ._metadata import How, how
from ._resolve import EpochLike, Moment, refuse_pickle
from ._values import byte_size, rows_of
from .errors import ArgumentTypeError, ClosedError, MMSBError, PageNotFoundError

_NOT_COMMITTED = "the transaction that created this page did not commit"


def commit(core: _core.Core, batch: _core.Batch, about: How) -> int:
    """Commit a batch outside of a transaction and return the epoch that shows it."""
    _logging.follow()
    return core.commit(batch, None, *about)[0]


def write_parts(core: _core.Core, page: int, parts: list[_index.Part], about: How) -> int:
    """Write byte ranges of a page as one commit."""
    if len(parts) == 1 and parts[0].offsets.size != 1:
        offsets, data = parts[0]
        pages = np.full(offsets.size, page, np.uint64)
        return core.write_many(pages, offsets.astype(np.uint64), data, *about)[0]
    batch = _core.Batch()
    for offsets, data in parts:
        for offset, chunk in zip(offsets.tolist(), data, strict=True):
            batch.write(page, offset, chunk)
    return commit(core, batch, about)


class Page(_core.PageBase):
    """A handle of one page: array-like, but not an array.

    ``page[...]`` and ``page.read()`` give read-only arrays of the newest epoch, without a copy
    where it can be. Such an array never changes: read again in a loop. ``page[...] = values`` and
    the methods that change the page are one commit each and return the epoch that shows it; with a
    ``disk`` bus each waits for a sync.

    Values are assigned as NumPy assigns them, with ``same_kind`` casting; integers that do not fit
    raise, and a dtype such as ``U8`` truncates text.

    A handle belongs to its bus: a fork has its own handles. Two handles are equal if they name the
    same page of the same bus. ``page[...] += x`` and ``page += x`` do not work, because views are
    read-only; write ``page[...] = page[...] + x``, or edit in place in a transaction: ``tx[page] +=
    x``.

    Inside ``with bus.transaction() as tx:`` only ``tx.`` calls belong to the transaction:
    ``page[...] = x`` there is a commit of its own and survives an abort.

    Handles come from :meth:`Bus.create_page`, ``bus[name]`` and :meth:`Transaction.create_page`.

    Attributes
    ----------
    id : int
        Given by the bus, never given twice.
    name : str or None
        Its name.
    shape : tuple of int
        Its shape. Like all of these it is that of the newest epoch.
    dtype : numpy.dtype
        Its dtype; uint8 for raw bytes.
    ndim, size, nbytes : int
        Number of axes, elements and bytes.
    epoch : int
        The last epoch that changed its bytes, shape, name or metadata.
    location : str
        Where its bytes are.
    meta : dict
        A copy of its metadata.
    stale : bool
        Whether what its bytes follow from has changed since; :meth:`Bus.settle` computes it.
    poisoned : bool
        Whether it, or what it follows from, could not be computed; its bytes are older.

    Examples
    --------
    >>> import numpy as np, mmsb
    >>> bus = mmsb.Bus()
    >>> pos = bus.create_page("pos", shape=(4, 2), dtype="f4", meta={"unit": "m"})
    >>> pos
    <Page 1 'pos' (4, 2) float32 epoch 1>
    >>> pos[1:3] = [5, 6]
    >>> pos[2]
    array([5., 6.], dtype=float32)
    >>> view = pos.read()
    >>> pos[...] = pos[...] + 1
    >>> view[2], pos[2]
    (array([5., 6.], dtype=float32), array([6., 7.], dtype=float32))
    >>> np.asarray(pos).sum(), len(pos), pos.meta["unit"]
    (np.float32(30.0), 4, 'm')
    """

    __slots__ = ()

    @property
    def meta(self) -> dict[str, Any]:
        """A copy of the metadata; :meth:`set_meta` replaces it."""
        return _metadata.meta_dict(self.info().meta)

    @property
    def stale(self) -> bool:
        """Whether its bytes are older than their inputs, as those of a derived page can be."""
        return self.info().stale

    @property
    def poisoned(self) -> bool:
        """Whether it could not be computed from its inputs; its bytes are older than they are."""
        return self.info().poisoned

    def write(
        self,
        values: Any,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
        resize: bool = False,
    ) -> int:
        """Write the whole page as one commit.

        Parameters
        ----------
        values : array_like or bytes-like
            What the page is to hold, broadcast to its shape. Raw pages also take bytes-like values.
        source : str, optional
            Who commits.
        meta : mapping, optional
            Metadata of the commit.
        durability : {"memory", "os", "disk"}, optional
            Other than that of the bus.
        resize : bool, optional
            Take the first axis from `values`.

        Returns
        -------
        int
            The epoch that shows it.

        Raises
        ------
        InvalidDeltaError
            The values do not go into the page.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", shape=3, dtype="i4")
        >>> x.write([1, 2, 3], source="setup", meta={"step": 0})
        2
        >>> x.write([4, 5], resize=True)
        3
        >>> x.read()
        array([4, 5], dtype=int32)
        """
        about = how(source, meta, durability)
        info = self.info()
        if not resize:
            parts = _index.encode(info.dtype, info.shape, ..., values, info.raw)
            return write_parts(self.core, self.id, parts, about)
        rows = rows_of(values, info.dtype, info.shape, info.raw, "write(..., resize=True)")
        batch = _core.Batch()
        batch.resize(self.id, rows.shape, byte_size(rows.shape, info.dtype.itemsize))
        batch.write(self.id, 0, rows)
        return commit(self.core, batch, about)

    def append(
        self,
        rows: Any,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Add rows at the end as one commit, which logs only them. It never conflicts.

        Parameters
        ----------
        rows : array_like or bytes-like
            Rows with as many dimensions as the page.
        source, meta, durability
            As for :meth:`write`.

        Returns
        -------
        int
            The epoch that shows it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> track = bus.create_page("track", shape=(0, 2))
        >>> track.append([[1, 2], [3, 4]])
        2
        >>> track.shape
        (2, 2)
        """
        about = how(source, meta, durability)
        info = self.info()
        data = rows_of(rows, info.dtype, info.shape, info.raw, "append")
        _logging.follow()
        return self.core.append(self.id, data, len(data), *about)[0]

    def resize(
        self,
        shape: SupportsIndex | tuple[SupportsIndex, ...],
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Change the length of the first axis as one commit.

        Kept rows keep their bytes, new ones are zero.

        Parameters
        ----------
        shape : int or tuple of int
            The new shape; bytes for a raw page.
        source, meta, durability
            As for :meth:`write`.

        Returns
        -------
        int
            The epoch that shows it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1, 2])
        >>> x.resize(3)
        2
        >>> x.read()
        array([1, 2, 0])
        """
        about = how(source, meta, durability)
        info = self.info()
        batch = _core.Batch()
        batch.resize(self.id, *new_shape(info.shape, info.dtype.itemsize, shape))
        return commit(self.core, batch, about)

    def rename(
        self,
        name: str | None,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Give the page another name, or none, as one commit.

        Parameters
        ----------
        name : str or None
            1 to 255 bytes of UTF-8 without control characters.
        source, meta, durability
            As for :meth:`write`.

        Returns
        -------
        int
            The epoch that shows it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", size=8)
        >>> x.rename("y")
        2
        >>> list(bus)
        ['y']
        """
        about = how(source, meta, durability)
        if name is not None:
            _metadata.check_name(name)
        batch = _core.Batch()
        batch.rename(self.id, name)
        return commit(self.core, batch, about)

    def set_meta(
        self,
        values: Mapping[str, Any],
        /,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Replace the metadata of the page as one commit.

        Parameters
        ----------
        values : mapping
            JSON values and NumPy scalars; at most 64 KiB.
        source, meta, durability
            As for :meth:`write`; `meta` is that of the commit.

        Returns
        -------
        int
            The epoch that shows it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", size=8, meta={"unit": "m"})
        >>> x.set_meta({"unit": "km"})
        2
        >>> x.meta
        {'unit': 'km'}
        """
        about = how(source, meta, durability)
        batch = _core.Batch()
        batch.set_meta(self.id, _metadata.meta_text(values))
        return commit(self.core, batch, about)

    def delete(
        self,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Delete the page as one commit. The handle raises from then on; kept arrays stay.

        Parameters
        ----------
        source, meta, durability
            As for :meth:`write`.

        Returns
        -------
        int
            The epoch that shows it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", size=8)
        >>> x.delete()
        2
        >>> x.read()
        Traceback (most recent call last):
            ...
        mmsb.errors.PageNotFoundError: ...
        """
        about = how(source, meta, durability)
        batch = _core.Batch()
        batch.delete(self.id)
        return commit(self.core, batch, about)

    def history(
        self,
        index: Any = ...,
        since: EpochLike | Moment = 0,
        until: EpochLike | Moment | None = None,
    ) -> Iterator[tuple[_history.Commit, Any]]:
        """Give every value that the page, or a part of it, ever had.

        Parameters
        ----------
        index : index, optional
            What to look at. An epoch where it does not fit is passed over.
        since, until : int, str, Commit, Snapshot, numpy.datetime64 or datetime, optional
            First and last epoch, or the time of the earliest and the latest commit; a number
            beyond the newest means the newest.

        Yields
        ------
        commit : Commit
            A commit that changed the bytes or the shape of what `index` names.
        value : ndarray or scalar
            What it was from then on, a copy of your own. Oldest first, in one pass over the
            commits that touched the page.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0, 2.0])
        >>> x[0] = 5
        >>> x[1] = 6
        >>> [(commit.epoch, float(value)) for commit, value in x.history(index=0)]
        [(1, 1.0), (2, 5.0)]
        """
        return _history.history(self.core, self.id, index, since, until)

    def _assign(self, index: Any, value: Any) -> None:
        """Assign what the native base class does not take on its short way."""
        info = self.info()
        parts = _index.encode(info.dtype, info.shape, index, value, info.raw)
        write_parts(self.core, self.id, parts, How(None, None, None))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.read())

    def __bytes__(self) -> bytes:
        return self.read().tobytes()

    def __int__(self) -> int:
        return int(self._one("int"))

    def __float__(self) -> float:
        return float(self._one("float"))

    def _one(self, what: str) -> Any:
        array = self.read()
        if array.size != 1:
            raise ArgumentTypeError(f"{what}() needs a page of one element, not {self!r}")
        return array.reshape(())[()]

    def __bool__(self) -> bool:
        raise ArgumentTypeError(
            f"{self!r} is no truth value; use page[()] for its array, 'is not None' for the handle"
        )

    def _in_place(self, other: Any) -> NoReturn:
        raise ArgumentTypeError(
            f"{self!r} cannot be changed in place: in a transaction use tx[page] += x, "
            "or tx.edit(page, index) for a part; else page[...] = page[...] + x"
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __imod__ = __ipow__ = _in_place
    __imatmul__ = __iand__ = __ior__ = __ixor__ = __ilshift__ = __irshift__ = _in_place

    def __reduce__(self) -> Any:
        refuse_pickle(self)

    def __repr__(self) -> str:
        try:
            info = self.info()
        except PageNotFoundError:
            return f"<Page {self.id} not in the newest epoch>"
        except ClosedError:
            return f"<Page {self.id} of a closed bus>"
        except MMSBError:
            return f"<Page {self.id} of a bus of another process>"
        name = "" if info.name is None else f"{info.name!r} "
        return f"<Page {info.id} {name}{info.shape} {info.dtype} epoch {info.epoch}>"


class LostPage(Page):
    """What becomes of a handle whose page was never committed: its id will be another page's."""

    __slots__ = ()

    def info(self) -> _core.PageInfo:
        """Raise PageNotFoundError."""
        raise PageNotFoundError(_NOT_COMMITTED)

    def __repr__(self) -> str:
        return "<Page that was not committed>"


def _lost(self: Page, *args: Any, **kwargs: Any) -> NoReturn:
    raise PageNotFoundError(_NOT_COMMITTED)


for _name in ("read", "__getitem__", "__setitem__", "__array__", "__len__"):
    setattr(LostPage, _name, _lost)
for _name in ("id", "name", "shape", "dtype", "ndim", "size", "nbytes", "epoch", "location"):
    setattr(LostPage, _name, property(_lost))
