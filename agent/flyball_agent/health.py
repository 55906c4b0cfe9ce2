"""The health machine of a host: facts, progress and orders in; states and intents out, without clock or file.

The same inputs in the same order give the same states, so a journal of the inputs is the whole truth. Hard evidence
isolates a GPU at once; a node, the fabric and soft evidence wait for a permit. A release needs all five proofs.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from flyball_agent.facts import FABRIC, NODE, Entity, Fact, Level
from flyball_agent.health_inputs import Boot, Input, Intent, Order, Progress
from flyball_agent.health_record import (
    Health,
    HealthSettings,
    State,
    entity_of,
    health_from_plain,
    health_to_plain,
    remember,
)
from flyball_agent.health_words import explain_causes, fact_for_node, is_hopeless, is_program_fault, repair_of
from flyball_agent.incidents import (
    DRIVER_LEVELS,
    Cause,
    Incident,
    find_incident,
    incident_from_plain,
    incident_to_plain,
    new_incident,
)
from flyball_agent.release import missing_proofs

MAX_ENTITIES: Final = 512
MAX_CLOSED: Final = 64
NEWS_S: Final = 30.0  # repeats of one cause reach the disk this often, so that its last sighting is known
_SOFT = ("gauge.", "absence.", "pattern.", "slow.")


@dataclass(slots=True)
class _Host:
    boot_id: str = ""
    booted_s: float = 0.0
    gpu_count: int = 0
    opened: int = 0
    suppressed: int = 0
    facts: int = 0


@dataclass(slots=True)
class HealthMachine:
    """States of all entities of a host."""

    settings: HealthSettings = field(default_factory=HealthSettings)
    healths: dict[Entity, Health] = field(default_factory=dict)
    closed: list[Incident] = field(default_factory=list)
    host: _Host = field(default_factory=_Host)
    closings: int = 0

    def apply(self, given: Input) -> list[Intent]:
        """Take one input and return what should be done now."""
        if isinstance(given, Fact):
            return list(self._apply_fact(given))
        if isinstance(given, Boot):
            return list(self._apply_boot(given))
        health = self._health(given.entity, given.at_s)
        if isinstance(given, Order):
            return list(self._apply_order(health, given))
        return list(self._apply_progress(health, given))

    def tick(self, now_s: float) -> list[Intent]:
        """Let time pass: close what went quiet, release what is proven, ask again, remind."""
        intents: list[Intent] = []
        for health in list(self.healths.values()):
            self._close_quiet(health, now_s)
            intents += self._settle(health, now_s)
            intents += self._remind(health, now_s)
        return intents

    def state(self, entity: Entity) -> State:
        """Return an entity's own state."""
        health = self.healths.get(entity)
        return State.UNKNOWN if health is None else health.state

    def effective_state(self, entity: Entity) -> State:
        """Return the state that counts for work: the entity's own, its GPU's or its host's, whichever is worst."""
        own = [self.state(entity), *(self.state(parent) for parent in (entity.parent, FABRIC, NODE) if parent)]
        refusing = [state for state in own if state.refuses_work]
        return max(refusing) if refusing else own[0]

    def is_news(self, fact: Fact) -> bool:
        """Tell whether a fact would change more than a count; only such facts need the disk."""
        health = self.healths.get(fact.entity)
        incident = find_incident(health.incidents, fact) if health else None
        cause = incident.causes.get(fact.code) if incident else None
        if fact.is_over:
            return health is None or fact.recovery != health.recovery or self._would_end(health, fact)
        if cause is None:
            return True
        is_later = fact.at_s // NEWS_S != cause.last_s // NEWS_S
        return is_later or fact.level > cause.level or fact.action != cause.action or not cause.is_open

    @staticmethod
    def _would_end(health: Health, fact: Fact) -> bool:
        ended = DRIVER_LEVELS if fact.recovery == 0 else {fact.code}
        return any(cause.code in ended and cause.clears_at_s is None for cause in health.open_causes())

    # Facts

    def _apply_fact(self, fact: Fact) -> Iterator[Intent]:
        self.host.facts += 1
        if fact.code.startswith(_SOFT) and fact.at_s - self.host.booted_s < self.settings.boot_grace_s:
            self.host.suppressed += 1
            return
        health = self._health(fact.entity, fact.at_s)
        if fact.recovery is not None:
            health.recovery = fact.recovery
        if fact.is_over:
            self._end(health, fact)
        else:
            self._join(health, fact).see(fact)
        yield from self._settle(health, fact.at_s)
        if fact.level >= Level.QUARANTINED and fact.entity.kind in {"gpu", "fabric"}:
            yield from self._spread(fact)

    def _join(self, health: Health, fact: Fact) -> Incident:
        incident = find_incident(health.incidents, fact)
        if incident is None:
            self.host.opened += 1
            incident = new_incident(fact, self.host.opened)
            health.incidents.append(incident)
        elif incident.is_echo_only and incident.group != fact.group:
            incident.group = fact.group
        return incident

    def _end(self, health: Health, fact: Fact) -> None:
        """End the condition of a code: at once for the driver's own level, after a quiet time for the rest."""
        ended = DRIVER_LEVELS if fact.recovery == 0 else {fact.code}
        for cause in health.open_causes():
            if cause.code not in ended or cause.needs_repair:
                continue
            if cause.code in DRIVER_LEVELS:
                cause.is_open = False
            elif cause.clears_at_s is None:
                cause.clears_at_s = fact.at_s + self.settings.clear_s

    def _spread(self, fact: Fact) -> Iterator[Intent]:
        """Carry a fault to the host: by its action, or because too many GPUs are isolated."""
        if fact.entity == FABRIC or fact.action == "reboot_node":
            yield from self._apply_fact(fact_for_node(fact, f"{fact.entity}.{fact.code}", fact.action))
        if self._is_too_many_isolated():
            yield from self._apply_fact(fact_for_node(fact, "gpus_isolated", "none"))

    def _is_too_many_isolated(self) -> bool:
        isolated = [e for e, health in self.healths.items() if e.kind == "gpu" and health.state.refuses_work]
        enough = max(self.settings.gpus_for_node, self.settings.gpu_ratio_for_node * self.host.gpu_count)
        return self.host.gpu_count > 0 and len(isolated) >= enough

    # Settling: from causes to a state

    def _settle(self, health: Health, now_s: float) -> Iterator[Intent]:
        """Move an entity to the state that its causes ask for."""
        level, state = health.level, health.state
        if state is State.FAILED:
            return
        if level >= Level.QUARANTINED and not state.refuses_work:
            yield from self._trip(health, now_s)
        elif state is State.VALIDATING:
            yield from self._validate(health, now_s)
        elif state.refuses_work:
            if level < Level.QUARANTINED and state is not State.REPAIRING:
                yield from self._begin_validation(health, now_s, "the cause has ended")
        else:
            yield from self._settle_mild(health, level, now_s)

    def _settle_mild(self, health: Health, level: Level, now_s: float) -> Iterator[Intent]:
        if level is Level.NOTE and health.state is State.UNKNOWN:
            return
        wanted = {Level.NOTE: State.HEALTHY, Level.SUSPECT: State.SUSPECT}.get(level, State.DEGRADED)
        if wanted is health.state:
            return
        if wanted is State.DEGRADED:
            remember(health.flaps, now_s)
        yield self._move(health, wanted, now_s)
        incident = health.top_incident()
        if wanted is State.DEGRADED and incident and any(c.needs_repair for c in incident.causes.values()):
            yield Intent("repair", entity_of(health), incident.id, "reset_gpu_when_idle", incident.is_injected)

    def _trip(self, health: Health, now_s: float) -> Iterator[Intent]:
        """Isolate, or ask first where a permit is needed; respect an operator's resume unless hard evidence is new."""
        incident = health.top_incident()
        causes = [cause for cause in health.open_causes() if cause.level >= Level.QUARANTINED]
        resumed_s = health.resumed_until_s
        if now_s < resumed_s and not any(cause.is_hard and cause.opened_s > health.resumed_s for cause in causes):
            return
        if incident is None or not self._is_permitted(health, causes):
            yield from self._ask_permit(health, incident, now_s)
            return
        if not incident.is_injected:
            remember(health.isolations, now_s)
            remember(health.flaps, now_s)
        health.repaired_s = health.validated_s = None
        health.repair_proof = health.repair_action = ""
        target = State.FAILED if is_hopeless(health, causes, now_s, self.settings) else State.QUARANTINED
        yield self._move(health, target, now_s)
        yield Intent("isolate", entity_of(health), incident.id, health.why, incident.is_injected)

    def _is_permitted(self, health: Health, causes: list[Cause]) -> bool:
        is_own = health.entity.startswith(("gpu", "mig", "nic")) and any(cause.is_hard for cause in causes)
        is_contained = health.entity.startswith("mig")
        return is_own or is_contained or health.permit == "granted"

    def _ask_permit(self, health: Health, incident: Incident | None, now_s: float) -> Iterator[Intent]:
        if incident is None or (health.permit and now_s - health.permit_at_s < self.settings.permit_retry_s):
            return
        health.permit, health.permit_at_s = "asked", now_s
        if health.state is not State.SUSPECT:
            yield self._move(health, State.SUSPECT, now_s)
        yield Intent("ask_permit", entity_of(health), incident.id, health.why, incident.is_injected)

    # Validation and release

    def _begin_validation(self, health: Health, now_s: float, why: str) -> Iterator[Intent]:
        yield self._move(health, State.VALIDATING, now_s, why)
        yield Intent("validate", entity_of(health), detail=why)

    def _validate(self, health: Health, now_s: float) -> Iterator[Intent]:
        if any(cause.is_hard and cause.last_s > health.since_s for cause in health.open_causes()):
            health.state = State.SUSPECT  # a relapse is a new isolation, and counts
            yield from self._trip(health, now_s)
            return
        if missing_proofs(health, now_s, self.settings):
            return
        self._close_all(health, now_s)
        health.permit, health.probation_until_s = "", now_s + self.settings.probation_s
        yield self._move(health, State.HEALTHY, now_s, "all five proofs hold")
        yield Intent("release", entity_of(health), detail=health.why)

    def _apply_progress(self, health: Health, given: Progress) -> Iterator[Intent]:
        step, state, now_s = given.step, health.state, given.at_s
        if step == "observed" and state is State.UNKNOWN:
            yield self._move(health, State.HEALTHY, now_s, "first full sample")
        elif step == "isolated" and state is State.QUARANTINED:
            yield self._move(health, State.DRAINING, now_s, given.detail)
            yield self._intent("drain", health)
        elif step == "drained" and state in (State.QUARANTINED, State.DRAINING):
            yield self._move(health, State.DRAINED, now_s, given.detail)
            if action := repair_of(health):
                yield self._intent("repair", health, action)
        elif step == "repair_started":
            health.repair_action = given.detail
            yield self._move(health, State.REPAIRING, now_s, given.detail)
        elif step == "repaired":
            yield from self._repaired(health, now_s, given.detail or health.repair_action)
        elif step in {"repair_failed", "validation_failed"} and state in (State.REPAIRING, State.VALIDATING):
            yield from self._retry_or_fail(health, now_s, f"{step}: {given.detail}")
        elif step == "validated" and state is State.VALIDATING:
            health.validated_s = now_s
            yield from self._validate(health, now_s)
        elif step in {"permit_granted", "permit_refused"}:
            health.permit, health.permit_at_s = step.removeprefix("permit_"), now_s
            yield from self._settle(health, now_s)

    def _repaired(self, health: Health, now_s: float, proof: str) -> Iterator[Intent]:
        """Close what the repair was for; the driver must still agree before release."""
        for cause in health.open_causes():
            if cause.needs_repair:
                cause.is_open = False
                if not cause.is_injected:
                    health.repairs = [*health.repairs[-31:], (now_s, cause.code)]
        health.repaired_s, health.repair_proof = now_s, proof
        if health.state.refuses_work and health.state is not State.FAILED:
            yield from self._begin_validation(health, now_s, f"repaired: {proof}")
        else:
            yield from self._settle(health, now_s)

    def _retry_or_fail(self, health: Health, now_s: float, why: str) -> Iterator[Intent]:
        """After a repair or check that failed: the next stronger repair, or the end."""
        remember(health.isolations, now_s)
        stronger = {"reset_gpu": "reboot_node", "drain_and_reset": "reboot_node"}.get(health.repair_action)
        if stronger is None:
            yield self._move(health, State.FAILED, now_s, why)
            return
        health.repair_action = stronger
        yield self._move(health, State.DRAINED, now_s, why)
        yield self._intent("repair", health, stronger)

    # Orders and boots

    def _apply_order(self, health: Health, order: Order) -> Iterator[Intent]:
        by = f"{order.act} by {order.by or 'operator'}"
        if order.act in {"hold", "unhold"}:
            health.is_held, health.held_by = order.act == "hold", order.by
        elif order.act == "isolate":
            fact = Fact(order.at_s, self.host.boot_id, "operator", order.entity, "operator.isolate", Level.QUARANTINED)
            self._join(health, fact).see(fact)
            health.permit = "granted"
            yield from self._settle(health, order.at_s)
        elif order.act in {"resume", "clear"}:
            span_s = self.settings.resume_respected_s if order.hours is None else order.hours * 3600.0
            health.resumed_s, health.resumed_until_s = order.at_s, order.at_s + span_s
            self._close_all(health, order.at_s)
            health.permit, health.is_held = "", False
            if order.act == "clear":
                health.isolations, health.flaps, health.repairs = [], [], []
            yield self._move(health, State.HEALTHY, order.at_s, by)
            yield Intent("release", entity_of(health), detail=by)

    def _apply_boot(self, boot: Boot) -> Iterator[Intent]:
        """A new boot id proves a reboot: whatever only a repair clears, and is older, counts as repaired."""
        is_new = bool(self.host.boot_id) and boot.boot_id != self.host.boot_id
        self.host.boot_id, self.host.booted_s, self.host.gpu_count = boot.boot_id, boot.booted_s, boot.gpu_count
        if not is_new:
            return
        for health in list(self.healths.values()):
            for cause in health.open_causes():
                cause.is_open = cause.is_open and cause.code not in DRIVER_LEVELS and cause.code != "gpus_isolated"
            health.recovery = None
            if any(cause.needs_repair for cause in health.open_causes()):
                yield from self._repaired(health, boot.at_s, "boot id changed")
            else:
                yield from self._settle(health, boot.at_s)

    # Time

    def _close_quiet(self, health: Health, now_s: float) -> None:
        """Close causes whose own rule says so."""
        for cause in health.open_causes():
            if cause.code == "gpus_isolated":
                cause.is_open = self._is_too_many_isolated()
                self.closings += not cause.is_open
                continue
            is_cleared = cause.clears_at_s is not None and now_s >= cause.clears_at_s
            is_quiet = now_s - cause.last_s >= self.settings.clear_s and not cause.code.startswith(_SOFT)
            is_lasting = cause.needs_repair or cause.code in DRIVER_LEVELS or cause.code.startswith("operator.")
            if is_cleared or (is_quiet and not is_lasting) or is_program_fault(health, cause, now_s, self.settings):
                cause.is_open = False
                self.closings += 1
        self._archive(health, now_s)

    def _close_all(self, health: Health, now_s: float) -> None:
        for cause in health.open_causes():
            cause.is_open = False
        self._archive(health, now_s, is_released=True)

    def _archive(self, health: Health, now_s: float, *, is_released: bool = False) -> None:
        if health.state.refuses_work and not is_released:
            return  # the last facts still count for the quiet time
        for incident in [incident for incident in health.incidents if not incident.is_open]:
            incident.closed_s = now_s
            self.closings += 1
            health.incidents.remove(incident)
            self.closed = [*self.closed[-(MAX_CLOSED - 1) :], incident]

    def _remind(self, health: Health, now_s: float) -> Iterator[Intent]:
        is_bad = health.state not in (State.UNKNOWN, State.HEALTHY, State.SUSPECT)
        if is_bad and now_s - max(health.since_s, health.reminded_s) >= self.settings.reminder_s:
            health.reminded_s = now_s
            yield self._intent("notify", health, f"still {health.state.name}: {health.why}")

    # Small parts

    def _health(self, entity: Entity, now_s: float) -> Health:
        found = self.healths.get(entity)
        if found is None:
            if len(self.healths) >= MAX_ENTITIES:
                entity = Entity(entity.kind, "more")
            found = self.healths.setdefault(entity, Health(str(entity), since_s=now_s))
        return found

    def _move(self, health: Health, state: State, now_s: float, why: str = "") -> Intent:
        before, health.state, health.since_s = health.state, state, now_s
        health.why = why or explain_causes(health)
        return self._intent("notify", health, f"{before.name} -> {state.name}: {health.why}")

    @staticmethod
    def _intent(kind: str, health: Health, detail: str = "") -> Intent:
        incident = health.top_incident()
        is_drill = incident is not None and incident.is_injected
        return Intent(kind, entity_of(health), incident.id if incident else "", detail or health.why, is_drill)

    def to_plain(self) -> dict[str, Any]:
        """Return everything the machine knows as plain values."""
        return {
            "host": asdict(self.host),
            "healths": [health_to_plain(health) for health in self.healths.values()],
            "closed": [incident_to_plain(incident) for incident in self.closed],
        }

    def restore(self, plain: dict[str, Any]) -> None:
        """Take over what `to_plain` gave."""
        self.host = _Host(**plain["host"])
        healths = [health_from_plain(health) for health in plain["healths"]]
        self.healths = {entity_of(health): health for health in healths}
        self.closed = [incident_from_plain(incident) for incident in plain["closed"]]
