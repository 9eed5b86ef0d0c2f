"""A page is indexed, assigned and converted as NumPy does it on a copy of its array."""

from __future__ import annotations

from typing import Any

import mmsb
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

RECORD = np.dtype([("id", "<i4"), ("at", "<f8", (2,)), ("when", "<M8[us]")])
ALIGNED = np.dtype({"names": ["a", "b"], "formats": ["u1", "<f8"], "itemsize": 24}, align=True)


def filled(dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """An array of a dtype with bytes that are all valid for it."""
    dtype = np.dtype(dtype)
    n = int(np.prod(shape)) * dtype.itemsize
    if dtype.kind in "?SU" or dtype.names:
        out = np.zeros(shape, dtype)
        flat = out.reshape(-1)
        for i in range(flat.size):
            if dtype.names:
                flat[i][dtype.names[0]] = i % 100
                flat[i][dtype.names[1]] = i / 2
            else:
                flat[i] = bool(i % 2) if dtype.kind == "?" else f"s{i}"
        return out
    return np.frombuffer(bytes(i % 120 for i in range(n)), dtype).reshape(shape).copy()


DTYPES = ["u1", "<i8", ">u2", "<f4", "<c16", "?", "<M8[ns]", "<m8[s]", "S5", "<U3", "<f2", RECORD]
SHAPES: list[tuple[int, ...]] = [(), (1,), (7,), (0,), (4, 3), (3, 0), (2, 3, 4), (5000, 2)]
INDEXES: list[Any] = [
    np.s_[...],
    np.s_[()],
    np.s_[:],
    np.s_[0],
    np.s_[-1],
    np.s_[1:3],
    np.s_[::-1],
    np.s_[::2],
    np.s_[5:2],
    np.s_[..., 0],
    np.s_[0, 0],
    np.s_[0, ...],
    np.s_[None, :],
    np.s_[:, 1],
    np.s_[1:, :2],
    [0, 1],
    np.array([0, -1]),
    np.s_[[0, 1], 0],
    np.s_[np.newaxis],
    np.int64(0),
    True,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_indexing_is_numpys(dtype: Any, shape: tuple[int, ...]) -> None:
    array = filled(dtype, shape)
    with mmsb.Bus() as bus:
        page = bus.create_page("p", data=array)
        assert page.read().tobytes() == array.tobytes()
        for index in INDEXES:
            try:
                wanted = array[index]
            except IndexError:
                with pytest.raises(mmsb.PageIndexError):
                    page[index]
                continue
            got = page[index]
            assert type(got) is type(wanted), index
            assert got.dtype == wanted.dtype and got.shape == wanted.shape, index
            assert got.tobytes() == wanted.tobytes(), index


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_assignment_is_numpys(dtype: Any, shape: tuple[int, ...]) -> None:
    array = filled(dtype, shape)
    with mmsb.Bus() as bus:
        page = bus.create_page("p", data=array)
        for index in INDEXES:
            try:
                part = array[index]
            except IndexError:
                with pytest.raises(mmsb.PageIndexError):
                    page[index] = array.reshape(-1)[:1]
                continue
            value = filled(dtype, (part.size + 1,))[1:].reshape(part.shape)
            array[index] = value
            page[index] = value
            assert page.read().tobytes() == array.tobytes(), index
            if part.size:
                array[index] = value.reshape(-1)[:1] if part.ndim else value
                page[index] = value.reshape(-1)[:1] if part.ndim else value
                assert page.read().tobytes() == array.tobytes(), index


@given(st.data())
def test_random_indexes_of_a_scattered_page(data: st.DataObject) -> None:
    # 60 kB in several blocks that were written one by one, so that they are not adjacent.
    shape = (30, 500)
    array = np.zeros(shape, "<f4")
    with mmsb.Bus() as bus:
        page = bus.create_page("p", shape=shape, dtype="<f4")
        for row in data.draw(st.lists(st.integers(0, 29), max_size=6)):
            array[row] = page[row] = np.arange(500) * (row + 1)
        for _ in range(4):
            index = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
            got, wanted = page[index], array[index]
            assert type(got) is type(wanted)
            assert got.shape == wanted.shape and got.tobytes() == wanted.tobytes()
            value = np.random.default_rng(data.draw(st.integers(0, 99))).random(wanted.shape)
            array[index] = value
            page[index] = value
            assert page.read().tobytes() == array.tobytes()


@given(st.data())
def test_random_dtypes_round_trip(data: st.DataObject) -> None:
    dtype = data.draw(
        st.one_of(
            hnp.scalar_dtypes().filter(lambda d: d.itemsize and d.kind != "T"),
            hnp.array_dtypes(hnp.scalar_dtypes().filter(lambda d: d.itemsize > 0)),
        )
    )
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    array = np.zeros(shape, dtype)
    raw = np.random.default_rng(1).bytes(array.nbytes)
    array = np.ndarray(array.shape, array.dtype, buffer=bytearray(raw))
    with mmsb.Bus() as bus:
        page = bus.create_page("p", data=array)
        assert page.dtype == array.dtype and page.shape == array.shape
        got = page.read()
        assert got.dtype == array.dtype and got.tobytes() == array.tobytes()


# --- values and casting -------------------------------------------------------------------------

CASTS: list[tuple[str, Any, bool]] = [
    ("f4", 1.5, True),
    ("f4", np.float64(1e10), True),
    ("f4", [1, 2, 3], True),
    ("f4", np.arange(3), True),
    ("f4", np.arange(3) + 1j, False),
    ("f8", "text", False),
    ("f8", [1, [2, 3]], False),
    ("f8", object(), False),
    ("i4", 7, True),
    ("i4", np.int64(7), True),
    ("i4", 1.5, False),
    ("i4", np.ones(3), False),
    ("i4", 2**31, False),
    ("i4", np.int64(2**40), False),
    ("i4", np.array([1, 2, 2**40]), False),
    ("u4", np.array([1, 2, -1]), False),
    ("u1", 2**70, False),
    ("u1", 256, False),
    ("u1", -1, False),
    ("u1", [1, 2, 300], False),
    ("u1", True, True),
    ("i1", [1, 2, -128], True),
    ("?", True, True),
    ("M8[s]", np.datetime64("2020-01-01"), True),
    ("M8[s]", np.float64(1), False),
    ("U2", "longer", True),
    ("S2", b"ab", True),
    (">i4", [1, 2, 3], True),
    ("c8", 1 + 2j, True),
]


@pytest.mark.parametrize(("dtype", "value", "good"), CASTS)
def test_values_are_cast_by_the_same_kind_rule(dtype: str, value: Any, good: bool) -> None:
    with mmsb.Bus() as bus:
        page = bus.create_page("p", shape=3, dtype=dtype)
        ways = [
            lambda: page.write(value),
            lambda: page.__setitem__(slice(None), value),
            lambda: page.__setitem__(..., value),
            lambda: bus.__setitem__("p", value),
        ]
        for way in ways:
            page.write(np.zeros(3, dtype))
            epoch = bus.epoch
            if good:
                way()
                wanted = np.zeros(3, dtype)
                wanted[...] = value
                assert page.read().tobytes() == wanted.tobytes()
            else:
                with pytest.raises((mmsb.InvalidDeltaError, mmsb.ArgumentTypeError)):
                    way()
                assert bus.epoch == epoch and page.read().tobytes() == bytes(page.nbytes)
        if not good:
            with (
                pytest.raises((mmsb.InvalidDeltaError, mmsb.ArgumentTypeError)),
                bus.transaction() as tx,
            ):
                tx.write("p", value)


@pytest.mark.parametrize(
    ("shape", "value", "good"),
    [
        ((3, 2), [1, 2], True),
        ((3, 2), [[1], [2], [3]], True),
        ((3, 2), [1, 2, 3], False),
        ((3,), np.array([[[1, 2, 3]]]), True),
        ((3,), [[1, 2, 3], [1, 2, 3]], False),
        ((3,), [1, 2], False),
        ((), np.array([1]), True),
        ((), np.array([1, 2]), False),
        ((0,), [], True),
        ((0,), 5, True),
        ((2, 0), [1, 2], False),
    ],
)
def test_values_are_broadcast_as_numpy_assigns(shape: Any, value: Any, good: bool) -> None:
    with mmsb.Bus() as bus:
        page = bus.create_page("p", shape=shape)
        if good:
            page.write(value)
            wanted = np.zeros(shape)
            wanted[...] = value
            assert page.read().tobytes() == wanted.tobytes()
        else:
            with pytest.raises(mmsb.InvalidDeltaError) as caught:
                page.write(value)
            assert isinstance(caught.value.__cause__, ValueError | TypeError | None)
            assert bus.epoch == 1


def test_fields_and_records_of_a_structured_page() -> None:
    with mmsb.Bus() as bus:
        page = bus.create_page("p", shape=4, dtype=RECORD)
        array = np.zeros(4, RECORD)
        when = np.datetime64("2024-02-29T12:00:00.000001")
        for target in (array, page):
            target["id"] = [1, 2, 3, 4]
            target[1] = (7, (1.5, 2.5), when)
            target[2:] = array[:2]
        assert page.read().tobytes() == array.tobytes()
        assert page["at"].shape == (4, 2) and page["id"].tolist() == array["id"].tolist()
        assert page[["id", "when"]].dtype.names == ("id", "when")
        with pytest.raises(mmsb.PageIndexError):
            page["nothing"]


def test_padded_records_keep_their_layout() -> None:
    array = np.zeros(5, ALIGNED)
    array["a"], array["b"] = range(5), np.arange(5) / 3
    with mmsb.Bus() as bus:
        page = bus.create_page("p", data=array)
        assert page.dtype == ALIGNED and page.dtype.itemsize == 24
        assert page.read()["b"].tolist() == array["b"].tolist()
        page[3] = (9, 9.5)
        assert page[3].item() == (9, 9.5)


# --- a page is array-like, not an array ---------------------------------------------------------


def test_conversions() -> None:
    with mmsb.Bus() as bus:
        page = bus.create_page("p", data=np.arange(6, dtype="i4").reshape(2, 3))
        assert len(page) == 2 and [r.tolist() for r in page] == [[0, 1, 2], [3, 4, 5]]
        assert bytes(page) == page.read().tobytes()
        assert np.asarray(page).tolist() == [[0, 1, 2], [3, 4, 5]]
        assert not np.asarray(page).flags.writeable
        assert np.asarray(page, dtype="f8").dtype == np.float64
        copied = np.array(page)
        copied[0, 0] = 7
        assert page[0, 0] == 0
        assert np.shares_memory(np.array(page, copy=False), page.read())
        with pytest.raises(ValueError):
            np.array(page, dtype="f8", copy=False)
        assert (np.add(page, 1) == np.arange(1, 7).reshape(2, 3)).all()
        one = bus.create_page("one", data=2.5)
        assert float(one) == 2.5 and int(one) == 2 and float(bus.create_page(data=[3])) == 3
        with pytest.raises(TypeError):
            float(page)
        with pytest.raises(TypeError):
            len(one)
        raw = bus.create_page(data=b"abc")
        assert bytes(raw) == b"abc"


def test_what_would_mislead_is_refused_and_names_the_way() -> None:
    with mmsb.Bus() as bus:
        page = bus.create_page("p", data=[1.0, 2.0])
        for wrong in (
            lambda: bool(page),
            lambda: page == 1,
            lambda: page != 1.5,
            lambda: page == np.zeros(2),
        ):
            with pytest.raises(mmsb.ArgumentTypeError, match=r"\[\(\)\]|\[\.\.\.\]"):
                wrong()
        same = page
        with pytest.raises(mmsb.ArgumentTypeError, match=r"edit"):
            page += 1
        with pytest.raises(mmsb.ArgumentTypeError):
            page *= 2
        assert page is same
        assert (page == "text") is False and (page == None) is False  # noqa: E711
        with pytest.raises(ValueError):
            page[...] += 1  # NumPy's own refusal: the view is read-only
        assert bus.epoch == 1 and page[...].tolist() == [1, 2]


def test_wrong_indexes() -> None:
    with mmsb.Bus() as bus:
        page = bus.create_page("p", shape=(2, 3))
        for index in (2, -3, (0, 3), (0, 0, 0), "field", 1.5, [5], np.zeros(3, bool)):
            with pytest.raises(mmsb.PageIndexError):
                page[index]
            with pytest.raises(mmsb.PageIndexError):
                page[index] = 1
        with pytest.raises(IndexError):
            page[2]
        assert bus.epoch == 1


# --- size ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 1000, 40_000])
def test_append_and_resize_keep_rows_and_give_zeros(bus: mmsb.Bus, rows: int) -> None:
    page = bus.create_page("p", data=np.arange(rows * 2, dtype="i4").reshape(rows, 2))
    array = page.read(copy=True)
    assert page.append(np.full((3, 2), 7)) == bus.epoch == 2
    array = np.concatenate([array, np.full((3, 2), 7, "i4")])
    assert page.shape == (rows + 3, 2) and page.read().tobytes() == array.tobytes()
    page.resize((rows * 2 + 5, 2))
    array = np.concatenate([array, np.zeros((rows + 2, 2), "i4")])
    assert page.read().tobytes() == array.tobytes()
    page.resize((1, 2))
    page.resize((rows, 2))
    wanted = np.zeros((rows, 2), "i4")
    wanted[0] = [0, 1]
    assert page.read().tobytes() == wanted.tobytes()  # what was cut off does not come back
    page.resize((0, 2))
    assert len(page) == 0
    with pytest.raises(mmsb.MMSBError):
        page.resize((2, 3))  # only the first axis
    with pytest.raises(mmsb.MMSBError):
        page.append([1, 2])  # rows have the page's number of dimensions
    with pytest.raises(mmsb.MMSBError):
        page.resize((-1, 2))


def test_write_with_resize_takes_the_first_axis_from_the_values(bus: mmsb.Bus) -> None:
    page = bus.create_page("p", shape=(2, 3), dtype="f4")
    page.write(np.ones((5, 3)), resize=True)
    assert page.shape == (5, 3) and page.read().sum() == 15
    page.write(np.zeros((0, 3)), resize=True)
    assert page.shape == (0, 3)
    with pytest.raises(mmsb.InvalidDeltaError):
        page.write(np.ones((5, 4)), resize=True)
    with pytest.raises(mmsb.InvalidDeltaError):
        page.write(np.ones((5, 3)))
    raw = bus.create_page(data=b"abc")
    raw.write(b"longer bytes", resize=True)
    assert bytes(raw) == b"longer bytes"
    raw.write(b"LONGER BYTES")
    raw[0:2] = b"xy"
    assert bytes(raw) == b"xyNGER BYTES"
    with pytest.raises(mmsb.InvalidDeltaError):
        raw.write(b"short")


def test_zero_dimensional_pages_have_no_axis_to_change(mem: mmsb.Bus) -> None:
    page = mem.create_page("p", data=1.0)
    for wrong in (lambda: page.append([1.0]), lambda: page.resize((2,)), lambda: page.resize(2)):
        with pytest.raises(mmsb.MMSBError):
            wrong()
    page[()] = 4
    page[...] = 5
    assert page[()] == 5 and mem.epoch == 3


# --- every change returns its epoch -------------------------------------------------------------


def test_each_change_returns_the_epoch_that_shows_it(bus: mmsb.Bus) -> None:
    page = bus.create_page("p", shape=3)
    assert page.write([1, 2, 3]) == 2
    assert page.append([4]) == 3
    assert page.resize(2) == page.epoch == 4
    assert page.rename("q") == 5 and page.name == "q" and "p" not in bus
    assert page.set_meta({"a": 1}) == 6
    assert bus.write_many([page.id], [0], np.full((1, 8), 1, np.uint8)) == 7
    assert page.write([1, 2], source="me", meta={"step": 1}, durability="memory") == 8
    commit = list(bus.log())[-1]
    assert (commit.source, commit.meta, commit.epoch) == ("me", {"step": 1}, 8)
    assert page.delete() == 9
    with pytest.raises(mmsb.PageNotFoundError):
        page.read()
    with pytest.raises(mmsb.PageNotFoundError):
        page[0] = 1
    with pytest.raises(mmsb.PageNotFoundError):
        _ = page.shape


def test_a_change_that_changes_nothing_makes_no_epoch(bus: mmsb.Bus) -> None:
    page = bus.create_page("p", data=[1.0, 2.0], meta={"a": 1})
    assert page.write([1, 2]) == 1
    page[0] = 1
    page[0:1] = [1.0]
    assert page.resize(2) == page.rename("p") == page.set_meta({"a": 1}) == 1
    assert page.append(np.zeros(0)) == 1
    assert bus.write_many([1], [0], np.zeros((1, 1), np.uint8)) == 1
    assert bus.write_many(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4), np.uint8)) == 1
    with bus.transaction() as tx:
        tx["p"] += 0
        tx.write("p", [1, 2])
    assert (tx.epoch, tx.changed) == (1, False)
    assert bus.restore(1) == bus.epoch == 1
    assert page.write([1, 2], meta={"step": 1}) == 2  # metadata make it an event
    with bus.transaction(meta={"step": 2}) as tx:
        pass
    assert (tx.epoch, tx.changed, bus.epoch) == (3, True, 3)
    assert page.epoch == 1


def test_write_many_writes_in_order_and_all_or_nothing(bus: mmsb.Bus) -> None:
    pages = [bus.create_page(size=100) for _ in range(3)]
    ids = [1, 2, 3, 1, 1]
    offsets = [0, 96, 50, 2, 90]
    data = np.arange(20, dtype=np.uint8).reshape(5, 4)
    assert bus.write_many(ids, offsets, data) == 4
    wanted = [bytearray(100) for _ in pages]
    for i, at, row in zip(ids, offsets, data, strict=True):
        wanted[i - 1][at : at + 4] = row.tobytes()
    assert [bytes(p) for p in pages] == [bytes(w) for w in wanted]
    bad: list[tuple[Any, Any, Any]] = [
        ([1, 9], [0, 0], data[:2]),
        ([1, 2], [0, 97], data[:2]),
        ([1, 2], [0, 2**63], data[:2]),
        ([1, 2], [0, -1], data[:2]),
        ([1], [0, 0], data[:2]),
        ([1, 2], [0, 0], data[0]),
        ([1, 2], [0, 0], data[:2].astype("f8")),
        ([1.5, 2], [0, 0], data[:2]),
    ]
    for case in bad:
        with pytest.raises(mmsb.MMSBError):
            bus.write_many(*case)
        assert bus.epoch == 4 and [bytes(p) for p in pages] == [bytes(w) for w in wanted]


# --- one way in for every kind of value ---------------------------------------------------------

SCALARS: list[Any] = [0, 1, 2, -1, 255, 256, 2**31, 2**63, 2**70, 0.0, -0.0, 1.5, 1e300, 1e-50]
SCALARS += [float("nan"), float("inf"), True, False, np.float32(0.1), np.int8(-1), np.uint64(7)]
SCALARS += [1j, "1", b"1", None, [], [5], (5,), np.array(5), np.array([5]), np.datetime64(1, "s")]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i4", "i1", "u1", "u8", "?", ">f4", "c8"])
def test_the_short_way_of_one_value_is_the_long_way(dtype: str) -> None:
    """`page[i] = v` has a fast path for common cases; it must not be a way around the rules."""

    def outcome(assign: Any) -> Any:
        page.write(np.zeros(3, dtype))
        try:
            assign()
        except mmsb.MMSBError as error:
            return type(error)
        return page.read().tobytes()

    with mmsb.Bus() as bus:
        page = bus.create_page("p", shape=3, dtype=dtype)
        for v in SCALARS:
            long = outcome(lambda v=v: page.__setitem__(np.array([1]), v))
            short = outcome(lambda v=v: page.__setitem__(1, v))
            part = outcome(lambda v=v: page.__setitem__(slice(1, 2), v))
            assert short == part or isinstance(v, list | tuple | np.ndarray), (dtype, v)
            assert part == long, (dtype, v)
            if dtype == "?" and isinstance(short, bytes):
                assert set(short) <= {0, 1}, v


def test_values_may_come_from_the_page_itself(bus: mmsb.Bus) -> None:
    array = np.arange(30_000)
    page = bus.create_page("p", data=array)
    page[1:] = page[:-1]
    page[::-1] = page
    page[:] = page[:]
    array[1:] = array[:-1].copy()
    array[:] = array[::-1].copy()
    assert page.read().tolist() == array.tolist()
    with bus.transaction() as tx:
        tx["p"][2:] = tx["p"][:-2].copy()
        tx.write("p", tx.read("p")[::-1])
    array[2:] = array[:-2].copy()
    assert page.read().tolist() == array[::-1].tolist()


def test_arrays_of_any_layout_are_taken(bus: mmsb.Bus) -> None:
    page = bus.create_page("p", shape=(4, 6), dtype="i4")
    base = np.arange(96, dtype="i4").reshape(8, 12)
    swapped = base[:4, :6].astype(">i4")
    frozen = base[:4, :6].copy()
    frozen.flags.writeable = False
    layouts = [base[::2, ::2], base[:4, :6][::-1], np.asfortranarray(base[:4, :6]), swapped]
    layouts += [frozen, np.broadcast_to(base[0, :6], (4, 6)), base[:4, :6].astype("i8")]
    for values in layouts:
        page.write(values)
        assert page.read().tolist() == values.tolist()
        page[1:3] = values[1:3]
        with bus.transaction() as tx:
            tx["p"] = values[::-1]
        assert page.read().tolist() == values[::-1].tolist()
    raw = bus.create_page("raw", size=10)
    raw.write(memoryview(bytes(range(20)))[::2])
    assert bytes(raw) == bytes(range(0, 20, 2))
    data = np.arange(40, dtype=np.uint8).reshape(4, 10)
    bus.write_many(np.array([2, 2, 2, 2])[::2], np.array([0, 9, 5, 9])[::2], data[::2, ::2])
    assert bytes(raw) == bytes([0, 2, 4, 6, 8, 20, 22, 24, 26, 28])


def test_sparse_ranges_may_overlap_and_the_later_wins(bus: mmsb.Bus) -> None:
    raw = bus.create_page("raw", size=8)
    with bus.transaction() as tx:
        tx.apply(mmsb.Delta.sparse(raw, [0, 2, 1], [b"aaaa", b"bbbb", b"cc"]))
    assert bytes(raw) == b"accbbb\0\0"


def test_a_page_that_is_too_long_for_one_write_of_the_log(bus: mmsb.Bus) -> None:
    data = np.random.default_rng(1).integers(0, 256, 80 << 20, np.uint8)
    page = bus.create_page("p", data=data)
    page[7] = 7
    if bus.path is not None:
        bus.close()
        with mmsb.open(bus.path) as reader:
            data[7] = 7
            assert np.array_equal(reader["p"].read(), data)
