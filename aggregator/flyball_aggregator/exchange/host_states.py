"""Host states on `NICO/v1/machine/ID/state`: ours published as the contract has them, others' heard liberally.

What is heard becomes one of a few verdicts for placement; a state that is not known here changes nothing.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Literal

from flyball_aggregator.exchange.check_message import without_prefix
from flyball_aggregator.exchange.cloud_event import Outgoing, show_time
from flyball_aggregator.exchange.json_text import read_json, write_json
from flyball_aggregator.fleet import HostRecord, is_fresh
from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_wire.errors import WireError

LOG: Final = logging.getLogger(__name__)
Verdict = Literal["free", "busy", "unavailable", "removed"]
UNAVAILABLE: Final = frozenset({
    "created", "dpudiscoveringstate", "dpuinit", "hostinit", "validation", "bomvalidating", "measuring",
    "postassignedmeasuring", "waitingforcleanup", "dpureprovision", "hostreprovision", "failed",
})  # fmt: skip
MAX_BYTES: Final = 65_536
MAX_MACHINES: Final = 100_000
LOGGED: Final = 5


class HostStates:
    """Publishes ours on change and from time to time; keeps the verdicts on machines of others."""

    def __init__(self, loop: PowerLoop, period_s: float, *, is_publishing: bool) -> None:
        self.verdicts: dict[str, Verdict] = {}
        self.received = 0
        self.refused: Counter[str] = Counter()
        self._loop = loop
        self._period_s = period_s
        self._is_publishing = is_publishing
        self._said: dict[str, tuple[Mapping[str, Any], float]] = {}

    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        """Return the topic filters; none while the states published there are our own."""
        if self._is_publishing:
            return ()
        return (("NICO/v1/machine/+/state", 0), ("cpc/+/NICO/v1/machine/+/state", 0))

    def take(self, topic: str, payload: bytes, now_s: float) -> list[Outgoing]:  # noqa: ARG002 - as every part
        """Take one message; what cannot be read is counted, and changes nothing."""
        reason = self._take(topic, payload)
        if reason:
            self.refused[reason] += 1
            if self.refused[reason] <= LOGGED:
                LOG.warning("refused a message on %s: %s", topic[:200], reason)
        else:
            self.received += 1
        return []

    def step(self, snapshot: PowerSnapshot, now_s: float) -> list[Outgoing]:
        """Return the states that changed or are due again."""
        if not self._is_publishing:
            return []
        fleet = self._loop.parts.fleet
        stale_s, at_s = fleet.site.policy.state_stale_s, self._loop.parts.monotonic_s()
        said = []
        for record in fleet.hosts.values():
            heard = is_fresh(record, at_s, stale_s)
            state = managed_state(record, is_heard=heard, is_led=bool(snapshot.hosts.is_led[record.index]), now_s=now_s)
            known, said_s = self._said.get(record.name, ({}, 0.0))
            if _kind(state) != _kind(known) or now_s - said_s >= self._period_s:
                self._said[record.name] = state, now_s
                said.append(state_message(record.name, state, now_s))
        return said

    def _take(self, topic: str, payload: bytes) -> str:
        levels = without_prefix(topic).split("/")
        if len(levels) != 5 or levels[:3] != ["NICO", "v1", "machine"] or levels[4] != "state" or not levels[3]:
            return "topic"
        try:
            plain = read_json(payload, MAX_BYTES)
        except WireError:
            return "json"
        managed = plain.get("managed_host_state") if isinstance(plain, dict) else None
        if not isinstance(managed, dict) or plain.get("machine_id", levels[3]) != levels[3]:
            return "schema"
        verdict = verdict_of(managed)
        if verdict is None:
            return "unknown state"
        if levels[3] not in self.verdicts and len(self.verdicts) >= MAX_MACHINES:
            return "size"
        self.verdicts[levels[3]] = verdict
        return ""


def verdict_of(managed: Mapping[str, Any]) -> Verdict | None:
    """Return what a state means for placement; None for one that is not known here."""
    state = managed.get("state")
    if state == "ready":
        return "free"
    if state == "forcedeletion":
        return "removed"
    if state == "assigned":
        instance = managed.get("instance_state")
        is_running = isinstance(instance, Mapping) and instance.get("state") == "ready"
        return "busy" if is_running else "unavailable"
    return "unavailable" if state in UNAVAILABLE else None


def managed_state(record: HostRecord, *, is_heard: bool, is_led: bool, now_s: float) -> dict[str, Any]:
    """Return one of our hosts in the contract's words."""
    state = record.state
    if state is None:
        return {"state": "hostinit", "machine_state": {"state": "waitingfordiscovery"}}
    if not is_heard or not state.governor_alive:
        why = "not heard" if not is_heard else "no governor answers"
        cause = {"unhandledstate": {"err": why}}
        details = {"cause": cause, "failed_at": show_time(now_s), "source": "statemachine"}
        return {"state": "failed", "details": details, "machine_id": record.name, "retry_count": 0}
    if state.is_gated or not is_led:
        return {"state": "ready"}
    return {"state": "assigned", "instance_state": {"state": "ready"}}


def state_message(host: str, state: Mapping[str, Any], now_s: float) -> Outgoing:
    """Return a state ready to publish."""
    plain = {"machine_id": host, "timestamp": show_time(now_s), "managed_host_state": dict(state)}
    return Outgoing(f"NICO/v1/machine/{host}/state", write_json(plain), 0)


def _kind(state: Mapping[str, Any]) -> tuple[object, object]:
    """Return what makes a state another one; when a failure was noticed does not."""
    instance = state.get("instance_state")
    return state.get("state"), None if instance is None else instance.get("state")
