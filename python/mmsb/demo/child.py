"""The process that is killed: ``python -m mmsb.demo.child DIR``.

It creates the store, integrates to the end, and tells the parent each epoch after its commit has
returned, as eight bytes on stdout. What the parent has read is acknowledged and must be there after
the kill.
"""

from __future__ import annotations

import os
import sys

import mmsb
from mmsb.demo.system import END, advance, day_of, start

RECORD = 8


def main(path: str) -> None:
    """Create a store in `path` and integrate until killed or left alone."""
    with mmsb.create(path, durability="os") as bus:
        start(bus)
        for epoch in advance(bus, until=day_of(END)):
            os.write(1, epoch.to_bytes(RECORD, "little"))
        # The parent kills this process, or is gone itself, which ends its end of the pipe.
        sys.stdin.buffer.read()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except BrokenPipeError:
        sys.exit(1)
