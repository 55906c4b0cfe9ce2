"""What we publish on the BMS bus: values of points whose metadata names us, our heartbeat, and the echo of the BMS's.

A topic is always derived from received metadata; when that names another, we stop. Nothing is ever published under
Metadata. Values go out on change and every 100 s while they stand, heartbeats every 10 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from flyball_aggregator.exchange.bms_points import PUBLISHER, REPUBLISH_S, PointBook, PointId, PointMetadata
from flyball_aggregator.exchange.cloud_event import Outgoing
from flyball_aggregator.exchange.json_text import write_json

HEARTBEAT_S: Final = 10.0
HEARTBEAT: Final = "HeartbeatTimestampIntegration"
ECHO: Final = "HeartbeatEchoIntegration"
SETPOINT: Final = "LiquidTemperatureSpRequest"
# Requests for warmer supply: one degree for each 4 degrees that the hottest chip has above the margin it should keep.
CHIP_LIMIT_C: Final = 83.0  # where H100 boards begin to slow down
KEPT_MARGIN_C: Final = 15.0
DEGREES_PER_MARGIN: Final = 0.25
MOST_SUPPLY_C: Final = 40.0
MOST_RAISE_C: Final = 5.0


@dataclass(slots=True)
class Request:
    """A value that we want at a point, and when it was last said."""

    value: float
    said_s: float | None = None
    said_value: float | None = None


class Writeback:
    """Everything that we publish there."""

    def __init__(self, integration: str, book: PointBook) -> None:
        self._integration = integration
        self._book = book
        self._requests: dict[PointId, Request] = {}
        self._beat_s: float | None = None
        self._echoed: dict[PointId, int] = {}

    def ours(self, point_type: str) -> Iterator[PointMetadata]:
        """Yield the points of a type whose metadata names us."""
        for metadata in self._book.metadata.values():
            if metadata.point.point_type == point_type and metadata.owner == self._integration:
                yield metadata

    def request(self, point: PointId, value: float) -> None:
        """Want a value at a point from now on; it goes out once metadata names us there."""
        self._requests.setdefault(point, Request(value)).value = value

    def withdraw(self, point: PointId, now_s: float) -> list[Outgoing]:
        """Want nothing there any more, and say so with a bad quality; the BMS reverts to its own."""
        request = self._requests.pop(point, None)
        metadata = self._book.metadata.get(point)
        if request is None or request.said_s is None or metadata is None or metadata.owner != self._integration:
            return []
        return [value_message(metadata, None, now_s, quality=0)]

    def step(self, now_s: float) -> list[Outgoing]:
        """Return what is due now."""
        said = [*self._due_requests(now_s), *self._due_echoes()]
        if self._beat_s is None or now_s - self._beat_s >= HEARTBEAT_S:
            beats = [value_message(item, int(now_s * 1000), now_s) for item in self.ours(HEARTBEAT)]
            self._beat_s = now_s if beats else self._beat_s
            said += beats
        return said

    def _due_requests(self, now_s: float) -> Iterator[Outgoing]:
        for point, request in self._requests.items():
            metadata = self._book.metadata.get(point)
            if metadata is None or metadata.owner != self._integration:
                request.said_s = None  # unrouted: said at once when it is ours again
                continue
            is_late = request.said_s is None or now_s - request.said_s >= REPUBLISH_S
            if is_late or request.said_value != request.value:
                request.said_s, request.said_value = now_s, request.value
                yield value_message(metadata, request.value, now_s)

    def _due_echoes(self) -> Iterator[Outgoing]:
        """Yield the BMS's own timestamps, bit for bit, where an echo of ours names that BMS."""
        for metadata in self.ours(ECHO):
            for beat in self._book.of_type("System", "HeartbeatTimestampBms"):
                value = self._book.values.get(beat.point)
                if beat.object_id != metadata.object_id or value is None or value.value is None:
                    continue
                stamp = int(value.value)
                if self._echoed.get(metadata.point) != stamp:
                    self._echoed[metadata.point] = stamp
                    yield value_message(metadata, stamp, value.heard_s)


def value_message(metadata: PointMetadata, value: float | None, now_s: float, quality: int = 1) -> Outgoing:
    """Return a value for the topic that the metadata gives: PUB becomes its integration, Metadata becomes Value."""
    head = f"BMS/v1/{PUBLISHER}/Metadata/"
    topic = f"BMS/v1/{metadata.owner}/Value/{metadata.topic.removeprefix(head)}"
    payload = write_json({"value": value, "timestamp": int(now_s * 1000), "quality": quality})
    return Outgoing(topic, payload, 0)


def supply_request_c(setpoint_c: float | None, hottest_c: float | None) -> float | None:
    """Return the supply temperature to ask of a CDU; None to ask for nothing.

    Both the set-point that the BMS holds now and the hottest chip that it cools must be known.
    """
    if setpoint_c is None or hottest_c is None:
        return None
    spare_c = CHIP_LIMIT_C - hottest_c - KEPT_MARGIN_C
    if spare_c <= 0:
        return None
    return round(min(setpoint_c + min(spare_c * DEGREES_PER_MARGIN, MOST_RAISE_C), MOST_SUPPLY_C), 1)
