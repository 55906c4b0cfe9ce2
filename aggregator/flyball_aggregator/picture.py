"""The whole site in one object: what the page shows and `flyball status` prints."""

from typing import Any, Final

from flyball_aggregator.broker import BrokerSession
from flyball_aggregator.health.health_desk import HealthDesk
from flyball_aggregator.intake import Intake
from flyball_aggregator.power.facility import fleet_power
from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.power.view import gpu_views, host_view, row_view
from flyball_wire.codec import to_plain

MOST_HOSTS: Final = 64  # with GPUs in one picture; of larger fleets the page asks host by host


def status_of(loop: PowerLoop, intake: Intake, session: BrokerSession, version: str) -> dict[str, Any]:
    """Return the site's power and how this program is."""
    fleet, desk, snapshot = loop.parts.fleet, loop.parts.desk, loop.snapshot
    power: dict[str, Any] = {} if snapshot is None else to_plain(fleet_power(fleet, snapshot))
    return {
        **power,
        "site": fleet.site.name,
        "version": version,
        "epoch": desk.epoch,
        "broker_connected": session.is_connected,
        "broker_error": session.last_error,
        "leases_sent": loop.leases_sent,
        "leases_acked": desk.leases_acked,
        "grants_refused": dict(desk.refused),
        "messages": dict(intake.received),
        "messages_refused": dict(intake.refused),
        "last_refusal": intake.last_refusal,
        "certificate_failures": loop.certificate_failures,
        "solve_milliseconds": None if snapshot is None else round(snapshot.solve_ms, 3),
        "decisions": loop.ticks,
        "unlisted_hosts": sorted(fleet.unlisted)[:100],
        "unled": _unled(loop),
    }


def picture_of(
    loop: PowerLoop, intake: Intake, session: BrokerSession, version: str, health: HealthDesk | None = None
) -> dict[str, Any]:
    """Return status, rows, hosts and health of this second."""
    fleet, snapshot = loop.parts.fleet, loop.snapshot
    picture: dict[str, Any] = {"status": status_of(loop, intake, session, version), "rows": [], "hosts": []}
    picture["health"] = None if health is None else health.summary()
    if snapshot is None:
        return picture
    now_s = loop.parts.monotonic_s()
    shown = list(fleet.hosts.values())[:MOST_HOSTS]
    picture["rows"] = [row_view(snapshot, index) for index in range(len(snapshot.rows))]
    picture["hosts"] = [
        {**host_view(fleet, snapshot, record, now_s), "gpus": gpu_views(fleet, record)} for record in shown
    ]
    picture["hosts_left_out"] = len(fleet.hosts) - len(shown)
    return picture


def _unled(loop: PowerLoop) -> dict[str, str]:
    """Return why hosts are not led, the first hundred."""
    if loop.snapshot is None:
        return {}
    pairs = zip(loop.parts.fleet.hosts, loop.snapshot.reasons, strict=True)
    return dict([(name, reason) for name, reason in pairs if reason][:100])
