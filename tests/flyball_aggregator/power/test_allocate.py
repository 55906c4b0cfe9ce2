"""Weighted lexicographic max-min: properties over random fleets, and the cases a person can check by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_aggregator.power.allocate import NO_ROW, Allocation, Wants, allocate, raise_within, spread_spare
from flyball_aggregator.power.certificate import check_allocation
from flyball_aggregator.power.rows import Floats, Row, RowMatrix, build_matrix
from flyball_cli.bench_budget import build_bench_fleet


def row(name: str, limit_w: float, *hosts: int) -> Row:
    ones = (1.0,) * len(hosts)
    return Row(name, "element", name, None, hosts, ones, limit_w, limit_w, 0.0, 0.0, None)


def wants(demand: list[float], **columns: list[float]) -> Wants:
    count = len(demand)
    minimum = np.array(columns.get("minimum", [0.0] * count))
    return Wants(
        minimum_w=minimum,
        floor_w=np.array(columns.get("floor", minimum.tolist())),
        demand_w=np.array(demand),
        ceiling_w=np.array(columns.get("ceiling", demand)),
        weight=np.array(columns.get("weight", [1.0] * count)),
        tier=np.array(columns.get("tier", [1.0] * count), dtype=np.int64),
    )


def solve(rows: list[Row], asked: Wants) -> tuple[RowMatrix, Floats, Allocation]:
    matrix = build_matrix(rows, len(asked.demand_w))
    room_w = np.array([item.limit_w for item in rows])
    return matrix, room_w, allocate(matrix, room_w, asked)


def test_equal_hosts_share_a_full_row_equally() -> None:
    _matrix, _room, found = solve([row("feed", 900.0, 0, 1, 2)], wants([500.0, 500.0, 500.0]))

    assert found.granted_w.tolist() == pytest.approx([300.0, 300.0, 300.0])
    assert found.limiting_row.tolist() == [0, 0, 0]


def test_modest_host_keeps_what_it_wants_and_names_no_row() -> None:
    _matrix, _room, found = solve([row("feed", 900.0, 0, 1, 2)], wants([100.0, 500.0, 500.0]))

    assert found.granted_w.tolist() == pytest.approx([100.0, 400.0, 400.0])
    assert found.limiting_row.tolist() == [NO_ROW, 0, 0]


def test_weights_split_what_is_above_the_floor() -> None:
    asked = wants([900.0, 900.0], minimum=[100.0, 100.0], weight=[1.0, 3.0])

    assert solve([row("feed", 600.0, 0, 1)], asked)[2].granted_w.tolist() == pytest.approx([200.0, 400.0])


def test_less_important_tier_gets_its_floor_before_the_first_gets_more() -> None:
    asked = wants([900.0, 900.0], minimum=[50.0, 50.0], floor=[100.0, 200.0], tier=[0, 2])

    assert solve([row("feed", 500.0, 0, 1)], asked)[2].granted_w.tolist() == pytest.approx([300.0, 200.0])


def test_floors_that_do_not_fit_are_cut_from_the_least_important_tier() -> None:
    asked = wants([900.0, 900.0], minimum=[50.0, 50.0], floor=[300.0, 300.0], tier=[0, 2])
    matrix, room_w, found = solve([row("feed", 500.0, 0, 1)], asked)

    assert found.granted_w.tolist() == pytest.approx([300.0, 200.0])
    assert found.floors_met.tolist() == [True, False]
    assert check_allocation(matrix, room_w, asked, found).failures == 0


def test_row_whose_minima_do_not_fit_is_named_and_the_others_go_on() -> None:
    asked = wants([900.0, 900.0, 900.0], minimum=[200.0, 200.0, 200.0])
    rows = [row("small", 300.0, 0, 1), row("large", 700.0, 2)]
    matrix, room_w, found = solve(rows, asked)

    assert found.short_rows.tolist() == [True, False]
    assert found.granted_w.tolist() == pytest.approx([200.0, 200.0, 700.0])
    assert check_allocation(matrix, room_w, asked, found).failures == 0


def test_watts_that_one_row_cannot_use_go_to_the_other() -> None:
    rows = [row("rack-1", 300.0, 0, 1), row("rack-2", 900.0, 2), row("site", 1000.0, 0, 1, 2)]

    assert solve(rows, wants([800.0, 800.0, 800.0]))[2].granted_w.tolist() == pytest.approx([150.0, 150.0, 700.0])


def test_spare_goes_out_up_to_the_ceilings_and_no_row_is_passed() -> None:
    asked = wants([100.0, 100.0], ceiling=[150.0, 900.0])
    matrix, room_w, found = solve([row("feed", 600.0, 0, 1)], asked)

    assert spread_spare(matrix, room_w, asked, found.granted_w).tolist() == pytest.approx([150.0, 450.0])


def test_raise_takes_only_what_commitments_leave() -> None:
    asked = wants([500.0, 500.0])
    matrix, room_w, _found = solve([row("feed", 1000.0, 0, 1)], asked)

    raised = raise_within(matrix, room_w, np.array([800.0, 100.0]), np.array([500.0, 500.0]), asked)

    assert raised.tolist() == pytest.approx([800.0, 200.0])


def test_host_that_no_row_covers_gets_all_it_wants() -> None:
    assert solve([row("feed", 100.0, 0)], wants([500.0, 500.0]))[2].granted_w.tolist() == pytest.approx([100.0, 500.0])


def test_wrong_allocation_fails_its_certificate() -> None:
    asked = wants([500.0, 500.0])
    matrix, room_w, found = solve([row("feed", 600.0, 0, 1)], asked)
    unfair = Allocation(np.array([400.0, 200.0]), found.limiting_row, found.short_rows, found.floors_met, found.rounds)
    wasteful = Allocation(
        np.array([200.0, 200.0]), found.limiting_row, found.short_rows, found.floors_met, found.rounds
    )
    overfull = Allocation(
        np.array([400.0, 300.0]), found.limiting_row, found.short_rows, found.floors_met, found.rounds
    )

    assert check_allocation(matrix, room_w, asked, unfair).unjustified_hosts.tolist() == [1]
    assert check_allocation(matrix, room_w, asked, wasteful).unjustified_hosts.tolist() == [0, 1]
    assert check_allocation(matrix, room_w, asked, overfull).overfilled_rows.tolist() == [0]


@pytest.mark.parametrize("is_greedy", [False, True])
def test_three_hundred_random_fleets_hold_their_certificates(is_greedy: bool) -> None:
    random = np.random.default_rng(7)
    for seed in range(150):
        gpus, oversubscription = int(random.choice([72, 144, 576, 1200])), float(random.uniform(1.05, 2.2))
        fleet = build_bench_fleet(gpus, oversubscription, seed, is_greedy=is_greedy)
        found = allocate(fleet.matrix, fleet.room_w, fleet.wants)
        certificate = check_allocation(fleet.matrix, fleet.room_w, fleet.wants, found)

        assert certificate.failures == 0, (seed, gpus, oversubscription)
        limited = found.limiting_row >= 0
        assert (limited == (fleet.wants.demand_w - found.granted_w > 1e-3)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_raises_and_spare_never_pass_a_row(seed: int) -> None:
    random = np.random.default_rng(seed)
    fleet = build_bench_fleet(int(random.integers(16, 800)), float(random.uniform(1.05, 2.0)), seed, is_greedy=False)
    matrix, asked = fleet.matrix, fleet.wants
    found = allocate(matrix, fleet.room_w, asked)
    target_w = spread_spare(matrix, fleet.room_w, asked, found.granted_w)
    committed_w = asked.minimum_w * random.uniform(1.0, 1.5, matrix.hosts)
    raised_w = raise_within(matrix, fleet.room_w, committed_w, target_w, asked)
    is_sound = matrix.load_w(committed_w) <= fleet.room_w

    assert (matrix.load_w(target_w) <= np.maximum(fleet.room_w, matrix.load_w(asked.minimum_w)) + 1e-3).all()
    assert (target_w >= found.granted_w - 1e-6).all()
    assert (matrix.load_w(raised_w)[is_sound] <= fleet.room_w[is_sound] + 1e-3).all()
    assert (raised_w >= committed_w - 1e-9).all()
