"""Share watts out over hosts: lexicographic weighted max-min under linear rows, by the level of each row.

Within a tier all hosts rise together, each by its weight, until a row is full; its members stop there and the rest rise
on. A row's level is found by Newton's method from below on a concave, piecewise linear function: it never passes the
level, so no row is ever overfilled, and ends exactly on it in finitely many steps. Pure: arrays in, arrays out.

Source: power-budgeting.md 5.2 (algorithm and certificate).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from flyball_aggregator.power.rows import Floats, Integers, RowMatrix

Flags = npt.NDArray[np.bool_]
TINY_W: Final = 1e-6  # what counts as nothing
TIGHT: Final = 1e-9  # relative difference of levels that are the same
MAX_NEWTON: Final = 200  # each step saturates a host of every open row: far above any need; a stop, not a tuning
NO_ROW: Final = -1


@dataclass(frozen=True, slots=True)
class Wants:
    """What the hosts need and may have, GPU watts, each (hosts,); `minimum <= floor <= demand <= ceiling`."""

    minimum_w: Floats  # cannot be taken away: device minima, or the maximum of a host that is not led
    floor_w: Floats  # promised by policy
    demand_w: Floats
    ceiling_w: Floats
    weight: Floats  # > 0
    tier: Integers  # 0 is the most important


@dataclass(frozen=True, slots=True)
class Allocation:
    """Watts for each host and the row that keeps it from more.

    `limiting_row` is NO_ROW for a host that has what it wants. `short_rows` are the rows whose minima alone do not fit:
    their hosts stand at the minimum. `floors_met` is False for a host below its promised floor.
    """

    granted_w: Floats
    limiting_row: Integers
    short_rows: Flags
    floors_met: Flags
    rounds: int


def allocate(matrix: RowMatrix, room_w: Floats, wants: Wants) -> Allocation:
    """Return the shares of all hosts.

    Args:
        matrix: The rows.
        room_w: (rows,) wall watts of each row for GPUs: limit less unmanaged and reserve. May be negative.
        wants: Of each host.

    First every host gets its minimum, then in order of tiers its floor, then in order of tiers up to its demand.
    """
    room = _with_free_row(matrix, room_w)
    short = matrix.load_w(wants.minimum_w) > room_w + TINY_W
    floors = _raise_in_tiers(matrix, room, wants.minimum_w, wants.floor_w, wants)
    full = _raise_in_tiers(matrix, room, floors.granted_w, np.maximum(wants.demand_w, floors.granted_w), wants)
    return Allocation(
        granted_w=full.granted_w,
        limiting_row=np.where(floors.limiting_row >= 0, floors.limiting_row, full.limiting_row),
        short_rows=short,
        floors_met=floors.granted_w >= wants.floor_w - TINY_W,
        rounds=floors.rounds + full.rounds,
    )


def spread_spare(matrix: RowMatrix, room_w: Floats, wants: Wants, granted_w: Floats) -> Floats:
    """Return grants with the watts that nobody asked for on top, up to the ceilings, all tiers alike.

    They are headroom: a host that wakes up has them at once, and they are the first to be taken back.
    """
    room = _with_free_row(matrix, room_w)
    level = np.zeros(matrix.hosts, dtype=np.int64)
    ceiling_w = np.maximum(wants.ceiling_w, granted_w)
    return _fill(matrix, room, granted_w, ceiling_w, wants.weight, level).granted_w


def raise_within(matrix: RowMatrix, room_w: Floats, committed_w: Floats, target_w: Floats, wants: Wants) -> Floats:
    """Return how far each host may rise now, from what all are committed to towards their targets.

    A host whose target is not above its commitment keeps the commitment in the sum: watts move after they are proven
    free, so this can never pass a row that the commitments do not pass already.
    """
    goal_w = np.maximum(target_w, committed_w)
    room = _with_free_row(matrix, room_w)
    return _raise_in_tiers(matrix, room, committed_w, goal_w, wants).granted_w


@dataclass(frozen=True, slots=True)
class _Filled:
    granted_w: Floats
    limiting_row: Integers
    rounds: int


def _with_free_row(matrix: RowMatrix, room_w: Floats) -> Floats:
    """Add the room of the row without a limit on which uncovered hosts hang."""
    extra = len(matrix.start) - 1 - matrix.rows
    return np.concatenate([np.maximum(room_w, -1e18), np.full(extra, np.inf)])


def _raise_in_tiers(matrix: RowMatrix, room_w: Floats, low_w: Floats, high_w: Floats, wants: Wants) -> _Filled:
    if not np.any(high_w - low_w > TINY_W):
        return _Filled(low_w.copy(), np.full(matrix.hosts, NO_ROW, dtype=np.int64), 0)
    return _fill(matrix, room_w, low_w, high_w, wants.weight, wants.tier)


def _fill(  # noqa: PLR0917
    matrix: RowMatrix, room_w: Floats, low_w: Floats, high_w: Floats, weight: Floats, tier: Integers
) -> _Filled:
    """Raise from low to high, tier after tier, until rows stop it."""
    granted = low_w.copy()
    limiting = np.full(matrix.hosts, NO_ROW, dtype=np.int64)
    span = np.maximum(high_w - low_w, 0.0)
    rounds = 0
    for level in np.unique(tier):
        active = (tier == level) & (span > TINY_W)
        if active.any():
            rounds += _fill_tier(matrix, room_w, _Open(granted, limiting, span, weight, low_w), active)
    return _Filled(granted, limiting, rounds)


@dataclass(frozen=True, slots=True)
class _Open:
    """Columns that a tier's filling writes (granted, limiting) and reads, each (hosts,)."""

    granted_w: Floats
    limiting: Integers
    span_w: Floats
    weight: Floats
    low_w: Floats


def _fill_tier(matrix: RowMatrix, room_w: Floats, columns: _Open, active: Flags) -> int:
    """Raise the active hosts of one tier; every round ends at least one row or the tier."""
    every = len(room_w)
    chosen = active[matrix.host]
    row, host = matrix.row[chosen], matrix.host[chosen]
    coefficient = matrix.coefficient[chosen]
    used = np.bincount(matrix.row, matrix.coefficient * columns.granted_w[matrix.host], minlength=every)
    slack = np.maximum(room_w - used, 0.0)  # active hosts stand at their low
    level = np.zeros(every)
    rounds = 0
    while len(host):
        rounds += 1
        rise = coefficient * columns.weight[host]
        reach = columns.span_w[host] / columns.weight[host]
        level = _row_levels(row, rise, reach, slack, level)
        lowest = np.full(matrix.hosts, np.inf)
        np.minimum.at(lowest, host, level[row])
        entry_lowest = lowest[host]
        row_lowest = np.full(every, np.inf)
        np.minimum.at(row_lowest, row, entry_lowest)
        is_binding = np.isfinite(level) & (level <= row_lowest * (1.0 + TIGHT))
        stops = is_binding[row] | ~np.isfinite(entry_lowest)
        stopped = np.zeros(matrix.hosts, dtype=np.bool_)
        stopped[host[stops]] = True
        _settle(columns, stopped, lowest, host, row, is_binding)
        gone = stopped[host] | ~np.isfinite(level[row])  # a row that all its open members fit in never binds later
        taken = coefficient[gone] * (columns.granted_w[host[gone]] - columns.low_w[host[gone]])
        slack = np.maximum(slack - np.bincount(row[gone], taken, minlength=every), 0.0)
        row, host, coefficient = row[~gone], host[~gone], coefficient[~gone]
    return rounds


def _settle(  # noqa: PLR0917
    columns: _Open, stopped: Flags, lowest: Floats, host: Integers, row: Integers, is_binding: Flags
) -> None:
    """Write the shares of hosts that stop here, and for the unsatisfied ones the row that stopped them."""
    where = np.flatnonzero(stopped)
    rise = np.minimum(columns.weight[where] * lowest[where], columns.span_w[where])
    columns.granted_w[where] = columns.low_w[where] + rise
    blocked = is_binding[row] & (columns.span_w[host] - columns.weight[host] * lowest[host] > TINY_W)
    columns.limiting[host[blocked]] = row[blocked]


def _row_levels(row: Integers, rise: Floats, reach: Floats, slack: Floats, start: Floats) -> Floats:
    """Return the level at which each row is full; infinite where all its open members fit.

    Args:
        row: (entries,) row of each open entry.
        rise: (entries,) wall watts per unit of level.
        reach: (entries,) level at which the entry's host has all it wants.
        slack: (rows,) wall watts left, >= 0.
        start: (rows,) levels at or below the answers; those of the round before, since levels never fall.
    """
    every = len(slack)
    full = rise * reach
    level = np.where(np.isfinite(start), start, 0.0)
    for _ in range(MAX_NEWTON):
        is_reached = reach <= level[row]
        spent = np.bincount(row, np.where(is_reached, full, 0.0), minlength=every)
        slope = np.bincount(row, np.where(is_reached, 0.0, rise), minlength=every)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.where(slope > 0.0, (slack - spent) / slope, np.inf)
        following = np.maximum(level, step)
        if np.array_equal(following, level) or not np.any(following > level * (1.0 + 1e-13)):
            return following
        level = following
    return level
