"""The golden stores: stores of all formats and features, which every later version must read.

`python tests/golden.py DIRECTORY` writes one of the current format, which its name tells. With a
seed and a clock every byte of it is determined, so it also shows when the format changes without a
new version.
`make golden` is main(): it reads them all.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import mmsb
import numpy as np
import numpy.typing as npt
import plain_reader
import proof
from mmsb import _core
from model import canonical

GOLDEN = Path(__file__).parent / "golden"
MODES: list[Literal["r", "r+"]] = ["r", "r+"]
FORMAT = ".".join(map(str, _core.FORMAT))
# In one the checkpoint tells of a page run by run, in the other it has a graph: features.
CURRENT = [GOLDEN / f"{FORMAT}-runs", GOLDEN / f"{FORMAT}-graph"]


def build(path: Path, epochs: list[str]) -> None:
    """A store with one of everything; the digest of each epoch goes into the list.

    It has derived pages if its name says so.
    """
    days = itertools.count(946_728_000_000_000_000, 86_400_000_000_000)
    core = _core.Core.create(str(path), "disk", clock=days.__next__, seed=42)
    with mmsb.Bus._of(core) as bus:
        pos = bus.create_page("pos", data=np.arange(6.0).reshape(2, 3), meta={"unit": "au"})
        raw = bus.create_page(data=b"raw bytes")
        when = np.array(["2000-01-01T12:00", "2003-08-27"], "M8[s]")
        bus.create_page("when", data=when)
        bus.create_page("body", data=np.array([("Erde", 1.0), ("µ", 0.5)], "U4,<f8"))
        large = bus.create_page("large", size=40_000)
        large[16_380:16_390] = 7
        with bus.transaction(source="physics", meta={"step": 1, "date": "2000-01-02"}) as tx:
            tx["pos"] += 0.5
            tx.append("when", [np.datetime64("2010-01-01")])
            tx.tag("first step")
        raw.rename("renamed")
        pos.set_meta({"unit": "m", "n": [1, None, True, -0.5]})
        has_graph = path.name.endswith("-graph")
        # One checkpoint a store: all of it is read.
        if not has_graph:
            bus.checkpoint()
        raw.delete()
        large.resize(20_000)
        bus.tag("start", 1)
        bus.tag("start", 2, move=True)
        bus.untag("first step")
        bus.restore(8)
        bus.create_page(None, shape=(), dtype=">i2")
        if has_graph:
            derive(bus)
        epochs += [bus.digest(epoch) for epoch in range(bus.epoch + 1)]


def derive(bus: mmsb.Bus) -> None:
    """Pages that follow from others in every way, one of them stale and one poisoned."""
    bus.map("sqrt(sum(pos * pos, axis=1))", "length")
    bus.map("mean(length)", "mean", deferred=True)

    @bus.derive("total", ["large"], dtype="u8", on_error="poison")
    def add(large: npt.NDArray[np.uint8], out: npt.NDArray[np.uint64]) -> None:
        if large[0] == 13:
            raise ValueError("13")
        out[...] = large.sum()

    bus.map("total * 2", "double")
    for kind in ("control", "gpu_sync", "compiler"):
        bus.graph.link("when", "body", kind)
    bus.settle()
    with bus.transaction() as tx:
        tx["pos"][0, 0] = 4
        tx["large"][0] = 13
        tx["when"][0] = np.datetime64("2001-01-01")
    assert [p.name for p in bus.pages if p.stale] == ["body", "mean"]
    assert [p.name for p in bus.pages if p.poisoned] == ["total", "double"]
    bus.checkpoint()
    bus.graph.unlink("when", "body", "compiler")
    bus.map("max(pos)", "highest")
    bus.graph.release("highest")


def compare(bus: mmsb.Bus, states: list[plain_reader.State]) -> None:
    """Every epoch of a bus with the states that the plain reader found."""
    assert len(states) == bus.epoch + 1
    for epoch, state in enumerate(states):
        with bus.snapshot(epoch) as snap:
            assert snap.digest() == plain_reader.digest(state), epoch
            assert [p.id for p in snap.pages] == sorted(state.pages)
            for seen in snap.pages:
                page = state.pages[seen.id]
                assert (seen.name or "", seen.shape) == (page.name, page.shape)
                assert seen.dtype.itemsize == page.itemsize
                assert canonical(seen.meta) == (page.meta or "{}")
                assert snap[seen.id].tobytes() == page.data
    assert dict(bus.tags) == states[-1].tags


def content(path: Path) -> dict[str, bytes]:
    """The files of a store by their relative names, but for the lock and what is not the bus's."""
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.name not in ("lock", "digests.txt")
    }


@contextmanager
def copied(golden: Path) -> Iterator[Path]:
    """What git keeps of a store, to be opened: no empty directories, no lock."""
    with tempfile.TemporaryDirectory(prefix="mmsb-golden-") as folder:
        store = Path(folder) / "s"
        shutil.copytree(golden, store)
        yield store


def reads(golden: Path, mode: Literal["r", "r+"]) -> Counter[str]:
    """Every epoch has its digest and its bytes, and a host goes on from there."""
    digests = (golden / "digests.txt").read_text().split()
    states = plain_reader.replay(plain_reader.read_log(golden))
    assert [plain_reader.digest(state) for state in states] == digests
    before = content(golden)
    with copied(golden) as store:
        with mmsb.open(store, mode=mode) as bus:
            assert [bus.digest(epoch) for epoch in range(bus.epoch + 1)] == digests
            compare(bus, states)
            assert bus.verify().ok
            assert bus["pos"][1].tolist() == [3.5, 4.5, 5.5] and bus["pos"].meta == {"unit": "au"}
            assert bus["when"][2] == np.datetime64("2010-01-01")
            assert bus["body"][1].item() == ("µ", 0.5)
            if mode == "r+":
                bus["pos"][0] = 1
                bus.checkpoint()
        after = content(store)
        if mode == "r":
            assert after == before
            return Counter(epochs=len(states))
        kept = [name for name in before if not name.startswith("meta-")]
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        continued = plain_reader.replay(plain_reader.read_log(store))
        assert continued[: len(states)] == states and len(continued) == len(states) + 1
        with mmsb.open(store) as bus:
            compare(bus, continued)
            assert bus.verify().ok
        return Counter(epochs=len(states) + len(continued))


def writes_the_same() -> Counter[str]:
    """What is written today are the stores of the current format, byte for byte."""
    files = 0
    for golden in CURRENT:
        with tempfile.TemporaryDirectory(prefix="mmsb-golden-") as folder:
            store = Path(folder) / golden.name
            build(store, [])
            today, then = content(store), content(golden)
        assert sorted(today) == sorted(then)
        assert [name for name in today if today[name] != then[name]] == []
        files += len(today)
    return Counter(files=files)


def of_versions(golden: Path) -> Iterator[tuple[str, bytes, bool]]:
    """Files that claim another version or hold records that no version has, and who may read it."""
    newer: list[dict[str, int]] = [
        {"major": plain_reader.MAJOR + 1}, {"major": 0xFFFF}, {"required": 4},
        {"required": 1 << 63}, {"major": plain_reader.MAJOR + 1, "required": 4},
    ]  # fmt: skip
    same: list[dict[str, int]] = [
        {"minor": 1}, {"minor": 0xFFFF}, {"optional": 1}, {"optional": (1 << 64) - 1},
    ]  # fmt: skip
    for name, data in content(golden).items():
        head = 128 if name.startswith("meta-") else plain_reader.HEADER
        for claim in newer + same:
            yield name, plain_reader.with_format(data, **claim, head=head), claim in same
        if not name.startswith("log"):
            continue
        count = len(plain_reader.read_segment(golden / name, None)[0])
        # Behind the seal, the last record, nothing may stand.
        for place, kind in itertools.product(range(count), (4, 127, 128, 200, 255)):
            payload = b"whatever it is"[: 3 * place]
            flags = 255 if kind >= 128 else 0
            data_then = plain_reader.with_record(data, place, kind, flags, payload)
            yield name, data_then, kind >= 128
        yield name, plain_reader.with_record(data, 3, plain_reader.COMMIT, 8, b"\0"), False


def other_versions(golden: Path) -> Counter[str]:
    """What a reader may pass over is passed over; all else is refused, and nothing is touched."""
    seen: Counter[str] = Counter()
    digests = (golden / "digests.txt").read_text().split()
    for name, data, known in of_versions(golden):
        for mode in MODES:
            with copied(golden) as store:
                (store / name).write_bytes(data)
                before = content(store)
                try:
                    with mmsb.open(store, mode=mode) as bus:
                        assert known, f"{name}: a newer format was read"
                        assert [bus.digest(e) for e in range(bus.epoch + 1)] == digests
                        assert bus.verify().ok
                        seen["read"] += 1
                except mmsb.FormatVersionError as error:
                    assert not known, error
                    said = str(error)
                    assert name in said and "MMSB" in said and "use" in said, said
                    assert content(store) == before
                    seen["refused"] += 1
    return seen


def write(path: Path) -> None:
    """Write a golden store of the current format and its digests."""
    epochs: list[str] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    build(path, epochs)
    (path / "lock").unlink()
    (path / "digests.txt").write_text("\n".join(epochs) + "\n")


def main() -> None:
    """Read the stores of all released formats and note what came of it."""
    seen = writes_the_same()
    stores = sorted(GOLDEN.iterdir())
    for golden in stores:
        seen += reads(golden, "r") + reads(golden, "r+") + other_versions(golden)
    proof.row(
        "21-golden",
        "21 format compatibility",
        f"stores of every format ({', '.join(p.name for p in stores)}): all epochs, bytes"
        " and digests as reader and as host, continued by today's host and then read by the plain"
        " reader of FORMAT.md; written anew from the same seed; each file with other versions and"
        " features, unknown records before any other",
        f"formats: {len(stores)}, {seen['epochs']} epochs compared, {seen['files']} files written"
        f" the same byte for byte, {seen['refused']} openings of newer formats refused, no file"
        f" touched, {seen['read']} with what may be passed over read",
        42,
        "0 failures",
        "make golden",
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        write(Path(sys.argv[1]))
    else:
        main()
