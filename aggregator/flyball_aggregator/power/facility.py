"""The site's power as JSON for people and facility systems: fleet/power each second, fleet/rows/ROW when it moves."""

from datetime import UTC, datetime
from typing import Final

from flyball_aggregator.broker import Outlet
from flyball_aggregator.fleet import Fleet
from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.power.view import row_view
from flyball_wire.facility import FleetPower, RowPower, to_json
from flyball_wire.topics import fleet_topic

REPEAT_TICKS: Final = 10  # an unchanged row is said again this often
MOVED_W: Final = 1.0  # smaller changes are not worth a message


class FacilityPublisher:
    """Publishes each snapshot; add `handle` to the loop's `on_tick`."""

    def __init__(self, loop: PowerLoop, outlet: Outlet) -> None:
        self._loop = loop
        self._outlet = outlet
        self._said: dict[str, RowPower] = {}

    def handle(self, snapshot: PowerSnapshot) -> None:
        """Send the site's power and the rows that moved."""
        if not self._outlet.is_connected:
            return
        fleet = self._loop.parts.fleet
        self._send("power", fleet_power(fleet, snapshot))
        for index, row in enumerate(snapshot.rows):
            now = row_power(snapshot, index)
            is_turn = (snapshot.tick + index) % REPEAT_TICKS == 0
            if is_turn or _has_moved(self._said.get(row.name), now):
                self._said[row.name] = now
                self._send(f"rows/{row.name}", now)

    def _send(self, name: str, summary: FleetPower | RowPower) -> None:
        topic = fleet_topic(self._loop.parts.fleet.site.name, name)
        self._loop.publish_soon(self._outlet.publish(topic, to_json(summary)))


def fleet_power(fleet: Fleet, snapshot: PowerSnapshot) -> FleetPower:
    """Return the whole site in one second."""
    limit_w = snapshot.limit_w
    draw_w, source = snapshot.draw_w
    roots = list(snapshot.roots)
    columns = snapshot.columns
    unmanaged_w = float(columns.unmanaged_w[roots].sum())
    reserve_w = float(columns.reserve_w[roots].sum())
    return FleetPower(
        site=fleet.site.name,
        time=datetime.fromtimestamp(snapshot.time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        limit_watts=round(limit_w, 3),
        draw_watts=None if draw_w is None else round(draw_w, 3),
        draw_source=source,
        headroom_watts=None if draw_w is None else round(limit_w - draw_w, 3),
        committed_watts=round(float(snapshot.committed_w[roots].sum()) + unmanaged_w + reserve_w, 3),
        unmanaged_watts=round(unmanaged_w, 3),
        reserve_watts=round(reserve_w, 3),
        hosts=len(fleet.hosts),
        hosts_online=int(snapshot.hosts.is_fresh.sum()),
        hosts_enforcing=int(snapshot.hosts.is_led.sum()),
        gpus=sum(host.gpus for host in fleet.site.hosts),
        limiting_row=snapshot.tightest_row,
        is_simulated=fleet.site.is_simulated,
    )


def row_power(snapshot: PowerSnapshot, index: int) -> RowPower:
    """Return one row in one second."""
    view = row_view(snapshot, index)
    return RowPower(
        row=view["row"],
        limit_watts=view["limit_watts"],
        committed_watts=view["committed_watts"],
        slack_watts=view["slack_watts"],
        draw_watts=view["draw_watts"],
        is_binding=view["is_binding"],
    )


def _has_moved(before: RowPower | None, now: RowPower) -> bool:
    if before is None or before.is_binding != now.is_binding or (before.draw_watts is None) != (now.draw_watts is None):
        return True
    moved_w = abs((before.draw_watts or 0.0) - (now.draw_watts or 0.0))
    return max(moved_w, abs(before.slack_watts - now.slack_watts), abs(before.limit_watts - now.limit_watts)) > MOVED_W
