"""What goes into the health machine besides facts, and what comes out of it."""

from dataclasses import dataclass

from flyball_agent.facts import Entity, Fact


@dataclass(frozen=True, slots=True)
class Progress:
    """What became of an intent.

    Steps: isolated, drained, repair_started, repaired, repair_failed, validated, validation_failed, permit_granted,
    permit_refused; or `observed`, a first full sample of the entity.
    """

    at_s: float
    entity: Entity
    step: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's or the fleet's order: resume (for `hours`), hold, unhold, isolate, clear (ends FAILED)."""

    at_s: float
    entity: Entity
    act: str
    by: str = ""
    hours: float | None = None


@dataclass(frozen=True, slots=True)
class Boot:
    """The host or the agent started; `booted_s` is when the host did."""

    at_s: float
    boot_id: str
    booted_s: float
    gpu_count: int


Input = Fact | Progress | Order | Boot


@dataclass(frozen=True, slots=True)
class Intent:
    """What should be done about an entity: ask_permit, isolate, drain, repair, validate, release, notify."""

    kind: str
    entity: Entity
    incident: str = ""
    detail: str = ""
    is_injected: bool = False
