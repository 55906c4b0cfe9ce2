"""The incidents of all hosts as their agents told them, with the story of each: bounded, newest kept."""

import json
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from flyball_wire.messages import Event

MAX_INCIDENTS: Final = 20_000
MAX_STEPS: Final = 60
REFUSING: Final = frozenset({"QUARANTINED", "DRAINING", "DRAINED", "REPAIRING", "VALIDATING", "FAILED"})


@dataclass(slots=True)
class FleetIncident:
    """One incident of one host; `name` is HOST/ID."""

    name: str
    host: str
    entity: str
    gpu: int | None
    opened_s: float
    heard_s: float
    severity: str = "warning"
    group: str = ""
    level: str = ""
    state: str = ""
    action: str = "none"
    codes: tuple[str, ...] = ()
    count: int = 0
    is_open: bool = True
    is_hard: bool = False
    is_injected: bool = False
    evidence: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)

    def to_plain(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "codes": list(self.codes)}


class IncidentBook:
    """Takes events, gives incidents."""

    def __init__(self) -> None:
        self.incidents: OrderedDict[str, FleetIncident] = OrderedDict()

    def take_incident(self, event: Event, fields: dict[str, str]) -> tuple[FleetIncident, bool]:
        """Take an `incident` event; return the incident and whether it is new.

        Raises:
            ValueError: a field is no number.
        """
        name = f"{event.host}/{fields.get('id', '')[:64]}"
        known = self.incidents.get(name)
        opened_s = float(fields.get("opened_s", event.occurred_at_s))
        found = known or FleetIncident(name, event.host, "", None, opened_s, event.occurred_at_s)
        found.entity, found.gpu, found.heard_s = fields.get("entity", ""), event.gpu, event.occurred_at_s
        found.severity, found.group, found.level = event.severity, fields.get("group", ""), fields.get("level", "")
        found.state, found.action = fields.get("state", ""), fields.get("action", "none")
        found.codes = tuple(filter(None, fields.get("codes", "").split(",")))
        found.count, found.is_open = int(fields.get("count", "0")), fields.get("is_open") == "true"
        found.is_hard, found.is_injected = fields.get("is_hard") == "true", fields.get("injected") == "true"
        found.evidence = fields.get("evidence", "")
        self._keep(found)
        return found, known is None

    def take_step(self, event: Event, fields: dict[str, str]) -> FleetIncident | None:
        """Add a decision to the story of its incident and return that; one of no known incident is dropped."""
        found = self.incidents.get(f"{event.host}/{fields.get('incident', '')[:64]}")
        if found is None:
            return None
        step = {"time_s": event.occurred_at_s, "event": event.name, **fields}
        found.steps = [*found.steps[-(MAX_STEPS - 1) :], step]
        return found

    def select(self, *, host: str | None, is_open: bool | None, limit: int) -> list[FleetIncident]:
        """Return incidents, newest first."""
        chosen = [
            incident
            for incident in reversed(self.incidents.values())
            if (host is None or incident.host == host) and (is_open is None or incident.is_open is is_open)
        ]
        return chosen[:limit]

    def restore(self, plain: dict[str, Any]) -> None:
        """Take over what `to_plain` gave."""
        self._keep(FleetIncident(**{**plain, "codes": tuple(plain["codes"])}))

    def _keep(self, incident: FleetIncident) -> None:
        self.incidents[incident.name] = incident
        if len(self.incidents) > MAX_INCIDENTS:
            self.incidents.popitem(last=False)


def explain(incident: FleetIncident) -> list[str]:
    """Return the story of an incident in sentences, oldest first."""
    drill = ", a drill" if incident.is_injected else ""
    stands = "open" if incident.is_open else "closed"
    lines = [
        f"{incident.name} on {incident.entity} of {incident.host}: {stands}{drill}, now {incident.state}",
        f"codes {', '.join(incident.codes)} x{incident.count}; asks for {incident.action}"
        + ("; hard evidence: only a proven repair clears it" if incident.is_hard else ""),
    ]
    lines += [f"evidence: {line}" for line in incident.evidence.splitlines()]
    return lines + [_sentence(step) for step in incident.steps]


def _sentence(step: dict[str, Any]) -> str:
    at = f"{step['time_s']:.3f}"
    if step["event"] != "health":
        told = ", ".join(f"{name} {value}" for name, value in step.items() if name not in {"event", "time_s"})
        return f"{at} {step['event']}: {told}"
    verb = "did" if step.get("allowed") == "true" else "would"
    if step.get("kind") == "notify":
        return f"{at} {step.get('detail', '')}"
    said = f"{at} {verb} {step.get('kind')} [{step.get('rule')}]"
    means = "; ".join(f"{name} {outcome} {detail}".strip() for name, outcome, detail in _results(step))
    return f"{said}: {means}" if means else said


def _results(step: dict[str, Any]) -> list[tuple[str, str, str]]:
    try:
        found = json.loads(step.get("results", "[]"))
    except ValueError:
        return []  # cut at the wire's limit
    return [(str(a), str(b), str(c)) for a, b, c in found]
