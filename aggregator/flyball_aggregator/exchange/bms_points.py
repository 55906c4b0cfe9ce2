"""Points of the building: metadata before values, and which values may be trusted.

A value counts only with metadata, good quality, a number, an age within 2.5 republish periods and a BMS that is alive.
State is kept by tag path: two points of one object may have the same type. Strict on what we send, liberal on what we
hear: text quality and timestamps in seconds are of builds in the field.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from flyball_aggregator.exchange.check_message import check_message, without_prefix
from flyball_aggregator.exchange.json_text import read_json
from flyball_wire.errors import WireError

REPUBLISH_S: Final = 100.0  # unchanged values and metadata come again this often (BMS contract)
STALE_S: Final = 2.5 * REPUBLISH_S
HEARTBEAT_S: Final = 30.0  # three missed heartbeats of 10 s
GOOD: Final = 1
PUBLISHER: Final = "PUB"
MAX_POINTS: Final = 200_000
MAX_VALUE_BYTES: Final = 4096
MAX_METADATA_BYTES: Final = 65_536
AHEAD_MS: Final = 60_000  # a source clock may be ahead of ours by as much
POWER_UNITS: Final[Mapping[str, float]] = {"W": 1.0, "kW": 1e3, "MW": 1e6}
# What no sensor of that kind reads in a building, whatever its quality says: least and most in the unit named.
PLAUSIBLE: Final[Mapping[str, tuple[float, float]]] = {
    "C": (-40.0, 150.0),
    "W": (-1e6, 1e9),
    "kW": (-1e3, 1e6),
    "MW": (-1.0, 1e3),
    "A": (0.0, 1e5),
    "V": (0.0, 1e6),
    "Hz": (40.0, 70.0),
    "%": (-5.0, 110.0),
    "%RH": (0.0, 110.0),
}
OLDER_NAMES: Final = {"rackName": "rackLocationName", "rackId": "rackLocationId"}


class BmsRefusedError(WireError):
    """A BMS message is not taken; `reason` is what it is counted under."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PointId:
    """One point: what stands behind `Value/` or `Metadata/` in its topic."""

    object_type: str
    point_type: str
    tag: str


@dataclass(frozen=True, slots=True)
class PointMetadata:
    """What the BMS says a point is; `owner` is who publishes its values."""

    point: PointId
    topic: str
    plain: Mapping[str, Any]

    @property
    def owner(self) -> str:
        """The integration that publishes its value, else the BMS."""
        return str(self.plain.get("integration", PUBLISHER))

    @property
    def object_id(self) -> str:
        """The equipment or rack it belongs to."""
        named = (self.plain.get(name) for name in ("objectId", "rackLocationId", "associateId"))
        return next((str(name) for name in named if name is not None), "")

    @property
    def unit(self) -> str:
        """Its unit; empty for states."""
        return str(self.plain.get("engUnit", ""))

    @property
    def serves(self) -> tuple[str, ...]:
        """What it feeds or cools."""
        return tuple(self.plain.get("servesId", ()))

    @property
    def is_setpoint(self) -> bool:
        """Whether it is a wanted value, not a measured one."""
        return bool(self.plain.get("isSetpoint", False))


@dataclass(frozen=True, slots=True)
class PointValue:
    """The newest value of a point; `heard_s` on our clock."""

    value: float | None
    timestamp_ms: int
    quality: int
    publisher: str
    heard_s: float


class PointBook:
    """All points heard of."""

    def __init__(self) -> None:
        self.metadata: dict[PointId, PointMetadata] = {}
        self.values: dict[PointId, PointValue] = {}
        self.doubted: Counter[str] = Counter()
        self.version = 0  # rises with each change of metadata
        self.heartbeat_s: float | None = None
        self._payloads: dict[PointId, bytes] = {}

    def take(self, topic: str, payload: bytes, now_s: float) -> PointId:
        """Take metadata or a value and return its point.

        Raises:
            BmsRefusedError: it is neither, or malformed; nothing changed.
        """
        levels = without_prefix(topic).split("/", 6)
        if len(levels) != 7 or levels[0] != "BMS" or levels[1] != "v1" or not levels[6]:
            raise BmsRefusedError("topic", f"{topic[:200]!r} is of no point")
        _bms, _v1, publisher, kind, object_type, point_type, tag = levels
        point = PointId(object_type, point_type, tag)
        if kind == "Value":
            self._take_value(point, publisher, payload, now_s)
        elif kind == "Metadata" and publisher == PUBLISHER:
            self._take_metadata(point, without_prefix(topic), payload)
        else:
            raise BmsRefusedError("topic", f"{topic[:200]!r}: expected Value, or Metadata of {PUBLISHER}")
        return point

    def trusted(self, point: PointId, now_s: float) -> float | None:
        """Return a value that may be acted on; None when anything speaks against it."""
        return None if self.why_not(point, now_s) else self.values[point].value

    def why_not(self, point: PointId, now_s: float) -> str:
        """Return why a point's value may not be acted on; empty when it may."""
        metadata, value = self.metadata.get(point), self.values.get(point)
        if metadata is None:
            return "no metadata"
        if value is None:
            return "no value"
        if value.publisher != metadata.owner:
            return f"published by {value.publisher[:40]}, not by {metadata.owner[:40]}"
        if value.quality != GOOD:
            return f"quality {value.quality}"
        if value.value is None:
            return "no reading"
        if now_s - value.heard_s > STALE_S:
            return "stale"
        if self.is_bms_lost(now_s) and metadata.owner == PUBLISHER:
            return "the BMS is silent"
        return _implausible(metadata, value.value)

    def is_bms_lost(self, now_s: float) -> bool:
        """Return whether a BMS that once had a heartbeat has lost it."""
        return self.heartbeat_s is not None and now_s - self.heartbeat_s > HEARTBEAT_S

    def of_type(self, object_type: str, point_type: str) -> Iterator[PointMetadata]:
        """Yield the points of one kind."""
        for metadata in self.metadata.values():
            if metadata.point.object_type == object_type and metadata.point.point_type == point_type:
                yield metadata

    def _take_value(self, point: PointId, publisher: str, payload: bytes, now_s: float) -> None:
        value, timestamp_ms, quality = read_value(payload)
        if timestamp_ms > now_s * 1000 + AHEAD_MS:
            raise BmsRefusedError("time", f"{timestamp_ms} is in the future")
        known = self.values.get(point)
        if known is None and len(self.values) >= MAX_POINTS:
            raise BmsRefusedError("size", f"more than {MAX_POINTS} points")
        if known is not None and known.publisher == publisher and timestamp_ms < known.timestamp_ms:
            raise BmsRefusedError("older", f"{timestamp_ms} after {known.timestamp_ms}")
        self.values[point] = PointValue(value, timestamp_ms, quality, publisher, now_s)
        if point.point_type == "HeartbeatTimestampBms" and publisher == PUBLISHER:
            self.heartbeat_s = now_s

    def _take_metadata(self, point: PointId, topic: str, payload: bytes) -> None:
        if self._payloads.get(point) == payload:
            return
        plain = _read_metadata(topic, payload)
        if point not in self.metadata and len(self.metadata) >= MAX_POINTS:
            raise BmsRefusedError("size", f"more than {MAX_POINTS} points")
        self.metadata[point] = PointMetadata(point, topic, plain)
        self._payloads[point] = payload
        self.version += 1


def read_value(payload: bytes) -> tuple[float | None, int, int]:
    """Return value, timestamp in milliseconds and quality.

    Raises:
        BmsRefusedError: it is no value message, however liberally read.
    """
    try:
        plain = read_json(payload, MAX_VALUE_BYTES)
    except WireError as error:
        raise BmsRefusedError("json", str(error)) from None
    if not isinstance(plain, dict) or not plain.keys() >= {"value", "timestamp", "quality"}:
        raise BmsRefusedError("schema", "expected value, timestamp and quality")
    value, quality, timestamp = plain["value"], plain["quality"], plain["timestamp"]
    if isinstance(quality, str) and quality.lstrip("-").isdecimal() and len(quality) < 10:
        quality = int(quality)  # builds in the field send "1"
    if value is not None and not _is_number(value):
        raise BmsRefusedError("schema", f"value {str(value)[:40]!r}, expected a number or null")
    if not _is_number(quality) or not _is_number(timestamp) or not 0 <= timestamp < 1e14 or quality != int(quality):
        raise BmsRefusedError("schema", "expected an integer timestamp and quality")
    if timestamp < 1e10:
        timestamp *= 1000  # seconds, of older builds
    return None if value is None else float(value), int(timestamp), int(quality)


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e300
    )


def _read_metadata(topic: str, payload: bytes) -> Mapping[str, Any]:
    try:
        plain = read_json(payload, MAX_METADATA_BYTES)
    except WireError as error:
        raise BmsRefusedError("json", str(error)) from None
    if isinstance(plain, dict) and not OLDER_NAMES.keys().isdisjoint(plain):
        plain = {OLDER_NAMES.get(name, name): value for name, value in plain.items()}
    wrong = next((item for item in check_message(topic, plain) if item.severity == "error"), None)
    if wrong is not None:
        raise BmsRefusedError("schema", f"{wrong.field}: {wrong.text}")
    found: Mapping[str, Any] = plain
    return found


def _implausible(metadata: PointMetadata, value: float) -> str:
    bounds = PLAUSIBLE.get(metadata.unit)
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        return f"{value:g} {metadata.unit} is not to be believed"
    return ""
