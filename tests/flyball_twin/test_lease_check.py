"""The checks of the lease protocol: sound with all rules, and each rule's absence is seen."""

import pytest

from flyball_twin.lease_check import check_leases, check_rule
from flyball_twin.lease_check_fleet import FleetRun
from flyball_twin.lease_check_host import Bounds, HostModel, replay, search
from flyball_twin.lease_check_rules import ALL_RULES, RULE_NAMES, rules_without
from flyball_twin.lease_check_scopes import QUICK, Scope
from flyball_twin.lease_counterexamples import COUNTEREXAMPLES

NEEDS_LONG_SEARCH = {5}  # the shortest counterexample is nine steps deep


@pytest.mark.parametrize("rule", sorted(RULE_NAMES))
def test_leaving_a_rule_out_breaks_what_it_protects_and_the_rule_alone_prevents_it(rule: int) -> None:
    stored = COUNTEREXAMPLES[rule]

    assert replay(HostModel(stored.bounds, rules_without(rule)), stored.trace) == stored.breaks
    assert replay(HostModel(stored.bounds, ALL_RULES), stored.trace) is None


@pytest.mark.parametrize("rule", sorted(set(RULE_NAMES) - NEEDS_LONG_SEARCH))
def test_the_stored_counterexample_is_the_shortest_the_search_finds(rule: int) -> None:
    stored = COUNTEREXAMPLES[rule]
    found = search(HostModel(stored.bounds, rules_without(rule)))

    assert (found.violation, len(found.trace)) == (stored.breaks, len(stored.trace))


@pytest.mark.parametrize("scope", QUICK[:5], ids=lambda scope: scope.name)
def test_no_state_of_one_host_within_these_bounds_draws_more_than_is_committed(scope: Scope) -> None:
    found = search(HostModel(scope.bounds))

    assert (found.violation, found.is_complete, found.trace) == (None, True, ())
    assert found.states > 300


def test_everything_can_be_granted_again_from_every_state_once_faults_end() -> None:
    faults = (("hang", 1),)
    found = search(HostModel(Bounds(grants=1, faults=faults)), checks_liveness=True)

    assert found.violation is None
    assert found.recovered > 100


def test_leaving_out_what_can_change_nothing_loses_no_state_that_differs_otherwise() -> None:
    bounds = Bounds(grants=1, faults=(("crash", 1), ("hang", 1)))
    reduced, whole = HostModel(bounds), HostModel(bounds)
    whole._may_reduce = False

    few, all_states = search(reduced), search(whole)
    assert few.states < all_states.states
    assert few.violation is None
    assert all_states.violation is None
    assert few.distinct["machines"] == all_states.distinct["machines"]


@pytest.mark.parametrize("seed", range(3))
def test_a_random_fleet_stays_within_every_limit_under_all_faults(seed: int) -> None:
    result = FleetRun(seed).run(500)

    assert (result.seconds_over, result.late_seconds, result.hosts_over_commitment) == (0, 0, 0)
    assert (result.life_broken, result.lowerings_unwritten) == (0, 0)
    assert result.used > 0.6 * result.used_seconds


@pytest.mark.parametrize("rule", [6, 8])
def test_a_random_fleet_goes_over_a_limit_without_the_rule(rule: int) -> None:
    assert FleetRun(0, rules_without(rule)).run(400).seconds_over


def test_a_check_counts_its_faults_and_gives_the_same_for_the_same_seed() -> None:
    first, second = (check_leases(1, seed=5, seconds=200, jobs=1).as_json() for _ in range(2))

    first.pop("cpu_s"), second.pop("cpu_s")
    assert first == second
    assert {"runs", "runs_over_limit", "late_seconds", "worst_ratio", "mean_use_of_limit", "use_of_zero_delay", "lost",
            "duplicated", "partitions", "crashes", "reboots", "failovers", "limit_drops"} <= set(first)  # fmt: skip


def test_a_rule_check_names_the_broken_property() -> None:
    checked = check_rule(15, runs=1, seed=3, jobs=1)

    assert checked.as_json()["property_broken"] == "a lease past its life is in force"
    assert checked.breaks_with_rule is None


def test_a_rule_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 18"):
        check_leases(1, without=19)
