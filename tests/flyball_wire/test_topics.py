"""Topics are built and parsed by one rule, and no hostile name gets into one."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyball_wire.errors import WireError
from flyball_wire.topics import (
    HOST_CHANNELS,
    ORDER_CHANNELS,
    check_name,
    fleet_topic,
    host_filter,
    host_topic,
    parse_host_topic,
)

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@given(NAMES, NAMES, st.sampled_from(HOST_CHANNELS + ORDER_CHANNELS))
def test_a_host_topic_parses_to_what_it_was_built_of(site: str, host: str, channel: str) -> None:
    topic = host_topic(site, host, channel)  # type: ignore[arg-type]  # drawn from the channels
    assert parse_host_topic(topic) == (site, host, channel)


@given(st.text(max_size=300) | st.lists(st.text(max_size=10), max_size=9).map("/".join))
def test_any_topic_parses_or_gives_a_wire_error(topic: str) -> None:
    with contextlib.suppress(WireError):
        site, host, channel = parse_host_topic(topic)
        assert host_topic(site, host, channel) == topic  # type: ignore[arg-type]  # as parsed


@pytest.mark.parametrize("name", ["", "a.b", "a b", "+", "#", "a/b", "x" * 65, "ä", "a\n", "a\x00"])
def test_names_that_topics_cannot_carry_are_refused(name: str) -> None:
    builds: tuple[Callable[[], str], ...] = (
        lambda: check_name("host", name),
        lambda: host_topic("site", name, "state"),
        lambda: host_topic(name, "host", "state"),
        lambda: host_filter(name, "state"),
        lambda: fleet_topic(name, "power"),
    )
    for build in builds:
        with pytest.raises(WireError):
            build()


def test_fleet_topics_may_have_levels_but_no_empty_or_wild_ones() -> None:
    assert fleet_topic("s", "rows/r1") == "flyball/v1/s/fleet/rows/r1"
    for name in ("", "rows/", "rows/#", "/rows", "rows//r1"):
        with pytest.raises(WireError):
            fleet_topic("s", name)


def test_a_filter_matches_one_channel_of_every_host() -> None:
    assert host_filter("s", "ack") == "flyball/v1/s/host/+/ack"
