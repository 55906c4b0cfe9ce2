"""The envelope of grid messages: CloudEvents as DSX Flex profiles them, signed data inside."""

import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from flyball_aggregator.exchange.check_message import check_message, without_prefix
from flyball_aggregator.exchange.json_text import read_json, write_json
from flyball_aggregator.exchange.jws import JwsSigner, TrustedKey, open_token
from flyball_aggregator.exchange.prose_rules import parse_time
from flyball_wire.errors import WireError

SPEC_VERSION: Final = "1.0.2"
MAX_BYTES: Final = 1 << 20


class RefusedMessageError(WireError):
    """A message that is not taken; `reason` is what it is counted under."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class GridEvent:
    """One verified message: who says what, and the trace it belongs to."""

    source: str
    name: str  # last part of the source
    type: str
    event_id: str
    time_s: float
    correlation_id: str
    trace_id: str
    signed: str | None  # the token as sent; None when the data came in plain
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish."""

    topic: str
    payload: bytes
    qos: int
    is_retained: bool = False


def open_event(
    topic: str, payload: bytes, keys: Mapping[str, TrustedKey], *, now_s: float, window_s: float, takes_plain: bool
) -> GridEvent:
    """Return a message once its envelope, topic, time and signature hold; its data is not yet judged.

    Raises:
        RefusedMessageError: naming what does not hold.
    """
    try:
        plain = read_json(payload, MAX_BYTES)
    except WireError as error:
        raise RefusedMessageError("json", str(error)) from None
    for finding in check_message(topic, plain):
        if finding.severity == "error":
            raise RefusedMessageError(
                "topic" if finding.field == "topic" else "schema", f"{finding.field}: {finding.text}"
            )
    time_s = read_time(plain["time"])
    if abs(time_s - now_s) > window_s:
        raise RefusedMessageError("time", f"{plain['time'][:40]} is more than {window_s:g} s from now")
    token = plain["data"] if isinstance(plain["data"], str) else None
    source = f"//{'/'.join(without_prefix(topic).split('/')[:4])}"
    return GridEvent(
        source=source,
        name=source.rsplit("/", 1)[-1],
        type=plain["type"],
        event_id=plain["id"],
        time_s=time_s,
        correlation_id=plain.get("correlationid", plain["id"]),
        trace_id=plain["traceparent"].split("-")[1],
        signed=token,
        data=_data(plain["data"], keys, source, takes_plain=takes_plain),
    )


def build_event(
    *,
    topic: str,
    kind: str,
    source: str,
    subject: str,
    data: Mapping[str, Any],
    now_s: float,
    signer: JwsSigner | None,
    trace_id: str = "",
    correlation_id: str = "",
    qos: int = 1,
) -> Outgoing:
    """Return an event ready to publish; without a signer its data goes in plain."""
    event: dict[str, Any] = {
        "specversion": SPEC_VERSION,
        "id": str(uuid.uuid4()),
        "source": source,
        "type": kind,
        "time": show_time(now_s),
        "datacontenttype": "application/json",
        "subject": subject,
        "traceparent": f"00-{trace_id or secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        "data": dict(data) if signer is None else signer.sign(write_json(data)),
    }
    if correlation_id:
        event["correlationid"] = correlation_id
    return Outgoing(topic, write_json(event), qos)


def show_time(unix_s: float) -> str:
    """Return a moment as RFC 3339 in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_time(text: str) -> float:
    """Return a moment in Unix seconds.

    Raises:
        RefusedMessageError: no such moment.
    """
    try:
        return parse_time(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise RefusedMessageError("time", str(error)[:100]) from None


def _data(data: object, keys: Mapping[str, TrustedKey], source: str, *, takes_plain: bool) -> dict[str, Any]:
    if isinstance(data, str):
        try:
            opened = read_json(open_token(data, keys, source))
        except WireError as error:
            raise RefusedMessageError("signature", str(error)) from None
    elif takes_plain:
        opened = data
    else:
        raise RefusedMessageError("unsigned", "data in plain; expected a signed JWS")
    if not isinstance(opened, dict):
        raise RefusedMessageError("schema", "data: expected an object")
    return opened
