"""The child that `test_crash.py` kills: commits whose content follows from their epoch alone.

Run as `crash_child.py STORE DURABILITY`, it opens or makes the store and commits until it is
killed, writing each acknowledged epoch to standard output as eight bytes.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Any

import mmsb
import numpy as np

RING, BLOB = 64, 50_000
CHECKPOINT_EVERY = 97


class Expected:
    """The state that epoch e must have, kept by the same rules in plain Python."""

    def __init__(self) -> None:
        self.epoch = 0
        self.pages: dict[str, bytes] = {}
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
            **self.extra,
        }


def first(tx: Any) -> None:
    """Epoch 1."""
    tx.create_page("ring", shape=RING, dtype="<i8")
    tx.create_page("blob", size=BLOB)
    tx.create_page("rows", shape=0, dtype="<i8")


def step(tx: Any, e: int) -> None:
    """What makes epoch e out of the one before."""
    if e == 1:
        return first(tx)
    tx["ring"][e % RING] = e * 2654435761 % 2**62
    at = e * 7919 % (BLOB - 1500)
    tx.write("blob", np.s_[at : at + 1500], e % 256)
    if e % 5 == 0:
        tx.append("rows", [e])
    if e % 11 == 0:
        tx.create_page(f"page {e}", data=[e], dtype="<i8")
        if f"page {e - 55}" in tx:
            tx.delete(f"page {e - 55}")
    return None


def main(store: str, durability: str) -> None:
    """Commit until killed; the parent reads what was acknowledged."""
    with mmsb.open(store, mode="a", durability=durability) as bus:
        while True:
            e = bus.epoch + 1
            with bus.transaction(source="child", meta={"e": e}) as tx:
                step(tx, e)
            assert tx.epoch == e
            os.write(1, struct.pack("<Q", e))
            if e % CHECKPOINT_EVERY == 0:
                bus.checkpoint()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
