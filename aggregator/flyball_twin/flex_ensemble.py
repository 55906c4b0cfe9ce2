"""A simulated ensemble of jobs for grid events: measured power and speed at caps, load noise, late actuation.

Left out: swings inside a second, the time a job takes to pause and resume, anything but the GPUs' own power.
"""

from dataclasses import dataclass

import numpy as np

from flyball_aggregator.flex.shed import ShedClass, ShedPlan
from flyball_twin.emerald import EMERALD_JOBS, FLOORS, GPU_MAXIMUM_W, PAUSED_W, SWEEP
from flyball_twin.power_curves import Floats

SETTLING_S = 0.3  # first order: a cap is in force within about a second
LOAD_SIGMA, LOAD_S = 0.01, 30.0  # noise of a job's own draw (assumption)
CAP_ERROR_RATIO = (
    0.005  # how far a job's held power is off the sweep, either way, not known to the control (assumption)
)
STRICT_KEEP = 0.994  # what the strictest tier keeps as long as others can give
BACKLOG_RATIO, BACKLOG_S = 0.03, 600.0  # how much more is drawn after an event while work catches up (assumption)


def emerald_classes() -> tuple[ShedClass, ...]:
    """Return the six published jobs as the control knows them; weights sum to 1."""
    total = sum(FLOORS[job.flexibility] for job in EMERALD_JOBS)
    return tuple(
        ShedClass(
            name=job.name,
            count=job.gpus,
            weight=FLOORS[job.flexibility] / total,
            tier=job.flexibility,
            floor=FLOORS[job.flexibility],
            points=tuple((watts, speed) for _, watts, speed in SWEEP[job.workload]),
            pause_w=PAUSED_W,
            keep=STRICT_KEEP if job.flexibility == 1 else None,
        )
        for job in EMERALD_JOBS
    )


@dataclass(slots=True)
class EnsembleSecond:
    """One second: watts of all jobs and the speed of each, (jobs,)."""

    total_w: float
    speed: Floats


class Ensemble:
    """The jobs; post caps, then step second by second."""

    def __init__(self, seed: int) -> None:
        """Start at full power."""
        self._random = np.random.default_rng(seed)
        sweeps = [np.array(SWEEP[job.workload]) for job in EMERALD_JOBS]
        self._caps = [sweep[:, 0] for sweep in sweeps]
        self._watts = [sweep[:, 1] for sweep in sweeps]
        self._speeds = [sweep[:, 2] for sweep in sweeps]
        jobs = len(EMERALD_JOBS)
        self.gpus = np.array([job.gpus for job in EMERALD_JOBS], dtype=np.float64)
        self._full_w = np.array([watts[-1] for watts in self._watts])
        self._device_ratio = 1.0 + 0.011 / np.sqrt(self.gpus / 8.0) * self._random.standard_normal(jobs)
        self._cap_ratio = 1.0 + self._random.uniform(-CAP_ERROR_RATIO, CAP_ERROR_RATIO, jobs)
        self._noise = LOAD_SIGMA * self._random.standard_normal(jobs)
        self._is_lost = np.zeros(jobs, bool)
        self._cap_w = np.full(jobs, GPU_MAXIMUM_W)
        self._backlog_s = 0.0

    def cap_of(self, plan: ShedPlan) -> Floats:
        """Return the cap of each job's GPUs, whole watts, for a plan: the sweep read backwards; 0 means paused."""
        caps = np.empty(len(self.gpus))
        for job, share in enumerate(plan.shares):
            watts = self._watts[job]
            if share.gpu_w >= watts[-1] - 1e-6:
                caps[job] = GPU_MAXIMUM_W
            elif share.gpu_w < watts[0] - 1.0:
                caps[job] = 0.0
            else:
                caps[job] = np.floor(np.interp(share.gpu_w, watts, self._caps[job]))
        return caps

    def lose(self, jobs: list[int]) -> None:
        """Let jobs fall idle: their feed is gone."""
        self._is_lost[jobs] = True

    def start_backlog(self) -> None:
        """Let work that waited catch up."""
        self._backlog_s = BACKLOG_S

    def step(self, caps: Floats) -> EnsembleSecond:
        """Run one second with these caps."""
        kept = np.exp(-1.0 / LOAD_S)
        pushes = self._random.standard_normal(len(caps))
        self._noise = kept * self._noise + LOAD_SIGMA * np.sqrt(1.0 - kept * kept) * pushes
        gone = 1.0 - np.exp(-1.0 / SETTLING_S)
        mean_share = 1.0 - SETTLING_S * gone  # of the second at the new cap
        mean_cap_w = self._cap_w + (caps - self._cap_w) * mean_share
        self._cap_w = self._cap_w + (caps - self._cap_w) * gone
        more = 1.0 + BACKLOG_RATIO * (self._backlog_s > 0.0)
        self._backlog_s = max(0.0, self._backlog_s - 1.0)
        wanted_w = self._full_w * self._device_ratio * more * (1.0 + self._noise)
        held_w = np.array([np.interp(cap, self._caps[job], self._watts[job]) for job, cap in enumerate(mean_cap_w)])
        held_w = np.where(mean_cap_w >= GPU_MAXIMUM_W - 1.0, np.inf, held_w * self._cap_ratio)
        held_w = np.where(mean_cap_w < 50.0, PAUSED_W, held_w)
        gpu_w = np.where(self._is_lost, PAUSED_W, np.minimum(wanted_w, held_w))
        gpu_w *= 1.0 + 0.002 * self._random.standard_normal(len(caps))
        speed = np.array(
            [
                np.interp(watt, watts, speeds)
                for watt, watts, speeds in zip(held_w / self._device_ratio, self._watts, self._speeds, strict=True)
            ]
        )  # a board that draws more for the same work is slower under the same cap
        speed = np.where((mean_cap_w < 50.0) | self._is_lost, 0.0, speed)
        return EnsembleSecond(float((self.gpus * gpu_w).sum()), speed)
