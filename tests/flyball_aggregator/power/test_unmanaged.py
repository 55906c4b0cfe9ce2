"""The load that no lease can lower: rises at once, falls slowly, keeps what it knows while the meter is away."""

import numpy as np
import pytest

from flyball_aggregator.power.unmanaged import LAST_TICKS, MeterInput, UnmanagedState, start_unmanaged, step_unmanaged

LIMIT_W, OWN_W = 20_000.0, 5_000.0


def run(
    state: UnmanagedState, meter_w: float, managed_w: float, committed_w: float, seconds: int = 1
) -> UnmanagedState:
    for _ in range(seconds):
        seen = MeterInput(*(np.array([value]) for value in (meter_w, managed_w, committed_w, OWN_W, LIMIT_W)))
        state = step_unmanaged(state, seen)
    return state


@pytest.fixture
def steady() -> UnmanagedState:
    return run(start_unmanaged(np.array([OWN_W])), 15_000.0, 10_000.0, 13_000.0, 30)


def test_agreeing_meter_leaves_what_is_configured(steady: UnmanagedState) -> None:
    assert steady.estimate_w.tolist() == [OWN_W]


def test_load_above_the_commitments_counts_at_once(steady: UnmanagedState) -> None:
    assert run(steady, 19_000.0, 10_000.0, 13_000.0).estimate_w.tolist() == [6_000.0]


def test_residual_close_under_the_limit_counts_at_once_by_what_the_meter_is_too_high(steady: UnmanagedState) -> None:
    assert run(steady, 19_700.0, 10_000.0, 15_000.0).estimate_w.tolist() == [5_100.0]
    assert run(steady, 21_000.0, 10_000.0, 18_000.0).estimate_w.tolist() == [6_400.0]


def test_residual_close_under_the_limit_counts_in_full_once_it_lasted(steady: UnmanagedState) -> None:
    state = steady
    for _ in range(LAST_TICKS):
        state = run(state, 19_700.0, 10_000.0, 15_000.0)

    assert state.estimate_w.tolist() == [9_700.0]


def test_a_load_that_starts_everywhere_at_once_is_no_unmanaged_load(steady: UnmanagedState) -> None:
    """The meter sees the first second's overshoot before any host has told of its power."""
    state = run(steady, 19_660.0, 2_000.0, 15_000.0)
    for _ in range(LAST_TICKS):
        state = run(state, 19_270.0, 14_270.0, 15_000.0)

    assert state.estimate_w[0] <= 5_060.0


def test_rise_that_the_meter_sees_first_is_no_unmanaged_load(steady: UnmanagedState) -> None:
    seen = run(steady, 17_000.0, 10_000.0, 13_000.0, 2)

    assert run(seen, 17_000.0, 12_000.0, 13_000.0, 5).estimate_w.tolist() == [OWN_W]


def test_residual_that_lasts_counts(steady: UnmanagedState) -> None:
    assert run(steady, 17_000.0, 10_000.0, 13_000.0, 5).estimate_w.tolist() == [7_000.0]


def test_cut_in_flight_is_no_residual(steady: UnmanagedState) -> None:
    assert run(steady, 18_000.0, 10_000.0, 11_000.0, 2).estimate_w.tolist() == [OWN_W]


def test_estimate_falls_by_a_thousandth_of_the_limit_each_second(steady: UnmanagedState) -> None:
    risen = run(steady, 19_700.0, 10_000.0, 13_000.0, LAST_TICKS)

    assert run(risen, 15_000.0, 10_000.0, 13_000.0, 10).estimate_w.tolist() == pytest.approx([9_500.0])


def test_stale_meter_frees_nothing(steady: UnmanagedState) -> None:
    risen = run(steady, 17_000.0, 10_000.0, 13_000.0, 5)

    assert run(risen, float("nan"), 10_000.0, 13_000.0, 900).estimate_w.tolist() == [7_000.0]


def test_ninety_ninth_percentile_of_ten_minutes_holds_recurring_load(steady: UnmanagedState) -> None:
    state = steady
    for _ in range(5):
        state = run(state, 17_000.0, 10_000.0, 13_000.0, 20)
        state = run(state, 15_000.0, 10_000.0, 13_000.0, 60)

    assert state.estimate_w.tolist() == [7_000.0]
