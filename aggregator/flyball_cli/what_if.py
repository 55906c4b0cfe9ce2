"""`flyball what-if`: what another limit, a lost feed, more load or new work would do; changes nothing."""

import argparse
import json
from typing import Any

from flyball_cli.api_client import add_url, client_of
from flyball_cli.table import render_table, show_watts
from flyball_wire.errors import ConfigError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `what-if`."""
    parser = subparsers.add_parser("what-if", help="what a limit, a lost feed, a load or new work would do")
    parser.add_argument("--limit", action="append", default=[], metavar="ROW=WATTS", help="another limit of a row")
    parser.add_argument("--lose", metavar="FEED", help="the feed is out, for as long as it takes")
    parser.add_argument("--load", action="append", default=[], metavar="ELEMENT=WATTS", help="more load at an element")
    parser.add_argument("--gpus", type=int, default=0, help="new work on this many GPUs of one host")
    parser.add_argument("--floor", type=float, default=0.0, help="watts promised to each of its GPUs")
    parser.add_argument("--expected", type=float, default=0.0, help="watts each of its GPUs would draw")
    parser.add_argument("--host", action="append", default=[], help="where it may run (default: anywhere)")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the answer; 1 where it does not fit.

    Raises:
        ConfigError: nothing is supposed, or a value is no number.
        ApiError: no aggregator answers, or a name is not known.
    """
    if not (arguments.limit or arguments.lose or arguments.load or arguments.gpus):
        raise ConfigError("what-if: expected at least one of --limit, --lose, --load, --gpus")
    body = {
        "limits_watts": watts_by_name("--limit", arguments.limit),
        "lost": arguments.lose,
        "loads_watts": watts_by_name("--load", arguments.load),
        "gpus": arguments.gpus,
        "floor_watts": arguments.floor,
        "expected_watts": arguments.expected,
        "hosts": arguments.host,
    }
    answer = client_of(arguments).post("/v1/what-if", body)
    print(json.dumps(answer, indent=2) if arguments.json else render(answer))
    return 0 if answer["fits"] else 1


def watts_by_name(flag: str, texts: list[str]) -> dict[str, float]:
    """Return the named watts of a flag.

    Raises:
        ConfigError: no `NAME=WATTS`.
    """
    named = {}
    for text in texts:
        name, _, watts = text.rpartition("=")
        try:
            named[name] = float(watts)
        except ValueError:
            raise ConfigError(f"{flag} {text!r}: expected NAME=WATTS") from None
        if not name:
            raise ConfigError(f"{flag} {text!r}: expected NAME=WATTS")
    return named


def render(answer: dict[str, Any]) -> str:
    """Return the verdict, the row that decides it, and who would be lowered."""
    verdict = "fits" if answer["fits"] else "does not fit"
    place = f" on {answer['host']}" if answer.get("host") else ""
    lines = [f"{verdict}{place}; tightest row: {answer['limiting_row']}"]
    if answer.get("floors_kept") is False:
        lines.append("promised floors are not all kept")
    lowered = [
        (item["host"], show_watts(item["from_watts"]), show_watts(item["to_watts"]), item["limiting_row"] or "")
        for item in answer["lowered"]
    ]
    if lowered:
        lines.append(render_table(("lowered", "from", "to", "by row<"), lowered))
    return "\n".join(lines)
