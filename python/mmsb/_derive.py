"""Derived pages: pages that follow from others, and what a transaction does to their graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, TypeVar

import numpy as np
import numpy.typing as npt

from . import _core
from ._create import NewPage, new_page
from ._page import Page
from ._values import DType, dtype_from_text, dtype_text
from .errors import ArgumentError, ArgumentTypeError, PageExistsError

if TYPE_CHECKING:
    from ._core import Batch, Core
    from ._draft import Draft
    from ._resolve import PageLike

F = TypeVar("F", bound=Callable[..., Any])
LINKS = ("control", "gpu_sync", "compiler")
_ON_ERROR = ("abort", "poison")


class Node(NamedTuple):
    """A page's place in the graph."""

    form: str = "link"
    text: str = ""
    inputs: tuple[int, ...] = ()
    links: tuple[tuple[int, str], ...] = ()
    deferred: bool = False
    poisons: bool = False

    @classmethod
    def of(cls, info: _core.PageInfo) -> Node | None:
        """Return the place that a page has."""
        node = info.node
        if node is None:
            return None
        form, text, inputs, links, deferred, poisons = node
        return cls(form, text, tuple(inputs), tuple(links), deferred, poisons)

    @property
    def derived(self) -> bool:
        """Whether the page is computed from others."""
        return self.form != "link"


def checked_result(value: Any, out: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what a function returned as an array, if it is as its page wants it."""
    # A number of Python has no dtype of its own.
    is_number = type(value) in (bool, int, float) and out.dtype.kind in "fc"
    array = np.asarray(value, out.dtype if is_number else None)
    if array.shape != out.shape or array.dtype != out.dtype:
        raise ArgumentError(
            f"the function returned {array.shape} {array.dtype}, and its page has {out.shape} "
            f"{out.dtype}; return that, or fill the last argument and return None"
        )
    return np.ascontiguousarray(array).reshape(out.shape)


def link_kind(kind: str) -> str:
    """Return the kind of a link if it is one."""
    if kind == "data":
        raise ArgumentError(
            "inputs are given with derive and map; a link is 'control', 'gpu_sync' or 'compiler'"
        )
    if kind not in LINKS:
        raise ArgumentError(f"kind must be one of {', '.join(map(repr, LINKS))}, not {kind!r}")
    return kind


def _poisons(on_error: str) -> bool:
    if on_error not in _ON_ERROR:
        raise ArgumentError(f"on_error must be 'abort' or 'poison', not {on_error!r}")
    return on_error == "poison"


def _check_once(pages: tuple[int, ...]) -> None:
    for page in pages:
        if pages.count(page) > 1:
            raise ArgumentError(f"page {page} is an input twice; name it once and use it twice")


class Deriving:
    """What a transaction does to the graph."""

    __slots__ = ()

    _core: Core
    _batch: Batch
    _nodes: dict[int, Node | None]

    # What the transaction gives.
    _check_open: Callable[[], None]
    _draft: Callable[[PageLike], Draft]
    _drafts_of: Callable[[int], Draft]
    _look_up: Callable[[str], int | None]
    _create: Callable[[NewPage], Page]
    delete: Callable[[PageLike], None]

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
    ) -> Callable[[F], F]:
        """Derive a page by a Python function; see :meth:`Bus.derive`.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0, 2.0])
        >>> with bus.transaction() as tx:
        ...     @tx.derive("total", ["x"])
        ...     def total(x, out):
        ...         out[...] = x.sum()
        >>> float(bus["total"])
        3.0
        """
        self._check_open()
        if isinstance(inputs, (str, bytes)) or not isinstance(inputs, Iterable):
            raise ArgumentTypeError(f"inputs must be a list of pages, not {inputs!r}")
        pages = tuple(self._draft(page).id for page in inputs)
        page = new_page(self._core, name, shape, dtype, None, None, meta)
        _check_once(pages)
        node = Node("function", "", pages, (), bool(deferred), _poisons(on_error))

        def register(function: F) -> F:
            self._check_open()
            if not callable(function):
                raise ArgumentTypeError(f"a function computes a page, not {function!r}")
            self._batch.function(self._derive(page, node).id, function, bool(batch))
            return function

        return register

    def map(
        self,
        expression: str,
        name: str,
        *,
        inputs: Mapping[str, PageLike] | None = None,
        deferred: bool = False,
        meta: Mapping[str, Any] | None = None,
    ) -> Page:
        """Derive a page by an expression; see :meth:`Bus.map`.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0, 2.0])
        >>> with bus.transaction() as tx:
        ...     square = tx.map("x * x", "square")
        >>> square.read()
        array([1., 4.])
        """
        self._check_open()
        if not isinstance(expression, str):
            raise ArgumentTypeError(f"an expression is a str, not {type(expression).__name__}")
        named = {} if inputs is None else dict(inputs)
        variables = _core.expression_variables(expression)
        for unknown in named.keys() - set(variables):
            raise ArgumentError(f"{unknown!r} is no variable of {expression!r}")
        drafts = [self._draft(named.get(variable, variable)) for variable in variables]
        _check_once(tuple(draft.id for draft in drafts))
        kinds = [("" if d.raw else dtype_text(d.dtype), d.shape) for d in drafts]
        text, shape = _core.expression_type(expression, kinds)
        kind: DType = dtype_from_text(text)
        page = new_page(self._core, name, shape, kind, None, None, meta)
        node = Node("native", expression, tuple(d.id for d in drafts), (), bool(deferred))
        return self._derive(page, node)

    def link(self, src: PageLike, dst: PageLike, kind: str = "control") -> None:
        """Link two pages; see :meth:`Graph.link`.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page("a", size=1), bus.create_page("b", size=1)
        >>> with bus.transaction() as tx:
        ...     tx.link("a", "b")
        >>> bus.graph.edges()
        [Edge(src='a', dst='b', kind='control')]
        """
        source, page = self._draft(src), self._draft(dst)
        link = (source.id, link_kind(kind))
        node = self._node(page) or Node()
        if link in node.links:
            raise ArgumentError(f"{src!r} and {dst!r} are linked already ({kind})")
        links = sorted((*node.links, link), key=lambda link: (link[0], LINKS.index(link[1])))
        self._place(page, node._replace(links=tuple(links)))

    def unlink(self, src: PageLike, dst: PageLike, kind: str = "control") -> None:
        """Take a link away; see :meth:`Graph.unlink`.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page("a", size=1), bus.create_page("b", size=1)
        >>> bus.graph.link(a, b)
        3
        >>> with bus.transaction() as tx:
        ...     tx.unlink(a, b)
        >>> bus.graph.edges()
        []
        """
        source, page = self._draft(src), self._draft(dst)
        link, node = (source.id, link_kind(kind)), self._node(page) or Node()
        if link not in node.links:
            raise ArgumentError(f"{src!r} and {dst!r} are not linked ({kind})")
        left = node._replace(links=tuple(other for other in node.links if other != link))
        self._place(page, left if left != Node() else None)

    def release(self, page: PageLike) -> None:
        """Let a derived page be written again; see :meth:`Graph.release`.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0])
        >>> y = bus.map("2 * x", "y")
        >>> with bus.transaction() as tx:
        ...     tx.release("y")
        ...     tx["y"] = 5
        >>> y[0]
        np.float64(5.0)
        """
        draft = self._draft(page)
        node = self._node(draft)
        if node is None or not node.derived:
            raise ArgumentError(f"{page!r} is not derived from anything")
        self._place(draft, Node(links=node.links) if node.links else None)

    def _node(self, draft: Draft) -> Node | None:
        """Return the place of a page; what the base says about it is checked at the end."""
        if draft.id not in self._nodes:
            info = None if draft.base is None else draft.base.info(draft.id)
            if info is not None:
                self._batch.check_node(draft.id)
            self._nodes[draft.id] = None if info is None else Node.of(info)
        return self._nodes[draft.id]

    def _place(self, draft: Draft, node: Node | None) -> None:
        self._nodes[draft.id] = node
        if node is None:
            self._batch.no_node(draft.id)
        else:
            form, text, inputs, links, deferred, poisons = node
            self._batch.node(draft.id, form, text, list(inputs), list(links), deferred, poisons)

    def _derive(self, page: NewPage, node: Node) -> Page:
        """Give a page of this name this place: the one that is there, or a new one."""
        taken = None if page.name is None else self._look_up(page.name)
        if taken is not None:
            draft = self._drafts_of(taken)
            had = self._node(draft)
            if had is None or not had.derived:
                raise PageExistsError(
                    f"there is a page named {page.name!r} already, and it is not derived"
                )
            # A page that is its own input is refused with the circle.
            if page.matches(draft.dtype, draft.raw, draft.shape) or taken in node.inputs:
                wanted = node._replace(links=had.links)
                if wanted != had:
                    self._place(draft, wanted)
                return Page(self._core, taken)
            self.delete(taken)
        made = self._create(page)
        self._place(self._drafts_of(made.id), node)
        return made
