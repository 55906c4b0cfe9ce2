"""The probe of refresh periods, on a clock that only sleeping and reading move."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from flyball_fast.errors import DeviceLost
from flyball_fast.nvml_records import ENERGY, POWER_INSTANT, FieldReading, SweepPlan
from flyball_governor.probe import FIELDS, FieldProbe, as_records, choose_rate_hz, probe

FAST = SweepPlan(rates_hz=(100, 10, 1, 0.1), lock_budget_ratio=1.0)


class FakeFields:
    """Instant power refreshes every 100 ms, energy never; the other fields are not supported."""

    gpu_count = 2

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def read_fields(self, gpu: int, fields: Sequence[int]) -> list[FieldReading]:
        self.now += 20e-6
        if gpu == 1:
            raise DeviceLost("gpu 1: lost", 15)
        (field,) = fields
        values = {POWER_INSTANT: int(self.now / 0.1), ENERGY: 7}
        return [FieldReading(field, 0 if field in values else 3, values.get(field), 30, 0)]


def found(plan: SweepPlan = FAST) -> dict[tuple[int, str], FieldProbe]:
    fake = FakeFields()
    results = probe(fake, seconds=0.7 * len(FIELDS), plan=plan, clock=fake.clock, sleep=fake.sleep)
    return {(one.gpu, one.name): one for one in results}


def test_a_field_is_read_at_twice_its_refresh_and_not_more() -> None:
    power = found()[0, "power_instant_mw"]

    assert power.refresh_s == pytest.approx(0.1, abs=0.003)
    assert power.latency_us == 30
    assert power.rate_hz == pytest.approx(20, rel=0.05)


def test_a_field_that_does_not_change_keeps_the_rate_asked_for() -> None:
    energy = found()[0, "energy_mj"]

    assert energy.refresh_s is None
    assert energy.rate_hz == 100


def test_what_is_not_supported_says_the_drivers_code() -> None:
    results = found()

    assert not results[0, "remap_failed"].is_supported
    assert results[0, "remap_failed"].code == 3
    assert results[1, "energy_mj"].code == 15
    assert results[1, "energy_mj"].rate_hz is None


def test_a_dear_field_is_read_as_often_as_the_budget_pays() -> None:
    assert choose_rate_hz(100, None, 1000, 0.005) == pytest.approx(5)
    assert choose_rate_hz(100, 0.5, 0, 0.005) == pytest.approx(4)


def test_every_gpu_and_field_has_its_record() -> None:
    assert len(as_records(list(found().values()))) == 2 * len(FIELDS)


def test_a_probe_of_no_time_is_refused() -> None:
    fake = FakeFields()
    with pytest.raises(ValueError, match="expected above 0"):
        probe(fake, seconds=0, plan=FAST, clock=fake.clock, sleep=fake.sleep)
