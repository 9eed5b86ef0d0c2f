"""The part of a bus where pages follow from others, and that tells what happened to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, cast

import numpy.typing as npt

from . import _events, _logging, _transaction
from ._core import Core
from ._events import Callback, Subscription
from ._graph import Graph, Why, why
from ._metadata import how
from ._page import Page
from ._resolve import EpochLike, PageLike
from ._transaction import Transaction

if TYPE_CHECKING:
    from ._bus import Bus

F = TypeVar("F", bound=Callable[..., Any])


class Propagation:
    """Derived pages and events of a bus; see :class:`Bus`."""

    __slots__ = ()
    _core: Core

    @property
    def graph(self) -> Graph:
        """What follows from what."""
        return Graph(self._core)

    def derive(
        self,
        name: str,
        inputs: Iterable[PageLike],
        shape: SupportsIndex | tuple[SupportsIndex, ...] = (),
        dtype: npt.DTypeLike | None = None,
        *,
        batch: bool = False,
        deferred: bool = False,
        on_error: str = "abort",
        meta: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> Callable[[F], F]:
        """Derive a page from others by a Python function, as one commit.

        From then on each commit that changes an input computes the page too, before anybody sees
        either. The function is called with a read-only array for each input and a writable one for
        the page, zeros at first; it fills that, or returns an array of its shape and dtype. It must
        depend on its arguments only, may read the bus (the epoch before), and must not commit.

        A page of that name that is derived in the same way is kept with its bytes, and computed by
        this function from now on: so a program registers its functions after it opened a bus. Other
        inputs change the graph and compute the page; another shape or dtype makes a new page.

        Parameters
        ----------
        name : str
            Name of the page.
        inputs : iterable of Page, str or int
            The pages that it follows from, in the order of the arguments.
        shape : int or tuple of int, optional
            Its shape; one number unless given.
        dtype : dtype, optional
            Its dtype; float64 unless given.
        batch : bool, optional
            Compute many pages in one call: all of one level that have this very function, and
            shapes and dtypes alike, are stacked. Each array has an axis in front for them.
        deferred : bool, optional
            Mark the page stale instead, until :meth:`settle`.
        on_error : {"abort", "poison"}, optional
            If the function raises, nothing is committed; or the page keeps its bytes, it and all
            that follows from it are marked poisoned, and the commit goes on.
        meta : mapping, optional
            Metadata of a new page.
        source : str, optional
            Who commits.

        Returns
        -------
        callable
            A decorator that gives the function back; ``bus[name]`` is the page.

        Raises
        ------
        PropagationError
            The function raised; of a commit that changes an input too.
        GraphCycleError
            The page would follow from itself.
        PageExistsError
            A page has the name and is not derived.

        Examples
        --------
        >>> import numpy as np, mmsb
        >>> bus = mmsb.Bus()
        >>> vel = bus.create_page("vel", data=[[3.0, 4.0], [0.0, 1.0]])
        >>> @bus.derive("energy", inputs=["vel"])
        ... def energy(vel, out):
        ...     out[...] = 0.5 * np.square(vel).sum()
        >>> float(bus["energy"])
        13.0
        >>> vel[0] = 0
        >>> float(bus["energy"]), bus.epoch
        (0.5, 3)
        """
        about, pages = how(source, None, None), tuple(inputs) if _is_list(inputs) else inputs

        def register(function: F) -> F:
            def commit(tx: Transaction) -> F:
                return tx.derive(
                    name,
                    pages,
                    shape,
                    dtype,
                    batch=batch,
                    deferred=deferred,
                    on_error=on_error,
                    meta=meta,
                )(function)

            return _transaction.run(self._core, commit, 10, about)

        return register

    def map(
        self,
        expression: str,
        name: str,
        *,
        inputs: Mapping[str, PageLike] | None = None,
        deferred: bool = False,
        meta: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> Page:
        """Derive a page from others by an expression, as one commit.

        As :meth:`derive`, but no Python runs: the expression is compiled once and is part of the
        state. It has Python's syntax and NumPy's meaning, and gives the same bytes on every
        machine: ``+ - * / // % ** & | ^ ~ << >> @``, comparisons, ``abs sqrt floor ceil trunc sign
        minimum maximum where isnan isfinite exp log sin cos tan tanh arctan2``, reductions ``sum
        prod min max mean any all`` with ``axis=``, and ``fold matvec matmul closure`` of the
        semirings ``plus_times min_plus max_plus min_max or_and`` (``min_plus.closure(d)``).

        Parameters
        ----------
        expression : str
            The expression. Its variables are names of pages.
        name : str
            Name of the page.
        inputs : mapping, optional
            Pages by variable, for variables that are not the names of their pages.
        deferred : bool, optional
            Mark the page stale instead, until :meth:`settle`.
        meta : mapping, optional
            Metadata of a new page.
        source : str, optional
            Who commits.

        Returns
        -------
        Page
            A handle; shape and dtype are those that NumPy would give.

        Raises
        ------
        ArgumentError
            The expression is none, or its operands do not go together; the message says where.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page("a", data=[1.0, 2.0]), bus.create_page("b", data=[3.0, 4.0])
        >>> total = bus.map("sum(a * b + 1)", "total")
        >>> float(total)
        13.0
        >>> a[...] = 0
        >>> float(total)
        2.0
        """

        def commit(tx: Transaction) -> Page:
            return tx.map(expression, name, inputs=inputs, deferred=deferred, meta=meta)

        return _transaction.run(self._core, commit, 10, how(source, None, None))

    def settle(
        self,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Compute all stale and poisoned pages, and what follows from them, as one commit.

        Parameters
        ----------
        source, meta, durability
            As for :meth:`transaction`.

        Returns
        -------
        int
            The epoch that shows them.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0])
        >>> y = bus.map("2 * x", "y", deferred=True)
        >>> y.stale, y[0]
        (True, np.float64(0.0))
        >>> bus.settle()
        3
        >>> y.stale, y[0]
        (False, np.float64(2.0))
        """
        _logging.follow()
        return self._core.settle(*how(source, meta, durability))[0]

    def why(self, page: PageLike) -> Why:
        """Tell why a page has its bytes: the commit that made them, and by way of which pages.

        Parameters
        ----------
        page : Page, str or int
            The page.

        Returns
        -------
        Why
            The commit, and for a derived page the inputs that it changed, and why those changed;
            none where it changed the page's place in the graph and no input.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0])
        >>> y = bus.map("2 * x", "y")
        >>> x[0] = 5
        >>> bus.why(y).because[0].page
        'x'
        """
        return why(self._core, page)

    def subscribe(
        self,
        *pages: PageLike,
        kinds: Iterable[str] | None = None,
        maxsize: SupportsIndex = 1024,
        callback: Callback | None = None,
    ) -> Subscription:
        """Give an event for each commit from now on, in the order of the epochs.

        The first event is that of the first epoch that is published after the call, none is left
        out, and an event comes once its epoch can be read. A commit never waits for a subscriber:
        of more than `maxsize` events that nobody took the oldest are dropped, and
        :class:`Lagged` says so.

        Parameters
        ----------
        *pages : Page, str or int
            Only commits whose event names one of these pages, and of the event only these; every
            commit unless given. A name means the page that has it now.
        kinds : iterable of str, optional
            Only events in which one of these is not empty: "changed", "created", "deleted",
            "described", "stale", "poisoned", "cut_off", "gpu_sync", "compiler".
        maxsize : int, optional
            How many commits are queued at most.
        callback : callable, optional
            Called with each :class:`Event` or :class:`Lagged`, one after the other, by a thread of
            its own, outside of the commit: it may read and commit. What it raises is logged as an
            error and kept in `errors` of the subscription, and the next event comes.

        Returns
        -------
        Subscription
            An iterator, for ``for`` and ``async for``, and a context manager that ends it.

        Raises
        ------
        PageNotFoundError
            There is no such page.
        ReadOnlyError
            The bus was opened with ``mode="r"``: it shows one epoch.
        ReentrancyError
            Called by a function that computes a page.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> pos = bus.create_page("pos", shape=3)
        >>> with bus.subscribe("pos") as events:
        ...     pos[0] = 1
        ...     epoch = pos.set_meta({"unit": "m"})
        >>> for event in events:
        ...     print(event.epoch, event.changed, event.described)
        2 (1,) ()
        3 () (1,)
        """
        return _events.subscribe(cast("Bus", self), pages, kinds, maxsize, callback)

    def wait(self, epoch: EpochLike, timeout: float | None = None) -> bool:
        """Wait until the bus has an epoch.

        Parameters
        ----------
        epoch : int, str, Commit or Snapshot
            The epoch.
        timeout : float, optional
            How many seconds to wait at most; for ever unless given.

        Returns
        -------
        bool
            True as soon as :attr:`epoch` is `epoch` or higher, False if the time is over before.

        Raises
        ------
        ClosedError
            The bus is closed, or was while waiting, and never had the epoch.
        ReadOnlyError
            The bus was opened with ``mode="r"`` at an earlier epoch, and will show no other.
        ReentrancyError
            A function that computes a page would wait.

        Examples
        --------
        >>> import threading, mmsb
        >>> bus = mmsb.Bus()
        >>> n = bus.create_page("n", data=0)
        >>> threading.Timer(0.01, n.write, [7]).start()
        >>> bus.wait(2), int(n)
        (True, 7)
        >>> bus.wait(3, timeout=0.01)
        False
        """
        return _events.wait(self._core, epoch, timeout)


def _is_list(pages: object) -> bool:
    """Tell whether pages can be gone through again for each attempt."""
    return isinstance(pages, Iterable) and not isinstance(pages, (str, bytes))
