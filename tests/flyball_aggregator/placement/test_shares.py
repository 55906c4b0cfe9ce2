"""Shares are divided by hand-checked cases; past use fades; queues refuse by name."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.queues import Amount, Bound, QueueSpec, QueueTree, dominant_share
from flyball_aggregator.placement.shares import Claimant, Usage, divide, fair_gpus


def claimant(name: str, quota: float, wanted: float, weight: float = 1.0, priority: int = 0) -> Claimant:
    return Claimant(name, quota, wanted, float("inf"), weight, priority)


@pytest.mark.parametrize(
    ("total", "claimants", "expected"),
    [
        (10, [claimant("a", 4, 4), claimant("b", 4, 2)], {"a": 4, "b": 2}),
        (10, [claimant("a", 2, 9), claimant("b", 2, 9)], {"a": 5, "b": 5}),
        (10, [claimant("a", 2, 9, 3), claimant("b", 2, 9, 1)], {"a": 6.5, "b": 3.5}),
        (10, [claimant("a", 0, 9, 1, 1), claimant("b", 0, 9, 9, 0)], {"a": 9, "b": 1}),
        (10, [claimant("a", 0, 1), claimant("b", 0, 3), claimant("c", 0, 9)], {"a": 1, "b": 3, "c": 6}),
        (10, [claimant("a", 10, 10), claimant("b", 10, 10)], {"a": 5, "b": 5}),
    ],
)
def test_division_gives_quota_then_surplus_by_priority_and_weight(
    total: float, claimants: list[Claimant], expected: dict[str, float]
) -> None:
    assert divide(total, claimants) == pytest.approx(expected)


amounts = st.floats(0, 50)


@given(st.floats(0, 100), st.lists(st.tuples(amounts, amounts, st.floats(0.1, 5), st.integers(0, 2)), max_size=8))
def test_division_never_gives_more_than_there_is_nor_than_anyone_wants(
    total: float, asks: list[tuple[float, float, float, int]]
) -> None:
    claimants = [claimant(str(number), *ask) for number, ask in enumerate(asks)]
    shares = divide(total, claimants)

    assert sum(shares.values()) <= total + 1e-6
    assert all(shares[part.name] <= part.wanted + 1e-6 for part in claimants)
    if sum(part.wanted for part in claimants) >= total:
        assert sum(shares.values()) == pytest.approx(min(total, sum(part.wanted for part in claimants)), abs=1e-5)


def tree() -> QueueTree:
    return QueueTree.of(
        [
            QueueSpec("org", quota=Bound(8.0)),
            QueueSpec("red", parent="org", quota=Bound(4.0, 5000.0), limit=Bound(6.0)),
            QueueSpec("blue", parent="org", quota=Bound(4.0)),
        ]
    )


def test_shares_run_down_the_tree() -> None:
    assert fair_gpus(tree(), 8.0, {"red": 20.0, "blue": 2.0}, {}) == pytest.approx({"org": 8, "red": 6, "blue": 2})


def test_past_use_takes_surplus_away_and_leaves_the_quota() -> None:
    queues = QueueTree.of([QueueSpec("a", quota=Bound(2.0)), QueueSpec("b", quota=Bound(2.0))])
    shares = fair_gpus(queues, 10.0, {"a": 10.0, "b": 10.0}, {"a": 0.9, "b": 0.1})

    assert shares["a"] >= 2.0
    assert shares["b"] > shares["a"] + 3


def test_use_fades_by_half_in_one_half_life() -> None:
    usage = Usage(half_life_s=3600.0)
    usage.advance(3600.0, {"a": 4.0}, {"a": 2000.0})
    usage.advance(7200.0, {}, {})

    assert usage.gpu_hours["a"] == pytest.approx(2.0)
    assert usage.kwh["a"] == pytest.approx(1.0)
    assert usage.past(4.0, 2000.0)["a"] == pytest.approx(0.5 * math.log(2))


def test_dominant_share_is_the_larger_of_gpus_and_watts() -> None:
    assert dominant_share(Amount(1000, 5_000_000), {"gpus": 10.0, "watts": 10_000.0}) == pytest.approx(0.5)


def test_every_ancestor_must_have_room() -> None:
    queues = tree()
    queues.take("blue", Amount(4000), is_firm=True)

    assert queues.refusal("red", Amount(7000), is_firm=False) == "red: limit"
    assert queues.refusal("red", Amount(5000), is_firm=True) == "red: quota of jobs that cannot be preempted"
    assert queues.refusal("red", Amount(4000, 6_000_000), is_firm=True) is not None
    assert queues.refusal("red", Amount(4000), is_firm=True) is None


def test_impossible_trees_are_refused() -> None:
    with pytest.raises(RequestError, match="circle"):
        QueueTree.of([QueueSpec("a", parent="b"), QueueSpec("b", parent="a")])
    with pytest.raises(RequestError, match=r"children deserve 9\.0 GPUs"):
        QueueTree.of([QueueSpec("a", quota=Bound(8.0)), QueueSpec("b", parent="a", quota=Bound(9.0))])
    with pytest.raises(RequestError, match="parent 'ghost'"):
        QueueTree.of([QueueSpec("a", parent="ghost")])
