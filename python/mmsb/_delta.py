"""Deltas: byte ranges of a page and their new bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from ._resolve import PageLike, number, page_key
from ._values import MAX_PAGE_BYTES, is_raw, raw_bytes
from .errors import ArgumentError, ArgumentTypeError, InvalidDeltaError


class Delta:
    r"""New bytes for some byte ranges of one page.

    Make one with :meth:`dense`, :meth:`sparse` or :meth:`from_mask` and give it to ``tx.apply``;
    ``commit.deltas`` are of the same kind. A delta copies the bytes that it is given.

    Attributes
    ----------
    page : int or str
        Id of the page, or its name if it was given by name.
    ranges : tuple of (int, int)
        Start and stop of each range, in bytes from the start of the page.
    chunks : tuple of bytes
        The new bytes of each range.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> raw = bus.create_page("raw", size=8)
    >>> delta = mmsb.Delta.sparse(raw, [0, 6], [b"ab", b"c"])
    >>> delta.ranges
    ((0, 2), (6, 7))
    >>> with bus.transaction() as tx:
    ...     tx.apply(delta)
    >>> bytes(raw)
    b'ab\x00\x00\x00\x00c\x00'
    """

    __slots__ = ("_core", "_length", "chunks", "page", "ranges")

    page: int | str
    ranges: tuple[tuple[int, int], ...]
    chunks: tuple[bytes, ...]

    def __init__(
        self,
        page: PageLike,
        ranges: Iterable[tuple[int, int]],
        chunks: Iterable[bytes],
        _length: int | None = None,
    ) -> None:
        self._core: _core.Core | None = page.core if isinstance(page, _core.PageBase) else None
        self.page = page_key(self._core, page) if self._core is not None else _plain_key(page)
        self.ranges = tuple(ranges)
        self.chunks = tuple(chunks)
        self._length = _length
        for (start, stop), chunk in zip(self.ranges, self.chunks, strict=True):
            if not 0 <= start <= stop <= MAX_PAGE_BYTES or stop - start != len(chunk):
                raise InvalidDeltaError(
                    f"range {start} to {stop} with {len(chunk)} bytes is no range of a page"
                )

    @classmethod
    def dense(cls, page: PageLike, data: Any) -> Delta:
        """Make a delta of all bytes of a page.

        Parameters
        ----------
        page : Page, str or int
            The page.
        data : bytes-like or ndarray
            As many bytes as the page has. An array gives its bytes in C order, whatever its dtype.

        Returns
        -------
        Delta
            The delta.

        Examples
        --------
        >>> Delta.dense("raw", b"abc").ranges
        ((0, 3),)
        """
        chunk = raw_bytes(data).tobytes()
        return cls(page, [(0, len(chunk))], [chunk], len(chunk))

    @classmethod
    def sparse(
        cls, page: PageLike, offsets: Iterable[SupportsIndex], chunks: Iterable[Any]
    ) -> Delta:
        """Make a delta of some ranges. Where they overlap, the later one wins.

        Parameters
        ----------
        page : Page, str or int
            The page.
        offsets : iterable of int
            Where each range starts, in bytes.
        chunks : iterable of bytes-like or ndarray
            The new bytes of each range.

        Returns
        -------
        Delta
            The delta.

        Examples
        --------
        >>> Delta.sparse("raw", [4], [b"xy"]).ranges
        ((4, 6),)
        """
        starts = [number(offset, "an offset") for offset in offsets]
        data = [raw_bytes(chunk).tobytes() for chunk in chunks]
        if len(starts) != len(data):
            raise InvalidDeltaError(f"{len(starts)} offsets do not go with {len(data)} chunks")
        ends = [start + len(chunk) for start, chunk in zip(starts, data, strict=True)]
        return cls(page, zip(starts, ends, strict=True), data)

    @classmethod
    def from_mask(cls, page: PageLike, mask: Any, data: Any) -> Delta:
        """Make a delta of the flagged bytes.

        Parameters
        ----------
        page : Page, str or int
            The page.
        mask : bytes-like or array of bool or int
            One flag, 0 or 1, for each byte of the page.
        data : bytes-like or ndarray
            As many bytes as the page has; those with flag 1 are taken.

        Returns
        -------
        Delta
            The delta.

        Examples
        --------
        >>> delta = Delta.from_mask("raw", [0, 1, 1, 0], b"abcd")
        >>> delta.ranges, delta.chunks
        (((1, 3),), (b'bc',))
        """
        flags = _flags(mask)
        new = raw_bytes(data)
        if flags.size != new.size:
            raise InvalidDeltaError(
                f"a mask of {flags.size} flags does not go with {new.size} bytes of data"
            )
        edges = np.flatnonzero(np.diff(np.concatenate(([0], flags, [0])).astype(np.int8)))
        ranges = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        return cls(page, ranges, [new[a:b].tobytes() for a, b in ranges], new.size)

    def check_bus(self, core: _core.Core) -> None:
        """Raise if the delta was made for a handle of another bus."""
        if self._core is not None and self._core is not core:
            raise ArgumentError(
                f"{self!r} was made for a page of another bus; use this bus' own handle"
            )

    def check_fits(self, nbytes: int) -> None:
        """Raise unless a page of this many bytes can take the delta.

        Parameters
        ----------
        nbytes : int
            Size of the page.

        Examples
        --------
        >>> Delta.dense("raw", b"abc").check_fits(4)
        Traceback (most recent call last):
            ...
        mmsb.errors.InvalidDeltaError: a delta of 3 bytes does not go into page 'raw' of 4 bytes
        """
        if self._length is not None and self._length != nbytes:
            raise InvalidDeltaError(
                f"a delta of {self._length} bytes does not go into page {self.page!r} "
                f"of {nbytes} bytes"
            )
        for start, stop in self.ranges:
            if stop > nbytes:
                raise InvalidDeltaError(
                    f"range {start} to {stop} is past the end of page {self.page!r} "
                    f"of {nbytes} bytes"
                )

    @property
    def nbytes(self) -> int:
        """How many bytes the delta writes."""
        return sum(map(len, self.chunks))

    def __repr__(self) -> str:
        return f"<Delta page {self.page!r} {len(self.ranges)} ranges {self.nbytes} bytes>"


def _plain_key(page: Any) -> int | str:
    if isinstance(page, str):
        return page
    return number(page, "a page id")


def _flags(mask: Any) -> npt.NDArray[np.uint8]:
    flags = raw_bytes(mask) if is_raw(mask) else np.asarray(mask).reshape(-1)
    if flags.size == 0:
        return np.empty(0, np.uint8)
    if flags.dtype.kind not in "biu":
        raise ArgumentTypeError(f"a mask has flags of bool or int, not {flags.dtype}")
    if not ((flags == 0) | (flags == 1)).all():
        raise InvalidDeltaError("a mask has one flag for each byte, and a flag is 0 or 1")
    return flags.astype(np.uint8)
