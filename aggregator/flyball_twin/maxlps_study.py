"""One MaxLPS question answered over several seeds: a policy between the static cap and the oracle."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from flyball_twin.load_shape import DAY_S, HOUR_S, LoadTrace, busiest_hour, every_second
from flyball_twin.maxlps import (
    LOOSE,
    TIGHT,
    WARM_S,
    Accounting,
    Experiment,
    RunFigures,
    ServiceLevel,
    largest_load,
    run_policy,
)
from flyball_twin.serving_bound import phase_bound
from flyball_twin.serving_plants import H100, TOKEN_MIXES, ServingPlant, TokenMix

REPLICAS = 250  # 1,000 boards at the budget's count
REFERENCE_RATE = 993.0  # requests/s of 1,000 H100 with chat tokens: 81 % of board power, TTFT p99 0.70 s
REFERENCE_FIRST_TOKEN = 6.06  # that TTFT p99 over the unloaded prefill; sets the reference load elsewhere
LEVEL_FIRST_TOKEN = 10.4  # 1.2 s over the same
UNLIMITED_W = 1e12
DAY_PEAK_RATIO = 0.9407  # busiest hour of the published day over its plotted peak, to which its load is scaled
REFERENCE_SHARE = 0.8275  # the reference rate over the load at that peak
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; `more` is boards over the budget's own count."""

    accounting: Accounting
    more: float
    policy: str = "ours"
    plant: ServingPlant = H100
    mix: TokenMix = TOKEN_MIXES["chat"]
    level: ServiceLevel = TIGHT
    seeds: tuple[int, ...] = (0, 1, 2)
    seconds: int = HOUR_S
    has_bounds: bool = True  # also find the static cap's and the oracle's loads


def mix_of(trace: LoadTrace, mix: TokenMix) -> TokenMix:
    """Return the trace's own tokens where it has them."""
    if trace.prompt_tokens is None or trace.generated_tokens is None:
        return mix
    return TokenMix(f"{mix.name} by {trace.name}", trace.prompt_tokens, max(trace.generated_tokens, 1.0))


def answer(question: Question, trace: LoadTrace, jobs: int = 1, progress: Progress | None = None) -> dict[str, Any]:
    """Return the figures by the names of the protocol, means over the seeds, with each seed's ratio."""
    mix = mix_of(trace, question.mix)
    question = replace(question, mix=mix, level=_scaled_level(question, mix))
    shape = busiest_hour(trace, question.seconds, WARM_S)
    rate = reference_rate(question.plant, mix, shape)
    work = [(question, shape, rate, seed) for seed in question.seeds]
    cells = _map(_answer_seed, work, jobs, progress)
    return _joined(question, trace, rate, cells)


def reference_rate(plant: ServingPlant, mix: TokenMix, shape: np.ndarray) -> float:
    """Return the mean requests/s of 1,000 uncapped boards at the reference: as busy as the published H100 case."""
    if plant.name == H100.name and _is_chat(mix):
        return REFERENCE_RATE
    unloaded_s = mix.prompt_tokens / plant.prefill_tokens_per_s
    decode_s = mix.generated_tokens * float(np.interp(plant.batch_max, plant.batch, plant.batch_ms)) / 1e3
    most = REPLICAS / (unloaded_s + decode_s / plant.batch_max)
    base = _experiment(plant, mix, shape, "gpu", 1.0, 0, UNLIMITED_W)
    level = ServiceLevel(np.inf, np.inf, REFERENCE_FIRST_TOKEN * unloaded_s)
    idle = run_policy(base, "maxp", 0.05 * most)
    return largest_load(base, "maxp", idle, level, (0.1 * most, 1.1 * most))[0]


def answer_day(question: Question, trace: LoadTrace) -> dict[str, Any]:
    """Return the latency penalty over a whole day at equal load per board, against the uncapped fleet, one seed."""
    rate = every_second(trace)[: DAY_S + WARM_S]
    busiest = np.convolve(rate, np.ones(HOUR_S) / HOUR_S, "valid").max() if len(rate) >= HOUR_S else rate.max()
    shape = rate / busiest * DAY_PEAK_RATIO
    mix = mix_of(trace, question.mix)
    load = reference_rate(question.plant, mix, shape) / REFERENCE_SHARE
    seed = question.seeds[0]
    base = _experiment(question.plant, mix, shape, "gpu", 1.0, seed, UNLIMITED_W)
    reference = run_policy(base, "maxp", load)
    budget_w = budget_of(question.plant, question.accounting)
    wide = _experiment(question.plant, mix, shape, question.accounting, question.more, seed, budget_w)
    run = run_policy(wide, question.policy, load * question.more)
    return {
        "accounting": question.accounting,
        "more": question.more,
        "policy": question.policy,
        "plant": question.plant.name,
        "seconds": len(shape) - WARM_S,
        "p50_penalty": round(run.end_to_end_p50_s / reference.end_to_end_p50_s - 1.0, 4),
        "p99_penalty": round(run.end_to_end_p99_s / reference.end_to_end_p99_s - 1.0, 4),
        "seconds_over": run.seconds_over,
        "seconds_over_1pct": run.seconds_over_1pct,
        "max_overshoot": round(run.max_overshoot, 5),
        "mean_use_of_budget": round(run.mean_load, 4),
    }


def _is_chat(mix: TokenMix) -> bool:
    chat = TOKEN_MIXES["chat"]
    close = abs(mix.prompt_tokens / chat.prompt_tokens - 1.0) < 0.01
    return close and abs(mix.generated_tokens / chat.generated_tokens - 1.0) < 0.01


def _scaled_level(question: Question, mix: TokenMix) -> ServiceLevel:
    unloaded_s = mix.prompt_tokens / question.plant.prefill_tokens_per_s
    base = question.level.first_token_p99_s / TIGHT.first_token_p99_s
    first_s = 1.2 if question.plant.name == H100.name and _is_chat(mix) else LEVEL_FIRST_TOKEN * unloaded_s
    return replace(question.level, first_token_p99_s=base * first_s)


def budget_of(plant: ServingPlant, accounting: Accounting) -> float:
    """Return the budget of 1,000 boards: their own power, or the rated power of their hosts."""
    boards = REPLICAS * plant.boards_per_replica
    return boards * (plant.board_w if accounting == "gpu" else plant.nameplate_w)


def _experiment(  # noqa: PLR0917
    plant: ServingPlant,
    mix: TokenMix,
    shape: np.ndarray,
    accounting: Accounting,
    more: float,
    seed: int,
    budget_w: float,
) -> Experiment:
    return Experiment(plant, mix, shape, accounting, round(REPLICAS * more), budget_w, seed)


@dataclass(frozen=True, slots=True)
class _Cell:
    """One seed: loads over the uncapped fleet's own largest, and runs at the best and at equal load per board."""

    ratio: float
    static_ratio: float | None
    oracle_ratio: float | None
    best: RunFigures | None
    equal: RunFigures
    reference: RunFigures


def _answer_seed(work: tuple[Question, np.ndarray, float, int]) -> _Cell:
    question, shape, rate, seed = work
    plant, mix, level = question.plant, question.mix, question.level
    base = _experiment(plant, mix, shape, "gpu", 1.0, seed, UNLIMITED_W)
    reference = run_policy(base, "maxp", rate)
    own, _ = largest_load(base, "maxp", reference, level, (0.6 * rate, 1.5 * rate))
    budget_w = budget_of(plant, question.accounting)
    wide = _experiment(plant, mix, shape, question.accounting, question.more, seed, budget_w)
    bracket = (0.6 * rate, 1.5 * rate * question.more)

    def ratio(policy: str) -> tuple[float, RunFigures | None]:
        load, best = largest_load(wide, policy, reference, level, bracket)
        return (load / own if best is not None else 0.0), best

    mine, best = ratio(question.policy)
    equal = run_policy(wide, question.policy, rate * question.more)
    static, oracle = (ratio("static")[0], ratio("oracle")[0]) if question.has_bounds else (None, None)
    return _Cell(mine, static, oracle, best, equal, reference)


def _joined(question: Question, trace: LoadTrace, rate: float, cells: list[_Cell]) -> dict[str, Any]:
    static, oracle = _mean([c.static_ratio for c in cells]), _mean([c.oracle_ratio for c in cells])
    mine = fmean(c.ratio for c in cells)
    runs = [run for c in cells for run in (c.best, c.equal) if run is not None]
    best = [c.best for c in cells if c.best is not None]
    ratios = [c.ratio for c in cells]
    return {
        "accounting": question.accounting,
        "more": question.more,
        "policy": question.policy,
        "plant": question.plant.name,
        "mix": question.mix.name,
        "trace": trace.name,
        "seeds": list(question.seeds),
        "seconds": question.seconds,
        "reference_requests_per_s": round(rate, 1),
        "goodput_ratio": round(mine, 4),
        "goodput_ratio_min": round(min(ratios), 4),
        "goodput_ratio_max": round(max(ratios), 4),
        "goodput_ratio_by_seed": [round(ratio, 4) for ratio in ratios],
        "static_ratio": static,
        "oracle_ratio": oracle,
        "bound_ratio": round(phase_bound(question.plant, question.mix, question.accounting, question.more), 4),
        "gap_closed": _gap_closed(mine, static, oracle),
        "tokens_per_s_per_mw": round(fmean(run.tokens_per_s_per_mw for run in best), 1) if best else None,
        "p50_penalty": round(fmean(c.equal.end_to_end_p50_s / c.reference.end_to_end_p50_s for c in cells) - 1.0, 4),
        "p99_penalty": round(fmean(c.equal.end_to_end_p99_s / c.reference.end_to_end_p99_s for c in cells) - 1.0, 4),
        "seconds_over": max(run.seconds_over for run in runs),
        "seconds_over_1pct": max(run.seconds_over_1pct for run in runs),
        "max_overshoot": round(max(run.max_overshoot for run in runs), 5),
        "mean_use_of_budget": round(fmean(run.mean_load for run in best), 4) if best else None,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(fmean(known), 4) if known else None


def _gap_closed(mine: float, static: float | None, oracle: float | None) -> float | None:
    """Return the share of the way from the static cap to the oracle; None where there is no way."""
    if static is None or oracle is None or oracle <= static:
        return None
    return round((mine - static) / (oracle - static), 4)


def _map(job: Callable[[Any], _Cell], work: list[Any], jobs: int, progress: Progress | None) -> list[_Cell]:
    if jobs <= 1 or len(work) <= 1:
        return _collect((job(item) for item in work), len(work), progress)
    with ProcessPoolExecutor(max_workers=min(jobs, len(work))) as pool:
        return _collect(pool.map(job, work), len(work), progress)


def _collect(answers: Iterable[_Cell], total: int, progress: Progress | None) -> list[_Cell]:
    cells = []
    for cell in answers:
        cells.append(cell)
        if progress is not None:
            progress(len(cells), total)
    return cells


LEVELS = {"tight": TIGHT, "loose": LOOSE}
