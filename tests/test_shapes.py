"""The shapes of kairo's benchmark for reactive libraries: what they sum up to, and how often each
page is computed, counted by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import mmsb
import numpy.typing as npt
import pytest

Array = npt.NDArray[Any]
Make = Callable[..., mmsb.Page]


class Net:
    """A bus of pages of one number, derived by functions that are counted, or by expressions."""

    def __init__(self, bus: mmsb.Bus, native: bool) -> None:
        self.bus, self.native = bus, native
        self.runs: Counter[str] = Counter()

    def signal(self, name: str, value: float = 0) -> str:
        self.bus.create_page(name, data=float(value))
        return name

    def computed(self, name: str, text: str, *inputs: str) -> str:
        """A page by a text of its inputs, which are `a`, `b`, ... in it."""
        letters = "abcdefghijklmnopqrstuvwxyz"[: len(inputs)]
        if self.native:
            self.bus.map(text, name, inputs=dict(zip(letters, inputs, strict=True)))
            return name
        code = compile(text.replace("where", "_where"), name, "eval")

        def function(*args: Array) -> None:
            *values, out = args
            self.runs[name] += 1
            names = {k: float(v) for k, v in zip(letters, values, strict=True)}
            out[...] = eval(code, {"_where": lambda c, a, b: a if c else b}, names)

        self.bus.derive(name, list(inputs))(function)
        return name

    def sum_of(self, name: str, inputs: list[str]) -> str:
        """A page that sums up any number of others."""
        if self.native:
            names = {f"x{i}": page for i, page in enumerate(inputs)}
            self.bus.map(" + ".join(names), name, inputs=names)
            return name

        def function(*args: Array) -> None:
            *values, out = args
            self.runs[name] += 1
            out[...] = sum(float(v) for v in values)

        self.bus.derive(name, inputs)(function)
        return name

    def write(self, name: str, value: float) -> int:
        """Write a signal; how many pages were computed, or changed where nothing counts that."""
        self.runs.clear()
        epoch = self.bus.epoch
        self.bus[name] = value
        if self.native:
            if self.bus.epoch == epoch:
                return 0
            (commit,) = self.bus.log(since=self.bus.epoch)
            return len({delta.page for delta in commit.deltas}) - 1
        assert all(count == 1 for count in self.runs.values()), "once a commit"
        return self.runs.total()

    def __getitem__(self, name: str) -> float:
        return float(self.bus[name])


@pytest.fixture(params=[False, True], ids=["functions", "expressions"])
def net(request: pytest.FixtureRequest, mem: mmsb.Bus) -> Net:
    return Net(mem, request.param)


def test_deep(net: Net) -> None:
    current = net.signal("head")
    for i in range(50):
        current = net.computed(f"p{i}", "a + 1", current)
    net.write("head", 1)
    for i in range(50):
        assert net.write("head", i) == 50
        assert net[current] == 50 + i


def test_broad(net: Net) -> None:
    net.signal("head", -1)
    last = ""
    for i in range(50):
        last = net.computed(f"q{i}", "a + 1", net.computed(f"p{i}", f"a + {i}", "head"))
    for i in range(50):
        assert net.write("head", i) == 50 * 2
        assert net[last] == i + 50


def test_diamond(net: Net) -> None:
    net.signal("head", -1)
    branches = [net.computed(f"p{i}", "a + 1", "head") for i in range(5)]
    net.sum_of("sum", branches)
    for i in range(500):
        assert net.write("head", i) == 5 + 1
        assert net["sum"] == (i + 1) * 5


def test_triangle(net: Net) -> None:
    current = net.signal("head", -1)
    pages = []
    for i in range(10):
        pages.append(current)
        current = net.computed(f"p{i}", "a + 1", current)
    net.sum_of("sum", pages)
    constant = sum(range(1, 11))
    for i in range(100):
        assert net.write("head", i) == 10 + 1
        assert net["sum"] == constant - 10 + i * 10


def test_mux(mem: mmsb.Bus) -> None:
    """A hundred heads in one page, which is split up again: only the part that changed goes on."""
    runs: Counter[str] = Counter()
    heads = [mem.create_page(f"h{i}", data=0.0) for i in range(100)]

    @mem.derive("mux", heads, 100)
    def mux(*args: Array) -> None:
        runs["mux"] += 1
        args[-1][...] = [float(x) for x in args[:-1]]

    def part(i: int) -> Callable[[Array, Array], None]:
        def function(mux: Array, out: Array) -> None:
            runs["split"] += 1
            out[...] = mux[i]

        return function

    def plus(x: Array, out: Array) -> None:
        runs["plus"] += 1
        out[...] = x + 1

    for i in range(100):
        mem.derive(f"s{i}", ["mux"])(part(i))
        mem.derive(f"t{i}", [f"s{i}"])(plus)
    for factor in (1, 2):
        for i in range(10):
            runs.clear()
            mem[f"h{i}"] = i * factor
            assert float(mem[f"t{i}"]) == i * factor + 1
            # Of nothing to nothing is no change.
            assert runs == ({"mux": 1, "split": 100, "plus": 1} if i else {})


def test_repeated_observers(net: Net) -> None:
    net.signal("head", -1)
    net.computed("sum", " + ".join(["a"] * 30), "head")
    for i in range(100):
        assert net.write("head", i) == 1
        assert net["sum"] == i * 30


def test_unstable(net: Net) -> None:
    """What a page looks at depends on a value; what it follows from does not."""
    net.signal("head", -1)
    net.computed("double", "a * 2", "head")
    net.computed("inverse", "-a", "head")
    each = "where(a % 2 == 1, b, c)"
    net.computed("sum", " + ".join([each] * 20), "head", "double", "inverse")
    for i in range(100):
        assert net.write("head", i) == 3
        assert net["sum"] == (i * 2 * 20 if i % 2 else i * -20)


def test_avoidable_propagation(net: Net) -> None:
    net.signal("head", -1)
    net.computed("c1", "a", "head")
    net.computed("c2", "a * 0 * 0", "c1")  # -1 * 0 * 0 is -0, which are other bytes
    net.bus["head"] = 0
    net.computed("c3", "a + 1", "c2")
    net.computed("c4", "a + 2", "c3")
    net.computed("c5", "a + 3", "c4")
    for i in range(1, 1000):
        # c1 changes and c2 does not, which for an expression cannot be told from not being run.
        assert net.write("head", i) == (1 if net.native else 2)
        assert net["c5"] == 6


@pytest.mark.parametrize(("width", "depth"), [(10, 5), (100, 3), (5, 50)])
def test_layers(net: Net, width: int, depth: int) -> None:
    """Each page sums up two of the layer before; a write reaches a cone."""
    layer = [net.signal(f"s{i}") for i in range(width)]
    plain = [0.0] * width
    for level in range(1, depth):
        layer = [
            net.computed(f"p{level}-{i}", "a * 2 + b", layer[i], layer[(i + 1) % width])
            for i in range(width)
        ]
    for step in range(20):
        at = step * 7 % width
        plain[at] = step + 1.0
        values, reached, runs = plain, {at}, 0
        for _ in range(1, depth):
            values = [values[i] * 2 + values[(i + 1) % width] for i in range(width)]
            reached = reached | {(i - 1) % width for i in reached}
            runs += len(reached)
        assert net.write(f"s{at}", plain[at]) == runs
        assert [net[name] for name in layer] == values


def test_a_batch_of_all_signals_is_one_wave(net: Net) -> None:
    signals = [net.signal(f"s{i}") for i in range(20)]
    net.sum_of("sum", [net.computed(f"p{i}", "a * 2", s) for i, s in enumerate(signals)])
    net.runs.clear()
    with net.bus.transaction() as tx:
        for i, name in enumerate(signals):
            tx[name] = i + 1
    assert net["sum"] == 2 * 210
    (commit,) = net.bus.log(since=net.bus.epoch)
    assert len(commit.deltas) == 20 + 20 + 1
    assert net.native or (net.runs.total() == 21 and max(net.runs.values()) == 1)


def test_a_tick_that_computes_a_law(net: Net) -> None:
    """U9: a map with noise, through pages, stays what plain Python says."""
    net.signal("noise")
    net.signal("x", 0.5)
    net.computed("next", "a * 0.5 + b * 0.25", "x", "noise")
    x = 0.5
    for step in range(128):
        noise = (step * 37 % 11) / 16
        with net.bus.transaction() as tx:
            tx["noise"] = noise
            tx["x"] = x
        x = x * 0.5 + noise * 0.25
        assert net["next"] == x
