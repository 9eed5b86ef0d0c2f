"""A reader of a store in plain Python, written from FORMAT.md alone.

It decodes meta slots, log and checkpoints, checks every checksum, and replays the log into states,
so that what FORMAT.md says can be compared with what the library does. It shares no code with it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xxhash import xxh3_64_intdigest, xxh3_128_digest, xxh3_128_intdigest

BLOCK = 16384
HEADER = 4096
MASK = (1 << 64) - 1
SEGMENT_MAGIC = b"\x89MMSB log\r\n\x1a\n\0\xb5\xff"
META_MAGIC = b"\x89MMSB met\r\n\x1a\n\0\xb5\xff"
INDEX_MAGIC = b"\x89MMSB idx\r\n\x1a\n\0\xb5\xff"
CHECKPOINT_MAGIC = b"\x89MMSB ckpt\r\n\x1a\n\0\xff"
RUNS, GRAPH = 1, 2
FORMS = ("link", "native", "function")
KINDS = {1: "control", 2: "gpu_sync", 3: "compiler"}
STALE, POISONED = 1, 2
COMMIT, MARK, SEAL = 1, 2, 3
MAJOR = 1


@dataclass(frozen=True)
class Page:
    """One version of a page."""

    name: str
    dtype: str
    itemsize: int
    shape: tuple[int, ...]
    meta: str
    location: int
    data: bytes
    # Its place in the graph, and whether its bytes are what follows from its inputs.
    node: bytes = b""
    marks: int = 0


@dataclass(frozen=True)
class Node:
    """A page's place in the graph."""

    form: str
    deferred: bool
    poisons: bool
    text: str
    inputs: tuple[int, ...]
    links: tuple[tuple[int, str], ...]


@dataclass
class State:
    """Everything that an epoch holds."""

    epoch: int = 0
    time: int = 0
    next_id: int = 1
    pages: dict[int, Page] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A commit, a checkpoint mark or a seal."""

    kind: int
    epoch: int
    time: int
    source: str | None
    meta: str | None
    ops: bytes
    offset: int
    size: int


class Fields:
    """Takes values off the front of bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def bytes(self, n: int) -> bytes:
        assert self.at + n <= len(self.data), "cut short"
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.bytes(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def text(self) -> str:
        return self.bytes(self.varint()).decode()

    def shape(self) -> tuple[int, ...]:
        return tuple(self.varint() for _ in range(self.varint()))

    def blob(self) -> bytes:
        return self.bytes(self.varint())

    def rest(self) -> bytes:
        return self.bytes(len(self.data) - self.at)

    def __bool__(self) -> bool:
        return self.at < len(self.data)


def read_node(node: bytes) -> Node:
    """A place in the graph, which is written in one way only."""
    fields = Fields(node)
    form, flags, text = fields.bytes(1)[0], fields.bytes(1)[0], fields.text()
    inputs = tuple(fields.varint() for _ in range(fields.varint()))
    links = [(fields.varint(), fields.bytes(1)[0]) for _ in range(fields.varint())]
    assert not fields and flags < 4 and links == sorted(set(links))
    assert len(set(inputs)) == len(inputs) and bool(inputs) is (form > 0)
    assert bool(text) is (form == 1) and (form or not flags) and (form or links)
    named = tuple((page, KINDS[kind]) for page, kind in links)
    return Node(FORMS[form], bool(flags & 1), bool(flags & 2), text, inputs, named)


def _checked(data: bytes, magic: bytes, known: int = 0) -> None:
    assert data[:16] == magic
    assert xxh3_64_intdigest(data[:-8]) == int.from_bytes(data[-8:], "little")
    major, _, _, required, _ = struct.unpack_from("<HHIQQ", data, 16)
    assert (major, required & ~known) == (MAJOR, 0)


def _seed(head: bytes, at: int) -> int:
    low, high = struct.unpack_from("<2Q", head, 56)
    seed: int = ((low + at * 0x9E3779B97F4A7C15) & MASK) ^ high
    return seed


# --- stores of other versions -------------------------------------------------------------------


def with_format(
    data: bytes,
    major: int | None = None,
    minor: int | None = None,
    required: int | None = None,
    optional: int | None = None,
    head: int = HEADER,
) -> bytes:
    """The bytes of a file whose header of this size claims another version, its checksum right."""
    out = bytearray(data)
    fields = ((major, 16, "<H"), (minor, 18, "<H"), (required, 24, "<Q"), (optional, 32, "<Q"))
    for value, at, code in fields:
        if value is not None:
            struct.pack_into(code, out, at, value)
    struct.pack_into("<Q", out, head - 8, xxh3_64_intdigest(bytes(out[: head - 8])))
    return bytes(out)


def with_record(data: bytes, place: int, kind: int, flags: int, payload: bytes) -> bytes:
    """The bytes of a segment with one more record at a place in its order, all sums right."""
    records, at = [], HEADER
    while any(data[at : at + 32]):
        end = at + 32 + int.from_bytes(data[at + 14 : at + 20], "little")
        records.append((data[at + 12], data[at + 13], data[at + 20 : at + 24], data[at + 32 : end]))
        at = end + -end % 8
    before = records[place - 1][2] if place else bytes(4)
    records.insert(place, (kind, flags, before, payload))
    out, chain = bytearray(data[:HEADER]), data[96:104]
    for kind, flags, epoch, payload in records:
        seed = _seed(data, len(out))
        inner = struct.pack("<BB", kind, flags) + len(payload).to_bytes(6, "little") + epoch + chain
        check = struct.pack("<I", (xxh3_64_intdigest(inner) ^ seed) & 0xFFFFFFFF)
        body = xxh3_64_intdigest(check + inner + payload) ^ seed
        out += struct.pack("<Q", body) + check + inner + payload
        out += bytes(-len(out) % 8)
        chain = struct.pack("<Q", xxh3_64_intdigest(chain + struct.pack("<Q", body)))
    return bytes(out)


# --- the log ------------------------------------------------------------------------------------


def read_segment(path: Path, chain: int | None) -> tuple[list[Record], int, dict[str, Any]]:
    """The records of a segment, the chain value after them, and the header's fields."""
    data = path.read_bytes()
    head = data[:HEADER]
    _checked(head, SEGMENT_MAGIC)
    assert not any(head[20 + 4 : 40]) and not any(head[120 : HEADER - 8])
    names = ("seq", "first_epoch", "base_time", "chain", "durable_seq", "durable_offset")
    info: dict[str, Any] = dict(zip(names, struct.unpack_from("<6Q", head, 72), strict=True))
    info["uuid"] = head[40:56]
    assert path.name == f"{info['seq']:016x}-{info['first_epoch']:016x}.mlog"
    assert chain is None or info["chain"] == chain
    chain = info["chain"]
    records = []
    at, epoch = HEADER, info["first_epoch"] - 1
    while at < len(data):
        if not any(data[at : at + 32]):
            assert not any(data[at:]), "after the last record come zeros only"
            break
        seed = _seed(head, at)
        body, check, kind, flags = struct.unpack_from("<QIBB", data, at)
        length = int.from_bytes(data[at + 14 : at + 20], "little")
        low, stored_chain = struct.unpack_from("<IQ", data, at + 20)
        end = at + 32 + length
        assert check == (xxh3_64_intdigest(data[at + 12 : at + 32]) ^ seed) & 0xFFFFFFFF
        assert body == xxh3_64_intdigest(data[at + 8 : end]) ^ seed
        assert stored_chain == chain
        size = -(-(32 + length) // 8) * 8
        assert not any(data[end : at + size])
        fields = Fields(data[at + 32 : end])
        time, source, meta = 0, None, None
        if flags & 1:
            assert 0 <= fields.varint() <= at
        if kind == COMMIT:
            epoch += 1
            time = (info["base_time"] + fields.varint()) & MASK
            source = fields.text() if flags & 2 else None
            meta = fields.text() if flags & 4 else None
        assert low == epoch & 0xFFFFFFFF
        records.append(Record(kind, epoch, time, source, meta, fields.rest(), at, size))
        chain = xxh3_64_intdigest(struct.pack("<QQ", chain, body))
        at += size
    return records, chain, info


def read_log(store: Path) -> list[Record]:
    """All records of a store in order, the chain checked from segment to segment."""
    records: list[Record] = []
    meta = read_meta(store)
    # Segments before the base are leftovers; of the first one the chain before it is not known.
    chain, uuid = (None if meta["base_epoch"] else 0), None
    paths = sorted((store / "log").glob("*.mlog"))
    paths = [path for path in paths if int(path.name[:16], 16) >= meta["base_seq"]]
    for seq, path in enumerate(paths, meta["base_seq"]):
        found, chain, info = read_segment(path, chain)
        assert info["seq"] == seq and uuid in (None, info["uuid"])
        uuid = info["uuid"]
        records += found
    commits = [r.epoch for r in records if r.kind == COMMIT]
    first = commits[0] if commits else meta["base_epoch"] + 1
    assert first <= meta["base_epoch"] + 1
    assert commits == list(range(first, first + len(commits)))
    return records


def states_of(store: Path) -> dict[int, State]:
    """The states of all epochs that open: those of the log, and older ones of checkpoints."""
    base = read_meta(store)["base_epoch"]
    states = {0: State()} if base == 0 else {}
    for path in (store / "checkpoints").glob("*.ckpt"):
        state, found, _ = read_checkpoint(path)
        assert found == digest(state)
        if state.epoch <= base:
            states[state.epoch] = state
    for record in read_log(store):
        if record.kind == COMMIT and record.epoch > base:
            states[record.epoch] = apply(states[record.epoch - 1], record)
    return dict(sorted(states.items()))


def apply(state: State, record: Record) -> State:
    """The state after a commit."""
    out = State(record.epoch, record.time, state.next_id, dict(state.pages), dict(state.tags))
    ops = Fields(record.ops)
    while ops:
        kind = ops.bytes(1)[0]
        if kind == 7:
            name = ops.text()
            out.tags[name] = ops.varint() if ops.bytes(1)[0] else record.epoch
            ops.bytes(1)
            continue
        if kind == 8:
            del out.tags[ops.text()]
            continue
        i = ops.varint()
        if kind == 1:
            name, dtype, itemsize, shape = ops.text(), ops.text(), ops.varint(), ops.shape()
            nbytes, meta, location = ops.varint(), ops.text(), ops.bytes(1)[0]
            out.pages[i] = Page(name, dtype, itemsize, shape, meta, location, bytes(nbytes))
            out.next_id = max(out.next_id, i + 1)
        elif kind == 2:
            del out.pages[i]
        elif kind == 3:
            out.pages[i] = replace(out.pages[i], name=ops.text())
        elif kind == 4:
            out.pages[i] = replace(out.pages[i], meta=ops.text())
        elif kind == 5:
            shape, nbytes = ops.shape(), ops.varint()
            data = out.pages[i].data[:nbytes].ljust(nbytes, b"\0")
            out.pages[i] = replace(out.pages[i], shape=shape, data=data)
        elif kind == 9:
            node = ops.blob()
            marks = out.pages[i].marks if node else 0
            if node:
                read_node(node)
            out.pages[i] = replace(out.pages[i], node=node, marks=marks)
        elif kind == 10:
            marks = ops.bytes(1)[0]
            assert marks < 4 and out.pages[i].node
            out.pages[i] = replace(out.pages[i], marks=marks)
        else:
            assert kind == 6, f"unknown operation {kind}"
            offset, length = ops.varint(), ops.varint()
            data = bytearray(out.pages[i].data)
            assert offset + length <= len(data)
            data[offset : offset + length] = ops.bytes(length)
            out.pages[i] = replace(out.pages[i], data=bytes(data))
    return out


def replay(records: list[Record]) -> list[State]:
    """The state of every epoch."""
    states = [State()]
    for record in records:
        if record.kind == COMMIT:
            states.append(apply(states[-1], record))
    return states


# --- meta slots and checkpoints -----------------------------------------------------------------


def read_meta(store: Path) -> dict[str, Any]:
    """The newest meta slot."""
    slots = []
    for name in ("meta-0", "meta-1"):
        path = store / name
        if not path.exists():
            continue
        data = path.read_bytes()
        assert len(data) == 4096 and data[89] <= 1 and not any(data[90:120])
        _checked(data[:128], META_MAGIC)
        if data[89]:
            _checked(data[:176], META_MAGIC)
        assert not any(data[176 if data[89] else 128 :])
        names = ("generation", "durable_seq", "durable_offset", "durable_epoch", "durability")
        values = struct.unpack_from("<4QB", data, 56)
        slot = {"uuid": data[40:56], **dict(zip(names, values, strict=True))}
        slot["base_seq"], slot["base_epoch"] = struct.unpack_from("<2Q", data, 128)
        slot["parent"] = (data[144:160], int.from_bytes(data[160:168], "little"))
        slots.append(slot)
    return max(slots, key=lambda slot: slot["generation"])


def read_checkpoint(path: Path) -> tuple[State, str, dict[int, tuple[int, int]]]:
    """The state, its digest, and the epochs of the bytes and the description of each page."""
    data = path.read_bytes()
    head = data[:HEADER]
    _checked(head, CHECKPOINT_MAGIC, RUNS | GRAPH)
    words = struct.unpack_from("<8Q", head, 56)
    epoch, time, next_id, pages, tags, index_at, index_len, size = words
    base_epoch, base_sum = struct.unpack_from("<2Q", head, 152)
    base = b""
    if base_epoch:
        base = path.with_name(f"{base_epoch:016x}.ckpt").read_bytes()
        assert base_epoch < epoch and base[4088:4096] == head[160:168] and not any(base[152:168])
        assert head[24] & RUNS
    else:
        assert base_sum == 0
    assert index_at + index_len == size == len(data)
    assert path.name == f"{epoch:016x}.ckpt"
    assert not any(head[168 : HEADER - 8])
    index = data[index_at:]
    assert xxh3_128_intdigest(index) == int.from_bytes(head[120:136], "little")
    digest = int.from_bytes(head[136:152], "little")
    state, epochs, fields = State(epoch, time, next_id), {}, Fields(index)
    used = bytearray(index_at)
    used[:HEADER] = b"\1" * HEADER
    for _ in range(pages):
        i, name, dtype, itemsize = fields.varint(), fields.text(), fields.text(), fields.varint()
        shape, nbytes, meta = fields.shape(), fields.varint(), fields.text()
        location, marks, node = fields.bytes(1)[0], 0, b""
        if head[24] & GRAPH:
            marks, node = fields.bytes(1)[0], fields.blob()
            assert marks < 4 and (node or not marks)
            if node:
                read_node(node)
        epochs[i] = (fields.varint(), fields.varint())
        at = fields.varint()
        sizes = [min(BLOCK, nbytes - start) for start in range(0, nbytes, BLOCK)]
        hashes = [int.from_bytes(fields.bytes(16), "little") for _ in sizes]
        if at:
            used[at : at + nbytes] = b"\1" * nbytes
            content = data[at : at + nbytes]
        else:
            assert head[24] & RUNS
            content = _read_runs(fields, sizes, data, base, used)
        for n, checksum in enumerate(hashes):
            assert xxh3_128_intdigest(content[n * BLOCK : (n + 1) * BLOCK]) == checksum
        state.pages[i] = Page(name, dtype, itemsize, shape, meta, location, content, node, marks)
    assert bool(head[24] & GRAPH) is any(page.node for page in state.pages.values())
    for _ in range(tags):
        name = fields.text()
        state.tags[name] = fields.varint()
    assert not fields and len(used) == index_at
    assert not any(b for b, u in zip(data, used, strict=False) if not u), "padding is zero"
    return state, f"{digest:032x}", epochs


def _read_runs(
    fields: Fields, sizes: list[int], data: bytes, base: bytes, used: bytearray
) -> bytes:
    """The bytes of a page that is told of run by run."""
    content, left = bytearray(), list(sizes)
    while left:
        word = fields.varint()
        count, in_base, form = word >> 3, bool(word & 4), word & 3
        assert 0 < count <= len(left) and form < 3 and (form or not in_base)
        run, left = left[:count], left[count:]
        if form == 0:
            content += bytes(sum(run))
            continue
        at = fields.varint()
        stored = [(n, None) if form == 1 else (fields.varint(), fields.bytes(8)) for n in run]
        for size, (length, checksum) in zip(run, stored, strict=True):
            block = (base if in_base else data)[at : at + length]
            if checksum is not None:
                assert xxh3_64_intdigest(block) == int.from_bytes(checksum, "little")
            content += block if form == 1 else _unpack(block, size)
            if not in_base:
                used[at : at + length] = b"\1" * length
            at += length
    return bytes(content)


def _unpack(block: bytes, size: int) -> bytes:
    """A block of LZ4."""
    out, at = bytearray(), 0

    def length(nibble: int) -> int:
        nonlocal at
        total = nibble
        while nibble == 15:
            total += block[at]
            at += 1
            if block[at - 1] != 255:
                break
        return total

    while at < len(block):
        token = block[at]
        at += 1
        literals = length(token >> 4)
        out += block[at : at + literals]
        at += literals
        if at == len(block):
            break
        offset = block[at] | block[at + 1] << 8
        at += 2
        for _ in range(length(token & 15) + 4):
            out.append(out[-offset])
    assert len(out) == size
    return bytes(out)


def read_index(path: Path, segment: Path) -> tuple[dict[int, list[int]], list[tuple[int, int]]]:
    """The offsets by key, and offset and time of every 64th commit."""
    data = path.read_bytes()
    head = data[:HEADER]
    _checked(head, INDEX_MAGIC)
    words = struct.unpack_from("<9Q", head, 56)
    seq, first, commits, seal, chain_after, length, count, block_count, size = words
    records, chain, info = read_segment(segment, None)
    assert (seq, first) == (info["seq"], info["first_epoch"]) and head[40:56] == info["uuid"]
    assert path.name == f"{seq:016x}-{first:016x}.midx"
    assert (chain_after, length, size) == (chain, segment.stat().st_size, len(data))
    assert records[-1].kind == SEAL and records[-1].offset == seal
    assert commits == sum(r.kind == COMMIT for r in records)
    assert not any(head[144 : HEADER - 8])
    directory_at = HEADER + 16 * count
    blocks_at = directory_at + 32 * block_count
    assert xxh3_128_intdigest(data[HEADER:blocks_at]) == int.from_bytes(head[128:144], "little")
    marks = list(struct.iter_unpack("<2Q", data[HEADER:directory_at]))
    directory = list(struct.iter_unpack("<4Q", data[directory_at:blocks_at]))
    places: dict[int, list[int]] = {}
    last = 0
    for n, (key, offset, at, checksum) in enumerate(directory):
        end = directory[n + 1][2] if n + 1 < len(directory) else size - blocks_at
        block = data[blocks_at + at : blocks_at + end]
        assert xxh3_64_intdigest(block) == checksum
        assert n + 1 == len(directory) or len(block) >= 4096
        fields, is_first = Fields(block), True
        while fields:
            key += fields.varint()
            place = 0
            for _ in range(fields.varint()):
                place += 8 * fields.varint()
                assert not is_first or place == offset
                is_first = False
                places.setdefault(key, []).append(place)
            assert last <= key
            last = key
    assert all(sorted(set(run)) == run for run in places.values())
    return places, marks


def index_key(kind: int, text: str) -> int:
    """The key of a source (1) or of a member of metadata (2)."""
    return (kind << 62) + (xxh3_64_intdigest(text.encode()) >> 26)


# --- the digest ---------------------------------------------------------------------------------


def _hash(data: bytes) -> bytes:
    """XXH3-128 as 16 little-endian bytes; the library of that name gives them big-endian."""
    return xxh3_128_digest(data)[::-1]


def _bytes_hash(data: bytes) -> bytes:
    if len(data) <= BLOCK:
        return _hash(data)
    level = [_hash(data[i : i + BLOCK]) for i in range(0, len(data), BLOCK)]
    while len(level) > 1:
        level = [_hash(b"".join(level[i : i + 32])) for i in range(0, len(level), 32)]
    return level[0]


def _page_hash(page: Page) -> bytes:
    text = b""
    for part in (page.name, page.dtype, page.meta):
        raw = part.encode()
        text += struct.pack("<Q", len(raw)) + raw
    text += struct.pack("<3Q", page.location, page.itemsize, len(page.shape))
    text += struct.pack(f"<{len(page.shape)}Q", *page.shape)
    text += struct.pack("<Q", len(page.data)) + _bytes_hash(page.data)
    if page.node:
        text += struct.pack("<Q", page.marks) + page.node
    return _hash(text)


def digest(state: State) -> str:
    """The digest of a state, as `bus.digest()` writes it."""
    # Leaves of 16 ids: (id, hash) of each page; above them nodes of 32: (place, hash) each.
    level: dict[int, list[tuple[int, bytes]]] = {}
    for i, page in sorted(state.pages.items()):
        level.setdefault(i >> 4, []).append((i, _page_hash(page)))
    pages = bytes(16)
    while level:
        hashed = {
            at: _hash(b"".join(struct.pack("<Q", n) + h for n, h in children))
            for at, children in level.items()
        }
        if list(hashed) == [0]:
            pages = hashed[0]
            break
        level = {}
        for at, h in hashed.items():
            level.setdefault(at >> 5, []).append((at & 31, h))
    return _hash(b"mmsb state 1" + pages + bytes(16))[::-1].hex()
