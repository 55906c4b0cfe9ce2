"""Load targets over time: per source and feed the latest target wins at each instant, across sources the lowest.

No clock inside: moments are Unix seconds that callers hand in. A target without a limit takes the source's limit away
for its interval. `put` says whether a target loosens anything, so that its caller can refuse a replay.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

MAX_TARGETS: Final = 512  # of one source; the oldest that no longer counts goes first


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """What one source allows on some feeds for a while.

    Attributes:
        feeds: Tags of the feeds it is for; never empty.
        end_s: None: until replaced.
        limit_w: None: the source allows everything.
        unit: In which the source spoke; for answers to it alone.
        trace_id: Of the message that brought it, 32 hexadecimal digits.
    """

    source: str
    feeds: tuple[str, ...]
    start_s: float
    end_s: float | None
    limit_w: float | None
    correlation_id: str
    best_effort: bool = False
    unit: str = "watt"
    trace_id: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            ValueError: naming the mistake.
        """
        if not self.feeds:
            raise ValueError("a target for no feed")
        if self.end_s is not None and not self.end_s > self.start_s:
            raise ValueError(f"target ends at {self.end_s:.0f}, expected later than its start {self.start_s:.0f}")
        if self.limit_w is not None and not 0 < self.limit_w < math.inf:
            raise ValueError(f"target of {self.limit_w} W, expected more than 0")

    def covers(self, feed: str, moment_s: float) -> bool:
        """Return whether it speaks of a feed at a moment."""
        return feed in self.feeds and self.start_s <= moment_s < self.ends_s

    @property
    def ends_s(self) -> float:
        """Its end; infinite when it is open."""
        return math.inf if self.end_s is None else self.end_s


class TooManyTargetsError(ValueError):
    """A source has more targets that still count than are kept."""


class TargetBook:
    """All targets that may still count, in the order they came."""

    def __init__(self) -> None:
        self._targets: dict[str, tuple[LoadTarget, ...]] = {}

    def put(self, target: LoadTarget, now_s: float) -> None:
        """Add a target; it wins over the source's earlier ones wherever they overlap.

        Raises:
            TooManyTargetsError: the source has as many as are kept.
        """
        self.check_room([target], now_s)
        self._targets[target.source] = (*self._counting(target.source, now_s), target)

    def check_room(self, targets: Sequence[LoadTarget], now_s: float) -> None:
        """Raise TooManyTargetsError when targets of one source do not all have room."""
        for source in {target.source for target in targets}:
            count = len(self._counting(source, now_s)) + len(targets)
            if count > MAX_TARGETS:
                raise TooManyTargetsError(f"source {source!r}: {count} targets, expected at most {MAX_TARGETS}")

    def loosens(self, target: LoadTarget, now_s: float) -> bool:
        """Return whether putting a target would allow more on any feed at any moment from now on."""
        own = self._targets.get(target.source, ())
        return any(self._raises(own, target, feed, now_s) for feed in target.feeds)

    def winner(self, source: str, feed: str, moment_s: float) -> LoadTarget | None:
        """Return the target of a source that counts on a feed at a moment; None when it has set none, or lifted it."""
        found = _winner(self._targets.get(source, ()), feed, moment_s)
        return None if found is None or found.limit_w is None else found

    def lowest(self, feed: str, moment_s: float) -> LoadTarget | None:
        """Return the target that holds a feed at a moment: the lowest of all sources."""
        found = [self.winner(source, feed, moment_s) for source in self._targets]
        return min((item for item in found if item is not None), key=lambda item: item.limit_w or 0.0, default=None)

    def limits(self, feed: str, moment_s: float) -> dict[str, float]:
        """Return what each source allows on a feed at a moment, watts."""
        found = {source: self.winner(source, feed, moment_s) for source in self._targets}
        return {name: item.limit_w for name, item in found.items() if item is not None and item.limit_w is not None}

    def listed(self, feed: str, now_s: float) -> list[tuple[LoadTarget, bool]]:
        """Return the targets of a feed that count now or will, with whether each counts now."""
        listed = []
        for targets in self._targets.values():
            for index, target in enumerate(targets):
                if target.limit_w is None or feed not in target.feeds:
                    continue
                later = [item for item in targets[index + 1 :] if feed in item.feeds]
                if _has_instant_left(target, later, now_s):
                    listed.append((target, _winner(targets, feed, now_s) is target))
        return listed

    def next_change_s(self, now_s: float) -> float | None:
        """Return the next moment at which a target starts or ends."""
        moments = [moment for targets in self._targets.values() for moment in _edges(targets) if moment > now_s]
        return min(moments, default=None)

    def prune(self, now_s: float) -> None:
        """Forget what no longer counts."""
        for source in list(self._targets):
            self._targets[source] = self._counting(source, now_s)
            if not self._targets[source]:
                del self._targets[source]

    def all(self) -> tuple[LoadTarget, ...]:
        """Return every target kept, in the order they came from each source."""
        return tuple(target for targets in self._targets.values() for target in targets)

    def _raises(self, own: tuple[LoadTarget, ...], target: LoadTarget, feed: str, now_s: float) -> bool:
        """Compare before and after at every moment where either may change."""
        after = (*own, target)
        first_s = max(now_s, target.start_s)
        moments = [first_s, *(edge for edge in _edges(after) if first_s < edge < target.ends_s)]
        return any(_allowed(after, feed, moment) > _allowed(own, feed, moment) for moment in moments)

    def _counting(self, source: str, now_s: float) -> tuple[LoadTarget, ...]:
        targets = self._targets.get(source, ())
        return tuple(
            target
            for index, target in enumerate(targets)
            if any(
                _has_instant_left(target, [item for item in targets[index + 1 :] if feed in item.feeds], now_s)
                for feed in target.feeds
            )
        )


def _winner(targets: tuple[LoadTarget, ...], feed: str, moment_s: float) -> LoadTarget | None:
    return next((target for target in reversed(targets) if target.covers(feed, moment_s)), None)


def _allowed(targets: tuple[LoadTarget, ...], feed: str, moment_s: float) -> float:
    found = _winner(targets, feed, moment_s)
    return math.inf if found is None or found.limit_w is None else found.limit_w


def _edges(targets: Iterable[LoadTarget]) -> list[float]:
    return [edge for target in targets for edge in (target.start_s, target.ends_s) if edge < math.inf]


def _has_instant_left(target: LoadTarget, later: list[LoadTarget], now_s: float) -> bool:
    """Return whether some moment from now on is the target's own: no later target lies over it."""
    at_s = max(now_s, target.start_s)
    while at_s < target.ends_s:
        over = [item.ends_s for item in later if item.start_s <= at_s < item.ends_s]
        if not over:
            return True
        at_s = max(over)
    return False
