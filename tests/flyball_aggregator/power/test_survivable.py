"""How many silent hosts a row survives."""

import pytest

from flyball_aggregator.power.survivable import survivable_unreachable_fraction


@pytest.mark.parametrize(("limit", "fraction"), [(0.60, 0.80), (0.40, 0.43), (0.25, 0.15), (0.10, 0.0), (0.80, 1.0)])
def test_the_fraction_is_that_of_the_worked_example(limit: float, fraction: float) -> None:
    assert survivable_unreachable_fraction(limit, 0.167, 0.71) == pytest.approx(fraction, abs=0.006)
