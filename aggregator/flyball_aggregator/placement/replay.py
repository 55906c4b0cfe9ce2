"""Replay a trace of arrivals against a fleet: the published placement experiment.

Jobs come one at a time and never leave; one that fits nowhere is dropped for good. The host order, which breaks
ties, is drawn anew for each seed.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from flyball_aggregator.placement.board import Board
from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.fleet import Fleet, HostShape
from flyball_aggregator.placement.trace import TraceJob, expected_kinds
from flyball_fast.placement import POLICIES

# Idle and busy watts of a board (CCGrid 2025 PWR, table of models; G2 counts as A10, G3 as A100 as its authors do).
MODEL_WATTS = {
    "T4": (10.0, 70.0),
    "A10": (30.0, 150.0),
    "P100": (25.0, 250.0),
    "V100M16": (30.0, 300.0),
    "V100M32": (30.0, 300.0),
    "G2": (30.0, 150.0),
    "G3": (50.0, 400.0),
}
POWER_WEIGHT = 0.1  # of the power term, per 100 W; chosen on the default trace


@dataclass(frozen=True, slots=True)
class Run:
    """One seed: GPU allocation and kW by integer percent of arrived demand, and the cost."""

    seed: int
    jobs: int
    dropped: int
    allocation_percent: dict[int, float]
    kw: dict[int, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Means over the seeds of a replay."""

    allocation_percent_mean: float
    allocation_percent_sd: float
    kw_at_half_load: float
    seconds: float


def arrivals(jobs: Sequence[TraceJob], capacity_milli: int, demand: float, rng: random.Random) -> list[TraceJob]:
    """Return the stream of one seed: all jobs shuffled, then clones (or removals) until demand x capacity is asked."""
    stream = list(jobs)
    rng.shuffle(stream)
    asked = sum(job.total_milli for job in stream)
    limit = demand * capacity_milli
    while asked > limit:
        asked -= stream.pop(rng.randrange(len(stream))).total_milli
    while asked < limit:
        job = jobs[rng.randrange(len(jobs))]
        if asked + job.total_milli > limit:
            break
        asked += job.total_milli
        stream.append(job)
    return stream


def run_seed(hosts: Sequence[HostShape], jobs: Sequence[TraceJob], policy: str, demand: float, seed: int) -> Run:
    """Place the stream of one seed and return its curves."""
    rng = random.Random(seed)
    stream = arrivals(jobs, sum(host.gpus for host in hosts) * 1000, demand, rng)
    order = list(hosts)
    rng.shuffle(order)
    started_s = time.process_time()
    fleet = Fleet.of(order)
    board = Board(fleet, expected_kinds(jobs), MODEL_WATTS, seed=seed)
    curves = _place_all(board, stream, POLICIES[policy])
    return Run(seed, len(stream), curves[2], curves[0], curves[1], time.process_time() - started_s)


def replay(
    hosts: Sequence[HostShape], jobs: Sequence[TraceJob], policy: str, demand: float, seeds: Sequence[int]
) -> Summary:
    """Return means over the seeds at the full demand, and the power when half the capacity is asked.

    Raises:
        RequestError: the policy is unknown, a list is empty or the demand is not positive.
    """
    if policy not in POLICIES:
        raise RequestError(f"policy {policy!r} is unknown: expected one of {', '.join(POLICIES)}")
    if not (hosts and jobs and seeds) or demand <= 0:
        raise RequestError("expected at least one host, job and seed, and a demand above 0")
    runs = [run_seed(hosts, jobs, policy, demand, seed) for seed in seeds]
    final = [run.allocation_percent[max(run.allocation_percent)] for run in runs]
    half = [run.kw[min(run.kw, key=lambda percent: abs(percent - 50))] for run in runs]
    return Summary(fmean(final), pstdev(final), fmean(half), fmean([run.seconds for run in runs]))


def _place_all(board: Board, stream: Sequence[TraceJob], policy: int) -> tuple[dict[int, float], dict[int, float], int]:
    """Return mean allocation and kW of the events that round to each percent of arrived demand, and the drops."""
    capacity = board.fleet.capacity_milli
    arrived = used = dropped = 0
    seen: dict[int, list[tuple[float, float]]] = {}
    for job in stream:
        request = board.request(job.cpu_milli, job.memory_mib, job.gpus, job.gpu_milli, models=job.models)
        claim = board.pick(policy, request, alpha=POWER_WEIGHT)
        arrived += job.total_milli
        if claim is None:
            dropped += 1
        else:
            board.take(claim)
            used += job.total_milli
        seen.setdefault(round(100 * arrived / capacity), []).append((100 * used / capacity, board.power_w() / 1000))
    allocation = {percent: fmean(part[0] for part in parts) for percent, parts in seen.items()}
    return allocation, {percent: fmean(part[1] for part in parts) for percent, parts in seen.items()}, dropped
