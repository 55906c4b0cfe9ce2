"""The rate worth sampling at, found by watching a fake sensor on a fake clock."""

from collections.abc import Sequence

import pytest

from flyball_fast.errors import DeviceLost
from flyball_fast.nvml_records import POWER_INSTANT, FieldReading, SweepPlan
from flyball_fast.ring import Ring
from flyball_governor.tuning import tuned_plan

ASKED = SweepPlan(rates_hz=(100.0, 10.0, 1.0, 0.1), probe_s=1.0)


class Sensor:
    """Power that changes every `refresh_s`; each read costs `latency_us`."""

    def __init__(self, refresh_s: float, latency_us: int = 0, *, gpus: int = 1) -> None:
        self.now_s, self.refresh_s, self.latency_us, self.gpu_count = 0.0, refresh_s, latency_us, gpus
        self.asked: set[int] = set()
        self.is_lost = False

    def read_fields(self, gpu: int, fields: Sequence[int]) -> list[FieldReading]:
        self.asked.add(gpu)
        if self.is_lost:
            raise DeviceLost(f"gpu {gpu}", 15)
        power = int(self.now_s / self.refresh_s + 1e-9)
        return [FieldReading(field, 0, power if field == POWER_INSTANT else 0, self.latency_us, 0) for field in fields]

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def tune(sensor: Sensor, plan: SweepPlan = ASKED) -> SweepPlan:
    with Ring.create(sensor.gpu_count) as ring:
        tuned = tuned_plan(sensor, plan, ring, is_stopped=lambda: False, clock=lambda: sensor.now_s, sleep=sensor.sleep)
        assert ring.heartbeat().call is None
        return tuned


def test_a_sensor_that_refreshes_ten_times_a_second_is_read_twenty_times() -> None:
    assert tune(Sensor(0.1)).rates_hz == pytest.approx((20.0, 10.0, 1.0, 0.1), rel=0.05)


def test_a_sensor_that_stands_still_limits_nothing() -> None:
    assert tune(Sensor(100.0)) == ASKED


def test_a_dear_sweep_is_read_no_more_often_than_the_lock_budget_pays() -> None:
    tuned = tune(Sensor(0.001, latency_us=50, gpus=8))  # 6 fields x 50 µs x 8 GPUs = 2.4 ms, of 5 ms a second

    assert tuned.rates_hz[0] == pytest.approx(0.005 / 0.0024)
    assert tuned.rates_hz[1] == tuned.rates_hz[0]


def test_a_gpu_that_is_left_out_is_not_asked() -> None:
    sensor = Sensor(0.1, gpus=2)
    tune(sensor, SweepPlan(probe_s=0.1, left_out=frozenset({0})))

    assert sensor.asked == {1}


def test_a_lost_gpu_leaves_the_plan_as_asked() -> None:
    sensor = Sensor(0.1)
    sensor.is_lost = True

    assert tune(sensor) == ASKED
