"""Captures: one message a line, `{"topic": ..., "payload": ...}`; one that is no JSON is `payload_base64`."""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from flyball_aggregator.exchange.json_text import read_json
from flyball_wire.errors import WireError

MAX_LINE_BYTES: Final = 12 << 20


@dataclass(frozen=True, slots=True)
class CapturedMessage:
    """One line of a capture."""

    line: int
    topic: str
    payload: bytes
    offset_s: float | None = None


class CaptureError(WireError):
    """A capture cannot be read; the message names the line."""


def read_capture(lines: Iterable[bytes]) -> Iterator[CapturedMessage]:
    """Yield the messages of a capture; empty lines are skipped.

    Raises:
        CaptureError: a line is no JSON object with a topic and a payload.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _read_line(number, line)


def captured_line(topic: str, payload: bytes, offset_s: float | None = None) -> str:
    """Return a message as one line of a capture."""
    item: dict[str, Any] = {"topic": topic}
    if offset_s is not None:
        item["offset_s"] = round(offset_s, 4)
    try:
        item["payload"] = read_json(payload)
        line = json.dumps(item, separators=(",", ":"), allow_nan=False)
    except (WireError, ValueError):
        item.pop("payload", None)
        item["payload_base64"] = base64.b64encode(payload).decode()
        line = json.dumps(item, separators=(",", ":"))
    return line + "\n"


def _read_line(number: int, line: bytes) -> CapturedMessage:
    if len(line) > MAX_LINE_BYTES:
        raise CaptureError(f"line {number}: {len(line)} bytes, expected at most {MAX_LINE_BYTES}")
    try:
        item = json.loads(line)  # NaN or a doubled key in a payload is that message's fault, not the capture's
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"line {number}: not JSON: {str(error)[:120]}") from None
    if not isinstance(item, dict) or not isinstance(item.get("topic"), str):
        raise CaptureError(f'line {number}: expected an object with "topic" and "payload"')
    offset = item.get("offset_s")
    offset_s = float(offset) if isinstance(offset, int | float) and not isinstance(offset, bool) else None
    return CapturedMessage(number, item["topic"], _payload(number, item), offset_s)


def _payload(number: int, item: dict[str, Any]) -> bytes:
    if "payload_base64" in item:
        try:
            return base64.b64decode(item["payload_base64"], validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise CaptureError(f"line {number}: payload_base64 is not base64") from None
    if "payload" not in item:
        raise CaptureError(f'line {number}: no "payload"')
    payload = item["payload"]
    return payload.encode(errors="replace") if isinstance(payload, str) else json.dumps(payload).encode()
