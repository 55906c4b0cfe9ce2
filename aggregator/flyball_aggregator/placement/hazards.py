"""Soft terms of a placement: heat, risk of failure and price, in units of the best-fit tie."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
THERMAL_BAND_CELSIUS = 8.0  # the penalty starts this far below the slowdown temperature


@dataclass(frozen=True, slots=True)
class Climate:
    """(hosts,) inlet and slowdown temperatures, thermal resistance and watts drawn; NaN where unknown."""

    inlet_celsius: Floats
    slowdown_celsius: Floats
    celsius_per_watt: Floats
    drawn_w: Floats


def thermal_penalty(climate: Climate, add_w: float) -> Floats:
    """Return ((T_predicted - (T_slowdown - 8)) / 8)^2 where positive; unknown temperature counts as at slowdown."""
    predicted = climate.inlet_celsius + climate.celsius_per_watt * (climate.drawn_w + add_w)
    over = (predicted - (climate.slowdown_celsius - THERMAL_BAND_CELSIUS)) / THERMAL_BAND_CELSIUS
    return np.square(np.maximum(np.nan_to_num(over, nan=1.0), 0.0))


def risk_penalty(failures_per_hour: Floats, runtime_h: float) -> Floats:
    """Return the chance that a host fails during the run; unknown risk counts as the worst known one."""
    known = failures_per_hour[~np.isnan(failures_per_hour)]
    worst = float(known.max(initial=0.0))
    return 1.0 - np.exp(-np.nan_to_num(failures_per_hour, nan=worst) * runtime_h)


def price_penalty(add_w: float, dollars_per_mwh: float, *, is_deferrable: bool) -> float:
    """Return the dollars of an hour for work that can wait; 0 for work that cannot."""
    return add_w * 1e-6 * dollars_per_mwh if is_deferrable else 0.0
