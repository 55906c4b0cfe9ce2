"""Check one message against the published contracts: the newest schema decides, prose and the older layout advise.

An *error* is what the schema at its newest layout refuses: the topic, the payload, or their agreement. A *warning* is
what only the contract's prose says, or a message that only the older DSX Flex layout (`poweragent`) allows.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from jsonschema import ValidationError

from flyball_aggregator.exchange.contracts import Match, match_topic
from flyball_aggregator.exchange.prose_rules import Remark, remarks_on

Severity = Literal["error", "warning"]
LEGACY_ROLE: Final = "poweragent"
ROLE: Final = "dsx-flex-agent"
MAX_FINDINGS: Final = 50  # of one message


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a message, and by which rule."""

    severity: Severity
    field: str  # JSON pointer in the payload; "topic" for the topic
    rule: str
    text: str
    is_legacy: bool = False


def check_message(topic: str, payload: Any) -> list[Finding]:
    """Return what is wrong with a message; an empty list when nothing is.

    Args:
        topic: As published, with or without a `cpc/ID/` prefix.
        payload: Decoded JSON.
    """
    plain = without_prefix(topic)
    match = match_topic(plain)
    if match is not None:
        return _check_matched(match, plain, payload)
    older = _as_newest(plain, payload)
    if older is None:
        return [Finding("error", "topic", "topic", f"{topic[:200]!r} is a topic of no contract")]
    found = check_message(*older)
    text = f"role {LEGACY_ROLE!r} is of the layout before DSX Flex; the newest says {ROLE!r}"
    return [Finding("warning", "topic", "older-layout", text, is_legacy=True), *found]


def without_prefix(topic: str) -> str:
    """Return the topic as its publisher wrote it: a common-services broker shows it behind `cpc/ID/`."""
    parts = topic.split("/", 2)
    is_prefixed = len(parts) == 3 and parts[0] == "cpc" and parts[1].isascii() and parts[1].isalnum()
    return parts[2] if is_prefixed else topic


def _check_matched(match: Match, topic: str, payload: Any) -> list[Finding]:
    found = [*_schema_findings(match, payload), *_disagreements(match, payload)]
    if not found:
        found = [_of_remark(remark) for remark in remarks_on(match, topic, payload)]
    return found[:MAX_FINDINGS]


def _schema_findings(match: Match, payload: Any) -> Iterator[Finding]:
    """Yield what the schema refuses; of a channel's messages the one that its point type names decides."""
    channel = match.channel
    names = list(channel.validators)
    if channel.is_metadata:
        point_type = match.parameters["pointType"]
        names = [name for name in names if point_type in channel.point_types[name]] or names
    for name in names[:1]:
        try:
            errors = sorted(channel.validators[name].iter_errors(payload), key=lambda error: list(map(str, error.path)))
        except RecursionError:
            yield Finding("error", "", "depth", "nested deeper than any message of the contract")
            return
        for error in errors:
            yield _of_error(error)


def _of_error(error: ValidationError) -> Finding:
    deepest = error
    while deepest.context:
        deepest = max(deepest.context, key=lambda item: len(item.absolute_path))
    field = "/" + "/".join(str(part) for part in deepest.absolute_path)
    return Finding("error", field, str(deepest.validator), deepest.message[:200])


def _disagreements(match: Match, payload: Any) -> Iterator[Finding]:
    """Yield where payload and topic speak of different things."""
    if not isinstance(payload, dict):
        return
    parameters = match.parameters
    if match.channel.contract == "nico":
        yield from _differs(payload, "machine_id", parameters["machineId"])
    elif match.channel.contract == "dsx-flex":
        role = match.channel.address.split("/")[2]
        name = parameters.get("identifier") or parameters.get("infraAgentId")
        yield from _differs(payload, "source", f"//grid/v1/{role}/{name}")
    elif match.channel.is_metadata:
        yield from _differs(payload, "objectType", match.channel.address.split("/")[4])
        yield from _differs(payload, "pointType", parameters["pointType"])


def _differs(payload: dict[str, Any], field: str, expected: str) -> Iterator[Finding]:
    value = payload.get(field)
    if isinstance(value, str) and value != expected:
        text = f"{value[:100]!r} on a topic of {expected[:100]!r}"
        yield Finding("error", f"/{field}", "topic-agreement", text)


def _of_remark(remark: Remark) -> Finding:
    return Finding("warning", remark.field, remark.rule, remark.text)


def _as_newest(topic: str, payload: Any) -> tuple[str, object] | None:
    """Return a message of the older layout in the newest one; None when it is of neither."""
    levels = topic.split("/")
    if len(levels) < 5 or levels[:3] != ["grid", "v1", LEGACY_ROLE]:
        return None
    moved = "/".join([*levels[:2], ROLE, *levels[3:]])
    if match_topic(moved) is None:
        return None
    if not isinstance(payload, dict):
        return moved, payload
    newest = copy.deepcopy(payload)
    source, data = newest.get("source"), newest.get("data")
    if isinstance(source, str):
        newest["source"] = source.replace(f"//grid/v1/{LEGACY_ROLE}/", f"//grid/v1/{ROLE}/", 1)
    if isinstance(data, dict) and "event" in data and isinstance(data.get("feeds"), dict):
        event = data.pop("event")
        for feed in data["feeds"].values():
            if isinstance(feed, dict):
                feed.setdefault("event", event)
    return moved, newest
