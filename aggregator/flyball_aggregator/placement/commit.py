"""Commit a plan over hosts: reserve, prepare everywhere, start only when all acknowledged; else roll back everywhere.

Pure: `step` methods take messages and the time, write to the store before anything is sent, and return what to send.
A message names (job, attempt, epoch); hosts answer a repeat with the same answer, so a restart may send all again.
A host refuses to prepare an attempt at or below the last one of that job it was told to stop or abort: such an order
was overtaken on its way. Attempt numbers therefore rise over restarts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from flyball_aggregator.placement.errors import CommitError

RESERVE_TTL_S = 30.0  # a prepare that is not answered by all within this is rolled back
RESEND_S = 2.0


class Stage(StrEnum):
    """Where one attempt is. Once STARTING is stored it is never rolled back; before, it may always be."""

    PREPARING = "preparing"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ROLLING_BACK = "rolling_back"
    DONE = "done"


class Verb(StrEnum):
    """What hosts are told."""

    PREPARE = "prepare"
    START = "start"
    STOP = "stop"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Order:
    """One message to one host; `seats` is what the host must set aside, as the wire carries it."""

    host: str
    verb: Verb
    job_id: str
    attempt: int
    epoch: int
    wave: int = 0
    seats: tuple[Mapping[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One host's answer to an order; a refusal says why."""

    host: str
    verb: Verb
    job_id: str
    attempt: int
    is_ack: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """The stored record of one attempt: which hosts hold which seats, in which start wave, and who answered."""

    job_id: str
    attempt: int
    epoch: int
    stage: Stage
    since_s: float
    waves: tuple[tuple[str, ...], ...]
    seats: Mapping[str, tuple[Mapping[str, object], ...]]
    answered: frozenset[str] = frozenset()
    blamed: tuple[str, ...] = ()
    wave: int = 0

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts, each once, in start order."""
        return tuple(dict.fromkeys(host for wave in self.waves for host in wave))


class AttemptStore(Protocol):
    """Where attempts survive the aggregator's death. `put` returns only when the record is durable."""

    def put(self, attempt: Attempt) -> None:
        """Store or replace the record of (job_id, attempt)."""

    def delete(self, job_id: str, attempt: int) -> None:
        """Forget a finished attempt."""

    def load(self) -> Iterable[Attempt]:
        """Return all records."""


class Outcome(StrEnum):
    """What the engine must be told."""

    STARTED = "started"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Report:
    """An attempt reached an outcome; `blamed` are the hosts that refused or stayed silent."""

    job_id: str
    attempt: int
    outcome: Outcome
    blamed: tuple[str, ...] = ()


@dataclass(slots=True)
class Output:
    """Orders to send and reports for the engine."""

    orders: list[Order] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)


VERB_OF = {
    Stage.PREPARING: Verb.PREPARE,
    Stage.STARTING: Verb.START,
    Stage.STOPPING: Verb.STOP,
    Stage.ROLLING_BACK: Verb.ABORT,
}


class Committer:
    """All attempts under way. A new epoch (aggregator start) takes over what the last one stored.

    Args:
        store: Written before any order leaves.
        epoch: Rises with each start; hosts refuse orders of older ones.
    """

    def __init__(self, store: AttemptStore, epoch: int) -> None:
        self._store = store
        self._epoch = epoch
        self._attempts: dict[str, Attempt] = {}
        self._sent_s: dict[str, float] = {}

    @property
    def attempts(self) -> Mapping[str, Attempt]:
        """Attempts by job."""
        return self._attempts

    def recover(self, now_s: float) -> Output:
        """Load what the last aggregator left: attempts that never reached STARTING are rolled back, others go on."""
        out = Output()
        for known in self._store.load():
            taken = replace(known, epoch=self._epoch, since_s=now_s, answered=frozenset())
            if known.stage is Stage.PREPARING:
                taken = replace(taken, stage=Stage.ROLLING_BACK)
            self._save(taken)
            if known.stage is Stage.RUNNING:
                out.reports.append(Report(known.job_id, known.attempt, Outcome.STARTED))
            self._send(taken, now_s, out)
        return out

    def begin(
        self,
        job_id: str,
        attempt: int,
        waves: Sequence[Sequence[str]],
        seats: Mapping[str, tuple[Mapping[str, object], ...]],
        now_s: float,
    ) -> Output:
        """Reserve an attempt durably, then ask all its hosts to prepare. Saying it again changes nothing.

        Raises:
            CommitError: another attempt of the job is still under way.
        """
        known = self._attempts.get(job_id)
        if known is not None and known.attempt != attempt:
            raise CommitError(f"job {job_id}: attempt {known.attempt} is {known.stage}, expected it to be over")
        out = Output()
        if known is None:
            frozen = tuple(tuple(dict.fromkeys(wave)) for wave in waves)
            known = Attempt(job_id, attempt, self._epoch, Stage.PREPARING, now_s, frozen, dict(seats))
            self._save(known)
            self._send(known, now_s, out)
        return out

    def stop(self, job_id: str, now_s: float) -> Output:
        """Stop a job: an attempt that has not started is rolled back instead."""
        out = Output()
        known = self._attempts.get(job_id)
        if known is not None and known.stage in {Stage.PREPARING, Stage.STARTING, Stage.RUNNING}:
            stage = Stage.ROLLING_BACK if known.stage is Stage.PREPARING else Stage.STOPPING
            self._enter(known, stage, now_s, out)
        return out

    def answer(self, answer: Answer, now_s: float) -> Output:
        """Take one host's answer; late, doubled and foreign ones change nothing."""
        out = Output()
        known = self._attempts.get(answer.job_id)
        if known is None or known.attempt != answer.attempt or VERB_OF.get(known.stage) is not answer.verb:
            return out
        if answer.host not in known.hosts or answer.host in known.answered:
            return out
        if not answer.is_ack:
            return self._refused(known, answer.host, now_s, out)
        known = replace(known, answered=known.answered | {answer.host})
        self._attempts[known.job_id] = known  # not stored: after a crash all are asked again
        expected = known.waves[known.wave] if known.stage is Stage.STARTING else known.hosts
        if known.answered >= set(expected):
            self._advance(known, now_s, out)
        return out

    def tick(self, now_s: float) -> Output:
        """Roll back preparations that took too long; say again what was not answered."""
        out = Output()
        for known in list(self._attempts.values()):
            if known.stage is Stage.PREPARING and now_s - known.since_s >= RESERVE_TTL_S:
                silent = tuple(host for host in known.hosts if host not in known.answered)
                self._enter(replace(known, blamed=silent), Stage.ROLLING_BACK, now_s, out)
            elif now_s - self._sent_s.get(known.job_id, now_s) >= RESEND_S:
                self._send(known, now_s, out)
        return out

    def _refused(self, known: Attempt, host: str, now_s: float, out: Output) -> Output:
        """Roll back a preparation, stop a start; a host that refuses to stop or abort is asked again."""
        if known.stage is Stage.PREPARING:
            self._enter(replace(known, blamed=(host,)), Stage.ROLLING_BACK, now_s, out)
        elif known.stage is Stage.STARTING:
            self._enter(replace(known, blamed=(host,)), Stage.STOPPING, now_s, out)
        return out

    def _advance(self, known: Attempt, now_s: float, out: Output) -> None:
        if known.stage is Stage.PREPARING:
            self._enter(known, Stage.STARTING, now_s, out)
        elif known.stage is Stage.STARTING and known.wave + 1 < len(known.waves):
            self._enter(replace(known, wave=known.wave + 1), Stage.STARTING, now_s, out)
        elif known.stage is Stage.STARTING:
            self._enter(known, Stage.RUNNING, now_s, out)
            out.reports.append(Report(known.job_id, known.attempt, Outcome.STARTED))
        else:
            failed = known.stage is Stage.ROLLING_BACK or bool(known.blamed)
            outcome = Outcome.FAILED if failed else Outcome.STOPPED
            self._store.delete(known.job_id, known.attempt)
            del self._attempts[known.job_id]
            out.reports.append(Report(known.job_id, known.attempt, outcome, known.blamed))

    def _enter(self, known: Attempt, stage: Stage, now_s: float, out: Output) -> None:
        entered = replace(known, stage=stage, since_s=now_s, answered=frozenset())
        self._save(entered)
        self._send(entered, now_s, out)

    def _save(self, attempt: Attempt) -> None:
        """Make the record durable, then believe it; nothing is sent for a record that could not be stored."""
        self._store.put(attempt)
        self._attempts[attempt.job_id] = attempt

    def _send(self, known: Attempt, now_s: float, out: Output) -> None:
        verb = VERB_OF.get(known.stage)
        if verb is None:
            return
        self._sent_s[known.job_id] = now_s
        hosts = known.waves[known.wave] if verb is Verb.START else known.hosts
        for host in hosts:
            if host not in known.answered:
                seats = known.seats.get(host, ()) if verb is Verb.PREPARE else ()
                out.orders.append(Order(host, verb, known.job_id, known.attempt, known.epoch, known.wave, seats))
