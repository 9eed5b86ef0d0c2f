"""What users mean: pages by handle, name or id, epochs in four ways, moments in time."""

from __future__ import annotations

import datetime
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NoReturn, SupportsIndex, TypeAlias

import numpy as np

from . import _core, _metadata
from ._core import Core
from .errors import (
    ArgumentError,
    ArgumentTypeError,
    EpochNotFoundError,
    PageNotFoundError,
    TagNotFoundError,
)

_U64 = 1 << 64
_SECOND = 1_000_000_000
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class AtEpoch(ABC):
    """Something that stands for one epoch of one bus: a commit or a snapshot."""

    __slots__ = ()
    _core: Core

    @property
    @abstractmethod
    def epoch(self) -> int:
        """The epoch that it stands for."""


PageLike: TypeAlias = _core.PageBase | str | SupportsIndex
EpochLike: TypeAlias = AtEpoch | str | SupportsIndex
Moment: TypeAlias = np.datetime64 | datetime.datetime
TimeLike: TypeAlias = SupportsIndex | Moment
_MOMENTS = (np.datetime64, datetime.datetime)


def number(value: Any, what: str) -> int:
    """Return a plain int, refusing bools and what only looks like a number."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{what} must be an int, not {value!r}")
    try:
        return int(value.__index__())
    except TypeError as error:
        raise ArgumentTypeError(f"{what} must be an int, not {value!r}") from error


def positive(value: SupportsIndex | None, what: str) -> int | None:
    """Return an optional number of bytes."""
    return count(value, what, 1)


def count(value: SupportsIndex | None, what: str, least: int) -> int | None:
    """Return an optional number of things."""
    if value is None:
        return None
    result = number(value, what)
    if not least <= result < _U64:
        raise ArgumentError(f"{what} must be between {least} and 2**64 - 1, not {result}")
    return result


def span(seconds: Any, what: str) -> int | None:
    """Return an optional span of time."""
    if seconds is None:
        return None
    if not isinstance(seconds, (int, float, np.integer, np.floating)) or isinstance(seconds, bool):
        raise ArgumentTypeError(f"{what} must be a number, not {type(seconds).__name__}")
    if not 0 <= seconds < _U64 / _SECOND:  # NaN too
        raise ArgumentError(f"{what} must be between 0 and {_U64 // _SECOND}, not {seconds}")
    return int(seconds * _SECOND)


def path_text(path: str | os.PathLike[str]) -> str:
    """Return a path as the native core takes it."""
    try:
        text = os.fsdecode(path)
    except TypeError as error:
        raise ArgumentTypeError(f"a path is needed, not {type(path).__name__}") from error
    if "\0" in text or not text:
        raise ArgumentError(f"{text!r} is no path")
    return text


def page_key(core: _core.Core, page: Any) -> int | str:
    """Return the id or the name that stands for a page; whether it exists is not asked.

    Raises
    ------
    ArgumentError
        The handle belongs to another bus.
    """
    if isinstance(page, str):
        return page
    if isinstance(page, _core.PageBase):
        if page.core is not core:
            raise ArgumentError(
                f"{page!r} is a handle of another bus; each has its own, as in fork['pos']"
            )
        return page.id
    if isinstance(page, (bool, np.bool_)) or not hasattr(page, "__index__"):
        raise ArgumentTypeError(
            f"a page is named by its handle, name or id, not by {type(page).__name__} {page!r}"
        )
    return number(page, "a page id")


def contained_key(core: _core.Core, page: object) -> int | str | None:
    """Return the id or name that ``page in ...`` asks for, None for no page of this bus."""
    if isinstance(page, _core.PageBase) and page.core is not core:
        return None
    if isinstance(page, (bool, np.bool_)):
        return None
    if not isinstance(page, (str, _core.PageBase)) and not hasattr(page, "__index__"):
        return None
    try:
        key = page_key(core, page)
    except PageNotFoundError:
        return None
    return key if isinstance(key, str) or 0 < key < _U64 else None


def no_page(key: int | str, where: str = "") -> NoReturn:
    """Raise for a page that is not there."""
    what = f"named {key!r}" if isinstance(key, str) else f"with id {key}"
    raise PageNotFoundError(f"there is no page {what}{where}")


def page_id(core: _core.Core, page: Any) -> int:
    """Return the id of a page that exists in the newest epoch."""
    key = page_key(core, page)
    if isinstance(key, str):
        found = core.find(key)
        return no_page(key) if found is None else found
    if not 0 <= key < _U64 or core.info(key) is None:
        no_page(key)
    return key


def past_page_id(core: _core.Core, page: Any) -> int:
    """Return the id of a page that exists or existed; a name must exist now."""
    key = page_key(core, page)
    if isinstance(key, str):
        return page_id(core, key)
    if not 0 < key < core.snapshot().next_id:
        no_page(key)
    return key


def page_id_in(core: _core.Core, snap: _core.Snap, page: Any) -> int:
    """Return the id of a page that exists in a snapshot."""
    key = page_key(core, page)
    if isinstance(key, str):
        found = snap.find(key)
        return no_page(key, f" in epoch {snap.epoch}") if found is None else found
    if not 0 <= key < _U64 or snap.info(key) is None:
        no_page(key, f" in epoch {snap.epoch}")
    return key


def epoch_number(core: _core.Core, epoch: EpochLike) -> int:
    """Return the number of an epoch; whether it can be opened is not asked."""
    if isinstance(epoch, str):
        for name, tagged in core.tags():
            if name == epoch:
                return tagged
        raise TagNotFoundError(f"there is no tag {epoch!r}")
    if isinstance(epoch, AtEpoch):
        if epoch._core is not core:
            raise ArgumentError(f"{epoch!r} belongs to another bus")
        return epoch.epoch
    if isinstance(epoch, (bool, np.bool_)) or not hasattr(epoch, "__index__"):
        raise ArgumentTypeError(
            "an epoch is a number, a tag's name, a Commit or a Snapshot, "
            f"not {type(epoch).__name__} {epoch!r}"
        )
    result = number(epoch, "an epoch")
    if not 0 <= result < _U64:
        raise EpochNotFoundError(f"there is no epoch {result}")
    return result


def bounds(
    core: _core.Core, since: EpochLike | Moment, until: EpochLike | Moment | None
) -> tuple[int, int]:
    """Return the first and the last epoch of a range.

    A number past the newest means the newest; a moment means the first commit that is not before
    it, or the last that is not after it.
    """
    low = _as_of(core, since, -1) + 1 if isinstance(since, _MOMENTS) else _clamped(core, since)
    if until is None:
        return low, core.epoch
    return low, _as_of(core, until, 0) if isinstance(until, _MOMENTS) else _clamped(core, until)


def _as_of(core: _core.Core, moment: Moment, later: int) -> int:
    time = nanoseconds(moment) + later
    found = core.epoch_as_of(min(time, 2**64 - 1)) if time >= 0 else None
    return 0 if found is None else found


def _clamped(core: _core.Core, epoch: EpochLike) -> int:
    if isinstance(epoch, (str, AtEpoch)):
        return epoch_number(core, epoch)
    # Clamped before it is checked: 2**64 is as far beyond the newest as 2**63.
    return epoch_number(core, min(number(epoch, "an epoch"), core.epoch))


def nanoseconds(moment: TimeLike) -> int:
    """Return a moment as nanoseconds since 1970 UTC.

    Examples
    --------
    >>> nanoseconds(np.datetime64("1970-01-02"))
    86400000000000
    >>> nanoseconds(datetime.datetime(1970, 1, 2))
    Traceback (most recent call last):
        ...
    mmsb.errors.ArgumentError: a datetime without a time zone names no moment; give it one, as in
    tzinfo=timezone.utc
    """
    if isinstance(moment, np.datetime64):
        if np.isnat(moment) or np.datetime_data(moment.dtype)[0] == "generic":
            raise ArgumentError(f"{moment!r} is no moment")
        # In two parts: years that nanoseconds of 64 bits cannot hold must not wrap around.
        seconds = moment.astype("M8[s]")
        rest = int((moment - seconds).astype("m8[ns]").astype(np.int64))
        return int(seconds.astype(np.int64)) * _SECOND + rest
    if isinstance(moment, datetime.datetime):
        if moment.utcoffset() is None:
            raise ArgumentError(
                "a datetime without a time zone names no moment; give it one, "
                "as in tzinfo=timezone.utc"
            )
        since = moment - _EPOCH
        return (since.days * 86_400 + since.seconds) * _SECOND + since.microseconds * 1_000
    if isinstance(moment, (bool, np.bool_)) or not hasattr(moment, "__index__"):
        raise ArgumentTypeError(
            "as_of takes int nanoseconds, numpy.datetime64 or an aware datetime, "
            f"not {type(moment).__name__}"
        )
    return number(moment, "as_of")


def epoch_as_of(core: _core.Core, moment: TimeLike) -> int:
    """Return the last epoch whose time is not after a moment."""
    wanted = nanoseconds(moment)
    newest = core.snapshot()
    if 0 < newest.epoch and newest.time <= wanted:
        return newest.epoch
    found = core.epoch_as_of(wanted) if wanted >= 0 else None
    if found is not None:
        return found
    first = next(core.log(0, newest.epoch, False), None)
    if first is not None and first.epoch > 1:
        # A fork's own history begins after the epoch that it shares with its parent.
        shared = core.snapshot(first.epoch - 1)
        if shared.time <= wanted:
            return shared.epoch
    raise EpochNotFoundError(f"there is no commit as of {moment!r}")


def epoch_with(core: _core.Core, meta: Mapping[str, Any]) -> int:
    """Return the newest epoch whose commit has these top-level metadata keys and values."""
    entry = next(core.log(0, core.epoch, True, meta=_metadata.members(meta)), None)
    if entry is None:
        raise EpochNotFoundError(f"there is no commit with metadata {meta!r}")
    return entry.epoch


def refuse_pickle(what: object) -> NoReturn:
    """Raise for an object that only the process which made it can use."""
    raise ArgumentTypeError(
        f"a {type(what).__name__} cannot be pickled: it belongs to this process; "
        "other processes open the bus themselves with mmsb.attach(path)"
    )
