"""The least-loss shed against the linear programme, and what it promises."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_aggregator.flex.shed import ShedClass, concave_hull, least_power_w, plan_shed, speed_at
from flyball_twin.flex_bound import shed_frontier

POINTS = st.lists(st.tuples(st.integers(100, 700), st.integers(1, 99)), min_size=2, max_size=6)


@st.composite
def shed_classes(draw: st.DrawFn) -> tuple[ShedClass, ...]:
    classes = []
    for number in range(draw(st.integers(1, 5))):
        points = {float(watts): speed / 100.0 for watts, speed in draw(POINTS)} | {720.0: 1.0, 90.0: 0.005}
        classes.append(
            ShedClass(
                name=f"job-{number}",
                count=draw(st.integers(1, 64)),
                weight=draw(st.integers(1, 10)) / 10.0,
                tier=draw(st.integers(0, 3)),
                floor=draw(st.sampled_from([0.0, 0.5, 0.75, 0.9])),
                points=tuple(sorted(points.items())),
                pause_w=draw(st.sampled_from([None, 60.0])),
            )
        )
    return tuple(classes)


@settings(max_examples=60, deadline=None)
@given(shed_classes(), st.floats(0.0, 0.6))
def test_no_share_of_the_watts_loses_less(classes: tuple[ShedClass, ...], shed: float) -> None:
    bound = shed_frontier(classes, shed)
    plan = plan_shed(classes, (1.0 - shed) * sum(item.full_w for item in classes))

    weighted = sum(item.weight * share.speed for item, share in zip(classes, plan.shares, strict=True))
    if bound is None:
        assert not plan.is_met or any(share.is_below_floor for share in plan.shares)
    else:
        assert weighted == pytest.approx(bound, abs=1e-6)
        assert not any(share.is_below_floor for share in plan.shares)


@settings(max_examples=60, deadline=None)
@given(shed_classes(), st.floats(0.0, 1.0))
def test_the_total_is_the_sum_of_the_shares_and_inside_the_target_when_met(
    classes: tuple[ShedClass, ...], ratio: float
) -> None:
    target_w = ratio * sum(item.full_w for item in classes)

    plan = plan_shed(classes, target_w)

    total_w = sum(item.count * share.gpu_w for item, share in zip(classes, plan.shares, strict=True))
    assert plan.total_w == pytest.approx(total_w, rel=1e-9)
    assert plan.is_met == (plan.total_w <= target_w + 1e-6)


@settings(max_examples=40, deadline=None)
@given(POINTS)
def test_a_hull_is_concave_and_on_or_above_every_point(points: list[tuple[int, int]]) -> None:
    exact = [(float(watts), float(speed)) for watts, speed in points]
    hull = concave_hull(exact)
    slopes = [(high[1] - low[1]) / (high[0] - low[0]) for low, high in pairwise(hull)]

    assert slopes == sorted(slopes, reverse=True)
    assert hull[-1][1] == max(speed for _, speed in exact)


def make_class(name: str, tier: int, floor: float, **more: float) -> ShedClass:
    return ShedClass(name, 10, 1.0, tier, floor, ((100.0, 0.1), (400.0, 1.0)), **more)


def test_a_deep_shed_breaks_the_floor_of_the_lowest_tier_first() -> None:
    classes = (make_class("strict", 0, 0.9), make_class("loose", 3, 0.9))

    plan = plan_shed(classes, 0.7 * 8000.0)

    assert not plan.shares[0].is_below_floor
    assert plan.shares[1].is_below_floor


def test_a_job_keeps_its_speed_while_others_can_give() -> None:
    keeper, giver = make_class("keeper", 0, 0.5, keep=0.99), make_class("giver", 3, 0.5)

    mild = plan_shed((keeper, giver), 0.8 * 8000.0)
    deep = plan_shed((keeper, giver), 0.6 * 8000.0)

    assert mild.shares[0].speed >= 0.99
    assert 0.5 <= deep.shares[0].speed < 0.99
    assert deep.shares[1].speed == pytest.approx(0.5)


def test_the_least_that_may_be_offered_keeps_every_floor() -> None:
    classes = (make_class("strict", 0, 0.9), make_class("loose", 3, 0.5))

    plan = plan_shed(classes, least_power_w(classes))

    assert plan.is_met
    assert not any(share.is_below_floor for share in plan.shares)
    assert speed_at(classes[0], 1000.0) == 1.0


@pytest.mark.parametrize(
    ("change", "what"), [({"count": 0}, "count"), ({"floor": 1.5}, "floor"), ({"points": ((100.0, 1.0),)}, "points")]
)
def test_a_job_that_nothing_can_be_said_of_is_refused(change: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=f"'broken'.*{what}"):
        replace(make_class("broken", 0, 0.5), **change)  # type: ignore[arg-type]
