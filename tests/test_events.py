"""Events: each commit is told once, in order, to whoever subscribed, and nobody makes it wait."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import logging
import os
import pickle
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import mmsb
import numpy as np
import pytest
from conftest import Runner
from test_fork import REFUSED, Child, raised
from test_threads import run_all

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

LISTS = (
    "changed", "created", "deleted", "described", "stale", "poisoned", "cut_off", "gpu_sync",
    "compiler",
)  # fmt: skip


def event(epoch: int, **lists: tuple[int, ...]) -> mmsb.Event:
    return mmsb.Event(epoch, **{name: lists.get(name, ()) for name in LISTS})


def drained(events: mmsb.Subscription) -> list[mmsb.Event | mmsb.Lagged]:
    """What is queued."""
    found = []
    while True:
        try:
            found.append(events.get(timeout=0))
        except TimeoutError:
            return found


def taken(events: mmsb.Subscription) -> mmsb.Event:
    told = events.get(timeout=60)
    assert isinstance(told, mmsb.Event)
    return told


def epochs(told: list[mmsb.Event | mmsb.Lagged]) -> list[int]:
    assert all(isinstance(e, mmsb.Event) for e in told)
    return [e.epoch for e in told if isinstance(e, mmsb.Event)]


@contextmanager
def background(target: Callable[[], Any]) -> Iterator[None]:
    """Something that another thread does while the block runs."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    yield
    thread.join()


# --- what an event says -------------------------------------------------------------------------


def test_an_event_says_what_the_commit_did(bus: mmsb.Bus) -> None:
    events = bus.subscribe()
    x, y = bus.create_page("x", data=[1.0]), bus.create_page("y", data=[1.0])
    x[0] = 2
    x.rename("z")
    x.set_meta({"unit": "m"})
    with bus.transaction() as tx:
        tx["z"][0] = 3
        tx["y"][0] = 4
        tx.create_page("w", data=[0])
    y.delete()
    bus.tag("here")
    bus.run(lambda tx: None, meta={"n": 1})
    assert drained(events) == [
        event(1, created=(1,)),
        event(2, created=(2,)),
        event(3, changed=(1,)),
        event(4, described=(1,)),
        event(5, described=(1,)),
        event(6, changed=(1, 2), created=(3,)),
        event(7, deleted=(2,)),
        event(8),
        event(9),
    ]
    assert bus.epoch == 9


def test_a_page_made_and_deleted_in_one_transaction_is_not_told(bus: mmsb.Bus) -> None:
    events = bus.subscribe()
    with bus.transaction() as tx:
        tx.create_page("never", size=1)
        tx.create_page("here", size=1)
        tx.delete("never")
    assert drained(events) == [event(1, created=(bus["here"].id,))]


def test_resizing_is_described(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=[1.0, 2.0])
    events = bus.subscribe()
    x.append([3.0])
    x.resize((1,))
    assert [taken(events).described for _ in range(2)] == [(1,), (1,)]


Seen = dict[int, tuple[Any, bytes]]


def seen(bus: mmsb.Bus, epoch: int) -> Seen:
    """What each page was: its description and its bytes."""
    with bus.snapshot(epoch) as snap:
        return {
            p.id: ((p.name, p.shape, p.meta), np.asarray(snap[p.id]).tobytes()) for p in snap.pages
        }


def difference(before: Seen, after: Seen) -> dict[str, tuple[int, ...]]:
    """The plain oracle."""
    both = sorted(before.keys() & after.keys())
    return {
        "created": tuple(sorted(after.keys() - before.keys())),
        "deleted": tuple(sorted(before.keys() - after.keys())),
        "changed": tuple(page for page in both if before[page][1] != after[page][1]),
        "described": tuple(page for page in both if before[page][0] != after[page][0]),
    }


STEPS = ["create", "write", "write", "same", "equal", "delete", "rename", "meta", "size", "back"]


def step(tx: mmsb.Transaction, rng: random.Random, fresh: Iterator[int], resized: set[str]) -> None:
    """One random change."""
    kind, names = rng.choice(STEPS), tx_names(tx)
    if kind == "create" or not names:
        tx.create_page(f"p{next(fresh)}", data=[rng.randrange(9)] * rng.randrange(1, 4))
        return
    name = rng.choice(names)
    if kind == "write":
        tx[name][0] = rng.randrange(4)
    elif kind == "same":
        tx[name][...] = tx[name].copy()
    elif kind == "equal":
        tx.write(name, tx.read(name))
    elif kind == "delete" and len(names) > 1:
        tx.delete(name)
    elif kind == "rename":
        new = f"p{next(fresh)}"
        tx.rename(name, new)
        if name in resized:
            resized.add(new)
    elif kind == "meta":
        tx.set_meta(name, {"n": rng.randrange(3)})
    elif kind == "size" and name not in resized:
        # Twice in one commit, it may have the same bytes in the end, and is told as changed.
        resized.add(name)
        tx.resize(name, (rng.randrange(1, 5),))
    elif kind == "back":
        tx.rename(name, "elsewhere")
        tx.rename("elsewhere", name)


@pytest.mark.parametrize("seed", range(6))
def test_events_are_what_snapshots_say(bus: mmsb.Bus, seed: int) -> None:
    """Random commits, derived pages among what changes, against the states before and after."""
    rng, fresh = random.Random(seed), itertools.count()
    bus.create_page("base", data=[1, 2, 3])
    bus.map("base // 4", "quarters")
    bus.map("quarters + 1", "more")
    events = bus.subscribe(maxsize=10_000)
    first, cut, moved = bus.epoch + 1, 0, 0
    for _ in range(80):
        with bus.transaction() as tx:
            resized: set[str] = set()
            for _ in range(rng.randrange(1, 4)):
                step(tx, rng, fresh, resized)
            if rng.random() < 0.6:
                tx["base"][rng.randrange(3)] = rng.randrange(20)
        if rng.random() < 0.1:
            bus.restore(rng.randrange(first, bus.epoch + 1), meta={"restored": True})
    told = drained(events)
    assert epochs(told) == list(range(first, bus.epoch + 1))
    derived = (bus["quarters"].id, bus["more"].id)
    for got in told:
        assert isinstance(got, mmsb.Event)
        before, after = seen(bus, got.epoch - 1), seen(bus, got.epoch)
        wanted = difference(before, after)
        for name, ids in wanted.items():
            assert getattr(got, name) == ids, (name, got)
        assert set(got.cut_off) <= set(derived) - set(got.changed)
        assert not (got.stale or got.poisoned or got.gpu_sync or got.compiler)
        cut += bool(got.cut_off)
        moved += derived[0] in got.changed
    assert cut and moved


def tx_names(tx: mmsb.Transaction) -> list[str]:
    """Names of the pages that a transaction has and that are nobody's input."""
    return [name for name in (f"p{n}" for n in range(400)) if name in tx]


def test_derived_pages_are_changed_or_cut_off(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=[1.0])
    y = bus.map("x > 3", "y")

    @bus.derive("z", ["y"])
    def z(y: Any, out: Any) -> None:
        out[...] = y.sum()

    events = bus.subscribe()
    x[0] = 2
    x[0] = 5
    assert drained(events) == [
        event(4, changed=(x.id,), cut_off=(y.id,)),
        event(5, changed=(x.id, y.id, bus["z"].id)),
    ]


def test_stale_pages_are_told_when_they_become_so(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=[1.0])
    events = bus.subscribe()
    y = bus.map("2 * x", "y", deferred=True)
    bus.settle()
    x[0] = 2
    x[0] = 3
    bus.settle()
    assert drained(events) == [
        event(2, created=(y.id,), stale=(y.id,)),
        event(3, changed=(y.id,)),
        event(4, changed=(x.id,), stale=(y.id,)),
        event(5, changed=(x.id,)),
        event(6, changed=(y.id,)),
    ]


def test_a_control_link_makes_stale(bus: mmsb.Bus) -> None:
    x, y = bus.create_page("x", data=1.0), bus.create_page("y", data=1.0)
    events = bus.subscribe()
    bus.graph.link("x", "y")
    x[()] = 2
    y[()] = 2
    assert drained(events) == [
        event(3, described=(y.id,)),
        event(4, changed=(x.id,), stale=(y.id,)),
        event(5, changed=(y.id,)),
    ]


def test_poisoned_pages_are_told(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=1.0)

    @bus.derive("y", ["x"], on_error="poison")
    def y(x: Any, out: Any) -> None:
        out[...] = 1 / x if x else 1 / 0

    bus.map("y + 1", "z")
    events = bus.subscribe()
    x[()] = 0
    x[()] = 2
    ids = (bus["y"].id, bus["z"].id)
    assert drained(events) == [
        event(4, changed=(x.id,), poisoned=ids),
        event(5, changed=(x.id, *ids)),
    ]


@pytest.mark.parametrize("kind", ["gpu_sync", "compiler"])
def test_links_that_mark_nothing_are_told(bus: mmsb.Bus, kind: str) -> None:
    x = bus.create_page("x", data=1.0)
    bus.map("x > 3", "y")
    copies = [bus.create_page(name, data=1.0) for name in "ab"]
    for copy in copies:
        bus.graph.link("x", copy, kind)
    bus.graph.link("y", "a", kind)
    with bus.subscribe() as events, bus.subscribe("b", kinds=[kind]) as one:
        x[()] = 2
        x[()] = 5
        copies[0][()] = 7
    both = tuple(copy.id for copy in copies)
    told = list(events)
    assert [getattr(e, kind) for e in told] == [both, both, ()]
    assert list(one) == [event(8, **{kind: both[1:]}), event(9, **{kind: both[1:]})]


@pytest.mark.parametrize("kind", ["gpu_sync", "compiler"])
def test_a_restore_tells_of_links_too(mem: mmsb.Bus, kind: str) -> None:
    x, y = mem.create_page("x", data=1.0), mem.create_page("y", data=1.0)
    epoch = mem.graph.link(x, y, kind)
    x[()] = 2
    events = mem.subscribe()
    mem.restore(epoch)
    assert drained(events) == [event(epoch + 2, changed=(x.id,), **{kind: (y.id,)})]


# --- what is asked for --------------------------------------------------------------------------


def test_events_are_restricted_to_pages(bus: mmsb.Bus) -> None:
    x, y = bus.create_page("x", data=[1.0]), bus.create_page("y", data=[1.0])
    z = bus.create_page("z", data=[1.0])
    events = bus.subscribe(x, "y", y.id)
    z[0] = 2
    with bus.transaction() as tx:
        for page in (x, y, z):
            tx[page][0] = 5
    bus.tag("here")
    y.rename("other")
    bus.create_page("y", size=1)
    x.delete()
    assert drained(events) == [
        event(5, changed=(x.id, y.id)),
        event(7, described=(y.id,)),
        event(9, deleted=(x.id,)),
    ]


def test_events_are_chosen_by_kind(bus: mmsb.Bus) -> None:
    x, y = bus.create_page("x", data=[1.0]), bus.create_page("y", data=[1.0])
    events = bus.subscribe(kinds=iter(["deleted", "described"]))
    named = bus.subscribe("x", kinds={"changed"})
    with bus.transaction() as tx:
        tx["x"][0] = 3
        tx.rename("y", "w")
    x[0] = 4
    y[0] = 4
    x.rename("v")
    y.delete()
    assert drained(events) == [
        event(3, changed=(x.id,), described=(y.id,)),
        event(6, described=(x.id,)),
        event(7, deleted=(y.id,)),
    ]
    assert drained(named) == [event(3, changed=(x.id,)), event(4, changed=(x.id,))]


def test_wrong_arguments_are_refused(mem: mmsb.Bus) -> None:
    mem.create_page("x", size=1)
    for kinds in ("changed", [], ["change"], 3, [3], [None], b"stale"):
        with pytest.raises(mmsb.ArgumentError, match="kinds must be"):
            mem.subscribe(kinds=kinds)  # type: ignore[arg-type]
    for maxsize in (0, -1, 2**64, 2**63):
        with pytest.raises(mmsb.ArgumentError, match="maxsize"):
            mem.subscribe(maxsize=maxsize)
    for wrong in (1.5, True, "1", None):
        with pytest.raises(mmsb.ArgumentTypeError, match="maxsize"):
            mem.subscribe(maxsize=wrong)  # type: ignore[arg-type]
    with pytest.raises(mmsb.ArgumentTypeError, match="callback"):
        mem.subscribe(callback=3)  # type: ignore[arg-type]
    for unknown in ("y", 7, 0, -1, 2**70):
        with pytest.raises(mmsb.PageNotFoundError):
            mem.subscribe("x", unknown)
    with pytest.raises(mmsb.ArgumentTypeError):
        mem.subscribe(["x"])  # type: ignore[arg-type]
    with mmsb.Bus() as other, pytest.raises(mmsb.ArgumentError, match="another bus"):
        mem.subscribe(other.create_page("x", size=1))
    events = mem.subscribe()
    for timeout, error in (
        (-1, mmsb.ArgumentError), (float("nan"), mmsb.ArgumentError),
        ("1", mmsb.ArgumentTypeError), (True, mmsb.ArgumentTypeError),
    ):  # fmt: skip
        with pytest.raises(error, match="timeout"):
            events.get(timeout)  # type: ignore[arg-type]
        with pytest.raises(error, match="timeout"):
            mem.wait(99, timeout)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="subscriptions come from"):
        mmsb.Subscription()
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(events)


def test_a_subscription_begins_with_the_first_epoch_after_the_call(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=0)
    for n in range(2, 20):
        events = bus.subscribe()
        bus["x"] = n
        assert drained(events) == [event(n, changed=(1,))]


def test_what_is_shown(mem: mmsb.Bus) -> None:
    mem.create_page("x", size=1)
    mem.create_page("y", size=1)
    assert repr(mem.subscribe()) == "<Subscription to all pages>"
    events = mem.subscribe("y", "x", kinds=["stale", "changed"])
    assert repr(events) == "<Subscription to pages 1, 2 changed, stale>"
    events.close()
    assert repr(events) == "<Subscription to pages 1, 2 changed, stale closed>"
    assert hash(events) != hash(mem.subscribe()) and events != mem.subscribe()


def test_events_are_values() -> None:
    one = event(3, changed=(1,))
    assert one == event(3, changed=(1,)) and hash(one) == hash(event(3, changed=(1,)))
    assert pickle.loads(pickle.dumps(one)) == one
    for value, name in ((one, "epoch"), (mmsb.Lagged(1, 2, 2), "missed")):
        with pytest.raises(AttributeError):
            setattr(value, name, 5)


# --- the queue ----------------------------------------------------------------------------------


def test_an_epoch_is_there_when_its_event_is(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=0)
    events = bus.subscribe()

    def write() -> None:
        for n in range(200):
            bus["x"] = n + 1

    with background(write):
        for n in range(200):
            told = taken(events)
            assert told.epoch == n + 2 <= bus.epoch
            with bus.snapshot(told.epoch) as snap:
                assert snap["x"] == n + 1


@pytest.mark.parametrize("threads", [1, 4])
def test_none_is_missed_and_all_are_in_order(bus: mmsb.Bus, threads: int) -> None:
    for n in range(4):
        bus.create_page(f"p{n}", data=0)
    total = 400
    events, one = bus.subscribe(), bus.subscribe("p2")
    every: list[mmsb.Event] = []

    def write(n: int) -> None:
        for i in range(total // 4):
            bus[f"p{n}"] = i + 1

    def read() -> None:
        every.extend(taken(events) for _ in range(total))

    def write_all() -> None:
        for n in range(4):
            write(n)

    each = [functools.partial(write, n) for n in range(4)]
    run_all(read, *(each if threads == 4 else [write_all]))
    assert [e.epoch for e in every] == list(range(5, 5 + total))
    for told, commit in zip(every, bus.log(since=5), strict=True):
        assert told == event(commit.epoch, changed=commit.pages)
    mine = [e.epoch for e in every if 3 in e.changed]
    assert epochs(drained(one)) == mine and len(mine) == total // 4


def test_several_threads_take_each_event_once(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=0)
    events, got = mem.subscribe(), [list[int]() for _ in range(3)]

    def read(mine: list[int]) -> None:
        mine.extend(e.epoch for e in events if isinstance(e, mmsb.Event))

    def write() -> None:
        for n in range(300):
            mem["x"] = n + 1
        events.close()

    run_all(write, *(functools.partial(read, mine) for mine in got))
    assert sorted(itertools.chain(*got)) == list(range(2, 302))


@pytest.mark.parametrize("maxsize", [1, 2, 7])
def test_whoever_is_slow_is_told_what_was_missed(bus: mmsb.Bus, maxsize: int) -> None:
    bus.create_page("x", data=0)
    events, fast = bus.subscribe(maxsize=maxsize), bus.subscribe()
    for commits in (maxsize, maxsize + 1, maxsize + 5, 30):
        first = bus.epoch + 1
        for _ in range(commits):
            bus["x"] = int(bus["x"]) + 1
        told, missed = drained(events), commits - maxsize
        if missed:
            lag = told.pop(0)
            assert lag == mmsb.Lagged(missed, first, first + missed - 1)
            caught_up = [c.epoch for c in bus.log(since=lag.first, until=lag.last)]
            assert caught_up == list(range(first, first + missed))
        assert epochs(told) == list(range(bus.epoch - maxsize + 1, bus.epoch + 1))
    assert epochs(drained(fast)) == list(range(2, bus.epoch + 1))


def test_events_and_what_was_missed_are_all_epochs(mem: mmsb.Bus) -> None:
    """Whatever the threads do, nothing is left out and nothing comes twice."""
    mem.create_page("x", data=0)
    events, found = mem.subscribe(maxsize=3), list[int]()

    def read() -> None:
        for told in events:
            if isinstance(told, mmsb.Lagged):
                assert told.missed == told.last - told.first + 1
                found.extend(range(told.first, told.last + 1))
            else:
                found.append(told.epoch)

    def write() -> None:
        for n in range(1500):
            mem["x"] = n + 1
        events.close()

    run_all(read, write)
    assert found == list(range(2, 1502))


def test_missed_commits_are_told_whatever_was_asked_for(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=0)
    mem.create_page("y", data=0)
    events = mem.subscribe("x", maxsize=1)
    mem["x"] = 1
    mem["y"] = 1
    assert drained(events) == [mmsb.Lagged(1, 3, 3)]


def test_two_subscriptions_have_a_queue_each(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=0)
    one, two = bus.subscribe(), bus.subscribe(maxsize=1)
    bus["x"] = 1
    bus["x"] = 2
    assert epochs(drained(one)) == [2, 3]
    assert drained(two) == [mmsb.Lagged(1, 2, 2), event(3, changed=(1,))]
    one.close()
    bus["x"] = 3
    assert list(one) == [] and drained(two) == [event(4, changed=(1,))]


def test_a_failed_commit_is_not_told(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=[1.0])

    @bus.derive("y", ["x"])
    def y(x: Any, out: Any) -> None:
        out[...] = 1 / 0 if x == 5 else x[0]

    events = bus.subscribe()
    with pytest.raises(mmsb.PropagationError):
        x[0] = 5
    with pytest.raises(ZeroDivisionError), bus.transaction() as tx:
        tx["x"][0] = 1 / 0
    with pytest.raises(mmsb.PageExistsError):
        bus.create_page("x", size=1)
    with pytest.raises(mmsb.ConflictError), bus.transaction() as tx:
        tx["x"][0] = 8
        x[0] = 7
    x[0] = 7  # it is
    bus.settle()
    assert drained(events) == [event(3, changed=(1, 2))]


def test_a_restore_is_one_event(bus: mmsb.Bus) -> None:
    x, gone = bus.create_page("x", data=[1.0]), bus.create_page("gone", size=1)
    y = bus.map("x + 1", "y", deferred=True)
    x.rename("z")
    gone.delete()
    bus.settle()
    x[0] = 2
    new = bus.create_page("new", size=1)
    bus.settle()
    events = bus.subscribe()
    epoch = bus.restore(3)
    assert drained(events) == [
        event(
            epoch, changed=(x.id, y.id), created=(gone.id,), deleted=(new.id,),
            described=(x.id,), stale=(y.id,),
        )
    ]  # fmt: skip
    assert bus["y"].stale


def test_a_fork_in_memory_has_none_of_the_subscriptions(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=0)
    events = bus.subscribe()
    with bus.fork() as fork:
        own = fork.subscribe()
        fork["x"] = 1
        assert drained(events) == [] and drained(own) == [event(2, changed=(1,))]
        bus["x"] = 2
        assert drained(events) == [event(2, changed=(1,))] and drained(own) == []
    assert list(own) == [] and own.closed and not events.closed


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_an_event_comes_when_the_epoch_is_published(
    store: Path, durability: Literal["os", "disk"]
) -> None:
    with mmsb.create(store, durability=durability) as bus:
        for n in range(4):
            bus.create_page(f"p{n}", data=0)
        events = bus.subscribe()

        def write(n: int) -> None:
            for i in range(25):
                how = durability if i % 3 else "memory"
                bus[f"p{n}"].write(i + 1, durability=how)

        def read() -> None:
            for n in range(100):
                told = taken(events)
                assert told.epoch == n + 5 <= bus.epoch

        run_all(read, *(functools.partial(write, n) for n in range(4)))
        assert drained(events) == []
        bus.create_page("last", size=1)
        assert bus.durable_epoch == bus.epoch or durability == "os"
        assert drained(events) == [event(105, created=(5,))]


# --- the end ------------------------------------------------------------------------------------


def test_what_is_queued_can_be_taken_after_the_end(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=0)
    for close in (True, False):
        with bus.subscribe() as events:
            bus["x"] = int(bus["x"]) + 1
            assert [events.closed] == [False]
            if close:
                events.close()
                bus["x"] = int(bus["x"]) + 1
        bus["x"] = int(bus["x"]) + 1
        assert events.closed and len(list(events)) == 1 and list(events) == []
        with pytest.raises(mmsb.ClosedError, match="ended"):
            events.get()
        with pytest.raises(mmsb.ClosedError):
            events.get(timeout=0)
        events.close()
    events = bus.subscribe()
    bus["x"] = -1
    bus.close()
    assert [events.closed] == [True] and epochs(list(events)) == [7]
    with pytest.raises(mmsb.ClosedError):
        bus.subscribe()


@pytest.mark.parametrize("what", ["bus", "subscription"])
def test_closing_wakes_whoever_waits(bus: mmsb.Bus, what: str) -> None:
    bus.create_page("x", data=0)
    events = bus.subscribe()
    closed = bus.close if what == "bus" else events.close
    waits, ends = threading.Semaphore(0), list[Any]()

    def iterate() -> None:
        waits.release()
        ends.append(list(events))

    def get() -> None:
        waits.release()
        with pytest.raises(mmsb.ClosedError):
            while True:
                ends.append(events.get())

    def loop() -> None:
        async def take() -> None:
            waits.release()
            ends.append([e async for e in events])

        asyncio.run(take())

    def close() -> None:
        for _ in range(3):
            waits.acquire()
        bus["x"] = 1
        closed()

    run_all(iterate, get, loop, close)
    flat = [e for end in ends for e in (end if isinstance(end, list) else [end])]
    assert flat == [event(2, changed=(1,))]


@pytest.mark.parametrize("again", range(5))
def test_closing_tells_of_all_commits_that_came_about(store: Path, again: int) -> None:
    """Those too that wait for a sync while the bus is closed."""
    bus = mmsb.create(store)
    events, done, some = bus.subscribe(maxsize=10**6), list[int](), threading.Semaphore(0)
    pages = [bus.create_page(f"p{n}", data=0) for n in range(4)]

    def write(page: mmsb.Page) -> None:
        value = 0
        with pytest.raises((mmsb.ClosedError, mmsb.CommitOutcomeUnknownError)):
            while value := value + 1:
                done.append(page.write(value))
                some.release()

    def close() -> None:
        for _ in range(5):
            some.acquire()
        bus.close()

    run_all(close, *(functools.partial(write, page) for page in pages))
    told = epochs(list(events))
    assert told == list(range(1, len(told) + 1)) and set(done) <= set(told)


def test_nobody_waits_on_a_bus_that_was_closed_meanwhile() -> None:
    for _ in range(100):
        bus = mmsb.Bus()

        def subscribe(bus: mmsb.Bus = bus) -> None:
            made = []
            with pytest.raises(mmsb.ClosedError):
                while True:
                    made.append(bus.subscribe())
            assert [list(events) for events in made] == [[]] * len(made)

        run_all(bus.close, subscribe)


def test_a_bus_that_goes_ends_its_subscriptions() -> None:
    bus = mmsb.Bus()
    bus.create_page("x", data=0)
    events, called = bus.subscribe(), list[Any]()
    watched = bus.subscribe(callback=called.append)
    bus["x"] = 1
    gone = weakref.ref(bus)
    del bus
    gc.collect()
    assert gone() is None, "a subscription does not keep its bus"
    assert epochs(list(events)) == [2] and events.closed
    assert watched._thread is not None
    watched._thread.join()
    assert epochs(called) == [2]


def test_a_subscription_that_is_dropped_is_forgotten(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=np.zeros(1 << 16))
    events = mem.subscribe()
    mem["x"] = 1
    gone = weakref.ref(events)
    del events
    gc.collect()
    assert gone() is None
    mem["x"] = 2
    for _ in range(2000):
        mem.subscribe()
    mem["x"] = 3
    kept = mem.subscribe()
    mem["x"] = 4
    assert epochs(drained(kept)) == [5]


def test_the_interpreter_ends_under_subscriptions(python: Runner) -> None:
    """Threads wait in the core when it ends; callbacks get what is queued."""
    code = """
        import mmsb, threading
        bus = mmsb.Bus()
        x = bus.create_page("x", data=0)
        kept = bus.subscribe(callback=lambda event: print("called", event.epoch))
        events = bus.subscribe()
        for target in (lambda: list(bus.subscribe()), lambda: bus.wait(99), events.get):
            def run(target=target):
                try:
                    target()
                except mmsb.ClosedError:
                    pass
            threading.Thread(target=run, daemon=True).start()
        for n in range(5):
            x[()] = n + 1
    """
    said = python("\n".join(line[8:] for line in code.splitlines()))
    assert said.stdout.split("\n") == [*(f"called {n}" for n in range(2, 7)), ""]
    assert said.stderr == ""


# --- callbacks ----------------------------------------------------------------------------------


class Calls:
    """What a callback was called with."""

    def __init__(self, then: Callable[[Any], Any] = lambda told: None) -> None:
        self.told: list[Any] = []
        self.threads: set[int] = set()
        self.then = then
        self.moved = threading.Condition()

    def __call__(self, told: Any) -> None:
        try:
            self.then(told)
        finally:
            with self.moved:
                self.told.append(told)
                self.threads.add(threading.get_ident())
                self.moved.notify_all()

    def first(self, count: int) -> list[Any]:
        with self.moved:
            assert self.moved.wait_for(lambda: len(self.told) >= count, timeout=60)
        return self.told


def ended(events: mmsb.Subscription) -> None:
    assert events._thread is not None
    events._thread.join(60)
    assert not events._thread.is_alive()


def test_a_callback_gets_each_event_in_a_thread_of_its_own(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=0)
    calls = Calls()
    with bus.subscribe("x", kinds=["changed"], callback=calls) as events:
        for n in range(50):
            x[()] = n + 1
        x.rename("y")
        assert epochs(calls.first(50)) == list(range(2, 52))
        assert len(calls.threads) == 1 and threading.get_ident() not in calls.threads
        assert events.errors == []
        for use in (lambda: next(events), lambda: iter(events), events.get, lambda: aiter(events),
                    lambda: asyncio.run(anext(events))):  # fmt: skip
            with pytest.raises(mmsb.ArgumentError, match="callback"):
                use()
    ended(events)
    x[()] = 0
    assert len(calls.told) == 50


def test_a_callback_may_end_its_subscription(mem: mmsb.Bus) -> None:
    x = mem.create_page("x", data=0)
    may = threading.Event()

    def then(told: Any) -> None:
        may.wait()
        events.close()

    calls = Calls(then)
    events = mem.subscribe(callback=calls)
    x[()] = 1
    x[()] = 2
    may.set()
    ended(events)
    assert events.closed and epochs(calls.told) == [2], "what is queued is not called for"


def test_a_callback_may_subscribe(mem: mmsb.Bus) -> None:
    x = mem.create_page("x", data=0)
    inner: list[mmsb.Subscription] = []
    calls = Calls(lambda told: inner.append(mem.subscribe()))
    with mem.subscribe(callback=calls) as events:
        x[()] = 1
        calls.first(1)
        x[()] = 2
        calls.first(2)
    ended(events)
    assert epochs(drained(inner[0])) == [3] and drained(inner[1]) == []


def test_a_callback_may_commit(bus: mmsb.Bus) -> None:
    x, n = bus.create_page("x", data=0), bus.create_page("n", data=0)

    def then(told: mmsb.Event) -> None:
        if x.id in told.changed:
            bus.run(lambda tx: tx.write("n", tx.read("n") + 1))

    calls = Calls(then)
    with bus.subscribe(callback=calls) as events:
        for i in range(20):
            x[()] = i + 1
        told = calls.first(40)
    ended(events)
    assert int(n) == 20 and epochs(told) == list(range(3, 43))
    assert sum(n.id in e.changed for e in told) == 20


def test_a_callback_that_raises_is_logged_and_goes_on(
    mem: mmsb.Bus, caplog: pytest.LogCaptureFixture
) -> None:
    x = mem.create_page("x", data=0)

    def then(told: mmsb.Event) -> None:
        if told.epoch == 2:
            raise SystemExit(3)
        if told.epoch % 2:
            raise KeyError(told.epoch)

    calls = Calls(then)
    caplog.set_level(logging.ERROR, "mmsb")
    with mem.subscribe(callback=calls, maxsize=10_000) as events:
        for n in range(300):
            x[()] = n + 1
        calls.first(300)
    ended(events)
    assert epochs(calls.told) == list(range(2, 302))
    assert [error.args for error in events.errors] == [(n,) for n in range(103, 303, 2)]
    assert all(type(error) is KeyError for error in events.errors)
    assert len(caplog.records) == 151
    first = caplog.records[0]
    assert (first.name, first.levelname) == ("mmsb", "ERROR")
    assert "callback" in first.getMessage() and "epoch=2" in first.getMessage()
    assert first.exc_info is not None and first.exc_info[0] is SystemExit


def test_a_handler_that_raises_ends_nothing(mem: mmsb.Bus) -> None:
    class Handler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ValueError("no")

    handler, logger = Handler(), logging.getLogger("mmsb")
    logger.addHandler(handler)
    try:
        x = mem.create_page("x", data=0)
        calls = Calls(lambda told: 1 / 0)
        with mem.subscribe(callback=calls) as events:
            x[()] = 1
            x[()] = 2
            assert epochs(calls.first(2)) == [2, 3]
        ended(events)
        assert [type(error) for error in events.errors] == [ZeroDivisionError] * 2
    finally:
        logger.removeHandler(handler)


def test_a_slow_callback_is_told_and_the_commit_does_not_wait(mem: mmsb.Bus) -> None:
    x = mem.create_page("x", data=0)
    begun, may = threading.Event(), threading.Event()

    def then(told: Any) -> None:
        begun.set()
        may.wait()

    calls = Calls(then)
    with mem.subscribe(callback=calls, maxsize=2) as events:
        x[()] = 1
        begun.wait()
        for n in range(10):  # while the callback is in the middle of its first call
            x[()] = n + 2
        may.set()
        assert calls.first(4) == [
            event(2, changed=(1,)), mmsb.Lagged(8, 3, 10),
            event(11, changed=(1,)), event(12, changed=(1,)),
        ]  # fmt: skip
    ended(events)


def test_a_callback_gets_what_is_queued_when_the_bus_is_closed() -> None:
    begun, may = threading.Event(), threading.Event()

    def then(told: Any) -> None:
        begun.set()
        may.wait()

    calls = Calls(then)
    with mmsb.Bus() as bus:
        x = bus.create_page("x", data=0)
        events = bus.subscribe(callback=calls)
        for n in range(5):
            x[()] = n + 1
        begun.wait()
    may.set()
    ended(events)
    assert epochs(calls.told) == [2, 3, 4, 5, 6]


# --- functions ----------------------------------------------------------------------------------


def test_a_function_that_computes_a_page_neither_subscribes_nor_waits(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=[1.0])
    before, waited = bus.subscribe(), list[Any]()

    def attempt(use: Callable[[], Any]) -> None:
        with pytest.raises(mmsb.ReentrancyError):
            use()
        waited.append(use)

    @bus.derive("y", ["x"])
    def y(x: Any, out: Any) -> None:
        assert bus.wait(1) and bus.wait(bus.epoch)
        drained(before)  # what is there may be taken
        attempt(bus.subscribe)
        attempt(before.get)
        attempt(lambda: before.get(timeout=60))
        attempt(lambda: next(before))
        attempt(lambda: bus.wait(bus.epoch + 1))
        out[...] = x.sum()

    assert len(waited) == 5
    bus["x"][0] = 2
    assert len(waited) == 10
    assert epochs(drained(before)) == [3]


# --- asyncio ------------------------------------------------------------------------------------


def test_async_iteration(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=0)
    events = bus.subscribe("x")

    async def main(count: int) -> list[int]:
        def write() -> None:
            for _ in range(count):
                bus["x"] = int(bus["x"]) + 1

        write()
        writing, found = asyncio.create_task(asyncio.to_thread(write)), []
        async for told in events:
            assert isinstance(told, mmsb.Event)
            found.append(told.epoch)
            if len(found) == 2 * count:
                break
        await writing
        return found

    assert asyncio.run(main(50)) == list(range(2, 102))
    # Another loop goes on with it.
    assert asyncio.run(main(5)) == list(range(102, 112))
    assert drained(events) == []


def test_async_iteration_ends(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=0)
    events = mem.subscribe()

    async def main() -> None:
        found = []

        async def read() -> None:
            async for told in events:
                found.append(told)

        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        mem["x"] = 1
        while not found:
            await asyncio.sleep(0)
        mem["x"] = 2
        mem.close()
        await task
        assert epochs(found) == [2, 3]
        with pytest.raises(StopAsyncIteration):
            await anext(events)

    asyncio.run(main())


def test_cancelling_costs_no_event_and_leaves_nothing(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=0)
    events = mem.subscribe()

    async def main() -> None:
        readers = set(asyncio.get_running_loop()._selector.get_map())  # type: ignore[attr-defined]
        for n in range(2, 30):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 0.001)
            task = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            if n % 2:
                mem["x"] = n
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if not n % 2:
                mem["x"] = n
            left = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
            assert set(left) == readers
            told = await asyncio.wait_for(anext(events), 60)
            assert isinstance(told, mmsb.Event) and told.epoch == n

    asyncio.run(main())


def test_several_tasks_and_loops_take_each_event_once(mem: mmsb.Bus) -> None:
    mem.create_page("x", data=0)
    events, found = mem.subscribe(), list[int]()
    begun = threading.Barrier(3)

    def loop() -> None:
        async def read() -> None:
            async for told in events:
                assert isinstance(told, mmsb.Event)
                found.append(told.epoch)
                await asyncio.sleep(0)

        async def main() -> None:
            tasks = [asyncio.create_task(read()) for _ in range(3)]
            await asyncio.sleep(0)
            begun.wait()
            await asyncio.gather(*tasks)

        asyncio.run(main())

    def write() -> None:
        begun.wait()
        for n in range(100):
            mem["x"] = n + 1
        events.close()

    run_all(loop, loop, write)
    assert sorted(found) == list(range(2, 102))


def test_a_loop_that_ends_in_the_middle_leaves_nothing(mem: mmsb.Bus) -> None:
    """The fixture looks for descriptors that are left behind."""
    events = mem.subscribe()
    loop = asyncio.new_event_loop()
    waiting = anext(events)

    async def begin() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.001)

    loop.run_until_complete(begin())
    task = loop.create_task(waiting)
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    mem.create_page("x", size=1)
    assert drained(events) == [event(1, created=(1,))]


# --- interrupts ---------------------------------------------------------------------------------


@contextmanager
def interrupted() -> Iterator[None]:
    """SIGALRM raises in the block, soon and again."""

    def act(*_: Any) -> None:
        raise InterruptedError("alarm")

    before = signal.signal(signal.SIGALRM, act)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("how", ["get", "next", "wait", "filtered"])
def test_signals_act_while_waiting(bus: mmsb.Bus, how: str) -> None:
    bus.create_page("x", data=0)
    events = bus.subscribe(kinds=["deleted"] if how == "filtered" else None)
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.001):
            bus["x"] = int(bus["x"]) + 1

    uses: dict[str, Callable[[], Any]] = {
        "get": events.get,
        "next": lambda: next(events),
        "filtered": events.get,
        "wait": lambda: bus.wait(10**9),
    }
    with background(write if how == "filtered" else lambda: None):
        try:
            with pytest.raises(InterruptedError, match="alarm"), interrupted():
                uses[how]()
        finally:
            over.set()


def test_ctrl_c_while_waiting(mem: mmsb.Bus) -> None:
    events = mem.subscribe()
    timer = threading.Timer(0.05, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(events)
    timer.join()
    mem.create_page("x", size=1)
    assert drained(events) == [event(1, created=(1,))]


def test_an_interrupt_costs_no_event(mem: mmsb.Bus) -> None:
    """It comes while the core waits and the event right behind it, before Python runs again."""
    mem.create_page("x", data=0)
    events, found, interrupts = mem.subscribe(), list[int](), 0

    def act(_: int, frame: Any) -> None:
        # At the end of the call that brought an event, which is on its way to nobody yet.
        if frame.f_code is mmsb.Subscription._take.__code__ and events._taken:
            raise InterruptedError

    waits = threading.Semaphore(0)

    def write() -> None:
        for n in range(300):
            waits.acquire()
            time.sleep(0.0002)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            mem["x"] = n + 1

    before = signal.signal(signal.SIGUSR1, act)
    try:
        with background(write):
            while len(found) < 300:
                try:
                    waits.release()
                    found.append(taken(events).epoch)
                except InterruptedError:
                    interrupts += 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert interrupts > 0 and found == list(range(2, 302))


# --- bus.wait -----------------------------------------------------------------------------------


def test_wait_for_an_epoch(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=0)
    assert bus.wait(0) and bus.wait(1) and bus.wait(1, timeout=0) and bus.wait(np.int64(1))
    assert not bus.wait(2, timeout=0) and not bus.wait(2, timeout=0.01)
    bus.tag("here", 1)
    assert bus.wait("here", timeout=0) and bus.wait(next(iter(bus.log())), timeout=0)
    with bus.snapshot() as snap:
        assert bus.wait(snap)
    last = bus.epoch + 300

    def write() -> None:
        for n in range(300):
            x[()] = n + 1

    def wait() -> None:
        for epoch in range(last - 300, last + 1, 7):
            assert bus.wait(epoch) and bus.epoch >= epoch

    run_all(wait, write, lambda: bus.wait(last, timeout=60) or 1 / 0)
    assert not bus.wait(last + 1, timeout=0)
    for wrong in (-1, 2**64):
        with pytest.raises(mmsb.EpochNotFoundError):
            bus.wait(wrong)
    with pytest.raises(mmsb.TagNotFoundError):
        bus.wait("nowhere")
    with pytest.raises(mmsb.ArgumentTypeError):
        bus.wait(1.5)  # type: ignore[arg-type]


def test_wait_on_a_bus_that_is_closed(bus: mmsb.Bus) -> None:
    bus.create_page("x", data=0)
    waits = threading.Event()

    def wait() -> None:
        waits.set()
        with pytest.raises(mmsb.ClosedError):
            bus.wait(2)

    def close() -> None:
        waits.wait()
        bus.close()

    run_all(wait, close)
    assert bus.wait(1)
    with pytest.raises(mmsb.ClosedError):
        bus.wait(2, timeout=0)


def test_a_bus_that_is_read_has_no_events(store: Path) -> None:
    with mmsb.create(store) as bus:
        bus.create_page("x", data=0)
    with mmsb.open(store) as bus:
        with pytest.raises(mmsb.ReadOnlyError):
            bus.subscribe()
        assert bus.wait(1)
        with pytest.raises(mmsb.ReadOnlyError):
            bus.wait(2, timeout=0)


# --- fork(2) ------------------------------------------------------------------------------------


def test_a_forked_child_has_no_events(bus: mmsb.Bus) -> None:
    x = bus.create_page("x", data=0)
    events, calls = bus.subscribe(), Calls()
    watched = bus.subscribe(callback=calls)
    descriptor = events._native.signal()
    x[()] = 1
    calls.first(1)
    uses: list[Callable[[], Any]] = [
        bus.subscribe, events.get, lambda: events.get(timeout=0), lambda: next(events),
        lambda: asyncio.run(anext(events)),
        lambda: bus.wait(1),
    ]  # fmt: skip

    def body() -> Any:
        seen = [raised(use) for use in uses]
        shown = repr(events), events.closed
        events.close()
        events.__exit__(None, None, None)
        watched.close()
        return seen, shown, events.closed

    seen, shown, closed = Child(body).result()
    assert seen == [REFUSED] * len(uses)
    assert shown == ("<Subscription to all pages of the parent process>", False) and closed
    assert descriptor == events._native.signal()
    assert not events.closed and drained(events) == [event(2, changed=(1,))]
    # The child wrote nothing into the descriptor that both have.
    with pytest.raises(BlockingIOError):
        os.read(descriptor, 8)
    x[()] = 2
    assert epochs(calls.first(2)) == [2, 3] and drained(events) == [event(3, changed=(1,))]
    watched.close()
    ended(watched)


def test_a_child_forked_while_others_wait_can_close(mem: mmsb.Bus) -> None:
    """A thread that is not in the child may hold the lock of the queue."""
    mem.create_page("x", data=0)
    events, over = mem.subscribe(), threading.Event()

    def write() -> None:
        while not over.is_set():
            mem["x"] = int(mem["x"]) + 1

    with background(lambda: list(events)), background(write):
        try:
            for _ in range(20):
                assert Child(events.close).result() is None
        finally:
            over.set()
            events.close()


def test_the_package_is_the_one_that_is_tested() -> None:
    assert "mmsb._events" in sys.modules
    for name in ("Subscription", "Event", "Lagged"):
        assert name in mmsb.__all__
