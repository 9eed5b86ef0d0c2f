"""What the long forms of the tests share: a line a run for RELIABILITY.md, and what leaks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def row(name: str, row: str, tried: str, count: str, seed: int, result: str, command: str) -> None:
    """Print what a run found and note it, once it has ended."""
    said = [name, row, tried, count, str(seed), result, command]
    subprocess.run([ROOT / "scripts" / "row", *said], check=True)


def open_files() -> dict[int, str]:
    """The descriptors of this process and what they stand for."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor that listed the directory
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""  # the thread has ended


def held() -> set[str]:
    """What this process holds of the system: descriptors (memfds too), threads, child processes."""
    found = {f"descriptor {fd} -> {to}" for fd, to in open_files().items()}
    for thread in os.listdir("/proc/self/task"):
        found.add(f"thread {thread}")
        found.update(f"child {pid}" for pid in _read(f"/proc/self/task/{thread}/children").split())
    return found
