"""Before it samples, find the rate worth sampling at: how often power really changes, and what a sweep costs.

Runs in the sampling thread of a reader child, each call named in the ring's heartbeat like any other.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from flyball_fast.errors import DeviceError
from flyball_fast.nvml_records import FAST_FIELDS, FieldReading, SweepPlan
from flyball_fast.ring import Ring
from flyball_governor.probe import ENOUGH_CHANGES, READ_EVERY_S, FieldReader, choose_rate_hz

SENSORS = ("power_instant_mw", "energy_mj")  # what the fast tier is for; throttle counters move only while it bites
SLOWEST_FAST_HZ = 1.0


def tuned_plan(
    reader: FieldReader,
    plan: SweepPlan,
    ring: Ring,
    *,
    is_stopped: Callable[[], bool],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> SweepPlan:
    """Return the plan with its fast tiers no faster than twice the refresh and than the lock budget pays.

    A GPU that is idle may show too few changes to tell a refresh; then that bound is left out.
    """
    gpu = next((gpu for gpu in range(reader.gpu_count) if gpu not in plan.left_out), None)
    if gpu is None:
        return plan
    try:
        seen = _watch(reader, gpu, plan.probe_s, ring, is_stopped, clock, sleep)
    except DeviceError:
        return plan
    if not seen:
        return plan
    refreshes = [refresh for place in _places() if (refresh := _refresh_s(seen, place)) is not None]
    latency_us = statistics.fmean(sum(max(0, reading.latency_us) for reading in readings) for _, readings in seen)
    refresh_s = min(refreshes, default=None)
    rate = choose_rate_hz(plan.rates_hz[0], refresh_s, latency_us * reader.gpu_count, plan.lock_budget_ratio)
    fast = max(rate, min(SLOWEST_FAST_HZ, plan.rates_hz[0]))
    return replace(plan, rates_hz=(fast, min(fast, plan.rates_hz[1]), *plan.rates_hz[2:]))


def _places() -> list[int]:
    return [place for place, name in enumerate(FAST_FIELDS) if name in SENSORS]


def _watch(  # noqa: PLR0917 - the caller's keywords
    reader: FieldReader,
    gpu: int,
    seconds: float,
    ring: Ring,
    is_stopped: Callable[[], bool],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> list[tuple[float, Sequence[FieldReading]]]:
    seen = []
    began_s = clock()
    while clock() - began_s < seconds and not is_stopped():
        ring.begin_call("field_values", gpu)
        try:
            readings = reader.read_fields(gpu, list(FAST_FIELDS.values()))
        finally:
            ring.end_call()
        seen.append((clock(), readings))
        sleep(READ_EVERY_S)
    return seen


def _refresh_s(seen: Sequence[tuple[float, Sequence[FieldReading]]], place: int) -> float | None:
    """Return the median time between changes of one field; None when it changed too seldom to tell."""
    changes = [
        at
        for (_, before), (at, after) in itertools.pairwise(seen)
        if before[place].value is not None and after[place].value not in (None, before[place].value)
    ]
    if len(changes) < ENOUGH_CHANGES:
        return None
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(changes))
