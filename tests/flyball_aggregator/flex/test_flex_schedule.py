"""Events over time: baseline, overlaps, ramps, release and rebound."""

from itertools import pairwise

import pytest

from flyball_aggregator.flex.ramps import falling_limit, rising_limit, start_early_s
from flyball_aggregator.flex.schedule import FlexState, GridEvent, step_flex
from flyball_aggregator.flex.tracking import TrackingState, step_tracking

EVENT = GridEvent("peak", 400.0, 1000.0, target_ratio=0.75, release_s=100.0, rebound_s=200.0)


def limits(events: tuple[GridEvent, ...], seconds: int, power_w: float | None = 1000.0) -> list[FlexState]:
    state, states = FlexState(), []
    for second in range(seconds):
        shown = power_w if state.limit_w is None or power_w is None else min(power_w, state.limit_w)
        state = step_flex(state, events, float(second), shown)
        states.append(state)
    return states


def test_there_is_no_limit_before_an_event() -> None:
    assert all(state.limit_w is None for state in limits((EVENT,), 400))


def test_the_target_is_a_share_of_the_five_minutes_before() -> None:
    states = limits((EVENT,), 401)

    assert states[400].baseline_w == pytest.approx(1000.0)
    assert states[400].limit_w == pytest.approx(750.0)


def test_a_tolerance_is_allowed_on_top_of_the_target() -> None:
    event = GridEvent("peak", 400.0, 1000.0, target_ratio=0.75, tolerance_ratio=0.005)

    state = limits((event,), 401)[400]

    assert state.target_w == pytest.approx(750.0)
    assert state.limit_w == pytest.approx(755.0)


def test_the_lowest_target_of_overlapping_events_wins() -> None:
    deeper = GridEvent("deeper", 600.0, 800.0, target_w=500.0)
    states = limits((EVENT, deeper), 900)

    assert states[700].limit_w == pytest.approx(500.0)
    assert states[599].limit_w == pytest.approx(750.0)


def test_power_comes_back_slowly_between_two_steps_and_after_the_event() -> None:
    deeper = GridEvent("deeper", 600.0, 800.0, target_w=500.0)
    states = limits((EVENT, deeper), 1150)
    values = [state.limit_w for state in states if state.limit_w is not None]

    rises = [after - before for before, after in pairwise(values)]
    assert max(rises) <= 500.0 / 100.0 + 1e-9
    assert states[1050].limit_w == pytest.approx(875.0)


def test_the_baseline_stays_a_limit_until_the_rebound_is_over() -> None:
    states = limits((EVENT,), 1500)

    assert states[1150].phase == "rebound"
    assert states[1150].limit_w == pytest.approx(1000.0)
    assert states[1499].phase == "idle"
    assert states[1499].limit_w is None


def test_an_event_right_after_another_keeps_the_first_baseline() -> None:
    second = GridEvent("again", 1030.0, 1400.0, target_ratio=0.75)

    states = limits((EVENT, second), 1100)

    assert states[1099].limit_w == pytest.approx(750.0)


def test_a_fall_may_be_ramped() -> None:
    event = GridEvent("slow", 400.0, 1000.0, target_ratio=0.5, ramp_w_per_s=10.0)

    assert limits((event,), 411)[410].limit_w == pytest.approx(900.0)


def test_without_a_meter_a_share_of_nothing_is_no_limit_but_watts_are() -> None:
    watts = GridEvent("watts", 400.0, 1000.0, target_w=600.0)

    assert limits((EVENT,), 450, None)[440].limit_w is None
    assert limits((watts,), 450, None)[440].limit_w == pytest.approx(600.0)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"end_s": 0.0}, "ends at"),
        ({"target_ratio": None}, "one of"),
        ({"target_ratio": 1.5}, "0 to 1"),
        ({"ramp_w_per_s": 0.0}, "ramp"),
        ({"target_ratio": None, "target_w": -1.0}, "at least 0"),
    ],
)
def test_an_event_that_cannot_be_followed_is_refused(change: dict[str, float], what: str) -> None:
    given = {"start_s": 10.0, "end_s": 20.0, "target_ratio": 0.5} | change

    with pytest.raises(ValueError, match=f"'odd'.*{what}"):
        GridEvent("odd", **given)


def test_ramps_end_where_they_should() -> None:
    assert falling_limit(100.0, 50.0, 1e9, 1.0) == 50.0
    assert falling_limit(100.0, 50.0, 0.0, None) == 50.0
    assert rising_limit(50.0, 100.0, 5.0, 10.0) == 75.0
    assert rising_limit(50.0, 100.0, 0.0, 0.0) == 100.0


def test_a_feed_that_allows_little_starts_early() -> None:
    assert start_early_s(3e6, 50e3, 30.0) == pytest.approx(30.0)
    assert start_early_s(3e6, None, 30.0) == 0.0


def test_the_aim_settles_so_that_the_meter_stays_under_the_limit() -> None:
    state, measured_w = TrackingState(), 1000.0
    for _ in range(300):
        state = step_tracking(state, 750.0, measured_w)
        measured_w = 0.98 * (state.aim_w or 0.0)  # caps hold 2 % less than they say

    assert 0.985 * 750.0 < measured_w <= 750.0


def test_a_silent_meter_makes_the_aim_more_careful_and_teaches_nothing() -> None:
    state = TrackingState()
    for _ in range(50):
        state = step_tracking(state, 750.0, 740.0)
    blind = state
    for _ in range(30):
        blind = step_tracking(blind, 750.0, None)

    assert (blind.aim_w or 0.0) < (state.aim_w or 0.0)
    assert blind.trim_w == state.trim_w


def test_what_nothing_holds_back_is_not_corrected_upwards() -> None:
    state = TrackingState()
    for _ in range(100):
        state = step_tracking(state, 2000.0, 1000.0, most_w=1000.0)

    assert (state.aim_w or 0.0) <= 1000.0 + 1e-6


def test_without_a_limit_there_is_no_aim() -> None:
    assert step_tracking(TrackingState(aim_w=5.0), None, 10.0).aim_w is None
