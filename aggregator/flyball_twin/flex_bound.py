"""What no shed can beat: the linear programme over mixes of measured points, pausing and floors, by HiGHS."""

from collections.abc import Sequence

import numpy as np

from flyball_aggregator.flex.shed import ShedClass


def shed_frontier(classes: Sequence[ShedClass], shed: float) -> float | None:
    """Return the best weighted speed at a shed of full power, None where the floors cannot be kept."""
    from scipy.optimize import linprog  # noqa: PLC0415  (slow to import, only here)

    points = [sorted(item.points) + ([] if item.pause_w is None else [(item.pause_w, 0.0)]) for item in classes]
    owner = np.repeat(np.arange(len(classes)), [len(part) for part in points])
    watts = np.array([watt for part in points for watt, _ in part])
    speed = np.array([value for part in points for _, value in part])
    count = np.array([item.count for item in classes], dtype=np.float64)[owner]
    weight = np.array([item.weight for item in classes])[owner]
    is_of = (owner == np.arange(len(classes))[:, None]).astype(np.float64)
    limit_w = (1.0 - shed) * sum(item.full_w for item in classes)
    above = np.vstack([count * watts, -is_of * speed])
    most = np.concatenate([[limit_w], [-item.floor for item in classes]])
    solved = linprog(-weight * speed, A_ub=above, b_ub=most, A_eq=is_of, b_eq=np.ones(len(classes)), bounds=(0, 1))
    return None if solved.status else float(-solved.fun)
