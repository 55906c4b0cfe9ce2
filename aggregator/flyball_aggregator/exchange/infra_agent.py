"""The infra role: shed hints of other agents' alerts applied by cap, reported per resource, taken back when over.

A hint is advice. What is done is a ceiling for a host in the power loop, never under its devices' minimum; a host that
is not led here, and any action but a power cap of a node, is left alone and said so.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Protocol

from flyball_aggregator.exchange.cloud_event import (
    GridEvent,
    Outgoing,
    RefusedMessageError,
    build_event,
    open_event,
    show_time,
)
from flyball_aggregator.exchange.grid_agent import GridSettings
from flyball_aggregator.exchange.grid_messages import check_data, power_unit
from flyball_aggregator.exchange.prose_rules import WATTS

LOG: Final = logging.getLogger(__name__)
MAX_BREACHES: Final = 1000
KNOWN_IDS: Final = 10_000
LOGGED: Final = 5


class CeilingPort(Protocol):
    """Where ceilings of hosts are put, GPU watts."""

    def bounds_w(self, host: str) -> tuple[float, float] | None:
        """Return the least and the most that a host may be held at; None when it is not led here."""
        ...

    def put_ceiling(self, host: str, watts: float | None) -> None:
        """Hold a host at or below watts; None lets it go."""
        ...


class InfraAgent:
    """Acts on alerts of agents whose keys are trusted."""

    def __init__(self, settings: GridSettings, port: CeilingPort) -> None:
        self.refused: Counter[str] = Counter()
        self.held: dict[str, dict[str, float]] = {}  # breach id -> host -> watts
        self._settings = settings
        self._port = port
        self._ids: dict[str, None] = {}
        self._done: dict[str, tuple[str, str]] = {}  # breach id -> (source, status) last acted on

    @property
    def source(self) -> str:
        """Its name in the envelope."""
        return f"//grid/v1/infra/{self._settings.agent_id}"

    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        """Return topic filters with the quality of service asked."""
        return (("grid/v1/dsx-flex-agent/+/powerbreach", 2),)

    def take(self, topic: str, payload: bytes, now_s: float) -> list[Outgoing]:
        """Take one alert, whatever it is, and return what was done about it."""
        settings = self._settings
        try:
            event = open_event(
                topic, payload, settings.keys, now_s=now_s, window_s=settings.window_s, takes_plain=settings.takes_plain
            )
            return self._take_alert(event, now_s)
        except RefusedMessageError as error:
            self.refused[error.reason] += 1
            if self.refused[error.reason] <= LOGGED:
                LOG.warning("refused a message on %s: %s", topic[:200], error)
        return []

    def _take_alert(self, event: GridEvent, now_s: float) -> list[Outgoing]:
        if event.type != "grid.powerbreach.alert.v1":
            raise RefusedMessageError("topic", f"{event.type} is no alert")
        check_data("PowerBreachAlertData", event.data)
        self._know(event)
        breach_id, status = event.data["breach"]["breach_id"], event.data["status"]
        done = self._done.get(breach_id)
        if done is not None and done[0] != event.source:
            raise RefusedMessageError("source", f"breach {breach_id} is of {done[0]}")
        if done is not None and done[1] in {status, "resolved"}:
            return []
        if len(self._done) >= MAX_BREACHES:
            self._done.pop(next(iter(self._done)))
        self._done[breach_id] = event.source, status
        results = self._revert(breach_id) if status == "resolved" else self._apply(breach_id, event.data)
        return [self._report(event, "reverted" if status == "resolved" else "applied", results, now_s)]

    def _apply(self, breach_id: str, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        hints = sorted(data.get("shed_hints", ()), key=lambda hint: hint["priority"])
        return [self._apply_hint(breach_id, hint) for hint in hints]

    def _apply_hint(self, breach_id: str, hint: Mapping[str, Any]) -> dict[str, Any]:
        host = hint["resource_id"]
        if hint["resource_type"] != "node" or hint["action"] != "power_cap" or "target_power" not in hint:
            return _result(hint, "skipped", "only power caps of nodes are applied here")
        bounds = self._port.bounds_w(host)
        if bounds is None:
            return _result(hint, "failed", "not a host that is led here")
        asked_w = hint["target_power"]["value"] * WATTS[hint["target_power"]["unit"]]
        watts = min(max(asked_w, bounds[0]), bounds[1])
        self.held.setdefault(breach_id, {})[host] = watts
        self._put(host)
        done = _result(hint, "applied", "")
        return done if watts == asked_w else {**done, "applied_power": power_unit(watts)}

    def _revert(self, breach_id: str) -> list[dict[str, Any]]:
        held = self.held.pop(breach_id, {})
        for host in held:
            self._put(host)
        hint = {"resource_type": "node", "action": "power_cap"}
        return [_result({**hint, "resource_id": host}, "applied", "ceiling taken away") for host in held]

    def _put(self, host: str) -> None:
        """Put the lowest ceiling that any breach asks for."""
        self._port.put_ceiling(host, min((held[host] for held in self.held.values() if host in held), default=None))

    def _know(self, event: GridEvent) -> None:
        key = f"{event.source} {event.event_id}"
        if key in self._ids:
            raise RefusedMessageError("duplicate", f"event {event.event_id}")
        self._ids[key] = None
        if len(self._ids) > KNOWN_IDS:
            self._ids.pop(next(iter(self._ids)))

    def _report(self, event: GridEvent, action: str, results: list[dict[str, Any]], now_s: float) -> Outgoing:
        applied = sum(result["code"] == "applied" for result in results)
        code = "success" if applied == len(results) else "partial" if applied else "error"
        return build_event(
            topic=f"{self.source[2:]}/powerbreach/enforcement",
            kind="grid.powerbreach.enforcement.v1",
            source=self.source,
            subject="powerbreach",
            data={
                "breach_id": event.data["breach"]["breach_id"],
                "feed_tag": event.data["feed_tag"],
                "action": action,
                "code": code,
                "results": results,
                "timestamp": show_time(now_s),
            },
            now_s=now_s,
            signer=self._settings.signer,
            trace_id=event.trace_id,
            correlation_id=event.correlation_id,
            qos=2,
        )


def _result(hint: Mapping[str, Any], code: str, message: str) -> dict[str, Any]:
    plain = {
        "resource_id": hint["resource_id"],
        "resource_type": hint["resource_type"],
        "requested_action": hint["action"],
        "code": code,
    }
    return {**plain, "message": message} if message else plain
