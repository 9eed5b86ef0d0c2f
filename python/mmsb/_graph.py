"""The graph of a bus: what follows from what, in what order, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from . import _core, _resolve, _transaction
from ._derive import Node, link_kind
from ._metadata import How, how, meta_dict
from ._resolve import PageLike
from .errors import ArgumentTypeError


class Edge(NamedTuple):
    """An edge of the graph, between pages by name, or by id where they have none.

    Attributes
    ----------
    src : str or int
        The page that something follows from.
    dst : str or int
        The page that follows.
    kind : {"data", "control", "gpu_sync", "compiler"}
        How: it is computed, marked stale, copied to its device again, or compiled again.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", data=[1.0])
    >>> y = bus.map("2 * x", "y")
    >>> bus.graph.edges()
    [Edge(src='x', dst='y', kind='data')]
    """

    src: str | int
    dst: str | int
    kind: str


class Planned(NamedTuple):
    """A page that a commit would reach.

    Attributes
    ----------
    page : str or int
        The page.
    action : {"compute", "mark", "fail"}
        It is computed, unless its inputs turn out to be as before; it is marked stale; or its
        function is not registered here, so the commit would fail.
    because : tuple of str or int
        Its inputs that may change.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", data=[1.0])
    >>> y = bus.map("2 * x", "y")
    >>> bus.graph.plan(writes=["x"])
    [Planned(page='y', action='compute', because=('x',))]
    """

    page: str | int
    action: str
    because: tuple[str | int, ...]


class Why(NamedTuple):
    """Why a page has the bytes that it has.

    Attributes
    ----------
    page : str or int
        The page.
    epoch : int
        The commit that made its bytes.
    source : str or None
        Who made that commit; None too if the commit was let go.
    meta : dict
        Metadata of that commit.
    because : tuple of Why
        Its inputs that the same commit changed, and why; none for a page that was written.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> x = bus.create_page("x", data=[1.0])
    >>> y = bus.map("2 * x", "y")
    >>> x.write([3.0], source="physics")
    3
    >>> why = bus.why("y")
    >>> why.epoch, why.source, [cause.page for cause in why.because]
    (3, 'physics', ['x'])
    """

    page: str | int
    epoch: int
    source: str | None
    meta: dict[str, Any]
    because: tuple[Why, ...]


class Graph:
    """The graph of a bus; ``bus.graph`` gives it.

    Its edits are commits like all others, part of every epoch, of its digest and of every fork. A
    transaction has the same ones (``tx.link``), which are judged together by their result.

    Attributes
    ----------
    unbound : list
        Derived pages whose functions are not registered in this process. They keep their bytes; a
        commit that would have to compute one of them fails.

    Examples
    --------
    >>> import mmsb
    >>> bus = mmsb.Bus()
    >>> pos, vel = bus.create_page("pos", shape=3), bus.create_page("vel", shape=3)
    >>> speed = bus.map("sqrt(sum(vel * vel))", "speed")
    >>> bus.graph.order()
    ['vel', 'speed']
    >>> bus.graph
    <Graph of 1 derived page>
    """

    __slots__ = ("_core",)

    def __init__(self, core: _core.Core) -> None:
        self._core = core

    def link(
        self,
        src: PageLike,
        dst: PageLike,
        kind: str = "control",
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Link a page to one that it follows from otherwise than by its bytes, as one commit.

        Parameters
        ----------
        src : Page, str or int
            The page that `dst` follows from.
        dst : Page, str or int
            The page that follows.
        kind : {"control", "gpu_sync", "compiler"}, optional
            What a change of `src` means: `dst` is marked stale; its copy on a device is old; what
            was compiled for it is old. The last two are told in events.
        source, meta, durability
            As for :meth:`Bus.transaction`.

        Returns
        -------
        int
            The epoch that shows it.

        Raises
        ------
        GraphCycleError
            Pages would follow from each other in a circle; nothing changed.
        ArgumentError
            They are linked already.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page("a", data=[1]), bus.create_page("b", data=[1])
        >>> bus.graph.link("a", "b", kind="control")
        3
        >>> bus["a"] = 2
        >>> b.stale
        True
        """
        link_kind(kind)
        return self._edit(lambda tx: tx.link(src, dst, kind), how(source, meta, durability))

    def unlink(
        self,
        src: PageLike,
        dst: PageLike,
        kind: str = "control",
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Take a link away, as one commit.

        Parameters
        ----------
        src, dst, kind, source, meta, durability
            As for :meth:`link`.

        Returns
        -------
        int
            The epoch that shows it.

        Raises
        ------
        ArgumentError
            They are not linked in this way.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page("a", size=1), bus.create_page("b", size=1)
        >>> bus.graph.link(a, b)
        3
        >>> bus.graph.unlink(a, b)
        4
        """
        link_kind(kind)
        return self._edit(lambda tx: tx.unlink(src, dst, kind), how(source, meta, durability))

    def release(
        self,
        page: PageLike,
        *,
        source: str | None = None,
        meta: Mapping[str, Any] | None = None,
        durability: str | None = None,
    ) -> int:
        """Let a derived page be written again, as one commit. It keeps its bytes and its links.

        Parameters
        ----------
        page : Page, str or int
            The page.
        source, meta, durability
            As for :meth:`Bus.transaction`.

        Returns
        -------
        int
            The epoch that shows it.

        Raises
        ------
        ArgumentError
            It is not derived.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0])
        >>> y = bus.map("2 * x", "y")
        >>> bus.graph.release(y)
        3
        >>> bus["y"] = 7
        """
        return self._edit(lambda tx: tx.release(page), how(source, meta, durability))

    def _edit(self, fn: Any, about: How) -> int:
        def commit(tx: _transaction.Transaction) -> _transaction.Transaction:
            fn(tx)
            return tx

        epoch = _transaction.run(self._core, commit, 10, about).epoch
        return self._core.epoch if epoch is None else epoch

    @property
    def unbound(self) -> list[str | int]:
        """Derived pages whose functions are not registered here."""
        view = _View(self._core)
        return [
            view.key(page)
            for page, node in view.nodes.items()
            if node.form == "function" and not self._core.is_bound(page)
        ]

    def edges(self) -> list[Edge]:
        """Return all edges, sorted by the ids of the pages that follow.

        Returns
        -------
        list of Edge
            Each once.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page("a", size=1), bus.create_page("b", size=1)
        >>> bus.graph.link(a, b, kind="gpu_sync")
        3
        >>> bus.graph.edges()
        [Edge(src='a', dst='b', kind='gpu_sync')]
        """
        view = _View(self._core)
        return [Edge(view.key(src), view.key(dst), kind) for src, dst, kind in view.edges()]

    def order(self) -> list[str | int]:
        """Return the pages of the graph in the order in which a commit computes them.

        Returns
        -------
        list of str or int
            By the length of the longest way to them, then by id; so it depends on nothing else.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0])
        >>> y = bus.map("2 * x", "y")
        >>> z = bus.map("x + y", "z")
        >>> bus.graph.order()
        ['x', 'y', 'z']
        """
        view = _View(self._core)
        return [view.key(page) for page, _ in view.snap.order()]

    def plan(self, writes: Iterable[PageLike]) -> list[Planned]:
        """Tell what a commit that changes some pages would do, and do nothing.

        Parameters
        ----------
        writes : iterable of Page, str or int
            The pages that would be changed.

        Returns
        -------
        list of Planned
            The pages that it may reach, in order.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> a, b = bus.create_page("a", data=[1.0]), bus.create_page("b", data=[2.0])
        >>> c = bus.map("a + b", "c")
        >>> d = bus.map("c * c", "d", deferred=True)
        >>> [(step.page, step.action, step.because) for step in bus.graph.plan(writes=[a])]
        [('c', 'compute', ('a',)), ('d', 'mark', ('c',))]
        """
        if isinstance(writes, (str, bytes)) or not isinstance(writes, Iterable):
            raise ArgumentTypeError(f"writes must be a list of pages, not {writes!r}")
        view = _View(self._core)
        reached = {_resolve.page_id(self._core, page) for page in writes}
        planned = []
        for page, _ in view.snap.order():
            node = view.nodes.get(page, Node())
            because = [src for src in node.inputs if src in reached]
            action = "compute"
            if not because or node.deferred:
                links = [src for src, kind in node.links if kind == "control" and src in reached]
                because, action = because or links, "mark"
            if not because:
                continue
            if action == "compute":
                reached.add(page)
                if node.form == "function" and not self._core.is_bound(page):
                    action = "fail"
            planned.append(Planned(view.key(page), action, tuple(map(view.key, because))))
        return planned

    def to_mermaid(self) -> str:
        """Return the graph as a flowchart in the language of Mermaid.

        Returns
        -------
        str
            Derived pages are boxes, others have round ends; dotted edges are links.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0])
        >>> y = bus.map("2 * x", "y")
        >>> print(bus.graph.to_mermaid())
        flowchart LR
            p1(["x"])
            p2["y = 2 * x"]
            p1 --> p2
        """
        view = _View(self._core)
        lines = ["flowchart LR"]
        for page, _ in view.snap.order():
            text = view.label(page).translate(_MERMAID)
            ends = ('["', '"]') if view.nodes.get(page, Node()).derived else ('(["', '"])')
            lines.append(f"    p{page}{ends[0]}{text}{ends[1]}")
        for src, dst, kind in view.edges():
            arrow = "-->" if kind == "data" else f"-. {kind} .->"
            lines.append(f"    p{src} {arrow} p{dst}")
        return "\n".join(lines)

    def to_dot(self) -> str:
        """Return the graph in the language of Graphviz.

        Returns
        -------
        str
            Derived pages are boxes, others ellipses; dashed edges are links.

        Examples
        --------
        >>> import mmsb
        >>> bus = mmsb.Bus()
        >>> x = bus.create_page("x", data=[1.0])
        >>> y = bus.map("2 * x", "y")
        >>> print(bus.graph.to_dot())
        digraph mmsb {
            rankdir=LR;
            p1 [label="x", shape=ellipse];
            p2 [label="y = 2 * x", shape=box];
            p1 -> p2;
        }
        """
        view = _View(self._core)
        lines = ["digraph mmsb {", "    rankdir=LR;"]
        for page, _ in view.snap.order():
            text = view.label(page).replace("\\", "\\\\").replace('"', '\\"')
            shape = "box" if view.nodes.get(page, Node()).derived else "ellipse"
            lines.append(f'    p{page} [label="{text}", shape={shape}];')
        for src, dst, kind in view.edges():
            style = "" if kind == "data" else f' [label="{kind}", style=dashed]'
            lines.append(f"    p{src} -> p{dst}{style};")
        return "\n".join([*lines, "}"])

    def __repr__(self) -> str:
        if self._core.closed or self._core.forked:
            return "<Graph of a bus that is not open here>"
        count = sum(node.derived for node in _View(self._core).nodes.values())
        return f"<Graph of {count} derived page{'' if count == 1 else 's'}>"


_MERMAID = str.maketrans({'"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "\n": " "})


class _View:
    """The graph at one epoch."""

    def __init__(self, core: _core.Core) -> None:
        self.snap = core.snapshot()
        self.names: dict[int, str | None] = {}
        self.nodes: dict[int, Node] = {}
        for info in self.snap.infos():
            self.names[info.id] = info.name
            if (node := Node.of(info)) is not None:
                self.nodes[info.id] = node

    def key(self, page: int) -> str | int:
        """Return what a page is called."""
        return self.names.get(page) or page

    def label(self, page: int) -> str:
        """Return what is written at a page in a picture."""
        node = self.nodes.get(page, Node())
        text = {"native": f" = {node.text}", "function": " = f(...)"}.get(node.form, "")
        return f"{self.key(page)}{text}"

    def edges(self) -> list[tuple[int, int, str]]:
        """Return all edges by ids."""
        edges = []
        for page, node in self.nodes.items():
            data = [(src, "data") for src in sorted(node.inputs)]
            edges += [(src, page, kind) for src, kind in sorted([*data, *node.links])]
        return edges


def why(core: _core.Core, page: PageLike) -> Why:
    """Tell why a page has its bytes; see :meth:`Bus.why`."""
    snap = core.snapshot()
    start = _resolve.page_id(core, page)
    known: dict[int, Why] = {}

    def info(page: int) -> _core.PageInfo:
        found = snap.info(page)
        return _resolve.no_page(page) if found is None else found

    epoch = info(start).bytes_epoch
    entries = list(core.log(epoch, epoch, False)) if epoch else []
    source = entries[0].source if entries else None
    about = entries[0].meta if entries else None
    # Inputs first, without recursion: a way may be long.
    stack = [start]
    while stack:
        at = stack[-1]
        here = info(at)
        node = Node.of(here) or Node()
        causes = [src for src in node.inputs if info(src).bytes_epoch == epoch]
        missing = [src for src in causes if src not in known]
        if missing:
            stack += missing
            continue
        stack.pop()
        because = tuple(known[src] for src in causes)
        known[at] = Why(here.name or at, epoch, source, meta_dict(about), because)
    return known[start]
