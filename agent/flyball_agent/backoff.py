"""How long to wait before the next attempt: doubling, with full jitter, so that a fleet does not come back at once."""

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Grows with each failure and starts again after a success.

    Attributes:
        least_s: No wait is shorter.
        most_s: No wait is longer.
        draw: Where the jitter comes from.
    """

    least_s: float
    most_s: float
    draw: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def succeeded(self) -> None:
        """Start again from the shortest wait."""
        self.failures = 0

    def next_s(self) -> float:
        """Count a failure and return the wait before the next attempt, seconds."""
        ceiling = min(self.most_s, self.least_s * 2.0 ** min(self.failures + 1, 30))
        self.failures += 1
        return self.least_s + (ceiling - self.least_s) * self.draw.random()
