"""What a row carries that no lease can lower, from its meter: rises at once, falls slowly, never under the configured.

The residual of a meter is judged twice, each time against the highest of the last seconds, so that cuts in flight and
readings of another second are no residual. Against the commitments, which no host may pass, it counts at once. Against
measured GPU power it counts only after it lasted: a load that rises is seen by the meter first. While the meter stands
close under the limit it counts at once, but no more of it than the meter is too high: that is what must go now.
Pure: `step` takes a state and returns the next.

Source: power-budgeting.md 5.3 and 5.6, lease-protocol.md 3 (release by dwell and rate).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from flyball_aggregator.power.ring import with_slot
from flyball_aggregator.power.rows import Floats

WINDOW_S: Final = 600  # ten minutes, one sample each second
QUANTILE: Final = 0.99
ALIGN_TICKS: Final = 3  # a reading of one-second means may be this much older than the meter's
FALL_RATIO_PER_S: Final = 0.001  # of the limit
RANK_EVERY: Final = 10  # ticks between two rankings of the window
LAST_TICKS: Final = 5  # a residual against measured power counts once it was there this long
EXCURSION_RATIO: Final = 0.98  # of the limit: from here on a residual is believed at once
RANKED_FROM: Final = 100  # seconds; a 99th percentile of fewer is their highest
NOISE_RATIO: Final = 0.003  # of the limit; smaller residuals above the configured load are sensor noise


@dataclass(frozen=True, slots=True)
class MeterInput:
    """One second of all rows, each (rows,), wall watts; NaN where a row has no meter or it is stale."""

    meter_w: Floats
    managed_w: Floats  # sum of a x measured GPU power; NaN when a host of the row is unknown
    committed_w: Floats  # sum of a x commitments
    configured_w: Floats
    limit_w: Floats


@dataclass(frozen=True, slots=True)
class UnmanagedState:
    """Rings of the last seconds and the estimate (rows,), wall watts."""

    residuals_w: Floats  # (WINDOW_S, rows)
    managed_w: Floats  # (ALIGN_TICKS, rows)
    committed_w: Floats  # (ALIGN_TICKS, rows)
    soft_w: Floats  # (LAST_TICKS, rows) residuals against measured power
    limits_w: Floats  # (ALIGN_TICKS, rows): power over a limit that was only just cut is a cut in flight, no excursion
    ranked_w: Floats  # (rows,) quantile of the window
    estimate_w: Floats
    tick: int


def start_unmanaged(configured_w: Floats) -> UnmanagedState:
    """Return the state before the first reading: what is configured."""
    rows = len(configured_w)
    return UnmanagedState(
        residuals_w=np.full((WINDOW_S, rows), np.nan),
        managed_w=np.full((ALIGN_TICKS, rows), np.nan),
        committed_w=np.full((ALIGN_TICKS, rows), np.nan),
        soft_w=np.full((LAST_TICKS, rows), np.nan),
        limits_w=np.full((ALIGN_TICKS, rows), np.nan),
        ranked_w=np.full(rows, np.nan),
        estimate_w=configured_w.copy(),
        tick=0,
    )


def step_unmanaged(state: UnmanagedState, seen: MeterInput) -> UnmanagedState:
    """Return the state after one more second. A row without a fresh meter keeps its estimate: time proves nothing."""
    managed = with_slot(state.managed_w, state.tick, seen.managed_w)
    committed = with_slot(state.committed_w, state.tick, seen.committed_w)
    soft = with_slot(state.soft_w, state.tick, seen.meter_w - np.fmax.reduce(managed, axis=0))
    limits = with_slot(state.limits_w, state.tick, seen.limit_w)
    excess_w = seen.meter_w - EXCURSION_RATIO * np.fmax.reduce(limits, axis=0)
    at_once_w = np.fmin(soft[state.tick % LAST_TICKS], state.estimate_w + excess_w)
    hard_w = seen.meter_w - np.fmax.reduce(committed, axis=0)
    counted_w = _counted(seen, soft, np.fmax(hard_w, np.where(excess_w > 0.0, at_once_w, -np.inf)))
    is_fresh = np.isfinite(seen.meter_w)
    residuals = with_slot(state.residuals_w, state.tick, np.where(is_fresh, counted_w, np.nan))
    ranked_w = _rank(residuals) if state.tick % RANK_EVERY == 0 else state.ranked_w
    base_w = np.fmax(np.fmax(seen.configured_w, ranked_w), counted_w)
    fallen_w = np.fmax(base_w, state.estimate_w - FALL_RATIO_PER_S * seen.limit_w)
    estimate_w = np.where(is_fresh, fallen_w, np.fmax(state.estimate_w, seen.configured_w))
    return UnmanagedState(residuals, managed, committed, soft, limits, ranked_w, estimate_w, state.tick + 1)


def _counted(seen: MeterInput, soft: Floats, at_once_w: Floats) -> Floats:
    """Return (rows,) the load that this second proves, never under the configured."""
    is_lasting = np.isfinite(soft).all(axis=0)
    lasting_w = np.where(is_lasting, np.min(np.where(is_lasting, soft, 0.0), axis=0), -np.inf)
    proven_w = np.fmax(at_once_w, lasting_w)
    return np.where(proven_w > seen.configured_w + NOISE_RATIO * seen.limit_w, proven_w, seen.configured_w)


def _rank(residuals: Floats) -> Floats:
    """Return the quantile of each row's window over the known seconds; NaN where too few are known."""
    ranked = np.sort(residuals, axis=0)  # NaN last
    known = np.isfinite(ranked).sum(axis=0)
    position = np.maximum(np.ceil(QUANTILE * known).astype(np.int64) - 1, 0)
    chosen: Floats = np.take_along_axis(ranked, position[np.newaxis, :], axis=0)[0]
    return np.where(known >= RANKED_FROM, chosen, np.nan)
