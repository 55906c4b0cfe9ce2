"""Gather seconds and events in memory and write them to the store a few times a minute, off the loop."""

import asyncio
import json
import logging
import sqlite3
import time
from collections import deque
from typing import Final

from flyball_aggregator.power.ledger import Alarm
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_aggregator.store import EventRecord, PowerRecord, Store
from flyball_wire.messages import Event

LOG: Final = logging.getLogger(__name__)
FLUSH_S: Final = 5.0
PRUNE_FLUSHES: Final = 60
MOST_WAITING: Final = 50_000  # while the disk does not answer; the oldest go first


class History:
    """Collects, and writes when `run` says so."""

    def __init__(self, store: Store) -> None:
        self.failures = 0
        self._store = store
        self._seconds: deque[PowerRecord] = deque(maxlen=MOST_WAITING)
        self._events: deque[EventRecord] = deque(maxlen=MOST_WAITING)

    def note_second(self, snapshot: PowerSnapshot) -> None:
        """Remember one second of the site."""
        roots = list(snapshot.roots)
        self._seconds.append(
            PowerRecord(
                time_s=snapshot.time_s,
                limit_w=snapshot.limit_w,
                draw_w=snapshot.draw_w[0],
                committed_w=float(snapshot.committed_w[roots].sum()),
                unmanaged_w=float(snapshot.columns.unmanaged_w[roots].sum()),
                hosts_online=int(snapshot.hosts.is_fresh.sum()),
            )
        )

    def note_event(self, event: Event) -> None:
        """Remember an event of a host."""
        fields = json.dumps(dict(event.fields))
        self._events.append(EventRecord(event.occurred_at_s, event.host, event.name, event.severity, event.gpu, fields))

    def note_alarm(self, alarm: Alarm) -> None:
        """Remember an alarm of the ledger."""
        LOG.warning("host %s: %s: %s", alarm.host, alarm.name, alarm.detail)
        fields = json.dumps({"detail": alarm.detail})
        self._events.append(EventRecord(time.time(), alarm.host, alarm.name, "warning", None, fields))

    async def run(self, stop: asyncio.Event) -> None:
        """Write until told to stop, and once more then."""
        flushes = 0
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), FLUSH_S)
            except TimeoutError:
                flushes += 1
            await asyncio.to_thread(self.flush, is_pruning=flushes % PRUNE_FLUSHES == 1)

    def flush(self, *, is_pruning: bool = False) -> None:
        """Write all that waits; what the disk refuses is counted, and the budget goes on without it."""
        seconds = [self._seconds.popleft() for _ in range(len(self._seconds))]
        events = [self._events.popleft() for _ in range(len(self._events))]
        try:
            self._store.add_power(seconds)
            self._store.add_events(events)
            if is_pruning:
                self._store.prune(time.time())
        except sqlite3.Error as error:
            self.failures += 1
            LOG.error("history: %s", error)
