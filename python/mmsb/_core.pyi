"""The native module, made of rust/mmsb-py: no policy, wrapped by the package, not for users.

Attributes of its classes are read-only.
"""

from collections.abc import Callable, Iterator
from typing import Any, Self, final

import numpy as np
import numpy.typing as npt
from typing_extensions import disjoint_base

__all__ = [
    "Batch",
    "Core",
    "ERROR_CODES",
    "EVENTS",
    "FORMAT",
    "LogEntry",
    "PageBase",
    "PageInfo",
    "Salvage",
    "Snap",
    "Stage",
    "Subscription",
    "__version__",
    "at_fork_before",
    "at_fork_child",
    "at_fork_parent",
    "diff_ranges",
    "expression_type",
    "expression_variables",
    "recover",
    "set_log",
    "verify",
]

# A page at one epoch.
@final
class PageInfo:
    id: int
    name: str | None
    # Of the stored text, by mmsb._values.dtype_from_text; uint8 for raw pages.
    dtype: np.dtype[Any]
    # No dtype was given at creation.
    raw: bool
    shape: tuple[int, ...]
    nbytes: int
    epoch: int
    # "cpu", "gpu" or "unified".
    location: str
    # Canonical JSON; "" when there is none.
    meta: str
    # The last epoch that changed its bytes.
    bytes_epoch: int
    stale: bool
    poisoned: bool
    # Form ("link", "native" or "function"), text, inputs, links as (page, kind), deferred, poisons.
    node: tuple[str, str, list[int], list[tuple[int, str]], bool, bool] | None

# One bus. Calls raise ClosedError after close() and ForkedHandleError in a forked child.
@final
class Core:
    # These work after close() too, and all but the epochs in a forked child.
    path: str | None
    mode: str
    durability: str
    closed: bool
    epoch: int
    durable_epoch: int
    forked: bool
    clock: Callable[[], int] | None
    @staticmethod
    def memory(max_memory: int | None = None, clock: Callable[[], int] | None = None) -> Core: ...
    @staticmethod
    def create(
        path: str,
        durability: str | None = None,
        max_memory: int | None = None,
        clock: Callable[[], int] | None = None,
        checkpoint_every: int | None = None,
        compress: bool = False,
        seed: int | None = None,
        segment_bytes: int | None = None,
    ) -> Core: ...
    # `progress` gets bytes done and bytes in all; what it raises ends the call and comes out of it.
    @staticmethod
    def open(
        path: str,
        mode: str,
        durability: str | None = None,
        max_memory: int | None = None,
        clock: Callable[[], int] | None = None,
        progress: Callable[[int, int], None] | None = None,
        checkpoint_every: int | None = None,
        compress: bool = False,
        segment_bytes: int | None = None,
    ) -> Core: ...
    # Epoch, checkpoint's epoch, records, torn bytes, files in quarantine, seconds.
    def recovery(self) -> tuple[int, int | None, int, int, list[str], float] | None: ...
    def close(self) -> None: ...
    def sync(self) -> int: ...
    def snapshot(self, epoch: int | None = None) -> Snap: ...
    # These five are of the newest epoch; pages and tags are in the order of ids and names.
    def find(self, name: str) -> int | None: ...
    def info(self, page: int) -> PageInfo | None: ...
    def infos(self) -> list[PageInfo]: ...
    def names(self) -> list[tuple[int, str | None]]: ...
    def tags(self) -> list[tuple[str, int]]: ...
    def view(self, page: int) -> npt.NDArray[Any]: ...
    # Commits give the epoch that shows them and whether they made it. `meta` is canonical JSON.
    def commit(
        self,
        batch: Batch,
        base: Snap | None = None,
        source: str | None = None,
        meta: str | None = None,
        durability: str | None = None,
    ) -> tuple[int, bool]: ...
    # Gives (id, epoch). `data` is a C-contiguous buffer of nbytes, or None for zeros.
    def create_page(
        self,
        name: str | None,
        dtype: str,
        itemsize: int,
        shape: tuple[int, ...],
        nbytes: int,
        meta: str,
        data: Any = None,
        source: str | None = None,
        commit_meta: str | None = None,
        durability: str | None = None,
    ) -> tuple[int, int]: ...
    # `data` is a C-contiguous buffer of so many whole rows.
    def append(
        self,
        page: int,
        data: Any,
        rows: int,
        source: str | None = None,
        meta: str | None = None,
        durability: str | None = None,
    ) -> tuple[int, bool]: ...
    # Arrays: pages (n,) uint64, offsets (n,) uint64, data (n, k) uint8, all C-contiguous.
    def write_many(
        self,
        pages: Any,
        offsets: Any,
        data: Any,
        source: str | None = None,
        meta: str | None = None,
        durability: str | None = None,
    ) -> tuple[int, bool]: ...
    def restore(
        self,
        to: Snap,
        source: str | None = None,
        meta: str | None = None,
        durability: str | None = None,
    ) -> tuple[int, bool]: ...
    # Computes what is stale or poisoned.
    def settle(
        self,
        source: str | None = None,
        meta: str | None = None,
        durability: str | None = None,
    ) -> tuple[int, bool]: ...
    # Of more than `most` events that nobody took the oldest are dropped.
    def subscribe(self, most: int) -> Subscription: ...
    def is_bound(self, page: int) -> bool: ...
    # It has the functions too.
    def fork(self, at: Snap) -> Core: ...
    def fork_to(self, at: Snap, path: str) -> Core: ...
    def check_epoch(self, epoch: int) -> None: ...
    # Files and their sizes, bytes, checkpoints made, ranges of epochs, the oldest epoch.
    def prune(
        self,
        log_since: int | None = None,
        checkpoints: int | None = None,
        every: int | None = None,
        dry_run: bool = False,
    ) -> tuple[list[tuple[str, int]], int, list[int], list[tuple[int, int]], int]: ...
    def retain(self, epochs: int | None = None, nanoseconds: int | None = None) -> None: ...
    # Members of the metadata stand as in the canonical text: '"step":7'.
    def log(
        self,
        since: int,
        until: int,
        reverse: bool,
        page: int | None = None,
        source: str | None = None,
        meta: list[str] | None = None,
    ) -> Iterator[LogEntry]: ...
    def epoch_as_of(self, time: int) -> int | None: ...
    def checkpoint(self) -> int: ...
    def backup(self, path: str, progress: Callable[[int, int], None] | None = None) -> int: ...
    # Records, bytes, problems.
    def verify(
        self, progress: Callable[[int, int], None] | None = None
    ) -> tuple[int, int, list[Exception]]: ...
    # The first epoch of those that both have whose states differ.
    def part(
        self, other: Core, progress: Callable[[int, int], None] | None = None
    ) -> int | None: ...
    def cost(self, epoch: int) -> tuple[int | None, int, int]: ...
    def stats(self) -> dict[str, int]: ...

# A pinned epoch.
@final
class Snap:
    epoch: int
    time: int
    next_id: int
    closed: bool
    # Reads raise ClosedError afterwards; arrays stay. Again: nothing.
    def close(self) -> None: ...
    def find(self, name: str) -> int | None: ...
    def info(self, page: int) -> PageInfo | None: ...
    def infos(self) -> list[PageInfo]: ...
    def names(self) -> list[tuple[int, str | None]]: ...
    def tags(self) -> list[tuple[str, int]]: ...
    # The pages of the graph in the order in which they are computed, and their levels.
    def order(self) -> list[tuple[int, int]]: ...
    def view(self, page: int) -> npt.NDArray[Any]: ...
    # Whether view() has to copy scattered blocks together.
    def view_is_copy(self, page: int) -> bool: ...
    def read(self, page: int, start: int, stop: int) -> npt.NDArray[np.uint8]: ...
    # 32 hex digits.
    def digest(self) -> str: ...
    def changed_pages(self, other: Snap) -> list[int]: ...
    # Byte ranges of whole elements within the common length.
    def diff(self, other: Snap, page: int) -> list[tuple[int, int]]: ...

@final
class LogEntry:
    epoch: int
    time: int
    source: str | None
    meta: str | None
    # In order: ("create", id, name | None, dtype text, shape, nbytes, meta text), ("delete", id),
    # ("rename", id, name | None), ("set_meta", id, meta text), ("resize", id, shape, nbytes),
    # ("write", id, offset, bytes), ("tag", name, epoch), ("untag", name).
    def ops(self) -> list[tuple[Any, ...]]: ...

# An ordered set of operations.
@final
class Batch:
    def __new__(cls) -> Batch: ...
    def create(
        self,
        id: int,
        name: str | None,
        dtype: str,
        itemsize: int,
        shape: tuple[int, ...],
        nbytes: int,
        meta: str,
    ) -> None: ...
    def delete(self, id: int) -> None: ...
    def rename(self, id: int, name: str | None) -> None: ...
    def set_meta(self, id: int, meta: str) -> None: ...
    def resize(self, id: int, shape: tuple[int, ...], nbytes: int) -> None: ...
    # `data` is a C-contiguous buffer; it is copied.
    def write(self, id: int, offset: int, data: Any) -> None: ...
    # Adds a write for each range of elements that was named or differs; gives their number.
    def stage(self, id: int, stage: Stage, itemsize: int) -> int: ...
    # A page's place in the graph; see PageInfo.node.
    def node(
        self,
        id: int,
        form: str,
        text: str,
        inputs: list[int],
        links: list[tuple[int, str]],
        deferred: bool,
        poisons: bool,
    ) -> None: ...
    def no_node(self, id: int) -> None: ...
    # What computes the page once this is committed; with `batch` many pages in one call.
    def function(self, id: int, function: Callable[..., Any], batch: bool) -> None: ...
    # `epoch` None: the epoch that this commit makes.
    def tag(self, name: str, epoch: int | None, move: bool) -> None: ...
    def untag(self, name: str) -> None: ...
    # What a commit with a base checks beside the ranges that it writes.
    def check_read(self, id: int) -> None: ...
    def check_name(self, name: str) -> None: ...
    def check_node(self, id: int) -> None: ...
    def check_ids(self) -> None: ...
    def ask_report(self, timed: bool) -> None: ...
    # Of the commit: what was computed, cut off, became stale and poisoned, and what is behind links
    # to devices and to compilers; then page and nanoseconds.
    def report(
        self,
    ) -> tuple[list[list[int]], list[tuple[int, int]]]: ...
    def __len__(self) -> int: ...

# The private memory of one page inside a transaction.
@final
class Stage:
    nbytes: int
    # `base` None: a page that this transaction created, all zeros.
    def __new__(cls, base: Snap | None, id: int, nbytes: int) -> Stage: ...
    # Fills the blocks that the range touches from the base, once each.
    def load(self, start: int, stop: int) -> None: ...
    # The range is written explicitly: also where it is equal.
    def name(self, start: int, stop: int) -> None: ...
    # Writable, over the shared memory; what is read must have been loaded.
    def array(
        self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0
    ) -> npt.NDArray[Any]: ...
    # A new one with what was edited, written and named inside the common length; zeros behind it.
    def resize(self, nbytes: int) -> Stage: ...

# The hot half of mmsb.Page. What __setitem__ does not take goes to self._assign(index, value).
@disjoint_base
class PageBase:
    def __new__(cls, core: Core, id: int) -> Self: ...
    core: Core
    id: int
    # Of the newest epoch; PageNotFoundError once the page is deleted.
    name: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ndim: int
    size: int
    nbytes: int
    epoch: int
    location: str
    def info(self) -> PageInfo: ...
    # True: a writable copy. None: no copy where it can be. False: ArgumentError if one is needed.
    def read(self, copy: bool | None = None) -> npt.NDArray[Any]: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __setitem__(self, index: Any, value: Any, /) -> None: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]: ...
    def __len__(self) -> int: ...
    # Same bus and id. A number or an array is ArgumentTypeError naming page[()].
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

# Events of one bus.
@final
class Subscription:
    # ("event", (epoch, lists), None), ("lagged", None, (count, first, last)), ("none", None, None)
    # when the time is over, or ("end", None, None). The nine lists: changed, created, deleted,
    # described, stale, poisoned, cut_off, gpu_sync, compiler.
    def next(
        self, seconds: float
    ) -> tuple[str, tuple[int, list[list[int]]] | None, tuple[int, int, int] | None]: ...
    # A descriptor that is readable as long as there is something to take.
    def signal(self) -> int: ...
    def close(self) -> None: ...

def diff_ranges(a: Any, b: Any, itemsize: int) -> list[tuple[int, int]]: ...

# In the order of their first use.
def expression_variables(text: str) -> list[str]: ...

# Stored dtype and shape of the result, for those of the variables.
def expression_type(
    text: str, args: list[tuple[str, tuple[int, ...]]]
) -> tuple[str, tuple[int, ...]]: ...

# What was good of a damaged store. Ranges of epochs are half-open.
@final
class Salvage:
    epoch: int
    records: int
    bytes: int
    torn_bytes: int
    problems: list[Exception]
    lost: list[tuple[int, int]]
    later: list[tuple[int, int]]
    appended: int | None

def recover(
    path: str,
    to: str,
    upto: int | None = None,
    newest: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Salvage: ...

# Records, bytes, problems of a store that need not open.
def verify(
    path: str, progress: Callable[[int, int], None] | None = None
) -> tuple[int, int, list[Exception]]: ...

# Calls (level, dotted name, fields) for each event from level DEBUG up; None switches it off.
def set_log(target: Callable[[str, str, dict[str, Any]], None] | None) -> None: ...
def at_fork_before() -> None: ...
def at_fork_parent() -> None: ...
def at_fork_child() -> None: ...

# Code and class name.
ERROR_CODES: list[tuple[str, str]]
EVENTS: list[str]
FORMAT: tuple[int, int]
__version__: str
