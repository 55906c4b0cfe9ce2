"""What the boards' sensors say of the true power: a 100 ms refresh, a 25 ms window and a 1 s trailing mean."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REFRESH_S = 0.1  # power and energy refresh of A100 and H100 boards (arXiv 2312.02741; ml.energy 2026)
WINDOW_S = 0.025  # only this much of each refresh period is sampled on A100 and H100 (arXiv 2312.02741)
TRAILING_S = 1.0  # NVML power reading on Ampere (except GA100) and newer: mean of the last second
HISTORY_ROWS = 160  # 1 s of 10 ms steps with room for uneven ones; 1 s steps need 4


class PowerSensors:
    """Instant, average and energy readings of every GPU, refreshed at each board's own phase.

    Attributes:
        instant_w: (gpus,) newest window mean. average_w: (gpus,) trailing mean of 1 s. energy_j: (gpus,) counter.
        read_at_s: (gpus,) plant time of the newest refresh.
    """

    def __init__(self, start_w: Floats, phase: Floats, history_rows: int = HISTORY_ROWS) -> None:
        """Start as if every GPU had drawn `start_w` (gpus,) for ever; `phase` (gpus,) in 0..1 of a refresh period."""
        count = len(start_w)
        self.instant_w = start_w.copy()
        self.average_w = start_w.copy()
        self.energy_j = np.zeros(count)
        self.read_at_s = np.zeros(count)
        self._next_s = phase * REFRESH_S
        self._now_s = 0.0
        self._rows = 0
        self._times = [0.0] * history_rows
        self._energies = np.zeros((history_rows, count))
        self._start_w = start_w.copy()
        self._remember(np.zeros(count))

    def record(self, step_s: float, true_energy_j: Floats) -> None:
        """Take in one step's end: its length and (gpus,) true energy since the start."""
        self._now_s += step_s
        self._remember(true_energy_j)
        due = self._next_s <= self._now_s + 1e-9
        if not due.any():
            return
        window_s = max(WINDOW_S, step_s)
        instant = (true_energy_j - self._energy_at(self._now_s - window_s)) / window_s
        average = (true_energy_j - self._energy_at(self._now_s - TRAILING_S)) / TRAILING_S
        self.instant_w = np.where(due, instant, self.instant_w)
        self.average_w = np.where(due, average, self.average_w)
        self.energy_j = np.where(due, true_energy_j, self.energy_j)
        self.read_at_s = np.where(due, self._now_s, self.read_at_s)
        missed = np.floor((self._now_s - self._next_s) / REFRESH_S) + 1.0
        self._next_s = np.where(due, self._next_s + missed * REFRESH_S, self._next_s)

    def _remember(self, energy_j: Floats) -> None:
        row = self._rows % len(self._times)
        self._times[row] = self._now_s
        self._energies[row] = energy_j
        self._rows += 1

    def _energy_at(self, time_s: float) -> Floats:
        """Return the true energy at an earlier time; before the start every GPU drew its starting power."""
        kept, oldest = len(self._times), max(0, self._rows - len(self._times))
        if time_s < self._times[oldest % kept]:
            first = oldest % kept
            return np.asarray(self._energies[first] - self._start_w * (self._times[first] - time_s))
        after = self._first_row_after(time_s, oldest)
        if after == self._rows:
            return np.asarray(self._energies[(after - 1) % kept])
        low, high = (after - 1) % kept, after % kept
        share = (time_s - self._times[low]) / (self._times[high] - self._times[low])
        return np.asarray(self._energies[low] + share * (self._energies[high] - self._energies[low]))

    def _first_row_after(self, time_s: float, oldest: int) -> int:
        """Return the number of the first row later than `time_s`, by bisection; the row count when there is none."""
        low, high = oldest, self._rows
        while low < high:
            middle = (low + high) // 2
            if self._times[middle % len(self._times)] <= time_s:
                low = middle + 1
            else:
                high = middle
        return low
