"""Share a host's milliwatts over its GPUs by demand: never above the budget, never below a device's minimum.

Each GPU first gets its minimum, then what it demands, by level (the least served first), then what is left over, again
by level, so that a GPU whose work begins has room. Pure and in whole watts, so that a steady demand gives steady caps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

MILLI = 1000


@dataclass(frozen=True, slots=True)
class Want:
    """One GPU's device limits and demand, in milliwatts; demand None is unknown and counts as the maximum."""

    minimum_milliwatts: int
    maximum_milliwatts: int
    demand_milliwatts: int | None

    @property
    def wanted_milliwatts(self) -> int:
        """The demand inside the device's limits."""
        if self.demand_milliwatts is None:
            return self.maximum_milliwatts
        return min(max(self.demand_milliwatts, self.minimum_milliwatts), self.maximum_milliwatts)


def split(budget_milliwatts: int, wants: Sequence[Want]) -> tuple[int, ...]:
    """Return each GPU's cap in milliwatts.

    Returns:
        Caps inside the device limits. Their sum is at most the budget, or the sum of the minima where that is larger.
    """
    minima = [want.minimum_milliwatts for want in wants]
    wanted = [want.wanted_milliwatts for want in wants]
    if sum(wanted) >= budget_milliwatts:
        return _fill(budget_milliwatts, minima, wanted)
    return _fill(budget_milliwatts, wanted, [want.maximum_milliwatts for want in wants])


def _fill(budget: int, floors: Sequence[int], ceilings: Sequence[int]) -> tuple[int, ...]:
    """Raise all from floor to ceiling at one level, the highest whole watt at which the sum is inside the budget."""
    low, high = 0, max(ceilings, default=0) // MILLI + 2
    while high - low > 1:
        middle = (low + high) // 2
        if sum(_at_level(middle * MILLI, floors, ceilings)) <= budget:
            low = middle
        else:
            high = middle
    return tuple(_at_level(low * MILLI, floors, ceilings))


def _at_level(level: int, floors: Sequence[int], ceilings: Sequence[int]) -> list[int]:
    return [min(max(level, floor), ceiling) for floor, ceiling in zip(floors, ceilings, strict=True)]
