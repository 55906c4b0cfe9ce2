"""The whole evidence: every experiment behind docs/evidence.md, and that page written from its figures."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from flyball_twin.calibration import emerald_residuals
from flyball_twin.flex_study import CASES, FlexQuestion, answer_flex
from flyball_twin.load_shape import sample_trace
from flyball_twin.maxlps_study import Question, answer, answer_day
from flyball_twin.serving_plants import H100, SERVING_PLANTS, TOKEN_MIXES

PUBLISHED = ("static80", "polca", "polca_fast", "three_band", "random_release", "waterfill")
SHORT_S = 900
HEAD = """# Evidence

Written by `flyball twin evidence`; every figure below is simulated, by the command beside it, and comes out the same
again. Ratios are goodput over what the uncapped fleet itself reaches with the budget's own number of boards, at the
same service level: median and 99th percentile of the whole request within 10 % of the uncapped fleet at its reference
load, time to the first token within 10.4 times the unloaded prefill, at most two seconds above the budget and none by
more than 1 %.

`ours` here locks clocks by prediction: the sum of caps may pass the budget (statistical headroom), the predicted power
and 4.5 of its errors may not. The control that leads a live site partitions hard: there the sum of caps never passes
the limit, which costs what lies between `ours` and `static` below wherever load is even. The scenario runs use that
one (`flyball twin run`).

The size of that guard (4.5 errors) was chosen on these seeds and this trace; others are not yet tried. In the grid
experiment the strictest tier's share, the noise margin and the length of the rebound limit were set after seeing
results, the plant's cap error there is ±0.5 % instead of the measured 0.4 to 1.5 % below the cap, and the goal of
0.903 is reached only by using the 0.5 % tolerance of compliance.
"""
LIMITS = """## What the plant does not model

- Requests of one mix are all alike; queues are fluid and a step is a second. Batching delays, the engine's own
  scheduling and the network are left out, so medians near saturation are too sensitive and tails not enough.
- H100 and B200 curves are modelled from A100, V100, A40 and B300 measurements (within about 6 %); the A100 and B200
  serving tables are scaled from the H100's. Locked clocks are taken to slow both phases along those same curves.
- One site level in the MaxLPS experiment; no thermal coupling between hosts; noise of the load is assumed.
- The grid ensemble takes the published sweep as it is: swings inside a second, pausing and resuming are left out, and
  following the target makes use of the half percent above it that still counts as compliant.
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One experiment of the page."""

    table: str
    job: Callable[..., dict[str, Any]]
    question: Question | FlexQuestion


def cells(*, is_small: bool = False) -> Iterator[Cell]:
    """Yield all experiments, or the few that a quick check runs."""
    base = Question("gpu", 1.4, seeds=(0,), seconds=SHORT_S)
    mains: tuple[tuple[str, float], ...] = (("gpu", 1.4), ("nameplate", 1.4))
    if not is_small:
        mains = (*mains, ("nameplate", 1.5), ("gpu", 1.5), ("gpu", 1.6))
    for accounting, more in mains:
        kind: Any = accounting
        yield Cell("main", _maxlps, replace(base, accounting=kind, more=more, seeds=(0,) if is_small else (0, 1)))
    if not is_small:
        for policy in PUBLISHED:
            alone = replace(base, policy=policy, has_bounds=False)  # its bounds stand in the table of ours
            yield Cell("policies", _maxlps, alone)
            yield Cell("policies", _maxlps, replace(alone, accounting="nameplate"))
        for name, mix in TOKEN_MIXES.items():
            for plant in SERVING_PLANTS.values():
                if (name, plant) != ("chat", H100):
                    yield Cell("mixes", _maxlps, replace(base, mix=mix, plant=plant))
    for case in CASES if not is_small else CASES[:1]:
        yield Cell("grid", _flex, FlexQuestion(case=case, seeds=(0,) if is_small else (0, 1, 2), hold_s=3600))


def _maxlps(question: Question) -> dict[str, Any]:
    return answer(question, sample_trace())


def _day(question: Question) -> dict[str, Any]:
    return answer_day(question, sample_trace())


def _flex(question: FlexQuestion) -> dict[str, Any]:
    return answer_flex(question)


def run_cell(cell: Cell) -> tuple[str, dict[str, Any]]:
    """Return the table and the figures of one experiment."""
    return cell.table, cell.job(cell.question)


def gather(*, is_small: bool, jobs: int, progress: Callable[[int, int], None]) -> list[tuple[str, dict[str, Any]]]:
    """Return the figures of all experiments in the page's order."""
    todo = list(cells(is_small=is_small))
    if not is_small:
        for accounting, more in (("gpu", 1.4), ("nameplate", 1.5)):
            kind: Any = accounting
            todo += [
                Cell("day", _day, Question(kind, more, policy=policy, seeds=(0,))) for policy in ("ours", "static")
            ]
    found = []
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for done, result in enumerate(pool.map(run_cell, todo), start=1):
            found.append(result)
            progress(done, len(todo))
    return found


MAXLPS_COLUMNS = (
    "plant", "mix", "accounting", "more", "policy", "goodput_ratio", "goodput_ratio_min", "goodput_ratio_max",
    "static_ratio", "oracle_ratio", "bound_ratio", "gap_closed", "p50_penalty", "p99_penalty", "seconds_over",
    "seconds_over_1pct", "max_overshoot",
)  # fmt: skip
DAY_COLUMNS = (
    "accounting", "more", "policy", "p50_penalty", "p99_penalty", "seconds_over", "seconds_over_1pct", "max_overshoot",
)  # fmt: skip
GRID_COLUMNS = (
    "case", "response_s", "compliance", "tracking_rmse", "over_shed", "weighted_performance", "strictest_performance",
    "bound_weighted_performance", "bound_with_strictest_kept", "rebound", "release_ramp_w_per_s",
)  # fmt: skip
SECTIONS = (
    ("main", "Ours by accounting and number of boards (chat, H100)", MAXLPS_COLUMNS,
     "flyball twin maxlps --accounting gpu|nameplate --more N --seconds 900 --seeds 2"),
    ("policies", "Published policies on the same work", MAXLPS_COLUMNS,
     "flyball twin maxlps --policy P --more 1.4 --seconds 900 --seeds 1"),
    ("mixes", "Workloads and boards (GPU accounting, 1.4 times the boards)", MAXLPS_COLUMNS,
     "flyball twin maxlps --mix M --plant P --more 1.4 --seconds 900 --seeds 1"),
    ("day", "A whole weekday at equal load per board", DAY_COLUMNS, "flyball twin maxlps --day"),
    ("grid", "A quarter less for an hour: six published jobs on 256 A100", GRID_COLUMNS,
     "flyball twin flex --case C --hold 3600"),
)  # fmt: skip


def render(found: list[tuple[str, dict[str, Any]]]) -> str:
    """Return the page."""
    parts = [HEAD]
    for table, title, columns, command in SECTIONS:
        rows = [figures for name, figures in found if name == table]
        if rows:
            parts.append(f"## {title}\n\n`{command}`\n\n{_table(columns, rows)}")
    parts.append(f"## Plant against measurement\n\nModel less measured, A100, caps of 100 to 400 W.\n\n{_residuals()}")
    parts.append(LIMITS)
    return "\n".join(parts)


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|" + "---|" * len(columns)]
    lines += [
        "| " + " | ".join("–" if row.get(name) is None else str(row[name]) for name in columns) + " |" for row in rows
    ]
    return "\n".join(lines) + "\n"


def _residuals() -> str:
    rows = [
        {"workload": item.workload, "speed rms": f"{item.speed_rms:.3f}", "power rms W": f"{item.power_rms_w:.1f}"}
        for item in emerald_residuals()
    ]
    return _table(("workload", "speed rms", "power rms W"), rows)
