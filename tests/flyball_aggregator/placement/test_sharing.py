"""GPUs are shared by request and burst, and cut into MIG instances without touching those in use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.fractions import Tenant, share_gpu
from flyball_aggregator.placement.jobs import Member
from flyball_aggregator.placement.mig import PROFILES, Instance, fits, plan_profile


def test_bursts_come_out_of_what_nobody_requested() -> None:
    slices = share_gpu(
        [Tenant("a", 300, 20_000, 1000, 80_000), Tenant("b", 500, 40_000, 500, 40_000)], 80_000, cap_w=500.0
    )

    assert [(part.milli, part.memory_mib) for part in slices] == [(500, 40_000), (500, 40_000)]
    assert sum(part.cap_w for part in slices) == pytest.approx(500.0)
    assert slices[0].environment()["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"


def test_higher_priority_bursts_first_and_requests_always_hold() -> None:
    slices = share_gpu(
        [Tenant("low", 400, 1, 1000, 1, priority=10), Tenant("high", 400, 1, 1000, 1, priority=90)], 80_000, 500.0
    )

    assert [part.milli for part in slices] == [400, 600]


tenant = st.tuples(st.integers(1, 300), st.integers(0, 700), st.integers(0, 2))


@given(st.lists(tenant, min_size=1, max_size=3))
def test_slices_never_exceed_the_gpu_nor_cut_a_request(asks: list[tuple[int, int, int]]) -> None:
    tenants = [Tenant(str(n), ask[0], ask[0], sum(ask[:2]), sum(ask[:2]), ask[2]) for n, ask in enumerate(asks)]
    slices = share_gpu(tenants, 1000, 700.0)

    assert sum(part.milli for part in slices) <= 1000
    assert all(part.milli >= tenant.milli for part, tenant in zip(slices, tenants, strict=True))


def test_impossible_fractions_are_refused() -> None:
    with pytest.raises(RequestError, match="expected whole GPUs, or one fraction"):
        Member(gpus=2, gpu_milli=500)
    with pytest.raises(RequestError, match="burst to 200 milli"):
        Member(gpu_milli=300, gpu_milli_limit=200)


def test_small_profile_leaves_the_place_of_the_largest() -> None:
    plan = plan_profile([], "1g")

    assert plan is not None
    assert plan.use.start == 6
    assert fits([plan.use, Instance("4g", 0)])


def test_empty_instance_of_the_profile_costs_nothing() -> None:
    plan = plan_profile([Instance("3g", 0, is_used=True), Instance("2g", 4)], "2g")

    assert plan is not None
    assert (plan.cost, plan.use.start) == (0, 4)


def test_only_empty_instances_are_destroyed_and_as_few_as_can_be() -> None:
    present = [Instance("3g", 0, is_used=True), Instance("1g", 4), Instance("1g", 6)]
    plan = plan_profile(present, "2g")

    assert plan is not None
    assert plan.destroy == (Instance("1g", 4),)
    assert plan_profile(present, "4g") is None
    with pytest.raises(RequestError, match="MIG profile '5g' is unknown"):
        plan_profile([], "5g")


@given(st.lists(st.sampled_from(sorted(PROFILES)), max_size=7))
def test_any_sequence_of_profiles_keeps_a_valid_geometry(wanted: list[str]) -> None:
    present: list[Instance] = []
    for profile in wanted:
        plan = plan_profile(present, profile)
        if plan is not None:
            present = [part for part in present if part not in plan.destroy and part != plan.use]
            present.append(Instance(profile, plan.use.start, is_used=True))
        assert fits(present)
