"""`flyball bench place`: time placement decisions on a large empty site; decision time only, no host is asked."""

import argparse
import json
import random
import sys
import time
from dataclasses import asdict, dataclass

from flyball_aggregator.placement.board import Board
from flyball_aggregator.placement.cycle import tick
from flyball_aggregator.placement.engine import Engine, EngineSettings
from flyball_aggregator.placement.fleet import Fleet, HostShape
from flyball_aggregator.placement.jobs import Draw, Group, Job, Member, Wish, single
from flyball_aggregator.placement.queues import Bound, QueueSpec, QueueTree
from flyball_aggregator.placement.rehearsal import Rehearsal
from flyball_aggregator.placement.rows import PowerRow, RowLedger
from flyball_aggregator.placement.topology import Topology
from flyball_aggregator.placement.trace import ExpectedKind
from flyball_aggregator.placement.work import Start, Stop

DRAW = Draw(pred_w=650.0, floor_w=300.0, max_slowdown=1.5)
MIX = (  # share of arrivals, member
    (0.2, Member(gpu_milli=250, cpu_milli=4_000)),
    (0.4, Member(cpu_milli=12_000)),
    (0.15, Member(gpus=2, cpu_milli=24_000)),
    (0.15, Member(gpus=4, cpu_milli=48_000)),
    (0.1, Member(gpus=8, cpu_milli=96_000)),
)
DECISIONS, GANGS = 2_000, 20


@dataclass(frozen=True, slots=True)
class Figures:
    """CPU milliseconds of the deciding process; percentiles leave out the first decision of each kind of job."""

    hosts: int
    gpus_per_host: int
    single_p50_ms: float
    single_p99_ms: float
    single_first_ms: float
    gang_64_p50_ms: float
    gang_64_max_ms: float
    reclaim_ms: float
    reclaim_stops: int
    note: str = "decision time on one core; no API, broker or host in it"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `place` under `bench`."""
    parser = subparsers.add_parser("place", help="time placement decisions")
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of each host")
    parser.add_argument("--reclaim-hosts", type=int, default=500, help="hosts of 8 GPUs, half of them reclaimed")
    parser.add_argument("--rehearse", type=int, default=0, metavar="SEEDS", help="also rehearse this many random sites")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and return 0; 1 where a rehearsal broke a rule."""
    broken = rehearse(arguments.rehearse)
    figures = {
        **asdict(measure(arguments.hosts, arguments.gpus, arguments.reclaim_hosts)),
        "rehearsals": arguments.rehearse,
        "broken": broken,
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        print("\n".join(f"{name:20} {value}" for name, value in figures.items()))
    return 1 if broken else 0


def rehearse(seeds: int) -> int:
    """Return how many of the seeds broke a rule; each is named on stderr."""
    broken = 0
    for seed in range(seeds):
        try:
            Rehearsal(seed).run(250)
        except AssertionError as error:
            broken += 1
            print(f"rehearsal seed {seed}: {error}", file=sys.stderr)
    return broken


def measure(hosts: int, gpus: int, reclaim_hosts: int) -> Figures:
    """Return the figures of an empty site that fills, and of a full one that must give half its GPUs back."""
    engine = new_site(hosts, gpus)
    singles, firsts = _singles(engine, gpus)
    gangs = _gangs(engine, gpus)
    reclaim_ms, stops = _reclaim(reclaim_hosts)
    return Figures(
        hosts=hosts,
        gpus_per_host=gpus,
        single_p50_ms=_percentile(singles, 0.5),
        single_p99_ms=_percentile(singles, 0.99),
        single_first_ms=max(firsts),
        gang_64_p50_ms=_percentile(gangs, 0.5),
        gang_64_max_ms=max(gangs),
        reclaim_ms=reclaim_ms,
        reclaim_stops=stops,
    )


def new_site(hosts: int, gpus: int, queues: tuple[QueueSpec, ...] = ()) -> Engine:
    """Return an empty site: racks of 4, leaves of 64, spines of 1,024; a row for each rack, PDU, feed and the site."""
    shapes = [
        HostShape(f"h{n:05}", 128_000, 2_000_000, gpus, "H100", 81_920, (f"r{n // 4}", f"l{n // 64}", f"s{n // 1024}"))
        for n in range(hosts)
    ]
    board_w = 700.0 * gpus * 1.27
    of_host = [
        {"site": 1.27, f"feed{n // 1000}": 1.27, f"pdu{n // 100}": 1.27, f"rack{n // 4}": 1.27} for n in range(hosts)
    ]
    spans = {"site": hosts, "feed": 1000, "pdu": 100, "rack": 4}
    names = list(dict.fromkeys(name for rows in of_host for name in rows))
    rows = [PowerRow(name, 0.95 * board_w * spans[name.rstrip("0123456789")]) for name in names]
    kinds = [ExpectedKind(m.cpu_milli, m.gpus, m.gpu_milli, (), share) for share, m in MIX if m.gpus <= gpus]
    fleet = Fleet.of(shapes)
    board = Board(fleet, kinds, {"H100": (60.0, 700.0)})
    tree = QueueTree.of(queues or [QueueSpec("all", quota=Bound(float(hosts * gpus)))])
    topology = Topology(fleet, ("rack", "leaf", "spine"))
    return Engine(board, RowLedger.of(rows, of_host), tree, topology, EngineSettings())


def _singles(engine: Engine, gpus: int) -> tuple[list[float], list[float]]:
    rng = random.Random(1)
    kinds = [(share, member) for share, member in MIX if member.gpus <= gpus]
    seen: set[Member] = set()
    usual: list[float] = []
    firsts: list[float] = []
    for number in range(DECISIONS):
        member = rng.choices([part[1] for part in kinds], [part[0] for part in kinds])[0]
        job = single(f"single{number}", "all", member, draw=DRAW)
        (usual if member in seen else firsts).append(_decide(engine, job))
        seen.add(member)
    return usual, firsts


def _gangs(engine: Engine, gpus: int) -> list[float]:
    member = Member(gpus=gpus, cpu_milli=96_000)
    wish = Wish(required="spine", preferred="leaf")
    gangs = [
        Job(f"gang{n}", "all", Group("main", member=member, count=64, topology=wish, draw=DRAW)) for n in range(GANGS)
    ]
    return [_decide(engine, job) for job in gangs]


def _decide(engine: Engine, job: Job) -> float:
    """Return the CPU milliseconds from a queued job to its seats: one whole turn of the engine."""
    engine.submit(job, 0.0)
    started_s = time.process_time()
    decisions = tick(engine, 0.0)
    spent_ms = 1000 * (time.process_time() - started_s)
    for decision in decisions:
        if isinstance(decision, Start):
            engine.started(decision.job_id, 0.0)
    return spent_ms


def _reclaim(hosts: int) -> tuple[float, int]:
    """Fill hosts with one-GPU jobs of one queue, then let another claim half of all GPUs as one gang."""
    engine = new_site(hosts, 8, (QueueSpec("greedy"), QueueSpec("starved")))
    for number in range(8 * hosts):
        engine.submit(single(f"one{number}", "greedy", Member()), 0.0)
    for decision in tick(engine, 0.0):
        engine.started(decision.job_id, 0.0)
    engine.submit(Job("hero", "starved", Group("main", member=Member(gpus=8), count=hosts // 2)), 0.0)
    started_s = time.process_time()
    decisions = tick(engine, 10.0)
    return 1000 * (time.process_time() - started_s), sum(isinstance(decision, Stop) for decision in decisions)


def _percentile(values: list[float], ratio: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(ratio * len(ordered)))]
