"""The flex engine: targets of any protocol in, limits of rows and ramp events out. It knows no protocol and no clock.

`take` puts targets and moves the feeds at once; `step` is one second. What it asks for goes through one narrow
port: `limits` gives watts for each (row, source), and the edge puts those into the power loop's limit book.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from flyball_aggregator.flex.feed_state import FeedEvent, FeedState, is_compliant, retarget, step_feed
from flyball_aggregator.flex.feeds import Feed, FeedReading
from flyball_aggregator.flex.settlement import EventMeter
from flyball_aggregator.flex.targets import LoadTarget, TargetBook

RESTART: Final = "grid/restart"  # the source whose limit lets power back slowly
FRESH_START_S: Final = 300.0  # a looser target says when it starts, within this of now (lease-protocol.md 5)


class StaleLooseningError(ValueError):
    """A looser target that may be a replay: seen before, or without a start near now."""


@dataclass(frozen=True, slots=True)
class FeedChange:
    """Something that began or ended on a feed, and the target behind it where there is one."""

    feed: str
    event: FeedEvent
    target: LoadTarget | None


class FlexEngine:
    """All feeds of a site.

    Args:
        feeds: By tag.
        restart_w_per_s: How fast a feed's limit rises once a target ends; None: at once.
    """

    def __init__(self, feeds: Mapping[str, Feed], restart_w_per_s: float | None = None) -> None:
        self.feeds = dict(feeds)
        self.book = TargetBook()
        self.states = {tag: FeedState() for tag in feeds}
        self.readings: dict[str, FeedReading] = {}
        self.meter = EventMeter()
        self.on_change: list[Callable[[FeedChange, float], None]] = []
        self._restart_w_per_s = restart_w_per_s
        self._last: dict[str, LoadTarget | None] = {}

    def take(
        self, targets: Iterable[LoadTarget], now_s: float, *, is_seen: bool = False, has_start: bool = True
    ) -> list[FeedChange]:
        """Put targets of one message in their order; each later one wins over the earlier.

        A target that would loosen is left out when the message was seen before (`is_seen`), or its source did not say
        a start near now (`has_start`); one that tightens is always taken.

        Raises:
            StaleLooseningError: nothing was left to take.
            ValueError: a feed that is not here, or too many targets; nothing changed.
        """
        wanted = list(targets)
        for target in wanted:
            unknown = [tag for tag in target.feeds if tag not in self.feeds]
            if unknown:
                raise ValueError(f"feed {unknown[0]!r}: none of {', '.join(sorted(self.feeds))}")
        changes: list[FeedChange] = []
        self.book.check_room(wanted, now_s)
        for target in wanted:
            is_fresh = has_start and not is_seen and abs(target.start_s - now_s) <= FRESH_START_S
            if not is_fresh and self.book.loosens(target, now_s):
                continue
            self.book.put(target, now_s)
            self.meter.note_target(target, self.readings, now_s)
            changes += [FeedChange(tag, "target_set", target) for tag in target.feeds]
        if not changes:
            raise StaleLooseningError("a looser target needs an unseen message with a start within 5 minutes")
        changes += self.move(now_s)
        self._tell(changes, now_s)
        return changes

    def move(self, now_s: float) -> list[FeedChange]:
        """Follow the targets that begin or end now."""
        changes = []
        for tag, feed in self.feeds.items():
            lowest = self.book.lowest(tag, now_s)
            target_w = None if lowest is None else lowest.limit_w
            before = self._last.get(tag)
            state, events = retarget(self.states[tag], target_w, self.readings.get(tag), feed.default_w, now_s)
            self.states[tag], self._last[tag] = state, lowest
            changes += [FeedChange(tag, event, lowest if lowest is not None else before) for event in events]
        return changes

    def step(self, readings: Mapping[str, FeedReading], now_s: float) -> list[FeedChange]:
        """Take one second of every feed and return what began or ended."""
        self.readings = dict(readings)
        changes = []
        for tag, reading in readings.items():
            feed = self.feeds[tag]
            state, events = step_feed(self.states[tag], reading, feed.default_w, self._restart_w_per_s, now_s)
            self.states[tag] = state
            changes += [FeedChange(tag, event, self._last.get(tag)) for event in events]
            self.meter.note_second(tag, reading, state, now_s)
        self.book.prune(now_s)
        changes += self.move(now_s)
        self._tell(changes, now_s)
        return changes

    def limits(self, now_s: float) -> dict[tuple[str, str], float]:
        """Return what the grid allows now: watts by row and source."""
        wanted: dict[tuple[str, str], float] = {}
        for tag, feed in self.feeds.items():
            for source, watts in self.book.limits(tag, now_s).items():
                wanted[feed.row, f"grid/{source}"] = watts
            state = self.states[tag]
            if state.phase == "rising" and state.limit_w is not None:
                wanted[feed.row, RESTART] = state.limit_w
        return wanted

    def is_compliant(self, tag: str) -> bool:
        """Return whether a feed's calculated and drawn load are within its target."""
        return is_compliant(self.states[tag], self.readings.get(tag))

    def _tell(self, changes: Iterable[FeedChange], now_s: float) -> None:
        for change in changes:
            for handler in self.on_change:
                handler(change, now_s)
