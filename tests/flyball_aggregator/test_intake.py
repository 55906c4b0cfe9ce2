"""The intake: good messages reach the fleet; bad ones are counted, named and change nothing."""

import secrets
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flyball_aggregator.small_site import SmallSite, build_small_site

from flyball_aggregator.fleet import build_fleet
from flyball_aggregator.intake import Intake
from flyball_aggregator.site import Element, Host, Site
from flyball_wire.codec import encode
from flyball_wire.messages import Birth, Event, GpuInventory
from flyball_wire.signing import SigningKey

STATE = "flyball/v1/demo/host/host-0/state"


@pytest.fixture
def small(tmp_path: Path) -> SmallSite:
    return build_small_site(tmp_path, hosts=2)


def birth_of(host: str, gpus: int) -> Birth:
    inventory = tuple(
        GpuInventory(index, f"GPU-{index}", "H200", "0000:01:00.0", "nvidia", 200_000, 690_000, 690_000)
        for index in range(gpus)
    )
    return Birth(
        host, secrets.token_hex(16), "boot", None, None, None, "1", True, inventory, host, 8, 1 << 30, None, 1.8e9
    )


def test_state_fills_the_columns_and_unknown_stays_unknown(small: SmallSite) -> None:
    host = small.hosts["host-0"]
    small.intake.take(STATE, host.state(1.0), 1.0)
    fleet = small.intake.fleet

    assert fleet.columns["power_watts"][0].tolist() == [80.0] * 8
    assert np.isnan(fleet.columns["energy_joules"][0]).all()
    assert np.isnan(fleet.columns["power_watts"][1]).all()
    assert np.isnan(fleet.host_power_w()[1])


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (STATE, b""),
        (STATE, b"\xc1" * 40),
        (STATE, b"x" * 1_000_000),
        ("flyball/v1/demo/host/host-0/nothing", b"{}"),
        ("flyball/v1/demo/host/host-0/lease", b"{}"),
        ("flyball/v1/demo/host/../state", b"{}"),
        ("flyball/v1/demo/host/host-0/ack", b"\x93\xc4\x00\xa1k\xc4\x00"),
        ("flyball/v1/demo/host/stranger/ack", b"\x90"),
        ("flyball/v1/demo/meter/feed", b"not json"),
        ("flyball/v1/demo/meter/feed", b'{"power_watts": NaN}'),
        ("flyball/v1/demo/meter/feed", b'{"power_watts": "12"}'),
        ("flyball/v1/demo/meter/feed", b'{"power_watts": true}'),
        ("flyball/v1/demo/meter/feed", b'{"power_watts": -5}'),
        ("flyball/v1/demo/meter/feed", b"[" * 3000),
    ],
)
def test_bad_message_is_counted_and_changes_nothing(small: SmallSite, topic: str, payload: bytes) -> None:
    small.intake.take(topic, payload, 1.0)

    assert small.intake.refused.total() == 1
    assert not small.intake.fleet.meters
    assert small.intake.last_refusal


def test_state_on_another_hosts_topic_is_refused(small: SmallSite) -> None:
    small.intake.take(STATE, small.hosts["host-1"].state(1.0), 1.0)

    assert "host-1" in small.intake.last_refusal
    assert np.isnan(small.intake.fleet.columns["power_watts"]).all()


def test_forged_and_borrowed_reports_never_reach_the_ledger(small: SmallSite) -> None:
    topic = "flyball/v1/demo/host/host-0/ack"
    before = small.loop.parts.desk.state
    real = small.hosts["host-0"]
    forger = SigningKey(real.key.key_id, Ed25519PrivateKey.generate())
    envelope = real.report(5.0)
    real.key = forger
    small.intake.take(topic, real.report(5.0), 5.0)
    small.intake.take(topic, small.hosts["host-1"].report(5.0), 5.0)
    small.intake.take("flyball/v1/demo/host/host-1/ack", envelope, 5.0)
    small.intake.take(topic, envelope[:-1] + bytes([envelope[-1] ^ 1]), 5.0)

    assert small.loop.parts.desk.state is before
    assert small.intake.refused["ack"] == 4
    assert small.loop.parts.desk.forged >= 3


def test_old_state_of_a_session_does_not_come_back(small: SmallSite) -> None:
    host = small.hosts["host-0"]
    old = host.state(1.0)
    host.is_gated = False
    new = host.state(2.0)
    small.intake.take(STATE, new, 2.0)
    small.intake.take(STATE, old, 3.0)

    assert small.intake.fleet.columns["power_watts"][0].tolist() == [200.0] * 8


def test_birth_brings_the_devices_own_limits_and_more_gpus_than_listed() -> None:
    fleet = build_fleet(Site("demo", elements=(Element("a"),), hosts=(Host("host-0", element="a", gpus=2),)))
    Intake(fleet).take("flyball/v1/demo/host/host-0/birth", encode(birth_of("host-0", 4)), 1.0)

    assert fleet.width == 4
    assert fleet.maximum_w[0].tolist() == [690.0] * 4
    assert fleet.columns["power_watts"].shape == (1, 4)


def test_unlisted_host_is_counted_and_stands_in_no_row(small: SmallSite) -> None:
    small.intake.take("flyball/v1/demo/host/new-one/birth", encode(birth_of("new-one", 8)), 1.0)

    assert small.intake.fleet.unlisted == {"new-one": 1}


def test_failing_handler_does_not_stop_the_others(small: SmallSite) -> None:
    seen: list[str] = []

    def fail(event: Event) -> None:
        seen.append(event.name)
        raise KeyError(event.name)

    small.intake.on_event.append(fail)
    event = Event("host-0", secrets.token_hex(16), 1, 1.8e9, "xid", "warning", 3, None, (("code", "79"),))
    small.intake.take("flyball/v1/demo/host/host-0/event", encode(event), 1.0)
    small.intake.take(STATE, small.hosts["host-0"].state(1.0), 1.0)

    assert seen == ["xid"]
    assert small.intake.refused["handler"] == 1
    assert small.intake.received["state"] == 1


FLEET = build_fleet(Site("demo", elements=(Element("a"),), hosts=(Host("host-0", element="a"),)))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["birth", "state", "event", "telemetry", "ack"]), st.binary(max_size=300))
def test_no_payload_raises(channel: str, payload: bytes) -> None:
    Intake(FLEET).take(f"flyball/v1/demo/host/host-0/{channel}", payload, 1.0)
