"""Planned starts for blocked jobs, so that smaller ones behind them cannot keep them waiting for ever."""

from math import isfinite

import numpy as np

from flyball_aggregator.placement.engine import Engine, Hold
from flyball_aggregator.placement.gangs import Seat
from flyball_aggregator.placement.work import Phase, Work


def reserve(engine: Engine, work: Work, now_s: float) -> None:
    """Keep hosts for a blocked job from the earliest time its place comes free by known ends.

    Only the first few blocked jobs get one. Jobs that end before may still use the hosts.
    """
    if work.job.id in engine.holds or work.blocked is None or work.blocked.reason not in {"gpus", "row", "topology"}:
        return
    planned = [owner for owner in engine.holds if not owner.startswith("reuse:")]
    if len(planned) >= engine.settings.backfill_depth:
        return
    found = earliest_start(engine, work, now_s)
    if found is None:
        return
    start_s, seats = found
    mask = np.zeros(len(engine.board.fleet), np.uint8)
    mask[[seat.held.claim.host for seat in seats]] = 1
    engine.holds[work.job.id] = Hold(work.job.id, mask, start_s, work.job.priority, is_backfilled=True)


def earliest_start(engine: Engine, work: Work, now_s: float) -> tuple[float, list[Seat]] | None:
    """Return when known ends make room for a job and where; None where even all of them do not."""
    ends = sorted(
        (other.started_at_s + other.job.max_runtime_s, other.order, other)
        for other in engine.held_by({Phase.RUNNING})
        if isfinite(other.job.max_runtime_s)
    )
    gone = [end[2] for end in ends]
    seats = _after(engine, work, gone, now_s) if ends else None
    if seats is None:
        return None
    low, high = 0, len(ends)  # fails with the first `low` gone, works with the first `high`
    while high - low > 1:
        middle = (low + high) // 2
        found = _after(engine, work, gone[:middle], now_s)
        low, high, seats = (middle, high, seats) if found is None else (low, middle, found)
    return ends[high - 1][0], seats


def _after(engine: Engine, work: Work, gone: list[Work], now_s: float) -> list[Seat] | None:
    mark = engine.overlay.mark()
    for other in gone:
        for seat in other.seats:
            engine.overlay.give(seat.held)
    plan = engine.planner.plan(work.job, engine.terms(work.job, now_s))
    engine.overlay.rollback(mark)
    return plan if isinstance(plan, list) else None
