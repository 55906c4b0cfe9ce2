"""Grid events on the published ensemble: the pure flex core in the loop, judged by the protocol's figures."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import numpy as np

from flyball_aggregator.flex.schedule import FlexState, GridEvent, step_flex
from flyball_aggregator.flex.shed import ShedClass, least_power_w, plan_shed
from flyball_aggregator.flex.tracking import TrackingState, step_tracking
from flyball_twin.flex_bound import shed_frontier
from flyball_twin.flex_ensemble import Ensemble, emerald_classes
from flyball_twin.power_curves import Floats

Case = Literal["single", "two_step", "back_to_back", "feed_loss", "telemetry_loss"]
CASES: tuple[Case, ...] = ("single", "two_step", "back_to_back", "feed_loss", "telemetry_loss")
LEAD_S = 600
AFTER_S = 3600
WITHIN_RATIO = 0.005  # compliance counts seconds up to this much above the target, of the baseline
RESPONSE_S = 10  # seconds in a row


@dataclass(frozen=True, slots=True)
class FlexQuestion:
    """A shed of the baseline, its deadline and length, and how quickly caps act."""

    shed: float = 0.25
    within_s: float = 30.0
    hold_s: int = 10_800
    case: Case = "single"
    delay_s: int = 1
    release_s: float = 300.0
    seeds: tuple[int, ...] = (0, 1, 2)
    after_s: int = AFTER_S


@dataclass(frozen=True, slots=True)
class FlexRun:
    """One seed: watts each second, the target (NaN outside), the baseline and the jobs' speed (seconds, jobs)."""

    power_w: Floats
    target_w: Floats
    baseline_w: float
    speed: Floats
    events: tuple[GridEvent, ...]
    is_lost: np.ndarray


def answer_flex(question: FlexQuestion) -> dict[str, Any]:
    """Return the figures, the worst of the seeds for compliance and times, the mean for performance."""
    classes = emerald_classes()
    figures = [_figures(question, classes, run_flex(question, seed)) for seed in question.seeds]
    worst: dict[str, Callable[[list[float]], float]] = {
        "response_s": max, "compliance": min, "tracking_rmse": max, "over_shed": max, "weighted_performance": fmean,
        "strictest_performance": min, "rebound": max, "release_ramp_w_per_s": max,
    }  # fmt: skip
    result: dict[str, Any] = {"case": question.case, "shed": question.shed, "seeds": list(question.seeds)}
    for name, joined in worst.items():
        values = [figure[name] for figure in figures]
        result[name] = None if None in values else round(float(joined(values)), 4)
    bound, kept = shed_frontier(classes, question.shed), shed_frontier(_with_keeps(classes), question.shed)
    result["bound_weighted_performance"] = None if bound is None else round(bound, 4)
    result["bound_with_strictest_kept"] = None if kept is None else round(kept, 4)
    full_w = sum(item.full_w for item in classes)
    result["deepest_shed_within_floors"] = round(1.0 - least_power_w(classes) / full_w, 4)
    result["performance"] = {
        item.name: round(fmean(float(figure["performance"][job]) for figure in figures), 4)
        for job, item in enumerate(classes)
    }
    return result


def _with_keeps(classes: tuple[ShedClass, ...]) -> tuple[ShedClass, ...]:
    return tuple(item if item.keep is None else replace(item, floor=item.keep) for item in classes)


def events_of(question: FlexQuestion) -> tuple[GridEvent, ...]:
    """Return the events of a case."""
    target, start, end = 1.0 - question.shed, float(LEAD_S), float(LEAD_S + question.hold_s)
    first = GridEvent(
        "event", start, end, target, within_s=question.within_s, release_s=question.release_s,
        tolerance_ratio=WITHIN_RATIO, rebound_ratio=1.003,
    )  # fmt: skip
    if question.case == "two_step":
        middle = start + question.hold_s // 2
        mild = replace(first, name="first step", target_ratio=1.0 - question.shed / 2.0)
        return (mild, replace(first, name="second step", start_s=middle))
    if question.case == "back_to_back":
        middle = start + question.hold_s // 2
        return (replace(first, end_s=middle), replace(first, name="next event", start_s=middle + 60.0))
    return (first,)


def run_flex(question: FlexQuestion, seed: int) -> FlexRun:
    """Run the flex core against the ensemble, second by second."""
    classes, ensemble, events = emerald_classes(), Ensemble(seed), events_of(question)
    end_s = int(max(event.end_s for event in events))
    seconds = end_s + question.after_s
    caps = ensemble.cap_of(plan_shed(classes, float("inf")))
    coming: deque[tuple[int, Floats]] = deque()
    flex, tracking = FlexState(), TrackingState()
    measured_w: float | None = None
    power, target, speed = np.empty(seconds), np.full(seconds, np.nan), np.empty((seconds, len(classes)))
    lost_at = LEAD_S + question.hold_s // 3
    for second in range(seconds):
        flex = step_flex(flex, events, float(second), measured_w)
        tracking = step_tracking(tracking, flex.limit_w, measured_w, sum(item.full_w for item in classes))
        is_cut = question.case == "feed_loss" and second >= lost_at
        if is_cut and second == lost_at:
            ensemble.lose([5])
            classes = _without(classes, 5)
        aim_w = float("inf") if tracking.aim_w is None else tracking.aim_w
        coming.append((second + question.delay_s, ensemble.cap_of(plan_shed(classes, aim_w))))
        while coming and coming[0][0] <= second:
            caps = coming.popleft()[1]
        if second == end_s:
            ensemble.start_backlog()
        seen = ensemble.step(caps)
        power[second], speed[second] = seen.total_w, seen.speed
        if flex.phase == "shedding" and flex.target_w is not None:
            target[second] = flex.target_w
        is_blind = question.case == "telemetry_loss" and 0 <= second - lost_at < min(600, question.hold_s // 3)
        measured_w = None if is_blind else seen.total_w
    is_lost = np.zeros(len(classes), bool)
    is_lost[5] = question.case == "feed_loss"
    return FlexRun(power, target, float(power[LEAD_S - 300 : LEAD_S].mean()), speed, events, is_lost)


def _without(classes: tuple[ShedClass, ...], job: int) -> tuple[ShedClass, ...]:
    """Return the classes with one job standing idle: nothing can be taken from it any more."""
    idle = replace(classes[job], floor=0.0, points=((60.0, 0.0), (60.001, 1e-9)), pause_w=None)
    return (*classes[:job], idle, *classes[job + 1 :])


def _figures(question: FlexQuestion, classes: tuple[ShedClass, ...], run: FlexRun) -> dict[str, Any]:
    power, target, base = run.power_w, run.target_w, run.baseline_w
    is_shed = ~np.isnan(target)
    starts = [int(event.start_s) for event in run.events]
    judged = is_shed.copy()
    for start in starts:
        judged[start : start + int(question.within_s)] = False
    error = (power[judged] - target[judged]) / base
    end_s = int(max(event.end_s for event in run.events))
    after = power[end_s:]
    weights = np.array([item.weight for item in classes])
    performance = run.speed[is_shed].mean(axis=0)
    running = ~run.is_lost
    strictest = min(range(len(classes)), key=lambda job: (classes[job].tier, job))
    responses = [_response_s(power, target, base, start) for start in starts]
    return {
        "response_s": None if None in responses else max(value for value in responses if value is not None),
        "compliance": float((error <= WITHIN_RATIO).mean()),
        "tracking_rmse": float(np.sqrt((error**2).mean())),
        "over_shed": float(max(0.0, -error.mean())),
        "weighted_performance": float((weights * performance)[running].sum() / weights[running].sum()),
        "strictest_performance": float(performance[strictest]),
        "rebound": float(after.max() / base),
        "release_ramp_w_per_s": float(np.diff(after).max()),
        "performance": performance,
    }


def _response_s(power: Floats, target: Floats, base: float, start: int) -> int | None:
    """Return the seconds to the first moment from which ten stay at or below the target and half a percent."""
    for second in range(start, len(power) - RESPONSE_S):
        part = slice(second, second + RESPONSE_S)
        if not np.isnan(target[part]).any() and (power[part] <= target[part] + WITHIN_RATIO * base).all():
            return second - start
    return None
