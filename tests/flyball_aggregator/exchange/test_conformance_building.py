"""Conformance checks 16 to 20 of the DSX Exchange, by number: buildings and host states."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flyball_aggregator.exchange.grid_samples import METER_METADATA_TOPIC
from tests.flyball_aggregator.small_site import SmallSite, build_site

from flyball_aggregator.exchange.bms_part import BmsPart
from flyball_aggregator.exchange.bms_points import STALE_S, BmsRefusedError, PointBook, PointId, read_value
from flyball_aggregator.exchange.bms_power import meter_power_w, rack_power_w, rack_state, read_wiring
from flyball_aggregator.exchange.bms_writeback import CHIP_LIMIT_C, supply_request_c
from flyball_aggregator.exchange.check_message import check_message
from flyball_aggregator.exchange.cloud_event import Outgoing
from flyball_aggregator.exchange.contracts import SCHEMAS
from flyball_aggregator.exchange.exchange_config import ExchangeBrokerConfig, ExchangeConfig
from flyball_aggregator.exchange.exchange_room import ExchangeRoom, build_room
from flyball_aggregator.exchange.host_states import HostStates
from flyball_aggregator.exchange.recording import read_recording
from flyball_aggregator.site import Element, Parent, Policy, Site

NOW_S = 1_800_000_000.0
KEYS = st.sampled_from(["value", "timestamp", "quality", "x"])
HOSTILE: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=6,
)
RACK = {"rackLocationName": "Rack1", "rackLocationId": "Rack1"}
STATES = [{"value": 0, "text": "No"}, {"value": 1, "text": "Yes"}]


def _metadata(object_type: str, point_type: str, tag: str, **more: Any) -> tuple[str, bytes]:
    plain = {"objectType": object_type, "pointType": point_type, **more}
    return f"BMS/v1/PUB/Metadata/{object_type}/{point_type}/{tag}", json.dumps(plain).encode()


def _value(
    object_type: str, point_type: str, tag: str, value: float | None, at_s: float, **more: Any
) -> tuple[str, bytes]:
    publisher = more.pop("publisher", "PUB")
    plain = {"value": value, "timestamp": int(at_s * 1000), "quality": 1, **more}
    return f"BMS/v1/{publisher}/Value/{object_type}/{point_type}/{tag}", json.dumps(plain).encode()


def _meter(name: str, unit: str, *serves: str) -> tuple[str, bytes]:
    named = {"objectName": name, "objectId": name, "servesId": list(serves), "engUnit": unit}
    return _metadata("PowerMeter", "ActivePower", f"{name}/power", **named)


def _watts(name: str, value: float | None, at_s: float = NOW_S, **more: Any) -> tuple[str, bytes]:
    return _value("PowerMeter", "ActivePower", f"{name}/power", value, at_s, **more)


def _heard(*messages: tuple[str, bytes], at_s: float = NOW_S) -> PointBook:
    book = PointBook()
    for topic, payload in messages:
        book.take(topic, payload, at_s)
    return book


def _power(book: PointBook, name: str, at_s: float = NOW_S) -> float | None:
    return meter_power_w(book, read_wiring(book.metadata.values()), name, at_s)


def _racked_site(directory: Path) -> SmallSite:
    feed = Element("Bus1", "feed", rating_w=40_000.0, has_meter=True)
    racks = tuple(
        Element(name, "rack", parents=(Parent("Bus1"),), rating_w=20_000.0, has_meter=True)
        for name in ("Rack1", "Rack2")
    )
    site = Site("demo", policy=Policy(mode="enforce"), elements=(feed, *racks))
    return build_site(directory, site, ["Rack1", "Rack1", "Rack2"])


def _room(site: SmallSite, directory: Path, **more: Any) -> ExchangeRoom:
    config = ExchangeConfig(is_on=True, integration="FLYBALL", **more)
    room = build_room(config, site.loop, directory, ExchangeBrokerConfig(port=1))
    site.loop.on_tick.append(room.handle)
    return room


def _hear(room: ExchangeRoom, *messages: tuple[str, bytes]) -> None:
    for topic, payload in messages:
        room.take(topic, payload, 0.0)


def test_check_16_a_value_before_its_metadata_is_not_used_and_afterwards_it_is() -> None:
    book = _heard(_watts("m1", 28.7))
    assert _power(book, "m1") is None
    book.take(*_meter("m1", "kW"), NOW_S)
    assert _power(book, "m1") == pytest.approx(28_700.0)


@pytest.mark.parametrize("more", [{"quality": 0}, {"quality": 192}, {"value": None}, {"value": 2e9}, {"value": -5.0}])
def test_check_16_what_is_not_good_or_not_to_be_believed_is_unknown(more: dict[str, Any]) -> None:
    value = more.pop("value", 20.0)
    assert _power(_heard(_meter("m1", "kW"), _watts("m1", value, **more)), "m1") is None


def test_check_16_a_stale_value_and_a_bms_without_heartbeat_are_not_trusted() -> None:
    book = _heard(_meter("m1", "kW"), _watts("m1", 20.0))
    assert _power(book, "m1", NOW_S + STALE_S) == 20_000.0
    assert _power(book, "m1", NOW_S + STALE_S + 1) is None
    beat = _value("System", "HeartbeatTimestampBms", "bms/beat", NOW_S * 1000, NOW_S)
    book.take(*beat, NOW_S)
    assert _power(book, "m1", NOW_S + 30) == 20_000.0
    assert _power(book, "m1", NOW_S + 31) is None


def test_check_16_the_budget_becomes_careful_when_a_meter_is_not_trusted() -> None:
    book = _heard(_meter("m1", "kW"), _watts("m1", 20.0, quality=0))
    point = PointId("PowerMeter", "ActivePower", "m1/power")
    assert book.why_not(point, NOW_S) == "quality 0"


async def test_check_16_trusted_meters_reach_the_rows_and_others_grow_stale(tmp_path: Path) -> None:
    site = _racked_site(tmp_path)
    site.has_meter = False
    room = _room(site, tmp_path)
    _hear(room, _meter("Bus1", "kW", "Rack1"), _watts("Bus1", 31.0, site.loop.parts.unix_s()))
    snapshot = await site.seconds(3)
    assert snapshot.meter_w[0] == pytest.approx(31_000.0)
    _hear(room, _watts("Bus1", 31.0, site.loop.parts.unix_s(), quality=0))
    snapshot = await site.seconds(8)
    assert math.isnan(snapshot.meter_w[0])
    site.stop()


@pytest.mark.parametrize(
    ("unit", "value", "watts"), [("W", 5000, 5000.0), ("kW", 5, 5000.0), ("MW", 0.005, 5000.0), ("BTU", 5, None)]
)
def test_check_17_the_unit_of_a_meter_counts(unit: str, value: float, watts: float | None) -> None:
    assert _power(_heard(_meter("m1", unit), _watts("m1", value)), "m1") == watts


def test_check_17_a_dual_fed_rack_is_the_sum_of_its_taps_without_the_bus_above() -> None:
    book = _heard(
        _meter("bus", "kW", "tap1", "tap2"), _meter("tap1", "kW", "Rack1"), _meter("tap2", "W", "Rack1"),
        _watts("bus", 100.0), _watts("tap1", 28.7), _watts("tap2", 19_100.0),
    )  # fmt: skip
    wiring = read_wiring(book.metadata.values())
    assert rack_power_w(book, wiring, "Rack1", NOW_S) == pytest.approx(47_800.0)
    for message in (
        _metadata("Rack", "RackPower", "r1/power", engUnit="kW", **RACK),
        _value("Rack", "RackPower", "r1/power", 30.0, NOW_S),
    ):
        book.take(*message, NOW_S)
    wiring = read_wiring(book.metadata.values())
    assert rack_power_w(book, wiring, "Rack1", NOW_S) == pytest.approx(47_800.0)
    assert book.doubted["Rack1"] == 1
    book.take(*_watts("tap1", None), NOW_S)
    assert rack_power_w(book, wiring, "Rack1", NOW_S) == pytest.approx(30_000.0)


def test_check_17_the_published_recording_gives_the_rack_it_is_known_for() -> None:
    book = PointBook()
    for _offset, topic, template in read_recording(SCHEMAS / "bms_exemplar.csv"):
        book.take(topic, template.replace("{{timestamp_ms}}", str(int(NOW_S * 1000))).encode(), NOW_S)
    wiring = read_wiring(book.metadata.values())
    assert rack_power_w(book, wiring, "Pod1C-E05", NOW_S) == pytest.approx(47_800.0, rel=0.03)
    assert wiring.feeders("Pod1C-E05") == ["C-E05-TAP-E1", "C-E05-TAP-E2"]
    assert meter_power_w(book, wiring, "C-E-BUS-E2", NOW_S) == pytest.approx(111_000.0, rel=0.05)
    assert rack_state(book, wiring, "Pod1C-E02", NOW_S) == ("clear", "")
    assert "C-F00-CDU-05" in wiring.cooled_by["Pod1C-E05"]


def _beats(name: str, integration: str = "FLYBALL") -> list[tuple[str, bytes]]:
    named, bms = {"objectName": name, "objectId": name}, {"objectName": "BMS", "objectId": "BMS"}
    return [
        _metadata("System", "HeartbeatTimestampIntegration", "sys/beat", integration=integration, **named),
        _metadata("System", "HeartbeatEchoIntegration", "sys/echo", integration=integration, **bms),
        _metadata("System", "HeartbeatTimestampBms", "bms/beat", **bms),
    ]


def _plain(message: Outgoing) -> dict[str, Any]:
    assert [
        item for item in check_message(message.topic, json.loads(message.payload)) if item.severity == "error"
    ] == []
    assert (message.is_retained, message.qos, "/Metadata/" in message.topic) == (False, 0, False)
    plain: dict[str, Any] = json.loads(message.payload)
    assert plain.keys() == {"value", "timestamp", "quality"}
    assert type(plain["timestamp"]) is int
    assert type(plain["quality"]) is int
    return plain


def _part(site: SmallSite) -> BmsPart:
    return BmsPart("FLYBALL", site.loop)


async def test_check_18_heartbeats_go_out_every_10_s_where_metadata_names_us(tmp_path: Path) -> None:
    site = _racked_site(tmp_path)
    snapshot = await site.second()
    part = _part(site)
    assert part.step(snapshot, NOW_S) == []
    for message in _beats("FLYBALL"):
        part.take(*message, NOW_S)
    said = [(second, item) for second in range(25) for item in part.step(snapshot, NOW_S + second)]
    assert [second for second, _item in said] == [0, 10, 20]
    assert {item.topic for _second, item in said} == {
        "BMS/v1/FLYBALL/Value/System/HeartbeatTimestampIntegration/sys/beat"
    }
    assert [_plain(item)["value"] for _second, item in said] == [int((NOW_S + second) * 1000) for second in (0, 10, 20)]
    site.stop()


async def test_check_18_the_echo_is_bit_identical_and_another_integration_is_left_alone(tmp_path: Path) -> None:
    site = _racked_site(tmp_path)
    snapshot = await site.second()
    part = _part(site)
    for message in _beats("FLYBALL"):
        part.take(*message, NOW_S)
    part.step(snapshot, NOW_S)
    part.take(*_value("System", "HeartbeatTimestampBms", "bms/beat", 1_799_999_999_123, NOW_S), NOW_S)
    echo = part.step(snapshot, NOW_S + 1)
    assert [item.topic for item in echo] == ["BMS/v1/FLYBALL/Value/System/HeartbeatEchoIntegration/sys/echo"]
    assert b'"value":1799999999123,' in echo[0].payload
    for message in _beats("OTHER", "OTHER"):
        part.take(*message, NOW_S)
    part.take(*_value("System", "HeartbeatTimestampBms", "bms/beat", 1_799_999_999_999, NOW_S), NOW_S)
    assert [item for second in range(30) for item in part.step(snapshot, NOW_S + second)] == []
    site.stop()


async def test_check_18_a_warmer_supply_is_asked_for_while_chips_have_margin_and_withdrawn_when_not(
    tmp_path: Path,
) -> None:
    site = _racked_site(tmp_path)
    snapshot = await site.seconds(2)
    part = _part(site)
    named = {"objectName": "cdu1", "objectId": "cdu1", "servesId": ["Rack1"], "engUnit": "C"}
    area = {"processArea": ["Secondary", "Supply"]}
    part.take(*_metadata("CDU", "LiquidTemperature", "cdu1/setpoint", isSetpoint=True, **area, **named), NOW_S)
    part.take(*_value("CDU", "LiquidTemperature", "cdu1/setpoint", 30.0, NOW_S), NOW_S)
    part.take(
        *_metadata("CDU", "LiquidTemperatureSpRequest", "cdu1/request", integration="FLYBALL", **area, **named), NOW_S
    )
    said = part.step(snapshot, NOW_S)
    assert [(item.topic, _plain(item)["value"]) for item in said] == [
        ("BMS/v1/FLYBALL/Value/CDU/LiquidTemperatureSpRequest/cdu1/request", 34.5)
    ]
    assert part.step(snapshot, NOW_S + 50) == []
    assert len(part.step(snapshot, NOW_S + 100)) == 1
    site.loop.parts.fleet.columns["temperature_celsius"][:] = CHIP_LIMIT_C
    assert [_plain(item) for item in part.step(snapshot, NOW_S + 101)] == [
        {"value": None, "timestamp": int((NOW_S + 101) * 1000), "quality": 0}
    ]
    assert part.step(snapshot, NOW_S + 300) == []
    assert supply_request_c(30.0, None) is None
    site.stop()


async def test_check_19_a_leak_holds_the_racks_hosts_and_0_lets_them_go(tmp_path: Path) -> None:
    site = _racked_site(tmp_path)
    room = _room(site, tmp_path)
    heard: list[tuple[str, tuple[str, ...], bool, str]] = []
    room.bms.on_rack.append(lambda *change: heard.append(change))
    await site.seconds(2)

    def leak(value: float, **more: Any) -> tuple[str, bytes]:
        return _value("Rack", "RackLeakDetect", "r1/leak", value, site.loop.parts.unix_s(), **more)

    _hear(room, _metadata("Rack", "RackLeakDetect", "r1/leak", stateText=STATES, **RACK), leak(1))
    snapshot = await site.seconds(2)
    assert site.loop.frozen == {"host-0", "host-1"}
    assert snapshot.reasons[0] == "frozen by the facility"
    _hear(room, leak(0, quality=0))
    await site.seconds(2)
    assert site.loop.frozen == {"host-0", "host-1"}
    _hear(room, leak(0))
    await site.seconds(2)
    assert site.loop.frozen == frozenset()
    assert heard == [
        ("Rack1", ("host-0", "host-1"), True, "RackLeakDetect"),
        ("Rack1", ("host-0", "host-1"), False, ""),
    ]
    site.stop()


@pytest.mark.parametrize(("value", "state"), [(0, "clear"), (1, "trouble"), (-1, "unknown")])
def test_check_19_an_isolation_request_of_another_integration_is_heard(value: int, state: str) -> None:
    named = {**RACK, "integration": "NICO", "stateText": STATES}
    kind = "RackLiquidIsolationRequest"
    book = _heard(
        _metadata("Rack", kind, "r1/iso", **named), _value("Rack", kind, "r1/iso", value, NOW_S, publisher="NICO")
    )
    assert rack_state(book, read_wiring(book.metadata.values()), "Rack1", NOW_S)[0] == state


def test_check_19_a_faulty_leak_sensor_makes_the_rack_unknown_not_leaking() -> None:
    book = _heard(
        _metadata("Rack", "RackLeakSensorFault", "r1/fault", stateText=STATES, **RACK),
        _value("Rack", "RackLeakSensorFault", "r1/fault", 1, NOW_S),
    )
    assert rack_state(book, read_wiring(book.metadata.values()), "Rack1", NOW_S) == ("unknown", "RackLeakSensorFault")


async def test_check_20_our_host_states_validate_and_change_with_the_host(tmp_path: Path) -> None:
    site = _racked_site(tmp_path)
    states = HostStates(site.loop, 60.0, is_publishing=True)
    snapshot = await site.second()
    site.loop.parts.fleet.hosts["host-2"].state = None
    said = states.step(snapshot, NOW_S)
    await site.seconds(3)
    site.hosts["host-1"].is_reachable = False
    snapshot = await site.seconds(5)
    said += states.step(snapshot, NOW_S + 5)
    assert states.step(snapshot, NOW_S + 6) == []
    assert len(states.step(snapshot, NOW_S + 66)) == 3
    for item in said:
        assert check_message(item.topic, json.loads(item.payload)) == []
    kinds = [(item.topic.split("/")[3], json.loads(item.payload)["managed_host_state"]["state"]) for item in said]
    assert ("host-2", "hostinit") in kinds
    assert ("host-1", "failed") in kinds
    assert ("host-0", "assigned") in kinds
    assert states.subscriptions() == ()
    site.stop()


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        ({"state": "ready"}, "free"),
        ({"state": "assigned", "instance_state": {"state": "ready"}}, "busy"),
        ({"state": "assigned", "instance_state": {"state": "init"}}, "unavailable"),
        ({"state": "failed"}, "unavailable"),
        ({"state": "forcedeletion"}, "removed"),
        ({"state": "a new one"}, None),
        ({"state": 3}, None),
        ({"state": {}}, None),
        ({"state": "assigned", "instance_state": []}, "unavailable"),
    ],
)
def test_check_20_states_of_others_drive_placement_and_unknown_ones_change_nothing(
    tmp_path: Path, state: dict[str, Any], verdict: str | None
) -> None:
    site = _racked_site(tmp_path)
    states = HostStates(site.loop, 60.0, is_publishing=False)
    payload = json.dumps(
        {"machine_id": "m1", "timestamp": "2027-01-15T08:00:00Z", "managed_host_state": state}
    ).encode()
    states.take("nico/v1/machine/m1/state", payload, NOW_S)
    assert states.verdicts == {}
    states.take("NICO/v1/machine/m1/state", payload, NOW_S)
    assert states.verdicts.get("m1") == verdict
    site.stop()


async def test_a_falling_frequency_brakes_within_the_next_decision_and_lets_go_late(tmp_path: Path) -> None:
    site = _racked_site(tmp_path)
    room = _room(site, tmp_path, brakes_on_frequency=True)
    named = {"objectName": "Bus1", "objectId": "Bus1", "servesId": [], "engUnit": "Hz"}
    _hear(room, _metadata("PowerMeter", "Frequency", "bus/hz", **named))
    await site.seconds(4)
    before_w = site.wall_w
    _hear(room, _value("PowerMeter", "Frequency", "bus/hz", 49.7, site.loop.parts.unix_s()))
    await site.second()
    assert site.wall_w < before_w
    for _ in range(63):
        _hear(room, _value("PowerMeter", "Frequency", "bus/hz", 50.0, site.loop.parts.unix_s()))
        await site.second()
    assert not room.view()["is_braking"]
    await site.seconds(5)
    assert site.wall_w > 0.9 * before_w
    site.stop()


def test_fields_of_builds_in_the_field_are_read_liberally() -> None:
    assert read_value(b'{"value": 1, "timestamp": 1743620423, "quality": "1"}') == (1.0, 1_743_620_423_000, 1)
    older = {"rackName": "Rack1", "rackId": "Rack1", "engUnit": "kW"}
    book = _heard(
        _metadata("Rack", "RackPower", "r1/power", **older), _value("Rack", "RackPower", "r1/power", 30.0, NOW_S)
    )
    assert rack_power_w(book, read_wiring(book.metadata.values()), "Rack1", NOW_S) == 30_000.0


def test_an_older_value_and_one_of_the_future_are_refused() -> None:
    book = _heard(_meter("m1", "kW"), _watts("m1", 20.0))
    for message in (_watts("m1", 10.0, NOW_S - 1), _watts("m1", 10.0, NOW_S + 3600)):
        with pytest.raises(BmsRefusedError):
            book.take(*message, NOW_S)
    assert _power(book, "m1") == 20_000.0


def test_a_value_of_a_publisher_that_does_not_own_the_point_is_not_trusted() -> None:
    assert _power(_heard(_meter("m1", "kW"), _watts("m1", 20.0, publisher="MALLORY")), "m1") is None


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80) | HOSTILE.map(lambda plain: json.dumps(plain).encode()))
def test_hostile_points_never_fail_and_what_is_refused_changes_nothing(payload: bytes) -> None:
    book = PointBook()
    for topic in ("BMS/v1/PUB/Value/PowerMeter/ActivePower/m1", METER_METADATA_TOPIC, "BMS/v1/X/Metadata/a/b/c", "BMS"):
        before = (dict(book.values), dict(book.metadata))
        try:
            book.take(topic, payload, NOW_S)
        except BmsRefusedError:
            assert (book.values, book.metadata) == before
