"""The caps of this host's GPUs as one thing: look at the ring, read back, share a budget, write, put back.

Knows devices and ring, nothing of leases: the budget comes in as an argument.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from flyball_fast.errors import RingError
from flyball_fast.ring import Ring
from flyball_governor.bound import DeviceFacts, device_facts
from flyball_governor.cap_book import CapBook, CapRecord, book_of
from flyball_governor.caps import CapWriter
from flyball_governor.config import GovernorConfig
from flyball_governor.demand import DemandMeter, Device, Sample, keep_steady, target_caps
from flyball_governor.device import DeviceSide, PendingWrite, PowerWatch
from flyball_governor.identity import boot_clock_ms
from flyball_governor.journal import JournalError, PriorLimits
from flyball_governor.ring_demand import Look, RingDemand

MEAN_ONLY_RATE_HZ: Final = 0.5  # split rate where a GPU tells only a 1 s mean; docs/lease-protocol.md, control
SAMPLER_SILENT_S: Final = 5.0  # without a tick for this long the sampler counts as stopped

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks the governor lives by: the boot clock for leases, the monotonic one for its own turns."""

    boot_ms: Callable[[], int] = boot_clock_ms
    monotonic_s: Callable[[], float] = time.monotonic
    unix_s: Callable[[], float] = time.time


@dataclass(slots=True)
class HostCaps:
    """All caps of the host; `take_inventory` after the device side has started."""

    config: GovernorConfig
    side: DeviceSide
    prior: PriorLimits
    clock: Clock
    book: CapBook = field(init=False)
    writer: CapWriter = field(init=False)
    watch: PowerWatch | None = None  # who tells excursions, where the device side can
    ring: Ring | None = None
    targets: tuple[int, ...] = ()
    _ring_inode: int = 0
    _demand: RingDemand | None = None
    _meters: tuple[DemandMeter, ...] = ()
    _peaks: tuple[int | None, ...] = ()
    _decided_on: tuple[object, ...] = ()
    _watched: tuple[int, tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        """Begin without GPUs."""
        self.book = book_of((), 0)
        self.writer = CapWriter(self.side, self.book, self.prior, self.clock.boot_ms)

    @property
    def is_enforcing(self) -> bool:
        """Whether caps are written at all."""
        return self.config.effective_mode == "enforce"

    @property
    def error_ppm(self) -> int:
        """How far a device's mean power may exceed its cap, parts per million."""
        return round(self.config.caps.error_ratio * 1_000_000)

    @property
    def rate_hz(self) -> float:
        """How often to share the budget."""
        has_instant = all("power_instant" in info.capabilities for info in self.side.inventory())
        return self.config.split.rate_hz if has_instant else min(self.config.split.rate_hz, MEAN_ONLY_RATE_HZ)

    def take_inventory(self) -> None:
        """Begin anew with the GPUs that the device side has found."""
        infos = self.side.inventory()
        self.book = self.writer.book = book_of(infos, round(self.config.caps.settle_s * 1000))
        headroom = self.config.split.headroom_ratio
        self._meters = tuple(DemandMeter(headroom, record.cap.maximum_milliwatts) for record in self.book.records)
        self._peaks = (None,) * len(infos)

    def journal_priors(self) -> None:
        """Have every GPU's present limit on disk, once for all, before anything is written."""
        limits = {record.cap.uuid: record.limit_milliwatts for record in self.book.records}
        try:
            self.prior.remember({uuid: limit for uuid, limit in limits.items() if limit is not None})
        except JournalError as error:
            self.writer.journal_error = str(error)
            log.warning("no cap will be written: %s", error)

    def facts(self) -> DeviceFacts:
        """Return what the devices allow now, all GPUs together."""
        return device_facts(
            self.book.caps(self.side.pending_writes()),
            self.error_ppm,
            has_foreign_cap=self.is_enforcing and self.book.is_foreign_capped(self.clock.boot_ms()),
            can_write=self.is_enforcing and self.writer.can_write,
            is_persistent=all(info.persistence is not False for info in self.side.inventory()),
        )

    def attach_ring(self) -> bool:
        """Map the sampler's ring where it is a new one; say whether it was."""
        fd = self.side.ring_fd()
        inode = 0 if fd is None else os.fstat(fd).st_ino
        if inode == self._ring_inode:
            return False
        self.let_go_of_ring()
        self._ring_inode = inode
        if fd is None:
            return True
        try:
            self.ring = Ring.attach(os.dup(fd))
            self._demand = RingDemand(self.ring)
        except RingError as error:
            log.warning("sample ring: %s", error)
        return True

    def let_go_of_ring(self) -> None:
        """Unmap the ring."""
        if self.ring is not None:
            self.ring.close()
        self.ring, self._demand, self._ring_inode = None, None, 0

    def is_sampler_ticking(self) -> bool:
        """Say whether the sampler woke lately, or is not asked to."""
        if not self.config.sampling.enabled:
            return True
        return self.ring is not None and time.monotonic_ns() - self.ring.heartbeat().tick_ns < SAMPLER_SILENT_S * 1e9

    def look(self) -> bool:
        """Take in power and throttling of each GPU; end settling where power is under its cap: say whether any did."""
        looks = self._demand.look() if self._demand is not None else ()
        if len(looks) != len(self._meters):
            looks = (Look(Sample(), None),) * len(self._meters)
        now_s = self.clock.monotonic_s()
        for meter, look, limit in zip(self._meters, looks, self.book.limits(), strict=True):
            meter.observe(now_s, look.sample, limit)
        self._peaks = tuple(meter.fast_peak for meter in self._meters)
        return self.book.take_power(self.clock.boot_ms(), [look.power_milliwatts for look in looks])

    async def read_back(self) -> list[CapRecord]:
        """Read every limit; return the records that another hand has changed where that is ours to mind."""
        changed = await self.writer.read_back()
        return changed if self.is_enforcing else []

    async def share(self, budget_milliwatts: int) -> bool:
        """Decide each GPU's cap inside the budget, and write where that is due; say whether anything was written.

        In observe it only decides. What was decided stands until budget, limits or demand are others.
        """
        pending = self.side.pending_writes()
        grounds = self._grounds(budget_milliwatts, pending)
        if grounds != self._decided_on:
            self.targets = self._targets(budget_milliwatts, pending)
            self._decided_on = grounds
        if not self.is_enforcing:
            return False
        written = self.targets != self.book.limits()
        if written:
            written = await self.writer.move(self.targets, budget_milliwatts, self._peaks)
        return written

    def watch_power(self, budget_milliwatts: int) -> None:
        """Have power above what caps and budget allow now told as an excursion; lowered caps count once settled."""
        if self.watch is None or not self.is_enforcing:
            return
        exposures = self.book.exposures(self.side.pending_writes())
        watched = (max(budget_milliwatts, sum(exposures)), exposures)
        if watched != self._watched:
            self._watched = watched
            self.watch.watch_power(*watched, self.config.caps.excursion_s)

    def _grounds(self, budget_milliwatts: int, pending: Sequence[PendingWrite]) -> tuple[object, ...]:
        """Return all that a decision rests on."""
        limits = tuple((record.limit_milliwatts, record.ceiling_milliwatts) for record in self.book.records)
        demand = tuple((meter.slow, meter.fast, meter.is_held_back) for meter in self._meters)
        return (budget_milliwatts, pending, limits, demand, self.side.health() if pending else None)

    async def restore(self) -> bool:
        """Put the prior limits back under a release; say whether all stand, which also forgets them.

        Raises:
            JournalError: they stand, but the disk will not forget them.
        """
        exposures = self.book.exposures(self.side.pending_writes())
        targets = [self.prior.known.get(record.cap.uuid, exposures[record.gpu]) for record in self.book.records]
        if self.is_enforcing:
            room = sum(record.cap.maximum_milliwatts for record in self.book.records)
            await self.writer.move(targets, room, self._peaks)
        known = [record for record in self.book.records if record.cap.uuid in self.prior.known]
        if any(record.limit_milliwatts != self.prior.known[record.cap.uuid] for record in known):
            return False
        self.prior.forget({record.cap.uuid for record in known})
        return True

    def _targets(self, budget_milliwatts: int, pending: Sequence[PendingWrite]) -> tuple[int, ...]:
        """Split the budget over the GPUs that can be moved; the others keep what they may draw."""
        health = self.side.health()
        exposures = self.book.exposures(pending)
        stuck = {write.gpu for write in pending} | health.lost | health.stalled
        movable = [
            record
            for record in self.book.records
            if record.is_writable and record.limit_milliwatts is not None and record.gpu not in stuck
        ]
        fixed = sum(exposures) - sum(exposures[record.gpu] for record in movable)
        caps = self._share_of(movable, budget_milliwatts - fixed)
        found = {record.gpu: cap for record, cap in zip(movable, caps, strict=True)}
        return tuple(found.get(gpu, exposure) for gpu, exposure in enumerate(exposures))

    def _share_of(self, movable: list[CapRecord], budget_milliwatts: int) -> tuple[int, ...]:
        devices = tuple(Device(record.cap.minimum_milliwatts, record.ceiling_milliwatts) for record in movable)
        meters = tuple(self._meters[record.gpu] for record in movable)
        by_demand = self.config.split.enabled and self.config.sampling.enabled
        wanted = target_caps(budget_milliwatts, devices, meters, by_demand=by_demand)
        bands = tuple(int(device.maximum_milliwatts * self.config.caps.dead_band_ratio) for device in devices)
        limits = tuple(record.limit_milliwatts for record in movable)
        return keep_steady(limits, wanted, budget_milliwatts, bands)
