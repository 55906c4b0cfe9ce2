"""The state of one job in the engine, and what the engine decides about it."""

from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from flyball_aggregator.placement.gangs import Seat
from flyball_aggregator.placement.jobs import Job
from flyball_aggregator.placement.queues import Amount
from flyball_aggregator.placement.refusals import Refusal


class Phase(StrEnum):
    """Where a job is; the last five are final."""

    QUEUED = "QUEUED"
    RESERVED = "RESERVED"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    ERRORED = "ERRORED"
    EXCEEDED_MAX_RUNTIME = "EXCEEDED_MAX_RUNTIME"
    EXCEEDED_MAX_QUEUED = "EXCEEDED_MAX_QUEUED"


FINAL = frozenset(list(Phase)[-5:])
PLACED = frozenset({Phase.RESERVED, Phase.RUNNING, Phase.STOPPING})


@dataclass(slots=True)
class Work:
    """A job with its seats. `after_stop` is the phase it enters when its hosts say that it has stopped."""

    job: Job
    queued_at_s: float
    order: int
    phase: Phase = Phase.QUEUED
    seats: list[Seat] = field(default_factory=list)
    charged: Amount = field(default_factory=Amount)
    attempt: int = 0
    started_at_s: float = 0.0
    deadline_s: float = inf
    after_stop: Phase = Phase.QUEUED
    blocked: Refusal | None = None
    next_seats: list[Seat] = field(default_factory=list)
    lost_hosts: set[int] = field(default_factory=set)
    broken_since_s: float | None = None
    idle_since_s: float | None = None
    shrinking: list[Seat] = field(default_factory=list)
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Reserve, prepare and start this attempt on these seats."""

    job_id: str
    attempt: int
    seats: tuple[Seat, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the job (checkpoint first where it can); beneficiary names who waits for its place."""

    job_id: str
    reason: str
    beneficiary: str | None = None


@dataclass(frozen=True, slots=True)
class Shrink:
    """Stop these seats of an elastic job only."""

    job_id: str
    seats: tuple[Seat, ...]
    beneficiary: str | None = None


@dataclass(frozen=True, slots=True)
class Grow:
    """Start these further seats of an elastic job."""

    job_id: str
    seats: tuple[Seat, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """The job reached a final phase without running on."""

    job_id: str
    phase: Phase
    reason: str


Decision = Start | Stop | Shrink | Grow | Settled
