import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.flyball_aggregator.exchange import grid_samples as grid

from flyball_aggregator.exchange.capture import captured_line, read_capture
from flyball_aggregator.exchange.check_message import check_message
from flyball_aggregator.exchange.contracts import SCHEMAS
from flyball_aggregator.exchange.json_text import read_json
from flyball_aggregator.exchange.recording import parse_offset, read_recording
from flyball_cli.__main__ import main

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def _validate(path: Path, text: str, *options: str) -> int:
    path.write_text(text, encoding="utf-8")
    return main(["exchange", "validate", str(path), *options])


def _legacy() -> tuple[str, dict[str, Any]]:
    data = grid.status_data()
    event = data["feeds"]["main-a"].pop("event")
    source = "//grid/v1/poweragent/flyball"
    message = grid.envelope("grid.powerstate.status.v1", source, {**data, "event": event})
    return "grid/v1/poweragent/flyball/powerstate/status", message


@pytest.mark.parametrize(("topic", "payload"), grid.samples())
def test_a_message_of_each_type_is_valid(topic: str, payload: object) -> None:
    assert [item for item in check_message(topic, payload) if item.severity == "error"] == []


def test_every_row_of_the_published_recording_is_valid_without_a_remark() -> None:
    rows = list(read_recording(SCHEMAS / "bms_exemplar.csv"))
    for _offset, topic, template in rows:
        assert check_message(topic, read_json(template.replace("{{timestamp_ms}}", "1743620423000"))) == []

    assert len(rows) == 4711
    assert (rows[0][0], round(rows[-1][0], 1)) == (0.0, 99.4)


def test_valid_captures_exit_0_and_name_nothing_but_the_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _validate(tmp_path / "good.jsonl", grid.capture(*grid.samples()[4:])) == 0
    assert capsys.readouterr().out == "3 messages, 0 invalid, 0 warnings\n"


def test_an_invalid_message_exits_1_and_says_line_field_and_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = (grid.METER_TOPIC, {"value": True, "timestamp": 1743620423000, "quality": 1})
    assert _validate(tmp_path / "bad.jsonl", grid.capture(*grid.samples()[4:], bad)) == 1
    assert "line 4: error: /value: type" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["{not json\n", '{"topic": "BMS/v1"}\n', '["a"]\n', '{"topic": 3, "payload": {}}\n', "\xff\n"]
)
def test_what_is_no_capture_exits_2(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _validate(tmp_path / "odd.jsonl", text) == 2
    assert "line 1" in capsys.readouterr().err


def test_a_missing_file_exits_2(tmp_path: Path) -> None:
    assert main(["exchange", "validate", str(tmp_path / "none.jsonl")]) == 2


def test_a_payload_that_is_no_json_is_invalid_not_unreadable(tmp_path: Path) -> None:
    line = captured_line(grid.METER_TOPIC, b"\xff\xfe{")
    assert _validate(tmp_path / "raw.jsonl", line) == 1
    assert _validate(tmp_path / "nan.jsonl", f'{{"topic": "{grid.METER_TOPIC}", "payload": {{"value": NaN}}}}\n') == 1
    assert _validate(tmp_path / "text.jsonl", grid.capture((grid.METER_TOPIC, "hello"))) == 1


def test_a_payload_may_stand_as_text(tmp_path: Path) -> None:
    line = grid.capture((grid.METER_TOPIC, '{"value": 1.5, "timestamp": 1743620423000, "quality": 1}'))
    assert _validate(tmp_path / "text.jsonl", line) == 0


@pytest.mark.parametrize(
    "topic",
    [
        "nico/v1/machine/host-0/state",
        "BMS/v1/PUB/Value/PowerMeter/ActivePower",
        "grid/v1/isv/a/b/loadtarget/set",
        "flyball",
        "",
        "BMS/v1/PUB/Value/PowerMeter/ActivePower/a//b",
        "grid/v1/isv/+/loadtarget/set",
    ],
)
def test_a_topic_of_no_contract_is_invalid(tmp_path: Path, topic: str) -> None:
    assert _validate(tmp_path / "topic.jsonl", grid.capture((topic, grid.samples()[4][1]))) == 1


def test_what_only_prose_says_is_a_warning_an_error_when_strict_and_accepted_as_legacy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = {"targets": [grid.load_target(load_constraint={"value": 0, "unit": "watt"})]}
    text = grid.capture((grid.SET_TOPIC, {**grid.samples()[0][1], "data": targets}))
    assert _validate(tmp_path / "zero.jsonl", text) == 0
    assert "above-zero" in capsys.readouterr().out
    assert _validate(tmp_path / "zero.jsonl", text, "--strict") == 1
    assert _validate(tmp_path / "zero.jsonl", text, "--legacy") == 0


def test_the_older_layout_is_a_warning_an_error_when_strict_and_accepted_as_legacy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = grid.capture(_legacy())
    assert _validate(tmp_path / "old.jsonl", text) == 0
    assert "older-layout" in capsys.readouterr().out
    assert _validate(tmp_path / "old.jsonl", text, "--strict") == 1
    assert _validate(tmp_path / "old.jsonl", text, "--legacy") == 0
    assert "older-layout" not in capsys.readouterr().out.splitlines()[-1]


def test_the_older_layout_is_still_held_to_its_schema(tmp_path: Path) -> None:
    topic, message = _legacy()
    message["specversion"] = "1.0"
    assert _validate(tmp_path / "old.jsonl", grid.capture((topic, message)), "--legacy") == 1


@pytest.mark.parametrize(
    ("place", "value", "rule"),
    [
        (("specversion",), "1.0", "const"),
        (("source",), "//grid/v1/isv/other", "topic-agreement"),
        (("id",), "not-a-uuid", "format"),
        (("time",), "yesterday", "format"),
        (("type",), "grid.powerstate.status.v1", "const"),
        (("traceparent",), "00-zz", "pattern"),
        (("data",), "a.b", "pattern"),
        (("data", "targets"), [], "minItems"),
        (("data", "targets", 0, "load_constraint", "unit"), "kW", "enum"),
        (("data", "targets", 0, "load_constraint", "value"), -1, "minimum"),
        (("data", "targets", 0, "interval"), None, "type"),
    ],
)
def test_each_breach_of_the_schema_is_named_by_its_rule(place: tuple[Any, ...], value: object, rule: str) -> None:
    payload = copy.deepcopy(grid.samples()[0][1])
    item: Any = payload
    for key in place[:-1]:
        item = item[key]
    item[place[-1]] = value
    assert rule in {finding.rule for finding in check_message(grid.SET_TOPIC, payload) if finding.severity == "error"}


def test_the_prefix_of_a_control_plane_is_seen_through() -> None:
    assert check_message(f"cpc/north1/{grid.METER_TOPIC}", grid.samples()[4][1]) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(payload=JSON, index=st.integers(0, 6), topic=st.text(max_size=40))
def test_no_payload_and_no_topic_makes_the_check_fail(payload: object, index: int, topic: str) -> None:
    check_message(topic, payload)
    check_message(grid.samples()[index][0], payload)


@settings(max_examples=40, deadline=None)
@given(index=st.integers(0, 6), data=st.data())
def test_a_message_with_one_part_replaced_is_checked_without_failing(index: int, data: st.DataObject) -> None:
    topic, payload = copy.deepcopy(grid.samples()[index])
    item: Any = payload
    while isinstance(item, dict) and item:
        key = data.draw(st.sampled_from(sorted(item)))
        if not isinstance(item[key], dict) or data.draw(st.booleans()):
            item[key] = data.draw(JSON)
            break
        item = item[key]
    check_message(topic, payload)


def test_captures_keep_every_byte() -> None:
    lines = [captured_line("a", b'{"b":1}', 0.5), captured_line("c", b"\x00\xff")]
    read = list(read_capture(line.encode() for line in lines))
    assert [(item.topic, item.payload, item.offset_s) for item in read] == [
        ("a", b'{"b": 1}', 0.5),
        ("c", b"\x00\xff", None),
    ]


@pytest.mark.parametrize(("text", "seconds"), [("0s", 0.0), ("3.5ms", 0.0035), ("1m17.25s", 77.25), ("2m", 120.0)])
def test_offsets_are_read_as_seconds(text: str, seconds: float) -> None:
    assert parse_offset(text) == pytest.approx(seconds)
