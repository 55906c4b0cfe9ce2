"""What time alone ends: runs, waits, idle GPUs, broken gangs and places kept for somebody."""

from flyball_aggregator.placement.engine import Engine
from flyball_aggregator.placement.rows import STOP_GRACE_S
from flyball_aggregator.placement.work import Decision, Phase, Settled, Stop, Work

LATE_S = 60.0  # a planned start this late is planned anew


def settle(engine: Engine, now_s: float) -> list[Decision]:
    """Return the stops and endings that are due."""
    decisions: list[Decision] = []
    for work in sorted(engine.watched.values(), key=lambda work: work.order):
        if work.phase is Phase.QUEUED and now_s - work.queued_at_s > work.job.max_queued_s:
            engine.ended(work.job.id, now_s, Phase.EXCEEDED_MAX_QUEUED)
            decisions.append(Settled(work.job.id, Phase.EXCEEDED_MAX_QUEUED, "waited longer than it may"))
        elif work.phase is Phase.RUNNING:
            decisions += _running(engine, work, now_s)
    for work in engine.watched.values():
        if now_s >= work.deadline_s + STOP_GRACE_S:
            for seat in work.seats:
                engine.rows.overrun(seat.held.key, now_s)
    for owner, hold in list(engine.holds.items()):
        if hold.until_s + LATE_S * hold.is_backfilled <= now_s:
            engine.drop_hold(owner)
    return decisions


def _running(engine: Engine, work: Work, now_s: float) -> list[Decision]:
    job = work.job
    if now_s - work.started_at_s >= job.max_runtime_s or now_s >= work.deadline_s:
        return [_stop(engine, work, "ran its full time", Phase.EXCEEDED_MAX_RUNTIME)]
    if work.broken_since_s is not None and now_s - work.broken_since_s >= job.broken_grace_s:
        return [_stop(engine, work, "gang stayed broken", Phase.QUEUED)]
    if work.idle_since_s is not None and now_s - work.idle_since_s >= job.idle_limit_s:
        return [_stop(engine, work, "GPUs stayed idle", Phase.CANCELED)]
    return []


def _stop(engine: Engine, work: Work, reason: str, after: Phase) -> Stop:
    engine.stopping(work.job.id, after)
    return Stop(work.job.id, reason)
