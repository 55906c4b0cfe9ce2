"""Small fleets, and the folder of published traces where it is present."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flyball_aggregator.placement.board import Board
from flyball_aggregator.placement.cycle import tick
from flyball_aggregator.placement.engine import Engine, EngineSettings
from flyball_aggregator.placement.fleet import Fleet, HostShape
from flyball_aggregator.placement.jobs import Job
from flyball_aggregator.placement.queues import Bound, QueueSpec, QueueTree
from flyball_aggregator.placement.rows import PowerRow, RowLedger
from flyball_aggregator.placement.topology import Topology
from flyball_aggregator.placement.trace import ExpectedKind
from flyball_aggregator.placement.work import Decision, Phase, Shrink, Start, Stop

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def openb() -> Path:
    """The published hosts and jobs; the test is skipped, with the reason, where they are absent."""
    root = Path(os.environ.get("FLYBALL_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (root / "openb").is_dir():
        pytest.skip(f"no published traces at {root / 'openb'}: set FLYBALL_SHARED_DATA")
    return root / "openb"


@pytest.fixture
def hosts() -> list[HostShape]:
    """Two leaves of two racks of two hosts with four GPUs each."""
    return [
        HostShape(
            name=f"h{number}",
            cpu_milli=64_000,
            memory_mib=512_000,
            gpus=4,
            model="H100",
            gpu_memory_mib=81_920,
            domains=(f"rack{number // 2}", f"leaf{number // 4}"),
            numa_of=(0, 0, 1, 1),
        )
        for number in range(8)
    ]


class Site:
    """An engine on eight hosts, and hands that carry its decisions out at once."""

    def __init__(
        self,
        hosts: list[HostShape],
        queues: list[QueueSpec],
        row_limit_w: float = 1e6,
        settings: EngineSettings | None = None,
    ) -> None:
        fleet = Fleet.of(hosts)
        board = Board(fleet, KINDS, {"H100": (60.0, 700.0)})
        rows = [PowerRow("site", row_limit_w, reserve_ratio=0.0), *(PowerRow(f"pdu{n}", 1e6) for n in range(2))]
        ledger = RowLedger.of(rows, [{"site": 1.0, f"pdu{number // 4}": 1.0} for number in range(len(hosts))])
        self.engine = Engine(board, ledger, QueueTree.of(queues), Topology(fleet, ("rack", "leaf")), settings)
        self.now_s = 0.0

    def submit(self, *jobs: Job) -> None:
        for job in jobs:
            self.engine.submit(job, self.now_s)

    def turn(self, seconds: float = 0.0) -> list[Decision]:
        """Let time pass, decide, and have every host say yes."""
        self.now_s += seconds
        decisions = tick(self.engine, self.now_s)
        for decision in decisions:
            if isinstance(decision, Start):
                self.engine.started(decision.job_id, self.now_s)
            elif isinstance(decision, Stop):
                self.engine.stopped(decision.job_id, self.now_s)
            elif isinstance(decision, Shrink):
                self.engine.shrunk(decision.job_id)
        return decisions

    def phase(self, job_id: str) -> Phase:
        return self.engine.works[job_id].phase

    def hosts_of(self, job_id: str) -> list[int]:
        return [seat.held.claim.host for seat in self.engine.works[job_id].seats]


NewSite = Callable[..., Site]

KINDS = [ExpectedKind(4000, 1, 1000, (), 0.6), ExpectedKind(8000, 4, 1000, (), 0.4)]


@pytest.fixture
def new_site(hosts: list[HostShape]) -> NewSite:
    """Make a site; without queues given there is one that may take everything."""

    def make(*queues: QueueSpec, row_limit_w: float = 1e6, settings: EngineSettings | None = None) -> Site:
        return Site(hosts, list(queues) or [QueueSpec("all", quota=Bound(32.0))], row_limit_w, settings)

    return make
