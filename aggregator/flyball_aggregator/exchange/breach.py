"""Breaches of a load target: measured load over the active target, from the first alert to the resolved one. Pure.

The contract leaves open when a warning begins and when one escalates. Here: load over the target by more than
`threshold_ratio` for `debounce_s` seconds in a row begins one; it escalates when it turns critical, when enforcement
failed, or after `escalate_s`; `resolve_s` seconds at or below the target resolve it. Exactly 20 % over is a warning.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from flyball_aggregator.exchange.cloud_event import show_time
from flyball_aggregator.exchange.grid_messages import power_unit
from flyball_aggregator.exchange.prose_rules import CRITICAL_RATIO
from flyball_aggregator.flex.targets import LoadTarget

Severity = Literal["warning", "critical"]
Status = Literal["active", "escalated", "resolved"]
MAX_HINTS: Final = 64
ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class BreachRules:
    """When alerts are sent."""

    threshold_ratio: float = 0.01
    grace_s: float = 10.0  # after a target begins: every reachable host is under its share by then
    debounce_s: float = 3.0
    resolve_s: float = 5.0
    escalate_s: float = 30.0
    repeat_s: float = 30.0
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Breach:
    """A breach that is on."""

    breach_id: str
    detected_s: float
    target: LoadTarget
    severity: Severity
    status: Status
    said_s: float
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class BreachState:
    """Where a feed stands; `over_s` and `under_s` are since when, None while it is not."""

    breach: Breach | None = None
    over_s: float | None = None
    under_s: float | None = None


@dataclass(frozen=True, slots=True)
class ShedHint:
    """Advice on what to shed first: a host, capped at watts at the wall."""

    host: str
    target_w: float


def step_breach(
    state: BreachState,
    target: LoadTarget | None,
    measured_w: float | None,
    now_s: float,
    rules: BreachRules,
) -> tuple[BreachState, Breach | None]:
    """Return the state after one second and the alert to send, if one is due; an unknown load changes nothing."""
    if target is None or target.limit_w is None:
        return _end(state, now_s)
    if measured_w is None:
        return _repeat(state, now_s, rules)
    excess = measured_w / target.limit_w - 1.0
    if state.breach is None:
        return _watch(state, target, excess, now_s, rules)
    if excess <= 0:
        under_s = now_s if state.under_s is None else state.under_s
        if now_s - under_s >= rules.resolve_s:
            return _end(state, now_s)
        return _repeat(replace(state, under_s=under_s), now_s, rules)
    return _worsen(replace(state, under_s=None), replace(state.breach, target=target), excess, now_s, rules)


def note_failure(state: BreachState, breach_id: str) -> BreachState:
    """Remember that enforcement of a breach failed or was partial."""
    if state.breach is None or state.breach.breach_id != breach_id:
        return state
    return replace(state, breach=replace(state.breach, has_failed=True))


def alert_data(feed: str, breach: Breach, measured_w: float, hints: Sequence[ShedHint], now_s: float) -> dict[str, Any]:
    """Return the data of an alert."""
    is_over = breach.status == "resolved"
    details = {"breach_id": breach.breach_id, "detected_at": show_time(breach.detected_s)}
    plain: dict[str, Any] = {
        "feed_tag": feed,
        "status": breach.status,
        "severity": breach.severity,
        "breach": {**details, "resolved_at": show_time(now_s)} if is_over else details,
        "target": {
            "correlation_id": breach.target.correlation_id,
            "load_constraint": power_unit(breach.target.limit_w or 0.0, breach.target.unit),
        },
        "measured_load": power_unit(measured_w),
        "infrastructure_actions": [] if is_over else _actions(breach),
    }
    if not is_over:
        plain["shed_hints"] = [_hint(number, hint) for number, hint in enumerate(hints[:MAX_HINTS], start=1)]
    return plain


def _watch(
    state: BreachState, target: LoadTarget, excess: float, now_s: float, rules: BreachRules
) -> tuple[BreachState, Breach | None]:
    if excess <= rules.threshold_ratio or now_s < target.start_s + rules.grace_s:
        return BreachState(), None
    over_s = now_s if state.over_s is None else state.over_s
    if now_s - over_s < rules.debounce_s:
        return BreachState(over_s=over_s), None
    breach = Breach(rules.new_id(), over_s, target, _severity(excess), "active", now_s)
    return BreachState(breach, over_s), breach


def _worsen(
    state: BreachState, breach: Breach, excess: float, now_s: float, rules: BreachRules
) -> tuple[BreachState, Breach | None]:
    severity: Severity = "critical" if breach.severity == "critical" else _severity(excess)
    is_late = now_s - breach.detected_s >= rules.escalate_s
    is_worse = severity != breach.severity or breach.has_failed or is_late
    if is_worse and (breach.status == "active" or severity != breach.severity):
        said = replace(breach, severity=severity, status="escalated", said_s=now_s, has_failed=False)
        return replace(state, breach=said), said
    return _repeat(replace(state, breach=breach), now_s, rules)


def _repeat(state: BreachState, now_s: float, rules: BreachRules) -> tuple[BreachState, Breach | None]:
    if state.breach is None or now_s - state.breach.said_s < rules.repeat_s:
        return state, None
    said = replace(state.breach, said_s=now_s)
    return replace(state, breach=said), said


def _end(state: BreachState, now_s: float) -> tuple[BreachState, Breach | None]:
    if state.breach is None:
        return BreachState(), None
    return BreachState(), replace(state.breach, status="resolved", said_s=now_s)


def _severity(excess: float) -> Severity:
    return "critical" if excess > CRITICAL_RATIO - 1.0 + ROUNDING else "warning"


def _actions(breach: Breach) -> list[str]:
    """Return what infrastructure could do, from the least disruptive; breakers only once all else was not enough."""
    actions = ["SHUTDOWN_NODES", "SHUTDOWN_RACKS"]
    if breach.severity == "critical":
        actions.append("CUT_DATA_FEEDS")
    if breach.severity == "critical" and breach.status == "escalated":
        actions.append("TRIP_BREAKERS")
    return actions


def _hint(priority: int, hint: ShedHint) -> dict[str, Any]:
    return {
        "resource_id": hint.host,
        "resource_type": "node",
        "action": "power_cap",
        "priority": priority,
        "target_power": power_unit(hint.target_w),
    }
