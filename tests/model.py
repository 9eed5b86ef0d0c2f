"""The oracle: what a bus must hold, kept in plain Python, and the one alphabet of operations.

A `Model` keeps a frozen `State` per epoch. An operation is a small dataclass that says what it does
to a `Draft` (`apply`) and how it is asked of a bus (`on_bus`) or of a transaction (`on_tx`); so
every test that draws operations runs all of them, and a new operation is added in one place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import mmsb
import numpy as np
import numpy.typing as npt

Meta = dict[str, Any]


def canonical(meta: Mapping[str, Any] | None) -> str:
    """Canonical JSON, so that metadata compare as text."""
    return json.dumps(dict(meta or {}), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


LINKS = ("control", "gpu_sync", "compiler")
# The first byte that functions of the model fail at.
UNLUCKY = 13


@dataclass(frozen=True)
class Node:
    """A page's place in the graph: what it is computed from, and links to it."""

    form: str = "link"
    text: str = ""
    inputs: tuple[int, ...] = ()
    links: tuple[tuple[int, str], ...] = ()
    deferred: bool = False
    poisons: bool = False

    @property
    def derived(self) -> bool:
        """Whether the page is computed from others."""
        return self.form != "link"

    def edges(self, page: int) -> list[tuple[int, int, str]]:
        """All edges to the page."""
        return [(i, page, "data") for i in self.inputs] + [(i, page, k) for i, k in self.links]


@dataclass(frozen=True)
class Page:
    """One version of one page."""

    name: str | None
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    data: bytes
    meta: str
    epoch: int
    node: Node | None = None
    stale: bool = False
    poisoned: bool = False

    @property
    def derived(self) -> bool:
        """Whether it is computed from others."""
        return self.node is not None and self.node.derived

    def placed(self, node: Node | None) -> Page:
        """The page at another place in the graph."""
        if node is None:
            return replace(self, node=None, stale=False, poisoned=False)
        return replace(self, node=node)

    def array(self) -> npt.NDArray[Any]:
        """The bytes as an array of their own."""
        return np.ndarray(self.shape, self.dtype, buffer=bytearray(self.data))

    def row_bytes(self) -> int:
        """Bytes of one step along the first axis."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def same_content(self, other: Page | None) -> bool:
        """Equal in all but the epoch."""
        return other is not None and replace(self, epoch=0) == replace(other, epoch=0)


@dataclass
class State:
    """All pages and tags of one epoch."""

    pages: dict[int, Page]
    tags: dict[str, int]
    next_id: int
    # Of a draft: the pages that it writes, and whether others follow from it as from any change.
    written: set[int] = field(default_factory=set, compare=False)
    # Those of them whose bytes it names, also where they are not new.
    named_bytes: set[int] = field(default_factory=set, compare=False)
    manner: str = field(default="change", compare=False)

    def copy(self) -> State:
        """A copy that may be changed: pages themselves are frozen."""
        return State(dict(self.pages), dict(self.tags), self.next_id)

    def key(self) -> tuple[Any, ...]:
        """What the digest covers."""
        return tuple(
            (
                (i, p.name, p.dtype.str, str(p.dtype.descr), p.shape, p.data, p.meta),
                (p.node, p.stale, p.poisoned),
            )
            for i, p in sorted(self.pages.items())
        )

    def named(self) -> dict[str, int]:
        """Names and ids, in id order."""
        return {p.name: i for i, p in sorted(self.pages.items()) if p.name is not None}


class Model:
    """The states of a bus from its first epoch to its newest."""

    def __init__(self, first_epoch: int = 0, state: State | None = None) -> None:
        self.first = first_epoch
        self.states = [state.copy() if state else State({}, {}, 1)]
        self.commits: dict[int, tuple[str | None, Meta]] = {}

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return self.first + len(self.states) - 1

    @property
    def head(self) -> State:
        """The newest state."""
        return self.states[-1]

    def at(self, epoch: int) -> State:
        """The state of one epoch."""
        return self.states[epoch - self.first]

    def commit(
        self, draft: State, source: str | None = None, meta: Meta | None = None
    ) -> tuple[int, bool]:
        """Publish a draft as a bus does: what changes nothing makes no epoch unless it has meta."""
        head, epoch = self.head, self.epoch + 1
        follow(draft, head)
        pages = {}
        for i, page in draft.pages.items():
            old = head.pages.get(i)
            pages[i] = old if old and page.same_content(old) else replace(page, epoch=epoch)
        tags = {name: (epoch if at < 0 else at) for name, at in draft.tags.items()}
        # Ids are never given again: a page that came and went has changed the next one.
        made = draft.next_id != head.next_id
        if pages == head.pages and tags == head.tags and not made and not meta:
            return self.epoch, False
        self.states.append(State(pages, tags, draft.next_id))
        self.commits[epoch] = (source, dict(meta or {}))
        return epoch, True

    def refusal(self, draft: State) -> type[Exception] | None:
        """Why a commit of the draft would be refused, if it would."""
        try:
            follow(replace(draft, pages=dict(draft.pages)), self.head)
        except Refused as refused:
            return refused.error
        return None

    def lose_after(self, epoch: int) -> None:
        """Only the commits up to this epoch survived."""
        del self.states[epoch - self.first + 1 :]
        self.commits = {e: commit for e, commit in self.commits.items() if e <= epoch}

    def let_go(self, base: int) -> None:
        """The log begins after this epoch now."""
        del self.states[: base - self.first]
        self.first = base

    def restored(self, epoch: int) -> State:
        """The draft of a restore: the pages of then, the tags and the id counter of now."""
        pages, tags = dict(self.at(epoch).pages), dict(self.head.tags)
        return State(pages, tags, self.head.next_id, manner="as is")

    def fork(self, epoch: int) -> Model:
        """The model of a fork made at an epoch."""
        return Model(epoch, self.at(epoch))

    def history(
        self, page: int, rows: slice, since: int, until: int
    ) -> list[tuple[int, tuple[int, ...], bytes]]:
        """(epoch, shape, bytes) for each commit that changed what the slice names."""
        found, last = [], None
        for epoch in range(self.first, min(until, self.epoch) + 1):
            held = self.at(epoch).pages.get(page)
            value = None
            if held is not None:
                part = held.array()[rows]
                value = (part.shape, part.tobytes())
            if value is not None and value != last and epoch >= since and epoch > self.first:
                found.append((epoch, *value))
            last = value
        return found

    def diff(self, a: int, b: int) -> list[tuple[int, str]]:
        """(page, change) for each page that differs, in id order."""
        old, new = self.at(a).pages, self.at(b).pages
        found = []
        for i in sorted(old.keys() | new.keys()):
            p, q = old.get(i), new.get(i)
            change = None
            if p is None:
                change = "created"
            elif q is None:
                change = "deleted"
            elif p.shape != q.shape:
                change = "resized"
            elif p.data != q.data:
                change = "changed"
            elif p.name != q.name:
                change = "renamed"
            elif p.meta != q.meta:
                change = "meta"
            elif (p.node, p.stale, p.poisoned) != (q.node, q.stale, q.poisoned):
                change = "graph"
            if change:
                found.append((i, change))
        return found


def changed_ranges(a: bytes, b: bytes, itemsize: int) -> list[tuple[int, int]]:
    """Byte ranges of whole elements that differ, adjacent ones joined: element by element."""
    found: list[tuple[int, int]] = []
    for start in range(0, len(a), itemsize):
        stop = start + itemsize
        if a[start:stop] == b[start:stop]:
            continue
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found


# --- what follows -----------------------------------------------------------------------------


def total(*args: Any) -> None:
    """The function of all derived pages: each byte is the sum of one of each input, wrapping."""
    *inputs, out = args
    data = sum_of([x.tobytes() for x in inputs], out.nbytes)
    out[...] = np.frombuffer(data, np.uint8).reshape(out.shape)


def totals(*args: Any) -> None:
    """The same of many pages together."""
    for row in range(len(args[0])):
        total(*(array[row, ...] for array in args))


def function_of(name: str | None) -> dict[str, Any]:
    """How a page is computed: some by a function of their own, some together with others."""
    batch = name in ("b", "pos", "vel/x")
    return {"function": totals if batch else total, "batch": batch}


def sum_of(inputs: list[bytes], nbytes: int) -> bytes:
    """What the function computes from bytes."""
    if inputs[0][:1] == bytes([UNLUCKY]):
        raise ArithmeticError(f"{UNLUCKY} is unlucky")
    out = np.zeros(nbytes, np.uint8)
    for data in inputs:
        if data:
            out += np.resize(np.frombuffer(data, np.uint8), nbytes)
    return out.tobytes()


def value_of(text: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """What NumPy says that an expression of `a` is; all NaNs are the one that NumPy writes."""
    with np.errstate(all="ignore"):
        result = np.asarray(eval(text, {"a": value, "sum": np.sum}))
    if result.dtype.kind == "f":
        result = np.where(np.isnan(result), result.dtype.type(np.nan), result)
    return result


def expressions(dtype: np.dtype[Any]) -> list[str]:
    """Texts that fit a page of this dtype."""
    if dtype.str == "<f8":
        return ["a * 0.5", "a == a"]
    return {
        "|b1": ["~a", "a == a"],
        "|u1": ["a + 1", "sum(a)"],
        "<i4": ["a * 3 - 1", "sum(a)"],
    }.get(dtype.str, [])


def follow(draft: State, head: State) -> None:
    """Bring a draft to what a commit of it makes, by the plainest way: all pages in order."""
    pages = draft.pages
    edges = [edge for i, page in pages.items() if page.node for edge in page.node.edges(i)]
    before = {edge for i, page in head.pages.items() if page.node for edge in page.node.edges(i)}
    missing = [edge for edge in edges if edge[0] not in pages]
    if any(edge not in before for edge in missing):
        raise Refused(mmsb.PageNotFoundError)
    levels(pages, edges)
    if missing:
        raise Refused(mmsb.ArgumentError)
    order = levels(pages, [edge for edge in edges if edge[2] in ("data", "control")])
    if draft.manner == "as is":
        return
    if any(i in pages and pages[i].derived for i in draft.written):
        raise Refused(mmsb.InvalidDeltaError)
    spread = set()
    for i, page in sorted(pages.items()):
        old = head.pages.get(i)
        if old is None or (old.shape, old.data) != (page.shape, page.data):
            spread.add(i)
        if page.node and not page.derived and (i in spread or i in draft.named_bytes):
            pages[i] = replace(page, stale=False, poisoned=False)
        if page.node and page.node.form == "native" and is_new(page, old):
            if not fits(pages, page):
                raise Refused(mmsb.ArgumentError)
    for i in sorted(pages, key=lambda i: (order[i], i)):
        visit(i, draft, head, spread)


def levels(pages: Mapping[int, Page], edges: list[tuple[int, int, str]]) -> dict[int, int]:
    """The length of the longest way to each page."""
    found = dict.fromkeys(pages, 0)
    for _ in range(len(pages) + 1):
        moved = False
        for src, dst, _ in edges:
            if src in found and found[dst] <= found[src]:
                found[dst], moved = found[src] + 1, True
        if not moved:
            return found
    raise Refused(mmsb.GraphCycleError)


def is_new(page: Page, old: Page | None) -> bool:
    """Whether another function computes the page than before, or the same from other inputs."""
    assert page.node
    had = old.node if old and old.derived else None
    return had is None or replace(had, links=()) != replace(page.node, links=())


def fits(pages: Mapping[int, Page], page: Page) -> bool:
    """Whether the expression of a page gives what it has."""
    assert page.node
    source = pages[page.node.inputs[0]]
    if page.node.text not in expressions(source.dtype):
        return False
    value = value_of(page.node.text, source.array())
    return (value.dtype, value.shape) == (page.dtype, page.shape)


def visit(i: int, draft: State, head: State, spread: set[int]) -> None:
    """Compute a page, or mark it, if it has to be."""
    pages, page = draft.pages, draft.pages[i]
    node = page.node
    if node is None:
        return
    settles = draft.manner == "settle" and (page.stale or page.poisoned)
    due = page.derived and (
        settles or not spread.isdisjoint(node.inputs) or is_new(page, head.pages.get(i))
    )
    if not due and all(kind != "control" or src not in spread for src, kind in node.links):
        return
    if not due or (node.deferred and draft.manner != "settle"):
        if page.derived or (i not in spread and i not in draft.named_bytes):
            pages[i] = replace(page, stale=True)
        return
    try:
        if any(pages[src].poisoned for src in node.inputs):
            raise ArithmeticError("an input is poisoned")
        if node.form == "native":
            if not fits(pages, page):
                raise Refused(mmsb.PropagationError)
            data = value_of(node.text, pages[node.inputs[0]].array()).tobytes()
        else:
            data = sum_of([pages[src].data for src in node.inputs], len(page.data))
    except ArithmeticError:
        if not node.poisons and not any(pages[src].poisoned for src in node.inputs):
            raise Refused(mmsb.PropagationError) from None
        pages[i] = replace(page, stale=False, poisoned=True)
        if not page.poisoned:
            spread.add(i)
        return
    pages[i] = replace(page, data=data, stale=False, poisoned=False)
    if data != page.data or page.poisoned:
        spread.add(i)


def bind_all(bus: Any, state: State) -> None:
    """Register the functions of all pages of a state, as a program does after it opened a bus."""
    unbound, epoch = bus.graph.unbound, bus.epoch
    for _, page in sorted(state.pages.items()):
        if page.node is None or page.name not in unbound:
            continue
        how = function_of(page.name) | {
            "deferred": page.node.deferred,
            "on_error": "poison" if page.node.poisons else "abort",
        }
        function = how.pop("function")
        bus.derive(page.name, page.node.inputs, page.shape, page.dtype, **how)(function)
    assert (bus.graph.unbound, bus.epoch) == ([], epoch)


# --- the alphabet -----------------------------------------------------------------------------


class Refused(Exception):
    """The operation must be refused with this class of error."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__(error.__name__)
        self.error = error


def _page(draft: State, page: int) -> Page:
    if page not in draft.pages:
        raise Refused(mmsb.PageNotFoundError)
    return draft.pages[page]


def _free(draft: State, name: str | None, page: int | None = None) -> None:
    if name is not None and draft.named().get(name, page) != page:
        raise Refused(mmsb.PageExistsError)


def _cut(data: bytes, into: Page, start: int, new: bytes) -> Page:
    assert start + len(new) <= len(data)
    return replace(into, data=data[:start] + new + data[start + len(new) :])


@dataclass(frozen=True)
class Create:
    """A new page, raw when dtype is None."""

    name: str | None
    dtype: Any
    shape: tuple[int, ...]
    data: bytes | None
    meta: str

    def apply(self, draft: State) -> None:
        _free(draft, self.name)
        dtype = np.dtype(self.dtype or "u1")
        nbytes = dtype.itemsize * math.prod(self.shape)
        data = bytes(nbytes) if self.data is None else self.data
        draft.pages[draft.next_id] = Page(self.name, dtype, self.shape, data, self.meta, 0)
        draft.next_id += 1

    def _make(self, to: Any) -> Any:
        meta = json.loads(self.meta)
        if self.dtype is None:
            if self.data is not None:
                return to.create_page(self.name, data=self.data, meta=meta)
            return to.create_page(self.name, size=self.shape[0], meta=meta)
        data = None
        if self.data is not None:
            data = np.ndarray(self.shape, np.dtype(self.dtype), buffer=bytearray(self.data))
        return to.create_page(self.name, shape=self.shape, dtype=self.dtype, data=data, meta=meta)

    def on_bus(self, bus: Any) -> int:
        return int(self._make(bus).epoch)

    def on_tx(self, tx: Any, bus: Any) -> None:
        self._make(tx)


@dataclass(frozen=True)
class Write:
    """New bytes for rows [start, stop) of a page, or for all of it when start is None."""

    page: int
    start: int | None
    stop: int
    data: bytes

    def apply(self, draft: State) -> None:
        page = _page(draft, self.page)
        draft.written.add(self.page)
        if self.data:
            draft.named_bytes.add(self.page)
        self.put(draft, page)

    def put(self, draft: State, page: Page) -> None:
        """Put the new bytes in their place."""
        at = 0 if self.start is None else self.start * page.row_bytes()
        draft.pages[self.page] = _cut(page.data, page, at, self.data)

    def _value(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        rows = shape if self.start is None else (self.stop - self.start, *shape[1:])
        return np.ndarray(rows, dtype, buffer=bytearray(self.data))

    def on_bus(self, bus: Any) -> int:
        page = bus[self.page]
        value = self._value(page.shape, page.dtype)
        if self.start is None:
            return int(page.write(value))
        page[self.start : self.stop] = value
        return int(bus.epoch)

    def on_tx(self, tx: Any, bus: Any) -> None:
        held = tx.read(self.page)
        value = self._value(held.shape, held.dtype)
        if self.start is None:
            tx.write(self.page, value)
        else:
            tx.write(self.page, np.s_[self.start : self.stop], value)


@dataclass(frozen=True)
class Edit:
    """The same through `tx.edit`: only in a transaction does it differ from `Write`."""

    page: int
    start: int | None
    stop: int
    data: bytes

    def apply(self, draft: State) -> None:
        page = _page(draft, self.page)
        draft.written.add(self.page)
        Write(self.page, self.start, self.stop, self.data).put(draft, page)

    def on_bus(self, bus: Any) -> int:
        with bus.transaction() as tx:
            self.on_tx(tx, bus)
        return int(tx.epoch)

    def on_tx(self, tx: Any, bus: Any) -> None:
        if self.start is None:
            array = tx[self.page]
        else:
            array = tx.edit(self.page, np.s_[self.start : self.stop])
        array[...] = np.ndarray(array.shape, array.dtype, buffer=bytearray(self.data))


@dataclass(frozen=True)
class Append:
    """Rows at the end."""

    page: int
    rows: int
    data: bytes

    def apply(self, draft: State) -> None:
        page = _page(draft, self.page)
        draft.written.add(self.page)
        shape = (page.shape[0] + self.rows, *page.shape[1:])
        draft.pages[self.page] = replace(page, shape=shape, data=page.data + self.data)

    def on_bus(self, bus: Any) -> int:
        page = bus[self.page]
        shape = (self.rows, *page.shape[1:])
        return int(page.append(np.ndarray(shape, page.dtype, buffer=bytearray(self.data))))

    def on_tx(self, tx: Any, bus: Any) -> None:
        held = tx.read(self.page)
        shape = (self.rows, *held.shape[1:])
        first = tx.append(self.page, np.ndarray(shape, held.dtype, buffer=bytearray(self.data)))
        assert first == held.shape[0]


@dataclass(frozen=True)
class Resize:
    """A new length of the first axis."""

    page: int
    rows: int

    def apply(self, draft: State) -> None:
        page = _page(draft, self.page)
        draft.written.add(self.page)
        nbytes = self.rows * page.row_bytes()
        data = page.data[:nbytes] + bytes(max(0, nbytes - len(page.data)))
        draft.pages[self.page] = replace(page, shape=(self.rows, *page.shape[1:]), data=data)

    def on_bus(self, bus: Any) -> int:
        page = bus[self.page]
        return int(page.resize((self.rows, *page.shape[1:])))

    def on_tx(self, tx: Any, bus: Any) -> None:
        tx.resize(self.page, (self.rows, *tx.read(self.page).shape[1:]))


@dataclass(frozen=True)
class Rename:
    """Another name."""

    page: int
    name: str

    def apply(self, draft: State) -> None:
        page = _page(draft, self.page)
        _free(draft, self.name, self.page)
        draft.pages[self.page] = replace(page, name=self.name)

    def on_bus(self, bus: Any) -> int:
        return int(bus[self.page].rename(self.name))

    def on_tx(self, tx: Any, bus: Any) -> None:
        tx.rename(self.page, self.name)


@dataclass(frozen=True)
class SetMeta:
    """Other metadata."""

    page: int
    meta: str

    def apply(self, draft: State) -> None:
        draft.pages[self.page] = replace(_page(draft, self.page), meta=self.meta)

    def on_bus(self, bus: Any) -> int:
        return int(bus[self.page].set_meta(json.loads(self.meta)))

    def on_tx(self, tx: Any, bus: Any) -> None:
        tx.set_meta(self.page, json.loads(self.meta))


@dataclass(frozen=True)
class Delete:
    """The page goes, its id is never given again."""

    page: int

    def apply(self, draft: State) -> None:
        _page(draft, self.page)
        del draft.pages[self.page]

    def on_bus(self, bus: Any) -> int:
        return int(bus[self.page].delete())

    def on_tx(self, tx: Any, bus: Any) -> None:
        tx.delete(self.page)


@dataclass(frozen=True)
class Patch:
    """A delta: dense, sparse or from a byte mask."""

    page: int
    kind: str
    chunks: tuple[tuple[int, bytes], ...]

    def apply(self, draft: State) -> None:
        page = _page(draft, self.page)
        draft.written.add(self.page)
        if any(data for _, data in self.chunks):
            draft.named_bytes.add(self.page)
        for at, data in self.chunks:
            page = _cut(page.data, page, at, data)
        draft.pages[self.page] = page

    def delta(self, page: Any, nbytes: int) -> Any:
        """The delta as the public constructors make it."""
        if self.kind == "dense":
            return mmsb.Delta.dense(page, self.chunks[0][1])
        if self.kind == "sparse":
            offsets = [at for at, _ in self.chunks]
            return mmsb.Delta.sparse(page, offsets, [data for _, data in self.chunks])
        mask, data = bytearray(nbytes), bytearray(nbytes)
        for at, new in self.chunks:
            mask[at : at + len(new)] = b"\1" * len(new)
            data[at : at + len(new)] = new
        return mmsb.Delta.from_mask(page, bytes(mask), bytes(data))

    def on_bus(self, bus: Any) -> int:
        with bus.transaction() as tx:
            self.on_tx(tx, bus)
        return int(tx.epoch)

    def on_tx(self, tx: Any, bus: Any) -> None:
        tx.apply(self.delta(bus[self.page], bus[self.page].nbytes))


@dataclass(frozen=True)
class WriteMany:
    """Many small byte ranges of equal length in one commit."""

    writes: tuple[tuple[int, int, bytes], ...]

    def apply(self, draft: State) -> None:
        for page, at, data in self.writes:
            held = _page(draft, page)
            draft.written.add(page)
            if data:
                draft.named_bytes.add(page)
            draft.pages[page] = _cut(held.data, held, at, data)

    def on_bus(self, bus: Any) -> int:
        width = len(self.writes[0][2])
        rows = np.frombuffer(b"".join(d for *_, d in self.writes), np.uint8)
        ids = np.array([p for p, *_ in self.writes], np.uint64)
        offsets = np.array([o for _, o, _ in self.writes], np.uint64)
        return int(bus.write_many(ids, offsets, rows.reshape(-1, width)))

    def on_tx(self, tx: Any, bus: Any) -> None:
        for page, at, data in self.writes:
            tx.apply(mmsb.Delta.sparse(bus[page], [at], [data]))


@dataclass(frozen=True)
class Tag:
    """A name for an epoch; None: the one that this commit makes."""

    name: str
    epoch: int | None
    move: bool = False

    def apply(self, draft: State) -> None:
        if self.name in draft.tags and not self.move:
            raise Refused(mmsb.TagExistsError)
        draft.tags[self.name] = -1 if self.epoch is None else self.epoch

    def on_bus(self, bus: Any) -> int:
        return int(bus.tag(self.name, self.epoch, move=self.move))

    def on_tx(self, tx: Any, bus: Any) -> None:
        tx.tag(self.name)


@dataclass(frozen=True)
class Untag:
    """The tag goes."""

    name: str

    def apply(self, draft: State) -> None:
        if self.name not in draft.tags:
            raise Refused(mmsb.TagNotFoundError)
        del draft.tags[self.name]

    def on_bus(self, bus: Any) -> int:
        return int(bus.untag(self.name))

    def on_tx(self, tx: Any, bus: Any) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class Derive:
    """A page that a function or an expression computes: a new one, or another way for one."""

    name: str
    dtype: Any
    shape: tuple[int, ...]
    meta: str
    node: Node

    def apply(self, draft: State) -> None:
        for src in self.node.inputs:
            _page(draft, src)
        taken, dtype = draft.named().get(self.name), np.dtype(self.dtype)
        links: tuple[tuple[int, str], ...] = ()
        if taken is not None:
            page = draft.pages[taken]
            if not page.derived or page.node is None:
                raise Refused(mmsb.PageExistsError)
            if (page.dtype, page.shape) == (dtype, self.shape) or taken in self.node.inputs:
                links = page.node.links
                draft.pages[taken] = page.placed(replace(self.node, links=links))
                return
            del draft.pages[taken]
        data = bytes(dtype.itemsize * math.prod(self.shape))
        page = Page(self.name, dtype, self.shape, data, self.meta, 0, self.node)
        draft.pages[draft.next_id] = page
        draft.next_id += 1

    def _make(self, to: Any) -> None:
        node, meta = self.node, json.loads(self.meta)
        if node.form == "native":
            inputs = {"a": node.inputs[0]}
            to.map(node.text, self.name, inputs=inputs, deferred=node.deferred, meta=meta)
            return
        on_error, how = "poison" if node.poisons else "abort", function_of(self.name)
        made = to.derive(
            self.name, list(node.inputs), self.shape, self.dtype,
            batch=how["batch"], deferred=node.deferred, on_error=on_error, meta=meta,
        )  # fmt: skip
        assert made(how["function"]) is how["function"]

    def on_bus(self, bus: Any) -> int:
        self._make(bus)
        page = bus[self.name]
        assert (page.dtype, page.shape) == (np.dtype(self.dtype), self.shape)
        return int(bus.epoch)

    def on_tx(self, tx: Any, bus: Any) -> None:
        self._make(tx)


@dataclass(frozen=True)
class Link:
    """A link between two pages, or none any more."""

    src: int
    dst: int
    kind: str
    there: bool

    def apply(self, draft: State) -> None:
        _page(draft, self.src)
        page, link = _page(draft, self.dst), (self.src, self.kind)
        node = page.node or Node()
        if (link in node.links) is self.there:
            raise Refused(mmsb.ArgumentError)
        links = {*node.links} ^ {link}
        node = replace(node, links=tuple(sorted(links, key=lambda x: (x[0], LINKS.index(x[1])))))
        draft.pages[self.dst] = page.placed(node if node != Node() else None)

    def _make(self, to: Any) -> Any:
        return (to.link if self.there else to.unlink)(self.src, self.dst, self.kind)

    def on_bus(self, bus: Any) -> int:
        return int(self._make(bus.graph))

    def on_tx(self, tx: Any, bus: Any) -> None:
        self._make(tx)


@dataclass(frozen=True)
class Release:
    """A derived page that is computed no more."""

    page: int

    def apply(self, draft: State) -> None:
        page = _page(draft, self.page)
        if not page.derived or page.node is None:
            raise Refused(mmsb.ArgumentError)
        links = page.node.links
        draft.pages[self.page] = page.placed(Node(links=links) if links else None)

    def on_bus(self, bus: Any) -> int:
        return int(bus.graph.release(self.page))

    def on_tx(self, tx: Any, bus: Any) -> None:
        tx.release(self.page)


@dataclass(frozen=True)
class Settle:
    """What is stale or poisoned is computed."""

    def apply(self, draft: State) -> None:
        draft.manner = "settle"

    def on_bus(self, bus: Any) -> int:
        return int(bus.settle())

    def on_tx(self, tx: Any, bus: Any) -> None:
        raise NotImplementedError


# --- comparing --------------------------------------------------------------------------------


def same(array: npt.NDArray[Any], page: Page) -> None:
    """The array shows the page, bit for bit, and cannot be written."""
    assert (array.shape, array.dtype) == (page.shape, page.dtype)
    assert array.tobytes() == page.data
    assert not array.flags.writeable


def check_snapshot(snap: Any, state: State, epoch: int) -> None:
    """Every page, name, shape, dtype, metadata and epoch that a snapshot shows."""
    assert snap.epoch == epoch
    assert len(snap.pages) == len(state.pages)
    assert [p.id for p in snap.pages] == sorted(state.pages)
    for seen in snap.pages:
        page = state.pages[seen.id]
        assert (seen.name, seen.shape, seen.dtype) == (page.name, page.shape, page.dtype)
        assert (seen.nbytes, seen.location) == (len(page.data), "cpu")
        assert (seen.epoch, canonical(seen.meta)) == (page.epoch, page.meta)
        same(snap[seen.id], page)
    named = state.named()
    assert list(snap) == list(named)
    for name, i in named.items():
        assert snap[name].tobytes() == state.pages[i].data


def check_bus(bus: Any, model: Model) -> None:
    """The newest state through the bus itself."""
    state = model.head
    assert bus.epoch == model.epoch
    assert dict(bus.tags) == state.tags
    assert [p.id for p in bus.pages] == sorted(state.pages)
    assert list(bus) == list(state.named())
    for handle in bus.pages:
        page = state.pages[handle.id]
        assert (handle.name, handle.shape, handle.dtype) == (page.name, page.shape, page.dtype)
        assert (handle.nbytes, handle.epoch) == (len(page.data), page.epoch)
        assert canonical(handle.meta) == page.meta
        assert (handle.stale, handle.poisoned) == (page.stale, page.poisoned)
        same(handle.read(), page)
    assert list(bus.graph.edges()) == edges_of(state)


def edges_of(state: State) -> list[tuple[str | int, str | int, str]]:
    """All edges as a bus tells them: by the ids of the pages that follow."""
    nodes = [(i, page.node) for i, page in sorted(state.pages.items()) if page.node]
    edges = [edge for i, node in nodes for edge in node.edges(i)]
    edges.sort(key=lambda edge: (edge[1], edge[0], edge[2]))
    return [(state.pages[a].name or a, state.pages[b].name or b, kind) for a, b, kind in edges]


def check_all_epochs(bus: Any, model: Model) -> None:
    """Time travel to every epoch."""
    for epoch in range(model.first, model.epoch + 1):
        with bus.snapshot(epoch) as snap:
            check_snapshot(snap, model.at(epoch), epoch)
