"""The processes that `kills.py` kills: commits whose content follows from their epoch alone.

`crash_child.py host STORE DURABILITY CHECKPOINTS SEGMENT_BYTES` opens or makes the store and
commits until it is killed, writing each acknowledged epoch to standard output as eight bytes.
`crash_child.py reader STORE` looks at the store again and again until its standard input ends, and
says how often it did.
"""

from __future__ import annotations

import os
import random
import select
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmsb
import numpy as np
from mmsb import _core

RING, BLOB = 64, 50_000


class Expected:
    """The state that epoch e must have, kept by the same rules in plain Python."""

    def __init__(self) -> None:
        self.epoch = 0
        self.ring = [0] * RING
        self.blob = bytearray(BLOB)
        self.rows: list[int] = []
        self.extra: dict[str, bytes] = {}

    def advance(self) -> None:
        """Go to the next epoch."""
        e = self.epoch = self.epoch + 1
        if e > 1:
            self.ring[e % RING] = e * 2654435761 % 2**62
            at = e * 7919 % (BLOB - 1500)
            self.blob[at : at + 1500] = bytes([e % 256]) * 1500
            if e % 5 == 0:
                self.rows.append(e)
            if e % 11 == 0:
                self.extra[f"page {e}"] = struct.pack("<q", e)
                self.extra.pop(f"page {e - 55}", None)

    def state(self) -> dict[str, bytes]:
        """The bytes of every page by name."""
        if self.epoch == 0:
            return {}
        return {
            "ring": struct.pack(f"<{RING}q", *self.ring),
            "blob": bytes(self.blob),
            "rows": struct.pack(f"<{len(self.rows)}q", *self.rows),
            "total": struct.pack("<q", (sum(self.ring) + 2**63) % 2**64 - 2**63),
            **self.extra,
        }

    def at(self, epoch: int) -> dict[str, bytes]:
        """Go to this epoch, which must not lie in the past, and give its state."""
        while self.epoch < epoch:
            self.advance()
        assert self.epoch == epoch
        return self.state()


def compare(bus: Any, epoch: int, state: dict[str, bytes]) -> None:
    """The bus shows this state at this epoch."""
    with bus.snapshot(epoch) as snap:
        seen = {name: a.tobytes() for name, a in snap.items()}
        assert seen == state, f"epoch {epoch} has other bytes: {differing(seen, state)}"


def differing(seen: dict[str, bytes], state: dict[str, bytes]) -> list[str]:
    """The pages that differ."""
    names = sorted(seen.keys() | state.keys())
    return [name for name in names if seen.get(name) != state.get(name)]


def step(tx: Any, e: int) -> None:
    """What makes epoch e out of the one before."""
    if e == 1:
        tx.create_page("ring", shape=RING, dtype="<i8")
        tx.create_page("blob", size=BLOB)
        tx.create_page("rows", shape=0, dtype="<i8")
        # What follows from others: computed in each commit, and that needs no function.
        tx.map("sum(ring)", "total")
        return
    tx["ring"][e % RING] = e * 2654435761 % 2**62
    at = e * 7919 % (BLOB - 1500)
    tx.write("blob", np.s_[at : at + 1500], e % 256)
    if e % 5 == 0:
        tx.append("rows", [e])
    if e % 11 == 0:
        tx.create_page(f"page {e}", data=[e], dtype="<i8")
        if f"page {e - 55}" in tx:
            tx.delete(f"page {e - 55}")


def commit(bus: Any) -> int:
    """Make the next epoch."""
    e = bus.epoch + 1
    with bus.transaction(source="child", meta={"e": e}) as tx:
        step(tx, e)
    assert tx.epoch == e
    return int(e)


def host(store: str, durability: str, checkpoints: str, segment_bytes: str) -> None:
    """Commit until killed; the parent reads what was acknowledged."""
    core = _core.Core.open(store, "a", durability, segment_bytes=int(segment_bytes) or None)
    with mmsb.Bus._of(core) as bus:

        def checkpoint() -> None:
            while True:
                bus.checkpoint()
                time.sleep(random.random() * 0.01)

        if checkpoints == "yes":
            threading.Thread(target=checkpoint, daemon=True).start()
        while True:
            os.write(1, struct.pack("<Q", commit(bus)))


def look(store: Path | str, expected: Expected, rng: random.Random) -> Expected:
    """Open the store once: it shows a whole epoch, now and in the past; what it must show next."""
    with mmsb.open(store) as bus:
        now = bus.epoch
        if now < expected.epoch:  # durability "memory": a kill may lose commits
            expected = Expected()
        state = expected.at(now)
        newest = bus.snapshot()
        compare(bus, now, state)
        past = rng.randint(0, now)
        compare(bus, past, Expected().at(past))
        arrays = dict(newest.items())
    assert {name: a.tobytes() for name, a in arrays.items()} == state, "a kept array changed"
    newest.close()
    return expected


def reader(store: str) -> None:
    """Look until standard input ends."""
    expected, looks = Expected(), 0
    while not select.select([0], [], [], 0.002)[0]:
        with suppress(mmsb.BusNotFoundError):
            expected = look(store, expected, random.Random())
            looks += 1
    print(looks)


if __name__ == "__main__":
    {"host": host, "reader": reader}[sys.argv[1]](*sys.argv[2:])
