"""The aggregator's MQTT session: subscribe, hand every message to the intake, publish, and come back after a loss."""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import aiomqtt

from flyball_aggregator.config import BrokerConfig
from flyball_wire.errors import BrokerError, ConfigError

LOG: Final = logging.getLogger(__name__)
CALL_TIMEOUT_S: Final = 3.0  # one CONNECT, SUBSCRIBE or PUBLISH
QUEUED_MESSAGES: Final = 100_000  # a burst of a large fleet; beyond it the client drops, and states come again
REFUSED: Final = 0x80

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
            await client.publish(topic, payload, qos=qos, retain=False)
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
            except (aiomqtt.MqttError, BrokerError, OSError) as error:
                self.last_error = str(error)
                LOG.warning("broker %s:%d: %s", self._config.host, self._config.port, error)
            finally:
                self._client = None
            if time.monotonic() - started_s > self._config.reconnect_max_s:
                delay_s = self._config.reconnect_min_s
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2.0, self._config.reconnect_max_s)

    async def _run_once(self) -> None:
        async with self._connection() as client:
            granted = await client.subscribe(self._subscriptions)
            check_granted(self._subscriptions, [code if isinstance(code, int) else code.value for code in granted])
            self._client = client
            self.connects += 1
            LOG.info("connected to broker %s:%d", self._config.host, self._config.port)
            async for message in client.messages:
                if isinstance(message.payload, bytes):
                    self._handler(str(message.topic), message.payload, time.monotonic())

    def _connection(self) -> aiomqtt.Client:
        config = self._config
        return aiomqtt.Client(
            config.host,
            config.port,
            identifier=config.client_id,
            username=config.username,
            password=read_password(config),
            keepalive=config.keepalive_s,
            clean_session=True,
            timeout=CALL_TIMEOUT_S,
            max_queued_incoming_messages=QUEUED_MESSAGES,
            max_inflight_messages=1000,
            max_concurrent_outgoing_calls=1000,
            tls_context=build_tls(config),
        )


def check_granted(asked: Sequence[tuple[str, int]], granted: Sequence[int]) -> None:
    """Raise BrokerError when the broker refused a subscription or granted less than was asked."""
    for (topic, qos), code in zip(asked, granted, strict=True):
        if code >= REFUSED or code < qos:
            raise BrokerError(f"subscription {topic!r}: granted {code:#x}, expected quality of service {qos}")


def read_password(config: BrokerConfig) -> str | None:
    """Return the password in the configured file.

    Raises:
        ConfigError: the file cannot be read.
    """
    if config.password_file is None:
        return None
    try:
        return Path(config.password_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"broker.password_file {config.password_file}: {error.strerror}") from None


def build_tls(config: BrokerConfig) -> ssl.SSLContext | None:
    """Return the TLS settings; None where no CA is configured.

    Raises:
        ConfigError: a file cannot be read or is no certificate or key.
    """
    if config.ca_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        if config.certificate_file is not None:
            context.load_cert_chain(config.certificate_file, config.key_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(f"broker TLS files: {error}") from None
    return context


async def run_until(stop: asyncio.Event, session: BrokerSession) -> None:
    """Hold a session until told to stop."""
    task = asyncio.create_task(session.run(), name="broker-session")
    stopping = asyncio.create_task(stop.wait(), name="broker-stop")
    await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for item in (task, stopping):
        item.cancel()
    with suppress(asyncio.CancelledError):
        await task
