"""Rebuild the engine after a restart from what was stored: jobs with their intent, and attempts with their seats."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

from flyball_aggregator.placement.commit import Attempt, Stage
from flyball_aggregator.placement.engine import Engine
from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.fleet import Claim, Fleet
from flyball_aggregator.placement.gangs import Seat
from flyball_aggregator.placement.jobs import Job
from flyball_aggregator.placement.rows import STOP_GRACE_S
from flyball_aggregator.placement.work import FINAL, Phase


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What is stored of a job: itself, its phase, where it goes after a stop under way, when it started."""

    job: Job
    phase: Phase
    after_stop: Phase = Phase.QUEUED
    queued_at_s: float = 0.0
    started_at_s: float = 0.0
    deadline_s: float = inf


PHASE_OF = {
    Stage.PREPARING: Phase.RESERVED,
    Stage.STARTING: Phase.RESERVED,
    Stage.RUNNING: Phase.RUNNING,
    Stage.STOPPING: Phase.STOPPING,
    Stage.ROLLING_BACK: Phase.RESERVED,
}


def seat_record(seat: Seat, fleet: Fleet) -> dict[str, object]:
    """Return a seat as plain data: what the store keeps and the host is told."""
    claim = seat.held.claim
    return {
        "role": seat.role,
        "replica": seat.replica,
        "rank": seat.rank,
        "host": fleet.names[claim.host],
        "gpus": list(claim.gpus),
        "gpu_milli": claim.gpu_milli,
        "gpu_memory_mib": claim.gpu_memory_mib,
        "cpu_milli": claim.cpu_milli,
        "memory_mib": claim.memory_mib,
        "cap_w": seat.cap_w,
        "row_mw": [list(line) for line in seat.charge.lines],
    }


def records_by_host(seats: Iterable[Seat], fleet: Fleet) -> dict[str, tuple[dict[str, object], ...]]:
    """Return the seats of a plan grouped by host, as `Committer.begin` takes them."""
    grouped: dict[str, list[dict[str, object]]] = {}
    for seat in seats:
        grouped.setdefault(fleet.names[seat.held.claim.host], []).append(seat_record(seat, fleet))
    return {host: tuple(records) for host, records in grouped.items()}


def restore(engine: Engine, records: Iterable[JobRecord], attempts: Iterable[Attempt]) -> None:
    """Fill an empty engine; a job whose attempt is still stored keeps its seats and watts until hosts let go.

    Raises:
        RequestError: an attempt names a job that is not stored.
    """
    for record in records:
        work = engine.submit(record.job, record.queued_at_s)
        work.started_at_s, work.after_stop = record.started_at_s, record.after_stop
        work.deadline_s = record.deadline_s
        engine.enter(work, record.phase if record.phase in FINAL else Phase.QUEUED)
    for attempt in attempts:
        if attempt.job_id not in engine.works:
            raise RequestError(
                f"attempt {attempt.attempt} of job {attempt.job_id}: expected the job to be stored first"
            )
        _adopt(engine, attempt)


def _adopt(engine: Engine, attempt: Attempt) -> None:
    work = engine.works[attempt.job_id]
    end_s = work.deadline_s + STOP_GRACE_S
    seats = [_seat(engine, work.job, record, end_s) for records in attempt.seats.values() for record in records]
    roles = {role.name: role for role in work.job.gang.roles()}
    engine.seat(work, seats, engine.amount(work.job))
    for seat in seats:
        if seat.replica >= roles[seat.role].least:
            engine.charge(work, engine.role_amount(roles[seat.role], 1))
    work.attempt = attempt.attempt
    if work.phase not in FINAL:
        engine.enter(work, PHASE_OF[attempt.stage])
    else:
        work.after_stop = work.phase
        engine.enter(work, Phase.STOPPING)


def _seat(engine: Engine, job: Job, record: Mapping[str, object], end_s: float) -> Seat:
    """Take a stored seat again, at the milliwatts it was charged."""
    fleet = engine.board.fleet
    numbers = {
        key: int(str(record[key]))
        for key in ("replica", "rank", "gpu_milli", "gpu_memory_mib", "cpu_milli", "memory_mib")
    }
    gpus, lines = record["gpus"], record["row_mw"]
    if not isinstance(gpus, list) or not isinstance(lines, list) or record["host"] not in fleet.index:
        raise RequestError(f"job {job.id}: stored seat {dict(record)} is not one of this fleet")
    claim = Claim(
        fleet.index[str(record["host"])],
        tuple(gpus),
        numbers["gpu_milli"],
        numbers["cpu_milli"],
        numbers["memory_mib"],
        numbers["gpu_memory_mib"],
    )
    charge = engine.rows.charge_of(lines, end_s)
    cap_w = record["cap_w"]
    held = engine.overlay.take(claim, charge)
    cap = float(cap_w) if isinstance(cap_w, int | float) else None
    return Seat(str(record["role"]), numbers["replica"], numbers["rank"], held, charge, cap)
