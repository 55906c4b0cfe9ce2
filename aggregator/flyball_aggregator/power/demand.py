"""What each host would use: a held envelope of its GPUs' power together, with more for those their caps hold back.

Raise fast, lower slowly: the highest of the last ten seconds counts, so that training swings of 0.2 to 3 Hz, which a
loop of one second would see aliased, leave the estimate still. The host's sum is held, not each GPU's value: inside a
host the governor moves watts within a fraction of a second. Pure: `step` takes a state and returns the next one.

Source: power-budgeting.md 5.4.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from flyball_aggregator.power.allocate import Flags
from flyball_aggregator.power.ring import with_slot
from flyball_aggregator.power.rows import Floats

HOLD_S: Final = 10  # seconds, one sample each: five periods of the slowest training swing
PEAK_QUANTILE: Final = 0.75  # of the peaks held: a swing that recurs counts, a transient of one or two seconds does not
HEADROOM_RATIO: Final = 0.05
HEADROOM_W: Final = 30.0  # of each GPU
PEAK_WEIGHT: Final = 0.5  # of what the peaks within a second stand above its mean: GPUs do not peak together
BITING_RATIO: Final = 0.1  # share of a second under the cap that counts as held back
STEP_RATIO: Final = 0.1  # of the GPU's range, doubled each second that the cap still bites
DEAD_BAND_RATIO: Final = 0.02  # smaller falls of a host's demand are noise


@dataclass(frozen=True, slots=True)
class Measured:
    """One second of all GPUs, each (hosts, width) with NaN for unknown or absent; watts at the board."""

    power_w: Floats
    peak_w: Floats
    cap_w: Floats
    throttled_ratio: Floats
    minimum_w: Floats
    maximum_w: Floats  # NaN only where there is no GPU


@dataclass(frozen=True, slots=True)
class DemandState:
    """Rings of the last seconds, each (HOLD_S, hosts), the step of held-back GPUs and the last answer."""

    means_w: Floats
    peaks_w: Floats
    step_ratio: Floats  # (hosts, width)
    demand_w: Floats  # (hosts,), NaN before the first answer
    tick: int


def start_demand(hosts: int, width: int) -> DemandState:
    """Return the state before the first second: nothing is known."""
    return DemandState(
        means_w=np.full((HOLD_S, hosts), np.nan),
        peaks_w=np.full((HOLD_S, hosts), np.nan),
        step_ratio=np.full((hosts, width), STEP_RATIO),
        demand_w=np.full(hosts, np.nan),
        tick=0,
    )


def step_demand(state: DemandState, measured: Measured, is_fresh: Flags) -> DemandState:
    """Return the state after one more second; its `demand_w` is (hosts,) GPU watts.

    Args:
        state: Of the second before.
        measured: This second.
        is_fresh: (hosts,) whether the columns are of this second; a stale host keeps its demand.

    A GPU that its cap holds back for part of a second could have drawn its maximum for that part and no more. One whose
    power is unknown counts at its cap, and one whose cap is unknown too at its maximum.
    """
    exists = np.isfinite(measured.maximum_w)
    span_w = measured.maximum_w - measured.minimum_w
    is_biting = (measured.throttled_ratio > BITING_RATIO) & np.isfinite(measured.cap_w)
    stepped_w = measured.cap_w + state.step_ratio * span_w
    most_w = measured.power_w + measured.throttled_ratio * (measured.maximum_w - measured.cap_w)
    held_back_w = np.maximum(np.minimum(stepped_w, most_w), measured.power_w)
    wanted_w = np.where(is_biting, held_back_w, measured.power_w)
    sample_w = np.where(np.isnan(wanted_w), _unknown_w(measured), wanted_w)
    bounded_w = np.clip(sample_w, measured.minimum_w, measured.maximum_w)
    above_w = np.where(is_biting | np.isnan(measured.power_w), 0.0, np.fmax(measured.peak_w - measured.power_w, 0.0))
    mean_w = np.where(is_fresh, _sum(bounded_w, exists), np.nan)
    means = with_slot(state.means_w, state.tick, mean_w)
    peaks = with_slot(state.peaks_w, state.tick, mean_w + PEAK_WEIGHT * _sum(above_w, exists))
    fresh = is_fresh[:, np.newaxis]
    step_ratio = np.where(fresh & is_biting, np.minimum(state.step_ratio * 2.0, 1.0), STEP_RATIO)
    step_ratio = np.where(fresh, step_ratio, state.step_ratio)
    host_w = _host_demand_w(means, peaks, measured, exists)
    known = np.isfinite(host_w) & is_fresh
    demand_w = np.where(known, _with_dead_band(state.demand_w, host_w), state.demand_w)
    return DemandState(means, peaks, step_ratio, demand_w, state.tick + 1)


def _unknown_w(measured: Measured) -> Floats:
    return np.where(np.isnan(measured.cap_w), measured.maximum_w, measured.cap_w)


def _sum(values: Floats, exists: Flags) -> Floats:
    """Return (hosts,) sums over the GPUs that exist; NaN for a host without any."""
    sums: Floats = np.where(exists, values, 0.0).sum(axis=1)
    return np.where(exists.any(axis=1), sums, np.nan)


def _host_demand_w(means: Floats, peaks: Floats, measured: Measured, exists: Flags) -> Floats:
    """Return (hosts,) held envelopes with headroom, within what the devices can be set to."""
    envelope_w = np.fmax(np.fmax.reduce(means, axis=0), _recurring(peaks))
    wanted_w = envelope_w + np.maximum(HEADROOM_RATIO * envelope_w, HEADROOM_W * exists.sum(axis=1))
    bounded_w: Floats = np.clip(wanted_w, _sum(measured.minimum_w, exists), _sum(measured.maximum_w, exists))
    return bounded_w


def _recurring(peaks: Floats) -> Floats:
    """Return the quantile of the peaks of the last seconds, unknown ones counting as the lowest."""
    ranked = np.sort(np.where(np.isnan(peaks), -np.inf, peaks), axis=0)
    chosen = ranked[int(PEAK_QUANTILE * (HOLD_S - 1))]
    return np.where(np.isfinite(chosen), chosen, np.nan)


def _with_dead_band(before_w: Floats, now_w: Floats) -> Floats:
    """Return rises as they are, and falls only when they are more than noise."""
    is_noise = (now_w <= before_w) & (now_w >= before_w * (1.0 - DEAD_BAND_RATIO))
    return np.where(is_noise, before_w, now_w)
