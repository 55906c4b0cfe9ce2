"""Make room for blocked jobs: reclaim from queues above their share, preempt below one's priority, consolidate."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from flyball_aggregator.placement.engine import Engine
from flyball_aggregator.placement.gangs import Seat
from flyball_aggregator.placement.victims import Scenario, Unit, search, units_of
from flyball_aggregator.placement.work import Decision, Phase, Shrink, Stop, Work

HOUR_S = 3600.0
BARREN_S = 30.0  # a search that found nobody is not repeated before, unless something came free


def make_room(engine: Engine, blocked: Sequence[Work], fair: dict[str, float], now_s: float) -> list[Decision]:
    """Return the stops that let blocked jobs start; each such job is nominated for the seats that come free."""
    decisions: list[Decision] = []
    engine.disrupted_at_s = [at for at in engine.disrupted_at_s if now_s - at < HOUR_S]
    tried: set[tuple[object, ...]] = set()
    for work in blocked:
        if len(tried) >= engine.settings.evictions_per_tick:
            break
        signature = work.job.signature
        if signature in tried or _is_barren(engine, work, now_s) or not _may_disturb(engine, work, now_s):
            continue
        tried.add(signature)
        found = _for_one(engine, work, fair, now_s)
        if not found:
            engine.barren[signature] = engine.freed, now_s + BARREN_S
        decisions += found
    return decisions


def _for_one(engine: Engine, work: Work, fair: dict[str, float], now_s: float) -> list[Decision]:
    for kind, choose in (("preempt", _below), ("reclaim", _above_share)):
        units = choose(engine, work, fair, now_s)
        accept = partial(_within_budget, engine)
        found = search(engine.planner, work.job, engine.terms(work.job, now_s), units, accept) if units else None
        if found is not None:
            return _nominate(engine, work, found, kind, now_s)
    return _consolidate(engine, work, now_s)


def _is_barren(engine: Engine, work: Work, now_s: float) -> bool:
    freed, until_s = engine.barren.get(work.job.signature, (-1, 0.0))
    return freed == engine.freed and now_s < until_s


def _may_disturb(engine: Engine, work: Work, now_s: float) -> bool:
    """Return True where others may be disturbed for this job: it waited its delay and lacks GPUs, not quota."""
    delay_s = max(work.job.preemption_delay_s, *(spec.preemption_delay_s for spec in engine.tree.path(work.job.queue)))
    reason = "" if work.blocked is None else work.blocked.reason
    is_nominated = work.job.id in engine.nominated
    return now_s - work.queued_at_s >= delay_s and reason in {"gpus", "topology", "row"} and not is_nominated


def _units(engine: Engine, choose: Callable[[Work], bool], now_s: float) -> list[Unit]:
    """Return what may be evicted of the jobs chosen: preemptible ones past their protected time."""
    return [
        unit
        for work in engine.held_by({Phase.RUNNING})
        if work.job.is_preemptible and choose(work) and now_s - work.started_at_s >= _protected_s(engine, work)
        for unit in units_of(work, now_s)
    ]


def _protected_s(engine: Engine, work: Work) -> float:
    return max(work.job.min_runtime_s, *(spec.min_runtime_s for spec in engine.tree.path(work.job.queue)))


def _below(engine: Engine, work: Work, fair: dict[str, float], now_s: float) -> list[Unit]:
    """Return units of lower priority in the job's own queue."""
    del fair
    job = work.job
    return _units(engine, lambda other: other.job.queue == job.queue and other.job.priority < job.priority, now_s)


def _above_share(engine: Engine, work: Work, fair: dict[str, float], now_s: float) -> list[Unit]:
    """Return units of queues above their share, each only down to it, where the job keeps its own queue within its.

    The most saturated queue gives first.
    """
    queue = work.job.queue
    after = (engine.tree.held[queue].milli + work.job.least_gpu_milli) / 1000
    if after > fair.get(queue, 0.0) * engine.settings.reclaim_multiplier + 1e-6:
        return []
    over = {name: engine.tree.held[name].milli / 1000 - fair.get(name, 0.0) for name in engine.tree.leaves()}
    chosen: list[Unit] = []
    for name in sorted((name for name in over if name != queue and over[name] > 1e-6), key=lambda name: -over[name]):
        for unit in sorted(_units(engine, partial(_is_of, name), now_s), key=lambda unit: unit.cost):
            if over[name] <= 1e-6:
                break
            over[name] -= unit.milli / 1000
            chosen.append(unit)
    return chosen


def _is_of(queue: str, work: Work) -> bool:
    return work.job.queue == queue


def _within_budget(engine: Engine, units: Sequence[Unit]) -> bool:
    return len(engine.disrupted_at_s) + len(_jobs(units)) <= engine.settings.disruptions_per_hour


def _jobs(units: Sequence[Unit]) -> set[str]:
    return {unit.work.job.id for unit in units if unit.is_whole}


def _nominate(engine: Engine, work: Work, found: Scenario, kind: str, now_s: float) -> list[Decision]:
    """Send the stops; extra replicas leave alone only where their job stays."""
    decisions: list[Decision] = []
    whole = _jobs(found.units)
    for unit in found.units:
        victim = unit.work
        if unit.is_whole:
            engine.stopping(victim.job.id, Phase.QUEUED)
            engine.disrupted_at_s.append(now_s)
            decisions.append(Stop(victim.job.id, kind, work.job.id))
        elif victim.job.id not in whole:
            victim.shrinking = [*victim.shrinking, *unit.seats]
            decisions.append(Shrink(victim.job.id, unit.seats, work.job.id))
    engine.nominate(work, found.seats, now_s + engine.settings.nomination_ttl_s, now_s)
    return decisions


def _consolidate(engine: Engine, work: Work, now_s: float) -> list[Decision]:
    """Move jobs that allow it, each to a place that is free now, where that lets the blocked job start."""
    units = _units(engine, lambda other: other.job.is_movable and other.job.priority <= work.job.priority, now_s)
    whole = [unit for unit in units if unit.is_whole]
    if not whole or work.blocked is None or work.blocked.reason == "row":
        return []
    accept = partial(_may_move, engine)
    found = search(engine.planner, work.job, engine.terms(work.job, now_s), whole, accept)
    homes = {} if found is None else _find_homes(engine, found, now_s)
    if found is None or len(homes) < len(found.units):
        return []
    until_s = now_s + engine.settings.nomination_ttl_s
    for unit in found.units:
        engine.nominate(unit.work, homes[unit.work.job.id], until_s, now_s)
    return _nominate(engine, work, found, "move", now_s)


def _may_move(engine: Engine, units: Sequence[Unit]) -> bool:
    return len(units) <= engine.settings.moves_per_job and _within_budget(engine, units)


def _find_homes(engine: Engine, found: Scenario, now_s: float) -> dict[str, list[Seat]]:
    """Plan a new place for every job to be moved, off the hosts that are cleared, so that it is free now."""
    cleared = np.zeros(len(engine.board.fleet), np.uint8)
    for unit in found.units:
        cleared[[seat.held.claim.host for seat in unit.seats]] = 1
    cleared[[seat.held.claim.host for seat in found.seats]] = 1
    homes: dict[str, list[Seat]] = {}
    mark = engine.overlay.mark()
    for unit in found.units:
        terms = engine.terms(unit.work.job, now_s)
        allowed = (terms.allowed & (1 - cleared)).astype(np.uint8)
        plan = engine.planner.plan(unit.work.job, replace(terms, allowed=allowed))
        if isinstance(plan, list):
            homes[unit.work.job.id] = plan
    engine.overlay.rollback(mark)
    return homes
