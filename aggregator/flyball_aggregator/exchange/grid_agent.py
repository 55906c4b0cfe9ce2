"""The DSX Flex agent without its broker: messages and seconds in, messages out; it moves the flex engine.

Nothing here raises on a hostile message: each is counted under the reason why it was not taken, and changes nothing.
"""

import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flyball_aggregator.exchange.breach import (
    Breach,
    BreachRules,
    BreachState,
    ShedHint,
    alert_data,
    note_failure,
    step_breach,
)
from flyball_aggregator.exchange.cloud_event import (
    GridEvent,
    Outgoing,
    RefusedMessageError,
    build_event,
    open_event,
)
from flyball_aggregator.exchange.grid_messages import check_data, read_targets, status_data
from flyball_aggregator.exchange.jws import JwsSigner, TrustedKey
from flyball_aggregator.exchange.seen_digests import SeenDigests, SeenInMemory
from flyball_aggregator.flex.engine import FeedChange, FlexEngine, StaleLooseningError
from flyball_aggregator.flex.feed_state import FeedEvent
from flyball_aggregator.flex.feeds import FeedReading
from flyball_aggregator.flex.targets import LoadTarget

LOG: Final = logging.getLogger(__name__)
KNOWN_IDS: Final = 10_000  # redelivered at QoS 1 within minutes
LOGGED: Final = 5  # refusals of one reason
SETS_IN_A_MINUTE: Final = 60  # of one source
MINUTE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class GridSettings:
    """Who the agent is and what it believes.

    Attributes:
        role: Segment of its topics; `poweragent` for brokers of before DSX Flex.
        window_s: How far an envelope's time may be from now.
        takes_plain: For a bench without keys: data without a signature is taken.
    """

    agent_id: str = "flyball"
    role: str = "dsx-flex-agent"
    keys: Mapping[str, TrustedKey] = field(default_factory=dict)
    signer: JwsSigner | None = None
    window_s: float = 300.0
    takes_plain: bool = False
    status_period_s: float = 15.0
    breach: BreachRules = field(default_factory=BreachRules)


class GridAgent:
    """One agent; `take` for each message heard, `step` for each second."""

    def __init__(self, settings: GridSettings, engine: FlexEngine, seen: SeenDigests | None = None) -> None:
        self.refused: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.alarms: deque[str] = deque(maxlen=100)
        self.enforcements: deque[dict[str, Any]] = deque(maxlen=100)
        self._settings = settings
        self._engine = engine
        self._seen: SeenDigests = SeenInMemory() if seen is None else seen
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._sets: dict[str, deque[float]] = {}
        self._breaches = {tag: BreachState() for tag in engine.feeds}
        self._status_s: float | None = None

    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        """Return topic filters and the quality of service each is asked at."""
        filters = (("grid/v1/isv/+/loadtarget/set", 1), ("grid/v1/infra/+/powerbreach/enforcement", 2))
        return (*filters, *((f"cpc/+/{name}", qos) for name, qos in filters))

    @property
    def source(self) -> str:
        """Its name in the envelope."""
        return f"//grid/v1/{self._settings.role}/{self._settings.agent_id}"

    def take(self, topic: str, payload: bytes, now_s: float) -> list[Outgoing]:
        """Take one message of any origin and return what is to be said about it at once."""
        settings = self._settings
        try:
            event = open_event(
                topic, payload, settings.keys, now_s=now_s, window_s=settings.window_s, takes_plain=settings.takes_plain
            )
            self._know(event)
            return self._take_event(event, now_s)
        except RefusedMessageError as error:
            self.refused[error.reason] += 1
            if self.refused[error.reason] <= LOGGED:
                LOG.warning("refused a message on %s: %s", topic[:200], error)
        return []

    def step(
        self, readings: Mapping[str, FeedReading], hints: Mapping[str, Sequence[ShedHint]], now_s: float
    ) -> list[Outgoing]:
        """Take one second of every feed and return what is to be said: ramps, breaches, and a heartbeat."""
        changes = self._engine.step(readings, now_s)
        said = self._statuses(changes, now_s)
        for tag in self._engine.feeds:
            said += self._step_breach(tag, readings.get(tag), hints.get(tag, ()), now_s)
        is_due = self._status_s is None or now_s - self._status_s >= self._settings.status_period_s
        return [*said, self._status({}, None, now_s)] if is_due else said

    def breach_of(self, tag: str) -> Breach | None:
        """Return the breach that is on at a feed."""
        return self._breaches[tag].breach

    def set_targets(
        self, targets: Sequence[LoadTarget], now_s: float, *, is_seen: bool = False, has_start: bool = True
    ) -> list[Outgoing]:
        """Put targets that came by another way than the broker, and return the status that says so.

        Raises:
            ValueError: as `FlexEngine.take`.
        """
        changes = self._engine.take(targets, now_s, is_seen=is_seen, has_start=has_start)
        return self._statuses(changes, now_s)

    def _take_set(self, event: GridEvent, now_s: float) -> list[Outgoing]:
        self._limit_rate(event.source, now_s)
        targets, has_start = read_targets(event, self._engine.feeds, now_s)
        is_seen = event.signed is not None and not self._seen.add(event.signed)
        if is_seen:
            self.alarms.append(f"{event.source}: signed data came again as event {event.event_id}")
        try:
            said = self.set_targets(targets, now_s, is_seen=is_seen, has_start=has_start)
        except StaleLooseningError as error:
            raise RefusedMessageError("replay" if is_seen else "loosening", str(error)) from None
        except ValueError as error:
            raise RefusedMessageError("target", str(error)) from None
        self.taken["loadtarget"] += 1
        return said

    def _take_enforcement(self, event: GridEvent) -> None:
        check_data("PowerBreachEnforcementData", event.data)
        self.taken["enforcement"] += 1
        self.enforcements.append({"source": event.source, **event.data})
        tag = event.data["feed_tag"]
        if tag in self._breaches and event.data["action"] == "applied" and event.data["code"] != "success":
            self._breaches[tag] = note_failure(self._breaches[tag], event.data["breach_id"])

    def _take_event(self, event: GridEvent, now_s: float) -> list[Outgoing]:
        if event.type == "grid.loadtarget.set.v1":
            return self._take_set(event, now_s)
        if event.type == "grid.powerbreach.enforcement.v1":
            self._take_enforcement(event)
            return []
        raise RefusedMessageError("topic", f"{event.type} is not for this agent")

    def _know(self, event: GridEvent) -> None:
        """Remember an event's id; refuse it when it was there."""
        key = f"{event.source} {event.event_id}"
        if key in self._ids:
            raise RefusedMessageError("duplicate", f"event {event.event_id}")
        self._ids[key] = None
        if len(self._ids) > KNOWN_IDS:
            self._ids.popitem(last=False)

    def _limit_rate(self, source: str, now_s: float) -> None:
        times = self._sets.setdefault(source, deque(maxlen=SETS_IN_A_MINUTE))
        if len(times) == SETS_IN_A_MINUTE and now_s - times[0] < MINUTE_S:
            raise RefusedMessageError("rate", f"{source}: more than {SETS_IN_A_MINUTE} sets in a minute")
        times.append(now_s)

    def _statuses(self, changes: Sequence[FeedChange], now_s: float) -> list[Outgoing]:
        """Return a status for each change, in order; changes of one kind and target share one."""
        said = []
        rounds: list[tuple[FeedEvent, LoadTarget | None, set[str]]] = []
        for change in changes:
            if rounds and rounds[-1][0] == change.event and rounds[-1][1] == change.target:
                rounds[-1][2].add(change.feed)
            else:
                rounds.append((change.event, change.target, {change.feed}))
        for event, target, feeds in rounds:
            said.append(self._status(dict.fromkeys(feeds, event), target, now_s))
        return said

    def _status(self, events: Mapping[str, FeedEvent], target: LoadTarget | None, now_s: float) -> Outgoing:
        self._status_s = now_s
        return build_event(
            topic=f"{self.source[2:]}/powerstate/status",
            kind="grid.powerstate.status.v1",
            source=self.source,
            subject="powerstate",
            data=status_data(self._engine, events, now_s),
            now_s=now_s,
            signer=self._settings.signer,
            trace_id="" if target is None else target.trace_id,
            correlation_id="" if target is None else target.correlation_id,
        )

    def _step_breach(
        self, tag: str, reading: FeedReading | None, hints: Sequence[ShedHint], now_s: float
    ) -> list[Outgoing]:
        measured_w = None if reading is None else reading.drawn_w
        target = self._engine.book.lowest(tag, now_s)
        state, alert = step_breach(self._breaches[tag], target, measured_w, now_s, self._settings.breach)
        self._breaches[tag] = state
        if alert is None:
            return []
        return [
            build_event(
                topic=f"{self.source[2:]}/powerbreach",
                kind="grid.powerbreach.alert.v1",
                source=self.source,
                subject="powerbreach",
                data=alert_data(tag, alert, measured_w or 0.0, hints, now_s),
                now_s=now_s,
                signer=self._settings.signer,
                trace_id=alert.target.trace_id,
                correlation_id=alert.target.correlation_id,
                qos=2,
            )
        ]
