"""What the contracts say in prose only: advice on messages that their schemas let through."""

import base64
import binascii
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from flyball_aggregator.exchange.contracts import Match, schema_validator
from flyball_aggregator.exchange.json_text import read_json
from flyball_wire.errors import WireError

WATTS: Final = {"watt": 1.0, "kilowatt": 1e3, "megawatt": 1e6}
ACTIONS: Final = ("SHUTDOWN_NODES", "SHUTDOWN_RACKS", "CUT_DATA_FEEDS", "TRIP_BREAKERS")
CRITICAL_RATIO: Final = 1.2  # "critical: excess exceeds 20% over target"
ALGORITHMS: Final = ("ES256", "RS256")
DATA_SCHEMAS: Final = {
    "loadTargetSetChannel": "SetLoadTargetData",
    "powerStateStatusChannel": "PowerStateStatusData",
    "powerBreachAlertChannel": "PowerBreachAlertData",
    "powerBreachEnforcementChannel": "PowerBreachEnforcementData",
}


@dataclass(frozen=True, slots=True)
class Remark:
    """One piece of advice."""

    field: str
    rule: str
    text: str


def remarks_on(match: Match, topic: str, payload: Any) -> Iterator[Remark]:
    """Yield what prose says against a message that its schema allows."""
    if not isinstance(payload, dict):
        return
    if match.channel.contract == "dsx-flex":
        yield from _on_event(match, payload)
    elif match.channel.contract == "bms":
        yield from _on_bms(match, topic, payload)


def _on_bms(match: Match, topic: str, payload: dict[str, Any]) -> Iterator[Remark]:
    if match.parameters.get("integration") == "PUB":
        yield Remark("topic", "reserved-publisher", "PUB is the BMS itself, and it does not publish this point")
    if not match.channel.is_metadata and "value" in payload and 0 < payload["timestamp"] < 10_000_000_000:
        yield Remark("/timestamp", "milliseconds", f"{payload['timestamp']} looks like seconds, expected milliseconds")
    if "$" in topic:
        yield Remark("topic", "level-names", "'$' is not safe behind NATS")


def _on_event(match: Match, event: dict[str, Any]) -> Iterator[Remark]:
    if UUID(event["id"]).version != 4:
        yield Remark("/id", "uuid4", "expected a UUID of version 4")
    _version, trace, span, _flags = event["traceparent"].split("-")
    if not trace.strip("0") or not span.strip("0"):
        yield Remark("/traceparent", "trace-context", "trace and span ids of zeros are invalid (W3C Trace Context)")
    data = event["data"]
    prefix = "/data"
    if isinstance(data, dict):
        yield Remark("/data", "signed", "plain data; prose says that the wire form is a signed JWS")
    else:
        data, remarks = _read_jws(match, data)
        yield from remarks
        prefix = "/data(decoded)"
    if isinstance(data, dict):
        rules = {
            "SetLoadTargetData": _on_targets,
            "PowerStateStatusData": _on_status,
            "PowerBreachAlertData": _on_alert,
        }
        rule = rules.get(DATA_SCHEMAS[match.channel.name])
        yield from rule(data, prefix) if rule is not None else ()


def _read_jws(match: Match, token: str) -> tuple[object, list[Remark]]:
    """Return what a JWS carries, when it fits its schema, and what is wrong with it."""
    head, body, _signature = token.split(".")
    try:
        header, data = read_json(_decode(head)), read_json(_decode(body))
    except WireError as error:
        return None, [Remark("/data", "jws", str(error))]
    remarks = []
    if not isinstance(header, dict) or header.get("alg") not in ALGORITHMS or not isinstance(header.get("kid"), str):
        remarks.append(Remark("/data", "jws", f"header {str(header)[:100]}: expected alg ES256 or RS256, and a kid"))
    wrong = next(schema_validator("dsx-flex", DATA_SCHEMAS[match.channel.name]).iter_errors(data), None)
    if wrong is not None:
        place = "/".join(str(part) for part in wrong.absolute_path)
        return None, [*remarks, Remark(f"/data(decoded)/{place}", str(wrong.validator), wrong.message[:200])]
    return data, remarks


def _decode(part: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except (binascii.Error, ValueError) as error:
        raise WireError(f"not base64url: {error}") from None


def _on_targets(data: dict[str, Any], prefix: str) -> Iterator[Remark]:
    for index, target in enumerate(data["targets"]):
        place = f"{prefix}/targets/{index}"
        yield from _on_interval(target["interval"], f"{place}/interval")
        yield from _on_constraint(target["load_constraint"], f"{place}/load_constraint")


def _on_status(data: dict[str, Any], prefix: str) -> Iterator[Remark]:
    for tag, feed in data["feeds"].items():
        place = f"{prefix}/feeds/{tag}"
        is_loose = not any(target["active"] for target in feed["targets"])
        if is_loose and not feed["compliant"]:
            yield Remark(f"{place}/compliant", "compliance", "true when no target is active")
        for index, target in enumerate(feed["targets"]):
            yield from _on_interval(target["interval"], f"{place}/targets/{index}/interval")
            yield from _on_constraint(target["load_constraint"], f"{place}/targets/{index}/load_constraint")


def _on_alert(data: dict[str, Any], prefix: str) -> Iterator[Remark]:
    is_over = data["status"] == "resolved"
    actions = data["infrastructure_actions"]
    order = [ACTIONS.index(action) for action in actions]
    if ("resolved_at" in data["breach"]) != is_over:
        yield Remark(f"{prefix}/breach/resolved_at", "lifecycle", "present exactly when the breach is resolved")
    if ("shed_hints" in data) == is_over:
        yield Remark(f"{prefix}/shed_hints", "lifecycle", "present while active or escalated, absent when resolved")
    if is_over and actions:
        yield Remark(f"{prefix}/infrastructure_actions", "lifecycle", "empty when resolved")
    if any(later <= former for former, later in itertools.pairwise(order)):
        yield Remark(f"{prefix}/infrastructure_actions", "order", "from the least to the most disruptive, each once")
    for index, hint in enumerate(data.get("shed_hints", ())):
        if (hint["action"] == "power_cap") != ("target_power" in hint):
            yield Remark(
                f"{prefix}/shed_hints/{index}/target_power", "lifecycle", "present when the action is power_cap"
            )
    is_critical = _watts(data["measured_load"]) > CRITICAL_RATIO * _watts(data["target"]["load_constraint"])
    if not is_over and is_critical != (data["severity"] == "critical"):
        yield Remark(f"{prefix}/severity", "severity", "critical exactly when load is more than 20 % over the target")
    yield from _on_constraint(data["target"]["load_constraint"], f"{prefix}/target/load_constraint")


def _on_interval(interval: dict[str, Any], place: str) -> Iterator[Remark]:
    try:
        times = {name: parse_time(interval[name]) for name in ("start_time", "end_time") if name in interval}
    except ValueError as error:  # a leap second, or a year that no calendar here has
        yield Remark(place, "time", str(error)[:100])
        return
    for name, moment in times.items():
        if moment.utcoffset() != timedelta(0):
            yield Remark(f"{place}/{name}", "utc", "times are UTC")
    if len(times) == 2 and times["end_time"] <= times["start_time"]:
        yield Remark(f"{place}/end_time", "interval", "not after start_time")


def _on_constraint(constraint: dict[str, Any] | None, place: str) -> Iterator[Remark]:
    if constraint is not None and constraint["value"] <= 0:
        yield Remark(f"{place}/value", "above-zero", "must be greater than 0")


def parse_time(text: str) -> datetime:
    """Return an RFC 3339 moment.

    Raises:
        ValueError: it is none, or has no offset.
    """
    moment = datetime.fromisoformat(text.upper())
    if moment.tzinfo is None:
        raise ValueError(f"{text!r}: no offset")
    return moment


def _watts(unit: dict[str, Any]) -> float:
    return float(unit["value"]) * WATTS[unit["unit"]]
