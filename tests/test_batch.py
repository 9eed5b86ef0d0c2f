"""Functions that compute many pages in one call, against the same pages computed one by one."""

from __future__ import annotations

import gc
import weakref
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


class Stacked:
    """A function of stacks that notes of each call the first elements of its first input."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.calls: list[list[float]] = []

    def __call__(self, *args: Array) -> Any:
        self.calls.append([float(row.flat[0]) if row.size else 0.0 for row in args[0]])
        return self.fn(*args)

    def taken(self) -> list[list[float]]:
        """The calls since the last look."""
        calls, self.calls = self.calls, []
        return calls


def double(x: Array, out: Array) -> None:
    out[...] = 2 * x


def picky(x: Array, out: Array) -> None:
    if (x < 0).any():
        raise ValueError("negative")
    out[...] = x + 1


def arms(bus: mmsb.Bus, count: int, function: Callable[..., Any], **how: Any) -> None:
    """Pages x0, x1, .. and y0, y1, .. that follow from them, one each."""
    with bus.transaction() as tx:
        for i in range(count):
            tx.create_page(f"x{i}", data=[float(i), 0.5])
            tx.derive(f"y{i}", [f"x{i}"], 2, batch=True, **how)(function)


def values(bus: mmsb.Bus, count: int) -> list[list[float]]:
    return [bus[f"y{i}"].read().tolist() for i in range(count)]


def test_pages_of_a_level_are_computed_in_one_call(bus: mmsb.Bus) -> None:
    fn = Stacked(double)
    arms(bus, 5, fn)
    assert fn.taken() == [[0, 1, 2, 3, 4]]
    with bus.transaction() as tx:
        for i in (4, 1, 3):
            tx[f"x{i}"] = 10 + i
    assert fn.taken() == [[11, 13, 14]]
    bus["x2"] = 7
    assert fn.taken() == [[7]]
    assert values(bus, 5) == [[0, 1], [22, 22], [14, 14], [26, 26], [28, 28]]


def test_arrays_have_an_axis_in_front(mem: mmsb.Bus) -> None:
    shapes: list[Any] = []

    def fn(a: Array, b: Array, out: Array) -> None:
        shapes.append([(x.shape, x.dtype, x.flags.writeable, x.flags.c_contiguous) for x in (a, b)])
        shapes.append((out.shape, out.dtype, out.flags.writeable, out.any()))
        out[...] = a.sum(axis=(1, 2)) + b

    with mem.transaction() as tx:
        for i in range(3):
            tx.create_page(f"a{i}", shape=(2, 4), dtype="<i2")
            tx.create_page(f"b{i}", data=float(i))
            tx.derive(f"c{i}", [f"a{i}", f"b{i}"], batch=True)(fn)
    a, b = ((3, 2, 4), np.dtype("<i2"), False, True), ((3,), np.dtype("f8"), False, True)
    assert shapes == [[a, b], ((3,), np.dtype("f8"), True, False)]
    assert [float(mem[f"c{i}"]) for i in range(3)] == [0, 1, 2]


def test_only_what_is_alike_is_stacked(mem: mmsb.Bus) -> None:
    fn, other = Stacked(lambda x, out: x + 0), Stacked(lambda x, out: x + 0)
    with mem.transaction() as tx:
        for i, (dtype, shape) in enumerate(
            [("f8", 2), ("f4", 2), ("f8", 3), ("f8", 2), ("f8", (2, 1)), ("f4", 2)]
        ):
            x = tx.create_page(f"x{i}", shape=shape, dtype=dtype)
            tx[x] = i
            tx.derive(f"y{i}", [x], shape, dtype, batch=True)(fn)
        tx.create_page("x6", data=[6.0, 6.0])
        tx.derive("y6", ["x6"], 2, batch=True)(other)
        # The function without stacks is another one.
        tx.derive("alone", ["x6"], 2)(lambda x, out: fn.fn(x, out))
    assert fn.taken() == [[0, 3], [1, 5], [2], [4]]
    assert other.taken() == [[6]]
    assert all((mem[f"y{i}"].read() == i).all() for i in range(7))


def test_levels_are_called_one_behind_the_other(bus: mmsb.Bus) -> None:
    fn = Stacked(double)
    arms(bus, 2, fn)
    with bus.transaction() as tx:
        for i in range(2):
            tx.derive(f"z{i}", [f"y{i}"], 2, batch=True)(fn)
            tx.map(f"sum(z{i})", f"s{i}")
    fn.taken()
    with bus.transaction() as tx:
        tx["x0"], tx["x1"] = 3, 5
    assert fn.taken() == [[3, 5], [6, 10]]
    assert [float(bus[f"s{i}"]) for i in range(2)] == [24, 40]


def test_what_is_not_changed_is_cut_off_row_by_row(mem: mmsb.Bus) -> None:
    arms(mem, 3, lambda x, out: np.abs(x))
    fn = Stacked(double)
    with mem.transaction() as tx:
        for i in range(3):
            tx.derive(f"z{i}", [f"y{i}"], 2, batch=True)(fn)
    fn.taken()
    with mem.transaction(timing=True) as tx:
        tx["x0"], tx["x1"], tx["x2"] = (0, -0.5), 9, (-2, -0.5)
    assert fn.taken() == [[9]]
    report = tx.report()
    ids = [[mem[f"{name}{i}"].id for i in range(3)] for name in "yz"]
    assert report.computed == (ids[0][1], ids[1][1])
    assert report.cut_off == (ids[0][0], ids[0][2])
    assert report.seconds is not None
    assert sorted(report.seconds) == sorted(report.computed + report.cut_off)
    assert all(seconds > 0 for seconds in report.seconds.values())
    assert [c.pages for c in mem.log(since=tx.epoch)] == [
        tuple(sorted([*(mem[f"x{i}"].id for i in range(3)), *report.computed]))
    ]


def test_a_row_that_fails_is_told_and_nothing_is_kept(bus: mmsb.Bus) -> None:
    fn = Stacked(picky)
    arms(bus, 4, fn)
    fn.taken()
    before = bus.epoch, bus.digest()
    with pytest.raises(mmsb.PropagationError) as failed, bus.transaction() as tx:
        for i, value in enumerate([1, 7, -3, -4]):
            tx[f"x{i}"] = value
    # Together, and then one by one as far as to the first that fails.
    assert fn.taken() == [[1, 7, -3, -4], [1], [7], [-3]]
    assert failed.value.page == bus["y2"].id
    assert failed.value.path == [(bus["x2"].id, bus["y2"].id, "data")]
    assert isinstance(failed.value.__cause__, ValueError)
    assert (bus.epoch, bus.digest()) == before


def test_poison_is_of_the_rows_that_fail(bus: mmsb.Bus) -> None:
    fn = Stacked(picky)
    arms(bus, 4, fn, on_error="poison")
    fn.taken()
    with bus.transaction() as tx:
        for i, value in enumerate([1, -7, 3, -4]):
            tx[f"x{i}"] = value
    assert fn.taken() == [[1, -7, 3, -4], [1], [-7], [3], [-4]]
    assert [bus[f"y{i}"].poisoned for i in range(4)] == [False, True, False, True]
    assert values(bus, 4) == [[2, 2], [2, 1.5], [4, 4], [4, 1.5]]
    bus["x1"] = 5
    assert fn.taken() == [[5]]
    assert not bus["y1"].poisoned


def test_an_interrupt_ends_the_commit_at_once(bus: mmsb.Bus) -> None:
    arm = False

    def fn(x: Array, out: Array) -> None:
        if arm:
            raise KeyboardInterrupt
        out[...] = x

    stacked = Stacked(fn)
    arms(bus, 3, stacked, on_error="poison")
    stacked.taken()
    before, arm = (bus.epoch, bus.digest()), True
    with pytest.raises(KeyboardInterrupt), bus.transaction() as tx:
        tx["x0"], tx["x1"] = 5, 6
    assert stacked.taken() == [[5, 6]]
    assert (bus.epoch, bus.digest()) == before
    arm = False
    bus["x1"] = 6
    assert values(bus, 2) == [[0, 0.5], [6, 6]]


def test_a_commit_inside_a_stack_is_refused(mem: mmsb.Bus) -> None:
    seen: list[type] = []

    def fn(x: Array, out: Array) -> None:
        try:
            mem.create_page(size=1)
        except mmsb.ReentrancyError as error:
            seen.append(type(error))
        out[...] = x

    arms(mem, 2, fn)
    assert seen == [mmsb.ReentrancyError]
    assert values(mem, 2) == [[0, 0.5], [1, 0.5]]


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 2), "f4"), np.zeros(2), np.zeros((3, 2)), np.zeros((2, 2, 1)), "text", [1, 2]],
)
def test_a_result_of_another_shape_or_dtype_is_refused(mem: mmsb.Bus, wrong: Any) -> None:
    with pytest.raises(mmsb.PropagationError, match=r"page \d+ \"y0\""):
        arms(mem, 2, lambda x, out: wrong)
    assert mem.epoch == 0


def test_a_result_may_be_returned(mem: mmsb.Bus) -> None:
    arms(mem, 3, lambda x, out: np.asfortranarray(x[:, ::-1]))
    assert values(mem, 3) == [[0.5, 0], [0.5, 1], [0.5, 2]]


def test_kept_arrays_keep_their_values(mem: mmsb.Bus) -> None:
    kept: list[tuple[Array, bytes]] = []

    def fn(x: Array, out: Array) -> None:
        out[...] = x + 1
        kept.extend((array, array.tobytes()) for array in (x, out, x[1:], out[0]))

    arms(mem, 3, fn)
    for value in range(4):
        with mem.transaction() as tx:
            for i in range(3):
                tx[f"x{i}"] = 10 * value + i
    assert len(kept) == 20
    assert all(array.tobytes() == was for array, was in kept)


def test_arrays_are_used_again_where_nobody_keeps_them(mem: mmsb.Bus) -> None:
    places: set[tuple[int, int]] = set()

    def fn(x: Array, out: Array) -> None:
        places.add((x.ctypes.data, out.ctypes.data))
        out[...] = x

    arms(mem, 3, fn)
    for value in range(5):
        with mem.transaction() as tx:
            for i in range(3):
                tx[f"x{i}"] = value
    assert len(places) == 1


def test_other_inputs_with_other_types_get_arrays_of_their_own(mem: mmsb.Bus) -> None:
    fn = Stacked(lambda x, out: x.astype("f8"))
    with mem.transaction() as tx:
        for i, dtype in enumerate(["f8", "f8", "i8", "i8"]):
            x = tx.create_page(f"x{i}", shape=2, dtype=dtype)
            tx[x] = i + 1
        for i in range(2):
            tx.derive(f"y{i}", [f"x{i}"], 2, batch=True)(fn)
    with mem.transaction() as tx:
        for i in range(2):
            tx.derive(f"y{i}", [f"x{i + 2}"], 2, batch=True)(fn)
    assert fn.taken() == [[1, 2], [3, 4]]
    assert values(mem, 2) == [[3, 3], [4, 4]]


def test_pages_without_elements(mem: mmsb.Bus) -> None:
    fn = Stacked(lambda x, out: None)
    with mem.transaction() as tx:
        for i in range(3):
            tx.create_page(f"x{i}", shape=(0, 3))
            tx.derive(f"y{i}", [f"x{i}"], (0,), batch=True)(fn)
    assert fn.taken() == [[0, 0, 0]]


def test_deferred_pages_settle_in_one_call(bus: mmsb.Bus) -> None:
    fn = Stacked(double)
    arms(bus, 3, fn, deferred=True)
    assert fn.taken() == []
    assert all(bus[f"y{i}"].stale for i in range(3))
    bus.settle()
    assert fn.taken() == [[0, 1, 2]]
    assert values(bus, 3) == [[0, 1], [2, 1], [4, 1]]


def test_registering_after_opening_computes_nothing(store: Path) -> None:
    fn = Stacked(double)
    with mmsb.create(store) as bus:
        arms(bus, 3, fn)
    fn.taken()
    with mmsb.open(store, mode="r+") as bus:
        assert bus.graph.unbound == ["y0", "y1", "y2"]
        epoch = bus.epoch
        for i in range(3):
            bus.derive(f"y{i}", [f"x{i}"], 2, batch=True)(fn)
        assert (bus.epoch, fn.taken(), bus.graph.unbound) == (epoch, [], [])
        # Whether pages are stacked belongs to the function and is no part of the state.
        bus.derive("y0", ["x0"], 2)(lambda x, out: 2 * x)
        assert bus.epoch == epoch
        with bus.transaction() as tx:
            for i in range(3):
                tx[f"x{i}"] = 4 + i
        assert fn.taken() == [[5, 6]]
        assert values(bus, 3) == [[8, 8], [10, 10], [12, 12]]


def test_a_fork_has_stacks_of_its_own(bus: mmsb.Bus) -> None:
    fn = Stacked(double)
    arms(bus, 2, fn)
    fn.taken()
    with bus.fork() as fork:
        for one in (fork, bus):
            with one.transaction() as tx:
                tx["x0"], tx["x1"] = 3, 4
            assert fn.taken() == [[3, 4]]
            assert values(one, 2) == [[6, 6], [8, 8]]
        assert fork.digest() == bus.digest()


def test_the_function_goes_with_the_bus() -> None:
    def fn(x: Array, out: Array) -> None:
        out[...] = x

    bus = mmsb.Bus()
    arms(bus, 3, fn)
    gone = weakref.ref(fn)
    del fn
    bus.close()
    del bus
    gc.collect()
    assert gone() is None


GRAPHS = st.lists(
    st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=2, unique=True), st.booleans()),
    min_size=1,
    max_size=10,
)
ROUNDS = st.lists(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 9)), min_size=1), max_size=5
)


@given(graph=GRAPHS, rounds=ROUNDS, poison=st.booleans())
def test_together_is_as_one_by_one(graph: list[Any], rounds: list[Any], poison: bool) -> None:
    """With and without stacks each commit gives the same digest, or fails alike."""

    def alone(*args: Array) -> None:
        *inputs, out = args
        if inputs[0][0] < -2:
            raise ValueError("too little")
        out[...] = sum(np.minimum(x, 3) for x in inputs)

    def together(*args: Array) -> None:
        for rows in zip(*args, strict=True):
            alone(*rows)

    buses = [mmsb.Bus(), mmsb.Bus()]
    outcomes: list[list[Any]] = [[], []]
    for bus, seen, stacks in zip(buses, outcomes, (False, True), strict=True):
        names = ["x0", "x1", "x2"]
        for name in names:
            bus.create_page(name, shape=2, dtype="i8")
        for i, (inputs, some) in enumerate(graph):
            srcs = [names[-1 - n % len(names)] for n in inputs]
            batch = stacks and some
            bus.derive(
                f"y{i}", sorted(set(srcs)), 2, "i8",
                batch=batch, on_error="poison" if poison else "abort",
            )(together if batch else alone)  # fmt: skip
            names.append(f"y{i}")
        for writes in rounds:
            try:
                with bus.transaction() as tx:
                    for source, value in writes:
                        tx[f"x{source}"] = value
                    tx.tag("again", move=True)
            except mmsb.PropagationError as error:
                seen.append((error.page, error.path))
            else:
                seen.append((tx.report(), bus.digest()))
    assert outcomes[0] == outcomes[1]
    for bus in buses:
        bus.close()
