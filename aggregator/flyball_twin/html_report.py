"""A run as one self-contained page: power against limit, caps and commitments, figures beside the baselines."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flyball_twin.scenario_run import ScenarioRun, Series

WIDTH, HEIGHT, LEFT = 960, 240, 70
POINTS_MOST = 900
ASSUMPTIONS = (
    "Power and speed follow relative curves measured on A100, V100, A40 and B300; others are modelled from them (6 %).",
    "One step is one second: bursts inside it appear through their mean, as a breaker's thermal path sees them.",
    "Requests of a service are all alike and wait in fluid queues; a replica is four GPUs of one host.",
    "Training jobs step together; 15 % of a step is communication at 60 % of peak power.",
    "Caps act within 0.2 s of their write, messages take the scenario's delay; only events lose any.",
    "Not modelled: the network, heat of rooms, time to pause and resume work, power of switches and storage.",
)
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1c2430}"
    "table{border-collapse:collapse;width:100%}"
    "td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #dde}"
    "td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto;background:#f7f8fb}"
    ".pass{color:#106b3a}.fail{color:#a31621}figcaption{color:#556}"
)
Line = tuple[str, str, Sequence[float]]


def render_report(title: str, run: ScenarioRun, results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page; `results` are the figures of this run first, then of its baselines."""
    series = run.series
    missed = results[0]["goals_missed"]
    verdict = "every goal is kept" if not missed else "missed: " + "; ".join(missed)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="{"pass" if not missed else "fail"}">{html.escape(verdict)}</p>',
        _figure("Wall power of the site", "MW", _power_lines(series)),
        _figure("GPU caps and what the ledger counts", "MW", _cap_lines(series)),
        _figure("Work done of work asked", "share", (("work", "#106b3a", series.work_ratio),)),
        "<h2>Figures</h2>",
        _table(results),
        "<h2>What was assumed</h2><ul>",
        *(f"<li>{html.escape(text)}</li>" for text in ASSUMPTIONS),
        "</ul>",
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _power_lines(series: Series) -> tuple[Line, ...]:
    return (
        ("without control", "#b9c0d0", _mega(series.uncapped_w)),
        ("limit", "#a31621", _mega(series.limit_w)),
        ("grid target", "#c98a00", _mega(series.target_w)),
        ("drawn", "#1f4e9c", _mega(series.power_w)),
    )


def _cap_lines(series: Series) -> tuple[Line, ...]:
    return (("commitments", "#a31621", _mega(series.committed_w)), ("caps", "#1f4e9c", _mega(series.cap_w)))


def _mega(values: Sequence[float]) -> list[float]:
    return [value / 1e6 for value in values]


def _figure(title: str, unit: str, lines: Sequence[Line]) -> str:
    known = [value for _, _, values in lines for value in values if not math.isnan(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    span = high - low or max(abs(high), 1e-9)
    low, high = low - 0.05 * span, high + 0.05 * span
    drawn = "".join(_polyline(values, colour, low, high) for _, colour, values in lines)
    legend = "".join(
        f'<text x="{LEFT + 10 + 170 * place}" y="16" fill="{colour}" font-size="13">{html.escape(name)}</text>'
        for place, (name, colour, _) in enumerate(lines)
    )
    marks = "".join(
        f'<text x="4" y="{_y(value, low, high) + 4:.0f}" font-size="12">{value:.4g}</text>'
        for value in (low + 0.05 * span, (low + high) / 2.0, high - 0.05 * span)
    )
    seconds = max(len(values) for _, _, values in lines)
    caption = f"{title}, {unit}, over {seconds} s"
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(caption)}">'
    return f"<figure>{picture}{drawn}{legend}{marks}</svg><figcaption>{html.escape(caption)}</figcaption></figure>"


def _polyline(values: Sequence[float], colour: str, low: float, high: float) -> str:
    """Return a line through the largest value of each stretch, so that no excursion is lost; gaps stay gaps."""
    stretch = max(1, len(values) // POINTS_MOST)
    pieces: list[list[str]] = [[]]
    for start in range(0, len(values), stretch):
        known = [value for value in values[start : start + stretch] if not math.isnan(value)]
        if not known:
            pieces.append([])
            continue
        across = LEFT + (WIDTH - LEFT - 10) * start / max(len(values) - 1, 1)
        pieces[-1].append(f"{across:.1f},{_y(max(known), low, high):.1f}")
    return "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{" ".join(piece)}"/>'
        for piece in pieces
        if piece
    )


def _y(value: float, low: float, high: float) -> float:
    return 24 + (HEIGHT - 34) * (high - value) / (high - low)


def _table(results: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in results[0] if name not in {"goals_missed", "control"}]
    head = "".join(f"<th>{html.escape(str(result['control']))}</th>" for result in results)
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{_cell(result.get(name))}</td>" for result in results)
        + "</tr>"
        for name in names
    )
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: object) -> str:
    return "–" if value is None else html.escape(f"{value:,}" if isinstance(value, int | float) else str(value))
