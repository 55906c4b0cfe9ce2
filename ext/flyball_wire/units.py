"""Units that cross module boundaries, and the one place where milli becomes base and back.

The lease path counts in integer milliwatts: a cap is rounded down, a commitment up, so that rounding never makes power.
"""

import math
from typing import NewType

Watts = NewType("Watts", float)
Joules = NewType("Joules", float)
Milliwatts = NewType("Milliwatts", int)

MILLI = 1000


def cap_milliwatts(power_w: float) -> Milliwatts:
    """Return watts as integer milliwatts, rounded down: a cap may only become smaller.

    Raises:
        ValueError: not finite or negative.
    """
    return Milliwatts(math.floor(_finite(power_w) * MILLI))


def commitment_milliwatts(power_w: float) -> Milliwatts:
    """Return watts as integer milliwatts, rounded up: a commitment may only become larger.

    Raises:
        ValueError: not finite or negative.
    """
    return Milliwatts(math.ceil(_finite(power_w) * MILLI))


def watts(power_milliwatts: int) -> Watts:
    """Return integer milliwatts as watts."""
    return Watts(power_milliwatts / MILLI)


def _finite(power_w: float) -> float:
    if not math.isfinite(power_w) or power_w < 0:
        raise ValueError(f"power {power_w} W: expected a finite number of watts, 0 or more")
    return power_w
