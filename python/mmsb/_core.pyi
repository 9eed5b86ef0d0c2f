"""The native module (rust/mmsb-py). Thin: no policy, no names of its own. python/mmsb wraps it; users never import it."""
from collections.abc import Callable, Iterator
from typing import Any
import numpy as np
import numpy.typing as npt

class PageInfo:                    # frozen description of a page at one epoch
    id: int
    name: str | None
    dtype: np.dtype[Any]           # from the stored JSON descr through mmsb._values.dtype_from_text (cached per text); raw pages: uint8
    raw: bool                      # no dtype was given at creation
    shape: tuple[int, ...]
    nbytes: int
    epoch: int
    location: str                  # "cpu"
    meta: str                      # canonical JSON text, "" when there is none

class Core:                        # one bus; frozen pyclass; every call checks fork (ForkedHandleError) and closed (ClosedError)
    @staticmethod
    def memory(max_memory: int | None = None, clock: Callable[[], int] | None = None) -> Core: ...
    @staticmethod
    def create(path: str, durability: str | None = None, max_memory: int | None = None, clock: Callable[[], int] | None = None, seed: int | None = None, segment_bytes: int | None = None) -> Core: ...
    @staticmethod
    def open(path: str, mode: str, durability: str | None = None, max_memory: int | None = None, clock: Callable[[], int] | None = None, progress: Callable[[int, int], None] | None = None, segment_bytes: int | None = None) -> Core: ...
    path: str | None
    mode: str                      # "r" or "r+"  (path, mode, durability, closed, epoch, durable_epoch: properties, work after close)
    durability: str
    closed: bool
    forked: bool
    epoch: int
    durable_epoch: int
    clock: Callable[[], int] | None
    def recovery(self) -> tuple[int, int | None, int, int, list[str], float] | None: ...   # epoch, checkpoint_epoch, records, torn_bytes, quarantined, seconds
    def close(self) -> None: ...
    def sync(self) -> int: ...
    def snapshot(self, epoch: int | None = None) -> Snap: ...
    def find(self, name: str) -> int | None: ...           # newest epoch
    def info(self, page: int) -> PageInfo | None: ...
    def infos(self) -> list[PageInfo]: ...                 # id order
    def tags(self) -> list[tuple[str, int]]: ...
    def view(self, page: int) -> npt.NDArray[Any]: ...     # read-only ndarray of the newest bytes, in the page's dtype and shape
    # each commit returns (epoch, changed); how = source, meta (canonical JSON text or None), durability
    def commit(self, batch: Batch, base: Snap | None = None, source: str | None = None, meta: str | None = None, durability: str | None = None) -> tuple[int, bool]: ...
    def create_page(self, name: str | None, dtype: str, itemsize: int, shape: tuple[int, ...], nbytes: int, meta: str, data: Any = None, source: str | None = None, commit_meta: str | None = None, durability: str | None = None) -> tuple[int, int]: ...   # (id, epoch); id taken under the commit lock; data: C-contiguous buffer of nbytes or None for zeros; PageExistsError
    def append(self, page: int, data: Any, rows: int, source: str | None = None, meta: str | None = None, durability: str | None = None) -> tuple[int, bool]: ...  # resize + write of the tail under the commit lock; data: C-contiguous buffer of rows*rowbytes
    def write_many(self, pages: Any, offsets: Any, data: Any, source: str | None = None, meta: str | None = None, durability: str | None = None) -> tuple[int, bool]: ...  # pages (n,) uint64, offsets (n,) uint64, data (n, k) uint8, all C-contiguous
    def restore(self, to: Snap, source: str | None = None, meta: str | None = None, durability: str | None = None) -> tuple[int, bool]: ...
    def fork(self, at: Snap) -> Core: ...
    def log(self, since: int, until: int, reverse: bool) -> Iterator[LogEntry]: ...
    def checkpoint(self) -> int: ...
    def verify(self, progress: Callable[[int, int], None] | None = None) -> tuple[int, int, list[Exception]]: ...   # records, bytes, CorruptionErrors
    def stats(self) -> dict[str, int]: ...

class Snap:                        # a pinned epoch
    epoch: int
    time: int
    next_id: int
    closed: bool
    def close(self) -> None: ...                           # idempotent; later reads raise ClosedError; arrays stay
    def find(self, name: str) -> int | None: ...
    def info(self, page: int) -> PageInfo | None: ...
    def infos(self) -> list[PageInfo]: ...
    def tags(self) -> list[tuple[str, int]]: ...
    def view(self, page: int) -> npt.NDArray[Any]: ...     # read-only, outlives the snapshot
    def view_is_copy(self, page: int) -> bool: ...         # whether view() would have to gather scattered blocks
    def read(self, page: int, start: int, stop: int) -> npt.NDArray[np.uint8]: ...   # read-only bytes
    def digest(self) -> str: ...                           # 32 hex digits
    def changed_pages(self, other: Snap) -> list[int]: ...
    def diff(self, other: Snap, page: int) -> list[tuple[int, int]]: ...     # byte ranges within the common length, whole elements

class LogEntry:
    epoch: int
    time: int
    source: str | None
    meta: str | None               # canonical JSON text
    def ops(self) -> list[tuple[Any, ...]]: ...            # in order:
    # ("create", id, name|None, dtype_text, shape, nbytes, meta_text) ("delete", id) ("rename", id, name|None) ("set_meta", id, meta_text)
    # ("resize", id, shape, nbytes) ("write", id, offset, data: bytes) ("tag", name, epoch: int) ("untag", name)

class Batch:                       # an ordered set of operations; not thread-safe by itself but never UB
    def __init__(self) -> None: ...
    def create(self, id: int, name: str | None, dtype: str, itemsize: int, shape: tuple[int, ...], nbytes: int, meta: str) -> None: ...
    def delete(self, id: int) -> None: ...
    def rename(self, id: int, name: str | None) -> None: ...
    def set_meta(self, id: int, meta: str) -> None: ...
    def resize(self, id: int, shape: tuple[int, ...], nbytes: int) -> None: ...
    def write(self, id: int, offset: int, data: Any) -> None: ...             # data: C-contiguous buffer, copied
    def stage(self, id: int, stage: Stage, itemsize: int) -> int: ...         # emits a write per named or changed element range of the stage; returns how many
    def tag(self, name: str, epoch: int | None, move: bool) -> None: ...
    def untag(self, name: str) -> None: ...
    def check_read(self, id: int) -> None: ...
    def check_name(self, name: str) -> None: ...
    def check_ids(self) -> None: ...
    def __len__(self) -> int: ...                          # operations so far

class Stage:                       # the private memory of one page inside a transaction
    def __init__(self, base: Snap | None, id: int, nbytes: int) -> None: ...   # base None: a page created in this transaction (zeros)
    nbytes: int
    def load(self, start: int, stop: int) -> None: ...     # fill the blocks (16 KiB) that [start, stop) touches from the base, once each
    def name(self, start: int, stop: int) -> None: ...     # [start, stop) is written explicitly: logged also where equal
    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0) -> npt.NDArray[Any]: ...   # writable ndarray over the shared memory; base = this Stage; call load first for what is read
    def resize(self, nbytes: int) -> Stage: ...            # a new stage with the kept prefix and the names inside it; bytes past the old end are zero and loaded; the old one's arrays keep their memory

class PageBase:                    # the hot half of mmsb.Page (which subclasses it); slots implemented here are not overridden there
    def __init__(self, core: Core, id: int) -> None: ...
    core: Core
    id: int
    name: str | None               # newest epoch, like all of these; PageNotFoundError once deleted
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ndim: int
    size: int
    nbytes: int
    epoch: int
    location: str
    def info(self) -> PageInfo: ...
    def read(self, copy: bool | None = None) -> npt.NDArray[Any]: ...   # True: a writable copy; None: zero-copy where it can be; False: raises ArgumentError where a copy would be needed
    def __getitem__(self, index: Any) -> Any: ...          # as NumPy on the read-only view; basic index of the first axis on a scattered page touches only its blocks; wrong index PageIndexError
    def __setitem__(self, index: Any, value: Any) -> None: ...   # fast path: Ellipsis / int / step-1 slice of axis 0 (contiguous bytes) with a same-dtype C-contiguous array of exactly that shape or a Python float/int/bool scalar into f8 f4 i8 i4 u1 bool; else self._assign(index, value)
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]: ...
    def __len__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...           # same bus and id; hash likewise (anything that is not a Page: NotImplemented except numbers/arrays: ArgumentTypeError naming page[()])
    def __hash__(self) -> int: ...

def diff_ranges(a: Any, b: Any, itemsize: int) -> list[tuple[int, int]]: ...
def set_log(target: Callable[[str, str, dict[str, Any]], None] | None) -> None: ...   # events: (level "debug"|"info"|"warning"|"error", dotted name, fields); None switches off
def at_fork_before() -> None: ...
def at_fork_parent() -> None: ...
def at_fork_child() -> None: ...
ERROR_CODES: list[tuple[str, str]]   # (code, class name), from the core's table
EVENTS: list[str]                    # dotted names of all events
FORMAT: tuple[int, int]
__version__: str
