"""Messages survive the round trip, and nothing but WireError comes out of a hostile payload."""

import json
import math
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.flyball_wire.samples import MESSAGES, REPLIES

from flyball_wire import codec
from flyball_wire.codec import Message, decode, encode
from flyball_wire.errors import WireError
from flyball_wire.facility import FleetPower, RowPower, from_json, to_json
from flyball_wire.lease import Fence, Lease, Report
from flyball_wire.local_socket import (
    DeviceEvent,
    ErrorReply,
    GateReply,
    HelloReply,
    ReportReply,
    Request,
    StatusReply,
    decode_reply,
    frame,
    frame_length,
)
from flyball_wire.messages import Birth, Command, Event, GpuColumns, State, Telemetry

COUNTS = st.integers(0, 2**63 - 1)
HEX_32 = st.text("0123456789abcdef", min_size=32, max_size=32)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
UNKNOWN_OR_WATTS = st.none() | st.floats(0, 1e7)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KINDS = sorted({type(message) for message in MESSAGES}, key=lambda kind: kind.KIND)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.KIND)
def test_every_message_comes_back_as_it_went(message: Message) -> None:
    assert decode(type(message), encode(message)) == message


@given(
    st.builds(
        Lease,
        host=NAMES,
        incarnation=HEX_32,
        fence=st.builds(Fence, COUNTS, COUNTS),
        watts_milliwatts=st.none() | st.integers(0, 10**9),
        safe_milliwatts=st.integers(0, 10**9),
        stamp_ms=COUNTS,
        ttl_ms=st.integers(100, 3_600_000),
        hold_ms=st.integers(0, 86_400_000),
        ramp_milliwatts_per_s=st.integers(1, 10**9),
    )
)
def test_any_lease_comes_back_as_it_went(lease: Lease) -> None:
    assert decode(Lease, encode(lease)) == lease


@given(st.lists(UNKNOWN_OR_WATTS, max_size=64).map(tuple))
def test_unknown_power_stays_unknown(power: tuple[float | None, ...]) -> None:
    state = next(message for message in MESSAGES if isinstance(message, State))
    columns = GpuColumns(power, (), (), (), (), (), (), (), ())
    sent = codec.from_plain(State, {**codec.to_plain(state), "gpus": codec.to_plain(columns)})
    assert decode(State, encode(sent)).gpus.power_watts == power


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
@settings(max_examples=40)
@given(payload=st.binary(max_size=200) | PLAIN.map(msgpack.packb))
def test_any_bytes_give_a_message_or_a_wire_error(kind: type[Any], payload: bytes) -> None:
    only_wire_error(lambda: decode(kind, payload))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.KIND)
@settings(max_examples=40)
@given(data=st.data())
def test_a_field_of_any_type_gives_a_message_or_a_wire_error(message: Message, data: st.DataObject) -> None:
    plain = {"kind": message.KIND, "v": message.VERSION, **codec.to_plain(message)}
    plain[data.draw(st.sampled_from(sorted(plain)))] = data.draw(PLAIN)
    only_wire_error(lambda: decode(type(message), msgpack.packb(plain)))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.KIND)
def test_a_truncated_message_is_refused_at_every_length(message: Message) -> None:
    payload = encode(message)
    for length in range(0, len(payload), max(1, len(payload) // 50)):
        with pytest.raises(WireError):
            decode(type(message), payload[:length])


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.KIND)
def test_another_version_kind_or_a_missing_field_is_refused_by_name(message: Message) -> None:
    plain = {"kind": message.KIND, "v": message.VERSION, **codec.to_plain(message)}
    for change, expected in (
        ({"v": 2}, "version is 2"),
        ({"v": True}, "version is True"),
        ({"kind": "x"}, "kind is 'x'"),
    ):
        with pytest.raises(WireError, match=expected):
            decode(type(message), msgpack.packb({**plain, **change}))
    field = next(name for name in plain if name not in ("kind", "v"))
    del plain[field]
    with pytest.raises(WireError, match=f"field '{field}' is missing"):
        decode(type(message), msgpack.packb(plain))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.KIND)
def test_an_oversized_message_is_refused_before_it_is_unpacked(kind: type[Any]) -> None:
    with pytest.raises(WireError, match=f"expected at most {kind.MAX_BYTES}"):
        decode(kind, bytes(kind.MAX_BYTES + 1))


def test_a_newer_peer_may_add_a_field() -> None:
    lease = next(message for message in MESSAGES if isinstance(message, Lease))
    plain = {"kind": "lease", "v": 1, **codec.to_plain(lease), "colour": "blue"}
    assert decode(Lease, msgpack.packb(plain)) == lease


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e9, "500", True, 2**64 - 1])
def test_impossible_watts_are_refused(value: object) -> None:
    state = next(message for message in MESSAGES if isinstance(message, State))
    plain = codec.to_plain(state)
    plain["gpus"]["power_watts"] = [value]
    with pytest.raises(WireError, match=r"gpus\.power_watts\[0\]"):
        codec.from_plain(State, plain)


def test_nan_is_refused_on_the_way_out_as_well() -> None:
    with pytest.raises(WireError, match="occurred_at_s"):
        encode(Event("h", "a" * 32, 0, math.nan, "x", "info", None, None, ()))


def test_text_that_no_encoding_carries_is_refused_on_the_way_out() -> None:
    with pytest.raises(WireError, match="name"):
        encode(Event("h", "a" * 32, 0, 0.0, "\ud800", "info", None, None, ()))


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"], ids=["lists", "maps"])
def test_deep_nesting_is_refused(opening: bytes) -> None:
    payload = opening * 4000
    for kind in KINDS:
        with pytest.raises(WireError):
            decode(kind, payload[: kind.MAX_BYTES])


def test_a_header_that_promises_too_much_is_refused() -> None:
    for head in (b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"):
        with pytest.raises(WireError):
            decode(State, head)


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: reply.KIND)
def test_a_reply_is_known_by_its_kind(reply: Message) -> None:
    assert decode_reply(encode(reply)) == reply


@settings(max_examples=60)
@given(st.binary(max_size=200) | PLAIN.map(msgpack.packb))
def test_any_frame_gives_a_reply_or_a_wire_error(payload: bytes) -> None:
    only_wire_error(lambda: decode_reply(payload))


@given(st.binary(max_size=8))
def test_any_frame_header_gives_a_length_or_a_wire_error(header: bytes) -> None:
    only_wire_error(lambda: frame_length(header))


@given(st.binary(min_size=1, max_size=300))
def test_a_frame_tells_its_own_length(payload: bytes) -> None:
    framed = frame(payload)
    assert (frame_length(framed[:4]), framed[4:]) == (len(payload), payload)


@pytest.mark.parametrize("kind", [FleetPower, RowPower])
@settings(max_examples=60)
@given(payload=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_any_facility_bytes_give_a_summary_or_a_wire_error(kind: type[Any], payload: bytes) -> None:
    only_wire_error(lambda: from_json(kind, payload))


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "1" * 400, "1" * 5000, "1e999", "[" * 100_000, '"\\ud800"', "true", "null", "-1e308"]
)
def test_a_facility_number_that_is_none_is_refused(text: str) -> None:
    fields = json.dumps({"row": "a", "committed_watts": 1, "slack_watts": 1, "draw_watts": None, "is_binding": False})
    with pytest.raises(WireError):
        from_json(RowPower, f'{fields[:-1]}, "limit_watts": {text}{"" if text != "-1e308" else "e"}}}'.encode())


def test_a_facility_summary_comes_back_as_it_went() -> None:
    row = RowPower("row-1", 1000.0, 900.5, 99.5, None, is_binding=True)
    assert from_json(RowPower, to_json(row)) == row
    assert json.loads(to_json(row))["draw_watts"] is None


def only_wire_error(attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except WireError as error:
        said = str(error)
    else:
        return
    assert 0 < len(said) < 1000


def test_the_samples_cover_every_message() -> None:
    kinds = {Birth, State, Telemetry, Event, Command, Lease, Report, Request}
    replies = {HelloReply, ReportReply, StatusReply, GateReply, DeviceEvent, ErrorReply}
    assert {type(message) for message in MESSAGES} == kinds | replies
    assert {type(reply) for reply in REPLIES} == replies
