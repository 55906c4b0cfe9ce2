"""A ring of the last seconds as one array: the first axis is time."""

from flyball_aggregator.power.rows import Floats


def with_slot(ring: Floats, tick: int, values: Floats) -> Floats:
    """Return a ring with this tick's values in it."""
    changed = ring.copy()
    changed[tick % len(ring)] = values
    return changed
