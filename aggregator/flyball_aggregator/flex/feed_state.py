"""How one feed stands towards its targets: ramps that begin and end, and whether it complies. Pure.

A ramp down has ended when both what is calculated and what is drawn are at or below the target; only then, and with
both still there, the feed complies. A ramp up ends when the restart ramp has let all power back.
"""

from dataclasses import dataclass, replace
from typing import Literal

from flyball_aggregator.flex.feeds import FeedReading

FeedEvent = Literal["target_set", "start_ramp_down", "end_ramp_down", "start_ramp_up", "end_ramp_up", "periodic"]
Phase = Literal["idle", "falling", "holding", "rising"]
SAME_W = 1e-3


@dataclass(frozen=True, slots=True)
class FeedState:
    """Where a feed stands.

    Attributes:
        target_w: The lowest target now; None without one.
        limit_w: What is in force for the grid's sake, below the target's end while power comes back; None: nothing.
        event_s: When the present power event began, Unix seconds; None when none is on.
        restart_from_w, restart_s: Where and when power began to come back.
    """

    phase: Phase = "idle"
    target_w: float | None = None
    limit_w: float | None = None
    event_s: float | None = None
    restart_from_w: float = 0.0
    restart_s: float = 0.0

    @property
    def is_in_flight(self) -> bool:
        """Whether it moves between power levels."""
        return self.phase in {"falling", "rising"}


def retarget(
    state: FeedState, target_w: float | None, reading: FeedReading | None, top_w: float, now_s: float
) -> tuple[FeedState, tuple[FeedEvent, ...]]:
    """Return the state once the lowest target is another one, and the ramp that begins with it.

    `reading` is the feed's last second, None before the first; `top_w` the level without any target.
    """
    if target_w == state.target_w:
        return state, ()
    before_w = top_w if state.limit_w is None else state.limit_w
    after_w = top_w if target_w is None else target_w
    if after_w < before_w - SAME_W:
        event_s = now_s if state.event_s is None else state.event_s
        fallen = replace(state, phase="falling", target_w=target_w, limit_w=target_w, event_s=event_s)
        return fallen, ("start_ramp_down",)
    if target_w is not None and after_w <= before_w + SAME_W:
        return replace(state, target_w=target_w, limit_w=target_w), ()
    drawn_w = before_w if reading is None or reading.drawn_w is None else min(before_w, reading.drawn_w)
    from_w = min(drawn_w, after_w)
    rising = replace(state, phase="rising", target_w=target_w, limit_w=from_w, restart_from_w=from_w, restart_s=now_s)
    return rising, ("start_ramp_up",)


def step_feed(
    state: FeedState, reading: FeedReading, top_w: float, restart_w_per_s: float | None, now_s: float
) -> tuple[FeedState, tuple[FeedEvent, ...]]:
    """Return the state after one second, and the ramp that ended in it."""
    if state.phase == "falling":
        if not is_compliant(state, reading):
            return state, ()
        return replace(state, phase="holding"), ("end_ramp_down",)
    if state.phase == "rising":
        goal_w = top_w if state.target_w is None else state.target_w
        gone_s = now_s - state.restart_s
        limit_w = goal_w if restart_w_per_s is None else state.restart_from_w + restart_w_per_s * gone_s
        if limit_w < goal_w:
            return replace(state, limit_w=limit_w), ()
        if state.target_w is None:
            return FeedState(), ("end_ramp_up",)
        return replace(state, phase="holding", limit_w=state.target_w), ("end_ramp_up",)
    return state, ()


def is_compliant(state: FeedState, reading: FeedReading | None) -> bool:
    """Return whether calculated and drawn load are within the target; true without a target, false when unknown."""
    if state.target_w is None:
        return True
    if reading is None or reading.drawn_w is None:
        return False
    return max(reading.calculated_w, reading.drawn_w) <= state.target_w + SAME_W
