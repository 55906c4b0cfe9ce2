"""Others are disturbed only for those who deserve it, as little and as cheaply as possible."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flyball_aggregator.placement.engine import EngineSettings
from flyball_aggregator.placement.jobs import Group, Job, Member
from flyball_aggregator.placement.queues import Bound, QueueSpec
from flyball_aggregator.placement.work import Decision, Phase, Shrink, Stop

if TYPE_CHECKING:
    from tests.flyball_aggregator.placement.conftest import NewSite

ONE, FOUR = Member(), Member(gpus=4)


def job(name: str, count: int = 1, member: Member = FOUR, queue: str = "all", **more: object) -> Job:
    return Job(name, queue, Group("main", member=member, count=count), **more)  # type: ignore[arg-type]  # test helper


def stops(decisions: Sequence[Decision]) -> list[tuple[str, str]]:
    return [(decision.job_id, decision.reason) for decision in decisions if isinstance(decision, Stop)]


def test_higher_priority_preempts_the_fewest_in_its_queue(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(*(job(f"low{n}", priority=10) for n in range(8)))
    site.turn()
    site.submit(job("high", 2, priority=90))
    decisions = site.turn(1.0)

    assert [reason for _, reason in stops(decisions)] == ["preempt", "preempt"]
    site.turn(1.0)
    assert site.phase("high") is Phase.RUNNING
    assert sum(site.phase(f"low{n}") is Phase.QUEUED for n in range(8)) == 2


def test_victims_keep_gpus_and_watts_until_they_have_stopped(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(*(job(f"low{n}", priority=10) for n in range(8)))
    site.turn()
    held = site.engine.rows.committed_mw.copy()
    site.submit(job("high", priority=90))
    site.now_s += 1
    from flyball_aggregator.placement.cycle import tick

    tick(site.engine, site.now_s)

    assert site.phase("high") is Phase.QUEUED
    assert (site.engine.rows.committed_mw == held).all()


def test_minimum_run_time_and_preemption_delay_protect(new_site: "NewSite") -> None:
    site = new_site(QueueSpec("all", quota=Bound(32.0), min_runtime_s=100.0))
    site.submit(*(job(f"low{n}", priority=10) for n in range(8)))
    site.turn()
    site.submit(job("high", priority=90, preemption_delay_s=200.0))

    assert stops(site.turn(50.0)) == []
    assert stops(site.turn(100.0)) == []
    assert len(stops(site.turn(60.0))) == 1


def test_disruption_budget_bounds_evictions_in_an_hour(new_site: "NewSite") -> None:
    site = new_site(settings=EngineSettings(disruptions_per_hour=1))
    site.submit(*(job(f"low{n}", priority=10) for n in range(8)))
    site.turn()
    site.submit(job("first", priority=90))

    assert len(stops(site.turn(1.0))) == 1
    site.turn(1.0)
    site.submit(job("second", priority=90))
    assert stops(site.turn(1.0)) == []
    assert len(stops(site.turn(3600.0))) == 1


def test_victim_with_the_freshest_checkpoint_goes_first(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(*(job(f"low{n}", priority=10, checkpoint_every_s=inf_except(n)) for n in range(8)))
    site.turn()
    site.submit(job("high", priority=90))

    assert stops(site.turn(1000.0)) == [("low5", "preempt")]


def inf_except(number: int) -> float:
    return 100.0 if number == 5 else float("inf")


def test_jobs_that_cannot_be_preempted_are_left_alone(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(*(job(f"firm{n}", priority=10, is_preemptible=False) for n in range(8)))
    site.turn()
    site.submit(job("high", priority=90))

    assert stops(site.turn(1.0)) == []


def test_starved_queue_reclaims_only_down_to_the_fair_share(new_site: "NewSite") -> None:
    site = new_site(QueueSpec("greedy"), QueueSpec("starved"))
    site.submit(*(job(f"g{n}", 1, FOUR, "greedy") for n in range(8)))
    site.turn()
    site.submit(*(job(f"s{n}", 1, FOUR, "starved") for n in range(8)))
    for _ in range(20):
        site.turn(1.0)

    assert site.engine.tree.held["greedy"].milli == site.engine.tree.held["starved"].milli == 16_000


def test_extra_replicas_of_elastic_jobs_go_before_whole_jobs(new_site: "NewSite") -> None:
    site = new_site()
    site.submit(Job("stretch", "all", Group("main", member=FOUR, least=1, most=8), priority=10))
    for _ in range(9):
        site.turn(1.0)
    assert len(site.hosts_of("stretch")) == 8
    site.submit(job("high", 2, priority=90))
    decisions = site.turn(1.0)

    assert stops(decisions) == []
    assert {seat.replica for part in decisions if isinstance(part, Shrink) for seat in part.seats} == {6, 7}
    site.turn(1.0)
    assert site.phase("high") is Phase.RUNNING
    assert len(site.hosts_of("stretch")) == 6


def test_movable_jobs_make_room_for_a_whole_host(new_site: "NewSite") -> None:
    site = new_site(settings=EngineSettings(policy="spread"))
    site.submit(*(job(f"one{n}", 1, ONE, is_movable=True, is_preemptible=True) for n in range(8)))
    site.turn()
    assert len({site.hosts_of(f"one{n}")[0] for n in range(8)}) == 8
    site.submit(job("whole", 1, FOUR))
    decisions = site.turn(1.0)

    assert [reason for _, reason in stops(decisions)] == ["move"]
    for _ in range(2):
        site.turn(1.0)
    assert site.phase("whole") is Phase.RUNNING
    assert all(site.phase(f"one{n}") is Phase.RUNNING for n in range(8))


def test_jobs_that_may_not_move_stay(new_site: "NewSite") -> None:
    site = new_site(settings=EngineSettings(policy="spread"))
    site.submit(*(job(f"one{n}", 1, ONE) for n in range(8)))
    site.turn()
    site.submit(job("whole", 1, FOUR))

    assert stops(site.turn(1.0)) == []
