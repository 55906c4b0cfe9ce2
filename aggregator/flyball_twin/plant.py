"""The physics of a fleet of GPU boards, vectorised: power against work, cap and clock, heat, energy and throttling.

Pure: no clock, file or thread; the same seed and inputs give the same numbers. `step` takes any length from 1 ms to
1 s and returns means over it, so that the live plant (100 Hz) and the twin (1 s) run the same code. Left out: how work
is split between boards, the network, and everything on a host but a constant and a slope.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flyball_simgpu.models import SimulatedModel, find_model
from flyball_twin.plant_sensors import HISTORY_ROWS, PowerSensors
from flyball_twin.power_curves import CURVES, Floats, clock_ratio_of, dynamic_power_ratio

HOST_OWN_W_PER_GPU = 180.0  # H100 node at idle, per GPU (assumption; with the slope it meets the measured 8.4 kW)
HOST_OWN_W_PER_GPU_W = 0.27  # fans and supplies; fits 8.4 kW for 8 x 700 W (arXiv 2412.08602)

REASON_IDLE, REASON_APPLICATION_CLOCKS, REASON_POWER_CAP = 0x1, 0x2, 0x4
REASON_HARDWARE_SLOWDOWN, REASON_SOFTWARE_THERMAL = 0x8, 0x20
REASON_HARDWARE_THERMAL, REASON_POWER_BRAKE = 0x40, 0x80


@dataclass(frozen=True, slots=True)
class PlantTiming:
    """Delays, time constants and tolerances of a board; seconds and ratios."""

    cap_delay_s: float = 0.03  # in-band call to first effect: 10-50 ms (assumption; out-of-band 5-40 s, POLCA)
    cap_settling_s: float = 0.15  # first order; settled to 2 % after 0.6 s (assumption inside 0.2-1 s)
    power_loop_s: float = (
        0.04  # with the ramp it gives a burst from idle under a 500 W cap its measured +43 % peak (B300)
    )
    power_ramp_s: float = 0.01  # idle to full in < 100 ms (B300: 881 W in 200 ms at the reading's resolution)
    boost_s: float = 0.1  # how fast the loop opens again once the load is below the cap (assumption)
    clock_lock_s: float = 0.03  # locked clocks: single to double-digit ms on A100 (arXiv 2502.20075)
    cap_margin_ratio: float = 0.008  # steady mean 0.4-1.5 % below the cap (B300)
    noise_ratio: float = 0.005  # instant peaks 0.4-2 % above the mean under a cap (B300)
    noise_s: float = 0.05  # correlation time of that noise (assumption)
    brake_ratio: float = 0.15  # share of the dynamic power left under the brake (288 of ~1980 MHz, POLCA)


@dataclass(frozen=True, slots=True)
class PlantHeat:
    """Thermal path and leakage of a board."""

    inlet_celsius: float = 25.0  # assumption
    die_k_per_w: float = 0.025  # A100: about 10 K within 0.25 s for +400 W
    die_s: float = 0.2
    sink_k_per_w: float = 0.026  # B300: 22 K for +855 W
    sink_s: float = 40.0  # heat sink 20-60 s (assumption)
    memory_k_per_w: float = 0.008  # memory above the die (assumption; fleets show HBM p99 within 2 K of the die's)
    leakage_load_per_k: float = 0.0016  # of total power at load, around 50 C (B300: 1026 W @48 C, 1038.5 W @55.5 C)
    leakage_idle_per_k: float = 0.006  # of idle power, around 30 C (B300)
    slowdown_ratio_per_s: float = 0.1  # how fast software thermal slowdown takes power away (assumption)


@dataclass(slots=True)
class Demand:
    """What the work asks of each GPU, as shares of time and the power of each phase at the highest clock.

    Attributes:
        compute: (gpus,) 0..1 share of time in a compute-bound phase. decode: (gpus,) share in a decode phase.
        compute_w, decode_w: (gpus,) watts of the phases. is_resident: (gpus,) a model is loaded (higher idle power).
    """

    compute: Floats
    decode: Floats
    compute_w: Floats
    decode_w: Floats
    is_resident: NDArray[np.bool_]


@dataclass(slots=True)
class Posted:
    """What was asked of each GPU by its controller or by faults; arrays (gpus,)."""

    limit_w: Floats
    clock_ratio: Floats  # locked maximum over the greatest clock; 1 = not locked
    is_braked: NDArray[np.bool_]
    inlet_offset_k: Floats


@dataclass(slots=True)
class Boards:
    """The constants of each GPU of a fleet, arrays (gpus,), and the hosts they sit in."""

    models: list[SimulatedModel]  # one per host
    host_starts: NDArray[np.int64]  # (hosts,) index of each host's first GPU
    gpus_per_host: NDArray[np.int64]
    idle_w: Floats
    context_idle_w: Floats
    peak_w: Floats
    default_limit_w: Floats
    min_limit_w: Floats
    max_limit_w: Floats
    slowdown_celsius: Floats
    curve_groups: list[tuple[str, slice]] = field(default_factory=list)

    @property
    def host_of(self) -> NDArray[np.int64]:
        """Return the host index of each GPU."""
        return np.repeat(np.arange(len(self.host_starts)), self.gpus_per_host)


def make_boards(models: list[str], gpus: list[int] | int) -> Boards:
    """Return the constants of a fleet: one model key per host; GPUs of each host (one number for all, or a list)."""
    counts = np.full(len(models), gpus, np.int64) if isinstance(gpus, int) else np.array(gpus, np.int64)
    known = [find_model(key) for key in models]
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.int64)

    def spread(name: str) -> Floats:
        return np.repeat(np.array([float(getattr(model, name)) for model in known]), counts)

    boards = Boards(
        known, starts, counts, spread("idle_w"), spread("context_idle_w"), spread("peak_w"), spread("default_limit_w"),
        spread("min_limit_w"), spread("max_limit_w"), spread("slowdown_temperature_c"),
    )  # fmt: skip
    boards.curve_groups = _group(models, starts, counts)
    return boards


def _group(models: list[str], starts: NDArray[np.int64], counts: NDArray[np.int64]) -> list[tuple[str, slice]]:
    """Join neighbouring hosts of one model into slices, so that a curve is looked up once per run of hosts."""
    groups: list[tuple[str, slice]] = []
    for key, start, count in zip(models, starts.tolist(), counts.tolist(), strict=True):
        if groups and groups[-1][0] == key:
            groups[-1] = (key, slice(groups[-1][1].start, start + count))
        else:
            groups.append((key, slice(start, start + count)))
    return groups


class Plant:
    """A fleet of boards; call `step` and read the arrays.

    Attributes:
        power_w: (gpus,) mean true power of the last step. uncapped_w: (gpus,) the same without caps and locks.
        energy_j: (gpus,) true energy. host_power_w: (hosts,) wall power. work_s: (gpus,) full-speed seconds done.
        compute_speed, decode_speed: (gpus,) relative speed of each phase in the last step.
        temperature_celsius, memory_celsius: (gpus,). clock_ratio: (gpus,) of the greatest clock. reasons: (gpus,) bits.
        throttle_s: (gpus,) seconds under each of: power, software_thermal, brake, clocks.
    """

    def __init__(
        self,
        boards: Boards,
        *,
        seed: int,
        timing: PlantTiming | None = None,
        heat: PlantHeat | None = None,
        spread_ratio: float = 0.011,
        history_rows: int = HISTORY_ROWS,
    ) -> None:
        """Start idle. `spread_ratio`: sigma of device power (8 H100 on one job: 1.1 %; across a fleet use 2.5 %)."""
        count = len(boards.idle_w)
        self.boards, self.timing, self.heat = boards, timing or PlantTiming(), heat or PlantHeat()
        self._random = np.random.Generator(np.random.PCG64(seed))
        self.device_ratio = 1.0 + spread_ratio * np.clip(self._random.standard_normal(count), -3.0, 3.0)
        self.power_w = boards.idle_w * self.device_ratio
        self.uncapped_w = self.power_w.copy()
        self.demand_w = self.power_w.copy()
        self.energy_j, self.work_s = np.zeros(count), np.zeros(count)
        self.compute_speed, self.decode_speed = np.ones(count), np.ones(count)
        self.applied_limit_w = boards.default_limit_w.copy()
        self._mean_limit_w = boards.default_limit_w.copy()
        self._pending_limit_w, self._pending_s = boards.default_limit_w.copy(), np.zeros(count)
        self._loop_w = boards.peak_w * 1.1
        self._thermal_w = boards.peak_w * 1.1
        self._compute, self._decode = np.zeros(count), np.zeros(count)
        self.clock_ratio, self._lock_ratio = np.ones(count), np.ones(count)
        self._noise = np.zeros(count)
        self._die_k = self.heat.die_k_per_w * self.power_w
        self._sink_k = self.heat.sink_k_per_w * self.power_w
        self.temperature_celsius = self.heat.inlet_celsius + self._die_k + self._sink_k
        self.memory_celsius = self.temperature_celsius.copy()
        self.reasons = np.full(count, REASON_IDLE, np.uint64)
        self.throttle_s = {name: np.zeros(count) for name in ("power", "software_thermal", "brake", "clocks")}
        self.sensors = PowerSensors(self.power_w, self._random.random(count), history_rows)
        self.host_power_w = self._wall_w(self.power_w)
        self.uncapped_host_w = self.host_power_w.copy()
        self.time_s = 0.0

    def step(self, step_s: float, demand: Demand, posted: Posted) -> None:
        """Advance by `step_s` seconds with constant demand and postings."""
        self._apply_limits(step_s, posted.limit_w)
        self._compute = _lag_mean(self._compute, demand.compute, step_s, self.timing.power_ramp_s)
        self._decode = _lag_mean(self._decode, demand.decode, step_s, self.timing.power_ramp_s)
        idle_w, compute_w, decode_w = self._phase_powers(step_s, demand, posted)
        ceiling_w = self._close_loop(step_s, compute_w, decode_w, posted)
        self._draw(ceiling_w, idle_w, compute_w, decode_w)
        self._work(step_s, demand, compute_w, decode_w, ceiling_w)
        self._warm(step_s, posted.inlet_offset_k)
        self._explain(step_s, ceiling_w, compute_w, decode_w, posted)
        self.time_s += step_s
        self.energy_j += self.power_w * step_s
        self.sensors.record(step_s, self.energy_j)
        self.host_power_w = self._wall_w(self.power_w)
        self.uncapped_host_w = self._wall_w(self.uncapped_w)

    def _apply_limits(self, step_s: float, limit_w: Floats) -> None:
        """Let posted limits reach the power loop after their delay, and settle."""
        timing = self.timing
        changed = limit_w != self._pending_limit_w
        waiting = np.where(changed & (self._pending_s <= 0.0), timing.cap_delay_s, self._pending_s)
        self._pending_limit_w = limit_w.copy()
        acting_s = np.maximum(step_s - waiting, 0.0)
        self._pending_s = np.maximum(waiting - step_s, 0.0)
        kept = np.exp(-acting_s / timing.cap_settling_s)
        gap_w = self.applied_limit_w - limit_w
        held_s = step_s - acting_s + timing.cap_settling_s * (1.0 - kept)
        self._mean_limit_w = limit_w + gap_w * held_s / step_s
        self.applied_limit_w = limit_w + gap_w * kept

    def _phase_powers(self, step_s: float, demand: Demand, posted: Posted) -> tuple[Floats, Floats, Floats]:
        """Return what each board draws idle, in compute and in decode, at its locked clock, with spread and leakage."""
        boards, heat = self.boards, self.heat
        self._lock_ratio = posted.clock_ratio + (self._lock_ratio - posted.clock_ratio) * math.exp(
            -step_s / self.timing.clock_lock_s
        )
        idle = np.where(demand.is_resident, boards.context_idle_w, boards.idle_w) * self.device_ratio
        warm_idle = idle * (1.0 + heat.leakage_idle_per_k * (self.temperature_celsius - 30.0))
        leakage = self.device_ratio * (1.0 + heat.leakage_load_per_k * (self.temperature_celsius - 50.0))
        dynamic = dynamic_power_ratio(self._lock_ratio)
        context = boards.context_idle_w
        compute = (context + (demand.compute_w - context) * dynamic) * leakage
        decode = (context + (demand.decode_w - context) * dynamic) * leakage
        self._full_compute_w, self._full_decode_w = demand.compute_w * leakage, demand.decode_w * leakage
        return warm_idle, compute, decode

    def _close_loop(self, step_s: float, compute_w: Floats, decode_w: Floats, posted: Posted) -> Floats:
        """Return the mean ceiling of the power loop over the step: opened by headroom, closed by cap, heat or brake."""
        timing, boards = self.timing, self.boards
        target = np.minimum(self._mean_limit_w * (1.0 - timing.cap_margin_ratio), self._thermal_w)
        braked_w = boards.context_idle_w + timing.brake_ratio * (boards.peak_w - boards.context_idle_w)
        target = np.where(posted.is_braked, np.minimum(target, braked_w), target)
        wanted = np.maximum(
            np.where(self._compute > 0.02, compute_w, 0.0), np.where(self._decode > 0.02, decode_w, 0.0)
        )
        is_open = wanted <= target
        goal = np.where(is_open, boards.peak_w * 1.1, target)
        constant = np.where(is_open, timing.boost_s, timing.power_loop_s)
        start = np.where(is_open, self._loop_w, np.minimum(self._loop_w, wanted))
        gone = -np.expm1(-step_s / constant)
        mean = goal + (start - goal) * gone * constant / step_s
        self._loop_w = start + (goal - start) * gone
        rho = math.exp(-step_s / timing.noise_s)
        sigma = timing.noise_ratio * min(1.0, (2.0 * timing.noise_s / step_s) ** 0.5)
        self._noise = rho * self._noise + sigma * (1.0 - rho * rho) ** 0.5 * self._random.standard_normal(len(mean))
        self._is_held = ~is_open
        return np.asarray(mean * (1.0 + self._noise))

    def _draw(self, ceiling_w: Floats, idle_w: Floats, compute_w: Floats, decode_w: Floats) -> None:
        """Set the mean power of the step: shares of the phases under the ceiling, the rest idle."""
        idle_share = np.maximum(0.0, 1.0 - self._compute - self._decode)
        rest = idle_share * idle_w
        self.power_w = (
            self._compute * np.minimum(compute_w, ceiling_w) + self._decode * np.minimum(decode_w, ceiling_w) + rest
        )
        default_w = self.boards.default_limit_w * (1.0 - self.timing.cap_margin_ratio)
        full_compute, full_decode = self._full_compute_w, self._full_decode_w
        self.uncapped_w = (
            self._compute * np.minimum(full_compute, default_w)
            + self._decode * np.minimum(full_decode, default_w)
            + rest
        )
        self.demand_w = self._compute * full_compute + self._decode * full_decode + rest

    def _work(self, step_s: float, demand: Demand, compute_w: Floats, decode_w: Floats, ceiling_w: Floats) -> None:
        """Set the speed of each phase from its power relative to its uncapped power, and count the work done."""
        compute_ratio = np.minimum(compute_w, ceiling_w) / np.maximum(self._full_compute_w, 1.0)
        decode_ratio = np.minimum(decode_w, ceiling_w) / np.maximum(self._full_decode_w, 1.0)
        for key, group in self.boards.curve_groups:
            self.compute_speed[group] = CURVES[key].compute_speed(compute_ratio[group])
            self.decode_speed[group] = CURVES[key].decode_speed(decode_ratio[group])
        self.work_s += step_s * (demand.compute * self.compute_speed + demand.decode * self.decode_speed)

    def _warm(self, step_s: float, inlet_offset_k: Floats) -> None:
        """Move die and heat sink towards what the power holds them at; slow a board that is too hot."""
        heat = self.heat
        self._die_k += (heat.die_k_per_w * self.power_w - self._die_k) * -math.expm1(-step_s / heat.die_s)
        self._sink_k += (heat.sink_k_per_w * self.power_w - self._sink_k) * -math.expm1(-step_s / heat.sink_s)
        self.temperature_celsius = heat.inlet_celsius + inlet_offset_k + self._die_k + self._sink_k
        self.memory_celsius = self.temperature_celsius + heat.memory_k_per_w * self.power_w
        peak = self.boards.peak_w
        excess_k = self.temperature_celsius - self.boards.slowdown_celsius
        rate = np.where(
            excess_k > 0.0, -heat.slowdown_ratio_per_s, np.where(excess_k < -3.0, 0.5 * heat.slowdown_ratio_per_s, 0.0)
        )
        self._thermal_w = np.clip(self._thermal_w + rate * peak * step_s, 0.3 * peak, 1.1 * peak)

    def _explain(self, step_s: float, ceiling_w: Floats, compute_w: Floats, decode_w: Floats, posted: Posted) -> None:
        """Set clocks, event reasons and throttle times."""
        is_busy = (self._compute + self._decode) > 0.01
        is_hot = self._thermal_w < self.applied_limit_w
        is_held = self._is_held & is_busy
        is_locked = (posted.clock_ratio < 1.0) & is_busy
        is_braked = posted.is_braked & is_busy
        by_heat = is_held & is_hot & ~is_braked
        by_cap = is_held & ~is_hot & ~is_braked
        full = np.where(self._compute >= self._decode, self._full_compute_w, self._full_decode_w)
        now = np.minimum(np.where(self._compute >= self._decode, compute_w, decode_w), ceiling_w)
        context = self.boards.context_idle_w
        dynamic = (now - context) / np.maximum(full - context, 1.0)
        self.clock_ratio = np.where(is_busy, clock_ratio_of(dynamic), 0.0)
        bits = np.where(is_busy, 0, REASON_IDLE) | np.where(is_locked, REASON_APPLICATION_CLOCKS, 0)
        bits |= np.where(by_cap, REASON_POWER_CAP, 0) | np.where(by_heat, REASON_SOFTWARE_THERMAL, 0)
        bits |= np.where(is_braked, REASON_POWER_BRAKE | REASON_HARDWARE_SLOWDOWN, 0)
        self.reasons = bits.astype(np.uint64)
        for name, mask in (
            ("power", by_cap),
            ("software_thermal", by_heat),
            ("brake", is_braked),
            ("clocks", is_locked),
        ):
            self.throttle_s[name] += step_s * mask

    def _wall_w(self, power_w: Floats) -> Floats:
        gpu_w = np.add.reduceat(power_w, self.boards.host_starts)
        return np.asarray(HOST_OWN_W_PER_GPU * self.boards.gpus_per_host + (1.0 + HOST_OWN_W_PER_GPU_W) * gpu_w)


def _lag_mean(state: Floats, goal: Floats, step_s: float, constant_s: float) -> Floats:
    """Return the first-order answer at the end of a short step, or its mean over a step long against the constant."""
    gone = -math.expm1(-step_s / constant_s)
    if step_s > 4.0 * constant_s:
        gone = 1.0 - gone * constant_s / step_s
    return np.asarray(state + (goal - state) * gone)
