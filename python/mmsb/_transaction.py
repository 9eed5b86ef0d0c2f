"""Transactions: private copies of pages, and the commit that makes them public.

A transaction keeps a `Draft` of each page that it changes. Structural operations go into the batch
as they are made, so names may move between pages; what was written is found in the drafts' memory
when the transaction ends, and follows them. Applying that batch in order to the base gives what the
transaction saw last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn, SupportsIndex, TypeVar, overload

import numpy as np
import numpy.typing as npt

from . import _core, _index, _logging
from ._create import NewPage, new_page, new_shape
from ._delta import Delta
from ._derive import Deriving, Node
from ._draft import Draft
from ._metadata import How, check_name, meta_text
from ._page import LostPage, Page
from ._reports import WaveReport
from ._resolve import PageLike, contained_key, no_page, number, page_key
from ._values import Array, raw_bytes, rows_of
from .errors import (
    ArgumentError,
    ConflictError,
    ForkedHandleError,
    PageExistsError,
    ReadOnlyError,
    TransactionClosedError,
)

T = TypeVar("T")

_ABSENT = object()


class Transaction(Deriving):
    """A set of changes that become one commit, or none.

    Made by :meth:`Bus.transaction` and used as a context manager. It sees the epoch at which it
    began and its own writes; nothing of it is visible outside before the block ends. An exception
    in the block discards it: commit before you raise if the step must be in the log.

    Only ``tx.`` calls belong to the transaction. ``page[...] = x`` inside the block is a commit of
    its own and survives an abort.

    ``tx[page]`` is a private array of the page. Edit it in place, as in ``x += 1``, not ``x = x +
    1``; the elements that changed are found when the block ends, so setting an edited value back to
    its base is not a write. What ``tx.write`` and ``tx.apply`` name is written also where it is
    equal. All arrays of one page share one memory.

    Another commit conflicts if it changed an element that this one wrote, a page that it gave to
    :meth:`read`, or the meaning of a name that it looked up; then the end of the block raises
    :class:`ConflictError` and nothing happened. :meth:`Bus.run` tries again. Plain edits do not
    conflict with changes of other elements.

    A transaction belongs to no thread or task, but do not await inside one: other tasks' commits
    would conflict with it for all that time. Use ``await asyncio.to_thread(bus.run, fn)``.

    Attributes
    ----------
    epoch : int or None
        The epoch whose snapshot shows these writes; None inside the block and after an abort.
    changed : bool
        Whether it made that epoch.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> pos = bus.create_page("pos", shape=(3, 2), dtype="f4")
    >>> with bus.transaction(source="physics", meta={"step": 7}) as tx:
    ...     tx["pos"] += 0.5
    ...     tx.write("pos", 0, (1, 2))
    >>> tx.epoch, tx.changed
    (2, True)
    >>> pos[:2]
    array([[1. , 2. ],
           [0.5, 0.5]], dtype=float32)
    """

    __slots__ = (
        "_about",
        "_base",
        "_batch",
        "_core",
        "_drafts",
        "_handles",
        "_looked_up",
        "_names",
        "_next_id",
        "_nodes",
        "_read",
        "_state",
        "_timing",
        "changed",
        "epoch",
    )
    __iter__ = None

    epoch: int | None
    changed: bool

    def __init__(self, core: _core.Core, about: How, timing: bool) -> None:
        self._core = core
        self._about = about
        self._timing = bool(timing)
        self._state: Literal["new", "open", "ended"] = "new"
        self._base: _core.Snap
        self._batch = _core.Batch()
        self._drafts: dict[int, Draft] = {}
        self._names: dict[str, int | None] = {}
        self._nodes: dict[int, Node | None] = {}
        self._looked_up: set[str] = set()
        self._read: set[int] = set()
        self._handles: list[Page] = []
        self._next_id = 0
        self.epoch = None
        self.changed = False

    def __enter__(self) -> Transaction:
        if self._state != "new":
            raise TransactionClosedError(
                "a transaction is entered once; make another with bus.transaction()"
            )
        self._base = self._core.snapshot()
        self._next_id = self._base.next_id
        self._state = "open"
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._core.forked:
            self._state = "ended"
            self._raise_forked()
        if self._state != "open":
            self._raise_closed()
        committed = False
        try:
            if kind is None:
                self._finish()
                committed = True
        finally:
            self._state = "ended"
            for draft in self._drafts.values():
                draft.freeze()
            if not committed:
                for handle in self._handles:
                    handle.__class__ = LostPage
            self._drafts, self._handles = {}, []
            self._base.close()

    def _finish(self) -> None:
        batch = self._batch
        for page, draft in self._drafts.items():
            if draft.touched:
                batch.stage(page, draft.stage(), 1 if draft.raw else draft.dtype.itemsize)
        for name in sorted(self._looked_up):
            batch.check_name(name)
        for page in sorted(self._read):
            batch.check_read(page)
        if self._next_id != self._base.next_id:
            batch.check_ids()
        batch.ask_report(self._timing)
        self.epoch, self.changed = self._core.commit(batch, self._base, *self._about)

    def report(self) -> WaveReport:
        """Tell which derived pages followed from the transaction, once it has been committed.

        Returns
        -------
        WaveReport
            What was computed and what was cut off; with ``bus.transaction(timing=True)`` also how
            long each page took.

        Raises
        ------
        TransactionClosedError
            It has not been committed: it goes on, or nothing happened.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0, 2.0])
        >>> y, z = bus.map("sum(x)", "y"), bus.map("2 * y", "z")
        >>> with bus.transaction(timing=True) as tx:
        ...     tx["x"] = 5
        >>> report = tx.report()
        >>> report.computed, sorted(report.seconds)
        ((2, 3), [2, 3])
        """
        if self.epoch is None:
            raise TransactionClosedError(
                "the transaction has not been committed; its report comes behind its block"
            )
        lists, took = self._batch.report()
        seconds = {page: ns * 1e-9 for page, ns in took} if self._timing else None
        # A page may be behind several that changed.
        computed, cut_off, stale, poisoned, gpu_sync, compiler = (
            tuple(dict.fromkeys(pages)) for pages in lists
        )
        return WaveReport(computed, cut_off, stale, poisoned, gpu_sync, compiler, seconds)

    def __getitem__(self, page: PageLike) -> Array:
        return self.edit(page)

    def __setitem__(self, page: PageLike, values: Any) -> None:
        draft = self._draft(page)
        # tx[page] += x hands back the array that it was given.
        if values is None or values is not draft.whole:
            draft.write(..., values)

    def __contains__(self, page: object) -> bool:
        self._check_open()
        key = contained_key(self._core, page)
        if isinstance(key, str):
            key = self._look_up(key)
        return key is not None and self._find(key) is not None

    def edit(self, page: PageLike, index: Any = ...) -> Array:
        """Give a writable array of a page, or of a part of it.

        Parameters
        ----------
        page : Page, str or int
            The page. ``tx[page]`` is the same as ``tx.edit(page)``.
        index : basic index, optional
            A part, for large pages: only its blocks are copied. A fancy or boolean index is
            refused, because NumPy would give a copy; use ``tx.edit(page)[index] op= value``.

        Returns
        -------
        ndarray
            Private to the transaction, without axes for one element. What differs from the base
            when the block ends is written. It becomes read-only at the end, and when the page is
            resized. NumPy's own rules hold for what is assigned to it.

        Examples
        --------
        >>> import numpy as np, mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", shape=5, dtype="i4")
        >>> with bus.transaction() as tx:
        ...     tx.edit(x, np.s_[1:3])[...] = 7
        ...     tx.edit(x, -1)[...] += 1
        >>> x.read()
        array([0, 7, 7, 0, 1], dtype=int32)
        """
        draft = self._draft(page)
        if index is ...:
            return draft.edit()
        _index.reject_fancy(index)
        return draft.edit_part(index)

    def read(self, page: PageLike) -> Array:
        """Give a read-only array of a page as the transaction sees it.

        The transaction conflicts if another commit changes the page.

        Parameters
        ----------
        page : Page, str or int
            The page.

        Returns
        -------
        ndarray
            Its values now; later edits do not show in it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x, y = bus.create_page("x", data=[1.0]), bus.create_page("y", shape=1)
        >>> with bus.transaction() as tx:
        ...     tx["y"] = 2 * tx.read("x")
        >>> y[0]
        np.float64(2.0)
        """
        draft = self._draft(page)
        if draft.base is not None:
            self._read.add(draft.id)
        return draft.copy()

    @overload
    def write(self, page: PageLike, values: Any, /) -> None: ...
    @overload
    def write(self, page: PageLike, index: Any, values: Any, /) -> None: ...
    def write(self, page: PageLike, index: Any, values: Any = _ABSENT, /) -> None:
        """Write a page, or a part of it, also where it is equal.

        Parameters
        ----------
        page : Page, str or int
            The page.
        index : index, optional
            What is written, any index of NumPy. Without it, the whole page.
        values : array_like
            Assigned as NumPy assigns, with ``same_kind`` casting; integers that do not fit raise.

        Examples
        --------
        >>> import numpy as np, mmsb
        >>> bus = mmsb.Bus()
        >>> vel = bus.create_page("vel", shape=(4, 3))
        >>> with bus.transaction() as tx:
        ...     tx.write("vel", 1)
        ...     tx.write("vel", np.s_[3], (0, 0, 2))
        >>> vel[2:]
        array([[1., 1., 1.],
               [0., 0., 2.]])
        """
        draft = self._draft(page)
        if values is _ABSENT:
            draft.write(..., index)
        else:
            draft.write(index, values)

    def append(self, page: PageLike, rows: Any) -> int:
        """Add rows at the end of a page.

        Parameters
        ----------
        page : Page, str or int
            The page.
        rows : array_like or bytes-like
            Rows with as many dimensions as the page.

        Returns
        -------
        int
            Number of the first new row.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> track = bus.create_page("track", data=[[1.0, 2.0]])
        >>> with bus.transaction() as tx:
        ...     tx.append(track, [[3, 4], [5, 6]])
        1
        """
        draft = self._draft(page)
        data = rows_of(rows, draft.dtype, draft.shape, draft.raw, "append")
        first = draft.shape[0]
        if len(data):
            start = draft.nbytes
            self._resize(draft, (first + len(data), *draft.shape[1:]))
            draft.put(start, raw_bytes(data))
        return first

    def apply(self, delta: Delta) -> None:
        """Write the byte ranges of a delta.

        Parameters
        ----------
        delta : Delta
            Of a page of this bus.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> raw = bus.create_page("raw", data=b"abcd")
        >>> with bus.transaction() as tx:
        ...     tx.apply(mmsb.Delta.from_mask(raw, [1, 0, 0, 1], b"wxyz"))
        >>> bytes(raw)
        b'wbcz'
        """
        delta.check_bus(self._core)
        draft = self._draft(delta.page)
        delta.check_fits(draft.nbytes)
        for (start, _), chunk in zip(delta.ranges, delta.chunks, strict=True):
            draft.put(start, np.frombuffer(chunk, np.uint8))

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
        """Create a page; see :meth:`Bus.create_page`.

        Returns
        -------
        Page
            A handle, valid in the transaction, and on the bus after it. If the transaction does not
            commit, the handle raises.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> with bus.transaction() as tx:
        ...     x = tx.create_page("x", shape=2)
        ...     tx[x] += 1
        >>> x.read()
        array([1., 1.])
        """
        self._check_open()
        page = new_page(self._core, name, shape, dtype, data, size, meta)
        if page.name is not None and (taken := self._look_up(page.name)) is not None:
            draft = self._drafts_of(taken)
            if not exist_ok or not page.matches(draft.dtype, draft.raw, draft.shape):
                raise page.taken_by(draft.shape, draft.dtype)
            return Page(self._core, taken)
        return self._create(page)

    def _create(self, page: NewPage) -> Page:
        number = self._next_id
        itemsize = 1 if page.raw else page.dtype.itemsize
        self._batch.create(
            number, page.name, page.dtype_text, itemsize, page.shape, page.nbytes, page.meta
        )
        self._next_id += 1
        draft = Draft(None, number, page.name, page.dtype, page.raw, page.shape, page.nbytes)
        self._drafts[number] = draft
        if page.name is not None:
            self._names[page.name] = number
        content = page.data_bytes
        if content is not None:
            draft.put(0, content)
        handle = Page(self._core, number)
        self._handles.append(handle)
        return handle

    def delete(self, page: PageLike) -> None:
        """Delete a page.

        Parameters
        ----------
        page : Page, str or int
            The page.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> old = bus.create_page("old", size=8)
        >>> with bus.transaction() as tx:
        ...     tx.delete("old")
        ...     "old" in tx
        False
        """
        draft = self._draft(page)
        self._batch.delete(draft.id)
        draft.delete()
        if draft.name is not None:
            self._names[draft.name] = None

    def rename(self, page: PageLike, name: str | None) -> None:
        """Give a page another name, or none.

        Parameters
        ----------
        page : Page, str or int
            The page.
        name : str or None
            The new name.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page("a", data=b"1"), bus.create_page("b", data=b"2")
        >>> with bus.transaction() as tx:
        ...     tx.rename(a, None)
        ...     tx.rename(b, "a")
        ...     tx.rename(a, "b")
        >>> bytes(bus["a"])
        b'2'
        """
        draft = self._draft(page)
        if name is not None:
            taken = self._look_up(check_name(name))
            if taken is not None and taken != draft.id:
                raise PageExistsError(f"page {taken} is already named {name!r}")
        self._batch.rename(draft.id, name)
        if draft.name is not None:
            self._names[draft.name] = None
        if name is not None:
            self._names[name] = draft.id
        draft.name = name

    def resize(self, page: PageLike, shape: SupportsIndex | tuple[SupportsIndex, ...]) -> None:
        """Change the length of the first axis.

        Edits made so far stay; earlier arrays become read-only.

        Parameters
        ----------
        page : Page, str or int
            The page.
        shape : int or tuple of int
            The new shape; bytes for a raw page.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1, 2])
        >>> with bus.transaction() as tx:
        ...     tx["x"] += 1
        ...     tx.resize("x", 3)
        ...     tx["x"][2] = 9
        >>> x.read()
        array([2, 3, 9])
        """
        draft = self._draft(page)
        self._resize(draft, new_shape(draft.shape, draft.dtype.itemsize, shape)[0])

    def set_meta(self, page: PageLike, meta: Mapping[str, Any]) -> None:
        """Replace the metadata of a page.

        Parameters
        ----------
        page : Page, str or int
            The page.
        meta : mapping
            JSON values and NumPy scalars.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", size=8)
        >>> with bus.transaction() as tx:
        ...     tx.set_meta(x, {"unit": "m"})
        >>> x.meta
        {'unit': 'm'}
        """
        self._batch.set_meta(self._draft(page).id, meta_text(meta))

    def tag(self, name: str, *, move: bool = False) -> None:
        """Tag the epoch that this commit makes.

        Parameters
        ----------
        name : str
            The tag.
        move : bool, optional
            Take the name from the epoch that has it.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> with bus.transaction() as tx:
        ...     tx.tag("start")
        >>> bus.tags
        {'start': 1}
        """
        self._check_open()
        self._batch.tag(check_name(name, "tag name"), None, move)

    def __repr__(self) -> str:
        if self._state == "open":
            return f"<Transaction of epoch {self._base.epoch}>"
        if self.epoch is not None:
            return f"<Transaction committed, epoch {self.epoch}>"
        return "<Transaction not begun>" if self._state == "new" else "<Transaction not committed>"

    def _check_open(self) -> None:
        if self._state != "open":
            self._raise_closed()
        if self._core.forked:
            self._raise_forked()

    def _raise_closed(self) -> NoReturn:
        raise TransactionClosedError(
            "the transaction has not begun; use it as 'with bus.transaction() as tx:'"
            if self._state == "new"
            else "the transaction has ended; make another with bus.transaction()"
        )

    def _raise_forked(self) -> NoReturn:
        raise ForkedHandleError(
            "the transaction belongs to the parent of this forked process; "
            "open the bus here with mmsb.attach(path)"
        )

    def _look_up(self, name: str) -> int | None:
        """Return the page that has a name; what the base says about it is checked at the end."""
        if name in self._names:
            return self._names[name]
        self._looked_up.add(name)
        return self._base.find(name)

    def _find(self, page: int) -> Draft | None:
        draft = self._drafts.get(page)
        if draft is None:
            info = self._base.info(page)
            if info is None:
                return None
            draft = Draft(
                self._base, page, info.name, info.dtype, info.raw, info.shape, info.nbytes
            )
            self._drafts[page] = draft
        return None if draft.deleted else draft

    def _drafts_of(self, page: int) -> Draft:
        draft = self._find(page)
        return no_page(page, " in the transaction") if draft is None else draft

    def _draft(self, page: PageLike) -> Draft:
        self._check_open()
        key = page_key(self._core, page)
        if isinstance(key, str):
            found = self._look_up(key)
            return self._drafts_of(no_page(key, " in the transaction") if found is None else found)
        if not 0 < key < self._next_id:
            no_page(key, " in the transaction")
        return self._drafts_of(key)

    def _resize(self, draft: Draft, shape: tuple[int, ...]) -> None:
        if shape == draft.shape:
            return
        nbytes = new_shape(draft.shape, draft.dtype.itemsize, shape)[1]
        draft.resize(shape, nbytes)
        self._batch.resize(draft.id, shape, nbytes)


def run(core: _core.Core, fn: Callable[[Transaction], T], retries: SupportsIndex, about: How) -> T:
    """Run a function in a transaction, again on a conflict; see :meth:`Bus.run`."""
    left = number(retries, "retries")
    if left < 0:
        raise ArgumentError(f"retries must not be negative, not {left}")
    while True:
        try:
            with begin(core, about) as tx:
                return fn(tx)
        except ConflictError:
            if left == 0:
                raise
            left -= 1


def begin(core: _core.Core, about: How, timing: bool = False) -> Transaction:
    """Return a transaction of a bus that can be written."""
    _logging.follow()
    if core.mode == "r":
        raise ReadOnlyError("the bus was opened for reading; open it with mode='r+' to write")
    return Transaction(core, about, timing)
