"""Say why: an incident's evidence, the decisions it led to, the rule behind each, and what is missing for release."""

from collections.abc import Iterable, Iterator

from flyball_agent.fault_keeper import Decision
from flyball_agent.health import HealthMachine
from flyball_agent.health_record import Health, State
from flyball_agent.incidents import Incident
from flyball_agent.release import missing_proofs


def explain_incident(
    machine: HealthMachine, decisions: Iterable[Decision], incident_id: str, now_s: float
) -> list[str]:
    """Return the story of one incident, oldest first; empty when it is unknown."""
    for health in machine.healths.values():
        for incident in health.incidents:
            if incident.id == incident_id:
                told = [*_evidence(incident), *_decided(decisions, incident_id)]
                return [*told, *_standing(health, machine, now_s)]
    for incident in machine.closed:
        if incident.id == incident_id:
            return [*_evidence(incident), *_decided(decisions, incident_id), f"closed at {incident.closed_s:.3f}"]
    return []


def _evidence(incident: Incident) -> Iterator[str]:
    drill = " (drill)" if incident.is_injected else ""
    yield f"incident {incident.id} on {incident.entity}, group {incident.group}{drill}, since {incident.opened_s:.3f}"
    for cause in sorted(incident.causes.values(), key=lambda cause: cause.opened_s):
        stands = "open" if cause.is_open else "closed"
        yield f"cause {cause.code} x{cause.count}, action {cause.action}, {stands}, last at {cause.last_s:.3f}"
        yield from (f"  evidence: {text}" for text in cause.evidence)


def _decided(decisions: Iterable[Decision], incident_id: str) -> Iterator[str]:
    for decision in decisions:
        if decision.intent.incident != incident_id:
            continue
        verb = "did" if decision.verdict.is_allowed else "would"
        yield f"{decision.at_s:.3f} {verb} {decision.intent.kind}: {decision.intent.detail} [{decision.verdict.rule}]"
        yield from (f"  {result.actuator}: {result.outcome} {result.detail}" for result in decision.results)


def _standing(health: Health, machine: HealthMachine, now_s: float) -> Iterator[str]:
    yield f"state {health.state.name} since {health.since_s:.3f}: {health.why}"
    if health.state is State.FAILED:
        yield "leaves FAILED by an operator only"
    elif health.state.refuses_work:
        yield from (f"not released: {missing}" for missing in missing_proofs(health, now_s, machine.settings))
