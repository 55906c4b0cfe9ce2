"""The watts ledger: charges, promises to the grid, and that neither ever breaks the other."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_aggregator.placement.errors import RequestError
from flyball_aggregator.placement.rows import Charge, PowerRow, Promise, RowLedger

INF = float("inf")


def ledger(limit_w: float = 1000.0) -> RowLedger:
    rows = [PowerRow("site", 2 * limit_w, reserve_ratio=0.0), PowerRow("a", limit_w, reserve_ratio=0.0)]
    return RowLedger.of(rows, [{"site": 1.0, "a": 1.0}, {"site": 1.1}])


def test_charge_counts_on_every_row_over_its_host_with_its_share() -> None:
    rows = ledger()
    rows.add(rows.price(0, 100.0, 50.0, INF))
    rows.add(rows.price(1, 100.0, 50.0, INF))

    assert rows.committed_mw.tolist() == pytest.approx([210_000, 100_000], abs=1)
    assert rows.committed_mw[0] >= 210_000


def test_first_row_without_room_is_named() -> None:
    rows = ledger(limit_w=150.0)
    rows.add(rows.price(0, 100.0, 100.0, INF))

    assert rows.refusal(rows.price(0, 60.0, 60.0, INF), 0.0) == "a"
    assert rows.refusal(rows.price(0, 40.0, 40.0, INF), 0.0) is None


def test_reserve_and_unmanaged_load_are_never_lent() -> None:
    assert PowerRow("r", 1000.0, unmanaged_w=200.0, reserve_ratio=0.03).capacity_mw == 770_000


def test_fresh_measurement_above_the_charges_counts_and_a_stale_one_does_not() -> None:
    rows = ledger()
    rows.measure("a", 950.0, at_s=0.0)

    assert rows.refusal(rows.price(0, 100.0, 100.0, INF), 1.0) == "a"
    assert rows.refusal(rows.price(0, 100.0, 100.0, INF), 100.0) is None


def test_job_that_ends_before_the_window_is_not_held_down() -> None:
    rows = ledger()
    rows.promise(Promise("dr", "a", 500.0, 600.0, 100.0))

    assert rows.refusal(rows.price(0, 900.0, 900.0, 499.0), 0.0) is None
    assert rows.refusal(rows.price(0, 900.0, 900.0, 501.0), 0.0) == "a"
    assert rows.refusal(rows.price(0, 900.0, 90.0, INF), 0.0) is None


def test_promise_that_running_floors_break_is_not_given() -> None:
    rows = ledger()
    rows.add(rows.price(0, 900.0, 400.0, INF))

    assert rows.promise(Promise("dr", "a", 0.0, 60.0, 300.0)) == "row a: floors are 100 W over 300 W in the window"
    assert rows.promises == {}


def test_lower_limit_says_what_is_over() -> None:
    rows = ledger()
    rows.add(rows.price(0, 900.0, 400.0, INF))

    assert rows.set_limit("a", 850.0) == 50_000
    assert rows.set_limit("a", 950.0) == 0


def test_unknown_row_of_a_host_is_refused() -> None:
    with pytest.raises(RequestError, match="row 'ghost' is unknown"):
        RowLedger.of([PowerRow("a", 1.0)], [{"ghost": 1.0}])


@dataclass
class Site:
    """What a run of random steps did, beside the ledger's own sums."""

    rows: RowLedger = field(default_factory=ledger)
    live: dict[int, Charge] = field(default_factory=dict)


def check(site: Site, now_s: float) -> None:
    """Recompute every row and window from the live charges alone."""
    for row, name in enumerate(site.rows.names):
        drawn = sum(line[1] for charge in site.live.values() for line in charge.lines if line[0] == row)
        assert drawn == site.rows.committed_mw[row] <= site.rows.capacity_mw[row]
        for promise in site.rows.promises.values():
            if promise.row == name and promise.end_s > now_s:
                floors = sum(
                    line[2]
                    for charge in site.live.values()
                    for line in charge.lines
                    if line[0] == row and charge.end_s > promise.start_s
                )
                assert floors <= promise.capacity_mw


step = st.tuples(
    st.sampled_from(["place", "end", "promise", "pass"]),
    st.integers(0, 1),
    st.floats(1, 600),
    st.floats(0.1, 1.0),
    st.floats(1, 500),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(step, max_size=40))
def test_no_placement_ever_breaks_a_promised_reduction(steps: list[tuple[str, int, float, float, float]]) -> None:
    site, now_s = Site(), 0.0
    for number, (kind, host, watts, part, seconds) in enumerate(steps):
        if kind == "place":
            charge = site.rows.price(host, watts, watts * part, now_s + (seconds if part < 0.5 else INF))
            if site.rows.refusal(charge, now_s) is None:
                site.live[site.rows.add(charge)] = charge
        elif kind == "end" and site.live:
            key = next(iter(site.live))
            assert site.rows.remove(key) == site.live.pop(key)
        elif kind == "promise":
            start_s = now_s + seconds
            site.rows.promise(Promise(str(number), site.rows.names[host], start_s, start_s + 100, 2 * watts))
        else:
            now_s += seconds
            site.rows.forget_past(now_s)
            for key in [key for key, charge in site.live.items() if charge.end_s <= now_s]:
                site.rows.remove(key)
                del site.live[key]
        check(site, now_s)
