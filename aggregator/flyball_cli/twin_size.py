"""`flyball twin size`: how many boards a site limit carries."""

import argparse

from flyball_cli.twin_output import add_json, print_result

EXIT_NONE = 1


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "size",
        help="how many boards a limit carries",
        description="Find the count of boards with the most goodput under a limit, at a risk of passing it.",
    )
    parser.add_argument("--limit-megawatts", type=_positive, required=True, metavar="MW")
    parser.add_argument("--plant", choices=("h100", "a100", "b200"), default="h100")
    parser.add_argument("--mix", choices=("chat", "code", "long_prompt", "reasoning"), default="chat")
    parser.add_argument("--risk", type=_positive, default=1e-4, metavar="P", help="of a second above it (default 1e-4)")
    parser.add_argument("--policy", choices=("ours", "static", "waterfill"), default="ours")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the answer and the table it was chosen from."""
    from flyball_twin.load_shape import sample_trace  # noqa: PLC0415  (numpy: only when it runs)
    from flyball_twin.serving_plants import SERVING_PLANTS, TOKEN_MIXES  # noqa: PLC0415
    from flyball_twin.sizing import SizingQuestion, picture, size  # noqa: PLC0415

    question = SizingQuestion(
        arguments.limit_megawatts * 1e6,
        SERVING_PLANTS[arguments.plant],
        TOKEN_MIXES[arguments.mix],
        arguments.risk,
        arguments.policy,
    )
    result = size(question, sample_trace())
    if arguments.json:
        print_result(result, as_json=True)
    else:
        print_result({name: value for name, value in result.items() if name != "table"}, as_json=False)
        print(picture(result))
    return 0 if result["best"] is not None else EXIT_NONE


def _positive(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 1e5:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return value
