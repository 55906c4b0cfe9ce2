"""Policies that hold a serving fleet under its watts, each as its paper says, ours beside them.

A policy sees what its meters showed a telemetry delay ago and answers with caps and clocks that act an actuation delay
later. Bounds of POLCA's clocks as power caps: P ~ f V^2 with the measured voltages (power_curves).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from flyball_twin.power_curves import Floats
from flyball_twin.serving import ServingFleet, Setting
from flyball_twin.serving_plants import ServingPlant


@dataclass(frozen=True, slots=True)
class Frame:
    """What does not change during a run: watts are of all boards together."""

    plant: ServingPlant
    replicas: int
    budget_w: float
    is_high_priority: np.ndarray  # (replicas,)
    seed: int

    @property
    def boards(self) -> int:
        """Number of boards."""
        return self.replicas * self.plant.boards_per_replica

    @property
    def fair_cap_w(self) -> float:
        """Cap of each board whose sum is the budget, inside the board's limits."""
        return float(np.clip(self.budget_w / self.boards, self.plant.minimum_cap_w, self.plant.board_w))

    def uniform(self, cap_w: float, dynamic_ratio: float = 1.0) -> Setting:
        """Return one setting for all, inside the board's limits."""
        cap_w = float(np.clip(cap_w, self.plant.minimum_cap_w, self.plant.board_w))
        return Setting.uniform(self.replicas, cap_w, dynamic_ratio)


@dataclass(frozen=True, slots=True)
class Seen:
    """One second at the meters: its end, the watts of all boards, and what was in force while they were drawn."""

    second: int
    total_w: float
    setting: Setting


class PowerPolicy(Protocol):
    """Decides every `period_s`; `delay_s` later its answer is in force."""

    period_s: int
    delay_s: int

    def start(self) -> Setting:
        """Return what is in force at first."""
        ...

    def decide(self, seen: Seen) -> Setting | None:
        """Return the next setting, None to leave it."""
        ...


@dataclass
class Fixed:
    """Never changes: no caps, the fair share of the budget, or a share of the board's power."""

    frame: Frame
    cap_w: float
    period_s: int = 3600
    delay_s: int = 1

    def start(self) -> Setting:
        """Return the caps."""
        return self.frame.uniform(self.cap_w)

    def decide(self, seen: Seen) -> Setting | None:  # noqa: ARG002
        """Leave them."""
        return None


@dataclass
class Polca:
    """Two thresholds and a brake (Patel et al., ASPLOS 2024): low priority slows at 80 %, all at 89 % of the budget.

    Clocks 1275 and 1110 MHz (low) and 1305 MHz (high priority) of 1410 MHz as power caps; released 5 % below.
    """

    frame: Frame
    delay_s: int = 40  # out-of-band; 1 is the fast variant
    brake_s: int = 10
    period_s: int = 2
    _level: int = 0
    _brake_until: int = -1

    def start(self) -> Setting:
        """Return no caps."""
        return self.frame.uniform(self.frame.plant.board_w)

    def decide(self, seen: Seen) -> Setting | None:
        """Follow the thresholds."""
        load = seen.total_w / self.frame.budget_w
        before, was_braked = self._level, seen.second < self._brake_until
        if load > 1.0:
            self._brake_until = seen.second + self.brake_s + (5 if self.delay_s > 5 else 0)
            return self.frame.uniform(self.frame.plant.minimum_cap_w)
        if load > 0.89:
            self._level = 2
        elif load > 0.80 and self._level < 1:
            self._level = 1
        elif load < 0.75:
            self._level = 0
        elif load < 0.84 and self._level == 2:
            self._level = 1
        if was_braked or (self._level == before and self._brake_until < 0):
            return None
        self._brake_until = -1
        return self._at_level()

    def _at_level(self) -> Setting:
        board_w, high = self.frame.plant.board_w, self.frame.is_high_priority
        low_w, high_w = ((1.0, 1.0), (0.80, 1.0), (0.62, 0.85))[self._level]
        return Setting(np.where(high, high_w, low_w) * board_w, np.ones(self.frame.replicas))


@dataclass
class ThreeBand:
    """Cut to 95 % above 99 %, release below 90 % of the budget (Dynamo, ISCA 2016)."""

    frame: Frame
    period_s: int = 3
    delay_s: int = 2
    _cap_w: float = field(init=False)

    def __post_init__(self) -> None:
        """Start uncapped."""
        self._cap_w = self.frame.plant.board_w

    def start(self) -> Setting:
        """Return no caps."""
        return self.frame.uniform(self._cap_w)

    def decide(self, seen: Seen) -> Setting | None:
        """Cut by what is too much, spread over all; release all at once."""
        load = seen.total_w / self.frame.budget_w
        if load > 0.99:
            mean_w = seen.total_w / self.frame.boards
            self._cap_w = min(self._cap_w, mean_w) - (load - 0.95) * self.frame.budget_w / self.frame.boards
        elif load < 0.90:
            self._cap_w = self.frame.plant.board_w
        else:
            return None
        self._cap_w = max(self._cap_w, self.frame.plant.minimum_cap_w)
        return self.frame.uniform(self._cap_w)


@dataclass
class RandomRelease:
    """Multiplicative decrease, random release (Thunderbolt, OSDI 2020): 0.75 near the budget, 0.01 above it."""

    frame: Frame
    period_s: int = 1
    delay_s: int = 2
    _share: Floats = field(init=False)
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        """Start uncapped."""
        self._share = np.ones(self.frame.replicas)
        self._random = np.random.default_rng(self.frame.seed + 7)

    def start(self) -> Setting:
        """Return no caps."""
        return self._setting()

    def decide(self, seen: Seen) -> Setting | None:
        """Decrease all together, release each at random within minutes."""
        load = seen.total_w / self.frame.budget_w
        if load > 0.98:
            self._share = np.maximum(self._share * (0.75 if load <= 1.0 else 0.01), 0.0)
        elif load < 0.95:
            released = self._random.random(self.frame.replicas) < 1.0 / 60.0
            self._share = np.where(released, 1.0, self._share)
        else:
            return None
        return self._setting()

    def _setting(self) -> Setting:
        plant = self.frame.plant
        return Setting(
            plant.minimum_cap_w + (plant.board_w - plant.minimum_cap_w) * self._share, np.ones_like(self._share)
        )


@dataclass
class WaterFill:
    """One cap for all, by an integral of what measured power leaves under 97 % of the budget."""

    frame: Frame
    period_s: int = 2
    delay_s: int = 1
    _cap_w: float = field(init=False)

    def __post_init__(self) -> None:
        """Start uncapped."""
        self._cap_w = self.frame.plant.board_w

    def start(self) -> Setting:
        """Return no caps."""
        return self.frame.uniform(self._cap_w)

    def decide(self, seen: Seen) -> Setting | None:
        """Step towards the target, down faster than up."""
        scale = self.frame.plant.board_w / 700.0
        missing_w = 0.7 * (self.frame.budget_w * 0.97 - seen.total_w) / self.frame.boards
        change_w = float(np.clip(missing_w, -150.0 * scale, 25.0 * scale))
        self._cap_w = float(np.clip(self._cap_w + change_w, self.frame.plant.minimum_cap_w, self.frame.plant.board_w))
        return self.frame.uniform(self._cap_w)


@dataclass
class Headroom:
    """Ours: clocks for all at the highest level whose predicted power, and 4.5 of its errors, fit.

    A lock slows prefill and decode alike, which costs less speed for a watt than a cap that falls on prefill alone.
    The prediction scales the dynamic part of measured power with the lock; its error is followed, so the margin is as
    small as the load is steady. It needs no word from the serving engine. Where the fair cap does as well, it stands
    in: then the sum of caps is the budget.
    """

    frame: Frame
    period_s: int = 1
    delay_s: int = 1
    guard_sigmas: float = 4.5
    _variance: float = field(init=False)
    _estimates: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        """Start with an error of 1.5 % of the budget."""
        self._variance = (0.015 * self.frame.budget_w) ** 2
        self._estimates = deque(maxlen=self.delay_s + 1)  # an answer acts that many seconds after what it was made from

    def _start_ratio(self) -> float:
        plant = self.frame.plant
        return float(np.clip((self.frame.fair_cap_w - plant.idle_w) / (plant.board_w - plant.idle_w), 0.05, 1.0))

    def start(self) -> Setting:
        """Return the lock at which a board at its greatest draws its fair share."""
        return self.frame.uniform(self.frame.plant.board_w, self._start_ratio())

    def decide(self, seen: Seen) -> Setting | None:
        """Follow the dynamic power at full clocks and leave room for its errors."""
        frame = self.frame
        idle_w = frame.plant.idle_w * frame.boards
        in_force = float(seen.setting.dynamic_ratio[0])
        full_w = max(seen.total_w - idle_w, 0.0) / in_force  # dynamic power at unlocked clocks
        self._learn(full_w, in_force)
        guard_w = self.guard_sigmas * self._variance**0.5
        room_w = frame.budget_w - idle_w - guard_w
        return frame.uniform(frame.plant.board_w, float(np.clip(room_w / max(self._estimates[-1], 1.0), 0.05, 1.0)))

    def _learn(self, full_w: float, in_force: float) -> None:
        """Take in one second, and how far off the estimate was that its lock was made from."""
        if len(self._estimates) == self._estimates.maxlen:
            error_w = (full_w - self._estimates[0]) * in_force
            self._variance = 0.995 * self._variance + 0.005 * error_w**2
        before_w = self._estimates[-1] if self._estimates else full_w
        self._estimates.append(before_w + 0.5 * (full_w - before_w))


POLICIES: dict[str, Callable[[Frame], PowerPolicy]] = {
    "maxp": lambda frame: Fixed(frame, frame.plant.board_w),
    "static": lambda frame: Fixed(frame, frame.fair_cap_w),
    "static80": lambda frame: Fixed(frame, 0.8 * frame.plant.board_w),
    "polca": Polca,
    "polca_fast": lambda frame: Polca(frame, delay_s=1),
    "three_band": ThreeBand,
    "random_release": RandomRelease,
    "waterfill": WaterFill,
    "ours": Headroom,
}


def oracle_setting(fleet: ServingFleet, requests_per_s: float, budget_w: float) -> Setting:
    """Return the highest cap for all that fits this very second, its expected arrivals known: the zero-delay bound."""
    low_w, high_w = fleet.plant.minimum_cap_w, fleet.plant.board_w
    limit_w = budget_w * 0.995
    total_w = fleet.expected_w(requests_per_s)
    low_gap_w, high_gap_w = limit_w - total_w(low_w), limit_w - total_w(high_w)
    if high_gap_w >= 0.0:
        return Setting.uniform(fleet.replicas, high_w)
    if low_gap_w <= 0.0:
        return Setting.uniform(fleet.replicas, low_w)
    for _ in range(6):  # false position with halving of the kept side: to about a tenth of a watt
        cap_w = low_w + (high_w - low_w) * low_gap_w / (low_gap_w - high_gap_w)
        gap_w = limit_w - total_w(cap_w)
        if gap_w >= 0.0:
            low_w, low_gap_w, high_gap_w = cap_w, gap_w, high_gap_w / 2.0
        else:
            high_w, high_gap_w, low_gap_w = cap_w, gap_w, low_gap_w / 2.0
    return Setting.uniform(fleet.replicas, low_w)
