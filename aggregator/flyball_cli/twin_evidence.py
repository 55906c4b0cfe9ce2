"""`flyball twin evidence`: run every experiment and write the page of results."""

import argparse
import json
import os
from pathlib import Path

from flyball_cli.twin_output import ProgressLine
from flyball_wire.errors import ConfigError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "evidence",
        help="run every experiment and write the page of results",
        description="Run every experiment of docs/evidence.md and write it from their figures.",
    )
    parser.add_argument("--out", type=Path, default=Path("docs/evidence.md"), metavar="FILE.md")
    parser.add_argument("--small", action="store_true", help="the few experiments of a quick check")
    parser.add_argument("--jobs", type=int, choices=range(1, 257), default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--json", action="store_true", help="print every figure as one JSON object a line")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the experiments, write the page, and print the figures if asked."""
    from flyball_twin.evidence import gather, render  # noqa: PLC0415  (numpy: only when it runs)

    found = gather(is_small=arguments.small, jobs=arguments.jobs, progress=ProgressLine("experiments"))
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(render(found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{arguments.out}: {error.strerror}") from None
    if arguments.json:
        for table, figures in found:
            print(json.dumps({"table": table, **figures}))
    return 0
