"""The lasting MQTT session for what thousands of hosts send every second: it only listens, and takes messages in place.

No queue stands between socket and handler, so a slow handler slows the broker down through TCP, and memory stays flat.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from flyball_aggregator.broker import MessageHandler
from flyball_aggregator.config import BrokerConfig
from flyball_aggregator.mqtt_stream import (
    CONNACK,
    DISCONNECT,
    PINGREQ,
    SUBACK,
    PacketStream,
    connect_packet,
    subscribe_packet,
)
from flyball_wire import mqtt
from flyball_wire.errors import BrokerError

# After each read the socket rests so long, and many messages come in one turn of the loop instead of one in each. With
# the 20 unacknowledged messages that mosquitto sends by default it still lets 10,000 messages a second through.
REST_S: Final = 0.002
LOG: Final = logging.getLogger(__name__)


class BulkSession:
    """Like `broker.BrokerSession` for those who only listen.

    Args:
        config: Where the broker is and how to come back; the client id gets `-bulk` behind it.
        subscriptions: Topic filters and their quality of service, 0 or 1.
        handler: Takes (topic, payload, monotonic seconds) of each message; it is acknowledged afterwards.
    """

    def __init__(self, config: BrokerConfig, subscriptions: Sequence[tuple[str, int]], handler: MessageHandler) -> None:
        self.connects = 0
        self.last_error = ""
        self.is_connected = False
        self._config = config
        self._subscriptions = list(subscriptions)
        self._handler = handler

    async def run(self) -> None:
        """Hold the session until cancelled.

        Raises:
            ConfigError: a TLS or password file cannot be used; trying again would not help.
        """
        delay_s = self._config.reconnect_min_s
        while True:
            started_s = time.monotonic()
            try:
                await self._run_once()
            except (BrokerError, OSError, TimeoutError) as error:
                self.last_error = str(error) or type(error).__name__
                LOG.warning("broker %s:%d: %s", self._config.address, self._config.port, self.last_error)
            finally:
                self.is_connected = False
            if time.monotonic() - started_s > self._config.reconnect_max_s:
                delay_s = self._config.reconnect_min_s
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2.0, self._config.reconnect_max_s)

    async def _run_once(self) -> None:
        config, loop, secrets = self._config, asyncio.get_running_loop(), mqtt.Secrets(self._config)
        async with asyncio.timeout(config.timeout_s):
            _, connection = await loop.create_connection(
                lambda: _Connection(self._take), config.address, config.port, ssl=secrets.tls
            )
        try:
            async with asyncio.timeout(config.timeout_s):
                await self._enter(connection, secrets.password)
            self.is_connected = True
            self.connects += 1
            LOG.info("listening to broker %s:%d", config.address, config.port)
            await connection.stay(config.keepalive_s)
        finally:
            connection.close()

    async def _enter(self, connection: "_Connection", password: str | None) -> None:
        config = self._config
        identifier = f"{config.client_id}-bulk"
        answer = await connection.ask(
            connect_packet(identifier, config.keepalive_s, config.username, password), CONNACK
        )
        if answer[1:2] != b"\x00":
            raise BrokerError(f"broker refused the session: code {answer[1:2].hex() or 'none'}")
        subscriptions = [(config.prefix + topic, qos) for topic, qos in self._subscriptions]
        granted = await connection.ask(subscribe_packet(subscriptions), SUBACK)
        mqtt.check_granted(subscriptions, list(granted[2:]))

    def _take(self, topic: str, payload: bytes, now_s: float) -> None:
        self._handler(topic.removeprefix(self._config.prefix), payload, now_s)


class _Connection(asyncio.Protocol):
    """One TCP connection."""

    def __init__(self, handler: MessageHandler) -> None:
        self._handler = handler
        self._stream = PacketStream(self._take, self._answer)
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._now_s = self._heard_s = time.monotonic()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what create_connection makes
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._now_s = self._heard_s = time.monotonic()
        try:
            acknowledgements = self._stream.feed(data)
        except BrokerError as error:
            self._lose(error)
            self.close()
            return
        if acknowledgements and self._transport is not None:
            self._transport.write(acknowledgements)
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(REST_S, self._go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(exc or BrokerError("broker closed the connection"))

    async def ask(self, packet: bytes, answer: int) -> bytes:
        """Send a packet and return the body of the one that answers it."""
        assert self._transport is not None  # noqa: S101 - made before anything is asked
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[answer] = future
        self._transport.write(packet)
        waits: set[asyncio.Future[Any]] = {future, self._lost}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            self._lost.result()
        return future.result()

    async def stay(self, keepalive_s: int) -> None:
        """Keep the connection alive until it is lost.

        Raises:
            BrokerError: it is lost, or the broker is silent for longer than the keep-alive.
        """
        while not self._lost.done():
            await asyncio.wait({self._lost}, timeout=keepalive_s / 2)
            if time.monotonic() - self._heard_s > 1.5 * keepalive_s:
                raise BrokerError(f"broker silent for more than {1.5 * keepalive_s:g} s")
            if self._transport is not None:
                self._transport.write(PINGREQ)
        self._lost.result()

    def close(self) -> None:
        """Say goodbye and close."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(DISCONNECT)
            self._transport.close()
        if self._lost.done() and not self._lost.cancelled():
            self._lost.exception()  # seen
        else:
            self._lost.cancel()

    def _go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _take(self, topic: str, payload: bytes) -> None:
        self._handler(topic, payload, self._now_s)

    def _answer(self, kind: int, body: bytes) -> None:
        future = self._answers.pop(kind, None)
        if future is not None and not future.done():
            future.set_result(body)

    def _lose(self, error: Exception) -> None:
        if not self._lost.done():
            self._lost.set_exception(error)
