"""The grid's brake: a signal, or a frequency that falls, cuts every feed at once; it ends by itself. Pure.

Frequency acts on the first reading below the threshold that is still plausible; it lets go after the frequency stayed
above the release threshold for a while.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from flyball_aggregator.flex.engine import FlexEngine
from flyball_aggregator.flex.feeds import Feed
from flyball_aggregator.flex.targets import LoadTarget

SOURCE: Final = "emergency"
PLAUSIBLE_RATIO: Final = 0.9  # of the nominal frequency; below it the meter, not the grid, is broken


@dataclass(frozen=True, slots=True)
class FrequencyRules:
    """When frequency brakes; the ratios are of the nominal frequency.

    Defaults: 49.8 Hz and 49.9 Hz at a nominal 50 Hz, which is where automatic reserves are fully used in Europe.
    """

    nominal_hz: float = 50.0
    brake_ratio: float = 0.996
    release_ratio: float = 0.998
    release_s: float = 60.0
    cut_ratio: float = 0.5  # what a feed may keep of the span between its minimum and its draw


@dataclass(frozen=True, slots=True)
class FrequencyState:
    """Whether the brake is on, and since when frequency is well again."""

    is_braking: bool = False
    well_since_s: float | None = None


def step_frequency(state: FrequencyState, hertz: float | None, now_s: float, rules: FrequencyRules) -> FrequencyState:
    """Return the state after one reading; an unknown or impossible one changes nothing."""
    if hertz is None or not PLAUSIBLE_RATIO * rules.nominal_hz <= hertz <= rules.nominal_hz / PLAUSIBLE_RATIO:
        return state
    if hertz < rules.brake_ratio * rules.nominal_hz:
        return FrequencyState(is_braking=True)
    if not state.is_braking:
        return state
    if hertz < rules.release_ratio * rules.nominal_hz:
        return FrequencyState(is_braking=True)
    well_s = now_s if state.well_since_s is None else state.well_since_s
    return (
        FrequencyState() if now_s - well_s >= rules.release_s else FrequencyState(is_braking=True, well_since_s=well_s)
    )


def brake_targets(
    engine: FlexEngine, ratio: float, now_s: float, seconds: float | None, source: str = SOURCE
) -> list[LoadTarget]:
    """Return targets that hold each feed at a share of the span between its minimum and its draw.

    Where the draw is unknown, or a target is in force already, the rating or that target stands for it.

    Raises:
        ValueError: the ratio is not within 0..1.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"ratio {ratio}, expected 0 to 1")
    end_s = None if seconds is None else now_s + seconds
    return [
        LoadTarget(
            source,
            (feed.tag,),
            now_s,
            end_s,
            max(feed.minimum_w + ratio * max(_top_w(engine, feed) - feed.minimum_w, 0.0), 1.0),
            str(uuid.uuid4()),
        )
        for feed in engine.feeds.values()
    ]


def release_targets(feeds: Iterable[Feed], now_s: float, source: str = SOURCE) -> list[LoadTarget]:
    """Return targets that let every feed go."""
    return [LoadTarget(source, (feed.tag,), now_s, None, None, str(uuid.uuid4())) for feed in feeds]


def _top_w(engine: FlexEngine, feed: Feed) -> float:
    reading, target_w = engine.readings.get(feed.tag), engine.states[feed.tag].target_w
    drawn_w = feed.maximum_w if reading is None or reading.drawn_w is None else reading.drawn_w
    return drawn_w if target_w is None else min(drawn_w, target_w)
