"""Limits in force on each row: the rating, and whatever operators or grid targets set below it.

Across sources, and against the rating, the lowest wins; of one source, the latest. A limit may come with a ramp, in
watts per second, along which it falls from where the row stood.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flyball_aggregator.power.rows import Row

RATING: Final = "rating"


@dataclass(frozen=True, slots=True)
class SetLimit:
    """A limit that a source put on a row."""

    limit_w: float
    started_s: float  # monotonic
    from_w: float  # where it starts to fall from
    ramp_w_per_s: float | None  # None: at once
    until_s: float | None  # None: until taken away

    def at(self, now_s: float) -> float:
        """Return the limit in force now."""
        if self.ramp_w_per_s is None or self.from_w <= self.limit_w:
            return self.limit_w
        return max(self.limit_w, self.from_w - self.ramp_w_per_s * (now_s - self.started_s))


class LimitBook:
    """All limits that stand beside the ratings."""

    def __init__(self, rows: tuple[Row, ...]) -> None:
        self._rows = {row.name: row for row in rows}
        self._set: dict[tuple[str, str], SetLimit] = {}
        self.on_change: list[Callable[[], None]] = []  # told of each limit set or taken away

    def put(
        self,
        row: str,
        source: str,
        limit_w: float,
        now_s: float,
        *,
        ramp_w_per_s: float | None = None,
        until_s: float | None = None,
    ) -> None:
        """Set what a source allows on a row; its former word is replaced.

        Raises:
            ValueError: no such row, or the limit or ramp is impossible.
        """
        if row not in self._rows:
            raise ValueError(f"row {row!r}: none of {', '.join(sorted(self._rows)[:20])}")
        if not math.isfinite(limit_w) or limit_w < 0:
            raise ValueError(f"row {row!r}: limit {limit_w} W, expected 0 or more")
        if ramp_w_per_s is not None and not 0 < ramp_w_per_s < math.inf:
            raise ValueError(f"row {row!r}: ramp {ramp_w_per_s} W/s, expected more than 0")
        from_w = self.in_force(row, now_s)[0]
        self._set[row, source] = SetLimit(limit_w, now_s, from_w, ramp_w_per_s, until_s)
        self._tell()

    def adopt(self, rows: tuple[Row, ...]) -> None:
        """Take the rows of a new site; a row that goes must carry no limit (`set_on`)."""
        self._rows = {row.name: row for row in rows}

    def set_on(self) -> tuple[tuple[str, str], ...]:
        """Return each row that a source has limited, with that source."""
        return tuple(self._set)

    def take_away(self, row: str, source: str) -> bool:
        """Drop what a source set on a row; False when it had set nothing."""
        is_taken = self._set.pop((row, source), None) is not None
        if is_taken:
            self._tell()
        return is_taken

    def _tell(self) -> None:
        for handler in self.on_change:
            handler()

    def in_force(self, row: str, now_s: float) -> tuple[float, str]:
        """Return the limit of a row now, in watts, and whose it is."""
        lowest = (self._rows[row].limit_w, RATING)
        for (name, source), item in list(self._set.items()):
            if item.until_s is not None and now_s >= item.until_s:
                del self._set[name, source]
            elif name == row and item.at(now_s) < lowest[0]:
                lowest = (item.at(now_s), source)
        return lowest
