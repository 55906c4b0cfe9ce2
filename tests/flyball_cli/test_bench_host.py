"""Figures of `bench host` from readings and histograms."""

import pytest

from flyball_cli.bench_host import lateness_quantile_ms


def test_a_quantile_lies_inside_its_bucket() -> None:
    buckets = [0, 0, 10, 10]  # 10 ticks 2..4 µs late, 10 ticks 4..8 µs

    assert lateness_quantile_ms(buckets, 0.25) == pytest.approx(0.003)
    assert lateness_quantile_ms(buckets, 0.5) == pytest.approx(0.004)
    assert lateness_quantile_ms(buckets, 1.0) == pytest.approx(0.008)


def test_without_ticks_there_is_no_lateness() -> None:
    assert lateness_quantile_ms([0, 0], 0.99) is None
