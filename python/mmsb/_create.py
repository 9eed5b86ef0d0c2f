"""New pages: from the arguments of ``create_page`` to what the native core takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from ._metadata import check_name, meta_text
from ._resolve import number
from ._values import (
    RAW,
    Array,
    DType,
    byte_size,
    check_shape,
    convert,
    dtype_text,
    fill,
    is_raw,
    natural,
    raw_bytes,
)
from .errors import ArgumentError, ArgumentTypeError, OutOfSpaceError, PageExistsError


class NewPage(NamedTuple):
    """A page to be created."""

    name: str | None
    dtype: DType
    raw: bool
    shape: tuple[int, ...]
    nbytes: int
    meta: str
    data: Array | None

    @property
    def dtype_text(self) -> str:
        """The dtype as it is stored."""
        return "" if self.raw else dtype_text(self.dtype)

    @property
    def data_bytes(self) -> npt.NDArray[np.uint8] | None:
        """The first bytes of the page, None for zeros."""
        return None if self.data is None else raw_bytes(self.data)

    def matches(self, dtype: DType, raw: bool, shape: tuple[int, ...]) -> bool:
        """Tell whether a page that is there may stand in for this one."""
        return (dtype, raw, shape) == (self.dtype, self.raw, self.shape)

    def taken_by(self, shape: tuple[int, ...], dtype: DType) -> PageExistsError:
        """Return the error for a name that another page has."""
        return PageExistsError(
            f"there is a page named {self.name!r} already: {shape} {dtype}, "
            f"where {self.shape} {self.dtype} was asked for"
        )


def new_page(
    core: _core.Core,
    name: str | None,
    shape: SupportsIndex | tuple[SupportsIndex, ...] | None,
    dtype: npt.DTypeLike | None,
    data: Any,
    size: SupportsIndex | None,
    meta: Mapping[str, Any] | None,
) -> NewPage:
    """Check what ``create_page`` is given; nothing is allocated before everything fits."""
    if name is not None:
        check_name(name)
    text = meta_text(meta)
    if size is not None:
        if shape is not None or dtype is not None or data is not None:
            raise ArgumentError(
                "size= makes a page of raw zeros; it does not go with shape, dtype or data"
            )
        return _raw(name, number(size, "size"), text, None)
    if data is not None and dtype is None and shape is None and is_raw(data):
        content = raw_bytes(data)
        return _raw(name, content.size, text, content)
    if data is None and shape is None:
        raise ArgumentError("a page needs shape=, data= or size=")
    kind, inner = _dtype(dtype, data)
    dtype_text(kind)
    values = None if data is None else convert(data, kind)
    full = values.shape if values is not None else ()
    if shape is not None:
        full = check_shape(shape) + inner
    nbytes = byte_size(full, kind.itemsize)
    if values is not None:
        if nbytes > values.nbytes and nbytes > (limit := core.stats()["max_memory"]):
            raise OutOfSpaceError(f"a page of {nbytes} bytes does not fit: max_memory is {limit}")
        values = fill(values, kind, full)
    return NewPage(name, kind, False, full, nbytes, text, values)


def _raw(name: str | None, size: int, meta: str, data: Array | None) -> NewPage:
    if size < 0:
        raise ArgumentError(f"size must not be negative, not {size}")
    return NewPage(name, RAW, True, (size,), byte_size((size,), 1), meta, data)


def _dtype(dtype: npt.DTypeLike | None, data: Any) -> tuple[DType, tuple[int, ...]]:
    """Return the dtype of one element and the axes that a subarray dtype adds."""
    if dtype is None:
        return (np.dtype(np.float64) if data is None else natural(data).dtype), ()
    try:
        kind: DType = np.dtype(dtype)
    except Exception as error:  # text that is no dtype makes NumPy's parser fail in many ways
        raise ArgumentTypeError(f"{dtype!r} is no dtype: {error}") from error
    return kind.base, kind.shape


def new_shape(
    shape: tuple[int, ...], itemsize: int, wanted: SupportsIndex | tuple[SupportsIndex, ...]
) -> tuple[tuple[int, ...], int]:
    """Return the shape and bytes that ``resize`` gives a page: only the first axis may change.

    Examples
    --------
    >>> new_shape((5, 3), 4, (6, 3))
    ((6, 3), 72)
    """
    result = check_shape(wanted)
    if not shape:
        raise ArgumentError("a page of one element without axes cannot be resized")
    if len(result) != len(shape) or result[1:] != shape[1:]:
        kept = ", ".join(["n", *map(str, shape[1:])]) + ("," if len(shape) == 1 else "")
        raise ArgumentError(
            f"resize changes the first axis only: to ({kept}), not from {shape} to {result}"
        )
    return result, byte_size(result, itemsize)
