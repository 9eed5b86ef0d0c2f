"""Copies of a store: the same history, made while commits go on, or nothing that opens."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import mmsb
import numpy as np
import pytest
from conftest import Runner


def filled(bus: mmsb.Bus) -> list[str]:
    """Some epochs of every kind of change, and the digest of each."""
    page = bus.create_page("x", shape=(40, 3), dtype="f4", meta={"unit": "m"})
    for step in range(30):
        page[step] = step
    bus.tag("start", 1)
    page.append(np.ones((2, 3), "f4"))
    bus.create_page("raw", data=b"bytes" * 9000)
    bus["raw"].rename("other")
    return [bus.digest(epoch) for epoch in range(bus.epoch + 1)]


def check(path: Path, digests: list[str], *, mode: str = "r") -> None:
    with mmsb.open(path, mode=mode) as copy:
        assert copy.epoch == len(digests) - 1
        assert [copy.digest(epoch) for epoch in range(len(digests))] == digests
        assert copy.recovery is not None and copy.recovery.torn_bytes == 0
        assert copy.verify().ok


def test_a_copy_has_the_history_and_its_own_future(bus: mmsb.Bus, tmp_path: Path) -> None:
    digests = filled(bus)
    told: list[tuple[int, int]] = []
    to = tmp_path / "copy"
    assert bus.backup(to, progress=lambda *both: told.append(both)) == bus.epoch
    assert told and told[-1][0] == told[-1][1]
    bus["x"][0] = 99
    check(to, digests)
    with mmsb.open(to, mode="r+") as copy:
        assert copy.tags == {"start": 1} and copy.durability == (
            "disk" if bus.path is None else bus.durability
        )
        copy["x"][0] = 5
        assert copy["x"][0, 0] == 5 and bus["x"][0, 0] == 99


def test_commits_go_on_while_it_is_made(store: Path, tmp_path: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        page = bus.create_page("x", shape=1000)
        stop = threading.Event()

        def commit() -> None:
            step = 0
            while not stop.is_set():
                page[step % 1000] = step = step + 1

        thread = threading.Thread(target=commit)
        thread.start()
        made = {number: bus.backup(tmp_path / f"copy{number}") for number in range(8)}
        stop.set()
        thread.join()
        digests = {number: bus.digest(epoch) for number, epoch in made.items()}
    for number, epoch in made.items():
        with mmsb.open(tmp_path / f"copy{number}") as copy:
            assert (copy.epoch, copy.digest()) == (epoch, digests[number])
            assert copy.verify().ok


def test_what_is_refused(bus: mmsb.Bus, store: Path, tmp_path: Path) -> None:
    filled(bus)
    with mmsb.create(tmp_path / "other"):
        pass
    with pytest.raises(mmsb.BusExistsError):
        bus.backup(tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("mine")
    with pytest.raises(mmsb.ArgumentError, match="not empty"):
        bus.backup(tmp_path / "mine")
    with pytest.raises(mmsb.StorageError):
        bus.backup(tmp_path / "no" / "where")
    with pytest.raises(mmsb.ArgumentTypeError):
        bus.backup(5)  # type: ignore[arg-type]
    if bus.path is not None:
        with pytest.raises(mmsb.ArgumentError, match="lies in the store"):
            bus.backup(Path(bus.path) / "backup")
    with bus.fork(3) as fork, pytest.raises(mmsb.ArgumentError, match="fork"):
        fork.backup(tmp_path / "fork")
    bus.close()
    with pytest.raises(mmsb.ClosedError):
        bus.backup(tmp_path / "closed")
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["notes"]


def test_damage_is_not_copied(store: Path, tmp_path: Path) -> None:
    with mmsb.create(store, durability="os") as bus:
        filled(bus)
        segment = next((store / "log").iterdir())
        with segment.open("r+b") as file:
            file.seek(5000)
            file.write(b"damage")
        with pytest.raises(mmsb.CorruptionError) as caught:
            bus.backup(tmp_path / "copy")
        assert caught.value.file == str(segment)
        assert not (tmp_path / "copy").exists()


def test_a_killed_one_is_no_store_and_is_made_again(
    store: Path, tmp_path: Path, python: Runner
) -> None:
    with mmsb.create(store, durability="os") as bus:
        page = bus.create_page("x", size=1 << 20)
        for step in range(40):
            page.write(np.full(1 << 20, step, np.uint8))
        digest = bus.digest()
    to = tmp_path / "copy"
    for after in (0, 1, 5, 20):
        python(
            "import mmsb, os, sys\n"
            "calls = 0\n"
            "def progress(done, total):\n"
            "    global calls\n"
            "    if calls == int(sys.argv[3]):\n"
            "        os.kill(os.getpid(), 9)\n"
            "    calls += 1\n"
            "mmsb.open(sys.argv[1]).backup(sys.argv[2], progress=progress)\n",
            store,
            to,
            after,
            check=False,
        )
        assert (to / "copying").exists()
        for mode in ("r", "r+"):
            with pytest.raises(mmsb.BusNotFoundError):
                mmsb.open(to, mode=mode)
    with mmsb.open(store) as bus:
        assert bus.backup(to) == bus.epoch
    assert not (to / "copying").exists()
    with mmsb.open(to) as copy:
        assert copy.digest() == digest
    shutil.rmtree(to)


def test_an_exception_in_progress_gives_up_the_copy(bus: mmsb.Bus, tmp_path: Path) -> None:
    digests = filled(bus)

    def progress(done: int, total: int) -> None:
        raise KeyError("stop")

    to = tmp_path / "copy"
    with pytest.raises(KeyError, match="stop"):
        bus.backup(to, progress=progress)
    with pytest.raises(mmsb.BusNotFoundError):
        mmsb.open(to)
    assert not list((to / "log").iterdir())
    bus.backup(to)
    check(to, digests)
