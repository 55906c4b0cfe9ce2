"""`flyball hosts`: every host, or one with its GPUs."""

import argparse
import json
from typing import Any

from flyball_cli.api_client import add_url, client_of
from flyball_cli.table import render_table, show_ratio, show_watts


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser("hosts", help="every host: what it draws, may draw and why")
    parser.add_argument("host", nargs="?", help="show this one with its GPUs")
    add_url(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print hosts, or one host.

    Raises:
        ApiError: no aggregator answers, or there is no such host.
    """
    client = client_of(arguments)
    answer = client.get(f"/v1/hosts/{arguments.host}") if arguments.host else client.get("/v1/hosts")
    if arguments.json:
        print(json.dumps(answer, indent=2))
    else:
        print(render_host(answer) if arguments.host else render_hosts(answer["hosts"]))
    return 0


def render_hosts(hosts: list[dict[str, Any]]) -> str:
    """Return all hosts as a table."""
    lines = [
        (
            host["host"],
            "online" if host["is_online"] else "silent",
            "led" if host["is_led"] else "not led",
            str(host["gpus_total"]),
            show_watts(host["power_watts"]),
            show_watts(host["lease_watts"]),
            show_watts(host["committed_watts"]),
            host["why"],
        )
        for host in hosts
    ]
    return render_table(("host", "state<", "lead<", "gpus", "power", "lease", "committed", "why<"), lines)


def render_host(host: dict[str, Any]) -> str:
    """Return one host with its GPUs."""
    lines = [
        (
            str(gpu["gpu"]),
            show_watts(gpu["power_watts"]),
            show_watts(gpu["cap_watts"]),
            show_watts(gpu["maximum_watts"]),
            show_ratio(gpu["throttled_ratio"]),
            gpu["health"],
        )
        for gpu in host["gpus"]
    ]
    table = render_table(("gpu", "power", "cap", "maximum", "held back", "health<"), lines)
    return f"{host['host']}: {host['why']}\n{table}"
