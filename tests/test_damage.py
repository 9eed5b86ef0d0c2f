"""Torn tails come back to the state before them; damage is an error; neither is a wrong state."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmsb import _core

EPOCHS = 12
State = dict[str, bytes]


def fill(bus: mmsb.Bus) -> None:
    """A few commits of every kind; the last one writes 40 bytes."""
    bus.create_page("x", data=np.arange(10))
    bus.create_page("y", data=b"raw bytes")
    with bus.transaction(source="me", meta={"step": 3}) as tx:
        tx["x"] += 1
        tx.write("y", b"RAW bytes")
    bus["x"].append([7, 8])
    bus["y"].rename("z")
    bus["z"].set_meta({"unit": "m"})
    bus.tag("t", 4)
    bus["z"].delete()
    bus.create_page("w", size=100)
    bus["w"][5:50] = 3
    bus["x"][2] = -1
    bus["x"][3:8] = [5, 5, 5, 5, 5]
    assert bus.epoch == EPOCHS


def states(bus: mmsb.Bus) -> list[State]:
    found = []
    for epoch in range(bus.epoch + 1):
        with bus.snapshot(epoch) as snap:
            found.append({name: a.tobytes() for name, a in snap.items()})
    return found


def files(path: Path) -> dict[str, bytes]:
    """All files of a store by their relative name, without the lock."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name != "lock"
    }


def put(path: Path, content: dict[str, bytes]) -> Path:
    """Lay out a store from its files."""
    shutil.rmtree(path, ignore_errors=True)
    for folder in ("log", "checkpoints", "quarantine"):
        (path / folder).mkdir(parents=True)
    (path / "lock").touch()
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.fixture(scope="module")
def unclean(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Copies of an open `os` store before and after its last commit, and all its states."""
    path = tmp_path_factory.mktemp("unclean") / "s"
    bus = mmsb.create(path, durability="os")
    fill(bus)
    bus["x"][2] = -2
    before = files(path)
    bus["x"][3:8] = [-6, -6, -6, -6, -6]  # does not end in a zero byte
    after = files(path)
    oracle = states(bus)
    digests = [bus.digest(e) for e in range(bus.epoch + 1)]
    bus.close()
    (segment,) = [n for n in after if n.startswith("log/")]
    old, new = before[segment], after[segment]
    start = next(i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b) // 8 * 8
    stop = len(new.rstrip(b"\0"))
    assert 0 < stop - start < 200, "the last record is where the two copies differ"
    yield {
        "after": after,
        "segment": segment,
        "start": start,
        "stop": stop,
        "states": oracle,
        "digests": digests,
    }


def opened(path: Path, oracle: list[State], **how: Any) -> mmsb.Bus:
    """Open a store; all its epochs must be those of the oracle."""
    bus = mmsb.open(path, **how)
    assert states(bus) == oracle[: bus.epoch + 1]
    return bus


def test_the_log_cut_at_every_byte_of_its_last_record(
    unclean: dict[str, Any], tmp_path: Path
) -> None:
    # D2 and D3: the file ends there, or zeros follow, as preallocation leaves it.
    name, start, stop = unclean["segment"], unclean["start"], unclean["stop"]
    oracle, whole = unclean["states"], unclean["after"]
    last = len(oracle) - 1
    for cut in range(start, stop):
        for zeros in (False, True):
            kept = whole[name][:cut]
            left = kept + bytes(len(whole[name]) - cut) if zeros else kept
            path = put(tmp_path / "cut", {**whole, name: left})
            torn = kept[start:].rstrip(b"\0")  # zeros at the end may be preallocated space

            content = files(path)
            with opened(path, oracle) as reader:
                assert reader.epoch == last - 1
            assert files(path) == content, "a reader writes nothing"

            with opened(path, oracle, mode="r+") as bus:
                assert bus.epoch == last - 1 and bus.digest() == unclean["digests"][last - 1]
                found = bus.recovery
                if torn:
                    assert found.torn_bytes >= len(torn)
                    saved = b"".join(Path(p).read_bytes() for p in found.quarantined)
                    assert torn in saved
                    assert all(Path(p).parent == path / "quarantine" for p in found.quarantined)
                bus["x"][0] = cut
                assert bus.epoch == last
            with mmsb.open(path) as bus:  # what was committed after the torn tail is reachable
                assert bus.epoch == last and bus["x"][0] == cut and bus.verify().ok


def test_any_byte_of_the_last_record_changed(unclean: dict[str, Any], tmp_path: Path) -> None:
    name, oracle, whole = unclean["segment"], unclean["states"], unclean["after"]
    rng = random.Random(5)
    for at in range(unclean["start"], unclean["stop"]):
        data = bytearray(whole[name])
        data[at] ^= 1 << rng.randrange(8)
        path = put(tmp_path / "flip", {**whole, name: bytes(data)})
        try:
            with opened(path, oracle, mode="r+") as bus:
                assert bus.epoch == len(oracle) - 2  # nothing proves it was whole: torn
                assert bus.recovery.torn_bytes > 0
        except mmsb.CorruptionError as error:
            assert name.rpartition("/")[2] in str(error.file)


def test_a_durable_mark_or_a_later_record_proves_damage(
    unclean: dict[str, Any], tmp_path: Path
) -> None:
    name, whole = unclean["segment"], unclean["after"]
    path = put(tmp_path / "s", whole)
    with mmsb.open(path, mode="r+", durability="disk") as bus:
        bus["x"][0] = 100
        bus["x"][0] = 101
        marked = files(path)
    newest = max(n for n in marked if n.startswith("log/"))
    data = marked[newest].rstrip(b"\0")
    for content, where in ((data[:-20], newest), (marked[name][: unclean["start"] + 9], name)):
        hurt = put(tmp_path / "hurt", {**marked, where: content})
        for mode in ("r", "r+"):
            with pytest.raises(mmsb.CorruptionError) as caught:
                mmsb.open(hurt, mode=mode)
            assert where.rpartition("/")[2] in str(caught.value.file)
        assert files(hurt) == {**marked, where: content}, "a refused store is left as it is"


def test_a_disk_commit_cut_off_is_damage(store: Path, tmp_path: Path) -> None:
    with mmsb.create(store, durability="disk") as bus:
        fill(bus)
        whole = files(store)  # not sealed, but synced: the meta slot says how far
    (name,) = [n for n in whole if n.startswith("log/")]
    end = len(whole[name].rstrip(b"\0"))
    for cut in range(end - 60, end, 7):
        path = put(tmp_path / "cut", {**whole, name: whole[name][:cut]})
        with pytest.raises(mmsb.CorruptionError) as caught:
            mmsb.open(path, mode="r+")
        assert caught.value.offset is not None and caught.value.code == "corruption"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A small closed store with two checkpoints, its files and its states."""
    path = tmp_path_factory.mktemp("sealed") / "s"
    with mmsb.create(path, durability="os") as bus:
        fill(bus)
        bus.checkpoint()
        bus["x"][0] = 1000
        bus.checkpoint()
        bus["x"][1] = 1001
        oracle = states(bus)
    return {"files": files(path), "states": oracle}


PARTS = 6


@pytest.mark.parametrize("part", range(PARTS))
def test_a_flipped_bit_anywhere(sealed: dict[str, Any], tmp_path: Path, part: int) -> None:
    """Flip one bit of every byte of every file; header padding every 16th byte, as it is long."""
    oracle, whole = sealed["states"], sealed["files"]
    rng = random.Random(part)
    path = put(tmp_path / "s", whole)
    seen = {"refused": 0, "harmless": 0}
    for name, data in whole.items():
        at = part
        while at < len(data):
            padding = not any(data[max(0, at - 64) : at + 64])
            hurt = bytearray(data)
            hurt[at] ^= 1 << rng.randrange(8)
            (path / name).write_bytes(hurt)
            try:
                bus = mmsb.open(path)
            except (mmsb.CorruptionError, mmsb.FormatVersionError) as error:
                seen["refused"] += 1
                if isinstance(error, mmsb.CorruptionError):
                    assert name.rpartition("/")[2] in str(error.file), (name, at)
            except mmsb.BusNotFoundError as error:
                assert name.rpartition("/")[2] in str(error), (name, at)
            else:
                with bus:
                    try:
                        assert states(bus) == oracle, (name, at)
                    except mmsb.CorruptionError as error:
                        seen["refused"] += 1
                        assert name.rpartition("/")[2] in str(error.file), (name, at)
                    else:
                        seen["harmless"] += 1
                        report = bus.verify()
                        assert not report.ok, (name, at, "verify walks every byte")
                        assert any(name.rpartition("/")[2] in str(p.file) for p in report.problems)
            at += PARTS * (16 if padding else 1)
        (path / name).write_bytes(data)
    print(seen)
    assert seen["refused"] > 100
    with opened(path, oracle) as bus:
        assert bus.verify().ok


def test_corruption_names_file_offset_and_epoch(store: Path, tmp_path: Path) -> None:
    # D1: a changed byte in the payload of an early commit.
    with mmsb.create(store, durability="os") as bus:
        fill(bus)
    (path,) = (store / "log").iterdir()
    data = bytearray(path.read_bytes())
    at = data.index(b"RAW bytes")
    data[at] ^= 128
    path.write_bytes(data)
    for mode in ("r", "r+"):
        with pytest.raises(mmsb.CorruptionError) as caught:
            mmsb.open(store, mode=mode)
        error = caught.value
        assert Path(error.file) == path and error.epoch == 3
        assert 4096 <= error.offset <= at
        assert str(error.offset) in str(error) and path.name in str(error)


def test_a_damaged_checkpoint_is_passed_over_and_reported(
    sealed: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    oracle, whole = sealed["states"], sealed["files"]
    for name in [n for n in whole if n.startswith("checkpoints/")]:
        for content in (whole[name][:-1], whole[name][:4200], b"", whole[name][:-9] + b"\1" * 9):
            path = put(tmp_path / "s", {**whole, name: content})
            caplog.clear()
            with caplog.at_level("WARNING", logger="mmsb"), opened(path, oracle) as bus:
                report = bus.verify()
            assert not report.ok
            assert all(isinstance(p, mmsb.CorruptionError) for p in report.problems)
            assert any(name.rpartition("/")[2] in str(p.file) for p in report.problems)
            assert any(r.name.startswith("mmsb") for r in caplog.records), "it warns"


def test_missing_and_foreign_files(sealed: dict[str, Any], tmp_path: Path, store: Path) -> None:
    oracle, whole = sealed["states"], sealed["files"]
    (segment,) = [n for n in whole if n.startswith("log/")]
    for name in whole:
        path = put(tmp_path / "s", {k: v for k, v in whole.items() if k != name})
        try:
            bus = mmsb.open(path)
        except (mmsb.CorruptionError, mmsb.BusNotFoundError):
            assert "checkpoints" not in name
        else:
            with bus:
                assert name != segment and states(bus) == oracle
    with mmsb.create(store, durability="os") as bus:
        fill(bus)
    (theirs,) = [v for k, v in files(store).items() if k.startswith("log/")]
    path = put(tmp_path / "s", {**whole, segment: theirs})  # a segment of another store
    with pytest.raises(mmsb.CorruptionError):
        mmsb.open(path)
    path = put(tmp_path / "s", {**whole, "log/notes.txt": b"mine", "readme": b"mine"})
    with opened(path, oracle, mode="r+"):  # files that are not ours are left alone
        pass
    assert (path / "readme").read_bytes() == (path / "log/notes.txt").read_bytes() == b"mine"


def test_a_log_whose_end_is_another_logs_record(unclean: dict[str, Any], tmp_path: Path) -> None:
    """A record copied to another offset, twice over or into a page is never taken for a record."""
    name, oracle, whole = unclean["segment"], unclean["states"], unclean["after"]
    start, stop = unclean["start"], (unclean["stop"] + 7) // 8 * 8
    data = bytearray(whole[name])
    record = bytes(data[start:stop])
    data[stop : stop + len(record)] = record
    path = put(tmp_path / "s", {**whole, name: bytes(data)})
    with opened(path, oracle, mode="r+") as bus:
        assert bus.epoch == len(oracle) - 1
        bus.create_page("log inside a page", data=record * 3)
        bus["x"][0] = 77
    with mmsb.open(path) as bus:
        assert bus.epoch == len(oracle) + 1 and bus.verify().ok


def test_lengths_that_promise_more_than_there_is(unclean: dict[str, Any], tmp_path: Path) -> None:
    name, whole = unclean["segment"], unclean["after"]
    for at in range(unclean["start"], unclean["start"] + 32, 2):
        data = bytearray(whole[name])
        data[at : at + 8] = struct.pack("<Q", 2**63 - 1)
        path = put(tmp_path / "s", {**whole, name: bytes(data)})
        with mmsb.open(path) as bus:
            assert bus.epoch == len(unclean["states"]) - 2


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A closed store whose log has many segments, and its states."""
    path = tmp_path_factory.mktemp("segments") / "s"
    core = _core.Core.create(str(path), "os", segment_bytes=8192)
    rng = np.random.default_rng(2)
    with mmsb.Bus._of(core) as bus:
        page = bus.create_page("x", size=3000)
        for i in range(40):
            page[i * 50 : i * 50 + 900] = rng.integers(0, 256, 900, np.uint8)
            if i == 20:
                bus.checkpoint()
        oracle = states(bus)
    found = files(path)
    assert sum(name.startswith("log/") for name in found) > 4
    return {"files": found, "states": oracle}


@st.composite
def damages(draw: Any, whole: dict[str, bytes]) -> dict[str, bytes | None]:
    """One file changed in a way that media, copying or people bring about; None: it is gone."""
    names = sorted(whole)
    name = draw(st.sampled_from(names))
    data = whole[name]
    # Sizes depend on the run, so what is drawn must not depend on them.
    places = st.integers(0, 2**32 - 1).map(lambda place: place % len(data))
    kind = draw(st.sampled_from(["flips", "zeros", "old", "move", "cut", "grow", "gone", "swap"]))
    hurt = bytearray(data)
    if kind == "flips":
        flips = draw(st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=5))
        for at, bits in dict(flips).items():
            hurt[at] ^= bits
    elif kind == "zeros":
        at = draw(places) // 512 * 512
        hurt[at : at + 512] = bytes(len(hurt[at : at + 512]))
    elif kind in ("old", "move"):
        source, target = draw(places) // 8 * 8, draw(places) // 8 * 8
        n = draw(st.sampled_from([8, 512, 4096])) if kind == "move" else 512
        block = data[source : source + n]
        hurt[target : target + len(block)] = block[: len(hurt) - target]
    elif kind == "cut":
        del hurt[draw(places) :]
    elif kind == "grow":
        hurt += draw(st.sampled_from([b"\1", bytes(8), bytes(5000), data[-4096:]]))
    elif kind == "gone":
        return {name: None}
    else:
        # Of one kind: the last segment and the slot that proves it are not lost at once.
        other = draw(st.sampled_from([n for n in names if n[:4] == name[:4]]))
        return {name: whole[other], other: data}
    return {name: bytes(hurt)}


@given(data=st.data())
def test_random_damage_of_a_log_of_many_segments(
    data: st.DataObject, segments: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    oracle, whole = segments["states"], segments["files"]
    changed = data.draw(damages(whole))
    hurt = {k: v for k, v in {**whole, **changed}.items() if v is not None}
    path = put(tmp_path_factory.getbasetemp() / "random-damage", hurt)
    for mode in ("r", "r+"):
        try:
            bus = mmsb.open(path, mode=mode)
        except (mmsb.CorruptionError, mmsb.FormatVersionError, mmsb.BusNotFoundError):
            assert files(path) == hurt, "a refused store is left as it is"
            continue
        with bus:
            try:
                seen = states(bus)
            except mmsb.CorruptionError:
                assert not bus.verify().ok
            else:
                assert seen == oracle, "it was closed: every epoch is proved, none may be lost"
