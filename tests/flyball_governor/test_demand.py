from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_governor.demand import DemandMeter, Device, Highest, Sample, keep_steady, target_caps

H100 = Device(200_000, 700_000)


def meter(*samples: tuple[float, int, float | None], cap: int = 450_000) -> DemandMeter:
    """Return a meter that has seen (time, peak, throttled ratio)."""
    found = DemandMeter(0.1, 700_000)
    for now_s, peak, ratio in samples:
        found.observe(now_s, Sample(peak, ratio), cap)
    return found


def test_a_gpu_held_back_by_its_cap_wants_all_it_can_have() -> None:
    assert meter((0.0, 450_000, 0.9)).slow == 700_000


def test_a_gpu_not_held_back_wants_its_peak_and_headroom() -> None:
    assert meter((0.0, 300_000, 0.0)).slow == 330_000


def test_without_throttle_counters_power_at_the_cap_tells() -> None:
    assert meter((0.0, 445_000, None)).is_held_back
    assert not meter((0.0, 400_000, None)).is_held_back


def test_nothing_read_is_unknown_and_not_zero() -> None:
    found = DemandMeter(0.1, 700_000)
    found.observe(0.0, Sample(), 450_000)

    assert (found.slow, found.fast, found.fast_peak) == (None, None, None)


def test_a_training_swing_keeps_its_peak() -> None:
    found = meter((0.0, 440_000, 0.0), (0.5, 150_000, 0.0), (1.0, 150_000, 0.0))

    assert (found.slow, found.fast) == (484_000, 165_000)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 1000)), min_size=1, max_size=50))
def test_the_highest_of_a_span_is_what_a_list_would_say(steps: list[tuple[float, int]]) -> None:
    highest, seen, now_s = Highest(5.0), [], 0.0
    for wait_s, value in steps:
        now_s += wait_s
        highest.add(now_s, value)
        seen.append((now_s, value))

        assert highest.at(now_s) == max(value for time_s, value in seen if time_s >= now_s - 5.0)


def test_watts_leave_a_gpu_that_has_just_gone_idle_only_for_one_that_is_held_back() -> None:
    gone_idle = meter((0.0, 440_000, 0.0), (1.0, 80_000, 0.0))
    content, hungry = meter((1.0, 300_000, 0.0)), meter((1.0, 450_000, 1.0))

    assert target_caps(900_000, (H100, H100), (gone_idle, content)) == (484_000, 416_000)
    assert target_caps(900_000, (H100, H100), (gone_idle, hungry)) == (200_000, 700_000)


def test_raises_smaller_than_the_dead_band_are_not_made() -> None:
    assert keep_steady((450_000, 440_000), (446_000, 446_000), 900_000, (7_000, 7_000)) == (450_000, 440_000)
    assert keep_steady((450_000, 430_000), (440_000, 440_000), 900_000, (7_000, 7_000)) == (440_000, 440_000)


def test_a_lowering_that_the_budget_asks_for_is_never_held_back() -> None:
    assert keep_steady((450_000, 451_000), (450_000, 450_000), 900_000, (7_000, 7_000)) == (450_000, 450_000)
