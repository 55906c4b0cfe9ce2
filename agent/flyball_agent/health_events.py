"""Incidents and decisions as events of the host: short fields, bounded, the same words at the aggregator."""

import json
from typing import Final

from flyball_agent.facts import Level
from flyball_agent.fault_keeper import Decision
from flyball_agent.health_record import State
from flyball_agent.incidents import Incident

Fields = tuple[tuple[str, str], ...]
FIELD_CHARACTERS: Final = 1000  # the wire takes 1024 bytes of each
SEVERITY: Final = {Level.NOTE: "info", Level.SUSPECT: "warning", Level.DEGRADED: "warning"}


def incident_fields(incident: Incident, state: State) -> Fields:
    """Return what the fleet needs to know of an incident."""
    causes = sorted(incident.causes.values(), key=lambda cause: (-cause.level, cause.opened_s))
    evidence = [text for cause in causes for text in cause.evidence][:3]
    return _bounded(
        {
            "id": incident.id,
            "entity": incident.entity,
            "group": incident.group,
            "level": incident.level.name,
            "is_open": str(incident.is_open).lower(),
            "codes": ",".join(cause.code for cause in causes[:16]),
            "action": causes[0].action if causes else "none",
            "is_hard": str(any(cause.is_hard and cause.is_open for cause in causes)).lower(),
            "count": str(sum(cause.count for cause in causes)),
            "opened_s": f"{incident.opened_s:.6f}",
            "injected": str(incident.is_injected).lower(),
            "state": state.name,
            "evidence": "\n".join(evidence),
        }
    )


def incident_severity(incident: Incident) -> str:
    """Return the severity of the event that tells of an incident."""
    return SEVERITY.get(incident.level, "critical") if incident.is_open else "info"


def incident_signature(incident: Incident, state: State) -> tuple[object, ...]:
    """Return what has to change before an incident is told again."""
    causes = tuple((cause.code, cause.level, cause.is_open) for cause in incident.causes.values())
    return incident.group, state, causes


def decision_fields(decision: Decision, state: State) -> Fields:
    """Return one decision: what was, or would have been, done, by which rule, and what came of each means."""
    intent = decision.intent
    results = [[result.actuator, result.outcome, result.detail[:120]] for result in decision.results]
    return _bounded(
        {
            "kind": intent.kind,
            "entity": str(intent.entity),
            "incident": intent.incident,
            "detail": intent.detail,
            "allowed": str(decision.verdict.is_allowed).lower(),
            "rule": decision.verdict.rule,
            "results": json.dumps(results),
            "state": state.name,
            "injected": str(intent.is_injected).lower(),
        }
    )


def _bounded(plain: dict[str, str]) -> Fields:
    return tuple((name, value.encode()[:FIELD_CHARACTERS].decode(errors="ignore")) for name, value in plain.items())
