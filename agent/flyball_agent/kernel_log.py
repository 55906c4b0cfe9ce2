"""Read the kernel log record by record: from where we stopped, with losses noticed and floods bounded.

The descriptor of /dev/kmsg comes from the governor, already open; nothing here opens it. Reading resumes after the
saved (boot id, sequence); a gap in the sequence is a loss and is told. Records of user space are counted and passed
over.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from flyball_agent.kernel_events import DRIVER_WORDS, EVENT_WORDS
from flyball_agent.kernel_messages import KernelMessage, MessageClassifier
from flyball_fast.scan import scan_record

RECORD_BYTES: Final = 16_384  # larger than any record (8 kB), or the kernel answers EINVAL
READS_PER_SECOND: Final = (
    10_000  # repeats included: keeps a flood under 5 % of a core; the ring drops the rest, counted
)
_WORDS = tuple(word.encode() for word in (*DRIVER_WORDS, *EVENT_WORDS))
_FRAGMENT, _CONTINUES = ord("c"), ord("+")


class RecordSource(Protocol):
    """Where records come from, one per read."""

    def read_record(self) -> bytes | None:
        """Return the next record, or None when there is none now.

        Raises:
            BrokenPipeError: records were overwritten before we read them (EPIPE); the next read goes on after the gap.
        """

    def seek_start(self) -> None:
        """Go to the oldest record that is kept."""


class DescriptorSource:
    """A descriptor of /dev/kmsg, open and non-blocking; it stays the caller's to close."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def read_record(self) -> bytes | None:
        """Return the next record, or None when there is none now."""
        try:
            return os.read(self.descriptor, RECORD_BYTES) or None
        except BlockingIOError:
            return None

    def seek_start(self) -> None:
        """Go to the oldest record that is kept; sources that cannot seek start where they are."""
        try:
            os.lseek(self.descriptor, 0, os.SEEK_SET)
        except OSError:
            return


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where reading stopped; worth something only within its boot."""

    boot_id: str
    sequence: int


@dataclass(slots=True)
class LogCounters:
    """Totals since start, for the exporter."""

    records: int = 0
    foreign: int = 0  # written by user space
    malformed: int = 0
    lost: int = 0


class KernelLog:
    """The reader; `now_s` is a monotonic clock in seconds."""

    def __init__(
        self,
        source: RecordSource,
        classifier: MessageClassifier,
        *,
        boot_id: str,
        now_s: Callable[[], float],
        saved: LogPosition | None = None,
    ) -> None:
        self.counters = LogCounters()
        self._source = source
        self._classifier = classifier
        self._boot_id = boot_id
        self._now_s = now_s
        self._sequence = saved.sequence if saved is not None and saved.boot_id == boot_id else None
        self._resume_after = -1 if self._sequence is None else self._sequence
        self._fragment: tuple[int, bytes] | None = None
        self._second_began_s = float("-inf")
        self._reads_left = 0

    @property
    def position(self) -> LogPosition | None:
        """Where to resume; None before the first record."""
        return None if self._sequence is None else LogPosition(self._boot_id, self._sequence)

    def start(self) -> None:
        """Go to the oldest record; those before the saved position are passed over."""
        self._source.seek_start()

    def read_ready(self, limit: int = 512) -> Iterator[KernelMessage]:
        """Yield what the records that are there now say; ends after `limit` records or this second's budget."""
        for _ in range(min(limit, self._read_budget())):
            try:
                raw = self._source.read_record()
            except BrokenPipeError:
                continue  # the next record's number tells how many are gone
            if raw is None:
                return
            self._reads_left -= 1
            yield from self._take(raw)

    @property
    def is_exhausted(self) -> bool:
        """Tell whether this second's budget is used up: wait for the next second instead of reading on."""
        return self._read_budget() == 0

    def _read_budget(self) -> int:
        now_s = self._now_s()
        if now_s - self._second_began_s >= 1.0:
            self._second_began_s, self._reads_left = now_s, READS_PER_SECOND
        return self._reads_left

    def _take(self, raw: bytes) -> Iterator[KernelMessage]:
        self.counters.records += 1
        scanned = scan_record(raw, _WORDS)
        if scanned is None:
            self.counters.malformed += 1
            return
        priority, sequence, time_us, flag, message, is_interesting = scanned
        if sequence <= self._resume_after:
            return
        if (lost := self._count_lost(sequence)) > 0:
            yield KernelMessage(at_s=time_us / 1e6, sequence=sequence, lost=lost)
        if priority > 7 and not self._classifier.allow_injected:
            self.counters.foreign += 1
            return
        if flag in (_FRAGMENT, _CONTINUES) or self._fragment is not None:
            message = self._join_fragment(priority, flag, message)
            is_interesting = True
        if is_interesting:
            told = self._classifier.classify(message, priority >> 3, time_us / 1e6, sequence)
            if told is not None:
                yield told

    def _count_lost(self, sequence: int) -> int:
        """Return how many records before this one were never read; a ring that began anew counts from its own start."""
        previous, self._sequence = self._sequence, sequence
        lost = 0 if previous is None else max(0, sequence - previous - 1)
        self.counters.lost += lost
        return lost

    def _join_fragment(self, priority: int, flag: int, message: bytes) -> bytes:
        """Put a continuing record ('+') behind the fragment ('c') before it; both of one writer."""
        if flag == _CONTINUES and self._fragment is not None and self._fragment[0] == priority:
            message = (self._fragment[1] + message)[:RECORD_BYTES]
        self._fragment = (priority, message) if flag in (_FRAGMENT, _CONTINUES) else None
        return message
