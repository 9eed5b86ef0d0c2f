"""A full disk loses nothing, reads go on, and space that comes back is used without a restart.

`make enospc` runs the same for longer.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from fills import DISKS, disk, run


# Newer interpreters warn of a fork beside threads; those of pytest-xdist are no danger to it.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("kind", DISKS)
def test_a_disk_that_is_filled_and_freed(kind: str, tmp_path: Path) -> None:
    with disk(kind, tmp_path) as on:
        if on is None:
            pytest.skip(f"no {kind} can be mounted here")
        seen = run(on, 10, random.Random(f"1 {kind}"))
    print(dict(seen))
    assert seen["commits refused"] + seen["writers ended"] == 4
