"""What a feed can offer the grid: watts that can be shed for some minutes, by importance, and what it expects to draw.

Offers use commitments: the least the feed can be held to is the least caps of hosts that are led and heard, plus the
whole commitment of every other host, plus load that is no GPU's. Cooling and chargers are in the latter: never offered.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from flyball_aggregator.flex.feeds import Feed, FeedReading
from flyball_aggregator.power.snapshot import PowerSnapshot

MILLI: Final = 1000.0
FIRST_S: Final = 5.0  # reachable hosts are under a fallen limit by then (lease-protocol.md 1)


@dataclass(frozen=True, slots=True)
class Offer:
    """What one feed can shed.

    Attributes:
        drawn_w: Now; None when unknown, and then nothing is offered.
        reachable_w: The least it can be held to, floors of policy kept. least_w: With floors given up.
        tiers: (tier, watts at the wall that its hosts can give), the least important first.
    """

    feed: str
    minutes: float
    drawn_w: float | None
    reachable_w: float
    least_w: float
    tiers: tuple[tuple[int, float], ...]

    @property
    def offer_w(self) -> float:
        """What can be shed from the present draw with all floors kept."""
        return 0.0 if self.drawn_w is None else max(0.0, self.drawn_w - self.reachable_w)

    def as_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "feed": self.feed,
            "minutes": self.minutes,
            "draw_watts": self.drawn_w,
            "expected_draw_watts": self.drawn_w,
            "expected_by": "persistence of the present draw",
            "reachable_watts": round(self.reachable_w, 3),
            "least_watts": round(self.least_w, 3),
            "offer_watts": round(self.offer_w, 3),
            "offer_energy_kwh": round(self.offer_w * self.minutes / 60_000.0, 6),
            "response_seconds": FIRST_S,
            "tiers": [{"tier": tier, "watts": round(watts, 3)} for tier, watts in self.tiers],
        }


def make_offer(feed: Feed, snapshot: PowerSnapshot, reading: FeedReading | None, minutes: float) -> Offer:
    """Return what a feed can shed for some minutes; caps can be held without end, so the time changes no watts."""
    hosts, matrix = snapshot.hosts, snapshot.matrix
    span = slice(int(matrix.start[feed.index]), int(matrix.start[feed.index + 1]))
    members, weight = matrix.host[span], matrix.coefficient[span]
    can_give = (hosts.is_led & hosts.is_fresh)[members]
    committed_w = hosts.committed_milliwatts[members] / MILLI
    minimum_w = np.minimum(hosts.minimum_milliwatts[members] / MILLI, committed_w)
    floor_w = np.clip(hosts.floor_w[members], minimum_w, committed_w)
    unmanaged_w = float(snapshot.columns.unmanaged_w[feed.index])
    gives_w = np.where(can_give, weight * (committed_w - floor_w), 0.0)
    tiers = hosts.tier[members]
    return Offer(
        feed=feed.tag,
        minutes=minutes,
        drawn_w=None if reading is None else reading.drawn_w,
        reachable_w=float((weight * np.where(can_give, floor_w, committed_w)).sum()) + unmanaged_w,
        least_w=float((weight * np.where(can_give, minimum_w, committed_w)).sum()) + unmanaged_w,
        tiers=tuple((int(tier), float(gives_w[tiers == tier].sum())) for tier in np.unique(tiers)[::-1]),
    )
