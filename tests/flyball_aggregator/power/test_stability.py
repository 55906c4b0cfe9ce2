"""Stability of the budget loop (lease-protocol.md section 3) in virtual time: real loop, ledger and store."""

import math
from pathlib import Path

import pytest
from tests.flyball_aggregator.small_site import GPUS, WALL_PER_GPU_WATT, SmallSite, build_small_site

LIMIT_W = 20_000.0
RESERVE_W = 0.03 * LIMIT_W


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return build_small_site(tmp_path, limit_w=LIMIT_W)


def caps_w(small: SmallSite) -> list[float]:
    return [host.cap_milliwatts / 1000 for host in small.hosts.values()]


@pytest.mark.parametrize("period_s", [100.0, 7.3, 2.03, 0.34])
async def test_caps_swing_no_more_than_the_demand_that_swings_them(small: SmallSite, period_s: float) -> None:
    """One host's demand is a sine, seen aliased by a loop of one second; the others take whatever is left."""
    swinging, *_others = small.hosts.values()
    low_w, high_w = 250.0, 450.0
    seen: list[float] = []
    for tick in range(70):
        phase = math.sin(2 * math.pi * tick / period_s + 0.3)
        swinging.want_w = (low_w + high_w) / 2 + (high_w - low_w) / 2 * phase
        await small.second()
        if tick >= 20:
            seen.append(swinging.cap_milliwatts / 1000)

    assert max(seen) - min(seen) <= 1.2 * GPUS * (high_w - low_w)
    assert small.seconds_over == 0


@pytest.mark.parametrize("period_s", [2.03, 0.34])
async def test_training_swings_leave_the_caps_of_a_row_with_room_alone(tmp_path: Path, period_s: float) -> None:
    small = build_small_site(tmp_path, limit_w=40_000.0)
    for host in small.hosts.values():
        host.want_w = 450.0
    await small.seconds(30)
    before = caps_w(small)
    for tick in range(30):
        for host in small.hosts.values():
            host.want_w = 350.0 + 100.0 * math.sin(2 * math.pi * tick / period_s)
        await small.second()

    assert caps_w(small) == before


async def test_constant_demand_writes_no_cap_after_a_minute_whatever_the_demand(small: SmallSite) -> None:
    for number, host in enumerate(small.hosts.values()):
        host.want_w = 220.0 + 110.0 * number
    await small.seconds(60)
    before = caps_w(small)

    await small.seconds(60)

    assert caps_w(small) == before


async def test_a_residual_step_up_is_met_in_seconds_and_costs_no_more_than_itself(small: SmallSite) -> None:
    await small.seconds(30)
    small.unmanaged_extra_w = 0.07 * LIMIT_W
    await small.seconds(4)

    assert small.wall_w <= LIMIT_W
    settled = [await wall_after(small) for _ in range(30)]

    assert max(settled) <= LIMIT_W
    assert min(settled) >= LIMIT_W - RESERVE_W - 0.01 * LIMIT_W  # at most one point under the target
    assert small.seconds_over <= 2


async def test_a_residual_that_goes_is_given_back_by_rate_and_never_overshoots(small: SmallSite) -> None:
    await small.seconds(10)
    small.unmanaged_extra_w = 0.07 * LIMIT_W
    await small.seconds(20)
    over = small.seconds_over
    small.unmanaged_extra_w = 0.0
    first_w = await wall_after(small)
    given = [await wall_after(small) for _ in range(20)]

    assert max(given) - first_w <= 20 * 0.001 * LIMIT_W + 0.005 * LIMIT_W  # 0.1 % of the limit a second
    assert given[-1] > first_w
    assert small.seconds_over == over


async def test_an_unmanaged_load_is_no_more_than_its_watts_of_gpu_power(small: SmallSite) -> None:
    await small.seconds(30)
    before_w = sum(caps_w(small))
    small.unmanaged_extra_w = 1_400.0
    await small.seconds(10)

    lost_w = before_w - sum(caps_w(small))
    assert lost_w * WALL_PER_GPU_WATT == pytest.approx(1_400.0, abs=0.01 * LIMIT_W)


async def wall_after(small: SmallSite) -> float:
    await small.second()
    return small.wall_w
