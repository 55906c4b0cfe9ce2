"""Suppositions on a living site: who would be lowered, which row says no, and that nothing changes by asking."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.flyball_aggregator.small_site import SmallSite, build_site, build_small_site

from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.power.what_if import Question, Work, answer
from flyball_aggregator.site import Element, Parent, Policy, Site


@pytest.fixture
async def paired(tmp_path: Path) -> SmallSite:
    """Two hosts on two feeds, either of which bears all for ten minutes at its emergency rating."""
    feeds = tuple(
        Element(name, "feed", rating_w=9_000.0, emergency_rating_w=12_000.0, emergency_duration_s=600.0)
        for name in ("feed-a", "feed-b")
    )
    rack = Element("rack", "rack", (Parent("feed-a", 0.5), Parent("feed-b", 0.5)))
    small = build_site(tmp_path, Site("demo", policy=Policy(mode="enforce"), elements=(*feeds, rack)), ["rack"] * 2)
    small.has_meter = False
    await small.seconds(8)
    return small


def snapshot_of(small: SmallSite) -> PowerSnapshot:
    assert small.loop.snapshot is not None
    return small.loop.snapshot


async def test_a_lower_limit_names_who_is_lowered_and_changes_nothing(tmp_path: Path) -> None:
    small = build_small_site(tmp_path)
    before = await small.seconds(8)

    said = answer(small.site, before, Question(limits_w=(("feed", 16_000.0),)))

    assert said["fits"]
    assert {item["host"] for item in said["lowered"]} == set(small.hosts)
    assert said["lowered"][0]["limiting_row"] == "feed"
    assert said["rows"][0]["slack_watts_after"] < 0 <= said["rows"][0]["slack_watts_before"]
    assert small.limit_w == 20_000.0


async def test_a_limit_below_the_minima_is_short_by_name(tmp_path: Path) -> None:
    small = build_small_site(tmp_path)
    said = answer(small.site, await small.seconds(8), Question(limits_w=(("feed", 10_000.0),)))

    assert not said["fits"]
    assert said["short_rows"] == ["feed"]


async def test_a_lost_feed_leaves_its_survivor_at_what_it_carries_without_end(paired: SmallSite) -> None:
    said = answer(paired.site, snapshot_of(paired), Question(lost="feed-a"))
    limits = {row["row"]: row["limit_watts"] for row in said["rows"]}

    assert limits["feed-b/without/feed-a"] == 9_000.0
    assert limits["feed-a/without/feed-b"] == 12_000.0
    assert {item["limiting_row"] for item in said["lowered"]} == {"feed-b/without/feed-a"}


async def test_a_load_counts_on_every_row_it_flows_through_and_whole_on_a_survivor(paired: SmallSite) -> None:
    snapshot = snapshot_of(paired)
    said = answer(paired.site, snapshot, Question(loads_w=(("rack", 1_000.0),)))
    taken = {row["row"]: row["slack_watts_before"] - row["slack_watts_after"] for row in said["rows"]}

    assert taken["feed-a"] == pytest.approx(500.0)
    assert taken["feed-b/without/feed-a"] == pytest.approx(1_000.0)


async def test_work_is_admitted_to_93_percent_and_refused_beyond_with_the_row_named(tmp_path: Path) -> None:
    small = build_small_site(tmp_path, limit_w=18_000.0)
    snapshot = await small.seconds(8)

    small_one = answer(small.site, snapshot, Question(work=Work(gpus=4, floor_w=350.0, expected_w=400.0)))
    large_one = answer(small.site, snapshot, Question(work=Work(gpus=8, floor_w=600.0, expected_w=700.0)))

    assert small_one["fits"]
    assert small_one["host"] in small.hosts
    assert not large_one["fits"]
    assert large_one["limiting_row"] == "feed"
    assert large_one["places"][0]["use_ratio"] > 0.93


async def test_work_does_not_go_to_a_host_that_is_not_led(tmp_path: Path) -> None:
    small = build_small_site(tmp_path, limit_w=40_000.0)
    small.hosts["host-0"].mode = "observe"
    snapshot = await small.seconds(8)

    said = answer(small.site, snapshot, Question(work=Work(1, 200.0, 200.0, hosts=("host-0",))))

    assert not said["fits"]
    assert "not led" in said["places"][0]["refusal"]


async def test_a_name_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    small = build_small_site(tmp_path)
    snapshot = await small.seconds(3)

    with pytest.raises(ValueError, match="row 'food' is not known; there are feed"):
        answer(small.site, snapshot, Question(limits_w=(("food", 1.0),)))
    with pytest.raises(ValueError, match=r"'feed'.*there are none"):
        answer(small.site, snapshot, replace(Question(), lost="feed"))
