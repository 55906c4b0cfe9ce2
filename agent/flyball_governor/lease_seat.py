"""Drive the pure lease keeper: events in, its effects carried out in their order, one event at a time.

What a record must have on disk first is held back until the disk has it; lowering and shutting the gate never wait.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from flyball_governor.bound import DeviceFacts
from flyball_governor.identity import Identity
from flyball_governor.journal import JournalError, StateFile
from flyball_governor.lease_keeper import (
    KeeperEffect,
    KeeperEvent,
    KeeperRecord,
    KeeperSettings,
    KeeperState,
    Note,
    OpenGate,
    Persist,
    RestorePriors,
    SendReport,
    SetBudget,
    ShutGate,
    Started,
    start,
    step,
)
from flyball_wire.codec import from_plain, to_plain
from flyball_wire.errors import WireError
from flyball_wire.signing import sign

DISK_WAIT_S: Final = 1.0  # what takes longer is tried again at the next event; leases come every third of their life

log = logging.getLogger(__name__)


class SeatListener(Protocol):
    """Who carries out what the keeper decides."""

    def handle_gate(self, *, is_open: bool, reason: str) -> None:
        """Open or shut the workload gate."""

    def handle_report(self, envelope: bytes) -> None:
        """Hand a signed report to whoever relays it."""

    def handle_release(self) -> None:
        """Put the prior limits back."""


def read_record(file: StateFile) -> KeeperRecord | None:
    """Return what an earlier governor left; None when there is nothing sound."""
    plain = file.read()
    if plain is None:
        return None
    try:
        record: KeeperRecord = from_plain(KeeperRecord, plain)
    except WireError as error:
        log.warning("%s: not used: %s", file.path, error)
        return None
    return record


@dataclass(slots=True)
class LeaseSeat:
    """The keeper's state and its hands; `state` exists from `begin` on."""

    identity: Identity
    settings: KeeperSettings
    file: StateFile
    listener: SeatListener
    clock_ms: Callable[[], int]
    budget_milliwatts: int = 0
    envelope: bytes | None = None
    journal_error: str | None = None
    notes: list[str] = field(default_factory=list)
    _state: KeeperState | None = None
    _unsaved: KeeperRecord | None = None
    _held_budget: int | None = None
    _is_gate_held: bool = False
    _writing: asyncio.Task[None] | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def state(self) -> KeeperState:
        """What the keeper knows.

        Raises:
            RuntimeError: asked before `begin`.
        """
        if self._state is None:
            raise RuntimeError("the lease keeper has not begun")
        return self._state

    async def begin(self, facts: DeviceFacts) -> None:
        """Take the first reading of the devices and what is on disk."""
        event = Started(
            self.settings,
            self.identity.incarnation,
            self.identity.boot_id,
            self.clock_ms(),
            read_record(self.file),
            facts,
        )
        async with self._turn:
            self._state, effects = start(event)
            await self._carry_out(effects)

    async def handle(self, event: KeeperEvent) -> None:
        """Let the keeper decide about one event and carry out what it says."""
        async with self._turn:
            if self._unsaved is not None:
                await self._save(self._unsaved)
            self._state, effects = step(self.state, event)
            await self._carry_out(effects)

    async def _carry_out(self, effects: tuple[KeeperEffect, ...]) -> None:
        for effect in effects:
            match effect:
                case Persist(record):
                    await self._save(record)
                case SetBudget(milliwatts):
                    self._set_budget(milliwatts)
                case ShutGate(reason):
                    self._is_gate_held = False
                    self.listener.handle_gate(is_open=False, reason=reason)
                case OpenGate():
                    self._open_gate()
                case SendReport():
                    self._send_report(effect)
                case RestorePriors():
                    self.listener.handle_release()
                case Note(text):
                    self._note(text)

    async def _save(self, record: KeeperRecord) -> None:
        """Bring a record to disk without holding the loop up; until it is there, nothing is raised or reported."""
        self._unsaved = record
        trouble = await self._write(record)
        if trouble is not None:
            if self.journal_error is None:
                log.warning("%s", trouble)
            self.journal_error = trouble
            return
        self._unsaved = self.journal_error = None
        if self._held_budget is not None:
            self.budget_milliwatts, self._held_budget = self._held_budget, None
        if self._is_gate_held:
            self._open_gate()

    async def _write(self, record: KeeperRecord) -> str | None:
        """Return None once the record is on disk, else what is in the way; a disk that hangs holds nothing else up."""
        if self._writing is not None and not self._writing.done():
            return f"{self.file.path}: the disk does not answer"
        self._writing = asyncio.create_task(asyncio.to_thread(self.file.write, to_plain(record)))
        done, _ = await asyncio.wait([self._writing], timeout=DISK_WAIT_S)
        if not done:
            return f"{self.file.path}: the disk does not answer"
        error = self._writing.exception()
        if error is not None and not isinstance(error, JournalError):
            raise error
        return None if error is None else str(error)

    def _set_budget(self, milliwatts: int) -> None:
        if self._unsaved is None or milliwatts <= self.budget_milliwatts:
            self.budget_milliwatts, self._held_budget = milliwatts, None
        else:
            self._held_budget = milliwatts

    def _open_gate(self) -> None:
        self._is_gate_held = self._unsaved is not None
        if not self._is_gate_held:
            self.listener.handle_gate(is_open=True, reason=self.state.phase)

    def _send_report(self, effect: SendReport) -> None:
        if self._unsaved is not None:
            return
        self.envelope = sign(effect.report, self.identity.key)
        self.listener.handle_report(self.envelope)

    def _note(self, text: str) -> None:
        log.info("lease: %s", text)
        self.notes = [*self.notes[-7:], text]
