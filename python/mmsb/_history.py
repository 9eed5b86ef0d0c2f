"""The log as users see it: commits, the values a page had, and what differs between two epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core, _index, _metadata
from ._core import Core
from ._delta import Delta
from ._resolve import AtEpoch, EpochLike, Moment, PageLike, bounds, past_page_id
from ._values import Array, DType, dtype_from_text
from .errors import ArgumentError, PageIndexError, PageNotFoundError

_TAG_OPS = ("tag", "untag")


@dataclass(frozen=True, slots=True)
class Change:
    """One structural change of a commit.

    Attributes
    ----------
    kind : str
        "create", "delete", "rename", "set_meta", "resize", "tag" or "untag"; "node" for another
        place in the graph, "mark" for a page that became stale or poisoned, or is so no more.
    page : int or None
        Id of the page; None for tags.
    name : str or None
        The name that a page was created under or renamed to, or the tag's.
    shape : tuple of int or None
        The shape that a page was created with or resized to.
    dtype : numpy.dtype or None
        The dtype that a page was created with.
    meta : dict or None
        The metadata that a page was created with or was given.
    epoch : int or None
        The epoch that a tag names.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", shape=3)
    >>> x.rename("y")
    2
    >>> [(change.kind, change.name) for commit in bus.log() for change in commit.changes]
    [('create', 'x'), ('rename', 'y')]
    """

    kind: str
    page: int | None = None
    name: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: DType | None = None
    meta: dict[str, Any] | None = None
    epoch: int | None = None


def _change(op: tuple[Any, ...]) -> Change:
    kind = op[0]
    if kind == "create":
        _, page, name, dtype, shape, _, meta = op
        return Change(
            kind,
            page,
            name,
            tuple(shape),
            dtype_from_text(dtype),
            _metadata.meta_dict(meta),
        )
    if kind == "rename":
        return Change(kind, op[1], name=op[2])
    if kind == "set_meta":
        return Change(kind, op[1], meta=_metadata.meta_dict(op[2]))
    if kind == "resize":
        return Change(kind, op[1], shape=tuple(op[2]))
    if kind == "tag":
        return Change(kind, name=op[1], epoch=op[2])
    return Change(kind, name=op[1]) if kind == "untag" else Change(kind, op[1])


class Commit(AtEpoch):
    """One commit of the log. It stands for its epoch wherever an epoch is asked for.

    Attributes
    ----------
    epoch : int
        The epoch that it made.
    time : int
        When, in nanoseconds since 1970 UTC; never less than that of the commit before.
    source : str or None
        Who made it.
    meta : dict
        Its metadata, a copy; empty without metadata.
    pages : tuple of int
        Ids of all pages that it touched, structurally too, ascending.
    deltas : tuple of Delta
        What it wrote, one delta a page.
    changes : tuple of Change
        What it created, deleted, renamed, resized, described or tagged.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> pos = bus.create_page("pos", shape=3, dtype="f4")
    >>> pos.write(1, source="physics", meta={"step": 7})
    2
    >>> created, written = bus.log()
    >>> written.epoch, written.source, written.meta, written.pages
    (2, 'physics', {'step': 7}, (1,))
    >>> created.changes[0].kind
    'create'
    """

    __slots__ = ("_core", "_entry", "_ops")

    def __init__(self, core: Core, entry: _core.LogEntry) -> None:
        self._core = core
        self._entry = entry
        self._ops: list[tuple[Any, ...]] | None = None

    @property
    def epoch(self) -> int:
        """The epoch that it made."""
        return self._entry.epoch

    @property
    def time(self) -> int:
        """When, in nanoseconds since 1970 UTC."""
        return self._entry.time

    @property
    def source(self) -> str | None:
        """Who made it."""
        return self._entry.source

    @property
    def meta(self) -> dict[str, Any]:
        """Its metadata."""
        return _metadata.meta_dict(self._entry.meta)

    @property
    def pages(self) -> tuple[int, ...]:
        """Ids of all pages that it touched."""
        return tuple(sorted({op[1] for op in self._operations() if op[0] not in _TAG_OPS}))

    @property
    def deltas(self) -> tuple[Delta, ...]:
        """What it wrote, one delta a page."""
        written: dict[int, tuple[list[tuple[int, int]], list[bytes]]] = {}
        for op in self._operations():
            if op[0] == "write":
                ranges, chunks = written.setdefault(op[1], ([], []))
                ranges.append((op[2], op[2] + len(op[3])))
                chunks.append(op[3])
        return tuple(Delta(page, *parts) for page, parts in written.items())

    @property
    def changes(self) -> tuple[Change, ...]:
        """What it changed besides bytes."""
        return tuple(_change(op) for op in self._operations() if op[0] != "write")

    def _operations(self) -> list[tuple[Any, ...]]:
        if self._ops is None:
            self._ops = self._entry.ops()
        return self._ops

    def __repr__(self) -> str:
        by = "" if self.source is None else f" by {self.source!r}"
        about = f" {self._entry.meta}" if self._entry.meta else ""
        return f"<Commit {self.epoch}{by}{about}>"


class _Replay:
    """One page as it goes through the log, in memory of its own."""

    def __init__(self, page: int) -> None:
        self.page = page
        self.exists = False
        self.dtype: DType = np.dtype(np.uint8)
        self.shape: tuple[int, ...] = ()
        self.memory = bytearray()

    def start(self, snap: _core.Snap) -> None:
        """Take the page as it is in a snapshot."""
        info = snap.info(self.page)
        if info is not None:
            self.exists, self.dtype, self.shape = True, info.dtype, info.shape
            self.memory = bytearray(snap.read(self.page, 0, info.nbytes))

    def apply(self, op: tuple[Any, ...]) -> bool:
        """Apply one operation; tell whether it may have changed bytes or shape."""
        kind = op[0]
        if kind in _TAG_OPS or op[1] != self.page:
            return False
        if kind == "write":
            self.memory[op[2] : op[2] + len(op[3])] = op[3]
        elif kind == "resize":
            self.shape = tuple(op[2])
            old = len(self.memory)
            self.memory = self.memory[: op[3]] + bytes(max(0, op[3] - old))
        elif kind == "create":
            self.exists, self.dtype, self.shape = True, dtype_from_text(op[3]), tuple(op[4])
            self.memory = bytearray(op[5])
        elif kind == "delete":
            self.exists = False
        else:
            return False
        return True

    def value(self, index: Any) -> Any:
        """Return a copy of what an index names, None where there is nothing."""
        if not self.exists:
            return None
        array: Array = np.ndarray(self.shape, self.dtype, self.memory)
        try:
            # Both an array and a record are views until they are copied.
            return array[index].copy()
        except (IndexError, TypeError, ValueError):
            return None


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return bool(np.shape(a) == np.shape(b)) and a.tobytes() == b.tobytes()


def _before(core: Core, page: int, since: int, until: int) -> _core.Snap | None:
    """Return the state before the first commit of a range that touched a page, None if none did."""
    first = next(core.log(since, until, False, page), None)
    return None if first is None else core.snapshot(first.epoch - 1)


def history(
    core: Core, page: int, index: Any, since: EpochLike | Moment, until: EpochLike | Moment | None
) -> Iterator[tuple[Commit, Any]]:
    """Return the values that a page had; see :meth:`Page.history`."""
    _check_index(core, page, index)
    low, high = bounds(core, since, until)
    return _history(core, page, index, low, high)


def _history(
    core: Core, page: int, index: Any, since: int, until: int
) -> Iterator[tuple[Commit, Any]]:
    before = _before(core, page, since, until)
    if before is None:
        return
    replay = _Replay(page)
    replay.start(before)
    before.close()
    last = replay.value(index)
    for entry in core.log(since, until, False, page):
        commit = Commit(core, entry)
        touched = False
        for op in commit._operations():
            touched |= replay.apply(op)
        if touched:
            value = replay.value(index)
            if value is not None and not _same(value, last):
                yield commit, value
            last = value


def _check_index(core: Core, page: int, index: Any) -> None:
    """Raise if no length of the page could make an index fit; only the first axis ever changes."""
    info = core.info(page)
    items = index if isinstance(index, tuple) else (index,)
    if info is None or any(np.asarray(item).dtype.kind == "b" for item in items if _is_array(item)):
        return
    shape = info.shape
    if shape:
        row = max(1, int(np.prod([n for n in shape[1:] if n], dtype=object)) * info.dtype.itemsize)
        shape = ((1 << 62) // row, *shape[1:])
    try:
        np.broadcast_to(np.zeros((), info.dtype), shape)[index]
    except (IndexError, TypeError, ValueError) as error:
        raise PageIndexError(f"{error} (page {page} of shape {info.shape})") from error


def _is_array(item: Any) -> bool:
    return isinstance(item, (bool, np.bool_, np.ndarray, list))


def log(
    core: Core,
    page: PageLike | None,
    index: Any,
    since: EpochLike | Moment,
    until: EpochLike | Moment | None,
    source: str | None,
    meta: Mapping[str, Any] | None,
    reverse: bool,
) -> Iterator[Commit]:
    """Return the commits that match; see :meth:`Bus.log`."""
    low, high = bounds(core, since, until)
    wanted = _metadata.members(meta)
    which = None if page is None else past_page_id(core, page)
    if index is not None:
        if which is None:
            raise ArgumentError("index= needs page=")
        _check_index(core, which, index)
    return _log(core, which, index, low, high, source, wanted, reverse)


def _log(
    core: Core,
    page: int | None,
    index: Any,
    since: int,
    until: int,
    source: str | None,
    wanted: list[str],
    reverse: bool,
) -> Iterator[Commit]:
    writers = None if index is None or page is None else _writers(core, page, index, since, until)
    for entry in core.log(since, until, reverse, page, source, wanted):
        if writers is None or entry.epoch in writers:
            yield Commit(core, entry)


def _writers(core: Core, page: int, index: Any, since: int, until: int) -> set[int]:
    """Return the epochs whose commit wrote a byte of what an index names."""
    found: set[int] = set()
    before = _before(core, page, since, until)
    if before is None:
        return found
    info = before.info(page)
    before.close()
    shape, dtype = (info.shape, info.dtype) if info is not None else ((), np.dtype(np.uint8))
    size = info.nbytes if info is not None else 0
    named: dict[tuple[tuple[int, ...], DType], list[tuple[int, int]]] = {}
    for entry in core.log(since, until, False, page):
        written: list[tuple[int, int]] = []
        for op in entry.ops():
            if op[0] in _TAG_OPS or op[1] != page:
                continue
            if op[0] == "write":
                written.append((op[2], op[2] + len(op[3])))
            elif op[0] == "resize":
                written.append((size, op[3]))
                shape, size = tuple(op[2]), op[3]
            elif op[0] == "create":
                written.append((0, op[5]))
                dtype, shape, size = dtype_from_text(op[3]), tuple(op[4]), op[5]
        if written:
            if (shape, dtype) not in named:
                named[shape, dtype] = _named(dtype, shape, index)
            if _index.overlaps(named[shape, dtype], written):
                found.add(entry.epoch)
    return found


def _named(dtype: DType, shape: tuple[int, ...], index: Any) -> list[tuple[int, int]]:
    try:
        return _index.ranges(dtype, shape, index)
    except PageIndexError:
        return []


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """What differs in one page between two epochs.

    Attributes
    ----------
    page : int
        Id of the page.
    name : str or None
        Its name, the later one if it was renamed.
    change : str
        The first that holds of "created", "deleted", "resized", "changed", "renamed", "meta" and
        "graph", for another place in the graph or another mark.
    ranges : tuple of (int, int)
        Start and stop, in bytes, of the elements that differ.
    old, new : tuple of ndarray
        For each range the elements before and after, one-dimensional; empty where there are none.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", data=[1, 2, 3])
    >>> x.resize(2)
    2
    >>> for d in bus.diff(1, 2):
    ...     print(d.name, d.change, d.ranges, d.old, d.new)
    x resized ((16, 24),) (array([3]),) (array([], dtype=int64),)
    """

    page: int
    name: str | None
    change: str
    ranges: tuple[tuple[int, int], ...]
    old: tuple[Array, ...]
    new: tuple[Array, ...]


def diff(a: _core.Snap, b: _core.Snap, page: int | None) -> Iterator[Difference]:
    """Yield what differs from one state to another, page by page in id order."""
    for which in a.changed_pages(b):
        if page is None or which == page:
            difference = _difference(a, b, which)
            if difference is not None:
                yield difference


def _difference(a: _core.Snap, b: _core.Snap, page: int) -> Difference | None:
    old, new = a.info(page), b.info(page)
    size_a, size_b = (0 if info is None else info.nbytes for info in (old, new))
    if old is None or new is None:
        if old is new:
            return None
        change = "created" if old is None else "deleted"
        ranges = [(0, max(size_a, size_b))]
    elif (old.dtype, old.raw) != (new.dtype, new.raw):
        # Two buses may have given one id to different pages.
        change, ranges = "changed", [(0, max(size_a, size_b))]
    else:
        ranges = a.diff(b, page)
        if size_a != size_b:
            ranges.append((min(size_a, size_b), max(size_a, size_b)))
        if old.shape != new.shape:
            change = "resized"
        elif ranges:
            change = "changed"
        elif old.name != new.name:
            change = "renamed"
        elif old.meta != new.meta:
            change = "meta"
        elif (old.node, old.stale, old.poisoned) != (new.node, new.stale, new.poisoned):
            change = "graph"
        else:
            return None
    ranges = [(start, stop) for start, stop in ranges if start < stop]
    last = new if new is not None else old
    return Difference(
        page,
        None if last is None else last.name,
        change,
        tuple(ranges),
        tuple(_elements(a, old, *r) for r in ranges),
        tuple(_elements(b, new, *r) for r in ranges),
    )


def _elements(snap: _core.Snap, info: _core.PageInfo | None, start: int, stop: int) -> Array:
    if info is None:
        return np.empty(0, np.uint8)
    start, stop = min(start, info.nbytes), min(stop, info.nbytes)
    return snap.read(info.id, start, stop).view(info.dtype)


def diff_page(core: Core, a: _core.Snap, b: _core.Snap, page: PageLike) -> int:
    """Return the id of the page that a diff is asked for; a name may be of either state."""
    if isinstance(page, str):
        for snap in (b, a):
            if (found := snap.find(page)) is not None:
                return found
        raise PageNotFoundError(f"there is no page named {page!r} in either state")
    return past_page_id(core, page)
