"""One turn of the engine: settle what ran out, seat what was promised a place, then the queues in fair order."""

import heapq
from collections.abc import Iterator

import numpy as np

from flyball_aggregator.placement import evictions, expiry, reservations
from flyball_aggregator.placement.engine import Engine
from flyball_aggregator.placement.gangs import Seat
from flyball_aggregator.placement.jobs import Group, Job
from flyball_aggregator.placement.needs import Terms
from flyball_aggregator.placement.queues import Amount, dominant_share
from flyball_aggregator.placement.refusals import Refusal
from flyball_aggregator.placement.rows import MILLI
from flyball_aggregator.placement.shares import fair_gpus
from flyball_aggregator.placement.work import Decision, Grow, Phase, Start, Work

CAP_STEPS = (1.0, 0.75, 0.5, 0.25, 0.0)  # where a cap may lie between least allowed and predicted draw


def tick(engine: Engine, now_s: float) -> list[Decision]:
    """Decide what to do now. The caller carries the decisions out and tells the engine what came of them."""
    engine.freed += engine.rows.forget_past(now_s)
    fair = fair_shares(engine, now_s)
    decisions: list[Decision] = expiry.settle(engine, now_s)
    decisions += seat_nominated(engine, now_s)
    blocked: list[Work] = []
    for work in in_turn(engine, fair):
        if work.job.id in engine.nominated:
            continue
        plan = try_job(engine, work, now_s)
        if isinstance(plan, Refusal):
            work.blocked = plan
            blocked.append(work)
            reservations.reserve(engine, work, now_s)
        else:
            decisions.append(plan)
    decisions += evictions.make_room(engine, blocked, fair, now_s)
    return decisions + grow(engine, now_s, has_waiting=bool(blocked))


def fair_shares(engine: Engine, now_s: float) -> dict[str, float]:
    """Return each queue's fair share of GPUs now, and let past use fade."""
    leaves = engine.tree.leaves()
    held = {name: engine.tree.held[name].milli / 1000 for name in leaves}
    watts = {name: engine.tree.held[name].milliwatts / MILLI for name in leaves}
    engine.usage.advance(now_s, held, watts)
    wanted = dict(held)
    for work in engine.pending():
        wanted[work.job.queue] += work.job.least_gpu_milli / 1000
    gpus = engine.board.fleet.capacity_milli / 1000
    past = engine.usage.past(gpus, gpus * float(engine.board.busy_w.max(initial=0.0)))
    return fair_gpus(engine.tree, gpus, wanted, past)


def in_turn(engine: Engine, fair: dict[str, float]) -> Iterator[Work]:
    """Yield waiting jobs: always from the queue that has least of its fair share, there by priority, then age."""
    lines: dict[str, list[Work]] = {}
    for work in engine.pending():
        lines.setdefault(work.job.queue, []).append(work)
    for line in lines.values():
        line.sort(key=lambda work: (-work.job.priority, work.queued_at_s, work.order), reverse=True)
    heap = [(_saturation(engine, name, fair), name) for name in lines]
    heapq.heapify(heap)
    while heap:
        _, name = heapq.heappop(heap)
        yield lines[name].pop()
        if lines[name]:
            heapq.heappush(heap, (_saturation(engine, name, fair), name))


def try_job(engine: Engine, work: Work, now_s: float) -> Start | Refusal:
    """Seat a waiting job, at a lower cap where its objective allows and the watts demand it."""
    job = work.job
    known = engine.hopeless.get(job.signature)
    if known is not None and known[0] == engine.freed and job.id not in engine.holds:
        return known[1]
    amount = engine.amount(job)
    full = engine.tree.refusal(job.queue, amount, is_firm=not job.is_preemptible)
    plan = Refusal("quota", full) if full is not None else _plan(engine, job, now_s)
    if isinstance(plan, Refusal):
        engine.hopeless[job.signature] = (engine.freed, plan)
        return plan
    engine.seat(work, plan, amount)
    engine.drop_hold(job.id)
    return _start(engine, work)


def seat_nominated(engine: Engine, now_s: float) -> list[Decision]:
    """Seat jobs whose place is being cleared, seat by seat as it comes free; give up after the nomination's time."""
    starts: list[Decision] = []
    for job_id, (_, until_s) in list(engine.nominated.items()):
        work = engine.works[job_id]
        is_complete = engine.take_nominated(work, now_s)
        if work.phase is Phase.STOPPING:
            continue
        amount = engine.amount(work.job)
        full = engine.tree.refusal(work.job.queue, amount, is_firm=not work.job.is_preemptible)
        if is_complete and full is None:
            starts.append(_move_in(engine, work, amount))
        elif now_s >= until_s or is_complete:
            engine.unnominate(work)
    return starts


def grow(engine: Engine, now_s: float, *, has_waiting: bool) -> list[Decision]:
    """Give elastic jobs one more replica each while nobody waits."""
    if has_waiting:
        return []
    grown: list[Decision] = []
    for work in engine.elastic():
        for role in work.job.gang.roles():
            seats = _extra(engine, work, role, now_s) if role.most > role.least else None
            if seats:
                grown.append(Grow(work.job.id, tuple(seats)))
    return grown


def _plan(engine: Engine, job: Job, now_s: float) -> list[Seat] | Refusal:
    """Plan at predicted draw, then at lower caps down to what the objective allows; reused places come first."""
    first: Refusal | None = None
    steps = CAP_STEPS if any(role.draw is not None for role in job.gang.roles()) else CAP_STEPS[:1]
    for step in steps:
        terms = engine.terms(job, now_s, cap_ratio=step)
        engine.plans_made += 1
        plan = _plan_reused(engine, job, terms) or engine.planner.plan(job, terms)
        if isinstance(plan, list):
            return plan
        first = first or plan
        if plan.reason != "row":
            break
    return first or Refusal("topology", "no plan was tried")


def _plan_reused(engine: Engine, job: Job, terms: Terms) -> list[Seat] | None:
    """Plan on the hosts the job's predecessor had, which are still kept for it."""
    hosts = engine.last_hosts.get(job.reuse or "")
    if not hosts:
        return None
    mask = np.zeros(len(engine.board.fleet), np.uint8)
    mask[hosts] = 1
    own = engine.holds.pop(f"reuse:{job.reuse}", None)
    kept = Terms(
        terms.policy, mask & engine.board.fleet.ready, terms.penalty, terms.now_s, terms.alpha, terms.cap_ratio
    )
    plan = engine.planner.plan(job, kept)
    if isinstance(plan, list):
        del engine.last_hosts[job.reuse or ""]
        return plan
    if own is not None:
        engine.holds[own.owner] = own
    return None


def _extra(engine: Engine, work: Work, role: Group, now_s: float) -> list[Seat] | None:
    present = {seat.replica for seat in work.seats if seat.role == role.name}
    free = next((number for number in range(role.most) if number not in present), None)
    amount = engine.role_amount(role, role.count)
    if free is None or work.shrinking or engine.tree.refusal(work.job.queue, amount, is_firm=False) is not None:
        return None
    seats = engine.planner.grow(work.job, role, free, engine.terms(work.job, now_s))
    if seats is not None:
        engine.seat(work, seats, amount)
    return seats


def _saturation(engine: Engine, name: str, fair: dict[str, float]) -> tuple[float, int]:
    """Return how much of its fair share a queue has, in GPUs or watts, whichever is more; then its priority."""
    gpus = engine.board.fleet.capacity_milli / 1000
    total = {"gpus": gpus, "watts": gpus * float(engine.board.busy_w.max(initial=0.0))}
    share = dominant_share(engine.tree.held[name], total) * gpus
    return share / max(fair.get(name, 0.0), 1e-9), -engine.tree.specs[name].priority


def _start(engine: Engine, work: Work) -> Start:
    work.attempt = max(work.attempt, engine.first_attempt) + 1
    engine.enter(work, Phase.RESERVED)
    work.score = engine.topology.score([seat.held.claim.host for seat in work.seats])
    return Start(work.job.id, work.attempt, tuple(work.seats))


def _move_in(engine: Engine, work: Work, amount: Amount) -> Start:
    """Turn the seats kept for a job into its own; the tenancy noted them when they were taken."""
    work.seats, work.next_seats = work.next_seats, []
    del engine.nominated[work.job.id]
    engine.charge(work, amount)
    engine.drop_hold(work.job.id)
    return _start(engine, work)
