"""The bound of a host: what its GPUs may draw by their caps."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_governor.bound import (
    GpuCap,
    bound_milliwatts,
    cap_sum_within,
    caps_fit,
    gpu_bound_milliwatts,
    maximum_milliwatts,
    minimum_milliwatts,
    needs_write,
    with_error,
    with_power,
    with_read_back,
    with_write_returned,
    with_write_started,
)

GPU = GpuCap("gpu", 200_000, 700_000, 700_000, limit_milliwatts=400_000)


def test_an_unreadable_limit_counts_at_the_device_maximum_and_cannot_be_lowered() -> None:
    lost = replace(GPU, limit_milliwatts=None)

    assert gpu_bound_milliwatts(lost) == 700_000
    assert minimum_milliwatts([lost, GPU], 0) == 900_000


def test_a_limit_below_the_device_minimum_counts_at_the_minimum() -> None:
    assert gpu_bound_milliwatts(replace(GPU, limit_milliwatts=100_000)) == 200_000


def test_a_write_counts_until_it_returns_however_many_came_after() -> None:
    hung = with_write_started(GPU, 600_000)
    lowered = with_write_returned(with_write_started(hung, 300_000), 300_000, 300_000, 0, 0)

    assert gpu_bound_milliwatts(with_power(lowered, 0, None)) == 600_000
    done = with_write_returned(lowered, 600_000, 600_000, 5, 0)
    assert gpu_bound_milliwatts(with_power(done, 5, None)) == 600_000
    assert done.pending_milliwatts == ()


@pytest.mark.parametrize(
    ("now_ms", "power", "bound"), [(100, None, 400_000), (100, 300_000, 300_000), (500, None, 300_000)]
)
def test_a_lowering_counts_at_the_old_cap_until_power_has_settled(now_ms: int, power: int | None, bound: int) -> None:
    lowered = with_read_back(GPU, 300_000, 0, 500)

    assert gpu_bound_milliwatts(with_power(lowered, now_ms, power)) == bound


def test_a_second_lowering_keeps_the_first_old_cap_until_it_has_settled_too() -> None:
    twice = with_read_back(with_read_back(GPU, 300_000, 0, 500), 250_000, 300, 500)

    assert gpu_bound_milliwatts(with_power(twice, 600, 350_000)) == 400_000


def test_a_lowering_is_always_written_and_a_small_raise_is_not() -> None:
    assert needs_write(400_000, 399_999, dead_band_milliwatts=5_000)
    assert not needs_write(400_000, 404_000, dead_band_milliwatts=5_000)
    assert needs_write(None, 400_000, dead_band_milliwatts=5_000)


@given(st.lists(st.integers(0, 1_000_000), max_size=8), st.integers(0, 100_000))
@settings(max_examples=50)
def test_caps_within_the_budget_fit_the_lease_with_their_error(caps: list[int], error_ppm: int) -> None:
    allowed = with_error(sum(caps), error_ppm)

    assert caps_fit(caps, allowed, error_ppm)
    assert with_error(cap_sum_within(allowed, error_ppm), error_ppm) <= allowed
    assert not caps_fit([*caps, cap_sum_within(allowed, error_ppm) - sum(caps) + 1], allowed, error_ppm)


@given(st.lists(st.one_of(st.none(), st.integers(200_000, 700_000)), min_size=1, max_size=8), st.integers(0, 50_000))
@settings(max_examples=50)
def test_a_bound_lies_between_minimum_and_maximum(limits: list[int | None], error_ppm: int) -> None:
    gpus = [replace(GPU, limit_milliwatts=limit) for limit in limits]

    low, high = minimum_milliwatts(gpus, error_ppm), maximum_milliwatts(gpus, error_ppm)
    assert low <= bound_milliwatts(gpus, error_ppm) <= high
