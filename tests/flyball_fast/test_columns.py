"""The columnar codec: both twins, one suite, and their bytes are the same."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_fast import _columns_py, columns
from flyball_fast.columns import QUANTA, UNKNOWN, Block
from flyball_fast.errors import ColumnsError
from flyball_fast.ring import Ring, Row, Span
from flyball_fast.ring_layout import COLUMN_INDEX, COLUMNS

_columns_c = pytest.importorskip("flyball_fast._columns_c")
TWINS = (_columns_py, _columns_c)
BASE_US = 1_763_770_000_000_000
COLUMN_COUNT = len(COLUMNS)


@pytest.fixture(params=TWINS, ids=["py", "c"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


def block_of(gpu: int, values: Sequence[Sequence[int]]) -> Block:
    flat = array("q", [value for column in values for value in column])
    return Block(gpu, len(values[0]), memoryview(flat))


def lists(batch: tuple[int, list[Block]]) -> list[tuple[int, int, list[int]]]:
    return [(block.gpu, block.rows, block.values.tolist()) for block in batch[1]]


def floored(block: Block) -> list[int]:
    shifts = [BASE_US * 1000] + [0] * (COLUMN_COUNT - 1)
    return [
        value if value == UNKNOWN else (value - shifts[column]) // QUANTA[column] * QUANTA[column] + shifts[column]
        for column in range(COLUMN_COUNT)
        for value in block.column(column).tolist()
    ]


# Far enough from the ends of 64 bit that no quantum leads over them.
numbers = st.one_of(st.just(UNKNOWN), st.integers(0, 3), st.integers(-1000, 700_000), st.integers(-(2**60), 2**60))


@st.composite
def blocks(draw: st.DrawFn) -> list[Block]:
    found = []
    for gpu in range(draw(st.integers(0, 3))):
        rows = draw(st.integers(0, 12))
        columns_ = draw(st.lists(st.lists(numbers, min_size=rows, max_size=rows), min_size=13, max_size=13))
        times = [value if value == UNKNOWN else value + BASE_US * 1000 for value in columns_[0]]
        found.append(block_of(gpu, [times, *columns_[1:]]))
    return found


@settings(max_examples=60, deadline=None)
@given(found=blocks())
def test_what_is_packed_comes_back_to_the_quantum_and_both_twins_write_the_same(found: list[Block]) -> None:
    packed = _columns_py.encode(BASE_US, found)
    assert _columns_c.encode(BASE_US, found) == packed
    for twin in TWINS:
        base, decoded = twin.decode(packed)
        assert base == BASE_US
        assert [(block.gpu, block.rows) for block in decoded] == [(block.gpu, block.rows) for block in found]
        assert [block.values.tolist() for block in decoded] == [floored(block) for block in found]


def outcome(twin: ModuleType, data: bytes) -> object:
    try:
        base, found = twin.decode(data)
    except ColumnsError:
        return "refused"
    return base, lists((base, found))


@settings(max_examples=60, deadline=None)
@given(found=blocks(), data=st.data())
def test_a_damaged_batch_is_refused_or_read_alike_by_both_twins(found: list[Block], data: st.DataObject) -> None:
    packed = bytearray(_columns_py.encode(BASE_US, found))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packed)))

    for damaged in (bytes(packed), bytes(packed[:cut])):
        assert outcome(_columns_py, damaged) == outcome(_columns_c, damaged)


@settings(max_examples=80, deadline=None)
@given(tail=st.binary(max_size=80))
def test_noise_is_refused_or_read_alike_by_both_twins(tail: bytes) -> None:
    head = b"\x01" + bytes(8) + b"\x01\x00\x04\x00"  # one block of four rows; what follows is noise
    for noise in (tail, head + tail):
        assert outcome(_columns_py, noise) == outcome(_columns_c, noise)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too early"),
        (b"\x02" + bytes(9), "version 2"),
        (b"\x01" + bytes(8) + b"\xff", "255 blocks"),
        (b"\x01" + bytes(9) + b"!", "1 bytes behind"),
        (b"\x01" + bytes(8) + b"\x01" + b"\x00\xff\xff\x00\x00", "beyond the bounds"),
        (b"\x01" + bytes(8) + b"\x01" + b"\x00\x01\x00\x00\x80", "beyond the bounds"),
        (b"\x01" + bytes(8) + b"\x01" + b"\x00\x00\x00\x01\x00", "of no rows"),
    ],
)
def test_a_bad_batch_says_what_is_wrong(twin: ModuleType, data: bytes, reason: str) -> None:
    with pytest.raises(ColumnsError, match=reason):
        twin.decode(data)


def test_a_few_bytes_cannot_ask_for_much_memory(twin: ModuleType) -> None:
    constant = b"\x00\x00\x80" + b"\x01\x00" + b"\x00\x00\x00"  # 32768 rows of one constant column

    with pytest.raises(ColumnsError, match="beyond the bounds"):
        twin.decode(b"\x01" + bytes(8) + b"\x02" + constant * 2)


def test_a_block_of_another_size_than_said_is_refused(twin: ModuleType) -> None:
    with pytest.raises(ColumnsError, match="values for 5 rows"):
        twin.encode(0, [Block(0, 5, memoryview(array("q", [1])))])
    with pytest.raises(ColumnsError, match=r"expected 0\.\.63"):
        twin.encode(0, [Block(64, 1, memoryview(array("q", [1] * COLUMN_COUNT)))])


def test_a_span_of_a_ring_comes_back_with_unknowns_and_wall_time(twin: ModuleType) -> None:
    with Ring.create(1, capacity=8) as ring:
        for tick in range(10):
            ring.append(0, Row(t_mono_ns=tick * 10**9, power_instant_mw=None if tick == 5 else 1000 * tick))

        block = twin.gather(ring.memory, 0, 8, 4, 8, 7)

    assert block.column(0).tolist() == [tick * 10**9 + 7 for tick in range(4, 8)]
    assert columns.known(block, COLUMN_INDEX["power_instant_mw"]) == [4000, None, 6000, 7000]
    assert columns.known(block, COLUMN_INDEX["energy_mj"]) == [None] * 4


def a_busy_host(hertz: int) -> Ring:
    """Eight capped GPUs for one second: power walks, clocks and load move, one throttle counter runs, ticks jitter."""
    chance = random.Random(7)
    ring = Ring.create(8, capacity=256)
    for gpu in range(8):
        power, energy, capped = 600_000, 10**11, 10**9
        clock, load, average = 1500, 97, 600_000
        for tick in range(hertz):
            power += chance.randint(-9_000, 9_000)
            energy += power // hertz
            capped += 10**9 // hertz if chance.random() < 0.7 else 0
            if tick % max(1, hertz // 10) == 0:
                clock, load = 15 * chance.randint(90, 105), chance.randint(95, 100)
                average += chance.randint(-2_000, 2_000)
            at = tick * 10**9 // hertz + gpu * 20_000 + chance.randint(0, 300_000)
            ring.append(gpu, Row(at, energy, capped, 0, 0, 0, power, average, 4, clock, 2619, 61 + tick // 60, load))
    return ring


@pytest.mark.parametrize(("hertz", "most_bytes"), [(10, 1300), (100, 8000)])
def test_a_second_of_eight_busy_gpus_fits_the_wire(hertz: int, most_bytes: int) -> None:
    envelope = 120  # host, session, sequence, window and the frame of msgpack, at most
    with a_busy_host(hertz) as ring:
        spans = {gpu: Span(0, hertz, 0) for gpu in range(8)}
        packed = columns.encode_spans(ring, spans)

    assert len(packed) + envelope <= most_bytes
    assert [block.rows for block in columns.decode(packed)[1]] == [hertz] * 8
