"""One turn of the engine: quotas, fair order, limits, elasticity, backfill, reuse and broken gangs."""

from typing import TYPE_CHECKING

import pytest

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.jobs import Group, Job, Member, single
from flyball_aggregator.placement.queues import Bound, QueueSpec
from flyball_aggregator.placement.refusals import Refusal
from flyball_aggregator.placement.work import Grow, Phase, Stop

if TYPE_CHECKING:
    from tests.flyball_aggregator.placement.conftest import NewSite

ONE, FOUR = Member(), Member(gpus=4)


def job(name: str, count: int = 1, member: Member = FOUR, queue: str = "all", **more: object) -> Job:
    return Job(name, queue, Group("main", member=member, count=count), **more)  # type: ignore[arg-type]  # test helper


def test_limit_in_gpus_and_in_watts_holds_a_queue_back(new_site: "NewSite") -> None:
    site = new_site(
        QueueSpec("gpus", quota=Bound(8.0), limit=Bound(gpus=2)), QueueSpec("watts", limit=Bound(watts=1500.0))
    )
    site.submit(*(single(f"g{n}", "gpus", ONE) for n in range(4)), *(single(f"w{n}", "watts", ONE) for n in range(4)))
    site.turn()

    assert [site.phase(f"g{n}") for n in range(4)].count(Phase.RUNNING) == 2
    assert [site.phase(f"w{n}") for n in range(4)].count(Phase.RUNNING) == 2
    assert site.engine.works["g3"].blocked == Refusal("quota", "gpus: limit")


def test_jobs_that_cannot_be_preempted_stay_within_quota(new_site: "NewSite") -> None:
    site = new_site(QueueSpec("small", quota=Bound(1.0)))
    site.submit(*(job(f"firm{n}", 1, ONE, "small", is_preemptible=False) for n in range(2)))
    site.turn()

    assert [site.phase(f"firm{n}") for n in range(2)] == [Phase.RUNNING, Phase.QUEUED]


def test_turns_alternate_towards_equal_shares(new_site: "NewSite") -> None:
    site = new_site(QueueSpec("a", weight=1.0), QueueSpec("b", weight=1.0))
    site.submit(*(single(f"a{n}", "a", ONE) for n in range(40)))
    site.submit(*(single(f"b{n}", "b", ONE) for n in range(40)))
    site.turn()

    assert site.engine.tree.held["a"].milli == site.engine.tree.held["b"].milli == 16_000


def test_higher_priority_goes_first_inside_a_queue(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(job("low", 8, priority=10), job("high", 8, priority=90))
    site.turn()

    assert (site.phase("high"), site.phase("low")) == (Phase.RUNNING, Phase.QUEUED)


def test_equal_hopeless_jobs_are_planned_once(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(*(job(f"never{n}", 9) for n in range(50)))
    site.turn()
    first = site.engine.plans_made
    site.turn(1.0)

    assert first == 1
    assert site.engine.plans_made == first


def test_same_id_again_is_the_same_job(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(job("once"), job("once"))
    site.turn()

    assert len(site.engine.works) == 1
    with pytest.raises(RequestError, match="queue 'ghost' is unknown"):
        site.submit(job("lost", queue="ghost"))


def test_run_time_wait_and_idle_limits_end_jobs(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(job("long", max_runtime_s=100.0), job("lazy", idle_limit_s=50.0), job("late", 9, max_queued_s=80.0))
    site.turn()
    site.engine.idle("lazy", 0.0)
    site.turn(60.0)
    site.turn(60.0)

    assert site.phase("long") is Phase.EXCEEDED_MAX_RUNTIME
    assert site.phase("lazy") is Phase.CANCELED
    assert site.phase("late") is Phase.EXCEEDED_MAX_QUEUED
    assert site.engine.board.fleet.gpu_left.sum() == 32_000


def test_elastic_job_grows_when_nobody_waits(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(Job("stretch", "all", Group("main", member=FOUR, least=1, most=3)))
    site.turn()
    grown = [decision for _ in range(4) for decision in site.turn(1.0) if isinstance(decision, Grow)]

    assert len(site.hosts_of("stretch")) == 3
    assert {seat.replica for decision in grown for seat in decision.seats} <= {1, 2}
    assert site.engine.tree.held["all"].milli == 12_000


def test_short_jobs_backfill_before_a_planned_start_and_long_ones_do_not(new_site: "NewSite") -> None:
    site = new_site(QueueSpec("all", quota=Bound(100.0)))
    site.submit(job("running", 4, max_runtime_s=1000.0, is_preemptible=False, priority=90))
    site.turn()
    site.submit(job("wide", 8, priority=80, is_preemptible=False))
    site.submit(job("short", 1, max_runtime_s=100.0, is_preemptible=False))
    site.submit(job("long", 1, is_preemptible=False))
    site.turn(1.0)

    assert site.phase("short") is Phase.RUNNING
    assert site.phase("long") is Phase.QUEUED
    site.engine.ended("short", site.now_s)
    site.turn(1000.0)
    site.turn(1.0)
    assert site.phase("wide") is Phase.RUNNING


def test_broken_gang_is_stopped_after_its_grace_and_waits_again(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(job("pair", 2, broken_grace_s=60.0))
    site.turn()
    lost = site.hosts_of("pair")[0]

    assert site.engine.close_host(lost, "lost", site.now_s, is_lost=True) == ["pair"]
    assert not [decision for decision in site.turn(30.0) if isinstance(decision, Stop)]
    assert [decision.reason for decision in site.turn(31.0) if isinstance(decision, Stop)] == ["gang stayed broken"]
    site.turn(1.0)
    assert site.phase("pair") is Phase.RUNNING
    assert lost not in site.hosts_of("pair")


def test_gang_that_is_whole_again_in_time_runs_on(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(job("pair", 2, broken_grace_s=60.0))
    site.turn()
    lost = site.hosts_of("pair")[0]
    site.engine.close_host(lost, "lost", site.now_s, is_lost=True)
    site.engine.open_host(lost)

    assert site.turn(100.0) == []


def test_restart_reuses_its_place_which_nobody_took(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(job("v1", 2, reuse="chat"))
    site.turn()
    place = site.hosts_of("v1")
    site.engine.ended("v1", site.now_s)
    site.submit(*(job(f"other{n}") for n in range(8)))
    site.turn(1.0)
    site.submit(job("v2", 2, reuse="chat"))
    site.turn(1.0)

    assert sorted(site.hosts_of("v2")) == sorted(place)


def test_failed_start_frees_everything_and_tries_other_hosts(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(job("once"))
    site.engine.submit(job("twice"), 0.0)
    site.turn()
    before = site.hosts_of("once")[0]
    work = site.engine.works["once"]
    site.engine.enter(work, Phase.RESERVED)
    site.engine.start_failed("once", site.now_s, [before])
    site.turn(1.0)

    assert site.hosts_of("once")[0] != before


def test_backfill_leaves_a_planned_start_its_watts(new_site: "NewSite") -> None:
    site = new_site(QueueSpec("all", quota=Bound(100.0)), row_limit_w=5 * 640.0 + 1.0)
    site.submit(job("running", 1, Member(gpus=2), max_runtime_s=1000.0, priority=90, is_preemptible=False))
    site.turn()
    site.submit(job("planned", 1, max_runtime_s=1000.0, priority=80, is_preemptible=False))
    site.submit(*(job(f"small{n}", 1, ONE, is_preemptible=False) for n in range(3)))
    site.turn(1.0)

    assert site.engine.works["planned"].blocked == Refusal("row", "site")
    assert [site.phase(f"small{n}") for n in range(3)].count(Phase.RUNNING) == 1
    site.turn(1100.0)
    site.turn(1.0)
    assert site.phase("planned") is Phase.RUNNING
