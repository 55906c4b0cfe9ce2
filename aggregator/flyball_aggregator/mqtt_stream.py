"""MQTT 3.1.1 as far as one who only listens needs it: packets out of a stream of bytes, and the few that go out.

Source: OASIS MQTT 3.1.1, sections 2.2 and 3.
"""

from collections.abc import Callable, Sequence
from struct import pack
from typing import Final

from flyball_wire.errors import BrokerError

CONNACK: Final = 0x20
PUBLISH: Final = 0x30
SUBACK: Final = 0x90
PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"
MAX_PACKET_BYTES: Final = 1 << 20  # as our brokers are configured
SUBSCRIBE_ID: Final = 1

MessageTaker = Callable[[str, bytes], None]


class PacketStream:
    """Takes bytes as they come and hands on whole packets; what is not whole yet waits for the next bytes.

    Args:
        take_message: Takes (topic, payload) of each PUBLISH.
        take_other: Takes (first byte without flags, body) of any other packet.
    """

    def __init__(self, take_message: MessageTaker, take_other: Callable[[int, bytes], None]) -> None:
        self.undecodable = 0
        self._take_message = take_message
        self._take_other = take_other
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Take what came and return the acknowledgements to send: a message is acknowledged when it was taken.

        Raises:
            BrokerError: no MQTT, or a packet larger than `MAX_PACKET_BYTES`.
        """
        if self._rest:
            data = self._rest + data
        acknowledgements = bytearray()
        at, size = 0, len(data)
        while size - at >= 2:
            start, length = _remaining_length(data, at)
            if start < 0 or start + length > size:
                break
            end = start + length
            if data[at] & 0xF0 == PUBLISH:
                acknowledgements += self._publish(data, data[at], start, end)
            else:
                self._take_other(data[at] & 0xF0, data[start:end])
            at = end
        self._rest = data[at:]
        return bytes(acknowledgements)

    def _publish(self, data: bytes, flags: int, start: int, end: int) -> bytes:
        topic_end = start + 2 + (data[start] << 8 | data[start + 1]) if end - start >= 2 else end + 1
        quality = flags >> 1 & 3
        payload_start = topic_end + (2 if quality else 0)
        if payload_start > end or quality > 1:
            raise BrokerError(f"broker sent a PUBLISH of {end - start} bytes that is none, or of QoS {quality}")
        try:
            topic = data[start + 2 : topic_end].decode()
        except UnicodeDecodeError:
            self.undecodable += 1
        else:
            self._take_message(topic, data[payload_start:end])
        return b"\x40\x02" + data[topic_end:payload_start] if quality else b""


def _remaining_length(data: bytes, at: int) -> tuple[int, int]:
    """Return where a packet's body begins and how long it is; (-1, 0) while its head is not whole."""
    length = shift = 0
    for index in range(at + 1, min(at + 5, len(data))):
        length |= (data[index] & 0x7F) << shift
        if data[index] < 0x80:
            if length > MAX_PACKET_BYTES:
                raise BrokerError(f"broker sent a packet of {length} bytes, expected at most {MAX_PACKET_BYTES}")
            return index + 1, length
        shift += 7
    if len(data) >= at + 5:
        raise BrokerError("broker sent a packet length of more than 4 bytes")
    return -1, 0


def connect_packet(client_id: str, keepalive_s: int, username: str | None, password: str | None) -> bytes:
    """Return CONNECT with a clean session."""
    flags = 0x02 | (0x80 if username is not None else 0) | (0x40 if password is not None else 0)
    body = b"\x00\x04MQTT\x04" + pack(">BH", flags, keepalive_s) + _text(client_id)
    body += b"".join(_text(text) for text in (username, password) if text is not None)
    return b"\x10" + _length(len(body)) + body


def subscribe_packet(subscriptions: Sequence[tuple[str, int]]) -> bytes:
    """Return SUBSCRIBE to these (filter, quality of service)."""
    body = pack(">H", SUBSCRIBE_ID) + b"".join(_text(topic) + bytes([quality]) for topic, quality in subscriptions)
    return b"\x82" + _length(len(body)) + body


def publish_packet(topic: str, payload: bytes, packet_id: int) -> bytes:
    """Return PUBLISH at quality of service 1."""
    body = _text(topic) + pack(">H", packet_id) + payload
    return b"\x32" + _length(len(body)) + body


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pack(">H", len(encoded)) + encoded


def _length(length: int) -> bytes:
    out = bytearray()
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)
