"""The MQTT connection itself: TLS, password and last will from the configuration, and closing what will not answer."""

import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiomqtt

from flyball_agent.config import BrokerConfig
from flyball_wire.errors import BrokerError, ConfigError

MAX_INCOMING: Final = 256  # orders not yet handed on; beyond it the newest is dropped, and comes again
MAX_PENDING: Final = 64  # above it aiomqtt warns; the session keeps fewer in flight
_log = logging.getLogger("flyball_agent.mqtt")


class _Client(aiomqtt.Client):
    """aiomqtt's client, with its socket handed to the event loop by the loop's own thread alone.

    aiomqtt connects in another thread, which tells the loop by number which descriptor to watch. A broker that refuses
    at once (TLS) has it closed by then, and the number may belong to the governor's socket, which then went deaf.
    """

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
    config: BrokerConfig, identifier: str, will: aiomqtt.Will, secrets: "Secrets"
) -> AsyncIterator[aiomqtt.Client]:
    """Connect for the length of the block.

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
        max_queued_incoming_messages=MAX_INCOMING,
        tls_context=secrets.tls,
        logger=_log,
    )
    client.pending_calls_threshold = MAX_PENDING
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
