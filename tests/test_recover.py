"""Damaged stores against frozen copies of every epoch: what comes out was, the rest is told."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest
from conftest import Runner
from mmsb import _core

CHECKPOINTS = (12, 24)


class Frozen:
    """A store of some segments, closed, and all that it says of each epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        core = _core.Core.create(str(path), "os", segment_bytes=4096 + 2000)
        with mmsb.Bus._of(core) as bus:
            bus.create_page("x", shape=(40, 3), dtype="f4", meta={"unit": "m"})
            for step in range(30):
                with bus.transaction(source="physics", meta={"step": step}) as tx:
                    tx["x"][step] = step
                    if step % 5 == 0:
                        tx.create_page(f"page {step}", data=bytes([step]) * 700)
                if bus.epoch in CHECKPOINTS:
                    bus.checkpoint()
            bus.tag("start", 1)
            self.epochs = bus.epoch
        self.facts = facts(path)

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.path.glob(pattern))


def facts(path: Path) -> list[tuple[Any, ...]]:
    """Bytes of all pages, digest, and commit of each epoch."""
    with mmsb.open(path) as bus:
        commits = [None, *bus.log()]
        told = []
        for epoch in range(bus.epoch + 1):
            with bus.snapshot(epoch) as s:
                pages = [(p.id, p.name, p.meta, s[p.id].tobytes()) for p in s.pages]
            commit = commits[epoch]
            about = commit and (commit.time, commit.source, commit.meta, commit.pages)
            told.append((bus.digest(epoch), pages, about))
        return told


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Frozen:
    return Frozen(tmp_path_factory.mktemp("sound") / "s")


@pytest.fixture
def damaged(sound: Frozen, tmp_path: Path) -> Path:
    """A copy of the store, to be damaged."""
    return Path(shutil.copytree(sound.path, tmp_path / "damaged"))


def check(sound: Frozen, damaged: Path, to: Path, **wish: Any) -> mmsb.Salvage:
    """Recover, and compare all that came out; the damaged store stays as it is."""
    before = content(damaged)
    told = mmsb.recover(damaged, to, **wish)
    assert content(damaged) == before
    found = facts(to)
    assert len(found) == told.epoch + 1
    history = told.epoch if told.appended is None else told.epoch - 1
    assert found[: history + 1] == sound.facts[: history + 1]
    if told.appended is not None:
        digest, pages, about = found[-1]
        assert (digest, pages) == sound.facts[told.appended][:2]
        assert about[1:3] == ("mmsb.recover", {"recovered_epoch": told.appended})
    with mmsb.open(to, mode="r+") as bus:
        assert bus.verify().ok and bus.recovery.torn_bytes == 0
        if bus.epoch:
            bus["x"][0] = 7
    assert all(isinstance(p, mmsb.CorruptionError) and p.file for p in told.problems)
    assert told.ok == (not told.problems)
    return told


def test_a_sound_store_comes_out_whole(sound: Frozen, tmp_path: Path) -> None:
    told = check(sound, sound.path, tmp_path / "new", newest=True)
    assert told.ok and (told.epoch, told.lost, told.later) == (sound.epochs, (), ())
    with mmsb.open(tmp_path / "new") as bus:
        assert bus.tags == {"start": 1} and bus.durability == "os"
        assert bus.recovery.checkpoint_epoch == CHECKPOINTS[-1]
    told = check(sound, sound.path, tmp_path / "part", upto=7)
    assert told.ok and told.epoch == 7


@pytest.mark.parametrize("seed", range(25))
def test_a_flipped_bit(sound: Frozen, damaged: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    file = rng.choice([p for p in sorted(damaged.rglob("*")) if p.stat().st_size and p.is_file()])
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    told = check(sound, damaged, tmp_path / "new", newest=True)
    if file.parent.name in ("log", "checkpoints") or file.name.startswith("meta"):
        assert [problem.file for problem in told.problems] == [str(file)]
    known = [
        *range(told.epoch + 1),
        *(e for pair in (*told.lost, *told.later) for e in range(*pair)),
    ]
    assert set(known) >= set(range(sound.epochs + 1))


def drop(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [drop, cut, empty])
@pytest.mark.parametrize("which", range(3))
def test_a_segment_is_missing_or_cut(
    sound: Frozen, damaged: Path, tmp_path: Path, harm: Callable[[Path], None], which: int
) -> None:
    segment = sorted((damaged / "log").iterdir())[which]
    first = int(segment.stem.split("-")[1], 16)
    harm(segment)
    told = check(sound, damaged, tmp_path / "new")
    assert not told.ok and told.epoch >= first - 1 and told.appended is None
    assert told.epoch < sound.epochs or harm is cut
    told = check(sound, damaged, tmp_path / "newest", newest=True)
    assert (told.appended or told.epoch) >= CHECKPOINTS[-1]


def test_every_damaged_place_is_told_though_it_does_not_open(sound: Frozen, damaged: Path) -> None:
    assert mmsb.verify(damaged).ok
    harmed = [*sorted((damaged / "log").iterdir())[:2], next((damaged / "checkpoints").iterdir())]
    for file in harmed:
        data = bytearray(file.read_bytes())
        data[4100] ^= 1
        file.write_bytes(data)
    before = content(damaged)
    told: list[tuple[int, int]] = []
    report = mmsb.verify(damaged, progress=lambda *both: told.append(both))
    assert not report.ok and {p.file for p in report.problems} == {str(file) for file in harmed}
    assert content(damaged) == before and told[-1][0] == told[-1][1]
    with mmsb.open(sound.path, mode="r+"), pytest.raises(mmsb.BusLockedError):
        mmsb.verify(sound.path)


def test_slots_and_checkpoints_are_gone(sound: Frozen, damaged: Path, tmp_path: Path) -> None:
    for name in ("meta-0", "meta-1"):
        (damaged / name).write_bytes(bytes(4096))
    for file in (damaged / "checkpoints").iterdir():
        file.write_bytes(b"nonsense")
    (damaged / "checkpoints/notes.txt").write_text("mine")
    with pytest.raises(mmsb.CorruptionError):
        mmsb.open(damaged)
    told = check(sound, damaged, tmp_path / "new")
    assert told.epoch == sound.epochs and len(told.problems) == 4


def test_only_checkpoints_are_left(sound: Frozen, damaged: Path, tmp_path: Path) -> None:
    shutil.rmtree(damaged / "log")
    told = check(sound, damaged, tmp_path / "new", newest=True)
    assert (told.epoch, told.appended) == (1, CHECKPOINTS[1])
    told = check(sound, damaged, tmp_path / "older", newest=True, upto=20)
    assert (told.epoch, told.appended) == (1, CHECKPOINTS[0])
    for name in ("meta-0", "meta-1"):
        (damaged / name).unlink()
    told = check(sound, damaged, tmp_path / "without", newest=True)
    assert told.appended == CHECKPOINTS[1]


def test_what_is_refused(sound: Frozen, damaged: Path, tmp_path: Path) -> None:
    before = content(damaged)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("mine")
    (tmp_path / "link").symlink_to(damaged)
    mmsb.create(tmp_path / "other").close()
    new = tmp_path / "new"
    for to in (damaged, damaged / "new", tmp_path, tmp_path / "link"):
        with pytest.raises(mmsb.ArgumentError, match="lie in one another"):
            mmsb.recover(damaged, to)
    with pytest.raises(mmsb.ArgumentError, match="not empty"):
        mmsb.recover(damaged, tmp_path / "mine")
    with pytest.raises(mmsb.BusExistsError):
        mmsb.recover(damaged, tmp_path / "other")
    for none in (tmp_path / "mine", tmp_path / "nowhere"):
        with pytest.raises(mmsb.BusNotFoundError):
            mmsb.recover(none, new)
    assert not new.exists()
    with pytest.raises(mmsb.EpochNotFoundError, match="newest that is known of is"):
        mmsb.recover(damaged, new, upto=sound.epochs + 1)
    with pytest.raises(mmsb.BusNotFoundError):
        mmsb.open(new)
    for upto in (-1, 1 << 64):
        with pytest.raises(mmsb.ArgumentError):
            mmsb.recover(damaged, new, upto=upto)
    with pytest.raises(mmsb.ArgumentTypeError):
        mmsb.recover(damaged, new, upto="start")  # type: ignore[arg-type]
    with pytest.raises(mmsb.ArgumentTypeError):
        mmsb.recover(5, new)  # type: ignore[arg-type]
    with mmsb.create(tmp_path / "open") as bus:
        with pytest.raises(mmsb.BusLockedError) as caught:
            mmsb.recover(bus.path, new)
        assert caught.value.pid is not None
    assert content(damaged) == before
    check(sound, damaged, new)


def test_an_exception_in_progress_gives_it_up(sound: Frozen, damaged: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    mmsb.recover(damaged, tmp_path / "whole", progress=lambda *both: told.append(both))
    assert told == sorted(told) and told[-1][0] == told[-1][1]

    def progress(done: int, total: int) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        mmsb.recover(damaged, tmp_path / "new", progress=progress)
    with pytest.raises(mmsb.BusNotFoundError):
        mmsb.open(tmp_path / "new")
    check(sound, damaged, tmp_path / "new")


def test_a_killed_one_is_no_store_and_is_made_again(
    store: Path, tmp_path: Path, python: Runner
) -> None:
    with mmsb.create(store, durability="os") as bus:
        page = bus.create_page("x", size=1 << 20)
        for step in range(20):
            page.write(np.full(1 << 20, step, np.uint8))
        digest = bus.digest()
    to = tmp_path / "new"
    for after in (0, 5, 25, 45):
        python(
            "import mmsb, os, sys\n"
            "calls = 0\n"
            "def progress(done, total):\n"
            "    global calls\n"
            "    if calls == int(sys.argv[3]):\n"
            "        os.kill(os.getpid(), 9)\n"
            "    calls += 1\n"
            "mmsb.recover(sys.argv[1], sys.argv[2], progress=progress)\n",
            store,
            to,
            after,
            check=False,
        )
        for mode in ("r", "r+"):
            with pytest.raises(mmsb.BusNotFoundError):
                mmsb.open(to, mode=mode)
    assert mmsb.recover(store, to).ok
    with mmsb.open(to) as bus:
        assert bus.digest() == digest and not (to / "copying").exists()
