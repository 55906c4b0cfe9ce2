"""What a row carries that no lease can lower, from its meter: rises at once, falls slowly, never under the configured.

The residual of a meter is judged twice. Against the commitments, which no host may pass, it counts at once; against the
measured GPU power, which is never of exactly the meter's second, only when it is there twice running and against the
highest of the last seconds. Pure: `step` takes a state and returns the next.

Source: power-budgeting.md 5.3 and 5.6, lease-protocol.md 3 (release by dwell and rate).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from flyball_aggregator.power.rows import Floats

WINDOW_S: Final = 600  # ten minutes, one sample each second
QUANTILE: Final = 0.99
ALIGN_TICKS: Final = 3  # a reading of one-second means may be this much older than the meter's
FALL_RATIO_PER_S: Final = 0.001  # of the limit
RANK_EVERY: Final = 10  # ticks between two rankings of the window
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
    soft_before_w: Floats  # (rows,) the residual against measured power a second ago
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
        soft_before_w=np.full(rows, np.nan),
        ranked_w=np.full(rows, np.nan),
        estimate_w=configured_w.copy(),
        tick=0,
    )


def step_unmanaged(state: UnmanagedState, seen: MeterInput) -> UnmanagedState:
    """Return the state after one more second. A row without a fresh meter keeps its estimate: time proves nothing."""
    managed, committed, residuals = state.managed_w.copy(), state.committed_w.copy(), state.residuals_w.copy()
    managed[state.tick % ALIGN_TICKS] = seen.managed_w
    committed[state.tick % ALIGN_TICKS] = seen.committed_w
    soft_w = seen.meter_w - np.fmax.reduce(managed, axis=0)
    hard_w = seen.meter_w - np.fmax.reduce(committed, axis=0)
    proven_w = np.fmax(hard_w, np.fmin(soft_w, np.where(np.isnan(state.soft_before_w), -np.inf, state.soft_before_w)))
    noise_w = NOISE_RATIO * seen.limit_w
    counted_w = np.where(proven_w > seen.configured_w + noise_w, proven_w, seen.configured_w)
    residuals[state.tick % WINDOW_S] = np.where(np.isnan(seen.meter_w), np.nan, counted_w)
    ranked_w = _rank(residuals) if state.tick % RANK_EVERY == 0 else state.ranked_w
    base_w = np.fmax(np.fmax(seen.configured_w, np.where(np.isfinite(ranked_w), ranked_w, -np.inf)), counted_w)
    fallen_w = np.fmax(base_w, state.estimate_w - FALL_RATIO_PER_S * seen.limit_w)
    is_fresh = np.isfinite(seen.meter_w)
    estimate_w = np.where(is_fresh, fallen_w, np.fmax(state.estimate_w, seen.configured_w))
    soft_before_w = np.where(is_fresh, soft_w, np.nan)
    return UnmanagedState(residuals, managed, committed, soft_before_w, ranked_w, estimate_w, state.tick + 1)


def _rank(residuals: Floats) -> Floats:
    """Return the quantile of each row's window over the known seconds; NaN where none is known."""
    ranked = np.sort(residuals, axis=0)  # NaN last
    known = np.isfinite(ranked).sum(axis=0)
    position = np.maximum(np.ceil(QUANTILE * known).astype(np.int64) - 1, 0)
    chosen: Floats = np.take_along_axis(ranked, position[np.newaxis, :], axis=0)[0]
    return chosen
