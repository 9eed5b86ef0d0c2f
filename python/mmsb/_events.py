"""Subscriptions: what each commit did, told to whoever asked, once everybody can see it."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

from . import _core, _logging, _resolve
from ._resolve import EpochLike, PageLike
from .errors import ArgumentError, ArgumentTypeError, ClosedError

if TYPE_CHECKING:
    from ._bus import Bus

KINDS = (
    "changed",
    "created",
    "deleted",
    "described",
    "stale",
    "poisoned",
    "cut_off",
    "gpu_sync",
    "compiler",
)
# A wait comes back to Python so often, for signals to act.
_SLICE = 0.1
_NANOSECOND = 1e-9
_MOST_ERRORS = 100
# How long callbacks may go on when the interpreter ends.
_LAST_SECONDS = 5.0

_Native: TypeAlias = tuple[str, tuple[int, list[list[int]]] | None, tuple[int, int, int] | None]


@dataclass(frozen=True, slots=True)
class Event:
    """What one commit did, by ids of pages, each tuple sorted.

    Attributes
    ----------
    epoch : int
        The epoch that it made.
    changed : tuple of int
        Pages whose bytes changed, derived ones too.
    created : tuple of int
        Pages that are new.
    deleted : tuple of int
        Pages that went.
    described : tuple of int
        Pages with another name, shape, other metadata or another place in the graph.
    stale : tuple of int
        Pages that became stale.
    poisoned : tuple of int
        Pages that became poisoned.
    cut_off : tuple of int
        Derived pages that were computed and stayed what they were.
    gpu_sync : tuple of int
        Pages behind a link of this kind from a page that changed: their copies on devices are old.
    compiler : tuple of int
        Likewise: what was compiled for them is old.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", data=[1.0, 2.0])
    >>> y = bus.map("2 * x", "y")
    >>> with bus.subscribe() as events:
    ...     x[0] = 5
    ...     event = next(events)
    >>> event.epoch, event.changed, event.created
    (3, (1, 2), ())
    """

    epoch: int
    changed: tuple[int, ...]
    created: tuple[int, ...]
    deleted: tuple[int, ...]
    described: tuple[int, ...]
    stale: tuple[int, ...]
    poisoned: tuple[int, ...]
    cut_off: tuple[int, ...]
    gpu_sync: tuple[int, ...]
    compiler: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lagged:
    """So many events were dropped, for whoever takes them was too slow.

    It stands where they would have stood: all events after it are of later epochs. The bus still
    knows what happened: ``for commit in bus.log(since=lag.first, until=lag.last)``.

    Attributes
    ----------
    missed : int
        How many, whether or not they were of the pages and kinds that were asked for.
    first, last : int
        The epochs of the first and the last of them; all between them are missing too.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> n = bus.create_page("n", data=0)
    >>> with bus.subscribe(maxsize=1) as events:
    ...     for i in range(1, 4):
    ...         n[()] = i
    ...     lag, event = next(events), next(events)
    >>> lag, event.epoch
    (Lagged(missed=2, first=2, last=3), 4)
    >>> [commit.epoch for commit in bus.log(since=lag.first, until=lag.last)]
    [2, 3]
    """

    missed: int
    first: int
    last: int


Told: TypeAlias = Event | Lagged
Callback: TypeAlias = Callable[[Told], object]


class _End(Exception):
    """There will be no more events."""


class _Filter:
    """Makes events of what the core tells, restricted to what was asked for."""

    __slots__ = ("kinds", "pages")

    def __init__(self, pages: frozenset[int] | None, kinds: tuple[str, ...] | None) -> None:
        self.pages = pages
        self.kinds = kinds

    def __call__(self, epoch: int, lists: list[list[int]]) -> Event | None:
        pages = self.pages
        if pages is not None:
            lists = [[page for page in ids if page in pages] for ids in lists]
            if not any(lists):
                return None
        event = Event(epoch, *map(tuple, lists))
        if self.kinds is not None and not any(getattr(event, kind) for kind in self.kinds):
            return None
        return event


class Subscription:
    """The events of a bus from a moment on, in the order of their epochs, none left out.

    Subscriptions come from :meth:`Bus.subscribe`. One is an iterator, in ``for`` and in ``async
    for``, that waits for the next event and ends when the subscription or its bus is closed and
    what was queued is taken. Each subscription has its own queue; several threads or tasks may
    take from one, and each event goes to one of them.

    It does not keep its bus alive. One without a callback that nobody refers to any more is gone;
    one with a callback lives until it or its bus is closed. Subscriptions compare and hash by
    identity.

    Attributes
    ----------
    closed : bool
        Whether it or its bus was closed. Events may be queued still.
    errors : list of BaseException
        What the callback raised, the newest 100.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x, y = bus.create_page("x", data=[0]), bus.create_page("y", data=[0])
    >>> with bus.subscribe("x") as events:
    ...     x[0] = 1
    ...     y[0] = 2
    ...     x[0] = 3
    >>> [event.epoch for event in events]
    [3, 5]
    """

    __slots__ = (
        "__weakref__",
        "_bus",
        "_filter",
        "_is_closed",
        "_maxsize",
        "_native",
        "_pid",
        "_taken",
        "_thread",
        "errors",
    )

    errors: list[BaseException]
    _bus: weakref.ref[Bus]
    _filter: _Filter
    _is_closed: bool
    _maxsize: int
    _native: _core.Subscription
    _pid: int
    _taken: deque[_Native]
    _thread: threading.Thread | None

    def __init__(self) -> None:
        raise ArgumentTypeError("subscriptions come from bus.subscribe(...)")

    @classmethod
    def _of(
        cls, bus: Bus, wanted: _Filter, maxsize: int, callback: Callback | None
    ) -> Subscription:
        made = cls.__new__(cls)
        made.errors = []
        made._bus = weakref.ref(bus)
        made._filter = wanted
        made._is_closed = False
        made._maxsize = maxsize
        made._pid = os.getpid()
        made._taken = deque()
        made._thread = None
        made._native = bus._core.subscribe(maxsize)
        _ALL.add(made)
        if callback is not None:
            made._thread = threading.Thread(
                target=made._call, args=(callback,), name="mmsb-subscription", daemon=True
            )
            made._thread.start()
        return made

    @property
    def closed(self) -> bool:
        """Whether it or its bus was closed."""
        if not self._is_closed and self._pid == os.getpid():
            bus = self._bus()
            return bus is not None and bus.closed
        return self._is_closed

    def close(self) -> None:
        """End it. Whoever waits for events gets those that are queued, and then the end.

        A callback is not called any more; a call that has begun ends as it would. May be called
        again.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> events = bus.subscribe()
        >>> events.close()
        >>> list(events), events.closed
        ([], True)
        """
        self._is_closed = True
        self._native.close()

    def get(self, timeout: float | None = None) -> Told:
        """Return the next event, and wait for it if there is none.

        Parameters
        ----------
        timeout : float, optional
            How many seconds to wait at most, 0 for not at all; for ever unless given.

        Returns
        -------
        Event or Lagged
            What a commit did, or how many events were dropped.

        Raises
        ------
        TimeoutError
            The time is over.
        ClosedError
            The subscription or its bus was closed, and what was queued is taken.
        ArgumentError
            The events go to a callback.
        ReentrancyError
            A function that computes a page would wait.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> events = bus.subscribe(kinds=["created"])
        >>> x = bus.create_page("x", data=[0])
        >>> events.get(timeout=1.0).created
        (1,)
        >>> x[0] = 1
        >>> events.get(timeout=0)
        Traceback (most recent call last):
            ...
        TimeoutError: no event came in 0 seconds
        """
        span = _resolve.span(timeout, "timeout")
        self._check_taker()
        try:
            told = self._next(None if span is None else span * _NANOSECOND)
        except _End:
            raise ClosedError(
                "the subscription has ended: it or its bus was closed, and all events are taken"
            ) from None
        if told is None:
            raise TimeoutError(f"no event came in {timeout} seconds")
        return told

    def _check_taker(self) -> None:
        if self._thread is not None:
            raise ArgumentError(
                "the events of this subscription go to its callback; bus.subscribe() without one "
                "gives a subscription to take from"
            )

    def _take(self, seconds: float) -> _Native:
        """Return what the core tells next, and wait in slices.

        What it told is in `_taken` before a signal can act: an interrupt costs no event.
        """
        until = time.monotonic() + seconds
        while True:
            is_over = False
            # In a forked child the core refuses.
            if not self._taken or self._pid != os.getpid():
                left = until - time.monotonic()
                is_over = left <= 0
                self._taken.extend(map(self._native.next, (min(max(left, 0.0), _SLICE),)))
            try:
                told = self._taken.popleft()
            except IndexError:  # another thread was faster
                continue
            # What is taken may be of a call before, which was interrupted, or of another thread's.
            if told[0] != "none" or (is_over and not self._taken):
                return told

    def _next(self, seconds: float | None) -> Told | None:
        """Return the next event that was asked for, None if the time is over before it came."""
        seconds = float("inf") if seconds is None else seconds
        until = time.monotonic() + seconds
        late = 0
        while True:
            what, event, lag = self._take(max(until - time.monotonic(), 0.0))
            if what == "end":
                # Whoever else takes from it gets the end from the core too.
                self._is_closed = True
                raise _End
            if lag is not None:
                return Lagged(*lag)
            if event is None:
                return None
            if (told := self._filter(*event)) is not None:
                return told
            # What was queued when the time was over is looked at, what comes after it is not.
            late += time.monotonic() >= until
            if late > self._maxsize:
                return None

    def _call(self, callback: Callback) -> None:
        """Call back until the end; what the thread runs."""
        while True:
            try:
                told = self._next(None)
            except _End:
                return
            except BaseException as error:
                self._failed("the events of a subscription could not be taken", error)
                return self.close()
            if self._is_closed:
                return
            try:
                if told is not None:
                    callback(told)
            except BaseException as error:
                self._failed(f"a callback raised at {told}", error)
            told = None

    def _failed(self, what: str, error: BaseException) -> None:
        self.errors.append(error)
        del self.errors[:-_MOST_ERRORS]
        # What a handler raises must not end the subscription.
        with suppress(Exception):
            _logging.logger.error("%s", what, exc_info=error)

    def __iter__(self) -> Subscription:
        self._check_taker()
        return self

    def __next__(self) -> Told:
        self._check_taker()
        try:
            told = self._next(None)
        except _End:
            raise StopIteration from None
        assert told is not None, "who waits for ever waits until there is something"
        return told

    def __aiter__(self) -> Subscription:
        self._check_taker()
        return self

    async def __anext__(self) -> Told:
        self._check_taker()
        while True:
            try:
                told = self._next(0.0)
            except _End:
                raise StopAsyncIteration from None
            if told is not None:
                return told
            await _readable(self._native.signal())

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        _resolve.refuse_pickle(self)

    def __repr__(self) -> str:
        pages, kinds = self._filter.pages, self._filter.kinds
        what = "all pages" if pages is None else f"pages {', '.join(map(str, sorted(pages)))}"
        if kinds is not None:
            what += f" {', '.join(kinds)}"
        if self._pid != os.getpid():
            return f"<Subscription to {what} of the parent process>"
        return f"<Subscription to {what}{' closed' if self.closed else ''}>"


def _arrived(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _readable(descriptor: int) -> None:
    """Wait until a descriptor is readable."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    # An event loop knows one reader a descriptor, and several tasks may wait.
    own = os.dup(descriptor)
    try:
        loop.add_reader(own, _arrived, ready)
        await ready
    finally:
        if not loop.is_closed():
            loop.remove_reader(own)
        os.close(own)


def subscribe(
    bus: Bus,
    pages: tuple[PageLike, ...],
    kinds: Iterable[str] | None,
    maxsize: SupportsIndex,
    callback: Callback | None,
) -> Subscription:
    """Return a subscription; see :meth:`Bus.subscribe`."""
    if callback is not None and not callable(callback):
        raise ArgumentTypeError(f"callback must be callable, not {type(callback).__name__}")
    most = _resolve.number(maxsize, "maxsize")
    if not 1 <= most < 1 << 63:
        raise ArgumentError(f"maxsize must be between 1 and 2**63 - 1, not {most}")
    ids = frozenset(_resolve.page_id(bus._core, page) for page in pages) if pages else None
    return Subscription._of(bus, _Filter(ids, _checked(kinds)), most, callback)


def _checked(kinds: Iterable[str] | None) -> tuple[str, ...] | None:
    """Return the kinds in their order."""
    if kinds is None:
        return None
    wanted = None if isinstance(kinds, (str, bytes)) or not isinstance(kinds, Iterable) else kinds
    known = [] if wanted is None else list(wanted)
    if not known or any(kind not in KINDS for kind in known):
        raise ArgumentError(f"kinds must be a list of some of {', '.join(KINDS)}, not {kinds!r}")
    return tuple(kind for kind in KINDS if kind in known)


def wait(core: _core.Core, epoch: EpochLike, timeout: float | None) -> bool:
    """Wait until an epoch is there; see :meth:`Bus.wait`."""
    wanted = _resolve.epoch_number(core, epoch)
    span = _resolve.span(timeout, "timeout")
    until = float("inf") if span is None else time.monotonic() + span * _NANOSECOND
    if core.epoch >= wanted:
        return True
    news = core.subscribe(1)
    while core.epoch < wanted:
        left = until - time.monotonic()
        if left <= 0:
            return False
        if news.next(min(left, _SLICE))[0] == "end" and core.epoch < wanted:
            raise ClosedError(f"the bus was closed at epoch {core.epoch}, before epoch {wanted}")
    return True


_ALL: weakref.WeakSet[Subscription] = weakref.WeakSet()


def _end_all() -> None:
    """End all subscriptions before the interpreter ends: no thread may be in the core then.

    Callbacks get what is queued, as when a bus is closed.
    """
    callers = []
    for subscription in list(_ALL):
        subscription._native.close()
        if subscription._thread is not None:
            callers.append((subscription, subscription._thread))
    until = time.monotonic() + _LAST_SECONDS
    for subscription, thread in callers:
        thread.join(max(until - time.monotonic(), 0.0))
        subscription._is_closed = True


atexit.register(_end_all)
