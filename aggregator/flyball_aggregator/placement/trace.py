"""Read published traces of hosts and jobs (CSV) into what a replay needs."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.fleet import WHOLE, HostShape

POPULAR_RATIO = 0.95  # expected jobs: the most frequent specs up to this share (simulator of USENIX ATC'23)


@dataclass(frozen=True, slots=True)
class TraceJob:
    """One arrival: what it asks of a single host; models is empty where any will do."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int
    models: tuple[str, ...]

    @property
    def total_milli(self) -> int:
        """GPU milli asked in all."""
        return self.gpus * self.gpu_milli

    @property
    def spec(self) -> tuple[int, int, int, tuple[str, ...]]:
        """What makes two jobs equal to fragmentation: CPU, GPUs, milli and models."""
        return self.cpu_milli, self.gpus, self.gpu_milli, self.models


@dataclass(frozen=True, slots=True)
class ExpectedKind:
    """A kind of job the fleet should stay able to take, and how often it comes (shares sum to 1)."""

    cpu_milli: int
    gpus: int
    gpu_milli: int
    models: tuple[str, ...]
    share: float


def read_hosts(path: Path) -> list[HostShape]:
    """Return the hosts of a node list: sn, cpu_milli, memory_mib, gpu, model."""
    with path.open(newline="") as file:
        return [
            HostShape(row["sn"], int(row["cpu_milli"]), int(float(row["memory_mib"])), int(row["gpu"]), row["model"])
            for row in _rows(file, path, ("sn", "cpu_milli", "memory_mib", "gpu", "model"))
        ]


def read_jobs(path: Path) -> list[TraceJob]:
    """Return the jobs of a pod list, sorted by name; gpu_spec may be absent."""
    with path.open(newline="") as file:
        rows = _rows(file, path, ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"))
        return sorted((_job(row) for row in rows), key=lambda job: job.name)


def expected_kinds(jobs: Sequence[TraceJob]) -> list[ExpectedKind]:
    """Return the most frequent specs until they cover 95 % of the jobs, shares renormalised."""
    kinds: list[tuple[tuple[int, int, int, tuple[str, ...]], int]] = []
    covered = 0
    for spec, count in sorted(Counter(job.spec for job in jobs).items(), key=lambda item: -item[1]):
        kinds.append((spec, count))
        covered += count
        if covered >= POPULAR_RATIO * len(jobs):
            break
    return [ExpectedKind(*spec, share=count / covered) for spec, count in kinds]


def _rows(file: object, path: Path, columns: tuple[str, ...]) -> "csv.DictReader[str]":
    reader = csv.DictReader(file)  # type: ignore[call-overload]  # an open text file is an iterator of lines
    missing = set(columns) - set(reader.fieldnames or ())
    if missing:
        raise RequestError(f"{path.name}: columns {sorted(missing)} are missing: expected {', '.join(columns)}")
    return reader  # type: ignore[no-any-return]  # follows from the line above


def _job(row: dict[str, str]) -> TraceJob:
    gpus = int(row["num_gpu"])
    milli = min(int(row["gpu_milli"]), WHOLE) if gpus else 0
    models = tuple(part for part in (row.get("gpu_spec") or "").split("|") if part) if gpus else ()
    return TraceJob(row["name"], int(row["cpu_milli"]), int(float(row["memory_mib"])), gpus, milli, models)
