"""The building's power as the points tell it: what feeds what, watts of each meter and rack, and racks in trouble.

Watts of a rack are its own RackPower; where there is none, the meters right above it (a dual feed has two), never the
busway above those as well. Where both are known and differ, the larger counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from flyball_aggregator.exchange.bms_points import GOOD, POWER_UNITS, PointBook, PointId, PointMetadata

RackState = Literal["clear", "trouble", "unknown"]
LEAK_POINTS: Final = ("RackLeakDetect", "RackLiquidIsolationStatus", "RackElectricalIsolationStatus",
                      "RackLiquidIsolationRequest", "RackElectricalIsolationRequest")  # fmt: skip
DISAGREE_RATIO: Final = 0.1


@dataclass(slots=True)
class Wiring:
    """What the metadata says of power, by object id; made anew when metadata changes."""

    meters: dict[str, PointId] = field(default_factory=dict)  # ActivePower of each meter
    serves: dict[str, tuple[str, ...]] = field(default_factory=dict)
    racks: dict[str, list[PointId]] = field(default_factory=dict)  # RackPower of each rack
    trouble: dict[str, list[PointId]] = field(default_factory=dict)
    faults: dict[str, list[PointId]] = field(default_factory=dict)
    cooled_by: dict[str, list[str]] = field(default_factory=dict)  # CDUs of each rack
    frequency: list[PointId] = field(default_factory=list)

    def feeders(self, served: str) -> list[str]:
        """Return the meters right above a rack or meter."""
        return [meter for meter, below in self.serves.items() if served in below]

    def racks_below(self, cdu: str) -> list[str]:
        """Return the racks that a CDU cools."""
        return [rack for rack, units in self.cooled_by.items() if cdu in units]


def read_wiring(points: Iterable[PointMetadata]) -> Wiring:
    """Return the wiring of all metadata."""
    wiring = Wiring()
    for metadata in points:
        point, name = metadata.point, metadata.object_id
        if point.object_type == "PowerMeter":
            wiring.serves.setdefault(name, metadata.serves)
            if point.point_type == "ActivePower":
                wiring.meters[name] = point
            elif point.point_type == "Frequency":
                wiring.frequency.append(point)
        elif point.object_type == "Rack":
            _add_rack_point(wiring, metadata)
        elif point.object_type == "CDU":
            for rack in metadata.serves:
                units = wiring.cooled_by.setdefault(rack, [])
                if name not in units:
                    units.append(name)
    return wiring


def meter_power_w(book: PointBook, wiring: Wiring, meter: str, now_s: float) -> float | None:
    """Return the watts of a meter; None when they are unknown, not trusted or in no unit of power."""
    point = wiring.meters.get(meter)
    return None if point is None else power_w(book, point, now_s)


def rack_power_w(book: PointBook, wiring: Wiring, rack: str, now_s: float) -> float | None:
    """Return the watts of a rack, without counting anything twice; None when nothing trusted says."""
    own = [power_w(book, point, now_s) for point in wiring.racks.get(rack, ())]
    own_w = max((watts for watts in own if watts is not None), default=None)
    feeders = wiring.feeders(rack)
    fed = [meter_power_w(book, wiring, meter, now_s) for meter in feeders]
    known = [watts for watts in fed if watts is not None]
    fed_w = sum(known) if known and len(known) == len(feeders) else None
    if own_w is None or fed_w is None:
        return own_w if fed_w is None else fed_w
    if abs(own_w - fed_w) > DISAGREE_RATIO * max(own_w, fed_w):
        book.doubted[rack] += 1
        return max(own_w, fed_w)
    return own_w


def power_w(book: PointBook, point: PointId, now_s: float) -> float | None:
    """Return a power point in watts; None when it is not trusted, or its unit is no power."""
    value = book.trusted(point, now_s)
    factor = POWER_UNITS.get(book.metadata[point].unit) if point in book.metadata else None
    return None if value is None or factor is None or value < 0 else value * factor


def rack_state(book: PointBook, wiring: Wiring, rack: str, now_s: float) -> tuple[RackState, str]:
    """Return whether a rack leaks or is isolated, and by which point.

    Points that were never heard say nothing; one that says -1 or cannot be trusted is unknown, and a trouble once seen
    is not cleared by that: the last good word stays until a trusted 0.
    """
    unknown = ""
    for point in wiring.trouble.get(rack, ()):
        last = book.values.get(point)
        if last is None:
            continue
        is_good = last.quality == GOOD and last.value is not None
        if is_good and last.value is not None and last.value >= 1:
            return "trouble", point.point_type
        if not is_good or book.trusted(point, now_s) != 0:
            unknown = point.point_type
    faulty = [point for point in wiring.faults.get(rack, ()) if book.trusted(point, now_s) == 1]
    if faulty:
        return "unknown", faulty[0].point_type
    return ("unknown", unknown) if unknown else ("clear", "")


def _add_rack_point(wiring: Wiring, metadata: PointMetadata) -> None:
    rack, point = metadata.object_id, metadata.point
    if point.point_type == "RackPower":
        wiring.racks.setdefault(rack, []).append(point)
    elif point.point_type in LEAK_POINTS:
        wiring.trouble.setdefault(rack, []).append(point)
    elif point.point_type == "RackLeakSensorFault":
        wiring.faults.setdefault(rack, []).append(point)
