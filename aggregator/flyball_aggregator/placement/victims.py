"""Choose whom to disturb: the cheapest units of work whose places let a blocked job start."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

from flyball_aggregator.placement.fleet import WHOLE
from flyball_aggregator.placement.gangs import Planner, Seat
from flyball_aggregator.placement.jobs import Job
from flyball_aggregator.placement.needs import Terms
from flyball_aggregator.placement.work import Phase, Work


@dataclass(frozen=True, slots=True)
class Unit:
    """What is evicted together: a whole job, or one replica above an elastic job's minimum."""

    work: Work
    seats: tuple[Seat, ...]
    is_whole: bool
    cost: float

    @property
    def milli(self) -> int:
        """GPU milli it would free."""
        return sum(seat.held.claim.total_milli for seat in self.seats)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Units to stop and the seats the blocked job gets once they have stopped."""

    units: tuple[Unit, ...]
    seats: tuple[Seat, ...]


def units_of(work: Work, now_s: float) -> list[Unit]:
    """Return what of a running job can be evicted, cheapest first: extra replicas from the last, then all the rest."""
    if work.phase is not Phase.RUNNING:
        return []
    leaving = {id(seat) for seat in work.shrinking}
    least = {role.name: role.least for role in work.job.gang.roles()}
    extras: dict[tuple[str, int], list[Seat]] = {}
    core: list[Seat] = []
    for seat in work.seats:
        if id(seat) in leaving:
            continue
        is_extra = seat.replica >= least[seat.role]
        (extras.setdefault((seat.role, seat.replica), []) if is_extra else core).append(seat)
    units = [
        _unit(work, extras[key], is_whole=False, now_s=now_s)
        for key in sorted(extras, key=lambda key: (-key[1], key[0]))
    ]
    return [*units, _unit(work, core, is_whole=True, now_s=now_s)] if core else units


def search(
    planner: Planner, job: Job, terms: Terms, units: Sequence[Unit], accept: Callable[[Sequence[Unit]], bool]
) -> Scenario | None:
    """Return the smallest prefix of the ordered units whose places let the job start; the overlay is left as it was.

    The prefix grows from what the job needs at least, doubling what is added, then shrinks by halving; units whose
    hosts the plan does not touch are let go again.
    """
    ordered = in_order(units, job)
    low, high = 0, _first_guess(planner, job, ordered)
    best: Scenario | None = None
    step = max(1, high)
    while True:
        best = _probe(planner, job, terms, ordered[:high])
        if best is not None or high >= len(ordered):
            break
        low, high, step = high, min(len(ordered), high + step), step * 2
    if best is None:
        return None
    best = _narrow(planner, job, terms, (ordered, low, high), best)
    best = _trim(planner, job, terms, best)
    return best if accept(best.units) else None


def in_order(units: Iterable[Unit], job: Job) -> list[Unit]:
    """Return units by cost; for jobs of several GPUs by what emptying their host costs: hosts come free whole."""
    known = list(units)
    if max((role.asked.gpus for role in job.gang.roles()), default=0) <= 1 and job.least_gpu_milli <= WHOLE:
        return sorted(known, key=lambda unit: (unit.cost, not unit.is_whole, unit.work.order))
    cost: dict[int, float] = {}
    freed: dict[int, int] = {}
    for unit in known:
        for host in {seat.held.claim.host for seat in unit.seats}:
            cost[host] = cost.get(host, 0.0) + unit.cost
            freed[host] = freed.get(host, 0) + unit.milli

    def rank(unit: Unit) -> tuple[float, int, int, float, int]:
        host = min((seat.held.claim.host for seat in unit.seats), key=lambda at: cost[at] / max(freed[at], 1))
        leader_last = 0 if unit.is_whole else -unit.seats[0].replica
        return cost[host] / max(freed[host], 1), leader_last, host, unit.cost, unit.work.order

    return _extras_before_core(sorted(known, key=rank))


def _extras_before_core(units: list[Unit]) -> list[Unit]:
    """Put a job's whole unit behind its extra replicas: stopping the rest stops them too."""
    last = {id(unit.work): number for number, unit in enumerate(units)}
    rank = {id(unit): (last[id(unit.work)] if unit.is_whole else number) for number, unit in enumerate(units)}
    return sorted(units, key=lambda unit: (rank[id(unit)], unit.is_whole))


def _unit(work: Work, seats: Sequence[Seat], *, is_whole: bool, now_s: float) -> Unit:
    """Return the unit with its cost in GPU seconds: work since the last checkpoint, and the restart."""
    gpus = sum(seat.held.claim.total_milli for seat in seats) / WHOLE
    if not is_whole:
        return Unit(work, tuple(seats), is_whole, 0.0)
    ran_s = max(0.0, now_s - work.started_at_s)
    lost_s = ran_s if work.job.checkpoint_every_s == inf else ran_s % work.job.checkpoint_every_s
    return Unit(work, tuple(seats), is_whole, (lost_s + work.job.restart_s) * max(gpus, 1e-3))


def _first_guess(planner: Planner, job: Job, units: Sequence[Unit]) -> int:
    """Return how many units must go at least for the job's GPUs to exist at all, 1 or more."""
    fleet = planner.overlay.board.fleet
    missing = job.least_gpu_milli - int(fleet.gpu_left[fleet.ready != 0].sum())
    number = 0
    while number < len(units) and missing > 0:
        missing -= units[number].milli
        number += 1
    return min(len(units), max(1, number))


def _probe(planner: Planner, job: Job, terms: Terms, units: Sequence[Unit]) -> Scenario | None:
    """Try the job with these units gone."""
    overlay = planner.overlay
    mark = overlay.mark()
    for unit in units:
        for seat in unit.seats:
            overlay.give(seat.held)
    plan = planner.plan(job, terms)
    overlay.rollback(mark)
    return Scenario(tuple(units), tuple(plan)) if isinstance(plan, list) else None


def _narrow(planner: Planner, job: Job, terms: Terms, span: tuple[list[Unit], int, int], best: Scenario) -> Scenario:
    """Halve between the last prefix that failed and the first that worked."""
    ordered, low, high = span
    while high - low > max(1, high // 16):
        middle = (low + high) // 2
        found = _probe(planner, job, terms, ordered[:middle])
        if found is None:
            low = middle
        else:
            best, high = found, middle
    return best


def _trim(planner: Planner, job: Job, terms: Terms, best: Scenario) -> Scenario:
    """Let go of units that share no host with the plan, where it still works without them."""
    hosts = {seat.held.claim.host for seat in best.seats}
    wholes = {id(unit.work) for unit in best.units if unit.is_whole and _touches(unit, hosts)}
    needed = [unit for unit in best.units if _touches(unit, hosts) or id(unit.work) in wholes]
    if len(needed) == len(best.units):
        return best
    return _probe(planner, job, terms, needed) or best


def _touches(unit: Unit, hosts: set[int]) -> bool:
    return any(seat.held.claim.host in hosts for seat in unit.seats)
