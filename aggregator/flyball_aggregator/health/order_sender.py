"""Signed orders about health to the agents, through their governors: they check the signature, and pass them on."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from flyball_aggregator.broker import Outlet
from flyball_aggregator.fleet import Fleet
from flyball_wire.messages import Command
from flyball_wire.signing import SigningKey, sign
from flyball_wire.topics import host_topic

TTL_MS: Final = 30_000  # by the stamp of the host's last report, which may be some seconds old


class OrderSender:
    """Sends orders under the leader's epoch; numbers are this program's own.

    Args:
        fleet: Whose reports tell incarnation and clock of each governor.
        key: The lease key.
        outlet: The broker.
        epoch: Of the present leader.
        publish_soon: Runs a publish without waiting for it.
    """

    def __init__(
        self,
        fleet: Fleet,
        key: SigningKey,
        outlet: Outlet,
        epoch: Callable[[], int],
        publish_soon: Callable[[Coroutine[Any, Any, bool]], None],
    ) -> None:
        self._fleet = fleet
        self._key = key
        self._outlet = outlet
        self._epoch = epoch
        self._publish_soon = publish_soon
        self._sent = 0

    def send(self, host: str, act: str, fields: Mapping[str, str]) -> bool:
        """Send one order; False when no report of the host is known, so that nobody could take it."""
        record = self._fleet.hosts.get(host)
        report = record.report if record is not None else None
        if report is None or not self._outlet.is_connected:
            return False
        self._sent += 1
        command = Command(
            host=host,
            incarnation=report.incarnation,
            correlation_id=f"health-{self._epoch()}-{self._sent}",
            epoch=self._epoch(),
            seq=self._sent,
            stamp_ms=report.stamp_ms,
            ttl_ms=TTL_MS,
            action="health",
            arguments=(("act", act), *((name, value[:1024]) for name, value in fields.items())),
        )
        topic = host_topic(self._fleet.site.name, host, "command")
        self._publish_soon(self._outlet.publish(topic, sign(command, self._key), qos=1))
        return True
