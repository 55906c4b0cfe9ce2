"""The last second of each GPU, from the rows that the governor's sampler wrote: what State messages carry.

Mean power comes from the energy counter between two of its changes, because it misses nothing between samples; where
there is none, from the mean of instant readings. What no row knows is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from flyball_fast.ring import Cursor, Ring
from flyball_fast.ring_layout import COLUMN_INDEX, COLUMNS

MILLI: Final = 1000.0
NANO: Final = 1_000_000_000
MEGA: Final = 1_000_000.0
WALK_ROWS: Final = 64  # how far back a value is looked for: slow columns may be unknown between their ticks
STALE_NS: Final = 3 * NANO  # an older row says nothing about now
SLOW_STALE_NS: Final = 6 * NANO  # the same for values of the 1 Hz tier
_READ: Final = (
    "t_mono_ns",
    "energy_mj",
    "power_cap_ns",
    "utilization_percent",
    "temperature_c",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "reasons",
)


@dataclass(frozen=True, slots=True)
class GpuWindow:
    """One GPU over one window, SI units; None is unknown."""

    power_w: float | None = None
    power_peak_w: float | None = None
    cap_w: float | None = None
    energy_j: float | None = None
    throttled_ratio: float | None = None
    utilisation_ratio: float | None = None
    temperature_celsius: float | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    memory_used_bytes: int | None = None
    clock_reasons: int | None = None  # nvmlClocksEventReasons, the lower 16 bits
    slow: Mapping[str, int | None] = field(default_factory=dict)  # of the slow tiers, named and in units as in the ring
    is_sampled: bool = False  # a row was written in the window
    state: str = "unseen"


@dataclass(frozen=True, slots=True)
class _Mark:
    """When the energy counter took a value, and which."""

    at_ns: int
    energy_mj: int


class StateWindow:
    """Sums up the rows written since the last call; it owns the ring it is given."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self._cursor = Cursor(ring)
        self._columns = [{name: ring.column(gpu, name) for name in _READ} for gpu in range(ring.gpu_count)]
        self._marks: list[_Mark | None] = [None] * ring.gpu_count

    @property
    def lost_rows(self) -> int:
        """Rows that were overwritten before they were summed up."""
        return self._cursor.lost

    def close(self) -> None:
        """Let go of the ring."""
        for columns in self._columns:
            for column in columns.values():
                column.release()
        self._columns = []
        self.ring.close()

    def take(self, now_ns: int) -> tuple[GpuWindow, ...]:
        """Return each GPU's window since the last call; `now_ns` is CLOCK_MONOTONIC."""
        return tuple(self._take_gpu(gpu, now_ns) for gpu in range(self.ring.gpu_count))

    def _take_gpu(self, gpu: int, now_ns: int) -> GpuWindow:
        span = self._cursor.take(gpu)
        state = self.ring.state(gpu)
        if span.stop == 0 or state in ("lost", "left_out"):
            self._marks[gpu] = None
            return GpuWindow(state=state)
        back = self._rows_back(gpu, span.stop)
        power_w, peak_w = self._power(gpu, span.first, span.stop, back)
        slow = self.slow(gpu, now_ns)
        window = GpuWindow(
            power_w=power_w,
            power_peak_w=peak_w,
            cap_w=_scaled(slow.get("limit_enforced_mw"), MILLI),
            energy_j=self._newest(gpu, "energy_mj", back, now_ns, MILLI),
            throttled_ratio=self._throttled(gpu, span.first, span.stop),
            utilisation_ratio=self._newest(gpu, "utilization_percent", back, now_ns, 100.0),
            temperature_celsius=self._newest(gpu, "temperature_c", back, now_ns, 1.0),
            sm_clock_hz=self._newest(gpu, "sm_clock_mhz", back, now_ns, 1 / MEGA),
            memory_clock_hz=self._newest(gpu, "memory_clock_mhz", back, now_ns, 1 / MEGA),
            memory_used_bytes=slow.get("memory_used_bytes"),
            slow=slow,
            clock_reasons=_whole(self._newest(gpu, "reasons", back, now_ns, 1.0)),
            is_sampled=span.stop > span.first,
            state=state,
        )
        is_intact = self.ring.is_intact(gpu, max(0, span.stop - WALK_ROWS))
        return window if is_intact else GpuWindow(state=state, is_sampled=True)

    def _value(self, gpu: int, name: str, index: int) -> int | None:
        value = self._columns[gpu][name][index % self.ring.capacity]
        return None if value == COLUMNS[COLUMN_INDEX[name]].unknown else value

    def _rows_back(self, gpu: int, stop: int) -> range:
        """Return the newest rows below `stop`, newest first."""
        return range(stop - 1, max(self.ring.oldest(gpu), stop - WALK_ROWS) - 1, -1)

    def _newest(self, gpu: int, name: str, back: range, now_ns: int, divisor: float) -> float | None:
        """Return the newest known value of a column in SI units, unless it is stale."""
        for index in back:
            value = self._value(gpu, name, index)
            if value is not None:
                at_ns = self._value(gpu, "t_mono_ns", index)
                return None if at_ns is None or now_ns - at_ns > STALE_NS else value / divisor
        return None

    def slow(self, gpu: int, now_ns: int) -> dict[str, int | None]:
        """Return the values of the slow tiers by their names in the ring; none when they are stale."""
        values = self.ring.slow(gpu)
        at_ns = values["slow_ns"]
        return {} if at_ns is None or now_ns - at_ns > SLOW_STALE_NS else values

    def _power(self, gpu: int, first: int, stop: int, back: range) -> tuple[float | None, float | None]:
        """Return mean and peak power of rows first..stop-1, watts."""
        summary = self.ring.summary(gpu, first, stop) if stop > first else None
        if summary is None:
            return None, None
        before, mark = self._marks[gpu], self._last_change(gpu, back)
        self._marks[gpu] = mark
        mean_w = _mean_w(before, mark)
        if mean_w is None and summary.power_mean_mw is not None:
            mean_w = summary.power_mean_mw / MILLI
        return mean_w, _scaled(summary.power_max_mw, MILLI)

    def _last_change(self, gpu: int, back: range) -> _Mark | None:
        """Return when the energy counter took the value it has: counters are refreshed slower than rows are written."""
        times, energies = self._columns[gpu]["t_mono_ns"], self._columns[gpu]["energy_mj"]
        capacity, unknown = self.ring.capacity, COLUMNS[COLUMN_INDEX["energy_mj"]].unknown
        at_ns, newest = 0, unknown
        for index in back:
            energy_mj = energies[index % capacity]
            if energy_mj == unknown:
                continue
            if newest not in (energy_mj, unknown):
                break
            at_ns, newest = times[index % capacity], energy_mj
        return None if newest == unknown else _Mark(at_ns, newest)

    def _throttled(self, gpu: int, first: int, stop: int) -> float | None:
        """Return the share of the window in which the power cap was biting."""
        start = max(first - 1, self.ring.oldest(gpu))
        began_ns, ended_ns = self._value(gpu, "t_mono_ns", start), self._value(gpu, "t_mono_ns", stop - 1)
        before, after = self._value(gpu, "power_cap_ns", start), self._value(gpu, "power_cap_ns", stop - 1)
        if began_ns is None or ended_ns is None or before is None or after is None:
            return None
        if ended_ns <= began_ns or after < before:
            return None
        return min(1.0, (after - before) / (ended_ns - began_ns))


def _mean_w(before: _Mark | None, now: _Mark | None) -> float | None:
    if before is None or now is None or now.at_ns <= before.at_ns or now.energy_mj < before.energy_mj:
        return None
    return (now.energy_mj - before.energy_mj) / MILLI / ((now.at_ns - before.at_ns) / NANO)


def _scaled(value: int | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
