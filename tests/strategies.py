"""Hypothesis strategies that draw operations of `model` which fit a given state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from model import (
    LINKS,
    UNLUCKY,
    Append,
    Create,
    Delete,
    Derive,
    Edit,
    Link,
    Model,
    Node,
    Page,
    Patch,
    Release,
    Rename,
    Resize,
    SetMeta,
    Settle,
    State,
    Tag,
    Untag,
    Write,
    WriteMany,
    expressions,
    value_of,
)

Draw = Callable[..., Any]

NAMES = st.sampled_from(["a", "b", "pos", "vel/x", "Ä", "name with space"])
TAGS = st.sampled_from(["start", "best", "t3"])
METAS = st.sampled_from(["{}", '{"step":7}', '{"a":[1,null,"x"],"b":{"c":0.5}}', '{"unit":"µm"}'])
RECORD = np.dtype([("id", "<i4"), ("at", "<f8", (2,))])
DTYPES: list[Any] = [None, "u1", "<i4", "<f8", ">i2", "<M8[ns]", "S3", "?", "<c8", RECORD]
# Small pages, pages of one element and none, and a page of several blocks that are not whole.
RAW_SIZES = st.sampled_from([0, 1, 7, 64, 4096, 16384, 16385, 50_000])
SHAPES = st.sampled_from([(), (0,), (1,), (5,), (3, 2), (0, 4), (2, 0), (2, 3, 2), (2100, 3)])


def content(seed: int, nbytes: int, dtype: Any = None) -> bytes:
    """Bytes from a seed; seed 0 is zeros, so that writes that change nothing occur."""
    if seed == 0:
        return bytes(nbytes)
    data = np.random.default_rng(seed).bytes(nbytes)
    if dtype is not None and np.dtype(dtype) == np.bool_:
        return bytes(b & 1 for b in data)
    return data


SEEDS = st.integers(0, 6)


@st.composite
def creates(draw: Draw) -> Create:
    """A new page of any kind."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(SHAPES) if dtype is not None else (draw(RAW_SIZES),)
    nbytes = np.dtype(dtype or "u1").itemsize * math.prod(shape)
    data = content(draw(SEEDS), nbytes, dtype) if draw(st.booleans()) else None
    return Create(draw(st.none() | NAMES), dtype, shape, data, draw(METAS))


@st.composite
def operations(draw: Draw, model: Model, draft: State, transaction: bool) -> Any:
    """An operation on the draft; names and tags may be taken, so some must be refused.

    Deltas are checked against the page of the bus when they are made, so inside a transaction they
    go only to pages that have still the size they have there. A derived page is written as a whole
    only, which is refused unless the transaction releases it.
    """
    pages = sorted(draft.pages)
    steady = [
        i
        for i in pages
        if i in model.head.pages
        and len(draft.pages[i].data) == len(model.head.pages[i].data)
        and draft.pages[i].dtype != np.bool_
        and not draft.pages[i].derived
    ]
    kinds = ["create", "tag", "tag"]
    if pages:
        kinds += ["write", "write", "part", "part", "edit", "append", "append", "resize"]
        kinds += ["rename", "set_meta", "link", "link"] + ["derive"] * 6
    if steady:
        kinds += ["patch", "patch", "many"]
    if len(pages) > 3:
        kinds += ["delete"] * 3
    if any(page.derived for page in draft.pages.values()):
        kinds += ["release"] + ["feed"] * 8
    if not transaction:
        kinds += ["untag"] * bool(draft.tags) + ["settle"]
    kind = draw(st.sampled_from(kinds))
    if kind == "create":
        return draw(creates())
    if kind == "tag":
        if transaction:
            return Tag(draw(TAGS), None)
        return Tag(draw(TAGS), draw(st.integers(model.first, model.epoch)), draw(st.booleans()))
    if kind == "untag":
        return Untag(draw(TAGS))
    if kind == "settle":
        return Settle()
    if kind == "many":
        return draw(_many(draft, steady))
    if kind == "derive":
        return draw(_derive(draft))
    if kind == "link":
        return draw(_link(draft))
    if kind == "feed":
        return draw(_feed(draft))
    i = draw(st.sampled_from(steady if kind == "patch" else pages))
    page = draft.pages[i]
    if kind == "patch":
        return draw(_patch(i, page))
    if kind == "delete":
        return Delete(i)
    if kind == "release":
        return Release(draw(st.sampled_from([i for i in pages if draft.pages[i].derived] + [i])))
    if kind == "rename":
        return Rename(i, draw(NAMES))
    if kind == "set_meta":
        return SetMeta(i, draw(METAS))
    if page.derived:
        return Write(i, None, 0, content(1, len(page.data))) if page.data else SetMeta(i, "{}")
    if kind == "append" and page.shape:
        rows = draw(st.integers(0, 3))
        return Append(i, rows, content(draw(SEEDS), rows * page.row_bytes(), page.dtype))
    if kind == "resize" and page.shape:
        size = page.shape[0]
        return Resize(i, draw(st.sampled_from([0, 1, size // 2, size, size + 1, size + 900])))
    if kind == "write" or not page.shape:
        return Write(i, None, 0, content(draw(SEEDS), len(page.data), page.dtype))
    start = draw(st.integers(0, page.shape[0]))
    stop = draw(st.integers(start, min(page.shape[0], start + 2000)))
    data = content(draw(SEEDS), (stop - start) * page.row_bytes(), page.dtype)
    return (Edit if kind == "edit" else Write)(i, start, stop, data)


@st.composite
def _derive(draw: Draw, draft: State) -> Derive:
    """A page that follows from others; some go in a circle, some have the name of another page."""
    derived = [p.name for p in draft.pages.values() if p.derived and p.name]
    name, meta = draw(NAMES | st.sampled_from(derived) if derived else NAMES), draw(METAS)
    deferred = draw(st.sampled_from([False, False, True]))
    fit = [i for i, page in sorted(draft.pages.items()) if expressions(page.dtype)]
    if fit and draw(st.booleans()):
        i = draw(st.sampled_from(fit))
        page = draft.pages[i]
        text = draw(st.sampled_from(expressions(page.dtype)))
        value = value_of(text, page.array())
        return Derive(
            name, value.dtype, value.shape, meta, Node("native", text, (i,), (), deferred)
        )
    few = st.lists(st.sampled_from(sorted(draft.pages)), min_size=1, max_size=3, unique=True)
    poisons = draw(st.sampled_from([False, True, True]))
    node = Node("function", "", tuple(draw(few)), (), deferred, poisons)
    shape = draw(st.sampled_from([(), (5,), (0,), (3, 2), (20_000,)]))
    return Derive(name, np.dtype("u1"), shape, meta, node)


@st.composite
def _feed(draw: Draw, draft: State) -> Any:
    """New bytes for what pages are computed from, or are linked to; some make functions fail."""
    sources = {
        src
        for page in draft.pages.values()
        if page.node
        for src in (*page.node.inputs, *(link[0] for link in page.node.links))
    }
    fit = [i for i in sorted(sources & draft.pages.keys()) if not draft.pages[i].derived]
    if not fit:
        return draw(_derive(draft))
    i = draw(st.sampled_from(fit))
    page = draft.pages[i]
    data = content(draw(SEEDS), len(page.data), page.dtype)
    if data and page.dtype != np.bool_ and draw(st.booleans()):
        data = bytes([UNLUCKY]) + data[1:]
    return Write(i, None, 0, data)


@st.composite
def _link(draw: Draw, draft: State) -> Link:
    """A link of two pages, or one that goes."""
    there = [
        Link(src, i, kind, False)
        for i, page in sorted(draft.pages.items())
        if page.node
        for src, kind in page.node.links
    ]
    if there and draw(st.booleans()):
        return draw(st.sampled_from(there))
    any_page = st.sampled_from(sorted(draft.pages))
    kind = draw(st.sampled_from(["control", "control", *LINKS]))
    return Link(draw(any_page), draw(any_page), kind, draw(st.sampled_from([True, True, False])))


@st.composite
def _patch(draw: Draw, i: int, page: Page) -> Patch:
    n = len(page.data)
    if n == 0 or draw(st.booleans()):
        return Patch(i, "dense", ((0, content(draw(SEEDS), n)),))
    cuts = sorted(draw(st.sets(st.integers(0, n), min_size=min(2, n), max_size=6)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    chunks = tuple((a, content(draw(SEEDS), min(b, a + 64) - a)) for a, b in pairs)
    return Patch(i, draw(st.sampled_from(["sparse", "mask"])), chunks)


@st.composite
def _many(draw: Draw, draft: State, steady: list[int]) -> Any:
    fit = [i for i in steady if len(draft.pages[i].data) >= 4]
    if not fit:
        return draw(creates())
    writes = []
    for _ in range(draw(st.integers(1, 5))):
        i = draw(st.sampled_from(fit))
        at = draw(st.integers(0, len(draft.pages[i].data) - 4))
        writes.append((i, at, content(draw(SEEDS), 4)))
    op, after = WriteMany(tuple(writes)), draft.copy()
    op.apply(after)
    if any(draft.pages[i] == after.pages[i] for i, *_ in writes):
        return op if len(writes) == 1 else draw(creates())  # it may have undone its own writes
    return op
