"""How many silent hosts a row survives when its limit falls: published per row before it happens."""


def survivable_unreachable_fraction(limit_after: float, floor: float, held: float) -> float:
    """Return the largest share of a row's held watts that may stay silent while the rest can still bring it under.

    Args:
        limit_after: What hosts may hold together after the limit fell (limit less unmanaged load and reserve).
        floor: What they hold together at their minima, in the same unit.
        held: What they hold together now, in the same unit.

    Returns:
        0..1: u with u x held + (1 - u) x floor <= limit_after. 1 if nothing has to come down.
    """
    if held <= limit_after:
        return 1.0
    if limit_after <= floor:
        return 0.0
    return (limit_after - floor) / (held - floor)
