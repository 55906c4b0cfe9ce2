"""How far the plant is from measured boards: speed and power at caps, as residuals that are printed and bounded."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flyball_twin.emerald import SWEEP
from flyball_twin.plant import Demand, Plant, Posted, make_boards

SETTLE_S = 40


@dataclass(frozen=True, slots=True)
class Residual:
    """Model less measurement at each cap of one workload; speeds relative to no cap, watts."""

    workload: str
    board: str
    caps_w: tuple[float, ...]
    speed: tuple[float, ...]
    power_w: tuple[float, ...]

    @property
    def speed_rms(self) -> float:
        """Root of the mean square of the speed residuals."""
        return float(np.sqrt(np.mean(np.square(self.speed))))

    @property
    def power_rms_w(self) -> float:
        """Root of the mean square of the power residuals."""
        return float(np.sqrt(np.mean(np.square(self.power_w))))


def emerald_residuals() -> list[Residual]:
    """Return the plant's A100 against the shipped sweep: inference as decode, the rest as compute."""
    found = []
    for workload, points in SWEEP.items():
        is_decode = workload.startswith("infer")
        caps = tuple(float(cap) for cap, _, _ in points)
        full_w = points[-1][1]
        modelled = [steady("a100", full_w, cap, is_decode=is_decode) for cap in caps]
        top = modelled[-1][0]
        found.append(
            Residual(
                workload,
                "a100",
                caps,
                tuple(speed / top - measured for (speed, _), (_, _, measured) in zip(modelled, points, strict=True)),
                tuple(power - watts for (_, power), (_, watts, _) in zip(modelled, points, strict=True)),
            )
        )
    return found


def zeus_residual(path: Path, board: str, dataset: str) -> Residual:
    """Return the plant against a Zeus sweep: the epoch time and power of one training set at each limit.

    Batch sizes and optimisers are joined by their median, each relative to its own fastest.
    """
    runs: dict[tuple[str, str], dict[float, tuple[float, float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["dataset"] == dataset:
                key = (row["batch_size"], row["optimizer"])
                at = (float(row["time_per_epoch"]), float(row["average_power"]))
                runs.setdefault(key, {})[float(row["power_limit"])] = at
    caps = sorted(set.intersection(*(set(points) for points in runs.values())))
    speed = [float(np.median([run[caps[-1]][0] / run[cap][0] for run in runs.values()])) for cap in caps]
    watts = [float(np.median([run[cap][1] for run in runs.values()])) for cap in caps]
    modelled = [steady(board, watts[-1], cap, is_decode=False) for cap in caps]
    top = modelled[-1][0]
    return Residual(
        dataset,
        board,
        tuple(caps),
        tuple(value / top - seen for (value, _), seen in zip(modelled, speed, strict=True)),
        tuple(power - seen for (_, power), seen in zip(modelled, watts, strict=True)),
    )


def steady(board: str, full_w: float, cap_w: float, *, is_decode: bool) -> tuple[float, float]:
    """Return (relative speed, watts) of a board that settled under a cap, its work drawing `full_w` without one."""
    boards = make_boards([board], 1)
    plant = Plant(boards, seed=0, spread_ratio=0.0, history_rows=4)
    one, nothing = np.ones(1), np.zeros(1)
    watts = np.full(1, full_w)
    shares = (nothing, one) if is_decode else (one, nothing)
    demand = Demand(*shares, watts, watts, np.ones(1, bool))
    limit_w = np.clip(np.full(1, cap_w), boards.min_limit_w, boards.max_limit_w)
    posted = Posted(limit_w, one, np.zeros(1, bool), nothing)
    speeds, powers = [], []
    for second in range(SETTLE_S):
        plant.step(1.0, demand, posted)
        if second >= SETTLE_S // 2:
            speeds.append(float((plant.decode_speed if is_decode else plant.compute_speed)[0]))
            powers.append(float(plant.power_w[0]))
    return float(np.mean(speeds)), float(np.mean(powers))
