"""`flyball twin run`: a scenario against the real control code, faster than time."""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flyball_cli.twin_output import ProgressLine, add_json, print_result
from flyball_wire.errors import ConfigError

if TYPE_CHECKING:
    from flyball_twin.scenario_run import ScenarioRun

EXIT_MISSED = 1
SHOW_EVERY_S = 20


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "run",
        help="run a scenario",
        description="Run a SCENARIO.toml and judge it by its goals; exit code 1 when one is missed.",
    )
    parser.add_argument("scenario", type=Path, nargs="?", metavar="SCENARIO.toml")
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write one self-contained page")
    parser.add_argument("--baselines", action="store_true", help="run without control and with static caps as well")
    parser.add_argument("--speed", type=_speed, default=None, metavar="max|RATIO", help="simulated seconds a second")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="write the state at --at and stop")
    parser.add_argument("--at", type=int, default=0, metavar="S", help="second of the checkpoint")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="go on from a checkpoint of one's own")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the scenario, print its figures and write the page."""
    from flyball_twin.html_report import render_report  # noqa: PLC0415  (numpy: only when it runs)
    from flyball_twin.scenario_run import figures  # noqa: PLC0415

    current = _begin(arguments)
    stop = current.scenario.seconds
    if arguments.checkpoint is not None:
        if not current.second < arguments.at < stop:
            raise ConfigError(f"--at {arguments.at}: expected a second between {current.second} and {stop}")
        stop = arguments.at
    _advance(current, stop, arguments.speed)
    if arguments.checkpoint is not None:
        current.save(arguments.checkpoint)
        return 0
    results = [figures(current)]
    if arguments.baselines:
        results += _baselines(arguments)
    if arguments.report is not None:
        _write(arguments.report, render_report(_title(arguments), current, results))
    shown: dict[str, Any] = dict(results[0])
    if arguments.baselines:
        shown["baselines"] = results[1:]
    print_result(shown, as_json=arguments.json)
    return EXIT_MISSED if results[0]["goals_missed"] else 0


def _begin(arguments: argparse.Namespace) -> "ScenarioRun":
    from flyball_twin.scenario import load_scenario  # noqa: PLC0415
    from flyball_twin.scenario_run import ScenarioRun, resume  # noqa: PLC0415
    from flyball_twin.workloads import TraceError  # noqa: PLC0415

    if (arguments.scenario is None) == (arguments.resume is None):
        raise ConfigError("twin run: expected either SCENARIO.toml or --resume FILE")
    if arguments.resume is not None:
        return resume(arguments.resume)
    try:
        return ScenarioRun(load_scenario(arguments.scenario), arguments.scenario.parent)
    except TraceError as error:
        raise ConfigError(str(error)) from None


def _baselines(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from flyball_twin.scenario import load_scenario  # noqa: PLC0415
    from flyball_twin.scenario_run import ScenarioRun, figures  # noqa: PLC0415

    if arguments.scenario is None:
        raise ConfigError("--baselines: expected SCENARIO.toml beside it")
    scenario = load_scenario(arguments.scenario)
    results = []
    for control in ("none", "static"):
        other = ScenarioRun(replace(scenario, control=control), arguments.scenario.parent)
        _advance(other, scenario.seconds, None)
        results.append(figures(other))
    return results


def _advance(current: "ScenarioRun", stop: int, speed: float | None) -> None:
    show = ProgressLine("simulated seconds")
    started_s, first = time.monotonic(), current.second
    while current.second < stop:
        current.advance()
        if speed is not None:
            ahead_s = (current.second - first) / speed - (time.monotonic() - started_s)
            if ahead_s > 0.0:
                time.sleep(ahead_s)
        if current.second % SHOW_EVERY_S == 0 or current.second == stop:
            show(current.second - first, stop - first)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _title(arguments: argparse.Namespace) -> str:
    source: Path = arguments.scenario or arguments.resume
    return f"flyball twin: {source.stem}"


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    value = float(text)
    if value <= 0.0:
        raise argparse.ArgumentTypeError(f"{text}: expected max or a ratio above 0")
    return value
