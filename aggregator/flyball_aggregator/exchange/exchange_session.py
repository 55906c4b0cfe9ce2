"""The session with the exchange's broker: a fresh token at each connect, subscriptions checked, publishes verified.

An exchange broker drops an unauthorised publish without a word. So we subscribe to our own topics and wait for each
event to come back; what does not is counted and named. A lower quality of service than asked is taken, and said.
"""

import asyncio
import json
import logging
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import aiomqtt

from flyball_aggregator.exchange.cloud_event import Outgoing
from flyball_aggregator.exchange.exchange_config import ExchangeBrokerConfig
from flyball_aggregator.exchange.json_text import read_json
from flyball_wire import mqtt
from flyball_wire.errors import BrokerError, ConfigError, WireError

LOG: Final = logging.getLogger(__name__)
QUEUED_MESSAGES: Final = 100_000
PENDING_PUBLISHES: Final = 200
ECHO_S: Final = 5.0  # an event that did not come back by then was dropped
TOKEN_TIMEOUT_S: Final = 10.0
MAX_TOKEN_BYTES: Final = 65_536
TOKEN_USER: Final = "oauthtoken"  # noqa: S105 - the exchange's name for a password that is an access token

MessageHandler = Callable[[str, bytes, float], None]


class ExchangeSession:
    """One lasting session.

    Args:
        config: Where the broker is, and how we prove ourselves.
        subscriptions: Topic filters with the quality of service asked.
        echoed: Filters of our own topics, whose events must come back; empty: nothing is verified.
        handler: Takes (topic, payload, monotonic seconds) of each message but our own echoes.
    """

    def __init__(
        self,
        config: ExchangeBrokerConfig,
        subscriptions: Sequence[tuple[str, int]],
        echoed: Sequence[str],
        handler: MessageHandler,
    ) -> None:
        self.connects = 0
        self.published = 0
        self.publish_failures = 0
        self.unconfirmed = 0
        self.last_error = ""
        self.granted: dict[str, int] = {}
        self._config = config
        self._subscriptions = [*subscriptions, *((name, 1) for name in echoed)]
        self._echoed = tuple(name.removesuffix("#") for name in echoed)
        self._handler = handler
        self._client: aiomqtt.Client | None = None
        self._waiting: deque[tuple[float, bytes, str]] = deque(maxlen=1000)

    @property
    def is_connected(self) -> bool:
        """Whether there is a session with everything subscribed."""
        return self._client is not None

    async def publish(self, message: Outgoing) -> bool:
        """Send one message; False when it did not reach the broker. Events of ours are awaited back."""
        client = self._client
        if client is None:
            return False
        if self._is_echoed(message.topic):
            self._waiting.append((time.monotonic(), message.payload, message.topic))
        try:
            topic = self._config.prefix + message.topic
            await client.publish(topic, message.payload, qos=message.qos, retain=message.is_retained)
        except (aiomqtt.MqttError, ValueError) as error:
            self.publish_failures += 1
            self.last_error = str(error)
            return False
        self.published += 1
        return True

    async def run(self) -> None:
        """Hold the session until cancelled.

        Raises:
            ConfigError: a file cannot be used; trying again would not help.
        """
        delay_s = self._config.reconnect_min_s
        while True:
            started_s = time.monotonic()
            try:
                await self._run_once()
            except (BrokerError, OSError) as error:
                self.last_error = str(error)
                LOG.warning("exchange broker %s:%d: %s", self._config.address, self._config.port, error)
            finally:
                self._client = None
                self._waiting.clear()
            if time.monotonic() - started_s > self._config.reconnect_max_s:
                delay_s = self._config.reconnect_min_s
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2.0, self._config.reconnect_max_s)

    def check_echoes(self, now_s: float) -> list[str]:
        """Return the topics of events that did not come back in time; each is counted once."""
        lost = []
        while self._waiting and now_s - self._waiting[0][0] > ECHO_S:
            lost.append(self._waiting.popleft()[2])
        if lost:
            self.unconfirmed += len(lost)
            self.last_error = f"{lost[0]}: published but not seen again; may we publish there?"
            LOG.warning("exchange: %s", self.last_error)
        return lost

    async def _run_once(self) -> None:
        config = self._config
        secrets = mqtt.Secrets(config)
        if config.token_url is not None:
            config = replace(config, username=config.username or TOKEN_USER)
            secrets.password = await asyncio.to_thread(fetch_token, config)
        async with mqtt.open_client(
            config, config.client_id, secrets, max_incoming=QUEUED_MESSAGES, max_pending=PENDING_PUBLISHES
        ) as client:
            await self._subscribe(client)
            self._client = client
            self.connects += 1
            LOG.info("connected to exchange broker %s:%d", config.address, config.port)
            async for message in client.messages:
                self._hear(str(message.topic).removeprefix(config.prefix), message.payload)

    async def _subscribe(self, client: aiomqtt.Client) -> None:
        asked = [(self._config.prefix + topic, qos) for topic, qos in self._subscriptions]
        codes = [code if isinstance(code, int) else code.value for code in await client.subscribe(asked)]
        self.granted = {topic: code for (topic, _qos), code in zip(self._subscriptions, codes, strict=True)}
        refused = [topic for topic, code in self.granted.items() if code >= mqtt.REFUSED]
        if refused:
            raise BrokerError(f"subscription {refused[0]!r} was refused: check the broker's access rules")
        for topic, qos in self._subscriptions:
            if self.granted[topic] < qos:
                LOG.info("exchange: %s was granted quality of service %d of %d", topic, self.granted[topic], qos)

    def _hear(self, topic: str, payload: bytes) -> None:
        if self._is_echoed(topic):
            self._waiting = deque((item for item in self._waiting if item[1] != payload), maxlen=1000)
            return
        self._handler(topic, payload, time.monotonic())

    def _is_echoed(self, topic: str) -> bool:
        return bool(self._echoed) and topic.startswith(self._echoed)


def fetch_token(config: ExchangeBrokerConfig) -> str:
    """Return an access token by OAuth2 client credentials.

    Raises:
        BrokerError: the token endpoint refused or cannot be reached. ConfigError: the secret cannot be read.
    """
    form = {"grant_type": "client_credentials", "client_id": config.token_client_id, "scope": config.token_scope}
    if config.token_secret_file is not None:
        try:
            form["client_secret"] = Path(config.token_secret_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"token_secret_file {config.token_secret_file}: {error.strerror}") from None
    url = str(config.token_url)
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"token_url {url!r}: expected an http or https address")
    body = urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.urlopen(url, body, TOKEN_TIMEOUT_S) as answer:  # noqa: S310 - checked above
            plain = read_json(answer.read(MAX_TOKEN_BYTES))
    except (urllib.error.URLError, OSError, WireError, json.JSONDecodeError) as error:
        raise BrokerError(f"token of {url}: {error}") from None
    token = plain.get("access_token") if isinstance(plain, dict) else None
    if not isinstance(token, str):
        raise BrokerError(f"token of {url}: no access_token in the answer")
    return token
