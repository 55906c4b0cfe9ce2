"""The published grid event, in short."""

import pytest

from flyball_twin.flex_study import CASES, Case, FlexQuestion, answer_flex


def test_the_published_shed_keeps_its_goals() -> None:
    result = answer_flex(FlexQuestion(hold_s=1200, seeds=(0,), after_s=1200))

    assert result["response_s"] <= 5.0
    assert result["compliance"] >= 0.995
    assert result["over_shed"] <= 0.01
    assert result["weighted_performance"] >= 0.903
    assert result["strictest_performance"] >= 0.99
    assert result["rebound"] <= 1.01


@pytest.mark.parametrize("case", CASES[1:])
def test_every_other_case_meets_its_target_too(case: Case) -> None:
    result = answer_flex(FlexQuestion(hold_s=420, seeds=(1,), case=case, after_s=900))

    assert result["compliance"] >= 0.98
    assert result["rebound"] <= 1.015


def test_slow_actuation_answers_late() -> None:
    slow = answer_flex(FlexQuestion(hold_s=200, seeds=(0,), delay_s=40, after_s=60))

    assert slow["response_s"] >= 30.0


def test_a_shed_beyond_the_floors_has_no_bound() -> None:
    result = answer_flex(FlexQuestion(hold_s=60, seeds=(0,), shed=0.6, after_s=60))

    assert result["bound_weighted_performance"] is None
