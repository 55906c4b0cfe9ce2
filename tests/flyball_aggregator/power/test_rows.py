"""The power network as rows: shares, lost feeds, ratings, groups."""

import numpy as np
import pytest

from flyball_aggregator.power.rows import Row, build_matrix, build_rows, root_rows
from flyball_aggregator.site import Element, Group, Host, Parent, Site

OWN_W = 1000.0


def host(name: str, *parents: Parent) -> Host:
    return Host(name, parents=parents, own_power_w=OWN_W, wall_watts_per_gpu_watt=1.25)


def by_name(site: Site) -> dict[str, Row]:
    return {row.name: row for row in build_rows(site)}


def test_host_on_two_feeds_puts_its_share_on_each_and_all_on_the_survivor() -> None:
    site = Site(
        elements=(
            Element("a", "feed", rating_w=10_000.0),
            Element("b", "feed", rating_w=8_000.0, emergency_rating_w=12_000.0, emergency_duration_s=60.0),
        ),
        hosts=(host("h", Parent("a", 0.6), Parent("b", 0.4)),),
    )
    rows = by_name(site)

    assert set(rows) == {"a", "b", "a/without/b", "b/without/a"}
    assert rows["a"].coefficients == (0.75,)
    assert rows["a"].unmanaged_w == pytest.approx(600.0)
    assert rows["b/without/a"].coefficients == (1.25,)
    assert rows["b/without/a"].limit_w == 12_000.0
    assert rows["a/without/b"].limit_w == 10_000.0


def test_emergency_rating_too_short_to_shed_in_is_not_counted_on() -> None:
    site = Site(
        elements=(
            Element("a", "feed", rating_w=10_000.0),
            Element("b", "feed", rating_w=8_000.0, emergency_rating_w=12_000.0, emergency_duration_s=5.0),
        ),
        hosts=(host("h", Parent("a", 0.5), Parent("b", 0.5)),),
    )

    assert by_name(site)["b/without/a"].limit_w == 8_000.0


def test_loss_of_a_ups_and_of_its_feed_is_said_once() -> None:
    elements = (
        Element("feed-a", "feed", rating_w=9_000.0),
        Element("feed-b", "feed", rating_w=9_000.0),
        Element("ups-a", "ups", rating_w=9_000.0, parents=(Parent("feed-a"),), efficiency=0.9),
        Element("ups-b", "ups", rating_w=9_000.0, parents=(Parent("feed-b"),)),
    )
    site = Site(elements=elements, hosts=(host("h", Parent("ups-a", 0.5), Parent("ups-b", 0.5)),))
    rows = by_name(site)

    assert rows["feed-a"].coefficients[0] == pytest.approx(0.5 * 1.25 / 0.9, abs=1e-6)
    losses = [row for row in rows.values() if row.kind == "loss"]
    assert sorted((row.element, row.coefficients) for row in losses if row.element == "ups-b") == [("ups-b", (1.25,))]
    assert len([row for row in losses if row.element == "feed-b"]) == 1


def test_dark_host_draws_nothing_after_the_loss_of_its_only_feed() -> None:
    site = Site(
        elements=(Element("a", rating_w=9e3), Element("b", rating_w=9e3)),
        hosts=(host("both", Parent("a", 0.5), Parent("b", 0.5)), host("only-a", Parent("a"))),
    )

    assert by_name(site)["b/without/a"].hosts == (0,)


def test_group_row_counts_its_members_at_the_wall() -> None:
    site = Site(
        elements=(Element("a", rating_w=9e3),),
        hosts=(host("x", Parent("a")), host("y", Parent("a"))),
        groups=(Group("tenant", ("y",), 3_000.0),),
    )
    row = by_name(site)["group/tenant"]

    assert (row.hosts, row.coefficients, row.unmanaged_w) == ((1,), (1.25,), OWN_W)


def test_coefficients_are_whole_parts_per_million_rounded_up() -> None:
    third = Host("h", element="a", wall_watts_per_gpu_watt=4.0 / 3.0)
    (row,) = build_rows(Site(elements=(Element("a", rating_w=9e3),), hosts=(third,)))

    assert row.coefficients == (1.333334,)


def test_host_that_no_limit_covers_is_on_a_row_without_a_name() -> None:
    site = Site(
        elements=(Element("a", rating_w=9e3), Element("free")),
        hosts=(host("x", Parent("a")), host("y", Parent("free"))),
    )
    rows = build_rows(site)
    matrix = build_matrix(rows, 2)

    assert matrix.rows == 1
    assert matrix.host.tolist() == [0, 1]
    assert matrix.load_w(np.array([100.0, 100.0])).tolist() == [125.0]


def test_root_rows_carry_the_site_once() -> None:
    elements = (
        Element("grid"),
        Element("a", rating_w=9e3, parents=(Parent("grid"),)),
        Element("b", rating_w=9e3, parents=(Parent("grid"),)),
        Element("rack", rating_w=5e3, parents=(Parent("a", 0.5), Parent("b", 0.5))),
    )
    site = Site(elements=elements, hosts=(host("h", Parent("rack")),))
    rows = build_rows(site)

    assert [rows[index].name for index in root_rows(site, rows)] == ["a", "b"]
