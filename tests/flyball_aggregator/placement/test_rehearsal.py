"""Random jobs, faults, promises and crashes never break a rule; the bench runs a thousand seeds."""

import pytest

from flyball_aggregator.placement.rehearsal import BrokenError, Rehearsal


@pytest.mark.parametrize("seed", range(6))
def test_nothing_that_never_may_happens(seed: int) -> None:
    rehearsal = Rehearsal(seed)
    rehearsal.run(150)

    assert rehearsal.started > 0


def test_equal_seeds_take_equal_decisions() -> None:
    runs = [Rehearsal(3) for _ in range(2)]
    for run in runs:
        run.run(120)

    assert runs[0].disk == runs[1].disk


def test_the_checks_see_a_gpu_given_twice_and_a_row_over_its_limit() -> None:
    rehearsal = Rehearsal(1)
    rehearsal.run(40)
    rehearsal.engine.rows.committed_mw[0] += 10**9

    with pytest.raises(BrokenError, match="row is over its limit"):
        rehearsal.check()
