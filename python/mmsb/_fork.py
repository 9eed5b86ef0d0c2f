"""After fork(2) the child owns nothing: the core is told before and after."""

from __future__ import annotations

import os

from . import _core


def register() -> None:
    """Tell the core about every fork of this process."""
    os.register_at_fork(
        before=_core.at_fork_before,
        after_in_parent=_core.at_fork_parent,
        after_in_child=_core.at_fork_child,
    )
