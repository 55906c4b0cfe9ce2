"""`flyball rows`: every limit of the power network and what stands on it."""

import argparse
import json
from typing import Any

from flyball_cli.api_client import add_url, client_of
from flyball_cli.table import render_table, show_watts


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("rows", help="every limit: feeds, racks, loss of a feed, groups")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the rows.

    Raises:
        ApiError: no aggregator answers.
    """
    answer = client_of(arguments).get("/v1/rows")
    print(json.dumps(answer, indent=2) if arguments.json else render(answer["rows"]))
    return 0


def render(rows: list[dict[str, Any]]) -> str:
    """Return all rows as a table."""
    lines = [
        (
            row["row"],
            str(row["hosts"]),
            show_watts(row["draw_watts"]),
            show_watts(row["committed_watts"]),
            show_watts(row["limit_watts"]),
            show_watts(row["slack_watts"]),
            _note(row),
        )
        for row in rows
    ]
    return render_table(("row", "hosts", "draw", "committed", "limit", "slack", "note<"), lines)


def _note(row: dict[str, Any]) -> str:
    notes = [
        "full" if row["is_binding"] else "",
        "in descent" if row["is_in_descent"] else "",
        "minima do not fit" if row["is_short"] else "",
        f"limit by {row['limit_source']}" if row["limit_source"] != "rating" else "",
    ]
    return ", ".join(note for note in notes if note)
