"""The MQTT session of a host: birth, state, acks and events out, leases and commands in, for ever.

Two lanes go out. The quick lane (birth, ack, state) holds only the newest of each, because an older one says nothing
more; while the broker is away it waits in memory. The kept lane (events, state changes, telemetry) is in order and
goes to the spool while the broker is away or the spool is not yet empty. Only the session's own tasks wait for it.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import aiomqtt

from flyball_agent.backoff import Backoff
from flyball_agent.config import BrokerConfig
from flyball_agent.spool import Channel, Record, Spool
from flyball_agent.together import run_together
from flyball_wire.errors import BrokerError, ConfigError, WireError
from flyball_wire.mqtt import Secrets, open_client, subscribe
from flyball_wire.topics import ORDER_CHANNELS, HostChannel, OrderChannel, host_topic, parse_host_topic

QUICK_LANE: Final[tuple[Literal["birth", "ack", "state"], ...]] = ("birth", "ack", "state")  # in this order
IN_FLIGHT: Final = 16  # kept messages sent ahead of their acknowledgement
MAX_IN_MEMORY: Final = 256
MAX_ORDER_BYTES: Final = 16_384
GOODBYE_S: Final = 1.0  # a broker that does not answer must not hold up the end
STEADY_S: Final = 10.0  # a session this long was a success: the next back-off starts small
_log = logging.getLogger(__name__)

QuickChannel = Literal["birth", "ack", "state"]


@dataclass(slots=True)
class SessionCounters:
    """What went over the session, for the exporter."""

    connects_total: int = 0
    published_total: int = 0
    orders_total: int = 0
    bad_orders_total: int = 0
    lost_total: int = 0  # kept messages given up because there is no spool


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What a session asks of the rest of the agent.

    Attributes:
        make_birth: Returns the birth payload of the session id given.
        make_will: Returns the last will's payload of the session id given.
        handle_order: Takes a lease or command envelope as it came.
        handle_connected: Told True after the birth was acknowledged, False when the connection is gone.
    """

    make_birth: Callable[[str], bytes]
    make_will: Callable[[str], bytes]
    handle_order: Callable[[OrderChannel, bytes], None]
    handle_connected: Callable[[bool], None]


class Session:
    """One host's session; construction starts nothing, `run` never returns."""

    def __init__(
        self,
        site: str,
        host: str,
        config: BrokerConfig,
        parts: SessionParts,
        spool: Spool | None,
        *,
        backoff: Backoff,
        drain_per_s: float = 200.0,
    ) -> None:
        self.counters = SessionCounters()
        self.is_connected = False
        self.session_id = secrets.token_hex(16)
        self._site, self._host = site, host
        self._config = config
        self._parts = parts
        self._spool = spool
        self._backoff = backoff
        self._drain_per_s = drain_per_s
        self._sequences: dict[str, int] = {}
        self._newest: dict[QuickChannel, bytes] = {}
        self._kept: deque[Record] = deque()
        self._told = ""
        self._has_quick = asyncio.Event()
        self._has_kept = asyncio.Event()

    def next_sequence(self, channel: HostChannel) -> int:
        """Return the next number of a channel in this session, from 0."""
        number = self._sequences.get(channel, 0)
        self._sequences[channel] = number + 1
        return number

    def waiting(self) -> int:
        """Return how many kept messages were not acknowledged yet."""
        return len(self._kept) + (len(self._spool) if self._spool is not None else 0)

    def lost_total(self) -> int:
        """Return how many kept messages were given up for want of room, in memory or on disk."""
        spool = self._spool
        return self.counters.lost_total + (spool.dropped_total + spool.refused_total if spool is not None else 0)

    def publish_newest(self, channel: QuickChannel, payload: bytes) -> None:
        """Send this as soon as the broker is there, unless a newer one of its channel comes first."""
        self._newest[channel] = payload
        self._has_quick.set()

    def publish_kept(self, channel: Channel, payload: bytes) -> None:
        """Send this in order, over any outage that the spool can hold."""
        in_memory = self.is_connected and len(self._kept) < MAX_IN_MEMORY and not self._spooled()
        if in_memory or self._spool is None:
            self._kept.append(Record(0, channel, payload))
            while len(self._kept) > MAX_IN_MEMORY:
                self._kept.popleft()
                self.counters.lost_total += 1
        else:
            self._spool_all(self._spool)
            self._spool.append(channel, payload)
        self._has_kept.set()

    async def run(self) -> None:
        """Hold a session, and make another one when it is lost; only cancelling or a bad configuration ends it."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._run_once()
            except (BrokerError, ConfigError) as error:
                self._tell(str(error))
                _raise_if_cancelled()
            finally:
                self._leave()
            if loop.time() - began >= STEADY_S:
                self._backoff.succeeded()
            await asyncio.sleep(self._backoff.next_s())

    def _tell(self, problem: str) -> None:
        """Log why there is no session, once for each reason in a row."""
        level = logging.WARNING if problem != self._told else logging.DEBUG
        _log.log(level, "%s; next attempt follows", problem)
        self._told = problem

    async def _run_once(self) -> None:
        session_id = secrets.token_hex(16)
        will = aiomqtt.Will(self._topic("state"), self._parts.make_will(session_id), qos=1)
        identifier = f"flyball-{self._site}-{self._host}"
        async with open_client(self._config, identifier, Secrets(self._config), will=will) as client:
            await self._subscribe(client)
            await self._publish(client, "birth", self._parts.make_birth(session_id))
            self._enter(session_id)
            try:
                await run_together(
                    self._take_orders(client), self._send_quick(client), self._send_kept(client), self._repeat_birth()
                )
            except asyncio.CancelledError:
                await self._say_goodbye(client)
                raise

    def _enter(self, session_id: str) -> None:
        self.session_id = session_id
        self._sequences.clear()
        self._told = ""
        self.is_connected = True
        self.counters.connects_total += 1
        _log.info("session %s with broker %s:%d", self.session_id[:8], self._config.address, self._config.port)
        self._parts.handle_connected(True)
        self._has_quick.set()
        self._has_kept.set()

    def _leave(self) -> None:
        if not self.is_connected:
            return
        self.is_connected = False
        if self._spool is not None:
            self._spool_all(self._spool)
        self._parts.handle_connected(False)

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        """Subscribe to this host's orders at QoS 1."""
        await subscribe(client, [(self._topic("lease"), 1), (self._topic("command"), 1)])

    async def _take_orders(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self._handle_order(str(message.topic), message.payload)

    def _handle_order(self, topic: str, payload: object) -> None:
        """Hand one order on; a bad one is counted and dropped."""
        self.counters.orders_total += 1
        try:
            channel, envelope = self._checked_order(topic, payload)
        except WireError as error:
            self.counters.bad_orders_total += 1
            _log.warning("order dropped: %s", error)
            return
        self._parts.handle_order(channel, envelope)

    def _checked_order(self, topic: str, payload: object) -> tuple[OrderChannel, bytes]:
        site, host, channel = parse_host_topic(topic.removeprefix(self._prefix()))
        if (site, host) != (self._site, self._host) or channel not in ORDER_CHANNELS:
            raise WireError(f"topic {topic[:200]!r} is no order for this host")
        if not isinstance(payload, bytes | bytearray) or not 0 < len(payload) <= MAX_ORDER_BYTES:
            raise WireError(f"{channel}: expected 1 to {MAX_ORDER_BYTES} bytes")
        return ("lease" if channel == "lease" else "command"), bytes(payload)

    async def _send_quick(self, client: aiomqtt.Client) -> None:
        while True:
            await self._has_quick.wait()
            self._has_quick.clear()
            for channel in QUICK_LANE:
                await self._send_newest(client, channel)

    async def _send_newest(self, client: aiomqtt.Client, channel: QuickChannel) -> None:
        payload = self._newest.pop(channel, None)
        if payload is None:
            return
        try:
            await self._publish(client, channel, payload)
        except aiomqtt.MqttError:
            self._newest.setdefault(channel, payload)
            raise

    async def _send_kept(self, client: aiomqtt.Client) -> None:
        while True:
            await self._has_kept.wait()
            self._has_kept.clear()
            while await self._send_batch(client):
                pass

    async def _send_batch(self, client: aiomqtt.Client) -> int:
        """Send the oldest kept messages and forget them once the broker has them; returns how many."""
        spool = self._spool
        if spool is not None and len(spool):
            batch = spool.peek(IN_FLIGHT)
            await asyncio.gather(self._publish_all(client, batch), asyncio.sleep(len(batch) / self._drain_per_s))
            if batch:
                spool.deliver(batch[-1].number)
            return len(batch)
        batch = [self._kept[index] for index in range(min(IN_FLIGHT, len(self._kept)))]
        await self._publish_all(client, batch)
        for record in batch:
            if self._kept and self._kept[0] is record:
                self._kept.popleft()
        return len(batch)

    async def _publish_all(self, client: aiomqtt.Client, batch: list[Record]) -> None:
        await asyncio.gather(*(self._publish(client, record.channel, record.payload) for record in batch))

    async def _publish(self, client: aiomqtt.Client, channel: HostChannel, payload: bytes) -> None:
        await client.publish(self._topic(channel), payload, qos=1)
        self.counters.published_total += 1

    async def _repeat_birth(self) -> None:
        """Say again who this host is, for aggregators that started later: nothing relies on retained messages."""
        while True:
            await asyncio.sleep(self._config.birth_every_s)
            self.publish_newest("birth", self._parts.make_birth(self.session_id))

    async def _say_goodbye(self, client: aiomqtt.Client) -> None:
        """Publish what the last will would say: a clean end sends none."""
        try:
            await client.publish(self._topic("state"), self._parts.make_will(self.session_id), qos=1, timeout=GOODBYE_S)
        except aiomqtt.MqttError as error:
            _log.info("no goodbye: %s", error)

    def _spool_all(self, spool: Spool) -> None:
        """Move what is in memory to the spool, in order."""
        while self._kept:
            record = self._kept.popleft()
            spool.append(record.channel, record.payload)

    def _spooled(self) -> bool:
        return self._spool is not None and len(self._spool) > 0

    def _prefix(self) -> str:
        return self._config.prefix

    def _topic(self, channel: HostChannel | OrderChannel) -> str:
        return self._prefix() + host_topic(self._site, self._host, channel)


def _raise_if_cancelled() -> None:
    """Go on with a cancellation that an error on the way out has covered."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
