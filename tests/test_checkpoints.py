"""What a checkpoint takes: unchanged blocks, zeros, compression; when one is made."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any, Literal

import mmsb
import numpy as np
import numpy.typing as npt
import plain_reader
import pytest
from proof import open_files

KIB = 1 << 10
RNG = np.random.default_rng(7)


def checkpoints(store: Path) -> dict[int, int]:
    """Their sizes by epoch."""
    paths = (store / "checkpoints").glob("0*.ckpt")
    return {int(path.stem, 16): path.stat().st_size for path in paths}


def same(store: Path, epoch: int, want: dict[str, npt.NDArray[Any]]) -> None:
    """What the file says of an epoch, read in plain Python, and what a host and a reader show."""
    state, digest, _ = plain_reader.read_checkpoint(store / "checkpoints" / f"{epoch:016x}.ckpt")
    assert {page.name: page.data for page in state.pages.values()} == {
        name: data.tobytes() for name, data in want.items()
    }
    for mode in ("r", "r+"):
        with mmsb.open(store, mode=mode) as bus:  # type: ignore[arg-type]
            assert bus.digest(epoch) == digest
            with bus.snapshot(epoch) as snap:
                for name, data in want.items():
                    assert np.array_equal(snap[name], data)
            assert bus.verify().ok


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_unchanged_blocks_are_not_written_again(
    store: Path, compression: Literal["lz4"] | None
) -> None:
    noise = RNG.integers(0, 256, 500 * KIB, np.uint8)
    words = np.tile(np.arange(100, dtype=np.uint16), 2000)
    with mmsb.create(store, durability="os", compression=compression) as bus:
        bus.create_page("noise", data=noise)
        bus.create_page("words", data=words)
        first = bus.checkpoint()
        bus["noise"][200_000] = noise[200_000] = noise[200_000] ^ 1
        second = bus.checkpoint()
    sizes = checkpoints(store)
    assert sizes[first] > 500 * KIB
    assert (sizes[first] < 700 * KIB) == (compression is not None)
    assert sizes[second] < 16 * KIB + 12 * KIB
    same(store, second, {"noise": noise, "words": words})


def test_zeros_take_no_room(store: Path) -> None:
    grid = np.zeros((1000, 1000))
    grid[500, 500] = 1
    with mmsb.create(store) as bus:
        bus.create_page("grid", data=grid)
        epoch = bus.checkpoint()
    assert checkpoints(store)[epoch] < 40 * KIB
    same(store, epoch, {"grid": grid})


def test_one_is_made_every_so_many_epochs(store: Path) -> None:
    with mmsb.create(store, durability="os", checkpoint_every=10) as bus:
        page = bus.create_page("x", data=[0.0])
        seen: set[int] = set()
        while len(seen) < 3:
            page[0] = page[0] + 1
            seen |= checkpoints(store).keys()
        # Each is of an epoch at least ten behind the one before.
        epochs = sorted(seen)
        assert epochs[0] >= 10 and all(b - a >= 10 for a, b in itertools.pairwise(epochs))
        newest = bus.epoch
    with mmsb.open(store, mode="r+", checkpoint_every=1000) as bus:
        assert bus.recovery is not None and bus.recovery.checkpoint_epoch is not None
        before = checkpoints(store).keys()
        for _ in range(100):
            bus["x"][0] = bus["x"][0] + 1
        assert bus.epoch == newest + 100
    assert checkpoints(store).keys() == before


def test_one_that_was_thinned_leaves_the_disk(store: Path) -> None:
    def epochs() -> list[int]:
        return sorted(int(path.stem, 16) for path in (store / "checkpoints").glob("0*.ckpt"))

    with mmsb.create(store, checkpoint_every=10) as bus:
        page = bus.create_page("x", data=0)
        for _ in range(100):
            while len(epochs()) < 3:
                page.write(bus.epoch + 1)
            victim = epochs()[-2]
            with bus.snapshot(victim) as snap:  # begins with that checkpoint
                assert snap["x"] == victim
            for _ in range(60):
                page.write(bus.epoch + 1)
            if victim not in epochs():
                break
        assert victim not in epochs()
        bus.checkpoint()  # behind one that may be under way
        assert not [path for path in open_files().values() if "ckpt (deleted)" in path]


def test_commits_go_on_beside_checkpoints(store: Path) -> None:
    """What a checkpoint shows is one epoch, however many commits are made while it is written."""
    with mmsb.create(store, durability="os", compression="lz4") as bus:
        pages = [bus.create_page(f"p{n}", shape=50_000) for n in range(20)]
        done = threading.Event()

        def work() -> None:
            for _ in range(8):
                bus.checkpoint()
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        step = 0
        while not done.is_set():
            step += 1
            with bus.transaction() as tx:
                for page in pages:
                    tx[page][step * 37 % 50_000] = step
        thread.join()
    with mmsb.open(store) as bus:
        assert bus.verify().ok
        for epoch in checkpoints(store):
            with bus.snapshot(epoch) as snap:
                first = snap["p0"]
                assert all(np.array_equal(snap[f"p{n}"], first) for n in range(20))


def test_it_is_refused(store: Path) -> None:
    wrong: Any = "gzip"
    with pytest.raises(mmsb.ArgumentError, match="'gzip'"):
        mmsb.create(store, compression=wrong)
    for every in (0, -1, 1 << 64):
        with pytest.raises(mmsb.ArgumentError, match="checkpoint_every must be between 1"):
            mmsb.create(store, checkpoint_every=every)
    assert not store.exists()
    mmsb.create(store).close()
    with pytest.raises(mmsb.ArgumentError, match="checkpoint_every"):
        mmsb.open(store, mode="r+", checkpoint_every=0)
    with pytest.raises(mmsb.ArgumentError, match="'gzip'"):
        mmsb.open(store, compression=wrong)
