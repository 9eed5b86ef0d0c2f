"""Transactions: what they see, when they conflict, how they end, and how they must not be used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import mmsb
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

# --- what a transaction sees and does -----------------------------------------------------------


def test_all_of_it_or_nothing_in_one_epoch(bus: mmsb.Bus) -> None:
    pos = bus.create_page("pos", shape=(4, 3))
    vel = bus.create_page("vel", shape=(4, 3))
    old = bus.create_page("old", size=10)
    with bus.transaction(source="physics", meta={"step": 7}) as tx:
        tx["vel"] += 2
        tx["pos"] += 0.1 * tx["vel"]
        tx.write("vel", np.s_[3], (0, 0, 1))
        tx.edit(pos, np.s_[0:2])[...] = 9
        tx.delete("old")
        new = tx.create_page("new", data=[1, 2], meta={"a": 1})
        tx.rename(vel, "velocity")
        tx.set_meta(pos, {"unit": "m"})
        tx.tag("seven")
        assert bus.epoch == 3 and pos[0, 0] == 0 and "new" not in bus and old.nbytes == 10
        assert "new" in tx and "old" not in tx and "velocity" in tx and "vel" not in tx
        assert tx["new"].tolist() == [1, 2]
        assert tx.read("velocity")[3].tolist() == [0, 0, 1]
    assert (bus.epoch, tx.epoch, tx.changed) == (4, 4, True)
    wanted = np.full((4, 3), 0.2)
    wanted[:2] = 9
    assert pos.read().tolist() == wanted.tolist() and pos.meta == {"unit": "m"}
    assert new == bus["new"] and new[...].tolist() == [1, 2] and new.meta == {"a": 1}
    assert vel.name == "velocity" and vel[3].tolist() == [0, 0, 1] and vel[0].tolist() == [2, 2, 2]
    assert bus.tags == {"seven": 4} and "old" not in bus
    (commit,) = bus.log(since=4)
    assert (commit.source, commit.meta, commit.epoch) == ("physics", {"step": 7}, 4)
    assert set(commit.pages) == {1, 2, 3, 4}


def test_it_sees_its_base_and_its_own_writes_only(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", data=[1, 2, 3])
    other = bus.create_page("y", data=[1, 2, 3])
    tx = bus.transaction()
    with tx:
        page[0] = 50
        assert tx.read("x").tolist() == [1, 2, 3]  # conflicts, unless it is rolled back below
        tx["y"][0] = 7
        assert tx.read("y").tolist() == [7, 2, 3] and other[0] == 1
        page[0] = 1
    assert other[0] == 7 and page[0] == 1


def test_all_arrays_of_a_page_share_one_memory(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=(100, 100))
    with bus.transaction() as tx:
        a, b = tx["x"], tx.edit("x", np.s_[10:20])
        c = tx.edit("x", np.s_[15, 3])
        assert c.shape == () and isinstance(c, np.ndarray) and c.flags.writeable
        c[...] = 5
        b[0] = 6
        assert a[15, 3] == 5 and (a[10] == 6).all() and b[5, 3] == 5
        assert np.shares_memory(a, b) and np.shares_memory(a, c)
        tx.write("x", np.s_[50], 8)
        tx.apply(mmsb.Delta.sparse(bus["x"], [0], [np.float64(2).tobytes()]))
        assert (a[50] == 8).all() and a[0, 0] == 2
        assert tx.read("x")[15, 3] == 5
    x = bus["x"].read()
    assert x[15, 3] == 5 and (x[10] == 6).all() and (x[50] == 8).all() and x[0, 0] == 2


def test_arrays_are_read_only_after_the_end_and_after_a_resize(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    with bus.transaction() as tx:
        before = tx["x"]
        before += 1
        tx.resize("x", 4)
        assert not before.flags.writeable
        after = tx["x"]
        assert after.tolist() == [2, 3, 0, 0]
        after[3] = 9
    with pytest.raises(ValueError):
        after[0] = 1
    assert before.tolist() == [2, 3] and bus["x"][...].tolist() == [2, 3, 0, 9]
    with pytest.raises(ZeroDivisionError), bus.transaction() as tx:
        lost = tx["x"]
        lost[0] = 5
        raise ZeroDivisionError
    with pytest.raises(ValueError):
        lost[0] = 1
    assert bus["x"][0] == 2


def test_editing_twice_and_assigning_back_is_not_a_new_write(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0, 2.0])
    with bus.transaction() as tx:
        tx["x"] += 1  # Python reads tx["x"], adds in place, and assigns it back
        tx["x"][0] -= 1
        tx["x"] = tx["x"]
        tx["x"] *= 1
    (delta,) = next(iter(bus.log(since=2))).deltas
    assert list(delta.ranges) == [(8, 16)]


def test_append_in_a_transaction_gives_the_first_new_row(bus: mmsb.Bus) -> None:
    bus.create_page("rows", shape=(0, 2), dtype="i4")
    with bus.transaction() as tx:
        assert tx.append("rows", [[1, 2]]) == 0
        assert tx.append("rows", [[3, 4], [5, 6]]) == 1
        tx["rows"][1] = 0
        assert tx["rows"].shape == (3, 2) and bus["rows"].shape == (0, 2)
    assert bus["rows"][...].tolist() == [[1, 2], [0, 0], [5, 6]]


def test_a_page_made_in_a_transaction_takes_every_kind_of_write(bus: mmsb.Bus) -> None:
    with bus.transaction() as tx:
        page = tx.create_page("new", shape=8, dtype="u1")
        tx.write(page, range(8))
        tx.apply(mmsb.Delta.dense(page, b"abcdefgh"))
        tx[page][0] = 1
        tx.append("new", [9])
        tx.set_meta(page, {"k": 1})
    assert bytes(page) == b"\x01bcdefgh\x09" and page.meta == {"k": 1} and page.epoch == 1


def test_deltas(bus: mmsb.Bus) -> None:
    raw = bus.create_page("raw", data=bytes(range(8)))
    sparse = mmsb.Delta.sparse(raw, [6, 0], [b"\x07", b"ab"])
    mask = mmsb.Delta.from_mask(raw, [0, 1, 0, 0, 1, 1, 0, 0], b"ABCDEFGH")
    dense = mmsb.Delta.dense(raw, b"x" * 8)
    assert list(dense.ranges) == [(0, 8)] and list(mask.ranges) == [(1, 2), (4, 6)]
    assert sorted(sparse.ranges) == [(0, 2), (6, 7)]
    for delta, wanted in (
        (sparse, b"ab\2\3\4\5\7\7"),
        (mask, b"aB\2\3EF\7\7"),
        (dense, b"xxxxxxxx"),
    ):
        with bus.transaction() as tx:
            tx.apply(delta)
        assert bytes(raw) == wanted
    every_other = mmsb.Delta.from_mask(raw, np.arange(8) % 2 == 0, np.arange(8, dtype="u1"))
    with bus.transaction() as tx:
        tx.apply(every_other)
    assert bytes(raw) == b"\0x\2x\4x\6x"


@pytest.mark.parametrize("n", [1, 126, 127, 128, 129, 254, 255, 256, 257, 70_000])
def test_a_mask_of_any_run_length_writes_what_it_flags(mem: mmsb.Bus, n: int) -> None:
    # D4: run lengths above 127 lost their meaning in a byte-wise coder.
    page = mem.create_page(size=n + 2)
    mask = np.zeros(n + 2, np.uint8)
    mask[1 : n + 1] = 1
    with mem.transaction() as tx:
        tx.apply(mmsb.Delta.from_mask(page, mask, np.full(n + 2, 3, np.uint8)))
    assert bytes(page) == b"\0" + b"\3" * n + b"\0"


@pytest.mark.parametrize(
    "make",
    [
        lambda p: mmsb.Delta.dense(p, b"1234567"),
        lambda p: mmsb.Delta.dense(p, b"123456789"),
        lambda p: mmsb.Delta.dense(p, "12345678"),
        lambda p: mmsb.Delta.sparse(p, [7], [b"ab"]),
        lambda p: mmsb.Delta.sparse(p, [-1], [b"ab"]),
        lambda p: mmsb.Delta.sparse(p, [2**64], [b"ab"]),
        lambda p: mmsb.Delta.sparse(p, [0, 1], [b"ab"]),
        lambda p: mmsb.Delta.from_mask(p, b"\1\0", b"1234"),
        lambda p: mmsb.Delta.from_mask(p, b"\1" * 9, b"1" * 9),
        lambda p: mmsb.Delta.from_mask(p, b"\1" * 8, b"1" * 7),
        lambda p: mmsb.Delta.from_mask(p, b"\2" + bytes(7), b"1" * 8),
        lambda p: mmsb.Delta.from_mask(p, b"\xff" + bytes(7), b"1" * 8),
    ],
)
def test_a_bad_delta_is_refused_before_anything_is_written(
    mem: mmsb.Bus, make: Callable[[Any], Any]
) -> None:
    # U7, D18: the good delta before it in the same transaction must not stay either.
    page = mem.create_page("a", size=8)
    good = mem.create_page("b", size=8)
    with pytest.raises((mmsb.InvalidDeltaError, mmsb.ArgumentTypeError)), mem.transaction() as tx:
        tx.apply(mmsb.Delta.dense(good, b"12345678"))
        tx.apply(make(page))
    assert mem.epoch == 2 and bytes(page) == bytes(good) == bytes(8)


# --- conflicts ----------------------------------------------------------------------------------


def two(bus: mmsb.Bus, first: Callable[[Any], None], second: Callable[[Any], None]) -> str | None:
    """Run two transactions that began at the same epoch; the code of the conflict if there was."""
    a, b = bus.transaction(), bus.transaction()
    with a:
        first(a)
        b.__enter__()
        second(b)
    try:
        b.__exit__(None, None, None)
    except mmsb.ConflictError as error:
        return str(error.code)
    return None


def edit(index: Any, value: Any, page: str = "x") -> Callable[[Any], None]:
    return lambda tx: tx.edit(page).__setitem__(index, value)


CONFLICTS: list[tuple[str, Callable[[Any], Any], Callable[[Any], Any], bool]] = [
    ("different elements", edit(0, 1), edit(1, 1), False),
    ("the same element", edit(0, 1), edit(0, 2), True),
    ("the same element, the same value", edit(0, 1), edit(0, 1), True),
    ("different pages", edit(0, 1), edit(0, 1, "y"), False),
    ("named range, bytes as they were", edit(0, 1), lambda tx: tx.write("x", np.s_[0], 0), True),
    ("named range elsewhere", edit(0, 1), lambda tx: tx.write("x", np.s_[1:], 0), False),
    ("read what changed", edit(0, 1), lambda tx: (tx.read("x"), edit(0, 1, "y")(tx)), True),
    ("edit is not a read", edit(0, 1), lambda tx: (tx.edit("x"), edit(0, 1, "y")(tx)), False),
    ("read what stayed", edit(0, 0), lambda tx: (tx.read("x"), edit(0, 1, "y")(tx)), False),
    ("resized", lambda tx: tx.resize("x", 9), edit(0, 1), True),
    ("deleted", lambda tx: tx.delete("x"), edit(0, 1), True),
    ("deleted twice", lambda tx: tx.delete("x"), lambda tx: tx.delete("x"), True),
    ("append to append", lambda tx: tx.append("x", [1]), lambda tx: tx.append("x", [2]), True),
    (
        "name means another page",
        lambda tx: (tx.rename("x", "z"), tx.rename("y", "x")),
        edit(0, 1, "x"),
        True,
    ),
    (
        "both create a page",
        lambda tx: tx.create_page("m", shape=1),
        lambda tx: tx.create_page("n", shape=1),
        True,
    ),
    (
        "creating and writing",
        lambda tx: tx.create_page("m", shape=1),
        edit(0, 1),
        False,
    ),
    ("metadata and bytes", lambda tx: tx.set_meta("x", {"a": 1}), edit(0, 1), False),
]


@pytest.mark.parametrize(("first", "second", "conflict"), [c[1:] for c in CONFLICTS],
                         ids=[c[0] for c in CONFLICTS])  # fmt: skip
def test_when_two_transactions_conflict(
    bus: mmsb.Bus, first: Callable[[Any], Any], second: Callable[[Any], Any], conflict: bool
) -> None:
    bus.create_page("x", shape=4)
    bus.create_page("y", shape=4)
    code = two(bus, first, second)
    assert (code is not None) == conflict
    if conflict:
        assert code == "conflict"
        assert bus.epoch == 3, "a failed commit changes nothing"


def test_a_write_changed_and_changed_back_by_others_is_no_conflict(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", shape=4)
    with bus.transaction() as tx:
        tx.read("x")
        tx["x"][0] = 5
        page[0] = 9
        page[0] = 0
    assert page[0] == 5


def test_writes_outside_a_transaction_are_blind(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", shape=4)
    with pytest.raises(mmsb.ConflictError), bus.transaction() as tx:
        tx["x"][0] = 1
        page[0] = 2  # a commit of its own, which survives
    assert page[0] == 2 and bus.epoch == 2
    page[0] = 3
    assert page[0] == 3


@given(
    first=st.lists(st.tuples(st.integers(0, 7), st.floats(width=32)), max_size=5),
    second=st.lists(st.tuples(st.integers(0, 7), st.floats(width=32)), max_size=5),
)
def test_two_edits_never_mix_the_bytes_of_one_element(
    first: list[tuple[int, float]], second: list[tuple[int, float]]
) -> None:
    base = np.arange(8, dtype="<f8") + 1 / 3
    with mmsb.Bus() as bus:
        page = bus.create_page("x", data=base)
        arrays = []
        for writes in (first, second):
            array = base.copy()
            for i, value in writes:
                array[i] = value
            arrays.append(array)
        a, b = arrays
        code = two(bus, edit(..., a), edit(..., b))
        raw = [x.view("<u8") for x in (base, a, b, page.read())]
        in_a, in_b = raw[1] != raw[0], raw[2] != raw[0]
        if (in_a & in_b).any():
            assert code == "conflict"
            assert (raw[3] == raw[1]).all()
        else:
            assert code is None
            merged = np.where(in_a, raw[1], np.where(in_b, raw[2], raw[0]))
            assert (raw[3] == merged).all()


# What one of two transactions does to page 0 or 1: (kind, page, first element, values).
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["write", "edit", "read", "resize"]),
        st.integers(0, 1),
        st.integers(0, 7),
        st.lists(st.integers(0, 2), min_size=1, max_size=3),
    ),
    max_size=4,
)


def do(tx: Any, deeds: list[Any], ids: list[int]) -> None:
    for kind, which, at, values in deeds:
        page = ids[which]
        n = len(tx.edit(page))
        start, stop = min(at, n), min(at + len(values), n)
        if kind == "write":
            tx.write(page, np.s_[start:stop], values[: stop - start])
        elif kind == "edit":
            tx[page][start:stop] = values[: stop - start]
        elif kind == "read":
            tx.read(page)
        else:
            tx.resize(page, at + 4)


def judged(base: list[Any], head: list[Any], deeds: list[Any]) -> tuple[bool, list[Any]]:
    """Whether these deeds on the base conflict with the head, and what comes out if not."""
    out, mine = [h.copy() for h in head], [b.copy() for b in base]
    wrote: list[set[int]] = [set(), set()]
    edited: list[set[int]] = [set(), set()]
    read, touched, sized = set(), set(), {}
    for kind, which, at, values in deeds:
        n = len(mine[which])
        part = list(range(min(at, n), min(at + len(values), n)))
        if kind in ("write", "edit"):
            (wrote if kind == "write" else edited)[which].update(part)
            mine[which][part] = values[: len(part)]
        elif kind == "read":
            read.add(which)
        elif kind == "resize" and at + 4 != n:
            mine[which] = np.resize(np.append(mine[which], np.zeros(9, "i8")), at + 4)
            mine[which][n:] = 0
            for names in (wrote, edited):
                names[which] = {i for i in names[which] if i < at + 4}
            sized[which] = at + 4
    conflict = any(not np.array_equal(base[i], head[i]) for i in read)
    for i in (0, 1):
        n = len(base[i])
        # What was cut off and came back is zero, not what it was.
        shortest = min([n, *lengths(deeds, i)])
        was = {k: base[i][k] if k < shortest else 0 for k in edited[i]}
        new = {k for k in edited[i] if k >= n or mine[i][k] != was[k]}
        written = wrote[i] | new
        if written or i in sized:
            touched.add(i)
        if i in touched and len(head[i]) != n:
            conflict = True
            continue
        conflict |= any(k < n and head[i][k] != base[i][k] for k in written)
        if i in sized:
            grown = np.zeros(max(n, sized[i]), "i8")
            grown[:n] = out[i]
            grown[shortest:] = 0
            out[i] = grown[: sized[i]].copy()
        for k in written:
            out[i][k] = mine[i][k]
    return bool(conflict), out


def lengths(deeds: list[Any], which: int) -> list[int]:
    return [at + 4 for kind, page, at, _ in deeds if kind == "resize" and page == which]


@given(first=DEEDS, second=DEEDS)
@example(first=[], second=[("resize", 0, 0, [0]), ("resize", 0, 1, [0]), ("edit", 0, 3, [0, 1])])
def test_conflicts_are_what_the_rules_say(first: list[Any], second: list[Any]) -> None:
    base = [np.arange(8) % 3, np.zeros(6, "i8")]
    with mmsb.Bus() as bus:
        ids = [bus.create_page(None, data=array).id for array in base]
        none, middle = judged(base, base, first)
        assert not none
        conflict, after = judged(base, middle, second)
        code = two(bus, lambda tx: do(tx, first, ids), lambda tx: do(tx, second, ids))
        assert (code == "conflict") == conflict
        for i, wanted in zip(ids, middle if conflict else after, strict=True):
            assert bus[i].read().tolist() == wanted.tolist()


def test_a_byte_wise_merge_would_make_a_value_that_nobody_wrote(mem: mmsb.Bus) -> None:
    base, a, b = 1.0, np.nextafter(1.0, 2), 2.0
    one, two_, three = (np.array(v, "<f8").tobytes() for v in (base, a, b))
    differs = [(x != y, x != z) for x, y, z in zip(one, two_, three, strict=True)]
    assert not any(p and q for p, q in differs), "the two writes touch different bytes"
    mixed = bytes(y if p else z for (p, _), y, z in zip(differs, two_, three, strict=True))
    assert np.frombuffer(mixed, "<f8")[0] not in (base, a, b), "so a byte-wise merge mixes them"

    page = mem.create_page("x", data=[base])
    assert two(mem, edit(0, a), edit(0, b)) == "conflict"
    assert page[0] == a


def test_a_record_of_a_structured_page_is_one_value(mem: mmsb.Bus) -> None:
    mem.create_page("x", shape=3, dtype=[("a", "u1"), ("b", "<f8")])
    assert two(mem, edit(0, (1, 0.0)), edit(0, (0, 2.0))) == "conflict"
    assert two(mem, edit(1, (1, 1.0)), edit(2, (1, 1.0))) is None
    mem.create_page("raw", size=8)
    assert two(mem, edit(0, 1, "raw"), edit(1, 1, "raw")) is None  # raw: one byte is a value


def test_a_conflict_can_be_retried(bus: mmsb.Bus) -> None:
    page = bus.create_page("n", data=0)
    calls = 0

    def add(tx: Any) -> int:
        nonlocal calls
        calls += 1
        value = tx.read("n")[()]
        if calls < 3:
            page.write(10 * calls)
        tx["n"] = value + 1
        return calls

    assert bus.run(add, source="adder", meta={"why": "test"}) == 3
    assert page[()] == 21 and calls == 3
    commit = list(bus.log())[-1]
    assert (commit.source, commit.meta) == ("adder", {"why": "test"})

    calls = 0

    def never(tx: Any) -> None:
        nonlocal calls
        calls += 1
        tx.read("n")
        page.write(1000 + calls)
        tx["n"] = 5

    with pytest.raises(mmsb.ConflictError):
        bus.run(never, retries=2)
    assert calls == 3
    with pytest.raises(ZeroDivisionError):
        bus.run(lambda tx: 1 // 0)


def test_counters_under_threads_lose_no_step(bus: mmsb.Bus) -> None:
    bus.create_page("n", shape=4, dtype="i8")

    def add(tx: Any) -> None:
        tx.read("n")
        tx["n"] += 1

    threads = [
        threading.Thread(target=lambda: [bus.run(add, retries=10_000) for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bus["n"][...].tolist() == [200] * 4 and bus.epoch == 201


# --- how it ends --------------------------------------------------------------------------------


class Odd(BaseException):
    """Not an Exception: aborts as well."""


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, Odd])
def test_an_exception_discards_everything(bus: mmsb.Bus, error: type[BaseException]) -> None:
    bus.create_page("x", shape=3)
    digest = bus.digest()
    with pytest.raises(error), bus.transaction() as tx:
        tx["x"] += 1
        tx.create_page("y", shape=1)
        tx.delete("x")
        tx.tag("t")
        raise error
    assert (bus.epoch, bus.digest(), dict(bus.tags)) == (1, digest, {})
    assert (tx.epoch, tx.changed) == (None, False)


def test_a_failing_call_inside_may_be_caught_and_leaves_no_trace(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=3)
    with bus.transaction() as tx:
        tx.write("x", [1, 2, 3])
        with pytest.raises(mmsb.InvalidDeltaError):
            tx.write("x", [1, 2])
        with pytest.raises(mmsb.PageNotFoundError):
            tx.write("y", 1)
        with pytest.raises(mmsb.PageExistsError):
            tx.create_page("x", shape=1)
        with pytest.raises(mmsb.PageIndexError):
            tx.write("x", np.s_[7], 1)
    assert bus["x"][...].tolist() == [1, 2, 3] and len(bus.pages) == 1


def test_misuse(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=3)
    tx = bus.transaction()
    with pytest.raises(mmsb.TransactionClosedError):
        tx["x"]  # not entered yet
    with tx:
        with pytest.raises(mmsb.TransactionClosedError):
            tx.__enter__()
        with pytest.raises(mmsb.ArgumentError, match=r"tx\.edit\(p\)|edit"):
            tx.edit("x", [0, 1])
        with pytest.raises(mmsb.ArgumentError):
            tx.edit("x", np.array([True, False, True]))
        with pytest.raises(mmsb.PageIndexError):
            tx.edit("x", 5)
    uses: list[Callable[[], Any]] = [
        lambda: tx["x"],
        lambda: tx.edit("x"),
        lambda: tx.read("x"),
        lambda: tx.write("x", 1),
        lambda: tx.append("x", [1]),
        lambda: tx.resize("x", 1),
        lambda: tx.delete("x"),
        lambda: tx.rename("x", "y"),
        lambda: tx.set_meta("x", {}),
        lambda: tx.tag("x"),
        lambda: tx.create_page("y", shape=1),
        lambda: "x" in tx,
        lambda: tx.__enter__(),
        lambda: tx.apply(mmsb.Delta.dense(bus["x"], bytes(24))),
    ]
    for use in uses:
        with pytest.raises(mmsb.TransactionClosedError):
            use()
    assert bus.epoch == 1


def test_a_bus_closed_inside_a_transaction(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=3)
    with pytest.raises(mmsb.ClosedError), bus.transaction() as tx:
        tx["x"] += 1
        bus.close()
    assert (tx.epoch, tx.changed) == (None, False)


def test_transactions_are_independent_of_threads_and_of_each_other(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=3)
    with bus.transaction() as outer:
        outer["x"][0] = 1
        with bus.transaction() as inner:
            inner["x"][1] = 2
        done = threading.Thread(target=lambda: outer["x"].__setitem__(2, 3))
        done.start()
        done.join()
    assert bus["x"][...].tolist() == [1, 2, 3] and (inner.epoch, outer.epoch) == (2, 3)


def test_a_transaction_dropped_without_leaving_changes_nothing(bus: mmsb.Bus) -> None:
    bus.create_page("x", shape=3)
    tx = bus.transaction()
    tx.__enter__()
    tx["x"] += 1
    del tx
    assert bus.epoch == 1 and bus["x"][0] == 0
