"""What an event is settled on: the baseline frozen at notice, metered energy in 5-minute intervals, and compliance.

The baseline is the mean draw of the hour before the notice, outside of events and their rebound; an event noticed
while another is on, or in its rebound, reuses that one's baseline. Only metered seconds count; the others are counted
as missing. Compliant: no second over the target for longer than 5 s in a row after the deadline, and no interval over.
"""

import csv
import io
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from flyball_aggregator.flex.feed_state import FeedState
from flyball_aggregator.flex.feeds import FeedReading
from flyball_aggregator.flex.targets import LoadTarget

BASELINE_S: Final = 3600
INTERVAL_S: Final = 300
DEADLINE_S: Final = 30.0  # from the start of an event to being under its target
MAX_RUN_S: Final = 5.0
REBOUND_S: Final = 1800.0
JOULES_PER_KWH: Final = 3.6e6
MAX_RECORDS: Final = 1000


@dataclass(slots=True)
class Interval:
    """Five minutes of a feed within an event."""

    start_s: float
    energy_j: float = 0.0
    metered_s: float = 0.0
    missing_s: float = 0.0
    target_energy_j: float = 0.0  # what the target allowed over the seconds that were judged
    judged_energy_j: float = 0.0

    @property
    def is_compliant(self) -> bool:
        """Whether the metered energy after the deadline is within the target."""
        return self.judged_energy_j <= self.target_energy_j * (1 + 1e-9)


@dataclass(slots=True)
class EventRecord:
    """One event on one feed."""

    correlation_id: str
    source: str
    feed: str
    noticed_s: float
    start_s: float
    end_s: float | None
    target_w: float
    baseline_w: float | None
    is_baseline_reused: bool
    intervals: list[Interval] = field(default_factory=list)
    over_s: float = 0.0
    longest_over_s: float = 0.0
    rebound_peak_w: float | None = None
    is_over: bool = False
    run_s: float = 0.0
    ended_s: float | None = None

    @property
    def is_compliant(self) -> bool:
        """Whether it was held: no long run over the target, no interval over it, and metered throughout."""
        has_gaps = any(interval.missing_s > MAX_RUN_S for interval in self.intervals)
        within = all(interval.is_compliant for interval in self.intervals)
        return within and self.longest_over_s <= MAX_RUN_S and not has_gaps

    def as_plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        plain = asdict(self)
        del plain["run_s"]
        plain["compliant"] = self.is_compliant
        plain["intervals"] = [
            {**asdict(item), "compliant": item.is_compliant, "energy_kwh": item.energy_j / JOULES_PER_KWH}
            for item in self.intervals
        ]
        return plain


class EventMeter:
    """Keeps baselines and the record of each event."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], EventRecord] = {}
        self._draws: dict[str, deque[float]] = {}
        self._quiet_from_s: dict[str, float] = {}  # from when a feed's draw counts towards a baseline again
        self._baseline_w: dict[str, float] = {}  # of the chain of events a feed is in

    def note_target(self, target: LoadTarget, readings: Mapping[str, FeedReading], now_s: float) -> None:
        """Freeze the baseline of each feed at the notice of an event."""
        if target.limit_w is None:
            return
        for tag in target.feeds:
            is_reused = self._is_in_chain(tag, now_s)
            if not is_reused:
                baseline_w = self._mean_w(tag, readings.get(tag))
                if baseline_w is not None:
                    self._baseline_w[tag] = baseline_w
                else:
                    self._baseline_w.pop(tag, None)
            baseline = self._baseline_w.get(tag)
            record = EventRecord(
                target.correlation_id, target.source, tag, now_s, target.start_s, target.end_s, target.limit_w,
                baseline, is_reused,
            )  # fmt: skip
            self.records[target.correlation_id, tag] = record
            self._quiet_from_s[tag] = max(self._quiet_from_s.get(tag, 0.0), target.ends_s + REBOUND_S)
        while len(self.records) > MAX_RECORDS:
            self.records.pop(next(iter(self.records)))

    def note_second(self, tag: str, reading: FeedReading, state: FeedState, now_s: float) -> None:
        """Add one second of a feed."""
        if not self._is_in_chain(tag, now_s) and reading.drawn_w is not None:
            self._draws.setdefault(tag, deque(maxlen=BASELINE_S)).append(reading.drawn_w)
        if state.target_w is None and self._quiet_from_s.get(tag, 0.0) > now_s + REBOUND_S:
            self._quiet_from_s[tag] = now_s + REBOUND_S  # lifted before its end
        for record in self.records.values():
            if record.feed == tag:
                _add_second(record, reading, state, now_s)

    def _is_in_chain(self, tag: str, now_s: float) -> bool:
        return now_s < self._quiet_from_s.get(tag, 0.0)

    def _mean_w(self, tag: str, reading: FeedReading | None) -> float | None:
        draws = self._draws.get(tag)
        if draws:
            return sum(draws) / len(draws)
        return None if reading is None else reading.drawn_w


def _add_second(record: EventRecord, reading: FeedReading, state: FeedState, now_s: float) -> None:
    if record.ended_s is not None:
        if reading.drawn_w is not None and now_s <= record.ended_s + REBOUND_S:
            record.rebound_peak_w = max(record.rebound_peak_w or 0.0, reading.drawn_w)
        return
    if now_s < record.start_s:
        return
    ends = record.end_s is not None and now_s >= record.end_s
    if ends or state.target_w is None or state.target_w > record.target_w:
        record.ended_s = now_s
        return
    number = int((now_s - record.start_s) // INTERVAL_S)
    while len(record.intervals) <= number:
        record.intervals.append(Interval(record.start_s + len(record.intervals) * INTERVAL_S))
    interval = record.intervals[number]
    if not reading.is_metered or reading.drawn_w is None:
        interval.missing_s += 1.0
        return
    interval.metered_s += 1.0
    interval.energy_j += reading.drawn_w
    if now_s - record.start_s >= DEADLINE_S:
        interval.judged_energy_j += reading.drawn_w
        interval.target_energy_j += record.target_w
        _judge_second(record, reading.drawn_w)


def _judge_second(record: EventRecord, drawn_w: float) -> None:
    if drawn_w > record.target_w:
        record.over_s += 1.0
        record.run_s += 1.0
        record.longest_over_s = max(record.longest_over_s, record.run_s)
    else:
        record.run_s = 0.0


def settlement_csv(records: list[EventRecord]) -> str:
    """Return one line for each 5-minute interval of each event."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([
        "correlation_id", "source", "feed", "interval_start_unix_s", "baseline_w", "target_w", "energy_kwh",
        "baseline_energy_kwh", "shed_kwh", "metered_s", "missing_s", "interval_compliant", "event_compliant",
    ])  # fmt: skip
    for record in records:
        for item in record.intervals:
            base_kwh = None if record.baseline_w is None else record.baseline_w * item.metered_s / JOULES_PER_KWH
            kwh = item.energy_j / JOULES_PER_KWH
            out.writerow([
                record.correlation_id, record.source, record.feed, item.start_s, record.baseline_w, record.target_w,
                round(kwh, 6), None if base_kwh is None else round(base_kwh, 6),
                None if base_kwh is None else round(base_kwh - kwh, 6), item.metered_s, item.missing_s,
                item.is_compliant, record.is_compliant,
            ])  # fmt: skip
    return text.getvalue()
