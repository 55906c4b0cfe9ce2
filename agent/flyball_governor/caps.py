"""Write caps through the device side: lower first, read back, settle, and raise only into what that has freed.

Before the first write to a GPU its prior limit is on disk. Nothing here ever makes the sum of exposures larger than the
budget it is given, nor writes outside a device's own limits.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from flyball_governor.cap_book import CapBook, CapRecord
from flyball_governor.device import DeviceSide, WriteResult
from flyball_governor.journal import JournalError, PriorLimits

REFUSED_RETRY_S: Final = 5.0  # a refused write is tried again after this time, not ten times a second

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CapWriter:
    """The one place that writes limits; `uuids` in inventory order."""

    side: DeviceSide
    book: CapBook
    prior: PriorLimits
    uuids: tuple[str, ...]
    clock: Callable[[], float] = time.monotonic
    writes_total: int = 0
    journal_error: str | None = None
    _logged: set[tuple[int, str]] = field(default_factory=set)

    @property
    def can_write(self) -> bool:
        """Say whether every GPU takes our caps, as far as known."""
        return (
            self.journal_error is None
            and self.side.health().holds_writer_lock
            and all(record.is_writable and record.refusal is None for record in self.book.records)
        )

    async def read_back(self) -> list[CapRecord]:
        """Read every GPU's limits; return the records that another hand has changed."""
        limits = await self.side.read_back()
        return self.book.take_read_back(self.clock(), limits)

    def exposure_milliwatts(self) -> int:
        """Return the sum of all exposures now."""
        return sum(self.book.exposures(self.side.pending_writes()))

    async def move(
        self, targets: Sequence[int], budget_milliwatts: int, peaks_milliwatts: Sequence[int | None]
    ) -> bool:
        """Bring caps towards targets: every lowering, then as much of each raise as the budget has room for now.

        Args:
            targets: One per GPU, milliwatts, inside the device limits.
            budget_milliwatts: What the exposures may sum to after any raise.
            peaks_milliwatts: Largest power of each GPU lately, to tell whether a cap was binding; None is unknown.

        Returns:
            Whether anything was written.
        """
        lowered = False
        for record, target in zip(self.book.records, targets, strict=True):
            limit = record.limit_milliwatts
            if limit is not None and target < limit:
                lowered |= await self._write(record, target, peaks_milliwatts[record.gpu])
        raised = await self._raise(targets, budget_milliwatts)
        return lowered or raised

    async def _raise(self, targets: Sequence[int], budget_milliwatts: int) -> bool:
        """Raise the caps furthest from their targets first, each only where its whole raise has room."""
        raised = False
        gaps = [
            (target - record.limit_milliwatts, record.gpu)
            for record, target in zip(self.book.records, targets, strict=True)
            if record.limit_milliwatts is not None and target > record.limit_milliwatts
        ]
        for _, gpu in sorted(gaps, reverse=True):
            exposures = self.book.exposures(self.side.pending_writes())
            if sum(exposures) + max(0, targets[gpu] - exposures[gpu]) <= budget_milliwatts:
                raised |= await self._write(self.book.records[gpu], targets[gpu], None)
        return raised

    async def _write(self, record: CapRecord, target: int, peak_milliwatts: int | None) -> bool:
        """Write one cap, clamped to the device and to another hand's lower limit; say whether it was sent."""
        cap = max(record.minimum_milliwatts, min(target, record.ceiling_milliwatts))
        if cap == record.limit_milliwatts or not self._may_write(record):
            return False
        record.in_flight_milliwatts = cap
        try:
            result = await self.side.set_limit_mw(record.gpu, cap)
        finally:
            record.in_flight_milliwatts = None
        self.writes_total += 1
        self._take_result(record, result, peak_milliwatts)
        return True

    def _may_write(self, record: CapRecord) -> bool:
        if not record.is_writable or any(write.gpu == record.gpu for write in self.side.pending_writes()):
            return False
        if record.refusal is not None and self.clock() - record.refused_s < REFUSED_RETRY_S:
            return False
        return self._is_journaled(record)

    def _is_journaled(self, record: CapRecord) -> bool:
        """Have the prior limit on disk; without one, or with a disk that refuses, there is no write."""
        uuid = self.uuids[record.gpu]
        if uuid in self.prior.known:
            return True
        if record.limit_milliwatts is None:
            return False
        try:
            self.prior.remember({uuid: record.limit_milliwatts})
        except JournalError as error:
            self.journal_error = str(error)
            self._log_once(record.gpu, str(error))
            return False
        self.journal_error = None
        return True

    def _take_result(self, record: CapRecord, result: WriteResult, peak_milliwatts: int | None) -> None:
        if result.outcome == "pending":
            self._log_once(record.gpu, f"limit write has not returned: {result.error or 'no answer'}")
            return
        self.book.take_write(self.clock(), record, result.limits, peak_milliwatts)
        record.refusal = result.error or "refused" if result.outcome == "refused" else None
        if record.refusal is not None:
            record.refused_s = self.clock()
            self._log_once(record.gpu, f"limit write refused: {record.refusal}")

    def _log_once(self, gpu: int, text: str) -> None:
        if (gpu, text) not in self._logged:
            self._logged.add((gpu, text))
            log.warning("gpu %d: %s", gpu, text)
