"""The governor's parent: keeps the lease, has its watts shared out as caps, and never calls a driver itself.

One loop at the split's rate. Each turn looks at the ring, lets the keeper see time and bound, and moves caps inside the
budget that the keeper allows.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from flyball_fast.errors import DeviceError
from flyball_governor.bound import DeviceFacts
from flyball_governor.cap_book import CapRecord
from flyball_governor.config import GovernorConfig
from flyball_governor.device import DeviceSide, PowerWatch
from flyball_governor.gate import Gate
from flyball_governor.host_caps import Clock, HostCaps
from flyball_governor.identity import Identity
from flyball_governor.journal import JournalError, PriorLimits, StateFile
from flyball_governor.lease_keeper import (
    BoundChanged,
    HostLimitChanged,
    KeeperEvent,
    KeeperSettings,
    QuiesceEnded,
    QuiesceStarted,
    Stopping,
    Tick,
)
from flyball_governor.lease_seat import LeaseSeat
from flyball_wire.local_socket import DeviceEvent, Reply, ReportReply
from flyball_wire.units import cap_milliwatts

STUCK_WRITER_S: Final = 2.0  # a write that takes longer is left behind, once the bound counts it
HOUSEKEEPING_S: Final = 1.0
KEEPER_TICK_S: Final = 0.2  # how finely the keeper sees a lease run out

log = logging.getLogger(__name__)


def _publish_nowhere(reply: Reply) -> None:
    """Stand in until somebody listens."""


class Governor:
    """One host's governor; construction starts nothing, `begin` reads devices and disk, `run` goes on until stopped.

    Attributes:
        publish: Where unasked replies go (reports, events).
        on_new_ring: Called when the sample ring is another one than before.
    """

    def __init__(
        self,
        config: GovernorConfig,
        identity: Identity,
        side: DeviceSide,
        clock: Clock | None = None,
        watch: PowerWatch | None = None,
    ) -> None:
        self.config = config
        self.identity = identity
        self.side = side
        self.clock = clock or Clock()
        folder = Path(config.state_dir)
        self.gate = Gate(folder / "gate")
        self.caps = HostCaps(config, side, PriorLimits(StateFile(folder / "prior_limits")), self.clock, watch)
        self.seat = LeaseSeat(identity, self._settings(), StateFile(folder / "lease"), self, self.clock.boot_ms)
        self.publish: Callable[[Reply], None] = _publish_nowhere
        self.on_new_ring: Callable[[], None] = lambda: None
        self.is_quiesced = False
        self.restart_reason: str | None = None
        self.notes: dict[str, str] = {}
        self._told: DeviceFacts | None = None
        self._agent_limit_milliwatts: int | None = None
        self._is_release_due = False
        self._moving = asyncio.Lock()
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._resume_at_s: float | None = None
        self._next_read_back_s = 0.0
        self._next_housekeeping_s = 0.0
        self._next_keeper_tick_s = 0.0

    # Life.

    async def begin(self) -> None:
        """Read devices and disk, have prior limits on disk, and let the keeper begin.

        Raises:
            DeviceError: there is no device to be had.
        """
        await self.side.start()
        self.caps.prior.load()
        self.caps.take_inventory()
        self.seat.settings = self._settings()
        await self.caps.read_back()
        if self.caps.is_enforcing:
            self.caps.journal_priors()
        self.caps.attach_ring()
        self._told = self.caps.facts()
        await self.seat.begin(self._told)

    async def run(self) -> None:
        """Take turns until `stop`; caps stay as they are."""
        period_s = 1.0 / self.caps.rate_hz
        due_s = self.clock.monotonic_s()
        while not self._stop.is_set():
            await self.turn()
            due_s = max(due_s + period_s, self.clock.monotonic_s())
            await self._wait(due_s - self.clock.monotonic_s())
        await self.seat.handle(Stopping(self.clock.boot_ms()))

    def stop(self) -> None:
        """End `run` after the present turn."""
        self._stop.set()
        self._wake.set()

    def restart(self, reason: str) -> None:
        """End `run` so that the service starts again with a fresh incarnation."""
        log.warning("starting again: %s", reason)
        self.restart_reason = reason
        self.stop()

    def is_sampler_ticking(self) -> bool:
        """Say whether the sampler woke lately; one that has let go of the devices need not."""
        return self.is_quiesced or self.caps.is_sampler_ticking()

    async def close(self) -> None:
        """End the device side and let go of the ring; no cap changes."""
        self.caps.let_go_of_ring()
        await self.side.stop()

    # One turn.

    async def turn(self) -> None:
        """Look, decide, write."""
        now_s = self.clock.monotonic_s()
        is_changed = await self._read(now_s)
        if now_s >= self._next_keeper_tick_s:
            self._next_keeper_tick_s = now_s + KEEPER_TICK_S
            await self.seat.handle(Tick(self.clock.boot_ms()))
        is_changed |= await self._move()
        if is_changed or self.side.pending_writes():
            await self._tell_bound()
        if now_s >= self._next_housekeeping_s:
            self._next_housekeeping_s = now_s + HOUSEKEEPING_S
            await self._keep_house()

    async def _read(self, now_s: float) -> bool:
        """Look at the ring, and at the limits where that is due; say whether the bound may have changed."""
        if self.is_quiesced:
            return False
        is_changed = self.caps.look()
        if now_s < self._next_read_back_s:
            return is_changed
        self._next_read_back_s = now_s + self.config.caps.read_back_s
        self._tell_foreign(await self.caps.read_back())
        return True

    async def decide(self, event: KeeperEvent) -> None:
        """Hand the keeper an event from outside and take the next turn at once."""
        await self.seat.handle(event)
        self._wake.set()

    # What others ask for.

    async def lower(self, limit_milliwatts: int | None) -> None:
        """Hold the host at a local limit, inside the file's own; None takes it away again."""
        self._agent_limit_milliwatts = limit_milliwatts
        limits = (self._file_limit_milliwatts(), limit_milliwatts)
        lowest = min((limit for limit in limits if limit is not None), default=None)
        await self.decide(HostLimitChanged(lowest, self.clock.boot_ms()))

    async def quiesce(self, reason: str, *, resume_after_s: float | None = None) -> None:
        """Shut the gate, then let go of every device descriptor; with a time, try to take them again after it."""
        self._resume_at_s = None if resume_after_s is None else self.clock.monotonic_s() + resume_after_s
        if self.is_quiesced:
            return
        await self.seat.handle(QuiesceStarted(reason, is_idle=False, now_ms=self.clock.boot_ms()))
        async with self._moving:
            self.is_quiesced = True
            await self.side.quiesce()
            await self.caps.read_back()
        await self._tell_bound()

    async def resume(self) -> None:
        """Attach to the devices again, bring caps under the budget, and only then let the keeper go on."""
        async with self._moving:
            if self.is_quiesced:
                await self.side.resume()
            self.is_quiesced = False
            self._resume_at_s = None
            await self.caps.read_back()
            self.caps.book.release_foreign()
        await self._move()
        self._told = self.caps.facts()
        await self.decide(QuiesceEnded(self._told, self.clock.boot_ms()))

    # What the keeper decides (SeatListener).

    def handle_gate(self, *, is_open: bool, reason: str) -> None:
        """Open or shut the workload gate."""
        try:
            if self.gate.set(is_open=is_open, reason=reason):
                log.info("gate %s: %s", "open" if is_open else "shut", reason)
            self.notes.pop("gate", None)
        except JournalError as error:
            self.notes["gate"] = str(error)

    def handle_report(self, envelope: bytes) -> None:
        """Hand a signed report to whoever relays it."""
        self.publish(ReportReply(0, envelope))

    def handle_release(self) -> None:
        """Have the prior limits put back in the next turn."""
        self._is_release_due = True
        self._wake.set()

    # Inside.

    def _settings(self) -> KeeperSettings:
        return KeeperSettings(
            host=self.identity.host,
            gpu_uuids=tuple(info.uuid for info in self.side.inventory()),
            mode=self.config.effective_mode,
            error_ppm=self.caps.error_ppm,
            host_limit_milliwatts=self._file_limit_milliwatts(),
            is_standalone=not self.config.is_lease_needed,
        )

    def _file_limit_milliwatts(self) -> int | None:
        limit_w = self.config.host_limit_w
        return None if limit_w is None else cap_milliwatts(limit_w)

    async def _move(self) -> bool:
        """Bring the caps towards what the budget gives, or back to their prior values under a release.

        Returns:
            Whether anything was written.
        """
        async with self._moving:
            if self.is_quiesced:
                return False
            if self._is_release_due:
                with suppress(JournalError):
                    self._is_release_due = not await self.caps.restore()
                return True
            if self.seat.state.is_released:
                return False
            return await self.caps.share(self.seat.budget_milliwatts)

    async def _tell_bound(self) -> None:
        """Tell the keeper what the devices allow now, when that has changed."""
        facts = self.caps.facts()
        if facts != self._told:
            self._told = facts
            await self.seat.handle(BoundChanged(facts, self.clock.boot_ms()))

    def _tell_foreign(self, changed: list[CapRecord]) -> None:
        for record in changed:
            found, left = record.limit_milliwatts, record.written_milliwatts
            log.warning(
                "gpu %d: limit %s mW, we had left %s mW: another hand writes limits here", record.gpu, found, left
            )
            fields = (("found_milliwatts", str(found)), ("left_milliwatts", str(left)))
            self.publish(DeviceEvent(0, self.clock.unix_s(), "foreign_cap", "warning", record.gpu, fields))

    async def _keep_house(self) -> None:
        """Once a second: notice a new ring, leave a stuck writer behind once its write is counted, resume when due.

        The watch on power follows caps within that second too: later than a lowering, so that it settles first.
        """
        if self.caps.attach_ring():
            self.on_new_ring()
        wanted = self.seat.state.is_gate_open and self.seat.journal_error is None
        if wanted != self.gate.is_open:  # the file could not be written, or the disk held the opening back
            self.handle_gate(is_open=wanted, reason=self.seat.state.phase if wanted else self.gate.reason)
        now_s = time.monotonic()
        if any(now_s - write.since_monotonic_s > STUCK_WRITER_S for write in self.side.pending_writes()):
            await self._tell_bound()
            try:
                await self.side.replace_writer()
            except DeviceError as error:
                self.notes["writer"] = str(error)
        self.caps.watch_power(self.seat.budget_milliwatts)
        await self._resume_if_due()

    async def _resume_if_due(self) -> None:
        """Take the devices again after the driver had let us go; one that is not back yet is asked again later."""
        now_s = self.clock.monotonic_s()
        if self._resume_at_s is None or now_s < self._resume_at_s:
            return
        try:
            await self.resume()
            self.notes.pop("driver", None)
        except DeviceError as error:
            self._resume_at_s = now_s + self.config.driver.retry_s
            self.notes["driver"] = str(error)

    async def _wait(self, seconds: float) -> None:
        """Sleep, unless woken."""
        timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._wake.set)
        await self._wake.wait()
        timer.cancel()
        self._wake.clear()
