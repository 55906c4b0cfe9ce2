"""Hosts held still: frozen and released, over restarts, and only with room for what comes back."""

from pathlib import Path

import pytest
from tests.flyball_aggregator.small_site import GPU_MAXIMUM_W, GPUS, SmallSite, build_small_site

from flyball_aggregator.power.holds import HoldBook, hosts_under
from flyball_aggregator.site import Element, Group, Host, Parent, Site
from flyball_wire.errors import ConfigError

MAXIMUM_MILLIWATTS = int(GPU_MAXIMUM_W * GPUS * 1000)


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return build_small_site(tmp_path)


async def test_a_frozen_host_stays_frozen_over_a_restart(small: SmallSite) -> None:
    await small.seconds(8)
    small.loop.holds.put(["host-0"], "frozen")
    cap = small.hosts["host-0"].cap_milliwatts
    small.stop()
    small.start()

    small.hosts["host-1"].want_w = 100.0
    snapshot = await small.seconds(20)

    assert snapshot.reasons[0] == "frozen by an operator"
    assert small.hosts["host-0"].cap_milliwatts == cap
    assert small.seconds_over == 0


async def test_a_released_host_gets_its_devices_back_once_the_others_made_room(small: SmallSite) -> None:
    await small.seconds(8)
    small.loop.holds.put(["host-2"], "released")

    snapshot = await small.seconds(8)

    assert small.hosts["host-2"].cap_milliwatts == MAXIMUM_MILLIWATTS
    assert small.loop.has_handed_back("host-2")
    assert snapshot.slack_w(0) >= 0.0
    assert small.seconds_over == 0
    assert snapshot.reasons[2] == "released by an operator"


async def test_a_release_without_room_waits_and_says_so(tmp_path: Path) -> None:
    small = build_small_site(tmp_path, limit_w=17_000.0)
    await small.seconds(8)
    small.loop.holds.put(["host-0"], "released")

    await small.seconds(12)

    assert small.hosts["host-0"].cap_milliwatts < MAXIMUM_MILLIWATTS
    assert small.loop.parts.desk.refusals["host-0"].reason == "row_full"
    assert small.seconds_over == 0


async def test_a_released_host_is_led_again_when_the_hold_is_taken_away(small: SmallSite) -> None:
    await small.seconds(8)
    small.loop.holds.put(["host-2"], "released")
    await small.seconds(8)
    small.loop.holds.take_away(["host-2"])

    await small.seconds(6)

    assert small.hosts["host-2"].cap_milliwatts < MAXIMUM_MILLIWATTS
    assert small.wall_w >= 0.95 * small.limit_w
    assert small.seconds_over == 0


def test_a_broken_file_of_holds_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "holds.json"
    path.write_text('{"holds": {"host-0": "melted"}}')

    with pytest.raises(ConfigError, match=r"melted.*neither frozen nor released"):
        HoldBook(path).load()


def test_a_hold_that_cannot_be_kept_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    book = HoldBook(tmp_path / "gone" / "holds.json")

    with pytest.raises(ConfigError, match="stay as they were"):
        book.put(["host-0"], "frozen")

    assert book.of("host-0") is None


def test_a_name_stands_for_the_site_an_element_a_group_or_a_host() -> None:
    elements = (Element("feed", rating_w=1e5), Element("rack", parents=(Parent("feed"),)))
    hosts = (Host("host-0", element="rack"), Host("host-1", element="feed"))
    site = Site("demo", elements=elements, hosts=hosts, groups=(Group("team", ("host-1",), 1e5),))

    assert hosts_under(site, "demo") == ["host-0", "host-1"]
    assert hosts_under(site, "feed") == ["host-0", "host-1"]
    assert hosts_under(site, "rack") == ["host-0"]
    assert hosts_under(site, "team") == ["host-1"]
    assert hosts_under(site, "host-1") == ["host-1"]
    with pytest.raises(ValueError, match="'food'"):
        hosts_under(site, "food")
