"""OpenADR 3 events read as load targets: capacity limits in kW, and SIMPLE levels through a table of the site. Pure.

An event is a list of intervals; each says for how long what is asked. Its priority is kept by order: of overlapping
events the one with the lower number comes last, and the last one wins. An event that is gone is lifted.
"""

import math
import random
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from flyball_aggregator.flex.feeds import Feed
from flyball_aggregator.flex.targets import LoadTarget
from flyball_wire.errors import WireError

LIMIT: Final = "IMPORT_CAPACITY_LIMIT"
SIMPLE: Final = "SIMPLE"
UNITS: Final[Mapping[str, float]] = {"W": 1.0, "KW": 1e3, "MW": 1e6}
SIMPLE_RATIOS: Final = (1.0, 0.75, 0.5, 0.25)  # share of the span between minimum and rating, for levels 0 to 3
_DURATION: Final = re.compile(r"P(?:(\d+)Y)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?")
_FACTORS: Final = (365 * 86_400.0, 86_400.0, 3600.0, 60.0, 1.0)
ENDLESS_S: Final = 50 * 365 * 86_400.0  # P9999Y is the standard's word for an open end
MAX_INTERVALS: Final = 256


def read_event(event: Mapping[str, Any], feeds: Mapping[str, Feed], source: str) -> list[LoadTarget]:
    """Return the targets of an event; intervals without a payload that is known here are left out.

    Raises:
        WireError: it breaks the standard.
    """
    try:
        units = {item["payloadType"]: item.get("units", "KW") for item in event.get("payloadDescriptors") or ()}
        return list(_targets(event, units, feeds, source))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise WireError(f"OpenADR event {str(event.get('id'))[:64]}: {str(error)[:120]}") from None


def read_duration(text: str) -> float:
    """Return the seconds of an ISO 8601 duration; infinite for one that stands for an open end.

    Raises:
        ValueError: it is none.
    """
    found = _DURATION.fullmatch(text)
    if found is None or text in {"P", "PT"}:
        raise ValueError(f"duration {text[:40]!r}")
    seconds = sum(float(part) * factor for part, factor in zip(found.groups(), _FACTORS, strict=True) if part)
    return math.inf if seconds >= ENDLESS_S else seconds


def in_order(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return events with the most important last; 0 is the highest priority, none the lowest."""

    def rank(event: Mapping[str, Any]) -> float:
        priority = event.get("priority")
        return -math.inf if not isinstance(priority, int) else -float(priority)

    return sorted(events, key=rank)


def named_id(name: str) -> str:
    """Return the correlation id of something that has only a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"openadr:{name}"))


def randomised_start_s(start_s: float, most_s: float, seed: str) -> float:
    """Return the start moved by what `randomizeStart` allows, the same for the same event each time it is read."""
    return start_s + random.Random(seed).uniform(0.0, most_s)


def _targets(
    event: Mapping[str, Any], units: Mapping[str, str], feeds: Mapping[str, Feed], source: str
) -> Iterator[LoadTarget]:
    intervals = event["intervals"]
    if len(intervals) > MAX_INTERVALS:
        raise ValueError(f"{len(intervals)} intervals, expected at most {MAX_INTERVALS}")
    common = event.get("intervalPeriod")
    at_s = None if common is None else _start(common, str(event["id"]))
    for item in intervals:
        period = item.get("intervalPeriod") or common
        if period is None:
            raise ValueError("an interval without a period")
        start_s = _start(period, str(event["id"])) if item.get("intervalPeriod") or at_s is None else at_s
        length_s = read_duration(period.get("duration", "P9999Y"))
        at_s = start_s + length_s if math.isfinite(length_s) else start_s
        end_s = start_s + length_s if math.isfinite(length_s) else None
        for tag, watts in _limits(item["payloads"], units, feeds):
            yield LoadTarget(source, (tag,), start_s, end_s, watts, named_id(f"{event['id']}/{item['id']}"))


def _start(period: Mapping[str, Any], seed: str) -> float:
    moment = datetime.fromisoformat(period["start"])
    if moment.tzinfo is None:
        raise ValueError(f"start {period['start']!r} has no offset")
    return randomised_start_s(moment.timestamp(), read_duration(period.get("randomizeStart") or "PT0S"), seed)


def _limits(
    payloads: Iterable[Mapping[str, Any]], units: Mapping[str, str], feeds: Mapping[str, Feed]
) -> Iterator[tuple[str, float | None]]:
    for payload in payloads:
        if payload["type"] == LIMIT:
            watts = float(payload["values"][0]) * UNITS[units.get(LIMIT, "KW").upper()]
            total_w = sum(feed.maximum_w for feed in feeds.values())
            for tag, feed in feeds.items():  # one limit for the site: each feed by its rating
                yield tag, watts * feed.maximum_w / total_w
        elif payload["type"] == SIMPLE:
            ratio = SIMPLE_RATIOS[int(payload["values"][0])]
            for tag, feed in feeds.items():
                span_w = feed.maximum_w - feed.minimum_w
                yield tag, None if ratio >= 1.0 else feed.minimum_w + ratio * span_w
