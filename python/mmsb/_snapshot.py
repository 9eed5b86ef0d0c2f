"""Snapshots: all pages as they were at one epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._core import Core, Snap
from ._metadata import meta_dict
from ._resolve import AtEpoch, PageLike, contained_key, no_page, page_id_in, refuse_pickle
from ._values import Array, DType


@dataclass(frozen=True, slots=True)
class PageDescription:
    """A page as it was at one epoch.

    Attributes
    ----------
    id : int
        Its id.
    name : str or None
        Its name.
    shape : tuple of int
        Its shape.
    dtype : numpy.dtype
        Its dtype; uint8 for raw bytes.
    nbytes : int
        Its size in bytes.
    meta : dict
        Its metadata.
    epoch : int
        The last epoch that had changed it.
    location : str
        Where it was.
    stale, poisoned : bool
        Whether what it follows from had changed since; whether it could not be computed.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", shape=(2, 3), meta={"unit": "m"})
    >>> with bus.snapshot() as s:
    ...     [page] = s.pages
    >>> page.name, page.shape, page.nbytes, page.meta
    ('x', (2, 3), 48, {'unit': 'm'})
    """

    id: int
    name: str | None
    shape: tuple[int, ...]
    dtype: DType
    nbytes: int
    meta: dict[str, Any]
    epoch: int
    location: str
    stale: bool
    poisoned: bool


class Snapshot(AtEpoch, Mapping[str, Array]):
    """All pages at one epoch: a mapping of page names to read-only arrays.

    Two reads of a bus may be two epochs; take a snapshot to see pages together. It costs the same
    for any number of pages, holds its epoch in memory until it is closed, and outlives the bus.
    Arrays taken from it stay when it is closed. Pages are found by name, by id or by a handle,
    deleted since or not.

    Snapshots come from :meth:`Bus.snapshot`. They compare and hash by identity.

    Attributes
    ----------
    epoch : int
        The epoch.
    time : int
        When it was committed, in nanoseconds since 1970 UTC.
    closed : bool
        Whether it was closed.
    pages : tuple of PageDescription
        All pages, the unnamed ones too, in id order.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> pos = bus.create_page("pos", data=[1.0, 2.0])
    >>> with bus.snapshot() as before:
    ...     pos[0] = 7
    ...     print(before["pos"], bus["pos"].read())
    [1. 2.] [7. 2.]

    All named pages go into a file of NumPy:

    >>> import io, numpy as np
    >>> with bus.snapshot() as s:
    ...     np.savez(io.BytesIO(), **s)
    """

    __slots__ = ("__weakref__", "_core", "_snap")

    def __init__(self, core: Core, snap: Snap) -> None:
        self._core = core
        self._snap = snap

    @property
    def epoch(self) -> int:
        """The epoch."""
        return self._snap.epoch

    @property
    def time(self) -> int:
        """When it was committed, in nanoseconds since 1970 UTC."""
        return self._snap.time

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._snap.closed

    @property
    def pages(self) -> tuple[PageDescription, ...]:
        """All pages in id order."""
        return tuple(
            PageDescription(
                info.id,
                info.name,
                info.shape,
                info.dtype,
                info.nbytes,
                meta_dict(info.meta),
                info.epoch,
                info.location,
                info.stale,
                info.poisoned,
            )
            for info in self._snap.infos()
        )

    def digest(self) -> str:
        """Return the digest of the state: equal digests mean equal state.

        Returns
        -------
        str
            32 hexadecimal digits.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> bus.snapshot().digest() == bus.digest()
        True
        """
        return self._snap.digest()

    def close(self) -> None:
        """Let go of the epoch; arrays taken from the snapshot stay. May be called again.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> s = bus.snapshot()
        >>> s.close()
        >>> s["pos"]
        Traceback (most recent call last):
            ...
        mmsb.errors.ClosedError: ...
        """
        self._snap.close()

    def __getitem__(self, page: PageLike) -> Array:
        snap = self._snap
        if type(page) is str:
            found = snap.find(page)
            return snap.view(no_page(page, f" in epoch {snap.epoch}") if found is None else found)
        return snap.view(page_id_in(self._core, snap, page))

    def __contains__(self, page: object) -> bool:
        key = contained_key(self._core, page)
        if isinstance(key, str):
            return self._snap.find(key) is not None
        return key is not None and self._snap.info(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter([name for _, name in self._snap.names() if name is not None])

    def __len__(self) -> int:
        return sum(name is not None for _, name in self._snap.names())

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __reduce__(self) -> Any:
        refuse_pickle(self)

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<Snapshot epoch {self.epoch}{state}>"
