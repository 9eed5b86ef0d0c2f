"""The bridge from the core's events to ``logging.getLogger("mmsb")``.

It is off while nobody asks for INFO or DEBUG, so that an event costs nothing. Opening and verifying
listen for warnings too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from . import _core

logger = logging.getLogger("mmsb")
logger.addHandler(logging.NullHandler())

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_listening = False


def emit(level: str, event: str, fields: dict[str, Any]) -> None:
    """Log one event, with its name as `record.event` and its fields as `record.fields`."""
    number = _LEVELS[level]
    if not logger.isEnabledFor(number):
        return
    message = fields.pop("message", event)
    details = ", ".join(f"{name}={value}" for name, value in fields.items())
    text = f"{message} ({details})" if details else str(message)
    # What a handler raises is no failure of the call that emitted the event.
    with suppress(Exception):
        logger.log(number, "%s", text, extra={"event": event, "fields": fields})


def follow(least: int = logging.INFO) -> None:
    """Listen to the core if the logger wants events of this level, and stop if it does not."""
    global _listening
    wanted = logger.isEnabledFor(least)
    if wanted is not _listening:
        _core.set_log(emit if wanted else None)
        _listening = wanted


@contextmanager
def warnings() -> Iterator[None]:
    """Listen for warnings too while something runs that may have reason to warn."""
    follow(logging.WARNING)
    try:
        yield
    finally:
        follow()
