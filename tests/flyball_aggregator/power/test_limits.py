"""Limits beside the ratings: lowest over sources, latest of one source, ramps and ends."""

import pytest

from flyball_aggregator.power.limits import RATING, LimitBook
from flyball_aggregator.power.rows import Row


@pytest.fixture
def book() -> LimitBook:
    return LimitBook((Row("feed", "element", "feed", None, (0,), (1.0,), 100.0, 100.0, 0.0, 0.0, None),))


def test_lowest_source_wins_and_the_rating_stands_behind_all(book: LimitBook) -> None:
    book.put("feed", "grid", 80.0, 0.0)
    book.put("feed", "operator", 90.0, 0.0)
    assert book.in_force("feed", 1.0) == (80.0, "grid")

    book.put("feed", "grid", 200.0, 2.0)
    assert book.in_force("feed", 3.0) == (90.0, "operator")
    assert book.take_away("feed", "operator")
    assert book.in_force("feed", 3.0) == (100.0, RATING)


def test_ramp_falls_from_where_the_row_stood(book: LimitBook) -> None:
    book.put("feed", "grid", 70.0, 10.0, ramp_w_per_s=5.0)

    assert [book.in_force("feed", at)[0] for at in (10.0, 12.0, 16.0, 99.0)] == [100.0, 90.0, 70.0, 70.0]


def test_limit_with_an_end_goes_by_itself(book: LimitBook) -> None:
    book.put("feed", "grid", 70.0, 0.0, until_s=5.0)

    assert book.in_force("feed", 4.9)[0] == 70.0
    assert book.in_force("feed", 5.0) == (100.0, RATING)


@pytest.mark.parametrize(("row", "limit_w", "ramp"), [("none", 5.0, None), ("feed", -1.0, None), ("feed", 5.0, 0.0)])
def test_impossible_limit_is_refused(book: LimitBook, row: str, limit_w: float, ramp: float | None) -> None:
    with pytest.raises(ValueError, match="row"):
        book.put(row, "grid", limit_w, 0.0, ramp_w_per_s=ramp)
