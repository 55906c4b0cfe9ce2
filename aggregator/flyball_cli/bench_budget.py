"""`flyball bench budget --gpus N`: how long one decision of the allocator takes, every solve of it certified.

The fleets are those of power-budgeting.md 5.2: racks of 18 hosts of eight GPUs, PDUs of four racks on A and B feeds at
1.4 times oversubscription with a row for the loss of either, one site row, and 20 overlapping groups; three tiers.
Times are CPU time of this process, one core.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from flyball_aggregator.power.allocate import Wants, allocate
from flyball_aggregator.power.certificate import check_allocation
from flyball_aggregator.power.rows import Floats, Integers, RowMatrix

GPUS_PER_HOST: Final = 8
HOSTS_PER_RACK: Final = 18
RACKS_PER_PDU: Final = 4
GPU_MAXIMUM_W: Final = 1200.0
GPU_MINIMUM_W: Final = 200.0
UNMANAGED_W: Final = 350.0  # of a host for each GPU
GROUPS: Final = 20
TIER_SHARES: Final = (0.3, 0.5, 0.2)
WEIGHTS: Final = (1.0, 2.0, 4.0)


@dataclass(frozen=True, slots=True)
class BenchFleet:
    """One random fleet: rows, room on each, and what its hosts want."""

    matrix: RowMatrix
    room_w: Floats
    wants: Wants
    groups: int


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command below `flyball bench`."""
    parser = subparsers.add_parser("budget", help="time of one budget decision")
    parser.add_argument("--gpus", type=int, default=10_368)
    parser.add_argument("--runs", type=int, default=30, help="solves of each kind of fleet")
    parser.add_argument("--oversubscription", type=float, default=1.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; returns 1 when a certificate fails."""
    result = measure(arguments.gpus, arguments.runs, arguments.oversubscription, arguments.seed)
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:24} {value}" for name, value in result.items()))
    return 1 if result["certificate_failures"] else 0


def measure(gpus: int, runs: int, oversubscription: float = 1.4, seed: int = 0) -> dict[str, Any]:
    """Return the times and the certificates of fleets with ordinary demand and with everyone wanting everything."""
    ordinary = _solve_many(gpus, runs, oversubscription, seed, is_greedy=False)
    greedy = _solve_many(gpus, runs, oversubscription, seed, is_greedy=True)
    return {
        "gpus": ordinary.gpus,
        "hosts": ordinary.gpus // GPUS_PER_HOST,
        "rows": ordinary.rows,
        "groups": GROUPS,
        "runs": 2 * runs,
        "solve_ms_p50": _quantile(ordinary.times_ms, 0.5),
        "solve_ms_p95": _quantile(ordinary.times_ms, 0.95),
        "greedy_solve_ms_p50": _quantile(greedy.times_ms, 0.5),
        "greedy_solve_ms_p95": _quantile(greedy.times_ms, 0.95),
        "granted_ratio": round(ordinary.granted_ratio, 4),
        "greedy_granted_ratio": round(greedy.granted_ratio, 4),
        "certificate_failures": ordinary.failures + greedy.failures,
        "cores": os.cpu_count(),
    }


def build_bench_fleet(gpus: int, oversubscription: float, seed: int, *, is_greedy: bool) -> BenchFleet:
    """Return a random fleet with about this many GPUs, a whole number of hosts."""
    random = np.random.default_rng(seed)
    hosts = max(1, gpus // GPUS_PER_HOST)
    members, coefficients, room_w = _rows(random, hosts, oversubscription)
    lengths = [len(item) for item in members]
    matrix = RowMatrix(
        hosts=hosts,
        rows=len(members),
        row=np.repeat(np.arange(len(members), dtype=np.int64), lengths),
        host=np.concatenate(members),
        coefficient=np.repeat(np.array(coefficients), lengths),
        start=np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)]),
    )
    return BenchFleet(matrix, np.array(room_w), _wants(random, hosts, is_greedy=is_greedy), GROUPS)


def _rows(
    random: np.random.Generator, hosts: int, oversubscription: float
) -> tuple[list[Integers], list[float], list[float]]:
    """Return members, coefficient and room of each row: racks, A/B feeds with their losses, site, groups."""
    rack = np.arange(hosts) // HOSTS_PER_RACK
    pdu = rack // RACKS_PER_PDU
    full_w = GPUS_PER_HOST * (GPU_MAXIMUM_W + UNMANAGED_W)
    own_w = GPUS_PER_HOST * UNMANAGED_W
    members: list[Integers] = []
    coefficients: list[float] = []
    room_w: list[float] = []
    for number in range(int(rack[-1]) + 1):
        inside = np.flatnonzero(rack == number)
        members.append(inside)
        coefficients.append(1.0)
        room_w.append(len(inside) * (0.97 * full_w - own_w))
    for number in range(int(pdu[-1]) + 1):
        inside = np.flatnonzero(pdu == number)
        feed_w = len(inside) * full_w / oversubscription
        for _feed in ("a", "b"):  # normal at 80 % of each; then either alone
            members += [inside, inside]
            coefficients += [0.5, 1.0]
            room_w += [0.8 * feed_w - 0.5 * len(inside) * own_w, feed_w - len(inside) * own_w]
    members.append(np.arange(hosts))
    coefficients.append(1.0)
    room_w.append(hosts * (full_w / oversubscription * 0.985 - own_w))
    for _group in range(GROUPS):
        inside = np.sort(random.choice(hosts, min(hosts, max(2, hosts // 40)), replace=False))
        members.append(inside)
        coefficients.append(1.0)
        room_w.append(len(inside) * GPUS_PER_HOST * GPU_MAXIMUM_W * random.uniform(0.55, 1.0))
    return members, coefficients, room_w


def _wants(random: np.random.Generator, hosts: int, *, is_greedy: bool) -> Wants:
    low_w = np.full(hosts, GPUS_PER_HOST * GPU_MINIMUM_W)
    high_w = np.full(hosts, GPUS_PER_HOST * GPU_MAXIMUM_W)
    drawn = np.clip(random.beta(2.0, 1.6, (hosts, GPUS_PER_HOST)) * GPU_MAXIMUM_W * 1.1, GPU_MINIMUM_W, GPU_MAXIMUM_W)
    return Wants(
        minimum_w=low_w,
        floor_w=low_w,
        demand_w=high_w if is_greedy else drawn.sum(axis=1),
        ceiling_w=high_w,
        weight=random.choice(WEIGHTS, hosts),
        tier=random.choice(len(TIER_SHARES), hosts, p=TIER_SHARES).astype(np.int64),
    )


@dataclass(frozen=True, slots=True)
class _Solved:
    gpus: int
    rows: int
    times_ms: list[float]
    failures: int
    granted_ratio: float


def _solve_many(gpus: int, runs: int, oversubscription: float, seed: int, *, is_greedy: bool) -> _Solved:
    times_ms, failures, ratios = [], 0, []
    rows = hosts = 0
    for number in range(runs):
        fleet = build_bench_fleet(gpus, oversubscription, seed + number, is_greedy=is_greedy)
        started_s = time.process_time()
        allocation = allocate(fleet.matrix, fleet.room_w, fleet.wants)
        times_ms.append((time.process_time() - started_s) * 1000.0)
        failures += check_allocation(fleet.matrix, fleet.room_w, fleet.wants, allocation).failures
        ratios.append(float(allocation.granted_w.sum() / fleet.wants.demand_w.sum()))
        rows, hosts = fleet.matrix.rows, fleet.matrix.hosts
    return _Solved(hosts * GPUS_PER_HOST, rows, times_ms, failures, float(np.mean(ratios)))


def _quantile(times_ms: list[float], quantile: float) -> float:
    return round(float(np.quantile(times_ms, quantile)), 3)
