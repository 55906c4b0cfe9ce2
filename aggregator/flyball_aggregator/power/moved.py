"""Columns carried from one site to the next: hosts and rows keep what was learnt of them, new ones begin anew."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from flyball_aggregator.power.demand import DemandState
from flyball_aggregator.power.rows import Floats, Integers, Row
from flyball_aggregator.power.unmanaged import UnmanagedState

NEW = -1


def places_of(before: Sequence[str], after: Sequence[str]) -> Integers:
    """Return for each name its place before, NEW for one that was not there."""
    known = {name: place for place, name in enumerate(before)}
    return np.array([known.get(name, NEW) for name in after], dtype=np.int64)


def carried(values: Floats, fresh: Floats, places: Integers, axis: int) -> Floats:
    """Return `fresh` with the values of what was there before; both arrays agree on every other axis."""
    if not values.shape[axis]:
        return fresh
    taken = np.take(values, np.maximum(places, 0), axis=axis)
    shape = [1] * fresh.ndim
    shape[axis] = len(places)
    kept: Floats = np.where((places != NEW).reshape(shape), taken, fresh)
    return kept


def carry_demand(before: DemandState, fresh: DemandState, places: Integers) -> DemandState:
    """Return the demand of the new hosts list."""
    if before.step_ratio.shape[1] != fresh.step_ratio.shape[1]:
        return fresh
    return DemandState(
        means_w=carried(before.means_w, fresh.means_w, places, 1),
        peaks_w=carried(before.peaks_w, fresh.peaks_w, places, 1),
        step_ratio=carried(before.step_ratio, fresh.step_ratio, places, 0),
        demand_w=carried(before.demand_w, fresh.demand_w, places, 0),
        tick=before.tick,
    )


def carry_unmanaged(
    before: UnmanagedState, fresh: UnmanagedState, rows_before: Sequence[Row], rows: Sequence[Row]
) -> UnmanagedState:
    """Return the unmanaged load of the new rows; what a meter found above the configured load stays on top of it."""
    places = places_of([row.name for row in rows_before], [row.name for row in rows])
    configured = {row.name: row.unmanaged_w for row in rows_before}
    added = np.array([row.unmanaged_w - configured.get(row.name, row.unmanaged_w) for row in rows])
    estimate_w = carried(before.estimate_w, fresh.estimate_w, places, 0)
    names = ("residuals_w", "managed_w", "committed_w", "soft_w", "limits_w")
    rings = {name: carried(getattr(before, name), getattr(fresh, name), places, 1) for name in names}
    return replace(
        fresh,
        **rings,
        ranked_w=carried(before.ranked_w, fresh.ranked_w, places, 0),
        estimate_w=np.maximum(estimate_w + np.maximum(added, 0.0), fresh.estimate_w),
        tick=before.tick,
    )
