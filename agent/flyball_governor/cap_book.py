"""What is known of each GPU's cap: read back, in flight, settling, changed by another hand. Pure; times come in.

A GPU's exposure is the most its cap may let it draw: the largest of its read-back limit, its minimum, any write that has
not returned, and the old cap until power has settled under the new one. What cannot be read counts at its maximum.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from flyball_governor.device import GpuInfo, Limits, PendingWrite

FOREIGN_HOLD_S: Final = 10.0  # how long another hand's write marks the host after it was last seen
SETTLE_MARGIN: Final = 1.5  # over the longest settling measured
SETTLE_LEAST_S: Final = 0.1  # refresh of the instant power field
LARGEST_BOARD_MILLIWATTS: Final = 1_400_000  # GB300; docs on power limits per model


@dataclass(frozen=True, slots=True)
class Settling:
    """A lowered cap under which power has not been seen yet."""

    from_milliwatts: int
    to_milliwatts: int
    since_s: float


@dataclass(slots=True)
class SettleProbe:
    """How long power takes to come under a lowered cap on this host: measured, with the configured time until then."""

    configured_s: float
    longest_s: float | None = None

    def observe(self, took_s: float) -> None:
        """Take in one measured settling."""
        self.longest_s = max(took_s, self.longest_s or 0.0)

    @property
    def limit_s(self) -> float:
        """After this time a lowered cap counts as in effect even where power cannot be read, seconds."""
        if self.longest_s is None:
            return self.configured_s
        return max(SETTLE_LEAST_S, SETTLE_MARGIN * self.longest_s)


@dataclass(slots=True)
class CapRecord:
    """One GPU's cap. `written_milliwatts` is what stood in the device after our last write; None before the first."""

    gpu: int
    minimum_milliwatts: int
    maximum_milliwatts: int
    is_writable: bool
    limits: Limits | None = None
    in_flight_milliwatts: int | None = None
    written_milliwatts: int | None = None
    settling: Settling | None = None
    foreign_seen_s: float | None = None
    foreign_ceiling_milliwatts: int | None = None
    refusal: str | None = None
    refused_s: float = 0.0

    @property
    def limit_milliwatts(self) -> int | None:
        """The limit that stands in the device: what was requested of it in-band, whatever else holds it lower now."""
        if self.limits is None:
            return None
        known = [limit for limit in (self.limits.requested_mw, self.limits.enforced_mw) if limit is not None]
        return max(known, default=None)

    @property
    def ceiling_milliwatts(self) -> int:
        """The most we may set: another hand's lower limit is not undone."""
        return min(self.maximum_milliwatts, self.foreign_ceiling_milliwatts or self.maximum_milliwatts)

    def exposure_milliwatts(self, pending: Sequence[PendingWrite]) -> int:
        """Return the most that this GPU's cap may let it draw."""
        limit = self.limit_milliwatts
        candidates = [self.minimum_milliwatts, self.maximum_milliwatts if limit is None else limit]
        candidates += [write.limit_mw for write in pending if write.gpu == self.gpu and write.limit_mw is not None]
        if self.in_flight_milliwatts is not None:
            candidates.append(self.in_flight_milliwatts)
        if self.settling is not None:
            candidates.append(self.settling.from_milliwatts)
        return max(candidates)


@dataclass(slots=True)
class CapBook:
    """The caps of all GPUs of the host."""

    records: tuple[CapRecord, ...]
    settle: SettleProbe
    notes: list[str] = field(default_factory=list)

    def exposures(self, pending: Sequence[PendingWrite]) -> tuple[int, ...]:
        """Return each GPU's exposure in milliwatts."""
        return tuple(record.exposure_milliwatts(pending) for record in self.records)

    def limits(self) -> tuple[int | None, ...]:
        """Return each GPU's limit as read back, in milliwatts."""
        return tuple(record.limit_milliwatts for record in self.records)

    def take_read_back(self, now_s: float, limits: Sequence[Limits | None]) -> list[CapRecord]:
        """Take in a reading of every GPU; return the records that another hand has changed since our write."""
        return [
            record for record, read in zip(self.records, limits, strict=True) if _take_one(record, now_s, read)
        ]

    def take_write(self, now_s: float, record: CapRecord, limits: Limits | None, peak_milliwatts: int | None) -> None:
        """Take in the reading after our own write, begin settling where a binding cap was lowered."""
        before = record.exposure_milliwatts(())
        record.in_flight_milliwatts = None
        record.limits = limits
        after = record.limit_milliwatts
        if after is None:
            return
        record.written_milliwatts = after
        if record.foreign_ceiling_milliwatts is not None and after < record.foreign_ceiling_milliwatts:
            record.foreign_ceiling_milliwatts = None
        if after < before and (peak_milliwatts is None or peak_milliwatts > after):
            record.settling = Settling(before, after, now_s)

    def settle_by(self, now_s: float, powers_milliwatts: Sequence[int | None]) -> bool:
        """End settling where power is under the cap, or where the settling time is over; say whether any ended."""
        ended = False
        for record, power in zip(self.records, powers_milliwatts, strict=True):
            if record.settling is None:
                continue
            took_s = now_s - record.settling.since_s
            is_under = power is not None and power <= record.settling.to_milliwatts
            if is_under:
                self.settle.observe(took_s)
            if is_under or took_s >= self.settle.limit_s:
                record.settling, ended = None, True
        return ended

    def is_foreign_capped(self, now_s: float) -> bool:
        """Say whether another hand has lately written limits here, or holds one below ours."""
        return any(
            record.foreign_ceiling_milliwatts is not None
            or (record.foreign_seen_s is not None and now_s - record.foreign_seen_s < FOREIGN_HOLD_S)
            for record in self.records
        )

    def release_foreign(self) -> None:
        """Forget another hand's limits: an operator has said that the devices are ours."""
        for record in self.records:
            record.foreign_ceiling_milliwatts = record.foreign_seen_s = None
            record.written_milliwatts = record.limit_milliwatts


def book_of(inventory: Sequence[GpuInfo], settle_s: float) -> CapBook:
    """Return the book of a host's GPUs; one that tells no limits cannot be written and counts as the largest board."""
    records = []
    for info in inventory:
        maximum = info.max_limit_mw or info.default_limit_mw or LARGEST_BOARD_MILLIWATTS
        minimum = info.min_limit_mw if info.min_limit_mw is not None else maximum
        is_writable = "set_limit" in info.capabilities and info.min_limit_mw is not None
        records.append(CapRecord(info.index, min(minimum, maximum), maximum, is_writable))
    return CapBook(tuple(records), SettleProbe(settle_s))


def _take_one(record: CapRecord, now_s: float, read: Limits | None) -> bool:
    """Take in one GPU's reading; say whether another hand has changed its limit."""
    if record.in_flight_milliwatts is not None:
        return False  # our own write is on its way: its own read-back tells
    record.limits = read
    limit = None if read is None else (read.requested_mw if read.requested_mw is not None else read.enforced_mw)
    if limit is None or record.written_milliwatts is None or limit == record.written_milliwatts:
        return False
    if record.foreign_ceiling_milliwatts == limit:
        return False
    record.foreign_seen_s = now_s
    record.foreign_ceiling_milliwatts = limit if limit < record.written_milliwatts else None
    return True
