"""The graph of a bus: links, circles, order, plans, reasons and pictures."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

Array = npt.NDArray[Any]
LINKS = ["control", "gpu_sync", "compiler"]


def total(*args: Array) -> None:
    """The sum of all elements of all inputs."""
    *inputs, out = args
    out[...] = sum(float(x.sum()) for x in inputs)


def pages(bus: mmsb.Bus, names: str) -> None:
    """Pages of one number."""
    for name in names:
        bus.create_page(name, data=1.0)


def refused(
    bus: mmsb.Bus, error: type[Exception], call: Callable[[], Any], match: str | None = None
) -> Any:
    """The call raises and nothing changes."""
    before = bus.epoch, bus.digest(), bus.graph.edges(), bus.graph.order()
    with pytest.raises(error, match=match) as caught:
        call()
    assert (bus.epoch, bus.digest(), bus.graph.edges(), bus.graph.order()) == before
    return caught.value


# --- links --------------------------------------------------------------------------------------


def test_links_are_commits_and_are_part_of_the_state(bus: mmsb.Bus) -> None:
    pages(bus, "ab")
    empty = bus.digest()
    epoch = bus.graph.link("a", "b", source="me", meta={"n": 1})
    assert epoch == bus.epoch == 3 and bus["b"].epoch == 3 and bus["a"].epoch == 1
    (commit,) = bus.log(since=3)
    assert (commit.source, commit.meta, commit.pages) == ("me", {"n": 1}, (2,))
    assert [(change.kind, change.page) for change in commit.changes] == [("node", 2)]
    linked = bus.digest()
    assert linked != empty
    assert bus.graph.unlink("a", "b", source="you") == 4 and bus.digest() == empty
    bus.restore(3)
    assert bus.digest() == linked and bus.graph.edges() == [("a", "b", "control")]


def test_each_kind_of_link_is_an_edge_of_its_own(bus: mmsb.Bus) -> None:
    pages(bus, "ab")
    for kind in reversed(LINKS):
        bus.graph.link(bus["a"], bus["b"].id, kind)
    assert sorted(bus.graph.edges()) == [("a", "b", kind) for kind in sorted(LINKS)]
    for kind in LINKS:
        again = functools.partial(bus.graph.link, "a", "b", kind)
        refused(bus, mmsb.ArgumentError, again, rf"linked already \({kind}\)")
    bus.graph.unlink("a", "b", "gpu_sync")
    assert {edge.kind for edge in bus.graph.edges()} == {"control", "compiler"}
    refused(bus, mmsb.ArgumentError, lambda: bus.graph.unlink("a", "b", "gpu_sync"), "not linked")
    refused(bus, mmsb.ArgumentError, lambda: bus.graph.unlink("b", "a"), "not linked")


def test_wrong_links_are_refused(bus: mmsb.Bus) -> None:
    pages(bus, "ab")
    with mmsb.Bus() as other:
        foreign = other.create_page("a", data=1.0)
        link = bus.graph.link
        refused(bus, mmsb.ArgumentError, lambda: link("a", "b", "data"), "derive and map")
        refused(bus, mmsb.ArgumentError, lambda: link("a", "b", "wish"), "'control', 'gpu_sync'")
        refused(bus, mmsb.ArgumentError, lambda: bus.graph.unlink("a", "b", "data"))
        refused(bus, mmsb.PageNotFoundError, lambda: link("a", "c"))
        refused(bus, mmsb.PageNotFoundError, lambda: link(99, "b"))
        refused(bus, mmsb.ArgumentError, lambda: link(foreign, "b"), "another bus")
        refused(bus, mmsb.ArgumentTypeError, lambda: link(None, "b"))  # type: ignore[arg-type]


def test_a_control_link_marks_a_page_stale_until_it_is_written(bus: mmsb.Bus) -> None:
    pages(bus, "abc")
    bus.graph.link("a", "b")
    bus.graph.link("b", "c")
    assert not bus["b"].stale
    bus["a"] = 2
    assert (bus["b"].stale, bus["c"].stale) == (True, False)
    epoch = bus["b"].epoch
    bus["a"] = 3
    assert bus["b"].epoch == epoch, "it is stale already"
    bus.settle()
    assert bus["b"].stale, "nobody but its writer knows what it is"
    bus["b"] = 5
    assert (bus["b"].stale, bus["c"].stale) == (False, True)
    with bus.transaction() as tx:
        tx["a"] = 4
        tx["b"] = 6
        tx["c"] = 7
    assert not any(page.stale for page in bus.pages)
    assert [(c.kind, c.page) for c in next(iter(bus.log(since=bus.epoch))).changes] == [("mark", 3)]


def test_other_links_mark_nothing(bus: mmsb.Bus) -> None:
    pages(bus, "ab")
    bus.graph.link("a", "b", "gpu_sync")
    bus.graph.link("a", "b", "compiler")
    bus["a"] = 2
    assert not bus["b"].stale and bus["b"].epoch == 4


def test_a_link_to_a_derived_page_marks_it_where_its_inputs_are_as_before(mem: mmsb.Bus) -> None:
    pages(mem, "xs")
    runs = []
    mem.derive("y", ["x"])(lambda x, out: runs.append(1) or total(x, out))
    mem.graph.link("s", "y")
    mem["s"] = 5
    assert mem["y"].stale and len(runs) == 1
    mem.settle()
    assert not mem["y"].stale and len(runs) == 2
    mem["s"] = 6
    mem["x"] = 6  # computed, so it is not stale any more
    assert not mem["y"].stale and len(runs) == 3
    with mem.transaction() as tx:
        tx["s"] = 7
        tx["x"] = 7
    assert not mem["y"].stale and len(runs) == 4


def test_a_link_goes_with_its_target_and_holds_its_source(bus: mmsb.Bus) -> None:
    pages(bus, "ab")
    bus.graph.link("a", "b", "compiler")
    refused(bus, mmsb.ArgumentError, lambda: bus["a"].delete(), 'page 2 "b" follows from page 1')
    bus["b"].delete()
    assert bus.graph.edges() == [] and bus.graph.order() == []
    bus["a"].delete()
    assert len(bus.pages) == 0


def test_release_keeps_links_and_bytes(bus: mmsb.Bus) -> None:
    pages(bus, "xs")
    bus.map("x * 2", "y")
    bus.graph.link("s", "y")
    epoch = bus.graph.release("y", source="me", meta={"a": 1})
    assert (epoch, float(bus["y"]), bus.graph.edges()) == (5, 2, [("s", "y", "control")])
    bus["s"] = 2
    assert bus["y"].stale
    bus["y"] = 7
    assert not bus["y"].stale


def test_taking_the_last_place_away_takes_marks_too(bus: mmsb.Bus) -> None:
    pages(bus, "ab")
    bus.graph.link("a", "b")
    bus["a"] = 2
    assert bus["b"].stale
    bus.graph.unlink("a", "b")
    assert not bus["b"].stale
    bus.map("a + 1", "y", deferred=True)
    assert bus["y"].stale
    bus.graph.release("y")
    assert not bus["y"].stale and float(bus["y"]) == 0


# --- circles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LINKS)
def test_a_page_does_not_follow_from_itself(bus: mmsb.Bus, kind: str) -> None:
    pages(bus, "ab")
    error = refused(bus, mmsb.GraphCycleError, lambda: bus.graph.link("a", "a", kind), 'page 1 "a"')
    assert error.path == [(1, 1, kind)] and error.code == "graph-cycle"
    bus.derive("y", ["a"])(total)
    error = refused(bus, mmsb.GraphCycleError, lambda: bus.derive("y", ["b", "y"])(total))
    assert error.path == [(3, 3, "data")]
    error = refused(bus, mmsb.GraphCycleError, lambda: bus.map("y + a", "y"))
    assert error.path == [(3, 3, "data")]


def test_a_circle_is_refused_with_its_way(bus: mmsb.Bus) -> None:
    pages(bus, "abc")
    bus.graph.link("a", "b")
    bus.graph.link("b", "c", "compiler")
    error = refused(bus, mmsb.GraphCycleError, lambda: bus.graph.link("c", "a", "gpu_sync"))
    assert error.path == [(3, 1, "gpu_sync"), (1, 2, "control"), (2, 3, "compiler")]
    assert str(error).endswith(
        'page 3 "c" -gpu_sync-> page 1 "a" -control-> page 2 "b" -compiler-> page 3 "c"'
    )
    assert isinstance(error, ValueError)


def test_a_circle_by_way_of_data(bus: mmsb.Bus) -> None:
    pages(bus, "x")
    for one, two in ("xy", "yz"):
        bus.map(f"{one} + 1", two)
    error = refused(bus, mmsb.GraphCycleError, lambda: bus.map("z + 1", "y"))
    assert sorted(error.path) == [(2, 3, "data"), (3, 2, "data")]
    error = refused(bus, mmsb.GraphCycleError, lambda: bus.graph.link("z", "x"))
    assert error.path == [(3, 1, "control"), (1, 2, "data"), (2, 3, "data")]


def test_the_circle_that_is_told_is_a_shortest_one(bus: mmsb.Bus) -> None:
    names = "abcdefgh"
    pages(bus, names)
    for one, two in itertools.pairwise(names):
        bus.graph.link(one, two)
    bus.graph.link("b", "g")
    error = refused(bus, mmsb.GraphCycleError, lambda: bus.graph.link("h", "a"))
    assert [src for src, *_ in error.path] == [8, 1, 2, 7]
    for (_, dst, _), (src, *_) in zip(error.path, [*error.path[1:], error.path[0]], strict=True):
        assert dst == src


def test_a_batch_is_judged_by_its_result(bus: mmsb.Bus) -> None:
    """An edge is turned round in one transaction, in whichever order."""
    pages(bus, "ab")
    bus.graph.link("a", "b")
    with bus.transaction() as tx:
        tx.link("b", "a")
        tx.unlink("a", "b")
    assert bus.graph.edges() == [("b", "a", "control")]
    with bus.transaction() as tx:
        tx.unlink("b", "a")
        tx.link("a", "b")
    assert bus.graph.edges() == [("a", "b", "control")]
    bus.map("a + 1", "x")
    bus.map("x + 1", "y")
    with bus.transaction() as tx:
        tx.map("a + 1", "y")
        tx.map("y + 1", "x")
    assert (float(bus["y"]), float(bus["x"]), bus.graph.order()) == (2, 3, ["a", "b", "y", "x"])


def test_a_link_that_comes_and_goes_is_nothing(bus: mmsb.Bus) -> None:
    pages(bus, "ab")
    digest = bus.digest()
    with bus.transaction() as tx:
        tx.link("a", "b")
        with pytest.raises(mmsb.ArgumentError, match="linked already"):
            tx.link("a", "b")
        tx.unlink("a", "b")
        with pytest.raises(mmsb.ArgumentError, match="not linked"):
            tx.unlink("a", "b")
    assert (bus.digest(), bus.graph.edges()) == (digest, [])


def test_two_transactions_whose_links_close_a_circle_together(bus: mmsb.Bus) -> None:
    pages(bus, "abc")
    with pytest.raises(mmsb.GraphCycleError) as error, bus.transaction() as tx:
        tx.link("a", "b")
        bus.graph.link("b", "a")
    assert sorted(error.value.path) == [(1, 2, "control"), (2, 1, "control")]
    assert bus.graph.edges() == [("b", "a", "control")]


def test_a_refused_circle_leaves_the_graph_usable(mem: mmsb.Bus) -> None:
    pages(mem, "x")
    mem.map("x + 1", "y")
    for _ in range(3):
        with pytest.raises(mmsb.GraphCycleError):
            mem.graph.link("y", "x")
        mem["x"] = mem["x"][()] + 1
    assert float(mem["y"]) == 5


# --- looking ------------------------------------------------------------------------------------


def test_order_is_by_level_and_id_whatever_came_first(bus: mmsb.Bus) -> None:
    pages(bus, "fedcba")
    names = ["f", "e", "d", "c", "b", "a"]
    assert bus.graph.order() == []
    bus.graph.link("b", "d")
    bus.graph.link("a", "b", "compiler")  # orders nothing
    bus.graph.link("c", "e")
    bus.graph.link("e", "d")
    assert bus.graph.order() == ["c", "b", "a", "e", "d"]
    bus.graph.unlink("e", "d")
    assert bus.graph.order() == ["c", "b", "a", "e", "d"]
    bus.graph.link("f", "c", "gpu_sync")
    assert bus.graph.order() == ["f", "c", "b", "a", "e", "d"]
    assert set(bus.graph.order()) == set(names)


@given(data=st.data())
def test_the_order_is_the_longest_way(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 12))
    pairs = st.tuples(st.integers(1, count), st.integers(1, count)).filter(lambda p: p[0] != p[1])
    wanted = data.draw(st.lists(pairs, max_size=20, unique=True))
    with mmsb.Bus() as bus:
        for _ in range(count):
            bus.create_page(None, size=1)
        edges: set[tuple[int, int]] = set()
        for src, dst in wanted:
            if has_way(edges, dst, src):
                with pytest.raises(mmsb.GraphCycleError) as error:
                    bus.graph.link(src, dst)
                way = [(a, b) for a, b, _ in error.value.path]
                assert way[0] == (src, dst) and set(way[1:]) <= edges
                assert [b for _, b in way] == [a for a, _ in [*way[1:], way[0]]]
                assert len(way) == 1 + distance(edges, dst, src)
                continue
            bus.graph.link(src, dst)
            edges.add((src, dst))
        levels = dict.fromkeys({page for edge in edges for page in edge}, 0)
        for _ in range(count):
            for src, dst in edges:
                levels[dst] = max(levels[dst], levels[src] + 1)
        assert bus.graph.order() == sorted(levels, key=lambda page: (levels[page], page))
        assert bus.graph.edges() == [
            (a, b, "control") for a, b in sorted(edges, key=lambda edge: edge[::-1])
        ]


def distance(edges: set[tuple[int, int]], src: int, dst: int) -> int:
    """Edges of a shortest way; -1 if there is none."""
    reached, steps = {src}, 0
    while dst not in reached:
        more = reached | {b for a, b in edges if a in reached}
        if more == reached:
            return -1
        reached, steps = more, steps + 1
    return steps


def has_way(edges: set[tuple[int, int]], src: int, dst: int) -> bool:
    return distance(edges, src, dst) >= 0


def test_pages_without_names_are_told_by_id(bus: mmsb.Bus) -> None:
    raw = bus.create_page(None, data=b"\1\2")
    bus.map("a + 1", "y", inputs={"a": raw})
    bus.graph.link(raw, bus.create_page(None, size=1))
    assert bus.graph.edges() == [(1, "y", "data"), (1, 3, "control")]
    assert bus.graph.order() == [1, "y", 3]
    raw[0] = 7
    assert bus.why("y").because[0].page == 1
    assert bus.graph.plan([raw]) == [("y", "compute", (1,)), (3, "mark", (1,))]


def test_edges_and_plans_have_names(bus: mmsb.Bus) -> None:
    pages(bus, "a")
    bus.map("a + 1", "b")
    (edge,) = bus.graph.edges()
    assert (edge.src, edge.dst, edge.kind) == ("a", "b", "data")
    assert repr(edge) == "Edge(src='a', dst='b', kind='data')"
    (step,) = bus.graph.plan(["a"])
    assert (step.page, step.action, step.because) == ("b", "compute", ("a",))


def test_a_plan_is_what_a_commit_then_does(store: Path) -> None:
    with mmsb.create(store) as bus:
        pages(bus, "xz")
        bus.derive("f", ["x"])(total)
        bus.map("f + z", "g")
        bus.map("g * 2", "h", deferred=True)
        bus.map("h + 1", "i")
        pages(bus, "s")
        bus.graph.link("g", "s")
        bus.settle()
        want = [
            ("f", "compute", ("x",)),
            ("g", "compute", ("f",)),
            ("h", "mark", ("g",)),
            ("s", "mark", ("g",)),
        ]
        before = bus.epoch, bus.digest()
        assert bus.graph.plan(["x"]) == want
        assert bus.graph.plan([bus["x"], bus["z"].id])[1] == ("g", "compute", ("f", "z"))
        assert bus.graph.plan([]) == [] and bus.graph.plan(["i"]) == []
        assert (bus.epoch, bus.digest()) == before
        bus["x"] = 5
        (commit,) = bus.log(since=bus.epoch)
        assert {d.page for d in commit.deltas} == {bus[name].id for name in "xfg"}
        assert {c.page for c in commit.changes} == {bus[name].id for name in "hs"}
        with pytest.raises(mmsb.PageNotFoundError):
            bus.graph.plan(["nope"])
    with mmsb.open(store, mode="r+") as bus:
        assert bus.graph.unbound == ["f"]
        assert bus.graph.plan(["x"])[0] == ("f", "fail", ("x",))
        assert bus.graph.plan(["z"])[0] == ("g", "compute", ("z",))


def test_why_tells_all_inputs_that_one_commit_changed(bus: mmsb.Bus) -> None:
    pages(bus, "xz")
    bus.map("x + 1", "left")
    bus.map("x * 2", "right")
    bus.map("left + right + z", "y")
    epoch = bus["x"].write(5, source="physics", meta={"step": 7})
    why = bus.why("y")
    assert (why.page, why.epoch, why.source, why.meta) == ("y", epoch, "physics", {"step": 7})
    assert [cause.page for cause in why.because] == ["left", "right"]
    assert [cause.because[0].page for cause in why.because] == ["x", "x"]
    assert why.because[0].because[0] is why.because[1].because[0]
    assert why.because[0].because[0].because == ()
    bus["z"].write(3, source="other")
    assert [cause.page for cause in bus.why("y").because] == ["z"]
    assert bus.why("left").source == "physics"
    assert bus.why("x").because == () and bus.why(bus["x"]) == bus.why(1)


def test_why_goes_by_bytes_not_by_names_or_links(bus: mmsb.Bus) -> None:
    pages(bus, "xs")
    bus.map("x + 1", "y")
    epoch = bus["x"].write(5, source="physics")
    bus["y"].rename("z")
    bus["z"].set_meta({"a": 1})
    bus.graph.link("s", "z")
    bus["s"] = 2
    assert bus["z"].stale and bus["z"].epoch == bus.epoch
    assert (bus.why("z").epoch, bus.why("z").source) == (epoch, "physics")


def test_why_after_opening_again_and_after_history_was_let_go(store: Path) -> None:
    with mmsb.create(store) as bus:
        pages(bus, "x")
        bus.derive("y", ["x"])(total)
        epoch = bus["x"].write(5, source="physics", meta={"n": 1})
        bus.create_page("other", size=1)
    with mmsb.open(store, mode="r+") as bus:
        why = bus.why("y")
        assert (why.epoch, why.source, why.meta) == (epoch, "physics", {"n": 1})
        assert [cause.page for cause in why.because] == ["x"]
        bus.checkpoint()
        bus.prune(log_since=bus.epoch)
        gone = all(commit.epoch > epoch for commit in bus.log())
        assert (bus.why("y").epoch, bus.why("y").source) == (epoch, None if gone else "physics")
    with mmsb.open(store) as reader:
        assert reader.why("y").epoch == epoch


def test_why_of_a_page_that_is_not_there(bus: mmsb.Bus) -> None:
    for page in ("nope", 7):
        with pytest.raises(mmsb.PageNotFoundError):
            bus.why(page)


def test_a_deferred_page_is_because_of_its_settling(bus: mmsb.Bus) -> None:
    pages(bus, "x")
    bus.map("x + 1", "y", deferred=True)
    bus.map("y + 1", "z")
    bus["x"] = 5
    epoch = bus.settle(source="settler")
    why = bus.why("z")
    assert (why.epoch, why.source, [cause.page for cause in why.because]) == (
        epoch,
        "settler",
        ["y"],
    )
    assert why.because[0].because == (), "x was changed by another commit"


# --- pictures -----------------------------------------------------------------------------------

ODD = ['say "hi"', "a\\b", "<b>", "#1", "µ ☃ 雪", "a-->b", "]) --- ([", "end", "x;y", "p1"]


def test_pictures_of_odd_names(bus: mmsb.Bus) -> None:
    for name in ODD:
        bus.create_page(name, data=1.0)
    for one, two in itertools.pairwise(ODD):
        bus.graph.link(one, two)
    lines = bus.graph.to_mermaid().split("\n")
    assert lines[0] == "flowchart LR" and len(lines) == 1 + len(ODD) + len(ODD) - 1
    for number, (name, line) in enumerate(zip(ODD, lines[1:], strict=False), 1):
        start, end = f'    p{number}(["', '"])'
        assert line.startswith(start) and line.endswith(end)
        text = line[len(start) : -len(end)]
        assert '"' not in text and "<" not in text
        plain = text.replace("#quot;", '"').replace("#lt;", "<").replace("#gt;", ">")
        assert plain.replace("#35;", "#") == name
    dot = bus.graph.to_dot().split("\n")
    assert dot[:2] == ["digraph mmsb {", "    rankdir=LR;"] and dot[-1] == "}"
    for number, (name, line) in enumerate(zip(ODD, dot[2:], strict=False), 1):
        start, end = f'    p{number} [label="', '", shape=ellipse];'
        assert line.startswith(start) and line.endswith(end)
        text = line[len(start) : -len(end)]
        assert text.replace('\\"', "\0").replace("\\\\", "\1").count('"') == 0
        assert text.replace('\\"', '"').replace("\\\\", "\\") == name
    assert dot[-2] == f'    p{len(ODD) - 1} -> p{len(ODD)} [label="control", style=dashed];'


def test_names_have_no_line_breaks_and_pictures_one_line_a_page(bus: mmsb.Bus) -> None:
    with pytest.raises(mmsb.ArgumentError):
        bus.create_page("two\nlines", data=1.0)
    pages(bus, "x")
    bus.map("x +\n    1", "y")
    assert len(bus.graph.to_mermaid().split("\n")) == 4


def test_pictures_tell_what_pages_are(bus: mmsb.Bus) -> None:
    pages(bus, "x")
    bus.map("x * 2 < 1", "y")
    bus.derive("f", ["y"])(total)
    bus.graph.link("x", "f", "compiler")
    assert bus.graph.to_mermaid().split("\n") == [
        "flowchart LR",
        '    p1(["x"])',
        '    p2["y = x * 2 #lt; 1"]',
        '    p3["f = f(...)"]',
        "    p1 --> p2",
        "    p1 -. compiler .-> p3",
        "    p2 --> p3",
    ]
    assert '    p3 [label="f = f(...)", shape=box];' in bus.graph.to_dot()
    assert '    p1 -> p3 [label="compiler", style=dashed];' in bus.graph.to_dot()


def test_repr(mem: mmsb.Bus) -> None:
    assert repr(mem.graph) == "<Graph of 0 derived pages>"
    pages(mem, "xs")
    mem.graph.link("x", "s")
    assert repr(mem.graph) == "<Graph of 0 derived pages>"
    mem.map("x + 1", "y")
    assert repr(mem.graph) == "<Graph of 1 derived page>"
    mem.map("x + 1", "z")
    assert repr(mem.graph) == "<Graph of 2 derived pages>"


# --- size ---------------------------------------------------------------------------------------


def test_a_chain_of_two_thousand(bus: mmsb.Bus) -> None:
    count = 2000
    with bus.transaction() as tx:
        tx.create_page("p0", data=0.0)
        for i in range(count):
            tx.map(f"p{i} + 1", f"p{i + 1}")
    names = [f"p{i}" for i in range(count + 1)]
    assert bus.graph.order() == names and float(bus[f"p{count}"]) == count
    bus["p0"] = 5
    assert float(bus[f"p{count}"]) == count + 5
    plan = bus.graph.plan(["p0"])
    assert [step.page for step in plan] == names[1:]
    assert plan[-1].because == (names[-2],)
    why, length = bus.why(names[-1]), 0
    while why.because:
        (why,) = why.because
        length += 1
    assert (length, why.page) == (count, "p0")
    error = refused(bus, mmsb.GraphCycleError, lambda: bus.graph.link(names[-1], "p0"))
    assert len(error.path) == count + 1 and error.path[0] == (count + 1, 1, "control")
    assert len(bus.graph.to_dot().split("\n")) == 3 + count + 1 + count
    with bus.transaction() as tx:
        for name in reversed(names):
            tx.delete(name)
    assert bus.graph.edges() == []


def test_a_page_of_two_thousand_inputs(mem: mmsb.Bus) -> None:
    with mem.transaction() as tx:
        many = [tx.create_page(f"p{i}", data=float(i)) for i in range(2000)]
        tx.derive("total", many)(total)
    assert float(mem["total"]) == sum(range(2000))
    mem["p7"] = 0
    assert float(mem["total"]) == sum(range(2000)) - 7
    assert len(mem.why("total").because) == 1


def test_threads_that_edit_the_graph(mem: mmsb.Bus) -> None:
    """Each edit is a commit; circles are refused, whoever was first."""
    pages(mem, "abcdefgh")
    names, errors = "abcdefgh", []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            one, two = (names[i] for i in rng.integers(0, 8, 2))
            try:
                if rng.random() < 0.6:
                    mem.graph.link(one, two)
                else:
                    mem.graph.unlink(one, two)
            except (mmsb.GraphCycleError, mmsb.ArgumentError):
                pass
            except mmsb.MMSBError as error:
                errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    place = {name: i for i, name in enumerate(mem.graph.order())}
    assert all(place[src] < place[dst] for src, dst, _ in mem.graph.edges())
