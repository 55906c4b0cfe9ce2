"""One second of each GPU as State messages carry it: energy first, unknown never zero."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.flyball_agent.fake_governor import FakeGovernor

from flyball_agent.state_columns import columns_of
from flyball_agent.state_window import GpuWindow, StateWindow
from flyball_fast.ring import Ring
from flyball_fast.ring_layout import COLUMNS

MS = 1_000_000
START_NS = 1_000_000_000_000


@pytest.fixture
def window() -> Iterator[StateWindow]:
    ring = Ring.create(2, capacity=256)
    ring.set_state(0, "ok")
    found = StateWindow(ring)
    yield found
    found.close()


def append(window: StateWindow, at_ms: int, **values: int) -> None:
    known = {"t_mono_ns": START_NS + at_ms * MS, **values}
    window.ring.append(0, [known.get(column.name) for column in COLUMNS])


def take(window: StateWindow, at_ms: int) -> GpuWindow:
    return window.take(START_NS + at_ms * MS)[0]


def test_mean_power_is_the_energy_between_two_changes_of_its_counter(window: StateWindow) -> None:
    for tick in range(200):  # the counter is refreshed every 30 ms, rows come every 10 ms, the draw is 400 W
        append(window, tick * 10, energy_mj=(tick // 3) * 12_000, power_instant_mw=999_000)
        if tick == 99:
            take(window, 990)
    found = take(window, 1990)
    assert found.power_w == pytest.approx(400.0, rel=1e-9)
    assert found.power_peak_w == 999.0
    assert found.energy_j == pytest.approx(792.0)


def test_without_an_energy_counter_the_mean_is_that_of_instant_readings(window: StateWindow) -> None:
    for tick in range(10):
        append(window, tick * 10, power_instant_mw=300_000 + tick * 10_000)
    assert take(window, 100).power_w == 345.0


def test_a_counter_that_went_back_gives_the_mean_of_readings(window: StateWindow) -> None:
    append(window, 0, energy_mj=10_000_000, power_instant_mw=100_000)
    take(window, 1)
    append(window, 1000, energy_mj=5, power_instant_mw=200_000)
    assert take(window, 1001).power_w == 200.0


def test_what_no_row_knows_is_unknown(window: StateWindow) -> None:
    append(window, 0)
    found = take(window, 10)
    assert found == GpuWindow(is_sampled=True, state="ok")
    assert window.take(START_NS)[1] == GpuWindow(state="unseen")


def test_a_slow_column_is_looked_for_in_earlier_rows_but_not_when_stale(window: StateWindow) -> None:
    append(window, 0, temperature_c=61, sm_clock_mhz=1500, utilization_percent=88)
    for tick in range(1, 9):
        append(window, tick * 10)
    found = take(window, 90)
    assert (found.temperature_celsius, found.sm_clock_hz, found.utilisation_ratio) == (61.0, 1.5e9, 0.88)
    later = take(window, 10_000)
    assert (later.temperature_celsius, later.power_w, later.is_sampled) == (None, None, False)


def test_throttling_is_the_share_of_time_in_which_its_counter_ran(window: StateWindow) -> None:
    append(window, 0, power_cap_ns=0)
    take(window, 0)
    append(window, 500, power_cap_ns=125 * MS)
    append(window, 1000, power_cap_ns=250 * MS)
    assert take(window, 1000).throttled_ratio == 0.25
    append(window, 2000, power_cap_ns=0)
    assert take(window, 2000).throttled_ratio is None


def test_a_lost_gpu_has_no_values_and_the_other_keeps_its_own(window: StateWindow) -> None:
    append(window, 0, power_instant_mw=300_000)
    window.ring.append(1, [START_NS, *[None] * 5, 200_000, *[None] * 6])
    window.ring.set_state(0, "lost")
    first, second = window.take(START_NS)
    assert first == GpuWindow(state="lost")
    assert second.power_w == 200.0


def test_caps_come_from_the_slow_tier_while_it_is_fresh(window: StateWindow) -> None:
    append(window, 0)
    window.ring.set_slow(0, {"slow_ns": START_NS, "limit_enforced_mw": 450_000})
    assert take(window, 1000).cap_w == 450.0
    append(window, 8000)
    assert take(window, 8000).cap_w is None


def test_rows_overwritten_before_they_were_summed_up_are_counted(window: StateWindow) -> None:
    for tick in range(300):
        append(window, tick, power_instant_mw=100_000)
    assert take(window, 300).power_w == 100.0
    assert window.lost_rows == 44


def test_columns_are_as_long_as_the_inventory_whatever_the_ring_has() -> None:
    governor = FakeGovernor(Path("unused"))
    hello, status = governor.hello(1), governor.status(1)
    columns = columns_of(hello, None, (GpuWindow(power_w=1.0, cap_w=300.0, is_sampled=True, state="ok"),))
    assert columns.power_watts == (1.0, None)
    assert columns.cap_watts == (300.0, None)
    assert columns.health == ("ok", "unknown")
    assert columns_of(hello, status, ()).cap_watts == (500.0, 500.0)
    assert columns_of(None, status, ()).power_watts == ()
