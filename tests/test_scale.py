"""A million pages, and a state of 84 MiB rebuilt from the log alone."""

from __future__ import annotations

from pathlib import Path

import mmsb
import numpy as np
import pytest

PAGES, SIZE, BATCH = 1_000_000, 1024, 100_000


def row(ids: np.ndarray, salt: int) -> np.ndarray:
    """The bytes of pages by their ids: different everywhere, cheap to make and to check."""
    steps = np.arange(SIZE // 8, dtype=np.uint64)
    mixed = (ids.astype(np.uint64)[:, None] + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed + steps).view(np.uint8).reshape(len(ids), SIZE)


def test_a_million_pages_are_created_written_and_reopened(store: Path) -> None:
    ids = np.arange(1, PAGES + 1, dtype=np.uint64)
    with mmsb.create(store, durability="os") as bus:
        for _ in range(0, PAGES, BATCH):
            with bus.transaction() as tx:
                for _ in range(BATCH):
                    tx.create_page(size=SIZE)
        for start in range(0, PAGES, BATCH):
            part = ids[start : start + BATCH]
            bus.write_many(part, np.zeros(BATCH, np.uint64), row(part, 1))
        assert bus.epoch == 2 * PAGES // BATCH and len(bus.pages) == PAGES
        with bus.snapshot() as snap:
            picked = np.random.default_rng(1).integers(1, PAGES + 1, 2000, dtype=np.uint64)
            picked.sort()
            bus.write_many(picked[:1000], np.zeros(1000, np.uint64), row(picked[:1000], 2))
            for i, wanted in zip(picked, row(picked, 1), strict=True):
                assert snap[int(i)].tobytes() == wanted.tobytes()
        digest = bus.digest()
    changed = set(picked[:1000].tolist())
    with mmsb.open(store, mode="r+") as bus:
        assert len(bus.pages) == PAGES and bus.digest() == digest
        for start in range(0, PAGES, PAGES // 20):
            part = ids[start : start + 500]
            for i, one, two in zip(part.tolist(), row(part, 1), row(part, 2), strict=True):
                assert bytes(bus[i]) == (two if i in changed else one).tobytes()
        assert bus.create_page(size=1).id == PAGES + 1


@pytest.mark.parametrize("durability", ["memory", "disk"])
def test_84_mib_in_three_pages_come_back_from_the_log_alone(store: Path, durability: str) -> None:
    sizes = {"a": 4 << 20, "b": 16 << 20, "c": 64 << 20}
    rng = np.random.default_rng(3)
    oracle = {name: np.zeros(size, np.uint8) for name, size in sizes.items()}
    with mmsb.create(store, durability=durability) as bus:
        pages = {name: bus.create_page(name, size=size) for name, size in sizes.items()}
        for name, array in oracle.items():  # dense
            array[...] = rng.integers(0, 256, array.size, np.uint8)
            pages[name].write(array)
        for name, array in oracle.items():  # sparse, across blocks
            offsets = np.sort(rng.integers(0, array.size - 70_000, 20)).tolist()
            chunks = [rng.bytes(int(n)) for n in rng.integers(1, 60_000, 20)]
            with bus.transaction() as tx:
                tx.apply(mmsb.Delta.sparse(pages[name], offsets, chunks))
            for at, chunk in zip(offsets, chunks, strict=True):
                array[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
        digest, epoch = bus.digest(), bus.epoch
    assert not list((store / "checkpoints").iterdir())
    with mmsb.open(store, mode="r+") as bus:
        assert (bus.epoch, bus.digest()) == (epoch, digest)
        for name, array in oracle.items():
            assert np.array_equal(bus[name].read(), array)
            assert bus[name].epoch == 7 + list(sizes).index(name)


def test_one_page_of_a_gibibyte_takes_small_writes(mem: mmsb.Bus) -> None:
    page = mem.create_page("large", size=1 << 30)
    before = mem.stats()
    held = page[: 1 << 20]
    page[12345:12353] = 7
    page[(1 << 30) - 1] = 9
    assert page[12340:12360].tolist() == [0] * 5 + [7] * 8 + [0] * 7
    assert page[-1] == 9 and not held.any()
    after = mem.stats()
    used = {k: after[k] - v for k, v in before.items() if "bytes" in k or "memory" in k}
    assert all(v < 4 << 20 for v in used.values()), used
