"""Take in what hosts and meters publish: one bad message is counted and named, and never stops the others.

Nothing here knows MQTT: a client hands (topic, payload) to `Intake.take`, so a faster client can stand in for it.
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from flyball_aggregator.fleet import Fleet
from flyball_wire.codec import M, decode
from flyball_wire.errors import WireError
from flyball_wire.messages import Birth, Event, State, Telemetry
from flyball_wire.topics import PREFIX, check_name, parse_host_topic

LOG: Final = logging.getLogger(__name__)
MAX_METER_BYTES: Final = 4096
MAX_METER_WATTS: Final = 1e10
LOGGED_ERRORS: Final = 20  # of each kind; the rest is only counted

EventHandler = Callable[[Event], None]
AckHandler = Callable[[str, bytes, float], None]  # host of the topic, signed envelope, monotonic seconds
TelemetryHandler = Callable[[Telemetry], None]
BirthHandler = Callable[[Birth], None]
MeterHandler = Callable[[str, float, float], None]  # meter, watts, monotonic seconds


class Intake:
    """Decode messages into the fleet and hand acks, events and telemetry on to whoever joined the lists."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.received: Counter[str] = Counter()  # by channel
        self.refused: Counter[str] = Counter()  # by channel
        self.last_refusal = ""
        self.on_ack: list[AckHandler] = []
        self.on_event: list[EventHandler] = []
        self.on_telemetry: list[TelemetryHandler] = []
        self.on_birth: list[BirthHandler] = []
        self.on_meter: list[MeterHandler] = []

    def subscriptions(self) -> tuple[tuple[str, int], ...]:
        """Return the topic filters with the quality of service each is asked at."""
        hosts = f"{PREFIX}/{self.fleet.site.name}/host/+"
        return (
            (f"{hosts}/birth", 1),
            (f"{hosts}/state", 1),
            (f"{hosts}/ack", 1),
            (f"{hosts}/event", 1),
            (f"{hosts}/telemetry", 1),
            (f"{PREFIX}/{self.fleet.site.name}/meter/+", 0),
        )

    def take(self, topic: str, payload: bytes, now_s: float) -> None:
        """Take one message, whatever it is.

        Args:
            topic: As received.
            payload: As received.
            now_s: This program's monotonic clock.
        """
        channel = topic.rsplit("/", 1)[-1][:32] if "/host/" in topic else "meter"
        try:
            self._dispatch(topic, payload, now_s)
        except WireError as error:
            self._refuse(channel, topic, error)
        except Exception:  # a handler's fault over one message must not stop the budget
            self.refused["handler"] += 1
            LOG.exception("a handler failed on a message of %s", topic[:200])
        else:
            self.received[channel] += 1

    def _dispatch(self, topic: str, payload: bytes, now_s: float) -> None:
        if topic.startswith(f"{PREFIX}/{self.fleet.site.name}/meter/"):
            self._take_meter(topic, payload, now_s)
            return
        _site, host, channel = parse_host_topic(topic)
        if channel == "ack":
            for take_ack in self.on_ack:
                take_ack(host, payload, now_s)
        elif channel == "state":
            self.fleet.take_state(_decode_for(State, host, payload), now_s)
        elif channel == "birth":
            self._take_birth(_decode_for(Birth, host, payload))
        elif channel == "event":
            self._take_event(_decode_for(Event, host, payload))
        elif channel == "telemetry":
            telemetry = _decode_for(Telemetry, host, payload)
            for handler in self.on_telemetry:
                handler(telemetry)
        else:
            raise WireError(f"topic {topic[:200]!r}: only this program writes {channel!r}")

    def _take_birth(self, birth: Birth) -> None:
        self.fleet.take_birth(birth)
        for handler in self.on_birth:
            handler(birth)

    def _take_event(self, event: Event) -> None:
        record = self.fleet.record_of(event.host)
        if record is not None:
            record.events += 1
        for handler in self.on_event:
            handler(event)

    def _take_meter(self, topic: str, payload: bytes, now_s: float) -> None:
        meter = check_name("meter", topic.rsplit("/", 1)[-1])
        power_w = read_meter(meter, payload)
        self.fleet.take_meter(meter, power_w, now_s)
        for handler in self.on_meter:
            handler(meter, power_w, now_s)

    def _refuse(self, channel: str, topic: str, error: WireError) -> None:
        self.refused[channel] += 1
        self.last_refusal = f"{topic[:200]}: {error}"
        if self.refused[channel] <= LOGGED_ERRORS:
            LOG.warning("refused a message on %s: %s", topic[:200], error)


def read_meter(meter: str, payload: bytes) -> float:
    """Return the watts in a meter's JSON message.

    Raises:
        WireError: oversized, not JSON, or `power_watts` is missing or no plausible number.
    """
    if len(payload) > MAX_METER_BYTES:
        raise WireError(f"meter {meter}: {len(payload)} bytes, expected at most {MAX_METER_BYTES}")
    try:
        plain: Any = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise WireError(f"meter {meter}: not JSON: {str(error)[:120]}") from None
    value = plain.get("power_watts") if isinstance(plain, dict) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    power_w = float(value) if is_number and value is not None else math.nan
    if not 0 <= power_w <= MAX_METER_WATTS:  # NaN is not
        raise WireError(f"meter {meter}: power_watts is {str(value)[:60]}, expected 0 to {MAX_METER_WATTS:g}")
    return power_w


def _decode_for(kind: type[M], host: str, payload: bytes) -> M:
    """Decode a message and refuse one that speaks for another host than its topic's."""
    message = decode(kind, payload)
    spoken_for = getattr(message, "host", None)
    if spoken_for != host:
        raise WireError(f"{kind.KIND}: host {spoken_for!r} on the topic of {host!r}")
    return message
