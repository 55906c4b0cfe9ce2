"""Full-rate rows of the ring as columnar batches that fit a Telemetry message."""

import time
from collections.abc import Iterator
from typing import Final

from flyball_fast.columns import encode_spans
from flyball_fast.ring import Cursor, Ring, Span

MAX_BYTES: Final = 130_000  # Telemetry.columns
WORST_ROW_BYTES: Final = 110  # 13 columns of at most 8 bytes, and their share of the heads
MAX_BATCHES: Final = 16  # in one turn; what is left waits in the ring for the next


class TelemetryBatches:
    """Takes each row of a ring once; it does not own the ring."""

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._cursor = Cursor(ring)
        self._rows_at_once = max(1, MAX_BYTES // (WORST_ROW_BYTES * ring.gpu_count))

    @property
    def lost_rows(self) -> int:
        """Rows that were overwritten before they were sent."""
        return self._cursor.lost

    def take_window(self, gpu: int | None, before_s: float) -> Iterator[bytes]:
        """Yield the last rows again at full rate: those before a trigger; of one GPU, or (None) of all."""
        gpus = range(self._ring.gpu_count) if gpu is None else [gpu]
        since_ns = time.monotonic_ns() - round(before_s * 1e9)
        spans = {one: Span(self._ring.find(one, since_ns), self._ring.head(one), 0) for one in gpus}
        yield from self._pieces({one: span for one, span in spans.items() if span.stop > span.first})

    def _pieces(self, spans: dict[int, Span]) -> Iterator[bytes]:
        while spans:
            step = {
                gpu: Span(span.first, min(span.stop, span.first + self._rows_at_once), 0) for gpu, span in spans.items()
            }
            yield encode_spans(self._ring, step)
            spans = {
                gpu: Span(step[gpu].stop, span.stop, 0) for gpu, span in spans.items() if step[gpu].stop < span.stop
            }

    def take(self) -> Iterator[bytes]:
        """Yield the rows written since the last call; one batch at usual rates, none when there are no new rows."""
        for _ in range(MAX_BATCHES):
            spans = {gpu: self._cursor.take(gpu, self._rows_at_once) for gpu in range(self._ring.gpu_count)}
            written = {gpu: span for gpu, span in spans.items() if span.stop > span.first}
            if not written:
                return
            yield encode_spans(self._ring, written)
