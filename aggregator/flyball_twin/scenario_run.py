"""A scenario second by second: plant, work, sensors, the real control on both ends, events and figures.

The same seed gives the same figures; a run may be saved at any second and taken up again with the same end.
"""

import pickle  # only of checkpoints that this program wrote
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from flyball_aggregator.flex.schedule import GridEvent
from flyball_aggregator.site import Site
from flyball_twin.control_loop import ControlLoop, SecondSeen
from flyball_twin.host_agents import HostAgents
from flyball_twin.plant import Demand, Plant, Posted, make_boards
from flyball_twin.power_curves import Floats
from flyball_twin.scenario import Scenario, ScenarioEvent, site_of
from flyball_twin.scenario_work import ScenarioWork
from flyball_wire.errors import ConfigError
from flyball_wire.lease import Lease

WARM_S = 30  # governors start at their minima and are leased to; judged afterwards
NOISE_RATIO = 0.02  # noise of a board's own power loop and of its device spread, over a second
HISTORY_ROWS = 4
LONG_LEASE_S = 120.0
CHECKPOINT_VERSION = 1


@dataclass(slots=True)
class Series:
    """Each second of a run: watts at the wall of the root rows, their limit, caps, commitments, work and target."""

    power_w: list[float] = field(default_factory=list)
    limit_w: list[float] = field(default_factory=list)
    cap_w: list[float] = field(default_factory=list)
    committed_w: list[float] = field(default_factory=list)
    work_ratio: list[float] = field(default_factory=list)
    uncapped_w: list[float] = field(default_factory=list)
    target_w: list[float] = field(default_factory=list)
    over_row: list[float] = field(default_factory=list)  # largest share of any row's limit
    over_commitment: list[int] = field(default_factory=list)  # hosts above what the ledger counts


class ScenarioRun:
    """One run; call `advance` until `is_done`."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        """Build the site."""
        self.scenario, self.second = scenario, 0
        self.site = _with_long_leases(site_of(scenario, folder), scenario)
        models = [host.gpu_model for host in self.site.hosts]
        gpus = [host.gpus for host in self.site.hosts]
        self.boards = make_boards(models, gpus)
        self.plant = Plant(
            self.boards, seed=scenario.seed, spread_ratio=scenario.spread_ratio, history_rows=HISTORY_ROWS
        )
        self.work = ScenarioWork(self.boards, scenario.work, folder, scenario.seconds, scenario.seed + 1)
        count = len(self.boards.peak_w)
        self.posted = Posted(self.boards.default_limit_w.copy(), np.ones(count), np.zeros(count, bool), np.zeros(count))
        self._width = int(self.boards.gpus_per_host.max())
        places = np.arange(count) - np.repeat(self.boards.host_starts, self.boards.gpus_per_host)
        self._slot = (self.boards.host_of, places)
        self.loop = ControlLoop(self.site, self._wide(self.boards.min_limit_w), self._wide(self.boards.max_limit_w))
        ttl_s = self.site.policy.lease_ttl_s
        self.agents = HostAgents(self.site.hosts, self.boards.host_starts, round(ttl_s * 1000 / 3) - 500)
        self._coming: deque[tuple[int, list[Lease]]] = deque()
        self.series = Series()
        self._throttled_before = np.zeros(count)
        self._silent: set[int] = set()
        self._mute: set[int] = set()
        self._was_dead = False

    @property
    def is_done(self) -> bool:
        """Whether the last second has passed."""
        return self.second >= self.scenario.seconds

    def advance(self) -> None:
        """Run one second."""
        second = self.second
        active = [event for event in self.scenario.event if event.at_s <= second < event.at_s + event.for_s]
        demand = self.work.demand(second)
        self._control(second, active)
        self.plant.step(1.0, demand, self.posted)
        self.work.serve(self.plant.compute_speed, self.plant.decode_speed)
        leak_w = sum(event.watts for event in active if event.kind == "leak")
        self._record(demand, leak_w, active)
        self.second += 1

    def _wide(self, values: Floats) -> Floats:
        table = np.full((len(self.site.hosts), self._width), np.nan)
        table[self._slot] = values
        return table

    def _control(self, second: int, active: list[ScenarioEvent]) -> None:
        if self.scenario.control == "none":
            return
        if self.scenario.control == "static":
            if second == 0:
                self._post_static()
            return
        self._apply_events(second, active)
        while self._coming and self._coming[0][0] <= second:
            for lease in self._coming.popleft()[1]:
                self.agents.deliver(lease, second)
        reports = self.agents.tick(second)
        self.posted.limit_w = self.agents.limit_w.copy()
        if any(event.kind == "aggregator_dead" for event in active):
            self._was_dead = True
            return
        if self._was_dead:
            self._was_dead = False
            self.loop.restart(self.loop.epoch + 1)
        self.loop.take_reports(reports, second)
        leases, _ = self.loop.tick(second, self._seen(active), self._limits(active), self._grid_events())
        self._coming.append((second + self.scenario.actuation_s, leases))

    def _post_static(self) -> None:
        """Give every GPU the same share of its range, so that the caps' sum is the tightest row's room."""
        columns = np.array([row.limit_w - row.unmanaged_w - row.reserve_w for row in self.loop.rows])
        load_w = self.loop.matrix.load_w(np.array([host.maximum_w for host in self.site.hosts]))
        share = float(np.min(columns / load_w, initial=1.0))
        self.posted.limit_w = np.clip(
            self.boards.max_limit_w * min(1.0, share), self.boards.min_limit_w, self.boards.max_limit_w
        )

    def _apply_events(self, second: int, active: list[ScenarioEvent]) -> None:
        silent = _hosts_of(active, "silent", len(self.site.hosts))
        mute = _hosts_of(active, "write_failure", len(self.site.hosts))
        for index in silent ^ self._silent:
            self.agents.set_silent(index, is_silent=index in silent)
        for index in mute ^ self._mute:
            self.agents.set_writing(index, can_write=index not in mute, second=second)
        self._silent, self._mute = silent, mute

    def _seen(self, active: list[ScenarioEvent]) -> SecondSeen:
        plant = self.plant
        power = self._wide(plant.sensors.average_w)
        cap = self._wide(self.agents.limit_w)
        throttled = plant.throttle_s["power"]
        ratio = self._wide(throttled - self._throttled_before)
        self._throttled_before = throttled.copy()
        for index in self._silent:
            power[index] = cap[index] = ratio[index] = np.nan
        is_lost = any(event.kind == "meter_loss" for event in active) or not self.series.power_w
        return SecondSeen(power, cap, ratio, None if is_lost else self.series.power_w[-1])

    def _limits(self, active: list[ScenarioEvent]) -> Floats:
        limits = np.array([row.limit_w for row in self.loop.rows])
        for event in active:
            if event.kind == "limit":
                for index, row in enumerate(self.loop.rows):
                    is_named = row.name == event.row if event.row is not None else index in self.loop.roots
                    limits[index] = min(limits[index], event.ratio * row.limit_w) if is_named else limits[index]
        return limits

    def _grid_events(self) -> tuple[GridEvent, ...]:
        return tuple(
            GridEvent(
                f"grid-{number}",
                event.at_s,
                event.at_s + event.for_s,
                event.ratio,
                within_s=event.within_s,
                tolerance_ratio=0.005,
                rebound_ratio=1.003,
            )
            for number, event in enumerate(self.scenario.event)
            if event.kind == "grid"
        )

    def _record(self, demand: Demand, leak_w: float, active: list[ScenarioEvent]) -> None:
        plant, series, loop = self.plant, self.series, self.loop
        host_gpu_w = np.add.reduceat(plant.power_w, self.boards.host_starts)
        own_w = np.array([row.unmanaged_w for row in loop.rows])
        load_w = loop.matrix.load_w(host_gpu_w) + own_w
        load_w[list(loop.roots)] += leak_w / max(len(loop.roots), 1)
        limits = self._limits(active)
        roots = list(loop.roots)
        series.power_w.append(float(load_w[roots].sum()))
        series.limit_w.append(float(limits[roots].sum()))
        series.over_row.append(float((load_w / limits).max()))
        series.cap_w.append(float(self.posted.limit_w.sum()))
        series.committed_w.append(float(loop.committed.sum()) / 1000.0)
        series.uncapped_w.append(float(plant.uncapped_host_w.sum()) + leak_w)
        asked = float((demand.compute + demand.decode).sum())
        done = float((demand.compute * plant.compute_speed + demand.decode * plant.decode_speed).sum())
        series.work_ratio.append(done / asked if asked > 0.0 else 1.0)
        is_target = loop.flex.phase == "shedding" and loop.flex.target_w is not None
        series.target_w.append(float(loop.flex.target_w or 0.0) if is_target else float("nan"))
        is_judged = self.scenario.control == "ours" and self.second >= WARM_S
        over = host_gpu_w > self._most_w(loop.committed / 1000.0) if is_judged else np.zeros(1, bool)
        series.over_commitment.append(int(over.sum()))

    def _most_w(self, committed_w: Floats) -> Floats:
        """Return what a host held to its commitment draws at most in a second: boards pass a cap until it bites."""
        peak_w = np.add.reduceat(self.boards.peak_w, self.boards.host_starts)
        burst_w = self.plant.timing.power_loop_s * np.maximum(peak_w - committed_w, 0.0)
        return np.asarray(committed_w * (1.0 + NOISE_RATIO) + burst_w)

    def save(self, path: Path) -> None:
        """Write a checkpoint.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            path.write_bytes(pickle.dumps((CHECKPOINT_VERSION, self)))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None


def resume(path: Path) -> ScenarioRun:
    """Take a run up again. The file must be this program's own: it is trusted.

    Raises:
        ConfigError: no checkpoint of this version.
    """
    try:
        version, run = pickle.loads(path.read_bytes())  # noqa: S301  (the operator's own file, as documented)
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: no checkpoint of this program: {error}") from None
    if version != CHECKPOINT_VERSION or not isinstance(run, ScenarioRun):
        raise ConfigError(f"{path}: checkpoint version {version}, expected {CHECKPOINT_VERSION}")
    return run


def _with_long_leases(site: Site, scenario: Scenario) -> Site:
    """Return the site with leases of two minutes where nothing cuts messages off.

    A lease that is always renewed never runs out: its life changes no watt then, only how many messages there are.
    """
    if any(event.kind in {"silent", "aggregator_dead"} for event in scenario.event):
        return site
    policy = replace(site.policy, lease_ttl_s=max(site.policy.lease_ttl_s, LONG_LEASE_S))
    return replace(site, policy=policy)


def _hosts_of(active: list[ScenarioEvent], kind: str, count: int) -> set[int]:
    """Return the hosts that events of a kind hold: spread evenly over the fleet."""
    wanted = max((event.hosts for event in active if event.kind == kind), default=0)
    wanted = min(wanted, count)
    return {index * count // wanted for index in range(wanted)} if wanted else set()


def figures(run: ScenarioRun) -> dict[str, Any]:
    """Return what a run came to; shares are fractions."""
    series = run.series
    power, limit = np.array(series.power_w[WARM_S:]), np.array(series.limit_w[WARM_S:])
    rows, target = np.array(series.over_row[WARM_S:]), np.array(series.target_w[WARM_S:])
    load = power / limit
    result: dict[str, Any] = {
        "control": run.scenario.control,
        "seed": run.scenario.seed,
        "hosts": len(run.site.hosts),
        "gpus": len(run.boards.peak_w),
        "seconds": len(power),
        "mean_w": round(float(power.mean()), 1),
        "use_of_limit": round(float(load.mean()), 5),
        "uncapped_mean_w": round(float(np.mean(series.uncapped_w[WARM_S:])), 1),
        "work_ratio": round(float(np.mean(series.work_ratio[WARM_S:])), 5),
        "seconds_over": int((rows > 1.0).sum()),
        "seconds_over_1pct": int((rows > 1.01).sum()),
        "max_overshoot": round(float(max(0.0, rows.max() - 1.0)), 5),
        "over_commitment": int(np.sum(series.over_commitment)),
        "refused_grants": run.loop.refused,
        "certificate_failures": run.loop.certificate_failures,
    }
    is_shed = ~np.isnan(target)
    if is_shed.any():
        base = run.loop.flex.baseline_w or float(power[: int(np.argmax(is_shed))].mean())
        result |= _grid_figures(power, target, is_shed, base, run.scenario.event)
    for number, part in enumerate(run.work.serving):
        result[f"serving_{number}_first_token_p99_s"] = round(part.first_s.quantile(0.99), 4)
        result[f"serving_{number}_end_to_end_p50_s"] = round(part.whole_s.quantile(0.5), 4)
        result[f"serving_{number}_requests"] = round(part.requests, 1)
    result["goals_missed"] = _missed(run, result)
    return result


def _grid_figures(
    power: Floats, target: Floats, is_shed: np.ndarray, base: float, events: tuple[ScenarioEvent, ...]
) -> dict[str, Any]:
    within = max(int(event.within_s) for event in events if event.kind == "grid")
    starts = np.flatnonzero(is_shed & ~np.concatenate(([False], is_shed[:-1])))
    judged = is_shed.copy()
    for start in starts:
        judged[start : start + within] = False
    error = (power[judged] - target[judged]) / base
    if not error.size:
        return {}
    return {
        "compliance": round(float((error <= 0.005).mean()), 5),
        "tracking_rmse": round(float(np.sqrt((error**2).mean())), 5),
        "over_shed": round(float(max(0.0, -error.mean())), 5),
    }


def _missed(run: ScenarioRun, result: dict[str, Any]) -> list[str]:
    goals = run.scenario.goals
    missed = []
    if result["seconds_over_1pct"] > goals.seconds_over_1pct_most:
        missed.append(f"seconds_over_1pct {result['seconds_over_1pct']}, at most {goals.seconds_over_1pct_most}")
    if result["over_commitment"] > goals.over_commitment_most:
        missed.append(f"over_commitment {result['over_commitment']}, at most {goals.over_commitment_most}")
    if goals.work_ratio_least is not None and result["work_ratio"] < goals.work_ratio_least:
        missed.append(f"work_ratio {result['work_ratio']}, at least {goals.work_ratio_least}")
    if goals.compliance_least is not None and result.get("compliance", 0.0) < goals.compliance_least:
        missed.append(f"compliance {result.get('compliance')}, at least {goals.compliance_least}")
    return missed
