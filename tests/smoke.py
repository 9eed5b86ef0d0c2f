"""Touch memory in every way, for valgrind and LeakSanitizer: `python tests/smoke.py ROUNDS`."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path

import mmsb
import numpy as np

SIZE = 64 << 20


def live(bus: mmsb.Bus, number: int) -> list[np.ndarray]:
    """Use a bus in every way; return arrays that outlive it."""
    small = bus.create_page("small", size=100)
    rows = bus.create_page("rows", shape=(3000, 3), dtype="f8", meta={"number": number})
    kept = [small.read(), rows.read()]
    small[5:9] = number % 256
    rows[7] = 1.5
    with bus.transaction(source="smoke", meta={"number": number}) as tx:
        tx["rows"][100:2000, 1] += 2.5
        tx.edit("small", np.s_[20:30])[...] = 3
    try:
        with bus.transaction() as tx:
            tx["rows"] += 1
            raise RuntimeError("given up")
    except RuntimeError:
        pass
    rows.append(np.ones((10, 3)))
    bus.tag("here", bus.epoch)
    with bus.snapshot("here") as then, bus.snapshot(2) as before:
        kept += [then["rows"], before["rows"], then["small"]]
    other = bus.fork("here")
    other["rows"][...] = 7
    kept.append(other["rows"].read())
    other.close()
    bus.restore(3)
    assert len(list(bus.log())) == bus.epoch
    assert len(list(bus.diff(3, "here"))) > 0 and len(list(rows.history(index=np.s_[7]))) > 0
    threads = [
        threading.Thread(target=lambda: [rows.write(rows.read()) for _ in range(20)])
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for _ in range(20):
        small[0] = small[0] ^ 1
    for thread in threads:
        thread.join()
    for wrong in ("no such page", 1 << 70, b"x"):
        try:
            bus[wrong]  # type: ignore[index]
        except (LookupError, TypeError, ValueError):
            pass
    assert bus.verify().ok
    return kept


def main(rounds: int) -> None:
    """Live through some buses, in memory and in directories."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            path = Path(folder) / f"{number}.mmsb"
            bus = mmsb.create(path, durability=("os", "disk")[number % 2], max_memory=SIZE)
            kept = live(bus, number)
            bus.checkpoint()
            digest = bus.digest()
            bus.close()
            with mmsb.open(path, mode="r+", max_memory=SIZE) as bus:
                assert bus.digest() == digest
                child = os.fork()
                if child == 0:
                    os._exit(int(kept[0][5]))
                assert os.waitpid(child, 0)[1] == 0
            with mmsb.Bus(max_memory=SIZE) as bus:
                kept += live(bus, number)
            assert kept[0][5] == 0 and kept[3][7, 0] == 0
            kept.clear()
    print(f"{rounds} rounds passed")


if __name__ == "__main__":
    main(int(sys.argv[1]))
