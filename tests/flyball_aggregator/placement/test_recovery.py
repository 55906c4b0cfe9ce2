"""A new aggregator finds every job, seat and watt where the last one left them."""

import json
from typing import TYPE_CHECKING

import pytest

from flyball_aggregator.placement.commit import Attempt, Stage
from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.jobs import Draw, Group, Job, Member
from flyball_aggregator.placement.queues import Bound, QueueSpec
from flyball_aggregator.placement.recovery import JobRecord, records_by_host, restore
from flyball_aggregator.placement.work import Phase

if TYPE_CHECKING:
    from tests.flyball_aggregator.placement.conftest import NewSite, Site

QUEUE = QueueSpec("all", quota=Bound(100.0))


def job(name: str, count: int = 2) -> Job:
    return Job(name, "all", Group("main", member=Member(gpus=4), count=count, draw=Draw(650.0, 300.0)))


def attempt_of(site: "Site", name: str, stage: Stage) -> Attempt:
    """The stored attempt, after a trip through JSON as a disk would take it."""
    seats = records_by_host(site.engine.works[name].seats, site.engine.board.fleet)
    thawed = {host: tuple(parts) for host, parts in json.loads(json.dumps(seats)).items()}
    return Attempt(name, 1, 1, stage, 0.0, (tuple(thawed),), thawed)


@pytest.mark.parametrize(
    ("stage", "phase"),
    [
        (Stage.PREPARING, Phase.RESERVED),
        (Stage.STARTING, Phase.RESERVED),
        (Stage.RUNNING, Phase.RUNNING),
        (Stage.STOPPING, Phase.STOPPING),
        (Stage.ROLLING_BACK, Phase.RESERVED),
    ],
)
def test_seats_watts_and_quota_are_as_before(new_site: "NewSite", stage: Stage, phase: Phase) -> None:
    before, after = new_site(QUEUE), new_site(QUEUE)
    before.submit(job("placed"), job("waiting", 9))
    before.turn()
    records = [JobRecord(work.job, work.phase) for work in before.engine.works.values()]
    restore(after.engine, records, [attempt_of(before, "placed", stage)])

    assert after.phase("placed") is phase
    assert after.phase("waiting") is Phase.QUEUED
    assert (after.engine.board.fleet.gpu_left == before.engine.board.fleet.gpu_left).all()
    assert (after.engine.rows.committed_mw == before.engine.rows.committed_mw).all()
    assert after.engine.tree.held == before.engine.tree.held


def test_job_that_was_over_is_not_started_again(new_site: "NewSite") -> None:
    site = new_site(QUEUE)
    restore(site.engine, [JobRecord(job("done"), Phase.COMPLETED)], [])
    site.turn()

    assert site.phase("done") is Phase.COMPLETED


def test_canceled_job_whose_hosts_did_not_answer_yet_is_still_stopping(new_site: "NewSite") -> None:
    before, after = new_site(QUEUE), new_site(QUEUE)
    before.submit(job("going"))
    before.turn()
    restore(after.engine, [JobRecord(job("going"), Phase.CANCELED)], [attempt_of(before, "going", Stage.RUNNING)])

    assert after.phase("going") is Phase.STOPPING
    after.engine.stopped("going", 1.0)
    assert after.phase("going") is Phase.CANCELED
    assert after.engine.board.fleet.gpu_left.sum() == 32_000


def test_attempt_without_its_job_is_refused(new_site: "NewSite") -> None:
    site = new_site(QUEUE)
    with pytest.raises(RequestError, match="of job ghost: expected the job to be stored first"):
        restore(site.engine, [], [Attempt("ghost", 1, 1, Stage.RUNNING, 0.0, (), {})])


def test_attempt_numbers_rise_over_restarts(new_site: "NewSite") -> None:
    site = new_site(QUEUE)
    site.engine.first_attempt = 3_000_000
    site.submit(job("late"))
    site.turn()

    assert site.engine.works["late"].attempt == 3_000_001
