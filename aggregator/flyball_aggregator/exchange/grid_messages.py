"""Load targets read from the grid contract, and status written in its words."""

from collections.abc import Mapping
from typing import Any, Final

from flyball_aggregator.exchange.cloud_event import GridEvent, RefusedMessageError, read_time, show_time
from flyball_aggregator.exchange.contracts import schema_validator
from flyball_aggregator.exchange.prose_rules import WATTS
from flyball_aggregator.flex.engine import FlexEngine
from flyball_aggregator.flex.feed_state import FeedEvent
from flyball_aggregator.flex.targets import LoadTarget

MAX_TARGETS: Final = 64  # of one message


def read_targets(event: GridEvent, feeds: Mapping[str, object], now_s: float) -> tuple[list[LoadTarget], bool]:
    """Return the targets of a set in their order, and whether each says when it starts.

    Raises:
        RefusedMessageError: the data breaks the contract, names a feed that is not here, or cannot be followed.
    """
    check_data("SetLoadTargetData", event.data)
    items = event.data["targets"]
    if len(items) > MAX_TARGETS:
        raise RefusedMessageError("size", f"{len(items)} targets, expected at most {MAX_TARGETS}")
    targets = [_read_target(event, item, feeds, now_s) for item in items]
    return targets, all("start_time" in item["interval"] for item in items)


def check_data(schema: str, data: Mapping[str, Any]) -> None:
    """Refuse data that breaks its schema."""
    wrong = next(schema_validator("dsx-flex", schema).iter_errors(dict(data)), None)
    if wrong is not None:
        place = "/".join(str(part) for part in wrong.absolute_path)
        raise RefusedMessageError("schema", f"/data/{place}: {wrong.message[:120]}")


def status_data(engine: FlexEngine, events: Mapping[str, FeedEvent], now_s: float) -> dict[str, Any]:
    """Return a snapshot of all feeds; a feed without an event of its own is periodic."""
    feeds = {tag: _feed_data(engine, tag, events.get(tag, "periodic"), now_s) for tag in engine.feeds}
    return {"snapshot_time": show_time(now_s), "feeds": feeds}


def power_unit(watts: float, unit: str = "kilowatt") -> dict[str, Any]:
    """Return watts in a unit of the contract, never below zero."""
    return {"value": round(max(watts, 0.0) / WATTS[unit], 9), "unit": unit}


def _read_target(event: GridEvent, item: Mapping[str, Any], feeds: Mapping[str, object], now_s: float) -> LoadTarget:
    interval, constraint = item["interval"], item["load_constraint"]
    tags = tuple(dict.fromkeys(item.get("feed_tags") or feeds))
    unknown = [tag for tag in tags if tag not in feeds]
    if unknown:
        raise RefusedMessageError("feed", f"feed {unknown[0][:64]!r}: none of {', '.join(sorted(feeds)[:20])}")
    try:
        return LoadTarget(
            source=event.name,
            feeds=tags,
            start_s=read_time(interval["start_time"]) if "start_time" in interval else now_s,
            end_s=read_time(interval["end_time"]) if "end_time" in interval else None,
            limit_w=None if constraint is None else float(constraint["value"]) * WATTS[constraint["unit"]],
            correlation_id=event.correlation_id,
            best_effort=item.get("strategy", {}).get("best_effort", False),
            unit="watt" if constraint is None else constraint["unit"],
            trace_id=event.trace_id,
        )
    except (ValueError, OverflowError) as error:
        raise RefusedMessageError("target", str(error)[:120]) from None


def _feed_data(engine: FlexEngine, tag: str, event: FeedEvent, now_s: float) -> dict[str, Any]:
    feed, state, reading = engine.feeds[tag], engine.states[tag], engine.readings.get(tag)
    plain: dict[str, Any] = {
        "metadata": {
            "power_minimum": power_unit(feed.minimum_w),
            "power_maximum": power_unit(feed.maximum_w),
            "default_constraint": power_unit(feed.default_w),
        },
        "targets": [_target_data(target, is_active) for target, is_active in engine.book.listed(tag, now_s)],
        "calculated_load": power_unit(feed.maximum_w if reading is None else reading.calculated_w),
        "in_flight": state.is_in_flight,
        "event": event,
        "compliant": engine.is_compliant(tag),
    }
    if state.event_s is not None:
        plain["power_event_start_time"] = show_time(state.event_s)
    return plain


def _target_data(target: LoadTarget, is_active: bool) -> dict[str, Any]:  # noqa: FBT001 - a pair of a listing
    interval = {"start_time": show_time(target.start_s)}
    if target.end_s is not None:
        interval["end_time"] = show_time(target.end_s)
    return {
        "active": is_active,
        "load_constraint": power_unit(target.limit_w or 0.0, target.unit),
        "interval": interval,
        "strategy": {"best_effort": target.best_effort},
        "correlation_id": target.correlation_id,
    }
