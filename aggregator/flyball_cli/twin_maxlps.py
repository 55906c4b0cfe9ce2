"""`flyball twin maxlps`: how much more work a fixed budget does with more boards than it was made for."""

import argparse
import os
from pathlib import Path

from flyball_cli.twin_output import ProgressLine, add_json, print_result
from flyball_wire.errors import ConfigError

POLICY_NAMES = (
    "ours", "static", "static80", "maxp", "polca", "polca_fast", "three_band", "random_release", "waterfill", "oracle",
)  # fmt: skip
MIX_NAMES = ("chat", "code", "long_prompt", "reasoning")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the experiment."""
    parser = subparsers.add_parser(
        "maxlps",
        help="goodput of a fixed budget with more boards",
        description="Find the largest load at the service level, over what the uncapped fleet itself reaches.",
    )
    parser.add_argument("--accounting", choices=("gpu", "nameplate"), default="gpu", help="what the budget counts")
    parser.add_argument("--more", type=_more, default=1.4, metavar="RATIO", help="boards over the budget's own count")
    parser.add_argument("--policy", choices=POLICY_NAMES, default="ours")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="request list or rate series (default: a weekday)")
    parser.add_argument("--plant", choices=("h100", "a100", "b200"), default="h100")
    parser.add_argument(
        "--mix", choices=MIX_NAMES, default="chat", help="tokens of a request, unless the trace has them"
    )
    parser.add_argument("--level", choices=("tight", "loose"), default="tight", help="service level")
    parser.add_argument("--seeds", type=_count, default=3, metavar="N", help="number of seeds, from 0 (default 3)")
    parser.add_argument("--seconds", type=_seconds, default=3600, metavar="S", help="length of the busiest stretch")
    parser.add_argument("--jobs", type=_count, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument(
        "--day", action="store_true", help="instead: latency over the whole day at equal load per board"
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment and print its figures."""
    from flyball_twin.load_shape import read_trace, sample_trace  # noqa: PLC0415  (numpy: only when it runs)
    from flyball_twin.maxlps_study import LEVELS, Question, answer, answer_day  # noqa: PLC0415
    from flyball_twin.serving_plants import SERVING_PLANTS, TOKEN_MIXES  # noqa: PLC0415
    from flyball_twin.workloads import TraceError  # noqa: PLC0415

    question = Question(
        accounting=arguments.accounting,
        more=arguments.more,
        policy=arguments.policy,
        plant=SERVING_PLANTS[arguments.plant],
        mix=TOKEN_MIXES[arguments.mix],
        level=LEVELS[arguments.level],
        seeds=tuple(range(arguments.seeds)),
        seconds=arguments.seconds,
    )
    try:
        trace = read_trace(arguments.trace) if arguments.trace else sample_trace()
        if arguments.day:
            result = answer_day(question, trace)
        else:
            result = answer(question, trace, arguments.jobs, ProgressLine("seeds"))
    except TraceError as error:
        raise ConfigError(str(error)) from None
    print_result(result, as_json=arguments.json)
    return 0


def _more(text: str) -> float:
    value = float(text)
    if not 1.0 <= value <= 4.0:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 to 4")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected at least 1")
    return value


def _seconds(text: str) -> int:
    value = int(text)
    if not 300 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: expected 300 to 86400")
    return value
