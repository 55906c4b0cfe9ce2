import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_twin.meter import Meter


def test_a_second_is_handed_out_when_it_is_complete() -> None:
    meter = Meter(2)
    first = meter.record(0.6, np.array([100.0, 50.0]), np.array([200.0, 50.0]))
    second = meter.record(0.6, np.array([200.0, 50.0]), np.array([200.0, 50.0]))

    assert first == []
    assert second[0].number == 0
    assert second[0].site_w == pytest.approx(0.6 * 150 + 0.4 * 250)
    assert second[0].uncapped_site_w == pytest.approx(250.0)
    assert second[0].host_w == pytest.approx([140.0, 50.0])


def test_a_long_step_completes_several_seconds() -> None:
    seconds = Meter(1).record(3.5, np.array([70.0]), np.array([70.0]))

    assert [second.number for second in seconds] == [0, 1, 2]
    assert all(second.site_w == pytest.approx(70.0) for second in seconds)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.001, 2.5), st.floats(0.0, 1e5)), min_size=1, max_size=50))
def test_no_energy_is_lost_or_made(steps: list[tuple[float, float]]) -> None:
    meter = Meter(1)
    metered_j, seconds = 0.0, 0
    for step_s, watts in [*steps, (3.0, 0.0)]:
        for second in meter.record(step_s, np.array([watts]), np.array([watts])):
            assert second.number == seconds
            seconds += 1
            metered_j += second.site_w

    assert metered_j == pytest.approx(sum(step_s * watts for step_s, watts in steps), rel=1e-6, abs=1e-3)
