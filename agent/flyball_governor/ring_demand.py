"""Look at the sample ring from the parent: what each GPU drew and was held back by since the last look."""

from dataclasses import dataclass, field

from flyball_fast.ring import Cursor, Ring, Row
from flyball_governor.demand import Sample


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found for one GPU; None is unknown."""

    sample: Sample
    power_milliwatts: int | None  # the newest reading


@dataclass(slots=True)
class RingDemand:
    """One reader of the ring; reading never holds the sampler up."""

    ring: Ring
    _cursor: Cursor = field(init=False)
    _before: dict[int, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin at the newest rows."""
        self._cursor = Cursor(self.ring)

    def look(self) -> tuple[Look, ...]:
        """Return what is new, per GPU in inventory order."""
        return tuple(self._look_at(gpu) for gpu in range(self.ring.gpu_count))

    def _look_at(self, gpu: int) -> Look:
        span = self._cursor.take(gpu)
        if span.stop <= span.first:  # a lost or stalled GPU has no new rows
            return Look(Sample(), None)
        summary = self.ring.summary(gpu, span.first, span.stop)
        newest = self.ring.row(gpu, span.stop - 1)
        if summary is None or newest is None:
            return Look(Sample(), None)
        ratio = throttled_ratio(self._before.get(gpu), newest)
        self._before[gpu] = newest
        return Look(Sample(summary.power_max_mw, ratio), newest.power_instant_mw)


def throttled_ratio(before: Row | None, now: Row) -> float | None:
    """Return the share of the time between two rows in which the power cap was biting; None when it cannot be told."""
    if before is None or before.power_cap_ns is None or now.power_cap_ns is None:
        return None
    if before.t_mono_ns is None or now.t_mono_ns is None or now.t_mono_ns <= before.t_mono_ns:
        return None
    throttled_ns = now.power_cap_ns - before.power_cap_ns
    if throttled_ns < 0:  # the counter began anew: the driver was loaded again
        return None
    return min(1.0, throttled_ns / (now.t_mono_ns - before.t_mono_ns))
