"""Look at the sample ring from the parent: what each GPU drew and was held back by since the last look."""

from dataclasses import dataclass, field

from flyball_fast.ring import Ring
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
    _marks: memoryview = field(init=False)

    def __post_init__(self) -> None:
        """Begin at the newest rows."""
        self._marks = self.ring.new_marks()

    def look(self) -> tuple[Look, ...]:
        """Return what is new, per GPU in inventory order; nothing of a lost or stalled one, which has no new rows."""
        return tuple(Look(Sample(peak, ratio), newest) for peak, newest, ratio in self.ring.look(self._marks))
