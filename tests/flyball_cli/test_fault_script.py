"""Scripted faults are read strictly, and decide who stays down."""

import pytest

from flyball_cli.fault_script import FaultEvent, is_held_down, parse_event
from flyball_wire.errors import ConfigError


def test_an_event_names_second_action_and_target() -> None:
    assert parse_event("20:kill:aggregator") == FaultEvent(20.0, "kill", "aggregator")
    assert parse_event("1.5:stop:agent/host-2") == FaultEvent(1.5, "stop", "agent/host-2")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("20:kill", "expected SECONDS:ACTION:TARGET"),
        ("x:kill:agent", "'x', expected seconds"),
        ("-1:kill:agent", "'-1', expected seconds"),
        ("nan:kill:agent", "'nan', expected seconds"),
        ("1:explode:agent", "action 'explode'"),
        ("1:kill:toaster", "target 'toaster'"),
        ("1:kill:broker/host-1", "target 'broker/host-1'"),
    ],
)
def test_a_wrong_event_is_refused_by_the_part_that_is_wrong(text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_event(text)

    assert named in str(caught.value)


def test_a_kill_holds_down_only_what_the_script_starts_again() -> None:
    kill = FaultEvent(20.0, "kill", "aggregator")
    start = FaultEvent(40.0, "start", "aggregator")

    assert is_held_down(kill, (kill, start))
    assert not is_held_down(kill, (kill,))
    assert not is_held_down(kill, (kill, FaultEvent(40.0, "start", "broker")))
