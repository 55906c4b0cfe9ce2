"""Every idle GPU has one reason, every refusal a name, every choice its terms."""

from typing import TYPE_CHECKING

import numpy as np
import pytest

from flyball_aggregator.placement.errors import FleetError, RequestError
from flyball_aggregator.placement.explain import explain
from flyball_aggregator.placement.fleet import Claim, Fleet, HostShape
from flyball_aggregator.placement.hazards import Climate, price_penalty, risk_penalty, thermal_penalty
from flyball_aggregator.placement.host_sleep import ASLEEP, SleepSettings, plan_sleep
from flyball_aggregator.placement.idle_reasons import IdleReason, idle_reasons
from flyball_aggregator.placement.jobs import Draw, Group, Job, Member, single
from flyball_aggregator.placement.queues import Bound, QueueSpec
from flyball_aggregator.placement.rolling import Replica, RollingStep, next_step
from flyball_aggregator.placement.topology import import_graph

if TYPE_CHECKING:
    from tests.flyball_aggregator.placement.conftest import NewSite

FOUR = Member(gpus=4)


def test_idle_gpus_have_no_job_while_nobody_waits(new_site: "NewSite") -> None:
    site = new_site()
    site.engine.close_host(3, "xid 79", 0.0)
    reasons = idle_reasons(site.engine, 0.0)

    assert {reasons[3, gpu] for gpu in range(4)} == {IdleReason.FAULT}
    assert set(reasons.values()) == {IdleReason.FAULT, IdleReason.NO_JOB}
    assert len(reasons) == 32


def test_idle_gpus_are_held_back_by_watts_or_quota_or_are_fragments(new_site: "NewSite") -> None:
    for site, job, expected in (
        (new_site(row_limit_w=500.0), single("j", "all", FOUR, draw=Draw(700.0, 700.0)), IdleReason.WATTS),
        (new_site(QueueSpec("all", limit=Bound(2.0))), single("j", "all", FOUR), IdleReason.QUOTA),
        (new_site(), single("j", "all", Member(gpus=5)), IdleReason.FRAGMENT),
    ):
        site.submit(job)
        site.turn()
        assert set(idle_reasons(site.engine, 0.0).values()) == {expected}


def test_gpus_cleared_for_somebody_are_reserved(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(*(Job(f"low{n}", "all", Group("m", member=FOUR), priority=10) for n in range(7)))
    site.turn()
    site.submit(Job("high", "all", Group("m", member=FOUR, count=2), priority=90))
    from flyball_aggregator.placement.cycle import tick

    tick(site.engine, 1.0)
    assert set(idle_reasons(site.engine, 1.0).values()) == {IdleReason.RESERVED}


def test_explanation_gives_terms_of_the_best_and_the_first_failure_of_the_rest(new_site: "NewSite") -> None:
    site = new_site()
    site.engine.close_host(0, "maintenance", 0.0)
    site.submit(single("busy", "all", FOUR))
    site.turn()
    answer = explain(site.engine, single("ask", "all", FOUR), 0.0)[0]

    assert answer.rejected == {"closed: maintenance": 1, "gpus": 1}
    assert len(answer.best) == 5
    assert answer.best[0].row_room_w["site"] > 0
    assert [-terms.level for terms in answer.best] == sorted(-terms.level for terms in answer.best)


def test_explained_best_host_is_the_one_taken(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(single("first", "all", Member()))
    site.turn()
    job = single("second", "all", Member(gpus=2))
    best = explain(site.engine, job, 0.0)[0].best[0].host
    site.submit(job)
    site.turn()

    assert site.engine.board.fleet.names[site.hosts_of("second")[0]] == best


def test_claims_that_do_not_match_the_fleet_change_nothing(hosts: list[HostShape]) -> None:
    fleet = Fleet.of(hosts)
    for claim in (Claim(0, (0, 0), 100), Claim(0, (7,), 100), Claim(0, (0,), 1001), Claim(0, (0,), 1, cpu_milli=10**9)):
        with pytest.raises(FleetError):
            fleet.take(claim)
    with pytest.raises(FleetError, match="given back that was not taken"):
        fleet.give(Claim(0, (0,), 1))

    assert fleet.gpu_left.sum() == 32_000
    with pytest.raises(FleetError, match="names repeat"):
        Fleet.of([hosts[0], hosts[0]])


def test_heat_risk_and_price_rise_and_unknown_counts_as_bad() -> None:
    climate = Climate(
        np.array([20.0, 30.0, np.nan]), np.full(3, 87.0), np.full(3, 0.01), np.array([1000.0, 5000.0, 1000.0])
    )
    heat = thermal_penalty(climate, 700.0)
    risk = risk_penalty(np.array([0.0, 0.1, np.nan]), runtime_h=10.0)

    assert heat[0] == 0.0
    assert heat[1] > 0
    assert heat[2] > 0
    assert risk[0] == 0.0
    assert risk[1] == risk[2] == pytest.approx(0.632, abs=1e-3)
    assert price_penalty(1e6, 50.0, is_deferrable=True) == 50.0
    assert price_penalty(1e6, 50.0, is_deferrable=False) == 0.0


def test_hosts_sleep_rack_by_rack_and_wake_before_they_are_needed(hosts: list[HostShape]) -> None:
    fleet = Fleet.of(hosts)
    empty = dict.fromkeys([0, 1, 2], 0.0)
    settings = SleepSettings(empty_s=100.0, spare_gpus=4)

    assert plan_sleep(fleet, empty, 0.0, 50.0, settings).sleep == ()
    assert plan_sleep(fleet, empty, 16.0, 200.0, settings).sleep == (0, 1, 2)
    assert plan_sleep(fleet, empty, 20.0, 200.0, settings).sleep == (0, 1)
    for host in (0, 1):
        fleet.block(host, ASLEEP)
    assert plan_sleep(fleet, {}, 23.0, 300.0, settings).wake == (0,)
    assert plan_sleep(fleet, {}, 28.0, 300.0, settings).wake == (0, 1)


def test_rolling_update_replaces_whole_replicas_and_misses_at_most_one() -> None:
    replicas = [Replica("replica-0", "v1", is_ready=True), Replica("replica-1", "v1", is_ready=True)]
    fewest, steps = len(replicas), 0
    while (step := next_step(replicas, "v2", 2, can_surge=False)) is not None:
        if step.stop is not None:
            replicas = [part for part in replicas if part.name != step.stop]
        elif step.start is not None:
            replicas.append(Replica(step.start, "v2", is_ready=True))
        fewest, steps = min(fewest, len(replicas)), steps + 1

    assert {part.version for part in replicas} == {"v2"}
    assert (fewest, len(replicas), steps) == (1, 2, 4)


def test_rolling_update_surges_where_it_can_and_waits_for_readiness() -> None:
    old = [Replica("replica-0", "v1", is_ready=True)]

    assert next_step(old, "v2", 1, can_surge=True) == RollingStep(start="replica-1")
    assert next_step([*old, Replica("replica-1", "v2", is_ready=False)], "v2", 1, can_surge=True) == RollingStep()
    assert next_step([*old, Replica("replica-1", "v2", is_ready=True)], "v2", 1, can_surge=True) == RollingStep(
        stop="replica-0"
    )


def test_graph_gives_hosts_their_domains_and_names_what_is_missing(hosts: list[HostShape]) -> None:
    graph: list[dict[str, object]] = [
        {"id": f"h{n}", "network_layers": [f"leaf{n // 4}", "spine0"], "accelerator": {"domain": f"nvl{n // 2}"}}
        for n in range(8)
    ]

    assert import_graph(hosts, graph)[5].domains == ("nvl2", "leaf1", "spine0")
    with pytest.raises(RequestError, match=r"hosts \['h7'\] are missing"):
        import_graph(hosts, graph[:7])
    with pytest.raises(RequestError, match="expected an id"):
        import_graph(hosts, [{"network_layers": []}])
