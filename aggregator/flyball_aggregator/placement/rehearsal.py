"""Rehearse placement under random jobs, faults, targets and crashes, and check after every step what must never happen.

The hosts are imitated: they obey, refuse, stay silent or die; what they run is the truth that claims are held against.
"""

import random
from dataclasses import dataclass, field
from math import inf

from flyball_aggregator.placement.board import Board
from flyball_aggregator.placement.commit import Answer, Attempt, Committer, Order, Outcome, Output, Verb
from flyball_aggregator.placement.cycle import tick
from flyball_aggregator.placement.engine import Engine, EngineSettings
from flyball_aggregator.placement.fleet import Fleet, HostShape
from flyball_aggregator.placement.jobs import Draw, Group, Job, Member, Wish, start_order
from flyball_aggregator.placement.queues import Bound, QueueSpec, QueueTree
from flyball_aggregator.placement.recovery import JobRecord, records_by_host, restore
from flyball_aggregator.placement.rows import PowerRow, Promise, RowLedger
from flyball_aggregator.placement.topology import Topology
from flyball_aggregator.placement.trace import ExpectedKind
from flyball_aggregator.placement.work import FINAL, Decision, Phase, Settled, Start, Stop

HOSTS, GPUS = 12, 4
KINDS = [
    ExpectedKind(2000, 1, 500, (), 0.3),
    ExpectedKind(4000, 1, 1000, (), 0.5),
    ExpectedKind(8000, 4, 1000, (), 0.2),
]
MEMBERS = (Member(gpu_milli=300), Member(gpu_milli=500), Member(), Member(gpus=2), Member(gpus=4))


class BrokenError(AssertionError):
    """Something happened that never may."""


@dataclass(slots=True)
class Disk:
    """What survives a crash: jobs with their intent, and attempts."""

    jobs: dict[str, JobRecord] = field(default_factory=dict)
    attempts: dict[tuple[str, int], Attempt] = field(default_factory=dict)
    promises: dict[str, Promise] = field(default_factory=dict)

    def put(self, attempt: Attempt) -> None:
        """Store or replace an attempt."""
        self.attempts[attempt.job_id, attempt.attempt] = attempt

    def delete(self, job_id: str, attempt: int) -> None:
        """Forget an attempt."""
        self.attempts.pop((job_id, attempt), None)

    def load(self) -> list[Attempt]:
        """Return all attempts."""
        return list(self.attempts.values())


@dataclass(slots=True)
class ImitatedHost:
    """Seats it prepared and runs, by (job, attempt).

    It remembers the last attempt of each job that it was told to drop: an order for it may still be on its way.
    """

    prepared: dict[tuple[str, int], tuple[object, ...]] = field(default_factory=dict)
    running: set[tuple[str, int]] = field(default_factory=set)
    fence: dict[str, int] = field(default_factory=dict)

    def obey(self, order: Order, *, is_willing: bool) -> Answer:
        """Carry an order out; stops and aborts are never refused."""
        key = order.job_id, order.attempt
        is_ack = is_willing or order.verb in {Verb.STOP, Verb.ABORT}
        if order.verb is Verb.PREPARE and order.attempt <= self.fence.get(order.job_id, 0):
            is_ack = False
        elif order.verb is Verb.PREPARE and is_ack:
            self.prepared[key] = tuple(order.seats)
            self._check_free()
        elif order.verb is Verb.START and is_ack:
            is_ack = key in self.prepared
            self.running |= {key} if is_ack else set()
        elif order.verb in {Verb.STOP, Verb.ABORT}:
            self.prepared.pop(key, None)
            self.running.discard(key)
            self.fence[order.job_id] = max(order.attempt, self.fence.get(order.job_id, 0))
        return Answer(order.host, order.verb, *key, is_ack=is_ack)

    def _check_free(self) -> None:
        used = [0] * GPUS
        for seats in self.prepared.values():
            for seat in seats:
                if isinstance(seat, dict):
                    for gpu in seat["gpus"]:
                        used[gpu] += seat["gpu_milli"]
        if max(used) > 1000:
            raise BrokenError(f"a GPU was given twice: {used}")


class Rehearsal:
    """One seed: an aggregator that may die at any message, hosts that may fail, and the checks."""

    def __init__(self, seed: int, *, hosts: int = HOSTS) -> None:
        self.rng = random.Random(seed)
        self.shapes = [
            HostShape(f"h{n}", 64_000, 512_000, GPUS, "H100", 81_920, (f"r{n // 2}", f"l{n // 4}"))
            for n in range(hosts)
        ]
        self.hosts = {shape.name: ImitatedHost() for shape in self.shapes}
        self.disk = Disk()
        self.now_s = 0.0
        self.epoch = 0
        self.crashes = self.started = 0
        self.wire: list[Order | Answer] = []
        self._boot()

    def run(self, steps: int) -> None:
        """Take random steps, then let everything settle and check that every job is accounted for."""
        for number in range(steps):
            self._step(number)
            self.check()
        self._settle()

    def check(self) -> None:
        """Raise BrokenError where a GPU, a queue, a row, a promise or a gang is not as it must be."""
        engine = self.engine
        if (engine.board.fleet.gpu_left < 0).any() or (engine.board.fleet.cpu_left < 0).any():
            raise BrokenError("a host gave more than it has")
        if (engine.rows.committed_mw > engine.rows.capacity_mw).any():
            raise BrokenError("a row is over its limit")
        for promise in engine.rows.promises.values():
            if promise.used_mw - promise.overrun_mw > promise.capacity_mw:
                raise BrokenError(f"promise {promise.id} is broken")
        for spec in engine.tree.specs.values():
            if not spec.limit.covers(engine.tree.held[spec.name]) or not spec.quota.covers(engine.tree.firm[spec.name]):
                raise BrokenError(f"queue {spec.name} holds more than it may")
        self._check_gangs()
        self._check_ledgers()

    def _check_ledgers(self) -> None:
        """Raise BrokenError where a job that is over holds something, or the sums are not those of the seats."""
        engine = self.engine
        used = 0
        for job_id, work in engine.works.items():
            seats = [*work.seats, *work.next_seats]
            used += sum(seat.held.claim.total_milli for seat in seats)
            if work.phase in FINAL and (seats or job_id in engine.nominated or job_id in engine.holds):
                raise BrokenError(f"job {job_id} is {work.phase} and still holds a place")
        if used != engine.board.fleet.capacity_milli - int(engine.board.fleet.gpu_left.sum()):
            raise BrokenError("GPUs given out and GPUs in seats differ")
        if len(engine.rows.charges) != sum(len(w.seats) + len(w.next_seats) for w in engine.works.values()):
            raise BrokenError("charges and seats differ in number")

    def _check_gangs(self) -> None:
        for job_id, work in self.engine.works.items():
            if work.phase is not Phase.RUNNING:
                continue
            key = job_id, work.attempt
            record = self.disk.attempts.get(key)
            missing = [host for host in record.hosts if key not in self.hosts[host].running] if record else ["all"]
            if missing:
                raise BrokenError(f"job {job_id} runs on a part of its hosts: {missing} do not")

    def _step(self, number: int) -> None:
        self.now_s += self.rng.choice((0.0, 0.5, 5.0, 40.0))
        act = self.rng.choices(
            (self._submit, self._turn, self._carry, self._promise, self._fault, self._end, self._crash, self._cancel),
            weights=(20, 20, 40, 3, 4, 8, 2, 3),
        )[0]
        act(number)

    def _submit(self, number: int) -> None:
        rng = self.rng
        draw = rng.choice((None, Draw(700.0, 300.0, max_slowdown=2.0), Draw(500.0, 500.0)))
        count = rng.choice((1, 1, 1, 2, 4))
        wish = Wish(required=rng.choice((None, None, "rack", "leaf")))
        leaf = Group("main", member=rng.choice(MEMBERS), count=count, topology=wish, draw=draw)
        gang = leaf
        if rng.random() < 0.2:
            gang = Group("pair", children=(leaf, Group("side", member=MEMBERS[2], after=("main",), draw=draw)))
        job = Job(
            f"j{number}",
            rng.choice(("red", "blue", "green")),
            gang,
            priority=rng.choice((10, 50, 90)),
            is_preemptible=rng.random() < 0.8,
            is_movable=rng.random() < 0.3,
            max_runtime_s=rng.choice((inf, 300.0, 3000.0)),
            broken_grace_s=60.0,
        )
        self.disk.jobs[job.id] = JobRecord(job, Phase.QUEUED, queued_at_s=self.now_s)
        self.engine.submit(job, self.now_s)

    def _turn(self, _: int) -> None:
        for decision in tick(self.engine, self.now_s):
            self._decided(decision)
        self._emit(self.committer.tick(self.now_s))

    def _decided(self, decision: Decision) -> None:
        job_id = decision.job_id
        if isinstance(decision, Start):
            self._save(job_id)
            gang = self.engine.works[job_id].job.gang
            names = self.engine.board.fleet.names
            roles = start_order(gang) if gang.children else [[gang.name]]
            waves = [[names[seat.held.claim.host] for seat in decision.seats if seat.role in wave] for wave in roles]
            seats = records_by_host(decision.seats, self.engine.board.fleet)
            self._emit(self.committer.begin(job_id, decision.attempt, waves, seats, self.now_s))
        elif isinstance(decision, Stop):
            self._save(job_id)
            self._emit(self.committer.stop(job_id, self.now_s))
        elif isinstance(decision, Settled):
            self._save(job_id)

    def _carry(self, _: int) -> None:
        """Deliver a few messages in any order; some are lost, some come twice."""
        for _ in range(self.rng.randrange(1, 8)):
            if not self.wire:
                return
            message = self.wire.pop(self.rng.randrange(len(self.wire)))
            fate = self.rng.random()
            if fate < 0.03:
                continue
            if fate > 0.97:
                self.wire.append(message)
            self._deliver(message, is_willing=self.rng.random() > 0.02)

    def _deliver(self, message: Order | Answer, *, is_willing: bool) -> None:
        if isinstance(message, Order):
            if message.epoch == self.epoch:
                self.wire.append(self.hosts[message.host].obey(message, is_willing=is_willing))
        else:
            self._emit(self.committer.answer(message, self.now_s))

    def _emit(self, out: Output) -> None:
        self.wire += out.orders
        for report in out.reports:
            blamed = [self.engine.board.fleet.index[host] for host in report.blamed]
            work = self.engine.works[report.job_id]
            if report.outcome is Outcome.STARTED:
                self.started += 1
                self.engine.started(report.job_id, self.now_s)
                if work.phase is Phase.STOPPING:
                    self._emit(self.committer.stop(report.job_id, self.now_s))
            elif work.phase is Phase.STOPPING:
                self.engine.stopped(report.job_id, self.now_s)
            elif work.phase is Phase.RESERVED:
                self.engine.start_failed(report.job_id, self.now_s, blamed)
            self._save(report.job_id)

    def _promise(self, number: int) -> None:
        row = self.rng.choice(self.engine.rows.names)
        start_s = self.now_s + self.rng.choice((10.0, 500.0))
        part = Promise(f"dr{number}", row, start_s, start_s + 600.0, self.rng.uniform(4_000.0, 20_000.0))
        if self.engine.rows.promise(part) is None:
            self.disk.promises[part.id] = part

    def _fault(self, _: int) -> None:
        host = self.rng.randrange(len(self.shapes))
        if self.engine.board.fleet.ready[host]:
            self.engine.close_host(host, "xid 79", self.now_s, is_lost=self.rng.random() < 0.5)
        else:
            self.engine.open_host(host)

    def _end(self, _: int) -> None:
        """A running job ends by itself: the aggregator asks its hosts to clean up and notes it when they have."""
        running = self.engine.held_by({Phase.RUNNING})
        if running:
            job_id = self.rng.choice(running).job.id
            self.engine.stopping(job_id, Phase.COMPLETED)
            self._save(job_id)
            self._emit(self.committer.stop(job_id, self.now_s))

    def _cancel(self, _: int) -> None:
        alive = [job_id for job_id, work in self.engine.works.items() if work.phase not in FINAL]
        if alive:
            job_id = self.rng.choice(alive)
            must_stop = self.engine.cancel(job_id)
            self._save(job_id)
            if must_stop:
                self._emit(self.committer.stop(job_id, self.now_s))

    def _crash(self, _: int) -> None:
        """The aggregator dies; messages to and from it are lost, hosts run on; the next one takes over."""
        self.crashes += 1
        self.wire.clear()
        self._boot()

    def _boot(self) -> None:
        self.epoch += 1
        self.engine = new_engine(self.shapes, self.epoch)
        attempts = self.disk.load()
        restore(self.engine, self.disk.jobs.values(), attempts)
        self.engine.rows.promises.clear()
        for part in self.disk.promises.values():
            if part.end_s > self.now_s and self.engine.rows.promise(part) is not None:
                raise BrokenError(f"promise {part.id} is broken after a restart")
        self.committer = Committer(self.disk, self.epoch)
        self._emit(self.committer.recover(self.now_s))
        for work in self.engine.held_by({Phase.STOPPING}):
            self._emit(self.committer.stop(work.job.id, self.now_s))

    def _save(self, job_id: str) -> None:
        work = self.engine.works[job_id]
        self.disk.jobs[job_id] = JobRecord(
            work.job, work.phase, work.after_stop, work.queued_at_s, work.started_at_s, work.deadline_s
        )

    def _settle(self) -> None:
        """Heal everything; every job must end running, final, or waiting for a named reason."""
        for host in range(len(self.shapes)):
            self.engine.open_host(host)
        for _ in range(40):
            self.now_s += 5.0
            self._turn(0)
            while self.wire:
                self._deliver(self.wire.pop(0), is_willing=True)
            self.check()
        if set(self.disk.jobs) != set(self.engine.works):
            raise BrokenError("a job was lost")
        for job_id, work in self.engine.works.items():
            if work.phase is Phase.QUEUED and work.blocked is None:
                raise BrokenError(f"job {job_id} waits for no reason")


def new_engine(shapes: list[HostShape], epoch: int) -> Engine:
    """Return an empty engine over these hosts: three queues under one, rows of racks, feeds and the site."""
    fleet = Fleet.of(shapes)
    racks = sorted({shape.domains[0] for shape in shapes})
    rows = [PowerRow("site", 25_000.0), PowerRow("feed0", 13_000.0), PowerRow("feed1", 13_000.0)]
    rows += [PowerRow(rack, 5_500.0) for rack in racks]
    of_host = [{"site": 1.0, f"feed{n % 2}": 1.0, shape.domains[0]: 1.0} for n, shape in enumerate(shapes)]
    gpus = float(sum(shape.gpus for shape in shapes))
    queues = [
        QueueSpec("org", quota=Bound(gpus)),
        QueueSpec("red", parent="org", quota=Bound(gpus / 4), weight=2.0),
        QueueSpec("blue", parent="org", quota=Bound(gpus / 4), limit=Bound(gpus / 2, 15_000.0)),
        QueueSpec("green", parent="org", quota=Bound(gpus / 8), priority=1),
    ]
    board = Board(fleet, KINDS, {"H100": (60.0, 700.0)})
    settings = EngineSettings(nomination_ttl_s=120.0)
    topology = Topology(fleet, ("rack", "leaf"))
    return Engine(board, RowLedger.of(rows, of_host), QueueTree.of(queues), topology, settings, epoch=epoch)
