"""Threads and interrupts: no deadlock, nothing half seen, the same result every time."""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def fast_switching() -> Iterator[None]:
    """Change threads as often as the interpreter can; a hang ends the run with all stacks."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def run_all(*targets: Callable[[], Any]) -> None:
    """Run the targets at once and raise the first error that any of them raised."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(targets))

    def guarded(target: Callable[[], Any]) -> None:
        try:
            start.wait()
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(t,), daemon=True) for t in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture(params=["memory", "os", "disk", "in memory"])
def any_bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mmsb.Bus]:
    """A bus of every durability."""
    if request.param == "in memory":
        made = mmsb.Bus()
    else:
        made = mmsb.create(tmp_path / "s", durability=request.param)
    with made:
        yield made


def test_readers_never_see_half_a_commit(any_bus: mmsb.Bus) -> None:
    small = any_bus.create_page("small", shape=8, dtype="i8")
    any_bus.create_page("large", shape=10_000, dtype="i8")
    done = threading.Event()
    commits = 60 if any_bus.durability == "disk" else 300

    def write() -> None:
        try:
            for i in range(1, commits + 1):
                with any_bus.transaction() as tx:
                    tx["small"][...] = i
                    tx["large"][i::7] = i
                    tx["large"][0] = i
        finally:
            done.set()

    def read() -> None:
        last = 0
        while not done.is_set():
            with any_bus.snapshot() as snap:
                a, b = snap["small"], snap["large"]
                assert a[0] == a[7] == b[0], "two pages of one epoch"
                assert a[0] >= last
                last = int(a[0])
            values = small.read()
            assert (values == values[0]).all()

    run_all(write, read, read, read)
    assert small[0] == commits


def test_every_acknowledged_write_of_every_thread_is_there(any_bus: mmsb.Bus) -> None:
    threads, commits = 6, 20 if any_bus.durability == "disk" else 150
    page = any_bus.create_page("x", shape=(threads, 4), dtype="i8")
    any_bus.create_page("rows", shape=(0, 2), dtype="i8")
    epochs: list[list[int]] = [[] for _ in range(threads)]

    def work(me: int) -> Callable[[], None]:
        def body() -> None:
            for i in range(1, commits + 1):
                kind = i % 4
                if kind == 0:
                    with any_bus.transaction(source=str(me)) as tx:
                        tx["x"][me] = i
                    epochs[me].append(tx.epoch)
                elif kind == 2:
                    epochs[me].append(any_bus["rows"].append([[me, i]], source=str(me)))
                else:
                    page[me] = i
                    assert page[me, 0] == i

        return body

    run_all(*[work(i) for i in range(threads)])
    log = list(any_bus.log())
    assert [c.epoch for c in log] == list(range(1, any_bus.epoch + 1))
    for me in range(threads):
        assert epochs[me] == sorted(epochs[me])
        mine = any_bus["rows"][...]
        assert mine[mine[:, 0] == me][:, 1].tolist() == [
            i for i in range(1, commits + 1) if i % 4 == 2
        ]


def test_everything_at_once_does_not_deadlock(any_bus: mmsb.Bus) -> None:
    for i in range(4):
        any_bus.create_page(f"p{i}", shape=3000, dtype="i8")
    rounds = 10 if any_bus.durability == "disk" else 60
    in_memory = any_bus.path is None

    def transactions() -> None:
        for i in range(rounds):
            any_bus.run(lambda tx, i=i: tx[f"p{i % 4}"].__iadd__(1), retries=10_000)

    def blind() -> None:
        for i in range(rounds):
            any_bus[f"p{i % 4}"][i] = i

    def structure() -> None:
        for i in range(rounds):
            page = any_bus.create_page(f"new {threading.get_ident()} {i}", size=100)
            page.set_meta({"i": i})
            page.resize(200)
            page.delete()

    def look() -> None:
        for _ in range(rounds // 2):
            with any_bus.snapshot(random.randrange(any_bus.epoch + 1)) as snap:
                snap.digest()
            list(any_bus.log(since=max(0, any_bus.epoch - 5)))
            any_bus.digest()
            any_bus.stats()
            list(any_bus.diff(any_bus.epoch - 1, any_bus.epoch))

    def fork() -> None:
        for i in range(rounds // 2):
            with any_bus.fork(any_bus.epoch) as twin:
                twin["p0"][0] = i

    def upkeep() -> None:
        for i in range(rounds // 10 + 1):
            any_bus.sync()
            if not in_memory:
                any_bus.checkpoint()
            any_bus.tag(f"t{i}", any_bus.epoch)

    run_all(transactions, transactions, blind, structure, structure, look, fork, upkeep)
    assert any_bus.verify().ok
    epoch, digest = any_bus.epoch, any_bus.digest()
    if not in_memory:
        any_bus.close()
        with mmsb.open(any_bus.path) as reader:
            assert (reader.epoch, reader.digest()) == (epoch, digest)


def test_a_clock_in_python_and_threads_do_not_deadlock(store: Path) -> None:
    # The clock needs the interpreter while a commit waits for another one.
    lock = threading.Lock()
    now = 0

    def clock() -> int:
        nonlocal now
        with lock:
            now += 1
            return now

    with mmsb.create(store, durability="os", clock=clock) as bus:
        bus.create_page("x", shape=8, dtype="i8")

        def work(me: int) -> Callable[[], None]:
            def body() -> None:
                for i in range(100):
                    bus["x"][me] = i

            return body

        run_all(*[work(i) for i in range(8)])
        times = [c.time for c in bus.log()]
        assert times == sorted(times) and len(times) == bus.epoch


def test_ids_of_pages_made_by_many_threads_have_no_gap_and_no_repeat(bus: mmsb.Bus) -> None:
    # U3, D5 and D6: 4 x cores tasks create, grow, shrink and delete; then 100 threads.
    made: list[int] = []

    def task() -> None:
        page = bus.create_page(size=8)
        page.resize(16)
        page.resize(8)
        assert page.read().tobytes() == bytes(8)
        made.append(page.id)

    run_all(*[task] * 8)
    assert sorted(made) == list(range(1, 9))
    for page in list(bus.pages):
        page.delete()
    assert len(bus.pages) == 0

    def create() -> None:
        page = bus.create_page(size=64)
        assert len(page.read()) == 64
        made.append(page.id)

    run_all(*[create] * 100)
    assert sorted(made) == list(range(1, 109)) and len(bus.pages) == 100


def test_one_name_is_given_once(bus: mmsb.Bus) -> None:
    won: list[int] = []

    def create() -> None:
        try:
            won.append(bus.create_page("only one", shape=1).id)
        except mmsb.PageExistsError:
            pass

    run_all(*[create] * 16)
    assert len(won) == 1 and bus["only one"].id == won[0]


def test_an_aborted_batch_leaves_nothing_under_threads(bus: mmsb.Bus) -> None:
    # D18: one bad delta in a batch, 50 times, beside a thread that commits.
    a, b = bus.create_page("a", size=8), bus.create_page("b", size=8)
    other = bus.create_page("other", shape=1, dtype="i8")

    def bad() -> None:
        for _ in range(50):
            with pytest.raises(mmsb.InvalidDeltaError), bus.transaction() as tx:
                tx.apply(mmsb.Delta.dense(a, b"12345678"))
                tx.apply(mmsb.Delta.sparse(b, [5], [b"1234"]))

    def good() -> None:
        for i in range(50):
            other[0] = i + 1

    run_all(bad, good, bad)
    assert bytes(a) == bytes(b) == bytes(8) and bus.epoch == 53


def test_the_same_order_of_commits_gives_the_same_bytes_for_any_number_of_threads() -> None:
    def run(threads: int) -> list[Any]:
        turn = [0]
        ready = threading.Condition()
        with mmsb.Bus(clock=iter(range(1, 1000)).__next__) as bus:
            bus.create_page("x", shape=5000)
            bus.create_page("y", shape=(0,))

            def work(me: int) -> Callable[[], None]:
                def body() -> None:
                    for i in range(me, 60, threads):
                        with ready:
                            ready.wait_for(lambda i=i: turn[0] == i)
                            rng = np.random.default_rng(i)
                            with bus.transaction(source=f"s{i % 3}", meta={"i": i}) as tx:
                                tx["x"][rng.integers(0, 5000, 20)] = rng.random(20)
                                tx.append("y", [i])
                            turn[0] += 1
                            ready.notify_all()

                return body

            run_all(*[work(i) for i in range(threads)])
            log = [(c.epoch, c.time, c.source, c.meta, [(d.page, d.ranges) for d in c.deltas])
                   for c in bus.log()]  # fmt: skip
            return [bus.digest(e) for e in range(0, bus.epoch + 1, 7)] + log

    assert run(1) == run(2) == run(5)


def test_closing_while_others_work_ends_them_with_an_error(any_bus: mmsb.Bus) -> None:
    page = any_bus.create_page("x", shape=4000, dtype="i8")
    going = threading.Semaphore(0)

    def work() -> None:
        told = False
        while True:
            try:
                with any_bus.transaction() as tx:
                    tx["x"][...] += 1
                values = page.read()
                assert (values == values[0]).all()
            except mmsb.ConflictError:
                pass
            except mmsb.ClosedError:
                return
            if not told:
                told = True
                going.release()

    def close() -> None:
        for _ in range(3):
            going.acquire()
        any_bus.close()

    run_all(work, work, work, close)
    if any_bus.path is not None:
        with mmsb.open(any_bus.path) as reader:
            assert reader.epoch == any_bus.epoch and reader.verify().ok


class Interrupted(BaseException):
    """Raised by the signal handler at any moment."""


def test_an_interrupt_at_any_moment_leaves_whole_commits(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", shape=2000, dtype="i8")
    large = bus.create_page("y", shape=20_000, dtype="i8")
    interrupts = 0

    def handler(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for i in range(1, 150):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.Random(i).random() * 0.002)
                while True:
                    page.write(i)
                    with bus.transaction(durability="disk" if i % 2 else "os") as tx:
                        tx["x"][...] = -i
                        tx["y"][::7] = i
                        tx.read("y")
            except Interrupted:
                interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            with bus.snapshot() as snap:
                x, y = snap["x"], snap["y"]
                assert (x == x[0]).all() and (y[::7] == y[0]).all()
                assert y[0] <= abs(x[0]) <= i
                assert x[0] >= 0 or y[0] == -x[0], "one transaction wrote both"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 100
    assert [c.epoch for c in bus.log()] == list(range(1, bus.epoch + 1))
    assert large.epoch <= bus.epoch and bus.verify().ok
