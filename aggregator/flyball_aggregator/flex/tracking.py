"""Hold metered power at a limit: the plan's watts, corrected by what the meter says, careful while it says nothing.

Pure: `step_tracking` takes a state and one second and returns the next, whose `aim_w` is what to plan the shed for.
"""

from dataclasses import dataclass
from typing import Final

MARGIN_RATIO: Final = 0.002  # aimed below the limit, plus what the meter's noise asks for
NOISE_SIGMAS: Final = 1.1
FIRST_ERROR_RATIO: Final = 0.006  # of the limit: how far off a plan may be before the meter has told (assumption)
GAIN: Final = 0.25  # share of the error corrected each second
TRIM_UP_RATIO: Final = 0.10  # most that the plan may be raised by, of the limit: caps hold less than they say
TRIM_DOWN_RATIO: Final = 0.15
BLIND_RATIO_PER_S: Final = 0.0005  # how fast the aim falls while the meter is silent
BLIND_MOST_RATIO: Final = 0.02
SETTLING_S: Final = 4  # after a jump of the limit the meter still shows the past


@dataclass(frozen=True, slots=True)
class TrackingState:
    """The correction so far: watts on top of the limit; the meter's variance; seconds without a meter."""

    aim_w: float | None = None
    trim_w: float = 0.0
    variance: float = 0.0
    blind_s: int = 0
    limit_w: float | None = None
    settled_s: int = 0


def step_tracking(
    state: TrackingState, limit_w: float | None, measured_w: float | None, most_w: float = float("inf")
) -> TrackingState:
    """Return the state of this second; without a limit there is nothing to aim for.

    Args:
        state: Of the second before.
        limit_w: What may be drawn.
        measured_w: The meter's last second; None when it is not known.
        most_w: What the plan draws with nothing held back: correcting beyond that would only have to be undone.
    """
    if limit_w is None:
        return TrackingState(variance=state.variance)
    has_jumped = state.limit_w is None or abs(limit_w - state.limit_w) > 0.02 * limit_w
    settled_s = 0 if has_jumped else state.settled_s + 1
    if measured_w is None:
        blind_s = state.blind_s + 1
        trim_w, variance = state.trim_w, state.variance  # nothing is learnt without the meter
    else:
        blind_s = 0
        trim_w, variance = _corrected(state, limit_w, measured_w, settled_s)
    margin_w = MARGIN_RATIO * limit_w + NOISE_SIGMAS * variance**0.5
    trim_w = min(trim_w, most_w - limit_w + margin_w)
    blind_w = limit_w * min(BLIND_MOST_RATIO, BLIND_RATIO_PER_S * blind_s)
    return TrackingState(limit_w - margin_w + trim_w - blind_w, trim_w, variance, blind_s, limit_w, settled_s)


def _corrected(state: TrackingState, limit_w: float, measured_w: float, settled_s: int) -> tuple[float, float]:
    if settled_s < SETTLING_S or state.limit_w is None:
        return state.trim_w, max(state.variance, (FIRST_ERROR_RATIO * limit_w) ** 2)
    margin_w = MARGIN_RATIO * limit_w + NOISE_SIGMAS * state.variance**0.5
    error_w = limit_w - margin_w - measured_w
    variance = 0.98 * state.variance + 0.02 * min(error_w**2, (0.01 * limit_w) ** 2)
    trim_w = state.trim_w + GAIN * error_w
    return min(max(trim_w, -TRIM_DOWN_RATIO * limit_w), TRIM_UP_RATIO * limit_w), variance
