"""Carry faults from the kernel log and other sources to isolation, repair and release.

Each input is on disk first, then in the health file, then acted on, so that new work is refused before anything slow
begins. Acts run beside each other, one at a time for an entity: what hangs for one GPU delays no other.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from flyball_agent.facts import Entity, facts_of_message
from flyball_agent.health import HealthMachine
from flyball_agent.health_inputs import Input, Intent, Progress
from flyball_agent.health_journal import HealthJournal
from flyball_agent.isolation import Isolation, StepResult, Target
from flyball_agent.isolation_guard import IsolationGuard, Surroundings, Verdict
from flyball_agent.kernel_log import KernelLog
from flyball_agent.kernel_messages import KernelMessage
from flyball_agent.together import run_together

PERMIT_S: Final = 0.5  # no answer by then is no answer; the offline rule decides
TICK_S: Final = 1.0
PAUSE_S: Final = 0.2  # of reading in a flood; the kernel's ring keeps what comes meanwhile
IDLE_WAKES: Final = 4  # readable and nothing to read, this often in a row
MAX_DECISIONS: Final = 1000


class Hands(Protocol):
    """What the keeper needs done by others: jobs, governor, aggregator."""

    async def ask_permit(self, target: Target) -> bool | None:
        """Return the aggregator's answer, None when nobody answers."""

    async def drain(self, target: Target) -> str | None:
        """Tell work to leave and return, in words, how it is known to have left; None when it may still be there."""

    async def repair(self, target: Target, action: str) -> tuple[bool, str]:
        """Return (done, proof or reason)."""

    async def validate(self, target: Target) -> tuple[bool, str]:
        """Return (passed, what was checked)."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided about one intent, by which rule, and what came of it."""

    at_s: float
    intent: Intent
    verdict: Verdict
    results: tuple[StepResult, ...] = ()


@dataclass(slots=True)
class KeeperParts:
    """What a keeper is made of.

    Args:
        now_s: Unix time of a steady clock, seconds.
        surroundings: What the guard is told at each decision.
        target_of: The target of an intent: host name, index and UUID of its GPU.
        publish_state: Writes the health file; called after every change and with each tick.
        tell: Takes each decision, for the event topic and the explanation.
        note_taken: Called after inputs, once what they change is on disk and being acted on.
    """

    journal: HealthJournal
    guard: IsolationGuard
    isolation: Isolation
    hands: Hands
    now_s: Callable[[], float]
    surroundings: Callable[[HealthMachine], Surroundings]
    target_of: Callable[[Intent], Target]
    publish_state: Callable[[], None]
    tell: Callable[[Decision], None]
    note_taken: Callable[[], None] = lambda: None
    decisions: deque[Decision] = field(default_factory=lambda: deque(maxlen=MAX_DECISIONS))


class FaultKeeper:
    """Runs the parts; use `async with`, then `run` for the log and `take` for everything else."""

    def __init__(self, parts: KeeperParts) -> None:
        self._parts = parts
        self._locks: dict[Entity, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Re-apply what stands, before new work is accepted."""
        self.reassert()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop acting; isolations stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def machine(self) -> HealthMachine:
        """Return the health machine, to read."""
        return self._parts.journal.machine

    def take(self, given: Input) -> None:
        """Take one input; what must be refused is refused when this returns."""
        self.take_all([given])

    def take_all(self, inputs: Sequence[Input]) -> None:
        """Take inputs that came together, with one write to the disk."""
        self._carry_out(self._parts.journal.apply_all(inputs))
        self._parts.note_taken()

    def tick(self) -> None:
        """Let time pass and keep the health file fresh."""
        self._carry_out(self._parts.journal.tick(self._parts.now_s()))
        self._parts.publish_state()

    def reassert(self) -> None:
        """Isolate again whatever should be: after a start, or when the host begins to enforce."""
        for entity, health in self.machine.healths.items():
            if health.state.refuses_work:
                incident = health.top_incident()
                self._begin(Intent("isolate", entity, incident.id if incident else "", health.why))
        self._parts.publish_state()

    async def run(self, log: KernelLog, descriptor: int) -> None:
        """Follow the kernel log, and time, until cancelled."""
        await run_together(self.follow(log, descriptor), self._run_ticks())

    async def follow(self, log: KernelLog, descriptor: int) -> None:
        """Follow the kernel log until cancelled; the descriptor stays the caller's to close."""
        log.start()
        loop, ready, idle = asyncio.get_running_loop(), asyncio.Event(), 0
        loop.add_reader(descriptor, ready.set)
        try:
            while True:
                read = log.counters.records
                self.read_log(log)
                idle = idle + 1 if log.counters.records == read else 0
                if log.is_exhausted or idle > IDLE_WAKES:
                    await self._pause(descriptor, ready)  # a flood, or a peer that is gone: never spin
                ready.clear()
                await ready.wait()
        finally:
            loop.remove_reader(descriptor)

    async def _pause(self, descriptor: int, ready: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(descriptor)
        await asyncio.sleep(PAUSE_S)
        loop.add_reader(descriptor, ready.set)

    async def _run_ticks(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    async def recheck(self) -> None:
        """Look whether each isolation still stands, and set up again what somebody has taken down."""
        parts = self._parts
        for entity, health in list(self.machine.healths.items()):
            if not health.state.refuses_work:
                continue
            incident = health.top_incident()
            intent = Intent("isolate", entity, incident.id if incident else "", "it did not stand any more")
            missing = await parts.isolation.missing(parts.target_of(intent))
            if missing and parts.guard.judge(intent, parts.surroundings(self.machine)).is_allowed:
                results = tuple(await parts.isolation.isolate(parts.target_of(intent)))
                self._decide(intent, Verdict(True, f"taken down by another hand: {', '.join(missing)}"), results)

    def read_log(self, log: KernelLog) -> None:
        """Take the facts of all records that are there now."""
        for message in log.read_ready():
            self.take_message(message)

    def take_message(self, message: KernelMessage) -> None:
        """Take the facts of one kernel message."""
        boot_id = self.machine.host.boot_id
        for fact in facts_of_message(message, at_s=self._parts.now_s(), boot_id=boot_id):
            self.take(fact)

    async def wait_idle(self) -> None:
        """Wait until nothing is being done."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _carry_out(self, intents: list[Intent]) -> None:
        if intents:
            self._parts.publish_state()
        for intent in intents:
            self._begin(intent)

    def _begin(self, intent: Intent) -> None:
        parts = self._parts
        verdict = parts.guard.judge(intent, parts.surroundings(self.machine))
        if intent.kind == "notify" or not verdict.is_allowed:
            self._decide(intent, verdict)
            return
        parts.guard.count(intent, parts.now_s())
        task = asyncio.get_running_loop().create_task(self._act(intent, verdict), name=f"{intent.kind} {intent.entity}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _act(self, intent: Intent, verdict: Verdict) -> None:
        """Carry out one intent and feed its outcome back."""
        async with self._locks.setdefault(intent.entity, asyncio.Lock()):
            target = self._parts.target_of(intent)
            step, detail, results = await self._do(intent, target)
        self._decide(intent, verdict, results)
        if step:
            self.take(Progress(self._parts.now_s(), intent.entity, step, detail))

    async def _do(self, intent: Intent, target: Target) -> tuple[str, str, tuple[StepResult, ...]]:
        hands = self._parts.hands
        if intent.kind == "isolate":
            results = tuple(await self._parts.isolation.isolate(target))
            is_isolated = any(result.is_effective for result in results)
            return ("isolated" if is_isolated else ""), _summary(results), results
        if intent.kind == "release":
            return "", "", tuple(await self._parts.isolation.release(target))
        if intent.kind == "drain":
            told = await hands.drain(target)
            return ("" if told is None else "drained"), told or "", ()
        if intent.kind == "repair":
            return await self._repair(intent, target)
        if intent.kind == "validate":
            is_passed, detail = await hands.validate(target)
            return ("validated" if is_passed else "validation_failed"), detail, ()
        return await self._ask(intent, target), "", ()

    async def _repair(self, intent: Intent, target: Target) -> tuple[str, str, tuple[StepResult, ...]]:
        self.take(Progress(self._parts.now_s(), intent.entity, "repair_started", intent.detail))
        is_done, detail = await self._parts.hands.repair(target, intent.detail)
        return ("repaired" if is_done else "repair_failed"), detail, ()

    async def _ask(self, intent: Intent, target: Target) -> str:
        answer: bool | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PERMIT_S):
                answer = await self._parts.hands.ask_permit(target)
        if answer is None:
            codes = [cause.code for cause in self.machine.healths[intent.entity].open_causes()]
            answer = self._parts.guard.answer_offline(intent, codes)
        else:
            self._parts.guard.back_online()
        return "permit_granted" if answer else "permit_refused"

    def _decide(self, intent: Intent, verdict: Verdict, results: tuple[StepResult, ...] = ()) -> None:
        decision = Decision(self._parts.now_s(), intent, verdict, results)
        self._parts.decisions.append(decision)
        self._parts.tell(decision)


def _summary(results: tuple[StepResult, ...]) -> str:
    return ", ".join(f"{result.actuator} {result.outcome}" for result in results)
