"""Conformance checks 1 to 15 of the DSX Exchange, by number."""

import copy
import hashlib
import hmac
import itertools
import json
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flyball_aggregator.exchange.grid_rig import (
    AGENT_KEY,
    INFRA_KEY,
    ISV_KEY,
    KEYS,
    NOW_S,
    OTHER_KEY,
    RSA_KEY,
    TOP_W,
    GridRig,
    Said,
    opened,
    target,
    trusted,
)

from flyball_aggregator.exchange.breach import ShedHint
from flyball_aggregator.exchange.check_message import check_message
from flyball_aggregator.exchange.cloud_event import Outgoing, build_event
from flyball_aggregator.exchange.jws import open_token, public_jwk, read_keys
from flyball_aggregator.exchange.seen_digests import SeenOnDisk
from flyball_wire.errors import ConfigError, SignatureError

HINTS = (ShedHint("host-3", 2000.0), ShedHint("host-0", 2400.0))


def _events(said: list[Said], tag: str = "main-a") -> list[str]:
    return [item.feed(tag)["event"] for item in said if "feeds" in item.data]


def _walk(value: object) -> Iterator[tuple[str, object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield str(key), inner
        yield from _walk(inner)


def _through_an_event() -> GridRig:
    rig = GridRig()
    rig.second()
    rig.set(6e5, end_s=rig.now_s + 30, feeds=["main-a"])
    rig.seconds(12)
    rig.stuck_w["main-a"] = 7e5
    rig.seconds(8)
    rig.stuck_w["main-a"] = 9e5
    rig.second(HINTS)
    rig.stuck_w.clear()
    rig.seconds(40)
    return rig


def test_check_01_every_outgoing_event_validates_with_specversion_1_0_2() -> None:
    rig = _through_an_event()
    for item in rig.sent:
        assert check_message(item.topic, json.loads(item.payload)) == []

    kinds = {said.envelope["type"] for said in rig.said}
    assert kinds == {"grid.powerstate.status.v1", "grid.powerbreach.alert.v1"}
    assert {said.envelope["specversion"] for said in rig.said} == {"1.0.2"}


def test_check_02_topic_source_quality_of_service_and_no_retain() -> None:
    rig = _through_an_event()
    for item, said in zip(rig.sent, rig.said, strict=True):
        is_breach = "breach" in said.data
        suffix = "powerbreach" if is_breach else "powerstate/status"
        assert item.topic == f"grid/v1/dsx-flex-agent/flyball/{suffix}"
        assert said.envelope["source"] == "//grid/v1/dsx-flex-agent/flyball"
        assert (item.qos, item.is_retained) == (2 if is_breach else 1, False)


def test_check_03_data_is_a_jws_of_es256_that_verifies() -> None:
    rig = GridRig()
    token = rig.second()[0].envelope["data"]
    keys = {AGENT_KEY.key_id: trusted(AGENT_KEY, rig.agent.source)}
    assert json.loads(open_token(token, keys, rig.agent.source))["feeds"].keys() == {"main-a", "main-b"}
    assert len(token.split(".")[2]) == 86  # 64 bytes


def test_check_03_rs256_of_another_operator_is_taken_as_well() -> None:
    rig = GridRig()
    assert rig.set(6e5, isv="grid-op", signer=RSA_KEY)
    assert rig.agent.taken["loadtarget"] == 1


def _part(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _forged(rig: GridRig, how: str) -> Outgoing:
    message = rig.signed_set([target(6e5, start_s=rig.now_s)])
    event = json.loads(message.payload)
    head, body, signature = event["data"].split(".")
    if how == "tampered":
        other = json.loads(rig.signed_set([target(5e5, start_s=rig.now_s)]).payload)["data"].split(".")[1]
        event["data"] = f"{head}.{other}.{signature}"
    elif how == "none":
        event["data"] = f"{_part({'alg': 'none', 'kid': 'acme-1'})}.{body}.AA"
    elif how == "hs256":
        head = _part({"alg": "HS256", "kid": "acme-1"})
        public = ISV_KEY.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        digest = hmac.new(public, f"{head}.{body}".encode(), hashlib.sha256).digest()
        event["data"] = f"{head}.{body}.{urlsafe_b64encode(digest).decode().rstrip('=')}"
    elif how == "unknown":
        event["data"] = AGENT_KEY.sign(json.dumps({"targets": [target(6e5)]}).encode())
    elif how == "plain":
        event["data"] = {"targets": [target(6e5)]}
    return Outgoing(message.topic, json.dumps(event).encode(), 1)


@pytest.mark.parametrize("how", ["tampered", "none", "hs256", "unknown", "plain"])
def test_check_04_a_forged_set_changes_nothing_and_is_counted(how: str) -> None:
    rig = GridRig()
    rig.second()
    before = rig.state()
    assert rig.take(_forged(rig, how)) == []
    assert rig.state() == before
    assert rig.agent.refused["unsigned" if how == "plain" else "signature"] == 1


def test_check_04_one_isv_cannot_sign_for_another_or_on_its_topic() -> None:
    rig = GridRig()
    before = rig.state()
    rig.take(rig.signed_set([target(6e5)], signer=OTHER_KEY))
    mixed = rig.signed_set([target(6e5)], isv="other", signer=OTHER_KEY)
    rig.take(Outgoing("grid/v1/isv/acme-energy/loadtarget/set", mixed.payload, 1))
    assert rig.state() == before
    assert dict(rig.agent.refused) == {"signature": 1, "schema": 1}


@pytest.mark.parametrize("feeds", [None, []])
def test_check_05_no_feed_tags_or_none_in_them_means_all_feeds(feeds: list[str] | None) -> None:
    rig = GridRig()
    rig.set(6e5, feeds=feeds)
    assert {row for row, _source in rig.engine.limits(rig.now_s)} == {"row-main-a", "row-main-b"}


def test_check_05_a_feed_tag_keeps_the_other_feeds_as_they_are() -> None:
    rig = GridRig()
    rig.set(6e5, feeds=["main-a"])
    assert rig.engine.limits(rig.now_s) == {("row-main-a", "grid/acme-energy"): 6e5}


def test_check_06_null_reverts_to_the_default_with_a_ramp_up() -> None:
    rig = GridRig(restart_w_per_s=1e5)
    rig.set(6e5)
    rig.seconds(3)
    first = rig.set(None)
    assert first[-1].feed()["targets"] == []
    assert _events(first) == ["target_set", "start_ramp_up"]
    later = rig.seconds(8)
    assert "end_ramp_up" in _events(later)
    last = rig.seconds(20)[-1].feed()
    assert (last["calculated_load"]["value"], last["in_flight"], last["targets"]) == (800.0, False, [])
    assert rig.engine.limits(rig.now_s) == {}


def test_check_07_the_later_set_wins_and_the_earlier_comes_back_after_its_end() -> None:
    rig = GridRig()
    rig.set(7e5)
    rig.second()
    rig.set(5e5, end_s=rig.now_s + 10)
    rig.second()
    assert rig.engine.states["main-a"].target_w == 5e5
    rig.seconds(10)
    assert rig.engine.states["main-a"].target_w == 7e5
    rig.set(9e5)
    assert rig.engine.states["main-a"].target_w == 9e5


def test_check_07_across_sources_the_lowest_holds() -> None:
    rig = GridRig()
    rig.set(7e5)
    rig.set(5e5, isv="other", signer=OTHER_KEY)
    rig.set(6e5, isv="grid-op", signer=RSA_KEY)
    assert rig.engine.states["main-a"].target_w == 5e5
    rig.set(None, isv="other", signer=OTHER_KEY)
    assert rig.engine.states["main-a"].target_w == 6e5


def test_check_08_a_future_target_is_listed_inactive_then_active_then_gone() -> None:
    rig = GridRig()
    said = rig.take(rig.signed_set([target(6e5, start_s=rig.now_s + 5, end_s=rig.now_s + 15)]))
    assert [item["active"] for item in said[0].feed()["targets"]] == [False]
    rig.seconds(3)
    assert (rig.drawn_w["main-a"], rig.engine.limits(rig.now_s)) == (8e5, {})
    said = rig.seconds(3)
    assert [item["active"] for item in said[-1].feed()["targets"]] == [True]
    assert rig.drawn_w["main-a"] <= 6e5
    said = rig.seconds(12)
    assert said[-1].feed()["targets"] == []
    assert rig.drawn_w["main-a"] == 8e5


def test_check_09_units_give_the_same_decision() -> None:
    decided = []
    for value, unit in ((0.6, "megawatt"), (600, "kilowatt"), (6e5, "watt")):
        rig = GridRig()
        said = rig.set(value, unit=unit)
        assert said[0].feed()["targets"][0]["load_constraint"] == {"value": value, "unit": unit}
        decided.append(rig.engine.limits(rig.now_s))
    assert decided[0] == decided[1] == decided[2]


def test_check_10_events_come_in_order_and_every_snapshot_has_every_feed() -> None:
    rig = GridRig()
    rig.second()
    said = [*rig.set(6e5, feeds=["main-a"]), *rig.seconds(40)]
    events = [(item.feed()["event"], item.feed()["in_flight"]) for item in said]
    assert events[:3] == [("target_set", True), ("start_ramp_down", True), ("end_ramp_down", False)]
    assert [item for item in events if item[0] == "periodic"] == [("periodic", False)] * 2
    assert all(item.data["feeds"].keys() == {"main-a", "main-b"} for item in said)
    assert set(_events(said, "main-b")) == {"periodic"}


def test_check_11_there_is_no_null_anywhere() -> None:
    rig = _through_an_event()
    assert [key for said in rig.said for key, value in _walk([said.envelope, said.data]) if value is None] == []
    during = [said.feed() for said in rig.said if "feeds" in said.data and said.feed()["in_flight"]]
    assert during
    assert all("power_event_start_time" in feed for feed in during if feed["event"] != "start_ramp_up")
    assert "power_event_start_time" not in rig.said[-1].feed()


def test_check_12_compliant_without_a_target_and_not_while_best_effort_cannot_reach_it() -> None:
    rig = GridRig(load_w=TOP_W)
    assert rig.second()[0].feed()["compliant"] is True
    rig.stuck_w["main-a"] = 9e5
    rig.set(6e5, best_effort=True)
    said = rig.seconds(40)
    states = [item.feed() for item in said if "feeds" in item.data]
    assert {state["compliant"] for state in states} == {False}
    assert "end_ramp_down" not in _events([item for item in said if "feeds" in item.data])
    del rig.stuck_w["main-a"]
    assert "end_ramp_down" in _events([item for item in rig.seconds(2) if "feeds" in item.data])


def test_check_12_a_meter_over_the_target_is_not_compliant_whatever_was_calculated() -> None:
    rig = GridRig()
    rig.set(6e5)
    rig.seconds(2)
    assert rig.engine.is_compliant("main-a")
    rig.stuck_w["main-a"] = 6.1e5
    rig.second()
    assert not rig.engine.is_compliant("main-a")


def test_check_13_correlation_and_trace_are_carried_through() -> None:
    rig = GridRig()
    correlation, trace = str(uuid.uuid4()), "4bf92f3577b34da6a3ce929d0e0e4736"
    said = [*rig.set(6e5, correlation_id=correlation, trace_id=trace), *rig.second()]
    rig.stuck_w["main-a"] = 9e5
    alerts = [item for item in rig.seconds(20) if "breach" in item.data]
    assert {item.envelope["correlationid"] for item in [*said, *alerts]} == {correlation}
    assert {item.envelope["traceparent"].split("-")[1] for item in [*said, *alerts]} == {trace}
    assert len({item.envelope["traceparent"] for item in said}) == len(said)
    assert said[0].feed()["targets"][0]["correlation_id"] == correlation
    assert alerts[0].data["target"]["correlation_id"] == correlation


@pytest.mark.parametrize(("ratio", "severity"), [(1.10, "warning"), (1.20, "warning"), (1.21, "critical")])
def test_check_14_severity_turns_critical_above_20_per_cent(ratio: float, severity: str) -> None:
    rig = GridRig()
    rig.set(5e5)
    rig.stuck_w["main-a"] = 5e5 * ratio
    alerts = [item.data for item in rig.seconds(20) if "breach" in item.data]
    assert (alerts[0]["status"], alerts[0]["severity"]) == ("active", severity)
    assert alerts[0]["measured_load"] == {"value": pytest.approx(500 * ratio), "unit": "kilowatt"}


def test_check_14_a_breach_keeps_its_id_until_it_is_resolved() -> None:
    rig = GridRig()
    rig.set(5e5)
    rig.stuck_w["main-a"] = 5.5e5
    alerts = [item.data for _ in range(20) for item in rig.second(HINTS) if "breach" in item.data]
    rig.stuck_w["main-a"] = 7e5
    alerts += [item.data for item in rig.second(HINTS) if "breach" in item.data]
    rig.stuck_w.clear()
    alerts += [item.data for item in rig.seconds(10) if "breach" in item.data]
    assert [item["status"] for item in alerts] == ["active", "escalated", "resolved"]
    assert len({(item["breach"]["breach_id"], item["breach"]["detected_at"]) for item in alerts}) == 1
    assert "resolved_at" in alerts[2]["breach"]
    assert "shed_hints" not in alerts[2]
    assert alerts[2]["infrastructure_actions"] == []
    assert alerts[1]["infrastructure_actions"] == [
        "SHUTDOWN_NODES",
        "SHUTDOWN_RACKS",
        "CUT_DATA_FEEDS",
        "TRIP_BREAKERS",
    ]
    assert [hint["priority"] for hint in alerts[0]["shed_hints"]] == [1, 2]
    assert all("target_power" in hint for hint in alerts[0]["shed_hints"])
    rig.stuck_w["main-a"] = 7e5
    again = [item.data for item in rig.seconds(20) if "breach" in item.data]
    assert again[0]["breach"]["breach_id"] != alerts[0]["breach"]["breach_id"]


def test_check_14_enforcement_that_failed_escalates_the_breach() -> None:
    rig = GridRig()
    rig.set(5e5)
    rig.stuck_w["main-a"] = 5.5e5
    alert = next(item.data for item in rig.seconds(20) if "breach" in item.data)
    breach_id = alert["breach"]["breach_id"]
    message = build_event(
        topic="grid/v1/infra/ima/powerbreach/enforcement", kind="grid.powerbreach.enforcement.v1",
        source="//grid/v1/infra/ima", subject="powerbreach", now_s=rig.now_s, signer=INFRA_KEY,
        data={"breach_id": breach_id, "feed_tag": "main-a", "action": "applied", "code": "partial", "results": [],
              "timestamp": "2027-01-15T08:00:00Z"},
    )  # fmt: skip
    rig.take(message)
    assert [item.data["status"] for item in rig.second() if "breach" in item.data] == ["escalated"]


def test_check_15_a_message_delivered_twice_counts_once() -> None:
    rig = GridRig()
    message = rig.signed_set([target(6e5, start_s=rig.now_s)])
    assert rig.take(message)
    before = rig.state()
    assert rig.take(message) == []
    assert rig.state() == before
    assert rig.agent.refused == {"duplicate": 1}


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff", b"{", b"[]", b"null", b'{"a":NaN}', b"[" * 100_000, b"1e999", b'{"data":"' + b"a" * 2_000_000],
)
def test_check_15_a_message_that_is_no_event_is_harmless(payload: bytes) -> None:
    rig = GridRig()
    before = rig.state()
    assert rig.agent.take("grid/v1/isv/acme-energy/loadtarget/set", payload, rig.now_s) == []
    assert rig.state() == before
    assert sum(rig.agent.refused.values()) == 1


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ([target(0)], "target"),
        ([target(6e5, feeds=["nowhere"])], "feed"),
        ([target(6e5, start_s=NOW_S, end_s=NOW_S - 1)], "target"),
        ([target(6e5), target(0)], "target"),
        ([target(6e5)] * 65, "size"),
        ([], "schema"),
        ([{"interval": {}}], "schema"),
    ],
)
def test_check_15_an_invalid_target_refuses_its_whole_message(targets: list[Any], reason: str) -> None:
    rig = GridRig()
    before = rig.state()
    rig.take(rig.signed_set(targets))
    assert (rig.state(), dict(rig.agent.refused)) == (before, {reason: 1})


def test_replay_of_a_looser_target_under_a_new_envelope_is_refused_even_after_a_restart(tmp_path: Path) -> None:
    first = GridRig(seen=SeenOnDisk(tmp_path / "seen.db"))
    loose = first.signed_set([target(9e5, start_s=first.now_s)])
    first.take(loose)
    first.set(5e5)
    again = json.loads(loose.payload) | {"id": str(uuid.uuid4())}
    before = first.state()
    first.take(Outgoing(loose.topic, json.dumps(again).encode(), 1))
    assert (first.state(), dict(first.agent.refused)) == (before, {"replay": 1})
    assert first.agent.alarms

    second = GridRig(seen=SeenOnDisk(tmp_path / "seen.db"))
    second.set(5e5)
    before = second.state()
    second.take(Outgoing(loose.topic, json.dumps(again).encode(), 1))
    assert (second.state(), dict(second.agent.refused)) == (before, {"replay": 1})


def test_replay_of_a_tighter_target_is_taken_and_alarmed() -> None:
    rig = GridRig()
    tight = rig.signed_set([target(5e5, start_s=rig.now_s)])
    rig.take(tight)
    rig.set(9e5)
    again = json.loads(tight.payload) | {"id": str(uuid.uuid4())}
    rig.take(Outgoing(tight.topic, json.dumps(again).encode(), 1))
    assert rig.engine.states["main-a"].target_w == 5e5
    assert rig.agent.alarms


@pytest.mark.parametrize("start_s", [None, NOW_S - 301, NOW_S + 301])
def test_a_looser_target_needs_a_start_near_now(start_s: float | None) -> None:
    rig = GridRig()
    rig.set(5e5)
    before = rig.state()
    rig.take(rig.signed_set([target(None, start_s=start_s)]))
    assert (rig.state(), dict(rig.agent.refused)) == (before, {"loosening": 1})


def test_an_old_event_is_refused() -> None:
    rig = GridRig()
    message = rig.signed_set([target(5e5)])
    rig.now_s += 301
    rig.take(message)
    assert rig.agent.refused == {"time": 1}


def test_a_source_that_floods_is_refused_and_leaves_room_for_others() -> None:
    rig = GridRig()
    for count in range(80):
        rig.set(6e5 - count)
    assert rig.agent.refused["rate"] == 20
    assert rig.set(4e5, isv="other", signer=OTHER_KEY)


def test_the_older_role_is_spoken_where_it_is_configured() -> None:
    rig = GridRig()
    message = rig.signed_set([target(5e5)])
    prefixed = Outgoing(f"cpc/north1/{message.topic}", message.payload, 1)
    assert rig.take(prefixed)


def test_keys_are_read_from_a_jwk_set_and_bad_ones_are_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    good = [public_jwk(ISV_KEY, "//grid/v1/isv/acme-energy"), public_jwk(RSA_KEY, "//grid/v1/isv/grid-op")]
    path.write_text(json.dumps({"keys": good}), encoding="utf-8")
    assert {key.algorithm for key in read_keys(path).values()} == {"ES256", "RS256"}
    for bad in ({**good[0], "alg": "RS256"}, {**good[0], "d": "AA"}, {**good[0], "crv": "P-384"}, {"kid": "x"}, 3):
        path.write_text(json.dumps({"keys": [bad]}), encoding="utf-8")
        with pytest.raises(ConfigError, match=r"keys\.json"):
            read_keys(path)


def _mutated(data: st.DataObject, value: Any) -> Any:
    """Replace one random part of a JSON value by another."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(sorted(value)))
        return {**value, key: _mutated(data, value[key])}
    if isinstance(value, list) and value and data.draw(st.integers(0, 3)):
        index = data.draw(st.integers(0, len(value) - 1))
        return [*value[:index], _mutated(data, value[index]), *value[index + 1 :]]
    atoms = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
    hostile: st.SearchStrategy[Any] = st.one_of(atoms, st.builds(dict), st.builds(list))
    return data.draw(hostile)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_hostile_envelopes_never_change_the_state_unless_they_are_taken(data: st.DataObject) -> None:
    rig = GridRig()
    message = rig.signed_set([target(6e5, start_s=rig.now_s)])
    event = _mutated(data, json.loads(message.payload))
    before = rig.state()
    rig.agent.take(message.topic, json.dumps(event).encode(), rig.now_s)
    assert rig.agent.taken.total() + rig.agent.refused.total() == 1
    assert rig.agent.taken.total() == 1 or rig.state() == before


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_hostile_data_under_a_good_signature_never_fails(data: st.DataObject) -> None:
    rig = GridRig()
    targets = _mutated(data, [target(6e5, start_s=rig.now_s, end_s=rig.now_s + 60, feeds=["main-a"])])
    try:
        message = rig.signed_set(targets)
    except ValueError:  # NaN cannot be written
        return
    before = copy.deepcopy(rig.state())
    rig.take(message)
    assert rig.agent.taken.total() + rig.agent.refused.total() == 1
    assert rig.agent.taken.total() == 1 or rig.state() == before
    rig.seconds(2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 200), st.integers(1, 200), st.integers(1, 9) | st.none()), max_size=8))
def test_at_each_instant_the_latest_target_that_covers_it_counts(sets: list[tuple[int, int, int | None]]) -> None:
    rig = GridRig()
    taken: list[tuple[int, int, int | None]] = []
    for start, length, tenths in sets:
        watts = None if tenths is None else tenths * 1e5
        if rig.take(rig.signed_set([target(watts, start_s=NOW_S + start, end_s=NOW_S + start + length)])):
            taken.append((start, length, tenths))
    for moment in range(0, 400, 7):
        covering = [tenths for start, length, tenths in taken if start <= moment < start + length]
        expected = None if not covering or covering[-1] is None else covering[-1] * 1e5
        found = rig.engine.book.winner("acme-energy", "main-a", NOW_S + moment)
        assert (None if found is None else found.limit_w) == expected


def test_signatures_of_all_zeros_and_short_ones_are_refused() -> None:
    token = ISV_KEY.sign(b"{}")
    head, body, _signature = token.split(".")
    for signature in ("AAAA", urlsafe_b64encode(bytes(64)).decode().rstrip("="), "A" * 87):
        with pytest.raises(SignatureError):
            open_token(f"{head}.{body}.{signature}", KEYS, "//grid/v1/isv/acme-energy")


def test_ramps_alternate_and_end() -> None:
    rig = GridRig(restart_w_per_s=5e4)
    for watts in (6e5, 5e5, None, 4e5, None):
        rig.set(watts)
        rig.seconds(20)
    events = [event for event in _events([item for item in rig.said if "feeds" in item.data]) if "ramp" in event]
    assert all(later.startswith(("start", "end")) for _former, later in itertools.pairwise(events))
    assert events[-1] == "end_ramp_up"


def test_opened_reads_what_was_signed() -> None:
    rig = GridRig()
    assert opened(rig.signed_set([target(5e5)])).data["targets"][0]["load_constraint"]["value"] == 5e5
