"""The demand of a host: fast up, slow down, still under swings, more for the held back, careful with the unknown."""

import math

import numpy as np
import pytest

from flyball_aggregator.power.demand import HOLD_S, DemandState, Measured, start_demand, step_demand

NAN = float("nan")


def second(
    state: DemandState, power_w: float, cap_w: float = 700.0, biting: float = 0.0, *, is_fresh: bool = True
) -> DemandState:
    column = {"power_w": power_w, "peak_w": power_w, "cap_w": cap_w, "throttled_ratio": biting}
    measured = Measured(
        **{name: np.full((1, 2), value) for name, value in column.items()},
        minimum_w=np.full((1, 2), 200.0),
        maximum_w=np.full((1, 2), 700.0),
    )
    return step_demand(state, measured, np.array([is_fresh]))


def after(powers: list[float]) -> float:
    state = start_demand(1, 2)
    for power_w in powers:
        state = second(state, power_w)
    return float(state.demand_w[0])


def test_demand_is_the_power_with_headroom() -> None:
    assert after([400.0] * 12) == pytest.approx(2 * 430.0)
    assert after([640.0] * 12) == pytest.approx(2 * 640.0 * 1.05)


def test_rise_counts_in_the_same_second() -> None:
    assert after([300.0] * 20 + [600.0]) == pytest.approx(2 * 630.0)


def test_fall_waits_until_the_hold_is_over() -> None:
    assert after([600.0] + [300.0] * (HOLD_S - 1)) == pytest.approx(2 * 630.0)
    assert after([600.0] + [300.0] * HOLD_S) == pytest.approx(2 * 330.0)


@pytest.mark.parametrize("frequency_hz", [0.2, 0.33, 0.7, 1.3, 2.9])
def test_training_swing_leaves_the_demand_still(frequency_hz: float) -> None:
    state = start_demand(1, 2)
    seen = []
    for tick in range(60):
        state = second(state, 450.0 + 150.0 * math.sin(2 * math.pi * frequency_hz * tick))
        seen.append(float(state.demand_w[0]))

    assert max(seen[20:]) / min(seen[20:]) < 1.06


def test_held_back_gpu_asks_for_twice_as_much_more_each_second() -> None:
    state = second(start_demand(1, 2), 300.0, cap_w=300.0, biting=1.0)
    assert state.demand_w[0] == pytest.approx(2 * 380.0)

    state = second(state, 300.0, cap_w=300.0, biting=1.0)
    assert state.demand_w[0] == pytest.approx(2 * 430.0)

    for _ in range(4):
        state = second(state, 300.0, cap_w=300.0, biting=1.0)
    assert state.demand_w[0] == pytest.approx(2 * 700.0)


def test_unknown_power_counts_at_the_cap_and_unknown_cap_at_the_maximum() -> None:
    assert second(start_demand(1, 2), NAN, cap_w=400.0, biting=NAN).demand_w[0] == pytest.approx(2 * 430.0)
    assert second(start_demand(1, 2), NAN, cap_w=NAN, biting=NAN).demand_w[0] == pytest.approx(2 * 700.0)


def test_stale_host_keeps_its_demand() -> None:
    state = start_demand(1, 2)
    for _ in range(12):
        state = second(state, 500.0)
    for _ in range(30):
        state = second(state, 100.0, is_fresh=False)

    assert state.demand_w[0] == pytest.approx(2 * 530.0)


def test_host_never_heard_has_no_demand() -> None:
    assert math.isnan(second(start_demand(1, 2), 500.0, is_fresh=False).demand_w[0])


def test_noise_moves_nothing() -> None:
    settled = after([500.0] * 20)

    assert after([500.0] * 20 + [495.0, 499.0, 496.0] * 10) == settled


def test_gpus_that_peak_in_turn_count_together_and_not_each_at_its_highest() -> None:
    state = start_demand(1, 2)
    for tick in range(20):
        powers = np.array([[600.0, 250.0]] if tick % 2 else [[250.0, 600.0]])
        same = {"power_w": powers, "peak_w": powers, "cap_w": np.full((1, 2), 700.0)}
        limits = {"minimum_w": np.full((1, 2), 200.0), "maximum_w": np.full((1, 2), 700.0)}
        state = step_demand(state, Measured(**same, **limits, throttled_ratio=np.zeros((1, 2))), np.array([True]))

    assert state.demand_w[0] == pytest.approx(850.0 + 60.0)


def test_gpu_held_back_for_a_fifth_of_a_second_asks_for_a_fifth_of_the_rest() -> None:
    state = start_demand(1, 2)
    for _ in range(12):
        state = second(state, 250.0, cap_w=400.0, biting=0.2)

    assert state.demand_w[0] == pytest.approx(2 * (250.0 + 0.2 * 300.0 + 30.0))
