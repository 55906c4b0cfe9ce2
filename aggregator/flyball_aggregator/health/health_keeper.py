"""The edges of fleet health: alarms on fleet/alarms as JSON, and what changed into the store, off the loop."""

import asyncio
import json
import logging
import sqlite3
from typing import Any, Final

from flyball_aggregator.broker import Outlet
from flyball_aggregator.health.health_desk import HealthDesk
from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.store import Store
from flyball_wire.topics import fleet_topic

LOG: Final = logging.getLogger(__name__)


class HealthKeeper:
    """Publishes and stores for the health desk."""

    def __init__(self, loop: PowerLoop, outlet: Outlet, store: Store) -> None:
        self.failures = 0
        self._loop = loop
        self._outlet = outlet
        self._store = store

    def publish_alarm(self, alarm: dict[str, Any]) -> None:
        """Say an alarm to whoever listens; the API has it when nobody does."""
        LOG.warning("alarm: %s", alarm)
        if self._outlet.is_connected:
            topic = fleet_topic(self._loop.parts.fleet.site.name, "alarms")
            self._loop.publish_soon(self._outlet.publish(topic, json.dumps(alarm).encode(), qos=1))

    def tick(self, desk: HealthDesk) -> None:
        """Store what changed in the last second, and let the desk tell hosts what they have not heard."""
        desk.tick()
        if desk.dirty:
            documents, desk.dirty = dict(desk.dirty), {}
            self._loop.publish_soon(self._put(desk, documents))

    async def _put(self, desk: HealthDesk, documents: dict[tuple[str, str], dict[str, Any]]) -> bool:
        """Store documents; what the disk refuses waits, unless something newer came meanwhile."""
        try:
            await asyncio.to_thread(self._store.put_documents, documents, self._loop.parts.unix_s())
        except sqlite3.Error as error:
            self.failures += 1
            LOG.error("health: %s", error)
            desk.dirty = {**documents, **desk.dirty}
            return False
        return True
