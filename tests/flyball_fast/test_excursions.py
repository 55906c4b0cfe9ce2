"""The excursion watch: both twins, one suite."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_fast import _excursions_py
from flyball_fast._excursions_py import BRAKE, OVER_CAP, THERMAL
from flyball_fast.ring import Ring, Row

_excursions_c = pytest.importorskip("flyball_fast._excursions_c")
MS = 1_000_000


@pytest.fixture(params=[_excursions_py, _excursions_c], ids=["py", "c"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.fixture
def ring() -> Iterator[Ring]:
    with Ring.create(2, capacity=8) as made:
        made.set_gpu_word(0, "cap_mw", 500_000)
        made.set_word("lease_mw", 1_000_000)
        made.set_word("hold_ns", 20 * MS)
        yield made


def tick(twin: ModuleType, ring: Ring, at_ms: int, *rows: Row) -> int:
    for gpu, row in enumerate(rows):
        ring.append(gpu, row)
    began: int = twin.judge(ring, at_ms * MS)
    return began


def drawing(power_mw: int | None) -> Row:
    return Row(power_instant_mw=power_mw)


def test_power_over_the_cap_counts_once_after_the_hold(twin: ModuleType, ring: Ring) -> None:
    over = drawing(510_000)

    assert [tick(twin, ring, at, over) for at in (10, 20, 30, 40)] == [0, 0, 1, 0]
    assert ring.gpu_word(0, "excursions") == 1
    assert ring.gpu_word(0, "excursion_kinds") == OVER_CAP


def test_a_short_peak_is_no_excursion_and_starts_the_hold_anew(twin: ModuleType, ring: Ring) -> None:
    over, under = drawing(510_000), drawing(500_000)

    assert [tick(twin, ring, 10 * at, row) for at, row in enumerate([over, over, under, over, over], 1)] == [0] * 5


def test_each_excursion_counts_after_it_was_over(twin: ModuleType, ring: Ring) -> None:
    ring.set_word("hold_ns", 0)

    assert [tick(twin, ring, at, drawing(power)) for at, power in ((1, 600_000), (2, 1), (3, 600_000))] == [1, 0, 1]


def test_the_host_is_over_its_lease_when_the_sum_is(twin: ModuleType, ring: Ring) -> None:
    ring.set_word("hold_ns", 0)

    assert tick(twin, ring, 1, drawing(499_000), drawing(501_000)) == 0
    assert tick(twin, ring, 2, drawing(499_000), drawing(501_001)) == 1
    assert ring.word("host_excursions") == 1
    assert ring.gpu_word(1, "excursions") == 0  # no cap is watched there


def test_a_gpu_of_unknown_power_counts_at_its_cap(twin: ModuleType, ring: Ring) -> None:
    ring.set_word("hold_ns", 0)

    assert tick(twin, ring, 1, drawing(None), drawing(500_000)) == 0
    assert tick(twin, ring, 2, drawing(None), drawing(500_001)) == 1


def test_a_brake_or_thermal_counter_that_moves_is_an_excursion_at_once(twin: ModuleType, ring: Ring) -> None:
    assert tick(twin, ring, 1, Row(power_brake_ns=5, thermal_hw_ns=0)) == 0
    assert tick(twin, ring, 2, Row(power_brake_ns=6, thermal_hw_ns=0)) == 1
    assert ring.gpu_word(0, "excursion_kinds") == BRAKE
    assert tick(twin, ring, 3, Row(power_brake_ns=6, thermal_hw_ns=1)) == 1
    assert ring.gpu_word(0, "excursion_kinds") == THERMAL


def test_a_counter_that_starts_anew_or_is_unknown_is_none(twin: ModuleType, ring: Ring) -> None:
    rows = [Row(power_brake_ns=value) for value in (900, None, 900, 3)]

    assert [tick(twin, ring, at, row) for at, row in enumerate(rows, 1)] == [0] * 4


def test_nothing_is_watched_without_cap_and_lease(twin: ModuleType) -> None:
    with Ring.create(1, capacity=8) as ring:
        assert tick(twin, ring, 1, drawing(10**6)) == 0


@settings(max_examples=40, deadline=None)
@given(
    powers=st.lists(st.none() | st.integers(0, 2000), max_size=20),
    cap=st.integers(0, 1500),
    lease=st.integers(0, 1500),
    hold=st.integers(0, 3),
)
def test_both_twins_judge_alike(powers: list[int | None], cap: int, lease: int, hold: int) -> None:
    seen = []
    for twin in (_excursions_py, _excursions_c):
        with Ring.create(1, capacity=8) as ring:
            ring.set_gpu_word(0, "cap_mw", cap)
            ring.set_word("lease_mw", lease)
            ring.set_word("hold_ns", hold * MS)
            seen.append([tick(twin, ring, at, drawing(power)) for at, power in enumerate(powers, 1)])
    assert seen[0] == seen[1]


def test_rows_are_found_by_their_time() -> None:
    with Ring.create(1, capacity=8) as ring:
        assert ring.find(0, 5) == 0
        for at in range(12):
            ring.append(0, Row(t_mono_ns=10 * at))
        assert [ring.find(0, at) for at in (0, 40, 41, 110, 111)] == [4, 4, 5, 11, 12]
