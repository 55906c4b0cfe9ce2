"""What is known of each GPU's cap: read back, in flight, settling, changed by another hand. Pure; times come in.

What a GPU may draw by its cap is `flyball_governor.bound`'s business; here is what our writes and readings do to it.
Times are milliseconds of the boot clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from flyball_governor.bound import GpuCap, gpu_bound_milliwatts, with_power, with_read_back, with_write_returned
from flyball_governor.device import GpuInfo, Limits, PendingWrite

FOREIGN_HOLD_MS: Final = 10_000  # how long another hand's write marks the host after it was last seen
SETTLE_MARGIN: Final = 1.5  # over the longest settling measured
SETTLE_LEAST_MS: Final = 100  # refresh of the instant power field
LARGEST_BOARD_MILLIWATTS: Final = 1_400_000  # GB300, the largest board known


@dataclass(slots=True)
class SettleProbe:
    """How long power takes to come under a lowered cap on this host: measured, with the configured time until then."""

    configured_ms: int
    longest_ms: int | None = None

    def observe(self, took_ms: int) -> None:
        """Take in one measured settling."""
        self.longest_ms = max(took_ms, self.longest_ms or 0)

    @property
    def limit_ms(self) -> int:
        """After this time a lowered cap counts as in effect even where power cannot be read."""
        if self.longest_ms is None:
            return self.configured_ms
        return max(SETTLE_LEAST_MS, int(SETTLE_MARGIN * self.longest_ms))


@dataclass(slots=True)
class CapRecord:
    """One GPU's cap and its history.

    `written_milliwatts` is what stood in the device after our last write, None before the first; `lowered_ms` is when a
    cap was lowered whose settling is being measured; `foreign_ceiling_milliwatts` another hand's limit below ours.
    """

    gpu: int
    cap: GpuCap
    is_writable: bool
    written_milliwatts: int | None = None
    lowered_ms: int | None = None
    foreign_seen_ms: int | None = None
    foreign_ceiling_milliwatts: int | None = None
    refusal: str | None = None
    refused_ms: int = 0

    @property
    def limit_milliwatts(self) -> int | None:
        """The limit that stands in the device; None while unknown."""
        return self.cap.limit_milliwatts

    @property
    def ceiling_milliwatts(self) -> int:
        """The most we may set: another hand's lower limit is not undone."""
        return min(self.cap.maximum_milliwatts, self.foreign_ceiling_milliwatts or self.cap.maximum_milliwatts)

    def with_pending(self, pending: Sequence[PendingWrite]) -> GpuCap:
        """Return the cap with every write that has not returned, ours in flight and those left behind."""
        waiting = tuple(write.limit_mw for write in pending if write.gpu == self.gpu and write.limit_mw is not None)
        return replace(self.cap, pending_milliwatts=self.cap.pending_milliwatts + waiting)


@dataclass(slots=True)
class CapBook:
    """The caps of all GPUs of the host."""

    records: tuple[CapRecord, ...]
    settle: SettleProbe

    def caps(self, pending: Sequence[PendingWrite]) -> tuple[GpuCap, ...]:
        """Return what is known of each GPU's cap, unreturned writes included."""
        return tuple(record.with_pending(pending) for record in self.records)

    def exposures(self, pending: Sequence[PendingWrite]) -> tuple[int, ...]:
        """Return the most each GPU may draw by its cap, in milliwatts."""
        return tuple(gpu_bound_milliwatts(cap) for cap in self.caps(pending))

    def limits(self) -> tuple[int | None, ...]:
        """Return each GPU's limit as read back, in milliwatts."""
        return tuple(record.limit_milliwatts for record in self.records)

    def take_read_back(self, now_ms: int, limits: Sequence[Limits | None]) -> list[CapRecord]:
        """Take in a reading of every GPU; return the records that another hand has changed since our write."""
        changed = []
        for record, read in zip(self.records, limits, strict=True):
            if record.cap.pending_milliwatts:
                continue  # our own write is on its way: its own read-back tells
            limit = standing_limit(read)
            record.cap = with_read_back(record.cap, limit, now_ms, self.settle.limit_ms)
            if _is_foreign(record, now_ms, limit):
                changed.append(record)
        return changed

    def take_write(self, now_ms: int, record: CapRecord, cap_milliwatts: int, limits: Limits | None) -> None:
        """Take in our own write's return and the reading after it."""
        limit = standing_limit(limits)
        record.cap = with_write_returned(record.cap, cap_milliwatts, limit, now_ms, self.settle.limit_ms)
        if limit is None:
            return
        record.written_milliwatts = limit
        if record.foreign_ceiling_milliwatts is not None and limit < record.foreign_ceiling_milliwatts:
            record.foreign_ceiling_milliwatts = None
        if record.cap.settling_milliwatts is not None:
            record.lowered_ms = now_ms

    def take_power(self, now_ms: int, powers_milliwatts: Sequence[int | None]) -> bool:
        """End settling where power is under the cap or the time is over; say whether any ended."""
        ended = False
        for record, power in zip(self.records, powers_milliwatts, strict=True):
            if record.cap.settling_milliwatts is None:
                continue
            is_late = now_ms >= record.cap.settled_at_ms
            record.cap = with_power(record.cap, now_ms, power)
            if record.cap.settling_milliwatts is None:
                ended = True
                if record.lowered_ms is not None and not is_late:
                    self.settle.observe(now_ms - record.lowered_ms)
                record.lowered_ms = None
        return ended

    def is_foreign_capped(self, now_ms: int) -> bool:
        """Say whether another hand has lately written limits here, or holds one below ours."""
        return any(
            record.foreign_ceiling_milliwatts is not None
            or (record.foreign_seen_ms is not None and now_ms - record.foreign_seen_ms < FOREIGN_HOLD_MS)
            for record in self.records
        )

    def release_foreign(self) -> None:
        """Forget another hand's limits: an operator has said that the devices are ours."""
        for record in self.records:
            record.foreign_ceiling_milliwatts = record.foreign_seen_ms = None
            record.written_milliwatts = record.limit_milliwatts


def book_of(inventory: Sequence[GpuInfo], settle_ms: int) -> CapBook:
    """Return the book of a host's GPUs; one that tells no limits cannot be written and counts as the largest board."""
    return CapBook(tuple(_record_of(info) for info in inventory), SettleProbe(settle_ms))


def _record_of(info: GpuInfo) -> CapRecord:
    default = info.default_limit_mw or info.max_limit_mw or LARGEST_BOARD_MILLIWATTS
    maximum = info.max_limit_mw or default
    minimum = min(info.min_limit_mw if info.min_limit_mw is not None else maximum, maximum)
    is_writable = "set_limit" in info.capabilities and info.min_limit_mw is not None
    return CapRecord(info.index, GpuCap(info.uuid, minimum, maximum, default, None), is_writable)


def standing_limit(limits: Limits | None) -> int | None:
    """Return the limit that stands: the one requested in-band, since whatever holds a GPU lower now may let go."""
    if limits is None:
        return None
    return max((limit for limit in (limits.requested_mw, limits.enforced_mw) if limit is not None), default=None)


def _is_foreign(record: CapRecord, now_ms: int, limit: int | None) -> bool:
    """Take note of a limit that is not the one we left there; say whether this is news."""
    if limit is None or record.written_milliwatts is None or limit == record.written_milliwatts:
        return False
    if limit == record.foreign_ceiling_milliwatts:
        return False
    record.foreign_seen_ms = now_ms
    record.foreign_ceiling_milliwatts = limit if limit < record.written_milliwatts else None
    return True
