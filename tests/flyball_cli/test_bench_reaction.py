"""Figures of the reaction bench: what counts as missed, and what the percentiles say of it."""

import pytest

from flyball_cli.bench_reaction import Step, percentile, plant_share_w, summarise


def test_a_missed_step_is_endless_in_the_percentiles() -> None:
    taken = [Step("limit", 1.0, 1.0, 0.5)] * 9 + [Step("load", 1.0, 1.0, None)]
    figures = summarise(taken, 10.0)

    assert (figures.steps, figures.missed, figures.p50_s, figures.max_s) == (10, 1, 0.5, None)
    assert figures.limit_p95_s == 0.5
    assert figures.load_p95_s is None


def test_the_feed_loss_is_no_step() -> None:
    figures = summarise([Step("limit", 1.0, 1.0, 0.5), Step("feed", 1.0, 1.0, 3.0)], 10.0)

    assert (figures.steps, figures.max_s, figures.feed_loss_s) == (1, 0.5, 3.0)


def test_percentile_is_one_of_the_values() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([], 0.5) is None


def test_what_is_left_of_a_draw_leaves_out_the_load_that_went_too() -> None:
    assert plant_share_w(15_000.0, 1_000.0) == pytest.approx(10_000.0)
