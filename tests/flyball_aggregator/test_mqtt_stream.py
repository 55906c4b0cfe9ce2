"""Packets out of a stream of bytes, however the stream is cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flyball_aggregator.mqtt_stream import PacketStream, publish_packet
from flyball_wire.errors import BrokerError

MESSAGES = [(f"a/{number}", bytes(number * 40)) for number in range(1, 9)]
STREAM = b"".join(publish_packet(topic, payload, number + 1) for number, (topic, payload) in enumerate(MESSAGES))


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(1, len(STREAM) - 1), max_size=12))
def test_every_message_comes_once_and_in_order_however_the_stream_is_cut(cuts: list[int]) -> None:
    taken: list[tuple[str, bytes]] = []
    stream = PacketStream(lambda topic, payload: taken.append((topic, payload)), lambda kind, body: None)
    edges = sorted({0, *cuts, len(STREAM)})

    acknowledged = b"".join(stream.feed(STREAM[start:end]) for start, end in itertools.pairwise(edges))

    assert taken == MESSAGES
    assert acknowledged == b"".join(b"\x40\x02" + (number + 1).to_bytes(2, "big") for number in range(len(MESSAGES)))


def test_other_packets_go_to_the_other_taker() -> None:
    others: list[tuple[int, bytes]] = []
    stream = PacketStream(lambda topic, payload: None, lambda kind, body: others.append((kind, body)))

    assert stream.feed(b"\x20\x02\x00\x05\xd0\x00") == b""
    assert others == [(0x20, b"\x00\x05"), (0xD0, b"")]


def test_a_message_at_quality_0_is_not_acknowledged() -> None:
    taken: list[bytes] = []
    stream = PacketStream(lambda topic, payload: taken.append(payload), lambda kind, body: None)

    assert stream.feed(b"\x30\x05\x00\x01tab") == b""
    assert taken == [b"ab"]


def test_a_topic_that_is_no_utf8_is_counted_and_passed_over() -> None:
    stream = PacketStream(lambda topic, payload: pytest.fail("taken"), lambda kind, body: None)

    stream.feed(b"\x30\x03\x00\x01\xff")
    assert stream.undecodable == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\xff\xff\xff\xff\x01",
        b"\x30\xff\xff\xff\x7f",
        b"\x30\x01\x00",
        b"\x34\x05\x00\x01tab",
        b"\x30\x02\x00\x09",
    ],
)
def test_what_is_no_mqtt_is_a_broker_error(data: bytes) -> None:
    stream = PacketStream(lambda topic, payload: None, lambda kind, body: None)

    with pytest.raises(BrokerError, match="broker sent"):
        stream.feed(data)
