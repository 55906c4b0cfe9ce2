"""Grid events over time: what the site may draw now, from the baseline before it until the rebound is over.

Pure: `step_flex` takes a state and one second and returns the next. Overlapping events: the lowest target wins. The
baseline is metered before the first of a chain of events, so that an event right after another is not measured
against a site that is already shed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from flyball_aggregator.flex.ramps import falling_limit, rising_limit

FlexPhase = Literal["idle", "shedding", "releasing", "rebound"]
BASELINE_S: Final = 300  # mean of the five minutes before the event


@dataclass(frozen=True, slots=True)
class GridEvent:
    """A request to draw less; times on one monotonic clock.

    Attributes:
        start_s: When it begins. end_s: When the release may begin.
        target_ratio: Share of the baseline to stay at or below, 0..1; or target_w in watts, one of them.
        within_s: Deadline after the start. ramp_w_per_s: Fastest fall allowed; None: at once.
        release_s: Over how long power may come back. rebound_s: How long the baseline is kept as a limit afterwards.
        rebound_ratio: That limit over the baseline. tolerance_ratio: How far above the target, of the baseline, still
            counts as compliant.
    """

    name: str
    start_s: float
    end_s: float
    target_ratio: float | None = None
    target_w: float | None = None
    within_s: float = 30.0
    ramp_w_per_s: float | None = None
    release_s: float = 300.0
    rebound_s: float = 3600.0
    rebound_ratio: float = 1.0
    tolerance_ratio: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be followed.

        Raises:
            ValueError: naming the event and the mistake.
        """
        if self.end_s <= self.start_s:
            raise ValueError(f"event {self.name!r}: ends at {self.end_s:g} s, expected later than {self.start_s:g} s")
        if (self.target_ratio is None) == (self.target_w is None):
            raise ValueError(f"event {self.name!r}: expected one of target_ratio and target_w")
        if self.target_ratio is not None and not 0.0 <= self.target_ratio <= 1.0:
            raise ValueError(f"event {self.name!r}: target_ratio {self.target_ratio}, expected 0 to 1")
        if self.target_w is not None and self.target_w < 0.0:
            raise ValueError(f"event {self.name!r}: target_w {self.target_w}, expected at least 0")
        if self.ramp_w_per_s is not None and self.ramp_w_per_s <= 0.0:
            raise ValueError(f"event {self.name!r}: ramp_w_per_s {self.ramp_w_per_s}, expected more than 0")

    def wanted_w(self, baseline_w: float) -> float:
        """Return the target in watts."""
        return self.target_w if self.target_w is not None else (self.target_ratio or 0.0) * baseline_w


@dataclass(frozen=True, slots=True)
class FlexState:
    """Where the site stands.

    `limit_w` is what it may draw now, None when no event holds it. `recent_w` are up to BASELINE_S metered seconds.
    """

    recent_w: tuple[float, ...] = ()
    baseline_w: float | None = None
    phase: FlexPhase = "idle"
    limit_w: float | None = None
    target_w: float | None = None
    from_w: float = 0.0  # where the present ramp began
    since_s: float = 0.0
    released: GridEvent | None = None


def step_flex(state: FlexState, events: Sequence[GridEvent], now_s: float, measured_w: float | None) -> FlexState:
    """Return the state of this second.

    Args:
        state: Of the second before.
        events: All that are known, in any order.
        now_s: On the events' clock.
        measured_w: The meter's last second; None when it is not known.
    """
    if state.phase == "idle" and measured_w is not None:
        state = replace(state, recent_w=(*state.recent_w, measured_w)[-BASELINE_S:])
    active = [event for event in events if event.start_s <= now_s < event.end_s]
    if active:
        return _shed(state, active, now_s)
    if state.phase == "shedding":
        state = replace(state, phase="releasing", since_s=now_s, from_w=state.limit_w or 0.0, target_w=None)
    if state.phase in {"releasing", "rebound"}:
        return _release(state, now_s)
    return state


def _shed(state: FlexState, active: list[GridEvent], now_s: float) -> FlexState:
    baseline_w = state.baseline_w
    if baseline_w is None:
        if not state.recent_w:
            if all(event.target_w is None for event in active):
                return state  # a share of nothing known: say so by no limit
            baseline_w = max(event.target_w or 0.0 for event in active)
        else:
            baseline_w = sum(state.recent_w) / len(state.recent_w)
    event = min(active, key=lambda item: item.wanted_w(baseline_w))
    target_w = event.wanted_w(baseline_w)
    allowed_w = target_w + event.tolerance_ratio * baseline_w
    if state.phase != "shedding" or state.target_w != target_w:
        from_w = state.limit_w if state.limit_w is not None else baseline_w
        state = replace(state, phase="shedding", since_s=now_s, from_w=from_w)
    gone_s = now_s - state.since_s
    if allowed_w > state.from_w:  # a second step upwards is a release in little
        limit_w = rising_limit(state.from_w, allowed_w, gone_s, event.release_s)
    else:
        limit_w = falling_limit(state.from_w, allowed_w, gone_s, event.ramp_w_per_s)
    return replace(state, baseline_w=baseline_w, target_w=target_w, limit_w=limit_w, released=event)


def _release(state: FlexState, now_s: float) -> FlexState:
    """Let power come back slowly, then keep the baseline as a limit: work that waited must not rebound."""
    event, baseline_w = state.released, state.baseline_w
    if event is None or baseline_w is None:
        return FlexState(recent_w=state.recent_w)
    gone_s = now_s - state.since_s
    ceiling_w = max(event.rebound_ratio * baseline_w, state.from_w)  # never lower than what was allowed just now
    if gone_s < event.release_s:
        return replace(state, limit_w=rising_limit(state.from_w, ceiling_w, gone_s, event.release_s))
    if gone_s < event.release_s + event.rebound_s:
        return replace(state, phase="rebound", limit_w=ceiling_w)
    return FlexState(recent_w=())
