"""How many boards fit a limit: the largest count whose chance of a second above it stays below a risk.

The draw of a board is followed through the serving fleet at its peak hour; the fleet's sum is then taken as normal with
the mean and spread seen (a sum of thousands of boards), its slow part common to all. Ours is assumed to hold.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from flyball_twin.load_shape import LoadTrace, busiest_hour
from flyball_twin.maxlps import TIGHT, WARM_S, Experiment, keeps, largest_load, run_policy
from flyball_twin.maxlps_study import REPLICAS, UNLIMITED_W, reference_rate
from flyball_twin.serving_plants import ServingPlant, TokenMix

COUNTS = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0)


@dataclass(frozen=True, slots=True)
class SizingQuestion:
    """A site limit at the wall, what runs there, and how likely a second above it may be."""

    limit_w: float
    plant: ServingPlant
    mix: TokenMix
    risk: float = 1e-4
    policy: str = "ours"
    seconds: int = 1200


def size(question: SizingQuestion, trace: LoadTrace) -> dict[str, Any]:
    """Return the count of boards with the most goodput at the risk, and the table it was chosen from."""
    plant, mix = question.plant, question.mix
    shape = busiest_hour(trace, question.seconds, WARM_S)
    rate = reference_rate(plant, mix, shape)
    boards = REPLICAS * plant.boards_per_replica
    most_w = plant.wall_w(boards * plant.board_w, boards)
    base = Experiment(plant, mix, shape, "gpu", REPLICAS, UNLIMITED_W, 0)
    reference = run_policy(base, "maxp", rate)
    rows = []
    for more in COUNTS:
        wide = replace(base, accounting="nameplate", budget_w=most_w, replicas=round(REPLICAS * more))
        load, run = largest_load(wide, question.policy, reference, TIGHT, (0.6 * rate, 1.5 * rate * more))
        if run is None:
            continue
        scale = question.limit_w / most_w
        spread = max(run.peak_load - run.mean_load, 1e-6) / _sigmas(question.seconds)
        breach = 1.0 - NormalDist().cdf((1.0 - run.mean_load) / spread)
        rows.append(
            {
                "gpus": int(boards * more * scale),
                "more": more,
                "requests_per_s": round(load * scale, 1),
                "tokens_per_s": round(run.tokens_per_s * scale, 1),
                "end_to_end_p50_s": round(run.end_to_end_p50_s, 3),
                "first_token_p99_s": round(run.first_token_p99_s, 3),
                "breach_probability": float(f"{breach:.3g}"),
                "is_within_risk": breach <= question.risk and keeps(TIGHT, run, reference),
            }
        )
    allowed = [row for row in rows if row["is_within_risk"]]
    best = max(allowed, key=lambda row: float(row["tokens_per_s"])) if allowed else None
    return {
        "limit_megawatts": question.limit_w / 1e6,
        "plant": plant.name,
        "mix": mix.name,
        "risk": question.risk,
        "policy": question.policy,
        "best": best,
        "table": rows,
    }


def _sigmas(seconds: int) -> float:
    """Return how many sigmas the largest of so many normal seconds lies above the mean."""
    return NormalDist().inv_cdf(1.0 - 1.0 / (np.log(2.0) ** -1 * seconds))


def picture(result: dict[str, Any]) -> str:
    """Return the table as bars of tokens per second, for a terminal."""
    rows = result["table"]
    most = max((row["tokens_per_s"] for row in rows), default=1.0)
    lines = []
    for row in rows:
        mark = "" if row["is_within_risk"] else "  above the risk"
        bar = "#" * round(40 * row["tokens_per_s"] / most)
        lines.append(f"{row['gpus']:>9,} GPUs  {bar:<40} {row['tokens_per_s']:>12,.0f} tokens/s{mark}")
    return "\n".join(lines)
