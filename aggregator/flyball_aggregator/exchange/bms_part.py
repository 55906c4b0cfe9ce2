"""The BMS on the exchange: points become meters of rows and verdicts on racks; we answer where metadata names us.

Elements of the site file are joined by name: a meter's objectId or a rack's rackLocationId. A trusted value is given to
the fleet each second; one that is not is left to grow stale there, and the budget becomes careful by itself.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from flyball_aggregator.exchange.bms_points import BmsRefusedError, PointBook, PointMetadata
from flyball_aggregator.exchange.bms_power import (
    Wiring,
    meter_power_w,
    rack_power_w,
    rack_state,
    read_wiring,
)
from flyball_aggregator.exchange.bms_writeback import SETPOINT, Writeback, supply_request_c
from flyball_aggregator.exchange.cloud_event import Outgoing
from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.power.network import build_network
from flyball_aggregator.power.snapshot import PowerSnapshot

LOG: Final = logging.getLogger(__name__)
LOGGED: Final = 5
EQUIPMENT: Final = ("Rack", "PowerMeter", "CDU", "Sensor", "System")
RackHandler = Callable[[str, tuple[str, ...], bool, str], None]


class BmsPart:
    """Points, wiring and write-back of one site.

    `on_rack` handlers are told (rack, hosts, is_in_trouble, point) when a rack gets into trouble or out of it.
    """

    def __init__(self, integration: str, loop: PowerLoop) -> None:
        self.book = PointBook()
        self.wiring = Wiring()
        self.writeback = Writeback(integration, self.book)
        self.received = 0
        self.refused: Counter[str] = Counter()
        self.troubled: dict[str, str] = {}  # rack -> point
        self.on_rack: list[RackHandler] = [self._hold_leases]
        self._loop = loop
        self._version = 0
        self._hosts_below = hosts_by_element(loop)
        self._held: dict[str, frozenset[str]] = {}

    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        """Return topic filters: all metadata, values of what we use, and requests of other integrations to racks."""
        filters = ["BMS/v1/PUB/Metadata/#", *(f"BMS/v1/+/Value/{kind}/#" for kind in EQUIPMENT)]
        return tuple((name, 0) for plain in filters for name in (plain, f"cpc/+/{plain}"))

    def take(self, topic: str, payload: bytes, now_s: float) -> list[Outgoing]:
        """Take one message; what is malformed is counted, and changes nothing."""
        try:
            self.book.take(topic, payload, now_s)
            self.received += 1
        except BmsRefusedError as error:
            self.refused[error.reason] += 1
            if self.refused[error.reason] <= LOGGED:
                LOG.warning("refused a message on %s: %s", topic[:200], error)
        return []

    def step(self, _snapshot: PowerSnapshot, now_s: float) -> list[Outgoing]:
        """Give trusted watts to the fleet, judge racks, and return what is to be said."""
        if self.book.version != self._version:
            self._version = self.book.version
            self.wiring = read_wiring(self.book.metadata.values())
        self._give_meters(now_s)
        self._judge_racks(now_s)
        return [*self._request_supply(now_s), *self.writeback.step(now_s)]

    def view(self, now_s: float) -> dict[str, Any]:
        """Return what the BMS side knows, for people."""
        reasons = Counter(self.book.why_not(point, now_s) or "trusted" for point in self.book.metadata)
        return {
            "points": len(self.book.metadata),
            "values_without_metadata": len(self.book.values.keys() - self.book.metadata.keys()),
            "trust": dict(reasons),
            "bms_lost": self.book.is_bms_lost(now_s),
            "racks_in_trouble": dict(self.troubled),
            "disagreeing_racks": dict(self.book.doubted),
            "refused": dict(self.refused),
        }

    def _give_meters(self, now_s: float) -> None:
        fleet, at_s = self._loop.parts.fleet, self._loop.parts.monotonic_s()
        for name in self._hosts_below:
            watts = meter_power_w(self.book, self.wiring, name, now_s)
            if watts is None and (name in self.wiring.racks or name not in self.wiring.meters):
                watts = rack_power_w(self.book, self.wiring, name, now_s)
            if watts is not None:
                fleet.take_meter(name, watts, at_s)

    def _judge_racks(self, now_s: float) -> None:
        for rack in self.wiring.trouble:
            state, point = rack_state(self.book, self.wiring, rack, now_s)
            is_troubled = rack in self.troubled
            if state == "trouble" and not is_troubled:
                self.troubled[rack] = point
                self._tell(rack, point, is_troubled=True)
            elif state == "clear" and is_troubled:
                del self.troubled[rack]
                self._tell(rack, point, is_troubled=False)

    def _tell(self, rack: str, point: str, *, is_troubled: bool) -> None:
        hosts = self._hosts_below.get(rack, ())
        LOG.warning(
            "rack %s: %s %s; hosts %s", rack, point, "on" if is_troubled else "clear", ", ".join(hosts) or "none"
        )
        for handler in self.on_rack:
            handler(rack, hosts, is_troubled, point)

    def _hold_leases(self, rack: str, hosts: tuple[str, ...], is_troubled: bool, _point: str) -> None:  # noqa: FBT001
        """Let no host of a troubled rack gain watts; hosts that someone else holds stay held."""
        loop = self._loop
        if is_troubled:
            self._held[rack] = frozenset(hosts) - loop.frozen
            loop.frozen |= self._held[rack]
        else:
            loop.frozen -= self._held.pop(rack, frozenset())

    def _request_supply(self, now_s: float) -> list[Outgoing]:
        """Ask CDUs that name us for warmer supply while chips have margin, and withdraw it when they have not."""
        said: list[Outgoing] = []
        for metadata in list(self.writeback.ours(SETPOINT)):
            wanted = supply_request_c(self._setpoint_c(metadata, now_s), self._hottest_c(metadata))
            if wanted is None:
                said += self.writeback.withdraw(metadata.point, now_s)
            else:
                self.writeback.request(metadata.point, wanted)
        return said

    def _setpoint_c(self, request: PointMetadata, now_s: float) -> float | None:
        for metadata in self.book.of_type(request.point.object_type, "LiquidTemperature"):
            if metadata.is_setpoint and metadata.object_id == request.object_id:
                return self.book.trusted(metadata.point, now_s)
        return None

    def _hottest_c(self, request: PointMetadata) -> float | None:
        """Return the hottest GPU that a CDU cools; None when any of its hosts is not known."""
        fleet = self._loop.parts.fleet
        racks = request.serves or self.wiring.racks_below(request.object_id)
        names = {host for rack in racks for host in self._hosts_below.get(rack, ())}
        if not names:
            return None
        rows = [fleet.hosts[name].index for name in names]
        known = fleet.columns["temperature_celsius"][rows]
        exists = np.isfinite(fleet.maximum_w[rows])
        return float(known[exists].max()) if exists.any() and np.isfinite(known[exists]).all() else None


def hosts_by_element(loop: PowerLoop) -> dict[str, tuple[str, ...]]:
    """Return the hosts below each element of the site, by the element's name."""
    site = loop.parts.fleet.site
    network = build_network(site)
    below: dict[str, list[str]] = {element.name: [] for element in site.elements}
    for host in site.hosts:
        for name in network.flow_above(host.supplies, frozenset(), {}):
            below.setdefault(name, []).append(host.name)
    return {name: tuple(hosts) for name, hosts in below.items()}
