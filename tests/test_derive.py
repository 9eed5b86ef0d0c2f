"""Derived pages: functions that compute pages from others, inside the commit that changes those."""

from __future__ import annotations

import functools
import gc
import operator
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]
Log = list[str]

RECORD = np.dtype([("id", "<i4"), ("at", "<f8", (2,)), ("name", "S3")])


class Counting:
    """Functions that say when they run."""

    def __init__(self) -> None:
        self.runs: Log = []

    def of(self, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Array) -> Any:
            self.runs.append(name)
            return fn(*args)

        return counted

    def taken(self) -> Log:
        """The runs since the last look."""
        runs, self.runs = self.runs, []
        return runs


@pytest.fixture
def counting() -> Counting:
    return Counting()


def total(*args: Array) -> None:
    """The sum of all elements of all inputs."""
    *inputs, out = args
    out[...] = sum(float(x.sum()) for x in inputs)


def picky(x: Array, out: Array) -> None:
    """The sum, but of nothing negative."""
    if x.min() < 0:
        out[...] = 77
        raise ValueError("negative")
    out[...] = x.sum()


def state(bus: mmsb.Bus) -> tuple[Any, ...]:
    """All that a commit could have changed."""
    with bus.snapshot() as snap:
        pages = [(p.id, p.name, p.epoch, snap[p.id].tobytes()) for p in snap.pages]
    return bus.epoch, bus.digest(), pages, bus.graph.edges(), len(list(bus.log())), dict(bus.tags)


def diamond(bus: mmsb.Bus, counting: Counting) -> None:
    """b and c follow from a, and d from both."""
    bus.create_page("a", data=1.0)
    bus.derive("b", ["a"])(counting.of("b", lambda a, out: a + 1))
    bus.derive("c", ["a"])(counting.of("c", lambda a, out: a * 10))
    bus.derive("d", ["b", "c"])(counting.of("d", lambda b, c, out: b + c))


# --- when functions run -------------------------------------------------------------------------


def test_each_page_of_a_diamond_is_computed_once_and_behind_its_inputs(
    bus: mmsb.Bus, counting: Counting
) -> None:
    diamond(bus, counting)
    assert counting.taken() == ["b", "c", "d"]
    bus["a"] = 2
    assert counting.taken() == ["b", "c", "d"]
    assert [float(bus[name]) for name in "abcd"] == [2, 3, 20, 23]
    assert bus.epoch == 5


def test_no_reader_sees_an_input_without_what_follows(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=0.0)
    bus.map("x + 1", "y")
    bus.derive("z", ["x", "y"])(lambda x, y, out: x + y)
    wrong, stop = [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            with bus.snapshot() as snap:
                x, y, z = float(snap["x"]), float(snap["y"]), float(snap["z"])
            if (y, z) != (x + 1, 2 * x + 1):
                wrong.append((x, y, z))

    thread = threading.Thread(target=look)
    thread.start()
    for i in range(300):
        bus["x"] = i
    stop.set()
    thread.join()
    assert not wrong
    for epoch in range(3, bus.epoch + 1):
        with bus.snapshot(epoch) as snap:
            assert float(snap["z"]) == 2 * float(snap["x"]) + 1


def test_what_does_not_change_stops_the_wave(mem: mmsb.Bus, counting: Counting) -> None:
    mem.create_page("x", data=[3.0, 4.0])
    mem.derive("sign", ["x"], dtype="?")(counting.of("sign", lambda x, out: (x > 0).all()))
    mem.derive("text", ["sign"], dtype="S3")(
        counting.of("text", lambda sign, out: out.fill(b"yes" if sign else b"no"))
    )
    counting.taken()
    before = mem["sign"].epoch, mem["text"].epoch
    mem["x"] = [5, 6]
    assert counting.taken() == ["sign"]
    assert (mem["sign"].epoch, mem["text"].epoch) == before
    (commit,) = mem.log(since=mem.epoch)
    assert [delta.page for delta in commit.deltas] == [1]
    mem["x"] = [5, -6]
    assert counting.taken() == ["sign", "text"]
    assert mem["text"][()] == b"no"


def test_a_write_of_equal_bytes_computes_nothing(mem: mmsb.Bus, counting: Counting) -> None:
    mem.create_page("x", data=[1.0, 2.0])
    mem.derive("y", ["x"])(counting.of("y", total))
    counting.taken()
    mem["x"] = [1, 2]
    with mem.transaction(meta={"step": 1}) as tx:
        tx.write("x", [1, 2])
    mem["x"].set_meta({"a": 1})
    mem["x"].rename("other name")
    assert counting.taken() == []
    mem["other name"] = [1, 3]
    assert counting.taken() == ["y"]


def test_two_inputs_in_one_commit_are_one_wave(mem: mmsb.Bus, counting: Counting) -> None:
    """U6: two parents of four bytes; the child has run once."""
    a, b = mem.create_page("a", data=bytes(4)), mem.create_page("b", data=bytes(4))
    mem.derive("sum", ["a", "b"], 4, "u1")(counting.of("sum", lambda a, b, out: a + b))
    counting.taken()
    with mem.transaction() as tx:
        tx["a"] = 1
        tx["b"] = 2
    assert bytes(mem["sum"]) == b"\3\3\3\3" and counting.taken() == ["sum"]
    rows = np.full((2, 4), 5, np.uint8)
    mem.write_many([a.id, b.id], [0, 0], rows)
    assert bytes(mem["sum"]) == b"\n\n\n\n" and counting.taken() == ["sum"]


def test_a_change_of_a_few_elements_is_all_that_is_logged(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=np.zeros(1000))
    mem.derive("y", ["x"], 1000)(lambda x, out: np.multiply(x, 2, out=out))
    mem["x"][500] = 3
    (commit,) = mem.log(since=mem.epoch)
    assert [(d.page, list(d.ranges)) for d in commit.deltas] == [
        (1, [(4000, 4008)]),
        (2, [(4000, 4008)]),
    ]


def test_a_page_is_derived_and_its_inputs_written_in_one_commit(bus: mmsb.Bus) -> None:
    with bus.transaction() as tx:
        tx.create_page("x", data=[1.0, 2.0])
        tx.derive("y", ["x"])(total)
        tx.map("y * 2", "z")
        tx["x"] += 1
        assert tx.read("y") == 0  # computed when it commits
    assert (bus.epoch, float(bus["y"]), float(bus["z"])) == (1, 5, 10)


# --- kinds of pages -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("f8", ()),
        ("<M8[ns]", (3,)),
        ("<m8[D]", (2, 2)),
        (">i2", (5,)),
        ("c16", (2,)),
        ("?", (7,)),
        ("U2", (3,)),
        (RECORD, (4,)),
        ("f4", (0,)),
        ("f4", (0, 3)),
        ("u1", (16_384,)),
        ("u1", (16_385,)),
        ("f8", (50, 7, 3)),
        ("f8", (200_000,)),  # 1.6 MB, a hundred blocks
    ],
)
@pytest.mark.parametrize("returns", [False, True], ids=["fills", "returns"])
def test_pages_of_any_dtype_and_shape(
    mem: mmsb.Bus, dtype: Any, shape: tuple[int, ...], returns: bool
) -> None:
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize

    def content(seed: int) -> Array:
        data = np.random.default_rng(seed).integers(0, 2 if dtype == "?" else 100, count, np.uint8)
        if dtype.kind == "U":
            data = np.full(count // 4, 65 + seed, "<u4").view(np.uint8)
        return np.ndarray(shape, dtype, buffer=data.tobytes() or bytes(1))

    mem.create_page("x", shape=shape, dtype=dtype, data=content(1))
    seen = []

    def same(x: Array, out: Array) -> Array | None:
        seen.append((x.shape, x.dtype, x.tobytes(), out.shape, out.dtype, out.tobytes()))
        if returns:
            return x
        out[...] = x
        return None

    mem.derive("y", ["x"], shape, dtype)(same)
    for seed in (2, 3):
        mem["x"].write(content(seed))
    if count:
        assert [s[:2] for s in seen] == [(shape, dtype)] * 3
        assert [s[2] for s in seen] == [content(seed).tobytes() for seed in (1, 2, 3)]
    assert all(s[3:] == (shape, dtype, bytes(count)) for s in seen)
    y = mem["y"].read()
    assert (y.shape, y.dtype, y.tobytes()) == (shape, dtype, content(3 if count else 1).tobytes())


def test_one_element_of_a_large_page_reaches_the_function(mem: mmsb.Bus) -> None:
    """Scattered blocks are gathered; what was written last is there."""
    want = np.zeros(300_000)
    mem.create_page("x", data=want)
    mem.derive("y", ["x"], 300_000)(lambda x, out: np.negative(x, out=out))
    for at in (0, 299_999, 2048, 150_000):
        mem["x"][at] = at + 1
        want[at] = at + 1
        assert mem["y"].read().tobytes() == np.negative(want).tobytes()


def test_raw_pages_are_arrays_of_bytes(mem: mmsb.Bus) -> None:
    mem.create_page("raw", data=b"abc")
    mem.derive("upper", ["raw"], 3, "u1")(lambda raw, out: raw - 32)
    assert bytes(mem["upper"]) == b"ABC"


def test_the_length_of_an_input_may_change(mem: mmsb.Bus) -> None:
    mem.create_page("rows", shape=(0, 2))
    mem.derive("count", ["rows"], dtype="i8")(lambda rows, out: out.fill(len(rows)))
    for rows in (1, 3, 2):
        mem["rows"].append(np.ones((rows, 2)))
    assert int(mem["count"]) == 6
    mem["rows"].resize((2, 2))
    assert int(mem["count"]) == 2
    mem["rows"].write(np.zeros((5, 2)), resize=True)
    assert int(mem["count"]) == 5


def test_inputs_come_in_the_order_in_which_they_were_named(mem: mmsb.Bus) -> None:
    for name, value in (("a", 1.0), ("b", 10.0), ("c", 100.0)):
        mem.create_page(name, data=value)
    pages = ["c", mem["a"], mem["b"].id]
    mem.derive("y", iter(pages), 3)(lambda *args: args[:3])  # type: ignore[arg-type]
    assert mem["y"].read().tolist() == [100, 1, 10]
    mem["b"] = 20
    assert mem["y"].read().tolist() == [100, 1, 20]


@pytest.mark.parametrize(
    "function",
    [
        functools.partial(np.add, 1.0),
        np.negative,
        operator.neg,
        type("Callable", (), {"__call__": lambda self, x, out: x})(),
    ],
    ids=["partial", "ufunc", "builtin", "object"],
)
def test_any_callable_is_a_function(mem: mmsb.Bus, function: Callable[..., Any]) -> None:
    mem.create_page("x", data=[1.0, 2.0])
    if function is operator.neg:
        with pytest.raises(mmsb.PropagationError, match="TypeError"):
            mem.derive("y", ["x"], 2)(function)
        return
    assert mem.derive("y", ["x"], 2)(function) is function
    mem["x"] = [3, 4]
    want = np.empty(2)
    result = function(np.array([3.0, 4.0]), want)
    assert mem["y"].read().tolist() == np.asarray(want if result is None else result).tolist()


# --- the arrays of a function -------------------------------------------------------------------


def test_the_result_begins_as_zeros_and_inputs_are_read_only(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0, 2.0])
    seen = []

    def fill(x: Array, out: Array) -> None:
        seen.append(out.tolist())
        for wrong in (lambda: x.fill(0), lambda: operator.setitem(x, 0, 5), lambda: np.sin(x, x)):
            with pytest.raises(ValueError, match="read-only"):
                wrong()
        with pytest.raises(ValueError, match="WRITEABLE"):
            x.setflags(write=True)
        assert out.flags.writeable and out.flags.c_contiguous and x.flags.aligned
        out[...] = 9

    mem.derive("y", ["x"], 2)(fill)
    mem["x"] = 3
    mem["x"] = 4
    assert seen == [[0, 0]] * 3
    assert mem["y"].read().tolist() == [9, 9]


def test_a_function_that_does_nothing_gives_zeros(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0, 2.0])
    mem.derive("y", ["x"], 2)(lambda x, out: out if x[0] > 5 else None)
    mem.derive("z", ["x"], 2)(lambda x, out: out.fill(x[0]) if x[0] > 5 else None)
    mem["x"] = 6
    assert (mem["y"].read().tolist(), mem["z"].read().tolist()) == ([0, 0], [6, 6])
    mem["x"] = 1
    assert (mem["y"].read().tolist(), mem["z"].read().tolist()) == ([0, 0], [0, 0])


@pytest.mark.parametrize("keep", [lambda a: a, lambda a: a[1:], lambda a: a[::-1], memoryview])
def test_kept_arrays_keep_their_values(mem: mmsb.Bus, keep: Callable[[Array], Any]) -> None:
    mem.create_page("x", data=np.arange(4.0))
    kept: list[tuple[Any, bytes]] = []

    def function(x: Array, out: Array) -> None:
        out[...] = x + 1
        kept.extend((array, bytes(array.tobytes())) for array in (keep(x), keep(out)))
        if x[0] > 90:
            raise ValueError("too large")

    mem.derive("y", ["x"], 4)(function)
    for value in (1, 91, 92, 2, 93, 3):
        if value > 90:
            with pytest.raises(mmsb.PropagationError):
                mem["x"] = value
        else:
            mem["x"] = value
    assert len(kept) == 14
    assert all(array.tobytes() == then for array, then in kept)


def test_writing_to_a_kept_result_changes_no_page(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0, 2.0])
    kept: list[Array] = []
    mem.derive("y", ["x"], 2)(lambda x, out: kept.append(out) or np.add(x, 1, out=out))
    mem.derive("z", ["y"], 2)(lambda y, out: np.add(y, 1, out=out))
    mem["x"] = [5, 6]
    digest = mem.digest()
    for array in kept:
        array[...] = 99
    assert mem["y"].read().tolist() == [6, 7] and mem.digest() == digest
    mem["x"] = [7, 8]
    assert mem["z"].read().tolist() == [9, 10]


def test_a_returned_array_is_copied(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0, 2.0])
    one = np.zeros(2)

    def function(x: Array, out: Array) -> Array:
        one[...] = x + 1
        return one

    mem.derive("y", ["x"], 2)(function)
    one[...] = 99
    assert mem["y"].read().tolist() == [2, 3]


@pytest.mark.parametrize(
    "give",
    [
        lambda x, out: x[::-1],
        lambda x, out: np.asfortranarray(np.stack([x, x]))[0][::-1],
        lambda x, out: out.fill(7) or (out + x - 7)[::-1].copy(),
        lambda x, out: np.ma.masked_array(x[::-1]),
    ],
)
def test_results_need_not_be_contiguous(mem: mmsb.Bus, give: Callable[..., Any]) -> None:
    mem.create_page("x", data=[1.0, 2.0, 3.0])
    mem.derive("y", ["x"], 3)(give)
    assert mem["y"].read().tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(3),
        np.zeros((1, 2)),
        np.zeros(2, "f4"),
        np.zeros(2, ">f8"),
        np.zeros(2, "i8"),
        np.float64(3),
        [1, 2],
        "text",
        True,
        ...,
        {},
    ],
    ids=repr,
)
def test_what_the_page_cannot_take_is_refused(bus: mmsb.Bus, wrong: Any) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    bus.derive("y", ["x"], 2)(lambda x, out: wrong if x[0] == 5 else x)
    before = state(bus)
    with pytest.raises(mmsb.PropagationError, match=r"the function returned .* float64") as error:
        bus["x"] = 5
    assert isinstance(error.value.__cause__, mmsb.ArgumentError)
    assert state(bus) == before
    bus["x"] = 6
    assert bus["y"].read().tolist() == [6, 6]


def test_lists_and_numbers_of_the_right_type_are_taken(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0, 2.0])
    mem.derive("a", ["x"], 2)(lambda x, out: x.tolist())
    mem.derive("b", ["x"])(lambda x, out: float(x[0]))
    mem.derive("c", ["x"], dtype="i8")(lambda x, out: 7)
    assert [mem[name].read().tolist() for name in "abc"] == [[1, 2], 1, 7]


# --- functions that raise -----------------------------------------------------------------------


def test_a_function_that_raises_leaves_nothing_of_the_commit(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    bus.create_page("other", size=3)
    bus.map("x * 2", "twice")
    bus.derive("y", ["twice"])(picky)
    before = state(bus)
    for _ in range(2):
        with pytest.raises(mmsb.PropagationError) as caught, bus.transaction() as tx:
            tx["other"] = 9
            tx["x"] = -1
            tx.create_page("new", size=5)
            tx.tag("never")
        error = caught.value
        assert (tx.epoch, tx.changed) == (None, False)
        assert error.code == "propagation" and error.page == bus["y"].id
        assert error.path == [(1, 3, "data"), (3, 4, "data")]
        assert type(error.__cause__) is ValueError and str(error.__cause__) == "negative"
        assert error.__cause__.__traceback__ is not None
        for part in ('page 4 "y"', "negative", 'page 1 "x" -> page 3 "twice"', "nothing was"):
            assert part in str(error)
        assert state(bus) == before
    bus["x"] = [3, 4]
    assert float(bus["y"]) == 14 and bus.epoch == before[0] + 1


@pytest.mark.parametrize("make", ["derive", "tx.derive"])
def test_a_page_whose_first_computation_fails_is_not_made(bus: mmsb.Bus, make: str) -> None:
    bus.create_page("x", data=[-1.0])
    before = state(bus)
    with pytest.raises(mmsb.PropagationError) as error:
        if make == "derive":
            bus.derive("y", ["x"])(picky)
        else:
            with bus.transaction() as tx:
                tx.derive("y", ["x"])(picky)
    assert error.value.path == [] and isinstance(error.value.__cause__, ValueError)
    assert state(bus) == before and "y" not in bus and bus.graph.unbound == []
    bus["x"] = 1
    bus.derive("y", ["x"])(picky)
    assert bus["y"].id == 2


def test_of_several_failures_the_first_in_order_is_told(mem: mmsb.Bus, counting: Counting) -> None:
    mem.create_page("x", data=[1.0])
    # "late" has the lowest id and the highest level.
    mem.derive("late", ["x"])(total)
    for name in ("c", "a", "b"):
        mem.derive(name, ["x"])(counting.of(name, picky))
    mem.derive("late", ["x", "c"])(lambda x, c, out: picky(x, out))
    for _ in range(3):
        counting.taken()
        with pytest.raises(mmsb.PropagationError) as error:
            mem["x"] = -1
        assert error.value.page == mem["c"].id
        assert counting.taken() == ["c"]


def test_the_path_names_the_first_input_that_changed(mem: mmsb.Bus) -> None:
    for name in "abc":
        mem.create_page(name, data=1.0)
    mem.map("b + 0", "m")
    mem.derive("y", ["a", "m", "c"])(lambda a, m, c, out: picky(np.atleast_1d(a + m + c), out))
    with pytest.raises(mmsb.PropagationError) as error:
        mem.write_many([2, 3], [0, 0], np.array([[-9.0], [-9.0]]).view(np.uint8))
    assert error.value.path == [(2, 4, "data"), (4, 5, "data")]


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("on_error", ["abort", "poison"])
def test_what_is_no_exception_comes_out_as_it_is(
    bus: mmsb.Bus, raised: type[BaseException], on_error: str
) -> None:
    bus.create_page("x", data=1.0)

    def function(x: Array, out: Array) -> None:
        if x == 5:
            raise raised("stop")
        out[...] = x

    bus.derive("y", ["x"], on_error=on_error)(function)
    before = state(bus)
    with pytest.raises(raised, match="stop") as error:
        bus["x"] = 5
    assert type(error.value) is raised
    assert state(bus) == before and not bus["y"].poisoned
    bus["x"] = 6
    assert float(bus["y"]) == 6


def test_ctrl_c_inside_a_function_aborts_the_commit(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=1.0)

    def function(x: Array, out: Array) -> None:
        if x == 5:
            signal.raise_signal(signal.SIGINT)
        out[...] = x

    bus.derive("y", ["x"])(function)
    before = state(bus)
    with pytest.raises(KeyboardInterrupt):
        bus["x"] = 5
    assert state(bus) == before
    bus["x"] = 6
    assert float(bus["y"]) == 6


def test_an_exception_without_words_is_told_too(mem: mmsb.Bus) -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    mem.create_page("x", data=1.0)

    def function(x: Array, out: Array) -> None:
        raise Silent

    with pytest.raises(mmsb.PropagationError) as error:
        mem.derive("y", ["x"])(function)
    assert isinstance(error.value.__cause__, Silent)


def test_an_error_of_the_bus_inside_a_function_is_a_failure_of_it(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=1.0)
    with pytest.raises(mmsb.PropagationError, match="no page named 'nope'") as error:
        mem.derive("y", ["x"])(lambda x, out: mem["nope"].read())
    assert isinstance(error.value.__cause__, mmsb.PageNotFoundError)


def test_an_uncaught_failure_can_be_pickled_and_keeps_its_details(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])
    mem.derive("y", ["x"])(picky)
    with pytest.raises(mmsb.PropagationError) as error:
        mem["x"] = -1
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.page, again.path, str(again)) == (2, [(1, 2, "data")], str(error.value))


# --- poison -------------------------------------------------------------------------------------


def test_poison_keeps_the_bytes_and_marks_what_follows(bus: mmsb.Bus, counting: Counting) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    bus.create_page("z", data=1.0)
    bus.derive("y", ["x"], on_error="poison")(picky)
    bus.map("y + z", "behind")
    bus.derive("last", ["behind"])(counting.of("last", total))
    bus.derive("apart", ["x"])(total)
    counting.taken()
    bus["x"] = -5
    assert float(bus["x"][0]) == -5 and float(bus["apart"]) == -10
    assert [float(bus[name]) for name in ("y", "behind", "last")] == [3, 4, 4]
    marks = {p.name: (p.poisoned, p.stale) for p in bus.pages}
    assert marks == {
        "x": (False, False), "z": (False, False), "y": (True, False), "behind": (True, False),
        "last": (True, False), "apart": (False, False),
    }  # fmt: skip
    bus["z"] = 100  # an input that is fine does not help
    assert float(bus["behind"]) == 4 and bus["behind"].poisoned
    assert counting.taken() == []
    bus["x"] = [2, 3]
    assert not any(p.poisoned or p.stale for p in bus.pages)
    assert [float(bus[name]) for name in ("y", "behind", "last")] == [5, 105, 105]


def test_poison_goes_even_where_bytes_are_as_before(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])
    mem.derive("y", ["x"], on_error="poison")(picky)
    mem.map("y * 2", "behind")
    mem["x"] = -1
    assert mem["behind"].poisoned
    digest = mem.digest(3)
    mem["x"] = 1
    assert not mem["y"].poisoned and not mem["behind"].poisoned
    assert mem.digest() == digest != mem.digest(4)


def test_settling_tries_poisoned_pages_again(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[-1.0])
    strict = [True]

    def function(x: Array, out: Array) -> None:
        if strict[0]:
            raise ValueError("not yet")
        out[...] = x.sum()

    mem.derive("y", ["x"], on_error="poison")(function)
    mem.map("y * 2", "behind")
    assert mem["y"].poisoned and mem["behind"].poisoned
    before = mem.epoch
    assert mem.settle() == before and mem["y"].poisoned
    strict[0] = False
    assert mem.settle() == before + 1
    assert (float(mem["y"]), float(mem["behind"])) == (-1, -2)
    assert not mem["y"].poisoned and not mem["behind"].poisoned


def test_a_page_behind_poison_is_not_run_and_fails_nothing(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])
    mem.derive("y", ["x"], on_error="poison")(picky)
    mem.derive("strict", ["x", "y"])(lambda x, y, out: picky(x, out))
    mem["x"] = -1  # "strict" would raise too, but is behind poison
    assert mem["strict"].poisoned and float(mem["strict"]) == 1


def test_marks_are_part_of_the_state(store: Path) -> None:
    with mmsb.create(store) as bus:
        bus.create_page("x", data=[1.0])
        bus.derive("y", ["x"], on_error="poison")(picky)
        bus.map("x * 2", "z", deferred=True)
        bus["x"] = -1
        assert bus["y"].epoch == bus["x"].epoch == bus.epoch
        digest = bus.digest()
    with mmsb.open(store) as reader:
        assert reader["y"].poisoned and reader["z"].stale and not reader["x"].stale
        assert reader.digest() == digest
        assert reader.graph.edges() == [("x", "y", "data"), ("x", "z", "data")]
    with mmsb.open(store, mode="r+") as bus:
        assert bus["y"].poisoned and bus["z"].stale
        bus.checkpoint()
        bus["z"].set_meta({"n": 1})
    with mmsb.open(store, mode="r+") as bus:
        assert bus["y"].poisoned and bus["z"].stale
        assert bus.recovery is not None and bus.recovery.checkpoint_epoch is not None


# --- deferred pages -----------------------------------------------------------------------------


def test_a_deferred_page_waits_for_settle(bus: mmsb.Bus, counting: Counting) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    bus.derive("y", ["x"], deferred=True)(counting.of("y", total))
    bus.derive("z", ["y"])(counting.of("z", total))
    assert counting.taken() == ["z"] and bus["y"].stale and not bus["z"].stale
    bus["x"] = 5
    bus["x"] = 6
    assert counting.taken() == [] and bus["y"].stale
    assert float(bus["y"]) == 0
    epoch = bus.epoch
    assert bus.settle(source="me", meta={"n": 1}) == epoch + 1
    assert counting.taken() == ["y", "z"]
    assert (float(bus["y"]), float(bus["z"]), bus["y"].stale) == (12, 12, False)
    (commit,) = bus.log(since=epoch + 1)
    assert (commit.source, commit.meta, [d.page for d in commit.deltas]) == ("me", {"n": 1}, [2, 3])
    assert bus.settle() == epoch + 1, "there was nothing to do"
    with bus.snapshot(epoch) as snap:
        assert float(snap["y"]) == 0


def test_a_page_stays_stale_until_settled_though_its_input_is_as_before(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=1.0)
    mem.derive("y", ["x"], deferred=True)(total)
    mem.settle()
    digest = mem.digest()
    mem["x"] = 2
    mem["x"] = 1
    assert mem["y"].stale and mem.digest() != digest
    mem.settle()
    assert not mem["y"].stale and mem.digest() == digest


def test_a_failing_settle_changes_nothing(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[-1.0])
    bus.derive("a", ["x"], deferred=True)(total)
    bus.derive("y", ["x"], deferred=True)(picky)
    before = state(bus)
    with pytest.raises(mmsb.PropagationError, match="negative"):
        bus.settle()
    assert state(bus) == before and bus["a"].stale and bus["y"].stale
    bus["x"] = 3
    bus.settle()
    assert float(bus["y"]) == 3 and not bus["a"].stale


def test_a_chain_of_deferred_pages_settles_in_one_wave(mem: mmsb.Bus, counting: Counting) -> None:
    mem.create_page("x", data=1.0)
    for i in range(20):
        mem.derive(f"y{i}", [f"y{i - 1}" if i else "x"], deferred=True)(
            counting.of(f"y{i}", lambda x, out: x + 1)
        )
    mem["x"] = 100
    assert counting.taken() == []
    mem.settle()
    assert counting.taken() == [f"y{i}" for i in range(20)]
    assert float(mem["y19"]) == 120 and not any(p.stale for p in mem.pages)


# --- functions and the bus ----------------------------------------------------------------------


def commits(bus: mmsb.Bus, other: mmsb.Bus, fsecond: Path) -> dict[str, Callable[[], Any]]:
    """Calls that wait for a commit, or make one."""
    return {
        "assign": lambda: bus.__setitem__("x", 3),
        "write": lambda: bus["x"].write(3),
        "append": lambda: bus["x"].append([1.0]),
        "create_page": lambda: bus.create_page("never", size=1),
        "delete": lambda: bus["free"].delete(),
        "transaction": lambda: bus.run(lambda tx: tx.write("x", 1)),
        "write_many": lambda: bus.write_many([1], [0], np.ones((1, 1), np.uint8)),
        "derive": lambda: bus.derive("never", ["x"])(total),
        "map": lambda: bus.map("x + 1", "never"),
        "link": lambda: bus.graph.link("x", "free"),
        "settle": bus.settle,
        "sync": bus.sync,
        "stats": bus.stats,
        "close": bus.close,
        "checkpoint": bus.checkpoint,
        "backup": lambda: bus.backup(fsecond / "copy"),
        "verify": bus.verify,
        "restore": lambda: bus.restore(1),
        "tag": lambda: bus.tag("never"),
        "retain": lambda: bus.retain(epochs=2),
        "cost": lambda: bus.cost(1),
        "another bus": lambda: other["x"].write(9),
        "a new bus": lambda: mmsb.Bus().create_page("x", size=1),
    }


NAMES_OF_COMMITS = sorted(commits(mmsb.Bus(), mmsb.Bus(), Path()))


@pytest.mark.parametrize("name", NAMES_OF_COMMITS)
def test_a_function_that_would_wait_for_its_own_commit_is_told_so(
    bus: mmsb.Bus, tmp_path: Path, name: str
) -> None:
    bus.create_page("x", data=[1.0])
    bus.create_page("free", size=1)
    with mmsb.Bus() as other:
        other.create_page("x", data=[1.0])
        call = commits(bus, other, tmp_path)[name]
        bus.derive("y", ["x"])(lambda x, out: call() if x == 5 else total(x, out))
        before = state(bus), state(other)
        with pytest.raises(mmsb.PropagationError, match="may only read the bus") as error:
            bus["x"] = 5
        assert isinstance(error.value.__cause__, mmsb.ReentrancyError)
        assert error.value.__cause__.code == "reentrancy"
        assert (state(bus), state(other)) == before and not bus.closed
        bus["x"] = 6
        assert float(bus["y"]) == 6
        other["x"] = 7


def test_a_function_may_catch_it_and_go_on(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])

    def function(x: Array, out: Array) -> None:
        with pytest.raises(mmsb.ReentrancyError):
            mem["x"] = 9
        out[...] = x.sum()

    mem.derive("y", ["x"])(function)
    mem["x"] = 4
    assert (float(mem["x"][0]), float(mem["y"])) == (4, 4)


def test_reads_inside_a_function_show_the_epoch_before(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    seen = []

    def function(x: Array, out: Array) -> None:
        with bus.snapshot() as snap, bus.snapshot(1) as first:
            seen.append((
                bus.epoch, snap.epoch, *(float(b["x"][0]) for b in (bus, snap, first)),
                len(list(bus.log())), bus.digest() == snap.digest(), "y" in bus,
                [d.page for d in bus.diff(1, bus.epoch)], bus.graph.unbound,
            ))  # fmt: skip
        out[...] = x.sum()

    bus.derive("y", ["x"])(function)
    bus["x"] = 5
    assert seen == [
        (1, 1, 1, 1, 1, 1, True, False, [], []),
        (2, 2, 1, 1, 1, 2, True, True, [2], []),
    ]


def test_a_fork_may_be_made_inside_a_function(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])
    forks = []

    def function(x: Array, out: Array) -> None:
        if len(forks) < 2:
            forks.append(mem.fork())
        out[...] = x.sum()

    mem.derive("y", ["x"])(function)
    mem["x"] = 5
    assert [float(fork["x"][0]) for fork in forks] == [1, 1] and "y" not in forks[0]
    for fork in forks:
        fork["x"] = 9
    assert (float(mem["y"]), float(forks[1]["y"])) == (5, 9)
    for fork in forks:
        fork.close()


def test_the_same_functions_may_be_called_by_hand(mem: mmsb.Bus) -> None:
    @mem.derive("y", [mem.create_page("x", data=[1.0, 2.0])])
    def energy(x: Array, out: Array) -> None:
        out[...] = x.sum()

    out = np.zeros(())
    energy(np.array([5.0]), out)
    assert (float(out), float(mem["y"]), energy.__name__) == (5, 3, "energy")


# --- registering again --------------------------------------------------------------------------


def test_registering_after_opening_computes_nothing(store: Path, counting: Counting) -> None:
    def register(bus: mmsb.Bus) -> None:
        bus.derive("y", ["x"], on_error="poison")(counting.of("y", total))
        bus.derive("z", ["y"], deferred=True)(counting.of("z", total))

    with mmsb.create(store) as bus:
        bus.create_page("x", data=[1.0, 2.0])
        register(bus)
        bus.graph.link("x", "y")
        epoch, digest = bus.epoch, bus.digest()
    counting.taken()
    with mmsb.open(store, mode="r+") as bus:
        assert bus.graph.unbound == ["y", "z"] and float(bus["y"]) == 3
        register(bus)
        assert (bus.epoch, bus.digest(), bus.graph.unbound) == (epoch, digest, [])
        assert counting.taken() == []
        bus["x"] = 5
        assert float(bus["y"]) == 10 and counting.taken() == ["y"]


def test_without_its_function_a_page_keeps_its_bytes_and_refuses_commits(store: Path) -> None:
    with mmsb.create(store) as bus:
        bus.create_page("x", data=[1.0])
        bus.create_page("free", data=[1.0])
        bus.derive("y", ["x"])(total)
    with mmsb.open(store, mode="r+") as bus:
        before = state(bus)
        with pytest.raises(mmsb.PropagationError, match=r"register it with bus\.derive") as error:
            bus["x"] = 5
        assert (error.value.page, error.value.__cause__) == (3, None)
        assert state(bus) == before and bus["y"][()] == 1
        bus["free"] = 7
        bus["x"].set_meta({"a": 1})
        assert bus.graph.plan(writes=["x"]) == [("y", "fail", ("x",))]
        bus.derive("y", ["x"])(total)
        bus["x"] = 5
        assert bus["y"][()] == 5


def test_a_function_registered_anew_computes_from_then_on(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])
    mem.derive("y", ["x"])(total)
    epoch = mem.epoch
    mem.derive("y", ["x"])(lambda x, out: out.fill(-1))
    assert (mem.epoch, float(mem["y"])) == (epoch, 1)
    mem["x"] = 3
    assert float(mem["y"]) == -1


def test_other_inputs_change_the_graph_and_compute_the_page(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    bus.create_page("z", data=[10.0])
    bus.create_page("s", size=1)
    bus.derive("y", ["x"], meta={"unit": "J"})(total)
    bus.graph.link("s", "y", kind="compiler")
    page, epoch = bus["y"], bus.epoch
    bus.derive("y", ["z", "x"])(total)
    assert (bus["y"], float(page), bus.epoch, page.meta) == (page, 11, epoch + 1, {"unit": "J"})
    assert bus.graph.edges() == [
        ("x", "y", "data"), ("z", "y", "data"), ("s", "y", "compiler"),
    ]  # fmt: skip
    bus.derive("y", ["z"], on_error="poison")(total)
    bus["x"] = 99
    assert float(page) == 10
    bus.derive("y", ["z"], deferred=True)(total)
    assert page.stale


def test_another_shape_or_dtype_makes_a_new_page(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    bus.derive("y", ["x"])(total)
    old = bus["y"]
    kept, epoch = old.read(), bus.epoch
    bus.derive("y", ["x"], 2, "f4")(lambda x, out: out.fill(x[0]))
    assert bus.epoch == epoch + 1 and bus["y"].id == 3
    assert (bus["y"].shape, bus["y"].dtype, bus["y"].read().tolist()) == ((2,), "f4", [1, 1])
    assert kept == 3
    with pytest.raises(mmsb.PageNotFoundError):
        old.read()


def test_a_new_shape_is_refused_while_others_follow_from_the_page(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    bus.derive("y", ["x"])(total)
    bus.map("y + 1", "z")
    before = state(bus)
    with pytest.raises(mmsb.ArgumentError, match='page 3 "z" follows from page 2 "y"'):
        bus.derive("y", ["x"], 2)(lambda x, out: x)
    assert state(bus) == before


def test_the_same_page_by_an_expression(mem: mmsb.Bus, counting: Counting) -> None:
    mem.create_page("x", data=[1.0, 2.0])
    mem.derive("y", ["x"])(counting.of("y", total))
    page = mem["y"]
    assert mem.map("sum(x) * 10", "y") == page and float(page) == 30
    counting.taken()
    mem["x"] = 1
    assert (float(page), counting.taken(), mem.graph.unbound) == (20, [], [])
    mem.derive("y", ["x"])(total)
    assert float(page) == 2


def test_a_page_that_is_not_derived_is_not_taken(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    bus.create_page("y", data=1.0)
    bus.graph.link("x", "y")
    before = state(bus)
    for derive in (lambda: bus.derive("y", ["x"])(total), lambda: bus.map("sum(x)", "y")):
        with pytest.raises(mmsb.PageExistsError, match=r"'y'.*not derived"):
            derive()
    assert state(bus) == before


def test_wrong_arguments_are_refused_where_they_are_given(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    other = mmsb.Bus()
    foreign = other.create_page("x", data=[1.0])
    before = state(bus)
    cases: list[tuple[type[Exception], Callable[[], Any]]] = [
        (mmsb.ArgumentTypeError, lambda: bus.derive("y", "x")),
        (mmsb.ArgumentTypeError, lambda: bus.derive("y", b"x")),  # type: ignore[arg-type]
        (mmsb.ArgumentTypeError, lambda: bus.derive("y", None)),  # type: ignore[arg-type]
        (mmsb.ArgumentTypeError, lambda: bus.derive("y", 1)),  # type: ignore[arg-type]
        (mmsb.PageNotFoundError, lambda: bus.derive("y", ["nope"])),
        (mmsb.PageNotFoundError, lambda: bus.derive("y", [99])),
        (mmsb.PageNotFoundError, lambda: bus.derive("y", ["x", "y"])),
        (mmsb.ArgumentError, lambda: bus.derive("y", [foreign])),
        (mmsb.ArgumentError, lambda: bus.derive("y", [])),
        (mmsb.ArgumentError, lambda: bus.derive("y", ["x", "x"])),
        (mmsb.ArgumentError, lambda: bus.derive("y", ["x"], on_error="retry")),
        (mmsb.ArgumentError, lambda: bus.derive("y", ["x"], -1)),
        (mmsb.ArgumentError, lambda: bus.derive("y", ["x"], dtype="O")),
        (mmsb.ArgumentError, lambda: bus.derive("", ["x"])),
        (mmsb.ArgumentError, lambda: bus.derive("y", ["x"], meta={"nan": float("nan")})),
    ]
    for error, call in cases:
        with pytest.raises(error):
            call()(total)
    with pytest.raises(mmsb.ArgumentTypeError, match="a function computes a page, not 5"):
        bus.derive("y", ["x"])(5)  # type: ignore[type-var]
    assert state(bus) == before
    other.close()


def test_a_list_of_inputs_is_taken_when_it_is_given(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])
    mem.create_page("z", data=[2.0])
    inputs = ["x"]
    register = mem.derive("y", inputs)
    inputs.append("z")
    register(total)
    assert float(mem["y"]) == 1


# --- what may not be done to derived pages ------------------------------------------------------


def test_a_derived_page_is_not_written(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    bus.derive("y", ["x"], 2)(lambda x, out: x)
    page = bus["y"]
    before = state(bus)
    writes: list[Callable[[], Any]] = [
        lambda: page.write(5),
        lambda: page.write([1, 2]),  # what it has already
        lambda: operator.setitem(page, 0, 5),
        lambda: operator.setitem(bus, "y", 5),
        lambda: page.append([1]),
        lambda: page.resize(5),
        lambda: page.write([1, 2, 3], resize=True),
        lambda: bus.write_many([page.id], [0], np.ones((1, 8), np.uint8)),
        lambda: bus.run(lambda tx: operator.iadd(tx["y"], 1)),
        lambda: bus.run(lambda tx: tx.write("y", 1)),
        lambda: bus.run(lambda tx: tx.append("y", [1])),
        lambda: bus.run(lambda tx: tx.apply(mmsb.Delta.sparse(page, [0], [b"\1"]))),
    ]
    for write in writes:
        with pytest.raises(mmsb.InvalidDeltaError, match="follows from its inputs"):
            write()
    assert state(bus) == before
    page.rename("z")
    page.set_meta({"unit": "m"})
    bus["x"] = 7
    assert bus["z"].read().tolist() == [7, 7] and page.meta == {"unit": "m"}


def test_a_released_page_is_written(bus: mmsb.Bus, counting: Counting) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    bus.derive("y", ["x"])(counting.of("y", total))
    bus.map("y * 2", "z")
    counting.taken()
    epoch = bus.graph.release("y")
    assert epoch == bus.epoch and float(bus["y"]) == 3
    bus["x"] = 100
    assert counting.taken() == [] and bus.graph.unbound == []
    bus["y"] = 7
    assert float(bus["z"]) == 14
    with pytest.raises(mmsb.ArgumentError, match="not derived"):
        bus.graph.release("y")
    with pytest.raises(mmsb.ArgumentError, match="not derived"):
        bus.graph.release("x")


def test_an_input_is_not_deleted(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    bus.derive("y", ["x"])(total)
    before = state(bus)
    with pytest.raises(mmsb.ArgumentError, match='page 2 "y" follows from page 1 "x"'):
        bus["x"].delete()
    assert state(bus) == before
    with bus.transaction() as tx:
        tx.delete("x")
        tx.delete("y")
    assert list(bus) == [] and bus.graph.edges() == []


def test_an_input_may_go_when_the_page_follows_from_another(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    bus.create_page("z", data=[2.0])
    bus.derive("y", ["x"])(total)
    with bus.transaction() as tx:
        tx.derive("y", ["z"])(total)
        tx.delete("x")
    assert float(bus["y"]) == 2 and bus.graph.edges() == [("z", "y", "data")]


def test_a_page_deleted_and_made_again(bus: mmsb.Bus, counting: Counting) -> None:
    bus.create_page("x", data=[1.0])
    bus.derive("y", ["x"])(counting.of("old", total))
    bus["y"].delete()
    counting.taken()
    bus["x"] = 2
    assert counting.taken() == []
    bus.create_page("y", data=5.0)
    bus["x"] = 3
    assert float(bus["y"]) == 5
    bus["y"].delete()
    bus.derive("y", ["x"])(counting.of("new", total))
    bus["x"] = 4
    assert float(bus["y"]) == 4 and counting.taken() == ["new", "new"]


# --- transactions -------------------------------------------------------------------------------


def test_nothing_of_an_aborted_transaction_stays(bus: mmsb.Bus, counting: Counting) -> None:
    bus.create_page("x", data=[1.0])
    bus.derive("old", ["x"])(counting.of("old", total))
    counting.taken()
    before = state(bus)
    with pytest.raises(ZeroDivisionError), bus.transaction() as tx:
        tx.derive("y", ["x"])(counting.of("y", total))
        tx.derive("old", ["x"])(counting.of("never", total))
        tx.map("x + 1", "z")
        tx.release("old")
        raise ZeroDivisionError
    assert state(bus) == before and counting.taken() == []
    bus["x"] = 2
    assert counting.taken() == ["old"]


def test_a_function_of_a_failed_commit_is_not_bound(bus: mmsb.Bus, counting: Counting) -> None:
    bus.create_page("x", data=[1.0])
    bus.derive("y", ["x"])(counting.of("old", total))
    with pytest.raises(mmsb.PropagationError), bus.transaction() as tx:
        tx.derive("y", ["x"])(counting.of("new", picky))
        tx["x"] = -1
    counting.taken()
    bus["x"] = 5
    assert counting.taken() == ["old"]


def test_registering_belongs_to_its_transaction(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])
    with mem.transaction() as tx:
        register = tx.derive("y", ["x"])
    assert "y" not in mem
    for call in (
        lambda: register(total),
        lambda: tx.derive("y", ["x"]),
        lambda: tx.map("x + 1", "y"),
        lambda: tx.link("x", "x"),
    ):
        with pytest.raises(mmsb.TransactionClosedError):
            call()


def test_two_transactions_that_place_one_page_conflict(bus: mmsb.Bus) -> None:
    for name in ("a", "b"):
        bus.create_page(name, data=[1.0])
    bus.derive("y", ["a"])(total)
    edges = [("b", "y", "data")]
    with pytest.raises(mmsb.ConflictError), bus.transaction() as tx:
        tx.derive("y", ["a", "b"])(total)
        bus.derive("y", ["b"])(total)
    assert bus.graph.edges() == edges
    with pytest.raises(mmsb.ConflictError), bus.transaction() as tx:
        tx.release("y")
        bus.graph.link("a", "y")
    with pytest.raises(mmsb.ConflictError), bus.transaction() as tx:
        tx.link("a", "y", "compiler")
        bus.graph.release("y")
    assert bus.graph.edges() == [("a", "y", "control")]


def test_writers_of_inputs_do_not_conflict_over_what_follows(bus: mmsb.Bus) -> None:
    for name in ("a", "b"):
        bus.create_page(name, data=[1.0])
    bus.derive("y", ["a", "b"])(total)
    with bus.transaction() as tx:
        tx["a"] = 10
        bus["b"] = 20
    assert float(bus["y"]) == 30


def test_reading_a_derived_page_conflicts_if_it_changed(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    bus.create_page("z", data=[1.0])
    bus.derive("y", ["x"])(total)
    with pytest.raises(mmsb.ConflictError), bus.transaction() as tx:
        tx["z"] = tx.read("y")
        bus["x"] = 5
    with bus.transaction() as tx:
        tx["z"] = tx.read("y")
    assert bus["z"][0] == 5


def test_registering_is_tried_again_after_a_conflict(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    stop, failed = threading.Event(), []

    def write() -> None:
        i = 0
        while not stop.is_set():
            bus.create_page(None, size=1)
            i += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for i in range(20):
            try:
                bus.run(lambda tx, i=i: tx.derive(f"y{i}", ["x"])(total), retries=1000)
            except mmsb.ConflictError as error:
                failed.append(error)
    finally:
        stop.set()
        thread.join()
    assert not failed and [float(bus[f"y{i}"]) for i in range(20)] == [1] * 20


# --- history, forks, readers --------------------------------------------------------------------


def test_history_tells_values_of_derived_pages(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    bus.derive("y", ["x"])(total)
    for value in (2, 3, 4):
        bus["x"].write([value], source=f"step {value}")
    seen = [(c.epoch, c.source, float(v)) for c, v in bus["y"].history()]
    assert seen == [(2, None, 1), (3, "step 2", 2), (4, "step 3", 3), (5, "step 4", 4)]
    with bus.snapshot(3) as snap:
        assert (float(snap["x"][0]), float(snap["y"])) == (2, 2)


def test_restore_brings_graph_bytes_and_marks_and_runs_nothing(
    bus: mmsb.Bus, counting: Counting
) -> None:
    bus.create_page("x", data=[1.0])
    bus.derive("y", ["x"])(counting.of("y", total))
    bus.derive("d", ["x"], deferred=True)(counting.of("d", total))
    then, edges = bus.epoch, bus.graph.edges()
    bus.settle()
    bus["x"] = 5
    bus.graph.release("y")
    bus["y"] = 77
    bus["d"].delete()
    counting.taken()
    bus.restore(then)
    assert bus.digest() == bus.digest(then) and bus.graph.edges() == edges
    assert (float(bus["x"][0]), float(bus["y"]), bus["d"].stale) == (1, 1, True)
    assert counting.taken() == []
    bus["x"] = 8  # the functions are still there
    bus.settle()
    assert (float(bus["y"]), float(bus["d"])) == (8, 8) and counting.taken() == ["y", "d"]


def test_a_fork_in_memory_has_the_functions_and_goes_its_own_way(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    bus.derive("y", ["x"])(total)
    bus["x"] = 2
    with bus.fork() as fork, bus.fork() as second:
        assert fork.graph.unbound == second.graph.unbound == []
        assert fork.graph.edges() == bus.graph.edges()
        fork["x"] = 10
        second["x"] = 20
        bus["x"] = 30
        assert [float(b["y"]) for b in (fork, second, bus)] == [10, 20, 30]
        fork.derive("y", ["x"])(lambda x, out: out.fill(-1))
        bus["x"] = 31
        fork["x"] = 11
        second["x"] = 21
        assert [float(b["y"]) for b in (fork, second, bus)] == [-1, 21, 31]
        bus.close()
        second["x"] = 22
        assert float(second["y"]) == 22


def test_a_fork_in_a_directory_has_no_functions(bus: mmsb.Bus, tmp_path: Path) -> None:
    bus.create_page("x", data=[1.0])
    bus.derive("y", ["x"])(total)
    bus.map("y * 2", "z")
    with bus.fork(path=tmp_path / "fork") as fork:
        assert fork.graph.unbound == ["y"] and fork.digest() == bus.digest()
        with pytest.raises(mmsb.PropagationError):
            fork["x"] = 9
        fork.derive("y", ["x"])(total)
        fork["x"] = 9
        assert float(fork["z"]) == 18 and float(bus["z"]) == 2


def test_readers_show_the_graph_and_run_nothing(store: Path, counting: Counting) -> None:
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("x", data=[1.0])
        bus.derive("y", ["x"])(counting.of("y", total))
        bus.map("y + x", "z", deferred=True)
        bus["x"] = 4
        counting.taken()
        with mmsb.open(store) as reader:
            assert reader.graph.edges() == bus.graph.edges()
            assert reader.graph.order() == ["x", "y", "z"]
            assert reader.graph.unbound == ["y"]
            assert (float(reader["y"]), reader["z"].stale) == (4, True)
            assert reader.why("y").because[0].page == "x"
            for call in (reader.settle, lambda: reader.derive("y", ["x"])(total)):
                with pytest.raises(mmsb.ReadOnlyError):
                    call()
        assert counting.taken() == []


def test_backup_and_recover_carry_the_graph(store: Path, tmp_path: Path) -> None:
    with mmsb.create(store) as bus:
        bus.create_page("x", data=[1.0])
        bus.derive("y", ["x"], deferred=True)(total)
        bus.backup(tmp_path / "copy")
        digest, edges = bus.digest(), bus.graph.edges()
    assert mmsb.recover(store, tmp_path / "new", newest=True).ok
    for path in (tmp_path / "copy", tmp_path / "new"):
        with mmsb.open(path) as copy:
            assert (copy.digest(), copy.graph.edges(), copy["y"].stale) == (digest, edges, True)


# --- ends ---------------------------------------------------------------------------------------


def test_closing_lets_functions_go(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])

    def function(x: Array, out: Array) -> None:
        out[...] = x.sum()

    gone = weakref.ref(function)
    bus.derive("y", ["x"])(function)
    del function
    gc.collect()
    assert gone() is not None
    bus.close()
    gc.collect()
    assert gone() is None


def test_a_replaced_function_goes(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=[1.0])
    first = functools.partial(total)
    gone = weakref.ref(first)
    mem.derive("y", ["x"])(first)
    mem.derive("y", ["x"])(total)
    del first
    gc.collect()
    assert gone() is None


def test_a_bus_whose_function_knows_it_is_collected() -> None:
    class Large:
        pass

    def make() -> list[Any]:
        bus, large = mmsb.Bus(), Large()
        bus.create_page("x", data=[1.0])

        @bus.derive("y", ["x"])
        def function(x: Array, out: Array) -> None:
            out[...] = len(bus) + bool(large)

        bus["x"] = 2
        fork = bus.fork()
        fork["x"] = 3
        return [weakref.ref(bus), weakref.ref(large)]

    refs = make()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_collecting_garbage_inside_a_function(mem: mmsb.Bus) -> None:
    """Buses that go there are closed there."""
    mem.create_page("x", data=[1.0])

    def function(x: Array, out: Array) -> None:
        other = mmsb.Bus()
        other.graph  # noqa: B018
        del other
        gc.collect()
        out[...] = x.sum()

    mem.derive("y", ["x"])(function)
    mem["x"] = 5
    assert float(mem["y"]) == 5


# --- threads ------------------------------------------------------------------------------------


def test_many_threads_commit_while_others_register(bus: mmsb.Bus) -> None:
    for i in range(4):
        bus.create_page(f"x{i}", data=[0.0])
    bus.derive("sum", ["x0", "x1", "x2", "x3"])(total)
    errors: list[BaseException] = []

    def work(fn: Callable[[int], None], count: int) -> None:
        try:
            for n in range(count):
                fn(n)
        except BaseException as error:
            errors.append(error)

    def writer(i: int) -> Callable[[int], None]:
        return lambda n: bus[f"x{i}"].write([n + 1.0]) and None

    def register(n: int) -> None:
        bus.run(lambda tx: tx.derive("sum", ["x0", "x1", "x2", "x3"])(total), retries=1000)
        bus.run(lambda tx: tx.derive(f"of {n % 3}", ["sum"])(total), retries=1000)

    def read(n: int) -> None:
        with bus.snapshot() as snap:
            want = sum(float(snap[f"x{i}"][0]) for i in range(4))
            assert float(snap["sum"]) == want
            bus.stats()

    jobs = [(writer(i), 100) for i in range(4)] + [(register, 20), (read, 100)]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert float(bus["sum"]) == 400 and float(bus["of 1"]) == 400


def test_two_buses_with_functions_in_two_threads() -> None:
    """Functions of one bus run while those of another do: neither waits for the other for ever."""
    buses = [mmsb.Bus(), mmsb.Bus()]
    for bus in buses:
        bus.create_page("x", data=np.zeros(1000))
        bus.derive("y", ["x"], 1000)(lambda x, out: np.sqrt(x, out=out))

    def work(bus: mmsb.Bus) -> None:
        for n in range(100):
            bus["x"] = n * n

    threads = [threading.Thread(target=work, args=(bus,)) for bus in buses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for bus in buses:
        assert (bus["y"].read() == 99).all()
        bus.close()


def test_a_function_may_read_another_bus_that_commits(mem: mmsb.Bus) -> None:
    with mmsb.Bus() as other:
        other.create_page("n", data=[0.0])
        mem.create_page("x", data=[1.0])
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                other["n"] = other["n"][...] + 1

        thread = threading.Thread(target=write)
        thread.start()
        mem.derive("y", ["x"])(lambda x, out: out.fill(x[0] + 0 * other["n"][0]))
        for n in range(200):
            mem["x"] = n
        stop.set()
        thread.join()
        assert float(mem["y"]) == 199


def test_three_runs_are_equal(tmp_path: Path) -> None:
    """U15: same operations, same bytes, epochs, digests and log."""

    def run() -> tuple[Any, ...]:
        with mmsb.Bus(clock=lambda: 5) as bus:
            rng = np.random.default_rng(5)
            for i in range(5):
                bus.create_page(f"x{i}", data=rng.random(100))
            for i in range(4):
                bus.derive(f"y{i}", [f"x{i}", f"x{i + 1}"], 100)(lambda a, b, out: a * b)
            bus.map("y0 + y1 * y2 - y3", "z")
            for _ in range(50):
                bus[f"x{rng.integers(5)}"][rng.integers(100)] = rng.random()
            log = [
                (c.epoch, c.time, [(d.page, list(d.ranges)) for d in c.deltas]) for c in bus.log()
            ]
            return state(bus), log, [bus.digest(e) for e in range(bus.epoch + 1)]

    assert run() == run() == run()


# --- behaviours of upstream's tests -------------------------------------------------------------


def test_a_page_that_passes_another_on(bus: mmsb.Bus) -> None:
    """U5: equal at once, and not stale."""
    parent = bus.create_page("parent", size=8)
    bus.derive("child", ["parent"], 8, "u1")(lambda parent, out: parent)
    parent[:3] = [1, 2, 3]
    assert bytes(bus["child"]) == bytes(parent) == b"\1\2\3\0\0\0\0\0" and not bus["child"].stale


def test_two_hundred_random_deltas_reach_two_children(bus: mmsb.Bus) -> None:
    """U13: after each step both children equal the parent."""
    rng = np.random.default_rng(13)
    parent = bus.create_page("parent", size=1000)
    bus.derive("one", ["parent"], 1000, "u1")(lambda parent, out: parent)
    bus.map("parent | 0", "two")
    for _ in range(200):
        at = int(rng.integers(0, 990))
        data = rng.bytes(int(rng.integers(1, 10)))
        with bus.transaction() as tx:
            tx.apply(mmsb.Delta.sparse(parent, [at], [data]))
        assert bytes(bus["one"]) == bytes(bus["two"]) == bytes(parent)


def test_which_inputs_changed_decides_what_runs(mem: mmsb.Bus, counting: Counting) -> None:
    """U16: inputs are in the order in which they were declared; unchanged ones run nothing."""
    for name in "abc":
        mem.create_page(name, data=1.0)
    mem.derive("y", ["b", "a"])(counting.of("y", lambda b, a, out: b * 10 + a))
    counting.taken()
    mem["c"] = 5
    mem["a"] = 1
    assert counting.taken() == []
    mem["a"] = 2
    assert (float(mem["y"]), counting.taken()) == (12, ["y"])
    mem["b"] = 3
    assert (float(mem["y"]), counting.taken()) == (32, ["y"])


def workload(bus: mmsb.Bus, seed: int) -> list[str]:
    """U17: five pages, four that pass them on, ten updates; the digest after each."""
    rng = np.random.default_rng(seed)
    for i in range(5):
        bus.create_page(f"p{i}", data=rng.bytes(8192))
    for i in range(4):
        bus.derive(f"q{i}", [f"p{i}"], 8192, "u1")(lambda p, out: p)
    digests = []
    for _ in range(10):
        bus[f"p{rng.integers(5)}"][rng.integers(8000)] = int(rng.integers(256))
        digests.append(bus.digest())
    return digests


def test_workloads_in_many_threads_are_those_of_one(tmp_path: Path) -> None:
    with mmsb.Bus() as bus:
        want = workload(bus, 17)
    found: list[list[str]] = []

    def work(i: int) -> None:
        with mmsb.create(tmp_path / str(i), durability="os") if i % 2 else mmsb.Bus() as bus:
            found.append(workload(bus, 17))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [want] * 6


# --- what a function does beside computing ------------------------------------------------------


def test_other_threads_read_while_a_function_runs(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=1.0)
    seen: list[tuple[int, float, int]] = []

    def look() -> None:
        with bus.snapshot() as snap:
            seen.append((bus.epoch, float(snap["x"]), len(list(bus.log()))))

    def function(x: Array, out: Array) -> None:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        out[...] = x

    bus.derive("y", ["x"])(function)
    bus["x"] = 5
    assert seen == [(1, 1, 1), (2, 1, 2)]


def test_a_commit_of_another_thread_waits_for_the_function(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=1.0)
    bus.create_page("z", data=1.0)
    threads: list[threading.Thread] = []

    def function(x: Array, out: Array) -> None:
        threads.append(threading.Thread(target=bus["z"].write, args=(len(threads) + 2.0,)))
        threads[-1].start()
        out[...] = x + bus["z"][()]

    bus.derive("y", ["x"])(function)
    threads[0].join()
    assert (float(bus["y"]), float(bus["z"])) == (2, 2)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_may_fork_inside_a_function(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=1.0)

    def function(x: Array, out: Array) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                bus["x"].read()
            except mmsb.ForkedHandleError:
                os._exit(7)
            finally:
                os._exit(1)
        out[...] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    bus.derive("y", ["x"])(function)
    assert float(bus["y"]) == 7
    bus["x"] = 2


def test_a_function_without_an_end_of_calls_is_a_failure(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=1.0)

    def function(x: Array, out: Array) -> None:
        function(x, out)

    with pytest.raises(mmsb.PropagationError) as error:
        bus.derive("y", ["x"])(function)
    assert isinstance(error.value.__cause__, RecursionError)
    assert bus.epoch == 1


def test_what_the_memory_cannot_take_is_refused_as_a_whole() -> None:
    with mmsb.Bus(max_memory=4 << 20) as bus:
        bus.create_page("x", data=np.zeros(1000))
        before = state(bus)
        with pytest.raises(mmsb.OutOfSpaceError):
            bus.derive("y", ["x"], 1 << 20)(lambda x, out: out.fill(1))
        assert state(bus) == before
        bus.derive("z", ["x"], 1000)(lambda x, out: x + 1)
        with pytest.raises(mmsb.OutOfSpaceError):
            for value in range(10_000):
                bus["x"] = value
                epoch = bus.epoch
        assert bus.epoch == epoch and float(bus["z"][5]) == float(bus["x"][5]) + 1


def test_a_failure_in_the_middle_of_a_wave_gives_all_memory_back(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=np.zeros(100_000))
    mem.map("x + 1", "y")
    mem.derive("z", ["y"])(picky)
    used = []
    for value in (1, *[-5] * 20):
        try:
            mem["x"] = value
        except mmsb.PropagationError:
            used.append(mem.stats()["memory_bytes"])
    assert len(used) == 20 and used[0] == used[-1]


def test_a_process_forks_while_another_thread_computes(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=0.0)

    @bus.derive("y", ["x"])
    def y(x: Array, out: Array) -> None:
        time.sleep(0)  # lets go of the interpreter in the middle of the commit
        out[...] = x + 1

    done = threading.Event()

    def commit() -> None:
        while not done.is_set():
            x[()] = x[()] + 1

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(commit)
        for _ in range(20):
            held = bus["y"].read()
            child = os.fork()
            if child == 0:
                os._exit(0 if float(held) >= 1 else 1)
            assert os.waitpid(child, 0)[1] == 0
        done.set()
        running.result()
    assert float(bus["y"]) == float(x) + 1
