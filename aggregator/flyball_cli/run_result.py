"""What an unattended `flyball up --for` found out, from the true power at the meter."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True)
class RunResult:
    """The one JSON object at the end of a run; power is the plant's true wall power, 1 s means over whole seconds."""

    hosts: int
    gpus: int
    samples_total: int  # one sample = one row of one GPU
    limit_w: float
    uncapped_mean_w: float
    mean_w: float
    use_of_limit: float
    peak_1s_w: float
    seconds_over_limit: int
    leases_acked: int
    broker: str
    simulated: bool
    seconds: int
    restarts: dict[str, int]


def summarise_power(power_w: Sequence[float], limit_w: float) -> tuple[float, float, float, int]:
    """Return (mean_w, use_of_limit, peak_1s_w, seconds_over_limit) of 1 s means.

    Raises:
        ValueError: no second was metered.
    """
    if not power_w:
        raise ValueError("the meter saw no whole second")
    mean_w = fmean(power_w)
    over = sum(1 for second_w in power_w if second_w > limit_w)
    return mean_w, mean_w / limit_w, max(power_w), over
