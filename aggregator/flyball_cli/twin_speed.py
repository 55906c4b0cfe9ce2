"""`flyball twin speed`: how much faster than time the twin runs on one core."""

import argparse

from flyball_cli.twin_output import add_json, print_result


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("speed", help="how much faster than time it runs", description=__doc__)
    parser.add_argument("--hosts", type=_count, default=1000, metavar="N")
    parser.add_argument("--gpus", type=_count, default=8, metavar="N", help="of a host")
    parser.add_argument("--seconds", type=_count, default=100, metavar="S", help="simulated")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    from flyball_twin.speed import measure  # noqa: PLC0415  (numpy: only when it runs)

    print_result(measure(arguments.hosts, arguments.gpus, arguments.seconds), as_json=arguments.json)
    return 0


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 20_000:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 to 20000")
    return value
