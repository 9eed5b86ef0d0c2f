"""Retention on disk: what goes, what stays, and that nothing else can happen."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mmsb
import numpy as np
import plain_reader
import pytest
from fills import DISKS, disk
from mmsb import _core


def made(store: Path, epochs: int = 60, checkpoints: tuple[int, ...] = ()) -> mmsb.Bus:
    """A bus of small segments whose epoch e has x[0] == e."""
    core = _core.Core.create(str(store), "os", segment_bytes=1 << 16)
    bus = mmsb.Bus._of(core)
    x = bus.create_page("x", data=np.ones(500))
    for epoch in range(2, epochs + 1):
        x.write(np.full(500, epoch), meta={"step": epoch})
        if epoch in checkpoints:
            assert bus.checkpoint() == epoch
    # Beside the commits an index may be made later than a test looks; the close makes all.
    bus.close()
    return mmsb.Bus._of(_core.Core.open(str(store), "r+", segment_bytes=1 << 16))


def opens(bus: mmsb.Bus) -> set[int]:
    """The epochs that open, each compared; all others say that they were let go."""
    found = set()
    for epoch in range(bus.epoch + 1):
        try:
            with bus.snapshot(epoch) as snap:
                assert (snap["x"][0] == epoch) if epoch else (list(snap) == [])
                found.add(epoch)
        except mmsb.EpochNotFoundError as error:
            assert "let go" in str(error) and f"epoch {epoch} " in str(error)
    return found


def files(store: Path) -> dict[str, int]:
    """Every file of a store and its size, the lock left out."""
    paths = (p for p in store.rglob("*") if p.is_file() and p.name != "lock")
    return {str(p.relative_to(store)): p.stat().st_size for p in paths}


def test_the_log_is_cut_before_an_epoch(store: Path) -> None:
    with made(store, checkpoints=(10, 30)) as bus:
        before, content = files(store), {p: p.read_bytes() for p in store.rglob("*.ckpt")}
        told = bus.prune(log_since=40, dry_run=True)
        assert files(store) == before
        report = bus.prune(log_since=40)
        assert report == told
        assert (report.oldest, report.epochs, report.checkpoints) == (30, ((0, 30),), ())
        after = files(store)
        gone = {str(path.relative_to(store)): size for path, size in report.files}
        assert before.keys() - after.keys() == gone.keys()
        assert {name: before[name] for name in gone} == gone
        assert report.bytes == sum(gone.values()) > 0
        kept = store / "checkpoints" / f"{30:016x}.ckpt"
        assert kept.read_bytes() == content[kept]
        assert opens(bus) == set(range(30, 61))
        assert [c.epoch for c in bus.log(since=0)] == list(range(31, 61))
        assert next(bus.log(reverse=True)).epoch == 60
        assert [c.epoch for c, _ in bus["x"].history(index=0)] == list(range(31, 61))
        assert next(bus["x"].history(since=50, until=50))[1][0] == 50
        assert bus.digest(30) != bus.digest(31)
        assert [d.name for d in bus.diff(30, 60)] == ["x"]
        for call in (bus.digest, bus.restore, bus.fork, bus.snapshot, lambda e: bus.tag("t", e)):
            with pytest.raises(mmsb.EpochNotFoundError, match="oldest that opens is 30"):
                call(29)
        with pytest.raises(mmsb.EpochNotFoundError):
            bus.snapshot(meta={"step": 29})
        with bus.snapshot(meta={"step": 31}) as snap:
            assert snap.epoch == 31
        assert bus.verify().ok
    for mode in ("r", "r+"):
        with mmsb.open(store, mode=mode) as bus:
            assert bus.epoch == 60 and opens(bus) == set(range(30, 61))
            assert bus.verify().ok


def test_moments_before_the_base(store: Path) -> None:
    ticks = iter(range(1000, 100_000, 1000))
    with mmsb.create(store, clock=ticks.__next__, durability="os") as bus:
        x = bus.create_page("x", data=[1])
        for epoch in range(2, 30):
            x[0] = epoch
        bus.prune(log_since=20)
        for time_, epoch in ((20_000, 20), (20_999, 20), (21_000, 21), (10**9, 29)):
            with bus.snapshot(as_of=time_) as snap:
                assert snap.epoch == epoch
        with pytest.raises(mmsb.EpochNotFoundError):
            bus.snapshot(as_of=19_999)


def test_tags_stay_until_they_are_taken_away(store: Path) -> None:
    with made(store, checkpoints=(30,)) as bus:
        bus.tag("good", 17)
        bus.tag("begin", 30)
        assert bus.epoch == 62
        bus["x"].write(np.full(500, 63))
        report = bus.prune(log_since=63)
        assert report.checkpoints == (17,) and report.oldest == 17
        assert report.epochs == ((0, 17), (18, 30))
    with mmsb.open(store, mode="r+") as bus:
        with bus.snapshot("good") as snap:
            assert snap["x"][0] == 17
        assert bus.restore("good") == 64 and bus["x"][0] == 17
        bus.untag("good")
        # What nobody asks to let go stays.
        assert bus.prune().files == ()
        assert bus.prune(checkpoints=0).epochs == ((17, 18),)
        with pytest.raises(mmsb.EpochNotFoundError, match="oldest that opens is 30"):
            bus.snapshot(17)


def test_policies(store: Path) -> None:
    with made(store, checkpoints=tuple(range(3, 60, 6))) as bus:  # 3, 9, ..., 57
        ask = {"log_since": 50, "dry_run": True}

        def left(**more: int) -> list[int]:
            report = bus.prune(**ask, **more)  # type: ignore[arg-type]
            gone = {int(p.stem, 16) for p, _ in report.files if p.suffix == ".ckpt"}
            return sorted(set(range(3, 45, 6)) - gone)

        assert left() == []
        assert left(checkpoints=2) == [33, 39]
        assert left(checkpoints=100) == list(range(3, 45, 6))
        # 20 has 15, 40 has 39, 0 has none.
        assert left(every=20) == [15, 39]
        assert left(every=20, checkpoints=2) == [15, 33, 39]
        assert left(every=3) == list(range(3, 45, 6))
        assert bus.prune(log_since=50, every=20).epochs == ((0, 15), (16, 39), (40, 45))
        assert opens(bus) == {15, 39, *range(45, 61)}
        # Asked again nothing goes.
        assert bus.prune(log_since=50, every=20).files == ()


def test_a_snapshot_stays_whole(store: Path) -> None:
    bus = made(store, checkpoints=(30,))
    old, array = bus.snapshot(12), bus.snapshot(13)["x"]
    iterator = bus.log()
    next(iterator)
    bus.prune(log_since=40)
    assert old["x"][0] == 12 and old.digest() and array[499] == 13
    with pytest.raises(mmsb.EpochNotFoundError, match="let go while"):
        list(iterator)
    with bus.fork(old) as fork:
        assert fork["x"][7] == 12
    assert bus.restore(old) == 61 and bus["x"][0] == 12
    bus.close()
    assert old["x"][1] == 12
    old.close()


def test_epochs_are_named_in_every_way(store: Path) -> None:
    with made(store) as bus:
        bus.tag("here", 40)
        commit = next(bus.log(since=41))
        with bus.snapshot(42) as snap:
            assert bus.prune(log_since="here", dry_run=True).oldest == 40
            assert bus.prune(log_since=commit, dry_run=True).oldest == 40  # the tag
            assert bus.prune(log_since=snap, dry_run=True).checkpoints == (40, 42)
        assert bus.prune(log_since=np.int64(61), checkpoints=np.int8(0)).oldest == 40


def test_what_is_refused(store: Path, mem: mmsb.Bus) -> None:
    with pytest.raises(mmsb.ArgumentError, match="in memory has no files"):
        mem.prune()
    bus = made(store, checkpoints=(30,))
    before = files(store)
    for wrong in ({"checkpoints": -1}, {"every": 0}, {"every": -5}, {"checkpoints": 1 << 64}):
        with pytest.raises(mmsb.ArgumentError):
            bus.prune(log_since=40, **wrong)  # type: ignore[arg-type]
    for wrong_type in ({"checkpoints": 1.5}, {"every": "2"}, {"checkpoints": True}):
        with pytest.raises(mmsb.ArgumentTypeError):
            bus.prune(log_since=40, **wrong_type)  # type: ignore[arg-type]
    for beyond in (61, 1 << 63, 1 << 70, -1):
        with pytest.raises(mmsb.EpochNotFoundError):
            bus.prune(log_since=beyond)
    with pytest.raises(mmsb.TagNotFoundError):
        bus.prune(log_since="nothing")

    def progress(done: int, total: int) -> None:
        with pytest.raises(mmsb.ArgumentError, match="backup"):
            bus.prune(log_since=40)

    bus.backup(store.with_name("copy"), progress=progress)
    assert files(store) == before
    with mmsb.open(store) as reader, pytest.raises(mmsb.ReadOnlyError):
        reader.prune()
    bus.close()
    with pytest.raises(mmsb.ClosedError):
        bus.prune()


def test_damage_stops_it_or_is_passed_over(store: Path) -> None:
    with made(store, checkpoints=(20, 30)) as bus:
        path = store / "checkpoints" / f"{30:016x}.ckpt"
        with path.open("r+b") as file:
            file.seek(6000)
            file.write(b"damage")
        # The one before is sound.
        assert bus.prune(log_since=40).oldest == 20
        assert opens(bus) == set(range(20, 61))
    base = store / "checkpoints" / f"{20:016x}.ckpt"
    sound = base.read_bytes()
    path.unlink()
    for damaged in (sound[:-1], sound[:5000] + b"!" + sound[5001:], b""):
        base.write_bytes(damaged)
        for mode in ("r", "r+"):
            # A reader meets the damage of a page when it comes to it.
            with (
                pytest.raises(mmsb.CorruptionError) as caught,
                mmsb.open(store, mode=mode) as bus,
            ):
                bus.digest()
            assert caught.value.file == str(base)
    base.unlink()
    with pytest.raises(mmsb.CorruptionError) as caught:
        mmsb.open(store)
    assert caught.value.file == str(base)
    base.write_bytes(sound)
    with mmsb.open(store, mode="r+") as bus:
        assert opens(bus) == set(range(20, 61))


def test_either_slot_is_enough(store: Path) -> None:
    with made(store) as bus:
        bus.prune(log_since=40)
    for name in ("meta-0", "meta-1"):
        copy = store.with_name(name)
        shutil.copytree(store, copy)
        (copy / name).write_bytes(bytes(4096))
        for mode in ("r", "r+"):
            with mmsb.open(copy, mode=mode) as bus:
                assert opens(bus) == set(range(40, 61))


def test_readers_and_backups_of_a_pruned_store(store: Path, tmp_path: Path) -> None:
    with made(store, checkpoints=(20,)) as bus:
        bus.prune(log_since=30, checkpoints=1)
        bus.tag("x", 25)
        bus.backup(tmp_path / "copy")
        with mmsb.open(store) as reader:
            bus.checkpoint()
            assert bus.prune(log_since=61).oldest == 25
            assert reader["x"][0] == 60
            with pytest.raises(mmsb.EpochNotFoundError):
                reader.snapshot(22)
            with reader.snapshot(25) as snap:
                assert snap["x"][0] == 25
    with mmsb.open(tmp_path / "copy", mode="r+") as copy:
        assert copy.verify().ok
        copy.untag("x")
        with copy.snapshot(20) as snap:
            assert snap["x"][0] == 20
        with pytest.raises(mmsb.EpochNotFoundError):
            copy.snapshot(19)


def test_the_reader_made_from_the_document(store: Path) -> None:
    with made(store, checkpoints=(20, 30)) as bus:
        bus.tag("t", 7)
        bus["x"].write(np.full(500, 62))
        bus.prune(log_since=35, checkpoints=1)
    meta = plain_reader.read_meta(store)
    assert meta["base_epoch"] == 30 and meta["base_seq"] > 0 and meta["parent"] == (bytes(16), 0)
    states = plain_reader.states_of(store)
    with mmsb.open(store) as bus:
        expected = [7, 20, *range(30, 63)]
        assert list(states) == expected
        for epoch, state in states.items():
            assert plain_reader.digest(state) == bus.digest(epoch)


def test_commits_and_tags_go_on_meanwhile(store: Path) -> None:
    core = _core.Core.create(str(store), "os", segment_bytes=1 << 16)
    with mmsb.Bus._of(core) as bus:
        page = bus.create_page("x", shape=500)
        stop, tagged = threading.Event(), dict[str, int]()

        def commit() -> None:
            step = 0
            while not stop.is_set():
                step += 1
                page.write(step, meta={"step": step})
                if step % 50 == 0:
                    try:
                        bus.tag(f"tag {step}", bus.epoch - step % 7 * 5)
                    except mmsb.EpochNotFoundError:
                        continue
                    tagged[f"tag {step}"] = bus.tags[f"tag {step}"]

        thread = threading.Thread(target=commit)
        thread.start()
        for _ in range(12):
            time.sleep(0.02)
            with bus.snapshot() as snap:
                expected = snap.digest()
                assert bus.prune(log_since=max(0, snap.epoch - 40)).oldest <= snap.epoch
                assert bus.digest(snap.epoch) == expected
        stop.set()
        thread.join()
        for epoch in tagged.values():
            bus.snapshot(epoch).close()
        assert bus.verify().ok


CHILD = """
import sys, numpy as np, mmsb
from mmsb import _core
path, first = sys.argv[1], int(sys.argv[2])
if first:
    core = _core.Core.open(path, "r+", segment_bytes=1 << 16)
else:
    core = _core.Core.create(path, "os", segment_bytes=1 << 16)
bus = mmsb.Bus._of(core)
if not first:
    bus.create_page("x", data=np.ones(300))
print("ready", flush=True)
tags = 0
while True:
    for _ in range(40):
        bus["x"].write(np.full(300, bus.epoch + 1))
    if bus.epoch % 3 == 0:
        bus.tag(f"t{bus.epoch}", bus.epoch - 11)
        bus["x"].write(np.full(300, bus.epoch + 1))
    if bus.epoch % 2 == 0:
        bus.checkpoint()
    report = bus.prune(log_since=bus.epoch - 25, checkpoints=1, every=100)
    print("kept", report.oldest, bus.epoch, flush=True)
"""


def test_killed_at_any_moment(store: Path) -> None:
    rng = random.Random(5)
    seen = pruned = 0
    for life in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store), str(life)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent,
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.01, 0.3))
        os.kill(child.pid, signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
        told = [tuple(map(int, line.split()[1:])) for line in lines if line.startswith("kept")]
        with mmsb.open(store, mode="r+") as bus:
            if told:
                pruned += 1
                assert bus.epoch >= told[-1][1]
            base = plain_reader.read_meta(store)["base_epoch"]
            checkpoints = {int(p.stem, 16) for p in (store / "checkpoints").glob("0*.ckpt")}
            tags = set(bus.tags.values())
            some = {0, base - 1, base, base + 1, bus.epoch} | {
                *range(0, bus.epoch, 1 + bus.epoch // 30)
            }
            some |= {*sorted(tags)[-10:]} | {*sorted(checkpoints)[-10:]}
            for epoch in sorted(some & {*range(bus.epoch + 1)}):
                if epoch >= base or epoch in checkpoints:
                    with bus.snapshot(epoch) as snap:
                        value = snap["x"][0] if epoch else 0
                        assert value == epoch or epoch - value == 1  # a tag is an epoch too
                        seen += 1
                else:
                    assert epoch not in tags
                    with pytest.raises(mmsb.EpochNotFoundError):
                        bus.snapshot(epoch)
            assert bus.verify().ok
            first = min(int(p.name[:16], 16) for p in (store / "log").glob("*.mlog"))
            assert first == plain_reader.read_meta(store)["base_seq"]
    assert seen > 100 and pruned > 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", DISKS)
def test_a_full_disk_loses_nothing(kind: str, tmp_path: Path) -> None:
    with disk(kind, tmp_path) as on:
        if on is None:
            pytest.skip(f"no {kind} can be mounted here")
        store = on.path / "s"
        core = _core.Core.create(str(store), "os", segment_bytes=1 << 16)
        with mmsb.Bus._of(core) as bus:
            x = bus.create_page("x", data=np.ones(30_000))
            for epoch in range(2, 30):
                x.write(np.full(30_000, epoch))
            bus.tag("t", 10)
            bus.sync()
            on.fill(2_000)
            with pytest.raises(mmsb.StorageError):
                bus.prune(log_since=20)
            if not on.opens_while_full:
                on.free()
            for epoch in range(1, 30):
                with bus.snapshot(epoch) as snap:
                    assert snap["x"][0] == epoch
            on.free()
            report = bus.prune(log_since=20)
            assert (report.oldest, report.checkpoints) == (10, (10, 20))
            x.write(np.full(30_000, 31))
            assert bus.verify().ok
        with mmsb.open(store, mode="r+") as bus:
            assert opens_of(bus) == {10, *range(20, 32)}


def opens_of(bus: mmsb.Bus) -> set[int]:
    """The epochs that open."""
    found = set()
    for epoch in range(bus.epoch + 1):
        try:
            bus.snapshot(epoch).close()
        except mmsb.EpochNotFoundError:
            continue
        found.add(epoch)
    return found
