"""The Python rows: floors and peers beside MMSB."""

from __future__ import annotations

import itertools
import os
import random
import zlib
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import TypeVar

import lmdb
import mmsb
import numpy as np
import numpy.typing as npt
from race import Effort, Figure, run

PAGES = 1024
SIZE = 4096
CHANGE = 64
WORDS = CHANGE // 8
MANY = 1000

A = TypeVar("A")
B = TypeVar("B")
Places = tuple[list[int], list[int]]


def _places() -> Places:
    """Pages and places of 64 bytes in them, at random."""
    pick = random.Random(1)
    count = 50_021
    pages = [pick.randrange(PAGES) for _ in range(count)]
    return pages, [pick.randrange(SIZE // CHANGE) for _ in range(count)]


def _values() -> list[npt.NDArray[np.float64]]:
    """New bytes. Their number and that of the places have no divisor in common.

    So a place that comes again gets other bytes: writing what is there already is no commit.
    """
    return list(np.random.default_rng(1).random((4_099, WORDS)))


def _endless(first: Iterable[A], second: Iterable[B]) -> Iterator[tuple[A, B]]:
    return zip(itertools.cycle(first), itertools.cycle(second), strict=True)


def _lmdb(folder: Path, size: int, count: int = PAGES) -> lmdb.Environment:
    env = lmdb.open(str(folder), map_size=8 * size * count + (64 << 20), sync=False, writemap=True)
    with env.begin(write=True) as txn:
        for key in range(count):
            txn.put(key.to_bytes(4, "big"), b"\1" * size)
    return env


def commits(folder: Path, effort: Effort) -> list[Figure]:
    """64 bytes a commit that survives `kill -9`."""
    pages, places = _places()
    values = _values()
    chunks = [value.tobytes() for value in values]

    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    records = itertools.cycle([bytes(CHANGE) + data for data in chunks])

    def floor(count: int) -> None:
        write, crc = os.write, zlib.crc32
        for record in itertools.islice(records, count):
            crc(record)
            write(log, record)

    env = _lmdb(folder / "lmdb", SIZE)
    keys = [page.to_bytes(4, "big") for page in pages]
    starts = [place * CHANGE for place in places]
    cells = list(zip(keys, starts, strict=True))
    puts = _endless(cells, chunks)

    def peer(count: int) -> None:
        for (key, start), data in itertools.islice(puts, count):
            with env.begin(write=True) as txn:
                value = bytearray(txn.get(key, b""))
                value[start : start + CHANGE] = data
                txn.put(key, value)

    with mmsb.create(folder / "bus.mmsb", durability="os") as bus:
        handles = _raw_pages(bus, "f8", SIZE // 8)
        wheres = [slice(place * WORDS, (place + 1) * WORDS) for place in places]
        targets = list(zip([handles[p] for p in pages], wheres, strict=True))
        writes = _endless(targets, values)

        def ours(count: int) -> None:
            for (page, where), value in itertools.islice(writes, count):
                page[where] = value

        return run(
            "commit-python",
            [
                ("floor", "crc32 + os.write", floor),
                ("peer", "py-lmdb", peer),
                ("mmsb", "MMSB", ours),
            ],
            effort,
        )


def _raw_pages(bus: mmsb.Bus, dtype: str, length: int) -> list[mmsb.Page]:
    with bus.transaction() as tx:
        ones = np.ones(length, dtype)
        return [tx.create_page(data=ones) for _ in range(PAGES)]


def batches(folder: Path, effort: Effort) -> list[Figure]:
    """The same, 1,000 changes a commit."""
    pages, places = _places()
    sets = [
        (np.array(pages[at : at + MANY], np.uint64), np.array(places[at : at + MANY], np.uint64))
        for at in range(0, len(pages) - MANY, MANY)
    ]
    # Seven blocks of values for fifty sets: a set that comes again gets other bytes.
    blocks = list(np.random.default_rng(1).integers(0, 256, (7, MANY, CHANGE), np.uint8))
    turns = _endless(sets, blocks)

    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    state = np.ones((PAGES, SIZE // CHANGE, CHANGE), np.uint8)

    def floor(count: int) -> None:
        for (ids, cells), data in itertools.islice(turns, count):
            body = ids.tobytes() + cells.tobytes() + data.tobytes()
            os.write(log, zlib.crc32(body).to_bytes(4, "little") + body)
            state[ids, cells] = data

    env = _lmdb(folder / "lmdb", CHANGE)
    keys = [[int(i).to_bytes(4, "big") for i in ids] for ids, _ in sets]
    chunks = [[row.tobytes() for row in block] for block in blocks]
    items = _endless(keys, chunks)

    def peer(count: int) -> None:
        for names, data in itertools.islice(items, count):
            with env.begin(write=True) as txn, txn.cursor() as cursor:
                cursor.putmulti(zip(names, data, strict=True))

    with mmsb.create(folder / "bus.mmsb", durability="os") as bus:
        ids_of = np.array([page.id for page in _raw_pages(bus, "u1", SIZE)], np.uint64)
        targets = [(ids_of[ids], cells * np.uint64(CHANGE)) for ids, cells in sets]
        writes = _endless(targets, blocks)

        def ours(count: int) -> None:
            for (ids, offsets), data in itertools.islice(writes, count):
                bus.write_many(ids, offsets, data)

        return run(
            "batch-python",
            [
                ("floor", "NumPy + crc32 + os.write", floor),
                ("peer", "py-lmdb, 64 B cells", peer),
                ("mmsb", "MMSB write_many", ours),
            ],
            effort,
            per=MANY,
        )


def views(folder: Path, effort: Effort) -> list[Figure]:
    """A view of a page as an array, without a copy."""
    return [
        *_view("view-4k", folder / "small", SIZE, effort),
        *_view("view-84m", folder / "large", 84 << 20, effort),
    ]


def _view(row: str, folder: Path, size: int, effort: Effort) -> list[Figure]:
    folder.mkdir()
    shape = (size // 8,)
    dtype = np.dtype("f8")
    shared = shared_memory.SharedMemory(create=True, size=size)
    env = _lmdb(folder / "lmdb", size, count=1)
    key = (0).to_bytes(4, "big")

    def floor(count: int) -> None:
        ndarray, memory = np.ndarray, shared.buf
        for _ in itertools.repeat(None, count):
            ndarray(shape, dtype, memory)

    def peer(count: int) -> None:
        for _ in itertools.repeat(None, count):
            with env.begin(buffers=True) as txn:
                np.frombuffer(txn.get(key, b""), dtype)

    try:
        with mmsb.create(folder / "bus.mmsb", durability="os") as bus:
            page = bus.create_page("state", data=np.ones(shape))
            return run(
                row,
                [
                    ("floor", "ndarray over shared_memory", floor),
                    ("peer", "py-lmdb", peer),
                    ("mmsb", "MMSB", _reader(page.read)),
                ],
                effort,
            )
    finally:
        shared.close()
        shared.unlink()


def _reader(read: Callable[[], object]) -> Callable[[int], None]:
    def ours(count: int) -> None:
        for _ in itertools.repeat(None, count):
            read()

    return ours


def all_rows(folder: Path, effort: Effort) -> Iterator[Figure]:
    for number, row in enumerate((commits, batches, views)):
        place = folder / f"python-{number}"
        place.mkdir(parents=True)
        yield from row(place, effort)
