"""The MQTT connection of every program: TLS, password and last will, and closing what will not answer.

Plain MQTT 3.1.1 through aiomqtt (asyncio-mqtt under its present name).
"""

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import aiomqtt
from paho.mqtt.reasoncodes import ReasonCode

from flyball_wire.codec import Length, Range
from flyball_wire.errors import BrokerError, ConfigError

MAX_INCOMING: Final = 256  # messages not yet handed on; beyond it the newest is dropped, and comes again
MAX_PENDING: Final = 64  # above it aiomqtt warns; sessions keep fewer in flight
REFUSED: Final = 0x80  # SUBACK
_TOPIC_PREFIX: Final = re.compile(r"([A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,7})?")
_log = logging.getLogger("flyball.mqtt")

Seconds = Annotated[float, Range(0.01, 86_400.0)]


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """The MQTT broker and how we prove ourselves to it; with `ca_file` set the session is TLS."""

    address: Annotated[str, Length(253, least=1)] = "127.0.0.1"
    port: Annotated[int, Range(1, 65_535)] = 1883
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    topic_prefix: str = ""  # put before every topic, for brokers that bridge many sites: "dc1/power"
    keepalive_s: Annotated[int, Range(2, 600)] = 15
    timeout_s: Seconds = 5.0
    reconnect_min_s: Seconds = 0.5
    reconnect_max_s: Seconds = 10.0

    def __post_init__(self) -> None:
        """Refuse half of a certificate, a password without a name, and an inverted back-off."""
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("broker.certificate_file and broker.key_file: expected both or neither")
        if self.certificate_file is not None and self.ca_file is None:
            raise ValueError("broker.ca_file: expected with broker.certificate_file")
        if self.password_file is not None and self.username is None:
            raise ValueError("broker.username: expected with broker.password_file")
        if self.reconnect_max_s < self.reconnect_min_s:
            raise ValueError("broker.reconnect_max_s: expected at least broker.reconnect_min_s")
        if not _TOPIC_PREFIX.fullmatch(self.topic_prefix):
            shown = self.topic_prefix[:80]
            raise ValueError(
                f"broker.topic_prefix {shown!r}: expected names of letters, digits, '_' or '-' between '/'"
            )

    @property
    def prefix(self) -> str:
        """What stands before every topic, with its slash; empty without one."""
        return f"{self.topic_prefix}/" if self.topic_prefix else ""


class _Client(aiomqtt.Client):
    """aiomqtt's client, with its socket handed to the event loop by the loop's own thread alone.

    aiomqtt connects in another thread, which tells the loop by number which descriptor to watch. A broker that refuses
    at once (TLS) has it closed by then, and the number may belong to the governor's socket, which then went deaf.
    """

    hear: Callable[[str, bytes], None] | None = None  # takes each message at once, instead of the queue

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        """Hand a message on; the queue costs three times as much as everything else about it."""
        if self.hear is None:
            super()._on_message(client, userdata, message)
        else:
            self.hear(message.topic, message.payload)

    async def wait_lost(self) -> None:
        """Wait until the session ends.

        Raises:
            aiomqtt.MqttError: it was lost.
        """
        await asyncio.shield(self._disconnected)

    def _client_connect(self) -> None:
        """Connect in the executor's thread with nobody listening; the loop takes the socket over afterwards."""
        client = self._client
        listeners = client.on_socket_open, client.on_socket_register_write
        client.on_socket_open = client.on_socket_register_write = None
        try:
            super()._client_connect()
        finally:
            client.on_socket_open, client.on_socket_register_write = listeners
        self._loop.call_soon_threadsafe(self._watch_socket)

    def _watch_socket(self) -> None:
        sock = self._client.socket()
        if sock is None or sock.fileno() < 0:
            return
        self._on_socket_open(self._client, None, sock)
        if self._client.want_write():
            self._on_socket_register_write(self._client, None, sock)

    def abandon(self) -> None:
        """Close the socket of a connection attempt that was never answered, which aiomqtt leaves open."""
        if self._disconnected.done() and not self._disconnected.cancelled():
            self._disconnected.exception()  # seen; else asyncio reports it as forgotten
        with contextlib.suppress(OSError, ValueError):
            self._client.disconnect()


@contextlib.asynccontextmanager
async def open_client(
    config: BrokerConfig,
    identifier: str,
    secrets: "Secrets",
    *,
    will: aiomqtt.Will | None = None,
    max_incoming: int = MAX_INCOMING,
    max_pending: int = MAX_PENDING,
    hear: Callable[[str, bytes], None] | None = None,
) -> AsyncIterator[_Client]:
    """Connect for the length of the block.

    Args:
        config: Where and how.
        identifier: The MQTT client id; a second session with it ends the first.
        secrets: Password and TLS context, read for this connection.
        will: What the broker says when we are lost.
        max_incoming: Messages kept until the reader takes them; beyond it new ones are dropped.
        max_pending: Publishes that may be under way at once.
        hear: Takes (topic, payload) of each message at once and must not raise; `messages` is empty then.

    Raises:
        BrokerError: refused, unreachable or silent; the block's own aiomqtt errors become one too.
    """
    client = _Client(
        config.address,
        config.port,
        username=config.username,
        password=secrets.password,
        identifier=identifier,
        will=will,
        clean_session=True,
        timeout=config.timeout_s,
        keepalive=config.keepalive_s,
        max_queued_incoming_messages=max_incoming,
        max_inflight_messages=max_pending,
        max_concurrent_outgoing_calls=max_pending,
        tls_context=secrets.tls,
        logger=_log,
    )
    client.hear = hear
    client.pending_calls_threshold = max_pending
    try:
        async with client:
            yield client
    except (aiomqtt.MqttError, UnicodeError) as error:  # the latter: a host name that no resolver takes
        raise BrokerError(f"broker {config.address}:{config.port}: {error}") from None
    finally:
        client.abandon()


class Secrets:
    """What the configuration's files hold, read once per connection so that renewed ones are taken up."""

    def __init__(self, config: BrokerConfig) -> None:
        self.password = _read_password(config.password_file)
        self.tls = _tls_context(config)


def _read_password(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"broker.password_file {path}: {error}") from None


def _tls_context(config: BrokerConfig) -> ssl.SSLContext | None:
    if config.ca_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=config.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if config.certificate_file is not None:
            context.load_cert_chain(config.certificate_file, config.key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"broker.ca_file {config.ca_file}, certificate_file {config.certificate_file}, "
            f"key_file {config.key_file}: {error}"
        ) from None
    return context


async def subscribe(client: aiomqtt.Client, subscriptions: Sequence[tuple[str, int]]) -> None:
    """Subscribe to topic filters with their quality of service and check what the broker granted.

    Raises:
        BrokerError: it refused one, or granted a lower quality of service than was asked.
    """
    granted = await client.subscribe(list(subscriptions))
    levels = [code.value if isinstance(code, ReasonCode) else int(str(code)) for code in granted]
    check_granted(subscriptions, levels)


def check_granted(subscriptions: Sequence[tuple[str, int]], levels: Sequence[int]) -> None:
    """Compare what a SUBACK grants with what was asked.

    Raises:
        BrokerError: naming the topic filter.
    """
    for (topic, qos), level in zip(subscriptions, levels, strict=True):
        if level >= REFUSED or level < qos:
            said = "refused" if level >= REFUSED else f"granted QoS {level}"
            raise BrokerError(f"subscription {topic!r}: {said}, expected QoS {qos}: check the broker's access rules")
