"""The MaxLPS experiment: how much more work a fixed power budget does with more boards under a policy.

Goodput is the largest load at the service level, over the largest that the uncapped fleet itself reaches at it.
"""

from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flyball_twin.load_shape import noisy
from flyball_twin.policies import POLICIES, Frame, PowerPolicy, Seen, oracle_setting
from flyball_twin.power_curves import Floats
from flyball_twin.serving import SEED_OF_ARRIVALS, LogHistogram, ServingFleet, Setting
from flyball_twin.serving_plants import ServingPlant, TokenMix

Accounting = Literal["gpu", "nameplate"]
WARM_S = 600


@dataclass(frozen=True, slots=True)
class Experiment:
    """One fleet, budget and load; the rate is the mean over the measured stretch, requests/s."""

    plant: ServingPlant
    mix: TokenMix
    shape: Floats  # (WARM_S + measured seconds,), mean 1 over the measured ones
    accounting: Accounting
    replicas: int
    budget_w: float
    seed: int
    skew: tuple[float, ...] = ()  # shares of load along the fleet; empty = even


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What one run came to; power of the budget's accounting, 1 s means, shares of the budget."""

    policy: str
    requests_per_s: float
    tokens_per_s: float
    first_token_p50_s: float
    first_token_p99_s: float
    end_to_end_p50_s: float
    end_to_end_p99_s: float
    mean_load: float
    peak_load: float
    seconds_over: int
    seconds_over_1pct: int
    tokens_per_s_per_mw: float

    @property
    def max_overshoot(self) -> float:
        """Return the largest share above the budget."""
        return max(0.0, self.peak_load - 1.0)


@dataclass(frozen=True, slots=True)
class ServiceLevel:
    """What a load must keep, the latencies relative to the uncapped fleet at its reference load."""

    end_to_end_p50_ratio: float = 1.10
    end_to_end_p99_ratio: float = 1.10
    first_token_p99_s: float = 1.2
    seconds_over_most: int = 2


TIGHT = ServiceLevel()
LOOSE = ServiceLevel(2.0, 1.25, 2.0)


def boards_budget_w(experiment: Experiment) -> float:
    """Return what all boards together may draw."""
    if experiment.accounting == "gpu":
        return experiment.budget_w
    boards = experiment.replicas * experiment.plant.boards_per_replica
    return experiment.plant.boards_w(experiment.budget_w, boards)


def run_policy(experiment: Experiment, policy: str, requests_per_s: float) -> RunFigures:
    """Return the figures of one run.

    Raises:
        KeyError: no such policy.
    """
    shape = noisy(experiment.shape, SEED_OF_ARRIVALS + experiment.seed)
    fleet = ServingFleet(experiment.plant, experiment.mix, experiment.replicas, experiment.seed)
    budget_w = boards_budget_w(experiment)
    high = np.arange(experiment.replicas) < experiment.replicas // 2
    frame = Frame(experiment.plant, experiment.replicas, budget_w, high, experiment.seed)
    steer = _Oracle(fleet, budget_w) if policy == "oracle" else _Steered(POLICIES[policy](frame))
    totals = _Totals(experiment, fleet)
    for second, rate in enumerate((shape * requests_per_s).tolist()):
        setting = steer.setting(second, rate)
        served = fleet.step(rate, setting)
        total_w = float(served.board_w.sum()) * experiment.plant.boards_per_replica
        steer.see(Seen(second, total_w, setting))
        totals.add(second, total_w, served.tokens, served.arrivals, served.first_token_s, served.between_tokens_s)
    return totals.figures(policy)


class _Steered:
    """A policy behind its delays: it sees the second before the last, and its answer acts later."""

    def __init__(self, policy: PowerPolicy) -> None:
        self._policy = policy
        self._now = policy.start()
        self._seen: deque[Seen] = deque(maxlen=2)
        self._coming: deque[tuple[int, Setting]] = deque()

    def setting(self, second: int, rate: float) -> Setting:  # noqa: ARG002
        while self._coming and self._coming[0][0] <= second:
            self._now = self._coming.popleft()[1]
        return self._now

    def see(self, seen: Seen) -> None:
        self._seen.append(seen)
        if seen.second % self._policy.period_s or len(self._seen) < 2:
            return
        answer = self._policy.decide(self._seen[0])
        if answer is not None:
            self._coming.append((seen.second + self._policy.delay_s, answer))


class _Oracle:
    """The zero-delay bound: knows the second's expected arrivals and acts in it."""

    def __init__(self, fleet: ServingFleet, budget_w: float) -> None:
        self._fleet, self._budget_w = fleet, budget_w

    def setting(self, second: int, rate: float) -> Setting:  # noqa: ARG002
        return oracle_setting(self._fleet, rate, self._budget_w)

    def see(self, seen: Seen) -> None:
        """Need nothing."""


class _Totals:
    """Adds up a run after its warm-up."""

    def __init__(self, experiment: Experiment, fleet: ServingFleet) -> None:
        self._experiment, self._mix, self._plant = experiment, fleet.mix, fleet.plant
        self._first, self._whole = LogHistogram(), LogHistogram()
        self._loads: list[float] = []
        self._tokens = self._requests = 0.0

    def add(  # noqa: PLR0917
        self, second: int, total_w: float, tokens: Floats, arrivals: Floats, first_s: Floats, between_s: Floats
    ) -> None:
        if second < WARM_S:
            return
        boards = self._experiment.replicas * self._plant.boards_per_replica
        counted_w = total_w if self._experiment.accounting == "gpu" else self._plant.wall_w(total_w, boards)
        self._loads.append(counted_w / self._experiment.budget_w)
        self._tokens += float(tokens.sum())
        self._requests += float(arrivals.sum())
        self._first.add(first_s, arrivals)
        self._whole.add(first_s + self._mix.generated_tokens * between_s, arrivals)

    def figures(self, policy: str) -> RunFigures:
        loads = np.array(self._loads)
        seconds = len(loads)
        megawatts = float(loads.mean()) * self._experiment.budget_w / 1e6
        return RunFigures(
            policy=policy,
            requests_per_s=self._requests / seconds,
            tokens_per_s=self._tokens / seconds,
            first_token_p50_s=self._first.quantile(0.5),
            first_token_p99_s=self._first.quantile(0.99),
            end_to_end_p50_s=self._whole.quantile(0.5),
            end_to_end_p99_s=self._whole.quantile(0.99),
            mean_load=float(loads.mean()),
            peak_load=float(loads.max()),
            seconds_over=int((loads > 1.0005).sum()),
            seconds_over_1pct=int((loads > 1.01).sum()),
            tokens_per_s_per_mw=self._tokens / seconds / megawatts,
        )


def keeps(level: ServiceLevel, run: RunFigures, reference: RunFigures) -> bool:
    """Return whether a run keeps the service level; the bounds may pass the budget by 1 %, the others for 2 s."""
    is_bound = run.policy in {"oracle", "maxp"}
    is_under = run.seconds_over <= level.seconds_over_most and run.seconds_over_1pct == 0
    is_under = run.max_overshoot <= 0.01 if is_bound else is_under
    return (
        run.end_to_end_p50_s <= level.end_to_end_p50_ratio * reference.end_to_end_p50_s
        and run.end_to_end_p99_s <= level.end_to_end_p99_ratio * reference.end_to_end_p99_s
        and run.first_token_p99_s <= level.first_token_p99_s
        and is_under
    )


def largest_load(
    experiment: Experiment, policy: str, reference: RunFigures, level: ServiceLevel, bracket: tuple[float, float]
) -> tuple[float, RunFigures | None]:
    """Return the largest rate that keeps the level, to 0.4 % of the bracket, and its run (None where none keeps it)."""
    low, high = bracket
    best: RunFigures | None = None
    for _ in range(8):
        middle = (low + high) / 2.0
        run = run_policy(experiment, policy, middle)
        if keeps(level, run, reference):
            low, best = middle, run
        else:
            high = middle
    return low, best
