"""Dtypes and values: how Python objects become the bytes of a page.

A page stores its dtype as JSON text: the descr of the npy format, or "" for raw bytes. Values are
assigned as NumPy assigns them, but only with `same_kind` casting, and an integer that does not fit
raises instead of wrapping.
"""

from __future__ import annotations

import functools
import json
import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import (
    ArgumentError,
    ArgumentTypeError,
    FormatVersionError,
    InvalidDeltaError,
    OutOfSpaceError,
)

Array = npt.NDArray[Any]
DType = np.dtype[Any]

RAW: DType = np.dtype(np.uint8)
MAX_PAGE_BYTES = 1 << 40
MAX_NDIM = 64

_PYTHON_VALUES = (bool, int, float, complex, str, bytes, list, tuple, range)
_BYTES_LIKE = (bytes, bytearray, memoryview)


@functools.lru_cache(maxsize=256)
def dtype_text(dtype: DType) -> str:
    """Return the JSON text under which a dtype is stored.

    Examples
    --------
    >>> dtype_text(np.dtype("f4"))
    '"<f4"'
    >>> dtype_text(np.dtype([("x", "f8"), ("n", "i4", 2)]))
    '[["x","<f8"],["n","<i4",[2]]]'
    """
    if dtype.hasobject:
        raise ArgumentError(
            f"dtype {dtype} holds Python objects; a page takes only dtypes of plain bytes"
        )
    if dtype.itemsize == 0:
        raise ArgumentError(f"dtype {dtype!r} has no length; give one, as in 'U8' or 'V16'")
    try:
        descr = np.lib.format.dtype_to_descr(dtype)
        known = np.lib.format.descr_to_dtype(descr) == dtype
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"dtype {dtype} cannot be stored: {error}") from error
    if not known:
        raise ArgumentError(f"dtype {dtype} cannot be stored: it has no npy description")
    return json.dumps(descr, ensure_ascii=False, separators=(",", ":"))


@functools.lru_cache(maxsize=256)
def dtype_from_text(text: str) -> DType:
    """Return the dtype stored under a text that :func:`dtype_text` gave; "" is raw bytes.

    Examples
    --------
    >>> dtype_from_text('"<M8[ns]"')
    dtype('<M8[ns]')
    """
    if text == "":
        return RAW
    try:
        dtype: DType = np.lib.format.descr_to_dtype(_descr(json.loads(text)))
    except Exception as error:  # a text from a file can make NumPy's parser fail in any way
        raise FormatVersionError(
            f"the stored dtype {text!r} is not one that NumPy {np.__version__} has here"
        ) from error
    if dtype.hasobject or dtype.itemsize == 0:
        raise FormatVersionError(f"the stored dtype {text!r} is not one of plain bytes")
    return dtype


def _descr(stored: Any) -> Any:
    """Turn the lists of JSON back into the tuples of a descr."""
    if isinstance(stored, str):
        return stored
    fields = []
    for name, kind, *shape in stored:
        title = tuple(name) if isinstance(name, list) else name
        fields.append((title, _descr(kind), *(tuple(s) for s in shape)))
    return fields


def check_shape(shape: Any, what: str = "shape") -> tuple[int, ...]:
    """Return a shape as a tuple of non-negative ints."""
    try:
        # Not any iterable: one may never end.
        lengths = shape if isinstance(shape, (tuple, list)) else (shape,)
        if any(isinstance(n, (bool, np.bool_)) for n in lengths):
            raise TypeError
        result = tuple(operator.index(n) for n in lengths)
    except TypeError as error:
        raise ArgumentTypeError(
            f"{what} must be an int or a tuple of ints, not {shape!r}"
        ) from error
    if any(n < 0 for n in result):
        raise ArgumentError(f"{what} must not be negative, not {shape!r}")
    if len(result) > MAX_NDIM:
        raise ArgumentError(f"{what} has {len(result)} dimensions; at most {MAX_NDIM} are possible")
    return result


def byte_size(shape: tuple[int, ...], itemsize: int) -> int:
    """Return the bytes of a page of this shape, refusing what no page may have."""
    # A zero among the lengths must not let the others pass: NumPy refuses them too.
    if math.prod(n for n in shape if n) * itemsize > MAX_PAGE_BYTES:
        raise ArgumentError(
            f"a page of shape {shape} with {itemsize} bytes an element is over 2**40 bytes"
        )
    return math.prod(shape) * itemsize


def is_raw(values: Any) -> bool:
    """Tell whether values are bytes without a type of their own."""
    if isinstance(values, memoryview):
        return values.ndim == 1 and values.format in ("B", "b", "c")
    return isinstance(values, (bytes, bytearray))


def raw_bytes(values: Any) -> npt.NDArray[np.uint8]:
    """Return the bytes of a bytes-like object or array in C order, without a copy where it can be.

    Examples
    --------
    >>> raw_bytes(np.array([1, 2], "<u2"))
    array([1, 0, 2, 0], dtype=uint8)
    """
    if isinstance(values, np.ndarray):
        if values.dtype.hasobject:
            raise ArgumentError("an array of Python objects has no bytes that a page could take")
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    if isinstance(values, _BYTES_LIKE):
        view = memoryview(values)
        if view.nbytes == 0:
            return np.empty(0, np.uint8)
        return np.frombuffer(view if view.c_contiguous else view.tobytes(), np.uint8)
    raise ArgumentTypeError(
        f"bytes are needed (bytes, bytearray, memoryview or ndarray), not {type(values).__name__}"
    )


def natural(values: Any) -> Array:
    """Return values as the array that NumPy makes of them."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidDeltaError(f"these values make no array: {error}") from error
    if array.dtype.hasobject:
        raise ArgumentError(
            f"{type(values).__name__} makes an array of Python objects; a page takes plain values"
        )
    return array


def convert(values: Any, dtype: DType, raw: bool = False) -> Array:
    """Return values as an array of `dtype`, in their own shape.

    Parameters
    ----------
    values : object
        What is assigned.
    dtype : numpy.dtype
        The dtype of the page or field.
    raw : bool, optional
        Whether the page has raw bytes, which may be assigned from bytes-like values.

    Raises
    ------
    InvalidDeltaError
        The values cannot be cast under `same_kind`, or an integer does not fit.

    Examples
    --------
    >>> convert([1, 2], np.dtype("u1"))
    array([1, 2], dtype=uint8)
    >>> convert(300, np.dtype("u1"))
    Traceback (most recent call last):
        ...
    mmsb.errors.InvalidDeltaError: 300 does not fit into uint8
    """
    if type(values) is np.ndarray and values.dtype == dtype:
        return values
    if raw and is_raw(values):
        return raw_bytes(values)
    try:
        return _converted(values, dtype)
    except MemoryError as error:
        raise OutOfSpaceError(f"no memory to turn these values into {dtype}") from error
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidDeltaError):
            raise
        raise InvalidDeltaError(f"these values do not go into {dtype}: {error}") from error


def _converted(values: Any, dtype: DType) -> Array:
    weak = isinstance(values, _PYTHON_VALUES) and not isinstance(values, np.generic)
    if weak and dtype.names is not None:
        return np.array(values, dtype)
    array = np.asarray(values)
    kinds = array.dtype.kind + dtype.kind
    # Text, times and huge numbers of Python are read in the light of the target.
    if array.dtype.kind == "O" or (weak and kinds in ("US", "SU", "UM", "Um", "iM", "im")):
        if dtype.kind in "biu":
            raise InvalidDeltaError(f"these values are no numbers that fit into {dtype}")
        return np.array(values, dtype)
    free = array.size == 0 or (weak and kinds[0] in "iu" and kinds[1] in "iu")
    if not free and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InvalidDeltaError(
            f"{array.dtype} does not go into {dtype} under same_kind casting; "
            f"if you mean it, convert with .astype(...) first"
        )
    return _fitting(array, dtype).astype(dtype)


def _fitting(array: Array, dtype: DType) -> Array:
    """Return the array if all its integers fit into the dtype."""
    if dtype.names is not None:
        for source, target in zip(array.dtype.names or (), dtype.names, strict=False):
            _fitting(array[source], dtype[target].base)
    elif dtype.kind in "iu" and array.dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        for extreme in (int(array.min()), int(array.max())):
            if not limits.min <= extreme <= limits.max:
                raise InvalidDeltaError(f"{extreme} does not fit into {dtype}")
    return array


def fill(values: Any, dtype: DType, shape: tuple[int, ...], raw: bool = False) -> Array:
    """Return values as a C-contiguous array of this dtype and shape, broadcast as NumPy does.

    Examples
    --------
    >>> fill([[1, 2]], np.dtype("f4"), (2, 2))
    array([[1., 2.],
           [1., 2.]], dtype=float32)
    """
    converted = convert(values, dtype, raw)
    if raw and is_raw(values) and converted.shape != shape:
        raise InvalidDeltaError(f"{converted.size} bytes do not go into {math.prod(shape)} bytes")
    if converted.shape == shape and converted.flags.c_contiguous:
        return converted
    try:
        # zeros, not empty: padding of structured dtypes is part of the state.
        filled = np.zeros(shape, dtype)
        filled[...] = converted
    except MemoryError as error:
        raise OutOfSpaceError(f"no memory for values of shape {shape}, {dtype}") from error
    except ValueError as error:
        raise InvalidDeltaError(
            f"values of shape {converted.shape} do not go into shape {shape}"
        ) from error
    return filled


def rows_of(values: Any, dtype: DType, shape: tuple[int, ...], raw: bool, what: str) -> Array:
    """Return values as whole rows of a page: any number, each as the page has them."""
    if not shape:
        raise ArgumentError(f"{what} needs a page with a first axis; this page has one element")
    rows = convert(values, dtype, raw)
    if rows.ndim != len(shape) or rows.shape[1:] != shape[1:]:
        wanted = ", ".join(["n", *map(str, shape[1:])]) + ("," if len(shape) == 1 else "")
        raise InvalidDeltaError(f"{what} takes rows of shape ({wanted}), not {rows.shape}")
    return np.ascontiguousarray(rows)
