"""The aggregator's MQTT session: subscribe, hand every message to the intake, publish, and come back after a loss."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import aiomqtt

from flyball_aggregator.config import BrokerConfig
from flyball_wire import mqtt
from flyball_wire.errors import BrokerError

LOG: Final = logging.getLogger(__name__)
QUEUED_MESSAGES: Final = 100_000  # a burst of a large fleet; beyond it the client drops, and states come again
PENDING_PUBLISHES: Final = 1000  # leases of a tick and summaries, under way at once

MessageHandler = Callable[[str, bytes, float], None]


class Outlet(Protocol):
    """Where messages go out."""

    @property
    def is_connected(self) -> bool:
        """Whether there is a session with everything subscribed."""
        ...

    async def publish(self, topic: str, payload: bytes, qos: int = 0) -> bool:
        """Send one message; False when it did not reach the broker."""
        ...


class BrokerSession:
    """One lasting MQTT session.

    Args:
        config: Where the broker is and how to come back.
        subscriptions: Topic filters and their quality of service.
        handler: Takes (topic, payload, monotonic seconds) of each message.
    """

    def __init__(self, config: BrokerConfig, subscriptions: Sequence[tuple[str, int]], handler: MessageHandler) -> None:
        self.connects = 0
        self.publish_failures = 0
        self.last_error = ""
        self._config = config
        self._subscriptions = list(subscriptions)
        self._handler = handler
        self._client: aiomqtt.Client | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a session with everything subscribed."""
        return self._client is not None

    async def publish(self, topic: str, payload: bytes, qos: int = 0) -> bool:
        """Send one message without retaining it; False when it did not reach the broker."""
        client = self._client
        if client is None:
            return False
        try:
            await client.publish(self._config.prefix + topic, payload, qos=qos, retain=False)
        except (aiomqtt.MqttError, ValueError) as error:
            self.publish_failures += 1
            self.last_error = str(error)
            return False
        return True

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
            except (BrokerError, OSError) as error:
                self.last_error = str(error)
                LOG.warning("broker %s:%d: %s", self._config.address, self._config.port, error)
            finally:
                self._client = None
            if time.monotonic() - started_s > self._config.reconnect_max_s:
                delay_s = self._config.reconnect_min_s
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2.0, self._config.reconnect_max_s)

    async def _run_once(self) -> None:
        config = self._config
        async with mqtt.open_client(
            config,
            config.client_id,
            mqtt.Secrets(config),
            max_incoming=QUEUED_MESSAGES,
            max_pending=PENDING_PUBLISHES,
        ) as client:
            await mqtt.subscribe(client, [(config.prefix + topic, qos) for topic, qos in self._subscriptions])
            self._client = client
            self.connects += 1
            LOG.info("connected to broker %s:%d", config.address, config.port)
            async for message in client.messages:
                if isinstance(message.payload, bytes):
                    topic = str(message.topic).removeprefix(config.prefix)
                    self._handler(topic, message.payload, time.monotonic())


async def run_until(stop: asyncio.Event, session: BrokerSession) -> None:
    """Hold a session until told to stop."""
    task = asyncio.create_task(session.run(), name="broker-session")
    stopping = asyncio.create_task(stop.wait(), name="broker-stop")
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for item in (task, stopping):
        item.cancel()
    with suppress(asyncio.CancelledError):
        await task
