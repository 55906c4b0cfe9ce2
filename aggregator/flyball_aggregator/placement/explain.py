"""Explain a placement: all terms of the best five hosts, and the first constraint that shuts out each class of host."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from flyball_aggregator.placement.engine import Engine
from flyball_aggregator.placement.gangs import charged_until
from flyball_aggregator.placement.jobs import Group, Job
from flyball_aggregator.placement.needs import Need, Terms, board_request, members_that_fit, role_need, row_view
from flyball_aggregator.placement.rows import MILLI

BEST = 5


@dataclass(frozen=True, slots=True)
class HostTerms:
    """Why a host stands where it does: the rounded score, then the tie-break and the penalty taken off it."""

    host: str
    level: float
    tie: float
    fragmentation_milli: float
    watts_saved: float
    penalty: float
    row_room_w: dict[str, float]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The hosts a role would get, best first, and how many hosts each first-failing constraint shuts out."""

    role: str
    best: tuple[HostTerms, ...]
    rejected: dict[str, int]


def explain(engine: Engine, job: Job, now_s: float) -> list[Explanation]:
    """Return one explanation for each role of a job; nothing is taken."""
    terms = engine.terms(job, now_s)
    return [_role(engine, job, role, terms) for role in job.gang.roles()]


def _role(engine: Engine, job: Job, role: Group, terms: Terms) -> Explanation:
    need = role_need(role, engine.board.idle_w, engine.board.busy_w, terms)
    reasons = _first_failing(engine, job, role, terms, need)
    request = board_request(engine.overlay, role.asked)
    rated = []
    for host in [number for number, reason in enumerate(reasons) if not reason]:
        level, tie, milli, watts = engine.board.scorer.terms(terms.policy, request, host, terms.alpha)
        penalty = float(terms.penalty[host])
        rated.append(
            (
                -level,
                -(tie - penalty),
                host,
                HostTerms(
                    engine.board.fleet.names[host], level, tie, milli, watts, penalty, _rooms(engine, host, terms.now_s)
                ),
            )
        )
    best = tuple(entry[3] for entry in sorted(rated, key=lambda entry: entry[:3])[:BEST])
    return Explanation(role.name, best, dict(Counter(reason for reason in reasons if reason)))


def _first_failing(engine: Engine, job: Job, role: Group, terms: Terms, need: Need) -> list[str]:
    """Return the first failing constraint of each host, empty where it would do."""
    fleet, member = engine.board.fleet, role.asked
    reasons = np.full(len(fleet), "", object)
    view = row_view(engine.overlay, need, terms, charged_until(job, terms.now_s))
    asks = view.share * need.add_w[fleet.model][:, None]
    room = np.where(view.rows >= 0, view.room_w[view.rows], np.inf) if len(view.room_w) else np.full(asks.shape, np.inf)
    for host, column in zip(*np.nonzero(asks > room), strict=True):
        reasons[host] = reasons[host] or f"row {engine.rows.names[view.rows[host, column]]}"
    free = ((fleet.gpu_left >= member.gpu_milli) & (fleet.gpu_memory_left >= member.gpu_memory_mib)).sum(axis=1)
    reasons[members_that_fit(fleet, member) <= 0] = "gpus"
    reasons[free >= member.gpus] = np.where(
        members_that_fit(fleet, member)[free >= member.gpus] <= 0, "cpu or memory", reasons[free >= member.gpus]
    )
    reasons[fleet.cpu_left < member.cpu_milli] = "cpu"
    reasons[fleet.memory_left < member.memory_mib] = "memory"
    if member.models:
        reasons[~np.isin(np.array(fleet.models, object)[fleet.model], member.models)] = "model"
    reasons[(terms.allowed == 0) & (fleet.ready != 0)] = "kept for others"
    for host in np.nonzero(fleet.ready == 0)[0]:
        reasons[host] = f"closed: {fleet.blocked_by.get(int(host), 'unknown')}"
    return [str(reason) for reason in reasons]


def _rooms(engine: Engine, host: int, now_s: float) -> dict[str, float]:
    room = engine.rows.room_mw(now_s)
    return {engine.rows.names[row]: float(room[row]) / MILLI for row in engine.rows.rows[host].tolist() if row >= 0}
