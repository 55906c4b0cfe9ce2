"""Write caps through the device side: lower first, read back, settle, and raise only into what that has freed.

Before the first write to a GPU its prior limit is on disk. Nothing here ever makes the sum of exposures larger than the
budget it is given, nor writes outside a device's own limits.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from flyball_governor.bound import with_write_returned, with_write_started
from flyball_governor.cap_book import CapBook, CapRecord
from flyball_governor.device import DeviceSide, WriteResult
from flyball_governor.identity import boot_clock_ms
from flyball_governor.journal import JournalError, PriorLimits

REFUSED_RETRY_MS: Final = 5_000  # a refused write is tried again after this time, not ten times a second

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CapWriter:
    """The one place that writes limits."""

    side: DeviceSide
    book: CapBook
    prior: PriorLimits
    clock_ms: Callable[[], int] = boot_clock_ms
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
        return self.book.take_read_back(self.clock_ms(), limits)

    async def move(
        self, targets: Sequence[int], budget_milliwatts: int, powers_milliwatts: Sequence[int | None]
    ) -> bool:
        """Bring caps towards targets: every lowering, then each raise that the budget has room for now.

        Args:
            targets: One per GPU, milliwatts.
            budget_milliwatts: What the exposures may sum to after any raise.
            powers_milliwatts: Largest power of each GPU lately: a cap lowered above it was not binding and needs no
                settling. None is unknown.

        Returns:
            Whether anything was written.
        """
        written = False
        for record, target in zip(self.book.records, targets, strict=True):
            if record.limit_milliwatts is not None and target < record.limit_milliwatts:
                written |= await self._write(record, target)
        if written:
            self.book.take_power(self.clock_ms(), powers_milliwatts)
        for gpu in self._by_need(targets):
            exposures = self.book.exposures(self.side.pending_writes())
            if sum(exposures) + max(0, targets[gpu] - exposures[gpu]) <= budget_milliwatts:
                written |= await self._write(self.book.records[gpu], targets[gpu])
        return written

    def _by_need(self, targets: Sequence[int]) -> list[int]:
        """Return the GPUs to raise, those furthest from their targets first."""
        gaps = [
            (target - record.limit_milliwatts, record.gpu)
            for record, target in zip(self.book.records, targets, strict=True)
            if record.limit_milliwatts is not None and target > record.limit_milliwatts
        ]
        return [gpu for _, gpu in sorted(gaps, reverse=True)]

    async def _write(self, record: CapRecord, target: int) -> bool:
        """Write one cap, clamped to the device and to another hand's lower limit; say whether it was sent."""
        cap = max(record.cap.minimum_milliwatts, min(target, record.ceiling_milliwatts))
        if cap == record.limit_milliwatts or not self._may_write(record):
            return False
        record.cap = with_write_started(record.cap, cap)
        result = await self.side.set_limit_mw(record.gpu, cap)
        self.writes_total += 1
        self._take_result(record, cap, result)
        return True

    def _may_write(self, record: CapRecord) -> bool:
        if not record.is_writable or record.with_pending(self.side.pending_writes()).pending_milliwatts:
            return False
        if record.refusal is not None and self.clock_ms() - record.refused_ms < REFUSED_RETRY_MS:
            return False
        return self._is_journaled(record)

    def _is_journaled(self, record: CapRecord) -> bool:
        """Have the prior limit on disk; without one, or with a disk that refuses, there is no write."""
        uuid = record.cap.uuid
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

    def _take_result(self, record: CapRecord, cap: int, result: WriteResult) -> None:
        now_ms = self.clock_ms()
        if result.outcome == "pending":  # from here on the device side's list of pending writes counts it
            record.cap = with_write_returned(record.cap, cap, record.limit_milliwatts, now_ms, 0)
            self._log_once(record.gpu, f"limit write has not returned: {result.error or 'no answer'}")
            return
        self.book.take_write(now_ms, record, cap, result.limits)
        record.refusal = result.error or "refused" if result.outcome == "refused" else None
        if record.refusal is not None:
            record.refused_ms = now_ms
            self._log_once(record.gpu, f"limit write refused: {record.refusal}")

    def _log_once(self, gpu: int, text: str) -> None:
        if (gpu, text) not in self._logged:
            self._logged.add((gpu, text))
            log.warning("gpu %d: %s", gpu, text)
