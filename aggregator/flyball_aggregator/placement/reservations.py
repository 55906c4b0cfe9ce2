"""Planned starts for blocked jobs, so that smaller ones behind them cannot keep them waiting for ever."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from flyball_aggregator.placement.board import Floats
from flyball_aggregator.placement.engine import Engine, Hold
from flyball_aggregator.placement.gangs import Seat
from flyball_aggregator.placement.rows import MILLI
from flyball_aggregator.placement.work import Phase, Work


def reserve(engine: Engine, work: Work, now_s: float) -> None:
    """Keep hosts and watts for a blocked job from the earliest time its place comes free by known ends.

    Only the first few blocked jobs get one. Jobs that end before may still use the hosts. A job for which known ends
    do not suffice is not planned again until something else comes free.
    """
    job = work.job
    if job.id in engine.holds or work.blocked is None or work.blocked.reason not in {"gpus", "row", "topology"}:
        return
    planned = [owner for owner in engine.holds if not owner.startswith("reuse:")]
    if len(planned) >= engine.settings.backfill_depth or engine.unplannable.get(job.signature) == engine.freed:
        return
    start = earliest_start(engine, work, now_s)
    if start is None:
        engine.unplannable[job.signature] = engine.freed
        return
    mask = np.zeros(len(engine.board.fleet), np.uint8)
    mask[[seat.held.claim.host for seat in start.seats]] = 1
    engine.holds[job.id] = Hold(job.id, mask, start.at_s, job.priority, is_backfilled=True, watts=start.watts)


@dataclass(frozen=True, slots=True)
class PlannedStart:
    """When and where a blocked job can start, and the watts of each row it will add to what is charged now."""

    at_s: float
    seats: list[Seat]
    watts: Floats


def earliest_start(engine: Engine, work: Work, now_s: float) -> PlannedStart | None:
    """Return when known ends make room for a job and where; None where even all of them do not."""
    ends = sorted(
        (now_s if other.phase is Phase.STOPPING else other.started_at_s + other.job.max_runtime_s, other.order, other)
        for other in engine.held_by((Phase.RUNNING, Phase.STOPPING))
        if other.phase is Phase.STOPPING or isfinite(other.job.max_runtime_s)
    )
    gone = [end[2] for end in ends]
    best = _after(engine, work, gone, now_s) if ends else None
    if best is None:
        return None
    low, high = 0, len(ends)  # fails with the first `low` gone, works with the first `high`
    while high - low > 1:
        middle = (low + high) // 2
        found = _after(engine, work, gone[:middle], now_s)
        low, high, best = (middle, high, best) if found is None else (low, middle, found)
    return PlannedStart(ends[high - 1][0], *best)


def _after(engine: Engine, work: Work, gone: list[Work], now_s: float) -> tuple[list[Seat], Floats] | None:
    mark = engine.overlay.mark()
    before_mw = engine.rows.committed_mw.copy()
    for other in gone:
        for seat in other.seats:
            engine.overlay.give(seat.held)
    plan = engine.planner.plan(work.job, engine.terms(work.job, now_s))
    added_w = np.maximum(engine.rows.committed_mw - before_mw, 0) / MILLI
    engine.overlay.rollback(mark)
    return (plan, added_w) if isinstance(plan, list) else None
