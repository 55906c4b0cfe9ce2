"""Sample every GPU into the ring at fixed rates: the readable twin.

Ticks stand on an absolute grid, so a late one does not move the next. One batched field read per GPU on the fast tier,
and nothing that blocks. Before each driver call the heartbeat names it, so that another process can see a hang.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from flyball_fast._excursions_py import judge
from flyball_fast._nvml_py import Nvml
from flyball_fast.errors import DeviceError, DeviceLost
from flyball_fast.nvml_records import (
    FAST_FIELDS,
    MEMORY_CLOCK,
    POWER_AVERAGE,
    RARE_FIELDS,
    SECOND_FIELDS,
    SM_CLOCK,
    FieldReading,
    SweepPlan,
)
from flyball_fast.ring import Ring, Row
from flyball_fast.ring_layout import COLUMNS, LATENESS_BUCKETS, SLOW, TIERS

STOP_SLICE_NS = 100_000_000  # the stop flag is looked at this often, at least
SLOWEST_FAST_NS = 1_000_000_000  # no tier gives way below 1 Hz
CALM_RATIO, CALM_WINDOWS = 0.4, 6  # below this share of the budget for so many windows, a tier comes back
LOST_CODES = (1, 9, 15, 16, 28)  # UNINITIALIZED, DRIVER_NOT_LOADED, GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND
_BITS = tuple(8 * column.bytes - (column.format in "qb") for column in COLUMNS)

T = TypeVar("T")


def run(nvml: Nvml, ring: Ring, plan: SweepPlan, stop: Sequence[int], alarm_fd: int = -1) -> None:
    """Sample until `stop[0]` is not 0, at most 0.1 s later.

    Args:
        nvml: Open; lost GPUs and those the plan leaves out get rows in which nothing is known.
        ring: Of at least as many GPUs; this is its one writer.
        plan: Rates and budgets.
        stop: One byte that another thread may set.
        alarm_fd: An eventfd that is written when an excursion begins; -1 for none.

    Raises:
        ValueError: `stop` is empty, or the ring has fewer GPUs than the library.
    """
    if not len(stop):
        raise ValueError("stop: empty, expected one byte")
    if ring.gpu_count < nvml.gpu_count:
        raise ValueError(f"a ring of {ring.gpu_count} GPUs for {nvml.gpu_count}")
    _Sweep(nvml, ring, plan, alarm_fd).run(stop)


class _Sweep:
    def __init__(self, nvml: Nvml, ring: Ring, plan: SweepPlan, alarm_fd: int) -> None:
        self.nvml, self.ring, self.plan, self.alarm_fd = nvml, ring, plan, alarm_fd
        self.kept = [Row() for _ in range(nvml.gpu_count)]
        self.lost: set[int] = set()
        self.asked = plan.periods_ns()
        self.budget = _Budget(plan, self.asked)
        self.due = [0] * TIERS
        self.say_periods()
        for gpu in range(nvml.gpu_count):
            ring.set_state(gpu, "left_out" if gpu in plan.left_out else "unseen")

    def run(self, stop: Sequence[int]) -> None:
        now = time.monotonic_ns()
        cpu_before, cpu_base = time.thread_time_ns(), self.ring.word("cpu_ns")
        self.due = [now] * TIERS
        self.budget.begin(now)
        while not stop[0]:
            deadline = min(*self.due, time.monotonic_ns() + STOP_SLICE_NS)
            _sleep_until(deadline)
            now = time.monotonic_ns()
            self.ring.set_word("tick_ns", now)
            if deadline < min(self.due):
                continue
            self.note_lateness(now - deadline)
            for tier in range(TIERS):
                if self.due[tier] <= deadline:
                    self.tick(tier)
                    if tier == 0 and judge(self.ring, time.monotonic_ns()) and self.alarm_fd >= 0:
                        os.eventfd_write(self.alarm_fd, 1)
            self.ring.set_word("cpu_ns", cpu_base + time.thread_time_ns() - cpu_before)
            if self.budget.judge(time.monotonic_ns(), self.ring):
                self.say_periods()
        self.ring.end_call()

    def tick(self, tier: int) -> None:
        started = time.monotonic_ns()
        for gpu in range(self.nvml.gpu_count):
            self.read(tier, gpu)
        period = self.budget.period[tier]
        self.add("call_ns", time.monotonic_ns() - started, tier)
        self.add("ticks", 1, tier)
        self.due[tier] += period
        behind = time.monotonic_ns() - self.due[tier]
        if behind > 0:
            self.add("missed", behind // period + 1, tier)
            self.due[tier] += (behind // period + 1) * period

    def read(self, tier: int, gpu: int) -> None:
        if gpu in self.plan.left_out or gpu in self.lost:
            if tier == 0:
                self.ring.append(gpu, Row(t_mono_ns=time.monotonic_ns()))
            elif tier == 2:  # ask a lost one again; the next fast tick tells
                self.lost.discard(gpu)
            return
        (self.read_fast, self.read_clocks, self.read_second, self.read_rare)[tier](gpu)

    def read_fast(self, gpu: int) -> None:
        values: dict[str, int | None]
        try:
            readings = self.fields(gpu, list(FAST_FIELDS.values()))
            values = {name: reading.value for name, reading in zip(FAST_FIELDS, readings, strict=True)}
            self.ring.set_state(gpu, "ok")
        except DeviceError as error:
            values = {}
            if error.code in LOST_CODES:
                self.lose(gpu)
            elif error.code == 13:
                values = {"energy_mj": self.timed("field_values", gpu, lambda: self.nvml.energy_mj(gpu))}
        self.ring.append(gpu, _fitting(self.kept[gpu]._replace(t_mono_ns=time.monotonic_ns(), **values)))

    def lose(self, gpu: int) -> None:
        self.lost.add(gpu)
        self.kept[gpu] = Row()
        self.ring.set_state(gpu, "lost")
        self.ring.set_slow(gpu, dict.fromkeys(SLOW))

    def read_clocks(self, gpu: int) -> None:
        nvml = self.nvml
        try:
            self.kept[gpu] = Row(
                sm_clock_mhz=self.timed("clocks", gpu, lambda: nvml.clock_mhz(gpu, SM_CLOCK)),
                memory_clock_mhz=self.timed("clocks", gpu, lambda: nvml.clock_mhz(gpu, MEMORY_CLOCK)),
                utilization_percent=self.timed("utilization", gpu, lambda: nvml.utilization_percent(gpu)),
                temperature_c=self.timed("temperature", gpu, lambda: nvml.temperature_c(gpu)),
                reasons=_low_bits(self.timed("event_reasons", gpu, lambda: nvml.event_reasons(gpu))),
                power_average_mw=self.average(gpu),
            )
        except DeviceLost:
            self.kept[gpu] = Row()

    def average(self, gpu: int) -> int | None:
        try:
            value = self.fields(gpu, [POWER_AVERAGE])[0].value
        except DeviceLost:
            raise
        except DeviceError:
            value = None
        return value if value is not None else self.timed("field_values", gpu, lambda: self.nvml.power_usage_mw(gpu))

    def read_second(self, gpu: int) -> None:
        values = self.slow(gpu, SECOND_FIELDS)
        try:
            memory = self.timed("memory", gpu, lambda: self.nvml.memory_bytes(gpu))
        except DeviceError:
            memory = None
        used, total = memory or (None, None)
        values |= {"slow_ns": time.monotonic_ns(), "memory_used_bytes": used, "memory_total_bytes": total}
        self.ring.set_slow(gpu, values)

    def read_rare(self, gpu: int) -> None:
        self.ring.set_slow(gpu, self.slow(gpu, RARE_FIELDS))

    def slow(self, gpu: int, fields: dict[str, int]) -> dict[str, int | None]:
        try:
            readings = self.fields(gpu, list(fields.values()))
        except DeviceError:
            return dict.fromkeys(fields)
        return {name: reading.value for name, reading in zip(fields, readings, strict=True)}

    def fields(self, gpu: int, wanted: list[int]) -> list[FieldReading]:
        started = time.monotonic_ns()
        self.ring.begin_call("field_values", gpu)
        try:
            readings = self.nvml.read_fields(gpu, wanted)
        except DeviceError as error:
            self.ring.note_error(gpu, error.code or 0)
            raise
        finally:
            self.ring.end_call()
            self.add("calls", 1)
        told = sum(max(0, reading.latency_us) for reading in readings)
        self.add("latency_us" if told else "other_call_ns", told or time.monotonic_ns() - started)
        for reading in readings:
            if reading.code in LOST_CODES:
                self.ring.note_error(gpu, reading.code)
                raise DeviceLost(f"gpu {gpu}: field {reading.field}: lost", reading.code)
        return readings

    def timed(self, call: str, gpu: int, ask: Callable[[], T]) -> T:
        started = time.monotonic_ns()
        self.ring.begin_call(call, gpu)
        try:
            return ask()
        finally:
            self.ring.end_call()
            self.add("calls", 1)
            self.add("other_call_ns", time.monotonic_ns() - started)

    def note_lateness(self, late_ns: int) -> None:
        bucket = min(max(0, late_ns // 1000).bit_length(), LATENESS_BUCKETS - 1)
        self.add("lateness", 1, bucket)
        self.ring.set_word("lateness_max_ns", max(self.ring.word("lateness_max_ns"), late_ns))

    def add(self, name: str, amount: int, at: int = 0) -> None:
        self.ring.set_word(name, self.ring.word(name, at) + amount, at)

    def say_periods(self) -> None:
        for tier, period in enumerate(self.budget.period):
            self.ring.set_word("period_ns", period, tier)
        self.ring.set_word("budget_steps", self.budget.steps)


class _Budget:
    """Decides which tiers give way: over the budget in a window, the fastest one halves its rate."""

    def __init__(self, plan: SweepPlan, asked: Sequence[int]) -> None:
        self.plan = plan
        self.asked = list(asked)
        self.period = list(asked)
        self.steps = 0
        self.calm_windows = 0
        self.began_ns = self.cpu_ns = self.held_ns = 0

    def begin(self, now: int) -> None:
        self.began_ns = now

    def judge(self, now: int, ring: Ring) -> bool:
        """Close the window when it is over; say whether a period changed."""
        elapsed = now - self.began_ns
        if elapsed < self.plan.window_s * 1e9:
            return False
        cpu, held = ring.word("cpu_ns"), ring.word("latency_us") * 1000 + ring.word("other_call_ns")
        share = max(
            (cpu - self.cpu_ns) / elapsed / self.plan.cpu_budget_ratio,
            (held - self.held_ns) / elapsed / self.plan.lock_budget_ratio,
        )
        is_first = not self.cpu_ns and not self.held_ns  # it holds the start
        self.began_ns, self.cpu_ns, self.held_ns = now, cpu, held
        return not is_first and self.adjust(share)

    def adjust(self, share: float) -> bool:
        if share > 1:
            self.calm_windows = 0
            return self.give_way()
        if share >= CALM_RATIO or not self.steps:
            return False
        self.calm_windows = (self.calm_windows + 1) % CALM_WINDOWS
        return self.calm_windows == 0 and self.come_back()

    def give_way(self) -> bool:
        for tier in (0, 1):
            if self.period[tier] < SLOWEST_FAST_NS:
                self.period[tier] = min(self.period[tier] * 2, SLOWEST_FAST_NS)
                self.steps += 1
                return True
        return False

    def come_back(self) -> bool:
        for tier in (1, 0):
            if self.period[tier] > self.asked[tier]:
                self.period[tier] = max(self.period[tier] // 2, self.asked[tier])
                self.steps -= 1
                return True
        return False


def _sleep_until(deadline_ns: int) -> None:
    left = deadline_ns - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)


def _low_bits(reasons: int | None) -> int | None:
    return None if reasons is None else reasons & 0x7FFF


def _fitting(row: Row) -> Row:
    """Forget each value that its column cannot hold."""
    return Row(*[_fit(value, bits) for value, bits in zip(row, _BITS, strict=True)])


def _fit(value: int | None, bits: int) -> int | None:
    return value if value is not None and 0 <= value < 2**bits else None
