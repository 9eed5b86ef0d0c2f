"""fork(2): the child owns nothing, what it inherited stays as it was, the host goes on."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest
from proof import open_files

# Newer interpreters warn of a fork beside threads, which is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


class Child:
    """A forked child that runs a function and sends back what it returned."""

    def __init__(self, body: Callable[[], Any]) -> None:
        self.read, write = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(write)
            return
        try:
            result: tuple[bool, Any] = (True, body())
        except BaseException:
            result = (False, traceback.format_exc())
        os.write(write, pickle.dumps(result))
        os._exit(0)

    def result(self) -> Any:
        with os.fdopen(self.read, "rb") as pipe:
            good, value = pickle.loads(pipe.read())
        os.waitpid(self.pid, 0)
        assert good, value
        return value


REFUSED = "ForkedHandleError forked-handle True"


def raised(use: Callable[[], Any]) -> str:
    """The class and code of what a call raises, and whether it names `mmsb.attach`."""
    try:
        use()
    except mmsb.MMSBError as error:
        return f"{type(error).__name__} {error.code} {'attach' in str(error)}"
    except Exception as error:
        return type(error).__name__
    return "nothing"


def test_every_use_in_the_child_raises(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", data=np.arange(10))
    snap = bus.snapshot()
    tx = bus.transaction()
    tx.__enter__()
    tx["x"][0] = 77
    log, begun = bus.log(), bus.log()
    next(begun)
    uses: list[Callable[[], Any]] = [
        lambda: bus.epoch,
        lambda: bus["x"],
        lambda: list(bus),
        lambda: len(bus),
        lambda: "x" in bus,
        lambda: bus.pages,
        lambda: bus.tags,
        lambda: bus.create_page("y", shape=1),
        lambda: bus.snapshot(),
        lambda: bus.transaction().__enter__(),
        lambda: bus.run(lambda tx: 1),
        lambda: bus.digest(),
        lambda: bus.sync(),
        lambda: bus.checkpoint(),
        lambda: bus.verify(),
        lambda: bus.fork(1),
        lambda: bus.restore(1),
        lambda: bus.tag("t", 1),
        lambda: bus.stats(),
        lambda: bus.write_many([1], [0], np.zeros((1, 1), "u1")),
        lambda: list(log),
        lambda: list(begun),
        lambda: page.read(),
        lambda: page[0],
        lambda: page[...],
        lambda: page.__setitem__(0, 1),
        lambda: page.write(1),
        lambda: page.append([1]),
        lambda: page.shape,
        lambda: page.delete(),
        lambda: np.asarray(page),
        lambda: list(page.history()),
        lambda: snap["x"],
        lambda: snap.digest(),
        lambda: list(snap),
        lambda: snap.pages,
        lambda: tx["x"],
        lambda: tx.read("x"),
        lambda: tx.write("x", 1),
        lambda: tx.create_page("z", shape=1),
        lambda: tx.__exit__(None, None, None),
    ]

    def body() -> list[str]:
        seen = [raised(use) for use in uses]
        for allowed in (lambda: repr(bus), lambda: repr(page), lambda: repr(snap), snap.close,
                        lambda: snap.__exit__(None, None, None),
                        bus.close, bus.close, lambda: bus.__exit__(None, None, None)):  # fmt: skip
            seen.append(raised(allowed))
        return seen

    seen = Child(body).result()
    wrong = {i: s for i, s in enumerate(seen[: len(uses)]) if s != REFUSED}
    assert not wrong, wrong
    assert set(seen[len(uses) :]) == {"nothing"}
    tx.__exit__(None, None, None)  # in the host all goes on
    assert page[0] == 77 and snap["x"][0] == 0 and bus.epoch == 2
    snap.close()


def test_inherited_arrays_keep_their_bytes_while_the_host_commits_on(bus: mmsb.Bus) -> None:
    small = bus.create_page("small", data=np.arange(100))
    large = bus.create_page("large", data=np.arange(40_000))
    large[20_000] = 5
    arrays = [small.read(), large.read(), large[100:200]]
    with bus.snapshot() as snap:
        arrays.append(snap["large"])
    wanted = [a.tobytes() for a in arrays]
    go_read, go = os.pipe()

    def body() -> list[bool]:
        os.close(go)
        os.read(go_read, 1)  # until the host has written all it wants
        return [a.tobytes() == w for a, w in zip(arrays, wanted, strict=True)]

    child = Child(body)
    os.close(go_read)
    del arrays[:]  # the host's own hold on them ends; the child's does not
    for i in range(200):
        small.write(i)
        large.write(-i)
        if i % 50 == 0:
            bus.create_page(data=np.full(40_000, i))
    os.write(go, b"x")
    os.close(go)
    assert child.result() == [True] * 4
    for i in range(200):  # and what the child held can be used again
        large.write(i)
    assert large[7] == 199


def test_an_array_of_a_fork_in_memory_outlives_the_fork(mem: mmsb.Bus) -> None:
    small = mem.create_page("small", data=np.arange(512))
    mem.create_page("large", data=np.arange(500_000))

    forks = [mem.fork()]
    for name in ("small", "large"):
        forks[0][name].write(7)
    arrays = [forks[0][name].read() for name in ("small", "large")]
    wanted = [a.tobytes() for a in arrays]
    go_read, go = os.pipe()

    def body() -> list[bool]:
        os.close(go)
        os.read(go_read, 1)
        return [a.tobytes() == w for a, w in zip(arrays, wanted, strict=True)]

    child = Child(body)
    os.close(go_read)
    arrays.clear()
    forks.pop().close()
    for i in range(200):  # in the memory that the fork shared with it
        small.write(i)
        mem.create_page(f"large {i}", data=np.full(40_000, i))
    os.close(go)
    assert child.result() == [True] * 2
    kept = mem.stats()["memory_bytes"]
    mem.fork().close()  # finds that the child is gone
    assert mem.stats()["memory_bytes"] <= kept - 4_000_000


def paused() -> int:
    """A child that stays as it is until it is killed."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    return pid


def ended(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_an_old_version_outlives_the_first_of_two_children_that_show_it(mem: mmsb.Bus) -> None:
    page = mem.create_page("x", data=np.arange(100))
    views = [page.read()]
    wanted = views[0].tobytes()
    page.write(-1)
    go_read, go = os.pipe()
    first = paused()

    def body() -> bool:
        os.close(go)
        os.read(go_read, 1)
        return views[0].tobytes() == wanted

    second = Child(body)
    os.close(go_read)
    views.clear()
    ended(first)
    for i in range(500):  # the memory of what was replaced is used again and again
        page.write(i)
    os.close(go)
    assert second.result()


def test_a_host_that_forks_often_keeps_nothing_of_children_that_are_gone(mem: mmsb.Bus) -> None:
    page = mem.create_page("x", data=np.arange(1000))
    page.write(1)
    files = len(open_files())
    for i in range(100):
        ended(paused())
        page.write(i)
        assert len(open_files()) <= files + 1
        assert mem.stats()["old_version_bytes"] < 1 << 16


def test_a_child_holds_no_descriptor_of_the_store(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("x", data=[1])
        seen = Child(lambda: list(open_files().values())).result()
        assert not [to for to in seen if str(store) in to]
        bus["x"][0] = 2


HOST = """
import mmsb, numpy as np, os, sys, time
bus = mmsb.create(sys.argv[1], durability=sys.argv[2])
page = bus.create_page("x", data=np.arange(5000))
view = page.read()
pid = os.fork()
if pid == 0:
    sys.stdin.readline()
    print("child", int(view.sum()), flush=True)
    os._exit(0) if sys.argv[3] == "quick" else sys.exit(0)
for i in range(10):
    page[i] = -1
print(pid, bus.epoch, flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize("end", ["quick", "clean"])
@pytest.mark.parametrize("durability", ["memory", "os", "disk"])
def test_the_host_is_killed_and_the_store_reopens_while_its_child_lives(
    store: Path, durability: str, end: str
) -> None:
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, str(store), durability, end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert host.stdout and host.stdin
    child, epoch = map(int, host.stdout.readline().split())
    host.kill()
    host.wait()
    os.kill(child, 0)  # it lives
    with mmsb.open(store, mode="r+") as bus:
        if durability != "memory":
            assert bus.epoch == epoch == 11
            assert bus["x"][:12].tolist() == [-1] * 10 + [10, 11]
        bus.create_page("new", data=[1])
        # The new host reserves room in its log ahead of time; zeros are no writing of anybody's.
        before = {p: p.read_bytes().rstrip(b"\0") for p in store.rglob("*") if p.is_file()}
        host.stdin.write("go\n")
        host.stdin.close()
        said = host.stdout.read()  # until the child has ended
        # Its memory was shared with a host that died: its bytes are kept only while that lives.
        assert said.startswith("child ")
        host.stdout.close()
        after = {p: p.read_bytes().rstrip(b"\0") for p in store.rglob("*") if p.is_file()}
        assert before == after
        bus["new"][0] = 2
    with mmsb.open(store) as bus:
        assert bus["new"][0] == 2 and bus.verify().ok


def test_the_childs_exit_seals_and_unlocks_nothing(store: Path) -> None:
    code = """
import mmsb, os, sys
bus = mmsb.create(sys.argv[1], durability="os")
page = bus.create_page("x", data=[1, 2, 3])
tx = bus.transaction(); tx.__enter__(); tx["x"][0] = 9
snap = bus.snapshot()
pid = os.fork()
if pid == 0:
    if sys.argv[2] == "close":
        snap.close(); bus.close()
    if sys.argv[2] == "delete":
        del tx, page, snap, bus
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
page[1] = 5
try:
    mmsb.open(sys.argv[1], mode="r+")
except mmsb.BusLockedError:
    print("locked")
tx.__exit__(None, None, None)
print(bus.epoch, page[...].tolist(), bus.verify().ok)
"""
    for how in ("exit", "close", "delete"):
        path = store.with_name(how)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path), how], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "locked\n3 [9, 5, 3] True\n", done.stdout + done.stderr
        assert not done.stderr
        with mmsb.open(path) as bus:
            assert bus.epoch == 3


def test_fork_from_a_thread_while_others_commit(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", shape=1000, dtype="i8")
    done = threading.Event()

    def work() -> None:
        i = 0
        while not done.is_set():
            i += 1
            page.write(i)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            view = page.read()
            wanted = int(view[0])

            def body(view: Any = view, wanted: int = wanted) -> tuple[bool, str]:
                time.sleep(0.005)
                return bool((view == wanted).all()), raised(lambda: page[0])

            same, error = Child(body).result()
            assert same and error.startswith("ForkedHandleError")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert (page.read() == page[0]).all()


def test_a_bus_made_in_the_child_is_its_own(store: Path) -> None:
    with mmsb.Bus() as bus:
        bus.create_page("x", data=[1])

        def body() -> list[Any]:
            with mmsb.create(store, durability="os") as mine:
                mine.create_page("y", data=[5])
                return [mine.epoch, mine["y"][0].item(), raised(lambda: bus["x"])]

        seen = Child(body).result()
        assert seen[:2] == [1, 5] and seen[2].startswith("ForkedHandleError")
        with mmsb.open(store, mode="r+") as theirs:
            assert theirs["y"][0] == 5


_inherited: list[Any] = []


def _code_of_use(_: int) -> str:
    return raised(lambda: _inherited[0].read())


def test_a_worker_of_multiprocessing_gets_the_advice(mem: mmsb.Bus) -> None:
    _inherited[:] = [mem.create_page("x", data=[1])]
    pool = multiprocessing.get_context("fork").Pool(2)
    said = pool.map(_code_of_use, [0, 1])
    pool.close()
    pool.join()
    _inherited.clear()
    assert said == [REFUSED] * 2
