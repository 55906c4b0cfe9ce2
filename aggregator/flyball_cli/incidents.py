"""`flyball incidents`: faults of all hosts, newest first."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from flyball_cli.api_client import add_url, client_of
from flyball_cli.table import render_table


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("incidents", help="faults of all hosts, and what is done about them")
    parser.add_argument("host", nargs="?", help="of this host only")
    parser.add_argument("--all", action="store_true", help="closed ones too")
    parser.add_argument("--limit", type=int, default=100, help="show this many (%(default)s)")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print incidents.

    Raises:
        ApiError: no aggregator answers.
    """
    is_open = None if arguments.all else "true"
    answer = client_of(arguments).get("/v1/incidents", host=arguments.host, limit=arguments.limit, open=is_open)
    print(json.dumps(answer, indent=2) if arguments.json else render(answer["incidents"]))
    return 0


def render(incidents: list[dict[str, Any]]) -> str:
    """Return incidents as a table."""
    if not incidents:
        return "no incident"
    lines = [
        (
            incident["name"],
            datetime.fromtimestamp(incident["opened_s"], UTC).isoformat(timespec="seconds"),
            incident["entity"],
            ",".join(incident["codes"]),
            incident["action"],
            incident["state"] if incident["is_open"] else "closed",
            "drill" if incident["is_injected"] else "",
        )
        for incident in incidents
    ]
    return render_table(("incident<", "since<", "entity<", "codes<", "asks for<", "state<", "<"), lines)
