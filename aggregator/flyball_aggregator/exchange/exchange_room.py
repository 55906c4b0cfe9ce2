"""The exchange beside the power loop: what is heard becomes limits of rows, what was decided becomes messages.

The one way into the power loop is `apply_limits`: watts for each (row, source), put into its limit book.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from flyball_aggregator.exchange.bms_part import BmsPart
from flyball_aggregator.exchange.breach import ShedHint
from flyball_aggregator.exchange.cloud_event import Outgoing, show_time
from flyball_aggregator.exchange.contracts import load_contracts
from flyball_aggregator.exchange.exchange_config import ExchangeBrokerConfig, ExchangeConfig
from flyball_aggregator.exchange.exchange_session import ExchangeSession
from flyball_aggregator.exchange.grid_agent import GridAgent, GridSettings
from flyball_aggregator.exchange.host_states import HostStates
from flyball_aggregator.exchange.jws import read_keys, read_signer
from flyball_aggregator.exchange.seen_digests import SeenDigests, SeenOnDisk
from flyball_aggregator.flex.emergency import (
    FrequencyRules,
    FrequencyState,
    brake_targets,
    release_targets,
    step_frequency,
)
from flyball_aggregator.flex.engine import FeedChange, FlexEngine
from flyball_aggregator.flex.feeds import Feed, FeedReading, build_feeds, read_feed
from flyball_aggregator.flex.flex_api import feed_view
from flyball_aggregator.flex.targets import LoadTarget
from flyball_aggregator.flex.webhooks import Webhooks
from flyball_aggregator.power.loop import PowerLoop
from flyball_aggregator.power.snapshot import PowerSnapshot
from flyball_wire import mqtt

LOG: Final = logging.getLogger(__name__)
MILLI: Final = 1000.0
FREQUENCY: Final = "frequency"


class Part(Protocol):
    """One more protocol on the same session."""

    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        """Return topic filters with the quality of service asked."""
        ...

    def take(self, topic: str, payload: bytes, now_s: float) -> list[Outgoing]:
        """Take one message of its topics (Unix seconds); it never raises on what it hears."""
        ...

    def step(self, snapshot: PowerSnapshot, now_s: float) -> list[Outgoing]:
        """Take one second and return what is to be said."""
        ...


class ExchangeRoom:
    """Flex engine, grid agent and session of one site; `parts` are further protocols by the first level of a topic."""

    def __init__(
        self, config: ExchangeConfig, loop: PowerLoop, seen: SeenDigests, broker: ExchangeBrokerConfig
    ) -> None:
        site = loop.parts.fleet.site
        self.loop = loop
        self.engine = FlexEngine(
            build_feeds(site, loop.rows, loop.roots, loop.matrix), config.restart_ramp_watts_per_second
        )
        self.agent = GridAgent(read_settings(config), self.engine, seen)
        self.bms = BmsPart(config.integration, loop)
        self.host_states = HostStates(loop, config.host_states_period_s, is_publishing=config.publishes_host_states)
        self.parts: dict[str, Part] = {"BMS": self.bms, "NICO": self.host_states} if config.is_on else {}
        self._frequency = FrequencyState()
        self._frequency_rules = FrequencyRules(nominal_hz=config.nominal_hertz)
        self.handler_failures = 0
        self._config = config
        self._broker = broker
        self._put: dict[tuple[str, str], float] = {}
        self._tasks: set[asyncio.Task[bool]] = set()
        self.session: ExchangeSession | None = None
        self.webhooks = Webhooks()
        self.engine.on_change.append(self._tell_webhooks)

    @property
    def is_on(self) -> bool:
        """Whether it speaks to a broker; targets over HTTP need none."""
        return self._config.is_on

    def open(self) -> ExchangeSession:
        """Return the session over all parts, not yet running."""
        subscriptions = list(self.agent.subscriptions())
        for part in self.parts.values():
            subscriptions += part.subscriptions()
        own = f"{self.agent.source[2:]}/#"
        self.session = ExchangeSession(self._broker, subscriptions, [own], self.take)
        return self.session

    def take(self, topic: str, payload: bytes, _monotonic_s: float) -> None:
        """Take one message, whatever it is; a fault over one stops nothing."""
        now_s = self.loop.parts.unix_s()
        try:
            part = self.parts.get(_first_level(topic))
            said = self.agent.take(topic, payload, now_s) if part is None else part.take(topic, payload, now_s)
            self._watch_frequency(topic, now_s)
            self.apply_limits(now_s)
            self.publish(said)
        except Exception:
            self.handler_failures += 1
            LOG.exception("a handler failed on a message of %s", topic[:200])

    def set_targets(self, targets: Sequence[LoadTarget]) -> None:
        """Put targets that came over HTTP or another protocol.

        Raises:
            ValueError: as `FlexEngine.take`.
        """
        now_s = self.loop.parts.unix_s()
        said = self.agent.set_targets(targets, now_s)
        self.apply_limits(now_s)
        self.publish(said)

    def handle(self, snapshot: PowerSnapshot) -> None:
        """Take one second of the power loop; add it to the loop's `on_tick`."""
        now_s = snapshot.time_s
        readings = {tag: self._read(feed, snapshot) for tag, feed in self.engine.feeds.items()}
        hints = {tag: shed_hints(feed, snapshot, list(self.loop.parts.fleet.hosts)) for tag, feed in self._breached()}
        said = self.agent.step(readings, hints, now_s)
        self.apply_limits(now_s)
        for part in self.parts.values():
            said += part.step(snapshot, now_s)
        self.publish(said)
        if self.session is not None:
            self.session.check_echoes(time.monotonic())

    def view(self) -> dict[str, Any]:
        """Return how the exchange side is, for people."""
        now_s, session, agent = self.loop.parts.unix_s(), self.session, self.agent
        view: dict[str, Any] = {
            "is_on": self.is_on,
            "taken": dict(agent.taken),
            "refused": dict(agent.refused),
            "alarms": list(agent.alarms),
            "handler_failures": self.handler_failures,
            "bms": self.bms.view(now_s),
            "machines": dict(Counter(self.host_states.verdicts.values())),
            "is_braking": self._frequency.is_braking,
        }
        if session is not None:
            view["broker_connected"], view["broker_error"] = session.is_connected, session.last_error
            view["granted"], view["published"] = session.granted, session.published
            view["unconfirmed"] = session.unconfirmed
        return view

    def apply_limits(self, now_s: float) -> None:
        """Bring the limit book to what the flex engine asks for; the loop decides at once on what changed."""
        book, monotonic_s = self.loop.limits, self.loop.parts.monotonic_s()
        wanted = self.engine.limits(now_s)
        for key in self._put.keys() - wanted.keys():
            book.take_away(*key)
        for (row, source), watts in wanted.items():
            if self._put.get((row, source)) != watts:
                book.put(row, source, watts, monotonic_s)
        self._put = wanted

    def publish(self, said: Sequence[Outgoing]) -> None:
        """Send without waiting."""
        if self.session is None or not self.session.is_connected:
            return
        for message in said:
            self._start(self.session.publish(message))

    def _read(self, feed: Feed, snapshot: PowerSnapshot) -> FeedReading:
        parts = self.loop.parts
        stale_s, now_s = parts.fleet.site.policy.meter_stale_s, parts.monotonic_s()
        metered = [parts.fleet.meter_w(meter, now_s, stale_s) for meter in feed.meters]
        known = [watts for watts in metered if watts is not None]
        return read_feed(feed, snapshot, sum(known) if known and len(known) == len(metered) else None)

    def _watch_frequency(self, topic: str, now_s: float) -> None:
        """Brake on the first message that says so, and let go by the same way."""
        if not self._config.brakes_on_frequency or "/PowerMeter/Frequency/" not in topic:
            return
        known = [self.bms.book.trusted(point, now_s) for point in self.bms.wiring.frequency]
        lowest = min((hertz for hertz in known if hertz is not None), default=None)
        was_braking = self._frequency.is_braking
        self._frequency = step_frequency(self._frequency, lowest, now_s, self._frequency_rules)
        if self._frequency.is_braking and not was_braking:
            self.set_targets(brake_targets(self.engine, self._frequency_rules.cut_ratio, now_s, None, FREQUENCY))
        elif was_braking and not self._frequency.is_braking:
            self.set_targets(release_targets(self.engine.feeds.values(), now_s, FREQUENCY))

    def _breached(self) -> list[tuple[str, Feed]]:
        """Return the feeds whose alerts may be due: shed hints are made for those alone."""
        states = self.engine.states
        return [(tag, feed) for tag, feed in self.engine.feeds.items() if states[tag].target_w is not None]

    def _tell_webhooks(self, change: FeedChange, now_s: float) -> None:
        if self.webhooks.addresses:
            feed = feed_view(self.engine, change.feed, now_s)
            self.webhooks.send({"event": change.event, "time": show_time(now_s), **feed})

    def _start(self, sending: Coroutine[Any, Any, bool]) -> None:
        task = asyncio.get_running_loop().create_task(sending)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def build_room(
    config: ExchangeConfig, loop: PowerLoop, state_dir: Path, main_broker: ExchangeBrokerConfig
) -> ExchangeRoom:
    """Return the room of a configuration; opens its files, starts nothing.

    Raises:
        ConfigError: a key file cannot be used.
    """
    if config.is_on:
        load_contracts()
    seen = SeenOnDisk(state_dir / "exchange-seen.db")
    return ExchangeRoom(config, loop, seen, config.broker or main_broker)


def broker_like(config: mqtt.BrokerConfig, client_id: str) -> ExchangeBrokerConfig:
    """Return the exchange's session on a broker that another session is told of."""
    told = {item.name: getattr(config, item.name) for item in fields(mqtt.BrokerConfig)}
    return ExchangeBrokerConfig(**told, client_id=client_id)


def read_settings(config: ExchangeConfig) -> GridSettings:
    """Return the agent's settings with its key files read.

    Raises:
        ConfigError: a key file cannot be used.
    """
    signer = None
    if config.signing_key_file is not None:
        signer = read_signer(Path(config.signing_key_file), config.signing_key_id)
    return replace(
        GridSettings(),
        agent_id=config.agent_id,
        role=config.role,
        keys={} if config.keys_file is None else read_keys(Path(config.keys_file)),
        signer=signer,
        window_s=config.event_window_s,
        takes_plain=config.takes_plain,
        status_period_s=config.status_period_s,
    )


def shed_hints(feed: Feed, snapshot: PowerSnapshot, names: Sequence[str]) -> tuple[ShedHint, ...]:
    """Return which hosts of a feed to cap first: the least important tier first, in it the one that gives most."""
    hosts, matrix = snapshot.hosts, snapshot.matrix
    span = slice(int(matrix.start[feed.index]), int(matrix.start[feed.index + 1]))
    members = matrix.host[span]
    gives = (hosts.committed_milliwatts - hosts.minimum_milliwatts)[members]
    order = np.lexsort((-gives, -hosts.tier[members]))
    least_w = hosts.minimum_milliwatts / MILLI
    return tuple(ShedHint(names[index], float(least_w[index])) for index in members[order][:64] if hosts.is_led[index])


def _first_level(topic: str) -> str:
    levels = topic.split("/", 3)
    return levels[2] if len(levels) > 2 and levels[0] == "cpc" else levels[0]
