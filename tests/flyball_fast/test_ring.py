"""The sample ring: both twins, one suite."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_fast import _ring_py, ring_layout
from flyball_fast.errors import RingError
from flyball_fast.ring import Cursor, Ring, Row, Summary

_ring_c = pytest.importorskip("flyball_fast._ring_c")

FULL = Row(1, 2, 3, 4, 5, 6, 700_000, 8, 9, 10, 11, -12, 13)


@pytest.fixture(params=[_ring_py, _ring_c], ids=["py", "c"])
def core(request: pytest.FixtureRequest) -> ModuleType:
    twin: ModuleType = request.param
    return twin


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(2, capacity=16, uuids=["GPU-a", "GPU-b"]) as made:
        yield made


@st.composite
def rows(draw: st.DrawFn) -> Row:
    cells = []
    for column in ring_layout.COLUMNS:
        bits = 8 * column.bytes
        low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if column.format in "qb" else (0, 2**bits - 2)
        cells.append(draw(st.none() | st.integers(low, high)))
    return Row(*cells)


@settings(max_examples=50, deadline=None)
@given(row=rows())
def test_a_row_reads_as_it_was_written_by_either_twin(row: Row) -> None:
    with Ring.create(1, capacity=8) as ring:
        for writer in (_ring_py, _ring_c):
            for reader in (_ring_py, _ring_c):
                index = writer.append(ring.memory, 0, 8, row)
                assert reader.row(ring.memory, 0, 8, index) == row


def test_unknown_is_marked_and_zero_stays_zero(core: ModuleType, ring: Ring) -> None:
    core.append(ring.memory, 0, 16, Row())
    core.append(ring.memory, 0, 16, Row(*[0] * 13))

    assert ring.row(0, 0) == Row()
    assert ring.row(0, 1) == Row(*[0] * 13)


def test_what_the_sampler_calls_forgotten_is_every_mark() -> None:
    assert _ring_c.forgotten() == tuple(column.unknown for column in ring_layout.COLUMNS)


def test_a_row_is_exactly_the_stated_size() -> None:
    assert sum(column.bytes for column in ring_layout.COLUMNS) == ring_layout.ROW_BYTES
    assert ring_layout.SLOW_WORD + len(ring_layout.SLOW) <= ring_layout.GPU_HEADER_BYTES // ring_layout.WORD_BYTES


def test_a_value_too_large_is_refused_and_nothing_is_written(core: ModuleType, ring: Ring) -> None:
    with pytest.raises(OverflowError):
        core.append(ring.memory, 0, 16, FULL._replace(reasons=2**16))
    assert ring.head(0) == 0


def test_a_row_of_another_length_is_refused(core: ModuleType, ring: Ring) -> None:
    with pytest.raises(ValueError, match="expected 13"):
        core.append(ring.memory, 0, 16, [1, 2])


def test_rows_of_one_gpu_do_not_touch_another(core: ModuleType, ring: Ring) -> None:
    core.append(ring.memory, 1, 16, FULL)

    assert ring.head(0) == 0
    assert core.row(ring.memory, 0, 16, 0) is None
    assert core.row(ring.memory, 1, 16, 0) == FULL


def test_an_overwritten_row_is_none_and_not_a_mixture(core: ModuleType, ring: Ring) -> None:
    for tick in range(17):
        core.append(ring.memory, 0, 16, FULL._replace(t_mono_ns=tick))

    assert core.row(ring.memory, 0, 16, 0) is None
    assert core.row(ring.memory, 0, 16, 1) is not None
    assert core.row(ring.memory, 0, 16, 17) is None
    assert core.row(ring.memory, 0, 16, -1) is None


def test_a_summary_holds_mean_extremes_and_energy(core: ModuleType, ring: Ring) -> None:
    for tick, power in enumerate([100, None, 300]):
        core.append(ring.memory, 0, 16, Row(t_mono_ns=tick, power_instant_mw=power, energy_mj=1000 + tick))

    summary = Summary(*core.summarize(ring.memory, 0, 16, 0, 3))

    assert summary == Summary(0, 2, 2, 100, 300, 400, 1000, 1002)
    assert summary.power_mean_mw == 200
    assert summary.energy_mj == 2


def test_a_summary_of_unknown_rows_knows_nothing(core: ModuleType, ring: Ring) -> None:
    core.append(ring.memory, 0, 16, Row(t_mono_ns=5))

    summary = Summary(*core.summarize(ring.memory, 0, 16, 0, 1))

    assert summary.power_mean_mw is None
    assert summary.energy_mj is None


@pytest.mark.parametrize(("first", "stop"), [(0, 0), (-1, 1), (0, 99), (3, 2)])
def test_a_summary_of_rows_not_there_is_none(core: ModuleType, ring: Ring, first: int, stop: int) -> None:
    core.append(ring.memory, 0, 16, FULL)

    assert core.summarize(ring.memory, 0, 16, first, stop) is None


def test_energy_that_went_back_is_unknown() -> None:
    assert Summary(0, 1, 1, 1, 1, 1, 900, 100).energy_mj is None


def test_a_column_is_seen_in_place_and_cannot_be_written(ring: Ring) -> None:
    column = ring.column(0, "power_instant_mw")
    ring.append(0, FULL)

    assert column[0] == 700_000
    with pytest.raises(TypeError):
        column[0] = 1
    column.release()


def test_a_cursor_counts_what_it_missed(ring: Ring) -> None:
    cursor = Cursor(ring)
    for _ in range(20):
        ring.append(0, FULL)

    span = cursor.take(0)

    assert (span.first, span.stop, span.lost, cursor.lost) == (4, 20, 4, 4)
    assert cursor.take(0).first == cursor.take(0).stop == 20


def test_a_cursor_takes_no_more_than_its_limit(ring: Ring) -> None:
    cursor = Cursor(ring)
    for _ in range(5):
        ring.append(0, FULL)

    assert cursor.take(0, 3).stop == 3
    assert cursor.take(0, 3).stop == 5


def test_a_look_tells_peak_newest_and_the_share_of_time_throttled(core: ModuleType, ring: Ring) -> None:
    marks = ring.new_marks()
    ring.append(0, Row(t_mono_ns=1_000, power_cap_ns=500, power_instant_mw=600))
    first = core.look(ring.memory, 2, 16, marks)
    ring.append(0, Row(t_mono_ns=2_000, power_cap_ns=800, power_instant_mw=900))
    ring.append(0, Row(t_mono_ns=3_000, power_cap_ns=1_500, power_instant_mw=700))

    assert first == [(600, 600, None), (None, None, None)]
    assert core.look(ring.memory, 2, 16, marks) == [(900, 700, 0.5), (None, None, None)]
    assert core.look(ring.memory, 2, 16, marks) == [(None, None, None)] * 2


def test_a_throttle_counter_that_began_anew_tells_no_share(core: ModuleType, ring: Ring) -> None:
    marks = ring.new_marks()
    for at, counter in ((1_000, 500), (2_000, 100), (3_000, None), (4_000, 200)):
        ring.append(0, Row(t_mono_ns=at, power_cap_ns=counter, power_instant_mw=None))
        assert core.look(ring.memory, 2, 16, marks)[0] == (None, None, None)


def test_a_look_after_more_rows_than_the_ring_holds_takes_those_still_there(core: ModuleType, ring: Ring) -> None:
    marks = ring.new_marks()
    for number in range(40):
        ring.append(0, Row(t_mono_ns=number, power_cap_ns=0, power_instant_mw=1000 - number))

    assert core.look(ring.memory, 2, 16, marks)[0][:2] == (1000 - 24, 1000 - 39)


def test_slow_values_are_unknown_until_told(ring: Ring) -> None:
    assert set(ring.slow(1).values()) == {None}

    ring.set_slow(1, {"limit_enforced_mw": 500_000, "ecc_corrected": 0})

    assert ring.slow(1)["limit_enforced_mw"] == 500_000
    assert ring.slow(1)["ecc_corrected"] == 0
    assert ring.slow(1)["ecc_uncorrected"] is None


def test_another_process_may_read_through_a_descriptor_that_cannot_write(ring: Ring) -> None:
    ring.append(1, FULL)

    with Ring.attach(ring.read_only_fd()) as reader:
        assert reader.latest(1) == FULL
        assert reader.uuid(1) == "GPU-b"
        assert not reader.is_writable
        with pytest.raises(TypeError):
            reader.set_word("generation", 1)


def test_the_heartbeat_names_call_and_gpu_only_while_it_runs(ring: Ring) -> None:
    assert ring.heartbeat().call is None

    ring.begin_call("set_limit", 1)
    assert ring.heartbeat()[:2] == ("set_limit", 1)
    ring.begin_call("open")
    assert ring.heartbeat()[:2] == ("open", None)

    ring.end_call()
    assert ring.heartbeat().call is None


def test_the_size_of_a_ring_cannot_change(ring: Ring) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(ring.fd, 0)


@pytest.mark.parametrize(("gpus", "capacity"), [(0, 8), (65, 8), (1, 12), (1, 4)])
def test_an_impossible_ring_is_refused(gpus: int, capacity: int) -> None:
    with pytest.raises(RingError, match="expected"):
        Ring.create(gpus, capacity=capacity)


@pytest.mark.parametrize("word", ["magic", "version", "row_bytes", "capacity", "gpu_count"])
def test_memory_of_another_kind_or_version_is_refused(ring: Ring, word: str) -> None:
    ring.set_word(word, ring.word(word) + 1)

    with pytest.raises(RingError, match="expected"):
        Ring.attach(os.dup(ring.fd))


def test_too_few_bytes_are_no_ring() -> None:
    fd = os.memfd_create("small")
    with pytest.raises(RingError, match="0 bytes"):
        Ring.attach(fd)
    os.close(fd)


def test_a_gpu_outside_the_ring_is_an_index_error(ring: Ring) -> None:
    with pytest.raises(IndexError, match=r"expected 0\.\.1"):
        ring.append(2, FULL)
    with pytest.raises(ValueError, match="beyond"):
        _ring_c.append(ring.memory, 2, 16, FULL)


def test_a_reader_racing_the_writer_never_sees_a_torn_row(core: ModuleType) -> None:
    with Ring.create(1, capacity=8) as ring:
        stop = threading.Event()

        def write() -> None:
            for tick in range(20_000):
                ring.append(0, Row(t_mono_ns=tick, energy_mj=tick, power_instant_mw=tick))
            stop.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not stop.is_set():
            row = core.row(ring.memory, 0, 8, max(0, ring.head(0) - 4))
            assert row is None or row[0] == row[1] == row[6]
        writer.join()
