"""The result of a run is what the meter saw."""

import pytest

from flyball_cli.run_result import summarise_power


def test_power_is_summarised_over_whole_seconds() -> None:
    assert summarise_power([900.0, 1000.0, 950.0], 1000.0) == (950.0, 0.95, 1000.0, 0)


def test_a_second_counts_as_over_only_above_the_limit() -> None:
    assert summarise_power([1000.0, 1000.1], 1000.0)[3] == 1


def test_no_metered_second_is_an_error_and_not_zero() -> None:
    with pytest.raises(ValueError, match="no whole second"):
        summarise_power([], 1000.0)
