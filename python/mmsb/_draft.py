"""The private copy of one page inside a transaction."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _core, _index
from ._values import RAW, Array, DType, fill, raw_bytes

_BLOCK = 16 * 1024


class Draft:
    """One page as a transaction sees it.

    All arrays share one memory. Blocks are filled from the base when an array shows them; ranges
    that are written explicitly are named, and need no filling.
    """

    __slots__ = (
        "_given",
        "_stage",
        "base",
        "deleted",
        "dtype",
        "id",
        "name",
        "nbytes",
        "raw",
        "shape",
        "whole",
    )

    def __init__(
        self,
        base: _core.Snap | None,
        page: int,
        name: str | None,
        dtype: DType,
        raw: bool,
        shape: tuple[int, ...],
        nbytes: int,
    ) -> None:
        self.base = base
        self.id = page
        self.name = name
        self.dtype = dtype
        self.raw = raw
        self.shape = shape
        self.nbytes = nbytes
        self.deleted = False
        self.whole: Array | None = None
        self._stage: _core.Stage | None = None
        self._given: list[weakref.ref[Array]] = []

    @property
    def touched(self) -> bool:
        """Whether there may be anything to commit besides structure."""
        return self._stage is not None and not self.deleted

    def stage(self) -> _core.Stage:
        """Return the private memory, made when first needed."""
        if self._stage is None:
            self._stage = _core.Stage(self.base, self.id, self.nbytes)
        return self._stage

    def edit(self) -> Array:
        """Return the whole page as a writable array, always the same one."""
        if self.whole is None:
            self.stage().load(0, self.nbytes)
            self.whole = self._give(self._array())
        return self.whole

    def edit_part(self, index: Any) -> Array:
        """Return a part as a writable array; only its blocks are filled."""
        stage = self.stage()
        for start, stop in _index.ranges(self.dtype, self.shape, index, _BLOCK):
            stage.load(start, stop)
        # With an Ellipsis a single element is a 0-d array that can be written to, not a scalar.
        fields = isinstance(index, str) or _index.field_names(index)
        return self._give(self._array()[index if fields else _index.with_ellipsis(index)])

    def copy(self) -> Array:
        """Return a read-only array of the page as it is now."""
        if self._stage is None and self.base is not None:
            return self.base.view(self.id)
        self.stage().load(0, self.nbytes)
        copy = self._array().copy()
        copy.flags.writeable = False
        return copy

    def write(self, index: Any, values: Any) -> None:
        """Assign values to what an index names."""
        if index is ...:
            self.put(0, raw_bytes(fill(values, self.dtype, self.shape, self.raw)))
            return
        # All that can fail comes first, so a refused value leaves nothing behind.
        filled = _index.assigned(self.dtype, self.shape, index, values, self.raw)
        stage = self.stage()
        for start, stop in _index.ranges(self.dtype, self.shape, index):
            stage.name(start, stop)
        self._array()[index] = filled

    def put(self, start: int, data: npt.NDArray[np.uint8]) -> None:
        """Write bytes."""
        stage = self.stage()
        stage.name(start, start + data.size)
        stage.array(RAW, (data.size,), start)[...] = data

    def resize(self, shape: tuple[int, ...], nbytes: int) -> None:
        """Change the length of the first axis; what was written so far stays."""
        self._stage = self.stage().resize(nbytes)
        self.freeze()
        self.shape, self.nbytes = shape, nbytes

    def delete(self) -> None:
        """Let go of the memory."""
        self.freeze()
        self.deleted, self._stage = True, None

    def freeze(self) -> None:
        """Make all arrays that were handed out read-only."""
        for reference in self._given:
            array = reference()
            if array is not None:
                array.flags.writeable = False
        self._given.clear()
        self.whole = None

    def _array(self) -> Array:
        return self.stage().array(self.dtype, self.shape)

    def _give(self, array: Array) -> Array:
        self._given.append(weakref.ref(array))
        return array
