"""`flyball status`: the site in a few lines."""

import argparse
import json
from typing import Any

from flyball_cli.api_client import add_url, client_of
from flyball_cli.table import show_watts


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("status", help="draw, limit and headroom of the site")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the status; returns 0, or 1 while nothing was decided yet.

    Raises:
        ApiError: no aggregator answers.
    """
    status = client_of(arguments).get("/v1/status")
    print(json.dumps(status, indent=2) if arguments.json else render(status))
    return 0 if status.get("limit_watts") is not None else 1


def render(status: dict[str, Any]) -> str:
    """Return the status as text."""
    if status.get("limit_watts") is None:
        return f"site {status['site']}: no decision was made yet"
    simulated = " (simulated GPUs)" if status["is_simulated"] else ""
    broker = "connected" if status["broker_connected"] else f"away: {status['broker_error']}"
    full = f"{status['limiting_row']} is full" if status["limiting_row"] else "every host has what it wants"
    lines = [
        f"site       {status['site']}{simulated}",
        f"draw       {show_watts(status['draw_watts'])} by its {status['draw_source']}",
        f"limit      {show_watts(status['limit_watts'])}",
        f"headroom   {show_watts(status['headroom_watts'])}",
        f"committed  {show_watts(status['committed_watts'])}",
        f"unmanaged  {show_watts(status['unmanaged_watts'])} of that, reserve {show_watts(status['reserve_watts'])}",
        f"hosts      {status['hosts_online']} of {status['hosts']} heard, {status['hosts_enforcing']} led",
        f"limiting   {full}",
        f"broker     {broker}; epoch {status['epoch']}, {status['leases_sent']} leases sent",
    ]
    lines += [f"not led    {host}: {why}" for host, why in list(status["unled"].items())[:20]]
    return "\n".join(lines)
