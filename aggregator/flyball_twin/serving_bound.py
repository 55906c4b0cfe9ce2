"""What phase-aware power could reach at most: the linear programme over each phase's measured points, by HiGHS."""

import numpy as np

from flyball_twin.maxlps import Accounting
from flyball_twin.serving_plants import ServingPlant, TokenMix

UTILISATION = 0.70  # of a board's time, what multiplexing leaves (protocol)
TYPICAL_BATCH = 96.0


def phase_bound(plant: ServingPlant, mix: TokenMix, accounting: Accounting, more: float) -> float:
    """Return the largest load over that of the uncapped fleet, both at the same mean utilisation of their boards.

    The variables are shares of a board's time at each point of each phase's curve; prefill and decode must do equal
    numbers of requests. It knows no queue, no second and no latency: an upper bound, not a forecast.
    """
    from scipy.optimize import linprog  # noqa: PLC0415  (slow to import, only here)

    ratio = plant.curves.power_ratio
    decode_w = float(np.interp(TYPICAL_BATCH, plant.batch, plant.batch_w))
    token_s = float(np.interp(TYPICAL_BATCH, plant.batch, plant.batch_ms)) / 1e3
    prefill_s = mix.prompt_tokens / plant.prefill_tokens_per_s
    decode_s = mix.generated_tokens * token_s / TYPICAL_BATCH
    watts = np.concatenate([ratio * plant.prefill_w, ratio * decode_w, [plant.idle_w]])
    prefill_rate = np.concatenate([plant.curves.compute / prefill_s, np.zeros(len(ratio) + 1)])
    decode_rate = np.concatenate([np.zeros(len(ratio)), plant.curves.decode / decode_s, [0.0]])
    budget_w = plant.board_w if accounting == "gpu" else plant.boards_w(plant.nameplate_w / more, 1.0) * more
    busy = np.concatenate([np.ones(2 * len(ratio)), [0.0]])
    solved = linprog(
        -prefill_rate,
        A_ub=np.vstack([watts * more, busy]),
        b_ub=[budget_w, UTILISATION],
        A_eq=np.vstack([prefill_rate - decode_rate, np.ones(len(watts))]),
        b_eq=[0.0, 1.0],
        bounds=(0, 1),
    )
    if solved.status:
        return 0.0
    own = UTILISATION / (prefill_s + decode_s)
    return float(-solved.fun) * more / own
