"""Check that an allocation is what it claims, by the definition and not by how it was found.

No row is overfilled; every host is between its low and high; and each host with less than it wants stands in a full row
in which no less important host has more than its low, and no equally important one a larger weighted rise.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from flyball_aggregator.power.allocate import Allocation, Flags, Wants
from flyball_aggregator.power.rows import Floats, Integers, RowMatrix

SLACK_W: Final = 1e-3  # a milliwatt, the unit of leases
SLACK_RATIO: Final = 1e-6  # of a row's room, for sums over many hosts


@dataclass(frozen=True, slots=True)
class Certificate:
    """What does not hold, as indices; all empty for a sound allocation. `justified_by` names a row per host or -1."""

    overfilled_rows: Integers
    out_of_bounds_hosts: Integers
    unjustified_hosts: Integers
    justified_by: Integers

    @property
    def failures(self) -> int:
        """How many statements are false."""
        return len(self.overfilled_rows) + len(self.out_of_bounds_hosts) + len(self.unjustified_hosts)


def check_allocation(matrix: RowMatrix, room_w: Floats, wants: Wants, allocation: Allocation) -> Certificate:
    """Return the certificate of `allocate` for the same arguments; rows whose minima do not fit are left out."""
    room = np.where(allocation.short_rows, np.maximum(room_w, matrix.load_w(wants.minimum_w)), room_w)
    floors = np.minimum(wants.floor_w, allocation.granted_w)
    low = np.where(allocation.floors_met, wants.floor_w, floors)
    high = np.where(allocation.floors_met, np.maximum(wants.demand_w, wants.floor_w), wants.floor_w)
    tier = np.where(allocation.floors_met, wants.tier, -1)
    return certify(matrix, room, Bounds(low, high, wants.weight, tier, wants.minimum_w), allocation.granted_w)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range of each host (hosts,) that the filling ran over; `least_w` is what may never be passed below."""

    low_w: Floats
    high_w: Floats
    weight: Floats
    tier: Integers
    least_w: Floats


def certify(matrix: RowMatrix, room_w: Floats, bounds: Bounds, granted_w: Floats) -> Certificate:
    """Return what is wrong with a weighted lexicographic max-min allocation between low and high."""
    load = matrix.load_w(granted_w)
    slack = SLACK_W + SLACK_RATIO * np.abs(room_w)
    is_full = np.zeros(len(matrix.start) - 1, dtype=np.bool_)
    is_full[: matrix.rows] = room_w - load <= slack
    outside = (granted_w < bounds.least_w - SLACK_W) | (granted_w > np.maximum(bounds.high_w, bounds.low_w) + SLACK_W)
    wanting = bounds.high_w - granted_w > SLACK_W
    justified_by = _justify(matrix, is_full, bounds, granted_w, wanting)
    return Certificate(
        overfilled_rows=np.flatnonzero(load > room_w + slack),
        out_of_bounds_hosts=np.flatnonzero(outside),
        unjustified_hosts=np.flatnonzero(wanting & (justified_by < 0)),
        justified_by=justified_by,
    )


def _justify(matrix: RowMatrix, is_full: Flags, bounds: Bounds, granted_w: Floats, wanting: Flags) -> Integers:
    """Return for each wanting host a full row that explains it, or -1."""
    entries = np.flatnonzero(is_full[matrix.row])
    row, host = matrix.row[entries], matrix.host[entries]
    rise = (granted_w - bounds.low_w) / bounds.weight
    tier = bounds.tier[host]
    has_more = granted_w[host] - bounds.low_w[host] > SLACK_W
    worst = np.full(len(is_full), -2, dtype=np.int64)
    np.maximum.at(worst, row[has_more], tier[has_more])
    highest = _highest_in_tier(row, tier, rise[host])
    fair = (worst[row] <= tier) & (rise[host] >= highest - SLACK_W - SLACK_RATIO * np.abs(highest))
    good = fair & wanting[host]
    found = np.full(matrix.hosts, -1, dtype=np.int64)
    found[host[good]] = row[good]
    return found


def _highest_in_tier(row: Integers, tier: Integers, rise: Floats) -> Floats:
    """Return for each entry the largest rise among the entries of its row and tier."""
    if not len(row):
        return np.zeros(0)
    tiers = int(tier.max()) + 2
    key = row * tiers + tier + 1
    highest = np.full(int(key.max()) + 1, -np.inf)
    np.maximum.at(highest, key, rise)
    return np.asarray(highest[key], dtype=np.float64)
