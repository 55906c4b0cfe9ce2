from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_governor.split import Want, split

GPU = st.builds(
    lambda low, span, demand: Want(low, low + span, demand),
    st.integers(0, 300_000),
    st.integers(0, 900_000),
    st.none() | st.integers(0, 1_500_000),
)
GPUS = st.lists(GPU, min_size=1, max_size=8)


@settings(max_examples=200)
@given(st.integers(0, 9_000_000), GPUS)
def test_caps_stay_inside_devices_and_under_the_budget_or_at_the_minima(budget: int, wants: list[Want]) -> None:
    caps = split(budget, wants)
    minima = sum(want.minimum_milliwatts for want in wants)

    assert sum(caps) <= max(budget, minima)
    for cap, want in zip(caps, wants, strict=True):
        assert want.minimum_milliwatts <= cap <= want.maximum_milliwatts


@settings(max_examples=200)
@given(st.integers(0, 9_000_000), GPUS)
def test_no_more_than_a_watt_per_gpu_is_left_while_a_gpu_could_take_it(budget: int, wants: list[Want]) -> None:
    caps = split(budget, wants)
    left = budget - sum(caps)

    is_full = all(cap == want.maximum_milliwatts for cap, want in zip(caps, wants, strict=True))
    assert is_full or left <= 1000 * len(wants)


@settings(max_examples=200)
@given(st.integers(0, 9_000_000), st.integers(0, 1_000_000), GPUS)
def test_a_larger_budget_lowers_no_cap_while_demand_is_unmet(budget: int, more: int, wants: list[Want]) -> None:
    unmet = [Want(want.minimum_milliwatts, want.maximum_milliwatts, None) for want in wants]

    before, after = split(budget, unmet), split(budget + more, unmet)

    assert all(new >= old for old, new in zip(before, after, strict=True))


def test_what_an_idle_gpu_does_not_want_goes_to_the_busy_one() -> None:
    idle, busy = Want(200_000, 700_000, 90_000), Want(200_000, 700_000, 700_000)

    assert split(900_000, [idle, busy]) == (200_000, 700_000)


def test_watts_beyond_all_demand_give_the_least_capped_gpu_room() -> None:
    idle, busy = Want(200_000, 700_000, 90_000), Want(200_000, 700_000, 500_000)

    assert split(900_000, [idle, busy]) == (400_000, 500_000)


def test_unknown_demand_counts_as_the_maximum() -> None:
    assert split(800_000, [Want(200_000, 700_000, None)] * 2) == (400_000, 400_000)


def test_a_budget_below_the_minima_gives_the_minima() -> None:
    assert split(100_000, [Want(200_000, 700_000, None)] * 2) == (200_000, 200_000)
