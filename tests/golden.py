"""The golden stores: stores of released formats that every later version must read.

`python tests/golden.py DIRECTORY` writes the one of the current format. With a seed and a clock
every byte of it is determined, so it also shows when the format changes without a new version.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import mmsb
import numpy as np
from mmsb import _core

GOLDEN = Path(__file__).parent / "golden"
CURRENT = GOLDEN / ".".join(map(str, _core.FORMAT))


def build(path: Path, epochs: list[str]) -> None:
    """A store with one of everything; the digest of each epoch goes into the list."""
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
        bus.checkpoint()
        raw.delete()
        large.resize(20_000)
        bus.tag("start", 1)
        bus.tag("start", 2, move=True)
        bus.untag("first step")
        bus.restore(8)
        bus.create_page(None, shape=(), dtype=">i2")
        epochs += [bus.digest(epoch) for epoch in range(bus.epoch + 1)]


def main(path: Path) -> None:
    """Write the golden store of the current format and its digests."""
    epochs: list[str] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    build(path, epochs)
    (path / "lock").unlink()
    (path / "digests.txt").write_text("\n".join(epochs) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
