"""The placement engine's state, and what happened to it: jobs come and end, hosts fail, starts and stops are answered.

No clock, socket or thread inside: the same inputs in the same order give the same state. `cycle.tick` decides.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from flyball_aggregator.placement.board import Board, Floats
from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.gangs import Planner, Seat, charged_until
from flyball_aggregator.placement.jobs import Group, Job
from flyball_aggregator.placement.needs import Terms, board_request
from flyball_aggregator.placement.overlay import Overlay
from flyball_aggregator.placement.queues import Amount, QueueTree
from flyball_aggregator.placement.refusals import Refusal
from flyball_aggregator.placement.rows import STOP_GRACE_S, RowLedger
from flyball_aggregator.placement.shares import Usage
from flyball_aggregator.placement.tenancy import Tenancy
from flyball_aggregator.placement.topology import Mask, Topology
from flyball_aggregator.placement.work import FINAL, Phase, Work
from flyball_fast.placement import POLICIES

ALPHA_MAX = 0.1  # weight of the power term, per 100 W, when a row is nearly full
ATTEMPTS_PER_EPOCH = 1_000_000  # attempt numbers rise over restarts without being stored: the epoch leads them
FAILED_HOST_S = 600.0  # how long a host that failed a start is the last choice
FAILED_PENALTY = 1.0  # in units of best fit: more than any other tie


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What an operator may turn; times in seconds."""

    policy: str = "qfgd-bestfit"
    disruptions_per_hour: int = 100_000
    evictions_per_tick: int = 4
    backfill_depth: int = 2
    reuse_hold_s: float = 300.0
    nomination_ttl_s: float = 900.0
    moves_per_job: int = 8
    reclaim_multiplier: float = 1.0


@dataclass(slots=True)
class Hold:
    """Hosts kept for somebody: `until_s` says when a planned start is due, or when a kept place is let go.

    Meanwhile a backfilled hold takes jobs that end before, and yields to higher priorities. watts is (rows,): what the
    planned start will draw beyond what has ended by then.
    """

    owner: str
    hosts: Mask
    until_s: float
    priority: float
    is_backfilled: bool
    watts: Floats

    def shuts_out(self, job: Job, now_s: float) -> bool:
        """Return True where the job may not use these hosts."""
        if self.owner == job.id or job.priority > self.priority:
            return False
        return not (self.is_backfilled and now_s + job.max_runtime_s <= self.until_s)


class Engine:
    """Jobs, queues, hosts, rows and who sits where."""

    def __init__(
        self,
        board: Board,
        rows: RowLedger,
        tree: QueueTree,
        topology: Topology,
        settings: EngineSettings | None = None,
        *,
        epoch: int = 0,
    ) -> None:
        self.board, self.rows, self.tree, self.topology = board, rows, tree, topology
        self.settings = settings or EngineSettings()
        self.overlay = Overlay(board, rows)
        self.planner = Planner(self.overlay, topology)
        self.tenancy = Tenancy.of(len(board.fleet))
        self.works: dict[str, Work] = {}
        self.by_phase: dict[Phase, dict[str, Work]] = {phase: {} for phase in Phase}
        self.watched: dict[str, Work] = {}
        self.stretching: dict[str, Work] = {}
        self.usage = Usage()
        self.holds: dict[str, Hold] = {}
        self.nominated: dict[str, tuple[tuple[Seat, ...], float]] = {}
        self.disrupted_at_s: list[float] = []
        self.unplannable: dict[tuple[object, ...], int] = {}
        self.barren: dict[tuple[object, ...], tuple[int, float]] = {}
        self.hopeless: dict[tuple[object, ...], tuple[int, Refusal]] = {}
        self.first_attempt = epoch * ATTEMPTS_PER_EPOCH
        self.freed = 0
        self.plans_made = 0
        self.penalty: Floats = np.zeros(len(board.fleet))
        self.last_failure_s = -inf
        self.failed_at_s: Floats = np.full(len(board.fleet), -inf)
        self.last_hosts: dict[str, list[int]] = {}

    def submit(self, job: Job, now_s: float) -> Work:
        """Queue a job; the same id again returns the job known under it.

        Raises:
            RequestError: the queue is unknown or has queues below it.
        """
        if job.id in self.works:
            return self.works[job.id]
        if not self.tree.is_leaf(next(iter(self.tree.path(job.queue))).name):
            raise RequestError(f"job {job.id}: queue {job.queue!r} has queues below it, expected a leaf")
        for wish in (job.gang.topology, *(role.topology for role in job.gang.roles())):
            for level in (wish.required, wish.preferred, wish.spread):
                if level is not None:
                    self.topology.number(level)
        for role in job.gang.roles():
            self.board.scorer.warm(board_request(self.overlay, role.asked))  # paid here, not in the decision
        work = Work(job, now_s, len(self.works))
        self.works[job.id] = work
        if job.is_elastic:
            self.stretching[job.id] = work
        self.enter(work, Phase.QUEUED)
        return work

    def enter(self, work: Work, phase: Phase) -> None:
        """Move a job to a phase; the turn only ever looks at the phases and limits that concern it."""
        self.by_phase[work.phase].pop(work.job.id, None)
        work.phase = phase
        self.by_phase[phase][work.job.id] = work
        self.watch(work)

    def watch(self, work: Work) -> None:
        """Have `expiry` look at a job at every turn where time alone may end it."""
        limits = (work.job.max_queued_s, work.job.max_runtime_s, work.broken_since_s, work.idle_since_s)
        if work.phase not in FINAL and any(limit is not None and limit != inf for limit in limits):
            self.watched[work.job.id] = work
        else:
            self.watched.pop(work.job.id, None)

    def started(self, job_id: str, now_s: float) -> None:
        """All hosts of a reserved job acknowledged its start."""
        work = self.works[job_id]
        if work.phase is Phase.RESERVED:
            work.started_at_s = now_s
            self.enter(work, Phase.RUNNING)

    def start_failed(self, job_id: str, now_s: float, hosts: Sequence[int] = ()) -> None:
        """A start was rolled back everywhere; the job waits again and these hosts are the last choice for it."""
        work = self.works[job_id]
        self.failed_at_s[list(hosts)] = now_s
        self.last_failure_s = now_s if hosts else self.last_failure_s
        if work.phase is Phase.RESERVED:
            self._vacate(work)
            self._requeue(work, now_s)

    def stopping(self, job_id: str, after: Phase) -> None:
        """A stop was sent; the seats stay taken until `stopped`."""
        work = self.works[job_id]
        if work.phase in {Phase.RUNNING, Phase.RESERVED}:
            work.after_stop = after
            self.enter(work, Phase.STOPPING)

    def stopped(self, job_id: str, now_s: float) -> None:
        """Nothing of the job runs any more: its seats are free and it waits again or is over."""
        work = self.works[job_id]
        if work.phase is not Phase.STOPPING:
            return
        self._vacate(work)
        if work.after_stop in FINAL:
            self.enter(work, work.after_stop)
            self._forget(work)
        else:
            self._requeue(work, now_s)

    def ended(self, job_id: str, now_s: float, phase: Phase = Phase.COMPLETED) -> None:
        """The job ended by itself; a place it may be restarted in is kept for a while."""
        work = self.works[job_id]
        if work.phase in FINAL:
            return
        if work.job.reuse is not None and work.seats:
            self._keep_place(work, now_s)
        self._vacate(work)
        self.enter(work, phase)
        self._forget(work)

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; return True where a stop must be sent to hosts first."""
        work = self.works[job_id]
        if work.phase is Phase.QUEUED:
            self._vacate(work)
            self.enter(work, Phase.CANCELED)
            self._forget(work)
            return False
        if work.phase in FINAL:
            return False
        if work.phase is Phase.STOPPING:
            work.after_stop = Phase.CANCELED
        self.stopping(job_id, Phase.CANCELED)
        return True

    def shrunk(self, job_id: str) -> None:
        """The seats that were asked back from an elastic job are empty."""
        work = self.works[job_id]
        for seat in work.shrinking:
            self._give(work, seat)
        roles = {role.name: role for role in work.job.gang.roles()}
        back = sum((self.role_amount(roles[seat.role], 1) for seat in work.shrinking), Amount())
        self.tree.give(work.job.queue, back, is_firm=not work.job.is_preemptible)
        work.charged -= back
        gone = {id(seat) for seat in work.shrinking}
        work.seats = [seat for seat in work.seats if id(seat) not in gone]
        work.shrinking = []

    def close_host(self, host: int, reason: str, now_s: float, *, is_lost: bool = False) -> list[str]:
        """Take a host out of placement; return the jobs on it. A lost host breaks its gangs."""
        self.board.fleet.block(host, reason)
        placed = self.held_by((Phase.RESERVED, Phase.RUNNING, Phase.STOPPING))
        hit = [work for work in placed if any(seat.held.claim.host == host for seat in work.seats)]
        for work in hit if is_lost else ():
            work.lost_hosts.add(host)
            work.broken_since_s = now_s if work.broken_since_s is None else work.broken_since_s
            self.watch(work)
        return [work.job.id for work in hit]

    def open_host(self, host: int) -> None:
        """Offer a host again; gangs that lost only this host are whole again."""
        self.board.fleet.unblock(host)
        self.failed_at_s[host] = -inf
        self.freed += 1
        for work in list(self.watched.values()):
            work.lost_hosts.discard(host)
            if not work.lost_hosts:
                work.broken_since_s = None

    def idle(self, job_id: str, since_s: float | None) -> None:
        """Note since when all GPUs of a job have been idle, None where they are not."""
        self.works[job_id].idle_since_s = since_s
        self.watch(self.works[job_id])

    def set_limit(self, row: str, limit_w: float) -> int:
        """Change a row's limit; return the milliwatts of charges above it, which flex must bring down."""
        self.freed += 1
        return self.rows.set_limit(row, limit_w)

    def measure(self, row: str, managed_w: float, at_s: float) -> None:
        """Note what the managed part of a row draws; a fall may let waiting jobs in."""
        self.freed += 1
        self.rows.measure(row, managed_w, at_s)

    def pending(self) -> list[Work]:
        """Return the jobs that wait, in the order they came."""
        return self.held_by((Phase.QUEUED,))

    def held_by(self, phases: Iterable[Phase]) -> list[Work]:
        """Return the jobs in one of these phases."""
        return sorted((work for phase in phases for work in self.by_phase[phase].values()), key=_order)

    def elastic(self) -> list[Work]:
        """Return the running jobs that may grow, in the order they came."""
        return sorted((work for work in self.stretching.values() if work.phase is Phase.RUNNING), key=_order)

    def amount(self, job: Job) -> Amount:
        """Return what the guaranteed members of a job take from its queues."""
        return sum((self.role_amount(role, role.least * role.count) for role in job.gang.roles()), Amount())

    def role_amount(self, role: Group, members: int) -> Amount:
        """Return GPU milli and board milliwatts of so many members; unknown draw counts as the hungriest board's."""
        each_w = float(self.board.busy_w.max(initial=0.0)) if role.draw is None else role.draw.pred_w
        milli = members * role.asked.gpus * role.asked.gpu_milli
        return Amount(milli, int(milli * each_w))

    def terms(self, job: Job, now_s: float, *, cap_ratio: float = 1.0) -> Terms:
        """Return how to plan a job now: hosts it may use, the power weight the fullest row asks for."""
        fleet = self.board.fleet
        allowed = fleet.ready & self.tenancy.allowed(job)
        held_back_w = np.zeros(len(self.rows.names))
        for hold in self.holds.values():
            if hold.shuts_out(job, now_s):
                allowed = allowed & (1 - hold.hosts)
                held_back_w += hold.watts
        return Terms(
            policy=POLICIES[self.settings.policy],
            allowed=allowed.astype(np.uint8),
            penalty=self._penalty(now_s),
            now_s=now_s,
            alpha=self._alpha(now_s),
            cap_ratio=cap_ratio,
            held_back_w=held_back_w,
        )

    def seat(self, work: Work, seats: Sequence[Seat], amount: Amount) -> None:
        """Make a plan's seats a job's own; the overlay's undo log ends here."""
        self.overlay.settle()
        for seat in seats:
            self.tenancy.enter(work.job, seat.held.claim.host)
        work.seats = [*work.seats, *seats]
        self.charge(work, amount)

    def charge(self, work: Work, amount: Amount) -> None:
        """Charge a job's queues for what it was given."""
        self.tree.take(work.job.queue, amount, is_firm=not work.job.is_preemptible)
        work.charged += amount
        work.deadline_s = min((seat.held_until_s for seat in work.seats), default=inf) - STOP_GRACE_S
        work.blocked = None

    def drop_hold(self, owner: str) -> None:
        """Let go of the hosts kept for somebody."""
        if self.holds.pop(owner, None) is not None:
            self.freed += 1

    def nominate(self, work: Work, seats: Sequence[Seat], until_s: float, now_s: float) -> None:
        """Promise a job these seats; those free now are taken at once, so that nobody else gets them."""
        self.nominated[work.job.id] = (tuple(seats), until_s)
        self.take_nominated(work, now_s)

    def take_nominated(self, work: Work, now_s: float) -> bool:
        """Take the promised seats that are free by now; return True where none is missing."""
        seats, until_s = self.nominated[work.job.id]
        missing: list[Seat] = []
        for seat in seats:
            taken = self._reseat(seat, now_s, charged_until(work.job, until_s))
            if taken is None:
                missing.append(seat)
            else:
                self.tenancy.enter(work.job, seat.held.claim.host)
                work.next_seats.append(taken)
        self.overlay.settle()
        self.nominated[work.job.id] = (tuple(missing), until_s)
        return not missing

    def unnominate(self, work: Work) -> None:
        """Take a promise back and free what was taken for it."""
        self.nominated.pop(work.job.id, None)
        for seat in work.next_seats:
            self._give(work, seat)
        work.next_seats = []

    def _reseat(self, seat: Seat, now_s: float, end_s: float) -> Seat | None:
        """Take a promised seat for real; None while its GPUs or its rows are not free yet."""
        claim, fleet = seat.held.claim, self.board.fleet
        charge = replace(seat.charge, end_s=end_s)
        if not fleet.ready[claim.host] or not fleet.has(claim) or self.rows.refusal(charge, now_s) is not None:
            return None
        return replace(seat, held=self.overlay.take(claim, charge), charge=charge)

    def _forget(self, work: Work) -> None:
        self.unnominate(work)
        self.drop_hold(work.job.id)

    def _penalty(self, now_s: float) -> Floats:
        if now_s - self.last_failure_s >= FAILED_HOST_S:
            return self.penalty
        return self.penalty + FAILED_PENALTY * (now_s - self.failed_at_s < FAILED_HOST_S)

    def _alpha(self, now_s: float) -> float:
        capacity = np.maximum(self.rows.capacity_mw, 1)
        fullest = float((1.0 - self.rows.room_mw(now_s) / capacity).max(initial=0.0))
        return ALPHA_MAX * min(1.0, max(0.0, (fullest - 0.5) / 0.4))

    def _vacate(self, work: Work) -> None:
        for seat in work.seats:
            self._give(work, seat)
        work.seats, work.shrinking, work.lost_hosts, work.broken_since_s = [], [], set(), None
        self.tree.give(work.job.queue, work.charged, is_firm=not work.job.is_preemptible)
        work.charged = Amount()

    def _give(self, work: Work, seat: Seat) -> None:
        self.overlay.give(seat.held)
        self.overlay.settle()
        self.tenancy.leave(work.job, seat.held.claim.host)
        self.freed += 1

    def _requeue(self, work: Work, now_s: float) -> None:
        work.queued_at_s, work.idle_since_s = now_s, None
        self.enter(work, Phase.QUEUED)

    def _keep_place(self, work: Work, now_s: float) -> None:
        hosts = sorted({seat.held.claim.host for seat in work.seats})
        reference = work.job.reuse or ""
        mask = np.zeros(len(self.board.fleet), np.uint8)
        mask[hosts] = 1
        self.last_hosts[reference] = hosts
        until_s = now_s + self.settings.reuse_hold_s
        watts = np.zeros(len(self.rows.names))
        self.holds[f"reuse:{reference}"] = Hold(
            f"reuse:{reference}", mask, until_s, inf, is_backfilled=False, watts=watts
        )


def _order(work: Work) -> int:
    return work.order
