"""The exceptions of MMSB.

Every failure of a bus is an :class:`MMSBError` with a stable kebab-case `code`. Each class also
derives from the builtin that fits it, so ``except KeyError`` around a look-up works as it does for
a dict.

The native core names the class and fills in the details; see :func:`make`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

__all__ = [
    "ArgumentError",
    "ArgumentTypeError",
    "BusExistsError",
    "BusLockedError",
    "BusNotFoundError",
    "ClosedError",
    "CommitOutcomeUnknownError",
    "ConflictError",
    "CorruptionError",
    "EpochNotFoundError",
    "ForkedHandleError",
    "FormatVersionError",
    "GraphCycleError",
    "InternalError",
    "InvalidDeltaError",
    "MMSBError",
    "OutOfSpaceError",
    "PageExistsError",
    "PageIndexError",
    "PageNotFoundError",
    "PropagationError",
    "ReadOnlyError",
    "ReentrancyError",
    "StorageError",
    "TagExistsError",
    "TagNotFoundError",
    "TooManySnapshotsError",
    "TransactionClosedError",
]


class MMSBError(Exception):
    """Base of every error that MMSB raises.

    Attributes
    ----------
    code : str
        Stable kebab-case name of the failure. Match on it, not on the message.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> try:
    ...     bus["speed"]
    ... except mmsb.MMSBError as error:
    ...     print(error.code)
    page-not-found
    """

    code: str = "internal"
    _detail_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    def __str__(self) -> str:
        # KeyError would show the repr of the message, OSError its number.
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        detail = {name: getattr(self, name) for name in self._detail_names}
        return _rebuild, (type(self), self.code, str(self), detail)


class PageNotFoundError(MMSBError, KeyError):
    """There is no page with that name or id."""

    code = "page-not-found"


class PageExistsError(MMSBError):
    """The page name is taken."""

    code = "page-exists"


class _SystemError(MMSBError, OSError):
    """Has the `errno` and `filename` of an OSError."""

    code = "storage"
    _detail_names = ("errno", "filename")
    _errno: ClassVar[int] = errno.EIO

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.errno = self._errno
        self.strerror = os.strerror(self._errno)


class BusExistsError(_SystemError, FileExistsError):
    """The directory already holds a bus."""

    code = "bus-exists"
    _errno = errno.EEXIST


class BusNotFoundError(_SystemError, FileNotFoundError):
    """The directory holds no bus."""

    code = "bus-not-found"
    _errno = errno.ENOENT


class InvalidDeltaError(MMSBError, ValueError):
    """Values or byte ranges that the page cannot take."""

    code = "invalid-delta"


class TransactionClosedError(MMSBError, ValueError):
    """The transaction has not begun or has ended."""

    code = "transaction-closed"


class ConflictError(MMSBError):
    """Another commit changed what this transaction read or wrote; run it again."""

    code = "conflict"


class ClosedError(MMSBError, ValueError):
    """The bus or snapshot is closed."""

    code = "closed"


class ReadOnlyError(MMSBError):
    """The bus was opened for reading."""

    code = "read-only"


class ForkedHandleError(MMSBError):
    """The handle was made before a fork, in the parent process."""

    code = "forked-handle"


class BusLockedError(MMSBError):
    """Another process is the host of the bus.

    Attributes
    ----------
    pid : int or None
        The process that holds the bus.
    """

    code = "bus-locked"
    _detail_names = ("pid",)
    pid: int | None = None


class EpochNotFoundError(MMSBError, KeyError):
    """There is no such epoch, or it was let go."""

    code = "epoch-not-found"


class TagNotFoundError(MMSBError, KeyError):
    """There is no such tag."""

    code = "tag-not-found"


class TagExistsError(MMSBError):
    """The tag name is taken; ``move=True`` moves it."""

    code = "tag-exists"


class CorruptionError(MMSBError):
    """A file of the bus is damaged.

    Attributes
    ----------
    file : str
        The damaged file.
    offset : int or None
        Where in the file.
    epoch : int or None
        The epoch that cannot be read because of it.
    """

    code = "corruption"
    _detail_names = ("file", "offset", "epoch")
    file: str | None = None
    offset: int | None = None
    epoch: int | None = None


class FormatVersionError(MMSBError):
    """The bus was written in a format that this version cannot read."""

    code = "format-version"


class StorageError(_SystemError):
    """A read or write of the bus directory failed."""


class OutOfSpaceError(StorageError):
    """The disk is full, or the commit would pass `max_memory`."""

    code = "out-of-space"
    _errno = errno.ENOSPC


class TooManySnapshotsError(MMSBError):
    """No room for another pinned snapshot; close some."""

    code = "too-many-snapshots"


class CommitOutcomeUnknownError(MMSBError):
    """A commit failed while it was made durable; opening the bus again tells if it is there."""

    code = "commit-outcome-unknown"


class ArgumentError(MMSBError, ValueError):
    """An argument has a value that makes no sense here."""

    code = "argument"


class ArgumentTypeError(MMSBError, TypeError):
    """An argument has the wrong type."""

    code = "argument-type"


class PageIndexError(MMSBError, IndexError):
    """The index does not fit the page."""

    code = "page-index"


class GraphCycleError(MMSBError, ValueError):
    """Pages would follow from each other in a circle; nothing changed.

    Attributes
    ----------
    path : sequence of tuple
        The shortest circle: ids of two pages, and how the second follows from the first.
    """

    code = "graph-cycle"
    _detail_names = ("path",)
    path: Sequence[tuple[int, int, str]] = ()


class PropagationError(MMSBError):
    """A derived page could not be computed; nothing was committed.

    ``__cause__`` is what its function raised.

    Attributes
    ----------
    page : int or None
        Id of the page.
    path : sequence of tuple
        The way from what the commit changed to the page: ids of two pages, and how the second
        follows from the first.
    """

    code = "propagation"
    _detail_names = ("page", "path")
    page: int | None = None
    path: Sequence[tuple[int, int, str]] = ()


class ReentrancyError(MMSBError):
    """A function that computes a page was about to wait for its own commit."""

    code = "reentrancy"


class InternalError(MMSBError):
    """A defect of MMSB itself; please report it."""


_CLASSES: dict[str, type[MMSBError]] = {
    name: value
    for name, value in globals().items()
    if name in __all__ and issubclass(value, MMSBError)
}


def _rebuild(cls: type[MMSBError], code: str, message: str, detail: Mapping[str, Any]) -> MMSBError:
    error = cls(message)
    if error.code != code:
        error.code = code
    for name in cls._detail_names:
        if (value := detail.get(name)) is not None:
            setattr(error, name, value)
    if isinstance(error, OSError) and error.errno is not None:
        error.strerror = os.strerror(error.errno)
    return error


def make(
    class_name: str, code: str, message: str, detail: Mapping[str, Any] | None = None
) -> MMSBError:
    """Make the exception that the native core describes.

    Parameters
    ----------
    class_name : str
        A class of this module.
    code : str
        The stable code.
    message : str
        A sentence for people.
    detail : mapping, optional
        What is known of `file`, `offset`, `epoch`, `errno` and `pid`.

    Returns
    -------
    MMSBError
        The exception, not raised.

    Examples
    --------
    >>> make("BusLockedError", "bus-locked", "process 7 has it", {"pid": 7}).pid
    7
    """
    known = dict(detail or {})
    known["filename"] = known.get("file")
    return _rebuild(_CLASSES[class_name], code, message, known)
