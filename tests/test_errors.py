"""Bad input gets a typed error that names what was wrong, and nothing is lost."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest
from conftest import Runner
from fills import mounted
from plain_reader import with_format

ARGUMENT = (mmsb.ArgumentError, mmsb.ArgumentTypeError)

# --- arguments ----------------------------------------------------------------------------------

BAD_PAGES: list[dict[str, Any]] = [
    {},
    {"shape": -1},
    {"shape": (3, -2)},
    {"shape": (1.5,)},
    {"shape": "3"},
    {"shape": (2,) * 65},
    {"size": -1},
    {"size": 1.5},
    {"size": "10"},
    {"size": 8, "shape": 8},
    {"size": 8, "dtype": "f8"},
    {"shape": 3, "dtype": object},
    {"shape": 3, "dtype": "O"},
    {"shape": 3, "dtype": [("a", "i4"), ("b", "O")]},
    {"shape": 3, "dtype": "no such type"},
    {"shape": 3, "dtype": [("a", "i4"), ("a", "i4")]},
    {"data": object()},
    {"data": [1, "two", object()]},
    {"data": [[1], [2, 3]]},
    {"data": np.array([None])},
    {"data": [1, 2, 3], "shape": 2},
    {"data": ["text"], "dtype": "f8"},
    {"data": b"abc", "size": 2},
    {"shape": 3, "meta": "text"},
    {"shape": 3, "location": "gpu"},
]


@pytest.mark.parametrize("arguments", BAD_PAGES)
def test_a_page_that_cannot_be(mem: mmsb.Bus, arguments: dict[str, Any]) -> None:
    kinds = (*ARGUMENT, mmsb.InvalidDeltaError, TypeError)
    with pytest.raises(kinds):
        mem.create_page("x", **arguments)
    with pytest.raises(kinds), mem.transaction() as tx:
        tx.create_page("x", **arguments)
    assert mem.epoch == 0 and len(mem.pages) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": 2**60},
        {"size": 2**40 + 1},
        {"size": 2**63},
        {"size": 2**64},
        {"size": 2**200},
        {"shape": (2**30, 2**30), "dtype": "f8"},
        {"shape": (2**32, 2**32), "dtype": "u1"},
        {"shape": (2**62, 2**62, 0), "dtype": "u1"},
        {"shape": 2**60},
        {"shape": 1, "dtype": "V1099511627777"},
    ],
    ids=str,
)
def test_more_bytes_than_any_page_has_is_refused_at_once(
    bus: mmsb.Bus, arguments: dict[str, Any]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ARGUMENT):
        bus.create_page("x", **arguments)
    with pytest.raises(ARGUMENT), bus.transaction() as tx:
        tx.create_page("x", **arguments)
    page = bus.create_page("y", shape=(2, 2))
    with pytest.raises(ARGUMENT):
        page.resize((2**60, 2))
    with pytest.raises(ARGUMENT), bus.transaction() as tx:
        tx.resize("y", (2**60, 2))
    assert bus.epoch == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_more_than_max_memory_is_refused_at_once(store: Path) -> None:
    for bus in (mmsb.Bus(max_memory=1 << 20), mmsb.create(store, max_memory=1 << 20)):
        with bus:
            page = bus.create_page("small", shape=10)
            with pytest.raises(mmsb.OutOfSpaceError):
                bus.create_page("large", data=np.ones(1 << 20))
            with pytest.raises(mmsb.OutOfSpaceError):
                bus.create_page("larger", size=1 << 39)
            with pytest.raises(mmsb.OutOfSpaceError):
                page.write(np.ones(1 << 20), resize=True)
            page[0] = 5
            assert bus.epoch == 2 and page[0] == 5 and len(bus.pages) == 1
    with mmsb.open(store) as bus:
        assert bus.epoch == 2


BAD_NAMES: list[Any] = ["", "a" * 256, "é" * 128, "a\nb", "\0", "a\x7fb", "\ud800", 5, b"x", ("x",)]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_that_cannot_be(mem: mmsb.Bus, name: Any) -> None:
    with pytest.raises(ARGUMENT):
        mem.create_page(name, shape=1)
    page = mem.create_page("good", shape=1)
    with pytest.raises(ARGUMENT):
        page.rename(name)
    with pytest.raises(ARGUMENT):
        mem.tag(name, 0)
    with pytest.raises(ARGUMENT), mem.transaction() as tx:
        tx.rename("good", name)
    assert mem.epoch == 1 and list(mem) == ["good"]


def test_names_that_are_just_short_enough_and_names_that_are_taken(bus: mmsb.Bus) -> None:
    longest = bus.create_page("é" * 127 + "x", shape=1)
    assert len(longest.name.encode()) == 255
    x = bus.create_page("x", shape=1)
    y = bus.create_page("y", shape=1)
    with pytest.raises(mmsb.PageExistsError, match="x"):
        bus.create_page("x", shape=1)
    with pytest.raises(mmsb.PageExistsError):
        y.rename("x")
    with pytest.raises(mmsb.PageExistsError), bus.transaction() as tx:
        tx.create_page("x", shape=1)
    assert bus.epoch == 3
    x.delete()
    y.rename("x")
    assert bus["x"] == y


WRONG_ARGUMENTS: list[Callable[[Any], Any]] = [
    lambda b: b.transaction(source=5),
    lambda b: b.transaction(durability="none"),
    lambda b: b.transaction(meta=[1]),
    lambda b: b["x"].write(1, durability="none"),
    lambda b: b["x"].write(1, source=b"x"),
    lambda b: b.snapshot("x", as_of=5),
    lambda b: b.snapshot(1.5),
    lambda b: b.snapshot(True),
    lambda b: b.snapshot(as_of="yesterday"),
    lambda b: b.snapshot(as_of=1.5),
    lambda b: b.snapshot(meta="x"),
    lambda b: b.snapshot(object()),
    lambda b: b.log(since=1.5),
    lambda b: list(b.log(meta=5)),
    lambda b: b.run(5),
    lambda b: b.run(lambda tx: 1, retries=-1),
    lambda b: b[1.5],
    lambda b: b[None],
    lambda b: b["x"].read(copy="yes"),
    lambda b: mmsb.Bus(max_memory=-1),
    lambda b: mmsb.Bus(max_memory="much"),
    lambda b: mmsb.Bus(clock=5),
    lambda b: mmsb.open("/nowhere", mode="w"),
    lambda b: mmsb.open("/nowhere", mode=None),
    lambda b: mmsb.open(5),
    lambda b: mmsb.create("/nowhere/x", durability="fast"),
    lambda b: mmsb.Delta.dense(1.5, b"1"),
    lambda b: b["x"].append([[1, 2]]),
    lambda b: b["x"].append(5),
    lambda b: b["x"].resize("big"),
]


@pytest.mark.parametrize("i", range(len(WRONG_ARGUMENTS)))
def test_wrong_arguments_raise_typed_errors(mem: mmsb.Bus, i: int) -> None:
    mem.create_page("x", shape=3)
    with pytest.raises((mmsb.MMSBError, TypeError)) as caught:
        WRONG_ARGUMENTS[i](mem)
    assert str(caught.value)
    assert mem.epoch == 1


UNKNOWN: list[tuple[Callable[[Any], Any], type[Exception]]] = [
    (lambda b: b["nothing"], mmsb.PageNotFoundError),
    (lambda b: b.run(lambda tx: tx.delete(99)), mmsb.PageNotFoundError),
    (lambda b: b.run(lambda tx: tx["nothing"]), mmsb.PageNotFoundError),
    (lambda b: b[99], mmsb.PageNotFoundError),
    (lambda b: b[0], mmsb.PageNotFoundError),
    (lambda b: b[-1], mmsb.PageNotFoundError),
    (lambda b: b[2**64], mmsb.PageNotFoundError),
    (lambda b: list(b.log(page="nothing")), mmsb.PageNotFoundError),
    (lambda b: list(b.diff(0, 1, page="nothing")), mmsb.PageNotFoundError),
    (lambda b: b.write_many([99], [0], np.zeros((1, 1), "u1")), mmsb.PageNotFoundError),
    (lambda b: b.snapshot(99), mmsb.EpochNotFoundError),
    (lambda b: b.snapshot(-1), mmsb.EpochNotFoundError),
    (lambda b: b.snapshot(2**70), mmsb.EpochNotFoundError),
    (lambda b: b.digest(99), mmsb.EpochNotFoundError),
    (lambda b: b.restore(99), mmsb.EpochNotFoundError),
    (lambda b: b.fork(99), mmsb.EpochNotFoundError),
    (lambda b: list(b.diff(0, 99)), mmsb.EpochNotFoundError),
    (lambda b: b.tag("t", 99), mmsb.EpochNotFoundError),
    (lambda b: b.snapshot("no tag"), mmsb.TagNotFoundError),
    (lambda b: b.restore("no tag"), mmsb.TagNotFoundError),
    (lambda b: b.untag("no tag"), mmsb.TagNotFoundError),
    (lambda b: b.digest("no tag"), mmsb.TagNotFoundError),
]


@pytest.mark.parametrize(("call", "error"), UNKNOWN, ids=range(len(UNKNOWN)))
def test_what_is_unknown_is_named(
    bus: mmsb.Bus, call: Callable[[Any], Any], error: type[Exception]
) -> None:
    bus.create_page("x", shape=3)
    with pytest.raises(error) as caught:
        call(bus)
    assert isinstance(caught.value, KeyError | LookupError)
    text = str(caught.value)
    asked = ("nothing", "99", "0", "-1", str(2**64), str(2**70), "no tag")
    assert any(word in text for word in asked), text
    assert bus.epoch == 1


def test_a_deleted_page_is_gone_for_its_handle(bus: mmsb.Bus) -> None:
    # D23: a stale handle raises; it never reads what came after.
    page = bus.create_page("x", data=[1, 2, 3])
    kept = page.read()
    page.delete()
    bus.create_page("x", data=[7, 8, 9])
    for use in (
        page.read,
        page.delete,
        lambda: page[0],
        lambda: page.__setitem__(0, 1),
        lambda: page.write(1),
        lambda: page.append([1]),
        lambda: page.resize(1),
        lambda: page.rename("y"),
        lambda: page.set_meta({}),
        lambda: page.meta,
        lambda: page.shape,
        lambda: page.name,
        lambda: page.epoch,
        lambda: len(page),
        lambda: np.asarray(page),
    ):
        with pytest.raises(mmsb.PageNotFoundError):
            use()
    assert kept.tolist() == [1, 2, 3] and page.id == 1 and repr(page)
    with bus.snapshot(1) as snap:
        assert snap[page].tolist() == [1, 2, 3]


def test_after_close_everything_says_so(bus: mmsb.Bus) -> None:
    page = bus.create_page("x", data=[1, 2, 3])
    kept = page.read()
    bus.close()
    uses: list[Callable[[], Any]] = [
        lambda: bus["x"],
        lambda: bus.create_page("y", shape=1),
        lambda: bus.pages,
        lambda: list(bus),
        lambda: "x" in bus,
        lambda: len(bus),
        lambda: bus.snapshot(),
        lambda: bus.transaction().__enter__(),
        lambda: bus.run(lambda tx: 1),
        lambda: list(bus.log()),
        lambda: list(bus.diff(0, 1)),
        lambda: bus.digest(),
        lambda: bus.tag("t", 0),
        lambda: bus.tags,
        lambda: bus.restore(0),
        lambda: bus.fork(1),
        lambda: bus.sync(),
        lambda: bus.verify(),
        lambda: bus.stats(),
        lambda: bus.checkpoint(),
        lambda: bus.write_many([1], [0], np.zeros((1, 1), "u1")),
        lambda: page.read(),
        lambda: page[0],
        lambda: page.__setitem__(0, 1),
        lambda: page.shape,
        lambda: list(page.history()),
        lambda: np.asarray(page),
        lambda: bus.__enter__(),
    ]
    for i, use in enumerate(uses):
        with pytest.raises(mmsb.ClosedError):
            use()
            pytest.fail(f"use {i} of a closed bus was taken")
    assert kept.tolist() == [1, 2, 3] and bus.closed and bus.epoch == 1


# --- exceptions as objects ----------------------------------------------------------------------

BASES = {
    "PageNotFoundError": KeyError,
    "BusExistsError": FileExistsError,
    "BusNotFoundError": FileNotFoundError,
    "InvalidDeltaError": ValueError,
    "TransactionClosedError": ValueError,
    "ClosedError": ValueError,
    "EpochNotFoundError": KeyError,
    "TagNotFoundError": KeyError,
    "StorageError": OSError,
    "OutOfSpaceError": mmsb.StorageError,
    "ArgumentError": ValueError,
    "ArgumentTypeError": TypeError,
    "PageIndexError": IndexError,
}
PLAIN = [
    "PageExistsError", "ConflictError", "ReadOnlyError", "ForkedHandleError", "BusLockedError",
    "CorruptionError", "FormatVersionError", "TooManySnapshotsError", "CommitOutcomeUnknownError",
    "InternalError", "TagExistsError",
]  # fmt: skip


def test_the_exceptions_have_stable_codes_and_the_bases_people_catch() -> None:
    codes = set()
    for name in [*BASES, *PLAIN]:
        kind = getattr(mmsb, name)
        assert issubclass(kind, mmsb.MMSBError) and issubclass(kind, BASES.get(name, Exception))
        assert kind.code == kind.code.lower() and " " not in kind.code and "_" not in kind.code
        assert kind.code not in codes, kind.code
        codes.add(kind.code)
        assert kind.__module__.partition(".")[0] == "mmsb"


def test_errors_read_well_and_can_be_pickled(mem: mmsb.Bus) -> None:
    for use in (lambda: mem["nothing"], lambda: mem.snapshot(99), lambda: mem.create_page("")):
        with pytest.raises(mmsb.MMSBError) as caught:
            use()
        error = caught.value
        assert not str(error).startswith(("'", '"')), "KeyError shows the repr of its text"
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)
        assert again.code == error.code


# --- directories --------------------------------------------------------------------------------


def test_what_is_no_store(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("no store")
    file = tmp_path / "file"
    file.write_text("text")
    for path in (tmp_path / "missing", empty, other, file):
        for mode in ("r", "r+"):
            with pytest.raises(mmsb.BusNotFoundError, match=path.name):
                mmsb.open(path, mode=mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file", "other"]
    assert [p.name for p in other.iterdir()] == ["thesis.txt"] and not list(empty.iterdir())
    for path in (other, file):
        with pytest.raises(mmsb.MMSBError):
            mmsb.create(path)
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]
    with pytest.raises(mmsb.MMSBError):
        mmsb.create(tmp_path / "no" / "parent" / "here" / "\0")
    with mmsb.create(empty):
        pass


@pytest.mark.parametrize("content", [b"", b"x", b"arbitrary text " * 10_000])
def test_files_of_a_store_replaced_by_arbitrary_text(store: Path, content: bytes) -> None:
    # U2 and U7: an error, and the other files stay as they are.
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("x", data=[1, 2, 3])
        bus.checkpoint()
        bus["x"][0] = 9
    whole = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    for path, data in whole.items():
        if path.name == "lock":
            continue
        path.write_bytes(content)
        try:
            with mmsb.open(store) as bus:
                assert bus["x"][...].tolist() == [9, 2, 3], path
                assert "checkpoints" in str(path) or path.name.startswith("meta")
        except (mmsb.CorruptionError, mmsb.FormatVersionError, mmsb.BusNotFoundError) as error:
            assert "checkpoints" not in str(path), "the log alone rebuilds the state"
            assert path.name in str(error) or path.name in str(getattr(error, "file", ""))
        path.write_bytes(data)
    with mmsb.open(store, mode="r+") as bus:
        assert bus["x"][...].tolist() == [9, 2, 3]


HOLDER = """
import mmsb, sys
bus = mmsb.open(sys.argv[1], mode="r+")
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(store: Path) -> Iterator[subprocess.Popen[str]]:
    """A store that another process holds open."""
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("x", data=[1])
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout and child.stdout.readline() == "ready\n"
    yield child
    child.kill()
    child.communicate()


def test_a_locked_store_names_the_pid_that_holds_it(
    held: subprocess.Popen[str], store: Path
) -> None:
    for mode in ("r+", "a"):
        with pytest.raises(mmsb.BusLockedError, match=rf"\b{held.pid}\b"):
            mmsb.open(store, mode=mode)
    with mmsb.open(store) as reader:
        assert reader["x"][0] == 1
    held.send_signal(signal.SIGKILL)
    held.wait()
    with mmsb.open(store, mode="r+") as bus:
        bus["x"][0] = 2
        with pytest.raises(mmsb.BusLockedError, match=rf"\b{os.getpid()}\b"):
            mmsb.open(store, mode="r+")
        with mmsb.open(store) as reader:
            assert reader.epoch <= 2


def small_disk(path: Path, size: str) -> bool:
    return mounted(path, "-t", "tmpfs", "-o", f"size={size}", "none")


@pytest.fixture
def mount_point(tmp_path: Path) -> Iterator[Path]:
    """Where a test may mount; unmounted afterwards."""
    path = tmp_path / "mount"
    yield path
    subprocess.run(["umount", str(path)], capture_output=True)


def test_a_read_only_directory(mount_point: Path, tmp_path: Path) -> None:
    if os.geteuid():
        path = tmp_path / "s"
        with mmsb.create(path, durability="os") as bus:
            bus.create_page("x", data=[1])
        for place in [*path.rglob("*"), path]:
            place.chmod(0o555 if place.is_dir() else 0o444)
    else:  # permissions do not stop root
        if not small_disk(mount_point, "4m"):
            pytest.skip("root can write everywhere and no tmpfs can be mounted")
        path = mount_point / "s"
        with mmsb.create(path, durability="os") as bus:
            bus.create_page("x", data=[1])
        subprocess.run(["mount", "-o", "remount,ro", str(mount_point)], check=True)
    with mmsb.open(path) as bus:
        assert bus["x"][0] == 1 and bus.verify().ok
    with pytest.raises((mmsb.StorageError, mmsb.ReadOnlyError), match=r"s\b"):
        mmsb.open(path, mode="r+")
    with pytest.raises((mmsb.StorageError, mmsb.ReadOnlyError)):
        mmsb.create(path.parent / "new" if not os.geteuid() else path / "new")
    if os.geteuid():
        path.chmod(0o755)


FILL = """
import mmsb, numpy as np, os, resource, sys
path, limit, durability = sys.argv[1], int(sys.argv[2]), sys.argv[3]
bus = mmsb.create(path, durability=durability)
if limit:  # after the arena, a sparse file in memory, has its full length
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
acknowledged = 0
try:
    page = bus.create_page("x", shape=1000, dtype="i8")
    acknowledged = bus.epoch
    while acknowledged < 20_000:
        page.write(np.full(1000, acknowledged + 1))
        acknowledged = bus.epoch
except (mmsb.OutOfSpaceError, mmsb.CommitOutcomeUnknownError) as error:
    print(type(error).__name__, error.code)
    print(acknowledged)
if acknowledged:
    assert page[0] == page[999] == (bus.epoch if bus.epoch > 1 else 0), "reads do not go on"
    try:
        page.write(0)
        print("written")
    except mmsb.MMSBError as error:
        print(type(error).__name__)
try:
    bus.close()
except mmsb.MMSBError:
    pass
"""


def refilled(path: Path, said: str, durability: str) -> None:
    """The store holds whole epochs, every acknowledged one where promised, and takes commits."""
    lines = said.split()
    assert lines[:2] in (
        ["OutOfSpaceError", "out-of-space"],
        ["CommitOutcomeUnknownError", "commit-outcome-unknown"],
    ), said
    acknowledged = int(lines[2])
    with mmsb.open(path, mode="r+") as bus:
        assert bus.epoch <= acknowledged + 2
        assert durability == "memory" or bus.epoch >= acknowledged
        for epoch in {2, acknowledged // 2, acknowledged, bus.epoch}:
            if 1 < epoch <= bus.epoch:
                with bus.snapshot(epoch) as snap:
                    assert (snap["x"] == epoch).all()
        bus.create_page("new", data=[1])
        assert bus.verify().ok
    with mmsb.open(path) as bus:
        assert bus["new"][0] == 1


@pytest.mark.parametrize("durability", ["memory", "os", "disk"])
@pytest.mark.parametrize("limit", [300_000, 1_100_000])
def test_a_file_size_limit(store: Path, python: Runner, limit: int, durability: str) -> None:
    done = python(FILL, store, limit, durability)
    refilled(store, done.stdout, durability)


@pytest.mark.parametrize("durability", ["memory", "os", "disk"])
def test_a_full_disk(mount_point: Path, tmp_path: Path, python: Runner, durability: str) -> None:
    if not small_disk(mount_point, "3m"):
        pytest.skip("no tmpfs can be mounted here; RLIMIT_FSIZE stands for it above")
    path = mount_point / "s"
    done = python(FILL, path, 0, durability)
    copied = tmp_path / "copy"
    shutil.copytree(path, copied)  # to where there is room
    refilled(copied, done.stdout, durability)
    with mmsb.open(path) as bus:  # and the full store itself can be read
        assert durability == "memory" or bus.epoch >= int(done.stdout.split()[2])


def test_a_store_of_a_newer_format_is_refused_with_both_versions(store: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        bus.create_page("x", data=[1])
    (segment,) = (store / "log").iterdir()
    data = segment.read_bytes()
    for change in ({"major": 99}, {"required": 1 << 63}):
        segment.write_bytes(with_format(data, **change))
        for mode in ("r", "r+"):
            with pytest.raises(mmsb.FormatVersionError):
                mmsb.open(store, mode=mode)
    segment.write_bytes(with_format(data, optional=1 << 63))
    with mmsb.open(store) as bus:
        assert bus["x"][0] == 1
