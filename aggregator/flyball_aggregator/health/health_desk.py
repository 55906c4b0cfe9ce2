"""Fleet health: events of hosts in; permits, mode, lives, offenders, alarms and orders to hosts out."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, Protocol

from flyball_aggregator.health.incident_book import REFUSING, FleetIncident, IncidentBook
from flyball_aggregator.health.lifecycle import HostLife, Life, LifecycleError, Move
from flyball_aggregator.health.mode import CorrelationGuard, FleetMode
from flyball_aggregator.health.offenders import OffenderBook
from flyball_aggregator.health.permits import PermitOffice, PermitRequest, Pool
from flyball_aggregator.health.repair_ladder import RepairLadder
from flyball_aggregator.site import Site
from flyball_wire.messages import Birth, Event

LOG: Final = logging.getLogger(__name__)
NODE: Final = "node"
STEPS: Final = frozenset({"health", "drain_incomplete", "permit_request"})
AUTOMATIC: Final = "flyball"


class Orders(Protocol):
    """Sends an order to the agent of a host."""

    def send(self, host: str, act: str, fields: Mapping[str, str]) -> bool:
        """Return whether it could be sent."""


AlarmHandler = Callable[[dict[str, Any]], None]


class HealthDesk:
    """All of it in memory; `dirty` holds what the store has not got yet.

    Args:
        site: Hosts, and the racks whose pools they share.
        orders: The way to the agents.
        on_alarm: Takes what people and other systems should see, as plain values.
        unix_s: The wall clock.
    """

    def __init__(self, site: Site, orders: Orders, on_alarm: AlarmHandler, unix_s: Callable[[], float]) -> None:
        self.book = IncidentBook()
        self.permits = PermitOffice(pools_of(site))
        self.guard = CorrelationGuard(host_count=len(site.hosts))
        self.offenders = OffenderBook()
        self.ladder = RepairLadder()
        self.lives = {host.name: HostLife(host.name) for host in site.hosts}
        self.node_states: dict[str, str] = {}
        self.dirty: dict[tuple[str, str], dict[str, Any]] = {}
        self.refused = 0
        self._site = site
        self._orders = orders
        self._on_alarm = on_alarm
        self._unix_s = unix_s
        self._sent_mode: dict[str, str] = {}

    # What hosts say

    def take_event(self, event: Event) -> None:
        """Take an event of a listed host; others are not counted among its faults."""
        if event.host not in self.lives:
            return
        fields = dict(event.fields)
        try:
            if event.name == "incident":
                self._take_incident(event, fields)
            elif event.name == "permit_request":
                self._answer_permit(event, fields)
            if event.name in STEPS:
                incident = self.book.take_step(event, fields)
                if incident is not None:
                    self._keep("incident", incident.name, incident.to_plain())
        except (ValueError, OverflowError) as error:
            self.refused += 1
            LOG.warning("event %s of %s: %s", event.name, event.host, error)

    def take_birth(self, birth: Birth) -> None:
        """Enrol a listed host that shows its inventory under the report key of the site file."""
        life = self.lives.get(birth.host)
        if life is None:
            return
        self._sent_mode.pop(birth.host, None)
        listed = next(host for host in self._site.hosts if host.name == birth.host)
        key = birth.report_public_key
        if life.stands is Life.DISCOVERED and birth.gpus and key is not None and key.hex() == listed.report_public_key:
            evidence = {"certificate": str(birth.report_key_id), "inventory": f"{len(birth.gpus)} GPUs"}
            self.move(birth.host, Life.ENROLLED, by=AUTOMATIC, why="report key of the site file", evidence=evidence)

    def tick(self) -> None:
        """Tell hosts the mode that they have not been told yet."""
        mode = self.mode.value
        for host in self.lives:
            if self._sent_mode.get(host, FleetMode.NORMAL.value) != mode and self._orders.send(
                host, "mode", {"mode": mode}
            ):
                self._sent_mode[host] = mode

    # What people say

    def choose_mode(self, mode: FleetMode, by: str) -> None:
        """Take an operator's choice of mode."""
        self.guard.choose(mode, by)
        self.permits.new_generation()
        self.tick()

    def move(self, host: str, after: Life, *, by: str, why: str, evidence: Mapping[str, str]) -> Move:
        """Take a step in the life of a host.

        Raises:
            LifecycleError: the move is not legal or lacks evidence.
        """
        life = self.lives[host]
        step = life.move(after, at_s=max(self._unix_s(), life.since_s), by=by, why=why, evidence=evidence)
        self._keep("life", host, life_to_plain(life))
        return step

    def order(self, host: str, act: str, fields: Mapping[str, str]) -> bool:
        """Send an operator's order to a host; False when the host cannot be reached."""
        return self._orders.send(host, act, fields)

    # What others read

    @property
    def mode(self) -> FleetMode:
        """Return the mode that holds now."""
        return self.guard.mode(self._unix_s())

    def host_view(self, host: str) -> dict[str, Any]:
        """Return everything known about a host's health."""
        now_s = self._unix_s()
        open_incidents = self.book.select(host=host, is_open=True, limit=100)
        step = self.ladder.next_step(host, now_s)
        return {
            "host": host,
            "state": self.node_states.get(host, "UNKNOWN"),
            "life": life_to_plain(self.lives[host]),
            "incidents": [incident.to_plain() | {"steps": []} for incident in open_incidents],
            "risk": round(self.offenders.risk(host, now_s), 4),
            "verdict": self.offenders.verdict(host, now_s),
            "repair": {"rung": None if step.rung is None else step.rung.name, "why": step.why},
        }

    def summary(self) -> dict[str, Any]:
        """Return the fleet in short, for status and page."""
        shown = self.book.select(host=None, is_open=True, limit=20)
        return {
            "mode": self.mode.value,
            "mode_why": self.guard.why,
            "open_incidents": sum(incident.is_open for incident in self.book.incidents.values()),
            "hosts_out": sorted(host for host, state in self.node_states.items() if state in REFUSING)[:100],
            "incidents": [
                {
                    "name": incident.name,
                    "host": incident.host,
                    "entity": incident.entity,
                    "gpu": incident.gpu,
                    "codes": list(incident.codes),
                    "state": incident.state,
                    "severity": incident.severity,
                    "is_injected": incident.is_injected,
                    "opened_s": incident.opened_s,
                }
                for incident in shown
            ],
        }

    def restore(self, documents: Mapping[tuple[str, str], dict[str, Any]]) -> None:
        """Take over what the store kept."""
        for (kind, key), plain in documents.items():
            if kind == "incident":
                self.book.restore(plain)
                self._note_node(self.book.incidents[key])
            elif kind == "life" and key in self.lives:
                self.lives[key] = life_from_plain(plain)

    # Parts

    def _take_incident(self, event: Event, fields: dict[str, str]) -> None:
        incident, is_new = self.book.take_incident(event, fields)
        self._keep("incident", incident.name, incident.to_plain())
        self._note_node(incident)
        if is_new:
            self._note_fault(incident, event.occurred_at_s)
        if incident.entity == NODE:
            self._follow_life(incident)
        self._on_alarm(alarm_of(incident))

    def _note_fault(self, incident: FleetIncident, at_s: float) -> None:
        severity = "fatal" if incident.is_hard else "warn"
        for code in incident.codes:
            self.offenders.note_fault(incident.host, code, severity, at_s, is_injected=incident.is_injected)
            is_counted = incident.level == "QUARANTINED" and not incident.is_injected and incident.entity != NODE
            if is_counted and self.guard.note_fault(incident.host, code, at_s):
                self.permits.new_generation()
                self._on_alarm({"kind": "mode", "mode": self.mode.value, "why": self.guard.why, "time_s": at_s})
                self.tick()

    def _note_node(self, incident: FleetIncident) -> None:
        if incident.entity != NODE:
            return
        self.node_states[incident.host] = incident.state
        if incident.state in REFUSING:
            self.permits.note_isolated(incident.host)
        elif incident.state in {"HEALTHY", "UNKNOWN"}:
            self.permits.release(incident.host)
            self.ladder.close(incident.host)
        if incident.state == "DRAINED" and incident.is_open and not incident.is_injected:
            self.ladder.open(incident.host, incident.action)

    def _follow_life(self, incident: FleetIncident) -> None:
        """Let the life of a host follow what its agent did; steps that are not legal now are passed over."""
        life = self.lives[incident.host]
        if incident.state in REFUSING and life.stands in {Life.READY, Life.ASSIGNED, Life.VALIDATED}:
            evidence = {"incident": incident.name}
            self.move(incident.host, Life.QUARANTINED, by=AUTOMATIC, why=", ".join(incident.codes), evidence=evidence)
        elif incident.state == "HEALTHY" and life.stands is Life.QUARANTINED:
            cleared = {"cause_cleared": incident.name}
            self.move(incident.host, Life.VALIDATING, by=AUTOMATIC, why="released by its agent", evidence=cleared)
            proofs = {"five_proofs": f"{incident.name}: the agent holds all five"}
            self.move(incident.host, Life.READY, by=AUTOMATIC, why="released by its agent", evidence=proofs)

    def _answer_permit(self, event: Event, fields: dict[str, str]) -> None:
        correlation_id = event.correlation_id or ""
        request = PermitRequest(event.host, correlation_id, fields.get("codes", "")[:200], self._unix_s())
        answer = self.permits.ask(request, self.mode)
        told = {"correlation_id": correlation_id, "granted": str(answer.is_granted).lower(), "rule": answer.rule}
        LOG.info("permit for %s (%s): %s, %s", event.host, request.code, answer.is_granted, answer.rule)
        self._orders.send(event.host, "permit", told)
        fields["granted"], fields["rule"] = told["granted"], answer.rule

    def _keep(self, kind: str, key: str, plain: dict[str, Any]) -> None:
        self.dirty[kind, key] = plain


def alarm_of(incident: FleetIncident) -> dict[str, Any]:
    """Return an incident as an alarm for people and other systems."""
    plain = incident.to_plain()
    names = ("name", "host", "entity", "gpu", "severity", "codes", "action", "state", "is_open", "is_injected")
    return {"kind": "incident", **{name: plain[name] for name in names}, "time_s": incident.heard_s}


def pools_of(site: Site) -> list[Pool]:
    """Return the pools that limit how many hosts may be out at once: the fleet, and each element that feeds hosts."""
    racks: dict[str, set[str]] = {}
    for host in site.hosts:
        racks.setdefault(host.element or "unfed", set()).add(host.name)
    fleet = Pool("fleet", frozenset(host.name for host in site.hosts))
    return [fleet, *(Pool(name, frozenset(hosts)) for name, hosts in racks.items())]


def life_to_plain(life: HostLife) -> dict[str, Any]:
    """Return a life as plain values."""
    moves = [{**asdict(move), "before": move.before.value, "after": move.after.value} for move in life.moves]
    return {"host": life.host, "stands": life.stands.value, "since_s": life.since_s, "moves": moves}


def life_from_plain(plain: Mapping[str, Any]) -> HostLife:
    """Return a life from its plain values."""
    moves = [Move(**{**move, "before": Life(move["before"]), "after": Life(move["after"])}) for move in plain["moves"]]
    return HostLife(plain["host"], Life(plain["stands"]), plain["since_s"], moves)


__all__ = ["HealthDesk", "LifecycleError", "alarm_of", "life_from_plain", "life_to_plain", "pools_of"]
