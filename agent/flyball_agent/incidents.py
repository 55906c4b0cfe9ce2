"""Incidents: the facts of one root cause on one entity, counted and not repeated; bounded however many facts come."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from flyball_agent.facts import FOLLOWERS, Entity, Fact, Level, parse_entity

JOIN_S: Final = 60.0  # an echo (XID 45 after 94, 154 after 149) joins an incident this recent
MAX_CAUSES: Final = 32
MAX_EVIDENCE: Final = 4
DRIVER_LEVELS: Final = frozenset({"xid.154", "recovery"})  # they end when the driver says so


@dataclass(slots=True)
class Cause:
    """One code within an incident; open until its own rule closes it."""

    code: str
    level: int
    action: str
    is_hard: bool
    opened_s: float
    last_s: float
    boot_id: str
    count: int = 0
    is_open: bool = True
    is_injected: bool = False
    clears_at_s: float | None = None
    evidence: list[str] = field(default_factory=list)

    @property
    def needs_repair(self) -> bool:
        """Tell whether only a proven repair closes this."""
        return self.code not in DRIVER_LEVELS and (self.is_hard or "reset_gpu_when_idle" in self.action)

    def see(self, fact: Fact) -> bool:
        """Count a sighting; True when it says more than the cause knew."""
        is_news = not self.is_open or fact.level > self.level or fact.action != self.action
        self.last_s, self.count, self.clears_at_s, self.is_open = fact.at_s, self.count + fact.count, None, True
        self.is_injected = self.is_injected and fact.is_injected
        if fact.level >= self.level:
            self.level, self.action, self.is_hard = int(fact.level), fact.action, self.is_hard or fact.is_hard
        if len(self.evidence) < MAX_EVIDENCE and fact.evidence and fact.evidence not in self.evidence:
            self.evidence.append(fact.evidence)
        return is_news


@dataclass(slots=True)
class Incident:
    """The open causes of one group on one entity."""

    id: str
    entity: str
    group: str
    opened_s: float
    last_s: float
    causes: dict[str, Cause] = field(default_factory=dict)
    closed_s: float | None = None

    @property
    def is_open(self) -> bool:
        """Tell whether any cause is open."""
        return any(cause.is_open for cause in self.causes.values())

    @property
    def level(self) -> Level:
        """Return how far the open causes take the entity."""
        return Level(max((cause.level for cause in self.causes.values() if cause.is_open), default=0))

    @property
    def is_echo_only(self) -> bool:
        """Tell whether nothing but echoes of some fault is known yet."""
        return all(code in FOLLOWERS for code in self.causes)

    @property
    def is_injected(self) -> bool:
        """Tell whether this is a drill."""
        return all(cause.is_injected for cause in self.causes.values())

    def see(self, fact: Fact) -> bool:
        """Add a fact; True when it says more than the incident knew."""
        self.last_s = fact.at_s
        cause = self.causes.get(fact.code)
        if cause is None:
            if len(self.causes) >= MAX_CAUSES:
                return False
            cause = self.causes[fact.code] = _new_cause(fact)
            cause.see(fact)
            return True
        return cause.see(fact)


def find_incident(incidents: list[Incident], fact: Fact) -> Incident | None:
    """Return the open incident that a fact belongs to: its own group's, or a recent one of which it is the echo."""
    for incident in incidents:
        if incident.group == fact.group or fact.code in incident.causes:
            return incident
    recent = [incident for incident in incidents if fact.at_s - incident.last_s <= JOIN_S]
    if not recent:
        return None
    if fact.code in FOLLOWERS:
        return max(recent, key=lambda incident: (incident.level, incident.last_s))
    return next((incident for incident in recent if incident.is_echo_only), None)


def new_incident(fact: Fact, number: int) -> Incident:
    """Return an incident that a fact opens."""
    return Incident(f"{int(fact.at_s)}-{number}", str(fact.entity), fact.group, fact.at_s, fact.at_s)


def incident_to_plain(incident: Incident) -> dict[str, Any]:
    """Return an incident as plain values, for the journal and for people."""
    return asdict(incident)


def incident_from_plain(plain: dict[str, Any]) -> Incident:
    """Return an incident from its plain values."""
    causes = {code: Cause(**cause) for code, cause in plain["causes"].items()}
    return Incident(**{**plain, "causes": causes})


def entity_of(incident: Incident) -> Entity:
    """Return whose incident this is."""
    return parse_entity(incident.entity)


def _new_cause(fact: Fact) -> Cause:
    return Cause(
        code=fact.code,
        level=int(fact.level),
        action=fact.action,
        is_hard=fact.is_hard,
        opened_s=fact.at_s,
        last_s=fact.at_s,
        boot_id=fact.boot_id,
        is_injected=fact.is_injected,
    )
