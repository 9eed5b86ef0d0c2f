"""What the long forms of the tests share: a line a run for RELIABILITY.md."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def row(name: str, row: str, tried: str, count: str, seed: int, result: str, command: str) -> None:
    """Print what a run found and note it, once it has ended."""
    said = [name, row, tried, count, str(seed), result, command]
    subprocess.run([ROOT / "scripts" / "row", *said], check=True)
