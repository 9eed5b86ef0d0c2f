"""Indices: which bytes of a page an index names, without touching the page.

A basic index is applied to an array of the page's shape that is never read: the address and strides
of the result say where the bytes are. So a few elements of a large page cost nothing for the rest
of it.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from ._values import Array, DType, fill, raw_bytes
from .errors import ArgumentError, PageIndexError

Offsets = npt.NDArray[np.int64]


class Located(NamedTuple):
    """Where the values of an index are: runs of equal size in the order of the values."""

    shape: tuple[int, ...]
    dtype: DType
    offsets: Offsets
    size: int


class Part(NamedTuple):
    """Runs of equal size and the new bytes of each, one row a run."""

    offsets: Offsets
    data: npt.NDArray[np.uint8]


def is_basic(index: Any) -> bool:
    """Tell whether NumPy gives a view for an index on the axes (not on fields)."""
    items = index if isinstance(index, tuple) else (index,)
    return all(
        item is None
        or item is Ellipsis
        or isinstance(item, slice)
        or (hasattr(item, "__index__") and not isinstance(item, (bool, np.bool_, np.ndarray)))
        for item in items
    )


def field_names(index: Any) -> list[str] | None:
    """Return the names in a list of fields, None for any other index."""
    if isinstance(index, list) and index and all(isinstance(item, str) for item in index):
        return index
    return None


def with_ellipsis(index: Any) -> tuple[Any, ...]:
    """Return a basic index as one that gives an array and never a scalar."""
    items = index if isinstance(index, tuple) else (index,)
    return items if any(item is Ellipsis for item in items) else (*items, ...)


def locate(dtype: DType, shape: tuple[int, ...], index: Any) -> Located:
    """Find the bytes that an index other than a list of fields names.

    Examples
    --------
    >>> locate(np.dtype("f4"), (10, 3), np.s_[2:4]).offsets.tolist()
    [24]
    >>> locate(np.dtype("f4"), (10, 3), np.s_[::5, 1]).offsets.tolist()
    [4, 64]
    """
    if index is ...:
        nbytes = math.prod(shape) * dtype.itemsize
        return Located(shape, dtype, np.zeros(min(nbytes, 1), np.int64), nbytes)
    try:
        if isinstance(index, str):
            return _locate_field(dtype, shape, index)
        if is_basic(index):
            return _locate_basic(dtype, shape, with_ellipsis(index))
        items = index if isinstance(index, tuple) else (index,)
        if len(items) == 1 and shape:
            return _locate_rows(dtype, shape, np.asarray(items[0]))
        return _locate_elements(dtype, shape, items)
    except PageIndexError:
        raise
    except (IndexError, TypeError, ValueError, OverflowError) as error:
        raise PageIndexError(f"{error} (a page of shape {shape}, {dtype})") from error


def _field(dtype: DType, name: str) -> tuple[DType, int]:
    if dtype.fields is None or name not in dtype.fields:
        names = ", ".join(map(repr, dtype.names or ())) or "none"
        raise PageIndexError(f"there is no field {name!r}; the page's fields: {names}")
    kind, offset = dtype.fields[name][:2]
    return kind, offset


def _locate_field(dtype: DType, shape: tuple[int, ...], name: str) -> Located:
    kind, offset = _field(dtype, name)
    count = int(np.prod(shape, dtype=np.int64))
    offsets = np.arange(count, dtype=np.int64) * dtype.itemsize + offset
    return Located(shape + kind.shape, kind.base, offsets, kind.itemsize)


def _locate_basic(dtype: DType, shape: tuple[int, ...], index: tuple[Any, ...]) -> Located:
    steps = tuple(itertools.accumulate((dtype.itemsize, *shape[:0:-1]), operator.mul))[::-1]
    unread = np.empty(1, dtype)
    page = as_strided(unread, shape, steps[: len(shape)], writeable=False)
    part = page[index]
    start = part.__array_interface__["data"][0] - unread.__array_interface__["data"][0]
    if part.size == 0:
        return Located(part.shape, dtype, np.empty(0, np.int64), dtype.itemsize)
    axes = [(n, step) for n, step in zip(part.shape, part.strides, strict=True) if n != 1]
    size = dtype.itemsize
    while axes and axes[-1][1] == size:
        size *= axes.pop()[0]
    offsets = np.array(start, np.int64)
    for n, step in axes:
        offsets = offsets[..., None] + np.arange(n, dtype=np.int64) * step
    return Located(part.shape, dtype, offsets.reshape(-1), size)


def _locate_rows(dtype: DType, shape: tuple[int, ...], key: Array) -> Located:
    """Find rows by an array of numbers, or by a mask of the leading axes."""
    if key.dtype.kind == "b" and key.ndim:
        if key.shape != shape[: key.ndim]:
            raise PageIndexError(
                f"a mask of shape {key.shape} does not fit a page of shape {shape}"
            )
        rows = np.flatnonzero(key)
        rest, lead = shape[key.ndim :], rows.shape
    elif key.dtype.kind in "iu" or key.size == 0:
        numbers = key.astype(np.int64)
        outside = numbers[(numbers < -shape[0]) | (numbers >= shape[0])]
        if outside.size:
            raise PageIndexError(f"row {outside[0]} is not in a page of shape {shape}")
        rows = np.where(numbers < 0, numbers + shape[0], numbers).reshape(-1)
        rest, lead = shape[1:], key.shape
    else:
        return _locate_elements(dtype, shape, (key,))
    size = dtype.itemsize * int(np.prod(rest, dtype=np.int64))
    return Located(lead + rest, dtype, rows.astype(np.int64) * size, size)


def _locate_elements(dtype: DType, shape: tuple[int, ...], index: tuple[Any, ...]) -> Located:
    """Find elements by any other index: NumPy picks the coordinates, axis by axis."""
    offsets: Array = np.broadcast_to(np.zeros((), np.int64), shape)[index]
    step = dtype.itemsize
    for axis in reversed(range(len(shape))):
        along = np.arange(shape[axis], dtype=np.int64).reshape(-1, *[1] * (len(shape) - axis - 1))
        offsets = offsets + np.broadcast_to(along, shape)[index] * step
        step *= shape[axis]
    return Located(np.shape(offsets), dtype, np.reshape(offsets, -1), dtype.itemsize)


def assigned(
    dtype: DType, shape: tuple[int, ...], index: Any, values: Any, raw: bool = False
) -> Array:
    """Return what assigning `values` to `index` puts there, in its shape and dtype."""
    names = field_names(index)
    if names is not None:
        return fill(values, np.dtype([(name, _field(dtype, name)[0]) for name in names]), shape)
    place = locate(dtype, shape, index)
    return fill(values, place.dtype, place.shape, raw)


def encode(
    dtype: DType, shape: tuple[int, ...], index: Any, values: Any, raw: bool = False
) -> list[Part]:
    """Return the bytes that assigning `values` to `index` writes.

    Examples
    --------
    >>> [part] = encode(np.dtype("<u2"), (4,), np.s_[::3], 7)
    >>> part.offsets.tolist(), part.data.tolist()
    ([0, 6], [[7, 0], [7, 0]])
    """
    names = field_names(index)
    if names is None:
        place = locate(dtype, shape, index)
        return [_part(place, fill(values, place.dtype, place.shape, raw))]
    filled = assigned(dtype, shape, index, values)
    return [_part(locate(dtype, shape, name), filled[name]) for name in names]


def _part(place: Located, filled: Array) -> Part:
    data = raw_bytes(filled)
    return Part(place.offsets, data.reshape(place.offsets.size, -1 if data.size else place.size))


def ranges(dtype: DType, shape: tuple[int, ...], index: Any, gap: int = 0) -> list[tuple[int, int]]:
    """Return the byte ranges that an index names: ascending, those at most `gap` apart joined.

    Examples
    --------
    >>> ranges(np.dtype("f4"), (10, 3), [0, 1, 5])
    [(0, 24), (60, 72)]
    """
    places = [locate(dtype, shape, name) for name in field_names(index) or [index]]
    starts = np.concatenate([place.offsets for place in places])
    stops = np.concatenate([place.offsets + place.size for place in places])
    return join(starts, stops, gap)


def join(starts: Offsets, stops: Offsets, gap: int = 0) -> list[tuple[int, int]]:
    """Return ranges in ascending order, those that touch or are at most `gap` apart joined."""
    filled = stops > starts
    starts, stops = starts[filled], stops[filled]
    if starts.size == 0:
        return []
    order = np.argsort(starts, kind="stable")
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    first = np.flatnonzero(np.concatenate(([True], starts[1:] > stops[:-1] + gap)))
    last = np.concatenate((first[1:] - 1, [starts.size - 1]))
    return list(zip(starts[first].tolist(), stops[last].tolist(), strict=True))


def overlaps(named: list[tuple[int, int]], written: Iterable[tuple[int, int]]) -> bool:
    """Tell whether a written range has a byte in common with one of the named, which ascend."""
    if not named:
        return False
    starts = np.array([start for start, _ in named])
    stops = np.array([stop for _, stop in named])
    for start, stop in written:
        at = int(np.searchsorted(stops, start, "right"))
        if start < stop and at < len(named) and starts[at] < stop:
            return True
    return False


def reject_fancy(index: Any) -> None:
    """Raise if an index gives a copy instead of a view."""
    if not (isinstance(index, str) or field_names(index) or is_basic(index)):
        raise ArgumentError(
            "a fancy or boolean index makes a copy, and edits of a copy are lost; "
            "use tx.edit(p)[idx] op= v"
        )
