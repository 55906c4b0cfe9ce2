"""`flyball twin flex`: a grid event on the published ensemble of six jobs and 256 A100."""

import argparse

from flyball_cli.twin_output import add_json, print_result

CASE_NAMES = ("single", "two_step", "back_to_back", "feed_loss", "telemetry_loss")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the experiment."""
    parser = subparsers.add_parser(
        "flex",
        help="a grid event: response, compliance, performance, rebound",
        description="Shed a share of the power of six measured jobs for a while, and say how well.",
    )
    parser.add_argument("--shed", type=_share, default=0.25, metavar="SHARE", help="of the baseline (default 0.25)")
    parser.add_argument("--within", type=_positive, default=30.0, metavar="S", help="deadline (default 30)")
    parser.add_argument("--hold", type=_positive, default=10_800.0, metavar="S", help="length (default 10800)")
    parser.add_argument("--case", choices=CASE_NAMES, default="single")
    parser.add_argument("--delay", type=_positive, default=1.0, metavar="S", help="until a cap acts (default 1)")
    parser.add_argument("--release", type=_positive, default=300.0, metavar="S", help="length of the release")
    parser.add_argument("--seeds", type=int, choices=range(1, 101), default=3, metavar="N", help="number of seeds")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment and print its figures."""
    from flyball_twin.flex_study import CASES, FlexQuestion, answer_flex  # noqa: PLC0415  (numpy: only when it runs)

    question = FlexQuestion(
        shed=arguments.shed,
        within_s=arguments.within,
        hold_s=int(arguments.hold),
        case=CASES[CASE_NAMES.index(arguments.case)],
        delay_s=int(arguments.delay),
        release_s=arguments.release,
        seeds=tuple(range(arguments.seeds)),
    )
    print_result(answer_flex(question), as_json=arguments.json)
    return 0


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 0.9:
        raise argparse.ArgumentTypeError(f"{text}: expected a share between 0 and 0.9")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return value
