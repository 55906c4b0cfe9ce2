"""The health of one entity as it is kept on disk: state, open incidents, and the history that decides about release."""

from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, Final

from flyball_agent.facts import Entity, Level, parse_entity
from flyball_agent.incidents import Cause, Incident, incident_from_plain

DAY_S: Final = 86_400.0
MAX_HISTORY: Final = 32


class State(IntEnum):
    """Health of an entity, worst last."""

    UNKNOWN = 0  # no data yet, or the driver is gone: never healthy
    HEALTHY = 1
    SUSPECT = 2  # evidence not confirmed; new work is still allowed
    DEGRADED = 3  # usable, placed last; a reset is wanted when idle
    QUARANTINED = 4  # new work refused
    DRAINING = 5
    DRAINED = 6
    REPAIRING = 7
    VALIDATING = 8
    FAILED = 9  # repeat offender or beyond repair: operators only

    @property
    def refuses_work(self) -> bool:
        """Tell whether new work must stay away."""
        return self >= State.QUARANTINED


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """Windows and limits; sources: the state and flap rules of the fault reference, sections 6.2 to 6.7."""

    boot_grace_s: float = 300.0
    clear_s: float = 600.0
    hold_down_s: float = 300.0
    hold_down_cap_s: float = DAY_S
    quiet_after_reset_s: float = 120.0
    quiet_after_reboot_s: float = 300.0
    quiet_after_gauge_s: float = 1800.0
    isolations_per_day: int = 3
    isolations_per_week: int = 5
    repairs_without_cure: int = 2
    resume_respected_s: float = 4 * 3600.0
    permit_retry_s: float = 60.0
    reminder_s: float = DAY_S
    probation_s: float = 3600.0
    gpus_for_node: int = 2  # this many isolated GPUs, and a quarter of the host's, isolate the host
    gpu_ratio_for_node: float = 0.25
    settle_s: float = 30.0  # XID 109 alone: the driver asks for nothing this long -> the program's own fault


@dataclass(slots=True)
class Health:
    """Health of one entity."""

    entity: str
    state: State = State.UNKNOWN
    since_s: float = 0.0
    incidents: list[Incident] = field(default_factory=list)
    isolations: list[float] = field(default_factory=list)
    flaps: list[float] = field(default_factory=list)
    repairs: list[tuple[float, str]] = field(default_factory=list)
    recovery: int | None = None
    permit: str = ""  # "", asked, granted, refused
    permit_at_s: float = 0.0
    repair_action: str = ""
    repaired_s: float | None = None
    repair_proof: str = ""
    validated_s: float | None = None
    is_held: bool = False  # an operator's or the fleet's hold: no release
    held_by: str = ""
    resumed_s: float = 0.0  # an operator's manual resume, and until when it is respected
    resumed_until_s: float = 0.0
    probation_until_s: float = 0.0
    reminded_s: float = 0.0
    why: str = ""

    @property
    def level(self) -> Level:
        """Return the worst level of the open causes."""
        return max((incident.level for incident in self.incidents), default=Level.NOTE)

    def open_causes(self) -> list[Cause]:
        """Return the open causes of all incidents."""
        return [cause for incident in self.incidents for cause in incident.causes.values() if cause.is_open]

    def top_incident(self) -> Incident | None:
        """Return the open incident that decides the state."""
        return max(self.incidents, key=lambda incident: (incident.level, incident.last_s), default=None)

    @property
    def last_fact_s(self) -> float:
        """Return when an open or lately closed cause was seen last."""
        return max((incident.last_s for incident in self.incidents), default=self.since_s)


def hold_down_s(flaps: list[float], now_s: float, settings: HealthSettings) -> float:
    """Return how long quiet must last before release: doubled with each relapse, one relapse forgiven per day."""
    if not flaps:
        return 0.0
    relapses = len(flaps) - int((now_s - flaps[-1]) // DAY_S)
    exponent = min(max(relapses, 1) - 1, MAX_HISTORY)
    return float(min(settings.hold_down_s * 2.0**exponent, settings.hold_down_cap_s))


def count_within(times: list[float], now_s: float, span_s: float) -> int:
    """Return how many of the times lie in the last `span_s` seconds."""
    return sum(1 for at_s in times if now_s - at_s < span_s)


def remember(times: list[float], at_s: float) -> None:
    """Append a time; the oldest beyond the bound goes."""
    times.append(at_s)
    del times[:-MAX_HISTORY]


def health_to_plain(health: Health) -> dict[str, Any]:
    """Return a record as plain values."""
    return asdict(health)


def health_from_plain(plain: dict[str, Any]) -> Health:
    """Return a record from its plain values."""
    changed: dict[str, Any] = {
        "state": State(plain["state"]),
        "incidents": [incident_from_plain(incident) for incident in plain["incidents"]],
        "repairs": [(float(at_s), str(code)) for at_s, code in plain["repairs"]],
    }
    return Health(**{**plain, **changed})


def entity_of(health: Health) -> Entity:
    """Return whose health this is."""
    return parse_entity(health.entity)
